"""open_proxy: puts endpoint, gate, pools and front together, listens, and takes all of it apart."""

from __future__ import annotations

import logging
import os
import re
import ssl
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import attrs
import trio
import trio.testing

from wspool.core.policy import PoolPolicy
from wspool.core.providers import header_of
from wspool.http.pools import KnownTurns, Pools
from wspool.pool.open import DEFAULT_URL, endpoint_of, http_connector, open_pool, provider_of
from wspool.pool.setup import opener_of
from wspool.proxy.access.account import Account
from wspool.proxy.access.gate import Gate, Token
from wspool.proxy.access.tokens import TokenFile
from wspool.proxy.access.turnstile import Turnstile
from wspool.proxy.entrance.front import Front
from wspool.proxy.entrance.listeners import Listeners, Where, listen_there
from wspool.proxy.page.shown import Shown
from wspool.proxy.records.record import Records
from wspool.proxy.settings import Settings
from wspool.proxy.sockets.orphans import Orphans
from wspool.proxy.target import Upstream
from wspool.proxy.turns.passing import Passage
from wspool.proxy.turns.repeats import Repeats
from wspool.proxy.visit import Recorder, Services
from wspool.wire import dial

__all__ = ["Proxy", "open_proxy"]

logger: Final = logging.getLogger("wspool.proxy")

_DEFAULTS: Final = Settings()
_HERE: Final = Where()

#: How often it is looked whether the file of tokens has changed, and what tokens have used is written down,
#: in seconds.
_LOOK: Final = 2.0

#: A name of a host, as `Host` has it but for the port.
_NAME: Final = re.compile(r"[a-z0-9_.-]{1,253}|\[[0-9a-f:.]+\]")

#: Bytes of a turn that wait in a pool for a client that does not read, and twice as many may be in hand.
#: Small events take twice their bytes; with what waits in an outlet that is less than a MiB.
_MOST_BUFFERED: Final = 64 * 1024

#: Longest time of a TLS handshake, in seconds.
_HANDSHAKE: Final = 15.0

#: Time for last words to leave once the grace is over, in seconds.
_LAST_WORDS: Final = 5.0


class Proxy:
    """A running proxy; `open_proxy` makes it.

    Attributes:
        front: what all clients meet.
        records: what is known of all requests.
        pools: one for each identity.
        base_url: what SDKs call so; without a port a name that only `open_stream` can reach.
    """

    def __init__(
        self,
        front: Front,
        services: Services,
        nursery: trio.Nursery,
        listeners: Listeners,
        scheme: str,
        reread: Callable[[], None],
    ) -> None:
        self.front = front
        self.records = services.records
        self.pools, self._by_http = services.pools, services.pools_by_http
        self.base_url = f"{scheme}://{listeners.authority or 'localhost'}/v1"
        self._settings = services.settings
        self._turnstile = services.turnstile
        self._listeners = listeners
        self._nursery = nursery
        self._reread = reread

    async def open_stream(self, endpoint: object = None) -> trio.abc.Stream:
        """The client's half of a new in-memory connection. Always a checkpoint.

        Args:
            endpoint: ignored; it is there so that this method can stand in for a dialler.
        """
        client, ours = trio.testing.memory_stream_pair()
        self._nursery.start_soon(self.front.serve, ours)
        await trio.lowlevel.checkpoint()
        return client

    @property
    def waiting(self) -> int:
        """Turns that wait for a place among all clients."""
        return self._turnstile.waiting

    def reread(self) -> None:
        """Read the file of tokens again now, if there is one and it has changed. Never raises."""
        self._reread()

    async def drain(self, grace: float | None = None) -> None:
        """Take no further request, let what runs end, then end it, each with a last word. A checkpoint.

        Args:
            grace: seconds for that; by default that of the settings.

        Cancelling cuts the grace short.
        """
        if self._listeners.has_successor:
            await self._listeners.hand_on()
        self.front.drain()
        with trio.move_on_after(self._settings.grace if grace is None else grace):
            await self.front.quiet()
        if running := len(self.records.running):
            logger.warning("the grace is over: %d requests are ended", running)
        self._listeners.let_go()
        self.pools.close()
        self._by_http.close()
        with trio.move_on_after(_LAST_WORDS):
            await self.front.quiet()

    def __repr__(self) -> str:
        return f"<Proxy {self.base_url}: {self.front.open} connections, {len(self.records.running)} requests>"


@asynccontextmanager
async def open_proxy(
    url: str = DEFAULT_URL,
    *,
    where: Where = _HERE,
    api_key: str | None = None,
    tokens: Iterable[Token] | TokenFile | None = None,
    allowed: Iterable[str] = (),
    tls: ssl.SSLContext | None = None,
    settings: Settings = _DEFAULTS,
    state: str | os.PathLike[str] | None = None,
    recorder: Recorder | None = None,
    **pool: Any,
) -> AsyncGenerator[Proxy]:
    """Run a proxy while the body runs; leaving drops all connections (see `Proxy.drain`).

    Args:
        url: the provider's endpoint, as for `open_pool`.
        where: where to listen; by default port 8787 of this machine itself.
        api_key: the proxy's own for the provider; None sends each client's. With one, tokens are needed.
        tokens: what clients have to show; None asks for none. A file is read again when it changes.
        allowed: further names by which the proxy may be asked for, such as `host.docker.internal`.
        tls: for https.
        settings: how it treats its clients.
        state: file that keeps what tokens have used today, so that a budget outlives the proxy.
        recorder: takes down what is asked and answered, such as `wspool.testing.recorder.Recorder`.
        **pool: what the pools are opened with: `policy`, `provider`, `fallback`, `ssl_context`, `proxy` ...,
            as for `open_pool`.

    Raises:
        OSError: the port is taken, or the file of the state cannot be used.
        ValueError: others could reach it, and there is no token; or a key of its own and no token; or the
            file of the state is another one.
        TypeError: an option of the pools is said by each request itself.
    """
    gate = _gate(url, api_key, tokens, allowed)
    shown, account = Shown(gate.upstream.host), Account(path=state)
    pool = _options(url, gate.upstream.host, shown, pool)
    listeners = await listen_there(where, gate.may_listen)
    problem: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            services = _services(url, api_key, gate, settings, account, recorder, pool, nursery)
            front = Front(gate, services)
            routes = shown.routes(gate, services.records, lambda: front.open, lambda: front.draining)
            front.routes.update(routes)
            reread = partial(_reread, tokens, gate, front)
            scheme = "http" if tls is None else "https"
            proxy = Proxy(front, services, nursery, listeners, scheme, reread)
            # They listen already: whoever comes before this runs is in line.
            nursery.start_soon(listeners.serve, partial(_serve, front, tls), nursery)  # noqa: ASYNC113
            looks = [*([reread] if isinstance(tokens, TokenFile) else ()), *([account.save] if state else ())]
            for look in looks:
                nursery.start_soon(_repeat, look)
            try:
                with services.records.listen(services.account.note):
                    yield proxy
            except BaseException as raised:  # noqa: ASYNC103  # raised again below
                # Out of the nursery's sight, which would wrap it in a group.
                problem = raised
            nursery.cancel_scope.cancel()
    finally:
        listeners.close()
        account.save()
        if problem is not None:
            raise problem


def _options(url: str, host: str, shown: Shown, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the pools are opened with."""
    for name in {"headers", "url"} & given.keys():
        raise TypeError(f"{name}= is said by each request itself")
    pool: dict[str, Any] = {"fallback": "http", **given, "policy": _policy(given, host)}
    pool["instrument"] = shown.instruments(given.get("instrument"))
    open_pool(url, api_key="unused", **pool)  # whether that will do is to be known now
    return pool


def _services(
    url: str,
    api_key: str | None,
    gate: Gate,
    settings: Settings,
    account: Account,
    recorder: Recorder | None,
    pool: Mapping[str, Any],
    nursery: trio.Nursery,
) -> Services:
    known, by_http = KnownTurns(), _by_http(pool, gate.upstream.host, settings)
    return Services(
        upstream=gate.upstream,
        settings=settings,
        pools=Pools(pool, nursery=nursery, known=known),
        pools_by_http=Pools(by_http, nursery=nursery, known=known),
        records=Records(),
        passage=_passage(url, api_key, pool),
        turnstile=Turnstile(_places(settings, pool, gate.upstream.host)),
        account=account,
        recorder=recorder,
        repeats=Repeats(settings.replay_for),
        orphans=Orphans(settings.replay_for),
    )


def _gate(
    url: str, api_key: str | None, tokens: Iterable[Token] | TokenFile | None, allowed: Iterable[str]
) -> Gate:
    if api_key is not None and tokens is None:
        raise ValueError("a proxy with a key of its own needs tokens: any process here could use that key")
    known: Mapping[str, Token] | None = None
    if isinstance(tokens, TokenFile):
        known = tokens.tokens
    elif tokens is not None:
        known = {token.name: token for token in tokens}
    names = frozenset(name.lower() for name in allowed)
    for name in sorted(names):
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name that may be asked for: give one without scheme and port")
    return Gate(Upstream(url), api_key, known, names)


def _reread(tokens: object, gate: Gate, front: Front) -> None:
    if isinstance(tokens, TokenFile) and tokens.refresh():
        gate.tokens = tokens.tokens
        front.look_again()


async def _repeat(look: Callable[[], None]) -> None:
    while True:
        await trio.sleep(_LOOK)
        look()


async def _serve(front: Front, tls: ssl.SSLContext | None, stream: trio.abc.Stream, stranger: bool) -> None:
    """Serve one stream, in TLS if there is a context for that."""
    if tls is not None and stranger:
        secure = trio.SSLStream(stream, tls, server_side=True, https_compatible=True)
        try:
            with trio.fail_after(_HANDSHAKE):
                await secure.do_handshake()
        except (trio.BrokenResourceError, trio.TooSlowError):
            await trio.aclose_forcefully(secure)
            return
        stream = secure
    await front.serve(stream, stranger=stranger)


def _by_http(pool: Mapping[str, Any], host: str, settings: Settings) -> Mapping[str, Any]:
    """Return the options of pools that go by HTTP, where a request may be as long as a client may send it."""
    wire, policy = pool.get("wire", "auto"), pool.get("policy") or PoolPolicy()
    known = provider_of(pool.get("provider"), host)
    return {
        **pool,
        "wire": http_connector(dial.open_stream if isinstance(wire, str) else opener_of(wire)),
        "fallback": None,
        "warm_up": None,
        "policy": attrs.evolve(policy, lanes=1, min_idle=0),
        "provider": attrs.evolve(known, max_request=max(2 * settings.max_body, known.max_request)),
    }


def _policy(pool: Mapping[str, Any], host: str) -> PoolPolicy:
    """Return the policy of the pools: where a turn has its connection alone, it is read no further than its
    client reads. Where others share it, that would have them wait (`PoolPolicy.max_buffered`).
    """
    policy: PoolPolicy = pool.get("policy") or PoolPolicy()
    alone = min(policy.lanes, provider_of(pool.get("provider"), host).lanes) == 1
    if alone and policy.max_buffered == PoolPolicy().max_buffered:
        return attrs.evolve(policy, max_buffered=_MOST_BUFFERED)
    return policy


def _places(settings: Settings, pool: Mapping[str, Any], host: str) -> float:
    """Return how many turns may be at work at once in one pool."""
    policy = pool.get("policy") or PoolPolicy()
    lanes = min(policy.lanes, provider_of(pool.get("provider"), host).lanes)
    return min(settings.max_turns, policy.max_size * lanes)


def _passage(url: str, api_key: str | None, pool: Mapping[str, Any]) -> Passage:
    """Return the way to the provider over HTTP: the same as that of the pools."""
    names = ("policy", "ssl_context", "proxy", "allow_insecure")
    endpoint = endpoint_of(url, **{name: pool[name] for name in names if name in pool})
    wire = pool.get("wire", "auto")
    credential = None
    if api_key is not None:
        credential = header_of(api_key, provider_of(pool.get("provider"), endpoint.host))
    open_stream = dial.open_stream if isinstance(wire, str) else opener_of(wire)
    return Passage(endpoint, open_stream, credential, pool["policy"])
