"""An endpoint that takes connections and is of no use, or is away, or slow, or ends them early."""

from __future__ import annotations

import logging
from typing import Any

import attrs
import pytest
import trio

import wspool
from tests.helpers import Recorder
from wspool.server import OPENAI, Fault, FaultRule, Rejection, Server
from wspool.wire.wire import ConnectError, Endpoint

from .scene import Make, faulty

#: Handshakes that an hour of an outage costs where nobody waits, and more than that.
AN_HOUR = 300


@pytest.mark.parametrize("code", [1000, 1008, 1011])
async def test_f127_nothing_but_handshakes(make: Make, code: int, autojump_clock) -> None:
    """F127: every connection ends unused, whoever ends it and however: a close, an error frame, a notice,
    what must not come -> nothing where a turn is not asked for, and as few handshakes as at an endpoint that
    is away: some 250 in an hour.
    """
    async with faulty(make, limits={"min_idle": 2}) as scene:
        scene.server.reject_handshakes(*[Rejection(status=101, close_code=code)] * 10_000)
        scene.pool.clear()
        await trio.sleep(3600)
        assert len(scene.server.handshakes) <= AN_HOUR


@pytest.mark.parametrize("name", ["reset", "close", "error"])
async def test_f128_no_turn_gets_through(make: Make, name: str, autojump_clock) -> None:
    """F128: each connection ends in its first turn, over and over -> each turn is told at once what is known
    of it; from the third on they wait for the next dial as in an outage, until one is completed.
    """
    options: dict[str, Any] = {"code": 1011} if name == "close" else {}
    faults = [FaultRule(Fault(name, at="receipt", **options), times=None)]
    profile = attrs.evolve(OPENAI, close_after_error=1011)
    async with faulty(make, *faults, profile=profile, limits={"max_resends": 0}) as scene:
        turns = 0
        with trio.move_on_after(600):
            while True:
                story = await scene.ask()
                assert story.error is not None
                turns += 1
                await trio.sleep(0.05)
        assert turns <= 100
        assert len(scene.server.handshakes) <= 100


@pytest.mark.parametrize("seconds", [3.0, 20.0, 60.0, 110.0])
async def test_f129_back_within_a_second(make: Make, seconds: float, autojump_clock) -> None:
    """F129: nobody is there (connections are refused), for seconds or minutes -> who waits is served within a
    second of the endpoint's return, and not after as long again.
    """
    tries = 0

    async def open_stream(server: Server, endpoint: Endpoint) -> trio.abc.Stream:
        nonlocal tries
        tries += 1
        if trio.current_time() < until:
            raise ConnectError("connection refused", phase="tcp")
        return await server.open_stream(endpoint)

    async with faulty(make, open_stream=open_stream) as scene:
        until = trio.current_time() + seconds
        (await scene.ask()).assert_answer(took=seconds + 1.0)
        assert tries <= 10 + 4 * seconds


async def test_f130_going_soon(make: Make, autojump_clock) -> None:
    """F130: the endpoint announces the end of each connection as soon as it is there -> nothing: turns go on,
    spare that nobody uses is replaced as slowly as in an outage, and what it replaces goes after `max_idle`.
    """
    profile = attrs.evolve(OPENAI, expiring_notice=3599.9)
    # Pings are most of what such an hour costs.
    async with faulty(make, profile=profile, limits={"min_idle": 2, "ping_interval": None}) as scene:
        for minutes in (20, 40):
            await trio.sleep(60 * minutes)
            assert scene.pool.statistics().size <= 25  # two times 300 s, one in 30 s, and the spare
        assert len(scene.server.handshakes) <= AN_HOUR
        (await scene.ask()).assert_answer()


async def test_f131_an_age_that_nobody_gave(make: Make, autojump_clock, caplog) -> None:
    """F131: a gateway ends connections after a minute, and nobody has said so -> three turns are lost. Then
    it is known: said once (log, `Instrument.lifetime_learned`, `learned_lifetime`), planned for, and none is
    lost.
    """
    told: list[float | None] = []

    class Watching(Recorder):
        def lifetime_learned(self, seconds: float | None) -> None:
            told.append(seconds)

    profile = attrs.evolve(OPENAI, lifetime=60.0, limit_mode="mid_turn")
    options = {"instrument": Watching()}
    with caplog.at_level(logging.WARNING, "wspool.pool"):
        async with faulty(make, profile=profile, delay_per_token=2.0, pool_options=options) as scene:
            lost = []
            for number in range(200):
                story = await scene.ask("a few words")
                if story.error is not None:
                    assert isinstance(story.error, wspool.TurnLostError)
                    lost.append(number)
                await trio.sleep(0.3)
            assert 1 <= len(lost) <= 4
            assert max(lost) < 60
            assert 55 <= (scene.pool.statistics().learned_lifetime or 0) <= 61
    assert 1 == len(told)
    assert 1 == sum("the endpoint ends connections after" in line.getMessage() for line in caplog.records)


async def test_f132_no_beginning(make: Make, autojump_clock) -> None:
    """F132: a response does not begin within `first_event_timeout` (off by default) -> `TurnTimeoutError`,
    `ambiguous`; its connection is hung up.
    """
    async with faulty(make, Fault("unanswered"), limits={"first_event_timeout": 30.0}) as scene:
        story = await scene.ask()
        assert isinstance(story.assert_lost("ambiguous", events=0, took=30.01), wspool.TurnTimeoutError)

        await scene.assert_well(creates=1, connection=2)


async def test_f133_silence(make: Make, autojump_clock) -> None:
    """F133: nothing of a response comes for longer than `silence_timeout` (off by default), whatever else is
    sent to keep the connection open -> `TurnTimeoutError`, `accepted`, with the events so far.
    """
    async with faulty(make, Fault("stall", seconds=1000), limits={"silence_timeout": 45.0}) as scene:
        story = await scene.ask()
        assert isinstance(story.assert_lost("accepted", events=4, took=45.01), wspool.TurnTimeoutError)

        await scene.assert_well(creates=1, connection=2)
