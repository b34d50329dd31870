"""How long the machine was suspended, which trio's clock does not see on Linux.

A laptop that wakes after two hours finds its connections older than its timers say: the
server's clock went on. `CLOCK_BOOTTIME` counts those hours, `CLOCK_MONOTONIC`, which trio
uses, does not. Their difference, since the pool was opened, is what is missing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Final

__all__ = ["suspension"]

#: Less than this is the noise of reading two clocks, in seconds.
_NOISE: Final = 0.1


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
