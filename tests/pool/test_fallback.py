"""HTTP where WebSockets are of no use: turns go on, and it is seen which way; never a second time what may
have run, and never for ever."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from tests.helpers import (
    CANARY,
    FakeConnector,
    FakeWire,
    Recorder,
    World,
    fake_manager,
    policy,
    refused,
    serving,
)
from wspool import (
    AuthenticationError,
    DialFailedError,
    Pool,
    PoolPolicy,
    ResponseFailedError,
    SteeringRefusedError,
    open_pool,
)
from wspool.core.fallback import OUTAGE_BUDGET, PROBE_FIRST
from wspool.core.frames import read_object
from wspool.server import EchoModel
from wspool.wire.http_wire import HttpConnector
from wspool.wire.trio_websocket import TrioWebSocketConnector
from wspool.wire.wire import ConnectError, Endpoint, Wire


def world() -> AbstractAsyncContextManager[World]:
    """A reference server that talks WebSocket and HTTP."""
    return serving(EchoModel())


class Watcher(Recorder):
    """Keeps changes of the way as well."""

    def __init__(self) -> None:
        super().__init__()
        self.changes: list[tuple[str, str]] = []

    def transport_changed(self, transport: str, message: str) -> None:
        self.changes.append((transport, message))


class Gateway:
    """A connector to a reference server behind a gateway, which says what becomes of WebSockets.

    Attributes:
        failure: what a WebSocket's dial ends with, None if it does not.
        dials: WebSockets that were dialled.
    """

    def __init__(self, world: World) -> None:
        self.failure: Callable[[], ConnectError] | None = lambda: refused(426)
        self.dials = 0
        self.open_stream = world.open_stream
        self._inner = TrioWebSocketConnector(world.open_stream)

    async def connect(
        self, nursery: trio.Nursery, endpoint: Endpoint, headers: Sequence[tuple[str, str]]
    ) -> Wire:
        self.dials += 1
        if self.failure is not None:
            await trio.lowlevel.checkpoint()
            raise self.failure()
        return await self._inner.connect(nursery, endpoint, headers)


@asynccontextmanager
async def behind(
    world: World, *, limits: PoolPolicy | None = None, **options: Any
) -> AsyncGenerator[tuple[Pool, Gateway, Watcher], None]:
    gateway, watcher = Gateway(world), Watcher()
    with trio.fail_after(100_000):
        async with open_pool(
            "ws://localhost/v1/responses",
            wire=gateway,
            fallback="http",
            api_key=CANARY,
            policy=limits or policy(),
            instrument=watcher,
            **options,
        ) as pool:
            yield pool, gateway, watcher


async def test_without_websockets_turns_go_by_http(autojump_clock) -> None:
    async with (
        world() as w,
        behind(w) as (pool, gateway, watcher),
        pool.conversation(model="m") as talk,
    ):
        for number in range(3):
            assert (await talk.respond(f"{number}")).status == "completed"
        assert gateway.dials == 1
        assert pool.transport == "http"
        assert "by HTTP" in repr(pool)
        assert [change[0] for change in watcher.changes] == ["http"]
        assert "426" in watcher.changes[0][1]
    assert [record.transport for record in watcher.records] == ["http"] * 3
    assert [record.transport for record in watcher.dials] == ["websocket", "http"]
    # What is not stored is sent in full each time, and nothing runs twice.
    assert [entry["previous_response_id"] for entry in w.model_turns] == [None] * 3
    assert len(w.model_turns) == 3


async def test_what_is_stored_goes_as_a_delta(autojump_clock) -> None:
    async with (
        world() as w,
        behind(w) as (pool, _, _),
        pool.conversation(model="m", store=True) as talk,
    ):
        for number in range(4):
            await talk.respond(f"{number}")
        assert talk.statistics().delta_turns == 3


async def test_nothing_changes_where_websockets_are_offered(autojump_clock) -> None:
    async with (
        world() as w,
        behind(w) as (pool, gateway, watcher),
        pool.conversation(model="m") as talk,
    ):
        gateway.failure = None
        for number in range(3):
            await talk.respond(f"{number}")
        assert pool.transport == "websocket"
        assert talk.statistics().delta_turns == 2
    assert watcher.changes == []
    assert [record.transport for record in watcher.records] == ["websocket"] * 3


async def test_a_websocket_is_tried_again_and_taken(autojump_clock) -> None:
    async with (
        world() as w,
        behind(w) as (pool, gateway, watcher),
        pool.conversation(model="m") as talk,
    ):
        await talk.respond("0")
        await trio.sleep(PROBE_FIRST - 5)
        await talk.respond("1")
        assert gateway.dials == 1
        await trio.sleep(10)
        await talk.respond("2")
        assert gateway.dials == 2  # it looked, and went on by HTTP
        assert pool.transport == "http"
        gateway.failure = None
        await trio.sleep(2 * PROBE_FIRST)
        await talk.respond("3")
        assert pool.transport == "websocket"
        await talk.respond("4")
    assert [record.transport for record in watcher.records] == [
        "http",
        "http",
        "http",
        "websocket",
        "websocket",
    ]
    assert [change[0] for change in watcher.changes] == ["http", "websocket"]
    assert len(w.model_turns) == 5


async def test_an_outage_of_the_websocket_side_is_borne_for_half_a_minute(autojump_clock) -> None:
    async with (
        world() as w,
        behind(w) as (pool, gateway, watcher),
        pool.conversation(model="m") as talk,
    ):
        gateway.failure = lambda: refused(503)
        began = trio.current_time()
        assert (await talk.respond("hello")).status == "completed"
        assert OUTAGE_BUDGET <= trio.current_time() - began < 3 * OUTAGE_BUDGET
    assert watcher.records[-1].transport == "http"
    assert len(w.model_turns) == 1


async def test_an_endpoint_that_is_not_there_is_down_by_http_too(autojump_clock) -> None:
    limits = policy(give_up_after=200.0)
    async with world() as w, behind(w, limits=limits) as (pool, gateway, watcher):
        gateway.failure = lambda: ConnectError("refused", phase="tcp")
        with pytest.raises(DialFailedError):
            async with pool.lease():
                pass
        assert pool.transport == "websocket"
        assert {record.transport for record in watcher.dials} == {"websocket"}


async def test_a_request_that_may_have_run_is_not_sent_by_http(autojump_clock) -> None:
    """A WebSocket that is closed for policy under a turn: the turn is lost, and the next goes by HTTP."""

    def close(wire: FakeWire, request: dict[str, Any]) -> None:
        wire.hang_up(1008, "not here")

    async with world() as w:
        connector = FakeConnector(close)
        connector.open_stream = w.open_stream  # type: ignore[attr-defined] # a fake with a way for HTTP
        async with fake_manager(connector, fallback="http") as pool, pool.conversation(model="m") as talk:
            with pytest.raises(Exception, match="lost") as caught:
                await talk.respond("hello")
            assert getattr(caught.value, "delivery", None) == "ambiguous"
            assert w.model_turns == []
            assert (await talk.respond("hello")).status == "completed"
            assert pool.transport == "http"
        assert len(w.model_turns) == 1


async def test_there_is_no_steering_and_no_warm_up(autojump_clock) -> None:
    async with (
        world() as w,
        behind(w, warm_up={"model": "m"}, limits=policy(min_idle=1)) as (pool, _, _),
    ):
        await trio.sleep(1)
        async with pool.conversation(model="m") as talk, talk.turn("hello") as turn:
            async for _ in turn:
                break
            with pytest.raises(SteeringRefusedError, match="HTTP"):
                await turn.steer("more")
            assert (await turn.result()).status == "completed"
        assert len(w.ledger) == 1


def test_lanes_and_other_words_are_refused() -> None:
    with pytest.raises(ValueError, match="lanes"):
        fake_manager(FakeConnector(), fallback="http", limits=policy(lanes=4))
    with pytest.raises(ValueError, match="'http'"):
        fake_manager(FakeConnector(), fallback="sse")


def http_pool(world: World) -> AbstractAsyncContextManager[Pool]:
    """A pool that knows nothing else."""
    connector = HttpConnector(read_object, world.open_stream)
    return open_pool(world.server.url, wire=connector, api_key=CANARY, policy=policy())


async def test_http_can_be_all_there_is(autojump_clock) -> None:
    async with world() as w, http_pool(w) as pool:
        async with trio.open_nursery() as nursery:

            async def hold(number: int) -> None:
                async with pool.conversation(model="m") as talk:
                    for turn in range(3):
                        assert (await talk.respond(f"{number} {turn}")).status == "completed"

            for number in range(10):
                nursery.start_soon(hold, number)
        assert pool.transport == "http"
    assert len(w.model_turns) == 30


def by_hand(nursery: trio.Nursery, serve: Callable[[trio.abc.Stream], Awaitable[None]]) -> HttpConnector:
    """A connector of HTTP, at whose other end *serve* answers."""

    async def open_stream(_: Endpoint) -> trio.abc.Stream:
        near, far = trio.testing.memory_stream_pair()
        nursery.start_soon(serve, far)
        await trio.lowlevel.checkpoint()
        return near

    return HttpConnector(read_object, open_stream)


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_a_turn_behind_an_answer_that_ends_its_connection_is_not_lost(
    autojump_clock, version: bytes
) -> None:
    """Its end comes after the last event: what was meant to follow was never sent, and goes elsewhere."""
    requests = 0

    async def serve(stream: trio.abc.Stream) -> None:
        nonlocal requests
        while not bytes(await stream.receive_some()).endswith(b"}"):
            pass
        requests += 1
        response = b'{"id":"resp_%d","object":"response","status":"completed","output":[]}' % requests
        await stream.send_all(
            b"HTTP/%b 200 OK\r\nConnection: close\r\n\r\n"
            b'data: {"type":"response.created","response":%b}\n\n'
            b'data: {"type":"response.completed","response":%b}\n\n'
            % (version, response.replace(b"completed", b"in_progress"), response)
        )
        await trio.sleep(0.2)
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        connector = by_hand(nursery, serve)
        limits = PoolPolicy(max_size=1, min_idle=0)
        async with (
            open_pool("ws://localhost/v1/responses", wire=connector, policy=limits) as pool,
            pool.conversation(model="m") as conversation,
        ):
            for number in (1, 2, 3):
                assert f"resp_{number}" == (await conversation.respond("hi")).id
        assert 3 == requests


@pytest.mark.parametrize("status", [400, 413, 429, 500])
async def test_an_endpoint_that_ends_a_connection_with_each_refusal_is_not_down(
    autojump_clock, status: int
) -> None:
    """It has answered. What one program asks in vain makes nobody else wait."""

    async def serve(stream: trio.abc.Stream) -> None:
        data = b""
        while not data.endswith(b"}"):
            data += bytes(await stream.receive_some())
        said, body = b"%d No" % status, b'{"error":{"code":"no","message":"no"}}'
        if b"good" in data:
            said, body = b"200 OK", b'{"id":"resp_1","status":"completed","output":[]}'
        await stream.send_all(b"HTTP/1.1 %b\r\nConnection: close\r\n\r\n%b" % (said, body))
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        connector = by_hand(nursery, serve)
        limits = PoolPolicy(max_size=3, min_idle=0)
        where = "ws://localhost/v1/responses"
        async with open_pool(where, wire=connector, policy=limits) as pool:
            for _ in range(10):
                async with pool.conversation(model="m") as talk:
                    with pytest.raises(ResponseFailedError):
                        await talk.respond("bad")
            began = trio.current_time()
            async with pool.conversation(model="m") as talk:
                await talk.respond("good")
            assert trio.current_time() == began


@pytest.mark.parametrize("renews", ["in time", "too late", "never"])
async def test_a_key_that_has_run_out_is_asked_for_anew(autojump_clock, renews: str) -> None:
    """Once, as after a refused handshake: it goes with each request, and idle connections have the old."""
    good, given, seen = "key-of-the-morning", ["key-of-the-morning"], list[str]()

    async def serve(stream: trio.abc.Stream) -> None:
        data = bytearray()
        while more := bytes(await stream.receive_some()):
            data += more
            if not data.endswith(b"}"):
                continue
            seen.append(bytes(data).partition(b"Bearer ")[2].partition(b"\r\n")[0].decode())
            data.clear()
            await trio.sleep(1)
            status, body = b"200 OK", b'{"id":"resp_%d","status":"completed","output":[]}' % len(seen)
            if seen[-1] != good:
                status, body = b"401 No", b'{"error":{"code":"invalid_api_key","message":"no"}}'
            await stream.send_all(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))

    def key() -> str:
        return given[0]

    async def turn() -> None:
        async with pool.conversation(model="m") as talk:
            await talk.respond("hi")

    async with trio.open_nursery() as nursery:
        connector = by_hand(nursery, serve)
        limits = PoolPolicy(max_size=3, min_idle=0)
        where = "ws://localhost/v1/responses"
        async with open_pool(
            where, wire=connector, api_key=good if renews == "never" else key, policy=limits
        ) as pool:
            async with trio.open_nursery() as turns:
                for _ in range(3):
                    turns.start_soon(turn)
            assert 3 == pool.statistics().open
            good = "key-of-the-evening"
            if renews == "in time":
                given[0] = good
                await turn()
                await turn()
                assert ["key-of-the-morning", good, good] == seen[3:]
            else:
                with pytest.raises(AuthenticationError):
                    await turn()
                assert (2 if renews == "too late" else 1) == len(seen[3:])
