"""Durable: what was written to a file is brought to the disk, once for all who wait for it at the same time.

A disk takes some milliseconds for that, however much there is, so it is done in a thread, and whoever comes
meanwhile shares the next time. Without it what was written outlives the process, but not the power.
"""

from __future__ import annotations

import os
from typing import Final

import trio

__all__ = ["Durable"]

# Times of access need not be brought there. Not every system has it.
_sync: Final = getattr(os, "fdatasync", os.fsync)


class Durable:
    """Brings one file to the disk.

    Args:
        descriptor: of the file; it must stay open as long as somebody waits.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = trio.Lock()
        self._asked = self._done = 0

    async def secure(self) -> None:
        """Wait until what was written before this call is on the disk.

        A checkpoint. Cancelling waits for the disk, too.

        Raises:
            OSError: that could not be done, and nobody knows what is there.
        """
        self._asked += 1
        mine = self._asked
        async with self._lock:
            if self._done < mine:
                covered = self._asked
                await trio.to_thread.run_sync(_sync, self._descriptor)
                self._done = covered
