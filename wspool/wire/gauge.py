"""Gauge: how much of what a server sends a wire holds that nobody has been given yet.

A message is handed on when it is whole, and may be large; a server can begin one on each of many connections
and finish none. So a wire says how much it holds, and whoever has many of them adds it up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

__all__ = ["STEP", "Gauge"]

#: What is held may grow by so many bytes before anybody is told. Most messages are far below it.
STEP: Final = 1024 * 1024


class Gauge:
    """What one wire holds.

    Attributes:
        partial: bytes of a message that is not whole.
        waiting: bytes of those that are, and that nobody has taken yet.
        on_growth: called, from where the wire reads, whenever they are more by `STEP`; must not wait.
    """

    __slots__ = ("_last", "_next", "on_growth", "partial", "waiting")

    def __init__(self) -> None:
        self.partial = self.waiting = 0
        self.on_growth: Callable[[], None] | None = None
        self._last = 0
        self._next = STEP

    @property
    def held(self) -> int:
        """Bytes held."""
        return self.partial + self.waiting

    def check(self) -> None:
        """Tell whoever wants to know if there is so much more. To be called where a lot is held."""
        held = self.held
        if held < self._last:
            self._next = STEP
        self._last = held
        if held >= self._next:
            self._next = held + STEP
            if self.on_growth is not None:
                self.on_growth()
