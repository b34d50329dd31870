"""An interrupt at any line of a transport, caught by the program: its lease is back at once."""

from __future__ import annotations

import asyncio
import functools
import itertools
import zlib
from collections.abc import Awaitable, Callable, Generator, Iterator
from typing import Any, Final

import pytest

import wspool.http
from tests.doors.conftest import ToolModel
from tests.http.test_transport import KEY, ONE, body, leases, wait_for
from tests.striking import Striker, interrupted, interrupted_async
from wspool import bells, runtime as running
from wspool.http import bodies, transport
from wspool.pool import exchange, handover, ways
from wspool.runtime import Runtime
from wspool.testing.local import LocalServer, local_server

pytestmark = pytest.mark.network

#: What a caller's thread runs once a request is read.
DOOR: Final = (transport, bodies, bells, exchange, handover, ways, running)

#: Of so many lines one is interrupted, and which is the first is drawn from the name of the act. With 1 here
#: each is.
STRIDE: Final = 5

#: What waits for ever, of the acts that do.
LAST: Final = {"ask_for_ever": "ask_for_ever", "ask_for_ever_async": "ask_for_ever_async"}


@pytest.fixture
def runtime() -> Generator[Runtime]:
    it = Runtime()
    yield it
    it.close()


def sending(text: str, **more: Any) -> dict[str, Any]:
    """What is sent. Of "wait" the first events come, and then none for an hour."""
    return {"json": body(input=text, **more), "headers": KEY, "timeout": None}


def places(name: str) -> Iterator[int]:
    """The lines at which that act is interrupted."""
    return itertools.count(1 + zlib.crc32(name.encode()) % STRIDE, STRIDE)


# -- in a thread ----------------------------------------------------------------------------------


def ask(client: Any, url: str) -> None:
    client.post(url, **sending("x"))


def ask_for_ever(client: Any, url: str) -> None:
    client.post(url, **sending("wait"))


def read(client: Any, url: str) -> None:
    with client.stream("POST", url, **sending("a b c", stream=True)) as response:
        response.read()


def leave_early(client: Any, url: str) -> None:
    with client.stream("POST", url, **sending("wait", stream=True)):
        pass


def drop(client: Any, url: str) -> None:
    client.send(client.build_request("POST", url, **sending("wait", stream=True)), stream=True)


@pytest.mark.parametrize("act", [ask, ask_for_ever, read, leave_early, drop], ids=lambda act: act.__name__)
def test_one_that_is_caught_costs_no_lane(runtime: Runtime, act: Callable[..., None]) -> None:
    with (
        local_server(model=ToolModel()) as server,
        wspool.http.client(runtime=runtime, policy=ONE) as client,
    ):
        ask(client, server.http_url)
        for at in places(act.__name__):
            striker = Striker(at, DOOR, last=LAST.get(act.__name__))
            interrupted(striker, functools.partial(act, client, server.http_url))
            assert 0.5 > wait_for(runtime, lambda: leases(client) == 0), striker.where
            if striker.is_last or not striker.reached:
                break
        ask(client, server.http_url)


# -- in a task of asyncio -------------------------------------------------------------------------


async def ask_async(client: Any, url: str) -> None:
    await client.post(url, **sending("x"))


async def ask_for_ever_async(client: Any, url: str) -> None:
    await client.post(url, **sending("wait"))


async def read_async(client: Any, url: str) -> None:
    async with client.stream("POST", url, **sending("a b c", stream=True)) as response:
        await response.aread()


async def leave_early_async(client: Any, url: str) -> None:
    async with client.stream("POST", url, **sending("wait", stream=True)):
        pass


async def drop_async(client: Any, url: str) -> None:
    await client.send(client.build_request("POST", url, **sending("wait", stream=True)), stream=True)


ASYNC_ACTS: Final = (ask_async, ask_for_ever_async, read_async, leave_early_async, drop_async)


@pytest.mark.parametrize("act", ASYNC_ACTS, ids=lambda act: act.__name__)
def test_one_that_a_task_catches_costs_no_lane(runtime: Runtime, act: Callable[..., Awaitable[None]]) -> None:
    """It comes out of the line that the task is at."""

    async def main(server: LocalServer) -> None:
        here = asyncio.current_task()
        async with wspool.http.async_client(runtime=runtime, policy=ONE) as client:
            await ask_async(client, server.http_url)
            for at in places(act.__name__):
                striker = Striker(
                    at,
                    DOOR,
                    last=LAST.get(act.__name__),
                    is_open=lambda: asyncio.current_task() is here,
                )
                await interrupted_async(striker, functools.partial(act, client, server.http_url))
                assert 0.5 > wait_for(runtime, lambda: leases(client) == 0), striker.where
                if striker.is_last or not striker.reached:
                    break
            await ask_async(client, server.http_url)

    with local_server(model=ToolModel()) as server:
        asyncio.run(main(server))
