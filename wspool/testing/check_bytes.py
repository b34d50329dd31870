"""What a wire must make of the bytes of a server, as code that any wire can be run against.

`wspool.testing.check_wire` has the two ends of a connection and looks at messages. Here the suite is the
server and writes the bytes by hand: those right behind its answer to the upgrade, and those of frames that no
server may send.

Rules of this suite:

* Every connection is a memory stream of its own; the wire is used through the seam only.
* A frame is refused for its head: no payload is ever sent after a bad one, and the stream stays open.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import trio
import trio.testing

from wspool.wire.wire import Connector, Endpoint, Wire, WireClosedError

__all__ = ["MakeConnector", "check_bytes"]

#: Makes a connector that gets its streams from what it is given.
MakeConnector = Callable[[Callable[[Endpoint], Awaitable[trio.abc.Stream]]], Connector]

#: Seconds after which a check counts as hanging.
_PATIENCE: Final = 10.0

_LIMIT: Final = 1 << 20

_ENDPOINT: Final = Endpoint(
    host="localhost",
    port=80,
    resource="/",
    connect_timeout=_PATIENCE,
    close_timeout=0.1,
    max_message_size=_LIMIT,
)

# Source: RFC 6455 section 1.3.
_ACCEPT: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

# What the checks say, as heads and whole frames (RFC 6455 section 5.2).
_GOOD: Final = b"\x81\x04good"
_BEGUN: Final = b"\x01\x01a"
_NEARLY_FULL: Final = b"\x01\x7f" + (_LIMIT - 1).to_bytes(8, "big") + b"a" * (_LIMIT - 1)

#: Heads that are refused: what it is, what comes before, the head, the close code.
_REFUSED: Final[tuple[tuple[str, bytes, bytes, int], ...]] = (
    *((f"reserved bit {bit:#x}", b"", bytes((0x81 | bit, 127)), 1002) for bit in (0x40, 0x20, 0x10)),
    *((f"opcode {code}", b"", bytes((0x80 | code, 127)), 1002) for code in (3, 4, 5, 6, 7)),
    *((f"opcode {code}", b"", bytes((0x80 | code, 100)), 1002) for code in (11, 12, 13, 14, 15)),
    *((f"control frame {code} in fragments", b"", bytes((code, 100)), 1002) for code in (8, 9, 10)),
    *((f"long control frame {code}", b"", bytes((0x80 | code, 126)), 1002) for code in (8, 9, 10)),
    ("half a close code", b"", b"\x88\x01", 1002),
    ("masked frame", b"", b"\x81\xff", 1002),
    ("length in 2 bytes that fits in 1", b"", b"\x81\x7e\x00\x7d", 1002),
    ("length in 8 bytes that fits in 2", b"", b"\x81\x7f" + (0xFFFF).to_bytes(8, "big"), 1002),
    ("continuation of nothing", b"", b"\x80\x7f", 1002),
    ("continuation of a message that is over", _BEGUN + b"\x80\x01b", b"\x00\x7f", 1002),
    ("message inside of another", _BEGUN, b"\x81\x7f", 1002),
    ("binary message", b"", b"\x82\x7f", 1003),
    ("message over the limit", b"", b"\x81\x7f" + (_LIMIT + 1).to_bytes(8, "big"), 1009),
    ("length of 2**63", b"", b"\x81\x7f" + (1 << 63).to_bytes(8, "big"), 1009),
    ("fragment that goes over the limit", _BEGUN, b"\x80\x7f" + _LIMIT.to_bytes(8, "big"), 1009),
    ("small fragment over the limit", _NEARLY_FULL, b"\x80\x02", 1009),
)


async def check_bytes(make_connector: MakeConnector) -> None:
    """Check that wires take every legal cut of a server's bytes, and refuse a bad frame at its head.

    Args:
        make_connector: called once per connection, see `MakeConnector`.

    A checkpoint.

    Raises:
        AssertionError: a promise does not hold; the message names what was sent.
    """
    for count, size in ((1, 1000), (1, 20_000), (1, 70_000), (1, 100_000), (1, 900_000), (300, 400)):
        await _check_behind_the_answer(make_connector, count, size)
    for what, before, head, code in _REFUSED:
        await _check_refusal(make_connector, what, before, head, code)


async def _check_behind_the_answer(make_connector: MakeConnector, count: int, size: int) -> None:
    """What comes with the answer to the upgrade is delivered, wherever the network parts the two."""
    text = "x" * size
    head = b"\x81\x7e" + size.to_bytes(2, "big") if size < 1 << 16 else b"\x81\x7f" + size.to_bytes(8, "big")
    behind = (head + text.encode()) * count
    for cut in (-1, 0, 1, 2, len(head), len(head) + 1, 4096, 16 * 1024, 64 * 1024, len(behind)):
        what = f"{count} messages of {size} bytes, parted {cut} bytes behind the answer"
        texts: list[str] = []
        with trio.move_on_after(_PATIENCE) as scope:
            # -1 parts the answer itself.
            async with _served(make_connector, behind[: max(cut, 0)], behind[max(cut, 0) :], cut < 0) as wire:
                while len(texts) < count:
                    texts += [_as_text(message) for message in await wire.receive()]
        assert not scope.cancelled_caught, f"hangs: {what}"
        assert texts == [text] * count, f"not what was sent: {what}"


async def _check_refusal(
    make_connector: MakeConnector, what: str, before: bytes, head: bytes, code: int
) -> None:
    """What came before is delivered; then the wire ends, though no payload has come."""
    for first, second in ((_GOOD + before + head, b""), (b"", _GOOD + before + head)):
        got: list[str] = []
        closed = 0
        with trio.move_on_after(_PATIENCE) as scope:
            async with _served(make_connector, first, second) as wire:
                try:
                    while True:
                        got += [_as_text(message) for message in await wire.receive()]
                except WireClosedError as error:
                    closed = error.code
        assert not scope.cancelled_caught, f"{what}: is not refused before its payload comes"
        assert got[:1] == ["good"], f"{what}: what came before is lost"
        assert closed == code, f"{what}: closed with {closed}, not {code}"


@asynccontextmanager
async def _served(
    make_connector: MakeConnector, first: bytes, second: bytes, part_answer: bool = False
) -> AsyncGenerator[Wire]:
    """Connect to a server that sends *first* with its answer and *second* after it, and reads for ever."""
    near, far = trio.testing.memory_stream_pair()

    async def open_stream(_: Endpoint) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        return near

    async def serve() -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            request += await far.receive_some()
        answer = _answer(request)
        pieces: Sequence[bytes] = (
            (answer[:-1], answer[-1:] + first + second) if part_answer else (answer + first, second)
        )
        try:
            for piece in pieces:
                await far.send_all(piece)
                await trio.testing.wait_all_tasks_blocked()
            while await far.receive_some():
                pass
        except trio.BrokenResourceError:
            pass  # the wire has had enough

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)  # noqa: ASYNC113 # the streams are there already
        wire = await make_connector(open_stream).connect(nursery, _ENDPOINT, [])
        try:
            yield wire
        finally:
            await wire.abort()  # noqa: ASYNC102 # drops the stream when cancelled, too
            nursery.cancel_scope.cancel()


def _answer(request: bytes) -> bytes:
    """Return the right answer to an upgrade request (RFC 6455 section 4.2.2)."""
    [key] = [
        line.partition(b":")[2].strip()
        for line in request.split(b"\r\n")
        if line.lower().startswith(b"sec-websocket-key:")
    ]
    accept = base64.b64encode(hashlib.sha1(key + _ACCEPT, usedforsecurity=False).digest())
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )


def _as_text(message: str | bytes) -> str:
    return message if isinstance(message, str) else message.decode()
