"""Turn: one request and its stream of events, as the caller sees it.

A turn is an async context manager and an async iterator. Entering it sends the request,
iterating gives the events, and when they have ended `response` is there. Leaving it early
gives the turn up: its connection is not used again until that is clean, by default never.

Where a request may be sent again by itself, its driver (a lease or a conversation) says so;
the turn then goes on with the next attempt, and the caller sees one turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol

from trio.lowlevel import checkpoint_if_cancelled

from wspool.core.events.response import Response
from wspool.core.events.steering import Steer
from wspool.core.events.turn import Delivery
from wspool.core.frames import Event
from wspool.core.sending.chain import as_items
from wspool.errors import PoolClosedError, TurnLostError, WsPoolError
from wspool.pool.attempt import Attempt
from wspool.pool.outcome import failed_response, turn_failure

__all__ = ["Turn", "TurnDriver"]

_ORDER: tuple[Delivery, ...] = ("not_sent", "ambiguous", "accepted", "terminal")


def _worse(one: Delivery, other: Delivery) -> Delivery:
    return _ORDER[max(_ORDER.index(one), _ORDER.index(other))]


#: Events that show the caller nothing of the model's output.
_PRELUDE = frozenset({"response.created", "response.queued", "response.in_progress"})


class TurnDriver(Protocol):
    """Who sends for a turn.

    Attributes:
        attempt: the last request, once it was begun.
    """

    attempt: Attempt | None

    async def start(self) -> None: ...
    async def recover(self, attempt: Attempt, *, exposed: bool) -> bool: ...
    async def steer(self, items: list[dict[str, Any]]) -> Steer: ...
    def leave(self) -> None: ...


class Turn:
    """One turn: `async with ... as turn: async for event in turn: ...; turn.response`.

    Made by `Lease.create` and `Conversation.turn`.
    """

    def __init__(self, driver: TurnDriver) -> None:
        self._driver = driver
        self._entered = False
        self._left = False
        #: Whether the caller was given output, and the events that come next for the caller.
        self._exposed = False
        self._ready: Iterator[Event] = iter(())
        self._failure: WsPoolError | None = None
        # What is known about requests before the last one: the worst of it counts.
        self._before: Delivery = "not_sent"
        self._response: Response | None = None

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
    def response(self) -> Response:
        """The response; look at its `status`, which may be `failed` or `incomplete`.

        Raises:
            RuntimeError: the turn has not ended; iterate to its end first.
        """
        if self._response is None:
            raise RuntimeError("the turn has no response yet: iterate over it to its end")
        return self._response

    async def result(self) -> Response:
        """Wait for the end of the turn and return its response, completed or incomplete.

        A checkpoint. Cancelling gives nothing up by itself; leaving the turn does.

        Raises:
            ResponseFailedError: the server refused the request or the response failed.
            TurnLostError: the connection died under it.
        """
        self._ready = iter(())
        await self._more(to_end=True)
        response, attempt = self.response, self._driver.attempt
        if response.status == "failed" and attempt is not None:
            raise failed_response(attempt)
        return response

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
        if self._left or self._driver.attempt is None:
            raise PoolClosedError("the turn is over: steer inside its async with block")
        return await self._driver.steer(as_items(input))

    async def __aenter__(self) -> Turn:
        """Send the request. A checkpoint; may wait for a lease. Raises what `__anext__` raises."""
        if self._entered:
            raise RuntimeError("a turn is entered once; ask for another turn")
        self._entered = True
        try:
            await self._driver.start()
        except BaseException:
            self._left = True
            self._driver.leave()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave. Never waits. A turn that has not ended is given up."""
        self._left = True
        self._ready = iter(())
        self._driver.leave()

    def __aiter__(self) -> Turn:
        return self

    async def __anext__(self) -> Event:
        """Return the next event.

        A checkpoint when it has to wait; it always notices a cancellation. Cancelling loses no event.

        Raises:
            ResponseFailedError: the server refused the request.
            TurnLostError: the connection died under the turn.
        """
        await checkpoint_if_cancelled()
        for event in self._ready:  # nearly always there is one
            return event
        self._ready = iter(await self._more())
        for event in self._ready:
            return event
        raise StopAsyncIteration

    async def _more(self, *, to_end: bool = False) -> list[Event]:
        """Return the next events, none at the end; *to_end*: let all events pass until then."""
        if self._left or self._driver.attempt is None:
            raise PoolClosedError("the turn is over: iterate inside its async with block")
        while self._response is None:
            if self._failure is not None:
                raise self._failure
            attempt = self._driver.attempt
            if to_end:
                await attempt.end()
            elif events := await attempt.more():
                self._exposed = self._exposed or any(event.type not in _PRELUDE for event in events)
                return events
            failure = turn_failure(attempt)
            if failure is None:
                self._response = Response(attempt.machine.response or {})
                break
            if not attempt.machine.refused:  # a refused request provably did not run
                self._before = self.delivery
            try:
                if not await self._driver.recover(attempt, exposed=self._exposed):
                    self._failure = self._tell(failure)
            except WsPoolError as error:
                raise self._tell(error) from failure
        return []

    def _tell(self, failure: WsPoolError) -> WsPoolError:
        """Let *failure* say what is known about all requests of this turn, not only the last."""
        failure.delivery = _worse(self._before, failure.delivery)
        if isinstance(failure, TurnLostError):
            failure.replayable = failure.delivery == "not_sent"
        return failure

    def __repr__(self) -> str:
        return f"<Turn {self.response_id or 'without response'}, {self.delivery}>"
