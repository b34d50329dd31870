"""What watches: records have words that a checker knows."""

from __future__ import annotations

from typing import assert_never, assert_type

import wspool
from wspool.timeline import Timeline


class Watch(wspool.Instrument):
    def __init__(self) -> None:
        self.worst = 0.0

    def turn_ended(self, record: wspool.TurnRecord) -> None:
        self.worst = max(self.worst, record.waited)
        assert_type(record.status, wspool.TurnStatus)
        assert_type(record.tokens, wspool.Usage)
        assert_type(record.content, wspool.TurnContent | None)
        match record.status:
            case "completed" | "incomplete":
                pass
            case "failed" | "rejected" | "lost" | "cancelled" | "unsent":
                pass
            case _:
                assert_never(record.status)

    def conversation_moved(self, move: wspool.Move) -> None:
        reason: wspool.MoveReason = move.reason
        if reason == "lost":
            self.worst += 1

    def connection_closed(self, record: wspool.CloseRecord) -> None:
        if record.reason is wspool.CloseReason.LIFETIME:
            self.worst += record.age

    def turn_begun(self, record: wspool.TurnBegun) -> None:
        assert_type(record.model, str | None)

    def tool_begun(self, record: wspool.ToolBegun) -> None:
        assert_type(record.name, str)

    def lease_ended(self, record: wspool.LeaseRecord) -> None:
        self.worst += record.held

    def tool_ended(self, record: wspool.ToolRecord) -> None:
        assert_type(record.error, str | None)


async def main() -> None:
    async with wspool.open_pool(instrument=[Watch(), Timeline(), wspool.LoggingInstrument()]) as pool:
        state: wspool.SteerState = "sent"
        by_http: bool = pool.transport == "http"
        assert by_http or state
