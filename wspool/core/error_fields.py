"""Where the fields of an error are: in whatever an endpoint, and the gateways before it, have wrapped it.

Rules of this module:

* An error is a chain of objects, each in the one before it: the event, `error` in it, `error` in that. What
  is said innermost is the most exact. Only the status is taken from outside: whoever wrote the frame knows
  best what it is about.
* Nothing is believed of the shape: any field may be missing, of another kind, or an object of its own.
* Depth, lists and texts are bounded, so that reading takes no longer than the message is long.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, cast

from wspool.core.frames import as_number, as_text
from wspool.core.waits import wait_in_fields, wait_in_text

__all__ = [
    "find_code",
    "find_holders",
    "find_message",
    "find_param",
    "find_status",
    "find_type",
    "find_wait",
    "parse_json",
]

#: Longest text that is taken for JSON. More than that nobody writes into an error.
_LONGEST: Final = 1024 * 1024


def parse_json(text: str | bytes) -> object:
    """Return the JSON value in *text*; None if there is none that anybody meant to be read."""
    if len(text) > _LONGEST:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


#: Where the error is in what it is wrapped in, most telling first.
_INSIDE: Final = ("error", "body", "errors", "detail", "incomplete_details", "status_details", "message")
#: Wrappers at most. A gateway behind a gateway has three.
_DEEPEST: Final = 6
#: Details of an error that are looked into.
_MOST_DETAILS: Final = 20


def find_holders(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the objects that say something about the error, the innermost first, the event last."""
    found: list[Mapping[str, Any]] = [data]
    current = data
    response = data.get("response")
    if isinstance(response, Mapping) and not data.get("error"):
        current = cast("Mapping[str, Any]", response)  # which says much, and about the error only in here
    while len(found) < _DEEPEST and (inner := _inner(current)) is not None:
        found.insert(0, inner)
        current = inner
    return found


def _inner(holder: Mapping[str, Any]) -> Mapping[str, Any] | None:
    for name in _INSIDE:
        value: object = holder.get(name)
        for one in cast("list[object]", value) if isinstance(value, list) else (value,):
            if isinstance(one, Mapping):
                return cast("Mapping[str, Any]", one)
        # A gateway may put the whole answer of the one behind it in its text.
        if isinstance(value, str) and (parsed := _json_in(value)) is not None:
            return parsed
    return None


def _json_in(text: str) -> Mapping[str, Any] | None:
    if not text.startswith("{"):
        return None
    value = parse_json(text)
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else None


_TEXTS: Final = ("message", "msg", "error_description", "errorMessage")
_CODES: Final = ("code", "error_code", "errorCode")
_TYPES: Final = ("type", "error_type", "errorType")
_STATUSES: Final = ("status", "status_code", "statusCode", "http_status")


def find_message(holders: Sequence[Mapping[str, Any]]) -> str:
    """Return the error in words, an empty text if there are none."""
    for holder in holders:
        if (text := _text(holder)) is not None:
            return text
    return ""


def _text(holder: Mapping[str, Any]) -> str | None:
    """Return what *holder* says in words."""
    text = next((text for name in _TEXTS if (text := as_text(holder.get(name))) is not None), None)
    if text is not None and _json_in(text) is not None:
        return None  # not words: it was looked into, and says nothing
    if text is not None and (place := _place(holder)) is not None:
        text = f"{place}: {text}"
    title, detail = as_text(holder.get("title")), as_text(holder.get("detail"))
    if text is None and detail is not None:
        text = f"{title}: {detail}" if title is not None else detail  # RFC 9457
    error = as_text(holder.get("error"))
    if text is None and error is not None and not _is_code(error):
        text = error
    text = text or title
    cause = _upstream(holder)
    return f"{text}: {cause}" if text is not None and cause is not None else text


def _place(problem: Mapping[str, Any]) -> str | None:
    """Return the field that a problem is about, as FastAPI writes it: `["body", "input", 0]`."""
    place: object = problem.get("loc")
    if not isinstance(place, list):
        return None
    parts = [str(part) for part in cast("list[object]", place)[:_DEEPEST] if isinstance(part, (str, int))]
    return ".".join(parts[parts[:1] == ["body"] :]) or None


def _upstream(holder: Mapping[str, Any]) -> str | None:
    """Return what the provider behind OpenRouter said, where that only says that it said something."""
    metadata: object = holder.get("metadata")
    raw: object = cast("Mapping[str, Any]", metadata).get("raw") if isinstance(metadata, Mapping) else None
    if not isinstance(raw, str) or not raw:
        return None
    inside = _json_in(raw)
    return (find_message(find_holders(inside)) or None) if inside is not None else raw


def find_code(holders: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the code. One that is a number is a status, and taken only where there is no other."""
    number: str | None = None
    for holder in holders:
        for code in _codes(holder):
            if not code.isdecimal():
                return code
            number = number or code
    return number


def _codes(holder: Mapping[str, Any]) -> Iterator[str]:
    for name in _CODES:
        if (code := as_text(holder.get(name))) is not None:
            yield code
    if as_number(holder.get("code")) is not None and (code := as_text(holder.get("status"))) is not None:
        yield code  # Google: the code is a number, and the status a word
    if (code := as_text(holder.get("error"))) is not None and _is_code(code):
        yield code
    if "reason" in holder and len(holder) == 1 and (code := as_text(holder["reason"])) is not None:
        yield code  # why a response is incomplete


#: A word that programs read: "insufficient_quota". In "Unauthorized" and "Not Found" people read as well.
_TOKEN: Final = re.compile(r"[a-z0-9.-]{1,60}(?:_[a-z0-9.-]{1,60}){1,8}")


def _is_code(error: str) -> bool:
    """Whether the text in `error` is a code, not the sentence of the error."""
    return _TOKEN.fullmatch(error) is not None


def find_type(holders: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the family of the error."""
    for holder in holders:
        for name in _TYPES:
            kind = as_text(holder.get(name))
            # The type of an event, or RFC 9457's way to say that there is none.
            if kind is not None and kind not in ("error", "about:blank") and kind[:9] != "response.":
                return kind
    return None


def find_param(holders: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the field of the request that it blames."""
    for holder in holders:
        if (param := as_text(holder.get("param")) or _place(holder)) is not None:
            return param
    return None


def find_status(holders: Sequence[Mapping[str, Any]]) -> int | None:
    """Return the status: the outermost one, for whoever wrote the frame knows best what it is about."""
    for holder in reversed(holders):
        if (status := _own_status(holder)) is not None:
            return status
    for holder in holders:
        for name in _CODES:
            if (status := _as_status(holder.get(name))) is not None:
                return status
    return None


def _own_status(holder: Mapping[str, Any]) -> int | None:
    found = (_as_status(holder.get(name)) for name in _STATUSES)
    return next((status for status in found if status is not None), None)


def _as_status(value: object) -> int | None:
    """Return *value*, a number or its digits, if it is an HTTP status."""
    number = as_number(value)
    if isinstance(value, str) and len(value) == 3 and value.isdecimal():
        number = int(value)
    return number if number is not None and 100 <= number <= 599 else None


def find_wait(holders: Sequence[Mapping[str, Any]], message: str, wall_clock: float) -> float | None:
    """Return the wait: of headers, of whatever is wrapped in what; else of fields; else of the text."""
    for holder in reversed(holders):
        headers: object = holder.get("headers")
        if isinstance(headers, Mapping):
            told = cast("Mapping[str, Any]", headers)
            if (wait := wait_in_fields(told, wall_clock)) is not None:
                return wait
    for holder in holders:
        for place in _places(holder):
            if (wait := wait_in_fields(place, wall_clock)) is not None:
                return wait
    return wait_in_text(message)


def _places(holder: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Where in *holder* a wait may be: beside the text, or in what is told beside that."""
    yield holder
    for name in ("details", "metadata"):
        value: object = holder.get(name)
        listed = cast("list[object]", value)[:_MOST_DETAILS] if isinstance(value, list) else [value]
        for one in listed:
            if isinstance(one, Mapping):
                yield cast("Mapping[str, Any]", one)
