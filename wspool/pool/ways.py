"""Ways: what is entered, or iterated over, with `async` or without, and says so to who does it the other way.

It raises TypeError, as Python itself would, for there are programs that try what they are given so, and go on
with the other way; but it says which door to take. Type checkers are not shown how: they would believe that
it can be done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Generic, NoReturn, Self, TypeVar

from trio.lowlevel import enable_ki_protection

from wspool.pool.home import DOORS

__all__ = ["AsyncBlock", "AsyncEvents", "Held", "PlainBlock", "PlainEvents"]

_T = TypeVar("_T")


class AsyncBlock:
    """What is entered with `async with`."""

    __slots__ = ()

    #: What to do instead.
    _instead: ClassVar[str] = DOORS

    if not TYPE_CHECKING:

        def __enter__(self) -> NoReturn:
            raise TypeError(f"this is entered with 'async with'{self._instead}")

        def __exit__(self, *error: object) -> None:
            """Without it Python looks no further."""


class AsyncEvents(AsyncBlock):
    """The same, and iterated over as well: it is its own iterator."""

    __slots__ = ()

    def __aiter__(self) -> Self:
        return self

    if not TYPE_CHECKING:

        def __iter__(self) -> NoReturn:
            raise TypeError(f"this is iterated over with 'async for'{self._instead}")


class PlainBlock:
    """What is entered with plain `with`."""

    __slots__ = ()

    _instead: ClassVar[str] = ": with async, take wspool itself in trio, wspool.aio in asyncio"

    if not TYPE_CHECKING:

        def __aenter__(self) -> NoReturn:
            raise TypeError(f"this is entered with plain 'with'{self._instead}")

        async def __aexit__(self, *error: object) -> None:
            """Without it Python looks no further."""


class PlainEvents(PlainBlock):
    """The same, and iterated over as well: it is its own iterator."""

    __slots__ = ()

    def __iter__(self) -> Self:
        return self

    if not TYPE_CHECKING:

        def __aiter__(self) -> NoReturn:
            raise TypeError(f"this is iterated over with plain 'for'{self._instead}")


class Held(PlainBlock, Generic[_T]):
    """The block of what is there at once, in every world.

    Args:
        take: takes it, or raises.
        leave: gives it back. Never waits.
    """

    __slots__ = ("_leave", "_take", "_taken")

    _instead = ", for it never waits: lease() does"

    def __init__(self, take: Callable[[], _T], leave: Callable[[_T], object]) -> None:
        self._take = take
        self._leave = leave
        self._taken: list[_T] = []

    @enable_ki_protection
    def __enter__(self) -> _T:
        self._taken.append(self._take())
        return self._taken[-1]

    @enable_ki_protection
    def __exit__(self, *error: object) -> None:
        surely(self._leave, self._taken[-1])
        self._taken.pop()


def surely(leave: Callable[..., object], *args: object) -> None:
    """Call *leave*, for which twice is once, and again if an interrupt comes meanwhile.

    It raises nothing itself: whatever comes out of it is what a handler of a signal has raised.
    """
    try:
        leave(*args)
    except BaseException:
        leave(*args)
        raise
