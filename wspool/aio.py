"""wspool for asyncio: the same pool, the same names, the same errors.

    async with wspool.aio.open_pool() as pool, pool.conversation(model="gpt-5.2") as conversation:
        response = await conversation.respond("hello")

The pool lives in the one trio thread of this process (`wspool.runtime`); any number of event loops may use
it. Cancelling a task cancels what it waits for, and the task goes on when that has ended. Tools and key
functions that are async run in the loop of whoever called; plain ones run in threads. What an `Instrument`
sees it sees in the pool's thread.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Final, ParamSpec, TypeVar, cast

import trio

from wspool.bells import LoopBell, running_loop
from wspool.blocks import Block, claimed, taken
from wspool.core.events.response import Response
from wspool.core.frames import Event
from wspool.errors import PoolClosedError
from wspool.facade import (
    CONVERSATION,
    LEASE,
    POOL,
    TURN,
    ConversationFacade,
    Facade,
    LeaseFacade,
    Method,
    PoolFacade,
    TurnFacade,
    held,
    lends,
    makes,
    mirrors,
    prepares,
    unbound,
)
from wspool.pool import (
    conversation as native_conversation,
    lease as native_lease,
    open as native_open,
    pool as native_pool,
)
from wspool.pool.handover import Handover
from wspool.pool.toolbox import adapt_tools
from wspool.pool.ways import AsyncBlock, AsyncEvents, surely
from wspool.runtime import Call, Residence, Runtime

__all__ = ["Conversation", "Lease", "Pool", "Turn", "open_pool"]

_P = ParamSpec("_P")
_T = TypeVar("_T")
_C = TypeVar("_C", bound=Facade[Any])

#: What to take where there is no async.
_INSTEAD: Final = ": without async, take wspool.blocking"


async def _call(runtime: Runtime, function: Callable[..., Awaitable[_T]], *args: Any) -> _T:
    """Call *function* in the runtime and wait for its end, also when cancelled."""
    running_loop()  # before anything is asked of the runtime
    out: Handover[None] = Handover()
    call = runtime.prepare(function, *args, notify=out.end)
    try:
        await _begun(out, call)
    except BaseException:
        call.drop()
        raise
    return call.result()


async def _begun(out: Handover[Any], call: Call[Any]) -> None:
    """Begin *call*, and wait until *out* of it has begun or ended.

    Cancelled, or interrupted by what a handler of a signal raises, cancel it and wait for its end first; a
    second interrupt does not wait.
    """
    try:
        call.begin()
        await _rung(out.wait_to_begin)
    except PoolClosedError:
        raise
    except GeneratorExit:  # the loop ends, or has ended, and whoever waited with it
        call.cancel()
        raise
    except BaseException:
        await _end(out, call)  # noqa: ASYNC102 # it is cancelled, and shields nothing for long
        raise


async def _end(out: Handover[Any], call: Call[Any]) -> None:
    """Cancel *call*, and wait for its end, however often this is cancelled."""
    while True:
        try:
            call.cancel()
            await _rung(out.wait_to_end)
        except asyncio.CancelledError:  # noqa: ASYNC103 # the one before is raised by the caller
            continue  # noqa: ASYNC104 # the same
        return


async def _rung(waits: Callable[[Callable[[], object]], bool]) -> None:
    """Wait until there is nothing to wait for: who is woken looks, for the bell may have been another's."""
    bell = LoopBell()
    while waits(bell.ring):
        await bell.wait()


def _waits(
    native: Callable[_P, Awaitable[_T]],
    adapt: Callable[[Any, dict[str, Any]], dict[str, Any]] | None = None,
) -> Method[_P, Coroutine[Any, Any, _T]]:
    """Mirror a method that waits."""

    @functools.wraps(native)
    async def method(self: Facade[Any], *args: Any, **keywords: Any) -> Any:
        if adapt is not None:
            keywords = adapt(self, keywords)
        return await _call(self.runtime, functools.partial(unbound(native), self.native, *args, **keywords))

    return cast("Method[_P, Coroutine[Any, Any, _T]]", method)


class _Block(Block[_C], AsyncBlock):
    _instead = _INSTEAD

    async def __aenter__(self) -> _C:
        return self.entered(await _call(self.runtime, self.enter))

    async def __aexit__(self, *error: object) -> None:
        surely(self.left)


class _OtherTasks:
    """Runs what is the caller's in the caller's loop, for a call that waits in the runtime."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def here(self) -> _OtherTasks:
        """From now on the caller's loop is the running one."""
        self._loop = running_loop()
        return self

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return *function* as the runtime can call it: what is async in it runs in the loop."""
        if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):

            @functools.wraps(function)
            async def there(*args: Any, **keywords: Any) -> Any:
                return await self._run(functools.partial(function, *args, **keywords))

            return there

        @functools.wraps(function)
        def here(*args: Any, **keywords: Any) -> Any:
            made = function(*args, **keywords)
            return self._run(lambda: made) if inspect.isawaitable(made) else made

        return here

    async def _run(self, begin: Callable[[], Awaitable[Any]]) -> Any:
        """Await what *begin* gives in the loop. In the runtime; cancelling cancels it there and waits."""
        loop = self._loop
        if loop is None:
            raise AssertionError("bug: called back before there was a loop")
        token, done = trio.lowlevel.current_trio_token(), trio.Event()
        tasks: list[asyncio.Task[Any]] = []

        def finish(_: object = None) -> None:
            try:
                token.run_sync_soon(done.set)
            except trio.RunFinishedError:
                pass  # nobody waits there any more

        async def awaited() -> Any:
            return await begin()

        def start() -> None:
            task = loop.create_task(awaited())
            tasks.append(task)
            task.add_done_callback(finish)

        def cancel() -> None:
            for task in tasks:
                task.cancel()

        loop.call_soon_threadsafe(start)
        try:
            await done.wait()
        except trio.Cancelled:
            loop.call_soon_threadsafe(cancel)
            with trio.CancelScope(shield=True):
                await done.wait()
            raise
        (task,) = tasks
        if task.cancelled():
            raise RuntimeError("it was cancelled in its event loop")
        return task.result()


def _with_tools(_: object, keywords: dict[str, Any]) -> dict[str, Any]:
    return adapt_tools(keywords, _OtherTasks().here().wrap)


class Turn(TurnFacade, AsyncEvents):
    """`wspool.Turn` for asyncio: `async with ... as turn: async for event in turn: ...; turn.response`."""

    _instead = _INSTEAD

    steer = _waits(TURN.steer)

    async def __aenter__(self) -> Turn:
        """Send the request. May wait for a lease."""
        running_loop()
        out, call = self._prepare()
        await _begun(out, call)
        self._entered(out, call)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave. Never waits. A turn whose end was not given to the caller is given up."""
        surely(self._leave)

    async def __anext__(self) -> Event:
        """Return the next event. Cancelling loses none. Raises what that of `wspool.Turn` raises."""
        if (event := self._next()) is not None:
            return event
        with self._reader:
            await _rung(self._waits)
            event = self._more()
        if event is None:
            raise StopAsyncIteration
        return event

    @mirrors(TURN.result)
    async def result(self) -> Response:
        if self._out.wanted:  # then they come, and it is the last of them that is waited for
            async for _ in self:
                pass
            return self._result()
        with self._told():
            return await _call(self.runtime, self.native.result)


class Lease(LeaseFacade):
    """`wspool.Lease` for asyncio."""

    create = prepares(LEASE.create, LEASE.prepare, Turn)


class Conversation(ConversationFacade):
    """`wspool.Conversation` for asyncio."""

    turn = prepares(CONVERSATION.turn, CONVERSATION.prepare, Turn)
    respond = _waits(CONVERSATION.respond)
    run = _waits(CONVERSATION.run, _with_tools)
    compact = _waits(CONVERSATION.compact)
    fork = makes(CONVERSATION.fork, lambda native, runtime: _conversation_block(native, runtime))


def _conversation_block(native: Any, runtime: Runtime) -> AbstractAsyncContextManager[Conversation]:
    return _Block(native, runtime, Conversation, native_conversation.Conversation.close)


def _lease_block(native: Any, runtime: Runtime) -> AbstractAsyncContextManager[Lease]:
    return _Block(native, runtime, Lease, native_lease.Lease.release)


def _takes(native: Callable[_P, Awaitable[native_lease.Lease]]) -> Method[_P, Coroutine[Any, Any, Lease]]:
    """Mirror a method that waits for a lease."""

    @functools.wraps(native)
    async def method(self: PoolFacade, *args: Any, **keywords: Any) -> Lease:
        ask = functools.partial(unbound(native), self.native, *args, **keywords)
        return claimed(Lease, await _call(self.runtime, taken, self.runtime, ask), self.runtime, self)

    return cast("Method[_P, Coroutine[Any, Any, Lease]]", method)


class Pool(PoolFacade):
    """`wspool.Pool` for asyncio; made by `wspool.aio.open_pool`."""

    acquire = _takes(POOL.acquire)
    acquire_nowait = lends(POOL.acquire_nowait, Lease)
    lease = makes(POOL.lease, _lease_block)
    lease_nowait = held(POOL.lease_nowait, Lease)
    conversation = makes(POOL.conversation, _conversation_block)
    turn = makes(POOL.turn, Turn)
    wait_ready = _waits(POOL.wait_ready)
    aclose = _waits(POOL.aclose)


class _PoolBlock(AsyncBlock):
    """The `async with` block of a pool."""

    _instead = _INSTEAD

    def __init__(self, manager: AbstractAsyncContextManager[native_pool.Pool], callers: _OtherTasks) -> None:
        self._runtime = Runtime.shared()
        self._residence = Residence(lambda: manager)
        self._callers = callers

    async def __aenter__(self) -> Pool:
        self._callers.here()
        return claimed(Pool, await _call(self._runtime, self._residence.claim, self._runtime), self._runtime)

    async def __aexit__(self, *error: object) -> None:
        try:
            await _call(self._runtime, self._residence.leave)  # noqa: ASYNC102 # ends by itself, within bounds
        except PoolClosedError:
            pass  # as for `leave`


def _opens(native: Callable[_P, Any]) -> Callable[_P, AbstractAsyncContextManager[Pool]]:
    @functools.wraps(native)
    def open_pool(*args: _P.args, **keywords: _P.kwargs) -> AbstractAsyncContextManager[Pool]:
        callers = _OtherTasks()
        if callable(api_key := keywords.get("api_key")):
            keywords["api_key"] = callers.wrap(api_key)
        return _PoolBlock(native(*args, **keywords), callers)

    return open_pool


open_pool = _opens(native_open.open_pool)
