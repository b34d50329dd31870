"""Whose span is the current one while the pool calls a function of the caller's; what spans say if asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
import trio

import wspool
from tests.doors.conftest import Far, far as far
from tests.helpers import (
    CANARY,
    FakeConnector,
    FakeWire,
    completed,
    created,
    echo,
    fake_pool,
    policy,
    serving,
)
from tests.telemetry.test_otel import Caller, Sdk
from wspool.otel.content import SWITCH

pytest.importorskip("opentelemetry.sdk.trace", reason="opentelemetry-sdk")

from opentelemetry import trace

TOOLS = [{"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}}]


def parents(sdk: Sdk) -> dict[str, str]:
    """The name of each span's parent, by its own name; of several with one name that of the last."""
    names = {span.context.span_id: span.name for span in sdk.spans()}
    return {span.name: names[span.parent.span_id] for span in sdk.spans() if span.parent is not None}


def here() -> int:
    return trace.get_current_span().get_span_context().span_id


EXPECTED = {
    "in the tool": "execute_tool look",
    "at an event": "chat m",
    "execute_tool look": "caller",
    "chat m": "caller",
}


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("waits", [False, True])
async def test_what_a_tool_and_on_event_make_are_children(autojump_clock, eager: bool, waits: bool) -> None:
    """Async ones too, which have waited in between; the caller's own span is the current one afterwards."""
    sdk = Sdk()

    async def look() -> str:
        await trio.sleep(1 if waits else 0)
        with sdk.tracer.start_as_current_span("in the tool"):
            return "seen"

    def on_event(event: wspool.Event) -> None:
        sdk.tracer.start_span("at an event").end()

    async def on_event_later(event: wspool.Event) -> None:
        await trio.sleep(0.1)
        on_event(event)

    async with (
        serving(Caller()) as world,
        world.pool(instrument=sdk.instrument) as pool,
        pool.conversation(model="m", tools=TOOLS) as conversation,
    ):
        with sdk.tracer.start_as_current_span("caller"):
            before = here()
            tell = on_event_later if waits else on_event
            await conversation.run("go", tools={"look": look}, on_event=tell, eager=eager)
            assert before == here()
        assert not trace.get_current_span().is_recording()

    assert parents(sdk) == EXPECTED
    chats = {span.context.span_id for span in sdk.spans("chat")}
    assert chats == {span.parent.span_id for span in sdk.spans("at an event")}, "each event is its turn's"


async def test_in_the_block_of_a_turn_the_caller_is(autojump_clock) -> None:
    """That is its own code. A generator that waits there gives nothing of the turn to who reads it."""
    sdk = Sdk()
    async with (
        fake_pool(FakeConnector(echo), instrument=sdk.instrument) as pool,
        pool.conversation(model="m") as conversation,
    ):
        with sdk.tracer.start_as_current_span("caller"):
            before = here()
            async with conversation.turn("x") as turn:
                async for _ in turn:
                    assert before == here()


async def test_a_pool_in_a_tool_of_a_host(autojump_clock) -> None:
    """What a tool's span is told ends with the tool: a turn in it that the host has a span for has none."""
    sdk = Sdk()
    async with fake_pool(FakeConnector(echo), instrument=sdk.instrument) as inner:

        async def look() -> str:
            with sdk.tracer.start_as_current_span("host's", attributes={"gen_ai.operation.name": "chat"}):
                async with inner.conversation(model="inner") as conversation:
                    return (await conversation.respond("x")).output_text

        async with (
            serving(Caller()) as world,
            world.pool(instrument=sdk.instrument) as pool,
            pool.conversation(model="m") as conversation,
        ):
            await conversation.run("go", tools={"look": look})

    (host,), (tool,) = sdk.spans("host's"), sdk.spans("execute_tool")
    assert "chat inner" not in {span.name for span in sdk.spans()}
    assert tool.context.span_id == host.parent.span_id
    assert "wspool.connection" in host.attributes
    assert "wspool.connection" not in tool.attributes


@pytest.mark.parametrize("tool_is_async", [False, True])
def test_so_it_is_in_asyncio(far: Far, tool_is_async: bool) -> None:
    """Functions run in the caller's loop, with the span of what they are called for."""
    sdk = Sdk()

    def look() -> str:
        with sdk.tracer.start_as_current_span("in the tool"):
            return "seen"

    async def look_later() -> str:
        await asyncio.sleep(0.01)
        return look()

    async def on_event(event: wspool.Event) -> None:
        await asyncio.sleep(0)
        sdk.tracer.start_span("at an event").end()

    async def main() -> None:
        async with (
            wspool.aio.open_pool(far.url, instrument=sdk.instrument) as pool,
            pool.conversation(model="m", tools=TOOLS) as conversation,
        ):
            with sdk.tracer.start_as_current_span("caller"):
                before = here()
                tool: Callable[..., Any] = look_later if tool_is_async else look
                await conversation.run("call look", tools={"look": tool}, on_event=on_event)
                assert before == here()

    asyncio.run(main())
    assert parents(sdk) == EXPECTED


def test_and_in_threads(far: Far) -> None:
    sdk = Sdk()

    def look() -> str:
        with sdk.tracer.start_as_current_span("in the tool"):
            return "seen"

    with (
        wspool.blocking.open_pool(far.url, instrument=sdk.instrument) as pool,
        pool.conversation(model="m", tools=TOOLS) as conversation,
        sdk.tracer.start_as_current_span("caller"),
    ):
        conversation.run(
            "call look",
            tools={"look": look},
            on_event=lambda event: sdk.tracer.start_span("at an event").end(),
        )

    assert parents(sdk) == EXPECTED


async def said(sdk: Sdk) -> list[dict[str, Any]]:
    """What the spans of a run say: of the input, the output and the instructions, decoded."""

    async def look() -> str:
        return "seen"

    async with (
        serving(Caller()) as world,
        world.pool(instrument=sdk.instrument) as pool,
        pool.conversation(model="m", instructions="Be brief.", tools=TOOLS) as conversation,
    ):
        await conversation.run("go", tools={"look": look})
    words = ("input.messages", "output.messages", "system_instructions")
    return [
        {word: json.loads(known[f"gen_ai.{word}"]) for word in words if f"gen_ai.{word}" in known}
        for known in (span.attributes for span in sdk.spans("chat"))
    ]


async def test_content_is_as_the_conventions_write_it(autojump_clock) -> None:
    """Each turn has what was given for it, and what came of it."""
    rules = [{"type": "text", "content": "Be brief."}]
    asked, answered = await said(Sdk(content=True))
    (call,) = asked["output.messages"][0].pop("parts")
    name = call["id"]
    assert call == {"type": "tool_call", "id": name, "name": "look", "arguments": {}}
    assert asked == {
        "input.messages": [{"role": "user", "parts": [{"type": "text", "content": "go"}]}],
        "output.messages": [{"role": "assistant", "finish_reason": "tool_call"}],
        "system_instructions": rules,
    }
    told = {"type": "tool_call_response", "id": name, "response": "seen"}
    assert answered == {
        "input.messages": [{"role": "tool", "parts": [told]}],
        "output.messages": [
            {"role": "assistant", "parts": [{"type": "text", "content": "seen"}], "finish_reason": "stop"}
        ],
        "system_instructions": rules,
    }


@pytest.mark.parametrize(
    ("variable", "argument", "expected"),
    [
        (None, None, False),
        ("true", None, True),
        ("SPAN_ONLY", None, True),
        ("span_and_event", None, True),
        ("EVENT_ONLY", None, False),
        ("NO_CONTENT", None, False),
        ("false", None, False),
        ("true", False, False),
        ("false", True, True),
    ],
)
async def test_content_is_off_unless_asked_for(
    autojump_clock, monkeypatch, variable: str | None, argument: bool | None, expected: bool
) -> None:
    """By the argument, or else by the variable that other instrumentations follow, too."""
    if variable is None:
        monkeypatch.delenv(SWITCH, raising=False)
    else:
        monkeypatch.setenv(SWITCH, variable)
    spoken = await said(Sdk(content=argument))
    assert 2 == len(spoken)
    assert [expected] * 2 == [bool(each) for each in spoken]


async def test_a_bare_lease_says_it_too_and_nobody_says_the_key(autojump_clock) -> None:
    """Not even if the server says it back. Of a picture only that there was one is said."""

    def tell(wire: FakeWire, request: dict[str, Any]) -> None:
        wire.push(created("r1"), completed("r1", f"your key is {CANARY}"))

    sdk = Sdk(content=True)
    picture = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}
    given = [
        {"role": "user", "content": [picture, {"type": "input_text", "text": "what?"}]},
        {"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "x", "content": None},
        {"type": "web_search_call", "id": "ws", "status": "completed"},
    ]
    async with (
        fake_pool(FakeConnector(tell), limits=policy(), api_key=CANARY, instrument=sdk.instrument) as pool,
        pool.lease() as lease,
        lease.create(model="m", input=given) as turn,
    ):
        given.clear()
        await turn.result()

    (span,) = sdk.spans("chat")
    assert CANARY not in span.to_json()
    assert "your key is" in span.attributes["gen_ai.output.messages"]
    assert json.loads(span.attributes["gen_ai.input.messages"]) == [
        {"role": "user", "parts": [{"type": "input_image"}, {"type": "text", "content": "what?"}]},
        {"role": "assistant", "parts": []},
        {"role": "assistant", "parts": [{"type": "web_search_call", "id": "ws"}]},
    ]
    assert "gen_ai.system_instructions" not in span.attributes


async def test_a_lease_has_a_time_of_use(autojump_clock) -> None:
    """From its grant to its end, be that given back or taken."""
    sdk = Sdk()
    limits = policy(max_size=1, patience=1.0)
    async with fake_pool(FakeConnector(echo), limits=limits, instrument=sdk.instrument) as pool:
        async with pool.lease():
            await trio.sleep(3)
        async with pool.lease() as parked:
            parked.park()
            with trio.move_on_after(20):
                async with pool.lease():
                    await trio.sleep(2)
            assert parked.taken
        statistics = pool.statistics()
        (point,) = sdk.points()["wspool.connection.use_time"]

    assert (3, 2, 1) == (statistics.granted, statistics.released, statistics.stolen)
    assert statistics.granted == point.count
    assert {"server.address", "server.port", "gen_ai.provider.name"} <= set(point.attributes)
    assert 3 + 1 + 2 == pytest.approx(point.sum, abs=0.01)
