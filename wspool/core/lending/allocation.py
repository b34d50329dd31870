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
from wspool.core.lending.lives import Lives
from wspool.core.lending.roster import Connection, Lane, Roster
from wspool.core.lending.tally import Tally
from wspool.core.outage import Outage
from wspool.core.policy import PoolPolicy
from wspool.core.states import (
    ConnectionState,
    LaneInput,
    LaneState,
)

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
        tally: Tally,
    ) -> None:
        self.policy = policy
        self.lanes = lanes
        self.waiters: OrderedDict[WaiterId, Waiter] = OrderedDict()
        self.paused = self.closing = False
        self._roster = roster
        self._lives = lives
        self._outage = outage
        self._tally = tally
        # Since when somebody is in line, and whether dials are deferred until they were for long.
        self._line_since = -math.inf
        self._deferring = False

    # -- the line -----------------------------------------------------------------------------

    def join(self, waiter: WaiterId, min_remaining: float, now: float, commands: list[Command]) -> None:
        """Put *waiter* in line, and serve or refuse it at once if that can be."""
        if not self.waiters:
            self._line_since = now
        self.waiters[waiter] = Waiter(min_remaining)
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
        """Grant *waiter* a lane if one is free and nobody is in line."""
        if not self.waiters:
            self.waiters[waiter] = Waiter(0.0)
            self._match(now, commands)
            self.waiters.pop(waiter, None)

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
        if self.closing or not (
            self.waiters or roster.leaving or roster.fresh < self.policy.min_idle + roster.movers
        ):
            return commands  # nobody waits, nothing leaves, spare is complete
        self._deferring = now < self._line_since + DEFERRAL
        if self.waiters:
            self._match(now, commands)
        if roster.leaving:
            self._let_leavers_go(commands)
        if self.waiters:
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
        if self.waiters and roster.parked:
            self._match(now, commands)
        return commands

    def next_deadline(self) -> float:
        """Return when `settle`, or a refusal, may be due though nothing happens; infinity for never."""
        deadline, outage, roster = math.inf, self._outage, self._roster
        if outage.down and not roster.dialing and self._wants_dial():
            # Only an outage delays a dial; otherwise it starts when it is needed.
            deadline = outage.probe_at
            if self.waiters and self.is_hopeless(outage.give_up_at):
                deadline = min(deadline, outage.give_up_at)
        if not self.waiters:
            return deadline
        if self._defers_dials() and roster.size < self.policy.max_size:
            deadline = min(deadline, self._line_since + DEFERRAL)
        if roster.parked and self._is_starving():
            deadline = min(deadline, next(iter(roster.parked.values())) + self.policy.patience)
        return deadline

    # -- lanes for waiters --------------------------------------------------------------------

    def _match(self, now: float, commands: list[Command]) -> None:
        """Give free lanes to waiters, in order; parked ones if the first of them starves."""
        roster, waiters = self._roster, self.waiters
        while waiters and not self.paused and (roster.available or roster.parked):
            waiter, wanted = next(iter(waiters.items()))
            connection = self._suitable(wanted.min_remaining, now, commands)
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

        It has if that one was passed over too often; else it is passed over.
        """
        if not self.waiters:
            return False
        first = next(iter(self.waiters.values()))
        if first.skips >= MAX_SKIPS:
            self._steal(lease, now, commands)
            return True
        first.skips += 1
        return False

    def _may_steal(self, wanted: Waiter, now: float) -> bool:
        if not self._roster.parked or not self._is_starving():
            return False
        since = next(iter(self._roster.parked.values()))
        return wanted.skips >= MAX_SKIPS or now >= since + self.policy.patience

    def _steal(self, lease: LeaseId, now: float, commands: list[Command]) -> None:
        connection, lane = self._roster.lease(lease)
        self._roster.move_lane(lane, LaneInput.STEAL)
        self._roster.unbind(lease)
        self._tally.stolen += 1
        commands.append(Stolen(lease))
        self.freed(connection, lane, now, commands)

    def _make_room(self, now: float, commands: list[Command]) -> None:
        """The first in line wants more remaining life than any free lane has, and the pool is full."""
        if (
            self.waiters
            and self._roster.available
            and not self.paused
            and self._is_starving()
            and self._outage.may_dial(now)
        ):
            oldest = self._roster.connections[self._roster.available[0][1]]
            if not oldest.busy:
                self._lives.hang_up(oldest, CloseReason.UNSUITABLE, commands)

    # -- connections that come and go ---------------------------------------------------------

    def _coming(self) -> int:
        """Return how many are on their way, or will have the place of one that is closing."""
        if self.policy.count_closing:
            return self._roster.dialing + self._roster.states[ConnectionState.CLOSING]
        return self._roster.dialing

    def _let_leavers_go(self, commands: list[Command]) -> None:
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
                or coming >= outage.dial_limit
            ):
                return
            _, connection = roster.leaving.popitem(last=False)
            self._lives.hang_up(connection, CloseReason.LIFETIME, commands)

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
        while (
            self._wants_dial()
            and self._roster.dialing < self._outage.dial_limit
            and self._outage.may_dial(now)
        ):
            connection = self._roster.dial(now, self._outage.episode)
            self._tally.dialed += 1
            commands.append(Dial(connection.id))

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
