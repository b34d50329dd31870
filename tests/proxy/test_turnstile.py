"""Whose turn is next: shares by weight, limits, and no place that is lost."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, strategies as st

from wspool.core.lending.line import MAX_SKIPS
from wspool.proxy.access.turnstile import Turnstile


async def order_of(turnstile: Turnstile, asked: list[str], **of: Mapping[str, Any]) -> list[str]:
    """Ask for all at once, each for a second; return who passed, in order."""
    passed: list[str] = []

    async def one(name: str) -> None:
        with turnstile.turn("pool", name, **of.get(name, {})) as enter:
            await enter(False)
            passed.append(name)
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        for name in asked:
            nursery.start_soon(one, name)
            await trio.testing.wait_all_tasks_blocked()
    return passed


async def test_a_batch_does_not_starve_an_editor(autojump_clock) -> None:
    """It asked first, for a hundred turns; whoever asks for one waits for one."""
    passed = await order_of(Turnstile(1), [*["batch"] * 100, "editor", "editor"])

    assert passed.index("editor") <= 2
    assert 1 >= passed[:6].count("editor") - 1


async def test_shares_are_by_weight(autojump_clock) -> None:
    """Three of four, as long as both wait."""
    asked = ["a"] * 40 + ["b"] * 40
    passed = await order_of(Turnstile(2), asked, a={"weight": 3.0}, b={"weight": 1.0})

    shares = Counter(passed[4:44])
    assert 28 <= shares["a"] <= 32


async def test_nobody_saves_up(autojump_clock) -> None:
    """Who asked for nothing for long is first once, and then as everybody."""
    turnstile = Turnstile(1)
    await order_of(turnstile, ["idle"])
    await order_of(turnstile, ["busy"] * 50)
    passed = await order_of(turnstile, [*["busy"] * 10, *["idle"] * 10])

    assert 4 <= passed[:10].count("busy") <= 6


async def test_a_limit_is_of_one_client(autojump_clock) -> None:
    """Others pass meanwhile."""
    turnstile, inside, most = Turnstile(4), Counter[str](), Counter[str]()

    async def one(name: str, limit: float) -> None:
        with turnstile.turn("pool", name, limit=limit) as enter:
            await enter(False)
            inside[name] += 1
            most[name] = max(most[name], inside[name])
            await trio.sleep(1)
            inside[name] -= 1

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(one, "small", 1)
            nursery.start_soon(one, "large", 100)

    assert {"small": 1, "large": 3} == most or {"small": 1, "large": 4} == most


async def test_pools_do_not_wait_for_each_other(autojump_clock) -> None:
    """Each has its own lanes."""
    turnstile = Turnstile(1)
    with turnstile.turn("a", "x") as enter_a, turnstile.turn("b", "x") as enter_b, trio.fail_after(0):
        await enter_a(False)
        await enter_b(False)


@given(seed=st.integers(0, 2**32), most=st.integers(1, 3))
def test_no_place_is_lost(seed: int, most: int) -> None:
    """Whoever is cancelled, in line or inside: all places are there again, and nothing is kept."""

    async def main() -> None:
        turnstile, draw, inside = Turnstile(most), random.Random(seed), Counter[bool]()

        async def one() -> None:
            awaited = draw.random() < 0.3
            with (
                trio.move_on_after(draw.choice([0.5, 1, 3, 100])),
                turnstile.turn("pool", draw.choice("abc"), limit=draw.choice([1, 2, 9])) as enter,
            ):
                if draw.random() < 0.8:
                    await enter(awaited)
                    inside[awaited] += 1
                    assert inside[False] <= most
                    try:
                        await trio.sleep(draw.choice([0.1, 1, 2]))
                        await enter(False)
                    finally:
                        inside[awaited] -= 1

        async with trio.open_nursery() as nursery:
            for _ in range(12):
                nursery.start_soon(one)
        assert 0 == turnstile.waiting
        assert {} == turnstile._places

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize("times", [1, 5])
async def test_what_is_free_is_not_waited_for(times: int) -> None:
    """Not even a checkpoint."""
    turnstile = Turnstile()
    with trio.fail_after(0):
        for _ in range(times):
            with turnstile.turn("pool", "a") as enter:
                await enter(False)
                assert 0 == turnstile.waiting


async def test_who_is_awaited_passes_at_once_and_not_for_ever(autojump_clock) -> None:
    """A lane is kept for each of them; one who waits for any is passed so many times, and not once more."""
    turnstile = Turnstile(1)
    passed: list[str] = []

    async def one(name: str, awaited: bool) -> None:
        with turnstile.turn("pool", name) as enter:
            await enter(awaited)
            passed.append(name)
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        for name, awaited in [("agent", False), ("editor", False), *[("agent", True)] * (MAX_SKIPS + 3)]:
            nursery.start_soon(one, name, awaited)
            await trio.testing.wait_all_tasks_blocked()
        assert ["agent"] * (1 + MAX_SKIPS) == passed
        await trio.sleep(1.5)
        assert ["editor"] == passed[1 + MAX_SKIPS :]
        nursery.start_soon(one, "agent", True)
        await trio.testing.wait_all_tasks_blocked()
        assert ["editor", "agent"] == passed[1 + MAX_SKIPS :], "it waits for nobody, once one has passed"


async def test_who_is_awaited_heeds_its_limit_and_has_had_a_turn(autojump_clock) -> None:
    """It counts as any other turn of its client."""
    turnstile = Turnstile(1)
    with (
        trio.fail_after(10),
        turnstile.turn("pool", "a", limit=2) as first,
        turnstile.turn("pool", "a", limit=2) as second,
        turnstile.turn("pool", "a", limit=2) as third,
    ):
        await first(False)
        await second(True)
        with trio.move_on_after(1) as scope:
            await third(True)
        assert scope.cancelled_caught
    assert [] == list(turnstile._places)

    with trio.fail_after(10), turnstile.turn("pool", "a") as first:
        await first(False)
        with turnstile.turn("pool", "a") as second:
            await second(True)
        assert 2 == turnstile._places["pool"].clients["a"].passed
