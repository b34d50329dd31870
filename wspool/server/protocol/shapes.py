"""The shapes of an error: how endpoints of this protocol, and the gateways before them, spell the same thing.

Pure. `SHAPES` has every spelling that has been observed, and some that are only wrong; `RETRY_AFTER` has
every place and spelling of the hint when to try again.
"""

import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Final

from wspool.server.faults.steps import Moment
from wspool.server.models import Item
from wspool.server.protocol.grammar import Event

__all__ = ["RETRY_AFTER", "SHAPES", "RetryHint", "Shape", "on_lane", "response_in"]

#: (the error object, the HTTP status, the moment) -> the frame.
Shape = Callable[[Item, int, Moment], Event]

#: (the frame, its error object, seconds) -> nothing; changes both.
RetryHint = Callable[[Event, Item, float], None]


def on_lane(event: Event, moment: Moment) -> Event:
    """*event* with the lane of the moment, if it has a name."""
    return event if moment.lane is None else event | {"stream_id": moment.lane}


def response_in(moment: Moment, status: str, **changes: object) -> Item:
    """The response of *moment* as it would be in *status*; made up if it was not created yet."""
    made_up: Item = {
        "id": "resp_of_nobody",
        "object": "response",
        "created_at": 1_795_000_000,
        "model": moment.body.get("model", "unknown"),
        "output": [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
    }
    return (moment.response or made_up) | {"status": status} | changes


def _nested(error: Item, status: int, moment: Moment) -> Event:
    return {"type": "error", "status": status, "error": error}


def _in_stream(error: Item, status: int, moment: Moment) -> Event:
    return {"type": "error", "error": error, "sequence_number": moment.sequence}


def _flat(error: Item, status: int, moment: Moment) -> Event:
    known = {key: error[key] for key in ("code", "message", "param")}
    return {"type": "error", **known, "sequence_number": moment.sequence}


def _status_code(error: Item, status: int, moment: Moment) -> Event:
    return {"type": "error", "status_code": status, "error": error}


def _with_headers(error: Item, status: int, moment: Moment) -> Event:
    headers = {"x-request-id": "req_1", "retry-after": 1, "x-should-retry": True}
    return {"type": "error", "status": status, "error": error, "headers": headers}


def _in_body(error: Item, status: int, moment: Moment) -> Event:
    return {"type": "error", "status": status, "body": {"error": error}}


def _without_status(error: Item, status: int, moment: Moment) -> Event:
    return {"type": "error", "error": error}


def _response_failed(error: Item, status: int, moment: Moment) -> Event:
    inner = {key: error[key] for key in ("code", "message", "headers") if key in error}
    response = response_in(moment, "failed", error=inner, usage=None)
    return {"type": "response.failed", "response": response, "sequence_number": moment.sequence}


def _response_error(error: Item, status: int, moment: Moment) -> Event:
    return {"type": "response.error", "error": error, "sequence_number": moment.sequence}


def _without_code(error: Item, status: int, moment: Moment) -> Event:
    bare = {key: value for key, value in error.items() if key != "code"}
    return {"type": "error", "status": status, "error": bare}


def _null_code(error: Item, status: int, moment: Moment) -> Event:
    return {"type": "error", "status": status, "error": error | {"code": None}}


def _status_only(error: Item, status: int, moment: Moment) -> Event:
    return {"type": "error", "status": status}


def _null(error: Item, status: int, moment: Moment) -> Event:
    return {"type": "error", "status": status, "error": None}


def _string(error: Item, status: int, moment: Moment) -> Event:
    return {"type": "error", "status": status, "error": error["message"]}


def _nothing(error: Item, status: int, moment: Moment) -> Event:
    return {"type": "error"}


SHAPES: Final[dict[str, Shape]] = {
    "nested": _nested,
    "in_stream": _in_stream,
    "flat": _flat,
    "status_code": _status_code,
    "with_headers": _with_headers,
    "in_body": _in_body,
    "without_status": _without_status,
    "response_failed": _response_failed,
    "response_error": _response_error,
    "without_code": _without_code,
    "null_code": _null_code,
    "status_only": _status_only,
    "null": _null,
    "string": _string,
    "nothing": _nothing,
}
"""The first nine are the ones that clients in the wild have learnt to read; the others are less."""


def _number(seconds: float) -> str:
    return f"{seconds:.15g}"  # not 1e+06


def _error_header(frame: Event, error: Item, seconds: float) -> None:
    error["headers"] = {"Retry-After": _number(seconds)}


def _frame_header(frame: Event, error: Item, seconds: float) -> None:
    frame["headers"] = {"retry-after": _number(seconds)}


def _frame_header_number(frame: Event, error: Item, seconds: float) -> None:
    frame["headers"] = {"Retry-After": seconds}


def _milliseconds(frame: Event, error: Item, seconds: float) -> None:
    error["headers"] = {"retry-after-ms": _number(seconds * 1000)}


def _date(frame: Event, error: Item, seconds: float) -> None:
    # A date names whole seconds; rounded up, so that nobody comes early.
    error["headers"] = {"Retry-After": formatdate(int(time.time() + seconds) + 1, usegmt=True)}


def _resets_at(frame: Event, error: Item, seconds: float) -> None:
    error["resets_at"] = int(time.time() + seconds) + 1


def _message(frame: Event, error: Item, seconds: float) -> None:
    error["message"] += f" Please try again in {_number(seconds)}s."


def _message_milliseconds(frame: Event, error: Item, seconds: float) -> None:
    error["message"] += f" Please try again in {_number(seconds * 1000)}ms."


def _absurd(frame: Event, error: Item, seconds: float) -> None:
    error["headers"] = {"Retry-After": "soon"}


def _negative(frame: Event, error: Item, seconds: float) -> None:
    error["headers"] = {"Retry-After": _number(-seconds)}


def _absent(frame: Event, error: Item, seconds: float) -> None:
    """No hint at all."""


RETRY_AFTER: Final[dict[str, RetryHint]] = {
    "error_header": _error_header,
    "frame_header": _frame_header,
    "frame_header_number": _frame_header_number,
    "milliseconds": _milliseconds,
    "date": _date,
    "resets_at": _resets_at,
    "message": _message,
    "message_milliseconds": _message_milliseconds,
    "absurd": _absurd,
    "negative": _negative,
    "absent": _absent,
}
