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
* Those that a hold keeps go on one after another, in the order in which they came.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Generator
from contextlib import AbstractContextManager, contextmanager

import trio

from wspool.core.commands import Refuse, RefuseReason, WaiterId
from wspool.core.lending.pool import PoolCore
from wspool.errors import PoolClosedError
from wspool.pool.credentials import forget
from wspool.pool.dialer import classified
from wspool.pool.outcome import refusal
from wspool.wire.answer import Answer
from wspool.wire.wire import ConnectError, WireClosedError

__all__ = ["Errand", "Errands"]

_POOL_CLOSED = "the pool is closed"


class Errand:
    """What one turn, or one compaction, does by itself. Made by `Errands.begin`.

    Attributes:
        stopped: why it may not go on, or an empty text.
        scope: ends what it waits for or does at the moment, if anything.
        paused_until: when its own pause is over, in seconds.
        lifted: ends that pause before its time.
    """

    __slots__ = ("lifted", "paused_until", "scope", "stopped")

    def __init__(self) -> None:
        self.stopped = ""
        self.scope: trio.CancelScope | None = None
        self.paused_until = -math.inf
        self.lifted: trio.Event | None = None

    def stop(self, why: str) -> None:
        """End what it waits for or does, and let it begin nothing more. The first word counts."""
        self.stopped = self.stopped or why
        if self.scope is not None:
            self.scope.cancel()

    def check(self) -> None:
        """Raise `PoolClosedError` if it was stopped."""
        if self.stopped:
            raise PoolClosedError(f"{self.stopped}; nothing was sent")


class Errands:
    """All errands of one pool.

    Args:
        core: what decides; it knows the hold.
        now: returns the pool's time, in seconds.
        post: goes to the endpoint by HTTP, as `Dialer.post`.
        changed: called when one has ended.
    """

    def __init__(
        self,
        core: PoolCore,
        now: Callable[[], float],
        post: Callable[[str, bytes], Awaitable[Answer]],
        changed: Callable[[], None],
    ) -> None:
        self._core = core
        self._now = now
        self._post = post
        self._changed = changed
        self._closed = False
        self._waiting: set[Errand] = set()
        self._working: set[Errand] = set()
        self._gate = trio.StrictFIFOLock()
        #: Set when holds and pauses are lifted; another event from then on.
        self._lifted = trio.Event()

    # -- for turns and compactions ------------------------------------------------------------

    def allows(self, errand: Errand) -> bool:
        """Return whether *errand* may send now: its pause and the hold are over."""
        until = max(self._core.held_until(), _pause_end(errand))
        return until == -math.inf or until <= self._now()

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
        with self.waiting(errand):
            while (seconds := _pause_end(errand) - self._now()) > 0:
                await self._sleep(seconds)
            async with self._gate:  # the first in it waits for the hold, the others for the first
                while (seconds := self._core.held_until() - self._now()) > 0:
                    await self._sleep(seconds)

    async def post(self, suffix: str, body: bytes) -> Answer:
        """Send *body* by HTTP to the endpoint's path with *suffix*; return the answer, whatever its status.

        A checkpoint. Cancelling closes the connection that it had for itself. To be called in `working`.

        Raises:
            DialFailedError: nothing was sent.
            WireClosedError: the answer did not come, or not whole.
        """
        try:
            return await self._post(suffix, body)
        except ConnectError as error:
            forget(error)
            refused = Refuse(WaiterId(0), RefuseReason.DIAL_FAILED, classified(error))
            raise refusal(refused, self._core.statistics(), error) from error
        except WireClosedError as error:
            forget(error)
            raise

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

    async def _sleep(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await self._lifted.wait()

    # -- for the pool -------------------------------------------------------------------------

    @property
    def at_work(self) -> bool:
        """Whether one does more than wait."""
        return bool(self._working)

    def lift(self) -> None:
        """End every pause before a resend; the hold is the core's to lift. Never waits."""
        self._lifted.set()
        self._lifted = trio.Event()

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
        return -math.inf
    return errand.paused_until
