"""The bodies of answers, for httpx2 and httpx: what is left of an exchange in the hands of its caller."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, Protocol

from wspool.bells import ThreadBell, bell_here
from wspool.pool.exchange import Expired, Outlet
from wspool.pool.ways import surely

__all__ = ["async_body", "blocking_body"]


class Door(Protocol):
    """What a body needs of its transport."""

    def soon(self, act: Callable[[], object]) -> None: ...
    def check(self) -> None: ...


class _Body:
    """Reads an `Outlet` to its end, or leaves it: when it is closed, and when it is forgotten."""

    #: Whether there is nothing to leave: nor is there before it is made.
    _over = True

    def __init__(self, module: Any, door: Door, outlet: Outlet) -> None:
        self._module = module
        self._door = door  # which closes its pools when it is forgotten
        self._outlet = outlet
        self._over = False

    def _waits(self, bell: Callable[[], object]) -> bool:
        """Have *bell* called when it is time to look again; return False if more is there, or the end."""
        self._door.check()
        return self._outlet.wait_for_more(bell)

    def _take(self) -> bytes:
        """Return what is there, nothing at the end."""
        outlet = self._outlet
        pieces, full = outlet.take()
        if full:
            self._door.soon(outlet.make_room)
        if pieces:
            return b"".join(pieces)
        self._over = True
        error = outlet.error
        if error is None:
            return b""
        if isinstance(error, Expired):
            raise self._module.ReadTimeout(str(error)) from error
        raise self._module.ReadError(str(error)) from error

    def leave(self) -> None:
        """Nothing more will be read. Never waits, nor raises."""
        if not self._over:
            self._door.soon(self._outlet.leave)
            self._over = True  # not before: an interrupt may have come in between

    def __del__(self, is_over: Callable[[], bool] = sys.is_finalizing) -> None:
        if not is_over():  # then the process has taken apart what leaving needs
            surely(self.leave)


class _Async(_Body):
    # Not a generator: nothing has to be closed when it is dropped.
    def __aiter__(self) -> Any:
        return self

    async def __anext__(self) -> bytes:
        if not self._over:
            while not self._outlet.has_more:
                bell = bell_here()
                if self._waits(bell.ring):
                    await bell.wait()
            if data := self._take():
                return data
        raise StopAsyncIteration

    async def aclose(self) -> None:
        surely(self.leave)


class _Blocking(_Body):
    def __iter__(self) -> Any:
        return self

    def __next__(self) -> bytes:
        if not self._over:
            while not self._outlet.has_more:
                bell = ThreadBell()
                if self._waits(bell.ring):
                    bell.wait()
            if data := self._take():
                return data
        raise StopIteration

    def close(self) -> None:
        surely(self.leave)


@functools.cache
def _kind(base: type[Any], ours: type[_Body]) -> type[Any]:
    # The libraries look whether a body is one of theirs.
    return type(ours.__name__, (ours, base), {})


def async_body(module: Any, door: Door, outlet: Outlet) -> Any:
    """Return the body of an answer for an async client of *module*."""
    return _kind(module.AsyncByteStream, _Async)(module, door, outlet)


def blocking_body(module: Any, door: Door, outlet: Outlet) -> Any:
    """Return the body of an answer for a client of *module* that blocks."""
    return _kind(module.SyncByteStream, _Blocking)(module, door, outlet)
