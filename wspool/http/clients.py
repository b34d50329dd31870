"""Clients that are ready to be handed to an SDK: `AsyncOpenAI(http_client=wspool.http.async_client())`."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterable, Sequence
from importlib import metadata
from typing import Any, Final, Literal

from wspool.http.transport import AsyncPoolTransport, PoolTransport, stays_here
from wspool.runtime import Runtime

__all__ = ["async_client", "client"]

_Library = Literal["httpx2", "httpx"]

#: Latest major version of `openai` that takes no client of httpx2.
_LATEST_WITH_HTTPX: Final = 2

_LIBRARIES: Final[Sequence[object]] = ("httpx2", "httpx")

#: What clients of both libraries take, and pools do not.
_OF_CLIENT: Final = frozenset(
    {"auth", "base_url", "cookies", "default_encoding", "event_hooks", "follow_redirects", "max_redirects"}
    | {"mounts", "params", "timeout", "trust_env"}
)

_OF_HTTP: Final = "it is of plain HTTP alone: http= takes a transport that is made with it"

#: What clients take and do not look at if they have a transport, and what to say instead.
_UNSEEN: Final = {
    "verify": "ssl_context= has what is trusted, over WebSocket and plain HTTP",
    "cert": "ssl_context= has the client's certificate (load_cert_chain), for WebSocket and plain HTTP",
    "http1": _OF_HTTP,
    "http2": _OF_HTTP,
    "limits": _OF_HTTP,
    "transport": "a client of your own takes one: transport=wspool.http.AsyncPoolTransport()",
}

#: The same of what is said beside *client*.
_BESIDE: Final = {**_UNSEEN, "proxy": "proxy= beside it is for WebSocket and plain HTTP"}


def async_client(
    *,
    library: _Library | None = None,
    http: Any = None,
    runtime: Runtime | None = None,
    client: dict[str, Any] | None = None,
    **pool: Any,
) -> Any:
    """Return an `AsyncClient` whose responses go over WebSocket, for asyncio and trio.

    Args:
        library: "httpx2" or "httpx"; by default the one that the installed `openai` uses, else what there is.
        http: as for `AsyncPoolTransport`.
        runtime: as for `AsyncPoolTransport`.
        client: what the client itself is made with, such as `timeout`.
        **pool: what the pools are opened with, as for `AsyncPoolTransport`. As with any client of the
            libraries *proxy* is "environment" by default, if `trust_env` of *client* is not False.

    Raises:
        ImportError: neither library is installed.
        TypeError, ValueError: what pools shall be opened with cannot be.
    """
    module, made_with = _module(library, pool), _made_with(client, pool)
    transport = AsyncPoolTransport(http, runtime=runtime, **pool)
    return _kind(module.AsyncClient)(**made_with, transport=transport)


def client(
    *,
    library: _Library | None = None,
    http: Any = None,
    runtime: Runtime | None = None,
    client: dict[str, Any] | None = None,
    **pool: Any,
) -> Any:
    """Return a `Client` whose responses go over WebSocket, for threads. Takes what `async_client` takes."""
    module, made_with = _module(library, pool), _made_with(client, pool)
    transport = PoolTransport(http, runtime=runtime, **pool)
    return _kind(module.Client)(**made_with, transport=transport)


@functools.cache
def _kind(base: type[Any]) -> type[Any]:
    """Return *base*, whose objects say why they cannot be pickled, and not which part of them cannot."""
    return type(base.__name__, (base,), {"__module__": base.__module__, "__reduce__": stays_here})


def _module(library: object, pool: Iterable[str]) -> Any:
    """Return the library, once what is known to be wrong was said."""
    for name in _OF_CLIENT.intersection(pool):
        raise TypeError(f"{name}= is said to the client itself: client={{{name!r}: ...}}")
    for name in _UNSEEN.keys() & pool:
        raise TypeError(f"{name}= is not for pools: {_UNSEEN[name]}")
    if not (library is None or library in _LIBRARIES):
        raise ValueError(f"library={library!r:.60} is neither 'httpx2' nor 'httpx'")
    for name in _likely() if library is None else (str(library),):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise ImportError(f"{library or 'httpx2 or httpx'} is not installed: pip install 'wspool[http]'")


def _made_with(client: dict[str, Any] | None, pool: dict[str, Any]) -> dict[str, Any]:
    """Return what the client is made with, once what it would not look at was said; complete *pool*."""
    given = client or {}
    for name in _BESIDE.keys() & given:
        raise TypeError(f"client={{{name!r}: ...}} would be passed over: {_BESIDE[name]}")
    if given.get("trust_env", True):
        pool.setdefault("proxy", "environment")
    return {"follow_redirects": True, **given}


def _likely() -> tuple[str, ...]:
    """The libraries, that of the host first."""
    try:
        major = int(metadata.version("openai").partition(".")[0])
    except (metadata.PackageNotFoundError, ValueError):
        major = 3
    return ("httpx", "httpx2") if major <= _LATEST_WITH_HTTPX else ("httpx2", "httpx")
