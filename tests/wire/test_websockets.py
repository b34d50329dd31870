"""What only the websockets wire does: batches, reading by whoever waits, compression, and its limits."""

from __future__ import annotations

import logging
import tracemalloc
import zlib
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio
import trio.testing
from websockets.frames import Frame
from websockets.server import ServerProtocol

from wspool.testing import check_wire
from wspool.wire import websockets as module
from wspool.wire.answer import MAX_REJECT_BODY
from wspool.wire.websockets import WebSocketsConnector
from wspool.wire.wire import ConnectError, Wire, WireClosedError

from .peer import MemoryPair, endpoint, frame, opener, read_request, switching_protocols
from .scripts import (
    BINARY,
    CANARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    FullStream,
    answering,
    closing,
    dial_against,
    http_answer,
    scripted,
    send_until_hung_up,
)

connected = partial(scripted, WebSocketsConnector)


def unmask(data: bytes) -> list[tuple[int, bytes]]:
    """Return the opcodes and payloads of client frames of less than 126 bytes (RFC 6455 section 5.3)."""
    frames = []
    while data:
        assert data[1] & 0x80, "a client frame that is not masked"
        size, mask = data[1] & 0x7F, data[2:6]
        payload = bytes(byte ^ mask[index % 4] for index, byte in enumerate(data[6 : 6 + size]))
        frames.append((data[0] & 0x0F, payload))
        data = data[6 + size :]
    return frames


async def receive_all(wire: Wire, count: int) -> list[str | bytes]:
    """Return the next *count* messages."""
    messages: list[str | bytes] = []
    while len(messages) < count:
        messages += await wire.receive()
    return messages


# Reading


async def test_one_read_is_one_batch():
    """A burst costs one wake-up: all that came in one read comes at once, control frames left out."""
    burst = [frame(TEXT, str(number).encode()) + frame(PONG, b"unasked") for number in range(50)]
    async with connected() as (wire, server):
        await server.send_all(b"".join(burst) + frame(TEXT, b"half a mess", fin=False))
        assert list(await wire.receive()) == [str(number) for number in range(50)]

        await server.send_all(frame(0, b"age"))
        assert list(await wire.receive()) == ["half a message"]


async def test_messages_that_came_with_the_101_are_there():
    """A receive that need not read is a checkpoint all the same."""
    async with connected(first=frame(TEXT, b"early")) as (wire, _):
        with trio.testing.assert_checkpoints():
            assert list(await wire.receive()) == ["early"]


async def test_a_character_may_be_cut_by_a_fragment():
    """UTF-8 is checked per message, not per frame."""
    euro = "€".encode()
    async with connected(first=frame(TEXT, euro[:1], fin=False) + frame(0, euro[1:])) as (wire, _):
        assert list(await wire.receive()) == ["€"]


async def test_the_servers_pings_are_answered_by_whoever_reads():
    """A task in receive is enough, and so is one in ping; the answer holds what was asked."""
    for operation in ("receive", "ping"):
        async with connected() as (wire, server), trio.open_nursery() as nursery:
            nursery.start_soon(closing, wire.ping if operation == "ping" else wire.receive)
            await trio.testing.wait_all_tasks_blocked()
            if operation == "ping":
                await server.receive_some()
            await server.send_all(frame(PING, b"still there?"))
            await trio.testing.wait_all_tasks_blocked()

            assert unmask(bytes(await server.receive_some())) == [(PONG, b"still there?")]
            await wire.abort()


async def test_a_ping_leaves_the_reading_to_others_when_it_goes():
    """A receive that waited while a ping was reading goes on when the ping is cancelled."""
    async with connected() as (wire, server), trio.open_nursery() as nursery:
        async with trio.open_nursery() as pinging:
            pinging.start_soon(wire.ping)
            await trio.testing.wait_all_tasks_blocked()
            got: list[str | bytes] = []

            async def receive() -> None:
                got.extend(await wire.receive())

            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            pinging.cancel_scope.cancel()
        await server.send_all(frame(TEXT, b"x"))
        await trio.testing.wait_all_tasks_blocked()

        assert got == ["x"]


async def test_a_pong_answers_all_pings_before_it():
    """Only pongs to pings that were sent count, the latest for all; others are ignored."""
    async with connected() as (wire, server), trio.open_nursery() as nursery:
        nursery.start_soon(wire.ping)
        nursery.start_soon(wire.ping)
        await trio.testing.wait_all_tasks_blocked()
        asked = unmask(bytes(await server.receive_some()))
        assert [opcode for opcode, _ in asked] == [PING, PING]
        await server.send_all(frame(PONG, b"\xff\xff\xff\xff") + frame(PONG) + frame(PONG, b"x" * 125))
        await trio.testing.wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 2
        await server.send_all(frame(PONG, asked[1][1]))


async def test_a_ping_does_not_read_ahead_without_bound():
    """With nobody in receive it stops at its limit, and goes on once the messages are taken."""
    message = frame(TEXT, b"x" * 60_000)
    async with connected() as (wire, server), trio.open_nursery() as nursery:
        nursery.start_soon(wire.ping)
        await trio.testing.wait_all_tasks_blocked()
        [(_, payload)] = unmask(bytes(await server.receive_some()))
        await server.send_all(message * 8 + frame(PONG, payload))
        await trio.testing.wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 1
        first = await wire.receive()
        assert 4 <= len(first) < 8

        await trio.testing.wait_all_tasks_blocked()
        assert not nursery.child_tasks
        assert len(await wire.receive()) == 8 - len(first)


async def test_reading_goes_on_while_a_send_is_stuck(autojump_clock):
    """A peer that writes before it reads is no deadlock, not even when it pings."""
    async with connected(near_end=FullStream) as (wire, server), trio.open_nursery() as nursery:
        nursery.start_soon(closing, partial(wire.send, b"x" * 1000))
        await trio.testing.wait_all_tasks_blocked()
        for text in ("one", "two"):
            await server.send_all(frame(PING) + frame(TEXT, text.encode()))
            assert list(await wire.receive()) == [text]
        await wire.abort()


async def test_a_flood_of_pings_is_answered_within_bounds():
    """Pongs for a peer that does not read are not piled up; the latest ones stand for all."""
    async with connected(near_end=FullStream) as (wire, server):
        for _ in range(20):
            await server.send_all(frame(PING, b"x" * 100) * 500 + frame(TEXT, b"x"))
            assert list(await wire.receive()) == ["x"]
        waiting = wire._answers  # type: ignore[attr-defined]
        assert 0 < len(waiting) <= 64


# The end


async def test_pings_are_not_answered_after_a_write_that_was_cut_short(autojump_clock):
    """The pong would be taken for the rest of the frame; what comes in is delivered all the same."""
    async with connected(near_end=FullStream) as (wire, server):
        with trio.move_on_after(1):
            await wire.send(b"x" * 100)
        half = await server.receive_some()
        await server.send_all(frame(PING) + frame(TEXT, b"x"))
        assert list(await wire.receive()) == ["x"]
        await trio.testing.wait_all_tasks_blocked()
        await wire.abort()
        assert half
        assert await server.receive_some() == b""


async def test_aclose_lets_the_answer_to_the_peers_close_out():
    """A goodbye in return is worth close_timeout; abort alone would cut it off."""
    async with connected() as (wire, server):
        await server.send_all(frame(CLOSE))
        with pytest.raises(WireClosedError):
            await wire.receive()
        await wire.aclose()
        assert unmask(bytes(await server.receive_some())) == [(CLOSE, b"")]


async def test_nothing_is_delivered_after_abort():
    """Whoever aborts has given up what was unread."""
    async with connected(first=frame(TEXT, b"unread")) as (wire, _):
        await wire.abort()
        assert (await closing(wire.receive)).code == 1006


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (
            http_answer(403, "Transfer-Encoding: chunked", body=b"4\r\nwhol\r\n1\r\ne\r\n0\r\n\r\n"),
            b"whole",
        ),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + http_answer(403, "Content-Length: 1", body=b"x"), b"x"),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + http_answer(403, "Content-Length: 0"), b""),
        (http_answer(403, "Content-Length: 99999999999999999999999", body=b"x" * MAX_REJECT_BODY), None),
    ],
    ids=["chunked", "continue", "early hints", "absurd length"],
)
async def test_the_end_of_a_refusal_is_found(autojump_clock, answer, body):
    """A server that keeps the connection open after its answer does not cost the timeout."""
    error, took = await dial_against(WebSocketsConnector, answering(answer, then_close=False))

    assert (error.status, took) == (403, 0)
    assert error.body == (b"x" * MAX_REJECT_BODY if body is None else body)


async def test_an_answer_of_too_many_headers_is_no_answer(autojump_clock):
    """The library below counts them."""
    answer = http_answer(403, *["X: y"] * 200)
    error, took = await dial_against(WebSocketsConnector, answering(answer, then_close=False))

    assert took == 0
    assert "not a WebSocket handshake" in str(error)


async def test_the_peer_is_told_why():
    """A failure is answered with its close code, and then the stream ends without being asked."""
    for harm, code in [
        (frame(TEXT, b"\xff"), 1007),
        (frame(BINARY, fin=False), 1003),
        (frame(3), 1002),
        (frame(TEXT, b"x" * 30), 1009),
    ]:
        async with connected(to=endpoint(max_message_size=20)) as (wire, server):
            await server.send_all(harm)
            assert (await closing(wire.receive)).code == code
            with trio.fail_after(1):
                [(opcode, payload)] = unmask(bytes(await server.receive_some()))
                assert (opcode, payload[:2]) == (CLOSE, code.to_bytes(2, "big"))
                assert await server.receive_some() == b""


async def test_the_peers_close_is_answered_and_the_stream_ends():
    """The code is sent back, and nobody needs to call aclose for that."""
    async with connected() as (wire, server):
        await server.send_all(frame(CLOSE, (4000).to_bytes(2, "big")))
        await closing(wire.receive)
        assert unmask(bytes(await server.receive_some())) == [(CLOSE, (4000).to_bytes(2, "big"))]
        with trio.fail_after(1):
            assert await server.receive_some() == b""


async def test_an_answer_that_cannot_be_written_does_not_keep_the_stream(autojump_clock):
    """close_timeout bounds the goodbye of a peer that said goodbye and reads no more."""
    async with connected(near_end=FullStream, to=endpoint(close_timeout=3)) as (wire, server):
        began = trio.current_time()
        await server.send_all(frame(CLOSE))
        await closing(wire.receive)
        while await server.receive_some():
            pass
        assert trio.current_time() - began == pytest.approx(3)


async def test_a_ping_after_our_close_is_harmless(autojump_clock):
    """It is answered; the handshake goes on until the peer's close, and its messages are dropped."""
    async with connected() as (wire, server), trio.open_nursery() as nursery:
        nursery.start_soon(wire.aclose)
        await trio.testing.wait_all_tasks_blocked()
        await server.receive_some()
        await server.send_all(frame(TEXT, b"late") + frame(PING, b"?"))
        await trio.testing.wait_all_tasks_blocked()
        assert unmask(bytes(await server.receive_some())) == [(PONG, b"?")]
        await server.send_all(frame(CLOSE, (1000).to_bytes(2, "big")))
        await trio.testing.wait_all_tasks_blocked()
        assert (await closing(wire.receive)).code == 1000
    assert trio.current_time() < 1


async def test_a_send_during_our_close_is_refused():
    """Nothing follows a close frame (RFC 6455 section 5.5.1)."""
    async with connected() as (wire, server), trio.open_nursery() as nursery:
        nursery.start_soon(wire.aclose)
        await trio.testing.wait_all_tasks_blocked()
        await closing(partial(wire.send, b"x"))
        await wire.abort()
        assert [opcode for opcode, _ in unmask(bytes(await server.receive_some()))] == [CLOSE]


# Compression


class Deflating:
    """A server's end of permessage-deflate."""

    HEADER = b"Sec-WebSocket-Extensions: permessage-deflate"

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(wbits=-15)
        self._inflate = zlib.decompressobj(wbits=-15)

    def deflate(self, data: bytes) -> bytes:
        """Return *data* as the payload of one message (RFC 7692 section 7.2.1)."""
        return (self._deflate.compress(data) + self._deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]

    def inflate(self, payload: bytes) -> bytes:
        """Return what one message says."""
        return self._inflate.decompress(payload + b"\x00\x00\xff\xff")


compressing = partial(scripted, partial(WebSocketsConnector, compression=True), extra=Deflating.HEADER)


async def test_compression_is_offered_only_if_asked():
    """And then both directions use it."""
    far_end = Deflating()
    async with compressing() as (wire, server):
        for text in ("hello " * 20, "hello " * 20, "ü"):
            await server.send_all(frame(TEXT, far_end.deflate(text.encode()), rsv1=True))
            assert list(await wire.receive()) == [text]

            await wire.send(text.encode())
            data = bytes(await server.receive_some())
            assert data[0] == 0x80 | 0x40 | TEXT
            [(_, payload)] = unmask(data)
            assert far_end.inflate(payload) == text.encode()
        await server.send_all(frame(TEXT, b"not compressed"))
        assert list(await wire.receive()) == ["not compressed"]


async def test_a_server_need_not_compress():
    """The offer is not a condition, and the contract holds with it."""
    make = partial(WebSocketsConnector, compression=True)
    await check_wire(MemoryPair(make, endpoint(close_timeout=0.01)), make)


@pytest.mark.parametrize("fragments", [1, 3])
async def test_a_bomb_is_bounded_by_max_message_size(fragments):
    """What a message inflates to counts, in one frame or several, and no more than that is inflated."""
    limit = 100_000
    bomb = Deflating().deflate(b"\0" * 30_000_000)
    assert len(bomb) < 65_536
    size = len(bomb) // fragments + 1
    pieces = [bomb[start : start + size] for start in range(0, len(bomb), size)]
    async with compressing(to=endpoint(max_message_size=limit)) as (wire, server):
        tracemalloc.start()
        try:
            for number, piece in enumerate(pieces):
                first, last = number == 0, number == len(pieces) - 1
                await server.send_all(frame(TEXT if first else 0, piece, fin=last, rsv1=first))
            error = await closing(wire.receive)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

        assert error.code == 1009
        assert peak < 1_000_000


@pytest.mark.parametrize("harm", [b"\xff\xff\xff", b"\x06"], ids=["no deflate", "reserved block"])
async def test_what_cannot_be_inflated_closes_the_wire(harm):
    """It is a protocol error, not a crash."""
    async with compressing() as (wire, server):
        await server.send_all(frame(TEXT, harm, rsv1=True))
        assert (await closing(wire.receive)).code == 1002


@pytest.mark.parametrize(
    "header",
    [b"permessage-deflate; client_max_window_bits=8", b"permessage-deflate; x=1", b"permessage-bzip2"],
)
async def test_an_extension_that_cannot_be_used_is_refused(header):
    """Parameters that this side did not offer, or cannot keep, end the dial."""
    make = partial(WebSocketsConnector, compression=True)
    with pytest.raises(ExceptionGroup) as caught:
        async with scripted(make, extra=b"Sec-WebSocket-Extensions: " + header):
            raise AssertionError("connected")

    error = caught.value.exceptions[0]
    assert isinstance(error, ConnectError)
    assert "not a WebSocket handshake" in str(error)


# The library


async def test_nothing_is_ever_logged(caplog):
    """Not even with everything at DEBUG, when the library would print the request with its credentials."""
    caplog.set_level(logging.DEBUG)
    for name in ("websockets", "websockets.client", "wspool", "wspool.wire.websockets"):
        caplog.set_level(logging.DEBUG, logger=name)
    near, far = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            await far.send_all(switching_protocols(await read_request(far)) + frame(TEXT, b"x") + frame(3))

        nursery.start_soon(serve)
        connector = WebSocketsConnector(opener(near))
        wire = await connector.connect(nursery, endpoint(), [("Authorization", f"Bearer {CANARY}")])
        await wire.receive()
        await closing(wire.receive)

    assert caplog.records == []
    assert repr(connector) == "<WebSocketsConnector>"


async def test_websockets_server_side_understands_it():
    """The library's own server sees what was meant, byte for byte."""
    near, far = trio.testing.memory_stream_pair()
    protocol = ServerProtocol()

    async def serve() -> None:
        protocol.receive_data(await read_request(far))
        [request] = protocol.events_received()
        protocol.send_response(protocol.accept(request))  # type: ignore[arg-type]
        await far.send_all(b"".join(protocol.data_to_send()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        wire = await WebSocketsConnector(opener(near)).connect(nursery, endpoint(), [])
        for size in (0, 1, 125, 126, 65_535, 65_536, 200_000):
            await wire.send(b"x" * size)
            data = b""
            while len(data) < size + 6:
                data += await far.receive_some()
            protocol.receive_data(data)
            [got] = protocol.events_received()
            assert isinstance(got, Frame)
            assert (got.fin, bytes(got.data)) == (True, b"x" * size)
        await wire.abort()


async def test_every_wait_ends_when_the_stream_breaks():
    """Whoever is parked, reading or not, learns of the end."""

    async def ended(operation: Callable[[], Awaitable[object]]) -> None:
        assert isinstance(await closing(operation), WireClosedError)

    async with connected() as (wire, server), trio.open_nursery() as nursery:
        for operation in (wire.receive, wire.ping, wire.ping):
            nursery.start_soon(ended, operation)
        await trio.testing.wait_all_tasks_blocked()
        await server.aclose()


async def test_empty_fragments_in_one_read_have_an_end_too():
    """The bound is the library's own, in one read as in many."""
    async with connected() as (wire, server), trio.open_nursery() as nursery:
        nursery.start_soon(closing, wire.receive)
        sent = await send_until_hung_up(server, frame(TEXT, fin=False) + frame(0, fin=False) * 30_000)
        assert sent == 1
    assert module.MAX_FRAGMENTS < 30_000
