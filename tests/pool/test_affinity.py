"""Affinity: a conversation goes on where the server remembers it, though nobody keeps its lane for it."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio
import trio.testing

import wspool
from tests.helpers import FakeConnector, echo, fake_pool, policy, serving
from wspool.core.lending.affinity import Use
from wspool.server import EchoModel, ModelRequest, ModelTurn, function_call


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


async def test_newcomers_do_not_wait_for_those_who_have_finished(autojump_clock) -> None:
    """Eight conversations have had their answer on eight connections; 24 others ask one thing each."""
    limits = policy(max_size=8, patience=1000.0)
    async with fake_pool(FakeConnector(echo), limits=limits) as pool, AsyncExitStack() as stack:
        finished = [await stack.enter_async_context(pool.conversation(model="m")) for _ in range(8)]
        for conversation in finished:
            await conversation.respond("hello")
        assert (0, 8) == (pool.statistics().leased, pool.statistics().idle)

        async def ask() -> None:
            async with pool.conversation(model="m") as conversation:
                await conversation.respond("hello")

        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(24):
                nursery.start_soon(ask)
        assert trio.current_time() - began < 0.1
        assert 0 == pool.statistics().stolen


async def test_who_gave_its_lane_back_and_returns_sends_only_what_is_new(autojump_clock) -> None:
    """Eight conversations on eight connections, three more turns each, in any order."""
    async with fake_pool(FakeConnector(echo), limits=policy(max_size=8)) as pool, AsyncExitStack() as stack:
        them = [await stack.enter_async_context(pool.conversation(model="m")) for _ in range(8)]
        async with trio.open_nursery() as nursery:
            for conversation in them:
                nursery.start_soon(conversation.respond, "hello")
        for order in (1, -1, 3):
            for number in range(8):
                await them[number * order % 8].respond("again")
        counts = [(each.statistics().full_turns, each.statistics().delta_turns) for each in them]
        assert [(1, 3)] * 8 == counts
        assert 0 == sum(each.statistics().moves for each in them)


async def test_who_is_over_makes_room_first(autojump_clock) -> None:
    """Of those that have had their answer the closed one is forgotten, though it was there last."""
    async with (
        fake_pool(FakeConnector(echo), limits=policy(max_size=2)) as pool,
        pool.conversation(model="m") as stays,
    ):
        await stays.respond("hello")
        async with pool.conversation(model="m") as leaves:
            await leaves.respond("hello")
        async with pool.conversation(model="m") as newcomer:
            await newcomer.respond("hello")
            await stays.respond("again")

        assert (1, 1) == (stays.statistics().full_turns, stays.statistics().delta_turns)


async def test_an_answer_that_does_not_count_is_not_remembered_for_anybody(autojump_clock) -> None:
    """Its turn was left before its end was read: the lane is nobody's loss."""
    async with (
        fake_pool(FakeConnector(echo), limits=policy(max_size=1)) as pool,
        pool.conversation(model="m") as conversation,
    ):
        async with conversation.turn("hello"):
            await trio.testing.wait_all_tasks_blocked()
        ((use, *_),) = pool._shell.core._roster.affinity.idle
        assert Use.OVER is Use(use)
        assert [] == conversation.items


async def test_a_conversation_whose_connection_went_while_it_was_away_says_why(autojump_clock) -> None:
    """It gave its lane back; that ended by itself, or because the pool had done with it."""
    reasons: list[str] = []

    class Watch(wspool.Instrument):
        def conversation_moved(self, move: wspool.Move) -> None:
            reasons.append(move.reason)

    connector = FakeConnector(echo)
    async with (
        fake_pool(connector, limits=policy(max_size=1), instrument=Watch()) as pool,
        pool.conversation(model="m") as conversation,
    ):
        await conversation.respond("one")
        connector.wire.hang_up()
        await trio.testing.wait_all_tasks_blocked()
        await conversation.respond("two")
        pool.clear()
        await conversation.respond("three")

    assert ["lost", "rotation"] == reasons


class Worker:
    """A model that calls a tool in each turn, and thinks for as long as it is told."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def respond(self, request: ModelRequest) -> ModelTurn:
        """Call the tool."""
        return ModelTurn(output=[function_call("work", {})], delay=self.seconds)


@pytest.mark.parametrize(
    ("tools", "least", "deltas"),
    [pytest.param(1.9, 180, 0.0, id="long"), pytest.param(0.05, 180, 0.8, id="short")],
)
async def test_a_wait_is_weighed_against_a_full_send(
    tools: float, least: int, deltas: float, autojump_clock
) -> None:
    """40 conversations on 10 connections, turns of two seconds: long tools give their lanes up, short do not.

    With all lanes at work all the time there would be 200 turns in 40 s.
    """
    turns = [0] * 40
    full: list[bool] = []

    class Watch(wspool.Instrument):
        def turn_ended(self, record: wspool.TurnRecord) -> None:
            if record.requests:  # not who was still in line
                full.append(record.full)

    async with (
        serving(Worker(2.0)) as world,
        world.pool(limits=wspool.PoolPolicy(max_size=10, min_idle=0), instrument=Watch()) as pool,
    ):

        async def work(number: int) -> None:
            async with pool.conversation(model="m") as conversation:
                said: Any = "hello"
                while True:
                    response = await conversation.respond(said)
                    turns[number] += 1
                    await trio.sleep(tools)
                    call = response.output[0]
                    said = [{"type": "function_call_output", "call_id": call["call_id"], "output": "done"}]

        with trio.move_on_after(40):
            async with trio.open_nursery() as nursery:
                for number in range(40):
                    nursery.start_soon(work, number)

    assert sum(turns) >= least
    assert deltas or min(turns) >= 1, "somebody has starved"
    assert full.count(False) / len(full) >= deltas


@pytest.mark.parametrize("room", [None, 600.0], ids=["no pace", "a pace"])
async def test_who_comes_back_does_not_wait_behind_those_who_have_no_lane(
    room: float | None, autojump_clock
) -> None:
    """56 conversations on 8 connections, seven fast turns each: a pace changes nothing while lanes are few.

    Were those in line at work, who is to come back to a kept lane would wait for them, and they for the lane.
    """
    full: list[bool] = []

    class Watch(wspool.Instrument):
        def turn_ended(self, record: wspool.TurnRecord) -> None:
            full.append(record.full)

    limits = wspool.PoolPolicy(max_size=8, min_idle=0, refusal_patience=room)
    began = trio.current_time()
    async with serving(Worker(0.02)) as world, world.pool(limits=limits, instrument=Watch()) as pool:

        async def work() -> None:
            async with pool.conversation(model="m") as conversation:
                said: Any = "hello"
                for _ in range(7):
                    response = await conversation.respond(said)
                    await trio.sleep(0.005)
                    call = response.output[0]
                    said = [{"type": "function_call_output", "call_id": call["call_id"], "output": "done"}]

        async with trio.open_nursery() as nursery:
            for _ in range(56):
                nursery.start_soon(work)
        took = trio.current_time() - began
        assert 0 == pool.statistics().waiting

    assert 7 * 56 == len(full)
    # 69 to 78 by the luck of the scheduler; were those in line at work: 200.
    assert full.count(True) <= 90
    assert took < 7.0
