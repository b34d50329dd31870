"""The judge sees what is wrong, and its list of deviations is about what the server really does."""

from typing import Any

import pytest
from trio.testing import MockClock

from tests import judge
from tests.server.client import connected
from wspool.server import EchoModel, ModelTurn, ScriptedModel, TurnError, message, open_server


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
