"""open_pool: puts endpoint, credential, wire, policy and pool together, and takes them apart.

The only place that knows all the parts.
"""

from __future__ import annotations

import json
import logging
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Final, Literal, TypedDict, cast

import attrs
import trio

from wspool.core.frames import encode, read_object
from wspool.core.given import check_callable, check_kind
from wspool.core.policy import PoolPolicy, Provider
from wspool.core.providers import provider_at, provider_named
from wspool.core.sending.pace import Pace
from wspool.core.statistics import PoolRecord
from wspool.errors import RequestTooLargeError
from wspool.pool.credentials import ApiKey, discreet
from wspool.pool.home import check_trio
from wspool.pool.instrument import Instrument
from wspool.pool.pool import Pool
from wspool.pool.setup import Setup, carried, opener_of
from wspool.pool.shell import Shell
from wspool.pool.upgrade import GivenHeaders, upgrade_headers
from wspool.pool.upkeep import warm_up_request
from wspool.pool.ways import AsyncBlock
from wspool.wire import dial
from wspool.wire.dial import check_library, environment_proxy, parse_proxy, parse_url
from wspool.wire.headers import check_subprotocols
from wspool.wire.wire import Connector, Endpoint

__all__ = [
    "DEFAULT_URL",
    "at_pace",
    "context_of",
    "endpoint_of",
    "http_connector",
    "open_pool",
    "provider_of",
]

logger = logging.getLogger("wspool.pool")

#: OpenAI's endpoint. Source: its WebSocket mode guide.
DEFAULT_URL: Final = "wss://api.openai.com/v1/responses"


@discreet
def open_pool(
    url: str = DEFAULT_URL,
    *,
    api_key: ApiKey | None = None,
    provider: Provider | str | None = None,
    policy: PoolPolicy | None = None,
    wire: Literal["auto", "trio-websocket", "websockets", "http"] | Connector = "auto",
    fallback: Literal["http"] | None = None,
    warm_up: Mapping[str, Any] | None = None,
    headers: GivenHeaders = (),
    subprotocols: Sequence[str] = (),
    ssl_context: ssl.SSLContext | Literal["truststore"] | None = None,
    proxy: str | Literal["environment"] | None = None,
    allow_insecure: bool = False,
    instrument: Instrument | Sequence[Instrument] | None = None,
    trace: Callable[[str], None] | None = None,
) -> AbstractAsyncContextManager[Pool]:
    """Open a pool for the length of an `async with` block.

    Args:
        url: the endpoint, ws:// or wss://. ws:// only to this machine, unless *allow_insecure*.
        api_key: the key, or a function that returns one, async or not, and is asked for each dial
            (`wspool.pool.credentials.ApiKey`). By default what the environment has for this very host
            (OPENAI_API_KEY, AZURE_OPENAI_API_KEY, XAI_API_KEY, AI_GATEWAY_API_KEY), nothing for any other.
            An endpoint on this machine needs none, nor does one whose key is a header.
        provider: what the endpoint can do, or "openai", "azure", "xai", "vercel", "litellm". By default it is
            known by the host; who is not is taken for OpenAI, but for what that keeps unasked.
        policy: the limits; by default `PoolPolicy()`. If this process may not open as many files as
            `max_size` needs, its limit is raised; if it cannot be, there are fewer connections and a warning.
        wire: a connector, or a name. "auto" is "websockets" (extra: fast) where that is installed, else
            "trio-websocket". "http" is one POST each (`wspool.wire.http_wire`).
        fallback: "http" to do that while WebSockets are of no use (`wspool.core.fallback`). Without lanes.
        warm_up: body of a request without output that each new connection gets ahead of demand; the first
            turn with equal model, instructions and tools continues from it.
        headers: further headers of the upgrade request, a mapping or pairs. A User-Agent replaces ours.
        subprotocols: WebSocket subprotocols to offer (RFC 6455 section 1.9).
        ssl_context: for wss://; by default `ssl.create_default_context()`. "truststore" (an extra) takes the
            certificates that this machine's administrator trusts.
        proxy: a proxy to tunnel through, [SCHEME://][user:password@]host[:port]; SCHEME is http, https, or
            (extra: socks) socks5, socks5h. "environment" takes it from HTTPS_PROXY and its kin, and NO_PROXY.
        allow_insecure: True to send the key by plain ws://, or an *ssl_context* that protects nothing.
        instrument: watches the pool; or several that do.
        trace: called with each line of a trace of the pool's decisions (`wspool.testing.replay`), without key
            and text. Called synchronously; it must not use the pool.

    Leaving the block refuses newcomers, drops leases that are still held, says goodbye for at most
    `policy.close_timeout` seconds and leaves nothing. An exception of the block comes out as it is.

    Raises:
        ValueError, TypeError: an argument is not usable; the text says why, and nothing shows the key.
        RequestTooLargeError: *warm_up* is over the provider's limit.
        ImportError: a wire, truststore or SOCKS was asked for and is not installed.
    """
    policy = policy if policy is not None else PoolPolicy()
    endpoint = endpoint_of(url, policy, ssl_context, proxy, allow_insecure, subprotocols)
    known = provider_of(provider, endpoint.host)
    renewable, ask_headers = upgrade_headers(api_key, headers, endpoint, known)
    setup = Setup(
        **_ways(wire, fallback, policy, known),
        endpoint=endpoint,
        headers=ask_headers,
        renewable=renewable,
        provider=known,
        policy=policy,
        warm_up=_warm_up(warm_up, known),
        instruments=_instruments(instrument, trace),
        trace=trace,
    )
    return _PoolManager(_fitted(setup))


def at_pace(opened: AbstractAsyncContextManager[Pool], pace: Pace) -> AbstractAsyncContextManager[Pool]:
    """Have the turns of a pool keep *pace*, which knows of others as well. For this pool alone.

    Where refusals are not waited out (`PoolPolicy.refusal_patience`) nobody keeps any. It is called
    in the trio run of the pool, and tells `Pace.line` what changes elsewhere.

    Args:
        opened: what `open_pool` has returned, not entered.
        pace: what to keep.
    """
    if not isinstance(opened, _PoolManager):
        raise TypeError(f"{opened!r:.60} is not what open_pool returns")
    opened.setup = attrs.evolve(opened.setup, pace=pace)
    return opened


def _instruments(
    given: Instrument | Sequence[Instrument] | None, trace: Callable[[str], None] | None
) -> Sequence[Instrument]:
    if trace is not None:
        check_callable("trace", trace)
    if given is None:
        return ()
    one = isinstance(given, Instrument) or not isinstance(cast("object", given), Iterable)
    several = (cast("Instrument", given),) if one else tuple(cast("Sequence[Instrument]", given))
    for each in several:
        if not isinstance(cast("object", each), Instrument):
            raise TypeError(f"instrument={each!r:.60} is no wspool.Instrument, nor a list of them")
    return several


def provider_of(provider: Provider | str | None, host: str) -> Provider:
    """Return the provider that is given, or named, or at *host*. Raises ValueError, TypeError."""
    if provider is None:
        return provider_at(host)
    if isinstance(provider, str):
        return provider_named(provider)
    check_kind("provider", provider, Provider, "a Provider or its name")
    return provider


def endpoint_of(
    url: str,
    policy: PoolPolicy | None = None,
    ssl_context: ssl.SSLContext | Literal["truststore"] | None = None,
    proxy: str | Literal["environment"] | None = None,
    allow_insecure: bool = False,
    subprotocols: Sequence[str] = (),
) -> Endpoint:
    """Return where a pool goes that is opened so. Takes and raises what `open_pool` does."""
    policy = policy if policy is not None else PoolPolicy()
    check_kind("policy", policy, PoolPolicy, "a PoolPolicy")
    check_kind("url", url, str, "a str")
    check_kind("proxy", proxy, (str, type(None)), "a str")
    endpoint = parse_url(
        url,
        ssl_context=context_of(ssl_context),
        allow_insecure=allow_insecure,
        connect_timeout=policy.connect_timeout,
        close_timeout=policy.close_timeout,
        max_message_size=policy.max_message_size,
        proxy=parse_proxy(proxy) if proxy is not None and proxy != "environment" else None,
    )
    endpoint = attrs.evolve(endpoint, subprotocols=check_subprotocols(subprotocols))
    if proxy == "environment":
        secure = endpoint.ssl_context is not None
        found = environment_proxy(endpoint.host, endpoint.port, secure=secure)
        endpoint = attrs.evolve(endpoint, proxy=parse_proxy(found) if found is not None else None)
    check_library(endpoint.proxy)
    return endpoint


def _warm_up(body: Mapping[str, Any] | None, provider: Provider) -> Mapping[str, Any] | None:
    if body is None:
        return None
    check_kind("warm_up", body, Mapping, "the body of a request, a mapping")
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


class _PoolManager(AsyncBlock):
    """The `async with` block of a pool, which is opened with *setup*.

    Not a generator: an exception of the body must not pass through the nursery of the
    pool's tasks, or it would come out in a group.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self._shell: Shell | None = None
        self._nursery_manager: AbstractAsyncContextManager[trio.Nursery] | None = None

    # Protected: an interrupt comes at a wait in here, or after; else a nursery may be left half open.
    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Pool:
        if self._shell is not None:
            raise RuntimeError("a pool is opened once; call open_pool again")
        check_trio()
        shell = self._shell = Shell(self.setup)
        pool = Pool(shell, self.setup)
        endpoint = self.setup.endpoint
        shell.announcer.opened(
            PoolRecord(
                pool=shell.announcer.pool,
                provider=self.setup.provider.name,
                host=endpoint.host,
                port=endpoint.port,
                statistics=pool.statistics,
            )
        )
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
        return pool

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
    """Return the connector called *wire*. Only here is its library imported, and only if it is asked for."""
    if wire not in ("auto", "trio-websocket", "websockets", "http"):
        raise ValueError(
            f"wire={wire!r} is none of 'auto', 'trio-websocket', 'websockets', 'http'; or pass a Connector"
        )
    if wire == "http":
        return http_connector(dial.open_stream)
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
    # Here, as half of those who import this library have the other one.
    from wspool.wire.trio_websocket import TrioWebSocketConnector

    return TrioWebSocketConnector()


def http_connector(opener: dial.OpenStream) -> Connector:
    """Return what makes one POST of each turn, on streams of *opener*."""
    # Here, as h11 is not needed by anybody else.
    from wspool.wire.http_wire import HttpConnector

    return HttpConnector(read_object, opener)


class _Ways(TypedDict):
    connector: Connector
    fallback: Connector | None


def _ways(wire: str | Connector, fallback: str | None, policy: PoolPolicy, provider: Provider) -> _Ways:
    """Return how to get to the endpoint, and how else."""
    if fallback not in (None, "http"):
        raise ValueError(f"fallback={fallback!r} is neither 'http' nor None")
    if fallback is not None and min(policy.lanes, provider.lanes) > 1:
        raise ValueError("fallback='http' is not for a pool with lanes, which HTTP has not: leave one out")
    connector = _connector(wire) if isinstance(wire, str) else wire
    check_callable("wire", connector, "connect")
    return {
        "connector": connector,
        "fallback": None if fallback is None else http_connector(opener_of(connector)),
    }


def context_of(context: ssl.SSLContext | str | None) -> ssl.SSLContext | None:
    """Return the context asked for: one that trusts what the system trusts, where it is called truststore.

    Only here is that library imported.
    """
    name = context
    if not isinstance(name, str):
        return name
    if name != "truststore":
        raise ValueError(f"ssl_context={name!r} is neither 'truststore' nor an ssl.SSLContext")
    try:
        import truststore
    except ImportError as error:
        raise ImportError("ssl_context='truststore' needs it: pip install 'wspool[truststore]'") from error
    return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
