"""News: what happens in the pools of a proxy, in the words of its page.

Pure. No key and no text of a conversation: numbers, reasons, and errors as they may be shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from wspool.core.commands import CloseReason
from wspool.core.statistics import CloseRecord, DialRecord, Move

__all__ = ["closed", "moved", "not_dialed", "span"]

_MOVED: Final[Mapping[str, str]] = {
    "rotation": "its connection was near the end of its life",
    "lost": "its connection was lost",
    "taken": "its lane was given to somebody else",
    "busy": "the turn before had not ended there",
    "refused": "the provider refused it there",
}


_ENDED: Final[Mapping[CloseReason, str]] = {
    CloseReason.LIFETIME: "its retirement was planned",
    CloseReason.IDLE: "nobody needed it",
    CloseReason.DIRTY: "what came on it could not be told apart",
    CloseReason.LIMIT: "the provider lets none live longer",
    CloseReason.LOST: "it was lost",
    CloseReason.POOL_CLOSED: "its pool was closed",
}


def not_dialed(record: DialRecord) -> str:
    """Say that a dial has failed."""
    return f"A connection could not be opened: {record.failure}"


def closed(record: CloseRecord) -> str:
    """Say that a connection has ended, and why."""
    code = "" if record.close_code is None else f" (close code {record.close_code})"
    why = _ENDED.get(record.reason, record.reason.value.replace("_", " "))
    return f"Connection {record.connection} ended after {span(record.age)}: {why}{code}."


def moved(move: Move) -> str:
    """Say that a turn goes on on another connection, and why."""
    return f"A turn moved from connection {move.before} to {move.after}: {_MOVED[move.reason]}."


def span(seconds: float) -> str:
    """Return a length of time in words that people use."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
