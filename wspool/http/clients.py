"""Clients that are ready to be handed to an SDK: `AsyncOpenAI(http_client=wspool.http.async_client())`."""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import Any, Final, Literal

from wspool.http.transport import AsyncPoolTransport, PoolTransport
from wspool.runtime import Runtime

__all__ = ["async_client", "client"]

_Library = Literal["httpx2", "httpx"]

#: Latest major version of `openai` that takes no client of httpx2.
_LATEST_WITH_HTTPX: Final = 2


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
    """
    transport = AsyncPoolTransport(http, runtime=runtime, **pool)
    return _module(library).AsyncClient(
        **{"follow_redirects": True, **(client or {}), "transport": transport}
    )


def client(
    *,
    library: _Library | None = None,
    http: Any = None,
    runtime: Runtime | None = None,
    client: dict[str, Any] | None = None,
    **pool: Any,
) -> Any:
    """Return a `Client` whose responses go over WebSocket, for threads. Takes what `async_client` takes."""
    transport = PoolTransport(http, runtime=runtime, **pool)
    return _module(library).Client(**{"follow_redirects": True, **(client or {})}, transport=transport)


def _module(library: str | None) -> Any:
    for name in (library,) if library is not None else _likely():
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
