"""The judge sees what is wrong, and its list of deviations is about what the server really does."""

from typing import Any

import pytest
from trio.testing import MockClock

import wspool
from tests import judge
from tests.server.client import connected
from wspool.server import EchoModel, ModelTurn, ScriptedModel, TurnError, message, open_server
from wspool.wire.trio_websocket import TrioWebSocketConnector


async def frames(**fields: Any) -> list[dict[str, Any]]:
    """One turn."""
    async with open_server(EchoModel(), port=None) as server, connected(server) as client:
        return await client.turn("one two", **fields)


async def test_a_turn_is_judged(autojump_clock: MockClock) -> None:
    """Every frame of it, each by the model of its own type, before it is sent."""
    before = sum(judge.JUDGED.values())
    sent = await frames()

    assert len(sent) == sum(judge.JUDGED.values()) - before
    assert {frame["type"] for frame in sent} <= set(judge.JUDGED)
    assert [None] * len(sent) == [judge.problem_of(frame) for frame in sent]


async def test_a_frame_that_is_wrong_is_seen(autojump_clock: MockClock) -> None:
    """Whatever is taken out of it, or put in its place: in the event, in its response, and in its items."""
    for frame in await frames():
        for name in set(frame) - {"type", "obfuscation", "logprobs"}:
            without = {key: value for key, value in frame.items() if key != name}
            assert judge.problem_of(without) is not None, (frame["type"], name)
        assert judge.problem_of(frame | {"type": "response.nonsense"}) is not None
        response = frame.get("response", {})
        for name in ("presence_penalty", "tools", "text", "completed_at", "metadata", "store"):
            if name in response:
                less = {key: value for key, value in response.items() if key != name}
                assert judge.problem_of(frame | {"response": less}) is not None, name
        if "item" in frame:
            assert judge.problem_of(frame | {"item": frame["item"] | {"role": "nobody"}}) is not None


async def test_what_is_wrong_fails_the_test(autojump_clock: MockClock) -> None:
    """But for the kinds on the list."""
    (created, *_, last) = await frames()
    judge.judge(created | {"sequence_number": None})
    judge.judge(last | {"response": last["response"] | {"usage": 1}})
    judge.judge({"type": "error", "status": 400, "error": {"code": None, "message": "no"}})
    found, judge.PROBLEMS[:] = judge.PROBLEMS[:], []

    assert ["response.created", "response.completed"] == [frame["type"] for _, frame in found]
    assert found[0][0].startswith("sequence_number: ")


THOUGHT: dict[str, Any] = {
    "type": "reasoning",
    "summary": [],
    "content": [{"type": "reasoning_text", "text": "a"}],
}
SCHEMA: dict[str, Any] = {"format": {"type": "json_schema", "name": "n", "schema": {}}}


@pytest.mark.parametrize(
    ("reason", "turn", "fields"),
    [
        ("tools, and items", ModelTurn(), {"tools": [{"type": "web_search"}]}),
        ("repeat the schema", ModelTurn(), {"text": SCHEMA}),
        ("events of their own", ModelTurn(output=[THOUGHT, message("b")]), {}),
        ("code that is null", ModelTurn(status="rejected", error=TurnError(message="no")), {}),
        ("newer than the specification", ModelTurn(), {"reasoning": {"effort": "max"}}),
    ],
)
async def test_a_deviation_is_one(
    reason: str, turn: ModelTurn, fields: dict[str, Any], autojump_clock: MockClock
) -> None:
    """The server does so, the specification does not, and only that kind is let pass."""
    async with open_server(ScriptedModel([turn]), port=None) as server, connected(server) as client:
        wrong = [frame for frame in await client.turn(**fields) if judge.problem_of(frame) is not None]
    (is_such,) = [is_such for _, why, is_such in judge.DEVIATIONS if reason in why]

    assert wrong
    assert all(map(is_such, wrong))


REQUEST: dict[str, Any] = {
    "type": "response.create",
    "model": "m",
    "store": False,
    "include": ["reasoning.encrypted_content"],
    "previous_response_id": "resp_1",
    "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}],
    "input": [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"type": "function_call_output", "call_id": "c", "output": "done"},
    ],
}


@pytest.mark.parametrize(
    "change",
    [
        {"type": "response.made"},
        {"previous_response_id": 5},
        {"metadata": {"a": 1}},
        {"include": "all"},
        {"temperature": "hot"},
        {"input": [{"type": "message", "role": "user", "content": ["hi"]}]},
        {"input": [{"type": "message", "role": "nobody", "content": "hi"}]},
        {"input": [{"type": "function_call_output", "call_id": "c"}]},
        {"input": [{"type": "function_call", "call_id": "c", "name": "f" * 129, "arguments": "{}"}]},
        {"input": [{"type": "reasoning", "encrypted_content": "x"}]},
    ],
    ids=str,
)
def test_a_request_that_is_wrong_is_seen(change: dict[str, Any]) -> None:
    """In its fields, and in its items."""
    assert judge.problem_in_request(REQUEST) is None
    assert judge.problem_in_request({**REQUEST, **change}) is not None


async def test_what_a_pool_sends_is_judged(autojump_clock: MockClock) -> None:
    """All of it; what is wrong fails the test."""
    async with (
        open_server(EchoModel(), port=None) as server,
        wspool.open_pool(server.url, wire=TrioWebSocketConnector(server.open_stream)) as pool,
        pool.conversation(model="m") as conversation,
    ):
        before = judge.JUDGED.get("response.create", 0)
        await conversation.respond("hi")
        await conversation.respond("hi", metadata={"a": "b"})
        assert 2 == judge.JUDGED["response.create"] - before
        with pytest.raises(wspool.ResponseFailedError):
            await conversation.respond("hi", metadata={"a": 1})
    found, judge.ASKED[:] = judge.ASKED[:], []
    assert {"valid string"} == {problem[-12:] for problem, _ in found}
