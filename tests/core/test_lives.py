"""What a connection leaves behind when it is over: nothing, however long it might have lived."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import attrs
import pytest
from hypothesis import given, strategies as st

from tests.core.test_pool import make, of, reasons, run_to
from wspool.core.commands import (
    CloseReason,
    Command,
    ConnectionId,
    Degraded,
    Dial,
    Grant,
    HangUp,
    LaneId,
    LeaseId,
    WaiterId,
)
from wspool.core.failures import DialFailure, FailureKind
from wspool.core.lending.alarms import Alarms
from wspool.core.lending.pool import PoolCore, Verdict
from wspool.core.outage import FORGIVEN
from wspool.core.policy import PoolPolicy, Provider
from wspool.core.states import ConnectionState, IllegalInputError, LaneState

DOWN = DialFailure(kind=FailureKind.TRANSIENT, message="no answer", phase="tcp")

#: Short ones, long ones, some beyond what floats can tell apart, one without end.
LIFETIMES = (20.0, 3600.0, 1e9, 1e15, 1e18, 1e300, math.inf)
ENDS = ("lost", "hang up", "clear", "retire", "fail")


def test_an_alarm_is_the_only_one_of_its_kind() -> None:
    """Setting it again moves it, and taking it back leaves nothing."""
    alarms: Alarms[str] = Alarms()
    alarms.set("tea", 5.0)
    alarms.set("egg", 4.0)
    alarms.set("tea", 3.0)
    alarms.set("hay", math.inf)

    assert (2, 3.0) == (len(alarms), alarms.next)
    alarms.cancel("egg")
    alarms.cancel("egg")
    assert None is alarms.pop_due(2.0)
    assert "tea" == alarms.pop_due(3.0)
    assert (0, math.inf, None) == (len(alarms), alarms.next, alarms.pop_due(math.inf))


def test_of_two_alarms_at_once_the_first_that_was_set_rings_first() -> None:
    """What is watched need not be comparable."""
    alarms: Alarms[object] = Alarms()
    things = [object() for _ in range(3)]
    for thing in things:
        alarms.set(thing, 1.0)

    assert things == [alarms.pop_due(1.0) for _ in things]


def close_all(core: PoolCore, commands: list[Command], now: float) -> None:
    """Answer every hang-up."""
    for command in commands:
        if isinstance(command, HangUp):
            core.gone(command.connection, now)


@given(
    lifetime=st.sampled_from(LIFETIMES),
    limits=st.sampled_from(
        [{}, {"retire_spread": 0.0}, {"turn_reserve": math.inf, "retire_margin": math.inf}]
    ),
    steps=st.lists(st.tuples(st.sampled_from(ENDS), st.integers(1, 4), st.floats(0.0, 30.0)), max_size=60),
)
def test_nothing_is_kept_of_what_is_over(
    lifetime: float, limits: dict[str, float], steps: list[tuple[str, int, float]]
) -> None:
    """Whatever opens and closes, alarms and calendar know of those that are there and of no others."""
    provider = Provider(name="test", max_lifetime=lifetime)
    policy = PoolPolicy(max_size=4, min_idle=0, ping_interval=20.0, leak_after=60.0, **limits)  # type: ignore[arg-type] # all are floats
    core = PoolCore(policy, provider)
    now, waiter = 0.0, 0
    for how, count, pause in steps:
        for _ in range(count):
            waiter += 1
            commands = core.acquire(WaiterId(waiter), now)
            for command in commands:
                if isinstance(command, Dial) and how == "fail":
                    core.dial_failed(command.connection, now, DOWN, 0.0)
                elif isinstance(command, Dial):
                    core.connected(command.connection, now, 0.5)
            if WaiterId(waiter) in core._allocation.waiters:
                core.abandon(WaiterId(waiter), now)
        now += pause
        while core.next_deadline() <= now:
            close_all(core, core.tick(now), now)
        for connection, (state, _) in core.states().items():
            if state is ConnectionState.DIALING:
                continue  # the replacement of one that retires
            match how:
                case "lost":
                    core.lost(connection, now, 0.5)
                case "hang up":
                    close_all(core, core.hang_up(connection, CloseReason.DIRTY, now), now)
                case "retire":
                    core.retire(connection, now)
                case _:
                    pass
        if how == "clear":
            close_all(core, core.clear(now, interrupt=True), now)
        alive = core.statistics().open + core.statistics().retiring
        assert len(core._lives.alarms) <= 6 * alive
        assert len(core._lives.calendar) == (0 if math.isinf(lifetime) else alive)

    close_all(core, core.force(now), now)
    assert (0, 0) == (len(core._lives.alarms), len(core._lives.calendar))
    assert {} == core._roster.unreported
    assert math.inf == core.next_deadline()


def test_a_thousand_that_end_together_leave_nothing() -> None:
    """Not what there was room for while they lived, either."""
    core = PoolCore(PoolPolicy(max_size=1000, min_idle=1000, dial_concurrency=1000), Provider(name="test"))
    for command in core.start(0.0):
        assert isinstance(command, Dial)
        core.connected(command.connection, 0.0, command.connection / 1000 % 1)
    close_all(core, core.force(1.0), 1.0)

    assert (0, 0) == (len(core._lives.alarms), len(core._lives.calendar))


@pytest.mark.hits("lane: leased, release")
def test_a_lease_that_ends_is_not_waited_for() -> None:
    """A report that nobody will make is forgotten with its lease, not when it would have been due."""
    core = PoolCore(PoolPolicy(max_size=1, min_idle=0, leak_after=3600.0), Provider(name="test"))
    for number in range(1, 1001):
        for command in core.acquire(WaiterId(number), 0.0):
            if isinstance(command, Dial):
                core.connected(command.connection, 0.0, 0.5)
        (lease,) = core._roster.leases
        core.release(lease, 0.0)

    assert {} == core._roster.unreported


@pytest.mark.parametrize("lifetime", LIFETIMES)
@pytest.mark.parametrize(
    "limits", [{}, {"turn_reserve": math.inf}, {"retire_margin": math.inf}, {"retire_spread": math.inf}]
)
def test_a_schedule_is_made_of_numbers(lifetime: float, limits: dict[str, float]) -> None:
    """In order, and without the difference of two infinities, whatever a policy asks for."""
    policy = PoolPolicy(**limits)  # type: ignore[arg-type] # all are floats
    schedule = policy.schedule(Provider(name="test", max_lifetime=lifetime))

    assert (
        0
        <= schedule.retire_from
        <= schedule.retire_to
        <= schedule.last_start
        <= schedule.lifetime
        == lifetime
    )
    assert 0 <= schedule.spread < math.inf
    assert math.isinf(schedule.retire_from) or schedule.retire_to == schedule.retire_from + schedule.spread


def test_a_life_without_end_is_as_long_as_anybody_asks() -> None:
    """Every connection has enough of it left, and the pool may be made larger."""
    core = PoolCore(
        PoolPolicy(max_size=1, min_idle=0, max_lifetime=math.inf),
        Provider(name="test", max_lifetime=math.inf),
    )
    core.acquire(WaiterId(1), 0.0)
    for connection in core.states():
        core.connected(connection, 0.0, 0.5)
    core.resize(1.0, max_size=2)
    (lease,) = core._roster.leases
    core.release(lease, 2.0)

    assert 1 == core.statistics().idle
    core.acquire(WaiterId(2), 3.0, min_remaining=1e12)
    assert 1 == core.statistics().leased
    assert 0.0 == core._lives.calendar.gap
    assert {math.inf} == set(attrs.astuple(core.schedule))


def test_what_is_not_trusted_stays_so_whatever_is_learnt_of_lifetimes() -> None:
    """No turn is started on it, by whoever has a lane of it either; what is in flight goes on."""
    policy = PoolPolicy(max_size=1, min_idle=0, lanes=2, ping_interval=None)
    core = PoolCore(policy, Provider(name="lanes", lanes=2))
    core.acquire(WaiterId(1), 0.0)
    core.connected(ConnectionId(1), 0.0, 0.5)
    core.begin(LeaseId(1), 0.0)
    core.widen(ConnectionId(1), 0.0)
    core.acquire(WaiterId(2), 0.0)
    core.begin(LeaseId(2), 0.0)

    core.distrust(ConnectionId(1), 1.0)
    core._replan(1800.0, [])
    core.finished(ConnectionId(1), LaneId(1), 2.0)

    assert (Verdict.MOVE, []) == core.begin(LeaseId(2), 2.0)
    assert core.is_live(LeaseId(1))
    assert [] == core.acquire(WaiterId(3), 2.0)
    # Once more changes nothing, and neither does it later.
    assert [] == core.distrust(ConnectionId(1), 3.0)
    assert (Verdict.MOVE, []) == core.begin(LeaseId(2), 3.0)
    core.hang_up(ConnectionId(1), CloseReason.DIRTY, 4.0)
    assert [] == core.distrust(ConnectionId(1), 4.0)


def test_what_is_not_trusted_starts_no_turn() -> None:
    """What is free of it has ended, and nothing is left for whoever comes; it goes with the last turn."""
    core = make(max_size=2, lanes=3)
    core.acquire(WaiterId(1), 0.0)
    core.connected(ConnectionId(1), 0.0, 0.5)
    core.acquire(WaiterId(2), 0.0)
    core.begin(LeaseId(1), 0.0)
    core.distrust(ConnectionId(1), 1.0)

    assert (Verdict.MOVE, []) == core.begin(LeaseId(2), 1.0)
    assert [] == core.acquire_nowait(WaiterId(3), 1.0)
    lanes = (LaneState.IN_FLIGHT, LaneState.LEASED, LaneState.DEAD)
    assert core.states()[ConnectionId(1)] == (ConnectionState.RETIRING, lanes)
    assert [] == core.release(LeaseId(2), 2.0)
    assert [
        HangUp(ConnectionId(1), CloseReason.DIRTY, polite=False),
    ] == core.finished(ConnectionId(1), LaneId(0), 3.0)
    assert not core.is_live(LeaseId(1))


def test_what_is_not_trusted_and_free_goes_at_once() -> None:
    """And it is told why."""
    core = make(min_idle=1)
    core.start(0.0)
    core.connected(ConnectionId(1), 0.0, 0.5)

    commands = core.distrust(ConnectionId(1), 1.0)
    assert [HangUp(ConnectionId(1), CloseReason.DIRTY, polite=True), Dial(ConnectionId(2))] == commands


LIMIT = CloseReason.LIMIT
#: What is done to the older of two connections: by the caller, by what came on it, by the end of the younger.
CLEARING: dict[CloseReason, Callable[[PoolCore, Grant, Grant, float], list[Command]]] = {
    CloseReason.CLEARED: lambda core, _older, _younger, now: core.clear(now),
    CloseReason.DIRTY: lambda core, older, _younger, now: core.distrust(older.connection, now),
    LIMIT: lambda core, _older, younger, now: core.hang_up(younger.connection, LIMIT, now),
}


def cleared_in_use(core: PoolCore, whys: Sequence[CloseReason], now: float) -> list[Command]:
    """Clear a connection in use that no turn was completed on; return what is said once it is given back."""
    waiter, commands = core.statistics().granted, [] if core.states() else core.start(now)
    for number in (1, 2):
        for dial in of(core.acquire(WaiterId(waiter + number), now), Dial):
            assert isinstance(dial, Dial)
            commands += core.connected(dial.connection, now, 0.5)
    older, younger = of(commands, Grant)
    assert isinstance(older, Grant)
    assert isinstance(younger, Grant)
    for grant in (older, younger):
        core.begin(grant.lease, now)
        core.finished(grant.connection, LaneId(0), now + 1.0, completed=grant is younger and LIMIT in whys)
    for why in whys:
        CLEARING[why](core, older, younger, now + 2.0)
    return core.release(older.lease, now + 3.0)


@pytest.mark.parametrize("then", CLEARING)
@pytest.mark.parametrize("why", CLEARING)
def test_what_is_not_granted_any_more_goes_for_the_reason_of_that(
    why: CloseReason, then: CloseReason
) -> None:
    """Not for its age, as soon as its last lane is given back; what comes after the first reason is none."""
    core = make(max_size=2)
    assert [why] == reasons(cleared_in_use(core, [why, then], 0.0))
    assert why in core.statistics().closed


@pytest.mark.parametrize(
    ("why", "ill"), [(CloseReason.CLEARED, False), (CloseReason.DIRTY, True), (LIMIT, False)]
)
def test_only_what_the_endpoint_did_to_a_connection_speaks_against_it(why: CloseReason, ill: bool) -> None:
    """That none was of use, again and again, is an outage; a caller who clears them says nothing."""
    core = make(max_size=2)
    said: list[Command] = []
    for now in range(0, 100 * (FORGIVEN + 1), 100):
        said += cleared_in_use(core, [why], float(now))
        for left, (state, _) in core.states().items():
            if state is not ConnectionState.CLOSING:
                core.hang_up(left, CloseReason.CLEARED, now + 4.0)
            core.gone(left, now + 5.0)

    assert [why] * (FORGIVEN + 1) == reasons(said)
    assert ill is bool(of(said, Degraded))
    assert ill is core._outage.doubtful


@pytest.mark.parametrize("leased", [False, True])
def test_what_retires_is_kept_until_no_turn_may_start_on_it(leased: bool) -> None:
    """While its replacement is dialled, however long it is idle; and it does not retire again."""
    core = make(min_idle=1, max_idle=10.0)
    core.start(0.0)
    if leased:
        core.acquire(WaiterId(1), 0.0)
    core.connected(ConnectionId(1), 0.0, 0.5)
    core.retire(ConnectionId(1), 5.0, announced=False)
    core.release(LeaseId(1), 6.0)

    last_start = core.schedule.last_start
    while (now := core.next_deadline()) < last_start:
        assert [] == core.tick(now)
    assert [HangUp(ConnectionId(1), CloseReason.LIFETIME, polite=True)] == core.tick(last_start)
    assert core.statistics().retirements == 1


def test_no_turn_is_started_from_the_last_start_on() -> None:
    """Without being asked, all lanes that are free or parked end then, and the leases on them are lost."""
    core = make(max_size=1, lanes=4)
    core.acquire(WaiterId(1), 0.0)
    core.connected(ConnectionId(1), 0.0, 0.5)
    for number in (2, 3):
        core.acquire(WaiterId(number), 0.0)
    core.begin(LeaseId(1), 0.0)
    for number in (2, 3):
        core.park(LeaseId(number), 0.0)
    run_to(core, core.schedule.last_start)

    lanes = (LaneState.IN_FLIGHT, LaneState.DEAD, LaneState.DEAD, LaneState.DEAD)
    assert core.states() == {ConnectionId(1): (ConnectionState.RETIRING, lanes)}
    assert core.statistics().lost_leases == 2


def test_a_lease_in_between_makes_it_idle_anew() -> None:
    """Though nobody had it when it was looked at. It is looked at no more often for that."""
    core = make(max_idle=30.0)
    core.acquire(WaiterId(1), 0.0)
    core.connected(ConnectionId(1), 0.0, 0.5)
    core.release(LeaseId(1), 10.0)
    for number, taken, looked_at in ((2, 20.0, 30.0), (3, 40.0, 55.0)):
        core.acquire(WaiterId(number), taken)
        core.release(LeaseId(number), taken + 5.0)
        assert core.next_deadline() == looked_at
        assert [] == core.tick(looked_at)

    assert [] == run_to(core, 74.0)
    assert [HangUp(ConnectionId(1), CloseReason.IDLE, polite=True)] == core.tick(75.0)


def test_a_larger_pool_has_room_for_more_retirements() -> None:
    """So they may be closer to each other."""
    core = make(max_size=2)
    gap = core._lives.calendar.gap
    core.resize(0.0, max_size=8)

    assert core._lives.calendar.gap == gap / 4


def test_what_cannot_be_changes_nothing() -> None:
    """A dial that has succeeded does not fail."""
    core = make()
    core.acquire(WaiterId(1), 0.0)
    core.connected(ConnectionId(1), 0.0, 0.5)
    with pytest.raises(IllegalInputError):
        core.dial_failed(ConnectionId(1), 1.0, DOWN, 0.5)

    assert core.is_live(LeaseId(1))
