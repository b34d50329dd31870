"""Who is remembered goes on where it was; who is not gets what nobody will miss. One story each."""

from __future__ import annotations

import math
from typing import Any

import pytest

from wspool.core.commands import (
    CloseReason,
    Command,
    ConnectionId,
    Dial,
    Grant,
    HangUp,
    LaneId,
    LeaseId,
    Stolen,
    WaiterId,
)
from wspool.core.lending.affinity import _AWAY
from wspool.core.lending.line import MAX_SKIPS
from wspool.core.lending.pool import PoolCore
from wspool.core.outage import FORGIVEN
from wspool.core.policy import PoolPolicy, Provider

LANE = LaneId(0)


class Pool:
    """A core, and who has what of it."""

    def __init__(self, *, warm_up: bool = False, **limits: Any) -> None:
        limits = {"max_size": 4, "min_idle": 0, "ping_interval": None, "patience": 1000.0, **limits}
        self.core = PoolCore(PoolPolicy(**limits), Provider(name="test"), warm_up=warm_up)
        self.last = 0
        self.leases: dict[int, LeaseId] = {}

    def ask(self, now: float, **wanted: Any) -> tuple[int, int | None]:
        """Ask for a lane; return the waiter, and the connection that it was granted, if any."""
        self.last += 1
        commands = self.core.acquire(WaiterId(self.last), now, **wanted)
        return self.last, self.take(commands, self.last)

    def take(self, commands: list[Command], waiter: int = 0) -> int | None:
        """Note who was granted what; return what *waiter* was."""
        granted = None
        for command in commands:
            if isinstance(command, Grant):
                self.leases[command.connection] = command.lease
                if command.waiter == waiter:
                    granted = command.connection
        return granted

    def opened(self, count: int, now: float = 0.0) -> None:
        """Open so many connections; their retirements are planned in the order of their numbers."""
        for number in range(1, count + 1):
            self.last += 1
            for command in self.core.acquire(WaiterId(self.last), now):
                if isinstance(command, Dial):
                    self.take(self.core.connected(command.connection, now, number / 10))
        for number in range(1, count + 1):
            self.core.release(self.leases[number], now)

    def turn(self, connection: int, response: int | None, now: float, *, keep: bool = False) -> None:
        """Take a turn on a connection that is leased, and give it back or park it."""
        lease = self.leases[connection]
        self.core.begin(lease, now)
        self.core.finished(ConnectionId(connection), LANE, now, response=response)
        self.take(self.core.park(lease, now) if keep else self.core.release(lease, now))

    def remembers(self, connection: int, response: int, now: float, *, keep: bool = False) -> None:
        """Let a free connection remember a response."""
        others = []
        while (found := self.ask(now)[1]) != connection:
            assert found is not None
            others.append(found)
        self.turn(connection, response, now, keep=keep)
        for other in others:
            self.core.release(self.leases[other], now)


@pytest.mark.hits("lane: in flight, finish")
def test_who_comes_back_gets_the_lane_that_remembers_it() -> None:
    """However many others are free, and whichever of them is fresher."""
    pool = Pool()
    pool.opened(3)
    for connection in (1, 2, 3):
        pool.remembers(connection, 100 + connection, 1.0)

    assert [2, 1, 3] == [pool.ask(2.0, prefer=response)[1] for response in (102, 101, 103)]


def test_newcomers_get_what_nobody_will_miss() -> None:
    """The freshest that remembers nothing, then what is over, then what was used longest ago."""
    pool = Pool(max_size=5)
    pool.opened(5)
    pool.remembers(2, 102, 1.0)
    pool.remembers(3, 103, 2.0)
    pool.remembers(1, 101, 3.0)
    assert [True, False] == [pool.core.remembers(response) for response in (103, 999)]
    pool.core.over(103, 4.0)
    pool.core.over(999, 4.0)  # which nobody knows

    assert [5, 4, 3, 2, 1] == [pool.ask(5.0)[1] for _ in range(5)]


def test_what_was_kept_for_a_conversation_is_of_use_as_soon_as_it_is_over() -> None:
    """Whoever is in line meanwhile has it at once, and does not wait for the dial that runs."""
    pool = Pool()
    pool.opened(1)
    pool.ask(1.0)
    pool.core.begin(pool.leases[1], 1.0, movable=True)
    pool.core.finished(ConnectionId(1), LANE, 2.0, response=101, calls=False)
    waiter, connection = pool.ask(3.0)
    assert connection is None, "it may come back, and there is room for another one"

    assert 1 == pool.take(pool.core.over(101, 3.1), waiter)


def test_what_was_kept_for_a_conversation_is_spare_as_soon_as_it_is_over() -> None:
    """What is about to go does not wait for the dial that runs: its replacement is there."""
    pool = Pool(max_size=3)
    pool.opened(2)
    for _ in range(2):
        pool.ask(1.0)
    pool.core.begin(pool.leases[1], 1.0, movable=True)
    pool.core.finished(ConnectionId(1), LANE, 2.0, response=101, calls=False)
    pool.core.release(pool.leases[2], 2.0)
    pool.core.resize(2.0, min_idle=1)
    assert [Dial(ConnectionId(3))] == pool.core.retire(ConnectionId(2), 2.0)

    assert [HangUp(ConnectionId(2), CloseReason.LIFETIME, polite=True)] == pool.core.over(101, 2.5)


def test_what_is_over_while_its_lane_is_in_use_is_spare_once_that_is_given_back() -> None:
    """The conversation keeps nothing there; who has the lane keeps it."""
    pool = Pool(max_size=3)
    pool.opened(2)
    for _ in range(2):
        pool.ask(1.0)
    pool.turn(1, 101, 1.0, keep=True)
    assert 1 == pool.ask(2.0, prefer=101)[1]
    pool.core.release(pool.leases[2], 2.0)
    pool.core.resize(2.0, min_idle=1)
    assert [Dial(ConnectionId(3))] == pool.core.retire(ConnectionId(2), 2.0)

    assert [] == pool.core.over(101, 2.5)
    gone = HangUp(ConnectionId(2), CloseReason.LIFETIME, polite=True)
    assert [gone] == pool.core.release(pool.leases[1], 3.0)


def test_what_was_kept_for_a_conversation_is_granted_while_no_dial_is_of_use() -> None:
    """What was dialled last has proved nothing yet, and the next dial has to wait: what is free does not."""
    pool = Pool()
    pool.opened(1)
    pool.ask(0.0)
    pool.core.begin(pool.leases[1], 0.0, movable=True)
    now = 1.0
    for connection in range(2, FORGIVEN + 4):
        pool.ask(now)
        now = max(now, pool.core._outage.dial_at(waited_for=True))
        pool.core.tick(now)
        pool.take(pool.core.connected(ConnectionId(connection), now, 0.5))
        if connection < FORGIVEN + 3:  # the last one is at work still
            pool.core.begin(pool.leases[connection], now)
            pool.core.lost(ConnectionId(connection), now, 0.5)
    pool.core.finished(ConnectionId(1), LANE, now, response=101, calls=False)
    assert not pool.core.statistics().degraded
    assert now < pool.core._outage.dial_at(waited_for=True)

    assert 1 == pool.ask(now)[1]


def test_what_is_granted_and_not_used_is_remembered() -> None:
    """Only a turn pushes out what a server holds."""
    pool = Pool()
    pool.opened(1)
    pool.remembers(1, 101, 1.0)
    pool.ask(2.0)
    pool.core.release(pool.leases[1], 2.0)
    assert 1 == pool.ask(3.0, prefer=101)[1]

    pool.turn(1, None, 3.0)  # it has failed
    assert {} == pool.core._roster.affinity.held


def test_an_id_that_two_lanes_hold_identifies_neither() -> None:
    """Not before both have forgotten it: the one that is left may be anybody's."""
    pool = Pool()
    pool.opened(3)
    pool.remembers(1, 7, 1.0)
    pool.remembers(2, 7, 2.0)
    pool.core.over(7, 2.5)  # whose?
    assert 3 == pool.ask(3.0, prefer=7)[1]
    assert 2 == pool.ask(3.0, prefer=7)[1], "as anybody, the fresher of what is nobody's loss"

    pool.turn(2, 8, 4.0)
    pool.core.release(pool.leases[3], 4.0)
    assert 3 == pool.ask(5.0, prefer=7)[1], "one is left"

    pool.ask(6.0, prefer=8)
    pool.ask(6.0)
    pool.turn(1, 9, 6.0)
    pool.turn(2, 7, 7.0)
    assert 2 == pool.ask(8.0, prefer=7)[1], "both have forgotten it, and one knows it anew"


def test_three_that_hold_one_id_forget_it_one_after_another() -> None:
    """A server that gives all its responses one name has no lane that can be asked for by it."""
    pool = Pool()
    pool.opened(3)
    for connection in (1, 2, 3):
        pool.remembers(connection, 7, 1.0)
    for _ in range(3):
        assert {7: None} == pool.core._roster.affinity.held
        granted = pool.ask(2.0)[1]
        assert granted is not None
        lease = pool.leases[granted]
        pool.core.begin(lease, 2.0)
        pool.core.finished(ConnectionId(granted), LANE, 2.0)

    assert {} == pool.core._roster.affinity.held


def test_a_parked_lane_is_given_up_to_whoever_goes_on_from_it() -> None:
    """It is the same conversation, wherever it is held: a branch, or one that was resumed."""
    pool = Pool(max_size=1)
    pool.opened(1)
    pool.remembers(1, 101, 1.0, keep=True)
    parked = pool.leases[1]

    commands = pool.core.acquire(WaiterId(50), 2.0, prefer=101)
    assert [Stolen(parked), Grant(WaiterId(50), LeaseId(parked + 1), ConnectionId(1), LANE)] == commands


def test_a_lane_in_use_is_not_waited_for() -> None:
    """Who prefers what somebody has takes what comes first, as all others do."""
    pool = Pool(max_size=2)
    pool.opened(2)
    pool.remembers(1, 101, 1.0)
    pool.ask(2.0, prefer=101)
    assert 2 == pool.ask(2.0, prefer=101)[1]
    waiter, granted = pool.ask(2.0, prefer=101)
    assert granted is None

    assert 2 == pool.take(pool.core.release(pool.leases[2], 3.0), waiter)


def test_who_waits_is_given_what_it_prefers_if_that_is_free_by_then() -> None:
    """In line nobody is overtaken; which of the free lanes one gets is another question."""
    pool = Pool(max_size=2)
    pool.opened(2)
    pool.remembers(1, 101, 1.0)
    pool.core.pause(2.0)
    waiter, granted = pool.ask(3.0, prefer=101)
    assert granted is None

    assert 1 == pool.take(pool.core.resume(4.0), waiter)


@pytest.mark.parametrize("keep", [False, True])
def test_who_is_remembered_passes_over_those_in_line_so_many_times(keep: bool) -> None:
    """The first in line wants more life than there is; the lane that it does not take serves others."""
    pool = Pool(max_size=1)
    pool.opened(1)
    pool.remembers(1, 100, 2000.0, keep=keep)
    first, granted = pool.ask(2000.0, min_remaining=pool.core.schedule.retire_from)
    if not keep:  # spare goes at once for what it needs
        assert granted is None
        assert {} == pool.core._roster.affinity.held
        return
    for number in range(MAX_SKIPS):
        assert 1 == pool.ask(2001.0, prefer=100 + number)[1]
        pool.turn(1, 101 + number, 2001.0, keep=True)

    assert pool.ask(2001.0, prefer=100 + MAX_SKIPS)[1] is None
    assert first in pool.core._allocation.waiters


def test_who_is_remembered_passes_over_nobody_who_was_passed_over_for_long() -> None:
    """However seldom that was: a few long turns are as long a wait as many short ones."""
    pool = Pool(max_size=1, patience=2.0)
    pool.opened(1)
    pool.remembers(1, 100, 2000.0, keep=True)
    pool.ask(2000.0, min_remaining=pool.core.schedule.retire_from)
    assert 1 == pool.ask(2001.0, prefer=100)[1]
    pool.turn(1, 101, 2001.0 + MAX_SKIPS * 2.0 - 0.1, keep=True)
    assert 1 == pool.ask(2001.0 + MAX_SKIPS * 2.0 - 0.1, prefer=101)[1]
    pool.turn(1, 102, 2001.0 + MAX_SKIPS * 2.0, keep=True)

    assert pool.ask(2001.0 + MAX_SKIPS * 2.0, prefer=102)[1] is None


def test_life_comes_before_what_is_preferred() -> None:
    """A lane without the life that is asked for is not granted."""
    pool = Pool(max_size=2)
    pool.opened(2)
    pool.remembers(1, 101, 1.0)
    pool.remembers(2, 102, 1.0)
    younger = pool.core._roster.connections[ConnectionId(2)].retire_at

    assert 2 == pool.ask(2.0, prefer=101, min_remaining=younger - 2.0)[1]


def test_what_is_about_to_go_is_preferred_only_if_there_is_nothing_else() -> None:
    """Who got it would have to move at once; one full request is due anyway."""
    pool = Pool(max_size=4, min_idle=2)
    for number in (1, 2):
        pool.core.start(0.0)
        pool.core.connected(ConnectionId(number), 0.0, number / 10)
    pool.remembers(1, 101, 1.0)
    pool.core.retire(ConnectionId(1), 3.0)  # it stays until its replacement is there

    assert [2, 1] == [pool.ask(3.0, prefer=101)[1] for _ in range(2)]


def test_warm_lanes_are_for_whom_the_warm_up_is_of_use() -> None:
    """Who can use it gets one before all others, who cannot gets one that is not warm."""
    pool = Pool(warm_up=True, min_idle=3)
    for command in pool.core.start(0.0):
        assert isinstance(command, Dial)
        pool.core.connected(command.connection, 0.0, command.connection / 10)
    pool.core.finished(ConnectionId(1), LANE, 1.0, completed=False, response=101)
    pool.core.finished(ConnectionId(2), LANE, 1.0, completed=False, response=None)
    pool.core.finished(ConnectionId(3), LANE, 1.0, completed=False, response=None)

    assert 1 == pool.ask(2.0, warm=True)[1]
    assert 3 == pool.ask(2.0, warm=True)[1], "there is no other"
    pool.core.release(pool.leases[1], 2.0)
    assert [2, 1] == [pool.ask(3.0)[1] for _ in range(2)]


def test_a_warm_lane_is_found_where_connections_live_for_ever() -> None:
    """Nothing tells them apart but their numbers then."""
    immortal = Provider(name="test", max_lifetime=math.inf)
    core = PoolCore(PoolPolicy(max_size=2, min_idle=2), immortal, warm_up=True)
    core.start(0.0)
    for number in map(ConnectionId, (1, 2)):
        core.connected(number, 0.0, 0.5)
        core.finished(number, LANE, 1.0, completed=False, response=101 if number == 1 else None)

    assert Grant(WaiterId(1), LeaseId(1), ConnectionId(1), LANE) in core.acquire(WaiterId(1), 2.0, warm=True)


def test_what_is_remembered_does_not_grow() -> None:
    """Ten thousand conversations on 64 connections leave what 64 lanes hold."""
    pool = Pool(max_size=64)
    pool.opened(64)
    for number in range(10_000):
        _, connection = pool.ask(float(number % 100))
        assert connection is not None
        pool.turn(connection, number, float(number % 100))
    affinity = pool.core._roster.affinity

    assert (64, 64, 0) == (len(affinity.held), len(affinity.idle), len(affinity._holders))


def test_of_those_who_are_away_a_bounded_number_is_remembered() -> None:
    """However many conversations lose their lane while their tools run: the latest are."""
    pool = Pool(max_size=1)
    pool.opened(1)
    for number in range(2 * _AWAY):
        now = number / 1000
        pool.ask(now)
        pool.core.begin(pool.leases[1], now, movable=True)
        pool.core.finished(ConnectionId(1), LANE, now, response=number, calls=True)
        pool.core.release(pool.leases[1], now)
    affinity = pool.core._roster.affinity

    assert len(affinity._away) == _AWAY
    assert [None, (2 * _AWAY - 2) / 1000] == [affinity.away_since(number) for number in (0, 2 * _AWAY - 2)]


def called(pool: Pool, now: float, response: int, *, calls: bool = True) -> int:
    """Take a turn of somebody who can go on elsewhere, and give the lane back; return its connection."""
    connection = pool.ask(now)[1]
    assert connection is not None
    pool.core.begin(pool.leases[connection], now, movable=True)
    pool.core.finished(ConnectionId(connection), LANE, now, response=response, calls=calls)
    pool.core.release(pool.leases[connection], now)
    return connection


def test_how_long_holders_are_away_is_seen_once_of_each() -> None:
    """Of those who called tools, whether or not their lane is there still. After an answer nobody is."""
    pool = Pool(max_size=1)
    pool.opened(1)
    affinity = pool.core._roster.affinity

    called(pool, 1.0, 101)
    assert [1.0, None] == [affinity.away_since(101) for _ in range(2)], "its lane is there still"
    called(pool, 2.0, 102)
    called(pool, 3.0, 103, calls=False)
    assert [2.0, None] == [affinity.away_since(102) for _ in range(2)], "its lane was taken"
    pool.remembers(1, 104, 4.0)
    pool.remembers(1, 105, 5.0)
    assert [None] * 4 == [affinity.away_since(response) for response in (101, 103, 104, 105)]


def test_who_failed_without_calling_tools_is_not_waited_for() -> None:
    """Its lane is kept while it decides what follows; that says nothing of tools."""
    pool = Pool(max_size=1)
    pool.opened(1)
    pool.ask(1.0)
    pool.core.begin(pool.leases[1], 1.0, movable=True)
    pool.core.finished(ConnectionId(1), LANE, 2.0, response=101, completed=False, calls=False)
    pool.core.release(pool.leases[1], 3.0)

    assert None is pool.core._roster.affinity.away_since(101)


def test_what_somebody_has_used_who_cannot_go_on_elsewhere_is_spare() -> None:
    """It is granted before another connection is dialled, and stays for as long as spare does."""
    pool = Pool(max_idle=100.0)
    pool.opened(1)
    pool.core.resize(1.0, min_idle=1)
    pool.remembers(1, 101, 50.0)

    assert [] == pool.core.tick(150.0)
    assert 1 == pool.ask(200.0)[1]


def test_what_is_kept_for_a_conversation_is_no_spare() -> None:
    """It goes after `max_idle`, other lanes that are spare stay."""
    pool = Pool(max_idle=100.0)
    pool.opened(2)
    kept = called(pool, 50.0, 101, calls=False)
    pool.core.resize(60.0, min_idle=1)

    ended = [command for now in (100.0, 150.0, 200.0) for command in pool.core.tick(now)]
    assert [HangUp(ConnectionId(kept), CloseReason.IDLE, polite=True)] == ended
