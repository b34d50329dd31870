"""What a wire holds of a message that is on its way is known, and told while it grows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import h11
import pytest
import trio
import trio.testing

from wspool.core.frames import read_object
from wspool.wire.gauge import STEP, Gauge
from wspool.wire.http_wire import HttpConnector
from wspool.wire.wire import Endpoint, Gauged, Wire

from .peer import endpoint, frame, opener, read_request, switching_protocols

SIZE = 4 * STEP
CREATE = b'{"type":"response.create","model":"m","input":"hi"}'


def test_it_tells_at_each_step_and_anew_for_the_next_message() -> None:
    """Once for each step, however it is cut up; a message that begins later begins at the first step."""
    gauge, told = Gauge(), list[int]()
    gauge.check()
    gauge.on_growth = lambda: told.append(gauge.held)
    for size in (STEP // 2, STEP, STEP + 1, 2 * STEP, 10 * STEP, 0, STEP - 1, STEP):
        gauge.partial = size
        gauge.check()
    assert [STEP, 2 * STEP, 10 * STEP, STEP] == told


async def _grown(wire: Wire, send: Callable[[bytes], Awaitable[None]], parts: list[bytes]) -> list[int]:
    """Send all of *parts*; return what was held after each but the last; the last makes it whole."""
    assert isinstance(wire, Gauged)
    gauge, held, told, got = wire.gauge, list[int](), list[int](), list[str | bytes]()
    gauge.on_growth = lambda: told.append(gauge.held)

    async def receive() -> None:
        got.extend(await wire.receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        for part in parts:
            await send(part)
            await trio.testing.wait_all_tasks_blocked()
            held.append(gauge.held)
    assert 0 == gauge.held
    assert SIZE == len(got[0])
    assert told == sorted(told)
    assert len(told) >= 3
    return held[:-1]


@pytest.mark.parametrize("kind", ["one frame", "fragments"])
async def test_a_websocket_message_that_is_not_whole(make, kind) -> None:
    """In one frame or in many: what has come counts, until it was received."""
    text = b"x" * SIZE
    if kind == "one frame":
        whole = frame(0x1, text)
        parts = [whole[at : at + STEP] for at in range(0, len(whole), STEP)]
    else:
        pieces = [text[at : at + STEP] for at in range(0, SIZE, STEP)]
        parts = [
            frame(0x0 if at else 0x1, piece, fin=at == len(pieces) - 1) for at, piece in enumerate(pieces)
        ]
    near, far = trio.testing.memory_stream_pair()

    async def serve() -> None:
        await far.send_all(switching_protocols(await read_request(far)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        wire = await make(opener(near)).connect(nursery, endpoint(max_message_size=SIZE), [])
        held = await _grown(wire, far.send_all, parts)
        await wire.abort()
        nursery.cancel_scope.cancel()
    for count, size in enumerate(held, 1):
        assert abs(size - count * STEP) <= 16 * count


async def test_an_answer_over_http_that_is_not_whole() -> None:
    """An event of a stream."""
    near, far = trio.testing.memory_stream_pair()
    server = h11.Connection(h11.SERVER)

    async def open_stream(_: Endpoint) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        return near

    async def say(event: h11.Event) -> None:
        data = server.send(event)
        assert data is not None
        await far.send_all(data)

    async with trio.open_nursery() as nursery:
        wire = await HttpConnector(read_object, open_stream).connect(
            nursery, endpoint(max_message_size=SIZE + STEP), []
        )
        await wire.send(CREATE)
        while server.next_event() is h11.NEED_DATA:
            server.receive_data(bytes(await far.receive_some()))
        await say(h11.Response(status_code=200, headers=[("Content-Type", "text/event-stream")]))
        parts = [b"data: ", *[b"x" * STEP] * 4, b"\n\n"]
        held = await _grown(wire, lambda part: say(h11.Data(data=part)), parts)
        await wire.abort()
    assert [0, 1, 2, 3, 4] == [size // STEP for size in held]
