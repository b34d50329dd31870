"""Allocation: who gets which lane, and how many connections that takes.

What follows from the state of a pool; what leads to it are the inputs of `wspool.core.lending.pool`.
Every input ends in `_settle`, the single place of policy: match free lanes to waiters, close what is
not needed, then dial what is. `try_acquire` and `try_release` are the two inputs that seldom need it.

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
from collections import OrderedDict, deque
from typing import Final

import attrs

from wspool.core.commands import (
    CloseReason,
    Command,
    ConnectionId,
    Dial,
    Expiring,
    Grant,
    LaneId,
    LeaseId,
    Refuse,
    RefuseReason,
    Stolen,
    WaiterId,
)
from wspool.core.lending.lives import Lives
from wspool.core.lending.roster import Connection, Lane, Roster
from wspool.core.outage import Outage
from wspool.core.policy import PoolPolicy, Provider
from wspool.core.states import (
    ConnectionState,
    LaneInput,
    LaneState,
    Naming,
)

__all__ = ["ELISION_DELAY", "HEAD_START", "MAX_SKIPS", "Allocation", "Waiter"]

#: How often holders of parked lanes may go on before a waiter that was there first. Vitess
#: bounds the unfairness of its pool by the same number.
MAX_SKIPS: Final = 8

#: Dials that those in line are worth at once while connections are open, and after how many
#: seconds in line they are worth as many as they are. What is in use may come back sooner than a
#: dial ends: 50 short requests at once on 5 connections (the spike test of HikariCP's "Welcome to
#: the Jungle") are over in 25 ms, and a handshake takes 150.
HEAD_START: Final = 2
ELISION_DELAY: Final = 0.03

# A member of an enum is looked up by a function call in Python 3.11, a global is not.
_OPEN: Final = ConnectionState.OPEN
_RETIRING: Final = ConnectionState.RETIRING
_LEASED: Final = LaneState.LEASED
_GRANT: Final = LaneInput.GRANT


@attrs.define(eq=False)
class Waiter:
    """A task in line."""

    #: Seconds that must be left until the planned retirement of what it is granted.
    min_remaining: float
    #: Times that a holder of a parked lane went on while it was first in line.
    skips: int = 0


class Allocation:
    """The state of one pool, and what follows from it. The base of `PoolCore`, which has the inputs."""

    def __init__(self, policy: PoolPolicy, provider: Provider) -> None:
        self.policy = policy
        self.provider = provider
        self.schedule = policy.schedule(provider)
        self._lanes = min(policy.lanes, provider.lanes)
        #: How the lanes of connections that open now are told apart.
        self.naming = Naming.TRIAL if self._lanes > 1 else Naming.NONE

        self._roster = Roster(count_closing=policy.count_closing)
        self._waiters: OrderedDict[WaiterId, Waiter] = OrderedDict()
        # Since when somebody is in line, and whether dials are held back until they were for long.
        self._line_since = -math.inf
        self._held_back = False
        self._lives = Lives(policy, self.schedule, self._roster)
        # When to report a lease that is still held; in order, since the delay is constant.
        self._leak_watch: deque[tuple[float, LeaseId]] = deque()
        self._outage = Outage(policy.give_up_after, policy.dial_concurrency)

        self._paused = False
        self._closing = False

        self._dialed = self._granted = self._stolen = self._refused = 0
        self._released: int = 0

    def _settle(self, now: float, commands: list[Command]) -> list[Command]:
        roster = self._roster
        if self._closing or not (
            self._waiters or roster.leaving or roster.fresh < self.policy.min_idle + roster.movers
        ):
            return commands  # nobody waits, nothing leaves, spare is complete
        self._held_back = now < self._line_since + ELISION_DELAY
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

    def _suitable(self, wanted: Waiter, now: float, commands: list[Command]) -> Connection | None:
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
            self._lives.end_grants(connection, commands)
        return None

    def _is_starving(self) -> bool:
        """Whether waiters can hope for no free lane and no dial."""
        if self._paused or len(self._waiters) <= self._roster.dialing * self._lanes:
            return False
        return self._roster.size >= self.policy.max_size or self._outage.down

    def _may_steal(self, wanted: Waiter, now: float) -> bool:
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
                self._roster.size < self.policy.max_size
                or not self._needs_dial(coming)
                or outage.down
                or coming >= outage.dial_limit
            ):
                return
            _, connection = roster.leaving.popitem(last=False)
            self._lives.hang_up(connection, CloseReason.LIFETIME, commands)

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
                self._lives.hang_up(oldest, CloseReason.UNSUITABLE, commands)

    def _shrink(self, commands: list[Command]) -> None:
        """Close spare while the pool is larger than it may be, the oldest first."""
        index = 0
        while self._roster.size > self.policy.max_size and index < len(self._roster.available):
            connection = self._roster.connections[self._roster.available[index][1]]
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
            self._dialed += 1
            commands.append(Dial(connection.id))

    def _is_held_back(self) -> bool:
        """Whether what is in use may come back to those in line sooner than a dial ends."""
        return self._held_back and self._roster.usable > 0

    def _is_hopeless(self, now: float) -> bool:
        """Whether those in line should be refused. While connections live, one may come back."""
        failure = self._outage.failure
        if failure is None or not self._outage.is_hopeless(now):
            return False
        return failure.permanent or not self._roster.usable

    def _wants_dial(self) -> bool:
        """Whether one more dial is needed and there is room for it."""
        if self._closing or self._roster.size >= self.policy.max_size:
            return False
        return self._needs_dial(self._roster.dialing)

    def _needs_dial(self, coming: int) -> bool:
        """Whether the *coming* connections will not be enough."""
        failure = self._outage.failure
        if failure is not None and failure.permanent and not self._waiters:
            return False  # spare is no reason to ask again what was refused for good
        spare = self._roster.fresh + self._roster.lanes(LaneState.WARMING)
        waiting = len(self._waiters)
        if self._paused:
            waiting = max(0, waiting - spare)  # what is free now will do for them
        if self._is_held_back():
            waiting = min(waiting, HEAD_START * self._lanes)
        need = waiting + max(0, self.policy.min_idle + self._roster.movers - spare)
        return need > coming * self._lanes

    def _freed(self, connection: Connection, lane: Lane, now: float, commands: list[Command]) -> None:
        """A lane is clean and nobody's."""
        if now >= connection.grant_end:
            self._roster.drop(connection, lane)
            self._lives.end_grants(connection, commands)
            return
        self._roster.put(connection, lane)
        self._lives.note_idle(connection, now)
        if self._roster.size > self.policy.max_size and not connection.busy:
            self._lives.hang_up(connection, CloseReason.RESIZED, commands)

    def try_acquire(self, waiter: WaiterId, now: float) -> tuple[LeaseId, ConnectionId, LaneId] | bool:
        """Do what `acquire` does, without `min_remaining`, if that is next to nothing.

        Returns a lease and its lane if one is free and granting it leads to nothing else; True if
        *waiter* is in line and nothing can be done for it; False if neither is sure, and nothing was
        done. No deadline has come nearer.
        """
        roster, policy = self._roster, self.policy
        if self._closing or self._paused or roster.leaving or policy.leak_after is not None:
            return False
        available = roster.available
        if available:
            connection = roster.connections[available[-1][1]]
            if (
                self._waiters
                or connection.state is not _OPEN
                or now >= connection.grant_end
                or (roster.fresh <= policy.min_idle + roster.movers and roster.size < policy.max_size)
            ):
                return False
            lease, lane = roster.lend(connection)
            self._granted += 1
            return lease, connection.id, lane.id
        if (
            roster.parked
            or policy.max_waiting is not None
            or self._outage.failure is not None
            or roster.size < policy.max_size
            or waiter in self._waiters
        ):
            return False
        if not self._waiters:
            self._line_since = now
        self._waiters[waiter] = Waiter(0.0)
        return True

    def try_release(self, lease: LeaseId, now: float) -> tuple[WaiterId, LeaseId] | bool:
        """Do what `release` does, if that is next to nothing.

        Returns the first in line and its lease if it has the lane now and that leads to nothing else; True
        if nobody is in line and the lane is free; False if neither is sure, and nothing was done.
        No deadline has come nearer.
        """
        roster, policy = self._roster, self.policy
        held = roster.leases.get(lease)
        if held is None or self._closing or roster.leaving:
            return False
        connection, lane = held
        if (
            lane.state is not _LEASED
            or connection.state is not _OPEN
            or now >= connection.grant_end
            or not connection.idle_alarm
        ):
            return False
        waiters, size = self._waiters, roster.size
        if not waiters:
            if size > policy.max_size or (
                size < policy.max_size and roster.fresh + 1 < policy.min_idle + roster.movers
            ):
                return False
            roster.give_back(lease, connection, lane, now)
            self._released += 1
            return True
        if (
            size != policy.max_size
            or roster.available
            or roster.parked
            or self._paused
            or policy.leak_after is not None
        ):
            return False
        waiter, wanted = next(iter(waiters.items()))
        if wanted.min_remaining:
            return False
        del waiters[waiter]
        self._granted += 1
        self._released += 1
        return waiter, roster.pass_on(lease, connection, lane)

    def _refuse(self, waiter: WaiterId, reason: RefuseReason, commands: list[Command]) -> None:
        self._refused += 1
        failure = self._outage.failure if reason is RefuseReason.DIAL_FAILED else None
        commands.append(Refuse(waiter, reason, failure))

    def _refuse_all(self, reason: RefuseReason, commands: list[Command]) -> None:
        for waiter in self._waiters:
            self._refuse(waiter, reason, commands)
        self._waiters.clear()
