"""Runtime: one thread with one trio run, for callers that are not on trio.

`wspool.aio` and `wspool.blocking` go through it, and whoever builds another door.

Rules of this module:

* One for each process, begun at its first use and ended, within bounds, when the interpreter exits. Its
  thread keeps nobody alive.
* A call is a task of the trio run. It has the context variables of its caller, and its exception is raised
  there. A caller that leaves cancels it, and goes when it has ended: nothing of a call outlives its caller.
* An interrupt may come between any two lines of a caller, who cannot be protected from it. So what a call has
  entered for its caller is a claim: whoever has it last leaves it, and that may be the call itself.
* A child of `fork` has the objects and not the thread. It is told so instead of waiting for ever.
* Nothing is printed, and nothing raised where nobody waits.
"""

from __future__ import annotations

import atexit
import contextvars
import functools
import os
import queue
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Final, Generic, TypeVar, cast

import attrs
import trio

from wspool.bells import EXITING, check_threads
from wspool.errors import ForeignUseError, PoolClosedError

__all__ = ["Call", "Claim", "Residence", "Runtime"]

_T = TypeVar("_T")

#: Seconds that the interpreter's exit waits for pools to say goodbye.
GOODBYE: Final = 2.0

_ENDED: Final = "the runtime was closed, or ends with the interpreter: nothing can be asked of it any more"
_FORKED: Final = "it was made before this process was forked, and its thread stayed there: open one here"
_INSIDE: Final = (
    "called from the runtime's own thread (a hook of an Instrument, or a trace), where waiting would never "
    "end: hand the work to another thread"
)


@attrs.define(eq=False)
class Call(Generic[_T]):
    """One call into the trio run. Made by `Runtime.prepare`; `begin` begins it.

    Attributes:
        begun: True once it is a task.
        done: True once it has ended.
        cancelled: True if it ended because of `cancel`.
    """

    _runtime: Runtime
    _function: Callable[..., Awaitable[_T]]
    _args: tuple[Any, ...]
    _notify: Callable[[], None]
    _scope: trio.CancelScope
    _enters: bool
    begun: bool = False
    done: bool = False
    cancelled: bool = False
    _value: Any = None
    _error: BaseException | None = None

    def begin(self) -> None:
        """Let it begin, in a copy of the present context. Never waits.

        Raises:
            PoolClosedError: the runtime has ended.
        """
        self._runtime.begin(self)

    def cancel(self) -> None:
        """Let it end soon, or not begin at all. From any thread; never waits."""
        try:
            self._runtime.soon(self._stop)
        except PoolClosedError:
            pass  # then it has ended

    def drop(self) -> None:
        """Nobody wants what came of it. Once it is done."""
        self._value = self._error = None

    def _stop(self) -> None:
        self._scope.cancel()
        if not self.begun:  # its caller was interrupted while it asked
            self.cancelled = True
            self._finish()

    def result(self) -> _T:
        """Return what it returned, or raise what it raised. Once it is done, and not cancelled."""
        if self._error is not None:
            error, self._error = self._error, None  # or its traceback would hold this call, which holds it
            try:
                raise error
            finally:
                del error
        return cast("_T", self._value)

    async def run(self) -> None:
        """Perform it. In the trio run only."""
        try:
            with self._scope if self._enters else nullcontext():
                self._value = await self._function(*self._args)
            self.cancelled = self._scope.cancelled_caught
        except trio.Cancelled:
            self._error = PoolClosedError(_ENDED)
            raise
        except BaseException as error:  # noqa: ASYNC103 # it is its caller's
            self._error = error
        finally:
            self._finish()

    def fail(self) -> None:
        """The trio run has ended before it."""
        if not self.done:
            self._error = PoolClosedError(_ENDED)
            self._finish()

    def _finish(self) -> None:
        self.done = True
        self._runtime.forget(self)
        if not EXITING.is_set():
            self._notify()


class Claim(Generic[_T]):
    """What a call has entered for its caller. Left once, by the caller or when nobody has it any more.

    Made in the trio run, which no interrupt comes to: at no moment is there anything that nobody has.

    Args:
        runtime: where it was entered.
        value: what that gave.
        end: leaves it. In the runtime; never waits.
    """

    __slots__ = ("_end", "_left", "_runtime", "value")

    def __init__(self, runtime: Runtime, value: _T, end: Callable[[_T], object]) -> None:
        self._left = False
        self._runtime = runtime
        self._end = end
        self.value = value

    def leave(self) -> None:
        """Leave it, in order with all that is asked of the runtime later. Never waits, nor raises."""
        if not self._left:
            try:
                self._runtime.soon(self._end, self.value)
            except (ForeignUseError, PoolClosedError):
                pass  # it has ended, and what was entered with it; or that is another process
            self._left = True  # not before: an interrupt may have come in between

    def __del__(self, is_over: Callable[[], bool] = sys.is_finalizing) -> None:
        if is_over():
            return  # the process ends, and has taken apart what leaving needs
        try:
            self.leave()
        except BaseException:  # noqa: ASYNC103 # an interrupt: from here nobody can be told
            self.leave()


class Runtime:
    """A thread with a trio run. `Runtime.shared()` is that of this process.

    From any thread. Use of one that was made before a fork raises `ForeignUseError`.
    """

    _shared: Runtime | None = None
    _sharing = threading.Lock()

    def __init__(self) -> None:
        self._process = os.getpid()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._stop: trio.Event | None = None
        self._calls: set[Call[Any]] = set()

    @classmethod
    def shared(cls) -> Runtime:
        """Return the one of this process. It begins to run with its first call."""
        with cls._sharing:
            if cls._shared is None or cls._shared._process != os.getpid():
                cls._shared = Runtime()
                atexit.register(cls._shared._exit)
            return cls._shared

    def check(self) -> None:
        """Raise unless it can be used from here.

        Raises:
            ForeignUseError: this process was forked since, or this is its own thread.
        """
        if self._process != os.getpid():
            raise ForeignUseError(_FORKED)
        if self._thread is not None and threading.get_ident() == self._thread.ident:
            raise ForeignUseError(_INSIDE)

    def start(
        self,
        function: Callable[..., Awaitable[_T]],
        *args: Any,
        notify: Callable[[], None],
        scope: trio.CancelScope | None = None,
    ) -> Call[_T]:
        """Begin a call; return at once. For who cannot be interrupted: others `prepare` it.

        Args:
            function: an async function, called in the trio run in a copy of the present context.
            *args: its arguments.
            notify: called once in the runtime's thread when the call has ended; must not block or raise.
            scope: what `Call.cancel` cancels, where *function* enters one of its own; else one is made.

        Raises:
            ForeignUseError: see `check`.
            PoolClosedError: the runtime has ended.
        """
        call = self.prepare(function, *args, notify=notify, scope=scope)
        call.begin()
        return call

    def prepare(
        self,
        function: Callable[..., Awaitable[_T]],
        *args: Any,
        notify: Callable[[], None],
        scope: trio.CancelScope | None = None,
    ) -> Call[_T]:
        """Return a call, as `start`, that `Call.begin` begins: in a block that cancels it, if that is left.

        Raises:
            ForeignUseError: see `check`, `check_threads`.
            OSError: it cannot begin, for want of a file descriptor.
        """
        self.check()
        if self._token is None:
            self._begin()
        return Call(self, function, args, notify, scope or trio.CancelScope(), scope is None)

    def run(self, function: Callable[..., Awaitable[_T]], *args: Any) -> _T:
        """Call and wait, in a thread that may block. An interrupt cancels the call, and waits for its end.

        Args:
            function: an async function, as for `start`. What it enters for its caller is a `Claim`.
            *args: its arguments.

        Raises:
            Exception: what *function* raised; and what `start` raises.
        """
        ended = threading.Lock()
        ended.acquire()
        call = self.prepare(function, *args, notify=ended.release)
        try:
            call.begin()
            ended.acquire()
        except PoolClosedError:
            raise
        except BaseException:
            call.cancel()
            ended.acquire()  # a second interrupt does not wait
            call.drop()
            raise
        return call.result()

    def run_sync(self, function: Callable[..., _T], *args: Any) -> _T:
        """Call a function that never waits, also where waiting is not allowed: that takes microseconds.

        Raises:
            Exception: what *function* raised; and what `start` raises.
        """

        async def call() -> _T:  # noqa: ASYNC124 # a call is a task
            return function(*args)

        return self.run(call)

    def begin(self, call: Call[Any]) -> None:
        """Begin *call*, see there."""
        self._calls.add(call)
        try:
            self.soon(self._spawn, call, contextvars.copy_context())
        except PoolClosedError:
            self._calls.discard(call)
            raise

    def soon(self, function: Callable[..., object], *args: Any) -> None:
        """Let the trio run call *function* soon. From any thread; never waits.

        Raises:
            ForeignUseError: this process was forked since.
            PoolClosedError: the runtime has ended.
        """
        if self._process != os.getpid():
            raise ForeignUseError(_FORKED)
        if self._token is None:
            raise PoolClosedError(_ENDED)
        try:
            self._token.run_sync_soon(function, *args)
        except trio.RunFinishedError:
            raise PoolClosedError(_ENDED) from None

    def forget(self, call: Call[Any]) -> None:
        """*call* has ended."""
        self._calls.discard(call)

    def close(self) -> None:
        """End the trio run: what is open says goodbye for two seconds at most. Idempotent; called at exit."""
        thread, stop = self._thread, self._stop
        if thread is None or stop is None or self._process != os.getpid():
            return
        try:
            self.soon(stop.set)
        except PoolClosedError:
            pass  # it has ended
        thread.join(GOODBYE)

    def _exit(self) -> None:
        """The interpreter exits: no threads wait here any more but daemons (`wspool.bells`)."""
        EXITING.set()
        try:
            self.close()
        finally:
            EXITING.clear()  # what asks after that is told

    def _begin(self) -> None:
        with self._starting:
            if self._token is not None:
                return
            check_threads()
            begun: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
            main = functools.partial(self._main, begun.put)
            self._thread = threading.Thread(target=main, name="wspool runtime", daemon=True)
            self._thread.start()
            if (error := begun.get()) is not None:
                raise error

    def _main(self, begun: Callable[[Exception | None], object]) -> None:
        async def live() -> None:
            self._stop, self._token = trio.Event(), trio.lowlevel.current_trio_token()
            begun(None)
            await self._stop.wait()

        try:
            trio.run(live, restrict_keyboard_interrupt_to_checkpoints=True)
        except Exception as error:
            if self._token is not None:
                raise
            begun(error)  # it could not begin; the next call tries again
        finally:
            for call in list(self._calls):
                call.fail()

    def _spawn(self, call: Call[Any], context: contextvars.Context) -> None:
        call.begun = True
        trio.lowlevel.spawn_system_task(call.run, name="wspool call", context=context)

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a runtime cannot be pickled: each process has its own")


class Residence(Generic[_T]):
    """An `async with` block that a task of the trio run holds open: what has a nursery must stay in one task.

    Args:
        manager: makes the block's manager; called in the trio run.
    """

    def __init__(self, manager: Callable[[], AbstractAsyncContextManager[_T]]) -> None:
        self._manager = manager
        self._leave: trio.Event | None = None
        self._ended: trio.Event | None = None
        self._error: BaseException | None = None

    async def enter(self) -> _T:
        """Enter it; return what it gives. In the trio run. Cancelling leaves it."""
        entered, leave, ended = trio.Event(), trio.Event(), trio.Event()
        self._leave, self._ended = leave, ended
        given: list[_T] = []

        async def live() -> None:
            try:
                async with self._manager() as value:
                    given.append(value)
                    entered.set()
                    await leave.wait()
            except trio.Cancelled as error:
                self._error = error
                raise  # the runtime ends
            except BaseException as error:  # noqa: ASYNC103 # whoever leaves is told
                self._error = error
            finally:
                ended.set()
                entered.set()

        trio.lowlevel.spawn_system_task(live, name="wspool block", context=contextvars.copy_context())
        try:
            await entered.wait()
        except trio.Cancelled:
            leave.set()
            with trio.CancelScope(shield=True):
                await ended.wait()
            raise
        if not given:
            await self.leave()
        return given[0]

    async def claim(self, runtime: Runtime) -> Claim[_T]:
        """Enter it in *runtime*, as `enter`, for somebody elsewhere."""
        return Claim(runtime, await self.enter(), self._abandon)

    def _abandon(self, _: _T) -> None:
        if self._leave is not None:
            self._leave.set()

    async def leave(self) -> None:
        """Leave it. In the trio run. Cancelling does not keep it open, nor cut short what its end takes.

        Raises:
            Exception: what came out of the block's end.
        """
        if self._leave is None or self._ended is None:
            raise AssertionError("bug: left without being entered")
        self._leave.set()
        with trio.CancelScope(shield=True):
            await self._ended.wait()
        error, self._error = self._error, None
        if isinstance(error, trio.Cancelled):
            raise PoolClosedError(_ENDED)
        if error is not None:
            raise error


def _after_fork() -> None:
    # Whoever forked may have held it.
    Runtime._sharing = threading.Lock()  # pyright: ignore[reportPrivateUsage]  # of this module


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
