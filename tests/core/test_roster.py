"""The indexes over connections, where no story of the pool is told differently if one is wrong."""

from __future__ import annotations

import math

import pytest

from tests.core.test_pool import ONE, TWO, make
from wspool.core.commands import ConnectionId, LaneId, LeaseId, WaiterId
from wspool.core.lending.lanes import Connection
from wspool.core.lending.roster import Roster
from wspool.core.states import IllegalInputError, LaneInput, LaneState


def opened(roster: Roster, retire_at: float, *, lanes: int = 1) -> Connection:
    """A connection that is open, and free."""
    connection = roster.dial(0.0, 0)
    connection.retire_at = retire_at
    roster.open(connection, lanes)
    roster.note_idle(connection, 0.0)
    return connection


def test_who_is_to_live_for_longer_than_was_thought_is_granted_first() -> None:
    """Of lanes that nobody will miss: the order follows the plan."""
    roster = Roster(count_closing=False)
    first, _ = opened(roster, 100.0), opened(roster, 200.0)
    assert roster.affinity.least(warm=False) == (TWO, LaneId(0), False)
    roster.replan(first, 300.0)

    assert roster.affinity.least(warm=False) == (ONE, LaneId(0), False)


def test_what_is_not_granted_any_more_is_nowhere() -> None:
    """The lanes that were free have ended, though another one is in use."""
    roster = Roster(count_closing=False)
    connection = opened(roster, math.inf, lanes=3)
    roster.take(connection, connection.lanes[0], LaneInput.GRANT)
    roster.retire(connection)
    roster.end_free(connection)

    assert ([], []) == (roster.available, roster.affinity.idle)
    assert (1, 0, 2) == tuple(
        roster.lanes[state] for state in (LaneState.LEASED, LaneState.IDLE, LaneState.DEAD)
    )


def test_all_lanes_of_what_is_about_to_go_are_taken() -> None:
    """It is left by nobody then, with the first of them already."""
    roster = Roster(count_closing=False)
    connection = opened(roster, math.inf, lanes=2)
    roster.retire(connection)
    assert [connection] == list(roster.leaving.values())
    for lane in connection.lanes:
        roster.take(connection, lane, LaneInput.GRANT)
        assert not roster.leaving

    assert not roster.available


def test_each_lease_of_a_connection_is_lost_with_it() -> None:
    """As many as there are."""
    core = make(lanes=3)
    core.acquire(WaiterId(1), 0.0)
    core.connected(ONE, 0.0, 0.5)
    core.acquire(WaiterId(2), 0.0)
    core.lost(ONE, 1.0, 0.5)

    assert core.statistics().lost_leases == 2
    assert not core.is_live(LeaseId(1))
    assert not core.is_live(LeaseId(2))


def test_numbers_of_connections_begin_with_one() -> None:
    """What has another one never was, whoever asks."""
    roster = Roster(count_closing=False)
    opened(roster, math.inf)
    for number in (-1, 0, 2):
        with pytest.raises(IllegalInputError, match=f"connection {number} never was"):
            roster.find(ConnectionId(number))
