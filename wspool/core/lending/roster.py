"""Roster: the connections of a pool with their lanes and leases, indexed so that nothing is searched.

It decides nothing. Each method keeps all indexes in agreement; what agrees with what is said
beside each index, and checked against a rescan by the specification machine.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections import OrderedDict
from collections.abc import Iterator
from typing import Final, cast

import attrs

from wspool.core.commands import ConnectionId, LaneId, LeaseId
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

__all__ = ["USABLE", "Connection", "Lane", "Roster"]

# A member of an enum is looked up by a function call in Python 3.11, a global is not.
_DIALING: Final = ConnectionState.DIALING
_OPEN: Final = ConnectionState.OPEN
_RETIRING: Final = ConnectionState.RETIRING
_CLOSING: Final = ConnectionState.CLOSING

#: Connection states in which a lane can be granted.
USABLE: Final = frozenset({_OPEN, _RETIRING})


@attrs.define(eq=False)
class Lane:
    """One serial track of a connection."""

    id: LaneId
    state: LaneState = LaneState.IDLE
    lease: LeaseId | None = None
    #: Whether the holder can go on elsewhere, so that nothing is lost if its lane is taken between turns.
    movable: bool = False
    #: When the rest of an abandoned turn must have ended.
    tail_until: float = math.inf


@attrs.define(eq=False)
class Connection:
    """One WebSocket, as the core sees it. Times are seconds."""

    id: ConnectionId
    #: Start of the dial: the earliest moment from which a server may count its lifetime.
    born: float
    #: The episode of `Outage` in which its dial began.
    episode: int
    state: ConnectionState = ConnectionState.DIALING
    lanes: list[Lane] = attrs.field(factory=list[Lane])
    #: Lanes that are IDLE, the next to be granted last.
    free: list[Lane] = attrs.field(factory=list[Lane])
    #: Lanes that are neither IDLE nor DEAD.
    busy: int = 0
    #: End of the handshake.
    opened_at: float = math.inf
    #: Whether somebody ever had a lane of it, a turn was ever started on it, one was ever completed on it.
    lent: bool = False
    used: bool = False
    proven: bool = False
    #: Whether a turn on it was given up that the server was at work on: its end is our doing.
    excused: bool = False
    #: Whether the server has announced its end.
    noticed: bool = False
    #: The random number in [0, 1) that came with it.
    jitter: float = 0.0
    #: Planned retirement.
    retire_at: float = math.inf
    #: Its entry in `Roster.available`, made when it opens and when it retires.
    key: tuple[float, ConnectionId] = (math.inf, ConnectionId(0))
    #: From when on no lane of it is granted: the last start of a turn, or earlier if cleared.
    grant_end: float = math.inf
    #: From when on no turn is started on it.
    last_start: float = math.inf
    #: When the server ends it.
    expires_at: float = math.inf
    #: When a turn on it began or ended last.
    touched_at: float = -math.inf
    #: Since when every lane is IDLE.
    idle_since: float | None = None
    #: Whether it will be looked at for being idle for long.
    idle_alarm: bool = False

    @property
    def usable(self) -> bool:
        """Whether its handshake is done and it was not told to go."""
        return self.state in USABLE

    @property
    def leased(self) -> bool:
        """Whether a lease has one of its lanes."""
        return any(lane.lease is not None for lane in self.lanes)


class Roster:
    """Connections, lanes, leases, and the indexes over them.

    Attributes:
        connections: every connection that is not gone.
        available: connections with a free lane by (retire_at, id), the freshest last, retiring ones
            first of all. A connection is in it iff it is usable and its `free` is not empty.
        leaving: retiring connections with no busy lane: they wait for their replacement.
        parked: parked leases and since when, the one parked longest first.
        fresh: IDLE lanes of OPEN connections: spare that counts as ready ahead of demand.
        movers: leased lanes of RETIRING connections: their holders will soon want another.
        leases: what each live lease holds. One that is not here was released, stolen, or lost.
        unreported: live leases that will be reported, and when; in order, since the delay is constant.
        lanes: lanes by state.
        states: connections by state.
        dialing: connections whose handshake is running.
        usable: connections that are usable.
        size: connections that count against the size of the pool.

    Args:
        count_closing: True if closing connections count as well.
    """

    def __init__(self, *, count_closing: bool) -> None:
        self._count_closing = count_closing
        self.connections: dict[ConnectionId, Connection] = {}
        self.available: list[tuple[float, ConnectionId]] = []
        self.leaving: OrderedDict[ConnectionId, Connection] = OrderedDict()
        self.parked: OrderedDict[LeaseId, float] = OrderedDict()
        self.fresh = 0
        self.movers = 0
        self.lanes = dict.fromkeys(LaneState, 0)
        self.states = dict.fromkeys(ConnectionState, 0)
        self.dialing = self.usable = self.size = 0
        self.leases: dict[LeaseId, tuple[Connection, Lane]] = {}
        self.unreported: OrderedDict[LeaseId, float] = OrderedDict()
        self._last_connection = 0
        self._lease_ids = cast("Iterator[LeaseId]", itertools.count(1))

    # -- look-ups -----------------------------------------------------------------------------

    def connection(self, number: ConnectionId) -> Connection:
        """Return a connection that is not gone, or raise `IllegalInputError`."""
        if (found := self.find(number)) is None:
            raise IllegalInputError(f"connection {number} is gone")
        return found

    def find(self, number: ConnectionId) -> Connection | None:
        """Return a connection, None if it is gone; raise `IllegalInputError` if it never was."""
        found = self.connections.get(number)
        if found is None and not 0 < number <= self._last_connection:
            raise IllegalInputError(f"connection {number} never was")
        return found

    def lease(self, lease: LeaseId) -> tuple[Connection, Lane]:
        """Return what a live lease holds, or raise `IllegalInputError`."""
        try:
            return self.leases[lease]
        except KeyError:
            raise IllegalInputError(f"lease {lease} is dead") from None

    def is_live(self, lease: LeaseId) -> bool:
        """Return whether *lease* still holds its lane."""
        return lease in self.leases

    # -- connections --------------------------------------------------------------------------

    def dial(self, now: float, episode: int) -> Connection:
        """Add a connection whose dial starts now."""
        self._last_connection += 1
        connection = Connection(ConnectionId(self._last_connection), now, episode)
        self.connections[connection.id] = connection
        self.states[_DIALING] += 1
        self.dialing += 1
        self.size += 1
        return connection

    def move(self, connection: Connection, what: ConnectionInput) -> None:
        """Move a connection by its table."""
        after = advance(CONNECTION_TABLE, connection.state, what)
        states = self.states
        states[connection.state] -= 1
        connection.state = after
        states[after] += 1
        self.dialing = states[_DIALING]
        self.usable = states[_OPEN] + states[_RETIRING]
        self.size = self.dialing + self.usable
        if self._count_closing:
            self.size += states[_CLOSING]

    def open(self, connection: Connection, lanes: int) -> None:
        """Its handshake is done: all its lanes are free. Its `retire_at` is set already."""
        self.move(connection, ConnectionInput.CONNECT)
        connection.key = (connection.retire_at, connection.id)
        self.widen(connection, lanes)

    def widen(self, connection: Connection, lanes: int) -> None:
        """It has that many lanes from now on; the new ones are free."""
        new = [Lane(LaneId(number)) for number in range(len(connection.lanes), lanes)]
        if new and not connection.free:
            bisect.insort(self.available, connection.key)
        connection.lanes += new
        connection.free += new[::-1]
        self.lanes[LaneState.IDLE] += len(new)
        if connection.state is _OPEN:
            self.fresh += len(new)

    def replan(self, connection: Connection, retire_at: float) -> None:
        """It is to retire at another time. It is usable."""
        connection.retire_at = retire_at
        if connection.state is _OPEN:
            if connection.free:
                self._remove_available(connection)
            connection.key = (retire_at, connection.id)
            if connection.free:
                bisect.insort(self.available, connection.key)

    def oldest(self) -> Connection | None:
        """Return the usable connection that was dialled first."""
        return next((each for each in self.connections.values() if each.usable), None)

    def retire(self, connection: Connection) -> list[LeaseId]:
        """It is past its planned retirement; return the leases on it."""
        self.move(connection, ConnectionInput.RETIRE)
        # It may go before its time. Whoever is granted it would be told to move at once.
        if connection.free:
            self._remove_available(connection)
        connection.key = (-math.inf, connection.id)
        if connection.free:
            bisect.insort(self.available, connection.key)
        self.fresh -= len(connection.free)
        leases = [lane.lease for lane in connection.lanes if lane.lease is not None]
        self.movers += len(leases)
        if connection.idle_since is not None:
            self.leaving[connection.id] = connection
        return leases

    def end_free(self, connection: Connection) -> None:
        """Its free lanes will not be granted any more. It is retiring already."""
        if connection.free:
            self._remove_available(connection)
            for lane in connection.free:
                self.move_lane(lane, LaneInput.END)
            connection.free.clear()

    def end_all(self, connection: Connection) -> int:
        """All its lanes end, and their leases with them; return how many leases that were."""
        if connection.free and connection.usable:
            self._remove_available(connection)
            if connection.state is _OPEN:
                self.fresh -= len(connection.free)
        self.leaving.pop(connection.id, None)
        connection.free.clear()
        connection.busy = 0
        connection.idle_since = None
        lost = 0
        for lane in connection.lanes:
            if lane.lease is not None:
                lost += 1
                self.unbind(lane.lease)
            if lane.state is not LaneState.DEAD:
                self.move_lane(lane, LaneInput.END)
        return lost

    # -- lanes and leases ---------------------------------------------------------------------

    def move_lane(self, lane: Lane, what: LaneInput) -> None:
        """Move a lane by its table."""
        after = advance(LANE_TABLE, lane.state, what)
        self.lanes[lane.state] -= 1
        self.lanes[after] += 1
        lane.state = after

    def take(self, connection: Connection, what: LaneInput) -> Lane:
        """Take a free lane of *connection* for a grant or a warm-up."""
        lane = connection.free.pop()
        connection.busy += 1
        connection.idle_since = None
        if connection.state is _OPEN:
            self.fresh -= 1
        else:
            self.leaving.pop(connection.id, None)
        if not connection.free:
            self._remove_available(connection)
        self.move_lane(lane, what)
        return lane

    def put(self, connection: Connection, lane: Lane) -> None:
        """An IDLE lane is free again. `note_idle` must follow."""
        if not connection.free:
            bisect.insort(self.available, connection.key)
        connection.free.append(lane)
        connection.busy -= 1
        if connection.state is _OPEN:
            self.fresh += 1

    def drop(self, connection: Connection, lane: Lane) -> None:
        """A busy lane ends while its connection lives on."""
        self.move_lane(lane, LaneInput.END)
        lane.tail_until = math.inf
        connection.busy -= 1

    def note_idle(self, connection: Connection, now: float) -> None:
        """If it has no busy lane, it is idle from now on."""
        if not connection.busy:
            connection.idle_since = now
            if connection.state is _RETIRING:
                self.leaving[connection.id] = connection

    def bind(self, connection: Connection, lane: Lane) -> LeaseId:
        """Give a lane to a new lease."""
        lease = lane.lease = next(self._lease_ids)
        connection.lent = True
        self.leases[lease] = (connection, lane)
        if connection.state is _RETIRING:
            self.movers += 1
        return lease

    def unbind(self, lease: LeaseId) -> None:
        """The lease is dead."""
        connection, lane = self.leases.pop(lease)
        self.parked.pop(lease, None)
        self.unreported.pop(lease, None)
        lane.lease = None
        if connection.state is _RETIRING:
            self.movers -= 1

    def _remove_available(self, connection: Connection) -> None:
        available, key = self.available, connection.key
        index = bisect.bisect_left(available, key)
        if index == len(available) or available[index] != key:
            raise AssertionError(f"bug: connection {connection.id} is not available")
        del available[index]
