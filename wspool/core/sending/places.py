"""Places: who goes first of those who wait. A place is a number, and the lowest goes first.

Whoever comes back with a place that it had before stands where it stood, ahead of all who came later. Pure.
"""

from __future__ import annotations

import heapq
from typing import Generic, TypeVar

__all__ = ["Places"]

T = TypeVar("T")


class Places(Generic[T]):
    """Who waits, by place. Each step costs little however many they are."""

    def __init__(self) -> None:
        self._who: dict[int, T] = {}
        #: All of their places, and some that were left.
        self._heap: list[int] = []

    def __len__(self) -> int:
        return len(self._who)

    def take(self, place: int, who: T) -> None:
        """Somebody waits at a *place*, where nobody is."""
        self._who[place] = who
        heapq.heappush(self._heap, place)

    def leave(self, place: int) -> None:
        """Who was there waits no more."""
        del self._who[place]

    @property
    def first(self) -> T | None:
        """Who goes first, None if nobody waits."""
        while self._heap and self._heap[0] not in self._who:
            heapq.heappop(self._heap)
        return self._who[self._heap[0]] if self._heap else None
