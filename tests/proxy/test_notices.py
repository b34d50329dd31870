"""What a provider says beside a response: limits and metadata, which clients get as their protocol has it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio

from tests.proxy.asking import KEY, laned, scene
from tests.proxy.test_websocket import connected, upgraded
from wspool.core.frames import Event, parse_event
from wspool.proxy.notices import Notices, of_connection
from wspool.server import (
    EchoModel,
    Fault,
    FaultRule,
    FaultScript,
    ModelRequest,
    ModelTurn,
    TurnError,
    open_server,
)
from wspool.wire.trio_websocket import TrioWebSocketConnector

LIMITS = {
    "x-codex-primary-used-percent": "12",
    "x-codex-primary-window-minutes": "300",
    "x-codex-primary-reset-at": "1795003600",
}


def faults(*names: str) -> FaultScript:
    """Each in the next request."""
    return FaultScript(*[FaultRule(Fault(name), create=n) for n, name in enumerate(names, 1)], seed=1)


def notice(**said: Any) -> Event:
    return parse_event(json.dumps(said))


async def test_who_asks_by_http_gets_them_as_headers(autojump_clock) -> None:
    """With the names that the provider uses by HTTP, streamed or not; and no event that SDKs do not know."""
    for stream in (True, False):
        async with scene(EchoModel(), server={"faults": faults("rate_limits", "metadata")}) as it:
            client = await it.client()
            first = await client.turn(stream=stream)
            second = await client.turn(stream=stream)
            one, two = await it.records()

        assert LIMITS == {name: first.headers.get(name) for name in LIMITS}
        assert not second.headers.keys() & LIMITS.keys()
        assert ("opaque", "gpt-6-astra") == (
            second.headers["x-codex-turn-state"],
            second.headers["openai-model"],
        )
        assert (None, "req_beside") == (one.request_id, two.request_id)
        assert b"codex." not in first.body + second.body


@pytest.mark.parametrize("lanes", [1, 4])
async def test_who_asks_by_websocket_gets_the_events_as_they_came(autojump_clock, lanes: int) -> None:
    """On the lane of its own turn, before what came after them; also where the provider names no lane."""
    server = {"faults": faults("rate_limits", "metadata")}
    async with laned(EchoModel(), lanes, server=server) as it, connected(it) as client:
        await client.create("one", stream_id="a")
        await client.answer("a")
        await client.create("two")
        await client.answer()
        said = [event for event in client.said if event["type"].startswith("codex.")]
        _, two = await it.records()

    assert ["codex.rate_limits", "codex.response.metadata"] == [event["type"] for event in said]
    assert ["a", None] == [event.get("stream_id") for event in said]
    assert "codex.rate_limits" == client.said[0]["type"]
    assert "req_beside" == two.request_id


class Keeps:
    """A model that keeps what it was asked."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []

    def respond(self, request: ModelRequest) -> ModelTurn:
        self.bodies.append(request.body)
        return EchoModel().respond(request)


async def test_the_state_of_a_turn_goes_back_to_the_provider(autojump_clock) -> None:
    """Codex repeats it in a header of each request of that turn; over WebSocket it is in the body."""
    model = Keeps()
    async with scene(model) as it:
        client = await it.client()
        await client.turn(headers=[KEY, ("x-codex-turn-state", "opaque")], client_metadata={"a": "b"})
        await client.turn(client_metadata={"a": "b"})

    assert [{"a": "b", "x-codex-turn-state": "opaque"}, {"a": "b"}] == [
        body["client_metadata"] for body in model.bodies
    ]


def test_nothing_else_becomes_a_header() -> None:
    """Names from a list, values of one line: a provider cannot write a head."""
    notices = Notices()
    notices.hear(
        notice(type="codex.response.metadata", headers={"set-cookie": "a", "x-codex-a": "b\r\nc: d"})
    )
    notices.hear(notice(type="codex.rate_limits", metered_limit_name="evil\r\n", rate_limits={}))
    notices.hear(notice(type="codex.rate_limits", rate_limits={"primary": {"used_percent": [1]}}))
    notices.hear(notice(type="codex.rate_limits", rate_limits=[], credits={"has_credits": True}))
    notices.hear(notice(type="keepalive"))

    assert {"x-codex-credits-has-credits": "true"} == notices.headers
    assert 4 == len(notices.take())
    assert not notices.take()


def test_another_limit_has_its_own_names() -> None:
    """As Codex reads them."""
    notices = Notices()
    primary = {"used_percent": 80.5, "window_minutes": 60}
    notices.hear(
        notice(type="codex.rate_limits", metered_limit_name="codex_other", rate_limits={"primary": primary})
    )

    assert {
        "x-codex-other-primary-used-percent": "80.5",
        "x-codex-other-primary-window-minutes": "60",
    } == notices.headers


def test_what_is_kept_of_a_turn_is_bounded() -> None:
    """However much a provider says beside it."""
    notices = Notices()
    for n in range(1000):
        notices.hear(notice(type="response.metadata", headers={f"x-codex-{n}": "a"}))

    assert len(notices.headers) <= 64
    assert len(notices.take()) <= 32


def test_of_a_handshake_passes_what_all_turns_have_in_common() -> None:
    """The state of a turn is not, nor are limits."""
    headers = [("x-reasoning-included", "true"), ("x-models-etag", "e"), ("x-codex-turn-state", "s")]

    assert headers[:2] == of_connection([*headers, ("date", "now")])


class Refuses:
    def respond(self, request: ModelRequest) -> ModelTurn:
        error = TurnError(message="No.", code="no", status=400, headers={"X-Request-Id": "req_no"})
        return ModelTurn(status="rejected", error=error)


async def test_a_refusal_says_by_which_id_it_is_known(autojump_clock) -> None:
    """In the headers of its error; of a handshake that is not the turn's."""
    async with scene(Refuses()) as it, connected(it) as client:
        await client.create("one")
        await client.answer()
        assert 400 == (await (await it.client()).turn()).status
        records = await it.records()

    assert ["req_no", "req_no"] == [record.request_id for record in records]


class Says(TrioWebSocketConnector):
    """As it is, before a provider whose handshake says something."""

    async def connect(self, nursery: trio.Nursery, *more: Any) -> Any:
        wire: Any = await super().connect(nursery, *more)
        wire.headers = [*wire.headers, ("x-reasoning-included", "true"), ("x-codex-turn-state", "another's")]
        return wire


async def test_what_a_handshake_says_of_all_turns_reaches_clients(autojump_clock) -> None:
    """By HTTP in the head of each answer; by WebSocket in that of the upgrade, once it is known."""
    async with open_server(EchoModel(), port=None) as provider:
        options: dict[str, Any] = {"wire": Says(provider.open_stream)}
        async with scene(EchoModel(), **options) as it:
            _, first = await upgraded(it)
            async with connected(it) as client:
                await client.create("one")
                await client.answer()
            _, later = await upgraded(it)
            _, others = await upgraded(it, headers=(("authorization", "Bearer sk-other"),))
            answer = await (await it.client()).turn("two", stream=True)

    assert b"x-reasoning-included: true" in later
    assert b"x-reasoning-included" not in first + others
    assert b"another's" not in later
    assert "true" == answer.headers["x-reasoning-included"]
    assert "x-codex-turn-state" not in answer.headers
