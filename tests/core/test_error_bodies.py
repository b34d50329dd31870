"""Real errors, in every way that they come in: what a user sees of each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

import wspool
from tests.core.error_bodies import BODIES, NOW, ErrorBody
from wspool.core.commands import Refuse, RefuseReason, WaiterId
from wspool.core.events.turn import TurnMachine
from wspool.core.failures import classify_dial
from wspool.core.frames import parse_event
from wspool.core.lending.pool import PoolCore
from wspool.core.policy import OPENAI, PoolPolicy
from wspool.core.server_error import ServerError, parse_http_error
from wspool.pool.outcome import refusal, server_failure

every_body = pytest.mark.parametrize(
    "said", [pytest.param(body, id=f"{at}-{body.source}-{body.status}") for at, body in enumerate(BODIES)]
)
in_frames = pytest.mark.parametrize(
    "said",
    [
        pytest.param(body, id=f"{at}-{body.source}-{body.status}")
        for at, body in enumerate(BODIES)
        if isinstance(body.body, dict)
    ],
)


def _payload(said: ErrorBody) -> bytes:
    text = said.body if isinstance(said.body, str) else json.dumps(said.body, ensure_ascii=False)
    return text.encode()


def _inside(said: ErrorBody) -> dict[str, Any]:
    """The body as it is put into a frame: its own `type` and `status` are those of the event."""
    assert isinstance(said.body, dict)
    if "error" in said.body and not isinstance(said.body["error"], str):
        return {name: value for name, value in said.body.items() if name not in ("type", "status")}
    return {"error": said.body}


def _frame(said: ErrorBody, **more: Any) -> dict[str, Any]:
    return {**_inside(said), "type": "error", "headers": said.headers, **more}


def _heard(*frames: Mapping[str, Any]) -> ServerError:
    """What a turn heard when the last of *frames* came."""
    machine = TurnMachine()
    machine.handed()
    for frame in frames:
        machine.receive(parse_event(json.dumps(frame)), wall_clock=NOW)
    assert machine.error is not None
    return machine.error


CREATED = {"type": "response.created", "response": {"id": "resp_9", "status": "in_progress", "output": []}}


def _prospect(error: wspool.ResponseFailedError) -> str:
    assert not (error.may_pass and error.permanent)
    return "may pass" if error.may_pass else "permanent" if error.permanent else "unknown"


def check(error: ServerError, said: ErrorBody) -> wspool.ResponseFailedError:
    """Assert what a user sees of it, but its prospect; return it."""
    found = server_failure(error, "terminal")

    assert (said.kind, said.code) == (type(found), found.code)
    assert said.wait == (None if found.retry_after is None else pytest.approx(found.retry_after))
    assert said.words in str(found)
    assert str(found).isprintable()
    return found


@every_body
def test_as_the_answer_to_what_goes_by_http(said: ErrorBody) -> None:
    """Compaction, and whatever else is asked there."""
    headers = [(name.lower(), value) for name, value in said.headers.items()]
    found = check(parse_http_error(said.status, headers, _payload(said), wall_clock=NOW), said)

    assert (said.status, said.prospect) == (found.status, _prospect(found))


@in_frames
def test_as_a_frame_before_the_response(said: ErrorBody) -> None:
    """The request was refused, with a status that may be a text."""
    for status in (said.status, str(said.status)):
        found = check(_heard(_frame(said, status=status)), said)

        assert (said.status, said.prospect) == (found.status, _prospect(found))


@in_frames
def test_as_a_frame_in_the_response(said: ErrorBody) -> None:
    """The response had begun, and there is a number instead of a status."""
    error = _heard(CREATED, _frame(said, status=said.status))
    found = check(error, said)

    assert (said.status, said.prospect) == (found.status, _prospect(found))
    assert error.code == _heard(CREATED, _frame(said, sequence_number=1)).code


@in_frames
def test_as_a_response_that_failed(said: ErrorBody) -> None:
    """There is no status, so its words have to say what it means."""
    inside = _inside(said)
    response = {"id": "resp_9", "status": "failed", "output": [], "error": inside["error"]}
    beside = {name: value for name, value in inside.items() if name not in ("error", "code", "message")}
    frame = {"type": "response.failed", "response": response, "headers": said.headers, **beside}
    error = _heard(CREATED, frame)
    found = server_failure(error, "terminal", "resp_9")
    says_status = error.status is not None

    assert (said.prospect if says_status else said.failed) == _prospect(found)
    assert said.wait == (None if found.retry_after is None else pytest.approx(found.retry_after))
    assert said.code == found.code
    assert said.words in str(found)


@every_body
def test_as_the_answer_to_an_upgrade(said: ErrorBody) -> None:
    """Its code and its words are told, and who must act."""
    failure = classify_dial(
        f"the server refused the WebSocket upgrade with status {said.status}",
        phase="upgrade",
        status=said.status,
        headers=list(said.headers.items()),
        body=_payload(said),
        wall_clock=NOW,
    )
    statistics = PoolCore(PoolPolicy(), OPENAI).statistics()
    error = refusal(Refuse(WaiterId(1), RefuseReason.DIAL_FAILED, failure), statistics, None)

    assert isinstance(error, wspool.DialFailedError)
    assert said.dial == failure.kind.value
    assert (said.dial != "transient") == error.permanent
    assert (said.status, said.code) == (error.status, error.code)
    assert said.wait == (None if error.retry_after is None else pytest.approx(error.retry_after))
    assert said.words in str(error)
    assert said.code is None or said.code in str(error)


def test_there_are_enough_of_them() -> None:
    """From all sorts of endpoints, and no two the same."""
    assert len(BODIES) >= 60
    assert len(BODIES) == len({(body.status, _payload(body)) for body in BODIES})
