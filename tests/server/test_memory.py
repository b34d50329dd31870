"""What can be continued, where, and until when; and what the model gets to see."""

import hashlib
from typing import Any

import attrs
import pytest
from trio.testing import MockClock

from wspool.server import (
    AZURE,
    LOCALAI,
    EchoModel,
    Entry,
    ModelRequest,
    ModelTurn,
    ScriptedModel,
    TurnError,
    context_digest,
    function_call,
    message,
    open_server,
)
from wspool.server.protocol.cache import Remembered, Store
from wspool.server.protocol.history import NOTHING

from .client import Client, Frame, connected, text


class CountingModel:
    """Says how many items it sees; fails, or is refused, when the last one asks for it."""

    def respond(self, request: ModelRequest) -> ModelTurn:
        said = str(request.context[-1].get("content", "")) if request.context else ""
        for status in ("failed", "rejected", "incomplete"):
            if status in said:
                error = TurnError(message=status, code="server_error", status=500)
                return ModelTurn(output=[message("part")], status=status, error=error)
        return ModelTurn(output=[message(str(len(request.context)))])


async def refused(client: Client, **fields: Any) -> Any:
    """The code of the refusal that this request gets, or None if it is answered."""
    frame: Frame = (await client.turn(**fields))[-1]
    return frame["error"]["code"] if frame["type"] == "error" else None


GONE = "previous_response_not_found"


async def test_a_continuation_sees_the_whole_chain(autojump_clock: MockClock) -> None:
    """The model sees parents, their output and the new input, in order, and nothing of other chains."""
    ledger: list[Entry] = []
    async with (
        open_server(EchoModel(), port=None, ledger=ledger) as server,
        connected(server) as client,
    ):
        first = await client.respond("one")
        second = await client.respond([], previous_response_id=first["id"])
        await client.respond("three", previous_response_id=second["id"])

    said = [{"role": "assistant", "content": "one"}]
    history = [{"role": "user", "content": "one"}, *said, *said, {"role": "user", "content": "three"}]
    assert [entry["context_items"] for entry in ledger] == [1, 2, 4]
    assert [entry["input_items"] for entry in ledger] == [1, 0, 1]
    assert context_digest(history) == ledger[-1]["context_sha256"]
    assert [entry["parent_was_latest"] for entry in ledger] == [False, True, True]
    assert context_digest("one") == ledger[0]["context_sha256"]


async def test_a_full_resend_gives_the_same_digest_as_the_chain(autojump_clock: MockClock) -> None:
    """A client that sends its history again is seen to have the same conversation."""
    ledger: list[Entry] = []
    script = [
        ModelTurn(output=[function_call("f", {}), function_call("g", {})]),
        ModelTurn(output=[message("done")]),
    ]
    async with (
        open_server(ScriptedModel(script), port=None, ledger=ledger) as server,
        connected(server) as client,
    ):
        first = await client.respond("go")
        outputs = [
            {"type": "function_call_output", "call_id": call["call_id"], "output": "1"}
            for call in first["output"]
        ]
        await client.respond(outputs, previous_response_id=first["id"])
        again = await client.respond([{"role": "user", "content": "go"}, *first["output"], *outputs])

    assert ledger[1]["context_sha256"] == ledger[2]["context_sha256"]
    assert text(again) == "done"


async def test_only_the_latest_response_of_a_lane_is_remembered(autojump_clock: MockClock) -> None:
    """With `store: false` an older response of the same connection is gone."""
    async with open_server(CountingModel(), port=None) as server, connected(server) as client:
        first = await client.respond()
        second = await client.respond(previous_response_id=first["id"])

        assert await refused(client, previous_response_id=first["id"]) == GONE
        assert text(await client.respond(previous_response_id=second["id"])) == "5"


async def test_another_connection_remembers_nothing(autojump_clock: MockClock) -> None:
    """With `store: false` a response dies with its connection."""
    async with open_server(CountingModel(), port=None) as server:
        async with connected(server) as client:
            first = await client.respond()
        async with connected(server) as client:
            assert await refused(client, previous_response_id=first["id"]) == GONE


async def test_a_stored_response_continues_anywhere(autojump_clock: MockClock) -> None:
    """With `store: true` every connection can continue every response, however old."""
    async with open_server(CountingModel(), port=None) as server:
        async with connected(server) as client:
            first = await client.respond(store=True)
            await client.respond(previous_response_id=first["id"], store=True)
        async with connected(server) as client:
            assert text(await client.respond(previous_response_id=first["id"])) == "3"


@pytest.mark.parametrize("how", ["failed", "rejected"])
async def test_a_failed_continuation_evicts_its_parent(how: str, autojump_clock: MockClock) -> None:
    """A continuation on the parent's own lane that fails makes the lane forget the parent."""
    async with open_server(CountingModel(), port=None) as server, connected(server) as client:
        first = await client.respond()
        await client.turn(how, previous_response_id=first["id"])

        assert await refused(client, previous_response_id=first["id"]) == GONE


async def test_a_failed_fork_keeps_the_parent_for_its_lane(autojump_clock: MockClock) -> None:
    """A failure on another lane leaves the parent where it was."""
    ledger: list[Entry] = []
    async with (
        open_server(CountingModel(), port=None, ledger=ledger) as server,
        connected(server) as client,
    ):
        first = await client.respond()
        await client.turn("failed", previous_response_id=first["id"], stream_id="fork")

        assert await refused(client, previous_response_id=first["id"]) is None
    assert [entry["parent_from"] for entry in ledger] == [None, "fork", "lane"]
    assert [entry["parent_was_latest"] for entry in ledger] == [False, False, True]


@pytest.mark.parametrize(
    "fields",
    [
        {"input": "failed"},
        {"previous_response_id": "resp_other"},
        {"stream_id": "bad name", "previous_response_id": "PARENT"},
        {"background": True, "previous_response_id": "PARENT"},
        {"model": None, "previous_response_id": "PARENT"},
    ],
)
async def test_what_does_not_continue_the_parent_evicts_nothing(
    fields: Frame, autojump_clock: MockClock
) -> None:
    """Neither a failing new chain, nor an unknown parent, nor a request that never reached the model."""
    async with open_server(CountingModel(), port=None) as server, connected(server) as client:
        first = await client.respond()
        if fields.get("previous_response_id") == "PARENT":
            fields = fields | {"previous_response_id": first["id"]}
        assert (await client.turn(**fields))[-1]["type"] in ("error", "response.failed")

        assert await refused(client, previous_response_id=first["id"]) is None


async def test_an_incomplete_response_can_be_continued(autojump_clock: MockClock) -> None:
    """What was said before the cut is part of the chain."""
    async with open_server(CountingModel(), port=None) as server, connected(server) as client:
        cut = (await client.turn("incomplete"))[-1]["response"]

        assert text(await client.respond(previous_response_id=cut["id"])) == "3"


async def test_a_fork_may_start_before_its_source_advances(autojump_clock: MockClock) -> None:
    """The parent is bound when the fork starts, so later turns of the source lane do not take it away."""
    model = ScriptedModel([ModelTurn(output=[message("a")]), ModelTurn(output=[message("b")], delay=10)])
    async with open_server(model, port=None) as server, connected(server) as client:
        first = await client.respond(stream_id="source")
        await client.create(previous_response_id=first["id"], stream_id="fork")
        assert (await client.receive())["type"] == "response.created"
        assert (await client.receive())["type"] == "response.in_progress"
        await client.create(previous_response_id=first["id"], stream_id="source")

        done: dict[str, str] = {}
        while len(done) < 2:
            frame = await client.receive()
            assert frame["type"] != "error", frame
            if frame["type"] == "response.completed":
                done[frame["stream_id"]] = frame["response"]["previous_response_id"]
    assert {"fork": first["id"], "source": first["id"]} == done


async def test_a_parent_is_looked_up_when_the_turn_starts(autojump_clock: MockClock) -> None:
    """A request in line loses a parent that is replaced meanwhile."""
    model = ScriptedModel([ModelTurn(output=[message("a")], delay=5)])
    async with open_server(model, port=None) as server, connected(server) as client:
        first = await client.respond()
        await client.create("new chain")
        await client.create(previous_response_id=first["id"])
        await client.finish()

        assert (await client.finish())[-1]["error"]["code"] == GONE


async def test_a_warm_up_can_be_continued(autojump_clock: MockClock) -> None:
    """A warm-up has no output, and what it was given is part of the chain."""
    ledger: list[Entry] = []
    async with (
        open_server(CountingModel(), port=None, ledger=ledger) as server,
        connected(server) as client,
    ):
        warm = await client.respond("context", generate=False)
        assert warm["output"] == []
        assert text(await client.respond(previous_response_id=warm["id"])) == "2"
        prewarm = await client.respond(prompt_cache_options={"prewarm": True}, generate=True)
        assert prewarm["output"] == []

    assert [entry["generate"] for entry in ledger] == [False, True, False]


async def test_localai_ignores_warm_up_and_forgets_what_is_not_stored(autojump_clock: MockClock) -> None:
    """The profile's quirks: a warm-up is answered for real, and only stored responses continue."""
    async with (
        open_server(CountingModel(), port=None, profile=LOCALAI) as server,
        connected(server) as client,
    ):
        first = await client.respond(generate=False)
        assert text(first) == "1"
        refusal = (await client.turn(previous_response_id=first["id"]))[-1]
        assert "status" not in refusal
        assert refusal["error"]["code"] == GONE
        stored = await client.respond(store=True)
        assert await refused(client, previous_response_id=stored["id"]) is None


async def test_without_lanes_the_stream_id_is_ignored(autojump_clock: MockClock) -> None:
    """One lane: events carry no name, and all requests share one memory."""
    async with (
        open_server(CountingModel(), port=None, profile=AZURE) as server,
        connected(server) as client,
    ):
        frames = await client.turn(stream_id="a")
        assert not any("stream_id" in frame for frame in frames)
        first = frames[-1]["response"]
        await client.turn("failed", stream_id="b", previous_response_id=first["id"])

        assert await refused(client, previous_response_id=first["id"]) == GONE


async def test_seeds_keep_ids_apart(autojump_clock: MockClock) -> None:
    """A restarted server with another seed never issues an id again; with the same seed it repeats itself."""
    ids = []
    for seed in (0, 1, 1):
        async with (
            open_server(EchoModel(), port=None, seed=seed) as server,
            connected(server) as client,
        ):
            ids.append((await client.respond())["id"])

    assert ids[0] != ids[1] == ids[2]


def test_the_store_is_bounded() -> None:
    """The oldest response makes room."""
    store = Store(2)
    one = Remembered(response_id="1", context=(), known=NOTHING, digest=hashlib.sha256(), tokens=0)
    for name in "123":
        store.put(attrs.evolve(one, response_id=name), {})

    assert (len(store), store.get("1")) == (2, None)
