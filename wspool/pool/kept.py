"""Kept: the lanes of turns that brought their history along and ended with calls, for who comes back with it.

A conversation keeps its lease while its tools run. Who sends a history each time has none; but its calls say
that it comes back soon, and to which response. Rules of this module:

* A lane is kept for the response that it holds, and only where that asks for tools: the pool has parked it
  then, and gives it to others who starve when that is worth more (`wspool.core.lending.keeping`).
* It is kept for `patience` at most. From then on it is free, and merely remembers.
* An id that two lanes hold identifies neither.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable

import trio

from wspool.pool.lease import Lease

__all__ = ["Kept"]


class Kept:
    """The kept leases of one pool.

    Args:
        patience: seconds for which one is kept.
        spawn: runs a task of the pool's.
    """

    def __init__(self, patience: float, spawn: Callable[[Callable[[], Awaitable[object]]], None]) -> None:
        self._patience = patience
        self._spawn = spawn
        #: The leases and until when, by what they hold; the oldest first.
        self._leases: OrderedDict[str, tuple[Lease, float]] = OrderedDict()
        self._runs = self._closed = False

    def keep(self, lease: Lease) -> None:
        """Keep *lease*, on which nothing is in flight, or give it back. Never waits."""
        response = lease.lane.latest
        parked = lease.alive and not lease.taken and lease.lane.attempt is None
        if response is None or not parked or self._closed or not self._patience:
            lease.release()
        elif response in self._leases:
            lease.release()
            self._leases.pop(response)[0].release()
        else:
            self._leases[response] = lease, trio.current_time() + self._patience
            if not self._runs:
                self._runs = True
                self._spawn(self._run)

    def has(self, response: str | None) -> bool:
        """Return whether a lane is kept for *response*, and was not given to others meanwhile."""
        return response is not None and response in self._leases and self._leases[response][0].alive

    def take(self, response: str | None) -> Lease | None:
        """Return the lease that was kept for *response*, if there is one. Never waits."""
        if response is None or response not in self._leases:
            return None
        return self._leases.pop(response)[0]

    def close(self) -> None:
        """Give all of them back, and keep no more. Never waits."""
        self._closed = True
        while self._leases:
            self._leases.popitem()[1][0].release()

    async def _run(self) -> None:
        """Give back what was kept for long enough, as long as there is anything."""
        while self._leases:
            until = next(iter(self._leases.values()))[1]
            await trio.sleep_until(until)
            while self._leases and (first := next(iter(self._leases.items())))[1][1] <= trio.current_time():
                del self._leases[first[0]]
                first[1][0].release()
        self._runs = False
