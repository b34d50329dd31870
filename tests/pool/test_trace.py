"""What a real pool does is replayed by a fresh core, line by line."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest
import trio
import trio.testing

from tests.helpers import CANARY, FakeConnector, echo, fake_pool, policy, refused, serving
from wspool import Pool, WsPoolError
from wspool.server import EchoModel
from wspool.testing import ReplayError, replay


async def busy(pool: Pool) -> None:
    """Conversations over few connections, some of them cancelled, with leases in between."""

    async def talk(number: int) -> None:
        with trio.move_on_after(0.03 * number if number % 3 == 0 else 60):
            async with pool.conversation(model="gpt-5.2") as conversation:
                for turn in range(3):
                    await conversation.respond(f"secret {number}.{turn}")
                    await trio.sleep(0.01 * (number % 4))

    async def look() -> None:
        async with pool.lease(min_remaining=1.0) as lease:
            async with lease.create(model="m", input="hi") as turn:
                await turn.result()
            lease.park()
        with suppress(trio.WouldBlock):
            pool.acquire_nowait().release()

    async with trio.open_nursery() as nursery:
        for number in range(12):
            nursery.start_soon(talk, number)
        nursery.start_soon(look)
        await trio.sleep(0.02)
        pool.pause()
        pool.resize(max_size=4, min_idle=1)
        pool.resume()
        pool.drain()
        await trio.sleep(0.1)
        pool.clear(interrupt=True)
        pool.clear()


async def test_a_busy_run_is_replayed(autojump_clock: trio.testing.MockClock) -> None:
    """Every decision of a pool on the reference server is in the trace, and a fresh core repeats it."""
    lines: list[str] = []
    async with serving(EchoModel()) as world:
        limits = policy(
            max_size=3, min_idle=1, ping_interval=20.0, patience=0.1, max_idle=30.0, on_cancel="drain"
        )
        async with world.pool(limits=limits, trace=lines.append) as pool:
            try:
                await busy(pool)
            except* WsPoolError:
                pass  # `clear(interrupt=True)` has cut a turn
            await trio.sleep(4000)
            statistics = pool.statistics()

    assert len(lines) - 1 == replay(lines)
    inputs = [json.loads(line) for line in lines[1:]]
    seen = Counter(line["input"] for line in inputs)
    at_once = sum(isinstance(line.get("answer"), list) for line in inputs)
    assert statistics.granted == at_once + sum(line.count('"Grant"') for line in lines)
    assert statistics.turns == sum('"verdict": "go"' in line for line in lines)
    expected = {
        "start",
        "acquire",
        "acquire_nowait",
        "begin",
        "finished",
        "release",
        "connected",
        "gone",
        "tick",
    }
    assert expected | {"park", "pause", "resume", "resize", "drain", "clear", "close", "force"} <= set(seen)


async def test_a_changed_line_is_named(autojump_clock: trio.testing.MockClock) -> None:
    """A trace of a pool that decided otherwise does not replay, and says from where on."""
    lines: list[str] = []
    async with (
        fake_pool(FakeConnector(echo), trace=lines.append) as pool,
        pool.lease() as lease,
        lease.create(input="x") as turn,
    ):
        await turn.result()
    number = next(index for index, line in enumerate(lines) if '"Grant"' in line)
    changed = lines[number].replace('"lane": 0', '"lane": 1')
    assert changed != lines[number]

    assert len(lines) - 1 == replay(lines)
    with pytest.raises(ReplayError) as caught:
        replay([*lines[:number], changed, *lines[number + 1 :]])
    assert number + 1 == caught.value.line


async def test_a_trace_holds_no_secret(autojump_clock: trio.testing.MockClock) -> None:
    """Neither the key, nor a header, nor what was said, nor what an error quotes."""
    lines: list[str] = []
    connector = FakeConnector(echo)
    connector.failures.append(refused(503, headers=(("x-echo", CANARY),), body=CANARY.encode()))
    options: dict[str, Any] = {"headers": (("x-mine", CANARY),), "warm_up": {"model": CANARY}}

    asked = 0

    async def key() -> str:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise RuntimeError(f"no key like {CANARY}")
        return CANARY

    async with fake_pool(
        connector, api_key=key, trace=lines.append, limits=policy(min_idle=1), **options
    ) as pool:
        await trio.sleep(60)
        async with pool.lease() as lease, lease.create(input=CANARY, model=CANARY) as turn:
            await turn.result()

    assert len(lines) - 1 == replay(lines)
    assert CANARY not in "".join(lines)
    assert "dial_failed" in "".join(lines)


async def test_a_trace_that_cannot_be_written_harms_nobody(autojump_clock: trio.testing.MockClock) -> None:
    """The disk may be full; the pool goes on."""

    def full(line: str) -> None:
        raise OSError("no space left on device")

    async with (
        fake_pool(FakeConnector(echo), trace=full) as pool,
        pool.lease() as lease,
        lease.create(input="x") as turn,
    ):
        assert "completed" == (await turn.result()).status
