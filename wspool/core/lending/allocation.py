"""Allocation: who gets which lane, and how many connections that takes.

What follows from the state of a pool; what leads to it are the inputs of `wspool.core.lending.pool`.
Every input ends in `settle`, the single place of policy: match free lanes to waiters, close what is
not needed, then dial what is.

Rules of this module (each is an invariant of the specification machine):

* Waiters are served first come, first served; nobody overtakes, and a waiter is not
  bound to any particular dial.
* A dial is started only if somebody needs it at that instant.
* A connection is granted only while a turn may still start on it.
* A parked lane stays its holder's unless a waiter starves: no room to dial, and the lane
  parked for longer than `patience`, or the waiter passed over `MAX_SKIPS` times.
* What is taken, of a holder or of the spare, serves the first in line: it has the life that is asked
  for, or it is the one connection whose place a fresh one needs. While that one is coming nothing is.

All of it costs O(1) or O(log n), but for the last rule: for a waiter that starves and wants more life
than what is free has, what is parked is looked through.
"""

from __future__ import annotations

import bisect
import math
from collections import OrderedDict
from typing import Final

import attrs

from wspool.core.commands import (
    CloseReason,
    Command,
    ConnectionId,
    Dial,
    Expiring,
    Grant,
    LeaseId,
    Refuse,
    RefuseReason,
    Stolen,
    WaiterId,
)
from wspool.core.lending.endings import Endings
from wspool.core.lending.lives import Lives
from wspool.core.lending.roster import Connection, Lane, Roster
from wspool.core.lending.tally import Tally
from wspool.core.outage import Outage
from wspool.core.policy import PoolPolicy
from wspool.core.states import ConnectionState, LaneInput, LaneState

__all__ = ["DEFERRAL", "HEAD_START", "MAX_SKIPS", "Allocation", "Waiter"]

#: How often holders of parked lanes may go on before a waiter that was there first. Vitess
#: bounds the unfairness of its pool by the same number.
MAX_SKIPS: Final = 8

#: Dials that those in line are worth at once while connections are open, and after how many
#: seconds in line they are worth as many as they are. What is in use may come back sooner than a
#: dial ends: 50 short requests at once on 5 connections (the spike test of HikariCP's "Welcome to
#: the Jungle") are over in 25 ms, and a handshake takes 150.
HEAD_START: Final = 2
DEFERRAL: Final = 0.03

# A member of an enum is looked up by a function call in Python 3.11, a global is not.
_RETIRING: Final = ConnectionState.RETIRING
_GRANT: Final = LaneInput.GRANT


@attrs.define(eq=False)
class Waiter:
    """A task in line."""

    #: Seconds that must be left until the planned retirement of what it is granted.
    min_remaining: float
    #: Times that a holder of a parked lane went on while it was first in line.
    skips: int = 0


class Allocation:
    """The line of one pool, and what it is given.

    Args:
        policy: the limits.
        lanes: lanes of a connection.
        roster: the connections.
        lives: their lives.
        outage: whether the endpoint is down.
        endings: what connections that ended say about it.
        tally: where dials, grants, thefts and refusals are counted.

    Attributes:
        policy: the limits.
        lanes: lanes that a dial is worth; fewer once the endpoint has proved that it has none.
        waiters: who is in line, in order.
        paused: True while nothing is granted.
        closing: True once the pool is closing: nothing is dialled or granted any more.
    """

    def __init__(
        self,
        policy: PoolPolicy,
        lanes: int,
        roster: Roster,
        lives: Lives,
        outage: Outage,
        endings: Endings,
        tally: Tally,
    ) -> None:
        self.policy = policy
        self.lanes = lanes
        self.waiters: OrderedDict[WaiterId, Waiter] = OrderedDict()
        self.paused = self.closing = False
        self._roster = roster
        self._lives = lives
        self._outage = outage
        self._endings = endings
        self._tally = tally
        # Since when somebody is in line, and whether dials are deferred until they were for long.
        self._line_since = -math.inf
        self._deferring = False
        # When it was last looked what those in line could be given.
        self._settled_at = -math.inf

    # -- the line -----------------------------------------------------------------------------

    def join(self, waiter: WaiterId, min_remaining: float, now: float, commands: list[Command]) -> None:
        """Put *waiter* in line, and serve or refuse it at once if that can be."""
        if not self.waiters:
            self._line_since = now
        self.waiters[waiter] = Waiter(min_remaining)
        if self._roster.available or self._roster.parked:
            self._match(now, commands)
            if waiter not in self.waiters:
                return
        limit = self.policy.max_waiting
        if self.is_hopeless(now):
            # Waiting cannot help, and asking again at once would only hammer the endpoint.
            reason = RefuseReason.DIAL_FAILED
        elif limit is not None and len(self.waiters) > limit:
            reason = RefuseReason.TOO_MANY_WAITING
        else:
            return
        del self.waiters[waiter]
        self.refuse(waiter, reason, commands)

    def grant_free(self, waiter: WaiterId, now: float, commands: list[Command]) -> None:
        """Grant *waiter* a lane if one is free and nobody is in line; what is parked is not free."""
        if not self.waiters and not self.paused:
            connection = self._suitable(0.0, now, commands)
            if connection is not None:
                self._grant(waiter, connection, now, commands)

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

    def is_hopeless(self, now: float) -> bool:
        """Whether those in line should be refused. While connections live, one may come back."""
        failure = self._outage.failure
        if failure is None or not self._outage.is_hopeless(now):
            return False
        return failure.permanent or not self._roster.usable

    # -- the single place of policy -----------------------------------------------------------

    def settle(self, now: float, commands: list[Command]) -> list[Command]:
        """Do what follows from the state that an input has left; return *commands* with it."""
        roster = self._roster
        if self._endings.noted:
            self._endings.judge(now, commands)
        if self.closing or not (
            self.waiters or roster.leaving or roster.fresh < self.policy.min_idle + roster.movers
        ):
            return commands  # nobody waits, nothing leaves, spare is complete
        self._settled_at = now
        self._deferring = now < self._line_since + DEFERRAL
        if self.waiters and (roster.available or roster.parked):
            self._match(now, commands)
        if roster.leaving:
            self._let_leavers_go(now, commands)
        if self.waiters and (roster.available or roster.parked):
            self._make_room(now, commands)
        self._grow(now, commands)
        # In a full pool a dial may need the place of one more that leaves.
        while roster.leaving:
            left = len(roster.leaving)
            self._let_leavers_go(now, commands)
            if left == len(roster.leaving):
                break
            self._grow(now, commands)
        # Now that the pool is full, those in line may starve who could hope for a dial before.
        if self.waiters and roster.parked:
            self._match(now, commands)
        return commands

    def next_deadline(self) -> float:
        """Return when `settle`, or a refusal, may be due though nothing happens; infinity for never."""
        deadline, outage, roster = math.inf, self._outage, self._roster
        # Only an outage delays a dial; otherwise it starts when it is needed.
        probe_at = self._dial_at()
        if probe_at > -math.inf and roster.dialing < outage.dial_limit and self._wants_dial():
            deadline = probe_at
            if self.waiters and self.is_hopeless(outage.give_up_at):
                deadline = min(deadline, outage.give_up_at)
        if not self.waiters:
            return deadline
        if self._deferring and self._defers_dials() and roster.size < self.policy.max_size:
            deadline = min(deadline, self._line_since + DEFERRAL)
        if (roster.available or roster.parked) and self._is_starving():
            wanted = self._first()
            if (parked := self._parked_for(wanted, self._settled_at)) is not None:
                deadline = min(deadline, parked[0])
            elif (room := self._room_for(wanted, self._settled_at)) is not None:
                deadline = min(deadline, max(room[0], outage.dial_at(waited_for=True)))
        return deadline

    # -- lanes for waiters --------------------------------------------------------------------

    def _first(self) -> Waiter:
        return next(iter(self.waiters.values()))

    def _match(self, now: float, commands: list[Command]) -> None:
        """Give free lanes to waiters, in order; parked ones if the first of them starves."""
        roster, waiters = self._roster, self.waiters
        while waiters and not self.paused and (roster.available or roster.parked):
            waiter, wanted = next(iter(waiters.items()))
            connection = self._suitable(wanted.min_remaining, now, commands)
            if connection is not None:
                del waiters[waiter]
                self._grant(waiter, connection, now, commands)
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

    def _grant(self, waiter: WaiterId, connection: Connection, now: float, commands: list[Command]) -> None:
        lane = self._roster.take(connection, _GRANT)
        lease = self._roster.bind(connection, lane)
        if self.policy.leak_after is not None:
            self._roster.unreported[lease] = now + self.policy.leak_after
        self._tally.granted += 1
        commands.append(Grant(waiter, lease, connection.id, lane.id))
        if connection.state is _RETIRING:
            commands.append(Expiring(lease))

    def _suitable(self, min_remaining: float, now: float, commands: list[Command]) -> Connection | None:
        """Return the connection with a free lane that should be granted, if one has that much life."""
        available = self._roster.available
        while available:
            index = -1
            if min_remaining:
                index = bisect.bisect_left(available, (now + min_remaining, ConnectionId(0)))
                if index == len(available):
                    return None
            connection = self._roster.connections[available[index][1]]
            if now < connection.grant_end:
                return connection
            # Its deadline has passed but its tick has not come yet.
            self._lives.end_grants(connection, commands)
        return None

    def _is_starving(self) -> bool:
        """Whether waiters can hope for no free lane and no dial."""
        if self.paused or len(self.waiters) <= self._roster.dialing * self.lanes:
            return False
        return self._roster.size >= self.policy.max_size or self._outage.down

    # -- what is taken of others --------------------------------------------------------------

    def yields(self, lease: LeaseId, now: float, commands: list[Command]) -> bool:
        """Whether the holder of a parked lane, who would go on, has to leave it to the first in line.

        It has if that one was passed over too often and is served by it; else it is passed over.
        """
        if not self.waiters or self.paused:
            return False
        first, (connection, _) = self._first(), self._roster.lease(lease)
        if first.skips >= MAX_SKIPS and _suits(connection, first, now):
            self._steal(lease, now, commands)
            return True
        first.skips += 1
        return False

    def _parked_for(self, wanted: Waiter, now: float) -> tuple[float, LeaseId] | None:
        """Return from when on *wanted* may take which parked lane: the longest parked that suits it."""
        for lease, since in self._roster.parked.items():
            ripe = self._ripens(wanted, since, now)
            if _suits(self._roster.leases[lease][0], wanted, ripe):
                return ripe, lease
        return None

    def _ripens(self, wanted: Waiter, since: float, now: float) -> float:
        return now if wanted.skips >= MAX_SKIPS else max(now, since + self.policy.patience)

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

    # -- connections that come and go ---------------------------------------------------------

    def _coming(self) -> int:
        """Connections that are on their way, or whose place another one will have."""
        if self.policy.count_closing:
            return self._roster.dialing + self._roster.states[ConnectionState.CLOSING]
        return self._roster.dialing

    def _let_leavers_go(self, now: float, commands: list[Command]) -> None:
        # Make before break: a retiring connection nobody holds stays grantable until spare is
        # complete without it, or until only its going makes room for its replacement. It does not
        # go for a replacement that is on its way, nor while none can be had.
        roster, outage = self._roster, self._outage
        while roster.leaving:
            coming = self._coming()
            if roster.fresh < self.policy.min_idle and (
                roster.size < self.policy.max_size
                or not self._needs_dial(coming)
                or outage.down
                or now < self._dial_at()
                or coming >= outage.dial_limit
            ):
                return
            self._lives.hang_up(roster.leaving.popitem(last=False)[1], CloseReason.LIFETIME, commands)
            self._endings.judge(now, commands)  # before anything else is decided

    def resize(self, policy: PoolPolicy, commands: list[Command]) -> None:
        """The limits have changed. What is too much goes: dials, the latest first, then the oldest spare."""
        self.policy, roster = policy, self._roster
        for connection in [*roster.connections.values()][::-1]:
            if roster.size <= self.policy.max_size:
                return
            if connection.state is ConnectionState.DIALING:
                self._lives.hang_up(connection, CloseReason.RESIZED, commands)
        index = 0
        while roster.size > self.policy.max_size and index < len(roster.available):
            connection = roster.connections[roster.available[index][1]]
            if connection.busy:
                index += 1
            else:
                self._lives.hang_up(connection, CloseReason.RESIZED, commands)

    def _grow(self, now: float, commands: list[Command]) -> None:
        outage = self._outage
        while self._wants_dial() and self._roster.dialing < outage.dial_limit and now >= self._dial_at():
            connection = self._roster.dial(now, outage.episode)
            outage.dialled(now)
            self._tally.dialed += 1
            commands.append(Dial(connection.id))

    def _dial_at(self) -> float:
        """From when on the next dial may start: sooner for who waits than for spare."""
        return self._outage.dial_at(waited_for=len(self.waiters) > self._roster.dialing * self.lanes)

    def _defers_dials(self) -> bool:
        """Whether what is in use may come back to those in line sooner than a dial ends."""
        return self._deferring and self._roster.usable > 0

    def _wants_dial(self) -> bool:
        """Whether one more dial is needed and there is room for it."""
        if self.closing or self._roster.size >= self.policy.max_size:
            return False
        return self._needs_dial(self._roster.dialing)

    def _needs_dial(self, coming: int) -> bool:
        """Whether the *coming* connections will not be enough."""
        failure = self._outage.failure
        if failure is not None and failure.permanent and not self.waiters:
            return False  # spare is no reason to ask again what was refused for good
        spare = self._roster.fresh + self._roster.lanes[LaneState.WARMING]
        waiting = len(self.waiters)
        if self.paused:
            waiting = max(0, waiting - spare)  # what is free now will do for them
        if self._defers_dials():
            waiting = min(waiting, HEAD_START * self.lanes)
        need = waiting + max(0, self.policy.min_idle + self._roster.movers - spare)
        return need > coming * self.lanes

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


def _suits(connection: Connection, wanted: Waiter, now: float) -> bool:
    """Whether a lane of *connection* would serve *wanted* at *now*."""
    if now >= connection.grant_end:
        return False
    return not wanted.min_remaining or now + wanted.min_remaining <= connection.key[0]
