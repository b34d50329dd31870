"""Transcripts: conversations as text for people, cut to what they can read.

1. Each text is cut in its middle, and a long conversation as well: how it began and how it ended is shown.
2. Lines stay lines; whatever else is no letter is shown and not obeyed (`wspool.core.plain`).
3. Items of a kind that nobody here knows are shown as the JSON that they are.
"""

import json
from collections.abc import Mapping
from typing import Any, Final, cast

import attrs

from wspool.core.plain import plain
from wspool.report.reading import Line, part

__all__ = ["Said", "said_in", "text_of"]

#: Characters of one text.
LONGEST: Final = 3000
#: Items of a conversation; of a longer one as many from its beginning as from its end.
MOST: Final = 24
#: Characters of one line: a browser lays out longer ones slowly.
_WIDEST: Final = 2000


@attrs.frozen
class Said:
    """One item of a conversation.

    Attributes:
      who: who said it: a role, or the kind of the item.
      text: what.
      kind: `message`, `call`, `output` or `other`.
    """

    who: str
    text: str
    kind: str


def text_of(value: object, most: int = LONGEST) -> str:
    """Return *value*, a text or else JSON, such that it can be shown: at most about *most* characters."""
    whole = value if isinstance(value, str) else _json(value)
    if len(whole) > most:
        cut = len(whole) - most
        whole = (
            f"{whole[: most // 2]}\n... {cut:,} characters are left out ...\n{whole[-(most - most // 2) :]}"
        )
    return "\n".join(plain(line.rstrip("\r"), _WIDEST) for line in whole.split("\n"))


def said_in(line: Line) -> list[Said]:
    """Return the conversation of a result, or of a Batch line the answer."""
    items: object = line.fields.get("items")
    if "custom_id" in line.fields:
        body = part(part(line.fields, "response"), "body")
        items = body.get("output")
        if items is None and body:
            return [Said("answer", text_of(line.answer), "message")]
    if not isinstance(items, list):
        return []
    found = cast("list[object]", items)
    if len(found) <= MOST:
        return [_said(item) for item in found]
    between = Said("", f"... {len(found) - MOST:,} items are left out ...", "other")
    return [*map(_said, found[: MOST // 2]), between, *map(_said, found[-MOST // 2 :])]


def _said(item: object) -> Said:
    if not isinstance(item, dict):
        return Said("item", text_of(item), "other")
    fields = cast("dict[str, Any]", item)
    kind = str(fields.get("type") or "message")
    if kind == "message":
        return Said(plain(str(fields.get("role") or kind), 40), _content(fields.get("content")), "message")
    if kind.endswith("_output"):
        return Said("output", _content(fields.get("output")), "output")
    if kind in ("function_call", "custom_tool_call"):
        asked = fields.get("arguments", fields.get("input"))
        return Said("call", f"{text_of(str(fields.get('name')), 200)} {_content(asked)}", "call")
    if kind == "reasoning":
        return Said("reasoning", _content(fields.get("summary") or fields.get("content")), "other")
    return Said(plain(kind, 60), text_of(fields), "other")


def _content(content: object) -> str:
    """The text of a list of parts, or of what else stands there."""
    if isinstance(content, list):
        parts = cast("list[object]", content)
        return text_of("\n".join(map(_part, parts[:MOST])) + (" ..." if len(parts) > MOST else ""))
    return text_of("" if content is None else content)


def _part(value: object) -> str:
    if isinstance(value, dict):
        fields = cast("Mapping[str, Any]", value)
        for name in ("text", "refusal"):
            if isinstance(fields.get(name), str):
                return str(fields[name])
        return _json(fields)
    return value if isinstance(value, str) else _json(value)


def _json(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, indent=1)
    except (TypeError, ValueError, RecursionError) as problem:  # too deep
        return f"({type(value).__name__} that cannot be shown: {type(problem).__name__})"
