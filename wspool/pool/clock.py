"""The pool's clock: trio's, and how long the machine was suspended, which trio's does not see on Linux.

A laptop that wakes after two hours finds its connections older than its timers say: the
server's clock went on. `CLOCK_BOOTTIME` counts those hours, `CLOCK_MONOTONIC`, which trio
uses, does not. Their difference, since the pool was opened, is what is missing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Final

import trio

__all__ = ["PoolClock", "suspension"]

#: Less than this is the noise of reading two clocks, in seconds.
_NOISE: Final = 0.1

#: How often it is looked at, in seconds on trio's clock. A lease asks for the time twice, and two more
#: clocks to read were 6 % of what it costs; a connection that has outlived a suspension is none the
#: worse for so short a moment.
_RESOLUTION: Final = 0.01


class PoolClock:
    """trio's clock plus the seconds for which the machine was suspended. It never goes back.

    Attributes:
        asleep: seconds for which the machine was suspended, when that was last looked at.
    """

    __slots__ = ("_look_at", "_suspended", "_time", "asleep")

    def __init__(self, suspended: Callable[[], float]) -> None:
        self._suspended = suspended
        self._time = trio.lowlevel.current_clock().current_time
        self._look_at = -math.inf
        self.asleep = 0.0

    def now(self) -> float:
        """Return the time, in seconds."""
        now = self._time()
        if now >= self._look_at:
            self._look_at = now + _RESOLUTION
            self.asleep = max(self.asleep, self._suspended())
        return now + self.asleep


def suspension(
    boot_clock: Callable[[], float] | None = None, clock: Callable[[], float] = time.monotonic
) -> Callable[[], float]:
    """Return a function that says for how many seconds the machine was suspended since now.

    Args:
        boot_clock: a clock that goes on in suspend; by default `CLOCK_BOOTTIME` where there is one.
        clock: the clock that does not.
    """
    if boot_clock is None:
        number = getattr(time, "CLOCK_BOOTTIME", None)
        if number is None:
            return lambda: 0.0  # trio's clock goes on in suspend there, or nothing does
        read: Callable[[], float] = partial(time.clock_gettime, number)
    else:
        read = boot_clock
    began = read() - clock()

    def suspended() -> float:
        gap = read() - clock() - began
        return gap if gap > _NOISE else 0.0

    return suspended
