"""Lives: when a connection is pinged, when it retires, when it ends, and why.

Rules of this module:

* Retirement is planned: each connection has a time of its own in the calendar. Past it a
  connection stays grantable until its replacement is ready (make before break), or until no turn may
  start on it any more.
* Past the server's limit only a turn in flight keeps a connection.
* What is not granted any more goes with its last lane, for the reason that it is not granted for.
* What is told to go says goodbye only if it is clean.
* What nobody needs goes after `max_idle`, unless it is spare that was asked for. For one that retires those
  that were dialled since count as spare, though they retire, too: else an endpoint that announces the end of
  each connection as it opens fills the pool. Where nothing new can be had, what retires stays.
* A connection that ends leaves nothing behind: no alarm, no place in the calendar. One without a
  lifetime limit never has them.
"""

from __future__ import annotations

import enum
import math
from typing import Final, TypeAlias, assert_never

from wspool.core.commands import CloseReason, Command, Expiring, HangUp, Ping
from wspool.core.lending.alarms import Alarms
from wspool.core.lending.calendar import Calendar
from wspool.core.lending.endings import Endings
from wspool.core.lending.lanes import Connection, Lane
from wspool.core.lending.roster import Roster
from wspool.core.lending.tally import Tally
from wspool.core.policy import PoolPolicy, Schedule
from wspool.core.states import CONNECTION_TABLE, ConnectionInput, ConnectionState, LaneState, advance

__all__ = ["Lives"]

# A member of an enum is looked up by a function call in Python 3.11, a global is not.
_OPEN: Final = ConnectionState.OPEN


class _Alarm(enum.Enum):
    """What a deadline of a connection is about."""

    __hash__ = object.__hash__

    RETIRE = "retire"
    GRANT_END = "grant end"
    EXPIRE = "expire"
    IDLE = "idle"
    PING = "ping"
    TAIL = "tail"


_Key: TypeAlias = tuple[Connection, _Alarm]


class Lives:
    """The lives of the connections of a pool.

    Args:
        policy: the limits; replaced when the pool is resized.
        schedule: when connections retire.
        roster: the connections.
        tally: where closes, retirements and lost leases are counted.
        endings: what they say about the endpoint.

    Attributes:
        calendar: planned retirements.
        alarms: deadlines of connections.
    """

    def __init__(
        self, policy: PoolPolicy, schedule: Schedule, roster: Roster, tally: Tally, endings: Endings
    ) -> None:
        self.policy = policy
        self._schedule, self._learned = schedule, False
        self._roster = roster
        self._tally = tally
        self._endings = endings
        self.calendar = Calendar(schedule.spread, policy.max_size)
        self.alarms: Alarms[_Key] = Alarms()

    def resize(self, policy: PoolPolicy) -> None:
        """The limits have changed."""
        self.policy = policy
        self.calendar.resize(policy.max_size)

    def begin(self, connection: Connection, lanes: int, now: float) -> None:
        """Its handshake is done, it has that many lanes: plan its life."""
        connection.retire_at = self._plan(connection)
        connection.opened_at = now
        self._roster.open(connection, lanes)
        self._arm(connection)
        self.heard(connection, now, now)

    def _plan(self, connection: Connection) -> float:
        """Set the limits of its life, and book and return the time of its retirement."""
        schedule, born = self._schedule, connection.born
        connection.expires_at = born + schedule.lifetime
        connection.last_start = min(born + schedule.last_start, connection.distrusted_at)
        connection.grant_end = min(connection.last_start, connection.cleared_at)
        return self.calendar.book(born + schedule.retire_from, born + schedule.retire_to, connection.jitter)

    def _arm(self, connection: Connection) -> None:
        alarms = self.alarms
        if connection.state is _OPEN:
            alarms.set((connection, _Alarm.RETIRE), connection.retire_at)
        alarms.set((connection, _Alarm.GRANT_END), connection.grant_end)
        alarms.set((connection, _Alarm.EXPIRE), connection.expires_at)

    def replan(self, schedule: Schedule, *, learned: bool) -> None:
        """Connections live for longer or shorter than was thought: plan all lives anew."""
        self._schedule, self._learned = schedule, learned
        self.calendar = Calendar(schedule.spread, self.policy.max_size)
        for connection in self._roster.connections.values():
            if connection.usable:
                self._roster.replan(connection, self._plan(connection))
                self._arm(connection)

    def heard(self, connection: Connection, heard_at: float, now: float) -> None:
        """The peer was heard at *heard_at*: ping it after the next silence."""
        if self.policy.ping_interval is not None:
            self.alarms.set((connection, _Alarm.PING), max(heard_at + self.policy.ping_interval, now))

    def bound_tail(self, connection: Connection, lane: Lane, now: float) -> None:
        """The rest of a turn on *lane* must have ended within `drain_timeout`."""
        lane.tail_until = now + self.policy.drain_timeout
        self._arm_tails(connection)

    def ring(self, now: float, commands: list[Command]) -> None:
        """Do what is due at *now*."""
        while (due := self.alarms.pop_due(now)) is not None:
            connection, alarm = due
            match alarm:
                case _Alarm.RETIRE:
                    self.retire(connection, commands)
                    if self._learned:  # on the word of a server, which must not make us dial
                        self._endings.noticed(connection)
                case _Alarm.GRANT_END:
                    self.end_grants(connection, commands)
                case _Alarm.EXPIRE:
                    self.check_end(connection, now, commands)
                case _Alarm.IDLE:
                    self._check_idle(connection, now, commands)
                case _Alarm.PING:
                    commands.append(Ping(connection.id))
                case _Alarm.TAIL:
                    self._check_tails(connection, now, commands)
                case _:
                    assert_never(alarm)

    def retire(self, connection: Connection, commands: list[Command]) -> None:
        """Replace *connection* as soon as possible; tell who holds it."""
        commands.extend(Expiring(lease) for lease in self._roster.retire(connection))
        self.alarms.cancel((connection, _Alarm.RETIRE))
        self._tally.retirements += 1

    def end_grants(self, connection: Connection, commands: list[Command]) -> None:
        """No lane of *connection* is granted any more."""
        if connection.state is ConnectionState.OPEN:
            self.retire(connection, commands)
        self._roster.end_free(connection)
        for lane in connection.lanes:
            if lane.state is LaneState.PARKED:
                self._drop(connection, lane)  # its holder could not go on here either
        if not connection.busy:
            self.hang_up(connection, connection.leaves_for, commands)

    def clear(self, connection: Connection, now: float, commands: list[Command], *, interrupt: bool) -> None:
        """It is not trusted any more. What is leased may go on, unless *interrupt* is true."""
        if connection.state is ConnectionState.DIALING or (interrupt and connection.usable):
            self.hang_up(connection, CloseReason.CLEARED, commands, polite=False)
        elif connection.usable:
            self._clear(connection, now, commands, CloseReason.CLEARED)

    def meet_limit(self, connection: Connection, now: float, commands: list[Command]) -> None:
        """The server ended it for its age: whatever is older would be refused its next turn as well."""
        for older in [*self._roster.connections.values()]:
            if older.usable and older.born <= connection.born:
                self._clear(older, now, commands, CloseReason.LIMIT)

    def distrust(self, connection: Connection, now: float, commands: list[Command]) -> None:
        """No turn may be started on it any more, by whoever has a lane of it either."""
        connection.distrusted_at = min(connection.distrusted_at, now)
        connection.last_start = min(connection.last_start, now)
        self._clear(connection, now, commands, CloseReason.DIRTY)

    def _clear(
        self, connection: Connection, now: float, commands: list[Command], reason: CloseReason
    ) -> None:
        """No lane of it is granted any more, whatever is planned later."""
        if connection.cleared_at == math.inf:  # else it leaves for what came first
            connection.cleared_at, connection.leaves_for = now, reason
        connection.grant_end = min(connection.grant_end, now)
        self.end_grants(connection, commands)

    def check_end(self, connection: Connection, now: float, commands: list[Command]) -> None:
        """Hang up past the server's limit, or if it is distrusted, once nothing is lost by it."""
        # Past the server's limit only a turn in flight keeps a connection: the server may let
        # it end, and cutting it here would lose it for certain. What is distrusted has no other use, either.
        expired = now >= connection.expires_at
        if not connection.usable or not (expired or now >= connection.distrusted_at):
            return
        if any(lane.state is LaneState.IN_FLIGHT for lane in connection.lanes):
            return
        if expired:
            self.hang_up(connection, CloseReason.LIFETIME, commands)
        else:
            # mark: dirty: the last turn on a suspect connection
            self.hang_up(connection, CloseReason.DIRTY, commands, polite=False)

    def _arm_tails(self, connection: Connection) -> None:
        # A tail that ends in time leaves the alarm to the next one: it rings for nothing then.
        self.alarms.set((connection, _Alarm.TAIL), min(lane.tail_until for lane in connection.lanes))

    def _check_tails(self, connection: Connection, now: float, commands: list[Command]) -> None:
        late = [lane for lane in connection.lanes if lane.tail_until <= now]
        if late and connection.busy == len(late):
            # mark: dirty: an endless tail
            self.hang_up(connection, CloseReason.DIRTY, commands, polite=False)
            return
        if late:
            # Siblings are at work: they go on, and the connection goes with the last of them.
            if connection.state is ConnectionState.OPEN:
                self.retire(connection, commands)
            for lane in late:
                self._drop(connection, lane)
            self.check_end(connection, now, commands)
        if connection.usable:
            self._arm_tails(connection)

    def _drop(self, connection: Connection, lane: Lane) -> None:
        """A busy lane ends, with its lease if it has one."""
        if lane.lease is not None:
            self._tally.lost_leases += 1
            self._roster.unbind(lane.lease)
        self._roster.drop(connection, lane)

    def _check_idle(self, connection: Connection, now: float, commands: list[Command]) -> None:
        connection.idle_alarm = False
        if connection.idle_since is None:
            return  # busy since; the alarm is set again when it is idle
        due = connection.idle_since + self.policy.max_idle
        affinity = self._roster.affinity
        others = affinity.fresh - sum(affinity.is_fresh(lane) for lane in connection.free)
        if connection.left_after is not None:
            others += affinity.leaving_since(connection.left_after)
        surplus = others >= self.policy.min_idle
        if due <= now and surplus:
            self.hang_up(connection, CloseReason.IDLE, commands)
        else:
            # Busy in between, or part of the spare: look again when it may have become surplus.
            connection.idle_alarm = True
            self.alarms.set((connection, _Alarm.IDLE), due if due > now else now + self.policy.max_idle)

    def hang_up(
        self,
        connection: Connection,
        reason: CloseReason,
        commands: list[Command],
        *,
        polite: bool = True,
    ) -> None:
        """End *connection*, whatever is on it."""
        dialing = connection.state is ConnectionState.DIALING
        self._end(connection, ConnectionInput.HANG_UP, reason)
        commands.append(HangUp(connection.id, reason, polite and not dialing))

    def fail(self, connection: Connection) -> None:
        """Its dial has failed."""
        self._end(connection, ConnectionInput.FAIL, CloseReason.DIAL_FAILED)
        del self._roster.connections[connection.id]

    def lose(self, connection: Connection) -> None:
        """It has died by itself."""
        self._end(connection, ConnectionInput.LOSE, CloseReason.LOST)
        del self._roster.connections[connection.id]

    def _end(self, connection: Connection, what: ConnectionInput, reason: CloseReason) -> None:
        advance(CONNECTION_TABLE, connection.state, what)  # illegal before anything else
        if connection.usable:
            self._endings.note(connection, reason)
        self._tally.lost_leases += self._roster.end_all(connection)
        self._roster.move(connection, what)
        for alarm in _Alarm:
            self.alarms.cancel((connection, alarm))
        self.calendar.free(connection.retire_at)
        self._tally.closed[reason] += 1

    def note_idle(self, connection: Connection, now: float) -> None:
        """If it has no busy lane, look at it again after `max_idle`."""
        self._roster.note_idle(connection, now)
        if not connection.idle_alarm and not connection.busy:
            # It outlives the next lease: most are over long before it rings.
            connection.idle_alarm = True
            self.alarms.set((connection, _Alarm.IDLE), now + self.policy.max_idle)
