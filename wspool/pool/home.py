"""Home: where a pool may be used, and which door to take elsewhere."""

from __future__ import annotations

import os
from typing import Final

import trio

from wspool.errors import ForeignUseError

__all__ = ["Home", "check_trio"]

_ELSEWHERE: Final = (
    "a pool can only be used in the trio run, thread and process that opened it; open one there"
)
_DOORS: Final = ": with wspool.aio in asyncio, with wspool.blocking in plain threads"


class Home:
    """The trio run, thread and process that it is made in."""

    def __init__(self) -> None:
        self._here = trio.lowlevel.current_trio_token(), os.getpid()

    def check(self) -> None:
        """Raise `ForeignUseError` unless called there."""
        try:
            here = trio.lowlevel.current_trio_token(), os.getpid()
        except RuntimeError:
            raise ForeignUseError(_ELSEWHERE + _DOORS) from None
        if here != self._here:
            raise ForeignUseError(_ELSEWHERE)


def check_trio() -> None:
    """Raise `ForeignUseError` where no trio runs."""
    try:
        trio.lowlevel.current_trio_token()
    except RuntimeError:
        raise ForeignUseError(f"no trio run is here, which this one needs{_DOORS}") from None
