"""An agent on trio."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, assert_type

import wspool


async def look(path: str) -> str:
    """Look at a file."""
    return path


async def key() -> str:
    return "k"


async def main(given: wspool.Input, tool: wspool.Tool) -> None:
    asked: wspool.ApiKey = key
    async with wspool.open_pool(api_key=asked, provider=wspool.OPENAI, instrument=[]) as pool:
        assert_type(pool, wspool.Pool)
        assert_type(pool.statistics(), wspool.PoolStatistics)
        assert_type(pool.turns(), list[wspool.TurnInFlight])
        async with pool.conversation(model="m") as conversation:
            assert_type(conversation, wspool.Conversation)
            response = await conversation.respond(given)
            assert_type(response, wspool.Response)
            assert_type(response.output_text, str)
            await conversation.run("go", tools=[look, tool], max_turns=3)
            async with conversation.turn("x") as turn:
                assert_type(turn.delivery, wspool.Delivery)
                async for event in turn:
                    assert_type(event, wspool.Event)
                    assert_type(event.data, dict[str, Any])
                assert_type(await turn.steer("y"), wspool.Steer)
            async with conversation.fork(model="n") as other:
                assert_type(other, wspool.Conversation)
            assert_type(conversation.snapshot(), dict[str, Any])
        async with pool.lease(min_remaining=5) as lease, lease.create(model="m") as turn:
            assert_type(await turn.batch(), Sequence[wspool.Event])


def delivery(error: wspool.WsPoolError) -> bool:
    match error.delivery:
        case "not_sent":
            return True
        case "ambiguous" | "accepted" | "terminal":
            return False
