"""A client that reads bytes: frames as they are, legal or not, and how the connection ended."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Literal

import attrs
import trio

from wspool.server import Server

from .client import Frame

HEAD = (
    b"GET /v1/responses HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA


@attrs.frozen
class Seen:
    """One frame."""

    opcode: int
    payload: bytes
    final: bool = True
    rsv: int = 0
    masked: bool = False
    at: float = attrs.field(default=0.0, eq=False)


def masked(opcode: int, payload: bytes) -> bytes:
    """A client's frame, its mask all zeros."""
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 0x10000:
        length = b"\xfe" + size.to_bytes(2)
    else:
        length = b"\xff" + size.to_bytes(8)
    return bytes([0x80 | opcode]) + length + bytes(4) + payload


class RawClient:
    """One connection."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.head = b""
        self.frames: list[Seen] = []
        self.reads: list[int] = []
        self.end: Literal["eof", "reset"] | None = None
        self._data = bytearray()

    async def handshake(self) -> None:
        await self.stream.send_all(HEAD)
        while b"\r\n\r\n" not in self._data:
            data = await self.stream.receive_some()
            assert data, bytes(self._data)
            self._data += data
        end = self._data.index(b"\r\n\r\n") + 4
        self.head = bytes(self._data[:end])
        del self._data[:end]

    async def send(self, opcode: int, payload: bytes = b"") -> None:
        await self.stream.send_all(masked(opcode, payload))

    async def create(self, input: Any = "one two three four", **fields: Any) -> None:
        body = {"type": "response.create", "model": "gpt-6-astra", "store": False, "input": input}
        await self.send(TEXT, json.dumps(body | fields).encode())

    async def listen(self, quiet: float = 30.0) -> None:
        """Read until nothing came for so many seconds, or the connection ended. Answers a close frame."""
        while self.end is None:
            with trio.move_on_after(quiet) as scope:
                await self.read()
            if scope.cancelled_caught:
                return

    async def read(self) -> None:
        """Read once. Answers a close frame."""
        try:
            data = await self.stream.receive_some(1 << 20)
        except trio.BrokenResourceError:
            self.end = "reset"
            return
        if not data:
            self.end = "eof"
            return
        self.reads.append(len(data))
        self._data += data
        while (seen := self._next()) is not None:
            self.frames.append(seen)
            if seen.opcode == CLOSE:
                try:
                    await self.send(CLOSE, seen.payload[:2])
                except trio.BrokenResourceError:
                    pass

    def _next(self) -> Seen | None:
        data = self._data
        if len(data) < 2:
            return None
        size, start = data[1] & 0x7F, 2
        if size >= 126:
            start += 2 if size == 126 else 8
            size = int.from_bytes(data[2:start])
        is_masked = bool(data[1] & 0x80)
        start += 4 * is_masked
        if len(data) < start + size:
            return None
        seen = Seen(
            data[0] & 0xF,
            bytes(data[start : start + size]),
            bool(data[0] & 0x80),
            data[0] >> 4 & 7,
            is_masked,
            trio.current_time(),
        )
        del data[: start + size]
        return seen

    @property
    def leftover(self) -> bytes:
        """Bytes that are no whole frame."""
        return bytes(self._data)

    def opcodes(self, opcode: int) -> list[Seen]:
        return [seen for seen in self.frames if seen.opcode == opcode]

    def texts(self) -> list[bytes]:
        """All text messages, put together from their fragments."""
        found: list[bytes] = []
        for seen in self.frames:
            if seen.opcode == TEXT:
                found.append(seen.payload)
            elif seen.opcode == 0 and found:
                found[-1] += seen.payload
        return found

    def events(self) -> list[Frame]:
        """All text messages that are JSON objects with a type."""
        events = []
        for text in self.texts():
            try:
                event = json.loads(text)
            except (ValueError, RecursionError):
                continue
            if isinstance(event, dict) and "type" in event:
                events.append(event)
        return events

    def types(self) -> list[Any]:
        return [event["type"] for event in self.events()]


@asynccontextmanager
async def raw_client(server: Server, *, tcp: bool = False) -> AsyncGenerator[RawClient]:
    """A client after its handshake."""
    stream: trio.abc.Stream
    if tcp:
        stream = await trio.open_tcp_stream("127.0.0.1", int(server.url.split(":")[2].split("/")[0]))
    else:
        stream = await server.open_stream()
    try:
        client = RawClient(stream)
        await client.handshake()
        yield client
    finally:
        await trio.aclose_forcefully(stream)
