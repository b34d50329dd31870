"""Every shield of the trio-websocket wire, each against a server that does the harm.

Servers are scripts over memory streams and a virtual clock; "at once" means that no virtual time passed.
"""

from __future__ import annotations

import gc
import socket
import ssl
import struct
import types
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
import trio_websocket
import trustme
import wsproto.events
import wsproto.utilities

from wspool.testing import Peer, check_wire
from wspool.wire import dial
from wspool.wire import trio_websocket as module
from wspool.wire.trio_websocket import MAX_REJECT_BODY, TrioWebSocketConnector
from wspool.wire.wire import ConnectError, Endpoint, Wire, WireClosedError

from .peer import (
    MAX_MESSAGE_SIZE,
    LateStream,
    MemoryPair,
    RecordingStream,
    accept,
    connected,
    endpoint,
    frame,
    opener,
    read_request,
    switching_protocols,
)

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
CANARY = "canary-7f3a"

Script = Callable[[trio.abc.Stream], Awaitable[None]]


async def dial_against(script: Script, to: Endpoint | None = None) -> tuple[ConnectError, float]:
    """Dial a server that runs *script*; return the error and the virtual seconds it took."""
    near, far = trio.testing.memory_stream_pair()
    recorded = RecordingStream(near)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(script, far)
        with pytest.raises(ConnectError) as caught:
            await TrioWebSocketConnector(opener(recorded)).connect(nursery, to or endpoint(), [])
        took = trio.current_time() - began
        nursery.cancel_scope.cancel()

    assert recorded.closed
    assert caught.value.phase == "upgrade"
    return caught.value, took


def answering(answer: bytes, *, then_close: bool = True) -> Script:
    """A server that answers the request with *answer*, whatever it was."""

    async def script(stream: trio.abc.Stream) -> None:
        await read_request(stream)
        if answer:
            await stream.send_all(answer)
        if then_close:
            await stream.aclose()
        else:
            await trio.sleep_forever()

    return script


@asynccontextmanager
async def scripted(
    *, to: Endpoint | None = None, first: bytes = b"", near_end: type[RecordingStream] = RecordingStream
) -> AsyncGenerator[tuple[Wire, trio.abc.Stream], None]:
    """A wire, and the raw stream of its server, which has sent 101 and *first* in one piece.

    *near_end* is the stream that the wire gets; it behaves as such once the upgrade is over.
    """
    near, far = trio.testing.memory_stream_pair()
    recorded = near_end(near)

    async def serve() -> None:
        request = await read_request(far)
        await far.send_all(switching_protocols(request) + first)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        wire = await TrioWebSocketConnector(opener(recorded)).connect(nursery, to or endpoint(), [])
        recorded.upgraded = True
        try:
            yield wire, far
        finally:
            await wire.abort()
    # The nursery ended without being cancelled: nothing of an aborted wire stays behind.
    assert recorded.closed


async def serve_for_ever(stream: trio.abc.Stream) -> None:
    """A well-behaved server."""
    async with accept(stream):
        await trio.sleep_forever()


async def closing(operation: Callable[[], Awaitable[object]]) -> WireClosedError:
    """Return the WireClosedError that *operation* ends with, or fail if it hangs."""
    with trio.fail_after(1), pytest.raises(WireClosedError) as caught:
        await operation()
    return caught.value


# The contract


async def test_keeps_the_contract_over_memory_streams(autojump_clock):
    """Whatever passes here may stand behind a pool."""
    await check_wire(MemoryPair(TrioWebSocketConnector, endpoint()))


async def test_sends_a_proper_request():
    """Host, resource and extra headers go out as given; the answer's headers come back in lower case."""
    near, far = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            request = await read_request(far)
            assert request.startswith(b"GET /v1/responses HTTP/1.1\r\n")
            assert b"\r\nHost: localhost:1234\r\n" in request
            assert b"\r\nAuthorization: Bearer k\r\n" in request
            assert b"permessage-deflate" not in request
            await far.send_all(switching_protocols(request, b"X-Request-Id: Req_1"))

        nursery.start_soon(serve)
        connector = TrioWebSocketConnector(opener(near))
        wire = await connector.connect(nursery, endpoint(), [("Authorization", "Bearer k")])
        assert list(wire.headers) == [("x-request-id", "Req_1")]
        await wire.abort()


# The upgrade


HALF = b"HTTP/1.1 101 Switching Protocols\r\nUpgr"
BAD_ACCEPT = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: bm9wZQ==\r\n\r\n"
)


@pytest.mark.parametrize("then_close", [True, False])
@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"\x00\xff junk \r\n\r\n", "not a WebSocket handshake"),
        (b"SSH-2.0-OpenSSH_9.7\r\n\r\n", "not a WebSocket handshake"),
        (BAD_ACCEPT, "not a WebSocket handshake"),
        (BAD_ACCEPT.replace(b"Upgrade: websocket\r\n", b""), "not a WebSocket handshake"),
        (b"HTTP/1.1 101 Switching Protocols\r\nX: " + b"x" * 200_000, "not a WebSocket handshake"),
    ],
    ids=["junk", "ssh", "bad accept", "no upgrade", "200 KB header"],
)
async def test_a_wrong_answer_ends_the_dial_at_once(autojump_clock, answer, text, then_close):
    """Whatever is not a handshake is a ConnectError with its cause, not a hang to the timeout."""
    error, took = await dial_against(answering(answer, then_close=then_close))

    assert took == 0
    assert text in str(error)
    assert isinstance(error.__cause__, wsproto.utilities.RemoteProtocolError)
    assert (error.status, error.timed_out) == (None, False)


@pytest.mark.parametrize(
    ("answer", "text"), [(b"", "instead of answering"), (HALF, "in the middle")], ids=["nothing", "half"]
)
async def test_an_end_of_stream_ends_the_dial_at_once(autojump_clock, answer, text):
    """trio-websocket alone would wait for the timeout here."""
    error, took = await dial_against(answering(answer))

    assert took == 0
    assert text in str(error)


async def test_a_dead_stream_ends_the_dial_at_once(autojump_clock):
    """A request that cannot even be written is the same failure, with the cause kept."""
    near, far = trio.testing.memory_stream_pair()
    await far.aclose()
    async with trio.open_nursery() as nursery:
        with pytest.raises(ConnectError, match="instead of answering") as caught:
            await TrioWebSocketConnector(opener(near)).connect(nursery, endpoint(), [])

    assert isinstance(caught.value.__cause__, trio.BrokenResourceError)
    assert trio.current_time() == pytest.approx(0, abs=1)


async def test_an_extension_nobody_asked_for_is_refused(autojump_clock):
    """A server that switches compression on unasked gets no wire whose frames nobody can read."""

    async def script(stream: trio.abc.Stream) -> None:
        request = await read_request(stream)
        await stream.send_all(
            switching_protocols(request, b"Sec-WebSocket-Extensions: permessage-deflate")
            + frame(TEXT, b"\x00", rsv1=True)
        )
        await trio.sleep_forever()

    error, took = await dial_against(script)

    assert took == 0
    assert "not a WebSocket handshake" in str(error)


async def send_until_hung_up(stream: trio.abc.Stream, data: bytes) -> int:
    """Send *data* again and again until the other side closes; return how many times it took."""
    times = 0
    with trio.fail_after(5):
        while True:
            try:
                await stream.send_all(data)
            except trio.BrokenResourceError:
                return times
            await trio.testing.wait_all_tasks_blocked()
            times += 1


def http_answer(status: int, *headers: str, body: bytes = b"") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status} No", *headers, "", ""]).encode() + body


@pytest.mark.parametrize("then_close", [True, False])
@pytest.mark.parametrize(
    ("status", "header", "body", "advice"),
    [
        (401, "WWW-Authenticate: Bearer", b"", "credentials"),
        (403, "Content-Type: text/html", b"<html>no</html>", "credentials"),
        (404, "X: y", b"nothing", "URL"),
        (426, "Upgrade: h2c", b"", "URL"),
        (429, "Retry-After: 7", b'{"error": {}}', "later"),
        (500, "X: y", b"", "server"),
        (503, "Retry-After: Wed, 21 Oct 2099 07:28:00 GMT", b"", "later"),
        (307, "Location: wss://elsewhere/", b"", "redirects are not followed"),
        (200, "Content-Type: text/plain", b"hello", "URL"),
    ],
)
async def test_a_refusal_is_reported(autojump_clock, status, header, body, advice, then_close):
    """Status, headers and body of the answer are there, and one request was all that went out."""
    answer = http_answer(status, header, f"Content-Length: {len(body)}", body=body)
    error, took = await dial_against(answering(answer, then_close=then_close))

    assert took == 0
    assert (status, body) == (error.status, error.body)
    name, _, value = header.partition(": ")
    assert (name.lower(), value) in error.headers
    assert str(error).startswith(f"the server refused the WebSocket upgrade with status {status}: ")
    assert advice in str(error)


async def test_early_hints_before_a_refusal_are_skipped(autojump_clock):
    """An interim answer is not the answer."""
    error, _ = await dial_against(
        answering(b"HTTP/1.1 100 Continue\r\n\r\n" + http_answer(403, "Content-Length: 0"))
    )

    assert error.status == 403


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (http_answer(403, body=b"until the end"), b"until the end"),
        (http_answer(403, "Content-Length: 99", body=b"cut sh"), b"cut sh"),
        (http_answer(403, "Transfer-Encoding: chunked", body=b"4\r\nwhol\r\n1\r\ne\r\n0\r\n\r\n"), b"whole"),
        (http_answer(403, "Transfer-Encoding: chunked", body=b"4\r\nhalf\r\n8\r\nan"), b"half"),
    ],
    ids=["close-delimited", "cut short", "chunked", "chunked, cut short"],
)
async def test_a_refusal_counts_even_if_its_body_does_not_end_well(autojump_clock, answer, body):
    """The status is the news; trio-websocket alone would wait for a proper end of the body."""
    error, took = await dial_against(answering(answer))

    assert (403, body, 0) == (error.status, error.body, took)


async def test_an_endless_refusal_is_bounded(autojump_clock):
    """A body without end is cut at MAX_REJECT_BODY, at once."""

    async def script(stream: trio.abc.Stream) -> None:
        await read_request(stream)
        await stream.send_all(http_answer(429, "Retry-After: 1"))
        await send_until_hung_up(stream, b"x" * 1000)

    error, took = await dial_against(script)

    assert (error.status, len(error.body), took) == (429, MAX_REJECT_BODY, 0)


async def test_a_slow_refusal_is_still_a_refusal(autojump_clock):
    """When time is up and only the body is missing, the status is reported, not the time."""

    async def script(stream: trio.abc.Stream) -> None:
        await read_request(stream)
        await stream.send_all(http_answer(401, "Content-Length: 99"))
        while True:
            await trio.sleep(1)
            await stream.send_all(b".")

    error, took = await dial_against(script)

    assert (error.status, error.timed_out) == (401, False)
    assert took == pytest.approx(10)


async def test_a_silent_server_times_out_in_the_upgrade(autojump_clock):
    """connect_timeout covers the upgrade, and the error says so."""
    error, took = await dial_against(answering(b"", then_close=False), endpoint(connect_timeout=3))

    assert (error.timed_out, error.status) == (True, None)
    assert took == pytest.approx(3)
    assert "connect_timeout is 3 s" in str(error)


async def test_an_opener_that_hangs_times_out(autojump_clock):
    """connect_timeout covers the opener too, whoever wrote it."""

    async def hang(to: Endpoint) -> trio.abc.Stream:
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        with pytest.raises(ConnectError) as caught:
            await TrioWebSocketConnector(hang).connect(nursery, endpoint(), [])

    assert (caught.value.phase, caught.value.timed_out) == ("tcp", True)


async def test_a_nursery_that_is_closed_leaves_no_stream_open():
    """Even a caller's mistake does not leak a socket."""
    near, _ = trio.testing.memory_stream_pair()
    recorded = RecordingStream(near)
    async with trio.open_nursery() as nursery:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        await TrioWebSocketConnector(opener(recorded)).connect(nursery, endpoint(), [])

    assert recorded.closed


async def test_cancelling_a_dial_at_any_step_closes_its_stream():
    """However far the dial came, cancelling it leaves neither stream nor task behind."""
    outcomes: set[str] = set()
    for steps in range(40):
        near, far = trio.testing.memory_stream_pair()
        recorded = RecordingStream(near)

        async def dial(recorded: RecordingStream = recorded) -> None:
            async with trio.open_nursery() as own:
                try:
                    wire = await TrioWebSocketConnector(opener(recorded)).connect(own, endpoint(), [])
                except trio.Cancelled:
                    outcomes.add("cancelled")
                    # The opener may have been cancelled before it gave the stream away.
                    assert recorded.closed or not recorded.used
                    raise
                outcomes.add("connected")
                await wire.abort()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_for_ever, far)
            nursery.start_soon(dial)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        await near.aclose()
        await far.aclose()

    assert {"cancelled", "connected"} == outcomes


@pytest.mark.parametrize(
    ("name", "value"),
    [("Authorization", f"{CANARY}\r\nX: y"), ("Authorization", f"{CANARY}\xe9"), ("Author ization", CANARY)],
)
async def test_a_header_that_cannot_be_sent_is_refused_without_its_value(name, value):
    """A bad key is the caller's error, raised before anything is opened, and never printed."""

    async def never(to: Endpoint) -> trio.abc.Stream:
        raise AssertionError("dialled")

    async with trio.open_nursery() as nursery:
        with pytest.raises(ValueError, match="header") as caught:
            await TrioWebSocketConnector(never).connect(nursery, endpoint(), [(name, value)])

    assert CANARY not in str(caught.value)


async def test_a_close_right_behind_the_101_is_seen():
    """A server may switch protocols only to say no; the wire says why."""
    async with scripted(first=frame(CLOSE, (1013).to_bytes(2, "big") + b"busy")) as (wire, _):
        error = await closing(wire.receive)

        assert (error.code, error.reason) == (1013, "busy")


async def test_messages_right_behind_the_101_survive_an_end_of_stream():
    """What came before the end is delivered, even if all of it came with the answer."""
    async with scripted(first=frame(TEXT, b"one") + frame(TEXT, b"two")) as (wire, server):
        await server.aclose()

        assert [*await wire.receive(), *await wire.receive()] == ["one", "two"]
        assert (await closing(wire.receive)).code == 1006


async def test_credentials_are_forgotten_after_the_upgrade():
    """Nothing that lives as long as the wire still holds the key."""
    near, far = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            await far.send_all(switching_protocols(await read_request(far)))

        nursery.start_soon(serve)
        connector = TrioWebSocketConnector(opener(near))
        wire = await connector.connect(nursery, endpoint(), [("Authorization", CANARY.title())])
        await trio.testing.wait_all_tasks_blocked()

        roots: list[object] = [wire, *nursery.child_tasks]
        assert CANARY.title().encode() not in reachable(roots)
        assert CANARY.title() not in repr(wire) + repr(connector)
        await wire.abort()


def reachable(roots: list[object]) -> set[bytes]:
    """All bytes values that can be reached from *roots*, through frames as well."""
    seen: dict[int, object] = {}
    todo = list(roots)
    while todo:
        value = todo.pop()
        if id(value) in seen or isinstance(value, (type, types.ModuleType, types.FunctionType)):
            continue
        seen[id(value)] = value
        todo += gc.get_referents(value)
        if isinstance(value, types.CoroutineType) and value.cr_frame is not None:
            todo += [*value.cr_frame.f_locals.values(), value.cr_await]
    return {value for value in seen.values() if isinstance(value, bytes)}


async def test_the_private_attributes_this_wire_relies_on_exist():
    """A new trio-websocket that renames them must fail here, not leak a key in silence."""
    near, far = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_for_ever, far)
        connection = await trio_websocket.wrap_client_stream(nursery, near, "h", "/")  # type: ignore[arg-type]
        assert isinstance(connection._initial_request, wsproto.events.Request)
        assert isinstance(connection._wsproto.handshake._initiating_request, wsproto.events.Request)
        assert connection._message_parts == []
        nursery.cancel_scope.cancel()
    await near.aclose()


# An open wire


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 1012, 1013, 3000, 4999])
async def test_close_codes_come_through(code):
    """The peer's code and reason are facts, reported as they came."""
    reason = "r" * 123
    async with scripted(first=frame(CLOSE, code.to_bytes(2, "big") + reason.encode())) as (wire, _):
        error = await closing(wire.receive)

        assert (code, reason) == (error.code, error.reason)
        assert type(error.code) is int


async def test_a_close_frame_without_a_code_is_1005():
    """No code is a code of its own (RFC 6455 section 7.1.5)."""
    async with scripted(first=frame(CLOSE)) as (wire, _):
        error = await closing(wire.receive)

        assert (1005, int) == (error.code, type(error.code))


async def test_an_end_without_a_close_frame_is_1006():
    """Everything that waits for the peer learns of it: receive, ping and send."""
    async with scripted() as (wire, server), trio.open_nursery() as nursery:
        nursery.start_soon(closing, wire.ping)
        await trio.testing.wait_all_tasks_blocked()
        await server.aclose()
        assert (await closing(wire.receive)).code == 1006
        assert (await closing(lambda: wire.send(b"x"))).code == 1006
        assert repr(wire) == "<TrioWebSocketWire closed>"


class FullStream(RecordingStream):
    """A stream whose peer stops reading in the middle of every write."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if not self.upgraded:
            return await super().send_all(data)
        await super().send_all(data[: len(data) // 2])
        self.full = trio.Event()
        await self.full.wait()
        raise trio.ClosedResourceError

    async def aclose(self) -> None:
        if self.upgraded and not self.closed:
            self.full.set()
        await super().aclose()


async def test_a_blocked_send_ends_when_the_reader_does():
    """A peer that stops reading and then ends its stream does not keep a sender for ever."""
    async with scripted(near_end=FullStream) as (wire, server), trio.open_nursery() as nursery:
        nursery.start_soon(closing, lambda: wire.send(b"x" * 1000))
        await trio.testing.wait_all_tasks_blocked()
        assert isinstance(server, trio.StapledStream)
        await server.send_stream.aclose()
        assert (await closing(wire.receive)).code == 1006


class RudeStream(RecordingStream):
    """A stream that raises what streams should not."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self.upgraded:
            raise OSError("rude")
        await super().send_all(data)

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await super().receive_some(max_bytes)
        if self.upgraded:
            raise OSError("rude")
        return data


@pytest.mark.parametrize("operation", ["send", "ping", "receive", "aclose"])
async def test_whatever_the_stream_raises_is_the_end_of_the_wire_only(operation):
    """No exception of a stream or of trio-websocket reaches a caller or the nursery as it is."""
    async with scripted(near_end=RudeStream) as (wire, server):
        if operation == "aclose":
            await wire.aclose()
        elif operation == "receive":
            await server.send_all(frame(TEXT, b"x"))
            assert (await closing(wire.receive)).code == 1006
        else:
            error = await closing(wire.ping if operation == "ping" else lambda: wire.send(b"x"))
            assert isinstance(error.__cause__, OSError)


class PoliteStream(RecordingStream):
    """A stream whose close waits for the peer, unless it is cancelled."""

    async def aclose(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            await super().aclose()


async def test_abort_waits_for_nobody_and_is_never_cut_short(autojump_clock):
    """The stream is closed at once even if its own close would wait; being cancelled changes nothing."""
    async with scripted(near_end=PoliteStream) as (wire, _):
        with trio.fail_after(1):
            await wire.abort()
    async with scripted(near_end=PoliteStream) as (wire, _):
        with trio.CancelScope() as scope:
            scope.cancel()
            await wire.abort()

        assert not scope.cancelled_caught


@pytest.mark.parametrize(
    ("harm", "code"),
    [
        (frame(TEXT, b"\xff\xfe"), 1007),
        (frame(CLOSE, (1000).to_bytes(2, "big") + b"\xff"), 1007),
        (frame(CLOSE, (1005).to_bytes(2, "big")), 1002),
        (frame(TEXT, b"x", rsv1=True), 1002),
        (frame(3, b"x"), 1002),
        (frame(0, b"continues nothing"), 1002),
        (frame(PING, b"x" * 126), 1002),
        (b"\x81\x81mask", 1002),
    ],
    ids=["utf-8", "bad reason", "code 1005", "rsv1", "opcode", "continuation", "long ping", "masked"],
)
async def test_a_broken_frame_closes_the_wire(harm, code):
    """The wire ends after what was good, with the code that names the harm, and nothing else is touched."""
    async with scripted(first=frame(TEXT, b"good") + harm) as (wire, _):
        assert await wire.receive() == ("good",)
        assert (await closing(wire.receive)).code == code


async def test_a_binary_message_closes_the_wire():
    """Nothing on this protocol is binary: 1003, and nothing behind it is delivered."""
    async with scripted(first=frame(TEXT, b"a") + frame(BINARY, b"b") + frame(TEXT, b"c")) as (wire, server):
        assert await wire.receive() == ("a",)
        for _ in range(2):
            error = await closing(wire.receive)
            assert (error.code, error.reason) == (1003, "binary message")
        with trio.fail_after(1):
            while await server.receive_some():
                pass


async def test_an_oversized_message_closes_the_wire():
    """More than max_message_size is 1009."""
    async with scripted(to=endpoint(max_message_size=10)) as (wire, server):
        await server.send_all(frame(TEXT, b"x" * 10))
        assert await wire.receive() == ("x" * 10,)
        await server.send_all(frame(TEXT, b"x" * 11))

        assert (await closing(wire.receive)).code == 1009


@pytest.fixture
def few_fragments(monkeypatch: pytest.MonkeyPatch) -> int:
    """A small bound instead of MAX_FRAGMENTS, so that it is reached soon."""
    monkeypatch.setattr(module, "MAX_FRAGMENTS", 64)
    return 64


async def test_endless_empty_fragments_close_the_wire(few_fragments):
    """Fragments that add no size still have an end, 1009, whatever came before."""
    async with scripted() as (wire, server):
        for _ in range(3 * few_fragments):
            await server.send_all(frame(TEXT, b"ok"))
            assert await wire.receive() == ("ok",)
        await server.send_all(frame(TEXT, fin=False))
        sent = await send_until_hung_up(server, frame(0, fin=False) * 8)
        assert sent * 8 < 2 * few_fragments

        error = await closing(wire.receive)
        assert (error.code, error.reason) == (1009, f"a message of more than {few_fragments} fragments")


async def test_messages_in_small_pieces_are_whole(few_fragments):
    """A message in many reads is no flood, nor is one of many fragments with control frames between."""
    dribbled = frame(TEXT, b"x" * 3 * few_fragments)
    middle = b"".join([frame(0, b"y", fin=False) + frame(PING)] * (few_fragments - 2))
    async with scripted() as (wire, server), trio.open_nursery() as nursery:

        async def serve() -> None:
            for byte in dribbled:
                await server.send_all(bytes([byte]))
                await trio.testing.wait_all_tasks_blocked()
            for _ in range(2):
                await server.send_all(frame(TEXT, b"y", fin=False) + middle)
                await trio.testing.wait_all_tasks_blocked()
                await server.send_all(frame(0, b"y"))

        nursery.start_soon(serve)
        assert await wire.receive() == ("x" * 3 * few_fragments,)
        for _ in range(2):
            assert await wire.receive() == ("y" * few_fragments,)


async def test_a_ping_after_our_close_harms_nothing(autojump_clock):
    """trio-websocket's reader crashes over it; aclose returns at once, and the nursery never hears of it."""
    async with scripted() as (wire, server):
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wire.aclose)
            await trio.testing.wait_all_tasks_blocked()
            await server.send_all(frame(PING, b"still there?"))

        assert trio.current_time() - began == 0
        assert (await closing(wire.receive)).code == 1000


async def test_pings_are_answered_while_messages_wait():
    """Unread messages do not make this side look dead."""
    async with scripted(first=frame(TEXT, b"x") * 60) as (wire, server):
        await server.send_all(frame(PING, b"hello"))
        await trio.testing.wait_all_tasks_blocked()
        pong = await server.receive_some()

        assert (pong[0], pong[1]) == (0x80 | PONG, 0x80 | 5)
        assert len([await wire.receive() for _ in range(60)]) == 60


async def test_abort_ends_a_reader_that_is_held_up_by_unread_messages():
    """Even with a full queue nothing of the wire stays behind (see the end of `scripted`)."""
    async with scripted(first=frame(TEXT, b"x") * 200) as (wire, _):
        await trio.testing.wait_all_tasks_blocked()
        await wire.abort()


@pytest.mark.parametrize("operation", ["send", "ping"])
async def test_nothing_is_written_after_a_write_that_was_cut_short(autojump_clock, operation):
    """The peer would take the next bytes for the rest of the frame: no send, ping, pong or close."""
    async with scripted(near_end=FullStream) as (wire, server):
        with trio.move_on_after(1) as scope:
            await (wire.ping() if operation == "ping" else wire.send(b"x" * 1000))
        assert scope.cancelled_caught
        half = await server.receive_some()
        assert half

        await server.send_all(frame(PING))
        assert (await closing(lambda: wire.send(b"y"))).code == 1006
        await closing(wire.ping)
        began = trio.current_time()
        await wire.aclose()
        assert trio.current_time() == began
        assert await server.receive_some() == b""


async def test_aclose_waits_close_timeout_and_no_longer(autojump_clock):
    """A peer that reads but never answers costs close_timeout; then the stream is dropped."""
    async with scripted(to=endpoint(close_timeout=2)) as (wire, _):
        began = trio.current_time()
        await wire.aclose()

        assert trio.current_time() - began == pytest.approx(2)


async def test_aclose_does_not_wait_for_a_blocked_write(autojump_clock):
    """The goodbye itself may block; close_timeout covers that too."""
    async with scripted(near_end=FullStream) as (wire, _):
        began = trio.current_time()
        await wire.aclose()

        assert trio.current_time() - began == pytest.approx(0.2)


async def test_aclose_after_the_peers_close_drops_the_stream():
    """A peer that said goodbye but keeps its stream open does not keep ours."""
    async with scripted() as (wire, server):
        assert repr(wire) == "<TrioWebSocketWire open>"
        await server.send_all(frame(CLOSE))
        await closing(wire.receive)
        assert repr(wire) == "<TrioWebSocketWire closed>"
        assert (await server.receive_some())[0] == 0x80 | CLOSE
        await wire.aclose()
        with trio.fail_after(1):
            assert await server.receive_some() == b""


async def test_a_cancelled_nursery_ends_everything():
    """Cancelling the wire's nursery closes the stream, and callers elsewhere do not hang."""
    near, far = trio.testing.memory_stream_pair()
    recorded = RecordingStream(near)
    async with trio.open_nursery() as callers:
        callers.start_soon(serve_for_ever, far)
        async with trio.open_nursery() as nursery:
            wire = await TrioWebSocketConnector(opener(recorded)).connect(nursery, endpoint(), [])
            callers.start_soon(closing, wire.receive)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert recorded.closed
        assert (await closing(wire.receive)).code == 1006
        await closing(lambda: wire.send(b"x"))
        await closing(wire.ping)
        callers.cancel_scope.cancel()


async def test_a_message_that_is_not_utf_8_is_the_callers_error():
    """Nothing is sent, and the wire stays good."""
    async with connected(*memory_ends(), endpoint()) as (wire, peer):
        with pytest.raises(UnicodeDecodeError):
            await wire.send(b"\xff")
        await wire.send(b"fine")
        assert await peer.receive() == "fine"


def memory_ends() -> tuple[TrioWebSocketConnector, trio.abc.Stream]:
    near, far = trio.testing.memory_stream_pair()
    return TrioWebSocketConnector(opener(near)), far


async def test_a_large_limit_lets_a_large_message_through():
    """The limit is the endpoint's, not the library's default of 1 MiB."""
    near, far = trio.testing.memory_stream_pair()
    to = endpoint(max_message_size=4 * MAX_MESSAGE_SIZE)
    async with connected(TrioWebSocketConnector(opener(near)), far, to) as (wire, peer):
        await peer.send("x" * 3 * MAX_MESSAGE_SIZE)
        assert len((await wire.receive())[0]) == 3 * MAX_MESSAGE_SIZE


# Over real sockets


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A certificate authority of this run's own."""
    return trustme.CA()


@pytest.mark.network
@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
async def test_keeps_the_contract_over_loopback(authority, secure):
    """The same contract over TCP and TLS."""
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(server_context)
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    to = dial.parse_url(
        f"{'wss' if secure else 'ws'}://localhost:{listener.socket.getsockname()[1]}/",
        ssl_context=client_context if secure else None,
        connect_timeout=5,
        close_timeout=0.1,
        max_message_size=MAX_MESSAGE_SIZE,
    )

    @asynccontextmanager
    async def make_pair() -> AsyncGenerator[tuple[Wire, Peer], None]:
        far: trio.abc.Stream = LateStream(listener, server_context if secure else None)
        async with connected(TrioWebSocketConnector(), far, to) as pair:
            yield pair

    async with listener:
        await check_wire(make_pair)


@pytest.mark.network
async def test_a_reset_during_the_upgrade_ends_the_dial_at_once():
    """A TCP reset keeps its cause and takes no timeout."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    to = endpoint(host="127.0.0.1", port=listener.socket.getsockname()[1])
    async with listener, trio.open_nursery() as nursery:

        async def reset() -> None:
            async with await listener.accept() as stream:
                await read_request(stream)
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        nursery.start_soon(reset)
        with trio.fail_after(1), pytest.raises(ConnectError, match="instead of answering") as caught:
            await TrioWebSocketConnector().connect(nursery, to, [])

    assert caught.value.phase == "upgrade"
    assert isinstance(caught.value.__cause__, trio.BrokenResourceError)
    assert isinstance(caught.value.__cause__.__cause__, ConnectionResetError)
