"""Signals: what schedulers and terminals send before they kill.

The first two are for the run to hear. The third ends the process on the spot, whatever it is doing: an agent
that never gives the word back, a thread that nobody can stop. Results are in the hands of the system by then.
"""

import os
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

import trio

__all__ = ["heard_signals"]

_SIGNALS: Final = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
#: How many are for the run to hear.
_HEARD: Final = 2
#: Shells add it to the number of the signal that ended a process.
_ENDED_BY: Final = 128
#: Makes the cursor of a terminal visible, which a drawing hides.
_TIDY: Final = b"\x1b[?25h"


@contextmanager
def heard_signals(hear: Callable[[], None]) -> Generator[None, None, None]:
    """Have *hear* called in this run for the first two signals of the body; the third ends the process.

    One that is ignored stays so (nohup). To be called in the main thread.
    """
    token = trio.lowlevel.current_trio_token()
    count = 0

    def come(number: int, _: FrameType | None) -> None:
        nonlocal count
        count += 1
        if count > _HEARD:
            try:
                if os.isatty(2):
                    os.write(2, _TIDY)
            finally:
                os._exit(_ENDED_BY + number)
        token.run_sync_soon(hear)

    before: dict[signal.Signals, Any] = {}
    try:
        for each in _SIGNALS:
            if (was := signal.getsignal(each)) is not signal.SIG_IGN:
                before[each] = was
                signal.signal(each, come)
        yield
    finally:
        for each, was in before.items():
            signal.signal(each, was)
