"""What `wspool.aio` and `wspool.blocking` share: their methods are those of the native classes, mirrored.

A mirrored method has the signature, the types and the docstring of the native one, because it is made of it.
What the native docs call a checkpoint is here a wait of the caller's own world.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Concatenate, Final, Generic, ParamSpec, Protocol, TypeVar, cast, overload

import attrs

from wspool.core.frames import Event
from wspool.errors import PoolClosedError
from wspool.pool.conversation import Conversation
from wspool.pool.lease import Lease
from wspool.pool.pool import Pool
from wspool.pool.toolbox import DefinedTool
from wspool.pool.turn import Turn
from wspool.runtime import Runtime

__all__ = [
    "CONVERSATION",
    "LEASE",
    "POOL",
    "TURN",
    "Facade",
    "Method",
    "Ready",
    "adapt_tools",
    "leave",
    "like",
    "mirrors",
    "unbound",
]

_N = TypeVar("_N")
_P = ParamSpec("_P")
_G = TypeVar("_G", bound=Callable[..., Any])
_R = TypeVar("_R")
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
    """

    def __init__(self, native: _N, runtime: Runtime) -> None:
        self.native = native
        self.runtime = runtime

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(f"a {type(self).__name__.lower()} cannot be pickled: {_ADVICE}")

    def __repr__(self) -> str:
        return repr(self.native)


def leave(runtime: Runtime, function: Callable[..., object], *args: Any) -> None:
    """Let *runtime* leave something, in order with all that is asked of it later. Never waits, nor raises."""
    try:
        runtime.soon(function, *args)
    except PoolClosedError:
        pass  # it has ended, and what was entered with it


class Ready:
    """Events that have crossed to the caller, and were not taken yet."""

    __slots__ = ("_events", "_next")

    def __init__(self) -> None:
        self._events: Sequence[Event] = ()
        self._next = 0

    def put(self, events: Sequence[Event]) -> None:
        """Take what has crossed, when nothing is left of what did before."""
        self._events, self._next = events, 0

    def take(self) -> Event | None:
        """Return the next event, None if there is none."""
        if self._next == len(self._events):
            return None
        self._next += 1
        return self._events[self._next - 1]


def mirrors(native: object) -> Callable[[_G], _G]:
    """Give a method the docstring of *native*, a property or a method."""

    def documented(method: _G) -> _G:
        method.__doc__ = native.__doc__
        return method

    return documented


def like(native: object) -> Callable[[_G], _G]:
    """Give a method that is written out the signature and the docstring of *native*."""

    def alike(method: _G) -> _G:
        functools.update_wrapper(method, cast("Any", native))
        return method

    return alike


def adapt_tools(keywords: dict[str, Any], wrap: Callable[[Any], Any]) -> dict[str, Any]:
    """Return the arguments of `Conversation.run` with each function that it calls back wrapped.

    What is no function is left as it is: the native method says what is wrong with it.
    """

    def wrapped(value: Any) -> Any:
        if isinstance(value, DefinedTool):
            return attrs.evolve(value, function=wrap(value.function))
        return wrap(value) if callable(value) else value

    adapted = dict(keywords)
    if keywords.get("on_event") is not None:
        adapted["on_event"] = wrapped(keywords["on_event"])
    tools: object = keywords.get("tools")
    if isinstance(tools, Mapping):
        adapted["tools"] = {name: wrapped(tool) for name, tool in cast("Any", tools).items()}
    elif isinstance(tools, (list, tuple)):
        adapted["tools"] = [wrapped(tool) for tool in cast("Sequence[Any]", tools)]
    return adapted
