"""Storms: whatever a server does behind the handshake, it is not dialled more often than one that is away.

A server here is a script of behaviours, each for one connection. It is played to the core alone, for an hour
of virtual time, with nobody there, or with users who ask for a turn again as soon as the last one has ended.
"""

from __future__ import annotations

import enum
import heapq
import itertools
import random
from collections.abc import Callable, Sequence
from functools import partial

import attrs
import pytest
from hypothesis import given, settings, strategies as st

from tests.core.test_pool import of, reasons
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
    Ping,
    Refuse,
    WaiterId,
    Warm,
)
from wspool.core.failures import DialFailure, FailureKind
from wspool.core.lending.pool import PoolCore, Verdict
from wspool.core.outage import EARLY, FORGIVEN
from wspool.core.policy import OPENAI, PoolPolicy

HOUR = 3600.0
#: Dials after which nobody waits for the hour to be over: time may stand still meanwhile.
_STORM = 3000
#: Seconds after which a user whose turn was refused asks again. That has cost no connection; an hour of them
#: still has four times the turns that it takes to see a dial for each.
_REFLECTION = 3.0
REFUSED = DialFailure(kind=FailureKind.TRANSIENT, message="refused", phase="tcp")


class End(enum.Enum):
    """How a connection ends, or does not."""

    LOST = "the server closes it, with any code, or it is reset"
    DIRTY = "what comes on it must not"
    LIMIT = "the server says that it is at its limit"
    SILENT = "nothing comes, and no pong"
    NOTICE = "the server says that it will end soon, and ends it a moment later"


@attrs.frozen
class Behaviour:
    """What becomes of one connection.

    Attributes:
        after: seconds from the handshake, or from the begin of a turn, until its end.
        end: what it is.
        in_turn: True if it comes once a turn has begun, and does not before.
        answer: what the server says to each turn before: nothing, that it has begun, or that it is refused.
    """

    after: float
    end: End
    in_turn: bool = False
    answer: str = "nothing"


#: From at once to minutes, on both sides of every limit that is known.
delays = st.sampled_from([0.0, 0.001, 0.3, 4.9, 5.0, 5.1, 6.0, 20.0, 31.0, 61.0, 200.0])
behaviours = st.builds(
    Behaviour,
    after=delays,
    end=st.sampled_from(End),
    in_turn=st.booleans(),
    answer=st.sampled_from(["nothing", "begun", "refused"]),
)


class Storm:
    """One pool, one server of bad behaviour, some users.

    Args:
        policy: the limits of the pool.
        script: what becomes of connections, in turn and over and over; empty to refuse all of them.
        users: how many ask for turns all the time.
        patience: seconds after which a user gives a turn up on which nothing was heard.
        handshake: seconds that one takes; none where the server is near and the clock is coarse.
    """

    def __init__(
        self,
        policy: PoolPolicy,
        script: Sequence[Behaviour],
        users: int,
        *,
        patience: float = 30.0,
        warm_up: bool = False,
        handshake: float = 0.02,
        seed: int = 0,
    ) -> None:
        self.core = PoolCore(policy, OPENAI, warm_up=warm_up)
        self.script = itertools.cycle(script) if script else None
        self.users = users
        self.patience = patience
        self.handshake = handshake
        self.random = random.Random(seed)
        self.now = 0.0
        self.dials: list[float] = []
        self.turns = self.refusals = 0
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count(1)
        self._behaviour: dict[ConnectionId, Behaviour] = {}
        self._over: set[ConnectionId] = set()
        self._begun: set[LeaseId] = set()

    def run(self, until: float = HOUR) -> Storm:
        """Let it rage."""
        self.take(self.core.start(0.0))
        for _ in range(self.users):
            self.later(0.0, self.ask)
        while True:
            when = min(self.core.next_deadline(), self._due[0][0] if self._due else until)
            if when >= until or len(self.dials) > _STORM:
                return self
            self.now = max(self.now, when)
            if self._due and self._due[0][0] <= self.now:
                heapq.heappop(self._due)[2]()
            else:
                self.take(self.core.tick(self.now))

    def later(self, seconds: float, what: Callable[[], object]) -> None:
        heapq.heappush(self._due, (self.now + seconds, next(self._numbers), what))

    def jitter(self) -> float:
        return self.random.random()

    def take(self, commands: list[Command]) -> None:
        """Perform what the core says."""
        for command in commands:
            match command:
                case Dial(connection):
                    self.dials.append(self.now)
                    self.later(self.handshake, partial(self.answer_dial, connection))
                case HangUp(connection):
                    self._over.add(connection)
                    self.later(0.0, partial(self.gone, connection))
                case Grant(_, lease, connection, lane):
                    self.begin(lease, connection, lane)
                case Refuse():
                    self.refusals += 1
                    self.later(1.0, self.ask)
                case Warm(connection, lane):
                    self.later(0.05, partial(self.warmed, connection, lane))
                case Ping(connection):
                    self.ping(connection)
                case _:
                    pass

    # -- the server -----------------------------------------------------------------------------

    def answer_dial(self, number: ConnectionId) -> None:
        if number in self._over:
            return
        if self.script is None:
            self._over.add(number)
            self.take(self.core.dial_failed(number, self.now, REFUSED, self.jitter()))
            return
        behaviour = self._behaviour[number] = next(self.script)
        if not behaviour.in_turn:
            self.later(behaviour.after, lambda: self.end(number))
        self.take(self.core.connected(number, self.now, self.jitter()))

    def end(self, number: ConnectionId) -> None:
        """The time of a connection has come."""
        if number in self._over:
            return
        match self._behaviour[number].end:
            case End.LOST:
                self._over.add(number)
                self.take(self.core.lost(number, self.now, self.jitter()))
            case End.DIRTY:
                self.take(self.core.hang_up(number, CloseReason.DIRTY, self.now))
            case End.LIMIT:
                self.take(self.core.hang_up(number, CloseReason.LIMIT, self.now))
            case End.NOTICE:
                self._behaviour[number] = Behaviour(0.1, End.LOST)
                self.later(0.1, lambda: self.end(number))
                self.take(self.core.retire(number, self.now))
            case End.SILENT:
                pass  # the next ping finds out

    def ping(self, number: ConnectionId) -> None:
        silent = self._behaviour[number].end is End.SILENT

        def report() -> None:
            if number in self._over:
                return
            if silent:
                self.take(self.core.hang_up(number, CloseReason.LOST, self.now))
            else:
                self.take(self.core.ponged(number, self.now, self.now))

        self.later(60.0 if silent else 0.1, report)

    def gone(self, number: ConnectionId) -> None:
        self.take(self.core.gone(number, self.now))

    def warmed(self, number: ConnectionId, lane: LaneId) -> None:
        if number not in self._over:
            self.take(self.core.finished(number, lane, self.now, completed=False))

    # -- the users ------------------------------------------------------------------------------

    def ask(self) -> None:
        self.take(self.core.acquire(WaiterId(next(self._numbers)), self.now))

    def begin(self, lease: LeaseId, number: ConnectionId, lane: LaneId) -> None:
        """A user has a lane: a turn begins, and comes to its bad end."""

        def start() -> None:
            if not self.core.is_live(lease):
                self.again()
                return
            verdict, commands = self.core.begin(lease, self.now)
            self.take(commands)
            if verdict is not Verdict.GO:
                self.leave(lease)
                return
            self.turns += 1
            behaviour = self._behaviour[number]
            if behaviour.in_turn:
                self.later(behaviour.after, lambda: self.end(number))
            if behaviour.answer == "refused":
                self.later(0.05, lambda: self.refuse(lease, number, lane))
            else:
                self.later(0.0, lambda: self.watch(lease, self.now + self.patience))

        self.later(0.0, start)

    def refuse(self, lease: LeaseId, number: ConnectionId, lane: LaneId) -> None:
        if self.core.is_live(lease):
            self.take(self.core.finished(number, lane, self.now, completed=False))
        self.leave(lease, pause=_REFLECTION)

    def watch(self, lease: LeaseId, until: float) -> None:
        """See whether the turn is lost; after a while give it up."""
        if not self.core.is_live(lease):
            self.again()
        elif self.now < until:
            self.later(min(0.25, until - self.now), lambda: self.watch(lease, until))
        else:
            self.take(self.core.give_up(lease, self.now, heard=False))
            self.leave(lease)

    def leave(self, lease: LeaseId, pause: float = 0.05) -> None:
        self.take(self.core.release(lease, self.now))
        self.again(pause)

    def again(self, pause: float = 0.05) -> None:
        self.later(pause, self.ask)


def outage(policy: PoolPolicy, users: int, seed: int) -> int:
    """What an endpoint that refuses every connection costs."""
    return len(Storm(policy, [], users, seed=seed).run().dials)


def most(policy: PoolPolicy, users: int) -> int:
    """What the dials of an hour must not exceed.

    An outage of an hour costs some 250 where nobody waits, or where somebody says no. What is forgiven
    costs all connections that are wanted, each time, and that of the one that counts; twice, where a server
    announces the end, as the replacement is dialled before.
    """
    return 300 + 2 * (FORGIVEN + 1) * max(policy.min_idle, min(users, policy.max_size))


@given(
    script=st.lists(behaviours, min_size=1, max_size=4),
    users=st.sampled_from([0, 0, 1, 3, 40]),
    policy=st.sampled_from(
        [
            PoolPolicy(),
            PoolPolicy(min_idle=0),
            PoolPolicy(min_idle=20),
            PoolPolicy(max_size=4),
            PoolPolicy(on_cancel="drain"),
            PoolPolicy(count_closing=True, max_size=3),
        ]
    ),
    patience=st.sampled_from([0.5, 8.0, 30.0]),
    warm_up=st.booleans(),
    handshake=st.sampled_from([0.0, 0.02]),
    seed=st.integers(0, 1000),
)
@settings(deadline=None)
def test_no_behaviour_costs_more_than_an_outage(
    script: list[Behaviour],
    users: int,
    policy: PoolPolicy,
    patience: float,
    warm_up: bool,
    handshake: float,
    seed: int,
) -> None:
    """Errors, closes, silence, notices, warm-ups: nothing behind a handshake brings more of them."""
    storm = Storm(
        policy, script, users, patience=patience, warm_up=warm_up, handshake=handshake, seed=seed
    ).run()

    assert len(storm.dials) <= most(policy, users), (len(storm.dials), storm.turns, storm.refusals)


@pytest.mark.parametrize("handshake", [0.0, 0.02])
@pytest.mark.parametrize("end", End)
def test_each_end_at_once(end: End, handshake: float) -> None:
    """Every connection ends as soon as it is there, though the clock may not have moved since its dial."""
    for policy in (PoolPolicy(), PoolPolicy(min_idle=20)):
        storm = Storm(policy, [Behaviour(0.0, end)], 0, handshake=handshake).run()

        assert len(storm.dials) <= most(policy, 0)


@pytest.mark.parametrize("users", [0, 1, 40])
def test_what_an_outage_costs(users: int) -> None:
    """The measure of all storms, and itself bounded: by its length, not by how many wait."""
    costs = [outage(PoolPolicy(), users, seed) for seed in range(5)]

    assert max(costs) <= (850 if users else 300), costs
    assert min(costs) >= (550 if users else 180), costs


def test_an_end_is_judged_in_the_step_that_sees_it() -> None:
    """Also that of one which goes because its end was announced: nothing is left for the next input."""
    core, told = PoolCore(PoolPolicy(min_idle=0), OPENAI), list[Command]()
    for number in range(1, 2 * FORGIVEN + 2):  # a replacement on its way counts with what it replaces
        assert not told or not of(told, Degraded), "it was forgiven"
        now = 10.0 * number
        core.acquire(WaiterId(number), now)
        core.connected(ConnectionId(number), now, 0.5)
        core.retire(ConnectionId(number), now + EARLY)
        told = core.release(LeaseId(number), now + EARLY)
        assert [CloseReason.LIFETIME] == reasons(told)
    assert of(told, Degraded)
    assert [] == core.tick(now + EARLY)


@pytest.mark.parametrize("how", ["at once", "later"])
def test_an_announced_end_counts_once(how: str) -> None:
    """Spare that nobody has had is replaced at once the first time, and more slowly from then on; no outage
    begins with it, neither when it is announced nor when it comes.
    """
    core, now, number = PoolCore(PoolPolicy(min_idle=1), OPENAI), 0.0, 1
    core.start(0.0)
    core.connected(ConnectionId(number), now, 0.5)
    waits: list[float] = []
    for _ in range(4):
        now += 0.1 if how == "at once" else 100.0
        said = core.retire(ConnectionId(number), now)
        since = now
        while not of(said, Dial):
            now = core.next_deadline()
            said += core.tick(now)
        waits.append(now - since)
        said += core.connected(ConnectionId(number + 1), now, 0.5)
        assert [CloseReason.LIFETIME] == reasons(said)
        said += core.gone(ConnectionId(number), now)
        assert not of(said, Degraded), "an end that was announced counts twice"
        number += 1
    assert waits == sorted(waits)
    assert 0.0 == waits[0] < waits[2] < waits[3]
