"""Sums: what many requests come to."""

from __future__ import annotations

from typing import Final

import attrs

from wspool.core.usage import Usage
from wspool.proxy.records.record import Record

__all__ = ["WRONG", "Sums"]

#: How a request ends that went wrong, whoever's doing that was.
WRONG: Final = frozenset({"failed", "refused", "rejected", "lost"})


@attrs.define
class Sums:
    """Sums over requests since the proxy was started.

    Attributes:
        turns: turns that have ended.
        errors: requests that went wrong, whatever they asked for.
        delta: turns of which only what was new was sent.
        full: turns of which all was sent.
        joined: requests that were asked before, and answered with that turn, which is paid for once.
        bytes_sent: of requests, to the provider.
        bytes_saved: of history that was not.
        usage: tokens, as the provider has counted them.
    """

    turns: int = 0
    errors: int = 0
    delta: int = 0
    full: int = 0
    joined: int = 0
    bytes_sent: int = 0
    bytes_saved: int = 0
    usage: Usage = attrs.field(factory=Usage)

    def add(self, record: Record) -> None:
        """Count a request that has ended."""
        self.turns += record.door != "http"  # what was only passed on is no turn
        self.errors += record.outcome in WRONG
        if record.items_sent is not None:
            self.delta += record.why_full is None
            self.full += record.why_full is not None
        self.joined += record.joined is not None
        self.bytes_sent += record.bytes_sent or 0
        self.bytes_saved += record.bytes_saved or 0
        if record.usage is not None:
            self.usage += record.usage

    def as_json(self) -> dict[str, int]:
        """Return them as a JSON object."""
        usage = self.usage
        return {
            "turns": self.turns,
            "errors": self.errors,
            "delta": self.delta,
            "full": self.full,
            "joined": self.joined,
            "bytes_sent": self.bytes_sent,
            "bytes_saved": self.bytes_saved,
            "input": usage.input,
            "cached": usage.cached,
            "output": usage.output,
            "reasoning": usage.reasoning,
        }
