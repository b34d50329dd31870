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

from wspool.core.commands import ConnectionId, LaneId, LeaseId
from wspool.core.lending.affinity import Affinity
from wspool.core.lending.lanes import Connection, Lane
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

__all__ = ["Roster"]

# A member of an enum is looked up by a function call in Python 3.11, a global is not.
_DIALING: Final = ConnectionState.DIALING
_OPEN: Final = ConnectionState.OPEN
_RETIRING: Final = ConnectionState.RETIRING
_CLOSING: Final = ConnectionState.CLOSING


class Roster:
    """Connections, lanes, leases, and the indexes over them.

    Attributes:
        connections: every connection that is not gone.
        available: connections with a free lane by (retire_at, id), the freshest last, retiring ones
            first of all. A connection is in it iff it is usable and its `free` is not empty.
        affinity: what the lanes remember, and their free ones by their use to others.
        leaving: retiring connections with no busy lane: they wait for their replacement.
        parked: parked leases and since when, the one parked longest first.
        movers: leased lanes of RETIRING connections: their holders will soon want another.
        leases: what each live lease holds. One that is not here was released, stolen, or lost.
        unreported: live leases that will be reported, and when; in order, since the delay is constant.
        lanes: lanes by state.
        states: connections by state.
        dialing: connections whose handshake is running.
        dialed_at: when the last of all dials began.
        usable: connections that are usable.
        size: connections that count against the size of the pool.

    Args:
        count_closing: True if closing connections count as well.
    """

    def __init__(self, *, count_closing: bool) -> None:
        self._count_closing = count_closing
        self.connections: dict[ConnectionId, Connection] = {}
        self.available: list[tuple[float, ConnectionId]] = []
        self.affinity = Affinity()
        self.leaving: OrderedDict[ConnectionId, Connection] = OrderedDict()
        self.parked: OrderedDict[LeaseId, float] = OrderedDict()
        self.movers = 0
        self.lanes = dict.fromkeys(LaneState, 0)
        self.states = dict.fromkeys(ConnectionState, 0)
        self.dialing = self.usable = self.size = 0
        self.dialed_at = -math.inf
        self.leases: dict[LeaseId, tuple[Connection, Lane]] = {}
        self.unreported: OrderedDict[LeaseId, float] = OrderedDict()
        self._last_connection = ConnectionId(0)
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
        self._last_connection = ConnectionId(self._last_connection + 1)
        connection = Connection(self._last_connection, now, episode)
        self.connections[connection.id] = connection
        self.dialed_at = now
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
        for lane in new:
            self.affinity.add(connection, lane)
        self.lanes[LaneState.IDLE] += len(new)

    def replan(self, connection: Connection, retire_at: float) -> None:
        """It is to retire at another time. It is usable."""
        connection.retire_at = retire_at
        if connection.state is _OPEN:
            if connection.free:
                self._remove_available(connection)
            connection.key = (retire_at, connection.id)
            if connection.free:
                bisect.insort(self.available, connection.key)
                self._sort_free(connection)

    def oldest(self) -> Connection | None:
        """Return the usable connection that was dialled first."""
        return next((each for each in self.connections.values() if each.usable), None)

    def retire(self, connection: Connection) -> list[LeaseId]:
        """It is past its planned retirement; return the leases on it."""
        self.move(connection, ConnectionInput.RETIRE)
        connection.left_after = self._last_connection
        # It may go before its time. Whoever is granted it would be told to move at once.
        if connection.free:
            self._remove_available(connection)
        connection.key = (-math.inf, connection.id)
        if connection.free:
            bisect.insort(self.available, connection.key)
            self._sort_free(connection)
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
                self.affinity.discard(lane)
                self._end_lane(lane)
            connection.free.clear()

    def end_all(self, connection: Connection) -> int:
        """All its lanes end, and their leases with them; return how many leases that were."""
        if connection.free and connection.usable:
            self._remove_available(connection)
            for lane in connection.free:
                self.affinity.discard(lane)
        self.leaving.pop(connection.id, None)
        lost = 0
        for lane in connection.lanes:
            if lane.lease is not None:
                lost += 1
                self.unbind(lane.lease)
            if lane.state is not LaneState.DEAD:
                self._end_lane(lane)
        return lost

    # -- lanes and leases ---------------------------------------------------------------------

    def move_lane(self, lane: Lane, what: LaneInput) -> None:
        """Move a lane by its table."""
        before, lanes = lane.state, self.lanes
        row = LANE_TABLE[before]
        # Each turn moves four times: without the call that only says what is wrong.
        lane.state = after = row[what] if what in row else advance(LANE_TABLE, before, what)
        lanes[before] -= 1
        lanes[after] += 1

    def take(self, connection: Connection, lane: Lane, what: LaneInput) -> None:
        """Take a free lane of *connection* for a grant or a warm-up."""
        connection.free.remove(lane)
        self.affinity.discard(lane)
        connection.busy += 1
        connection.idle_since = None
        if connection.state is not _OPEN:
            self.leaving.pop(connection.id, None)
        if not connection.free:
            self._remove_available(connection)
        self.move_lane(lane, what)

    def put(self, connection: Connection, lane: Lane) -> None:
        """An IDLE lane is free again. `note_idle` must follow."""
        if not connection.free:
            bisect.insort(self.available, connection.key)
        connection.free.append(lane)
        self.affinity.add(connection, lane)
        connection.busy -= 1

    def drop(self, connection: Connection, lane: Lane) -> None:
        """A busy lane ends while its connection lives on."""
        self._end_lane(lane)
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

    def _end_lane(self, lane: Lane) -> None:
        self.move_lane(lane, LaneInput.END)
        self.affinity.forget(lane)

    def _sort_free(self, connection: Connection) -> None:
        """Its free lanes are of another use than before."""
        for lane in connection.free:
            self.affinity.discard(lane)
            self.affinity.add(connection, lane)

    def _remove_available(self, connection: Connection) -> None:
        available, key = self.available, connection.key
        index = bisect.bisect_left(available, key)
        if index == len(available) or available[index] != key:
            raise AssertionError(f"bug: connection {connection.id} is not available")
        del available[index]
