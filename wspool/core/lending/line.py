"""Line: who waits for a lane, and which one each is given.

What it takes to have enough of them is the business of `wspool.core.lending.allocation`. Rules of this module
(each is an invariant of the specification machine):

* Waiters are served first come, first served, and their numbers say who came first. Who was let go and has
  lost its lane comes back with the number that it had, and stands where it stood. Nobody overtakes, but who
  goes on where its conversation is remembered. The first in line is passed over at most `MAX_SKIPS` times;
  and, since each of these spares somebody a full send, for no longer than as many of them cost. So whoever
  joins as the n-th in line is passed over at most n times as often, and once more for each that comes back
  before it.
* Who is served in a moment takes no lane from who would go on there: while a dial is under way that is
  younger than a full send is worth, the first in line is passed over more often, but for no longer than that.
* A waiter is not bound to any particular dial, nor to the lane that it prefers.
* A connection is granted only while a turn may still start on it.
* A lane that remembers something is the last that a newcomer is given (`wspool.core.lending.affinity`); that
  of a conversation is given only to who starves.
* A parked lane stays its holder's unless a waiter starves: no room to dial, and the lane parked for longer
  than it is worth (`wspool.core.lending.keeping`), or the waiter passed over for long enough. It is given
  up at once to whoever prefers it, since that is the same conversation.
* What is taken, of a holder or of the spare, serves the first in line: it has the life that is asked
  for, or it is the one connection whose place a fresh one needs. While that one is coming nothing is.

All of it costs O(1) or O(log n), but for two things: for a waiter that starves and wants more life than what
is free has, what is parked is looked through; and for one that comes back, those before it in line.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections import OrderedDict
from typing import Final

import attrs

from wspool.core.commands import (
    CloseReason,
    Command,
    ConnectionId,
    Expiring,
    Grant,
    LeaseId,
    Refuse,
    RefuseReason,
    ResponseKey,
    Stolen,
    WaiterId,
)
from wspool.core.lending.keeping import Keeping
from wspool.core.lending.lanes import Connection, Lane
from wspool.core.lending.lives import Lives
from wspool.core.lending.roster import Roster
from wspool.core.lending.tally import Tally
from wspool.core.outage import Outage
from wspool.core.policy import PoolPolicy
from wspool.core.states import ConnectionState, LaneInput, LaneState

__all__ = ["MAX_SKIPS", "Line", "Waiter"]

#: How often others may go on before a waiter that was there first, where they are remembered. Vitess
#: bounds the unfairness of its pool by the same number.
MAX_SKIPS: Final = 8

# A member of an enum is looked up by a function call in Python 3.11, a global is not.
_OPEN: Final = ConnectionState.OPEN
_RETIRING: Final = ConnectionState.RETIRING
_GRANT: Final = LaneInput.GRANT
_IDLE: Final = LaneState.IDLE
_PARKED: Final = LaneState.PARKED


@attrs.define(eq=False)
class Waiter:
    """A task in line, or about to be."""

    #: Seconds that must be left until the planned retirement of what it is granted.
    min_remaining: float = 0.0
    #: The response that it wants to go on from.
    prefer: ResponseKey | None = None
    #: Whether the response to the warm-up request is of use to it.
    warm: bool = False
    #: Times that others went on before it while it was first in line, and when they did first.
    skips: int = 0
    skipped_at: float = math.inf


class Line:
    """The line of one pool, and what it is given.

    Args:
        policy: the limits.
        lanes: lanes of a connection.
        roster: the connections.
        lives: their lives.
        outage: whether the endpoint is down.
        tally: where dials, grants, thefts and refusals are counted.

    Attributes:
        policy: the limits.
        lanes: lanes that a dial is worth; fewer once the endpoint has proved that it has none.
        waiters: who is in line, in order.
        paused: True while nothing is granted.
        keeping: for how long a parked lane is kept from those in line.
    """

    def __init__(
        self, policy: PoolPolicy, lanes: int, roster: Roster, lives: Lives, outage: Outage, tally: Tally
    ) -> None:
        self.policy = policy
        self.lanes = lanes
        self.waiters: OrderedDict[WaiterId, Waiter] = OrderedDict()
        self.paused = False
        self._roster = roster
        self._lives = lives
        self._outage = outage
        self._tally = tally
        self.keeping = Keeping(policy.patience)

    # -- without waiting ----------------------------------------------------------------------

    def stand(self, waiter: WaiterId, wanted: Waiter) -> None:
        """Put *waiter* in line, before all that came after it."""
        waiters = self.waiters
        if not waiters or next(reversed(waiters)) < waiter:
            waiters[waiter] = wanted
            return
        before = list(itertools.takewhile(lambda other: other < waiter, waiters))
        waiters[waiter] = wanted
        for other in (waiter, *reversed(before)):
            waiters.move_to_end(other, last=False)

    def go_on(self, waiter: WaiterId, wanted: Waiter, now: float, commands: list[Command]) -> bool:
        """Grant *waiter* the lane that it prefers, if it may have that; return whether it has.

        The lane is free, or parked by whoever goes on from the same response. Those in line are passed over.
        """
        since = None if wanted.prefer is None else self._roster.affinity.away_since(wanted.prefer)
        if since is not None:
            self.keeping.came_back(now - since)
        if (held := self._preferred(wanted, now)) is None or self.paused:
            return False
        connection, lane = held
        if self.waiters:
            if self._was_passed_over(self._first(), now):
                return False
            self._pass_over(self._first(), now)
        if lane.state is _PARKED and lane.lease is not None:
            self._take_back(lane.lease, commands)
            self._roster.put(connection, lane)
        self._grant(waiter, connection, lane, now, commands)
        return True

    def grant_free(self, waiter: WaiterId, now: float, commands: list[Command]) -> None:
        """Grant *waiter* a lane if one is free and nobody is in line; what is parked is not free."""
        if not self.waiters and not self.paused:
            found = self._suitable(Waiter(), now, commands)
            if found is not None:
                self._grant(waiter, *found, now, commands)

    def refuse(self, waiter: WaiterId, reason: RefuseReason, commands: list[Command]) -> None:
        """Tell *waiter*, who is not in line, that it gets nothing."""
        self._tally.refused += 1
        failure = self._outage.failure if reason is RefuseReason.DIAL_FAILED else None
        commands.append(Refuse(waiter, reason, failure))

    def refuse_all(self, reason: RefuseReason, commands: list[Command]) -> None:
        """Tell everybody in line that they get nothing."""
        for waiter in self.waiters:
            self.refuse(waiter, reason, commands)
        self.waiters.clear()

    # -- lanes for waiters --------------------------------------------------------------------

    def _first(self) -> Waiter:
        return next(iter(self.waiters.values()))

    def _match(self, now: float, commands: list[Command]) -> None:
        """Give free lanes to waiters, in order; parked ones if the first of them starves."""
        roster, waiters = self._roster, self.waiters
        while waiters and not self.paused and (roster.available or roster.parked):
            waiter, wanted = next(iter(waiters.items()))
            found = self._suitable(wanted, now, commands)
            if found is not None:
                del waiters[waiter]
                self._grant(waiter, *found, now, commands)
            elif (
                self._is_starving()
                and (parked := self._parked_for(wanted, now)) is not None
                and parked[0] <= now
            ):
                # In a pool that was made smaller its connection goes: as many as are too many must,
                # before anybody can be served. The next one is due as well, and nobody would look
                # again at its deadline.
                self._steal(parked[1], now, commands)
            else:
                return

    def _grant(
        self, waiter: WaiterId, connection: Connection, lane: Lane, now: float, commands: list[Command]
    ) -> None:
        self._roster.take(connection, lane, _GRANT)
        lease = self._roster.bind(connection, lane)
        if self.policy.leak_after is not None:
            self._roster.unreported[lease] = now + self.policy.leak_after
        self._tally.granted += 1
        commands.append(Grant(waiter, lease, connection.id, lane.id))
        if connection.state is _RETIRING:
            commands.append(Expiring(lease))

    def _suitable(
        self, wanted: Waiter, now: float, commands: list[Command]
    ) -> tuple[Connection, Lane] | None:
        """Return the free lane that *wanted* should be granted, if one has the life that it asks for."""
        roster = self._roster
        available = roster.available
        while available:
            if (held := self._preferred(wanted, now)) is not None and held[1].state is _IDLE:
                return held
            if wanted.min_remaining:
                index = bisect.bisect_left(available, (now + wanted.min_remaining, ConnectionId(0)))
                if index == len(available):
                    return None
                connection = roster.connections[available[index][1]]
                lane = connection.free[-1]
            else:
                number, track, missed = roster.affinity.least(warm=wanted.warm)
                if missed and self.waiters and not self._is_starving():
                    return None  # there is room for another one
                connection = roster.connections[number]
                lane = connection.lanes[track]
            if now < connection.grant_end:
                return connection, lane
            # Its deadline has passed but its tick has not come yet.
            self._lives.end_grants(connection, commands)
        return None

    def _preferred(self, wanted: Waiter, now: float) -> tuple[Connection, Lane] | None:
        """Return the lane that *wanted* prefers, if it is free or parked, and would serve it."""
        roster = self._roster
        if wanted.prefer is None or (held := roster.affinity.holder(wanted.prefer)) is None:
            return None
        connection, lane = held
        # What is about to go is left as soon as there is something else.
        stays = connection.state is _OPEN or not roster.affinity.fresh
        kept = lane.state is _PARKED and roster.size <= self.policy.max_size
        if (lane.state is _IDLE or kept) and stays and _suits(connection, wanted, now):
            return held
        return None

    def _is_starving(self) -> bool:
        """Whether waiters can hope for no free lane and no dial."""
        if self.paused or len(self.waiters) <= self._roster.dialing * self.lanes:
            return False
        return self._roster.size >= self.policy.max_size or self._outage.down

    def freed(self, connection: Connection, lane: Lane, now: float, commands: list[Command]) -> None:
        """A lane is clean and nobody's."""
        if now >= connection.grant_end:
            self._roster.drop(connection, lane)
            self._lives.end_grants(connection, commands)
            return
        self._roster.put(connection, lane)
        self._lives.note_idle(connection, now)
        if self._roster.size > self.policy.max_size and not connection.busy:
            self._lives.hang_up(connection, CloseReason.RESIZED, commands)

    # -- what is taken of others --------------------------------------------------------------

    def yields(self, lease: LeaseId, now: float, commands: list[Command]) -> bool:
        """Whether the holder of a parked lane, who would go on, has to leave it to the first in line.

        It has if that one was passed over too often and is served by it; else it is passed over.
        """
        if not self.waiters or self.paused:
            return False
        first, (connection, _) = self._first(), self._roster.lease(lease)
        if not self._was_passed_over(first, now):
            self._pass_over(first, now)
            return False
        if not _suits(connection, first, now):
            return False
        self._steal(lease, now, commands)
        return True

    def _pass_over(self, first: Waiter, now: float) -> None:
        """Somebody goes on before *first*."""
        if not first.skips:
            first.skipped_at = now
        first.skips += 1

    def _was_passed_over(self, first: Waiter, now: float) -> bool:
        """Whether nobody may go on before *first* any more."""
        return now >= self._passed_until(first)

    def _passed_until(self, first: Waiter) -> float:
        """Return from when on nobody may go on before *first* any more; infinity if nobody did yet."""
        full_send = self.keeping.full_send
        if first.skips < MAX_SKIPS:
            return first.skipped_at + MAX_SKIPS * full_send
        if not self._roster.dialing or self._outage.down:
            return -math.inf
        return min(first.skipped_at, self._roster.dialed_at) + full_send

    def _parked_for(self, wanted: Waiter, now: float) -> tuple[float, LeaseId] | None:
        """Return from when on *wanted* may take which parked lane: the longest parked that suits it."""
        for lease, since in self._roster.parked.items():
            ripe = self._ripens(wanted, since, now)
            if _suits(self._roster.leases[lease][0], wanted, ripe):
                return ripe, lease
        return None

    def _ripens(self, wanted: Waiter, since: float, now: float) -> float:
        if self._was_passed_over(wanted, now):
            return now
        return min(max(now, since + self.keeping.patience()), self._passed_until(wanted))

    def _steal(self, lease: LeaseId, now: float, commands: list[Command]) -> None:
        connection, lane = self._take_back(lease, commands)
        self.freed(connection, lane, now, commands)

    def _take_back(self, lease: LeaseId, commands: list[Command]) -> tuple[Connection, Lane]:
        connection, lane = self._roster.lease(lease)
        self._roster.move_lane(lane, LaneInput.STEAL)
        self._roster.unbind(lease)
        self._tally.stolen += 1
        commands.append(Stolen(lease))
        return connection, lane

    def _make_room(self, now: float, commands: list[Command]) -> None:
        """The first in line wants more remaining life than any lane has, and the pool is full."""
        while self.waiters and self._first().min_remaining and self._is_starving():
            room = self._room_for(self._first(), now)
            if room is None or room[0] > now or now < self._outage.dial_at(waited_for=True):
                return
            connection = room[1]
            for lane in connection.lanes:
                if lane.state is LaneState.PARKED and lane.lease is not None:
                    self._take_back(lane.lease, commands)
            self._lives.hang_up(connection, CloseReason.UNSUITABLE, commands)

    def _room_for(self, wanted: Waiter, now: float) -> tuple[float, Connection] | None:
        """Return from when on which connection may go for a fresh one, which *wanted* needs.

        Spare goes before what is parked, the oldest first; no connection goes from under a turn.
        """
        roster = self._roster
        if not wanted.min_remaining or roster.size < self.policy.max_size or self._coming():
            return None
        for _, number in roster.available:
            if not roster.connections[number].busy:
                return now, roster.connections[number]
        if self._parked_for(wanted, now) is not None:
            return None
        for lease in roster.parked:
            connection, _ = roster.leases[lease]
            parked = [lane.lease for lane in connection.lanes if lane.state is LaneState.PARKED]
            if connection.busy == len(parked):
                since = max(roster.parked[each] for each in parked if each is not None)
                return self._ripens(wanted, since, now), connection
        return None

    def _coming(self) -> int:
        """Connections that are on their way, or whose place another one will have."""
        if self.policy.count_closing:
            return self._roster.dialing + self._roster.states[ConnectionState.CLOSING]
        return self._roster.dialing


def _suits(connection: Connection, wanted: Waiter, now: float) -> bool:
    """Whether a lane of *connection* would serve *wanted* at *now*."""
    if now >= connection.grant_end:
        return False
    return not wanted.min_remaining or now + wanted.min_remaining <= connection.key[0]
