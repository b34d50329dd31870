"""Ages: a lifetime is learnt from connections that end at the same age, and from nothing else."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, strategies as st

from tests.core.test_pool import LANE, make, of, opened, run_to
from wspool.core.commands import (
    CloseReason,
    Command,
    ConnectionId,
    Dial,
    Grant,
    HangUp,
    LeaseId,
    LifetimeLearned,
    WaiterId,
)
from wspool.core.lending.ages import SAME, YOUNGEST, Ages, tolerance
from wspool.core.lending.endings import Endings
from wspool.core.lending.lanes import Connection, Lane
from wspool.core.lending.pool import PoolCore
from wspool.core.outage import Outage
from wspool.core.states import LaneState

GIVEN = 3600.0


def end(ages: Ages, age: float, now: float, *, oldest: float = 0.0) -> bool:
    """A connection has ended at that age."""
    return ages.ended(age, now, oldest=oldest, limit=min(ages.learned, GIVEN))


@given(
    lifetime=st.floats(YOUNGEST, GIVEN * 0.9),
    noise=st.lists(st.floats(-0.45, 0.45), min_size=SAME, max_size=SAME),
)
def test_ends_at_one_age_are_a_lifetime(lifetime: float, noise: list[float]) -> None:
    """After as many as it takes, not before; the shortest of them is planned with."""
    ages, now = Ages(), 0.0
    seen = [max(YOUNGEST, lifetime + each * tolerance(lifetime)) for each in noise]
    for index, age in enumerate(seen):
        now += 30.0
        assert (index == SAME - 1) is end(ages, age, now)

    assert min(seen) == ages.learned
    assert ages.learned < ages.outlived_at
    assert not end(ages, seen[0], now + 60.0), "it is what is planned with now"


@given(st.integers(2, 40), st.integers(2, 12), st.integers(0, 1 << 32))
def test_restarts_are_no_lifetime(connections: int, restarts: int, seed: int) -> None:
    """All connections end in one moment, whenever they began."""
    chance, ages, now = random.Random(seed), Ages(), 10_000.0
    for _ in range(restarts):
        now += chance.uniform(200.0, 3_000.0)
        lived = [chance.uniform(30.0, 3_000.0) for _ in range(connections - 1)]
        lived += [lived[0] + 2.5 * tolerance(lived[0])]  # they are not all of one age
        chance.shuffle(lived)
        for index, age in enumerate(lived):
            oldest = max(lived[index + 1 :], default=0.0)
            assert not end(ages, age, now + index * 0.001, oldest=oldest)

    assert math.inf == ages.learned


def test_what_ends_together_is_one_observation() -> None:
    """Twenty connections that were dialled together and end together say no more than one."""
    ages = Ages()
    for moment in (60.0, 120.0):
        assert not any(end(ages, 60.0, moment + number * 0.01) for number in range(20))

    assert end(ages, 60.0, 180.0)


def test_a_death_in_between_is_nothing() -> None:
    """Connections die of much, and younger than their time."""
    ages = Ages()
    found = [end(ages, age, 100.0 * index) for index, age in enumerate((60, 33, 60, 2, 45, 60))]

    assert [False] * 5 + [True] == found


def test_what_lives_longer_disproves_it() -> None:
    """One that has ended later, one that is there still, and one that is seen after it was learnt."""
    ages = Ages()
    assert not any(end(ages, age, 100.0 * index) for index, age in enumerate((60, 60, 90, 60)))
    assert not end(ages, 60.0, 1000.0, oldest=200.0)
    assert not any(end(ages, 60.0, now) for now in (2000.0, 2100.0))
    assert end(ages, 60.0, 2200.0)
    ages.outlived(63.0)
    assert (math.inf, math.inf) == (ages.learned, ages.outlived_at)
    assert not any(end(ages, 60.0, now) for now in (2200.5, 2300.0, 2400.0))


@pytest.mark.parametrize("age", [0.0, 1.0, YOUNGEST - 0.1, GIVEN, GIVEN - 30.0])
def test_what_is_young_or_as_planned_says_nothing(age: float) -> None:
    """Storms are another thing, and the lifetime that was given is no news."""
    ages = Ages()

    assert not any(end(ages, age, 4000.0 * index) for index in range(10))


@pytest.mark.parametrize(
    ("ages", "learned"),
    [((31.0, 31.0, 30.0), True), ((30.0, 31.0, 30.0), True), ((31.2, 31.2, 30.0), False)],
)
def test_ends_are_of_one_age_within_what_a_sweep_takes(ages: tuple[float, ...], learned: bool) -> None:
    """A second, of those that are young."""
    found = Ages()
    assert [False, False, learned] == [end(found, age, 100.0 * index) for index, age in enumerate(ages)]


@pytest.mark.parametrize(
    ("in_turn", "touched", "older", "learned"),
    [
        (True, 5.0, 0.0, True),
        (False, 35.0, 0.0, True),
        (False, 25.0, 0.0, False),
        (False, 59.0, 10.0, False),
    ],
)
def test_an_end_counts_where_the_connection_was_in_use(
    in_turn: bool, touched: float, older: float, learned: bool
) -> None:
    """In a turn, or not long after one; and where none lives that is older."""
    endings = Endings(Outage(math.inf, 1))
    for number in range(SAME):
        born = 100.0 * (number + 1)
        ended = Connection(ConnectionId(number), born, 0, opened_at=born, proven=True)
        ended.touched_at = born + touched
        ended.lanes = [Lane(LANE), Lane(LANE, LaneState.IN_FLIGHT if in_turn else LaneState.IDLE)]
        oldest = Connection(ConnectionId(0), born - older, 0, opened_at=born - older)
        found = endings.ended(ended, born + 60.0, GIVEN, oldest)
    assert learned is found


# -- in a pool --------------------------------------------------------------------------------------


class Endpoint:
    """A user with one turn after another, and an endpoint that ends connections at some age."""

    def __init__(self, core: PoolCore, lifetime: float) -> None:
        self.core = core
        self.lifetime = lifetime
        self.now = 0.0
        self.waiters = self.lost = self.dials = 0
        self.alive: dict[ConnectionId, float] = {}
        self.said: list[float | None] = []
        self.take(core.start(0.0))

    def take(self, commands: list[Command]) -> Grant | None:
        granted = None
        todo = list(commands)
        while todo:
            command = todo.pop(0)
            if isinstance(command, Dial):
                self.dials += 1
                self.alive[command.connection] = self.now
                todo += self.core.connected(command.connection, self.now, 0.5)
            elif isinstance(command, HangUp):
                self.alive.pop(command.connection, None)
                todo += self.core.gone(command.connection, self.now)
            elif isinstance(command, LifetimeLearned):
                self.said.append(command.seconds)
            elif isinstance(command, Grant):
                granted = command
        return granted

    def pass_time(self, seconds: float) -> None:
        until = self.now + seconds
        while True:
            deaths = [born + self.lifetime for born in self.alive.values()]
            self.now = max(self.now, min([until, self.core.next_deadline(), *deaths]))
            if self.now >= until:
                return
            for number, born in [*self.alive.items()]:
                if number in self.alive and self.now >= born + self.lifetime:
                    self.end(number)
            self.take(self.core.tick(self.now))

    def end(self, number: ConnectionId) -> None:
        del self.alive[number]
        self.take(self.core.lost(number, self.now, 0.5))

    def turn(self, seconds: float, *, min_remaining: float = 0.0) -> None:
        """A turn on whatever lane there is."""
        self.waiters += 1
        asked = self.core.acquire(WaiterId(self.waiters), self.now, min_remaining=min_remaining)
        granted = self.take(asked)
        while granted is None:
            self.now = max(self.now, self.core.next_deadline())
            granted = self.take(self.core.tick(self.now))
        _, commands = self.core.begin(granted.lease, self.now)
        self.take(commands)
        self.pass_time(seconds)
        if self.core.is_live(granted.lease):
            self.take(self.core.finished(granted.connection, granted.lane, self.now))
        else:
            self.lost += 1
        self.take(self.core.release(granted.lease, self.now))


@pytest.mark.parametrize("lifetime", [30.0, 60.0, 300.0])
def test_a_pool_that_was_told_nothing_loses_a_few_turns(lifetime: float) -> None:
    """Then it plans as if it had been told, says so once, and loses none."""
    endpoint = Endpoint(make(min_idle=1), lifetime)
    for _ in range(400):
        endpoint.turn(lifetime / 13)
        endpoint.pass_time(0.1)

    assert [lifetime] == endpoint.said
    assert lifetime == endpoint.core.statistics().learned_lifetime
    assert SAME + 1 >= endpoint.lost


def test_a_lifetime_that_was_learnt_and_is_wrong_is_forgotten() -> None:
    """A turn that goes on beyond it shows that; what lives then is planned as it was before."""
    endpoint = Endpoint(make(min_idle=1), 60.0)
    for _ in range(40):
        endpoint.turn(7.0)
    assert [60.0] == endpoint.said
    endpoint.lifetime = math.inf
    endpoint.turn(70.0)

    assert [60.0, None] == endpoint.said
    assert None is endpoint.core.statistics().learned_lifetime
    assert GIVEN == endpoint.core.schedule.lifetime
    dials = endpoint.dials
    endpoint.pass_time(2000.0)
    assert dials + 1 >= endpoint.dials, "the one that was past its time is replaced"


def test_what_disproves_a_lifetime_leaves_what_ended_later() -> None:
    """One of those that ended later counts still, when others come to the same age."""
    endpoint = Endpoint(make(min_idle=0, max_idle=math.inf), 900.0)
    lost = []
    for lifetime, first, turns in ((900.0, 7.0, 130), (60.0, 7.0, 40), (900.0, 70.0, 300)):
        endpoint.lifetime, before = lifetime, endpoint.lost
        endpoint.turn(first)
        for _ in range(turns):
            endpoint.turn(7.0)
        lost.append(endpoint.lost - before)

    assert [60.0, None, 900.0] == endpoint.said
    assert [1, SAME, SAME - 1] == lost


def test_an_idle_timeout_is_no_lifetime() -> None:
    """Connections that end so long after their last turn, at the same age or not."""
    endpoint = Endpoint(make(min_idle=1), math.inf)
    for _ in range(10):
        endpoint.turn(2.0)
        endpoint.pass_time(58.0)
        for number in [*endpoint.alive]:
            endpoint.end(number)

    assert [] == endpoint.said


def at_work(core: PoolCore, number: int, age: float) -> float:
    """Open a connection that has had a turn, and has another from that age on; return when that was."""
    now = number * 1000.0
    core.acquire(WaiterId(number), now)
    core.connected(ConnectionId(number), now, 0.5)
    core.begin(LeaseId(number), now)
    core.finished(ConnectionId(number), LANE, now + 1.0)
    core.begin(LeaseId(number), now + age)
    return now


@pytest.mark.parametrize(
    ("reason", "older", "learned"),
    [
        (CloseReason.LIMIT, False, [LifetimeLearned(900.0)]),
        (CloseReason.LIMIT, True, []),
        (CloseReason.DIRTY, False, []),
    ],
)
def test_the_limit_that_a_server_names_is_learnt_as_well(
    reason: CloseReason, older: bool, learned: list[Command]
) -> None:
    """With its own error, a moment before the close; unless one lives that is older, or we end it."""
    core = make(min_idle=0)
    said: list[Command] = []
    opened(core, waiters=int(older))
    for number in range(1 + older, SAME + 1 + older):
        now = at_work(core, number, 899.0)
        said += of(core.hang_up(ConnectionId(number), reason, now + 900.0), LifetimeLearned)
        core.gone(ConnectionId(number), now + 900.0)

    assert learned == said


def test_a_connection_is_in_use_while_a_tail_arrives() -> None:
    """Whoever began that turn has left; the server was at work on it all the same."""
    core = make(min_idle=0, on_cancel="drain", drain_timeout=60.0)
    said: list[Command] = []
    for number in range(1, SAME + 1):
        now = at_work(core, number, 890.0)
        core.give_up(LeaseId(number), now + 895.0)
        said += of(core.lost(ConnectionId(number), now + 900.0, 0.5), LifetimeLearned)

    assert [LifetimeLearned(900.0)] == said


def test_who_waits_for_more_life_than_there_is_gets_what_there_is() -> None:
    """Else its wish could never come true, and the pool would dial for it for ever."""
    core = make(min_idle=0, max_size=1)
    opened(core)
    core.acquire(WaiterId(2), 1.0, min_remaining=core.schedule.retire_from)
    core._replan(60.0, [])
    dials = of(core.release(LeaseId(1), 20.0), Dial)
    assert [Dial(ConnectionId(2))] == dials

    assert [WaiterId(2)] == [
        each.waiter for each in core.connected(ConnectionId(2), 20.0, 0.5) if isinstance(each, Grant)
    ]


def test_what_lives_is_planned_anew() -> None:
    """Open ones, with and without free lanes, one that retires, one that was cleared: none is forgotten."""
    core = make(min_idle=0, max_size=4, max_idle=1e9)
    opened(core, waiters=4)
    core.release(LeaseId(1), 1.0)
    core.release(LeaseId(2), 1.0)
    core.retire(ConnectionId(2), 2.0)
    core.clear(3.0)
    for command in core.acquire(WaiterId(9), 4.0):
        assert isinstance(command, Dial)
        core.connected(command.connection, 4.0, 0.5)
    before = {number: each.grant_end for number, each in core._roster.connections.items() if each.usable}
    for lifetime in (60.0, None, 90.0):
        core._replan(lifetime, [])
        limit = GIVEN if lifetime is None else lifetime
        for number, each in core._roster.connections.items():
            if each.usable:
                assert each.born + limit == each.expires_at
                assert each.grant_end <= max(each.last_start, before[number])
                assert (each.grant_end == each.last_start) is (before[number] > 3.0)
                assert each.retire_at < each.expires_at
    run_to(core, 200.0)
    assert 0 == len(core._lives.calendar) + len(core._lives.alarms)


def test_idle_spare_of_a_short_life_is_not_replaced_for_ever() -> None:
    """A lifetime is learnt on the word of a server: nobody there, it costs no more than an outage."""
    endpoint = Endpoint(make(min_idle=2), YOUNGEST)
    for _ in range(60):
        endpoint.turn(3.0)
    assert [YOUNGEST] == endpoint.said
    dials = endpoint.dials
    endpoint.pass_time(3600.0)

    assert endpoint.dials - dials <= 300


def test_what_is_not_trusted_stays_so_whatever_is_learnt_of_lifetimes() -> None:
    """All are cleared, a lifetime is learnt, and one disproves it: the other is not lent again either."""
    core = make(max_size=3, max_idle=math.inf)
    said = []
    for number, now in enumerate((0.0, 1000.0, 2000.0), 1):
        core.acquire(WaiterId(number), now)
        short_lived = max(core.states())
        core.connected(short_lived, now, 0.5)
        core.begin(LeaseId(number), now)
        if number == SAME:
            for witness in (4, 5):
                core.acquire(WaiterId(witness), now + 10.0)
                core.tick(now + 11.0)
                core.connected(max(core.states()), now + 11.0, 0.5)
                core.begin(LeaseId(witness), now + 11.0)
        core.finished(short_lived, LANE, now + 990.0)
        if number == SAME:
            core.clear(now + 995.0)
        said += of(core.lost(short_lived, now + 1000.0, 0.5), LifetimeLearned)
    assert [LifetimeLearned(1000.0)] == said

    one, other, *_ = core.states()
    assert LifetimeLearned(None) in core.finished(one, LANE, 3100.0)
    assert [] == core.finished(other, LANE, 3101.0)
    for waiter in (6, 7):
        core.acquire(WaiterId(waiter), 3101.5)
    assert HangUp(other, CloseReason.CLEARED, True) in core.release(LeaseId(5), 3102.0)
