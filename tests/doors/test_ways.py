"""Taken the wrong way, with `async` or without, or in the wrong world: one sentence says what to take."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from typing import Any

import pytest
import trio

import wspool
from tests.doors.conftest import Far
from tests.striking import KINDS
from wspool import aio, blocking
from wspool.http import AsyncPoolTransport, PoolTransport
from wspool.pool.ways import surely

POLICY = wspool.PoolPolicy(max_size=2, min_idle=0)
URL = "ws://localhost/v1/responses"
NATIVE = r"'async with': with wspool\.aio in asyncio, with wspool\.blocking in plain threads"
AIO = r"'async with': without async, take wspool\.blocking"
PLAIN = r"plain 'with': with async, take wspool itself in trio, wspool\.aio in asyncio"
NEVER_WAITS = r"plain 'with', for it never waits: lease\(\) does"


def plainly(block: Any) -> None:
    """Enter it as one without async."""
    with block:
        raise AssertionError("it was entered")


def in_trio(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    trio.run(main)


def in_asyncio(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(main())


def told(block: Any, sentence: str) -> None:
    """It is refused without async."""
    with pytest.raises(TypeError, match=sentence):
        plainly(block)


async def blocks(stack: AsyncExitStack, opened: Any) -> tuple[list[Any], Any]:
    """Return each block that waits to be entered of a pool, and the one that does not."""
    pool = await stack.enter_async_context(opened)
    talk = await stack.enter_async_context(pool.conversation(model="m"))
    lease = await stack.enter_async_context(pool.lease())
    made = [pool.lease(), pool.conversation(), talk.fork(), talk.turn("x"), lease.create(model="m")]
    return [*made, pool.turn({"model": "m", "input": "x"})], pool.lease_nowait()


@pytest.mark.parametrize(
    ("run", "world", "sentence"), [(in_trio, wspool, NATIVE), (in_asyncio, aio, AIO)], ids=["trio", "aio"]
)
def test_with_where_async_with_is_meant(far: Far, run: Any, world: Any, sentence: str) -> None:
    """Of every block, and nothing has happened: it can be entered as it should be."""
    told(world.open_pool(URL), sentence)

    async def main() -> None:
        async with AsyncExitStack() as stack:
            opened = world.open_pool(far.url, policy=POLICY)
            told(opened, sentence)
            waiting, held = await blocks(stack, opened)
            for block in waiting:
                told(block, sentence)
                with pytest.raises(TypeError, match=sentence):
                    ExitStack().enter_context(block)
            with pytest.raises(TypeError, match="it never waits"):
                async with held:
                    pass
            turn = waiting[3]
            with pytest.raises(TypeError, match=sentence.replace("with'", "for'")):
                list(turn)
            async with turn:
                assert [event async for event in turn]

    run(main)


def test_async_with_where_with_is_meant(far: Far) -> None:
    """The same the other way round."""

    async def enter(block: Any) -> None:
        async with block:
            raise AssertionError("it was entered")

    async def read(turn: Any) -> None:
        async for _ in turn:
            raise AssertionError("it was read")

    with blocking.open_pool(far.url) as pool, pool.conversation(model="m") as talk, pool.lease() as lease:
        turn = talk.turn("x")
        made = [pool.lease(), pool.conversation(), talk.fork(), turn, lease.create(model="m")]
        for block in [blocking.open_pool(URL), *made, pool.turn({"model": "m", "input": "x"})]:
            for run in (in_trio, in_asyncio):
                with pytest.raises(TypeError, match=PLAIN):
                    run(partial(enter, block))
        with pytest.raises(TypeError, match=NEVER_WAITS):
            asyncio.run(enter(pool.lease_nowait()))
        with pytest.raises(TypeError, match=PLAIN.replace("with'", "for'", 1)):
            asyncio.run(read(turn))
        with turn:
            assert list(turn)


def test_transports_say_it_too() -> None:
    """As clients enter theirs."""
    told(AsyncPoolTransport(), "'async with': without async, take a Client with a PoolTransport")

    async def main() -> None:
        async with PoolTransport():  # type: ignore[attr-defined] # the point of it
            pass

    with pytest.raises(TypeError, match="plain 'with': with async, take an AsyncClient with an Async"):
        asyncio.run(main())


ENTRIES: dict[str, Callable[[aio.Pool, aio.Conversation, aio.Turn], Awaitable[Any]]] = {
    "open_pool": lambda *_: aio.open_pool(URL).__aenter__(),
    "open_pool with a key function": lambda *_: aio.open_pool(URL, api_key=lambda: "key").__aenter__(),
    "acquire": lambda pool, *_: pool.acquire(),
    "lease": lambda pool, *_: pool.lease().__aenter__(),
    "wait_ready": lambda pool, *_: pool.wait_ready(),
    "aclose": lambda pool, *_: pool.aclose(),
    "conversation": lambda pool, *_: pool.conversation().__aenter__(),
    "respond": lambda _, talk, *__: talk.respond("x"),
    "run": lambda _, talk, *__: talk.run("x", tools={"one": lambda: "1"}),
    "compact": lambda _, talk, *__: talk.compact(),
    "turn": lambda _, talk, *__: talk.turn("x").__aenter__(),
    "turn that brings its history": lambda pool, *_: pool.turn({"model": "m", "input": "x"}).__aenter__(),
    "anext": lambda *of: anext(of[2]),
    "result": lambda *of: of[2].result(),
    "steer": lambda *of: of[2].steer("x"),
}


@pytest.mark.parametrize("where", ["trio", "guest", "nothing"])
def test_aio_says_so_where_there_is_no_asyncio(far: Far, where: str) -> None:
    """In trio, also one that is the guest of a loop, and where nothing runs: before anything was asked."""

    async def main() -> None:
        async with (
            aio.open_pool(far.url, policy=POLICY) as pool,
            pool.conversation(model="m") as talk,
            talk.turn("wait") as turn,
        ):
            while (await anext(turn)).type != "response.in_progress":
                pass

            async def enter(name: str) -> None:
                with pytest.raises(
                    wspool.ForeignUseError, match=r"asyncio: take wspool itself in trio"
                ) as told:
                    await ENTRIES[name](pool, talk, turn)
                assert "wspool.blocking in plain threads" in str(told.value)

            async def enter_all() -> None:
                for name in ENTRIES:
                    await enter(name)

            before = pool.statistics().turns
            await elsewhere(where, enter_all)
            assert pool.statistics().turns == before

    asyncio.run(main())


async def elsewhere(where: str, work: Callable[[], Awaitable[None]]) -> None:
    """Do *work* in that world, from within asyncio."""
    if where == "trio":
        await asyncio.to_thread(trio.run, work)
    elif where == "guest":
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        outcomes: list[Any] = []

        def done(outcome: Any) -> None:
            outcomes.append(outcome)
            ended.set()

        trio.lowlevel.start_guest_run(
            work, run_sync_soon_threadsafe=loop.call_soon_threadsafe, done_callback=done
        )
        await ended.wait()
        outcomes[0].unwrap()
    else:

        def alone() -> None:
            with pytest.raises(StopIteration):
                work().__await__().send(None)

        await asyncio.to_thread(alone)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_left_is_left_whatever_a_handler_of_a_signal_raises(kind: type[BaseException]) -> None:
    """It comes out when it has been left."""
    left: list[str] = []

    def leave(what: str) -> None:
        left.append(what)
        if len(left) == 1:
            raise kind

    with pytest.raises(kind):
        surely(leave, "it")
    assert left == ["it", "it"]
