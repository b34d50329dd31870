"""The pool's time: a clock that knows of suspensions, and the one task that waits for what is due.

The clock is trio's, and how long the machine was suspended, which trio's does not see on Linux. A
laptop that wakes after two hours finds its connections older than its timers say: the server's clock
went on. `CLOCK_BOOTTIME` counts those hours, `CLOCK_MONOTONIC`, which trio uses, does not. Their
difference, since the pool was opened, is what is missing.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import trio

from wspool.core.commands import Command
from wspool.core.lending.pool import PoolCore

__all__ = ["PoolClock", "Timekeeper", "suspension"]

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
            if (asleep := self._suspended()) > self.asleep:
                self.asleep = asleep
        return now + self.asleep


class Timekeeper:
    """Sleeps until something is due, and lets the core decide on it.

    Args:
        core: what decides.
        clock: the pool's clock.
        perform: performs what the core decides.
    """

    __slots__ = ("_clock", "_core", "_perform", "_sleeping_until", "_wake_up")

    def __init__(
        self, core: PoolCore, clock: PoolClock, perform: Callable[[Sequence[Command]], None]
    ) -> None:
        self._core = core
        self._clock = clock
        self._perform = perform
        self._sleeping_until = math.inf
        self._wake_up = trio.Event()

    def look(self) -> None:
        """Something has been decided: wake up if it is due sooner than what is slept for. Never waits."""
        if self._core.next_deadline() < self._sleeping_until:
            self._wake_up.set()

    async def run(self) -> None:
        """Keep time until cancelled."""
        while True:
            deadline = self._sleeping_until = self._core.next_deadline()
            self._wake_up = trio.Event()
            with trio.move_on_at(deadline - self._clock.asleep) as scope:
                await self._wake_up.wait()
            if scope.cancelled_caught:
                # Never a time before the deadline that was asked for, however floats round.
                self._perform(self._core.tick(max(deadline, self._clock.now())))


def suspension(
    boot_clock: Callable[[], float] | None = None, clock: Callable[[], float] = time.monotonic
) -> Callable[[], float]:
    """Return a function that says for how many seconds the machine was suspended since now.

    Args:
        boot_clock: a clock that goes on in suspend; by default `CLOCK_BOOTTIME` where there is one.
        clock: the clock that does not.
    """
    if boot_clock is None:
        if sys.platform != "win32" and hasattr(time, "CLOCK_BOOTTIME"):
            boot_clock = partial(time.clock_gettime, time.CLOCK_BOOTTIME)
        else:
            return lambda: 0.0  # trio's clock goes on in suspend there, or nothing does
    read: Callable[[], float] = boot_clock
    began = read() - clock()

    def suspended() -> float:
        gap = read() - clock() - began
        return gap if gap > _NOISE else 0.0

    return suspended
