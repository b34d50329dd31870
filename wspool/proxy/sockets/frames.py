"""Frames: what a WebSocket client of the proxy is sent, as bytes that are ready to go.

Pure. Rules of this module:

* What the provider said goes out as it came, to the byte, but for the name of the lane: the client's own
  takes the place of the pool's. No code of an error is ever renamed.
* What the proxy has to say by itself has the provider's shapes: an `error` frame for a request that did not
  begin, `response.failed` with the next number for a response that did.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from wspool.core.frames import Event, encode_received, lane_of
from wspool.errors import MalformedMessageError, ResponseFailedError
from wspool.listening.errors import RequestError
from wspool.pool.http_answer import error_answer

__all__ = [
    "close_frame",
    "control_frame",
    "error_frame",
    "failed",
    "joined",
    "labelled",
    "refusal",
    "steer_failed",
]

# First bytes of whole frames of a server. Source: RFC 6455, 5.2 and 11.8.
_TEXT: Final = 0x81
_CLOSE: Final = 0x88

#: Most bytes of a control frame's payload. Source: RFC 6455, 5.5.
_MOST_CONTROL: Final = 125

_KEY: Final = '"stream_id"'
_MEMBER: Final = re.compile(r'(,?)\s*"stream_id"\s*:\s*"[A-Za-z0-9_.-]{1,256}"\s*(,?)')


def control_frame(opcode: int, payload: bytes = b"") -> bytes:
    """Return a ping or a pong."""
    return _head(0x80 | opcode, len(payload)) + payload


def close_frame(code: int, reason: str = "") -> bytes:
    """Return the frame that begins or answers the end of a connection."""
    said = reason.encode()[: _MOST_CONTROL - 2].decode(errors="ignore").encode()
    payload = code.to_bytes(2) + said
    return _head(_CLOSE, len(payload)) + payload


def _head(first: int, size: int) -> bytes:
    if size < 126:
        return bytes((first, size))
    if size < 0x10000:
        return bytes((first, 126)) + size.to_bytes(2)
    return bytes((first, 127)) + size.to_bytes(8)


def labelled(event: Event, lane: str | None) -> bytes:
    """Return *event* as it came, as one of the client's *lane*, None for the one without a name.

    A few hundred nanoseconds, unless it has to be read.
    """
    raw = event.raw if isinstance(event.raw, str) else event.raw.decode(errors="replace")
    if _KEY not in raw:
        if lane is not None:
            raw = f'{{"stream_id":"{lane}",{raw.lstrip()[1:]}'
        return raw.encode(errors="replace")
    try:
        named = lane_of(event) is not None
        # Named, and the key is there once: then that is where.
        found = _MEMBER.search(raw) if named and raw.count(_KEY) == 1 else None
        if found is not None:
            before, after = found.groups()
            own = before and after if lane is None else f'{before}"stream_id":"{lane}"{after}'
            return (raw[: found.start()] + own + raw[found.end() :]).encode(errors="replace")
        return _labelled(event.data, lane)
    except MalformedMessageError:  # the turn has taken it for an event, so it is one
        return raw.encode(errors="replace")


def _labelled(said: Mapping[str, Any], lane: str | None) -> bytes:
    rest = {name: value for name, value in said.items() if name != "stream_id"}
    return encode_received(rest if lane is None else {**rest, "stream_id": lane})


def error_frame(
    lane: str | None,
    message: str,
    *,
    status: int = 400,
    code: str | None = None,
    param: str | None = None,
    kind: str = "invalid_request_error",
) -> bytes:
    """Return an error of the proxy's own about a request."""
    error = {"type": kind, "code": code, "message": message, "param": param}
    return _labelled({"type": "error", "status": status, "error": error}, lane)


def refusal(error: Exception, lane: str | None) -> bytes:
    """Return the frame for a turn that never began: the provider's own, where it refused.

    Args:
        error: what entering or reading the turn raised.
        lane: the client's.
    """
    if isinstance(error, ResponseFailedError) and isinstance(error.raw.get("type"), str):
        return _labelled(error.raw, lane)
    if isinstance(error, RequestError):
        return _labelled({"type": "error", "status": error.error.status, "error": error.error.body()}, lane)
    status, headers, body = error_answer(error)
    advice = {name: value for name, value in headers if name != "content-type"}
    said: dict[str, Any] = {"type": "error", "status": status, **json.loads(body)}
    return _labelled({**said, "headers": advice} if advice else said, lane)


def failed(error: Exception, response_id: str, last: Event | None, lane: str | None) -> bytes:
    """Return the end of a response that began and whose real end will never come.

    Args:
        error: what became of it.
        response_id: its id.
        last: the last event that went out, whose number this one follows.
    """
    said: object = json.loads(error_answer(error)[2])["error"]
    about = cast("Mapping[str, Any]", said) if isinstance(said, Mapping) else {"message": str(said)}
    code = about.get("code") or "server_error"
    response: dict[str, Any] = {
        "id": response_id,
        "object": "response",
        "status": "failed",
        "error": {"code": code, "message": about.get("message")},
        "output": [],
    }
    number = last.sequence_number if last is not None else None
    event: dict[str, Any] = {"type": "response.failed", "response": response}
    if number is not None:
        event["sequence_number"] = number + 1
    return _labelled(event, lane)


def steer_failed(steer: Mapping[str, Any], code: str, message: str, lane: str | None) -> bytes:
    """Return the event that gives a steer back to the client: nothing of it was sent."""
    given = {"previous_response_id": steer.get("previous_response_id"), "input": steer.get("input")}
    error = {"type": "invalid_request_error", "code": code, "message": message}
    event = {"type": "response.steer.failed", "sequence_number": 0, "error": error, "steer": given}
    return _labelled(event, lane)


def joined(payloads: Sequence[bytes]) -> bytes:
    """Return *payloads* as the frames that they are, in one piece."""
    return b"".join([part for payload in payloads for part in (_head(_TEXT, len(payload)), payload)])
