"""How far the run is: a live line on a terminal, a plain line now and then anywhere else.

Progress goes to standard error, so that standard output holds the summary alone. Rich is imported only when
a terminal is there to draw on."""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TextIO

import attrs
import trio

from wspool.core.statistics import PoolStatistics
from wspool.rollout.doubt import in_words

__all__ = ["Progress", "show_progress"]

#: Seconds between two plain lines.
PLAIN_INTERVAL: Final = 5.0
#: Seconds between two drawings on a terminal.
LIVE_INTERVAL: Final = 0.25


@attrs.frozen(kw_only=True)
class Progress:
    """A run at one moment. Counts are tasks; `turns` and `seconds` count from the start of the run."""

    total: int
    finished: int
    failed: int
    in_flight: int
    turns: int
    seconds: float
    draining: bool
    pool: PoolStatistics
    right: int = 0
    wrong: int = 0
    score: float | None = None
    outage: str = ""

    @property
    def _waiting(self) -> str:
        held = self.pool.held
        waiting = f"waiting for {self.pool.held_for} until {_clock(held)}, " if held else ""
        if self.pool.degraded:
            waiting += "waiting for the endpoint: " + (self.outage or "it cannot be reached") + ", "
        others = self.total - self.finished - self.in_flight if not self.draining else 0
        doubt = in_words(self.pool.unclear, self.pool.suspects, others)
        return waiting + (f"{doubt}, " if doubt else "")

    @property
    def _scored(self) -> str:
        if self.score is None:
            return ""
        return f"{self.right} right, {self.wrong} wrong, mean score {self.score:.3f}, "

    def __str__(self) -> str:
        left = self.total - self.finished
        eta = f"{self.seconds / self.finished * left:.0f} s" if self.finished else "?"
        rate = self.turns / self.seconds if self.seconds else 0.0
        return (
            f"{self.finished}/{self.total} done, {self.failed} failed, {self._scored}"
            f"{self.in_flight} in flight, "
            f"{rate:.0f} turns/s, pool {self.pool.idle} idle {self.pool.leased} leased "
            f"{self.pool.dialing} dialing {self.pool.waiting} waiting, "
            + self._waiting
            + ("finishing what runs (Ctrl-C again to stop now)" if self.draining else f"{eta} left")
        )


def _clock(seconds: float) -> str:
    """The time of day in so many seconds."""
    return time.strftime("%H:%M:%S", time.localtime(time.time() + seconds))


async def show_progress(look: Callable[[], Progress], file: TextIO | None) -> None:
    """Show what *look* says, until cancelled, or until nobody can take it: what only reports ends nothing.

    A checkpoint between two looks.

    Args:
      look: says how far the run is.
      file: where to; None, as `sys.stderr` is in a process that was begun without one, for nowhere.
    """
    if file is None:
        return
    # A closed pipe, a full disk, a terminal that is gone or has other letters.
    with suppress(OSError, ValueError):
        if file.isatty():
            await _draw(look, file)
        else:
            while True:
                await trio.sleep(PLAIN_INTERVAL)
                print(look(), file=file, flush=True)


async def _draw(look: Callable[[], Progress], file: TextIO) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    # Drawn by this task and not by Rich's own thread: a pool may not be looked at from another thread.
    with Live(console=Console(file=file), auto_refresh=False, transient=True) as live:
        while True:
            now = look()
            drawing = Table.grid()
            drawing.add_row(ProgressBar(total=now.total, completed=now.finished, width=60))
            drawing.add_row(str(now))
            live.update(drawing, refresh=True)
            await trio.sleep(LIVE_INTERVAL)
