"""How a command runs what it has opened, until it is told to stop."""

import signal
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Final, TypeVar

import trio

from wspool.cli.usage import say

__all__ = ["run_until_told"]

T = TypeVar("T")

#: Not everywhere (Windows has none).
_HANGUP: Final[int | None] = getattr(signal, "SIGHUP", None)


async def run_until_told(
    opened: AbstractAsyncContextManager[T],
    said: Callable[[T], str],
    *,
    drain: Callable[[T], Awaitable[None]] | None = None,
    reread: Callable[[T], object] | None = None,
) -> None:
    """Open something, say what it is called, and run it until SIGINT or SIGTERM. A checkpoint.

    Args:
        opened: what to open.
        said: returns what people have to know of it.
        drain: lets what runs in it end, after the first signal; the second one ends it at once.
        reread: reads its files again, on SIGHUP; by default that ends the process, as it does any.

    Raises what *opened* raises.
    """
    every = [signal.SIGINT, signal.SIGTERM]
    if reread is not None and _HANGUP is not None:
        every.append(signal.Signals(_HANGUP))
    with trio.open_signal_receiver(*every) as signals:
        async with opened as running:
            say(said(running))
            stopping = False
            async with trio.open_nursery() as nursery:

                async def drained(drain: Callable[[T], Awaitable[None]]) -> None:
                    await drain(running)
                    nursery.cancel_scope.cancel()

                async for one in signals:
                    if one == _HANGUP and reread is not None:
                        reread(running)
                    elif drain is None or stopping:
                        break
                    else:
                        stopping = True
                        nursery.start_soon(drained, drain)
                nursery.cancel_scope.cancel()
