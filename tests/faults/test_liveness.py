"""Who is dead, and who is only silent, slow or late."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from trio.testing import MockClock

import wspool
from tests.helpers import CANARY
from tests.wire.peer import frame, opener, read_request, switching_protocols
from wspool.server import EchoModel, Fault, FaultRule, ModelRequest, ModelTurn

from .scene import EVENTS, QUESTION, TAP_PING, Make, faulty

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
