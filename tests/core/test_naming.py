"""Lanes are told apart by what their events say, and are believed in only once an answer has named one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from wspool.core.commands import LaneId
from wspool.core.events.naming import lane_name, learn
from wspool.core.events.turn import Reception, TurnMachine
from wspool.core.frames import Event, MalformedMessageError, lane_of, parse_event
from wspool.core.server_error import ServerError
from wspool.core.states import Naming

TRANSCRIPT: list[dict[str, Any]] = [
    line
    for line in map(json.loads, Path(__file__).with_name("transcripts.jsonl").read_text().splitlines())
    if line["t"] == "T11"
]


def event(**fields: Any) -> Event:
    return parse_event(json.dumps(fields))


def test_a_name_is_one_that_endpoints_take() -> None:
    """Letters, digits and a few signs; one for each lane, the same every time."""
    names = [lane_name(LaneId(number)) for number in range(32)]

    assert names == [lane_name(LaneId(number)) for number in range(32)]
    assert 32 == len(set(names))
    assert all(name.isalnum() for name in names)


@pytest.mark.parametrize(
    ("raw", "lane"),
    [
        ('{"type":"a","delta":"b","sequence_number":3,"stream_id":"x"}', "x"),
        ('{"type": "a", "delta": "b", "stream_id": "x"}', "x"),
        ('{"type":"a","stream_id":"x","delta":"b"}', "x"),
        ('{"stream_id":"x","type":"a"}', "x"),
        ('{"type":"a","delta":"\\"stream_id\\":\\"y\\"}","stream_id":"x"}', "x"),
        ('{"type":"a","delta":"\\"stream_id\\":\\"y\\""}', None),
        ('{"type":"a","item":{"stream_id":"y"}}', None),
        ('{"type":"a","stream_id":null}', None),
        ('{"type":"a","stream_id":7}', None),
        ('{"type":"a"}', None),
    ],
)
def test_a_lane_is_found_wherever_it_is(raw: str, lane: str | None) -> None:
    """As text and as bytes, and never in what only looks like it."""
    for message in (raw, raw.encode()):
        found = parse_event(message)

        assert lane == lane_of(found) == found.stream_id


def test_what_is_no_json_has_no_lane() -> None:
    """It looks like an event until somebody has to decode it."""
    with pytest.raises(MalformedMessageError):
        lane_of(parse_event('{"type":"a",}'))


def test_the_lanes_of_a_transcript_are_told_apart() -> None:
    """Each turn gets its own events, in one stream with those of others, and comes to its end."""
    machines: dict[str | None, TurnMachine] = {}
    ends: list[tuple[str | None, str | None]] = []
    for line in TRANSCRIPT:
        if line["dir"] == "client":
            name = line["frame"]["stream_id"]
            machines[name] = TurnMachine(line["frame"].get("previous_response_id"), name)
            machines[name].handed()
        elif line["dir"] == "server":
            received = event(**line["frame"])
            name = lane_of(received)
            if name is None:
                name = ""  # the refusal of an empty name: nobody else's
            if machines[name].receive(received) is Reception.END:
                ends.append((name, machines[name].response_id))

    assert [("planner", "resp_20"), ("research", "resp_21"), ("agent_33", None), ("", None)] == ends
    assert ("accepted", "resp_22") == (machines["critic"].delivery, machines["critic"].response_id)


@pytest.mark.parametrize("ours", [None, "lane0"])
@pytest.mark.parametrize("theirs", [None, "lane0", "lane1"])
def test_an_event_of_another_lane_is_not_ours(ours: str | None, theirs: str | None) -> None:
    """Nor is one without a lane, if we have one; and the other way round."""
    machine = TurnMachine(None, ours)
    machine.handed()
    created = event(type="response.created", response={"id": "r"}, stream_id=theirs)
    lane_of(created)

    assert (machine.receive(created) is Reception.DELIVER) is (ours == theirs)


@pytest.mark.parametrize("kind", ["error", "response.error"])
def test_an_error_may_leave_its_lane_out(kind: str) -> None:
    """Whoever routed it knows whose it is; it is refused only if it names another."""
    for lane, reception in ((None, Reception.END), ("lane0", Reception.END), ("lane1", Reception.DIRTY)):
        machine = TurnMachine(None, "lane0")
        machine.handed()
        frame = event(type=kind, status=400, error={"code": "no"}, stream_id=lane)
        lane_of(frame)

        assert reception is machine.receive(frame)


REFUSAL = {"code": "unknown_parameter", "param": "stream_id", "message": "Unknown parameter."}


@pytest.mark.parametrize(
    ("fields", "naming"),
    [
        ({"type": "keepalive"}, None),
        ({"type": "codex.rate_limits", "stream_id": "lane0"}, None),
        ({"type": "notice"}, None),
        ({"type": "response.created", "response": {"id": "r"}, "stream_id": "lane0"}, Naming.NAMED),
        ({"type": "error", "status": 400, "error": {"code": "no"}, "stream_id": "lane0"}, Naming.NAMED),
        ({"type": "response.created", "response": {"id": "r"}}, Naming.NONE),
        ({"type": "error", "status": 400, "error": REFUSAL}, Naming.NONE),
        ({"type": "response.error", "error": REFUSAL}, Naming.NONE),
        ({"type": "error", "status": 500, "error": {"code": "server_error"}}, None),
    ],
)
def test_an_answer_says_whether_there_are_lanes(fields: dict[str, Any], naming: Naming | None) -> None:
    """A response does, and a refusal of the name; other errors, and what is about the connection, do not."""
    assert naming is learn(event(**fields))


@pytest.mark.parametrize(
    ("error", "blames"),
    [
        (ServerError(param="stream_id"), True),
        (ServerError(code="invalid_stream_id", param="stream_id"), True),
        (ServerError(message="Unrecognized request argument supplied: stream_id"), True),
        (ServerError(message="Your stream_id is fine", param="model"), False),
        (ServerError(code="websocket_stream_limit_reached", param="stream_id"), False),
        (ServerError(code="invalid_prompt"), False),
    ],
)
def test_which_errors_are_about_the_name(error: ServerError, blames: bool) -> None:
    """An endpoint that has no more lanes knows what they are."""
    assert blames is error.blames_lane
