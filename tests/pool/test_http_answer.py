"""What an error is over HTTP: as the server said it, and never an invitation to pay twice."""

from __future__ import annotations

import json
from typing import Any

import pytest

import wspool
from wspool.core.server_error import parse_error
from wspool.errors import DialFailedError, TurnLostError, TurnTimeoutError, WsPoolError
from wspool.pool.http_answer import error_answer
from wspool.pool.outcome import server_failure


def said(status: int | None = None, **error: Any) -> WsPoolError:
    """What a server's frame becomes."""
    frame = {"type": "error", "error": error}
    return server_failure(parse_error(frame if status is None else {**frame, "status": status}), "terminal")


CASES: list[tuple[WsPoolError, int]] = [
    (said(400, code="previous_response_not_found"), 400),
    (said(429, code="rate_limit_exceeded"), 429),
    (said(503, message="busy"), 503),
    (said(code="rate_limit_exceeded"), 429),
    (said(code="insufficient_quota"), 429),
    (said(code="invalid_api_key"), 401),
    (said(code="server_is_overloaded"), 503),
    (said(code="previous_response_not_found"), 400),
    (said(code="context_length_exceeded"), 400),
    (said(type="invalid_request_error"), 400),
    (said(message="what?"), 500),
    (said(status=200, message="what?"), 500),
    (said(code="websocket_connection_limit_reached"), 503),
    (said(400, code="websocket_connection_limit_reached"), 503),
    (wspool.RequestTooLargeError(size=2, limit=1), 413),
    (wspool.AuthenticationError("no", phase="upgrade"), 401),
    (wspool.AuthenticationError("no", phase="upgrade", status=403), 403),
    (DialFailedError("no", phase="tcp"), 502),
    (DialFailedError("no", phase="upgrade", status=402, permanent=True), 402),
    (DialFailedError("no", phase="upgrade", status=302), 502),
    (wspool.WebSocketNotOfferedError("no", phase="upgrade"), 502),
    (wspool.TooManyWaitingError("full"), 503),
    (wspool.LeaseRefusedError("no"), 503),
    (wspool.PoolClosedError("closed"), 503),
    (TurnLostError("lost", delivery="ambiguous"), 502),
    (TurnTimeoutError("late", delivery="accepted"), 504),
    (wspool.MalformedMessageError("odd"), 502),
    (wspool.ForeignUseError("there"), 500),
    (wspool.TurnInFlightError("two"), 500),
    (wspool.MaxTurnsError(3), 500),
    (wspool.OpenCallsError([{"type": "function_call", "call_id": "c", "name": "n"}]), 500),
    (wspool.UnknownEffectsError([{"type": "function_call", "call_id": "c", "name": "n"}]), 500),
    (wspool.BudgetExceededError("the budget is spent: turns 2 of 2"), 500),
    (wspool.SteeringRefusedError("no", delivery="terminal", code=None), 500),
]


@pytest.mark.parametrize(("error", "status"), CASES, ids=[f"{type(e).__name__}-{s}" for e, s in CASES])
def test_each_error_has_its_status(error: WsPoolError, status: int) -> None:
    """And an answer with a body that SDKs understand."""
    answered, headers, body = error_answer(error)

    assert status == wspool.http_status(error) == answered
    assert ("content-type", "application/json") in headers
    assert isinstance(json.loads(body)["error"], dict)


def test_every_error_has_a_row() -> None:
    """None is forgotten when one more is added."""
    there = {type(error) for error, _ in CASES}
    public = {getattr(wspool, name) for name in wspool.errors.__all__}
    kinds = {kind for kind in public if not any(kind in error.__mro__[1:] for error in public)}

    assert kinds <= {
        *there,
        wspool.PreviousResponseNotFoundError,
        wspool.RateLimitedError,
        wspool.ConnectionLimitError,
    }


def test_the_servers_error_is_passed_on_as_it_said_it() -> None:
    """With whatever else is in it; also that of a failed response."""
    raw = {"code": "c", "message": "m", "param": None, "type": "t", "more": [1]}
    failed = {"type": "response.failed", "response": {"id": "r", "error": raw}}
    one, other = said(400, **raw), server_failure(parse_error(failed), "terminal", "r")

    assert {"error": raw} == json.loads(error_answer(one)[2]) == json.loads(error_answer(other)[2])


@pytest.mark.parametrize(
    ("error", "headers"),
    [
        (
            said(429, code="rate_limit_exceeded", retry_after=1.5),
            {"retry-after": "2", "retry-after-ms": "1500"},
        ),
        (
            said(429, code="rate_limit_exceeded", retry_after=1_234_567.0),
            {"retry-after": "1234567", "retry-after-ms": "1234567000"},
        ),
        (said(429, code="slow_down", retry_after=0.0), {"retry-after": "0", "retry-after-ms": "0"}),
        (said(429, code="insufficient_quota"), {"x-should-retry": "false"}),
        (said(401, code="invalid_api_key"), {"www-authenticate": "Bearer", "x-should-retry": "false"}),
        (said(503, message="busy"), {}),
        (wspool.TooManyWaitingError("full"), {"retry-after": "1", "retry-after-ms": "1000"}),
        (TurnLostError("lost", delivery="not_sent"), {}),
        (TurnLostError("lost", delivery="ambiguous"), {"x-should-retry": "false"}),
        (DialFailedError("the edge", phase="upgrade", status=403), {"x-should-retry": "true"}),
        (DialFailedError("busy", phase="upgrade", status=503), {}),
        (
            DialFailedError("slow", phase="upgrade", status=429, retry_after=2.0),
            {"retry-after": "2", "retry-after-ms": "2000"},
        ),
        (wspool.AuthenticationError("no", phase="upgrade", status=403), {}),
        (ImportError("a SOCKS proxy needs python-socks"), {"x-should-retry": "false"}),
        (TurnLostError("lost", delivery="accepted"), {"x-should-retry": "false"}),
        (wspool.PoolClosedError("closed"), {}),
        (DialFailedError("no", phase="upgrade", status=402, permanent=True), {"x-should-retry": "false"}),
    ],
)
def test_the_headers_say_whether_to_ask_again(error: Exception, headers: dict[str, str]) -> None:
    """What may have run is not sent again by an SDK that knows no better."""
    assert headers == {name: value for name, value in error_answer(error)[1] if name != "content-type"}


def test_what_is_wrong_with_the_body_is_the_callers() -> None:
    """And what nobody foresaw is ours."""
    assert 400 == error_answer(TypeError("input must be"))[0] == error_answer(ValueError("no"))[0]
    status, _, body = error_answer(RuntimeError("bug:\x1b[31m"))

    assert (500, "bug:\\x1b[31m") == (status, json.loads(body)["error"]["message"])
