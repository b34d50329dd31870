"""Turnstile: whose turn is next where more are asked for than a pool has lanes.

A pool's line is first come, first served, so one batch of a thousand turns would make an editor wait for all
of them. Rules of this module:

* As many turns pass as there are lanes. Of those who wait the client goes first that has had the least, by
  its weight; within a client it is first come, first served.
* Who has had nothing for a while gets no credit for that: it goes first once, not for as long as it likes.
* A client that is at its limit is passed over.
* A place is given back by leaving the block, however that happens.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncGenerator, Hashable
from contextlib import asynccontextmanager

import trio

__all__ = ["Turnstile"]


class _Client:
    """One client at one pool."""

    __slots__ = ("inside", "limit", "passed", "waiting", "weight")

    def __init__(self) -> None:
        self.inside = 0
        #: What it has had, by its weight.
        self.passed = 0.0
        self.weight = 1.0
        self.limit = math.inf
        self.waiting: deque[trio.Event] = deque()


class _Place:
    """All clients at one pool."""

    def __init__(self) -> None:
        self.inside = 0
        self.clients: dict[str, _Client] = {}
        #: What whoever went in last had had: who comes new begins there.
        self.now = 0.0


class Turnstile:
    """Lets turns pass.

    Args:
        most: turns at once, in each pool.
    """

    def __init__(self, most: float = math.inf) -> None:
        self._most = most
        self._places: dict[Hashable, _Place] = {}

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(len(c.waiting) for place in self._places.values() for c in place.clients.values())

    @asynccontextmanager
    async def turn(
        self, pool: Hashable, client: str, *, weight: float = 1.0, limit: float = math.inf
    ) -> AsyncGenerator[None]:
        """Wait for a place, and have it while the body runs. A checkpoint if it waits; cancelling takes none.

        Args:
            pool: which one.
            client: whose turn it is.
            weight: the client's share, where others wait, too.
            limit: turns of the client at once.
        """
        place = self._places.setdefault(pool, _Place())
        one = place.clients.get(client)
        if one is None:
            one = place.clients[client] = _Client()
            one.passed = place.now
        one.weight, one.limit = weight, limit
        here = trio.Event()
        one.waiting.append(here)
        self._let_in(place)
        try:
            if not here.is_set():
                await here.wait()
            yield
        finally:
            if here.is_set():
                one.inside -= 1
                place.inside -= 1
            else:
                one.waiting.remove(here)
            self._let_in(place)
            self._forget(pool, place)

    def _forget(self, pool: Hashable, place: _Place) -> None:
        """Forget who is not here and owes nothing; where nobody is, all."""
        here = [one for one in place.clients.values() if one.inside or one.waiting]
        if not here:
            self._places.pop(pool, None)
        elif len(here) < len(place.clients):
            for name, one in list(place.clients.items()):
                if not one.inside and not one.waiting and one.passed <= place.now:
                    del place.clients[name]

    def _let_in(self, place: _Place) -> None:
        while place.inside < self._most:
            ready = [one for one in place.clients.values() if one.waiting and one.inside < one.limit]
            if not ready:
                return
            one = min(ready, key=lambda client: client.passed)
            place.now = one.passed
            one.passed += 1 / one.weight
            one.inside += 1
            place.inside += 1
            one.waiting.popleft().set()
