"""Keeps planned retirements apart, so that connections opened together do not end together.

Independent jitter cannot promise any bound on how many retirements fall into one window.
A calendar can: every new retirement keeps a distance of at least
`gap = spread / (2 * max_size)` from every other live one. That is always possible, since
each of at most `max_size - 1` others blocks less than `2 * gap` of the spread. So in any
window of w seconds at most `1 + floor(w / gap)` retirements are planned.

A life without an end has no retirement, so it takes no place: what is booked at infinity is not kept.
"""

from __future__ import annotations

import bisect
import math

__all__ = ["Calendar"]


class Calendar:
    """The planned retirements of the live connections of one pool."""

    __slots__ = ("_spread", "_times", "gap")

    def __init__(self, spread: float, max_size: int) -> None:
        self._spread = spread
        self._times: list[float] = []
        self.resize(max_size)

    def resize(self, max_size: int) -> None:
        """There are at most that many live connections from now on."""
        #: Smallest distance between two retirements, in seconds.
        self.gap = self._spread / (2 * max_size)

    def book(self, earliest: float, latest: float, jitter: float) -> float:
        """Return a time in [earliest, latest] at least `gap` from every booked one, and book it.

        Args:
            earliest: first acceptable time, in seconds.
            latest: last acceptable time, in seconds.
            jitter: where to begin looking, in [0, 1).

        Expected cost O(log n): at most half of the range is ever blocked. Should a range be
        too full all the same (a policy changed under live connections), *earliest* is booked.
        """
        if earliest == math.inf:
            return earliest
        start = earliest + jitter * (latest - earliest)
        when = self._next_free(start, latest)
        if when is None:
            when = self._next_free(earliest, start)
        if when is None:
            when = earliest
        bisect.insort(self._times, when)
        return when

    def _next_free(self, when: float, latest: float) -> float | None:
        times, gap = self._times, self.gap
        while when <= latest:
            # The first booked time that is too close on either side, if any, pushes us past it.
            index = bisect.bisect_right(times, when - gap)
            if index == len(times) or times[index] >= when + gap:
                return when
            when = times[index] + gap
            # Adding and subtracting `gap` may round to the same neighbour again.
            while when - gap < times[index]:
                when = math.nextafter(when, math.inf)
        return None

    def free(self, when: float) -> None:
        """Forget a booked time (its connection is gone). At infinity nothing was booked."""
        if when == math.inf:
            return
        index = bisect.bisect_left(self._times, when)
        if index == len(self._times) or self._times[index] != when:
            raise AssertionError(f"bug: {when} is not in the calendar")
        del self._times[index]

    def __len__(self) -> int:
        return len(self._times)
