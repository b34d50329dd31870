"""The specification machine on the pure core."""

from __future__ import annotations

import inspect
from functools import partial

from hypothesis import seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.spec.machine import Driver, PoolMachine, fired, visited
from wspool.core.commands import (
    CloseReason,
    ConnectionId,
    Degraded,
    Dial,
    HangUp,
    LeaseId,
    Recovered,
    WaiterId,
)
from wspool.core.failures import DialFailure, FailureKind
from wspool.core.lending.line import MAX_SKIPS
from wspool.core.lending.pool import PoolCore
from wspool.core.policy import OPENAI, PoolPolicy
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
    # Many short searches under seeds of their own: in a long one worlds are variations of each other: what
    # its first ones lack is met in none. And what a seed sees depends on the modules that are loaded.
    for number in range(200):
        searched = seed(number)(PoolMachine)
        run_state_machine_as_test(searched, settings=settings(max_examples=20, database=None))
        if visited == ROWS and fired == RULES:
            break

    assert RULES == fired
    assert ROWS == visited


def test_a_replacement_on_its_way_does_not_fill_the_pool_for_what_it_replaces() -> None:
    """A full pool lets nothing go for a dial that runs already, nor while no dial can succeed."""
    core = PoolCore(PoolPolicy(max_size=2, min_idle=1, ping_interval=None), OPENAI)
    one, two = ConnectionId(1), ConnectionId(2)
    failure = DialFailure(kind=FailureKind.TRANSIENT, message="no", phase="tcp")
    core.start(0.0)
    core.connected(one, 0.0, 0.5)

    assert [Dial(two)] == core.drain(1.0)
    assert [] == core.tick(2.0)
    assert [Degraded(failure)] == core.dial_failed(two, 3.0, failure, 0.5)
    assert [Dial(ConnectionId(3))] == core.tick(4.0)
    assert [Recovered(2.0), HangUp(one, CloseReason.LIFETIME, True)] == core.connected(
        ConnectionId(3), 5.0, 0.5
    )


def test_what_leaves_a_full_pool_makes_room_as_soon_as_its_replacement_may_be_dialled() -> None:
    """Connections that end before they were of use put dials off; somebody looks again when that is over."""
    core = PoolCore(PoolPolicy(max_size=1, min_idle=1, ping_interval=None), OPENAI)
    one, two, three = (ConnectionId(number) for number in (1, 2, 3))
    core.start(0.0)
    core.connected(one, 0.0, 0.5)
    assert [HangUp(one, CloseReason.LIFETIME, True), Dial(two)] == core.retire(one, 0.0)
    core.connected(two, 0.0, 0.5)
    assert [] == core.retire(two, 0.0)

    due = core.next_deadline()
    assert 0.0 < due < 60.0
    assert [HangUp(two, CloseReason.LIFETIME, True), Dial(three)] == core.tick(due)


def test_a_question_changes_nothing() -> None:
    """The same inputs lead to the same commands, however often somebody asks for the deadline."""
    answers = []
    for asked in (False, True):
        core = PoolCore(PoolPolicy(max_size=2, min_idle=0, max_idle=30.0, ping_interval=None), OPENAI)
        inputs = [
            partial(core.acquire, WaiterId(1), 0.0),
            partial(core.connected, ConnectionId(1), 0.0, 0.2),
            partial(core.release, LeaseId(1), 0.0),
            partial(core.acquire, WaiterId(2), 1.0),  # idle no more: its alarm is pointless for now
            partial(core.acquire, WaiterId(3), 1.5),
            partial(core.connected, ConnectionId(2), 2.0, 0.9),
            partial(core.release, LeaseId(3), 2.0),
            partial(core.release, LeaseId(2), 5.0),
            partial(core.tick, 60.0),
        ]
        commands = []
        for put in inputs:
            commands.append(put())
            if asked:
                core.next_deadline()
        answers.append(commands)

    assert answers[0] == answers[1]
    assert 2 == len(answers[0][-1])


class Prompt(Driver):
    """Nothing is driven, and the timekeeper ticks in the very step that makes something due."""

    prompt = True


class PromptPoolMachine(PoolMachine):
    """The same core under a timekeeper that is never late."""

    def make_driver(self) -> Driver:
        return Prompt()


def test_who_was_passed_over_too_often_is_served_by_the_tick_that_follows_the_turn() -> None:
    """The holder that passed over it is at work by then: no lane of it will do in a moment."""
    pool = PromptPoolMachine()
    policy = PoolPolicy(max_size=2, min_idle=0, ping_interval=None, patience=1000.0)
    pool.open(policy, OPENAI, warm_up=False, turns=1, parked=1)
    old = next(iter(pool.world.leases))
    pool.wait_until(200.0)
    pool.acquire()
    pool.dial_succeeds(0, 0.5)
    young = max(pool.world.leases)
    pool.begin_on(young, False)
    pool.end_turn(young)
    pool.park_on(young)

    pool.ask(1.0)  # only the young one has as much life left
    for passed_over in range(1, MAX_SKIPS + 1):
        pool.begin_on(young, False)
        if passed_over < MAX_SKIPS:
            assert old in pool.world.leases
            pool.end_turn(young)
            pool.park_on(young)

    assert [young] == [*pool.world.leases]
    assert 1 == len(pool.world.dials)
    assert "tick" == pool.trace[-1][0]
    assert HangUp(ConnectionId(1), CloseReason.UNSUITABLE, True) in pool.trace[-1][-1]
