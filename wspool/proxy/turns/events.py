"""Events: what a client of a stream reads, from the first byte to a terminal that its SDK understands.

Pure. Rules of this module, each measured with the SDKs themselves:

* Events go out as they came. Before `response.created` silence is broken by comments: SDKs fail at any other
  event that comes first. After it by numbered events, for comments do not reset Codex's watch over silence;
  what comes later is numbered after them.
* An answer that is one JSON body has white space before it instead, if that is wanted, and ends with a
  response that has failed.
* Every stream ends with a terminal. Codex loses the words of a bare `error`, and takes a bare end for a loss
  of connection. So what went wrong is said by `response.failed`, after a `response.created` if none went out:
  some SDKs fail at any other beginning.
* The numbers of a response in the background are what its client comes back with: none is added, and an
  answer that is cut is a cut answer, for the response goes on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from wspool.core.frames import Event, MalformedMessageError, encode_received
from wspool.pool.exchange import server_sent
from wspool.pool.http_answer import error_answer
from wspool.proxy.settings import KeepaliveStyle

__all__ = ["COMMENT", "EventWriter", "failed_body"]

#: What says nothing, in a stream.
COMMENT: Final = b": keepalive\n\n"
_CREATED: Final = "response.created"


class EventWriter:
    """Writes the body of one stream. `write` is for the exchange, the rest for whoever sends what it wrote.

    Args:
        number: of the request; goes into the name of a response that the provider did not name.
        model: the model that was asked for.
        background: whether the response goes on without its client.
    """

    def __init__(self, number: int, model: str | None, *, background: bool = False) -> None:
        self._number = number
        self._model = model
        self._background = background
        self._created: Event | None = None
        #: The number of the next event, if it came from the provider; and what is added to those.
        self._next = 0
        self._shift = 0

    def write(self, events: Sequence[Event], _: dict[str, Any] | None) -> bytes:
        """Return *events* as they are sent."""
        if self._created is None:
            self._created = next((event for event in events if event.type == _CREATED), None)
        if (last := events[-1].sequence_number) is not None:
            self._next = last + 1
        if self._shift:
            events = [_shifted(event, self._shift) for event in events]
        return server_sent(events)

    def keepalive(self, style: KeepaliveStyle) -> bytes:
        """Return what breaks the silence, now that all that was written is sent."""
        if style == "comment" or self._created is None or self._background:
            return COMMENT
        number = self._next + self._shift
        self._shift += 1
        return _sse({"type": "keepalive", "sequence_number": number})

    def ending(self, error: Exception) -> bytes:
        """Return the end of a stream that has begun, and in which *error* happened; nothing if it is cut."""
        if self._background and self._created is not None:
            return b""
        response = self._known()
        frames: list[dict[str, Any]] = []
        number = self._next + self._shift
        if self._created is None:
            started = {**response, "status": "in_progress"}
            frames.append({"type": _CREATED, "sequence_number": number, "response": started})
            number += 1
        failed = _failed(error, response)
        frames.append({"type": "response.failed", "sequence_number": number, "response": failed})
        return b"".join(map(_sse, frames))

    def _known(self) -> dict[str, Any]:
        """Return the response as far as the provider has named it."""
        try:
            said = self._created.data.get("response") if self._created is not None else None
        except MalformedMessageError:
            said = None
        if isinstance(said, dict):
            return cast("dict[str, Any]", said)
        return _unnamed(self._number, self._model)


def failed_body(error: Exception, number: int, model: str | None) -> bytes:
    """Return the body of an answer that is one JSON object, and whose status was said before *error*.

    Args:
        error: what happened.
        number: of the request.
        model: the model that it asked for.
    """
    return encode_received(_failed(error, _unnamed(number, model)))


def _failed(error: Exception, response: Mapping[str, Any]) -> dict[str, Any]:
    """Return *response* with *error* for its end."""
    _, _, answer = error_answer(error)
    said: dict[str, Any] = json.loads(answer)["error"] or {}
    failure = {
        "code": said.get("code") or said.get("type") or "server_error",
        "message": said.get("message") or str(error),
    }
    return {**response, "status": "failed", "error": failure}


def _unnamed(number: int, model: str | None) -> dict[str, Any]:
    """Return a response that the provider has not named."""
    return {
        "id": f"resp_wspool_{number}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": model,
        "output": [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": None,
    }


def _sse(frame: Mapping[str, Any]) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (str(frame["type"]).encode(), encode_received(frame))


def _shifted(event: Event, by: int) -> Event:
    """Return *event* with a number that is higher by so much, if it has one."""
    try:
        data = event.data
    except MalformedMessageError:
        return event
    number = data.get("sequence_number")
    if not isinstance(number, int):
        return event
    return Event(event.type, encode_received({**data, "sequence_number": number + by}))
