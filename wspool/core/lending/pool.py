"""PoolCore: the inputs of one pool, and what each of them changes.

Every input is a method that takes `now` and returns the commands to perform, in order. What follows
from the state that it leaves is decided in `wspool.core.lending.allocation`, in which every input ends; when
a connection retires and ends, in `wspool.core.lending.lives`.

Rules kept here (each is an invariant of the specification machine):

* A lane has at most one lease; a connection that is closing or closed has none.
* A dial belongs to the pool: a waiter that leaves does not stop it.
* Only a provably clean lane becomes free again; when in doubt, hang up.
* A connection has one lane until the endpoint has proved that it has more (`wspool.core.events.naming`).
* Failure is a state of the pool (`wspool.core.outage`).

Every operation costs O(1) or O(log n) in connections and waiters: counters per state,
a heap of deadlines with lazy deletion, no rescans. What concerns all connections at once
(`clear`, `drain`, `close`, a lifetime limit met by surprise) costs O(n).
"""

from __future__ import annotations

import enum
import math
from typing import Final

import attrs

from wspool.core.commands import (
    CloseReason,
    Command,
    ConnectionId,
    Degraded,
    LaneId,
    Leaking,
    LeaseId,
    Recovered,
    RefuseReason,
    WaiterId,
    Warm,
)
from wspool.core.failures import DialFailure, FailureKind
from wspool.core.lending.allocation import ELISION_DELAY, MAX_SKIPS, Allocation, Waiter
from wspool.core.policy import PoolPolicy, Provider
from wspool.core.states import (
    CONNECTION_TABLE,
    LANE_TABLE,
    ConnectionInput,
    ConnectionState,
    IllegalInputError,
    LaneInput,
    LaneState,
    Naming,
    advance,
)
from wspool.core.statistics import PoolStatistics

__all__ = ["EARLY", "PoolCore", "Verdict"]

#: A connection that is lost sooner than this after its handshake, in seconds, and was not used,
#: counts as a failed dial. Policy rejections after the upgrade come at once.
EARLY: Final = 5.0
_REFUSED_LATE: Final = DialFailure(
    kind=FailureKind.TRANSIENT,
    message="the server accepted the connection and closed it at once",
    phase="upgrade",
)

# A member of an enum is looked up by a function call in Python 3.11, a global is not.
_IDLE: Final = LaneState.IDLE
_IN_FLIGHT: Final = LaneState.IN_FLIGHT
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


class PoolCore(Allocation):
    """The decisions of one pool. See the module for the rules, `commands` for the answers.

    Args:
        policy: the limits.
        provider: what the endpoint can do.
        warm_up: True to ask for a warm-up request on each new connection.

    An input that the tables do not allow raises `IllegalInputError` and changes nothing.
    """

    def __init__(self, policy: PoolPolicy, provider: Provider, *, warm_up: bool = False) -> None:
        super().__init__(policy, provider)
        self._warm_up = warm_up and provider.warm_up
        self._held_until = -math.inf
        self._abandoned = self._turns = self._dial_failures = 0

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
        self._lives.resize(self.policy)
        commands: list[Command] = []
        for connection in [*self._roster.connections.values()][::-1]:
            if self._roster.size <= self.policy.max_size:
                break
            if connection.state is ConnectionState.DIALING:
                self._lives.hang_up(connection, CloseReason.RESIZED, commands)
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
                self._lives.hang_up(connection, CloseReason.CLEARED, commands, polite=False)
            elif connection.usable:
                connection.grant_end = min(connection.grant_end, now)
                self._lives.end_grants(connection, commands, CloseReason.CLEARED)
        return self._settle(now, commands)

    def drain(self, now: float) -> list[Command]:
        """Replace every connection, each as soon as its replacement is there."""
        commands: list[Command] = []
        for connection in [*self._roster.connections.values()]:
            if connection.state is ConnectionState.OPEN:
                self._lives.retire(connection, commands)
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
                self._lives.hang_up(connection, CloseReason.POOL_CLOSED, commands)
        return commands

    def force(self, now: float) -> list[Command]:
        """Close everything that is still there, turn in flight or not."""
        commands = self.close(now)
        for connection in [*self._roster.connections.values()]:
            if connection.state is not ConnectionState.CLOSING:
                self._lives.hang_up(connection, CloseReason.POOL_CLOSED, commands, polite=False)
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
        if not self._waiters:
            self._line_since = now
        self._waiters[waiter] = Waiter(min_remaining)
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
            self._waiters[waiter] = Waiter(0.0)
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
            self._lives.end_grants(connection, commands)  # of no use to anybody any more
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
        self._lives.check_expiry(found, now, commands)
        return self._settle(now, commands)

    def give_up(self, lease: LeaseId, now: float) -> list[Command]:
        """The holder gave its turn up. By policy: hang up, or drain the rest of it."""
        connection, lane = self._roster.lease(lease)
        advance(LANE_TABLE, lane.state, LaneInput.ABANDON)
        if self.policy.on_cancel == "hang_up" and len(connection.lanes) == 1:
            return self.hang_up(connection.id, CloseReason.DIRTY, now)
        # One lane of several cannot be dropped without its siblings, so it is always drained.
        self._roster.move_lane(lane, LaneInput.ABANDON)
        self._lives.drain(connection, lane, now)
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
            self._lives.hang_up(connection, CloseReason.POOL_CLOSED, commands)
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
        self._lives.begin(found, self._lanes if self.naming is Naming.NAMED else 1, now, jitter)

        commands: list[Command] = []
        if (lasted := self._outage.recovered(found.episode, now)) is not None:
            commands.append(Recovered(lasted))
        found.episode = self._outage.episode
        if self._warm_up and not self._waiters:
            # Only ahead of demand: a waiter is worth more than a warm cache.
            lane = self._roster.take(found, LaneInput.WARM)
            commands.append(Warm(found.id, lane.id))
        else:
            self._lives.note_idle(found, now)
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
        self._lives.forget(found, CloseReason.DIAL_FAILED)
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
            self._lives.hang_up(found, reason, commands, polite=False)
        if reason is CloseReason.LIMIT:
            # The server's limit is lower than ours. Whatever is older than this one is over it too,
            # and would refuse its next turn as well.
            for older in [*self._roster.connections.values()]:
                if older.usable and older.born <= found.born:
                    older.grant_end = min(older.grant_end, now)
                    self._lives.end_grants(older, commands, CloseReason.LIMIT)
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
            self._lives.retire(found, commands)
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
        self._lives.lost_leases += self._roster.end_all(found)
        self._roster.move(found, ConnectionInput.LOSE)
        self._lives.forget(found, CloseReason.LOST)
        self._outage.eased(now)
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
        self._outage.eased(now)
        return self._settle(now, [])

    def ponged(self, connection: ConnectionId, heard_at: float, now: float) -> list[Command]:
        """The peer was heard at *heard_at*: ping again after the next silence. Ignored once closing."""
        found = self._roster.connection(connection)
        if found.usable:
            self._lives.heard(found, heard_at, now)
        return []

    # -- inputs: time -------------------------------------------------------------------------

    def next_deadline(self) -> float:
        """Return when `tick` wants to be called, infinity for never."""
        deadline = self._lives.alarms.next()
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
        if self._waiters and self._is_held_back() and self._roster.size < self.policy.max_size:
            deadline = min(deadline, self._line_since + ELISION_DELAY)
        if self._roster.parked and self._is_starving():
            deadline = min(deadline, next(iter(self._roster.parked.values())) + self.policy.patience)
        return deadline

    def is_due_before(self, when: float) -> bool:
        """Return whether `next_deadline` is before *when*; cheap when it is not."""
        if self._lives.alarms.none_before(when) and not (
            (self._waiters and (self._roster.parked or self._held_back))
            or self._leak_watch
            or self._outage.failure is not None
        ):
            return False
        return self.next_deadline() < when

    def tick(self, now: float) -> list[Command]:
        """Do what is due at *now*."""
        commands: list[Command] = []
        self._lives.ring(now, commands)
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
            size=self._roster.size,
            dialing=self._roster.dialing,
            open=connections[ConnectionState.OPEN],
            retiring=connections[ConnectionState.RETIRING],
            closing=connections[ConnectionState.CLOSING],
            idle=lanes(LaneState.IDLE),
            warming=lanes(LaneState.WARMING),
            leased=sum(lanes(state) for state in _HELD),
            parked=lanes(LaneState.PARKED),
            in_flight=lanes(LaneState.IN_FLIGHT),
            draining=lanes(LaneState.DRAINING) + lanes(LaneState.QUARANTINED),
            waiting=len(self._waiters),
            degraded=self._outage.degraded,
            paused=self._paused,
            closed_pool=self._closing,
            dialed=self._dialed,
            dial_failures=self._dial_failures,
            granted=self._granted,
            released=self._released,
            lost_leases=self._lives.lost_leases,
            stolen=self._stolen,
            abandoned=self._abandoned,
            refused=self._refused,
            turns=self._turns,
            retirements=self._lives.retirements,
            closed=dict(self._lives.closed),
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
