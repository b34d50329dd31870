"""What the server sends, frame by frame, against transcripts and the openai SDK's own types."""

import json
from pathlib import Path
from typing import Any

import pytest
import trio
from openai.types.responses import ResponsesServerEvent
from pydantic import TypeAdapter
from trio.testing import MockClock

from wspool.server import ModelTurn, ScriptedModel, TurnError, function_call, message, open_server
from wspool.server.echo import EchoModel

from .client import Client, Frame, connected, is_refusal

EVENT: TypeAdapter[Any] = TypeAdapter(ResponsesServerEvent)

TRANSCRIPTS: list[Frame] = [
    json.loads(line) for line in Path(__file__).with_name("transcripts.jsonl").read_text().splitlines()
]

REASONING = {
    "type": "reasoning",
    "summary": [{"type": "summary_text", "text": "Adding."}],
    "encrypted_content": "gAAAAAB-opaque",
}

# What the model of each transcript says, turn by turn.
SCRIPTS: dict[str, list[ModelTurn]] = {
    "T1": [ModelTurn(output=[message("Hi there.")])],
    "T2": [
        ModelTurn(output=[function_call("get_test_results", {}, call_id="call_1")]),
        ModelTurn(output=[message("test_fizz_buzz fails.")]),
    ],
    "T3": [ModelTurn(output=[REASONING, message("4")])],
    "T4": [ModelTurn(output=[message("Found it.")])],
    "T5": [ModelTurn(output=[message("unused")])],
    "T7": [ModelTurn(status="failed")],
    "T8": [ModelTurn(output=[message("Roses")], status="incomplete")],
    "T10": [
        ModelTurn(
            status="rejected",
            error=TurnError(
                type="rate_limit_error",
                code="rate_limit_exceeded",
                message="Rate limit exceeded.",
                status=429,
                headers={"Retry-After": "1"},
            ),
        )
    ],
}


def frames_of(name: str, direction: str) -> list[Frame]:
    return [line["frame"] for line in TRANSCRIPTS if line["t"] == name and line["dir"] == direction]


def shape(frame: Frame) -> list[Any]:
    """Type and fields of a frame, and field order of the objects in it; deltas of one text count once."""
    fields = sorted(key for key in frame if key not in ("obfuscation", "response"))
    inner = [list(frame[key]) for key in ("item", "part") if key in frame]
    return [frame["type"], fields, inner]


def shapes(frames: list[Frame]) -> list[Any]:
    found: list[Any] = []
    for frame in frames:
        if not (frame["type"].endswith(".delta") and found and found[-1] == shape(frame)):
            found.append(shape(frame))
    return found


def is_subsequence(few: list[str], many: list[str]) -> bool:
    rest = iter(many)
    return all(one in rest for one in few)


def assert_conforms(expected: list[Frame], actual: list[Frame]) -> None:
    assert shapes(expected) == shapes(actual)

    assert list(range(len(actual))) == [frame["sequence_number"] for frame in actual]
    # The transcripts were put together by hand. Captured streams of OpenAI have the fields in this order.
    assert all(list(frame) == ["type", *sorted(frame.keys() - {"type"})] for frame in actual)
    responses = [frame["response"] for frame in expected if "response" in frame]
    ours = [frame["response"] for frame in actual if "response" in frame]
    for theirs, mine in zip(responses, ours, strict=True):
        # Transcripts show as much of a response as validates; ours is whole, in the same order.
        assert is_subsequence(list(theirs), list(mine)), (list(theirs), list(mine))
        assert [(item["type"], list(item)) for item in theirs["output"]] == [
            (item["type"], list(item)) for item in mine["output"]
        ]
        for key in ("object", "status", "model", "store", "error", "incomplete_details", "max_output_tokens"):
            assert theirs.get(key) == mine.get(key), key
        assert (theirs["usage"] is None) == (mine["usage"] is None)


@pytest.mark.parametrize("name", ["T1", "T2", "T3", "T4", "T7", "T8"])
async def test_turns_match_the_transcripts(name: str, autojump_clock: MockClock) -> None:
    """Same types, same fields, same order, for every kind of turn."""
    remaining = frames_of(name, "server")
    last: str | None = None
    async with open_server(ScriptedModel(SCRIPTS[name]), port=None) as server, connected(server) as client:
        for request in frames_of(name, "client"):
            if request.get("previous_response_id"):
                request = request | {"previous_response_id": last}
            await client.send(request)
            frames = await client.finish()
            end = next(i for i, frame in enumerate(remaining) if frame["type"] == frames[-1]["type"]) + 1
            expected, remaining = remaining[:end], remaining[end:]

            assert_conforms(expected, frames)
            for frame in frames:
                EVENT.validate_python(frame)
            last = frames[-1]["response"]["id"]

    assert remaining == []


@pytest.mark.parametrize("name", ["T5", "T10"])
async def test_refusals_match_the_transcripts(name: str, autojump_clock: MockClock) -> None:
    """A refused request gets the documented JSON, to the byte."""
    async with open_server(ScriptedModel(SCRIPTS[name]), port=None) as server, connected(server) as client:
        await client.send(frames_of(name, "client")[0])
        frame = await client.receive()

    expected = frames_of(name, "server")[0]
    if name == "T10":
        expected["error"]["param"] = None
    assert expected == frame
    EVENT.validate_python(frame)


async def test_a_tool_output_without_its_call_matches_the_transcript(autojump_clock: MockClock) -> None:
    """T6: the continuation fails, and then its parent is gone."""
    bad, gone = frames_of("T6", "server")
    first, unknown_call, stale = frames_of("T6", "client")
    async with open_server(EchoModel(), port=None) as server, connected(server) as client:
        await client.send(first)
        parent = (await client.finish())[-1]["response"]["id"]
        await client.send(unknown_call | {"previous_response_id": parent})
        assert bad == await client.receive()

        await client.send(stale | {"previous_response_id": parent})
        gone["error"]["message"] = gone["error"]["message"].replace("resp_10", parent)
        assert json.dumps(gone) == json.dumps(await client.receive())


async def test_the_lifetime_error_matches_the_transcript(autojump_clock: MockClock) -> None:
    """T9: the error answers the next request on an aged connection, and the connection closes."""
    async with open_server(EchoModel(), port=None, lifetime=10) as server, connected(server) as client:
        await client.respond()
        await trio.sleep(11)
        await client.create("next")

        assert json.dumps(frames_of("T9", "server")[0]) == json.dumps(await client.receive())
        assert await client.closed() == 1000


async def test_lanes_match_the_transcript(autojump_clock: MockClock) -> None:
    """T11: events of two lanes carry their names, and each lane is a whole turn."""
    expected = {
        lane: [frame for frame in frames_of("T11", "server")[:18] if frame.get("stream_id") == lane]
        for lane in ("planner", "research")
    }
    async with open_server(EchoModel(), port=None) as server, connected(server) as client:
        await client.create("Plan.", stream_id="planner")
        await client.create("Risks.", stream_id="research")
        frames: dict[str, list[Frame]] = {"planner": [], "research": []}
        while sum(len(lane) for lane in frames.values()) < 18:
            frame = await client.receive()
            frames[frame["stream_id"]].append(frame)

        for lane, turn in frames.items():
            assert_conforms(expected[lane], turn)

        for number in range(30):
            await client.respond(stream_id=f"agent_{number}")
        *_, too_many, bad_name = frames_of("T11", "server")
        assert json.dumps([too_many]) == json.dumps(await client.turn(stream_id="agent_33"))
        assert json.dumps([bad_name]) == json.dumps(await client.turn(stream_id=""))


async def test_compaction_matches_the_transcript(autojump_clock: MockClock) -> None:
    """T13: a compaction item, then the message."""
    script = [
        ModelTurn(output=[{"type": "compaction", "encrypted_content": "gAAAAAB-opaque"}, message("Done.")])
    ]
    async with open_server(ScriptedModel(script), port=None) as server, connected(server) as client:
        frames = await client.turn()

    assert shapes(frames_of("T13", "server")[:5]) == shapes(frames[:5])


EVERYTHING = [
    {
        "type": "message",
        "phase": "commentary",
        "content": [
            {"type": "output_text", "text": "one  two\n"},
            {"type": "refusal", "refusal": "I can't."},
        ],
    },
    function_call("grep", {"pattern": "x y"}),
    {"type": "custom_tool_call", "name": "patch", "input": "*** Begin\n", "call_id": "call_p"},
    REASONING | {"content": [{"type": "reasoning_text", "text": "hm, hm"}]},
    {"type": "compaction", "encrypted_content": "gAAAA"},
    {"type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "q"}},
]


@pytest.mark.parametrize("status", ["completed", "incomplete", "failed"])
async def test_every_event_validates_as_the_sdk_type(status: Any, autojump_clock: MockClock) -> None:
    """Whatever item a model makes, the SDK's types accept its events, and deltas add up to the whole."""
    script = [ModelTurn(output=EVERYTHING, status=status)]
    async with open_server(ScriptedModel(script), port=None) as server, connected(server) as client:
        frames = await client.turn(stream_id="a.b-c_d")

    kinds = {type(EVENT.validate_python(frame)).__name__ for frame in frames}
    assert len(kinds) > 20
    assert all(frame["stream_id"] == "a.b-c_d" for frame in frames)
    for family, whole in [("output_text", "one  two\n"), ("custom_tool_call_input", "*** Begin\n")]:
        deltas = [frame["delta"] for frame in frames if frame["type"] == f"response.{family}.delta"]
        assert whole == "".join(deltas)
    assert not any(is_refusal(frame) for frame in frames)
    ids = [item["id"] for item in frames[-1]["response"]["output"]]
    assert len(set(ids)) == len(EVERYTHING)


async def test_obfuscation_can_be_turned_off(autojump_clock: MockClock) -> None:
    """Deltas are padded unless the request says no."""

    async def padded(client: Client, **fields: Any) -> bool:
        return any("obfuscation" in frame for frame in await client.turn(**fields))

    async with open_server(EchoModel(), port=None) as server, connected(server) as client:
        assert await padded(client)
        assert not await padded(client, stream_options={"include_obfuscation": False})
