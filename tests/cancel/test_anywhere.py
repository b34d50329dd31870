"""A thousand random cancellations at any step; any number by hand with `python -m tests.cancel`."""

from __future__ import annotations

import logging
from collections import Counter

import pytest

from tests.cancel.anywhere import CANCELS, run_world


@pytest.mark.parametrize("seed", range(10))
def test_nothing_comes_of_a_cancellation(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    """After each the conversation goes on without the turn, or with it; no lane is missing."""
    caplog.set_level(logging.CRITICAL, "wspool")
    try:
        outcome = run_world(seed)
    except BaseException as error:
        error.add_note(f"seed {seed}; replay it with: python -m tests.cancel --first {seed} --cancels 1")
        raise

    assert outcome.cancels >= CANCELS


def test_everything_is_cancelled() -> None:
    """Each act is struck, and now and then one whose end had been given already."""
    acts: Counter[str] = Counter()
    counted = 0
    for seed in range(3):
        outcome = run_world(seed)
        acts.update(outcome.acts)
        counted += outcome.counted

    assert 7 == len([name for name, count in acts.items() if count > 10]), acts
    assert counted


def test_a_world_replays_exactly() -> None:
    """The same seed cancels the same acts."""
    assert run_world(0) == run_world(0)
