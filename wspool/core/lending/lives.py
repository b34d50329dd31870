"""Lives: when a connection is pinged, when it retires, when it ends, and why.

Rules of this module:

* Retirement is planned: each connection has a time of its own in the calendar. Past it a
  connection stays grantable until its replacement is ready (make before break), or until no turn may
  start on it any more.
* Past the server's limit only a turn in flight keeps a connection.
* What is told to go says goodbye only if it is clean.
* What nobody needs goes after `max_idle`, unless it is spare that was asked for.
"""

from __future__ import annotations

import enum
import math
from typing import Final, TypeAlias, assert_never

from wspool.core.commands import CloseReason, Command, Expiring, HangUp, Ping
from wspool.core.lending.alarms import Alarms
from wspool.core.lending.calendar import Calendar
from wspool.core.lending.roster import Connection, Lane, Roster
from wspool.core.lending.tally import Tally
from wspool.core.policy import PoolPolicy, Schedule
from wspool.core.states import CONNECTION_TABLE, ConnectionInput, ConnectionState, LaneState, advance

__all__ = ["Lives"]

# A member of an enum is looked up by a function call in Python 3.11, a global is not.
_OPEN: Final = ConnectionState.OPEN


class _Alarm(enum.Enum):
    """What a deadline of a connection is about."""

    RETIRE = "retire"
    GRANT_END = "grant end"
    EXPIRE = "expire"
    IDLE = "idle"
    PING = "ping"
    TAIL = "tail"


_Entry: TypeAlias = tuple[Connection, _Alarm]


class Lives:
    """The lives of the connections of a pool.

    Args:
        policy: the limits; replaced when the pool is resized.
        schedule: when connections retire.
        roster: the connections.
        tally: where closes, retirements and lost leases are counted.

    Attributes:
        calendar: planned retirements.
        alarms: deadlines of connections.
    """

    def __init__(self, policy: PoolPolicy, schedule: Schedule, roster: Roster, tally: Tally) -> None:
        self.policy = policy
        self._schedule = schedule
        self._roster = roster
        self._tally = tally
        self.calendar = Calendar(schedule.retire_to - schedule.retire_from, policy.max_size)
        self.alarms: Alarms[_Entry] = Alarms(_is_stale)

    def resize(self, policy: PoolPolicy) -> None:
        """The limits have changed."""
        self.policy = policy
        self.calendar.gap = (self._schedule.retire_to - self._schedule.retire_from) / (2 * policy.max_size)

    def begin(self, connection: Connection, lanes: int, now: float, jitter: float) -> None:
        """Its handshake is done, it has that many lanes: plan its life.

        *jitter* is a random number in [0, 1).
        """
        schedule, alarms = self._schedule, self.alarms
        connection.expires_at = connection.born + schedule.lifetime
        connection.last_start = connection.grant_end = connection.born + schedule.last_start
        connection.retire_at = self.calendar.book(
            connection.born + schedule.retire_from, connection.born + schedule.retire_to, jitter
        )
        connection.opened_at = now
        self._roster.open(connection, lanes)
        alarms.set(connection.retire_at, (connection, _Alarm.RETIRE))
        alarms.set(connection.grant_end, (connection, _Alarm.GRANT_END))
        alarms.set(connection.expires_at, (connection, _Alarm.EXPIRE))
        self.heard(connection, now, now)

    def heard(self, connection: Connection, heard_at: float, now: float) -> None:
        """The peer was heard at *heard_at*: ping it after the next silence."""
        if self.policy.ping_interval is not None:
            self.alarms.set(max(heard_at + self.policy.ping_interval, now), (connection, _Alarm.PING))

    def bound_tail(self, connection: Connection, lane: Lane, now: float) -> None:
        """The rest of a turn on *lane* must have ended within `drain_timeout`."""
        lane.tail_until = now + self.policy.drain_timeout
        self.alarms.set(lane.tail_until, (connection, _Alarm.TAIL))

    def ring(self, now: float, commands: list[Command]) -> None:
        """Do what is due at *now*."""
        while (due := self.alarms.pop_due(now)) is not None:
            connection, alarm = due
            match alarm:
                case _Alarm.RETIRE:
                    self.retire(connection, commands)
                case _Alarm.GRANT_END:
                    self.end_grants(connection, commands)
                case _Alarm.EXPIRE:
                    self.check_expiry(connection, now, commands)
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
        self._tally.retirements += 1

    def end_grants(
        self,
        connection: Connection,
        commands: list[Command],
        reason: CloseReason = CloseReason.LIFETIME,
    ) -> None:
        """No lane of *connection* is granted any more."""
        if connection.state is ConnectionState.OPEN:
            self.retire(connection, commands)
        self._roster.end_free(connection)
        for lane in connection.lanes:
            if lane.state is LaneState.PARKED:
                self._drop(connection, lane)  # its holder could not go on here either
        if not connection.busy:
            self.hang_up(connection, reason, commands)

    def clear(self, connection: Connection, now: float, commands: list[Command], *, interrupt: bool) -> None:
        """It is not trusted any more. What is leased may go on, unless *interrupt* is true."""
        if connection.state is ConnectionState.DIALING or (interrupt and connection.usable):
            self.hang_up(connection, CloseReason.CLEARED, commands, polite=False)
        elif connection.usable:
            connection.grant_end = min(connection.grant_end, now)
            self.end_grants(connection, commands, CloseReason.CLEARED)

    def meet_limit(self, connection: Connection, now: float, commands: list[Command]) -> None:
        """The server ended it for its age: whatever is older would be refused its next turn as well."""
        for older in [*self._roster.connections.values()]:
            if older.usable and older.born <= connection.born:
                older.grant_end = min(older.grant_end, now)
                self.end_grants(older, commands, CloseReason.LIMIT)

    def check_expiry(self, connection: Connection, now: float, commands: list[Command]) -> None:
        """Hang up past the server's limit, if nothing is lost by it."""
        # Past the server's limit only a turn in flight keeps a connection: the server may let
        # it end, and cutting it here would lose it for certain.
        if now < connection.expires_at or not connection.usable:
            return
        if not any(lane.state is LaneState.IN_FLIGHT for lane in connection.lanes):
            self.hang_up(connection, CloseReason.LIFETIME, commands)

    def _check_tails(self, connection: Connection, now: float, commands: list[Command]) -> None:
        late = [lane for lane in connection.lanes if lane.tail_until <= now]
        if late and connection.busy == len(late):
            self.hang_up(connection, CloseReason.DIRTY, commands, polite=False)
        elif late:
            # Siblings are at work: they go on, and the connection goes with the last of them.
            if connection.state is ConnectionState.OPEN:
                self.retire(connection, commands)
            for lane in late:
                self._drop(connection, lane)
            self.check_expiry(connection, now, commands)

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
        surplus = self._roster.fresh - len(connection.free) >= self.policy.min_idle
        if due <= now and surplus:
            self.hang_up(connection, CloseReason.IDLE, commands)
        else:
            # Busy in between, or part of the spare: look again when it may have become surplus.
            connection.idle_alarm = True
            self.alarms.set(due if due > now else now + self.policy.max_idle, (connection, _Alarm.IDLE))

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
        self._tally.lost_leases += self._roster.end_all(connection)
        self._roster.move(connection, ConnectionInput.HANG_UP)
        if not dialing:
            self.calendar.free(connection.retire_at)
        self._tally.closed[reason] += 1
        commands.append(HangUp(connection.id, reason, polite and not dialing))

    def fail(self, connection: Connection) -> None:
        """Its dial has failed."""
        self._roster.move(connection, ConnectionInput.FAIL)
        self._forget(connection, CloseReason.DIAL_FAILED)

    def lose(self, connection: Connection) -> None:
        """It has died by itself."""
        advance(CONNECTION_TABLE, connection.state, ConnectionInput.LOSE)
        self._tally.lost_leases += self._roster.end_all(connection)
        self._roster.move(connection, ConnectionInput.LOSE)
        self._forget(connection, CloseReason.LOST)

    def _forget(self, connection: Connection, reason: CloseReason) -> None:
        """Drop a connection that closed by itself."""
        if connection.retire_at != math.inf:
            self.calendar.free(connection.retire_at)
        del self._roster.connections[connection.id]
        self._tally.closed[reason] += 1

    def note_idle(self, connection: Connection, now: float) -> None:
        """If it has no busy lane, look at it again after `max_idle`."""
        self._roster.note_idle(connection, now)
        if not connection.idle_alarm and not connection.busy and connection.state is _OPEN:
            connection.idle_alarm = True
            self.alarms.set(now + self.policy.max_idle, (connection, _Alarm.IDLE))


def _is_stale(entry: _Entry) -> bool:
    """Whether nothing would happen at this deadline."""
    connection, alarm = entry
    # Only what stays so: the same inputs must lead to the same commands, however often
    # anybody asks for the next deadline in between. So an idle alarm outlives a lease, and
    # a tail's alarm the tail.
    if alarm is _Alarm.RETIRE or alarm is _Alarm.IDLE:
        return connection.state is not ConnectionState.OPEN
    return not connection.usable
