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
    {"auth", "base_url", "cookies", "event_hooks", "follow_redirects", "http2", "limits", "mounts", "timeout"}
    | {"params", "transport", "trust_env", "verify"}
)


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
        **pool: what the pools are opened with, as for `open_pool`.

    Raises:
        ImportError: neither library is installed.
        TypeError, ValueError: what pools shall be opened with cannot be.
    """
    module = _module(library, pool)
    transport = AsyncPoolTransport(http, runtime=runtime, **pool)
    return _kind(module.AsyncClient)(**{"follow_redirects": True, **(client or {}), "transport": transport})


def client(
    *,
    library: _Library | None = None,
    http: Any = None,
    runtime: Runtime | None = None,
    client: dict[str, Any] | None = None,
    **pool: Any,
) -> Any:
    """Return a `Client` whose responses go over WebSocket, for threads. Takes what `async_client` takes."""
    module = _module(library, pool)
    transport = PoolTransport(http, runtime=runtime, **pool)
    return _kind(module.Client)(**{"follow_redirects": True, **(client or {})}, transport=transport)


@functools.cache
def _kind(base: type[Any]) -> type[Any]:
    """Return *base*, whose objects say why they cannot be pickled, and not which part of them cannot."""
    return type(base.__name__, (base,), {"__module__": base.__module__, "__reduce__": stays_here})


def _module(library: object, pool: Iterable[str]) -> Any:
    """Return the library, once what is known to be wrong was said."""
    for name in _OF_CLIENT.intersection(pool):
        raise TypeError(f"{name}= is said to the client itself: client={{{name!r}: ...}}")
    if not (library is None or library in _LIBRARIES):
        raise ValueError(f"library={library!r:.60} is neither 'httpx2' nor 'httpx'")
    for name in _likely() if library is None else (str(library),):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise ImportError(f"{library or 'httpx2 or httpx'} is not installed: pip install 'wspool[http]'")


def _likely() -> tuple[str, ...]:
    """The libraries, that of the host first."""
    try:
        major = int(metadata.version("openai").partition(".")[0])
    except (metadata.PackageNotFoundError, ValueError):
        major = 3
    return ("httpx", "httpx2") if major <= _LATEST_WITH_HTTPX else ("httpx2", "httpx")
