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
* Failure is a state of the pool: after a failed dial there is one prober, backing off
  with full jitter; on recovery the number of dials at once doubles with each success.

Every operation costs O(1) or O(log n) in connections and waiters: counters per state,
a heap of deadlines with lazy deletion, no rescans.
"""

from __future__ import annotations

import bisect
import enum
import heapq
import math
from collections import Counter, OrderedDict
from typing import Final, TypeAlias

import attrs

from wspool.core.calendar import Calendar
from wspool.core.commands import (
    CloseReason,
    Command,
    ConnectionId,
    Dial,
    Expiring,
    Grant,
    HangUp,
    LaneId,
    LeaseId,
    Ping,
    Refuse,
    RefuseReason,
    WaiterId,
    Warm,
)
from wspool.core.failures import DialFailure
from wspool.core.policy import PoolPolicy, Provider
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

__all__ = ["BACKOFF_BASE", "BACKOFF_CAP", "PoolCore", "Verdict"]

#: First upper bound of the wait after a failed dial, in seconds; doubled by each further failure.
BACKOFF_BASE: Final = 0.5
#: Largest upper bound of that wait, in seconds.
BACKOFF_CAP: Final = 30.0

#: Lane states that belong to a lease.
_HELD: Final = frozenset({LaneState.LEASED, LaneState.IN_FLIGHT, LaneState.DRAINING})
#: Connection states that count against `max_size`.
_COUNTED: Final = (ConnectionState.DIALING, ConnectionState.OPEN, ConnectionState.RETIRING)
#: Connection states in which a lane can be granted.
_USABLE: Final = frozenset({ConnectionState.OPEN, ConnectionState.RETIRING})


class Verdict(enum.Enum):
    """Whether a turn may start on a lease."""

    #: It has started.
    GO = "go"
    #: It has not: the connection may end before the turn does. Take another lease.
    MOVE = "move"


class _Alarm(enum.IntEnum):
    """What a deadline of a connection is about."""

    RETIRE = 0
    LAST_START = 1
    EXPIRE = 2
    IDLE = 3
    PING = 4
    DRAIN = 5


@attrs.define(eq=False)
class _Lane:
    id: LaneId
    state: LaneState = LaneState.IDLE
    lease: LeaseId | None = None
    #: When the rest of an abandoned turn must have ended.
    drain_until: float = math.inf


@attrs.define(eq=False)
class _Connection:
    id: ConnectionId
    #: Start of the dial: the earliest moment from which a server may count its lifetime.
    born: float
    #: Which outage, if any, this dial belongs to (see PoolCore._episode).
    episode: int
    state: ConnectionState = ConnectionState.DIALING
    lanes: list[_Lane] = attrs.field(factory=list[_Lane])
    #: Lanes that are IDLE, the next to be granted last.
    free: list[_Lane] = attrs.field(factory=list[_Lane])
    #: Lanes that are neither IDLE nor DEAD.
    busy: int = 0
    retire_at: float = math.inf
    last_start: float = math.inf
    expires_at: float = math.inf
    #: Since when every lane is IDLE.
    idle_since: float | None = None
    idle_alarm: bool = False


#: When, a tie-breaker that never ties, whose, what.
_Entry: TypeAlias = tuple[float, int, _Connection, _Alarm]


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
        self._lanes = provider.lanes

        self._connections: dict[ConnectionId, _Connection] = {}
        # A lease that is not here is dead: released, or lost with its connection.
        self._leases: dict[LeaseId, tuple[_Connection, _Lane]] = {}
        self._waiters: OrderedDict[WaiterId, None] = OrderedDict()
        # Connections with a free lane, by (retire_at, id): the freshest last.
        # Invariant: a connection is in it iff its state is usable and `free` is not empty.
        self._available: list[tuple[float, ConnectionId]] = []
        # Retiring connections with no busy lane: they wait for their replacement.
        self._leaving: OrderedDict[ConnectionId, _Connection] = OrderedDict()
        self._calendar = Calendar(self.schedule.retire_to - self.schedule.retire_from, policy.max_size)
        self._alarms: list[_Entry] = []
        self._alarm_number = 0

        self._connection_states: Counter[ConnectionState] = Counter()
        self._lane_states: Counter[LaneState] = Counter()
        # IDLE lanes of OPEN connections: spare that counts as ready ahead of demand.
        self._fresh = 0
        # Held lanes of RETIRING connections: their holders will soon want another.
        self._movers = 0

        # An episode is one outage; failures of dials that started before it began do not
        # escalate it, or sixteen dials failing together would count as sixteen outages.
        self._episode = 0
        self._failures = 0
        self._failure: DialFailure | None = None
        self._give_up_at = math.inf
        self._probe_at = -math.inf
        self._dial_limit = policy.dial_concurrency
        self._closing = False

        self._last_connection = 0
        self._last_lease = 0
        self._dialed = self._dial_failures = 0
        self._granted = self._released = self._lost_leases = 0
        self._abandoned = self._refused = self._turns = self._retirements = 0
        self._closed: Counter[str] = Counter()

    # -- inputs: the life of the pool ---------------------------------------------------------

    def start(self, now: float) -> list[Command]:
        """Begin: dial what `min_idle` asks for."""
        return self._settle(now, [])

    def close(self, now: float) -> list[Command]:
        """Refuse every waiter, close what is free, let leases finish. Idempotent."""
        commands: list[Command] = []
        if self._closing:
            return commands
        self._closing = True
        for waiter in list(self._waiters):
            self._refuse(waiter, RefuseReason.CLOSED, None, commands)
        self._waiters.clear()
        for connection in list(self._connections.values()):
            if connection.state is not ConnectionState.CLOSING and not self._is_held(connection):
                self._hang_up(connection, CloseReason.POOL_CLOSED, commands)
        return commands

    def force(self, now: float) -> list[Command]:
        """Close everything that is still there, turn in flight or not."""
        commands = self.close(now)
        for connection in list(self._connections.values()):
            if connection.state is not ConnectionState.CLOSING:
                self._hang_up(connection, CloseReason.POOL_CLOSED, commands, polite=False)
        return commands

    # -- inputs: waiters and leases -----------------------------------------------------------

    def acquire(self, waiter: WaiterId, now: float) -> list[Command]:
        """Put *waiter* in line. The answer, now or later, is one `Grant` or `Refuse`."""
        if waiter in self._waiters:
            raise IllegalInputError(f"waiter {waiter} is in line already")
        commands: list[Command] = []
        if self._closing:
            self._refuse(waiter, RefuseReason.CLOSED, None, commands)
            return commands
        self._waiters[waiter] = None
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
                failure = self._failure if reason is RefuseReason.DIAL_FAILED else None
                self._refuse(waiter, reason, failure, commands)
        return self._settle(now, commands)

    def abandon(self, waiter: WaiterId, now: float) -> list[Command]:
        """Take a cancelled waiter out of line. Dials go on: they belong to the pool."""
        if waiter not in self._waiters:
            raise IllegalInputError(f"waiter {waiter} is not in line")
        del self._waiters[waiter]
        self._abandoned += 1
        return []

    def begin(self, lease: LeaseId, now: float, *, movable: bool = False) -> tuple[Verdict, list[Command]]:
        """Start a turn on *lease*, unless its connection may end before the turn does.

        Args:
            lease: a live lease without a turn.
            now: seconds.
            movable: True if the holder can go on elsewhere at little cost: then a connection
                past its planned retirement is left as soon as another one is ready.

        Raises:
            IllegalInputError: the lease is dead or has a turn already.
        """
        connection, lane = self._lease(lease)
        advance(LANE_TABLE, lane.state, LaneInput.START)  # illegal before anything else
        if now >= connection.last_start:
            return Verdict.MOVE, []
        if movable and connection.state is ConnectionState.RETIRING and self._fresh and not self._waiters:
            return Verdict.MOVE, []
        self._move_lane(connection, lane, LaneInput.START)
        self._turns += 1
        return Verdict.GO, []

    def finished(self, connection: ConnectionId, lane: LaneId, now: float) -> list[Command]:
        """The terminal event of whatever was on the lane has come, and the lane is clean."""
        found = self._connection(connection)
        on = found.lanes[lane]
        self._move_lane(found, on, LaneInput.FINISH)
        on.drain_until = math.inf
        commands: list[Command] = []
        if on.state is LaneState.IDLE:  # a warm-up, or a tail whose holder has left
            self._freed(found, on, now, commands)
        self._check_expiry(found, now, commands)
        return self._settle(now, commands)

    def give_up(self, lease: LeaseId, now: float) -> list[Command]:
        """The holder gave its turn up. By policy: hang up, or drain the rest of it."""
        connection, lane = self._lease(lease)
        advance(LANE_TABLE, lane.state, LaneInput.ABANDON)
        if self.policy.on_cancel == "hang_up" and self._lanes == 1:
            return self.hang_up(connection.id, CloseReason.DIRTY, now)
        # One lane of several cannot be dropped without its siblings, so it is always drained.
        self._move_lane(connection, lane, LaneInput.ABANDON)
        lane.drain_until = now + self.policy.drain_timeout
        self._set_alarm(lane.drain_until, connection, _Alarm.DRAIN)
        return []

    def release(self, lease: LeaseId, now: float) -> list[Command]:
        """The holder leaves. A lane with a turn in flight is not clean: it is given up first.

        Releasing a dead lease does nothing, so releasing twice is harmless.
        """
        held = self._leases.get(lease)
        if held is None:
            return []
        connection, lane = held
        commands: list[Command] = []
        if lane.state is LaneState.IN_FLIGHT:
            commands += self.give_up(lease, now)
            if lease not in self._leases:
                return commands
        self._move_lane(connection, lane, LaneInput.RELEASE)
        self._drop_lease(lease, lane)
        self._released += 1
        if lane.state is LaneState.IDLE:
            self._freed(connection, lane, now, commands)
        if self._closing and connection.state in _USABLE and not self._is_held(connection):
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
        found = self._connection(connection)
        self._move_connection(found, ConnectionInput.CONNECT)
        schedule = self.schedule
        found.expires_at = found.born + schedule.lifetime
        found.last_start = found.born + schedule.last_start
        found.retire_at = self._calendar.book(
            found.born + schedule.retire_from, found.born + schedule.retire_to, jitter
        )
        self._set_alarm(found.retire_at, found, _Alarm.RETIRE)
        self._set_alarm(found.last_start, found, _Alarm.LAST_START)
        self._set_alarm(found.expires_at, found, _Alarm.EXPIRE)
        if self.policy.ping_interval is not None:
            self._set_alarm(now + self.policy.ping_interval, found, _Alarm.PING)
        self._recovered()

        commands: list[Command] = []
        found.lanes = [_Lane(LaneId(number)) for number in range(self._lanes)]
        self._lane_states[LaneState.IDLE] += self._lanes
        self._fresh += self._lanes
        found.free = found.lanes[::-1]
        bisect.insort(self._available, (found.retire_at, found.id))
        if self._warm_up and not self._waiters:
            # Only ahead of demand: a waiter is worth more than a warm cache.
            lane = self._take_lane(found)
            self._move_lane(found, lane, LaneInput.WARM)
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
        found = self._connection(connection)
        self._move_connection(found, ConnectionInput.FAIL)
        self._forget(found, CloseReason.DIAL_FAILED)
        self._dial_failures += 1
        if found.episode == self._episode:
            self._episode += 1
            if self._failures == 0:
                self._give_up_at = now + self.policy.give_up_after
            # Full jitter; what the server asks for is a floor. Source: the backoff of gRPC, and
            # RFC 9110 section 10.2.3.
            bound = min(BACKOFF_CAP, BACKOFF_BASE * 2.0 ** min(self._failures, 60))
            self._failures += 1
            self._probe_at = max(now + jitter * bound, now + (failure.retry_after or 0.0))
            self._dial_limit = 1
        if self._failures:
            self._failure = failure
        commands: list[Command] = []
        if self._is_hopeless(now):
            self._refuse_all(commands)
        return self._settle(now, commands)

    def hang_up(self, connection: ConnectionId, reason: CloseReason, now: float) -> list[Command]:
        """Close a connection that must not be used again (dirty, at its limit). Idempotent."""
        found = self._connection(connection)
        commands: list[Command] = []
        if found.state is not ConnectionState.CLOSING:
            self._hang_up(found, reason, commands, polite=False)
        return self._settle(now, commands)

    def retire(self, connection: ConnectionId, now: float) -> list[Command]:
        """The server announced that this connection ends soon. Idempotent."""
        found = self._connection(connection)
        commands: list[Command] = []
        if found.state is ConnectionState.OPEN:
            self._retire(found, commands)
        return self._settle(now, commands)

    def lost(self, connection: ConnectionId, now: float) -> list[Command]:
        """An open connection died by itself."""
        found = self._connection(connection)
        advance(CONNECTION_TABLE, found.state, ConnectionInput.LOSE)
        self._end_lanes(found)
        self._move_connection(found, ConnectionInput.LOSE)
        self._forget(found, CloseReason.LOST)
        return self._settle(now, [])

    def gone(self, connection: ConnectionId, now: float) -> list[Command]:
        """A connection that was told to go is gone."""
        found = self._connection(connection)
        self._move_connection(found, ConnectionInput.GO)
        del self._connections[connection]
        return self._settle(now, [])

    def ponged(self, connection: ConnectionId, heard_at: float, now: float) -> list[Command]:
        """The peer was heard at *heard_at*: ping again after the next silence. Ignored once closing."""
        found = self._connection(connection)
        if self.policy.ping_interval is not None and found.state in _USABLE:
            self._set_alarm(max(heard_at + self.policy.ping_interval, now), found, _Alarm.PING)
        return []

    # -- inputs: time -------------------------------------------------------------------------

    def next_deadline(self) -> float:
        """Return when `tick` wants to be called, infinity for never."""
        alarms = self._alarms
        while alarms and self._is_stale(alarms[0]):
            heapq.heappop(alarms)
        deadline = alarms[0][0] if alarms else math.inf
        if self._failures and not self._connection_states[ConnectionState.DIALING]:
            # Only an outage delays a dial; otherwise it starts when it is needed.
            if self._waiters:
                deadline = min(deadline, self._give_up_at)
            if self._wants_dial():
                deadline = min(deadline, self._probe_at)
        return deadline

    def tick(self, now: float) -> list[Command]:
        """Do what is due at *now*."""
        commands: list[Command] = []
        alarms = self._alarms
        while alarms and alarms[0][0] <= now:
            entry = heapq.heappop(alarms)
            if self._is_stale(entry):
                continue
            _, _, connection, alarm = entry
            match alarm:
                case _Alarm.RETIRE:
                    self._retire(connection, commands)
                case _Alarm.LAST_START:
                    self._end_grants(connection, commands)
                case _Alarm.EXPIRE:
                    self._check_expiry(connection, now, commands)
                case _Alarm.IDLE:
                    self._check_idle(connection, now, commands)
                case _Alarm.PING:
                    commands.append(Ping(connection.id))
                case _Alarm.DRAIN:
                    self._check_drain(connection, now, commands)
        if self._is_hopeless(now) and not self._connection_states[ConnectionState.DIALING]:
            self._refuse_all(commands)
        return self._settle(now, commands)

    # -- queries ------------------------------------------------------------------------------

    def statistics(self) -> PoolStatistics:
        """Return a frozen snapshot; taking it changes nothing."""
        connections, lanes = self._connection_states, self._lane_states
        return PoolStatistics(
            max_size=self.policy.max_size,
            size=self._size(),
            dialing=connections[ConnectionState.DIALING],
            open=connections[ConnectionState.OPEN],
            retiring=connections[ConnectionState.RETIRING],
            closing=connections[ConnectionState.CLOSING],
            idle=lanes[LaneState.IDLE],
            warming=lanes[LaneState.WARMING],
            leased=sum(lanes[state] for state in _HELD),
            in_flight=lanes[LaneState.IN_FLIGHT],
            draining=lanes[LaneState.DRAINING] + lanes[LaneState.QUARANTINED],
            waiting=len(self._waiters),
            degraded=self._failures > 0,
            closed_pool=self._closing,
            dialed=self._dialed,
            dial_failures=self._dial_failures,
            granted=self._granted,
            released=self._released,
            lost_leases=self._lost_leases,
            abandoned=self._abandoned,
            refused=self._refused,
            turns=self._turns,
            retirements=self._retirements,
            closed=dict(self._closed),
        )

    @property
    def failure(self) -> DialFailure | None:
        """The last dial's failure while the pool is degraded, else None."""
        return self._failure

    def is_live(self, lease: LeaseId) -> bool:
        """Return whether *lease* still holds its lane."""
        return lease in self._leases

    def states(self) -> dict[ConnectionId, tuple[ConnectionState, tuple[LaneState, ...]]]:
        """Return the state of every connection that is not gone, and of its lanes (for tests)."""
        return {
            number: (connection.state, tuple(lane.state for lane in connection.lanes))
            for number, connection in self._connections.items()
        }

    # -- policy: the one place ----------------------------------------------------------------

    def _settle(self, now: float, commands: list[Command]) -> list[Command]:
        if self._closing:
            return commands
        self._match(now, commands)
        self._let_leavers_go(commands)
        self._grow(now, commands)
        return commands

    def _match(self, now: float, commands: list[Command]) -> None:
        while self._waiters and self._available:
            connection = self._connections[self._available[-1][1]]
            if now >= connection.last_start:
                # Its deadline has passed but its tick has not come yet.
                self._end_grants(connection, commands)
                continue
            waiter, _ = self._waiters.popitem(last=False)
            lane = self._take_lane(connection)
            self._move_lane(connection, lane, LaneInput.GRANT)
            self._last_lease += 1
            lane.lease = LeaseId(self._last_lease)
            self._leases[lane.lease] = (connection, lane)
            self._granted += 1
            commands.append(Grant(waiter, lane.lease, connection.id, lane.id))
            if connection.state is ConnectionState.RETIRING:
                self._leaving.pop(connection.id, None)
                self._movers += 1
                commands.append(Expiring(lane.lease))

    def _let_leavers_go(self, commands: list[Command]) -> None:
        # Make before break: a retiring connection nobody holds stays grantable until spare is
        # complete without it, or until only its going makes room for its replacement.
        while self._leaving and (self._fresh >= self.policy.min_idle or self._size() >= self.policy.max_size):
            _, connection = self._leaving.popitem(last=False)
            self._hang_up(connection, CloseReason.LIFETIME, commands)

    def _grow(self, now: float, commands: list[Command]) -> None:
        while (
            self._wants_dial()
            and self._connection_states[ConnectionState.DIALING] < self._dial_limit
            and self._may_dial(now)
        ):
            self._last_connection += 1
            connection = _Connection(ConnectionId(self._last_connection), now, self._episode)
            self._connections[connection.id] = connection
            self._connection_states[ConnectionState.DIALING] += 1
            self._dialed += 1
            commands.append(Dial(connection.id))

    def _wants_dial(self) -> bool:
        """Whether one more dial is needed and there is room for it."""
        if self._closing or self._size() >= self.policy.max_size:
            return False
        if self._failure is not None and self._failure.permanent and not self._waiters:
            return False  # spare is no reason to ask again what was refused for good
        spare = self._fresh + self._lane_states[LaneState.WARMING]
        need = len(self._waiters) + max(0, self.policy.min_idle + self._movers - spare)
        return need > self._connection_states[ConnectionState.DIALING] * self._lanes

    def _may_dial(self, now: float) -> bool:
        return not self._failures or now >= self._probe_at

    def _is_hopeless(self, now: float) -> bool:
        """Whether waiting cannot help, or has been tried long enough; until the next probe."""
        failure = self._failure
        if failure is None or now >= self._probe_at:
            return False
        return failure.permanent or now >= self._give_up_at

    def _recovered(self) -> None:
        if self._failures:
            self._failures = 0
            self._failure = None
            self._give_up_at = math.inf
        # Slow start: 1, 2, 4 ... dials at once after an outage.
        self._dial_limit = min(self._dial_limit * 2, self.policy.dial_concurrency)

    # -- the life of a connection -------------------------------------------------------------

    def _retire(self, connection: _Connection, commands: list[Command]) -> None:
        self._move_connection(connection, ConnectionInput.RETIRE)
        self._retirements += 1
        self._fresh -= len(connection.free)
        held = [lane.lease for lane in connection.lanes if lane.lease is not None]
        self._movers += len(held)
        commands.extend(Expiring(lease) for lease in held)
        if connection.idle_since is not None:
            self._leaving[connection.id] = connection

    def _end_grants(self, connection: _Connection, commands: list[Command]) -> None:
        """No turn may start on *connection* any more."""
        if connection.state is ConnectionState.OPEN:
            self._retire(connection, commands)
        if not connection.busy:
            self._hang_up(connection, CloseReason.LIFETIME, commands)
            return
        if connection.free:
            self._remove_available(connection)
            for lane in connection.free:
                self._move_lane(connection, lane, LaneInput.END)
            connection.free.clear()

    def _check_expiry(self, connection: _Connection, now: float, commands: list[Command]) -> None:
        # Past the server's limit only a turn in flight keeps a connection: the server may let
        # it end, and cutting it here would lose it for certain.
        if now < connection.expires_at or connection.state not in _USABLE:
            return
        if not any(lane.state is LaneState.IN_FLIGHT for lane in connection.lanes):
            self._hang_up(connection, CloseReason.LIFETIME, commands)

    def _check_drain(self, connection: _Connection, now: float, commands: list[Command]) -> None:
        late = [lane for lane in connection.lanes if lane.drain_until <= now]
        if late and connection.busy == len(late):
            self._hang_up(connection, CloseReason.DIRTY, commands, polite=False)
        elif late:
            # Siblings are at work: they go on, and the connection goes with the last of them.
            if connection.state is ConnectionState.OPEN:
                self._retire(connection, commands)
            for lane in late:
                lane.drain_until = math.inf
                if lane.lease is not None:
                    self._lost_leases += 1
                    self._drop_lease(lane.lease, lane)
                self._move_lane(connection, lane, LaneInput.END)
                connection.busy -= 1

    def _check_idle(self, connection: _Connection, now: float, commands: list[Command]) -> None:
        connection.idle_alarm = False
        if connection.idle_since is None:
            return  # busy since; the alarm is set again when it is idle
        due = connection.idle_since + self.policy.max_idle
        surplus = self._fresh - len(connection.free) >= self.policy.min_idle
        if due <= now and surplus:
            self._hang_up(connection, CloseReason.IDLE, commands)
        else:
            # Busy in between, or part of the spare: look again when it may have become surplus.
            connection.idle_alarm = True
            self._set_alarm(due if due > now else now + self.policy.max_idle, connection, _Alarm.IDLE)

    def _hang_up(
        self,
        connection: _Connection,
        reason: CloseReason,
        commands: list[Command],
        *,
        polite: bool = True,
    ) -> None:
        dialing = connection.state is ConnectionState.DIALING
        self._end_lanes(connection)
        self._move_connection(connection, ConnectionInput.HANG_UP)
        if not dialing:
            self._calendar.free(connection.retire_at)
        self._closed[reason] += 1
        commands.append(HangUp(connection.id, reason, polite and not dialing))

    def _forget(self, connection: _Connection, reason: CloseReason) -> None:
        """Drop a connection that closed by itself."""
        if connection.retire_at != math.inf:
            self._calendar.free(connection.retire_at)
        del self._connections[connection.id]
        self._closed[reason] += 1

    def _end_lanes(self, connection: _Connection) -> None:
        if connection.free and connection.state in _USABLE:
            self._remove_available(connection)
            if connection.state is ConnectionState.OPEN:
                self._fresh -= len(connection.free)
        self._leaving.pop(connection.id, None)
        connection.free.clear()
        connection.busy = 0
        connection.idle_since = None
        for lane in connection.lanes:
            if lane.lease is not None:
                self._lost_leases += 1
                self._drop_lease(lane.lease, lane)
            if lane.state is not LaneState.DEAD:
                self._move_lane(connection, lane, LaneInput.END)

    # -- small steps --------------------------------------------------------------------------

    def _connection(self, number: ConnectionId) -> _Connection:
        try:
            return self._connections[number]
        except KeyError:
            raise IllegalInputError(f"connection {number} is gone or never was") from None

    def _lease(self, lease: LeaseId) -> tuple[_Connection, _Lane]:
        try:
            return self._leases[lease]
        except KeyError:
            raise IllegalInputError(f"lease {lease} is dead") from None

    def _drop_lease(self, lease: LeaseId, lane: _Lane) -> None:
        connection, _ = self._leases.pop(lease)
        lane.lease = None
        if connection.state is ConnectionState.RETIRING:
            self._movers -= 1

    def _take_lane(self, connection: _Connection) -> _Lane:
        lane = connection.free.pop()
        connection.busy += 1
        connection.idle_since = None
        if connection.state is ConnectionState.OPEN:
            self._fresh -= 1
        if not connection.free:
            self._remove_available(connection)
        return lane

    def _remove_available(self, connection: _Connection) -> None:
        key = (connection.retire_at, connection.id)
        index = bisect.bisect_left(self._available, key)
        if index == len(self._available) or self._available[index] != key:
            raise AssertionError(f"bug: connection {connection.id} is not available")
        del self._available[index]

    def _freed(self, connection: _Connection, lane: _Lane, now: float, commands: list[Command]) -> None:
        """A lane is clean and nobody's."""
        connection.busy -= 1
        if now >= connection.last_start:
            self._move_lane(connection, lane, LaneInput.END)
            self._end_grants(connection, commands)
            return
        if not connection.free:
            bisect.insort(self._available, (connection.retire_at, connection.id))
        connection.free.append(lane)
        if connection.state is ConnectionState.OPEN:
            self._fresh += 1
        self._note_idle(connection, now)

    def _note_idle(self, connection: _Connection, now: float) -> None:
        if connection.busy:
            return
        connection.idle_since = now
        if connection.state is ConnectionState.RETIRING:
            self._leaving[connection.id] = connection
        elif not connection.idle_alarm:
            connection.idle_alarm = True
            self._set_alarm(now + self.policy.max_idle, connection, _Alarm.IDLE)

    def _is_held(self, connection: _Connection) -> bool:
        return any(lane.lease is not None for lane in connection.lanes)

    def _size(self) -> int:
        states = self._connection_states
        return sum(states[state] for state in _COUNTED)

    def _move_connection(self, connection: _Connection, what: ConnectionInput) -> None:
        after = advance(CONNECTION_TABLE, connection.state, what)
        self._connection_states[connection.state] -= 1
        connection.state = after
        self._connection_states[after] += 1

    def _move_lane(self, connection: _Connection, lane: _Lane, what: LaneInput) -> None:
        after = advance(LANE_TABLE, lane.state, what)
        self._lane_states[lane.state] -= 1
        self._lane_states[after] += 1
        lane.state = after

    def _set_alarm(self, when: float, connection: _Connection, alarm: _Alarm) -> None:
        self._alarm_number += 1
        heapq.heappush(self._alarms, (when, self._alarm_number, connection, alarm))
        # Alarms of dead connections stay until they are due. Under churn they would pile up, so
        # they are swept once they may outnumber the live ones: O(1) per alarm set.
        if len(self._alarms) > 64 + 16 * len(self._connections):
            self._alarms = [entry for entry in self._alarms if not self._is_stale(entry)]
            heapq.heapify(self._alarms)

    def _is_stale(self, entry: _Entry) -> bool:
        """Whether nothing would happen at this deadline."""
        _, _, connection, alarm = entry
        match alarm:
            case _Alarm.RETIRE:
                return connection.state is not ConnectionState.OPEN
            case _Alarm.IDLE:
                if connection.state is ConnectionState.OPEN and connection.idle_since is not None:
                    return False
                connection.idle_alarm = False
                return True
            case _Alarm.DRAIN:
                return connection.state not in _USABLE or all(
                    lane.drain_until == math.inf for lane in connection.lanes
                )
            case _:
                return connection.state not in _USABLE

    def _refuse(
        self, waiter: WaiterId, reason: RefuseReason, failure: DialFailure | None, commands: list[Command]
    ) -> None:
        self._refused += 1
        commands.append(Refuse(waiter, reason, failure))

    def _refuse_all(self, commands: list[Command]) -> None:
        for waiter in self._waiters:
            self._refuse(waiter, RefuseReason.DIAL_FAILED, self._failure, commands)
        self._waiters.clear()
