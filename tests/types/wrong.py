"""What a checker must find: each comment is needed, or the check of these programs fails."""

from __future__ import annotations

import wspool


class Watch(wspool.Instrument):
    def turn_ended(self, record: wspool.TurnRecord) -> None:
        good = record.status == "ok"  # type: ignore[comparison-overlap] # pyright: ignore[reportUnnecessaryComparison]
        assert good


async def main() -> None:
    async with wspool.open_pool(instrument=object()) as pool:  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        async with pool.conversation(model="m") as conversation:
            await conversation.respond(3)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
            await conversation.run("x", tools=[], tool_errors="ignore")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        pool.conversations()  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    reason: wspool.MoveReason = "bored"  # type: ignore[assignment] # pyright: ignore[reportAssignmentType]
    assert reason


async def taken_the_wrong_way() -> None:
    with wspool.open_pool():  # type: ignore[attr-defined] # pyright: ignore[reportGeneralTypeIssues]
        pass
    with wspool.aio.open_pool():  # type: ignore[attr-defined] # pyright: ignore[reportGeneralTypeIssues]
        pass
    async with wspool.blocking.open_pool():  # type: ignore[attr-defined] # pyright: ignore[reportGeneralTypeIssues]
        pass


async def read_the_wrong_way(
    native: wspool.Turn, other: wspool.aio.Turn, plain: wspool.blocking.Turn
) -> None:
    for _ in native:  # type: ignore[attr-defined] # pyright: ignore[reportGeneralTypeIssues, reportUnknownVariableType]
        pass
    for _ in other:  # type: ignore[attr-defined] # pyright: ignore[reportGeneralTypeIssues, reportUnknownVariableType]
        pass
    async for _ in plain:  # type: ignore[attr-defined] # pyright: ignore[reportGeneralTypeIssues, reportUnknownVariableType]
        pass
    with native, other:  # type: ignore[attr-defined] # pyright: ignore[reportGeneralTypeIssues]
        pass
    async with plain:  # type: ignore[attr-defined] # pyright: ignore[reportGeneralTypeIssues]
        pass
