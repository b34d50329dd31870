"""The far end of a wire: trio-websocket's server side, and servers that answer with plain bytes.

A fake here is a small honest server: it speaks real HTTP and WebSocket over a memory stream or a socket.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import attrs
import trio
import trio.testing
import trio_websocket
from wsproto.utilities import generate_accept_token

from wspool.testing import Peer
from wspool.wire import dial
from wspool.wire.wire import ABNORMAL_CLOSURE, Connector, Endpoint, Wire

MAX_MESSAGE_SIZE = 2**20

OpenStream = Callable[[Endpoint], Awaitable[trio.abc.Stream]]


def endpoint(**changes: Any) -> Endpoint:
    """An endpoint for memory streams: generous to dial, quick to close."""
    parsed = dial.parse_url(
        "ws://localhost:1234/v1/responses",
        connect_timeout=10,
        close_timeout=0.2,
        max_message_size=MAX_MESSAGE_SIZE,
    )
    return attrs.evolve(parsed, **changes)


@attrs.frozen
class ServerPeer:
    """One accepted WebSocket, served by trio-websocket."""

    connection: trio_websocket.WebSocketConnection
    stream: trio.abc.Stream
    reader: trio.CancelScope

    async def send(self, text: str) -> None:
        await self.connection.send_message(text)

    async def receive(self) -> str:
        message = await self.connection.get_message()
        assert isinstance(message, str)
        return message

    async def close(self, code: int, reason: str) -> None:
        await self.connection.aclose(code, reason)

    async def hang(self) -> None:
        self.reader.cancel()

    async def wait_closed(self) -> int:
        try:
            while True:
                await self.connection.get_message()
        except trio_websocket.ConnectionClosed as error:
            return ABNORMAL_CLOSURE if error.reason is None else int(error.reason.code)


@asynccontextmanager
async def accept(
    stream: trio.abc.Stream, headers: Sequence[tuple[bytes, bytes]] = ()
) -> AsyncGenerator[ServerPeer, None]:
    """Serve one upgrade on *stream*; drop it on exit."""
    try:
        async with trio.open_nursery() as nursery:
            request = await trio_websocket.wrap_server_stream(
                nursery, stream, message_queue_size=64, max_message_size=2**26
            )
            connection = await request.accept(extra_headers=list(headers))
            yield ServerPeer(connection, stream, nursery.cancel_scope)
            nursery.cancel_scope.cancel()
    finally:
        await trio.aclose_forcefully(stream)


@asynccontextmanager
async def connected(
    connector: Connector, far_end: trio.abc.Stream, to: Endpoint
) -> AsyncGenerator[tuple[Wire, Peer], None]:
    """Connect *connector* to a server on *far_end*, and yield both ends.

    The peer's tasks live outside the block, so that a peer that hangs stays silent but open.
    """
    async with trio.open_nursery() as nursery:
        accepted = trio.Event()
        done = trio.Event()
        peers: list[ServerPeer] = []

        async def serve() -> None:
            async with accept(far_end) as peer:
                peers.append(peer)
                accepted.set()
                with trio.CancelScope(shield=True):
                    await done.wait()

        nursery.start_soon(serve)
        try:
            wire = await connector.connect(nursery, to, [])
            await accepted.wait()
            try:
                yield wire, peers[0]
            finally:
                await wire.abort()
        finally:
            done.set()
            nursery.cancel_scope.cancel()


@attrs.frozen
class MemoryPair:
    """A `MakePair` over memory streams."""

    make: Callable[[OpenStream], Connector]
    to: Endpoint

    def __call__(self) -> AbstractAsyncContextManager[tuple[Wire, Peer]]:
        near, far = trio.testing.memory_stream_pair()
        return connected(self.make(opener(near)), far, self.to)


def opener(stream: trio.abc.Stream) -> OpenStream:
    """What a connector calls to get *stream*."""

    async def open_stream(to: Endpoint) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        return stream

    return open_stream


class RecordingStream(trio.abc.Stream):
    """A stream that knows whether it was used and closed."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.used = False
        self.upgraded = False
        self.closed = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.used = True
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self.stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        self.closed = True
        await self.stream.aclose()


class LateStream(trio.abc.Stream):
    """The next connection of a listener, accepted when the first byte is wanted."""

    def __init__(self, listener: trio.SocketListener, context: ssl.SSLContext | None) -> None:
        self._listener = listener
        self._context = context
        self._stream: trio.abc.Stream | None = None

    async def _accepted(self) -> trio.abc.Stream:
        if self._stream is None:
            stream = await self._listener.accept()
            if self._context is None:
                self._stream = stream
            else:
                self._stream = trio.SSLStream(stream, self._context, server_side=True, https_compatible=True)
        return self._stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await (await self._accepted()).send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await (await self._accepted()).wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await (await self._accepted()).receive_some(max_bytes)

    async def aclose(self) -> None:
        if self._stream is not None:
            await self._stream.aclose()
        else:
            await trio.lowlevel.checkpoint()


async def read_request(stream: trio.abc.Stream) -> bytes:
    """Read one upgrade request up to its empty line."""
    request = bytearray()
    while not request.endswith(b"\r\n\r\n"):
        data = await stream.receive_some()
        assert data, "the client left before it had asked"
        request += data
    return bytes(request)


def switching_protocols(request: bytes, *extra: bytes) -> bytes:
    """The right answer to *request*."""
    key = request.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
    lines = [
        b"HTTP/1.1 101 Switching Protocols",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: " + generate_accept_token(key),
        *extra,
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv1: bool = False) -> bytes:
    """One unmasked server frame (RFC 6455 section 5.2)."""
    head = bytes([(0x80 if fin else 0) | (0x40 if rsv1 else 0) | opcode])
    if len(payload) < 126:
        return head + bytes([len(payload)]) + payload
    if len(payload) >= 1 << 16:
        return head + bytes([127]) + len(payload).to_bytes(8, "big") + payload
    return head + bytes([126]) + len(payload).to_bytes(2, "big") + payload
