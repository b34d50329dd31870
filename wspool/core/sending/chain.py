"""Chain: lineage and history of a conversation; decides delta or full.

Rules of this module:

* The history holds what the server's model has seen: input items of turns that ended well,
  each followed by the output items of its response. A turn that failed or was lost leaves
  no trace, so it can be tried again as it was.
* A request is a delta only if the lane it goes to still has the parent as its latest
  response, or if the server was explicitly asked to store it. In every other case the whole
  history is sent: it costs bytes, never context.
* A compaction item stands for everything before it: a full send begins there.
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

    __slots__ = ("_items", "_parent", "_parent_stored", "_queued", "_replay_from", "_size", "_trusts_store")

    def __init__(self) -> None:
        self._items: list[Item] = []
        # Where a full send begins: a compaction item stands for everything before it.
        self._replay_from = 0
        # Bytes of what a full send would send.
        self._size = 0
        self._parent: str | None = None
        self._parent_stored = False
        # True while the lane of the parent holds input that goes before that of the next turn.
        self._queued = False
        # False once the server did not find a response that it was asked to store: then it keeps
        # no data, whatever `store` says.
        self._trusts_store = True

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
        here = self._parent is not None and self._parent == latest
        stored = self._parent is not None and self._parent_stored and self._trusts_store and not self._queued
        if here or stored:
            return Plan(input=list(new), previous_response_id=self._parent, full=False, saved=self._size)
        if not self._items and warm_up is not None and warm_up.response_id == latest and warm_up.fits(body):
            return Plan(input=list(new), previous_response_id=latest, full=True, saved=0)
        return Plan(input=[*self.replay(), *new], previous_response_id=None, full=True, saved=0)

    def extend(
        self, new: Sequence[Item], output: Sequence[Item], response_id: str, *, stored: bool = False
    ) -> None:
        """A turn ended well: its input and its output are history, its response is the parent.

        Args:
            new: the input items of the turn.
            output: the output items of its response.
            response_id: the response's id.
            stored: True if the server was asked to keep the response for any connection.
        """
        for item in (*new, *output):
            self._items.append(item)
            self._size += len(encode(item)) + 1  # and a comma
        for index, item in enumerate(output, len(self._items) - len(output)):
            if item.get("type") == "compaction":
                self._replay_from = index
                self._size = sum(len(encode(kept)) + 1 for kept in self._items[index:])
        self._parent = response_id
        self._parent_stored = stored
        self._queued = False

    def queue(self, items: Sequence[Item]) -> None:
        """The lane of the parent holds *items*, and puts them before the input of the next turn there.

        They are history already. Everywhere else they are sent with it.
        """
        for item in items:
            self._items.append(item)
            self._size += len(encode(item)) + 1
            self._queued = True

    def replay(self) -> list[Item]:
        """Return what a full send begins with: the history from its last compaction on."""
        return self._items[self._replay_from :]

    def restart(self, items: Sequence[Item]) -> None:
        """Begin anew: *items* stand for everything so far, and no response is their parent.

        They are sent as they are: what a compaction has made of a history must not be cut (P12).
        """
        self._items = list(items)
        self._replay_from = 0
        self._size = sum(len(encode(item)) + 1 for item in self._items)
        self.forget_parent()

    def forget_parent(self, *, lost_by_server: bool = False) -> None:
        """The server may have evicted the parent: the next turn is sent in full.

        Args:
            lost_by_server: True if the server said that it does not hold it.
        """
        if lost_by_server and self._parent_stored:
            self._trusts_store = False
        self._parent = None
        self._parent_stored = self._queued = False

    def fork(self) -> Chain:
        """Return a second chain with the same history and parent; each goes its own way from here."""
        other = Chain()
        other._items = list(self._items)
        other._replay_from = self._replay_from
        other._size = self._size
        other._parent = self._parent
        other._parent_stored = self._parent_stored
        other._trusts_store = self._trusts_store
        if self._queued:
            other.forget_parent()  # only one of them can be given what the lane holds
        return other

    def snapshot(self) -> dict[str, Any]:
        """Return everything a chain knows, as JSON values."""
        return {
            "items": list(self._items),
            "replay_from": self._replay_from,
            "parent": None if self._queued else self._parent,
            "parent_stored": self._parent_stored,
        }

    @classmethod
    def resume(cls, snapshot: Mapping[str, Any]) -> Chain:
        """Return the chain that *snapshot* was taken of.

        Raises:
            ValueError: it is no snapshot of a chain; the text says what is wrong.
        """
        items, start = snapshot.get("items"), snapshot.get("replay_from", 0)
        if not isinstance(items, list):
            raise ValueError("the snapshot has no list of items")
        if not isinstance(start, int) or not 0 <= start <= len(cast("list[object]", items)):
            raise ValueError(f"the snapshot's replay_from={start!r} is no index of its items")
        chain = cls()
        chain._items = as_items(cast("list[Item]", items))
        chain._replay_from = start
        chain._size = sum(len(encode(item)) + 1 for item in chain._items[start:])
        parent = snapshot.get("parent")
        chain._parent = parent if isinstance(parent, str) else None
        chain._parent_stored = snapshot.get("parent_stored") is True
        return chain
