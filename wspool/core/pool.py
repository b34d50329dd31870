"""PoolCore: who gets which lane, when to dial, warm, ping, retire, refuse.

Every input is a method that takes `now` and returns the commands to perform, in order.
Every input ends in `_settle`, the single place of policy: match free lanes to waiters,
close what is not needed, then dial what is.

Rules kept here (each is an invariant of the specification machine):

* A lane has at most one lease; a connection that is closing or closed has none.
* Waiters are served first come, first served; nobody overtakes, and a waiter is not
  bound to any particular dial.
* A dial is started only if somebody needs it at that instant. It belongs to the pool: a
  waiter that leaves does not stop it.
* Only a provably clean lane becomes free again; when in doubt, hang up.
* A connection is granted only while a turn may still start on it. Past its planned
  retirement it stays grantable until its replacement is ready (make before break).
* A parked lane stays its holder's unless a waiter starves: no room to dial, and the lane
  parked for longer than `patience`, or the waiter passed over `MAX_SKIPS` times.
* A connection has one lane until the endpoint has proved that it has more (`wspool.core.lanes`).
* Failure is a state of the pool (`wspool.core.outage`).

Every operation costs O(1) or O(log n) in connections and waiters: counters per state,
a heap of deadlines with lazy deletion, no rescans. What concerns all connections at once
(`clear`, `drain`, `close`, a lifetime limit met by surprise) costs O(n).
"""

from __future__ import annotations

import bisect
import enum
import math
from collections import Counter, OrderedDict, deque
from typing import Final, TypeAlias, assert_never

import attrs

from wspool.core.alarms import Alarms
from wspool.core.calendar import Calendar
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
    Stolen,
    WaiterId,
    Warm,
)
from wspool.core.failures import DialFailure, FailureKind
from wspool.core.lanes import Naming
from wspool.core.outage import Outage
from wspool.core.policy import PoolPolicy, Provider
from wspool.core.roster import Connection, Lane, Roster
from wspool.core.states import (
    CONNECTION_TABLE,
    LANE_TABLE,
    ConnectionInput,
    ConnectionState,
    IllegalInputError,
    LaneInput,
    LaneState,
    advance,
)
from wspool.core.statistics import PoolStatistics

__all__ = ["ELISION_DELAY", "HEAD_START", "MAX_SKIPS", "PoolCore", "Verdict"]

#: How often holders of parked lanes may go on before a waiter that was there first. Vitess
#: bounds the unfairness of its pool by the same number.
MAX_SKIPS: Final = 8

#: Dials that those in line are worth at once while connections are open, and after how many
#: seconds in line they are worth as many as they are. What is in use may come back sooner than a
#: dial ends: 50 short requests at once on 5 connections (the spike test of HikariCP's "Welcome to
#: the Jungle") are over in 25 ms, and a handshake takes 150.
HEAD_START: Final = 2
ELISION_DELAY: Final = 0.03

#: A connection that is lost sooner than this after its handshake, in seconds, and was not used,
#: counts as a failed dial. Policy rejections after the upgrade come at once.
EARLY: Final = 5.0
_REFUSED_LATE: Final = DialFailure(
    kind=FailureKind.TRANSIENT,
    message="the server accepted the connection and closed it at once",
    phase="upgrade",
)

# A member of an enum is looked up by a function call in Python 3.11, a global is not.
_OPEN: Final = ConnectionState.OPEN
_RETIRING: Final = ConnectionState.RETIRING
_IDLE: Final = LaneState.IDLE
_IN_FLIGHT: Final = LaneState.IN_FLIGHT
_GRANT: Final = LaneInput.GRANT
_RELEASE: Final = LaneInput.RELEASE

#: Lane states that belong to a lease.
_HELD: Final = frozenset({LaneState.LEASED, LaneState.PARKED, LaneState.IN_FLIGHT, LaneState.DRAINING})


class Verdict(enum.Enum):
    """Whether a turn may start on a lease."""

    #: It has started.
    GO = "go"
    #: It has not: take another lease. The connection may end before the turn does, or another
    #: one is ready in its place, or somebody else starves for it.
    MOVE = "move"


class _Alarm(enum.Enum):
    """What a deadline of a connection is about."""

    RETIRE = "retire"
    GRANT_END = "grant end"
    EXPIRE = "expire"
    IDLE = "idle"
    PING = "ping"
    DRAIN = "drain"


@attrs.define(eq=False)
class _Waiter:
    #: Seconds that must be left until the planned retirement of what it is granted.
    min_remaining: float
    #: Times that a holder of a parked lane went on while it was first in line.
    skips: int = 0


_Entry: TypeAlias = tuple[Connection, _Alarm]


class PoolCore:
    """The decisions of one pool. See the module for the rules, `commands` for the answers.

    Args:
        policy: the limits.
        provider: what the endpoint can do.
        warm_up: True to ask for a warm-up request on each new connection.

    An input that the tables do not allow raises `IllegalInputError` and changes nothing.
    """

    def __init__(self, policy: PoolPolicy, provider: Provider, *, warm_up: bool = False) -> None:
        self.policy = policy
        self.provider = provider
        self.schedule = policy.schedule(provider)
        self._warm_up = warm_up and provider.warm_up
        self._lanes = min(policy.lanes, provider.lanes)
        #: How the lanes of connections that open now are told apart.
        self.naming = Naming.TRIAL if self._lanes > 1 else Naming.NONE

        self._roster = Roster()
        self._waiters: OrderedDict[WaiterId, _Waiter] = OrderedDict()
        # Since when somebody is in line, and whether dials are held back until they were for long.
        self._line_since = -math.inf
        self._held_back = False
        self._calendar = Calendar(self.schedule.retire_to - self.schedule.retire_from, policy.max_size)
        self._alarms: Alarms[_Entry] = Alarms(self._is_stale)
        # When to report a lease that is still held; in order, since the delay is constant.
        self._leak_watch: deque[tuple[float, LeaseId]] = deque()
        self._outage = Outage(policy.give_up_after, policy.dial_concurrency)

        self._paused = False
        self._closing = False
        self._held_until = -math.inf

        self._dialed = self._dial_failures = 0
        self._granted = self._released = self._lost_leases = self._stolen = 0
        self._abandoned = self._refused = self._turns = self._retirements = 0
        self._closed: Counter[str] = Counter()

    # -- inputs: the life of the pool ---------------------------------------------------------

    def start(self, now: float) -> list[Command]:
        """Begin: dial what `min_idle` asks for."""
        return self._settle(now, [])

    def pause(self, now: float) -> list[Command]:
        """Grant nothing until `resume`; waiters queue, leases go on. Idempotent."""
        self._paused = True
        return self._settle(now, [])

    def resume(self, now: float) -> list[Command]:
        """Grant again. Idempotent."""
        self._paused = False
        return self._settle(now, [])

    def hold(self, now: float, seconds: float) -> list[Command]:
        """The server asked this endpoint's clients to wait: conversations begin no turn before."""
        self._held_until = max(self._held_until, now + seconds)
        return []

    def held_until(self) -> float:
        """Return when a turn may start again, as far as the server asked to wait."""
        return self._held_until

    def retry_now(self, now: float) -> list[Command]:
        """Dial at once although the last dial failed: the caller knows that the endpoint is back."""
        self._outage.retry_now(now)
        self._held_until = -math.inf
        return self._settle(now, [])

    def resize(
        self, now: float, *, max_size: int | None = None, min_idle: int | None = None
    ) -> list[Command]:
        """Change the size of the pool.

        Growth takes effect at once. Shrinking closes dials and spare first; what is leased goes
        when it is given back, and until then nothing new is dialled.
        """
        self.policy = attrs.evolve(
            self.policy,
            max_size=self.policy.max_size if max_size is None else max_size,
            min_idle=self.policy.min_idle if min_idle is None else min_idle,
        )
        self._calendar.gap = (self.schedule.retire_to - self.schedule.retire_from) / (
            2 * self.policy.max_size
        )
        commands: list[Command] = []
        for connection in [*self._roster.connections.values()][::-1]:
            if self._size() <= self.policy.max_size:
                break
            if connection.state is ConnectionState.DIALING:
                self._hang_up(connection, CloseReason.RESIZED, commands)
        self._shrink(commands)
        return self._settle(now, commands)

    def clear(self, now: float, *, interrupt: bool = False) -> list[Command]:
        """Trust no connection that exists now: no lane of it is granted again.

        What is free closes at once, what is leased when it is given back. Dials start anew.

        Args:
            now: seconds.
            interrupt: True to close what is leased at once as well.
        """
        commands: list[Command] = []
        for connection in [*self._roster.connections.values()]:
            if connection.state is ConnectionState.DIALING or (interrupt and connection.usable):
                self._hang_up(connection, CloseReason.CLEARED, commands, polite=False)
            elif connection.usable:
                connection.grant_end = min(connection.grant_end, now)
                self._end_grants(connection, commands, CloseReason.CLEARED)
        return self._settle(now, commands)

    def drain(self, now: float) -> list[Command]:
        """Replace every connection, each as soon as its replacement is there."""
        commands: list[Command] = []
        for connection in [*self._roster.connections.values()]:
            if connection.state is ConnectionState.OPEN:
                self._retire(connection, commands)
        return self._settle(now, commands)

    def close(self, now: float) -> list[Command]:
        """Refuse every waiter, close what is free, let leases finish. Idempotent."""
        commands: list[Command] = []
        if self._closing:
            return commands
        self._closing = True
        self._refuse_all(RefuseReason.CLOSED, commands)
        for connection in [*self._roster.connections.values()]:
            if connection.state is not ConnectionState.CLOSING and not connection.held:
                self._hang_up(connection, CloseReason.POOL_CLOSED, commands)
        return commands

    def force(self, now: float) -> list[Command]:
        """Close everything that is still there, turn in flight or not."""
        commands = self.close(now)
        for connection in [*self._roster.connections.values()]:
            if connection.state is not ConnectionState.CLOSING:
                self._hang_up(connection, CloseReason.POOL_CLOSED, commands, polite=False)
        return commands

    # -- inputs: waiters and leases -----------------------------------------------------------

    def acquire(self, waiter: WaiterId, now: float, *, min_remaining: float = 0.0) -> list[Command]:
        """Put *waiter* in line. The answer, now or later, is one `Grant` or `Refuse`.

        Args:
            waiter: who.
            now: seconds.
            min_remaining: seconds that must be left until the planned retirement of the
                connection; at most `schedule.retire_from`. Of those that have enough the oldest
                is taken; without it, the freshest of all.
        """
        if waiter in self._waiters:
            raise IllegalInputError(f"waiter {waiter} is in line already")
        commands: list[Command] = []
        if self._closing:
            self._refuse(waiter, RefuseReason.CLOSED, commands)
            return commands
        roster = self._roster
        if roster.available and not min_remaining and not self._waiters and not self._paused:
            # Nobody is in line and the freshest lane may do: what is usual need not queue.
            connection = roster.connections[roster.available[-1][1]]
            if now < connection.grant_end:
                self._grant(waiter, connection, now, commands)
                return self._settle(now, commands)
        if not self._waiters:
            self._line_since = now
        self._waiters[waiter] = _Waiter(min_remaining)
        self._match(now, commands)
        if waiter in self._waiters:
            limit = self.policy.max_waiting
            reason: RefuseReason | None = None
            if self._is_hopeless(now):
                # Waiting cannot help, and asking again at once would only hammer the endpoint.
                reason = RefuseReason.DIAL_FAILED
            elif limit is not None and len(self._waiters) > limit:
                reason = RefuseReason.TOO_MANY_WAITING
            if reason is not None:
                del self._waiters[waiter]
                self._refuse(waiter, reason, commands)
        return self._settle(now, commands)

    def acquire_nowait(self, waiter: WaiterId, now: float) -> list[Command]:
        """Grant *waiter* a lane if one is free and nobody is in line; else there is no `Grant`.

        It never waits, never dials and never jumps the line.
        """
        commands: list[Command] = []
        if self._closing:
            self._refuse(waiter, RefuseReason.CLOSED, commands)
        elif not self._waiters:
            self._waiters[waiter] = _Waiter(0.0)
            self._match(now, commands)
            self._waiters.pop(waiter, None)
        return self._settle(now, commands)

    def abandon(self, waiter: WaiterId, now: float) -> list[Command]:
        """Take a cancelled waiter out of line. Dials go on: they belong to the pool."""
        if waiter not in self._waiters:
            raise IllegalInputError(f"waiter {waiter} is not in line")
        del self._waiters[waiter]
        self._abandoned += 1
        # The next in line may be content with what the first would not take.
        return self._settle(now, [])

    def park(self, lease: LeaseId, now: float) -> list[Command]:
        """The holder is busy elsewhere: it keeps its lane unless somebody starves."""
        connection, lane = self._roster.lease(lease)
        self._roster.move_lane(lane, LaneInput.PARK)
        self._roster.parked[lease] = now
        commands: list[Command] = []
        if now >= connection.grant_end:
            self._end_grants(connection, commands)  # of no use to anybody any more
        return self._settle(now, commands)

    def begin(self, lease: LeaseId, now: float, *, movable: bool = False) -> tuple[Verdict, list[Command]]:
        """Start a turn on *lease*, unless it had better be on another one.

        Args:
            lease: a live lease without a turn.
            now: seconds.
            movable: True if the holder can go on elsewhere at little cost: then a connection
                past its planned retirement is left as soon as another one is ready.

        Raises:
            IllegalInputError: the lease is dead or has a turn already.
        """
        connection, lane = self._roster.lease(lease)
        advance(LANE_TABLE, lane.state, LaneInput.START)  # illegal before anything else
        commands: list[Command] = []
        if now >= connection.last_start:
            return Verdict.MOVE, commands
        if movable and (
            now >= connection.grant_end
            or (connection.state is ConnectionState.RETIRING and self._roster.fresh and not self._waiters)
        ):
            return Verdict.MOVE, commands
        if lane.state is LaneState.PARKED:
            if self._waiters:
                first = next(iter(self._waiters.values()))
                if first.skips >= MAX_SKIPS:
                    self._steal(lease, now, commands)
                    return Verdict.MOVE, self._settle(now, commands)
                first.skips += 1
            del self._roster.parked[lease]
        self._roster.move_lane(lane, LaneInput.START)
        connection.used = True
        self._turns += 1
        return Verdict.GO, commands

    def finished(self, connection: ConnectionId, lane: LaneId, now: float) -> list[Command]:
        """The terminal event of whatever was on the lane has come, and the lane is clean."""
        found = self._roster.connection(connection)
        on = found.lanes[lane]
        if on.state is LaneState.DEAD:
            return []  # the rest of a turn that was not waited for any longer
        self._roster.move_lane(on, LaneInput.FINISH)
        found.used = True
        on.drain_until = math.inf
        commands: list[Command] = []
        if self._outage.doubtful and (lasted := self._outage.answered(found.episode, now)) is not None:
            commands.append(Recovered(lasted))
        if on.state is LaneState.IDLE:  # a warm-up, or a tail whose holder has left
            self._freed(found, on, now, commands)
        self._check_expiry(found, now, commands)
        return self._settle(now, commands)

    def give_up(self, lease: LeaseId, now: float) -> list[Command]:
        """The holder gave its turn up. By policy: hang up, or drain the rest of it."""
        connection, lane = self._roster.lease(lease)
        advance(LANE_TABLE, lane.state, LaneInput.ABANDON)
        if self.policy.on_cancel == "hang_up" and len(connection.lanes) == 1:
            return self.hang_up(connection.id, CloseReason.DIRTY, now)
        # One lane of several cannot be dropped without its siblings, so it is always drained.
        self._roster.move_lane(lane, LaneInput.ABANDON)
        lane.drain_until = now + self.policy.drain_timeout
        self._alarms.set(lane.drain_until, (connection, _Alarm.DRAIN))
        return []

    def release(self, lease: LeaseId, now: float) -> list[Command]:
        """The holder leaves. A lane with a turn in flight is not clean: it is given up first.

        Releasing a dead lease does nothing, so releasing twice is harmless.
        """
        roster = self._roster
        if not roster.is_live(lease):
            return []
        connection, lane = roster.lease(lease)
        commands: list[Command] = []
        if lane.state is _IN_FLIGHT:
            commands += self.give_up(lease, now)
            if not roster.is_live(lease):
                return commands
        roster.move_lane(lane, _RELEASE)
        roster.unbind(lease)
        self._released += 1
        if lane.state is _IDLE:
            self._freed(connection, lane, now, commands)
        if self._closing and connection.usable and not connection.held:
            self._hang_up(connection, CloseReason.POOL_CLOSED, commands)
        return self._settle(now, commands)

    # -- inputs: connections ------------------------------------------------------------------

    def connected(self, connection: ConnectionId, now: float, jitter: float) -> list[Command]:
        """A dial ended with an open connection.

        Args:
            connection: which.
            now: seconds.
            jitter: a random number in [0, 1), to spread retirements.
        """
        found = self._roster.connection(connection)
        advance(CONNECTION_TABLE, found.state, ConnectionInput.CONNECT)  # illegal before anything else
        schedule = self.schedule
        found.expires_at = found.born + schedule.lifetime
        found.last_start = found.grant_end = found.born + schedule.last_start
        found.retire_at = self._calendar.book(
            found.born + schedule.retire_from, found.born + schedule.retire_to, jitter
        )
        found.opened_at = now
        self._roster.open(found, self._lanes if self.naming is Naming.NAMED else 1)
        self._alarms.set(found.retire_at, (found, _Alarm.RETIRE))
        self._alarms.set(found.grant_end, (found, _Alarm.GRANT_END))
        self._alarms.set(found.expires_at, (found, _Alarm.EXPIRE))
        if self.policy.ping_interval is not None:
            self._alarms.set(now + self.policy.ping_interval, (found, _Alarm.PING))

        commands: list[Command] = []
        if (lasted := self._outage.recovered(found.episode, now)) is not None:
            commands.append(Recovered(lasted))
        found.episode = self._outage.episode
        if self._warm_up and not self._waiters:
            # Only ahead of demand: a waiter is worth more than a warm cache.
            lane = self._roster.take(found, LaneInput.WARM)
            commands.append(Warm(found.id, lane.id))
        else:
            self._note_idle(found, now)
        return self._settle(now, commands)

    def dial_failed(
        self, connection: ConnectionId, now: float, failure: DialFailure, jitter: float
    ) -> list[Command]:
        """A dial ended without a connection.

        Args:
            connection: which.
            now: seconds.
            failure: what happened.
            jitter: a random number in [0, 1), to spread the next attempt.
        """
        found = self._roster.connection(connection)
        self._roster.move(found, ConnectionInput.FAIL)
        self._forget(found, CloseReason.DIAL_FAILED)
        self._dial_failures += 1
        commands: list[Command] = []
        if self._outage.failed(found.episode, now, failure, jitter):
            commands.append(Degraded(failure))
        # What is permanent is told at once, even if the very next moment is a time to try again.
        told = failure.permanent and self._outage.failure is failure
        if told or self._is_hopeless(now):
            self._refuse_all(RefuseReason.DIAL_FAILED, commands)
        return self._settle(now, commands)

    def hang_up(self, connection: ConnectionId, reason: CloseReason, now: float) -> list[Command]:
        """Close a connection that must not be used again (dirty, at its limit). Idempotent."""
        found = self._roster.connection(connection)
        commands: list[Command] = []
        if found.state is not ConnectionState.CLOSING:
            self._hang_up(found, reason, commands, polite=False)
        if reason is CloseReason.LIMIT:
            # The server's limit is lower than ours. Whatever is older than this one is over it too,
            # and would refuse its next turn as well.
            for older in [*self._roster.connections.values()]:
                if older.usable and older.born <= found.born:
                    older.grant_end = min(older.grant_end, now)
                    self._end_grants(older, commands, CloseReason.LIMIT)
        return self._settle(now, commands)

    def widen(self, connection: ConnectionId, now: float) -> list[Command]:
        """An answer has named its lane: this connection has all of them, and so has each later one.

        Idempotent. Ignored once an answer has named none.
        """
        found = self._roster.connection(connection)
        if self.naming is Naming.TRIAL:
            self.naming = Naming.NAMED
        if found.usable and now < found.grant_end:
            self._roster.widen(found, self._lanes)
        return self._settle(now, [])

    def narrow(self, now: float) -> list[Command]:
        """A request that named its lane was refused for it, or answered without: there is one lane.

        Connections that have several keep them. Idempotent.
        """
        self._lanes = 1
        self.naming = Naming.NONE
        return self._settle(now, [])

    def retire(self, connection: ConnectionId, now: float) -> list[Command]:
        """The server announced that this connection ends soon. Idempotent."""
        found = self._roster.connection(connection)
        commands: list[Command] = []
        if found.state is ConnectionState.OPEN:
            self._retire(found, commands)
        return self._settle(now, commands)

    def lost(self, connection: ConnectionId, now: float, jitter: float) -> list[Command]:
        """An open connection died by itself.

        Args:
            connection: which.
            now: seconds.
            jitter: a random number in [0, 1), to spread the next attempt if it died too young.
        """
        found = self._roster.connection(connection)
        advance(CONNECTION_TABLE, found.state, ConnectionInput.LOSE)
        self._lost_leases += self._roster.end_all(found)
        self._roster.move(found, ConnectionInput.LOSE)
        self._forget(found, CloseReason.LOST)
        commands: list[Command] = []
        early = not found.used and now < found.opened_at + EARLY
        # A server that accepts and hangs up refuses us all the same.
        if early and self._outage.relapsed(found.episode, now, _REFUSED_LATE, jitter):
            commands.append(Degraded(_REFUSED_LATE))
        return self._settle(now, commands)

    def gone(self, connection: ConnectionId, now: float) -> list[Command]:
        """A connection that was told to go is gone."""
        found = self._roster.connection(connection)
        self._roster.move(found, ConnectionInput.GO)
        del self._roster.connections[connection]
        return self._settle(now, [])

    def ponged(self, connection: ConnectionId, heard_at: float, now: float) -> list[Command]:
        """The peer was heard at *heard_at*: ping again after the next silence. Ignored once closing."""
        found = self._roster.connection(connection)
        if self.policy.ping_interval is not None and found.usable:
            self._alarms.set(max(heard_at + self.policy.ping_interval, now), (found, _Alarm.PING))
        return []

    # -- inputs: time -------------------------------------------------------------------------

    def next_deadline(self) -> float:
        """Return when `tick` wants to be called, infinity for never."""
        deadline = self._alarms.next()
        watch = self._leak_watch
        while watch and not self._roster.is_live(watch[0][1]):
            watch.popleft()
        if watch:
            deadline = min(deadline, watch[0][0])
        if self._outage.down and not self._roster.dialing and self._wants_dial():
            # Only an outage delays a dial; otherwise it starts when it is needed.
            deadline = min(deadline, self._outage.probe_at)
            if self._waiters and self._is_hopeless(self._outage.give_up_at):
                deadline = min(deadline, self._outage.give_up_at)
        if self._held_back and self._waiters and self._size() < self.policy.max_size:
            deadline = min(deadline, self._line_since + ELISION_DELAY)
        if self._roster.parked and self._is_starving():
            deadline = min(deadline, next(iter(self._roster.parked.values())) + self.policy.patience)
        return deadline

    def is_due_before(self, when: float) -> bool:
        """Return whether `next_deadline` is before *when*; cheap when it is not."""
        if self._alarms.none_before(when) and not (
            self._leak_watch or self._roster.parked or self._outage.failure is not None or self._held_back
        ):
            return False
        return self.next_deadline() < when

    def tick(self, now: float) -> list[Command]:
        """Do what is due at *now*."""
        commands: list[Command] = []
        while (due := self._alarms.pop_due(now)) is not None:
            connection, alarm = due
            match alarm:
                case _Alarm.RETIRE:
                    self._retire(connection, commands)
                case _Alarm.GRANT_END:
                    self._end_grants(connection, commands)
                case _Alarm.EXPIRE:
                    self._check_expiry(connection, now, commands)
                case _Alarm.IDLE:
                    self._check_idle(connection, now, commands)
                case _Alarm.PING:
                    commands.append(Ping(connection.id))
                case _Alarm.DRAIN:
                    self._check_drain(connection, now, commands)
                case _:
                    assert_never(alarm)
        while self._leak_watch and self._leak_watch[0][0] <= now:
            _, lease = self._leak_watch.popleft()
            if self._roster.is_live(lease):
                commands.append(Leaking(lease))
        if self._is_hopeless(now) and not self._roster.dialing:
            self._refuse_all(RefuseReason.DIAL_FAILED, commands)
        return self._settle(now, commands)

    # -- queries ------------------------------------------------------------------------------

    def statistics(self) -> PoolStatistics:
        """Return a frozen snapshot; taking it changes nothing."""
        connections, lanes = self._roster.states, self._roster.lanes
        return PoolStatistics(
            max_size=self.policy.max_size,
            size=self._size(),
            dialing=self._roster.dialing,
            open=connections[ConnectionState.OPEN],
            retiring=connections[ConnectionState.RETIRING],
            closing=connections[ConnectionState.CLOSING],
            idle=lanes[LaneState.IDLE],
            warming=lanes[LaneState.WARMING],
            leased=sum(lanes[state] for state in _HELD),
            parked=lanes[LaneState.PARKED],
            in_flight=lanes[LaneState.IN_FLIGHT],
            draining=lanes[LaneState.DRAINING] + lanes[LaneState.QUARANTINED],
            waiting=len(self._waiters),
            degraded=self._outage.down,
            paused=self._paused,
            closed_pool=self._closing,
            dialed=self._dialed,
            dial_failures=self._dial_failures,
            granted=self._granted,
            released=self._released,
            lost_leases=self._lost_leases,
            stolen=self._stolen,
            abandoned=self._abandoned,
            refused=self._refused,
            turns=self._turns,
            retirements=self._retirements,
            closed=dict(self._closed),
        )

    @property
    def failure(self) -> DialFailure | None:
        """The last dial's failure while the pool is degraded, else None."""
        return self._outage.failure

    def is_live(self, lease: LeaseId) -> bool:
        """Return whether *lease* still holds its lane."""
        return self._roster.is_live(lease)

    def states(self) -> dict[ConnectionId, tuple[ConnectionState, tuple[LaneState, ...]]]:
        """Return the state of every connection that is not gone, and of its lanes (for tests)."""
        return {
            number: (connection.state, tuple(lane.state for lane in connection.lanes))
            for number, connection in self._roster.connections.items()
        }

    # -- policy: the one place ----------------------------------------------------------------

    def _settle(self, now: float, commands: list[Command]) -> list[Command]:
        roster = self._roster
        if self._closing or not (
            self._waiters or roster.leaving or roster.fresh < self.policy.min_idle + roster.movers
        ):
            return commands  # nobody waits, nothing leaves, spare is complete
        self._held_back = roster.usable > 0 and now < self._line_since + ELISION_DELAY
        if self._waiters:
            self._match(now, commands)
        if roster.leaving:
            self._let_leavers_go(commands)
        if self._waiters:
            self._make_room(now, commands)
        self._grow(now, commands)
        # In a full pool a dial may need the place of one more that leaves.
        while roster.leaving:
            left = len(roster.leaving)
            self._let_leavers_go(commands)
            if left == len(roster.leaving):
                break
            self._grow(now, commands)
        # Now that the pool is full, those in line may starve who could hope for a dial before.
        if self._waiters and roster.parked:
            self._match(now, commands)
        return commands

    def _match(self, now: float, commands: list[Command]) -> None:
        """Give free lanes to waiters, in order; parked ones if the first of them starves."""
        roster, waiters = self._roster, self._waiters
        while waiters and not self._paused and (roster.available or roster.parked):
            waiter, wanted = next(iter(waiters.items()))
            connection = self._suitable(wanted, now, commands)
            if connection is None:
                if not self._may_steal(wanted, now):
                    return
                # Not always a lane is free then: in a pool that was made smaller the connection
                # goes. The next one is due as well, and nobody would look again at its deadline.
                self._steal(next(iter(roster.parked)), now, commands)
                continue
            del waiters[waiter]
            self._grant(waiter, connection, now, commands)

    def _grant(self, waiter: WaiterId, connection: Connection, now: float, commands: list[Command]) -> None:
        lane = self._roster.take(connection, _GRANT)
        lease = self._roster.bind(connection, lane)
        if self.policy.leak_after is not None:
            self._leak_watch.append((now + self.policy.leak_after, lease))
        self._granted += 1
        commands.append(Grant(waiter, lease, connection.id, lane.id))
        if connection.state is _RETIRING:
            commands.append(Expiring(lease))

    def _suitable(self, wanted: _Waiter, now: float, commands: list[Command]) -> Connection | None:
        """Return the connection with a free lane that *wanted* should get."""
        available = self._roster.available
        while available:
            index = -1
            if wanted.min_remaining:
                index = bisect.bisect_left(available, (now + wanted.min_remaining, ConnectionId(0)))
                if index == len(available):
                    return None
            connection = self._roster.connections[available[index][1]]
            if now < connection.grant_end:
                return connection
            # Its deadline has passed but its tick has not come yet.
            self._end_grants(connection, commands)
        return None

    def _is_starving(self) -> bool:
        """Whether waiters can hope for no free lane and no dial."""
        if self._paused or len(self._waiters) <= self._roster.dialing * self._lanes:
            return False
        return self._size() >= self.policy.max_size or self._outage.down

    def _may_steal(self, wanted: _Waiter, now: float) -> bool:
        if not self._roster.parked or not self._is_starving():
            return False
        since = next(iter(self._roster.parked.values()))
        return wanted.skips >= MAX_SKIPS or now >= since + self.policy.patience

    def _steal(self, lease: LeaseId, now: float, commands: list[Command]) -> None:
        connection, lane = self._roster.lease(lease)
        self._roster.move_lane(lane, LaneInput.STEAL)
        self._roster.unbind(lease)
        self._stolen += 1
        commands.append(Stolen(lease))
        self._freed(connection, lane, now, commands)

    def _let_leavers_go(self, commands: list[Command]) -> None:
        # Make before break: a retiring connection nobody holds stays grantable until spare is
        # complete without it, or until only its going makes room for its replacement. It does not
        # go for a replacement that is on its way, nor while none can be had.
        roster, outage = self._roster, self._outage
        while roster.leaving:
            coming = roster.dialing
            if self.policy.count_closing:
                coming += roster.states[ConnectionState.CLOSING]  # each makes room for a dial
            if roster.fresh < self.policy.min_idle and (
                self._size() < self.policy.max_size
                or not self._needs_dial(coming)
                or outage.down
                or coming >= outage.dial_limit
            ):
                return
            _, connection = roster.leaving.popitem(last=False)
            self._hang_up(connection, CloseReason.LIFETIME, commands)

    def _make_room(self, now: float, commands: list[Command]) -> None:
        """The first in line wants more remaining life than any free lane has, and the pool is full."""
        if (
            self._waiters
            and self._roster.available
            and not self._paused
            and self._is_starving()
            and self._outage.may_dial(now)
        ):
            oldest = self._roster.connections[self._roster.available[0][1]]
            if not oldest.busy:
                self._hang_up(oldest, CloseReason.UNSUITABLE, commands)

    def _shrink(self, commands: list[Command]) -> None:
        """Close spare while the pool is larger than it may be, the oldest first."""
        index = 0
        while self._size() > self.policy.max_size and index < len(self._roster.available):
            connection = self._roster.connections[self._roster.available[index][1]]
            if connection.busy:
                index += 1
            else:
                self._hang_up(connection, CloseReason.RESIZED, commands)

    def _grow(self, now: float, commands: list[Command]) -> None:
        while (
            self._wants_dial()
            and self._roster.dialing < self._outage.dial_limit
            and self._outage.may_dial(now)
        ):
            connection = self._roster.dial(now, self._outage.episode)
            self._dialed += 1
            commands.append(Dial(connection.id))

    def _is_hopeless(self, now: float) -> bool:
        """Whether those in line should be refused. While connections live, one may come back."""
        failure = self._outage.failure
        if failure is None or not self._outage.is_hopeless(now):
            return False
        return failure.permanent or not self._roster.usable

    def _wants_dial(self) -> bool:
        """Whether one more dial is needed and there is room for it."""
        if self._closing or self._size() >= self.policy.max_size:
            return False
        return self._needs_dial(self._roster.dialing)

    def _needs_dial(self, coming: int) -> bool:
        """Whether the *coming* connections will not be enough."""
        failure = self._outage.failure
        if failure is not None and failure.permanent and not self._waiters:
            return False  # spare is no reason to ask again what was refused for good
        spare = self._roster.fresh + self._roster.lanes[LaneState.WARMING]
        waiting = len(self._waiters)
        if self._paused:
            waiting = max(0, waiting - spare)  # what is free now will do for them
        if self._held_back:
            waiting = min(waiting, HEAD_START * self._lanes)
        need = waiting + max(0, self.policy.min_idle + self._roster.movers - spare)
        return need > coming * self._lanes

    # -- the life of a connection -------------------------------------------------------------

    def _retire(self, connection: Connection, commands: list[Command]) -> None:
        commands.extend(Expiring(lease) for lease in self._roster.retire(connection))
        self._retirements += 1

    def _end_grants(
        self,
        connection: Connection,
        commands: list[Command],
        reason: CloseReason = CloseReason.LIFETIME,
    ) -> None:
        """No lane of *connection* is granted any more."""
        if connection.state is ConnectionState.OPEN:
            self._retire(connection, commands)
        self._roster.end_free(connection)
        for lane in connection.lanes:
            if lane.state is LaneState.PARKED:
                self._drop(connection, lane)  # its holder could not go on here either
        if not connection.busy:
            self._hang_up(connection, reason, commands)

    def _check_expiry(self, connection: Connection, now: float, commands: list[Command]) -> None:
        # Past the server's limit only a turn in flight keeps a connection: the server may let
        # it end, and cutting it here would lose it for certain.
        if now < connection.expires_at or not connection.usable:
            return
        if not any(lane.state is LaneState.IN_FLIGHT for lane in connection.lanes):
            self._hang_up(connection, CloseReason.LIFETIME, commands)

    def _check_drain(self, connection: Connection, now: float, commands: list[Command]) -> None:
        late = [lane for lane in connection.lanes if lane.drain_until <= now]
        if late and connection.busy == len(late):
            self._hang_up(connection, CloseReason.DIRTY, commands, polite=False)
        elif late:
            # Siblings are at work: they go on, and the connection goes with the last of them.
            if connection.state is ConnectionState.OPEN:
                self._retire(connection, commands)
            for lane in late:
                self._drop(connection, lane)
            self._check_expiry(connection, now, commands)

    def _drop(self, connection: Connection, lane: Lane) -> None:
        """A busy lane ends, with its lease if it has one."""
        if lane.lease is not None:
            self._lost_leases += 1
            self._roster.unbind(lane.lease)
        self._roster.drop(connection, lane)

    def _check_idle(self, connection: Connection, now: float, commands: list[Command]) -> None:
        connection.idle_alarm = False
        if connection.idle_since is None:
            return  # busy since; the alarm is set again when it is idle
        due = connection.idle_since + self.policy.max_idle
        surplus = self._roster.fresh - len(connection.free) >= self.policy.min_idle
        if due <= now and surplus:
            self._hang_up(connection, CloseReason.IDLE, commands)
        else:
            # Busy in between, or part of the spare: look again when it may have become surplus.
            connection.idle_alarm = True
            self._alarms.set(due if due > now else now + self.policy.max_idle, (connection, _Alarm.IDLE))

    def _hang_up(
        self,
        connection: Connection,
        reason: CloseReason,
        commands: list[Command],
        *,
        polite: bool = True,
    ) -> None:
        dialing = connection.state is ConnectionState.DIALING
        self._lost_leases += self._roster.end_all(connection)
        self._roster.move(connection, ConnectionInput.HANG_UP)
        if not self._roster.usable:
            self._held_back = False  # nothing is left that may come back to those in line
        if not dialing:
            self._calendar.free(connection.retire_at)
        self._closed[reason] += 1
        commands.append(HangUp(connection.id, reason, polite and not dialing))

    def _forget(self, connection: Connection, reason: CloseReason) -> None:
        """Drop a connection that closed by itself."""
        if connection.retire_at != math.inf:
            self._calendar.free(connection.retire_at)
        del self._roster.connections[connection.id]
        self._closed[reason] += 1

    # -- small steps --------------------------------------------------------------------------

    def _freed(self, connection: Connection, lane: Lane, now: float, commands: list[Command]) -> None:
        """A lane is clean and nobody's."""
        if now >= connection.grant_end:
            self._roster.drop(connection, lane)
            self._end_grants(connection, commands)
            return
        self._roster.put(connection, lane)
        self._note_idle(connection, now)
        if self._size() > self.policy.max_size and not connection.busy:
            self._hang_up(connection, CloseReason.RESIZED, commands)

    def _note_idle(self, connection: Connection, now: float) -> None:
        self._roster.note_idle(connection, now)
        if not connection.idle_alarm and not connection.busy and connection.state is _OPEN:
            connection.idle_alarm = True
            self._alarms.set(now + self.policy.max_idle, (connection, _Alarm.IDLE))

    def _size(self) -> int:
        roster = self._roster
        size = roster.dialing + roster.usable
        return size + roster.states[ConnectionState.CLOSING] if self.policy.count_closing else size

    def _is_stale(self, entry: _Entry) -> bool:
        """Whether nothing would happen at this deadline."""
        connection, alarm = entry
        # Only what stays so: the same inputs must lead to the same commands, however often
        # anybody asks for the next deadline in between. So an idle alarm outlives a lease, and
        # a drain alarm the tail that it is about.
        if alarm is _Alarm.RETIRE or alarm is _Alarm.IDLE:
            return connection.state is not ConnectionState.OPEN
        return not connection.usable

    def _refuse(self, waiter: WaiterId, reason: RefuseReason, commands: list[Command]) -> None:
        self._refused += 1
        failure = self._outage.failure if reason is RefuseReason.DIAL_FAILED else None
        commands.append(Refuse(waiter, reason, failure))

    def _refuse_all(self, reason: RefuseReason, commands: list[Command]) -> None:
        for waiter in self._waiters:
            self._refuse(waiter, reason, commands)
        self._waiters.clear()
