"""The intake: a task is begun for a lane to take, not to stand in line."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

import wspool
from tests.rollout.batches import run_batch
from wspool.rollout.method import Agent, Method
from wspool.rollout.shapes import Columns, task_of
from wspool.rollout.summary import Meter, Summary
from wspool.rollout.tasks import Task
from wspool.server import Model, ModelRequest, ModelTurn, function_call, message
from wspool.server.echo import EchoModel
from wspool.server.server import open_server
from wspool.wire.trio_websocket import TrioWebSocketConnector

#: Conversations over connections, as in the guide of rollouts.
TASKS, CONNECTIONS = 56, 8
#: A word takes so many seconds.
WORD = 0.2
#: Of each conversation.
TURNS = 5


class Asking:
    """Has three calls made, one after another, and then answers."""

    def respond(self, request: ModelRequest) -> ModelTurn:
        outputs = sum("output" in item for item in request.context)
        if outputs == 3:
            return ModelTurn(output=[message("well")])
        return ModelTurn(output=[function_call("lookup", {"key": "a"}, call_id=f"call_{outputs}")])


def tasks(count: int) -> list[Task]:
    rows = [{"id": str(number), "input": "hi"} for number in range(count)]
    return [attrs.evolve(task_of(row, Columns()), id=row["id"]) for row in rows]


@asynccontextmanager
async def pool_of(meter: Meter, model: Model | None = None) -> AsyncGenerator[wspool.Pool, None]:
    policy = wspool.PoolPolicy(max_size=CONNECTIONS, min_idle=0, refusal_patience=60)
    async with open_server(model or EchoModel(), port=None, delay_per_token=WORD) as server:
        wire = TrioWebSocketConnector(server.open_stream)
        async with wspool.open_pool(server.url, wire=wire, policy=policy, instrument=meter) as pool:
            yield pool


async def run(pool: wspool.Pool, meter: Meter, agent: Agent, count: int = TASKS) -> Summary:
    lines: list[Mapping[str, Any]] = []
    method = Method(agent=agent, defaults={"model": "m"})
    return await run_batch(pool, tasks(count), method, meter=meter, sink=lines.append, quiet=True)


@pytest.mark.parametrize(
    ("tool", "most", "full"),
    [
        (0.0, 7.1, TASKS),  # eight at a time keep all connections at work, and go on where they were
        (0.1, 8.0, TASKS * TURNS),
        (2.0, 12.6, TASKS * TURNS),  # all of them at once: five turns and five times the tool take 11 s
    ],
)
async def test_nobody_stands_in_line_while_others_could_go_on(
    tool: float, most: float, full: int, autojump_clock: MockClock
) -> None:
    """And no connection waits long for a task, however slow the tools are."""
    meter = Meter()
    in_line: list[int] = []

    async def agent(conversation: wspool.Conversation, task: dict[str, Any]) -> object:
        for _ in range(TURNS):
            await conversation.respond(task["input"])
            in_line.append(pool.statistics().waiting)
            await trio.sleep(tool)
        return "well"

    async with pool_of(meter) as pool:
        began = trio.current_time()
        summary = await run(pool, meter, agent)
        took = trio.current_time() - began

    assert summary.done == TASKS
    assert max(in_line) <= CONNECTIONS
    assert took < most
    assert summary.full_turns <= full


async def test_a_lane_that_is_kept_for_tools_has_one_in_line_for_it(autojump_clock: MockClock) -> None:
    """A newcomer gets it when the pool's patience is over: with slow tools more run than there are lanes."""
    meter = Meter()
    in_line: list[int] = []

    async def agent(conversation: wspool.Conversation, task: dict[str, Any]) -> object:
        async def lookup(key: str) -> str:
            in_line.append(pool.statistics().waiting)
            await trio.sleep(20)
            return "7"

        return await conversation.run(task["input"], tools={"lookup": lookup})

    async with pool_of(meter, Asking()) as pool:
        began = trio.current_time()
        summary = await run(pool, meter, agent)
        took = trio.current_time() - began

    assert summary.done == TASKS
    assert max(in_line) <= CONNECTIONS
    assert took < 68  # three calls, and the pool's patience once for each lane more that is needed
    assert summary.wait_p95 is not None
    assert summary.wait_p95 < 0.5


async def test_who_has_something_else_to_do_first_is_begun_at_once(autojump_clock: MockClock) -> None:
    """A container may take a minute to start: all of them start together."""
    meter = Meter()
    begun: list[float] = []

    async def agent(conversation: wspool.Conversation, task: dict[str, Any]) -> object:
        begun.append(trio.current_time() - began)
        await trio.sleep(60)
        return await conversation.respond(task["input"])

    async with pool_of(meter) as pool:
        began = trio.current_time()
        await run(pool, meter, agent)

    assert max(begun) < 1


async def test_short_tasks_keep_every_connection_at_work(autojump_clock: MockClock) -> None:
    """Of one turn each."""
    meter = Meter()

    async def agent(conversation: wspool.Conversation, task: dict[str, Any]) -> object:
        return await conversation.respond(task["input"])

    async with pool_of(meter) as pool:
        began = trio.current_time()
        await run(pool, meter, agent, 400)
        took = trio.current_time() - began

    assert took < 1.02 * 400 / CONNECTIONS * WORD
