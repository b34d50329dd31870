"""What a server said once and refuses afterwards, and what it has forgotten."""

from __future__ import annotations

from typing import Any

import pytest
import trio

import wspool
from wspool.core.sending.sendable import NO_OUTPUT
from wspool.server import Fault, FaultRule, ModelRequest, ModelTurn, function_call, message
from wspool.server.protocol.history import NOTHING

from .scene import Make, Scene, faulty

#: The connection is lost between two turns, twice.
LOST = (
    FaultRule(Fault("fin", at="idle", delay=5), connection=1),
    FaultRule(Fault("fin", at="idle", delay=5), connection=2),
)

THOUGHT: dict[str, Any] = {"type": "reasoning", "summary": [], "encrypted_content": "gA"}
BARE: dict[str, Any] = {"type": "reasoning", "summary": []}


class Odd:
    """Says something odd first, then `ok`."""

    def __init__(self, *output: dict[str, Any], status: Any = "completed") -> None:
        self._output, self._status = output, status
        self.seen: list[list[dict[str, Any]]] = []

    def respond(self, request: ModelRequest) -> ModelTurn:
        self.seen.append([dict(item) for item in request.context])
        if len(self.seen) == 1:
            return ModelTurn(output=[dict(item) for item in self._output], status=self._status)
        return ModelTurn(
            output=[
                message(
                    "ok",
                )
                | {"id": "msg_1"}
            ]
        )


async def talk(scene: Scene, conversation: wspool.Conversation, first: Any = "one") -> None:
    """Three turns, each on a connection of its own; all but the first say `ok`."""
    await conversation.respond(first)
    for text in ("two", "three"):
        calls = [item for item in conversation.items if item["type"] == "function_call"]
        outputs = [
            {"type": "function_call_output", "call_id": call["call_id"], "output": "done"}
            for call in calls
            if text == "two"
        ]
        await trio.sleep(6)
        said = {"type": "message", "role": "user", "content": text}
        assert "ok" == (await conversation.respond([*outputs, said])).output_text
    assert [(1, "completed"), (2, "completed"), (3, "completed")] == [
        (connection, outcome.replace("incomplete", "completed")) for connection, outcome in scene.outcomes
    ]
    assert {0} == {entry["input_items"] - entry["context_items"] for entry in scene.ledger}, "sent in full"


@pytest.mark.parametrize("status", ["completed", "incomplete"])
async def test_f111_reasoning_that_nothing_follows(make: Make, status: str, autojump_clock) -> None:
    """F111: a response ends with reasoning and nothing after it, and no server takes that again -> nothing:
    it stays in `items`, is left out of what is sent in full, and a warning says so once.
    """
    model = Odd(THOUGHT, status=status)
    async with (
        faulty(make, *LOST, model=model) as scene,
        scene.pool.conversation(model="m", store=False) as conversation,
    ):
        await talk(scene, conversation)
        assert ["message", "message", "message", "message"] == [item["type"] for item in model.seen[-1]]
        assert "reasoning" == conversation.items[1]["type"]


async def test_f112_reasoning_without_its_content(make: Make, autojump_clock) -> None:
    """F112: reasoning comes without its encrypted content and nobody stores it, though `include` asks for it
    beside whatever else you ask for -> nothing: as F111; what came of it is sent.
    """
    model = Odd(BARE, message("hm"))
    async with (
        faulty(make, *LOST, model=model) as scene,
        scene.pool.conversation(model="m", store=False, include=["x"]) as conversation,
    ):
        await talk(scene, conversation)
        assert 5 == len(model.seen[-1])
        assert "hm" == model.seen[-1][1]["content"][0]["text"]


@pytest.mark.parametrize("name", ["", "a.b", "x" * 300])
async def test_f113_calls_that_no_server_takes_again(make: Make, name: str, autojump_clock) -> None:
    """F113: a call without a name, or with names, ids or arguments out of bounds -> nothing: it is sent again
    with what fits in their place, and so is its output; a warning says so once.
    """
    model = Odd(function_call(name, {}, call_id="c" * 70))
    async with (
        faulty(make, *LOST, model=model) as scene,
        scene.pool.conversation(model="m", store=False) as conversation,
    ):
        await talk(scene, conversation)
        (call, output) = (item for item in model.seen[-1] if "call_id" in item)
        assert call["call_id"] == output["call_id"] != "c" * 70
        assert 1 <= len(call["name"]) <= 128
        assert name == conversation.items[1]["name"]


async def test_f114_ids_that_are_used_again(make: Make, autojump_clock) -> None:
    """F114: a server gives items of two turns one id, and refuses both together -> nothing: both are sent,
    the later one without.
    """
    model = Odd(message("first") | {"id": "msg_1"})
    async with (
        faulty(make, *LOST, model=model) as scene,
        scene.pool.conversation(model="m", store=False) as conversation,
    ):
        await talk(scene, conversation)
        assert ["msg_1", None] == [
            item.get("id") for item in model.seen[-1] if item.get("role") == "assistant"
        ]


async def test_f115_half_a_character(make: Make, autojump_clock) -> None:
    """F115: half a surrogate pair, NaN or infinity in an answer, which no request may hold -> nothing: you
    get it as it came; what is sent again, and `items`, have U+FFFD and null, and a warning says so once.
    """
    model = Odd(message("half \ud83d"))
    async with (
        faulty(make, *LOST, model=model) as scene,
        scene.pool.conversation(model="m", store=False) as conversation,
    ):
        await talk(scene, conversation)
        assert "half \ufffd" == model.seen[-1][1]["content"][0]["text"]


async def test_f116_a_root_that_is_not_known(make: Make, autojump_clock) -> None:
    """F116: `pool.conversation(previous_response_id=...)` names a response that the server does not hold ->
    `PreviousResponseNotFoundError`, each time; nothing ran, the connection stays.
    """
    async with (
        faulty(make) as scene,
        scene.pool.conversation(model="m", previous_response_id="resp_0") as conversation,
    ):
        for _ in range(2):
            (await scene.ask(conversation=conversation)).assert_failed(
                wspool.PreviousResponseNotFoundError, "previous_response_not_found"
            )
        assert [] == conversation.items
        conversation.close()
        await scene.assert_well(creates=2, connection=1)


async def test_f117_a_snapshot_that_lacks_a_part(make: Make, autojump_clock) -> None:
    """F117: a snapshot names a parent that the server does not hold, and has not all items that led to it ->
    as F116, instead of an answer that knows a fragment; without a parent its items are all there is.
    """
    async with faulty(make) as scene:
        async with scene.pool.conversation(model="m", store=False) as conversation:
            await conversation.respond("one")
            snapshot = conversation.snapshot()
        cut = {**snapshot, "items": snapshot["items"][1:]}
        async with scene.pool.conversation(resume={**cut, "parent": "resp_0"}) as conversation:
            (await scene.ask(conversation=conversation)).assert_failed(
                wspool.PreviousResponseNotFoundError, "previous_response_not_found"
            )
        async with scene.pool.conversation(resume={**cut, "parent": None}) as conversation:
            (await scene.ask(conversation=conversation)).assert_answer()
        async with scene.pool.conversation(resume=snapshot) as conversation:
            (await scene.ask(conversation=conversation)).assert_answer()
        assert [1, 0, 2, 3] == [entry["input_items"] for entry in scene.ledger]


async def test_f118_items_that_are_not_taken(make: Make, autojump_clock) -> None:
    """F118: a server refuses an item of the history for a reason of its own, at each full send ->
    `ResponseFailedError` with `param`; `Conversation.edit` takes it out, and the conversation goes on.
    """
    model = Odd(message("hm"), {"type": "thinking", "text": "odd"})
    async with (
        faulty(make, *LOST, model=model) as scene,
        scene.pool.conversation(model="m", store=False) as conversation,
    ):
        await conversation.respond("one")
        await trio.sleep(6)
        story = await scene.ask("two", conversation=conversation)
        assert "input[2]" == story.assert_failed(wspool.ResponseFailedError, "invalid_value").param
        conversation.edit([item for item in conversation.items if item["type"] != "thinking"])
        (await scene.ask("two", conversation=conversation)).assert_answer("ok")


async def test_f141_a_call_that_was_never_answered(make: Make, autojump_clock) -> None:
    """F141: a call of an earlier turn has no output, since the history was edited, or is of a server that
    went on without -> nothing: in what is sent in full an output follows that says so, and a warning says so
    once; the calls of the last response are yours to answer (F121).
    """
    model = Odd(function_call("look", {}, call_id="c1"))
    async with (
        faulty(make, *LOST, model=model, lenient=True) as scene,
        scene.pool.conversation(model="m", store=False) as conversation,
    ):
        await conversation.respond("one")
        went_on = [{"type": "message", "role": role, "content": "ok"} for role in ("user", "assistant")]
        conversation.edit([*conversation.items, *went_on])
        assert "ok" == (await conversation.respond("two")).output_text
        await trio.sleep(6)
        assert "ok" == (await conversation.respond("three")).output_text
        seen = model.seen[-1]
        assert "function_call_output" not in [item["type"] for item in conversation.items]
    assert NOTHING.judge(seen, seen, stored=False)[1] is None
    assert {"type": "function_call_output", "call_id": "c1", "output": NO_OUTPUT} == seen[2]


async def test_f142_no_encrypted_reasoning(make: Make, autojump_clock, caplog) -> None:
    """F142: a model, or an endpoint, refuses `include: ["reasoning.encrypted_content"]`, which is asked for
    wherever nothing is stored -> nothing: the refused turn did not run and is sent again without it, and no
    turn of the pool asks this model again; a warning says so once.
    """
    said: dict[str, Any] = {"status": 400, "code": None, "type": "invalid_request_error", "param": "include"}
    refused = Fault("error", **said, message="Encrypted content is not supported with this model.")
    asks = FaultRule(refused, body=lambda body: bool(body.get("include")), times=None)
    async with faulty(make, asks) as scene:
        for _ in range(2):
            async with scene.pool.conversation(model="m", store=False) as conversation:
                for text in ("one", "two"):
                    (await scene.ask(text, conversation=conversation)).assert_answer(text)
        assert 1 == scene.outcomes.count((1, "rejected"))
        assert 1 == sum("encrypted reasoning" in record.message for record in caplog.records)
        await scene.assert_well(creates=5, connection=1)


async def test_f143_an_id_that_its_own_server_does_not_take(make: Make, autojump_clock) -> None:
    """F143: a server calls by ids of more than 64 characters, and refuses the answers for it -> nothing: the
    first is sent again in full, where call and answer have another id, and each further one at once.
    """
    model = Odd(function_call("look", {}, call_id="c" * 70))
    async with (
        faulty(make, model=model) as scene,
        scene.pool.conversation(model="m", store=False) as conversation,
    ):
        await conversation.respond("one")
        output = {"type": "function_call_output", "call_id": "c" * 70, "output": "done"}
        assert "ok" == (await conversation.respond([output])).output_text
        assert "ok" == (await conversation.respond("three")).output_text
        assert 1 == scene.outcomes.count((1, "rejected"))
        assert [1, 1, 3, 1] == [entry["input_items"] for entry in scene.ledger]
