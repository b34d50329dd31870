"""Intake: requests as they come in over HTTP/1.1, within limits that one client cannot talk its way around.

1. Each head and each body has a time by which it is there, and a body may not pause for long either. So a
   client that sends a byte now and then holds a connection for a minute, not for ever.
2. Heads, bodies, and the pieces that a body comes in are bounded, and so are the unfinished bodies of all
   connections together.
3. A request whose end could be read in two ways is refused, and its connection ends: what follows could be
   taken for the request of somebody else.
4. Whoever breaks a limit gets an answer that says which, if it still listens.
"""

import math
from collections.abc import Awaitable, Callable
from typing import Final

import attrs
import h11
import trio

from wspool.listening.errors import RequestError, invalid_request

__all__ = ["Intake", "IntakeLimits", "Unfinished"]

_READ: Final = 65536


@attrs.frozen(kw_only=True)
class IntakeLimits:
    """What a client may take; times are seconds."""

    head_timeout: float = 15.0
    """From the first byte of a request to the end of its head. So long may a connection also wait before
    its first byte."""
    idle_timeout: float = 75.0
    """Between two requests. Source: the default of nginx (`keepalive_timeout`)."""
    body_timeout: float = 60.0
    """From the head to the last byte."""
    silence: float = 10.0
    """Between two pieces of a body."""
    head_size: int = 64 * 1024
    """In bytes. Providers take less (usually 8 to 32 KiB)."""
    pieces: int = 65_536
    """Of a body: reads, or chunks as the client cuts them, which cost more than their bytes."""
    unfinished: int = 256 * 1024 * 1024
    """Bytes of bodies that are not whole yet, over all connections of a server."""


@attrs.define
class Unfinished:
    """The bytes of all bodies that are not whole yet. One for each server."""

    size: int = 0


class Intake:
    """One HTTP connection, as far as it is read."""

    def __init__(self, stream: trio.abc.Stream, limits: IntakeLimits, unfinished: Unfinished) -> None:
        self.http: Final = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.head_size)
        """The state of the connection; answers are sent through it."""
        self.received: bytearray = bytearray()
        """All bytes up to the end of the first head, and what came with it."""
        self._stream = stream
        self._limits = limits
        self._unfinished = unfinished
        self._requests = 0
        self.broken = False
        """True once a body was refused: what comes is of no use, and nothing is waited for."""
        self._declared = 0

    async def head(self) -> h11.Request | None:
        """The next request's head; None: there is none, for the client is done, gone, or idle for too long.

        A checkpoint. Cancelling it leaves the connection useless.

        Raises:
          RequestError: it is no HTTP, ambiguous, too large, or took too long. The connection can not go on.
          trio.BrokenResourceError: the client went away.
        """
        limits, began = self._limits, bool(self.http.trailing_data[0])
        waiting = limits.idle_timeout if self._requests else limits.head_timeout
        deadline = trio.current_time() + (limits.head_timeout if began else waiting)
        while True:
            event = self._next()
            if isinstance(event, h11.Request):
                _check_framing(event)
                self._check_head(event)
                self._requests += 1
                self._declared = next((int(v) for n, v in event.headers if n == b"content-length"), 0)
                return event
            if event is not h11.NEED_DATA:
                # The client hung up, or is a request ahead of what it was told (`h11.PAUSED`).
                return None
            with trio.move_on_at(deadline) as scope:
                await self._read()
            if scope.cancelled_caught:
                if began:
                    raise _too_slow("The head of the request")
                return None
            if not began:
                began, deadline = True, trio.current_time() + limits.head_timeout

    async def body(self, limit: int, send: Callable[[h11.Event], Awaitable[None]]) -> bytes:
        """The body of the request whose head came last. A checkpoint if it has to be waited for.

        Args:
          limit: its bytes at most.
          send: sends the word that a client may be waiting for before it sends the body (`100 Continue`).

        Raises:
          RequestError: it is too large, in too many pieces, too slow, or no HTTP; or there are too many
            unfinished ones. The connection can not go on.
          trio.BrokenResourceError: the client went away.
        """
        body, pieces = bytearray(), 0
        deadline = trio.current_time() + self._limits.body_timeout
        try:
            self._check_size(self._declared, 0, limit)  # before it is sent, as far as it is said
            while piece := await self.piece(send, deadline):
                body += piece
                pieces += 1
                self._unfinished.size += len(piece)
                self._check_size(len(body), pieces, limit)
            return bytes(body)
        except RequestError:
            self.broken = True
            raise
        finally:
            self._unfinished.size -= len(body)

    async def piece(
        self, send: Callable[[h11.Event], Awaitable[None]], deadline: float = math.inf
    ) -> bytes | bytearray:
        """The next piece of a body, for who passes it on; nothing at its end. As `body`.

        Args:
          deadline: by when it is there, on trio's clock.
        """
        while True:
            event = self._next()
            if isinstance(event, h11.Data):
                if event.data:
                    return event.data
            elif event is h11.NEED_DATA:
                if self.http.they_are_waiting_for_100_continue:
                    await send(h11.InformationalResponse(status_code=100, headers=[]))
                with trio.move_on_at(min(deadline, trio.current_time() + self._limits.silence)) as scope:
                    await self._read()
                if scope.cancelled_caught:
                    raise _too_slow("The body of the request")
            else:
                return b""

    def _check_head(self, request: h11.Request) -> None:
        # Of one that came in large pieces h11 sees the size only when it is whole.
        size = len(request.target) + sum(len(name) + len(value) + 4 for name, value in request.headers)
        if size > self._limits.head_size:
            raise RequestError(invalid_request("The head of the request is too large.", status=431))

    def _check_size(self, size: int, pieces: int, limit: int) -> None:
        if size > limit:
            raise RequestError(invalid_request("The request is too large.", status=413))
        if pieces > self._limits.pieces:
            raise RequestError(invalid_request("The request comes in too many small pieces.", status=413))
        if self._unfinished.size > self._limits.unfinished:
            raise RequestError(
                invalid_request("Too many requests are being sent at once; try again later.", status=503)
            )

    def _next(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        try:
            return self.http.next_event()
        except h11.RemoteProtocolError as error:
            raise RequestError(
                invalid_request("The request is not valid HTTP/1.1.", status=error.error_status_hint)
            ) from None

    async def _read(self) -> None:
        data = bytes(await self._stream.receive_some(_READ))
        if not self._requests:
            self.received += data
        self.http.receive_data(data)


def _check_framing(request: h11.Request) -> None:
    # h11 lets the one win over the other; who sends both may want another reader to see it the other way.
    # Source: RFC 9112, 6.1.
    names = {name for name, _ in request.headers}
    if {b"transfer-encoding", b"content-length"} <= names:
        raise RequestError(
            invalid_request("The request has both a Content-Length and a Transfer-Encoding.", status=400)
        )


def _too_slow(what: str) -> RequestError:
    return RequestError(invalid_request(f"{what} did not come in time.", status=408))
