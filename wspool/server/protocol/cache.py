"""The memory of a provider: what can be continued, where, and until when.

Two memories, and their rules:

1. A connection remembers the latest response of each of its lanes, stored or not, and forgets all when it
   closes.
2. A continuation on the lane that holds its parent forgets that parent if it fails; one that forked from
   another lane leaves it alone. A request that fails without naming a remembered parent evicts nothing.
3. The store outlives connections: a response with `store: true` can be continued from any of them.

Source: OpenAI's WebSocket guide, "connection-local cache" and "multiplexing".
"""

from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

import attrs

from wspool.server.ledger import Digest
from wspool.server.models import Item, TurnError
from wspool.server.protocol.history import Known
from wspool.server.protocol.items import as_resource
from wspool.server.protocol.steering import Steer
from wspool.server.protocol.weight import STORE_BYTES, Weight

__all__ = ["ConnectionMemory", "Remembered", "Store", "not_found"]

#: Responses that the store keeps; the oldest go first.
STORE_SIZE: Final = 10_000

# In the id of an input item that came without one, between the number of its response and its own.
_GIVEN: Final = "_in_"


@attrs.frozen(kw_only=True, eq=False)
class Remembered:
    """A response that can be continued."""

    response_id: str
    context: tuple[Item, ...]
    """Everything up to and including its own output."""
    known: Known
    """What the context holds, as far as later items are judged by it."""
    digest: Digest
    """Of the context; to be copied, never updated."""
    tokens: int
    given: tuple[Item, ...] = ()
    """The input of its own request; references are resolved."""
    output: tuple[Item, ...] = ()


@attrs.define(eq=False)
class ConnectionMemory:
    """One connection: its latest responses, and what it has to count. Pure state, no clock."""

    connection: int
    latest: dict[str | None, Remembered] = attrs.field(factory=dict[str | None, Remembered], init=False)
    """By lane; None is the default lane."""
    names: set[str] = attrs.field(factory=set[str], init=False)
    """Every lane name ever used; closing a lane frees nothing."""
    unfinished: Counter[str | None] = attrs.field(factory=Counter[str | None], init=False)
    """Requests received and not ended, by lane."""
    creates: int = attrs.field(default=0, init=False)
    model: str | None = attrs.field(default=None, init=False)
    """The model of the first request."""
    waiting_steers: dict[str, list[Steer]] = attrs.field(factory=dict[str, list[Steer]], init=False)
    """By response: input that goes before that of the request which continues it."""

    def find(self, lane: str | None, response_id: str) -> tuple[Remembered, Literal["lane", "fork"]] | None:
        """The remembered response, and whether continuing it on *lane* is a fork."""
        own = self.latest.get(lane)
        if own is not None and own.response_id == response_id:
            return own, "lane"
        for other in self.latest.values():
            if other.response_id == response_id:
                return other, "fork"
        return None

    def item(self, name: str) -> Item | None:
        """The remembered item with the id *name*, or None."""
        for latest in self.latest.values():
            for item in latest.context:
                if item.get("id") == name:
                    return item
        return None

    def evict(self, lane: str | None, response_id: str) -> None:
        """Forget the latest response of *lane* if it is *response_id*."""
        latest = self.latest.get(lane)
        if latest is not None and latest.response_id == response_id:
            del self.latest[lane]


@attrs.frozen(eq=False)
class _Stored:
    remembered: Remembered
    settings: Item
    """The response object, without what is in `remembered`: its id and its output."""

    def held(self) -> Iterator[Item]:
        """Everything that it keeps alive, as often as it does."""
        yield from self.remembered.context
        yield from self.remembered.given
        yield self.settings


class Store:
    """The stored responses of the whole server, bounded in number and in bytes."""

    def __init__(self, size: int = STORE_SIZE, max_bytes: int = STORE_BYTES) -> None:
        self.weight: Final = Weight()
        self._size = size
        self._max_bytes = max_bytes
        self._responses: OrderedDict[str, _Stored] = OrderedDict()

    def put(self, remembered: Remembered, response: Mapping[str, Any]) -> None:
        """Keep *remembered*; the oldest responses make room for it.

        Args:
          response: its object, as it ended.
        """
        settings = {key: value for key, value in response.items() if key not in ("id", "output")}
        stored = _Stored(remembered, settings)
        self.weight.hold(stored.held())
        self.remove(remembered.response_id)
        self._responses[remembered.response_id] = stored
        while len(self._responses) > self._size or self._too_heavy():
            self.weight.let_go(self._responses.popitem(last=False)[1].held())

    def _too_heavy(self) -> bool:
        # The newest one stays, whatever it weighs.
        return self.weight.bytes > self._max_bytes and len(self._responses) > 1

    def get(self, response_id: str) -> Remembered | None:
        """The stored response, or None."""
        stored = self._responses.get(response_id)
        return None if stored is None else stored.remembered

    def remove(self, response_id: str) -> bool:
        """Forget the response. Returns whether it was there."""
        stored = self._responses.pop(response_id, None)
        if stored is not None:
            self.weight.let_go(stored.held())
        return stored is not None

    def response(self, response_id: str) -> Item | None:
        """The object of the response, as it ended, or None."""
        stored = self._responses.get(response_id)
        if stored is None:
            return None
        return {"id": response_id, **stored.settings, "output": list(stored.remembered.output)}

    def input_items(self, response_id: str) -> list[Item] | None:
        """What its request brought, as the API gives it back, the oldest first; None if it is not stored."""
        stored = self._responses.get(response_id)
        if stored is None:
            return None
        number = response_id.rpartition("_")[2]
        given = enumerate(stored.remembered.given)
        return [as_resource(item, f"{number}{_GIVEN}{index}") for index, item in given]

    def item(self, name: str) -> Item | None:
        """The stored item with the id *name*, one that a model made or that came with a request, or None."""
        found = self.weight.item(name)
        if found is not None:
            return found
        # Input items that came without an id got one when they were asked for.
        head, given, index = name.rpartition(_GIVEN)
        if not given or not index.isdecimal():
            return None
        items = self.input_items(f"resp_{head.partition('_')[2]}") or ()
        return next((item for item in items if item["id"] == name), None)

    def __len__(self) -> int:
        return len(self._responses)


def not_found(response_id: str, status: int = 400) -> TurnError:
    """The error for a parent that can not be continued here. Source: OpenAI's WebSocket guide, verbatim."""
    return TurnError(
        type="invalid_request_error",
        code="previous_response_not_found",
        message=f"Previous response with id '{response_id}' not found.",
        param="previous_response_id",
        status=status,
    )
