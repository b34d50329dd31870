"""A proxy that spoils what goes through it: for tests of whatever talks to a server over a stream.

The idea is Toxiproxy's, and so are the names: a client connects to the proxy instead of the server, and
*toxics*, which come and go while connections are open, make the way between them slow, narrow, cut or silent.
Units are seconds and bytes. Time is trio's clock and chance has a seed, so that over memory streams and under
a virtual clock a test of minutes takes none, and goes the same way each time.

>>> async with open_chaos_proxy("localhost", server_port, toxics=[Latency(0.2, jitter=0.1)]) as proxy:
...     async with wspool.open_pool(f"ws://{proxy.host}:{proxy.port}/v1/responses") as pool:
...         ...
...         proxy.add(ResetPeer())

Rules of this module:

* Each direction of each connection is two tasks: one takes what comes and notes when, one delivers it when
  the toxics of that moment let it through. So latency narrows the way no more than a window of 256 KiB does,
  and a narrow way pushes back.
* However many toxics there are, they take part in this order: `Timeout` swallows, `Latency` holds back,
  `Slicer` cuts, `Bandwidth` paces, `LimitData` counts.
* What the proxy cannot pass on it ends: no connection outlives its other half, and none the proxy.
"""

from __future__ import annotations

import math
import random
import socket
import struct
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, TypeVar

import attrs
import trio
import trio.testing

from wspool.testing.toxics import (
    Bandwidth,
    Direction,
    Latency,
    LimitData,
    ResetPeer,
    Slicer,
    SlowClose,
    Timeout,
    Toxic,
)

__all__ = [
    "Bandwidth",
    "ChaosProxy",
    "Direction",
    "Latency",
    "LimitData",
    "ResetPeer",
    "Slicer",
    "SlowClose",
    "Timeout",
    "Toxic",
    "open_chaos_link",
    "open_chaos_proxy",
]

_DIRECTIONS: Final[tuple[Direction, Direction]] = ("up", "down")

#: Bytes that wait in the proxy, per direction, before it stops reading: a generous TCP window.
_WINDOW: Final = 256 * 1024

#: Bytes per read.
_RECEIVE: Final = 64 * 1024

#: Seconds' worth of bytes that `Bandwidth` lets through at a time, as Toxiproxy does.
_PACE: Final = 0.1

_LOOPBACK: Final = "127.0.0.1"

# Abort on close instead of an orderly end: on, after zero seconds. Source: socket(7), SO_LINGER.
_LINGER_ZERO: Final = struct.pack("ii", 1, 0)

_A = TypeVar("_A")
_T = TypeVar("_T", bound="Toxic")


@attrs.define(eq=False)
class _Chunk:
    """What one read gave; no data is the end of the stream."""

    data: bytes
    came_at: float
    #: From -1 to 1: where in its jitter it is.
    luck: float


class _Link:
    """One connection through the proxy."""

    def __init__(self, proxy: ChaosProxy, number: int, client: trio.abc.Stream) -> None:
        self.number = number
        self.began_at = trio.current_time()
        self._proxy = proxy
        self._ends: dict[Direction, trio.abc.Stream] = {"up": client}
        self._left = 2

    async def run(self, connect: Callable[[], Awaitable[trio.abc.Stream]]) -> None:
        """Carry on until both directions have ended, or something ended both."""
        try:
            self._ends["down"] = await connect()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._expire, nursery.cancel_scope)
                for direction in _DIRECTIONS:
                    chance = self._proxy.chances(f"{self.number} {direction}")
                    way = _Way(self, direction, nursery.cancel_scope, chance)
                    nursery.start_soon(way.take, self._ends[direction])
                    nursery.start_soon(way.deliver, self._ends["down" if direction == "up" else "up"])
        except OSError:
            pass  # the server is not there: the client sees its connection end
        finally:
            for stream in self._ends.values():
                with trio.CancelScope(shield=True):
                    await trio.aclose_forcefully(stream)

    def toxics(self, kind: type[_T], direction: Direction) -> list[tuple[_T, float]]:
        """The toxics of that kind that concern this direction now, each with the time since when."""
        return [
            (toxic, max(since, self.began_at))
            for number, since, toxic in self._proxy.active
            if isinstance(toxic, kind)
            and toxic.direction == direction
            and (toxic.toxicity == 1 or self._proxy.chance(f"{number} {self.number}") < toxic.toxicity)
        ]

    def ended(self, scope: trio.CancelScope) -> None:
        """One direction has ended; so does the connection with the second."""
        self._left -= 1
        if not self._left:
            scope.cancel()

    def reset(self) -> None:
        """Let both ends, once closed, be reset."""
        for stream in self._ends.values():
            if isinstance(stream, trio.SocketStream):
                stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)

    async def until(self, due: Callable[[_A], float], of: _A) -> None:
        """Wait until *due* of something, which is asked again whenever toxics come or go."""
        while (moment := due(of)) > trio.current_time():
            with trio.move_on_at(moment):
                await self._proxy.change()

    async def _expire(self, scope: trio.CancelScope) -> None:
        """End the connection when a `Timeout` or a `ResetPeer` says so."""

        await self.until(self._first_end, (Timeout, ResetPeer))
        if self._first_end((ResetPeer,)) <= trio.current_time():
            self.reset()
        scope.cancel()

    def _first_end(self, kinds: tuple[type[Timeout | ResetPeer], ...]) -> float:
        return min(
            (
                since + toxic.timeout
                for kind in kinds
                for direction in _DIRECTIONS
                for toxic, since in self.toxics(kind, direction)
            ),
            default=math.inf,
        )


class _Way:
    """One direction of one connection."""

    def __init__(
        self, link: _Link, direction: Direction, scope: trio.CancelScope, chance: random.Random
    ) -> None:
        self._link = link
        self._direction: Direction = direction
        self._scope = scope
        self._waiting: deque[_Chunk] = deque()
        self._size = 0
        self._moved = trio.Event()
        self._delivered = 0
        self._random = chance

    async def take(self, source: trio.abc.ReceiveStream) -> None:
        """Take what comes, as long as there is room for it."""
        data: bytes | bytearray = b"-"
        while data:
            while self._size > _WINDOW:
                await self._moved.wait()
            try:
                data = await source.receive_some(_RECEIVE)
            except trio.BrokenResourceError:
                self._link.reset()
                self._scope.cancel()
                return
            self._waiting.append(_Chunk(bytes(data), trio.current_time(), self._random.uniform(-1, 1)))
            self._size += len(data)
            self._move()

    async def deliver(self, target: trio.abc.SendStream) -> None:
        """Deliver what was taken, when it is due, and then its end."""
        try:
            while True:
                while not self._waiting:
                    await self._moved.wait()
                chunk = self._waiting[0]
                await self._link.until(self._due, chunk)
                if self._toxics(Timeout):
                    pass  # swallowed
                elif chunk.data:
                    await self._send(chunk.data, target)
                else:
                    await self._link.until(self._end_due, chunk)
                    return await self._end(target)
                self._waiting.popleft()
                self._size -= len(chunk.data)
                self._move()
        except trio.BrokenResourceError:
            self._scope.cancel()

    async def _send(self, data: bytes, target: trio.abc.SendStream) -> None:
        left = min((toxic.bytes for toxic in self._toxics(LimitData)), default=math.inf) - self._delivered
        cut = len(data) >= left
        if cut:
            data = data[: max(0, int(left))]
        while data:
            size = len(data)
            for slicer in self._toxics(Slicer):
                spread = slicer.size_variation
                size = min(size, slicer.average_size + self._random.randint(-spread, spread))
            size = int(min(size, max(1.0, self._rate() * _PACE)))
            piece, data = data[:size], data[size:]
            await target.send_all(piece)
            self._delivered += size
            await self._link.until(self._pause_due, (trio.current_time(), size))
        if cut:
            self._scope.cancel()

    async def _end(self, target: trio.abc.SendStream) -> None:
        if isinstance(target, trio.abc.HalfCloseableStream):
            await target.send_eof()
            self._link.ended(self._scope)
        else:
            self._scope.cancel()

    def _toxics(self, kind: type[_T]) -> list[_T]:
        return [toxic for toxic, _ in self._link.toxics(kind, self._direction)]

    def _rate(self) -> float:
        return min((toxic.rate for toxic in self._toxics(Bandwidth)), default=math.inf)

    def _pause_due(self, delivered: tuple[float, int]) -> float:
        when, size = delivered
        return when + size / self._rate() + sum(slicer.delay for slicer in self._toxics(Slicer))

    def _due(self, chunk: _Chunk) -> float:
        late = sum(toxic.latency + toxic.jitter * chunk.luck for toxic in self._toxics(Latency))
        return chunk.came_at + late

    def _end_due(self, chunk: _Chunk) -> float:
        return self._due(chunk) + sum(toxic.delay for toxic in self._toxics(SlowClose))

    def _move(self) -> None:
        self._moved.set()
        self._moved = trio.Event()


class ChaosProxy:
    """A running proxy; made by `open_chaos_proxy` or `open_chaos_link`.

    Attributes:
        host: where it listens, "" if it does not.
        port: the TCP port there, 0 if it does not listen.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        connect: Callable[[], Awaitable[trio.abc.Stream]],
        *,
        toxics: Iterable[Toxic],
        seed: int,
        host: str = "",
        port: int = 0,
    ) -> None:
        self.host = host
        self.port = port
        self._nursery = nursery
        self._connect = connect
        self._seed = seed
        #: The toxics that are at work, each with the number that its chances go by, and since when.
        self.active: list[tuple[int, float, Toxic]] = []
        self._added = 0
        self._links = 0
        self._open = 0
        self._changed = trio.Event()
        for toxic in toxics:
            self.add(toxic)

    def __repr__(self) -> str:
        where = f" {self.host}:{self.port}" if self.port else ""
        return f"<ChaosProxy{where}: {self._open} connections, {len(self.active)} toxics>"

    @property
    def toxics(self) -> tuple[Toxic, ...]:
        """The toxics that are at work, in the order in which they came."""
        return tuple(toxic for _, _, toxic in self.active)

    @property
    def connections(self) -> int:
        """How many connections are open through it."""
        return self._open

    def add(self, toxic: Toxic) -> None:
        """Let *toxic* work from now on, on open connections as on new ones. Never waits."""
        self._added += 1
        self.active.append((self._added, trio.current_time(), toxic))
        self._change()

    def remove(self, toxic: Toxic) -> None:
        """Take *toxic*, or one that equals it, away. Never waits.

        Raises:
            ValueError: it is not at work.
        """
        for entry in self.active:
            if entry[2] == toxic:
                self.active.remove(entry)
                self._change()
                return
        raise ValueError(f"{toxic!r} is not at work: remove what was added, once")

    def clear(self) -> None:
        """Take all toxics away. Never waits."""
        self.active.clear()
        self._change()

    async def open_stream(self, endpoint: object = None) -> trio.abc.Stream:
        """Return the client's end of a new in-memory connection through the proxy. A checkpoint.

        Args:
            endpoint: ignored; it is there so that this method can stand in for a dialler.
        """
        near, far = trio.testing.memory_stream_pair()
        self._nursery.start_soon(self.serve, far)
        await trio.lowlevel.checkpoint()
        return near

    async def serve(self, client: trio.abc.Stream) -> None:
        """Carry one connection to its end; *client* is closed then."""
        self._links += 1
        self._open += 1
        try:
            await _Link(self, self._links, client).run(self._connect)
        finally:
            self._open -= 1

    # -- for its connections --

    def chances(self, what: str) -> random.Random:
        """Return a source of chance for *what*: the same for the same seed."""
        return random.Random(f"{self._seed} {what}")

    def chance(self, what: str) -> float:
        """Return the one chance of *what*, from 0 to 1: the same for the same seed."""
        return self.chances(what).random()

    async def change(self) -> None:
        """Wait until a toxic comes or goes."""
        await self._changed.wait()

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


@asynccontextmanager
async def open_chaos_link(
    connect: Callable[[], Awaitable[trio.abc.Stream]], *, toxics: Iterable[Toxic] = (), seed: int = 0
) -> AsyncGenerator[ChaosProxy]:
    """Run a proxy that does not listen: `ChaosProxy.open_stream` is the way in. Leaving drops everything.

    Args:
        connect: how to get a stream to the server, called once per connection. An `OSError` of it ends
            that connection.
        toxics: what spoils it from the start.
        seed: the same seed gives the same chances.
    """
    async with _running(connect, toxics=toxics, seed=seed) as (proxy, _):
        yield proxy


@asynccontextmanager
async def open_chaos_proxy(
    host: str, port: int, *, toxics: Iterable[Toxic] = (), seed: int = 0
) -> AsyncGenerator[ChaosProxy]:
    """Run a proxy in front of *host* and *port*, on a free TCP port of 127.0.0.1. Leaving drops everything.

    A connection is accepted before the server is asked; if that is not there, it just ends.

    Args:
        toxics: what spoils it from the start.
        seed: the same seed gives the same chances.

    Raises:
        OSError: there is no port to listen on.
    """

    async def connect() -> trio.abc.Stream:
        return await trio.open_tcp_stream(host, port)

    [listener] = await trio.open_tcp_listeners(0, host=_LOOPBACK)
    number: int = listener.socket.getsockname()[1]
    async with listener, _running(connect, toxics=toxics, seed=seed, port=number) as (proxy, nursery):
        # Listening already: nobody has to wait for the task that accepts.
        serve = partial(trio.serve_listeners, proxy.serve, [listener], handler_nursery=nursery)
        nursery.start_soon(serve)  # noqa: ASYNC113
        yield proxy


@asynccontextmanager
async def _running(
    connect: Callable[[], Awaitable[trio.abc.Stream]], *, toxics: Iterable[Toxic], seed: int, port: int = 0
) -> AsyncGenerator[tuple[ChaosProxy, trio.Nursery]]:
    problem: BaseException | None = None
    async with trio.open_nursery() as nursery:
        host = _LOOPBACK if port else ""
        try:
            yield ChaosProxy(nursery, connect, toxics=toxics, seed=seed, host=host, port=port), nursery
        except BaseException as raised:  # noqa: ASYNC103 # raised again below
            problem = raised  # out of the nursery's sight, which would wrap it in a group
        nursery.cancel_scope.cancel()
    if problem is not None:
        raise problem
