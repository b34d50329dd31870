"""Who is dead, and who is only silent, slow or late."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Literal

import pytest
import trio
import trio.testing
from trio.testing import MockClock

import wspool
from tests.helpers import CANARY
from tests.wire.peer import frame, opener, read_request, switching_protocols
from wspool.server import EchoModel, Fault, FaultRule, ModelRequest, ModelTurn, Server
from wspool.testing import Bandwidth, ChaosProxy, Latency, Slicer, Toxic, open_chaos_link
from wspool.wire.wire import Endpoint

from .scene import EVENTS, QUESTION, TAP_PING, Make, Scene, faulty

PONG = 0xA


class Thinker:
    """Echoes after some minutes of silence."""

    def __init__(self, minutes: float) -> None:
        self._minutes = minutes

    def respond(self, request: ModelRequest) -> ModelTurn:
        """The echo, late."""
        return ModelTurn(output=EchoModel().respond(request).output, delay=60 * self._minutes)


async def test_f08_eight_minutes_of_silence(make: Make, autojump_clock) -> None:
    """F08: the model thinks for eight minutes and says nothing -> nothing: the answer, on the same
    connection, which was pinged all the while.
    """
    async with faulty(make, FaultRule(Fault("late_pong", delay=10)), model=Thinker(8)) as scene:
        story = await scene.ask()
        story.assert_answer()
        assert list(EVENTS) == story.types
        assert 480 <= story.took <= 481
        assert scene.taps[0].count(TAP_PING) >= 480 // 31

        assert {} == scene.closed
        await scene.assert_well(creates=1, connection=1)


@asynccontextmanager
async def over_a_link(make: Make, *toxics: Toxic, **options: Any) -> AsyncGenerator[tuple[Scene, ChaosProxy]]:
    """A scene with a proxy in it that has these toxics."""
    servers: list[Server] = []

    async def open_stream(server: Server, endpoint: Endpoint) -> trio.abc.Stream:
        servers[:] = [server]
        return await link.open_stream()

    async def connect() -> trio.abc.Stream:
        return await servers[0].open_stream()

    async with (
        open_chaos_link(connect, toxics=toxics) as link,
        faulty(make, open_stream=open_stream, **options) as scene,
    ):
        yield scene, link


async def test_f10_jitter(make: Make, autojump_clock) -> None:
    """F10: a link of two seconds each way, more or less, that carries 300 bytes per second, cut anywhere
    -> a slow answer; nothing is lost and nobody is declared dead.
    """
    toxics: list[Toxic] = []
    directions: tuple[Literal["up", "down"], ...] = ("up", "down")
    for direction in directions:
        toxics += [
            Latency(2.0, jitter=1.5, direction=direction),
            Bandwidth(300.0, direction=direction),
            Slicer(30, size_variation=29, direction=direction),
        ]
    async with over_a_link(make, *toxics) as (scene, _):
        text = "x" * 1000
        for number in (1, 2):
            story = await scene.ask(text, store=False)
            story.assert_answer(text)
            assert 30 < story.took < 300
            assert number == scene.server.statistics().creates
        assert {} == scene.closed
        assert 1 == scene.pool.statistics().dialed


async def test_f10_standstill(make: Make, autojump_clock) -> None:
    """F10: the link stands still for a minute, in mid-turn or while idle, and then everything comes
    -> nothing: the answer, late, on the same connection.
    """
    async with over_a_link(make, delay_per_token=1) as (scene, link), trio.open_nursery() as nursery:

        async def ask() -> None:
            story = await scene.ask()
            story.assert_answer()
            assert list(EVENTS) == story.types

        async def stand_still() -> None:
            still = [Latency(1e6), Latency(1e6, direction="up")]
            for toxic in still:
                link.add(toxic)
            await trio.sleep(60)
            for toxic in still:
                link.remove(toxic)

        nursery.start_soon(ask)
        await trio.sleep(2.5)
        await stand_still()
        await trio.sleep(30)
        await stand_still()
        await trio.sleep(30)
        assert {} == scene.closed
        await scene.assert_well(creates=1, connection=1, text="hi")


async def test_f85_blocked_event_loop(make: Make, autojump_clock: MockClock) -> None:
    """F85: your code blocks the whole program for 30 s, or for 90 s -> nothing: no connection is taken for
    dead, no turn is lost, no waiter is refused.
    """
    for seconds in (30, 90):
        limits = {"max_size": 4, "min_idle": 2}
        async with faulty(make, delay_per_token=10, limits=limits) as scene:
            await scene.pool.wait_ready()
            async with trio.open_nursery() as nursery:
                for _ in range(4):

                    async def ask() -> None:
                        story = await scene.ask()
                        story.assert_answer()
                        assert list(EVENTS) == story.types

                    nursery.start_soon(ask)
                for _ in range(5):
                    await trio.sleep(4.5)
                    autojump_clock.jump(seconds)  # as time.sleep does
            await trio.sleep(200)
            assert {"idle"} >= set(scene.closed), scene.closed
            assert 4 == scene.server.statistics().creates
            scene.assert_quiet()


@pytest.mark.parametrize("attempt", range(5))
async def test_f85_pong_in_a_blocked_event_loop(make: Make, attempt: int, autojump_clock: MockClock) -> None:
    """F85: the pong comes while your code blocks the program until long after it was due -> nothing: what
    has come is looked at before anybody is declared dead.
    """
    near, far = trio.testing.memory_stream_pair()
    pinged = 0

    async def serve() -> None:
        nonlocal pinged
        await far.send_all(switching_protocols(await read_request(far)))
        while (data := bytes(await far.receive_some()))[:1] == bytes([TAP_PING]):
            pinged += 1
            mask, payload = data[2:6], data[6 : 6 + (data[1] & 0x7F)]
            answer = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
            await far.send_all(frame(PONG, answer))
            if pinged == 2:
                autojump_clock.jump(100)  # the pong is there, and nobody has read it yet
        await far.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        wire = make(open_stream=opener(near))
        async with wspool.open_pool(
            "ws://localhost/v1/responses",
            api_key=CANARY,
            wire=wire,
            policy=wspool.PoolPolicy(min_idle=1, max_size=1, close_timeout=1),
        ) as pool:
            await trio.sleep(300)
            statistics = pool.statistics()
            assert ({}, 1) == (statistics.closed, statistics.dialed)
            assert pinged > 5


async def test_f07_half_open_is_closed_by_force(make: Make, autojump_clock) -> None:
    """F07: the half-open connection is given up -> nothing: it is dropped at once, without a goodbye that
    nobody would hear; `close_timeout` is not waited for.
    """
    async with faulty(make, Fault("half_open", at="idle"), limits={"close_timeout": 1000}) as scene:
        (await scene.ask()).assert_answer()
        await trio.sleep(79)
        assert 0 == sum(tap.closed for tap in scene.taps)
        await trio.sleep(2)
        assert 1 == sum(tap.closed for tap in scene.taps)
        assert 0 == scene.taps[0].count(0x88), "a goodbye to nobody"
        assert {"lost": 1} == scene.closed
        await scene.assert_well(creates=1, connection=2, text=QUESTION)
