"""What Ray Data calls, called as it does: columns in, rows out as they end."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from wspool import aio
from wspool.ray import Conversations
from wspool.testing import local_server

pytestmark = pytest.mark.network


async def rows(batches: Conversations, *texts: str) -> list[dict[str, Any]]:
    batch = {"number": list(range(len(texts))), "input": list(texts)}
    found = [{name: value for name, (value,) in row.items()} async for row in batches(batch)]
    return sorted(found, key=lambda row: row["number"])


async def agent(conversation: aio.Conversation, row: Mapping[str, Any]) -> object:
    if row["input"] == "bad":
        raise ValueError("no")
    return [(await conversation.respond(row["input"])).output_text]


def test_each_row_is_answered() -> None:
    """By one turn, or by an agent, whose trouble is the row's; several batches share the pool."""
    with local_server() as server:

        async def main() -> None:
            plain = Conversations(fields={"model": "m"}, url=server.url)
            one, other = await asyncio.gather(rows(plain, "a", "b"), rows(plain, "c"))
            assert ["a", "b", "c"] == [row["answer"] for row in one + other]
            mine = Conversations(agent, fields={"model": "m"}, url=server.url)
            good, bad = await rows(mine, "a", "bad")
            assert {"number": 0, "input": "a", "answer": ["a"], "error": ""} == good
            assert (None, "ValueError: no") == (bad["answer"], bad["error"])

        asyncio.run(main())
        assert 4 == len(server.requests)
