"""Clients of the blaster, each used as its documentation shows: one turn, as often as it is asked for.

* floor: a bare trio stream, a frame parser of twenty lines that unmasks and checks nothing, orjson.
* trio-websocket: `open_websocket_url` with its defaults; "tuned" reads 64 KiB at a time and ahead.
* websockets: `websockets.asyncio.client.connect` without compression.
* aiohttp: `ws_connect`. picows: a listener.
* openai: `AsyncOpenAI().responses.connect()`, whose events are always decoded.
* wspool: a pool, a lease, and `async for event in turn`; or a conversation and `respond`.

A turn is over with its terminal event, which everybody finds by its first bytes; who decodes, decodes
every event, with orjson where it is not the client's own business.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import importlib
import os
import ssl
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import attrs
import trio

import wspool
from benchmarks.harness import Sample, Stopwatch, installed
from benchmarks.processes import Server, client_context
from benchmarks.script import Say

__all__ = ["CLIENTS", "Load", "Result", "available", "open_floor", "play"]

#: Takes one turn with that input; returns how many events came.
Turn = Callable[[str], Awaitable[int]]

_COMPLETED: Final = '{"type":"response.completed"'
_COMPLETED_BYTES: Final = _COMPLETED.encode()


@attrs.frozen(kw_only=True)
class Load:
    """What a client is given to do.

    Attributes:
        server: who answers.
        say: what it says.
        connections: how many at once.
        turns: on each.
        decode: True to decode every event.
        text: the input of each turn.
        warm: turns on each before the clock starts.
    """

    server: Server
    say: Say
    connections: int = 1
    turns: int = 1
    decode: bool = False
    text: str = "x"
    warm: int = 1
    port: int | None = None

    @property
    def url(self) -> str:
        """Where to."""
        return self.server.url(self.say, port=self.port)

    @property
    def context(self) -> ssl.SSLContext | None:
        """TLS settings, None without TLS."""
        return client_context() if self.server.tls else None


@attrs.frozen
class Result:
    """What came out: the cost of all turns, and the wall seconds of each."""

    sample: Sample
    events: int
    latencies: list[float]

    @property
    def per_event(self) -> Sample:
        """The same, by event."""
        return Sample(self.events, self.sample.wall, self.sample.cpu)


def _body(text: str) -> dict[str, Any]:
    return {"type": "response.create", "model": "bench", "input": text}


# -- trio -----------------------------------------------------------------------------------------


class _Floor:
    """The least that a client on trio can do."""

    def __init__(self, stream: trio.abc.Stream, decode: bool) -> None:
        self._stream = stream
        self._buffer = bytearray()
        self._decode = decode

    async def turn(self, text: str) -> int:
        import orjson

        payload = orjson.dumps(_body(text))
        size = len(payload)
        head = bytes([0x81, 0x80 | size]) if size < 126 else b"\x81\xfe" + size.to_bytes(2)
        # A mask of zeros leaves the payload as it is.
        await self._stream.send_all(head + bytes(4) + payload)
        loads, decode, count = orjson.loads, self._decode, 0
        buffer = self._buffer
        while True:
            buffer += await self._stream.receive_some(65536)
            at, end = 0, len(buffer)
            while at + 4 <= end:
                size, start = buffer[at + 1], at + 2
                if size == 126:
                    size, start = buffer[at + 2] << 8 | buffer[at + 3], at + 4
                elif size == 127:
                    size, start = int.from_bytes(buffer[at + 2 : at + 10]), at + 10
                if start + size > end:
                    break
                at = start + size
                count += 1
                message = bytes(buffer[start:at])
                if decode:
                    loads(message)
                if message.startswith(_COMPLETED_BYTES):
                    del buffer[:at]
                    return count
            del buffer[:at]


@asynccontextmanager
async def open_floor(
    url: str, context: ssl.SSLContext | None, connections: int, decode: bool
) -> AsyncGenerator[list[Turn], None]:
    """Open that many connections of the least client; the turns of each."""
    parts = urlsplit(url)
    turns: list[Turn] = []
    async with AsyncExitStack() as stack:
        for _ in range(connections):
            stream: trio.abc.Stream = await trio.open_tcp_stream("127.0.0.1", parts.port or 0)
            if context is not None:
                stream = trio.SSLStream(stream, context, server_hostname="localhost", https_compatible=True)
            await stack.enter_async_context(stream)
            key = base64.b64encode(os.urandom(16)).decode()
            await stream.send_all(
                f"GET {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\n"
                f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                f"Sec-WebSocket-Key: {key}\r\n\r\n".encode()
            )
            answer = b""
            while not answer.endswith(b"\r\n\r\n"):
                answer += await stream.receive_some(65536)
            turns.append(_Floor(stream, decode).turn)
        yield turns


def _open_trio_websocket(**options: Any) -> Callable[[Load], Any]:
    @asynccontextmanager
    async def open_it(load: Load) -> AsyncGenerator[list[Turn], None]:
        import trio_websocket

        orjson: Any = importlib.import_module("orjson")

        def turn_on(socket: trio_websocket.WebSocketConnection) -> Turn:
            async def turn(text: str) -> int:
                await socket.send_message(orjson.dumps(_body(text)).decode())
                count, decode = 0, load.decode
                while True:
                    message = await socket.get_message()
                    count += 1
                    if decode:
                        orjson.loads(message)
                    if message.startswith(_COMPLETED):  # type: ignore[arg-type]
                        return count

            return turn

        async with AsyncExitStack() as stack:
            sockets = [
                await stack.enter_async_context(
                    trio_websocket.open_websocket_url(load.url, ssl_context=load.context, **options)
                )
                for _ in range(load.connections)
            ]
            yield [turn_on(socket) for socket in sockets]

    return open_it


def _policy(load: Load) -> wspool.PoolPolicy:
    return wspool.PoolPolicy(max_size=load.connections, min_idle=0, close_timeout=0.5)


Wire = Literal["websockets", "trio-websocket"]


def _open_lease(wire: Wire) -> Callable[[Load], Any]:
    @asynccontextmanager
    async def open_it(load: Load) -> AsyncGenerator[list[Turn], None]:
        def turn_on(lease: wspool.Lease) -> Turn:
            async def turn(text: str) -> int:
                count, decode = 0, load.decode
                async with lease.create(model="bench", input=text) as turn:
                    async for event in turn:
                        count += 1
                        if decode:
                            event.data  # noqa: B018
                return count

            return turn

        async with (
            wspool.open_pool(load.url, wire=wire, ssl_context=load.context, policy=_policy(load)) as pool,
            AsyncExitStack() as stack,
        ):
            leases = [await stack.enter_async_context(pool.lease()) for _ in range(load.connections)]
            yield [turn_on(lease) for lease in leases]

    return open_it


def _open_conversation(wire: Wire) -> Callable[[Load], Any]:
    @asynccontextmanager
    async def open_it(load: Load) -> AsyncGenerator[list[Turn], None]:
        def turn_on(conversation: wspool.Conversation) -> Turn:
            async def turn(text: str) -> int:
                await conversation.respond(text)
                return load.say.events

            return turn

        async with (
            wspool.open_pool(load.url, wire=wire, ssl_context=load.context, policy=_policy(load)) as pool,
            AsyncExitStack() as stack,
        ):
            yield [
                turn_on(await stack.enter_async_context(pool.conversation(model="bench")))
                for _ in range(load.connections)
            ]

    return open_it


# -- asyncio --------------------------------------------------------------------------------------


@asynccontextmanager
async def _open_websockets(load: Load) -> AsyncGenerator[list[Turn], None]:
    from websockets.asyncio.client import ClientConnection, connect

    orjson: Any = importlib.import_module("orjson")

    def turn_on(socket: ClientConnection) -> Turn:
        async def turn(text: str) -> int:
            await socket.send(orjson.dumps(_body(text)), text=True)
            count, decode = 0, load.decode
            while True:
                message = await socket.recv(decode=False)
                count += 1
                if decode:
                    orjson.loads(message)
                if message.startswith(_COMPLETED_BYTES):
                    return count

        return turn

    async with AsyncExitStack() as stack:
        sockets = [
            await stack.enter_async_context(
                connect(load.url, ssl=load.context, compression=None, max_size=None, close_timeout=0.5)
            )
            for _ in range(load.connections)
        ]
        yield [turn_on(socket) for socket in sockets]


@asynccontextmanager
async def _open_aiohttp(load: Load) -> AsyncGenerator[list[Turn], None]:
    aiohttp: Any = importlib.import_module("aiohttp")
    orjson: Any = importlib.import_module("orjson")

    def turn_on(socket: Any) -> Turn:
        async def turn(text: str) -> int:
            await socket.send_str(orjson.dumps(_body(text)).decode())
            count, decode = 0, load.decode
            while True:
                message = (await socket.receive()).data
                count += 1
                if decode:
                    orjson.loads(message)
                if message.startswith(_COMPLETED):
                    return count

        return turn

    connector = aiohttp.TCPConnector(limit=0, ssl=load.context or True)
    async with aiohttp.ClientSession(connector=connector) as session, AsyncExitStack() as stack:
        sockets = [
            await stack.enter_async_context(session.ws_connect(load.url, max_msg_size=0))
            for _ in range(load.connections)
        ]
        yield [turn_on(socket) for socket in sockets]


@asynccontextmanager
async def _open_picows(load: Load) -> AsyncGenerator[list[Turn], None]:
    picows: Any = importlib.import_module("picows")
    orjson: Any = importlib.import_module("orjson")
    base: Any = picows.WSListener
    decode, loads = load.decode, orjson.loads

    class Listener(base):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.count = 0
            self.over: asyncio.Future[int] | None = None

        def on_ws_frame(self, transport: Any, frame: Any) -> None:
            message = frame.get_payload_as_bytes()
            self.count += 1
            if decode:
                loads(message)
            if message.startswith(_COMPLETED_BYTES) and self.over is not None:
                self.over.set_result(self.count)

    def turn_on(transport: Any, listener: Any) -> Turn:
        async def turn(text: str) -> int:
            listener.count, listener.over = 0, asyncio.get_running_loop().create_future()
            transport.send(picows.WSMsgType.TEXT, orjson.dumps(_body(text)))
            count: int = await listener.over
            return count

        return turn

    pairs = [
        await picows.ws_connect(Listener, load.url, ssl_context=load.context) for _ in range(load.connections)
    ]
    try:
        yield [turn_on(*pair) for pair in pairs]
    finally:
        for transport, _ in pairs:
            transport.disconnect()


@asynccontextmanager
async def _open_openai(load: Load) -> AsyncGenerator[list[Turn], None]:
    openai: Any = importlib.import_module("openai")
    parts = urlsplit(load.url)
    base = parts._replace(scheme=parts.scheme.replace("ws", "http"), path="/v1", query="").geturl()
    query = dict(pair.split("=") for pair in parts.query.split("&"))
    options: Any = {"ssl": load.context} if load.context is not None else {}

    def turn_on(connection: Any) -> Turn:
        async def turn(text: str) -> int:
            await connection.response.create(model="bench", input=text)
            count = 0
            async for event in connection:
                count += 1
                if event.type == "response.completed":
                    break
            return count

        return turn

    async with openai.AsyncOpenAI(api_key="none", base_url=base) as client, AsyncExitStack() as stack:
        connections = [
            await stack.enter_async_context(
                client.responses.connect(extra_query=query, websocket_connection_options=options)
            )
            for _ in range(load.connections)
        ]
        yield [turn_on(connection) for connection in connections]


# -- all of them ----------------------------------------------------------------------------------


@attrs.frozen
class Client:
    """One contestant: the package that must be there, its loop, and how it is opened."""

    package: str
    on_trio: bool
    open: Callable[[Load], Any]


CLIENTS: Final[dict[str, Client]] = {
    "floor": Client(
        "orjson", True, lambda load: open_floor(load.url, load.context, load.connections, load.decode)
    ),
    "wspool, fast wire": Client("websockets", True, _open_lease("websockets")),
    "wspool, default wire": Client("wspool", True, _open_lease("trio-websocket")),
    "respond, fast wire": Client("websockets", True, _open_conversation("websockets")),
    "respond, default wire": Client("wspool", True, _open_conversation("trio-websocket")),
    "picows": Client("picows", False, _open_picows),
    "aiohttp": Client("aiohttp", False, _open_aiohttp),
    "websockets": Client("websockets", False, _open_websockets),
    "trio-websocket": Client("trio_websocket", True, _open_trio_websocket()),
    "trio-websocket, tuned": Client(
        "trio_websocket", True, _open_trio_websocket(receive_buffer_size=65536, message_queue_size=64)
    ),
    "openai": Client("openai", False, _open_openai),
}


@functools.cache
def available(name: str) -> bool:
    """Whether a client can take part here."""
    return installed(CLIENTS[name].package)


def play(name: str, load: Load) -> Result:
    """Open *name*'s connections, take all turns, all connections at once, and say what they cost."""
    client = CLIENTS[name]
    latencies: list[float] = []
    counted = 0

    async def take(turn: Turn, times: int) -> None:
        nonlocal counted
        clock = time.perf_counter
        for _ in range(times):
            began = clock()
            events = await turn(load.text)
            counted += events
            latencies.append(clock() - began)

    async def together(turns: list[Turn], times: int) -> None:
        if client.on_trio:
            async with trio.open_nursery() as nursery:
                for turn in turns:
                    nursery.start_soon(take, turn, times)
        else:
            await asyncio.gather(*(take(turn, times) for turn in turns))

    async def main() -> Result:
        nonlocal counted
        async with client.open(load) as turns:
            await together(turns, load.warm)
            latencies.clear()
            counted = 0
            load.server.process.lap()
            watch = Stopwatch()
            with watch.over(load.connections * load.turns):
                await together(turns, load.turns)
            return Result(watch.sample, counted, latencies)

    return trio.run(main) if client.on_trio else asyncio.run(main())
