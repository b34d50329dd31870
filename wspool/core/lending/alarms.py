"""Alarms: deadlines, at most one for each thing that is watched, each taken back once it is pointless.

What is over leaves nothing behind, however far away its deadline was: an alarm an hour ahead, or at
infinity, would outlive whatever it is about. So they are kept sorted, where one can be found again; in
the few thousand alarms of a large pool that costs less than the bookkeeping of a heap.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Hashable
from typing import Generic, TypeVar

__all__ = ["Alarms"]

_T = TypeVar("_T", bound=Hashable)


class Alarms(Generic[_T]):
    """Deadlines and what they are about, in seconds.

    Attributes:
        next: the earliest deadline, infinity if there is none.
    """

    __slots__ = ("_entries", "_last", "_sorted", "next")

    def __init__(self) -> None:
        self.next = math.inf
        self._sorted: list[tuple[float, int, _T]] = []
        # The entry of each. Its number is a tie-breaker that never ties.
        self._entries: dict[_T, tuple[float, int, _T]] = {}
        self._last = 0

    def set(self, what: _T, when: float) -> None:
        """Set the alarm of *what*, instead of the one it may have. At infinity there is none."""
        self.cancel(what)
        if when < math.inf:
            self._last += 1
            entry = self._entries[what] = (when, self._last, what)
            bisect.insort(self._sorted, entry)
            self.next = self._sorted[0][0]

    def cancel(self, what: _T) -> None:
        """Take the alarm of *what* back, if it has one."""
        if (entry := self._entries.pop(what, None)) is not None:
            del self._sorted[bisect.bisect_left(self._sorted, entry)]
            self._look()

    def _look(self) -> None:
        self.next = self._sorted[0][0] if self._sorted else math.inf

    def pop_due(self, now: float) -> _T | None:
        """Remove and return what is due next at *now*, or None."""
        if self.next > now or not self._sorted:
            return None
        _, _, what = self._sorted.pop(0)
        del self._entries[what]
        self._look()
        return what

    def __len__(self) -> int:
        return len(self._sorted)
