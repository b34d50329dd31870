"""The chaos proxy: each toxic does what it says and no more, and goes when it is taken away.

The server is a memory stream in the hands of the test; "late" is by the virtual clock.
"""

from __future__ import annotations

import math
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

import wspool
from wspool.server import EchoModel, open_server
from wspool.testing import (
    Bandwidth,
    ChaosProxy,
    Latency,
    LimitData,
    ResetPeer,
    Slicer,
    SlowClose,
    Timeout,
    Toxic,
    check_wire,
    open_chaos_link,
    open_chaos_proxy,
)
from wspool.wire.trio_websocket import TrioWebSocketConnector
from wspool.wire.websockets import WebSocketsConnector

from .wire.peer import connected, endpoint


@attrs.frozen
class Ends:
    """A proxy, and both ends of one connection through it."""

    proxy: ChaosProxy
    client: trio.abc.Stream
    server: trio.abc.Stream

    async def crossing(self, data: bytes, *, up: bool = False) -> float:
        """Send *data* one way and return the seconds until all of it has come."""
        source, target = (self.client, self.server) if up else (self.server, self.client)
        began = trio.current_time()
        await source.send_all(data)
        assert data == await receive_exactly(target, len(data))
        return trio.current_time() - began


async def receive_exactly(stream: trio.abc.ReceiveStream, size: int) -> bytes:
    """Return the next *size* bytes."""
    data = b""
    while len(data) < size:
        piece = await stream.receive_some()
        assert piece, f"an end after {len(data)} of {size} bytes"
        data += piece
    return data


@asynccontextmanager
async def spoiled(*toxics: Toxic, seed: int = 0) -> AsyncGenerator[Ends]:
    """One connection through these toxics."""
    far_ends: list[trio.abc.Stream] = []

    async def connect() -> trio.abc.Stream:
        near, far = trio.testing.memory_stream_pair()
        far_ends.append(far)
        await trio.lowlevel.checkpoint()
        return near

    with trio.fail_after(10_000):
        async with open_chaos_link(connect, toxics=toxics, seed=seed) as proxy:
            client = await proxy.open_stream()
            await wait_all_tasks_blocked()
            yield Ends(proxy, client, far_ends[0])
        assert 0 == proxy.connections


async def test_without_toxics_it_changes_nothing(autojump_clock) -> None:
    """Bytes cross at once, both ways; half an end is half an end; two halves are the whole."""
    async with spoiled() as ends:
        assert (0, 0) == (await ends.crossing(b"x" * 1_000_000), await ends.crossing(b"y", up=True))
        assert "<ChaosProxy: 1 connections, 0 toxics>" == repr(ends.proxy)
        assert isinstance(ends.client, trio.StapledStream)
        await ends.client.send_eof()
        assert b"" == await ends.server.receive_some()
        assert 0 == await ends.crossing(b"the answer")
        assert isinstance(ends.server, trio.StapledStream)
        await ends.server.send_eof()
        assert b"" == await ends.client.receive_some()
        await wait_all_tasks_blocked()
        assert 0 == ends.proxy.connections


async def test_an_abrupt_end_of_one_end_is_one_of_the_other(autojump_clock) -> None:
    """Nobody is left talking to the proxy alone."""
    async with spoiled() as ends:
        await ends.server.aclose()
        assert b"" == await ends.client.receive_some()
        await ends.client.send_all(b"x")
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BrokenResourceError):
            await ends.client.send_all(b"x")


async def test_latency_is_late_but_not_narrow(autojump_clock) -> None:
    """Each byte takes so long, however many are on their way; the other direction does not."""
    async with spoiled(Latency(2.0)) as ends:
        assert 0 == await ends.crossing(b"x", up=True)
        assert pytest.approx(2) == await ends.crossing(b"x")
        began = trio.current_time()
        for number in range(10):
            await ends.server.send_all(bytes([number]))
            await trio.sleep(0.1)
        assert bytes(range(10)) == await receive_exactly(ends.client, 10)
        assert pytest.approx(2.9) == trio.current_time() - began


async def test_latency_adds_up_and_jitter_is_within_its_bounds(autojump_clock) -> None:
    """The order stays, the seed decides."""
    took: list[list[float]] = []
    for seed in (1, 1, 2):
        async with spoiled(Latency(1.0, jitter=0.5), Latency(2.0), seed=seed) as ends:
            took.append([await ends.crossing(b"x") for _ in range(20)])
    assert took[0] == pytest.approx(took[1])
    assert took[0] != pytest.approx(took[2])
    assert all(2.5 <= seconds <= 3.5 for seconds in took[0] + took[2])
    assert max(took[0]) - min(took[0]) > 0.5


async def test_what_is_late_comes_when_its_toxic_goes(autojump_clock) -> None:
    """Toxics are asked again whenever one comes or goes, not only when bytes do."""
    late = Latency(1000.0)
    async with spoiled() as ends, trio.open_nursery() as nursery:
        ends.proxy.add(late)
        assert [late] == list(ends.proxy.toxics)

        async def remove() -> None:
            await trio.sleep(3)
            ends.proxy.remove(Latency(1000.0))

        nursery.start_soon(remove)
        assert pytest.approx(3) == await ends.crossing(b"x")
        assert [] == list(ends.proxy.toxics)
        with pytest.raises(ValueError, match="not at work"):
            ends.proxy.remove(late)


async def test_bandwidth_is_kept(autojump_clock) -> None:
    """So many bytes take so many seconds, and the sender is made to wait once the window is full."""
    async with spoiled(Bandwidth(1000.0)) as ends:
        assert 10 == pytest.approx(await ends.crossing(b"x" * 10_000), abs=0.2)
        ends.proxy.clear()
        assert 0 == pytest.approx(await ends.crossing(b"x" * 10_000), abs=0.2)


async def test_a_narrow_way_does_not_pile_up_without_bound(autojump_clock) -> None:
    """The proxy stops reading when a window's worth waits in it."""
    async with spoiled(Bandwidth(1.0)) as ends:
        taken = 0

        class Counting(trio.abc.ReceiveStream):
            async def receive_some(self, max_bytes: int | None = None) -> bytes:
                nonlocal taken
                await trio.lowlevel.checkpoint()
                taken += 10_000
                return b"x" * 10_000

            async def aclose(self) -> None:
                await trio.lowlevel.checkpoint()

        pair = trio.testing.memory_stream_pair()
        stapled = trio.StapledStream(pair[0].send_stream, Counting())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ends.proxy.serve, stapled)
            ends.proxy.add(Bandwidth(1.0, direction="up"))
            await trio.sleep(5)
            assert 250_000 < taken < 400_000
            nursery.cancel_scope.cancel()


async def test_slicer_cuts(autojump_clock) -> None:
    """Pieces are of the size it says, with pauses between them."""
    async with spoiled(Slicer(10, size_variation=3, delay=0.5)) as ends:
        await ends.server.send_all(bytes(range(100)))
        pieces: list[bytes | bytearray] = []
        while sum(map(len, pieces)) < 100:
            pieces.append(await ends.client.receive_some())
        assert bytes(range(100)) == b"".join(pieces)
        assert {7, 8, 9, 10, 11, 12, 13} >= {len(piece) for piece in pieces[:-1]}
        assert len({len(piece) for piece in pieces}) > 2
        assert trio.current_time() == pytest.approx((len(pieces) - 1) / 2)


async def test_a_slow_close_is_only_a_late_end(autojump_clock) -> None:
    """Bytes are not late."""
    async with spoiled(SlowClose(7.0)) as ends:
        assert 0 == await ends.crossing(b"x")
        began = trio.current_time()
        await ends.server.aclose()
        assert b"" == await ends.client.receive_some()
        assert pytest.approx(7) == trio.current_time() - began


async def test_a_timeout_swallows_and_then_closes(autojump_clock) -> None:
    """What was sent meanwhile is lost; the other direction goes on until then."""
    async with spoiled() as ends:
        await trio.sleep(100)
        ends.proxy.add(Timeout(9.0))
        await ends.server.send_all(b"lost")
        assert 0 == await ends.crossing(b"x", up=True)
        began = trio.current_time()
        assert b"" == await ends.client.receive_some()
        assert pytest.approx(9) == trio.current_time() - began


async def test_a_timeout_without_time_is_half_a_dead_link(autojump_clock) -> None:
    """Neither bytes nor the end get through, and removing it mends the link, without what was lost."""
    async with spoiled(Timeout(), Timeout(direction="up")) as ends:
        await ends.server.send_all(b"lost")
        with trio.move_on_after(1000) as scope:
            await ends.client.receive_some()
        assert scope.cancelled_caught
        ends.proxy.clear()
        assert (0, 0) == (await ends.crossing(b"found"), await ends.crossing(b"found", up=True))
        ends.proxy.add(Timeout())
        await ends.server.aclose()
        with trio.move_on_after(1000) as scope:
            await ends.client.receive_some()
        assert scope.cancelled_caught


async def test_a_limit_cuts_in_the_middle(autojump_clock) -> None:
    """So many bytes come, then both ends."""
    async with spoiled() as ends:
        assert 0 == await ends.crossing(b"1234")
        ends.proxy.add(LimitData(10))
        await ends.server.send_all(b"567890123")
        assert b"567890" == await receive_exactly(ends.client, 6)
        assert b"" == await ends.client.receive_some()
        assert b"" == await ends.server.receive_some()


async def test_a_reset_comes_after_its_time(autojump_clock) -> None:
    """Counted from when the toxic came."""
    async with spoiled() as ends:
        await trio.sleep(10)
        ends.proxy.add(ResetPeer(3.0, direction="up"))
        assert b"" == await ends.client.receive_some()
        assert pytest.approx(13) == trio.current_time()


async def test_toxicity_is_a_share_of_the_connections(autojump_clock) -> None:
    """About so many are concerned, always the same ones for the same seed."""
    concerned: list[list[bool]] = []
    for _ in range(2):
        async with open_server(EchoModel(), port=None) as server:
            toxic = Latency(1.0, toxicity=0.3, direction="up")
            async with open_chaos_link(server.open_stream, toxics=[toxic], seed=7) as proxy:
                found: list[bool] = []
                for _ in range(50):
                    stream = await proxy.open_stream()
                    began = trio.current_time()
                    await stream.send_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
                    assert (await stream.receive_some()).startswith(b"HTTP/1.1 404")
                    found.append(trio.current_time() - began >= 1)
                    await stream.aclose()
                concerned.append(found)
    assert concerned[0] == concerned[1]
    assert 5 <= sum(concerned[0]) <= 25


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Latency, {"latency": -1}),
        (Latency, {"latency": math.nan}),
        (Latency, {"latency": 1, "direction": "left"}),
        (Latency, {"latency": 1, "toxicity": 1.5}),
        (Bandwidth, {"rate": 0}),
        (Slicer, {"average_size": 0}),
        (Slicer, {"average_size": 5, "size_variation": 5}),
        (LimitData, {"bytes": -1}),
    ],
)
def test_nonsense_is_refused_by_name(kind: type[Toxic], options: dict[str, Any]) -> None:
    """The error names the field."""
    with pytest.raises(ValueError, match=list(options)[-1]):
        kind(**options)


@pytest.mark.parametrize("make", [TrioWebSocketConnector, WebSocketsConnector])
async def test_wires_keep_their_contract_on_a_bad_link(make: Any, autojump_clock) -> None:
    """Late, cut anywhere and narrow, every promise of a wire still holds."""
    toxics = [
        toxic
        for direction in ("up", "down")
        for toxic in (
            Latency(0.02, jitter=0.01, direction=direction),
            Slicer(10_000, size_variation=9_000, direction=direction),
            Bandwidth(20_000_000.0, direction=direction),
        )
    ]

    @asynccontextmanager
    async def make_pair() -> AsyncGenerator[Any]:
        near, far = trio.testing.memory_stream_pair()

        async def connect() -> trio.abc.Stream:
            await trio.lowlevel.checkpoint()
            return near

        async with (
            open_chaos_link(connect, toxics=toxics) as proxy,
            connected(make(open_stream=proxy.open_stream), far, endpoint()) as pair,
        ):
            yield pair

    await check_wire(make_pair)


async def test_an_error_of_the_block_comes_out_as_it_is(autojump_clock) -> None:
    """Not in a group."""
    with pytest.raises(KeyError):
        async with spoiled():
            raise KeyError


@pytest.mark.network
async def test_over_sockets() -> None:
    """A pool through the proxy: slowed, reset in mid-turn, and well again; a server that is not there."""
    async with open_server(EchoModel(), delay_per_token=0.05) as server:
        port = int(server.url.rpartition(":")[2].partition("/")[0])
        with trio.fail_after(20):
            async with open_chaos_proxy("127.0.0.1", port, toxics=[Latency(0.1)]) as proxy:
                url = f"ws://{proxy.host}:{proxy.port}/v1/responses"
                policy = wspool.PoolPolicy(min_idle=0)
                async with wspool.open_pool(url, api_key="k", policy=policy) as pool:
                    async with pool.conversation(model="m") as conversation:
                        began = trio.current_time()
                        assert "hello" == (await conversation.respond("hello")).output_text
                        assert trio.current_time() - began > 0.2, "the upgrade and the answer"

                        async def reset_midway() -> None:
                            async with conversation.turn("a b c d e f") as turn:
                                async for event in turn:
                                    if event.type.endswith("delta"):
                                        proxy.add(ResetPeer())

                        with pytest.raises(wspool.TurnLostError) as lost:
                            await reset_midway()
                        assert ("accepted", 1006) == (lost.value.delivery, lost.value.close_code)
                        proxy.clear()
                        assert "again" == (await conversation.respond("again")).output_text
                    assert 1 == proxy.connections

                listener = socket.socket()
                listener.bind(("127.0.0.1", 0))
                async with open_chaos_proxy("127.0.0.1", listener.getsockname()[1]) as nowhere:
                    stream = await trio.open_tcp_stream(nowhere.host, nowhere.port)
                    assert b"" == await stream.receive_some()
                    await stream.aclose()
                listener.close()


@pytest.mark.network
async def test_a_reset_is_a_reset_over_sockets() -> None:
    """Not just an end: the other side's kernel says so."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    async with listeners[0], open_chaos_proxy("127.0.0.1", port) as proxy:
        client = await trio.open_tcp_stream(proxy.host, proxy.port)
        async with client, await listeners[0].accept() as server:
            proxy.add(ResetPeer())
            for stream in (client, server):
                with trio.fail_after(5), pytest.raises(trio.BrokenResourceError) as caught:
                    await stream.receive_some()
                assert isinstance(caught.value.__cause__, ConnectionResetError)
