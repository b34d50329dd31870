"""An interrupt at any line of a door, caught by the program: no lane, turn or pool is left to nobody."""

from __future__ import annotations

import asyncio
import functools
import itertools
import zlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Final

import pytest
import trio

import wspool
from tests.doors.conftest import Far
from tests.striking import Striker, interrupted, interrupted_async
from wspool import aio, bells, blocking, blocks, facade, runtime
from wspool.pool import handover, ways
from wspool.runtime import Runtime

POLICY: Final = wspool.PoolPolicy(max_size=2, min_idle=0)
TOOLS: Final = [{"type": "function", "name": "one", "parameters": {"type": "object", "properties": {}}}]

#: What a caller's thread runs, after what is given was looked at.
SHARED: Final = (blocks, facade, runtime, bells, handover, ways)

#: What waits for ever, of the acts that do.
LAST: Final = {
    "stream_for_ever": "__next__",
    "stream_for_ever_async": "__anext__",
    "wait_for_ever_async": "wait_for_ever_async",
}

#: Of so many lines one is interrupted, and which is the first is drawn from the name of the act. With 1 here
#: each is.
STRIDE: Final = 9


def places(name: str) -> Iterator[int]:
    """The lines at which that act is interrupted."""
    return itertools.count(1 + zlib.crc32(name.encode()) % STRIDE, STRIDE)


def tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


# -- in a thread ----------------------------------------------------------------------------------


def respond(pool: blocking.Pool, talk: blocking.Conversation, url: str) -> None:
    talk.respond("x")


def stream(pool: blocking.Pool, talk: blocking.Conversation, url: str) -> None:
    with talk.turn("x") as turn:
        for _ in turn:
            pass


def stream_for_ever(pool: blocking.Pool, talk: blocking.Conversation, url: str) -> None:
    with talk.turn("wait") as turn:
        for _ in turn:
            pass


def leave_early(pool: blocking.Pool, talk: blocking.Conversation, url: str) -> None:
    with talk.turn("x") as turn:
        next(turn)


def branch(pool: blocking.Pool, talk: blocking.Conversation, url: str) -> None:
    with talk.fork() as other, other.turn("x") as turn:
        turn.result()


def lease(pool: blocking.Pool, talk: blocking.Conversation, url: str) -> None:
    with pool.lease() as lease, lease.create(model="m", input="x") as turn:
        turn.result()


def lease_nowait(pool: blocking.Pool, talk: blocking.Conversation, url: str) -> None:
    with suppress(trio.WouldBlock), pool.lease_nowait():
        pass


def acquire(pool: blocking.Pool, talk: blocking.Conversation, url: str) -> None:
    lease = pool.acquire()
    try:
        pass
    finally:
        lease.release()


def open_another(pool: blocking.Pool, talk: blocking.Conversation, url: str) -> None:
    with blocking.open_pool(url, policy=wspool.PoolPolicy(max_size=1, min_idle=0)):
        pass


ACTS: Final = (
    respond,
    stream,
    stream_for_ever,
    leave_early,
    branch,
    lease,
    lease_nowait,
    acquire,
    open_another,
)


@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.__name__)
def test_one_that_is_caught_costs_nothing(far: Far, act: Callable[..., None]) -> None:
    """The conversation goes on."""
    before = Runtime.shared().run_sync(tasks)
    with blocking.open_pool(far.url, policy=POLICY) as pool:
        for at in places(act.__name__):
            striker = Striker(at, (blocking, *SHARED), last=LAST.get(act.__name__))
            with pool.conversation(model="m") as talk:
                interrupted(striker, functools.partial(act, pool, talk, far.url))
                if not striker.reached:
                    break
                assert "after" == talk.respond("after").output_text, striker.where
            assert (0, 0) == (pool.statistics().leased, pool.statistics().in_flight), striker.where
            if striker.is_last:
                break
    assert before == Runtime.shared().run_sync(tasks)


# -- in a task of asyncio -------------------------------------------------------------------------


async def respond_async(pool: aio.Pool, talk: aio.Conversation, url: str) -> None:
    await talk.respond("x")


async def call_tools_async(pool: aio.Pool, talk: aio.Conversation, url: str) -> None:
    async def one() -> str:
        return "1"

    await talk.run("call one", tools={"one": one})


async def stream_async(pool: aio.Pool, talk: aio.Conversation, url: str) -> None:
    async with talk.turn("x") as turn:
        async for _ in turn:
            pass


async def wait_for_ever_async(pool: aio.Pool, talk: aio.Conversation, url: str) -> None:
    await talk.respond("wait")


async def stream_for_ever_async(pool: aio.Pool, talk: aio.Conversation, url: str) -> None:
    async with talk.turn("wait") as turn:
        async for _ in turn:
            pass


async def leave_early_async(pool: aio.Pool, talk: aio.Conversation, url: str) -> None:
    async with talk.turn("x") as turn:
        await anext(turn)


async def branch_async(pool: aio.Pool, talk: aio.Conversation, url: str) -> None:
    async with talk.fork() as other, other.turn("x") as turn:
        await turn.result()


async def lease_async(pool: aio.Pool, talk: aio.Conversation, url: str) -> None:
    async with pool.lease() as lease, lease.create(model="m", input="x") as turn:
        await turn.result()


async def lease_nowait_async(pool: aio.Pool, talk: aio.Conversation, url: str) -> None:
    with suppress(trio.WouldBlock), pool.lease_nowait():
        pass


async def acquire_async(pool: aio.Pool, talk: aio.Conversation, url: str) -> None:
    lease = await pool.acquire()
    try:
        pass
    finally:
        lease.release()


async def open_another_async(pool: aio.Pool, talk: aio.Conversation, url: str) -> None:
    async with aio.open_pool(url, policy=wspool.PoolPolicy(max_size=1, min_idle=0)):
        pass


ASYNC_ACTS: Final = (
    respond_async,
    call_tools_async,
    stream_async,
    wait_for_ever_async,
    stream_for_ever_async,
    leave_early_async,
    branch_async,
    lease_async,
    lease_nowait_async,
    acquire_async,
    open_another_async,
)


@pytest.mark.parametrize("act", ASYNC_ACTS, ids=lambda act: act.__name__)
def test_one_that_a_task_catches_costs_nothing(far: Far, act: Callable[..., Awaitable[None]]) -> None:
    """As in a notebook: it comes out of the line that the task is at. One in the loop itself ends that."""
    before = Runtime.shared().run_sync(tasks)

    async def main() -> None:
        here = asyncio.current_task()
        async with asyncio.timeout(60), aio.open_pool(far.url, policy=POLICY) as pool:
            for at in places(act.__name__):
                striker = Striker(
                    at,
                    (aio, *SHARED),
                    last=LAST.get(act.__name__),
                    is_open=lambda: asyncio.current_task() is here,
                )
                async with pool.conversation(model="m", tools=TOOLS) as talk:
                    await interrupted_async(striker, functools.partial(act, pool, talk, far.url))
                    if not striker.reached:
                        return
                    talk.edit([])  # a loop of tools that was ended owes their outputs
                    assert "after" == (await talk.respond("after")).output_text, striker.where
                assert (0, 0) == (pool.statistics().leased, pool.statistics().in_flight), striker.where
                if striker.is_last:
                    return

    asyncio.run(main())
    assert before == Runtime.shared().run_sync(tasks)
