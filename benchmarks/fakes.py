"""Pools on connections that do nothing, each used in its own documented way.

What is faked is only the connection: opening it sleeps for `dial` seconds (a single checkpoint
for 0), using it does nothing. The pools are the released ones, untouched:

* wspool: `async with pool.lease()`, on a connector that returns a silent wire.
* aiohttp: `await connector.connect(...)` and `connection.release()`, which is what a request
  does; `BaseConnector._create_connection` is the method that its documentation leaves to
  subclasses. One host, `limit` connections.
* psycopg_pool: `async with pool.connection()`, with a `connection_class` of our own, whose commit
  at the end of the block does nothing.
* asyncpg: `async with pool.acquire()`, with its `connect` callback; resetting a connection
  on release does nothing.

* httpcore: `async with pool.stream(...)`, on a network backend whose server answers 200 at once.

Each pool offers the same two things: `repeat` (so many times acquire, pause, release, written
out for each, so that nobody pays for our abstraction) and `use` (once, around a body).
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import SimpleNamespace
from typing import Any, Final, Protocol, TypeVar

import trio

import wspool
from benchmarks.harness import installed
from wspool.wire.wire import ABNORMAL_CLOSURE, ConnectError, Endpoint, WireClosedError

__all__ = ["PEERS", "Loop", "Pool", "SilentConnector", "open_wspool", "play"]

_T = TypeVar("_T")

Pause = Callable[[], Awaitable[object]]
Body = Callable[[object], Awaitable[object]]


class Loop(Protocol):
    """The few things that trio and asyncio call differently."""

    async def pause(self) -> None:
        """Let others run once."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Sleep."""
        ...

    async def together(self, work: Sequence[Callable[[], Awaitable[object]]]) -> None:
        """Run all at once, return when all have ended."""
        ...

    async def within(self, seconds: float, work: Callable[[], Awaitable[object]]) -> bool:
        """Run *work* for at most that long; return whether it ended by itself."""
        ...

    def cancellable(self, work: Callable[[], Awaitable[object]]) -> Cancellable:
        """Prepare work that can be cancelled from outside."""
        ...


class Pool(Protocol):
    """A pool under measurement."""

    @property
    def opened(self) -> int:
        """Connections opened so far."""
        ...

    async def repeat(self, times: int, pause: Pause | None) -> None:
        """Acquire, pause and release, that many times."""
        ...

    async def use(self, body: Body) -> None:
        """Acquire, run *body* with what was acquired, release."""
        ...


class Cancellable(Protocol):
    """Work that can be cancelled.

    Attributes:
        swallowed: True if it ended normally although it was cancelled before its end.
        over: True once it has ended.
    """

    swallowed: bool
    over: bool

    async def run(self) -> None:
        """Run it to its end or its cancellation."""
        ...

    def cancel(self) -> None:
        """Cancel it, now."""
        ...


class _TrioCancellable:
    def __init__(self, work: Callable[[], Awaitable[object]]) -> None:
        self.swallowed = self.over = False
        self._work = work
        self._scope = trio.CancelScope()

    async def run(self) -> None:
        with self._scope:
            await self._work()
            self.swallowed = self._scope.cancel_called
        self.over = True

    def cancel(self) -> None:
        self._scope.cancel()


class _AsyncioCancellable:
    def __init__(self, work: Callable[[], Awaitable[object]]) -> None:
        self.swallowed = self.over = False
        self._work = work
        self._cancelled = False
        self._task: asyncio.Task[Any] | None = None

    async def run(self) -> None:
        self._task = asyncio.current_task()
        try:
            await self._work()
            self.swallowed = self._cancelled
        except asyncio.CancelledError:
            if not self._cancelled:
                raise  # somebody else's: time is up
        self.over = True

    def cancel(self) -> None:
        # A task that has not begun would never run, and cancelling what is over counts for nothing.
        if self._task is not None and not self.over:
            self._cancelled = True
            self._task.cancel()


class _TrioLoop:
    async def pause(self) -> None:
        await trio.lowlevel.checkpoint()

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)

    async def together(self, work: Sequence[Callable[[], Awaitable[object]]]) -> None:
        async with trio.open_nursery() as nursery:
            for one in work:
                nursery.start_soon(one)

    async def within(self, seconds: float, work: Callable[[], Awaitable[object]]) -> bool:
        with trio.move_on_after(seconds) as scope:
            await work()
        return not scope.cancelled_caught

    def cancellable(self, work: Callable[[], Awaitable[object]]) -> _TrioCancellable:
        return _TrioCancellable(work)


class _AsyncioLoop:
    async def pause(self) -> None:
        await asyncio.sleep(0)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def together(self, work: Sequence[Callable[[], Awaitable[object]]]) -> None:
        await asyncio.gather(*(one() for one in work))

    async def within(self, seconds: float, work: Callable[[], Awaitable[object]]) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await work()
        except TimeoutError:
            return False
        return True

    def cancellable(self, work: Callable[[], Awaitable[object]]) -> _AsyncioCancellable:
        return _AsyncioCancellable(work)


# -- wspool ---------------------------------------------------------------------------------------


class SilentWire:
    """A WebSocket on which nothing happens."""

    headers: Sequence[tuple[str, str]] = ()
    heard_at = 0.0

    def __init__(self) -> None:
        self._over = trio.Event()

    async def send(self, message: bytes) -> None:
        await trio.lowlevel.checkpoint()

    async def receive(self) -> Sequence[str | bytes]:
        await self._over.wait()
        raise WireClosedError(ABNORMAL_CLOSURE)

    async def ping(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await self.abort()

    async def abort(self) -> None:
        self._over.set()
        await trio.lowlevel.checkpoint()


class SilentConnector:
    """Opens silent wires.

    Args:
        dial: seconds per handshake.
        down_until: the trio time until which handshakes are refused.
    """

    def __init__(self, dial: float = 0.0, down_until: float = 0.0) -> None:
        self.dial = dial
        self.down_until = down_until
        self.handshakes = 0

    async def connect(
        self, nursery: trio.Nursery, endpoint: Endpoint, headers: Sequence[tuple[str, str]]
    ) -> SilentWire:
        self.handshakes += 1
        await trio.sleep(self.dial)
        if trio.current_time() < self.down_until:
            raise ConnectError("connection refused", phase="tcp")
        return SilentWire()


class _WsPool:
    def __init__(self, pool: wspool.Pool, connector: SilentConnector) -> None:
        self._pool = pool
        self._connector = connector

    @property
    def opened(self) -> int:
        return self._connector.handshakes

    async def repeat(self, times: int, pause: Pause | None) -> None:
        pool = self._pool
        for _ in range(times):
            async with pool.lease():
                if pause is not None:
                    await pause()

    async def use(self, body: Body) -> None:
        async with self._pool.lease() as lease:
            await body(lease.lane)


@asynccontextmanager
async def open_wspool(size: int, dial: float, **policy: Any) -> AsyncGenerator[_WsPool, None]:
    """A wspool with the default policy but for its size."""
    connector = SilentConnector(dial)
    limits = wspool.PoolPolicy(**{"max_size": size, "min_idle": 0, **policy})
    async with wspool.open_pool(
        "ws://localhost/v1/responses", api_key="sk-none", wire=connector, policy=limits
    ) as pool:
        yield _WsPool(pool, connector)


# -- trio without a pool: the floors --------------------------------------------------------------


class _Checkpoint:
    opened = 0

    async def repeat(self, times: int, pause: Pause | None) -> None:
        checkpoint = trio.lowlevel.checkpoint
        for _ in range(times):
            await checkpoint()

    async def use(self, body: Body) -> None:
        await body(object())


@asynccontextmanager
async def _open_checkpoint(size: int, dial: float) -> AsyncGenerator[_Checkpoint, None]:
    yield _Checkpoint()


class _Semaphore:
    opened = 0

    def __init__(self, size: int) -> None:
        self._semaphore = trio.Semaphore(size)

    async def repeat(self, times: int, pause: Pause | None) -> None:
        semaphore = self._semaphore
        for _ in range(times):
            async with semaphore:
                if pause is not None:
                    await pause()

    async def use(self, body: Body) -> None:
        async with self._semaphore:
            await body(object())


@asynccontextmanager
async def _open_semaphore(size: int, dial: float) -> AsyncGenerator[_Semaphore, None]:
    yield _Semaphore(size)


# -- aiohttp --------------------------------------------------------------------------------------


class _AioHttp:
    def __init__(self, connector: Any, request: Any, timeout: Any) -> None:
        self.connector = connector
        self._request = request
        self._timeout = timeout

    @property
    def opened(self) -> int:
        opened: int = self.connector.opened
        return opened

    async def repeat(self, times: int, pause: Pause | None) -> None:
        connector, request, timeout = self.connector, self._request, self._timeout
        for _ in range(times):
            connection = await connector.connect(request, [], timeout)
            try:
                if pause is not None:
                    await pause()
            finally:
                connection.release()

    async def use(self, body: Body) -> None:
        connection = await self.connector.connect(self._request, [], self._timeout)
        try:
            await body(connection.protocol)
        finally:
            connection.release()


class _AioHttpProtocol:
    should_close = False
    transport = None
    closed = None

    def is_connected(self) -> bool:
        return True

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass


@asynccontextmanager
async def _open_aiohttp(size: int, dial: float) -> AsyncGenerator[_AioHttp, None]:
    aiohttp: Any = importlib.import_module("aiohttp")
    key = importlib.import_module("aiohttp.client_reqrep").ConnectionKey
    base: Any = aiohttp.BaseConnector

    class Connector(base):  # type: ignore[misc]
        opened = 0

        async def _create_connection(self, *arguments: Any) -> _AioHttpProtocol:
            self.opened += 1
            await asyncio.sleep(dial)
            return _AioHttpProtocol()

    request = SimpleNamespace(connection_key=key("localhost", 80, False, True, None, None, None), proxy=None)
    connector = Connector(limit=size)
    try:
        yield _AioHttp(connector, request, aiohttp.ClientTimeout())
    finally:
        await connector.close()


# -- psycopg_pool ---------------------------------------------------------------------------------


class _PsycopgConnection:
    opened = 0
    dial = 0.0

    def __init__(self) -> None:
        status = importlib.import_module("psycopg.pq").TransactionStatus.IDLE
        self.pgconn = SimpleNamespace(transaction_status=status)

    @classmethod
    async def connect(cls, conninfo: str = "", **kwargs: Any) -> _PsycopgConnection:
        cls.opened += 1
        await asyncio.sleep(cls.dial)
        return cls()

    async def __aenter__(self) -> _PsycopgConnection:
        return self

    async def __aexit__(self, *error: object) -> None:
        pass

    async def close(self) -> None:
        pass


class _Psycopg:
    def __init__(self, pool: Any, connections: type[_PsycopgConnection]) -> None:
        self.pool = pool
        self._connections = connections

    @property
    def opened(self) -> int:
        return self._connections.opened

    async def repeat(self, times: int, pause: Pause | None) -> None:
        pool = self.pool
        for _ in range(times):
            async with pool.connection():
                if pause is not None:
                    await pause()

    async def use(self, body: Body) -> None:
        async with self.pool.connection() as connection:
            await body(connection)


@asynccontextmanager
async def _open_psycopg(size: int, dial: float) -> AsyncGenerator[_Psycopg, None]:
    psycopg_pool: Any = importlib.import_module("psycopg_pool")
    connections = type("Connection", (_PsycopgConnection,), {"opened": 0, "dial": dial})
    # `min_size` is what it keeps when idle; it grows to `max_size` on demand.
    pool = psycopg_pool.AsyncConnectionPool(
        connection_class=connections, min_size=0, max_size=size, open=False
    )
    await pool.open()
    try:
        yield _Psycopg(pool, connections)
    finally:
        await pool.close()


# -- asyncpg --------------------------------------------------------------------------------------


class _Asyncpg:
    def __init__(self, pool: Any) -> None:
        self.pool = pool
        self.opened = 0

    async def repeat(self, times: int, pause: Pause | None) -> None:
        pool = self.pool
        for _ in range(times):
            async with pool.acquire():
                if pause is not None:
                    await pause()

    async def use(self, body: Body) -> None:
        async with self.pool.acquire() as connection:
            await body(connection._con)


@asynccontextmanager
async def _open_asyncpg(size: int, dial: float) -> AsyncGenerator[_Asyncpg, None]:
    asyncpg: Any = importlib.import_module("asyncpg")
    base: Any = asyncpg.Connection
    protocol = SimpleNamespace(queries_count=0, _is_cancelling=lambda: False, is_connected=lambda: True)
    peer = _Asyncpg(None)

    class Connection(base):  # type: ignore[misc]
        def __init__(self) -> None:
            self._protocol = protocol
            self._aborted = False
            self._proxy: Any = None
            self._pool_holder: Any = None
            self._pool_release_ctr = 0
            self._listeners: dict[str, Any] = {}
            self._log_listeners: set[Any] = set()

        def __del__(self) -> None:
            pass  # nothing was opened

        async def reset(self, **options: Any) -> None:
            pass

        async def close(self, **options: Any) -> None:
            self.terminate()

        def terminate(self) -> None:
            self._aborted = True
            if (holder := self._pool_holder) is not None and (live := holder()) is not None:
                live._release_on_close()

    async def connect(*args: Any, **options: Any) -> Any:
        peer.opened += 1
        await asyncio.sleep(dial)
        return Connection()

    peer.pool = await asyncpg.create_pool(
        connect=connect, connection_class=Connection, min_size=0, max_size=size
    )
    try:
        yield peer
    finally:
        peer.pool.terminate()


# -- httpcore -------------------------------------------------------------------------------------


class _HttpCore:
    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self.opened = 0

    async def repeat(self, times: int, pause: Pause | None) -> None:
        pool = self._pool
        for _ in range(times):
            async with pool.stream("GET", "http://localhost/"):
                if pause is not None:
                    await pause()

    async def use(self, body: Body) -> None:
        async with self._pool.stream("GET", "http://localhost/") as response:
            await body(response.extensions["network_stream"])


@asynccontextmanager
async def _open_httpcore(size: int, dial: float) -> AsyncGenerator[_HttpCore, None]:
    httpcore: Any = importlib.import_module("httpcore")
    stream_base: Any = httpcore.AsyncNetworkStream
    backend_base: Any = httpcore.AsyncNetworkBackend

    class Stream(stream_base):  # type: ignore[misc]
        async def read(self, *arguments: Any, **options: Any) -> bytes:
            await trio.lowlevel.checkpoint()
            return b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

        async def write(self, *arguments: Any, **options: Any) -> None:
            await trio.lowlevel.checkpoint()

        async def aclose(self) -> None:
            await trio.lowlevel.checkpoint()

        def get_extra_info(self, info: str) -> object:
            return None

    class Backend(backend_base):  # type: ignore[misc]
        async def connect_tcp(self, *args: Any, **options: Any) -> Stream:
            peer.opened += 1
            await trio.sleep(dial)
            return Stream()

    async with httpcore.AsyncConnectionPool(max_connections=size, network_backend=Backend()) as pool:
        peer = _HttpCore(pool)
        yield peer


# -- all of them ----------------------------------------------------------------------------------

Open = Callable[[int, float], AbstractAsyncContextManager[Pool]]

#: Who takes part: the package that must be there, the loop, and how it is opened.
PEERS: Final[dict[str, tuple[str, bool, Open]]] = {
    "checkpoint": ("trio", True, _open_checkpoint),
    "Semaphore": ("trio", True, _open_semaphore),
    "wspool": ("wspool", True, open_wspool),
    "aiohttp": ("aiohttp", False, _open_aiohttp),
    "psycopg_pool": ("psycopg_pool", False, _open_psycopg),
    "asyncpg": ("asyncpg", False, _open_asyncpg),
    "httpcore": ("httpcore", True, _open_httpcore),
}


def play(
    name: str,
    scenario: Callable[[Pool, Loop], Awaitable[_T]],
    *,
    size: int,
    warm: int,
    dial: float = 0.0,
    opening: Open | None = None,
) -> _T | None:
    """Open a pool, warm *warm* connections up by holding them all at once, and run *scenario*.

    Returns None if the peer is not installed.
    """
    package, on_trio, usual = PEERS[name]
    if not installed(package):
        return None
    loop: Loop = _TrioLoop() if on_trio else _AsyncioLoop()

    async def main() -> _T:
        async with (opening or usual)(size, dial) as pool:
            if warm:
                # Long enough that none is free again before the last was opened.
                hold = 0.02 + 3 * dial * (warm if name == "psycopg_pool" else 1)
                await loop.together([lambda: pool.use(lambda _: loop.sleep(hold))] * warm)
                # Let what was started for a need that is over come to its end.
                await loop.sleep(0.01 + dial)
            return await scenario(pool, loop)

    return trio.run(main) if on_trio else asyncio.run(main())
