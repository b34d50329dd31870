"""Turnstile: whose turn is next where more are asked for than a pool has lanes.

A pool's line is first come, first served, so one batch of a thousand turns would make an editor wait for all
of them. Rules of this module:

* As many turns pass as there are lanes. Of those who wait the client goes first that has had the least, by
  its weight; within a client it is first come, first served.
* A turn for which a lane is kept passes at once, however many are inside: in line it would wait for them, and
  they for its lane. It counts as any other, and not more than `MAX_SKIPS` do so before one of those who wait
  has passed. Inside, the pool's line bounds it again.
* Who has had nothing for a while gets no credit for that: it goes first once, not for as long as it likes.
* A client that is at its limit is passed over.
* A place is given back by leaving the block, however that happens.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator, Hashable
from contextlib import contextmanager

import trio

from wspool.core.lending.line import MAX_SKIPS
from wspool.pool.exchange import Entry

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
        #: How many have passed those who wait since the last of these went in.
        self.skips = 0


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

    @contextmanager
    def turn(
        self, pool: Hashable, client: str, *, weight: float = 1.0, limit: float = math.inf
    ) -> Generator[Entry]:
        """Let one turn ask for a place in the body, and have it until the end of that. Never waits.

        To ask is a checkpoint if it has to wait; cancelling it takes none.

        Args:
            pool: which one.
            client: whose turn it is.
            weight: the client's share, where others wait, too.
            limit: turns of the client at once.
        """
        here = trio.Event()
        asked: tuple[_Place, _Client] | None = None

        async def enter(awaited: bool) -> None:
            nonlocal asked
            if asked is None:
                asked = place, one = self._find(pool, client)
                one.weight, one.limit = weight, limit
                self._ask(place, one, here, awaited=awaited)
            if not here.is_set():
                await here.wait()

        try:
            yield enter
        finally:
            if asked is not None:
                place, one = asked
                if here.is_set():
                    one.inside -= 1
                    place.inside -= 1
                else:
                    one.waiting.remove(here)
                self._let_in(place)
                self._forget(pool, place)

    def _find(self, pool: Hashable, client: str) -> tuple[_Place, _Client]:
        place = self._places.setdefault(pool, _Place())
        one = place.clients.get(client)
        if one is None:
            one = place.clients[client] = _Client()
            one.passed = place.now
        return place, one

    def _ask(self, place: _Place, one: _Client, here: trio.Event, *, awaited: bool) -> None:
        one.waiting.append(here)
        self._let_in(place)
        if awaited and not here.is_set() and one.inside < one.limit and place.skips < MAX_SKIPS:
            one.waiting.pop()
            place.skips += any(other.waiting for other in place.clients.values())
            self._admit(place, one, here)

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
            place.skips = 0
            self._admit(place, one, one.waiting.popleft())

    @staticmethod
    def _admit(place: _Place, one: _Client, here: trio.Event) -> None:
        one.passed += 1 / one.weight
        one.inside += 1
        place.inside += 1
        here.set()
