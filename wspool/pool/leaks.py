"""Where a lease was borrowed that nobody gives back.

Asked for with `PoolPolicy.leak_after`. Of each lease the lines of its borrower are kept, not the frames:
those would keep all variables alive.
"""

from __future__ import annotations

import sys
import traceback
from types import CodeType, FrameType

from wspool.core.commands import LeaseId

__all__ = ["Borrowers"]


class Borrowers:
    """Who borrowed each lease, as lines of code."""

    def __init__(self) -> None:
        self._lines: dict[LeaseId, list[tuple[CodeType, int]]] = {}

    def note(self, lease: LeaseId) -> None:
        """The running task has borrowed *lease*."""
        self._lines[lease] = _lines()

    def forget(self, lease: LeaseId) -> None:
        """*lease* was given back."""
        self._lines.pop(lease, None)

    def stack(self, lease: LeaseId) -> traceback.StackSummary:
        """Return the lines that borrowed *lease*, the innermost last; none if its task has not run since."""
        lines = self._lines.get(lease, [])
        return traceback.StackSummary.from_list(
            [(code.co_filename, line, code.co_name, None) for code, line in reversed(lines)]
        )


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
