"""Turn: one request and its stream of events, as the caller sees it.

A turn is an async context manager and an async iterator. Entering it sends the request, iterating gives the
events, and when they have ended `response` is there. Leaving it early gives the turn up: its connection is
not used again until that is clean, by default never. Where a request may be sent again by itself, its driver
(a lease or a conversation) says so; the turn then goes on with the next attempt, and the caller sees one
turn.

What a turn was is read off its caller, not off the network. It counts when the caller has been given its end:
the last event, or the response by `result()`. Leaving at the last event, by `break` or by an exception, is
leaving a turn that has ended. A turn that was left or cancelled before that does not count, also if all of it
had arrived: it was given up. The last event is the one that says how the response ended; if the turn was
steered, that of its last response, or the answer to its last steer if that comes later.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Final, Protocol, TypeVar

import trio
from trio.lowlevel import checkpoint, checkpoint_if_cancelled, current_task, enable_ki_protection

from wspool.core.events.response import Response
from wspool.core.events.steering import Steer
from wspool.core.events.turn import Delivery
from wspool.core.frames import Event
from wspool.core.sending.chain import as_items
from wspool.core.statistics import TransportName, TurnRecord
from wspool.errors import PoolClosedError, TurnLostError, WsPoolError
from wspool.pool.attempt import Attempt
from wspool.pool.outcome import failed_response, turn_failure
from wspool.pool.ways import AsyncEvents
from wspool.pool.within import Added
from wspool.wire.wire import Wire

__all__ = ["NOT_ENDED", "OVER", "Turn", "TurnDriver"]

_T = TypeVar("_T")

OVER: Final = "the turn is over: iterate inside its async with block"
NOT_ENDED: Final = "the turn has no response yet: iterate over it to its end"

_ORDER: tuple[Delivery, ...] = ("not_sent", "ambiguous", "accepted", "terminal")


def _worse(one: Delivery, other: Delivery) -> Delivery:
    return _ORDER[max(_ORDER.index(one), _ORDER.index(other))]


#: Events that are handed out at most before other tasks are let run. A checkpoint each would double the cost.
_AT_ONCE: Final = 256

#: Events that show the caller nothing of the model's output.
_PRELUDE = frozenset({"response.created", "response.queued", "response.in_progress"})


class TurnDriver(Protocol):
    """Who sends for a turn.

    Attributes:
        attempt: the last request, once it was begun.
        record: how it went, once it was left, if anything was sent.
        added: what instruments have set in the context of the turn.
        check_use: raises `ForeignUseError` if this is no place to use the pool from.
    """

    attempt: Attempt | None
    record: TurnRecord | None
    added: Added
    check_use: Callable[[], None]

    @property
    def awaited(self) -> bool:
        """Whether a lane is kept for it."""
        ...

    async def start(self) -> None:
        """Send the request. A checkpoint."""
        ...

    async def recover(self, attempt: Attempt, *, exposed: bool) -> bool:
        """Send it again after *attempt* failed, if that may be; return whether it was. A checkpoint if so.

        A call that was cancelled is gone on with by the next one for the same *attempt*.

        Args:
            attempt: what failed.
            exposed: True if the caller was given output.
        """
        ...

    async def steer(self, items: list[dict[str, Any]]) -> Steer: ...

    def leave(self, failure: WsPoolError | None, *, told: bool) -> None:
        """The caller has left. Never waits.

        Args:
            failure: the error that it was told, if any.
            told: True if the caller was given the end of the turn, or its error.
        """
        ...


class Turn(AsyncEvents):
    """One turn: `async with ... as turn: async for event in turn: ...; turn.response`.

    Made by `Lease.create` and `Conversation.turn`. It counts when its end was given to the caller: see
    the module. One task at a time reads it.
    """

    def __init__(self, driver: TurnDriver) -> None:
        self._driver = driver
        #: Who used it last, and so may.
        self._user: trio.lowlevel.Task | None = None
        self._entered = False
        self._left = False
        #: True while a task reads it, and waits for something else than events.
        self._reading = False
        #: Whether the caller was given output.
        self._exposed = False
        #: What the caller is given next, and what was taken with it, from an index on.
        self._ready: Iterator[Event] = iter(())
        self._batch: Sequence[Event] = ()
        self._next = 0
        self._failure: WsPoolError | None = None
        # What is known about requests before the last one: the worst of it counts.
        self._before: Delivery = "not_sent"
        #: Once the caller was given the end.
        self._response: Response | None = None

    @property
    def awaited(self) -> bool:
        """Whether a lane is kept for it, before it is entered: it need not wait for one of others."""
        return self._driver.awaited

    @property
    def delivery(self) -> Delivery:
        """What is known about the request now."""
        attempt = self._driver.attempt
        return _worse(self._before, attempt.machine.delivery if attempt is not None else "not_sent")

    @property
    def response_id(self) -> str | None:
        """Id of the response, once it was created."""
        attempt = self._driver.attempt
        return attempt.machine.response_id if attempt is not None else None

    @property
    def events(self) -> Sequence[Event]:
        """All events received so far, of its last request; those taken already only if they are kept."""
        attempt = self._driver.attempt
        return () if attempt is None else attempt.events

    @property
    def headers(self) -> Sequence[tuple[str, str]]:
        """Headers of the answer that opened its connection; by HTTP those of its own. Names in lower case.

        Empty before its request was sent.
        """
        wire = self._wire
        return () if wire is None else wire.headers

    @property
    def transport(self) -> TransportName:
        """What carries it, as far as that is known."""
        return "http" if getattr(self._wire, "stateless", False) else "websocket"

    @property
    def _wire(self) -> Wire | None:
        attempt = self._driver.attempt
        return None if attempt is None else attempt.wire

    @property
    def received(self) -> int:
        """Bytes of events received so far, of its last request."""
        attempt = self._driver.attempt
        return attempt.received if attempt is not None else 0

    @property
    def record(self) -> TurnRecord | None:
        """How it went, as an instrument is told; None before it was left, and where none watches turns."""
        return self._driver.record

    @property
    def added(self) -> Added:
        """What instruments have set in its context, for who calls functions of the caller's."""
        return self._driver.added

    @property
    def at_hand(self) -> bool:
        """Whether `batch` has more of what has come already, and would not wait."""
        return self._next < len(self._batch)

    @property
    def ended(self) -> bool:
        """Whether its end was given to the caller: there is a `response`."""
        return self._response is not None

    @property
    def mended(self) -> bool:
        """Whether its last event says something else than `response`, which the core has completed."""
        return self._open().machine.mended

    @property
    def response(self) -> Response:
        """The response; look at its `status`, which may be `failed` or `incomplete`.

        Raises:
            RuntimeError: the turn has not ended; iterate to its end first.
        """
        if self._response is None:
            raise RuntimeError(NOT_ENDED)
        return self._response

    @property
    def failure(self) -> WsPoolError | None:
        """What `result` raises of a response that failed, once its end was given to the caller; else None."""
        attempt = self._driver.attempt
        if attempt is None or self._response is None or self._response.status != "failed":
            return None
        return failed_response(attempt)

    @enable_ki_protection
    async def result(self) -> Response:
        """Wait for the end of the turn and return its response, completed or incomplete.

        A checkpoint if it has to wait. Cancelling gives nothing up by itself; leaving the turn does.

        Raises:
            ResponseFailedError: the server refused the request or the response failed.
            TurnLostError: the connection died under it.
            PoolClosedError: the turn was left, or the pool or the conversation closed before it could be
                sent again.
            trio.BusyResourceError: another task reads it.
        """
        attempt = self._open()
        self._ready, self._batch, self._next = iter(()), (), 0
        if self._response is not None:
            await checkpoint_if_cancelled()
        while self._response is None:
            if self._failure is not None:
                raise self._failure
            await attempt.end()
            attempt = await self._settle(attempt)
        if self._response.status == "failed":
            raise failed_response(attempt)
        return self._response

    @enable_ki_protection
    async def steer(self, input: str | Sequence[Mapping[str, Any]]) -> Steer:
        """Send further input to the response in progress, and wait until the server has taken it.

        Args:
            input: what is new: a text, or user messages.

        Returns what becomes of it: look at its `state`. The response then ends early, and one that
        goes on with the input follows by itself, in this turn; `response` is that of the last. Input
        that comes when the model waits for tool outputs is `pending`: it goes before them.

        Meant for a task beside the one that iterates. A checkpoint. Cancelling takes nothing back: what
        was sent counts. Nothing of it is ever sent again by itself.

        Raises:
            SteeringRefusedError: it was not taken, and the turn goes on without it: the provider has no
                steering, the response has ended, or the server says why.
            RequestTooLargeError: over the provider's limit; nothing was sent.
            TurnLostError: the connection died before the answer: nobody knows whether it was taken.
            PoolClosedError: the turn is over.
        """
        self._driver.check_use()
        if self._left or self._driver.attempt is None:
            raise PoolClosedError("the turn is over: steer inside its async with block")
        return await self._driver.steer(as_items(input))

    @enable_ki_protection
    async def __aenter__(self) -> Turn:
        """Send the request. A checkpoint; may wait for a lease. Raises what `__anext__` raises."""
        self._check_use()
        if self._entered or self._left:
            raise RuntimeError("a turn is entered once; ask for another turn")
        self._entered = True
        try:
            await self._driver.start()
        except BaseException as error:
            self._failure = error if isinstance(error, WsPoolError) else None
            self.leave()
            raise
        return self

    @enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave. Never waits. A turn whose end was not given to the caller is given up."""
        self.leave()

    def leave(self, *, given: bool = True) -> None:
        """Leave, as at the end of the block; not *given*: what was taken was not passed on. Never waits."""
        self._check_use()
        self._left = True
        self._ready, self._batch = iter(()), ()
        failure = self._failure if given else None
        self._driver.leave(failure, told=failure is not None or (given and self._response is not None))

    @enable_ki_protection
    async def __anext__(self) -> Event:
        """Return the next event.

        A checkpoint when it has to wait, and once for every 256 events when it has not, so that other
        tasks run; it always notices a cancellation. Cancelling loses no event.

        Raises:
            ResponseFailedError: the server refused the request.
            TurnLostError: the connection died under the turn.
            PoolClosedError: the turn was left, or the pool or the conversation closed before it could be
                sent again.
            trio.BusyResourceError: another task reads it.
        """
        try:
            await checkpoint_if_cancelled()
        except RuntimeError:
            self._check_use()  # there may be no trio here at all
            raise
        for event in self._ready:  # nearly always there is one
            return event
        self._ready = iter(await self._more())
        for event in self._ready:
            return event
        raise StopAsyncIteration

    @enable_ki_protection
    async def batch(self) -> Sequence[Event]:
        """Return the next events, all that have come: at least one, none at the end. For who passes them on.

        The last event of all comes alone: whoever was given it was told the end. A checkpoint if it has to
        wait, and at least once for every 256 events. Cancelling loses no event. Raises what iterating does.
        """
        self._check_use()  # there may be no trio here at all
        await checkpoint_if_cancelled()
        return tuple(self._ready) or await self._more()

    async def begun(self) -> None:
        """Wait until something of it has come, or nothing will. Takes nothing. A checkpoint if it waits."""
        attempt = self._open()
        await attempt.until(lambda: not attempt.is_taken)

    async def _more(self) -> Sequence[Event]:
        """Return the next events, none at the end."""
        attempt = self._open()
        while self._response is None:
            if self._failure is not None:
                raise self._failure
            if self._next == len(self._batch):
                # What is there already came while this task waited for something, and others ran.
                self._batch, self._next = await attempt.more(), 0
            elif self._next % _AT_ONCE == 0:
                await self._alone(checkpoint)
            if self._batch:
                return self._take(attempt)
            attempt = await self._settle(attempt)
        return ()

    def _open(self) -> Attempt:
        """Begin to read; return the request whose events come next."""
        self._check_use()
        attempt = self._driver.attempt
        if self._left or attempt is None:
            raise PoolClosedError(OVER)
        if self._reading:
            raise trio.BusyResourceError("another task reads this turn; one at a time")
        return attempt

    async def _alone(self, wait: Callable[[], Awaitable[_T]]) -> _T:
        """Keep other readers out of a *wait*; that for events does so itself."""
        self._reading = True
        try:
            return await wait()
        finally:
            self._reading = False

    def _check_use(self) -> None:
        """Raise `ForeignUseError` if this is no place to use the pool from. Cheap for who used it before."""
        try:
            if current_task() is self._user:
                return
        except RuntimeError:
            pass  # no trio runs here at all
        self._driver.check_use()
        self._user = current_task()

    def _take(self, attempt: Attempt) -> Sequence[Event]:
        """Return some of the events that have come, the last of all alone: to be given it is to be told."""
        events, last = self._batch, len(self._batch)
        if attempt.machine.response is not None and attempt.ended and not attempt.lost and attempt.is_taken:
            if self._next < last - 1:
                last -= 1
            else:
                self._end(attempt)
        stop = min(self._next + _AT_ONCE, last)
        if stop - self._next < len(events):
            events = events[self._next : stop]
        self._next = stop
        self._exposed = self._exposed or any(
            event.type not in _PRELUDE and event.type.startswith("response.") for event in events
        )
        return events

    async def _settle(self, attempt: Attempt) -> Attempt:
        """No event of *attempt* is left: it has a response, or goes on in another one, or is a failure."""
        if self._left:  # by another task
            raise PoolClosedError(OVER)
        failure, machine = turn_failure(attempt), attempt.machine
        if failure is None and (machine.error is None or not machine.put_off):
            self._end(attempt)
        else:
            await self._recover(attempt, failure)
        return self._driver.attempt or attempt

    def _end(self, attempt: Attempt) -> None:
        """The caller is given the end."""
        self._response = Response(attempt.machine.response or {})

    async def _recover(self, attempt: Attempt, failure: WsPoolError | None) -> None:
        """Let the turn be sent again, or remember its *failure*; without one it has ended otherwise."""
        if not (attempt.machine.refused or attempt.machine.put_off):  # then it provably did not run
            self._before = self.delivery
        try:
            if not await self._alone(partial(self._driver.recover, attempt, exposed=self._exposed)):
                if failure is None:
                    self._end(attempt)
                else:
                    self._failure = self._tell(failure)
        except WsPoolError as error:
            self._failure = self._tell(error)
            raise self._failure from failure

    def _tell(self, failure: WsPoolError) -> WsPoolError:
        """Let *failure* say what is known about all requests of this turn, not only the last."""
        if isinstance(failure, PoolClosedError):
            failure = PoolClosedError(str(failure).replace("nothing was sent", "the turn was not sent again"))
        failure.delivery = _worse(self._before, failure.delivery)
        if isinstance(failure, TurnLostError):
            failure.replayable = failure.delivery == "not_sent"
        return failure

    def __repr__(self) -> str:
        return f"<Turn {self.response_id or 'without response'}, {self.delivery}>"
