"""A context that became too long, inside a turn and outside."""

from typing import Any

import httpx
import openai
import pytest
import trio
from openai.types.responses import ResponsesServerEvent
from pydantic import TypeAdapter
from trio.testing import MockClock

from wspool.server import (
    EchoModel,
    Entry,
    ModelRequest,
    ModelTurn,
    context_digest,
    function_call,
    message,
    open_server,
)
from wspool.server.protocol.compaction import compaction_item, unpacked

from .client import connected, text
from .test_transcripts import frames_of, shapes

EVENT: TypeAdapter[Any] = TypeAdapter(ResponsesServerEvent)

LONG = "word " * 200


class Historian:
    """Says how much it remembers."""

    def respond(self, request: ModelRequest) -> ModelTurn:
        return ModelTurn(output=[message(f"{len(request.context)} {request.context[0]['role']}")])


def managed(threshold: int) -> dict[str, Any]:
    return {"context_management": [{"type": "compaction", "compact_threshold": threshold}]}


async def test_a_long_context_is_compacted_in_the_turn(autojump_clock: MockClock) -> None:
    """As in the transcript: the item first, then the message; what follows is made of these."""
    ledger: list[Entry] = []
    async with (
        open_server(Historian(), port=None, ledger=ledger) as server,
        connected(server) as client,
    ):
        first = await client.respond(LONG, **managed(1000))
        frames = await client.turn(LONG, previous_response_id=first["id"], **managed(300))
        second = frames[-1]["response"]
        third = await client.respond("more", previous_response_id=second["id"], **managed(300))
        again = await client.respond([*second["output"], {"role": "user", "content": "more"}])

    assert [item["type"] for item in first["output"]] == ["message"]
    assert [item["type"] for item in second["output"]] == ["compaction", "message"]
    assert shapes(frames_of("T13", "server")[:5]) == shapes(frames[:5])
    for frame in frames:
        EVENT.validate_python(frame)
    history = [*second["output"], {"role": "user", "content": "more"}]
    assert context_digest(history) == ledger[2]["context_sha256"] == ledger[3]["context_sha256"]
    assert [entry["context_items"] for entry in ledger] == [1, 3, 3, 3]
    # The model still sees everything: two turns and a question.
    assert text(third) == text(again) == "5 user"
    assert [item["type"] for item in third["output"]] == ["message"]


async def test_the_threshold_is_exact(autojump_clock: MockClock) -> None:
    """A context of that many tokens is left alone; one more is too many."""
    async with open_server(EchoModel(), port=None) as server, connected(server) as client:
        tokens = (await client.respond(LONG))["usage"]["input_tokens"]
        kinds = [
            (await client.respond(LONG, **managed(threshold)))["output"][0]["type"]
            for threshold in (tokens, tokens - 1)
        ]

    assert kinds == ["message", "compaction"]


async def test_a_call_from_before_can_be_answered_after(autojump_clock: MockClock) -> None:
    """What was compacted is not forgotten: its calls are known, on another connection too."""
    call = function_call("f", {}, call_id="call_1")
    packed = compaction_item([{"role": "user", "content": "go"}, call])
    output = {"type": "function_call_output", "call_id": "call_1", "output": "done"}
    async with open_server(EchoModel(), port=None) as server, connected(server) as client:
        assert text(await client.respond([packed, output])) == "done"


@pytest.mark.parametrize("content", [None, "gAAAAAB-opaque", "gAAAAABws-!!", "gAAAAABws-AAAA"])
def test_a_foreign_item_is_left_alone(content: str | None) -> None:
    """It stands for something that nobody here can read."""
    context = [message("a"), {"type": "compaction", "encrypted_content": content}]

    assert unpacked(context) == context


def test_compacting_twice_loses_nothing() -> None:
    """An item within an item is opened first."""
    one, two, three = (message(words) for words in "abc")

    assert list(unpacked([compaction_item([compaction_item([one]), two]), three])) == [one, two, three]


@pytest.mark.network
async def test_a_conversation_is_compacted_over_http() -> None:
    """All user messages, then the item; a new chain starts from them, with the SDK and with our own eyes."""
    async with open_server(Historian(), port=0) as server, httpx.AsyncClient() as http:
        given = [{"role": "user", "content": "one"}, message("two"), {"role": "user", "content": "three"}]
        url = server.http_url + "/compact"
        answer = (await http.post(url, json={"model": "m", "input": given})).json()
        assert answer["object"] == "response.compaction"
        assert [item["type"] for item in answer["output"]] == ["message", "message", "compaction"]
        assert {
            "id": "msg_000001_0",
            "type": "message",
            "status": "completed",
            "role": "user",
            "content": [{"type": "input_text", "text": "one"}],
        } == answer["output"][0]
        assert "cmp_000001_2" == answer["output"][2]["id"]
        async with connected(server, tcp=True) as client:
            new = await client.respond([*answer["output"], {"role": "user", "content": "four"}])
        assert text(new) == "4 user"
        lost = await http.post(url, json={"model": "m", "previous_response_id": answer["id"]})
        assert (lost.status_code, lost.json()["error"]["code"]) == (400, "previous_response_not_found")
        base = server.http_url.removesuffix("/responses")

        def with_the_sdk() -> list[str]:
            with openai.OpenAI(api_key="k", base_url=base) as sdk:
                stored = sdk.responses.create(model="m", input="hello")
                compacted = sdk.responses.compact(model="m", previous_response_id=stored.id)
                return [item.type for item in compacted.output]

        assert await trio.to_thread.run_sync(with_the_sdk) == ["message", "compaction"]
