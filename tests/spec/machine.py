"""The specification of the pool, as one machine that Hypothesis drives.

Every slow effect has a rule that starts it (through a command) and a rule that finishes it, so
that anything can happen in between: a dial is answered or not, a turn ends or does not, a
hang-up takes its time. What must hold is asserted in three places: in `World` for each
command, in the rules for what they provoke, and in the invariants, each named after what it
promises.
"""

from __future__ import annotations

import enum
import functools
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import attrs
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.spec.world import Connection, Lane, On, World
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
    RefuseReason,
    Returned,
    Stolen,
    WaiterId,
)
from wspool.core.failures import DialFailure, FailureKind
from wspool.core.lending.affinity import Use
from wspool.core.lending.allocation import DEFERRAL, HEAD_START
from wspool.core.lending.line import MAX_SKIPS
from wspool.core.lending.pool import PoolCore, Verdict
from wspool.core.outage import BACKOFF_BASE, BACKOFF_CAP, WAITED_FOR_CAP, WAITED_FOR_SHARE
from wspool.core.policy import PoolPolicy, Provider
from wspool.core.states import CONNECTION_TABLE, LANE_TABLE, ConnectionState, LaneState, Naming

#: The rows of the legality tables that were read, for the test that all of them were.
visited: set[tuple[enum.Enum, enum.Enum]] = set()


class _Row(dict[Any, Any]):
    """One row of a legality table that notes what is looked up in it."""

    def __init__(self, state: enum.Enum, row: Mapping[Any, Any]) -> None:
        super().__init__(row)
        self.state = state

    def __getitem__(self, what: Any) -> Any:
        after = super().__getitem__(what)
        visited.add((self.state, what))
        return after


#: The rules that fired, for the test that all of them did.
fired: set[str] = set()


def noted(body: Callable[..., None]) -> Callable[..., None]:
    """Note that the rule fires."""

    @functools.wraps(body)
    def wrapper(*args: Any, **drawn: Any) -> None:
        fired.add(body.__name__)
        body(*args, **drawn)

    return wrapper


# In the tables themselves: who else watches them (`tests.marks`) does so too.
for _table in (CONNECTION_TABLE, LANE_TABLE):
    cast("dict[Any, Any]", _table).update({state: _Row(state, row) for state, row in _table.items()})

#: Any random number the shell may draw.
jitters = st.floats(0, 1, exclude_max=True, allow_nan=False)
#: Which of the candidates a rule picks: an index, taken modulo their number.
picks = st.integers(0, 1000)
#: What may be said of a connection that is over.
LATE = ("lost", "hang_up", "retire", "distrust", "widen", "ponged", "finished")
#: How long each turn takes of somebody who takes many.
turn_times = st.sampled_from([0.0, 0.0, 0.0, 1.5, 5.0])

policies = st.builds(
    PoolPolicy,
    max_size=st.integers(2, 5),
    min_idle=st.integers(0, 2),
    max_idle=st.sampled_from([30.0, 500.0]),
    dial_concurrency=st.integers(1, 4),
    lanes=st.sampled_from([1, 3, 3]),
    max_waiting=st.sampled_from([None, None, 0, 2]),
    give_up_after=st.sampled_from([5.0, 120.0]),
    ping_interval=st.sampled_from([None, 20.0, 300.0]),
    on_cancel=st.sampled_from(["hang_up", "drain"]),
    patience=st.sampled_from([0.0, 2.0, 2.0]),
    leak_after=st.sampled_from([None, 10.0]),
    count_closing=st.sampled_from([False, False, True]),
)
providers = st.builds(
    Provider,
    name=st.just("spec"),
    max_lifetime=st.sampled_from([100.0, 3600.0, 3600.0, math.inf]),
    lanes=st.sampled_from([1, 1, 2, 3]),
)
kinds = st.sampled_from(
    [FailureKind.TRANSIENT, FailureKind.TRANSIENT, FailureKind.CREDENTIAL, FailureKind.LOCAL]
)


class Driver:
    """Drives nothing: the core alone. Others drive something that must stay in step with it."""

    #: True if its timekeeper ticks by itself, as soon as a deadline has passed.
    prompt = False

    def advance(self, now: float, to: float) -> float:
        """Let time pass; return what time it is then, at least *to*."""
        return max(now, to)

    def perform(self, verb: str, args: tuple[Any, ...], kwargs: dict[str, Any], world: World) -> None:
        """Make happen what the core was told."""

    def cancel_as_granted(self, lease: LeaseId, waiter: WaiterId, heir: LeaseId, now: float) -> None:
        """Give *lease* back and cancel *waiter*, who is granted it as *heir*, before it wakes up."""

    def ends_as_asked(
        self, number: ConnectionId, waiter: WaiterId, rounds: int, *, now: float, jitter: float
    ) -> bool:
        """Let a connection end, and *waiter* ask *rounds* later; return whether the end was known then."""
        return rounds > 0

    def compare(self, core: PoolCore, world: World) -> None:
        """Assert that both are in the same state."""

    def end(self) -> None:
        """Take everything down, and assert that nothing is left."""


class PoolMachine(RuleBasedStateMachine):
    """One pool, everything that can happen to it, and what must hold all the same."""

    core: PoolCore
    world: World

    # -- the one gate to the core ---------------------------------------------------------------

    @initialize(
        policy=policies,
        provider=providers,
        warm_up=st.booleans(),
        turns=st.integers(0, 3),
        parked=st.integers(0, 2),
        named=st.sampled_from(["all", "all", "some", "none"]),
        answered=st.booleans(),
    )
    def open(
        self,
        policy: PoolPolicy,
        provider: Provider,
        warm_up: bool,
        turns: int,
        parked: int = 0,
        named: str = "all",
        answered: bool = False,
    ) -> None:
        self.named = named
        policy, provider = self.adapt(policy, provider)
        self.now = 0.0
        self.setup = (policy, provider, warm_up)
        self.policy = policy
        self.core = PoolCore(policy, provider, warm_up=warm_up)
        self.world = World(policy, provider)
        self.last_waiter = self.last_response = 0
        self.line_since = -math.inf
        self.shrunk = False
        self.trace: list[tuple[str, tuple[Any, ...], dict[str, Any], Any]] = []
        self.driver = self.make_driver()
        self.step("start")
        # Most of what can go wrong needs a turn in flight, or two on one connection, and a random walk seldom
        # gets that far.
        for _ in range(turns):
            if answered and self.on_trial():
                self.answer_begins(0)
            self.acquire()
            while self.world.dials and self.world.waiters:
                self.dial_succeeds(0, 0.5)
            if self.leases_with(On.NOTHING):
                self.begin(0, False)
            if parked and self.leases_with(On.TURN):
                parked -= 1
                self.turn_ends(0)
                if self.idle_leases():
                    self.park(0)

    def adapt(self, policy: PoolPolicy, provider: Provider) -> tuple[PoolPolicy, Provider]:
        """Restrict what is drawn to what the driven thing has."""
        return policy, provider

    def make_driver(self) -> Driver:
        """Return what is driven in step with the core."""
        return Driver()

    def step(self, verb: str, *args: Any, **kwargs: Any) -> list[Command]:
        """Feed one input to the core, and what it says to the world."""
        commands = self.feed(verb, *args, **kwargs)
        while self.driver.prompt and verb != "tick" and self.core.next_deadline() <= self.now:
            self.feed("tick")
        kwargs["now"] = self.now
        self.driver.perform(verb, args, kwargs, self.world)
        self.driver.compare(self.core, self.world)
        return commands

    def feed(self, verb: str, *args: Any, **kwargs: Any) -> list[Command]:
        """Feed one input to the core alone."""
        dials_before = len(self.world.dials)
        kwargs["now"] = self.now
        answer = getattr(self.core, verb)(*args, **kwargs)
        self.trace.append((verb, args, kwargs, answer))
        commands: list[Command] = answer[1] if verb == "begin" else answer
        self.check_breaks(commands)
        if verb == "tick":
            self.check_siblings(commands)
        if verb not in ("dial_failed", "give_up", "release", "lost", "hang_up"):
            self.check_blame(commands)
        self.world.down = self.core._outage.down
        self.world.patience = self.core._allocation.keeping.patience()
        assert 0 <= self.world.patience <= self.policy.patience
        self.world.full_send = self.core._allocation.keeping.full_send
        for number, known in self.core._roster.connections.items():
            if number in self.world.connections:  # else its dial begins with this step
                seen = self.world.connections[number]
                seen.retire_at = known.retire_at
                if known.key[0] == -math.inf and not seen.retiring:
                    seen.retiring, seen.left_after = True, self.world.highest_connection
        self.world.take(commands, self.now)
        if verb == "acquire_nowait" and args[0] in self.world.waiters:
            self.world.waiters.remove(args[0])  # it does not wait
        if verb == "begin" and answer[0] is Verdict.GO:
            self.world.began(args[0], movable=kwargs["movable"])
        self.world.asking = None
        states = self.core.states()
        for connection in self.world.open:
            state, lanes = states[connection.id]
            connection.retiring = state is ConnectionState.RETIRING
            connection.retire_at = self.core._roster.connections[connection.id].retire_at
            for track, lane in zip(connection.lanes, lanes, strict=True):
                if lane is LaneState.DEAD and not track.dead:
                    self.world.bury(connection, track, self.now)
        if not self.world.waiters:
            self.line_since = -math.inf
        elif math.isinf(self.line_since):
            self.line_since = self.now
        self.check_dials(dials_before)
        self.world.note_surplus(self.now)
        return commands

    def check_dials(self, before: int) -> None:
        """A dial is started only if somebody needs it at that instant (contract: no needless open)."""
        dials = len(self.world.dials)
        if dials > before:
            assert self.need(deferred=self.deferred) > (dials - 1) * self.world.lanes, "needless dial"
            assert dials <= self.policy.dial_concurrency
            if self.core.failure is not None:
                assert dials == 1, "more than one prober in an outage"

    def check_siblings(self, commands: list[Command]) -> None:
        """Time alone ends no connection on which somebody is at work, but what is over the server's limit."""
        for command in commands:
            if isinstance(command, HangUp) and command.reason is CloseReason.DIRTY:
                lanes = self.world.connections[command.connection].lanes
                assert not any(track.on is On.TURN for track in lanes), "siblings were dropped"

    def check_blame(self, commands: list[Command]) -> None:
        """An end that was announced was told then, if nobody had it: it is no failure when it comes."""
        if any(isinstance(command, Degraded) for command in commands):
            ends = [self.world.connections[each.connection] for each in commands if isinstance(each, HangUp)]
            assert any(end.lent or not end.announced for end in ends), "an announced end counts twice"

    @property
    def deferred(self) -> bool:
        """Whether what is in use may come back to those in line sooner than a dial ends."""
        return bool(self.world.open) and self.now < self.line_since + DEFERRAL

    def need(self, *, deferred: bool = False) -> int:
        """How many lanes are wanted that are not there."""
        world = self.world
        fresh = sum(world.fresh(connection) for connection in world.open)
        movers = sum(
            track.lease is not None
            for connection in world.open
            if connection.retiring
            for track in connection.lanes
        )
        spare = fresh + world.count(On.WARM_UP)
        # While nothing is granted, what is free will do for those who wait.
        waiting = max(0, len(world.waiters) - spare) if world.paused else len(world.waiters)
        if deferred:
            waiting = min(waiting, HEAD_START * world.lanes)
        return waiting + max(0, self.policy.min_idle + movers - spare)

    def check_breaks(self, commands: list[Command]) -> None:
        """Make before break: a planned retirement alone never costs spare while there is room."""
        size, others, returned = self.world.size, self.world.open, 0
        for command in commands:
            if isinstance(command, Returned):  # in this very step, of which the world hears when it is over
                where = self.world.leases[command.lease]
                returned += self.world.use(where[0], where[0].lanes[where[1]])[0] < Use.CLAIMED
            left = isinstance(command, HangUp) and not self.policy.count_closing
            size += isinstance(command, Dial) - left
            if isinstance(command, HangUp):
                others = [other for other in others if other.id != command.connection]
                if command.reason is CloseReason.IDLE:
                    idle = self.world.connections[command.connection]
                    ready = self.world.instead(idle, others) + self.lately(idle, others)
                    assert ready >= self.policy.min_idle, "spare was taken for surplus"
            if getattr(command, "reason", None) is not CloseReason.LIFETIME:
                continue
            connection = self.world.connections[command.connection]  # type: ignore[union-attr] # a HangUp
            if self.now < self.world.grant_end(connection):
                assert connection.retiring or self.core.statistics().retirements
                spare = returned + sum(
                    self.world.fresh(other) for other in self.world.open if other is not connection
                )
                full = size + left >= self.world.policy.max_size  # as it was before this one went
                assert spare >= self.policy.min_idle or full, "broke before make"
                states = self.core.states()
                steady = all(
                    (states[other.id][0] is not ConnectionState.OPEN) is other.retiring
                    for other in self.world.open
                    if other is not connection
                )
                if connection.retiring and steady and spare < self.policy.min_idle:
                    closed = {each.connection for each in commands if isinstance(each, HangUp)}
                    dials = [dial for dial in self.world.dials if dial.id not in closed]
                    coming = len(dials) * self.world.lanes
                    assert coming < self.need(), "broke before make, although it was on its way"

    def lately(self, connection: Connection, others: list[Connection]) -> int:
        """How many lanes are newer than *connection* that retires, and began to retire in this very step.

        Those that were spare before are not counted again.
        """
        known = self.core._roster.connections
        return sum(
            self.world.free(other) - self.world.fresh(other)
            for other in others
            if connection.retiring and other.id > connection.left_after
            if not other.retiring and known[other.id].key[0] == -math.inf
        )

    # -- waiters --------------------------------------------------------------------------------

    @rule(
        remaining=st.sampled_from([0.0, 0.0, 0.0, 0.2, 0.95]),
        prefer=st.sampled_from([None, None, 0, 1, 2, 3]),
        warm=st.booleans(),
    )
    @precondition(lambda self: len(self.world.waiters) < 5)
    @noted
    def acquire(self, remaining: float = 0.0, prefer: int | None = None, warm: bool = False) -> None:
        known = sorted({lane.response for _, lane in self.world.tracks if lane.response is not None})
        self.ask(remaining, known[prefer % len(known)] if known and prefer is not None else None, warm=warm)

    def ask(
        self,
        remaining: float = 0.0,
        prefer: int | None = None,
        *,
        warm: bool = False,
        again: WaiterId | None = None,
    ) -> None:
        """Somebody asks for a lane, that of the response *prefer* if it can be, maybe *again*."""
        self.last_waiter += again is None
        waiter = self.world.asking = again or WaiterId(self.last_waiter)
        self.world.join(waiter)
        self.world.preferred[waiter] = prefer
        self.world.warms -= {waiter}
        if warm:
            self.world.warms.add(waiter)
        # A part of what a connection has at best.
        min_remaining = remaining * min(self.world.schedule.retire_from, 1e6)
        self.world.wanted[waiter] = min_remaining
        goes_on = self.world.may_go_on(waiter, self.now)
        commands = self.step("acquire", waiter, min_remaining=min_remaining, prefer=prefer, warm=warm)
        if goes_on:
            granted = [command for command in commands if isinstance(command, Grant)]
            assert granted, "it was not granted the lane that remembers it"
            assert granted[0].waiter == waiter, "it was not granted the lane that remembers it"
        refused = [command for command in commands if getattr(command, "waiter", None) == waiter]
        if self.world.closing:
            assert [command.reason for command in refused] == [RefuseReason.CLOSED]  # type: ignore[union-attr]
        elif self.policy.max_waiting is not None and waiter in self.world.waiters:
            assert len(self.world.waiters) <= self.policy.max_waiting, "the line is too long"

    @rule(pick=picks, remaining=st.sampled_from([0.0, 0.0, 0.95]))
    @precondition(lambda self: self.world.dead_leases and len(self.world.waiters) < 5)
    @noted
    def come_back(self, pick: int, remaining: float) -> None:
        """Who has lost its lane through no fault of its own stands before all who came after it."""
        waiter = self.world.holders[self.choose(self.world.dead_leases, pick)]
        if waiter not in self.world.waiters:
            self.ask(remaining, again=waiter)

    @rule()
    @precondition(lambda self: len(self.world.waiters) < 4 and self.world.open)
    @noted
    def acquire_a_young_one(self) -> None:
        """Who wants more life than anything open has is first, and who does not care waits behind."""
        self.wait_until(self.now + 21.0)
        self.acquire(1.0)
        self.acquire()
        if self.idle_leases():
            self.release(0, False)

    @rule()
    @noted
    def acquire_nowait(self) -> None:
        self.last_waiter += 1
        waiter = WaiterId(self.last_waiter)
        line = list(self.world.waiters)
        before = self.world.granted
        self.world.join(waiter)
        commands = self.step("acquire_nowait", waiter)
        if line:
            assert not any(getattr(command, "waiter", None) == waiter for command in commands)
        else:
            assert not any(isinstance(command, Stolen) for command in commands), "what is parked is not free"
        assert self.world.granted <= before + 1 + len(line)

    @rule(pick=picks)
    @precondition(lambda self: self.world.waiters)
    @noted
    def abandon(self, pick: int) -> None:
        waiter = self.world.waiters.pop(pick % len(self.world.waiters))
        dials = len(self.world.dials)
        self.step("abandon", waiter)
        assert len(self.world.dials) >= dials, "cancelling a waiter stopped a dial"

    # -- dials ----------------------------------------------------------------------------------

    @rule(pick=picks, jitter=jitters)
    @precondition(lambda self: self.world.dials)
    @noted
    def dial_succeeds(self, pick: int, jitter: float) -> None:
        connection = self.choose(self.world.dials, pick)
        self.world.connect(connection)
        connection.ping_at = self.now + (self.policy.ping_interval or math.inf)
        self.step("connected", connection.id, jitter=jitter)

    @rule(
        pick=picks,
        jitter=jitters,
        kind=kinds,
        retry_after=st.sampled_from([None, None, 0.0, 7.0, 400.0]),
        phase=st.sampled_from(["tcp", "upgrade"]),
    )
    @precondition(lambda self: self.world.dials)
    @noted
    def dial_fails(
        self,
        pick: int,
        jitter: float,
        kind: FailureKind,
        retry_after: float | None,
        phase: str = "tcp",
    ) -> None:
        connection = self.choose(self.world.dials, pick)
        del self.world.connections[connection.id]
        self.world.closed += 1
        failure = DialFailure(kind=kind, message="spec", phase=phase, retry_after=retry_after)
        probe_before = self.core._outage.probe_at
        commands = self.step("dial_failed", connection.id, failure=failure, jitter=jitter)
        if kind is FailureKind.LOCAL:
            assert not any(isinstance(command, Degraded) for command in commands), "it is not the endpoint"
        dialled = any(isinstance(command, Dial) for command in commands)  # then it is about the next already
        if (probe_at := self.core._outage.probe_at) != probe_before and not dialled:
            first = any(isinstance(command, Degraded) for command in commands)
            bound, share = BACKOFF_BASE if first else BACKOFF_CAP, jitter
            if kind is FailureKind.LOCAL:
                bound, share = WAITED_FOR_CAP, (1 + jitter) / 2
            elif kind is FailureKind.TRANSIENT and not first:
                bound = max(WAITED_FOR_CAP, WAITED_FOR_SHARE[phase] * self.now)
                share = (1 + jitter) / 2
            floor = retry_after or 0.0
            assert self.now + floor <= probe_at, "the prober does not wait as long as it was asked to"
            assert probe_at <= self.now + max(share * bound, floor), "the jitter only makes it longer"
        if self.core.failure is failure and failure.permanent:
            assert not self.world.waiters or self.world.dials, "waiters were left hoping"

    @rule(ends=st.sampled_from([(False, True, False), (False, False, True), (True, False, False)]))
    @precondition(lambda self: self.world.dials and len(self.world.waiters) < 3)
    @noted
    def dials_end_together(self, ends: tuple[bool, ...]) -> None:
        """Some begun before an outage end after it was noticed, or after it is over."""
        for _ in range(2):
            self.acquire()
        for well in ends:
            if not self.world.dials:
                break
            if well:
                self.dial_succeeds(0, 0.5)
            else:
                self.dial_fails(0, 0.5, FailureKind.TRANSIENT, None)
            self.warm()

    # -- turns ----------------------------------------------------------------------------------

    @rule(pick=picks, movable=st.booleans(), late=st.integers(0, 7).map(lambda drawn: drawn == 7))
    @precondition(lambda self: self.leases_with(On.NOTHING))
    @noted
    def begin(self, pick: int, movable: bool, late: bool = False) -> None:
        """A turn starts, or the holder comes back to a connection that is too old for one."""
        lease = self.choose(self.leases_with(On.NOTHING), pick)
        if late and (last := self.world.last_start(self.world.leases[lease][0])) < math.inf:
            self.wait_until(last)
        if lease in self.world.leases:
            self.begin_on(lease, movable)

    def begin_on(self, lease: LeaseId, movable: bool) -> None:
        connection, _ = self.world.leases[lease]
        parked = self.world.track(lease).parked_at is not None
        first = self.world.waiters[0] if self.world.waiters else None
        passed_over = parked and first is not None and not self.world.paused
        due = passed_over and self.world.is_due(first, self.now)  # type: ignore[arg-type] # not None
        skipped = due and self.world.suits(connection, self.now)
        before = dict(self.world.skips), dict(self.world.places)
        if passed_over and not due:  # in the very step that follows it may have been too often
            self.world.pass_over(None, self.now)
        self.step("begin", lease, movable=movable)
        verdict = next(answer[0] for verb, _, _, answer in reversed(self.trace) if verb == "begin")
        if self.now >= self.world.last_start(connection):
            assert verdict is Verdict.MOVE, "a turn was started that may not finish"
        elif skipped:
            assert verdict is Verdict.MOVE, "a waiter was passed over too often"
        elif not (movable and connection.retiring):
            assert verdict is Verdict.GO
        if verdict is not Verdict.GO:
            self.world.skips, self.world.places = before

    @rule(pick=picks)
    @precondition(lambda self: self.idle_leases())
    @noted
    def park(self, pick: int) -> None:
        """The holder's tools run."""
        self.park_on(self.choose(self.idle_leases(), pick))

    def park_on(self, lease: LeaseId) -> None:
        self.world.track(lease).parked_at = self.now
        self.step("park", lease)

    @rule(pick=picks, remaining=st.sampled_from([0.0, 0.2, 1.0]), seconds=turn_times)
    @precondition(lambda self: self.world.parked and len(self.world.waiters) < 4)
    @noted
    def holder_goes_on_and_on(self, pick: int, remaining: float, seconds: float = 0.0) -> None:
        """A holder whose tools are quick passes over whoever is in line, again and again."""
        self.acquire(remaining)
        for _ in range(MAX_SKIPS + 1):
            parked = [lease for lease, track in self.tracks() if track.parked_at is not None]
            if not parked:
                break
            lease = self.choose(parked, pick)
            self.begin_on(lease, False)
            self.wait_until(self.now + seconds)
            if lease in self.world.leases and self.world.track(lease).on is On.TURN:
                self.end_turn(lease)
            if lease in self.world.leases and self.world.track(lease).parked_at is None:
                self.park_on(lease)

    @rule(remaining=st.sampled_from([0.2, 0.95]))
    @precondition(
        lambda self: self.leases_with(On.NOTHING) and not self.world.waiters and not self.world.closing
    )
    @noted
    def parked_at_two_ages(self, remaining: float) -> None:
        """An old connection and a young one are parked in a full pool, and somebody wants some life."""
        self.wait_until(self.now + 21.0)
        self.acquire()
        if self.world.waiters and self.world.dials:
            self.dial_succeeds(0, 0.5)
        self.resize(max(1, self.world.size), 0)
        for lease in self.idle_leases():
            if lease in self.world.leases:
                self.park_on(lease)
        self.acquire(remaining)

    @rule(pick=picks)
    @precondition(lambda self: self.on_trial())
    @noted
    def answer_begins(self, pick: int) -> None:
        """The first answer on a connection on trial: the endpoint has more lanes, or has not."""
        self.answer(self.choose(self.on_trial(), pick))

    def answer(self, connection: Connection) -> None:
        """Something comes on the lane of *connection*."""
        if connection.trial:
            names = self.named == "all" or (self.named == "some" and connection.id % 3 > 0)
            self.world.answering = connection
            self.world.answer(connection, self.now, names=names)
            if not names:
                connection.lanes[0].created = self.new_response(connection)
            if names:
                self.step("widen", connection.id)
            else:
                self.step("narrow")

    def on_trial(self) -> list[Connection]:
        """Connections that wait for their first answer."""
        return [
            connection
            for connection in self.world.open
            if connection.trial and connection.lanes[0].on is not On.NOTHING
        ]

    @rule(pick=picks, completed=st.sampled_from([True, True, False]), calls=st.booleans())
    @precondition(lambda self: self.leases_with(On.TURN))
    @noted
    def turn_ends(self, pick: int, completed: bool = True, calls: bool = True) -> None:
        lease = self.choose(self.leases_with(On.TURN), pick)
        self.end_turn(lease, completed=completed, calls=calls and completed)

    def end_turn(self, lease: LeaseId, *, completed: bool = True, calls: bool = True) -> None:
        connection, lane = self.world.leases[lease]
        self.answer(connection)
        response = self.remember(connection, lane) if completed else None
        if not completed:
            self.world.remember(self.world.track(lease), None, self.now)
        track = self.world.track(lease)
        self.turn_is_over(track, keeps=calls or not completed)
        returns = track.returning
        self.step("finished", connection.id, lane, completed=completed, response=response, calls=calls)
        track.returning = False
        if returns:
            assert lease not in self.world.leases, "nothing follows, and the lane is kept"

    @rule(pick=picks, sent=st.booleans())
    @precondition(lambda self: self.leases_with(On.TURN))
    @noted
    def give_up(self, pick: int, sent: bool = True) -> None:
        self.give_up_on(self.choose(self.leases_with(On.TURN), pick), sent=sent)

    def give_up_on(self, lease: LeaseId, *, sent: bool = True) -> None:
        connection, _ = self.world.leases[lease]
        self.abandon_turn(self.world.track(lease))
        self.step("give_up", lease, heard=False, sent=sent)
        dropped = (self.policy.on_cancel == "hang_up" or not sent) and len(connection.lanes) == 1
        assert connection.closing is dropped, "a dirty connection was kept, or siblings were dropped"

    @rule(pick=picks)
    @precondition(lambda self: self.tracks_with(On.TAIL))
    @noted
    def tail_ends(self, pick: int) -> None:
        connection, lane = self.choose(self.tracks_with(On.TAIL), pick)
        self.answer(connection)
        track = connection.lanes[lane]
        holder = track.lease
        self.turn_is_over(track, keeps=False)
        response = self.remember(connection, lane)
        track.over = True
        returns = track.returning
        self.step("finished", connection.id, lane, response=response)
        track.returning = False
        if returns:
            assert holder not in self.world.leases, "nothing follows, and the lane is kept"

    @rule(pick=picks)
    @precondition(lambda self: self.siblings())
    @noted
    def tail_ends_too_late(self, pick: int) -> None:
        """Its lane is not used any more, while its siblings go on: nothing may come of it.

        The turn is given up here if it is not yet: a walk seldom leaves one so long beside another.
        """
        connection, lane = self.choose(self.siblings(), pick)
        track = connection.lanes[lane]
        if track.on is On.TURN:
            assert track.lease is not None
            self.give_up_on(track.lease)
        if track.on is On.TAIL:
            self.wait_until(track.tail_until)
        if not track.late or connection not in self.world.open:
            return
        track.late = False
        before = self.core.statistics()

        assert [] == self.step("finished", connection.id, lane)
        assert before == self.core.statistics()

    def siblings(self) -> list[tuple[Connection, LaneId]]:
        """The turns, and the rests of some, waited for or not, beside which another turn is in flight."""
        return [
            (connection, LaneId(lane))
            for connection in self.world.open
            for lane, track in enumerate(connection.lanes)
            if (track.on in (On.TURN, On.TAIL) or track.late)
            and any(other.on is On.TURN for other in connection.lanes if other is not track)
        ]

    @rule(pick=picks)
    @precondition(lambda self: self.tracks_with(On.WARM_UP))
    @noted
    def warm_up_ends(self, pick: int) -> None:
        connection, lane = self.choose(self.tracks_with(On.WARM_UP), pick)
        self.answer(connection)
        connection.lanes[lane].on = On.NOTHING
        response = self.remember(connection, lane, warm=True)
        self.step("finished", connection.id, lane, completed=False, response=response)

    # -- what is remembered -----------------------------------------------------------------------

    def new_response(self, connection: Connection) -> int:
        """Return the id of a new response; now and then one that another connection has used as well."""
        self.last_response += 1
        used = {lane.response for other, lane in self.world.tracks if other is not connection}
        again = sorted(used - connection.carried - {None})  # type: ignore[type-var] # no None among them
        response: int = again[0] if again and self.last_response % 5 == 0 else self.last_response  # type: ignore[assignment]
        connection.carried.add(response)
        return response

    def remember(self, connection: Connection, lane: int, *, warm: bool = False) -> int:
        """A response has ended well on a lane; return its id."""
        track = connection.lanes[lane]
        response = self.new_response(connection) if track.created is None else track.created
        self.world.remember(track, response, self.now, warm=warm)
        return response

    def remembered(self) -> list[tuple[Connection, Lane]]:
        return [(c, lane) for c, lane in self.world.tracks if lane.response is not None]

    @rule(pick=picks)
    @precondition(lambda self: self.remembered())
    @noted
    def conversation_is_over(self, pick: int) -> None:
        """Nobody will come back to what a lane remembers."""
        response = self.choose(self.remembered(), pick)[1].response
        free = False
        if (held := self.world.holder(response)) is not None:
            held[1].over = True
            free = self.world.is_free(held[1])
        assert [] == self.step("over", response) or free, "nothing came free, and something changed"

    @rule(pick=picks, between=st.integers(0, 2), movable=st.booleans())
    @precondition(lambda self: self.leases_with(On.NOTHING) and len(self.world.waiters) < 3)
    @noted
    def conversation_comes_back(self, pick: int, between: int, movable: bool = False) -> None:
        """It takes a turn, gives its lane back, and asks for it again; others may have come meanwhile."""
        lease = self.choose(self.leases_with(On.NOTHING), pick)
        self.begin_on(lease, movable)
        if lease not in self.world.leases or self.world.track(lease).on is not On.TURN:
            return
        track = self.world.track(lease)
        self.end_turn(lease, calls=False)
        response = track.response
        if lease in self.world.leases:
            self.release_of(lease)
        for _ in range(between):
            self.ask()
        self.ask(0.0, response)

    @rule(pick=picks, parked=st.booleans(), seconds=turn_times)
    @precondition(lambda self: self.leases_with(On.NOTHING) and len(self.world.waiters) < 4)
    @noted
    def who_is_remembered_goes_on_and_on(self, pick: int, parked: bool, seconds: float = 0.0) -> None:
        """It passes over whoever is in line, again and again, whether or not it has kept its lane."""
        lease = self.choose(self.leases_with(On.NOTHING), pick)
        self.ask(1.0)
        for _ in range(MAX_SKIPS + 1):
            if lease not in self.world.leases:
                return
            self.begin_on(lease, False)
            self.wait_until(self.now + seconds)
            if lease not in self.world.leases or self.world.track(lease).on is not On.TURN:
                return
            self.end_turn(lease)
            response = self.world.track(lease).response
            if parked:
                self.park_on(lease)
            else:
                self.release_of(lease)
            before = set(self.world.leases)
            self.ask(0.0, response)
            lease = next(iter(set(self.world.leases) - before), lease)

    @rule(kinds=st.lists(st.sampled_from(list(Use)), min_size=2, max_size=4), warm=st.booleans())
    @precondition(lambda self: len(self.world.open) > 1 and not self.world.waiters)
    @noted
    def newcomers_have_a_choice(self, kinds: list[Use], warm: bool = False) -> None:
        """All lanes come free at once, of different use to others: a walk seldom has two that differ."""
        while warming := self.tracks_with(On.WARM_UP):
            self.warm_up_ends(0)
            assert len(self.tracks_with(On.WARM_UP)) < len(warming)
        for _ in range(sum(self.world.free(connection) for connection in self.world.open)):
            if not self.world.waiters:
                self.ask()
        for lease, kind in zip(self.leases_with(On.NOTHING), itertools.cycle(kinds), strict=False):
            if lease in self.world.leases:
                self.leave_as(lease, kind)
        for wants in (warm, not warm):
            if len(self.world.waiters) < 3:
                self.ask(warm=wants)

    def leave_as(self, lease: LeaseId, kind: Use) -> None:
        """The holder of a lane without a turn leaves, and what it remembers is of that use to others."""
        if kind not in (Use.WARM, Use.RETIRING):  # these are what they are
            self.begin_on(lease, kind is Use.CLAIMED)
            if lease not in self.world.leases or self.world.track(lease).on is not On.TURN:
                return
            track = self.world.track(lease)
            self.end_turn(lease, completed=kind is not Use.NOTHING, calls=False)
            if kind is Use.OVER:
                track.over = True
                self.step("over", track.response)
        if lease in self.world.leases:
            self.release_of(lease)

    def release_of(self, lease: LeaseId) -> None:
        """The holder of a lane without a turn leaves."""
        self.world.drop(lease)
        self.world.released += 1
        self.step("release", lease)

    @rule(pick=picks, race=st.integers(0, 3).map(lambda drawn: drawn == 3))
    @precondition(lambda self: self.world.leases)
    @noted
    def release(self, pick: int, race: bool) -> None:
        """The body ends, by itself or by an exception, whatever is in flight."""
        if race and self.idle_leases() and not self.world.closing and not self.world.paused:
            self.cancel_as_granted(pick)
            return
        lease = self.choose(list(self.world.leases), pick)
        connection, _ = self.world.leases[lease]
        track = self.world.track(lease)
        dropped = track.on is On.TURN and self.policy.on_cancel == "hang_up" and len(connection.lanes) == 1
        if track.on is On.TURN:
            self.abandon_turn(track)
        if not dropped:
            self.world.drop(lease)
            self.world.released += 1
        self.step("release", lease)
        assert not self.core.is_live(lease)
        if dropped:
            assert connection.closing, "a dirty connection was kept"

    def cancel_as_granted(self, pick: int) -> None:
        """A waiter is cancelled after it was granted a lane and before it runs: the lane comes back."""
        for _ in range(3):
            if not self.world.waiters:
                self.acquire()
        lease = self.choose(self.idle_leases(), pick)
        self.world.drop(lease)
        self.world.released += 1
        granted = [command for command in self.feed("release", lease) if isinstance(command, Grant)]
        if len(granted) != 1:
            self.driver.perform("release", (lease,), {"now": self.now}, self.world)
        else:
            self.world.drop(granted[0].lease)
            self.world.released += 1
            self.feed("release", granted[0].lease)
            self.driver.cancel_as_granted(lease, granted[0].waiter, granted[0].lease, self.now)
        while self.driver.prompt and self.core.next_deadline() <= self.now:
            self.feed("tick")
        self.driver.compare(self.core, self.world)

    @rule(pick=picks)
    @precondition(lambda self: self.world.dead_leases)
    @noted
    def release_again(self, pick: int) -> None:
        before = self.core.statistics()
        commands = self.step("release", self.choose(self.world.dead_leases, pick))

        assert commands == []
        assert before == self.core.statistics()

    # -- connections ----------------------------------------------------------------------------

    @rule(pick=picks, jitter=jitters)
    @precondition(lambda self: len(self.world.open) > 1)
    @noted
    def peer_closes(self, pick: int, jitter: float) -> None:
        connection = self.choose(self.world.open, pick)
        self.world.end(connection)
        del self.world.connections[connection.id]
        self.world.closed += 1
        self.step("lost", connection.id, jitter=jitter)

    @rule(pick=picks, jitter=jitters, rounds=st.integers(0, 5))
    @precondition(lambda self: len(self.world.open) > 1 and len(self.world.waiters) < 5)
    @noted
    def peer_closes_as_somebody_asks(self, pick: int, jitter: float, rounds: int) -> None:
        """Its end is under way, or known and not wound up: whichever was first, nothing is in between."""
        connection = self.choose(self.world.open, pick)
        self.last_waiter += 1
        waiter = WaiterId(self.last_waiter)

        def lose() -> None:
            if connection.closing:  # too old for whoever asked; its end is awaited already
                assert [] == self.feed("lost", connection.id, jitter=jitter)
                return
            self.world.end(connection)
            del self.world.connections[connection.id]
            self.world.closed += 1
            self.feed("lost", connection.id, jitter=jitter)

        def ask() -> None:
            self.world.join(waiter)
            self.world.wanted[waiter] = 0.0
            self.feed("acquire", waiter, min_remaining=0.0)

        known = self.driver.ends_as_asked(connection.id, waiter, rounds, now=self.now, jitter=jitter)
        for happens in (lose, ask) if known else (ask, lose):
            happens()
        while self.driver.prompt and self.core.next_deadline() <= self.now:
            self.feed("tick")
        self.driver.compare(self.core, self.world)

    @rule(pick=picks)
    @precondition(lambda self: len(self.world.open) > 1)
    @noted
    def something_stray_arrives(self, pick: int) -> None:
        connection = self.choose(self.world.open, pick)
        self.step("hang_up", connection.id, CloseReason.DIRTY)
        assert connection.closing

    @rule(pick=picks)
    @precondition(lambda self: self.shared())
    @noted
    def something_stray_names_its_lane(self, pick: int) -> None:
        """Others have turns in flight on the connection, which name theirs: it goes with the last of them."""
        connection = self.choose(self.shared(), pick)
        self.world.clear(connection, CloseReason.DIRTY, self.now)
        connection.distrusted_at = min(connection.distrusted_at, self.now)
        self.step("distrust", connection.id)
        assert not connection.closing

    def shared(self) -> list[Connection]:
        """Connections with several lanes, and a turn on one of them that somebody waits for."""
        return [
            connection
            for connection in self.world.open
            if len(connection.lanes) > 1 and any(track.on is On.TURN for track in connection.lanes)
        ]

    @rule(pick=picks)
    @precondition(lambda self: len(self.world.open) > 1)
    @noted
    def limit_is_met(self, pick: int) -> None:
        """The server's lifetime limit is lower than ours: what is older is over it as well."""
        connection = self.choose(self.world.open, pick)
        for older in self.world.open:
            if older.born <= connection.born:
                self.world.clear(older, CloseReason.LIMIT, self.now)
        self.step("hang_up", connection.id, CloseReason.LIMIT)
        assert connection.closing

    @rule(pick=picks)
    @precondition(lambda self: self.world.open)
    @noted
    def server_announces_the_end(self, pick: int) -> None:
        connection = self.choose(self.world.open, pick)
        connection.announced = connection.announced or not connection.retiring
        self.step("retire", connection.id)

    @rule(rounds=st.integers(3, 8))
    @precondition(lambda self: not self.world.closing)
    @noted
    def server_announces_every_end(self, rounds: int) -> None:
        """As soon as a connection is there, so that spare is never complete, in a pool that has room."""
        self.policy = self.world.policy = attrs.evolve(self.policy, max_size=8, min_idle=2)
        self.step("resize", max_size=8, min_idle=2)
        for _ in range(rounds):
            for connection in self.world.open:
                connection.announced = connection.announced or not connection.retiring
                self.step("retire", connection.id)
            for connection in self.world.those(closing=True):
                del self.world.connections[connection.id]
                self.step("gone", connection.id)
            if self.world.dials:
                self.dial_succeeds(0, 0.5)
            else:
                self.wait_until(self.now + 31.0)

    @rule(pick=picks)
    @precondition(lambda self: self.world.those(closing=True) or self.world.those(dialing=True, closing=True))
    @noted
    def gone(self, pick: int) -> None:
        closing = self.world.those(closing=True) + self.world.those(dialing=True, closing=True)
        connection = self.choose(closing, pick)
        del self.world.connections[connection.id]
        self.step("gone", connection.id)

    @rule(pick=picks, what=st.sampled_from(LATE))
    @precondition(lambda self: self.over())
    @noted
    def told_too_late(self, pick: int, what: str) -> None:
        """A task says what it saw before it knew that its connection is over: nothing may come of it."""
        number = self.choose(self.over(), pick)
        said: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
            "lost": ((), {"jitter": 0.5}),
            "hang_up": ((CloseReason.DIRTY,), {}),
            "ponged": ((), {"heard_at": self.now}),
            "finished": ((LaneId(0),), {}),
        }
        args, kwargs = said.get(what, ((), {}))
        if what == "widen" and self.core.naming is Naming.TRIAL:
            return  # about the endpoint it does say something
        before = self.core.statistics(), self.core.states(), self.core.next_deadline()

        assert [] == self.feed(what, number, *args, **kwargs)
        assert before == (self.core.statistics(), self.core.states(), self.core.next_deadline())

    def over(self) -> list[ConnectionId]:
        """Connections that are closing or gone."""
        known = self.world.connections
        numbers = [ConnectionId(number) for number in range(1, self.world.highest_connection + 1)]
        return [number for number in numbers if number not in known or known[number].closing]

    @rule(pick=picks, silence=st.sampled_from([0.0, 5.0]))
    @precondition(lambda self: any(connection.pinged for connection in self.world.open))
    @noted
    def pong(self, pick: int, silence: float) -> None:
        connection = self.choose([connection for connection in self.world.open if connection.pinged], pick)
        connection.pinged = False
        connection.ping_at = max(self.now - silence + (self.policy.ping_interval or math.inf), self.now)
        self.step("ponged", connection.id, heard_at=self.now - silence)

    # -- the whole pool -------------------------------------------------------------------------

    @rule()
    @precondition(lambda self: not self.world.closing)
    @noted
    def pause_or_resume(self) -> None:
        self.world.paused = not self.world.paused
        self.step("pause" if self.world.paused else "resume")

    @rule(max_size=st.integers(1, 5), min_idle=st.integers(0, 1))
    @precondition(lambda self: not self.world.closing)
    @noted
    def resize(self, max_size: int, min_idle: int) -> None:
        self.shrunk = True
        self.policy = self.world.policy = attrs.evolve(self.policy, max_size=max_size, min_idle=min_idle)
        self.step("resize", max_size=max_size, min_idle=min_idle)

    @rule(interrupt=st.booleans())
    @precondition(lambda self: not self.world.closing and len(self.world.open) > 1)
    @noted
    def clear(self, interrupt: bool) -> None:
        for connection in self.world.open:
            self.world.clear(connection, CloseReason.CLEARED, self.now)
        dials = {connection.id for connection in self.world.dials}
        self.step("clear", interrupt=interrupt)
        assert not dials & {connection.id for connection in self.world.dials}, "an old dial was kept"
        assert not (interrupt and self.world.open), "what was at work was not interrupted"

    @rule()
    @precondition(lambda self: not self.world.closing and self.world.open)
    @noted
    def drain(self) -> None:
        self.step("drain")
        assert all(connection.retiring for connection in self.world.open)

    @rule()
    @precondition(lambda self: self.world.degraded or self.core._outage.doubtful)
    @noted
    def retry_now(self) -> None:
        """The server wants all to wait until the latest moment that it names; somebody knows better."""
        for seconds in (400.0, 0.5):
            self.step("hold", seconds=seconds)
        assert self.core.held_until() >= self.now + 400.0, "a hold is as long as the longest"
        self.step("retry_now")
        assert self.core.held_until() <= self.now, "the hold is not lifted"
        outage = self.core._outage
        free = {outage.dial_at(waited_for=waited_for) for waited_for in (False, True)}
        assert outage.down or free == {-math.inf}, "the caller is not believed"

    # -- time -----------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.1, 0.1, 3.0, 3.0, 21.0, 21.0, 31.0, 70.0, 301.0, 2900.0]))
    @noted
    def wait(self, seconds: float) -> None:
        """Time passes and the timekeeper ticks at every deadline."""
        self.wait_until(self.now + seconds)

    def wait_until(self, target: float) -> None:
        for _ in range(2000):
            deadline = self.core.next_deadline()
            if deadline > target:
                break
            self.now = self.driver.advance(self.now, deadline)
            self.step("tick")
            assert self.core.next_deadline() > self.now, "the deadline was not real: a busy loop"
        else:
            raise AssertionError("the timekeeper never sleeps")
        self.now = self.driver.advance(self.now, max(self.now, target))

    @rule()
    @precondition(lambda self: self.core.next_deadline() > self.now)
    @noted
    def tick_early(self) -> None:
        """An alarm that has become pointless still wakes the timekeeper: nothing may come of it."""
        before, deadline = self.core.statistics(), self.core.next_deadline()
        commands = self.step("tick")

        assert [] == commands, "what was decided was not decided to the end"
        assert (before, deadline) == (self.core.statistics(), self.core.next_deadline())

    @rule(seconds=st.sampled_from([0.5, 0.5, 0.5, 40.0, 3300.0]))
    @noted
    def oversleep(self, seconds: float) -> None:
        """The event loop was blocked: other inputs may come before the tick that is due."""
        self.now += seconds

    # -- the end --------------------------------------------------------------------------------

    # Not the simplest number, which Hypothesis draws more often than others.
    @rule(really=st.integers(0, 11).map(lambda drawn: drawn == 7))
    @precondition(lambda self: not self.world.closing)
    @noted
    def close(self, really: bool) -> None:
        if not really:
            return  # seldom, or the runs would be short
        self.world.closing = True
        self.step("close")
        assert not self.world.waiters, "close forgot a waiter"
        assert all(connection.leased for connection in self.world.open), "nobody has it, and it stays"

    @rule()
    @precondition(lambda self: self.world.closing)
    @noted
    def force(self) -> None:
        commands = self.step("force")
        assert not any(isinstance(each, HangUp) and each.polite for each in commands), "no time for goodbyes"
        assert not self.world.open
        assert not self.world.dials

    # -- what must always hold ------------------------------------------------------------------

    @invariant()
    def bounded(self) -> None:
        world = self.world
        if world.size > world.policy.max_size:
            # Only after a resize, and only until what is busy is given back.
            assert self.shrunk
            assert not world.dials
            if not world.policy.count_closing:
                assert all(world.free(connection) < len(connection.lanes) for connection in world.open)

    @invariant()
    def statistics_agree(self) -> None:
        world, seen = self.world, self.core.statistics()
        expected = {
            "size": world.size,
            "dialing": len(world.dials),
            "open": sum(not connection.retiring for connection in world.open),
            "retiring": sum(connection.retiring for connection in world.open),
            "closing": sum(connection.closing for connection in world.connections.values()),
            "idle": sum(world.free(connection) for connection in world.open),
            "warming": world.count(On.WARM_UP),
            "leased": len(world.leases),
            "in_flight": world.count(On.TURN),
            "draining": world.count(On.TAIL),
            "waiting": len(world.waiters),
            "granted": world.granted,
            "released": world.released,
            "lost_leases": world.lost,
            "stolen": world.stolen,
            "parked": len(world.parked),
            "paused": world.paused,
            "degraded": world.degraded,
            "refused": world.refused,
            "dialed": world.dialed,
            "closed_pool": world.closing,
        }

        assert expected == {name: getattr(seen, name) for name in expected}
        assert world.closed == sum(seen.closed.values())

    @invariant()
    def conserved(self) -> None:
        seen = self.core.statistics()

        assert seen.granted == seen.released + seen.lost_leases + seen.stolen + seen.leased
        assert seen.dialed == sum(seen.closed.values()) + seen.dialing + seen.open + seen.retiring

    @invariant()
    def no_lost_wakeup(self) -> None:
        """Whoever waits has a reason: nothing is free, and more is coming or there is no room."""
        world = self.world
        if not world.waiters or world.paused:
            return
        wanted = world.wanted.get(world.waiters[0], 0.0)
        free = [
            connection
            for connection in world.open
            if world.free(connection)
            and self.now < world.grant_end(connection)
            and (not wanted or (self.now + wanted <= connection.retire_at and not connection.retiring))
        ]
        outage = self.core._outage
        starving = len(world.waiters) > len(world.dials) * world.lanes
        if not wanted and not (starving and (world.size >= world.policy.max_size or outage.down)):
            # There is room: what conversations may come back to is left to them.
            free = [connection for connection in free if world.fresh(connection)]
            claimed = any(
                world.is_free(track) and world.use(connection, track)[0] is Use.CLAIMED
                for connection in world.open
                for track in connection.lanes
            )
            if not claimed:
                free = [connection for connection in world.open if world.free(connection)]
                free = [connection for connection in free if self.now < world.grant_end(connection)]

        assert not free, "somebody waits while a lane is free"

    @invariant()
    def nobody_starves(self) -> None:
        """A lane that was parked for long is not kept from a waiter who can hope for nothing else."""
        world = self.world
        if world.paused or world.closing or len(world.waiters) <= len(world.dials) * world.lanes:
            return
        outage = self.core._outage
        if not (world.size >= world.policy.max_size or outage.down):
            return
        ripe = [
            when
            for connection, track in world.parked
            if world.suits(connection, when := world.ripens(track, self.now))
        ]
        if not ripe and world.size >= world.policy.max_size:
            # Nothing is hung up before a fresh one may be dialled: neither in an outage nor while this
            # process is short of something, which is none.
            ripe = [max(each, outage.dial_at(waited_for=True)) for each in self.ripe_for_a_fresh_one()]
        assert not ripe or self.core.next_deadline() <= max(ripe), "nobody looks again at what is parked"

    def ripe_for_a_fresh_one(self) -> list[float]:
        """From when on which connections may go, because the first in line wants a fresh one."""
        world = self.world
        if not world.wanted.get(world.waiters[0]) or world.dials:
            return []
        if world.policy.count_closing and any(each.closing for each in world.connections.values()):
            return []
        found = []
        for connection in world.open:
            used = [track for track in connection.lanes if track.lease or track.on is not On.NOTHING]
            dead = all(track.dead for track in connection.lanes)
            if not dead and all(track.parked_at is not None for track in used):
                found.append(max((world.ripens(track, self.now) for track in used), default=self.now))
        return found

    @invariant()
    def holders_know(self) -> None:
        """Whoever holds a lane of a connection that is to go was told so."""
        assert all(
            lease in self.world.expiring
            for lease, (connection, _) in self.world.leases.items()
            if connection.retiring
        ), "nobody told the holder"

    @invariant()
    def on_time(self) -> None:
        """Once the timekeeper has done its work nothing is left that is over its time."""
        if self.core.next_deadline() <= self.now or self.world.closing:
            return
        for connection in self.world.open:
            if self.now >= self.world.grant_end(connection):
                assert not self.world.free(connection), "idle after its last start"
            if self.now >= min(self.world.expiry(connection), connection.distrusted_at):
                # A turn may end, and the rest of an abandoned one has a limit of its own.
                busy = [track for track in connection.lanes if track.on in (On.TURN, On.TAIL)]
                assert busy, "it outlived the server's limit, or its trust, for nothing"
            for track in connection.lanes:
                assert track.on is not On.TAIL or self.now < track.tail_until, "a tail without end"
            if connection.surplus_since is not None:
                assert self.now < connection.surplus_since + self.policy.max_idle, "idle for nobody"
            if not math.isinf(connection.ping_at):
                assert connection.pinged or self.now < connection.ping_at, "nobody asks whether it is there"

    @invariant()
    def warm(self) -> None:
        """What is needed is on its way, as far as there is room and the endpoint lets us."""
        world, failure = self.world, self.core.failure
        if world.closing or world.size >= world.policy.max_size:
            return
        coming = len(world.dials) * world.lanes
        outage = self.core._outage
        if self.deferred and coming < self.need() and not outage.down:
            assert self.core.next_deadline() <= self.line_since + DEFERRAL, "nobody dials later"
        if coming >= self.need(deferred=self.deferred):
            return
        if failure is None or world.waiters or not failure.permanent:
            # What was held back is due, and nobody has ticked yet? Or it will be when a dial may start again.
            due = max(self.now, outage.dial_at(waited_for=len(world.waiters) > coming))
            assert len(world.dials) >= outage.dial_limit or self.core.next_deadline() <= due, (
                "nobody dials what is needed"
            )

    @invariant()
    def nobody_hopes_in_vain(self) -> None:
        """What was refused for good is told to all who wait, unless it is being tried again."""
        failure, outage = self.core.failure, self.core._outage
        if failure is not None and failure.permanent and not self.world.dials:
            assert not self.world.waiters or outage.probe_at <= self.now, "a waiter was left hoping"

    @invariant()
    def retirements_are_apart(self) -> None:
        """The calendar: planned retirements keep their distance."""
        times = sorted(
            connection.retire_at
            for connection in self.core._roster.connections.values()
            if connection.usable and connection.retire_at < math.inf
        )
        gap = self.core._lives.calendar.gap
        assert len(times) == len(self.core._lives.calendar)
        if self.shrunk:
            return  # booked under another size
        for earlier, later in itertools.pairwise(times):
            assert later - earlier >= gap * (1 - 1e-6)

    @invariant()
    def indexes_agree(self) -> None:
        """Whatever the core keeps to be fast says the same as a rescan."""
        roster = self.core._roster
        usable = [connection for connection in roster.connections.values() if connection.usable]
        assert roster.available == sorted(
            (-math.inf if c.state is ConnectionState.RETIRING else c.retire_at, c.id)
            for c in usable
            if c.free
        )
        assert roster.affinity.fresh == sum(self.world.fresh(connection) for connection in self.world.open)
        assert set(roster.leaving) == {
            c.id for c in usable if c.state is ConnectionState.RETIRING and not c.busy
        }
        for connection in usable:
            idle = [lane for lane in connection.lanes if lane.state is LaneState.IDLE]
            dead = [lane for lane in connection.lanes if lane.state is LaneState.DEAD]
            assert len(connection.free) == len(idle)
            assert connection.busy == len(connection.lanes) - len(idle) - len(dead)
        assert len(self.core._lives.alarms) <= 6 * len(usable), "alarms of what is over are kept"
        assert set(roster.unreported) <= set(self.world.leases), "dead leases are kept"
        assert {lease for lease, track in self.tracks() if track.parked_at is not None} == set(roster.parked)
        self.memory_agrees()

    def memory_agrees(self) -> None:
        """What the core knows of memories is what the lanes have, and no more."""
        affinity, world = self.core._roster.affinity, self.world
        assert [(-number, lane) for _, _, number, lane in affinity.idle] == [
            (connection.id, lane)
            for connection, lane in sorted(
                (
                    (connection, index)
                    for connection in world.open
                    for index, track in enumerate(connection.lanes)
                    if world.is_free(track)
                ),
                key=lambda each: (*world.use(each[0], each[0].lanes[each[1]]), -each[0].id, each[1]),
            )
        ]
        known = {lane.response for _, lane in self.remembered() if lane.response is not None}
        assert known == set(affinity.held), "what is over is remembered"
        assert world.ambiguous == {response for response in known if affinity.holder(response) is None}
        assert world.ambiguous == set(affinity._holders)

    def teardown(self) -> None:
        """The trace of a run, fed to a fresh core, gives the same commands."""
        if not hasattr(self, "driver"):
            return
        self.driver.end()
        policy, provider, warm_up = self.setup
        fresh = PoolCore(policy, provider, warm_up=warm_up)
        for verb, args, kwargs, answer in self.trace:
            assert answer == getattr(fresh, verb)(*args, **kwargs)

    # -- helpers --------------------------------------------------------------------------------

    def choose(self, candidates: Any, pick: int) -> Any:
        return candidates[pick % len(candidates)]

    def abandon_turn(self, track: Lane) -> None:
        track.on = On.TAIL
        track.tail_until = self.now + self.policy.drain_timeout

    def turn_is_over(self, track: Lane, *, keeps: bool) -> None:
        """However it ended, a holder who can go on elsewhere does not keep a lane from others."""
        track.on = On.NOTHING
        if track.movable and track.lease is not None:
            track.parked_at = self.now if keeps else None
            track.returning = not keeps

    def tracks(self) -> list[tuple[LeaseId, Lane]]:
        return [(lease, self.world.track(lease)) for lease in self.world.leases]

    def idle_leases(self) -> list[LeaseId]:
        return [lease for lease, track in self.tracks() if track.on is On.NOTHING and track.parked_at is None]

    def leases_with(self, on: On) -> list[LeaseId]:
        return [lease for lease in self.world.leases if self.world.track(lease).on is on]

    def tracks_with(self, on: On) -> list[tuple[Connection, LaneId]]:
        return [
            (connection, LaneId(lane))
            for connection in self.world.open
            for lane, track in enumerate(connection.lanes)
            if track.on is on
        ]
