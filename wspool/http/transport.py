"""Transports for httpx2 and httpx that send `POST .../responses` over a pool, and all else over plain HTTP.

One class serves both libraries: it answers with the response and the errors of the library that the request
is of. The pools live in the process's `Runtime`, whatever the caller runs in, trio too: then the connections
outlive its run, as `eval()` twice, `asyncio.run` twice, or one loop per thread need it, and there is one way
through instead of three. It costs some 100 microseconds a call, of a turn that takes seconds.

Rules of this module:

* A response's body holds nothing but an `Outlet`. Callers drop responses without closing them; then the
  exchange is left, and the lease goes back, as soon as the body is forgotten.
* What did not leave is a ConnectError, which SDKs send again. What may have run is an answer that says that
  it must not be.
* Each answer has a name (`x-request-id`). That of an error is in the log, without a word of its body.
* A request that the endpoint takes over HTTP only is sent over HTTP: nothing of it was sent before.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, ClassVar, Final, Literal, NoReturn, Self

from wspool.bells import ThreadBell, bell_here, in_thread
from wspool.errors import (
    ForeignUseError,
    PoolClosedError,
    TooManyWaitingError,
    WebSocketNotOfferedError,
    WsPoolError,
)
from wspool.http.around import Around
from wspool.http.bodies import async_body, blocking_body
from wspool.http.identity import LARGE, Asked, may_be_ours, read_request
from wspool.http.pools import Pools
from wspool.pool.exchange import Expired, Limits, Outlet
from wspool.pool.http_answer import error_answer
from wspool.pool.open import context_of, open_pool
from wspool.pool.upgrade import pairs_of
from wspool.pool.ways import AsyncBlock, PlainBlock
from wspool.runtime import Runtime

__all__ = ["AsyncPoolTransport", "PoolTransport", "stays_here"]

logger: Final = logging.getLogger("wspool.http")

#: What `open_pool` takes that each request says itself.
_OF_REQUEST: Final = frozenset({"url", "api_key"})

#: Stands for the endpoints that requests will name.
_ANYWHERE: Final = "://localhost/v1/responses"


def stays_here(_: object) -> NoReturn:
    """Refuse to be pickled."""
    raise TypeError("connections do not travel between processes: make a client in each")


class _Door:
    """What both transports are: a runtime, the pools in it, and the way round them."""

    #: The transport of the libraries that sends over plain HTTP.
    _kind: ClassVar[Literal["AsyncHTTPTransport", "HTTPTransport"]]

    def __init__(self, http: Any = None, *, runtime: Runtime | None = None, **pool: Any) -> None:
        for name in _OF_REQUEST & pool.keys():
            raise TypeError(f"{name}= is said by each request itself; give it to the client")
        self._runtime = runtime if runtime is not None else Runtime.shared()
        if http is None and getattr(pool.get("policy"), "lanes", 1) == 1:  # HTTP has no lanes
            pool.setdefault("fallback", "http")
        if "headers" in pool:
            pool["headers"] = pairs_of(pool["headers"])  # each pool reads them anew
        if isinstance(pool.get("ssl_context"), str):
            pool["ssl_context"] = context_of(pool["ssl_context"])  # one for all
        # Whether that will do is to be known now; a context of TLS that nobody has given would cost 25 ms.
        scheme = "wss" if pool.get("ssl_context") else "ws"
        open_pool(scheme + _ANYWHERE, api_key="unused", **pool)
        self._options: Mapping[str, Any] = pool
        self._around = Around(self._kind, http, pool)
        self._pools: Pools | None = None
        self._closed = False

    def _begin(self, asked: Asked, outlet: Outlet, limits: Limits) -> None:
        """Begin the exchange of *outlet*. Never waits.

        Raises:
            RuntimeError: the client is closed.
            ForeignUseError: the process has forked since.
            PoolClosedError: the runtime is closed.
        """
        if self._closed:
            raise RuntimeError("the client is closed; make another one")

        async def perform() -> None:
            if self._pools is None:
                self._pools = Pools(self._options)
            await self._pools.perform(asked, outlet, limits)

        def ended() -> None:
            if not outlet.ended:  # it never came to be performed
                outlet.end(PoolClosedError("the runtime has ended; nothing was sent"))

        self._runtime.start(perform, notify=ended, scope=outlet.scope)

    def soon(self, act: Callable[[], object]) -> None:
        """Call *act* where the pools are. Never waits, never raises."""
        try:
            self._runtime.soon(act)
        except (ForeignUseError, PoolClosedError):
            pass  # the runtime has ended, and the pools with it; or they are another process's

    def check(self) -> None:
        """Raise ForeignUseError unless the pools can be used from here."""
        self._runtime.check()

    def _close_pools(self) -> None:
        self._closed = True
        if self._pools is not None:
            self.soon(self._pools.close)

    def __del__(self, is_over: Callable[[], bool] = sys.is_finalizing) -> None:
        if not getattr(self, "_closed", True) and not is_over():
            self._close_pools()

    def __reduce__(self) -> NoReturn:
        stays_here(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}{', closed' if self._closed else ''}>"


class AsyncPoolTransport(_Door, AsyncBlock):
    """A transport for `httpx2.AsyncClient` or `httpx.AsyncClient`, on asyncio or trio.

    Args:
        http: the transport for what goes over plain HTTP; by default the library's own, with the `proxy` and
            the `ssl_context` of the pools.
        runtime: where the pools live; by default `Runtime.shared()`.
        **pool: what the pools are opened with: `policy`, `provider`, `wire`, `ssl_context`, `proxy` ..., as
            for `open_pool`. Of a request's own headers only those go with an upgrade that say who asks;
            `headers` are for what else a gateway wants there.

    One pool is opened for each endpoint and credential that requests name, at the first. Where WebSockets are
    of no use it goes by HTTP itself (`fallback="http"`). Not with `fallback=None`, an *http* of one's own, or
    lanes: then *http* has what is for an endpoint that offers none, for five minutes. Closing the client
    closes them. Limits of time are those of the client: `pool` is for the line, `connect` for a connection
    where there is none at all, `read` for silence.
    """

    _kind = "AsyncHTTPTransport"
    _instead = ": without async, take a Client with a PoolTransport"

    async def handle_async_request(self, request: Any) -> Any:
        """Send *request*, and return its response. A checkpoint.

        Cancelling gives the turn up. Raises the exceptions of the library that *request* is of.
        """
        module = _library(request)
        asked = None
        if may_be_ours(request):
            content = await request.aread()
            if len(content) < LARGE:
                asked = read_request(request, content)
            else:  # nor does the caller's loop stand still for it
                asked = await in_thread(read_request, request, content)
        if asked is not None:
            outlet = Outlet()
            body = async_body(module, self, outlet)  # from now on somebody leaves what is begun
            try:
                bell = bell_here()
                self._begin(asked, outlet, _limits(request))
                while outlet.wait_to_begin(bell.ring):
                    await bell.wait()
            except BaseException:
                body.leave()
                raise
            if not _goes_by_http(outlet):
                return _response(module, request, outlet, body)
        return await self._around.to(module, request.url).handle_async_request(request)

    def handle_request(self, request: Any) -> NoReturn:
        """Raise TypeError: a client that blocks takes another one."""
        raise TypeError("AsyncPoolTransport is for an AsyncClient: give a Client a PoolTransport")

    async def aclose(self) -> None:
        """Close the pools, and what sends over plain HTTP. Turns that still run are given up."""
        self._close_pools()
        for transport in self._around.all:
            await transport.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class PoolTransport(_Door, PlainBlock):
    """A transport for `httpx2.Client` or `httpx.Client`, from any thread. As `AsyncPoolTransport`."""

    _kind = "HTTPTransport"
    _instead = ": with async, take an AsyncClient with an AsyncPoolTransport"

    def handle_request(self, request: Any) -> Any:
        """Send *request*, and return its response. Blocks; KeyboardInterrupt gives the turn up."""
        module = _library(request)
        asked = read_request(request, request.read()) if may_be_ours(request) else None
        if asked is not None:
            outlet = Outlet()
            body = blocking_body(module, self, outlet)  # from now on somebody leaves what is begun
            try:
                bell = ThreadBell()
                self._begin(asked, outlet, _limits(request))
                while outlet.wait_to_begin(bell.ring):
                    bell.wait()
            except BaseException:
                body.leave()
                raise
            if not _goes_by_http(outlet):
                return _response(module, request, outlet, body)
        return self._around.to(module, request.url).handle_request(request)

    async def handle_async_request(self, request: Any) -> NoReturn:
        """Raise TypeError: a client that does not block takes another one."""
        raise TypeError("PoolTransport is for a Client: give an AsyncClient an AsyncPoolTransport")

    def close(self) -> None:
        """Close the pools, and what sends over plain HTTP. Turns that still run are given up."""
        self._close_pools()
        for transport in self._around.all:
            transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _library(request: Any) -> Any:
    """Return the library that *request* is of: httpx2 or httpx."""
    return sys.modules[type(request).__module__.partition(".")[0]]


def _limits(request: Any) -> Limits:
    said: Mapping[str, float | None] = request.extensions.get("timeout") or {}
    connect, pool, read = said.get("connect"), said.get("pool"), said.get("read")
    return Limits(
        connect=math.inf if connect is None else connect,
        pool=math.inf if pool is None else pool,
        read=math.inf if read is None else read,
    )


def _goes_by_http(outlet: Outlet) -> bool:
    return isinstance(outlet.error, WebSocketNotOfferedError) and outlet.head is None


def _response(module: Any, request: Any, outlet: Outlet, body: Any) -> Any:
    """Return the response of the library, or raise its exception."""
    error = outlet.error
    if outlet.head is not None:
        return module.Response(outlet.head.status, headers=outlet.head.headers, stream=body)
    if error is None:
        raise AssertionError("bug: an answer without a head")
    if isinstance(error, Expired):
        kind = {"connect": module.ConnectTimeout, "pool": module.PoolTimeout, "read": module.ReadTimeout}
        raise kind[error.phase](str(error), request=request) from error
    if isinstance(error, ForeignUseError):
        raise error
    status, headers, content = error_answer(error)
    if isinstance(error, WsPoolError) and error.delivery == "not_sent" and status in (502, 503):
        kind = module.PoolTimeout if isinstance(error, TooManyWaitingError) else module.ConnectError
        raise kind(str(error), request=request) from error
    logger.info("%s was answered with %d: %s", outlet.name, status, type(error).__name__)
    return module.Response(status, headers=[*headers, ("x-request-id", outlet.name)], content=content)
