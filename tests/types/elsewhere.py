"""The same in asyncio and in threads."""

from __future__ import annotations

from typing import assert_type

import wspool


async def in_asyncio() -> None:
    async with wspool.aio.open_pool(policy=wspool.PoolPolicy(max_size=4)) as pool:
        assert_type(pool, wspool.aio.Pool)
        async with pool.conversation(model="m") as conversation:
            assert_type(await conversation.respond("x"), wspool.Response)
            async with conversation.turn("y") as turn:
                async for event in turn:
                    assert_type(event, wspool.Event)
        assert_type(pool.turns(), list[wspool.TurnInFlight])


def in_a_thread() -> None:
    with wspool.blocking.open_pool() as pool, pool.conversation(model="m") as conversation:
        assert_type(conversation.respond("x"), wspool.Response)
        with conversation.turn("y") as turn:
            for event in turn:
                assert_type(event, wspool.Event)
        assert_type(pool.statistics(), wspool.PoolStatistics)
