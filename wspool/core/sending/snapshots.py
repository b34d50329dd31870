"""What snapshots say of a history, besides its items: how much of it they hold, and what was stored of it.

Whoever wrote one down may have changed it, or be an earlier version: what is odd says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from wspool.core.items import Item

__all__ = ["flags_at", "is_whole"]


def is_whole(snapshot: Mapping[str, Any], items: Sequence[Item]) -> bool:
    """Return whether a snapshot with a parent holds all the items that its parent's server knows.

    One that a chain has made says how many there are. One of an earlier version has all that such a one has,
    and ends with what the response said.
    """
    if "length" in snapshot:
        return bool(snapshot["length"] == len(items))
    if not items or "replay_from" not in snapshot or "parent_stored" not in snapshot:
        return False
    kind = str(items[-1].get("type"))
    return items[-1].get("role", "assistant") == "assistant" and not kind.endswith("_output")


def flags_at(changes: object, length: int) -> list[bool]:
    """Return the flags of *length* items, given where they change; none is set if that is no such list."""
    flags = [False] * length
    if isinstance(changes, list):
        given = cast("list[object]", changes)
        for index in given:
            if type(index) is int and 0 <= index < length:
                flags[index:] = [not flags[index]] * (length - index)
    return flags
