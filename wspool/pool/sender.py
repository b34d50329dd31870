"""Sender: puts messages on the wire of a connection, one at a time and each in time.

A message that was begun is never cut in two by a cancelled sender where lanes share the connection:
it is a task of the connection that sends it, and only the wait for it can be cancelled. Whoever waits for it
waits no longer than for its turn. When its own turn to be sent comes, all that must hold for a send is looked
at again: others may have gone before, and that may have taken long.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable

import trio

from wspool.core.commands import CloseReason
from wspool.core.events.steering import Steer
from wspool.pool.attempt import Attempt
from wspool.pool.credentials import forget
from wspool.pool.link import Link
from wspool.wire.wire import Serial, WireClosedError

__all__ = ["Sender"]

logger = logging.getLogger("wspool.connection")


class Sender:
    """Sends for one connection.

    Args:
        link: the connection.

    Attributes:
        reading: what its reader reads in. Cancelled when that shall end, or when a message may be late.
    """

    __slots__ = ("_begun_at", "_link", "_sending", "reading")

    def __init__(self, link: Link) -> None:
        self._link = link
        self._sending = trio.StrictFIFOLock()
        self.reading = trio.CancelScope()
        #: When the message on its way was begun, on trio's clock; infinity while there is none.
        self._begun_at = math.inf

    def is_late(self) -> bool:
        """`reading` was cancelled: return whether a message is late; if not, there is another to read in."""
        due = self._begun_at + self._link.host.policy.send_timeout
        if due <= trio.current_time():
            return True
        self.reading = trio.CancelScope(deadline=due)
        return False

    def send(self, message: bytes, attempt: Attempt, *, apart: bool) -> Awaitable[object]:
        """Put the request of *attempt* on the wire. See `Connection.send`."""
        if apart:
            return self._hand_over(attempt, self._send_apart, message)
        return self._transmit(message, attempt.machine.handed)

    async def steer(self, message: bytes, attempt: Attempt, steer: Steer) -> bool:
        """Put a steer for *attempt* on the wire. See `Connection.steer`."""
        handed: list[bool] = []
        try:
            await self._hand_over(attempt, self._send_steer, message, steer, handed)
        except trio.Cancelled:
            handed.append(False)  # if its turn has not come yet, it never does
            raise
        return handed == [True]

    async def _hand_over(
        self, attempt: Attempt, task: Callable[..., Awaitable[object]], *args: object
    ) -> None:
        """Run *task* as a task of the connection; wait for it, as long as anything may come of *attempt*.

        Cancelling ends the wait only.
        """
        done = False

        async def run() -> None:
            nonlocal done
            try:
                await task(attempt, *args)
            except WireClosedError:
                pass  # it has poisoned the connection, which loses the attempts
            finally:
                done = True
                attempt.wake()

        if self._link.ending:
            await trio.lowlevel.checkpoint()
            raise WireClosedError
        self._link.spawn(run)
        await attempt.until(lambda: done)

    async def _send_apart(self, attempt: Attempt, message: bytes) -> None:
        link = self._link

        def begin() -> bool:
            core = link.host.core
            attempt.withheld = attempt.waits_for_holds and link.host.now() < core.held_until()
            return not (attempt.given_up or attempt.withheld)

        if not await self._transmit(message, attempt.machine.handed, begin):
            # It does not leave: nothing will come of it, so its lane is clean.
            for lane in link.lanes:
                if lane.attempt is attempt:
                    lane.attempt = None
                    link.report(link.host.core.finished, lane.id, completed=False)

    async def _send_steer(self, attempt: Attempt, message: bytes, steer: Steer, handed: list[bool]) -> None:
        def begin() -> bool:
            wanted = not (handed or attempt.ended or attempt.given_up)
            begun = wanted and attempt.machine.steer(steer)
            handed.append(begun)
            return begun

        await self._transmit(message, lambda: None, begin)

    async def _transmit(
        self, message: bytes, handed: Callable[[], None], wanted: Callable[[], bool] = lambda: True
    ) -> bool:
        """Send *message* unless it is not *wanted* any more when its turn has come; return whether it was."""
        link = self._link
        done = False
        sent = False
        try:
            # Taking a free lock the usual way would cost a round through the scheduler; the wire notices a
            # cancellation.
            try:
                self._sending.acquire_nowait()
            except trio.WouldBlock:
                await self._sending.acquire()
            try:
                # A deadline that is set for each message, and taken back, would cost a turn 4 %. So it
                # stays, and whoever wakes at it looks what is on its way by then.
                self._begun_at = now = trio.current_time()
                if self.reading.deadline == math.inf:
                    self.reading.deadline = now + link.host.policy.send_timeout
                if (wire := link.wire) is None or link.ending:
                    raise WireClosedError
                if link.stateless and isinstance(wire, Serial):
                    # It may end with the answer before, whose last event has been told: then nothing is sent.
                    await wire.ready()
                    if link.ending:
                        raise WireClosedError
                if wanted():
                    handed()
                    sent = True
                    await wire.send(message)
            finally:
                self._begun_at = math.inf
                self._sending.release()
            done = True
            return sent
        except WireClosedError as error:
            done = True  # it was lost, not left in the middle
            link.note_close(error)
            if not link.ending:
                self.reading.cancel()
                link.lose()
            raise
        except Exception as error:
            # A crash inside a library: as for all that comes out of a wire, the connection is dead.
            forget(error, link.redactor)
            logger.debug("connection %s crashed: %r", link.id, error)
            raise WireClosedError from None
        finally:
            if not done:
                link.poison(CloseReason.DIRTY)  # mark: dirty: left while sending
