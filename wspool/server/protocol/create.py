"""A request on its way through the engine: what was asked, and what has become of it so far."""

from typing import Literal

import attrs

from wspool.server.ledger import Digest
from wspool.server.models import Item
from wspool.server.protocol.cache import ConnectionMemory, Remembered
from wspool.server.protocol.history import NOTHING, Known
from wspool.server.protocol.steering import Steer

__all__ = ["Create", "TurnCut"]


@attrs.define(eq=False, kw_only=True)
class Create:
    """One request on its way through the engine."""

    body: Item
    memory: ConnectionMemory
    lane: str | None
    transport: Literal["websocket", "http"]
    sequence: int
    unfinished_on_lane: int
    received: tuple[float, int]
    """When: the time in seconds, and the order."""
    started: tuple[float, int] | None = None
    warm_up: bool = False
    parent_from: Literal["lane", "fork", "store"] | None = None
    input_items: int = 0
    digest: Digest | None = None
    """Of what the model saw."""
    context: tuple[Item, ...] = ()
    """What the model saw."""
    given: tuple[Item, ...] = ()
    """What the request brought of it."""
    object: Item | None = None
    """The response, as it ended."""
    outcome: Remembered | None = None
    """What will be remembered if it ends well."""
    response_id: str | None = None
    settled: bool = False
    tokens: int = 0
    """In the context."""
    known: Known = NOTHING
    """What the context holds, as far as later items are judged by it."""
    told: int = 0
    """Events of the response that were sent; the next one has this number."""
    steers: list[Steer] = attrs.field(factory=list[Steer])
    """Accepted while it ran."""
    steered_by: tuple[Steer, ...] = ()
    """What a request that nobody sent is made of."""
    successor: "Create | None" = None
    """What continues it by itself."""
    given_id: str | None = None
    """The id that its response is to have."""
    fault: str | None = None


class TurnCut(Exception):
    """The turn ends here. Whoever raises this has settled the request, or leaves it lost."""
