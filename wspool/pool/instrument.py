"""Instrument: what an observer of a pool may override."""

from __future__ import annotations

from wspool.core.statistics import TurnRecord

__all__ = ["Instrument"]


class Instrument:
    """Watches a pool. Override what you need; every method does nothing by default.

    Methods are called synchronously in the pool's thread and must not block. An exception in
    one is logged and does not affect the pool.
    """

    def turn_ended(self, record: TurnRecord) -> None:
        """A turn has ended, however it ended."""
