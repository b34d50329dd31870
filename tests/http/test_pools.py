"""The pools of a door: which there are, and which endpoints are not asked."""

from __future__ import annotations

import trio

from tests.helpers import FakeConnector, echo, policy
from wspool.errors import WebSocketNotOfferedError
from wspool.http.identity import Asked, Identity
from wspool.http.pools import NOT_OFFERED, Pools
from wspool.pool.exchange import Limits, Outlet
from wspool.wire.wire import ConnectError

WHO = Identity("wss://models.example/v1/responses", (), "sk-none")


async def ask(pools: Pools) -> Outlet:
    outlet = Outlet()
    await pools.perform(Asked(WHO, {"model": "m", "input": "x"}, ()), outlet, Limits())
    return outlet


async def test_an_endpoint_without_websockets_is_asked_every_five_minutes(autojump_clock) -> None:
    """Again and again, not only the first time; and once it offers them it is used."""
    connector = FakeConnector(echo)
    connector.failure = lambda: ConnectError("upgrade refused", phase="upgrade", status=426)
    async with trio.open_nursery() as nursery:
        pools = Pools({"wire": connector, "policy": policy()}, nursery=nursery)
        for _ in range(240):
            assert isinstance((await ask(pools)).error, WebSocketNotOfferedError)
            await trio.sleep(NOT_OFFERED / 60)
        asked = connector.dials
        connector.failure = None
        await trio.sleep(NOT_OFFERED)
        answered = await ask(pools)
        pools.close()

    assert 4 == asked
    assert (None, 200) == (answered.error, answered.head and answered.head.status)
