"""What only the trio-websocket wire has to be shielded from."""

from __future__ import annotations

import logging

import trio
import trio.testing
import trio_websocket
import wsproto.events

from wspool.wire.trio_websocket import TrioWebSocketConnector

from .peer import frame
from .scripts import CLOSE, PING, PONG, TEXT, closing, scripted, serve_for_ever


async def test_the_private_attributes_this_wire_relies_on_exist():
    """A new trio-websocket that renames them must fail here, not leak a key in silence."""
    near, far = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_for_ever, far)
        connection = await trio_websocket.wrap_client_stream(nursery, near, "h", "/")  # type: ignore[arg-type]
        assert isinstance(connection._initial_request, wsproto.events.Request)
        assert isinstance(connection._wsproto.handshake._initiating_request, wsproto.events.Request)
        assert callable(connection._send)
        nursery.cancel_scope.cancel()
    await near.aclose()


async def test_nothing_is_ever_logged(caplog):
    """At DEBUG trio-websocket prints what the peer says; of its other users it goes on to do so."""
    caplog.set_level(logging.DEBUG)
    near, far = trio.testing.memory_stream_pair()
    async with scripted(TrioWebSocketConnector) as (wire, server), trio.open_nursery() as nursery:
        await server.send_all(frame(PING, b"secret") + frame(CLOSE, (1008).to_bytes(2, "big") + b"secret"))
        assert (await closing(wire.receive)).reason == "secret"
        assert caplog.records == []

        nursery.start_soon(serve_for_ever, far)
        await trio_websocket.wrap_client_stream(nursery, near, "h", "/")  # type: ignore[arg-type]
        assert {record.name for record in caplog.records} == {"trio-websocket"}
        nursery.cancel_scope.cancel()
    await near.aclose()


async def test_a_ping_after_our_close_harms_nothing(autojump_clock):
    """trio-websocket's reader crashes over it; aclose returns at once, and the nursery never hears of it."""
    async with scripted(TrioWebSocketConnector) as (wire, server):
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wire.aclose)
            await trio.testing.wait_all_tasks_blocked()
            await server.send_all(frame(PING, b"still there?"))

        assert trio.current_time() - began == 0
        assert (await closing(wire.receive)).code == 1000


async def test_pings_are_answered_while_messages_wait():
    """Unread messages do not make this side look dead."""
    async with scripted(TrioWebSocketConnector, first=frame(TEXT, b"x") * 60) as (wire, server):
        await server.send_all(frame(PING, b"hello"))
        await trio.testing.wait_all_tasks_blocked()
        pong = await server.receive_some()

        assert (pong[0], pong[1]) == (0x80 | PONG, 0x80 | 5)
        assert len(await wire.receive()) == 60, "all of them in one batch"


async def test_abort_ends_a_reader_that_is_held_up_by_unread_messages():
    """Even with a full queue nothing of the wire stays behind (see the end of `scripted`)."""
    async with scripted(TrioWebSocketConnector, first=frame(TEXT, b"x") * 200) as (wire, _):
        await trio.testing.wait_all_tasks_blocked()
        await wire.abort()
