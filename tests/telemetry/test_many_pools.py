"""One instrument for many pools that come and go, as those of a proxy, which has one for each key."""

from __future__ import annotations

import weakref

import pytest

import wspool
from tests.garbage import collect
from tests.helpers import FakeConnector, echo, fake_pool, policy
from tests.telemetry.test_overhead import INSTRUMENTS, missing

POOLS = 120


@pytest.mark.parametrize("name", INSTRUMENTS)
async def test_pools_that_are_closed_are_let_go(name: str, autojump_clock) -> None:
    """Though nobody scrapes or collects."""
    if (library := missing(name)) is not None:
        pytest.skip(f"{library} is not installed")
    instrument = INSTRUMENTS[name][1]()

    closed: list[weakref.ref[wspool.Pool]] = []
    for number in range(4):
        async with (
            fake_pool(FakeConnector(echo), limits=policy(max_size=1), instrument=instrument) as pool,
            pool.conversation(model="m") as conversation,
        ):
            await conversation.respond(f"{number}")
            closed.append(weakref.ref(pool))
        del pool, conversation
    async with fake_pool(FakeConnector(echo), instrument=instrument):
        collect()
        assert [None] * 4 == [each() for each in closed]


async def test_a_model_keeps_its_name_however_many_pools_there_were(autojump_clock) -> None:
    """It is models that are bounded in number, not models times pools."""
    pytest.importorskip("opentelemetry.sdk.metrics", reason="opentelemetry-sdk")
    from tests.telemetry.test_otel import Sdk

    sdk = Sdk()
    for _ in range(POOLS):
        async with (
            fake_pool(FakeConnector(echo), limits=policy(max_size=1), instrument=sdk.instrument) as pool,
            pool.conversation(model="m") as conversation,
        ):
            await conversation.respond("x")
    points = sdk.points()

    (duration,) = points["gen_ai.client.operation.duration"]
    assert (POOLS, "m") == (duration.count, duration.attributes["gen_ai.request.model"])
    (turns,) = points["wspool.turns"]
    assert (POOLS, "localhost:80") == (turns.value, turns.attributes["wspool.pool.name"])
