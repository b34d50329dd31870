"""Samples: what the pool had, now and then, for who looks at the run afterwards (`connections.jsonl`).

1. Samples come seldom and seldomer, so that the file of a day is as small as that of an hour: one of a few
   hundred kilobytes.
2. They only report: one that cannot be written is left out, and ends nothing.
"""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import trio

from wspool.rollout.files import append_to
from wspool.rollout.progress import Progress

__all__ = ["SAMPLES", "Samples", "take_samples"]

#: Name of the file in the directory of the results.
SAMPLES: Final = "connections.jsonl"
#: Seconds between the first samples, and
INTERVAL: Final = 0.25
#: how many there are before it is doubled, and doubled again after as many.
AT_ONE_PACE: Final = 240


class Samples:
    """The file of one directory; it is made when the first sample is written."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / SAMPLES
        self._file: BinaryIO | None = None
        self._began = round(time.time(), 3)

    def add(self, now: Progress) -> None:
        """Write how things are."""
        line: Mapping[str, Any] = {
            "run": self._began,
            "seconds": round(now.seconds, 3),
            "finished": now.finished,
            "tasks": now.in_flight,
            "open": now.pool.open,
            "dialing": now.pool.dialing,
            "turns": now.pool.in_flight,
            "waiting": now.pool.waiting,
            "held": now.pool.held > 0,
        }
        try:
            if self._file is None:
                self._file = append_to(self._path)
            self._file.write(json.dumps(line).encode() + b"\n")
        except OSError:
            pass  # rule 2

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


async def take_samples(look: Callable[[], Progress], samples: Samples) -> None:
    """Add what *look* says to *samples*, at once and then now and then, until cancelled; then once more."""
    interval = INTERVAL
    try:
        while True:
            for _ in range(AT_ONE_PACE):
                samples.add(look())
                await trio.sleep(interval)
            interval *= 2
    finally:
        samples.add(look())
