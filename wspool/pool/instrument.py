"""Instrument: what an observer of a pool may override."""

from __future__ import annotations

import logging
from collections.abc import Callable
from traceback import StackSummary
from typing import ParamSpec

from wspool.core.statistics import DialRecord, Move, TurnRecord

__all__ = ["Instrument", "watch"]

logger = logging.getLogger("wspool.pool")

_P = ParamSpec("_P")


class Instrument:
    """Watches a pool. Override what you need; every method does nothing by default.

    Methods are called synchronously in the pool's thread and must not block. An exception in
    one is logged and does not affect the pool.
    """

    def dial_ended(self, record: DialRecord) -> None:
        """A dial has ended, however it ended. Twice for one whose key was refused and renewed."""

    def turn_ended(self, record: TurnRecord) -> None:
        """A turn has ended, however it ended."""

    def conversation_moved(self, move: Move) -> None:
        """A conversation goes on on another connection: its next turn is sent in full."""

    def lease_leaking(self, lease: int, borrowed: StackSummary) -> None:
        """A lease is held for longer than `policy.leak_after`. Once per lease; the log says it too.

        Args:
            lease: its number (`Lease.id`).
            borrowed: the lines of the task that took it, at that time. No variables are kept.
        """

    def pool_degraded(self, message: str) -> None:
        """The endpoint is down; *message* says what failed. Once per outage."""

    def pool_recovered(self, lasted: float) -> None:
        """The endpoint is back after *lasted* seconds. Once per outage."""


def watch(tell: Callable[_P, None], *args: _P.args, **kwargs: _P.kwargs) -> None:
    """Tell an observer something; its failures are its own."""
    try:
        tell(*args, **kwargs)
    except Exception:
        logger.exception("the pool's instrument failed; the pool is not affected")
