"""Instrument: what an observer of a pool may override."""

from __future__ import annotations

from wspool.core.statistics import Move, TurnRecord

__all__ = ["Instrument"]


class Instrument:
    """Watches a pool. Override what you need; every method does nothing by default.

    Methods are called synchronously in the pool's thread and must not block. An exception in
    one is logged and does not affect the pool.
    """

    def turn_ended(self, record: TurnRecord) -> None:
        """A turn has ended, however it ended."""

    def conversation_moved(self, move: Move) -> None:
        """A conversation goes on on another connection: its next turn is sent in full."""

    def lease_leaking(self, lease: int) -> None:
        """A lease is held for longer than `policy.leak_after`. Once per lease."""

    def pool_degraded(self, message: str) -> None:
        """The endpoint is down; *message* says what failed. Once per outage."""

    def pool_recovered(self, lasted: float) -> None:
        """The endpoint is back after *lasted* seconds. Once per outage."""
