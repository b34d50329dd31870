"""wspool for threads: the same pool, the same names, the same errors, without async.

    with wspool.blocking.open_pool() as pool, pool.conversation(model="gpt-5.2") as conversation:
        response = conversation.respond("hello")

The pool lives in the one trio thread of this process (`wspool.runtime`); any number of threads may use it,
one at a time each conversation. An interrupt (Ctrl-C) cancels what is waited for, and comes when that has
ended. Tools run in threads, those of one turn at the same time. What an `Instrument` sees it sees in the
pool's thread. Where the native API has `aclose` this one has `close`. In a task of an event loop it works
(in a notebook's cell, say), and all other tasks of that loop wait for it: there `wspool.aio` is for you.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, cast

from wspool.bells import ThreadBell
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
from wspool.pool.toolbox import adapt_tools
from wspool.pool.ways import PlainBlock, PlainEvents, surely
from wspool.runtime import Residence, Runtime

__all__ = ["Conversation", "Lease", "Pool", "Turn", "open_pool"]

_P = ParamSpec("_P")
_T = TypeVar("_T")
_C = TypeVar("_C", bound=Facade[Any])


def _waits(
    native: Callable[_P, Awaitable[_T]],
    adapt: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> Method[_P, _T]:
    """Mirror a method that waits."""

    @functools.wraps(native)
    def method(self: Facade[Any], *args: Any, **keywords: Any) -> Any:
        if adapt is not None:
            keywords = adapt(keywords)
        return self.runtime.run(functools.partial(unbound(native), self.native, *args, **keywords))

    return cast("Method[_P, _T]", method)


def _rung(waits: Callable[[Callable[[], object]], bool]) -> None:
    """Wait until there is nothing to wait for: who is woken looks, for the bell may have been another's."""
    bell = ThreadBell()
    while waits(bell.ring):
        bell.wait()


class _Block(Block[_C], PlainBlock):
    def __enter__(self) -> _C:
        return self.entered(self.runtime.run(self.enter))

    def __exit__(self, *error: object) -> None:
        surely(self.left)


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return *function*, which must be a plain one."""
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):
        name = getattr(function, "__name__", type(function).__name__)
        raise TypeError(
            f"{name!r} is async, and here is no event loop: pass a plain function, or use wspool.aio"
        )
    return function


def _with_tools(keywords: dict[str, Any]) -> dict[str, Any]:
    return adapt_tools(keywords, _plain)


class Turn(TurnFacade, PlainEvents):
    """`wspool.Turn` without async: `with ... as turn: for event in turn: ...; turn.response`."""

    steer = _waits(TURN.steer)

    def __enter__(self) -> Turn:
        """Send the request. May wait for a lease."""
        out, call = self._prepare()
        try:
            call.begin()
            _rung(out.wait_to_begin)
        except PoolClosedError:
            raise
        except BaseException:
            call.cancel()
            _rung(out.wait_to_end)  # a second interrupt does not wait
            raise
        self._entered(out, call)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave. Never waits. A turn whose end was not given to the caller is given up."""
        surely(self._leave)

    def __next__(self) -> Event:
        """Return the next event. An interrupt while it waits loses none. Raises what `wspool.Turn` raises."""
        if (event := self._next()) is not None:
            return event
        with self._reader:
            _rung(self._waits)
            event = self._more()
        if event is None:
            raise StopIteration
        return event

    @mirrors(TURN.result)
    def result(self) -> Response:
        if self._out.wanted:  # then they come, and it is the last of them that is waited for
            for _ in self:
                pass
            return self._result()
        with self._told():
            return self.runtime.run(self.native.result)


class Lease(LeaseFacade):
    """`wspool.Lease` without async."""

    create = prepares(LEASE.create, LEASE.prepare, Turn)


class Conversation(ConversationFacade):
    """`wspool.Conversation` without async."""

    turn = prepares(CONVERSATION.turn, CONVERSATION.prepare, Turn)
    respond = _waits(CONVERSATION.respond)
    run = _waits(CONVERSATION.run, _with_tools)
    compact = _waits(CONVERSATION.compact)
    fork = makes(CONVERSATION.fork, lambda native, runtime: _conversation_block(native, runtime))


def _conversation_block(native: Any, runtime: Runtime) -> AbstractContextManager[Conversation]:
    return _Block(native, runtime, Conversation, native_conversation.Conversation.close)


def _lease_block(native: Any, runtime: Runtime) -> AbstractContextManager[Lease]:
    return _Block(native, runtime, Lease, native_lease.Lease.release)


def _takes(native: Callable[_P, Awaitable[native_lease.Lease]]) -> Method[_P, Lease]:
    """Mirror a method that waits for a lease."""

    @functools.wraps(native)
    def method(self: PoolFacade, *args: Any, **keywords: Any) -> Lease:
        ask = functools.partial(unbound(native), self.native, *args, **keywords)
        return claimed(Lease, self.runtime.run(taken, self.runtime, ask), self.runtime, self)

    return cast("Method[_P, Lease]", method)


class Pool(PoolFacade):
    """`wspool.Pool` without async; made by `wspool.blocking.open_pool`."""

    acquire = _takes(POOL.acquire)
    acquire_nowait = lends(POOL.acquire_nowait, Lease)
    lease = makes(POOL.lease, _lease_block)
    lease_nowait = held(POOL.lease_nowait, Lease)
    conversation = makes(POOL.conversation, _conversation_block)
    turn = makes(POOL.turn, Turn)
    wait_ready = _waits(POOL.wait_ready)
    close = _waits(POOL.aclose)


class _PoolBlock(PlainBlock):
    """The `with` block of a pool."""

    def __init__(self, manager: AbstractAsyncContextManager[native_pool.Pool]) -> None:
        self._runtime = Runtime.shared()
        self._residence = Residence(lambda: manager)

    def __enter__(self) -> Pool:
        return claimed(Pool, self._runtime.run(self._residence.claim, self._runtime), self._runtime)

    def __exit__(self, *error: object) -> None:
        try:
            self._runtime.run(self._residence.leave)
        except PoolClosedError:
            pass  # as for `leave`


def _opens(native: Callable[_P, Any]) -> Callable[_P, AbstractContextManager[Pool]]:
    @functools.wraps(native)
    def open_pool(*args: _P.args, **keywords: _P.kwargs) -> AbstractContextManager[Pool]:
        if callable(api_key := keywords.get("api_key")):
            _plain(api_key)
        return _PoolBlock(native(*args, **keywords))

    return open_pool


open_pool = _opens(native_open.open_pool)
