"""An endpoint that refuses everybody, without a word of whose trouble that is."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

import wspool
from tests.helpers import FakeConnector, error_frame, fake_pool, policy


@asynccontextmanager
async def two_pools(instrument: wspool.Instrument) -> AsyncGenerator[Callable[[], Awaitable[wspool.Pool]]]:
    """Open two pools of it; what is given has three turns refused, and returns the pool that waits longer."""
    connector = FakeConnector(lambda wire, _: wire.push(error_frame("server_error", 500)))
    limits = policy(refusal_patience=1000.0)

    async def ask(pool: wspool.Pool) -> None:
        async with pool.conversation(model="m") as conversation:
            await conversation.respond("x")

    async with (
        fake_pool(connector, limits=limits, instrument=instrument) as one,
        fake_pool(connector, limits=limits, instrument=instrument) as other,
        trio.open_nursery() as nursery,
    ):

        async def refused() -> wspool.Pool:
            for pool in (one, one, other):
                nursery.start_soon(ask, pool)
                await trio.sleep(50)
            return one

        yield refused
        nursery.cancel_scope.cancel()
