"""What Ray Data calls, called as it does: columns in, rows out as they end."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from wspool import aio
from wspool.ray import Conversations
from wspool.testing import local_server

pytestmark = pytest.mark.network


BEGUN = asyncio.Event()
#: The last is one that an agent has kept: nobody cancels the batch.
RAISED = {
    "bad": ValueError("no"),
    "exit": SystemExit(3),
    "interrupt": KeyboardInterrupt("mine"),
    "kept": asyncio.CancelledError("old"),
}


async def rows(batches: Conversations, *texts: str) -> list[dict[str, Any]]:
    batch = {"number": list(range(len(texts))), "input": list(texts)}
    found = [{name: value for name, (value,) in row.items()} async for row in batches(batch)]
    return sorted(found, key=lambda row: row["number"])


async def agent(conversation: aio.Conversation, row: Mapping[str, Any]) -> object:
    if row["input"] in RAISED:
        raise RAISED[row["input"]]
    if row["input"] == "slow":
        BEGUN.set()
        await asyncio.Event().wait()
    return [(await conversation.respond(row["input"])).output_text]


def test_each_row_is_answered() -> None:
    """By one turn, or by an agent, whose trouble is the row's; several batches share the pool."""
    with local_server() as server:

        async def main() -> None:
            plain = Conversations(fields={"model": "m"}, url=server.url)
            one, other = await asyncio.gather(rows(plain, "a", "b"), rows(plain, "c"))
            assert ["a", "b", "c"] == [row["answer"] for row in one + other]
            mine = Conversations(agent, fields={"model": "m"}, url=server.url)
            good, *bad = await rows(mine, "a", *RAISED)
            assert {"number": 0, "input": "a", "answer": ["a"], "error": ""} == good
            assert [(None, f"{type(error).__name__}: {error}") for error in RAISED.values()] == [
                (row["answer"], row["error"]) for row in bad
            ]
            slow = asyncio.create_task(rows(mine, "slow"))
            await BEGUN.wait()
            slow.cancel()
            with pytest.raises(asyncio.CancelledError):
                await slow

        asyncio.run(main())
        assert 4 == len(server.requests)
