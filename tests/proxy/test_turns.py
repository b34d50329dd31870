"""Turns by HTTP: what a client is answered, what of it goes to the provider, and what is recorded."""

from __future__ import annotations

from functools import partial
from typing import Any

import h11
import pytest
import trio
import trio.testing

from tests.proxy.asking import KEY, Client, scene
from wspool.core.usage import Usage
from wspool.proxy import Settings, Token
from wspool.server import EchoModel, ModelTurn, message
from wspool.testing.local import refusal


class Said:
    """A model that says its turns one after the other, whoever asks."""

    def __init__(self, *turns: ModelTurn) -> None:
        self._turns = list(turns)

    def respond(self, request: Any) -> ModelTurn:
        return self._turns.pop(0) if len(self._turns) > 1 else self._turns[0]


def said(text: str = "yes", **more: Any) -> ModelTurn:
    return ModelTurn(output=[message(text)], **more)


async def test_a_stream_and_a_body_are_what_http_would_give(autojump_clock) -> None:
    """On one connection, under every spelling of the path; the record says how it went."""
    async with scene(EchoModel()) as it:
        client = await it.client()
        body = await client.turn("one")
        streams = [
            await client.turn("two", stream=True, target=target)
            for target in ("/v1/responses", "/responses", "/v1/v1/responses", "//v1//responses/")
        ]
        records = await it.records()

    assert (200, "completed") == (body.status, body.json["status"])
    for stream in streams:
        assert ("text/event-stream; charset=utf-8", "no") == (
            stream.headers["content-type"],
            stream.headers["x-accel-buffering"],
        )
        assert ("response.created", "response.completed") == (stream.types[0], stream.types[-1])
        assert "own;dur=" in stream.headers["server-timing"]
    assert ["json", "sse", "sse", "sse", "sse"] == [record.door for record in records]
    for record, response in zip(
        records, [body.json, *(s.events[-1]["response"] for s in streams)], strict=True
    ):
        assert ("completed", 200, "websocket") == (record.outcome, record.status, record.way)
        assert Usage.of(response["usage"]) == record.usage
        assert response["id"] == record.response_id
        assert None not in (
            record.own,
            record.line,
            record.dial,
            record.first_event,
            record.stream,
            record.total,
        )
        assert record.bytes_in > 0
        assert record.bytes_out > 0
    assert ["first"] * 5 == [record.why_full for record in records]


async def test_how_long_what_took_is_said_whatever_the_answer_is(autojump_clock) -> None:
    """A body and a stream of the same turn have the same times; a refusal says what went before it."""
    turn = said("five words that take time")
    async with scene(Said(turn, turn, refusal(429, "x")), server={"delay_per_token": 2}) as it:
        client = await it.client()
        streamed, whole = await client.turn(stream=True), await client.turn()
        late = await client.turn()
        one, two, _ = await it.records()

    assert one.first_event == pytest.approx(two.first_event, abs=0.1)
    assert one.stream == pytest.approx(two.stream, abs=0.1)
    assert two.stream is not None
    assert two.stream > 5
    names = [
        [stamp.partition(";")[0] for stamp in answer.headers["server-timing"].split(", ")]
        for answer in (streamed, whole, late)
    ]
    assert [["own", "line", "dial", "first"], ["own", "line", "dial", "first", "stream"]] == names[:2]
    assert ["own", "line", "dial"] == names[2][:3]


async def test_only_what_is_new_is_sent(autojump_clock) -> None:
    """A client that sends its whole history each time; the record counts what was given and what was sent."""
    async with scene(EchoModel()) as it:
        client, history = await it.client(), []
        for number in range(4):
            history.append({"role": "user", "content": f"n{number}"})
            answer = await client.turn(history, stream=number % 2 == 0)
            response = answer.events[-1]["response"] if number % 2 == 0 else answer.json
            history += response["output"]
        records = await it.records()

    assert [1, 1, 1, 1] == [entry["input_items"] for entry in it.ledger]
    assert [(1, 1), (3, 1), (5, 1), (7, 1)] == [(record.items_given, record.items_sent) for record in records]
    assert ["first", None, None, None] == [record.why_full for record in records]


async def test_a_refusal_has_its_status(autojump_clock) -> None:
    """Also where a stream was asked for: the head was held back."""
    async with scene(Said(refusal(429, "rate_limit_exceeded", retry_after=2))) as it:
        answer = await (await it.client()).turn(stream=True)
        (record,) = await it.records()

    assert (429, "2", "rate_limit_exceeded") == (
        answer.status,
        answer.headers["retry-after"],
        answer.json["error"]["code"],
    )
    assert ("refused", 429, "rate_limit_exceeded") == (record.outcome, record.status, record.error)


@pytest.mark.parametrize(
    ("method", "target", "body", "status"),
    [
        ("POST", "/v1/responses", b"no json", 400),
        ("POST", "/v1/responses", b"[]", 400),
        ("POST", "/v1/responses", b"[" * 100_000, 400),
        ("POST", "/v1/responses", b'{"input": 7}', 400),
        ("GET", "/v1/responses", None, 426),
        ("GET", "/v1/../responses", None, 404),
        ("GET", "/v1/%2e%2e/x", None, 404),
        ("GET", "/v1/%252e%252e/x", None, 404),
        ("GET", "http://other.example/v1/responses", None, 404),
    ],
)
async def test_what_cannot_be_answered_is_refused_as_the_provider_would(
    autojump_clock, method: str, target: str, body: bytes | None, status: int
) -> None:
    """In its shape, and the connection goes on."""
    async with scene(EchoModel()) as it:
        client = await it.client()
        answer = await client.ask(method, target, body)
        assert status == answer.status
        assert {"message", "type", "param", "code"} == answer.json["error"].keys()
        if status != 426:
            assert 200 == (await client.turn()).status


@pytest.mark.parametrize(
    ("body", "status"), [(b'{"input": ', 400), (b"[]", 400), (b'"' + b"x" * 3000 + b'"', 413)]
)
async def test_a_turn_that_cannot_be_read_has_its_record(body: bytes, status: int, autojump_clock) -> None:
    """Whoever looks for the 400 that a client tells of finds it, and none of what was in it."""
    async with scene(EchoModel(), settings=Settings(max_body=2000)) as it:
        answer = await (await it.client()).ask("POST", "/v1/responses", body, headers=(KEY,))
        records = await it.records()

    assert status == answer.status
    assert [("rejected", status)] == [(record.outcome, record.status) for record in records]
    assert "xxx" not in str(records[0].as_json())


async def test_each_answer_has_a_name(autojump_clock) -> None:
    """The provider's, or one of the proxy's: that of its record, if there is one. Never twice the same."""
    async with scene(EchoModel(), settings=Settings(max_body=2000)) as it:
        client = await it.client()
        asked = [
            ("GET", "/healthz", None),
            ("GET", "/", None),
            ("GET", "/v1/../x", None),
            ("GET", "/v1/responses", None),
            ("GET", "/v1/models", None),
            ("POST", "/v1/chat/completions", {}),
            ("POST", "/v1/responses", b"[]"),
            ("POST", "/v1/responses", {"model": "m", "input": 7}),
            ("POST", "/v1/responses", {"model": "m", "input": "hi"}),
            ("POST", "/v1/responses", b"x" * 3000),
        ]
        names = []
        for method, target, body in asked:
            if client.http.our_state is not h11.IDLE:
                client = await it.client()
            names.append((await client.ask(method, target, body)).headers["x-request-id"])
        records = await it.records()

    assert len(asked) == len(set(names))
    ours = {f"wspool-{record.number}" for record in records if record.path == "/responses"}
    assert ours == {*names[6:]}


async def test_health_needs_nothing(autojump_clock) -> None:
    """No key, and no question to the provider; where tokens are asked for no name of this machine either."""
    async with scene(EchoModel(), tokens=[Token("one", "token-12345678")]) as it:
        client = await it.client()
        for path in ("/healthz", "/livez", "/readyz"):
            assert 200 == (await client.ask("GET", path, headers=(), host="x.example")).status
        assert 0 == it.server.statistics().connections_total


async def test_f164_a_client_is_recognised_by_name_only_here(autojump_clock) -> None:
    """F164: a page of a browser asks the proxy, or a name that was rebound to this machine -> 403, on every
    path and before an upgrade; nothing goes to the provider.
    """
    async with scene(EchoModel()) as it:
        near, far = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(it.proxy.front.serve, far, stranger=True))
            client = Client(near)
            for target in ("/v1/responses", "/v1/models", "/nowhere", "/healthz", "/readyz", "/", "/metrics"):
                rebound = await client.ask("POST", target, {"model": "m"}, host="evil.example")
                paged = await client.ask(
                    "POST", target, {}, headers=(KEY, ("origin", "https://evil.example"))
                )
                assert (403, 403) == (rebound.status, paged.status)
                assert "--allow-host evil.example" in rebound.json["error"]["message"]
                assert "--allow-host" not in paged.json["error"]["message"]
            assert 200 == (await client.turn()).status
            nursery.cancel_scope.cancel()
        assert 1 == len(it.ledger)
