"""Input for a response that is in progress: accepted, waiting, returned, and the response that follows."""

import json
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from openai.types.responses import ResponsesServerEvent
from pydantic import TypeAdapter
from trio.testing import MockClock
from trio_websocket import ConnectionClosed

from wspool.server import (
    OPENAI,
    Entry,
    Fault,
    FaultScript,
    ModelRequest,
    ModelTurn,
    TurnError,
    context_digest,
    function_call,
    message,
    open_server,
)

from .client import TERMINAL, Client, Frame, connected, text

EVENT: TypeAdapter[Any] = TypeAdapter(ResponsesServerEvent)

TRANSCRIPT: list[Frame] = [
    line["frame"]
    for line in map(json.loads, Path(__file__).with_name("transcripts.jsonl").read_text().splitlines())
    if line["t"] == "T12" and line["dir"] == "server"
]


class Planner:
    """Says two messages slowly; in the middle of one it can be steered."""

    def __init__(self, first: ModelTurn, second: ModelTurn | None = None) -> None:
        self.turns = [first, second or ModelTurn(output=[message("Two weeks.")])]
        self.seen: list[ModelRequest] = []

    def respond(self, request: ModelRequest) -> ModelTurn:
        self.seen.append(request)
        return self.turns[min(len(self.seen), len(self.turns)) - 1]


TALKER = ModelTurn(output=[message("Phase 1."), message("Phase 2.")], delay=5)
CALLER = ModelTurn(output=[function_call("f", {}, call_id="call_1")], delay=5)


async def steered(client: Client, input: Any = "Shorter.", **fields: Any) -> tuple[str, Frame]:
    """Begin a turn and steer it; its id, and the answer to the steer."""
    await client.create("Plan.", **fields)
    response_id: str = (await client.receive())["response"]["id"]
    await client.receive()
    await client.send({"type": "response.steer", "previous_response_id": response_id, "input": input})
    return response_id, await client.receive()


async def test_a_steered_response_ends_and_another_one_follows(autojump_clock: MockClock) -> None:
    """As in the transcript: accepted, incomplete at the end of an item, a successor that nobody sent."""
    ledger: list[Entry] = []
    model = Planner(TALKER)
    async with open_server(model, port=None, ledger=ledger) as server, connected(server) as client:
        target, answer = await steered(client, stream_id="lane", instructions="Be brief.")
        first, second = await client.finish(), await client.finish()
        follow_up = await client.respond(
            "ok", stream_id="lane", previous_response_id=second[-1]["response"]["id"]
        )

    accepted, incomplete, created, completed = (TRANSCRIPT[n] for n in (2, 3, 4, 5))
    assert answer["sequence_number"] == 2
    assert list(answer) == [*accepted, "stream_id"]
    assert len(answer["steer"]["id"]) == len(accepted["steer"]["id"])
    assert first[-1]["type"] == incomplete["type"]
    assert first[-1]["response"]["incomplete_details"] == incomplete["response"]["incomplete_details"]
    assert text(first[-1]["response"]) == "Phase 1."
    assert second[0]["type"] == created["type"]
    assert second[-1]["type"] == completed["type"]
    assert {frame["response"]["previous_response_id"] for frame in (second[0], second[-1])} == {target}
    assert [frame["sequence_number"] for frame in first] == list(range(3, 3 + len(first)))
    assert [frame["sequence_number"] for frame in second] == list(range(len(second)))
    assert {frame["stream_id"] for frame in [*first, *second]} == {"lane"}
    for frame in [answer, *first, *second]:
        EVENT.validate_python(frame)

    history = [
        {"role": "user", "content": "Plan."},
        {"role": "assistant", "content": "Phase 1."},
        {"role": "user", "content": "Shorter."},
        {"role": "assistant", "content": "Two weeks."},
        {"role": "user", "content": "ok"},
    ]
    digests = [context_digest(history[:count]) for count in (1, 3, 5)]
    assert digests == [entry["context_sha256"] for entry in ledger]
    assert [(e["outcome"], e["automatic"], e["sequence"]) for e in ledger] == [
        ("incomplete", False, 1),
        ("completed", True, 1),
        ("completed", False, 2),
    ]
    assert [request.instructions for request in model.seen] == ["Be brief.", "Be brief.", None]
    assert text(follow_up) == "Two weeks."


async def test_a_response_may_finish_before_its_successor(autojump_clock: MockClock) -> None:
    """The other documented form: normal completion, then the successor."""
    profile = attrs.evolve(OPENAI, steer_ends="completed")
    async with (
        open_server(Planner(TALKER), port=None, profile=profile) as server,
        connected(server) as client,
    ):
        await steered(client)
        first, second = await client.finish(), await client.finish()

    assert (first[-1]["type"], text(first[-1]["response"])) == ("response.completed", "Phase 1.Phase 2.")
    assert second[0]["type"] == "response.created"


async def test_the_successor_goes_before_what_waits(autojump_clock: MockClock) -> None:
    """A request that was in line on the lane starts when the successor has ended."""
    async with open_server(Planner(TALKER), port=None) as server, connected(server) as client:
        target, _ = await steered(client)
        await client.create("next")
        parents: list[Any] = []
        while len(parents) < 3:
            frame = await client.receive()
            if frame["type"] in TERMINAL:
                parents.append(frame["response"]["previous_response_id"])

    assert parents == [None, target, None]


async def test_steering_waits_for_tool_outputs(autojump_clock: MockClock) -> None:
    """The response completes, the input is pending, and goes before the outputs in the next request."""
    ledger: list[Entry] = []
    async with open_server(Planner(CALLER), port=None, ledger=ledger) as server, connected(server) as client:
        target, answer = await steered(client)
        frames = await client.finish()
        pending = await client.receive()
        assert frames[-1]["type"] == "response.completed"
        assert pending["type"] == "response.steer.pending"
        assert pending["steer"] == answer["steer"]
        (stub,) = pending["required_input"]
        assert stub == {"type": "function_call_output", "call_id": "call_1", "name": "f"}
        assert pending["sequence_number"] == frames[-1]["sequence_number"] + 1
        EVENT.validate_python(pending)

        output = {"type": "function_call_output", "call_id": "call_1", "output": "1"}
        await client.respond([output], previous_response_id=target)

    call = {"type": "function_call", "name": "f", "arguments": "{}", "call_id": "call_1"}
    plan, shorter = ({"role": "user", "content": words} for words in ("Plan.", "Shorter."))
    assert context_digest([plan, call, shorter, output]) == ledger[-1]["context_sha256"]
    assert [entry["automatic"] for entry in ledger] == [False, False]


@pytest.mark.parametrize(
    ("input", "fields", "code"),
    [
        ("", {}, "invalid_input"),
        ([], {}, "invalid_input"),
        ([{"role": "assistant", "content": "x"}], {}, "invalid_input"),
        ([{"role": "user", "content": [{"type": "output_text", "text": "x"}]}], {}, "invalid_input"),
        ([{"role": "user", "content": "x", "id": "y"}], {}, "invalid_input"),
        ("x", {"model": "gpt-5"}, "steering_not_supported"),
        ("x", {"conversation": "conv_1"}, "steering_not_supported"),
        (
            "x",
            {"context_management": [{"type": "compaction", "compact_threshold": 9}]},
            "steering_not_supported",
        ),
    ],
)
async def test_what_can_not_be_steered(
    input: Any, fields: Frame, code: str, autojump_clock: MockClock
) -> None:
    """The input comes back, and the turn goes on."""
    async with open_server(Planner(TALKER), port=None) as server, connected(server) as client:
        target, answer = await steered(client, input, **fields)
        last = (await client.finish())[-1]

    assert (answer["type"], answer["error"]["code"]) == ("response.steer.failed", code)
    assert answer["steer"] == {"previous_response_id": target, "input": input}
    assert last["type"] == "response.completed"


async def test_a_steer_needs_a_response_in_progress(autojump_clock: MockClock) -> None:
    """One that is over, that nobody knows, or that is on another connection, is not."""
    async with (
        open_server(Planner(TALKER), port=None) as server,
        connected(server) as client,
        connected(server) as other,
    ):
        await client.create()
        running = (await client.receive())["response"]["id"]
        steer = {"type": "response.steer", "previous_response_id": running, "input": "x"}
        await other.send(steer)
        answers = [await other.receive()]
        await client.finish()
        await client.send(steer)
        answers.append(await client.receive())

    assert [answer["error"]["code"] for answer in answers] == [
        "response_not_found",
        "response_already_completed",
    ]
    for answer in answers:
        EVENT.validate_python(answer)


async def test_too_many_steers_are_refused(autojump_clock: MockClock) -> None:
    """Sixteen wait, in order; the next one comes back."""
    model = Planner(TALKER)
    async with open_server(model, port=None) as server, connected(server) as client:
        target, _ = await steered(client, "0")
        for number in range(1, 17):
            await client.send(
                {"type": "response.steer", "previous_response_id": target, "input": str(number)}
            )
        answers = [await client.receive() for _ in range(16)]
        await client.finish()
        await client.finish()

    assert [answer["type"] for answer in answers[:-1]] == ["response.steer.accepted"] * 15
    assert answers[-1]["error"]["code"] == "too_many_pending_steers"
    said = [item["content"][0]["text"] for item in model.seen[1].context if item["role"] == "user"]
    assert said == ["Plan.", *map(str, range(16))]


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        (attrs.evolve(TALKER, status="failed"), None, "response_not_active"),
        (TALKER, ModelTurn(status="rejected", error=TurnError(message="no")), "successor_creation_failed"),
    ],
)
async def test_accepted_input_may_come_back(
    first: ModelTurn, second: ModelTurn | None, code: str, autojump_clock: MockClock
) -> None:
    """With the id that it was accepted under, if the response fails, or nothing can follow it."""
    ledger: list[Entry] = []
    async with (
        open_server(Planner(first, second), port=None, ledger=ledger) as server,
        connected(server) as client,
    ):
        target, answer = await steered(client)
        await client.finish()
        returned = await client.receive()

    assert returned["error"]["code"] == code
    assert returned["steer"] == {**answer["steer"], "input": "Shorter."}
    EVENT.validate_python(returned)
    assert target == returned["steer"]["previous_response_id"]
    assert len(ledger) == (1 if second is None else 2)


async def test_a_lost_connection_loses_the_successor_too(autojump_clock: MockClock) -> None:
    """Both are in the ledger, and nothing is left behind."""
    ledger: list[Entry] = []
    slow = ModelTurn(output=[message("late")], delay=50)
    async with open_server(Planner(TALKER, slow), port=None, ledger=ledger) as server:
        async with connected(server) as client:
            await steered(client)
            await client.finish()
            assert (await client.receive())["type"] == "response.created"
        await trio.testing.wait_all_tasks_blocked()
        assert server.statistics().creates_active == 0

    assert [(entry["outcome"], entry["automatic"]) for entry in ledger] == [
        ("incomplete", False),
        ("lost", True),
    ]


@pytest.mark.parametrize(
    ("fault", "outcomes", "types"),
    [
        (Fault("reset", at="terminal", after=True), ["incomplete", "lost"], ["response.incomplete"]),
        (
            Fault("failed", at="delta", occurrence=6),
            ["incomplete", "failed"],
            ["response.incomplete", "response.failed"],
        ),
        (
            Fault("overloaded", at="response.created", occurrence=2),
            ["incomplete", "rejected"],
            ["response.incomplete"],
        ),
        (
            Fault("keepalive", at="idle", delay=9),
            ["incomplete", "completed"],
            ["response.incomplete", "response.completed", "keepalive"],
        ),
    ],
    ids=str,
)
async def test_a_fault_of_a_steered_turn(
    fault: Fault, outcomes: list[str], types: list[str], autojump_clock: MockClock
) -> None:
    """A fault happens once in the response and its successor, and the ledger has what became of both."""
    ledger: list[Entry] = []
    turn = ModelTurn(output=[message("One two three four."), message("Never said.")], delay=5)
    async with (
        open_server(Planner(turn), port=None, ledger=ledger, faults=FaultScript(fault)) as server,
        connected(server) as client,
    ):
        await steered(client)
        seen: list[str] = []
        with trio.move_on_after(60):
            while True:
                try:
                    frame = await client.receive()
                except ConnectionClosed:
                    break
                if frame["type"] in {*TERMINAL, "keepalive"}:
                    seen.append(frame["type"])
        await trio.testing.wait_all_tasks_blocked()

    assert types == seen
    assert outcomes == [entry["outcome"] for entry in ledger]
