"""One HTTP request beside the WebSockets: what is sent, and every way in which an answer may come."""

from __future__ import annotations

import attrs
import outcome
import pytest
import trio
import trio.testing

from tests.wire.peer import endpoint
from wspool.wire import http
from wspool.wire.answer import Answer
from wspool.wire.wire import ConnectError, Endpoint, WireClosedError

LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nX-A: b\r\n\r\n" + b'{"a": 12}'
CHUNKED = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{"a"\r\n5\r\n: 12}\r\n0\r\n\r\n'
UNTIL_THE_END = b'HTTP/1.1 200 OK\r\n\r\n{"a": 12}'
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n" + LENGTH


async def ask(
    pieces: list[bytes], *, ends: bool = True, headers: tuple[tuple[str, str], ...] = (), limit: int = 2**20
) -> tuple[Answer, bytes]:
    """Post to a server that answers with *pieces*; return the answer and what the server received."""
    received = bytearray()
    near, far = trio.testing.memory_stream_pair()

    async def serve() -> None:
        while b'{"model": "m"}' not in received:
            received.extend(await far.receive_some())
        for piece in pieces:
            await far.send_all(piece)
        if ends:
            await far.send_eof()

    async def open_stream(_: Endpoint) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        return near

    where = endpoint(max_message_size=limit)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        result = await outcome.acapture(http.post, where, "/v1/x?y", headers, b'{"model": "m"}', open_stream)
        nursery.cancel_scope.cancel()
    with pytest.raises(trio.ClosedResourceError):
        await near.send_all(b"x")  # nothing is left open
    return result.unwrap(), bytes(received)


@pytest.mark.parametrize("whole", [LENGTH, CHUNKED, INTERIM])
@pytest.mark.parametrize("ends", [True, False])
async def test_an_answer_is_whole_without_an_end_of_the_stream(
    autojump_clock, whole: bytes, ends: bool
) -> None:
    """However it is framed, and however it is cut into reads."""
    for size in (1, 7, len(whole)):
        pieces = [whole[start : start + size] for start in range(0, len(whole), size)]
        answer, _ = await ask(pieces, ends=ends)

        assert (200, b'{"a": 12}', True) == (answer.status, answer.body, answer.whole)


async def test_an_answer_without_a_length_ends_with_the_stream(autojump_clock) -> None:
    """As in HTTP/1.0."""
    answer, _ = await ask([UNTIL_THE_END])

    assert b'{"a": 12}' == answer.body


async def test_the_request_is_one_of_http(autojump_clock) -> None:
    """Method, path, length, and the headers that were given."""
    _, received = await ask([LENGTH], headers=(("Authorization", "Bearer k"),))
    head, _, body = received.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")

    assert b"POST /v1/x?y HTTP/1.1" == lines[0]
    assert {b"Host: localhost:1234", b"Content-Length: 14", b"Authorization: Bearer k"} <= set(lines)
    assert b'{"model": "m"}' == body


@pytest.mark.parametrize(
    ("pieces", "why"),
    [
        ([LENGTH[:-1]], "cut short"),
        ([CHUNKED[:-5]], "cut short"),
        ([CHUNKED[:60]], "cut short"),
        ([b""], "cut short"),
        ([b"SSH-2.0-OpenSSH_9.2\r\n"], "not begin like HTTP"),
        ([b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 2000], "more than 1000 bytes"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n" + b"x" * 2000], "more than 1000 bytes"),
    ],
)
async def test_what_is_no_whole_answer_is_told(autojump_clock, pieces: list[bytes], why: str) -> None:
    """It was sent, and what became of it nobody knows."""
    with pytest.raises(WireClosedError, match=why):
        await ask(pieces, limit=1000)


async def test_a_broken_stream_is_told(autojump_clock) -> None:
    """A reset in the middle of the request or of the answer."""

    async def open_stream(_: Endpoint) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        near, far = trio.testing.memory_stream_pair()
        await far.aclose()
        return near

    with pytest.raises(WireClosedError):
        await http.post(endpoint(), "/", (), b"{}", open_stream)


async def test_a_dial_has_a_limit_and_an_answer_a_longer_one(autojump_clock) -> None:
    """A model may take minutes to read a long history; a dial may not."""

    async def never(_: Endpoint) -> trio.abc.Stream:
        await trio.sleep_forever()
        raise AssertionError

    with pytest.raises(ConnectError, match="connect_timeout"):
        await http.post(endpoint(), "/", (), b"{}", never)
    assert 10 == trio.current_time()

    near, far = trio.testing.memory_stream_pair()

    async def open_stream(_: Endpoint) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        return near

    async def slow() -> None:
        await far.receive_some()
        await trio.sleep(600)
        await far.send_all(LENGTH)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(slow)
        answer = await http.post(endpoint(), "/", (), b"{}", open_stream)
    assert 200 == answer.status
    assert 610 == trio.current_time()


async def test_a_header_cannot_smuggle_another(autojump_clock) -> None:
    """And the error does not hold the value, which may be a credential."""
    with pytest.raises(ValueError, match="Authorization") as caught:
        await http.post(attrs.evolve(endpoint()), "/", (("Authorization", "a\r\nB: secret"),), b"{}")

    assert "secret" not in str(caught.value)
