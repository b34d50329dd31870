"""Bells: what a caller waits on for news from another thread, in whatever loop or thread it is.

A bell may be waited on again and again, by one. Whoever is woken looks whether what it waits for is there: it
may have been rung for something that was taken before.

None rings while the interpreter exits: who waits then is a daemon thread, which ends with it. If it was told
what became of its call, it could only print that.
"""

from __future__ import annotations

import _thread
import select
import threading
from collections.abc import Callable
from functools import partial
from types import BuiltinFunctionType
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

import trio

from wspool.errors import ForeignUseError

if TYPE_CHECKING:  # where it is used it is there already; trio needs none of it
    import asyncio

__all__ = [
    "EXITING",
    "LoopBell",
    "ThreadBell",
    "TrioBell",
    "bell_here",
    "check_threads",
    "in_thread",
    "running_loop",
]

_P = ParamSpec("_P")
_T = TypeVar("_T")

#: Set while the interpreter exits and waits for pools to say goodbye.
EXITING: Final = threading.Event()

_FACADE: Final = "wspool.aio needs asyncio: take wspool itself in trio, wspool.blocking in plain threads"
_CLIENT: Final = "there is no event loop here that is known: use asyncio or trio, or the client that blocks"


_GREEN: Final = (
    "gevent or eventlet stands in for this process's threads, and a runtime needs a real one: use plain ones "
    "(gunicorn: gthread), or give an ordinary client the URL of `wspool proxy`"
)
_DAEMONS: Final = (
    "this interpreter, of several in one process, allows no daemon threads, which a runtime is: use it in "
    "the main interpreter, or in a process of its own"
)


def check_threads() -> None:
    """Raise unless a thread that is begun here is one, and may go on beside the others.

    Raises:
        ForeignUseError: it is not; the text says what to do.
    """
    for function in (_thread.start_new_thread, select.select):
        if not isinstance(function, BuiltinFunctionType):
            raise ForeignUseError(_GREEN)
    allowed = getattr(_thread, "daemon_threads_allowed", None)  # since Python 3.12
    if allowed is not None and not allowed():
        raise ForeignUseError(_DAEMONS)


class ThreadBell:
    """What a thread without a loop waits on. Rung from anywhere."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def ring(self) -> None:
        """Wake who waits. Never waits, never raises."""
        if not EXITING.is_set():
            self._event.set()

    def wait(self) -> None:
        """Wait until it was rung, since the last wait; KeyboardInterrupt comes through."""
        self._event.wait()
        self._event.clear()


class LoopBell:
    """What a task of asyncio waits on. Made by that task; rung from anywhere.

    Args:
        instead: what to do where there is none.

    Raises:
        ForeignUseError: there is no event loop of asyncio here.
    """

    def __init__(self, instead: str = _FACADE) -> None:
        self._loop = running_loop(instead)
        self._future: asyncio.Future[None] | None = None
        self._is_rung = False

    def ring(self) -> None:
        """Wake who waits. Never waits, never raises: there may be nobody any more."""
        if EXITING.is_set():
            return
        try:
            self._loop.call_soon_threadsafe(self._wake)
        except RuntimeError:
            pass  # that loop has ended

    async def wait(self) -> None:
        """Wait until it was rung, since the last wait."""
        if not self._is_rung:
            self._future = self._loop.create_future()
            await self._future
        self._is_rung = False

    def _wake(self) -> None:
        self._is_rung = True
        if self._future is not None and not self._future.done():
            self._future.set_result(None)


class TrioBell:
    """The same for a task of trio."""

    def __init__(self) -> None:
        self._event = trio.Event()
        self._token = trio.lowlevel.current_trio_token()

    def ring(self) -> None:
        """Wake who waits. Never waits, never raises: there may be nobody any more."""
        if EXITING.is_set():
            return
        try:
            self._token.run_sync_soon(self._wake)
        except trio.RunFinishedError:
            pass  # that run has ended

    async def wait(self) -> None:
        """Wait until it was rung, since the last wait. A checkpoint."""
        await self._event.wait()
        self._event = trio.Event()

    def _wake(self) -> None:
        self._event.set()  # that of now


def bell_here() -> LoopBell | TrioBell:
    """Return what a task of asyncio or trio waits on.

    Raises:
        ForeignUseError: there is neither here.
    """
    return TrioBell() if trio.lowlevel.in_trio_task() else LoopBell(_CLIENT)


async def in_thread(function: Callable[_P, _T], *args: _P.args, **keywords: _P.kwargs) -> _T:
    """Return what *function* returns, called in a thread, to a task of asyncio or trio. A checkpoint.

    Cancelled on trio it waits for the thread, on asyncio it leaves it alone.

    Raises:
        ForeignUseError: there is neither here.
    """
    call = partial(function, *args, **keywords)
    if trio.lowlevel.in_trio_task():
        return await trio.to_thread.run_sync(call)
    return await running_loop(_CLIENT).run_in_executor(None, call)


def running_loop(instead: str = _FACADE) -> asyncio.AbstractEventLoop:
    """Return the event loop of asyncio that this task is in.

    Raises:
        ForeignUseError: there is none; *instead* says what to do.
    """
    import asyncio

    try:
        # Trio may be the guest of a loop, which does not run its tasks.
        loop = None if trio.lowlevel.in_trio_task() else asyncio.get_running_loop()
    except RuntimeError:
        loop = None
    if loop is None:
        raise ForeignUseError(instead)
    return loop
