"""Answers: what goes out on one HTTP connection, to a client that has to read it in time."""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

import h11
import trio

from wspool.listening.errors import CHALLENGE, TurnError

__all__ = ["UNREAD", "Answers", "linger"]

#: Longest time that a client may leave what it was sent unread, in seconds.
UNREAD: Final = 60.0

#: After a goodbye the rest of what the client sends is read and thrown away until nothing came for this long,
#: in seconds, but never longer than the second: closing a socket with unread bytes resets it, and the client
#: would never see the goodbye.
_LINGER: Final = 0.2
_LINGER_MOST: Final = 2.0

_READ: Final = 65536


class Answers:
    """What is sent on one connection.

    Attributes:
        bare: True if the request wants heads only.
        headers: what goes with every head, instead of what that has itself.
        closes: True once the connection ends after the answer: each head says so, or the client would send
            the next request to nobody.
        sent: bytes sent so far.
        sent_at: when the last of them were, on trio's clock.
        sending: within which something is being sent now, if anything is; who knows that the client should
            take it sooner moves its deadline.
    """

    def __init__(self, stream: trio.abc.Stream, http: h11.Connection) -> None:
        self.bare = self.closes = False
        self.headers: dict[str, str] = {}
        self.sent = 0
        self.sent_at = -math.inf
        self.sending: trio.CancelScope | None = None
        self._stream = stream
        self._http = http

    @property
    def begun(self) -> bool:
        """Whether the head of an answer was sent."""
        return self._http.our_state is not h11.SEND_RESPONSE and self._http.our_state is not h11.IDLE

    async def send_error(self, error: TurnError) -> None:
        """Send *error* as a provider does over HTTP. Raises what `send` raises."""
        plain = {key: value for key, value in error.body().items() if key != "headers"}
        headers = dict([CHALLENGE] if error.status == 401 else []) | dict(error.headers or {})
        await self.send_json(error.status, {"error": plain}, headers)

    async def send_json(
        self, status: int, value: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> None:
        """Send a whole JSON response. Raises what `send` raises."""
        data = json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")
        await self.send_whole(status, {"Content-Type": "application/json", **(headers or {})}.items(), data)

    async def send_whole(self, status: int, headers: Iterable[tuple[str, str]], data: bytes) -> None:
        """Send a whole response; its length is added. Raises what `send` raises."""
        body = [] if self.bare else [h11.Data(data=data)]
        head = self._head(status, [*headers, ("Content-Length", str(len(data)))])
        await self.send(head, *body, h11.EndOfMessage())

    async def send_head(self, status: int, headers: Iterable[tuple[str, str]]) -> None:
        """Send the head of a response. Raises what `send` raises."""
        await self.send(self._head(status, headers))

    def _head(self, status: int, headers: Iterable[tuple[str, str]]) -> h11.Response:
        ours = {name.lower() for name in self.headers}
        every = [(name, value) for name, value in headers if name.lower() not in ours]
        if self.closes and all(name.lower() != "connection" for name, _ in every):
            every.append(("Connection", "close"))
        return h11.Response(status_code=status, headers=[*every, *self.headers.items()])

    async def send_data(self, data: bytes) -> None:
        """Send a part of a body. Raises what `send` raises."""
        await self.send(h11.Data(data=data))

    async def send_end(self) -> None:
        """Send the end of a body. Raises what `send` raises."""
        await self.send(h11.EndOfMessage())

    async def send_part(
        self,
        data: bytes,
        head: tuple[int, Iterable[tuple[str, str]]] | None = None,
        *,
        last: bool = False,
        within: float = UNREAD,
    ) -> None:
        """Send a part of a body, behind the *head* if it is the first, and the end if it is the last.

        All of that in one piece: each that goes out costs a call of the system, and wakes the client.

        Args:
            within: how long the client may leave it unread, in seconds.

        Raises what `send` raises.
        """
        before = [] if head is None else [self._head(*head)]
        body = [h11.Data(data=data)] if data else []
        await self.send(*before, *body, *([h11.EndOfMessage()] if last else []), within=within)

    async def send(self, *events: h11.Event, within: float = UNREAD) -> None:
        """Send *events*. A checkpoint if they are anything; cancelling it leaves the connection useless.

        Raises:
          trio.BrokenResourceError: the client went away, or does not read.
        """
        data = b"".join([self._http.send(event) or b"" for event in events])
        if data:
            self.sent += len(data)
            with trio.move_on_after(within) as self.sending:
                await self._stream.send_all(data)
            scope, self.sending = self.sending, None
            if scope.cancelled_caught:
                raise trio.BrokenResourceError("the client does not read its answer")
            self.sent_at = trio.current_time()


async def linger(stream: trio.abc.Stream) -> None:
    """Throw away what the client still sends, so that it reads our last words. A checkpoint."""
    with trio.move_on_after(_LINGER_MOST):
        data: bytes | bytearray = b"-"
        while data:
            data = b""
            with trio.move_on_after(_LINGER):
                data = await stream.receive_some(_READ)
