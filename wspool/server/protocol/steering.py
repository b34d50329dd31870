"""Steering: input for a response that is in progress.

Pure: what a steer may look like, and the events that answer it. The engine decides what becomes of it.

1. Accepted means that the server owns the input. The response ends at the next safe place, which is the end
   of an item, and another one that continues it with the input begins by itself.
2. A response that stopped for the client's tools can not be continued without their outputs: then the input
   waits for the request that brings them, and goes before them.

Source: the steering events of openai-python 3.54, and OpenAI's steering guide.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import attrs

from wspool.server.ledger import user_message
from wspool.server.models import Item, is_array, is_object
from wspool.server.protocol.grammar import Event

__all__ = [
    "MAX_PENDING",
    "Steer",
    "accepted",
    "failed",
    "pending",
    "required_input",
    "returned",
    "steer_input",
]

#: Steers that one response takes before it refuses more.
MAX_PENDING: Final = 16

_FIELDS: Final = frozenset({"type", "previous_response_id", "input"})
_ITEM_FIELDS: Final = frozenset({"type", "role", "content"})
_PARTS: Final = frozenset({"input_text", "input_image", "input_file"})

# Item -> the item that answers it, and the fields that both have.
_ANSWERS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "function_call": ("function_call_output", ("call_id", "name")),
    "custom_tool_call": ("custom_tool_call_output", ("call_id",)),
    "computer_call": ("computer_call_output", ("call_id",)),
    "shell_call": ("shell_call_output", ("call_id",)),
    "apply_patch_call": ("apply_patch_call_output", ("call_id",)),
}


@attrs.frozen
class Steer:
    """One accepted submission."""

    id: str
    target: str
    """The response that it steers."""
    given: str | Sequence[Item]
    """The input as it came."""
    items: Sequence[Item]
    """The input as items."""


def steer_input(body: Mapping[str, Any]) -> list[Item] | None:
    """The items of a steer's input; None if it is not valid."""
    given = body.get("input")
    if set(body) - _FIELDS:
        return None
    if isinstance(given, str):
        return user_message(given) if given else None
    if not is_array(given) or not given:
        return None
    return given if all(_is_user_message(item) for item in given) else None


def _is_user_message(item: Any) -> bool:
    if not is_object(item) or item.get("role") != "user" or set(item) - _ITEM_FIELDS:
        return False
    content = item.get("content")
    if item.get("type", "message") != "message":
        return False
    return isinstance(content, str) or (
        is_array(content) and all(is_object(part) and part.get("type") in _PARTS for part in content)
    )


def accepted(steer: Steer, *, number: int, lane: str | None) -> Event:
    """The server owns the input."""
    where = {"id": steer.id, "previous_response_id": steer.target}
    return _event("accepted", {"sequence_number": number, "steer": where}, lane)


def pending(steer: Steer, required: Sequence[Item], *, number: int, lane: str | None) -> Event:
    """The input waits for the request that brings *required*."""
    return _event(
        "pending",
        {
            "sequence_number": number,
            "reason": "waiting_for_required_input",
            "required_input": list(required),
            "steer": {"id": steer.id, "previous_response_id": steer.target},
        },
        lane,
    )


def failed(
    code: str, message: str, *, target: object, given: object, steer_id: str | None = None, lane: str | None
) -> Event:
    """The input goes back to the client; *steer_id* if it had been accepted."""
    steer: Item = {} if steer_id is None else {"id": steer_id}
    return _event(
        "failed",
        {
            "sequence_number": 0,
            "error": {"type": "invalid_request_error", "code": code, "message": message},
            "steer": steer | {"previous_response_id": target, "input": given},
        },
        lane,
    )


def returned(steer: Steer, code: str, lane: str | None) -> Event:
    """An accepted steer goes back to the client."""
    message = "The response that was to take the input could not be created."
    return failed(code, message, target=steer.target, given=steer.given, steer_id=steer.id, lane=lane)


def _event(kind: str, fields: Item, lane: str | None) -> Event:
    event: Event = {"type": f"response.steer.{kind}", **fields}
    return event if lane is None else event | {"stream_id": lane}


def required_input(items: Iterable[Item]) -> list[Item]:
    """A stub for every output that the client owes after *items*."""
    stubs: list[Item] = []
    for item in items:
        answer = _ANSWERS.get(str(item.get("type")))
        if answer is not None:
            kind, shared = answer
            stubs.append({"type": kind} | {key: item[key] for key in shared if key in item})
    return stubs
