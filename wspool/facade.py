"""What `wspool.aio` and `wspool.blocking` share: their methods are those of the native classes, mirrored.

Rules of this module:

* A mirrored method has the signature, the types and the docstring of the native one, because it is made of
  it. What the native docs call a checkpoint is here a wait of the caller's own world.
* What neither waits nor gives anything of a world's own is the same in both, and mirrored here, once. The
  rest is a line in each: it has another type there, a coroutine or not, that world's `Turn` or this one's,
  and no type of Python says "that of the world". A test compares them.
"""

from __future__ import annotations

import functools
import itertools
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Concatenate, Final, Generic, ParamSpec, Protocol, TypeVar, cast, overload

import trio

from wspool.blocks import Given, give_back, taken_now
from wspool.core.events.response import Response
from wspool.core.events.turn import Delivery
from wspool.core.frames import Event
from wspool.core.policy import PoolPolicy, Provider
from wspool.errors import ForeignUseError, PoolClosedError
from wspool.pool.conversation import Conversation
from wspool.pool.handover import EventsOut, hand_over, let_go
from wspool.pool.lease import Lease
from wspool.pool.pool import Pool
from wspool.pool.turn import NOT_ENDED, OVER, Turn
from wspool.pool.ways import Held, surely
from wspool.runtime import Call, Claim, Runtime

__all__ = [
    "CONVERSATION",
    "LEASE",
    "POOL",
    "TURN",
    "ConversationFacade",
    "Facade",
    "LeaseFacade",
    "Method",
    "PoolFacade",
    "TurnFacade",
    "acts",
    "held",
    "leave",
    "lends",
    "makes",
    "mirrors",
    "prepares",
    "unbound",
]

_F = TypeVar("_F")
_N = TypeVar("_N")
_P = ParamSpec("_P")
_G = TypeVar("_G", bound=Callable[..., Any])
_R = TypeVar("_R")
_T = TypeVar("_T")
_R_co = TypeVar("_R_co", covariant=True)

_ADVICE: Final = "open a pool in each process"


class Method(Protocol[_P, _R_co]):
    """A method, as type checkers see it: called with *P* it returns *R*."""

    @overload
    def __get__(self, instance: None, owner: type[object]) -> Callable[Concatenate[Any, _P], _R_co]: ...
    @overload
    def __get__(self, instance: object, owner: type[object] | None = None) -> Callable[_P, _R_co]: ...


# A native class in the place of an instance: to type checkers each method is bound, so that its own
# parameters are left; at run time it is the plain function.
CONVERSATION: Final = cast("Conversation", Conversation)
LEASE: Final = cast("Lease", Lease)
POOL: Final = cast("Pool", Pool)
TURN: Final = cast("Turn", Turn)


def unbound(method: Callable[..., _R]) -> Callable[..., _R]:
    """Return a method of one of these as it is: it takes the instance first."""
    return method


class Facade(Generic[_N]):
    """Stands for an object of the native API, which lives in the runtime's trio run.

    Attributes:
        native: that object. Use it in the runtime only.
        runtime: where it lives.
        claim: what it is held by, if it was entered.
        origin: what it was made from, which it holds.
    """

    def __init__(self, native: _N, runtime: Runtime) -> None:
        self.native = native
        self.runtime = runtime
        self.claim: Claim[Any] | None = None
        self.origin: object = None

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(f"a {type(self).__name__.lower()} cannot be pickled: {_ADVICE}")

    def __repr__(self) -> str:
        return repr(self.native)


def mirrors(native: object) -> Callable[[_G], _G]:
    """Give a method the docstring of *native*, a property or a method."""

    def documented(method: _G) -> _G:
        method.__doc__ = native.__doc__
        return method

    return documented


def acts(native: Callable[_P, _T]) -> Method[_P, _T]:
    """Mirror a method that never waits."""

    @functools.wraps(native)
    def method(self: Facade[Any], *args: Any, **keywords: Any) -> Any:
        return self.runtime.run_sync(functools.partial(unbound(native), self.native, *args, **keywords))

    return cast("Method[_P, _T]", method)


def _from(origin: Facade[Any], made: _F) -> _F:
    """Return *made*, a facade or a block, which holds *origin* from now on."""
    cast("Given", made).origin = origin
    return made


def makes(native: Callable[_P, Any], facade: Callable[[Any, Runtime], _F]) -> Method[_P, _F]:
    """Mirror a method that makes something, whose facade is *facade*."""

    @functools.wraps(native)
    def method(self: Facade[Any], *args: Any, **keywords: Any) -> Any:
        made = self.runtime.run_sync(functools.partial(unbound(native), self.native, *args, **keywords))
        return _from(self, facade(made, self.runtime))

    return cast("Method[_P, _F]", method)


def prepares(
    native: Callable[_P, Any], prepare: Callable[_P, Any], facade: Callable[[Any, Runtime], _F]
) -> Method[_P, _F]:
    """Mirror a method that makes a turn, by its form for any thread."""

    @functools.wraps(native)
    def method(self: Facade[Any], *args: Any, **keywords: Any) -> Any:
        self.runtime.check()
        return _from(self, facade(unbound(prepare)(self.native, *args, **keywords), self.runtime))

    return cast("Method[_P, _F]", method)


def leave(runtime: Runtime, function: Callable[..., object], *args: Any) -> None:
    """Let *runtime* leave something, in order with all that is asked of it later. Never waits, nor raises."""
    try:
        runtime.soon(function, *args)
    except (ForeignUseError, PoolClosedError):
        pass  # it has ended, and what was entered with it; or that is another process


class _OneReader:
    """A block that one task or thread is in at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise trio.BusyResourceError("another task reads this turn; one at a time")

    def __exit__(self, *error: object) -> None:
        self._lock.release()


#: What comes of a turn before it is entered.
_NOTHING: Final = EventsOut()


class TurnFacade(Facade[Turn]):
    """What a turn has in either world.

    A task of the runtime enters it and pushes its events. It counts by what the caller has taken of them.
    """

    #: What it is handed over by, from when it is entered until it is left.
    _held: EventsOut | None = None

    def __init__(self, native: Turn, runtime: Runtime) -> None:
        super().__init__(native, runtime)
        self._out = _NOTHING
        self._call: Call[None] | None = None
        #: Events that were taken all at once, and that the caller was not given yet.
        self._ready: Iterator[Event] = iter(())
        self._reader = _OneReader()
        #: Whether the caller was given the end, or what went wrong.
        self._given = False
        self._failure: Exception | None = None
        self._left = False

    def _prepare(self) -> tuple[EventsOut, Call[None]]:
        """Return the call that enters it."""
        out = EventsOut()
        self._held = self._held or out  # it is entered once
        return out, self.runtime.prepare(hand_over, self.native, out, notify=out.end)

    def _entered(self, out: EventsOut, call: Call[None]) -> None:
        """It was entered, or raises why not."""
        if not out.begun:
            if self._held is out:
                self._held = None
            call.result()
        self._out, self._call = out, call

    def _leave(self) -> None:
        self._left = True
        self._ready = iter(())
        if self._held is not None:
            leave(self.runtime, let_go, self.native, self._held, self._given)
            self._held = None  # not before: an interrupt may have come in between

    def __del__(self, is_over: Callable[[], bool] = sys.is_finalizing) -> None:
        if self._held is not None and not is_over():
            surely(self._leave)

    def _next(self) -> Event | None:
        """Return the next event that is here, None if there is none."""
        for event in self._ready:
            if event is self._out.last:
                self._given = True
            return event
        return None

    def _waits(self, bell: Callable[[], object]) -> bool:
        """Have *bell* called when it is time to look again; return False if more is there, or the end."""
        if self._left or self._call is None:
            raise PoolClosedError(OVER)
        self.runtime.check()
        if self._given or not self._out.wait_for_more(bell):
            return False
        if self._out.is_crowded:
            self.runtime.soon(self._out.make_room)
        return True

    def _more(self) -> Event | None:
        """Return the next event once there is more, None at the end. Raises what iterating does."""
        pieces, full = self._out.take()
        if full:
            self.runtime.soon(self._out.make_room)
        self._ready = itertools.chain.from_iterable(pieces)
        event = self._next()
        if event is None and not self._given and self._call is not None:
            self._given = True
            try:
                self._call.result()
            except Exception as error:
                self._failure = error
        if event is None and self._failure is not None:
            raise self._failure
        return event

    @contextmanager
    def _told(self) -> Generator[None, None, None]:
        """Who reads waits for the end, and is told it, or what went wrong; not if it was cancelled."""
        with self._reader:
            try:
                yield
            except Exception:
                self._given = True
                raise
            self._given = True

    def _result(self) -> Response:
        """Return the response, all events of which were given."""
        if (failure := self.native.failure) is not None:
            raise failure
        return self.native.response

    @property
    @mirrors(Turn.delivery)
    def delivery(self) -> Delivery:
        return self.runtime.run_sync(lambda: self.native.delivery)

    @property
    @mirrors(Turn.response_id)
    def response_id(self) -> str | None:
        return self.runtime.run_sync(lambda: self.native.response_id)

    @property
    @mirrors(Turn.response)
    def response(self) -> Response:
        if not self._given:  # though it may have come already
            raise RuntimeError(NOT_ENDED)
        return self.native.response


class LeaseFacade(Facade[Lease]):
    """What a lease has in either world."""

    @property
    @mirrors(Lease.id)
    def id(self) -> int:
        return self.native.id

    @property
    @mirrors(Lease.alive)
    def alive(self) -> bool:
        return self.runtime.run_sync(lambda: self.native.alive)

    @property
    def connection(self) -> int:
        """Number of the connection in its pool."""
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

    park = acts(LEASE.park)
    release = acts(LEASE.release)


class ConversationFacade(Facade[Conversation]):
    """What a conversation has in either world."""

    @property
    @mirrors(Conversation.number)
    def number(self) -> int:
        return self.native.number

    @property
    @mirrors(Conversation.items)
    def items(self) -> list[dict[str, Any]]:
        return self.runtime.run_sync(lambda: self.native.items)

    edit = acts(CONVERSATION.edit)
    statistics = acts(CONVERSATION.statistics)
    snapshot = acts(CONVERSATION.snapshot)
    checkpoint = acts(CONVERSATION.checkpoint)
    close = acts(CONVERSATION.close)


_L = TypeVar("_L", bound=LeaseFacade)


def lends(native: Callable[_P, Lease], facade: Callable[[Lease, Runtime], _L]) -> Method[_P, _L]:
    """Mirror `acquire_nowait`."""

    @functools.wraps(native)
    def method(self: PoolFacade) -> _L:
        return taken_now(self.runtime, self.native.acquire_nowait, facade, self)

    return cast("Method[_P, _L]", method)


def held(
    native: Callable[_P, Any], facade: Callable[[Lease, Runtime], _L]
) -> Method[_P, AbstractContextManager[_L]]:
    """Mirror `lease_nowait`: a `with` block in either world, for nothing of it waits."""

    @functools.wraps(native)
    def method(self: PoolFacade) -> Held[_L]:
        return Held(lambda: taken_now(self.runtime, self.native.acquire_nowait, facade, self), give_back)

    return cast("Method[_P, AbstractContextManager[_L]]", method)


class PoolFacade(Facade[Pool]):
    """What a pool has in either world."""

    @property
    def policy(self) -> PoolPolicy:
        """The limits, as they were given, except a `max_size` beyond what this process can carry."""
        return self.native.policy

    @property
    def provider(self) -> Provider:
        """What the endpoint can do."""
        return self.native.provider

    @property
    @mirrors(Pool.number)
    def number(self) -> int:
        return self.native.number

    @property
    @mirrors(Pool.open)
    def open(self) -> int:
        return self.native.open

    @property
    @mirrors(Pool.transport)
    def transport(self) -> str:
        return self.native.transport

    pause = acts(POOL.pause)
    resume = acts(POOL.resume)
    resize = acts(POOL.resize)
    drain = acts(POOL.drain)
    clear = acts(POOL.clear)
    retry_now = acts(POOL.retry_now)
    statistics = acts(POOL.statistics)
    turns = acts(POOL.turns)
    withheld = acts(POOL.withheld)
