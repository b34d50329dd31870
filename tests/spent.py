"""How long something takes, where a test asks that twice as much takes twice as long.

- Time of this thread: neither other processes nor the threads that tests before have left are counted.
- The collector rests meanwhile: one look at all that a whole run has loaded takes longer than most of what is
  measured, and comes when it likes.
- The best of several: what disturbs makes things slower, never faster.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from typing import Final

# On Windows the time of a thread moves on by 16 ms at a time.
_clock: Final = time.thread_time if os.name == "posix" else time.perf_counter


def seconds(work: Callable[[], object], *, enough: float = 0.0, times: int = 3) -> float:
    """Return the seconds of CPU that `work` takes: the best of `times`, or the first under `enough`."""
    best = float("inf")
    for _ in range(times):
        collects = gc.isenabled()
        gc.disable()
        try:
            began = _clock()
            work()
            best = min(best, _clock() - began)
        finally:
            if collects:
                gc.enable()
        if best < enough:
            break
    return best
