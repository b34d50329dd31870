"""Effects: whether a call that an earlier process may have made is made again.

Rules of this module:

* A call is noted before it is made, and its output after. One whose output is there is answered with that,
  and never made again.
* One that was begun and not ended may have had its effect. It is made again only if its tool is repeatable.
  Else its outcome is unknown, and the model is told so, or a person has to look.
* A call is found again by what it asks for, its id, and how much of the history before it has that id: some
  servers give the same ids in every turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Final, Literal, TypeAlias

import attrs

from wspool.core.calls import signature
from wspool.core.items import Item

__all__ = ["UNKNOWN", "Effect", "UnknownEffects", "Verdict", "key_of", "verdict"]

#: What becomes of calls whose outcome nobody knows: told to the model, or left to a person.
UnknownEffects: TypeAlias = Literal["tell", "stop"]
#: What becomes of a call: it is made, answered with its output, answered with `UNKNOWN`, or left to a person.
Verdict: TypeAlias = Literal["make", "answer", "tell", "stop"]

#: What a call is answered with whose outcome nobody knows.
UNKNOWN: Final = (
    "Unknown: this call was begun, and the program was ended before its outcome was noted. It may have had "
    "its effects; it was not made again."
)


@attrs.frozen
class Effect:
    """What is noted of a call that was begun.

    Attributes:
        output: what it was answered with; None if it has not ended.
    """

    output: str | list[Item] | None = None


def verdict(effect: Effect | None, *, repeatable: bool, unknown: UnknownEffects) -> Verdict:
    """Decide what becomes of an open call.

    Args:
        effect: what is noted of it, None for nothing.
        repeatable: whether its tool may be called again.
        unknown: what becomes of it if nobody knows how it ended.
    """
    if effect is None:
        return "make"
    if effect.output is not None:
        return "answer"
    return "make" if repeatable else unknown


def key_of(call: Item, history: Sequence[bytes]) -> str:
    """Return what *call* is noted under: the same in every process that has this *history*, in JSON."""
    name = str(call.get("call_id") or "")
    found = name.encode("utf-8", "replace")
    place = sum(item.find(found) >= 0 for item in history)
    return sha256(repr((signature(call), name, place)).encode()).hexdigest()[:32]
