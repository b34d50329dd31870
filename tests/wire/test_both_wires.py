"""What both wires promise, each promise against a server that does the harm.

Servers are scripts over memory streams and a virtual clock; "at once" means that no virtual time passed.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
import trustme

from wspool.testing import Peer, check_wire
from wspool.wire import dial, heads
from wspool.wire.answer import MAX_REJECT_BODY
from wspool.wire.wire import ConnectError, Endpoint, Wire

from .peer import (
    MAX_MESSAGE_SIZE,
    LateStream,
    MemoryPair,
    RecordingStream,
    connected,
    endpoint,
    frame,
    opener,
    read_request,
    switching_protocols,
)
from .scripts import (
    BINARY,
    CANARY,
    CLOSE,
    PING,
    TEXT,
    FullStream,
    PoliteStream,
    RudeStream,
    answering,
    closing,
    dial_against,
    http_answer,
    memory_ends,
    reachable,
    scripted,
    send_until_hung_up,
    serve_for_ever,
)

# The contract


async def test_keeps_the_contract_over_memory_streams(make, autojump_clock):
    """Whatever passes here may stand behind a pool."""
    await check_wire(MemoryPair(make, endpoint()), make)


async def test_sends_a_proper_request(make):
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
        connector = make(opener(near))
        wire = await connector.connect(nursery, endpoint(), [("Authorization", "Bearer k")])
        assert ("x-request-id", "Req_1") in wire.headers
        assert all(name == name.lower() for name, _ in wire.headers)
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
        (b"HTTP/1.1 101 Switching Protocols\r\nX: " + b"x" * 200_000, "16384 bytes of headers"),
    ],
    ids=["junk", "ssh", "bad accept", "no upgrade", "200 KB header"],
)
async def test_a_wrong_answer_ends_the_dial_at_once(make, autojump_clock, answer, text, then_close):
    """Whatever is not a handshake is a ConnectError with its cause, not a hang to the timeout."""
    error, took = await dial_against(make, answering(answer, then_close=then_close))

    assert took == 0
    assert text in str(error)
    assert error.__cause__ is not None
    assert (error.status, error.timed_out) == (None, False)


@pytest.mark.parametrize(("size", "good"), [(15_000, True), (17_000, False)])
async def test_headers_are_bounded_on_both_wires(make, autojump_clock, size, good):
    """Also where all of them are there at once, and a handshake is in them."""
    headers = [b"X-%d: %s" % (number, b"x" * 993) for number in range(size // 1000)]

    async def script(stream: trio.abc.Stream) -> None:
        await stream.send_all(switching_protocols(await read_request(stream), *headers))
        await trio.sleep_forever()

    if good:
        near, far = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(script, far)
            wire = await make(opener(near)).connect(nursery, endpoint(), [])
            await wire.abort()
            nursery.cancel_scope.cancel()
    else:
        error, took = await dial_against(make, script)
        assert took == 0
        assert "more than 16384 bytes of headers" in str(error)


@pytest.mark.parametrize("then_close", [True, False])
@pytest.mark.parametrize(
    "answer", [b"220 mail.example ESMTP", b"HTTP/2 403\r\n"], ids=["another protocol", "another version"]
)
async def test_what_is_not_http_is_known_at_its_first_wrong_byte(make, autojump_clock, answer, then_close):
    """Even before its first line ends, and even if the server then waits for us."""
    error, took = await dial_against(make, answering(answer, then_close=then_close))

    assert took == 0
    assert "not a WebSocket handshake" in str(error)


@pytest.mark.parametrize(
    ("answer", "text"), [(b"", "instead of answering"), (HALF, "in the middle")], ids=["nothing", "half"]
)
async def test_an_end_of_stream_ends_the_dial_at_once(make, autojump_clock, answer, text):
    """trio-websocket alone would wait for the timeout here."""
    error, took = await dial_against(make, answering(answer))

    assert took == 0
    assert text in str(error)


async def test_a_dead_stream_ends_the_dial_at_once(make, autojump_clock):
    """A request that cannot even be written is the same failure, with the cause kept."""
    near, far = trio.testing.memory_stream_pair()
    await far.aclose()
    async with trio.open_nursery() as nursery:
        with pytest.raises(ConnectError, match="instead of answering") as caught:
            await make(opener(near)).connect(nursery, endpoint(), [])

    assert isinstance(caught.value.__cause__, trio.BrokenResourceError)
    assert trio.current_time() == pytest.approx(0, abs=1)


async def test_an_extension_nobody_asked_for_is_refused(make, autojump_clock):
    """A server that switches compression on unasked gets no wire whose frames nobody can read."""

    async def script(stream: trio.abc.Stream) -> None:
        request = await read_request(stream)
        await stream.send_all(
            switching_protocols(request, b"Sec-WebSocket-Extensions: permessage-deflate")
            + frame(TEXT, b"\x00", rsv1=True)
        )
        await trio.sleep_forever()

    error, took = await dial_against(make, script)

    assert took == 0
    assert "not a WebSocket handshake" in str(error)


@pytest.mark.parametrize("then_close", [True, False])
@pytest.mark.parametrize(
    ("status", "header", "body"),
    [
        (401, "WWW-Authenticate: Bearer", b""),
        (403, "Content-Type: text/html", b"<html>no</html>"),
        (404, "X: y", b"nothing"),
        (426, "Upgrade: h2c", b""),
        (429, "Retry-After: 7", b'{"error": {}}'),
        (500, "X: y", b""),
        (503, "Retry-After: Wed, 21 Oct 2099 07:28:00 GMT", b""),
        (307, "Location: wss://elsewhere/", b""),
        (200, "Content-Type: text/plain", b"hello"),
    ],
)
async def test_a_refusal_is_reported(make, autojump_clock, status, header, body, then_close):
    """Status, headers and body of the answer are there, and one request was all that went out."""
    answer = http_answer(status, header, f"Content-Length: {len(body)}", body=body)
    error, took = await dial_against(make, answering(answer, then_close=then_close))

    assert took == 0
    assert (status, body) == (error.status, error.body)
    name, _, value = header.partition(": ")
    assert (name.lower(), value) in error.headers
    assert f"the server refused the WebSocket upgrade with status {status}" == str(error)


async def test_early_hints_before_a_refusal_are_skipped(make, autojump_clock):
    """An interim answer is not the answer."""
    error, _ = await dial_against(
        make, answering(b"HTTP/1.1 100 Continue\r\n\r\n" + http_answer(403, "Content-Length: 0"))
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
async def test_a_refusal_counts_even_if_its_body_does_not_end_well(make, autojump_clock, answer, body):
    """The status is the news; trio-websocket alone would wait for a proper end of the body."""
    error, took = await dial_against(make, answering(answer))

    assert (403, body, 0) == (error.status, error.body, took)


async def test_an_endless_refusal_is_bounded(make, autojump_clock):
    """A body without end is cut at MAX_REJECT_BODY, at once."""

    async def script(stream: trio.abc.Stream) -> None:
        await read_request(stream)
        await stream.send_all(http_answer(429, "Retry-After: 1"))
        await send_until_hung_up(stream, b"x" * 1000)

    error, took = await dial_against(make, script)

    assert (error.status, len(error.body), took) == (429, MAX_REJECT_BODY, 0)


async def test_a_slow_refusal_is_still_a_refusal(make, autojump_clock):
    """When time is up and only the body is missing, the status is reported, not the time."""

    async def script(stream: trio.abc.Stream) -> None:
        await read_request(stream)
        await stream.send_all(http_answer(401, "Content-Length: 99"))
        while True:
            await trio.sleep(1.5)  # never at the same time as the deadline
            await stream.send_all(b".")

    error, took = await dial_against(make, script)

    assert (error.status, error.timed_out) == (401, False)
    assert took == pytest.approx(10)


async def test_a_silent_server_times_out_in_the_upgrade(make, autojump_clock):
    """connect_timeout covers the upgrade, and the error says so."""
    error, took = await dial_against(make, answering(b"", then_close=False), endpoint(connect_timeout=3))

    assert (error.timed_out, error.status) == (True, None)
    assert took == pytest.approx(3)
    assert "connect_timeout is 3 s" in str(error)


async def test_an_opener_that_hangs_times_out(make, autojump_clock):
    """connect_timeout covers the opener too, whoever wrote it."""

    async def hang(to: Endpoint) -> trio.abc.Stream:
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        with pytest.raises(ConnectError) as caught:
            await make(hang).connect(nursery, endpoint(), [])

    assert (caught.value.phase, caught.value.timed_out) == ("tcp", True)


async def test_a_nursery_that_is_closed_leaves_no_stream_open(make):
    """Even a caller's mistake does not leak a socket."""
    near, far = trio.testing.memory_stream_pair()
    recorded = RecordingStream(near)
    async with trio.open_nursery() as nursery:
        pass
    async with trio.open_nursery() as server:
        server.start_soon(serve_for_ever, far)
        with pytest.raises(RuntimeError, match="closed"):
            await make(opener(recorded)).connect(nursery, endpoint(), [])
        server.cancel_scope.cancel()

    assert recorded.closed


async def test_cancelling_a_dial_at_any_step_closes_its_stream(make):
    """However far the dial came, cancelling it leaves neither stream nor task behind."""
    outcomes: set[str] = set()
    for steps in range(40):
        near, far = trio.testing.memory_stream_pair()
        recorded = RecordingStream(near)

        async def dial(recorded: RecordingStream = recorded) -> None:
            async with trio.open_nursery() as own:
                try:
                    wire = await make(opener(recorded)).connect(own, endpoint(), [])
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
async def test_a_header_that_cannot_be_sent_is_refused_without_its_value(make, name, value):
    """A bad key is the caller's error, raised before anything is opened, and never printed."""

    async def never(to: Endpoint) -> trio.abc.Stream:
        raise AssertionError("dialled")

    async with trio.open_nursery() as nursery:
        with pytest.raises(ValueError, match="header") as caught:
            await make(never).connect(nursery, endpoint(), [(name, value)])

    assert CANARY not in str(caught.value)


async def test_a_close_right_behind_the_101_is_seen(make):
    """A server may switch protocols only to say no; the wire says why."""
    async with scripted(make, first=frame(CLOSE, (1013).to_bytes(2, "big") + b"busy")) as (wire, _):
        error = await closing(wire.receive)

        assert (error.code, error.reason) == (1013, "busy")


async def test_messages_right_behind_the_101_survive_an_end_of_stream(make):
    """What came before the end is delivered, even if all of it came with the answer."""
    async with scripted(make, first=frame(TEXT, b"one") + frame(TEXT, b"two")) as (wire, server):
        await server.aclose()

        messages = list(await wire.receive())
        if len(messages) < 2:  # one per batch
            messages += await wire.receive()
        assert messages == ["one", "two"]
        assert (await closing(wire.receive)).code == 1006


async def test_credentials_are_forgotten_after_the_upgrade(make):
    """Nothing that lives as long as the wire still holds the key."""
    near, far = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            await far.send_all(switching_protocols(await read_request(far)))

        nursery.start_soon(serve)
        connector = make(opener(near))
        wire = await connector.connect(nursery, endpoint(), [("Authorization", CANARY.title())])
        await trio.testing.wait_all_tasks_blocked()

        roots: list[object] = [wire, *nursery.child_tasks]
        assert not any(CANARY.title().encode() in string for string in reachable(roots))
        assert CANARY.title() not in repr(wire) + repr(connector)
        await wire.abort()


# An open wire


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 1012, 1013, 3000, 4999])
async def test_close_codes_come_through(make, code):
    """The peer's code and reason are facts, reported as they came."""
    reason = "r" * 123
    async with scripted(make, first=frame(CLOSE, code.to_bytes(2, "big") + reason.encode())) as (wire, _):
        error = await closing(wire.receive)

        assert (code, reason, True) == (error.code, error.reason, error.by_peer)
        assert type(error.code) is int


async def test_a_close_frame_without_a_code_is_1005(make):
    """No code is a code of its own (RFC 6455 section 7.1.5)."""
    async with scripted(make, first=frame(CLOSE)) as (wire, _):
        error = await closing(wire.receive)

        assert (1005, int) == (error.code, type(error.code))


async def test_an_end_without_a_close_frame_is_1006(make):
    """Everything that waits for the peer learns of it: receive, ping and send."""
    async with scripted(make) as (wire, server), trio.open_nursery() as nursery:
        nursery.start_soon(closing, wire.ping)
        await trio.testing.wait_all_tasks_blocked()
        await server.aclose()
        assert (await closing(wire.receive)).code == 1006
        assert (await closing(lambda: wire.send(b"x"))).code == 1006
        assert repr(wire).endswith("Wire closed>")


async def test_a_blocked_send_ends_when_the_reader_does(make):
    """A peer that stops reading and then ends its stream does not keep a sender for ever."""
    async with scripted(make, near_end=FullStream) as (wire, server), trio.open_nursery() as nursery:
        nursery.start_soon(closing, lambda: wire.send(b"x" * 1000))
        await trio.testing.wait_all_tasks_blocked()
        assert isinstance(server, trio.StapledStream)
        await server.send_stream.aclose()
        assert (await closing(wire.receive)).code == 1006


@pytest.mark.parametrize("operation", ["send", "ping", "receive", "aclose"])
async def test_whatever_the_stream_raises_is_the_end_of_the_wire_only(make, operation):
    """No exception of a stream or of trio-websocket reaches a caller or the nursery as it is."""
    async with scripted(make, near_end=RudeStream) as (wire, server):
        if operation == "aclose":
            await wire.aclose()
        elif operation == "receive":
            await server.send_all(frame(TEXT, b"x"))
            assert (await closing(wire.receive)).code == 1006
        else:
            error = await closing(wire.ping if operation == "ping" else lambda: wire.send(b"x"))
            assert isinstance(error.__cause__, OSError)


async def test_abort_waits_for_nobody_and_is_never_cut_short(make, autojump_clock):
    """The stream is closed at once even if its own close would wait; being cancelled changes nothing."""
    async with scripted(make, near_end=PoliteStream) as (wire, _):
        with trio.fail_after(1):
            await wire.abort()
    async with scripted(make, near_end=PoliteStream) as (wire, _):
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
async def test_a_broken_frame_closes_the_wire(make, harm, code):
    """The wire ends after what was good, with the code that names the harm, and nothing else is touched."""
    async with scripted(make, first=frame(TEXT, b"good") + harm) as (wire, _):
        assert list(await wire.receive()) == ["good"]
        assert (await closing(wire.receive)).code == code


async def test_a_binary_message_closes_the_wire(make):
    """Nothing on this protocol is binary: 1003, and nothing behind it is delivered."""
    async with scripted(make, first=frame(TEXT, b"a") + frame(BINARY, b"b") + frame(TEXT, b"c")) as (
        wire,
        server,
    ):
        assert list(await wire.receive()) == ["a"]
        for _ in range(2):
            error = await closing(wire.receive)
            assert (error.code, error.reason) == (1003, "binary message")
        with trio.fail_after(1):
            while await server.receive_some():
                pass


async def test_an_oversized_message_closes_the_wire(make):
    """More than max_message_size is 1009."""
    async with scripted(make, to=endpoint(max_message_size=10)) as (wire, server):
        await server.send_all(frame(TEXT, b"x" * 10))
        assert list(await wire.receive()) == ["x" * 10]
        await server.send_all(frame(TEXT, b"x" * 11) + frame(CLOSE, (1009).to_bytes(2, "big")))

        error = await closing(wire.receive)
        assert (1009, False) == (error.code, error.by_peer)


async def test_a_refusal_does_not_wait_for_a_peer_that_does_not_read(make, autojump_clock):
    """Whoever receives hears of it at once, though the goodbye cannot be said."""
    async with scripted(make, near_end=FullStream) as (wire, server):
        began = trio.current_time()
        await server.send_all(frame(TEXT, b"ok") + frame(3)[:1])
        assert list(await wire.receive()) == ["ok"]

        assert (await closing(wire.receive)).code == 1002
        assert trio.current_time() == began


@pytest.fixture
def few_fragments(monkeypatch: pytest.MonkeyPatch) -> int:
    """A small bound instead of MAX_FRAGMENTS, so that it is reached soon."""
    monkeypatch.setattr(heads, "MAX_FRAGMENTS", 64)
    return 64


async def test_endless_empty_fragments_close_the_wire(make, few_fragments):
    """Fragments that add no size still have an end, 1009, whatever came before."""
    async with scripted(make) as (wire, server):
        for _ in range(3 * few_fragments):
            await server.send_all(frame(TEXT, b"ok"))
            assert list(await wire.receive()) == ["ok"]
        async with trio.open_nursery() as nursery:

            async def flood() -> None:
                await server.send_all(frame(TEXT, fin=False))
                sent = await send_until_hung_up(server, frame(0, fin=False) * 8)
                assert sent * 8 < 2 * few_fragments

            nursery.start_soon(flood)
            error = await closing(wire.receive)
        reason = f"a message of more than {few_fragments} fragments"
        assert (1009, reason, False) == (error.code, error.reason, error.by_peer)


async def test_messages_in_small_pieces_are_whole(make, few_fragments):
    """A message in many reads is no flood, nor is one of many fragments with control frames between."""
    dribbled = frame(TEXT, b"x" * 3 * few_fragments)
    middle = b"".join([frame(0, b"y", fin=False) + frame(PING)] * (few_fragments - 2))
    async with scripted(make) as (wire, server), trio.open_nursery() as nursery:

        async def serve() -> None:
            for byte in dribbled:
                await server.send_all(bytes([byte]))
                await trio.testing.wait_all_tasks_blocked()
            for _ in range(2):
                await server.send_all(frame(TEXT, b"y", fin=False) + middle)
                await trio.testing.wait_all_tasks_blocked()
                await server.send_all(frame(0, b"y"))

        nursery.start_soon(serve)
        assert list(await wire.receive()) == ["x" * 3 * few_fragments]
        for _ in range(2):
            assert list(await wire.receive()) == ["y" * few_fragments]


async def test_pieces_of_a_message_are_signs_of_life(make, autojump_clock):
    """Bytes count, not messages: a large one may take minutes."""
    async with scripted(make) as (wire, server), trio.open_nursery() as nursery:
        nursery.start_soon(wire.receive)
        for byte in frame(TEXT, b"xy"):
            await trio.sleep(10)
            await server.send_all(bytes([byte]))
            await trio.testing.wait_all_tasks_blocked()
            assert wire.heard_at == pytest.approx(trio.current_time(), abs=1e-6)


@pytest.mark.parametrize("operation", ["send", "ping"])
async def test_nothing_is_written_after_a_write_that_was_cut_short(make, autojump_clock, operation):
    """The peer would take the next bytes for the rest of the frame: no send, ping, pong or close."""
    async with scripted(make, near_end=FullStream) as (wire, server):
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


async def test_aclose_waits_close_timeout_and_no_longer(make, autojump_clock):
    """A peer that reads but never answers costs close_timeout; then the stream is dropped."""
    async with scripted(make, to=endpoint(close_timeout=2)) as (wire, _):
        began = trio.current_time()
        await wire.aclose()

        assert trio.current_time() - began == pytest.approx(2)


async def test_aclose_does_not_wait_for_a_blocked_write(make, autojump_clock):
    """The goodbye itself may block; close_timeout covers that too."""
    async with scripted(make, near_end=FullStream) as (wire, _):
        began = trio.current_time()
        await wire.aclose()

        assert trio.current_time() - began == pytest.approx(0.2)


async def test_aclose_after_the_peers_close_drops_the_stream(make):
    """A peer that said goodbye but keeps its stream open does not keep ours."""
    async with scripted(make) as (wire, server):
        assert repr(wire).endswith("Wire open>")
        await server.send_all(frame(CLOSE))
        await closing(wire.receive)
        assert repr(wire).endswith("Wire closed>")
        assert (await server.receive_some())[0] == 0x80 | CLOSE
        await wire.aclose()
        with trio.fail_after(1):
            assert await server.receive_some() == b""


async def test_a_cancelled_nursery_ends_everything(make):
    """Cancelling the wire's nursery closes the stream, and callers elsewhere do not hang."""
    near, far = trio.testing.memory_stream_pair()
    recorded = RecordingStream(near)
    async with trio.open_nursery() as callers:
        callers.start_soon(serve_for_ever, far)
        async with trio.open_nursery() as nursery:
            wire = await make(opener(recorded)).connect(nursery, endpoint(), [])
            callers.start_soon(closing, wire.receive)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert recorded.closed
        assert (await closing(wire.receive)).code == 1006
        await closing(lambda: wire.send(b"x"))
        await closing(wire.ping)
        callers.cancel_scope.cancel()


async def test_a_message_that_is_not_utf_8_is_the_callers_error(make):
    """Nothing is sent, and the wire stays good."""
    async with connected(*memory_ends(make), endpoint()) as (wire, peer):
        with pytest.raises(UnicodeDecodeError):
            await wire.send(b"\xff")
        await wire.send(b"fine")
        assert await peer.receive() == "fine"


async def test_a_large_limit_lets_a_large_message_through(make):
    """The limit is the endpoint's, not the library's default of 1 MiB."""
    near, far = trio.testing.memory_stream_pair()
    to = endpoint(max_message_size=4 * MAX_MESSAGE_SIZE)
    async with connected(make(opener(near)), far, to) as (wire, peer):
        await peer.send("x" * 3 * MAX_MESSAGE_SIZE)
        assert len((await wire.receive())[0]) == 3 * MAX_MESSAGE_SIZE


@pytest.mark.parametrize("size", [1, 1 << 16, (1 << 18) - 1, 1 << 18, (1 << 18) + 1, (1 << 20) + 3])
async def test_a_message_of_any_size_arrives_as_it_was(make, size: int):
    """However many pieces it leaves in."""
    near, far = trio.testing.memory_stream_pair()
    message = bytes(33 + number % 89 for number in range(size))
    async with connected(make(opener(near)), far, endpoint()) as (wire, peer), trio.open_nursery() as nursery:
        nursery.start_soon(wire.send, message)
        assert message.decode() == await peer.receive()


# Over real sockets


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A certificate authority of this run's own."""
    return trustme.CA()


@pytest.mark.network
@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
async def test_keeps_the_contract_over_loopback(make, authority, secure):
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
        async with connected(make(), far, to) as pair:
            yield pair

    async with listener:
        await check_wire(make_pair)


@pytest.mark.network
async def test_a_reset_during_the_upgrade_ends_the_dial_at_once(make):
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
            await make().connect(nursery, to, [])

    assert caught.value.phase == "upgrade"
    assert isinstance(caught.value.__cause__, trio.BrokenResourceError)
    assert isinstance(caught.value.__cause__.__cause__, ConnectionResetError)


# Subprotocols


async def test_subprotocols_are_offered(make):
    """In their order, in one header, beside the caller's; without any there is no such header."""
    for offered in ((), ("realtime", "openai-beta.v1")):
        heads: list[bytes] = []

        async def script(stream: trio.abc.Stream, heads: list[bytes] = heads) -> None:
            heads.append(await read_request(stream))
            await stream.aclose()

        await dial_against(make, script, endpoint(subprotocols=offered))
        lines = [
            line for line in heads[0].lower().split(b"\r\n") if line.startswith(b"sec-websocket-protocol")
        ]
        assert lines == ([b"sec-websocket-protocol: realtime, openai-beta.v1"] if offered else [])


@pytest.mark.parametrize("answer", [b"", b"Sec-WebSocket-Protocol: b"])
async def test_a_server_takes_one_of_them_or_none(make, answer, autojump_clock):
    """Both are proper answers."""
    async with scripted(make, to=endpoint(subprotocols=("a", "b")), extra=answer) as (wire, far):
        await far.send_all(frame(TEXT, b"hi"))
        assert ["hi"] == [str(message) for message in await wire.receive()]


@pytest.mark.parametrize("offered", [(), ("a", "b")])
async def test_a_subprotocol_that_was_not_offered_is_no_answer(make, offered, autojump_clock):
    """RFC 6455 section 4.1 says so."""

    async def script(stream: trio.abc.Stream) -> None:
        request = await read_request(stream)
        await stream.send_all(switching_protocols(request, b"Sec-WebSocket-Protocol: c"))
        await trio.sleep_forever()

    error, took = await dial_against(make, script, endpoint(subprotocols=offered))

    assert ("not a WebSocket handshake" in str(error), 0) == (True, took)
