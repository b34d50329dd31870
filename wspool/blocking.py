"""wspool for threads: the same pool, the same names, the same errors, without async.

    with wspool.blocking.open_pool() as pool, pool.conversation(model="gpt-5.2") as conversation:
        response = conversation.respond("hello")

The pool lives in the one trio thread of this process (`wspool.runtime`); any number of threads may use it,
one at a time each conversation. An interrupt (Ctrl-C) cancels what is waited for, and comes when that has
ended. Tools run in threads, those of one turn at the same time. What an `Instrument` sees it sees in the
pool's thread. Where the native API has `aclose` this one has `close`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from types import TracebackType
from typing import Any, Generic, ParamSpec, TypeVar, cast

from wspool.core.events.response import Response
from wspool.core.events.turn import Delivery
from wspool.core.frames import Event
from wspool.core.policy import PoolPolicy, Provider
from wspool.errors import PoolClosedError
from wspool.facade import (
    CONVERSATION,
    LEASE,
    POOL,
    TURN,
    Facade,
    Method,
    Ready,
    adapt_tools,
    leave,
    like,
    mirrors,
    unbound,
)
from wspool.pool import (
    conversation as native_conversation,
    lease as native_lease,
    open as native_open,
    pool as native_pool,
    turn as native_turn,
)
from wspool.runtime import Residence, Runtime

__all__ = ["Conversation", "Lease", "Pool", "Turn", "open_pool"]

_P = ParamSpec("_P")
_T = TypeVar("_T")
_F = TypeVar("_F")


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


def _acts(native: Callable[_P, _T]) -> Method[_P, _T]:
    """Mirror a method that never waits."""

    @functools.wraps(native)
    def method(self: Facade[Any], *args: Any, **keywords: Any) -> Any:
        return self.runtime.run_sync(functools.partial(unbound(native), self.native, *args, **keywords))

    return cast("Method[_P, _T]", method)


def _makes(native: Callable[_P, Any], facade: Callable[[Any, Runtime], _F]) -> Method[_P, _F]:
    """Mirror a method that makes something, whose facade is *facade*."""

    @functools.wraps(native)
    def method(self: Facade[Any], *args: Any, **keywords: Any) -> Any:
        made = self.runtime.run_sync(functools.partial(unbound(native), self.native, *args, **keywords))
        return facade(made, self.runtime)

    return cast("Method[_P, _F]", method)


class _Block(Generic[_F]):
    """A `with` block of something that is entered in the runtime and left without waiting."""

    def __init__(
        self,
        native: Any,
        runtime: Runtime,
        facade: Callable[[Any, Runtime], _F],
        leave: Callable[[Any], object],
    ) -> None:
        self._native = native
        self._runtime = runtime
        self._facade = facade
        self._leave = leave
        self._entered: Any = None

    def __enter__(self) -> _F:
        undo = functools.partial(self._runtime.soon, self._leave)
        self._entered = self._runtime.run(self._native.__aenter__, undo=undo)
        return self._facade(self._entered, self._runtime)

    def __exit__(self, *error: object) -> None:
        leave(self._runtime, self._leave, self._entered)


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


class Turn(Facade[native_turn.Turn]):
    """`wspool.Turn` without async: `with ... as turn: for event in turn: ...; turn.response`."""

    def __init__(self, native: native_turn.Turn, runtime: Runtime) -> None:
        super().__init__(native, runtime)
        self._ready = Ready()

    @property
    @mirrors(native_turn.Turn.delivery)
    def delivery(self) -> Delivery:
        return self.runtime.run_sync(lambda: self.native.delivery)

    @property
    @mirrors(native_turn.Turn.response_id)
    def response_id(self) -> str | None:
        return self.runtime.run_sync(lambda: self.native.response_id)

    @property
    @mirrors(native_turn.Turn.response)
    def response(self) -> Response:
        return self.runtime.run_sync(lambda: self.native.response)

    result = _waits(TURN.result)
    steer = _waits(TURN.steer)

    def __enter__(self) -> Turn:
        """Send the request. May wait for a lease."""
        undo = functools.partial(self.runtime.soon, native_turn.Turn.leave)
        self.runtime.run(self.native.__aenter__, undo=undo)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave. Never waits. A turn whose end was not given to the caller is given up."""
        self._ready.put(())
        leave(self.runtime, self.native.leave)

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        """Return the next event. An interrupt loses none. Raises what iterating over `wspool.Turn` raises."""
        if (event := self._ready.take()) is not None:
            return event
        self._ready.put(self.runtime.run(self.native.batch, undo=self._ready.put))
        if (event := self._ready.take()) is None:
            raise StopIteration
        return event


class Lease(Facade[native_lease.Lease]):
    """`wspool.Lease` without async."""

    @property
    @mirrors(native_lease.Lease.id)
    def id(self) -> int:
        return self.native.id

    @property
    @mirrors(native_lease.Lease.alive)
    def alive(self) -> bool:
        return self.runtime.run_sync(lambda: self.native.alive)

    @property
    @mirrors(native_lease.Lease.connection)
    def connection(self) -> int:
        return self.native.connection

    @property
    def expiring(self) -> bool:
        """True once the connection is past its planned retirement: finish soon."""
        return self.native.expiring

    @property
    def taken(self) -> bool:
        """True once its lane was given to somebody who starved while it was parked."""
        return self.native.taken

    @property
    def resumed(self) -> bool:
        """True if its lane held the response that was preferred: its next turn may continue from that."""
        return self.native.resumed

    create = _makes(LEASE.create, Turn)
    park = _acts(LEASE.park)
    release = _acts(LEASE.release)


class Conversation(Facade[native_conversation.Conversation]):
    """`wspool.Conversation` without async."""

    @property
    @mirrors(native_conversation.Conversation.number)
    def number(self) -> int:
        return self.native.number

    @property
    @mirrors(native_conversation.Conversation.items)
    def items(self) -> list[dict[str, Any]]:
        return self.runtime.run_sync(lambda: self.native.items)

    turn = _makes(CONVERSATION.turn, Turn)
    respond = _waits(CONVERSATION.respond)
    run = _waits(CONVERSATION.run, _with_tools)
    compact = _waits(CONVERSATION.compact)
    edit = _acts(CONVERSATION.edit)
    statistics = _acts(CONVERSATION.statistics)
    snapshot = _acts(CONVERSATION.snapshot)
    checkpoint = _acts(CONVERSATION.checkpoint)
    close = _acts(CONVERSATION.close)
    fork = _makes(CONVERSATION.fork, lambda native, runtime: _conversation_block(native, runtime))


def _conversation_block(native: Any, runtime: Runtime) -> AbstractContextManager[Conversation]:
    return _Block(native, runtime, Conversation, native_conversation.Conversation.close)


def _lease_block(native: Any, runtime: Runtime) -> AbstractContextManager[Lease]:
    return _Block(native, runtime, Lease, native_lease.Lease.release)


def _takes(native: Callable[_P, Awaitable[native_lease.Lease]]) -> Method[_P, Lease]:
    """Mirror a method that waits for a lease."""

    @functools.wraps(native)
    def method(self: Facade[Any], *args: Any, **keywords: Any) -> Lease:
        undo = functools.partial(self.runtime.soon, native_lease.Lease.release)
        ask = functools.partial(unbound(native), self.native, *args, **keywords)
        return Lease(self.runtime.run(ask, undo=undo), self.runtime)

    return cast("Method[_P, Lease]", method)


class Pool(Facade[native_pool.Pool]):
    """`wspool.Pool` without async; made by `wspool.blocking.open_pool`."""

    @property
    def policy(self) -> PoolPolicy:
        """The limits, as they were given, except a `max_size` beyond what this process can carry."""
        return self.native.policy

    @property
    def provider(self) -> Provider:
        """What the endpoint can do."""
        return self.native.provider

    @property
    @mirrors(native_pool.Pool.number)
    def number(self) -> int:
        return self.native.number

    @property
    @mirrors(native_pool.Pool.transport)
    def transport(self) -> str:
        return self.native.transport

    @like(native_pool.Pool.lease_nowait)
    @contextmanager
    def lease_nowait(self) -> Generator[Lease, None, None]:
        lease = self.acquire_nowait()
        try:
            yield lease
        finally:
            leave(self.runtime, lease.native.release)

    acquire = _takes(POOL.acquire)
    acquire_nowait = _makes(POOL.acquire_nowait, Lease)
    lease = _makes(POOL.lease, _lease_block)
    conversation = _makes(POOL.conversation, _conversation_block)
    turn = _makes(POOL.turn, Turn)
    wait_ready = _waits(POOL.wait_ready)
    close = _waits(POOL.aclose)
    pause = _acts(POOL.pause)
    resume = _acts(POOL.resume)
    resize = _acts(POOL.resize)
    drain = _acts(POOL.drain)
    clear = _acts(POOL.clear)
    retry_now = _acts(POOL.retry_now)
    statistics = _acts(POOL.statistics)
    turns = _acts(POOL.turns)


class _PoolBlock:
    """The `with` block of a pool."""

    def __init__(self, manager: AbstractAsyncContextManager[native_pool.Pool]) -> None:
        self._runtime = Runtime.shared()
        self._residence = Residence(lambda: manager)

    def __enter__(self) -> Pool:
        pool = self._runtime.run(self._residence.enter, undo=self._undo)
        return Pool(pool, self._runtime)

    def __exit__(self, *error: object) -> None:
        try:
            self._runtime.run(self._residence.leave)
        except PoolClosedError:
            pass  # as for `leave`

    def _undo(self, _: object) -> None:
        self._runtime.start(self._residence.leave, notify=lambda: None)


def _opens(native: Callable[_P, Any]) -> Callable[_P, AbstractContextManager[Pool]]:
    @functools.wraps(native)
    def open_pool(*args: _P.args, **keywords: _P.kwargs) -> AbstractContextManager[Pool]:
        if callable(api_key := keywords.get("api_key")):
            _plain(api_key)
        return _PoolBlock(native(*args, **keywords))

    return open_pool


open_pool = _opens(native_open.open_pool)
