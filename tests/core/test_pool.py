"""The decisions of the pool, one story each; the specification machine tries all the others."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
import pytest

from wspool.core.commands import (
    CloseReason,
    Command,
    ConnectionId,
    Degraded,
    Dial,
    Expiring,
    Grant,
    HangUp,
    LaneId,
    Leaking,
    LeaseId,
    Ping,
    Recovered,
    Refuse,
    RefuseReason,
    Returned,
    Stolen,
    WaiterId,
    Warm,
)
from wspool.core.failures import DialFailure, FailureKind
from wspool.core.lending.allocation import DEFERRAL
from wspool.core.lending.line import MAX_SKIPS
from wspool.core.lending.pool import PoolCore, Verdict
from wspool.core.outage import BACKOFF_BASE, CUT_SHORT, EARLY, FORGIVEN
from wspool.core.policy import PoolPolicy, Provider
from wspool.core.states import ConnectionState, IllegalInputError, LaneState, Naming

DOWN = DialFailure(kind=FailureKind.TRANSIENT, message="no answer", phase="tcp")
WRONG_KEY = DialFailure(kind=FailureKind.CREDENTIAL, message="401", phase="upgrade", status=401)

ONE, TWO, THREE = ConnectionId(1), ConnectionId(2), ConnectionId(3)
LANE = LaneId(0)


def make(*, lanes: int = 1, lifetime: float = 3600.0, warm_up: bool = False, **limits: Any) -> PoolCore:
    """A core with little room and no spare, unless told otherwise; several lanes are proved already."""
    limits = {"max_size": 2, "min_idle": 0, "ping_interval": None, "lanes": lanes, **limits}
    provider = Provider(name="test", lanes=lanes, max_lifetime=lifetime)
    core = PoolCore(PoolPolicy(**limits), provider, warm_up=warm_up)
    if lanes > 1:
        core.naming = Naming.NAMED
    return core


def opened(core: PoolCore, *, waiters: int = 1, now: float = 0.0) -> None:
    """Put *waiters* in line and let every dial succeed."""
    for number in range(1, waiters + 1):
        for command in core.acquire(WaiterId(number), now):
            if isinstance(command, Dial):
                core.connected(command.connection, now, 0.5)


def of(commands: list[Command], *kinds: type) -> list[Command]:
    """The commands of certain kinds."""
    return [command for command in commands if isinstance(command, kinds)]


def reasons(commands: list[Command]) -> list[CloseReason]:
    """Why connections were hung up, in order."""
    return [command.reason for command in commands if isinstance(command, HangUp)]


def run_to(core: PoolCore, target: float) -> list[Command]:
    """Tick at every deadline up to *target*; return all commands."""
    commands: list[Command] = []
    while (deadline := core.next_deadline()) <= target:
        commands += core.tick(deadline)
    return commands


@pytest.mark.hits("connection: dialing, connect", "lane: idle, grant")
def test_a_waiter_gets_a_dial_and_then_its_lane() -> None:
    """Nothing is dialled ahead when no spare is asked for."""
    core = make()

    assert [] == core.start(0.0)
    assert [Dial(ONE)] == core.acquire(WaiterId(1), 0.0)
    assert [Grant(WaiterId(1), LeaseId(1), ONE, LANE)] == core.connected(ONE, 0.1, 0.5)


def test_what_is_open_is_known_without_a_count_of_everything() -> None:
    """While it is dialled it is not open, and lost it is none any more."""
    core = make()
    core.acquire(WaiterId(1), 0.0)
    assert core.open == 0
    core.connected(ONE, 0.1, 0.5)
    assert core.open == core.statistics().open == 1
    core.lost(ONE, 1.0, 0.5)
    assert core.open == core.statistics().open == 0


def test_an_endpoint_is_away_while_dials_fail_and_nothing_is_open() -> None:
    """What is open says that it is there, at least for those who have it."""
    core = make()
    opened(core)
    core.acquire(WaiterId(2), 0.0)
    core.dial_failed(TWO, 1.0, DOWN, 0.5)
    away = [core.away]
    commands = core.lost(ONE, 2.0, 0.5)
    away.append(core.away)
    (again,) = of(commands + run_to(core, 100.0), Dial)
    assert isinstance(again, Dial)
    away.append(core.away)
    core.connected(again.connection, 100.0, 0.5)

    assert [False, True, True, False] == [*away, core.away]


def test_spare_is_dialled_ahead_within_the_concurrency() -> None:
    """`min_idle` is a promise about free lanes, `dial_concurrency` one about handshakes."""
    core = make(max_size=5, min_idle=3, dial_concurrency=2)

    assert [Dial(ONE), Dial(TWO)] == core.start(0.0)
    assert [Dial(THREE)] == core.connected(ONE, 0.1, 0.5)


def test_a_waiter_takes_whatever_comes_first() -> None:
    """A released lane serves a waiter whose dial is still running, and the dial goes to spare."""
    core = make()
    opened(core)
    assert [Dial(TWO)] == core.acquire(WaiterId(2), 1.0)

    assert [Grant(WaiterId(2), LeaseId(2), ONE, LANE)] == core.release(LeaseId(1), 1.1)
    assert [] == core.connected(TWO, 1.2, 0.1)


@pytest.mark.parametrize(("lanes", "more"), [(1, 7), (3, 1)])
def test_what_is_in_use_may_come_back_sooner_than_a_dial_ends(lanes: int, more: int) -> None:
    """A crowd is worth two dials while connections are open, and all it needs a moment later."""
    core = make(max_size=20, lanes=lanes)
    opened(core, waiters=lanes)

    dials = [command for number in range(11, 21) for command in core.acquire(WaiterId(number), 5.0)]
    assert [Dial(TWO), Dial(THREE)] == dials
    assert 5.0 + DEFERRAL == core.next_deadline()

    core.release(LeaseId(1), 5.01)
    assert more == len(of(core.tick(5.0 + DEFERRAL), Dial)), "nine in line, two dials run"


def test_what_proves_too_old_for_those_who_starve_makes_room_for_a_dial() -> None:
    """A late tick: what was kept for a conversation is found too old only once the pool is full."""
    core = make(max_size=4, lifetime=100.0)
    opened(core)
    core.begin(LeaseId(1), 0.0, movable=True)
    core.finished(ONE, LANE, 1.0, response=101, calls=False)
    too_late = core.schedule.last_start
    for number in range(2, 6):
        core.acquire(WaiterId(number), too_late - 0.9 * DEFERRAL)
    assert 2 == core.statistics().dialing

    commands = core.acquire(WaiterId(6), too_late + 0.9 * DEFERRAL)
    assert [CloseReason.LIFETIME] == reasons(commands)
    assert 2 == len(of(commands, Dial)), "five in line, four may be dialled"


def test_a_dial_survives_the_waiter_who_asked() -> None:
    """Cancelling a waiter cancels nothing but its place in line."""
    core = make()
    core.acquire(WaiterId(1), 0.0)

    assert [] == core.abandon(WaiterId(1), 0.1)
    assert [] == core.connected(ONE, 0.2, 0.5)
    assert 1 == core.statistics().idle


def test_the_same_waiter_is_not_put_in_line_twice() -> None:
    """An id names one wait."""
    core = make()
    core.acquire(WaiterId(1), 0.0)

    with pytest.raises(IllegalInputError, match="in line already"):
        core.acquire(WaiterId(1), 0.0)


def test_nobody_leaves_a_line_he_is_not_in() -> None:
    """Abandoning twice is a bug of whoever drives the core."""
    with pytest.raises(IllegalInputError, match="not in line"):
        make().abandon(WaiterId(1), 0.0)


def test_a_dead_lease_does_nothing() -> None:
    """Starting on it is illegal, releasing it again is harmless."""
    core = make()
    opened(core)
    core.release(LeaseId(1), 1.0)

    assert [] == core.release(LeaseId(1), 2.0)
    with pytest.raises(IllegalInputError, match="lease 1 is dead"):
        core.begin(LeaseId(1), 2.0)


def test_a_connection_that_never_was_is_no_connection() -> None:
    """Reports about it are bugs."""
    core = make()
    reports: list[Callable[[], object]] = [
        lambda: core.connected(ONE, 0.0, 0.5),
        lambda: core.dial_failed(ONE, 0.0, DOWN, 0.5),
        lambda: core.gone(ONE, 0.0),
        *late(core, ONE, 0.0).values(),
    ]
    for report in reports:
        with pytest.raises(IllegalInputError, match="connection 1 never was"):
            report()


def late(core: PoolCore, number: ConnectionId, now: float) -> dict[str, Callable[[], list[Command]]]:
    """All that the tasks of a connection may say before they know that it is over."""
    return {
        "lost": lambda: core.lost(number, now, 0.5),
        "dirty": lambda: core.hang_up(number, CloseReason.DIRTY, now),
        "silent": lambda: core.hang_up(number, CloseReason.LOST, now),
        "retire": lambda: core.retire(number, now),
        "widen": lambda: core.widen(number, now),
        "ponged": lambda: core.ponged(number, now, now),
        "finished": lambda: core.finished(number, LANE, now),
    }


@pytest.mark.parametrize("what", [*late(make(), ONE, 0.0)])
@pytest.mark.parametrize("how", ["closing", "told and gone", "lost"])
def test_a_report_that_comes_late_says_nothing(how: str, what: str) -> None:
    """Of a connection that is closing or gone, with a turn, a warm-up and a ping under way."""
    core = make(max_size=3, min_idle=1, warm_up=True, ping_interval=20.0, lanes=2)
    core.start(0.0)
    core.connected(ONE, 0.0, 0.5)
    core.acquire(WaiterId(1), 0.0)
    core.begin(LeaseId(1), 0.0)
    assert Ping(ONE) in core.tick(20.0)
    if how == "lost":
        core.lost(ONE, 21.0, 0.5)
    else:
        core.hang_up(ONE, CloseReason.DIRTY, 21.0)
    if how == "told and gone":
        core.gone(ONE, 21.0)
    before = core.statistics(), core.states(), core.next_deadline()

    for _ in range(2):
        assert [] == late(core, ONE, 22.0)[what]()
    assert before == (core.statistics(), core.states(), core.next_deadline())


def test_what_must_be_answered_once_is_answered_once() -> None:
    """The end of a dial or of a hang-up: a second answer is a bug, and so is one to no question."""
    core = make(max_size=3)
    opened(core, waiters=2)
    core.hang_up(ONE, CloseReason.DIRTY, 1.0)
    for report in (
        lambda: core.connected(ONE, 1.0, 0.5),
        lambda: core.dial_failed(ONE, 1.0, DOWN, 0.5),
        lambda: core.gone(TWO, 1.0),
    ):
        with pytest.raises(IllegalInputError, match="is illegal while"):
            report()
    core.gone(ONE, 2.0)
    with pytest.raises(IllegalInputError, match="connection 1 is gone"):
        core.gone(ONE, 3.0)
    core.acquire(WaiterId(3), 3.0)
    with pytest.raises(IllegalInputError, match="'lose' is illegal while 'dialing'"):
        core.lost(THREE, 3.0, 0.5)


def test_what_comes_late_about_the_endpoint_counts() -> None:
    """A connection that is over has still shown that lanes have names, and how old it could get."""
    core = PoolCore(PoolPolicy(max_size=2, min_idle=0, lanes=3), Provider(name="test", lanes=3))
    opened(core)
    core.lost(ONE, 6.0, 0.5)

    assert [] == core.widen(ONE, 6.0)
    assert Naming.NAMED is core.naming

    core = make(max_size=2)
    opened(core, waiters=2)
    core.hang_up(TWO, CloseReason.DIRTY, 1.0)
    assert [Expiring(LeaseId(1))] == of(core.hang_up(TWO, CloseReason.LIMIT, 1.0), Expiring)


@pytest.mark.hits("lane: leased, start")
def test_one_turn_at_a_time() -> None:
    """A second start on a lane with a turn is refused before anything changes."""
    core = make()
    opened(core)
    assert (Verdict.GO, []) == core.begin(LeaseId(1), 1.0)
    before = core.statistics()

    with pytest.raises(IllegalInputError, match="'start' is illegal while 'in flight'"):
        core.begin(LeaseId(1), 1.0)
    assert before == core.statistics()


@pytest.mark.hits("dirty: given up midway")
def test_a_turn_given_up_costs_the_connection() -> None:
    """By default what was abandoned midway is never used again."""
    core = make()
    opened(core)
    core.begin(LeaseId(1), 1.0)

    assert [HangUp(ONE, CloseReason.DIRTY, polite=False)] == core.release(LeaseId(1), 2.0)
    assert [] == core.gone(ONE, 2.1)
    assert 0 == core.statistics().size


@pytest.mark.hits("lane: draining, release", "lane: quarantined, finish")
def test_a_drained_lane_is_used_again() -> None:
    """With `drain` the rest of the turn is awaited, whether its holder stays or leaves."""
    core = make(on_cancel="drain", max_size=1)
    opened(core)
    core.begin(LeaseId(1), 1.0)
    assert [] == core.give_up(LeaseId(1), 2.0)
    assert [] == core.finished(ONE, LANE, 3.0)
    core.begin(LeaseId(1), 4.0)

    assert [] == core.release(LeaseId(1), 5.0)
    assert 1 == core.statistics().draining
    assert [] == core.acquire(WaiterId(2), 5.5)
    assert [Grant(WaiterId(2), LeaseId(2), ONE, LANE)] == core.finished(ONE, LANE, 6.0)


def test_a_request_that_is_cut_in_two_is_no_tail() -> None:
    """Half of it may have left, and nothing can follow that."""
    core = make(on_cancel="drain")
    opened(core)
    core.begin(LeaseId(1), 1.0)

    assert [HangUp(ONE, CloseReason.DIRTY, polite=False)] == core.give_up(LeaseId(1), 2.0, sent=False)


@pytest.mark.hits("lane: draining, end", "dirty: an endless tail")
def test_a_tail_that_does_not_end_costs_the_connection() -> None:
    """Draining has a deadline, and a drained lane has none any more."""
    core = make(on_cancel="drain", drain_timeout=10.0)
    opened(core)
    core.begin(LeaseId(1), 0.0)
    core.give_up(LeaseId(1), 0.0)
    core.finished(ONE, LANE, 1.0)
    core.begin(LeaseId(1), 2.0)
    core.give_up(LeaseId(1), 2.0)

    assert [HangUp(ONE, CloseReason.DIRTY, polite=False)] == run_to(core, 12.0)
    assert not core.is_live(LeaseId(1))


@pytest.mark.hits("lane: in flight, abandon", "lane: draining, finish")
def test_a_tail_that_ends_in_time_costs_nothing() -> None:
    """When it would have been too late nothing happens."""
    core = make(on_cancel="drain", drain_timeout=10.0)
    opened(core)
    core.begin(LeaseId(1), 0.0)
    core.give_up(LeaseId(1), 0.0)
    core.finished(ONE, LANE, 1.0)

    assert 10.0 == core.next_deadline()
    assert [] == core.tick(10.0)
    assert core.is_live(LeaseId(1))


def test_a_tail_does_not_cost_its_siblings() -> None:
    """Where lanes share a connection, it retires and goes with the last of them."""
    core = make(lanes=3, on_cancel="drain", drain_timeout=10.0)
    opened(core, waiters=3)
    for lease in (1, 2, 3):
        core.begin(LeaseId(lease), 0.0)
    core.give_up(LeaseId(1), 0.0)
    core.release(LeaseId(2), 5.0)

    assert [Expiring(LeaseId(1)), Expiring(LeaseId(3))] == of(run_to(core, 10.0), Expiring)
    assert not core.is_live(LeaseId(1))
    assert core.is_live(LeaseId(3))
    core.tick(15.0)
    assert [] == core.finished(ONE, LaneId(0), 15.5), "the end that came too late is news to nobody"
    assert core._outage.doubtful
    core.finished(ONE, LaneId(2), 16.0)
    assert [HangUp(ONE, CloseReason.LIFETIME, polite=True)] == of(core.release(LeaseId(3), 17.0), HangUp)


def test_a_tail_that_is_late_at_the_end_of_its_connection_ends_it() -> None:
    """Nobody has a turn on it: what is leased there could start none."""
    core = make(lanes=2, on_cancel="drain", drain_timeout=5000.0)
    opened(core, waiters=2)
    core.begin(LeaseId(1), 0.0)
    core.give_up(LeaseId(1), 0.0)

    assert [CloseReason.LIFETIME] == [end.reason for end in core.tick(5000.0) if isinstance(end, HangUp)]


def test_the_last_tail_on_an_expired_connection_ends_it() -> None:
    """Past the server's limit a connection with several lanes stays for a turn, not for an idle lease."""
    provider = Provider(name="spec", max_lifetime=100.0, lanes=2)
    core = PoolCore(PoolPolicy(max_size=1, min_idle=0, lanes=2, ping_interval=None), provider)
    one = ConnectionId(1)
    core.acquire(WaiterId(1), 0.0)
    core.acquire(WaiterId(2), 0.0)
    core.connected(one, 0.0, 0.5)
    core.begin(LeaseId(1), 1.0)
    core.widen(one, 1.0)
    core.tick(100.0)
    core.give_up(LeaseId(1), 101.0)

    assert [HangUp(one, CloseReason.LIFETIME, True)] == core.tick(131.0)


def test_several_lanes_share_a_connection() -> None:
    """A provider with more lanes changes a number."""
    core = make(lanes=2)
    opened(core, waiters=2)

    assert {ONE: (ConnectionState.OPEN, (LaneState.LEASED, LaneState.LEASED))} == core.states()


def test_the_policy_and_the_provider_both_limit_the_lanes() -> None:
    """A pool uses no lanes unless it is told to, and no more than there are."""
    for mine, theirs, lanes in ((1, 16, 1), (3, 16, 3), (16, 2, 2)):
        core = PoolCore(PoolPolicy(max_size=1, min_idle=0, lanes=mine), Provider(name="test", lanes=theirs))
        assert (Naming.NONE if lanes == 1 else Naming.TRIAL) is core.naming
        core.naming = Naming.NAMED
        opened(core)

        assert lanes == len(core.states()[ONE][1])


def test_a_connection_has_one_lane_until_an_answer_names_it() -> None:
    """Then it has all of them at once, and so has each later one; those in line come in their order."""
    core = PoolCore(PoolPolicy(max_size=2, min_idle=0, lanes=3), Provider(name="test", lanes=3))
    opened(core)
    for number in (2, 3, 4, 5):
        core.acquire(WaiterId(number), 0.0)
    assert (LaneState.LEASED,) == core.states()[ONE][1]

    granted = of(core.widen(ONE, 1.0), Grant)

    assert [(2, ONE, LaneId(1)), (3, ONE, LaneId(2))] == [
        (command.waiter, command.connection, command.lane)
        for command in granted
        if isinstance(command, Grant)
    ]
    assert [4, 5] == [
        command.waiter for command in core.connected(TWO, 2.0, 0.5) if isinstance(command, Grant)
    ]
    assert [] == core.widen(ONE, 3.0)


def test_lanes_that_are_named_late_come_beside_those_that_are_free() -> None:
    """Whoever was named has given its lane back meanwhile."""
    core = PoolCore(PoolPolicy(max_size=1, min_idle=0, lanes=3), Provider(name="test", lanes=3))
    opened(core)
    core.release(LeaseId(1), 1.0)
    core.widen(ONE, 2.0)
    assert 3 == core.statistics().idle

    granted = [core.acquire(WaiterId(number), 3.0) for number in (2, 3, 4)]
    assert {0, 1, 2} == {each.lane for [each] in granted if isinstance(each, Grant)}


def test_a_connection_that_starts_no_turn_gets_no_lanes() -> None:
    """What was cleared is used no more, proved or not."""
    core = PoolCore(PoolPolicy(max_size=1, min_idle=0, lanes=3), Provider(name="test", lanes=3))
    opened(core)
    core.begin(LeaseId(1), 0.0)
    core.clear(1.0)
    core.widen(ONE, 2.0)

    assert (LaneState.IN_FLIGHT,) == core.states()[ONE][1]


def test_the_lanes_of_a_retiring_connection_are_no_spare() -> None:
    """They are granted until it goes, but its replacement is what counts, and is granted first."""
    core = PoolCore(PoolPolicy(max_size=2, min_idle=1, lanes=2), Provider(name="test", lanes=2))
    core.start(0.0)
    core.connected(ONE, 0.0, 0.9)
    core.acquire(WaiterId(1), 0.0)
    core.begin(LeaseId(1), 0.0)
    core.retire(ONE, 1.0)
    core.widen(ONE, 1.0)
    assert (ConnectionState.RETIRING, (LaneState.IN_FLIGHT, LaneState.IDLE)) == core.states()[ONE]
    core.connected(TWO, 2.0, 0.0)

    assert [TWO] == [
        command.connection for command in core.acquire(WaiterId(2), 3.0) if isinstance(command, Grant)
    ]


def test_an_endpoint_without_lanes_has_one_per_connection() -> None:
    """Whoever waited for a lane needs a dial, and no later answer changes that."""
    core = PoolCore(PoolPolicy(max_size=5, min_idle=0, lanes=3), Provider(name="test", lanes=3))
    opened(core)
    for number in (2, 3, 4):
        core.acquire(WaiterId(number), 0.0)

    assert [Dial(ConnectionId(3)), Dial(ConnectionId(4))] == core.narrow(1.0)
    core.connected(TWO, 2.0, 0.5)
    core.widen(TWO, 3.0)
    assert (LaneState.LEASED,) == core.states()[TWO][1]
    assert Naming.NONE is core.naming


@pytest.mark.hits("refuse: the line is full")
def test_the_line_is_limited() -> None:
    """One more than `max_waiting` is refused at once; whoever needs no line is not."""
    core = make(max_waiting=1)
    assert [Dial(ONE)] == core.acquire(WaiterId(1), 0.0)

    assert [Refuse(WaiterId(2), RefuseReason.TOO_MANY_WAITING)] == core.acquire(WaiterId(2), 0.0)


def test_whoever_is_served_at_once_needs_no_line() -> None:
    """Where nobody may wait: a free lane is granted, one that does not suit is none."""
    core = make(max_waiting=0, min_idle=1)
    core.start(0.0)
    core.connected(ONE, 0.0, 0.5)

    [refused] = of(core.acquire(WaiterId(1), 1500.0, min_remaining=core.schedule.retire_from), Grant, Refuse)
    assert Refuse(WaiterId(1), RefuseReason.TOO_MANY_WAITING) == refused
    assert [Grant(WaiterId(2), LeaseId(1), ONE, LANE)] == of(core.acquire(WaiterId(2), 1500.0), Grant, Refuse)


@pytest.mark.hits("refuse: closed, at once")
def test_nowait_takes_only_what_is_there() -> None:
    """It never dials, never waits, never jumps the line, and knows a closed pool."""
    core = make(max_size=1)
    assert [] == core.acquire_nowait(WaiterId(1), 0.0)
    core.acquire(WaiterId(2), 0.0)
    assert [] == core.acquire_nowait(WaiterId(3), 0.0)
    core.connected(ONE, 0.1, 0.5)
    core.release(LeaseId(1), 0.2)

    assert [Grant(WaiterId(4), LeaseId(2), ONE, LANE)] == core.acquire_nowait(WaiterId(4), 0.3)
    core.park(LeaseId(2), 0.3)
    assert [] == core.acquire_nowait(WaiterId(6), 100.0), "what is parked is not free"
    core.release(LeaseId(2), 100.0)
    core.pause(100.0)
    assert [] == core.acquire_nowait(WaiterId(7), 100.0)
    core.resume(100.0)
    core.close(101.0)
    assert [Refuse(WaiterId(5), RefuseReason.CLOSED)] == core.acquire_nowait(WaiterId(5), 101.0)


def test_there_is_a_lane_where_one_is_free_or_may_be_dialled() -> None:
    """Not where others have them all."""
    core = make(max_size=1)
    seen = [core.has_lane]
    opened(core)
    seen.append(core.has_lane)
    core.release(LeaseId(1), 1.0)
    assert [True, False, True] == [*seen, core.has_lane]


def test_life_that_is_asked_for_is_given() -> None:
    """Of the lanes with enough life the oldest is taken; without asking, the freshest."""
    core = make(max_size=3, min_idle=3, dial_concurrency=1)
    core.start(0.0)
    for number, now in ((ONE, 600.0), (TWO, 1200.0), (THREE, 1300.0)):
        core.connected(number, now, 0.0)  # each dial began when the one before it ended
    need = core.schedule.retire_from - 900.0

    [first] = core.acquire(WaiterId(1), 1400.0, min_remaining=need)
    [second] = core.acquire(WaiterId(2), 1400.0)[:1]

    assert Grant(WaiterId(1), LeaseId(1), TWO, LANE) == first
    assert Grant(WaiterId(2), LeaseId(2), THREE, LANE) == second


def test_room_is_made_for_who_wants_more_life() -> None:
    """In a full pool the oldest spare goes, so that a fresh connection can come."""
    core = make(max_size=1)
    opened(core)
    core.release(LeaseId(1), 1.0)
    commands = core.acquire(WaiterId(2), 1500.0, min_remaining=core.schedule.retire_from)

    assert [HangUp(ONE, CloseReason.UNSUITABLE, polite=True), Dial(TWO)] == commands


def test_room_is_not_made_from_what_is_in_use() -> None:
    """A connection with a busy lane stays, however long somebody waits for a fresher one."""
    core = make(max_size=1, lanes=2)
    opened(core)

    assert [] == core.acquire(WaiterId(2), 1500.0, min_remaining=core.schedule.retire_from)


@pytest.mark.hits("connection: open, retire", "connection: retiring, hang up")
def test_a_connection_retires_when_its_replacement_is_there() -> None:
    """Make before break: spare never falls below what was promised."""
    core = make(min_idle=1)
    core.start(0.0)
    core.connected(ONE, 0.0, 0.0)

    assert [Dial(TWO)] == run_to(core, core.schedule.retire_from)
    assert 1 == core.statistics().idle
    assert [HangUp(ONE, CloseReason.LIFETIME, polite=True)] == core.connected(TWO, 3000.0, 0.0)


def test_a_full_pool_breaks_before_it_makes() -> None:
    """At the cap only the going of the old makes room for the new."""
    core = make(max_size=1, min_idle=1)
    core.start(0.0)
    core.connected(ONE, 0.0, 0.0)

    assert [HangUp(ONE, CloseReason.LIFETIME, polite=True), Dial(TWO)] == run_to(core, 3000.0)


@pytest.mark.hits("move: another connection is there, or will be")
def test_a_retiring_connection_is_granted_while_there_is_no_other() -> None:
    """Its holder is told at once, and may move as soon as another one is ready."""
    core = make(min_idle=1, max_size=3)
    core.start(0.0)
    core.connected(ONE, 0.0, 0.0)
    run_to(core, core.schedule.retire_from)
    now = core.schedule.retire_from + 1

    granted = [Grant(WaiterId(1), LeaseId(1), ONE, LANE), Expiring(LeaseId(1))]
    assert granted == of(core.acquire(WaiterId(1), now), Grant, Expiring)
    assert (Verdict.GO, []) == core.begin(LeaseId(1), now, movable=True)
    core.finished(ONE, LANE, now)
    core.connected(TWO, now, 0.5)
    assert Verdict.MOVE is core.begin(LeaseId(1), now, movable=True)[0]
    assert Verdict.GO is core.begin(LeaseId(1), now)[0]


@pytest.mark.hits("move: the turn might not end in time")
def test_no_turn_starts_that_may_not_end() -> None:
    """From the last start on a lease is of no use, and its connection goes when it is given back."""
    core = make()
    opened(core)
    late = core.schedule.last_start

    assert Verdict.MOVE is core.begin(LeaseId(1), late)[0]
    assert [HangUp(ONE, CloseReason.LIFETIME, polite=True)] == of(core.release(LeaseId(1), late), HangUp)


def test_a_lane_too_old_is_not_granted_though_nobody_ticked() -> None:
    """The deadline is checked at the grant, not when a timer comes round to it."""
    core = make()
    opened(core)
    core.release(LeaseId(1), 1.0)

    commands = core.acquire(WaiterId(2), core.schedule.last_start)

    assert [HangUp(ONE, CloseReason.LIFETIME, polite=True), Dial(TWO)] == commands


def test_only_a_turn_outlives_the_limit() -> None:
    """The server may let it end; then the connection goes."""
    core = make()
    opened(core)
    core.begin(LeaseId(1), 1.0)
    assert [] == of(run_to(core, 3600.0), HangUp)

    assert [HangUp(ONE, CloseReason.LIFETIME, polite=True)] == core.finished(ONE, LANE, 3601.0)


@pytest.mark.hits("lane: leased, end")
def test_an_idle_lease_does_not_outlive_the_limit() -> None:
    """A lease without a turn is of no use on a connection that the server ends."""
    core = make()
    opened(core)

    assert [HangUp(ONE, CloseReason.LIFETIME, polite=True)] == of(run_to(core, 3600.0), HangUp)


def test_surplus_goes_after_a_while_and_spare_stays() -> None:
    """`max_idle` concerns what is idle above `min_idle`."""
    core = make(max_size=3, min_idle=1, max_idle=30.0)
    opened(core, waiters=2)
    assert 1 == core.statistics().idle
    core.release(LeaseId(1), 10.0)
    core.release(LeaseId(2), 20.0)

    assert [CloseReason.IDLE, CloseReason.IDLE] == reasons(run_to(core, 120.0))
    assert 1 == core.statistics().idle


def test_surplus_goes_as_soon_as_it_was_idle_for_so_long() -> None:
    """Also if somebody had it when it was looked at."""
    core = make(max_idle=30.0)
    opened(core)
    core.release(LeaseId(1), 10.0)
    core.acquire(WaiterId(2), 39.0)
    assert [] == core.tick(40.0)
    core.release(LeaseId(2), 50.0)

    assert [] == run_to(core, 79.0)
    assert [HangUp(ONE, CloseReason.IDLE, polite=True)] == core.tick(80.0)


def test_what_leaves_is_surplus_once_as_many_newer_ones_are_free() -> None:
    """Though they leave, too: an endpoint that announces every end would fill the pool with such."""
    core = make(max_size=8, min_idle=2, max_idle=30.0)
    core.start(0.0)
    core.connected(ONE, 0.0, 0.5)
    for number in map(ConnectionId, range(1, 5)):
        if number > ONE:
            core.connected(number, 0.0, 0.5)
        assert [Dial(ConnectionId(number + 2))] == core.retire(number, 0.0, announced=False)

    # The second began to leave when the third was dialled, which is no replacement of it.
    assert [HangUp(ONE, CloseReason.IDLE, polite=True)] == run_to(core, 99.0)

    assert [] == core.connected(ConnectionId(5), 100.0, 0.5)
    assert [HangUp(TWO, CloseReason.IDLE, polite=True)] == run_to(core, 160.0)


def test_a_planned_retirement_says_nothing_of_the_server() -> None:
    """However often spare goes unused: the next is dialled at once."""
    core = make(min_idle=1)
    core.start(0.0)
    for number in (1, 2, 3):
        core.connected(ConnectionId(number), 3600.0 * number, 0.5)
        assert [Dial(ConnectionId(number + 1))] == core.tick(core.next_deadline())


def test_an_outage_has_one_prober() -> None:
    """The number of waiters has no part in the number of handshakes."""
    core = make(max_size=8, dial_concurrency=8)
    for number in range(1, 5):
        core.acquire(WaiterId(number), 0.0)
    assert [Degraded(DOWN)] == core.dial_failed(ONE, 1.0, DOWN, 0.5)
    for number in (2, 3, 4):
        assert [] == core.dial_failed(ConnectionId(number), 1.0, DOWN, 0.5)

    assert 1.25 == core.next_deadline()
    assert [Dial(ConnectionId(5))] == core.tick(1.25)
    assert [] == core.acquire(WaiterId(9), 1.3)
    assert [Recovered(0.5), Dial(ConnectionId(6)), Dial(ConnectionId(7))] == [
        command for command in core.connected(ConnectionId(5), 1.5, 0.5) if not isinstance(command, Grant)
    ]


def test_what_the_server_asks_for_is_a_floor() -> None:
    """Retry-After holds the whole endpoint back, and the caller may know better."""
    core = make()
    core.acquire(WaiterId(1), 0.0)
    core.dial_failed(ONE, 1.0, attrs.evolve(DOWN, retry_after=60.0), 0.5)

    assert 61.0 == core.next_deadline()
    assert [Dial(TWO)] == core.retry_now(2.0)


def test_the_longest_that_a_server_asks_to_wait_counts() -> None:
    """Until somebody says that the endpoint is back."""
    core = make()
    assert -math.inf == core.held_until()
    for now, seconds in ((1.0, 5.0), (2.0, 3.0), (3.0, 4.0)):
        assert [] == core.hold(now, seconds)
    assert 7.0 == core.held_until()
    core.retry_now(4.0)
    assert -math.inf == core.held_until()


@pytest.mark.hits("refuse: no hope on arrival", "refuse: a dial failed")
def test_a_wrong_key_fails_every_waiter_at_once() -> None:
    """Waiting cannot help; newcomers are told at once, until it is time to look again."""
    core = make(min_idle=1)
    core.start(0.0)
    core.acquire(WaiterId(1), 0.0)

    refused = Refuse(WaiterId(1), RefuseReason.DIAL_FAILED, WRONG_KEY)
    assert [Degraded(WRONG_KEY), refused] == core.dial_failed(ONE, 1.0, WRONG_KEY, 0.5)
    assert WRONG_KEY is core.failure
    late = Refuse(WaiterId(2), RefuseReason.DIAL_FAILED, WRONG_KEY)
    assert [late] == core.acquire(WaiterId(2), 1.1)
    core.dial_failed(TWO, 1.2, WRONG_KEY, 0.5)
    assert math.inf == core.next_deadline(), "spare is no reason to ask again"
    assert [Dial(THREE)] == core.acquire(WaiterId(3), 60.0)


def test_a_wrong_key_is_told_at_once_though_the_next_attempt_is_due() -> None:
    """By the lot that its pause is drawn by."""
    core = make()
    core.acquire(WaiterId(1), 0.0)

    refused = Refuse(WaiterId(1), RefuseReason.DIAL_FAILED, WRONG_KEY)
    assert [Degraded(WRONG_KEY), refused] == core.dial_failed(ONE, 1.0, WRONG_KEY, 0.0)


def test_an_outage_that_lasts_is_told_to_those_who_wait() -> None:
    """After `give_up_after` they are refused, between two attempts as well."""
    core = make(give_up_after=5.0)
    core.acquire(WaiterId(1), 0.0)
    core.dial_failed(ONE, 1.0, attrs.evolve(DOWN, retry_after=100.0), 0.0)

    assert 6.0 == core.next_deadline()
    assert [RefuseReason.DIAL_FAILED] == [
        command.reason for command in core.tick(6.0) if isinstance(command, Refuse)
    ]


def test_while_a_dial_runs_there_is_hope() -> None:
    """One that began before the outage may bring a connection yet: nobody is told, and nobody looks again."""
    core = make(give_up_after=0.5)
    for number in (1, 2):
        core.acquire(WaiterId(number), 0.0)
    hours = attrs.evolve(DOWN, retry_after=3600.0)

    assert [] == of(core.dial_failed(ONE, 0.1, hours, 0.0), Refuse)
    assert math.inf == core.next_deadline()
    assert [] == core.tick(1.0)
    assert 2 == len(of(core.dial_failed(TWO, 1.0, hours, 0.0), Refuse))


def test_spare_may_be_due_as_soon_as_nobody_waits() -> None:
    """Its pause may be the shorter one, by the lot that both are drawn by."""
    core = make(min_idle=1, give_up_after=0.3)
    core.acquire(WaiterId(1), 0.0)
    for number in (1, 2, 3, 4):
        commands = core.dial_failed(ConnectionId(number), 0.0, DOWN, 0.0)
    assert [] == commands

    failure = RefuseReason.DIAL_FAILED
    assert 0.3 == core.next_deadline()
    assert [Refuse(WaiterId(1), failure, DOWN), Dial(ConnectionId(5))] == core.tick(0.3)


def test_while_a_connection_lives_there_is_hope() -> None:
    """A server that refuses one more connection does not fail those who wait for the others."""
    core = make(give_up_after=5.0)
    opened(core)
    core.acquire(WaiterId(2), 0.0)
    core.dial_failed(TWO, 1.0, attrs.evolve(DOWN, retry_after=100.0), 0.0)

    assert [] == of(run_to(core, 50.0), Refuse)
    assert [Grant(WaiterId(2), LeaseId(2), ONE, LANE)] == core.release(LeaseId(1), 51.0)


@pytest.mark.hits("connection: open, lose")
def test_a_server_that_accepts_and_hangs_up_counts_as_down() -> None:
    """A handshake that is followed by a close proves nothing, and the backoff goes on growing."""
    core = make()
    core.acquire(WaiterId(1), 0.0)
    core.abandon(WaiterId(1), 0.0)
    core.connected(ONE, 0.1, 0.5)
    assert [Degraded] == [type(command) for command in core.lost(ONE, 0.2, 0.5)]
    core.acquire(WaiterId(2), 0.3)
    assert [Dial(TWO)] == core.tick(core.next_deadline())
    core.abandon(WaiterId(2), 0.5)
    core.connected(TWO, 0.6, 0.5)
    core.lost(TWO, 0.7, 1.0 - 2**-53)
    core.acquire(WaiterId(3), 0.8)

    assert 1.7 == pytest.approx(core.next_deadline())


@pytest.mark.parametrize("handshake", [0.0, 0.1])
@pytest.mark.parametrize("until_closed", [0.001, 0.15])
def test_a_server_that_accepts_and_hangs_up_is_not_stormed(handshake: float, until_closed: float) -> None:
    """Several dials at once: one that succeeds does not undo what another's end has said."""
    core = make(min_idle=4, max_size=10)
    due: list[tuple[float, str, ConnectionId]] = []
    dialed: list[float] = []

    def note(commands: list[Command], now: float) -> None:
        for command in of(commands, Dial):
            assert isinstance(command, Dial)
            dialed.append(now)
            due.append((now + handshake, "connected", command.connection))

    note(core.start(0.0), 0.0)
    while (now := min(core.next_deadline(), min(due)[0] if due else math.inf)) < 600.0:
        if due and min(due)[0] <= now:
            _, what, number = due.pop(due.index(min(due)))
            if what == "connected":
                note(core.connected(number, now, 0.5), now)
                due.append((now + until_closed, "lost", number))
            else:
                note(core.lost(number, now, 0.5), now)
        else:
            note(core.tick(now), now)

    assert len([now for now in dialed if now < 10.0]) <= 4 * 6, "pauses of 0.25, 0.5, 1, 2, 4 s ..."
    assert len([now for now in dialed if now > 60.0]) <= 4 * 540 / 15, "four for each pause of 15 s"


def test_a_server_that_announces_the_end_of_each_connection_counts_as_down() -> None:
    """As far as no turn was completed: a full pool notices that before it dials in their place."""
    core = make(max_size=1, min_idle=1)
    core.start(0.0)
    for number in range(1, FORGIVEN + 2):
        connection = ConnectionId(number)
        core.connected(connection, 100.0 * number, 0.5)
        core.acquire(WaiterId(number), 100.0 * number)
        core.begin(LeaseId(number), 100.0 * number)
        core.finished(connection, LANE, 100.0 * number, completed=False)
        core.retire(connection, 100.0 * number + 50.0)
        commands = core.release(LeaseId(number), 100.0 * number + 50.0)

    assert [HangUp(connection, CloseReason.LIFETIME, polite=True), Degraded(CUT_SHORT)] == commands


def put_off(core: PoolCore) -> float:
    """Let spare end by itself until the next one has to wait; return until when."""
    for command in of(core.start(0.0), Dial):
        assert isinstance(command, Dial)
        core.connected(command.connection, 0.0, 0.5)
    [dial] = of(core.lost(ONE, 10.0, 0.9), Dial)
    assert isinstance(dial, Dial)
    core.connected(dial.connection, 10.0, 0.5)
    assert [] == core.lost(dial.connection, 20.0, 0.9)
    return core.next_deadline()


def test_spare_that_was_put_off_is_not_dialled_for_those_who_have_a_dial_already() -> None:
    """One dial has lanes for both of them."""
    core = make(max_size=4, lanes=2, min_idle=1)
    due = put_off(core)
    assert [Dial(THREE)] == core.acquire(WaiterId(1), due - 0.01)

    assert [] == core.acquire(WaiterId(2), due - 0.01)
    assert [Dial(ConnectionId(4))] == core.tick(core.next_deadline())


def test_nobody_looks_again_where_a_full_pool_has_nothing_that_leaves() -> None:
    """Spare that was put off has no place: it is not waited for."""
    core = make(max_size=1, min_idle=1)
    due = put_off(core)
    core.acquire(WaiterId(1), due - 0.1)
    core.connected(THREE, due - 0.1, 0.5)

    assert [] == core.tick(due + 1.0)
    assert due + 1.0 < core.next_deadline()


def test_nobody_looks_again_while_the_place_of_what_leaves_is_spoken_for() -> None:
    """A goodbye counts as a dial to come, where it takes a place."""
    core = make(max_size=2, min_idle=2, dial_concurrency=1, count_closing=True)
    core.start(0.0)
    for number, now in ((1, 0.0), (2, 0.0), (3, 10.0), (4, 20.0), (5, 31.0)):
        if number > 2:
            core.lost(ConnectionId(number - 2), now if number < 5 else 30.0, 0.9)
            core.tick(now)
        core.connected(ConnectionId(number), now, 0.5)
    four, five = ConnectionId(4), ConnectionId(5)
    assert [] == core.retire(four, 31.0, announced=False)
    assert [HangUp(five, CloseReason.DIRTY, polite=False)] == core.hang_up(five, CloseReason.DIRTY, 40.0)

    assert [] == core.tick(50.0)
    assert 50.0 < core.next_deadline()
    assert [Dial(ConnectionId(6))] == core.gone(five, 60.0)


def test_an_answer_ends_the_doubt() -> None:
    """A turn that was answered ends an outage of that kind, and the next one begins with a short pause."""
    core = make(min_idle=2)
    core.start(0.0)
    core.connected(ONE, 0.1, 0.5)
    assert [Degraded] == [type(command) for command in core.lost(ONE, 0.2, 0.5)]
    assert [] == of(core.connected(TWO, 0.2, 0.5), Recovered), "it was under way, and proves nothing"
    assert core.statistics().degraded
    core.acquire(WaiterId(1), 0.3)
    core.begin(LeaseId(1), movable=False, now=0.3)

    assert [Recovered(0.4 - 0.2)] == of(core.finished(TWO, LANE, 0.4), Recovered)
    assert not core.statistics().degraded
    core.connected(THREE, 0.5, 0.5)
    core.lost(THREE, 0.6, 1.0 - 2**-53)
    assert 0.6 + BACKOFF_BASE == pytest.approx(core._outage.probe_at)


def test_a_connection_that_goes_with_its_answer_ends_the_doubt_as_well() -> None:
    """Its last turn may have been completed, though it must not be used again."""
    core = make(min_idle=2)
    core.start(0.0)
    core.connected(ONE, 0.0, 0.5)
    core.lost(ONE, 0.0, 0.5)
    core.connected(TWO, 0.0, 0.5)
    core.acquire(WaiterId(1), 1.0)
    core.begin(LeaseId(1), 1.0)

    assert Recovered(2.0) in core.hang_up(TWO, CloseReason.DIRTY, 2.0, completed=True)
    assert not core.statistics().degraded


def test_an_old_connection_that_dies_is_replaced_at_once() -> None:
    """Only the young ones say something about the server."""
    core = make(min_idle=1)
    core.start(0.0)
    core.connected(ONE, 0.0, 0.5)

    assert [Dial(TWO)] == core.lost(ONE, EARLY, 0.5)


@pytest.mark.hits("lane: idle, warm", "lane: warming, finish")
def test_a_warm_up_runs_ahead_of_demand_only() -> None:
    """A waiter is worth more than a warm cache, and a warm lane is spare once it is warm."""
    core = make(min_idle=1, warm_up=True)
    core.start(0.0)
    assert [Warm(ONE, LANE)] == core.connected(ONE, 0.0, 0.5)
    assert [Dial(TWO)] == core.acquire(WaiterId(1), 0.1)

    assert [Grant(WaiterId(1), LeaseId(1), TWO, LANE)] == core.connected(TWO, 0.2, 0.5)
    assert [] == core.finished(ONE, LANE, 0.3)
    assert 1 == core.statistics().idle


def test_a_silent_peer_is_pinged() -> None:
    """Again after the next silence, and never once it was told to go."""
    core = make(ping_interval=20.0)
    opened(core)

    assert [Ping(ONE)] == core.tick(20.0)
    assert [] == core.ponged(ONE, 25.0, 26.0)
    assert 45.0 == core.next_deadline()
    assert [Ping(ONE)] == core.tick(45.0)
    core.hang_up(ONE, CloseReason.DIRTY, 50.0)
    assert [] == core.ponged(ONE, 51.0, 51.0)


@pytest.mark.hits("lane: leased, park", "lane: parked, start")
def test_a_parked_lane_is_kept_until_somebody_starves() -> None:
    """Patience first; then the lane that was parked longest is taken, and its lease is dead."""
    core = make(max_size=2, patience=2.0)
    opened(core, waiters=2)
    core.park(LeaseId(2), 1.0)
    core.park(LeaseId(1), 2.0)
    assert [] == core.acquire(WaiterId(3), 2.5)

    assert 3.0 == core.next_deadline()
    assert [Stolen(LeaseId(2)), Grant(WaiterId(3), LeaseId(3), TWO, LANE)] == core.tick(3.0)
    assert (Verdict.GO, []) == core.begin(LeaseId(1), 3.5)
    assert not core.is_live(LeaseId(2))
    assert 1 == core.statistics().stolen


def test_nobody_looks_at_what_is_parked_while_a_dial_runs() -> None:
    """It is nobody's but its holder's: whoever waits has its dial."""
    core = make(max_size=2, patience=2.0, max_idle=1e4)
    opened(core)
    core.park(LeaseId(1), 0.5)

    assert [Dial(TWO)] == core.acquire(WaiterId(2), 1.0)
    assert core.schedule.retire_from <= core.next_deadline()


def test_nobody_is_passed_over_for_ever() -> None:
    """Holders of parked lanes go on before a waiter `MAX_SKIPS` times, and not once more."""
    core = make(max_size=1, patience=1000.0)
    opened(core)
    core.park(LeaseId(1), 0.0)
    core.acquire(WaiterId(2), 0.0)
    for _ in range(MAX_SKIPS):
        assert Verdict.GO is core.begin(LeaseId(1), 1.0)[0]
        core.finished(ONE, LANE, 1.0)
        last = core.park(LeaseId(1), 1.0)

    assert [Stolen(LeaseId(1)), Grant(WaiterId(2), LeaseId(2), ONE, LANE)] == last


@pytest.mark.parametrize("patience", [2.0, 20.0])
def test_nobody_is_passed_over_for_long(patience: float) -> None:
    """Each time spares a full send, and that costs so much; once as much is waited it is enough."""
    core = make(max_size=1, patience=patience)
    opened(core)
    core.park(LeaseId(1), 0.0)
    core.acquire(WaiterId(2), 1.0)
    assert Verdict.GO is core.begin(LeaseId(1), 1.5)[0]
    now = 1.5 + MAX_SKIPS * patience - 0.5
    core.finished(ONE, LANE, now)
    assert [] == core.park(LeaseId(1), now)

    assert 1.5 + MAX_SKIPS * patience == core.next_deadline()
    stolen = [Stolen(LeaseId(1)), Grant(WaiterId(2), LeaseId(2), ONE, LANE)]
    assert stolen == core.tick(core.next_deadline())


@pytest.mark.hits("move: somebody starves")
def test_a_holder_who_was_passed_over_for_moves() -> None:
    """A waiter whose dial ends in a moment is passed over however often, until that is no moment any more."""
    core = make(max_size=2, patience=1000.0)
    opened(core)
    core.park(LeaseId(1), 0.0)
    assert [Dial(TWO)] == core.acquire(WaiterId(2), 0.0)
    for _ in range(3 * MAX_SKIPS):
        assert Verdict.GO is core.begin(LeaseId(1), 1.0)[0]
        core.finished(ONE, LANE, 1.0)
        core.park(LeaseId(1), 1.0)

    verdict, commands = core.begin(LeaseId(1), 1000.0)

    assert Verdict.MOVE is verdict
    assert [Stolen(LeaseId(1)), Grant(WaiterId(2), LeaseId(2), ONE, LANE)] == commands


def goes_on(core: PoolCore, now: float, times: int = MAX_SKIPS) -> bool:
    """Let the holder of the first lease go on so often; return whether it has that still."""
    for _ in range(times):
        if not core.is_live(LeaseId(1)) or core.begin(LeaseId(1), now)[0] is Verdict.MOVE:
            return False
        core.finished(ONE, LANE, now)
        core.park(LeaseId(1), now)
    return core.is_live(LeaseId(1))


def test_in_an_outage_nobody_is_served_in_a_moment() -> None:
    """A prober that is under way is no reason to pass over who waits."""
    core = make(max_size=3, patience=1000.0)
    opened(core)
    core.acquire(WaiterId(2), 0.0)
    failure = DialFailure(kind=FailureKind.TRANSIENT, message="no", phase="tcp")
    probed = [*core.dial_failed(TWO, 1.0, failure, 0.0), *core.tick(5.0)]
    assert Dial(ConnectionId(3)) in probed
    core.park(LeaseId(1), 5.0)

    assert goes_on(core, 6.0)
    assert not goes_on(core, 6.0, 1)


def test_dials_that_begin_all_the_time_serve_nobody_in_a_moment() -> None:
    """Each is young, and none of them ends."""
    core = make(max_size=50, dial_concurrency=50, patience=10.0)
    opened(core)
    core.park(LeaseId(1), 0.0)
    for second in range(10):
        assert core.acquire(WaiterId(2 + second), float(second))
        assert goes_on(core, float(second))

    core.acquire(WaiterId(20), 9.9)
    assert not goes_on(core, 10.0, 1)


def parked_in_turn(core: PoolCore, *opened_at: float) -> None:
    """A connection each, opened and parked at these times; leases count up with them."""
    for number, now in enumerate(opened_at, 1):
        for command in core.acquire(WaiterId(number), now):
            if isinstance(command, Dial):
                core.connected(command.connection, now, 0.0)
        core.park(LeaseId(number), now)


@pytest.mark.hits("lane: parked, steal")
def test_a_waiter_takes_the_parked_lane_that_serves_it() -> None:
    """Of those with enough life the one parked longest; the rest stay their holders'."""
    core = make(max_size=4, patience=2.0)
    parked_in_turn(core, 0.0, 600.0, 1200.0, 1800.0)
    need = core.schedule.retire_from - 1400.0

    granted = core.acquire(WaiterId(9), 1900.0, min_remaining=need)

    assert [Stolen(LeaseId(2)), Grant(WaiterId(9), LeaseId(5), TWO, LANE)] == granted
    assert [True, False, True, True] == [core.is_live(LeaseId(number)) for number in (1, 2, 3, 4)]


def test_a_waiter_waits_for_the_parked_lane_that_will_serve_it() -> None:
    """Others that are ripe sooner are left alone; the timekeeper looks again when that one is."""
    core = make(max_size=2, patience=2.0)
    parked_in_turn(core, 0.0, 1200.0)
    need = core.schedule.retire_from - 600.0

    run_to(core, 1201.0)
    assert [] == core.acquire(WaiterId(9), 1201.0, min_remaining=need)
    assert 1202.0 == core.next_deadline()
    assert [Stolen(LeaseId(2)), Grant(WaiterId(9), LeaseId(3), TWO, LANE)] == core.tick(1202.0)
    assert core.is_live(LeaseId(1))


@pytest.mark.parametrize("waiters", [1, 3])
@pytest.mark.parametrize("count_closing", [False, True])
def test_whom_no_parked_lane_serves_gets_one_fresh_connection(waiters: int, count_closing: bool) -> None:
    """It takes the place of the one parked longest; while it is coming no other holder loses anything."""
    core = make(max_size=4, patience=2.0, count_closing=count_closing)
    parked_in_turn(core, 0.0, 0.0, 0.0, 0.0)
    need = core.schedule.retire_from - 60.0

    commands = core.acquire(WaiterId(9), 1500.0, min_remaining=need)
    for number in range(1, waiters):
        commands += core.acquire(WaiterId(9 + number), 1500.0, min_remaining=need)

    commands += run_to(core, 1600.0)
    expected = [Stolen(LeaseId(1)), HangUp(ONE, CloseReason.UNSUITABLE, polite=True)]
    assert expected == of(commands, Stolen, HangUp)
    commands += core.gone(ONE, 1600.0)
    number = ConnectionId(5)
    assert [Dial(number)] == of(commands, Dial)
    assert Grant(WaiterId(9), LeaseId(5), number, LANE) in core.connected(number, 1600.0, 0.5)
    assert core.is_live(LeaseId(2)) is (waiters == 1), "the next in line needs one as well"


@pytest.mark.hits("lane: parked, release")
def test_spare_goes_before_what_is_parked() -> None:
    """Who wants a fresh connection gets the place of one that is nobody's."""
    core = make(max_size=2, patience=0.0)
    parked_in_turn(core, 0.0, 0.0)
    core.release(LeaseId(2), 1.0)

    commands = core.acquire(WaiterId(9), 1500.0, min_remaining=core.schedule.retire_from)

    assert [HangUp(TWO, CloseReason.UNSUITABLE, polite=True), Dial(THREE)] == commands


def test_no_connection_goes_from_under_a_turn() -> None:
    """Where lanes share one it goes whole, so all of them must be parked, each for long enough."""
    core = make(max_size=2, lanes=2, patience=10.0)
    opened(core, waiters=4)
    for lease, now in ((1, 1.0), (3, 2.0), (4, 1500.0)):
        core.park(LeaseId(lease), now)
    core.begin(LeaseId(2), 3.0)

    assert [] == core.acquire(WaiterId(9), 1501.0, min_remaining=core.schedule.retire_from)
    assert [Stolen(LeaseId(3)), Stolen(LeaseId(4)), HangUp(TWO, CloseReason.UNSUITABLE, polite=True)] == of(
        run_to(core, 1510.0), Stolen, HangUp
    )
    assert core.is_live(LeaseId(1))


def test_no_room_is_made_while_none_can_be_dialled() -> None:
    """In an outage the old connection is all there is; it goes with the next attempt, and not before."""
    core = make(max_size=2, patience=0.0)
    opened(core)
    run_to(core, 1499.0)
    core.acquire(WaiterId(2), 1499.0)
    core.dial_failed(TWO, 1500.0, attrs.evolve(DOWN, retry_after=50.0), 0.0)
    core.abandon(WaiterId(2), 1500.0)
    core.resize(1500.0, max_size=1)
    core.park(LeaseId(1), 1500.0)

    assert [] == core.acquire(WaiterId(3), 1500.0, min_remaining=core.schedule.retire_from)
    assert 1550.0 == core.next_deadline()
    assert [Stolen(LeaseId(1)), HangUp(ONE, CloseReason.UNSUITABLE, polite=True), Dial(THREE)] == core.tick(
        1550.0
    )


def test_room_is_made_as_soon_as_who_waits_may_be_dialled_for() -> None:
    """Sooner than spare: an attempt that somebody waits for costs nobody anything while nobody is there."""
    core = make(max_size=2, patience=0.0)
    opened(core)
    run_to(core, now := 1500.0)
    core.acquire(WaiterId(2), now)
    for dial in range(2, 7):
        core.dial_failed(ConnectionId(dial), now, DOWN, 0.8)
        before = now
        while not of(core.tick(now := core.next_deadline()), Dial):
            pass
    core.abandon(WaiterId(2), now)
    core.dial_failed(ConnectionId(7), now, DOWN, 0.8)
    core.resize(now, max_size=1)
    core.park(LeaseId(1), now)

    assert [] == core.acquire(WaiterId(3), now, min_remaining=core.schedule.retire_from)
    due = core.next_deadline()
    assert math.isclose(now - before, due - now)
    assert [HangUp, Dial] == [type(command) for command in of(core.tick(due), HangUp, Dial)]


def test_who_is_passed_over_takes_only_what_serves_it() -> None:
    """However often holders have gone on before it; and while nothing is granted, nobody is passed over."""
    core = make(max_size=1, patience=1e9)
    parked_in_turn(core, 0.0)
    core.drain(1499.0)
    core.acquire(WaiterId(9), 1500.0, min_remaining=core.schedule.retire_from)
    core.pause(1500.0)
    for _ in range(2 * MAX_SKIPS):
        assert (Verdict.GO, []) == core.begin(LeaseId(1), 1501.0)
        core.finished(ONE, LANE, 1501.0)
        core.park(LeaseId(1), 1501.0)
    core.resume(1502.0)
    for _ in range(MAX_SKIPS):
        assert (Verdict.GO, []) == core.begin(LeaseId(1), 1503.0)
        core.finished(ONE, LANE, 1503.0)
        last = core.park(LeaseId(1), 1503.0)

    assert [Stolen(LeaseId(1)), HangUp(ONE, CloseReason.UNSUITABLE, polite=True), Dial(TWO)] == last


def test_a_holder_goes_on_where_the_first_in_line_would_not() -> None:
    """However often that was passed over: only the younger lane has the life that it wants."""
    core = make(max_size=2, patience=1e9)
    parked_in_turn(core, 0.0, 1200.0)
    run_to(core, 1201.0)
    core.acquire(WaiterId(9), 1201.0, min_remaining=core.schedule.retire_from - 600.0)
    for number in range(MAX_SKIPS):
        if number:
            core.finished(TWO, LANE, 1201.0)
            core.park(LeaseId(2), 1201.0)
        assert (Verdict.GO, []) == core.begin(LeaseId(2), 1201.0)

    assert (Verdict.GO, []) == core.begin(LeaseId(1), 1201.0)


def test_a_stolen_lane_that_does_not_suit_makes_room() -> None:
    """Who wants more life than any lane has gets a fresh connection in the place of the stolen one."""
    core = make(max_size=1, patience=0.0)
    opened(core)
    core.park(LeaseId(1), 1500.0)

    commands = core.acquire(WaiterId(2), 1500.0, min_remaining=core.schedule.retire_from)

    assert [Stolen(LeaseId(1)), HangUp(ONE, CloseReason.UNSUITABLE, polite=True), Dial(TWO)] == commands


def test_a_parked_lane_that_is_too_old_is_given_up() -> None:
    """Neither its holder nor anybody else could start a turn on it."""
    core = make()
    opened(core)

    assert [HangUp(ONE, CloseReason.LIFETIME, polite=True)] == of(
        core.park(LeaseId(1), core.schedule.last_start), HangUp
    )
    assert not core.is_live(LeaseId(1))


def test_what_happened_is_counted() -> None:
    """Each thing twice here, so that a count that forgets, or counts more than it should, is seen."""
    core = make(max_size=6)
    opened(core, waiters=2)
    for number in (1, 2):
        core.begin(LeaseId(number), 1.0)
        core.finished(ConnectionId(number), LANE, 2.0)
        core.retire(ConnectionId(number), 3.0)
    for number in (3, 4):
        core.acquire(WaiterId(number), 4.0)
        core.abandon(WaiterId(number), 4.0)
    for number in (3, 4, 5):
        core.dial_failed(ConnectionId(number), 5.0, DOWN, 0.5)
    core.lost(ONE, 6.0, 0.5)
    core.release(LeaseId(2), 7.0)
    for number in (5, 6):
        core.acquire(WaiterId(number), 100.0 * number)
        core.connected(ConnectionId(number + 1), 100.0 * number, 0.5)
        core.begin(LeaseId(number - 2), 100.0 * number, movable=True)
        core.finished(ConnectionId(number + 1), LANE, 100.0 * number, calls=False)
        core.clear(100.0 * number)
    seen = core.statistics()

    assert (4, 2, 3) == (seen.turns, seen.abandoned, seen.dial_failures)
    assert (7, 4, 3, 1) == (seen.dialed, seen.granted, seen.released, seen.lost_leases)
    assert {"cleared": 2, "lost": 1, "lifetime": 1, "dial_failed": 3} == dict(seen.closed)
    assert 4 == seen.retirements, "what is cleared is not granted any more either"


def test_what_is_the_case_is_counted() -> None:
    """Each state of a connection and of a lane, who waits, and what holds the pool back."""
    core = make(max_size=10, min_idle=2, max_waiting=1, dial_concurrency=3, on_cancel="drain", warm_up=True)
    opened(core, waiters=8)
    core.finished(TWO, LANE, 1.0, completed=False)
    for number in (2, 3):
        core.park(LeaseId(number), 1.0)
    for number in (4, 5, 6, 7):
        core.begin(LeaseId(number), 1.0)
    core.give_up(LeaseId(6), 1.0)
    core.release(LeaseId(7), 1.0)
    core.retire(ConnectionId(5), 1.0)
    core.hang_up(ConnectionId(8), CloseReason.DIRTY, 1.0)
    assert [] == core.pause(1.0)
    core.acquire(WaiterId(9), 1.0)
    core.acquire(WaiterId(10), 1.0)

    seen = attrs.asdict(core.statistics())
    limits = {"max_size": 10, "min_idle": 2, "waiting": 1, "refused": 1}
    connections = {"size": 10, "dialing": 1, "open": 8, "retiring": 1, "closing": 1}
    lanes = {"idle": 1, "warming": 1, "leased": 6, "parked": 2, "in_flight": 2, "draining": 1}
    state = {"paused": True, "degraded": False, "closed_pool": False, "released": 1}
    assert {**seen, **limits, **connections, **lanes, **state} == seen
    core.resume(2.0)
    core.close(2.0)
    core.release(LeaseId(1), 2.0)
    seen = attrs.asdict(core.statistics())
    assert {**seen, "paused": False, "closed_pool": True, "waiting": 0, "released": 2} == seen


@pytest.mark.parametrize("calls", [False, True])
def test_a_lane_goes_with_the_turn_that_ends_too_late_for_another(calls: bool) -> None:
    """Its holder goes on elsewhere, whether it comes back soon or not."""
    core = make(max_size=1)
    opened(core)
    core.begin(LeaseId(1), core.schedule.last_start - 1.0, movable=True)

    commands = core.finished(ONE, LANE, core.schedule.last_start + 1.0, response=101, calls=calls)
    assert [HangUp(ONE, CloseReason.LIFETIME, polite=True)] == of(commands, HangUp)
    assert not core.is_live(LeaseId(1))


def test_a_lane_goes_back_with_the_answer_of_who_can_go_on_elsewhere() -> None:
    """It is told so; nothing of it is parked."""
    core = make(max_size=1)
    opened(core)
    core.begin(LeaseId(1), 1.0, movable=True)

    assert [Returned(LeaseId(1))] == core.finished(ONE, LANE, 2.0, response=101, calls=False)
    assert 1 == core.statistics().idle


def test_a_warm_up_that_ends_in_a_smaller_pool_was_for_nothing() -> None:
    """It is too much, like all that comes back."""
    core = make(max_size=2, min_idle=2, warm_up=True)
    core.start(0.0)
    core.connected(ONE, 0.0, 0.5)
    core.connected(TWO, 0.0, 0.5)
    assert [] == core.resize(1.0, max_size=1, min_idle=1)

    ended = core.finished(ONE, LANE, 2.0, completed=False, response=101)
    assert [HangUp(ONE, CloseReason.RESIZED, polite=True)] == ended


def test_the_late_end_of_what_was_given_up_on_ends_no_doubt() -> None:
    """Its connection is on its way out: whatever it says is about nothing."""
    core = make()
    opened(core)
    core.begin(LeaseId(1), 1.0)
    core.hang_up(ONE, CloseReason.DIRTY, 2.0)

    assert [] == core.finished(ONE, LANE, 3.0)
    assert [] == core.hang_up(ONE, CloseReason.DIRTY, 4.0, completed=True)
    assert core._outage.doubtful


def test_a_parked_lane_is_kept_for_as_long_as_a_full_send_takes() -> None:
    """A share of a turn, as long as nothing is known of those who come back."""
    core = make(max_size=1, patience=10.0)
    opened(core)
    core.begin(LeaseId(1), 100.0, movable=True)
    core.finished(ONE, LANE, 108.0, response=101)

    assert [] == core.acquire(WaiterId(2), 108.5)
    assert 110.0 == core.next_deadline()


def test_a_parked_lane_is_kept_a_little_longer_than_its_holders_are_away() -> None:
    """They were away for less than a full send takes, so far."""
    core = make(max_size=1, patience=10.0)
    opened(core)
    now = 100.0
    for _ in range(5):
        core.begin(LeaseId(1), now, movable=True)
        core.finished(ONE, LANE, now + 8.0, response=101)
        now += 8.0 + 1.9
    parked_at = now - 1.9

    assert [] == core.acquire(WaiterId(2), parked_at + 0.5)
    assert math.isclose(parked_at + 1.9 * 1.25, core.next_deadline())


def test_a_lease_that_is_held_too_long_is_reported_once() -> None:
    """One that was given back in time is not."""
    core = make(leak_after=10.0)
    opened(core, waiters=2)
    core.release(LeaseId(1), 5.0)

    assert [Leaking(LeaseId(2))] == of(run_to(core, 100.0), Leaking)
    core.acquire(WaiterId(3), 100.0)
    core.release(LeaseId(3), 105.0)
    assert [] == core.tick(111.0)
    core.release(LeaseId(2), 111.0)
    for number in (4, 5):
        core.acquire(WaiterId(number), 120.0 + number)
    assert [Leaking(LeaseId(4))] == of(core.tick(134.5), Leaking)


def test_a_paused_pool_grants_nothing() -> None:
    """Waiters keep their places."""
    core = make()
    core.pause(0.0)
    core.acquire(WaiterId(1), 0.0)

    assert [] == core.connected(ONE, 0.1, 0.5)
    assert [Grant(WaiterId(1), LeaseId(1), ONE, LANE)] == core.resume(0.2)


def test_growth_takes_effect_at_once() -> None:
    """Who waits for room gets a dial in the same step."""
    core = make(max_size=1)
    opened(core, waiters=2)

    assert [Dial(TWO)] == core.resize(1.0, max_size=2)


def test_shrinking_closes_dials_then_spare_then_what_is_given_back() -> None:
    """What is in use is never cut."""
    core = make(max_size=3, lanes=2)
    opened(core, waiters=3)
    core.release(LeaseId(1), 1.0)
    core.release(LeaseId(3), 1.0)
    core.acquire(WaiterId(4), 1500.0, min_remaining=core.schedule.retire_from)

    assert [THREE, TWO] == [
        command.connection for command in core.resize(1501.0, max_size=1) if isinstance(command, HangUp)
    ]
    assert [] == reasons(core.resize(1502.0, max_size=1))
    core.abandon(WaiterId(4), 1503.0)
    assert [] == reasons(core.release(LeaseId(2), 1504.0))


def test_shrinking_ends_the_latest_dials_and_no_more_than_it_must() -> None:
    """Who dialled first is served first."""
    core = make(max_size=5)
    for number in range(1, 6):
        core.acquire(WaiterId(number), 0.0)

    ended = [HangUp(ConnectionId(number), CloseReason.RESIZED, polite=False) for number in (5, 4)]
    assert ended == core.resize(0.0, max_size=3)


@pytest.mark.parametrize(
    ("idle", "size", "gone"),
    [((1, 4), 2, [1, 4]), ((1, 4), 3, [1]), ((2, 4), 2, [2, 4]), ((2, 3, 4), 2, [2, 3]), ((3,), 1, [3])],
)
def test_shrinking_ends_the_oldest_spare_and_no_more_than_it_must(
    idle: tuple[int, ...], size: int, gone: list[int]
) -> None:
    """What is in use is looked past, also where one of its lanes is free."""
    core = make(max_size=4, lanes=2)
    for number in range(1, 5):
        opened_at = 400.0 * number
        core.acquire(WaiterId(2 * number - 1), opened_at)
        core.connected(ConnectionId(number), opened_at, 0.5)
        core.acquire(WaiterId(2 * number), opened_at)
    for number in range(1, 5):
        core.release(LeaseId(2 * number), 1700.0)
        if number in idle:
            core.release(LeaseId(2 * number - 1), 1700.0)

    ended = [HangUp(ConnectionId(number), CloseReason.RESIZED, polite=True) for number in gone]
    assert ended == core.resize(1800.0, max_size=size)


def test_what_is_too_much_goes_when_it_is_given_back() -> None:
    """A lease is not cut by a resize."""
    core = make(max_size=2)
    opened(core, waiters=2)
    core.park(LeaseId(1), 0.5)

    assert [] == core.resize(1.0, max_size=1)
    assert [CloseReason.RESIZED] == reasons(core.release(LeaseId(2), 2.0))
    assert [] == reasons(core.release(LeaseId(1), 2.0))


def test_sizes_that_do_not_fit_change_nothing() -> None:
    """The policy checks itself before anything happens."""
    core = make()

    with pytest.raises(ValueError, match="min_idle=3 exceeds max_size=2"):
        core.resize(0.0, min_idle=3)
    assert 0 == core.policy.min_idle


def test_clearing_trusts_nothing_that_is_there() -> None:
    """Spare goes at once, dials start anew, what is leased goes when it is given back."""
    core = make(max_size=4, min_idle=1)
    opened(core)
    core.drain(0.5)
    core.acquire(WaiterId(2), 0.5)
    core.acquire(WaiterId(3), 0.5)
    before = {number: state for number, (state, _) in core.states().items()}

    commands = core.clear(1.0)
    cleared = {command.connection for command in commands if isinstance(command, HangUp)}

    assert {CloseReason.CLEARED} == set(reasons(commands))
    assert {number for number, state in before.items() if state is ConnectionState.DIALING} <= cleared
    assert Verdict.MOVE is core.begin(LeaseId(1), 1.0, movable=True)[0]
    assert Verdict.GO is core.begin(LeaseId(1), 1.0)[0]
    core.finished(ONE, LANE, 2.0)
    assert [CloseReason.CLEARED] == reasons(core.release(LeaseId(1), 3.0))


def test_what_goes_already_is_left_alone() -> None:
    """Clearing and draining concern what can still be used; a late failure is no new outage."""
    core = make(max_size=3, min_idle=2)
    core.start(0.0)
    core.connected(ONE, 0.0, 0.5)
    core.hang_up(ONE, CloseReason.DIRTY, 0.5)
    core.dial_failed(THREE, 1.0, DOWN, 0.0)
    core.connected(TWO, 1.0, 0.5)

    number = ConnectionId(4)
    assert ConnectionState.DIALING is core.states()[number][0]
    assert [] == of(core.drain(1.0), HangUp)
    cleared = [command.connection for command in core.clear(1.0) if isinstance(command, HangUp)]
    assert ONE not in cleared
    assert {TWO, number} <= set(cleared)


@pytest.mark.hits("connection: dialing, fail")
def test_a_late_failure_is_no_new_outage() -> None:
    """A dial that began before the outage that is over says nothing new."""
    core = make(max_size=3, min_idle=3)
    core.start(0.0)
    core.dial_failed(ONE, 1.0, DOWN, 0.0)
    core.connected(TWO, 1.0, 0.5)

    assert [] == of(core.dial_failed(THREE, 1.1, DOWN, 0.5), Degraded)
    assert core.failure is None


def test_clearing_may_interrupt() -> None:
    """Then what is leased goes as well."""
    core = make()
    opened(core)

    assert [HangUp(ONE, CloseReason.CLEARED, polite=False)] == core.clear(1.0, interrupt=True)


def test_who_is_granted_what_is_about_to_go_will_want_another() -> None:
    """For each of them one is dialled, beside those that are to be spare."""
    core = make(max_size=9, min_idle=2)
    core.start(0.0)
    core.connected(ONE, 0.0, 0.5)
    core.connected(TWO, 0.0, 0.5)
    assert [Dial(THREE), Dial(ConnectionId(4))] == core.drain(1.0)

    dials = [of(core.acquire(WaiterId(number), 2.0), Dial) for number in (1, 2)]
    assert [[Dial(ConnectionId(5))], [Dial(ConnectionId(6))]] == dials


def test_draining_replaces_everything_in_turn() -> None:
    """Each connection stays until its replacement is there."""
    core = make(max_size=3, min_idle=1)
    core.start(0.0)
    core.connected(ONE, 0.0, 0.5)

    assert [Dial(TWO)] == core.drain(1.0)
    assert [HangUp(ONE, CloseReason.LIFETIME, polite=True)] == core.connected(TWO, 2.0, 0.5)
    assert [] == core.retire(ONE, 2.5)


def test_a_full_pool_is_drained_as_fast_as_it_may_dial() -> None:
    """At the cap each dial takes the place of one that leaves, all in the same step."""
    core = make(max_size=2, min_idle=2, dial_concurrency=2)
    core.start(0.0)
    core.connected(ONE, 0.0, 0.2)
    core.connected(TWO, 0.0, 0.8)

    commands = core.drain(1.0)

    assert [HangUp, Dial, HangUp, Dial] == [type(command) for command in commands]
    assert [] == core.tick(1.0)


def test_a_full_pool_is_drained_no_faster_than_it_may_dial() -> None:
    """One after another, what left first goes first; the others can be granted still."""
    core = make(max_size=3, min_idle=3, dial_concurrency=1)
    core.start(0.0)
    for number in (ONE, TWO, THREE):
        core.connected(number, 0.0, 0.5)
    four, five = ConnectionId(4), ConnectionId(5)

    assert [HangUp(ONE, CloseReason.LIFETIME, polite=True), Dial(four)] == core.drain(1.0)
    assert [HangUp(TWO, CloseReason.LIFETIME, polite=True), Dial(five)] == core.connected(four, 2.0, 0.5)


def test_the_end_that_a_server_announces_is_a_retirement() -> None:
    """Saying it twice changes nothing."""
    core = make()
    opened(core)

    assert [Expiring(LeaseId(1)), Dial(TWO)] == core.retire(ONE, 1.0)
    assert [] == core.retire(ONE, 1.1)


def test_a_limit_met_by_surprise_ends_what_is_older_too() -> None:
    """The younger stay."""
    core = make(max_size=3, min_idle=3, dial_concurrency=1)
    core.start(0.0)
    for number, now in ((ONE, 0.0), (TWO, 10.0), (THREE, 20.0)):
        core.connected(number, now, 0.5)

    polite = HangUp(ONE, CloseReason.LIMIT, polite=True)
    assert [HangUp(TWO, CloseReason.LIMIT, polite=False), polite] == of(
        core.hang_up(TWO, CloseReason.LIMIT, 30.0), HangUp
    )
    assert [] == of(core.hang_up(TWO, CloseReason.LIMIT, 31.0), HangUp)


def test_closing_counts_if_asked_to() -> None:
    """For a server with a limit of its own, a goodbye still takes a place."""
    core = make(max_size=1, count_closing=True)
    opened(core)
    core.begin(LeaseId(1), 0.0)
    core.release(LeaseId(1), 1.0)

    assert [] == core.acquire(WaiterId(2), 1.0)
    assert [Dial(TWO)] == core.gone(ONE, 2.0)


@pytest.mark.hits("refuse: closed")
def test_closing_lets_leases_finish_and_force_does_not() -> None:
    """Waiters are refused at once; doing it twice does nothing."""
    core = make(max_size=1)
    opened(core, waiters=2)

    assert [Refuse(WaiterId(2), RefuseReason.CLOSED)] == core.close(1.0)
    assert [] == core.close(1.0)
    assert [Refuse(WaiterId(3), RefuseReason.CLOSED)] == core.acquire(WaiterId(3), 1.0)
    assert [HangUp(ONE, CloseReason.POOL_CLOSED, polite=True)] == core.release(LeaseId(1), 2.0)
    assert [] == core.force(3.0)


def test_force_cuts_what_is_left() -> None:
    """And closing closes what nobody holds, dials included."""
    core = make(max_size=2)
    opened(core)
    core.acquire(WaiterId(2), 0.0)

    assert [HangUp(TWO, CloseReason.POOL_CLOSED, polite=False)] == of(core.close(1.0), HangUp)
    assert [HangUp(ONE, CloseReason.POOL_CLOSED, polite=False)] == core.force(1.0)


def test_alarms_of_the_dead_do_not_pile_up() -> None:
    """Ten thousand short lives leave no more than a handful of deadlines."""
    core = make(max_size=1, ping_interval=20.0)
    for number in range(1, 10_001):
        core.acquire(WaiterId(number), 0.0)
        core.connected(ConnectionId(number), 0.0, 0.5)
        core.begin(LeaseId(number), 0.0)
        core.give_up(LeaseId(number), 0.0)  # while the server is at work: that says nothing about it
        core.release(LeaseId(number), 0.0)
        core.gone(ConnectionId(number), 0.0)

    assert len(core._lives.alarms) <= 100
    assert math.inf == core.next_deadline()


@pytest.mark.hits("refuse: the last hope has gone")
def test_who_loses_the_last_hope_is_told_at_once() -> None:
    """In an outage that is old already, whatever ends the last connection and the last dial."""
    failure = DialFailure(kind=FailureKind.TRANSIENT, message="no", phase="tcp", retry_after=400.0)
    one, two = ConnectionId(1), ConnectionId(2)
    ends = [
        partial(PoolCore.lost, connection=one, now=50.0, jitter=0.5),
        partial(PoolCore.hang_up, connection=one, reason=CloseReason.DIRTY, now=50.0),
        partial(PoolCore.clear, now=50.0, interrupt=True),
        partial(PoolCore.release, lease=LeaseId(1), now=50.0),
    ]
    for end in ends:
        core = make(give_up_after=5.0)
        core.acquire(WaiterId(1), 0.0)
        core.connected(one, 0.0, 0.5)
        core.begin(LeaseId(1), 0.0)
        core.acquire(WaiterId(2), 1.0)
        core.tick(2.0)
        core.dial_failed(two, 3.0, failure, 0.5)
        assert [] == core.tick(20.0), "the connection may come back"

        commands = end(core)

        assert Refuse(WaiterId(2), RefuseReason.DIAL_FAILED, failure) in commands
        assert [] == core.tick(50.0)


def test_who_waits_in_a_pool_full_of_goodbyes_is_told_when_it_is_hopeless() -> None:
    """There is no room for a dial, so no dial is due: the end of patience is."""
    failure = DialFailure(kind=FailureKind.TRANSIENT, message="no", phase="tcp", retry_after=400.0)
    core = make(give_up_after=5.0, count_closing=True)
    core.acquire(WaiterId(1), 0.0)
    core.connected(ConnectionId(1), 0.0, 0.5)
    core.begin(LeaseId(1), 0.0)
    core.acquire(WaiterId(2), 1.0)
    core.tick(2.0)
    core.dial_failed(ConnectionId(2), 3.0, failure, 0.5)
    core.resize(3.0, max_size=1)
    core.release(LeaseId(1), 4.0)

    assert 8.0 == core.next_deadline()
    assert [] == core.tick(7.9)
    assert [Refuse(WaiterId(2), RefuseReason.DIAL_FAILED, failure)] == core.tick(8.0)
