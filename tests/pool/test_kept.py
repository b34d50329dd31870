"""Lanes of turns that bring their history along: kept while tools run, as those of conversations are."""

from __future__ import annotations

from typing import Any

import pytest
import trio

import wspool
from tests.helpers import FakeConnector, World, assert_empty, fake_pool, policy, serving
from wspool.server import ModelRequest, ModelTurn, function_call, message
from wspool.wire.wire import Endpoint

Item = dict[str, Any]


class Caller:
    """Calls a tool so many times, then answers; each turn takes a second, or as many."""

    def __init__(self, calls: int = 3, seconds: float = 1.0) -> None:
        self._calls = calls
        self._seconds = seconds

    def respond(self, request: ModelRequest) -> ModelTurn:
        done = sum(item.get("type") == "function_call_output" for item in request.context)
        said = function_call("read", {"part": done}) if done < self._calls else message("done")
        return ModelTurn(output=[said], delay=self._seconds)


async def take(pool: wspool.Pool, items: list[Item]) -> list[Item]:
    """One turn; return its items with those before it, and the outputs that its calls want."""
    async with pool.turn({"model": "m", "input": items, "store": False}) as turn:
        output = (await turn.result()).output
    calls = [item["call_id"] for item in output if item["type"] == "function_call"]
    answers = [{"type": "function_call_output", "call_id": call, "output": "text"} for call in calls]
    return [*items, *output, *answers]


def say(text: str) -> list[Item]:
    return [{"role": "user", "content": text}]


def deltas(world: World) -> int:
    return sum(turn["previous_response_id"] is not None for turn in world.model_turns)


@pytest.mark.parametrize("away", [0.0, 0.3])
async def test_more_conversations_than_lanes_send_what_is_new(autojump_clock, away: float) -> None:
    """Those in line get a lane when a conversation is over, not in the middle of each."""

    async def talk(pool: wspool.Pool, number: int) -> None:
        items = say(f"talk {number}")
        while items[-1].get("role") != "assistant":
            items = await take(pool, items)
            await trio.sleep(away)

    async with serving(Caller()) as world, world.pool(limits=policy(max_size=4)) as pool:
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(16):
                nursery.start_soon(talk, pool, number)
        assert 64 == len(world.model_turns)
        assert deltas(world) >= 44
        assert trio.current_time() - began <= 16 * (1 + away) * 1.3
        assert 0 == pool.statistics().leased


async def test_nobody_comes_back(autojump_clock) -> None:
    """It is free after the policy's patience, and remembers; who comes then goes on with what is new."""
    async with serving(Caller()) as world, world.pool(limits=policy(max_size=1, patience=2)) as pool:
        items = await take(pool, say("one"))
        assert (1, 0) == (pool.statistics().leased, pool.statistics().idle)
        await trio.sleep(1.9)
        assert 1 == pool.statistics().leased
        await trio.sleep(0.2)
        assert (0, 1) == (pool.statistics().leased, pool.statistics().idle)
        await take(pool, items)
        assert 1 == deltas(world)


async def test_who_starves_gets_it(autojump_clock) -> None:
    """Who is not back by then sends all of it; nobody waits for longer than a full send is worth."""
    async with serving(Caller(1)) as world, world.pool(limits=policy(max_size=1, patience=60)) as pool:
        items = await take(pool, say("one"))
        began = trio.current_time()
        other = await take(pool, say("two"))
        assert 1 < trio.current_time() - began < 3
        items = await take(pool, items)
        assert 0 == deltas(world)
        assert "done" == items[-1]["content"][0]["text"]
        assert "function_call_output" == other[-1]["type"]


async def test_an_answer_or_no_patience_keeps_nothing(autojump_clock) -> None:
    async with serving(Caller(0)) as world, world.pool(limits=policy(max_size=1)) as pool:
        await take(pool, say("one"))
        assert 0 == pool.statistics().leased
    async with serving(Caller()) as world, world.pool(limits=policy(max_size=1, patience=0)) as pool:
        await take(pool, say("one"))
        assert 0 == pool.statistics().leased


async def test_closing_does_not_wait_for_it(autojump_clock) -> None:
    async with serving(Caller()) as world, world.pool(limits=policy(patience=60)) as pool:
        for number in range(3):
            await take(pool, say(f"{number}"))
        began = trio.current_time()
        assert 3 == pool.statistics().leased
        await pool.aclose(grace=100)
        assert trio.current_time() - began < 5
        assert_empty(pool.statistics())


async def test_who_leaves_before_sending_leaves_it_kept(autojump_clock) -> None:
    async with serving(Caller()) as world, world.pool(limits=policy(max_size=1, patience=5)) as pool:
        items = await take(pool, say("one"))
        with trio.CancelScope() as scope:
            scope.cancel()
            await take(pool, items)
        assert 1 == pool.statistics().leased
        await take(pool, items)
        assert 1 == deltas(world)


async def test_the_same_id_on_two_lanes_keeps_neither(autojump_clock) -> None:
    """There are servers that count their responses anew on each connection."""
    call = {"type": "function_call", "name": "read", "call_id": "call_1", "arguments": "{}"}
    response = {"id": "resp_1", "object": "response", "status": "completed", "output": [call]}

    def answer(wire: Any, request: dict[str, Any]) -> None:
        wire.push(
            {"type": "response.created", "response": {**response, "status": "in_progress", "output": []}}
        )
        wire.push({"type": "response.completed", "response": response})

    async with fake_pool(FakeConnector(answer), limits=policy(max_size=2)) as pool:
        await take(pool, say("one"))
        assert 1 == pool.statistics().leased
        await take(pool, say("two"))
        assert 0 == pool.statistics().leased


@pytest.mark.parametrize("brought", [False, True])
async def test_all_that_start_at_once_go_on_where_they_are(autojump_clock, brought: bool) -> None:
    """A lane for each, of which some are still dialled: who waits for one takes none that is remembered."""
    talks = 40

    async def read(part: int) -> str:  # a thread would take time that the clock does not know of
        await trio.lowlevel.checkpoint()
        return "text"

    async def talk(pool: wspool.Pool, number: int) -> None:
        items = say(f"talk {number}")
        if not brought:
            async with pool.conversation(model="m") as conversation:
                await conversation.run(items, tools={"read": read})
            return
        while items[-1].get("role") != "assistant":
            items = await take(pool, items)

    async with serving(Caller(seconds=0.05)) as world:
        dial = world.open_stream

        async def slowly(endpoint: Endpoint) -> trio.abc.Stream:
            await trio.sleep(0.1)
            return await dial(endpoint)

        world.open_stream = slowly  # type: ignore[method-assign] # this one world is far away
        limits = policy(max_size=talks, dial_concurrency=8)
        async with world.pool(limits=limits) as pool, trio.open_nursery() as nursery:
            for number in range(talks):
                nursery.start_soon(talk, pool, number)
        assert 4 * talks == len(world.model_turns)
        assert 3 * talks == deltas(world)
