"""Notices: what a provider says beside a response, and what it says by headers where it is asked by HTTP.

Pure. Over WebSocket a provider tells limits, and what would be headers of an answer, by events of their own.
Rules of this module:

* A client of a WebSocket is given those events as they came. One of HTTP is given headers with the same names
  that the provider would use; an event that SDKs do not know breaks some of them.
* What a handshake said is about the connection, which many turns share: of that passes only what is true for
  all of them. The state of a turn (`x-codex-turn-state`) is of that turn only.
* Names come from a list, and values are one line of visible text. Nothing else of an event becomes a header.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, cast

from wspool.core.frames import Event, MalformedMessageError
from wspool.errors import ResponseFailedError
from wspool.pool.turn import Turn

__all__ = ["TURN_STATE", "Notices", "of_connection", "said_by"]

#: By which Codex says, on each request of a turn, what it was told at the beginning of that turn.
TURN_STATE: Final = "x-codex-turn-state"

_LIMITS: Final = "codex.rate_limits"

#: What is of use to a client. Others keep a connection open, which is the proxy's own affair.
_TOLD: Final = frozenset(
    {_LIMITS, "codex.response.metadata", "response.metadata", "responsesapi.websocket_timing"}
)

#: What passes of the headers of an answer. Source: what Codex reads (`x-codex-*`, `x-reasoning-included`,
#: `x-models-etag`, `openai-model`), and the limits of OpenAI's API.
_OF_ANSWER: Final = re.compile(
    r"x-codex-[a-z0-9-]{1,64}|x-reasoning-included|x-models-etag|openai-model|openai-processing-ms"
    r"|x-ratelimit-[a-z0-9-]{1,64}"
)

#: What passes of the headers of a handshake.
_OF_CONNECTION: Final = frozenset({"x-reasoning-included", "x-models-etag"})

_VALUE: Final = re.compile(r"[\x20-\x7e]{0,4096}")

#: Of one turn: notices that are kept, and headers that come of them.
_MOST: Final = 32
_MOST_HEADERS: Final = 64

_WINDOWS: Final = ("primary", "secondary")
_FIELDS: Final = ("used_percent", "window_minutes", "reset_at")


class Notices:
    """The notices of one turn.

    Attributes:
        headers: what they are over HTTP, by name.
        request_id: by which the provider knows the request, if it said so.
    """

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.request_id: str | None = None
        self._events: list[Event] = []

    def hear(self, event: Event) -> None:
        """One has come. Never waits, never raises."""
        if event.type not in _TOLD:
            return
        if len(self._events) < _MOST:
            self._events.append(event)
        try:
            said = event.data
        except MalformedMessageError:
            return
        if event.type == _LIMITS:
            self._add(_limits(said))
        elif isinstance(headers := said.get("headers"), Mapping):
            self.answered(cast("Mapping[str, Any]", headers).items())

    def answered(self, headers: Iterable[tuple[str, Any]]) -> None:
        """These are the headers of its answer."""
        named = [(name.lower(), _text(value)) for name, value in headers]
        self._add([(name, value) for name, value in named if _OF_ANSWER.fullmatch(name)])
        self.request_id = next((v[:200] for n, v in named if n == "x-request-id" and v), self.request_id)

    def take(self) -> Sequence[Event]:
        """Return the notices that have come since, as they came."""
        events, self._events = self._events, []
        return events

    def _add(self, headers: Iterable[tuple[str, str]]) -> None:
        for name, value in headers:
            if value and len(self.headers) < _MOST_HEADERS and _VALUE.fullmatch(value):
                self.headers[name] = value

    def sent(self, turn: Turn) -> None:
        """Its answer has begun, in *turn*."""
        if turn.transport == "http":
            self.answered(turn.headers)
        else:
            self._add(of_connection(turn.headers))


def said_by(error: Exception | None) -> Notices:
    """Return what the provider said beside the request that it refused by *error*, if it did."""
    notices = Notices()
    if not isinstance(error, ResponseFailedError):
        return notices
    for holder in (error.raw.get("error"), error.raw):
        headers: object = cast("Mapping[str, Any]", holder).get("headers") if _is_object(holder) else None
        if _is_object(headers):
            notices.answered(cast("Mapping[str, Any]", headers).items())
    return notices


def _is_object(value: object) -> bool:
    return isinstance(value, Mapping)


def of_connection(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return what of the *headers* of a handshake is true for all turns of its connection."""
    return [(name, value) for name, value in headers if name in _OF_CONNECTION and _VALUE.fullmatch(value)]


def _limits(said: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what Codex reads of limits over HTTP. Source: its `rate_limits` reader."""
    named = said.get("metered_limit_name") or said.get("limit_name") or "codex"
    prefix = f"x-{str(named).strip().lower().replace('_', '-')}"
    if not re.fullmatch(r"x-codex(-[a-z0-9-]{1,40})?", prefix):
        return []
    limits: object = said.get("rate_limits")
    found: list[tuple[str, str]] = []
    for window in _WINDOWS:
        shown: object = cast("Mapping[str, Any]", limits).get(window) if isinstance(limits, Mapping) else None
        if isinstance(shown, Mapping):
            for field in _FIELDS:
                text = _text(cast("Mapping[str, Any]", shown).get(field))
                found.append((f"{prefix}-{window}-{field.replace('_', '-')}", text))
    if isinstance(credits := said.get("credits"), Mapping):
        for field in ("has_credits", "unlimited", "balance"):
            text = _text(cast("Mapping[str, Any]", credits).get(field))
            found.append((f"x-codex-credits-{field.replace('_', '-')}", text))
    return found


def _text(value: object) -> str:
    """Return a JSON value as a header has it; empty if it cannot have it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, (str, int, float)) else ""
