"""Turns of several agents, and calls whose outputs come later."""

import contextlib
from typing import Any

import httpx
import pytest
from pydantic import TypeAdapter
from trio.testing import MockClock
from trio_websocket import ConnectionClosed

from tests.helpers import serving
from wspool.server import (
    AgentTurn,
    Fault,
    FaultRule,
    FaultScript,
    ModelTurn,
    ScriptedModel,
    function_call,
    message,
    open_server,
)

from .client import Frame, connected, text

CRITIC = {"agent_name": "/root/critic"}
TURN = ModelTurn(
    agents=[AgentTurn(name="/root/critic", output=[message("No.")]), AgentTurn(name="/root/idle")],
    output=[{**message("They say no."), "agent": {"agent_name": "/root"}}, message("So no.")],
)


async def test_agents_speak_before_the_model(autojump_clock: MockClock) -> None:
    """Each in a response of its own, tagged from its beginning to its end; then the turn goes on and ends."""
    from openai.types.beta import BetaResponsesServerEvent  # long in coming, and wanted here only

    async with open_server(ScriptedModel([TURN]), port=None) as server, connected(server) as client:
        await client.create(store=True)
        frames: list[Frame] = [await client.receive()]
        while frames[-1]["type"] != "response.completed" or "agent" in frames[-1]:
            frames.append(await client.receive())
        own = frames[-1]["response"]
        theirs = [frame for frame in frames if frame.get("agent") == CRITIC]
        assert [n for n, _ in enumerate(frames)] == [frame["sequence_number"] for frame in frames]
        assert ("response.created", "response.completed") == (theirs[0]["type"], theirs[-1]["type"])
        assert own["id"] != theirs[-1]["response"]["id"]
        assert "No." == text(theirs[-1]["response"])
        assert "They say no.So no." == text(own)
        assert ["/root", None] == [item.get("agent", {}).get("agent_name") for item in own["output"]]
        events: TypeAdapter[Any] = TypeAdapter(BetaResponsesServerEvent)
        for frame in frames:
            events.validate_python(frame)
        # It is a turn like any other: it can be continued, and what agents said in between is not in it.
        second = await client.respond("more", previous_response_id=own["id"])
        assert own["id"] == second["previous_response_id"]


@pytest.mark.network
async def test_over_http_the_answer_is_the_models() -> None:
    """The whole response is that of the turn, not of an agent within it."""
    async with open_server(ScriptedModel([TURN])) as server, httpx.AsyncClient() as http:
        answer = (await http.post(server.http_url, json={"model": "m", "input": "hi"})).json()
        assert "They say no.So no." == text(answer)


async def test_a_pool_takes_it_for_one_turn(autojump_clock: MockClock) -> None:
    """With who said what on each event; the connection is used again."""
    async with (
        serving(ScriptedModel([TURN])) as world,
        world.pool() as pool,
        pool.conversation(model="m", store=False) as conversation,
    ):
        async with conversation.turn("hi") as turn:
            agents = [event.agent async for event in turn]
        assert turn.response is not None
        assert "They say no.So no." == turn.response.output_text
        assert {None, "/root", "/root/critic", "/root/idle"} == set(agents)
        await conversation.respond("more")
        assert [(1, None), (1, "lane")] == [(e["connection"], e["parent_from"]) for e in world.ledger]


async def test_a_fault_at_the_end_waits_for_the_end(autojump_clock: MockClock) -> None:
    """That of the turn, not that of an agent."""
    script = FaultScript(FaultRule(Fault("reset", at="response.completed")))
    async with (
        open_server(ScriptedModel([TURN]), port=None, faults=script) as server,
        connected(server) as client,
    ):
        await client.create()
        seen: list[Frame] = []
        with contextlib.suppress(ConnectionClosed):
            while True:
                seen.append(await client.receive())
    assert 2 == [frame["type"] for frame in seen].count("response.completed")
    assert all("agent" in frame for frame in seen if frame["type"] == "response.completed")
    assert "So no." == seen[-1]["item"]["content"][0]["text"]


async def test_a_late_output_is_no_debt(autojump_clock: MockClock) -> None:
    """The conversation goes on after a call of a tool that is `async`, and its output comes later, by id."""
    tools = [{"type": "function", "name": "slow", "async": True}, {"type": "function", "name": "fast"}]
    script = [
        ModelTurn(output=[function_call("slow", {}, call_id="c1"), message("meanwhile")]),
        ModelTurn(output=[function_call("fast", {}, call_id="c2")]),
        ModelTurn(output=[message("done")]),
    ]
    output = {"type": "function_call_output", "call_id": "c1", "output": "late"}
    async with open_server(ScriptedModel(script), port=None) as server, connected(server) as client:
        first = await client.respond(tools=tools)
        assert [True, None] == [item.get("async") for item in first["output"]]
        second = await client.respond("go on", previous_response_id=first["id"], tools=tools)
        assert [None] == [item.get("async") for item in second["output"]]
        (refused,) = await client.turn(
            [output, {"role": "user", "content": "well?"}], previous_response_id=second["id"]
        )
        assert "No tool output found for function call c2." == refused["error"]["message"]
    async with open_server(ScriptedModel(script), port=None) as server, connected(server) as client:
        first = await client.respond(tools=tools)
        await client.respond([output], previous_response_id=first["id"], tools=tools)
