"""Dialling, being turned down, counting, and what the ledger proves."""

import itertools
import json
import logging
from collections import Counter
from pathlib import Path

import attrs
import httpx
import openai
import pytest
import trio
from hypothesis import given, strategies as st
from openai.types.responses import Response
from trio.testing import MockClock, wait_all_tasks_blocked
from trio_websocket import ConnectionClosed, ConnectionRejected
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Request, TextMessage

from tests.searching import examples
from wspool.server import (
    OPENAI,
    EchoModel,
    Entry,
    ModelTurn,
    Rejection,
    ScriptedModel,
    TurnError,
    function_call,
    message,
    open_server,
)
from wspool.server.engine import Engine
from wspool.server.ledger import Ledger
from wspool.server.protocol.cache import ConnectionMemory

from .client import Frame, connected, text


async def test_rejections_are_used_up_in_order(autojump_clock: MockClock) -> None:
    """Each dial takes one rejection: status, headers and body as given; then dials succeed."""
    async with open_server(EchoModel(), port=None) as server:
        server.reject_handshakes(
            Rejection(status=429, headers={"Retry-After": "7"}, body=b"slow down", delay=3), 403
        )
        start = trio.current_time()
        with pytest.RaisesGroup(ConnectionRejected, flatten_subgroups=True, allow_unwrapped=True) as caught:
            async with connected(server):
                raise AssertionError
        rejected = caught.value.exceptions[0]
        assert isinstance(rejected, ConnectionRejected)
        assert (rejected.status_code, rejected.body) == (429, b"slow down")
        assert (b"Retry-After", b"7") in (rejected.headers or ()) or (b"retry-after", b"7") in (
            rejected.headers or ()
        )
        assert trio.current_time() - start == pytest.approx(3)
        with pytest.RaisesGroup(ConnectionRejected, flatten_subgroups=True, allow_unwrapped=True):
            async with connected(server):
                raise AssertionError
        async with connected(server) as client:
            await client.respond()

        assert server.statistics().handshakes_rejected == 2
        assert server.statistics().connections_total == 1


async def test_an_accepted_connection_may_be_closed_at_once(autojump_clock: MockClock) -> None:
    """A rejection with status 101 is a policy decision after the upgrade."""
    async with open_server(EchoModel(), port=None) as server:
        server.reject_handshakes(Rejection(status=101, close_code=1013))
        async with connected(server) as client:
            assert await client.closed() == 1013


async def test_a_handshake_may_get_no_answer(autojump_clock: MockClock) -> None:
    """The server keeps the connection, says nothing, and notices when the client gives up."""
    async with open_server(EchoModel(), port=None) as server:
        server.reject_handshakes(Rejection(status=None))
        with trio.move_on_after(1000) as scope:
            async with connected(server):
                raise AssertionError
        assert scope.cancelled_caught


async def test_keys_and_limits_are_checked_at_the_handshake(autojump_clock: MockClock) -> None:
    """A wrong key gets 401, one connection too many 429; the key is in no answer."""
    async with open_server(EchoModel(), port=None, api_key="sk-secret", max_connections=1) as server:

        async def status(key: str) -> int:
            try:
                async with connected(server, Authorization=f"Bearer {key}"):
                    return 101
            except* ConnectionRejected as group:
                rejected = group.exceptions[0]
                while isinstance(rejected, ExceptionGroup):
                    rejected = rejected.exceptions[0]
                assert isinstance(rejected, ConnectionRejected)
                assert b"sk-" not in (rejected.body or b"")
                found = rejected.status_code
            return found

        assert await status("sk-wrong") == 401
        async with connected(server, Authorization="Bearer sk-secret") as client:
            assert await status("sk-secret") == 429
            await client.respond()
        await wait_all_tasks_blocked()
        assert await status("sk-secret") == 101
        path, headers = server.handshakes[0]
        assert (path, headers["authorization"]) == ("/v1/responses", "Bearer sk-wrong")


async def test_repr_and_statistics(autojump_clock: MockClock) -> None:
    """What a server says about itself."""
    async with open_server(EchoModel(), port=None, api_key="sk-secret") as server:
        assert repr(server) == "<Server localhost as openai: 0 connections, 0 turns>"
        assert (server.url, server.http_url) == (
            "ws://localhost/v1/responses",
            "http://localhost/v1/responses",
        )
        async with connected(server, Authorization="Bearer sk-secret") as client:
            await client.respond(store=True)
            statistics = server.statistics()

    assert (statistics.connections_open, statistics.connections_peak, statistics.creates) == (1, 1, 1)
    assert (statistics.responses_stored, statistics.creates_active) == (1, 0)


async def test_the_ledger_file_is_complete_before_the_client_knows(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A client that has seen the end of a turn finds its line in the file."""
    path = tmp_path / "ledger.jsonl"
    script = [
        ModelTurn(output=[message("a")]),
        ModelTurn(status="rejected", error=TurnError(message="no", code="rate_limit_exceeded", status=429)),
    ]
    async with (
        open_server(ScriptedModel(script), port=None, ledger=path) as server,
        connected(server) as client,
    ):
        first = await client.respond(stream_id="lane")
        (line,) = [json.loads(line) for line in path.read_text().splitlines()]
        assert (line["outcome"], line["lane"], line["response_id"]) == ("completed", "lane", first["id"])
        await client.turn(previous_response_id=first["id"], stream_id="lane")
        line = json.loads(path.read_text().splitlines()[-1])

    assert (line["outcome"], line["error_code"]) == ("rejected", "rate_limit_exceeded")
    assert (line["parent_was_latest"], line["parent_from"], line["response_id"]) == (True, "lane", None)
    assert (line["connection"], line["sequence"], line["transport"]) == (1, 2, "websocket")


async def test_a_request_is_settled_before_its_terminal_event_is_sent(autojump_clock: MockClock) -> None:
    """Whoever can see the event finds the memory, the lane and the ledger in place."""
    ledger: list[Entry] = []
    engine = Engine(EchoModel(), OPENAI, Ledger(ledger))
    memory = ConnectionMemory(1)
    create = engine.receive({"model": "m", "input": "hi"}, memory)
    settled: list[bool] = []

    async def send(event: Frame) -> None:
        settled.append(create.settled and memory.unfinished[None] == 0 and len(ledger) == 1)
        await trio.lowlevel.checkpoint()

    assert await engine.perform(create, send) is None
    assert settled == [False] * (len(settled) - 1) + [True]


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["create", "continue", "wait", "leave"]), st.sampled_from([None, "a", "b"])),
    max_size=25,
)


@given(actions=ACTIONS, profile_lifetime=st.sampled_from([1e9, 12.0]))
@examples(60)
def test_the_ledger_accounts_for_every_request(
    actions: list[tuple[str, str | None]], profile_lifetime: float
) -> None:
    """One line per request, orders that never overlap on a lane, and counts that agree with the orders."""
    ledger: list[Entry] = []
    model = ScriptedModel([ModelTurn(output=[message("x")], delay=1), ModelTurn(status="failed")])

    async def main() -> None:
        async with open_server(model, port=None, ledger=ledger, lifetime=profile_lifetime) as server:
            sent = 0
            async with connected(server) as client:
                for action, lane in actions:
                    if action == "leave":
                        break
                    if action == "wait":
                        await trio.sleep(3)
                        continue
                    fields: Frame = {} if lane is None else {"stream_id": lane}
                    if action == "continue":
                        fields["previous_response_id"] = "resp_000001"
                    try:
                        await client.create(**fields)
                    except ConnectionClosed:
                        break
                    sent += 1
                    await wait_all_tasks_blocked()
            await wait_all_tasks_blocked()
            statistics = server.statistics()
            assert statistics.creates == len(ledger) == sent
            assert statistics.failures == statistics.creates_active == 0

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert sorted(entry["sequence"] for entry in ledger) == list(range(1, len(ledger) + 1))
    orders = [
        order
        for entry in ledger
        for order in (entry["received_order"], entry["started_order"], entry["ended_order"])
        if order is not None
    ]
    assert len(orders) == len(set(orders))
    lanes: dict[str | None, list[Entry]] = {}
    for entry in sorted(ledger, key=lambda entry: entry["received_order"]):
        lanes.setdefault(entry["lane"], []).append(entry)
    for entries in lanes.values():
        for entry in entries:
            unfinished = [
                other
                for other in entries
                if other["received_order"] <= entry["received_order"] < other["ended_order"]
            ]
            assert entry["unfinished_on_lane"] == len(unfinished)
        started = [entry for entry in entries if entry["started_order"] is not None]
        for before, after in itertools.pairwise(started):
            assert before["ended_order"] < (after["started_order"] or 0)


async def test_an_error_in_the_body_comes_out_bare() -> None:
    """The server's nursery does not wrap the caller's exception in a group."""
    with pytest.raises(KeyError, match="mine"):
        async with open_server(EchoModel(), port=None):
            raise KeyError("mine")


async def test_an_unexpected_error_of_a_connection_is_counted_and_logged(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug ends its connection, is visible in the statistics, and spares all others."""

    class Broken(trio.abc.Stream):
        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            raise RuntimeError("a bug in the transport")

        async def send_all(self, data: bytes | bytearray | memoryview) -> None: ...
        async def wait_send_all_might_not_block(self) -> None: ...
        async def aclose(self) -> None: ...

    async with open_server(EchoModel(), port=None) as server, connected(server) as client:
        with caplog.at_level(logging.ERROR):
            await server.serve(Broken())
        await client.respond()

        assert server.statistics().failures == 1
    assert len(caplog.records) == 1


def test_a_script_file_names_the_bad_line(tmp_path: Path) -> None:
    """Reading a script: shorthand, empty lines, and an error that says where."""
    path = tmp_path / "script.jsonl"
    path.write_text('{"text": "hi", "delay": 2}\n\n{"status":"failed","error":{"message":"m"}}\n')
    ScriptedModel.from_file(path)

    path.write_text('{"text": "hi"}\n{"txet": "hi"}\n')
    with pytest.raises(ValueError, match=r"script\.jsonl:2: not a turn"):
        ScriptedModel.from_file(path)
    with pytest.raises(ValueError, match="at least one turn"):
        ScriptedModel([])


@pytest.mark.parametrize(
    "turn",
    [
        '{"output": 5}',
        '{"output": [5]}',
        '{"output": "a"}',
        '{"status": "nope"}',
        '{"status": []}',
        '{"delay": "x"}',
        '{"delay": -1}',
        '{"delay": Infinity}',
        '{"error": 5}',
        '{"error": {}}',
        '{"text": 5}',
        '{"usage": 5}',
        '{"reason": 5}',
        "[1]",
        '"x"',
        "null",
    ],
)
def test_a_script_is_checked_before_it_is_played(tmp_path: Path, turn: str) -> None:
    """What would be an error of the server in the middle of a conversation is one of the file."""
    path = tmp_path / "script.jsonl"
    path.write_text('{"text": "fine", "delay": 0.5, "usage": {}, "error": null}\n' + turn)

    with pytest.raises(ValueError, match=r"script\.jsonl:2: not a turn: "):
        ScriptedModel.from_file(path)


async def test_a_script_is_played_per_conversation(autojump_clock: MockClock) -> None:
    """Interleaved conversations do not disturb each other, and the script starts over at its end."""
    script = [{"text": "one"}, {"text": "two"}, {"text": "three"}]
    async with open_server(ScriptedModel(script), port=None) as server, connected(server) as client:
        parents: dict[str, str] = {}
        said: dict[str, list[str]] = {"a": [], "b": []}
        for lane in "aabababb":
            fields = {"previous_response_id": parents[lane]} if lane in parents else {}
            response = await client.respond(stream_id=lane, **fields)
            parents[lane] = response["id"]
            said[lane].append(text(response))

    assert said == {"a": ["one", "two", "three", "one"], "b": ["one", "two", "three", "one"]}


@pytest.mark.network
async def test_real_sockets() -> None:
    """The same over TCP: many clients at once, and a request too large that gets its close code."""
    counts: Counter[str] = Counter()

    async with open_server(EchoModel()) as server:

        async def talk() -> None:
            async with connected(server, tcp=True) as client:
                parent: Frame = {}
                for _ in range(5):
                    response = await client.respond("hello there", **parent)
                    parent = {"previous_response_id": response["id"]}
                    counts["turns"] += 1

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(talk)
        async with connected(server, tcp=True) as client, trio.open_nursery() as nursery:

            async def send_too_much() -> None:
                try:
                    await client.send("x" * (3 * 16 * 1024 * 1024))
                except ConnectionClosed:
                    pass

            nursery.start_soon(send_too_much)
            assert await client.closed() == 1009
            nursery.cancel_scope.cancel()
        assert server.statistics().connections_total == 21
        assert server.statistics().failures == 0
    assert counts["turns"] == 100


@pytest.mark.network
async def test_a_client_that_only_writes_still_finds_the_close_code() -> None:
    """The server reads on after its goodbye: closing at once would reset the connection under the writer."""
    async with open_server(EchoModel(), profile=attrs.evolve(OPENAI, max_message=1000)) as server:
        stream = await trio.open_tcp_stream("127.0.0.1", int(server.url.split(":")[2].split("/")[0]))
        async with stream:
            protocol = WSConnection(ConnectionType.CLIENT)
            await stream.send_all(protocol.send(Request(host="localhost", target="/v1/responses")))
            protocol.receive_data(bytes(await stream.receive_some()))
            assert isinstance(next(protocol.events()), AcceptConnection)
            await stream.send_all(protocol.send(TextMessage(data="x" * 30_000_000)))
            protocol.receive_data(bytes(await stream.receive_some()))
            (goodbye,) = protocol.events()
            assert isinstance(goodbye, CloseConnection)
            assert goodbye.code == 1009


@pytest.mark.network
async def test_http_json_and_events() -> None:
    """One response as JSON, one as events, on a connection that is kept alive; stored ones continue."""
    ledger: list[Entry] = []
    async with open_server(EchoModel(), ledger=ledger) as server, httpx.AsyncClient() as http:
        body = {"model": "m", "input": "hello big world"}
        first = (await http.post(server.http_url, json=body)).json()
        assert (text(first), first["store"]) == ("hello big world", True)
        Response.model_validate(first)

        follow = body | {"previous_response_id": first["id"], "stream": True}
        async with http.stream("POST", server.http_url, json=follow) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            lines = [line async for line in answer.aiter_lines() if line]
        names = [line.removeprefix("event: ") for line in lines[::2]]
        events = [json.loads(line.removeprefix("data: ")) for line in lines[1::2]]
        assert names == [event["type"] for event in events]
        assert [event["sequence_number"] for event in events] == list(range(len(events)))

        assert server.statistics().http_connections == 1
        async with connected(server) as client:
            await client.respond(previous_response_id=events[-1]["response"]["id"])
    assert [entry["transport"] for entry in ledger] == ["http", "http", "websocket"]
    assert [entry["context_items"] for entry in ledger] == [1, 3, 5]


@pytest.mark.network
async def test_http_remembers_only_what_is_stored() -> None:
    """On the very same connection, a response with `store: false` can not be continued."""
    async with open_server(EchoModel()) as server, httpx.AsyncClient() as http:
        body = {"model": "m", "input": "hi", "store": False}
        first = (await http.post(server.http_url, json=body)).json()
        answer = await http.post(server.http_url, json=body | {"previous_response_id": first["id"]})

        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "previous_response_not_found"


@pytest.mark.network
async def test_http_errors() -> None:
    """Errors are statuses with the error as JSON; the connection is kept."""
    rejected = TurnError(message="wait", code="rate_limit_exceeded", status=429, headers={"Retry-After": "9"})
    script = [ModelTurn(status="rejected", error=rejected)]
    async with open_server(ScriptedModel(script), api_key="sk-1") as server:
        key = {"Authorization": "Bearer sk-1"}
        url = server.http_url
        good = {"model": "m", "store": False}
        async with httpx.AsyncClient(headers=key) as http:
            limited = await http.post(url, json=good)
            assert (limited.status_code, limited.headers["retry-after"]) == (429, "9")
            assert limited.json()["error"]["code"] == "rate_limit_exceeded"
            limited = await http.post(url, json=good | {"stream": True})
            assert limited.status_code == 429
            gone = await http.post(url, json=good | {"previous_response_id": "resp_0"})
            assert (gone.status_code, gone.json()["error"]["code"]) == (400, "previous_response_not_found")
            assert (await http.post(url, content=b"{")).status_code == 400
            assert (await http.post(url, headers={"Authorization": "x"}, json=good)).status_code == 401
            assert (await http.get(url)).status_code == 426
            assert (await http.delete(url)).status_code == 405
            assert (await http.post(url + "/x/y", json=good)).status_code == 404
        assert server.statistics().http_connections == 1
        assert server.statistics().failures == 0


@pytest.mark.network
def test_the_openai_sdk_reads_the_stream() -> None:
    """The SDK's own client accepts the event stream and rebuilds the response."""
    script = [ModelTurn(output=[function_call("f", {"a": 1}), message("and so on")])]
    found: list[Response] = []

    async def main() -> None:
        async with open_server(ScriptedModel(script)) as server:

            def ask() -> None:
                base = server.http_url.removesuffix("/responses")
                with (
                    openai.OpenAI(api_key="sk-1", base_url=base) as sdk,
                    sdk.responses.stream(model="m", input="hi") as events,
                ):
                    for _ in events:
                        pass
                    found.append(events.get_final_response())

            await trio.to_thread.run_sync(ask)

    trio.run(main)
    assert found[0].output_text == "and so on"
    assert [item.type for item in found[0].output] == ["function_call", "message"]
