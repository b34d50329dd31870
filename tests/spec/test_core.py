"""The specification machine on the pure core."""

from __future__ import annotations

import inspect

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from tests.spec.machine import PoolMachine, fired, visited
from wspool.core.states import CONNECTION_TABLE, LANE_TABLE

TestPoolCore = PoolMachine.TestCase

RULES = {
    name
    for name, member in inspect.getmembers(PoolMachine)
    if getattr(member, "hypothesis_stateful_rule", None) is not None
}


ROWS: set[tuple[object, object]] = {(state, what) for state, row in CONNECTION_TABLE.items() for what in row}
ROWS |= {(state, what) for state, row in LANE_TABLE.items() for what in row}


def test_every_rule_fires_and_every_row_is_visited() -> None:
    """A specification that never reaches a state says nothing about it."""
    visited.clear()
    fired.clear()
    for _ in range(20):  # the rarest row comes up about once in a few hundred runs
        run_state_machine_as_test(PoolMachine, settings=settings(max_examples=200, database=None))
        if visited == ROWS and fired == RULES:
            break

    assert RULES == fired
    assert ROWS == visited
