"""Packets between two network namespaces: dropped, lost, refused, late, few and small."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio

import wspool
from tests.faults.scene import QUESTION, TAP_PING, Make, Scene, faulty
from wspool.server import Fault, FaultRule, Server
from wspool.wire import dial
from wspool.wire.wire import Endpoint

from .front import Terse
from .tools import Network, until

#: Seconds of silence before a ping, and for an answer: short, as real time passes.
IMPATIENT = {"ping_interval": 0.2, "ping_timeout": 0.4, "close_timeout": 10}

#: In these, a dead link is found; with two seconds for a busy machine.
FOUND_OUT = 0.6 + 2

CLOSE = 0x88


@asynccontextmanager
async def across(
    net: Network, make: Make, *faults: Fault | FaultRule, **options: Any
) -> AsyncGenerator[Scene]:
    """A pool near, a server far."""
    server: Server | None = None
    problem: BaseException | None = None

    async def serve(stream: trio.SocketStream) -> None:
        assert server is not None
        await server.serve(stream)

    async def open_stream(_: Server, endpoint: Endpoint) -> trio.abc.Stream:
        net.be_near()
        return await dial.open_stream(attrs.evolve(endpoint, host=net.host, port=net.port))

    async with trio.open_nursery() as nursery:
        listener = net.listener()
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        try:
            async with faulty(make, *faults, network=True, open_stream=open_stream, **options) as scene:
                server = scene.server
                yield scene
        except BaseException as raised:
            problem = raised  # the nursery would wrap it in a group
        nursery.cancel_scope.cancel()
    if problem is not None:
        raise problem


async def test_f32_black_hole_for_dials(make: Make, net: Network) -> None:
    """F32: packets to the endpoint vanish -> a dial fails after `connect_timeout` in phase "tcp"; a turn's
    own deadline holds before that; when the way is free again, so is the pool.
    """
    async with across(net, make, limits={"connect_timeout": 0.5}) as scene:
        net.drop("up")
        with trio.move_on_after(0.2) as scope:
            await scene.ask()
        assert scope.cancelled_caught
        with trio.move_on_after(0.6):
            await scene.ask()
        failure = scene.pool._shell.core.failure
        assert failure is not None
        assert ("tcp", True) == (failure.phase, "connect_timeout is 0.5 s" in failure.message)
        net.heal()
        (await scene.ask()).assert_answer()


@pytest.mark.parametrize("directions", [("up",), ("down",), ("up", "down")], ids="+".join)
async def test_a_black_hole_in_mid_turn(make: Make, net: Network, directions: tuple[str, ...]) -> None:
    """Found by the ping's deadline, and dropped without a goodbye: close_timeout would be ten seconds."""
    async with across(net, make, delay_per_token=0.5, limits=IMPATIENT) as scene:

        async def cut() -> None:
            await trio.sleep(0.7)
            net.drop(*directions)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cut)
            (await scene.ask("word " * 20)).assert_lost("accepted", took=0.7 + FOUND_OUT + 0.5)
        await until(lambda: scene.taps[0].closed)
        assert 0 == scene.taps[0].count(CLOSE)
        assert {"lost": 1} == scene.closed
        net.heal()
        (await scene.ask("hi")).assert_answer("hi")


async def test_a_black_hole_behind_the_request(make: Make, net: Network) -> None:
    """The request leaves, and nothing is known of it."""
    async with across(net, make, limits=IMPATIENT) as scene:
        (await scene.ask("one")).assert_answer("one")
        net.drop("up")
        (await scene.ask("two")).assert_lost("ambiguous", took=FOUND_OUT)
        assert 1 == scene.server.statistics().creates, "it never arrived; nobody could know"
        net.heal()
        (await scene.ask("three")).assert_answer("three")


async def test_a_half_open_link_while_idle(make: Make, net: Network) -> None:
    """A ping finds it; the next turn is on another connection and knows nothing."""
    async with across(net, make, limits=IMPATIENT) as scene:
        (await scene.ask()).assert_answer()
        net.drop("down")
        await until(lambda: scene.pool.statistics().size == 0)
        assert {"lost": 1} == scene.closed
        net.heal()
        await scene.assert_well(creates=1, connection=2)


async def test_leaving_a_pool_on_a_dead_link_takes_close_timeout(make: Make, net: Network) -> None:
    """No more than that, though nobody answers the goodbye."""
    async with across(net, make, limits={"ping_interval": None, "close_timeout": 0.5}) as scene:
        (await scene.ask()).assert_answer()
        net.drop("up", "down")
        began = trio.current_time()
        await scene.pool.aclose()
        assert trio.current_time() - began < 3


async def test_a_firewall_that_resets(make: Make, net: Network) -> None:
    """Whatever is sent next is answered with a reset: the turn is lost at once, with code 1006."""
    async with across(net, make, delay_per_token=0.2, limits=IMPATIENT) as scene:
        async with scene.pool.lease() as lease:
            (await scene.ask_bare(lease, "one")).assert_answer("one")
            net.reject()
            (await scene.ask_bare(lease, "two")).assert_lost("ambiguous", close_code=1006, took=2)
        net.heal()
        (await scene.ask("three")).assert_answer("three")


@pytest.mark.usefixtures("killing")
async def test_a_kernel_that_kills_the_socket(make: Make, net: Network) -> None:
    """Seen at once, in mid-turn and while idle."""
    async with across(net, make, delay_per_token=0.1, limits={"ping_interval": None}) as scene:

        async def kill() -> None:
            await trio.sleep(0.35)
            net.kill()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(kill)
            (await scene.ask(QUESTION * 5)).assert_lost("accepted", close_code=1006, took=3)
        (await scene.ask("hi")).assert_answer("hi")
        net.kill()
        await until(lambda: scene.pool.statistics().size == 0)
        assert {"lost": 2} == scene.closed
        (await scene.ask("hi")).assert_answer("hi")


async def test_a_lossy_link(make: Make, net: Network) -> None:
    """One packet in ten is lost: slower, and nothing else."""
    async with across(net, make, limits={"ping_interval": 0.5, "ping_timeout": 5}) as scene:
        net.lose(10)
        async with scene.pool.conversation(model="m") as conversation:
            for number in range(5):
                (await scene.ask(f"{number}", conversation=conversation)).assert_answer(f"{number}")
        net.heal()
        assert {} == scene.closed


@pytest.mark.usefixtures("tbf")
async def test_a_narrow_link(make: Make, net: Network) -> None:
    """One message takes three times as long as the patience for a pong: every byte is a sign of life."""
    limits = {"ping_interval": 0.3, "ping_timeout": 0.7}
    async with across(net, make, Fault("big_terminal", size=48_000), limits=limits) as scene:
        async with scene.pool.lease():
            net.shape("tbf", "rate", "160kbit", "burst", "4kb", "latency", "10s")
        story = await scene.ask()
        story.assert_answer()
        assert story.took > 2
        assert scene.taps[0].count(TAP_PING) > 0
        assert {} == scene.closed


@pytest.mark.usefixtures("detour")
async def test_a_long_link(make: Make, net: Network) -> None:
    """A tenth of a second each way, packets out of order, some of them twice: slower, and nothing else."""
    limits = {"ping_interval": 0.2, "ping_timeout": 2}
    async with (
        net.detour(delay=0.1, jitter=0.05, twice=0.2),
        across(net, make, limits=limits) as scene,
    ):
        story = await scene.ask()
        story.assert_answer()
        assert 3 * 2 * 0.05 < story.took, "TCP, upgrade and turn: three times there and back"
        (await scene.ask()).assert_answer()
        text = "word " * 1000
        (await scene.ask(text)).assert_answer(text)
        assert {} == scene.closed


async def test_small_packets(make: Make, net: Network) -> None:
    """Frames are cut where packets end; also when packets get smaller while the connection lives."""
    big = FaultRule(Fault("big_terminal", size=300_000), times=None)
    async with across(net, make, big, model=Terse()) as scene:
        for size in (1500, 576):
            net.limit_packets(size)
            (await scene.ask("é" * 150_000)).assert_answer("ok")
        assert 1 == scene.pool.statistics().dialed


async def test_f47_no_more_ports(make: Make, net: Network) -> None:
    """F47: the machine is out of ports for outgoing connections -> the dial fails with that reason, named;
    connections that are there go on, turns wait for one of them or for a port.
    """
    net.limit_ports(4)
    reasons: list[str] = []

    class Watch(wspool.Instrument):
        def pool_degraded(self, message: str) -> None:
            reasons.append(message)

    options = {"instrument": Watch()}
    async with across(net, make, delay_per_token=0.1, limits={"max_size": 8}, pool_options=options) as scene:

        async def ask(number: int) -> None:
            (await scene.ask(f"{number}")).assert_answer(f"{number}")

        async with trio.open_nursery() as nursery:
            for number in range(9):
                nursery.start_soon(ask, number)
        assert "Cannot assign requested address" in reasons[0]
        assert 1 <= scene.server.statistics().connections_peak <= 4
        assert 9 == scene.server.statistics().creates
