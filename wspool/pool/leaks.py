"""Where a lease was borrowed that nobody gives back.

Asked for with `PoolPolicy.leak_after`; a pool that does not ask pays nothing, for it is another class. Of
each lease the lines of its borrower are kept, not the frames: those would keep all variables alive.
"""

from __future__ import annotations

import logging
import sys
import traceback
from types import CodeType, FrameType

import trio

from wspool.core.commands import LeaseId
from wspool.pool.lease import Lease
from wspool.pool.pool import Pool, Setup

__all__ = ["WatchfulPool"]

logger = logging.getLogger("wspool.pool")


class WatchfulPool(Pool):
    """A pool that knows where each lease was borrowed."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._borrowed: dict[LeaseId, list[tuple[CodeType, int]]] = {}

    @trio.lowlevel.enable_ki_protection
    async def acquire(self, *, min_remaining: float = 0.0) -> Lease:
        """Take a lease, see `Pool.acquire`, and note by whom."""
        lease = await super().acquire(min_remaining=min_remaining)
        self._borrowed[lease.id] = _lines()
        return lease

    @trio.lowlevel.enable_ki_protection
    def acquire_nowait(self) -> Lease:
        """Take a lease, see `Pool.acquire_nowait`, and note by whom."""
        lease = super().acquire_nowait()
        self._borrowed[lease.id] = _lines()
        return lease

    @trio.lowlevel.enable_ki_protection
    def release(self, lease: LeaseId) -> None:
        """The holder of *lease* leaves."""
        self._borrowed.pop(lease, None)
        super().release(lease)

    def on_leaking(self, lease: LeaseId) -> None:
        """Say which lease is held for too long, and where it was borrowed."""
        stack = traceback.StackSummary.from_list(
            [(code.co_filename, line, code.co_name, None) for code, line in reversed(self._borrowed[lease])]
        )
        logger.warning(
            "lease %s is held for longer than leak_after=%g s; it was borrowed here:\n%s",
            lease,
            self.policy.leak_after,
            "".join(stack.format()),
        )
        self._watch(self._setup.instrument.lease_leaking, lease, stack)


def _lines() -> list[tuple[CodeType, int]]:
    """Where the running task is, the innermost line first: from who called this package on."""
    lines: list[tuple[CodeType, int]] = []
    frame: FrameType | None = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        module = str(frame.f_globals.get("__name__"))
        if module.startswith("trio._core."):
            break
        if lines or not module.startswith(("wspool.pool.", "contextlib")):
            lines.append((frame.f_code, frame.f_lineno))
        frame = frame.f_back
    return lines
