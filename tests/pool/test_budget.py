"""Budget: what the turns of many conversations may cost, whoever is in line, however they end."""

from __future__ import annotations

import pytest
import trio
import trio.testing

import wspool
from tests.helpers import FakeConnector, completed, created, echo, fake_pool, policy, serving
from wspool.server import EchoModel

SILENT = "never answered"


async def test_what_is_in_line_when_it_is_spent_is_not_sent(autojump_clock) -> None:
    """Twenty agents on four connections share one: as many turns are sent as it has, and not one more."""
    budget = wspool.Budget(max_turns=40)
    told: list[str] = []
    async with serving(EchoModel()) as world, world.pool(limits=policy(max_size=4)) as pool:

        async def work() -> None:
            async with pool.conversation(model="m", budget=budget) as conversation:
                try:
                    while True:
                        await conversation.respond("go on")
                except wspool.BudgetExceededError as error:
                    told.append(f"{error} [{error.delivery}]")

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(work)
        assert 0 == pool.statistics().leased
        assert 40 == len(world.ledger)

    assert 20 * ["the budget is spent: turns 40 of 40; nothing more is sent [not_sent]"] == told
    assert 40 == budget.turns


@pytest.mark.parametrize("reads", [True, False])
async def test_what_a_turn_has_used_is_spent_before_its_lane_is_anybody_elses(
    autojump_clock: object, reads: bool
) -> None:
    """Whoever was in line for that lane is not sent, however long the caller takes to read."""
    usage = {"input_tokens": 60, "output_tokens": 60, "total_tokens": 120}
    connector = FakeConnector(
        lambda wire, request: wire.push(
            created("r"), {**completed("r"), "response": {**completed("r")["response"], "usage": usage}}
        )
    )
    budget, told = wspool.Budget(max_tokens=100), list[str]()
    async with fake_pool(connector, limits=policy(max_size=1)) as pool:

        async def ask() -> None:
            async with pool.conversation(model="m", budget=budget) as conversation:
                try:
                    async with conversation.turn("x") as turn:
                        if reads:
                            async for _ in turn:
                                await trio.sleep(10)
                        told.append((await turn.result()).status)
                except wspool.BudgetExceededError as error:
                    told.append(error.delivery)
                assert conversation.statistics().usage.total in (0, 120)

        async with trio.open_nursery() as nursery, pool.lease():
            for _ in range(8):
                nursery.start_soon(ask)
            await trio.sleep(1)

    assert ["completed", *7 * ["not_sent"]] == sorted(told)
    assert (1, 120) == (len(connector.wire.requests), budget.spent.total)


async def test_what_a_caller_sums_up_in_a_response_is_not_counted_again(autojump_clock) -> None:
    """Its usage is the caller's own as soon as it was given, though it is read only when somebody looks."""
    async with (
        serving(EchoModel()) as world,
        world.pool() as pool,
        pool.conversation(model="m") as conversation,
    ):
        first = (await conversation.respond("one")).usage
        second = (await conversation.respond("two")).usage
        assert first is not None
        assert second is not None
        expected = wspool.Usage.of(first, second)
        first["input_tokens"] += second["input_tokens"]
        first["input_tokens_details"]["cached_tokens"] = 1

        assert expected == conversation.statistics().usage


async def test_a_turn_that_is_left_in_line_was_none(autojump_clock) -> None:
    """One that was sent is one, though nobody waits for its end."""
    budget = wspool.Budget()
    connector = FakeConnector(lambda *_: None)
    async with (
        fake_pool(connector, limits=policy(max_size=1)) as pool,
        pool.conversation(model="m", budget=budget) as one,
        pool.conversation(model="m", budget=budget) as two,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(one.respond, SILENT)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(two.respond, SILENT)
        await trio.testing.wait_all_tasks_blocked()
        assert 1 == budget.turns
        nursery.cancel_scope.cancel()

    assert 1 == budget.turns


async def test_nothing_is_compacted_once_it_is_spent(autojump_clock) -> None:
    """A compaction costs tokens as well."""
    budget = wspool.Budget(max_turns=1)
    async with (
        fake_pool(FakeConnector(echo)) as pool,
        pool.conversation(model="m", budget=budget) as conversation,
    ):
        await conversation.respond("hello")
        with pytest.raises(wspool.BudgetExceededError, match="turns 1 of 1"):
            await conversation.compact()
