"""Chain: lineage and history of a conversation; decides delta or full.

Rules of this module:

* The history holds what the server's model has seen: input items of turns that ended well,
  each followed by the output items of its response. A turn that failed or was lost leaves
  no trace, so it can be tried again as it was. A turn is history with all its items or not at all.
* A request is a delta only if it goes to the lane that holds the parent, and the parent is that lane's
  latest response; or if the server was explicitly asked to store the parent *and all that it continues
  from*. An id alone proves nothing: there are servers that count them anew on each connection. In every
  other case the whole history is sent: it costs bytes, never context; in a form that a strict server takes
  (`wspool.core.sending.sendable`).
* A history may begin with a response that only the server knows, the root. Then a full send names it, for
  the items alone are a fragment. A server that does not know it cannot go on, and nobody else can.
* What the endpoint does not take is not sent (`wspool.core.sending.takes`): where it takes no parent nothing
  is one, but the root, without which the same cannot be said.
* A response whose output could not be kept whole is no parent: its server would know more than the history.
* A compaction item stands for everything before it: a full send begins there.
* Whatever may have evicted the parent makes the chain forget it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, cast

import attrs

from wspool.core.calls import OpenCalls, owed
from wspool.core.commands import LaneKey
from wspool.core.definitions import async_tools
from wspool.core.encoding import Encoded, assemble
from wspool.core.frames import encode, encode_received
from wspool.core.items import Item, Output, as_items, encode_items, read_items
from wspool.core.sending.sendable import LOSSY, Sendable, answers_long_id, without_lost_reasoning
from wspool.core.sending.snapshots import flags_at, is_whole
from wspool.core.sending.takes import Takes
from wspool.core.sending.warm_up import Fields, WarmUp

__all__ = ["Chain", "Fields", "Item", "LaneKey", "Plan", "WarmUp", "as_items"]

_TYPE = Encoded(b'"response.create"')
_EVERYTHING = Takes()


def _nothing(_: str) -> bool:
    return False


@attrs.define(kw_only=True)  # not frozen: one is made for every turn
class Plan:
    """What to send for one turn. Never changed.

    Attributes:
        input: the items to send.
        previous_response_id: the parent, or None.
        full: True when the whole history is in *input*.
        saved: bytes of history that need not be sent.
        rooted: True if the server was asked to store all that it continues from, or that is nothing.
        last_resort: True if the parent is the root: without it the same cannot be said.
        counted: items of a history that was brought along, and how many of them are sent.
        why: why such a history is sent in full (`FULL_REASONS`).
    """

    input: Sequence[Encoded]
    previous_response_id: str | None
    full: bool
    saved: int
    rooted: bool
    last_resort: bool = False
    counted: tuple[int, int] | None = None
    why: str | None = None

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
    """The history of one conversation and the response it continues from.

    Attributes:
        parent: id of the response that the next turn continues from, if it is still trusted.
    """

    __slots__ = (
        "_calls",
        "_items",
        "_lane",
        "_parent_stored",
        "_queued",
        "_replay_from",
        "_root",
        "_sendable",
        "_size",
        "_stored",
        "_trusts_store",
        "parent",
    )

    def __init__(self) -> None:
        self._items: list[Encoded] = []
        self._calls = OpenCalls()
        # For each, whether the server was asked to store the response that it came with.
        self._stored: list[bool] = []
        # Where a full send begins: a compaction item, or the root, stands for everything before it.
        self._replay_from = 0
        # What a full send continues from, known to the server alone.
        self._root: str | None = None
        self._sendable = Sendable()
        # Bytes of what a full send would send.
        self._size = 0
        self.parent: str | None = None
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
    def root(self) -> str | None:
        """Id of the response that the history begins with, of which the server alone has the items."""
        return self._root

    @property
    def notes(self) -> Set[str]:
        """What had to be changed or left out so far for a strict server to take the history."""
        return self._sendable.notes

    @property
    def open_calls(self) -> list[Item]:
        """The calls that the client has not answered, oldest first; what a compaction stands for has none."""
        return self._calls.of(self._items, self._replay_from)

    def owed(self, new: Sequence[Encoded], fields: Fields) -> list[Item]:
        """Return the open calls for which a request with the input *new* would be refused."""
        calls = self.open_calls
        return owed(calls, read_items(new), async_tools(fields)) if calls else calls

    def plan(
        self,
        new: Sequence[Encoded],
        lane: LaneKey,
        latest: str | None,
        warm_up: WarmUp | None,
        fields: Fields,
        *,
        carried: Callable[[str], bool] = _nothing,
        takes: Takes = _EVERYTHING,
    ) -> Plan:
        """Decide what to send.

        Args:
            new: the input items of this turn.
            lane: the lane that it is for.
            latest: id of the latest response of the lane, or None.
            warm_up: the lane's unused warm-up response, or None.
            fields: the other fields of the request.
            carried: says whether a response of that id has begun on the lane's connection.
            takes: what the endpoint takes.
        """
        if not takes.parents:
            latest = None
            self.forget_parent()
        parent = self.parent
        here = parent == latest and self._lane == lane
        stored = self._parent_stored and self._trusts_store and not self._queued and parent != latest
        if stored and parent is not None and (self._lane is None or self._lane[0] != lane[0]):
            # Another response of that name proves that there a name is no proof.
            stored = not carried(parent)
        if parent is not None and (here or stored) and (takes.long_ids or not answers_long_id(new)):
            return Plan(
                input=new,
                previous_response_id=parent,
                full=False,
                saved=self._size,
                rooted=self._parent_stored,
            )
        if self.is_new and warm_up is not None and warm_up.response_id == latest and warm_up.fits(fields):
            return Plan(input=new, previous_response_id=latest, full=True, saved=0, rooted=warm_up.stored)
        return Plan(
            input=self.replay(new, asks_store=fields.get("store") != b"false"),
            previous_response_id=self._root,
            full=True,
            saved=0,
            rooted=True,
            last_resort=self._root is not None,
        )

    @property
    def is_new(self) -> bool:
        """Whether nothing was said yet."""
        return not self._items and self._root is None

    def extend(
        self,
        new: Sequence[Encoded],
        output: Output,
        response_id: str,
        lane: LaneKey,
        *,
        asked: bool = False,
        rooted: bool = True,
    ) -> None:
        """A turn ended well: its input and its output are history, its response is the parent.

        Args:
            new: the input items of the turn.
            output: the output of its response.
            response_id: the response's id.
            lane: the lane that holds it.
            asked: True if the server was asked to keep the response for any connection.
            rooted: `Plan.rooted`, of what was sent: with it the response is a parent anywhere.
        """
        start = len(self._items) + len(new)
        self._append([*new, *output.items], stored=asked)
        if not output.lossless:
            self._sendable.notes.add(LOSSY)
        if output.compaction is None:
            self._size += _size(new) + _size(output.items)
        else:
            self._replay_from = start + output.compaction
            self._root = None
            self._size = _size(output.items[output.compaction :])
        if output.whole:
            self.parent, self._lane, self._parent_stored = response_id, lane, asked and rooted
            self._queued = False
        else:
            self.forget_parent()

    def counts(self, new: Sequence[Encoded], plan: Plan | None) -> tuple[int, int]:
        """Return how many items are given with *new*, and how many *plan* sends."""
        return len(new), len(plan.input) if plan is not None else 0

    def queue(self, items: Sequence[Encoded]) -> None:
        """The lane of the parent holds *items*, and puts them before the input of the next turn there.

        They are history already. Everywhere else they are sent with it.
        """
        self._append(items, stored=False)
        self._size += _size(items)
        self._queued = self._queued or bool(items)

    def _append(self, items: Sequence[Encoded], *, stored: bool) -> None:
        self._items += items
        self._stored += [stored] * len(items)

    def replay(self, new: Sequence[Encoded] = (), *, asks_store: bool = False) -> list[Encoded]:
        """Return the input of a full send: the history from its last compaction on, then *new*.

        Args:
            new: the caller's input.
            asks_store: True if the request lets the server store.
        """
        start = self._replay_from
        if asks_store and self._trusts_store:
            stored = self._stored[start:]
        else:
            stored = [False] * (len(self._items) - start)
        return self._sendable.of(self._items[start:], new, stored, rooted=self._root is not None)

    def restart(self, items: Sequence[Mapping[str, Any]]) -> None:
        """Begin anew: *items*, from a server, stand for everything so far, and no response is their parent.

        What a compaction has made of a history must not be cut.
        """
        self._begin([Encoded(encode_received(item)) for item in items])
        self._root = None

    def edit(self, items: Sequence[Mapping[str, Any]]) -> None:
        """The history is *items* from now on; the next turn sends all of them.

        A root that stands before all items stays: none of them is part of it.

        Raises:
            TypeError, ValueError: they are no items; nothing has changed.
        """
        edited = encode_items(items)
        edited = encode_items(without_lost_reasoning(self.items, read_items(edited)))
        if self._replay_from:
            self._root = None
        self._begin(edited)

    def _begin(self, items: list[Encoded]) -> None:
        known = dict(zip(self._items, self._stored, strict=True))
        self._items, self._stored = items, [known.get(item, False) for item in items]
        self._replay_from = 0
        self._calls = OpenCalls()
        self._size = _size(items)
        self.forget_parent()

    def forget_parent(self, *, lost_by_server: bool = False) -> None:
        """The server may have evicted the parent: the next turn is sent in full.

        Args:
            lost_by_server: True if the server said that it does not hold it.
        """
        if lost_by_server and self._parent_stored:
            self._trusts_store = False
        self.parent = self._lane = None
        self._parent_stored = self._queued = False

    def fork(self) -> Chain:
        """Return a second chain with the same history and parent; each goes its own way from here."""
        other = Chain()
        other._items = list(self._items)
        other._stored = list(self._stored)
        other._root = self._root
        other._sendable = self._sendable.copy()
        other._replay_from = self._replay_from
        other._size = self._size
        other.parent = self.parent
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
            "parent": None if self._queued else self.parent,
            "parent_stored": self._parent_stored and not self._queued,
            "root": self._root,
            "length": len(self._items),
            "stored": [
                index
                for index, stored in enumerate(self._stored)
                if stored != (index > 0 and self._stored[index - 1])
            ],
        }

    def snapshot(self) -> dict[str, Any]:
        """Return everything a chain knows, as JSON values that nobody else has."""
        return {"items": self.items, **self.state()}

    @classmethod
    def resume(cls, snapshot: Mapping[str, Any], *, elsewhere: bool = False) -> Chain:
        """Return the chain that *snapshot* was taken of.

        Args:
            snapshot: what a `snapshot` was.
            elsewhere: True if it goes on at another endpoint, which holds nothing of what the first one
                stored, and may have something else under its names.

        Raises:
            ValueError: it is no snapshot of a chain, or one that does not go on there; the text says why.
        """
        items, start = snapshot.get("items"), snapshot.get("replay_from", 0)
        parent, stored = snapshot.get("parent"), snapshot.get("parent_stored", False)
        root = snapshot.get("root")
        if not isinstance(items, list):
            raise ValueError("the snapshot has no list of items")
        given = cast("list[Item]", items)
        if type(start) is not int or not 0 <= start <= len(given):
            raise ValueError(f"the snapshot's replay_from={start!r:.60} is no index of its items")
        for name, value in (("parent", parent), ("root", root)):
            if value is not None and not (isinstance(value, str) and value):
                raise ValueError(f"the snapshot's {name}={value!r:.60} is no id of a response")
        if not isinstance(stored, bool):
            raise ValueError(f"the snapshot's parent_stored={stored!r:.60} is neither true nor false")
        chain = cls()
        try:
            chain._items = encode_items(given)
        except (TypeError, ValueError) as error:
            raise ValueError(f"the snapshot's items are no items: {error}") from None
        if parent is not None and not is_whole(snapshot, given):
            # Whoever made it has left items out: the response stands for all of them.
            start, root, parent = len(given), parent, None
        if elsewhere and root is not None:
            raise ValueError(
                f"the snapshot's history begins with a response ({root:.60}) that only the endpoint knows at "
                "which it was taken: go on there"
            )
        chain._replay_from = start
        chain._size = _size(chain._items[start:])
        chain._root = root
        chain._stored = flags_at(None if elsewhere else snapshot.get("stored"), len(given))
        if elsewhere:
            parent = None
        # No lane is known to hold it, so only one that was stored is of use.
        chain.parent, chain._parent_stored = parent, stored and parent is not None
        return chain

    @classmethod
    def adopt(cls, response_id: str) -> Chain:
        """Return a chain that goes on from a response of which the server alone knows the items.

        Raises:
            ValueError: it is no id.
        """
        if not isinstance(cast("object", response_id), str) or not response_id:
            found = type(response_id).__name__ if response_id else "nothing"  # it may be all of a response
            raise ValueError(f"'previous_response_id' cannot be set here: {found} is no id of a response")
        chain = cls()
        chain._root = response_id
        return chain


def _size(items: Sequence[bytes]) -> int:
    """The bytes that *items* take in a request, each with its comma."""
    return sum(map(len, items)) + len(items)
