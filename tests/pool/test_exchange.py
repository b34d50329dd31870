"""One exchange: events as they came, or one body; every end is told; who leaves costs nothing."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

import wspool
from tests.helpers import (
    FakeConnector,
    FakeWire,
    assert_conserved,
    completed,
    created,
    delta,
    echo,
    error_frame,
    fake_pool,
    policy,
    refused,
    said,
)
from wspool.pool import handover as module
from wspool.pool.exchange import Expired, Limits, Outlet, exchange


class Reader:
    """Reads an outlet in the pool's own run."""

    def __init__(self, outlet: Outlet) -> None:
        self.outlet = outlet

    async def head(self) -> int:
        event = trio.Event()
        if self.outlet.wait_to_begin(event.set):
            await event.wait()
        if self.outlet.head is None:
            assert self.outlet.error is not None
            raise self.outlet.error
        return self.outlet.head.status

    async def more(self) -> bytes:
        event = trio.Event()
        if self.outlet.wait_for_more(event.set):
            await event.wait()
        pieces, full = self.outlet.take()
        if full:
            self.outlet.make_room()
        data = b"".join(pieces)
        if not data and self.outlet.error is not None:
            raise self.outlet.error
        return data

    async def body(self) -> bytes:
        whole = b""
        while data := await self.more():
            whole += data
        return whole


@asynccontextmanager
async def exchanging(
    connector: FakeConnector,
    body: Mapping[str, Any] | None = None,
    *,
    limits: wspool.PoolPolicy | None = None,
    asked: Limits | None = None,
    **options: Any,
) -> AsyncGenerator[tuple[Reader, wspool.Pool]]:
    """An exchange in the background; at the end no lease is out."""
    async with fake_pool(connector, limits=limits) as pool:

        async def the_pool() -> wspool.Pool:
            await trio.lowlevel.checkpoint()
            return pool

        outlet = Outlet()
        async with trio.open_nursery() as nursery:
            given = {"model": "m", "input": "hi", **(body or {})}
            nursery.start_soon(lambda: exchange(the_pool, given, outlet, limits=asked or Limits(), **options))
            yield Reader(outlet), pool
        assert outlet.ended
        assert 0 == pool.statistics().leased
        assert_conserved(pool.statistics())


def events_of(data: bytes) -> list[dict[str, Any]]:
    """What a client of server-sent events sees."""
    found = []
    for block in data.decode().split("\n\n"):
        lines = [line.partition(": ") for line in block.split("\n") if line]
        if lines:
            found.append(json.loads("\n".join(value for name, _, value in lines if name == "data")))
            names = [value for name, _, value in lines if name == "event"]
            assert names in ([found[-1]["type"]], [])
    return found


@pytest.mark.parametrize("stream", [True, False])
async def test_who_is_told_the_end_finds_the_lane_free(autojump_clock, stream: bool) -> None:
    """And is told of it once: with the last piece."""
    async with exchanging(FakeConnector(echo), {"stream": stream}) as (reader, pool):
        await reader.head()
        data = b""
        while b"completed" not in data:
            data += await reader.more()
        assert 0 == pool.statistics().leased
        assert reader.outlet.ended
        assert b"" == await reader.more()


async def test_events_go_out_as_they_came(autojump_clock) -> None:
    """To the byte, and all that are there in one piece."""
    raw = '{"type":"response.output_text.delta",  "delta":"é"}'

    def answer(wire: FakeWire, _: dict[str, Any]) -> None:
        wire.push(created("resp_1"), raw, completed("resp_1"))

    async with exchanging(FakeConnector(answer), {"stream": True}) as (reader, _):
        assert 200 == await reader.head()
        assert reader.outlet.head is not None
        headers = dict(reader.outlet.head.headers)
        body = await reader.body()

    assert "text/event-stream" in headers["content-type"]
    assert headers["x-request-id"].startswith("wspool-")
    assert f"event: response.output_text.delta\ndata: {raw}\n\n".encode() in body
    assert ["response.created", "response.output_text.delta", "response.completed"] == [
        event["type"] for event in events_of(body)
    ]


async def test_without_stream_there_is_one_body(autojump_clock) -> None:
    """The response, with its length."""
    async with exchanging(FakeConnector(echo)) as (reader, _):
        assert 200 == await reader.head()
        body = await reader.body()

    assert reader.outlet.head is not None
    headers = dict(reader.outlet.head.headers)
    assert ("application/json", str(len(body))) == (headers["content-type"], headers["content-length"])
    assert "completed" == json.loads(body)["status"]


async def test_what_the_core_has_mended_is_written_anew(autojump_clock) -> None:
    """A terminal event without its output has it; one of a name of its own has the usual one."""
    item = {"id": "m", **said("ok")}

    def answer(wire: FakeWire, _: dict[str, Any]) -> None:
        wire.push(
            created("resp_1"),
            {"type": "response.output_item.done", "output_index": 0, "item": item},
            {
                "type": "response.done",
                "response": {"id": "resp_1", "status": "completed", "output": []},
                "more": 1,
            },
        )

    async with exchanging(FakeConnector(answer), {"stream": True}) as (reader, _):
        last = events_of(await reader.body())[-1]

    assert "response.completed" == last["type"]
    assert ([item], 1) == (last["response"]["output"], last["more"])


async def test_an_event_of_several_lines_stays_one(autojump_clock) -> None:
    """Some servers write JSON for people; a type may be anything."""
    pretty = json.dumps({"type": "odd\ntype", "response_id": "resp_1"}, indent=1).replace("\n", "\r\n")

    def answer(wire: FakeWire, _: dict[str, Any]) -> None:
        wire.push(created("resp_1"), json.dumps(delta("x"), indent=2), pretty, completed("resp_1"))

    async with exchanging(FakeConnector(answer), {"stream": True}) as (reader, _):
        events = events_of(await reader.body())

    assert delta("x") in events
    assert {"type", "response"} <= events[-1].keys()


async def test_events_in_bytes_go_out_as_well(autojump_clock) -> None:
    """There are wires that give bytes."""

    def answer(wire: FakeWire, _: dict[str, Any]) -> None:
        wire.push(*[json.dumps(e).encode() for e in (created("resp_1"), delta("é"), completed("resp_1"))])

    async with exchanging(FakeConnector(answer), {"stream": True}) as (reader, _):
        assert delta("é") in events_of(await reader.body())


@pytest.mark.parametrize("stream", [True, False])
async def test_a_refusal_has_no_head(autojump_clock, stream: bool) -> None:
    """It is an answer of its own: the door makes it."""
    connector = FakeConnector(lambda wire, _: wire.push(error_frame("invalid_prompt")))
    async with exchanging(connector, {"stream": stream}) as (reader, _):
        with pytest.raises(wspool.ResponseFailedError):
            await reader.head()


@pytest.mark.parametrize("stream", [True, False])
async def test_a_response_that_failed_is_an_answer(autojump_clock, stream: bool) -> None:
    """As over HTTP: 200, and the response says what went wrong."""
    failed = {
        "id": "resp_1",
        "status": "failed",
        "output": [],
        "error": {"code": "server_error", "message": "x"},
    }

    def answer(wire: FakeWire, _: dict[str, Any]) -> None:
        wire.push(created("resp_1"), {"type": "response.failed", "response": failed})

    async with exchanging(FakeConnector(answer), {"stream": stream}) as (reader, _):
        assert 200 == await reader.head()
        body = await reader.body()
    assert failed == (events_of(body)[-1]["response"] if stream else json.loads(body))


async def test_a_loss_in_the_middle_is_told_after_what_came(autojump_clock) -> None:
    """With a head there is no other status any more."""

    def answer(wire: FakeWire, _: dict[str, Any]) -> None:
        wire.push(created("resp_1"), delta("x"))
        wire.hang_up()

    async with exchanging(FakeConnector(answer), {"stream": True}) as (reader, _):
        assert 200 == await reader.head()
        assert 2 == len(events_of(await reader.more()))
        with pytest.raises(wspool.TurnLostError):
            await reader.more()


async def test_what_cannot_be_sent_is_the_callers_error(autojump_clock) -> None:
    """Nothing was dialled for it."""
    connector = FakeConnector(echo)
    async with exchanging(connector, {"input": 7}) as (reader, _):
        with pytest.raises(TypeError, match="input"):
            await reader.head()
    assert 0 == connector.dials


async def test_a_pool_that_cannot_be_opened_is_told(autojump_clock) -> None:
    """Whatever it was."""

    async def no_pool() -> wspool.Pool:
        await trio.lowlevel.checkpoint()
        raise ValueError("no such URL")

    outlet = Outlet()
    await exchange(no_pool, {}, outlet)
    with pytest.raises(ValueError, match="no such URL"):
        await Reader(outlet).head()


@pytest.mark.parametrize(
    ("limits", "setting", "phase", "after"),
    [
        (Limits(connect=5, pool=600), "dial", "connect", 5),
        (Limits(connect=600, pool=5), "dial", "connect", 5),
        (Limits(connect=5, pool=20), "line", "pool", 20),
        (Limits(read=10), "silence", "read", 10),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_the_callers_limits_are_kept(
    autojump_clock, limits: Limits, setting: str, phase: str, after: float, stream: bool
) -> None:
    """A connection is waited for where there is none at all; else it is the line that is waited in."""
    connector = FakeConnector(lambda wire, _: None)
    if setting == "dial":
        connector.hold()
    async with _limited(connector, setting, limits, stream=stream) as reader:
        since = trio.current_time()
        with pytest.raises(Expired) as expired:
            await reader.head()
        assert phase == expired.value.phase
        assert after <= trio.current_time() - since <= after * 1.3
        connector.release()


@pytest.mark.parametrize("stream", [True, False])
async def test_a_limit_that_ends_as_the_request_is_sent_is_told_as_one(autojump_clock, stream: bool) -> None:
    """Nothing waits between the sending and the next limit, which must not hide that."""
    connector = FakeConnector(lambda wire, _: autojump_clock.jump(6))
    async with exchanging(connector, {"stream": stream}, asked=Limits(pool=5)) as (reader, _):
        with pytest.raises(Expired) as expired:
            await reader.head()
    assert "read" == expired.value.phase


@asynccontextmanager
async def _limited(
    connector: FakeConnector, setting: str, limits: Limits, *, stream: bool
) -> AsyncGenerator[Reader]:
    async with fake_pool(connector, limits=policy(max_size=1)) as pool, trio.open_nursery() as nursery:

        async def the_pool() -> wspool.Pool:
            await trio.lowlevel.checkpoint()
            return pool

        outlet = Outlet()
        body = {"model": "m", "input": "hi", "stream": stream}
        if setting == "line":
            async with pool.lease():
                nursery.start_soon(lambda: exchange(the_pool, body, outlet, limits=limits))
                yield Reader(outlet)
        else:
            nursery.start_soon(lambda: exchange(the_pool, body, outlet, limits=limits))
            yield Reader(outlet)


async def test_a_connection_that_others_have_taken_is_waited_for_in_line(autojump_clock) -> None:
    """Once there is one, it is the limit of the line that counts."""
    connector = FakeConnector(echo)
    connector.hold()
    async with fake_pool(connector, limits=policy(max_size=1)) as pool, trio.open_nursery() as nursery:

        async def the_pool() -> wspool.Pool:
            await trio.lowlevel.checkpoint()
            return pool

        async def take_it_first() -> None:
            async with pool.lease():
                await trio.sleep(20)

        nursery.start_soon(take_it_first)
        await trio.testing.wait_all_tasks_blocked()
        outlet, limits = Outlet(), Limits(connect=5, pool=60)
        nursery.start_soon(lambda: exchange(the_pool, {"model": "m", "input": "hi"}, outlet, limits=limits))
        await trio.sleep(4)
        connector.release()
        assert 200 == await Reader(outlet).head()
        assert 24 <= trio.current_time() < 25


async def test_why_there_is_no_connection_is_told(autojump_clock) -> None:
    """Not only that there was none in time."""
    connector = FakeConnector(echo)
    connector.failure = lambda: refused(503)
    async with _limited(connector, "", Limits(connect=5), stream=True) as reader:
        with pytest.raises(wspool.DialFailedError, match="503"):
            await reader.head()
        connector.failure = None


async def test_events_are_life(autojump_clock) -> None:
    """A response that takes long, and says so, is not silent: with a stream, and without."""

    async def tell(wire: FakeWire) -> None:
        wire.push(created("resp_1"))
        for _ in range(6):
            await trio.sleep(5)
            wire.push(delta("x"))
        wire.push(completed("resp_1"))

    for stream in (True, False):
        async with trio.open_nursery() as nursery:
            connector = FakeConnector(lambda wire, _: nursery.start_soon(tell, wire))
            async with _limited(connector, "", Limits(read=8), stream=stream) as reader:
                assert 200 == await reader.head()
                await reader.body()


async def test_a_reader_who_stops_is_no_silence(autojump_clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody expects anything while too much is unread; from then on it counts again."""
    monkeypatch.setattr(module, "MOST_UNREAD", 100)

    def answer(wire: FakeWire, _: dict[str, Any]) -> None:
        wire.batched = False
        wire.push(created("resp_1"), *[delta("x" * 60) for _ in range(5)])

    async with _limited(FakeConnector(answer), "", Limits(read=8), stream=True) as reader:
        assert 200 == await reader.head()
        await trio.sleep(30)
        pieces: list[bytes] = []

        async def read() -> None:
            while data := await reader.more():
                pieces.append(data)

        with pytest.raises(Expired):
            await read()
        assert 6 == len(events_of(b"".join(pieces)))
        assert 38 == trio.current_time()


async def test_what_is_not_read_waits(autojump_clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exchange, and the server behind it; nothing is lost."""
    monkeypatch.setattr(module, "MOST_UNREAD", 100)

    def answer(wire: FakeWire, _: dict[str, Any]) -> None:
        wire.batched = False
        wire.push(created("resp_1"), *[delta("x" * 60) for _ in range(50)], completed("resp_1"))

    async with exchanging(FakeConnector(answer), {"stream": True}, limits=policy(max_buffered=1000)) as (
        reader,
        _,
    ):
        await trio.sleep(10)
        assert not reader.outlet.ended
        first = await reader.more()
        assert len(first) < 1000
        assert 51 == len(events_of(first + await reader.body())) - 1


async def test_who_leaves_gives_the_turn_up(autojump_clock) -> None:
    """In the next moment; the lane is not used again, as its rest may come."""
    connector = FakeConnector(lambda wire, _: wire.push(created("resp_1"), delta("x")))
    async with exchanging(connector, {"stream": True}) as (reader, pool):
        assert 200 == await reader.head()
        reader.outlet.leave()
        reader.outlet.leave()
        await trio.sleep(0.1)
        assert reader.outlet.ended
        assert 0 == pool.statistics().leased
    assert not connector.wire.open


async def test_who_leaves_before_the_head_gives_the_turn_up(autojump_clock) -> None:
    """Also out of the line, and out of a dial."""
    connector = FakeConnector(echo)
    connector.hold()
    async with exchanging(connector, {"stream": True}) as (reader, pool):
        await trio.sleep(1)
        reader.outlet.leave()
        await trio.sleep(0.1)
        assert 0 == pool.statistics().waiting
        connector.release()


@pytest.mark.parametrize("moment", [0.0, 0.03])
async def test_to_leave_at_the_end_costs_nothing(autojump_clock, moment: float) -> None:
    """What is there, or comes in the next moment, is taken to its end: the lane stays, and remembers."""
    connector = FakeConnector(lambda wire, _: wire.push(created("resp_1"), delta("x")))
    async with exchanging(connector, {"stream": True}) as (reader, pool):
        assert 200 == await reader.head()
        if moment == 0.0:
            connector.wire.push(completed("resp_1"))
            await trio.testing.wait_all_tasks_blocked()
        reader.outlet.leave()
        await trio.sleep(moment)
        if moment:
            connector.wire.push(completed("resp_1"))
        await trio.sleep(0.1)
        assert 1 == pool.statistics().idle


async def test_a_reader_who_leaves_makes_room(autojump_clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for somebody who is gone."""
    monkeypatch.setattr(module, "MOST_UNREAD", 10)
    async with exchanging(FakeConnector(echo), {"stream": True}) as (reader, pool):
        await trio.sleep(1)
        assert not reader.outlet.ended
        reader.outlet.leave()
        await trio.sleep(0.1)
        assert 1 == pool.statistics().idle
    assert reader.outlet.error is None


async def test_an_exchange_that_is_cancelled_says_so(autojump_clock) -> None:
    """Whoever waits for its answer is not left waiting."""
    connector = FakeConnector(lambda wire, _: wire.push(created("resp_1")))
    async with fake_pool(connector) as pool:

        async def the_pool() -> wspool.Pool:
            await trio.lowlevel.checkpoint()
            return pool

        for when, delivery in ((0.0, "not_sent"), (1.0, "accepted")):
            outlet = Outlet()
            with trio.move_on_after(when) as scope:
                await exchange(the_pool, {"model": "m", "input": "hi"}, outlet)
            assert scope.cancelled_caught
            with pytest.raises(wspool.PoolClosedError) as closed:
                await Reader(outlet).head()
            assert delivery == closed.value.delivery


async def test_an_endpoint_that_refuses_is_told(autojump_clock) -> None:
    """With what it said."""
    connector = FakeConnector(echo)
    connector.failures.append(refused(401))
    async with exchanging(connector) as (reader, _):
        with pytest.raises(wspool.AuthenticationError):
            await reader.head()


def test_no_limit_is_no_limit() -> None:
    """By default nobody hurries."""
    assert Limits() == Limits(connect=math.inf, pool=math.inf, read=math.inf)
