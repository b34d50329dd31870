"""open_proxy: puts endpoint, gate, pools and front together, listens, and takes all of it apart."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import trio
import trio.testing

from wspool.core.providers import header_of
from wspool.http.pools import Pools
from wspool.listening.listen import listen
from wspool.pool.open import DEFAULT_URL, endpoint_of, open_pool, provider_of
from wspool.pool.setup import opener_of
from wspool.proxy.front import Front
from wspool.proxy.gate import Gate, Token
from wspool.proxy.passing import Passage
from wspool.proxy.record import Records
from wspool.proxy.settings import Settings
from wspool.proxy.target import Upstream
from wspool.proxy.visit import Services
from wspool.wire import dial

__all__ = ["Proxy", "open_proxy"]

_DEFAULTS: Final = Settings()


class Proxy:
    """A running proxy; `open_proxy` makes it.

    Attributes:
        front: what all clients meet.
        records: what is known of all requests.
        pools: one for each identity.
        base_url: what SDKs call so; without a listener a name that only `open_stream` can reach.
    """

    def __init__(self, front: Front, services: Services, nursery: trio.Nursery, authority: str) -> None:
        self.front = front
        self.records = services.records
        self.pools = services.pools
        self.base_url = f"http://{authority}/v1"
        self._nursery = nursery

    async def open_stream(self, endpoint: object = None) -> trio.abc.Stream:
        """The client's half of a new in-memory connection. Always a checkpoint.

        Args:
            endpoint: ignored; it is there so that this method can stand in for a dialler.
        """
        client, ours = trio.testing.memory_stream_pair()
        self._nursery.start_soon(self.front.serve, ours)
        await trio.lowlevel.checkpoint()
        return client

    def __repr__(self) -> str:
        return f"<Proxy {self.base_url}: {self.front.open} connections, {len(self.records.running)} requests>"


@asynccontextmanager
async def open_proxy(
    url: str = DEFAULT_URL,
    *,
    host: str = "127.0.0.1",
    port: int | None = 8787,
    api_key: str | None = None,
    tokens: Iterable[Token] | None = None,
    allowed: Iterable[str] = (),
    settings: Settings = _DEFAULTS,
    **pool: Any,
) -> AsyncGenerator[Proxy]:
    """Run a proxy while the body runs; leaving drops all connections.

    Args:
        url: the provider's endpoint, as for `open_pool`.
        host: the address to listen on; without tokens a loopback one.
        port: 0 takes a free one; None opens no listener, and `Proxy.open_stream` is the only way in.
        api_key: the proxy's own for the provider; None sends each client's. With one, tokens are needed.
        tokens: what clients have to show; None asks for none.
        allowed: further names by which the proxy may be asked for, such as `host.docker.internal`.
        settings: how it treats its clients.
        **pool: what the pools are opened with: `policy`, `provider`, `fallback`, `ssl_context`, `proxy` ...,
            as for `open_pool`.

    Raises:
        OSError: the port is taken.
        ValueError: others could reach it, and there is no token; or a key of its own and no token.
        TypeError: an option of the pools is said by each request itself.
    """
    if api_key is not None and tokens is None:
        raise ValueError("a proxy with a key of its own needs tokens: any process here could use that key")
    for name in {"headers", "url"} & pool.keys():
        raise TypeError(f"{name}= is said by each request itself")
    pool.setdefault("fallback", "http")
    open_pool(url, api_key="unused", **pool)  # whether that will do is to be known now
    gate = Gate(
        Upstream(url),
        api_key,
        None if tokens is None else {token.name: token for token in tokens},
        frozenset(name.lower() for name in allowed),
    )
    listeners, authority = ([], "localhost") if port is None else await listen(host, port, gate.may_listen)
    problem: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            services = Services(
                upstream=gate.upstream,
                settings=settings,
                pools=Pools(pool, nursery=nursery),
                records=Records(),
                passage=_passage(url, api_key, pool),
            )
            proxy = Proxy(Front(gate, services), services, nursery, authority)
            if listeners:
                serve = partial(proxy.front.serve, stranger=True)
                await nursery.start(partial(trio.serve_listeners, serve, listeners, handler_nursery=nursery))
            try:
                yield proxy
            except BaseException as raised:  # noqa: ASYNC103  # raised again below
                # Out of the nursery's sight, which would wrap it in a group.
                problem = raised
            nursery.cancel_scope.cancel()
    finally:
        if problem is not None:
            raise problem


def _passage(url: str, api_key: str | None, pool: Mapping[str, Any]) -> Passage:
    """Return the way to the provider over HTTP: the same as that of the pools."""
    names = ("policy", "ssl_context", "proxy", "allow_insecure")
    endpoint = endpoint_of(url, **{name: pool[name] for name in names if name in pool})
    wire = pool.get("wire", "auto")
    credential = None
    if api_key is not None:
        credential = header_of(api_key, provider_of(pool.get("provider"), endpoint.host))
    return Passage(endpoint, dial.open_stream if isinstance(wire, str) else opener_of(wire), credential)
