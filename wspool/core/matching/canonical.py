"""Canonical: what of an item counts when two of them are compared, as bytes.

Whoever sends a history again has parsed it, kept it in types of its own and written it anew. What that
changes does not count; what the model would see differently does. Rules of this module:

* `{"role", "content": text}` is the typed message with one text part. A tool's output that is one text part
  is that text.
* `id`, `status`, `phase` and `parsed_arguments` of an item do not count, nor do `annotations`, `logprobs` and
  `parsed` of its parts. Of an item that says nothing else its id is what it says.
* null and `[]` do not count, and neither does the order of keys.
* `arguments` are compared as JSON: a number is its value there, `1.0` is `1`, and null counts. What is no
  JSON, or holds a number that a double cannot carry, is text.
* Reasoning is a place and no more: hosts keep its id, or its encrypted content, or both (`index`).

Each rule has hosts that need it; all else that is different makes two items different.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final, cast

from wspool.core.frames import decode_fast, encode_sorted

__all__ = ["canonical", "kind_of"]

_NOT_OF_ITEM: Final = frozenset({"id", "status", "phase", "parsed_arguments"})
_NOT_OF_PART: Final = frozenset({"annotations", "logprobs", "parsed"})
_OUTPUTS: Final = frozenset({"function_call_output", "custom_tool_call_output"})
_NESTED: Final = (dict, list, tuple)

#: Numbers that parsers disagree on: those that are no plain integers, long ones, and those that are none.
_ODD_NUMBER: Final = re.compile(r"[0-9](?:[.eE]|[0-9]{14})|NaN|Infinity")


def kind_of(item: Mapping[str, Any]) -> str | None:
    """Return the type of *item*, said or not."""
    kind = item.get("type")
    if isinstance(kind, str):
        return kind
    if kind is None and "role" in item:
        return "message"
    return "item_reference" if kind is None and isinstance(item.get("id"), str) else None


def canonical(item: Mapping[str, Any]) -> bytes:
    """Return what of *item* counts: equal bytes for two items that are the same to a model.

    Raises:
        TypeError, ValueError, RecursionError: it cannot be written as JSON.
    """
    kind = kind_of(item)
    kept: dict[str, Any] = {"type": kind}
    for name, value in item.items():
        if name in _NOT_OF_ITEM or value is None:
            continue
        if name == "content":
            value = _content(value, item)
        elif name == "arguments":
            kept[name] = _arguments(value)
            continue
        elif name == "output" and kind in _OUTPUTS:
            value = _output(value)
        elif isinstance(value, _NESTED):
            value = _bare(value)
        if value != []:
            kept[name] = value
    if len(kept) == 1:
        kept["id"] = item.get("id")
    return encode_sorted(kept)


def _content(content: Any, message: Mapping[str, Any]) -> Any:
    if isinstance(content, str):
        said = message.get("role") == "assistant"
        return [{"type": "output_text" if said else "input_text", "text": content}]
    return _parts(content)


def _output(output: Any) -> Any:
    parts = _parts(output)
    match parts:
        case [{"type": "input_text", "text": str(text), **others}] if not others:
            return text
        case _:
            return parts


def _parts(content: Any) -> Any:
    """Return the parts of a message or of an output, without what only decorates them."""
    if not isinstance(content, (list, tuple)):
        return _bare(content)
    return [
        {
            name: _bare(value) if isinstance(value, _NESTED) else value
            for name, value in cast("Mapping[str, Any]", part).items()
            if name not in _NOT_OF_PART and value is not None and value != []
        }
        if isinstance(part, Mapping)
        else part
        for part in cast("list[Any]", content)
    ]


def _bare(value: Any) -> Any:
    """Return *value* without what does not count: null and `[]` in objects."""
    if isinstance(value, dict):
        return {
            name: _bare(each) if isinstance(each, _NESTED) else each
            for name, each in cast("dict[str, Any]", value).items()
            if each is not None and each != []
        }
    if isinstance(value, (list, tuple)):
        return [_bare(each) for each in cast("list[Any]", value)]
    return value


def _arguments(given: Any) -> Any:
    """Return the value of arguments in a list of its own, which no text is like; or their text."""
    if not isinstance(given, str):
        given = encode_sorted(given).decode()  # some servers give them as the object itself
    try:
        if _ODD_NUMBER.search(given) is None:
            return [decode_fast(given)]
        return [json.loads(given, parse_float=_number, parse_constant=_number)]
    except (ValueError, RecursionError):
        return given


def _number(text: str) -> int | float:
    """Return a number that is no plain integer; one that a double cannot carry is refused."""
    try:
        exact, value = Decimal(text), float(text)
        if exact.is_finite() and Decimal(repr(value)) == exact:
            return int(value) if value.is_integer() else value
    except InvalidOperation:
        pass  # an exponent beyond all measure
    raise ValueError("no double")
