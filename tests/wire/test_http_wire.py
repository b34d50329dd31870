"""HTTP as a wire: what is sent, what becomes of each answer, and what it keeps of the seam's promises."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import h11
import pytest
import trio
import trio.testing
from hypothesis import given, strategies as st

from tests.wire.peer import endpoint
from wspool.core.frames import read_object
from wspool.wire.http_wire import HttpConnector, HttpWire
from wspool.wire.wire import ConnectError, Endpoint, Stateless, WireClosedError

CREATE = b'{"type":"response.create","model":"m","input":"hi"}'
CREATED = b'{"type":"response.created","response":{"id":"r"}}'
COMPLETED = b'{"type":"response.completed","response":{"id":"r"}}'
SSE = [("Content-Type", "text/event-stream; charset=utf-8")]
JSON = [("Content-Type", "application/json")]


class FarEnd:
    """A server that says what the test says."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.http = h11.Connection(h11.SERVER)

    async def request(self) -> tuple[h11.Request, bytes]:
        """Return the next request and its body."""
        request: h11.Request | None = None
        body = bytearray()
        while True:
            event = self.http.next_event()
            if event is h11.NEED_DATA:
                self.http.receive_data(bytes(await self.stream.receive_some()))
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert request is not None
                return request, bytes(body)

    async def say(self, *events: Any) -> None:
        """Send *events* of h11."""
        for event in events:
            if data := self.http.send(event):
                await self.stream.send_all(data)

    async def stream_out(self, *events: bytes, ends: bool = True, close: bool = False) -> None:
        """Answer with an event stream."""
        headers = [*SSE, ("Connection", "close")] if close else SSE
        await self.say(h11.Response(status_code=200, headers=headers))
        for event in events:
            await self.say(h11.Data(data=b"data: " + event + b"\n\n"))
        if ends:
            await self.say(h11.EndOfMessage())
            if not close:
                self.http.start_next_cycle()

    async def answer(self, status: int, body: bytes, headers: Sequence[tuple[str, str]] = JSON) -> None:
        """Answer with a whole body."""
        length = ("Content-Length", str(len(body)))
        await self.say(
            h11.Response(status_code=status, headers=[*headers, length]),
            h11.Data(data=body),
            h11.EndOfMessage(),
        )
        self.http.start_next_cycle()


@asynccontextmanager
async def pair(**limits: Any) -> AsyncGenerator[tuple[HttpWire, FarEnd], None]:
    """A wire, and the server at its other end."""
    near, far = trio.testing.memory_stream_pair()

    async def open_stream(_: Endpoint) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        return near

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            connector = HttpConnector(read_object, open_stream)
            wire = await connector.connect(nursery, endpoint(**limits), [("Authorization", "Bearer k")])
            yield wire, FarEnd(far)
            await wire.abort()


async def collect(wire: HttpWire, count: int) -> list[dict[str, Any]]:
    """The next messages, decoded."""
    found: list[dict[str, Any]] = []
    while len(found) < count:
        found += [json.loads(message) for message in await wire.receive()]
    assert len(found) == count
    return found


async def test_a_request_is_a_post_of_the_same_body(autojump_clock) -> None:
    async with pair() as (wire, far):
        await wire.send(CREATE)
        request, body = await far.request()
        assert (request.method, request.target) == (b"POST", b"/v1/responses")
        assert json.loads(body) == {"model": "m", "input": "hi", "stream": True}
        headers = dict(request.headers)
        assert headers[b"authorization"] == b"Bearer k"
        assert headers[b"accept"] == b"text/event-stream"
        assert headers[b"accept-encoding"] == b"identity"
        assert b"connection" not in headers


async def test_one_connection_carries_one_request_after_the_other(autojump_clock) -> None:
    async with pair() as (wire, far):
        for _ in range(3):
            await wire.send(CREATE)
            await far.request()
            await far.stream_out(CREATED, COMPLETED)
            kinds = [event["type"] for event in await collect(wire, 2)]
            assert kinds == ["response.created", "response.completed"]
        assert isinstance(wire, Stateless)


async def test_the_next_request_waits_for_the_end_of_the_answer(autojump_clock) -> None:
    async with pair() as (wire, far), trio.open_nursery() as nursery:
        await wire.send(CREATE)
        await far.request()
        await far.stream_out(COMPLETED, ends=False)
        await collect(wire, 1)
        nursery.start_soon(wire.send, CREATE)
        nursery.start_soon(collect, wire, 1)
        await trio.testing.wait_all_tasks_blocked()
        await far.say(h11.EndOfMessage())
        far.http.start_next_cycle()
        await far.request()
        await far.stream_out(COMPLETED)


async def test_an_end_that_does_not_come_is_waited_for_for_a_second(autojump_clock) -> None:
    """And then the next request is for another connection: nothing of it was sent."""
    async with pair() as (wire, far):
        await wire.send(CREATE)
        await far.request()
        await far.stream_out(COMPLETED, ends=False)
        await collect(wire, 1)
        with pytest.raises(WireClosedError, match="goes on and on"):
            await wire.ready()
        assert trio.current_time() == 1.0


@pytest.mark.parametrize("kind", [[], [("Content-Type", "text/plain")], JSON])
async def test_what_an_answer_is_its_first_byte_says(autojump_clock, kind: list[tuple[str, str]]) -> None:
    """Gateways call event streams whatever they like."""
    async with pair() as (wire, far):
        await wire.send(CREATE)
        await far.request()
        await far.answer(200, b"\n\ndata: %b\n\ndata: %b\n\n" % (CREATED, COMPLETED), kind)
        assert [json.loads(CREATED), json.loads(COMPLETED)] == await collect(wire, 2)
        await wire.send(CREATE)
        await far.request()
        await far.answer(200, b' {"id":"r","status":"completed"}', SSE)
        assert "response.completed" == (await collect(wire, 2))[1]["type"]


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\n\ndata: [DONE]"])
@pytest.mark.parametrize("name", [b"", b"event: response.completed\n"])
async def test_a_last_event_that_only_lacks_its_end_is_one(autojump_clock, name: bytes, end: bytes) -> None:
    """An answer that was paid for is not lost for an empty line; what is cut in two is no event."""
    text = b"data: %b\n\n%bdata: %b" % (CREATED, name, COMPLETED)
    async with pair() as (wire, far):
        await wire.send(CREATE)
        await far.request()
        await far.answer(200, text + end, SSE)
        assert [json.loads(CREATED), json.loads(COMPLETED)] == await collect(wire, 2)
        await wire.send(CREATE)
        await far.request()
        await far.answer(200, text[:-1], SSE)
        await collect(wire, 1)
        with pytest.raises(WireClosedError, match="ended before its response"):
            await wire.receive()


async def test_what_is_compressed_is_said_to_be(autojump_clock) -> None:
    async with pair() as (wire, far):
        for status in (503, 200):
            await wire.send(CREATE)
            await far.request()
            await far.answer(status, b"\x1f\x8b\x08\x00", [*SSE, ("Content-Encoding", "gzip")])
            if status == 503:
                text = (await collect(wire, 1))[0]["error"]["message"]
                assert text == "The endpoint answered 503 with a compressed text."
        with pytest.raises(WireClosedError, match="is compressed, which was not asked for"):
            await wire.receive()


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_however_the_answer_is_cut(autojump_clock, size: int) -> None:
    answer = (
        b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )
    event = b": ping\r\n\r\nevent: response.completed\r\ndata: " + COMPLETED + b"\r\n\r\ndata: [DONE]\r\n\r\n"
    text = answer + b"%x\r\n%b\r\n0\r\n\r\n" % (len(event), event)
    async with pair() as (wire, far):
        await wire.send(CREATE)
        await far.request()
        async with trio.open_nursery() as nursery:

            async def say() -> None:
                for at in range(0, len(text), size):
                    await far.stream.send_all(text[at : at + size])

            nursery.start_soon(say)
            assert await collect(wire, 1) == [json.loads(COMPLETED)]
        await wire.ping()


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (
            429,
            b'{"error":{"code":"rate_limit_exceeded","message":"slow"}}',
            {"code": "rate_limit_exceeded", "message": "slow"},
        ),
        (400, b'{"error":"no"}', "no"),
        (503, b"<html><title>busy</title></html>", {"message": "The endpoint answered 503 with a page."}),
        (502, b"", {"message": "The endpoint answered 502, and nothing else."}),
        (502, b" \r\n", {"message": "The endpoint answered 502, and nothing else."}),
        (
            307,
            b"",
            {"message": "The endpoint answered 307; redirects are never followed: use the final URL."},
        ),
        (500, b"oops", {"message": "oops"}),
        (404, b"", {"message": "The endpoint answered 404, and nothing else."}),
    ],
)
async def test_a_refusal_is_the_error_message_of_a_websocket(
    autojump_clock, status: int, body: bytes, error: object
) -> None:
    async with pair() as (wire, far):
        await wire.send(CREATE)
        await far.request()
        await far.answer(status, body, [*JSON, ("Retry-After", "7")])
        (event,) = await collect(wire, 1)
        assert (event["type"], event["status"], event["error"]) == ("error", status, error)
        assert event["headers"]["retry-after"] == "7"
        await wire.send(CREATE)  # the connection goes on
        await far.request()


async def test_after_a_refused_credential_the_next_dial_asks_for_it_anew(autojump_clock) -> None:
    async with pair() as (wire, far):
        await wire.send(CREATE)
        await far.request()
        await far.answer(401, b'{"error":{"code":"invalid_api_key"}}')
        assert (await collect(wire, 1))[0]["status"] == 401
        with pytest.raises(WireClosedError) as caught:
            await wire.receive()
        assert caught.value.code == 1000


@pytest.mark.parametrize("status", ["completed", "incomplete", "failed"])
async def test_an_answer_in_one_piece_is_a_response_all_the_same(autojump_clock, status: str) -> None:
    response = {"id": "r", "status": status, "output": []}
    async with pair() as (wire, far):
        await wire.send(CREATE)
        await far.request()
        await far.answer(200, json.dumps(response).encode())
        first, last = await collect(wire, 2)
        assert (first["type"], first["response"]["id"]) == ("response.created", "r")
        assert last == {"type": f"response.{status}", "response": response}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
async def test_an_answer_over_many_lines_is_an_event_on_one(autojump_clock, encoding: str) -> None:
    """Some clients of a stream read no other. A byte order mark is no part of it."""
    response = {"id": "r", "status": "completed", "output": [{"text": "one\ntwo"}]}
    async with pair() as (wire, far):
        await wire.send(CREATE)
        await far.request()
        await far.answer(200, json.dumps(response, indent=2).replace("\n", "\r\n").encode(encoding))
        first, last = await wire.receive()
        assert not {*b"\r\n"} & {*first, *last}
        assert json.loads(last)["response"] == response


async def test_a_close_after_the_answer_is_a_goodbye(autojump_clock) -> None:
    async with pair() as (wire, far):
        await wire.send(CREATE)
        await far.request()
        await far.stream_out(COMPLETED, close=True)
        await collect(wire, 1)
        with pytest.raises(WireClosedError) as caught:
            await wire.receive()
        assert caught.value.code == 1000


def cut_short(far: FarEnd) -> Any:
    return far.stream_out(CREATED, ends=False)


def ends_early(far: FarEnd) -> Any:
    return far.stream_out(CREATED)


def page(far: FarEnd) -> Any:
    return far.answer(200, b"<html>", [("Content-Type", "text/html")])


def no_http(far: FarEnd) -> Any:
    return far.stream.send_all(b"SSH-2.0\r\n\r\n")


def endless_hints(far: FarEnd) -> Any:
    return far.stream.send_all(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100)


def endless_head(far: FarEnd) -> Any:
    return far.stream.send_all(b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 100_000)


def long_event(far: FarEnd) -> Any:
    return far.stream_out(b"x" * 5000, ends=False)


def long_body(far: FarEnd) -> Any:
    return far.answer(200, b"x" * 5000)


@pytest.mark.parametrize(
    "bad", [cut_short, ends_early, page, no_http, endless_hints, endless_head, long_event, long_body]
)
async def test_what_is_no_whole_answer_ends_the_wire(autojump_clock, bad: Callable[[FarEnd], Any]) -> None:
    async with pair(max_message_size=2000) as (wire, far), trio.open_nursery() as nursery:
        await wire.send(CREATE)
        await far.request()

        async def say() -> None:
            try:
                await bad(far)
            except trio.BrokenResourceError:
                return  # the wire has had enough
            await far.stream.aclose()

        nursery.start_soon(say)
        with pytest.raises(WireClosedError):
            await collect_all(wire)
        for operation in (wire.receive, wire.ping, lambda: wire.send(CREATE)):
            with pytest.raises(WireClosedError) as caught:
                await operation()
        assert caught.value.code in (1006, 1009)
        await wire.abort()


async def test_an_idle_connection_that_is_closed_is_noticed(autojump_clock) -> None:
    async with pair() as (wire, far), trio.open_nursery() as nursery:

        async def receive() -> None:
            with pytest.raises(WireClosedError):
                await wire.receive()

        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        await far.stream.aclose()


async def test_a_cancelled_send_ends_the_wire_and_a_cancelled_receive_does_not(autojump_clock) -> None:
    async with pair() as (wire, far):
        await wire.send(CREATE)
        await far.request()
        with trio.CancelScope() as scope:
            scope.cancel()
            await wire.receive()
        assert scope.cancelled_caught
        await far.stream_out(COMPLETED)
        await collect(wire, 1)
        with trio.CancelScope() as scope:
            scope.cancel()
            await wire.send(CREATE)
        with pytest.raises(WireClosedError):
            await wire.send(CREATE)


async def test_abort_wakes_everybody(autojump_clock) -> None:
    async with pair() as (wire, far), trio.open_nursery() as nursery:
        await wire.send(CREATE)
        await far.request()

        async def ends(operation: Callable[[], Any]) -> None:
            with pytest.raises(WireClosedError):
                await operation()

        nursery.start_soon(ends, wire.receive)
        nursery.start_soon(ends, lambda: wire.send(CREATE))
        await trio.testing.wait_all_tasks_blocked()
        await wire.aclose()
        await wire.abort()


async def test_every_operation_is_a_checkpoint(autojump_clock) -> None:
    async with pair() as (wire, far):
        with trio.testing.assert_checkpoints():
            await wire.send(CREATE)
        await far.request()
        await far.stream_out(COMPLETED)
        with trio.testing.assert_checkpoints():
            await wire.receive()
        with trio.testing.assert_checkpoints():
            await wire.ping()
        with trio.testing.assert_checkpoints():
            await wire.abort()


async def test_a_header_that_cannot_be_sent_is_refused_without_its_value() -> None:
    async with trio.open_nursery() as nursery:
        with pytest.raises(ConnectError) as caught:
            await HttpConnector(read_object).connect(nursery, endpoint(), [("X-Key", "secret\nvalue")])
    assert "X-Key" in str(caught.value)
    assert "secret" not in str(caught.value)


PARTS = [
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"Content-Type: text/event-stream\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Length: 5\r\n",
    b"\r\n",
    b"5\r\n",
    b"0\r\n\r\n",
    b"data: {}\n\n",
]


@given(st.lists(st.binary(max_size=60) | st.sampled_from(PARTS), max_size=20))
def test_whatever_comes_it_is_messages_or_the_end(pieces: list[bytes]) -> None:
    async def main() -> None:
        async with pair() as (wire, far), trio.open_nursery() as nursery:
            await wire.send(CREATE)
            await far.request()

            async def say() -> None:
                for piece in pieces:
                    await far.stream.send_all(piece)
                await far.stream.aclose()

            nursery.start_soon(say)
            with pytest.raises(WireClosedError):
                await collect_all(wire)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def collect_all(wire: HttpWire) -> None:
    """Receive to the end."""
    while True:
        assert await wire.receive()
