"""Socket: one WebSocket client of the proxy, from its first frame to its last.

WebSocket in, pool out: each request of the client is a turn on whatever lane of the pool holds what it goes
on from (`wspool.proxy.sockets.lanes`). So the client's socket outlives the provider's, and one socket has
many connections behind it.

Rules of this module:

* One writer at a time, whole frames only. After a frame that did not leave whole nothing follows.
* Nothing of the pool is held for a client that waits for nothing: no lease, no connection, no buffer.
* What a client sends is bounded: its messages, the pieces they come in, and what waits of them.
* A request that is wrong is answered, and the socket goes on; a frame that is wrong ends it.
"""

from __future__ import annotations

import logging
import math
from typing import Final

import trio
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage
from wsproto.utilities import RemoteProtocolError

from wspool.listening.errors import RequestError
from wspool.proxy.reading import read_body
from wspool.proxy.sockets.frames import close_frame, control_frame, error_frame, joined
from wspool.proxy.sockets.lanes import Lanes, SocketLimits, Way

__all__ = ["Socket"]

logger = logging.getLogger("wspool.proxy")

_READ: Final = 65536

#: Bytes that are handed to the network at a time, each within `SocketLimits.unread`.
_WRITE: Final = 65536

#: Pieces of a message at most: fragments and reads, which cost more than their bytes.
_MOST_PIECES: Final = 65536

#: Longest time to wait for the client's half of the closing handshake, in seconds.
_CLOSE_TIMEOUT: Final = 2.0

# Close codes. Source: RFC 6455, 7.4.1.
_NORMAL: Final = 1000
_GOING_AWAY: Final = 1001
_NO_STATUS: Final = 1005
_PROTOCOL_ERROR: Final = 1002
_POLICY: Final = 1008
_TOO_BIG: Final = 1009

# Opcodes. Source: RFC 6455, 11.8.
_PING: Final = 9
_PONG: Final = 10


class Socket:
    """One WebSocket client, after its handshake.

    Args:
        stream: where it is; closed at the end.
        way: where its turns go.
        limits: what it may take.
    """

    def __init__(self, stream: trio.abc.Stream, way: Way, limits: SocketLimits) -> None:
        self._stream = stream
        self._way = way
        self._limits = limits
        self._lanes: Lanes | None = None
        self._lock = trio.Lock()
        #: True while a frame is on its way, and for ever if it did not leave whole.
        self._broken = False
        #: True once nothing that is said reaches the client.
        self._gone = False
        self._retiring = False
        self._said_at = trio.current_time()
        #: When the first ping left that nothing has come after.
        self._pinged_at = math.inf
        self._reading = trio.CancelScope()
        #: What is said where this side hangs up.
        self._code = _GOING_AWAY

    async def serve(self, received: bytes = b"") -> None:
        """Serve the client until it or this side hangs up. Raises no `Exception`.

        Args:
            received: what has come of it already, after the head of its handshake.

        A checkpoint. Cancelling drops the client and gives its turns up.
        """
        try:
            async with trio.open_nursery() as nursery:
                self._lanes = Lanes(nursery, self._say, self._way, self._limits)
                keepalive = trio.CancelScope()
                nursery.start_soon(self._keep_alive, keepalive)
                code: int | None = None
                if self._retiring:
                    self._retire()
                with self._reading:
                    code = await self._read(Connection(ConnectionType.SERVER, trailing_data=received))
                if self._reading.cancelled_caught and not self._gone:
                    code = self._code
                self._lanes.leave()
                if code is not None:
                    await self._say_goodbye(code)
                self._gone = True
                keepalive.cancel()
                await trio.aclose_forcefully(self._stream)
                # What still runs is read to its end without it.
        finally:
            self._gone = True
            await trio.aclose_forcefully(self._stream)  # noqa: ASYNC102 # never waits

    def retire(self) -> None:
        """Take no further request, and hang up once those that were taken have ended. Never waits."""
        self._retiring = True
        if self._lanes is not None:
            self._retire()

    def cut_off(self) -> None:
        """The client may not ask any more: drop it with its turns. Never waits."""
        self._code = _POLICY
        self._reading.cancel()

    def _retire(self) -> None:
        assert self._lanes is not None
        self._lanes.retire(self._reading.cancel)

    # -- what comes -----------------------------------------------------------------------------

    async def _read(self, connection: Connection) -> int | None:
        """Take what the client says; return the close code to end with, None if it is gone."""
        message, pieces, binary = bytearray(), 0, False
        while True:
            pong: bytes | None = None
            try:
                for event in connection.events():
                    match event:
                        case TextMessage() | BytesMessage():
                            binary = isinstance(event, BytesMessage)
                            pieces += 1
                            message += event.data if isinstance(event, BytesMessage) else event.data.encode()
                            if len(message) > self._limits.max_message or pieces > _MOST_PIECES:
                                return _TOO_BIG
                            if event.message_finished:
                                whole, message, pieces = message, bytearray(), 0
                                await self._receive(whole, binary=binary)
                                del whole
                        case Ping():
                            pong = bytes(event.payload)  # of several, the last is the answer to all
                        case CloseConnection():
                            return _NORMAL if event.code == _NO_STATUS else int(event.code)
                        case _:
                            pass
            except RemoteProtocolError as error:
                hint = error.event_hint
                return int(hint.code) if isinstance(hint, CloseConnection) else _PROTOCOL_ERROR
            if pong is not None:
                await self._write(control_frame(_PONG, pong))
            try:
                data = await self._stream.receive_some(_READ)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return None
            if not data:
                return None
            self._pinged_at = math.inf
            connection.receive_data(bytes(data))

    async def _receive(self, message: bytearray, *, binary: bool) -> None:
        """Take one message."""
        assert self._lanes is not None
        if binary:
            await self._say(joined([error_frame(None, "Only text frames are supported.")]))
            return
        try:
            body = await read_body(message)
        except RequestError as refused:
            error = refused.error
            await self._say(joined([error_frame(None, error.message, status=error.status)]))
            return
        reply = self._lanes.receive(body, message)
        message.clear()
        if reply is not None:
            await self._say(joined([reply]))

    # -- what goes ------------------------------------------------------------------------------

    async def _say(self, frames: bytes) -> None:
        """Send whole frames. A checkpoint; raises nothing, and does nothing once the client is gone."""
        if self._gone:
            await trio.lowlevel.checkpoint()
        else:
            await self._write(frames)

    async def _write(self, frames: bytes) -> None:
        async with self._lock:
            if self._broken:
                return
            self._broken = True
            with memoryview(frames) as view:
                for start in range(0, len(view), _WRITE):
                    with trio.move_on_after(self._limits.unread) as scope:
                        try:
                            await self._stream.send_all(view[start : start + _WRITE])
                        except (trio.BrokenResourceError, trio.ClosedResourceError):
                            self._vanish()
                            return
                    if scope.cancelled_caught:
                        self._vanish()
                        return
            self._broken = False
        self._said_at = trio.current_time()

    def _vanish(self) -> None:
        """The client is gone, or as good as that."""
        self._gone = True
        self._reading.cancel()

    async def _keep_alive(self, scope: trio.CancelScope) -> None:
        """Say something to the client at least once in `SocketLimits.keepalive`, and see that it lives."""
        limits = self._limits
        with scope:
            while True:
                await trio.sleep_until(self._said_at + limits.keepalive)
                now = trio.current_time()
                if now - self._pinged_at >= limits.silence:
                    self._vanish()
                    return
                if now >= self._said_at + limits.keepalive:
                    await self._say(control_frame(_PING))
                    self._said_at = max(self._said_at, now)
                    self._pinged_at = min(self._pinged_at, now)

    async def _say_goodbye(self, code: int) -> None:
        """Send the close frame, and read what the client still sends, so that it gets that."""
        with trio.move_on_after(_CLOSE_TIMEOUT):
            await self._say(close_frame(code))
            self._gone = True
            try:
                if isinstance(self._stream, trio.abc.HalfCloseableStream):
                    await self._stream.send_eof()
                while await self._stream.receive_some(_READ):
                    pass
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass

    def __repr__(self) -> str:
        state = "gone" if self._gone else "retiring" if self._retiring else "open"
        return f"<Socket, {state}>"
