"""`wspool proxy`: any program through one pool, until it is stopped."""

import signal
from functools import partial
from typing import Annotated, Any

import trio
import typer

from wspool.cli.serving import shown_log
from wspool.cli.usage import usage_error
from wspool.pool.open import DEFAULT_URL
from wspool.proxy.open import open_proxy
from wspool.proxy.settings import Settings

__all__ = ["proxy"]

_Port = Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")]
_Host = Annotated[str, typer.Option(help="Address to listen on; one that others can reach needs a token.")]
_Url = Annotated[str, typer.Option(help="The provider's endpoint.")]
_Provider = Annotated[
    str | None, typer.Option(help="What it can do: openai, azure, xai, vercel, litellm; else by its host.")
]
_Keepalive = Annotated[float, typer.Option(min=0.1, help="Longest silence towards a client, in seconds.")]
_Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say a line about every refusal.")]


def proxy(
    port: _Port = 8787,
    host: _Host = "127.0.0.1",
    url: _Url = DEFAULT_URL,
    provider: _Provider = None,
    keepalive: _Keepalive = 15.0,
    verbose: _Verbose = False,
) -> None:
    """Run a proxy until Ctrl-C: programs ask it by HTTP, and it asks the provider over WebSocket.

    Prints the base URL that programs need (OPENAI_BASE_URL).
    """
    try:
        settings = Settings(keepalive=keepalive)
        options = {"host": host, "port": port, "provider": provider, "settings": settings}
        with shown_log("wspool.proxy", verbose=verbose):
            trio.run(partial(_run, url, **options))
    except OSError as problem:
        usage_error(f"cannot listen on {host}:{port}: {problem}")
    except ValueError as problem:
        usage_error(str(problem))


async def _run(url: str, **options: Any) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with open_proxy(url, **options) as running:
            typer.echo(running.base_url)
            async for _ in signals:
                return
