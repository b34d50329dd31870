"""Errands: what a turn or a compaction waits for, or does, while no lane of the pool carries it.

It waits until the server lets it send, and in line for a lane; it goes to the endpoint by HTTP. All of that
happens in a task of the user's, so no nursery of the pool would end it. Rules of this module:

* An errand ends with its turn, with its conversation and with the pool, whichever ends first. Its task
  is told at once (`PoolClosedError`), also if what it waited for has come in the very same step.
* When the pool begins to close, who waits is told; who works has the grace that leases have. The pool is
  closed when the last of them has left.
* A hold is a time before which the server wants nothing sent (Retry-After). It is looked at right before each
  send, so one that is set or has grown while somebody waited counts. It ends when it is over or lifted
  (`Pool.retry_now`), and so does the pause before a resend.
* Those that a hold keeps go on one after another, in the order in which they came. Who was let go already,
  for a lane or on one, and is kept all the same has the place that it had; who was refused goes to the end.
  The same holds in line for a lane.
* Where refusals are waited out, a turn begins when the pool's pace lets it (`wspool.core.sending.pace`), and
  in the same order. From then on until it is over it is at work; but who waits for a lane of others sends
  nothing, so that one is at work only once it has a lane. Else those in line would fill the pace, and whoever
  comes back to the lane that is kept for it would wait behind them, and they for that lane.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from typing import Final

import attrs
import trio

from wspool.core.commands import Refuse, RefuseReason, WaiterId
from wspool.core.lending.pool import PoolCore
from wspool.core.policy import PoolPolicy
from wspool.core.sending.allowance import stated_in
from wspool.core.sending.blame import Suspicion
from wspool.core.sending.pace import Pace, Ticket
from wspool.core.sending.places import Places
from wspool.core.server_error import ServerError
from wspool.core.statistics import PoolStatistics
from wspool.core.usage import Usage
from wspool.pool.credentials import forget
from wspool.pool.dialer import classified
from wspool.pool.errand import Errand
from wspool.pool.outcome import refusal
from wspool.wire.answer import Answer
from wspool.wire.wire import ConnectError, WireClosedError

__all__ = ["Errands"]

#: Seconds after which who waits for its turn in the pace looks whether others are being answered by now: that
#: is not told, since it would cost every turn.
_LOOK: Final = 0.1

_NEVER: Final = -math.inf

_POOL_CLOSED = "the pool is closed"


class Errands:
    """All errands of one pool.

    Args:
        core: what decides; it knows the hold.
        now: returns the pool's time, in seconds.
        post: goes to the endpoint by HTTP, as `Dialer.post`.
        changed: called when one has ended.
        policy: the limits of the pool.
        pace: what to keep where refusals are waited out; by default one of the pool's own.

    Attributes:
        pace: how many turns may be at work, where refusals are waited out.
    """

    def __init__(
        self,
        core: PoolCore,
        now: Callable[[], float],
        post: Callable[[str, bytes], Awaitable[Answer]],
        changed: Callable[[], None],
        policy: PoolPolicy,
        pace: Pace | None = None,
    ) -> None:
        self._core = core
        self._now = now
        self._post = post
        self._changed = changed
        self.pace = None if policy.refusal_patience is None else pace or Pace()
        if self.pace is not None:
            self.pace.line = self
        #: What the endpoint refused last, for who asks why nothing goes on.
        self._refused_for = "a rate limit"
        self._paced: dict[Ticket, Errand] = {}
        #: Those that were refused, and not answered since.
        self._suspects: set[Errand] = set()
        #: Set when the pace has changed; another event from then on.
        self._moved = trio.Event()
        self._closed = False
        self._waiting: set[Errand] = set()
        self._working: set[Errand] = set()
        self._line = Places[Errand]()
        self._places = itertools.count(1)
        #: Set when holds and pauses are lifted; another event from then on.
        self._lifted = trio.Event()

    # -- for turns and compactions ------------------------------------------------------------

    def allows(self, errand: Errand, *, has_lane: bool = True) -> bool:
        """Return whether *errand* may send now, or go for a lane: its pause and the hold are over."""
        # Nearly always there is neither, and each turn asks.
        until, pause = self._core.held_until(), errand.paused_until
        if (until > _NEVER or pause > _NEVER) and max(until, _pause_end(errand)) > self._now():
            return False
        return self.pace is None or self._is_in_pace(self.pace, errand, has_lane)

    def _is_in_pace(self, pace: Pace, errand: Errand, has_lane: bool) -> bool:
        if errand.ticket is not None:
            return True
        # Nobody overtakes those who wait, but who was let in before them and has its lane now.
        if not self._may_go_before(errand, self._line.first) or self._pace_wait(pace) > 0:
            return False
        self._admit(pace, errand, has_lane)
        return True

    def _may_go_before(self, errand: Errand, first: Errand | None) -> bool:
        if first is None or first.place is None:
            return True
        return errand.place is not None and errand.place <= first.place

    def _admit(self, pace: Pace, errand: Errand, has_lane: bool) -> None:
        self._give_place(errand)
        if has_lane or self._core.has_lane:
            errand.ticket = pace.begin(self._now())
            self._paced[errand.ticket] = errand

    def _give_place(self, errand: Errand) -> int:
        if errand.place is None:
            errand.place = next(self._places)
        return errand.place

    def _pace_wait(self, pace: Pace) -> float:
        """Return the seconds until the pace lets another turn begin, infinity if something must happen."""
        self._look(pace)
        return pace.wait(self._now())

    def _look(self, pace: Pace) -> None:
        """See who is being answered by now."""
        for ticket in pace.unanswered:
            answered = self._paced[ticket].is_answered
            if answered is not None and answered():
                self._answered(pace, ticket)

    def _answered(self, pace: Pace, ticket: Ticket) -> None:
        pace.answered(ticket)
        self._suspects.discard(self._paced[ticket])

    def blames(self, errand: Errand, error: ServerError) -> bool:
        """Return whether *error* is the trouble of the request of *errand*, and not of the endpoint."""
        if self.pace is None or errand.ticket is None or not error.may_pass or error.is_rate_limit:
            return False
        self._look(self.pace)
        suspicion = errand.suspicion = errand.suspicion or Suspicion()
        return suspicion.refused(errand.ticket.number, self.pace.latest)

    def refused(self, errand: Errand, error: ServerError, *, jitter: float) -> None:
        """The endpoint refused the request of *errand* with *error*, which may pass. Never waits."""
        if self.pace is not None and errand.ticket is not None:
            self._refused_for = (
                "a rate limit" if error.is_rate_limit else error.words or "an error of the endpoint"
            )
            self.pace.refused(
                errand.ticket,
                self._now(),
                rate=error.is_rate_limit,
                own=error.blames_endpoint,
                wait=error.retry_after or 0.0,
                jitter=jitter,
            )
            errand.place = None
            if not error.is_rate_limit:
                self._suspects.add(errand)
            self._forget(errand, errand.ticket)

    def over(self, errand: Errand) -> None:
        """*errand* is over, or its turn does not go on by itself. Never waits."""
        self._rest(errand)
        self._suspects.discard(errand)

    def _rest(self, errand: Errand) -> None:
        if self.pace is not None and errand.ticket is not None:
            if errand.is_answered is not None and errand.is_answered():
                self._answered(self.pace, errand.ticket)
            self.pace.ended(errand.ticket)
            self._forget(errand, errand.ticket)

    def _forget(self, errand: Errand, ticket: Ticket) -> None:
        del self._paced[ticket]
        errand.ticket = errand.is_answered = None
        self.pace_moved()

    @property
    def in_line(self) -> int:
        """How many the pace could let begin: those who wait for it, or for a lane, and then for it."""
        pool = self._core.statistics()
        return len(self._line) + min(pool.waiting, pool.max_size)

    def pace_moved(self) -> None:
        """The pace has changed: whoever waits for it looks again. Never waits."""
        self._moved.set()
        self._moved = trio.Event()

    def away(self) -> None:
        """The endpoint cannot be reached. Never waits."""
        if self.pace is not None:
            self.pace.away()

    def used(self, usage: object) -> None:
        """A turn has ended, and the server said this of its usage. Never waits."""
        if self.pace is not None:
            used = Usage.of(usage)
            self.pace.used(used.input + used.output)

    def stated(self, said: object, *, answering: bool = True) -> None:
        """The endpoint has sent these headers, or this event, which may say what it takes. Never waits.

        *answering* if they come with the answer to a turn.
        """
        if self.pace is not None and (stated := stated_in(said, time.time())):
            self.pace.told(stated, self._now(), answering=answering)
            self.pace_moved()

    def pause(self, errand: Errand, seconds: float) -> None:
        """Let *errand* not send for so many seconds, unless all is lifted before. Never waits."""
        errand.paused_until = self._now() + seconds
        errand.lifted = self._lifted

    async def until_allowed(self, errand: Errand) -> None:
        """Wait until *errand* may send.

        A checkpoint. It returns with no checkpoint between its turn and the return, so that those who go
        on at once go on in order. A hold may be set again by then: look at `allows`.

        Raises:
            PoolClosedError: it was stopped.
        """
        self._rest(errand)  # whoever waits is not at work
        with self.waiting(errand):
            while (seconds := _pause_end(errand) - self._now()) > 0:
                await self._sleep(seconds)
            with self._in_line(errand) as called:
                await trio.lowlevel.checkpoint()
                while True:  # the first in line waits for the hold, the others for the first
                    if self._line.first is not errand:
                        await called().wait()
                    elif (seconds := self._core.held_until() - self._now()) > 0:
                        await self._sleep(seconds)
                    elif self.pace is None:
                        return
                    elif (seconds := self._pace_wait(self.pace)) > 0:
                        await self._sleep_in_pace(min(seconds, _LOOK) if self.pace.unanswered else seconds)
                    else:
                        self._admit(self.pace, errand, has_lane=False)
                        return

    @contextmanager
    def _in_line(self, errand: Errand) -> Generator[Callable[[], trio.Event], None, None]:
        """Stand in line; what it yields returns an event for when *errand* is the first."""

        def called() -> trio.Event:
            errand.called = trio.Event()
            return errand.called

        place = self._give_place(errand)
        self._line.take(place, errand)
        try:
            yield called
        finally:
            errand.called = None
            self._line.leave(place)
            if (first := self._line.first) is not None and first.called is not None:
                first.called.set()

    async def post(self, suffix: str, body: bytes) -> Answer:
        """Send *body* by HTTP to the endpoint's path with *suffix*; return the answer, whatever its status.

        A checkpoint. Cancelling closes the connection that it had for itself. To be called in `working`.

        Raises:
            DialFailedError: nothing was sent.
            WireClosedError: the answer did not come, or not whole.
        """
        try:
            answer = await self._post(suffix, body)
        except ConnectError as error:
            forget(error)
            # mark: refuse: an errand's dial failed
            refused = Refuse(WaiterId(0), RefuseReason.DIAL_FAILED, classified(error))
            raise refusal(refused, self._core.statistics(), error) from error
        except WireClosedError as error:
            forget(error)
            raise
        self.stated(answer.headers, answering=False)
        return answer

    def waiting(self, errand: Errand) -> AbstractContextManager[None]:
        """Wait inside this `with` block; it ends when the pool begins to close.

        Raises:
            PoolClosedError: it was stopped, before the block or in it. The block may have come to its end.
        """
        return self._listed(errand, self._waiting)

    def working(self, errand: Errand) -> AbstractContextManager[None]:
        """Work inside this `with` block, as `waiting`, but until the pool's grace is over."""
        return self._listed(errand, self._working)

    @contextmanager
    def _listed(self, errand: Errand, among: set[Errand]) -> Generator[None, None, None]:
        if self._closed:
            errand.stop(_POOL_CLOSED)
        errand.check()
        among.add(errand)
        try:
            with trio.CancelScope() as errand.scope:
                yield
        finally:
            errand.scope = None
            among.discard(errand)
            self._changed()
        errand.check()

    async def _sleep_in_pace(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await self._moved.wait()

    async def _sleep(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await self._lifted.wait()

    def told(self, statistics: PoolStatistics) -> PoolStatistics:
        """Return *statistics* of the core with what only this module knows."""
        held, pace = self._held(), self.pace
        return attrs.evolve(
            statistics,
            held=held,
            held_for=self._refused_for if held else "",
            room=None if pace is None else int(pace.room),
            at_work=0 if pace is None else pace.at_work,
            suspects=len(self._suspects),
            unclear=0.0 if pace is None or self._closed else pace.unclear(self._now()),
        )

    def _held(self) -> float:
        until = self._core.held_until()
        if self.pace is not None:
            until = max(until, self.pace.held_until, self.pace.allowance.held_until)
        return max(0.0, until - self._now()) if until > _NEVER else 0.0

    # -- for the pool -------------------------------------------------------------------------

    def withheld(self) -> set[int]:
        """Return the numbers of the conversations that wait because the endpoint refuses, or is not there."""
        troubled = self.pace is not None and self.pace.troubled
        all_wait, now = self._core.away or troubled or self._held() > 0, self._now()
        return {
            errand.conversation
            for errand in self._waiting
            if errand.conversation is not None and (all_wait or _pause_end(errand) > now)
        }

    @property
    def at_work(self) -> bool:
        """Whether one does more than wait."""
        return bool(self._working)

    def lift(self) -> None:
        """End every pause before a resend; the hold is the core's to lift. Never waits."""
        self._lifted.set()
        self._lifted = trio.Event()
        if self.pace is not None:
            self.pace.lift()
            self.pace_moved()

    def close(self) -> None:
        """The pool is closing: end every wait. Never waits."""
        self._closed = True
        for errand in [*self._waiting]:
            errand.stop(_POOL_CLOSED)

    def force(self) -> None:
        """The pool's grace is over: end everything. Never waits."""
        self.close()
        for errand in [*self._working]:
            errand.stop(_POOL_CLOSED)


def _pause_end(errand: Errand) -> float:
    if errand.lifted is not None and errand.lifted.is_set():
        return _NEVER
    return errand.paused_until
