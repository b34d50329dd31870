"""Affinity: a conversation goes on where the server remembers it, though nobody keeps its lane for it."""

from __future__ import annotations

import trio
import trio.testing

from tests.helpers import FakeConnector, echo, fake_pool, policy, serving
from wspool.server import EchoModel


async def test_a_lease_is_of_the_lane_that_remembers_what_is_preferred(autojump_clock) -> None:
    """And it says so; a lane that remembers something else is any lane."""
    connector = FakeConnector(echo)
    async with fake_pool(connector, limits=policy(max_size=3)) as pool:
        async with pool.lease() as one, pool.lease() as two, pool.lease():
            async with one.create(model="m", input="x") as turn:
                first = (await turn.result()).id
            async with two.create(model="m", input="x") as turn:
                second = (await turn.result()).id
            numbers = {first: one.connection, second: two.connection}

        for name in (second, first):
            async with pool.lease(prefer=name) as lease:
                assert (True, numbers[name]) == (lease.resumed, lease.connection)
        taken = await pool.acquire(prefer=first)
        async with pool.lease(prefer=first) as lease:
            assert not lease.resumed
        async with pool.lease() as lease:
            assert not lease.resumed
        taken.release()


async def test_who_waits_for_any_lane_may_get_the_one_that_it_prefers(autojump_clock) -> None:
    """It says so as well if it had to wait."""
    async with fake_pool(FakeConnector(echo), limits=policy(max_size=1)) as pool:
        async with pool.lease() as lease, lease.create(model="m", input="x") as turn:
            name = (await turn.result()).id
        holder = await pool.acquire()

        async def come_back() -> None:
            async with pool.lease(prefer=name) as again:
                assert again.resumed

        async with trio.open_nursery() as nursery:
            nursery.start_soon(come_back)
            await trio.testing.wait_all_tasks_blocked()
            holder.release()


async def test_a_conversation_is_given_a_lane_that_is_warm_for_it(autojump_clock) -> None:
    """Its first turn goes on from the warm-up; that of one with another model is a request like any other."""
    async with (
        serving(EchoModel()) as world,
        world.pool(limits=policy(max_size=2, min_idle=2), warm_up={"model": "m"}) as pool,
    ):
        await pool.wait_ready()
        async with pool.lease() as used, used.create(model="m", input="x", store=False) as turn:
            await turn.result()
        async with pool.conversation(model="other") as other, pool.conversation(model="m") as conversation:
            assert pool.statistics().idle == 2
            await conversation.respond("hello")
            await other.respond("hello")

    assert [False, True, False] == [entry["previous_response_id"] is not None for entry in world.model_turns]
