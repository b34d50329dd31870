"""Odd: what servers and gateways make of items, and what a strict server must be shown of it all the same.

The server of an odd world takes whatever can be worked with, its model says items in unusual company, and
a gateway before it rewrites items on their way: so the history of a conversation fills with what nobody would
take in full. `shown` says what of such a history must reach a model that knows nothing yet.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from wspool.server import Item, function_call
from wspool.server.models import text_of

__all__ = ["ANSWERS", "closed", "company", "open_calls", "rewritten", "shown", "uncompacted"]

#: Call -> the item that answers it.
ANSWERS: Final = {
    "function_call": "function_call_output",
    "custom_tool_call": "custom_tool_call_output",
}

_LONG: Final = "c" * 70


def _thought(**fields: Any) -> Item:
    return {"type": "reasoning", "summary": [], "encrypted_content": "gAAA", **fields}


#: What comes beside the item that says something, by the words that ask for it.
_COMPANY: Final[tuple[Callable[[Item], list[Item]], ...]] = (
    lambda item: [item],
    lambda item: [_thought(), item],
    lambda item: [item, _thought()],
    lambda item: [_thought(), _thought(), item, _thought(), _thought()],
    lambda item: [_thought(), item, function_call("work", {"word": "another"})],
    lambda item: [{"type": "web_search_call", "id": "ws_same", "status": "completed"}, item],
    lambda item: [_thought(id="rs_same"), item],
    lambda item: [{"type": "compaction", "encrypted_content": "gCCC"}, item],
    lambda item: [item, {"type": "custom_tool_call", "name": "work", "input": "word"}],
)

#: What a gateway makes of an item, by its kind.
_REWRITINGS: Final[dict[str, tuple[dict[str, Any], ...]]] = {
    "message": (
        {"content": str},
        {"role": None},
        {"role": "model", "id": "msg_same"},
        {"content": lambda content: [part["text"] for part in content]},
        {"content": lambda content: [{"type": "text", "text": part["text"]} for part in content]},
        {"content": lambda content: [{**part, "text": part["text"] + "\ud83d"} for part in content]},
        {"score": float("nan")},
        {"id": "msg_same"},
    ),
    "reasoning": (
        {"encrypted_content": None},
        {"encrypted_content": ""},
        {"summary": "hm"},
        {"summary": None},
        {"id": "rs_same"},
        {"id": ""},
    ),
    "function_call": (
        {"name": ""},
        {"name": "a.b " * 50},
        {"arguments": json.loads},
        {"arguments": None},
        {"call_id": lambda call: _LONG + call},
        {"call_id": None},
        {"id": "fc_same"},
    ),
    "custom_tool_call": (
        {"input": {"word": "word"}},
        {"name": None},
        {"call_id": lambda call: _LONG + call},
    ),
}


def _draw(words: str, among: int) -> int:
    return zlib.crc32(words.encode(errors="replace")) % among


def company(said: Item, words: str) -> list[Item]:
    """The output of a response that says one thing, with what comes beside it."""
    return _COMPANY[_draw(words, len(_COMPANY))](said)


def rewritten(text: str) -> str:
    """An event as an odd gateway passes it on: the same item is always rewritten in the same way."""
    event: dict[str, Any] = json.loads(text)
    response: dict[str, Any] = event.get("response") or {}
    if not (event["type"] == "response.output_item.done" or response.get("output")):
        return text
    if "item" in event:
        event["item"] = _rewritten(event["item"])
    if "output" in response:
        response["output"] = [_rewritten(item) for item in response["output"]]
    return json.dumps(event)


def _rewritten(item: Item) -> Item:
    forms = _REWRITINGS.get(item["type"], ())
    chosen = _draw(item["id"] + item["type"], 2 * len(forms) + 1)
    if chosen >= len(forms):
        return item  # about half of them stay as they are
    changed = dict(item)
    for name, form in forms[chosen].items():
        if form is str:
            changed[name] = text_of(item)
        else:
            changed[name] = form(item.get(name)) if callable(form) else form
    return {name: value for name, value in changed.items() if value is not None}


# -- what of a history counts -------------------------------------------------------------------


def open_calls(items: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The calls of the last response that have no output; those before it are nobody's business any more."""
    last = len(items)
    while last and (items[last - 1].get("type") or "message") not in ANSWERS.values():
        if items[last - 1].get("role") == "user":
            break
        last -= 1
    return [item for item in items[last:] if item.get("type") in ANSWERS]


def closed(call: Mapping[str, Any], words: str) -> Item:
    """The output of a call."""
    output = {"type": ANSWERS[call["type"]], "output": words}
    return output | ({"call_id": call["call_id"]} if "call_id" in call else {})


def uncompacted(items: Sequence[Item]) -> Sequence[Item]:
    """What of *items* is not in the last compaction, and that."""
    return items[
        max((index for index, item in enumerate(items) if item.get("type") == "compaction"), default=0) :
    ]


def shown(items: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """What of *items* a model must be shown: in order, whatever their form is.

    Reasoning counts if it has content, and if something follows that the model has made of it.
    """
    found: list[tuple[str, str]] = []
    follows = False
    for item in reversed(items):
        kind = item.get("type") or "message"
        text = ""
        if kind == "reasoning":
            if not (item.get("encrypted_content") and follows):
                continue
        elif kind == "message":
            text = _words(item)
            follows = item.get("role") != "user"
        elif kind in ANSWERS.values():
            text = str(item["output"])
            follows = False
        else:
            follows = True
        found.append((kind, text))
    return found[::-1]


def _words(item: Mapping[str, Any]) -> str:
    content = item.get("content") or ""
    parts = [content] if isinstance(content, str) else content
    said = "".join(part if isinstance(part, str) else part.get("text", "") for part in parts)
    return re.sub("[\ud800-\udfff]", "\ufffd", said)
