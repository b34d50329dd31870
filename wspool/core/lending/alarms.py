"""Alarms: a heap of deadlines with lazy deletion.

An alarm that no longer matters stays where it is until it comes to the top. Under churn such
alarms would pile up, so they are swept once they may outnumber the others: O(1) per alarm set.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Alarms"]

_T = TypeVar("_T")


class Alarms(Generic[_T]):
    """Deadlines and what they are about.

    Args:
        is_stale: says whether nothing would happen at an alarm.
    """

    __slots__ = ("_heap", "_is_stale", "_number", "_sweep_at")

    def __init__(self, is_stale: Callable[[_T], bool]) -> None:
        self._is_stale = is_stale
        self._heap: list[tuple[float, int, _T]] = []
        self._number = 0
        self._sweep_at = 64

    def set(self, when: float, what: _T) -> None:
        """Add an alarm."""
        self._number += 1  # a tie-breaker that never ties
        heapq.heappush(self._heap, (when, self._number, what))
        if len(self._heap) > self._sweep_at:
            self._heap = [entry for entry in self._heap if not self._is_stale(entry[2])]
            heapq.heapify(self._heap)
            self._sweep_at = 64 + 2 * len(self._heap)

    def none_before(self, when: float) -> bool:
        """Return whether there is certainly no deadline before *when*, without looking for stale ones."""
        return not self._heap or self._heap[0][0] >= when

    def next(self) -> float:
        """Return the earliest deadline, infinity if there is none."""
        heap = self._heap
        while heap and self._is_stale(heap[0][2]):
            heapq.heappop(heap)
        return heap[0][0] if heap else math.inf

    def pop_due(self, now: float) -> _T | None:
        """Remove and return what is due next at *now*, or None."""
        if self.next() > now:
            return None
        return heapq.heappop(self._heap)[2]

    def __len__(self) -> int:
        return len(self._heap)
