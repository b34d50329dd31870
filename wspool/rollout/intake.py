"""The intake: when the next task is begun.

One that is begun only to stand in line has its time run out there; and where somebody always does, each turn
takes the lane of another conversation, which then sends in full what could have been a delta. So:

1. Fewer conversations than lanes: another is begun at once.
2. As many, or more: another is begun for a lane that is free, or kept for somebody whose tools take their
   time, and that nobody in line will have. It was so for a moment, for who had it may be about to go on.
3. One that was begun asks for a turn soon. If it does not it has something else to do first, and the lane is
   still there for another.
"""

import math
from collections.abc import Callable
from typing import Final

import trio

from wspool.core.statistics import PoolStatistics

__all__ = ["Intake"]

#: Seconds in which a task asks for its first turn, unless it has something else to do first.
_SOON: Final = 0.1
#: Seconds for which a lane is left to who had it last.
_BRIEFLY: Final = 0.05


class Intake:
    """Begins the tasks of one pool.

    Args:
      statistics: returns those of the pool.
    """

    def __init__(self, statistics: Callable[[], PoolStatistics]) -> None:
        self._statistics = statistics
        #: Those that run, by the keys of their tasks: until when they are expected to ask.
        self._running: dict[str, float] = {}
        self._free_since = math.inf
        self._event = trio.Event()
        self._line = trio.StrictFIFOLock()
        self._over = False

    async def room(self, key: str) -> None:
        """Wait until there may be a lane for the task *key*, which is begun then. A checkpoint.

        First come, first served. Once no other is begun there is no wait: what comes then is the caller's.

        Cancellation: nothing was begun.
        """
        async with self._line:
            while not self._over and (wait := self._wait()) > 0:
                self._event = trio.Event()
                with trio.move_on_after(wait):
                    await self._event.wait()
            self._running[key] = trio.current_time() + _SOON

    def end(self) -> None:
        """Begin no other. Never waits."""
        self._over = True
        self.changed()

    def asked(self, key: str) -> None:
        """The task has asked for a turn."""
        self._running[key] = -math.inf

    def ended(self, key: str) -> None:
        """The task has ended."""
        self._running.pop(key, None)
        self.changed()

    def changed(self) -> None:
        """A lane may have become free."""
        self._event.set()

    def _wait(self) -> float:
        """Seconds after which to look again; 0 if there is room."""
        pool, now = self._statistics(), trio.current_time()
        free = pool.idle + pool.max_size - pool.open
        if len(self._running) < free + pool.leased + pool.warming + pool.draining:
            return 0
        expected = sum(until > now for until in self._running.values())
        if pool.waiting + expected >= free + pool.parked:
            self._free_since = math.inf
            return _SOON
        self._free_since = min(self._free_since, now)
        return max(0.0, self._free_since + _BRIEFLY - now)
