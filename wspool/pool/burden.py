"""Burden: what all turns in flight of a pool hold together, and which of them goes when it is too much.

The limits of one turn do not bound a pool: a server can fill many turns at once. So a turn that has grown by
a good piece has all of them weighed; where that is over the limit, the heaviest is given up. It is the one
that costs most, and a light one is never the victim of the others.
"""

from __future__ import annotations

from weakref import WeakSet

from wspool.core.commands import CloseReason
from wspool.core.sending.replay import MESSAGE_TOO_BIG
from wspool.pool.attempt import EVENT, PIECE, Attempt
from wspool.pool.link import Link

__all__ = ["Burden"]


class Burden:
    """The turns in flight of one pool, by the links that carry them.

    Args:
        limit: bytes of events that they may hold together.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._links: WeakSet[Link] = WeakSet()

    def join(self, link: Link) -> None:
        """Weigh what *link* carries, too, as long as there is one."""
        self._links.add(link)

    def weigh(self, attempt: Attempt) -> None:
        """Weigh all, since *attempt* has grown; give up the heaviest if it is too much. Never waits."""
        attempt.weighed, attempt.counted = attempt.received + PIECE, len(attempt.events) + PIECE // EVENT
        loads = [
            (_weight(lane.attempt), link)
            for link in self._links
            if not link.ending
            for lane in link.lanes
            if lane.attempt is not None and not lane.attempt.given_up
        ]
        if sum(weight for weight, _ in loads) <= self._limit:
            return
        link = max(loads, key=lambda load: load[0])[1]
        link.close_code = MESSAGE_TOO_BIG
        link.close_reason = f"more than max_pool_bytes={self._limit} bytes in all turns, most of them here"
        link.poison(CloseReason.DIRTY)


def _weight(attempt: Attempt) -> int:
    return attempt.received + EVENT * len(attempt.events)
