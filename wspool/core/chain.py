"""Chain: lineage and history of a conversation; decides delta or full.

Rules of this module:

* The history holds what the server's model has seen: input items of turns that ended well,
  each followed by the output items of its response. A turn that failed or was lost leaves
  no trace, so it can be tried again as it was.
* A request is a delta only if the lane it goes to still has the parent as its latest
  response. In every other case the whole history is sent: it costs bytes, never context.
* Whatever may have evicted the parent makes the chain forget it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import attrs

from wspool.core.frames import encode

__all__ = ["Chain", "Item", "Plan", "WarmUp", "as_items"]

#: One input or output item, as the API defines it.
Item = dict[str, Any]

#: The fields that decide whether a warm-up request prepared the same context.
_WARM_FIELDS = ("model", "instructions", "tools")


def as_items(given: str | Sequence[Mapping[str, Any]]) -> list[Item]:
    """Return *given* as input items: a text becomes one user message.

    Raises:
        TypeError: it is neither a text nor a sequence of mappings.
    """
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": given}]}]
    return [_as_item(item) for item in given]


def _as_item(item: object) -> Item:
    # A caller without a type checker gets the same answer as one with.
    if not isinstance(item, Mapping):
        raise TypeError(f"input must be a str or a list of item dicts; it holds {item!r:.60}")
    return dict(cast("Mapping[str, Any]", item))


@attrs.frozen
class WarmUp:
    """The response to a warm-up request: a parent for whoever asks for the same context."""

    response_id: str
    body: Mapping[str, Any]

    def fits(self, body: Mapping[str, Any]) -> bool:
        """Return whether a first turn with *body* may continue from it.

        A warm-up that had input of its own never fits: the history does not know that input.
        """
        return not self.body.get("input") and all(
            self.body.get(name) == body.get(name) for name in _WARM_FIELDS
        )


@attrs.frozen(kw_only=True)
class Plan:
    """What to send for one turn.

    Attributes:
        input: the items to send.
        previous_response_id: the parent, or None.
        full: True when the whole history is in *input*.
        saved: bytes of history that need not be sent.
    """

    input: list[Item]
    previous_response_id: str | None
    full: bool
    saved: int


class Chain:
    """The history of one conversation and the response it continues from."""

    __slots__ = ("_items", "_parent", "_size")

    def __init__(self) -> None:
        self._items: list[Item] = []
        self._size = 0
        self._parent: str | None = None

    def __len__(self) -> int:
        return len(self._items)

    @property
    def items(self) -> list[Item]:
        """The full history, oldest first. A copy of the list; the items are the chain's own."""
        return list(self._items)

    @property
    def parent(self) -> str | None:
        """Id of the response that the next turn continues from, if it is still trusted."""
        return self._parent

    def plan(
        self, new: Sequence[Item], latest: str | None, warm_up: WarmUp | None, body: Mapping[str, Any]
    ) -> Plan:
        """Decide what to send.

        Args:
            new: the input items of this turn.
            latest: id of the latest response of the lane, or None.
            warm_up: the lane's unused warm-up response, or None.
            body: the other fields of the request.
        """
        if self._parent is not None and self._parent == latest:
            return Plan(input=list(new), previous_response_id=latest, full=False, saved=self._size)
        if not self._items and warm_up is not None and warm_up.response_id == latest and warm_up.fits(body):
            return Plan(input=list(new), previous_response_id=latest, full=True, saved=0)
        return Plan(input=[*self._items, *new], previous_response_id=None, full=True, saved=0)

    def extend(self, new: Sequence[Item], output: Sequence[Item], response_id: str) -> None:
        """A turn ended well: its input and its output are history, its response is the parent."""
        for item in (*new, *output):
            self._items.append(item)
            self._size += len(encode(item)) + 1  # and a comma
        self._parent = response_id

    def forget_parent(self) -> None:
        """The server may have evicted the parent: the next turn is sent in full."""
        self._parent = None
