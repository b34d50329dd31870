"""Allocation: how many connections a pool has, for those in line and ahead of them.

What follows from the state of a pool; what leads to it are the inputs of `wspool.core.lending.pool`.
Every input ends in `settle`, the single place of policy: match free lanes to waiters
(`wspool.core.lending.line`), close what is not needed, then dial what is.

Rules of this module (each is an invariant of the specification machine):

* A dial is started only if somebody needs it at that instant.
* A connection that retires goes once its replacement is there, or to make room for it.

All of it costs O(1) or O(log n).
"""

from __future__ import annotations

import math
from typing import Final

from wspool.core.commands import CloseReason, Command, Dial, RefuseReason, WaiterId
from wspool.core.lending.endings import Endings
from wspool.core.lending.line import Line, Waiter
from wspool.core.lending.lives import Lives
from wspool.core.lending.roster import Roster
from wspool.core.lending.tally import Tally
from wspool.core.outage import Outage
from wspool.core.policy import PoolPolicy
from wspool.core.states import ConnectionState, LaneState

__all__ = ["DEFERRAL", "HEAD_START", "Allocation"]

#: Dials that those in line are worth at once while connections are open, and after how many
#: seconds in line they are worth as many as they are. What is in use may come back sooner than a
#: dial ends: 50 short requests at once on 5 connections (the spike test of HikariCP's "Welcome to
#: the Jungle") are over in 25 ms, and a handshake takes 150.
HEAD_START: Final = 2
DEFERRAL: Final = 0.03


class Allocation(Line):
    """The line of one pool, and what it takes to serve it.

    Args:
        endings: what connections that ended say about the endpoint; the others as for `Line`.

    Attributes:
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
        super().__init__(policy, lanes, roster, lives, outage, tally)
        self.closing = False
        self._endings = endings
        # Since when somebody is in line, and whether dials are deferred until they were for long.
        self._line_since = -math.inf
        self._deferring = False
        # When it was last looked what those in line could be given.
        self._settled_at = -math.inf

    # -- the line -----------------------------------------------------------------------------

    def join(self, waiter: WaiterId, wanted: Waiter, now: float, commands: list[Command]) -> None:
        """Put *waiter* in line, and serve or refuse it at once if that can be."""
        if wanted.prefer is not None and self.go_on(waiter, wanted, now, commands):
            return
        if not self.waiters:
            self._line_since = now
        self.stand(waiter, wanted)
        if self._roster.available or self._roster.parked:
            self._match(now, commands)
            if waiter not in self.waiters:
                return
        limit = self.policy.max_waiting
        if self.is_hopeless(now):
            # Waiting cannot help, and asking again at once would only hammer the endpoint.
            reason = RefuseReason.DIAL_FAILED  # mark: refuse: no hope on arrival
        elif limit is not None and len(self.waiters) > limit:
            reason = RefuseReason.TOO_MANY_WAITING  # mark: refuse: the line is full
        else:
            return
        del self.waiters[waiter]
        self.refuse(waiter, reason, commands)

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
            self.waiters or roster.leaving or roster.affinity.fresh < self.policy.min_idle + roster.movers
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
        # Now that the pool is full, those in line may starve who could hope for a dial before. What is found
        # to be too old for them then makes room again.
        while self.waiters and (roster.available or roster.parked):
            size = roster.size
            self._match(now, commands)
            if roster.size == size:
                break
            self._grow(now, commands)
        if self.waiters and not roster.dialing and self.is_hopeless(now):
            # Whatever it was that ended the last hope: a dial, the last connection, or time.
            self.refuse_all(RefuseReason.DIAL_FAILED, commands)  # mark: refuse: the last hope has gone
            self._grow(now, commands)  # for spare, which may be due although nobody else is
        return commands

    def next_deadline(self) -> float:
        """Return when `settle`, or a refusal, may be due though nothing happens; infinity for never."""
        deadline, outage, roster = math.inf, self._outage, self._roster
        # Only an outage delays a dial; otherwise it starts when it is needed.
        probe_at = self._dial_at()
        if probe_at > -math.inf and roster.dialing < outage.dial_limit:
            deadline = probe_at if self._wants_dial() or self._wants_place() else math.inf
        if not self.waiters:
            return deadline
        # A pool may be full of what is closing, so that there is no room for a dial either.
        if (
            not roster.dialing
            and self._settled_at < outage.give_up_at
            and self.is_hopeless(outage.give_up_at)
        ):
            deadline = min(deadline, outage.give_up_at)
        if self._deferring and self._defers_dials() and roster.size < self.policy.max_size:
            deadline = min(deadline, self._line_since + DEFERRAL)
        if (roster.available or roster.parked) and self._is_starving():
            wanted = self._first()
            if (parked := self._parked_for(wanted, self._settled_at)) is not None:
                deadline = min(deadline, parked[0])
            elif (room := self._room_for(wanted, self._settled_at)) is not None:
                deadline = min(deadline, max(room[0], outage.dial_at(waited_for=True)))
        return deadline

    # -- connections that come and go ---------------------------------------------------------

    def _let_leavers_go(self, now: float, commands: list[Command]) -> None:
        # Make before break: a retiring connection nobody holds stays grantable until spare is
        # complete without it, or until only its going makes room for its replacement. It does not
        # go for a replacement that is on its way, nor while none can be had.
        roster, outage = self._roster, self._outage
        while roster.leaving:
            coming = self._coming()
            if roster.affinity.fresh < self.policy.min_idle and (
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
            outage.dialled(connection.id, now)
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

    def _wants_place(self) -> bool:
        """Whether one that leaves would make room for its replacement, if that might be dialled now."""
        full = bool(self._roster.leaving) and self._roster.size >= self.policy.max_size
        coming = self._coming()
        waits = full and not self._outage.down and coming < self._outage.dial_limit
        return waits and not self.closing and self._needs_dial(coming)

    def _needs_dial(self, coming: int) -> bool:
        """Whether the *coming* connections will not be enough."""
        failure = self._outage.failure
        if failure is not None and failure.permanent and not self.waiters:
            return False  # spare is no reason to ask again what was refused for good
        spare = self._roster.affinity.fresh + self._roster.lanes[LaneState.WARMING]
        waiting = len(self.waiters)
        if self.paused:
            waiting = max(0, waiting - spare)  # what is free now will do for them
        if self._defers_dials():
            waiting = min(waiting, HEAD_START * self.lanes)
        need = waiting + max(0, self.policy.min_idle + self._roster.movers - spare)
        return need > coming * self.lanes
