"""Turn: one request and its stream of events, as the caller sees it.

A turn is an async context manager and an async iterator. Entering it sends the request,
iterating gives the events, and when they have ended `response` is there. Leaving it early
gives the turn up: its connection is not used again until that is clean, by default never.

Where a request may be sent again by itself, its driver (a lease or a conversation) says so;
the turn then goes on with the next attempt, and the caller sees one turn.
"""

from __future__ import annotations

from types import TracebackType
from typing import Protocol

from wspool.core.frames import Event
from wspool.core.response import Response
from wspool.core.turn import Delivery
from wspool.errors import PoolClosedError, WsPoolError
from wspool.pool.attempt import Attempt
from wspool.pool.outcome import failed_response, turn_failure

__all__ = ["Turn", "TurnDriver"]

#: Events that show the caller nothing of the model's output.
_PRELUDE = frozenset({"response.created", "response.queued", "response.in_progress"})


class TurnDriver(Protocol):
    """Who sends for a turn."""

    async def start(self) -> Attempt: ...
    async def recover(self, attempt: Attempt, *, exposed: bool) -> Attempt | None: ...
    def leave(self, attempt: Attempt | None, *, cancelled: bool) -> None: ...


class Turn:
    """One turn: `async with ... as turn: async for event in turn: ...; turn.response`.

    Made by `Lease.create` and `Conversation.turn`.
    """

    def __init__(self, driver: TurnDriver) -> None:
        self._driver = driver
        self._attempt: Attempt | None = None
        self._entered = False
        self._left = False
        self._exposed = False
        self._failure: WsPoolError | None = None
        self._response: Response | None = None

    @property
    def delivery(self) -> Delivery:
        """What is known about the request now."""
        return self._attempt.machine.delivery if self._attempt is not None else "not_sent"

    @property
    def response_id(self) -> str | None:
        """Id of the response, once it was created."""
        return self._attempt.machine.response_id if self._attempt is not None else None

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
        while await self._next() is not None:
            pass
        response = self.response
        if response.status == "failed" and self._attempt is not None:
            raise failed_response(self._attempt.machine)
        return response

    async def __aenter__(self) -> Turn:
        """Send the request. A checkpoint; may wait for a lease. Raises what `__anext__` raises."""
        if self._entered:
            raise RuntimeError("a turn is entered once; ask for another turn")
        self._entered = True
        try:
            self._attempt = await self._driver.start()
        except BaseException:
            self._left = True
            self._driver.leave(None, cancelled=True)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave. Never waits. A turn that has not ended is given up."""
        self._left = True
        self._driver.leave(self._attempt, cancelled=error is not None)

    def __aiter__(self) -> Turn:
        return self

    async def __anext__(self) -> Event:
        """Return the next event.

        A checkpoint when it has to wait; it always notices a cancellation. Cancelling loses no event.

        Raises:
            ResponseFailedError: the server refused the request.
            TurnLostError: the connection died under the turn.
        """
        event = await self._next()
        if event is None:
            raise StopAsyncIteration
        if event.type not in _PRELUDE:
            self._exposed = True
        return event

    async def _next(self) -> Event | None:
        if self._left or self._attempt is None:
            raise PoolClosedError("the turn is over: iterate inside its async with block")
        while self._response is None:
            if self._failure is not None:
                raise self._failure
            event = await self._attempt.next()
            if event is not None:
                return event
            failure = turn_failure(self._attempt)
            if failure is None:
                self._response = Response(self._attempt.machine.response or {})
                break
            following = await self._driver.recover(self._attempt, exposed=self._exposed)
            if following is None:
                self._failure = failure
            else:
                self._attempt = following
        return None

    def __repr__(self) -> str:
        return f"<Turn {self.response_id or 'without response'}, {self.delivery}>"
