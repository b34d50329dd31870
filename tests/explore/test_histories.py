"""Leases are linearizable, says a checker of somebody else's; and it would say if they were not.

Ten thousand: `python -m tests.explore.histories`.
"""

from __future__ import annotations

import pytest

pytest.importorskip("detangle")

from detangle.lin import History

from tests.explore.histories import history, is_linearizable


def test_leases_are_linearizable() -> None:
    """Under 200 drawn schedules, with cancellations; all that can happen to a lease has happened."""
    seen: set[str] = set()
    for seed in range(200):
        told, lanes = history(seed)
        seen |= {f"{operation.f} {operation.status}" for operation in told.operations}

        assert is_linearizable(told.operations, lanes), f"seed {seed}: {told.operations}"

    assert {"acquire ok", "acquire fail", "release ok", "none free ok"} <= seen


def test_two_holders_are_seen() -> None:
    """One lane, leased twice before it came back."""
    told = History()
    for user in range(2):
        told.ok(told.invoke(user, "acquire"), (1, 0))

    assert not is_linearizable(told.operations, 2)


def test_one_lane_too_many_is_seen() -> None:
    """Two lanes of a pool that has one."""
    told = History()
    for user in range(2):
        told.ok(told.invoke(user, "acquire"), (1, user))

    assert not is_linearizable(told.operations, 1)
    assert is_linearizable(told.operations, 2)


def test_a_refusal_while_a_lane_is_free_is_seen() -> None:
    """Nobody holds it, nobody is about to."""
    told = History()
    told.ok(told.invoke(1, "none free"))

    assert not is_linearizable(told.operations, 1)


def test_what_is_given_back_twice_is_seen() -> None:
    """The second time it is nobody's."""
    told = History()
    told.ok(told.invoke(1, "acquire"), (1, 0))
    for _ in range(2):
        told.ok(told.invoke(1, "release", (1, 0)))

    assert not is_linearizable(told.operations, 1)
