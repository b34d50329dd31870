"""Bells: what a caller waits on for news from another thread, in whatever loop or thread it is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import trio

from wspool.errors import ForeignUseError

if TYPE_CHECKING:  # where it is used it is there already; trio needs none of it
    import asyncio

__all__ = ["AsyncBell", "ThreadBell", "in_thread"]

_P = ParamSpec("_P")
_T = TypeVar("_T")


class ThreadBell:
    """What a thread without a loop waits on. Rung once, from anywhere."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def ring(self) -> None:
        """Wake who waits. Never waits, never raises."""
        self._event.set()

    def wait(self) -> None:
        """Wait until it was rung; KeyboardInterrupt comes through."""
        self._event.wait()


class AsyncBell:
    """What a task of asyncio or trio waits on. Made by that task; rung from anywhere.

    Raises:
        ForeignUseError: there is neither here.
    """

    def __init__(self) -> None:
        self._future: asyncio.Future[None] | None = None
        self._event: trio.Event | None = None
        if _in_trio():
            self._event = trio.Event()
            self._token = trio.lowlevel.current_trio_token()
        else:
            self._loop = _running_loop()
            self._future = self._loop.create_future()

    def ring(self) -> None:
        """Wake who waits. Never waits, never raises: there may be nobody any more."""
        try:
            if self._event is not None:
                self._token.run_sync_soon(self._event.set)
            else:
                self._loop.call_soon_threadsafe(self._set)
        except RuntimeError:
            pass  # that loop or run has ended (trio.RunFinishedError is one, too)

    def _set(self) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def wait(self) -> None:
        """Wait until it was rung."""
        if self._event is not None:
            await self._event.wait()
        elif self._future is not None:
            await self._future


async def in_thread(function: Callable[_P, _T], *args: _P.args, **keywords: _P.kwargs) -> _T:
    """Return what *function* returns, called in a thread, to a task of asyncio or trio. A checkpoint.

    Cancelled on trio it waits for the thread, on asyncio it leaves it alone.

    Raises:
        ForeignUseError: there is neither here.
    """
    call = partial(function, *args, **keywords)
    if _in_trio():
        return await trio.to_thread.run_sync(call)
    return await _running_loop().run_in_executor(None, call)


def _in_trio() -> bool:
    try:
        trio.lowlevel.current_task()
    except RuntimeError:
        return False
    return True


def _running_loop() -> asyncio.AbstractEventLoop:
    import asyncio

    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise ForeignUseError(
            "there is no event loop here that is known: use asyncio or trio, or the client that blocks"
        ) from None
