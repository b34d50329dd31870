"""`wspool proxy` behind nginx with its default buffering, and an impatient one."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.proxy.asking import Client
from tests.proxy.talking import Client as WebSocketClient
from tests.proxy.test_websocket import UPGRADE
from wspool.proxy import Settings, Where, open_proxy
from wspool.server import EchoModel, Model, ModelRequest, ModelTurn, message, open_server

from .test_nginx import nginx
from .tools import free_port, needs

#: nginx that gives up on whatever says nothing for a good second. By default it is sixty.
IMPATIENT = "proxy_read_timeout 1200ms;"


class Thinks:
    """A model that thinks for longer than nginx waits."""

    def respond(self, request: ModelRequest) -> ModelTurn:
        return ModelTurn(output=[message("yes")], delay=3.0)


@asynccontextmanager
async def proxied(
    folder: Path, model: Model, inside: str = "", *, delay: float = 0.0, **settings: object
) -> AsyncGenerator[trio.SocketStream]:
    """A connection to nginx before a proxy before a provider."""
    port = free_port()
    with trio.fail_after(60):
        async with (
            open_server(model, delay_per_token=delay) as server,
            open_proxy(
                server.url,
                where=Where(host="127.0.0.1", port=0),
                settings=Settings(keepalive=0.4, **settings),  # type: ignore[arg-type]
            ) as proxy,
            nginx(folder, inside)(int(proxy.base_url.rpartition(":")[2].partition("/")[0]), port),
            await trio.open_tcp_stream("127.0.0.1", port) as stream,
        ):
            yield stream


@needs("nginx")
async def test_events_pass_at_once(tmp_path: Path) -> None:
    """It buffers answers by default, but not those that ask it not to."""
    async with proxied(tmp_path, EchoModel(), delay=0.3) as stream:
        answer = await Client(stream).turn("a b c d", stream=True)

    assert "response.completed" == answer.types[-1]
    assert answer.times[-1] - answer.times[0] > 0.8


@needs("nginx")
@pytest.mark.parametrize(
    ("stream", "told", "status"), [(True, False, 200), (False, True, 200), (False, False, 504)]
)
async def test_silence_is_broken_before_it_gives_up(
    tmp_path: Path, stream: bool, told: bool, status: int
) -> None:
    """By events in a stream, and by white space before a body, if that is wanted."""
    async with proxied(tmp_path, Thinks(), IMPATIENT, keepalive_json=told) as connection:
        answer = await Client(connection).turn(stream=stream)

    assert status == answer.status
    if status == 200:
        assert "completed" == (answer.events[-1]["response"] if stream else answer.json)["status"]


@needs("nginx")
async def test_a_websocket_is_kept_by_pings(tmp_path: Path) -> None:
    """Through its upgrade, while nothing is asked and while the model thinks."""
    async with proxied(tmp_path, Thinks(), IMPATIENT) as stream:
        lines = ["GET /v1/responses HTTP/1.1", "host: localhost", "authorization: Bearer sk-test"]
        lines += [f"{name}: {value}" for name, value in UPGRADE]
        await stream.send_all(("\r\n".join(lines) + "\r\n\r\n").encode())
        head = b""
        while b"\r\n\r\n" not in head:
            head += bytes(await stream.receive_some(1))
        assert head.startswith(b"HTTP/1.1 101 ")
        client = WebSocketClient(stream)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.run)
            await client.until(lambda: client.pings >= 5)
            await client.create("one")
            assert "response.completed" == (await client.answer())["type"]
            nursery.cancel_scope.cancel()
