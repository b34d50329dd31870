"""Lines: what happens in a pool as one line of text each, for logs.

No secret and no content: numbers, names, and what was redacted when it was said.
"""

from __future__ import annotations

from typing import TypeAlias

from wspool.core.plain import plain
from wspool.core.statistics import CloseRecord, DialRecord, GrantRecord, Move, ToolRecord, TurnRecord

__all__ = ["Line", "line_of"]

#: What there is a line of.
Line: TypeAlias = CloseRecord | DialRecord | GrantRecord | Move | ToolRecord | TurnRecord


def line_of(record: Line) -> str:
    """Return *record* as one line."""
    match record:
        case TurnRecord():
            return _turn(record)
        case DialRecord():
            phases = ", ".join(f"{name} {seconds:.3f}" for name, seconds in record.phases.items())
            how = "open" if record.failure is None else plain(record.failure)
            by = " by HTTP" if record.transport == "http" else ""
            return (
                f"dial {record.connection}{by}: {how} after {record.duration:.3f} s ({phases or 'no phases'})"
            )
        case CloseRecord():
            code = "" if record.close_code is None else f", code {record.close_code}"
            return (
                f"connection {record.connection} closed after {record.age:.1f} s: {record.reason.value}{code}"
            )
        case GrantRecord():
            where = f"connection {record.connection}, lane {record.lane}"
            return f"lease {record.lease} granted on {where} after {record.waited:.3f} s in line"
        case Move():
            who = _who(record.conversation)
            return f"{who} moved from connection {record.before} to {record.after}: {record.reason}"
        case ToolRecord():
            how = "" if record.error is None else f": {record.error}"
            name = plain(record.name)
            return f"{_who(record.conversation)}, tool {name} ended after {record.duration:.3f} s{how}"


def _turn(record: TurnRecord) -> str:
    tokens = record.tokens
    parts = [
        f"{_who(record.conversation)}, turn {record.status} ({record.delivery})",
        f"model {plain(record.model)}" if record.model is not None else "",
        f"connection {record.connection}" if record.connection is not None else "no connection",
        f"{record.duration:.3f} s",
        f"waited {record.waited:.3f} s" if record.waited else "",
        f"first event after {record.first_event:.3f} s" if record.first_event is not None else "",
        f"{record.items_sent} items sent, {record.items_given} given" if record.requests else "",
        ("full" if record.full else "delta") if record.requests else "",
        f"{record.requests} requests" if record.requests > 1 else "",
        f"{record.events} events",
        f"{tokens.input} ({tokens.cached} cached) + {tokens.output} tokens"
        if record.usage is not None
        else "",
        f"error {record.error}" if record.error is not None else "",
        f"code {plain(record.error_code)}" if record.error_code is not None else "",
    ]
    return ", ".join(filter(None, parts))


def _who(conversation: int | None) -> str:
    return "no conversation" if conversation is None else f"conversation {conversation}"
