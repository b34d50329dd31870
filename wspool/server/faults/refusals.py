"""The rest of the catalogue: requests and turns that end in an error, and notices.

A notice comes unasked, belongs to no turn, and harms nobody who ignores it.
"""

import json
from collections.abc import Mapping
from typing import Any

from wspool.server.faults.catalogue import named
from wspool.server.faults.steps import Close, Cut, Frames, Moment, Say, Step
from wspool.server.models import TurnError
from wspool.server.protocol.shapes import RETRY_AFTER, SHAPES, on_lane

__all__: list[str] = []


# Errors.


@named("errors", at="response.created")
def error(
    shape: str = "nested",
    *,
    code: str | None = "server_error",
    type: str = "server_error",
    status: int = 500,
    message: str = "The server had an error processing your request.",
    param: str | None = None,
    lane: bool = True,
) -> tuple[Step, ...]:
    """An error frame in any of its shapes (`SHAPES`) ends the request, or the turn if it has begun."""
    return _refusal(
        TurnError(type=type, code=code, message=message, param=param, status=status), shape, lane=lane
    )


def _refusal(
    error: TurnError, shape: str = "nested", *, lane: bool = True, hint: tuple[str, float] | None = None
) -> tuple[Step, ...]:
    build, spell = SHAPES[shape], RETRY_AFTER[hint[0]] if hint else None

    def make(moment: Moment) -> Frames:
        body = error.body()
        frame = build(body, error.status, moment)
        if hint is not None and spell is not None:
            spell(frame, body, hint[1])
        return [on_lane(frame, moment) if lane else frame]

    return (Cut(error), Say(make))


@named("errors", at="response.created")
def parent_lost() -> tuple[Step, ...]:
    """The parent is not found, although it is there; without a parent, the same."""

    def make(moment: Moment) -> Frames:
        parent = moment.body.get("previous_response_id")
        error = TurnError(
            type="invalid_request_error",
            code="previous_response_not_found",
            message=f"Previous response with id '{parent}' not found.",
            param="previous_response_id",
            status=400,
        )
        return [on_lane(SHAPES["nested"](error.body(), 400, moment), moment)]

    code = TurnError(code="previous_response_not_found", message="", status=400)
    return (Cut(code), Say(make))


@named("errors", at="response.created")
def rate_limited(
    retry_after: float = 1.0, spelling: str = "error_header", shape: str = "nested"
) -> tuple[Step, ...]:
    """429, with the hint when to come again in any spelling (`RETRY_AFTER`)."""
    error = TurnError(
        type="rate_limit_error", code="rate_limit_exceeded", message="Rate limit exceeded.", status=429
    )
    return _refusal(error, shape, hint=(spelling, retry_after))


@named("errors", at="response.created")
def overloaded() -> tuple[Step, ...]:
    """503: the model has no capacity."""
    return _refusal(
        TurnError(
            type="service_unavailable_error",
            code="server_is_overloaded",
            message="The server is overloaded.",
            status=503,
        )
    )


@named("errors", at="receipt")
def stream_limit_reached() -> tuple[Step, ...]:
    """The connection has had too many lanes, although it has not."""
    return _refusal(
        TurnError(
            type="invalid_request_error",
            code="websocket_stream_limit_reached",
            message="This WebSocket connection has reached its maximum number of distinct stream IDs (32). "
            "Reuse an existing stream_id or open a new WebSocket connection.",
            param="stream_id",
            status=400,
        )
    )


@named("errors", at="receipt")
def busy() -> tuple[Step, ...]:
    """The request is refused because another one is in progress, although none is."""
    return _refusal(
        TurnError(
            type="invalid_request_error",
            code="concurrent_request",
            message="A response is already in progress on this connection.",
            status=409,
        )
    )


@named("errors", at="response.created")
def connection_limit(minutes: int = 60, code: int | None = 1000) -> tuple[Step, ...]:
    """The lifetime error, then a close frame with that code, or with None no end at all."""
    error = TurnError(
        type="invalid_request_error",
        code="websocket_connection_limit_reached",
        message=f"Responses websocket connection limit reached ({minutes} minutes). "
        "Create a new websocket connection to continue.",
        status=400,
    )

    def make(moment: Moment) -> Frames:
        body = {key: value for key, value in error.body().items() if key != "param"}
        return [{"type": "error", "error": body, "status": 400}]

    steps: tuple[Step, ...] = (Cut(error), Say(make))
    return steps if code is None else (*steps, Close(code.to_bytes(2)))


@named("errors", at="delta")
def stream_error() -> tuple[Step, ...]:
    """An error in the middle of the turn, and no `response.failed` after it."""
    return _refusal(
        TurnError(code="server_error", message="The server had an error processing your request."),
        "in_stream",
    )


@named("errors", at="delta")
def failed(code: str = "server_error") -> tuple[Step, ...]:
    """The turn ends with `response.failed`."""
    return _refusal(TurnError(code=code, message="The model failed."), "response_failed")


@named("errors", at="terminal")
def incomplete(reason: str = "max_output_tokens") -> tuple[Step, ...]:
    """The turn ends with `response.incomplete`, for any reason."""

    def make(moment: Moment) -> Frames:
        response = moment.event["response"] | {
            "status": "incomplete",
            "incomplete_details": {"reason": reason},
            "completed_at": None,
        }
        return [moment.event | {"type": "response.incomplete", "response": response}]

    return (Cut(outcome="incomplete"), Say(make))


# Notices: unasked for, and no part of any turn.


def _notice(event: Mapping[str, Any]) -> tuple[Step, ...]:
    text = json.dumps(event, separators=(",", ":"))
    return (Say(lambda moment: [text]),)


@named("notices", at="response.created")
def keepalive() -> tuple[Step, ...]:
    """A `keepalive` event."""
    return _notice({"type": "keepalive", "sequence_number": 0})


@named("notices", at="response.created")
def rate_limits() -> tuple[Step, ...]:
    """A `codex.rate_limits` event."""
    window = {"used_percent": 12, "window_minutes": 300, "reset_at": 1_795_003_600}
    limits = {"allowed": True, "limit_reached": False, "primary": window, "secondary": None}
    return _notice({"type": "codex.rate_limits", "plan_type": "plus", "rate_limits": limits})


@named("notices", at="response.created")
def metadata() -> tuple[Step, ...]:
    """A `codex.response.metadata` event, with response headers."""
    headers = {
        "x-codex-turn-state": "opaque",
        "openai-model": "gpt-6-astra",
        "x-request-id": "req_beside",
    }
    return _notice({"type": "codex.response.metadata", "headers": headers, "metadata": {}})


@named("notices", at="terminal", after=True)
def timing() -> tuple[Step, ...]:
    """A `responsesapi.websocket_timing` event."""
    return _notice({"type": "responsesapi.websocket_timing", "timing": {"engine_service_total_ms": 12.5}})


@named("notices", at="delta")
def connection_expiring() -> tuple[Step, ...]:
    """An error frame that only says that the connection will close soon; the turn goes on."""
    body = {
        "type": "invalid_request_error",
        "code": "connection_expiring",
        "message": "Connection will close in 5 minutes",
        "param": None,
    }
    return _notice({"type": "error", "status": 400, "error": body})
