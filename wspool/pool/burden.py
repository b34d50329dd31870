"""Burden: what all turns in flight of a pool hold together, and which of them goes when it is too much.

The limits of one turn, and of one message, do not bound a pool: a server can fill many turns at once, and
begin a message on each connection that it never ends. So where something has grown by a good piece all is
weighed; where that is over the limit, the connection with the heaviest turn, or message, is given up. It is
the one that costs most, and a light one is never the victim of the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from wspool.core.commands import CloseReason
from wspool.core.policy import PoolPolicy
from wspool.core.sending.replay import MESSAGE_TOO_BIG
from wspool.pool.attempt import EVENT, PIECE
from wspool.pool.connection import Connection
from wspool.pool.link import Link

__all__ = ["Burden"]


class Burden:
    """The turns in flight of one pool.

    Args:
        policy: the limits. `max_pool_bytes` is for their events, and for messages that are not whole.
        connections: those that there are, whenever it is looked.

    Attributes:
        unlooked: bytes and events that a turn may have before it is looked at.
    """

    def __init__(self, policy: PoolPolicy, connections: Iterable[Connection]) -> None:
        self._limit = policy.max_pool_bytes
        self._connections = connections
        self.unlooked = min(PIECE, policy.max_turn_bytes), min(PIECE // EVENT, policy.max_turn_events)

    def weigh(self) -> None:
        """Weigh all; give up the connection with the heaviest of them if it is too much. Never waits."""
        links = [each.link for each in self._connections if not each.link.ending]
        loads = [(load, link) for link in links for load in _loads(link)]
        if sum(load for load, _ in loads) <= self._limit:
            return
        link = max(loads, key=lambda load: load[0])[1]
        link.close_code = MESSAGE_TOO_BIG
        link.close_reason = f"more than max_pool_bytes={self._limit} bytes in all turns, most of them here"
        link.poison(CloseReason.DIRTY)  # mark: dirty: more than all turns may hold


def _loads(link: Link) -> Iterator[int]:
    """What each turn on *link* weighs, and the message that is on its way."""
    if link.gauge is not None:
        yield link.gauge.held
    for lane in link.lanes:
        if lane.attempt is not None and not lane.attempt.given_up:
            attempt = lane.attempt
            yield (attempt.received if attempt.keeps else attempt.unread) + EVENT * len(attempt.events)
