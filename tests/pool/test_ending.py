"""The end of a connection: known in the step that sees it, and the business of that connection alone."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

import wspool
from tests.helpers import (
    FakeConnector,
    FakeWire,
    assert_conserved,
    assert_empty,
    created,
    echo,
    fake_pool,
    policy,
    serving,
)
from wspool.pool import shell as shell_module
from wspool.pool.link import Link
from wspool.server import EchoModel
from wspool.wire.trio_websocket import TrioWebSocketConnector
from wspool.wire.websockets import WebSocketsConnector

#: Rounds of the scheduler that are tried between an end and what happens beside it.
ROUNDS = range(12)


class SlowWire(FakeWire):
    """A wire that takes its time to let go of its socket."""

    may_go: trio.Event

    async def abort(self) -> None:
        await super().abort()
        with trio.CancelScope(shield=True):
            await self.may_go.wait()


class SlowConnector(FakeConnector):
    """Makes them; the first of them only goes when `may_go` is set."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.may_go = trio.Event()
        self.prepare = self._slow_down

    def _slow_down(self, wire: FakeWire) -> None:
        wire.__class__ = SlowWire
        assert isinstance(wire, SlowWire)
        wire.may_go = self.may_go if len(self.wires) == 1 else trio.Event()
        if len(self.wires) > 1:
            wire.may_go.set()


def crashed(wire: FakeWire) -> None:
    wire.break_down(RuntimeError("a bug in a library"))


def reset(wire: FakeWire) -> None:
    wire.hang_up(1006)


def closed(wire: FakeWire) -> None:
    wire.hang_up(1001, "going away")


ENDS: list[Callable[[FakeWire], None]] = [closed, reset, crashed]


async def rounds(number: int) -> None:
    """Let every task that can run do a step, as often as that."""
    for _ in range(number):
        await trio.lowlevel.checkpoint()


async def settled() -> None:
    """Let everything happen that can happen now."""
    await trio.testing.wait_all_tasks_blocked()


@pytest.mark.parametrize("end", ENDS)
async def test_the_core_forgets_a_connection_that_is_still_winding_up(end, autojump_clock) -> None:
    """Nothing of it is counted, lent or tried any more, although its socket is not closed yet."""
    connector = SlowConnector(lambda wire, request: wire.push(created("r")))
    limits = policy(max_size=1, min_idle=1, ping_interval=20.0)
    async with fake_pool(connector, limits=limits) as pool, pool.lease() as lease:
        async with lease.create(model="m", input="x") as turn:
            await settled()
            end(connector.wire)
            await settled()

            assert not lease.alive
            with pytest.raises(wspool.TurnLostError):
                await turn.result()
        with pytest.raises(wspool.TurnLostError):
            await lease.create(model="m", input="x").__aenter__()
        assert {"lost": 1} == pool.statistics().closed
        assert_conserved(pool.statistics())
        connector.on_request = echo
        async with pool.lease() as other:
            assert other.connection == 2
            async with other.create(model="m", input="x") as turn:
                assert "completed" == (await turn.result()).status
        await trio.sleep(100)  # pings fall due
        assert {1, 2} == set(pool._shell._connections)
        assert 0 == connector.wires[0].pings
        connector.may_go.set()
        await settled()

        assert {2} == set(pool._shell._connections)
    assert_empty(pool.statistics())


@pytest.mark.parametrize("end", ENDS)
async def test_closing_waits_for_what_is_winding_up(end, autojump_clock) -> None:
    """A pool that is closed has no socket left, not even that of a connection it had forgotten."""
    connector = SlowConnector(echo)
    async with fake_pool(connector, limits=policy(max_size=1, min_idle=1, close_timeout=5.0)) as pool:
        await pool.wait_ready()
        end(connector.wire)
        await settled()

        async def let_go() -> None:
            await trio.sleep(2)
            connector.may_go.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(let_go)
            await pool.aclose()
            assert connector.may_go.is_set()
        assert not pool._shell._connections
        assert 2 == trio.current_time()


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("also", ["ping", "acquire", "acquire_nowait", "release", "begin", "resize", "drain"])
async def test_whatever_happens_beside_an_end_harms_nothing(end, also, autojump_clock) -> None:
    """At every distance from an end: it counts once, nobody is lent what is over, and the pool goes on."""
    for distance in ROUNDS:
        connector = FakeConnector(echo)
        limits = policy(max_size=2, min_idle=1, ping_interval=20.0)
        async with fake_pool(connector, limits=limits) as pool:
            await pool.wait_ready()
            lease = await pool.acquire()
            await settled()
            wire = connector.wires[lease.connection - 1]
            end(wire)
            await rounds(distance)
            known = not lease.alive
            match also:
                case "ping":
                    autojump_clock.jump(20.0)
                case "acquire":
                    async with pool.lease() as other:
                        assert lease.connection != other.connection
                case "acquire_nowait":
                    lease.release()
                    try:
                        other = pool.acquire_nowait()
                    except trio.WouldBlock:
                        pass
                    else:
                        assert not known or lease.connection != other.connection
                        other.release()
                case "release":
                    lease.release()
                case "begin":
                    turn = lease.create(model="m", input="x")
                    with pytest.raises(wspool.TurnLostError):
                        async with turn:
                            await turn.result()
                    assert not known or turn.delivery == "not_sent"
                case "resize":
                    pool.resize(max_size=1, min_idle=0)
                case "drain":
                    pool.drain()
            await settled()
            lease.release()
            async with pool.lease() as other, other.create(model="m", input="x") as turn:
                assert "completed" == (await turn.result()).status
            assert 1 == sum(pool.statistics().closed.get(word, 0) for word in ("lost", "dirty", "limit"))
            assert_conserved(pool.statistics())
        assert_empty(pool.statistics())


@pytest.mark.parametrize("wire", [TrioWebSocketConnector, WebSocketsConnector])
@pytest.mark.parametrize("how", ["cut", "eof"])
async def test_a_ping_that_falls_due_beside_an_end_harms_nothing(wire, how, autojump_clock) -> None:
    """The same on real wires, of which one ends a few rounds after its peer."""
    for distance in range(0, 40, 2):
        async with serving(EchoModel()) as world:
            manager = wspool.open_pool(
                world.server.url,
                api_key="key",
                wire=wire(open_stream=world.open_stream),
                policy=policy(min_idle=2, max_size=2, ping_interval=20.0),
            )
            async with manager as pool:
                await pool.wait_ready(2)
                await settled()
                if how == "cut":
                    await world.cut(0)
                else:
                    far = world.far_ends[0]
                    assert isinstance(far, trio.StapledStream)
                    await far.send_stream.aclose()
                await rounds(distance)
                autojump_clock.jump(20.0)
                await settled()
                await pool.wait_ready(2)
            assert_empty(pool.statistics())


@pytest.mark.parametrize("act", ["ping", "warm"])
async def test_what_goes_wrong_in_an_act_ends_one(act, monkeypatch, caplog, autojump_clock) -> None:
    """A command that cannot be performed ends the connection that it is about, not the timekeeper."""

    def broken(*_: object) -> None:
        monkeypatch.undo()
        raise RuntimeError("Nursery is closed to new arrivals")

    connector = FakeConnector(echo)
    limits = policy(min_idle=1, max_size=1, ping_interval=20.0)
    async with fake_pool(connector, limits=limits, warm_up={"model": "m"} if act == "warm" else None) as pool:
        if act == "warm":
            monkeypatch.setattr(Link, "spawn", broken)
        else:
            monkeypatch.setattr(shell_module, "keep_alive", broken)
        await trio.sleep(30)

        assert {"lost": 1} == pool.statistics().closed
        assert not connector.wires[0].open
        async with pool.lease() as lease:
            assert 2 == lease.connection
    assert ["connection 1 is given up, its pool goes on"] == [
        record.message for record in caplog.records if record.levelno == logging.ERROR
    ]


@pytest.mark.parametrize("distance", ROUNDS)
async def test_a_dial_that_comes_too_late_for_its_pool_fails(distance, autojump_clock) -> None:
    """Whoever asks for a lane while the pool's own tasks are crashing is told that the pool is closed."""
    connector = FakeConnector(echo)
    told: list[str] = []

    async def crash() -> None:
        raise KeyError("a bug of the pool")

    async def ask(pool: wspool.Pool) -> None:
        pool._shell.spawn(crash)
        await rounds(distance)
        try:
            async with pool.lease():
                told.append("served")
        except wspool.WsPoolError as error:
            told.append(type(error).__name__)

    async with trio.open_nursery() as nursery:
        with pytest.raises(ExceptionGroup):  # noqa: PT012 (the whole block raises)
            async with fake_pool(connector, limits=policy(max_size=1)) as pool:
                nursery.start_soon(ask, pool)
                await trio.sleep_forever()

    assert told
    assert not any("RuntimeError" in word for word in told)


@pytest.mark.parametrize("seed", range(8))
async def test_a_leak_is_told_even_of_a_lease_whose_holder_has_not_run_yet(seed, autojump_clock) -> None:
    """A program that is kept busy for longer than `leak_after` in the moment of a hand-off loses no pool."""
    connector = FakeConnector(echo)
    async with fake_pool(connector, limits=policy(max_size=1, leak_after=1.0)) as pool:
        lease = await pool.acquire()

        async def wait() -> None:
            async with pool.lease():
                await trio.sleep(5)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await settled()
            lease.release()
            autojump_clock.jump(2.0)
            await settled()
        async with pool.lease():
            pass
