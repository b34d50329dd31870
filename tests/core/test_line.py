"""Who in line is given what, to the letter: bounds that are met exactly, counts, and what is left alone."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given, strategies as st

from tests.core.test_pool import DOWN, LANE, ONE, THREE, TWO, make, of, opened, parked_in_turn, run_to
from wspool.core.commands import (
    CloseReason,
    ConnectionId,
    Dial,
    Grant,
    HangUp,
    Leaking,
    LeaseId,
    Refuse,
    RefuseReason,
    Stolen,
    WaiterId,
)
from wspool.core.lending.line import MAX_SKIPS
from wspool.core.lending.pool import PoolCore


def remembering(response: int = 101, **limits: Any) -> PoolCore:
    """A pool with one connection, whose lane is parked at 1.0 and remembers who is about to call tools."""
    core = make(patience=1000.0, **limits)
    opened(core)
    core.begin(LeaseId(1), 0.0, movable=True)
    core.finished(ONE, LANE, 1.0, response=response)
    return core


# -- going on where one was ----------------------------------------------------------------


def test_how_long_conversations_are_away_is_learned() -> None:
    """From the end of a turn that asks for tools to the one that brings their outputs; of no other ask."""
    core = remembering()
    core.acquire(WaiterId(2), 2.0)
    core.acquire(WaiterId(3), 4.0, prefer=101)

    assert [3.0] == list(core._allocation.keeping._away)


def test_who_goes_on_passes_the_first_in_line_so_often_and_not_once_more() -> None:
    """Though that one may still hope for a dial. The holder is in line behind it then."""
    core = remembering()
    assert [Dial(TWO)] == core.acquire(WaiterId(2), 1.0)
    for number in range(1, MAX_SKIPS + 1):
        waiter, lease = WaiterId(10 + number), LeaseId(number + 1)
        went_on = core.acquire(waiter, 2.0, prefer=101)
        assert [Stolen(LeaseId(number)), Grant(waiter, lease, ONE, LANE)] == went_on
        core.begin(lease, 2.0, movable=True)
        core.finished(ONE, LANE, 2.0, response=101)
    lease = LeaseId(MAX_SKIPS + 1)

    assert [Stolen(lease), Grant(WaiterId(2), LeaseId(lease + 1), ONE, LANE)] == core.acquire(
        WaiterId(99), 3.0, prefer=101
    )
    counted = core.statistics()
    assert (1, MAX_SKIPS + 1, MAX_SKIPS + 2) == (counted.waiting, counted.stolen, counted.granted)
    assert counted.paused is False


def test_what_is_granted_at_once_may_leak_as_well() -> None:
    """To who goes on, and to who would not wait."""
    core = remembering(leak_after=10.0)
    core.acquire(WaiterId(2), 5.0, prefer=101)
    assert [] == of(run_to(core, 14.0), Leaking)
    assert [Leaking(LeaseId(2))] == of(run_to(core, 100.0), Leaking)
    core.release(LeaseId(2), 100.0)
    core.acquire_nowait(WaiterId(3), 100.0)
    assert [Leaking(LeaseId(3))] == of(run_to(core, 200.0), Leaking)


@pytest.mark.parametrize("prefer", [101, None])
def test_on_the_last_moment_nothing_is_granted_any_more(prefer: int | None) -> None:
    """A turn could not start. So it is for who was here before, though nobody has ticked."""
    core = make()
    opened(core)
    core.begin(LeaseId(1), 0.0)
    core.finished(ONE, LANE, 1.0, response=101)
    core.release(LeaseId(1), 2.0)

    commands = core.acquire(WaiterId(2), core.schedule.last_start, prefer=prefer)

    assert [HangUp(ONE, CloseReason.LIFETIME, polite=True), Dial(TWO)] == commands


def test_who_would_not_wait_finds_what_is_too_old() -> None:
    """And is not granted it, but it goes."""
    core = remembering()
    core.release(LeaseId(1), 2.0)

    commands = core.acquire_nowait(WaiterId(2), core.schedule.last_start)

    assert [HangUp(ONE, CloseReason.LIFETIME, polite=True)] == commands


def test_as_much_life_as_is_asked_for_is_enough() -> None:
    """To the second, for who goes on; and not a moment less."""
    for more, found in ((0.0, True), (0.001, False)):
        core = make(patience=1000.0)
        opened(core)
        core.begin(LeaseId(1), 0.0, movable=True)
        core.finished(ONE, LANE, 0.0, response=101)
        left = core._roster.connections[ONE].retire_at + more
        granted = core.acquire(WaiterId(2), 0.0, prefer=101, min_remaining=left)
        assert found == (Grant(WaiterId(2), LeaseId(2), ONE, LANE) in granted)


@given(st.permutations(range(1, 7)))
def test_whoever_comes_back_stands_where_it_stood(order: list[int]) -> None:
    """In whatever order they come back, and whoever came meanwhile: a newcomer overtakes nobody."""
    core = make(max_size=1)
    core.acquire(WaiterId(7), 0.0)
    for number in order:
        core.acquire(WaiterId(number), 0.0)
    core.acquire(WaiterId(8), 0.0)
    served = of(core.connected(ONE, 1.0, jitter=0.5), Grant)
    for lease in range(1, 8):
        served += of(core.release(LeaseId(lease), 1.0), Grant)

    assert [*range(1, 9)] == [grant.waiter for grant in served if isinstance(grant, Grant)]


# -- refusals ------------------------------------------------------------------------------


def test_refusals_are_counted_and_have_the_failure_that_they_are_for() -> None:
    """Who is refused by a pool that closes is not told of an outage."""
    core = make(max_size=1)
    core.acquire(WaiterId(1), 0.0)
    core.dial_failed(ONE, 1.0, DOWN, 0.5)
    assert core.statistics().degraded
    core.acquire(WaiterId(2), 1.0)

    commands = core.close(2.0)
    commands += core.acquire(WaiterId(3), 2.0)

    assert [Refuse(WaiterId(number), RefuseReason.CLOSED, None) for number in (1, 2, 3)] == of(
        commands, Refuse
    )
    assert 3 == core.statistics().refused


# -- what is taken, and what is left alone ----------------------------------------------------


def test_a_dial_is_worth_all_of_its_lanes() -> None:
    """Nobody starves while as many wait as will have one of them; one more does."""
    core = make(max_size=2, lanes=2, patience=0.0)
    opened(core, waiters=2)
    core.acquire(WaiterId(3), 1.0)
    assert [] == core.acquire(WaiterId(4), 1.0)
    assert [] == of(core.park(LeaseId(1), 1.0), Stolen)

    assert [Stolen(LeaseId(1)), Grant(WaiterId(3), LeaseId(3), ONE, LANE)] == core.acquire(WaiterId(5), 1.0)


def test_what_is_taken_in_a_pool_that_became_smaller_goes() -> None:
    """As many as are too many, before anybody is served."""
    core = make(max_size=2, patience=0.0)
    opened(core, waiters=2)
    core.park(LeaseId(1), 1.0)
    core.park(LeaseId(2), 1.0)
    core.resize(1.0, max_size=1)

    assert [
        Stolen(LeaseId(1)),
        HangUp(ONE, CloseReason.RESIZED, polite=True),
        Stolen(LeaseId(2)),
        Grant(WaiterId(3), LeaseId(3), TWO, LANE),
    ] == core.acquire(WaiterId(3), 2.0)


def test_a_paused_pool_makes_no_room() -> None:
    """What is there is kept until somebody may be granted something."""
    core = make(max_size=1)
    opened(core)
    core.release(LeaseId(1), 1.0)
    core.pause(1500.0)

    assert [] == core.acquire(WaiterId(2), 1500.0, min_remaining=core.schedule.retire_from)
    assert [HangUp(ONE, CloseReason.UNSUITABLE, polite=True), Dial(TWO)] == core.resume(1501.0)


def test_room_is_made_as_soon_as_somebody_may_dial() -> None:
    """For who waits, which is sooner than for nobody."""
    core = make(max_size=2, patience=0.0)
    opened(core)
    commands = core.acquire(WaiterId(2), 1490.0)
    for _ in range(4):  # until the wait for nobody is the longer one
        (dial,) = of(commands, Dial)
        assert isinstance(dial, Dial)
        core.dial_failed(dial.connection, 1500.0, DOWN, 0.9)
        commands = run_to(core, core._outage.dial_at(waited_for=True))
    core.dial_failed(ConnectionId(6), 1500.0, DOWN, 0.9)
    core.abandon(WaiterId(2), 1500.0)
    core.resize(1500.0, max_size=1)
    core.park(LeaseId(1), 1500.0)
    assert [] == core.acquire(WaiterId(3), 1500.0, min_remaining=core.schedule.retire_from)
    soon, later = (core._outage.dial_at(waited_for=waited_for) for waited_for in (True, False))
    assert 1500.0 < soon < later

    hung_up = HangUp(ONE, CloseReason.UNSUITABLE, polite=True)
    assert [Stolen(LeaseId(1)), hung_up, Dial(ConnectionId(7))] == core.tick(soon)


def test_where_there_is_room_nothing_goes_for_a_fresh_one() -> None:
    """Not in an outage either, when it has to wait for the next attempt."""
    core = make(max_size=2, max_idle=10_000.0)
    opened(core)
    core.release(LeaseId(1), 1.0)
    run_to(core, 1499.0)
    core.acquire(WaiterId(2), 1499.0, min_remaining=core.schedule.retire_from)
    core.dial_failed(TWO, 1500.0, attrs.evolve(DOWN, retry_after=50.0), 0.0)

    assert [Dial(THREE)] == of(run_to(core, 1600.0), HangUp, Dial)


def test_what_closes_and_what_is_dialled_count_together() -> None:
    """Where connections that close count: one of each is two on their way, and not none."""
    core = make(max_size=3, patience=0.0, count_closing=True)
    parked_in_turn(core, 0.0, 0.0, 0.0)
    need = core.schedule.retire_from
    commands = core.acquire(WaiterId(9), 1500.0, min_remaining=need)
    commands += core.acquire(WaiterId(10), 1500.0, min_remaining=need)
    commands += core.gone(ONE, 1500.0)
    four = ConnectionId(4)
    assert [HangUp(ONE, CloseReason.UNSUITABLE, polite=True), Dial(four)] == of(commands, HangUp, Dial)

    core.hang_up(THREE, CloseReason.DIRTY, 1501.0)
    assert [] == of(run_to(core, 1510.0), Stolen)
    assert core.is_live(LeaseId(2))
