"""What is not for WebSocket passes to the provider over HTTP, as it is, both ways."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import h11
import pytest
import trio
import trio.testing

from tests.proxy.asking import KEY, Scene, scene
from tests.proxy.test_websocket import connected
from wspool.core.policy import UNKNOWN, PoolPolicy
from wspool.core.usage import Usage
from wspool.proxy.records.record import Records
from wspool.server import EchoModel, Rejection
from wspool.wire.wire import ConnectError


@attrs.define
class Peer:
    """An endpoint that speaks bytes: what it was sent, and what it says to that."""

    says: bytes
    heard: bytearray = attrs.field(factory=bytearray)
    gone: trio.Event = attrs.field(factory=trio.Event)
    holds: bool = False

    transport = "websocket"

    async def open_stream(self, endpoint: Any) -> trio.abc.Stream:
        near, far = trio.testing.memory_stream_pair()
        self._nursery.start_soon(self._serve, far)
        await trio.lowlevel.checkpoint()
        return near

    async def connect(self, *_: Any) -> Any:
        raise AssertionError("not dialled")

    _nursery: Any = None

    async def _serve(self, stream: trio.abc.Stream) -> None:
        http = h11.Connection(h11.SERVER)
        while True:
            try:
                event = http.next_event()
            except h11.RemoteProtocolError:
                return
            if event is h11.NEED_DATA:
                data = await stream.receive_some()
                self.heard += data
                http.receive_data(bytes(data))
            elif isinstance(event, h11.EndOfMessage):
                break
        await stream.send_all(self.says)
        if self.holds:
            while await stream.receive_some():
                pass
            self.gone.set()
        await stream.aclose()

    @property
    def head(self) -> h11.Request:
        http = h11.Connection(h11.SERVER)
        http.receive_data(bytes(self.heard))
        event = http.next_event()
        assert isinstance(event, h11.Request)
        return event

    @property
    def fields(self) -> dict[str, str]:
        return {name.decode(): value.decode("latin-1") for name, value in self.head.headers}


@asynccontextmanager
async def before(says: bytes, **options: Any) -> AsyncGenerator[tuple[Scene, Peer]]:
    """A proxy before an endpoint that speaks bytes."""
    async with trio.open_nursery() as nursery:
        peer = Peer(says)
        peer._nursery = nursery
        async with scene(EchoModel(), wire=peer, **options) as it:
            yield it, peer
        nursery.cancel_scope.cancel()


def answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


async def test_everything_else_is_answered_by_the_provider(autojump_clock) -> None:
    """Models, stored responses, compaction, counting: on one connection of the client's."""
    async with scene(EchoModel()) as it:
        client = await it.client()
        assert "list" == (await client.ask("GET", "/v1/models")).json["object"]
        assert "m" == (await client.ask("GET", "/models/m")).json["id"]
        stored = (await client.turn(store=True)).json["id"]
        assert stored == (await client.ask("GET", f"/v1/responses/{stored}")).json["id"]
        assert 404 == (await client.ask("GET", "/v1/responses/resp_none")).status
        compacted = await client.ask(
            "POST", "/v1/responses/compact", {"model": "m", "input": [{"role": "user", "content": "hi"}]}
        )
        assert 200 == compacted.status
        assert 200 == (await client.ask("HEAD", "/v1/models")).status
        records = await it.records()

    assert ["http", "http", "json", "http", "http", "http", "http"] == [record.door for record in records]
    assert [200, 200, 200, 200, 404, 200, 200] == [record.status for record in records]
    assert [*["completed"] * 4, "refused", *["completed"] * 2] == [record.outcome for record in records]
    assert Usage.of(compacted.json["usage"]) == records[5].usage


USAGE = {"input_tokens": 7, "output_tokens": 5, "total_tokens": 12}


def stored(status: str) -> bytes:
    usage = USAGE if status == "completed" else None
    response: dict[str, Any] = {
        "id": "resp_1",
        "object": "response",
        "status": status,
        "output": [],
        "usage": usage,
    }
    return json.dumps(response).encode()


def event(kind: str, status: str) -> bytes:
    return b'data: {"type":"response.%b","response":%b}\n\n' % (kind.encode(), stored(status))


@pytest.mark.parametrize("begun", ["at once", "cut", "in the background"])
async def test_the_tokens_of_a_response_count_once(autojump_clock, begun: str) -> None:
    """However often it is asked for: in the turn that made it, or where they are told first."""
    background, says = begun == "in the background", answer(stored("completed"))
    if begun == "cut":
        says = answer(event("created", "in_progress"), "content-type: text/event-stream")
    elif background:
        says = answer(stored("queued"))
    async with before(says) as (it, peer):
        client = await it.client()
        await client.turn(store=True, background=True, stream=begun == "cut")
        if begun != "cut":  # else that was the end of it
            peer.says = answer(stored("in_progress"))
            assert 200 == (await client.ask("GET", "/v1/responses/resp_1")).status
        client = await it.client()
        for kind in ("application/json", "text/event-stream", "application/json"):
            body = event("completed", "completed") if "stream" in kind else stored("completed")
            peer.says = answer(body, f"content-type: {kind}")
            assert 200 == (await client.ask("GET", "/v1/responses/resp_1?x=1")).status
        records = await it.records()

    counted = [record.usage for record in records if record.usage is not None]
    assert [Usage.of(USAGE)] == counted
    assert begun != "at once" or records[0].usage is not None


async def test_what_is_remembered_of_responses_without_tokens_is_bounded() -> None:
    records = Records()
    for number in range(5000):
        records.end(records.begin("sse", response_id=f"resp_{number}"))
    for name, known in (("resp_0", False), ("resp_4999", True), ("resp_4999", False)):
        record = records.begin("http", path=f"/responses/{name}", response_id=name, usage=Usage.of(USAGE))
        records.end(record)
        assert known is (record.usage is not None)
    assert len(records._uncounted) < 4096


@pytest.mark.parametrize(
    "fields",
    [{"previous_response_id": 7}, {"previous_response_id": ""}, {"stream": "yes"}, {"background": 1}],
)
async def test_a_field_that_is_read_here_and_of_a_wrong_type_is_refused_by_the_provider(
    autojump_clock, fields: dict[str, Any]
) -> None:
    """Never taken for one that is missing: the turn would run with less than was asked for."""
    async with scene(EchoModel()) as it:
        answer = await (await it.client()).turn(**fields)

    assert (400, [*fields]) == (answer.status, [answer.json["error"]["param"]])


async def test_a_turn_for_http_only_is_passed_on_and_recorded(autojump_clock) -> None:
    """As a stream and as a body: the same record, with its tokens, as over WebSocket."""
    async with scene(EchoModel()) as it:
        client = await it.client()
        for stream in (True, False):
            got = await client.turn(stream=stream, conversation="conv_1")
            assert got.status in (200, 400)
        no_key = await client.turn(headers=(("authorization", "Basic YTpi"),), stream=True)
        records = await it.records()

    assert "response.completed" == no_key.types[-1]
    assert [("sse", "http"), ("json", "http"), ("sse", "http")] == [(r.door, r.way) for r in records]
    assert Usage.of(no_key.events[-1]["response"]["usage"]) == records[2].usage
    assert ("completed", 1, 1) == (records[2].outcome, records[2].items_given, records[2].items_sent)


async def test_what_a_client_says_passes_by_name(autojump_clock) -> None:
    """Nothing of where it is, of proxies before, of cookies, and nothing that `Connection` names."""
    async with before(answer(b"{}")) as (it, peer):
        dropped = {
            "cookie": "a=b",
            "origin": "http://localhost:3000",
            "referer": "http://localhost/",
            "forwarded": "for=1.2.3.4",
            "x-forwarded-for": "1.2.3.4",
            "x-real-ip": "1.2.3.4",
            "x-wspool-token": "secret",
            "x-codex-named": "x",
            "connection": "x-codex-named",
            "te": "trailers",
            "x-anything": "x",
        }
        passed = {
            "authorization": "Bearer k",
            "user-agent": "codex_exec/0.171",
            "x-codex-turn-state": "s",
            "session_id": "s",
            "openai-beta": "b",
            "content-encoding": "zstd",
            "accept-encoding": "gzip, br",
            "x-stainless-retry-count": "1",
            "chatgpt-account-id": "acc",
        }
        client = await it.client()
        await client.ask("POST", "/v1/embeddings?a=b", b"x", headers=[*dropped.items(), *passed.items()])
        assert b"/v1/embeddings?a=b" == peer.head.target
        assert {**passed, "host": "localhost", "connection": "close", "content-length": "1"} == peer.fields


async def test_what_is_looked_at_comes_as_it_is(autojump_clock) -> None:
    """The answer to a turn holds its tokens: it is asked for without an encoding."""
    async with before(answer(b"{}")) as (it, peer):
        shown = [KEY, ("accept-encoding", "gzip")]
        await (await it.client()).ask("POST", "/v1/responses/compact", b"x", headers=shown)
        names = [name for name, _ in peer.head.headers]
        assert ("identity", 1) == (peer.fields["accept-encoding"], names.count(b"accept-encoding"))


async def test_what_the_provider_says_passes_but_for_its_connection(autojump_clock) -> None:
    """Bytes as they are, with their encoding; what a browser would believe of us is dropped."""
    body = gzip.compress(b'{"a": 1}')
    says = answer(
        body,
        "content-encoding: gzip",
        "x-ratelimit-remaining-tokens: 7",
        "x-request-id: req_1",
        "x-codex-primary-used-percent: 3",
        "set-cookie: a=b",
        "access-control-allow-origin: *",
        "keep-alive: timeout=5",
        "connection: keep-alive, x-hop",
        "x-hop: 1",
    )
    async with before(says) as (it, _):
        got = await (await it.client()).ask("GET", "/v1/models")
        (record,) = await it.records()

    assert body == got.body
    assert {
        "content-encoding": "gzip",
        "content-length": str(len(body)),
        "x-ratelimit-remaining-tokens": "7",
        "x-request-id": "req_1",
        "x-codex-primary-used-percent": "3",
    } == got.headers
    assert "req_1" == record.request_id


async def test_no_redirect_is_followed(autojump_clock) -> None:
    """The credential goes where it was meant to go."""
    async with before(answer(b"", "location: https://evil.example/", status="307 X")) as (it, _):
        assert 307 == (await (await it.client()).ask("GET", "/v1/models")).status


@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 200", b"no http\r\n\r\n", b"HTTP/1.1 100 x\r\n\r\n" * 20])
async def test_an_endpoint_without_an_answer_is_a_502(autojump_clock, says: bytes) -> None:
    """In the provider's shape, and not to be sent again by an SDK that knows no better."""
    async with before(says) as (it, _):
        client = await it.client()
        got = await client.ask("POST", "/v1/files", b"x")
        (record,) = await it.records()
        assert 200 == (await client.ask("GET", "/livez")).status

    assert (502, "upstream_no_answer", "false") == (
        got.status,
        got.json["error"]["code"],
        got.headers["x-should-retry"],
    )
    assert "lost" == record.outcome


async def test_a_cut_answer_is_a_cut_answer(autojump_clock) -> None:
    """The client sees that something is missing."""
    async with before(answer(b"12345")[:-2]) as (it, _):
        got = await (await it.client()).ask("GET", "/v1/models")
        (record,) = await it.records()

    assert (b"123", False, "lost") == (got.body, got.whole, record.outcome)


async def test_a_client_that_leaves_ends_its_request(autojump_clock) -> None:
    """Also while the provider thinks."""
    async with before(b"") as (it, peer):
        peer.holds = True
        client = await it.client()
        await client.send("POST", "/v1/files", b"x")
        await trio.testing.wait_all_tasks_blocked()
        await client.stream.aclose()
        await peer.gone.wait()
        (record,) = await it.records()

    assert "left" == record.outcome


async def test_bytes_pass_in_the_moment_they_come(autojump_clock) -> None:
    """Up and down: no piece waits for the next."""
    async with before(b"") as (it, peer):
        client = await it.client()
        head = b"POST /v1/files HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer k\r\n"
        await client.stream.send_all(head + b"transfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        await trio.testing.wait_all_tasks_blocked()
        assert b"first" in peer.heard


async def test_f159_what_is_too_large_for_a_frame_goes_by_http(autojump_clock) -> None:
    """F159: a request to the proxy is over the provider's limit for a frame, also with what is new alone ->
    nothing: it goes by HTTP before anything is sent.
    """
    async with scene(EchoModel(), provider=attrs.evolve(UNKNOWN, max_request=4000)) as it:
        client = await it.client()
        history: list[Any] = [{"role": "user", "content": "x" * 5000}]
        first = await client.turn(history)
        history += [*first.json["output"], {"role": "user", "content": "short"}]
        second = await client.turn(history)
        records = await it.records()

    assert (200, 200) == (first.status, second.status)
    assert ["http", "http"] == [record.way for record in records]
    assert ["http", "http"] == [entry["transport"] for entry in it.ledger]


@pytest.mark.parametrize("door", ["json", "websocket"])
async def test_a_conversation_comes_back_once_what_is_new_fits(autojump_clock, door: str) -> None:
    """Where responses are stored: each way goes on from turns of the other, and sends what is new."""
    provider = attrs.evolve(UNKNOWN, max_request=4000)
    async with scene(EchoModel(), provider=provider) as it, connected(it) as socket:
        client, history = await it.client(), list[Any]()
        for words in ("a", "x" * 5000, "short", "shorter", "y" * 5000, "end"):
            history.append({"role": "user", "content": words})
            if door == "json":
                response = (await client.turn(history, store=True)).json
            else:
                await socket.create(history, store=True)
                response = (await socket.answer())["response"]
            assert "completed" == response["status"]
            history += response["output"]
        records = await it.records()

    ways = ["websocket", "http", "websocket", "websocket", "http", "websocket"]
    assert ways == [record.way for record in records]
    assert [(way, 1) for way in ways] == [(entry["transport"], entry["input_items"]) for entry in it.ledger]
    assert list(range(1, 12, 2)) == [entry["context_items"] for entry in it.ledger]


async def test_what_turns_out_too_large_after_a_heartbeat_goes_by_http(autojump_clock) -> None:
    """It waited in line, and its client has a head already: the answer goes on behind that."""
    small, policy = attrs.evolve(UNKNOWN, max_request=4000), PoolPolicy(max_size=1, min_idle=0)
    async with scene(EchoModel(), server={"delay_per_token": 30}, provider=small, policy=policy) as it:
        await (await it.client()).send("POST", "/v1/responses", {"model": "m", "input": "a b c d"})
        await trio.sleep(1)
        answer = await (await it.client()).turn([{"role": "user", "content": "x" * 5000}], stream=True)
        records = await it.records()

    assert (200, "response.completed") == (answer.status, answer.types[-1])
    assert answer.body.startswith(b": keepalive")
    assert "http" == next(record.way for record in records if record.door == "sse")
    assert ["http", "websocket"] == sorted(entry["transport"] for entry in it.ledger)


async def test_f158_an_endpoint_without_websocket_is_asked_over_http(autojump_clock) -> None:
    """F158: the endpoint offers no WebSocket, behind a proxy -> nothing: the turn goes by HTTP, and its
    record says so.
    """
    async with scene(EchoModel()) as it:
        it.server.reject_handshakes(*[Rejection(status=404)] * 20)
        client = await it.client()
        streamed = await client.turn("one", stream=True)
        plain = await client.turn("two")
        records = await it.records()

    assert "response.completed" == streamed.types[-1]
    assert (200, "completed") == (plain.status, plain.json["status"])
    assert ["http", "http"] == [record.way for record in records]
    assert [Usage.of(r["usage"]) for r in (streamed.events[-1]["response"], plain.json)] == [
        r.usage for r in records
    ]


async def test_an_outage_of_its_websockets_costs_time_only(autojump_clock) -> None:
    """The turn waits, is kept alive, and goes by HTTP once they have been of no use for long enough."""
    async with scene(EchoModel()) as it:
        it.server.reject_handshakes(*[Rejection(status=503)] * 500)
        client = await it.client()
        since = trio.current_time()
        first = await client.turn("one", stream=True)
        waited = trio.current_time() - since
        second = await client.turn("two")
        later = trio.current_time() - since - waited
        records = await it.records()

    assert "response.completed" == first.types[-1]
    assert first.body.startswith(b": keepalive")
    assert (200, "completed") == (second.status, second.json["status"])
    assert later < 5 < waited < 120
    assert ["http", "http"] == [record.way for record in records]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/completions"])
async def test_what_is_not_spoken_here_is_said(autojump_clock, path: str) -> None:
    """With what to do instead."""
    async with scene(EchoModel()) as it:
        got = await (await it.client()).ask("POST", path, {"model": "m"})

    assert 404 == got.status
    assert "LiteLLM" in got.json["error"]["message"]


async def test_codex_finds_its_own_shape_in_the_list_of_models(autojump_clock) -> None:
    """Beside what the provider says, which stays; others get that as it came."""
    async with scene(EchoModel()) as it:
        client = await it.client()
        plain = await client.ask("GET", "/v1/models")
        codex = await client.ask("GET", "/v1/models?client_version=0.171.0")
        again = await client.ask("GET", "/v1/models/m?client_version=0.171.0")
        records = await it.records()

    assert "models" not in plain.json
    assert {**plain.json, "models": []} == codex.json
    assert "models" not in again.json
    assert str(len(codex.body)) == codex.headers["content-length"]
    assert ["completed"] * 3 == [record.outcome for record in records]


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b'{"models":[{"slug":"a"}]}', b'{"models":[{"slug":"a"}]}'),
        (b"no json", b"no json"),
        (b"[]", b"[]"),
        (b'{"data":[]}', b'{"data":[],"models":[]}'),
    ],
)
async def test_a_provider_that_has_that_shape_is_passed_on_untouched(
    autojump_clock, body: bytes, shown: bytes
) -> None:
    """To the byte, and so is what is no list at all, or an error."""
    for status in (200, 503):
        async with before(answer(body, "etag: e", status=f"{status} X")) as (it, _):
            got = await (await it.client()).ask("GET", "/models?client_version=1")
        assert (status, "e") == (got.status, got.headers["etag"])
        assert (shown if status == 200 else body) == got.body


@attrs.define
class Far(Peer):
    """One that takes five seconds to be reached, if it can be."""

    there: bool = True

    async def open_stream(self, endpoint: Any) -> trio.abc.Stream:
        await trio.sleep(5)
        if not self.there:
            raise ConnectError("nobody is there", phase="tcp")
        return await super().open_stream(endpoint)


@pytest.mark.parametrize("there", [True, False])
async def test_what_a_dial_takes_is_no_time_of_the_proxy_s(autojump_clock, there: bool) -> None:
    """Whether it succeeds or not; and what went wrong is written down in words, too."""
    async with trio.open_nursery() as nursery:
        far = Far(answer(b"{}"), there=there)
        far._nursery = nursery
        async with scene(EchoModel(), wire=far) as it:
            got = await (await it.client()).ask("GET", "/v1/models")
            (record,) = await it.records()
        nursery.cancel_scope.cancel()

    assert (200 if there else 502) == got.status == record.status
    assert (0.0, 0.0, 5.0) == (record.own, record.line, record.dial)
    if not there:
        assert ("lost", "upstream_unreachable") == (record.outcome, record.error)
        assert "nobody is there" in (record.said or "")


@pytest.mark.parametrize(
    ("says", "query"),
    [(b"what?\r\n\r\n", ""), (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{", "?client_version=1")],
    ids=["none", "cut before it was sent"],
)
async def test_what_was_no_answer_is_written_down_in_words(autojump_clock, says: bytes, query: str) -> None:
    """As whatever else goes wrong, with the status that the client was told."""
    async with before(says) as (it, _):
        got = await (await it.client()).ask("GET", f"/v1/models{query}")
        (record,) = await it.records()

    assert 502 == got.status == record.status
    assert ("lost", "upstream_no_answer") == (record.outcome, record.error)
    assert "no HTTP" in (record.said or "")
