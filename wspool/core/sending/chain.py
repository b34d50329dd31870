"""Chain: lineage and history of a conversation; decides delta or full.

Rules of this module:

* The history holds what the server's model has seen: input items of turns that ended well,
  each followed by the output items of its response. A turn that failed or was lost leaves
  no trace, so it can be tried again as it was. A turn is history with all its items or not at all.
* A request is a delta only if it goes to the lane that holds the parent, and the parent is that lane's
  latest response; or if the server was explicitly asked to store the parent *and all that it continues
  from*. An id alone proves nothing: there are servers that count them anew on each connection. In every
  other case the whole history is sent: it costs bytes, never context.
* A response whose output could not be kept whole is no parent: its server would know more than the history.
* A compaction item stands for everything before it: a full send begins there.
* Whatever may have evicted the parent makes the chain forget it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

import attrs

from wspool.core.commands import ConnectionId, LaneId
from wspool.core.encoding import Encoded, assemble, read
from wspool.core.frames import encode, encode_received
from wspool.core.items import Item, Output, as_items, encode_fields, encode_items, read_items

__all__ = ["Chain", "Fields", "Item", "LaneKey", "Plan", "WarmUp", "as_items"]

#: The fields of a request's body, each encoded.
Fields: TypeAlias = Mapping[str, Encoded]
#: Which lane of a pool: its connection, whose number is never used again, and its number there.
LaneKey: TypeAlias = tuple[ConnectionId, LaneId]

#: The fields that decide whether a warm-up request prepared the same context.
_WARM_FIELDS = ("model", "instructions", "tools", "prompt")
#: Fields that give a warm-up request a context that no history knows.
_CONTEXT_FIELDS = ("input", "previous_response_id", "conversation")

_NULL = Encoded(b"null")
_TYPE = Encoded(b'"response.create"')


@attrs.frozen
class WarmUp:
    """The response to a warm-up request: a parent for whoever asks for the same context.

    Attributes:
        response_id: its id.
        fields: the body of its request.
    """

    response_id: str
    fields: Fields

    @classmethod
    def of(
        cls, response: Mapping[str, Any] | None, body: Mapping[str, Any], *, output_seen: bool = False
    ) -> WarmUp | None:
        """Return what a response to the warm-up request *body* is good for; None if it is no parent.

        It is none if the model has said something, for the history does not know it, nor if it had a
        context of its own, nor if it did not plainly end well.

        Args:
            response: the response of its terminal event.
            body: the body of its request.
            output_seen: True if output came on the way.
        """
        response = response or {}
        response_id, usage = response.get("id"), response.get("usage")
        said = cast("Mapping[str, Any]", usage).get("output_tokens") if isinstance(usage, Mapping) else None
        if (
            not isinstance(response_id, str)
            or not response_id
            or response.get("status") != "completed"
            or response.get("output")
            or output_seen
            or said
            or any(body.get(name) for name in _CONTEXT_FIELDS)
        ):
            return None
        return cls(response_id, encode_fields(body))

    @property
    def stored(self) -> bool:
        """Whether the server was asked to keep it for any connection."""
        return self.fields.get("store") == b"true"

    def fits(self, fields: Fields) -> bool:
        """Return whether a first turn with *fields* may continue from it."""
        return all(_equal(self.fields.get(name, _NULL), fields.get(name, _NULL)) for name in _WARM_FIELDS)


def _equal(one: Encoded, other: Encoded) -> bool:
    return one == other or bool(read(one) == read(other))  # the order of keys says nothing


@attrs.frozen(kw_only=True)
class Plan:
    """What to send for one turn.

    Attributes:
        input: the items to send.
        previous_response_id: the parent, or None.
        full: True when the whole history is in *input*.
        saved: bytes of history that need not be sent.
        rooted: True if the server was asked to store all that it continues from, or that is nothing.
    """

    input: Sequence[Encoded]
    previous_response_id: str | None
    full: bool
    saved: int
    rooted: bool

    def request(self, fields: Fields, stream_id: str | None) -> bytes:
        """Return the request to send: nothing is encoded, bytes are joined.

        Args:
            fields: the other fields of its body.
            stream_id: the name of the lane, if it must be given.
        """
        members: dict[str, bytes] = {"type": _TYPE, **fields}
        if stream_id is not None:
            members["stream_id"] = encode(stream_id)
        if self.previous_response_id is not None:
            members["previous_response_id"] = encode(self.previous_response_id)
        return assemble(members, self.input)


class Chain:
    """The history of one conversation and the response it continues from."""

    __slots__ = (
        "_items",
        "_lane",
        "_parent",
        "_parent_stored",
        "_queued",
        "_replay_from",
        "_size",
        "_trusts_store",
    )

    def __init__(self) -> None:
        self._items: list[Encoded] = []
        # Where a full send begins: a compaction item stands for everything before it.
        self._replay_from = 0
        # Bytes of what a full send would send.
        self._size = 0
        self._parent: str | None = None
        # The lane that holds the parent, if any is known to.
        self._lane: LaneKey | None = None
        # True if the server was asked to store the parent and all that it continues from.
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
        """The full history, oldest first. Made anew each time, as long as it is."""
        return read_items(self._items)

    @property
    def encoded(self) -> list[Encoded]:
        """The full history, oldest first, encoded. What stays in it is the same object each time."""
        return list(self._items)

    @property
    def parent(self) -> str | None:
        """Id of the response that the next turn continues from, if it is still trusted."""
        return self._parent

    def plan(
        self,
        new: Sequence[Encoded],
        lane: LaneKey,
        latest: str | None,
        warm_up: WarmUp | None,
        fields: Fields,
    ) -> Plan:
        """Decide what to send.

        Args:
            new: the input items of this turn.
            lane: the lane that it is for.
            latest: id of the latest response of the lane, or None.
            warm_up: the lane's unused warm-up response, or None.
            fields: the other fields of the request.
        """
        parent = self._parent
        here = parent == latest and self._lane == lane
        # Another response of that name proves that there a name is no proof.
        stored = self._parent_stored and self._trusts_store and not self._queued and parent != latest
        if parent is not None and (here or stored):
            return Plan(
                input=new,
                previous_response_id=parent,
                full=False,
                saved=self._size,
                rooted=self._parent_stored,
            )
        if not self._items and warm_up is not None and warm_up.response_id == latest and warm_up.fits(fields):
            return Plan(input=new, previous_response_id=latest, full=True, saved=0, rooted=warm_up.stored)
        return Plan(input=[*self.replay(), *new], previous_response_id=None, full=True, saved=0, rooted=True)

    def extend(
        self,
        new: Sequence[Encoded],
        output: Output,
        response_id: str,
        lane: LaneKey,
        *,
        stored: bool = False,
    ) -> None:
        """A turn ended well: its input and its output are history, its response is the parent.

        Args:
            new: the input items of the turn.
            output: the output of its response.
            response_id: the response's id.
            lane: the lane that holds it.
            stored: True if the server was asked to keep the response and all that it continues from, for
                any connection.
        """
        start = len(self._items) + len(new)
        self._items += [*new, *output.items]
        if output.compaction is None:
            self._size += _size(new) + _size(output.items)
        else:
            self._replay_from = start + output.compaction
            self._size = _size(output.items[output.compaction :])
        if output.whole:
            self._parent, self._lane, self._parent_stored = response_id, lane, stored
            self._queued = False
        else:
            self.forget_parent()

    def queue(self, items: Sequence[Encoded]) -> None:
        """The lane of the parent holds *items*, and puts them before the input of the next turn there.

        They are history already. Everywhere else they are sent with it.
        """
        self._items += items
        self._size += _size(items)
        self._queued = self._queued or bool(items)

    def replay(self) -> list[Encoded]:
        """Return what a full send begins with: the history from its last compaction on."""
        return self._items[self._replay_from :]

    def restart(self, items: Sequence[Mapping[str, Any]]) -> None:
        """Begin anew: *items*, from a server, stand for everything so far, and no response is their parent.

        They are sent as they are: what a compaction has made of a history must not be cut.
        """
        self._items = [Encoded(encode_received(item)) for item in items]
        self._replay_from = 0
        self._size = _size(self._items)
        self.forget_parent()

    def forget_parent(self, *, lost_by_server: bool = False) -> None:
        """The server may have evicted the parent: the next turn is sent in full.

        Args:
            lost_by_server: True if the server said that it does not hold it.
        """
        if lost_by_server and self._parent_stored:
            self._trusts_store = False
        self._parent = self._lane = None
        self._parent_stored = self._queued = False

    def fork(self) -> Chain:
        """Return a second chain with the same history and parent; each goes its own way from here."""
        other = Chain()
        other._items = list(self._items)
        other._replay_from = self._replay_from
        other._size = self._size
        other._parent = self._parent
        other._lane = self._lane
        other._parent_stored = self._parent_stored
        other._trusts_store = self._trusts_store
        if self._queued:
            other.forget_parent()  # only one of them can be given what the lane holds
        return other

    def state(self) -> dict[str, Any]:
        """Return everything a chain knows beside its items, as JSON values."""
        return {
            "replay_from": self._replay_from,
            "parent": None if self._queued else self._parent,
            "parent_stored": self._parent_stored and not self._queued,
        }

    def snapshot(self) -> dict[str, Any]:
        """Return everything a chain knows, as JSON values that nobody else has."""
        return {"items": self.items, **self.state()}

    @classmethod
    def resume(cls, snapshot: Mapping[str, Any]) -> Chain:
        """Return the chain that *snapshot* was taken of.

        Raises:
            ValueError: it is no snapshot of a chain; the text says what is wrong.
        """
        items, start = snapshot.get("items"), snapshot.get("replay_from", 0)
        parent, stored = snapshot.get("parent"), snapshot.get("parent_stored", False)
        if not isinstance(items, list):
            raise ValueError("the snapshot has no list of items")
        given = cast("list[Item]", items)
        if type(start) is not int or not 0 <= start <= len(given):
            raise ValueError(f"the snapshot's replay_from={start!r:.60} is no index of its items")
        if parent is not None and not (isinstance(parent, str) and parent):
            raise ValueError(f"the snapshot's parent={parent!r:.60} is no id of a response")
        if not isinstance(stored, bool):
            raise ValueError(f"the snapshot's parent_stored={stored!r:.60} is neither true nor false")
        chain = cls()
        try:
            chain._items = encode_items(given)
        except (TypeError, ValueError) as error:
            raise ValueError(f"the snapshot's items are no items: {error}") from None
        chain._replay_from = start
        chain._size = _size(chain._items[start:])
        # No lane is known to hold it, so only one that was stored is of use.
        chain._parent, chain._parent_stored = parent, stored and parent is not None
        return chain


def _size(items: Sequence[bytes]) -> int:
    """The bytes that *items* take in a request, each with its comma."""
    return sum(map(len, items)) + len(items)
