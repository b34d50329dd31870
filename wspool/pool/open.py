"""open_pool: puts endpoint, credential, wire, policy and pool together, and takes them apart.

The only place that knows all the parts.
"""

from __future__ import annotations

import json
import logging
import os
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Final, Literal, Protocol, TypedDict, runtime_checkable

import attrs
import trio

from wspool.core.frames import encode
from wspool.core.policy import OPENAI, UNKNOWN, PoolPolicy, Provider
from wspool.errors import RequestTooLargeError
from wspool.pool.credentials import ApiKey, discreet, secret_source
from wspool.pool.instrument import Instrument
from wspool.pool.pool import Pool
from wspool.pool.setup import Headers, Setup, carried
from wspool.pool.shell import Shell
from wspool.pool.upkeep import warm_up_request
from wspool.wire import dial
from wspool.wire.dial import environment_proxy, parse_proxy, parse_url
from wspool.wire.headers import check_headers
from wspool.wire.trio_websocket import TrioWebSocketConnector
from wspool.wire.url import is_loopback
from wspool.wire.wire import Connector, Endpoint

__all__ = ["DEFAULT_URL", "open_pool"]

logger = logging.getLogger("wspool.pool")

#: OpenAI's endpoint. Source: its WebSocket mode guide.
DEFAULT_URL: Final = "wss://api.openai.com/v1/responses"
OPENAI_HOST: Final = "api.openai.com"
#: Where the key comes from when none is given, as in the provider's own SDKs.
KEY_VARIABLE: Final = "OPENAI_API_KEY"

#: Headers that say how the connection itself is made: a second one makes proxies and servers disagree.
_HANDSHAKE_HEADERS: Final = frozenset(
    {"connection", "content-length", "host", "proxy-authorization", "transfer-encoding", "upgrade"}
)


@discreet
def open_pool(
    url: str = DEFAULT_URL,
    *,
    api_key: ApiKey | None = None,
    provider: Provider | None = None,
    policy: PoolPolicy | None = None,
    wire: Literal["auto", "trio-websocket", "websockets", "http"] | Connector = "auto",
    fallback: Literal["http"] | None = None,
    warm_up: Mapping[str, Any] | None = None,
    headers: Sequence[tuple[str, str]] = (),
    ssl_context: ssl.SSLContext | Literal["truststore"] | None = None,
    proxy: str | Literal["environment"] | None = None,
    allow_insecure: bool = False,
    instrument: Instrument | None = None,
    trace: Callable[[str], None] | None = None,
) -> _PoolManager:
    """Open a pool for the length of an `async with` block.

    Args:
        url: the endpoint, ws:// or wss://. ws:// only to this machine, unless *allow_insecure*.
        api_key: the key, or a function that returns one, async or not, and is asked for each dial
            (`wspool.pool.credentials.ApiKey`). By default the environment variable OPENAI_API_KEY; an
            endpoint on this machine needs none.
        provider: what the endpoint can do; by default what OpenAI's can.
        policy: the limits; by default `PoolPolicy()`. If this process may not open as many files as
            `max_size` needs, its limit is raised; if it cannot be, there are fewer connections and a warning.
        wire: how messages are carried: a connector of your own, or a name. "websockets" is the fast
            wire (extra: fast), "auto" takes it if it is installed and "trio-websocket" if not. "http" is
            one POST for each (`wspool.wire.http_wire`).
        fallback: "http" to do that while WebSockets are of no use (`wspool.core.fallback`). Without lanes.
        warm_up: body of a request without output that each new connection gets ahead of
            demand; the first turn with equal model, instructions and tools continues from it.
        headers: further headers of the upgrade request, such as OpenAI-Organization.
        ssl_context: for wss://; by default `ssl.create_default_context()`. "truststore" takes the
            certificates that this machine's administrator trusts (extra: truststore).
        proxy: an HTTP proxy to tunnel through, http://user:password@host:port. "environment" takes it
            from HTTPS_PROXY or ALL_PROXY, heeding NO_PROXY; these are not looked at unless asked.
        allow_insecure: True to send the key unencrypted to another machine.
        instrument: watches the pool.
        trace: called with each line of a trace of the pool's decisions, which `wspool.testing.replay`
            replays. No key and no text is in it. Called synchronously; it must not use the pool.

    Leaving the block refuses newcomers, drops leases that are still held, says goodbye for at
    most `policy.close_timeout` seconds and leaves no task and no socket. An exception of the
    block comes out as it is.

    Raises:
        ValueError, TypeError: an argument is not usable; the text says why, and nothing shows the key.
        RequestTooLargeError: *warm_up* is over the provider's limit.
        ImportError: the wire or truststore was asked for and is not installed.
    """
    policy = policy if policy is not None else PoolPolicy()
    context = _truststore(ssl_context) if isinstance(ssl_context, str) else ssl_context
    endpoint = _endpoint(url, policy, context, proxy, allow_insecure)
    renewable, ask_headers = _headers(api_key, headers, endpoint)
    if provider is None:
        provider = OPENAI if endpoint.host == OPENAI_HOST else UNKNOWN
    setup = Setup(
        endpoint=endpoint,
        **_ways(wire, fallback, policy, provider),
        headers=ask_headers,
        renewable=renewable,
        provider=provider,
        policy=policy,
        warm_up=_warm_up(warm_up, provider),
        instrument=instrument if instrument is not None else Instrument(),
        trace=trace,
    )
    return _PoolManager(_fitted(setup))


def _endpoint(
    url: str, policy: PoolPolicy, context: ssl.SSLContext | None, proxy: str | None, allow_insecure: bool
) -> Endpoint:
    endpoint = parse_url(
        url,
        ssl_context=context,
        allow_insecure=allow_insecure,
        connect_timeout=policy.connect_timeout,
        close_timeout=policy.close_timeout,
        max_message_size=policy.max_message_size,
        proxy=parse_proxy(proxy) if proxy is not None and proxy != "environment" else None,
    )
    if proxy == "environment":
        found = environment_proxy(endpoint.host, endpoint.port)
        return attrs.evolve(endpoint, proxy=parse_proxy(found)) if found is not None else endpoint
    return endpoint


def _headers(
    api_key: ApiKey | None, headers: Sequence[tuple[str, str]], endpoint: Endpoint
) -> tuple[bool, Callable[[], Awaitable[Headers]]]:
    """Return whether the credential can be renewed, and what gives all headers of one dial."""
    fixed = tuple(headers)
    check_headers(fixed)
    for name, _ in fixed:
        _check_name(name)
    if api_key is None:
        api_key = os.environ.get(KEY_VARIABLE)
    if api_key is None and not is_loopback(endpoint.host):
        raise ValueError(f"no API key: set {KEY_VARIABLE}, or pass api_key=")
    source = secret_source(api_key) if api_key is not None else None

    async def ask_headers() -> Headers:
        if source is None:
            return fixed
        # Built here for one dial and kept nowhere.
        return (*fixed, ("Authorization", f"Bearer {(await source()).reveal()}"))

    return callable(api_key), ask_headers


def _check_name(name: str) -> None:
    if name.lower() == "authorization":
        raise ValueError("pass the credential as api_key=, not as a header")
    if name.lower() in _HANDSHAKE_HEADERS or name.lower().startswith("sec-websocket-"):
        raise ValueError(f"header {name!r} belongs to the handshake itself; leave it out")


def _warm_up(body: Mapping[str, Any] | None, provider: Provider) -> Mapping[str, Any] | None:
    if body is None:
        return None
    request = encode(warm_up_request(body))
    if len(request) > provider.max_request:
        raise RequestTooLargeError(size=len(request), limit=provider.max_request)
    copy: dict[str, Any] = json.loads(request)  # one that nobody else can change
    return copy


def _fitted(setup: Setup) -> Setup:
    """Return *setup* with no more connections than this process can carry."""
    if not setup.sockets:
        return setup
    policy = setup.policy
    most, problem = carried(policy.max_size)
    if problem:
        logger.warning("%s", problem)
    return attrs.evolve(
        setup, policy=attrs.evolve(policy, max_size=most, min_idle=min(policy.min_idle, most))
    )


@runtime_checkable
class _StreamOpener(Protocol):
    open_stream: dial.OpenStream


class _PoolManager:
    """The `async with` block of a pool.

    Not a generator: an exception of the body must not pass through the nursery of the
    pool's tasks, or it would come out in a group.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._shell: Shell | None = None
        self._nursery_manager: AbstractAsyncContextManager[trio.Nursery] | None = None

    # Protected: an interrupt comes at a wait in here, or after; else a nursery may be left half open.
    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Pool:
        if self._shell is not None:
            raise RuntimeError("a pool is opened once; call open_pool again")
        shell = self._shell = Shell(self._setup)
        manager = self._nursery_manager = trio.open_nursery()
        nursery = await manager.__aenter__()
        # Not `nursery.start`: after an interrupt it waits for its task, which shields itself, for ever.
        nursery.start_soon(shell.serve)  # noqa: ASYNC113 # waited for below
        try:
            with trio.CancelScope(shield=True):
                await shell.serving.wait()
        except BaseException:
            # An interrupt; nothing of the body has run.
            shell.stop()
            await manager.__aexit__(None, None, None)  # noqa: ASYNC102 # a nursery ends when cancelled, too
            raise
        if not shell.running:
            await manager.__aexit__(None, None, None)  # raises what the pool's task raised
            raise AssertionError("bug: the pool's task has ended for no reason")
        return Pool(shell, self._setup)

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        shell, manager = self._shell, self._nursery_manager
        if shell is None or manager is None:
            raise AssertionError("bug: left without being entered")
        shell.check_use()
        try:
            await shell.close(grace=0.0)  # noqa: ASYNC102 # cancelling it cuts its grace, no more
        except trio.Cancelled:  # noqa: ASYNC103 # the body's own comes out instead
            if error is None:
                raise
            # The body's own exception comes out, which may be the same cancellation.
        finally:
            # Never told how the body ended: what is not the nursery's own must come out as it is, whatever
            # a nursery makes of it (a group, or with loose groups nothing at all). If the body was cancelled
            # because a task of the pool crashed, that crash comes out of here, and replaces it.
            await manager.__aexit__(None, None, None)  # noqa: ASYNC102 # a nursery ends when cancelled, too
        return False


def _connector(wire: str) -> Connector:
    """Return the connector called *wire*. Only here is the optional library imported, and only if asked."""
    if wire not in ("auto", "trio-websocket", "websockets", "http"):
        raise ValueError(
            f"wire={wire!r} is none of 'auto', 'trio-websocket', 'websockets', 'http'; or pass a Connector"
        )
    if wire == "http":
        return _http_connector(dial.open_stream)
    if wire != "trio-websocket":
        try:
            from wspool.wire.websockets import WebSocketsConnector
        except ImportError as error:
            if wire == "websockets":
                raise ImportError(
                    "wire='websockets' needs websockets 13 or later: pip install 'wspool[fast]'"
                ) from error
        else:
            return WebSocketsConnector()
    return TrioWebSocketConnector()


def _http_connector(opener: dial.OpenStream) -> Connector:
    # Here, as h11 is not needed by anybody else.
    from wspool.wire.http_wire import HttpConnector

    return HttpConnector(opener)


class _Ways(TypedDict):
    connector: Connector
    fallback: Connector | None
    open_stream: dial.OpenStream


def _ways(wire: str | Connector, fallback: str | None, policy: PoolPolicy, provider: Provider) -> _Ways:
    """Return how to get to the endpoint, and how else."""
    if fallback not in (None, "http"):
        raise ValueError(f"fallback={fallback!r} is neither 'http' nor None")
    if fallback is not None and min(policy.lanes, provider.lanes) > 1:
        raise ValueError("fallback='http' is not for a pool with lanes, which HTTP has not: leave one out")
    connector = _connector(wire) if isinstance(wire, str) else wire
    # What is sent by HTTP goes the way that WebSockets go, where a connector says which that is.
    opener = connector.open_stream if isinstance(connector, _StreamOpener) else dial.open_stream
    return {
        "connector": connector,
        "fallback": None if fallback is None else _http_connector(opener),
        "open_stream": opener,
    }


def _truststore(name: str) -> ssl.SSLContext:
    """Return a context that trusts what the operating system trusts. Only here is truststore imported."""
    if name != "truststore":
        raise ValueError(f"ssl_context={name!r} is neither 'truststore' nor an ssl.SSLContext")
    try:
        import truststore
    except ImportError as error:
        raise ImportError("ssl_context='truststore' needs it: pip install 'wspool[truststore]'") from error
    return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
