"""A WebSocket client for tests of the proxy's socket: frames in and out over a memory stream."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

from wspool import Pool, Turn
from wspool.core.frames import Event
from wspool.proxy.sockets.lanes import SocketLimits
from wspool.proxy.sockets.socket import Socket
from wspool.server.line import MemoryEnd

ENDS = ("error", "response.completed", "response.failed", "response.incomplete")


class Client:
    """One WebSocket client.

    Attributes:
        said: all messages of the server so far.
        pings: pings of the server so far, each answered.
        closed: the close code of the server, once it has said goodbye; 1006 if it left without.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.said: list[dict[str, Any]] = []
        self.raw: list[str] = []
        self.pings = self.pongs = 0
        self.closed: int | None = None
        self.answers = True
        self._connection = Connection(ConnectionType.CLIENT)
        self._text = ""
        self._taken = 0
        self._changed = trio.Event()

    async def run(self) -> None:
        """Take what comes."""
        while self.closed is None:
            try:
                data = await self.stream.receive_some(65536)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                data = b""
            if not data:
                self.closed = 1006
                break
            self._connection.receive_data(bytes(data))
            for event in self._connection.events():
                await self._take(event)
            self._change()
        self._change()

    async def _take(self, event: object) -> None:
        match event:
            case TextMessage():
                self._text += event.data
                if event.message_finished:
                    self.raw.append(self._text)
                    self.said.append(json.loads(self._text))
                    self._text = ""
            case Ping():
                self.pings += 1
                if self.answers:
                    await self.stream.send_all(self._connection.send(event.response()))
            case Pong():
                self.pongs += 1
            case CloseConnection():
                self.closed = int(event.code)
            case _:
                pass

    async def send(self, body: dict[str, Any] | str | bytes) -> None:
        """Send one message."""
        if isinstance(body, bytes):
            await self.stream.send_all(self._connection.send(BytesMessage(body)))
        else:
            text = body if isinstance(body, str) else json.dumps(body)
            await self.stream.send_all(self._connection.send(TextMessage(text)))

    async def create(self, input: Any = "hi", **fields: Any) -> None:
        """Send one request."""
        await self.send({"type": "response.create", "model": "m", "input": input, **fields})

    async def goodbye(self, code: int = 1000) -> None:
        """Begin the end of the connection."""
        await self.stream.send_all(self._connection.send(CloseConnection(code)))

    async def next(self) -> dict[str, Any]:
        """The next message."""
        await self.until(lambda: len(self.said) > self._taken or self.closed is not None)
        assert len(self.said) > self._taken, f"closed with {self.closed}"
        self._taken += 1
        return self.said[self._taken - 1]

    async def answer(self, lane: str | None = None) -> dict[str, Any]:
        """The end of the next turn on *lane*; what is said on others is passed over."""
        while True:
            said = await self.next()
            if said["type"] in ENDS and said.get("stream_id") == lane:
                return said

    @property
    def ends(self) -> list[dict[str, Any]]:
        """The ends of all turns so far."""
        return [said for said in self.said if said["type"] in ENDS]

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until *condition* holds, looking after every change."""
        while not condition():
            await self._changed.wait()

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


class Account:
    """One request, straight to a pool; nothing is written down but its end."""

    def __init__(self, way: PoolWay, body: Mapping[str, Any]) -> None:
        self._way = way
        self._body = body
        self._turn: Turn | None = None

    def turn(self) -> Turn:
        self._turn = self._way.pool.turn(self._body)
        return self._turn

    @property
    def sent(self) -> bool:
        return self._turn is not None and self._turn.delivery != "not_sent"

    def notices(self) -> Sequence[Event]:
        return ()

    def wrote(self, events: Sequence[Event], size: int) -> None:
        self._way.written += size

    def left(self, drop: Callable[[float], object]) -> None:
        pass

    def end(self, error: Exception | None, *, left: bool) -> None:
        self._way.ends.append("left" if left else "ended" if error is None else type(error).__name__)


class PoolWay:
    """Requests go straight to a pool.

    Attributes:
        ends: how they ended.
        written: bytes for the client.
    """

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.ends: list[str] = []
        self.written = 0

    def begin(self, body: Mapping[str, Any], message: bytes | bytearray) -> Account:
        return Account(self, body)


@asynccontextmanager
async def talking(
    pool: Pool | PoolWay, limits: SocketLimits | None = None
) -> AsyncGenerator[tuple[Client, Socket]]:
    """A client of a socket whose turns go to *pool*; at the end both are gone."""
    near, far = MemoryEnd.pair()
    socket = Socket(far, PoolWay(pool) if isinstance(pool, Pool) else pool, limits or SocketLimits())
    client = Client(near)
    problem: BaseException | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(socket.serve)
        nursery.start_soon(client.run)
        try:
            yield client, socket
        except BaseException as error:
            problem = error  # raised again below, out of the nursery's sight, which would wrap it in a group
            nursery.cancel_scope.cancel()
        await near.aclose()
    if problem is not None:
        raise problem
