"""How long a lane is kept for its holder: as long as would have cost least, never longer than patience."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, strategies as st

from wspool.core.lending.keeping import LEAST, PER_BYTE, SHARE, Keeping

seconds = st.floats(0, 100, allow_nan=False)


def cost(away: list[float], kept: float, full_send: float) -> float:
    """Seconds of a lane that so many holders would have cost."""
    return sum(after if after <= kept else kept + full_send for after in away)


def known(away: list[float], *, patience: float = 1000.0, turn: float = 4.0, history: int = 0) -> Keeping:
    """One that has seen some turns and returns."""
    keeping = Keeping(patience)
    keeping.took(turn, history)
    for after in away:
        keeping.came_back(after)
    return keeping


def test_what_nothing_is_known_of_is_kept_for_as_long_as_the_policy_says() -> None:
    """No turn has ended: nobody knows what one costs."""
    assert 7.0 == Keeping(7.0).patience()


def test_a_wait_is_at_first_as_long_as_a_full_send_takes() -> None:
    """It costs a share of a turn, and more the longer the history is; never nothing, never over patience."""
    assert SHARE * 4.0 == known([]).patience()
    assert SHARE * 4.0 + PER_BYTE * 10**6 == known([], history=10**6).patience()
    assert LEAST == known([], turn=0.0).patience()
    assert 0.1 == known([], patience=0.1).patience()


@pytest.mark.parametrize(
    ("away", "least", "most"),
    [
        pytest.param([0.05] * 32, 1.0, 1.0, id="short"),
        pytest.param([1.9] * 32, 0.0, 0.0, id="long"),
        pytest.param([0.05] * 20 + [60.0] * 12, 0.05, 0.1, id="most are short"),
        pytest.param([0.9] * 3 + [60.0] * 29, 0.0, 0.0, id="few are short"),
        pytest.param([1.9] * 32 + [0.05] * 32, 1.0, 1.0, id="short now"),
    ],
)
def test_what_holders_did_lately_is_what_is_expected(away: list[float], least: float, most: float) -> None:
    """Turns of four seconds: a full send costs one. Tools that take longer are not waited for.

    Where nearly all come back soon, one that does not is waited for as if nothing were known of it.
    """
    assert least <= known(away).patience() <= most


@given(st.lists(seconds, min_size=4, max_size=32), seconds)
def test_no_other_wait_would_have_cost_half(away: list[float], other: float) -> None:
    """With the returns that are remembered."""
    keeping = known(away)
    kept = keeping.patience()

    best = min(cost(away, each, keeping.full_send) for each in [0.0, other, *away])
    assert cost(away, kept, keeping.full_send) <= 2 * best + 1e-6


@given(st.lists(st.tuples(seconds, st.integers(0, 10**8))), st.lists(seconds), seconds)
def test_a_wait_is_finite_and_bounded(turns: list[tuple[float, int]], away: list[float], most: float) -> None:
    """Whatever happens."""
    keeping = Keeping(most)
    for took, history in turns:
        keeping.took(took, history)
    for after in away:
        keeping.came_back(after)

    assert 0.0 <= keeping.patience() <= most
    assert math.isfinite(keeping.full_send)
