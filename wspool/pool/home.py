"""Home: where a pool may be used, and which door to take elsewhere."""

from __future__ import annotations

import os
from functools import partial
from typing import Final

import trio

from wspool.errors import ForeignUseError

__all__ = ["DOORS", "Home", "check_trio"]

_ELSEWHERE: Final = (
    "a pool can only be used in the trio run, thread and process that opened it; open one there"
)
DOORS: Final = ": with wspool.aio in asyncio, with wspool.blocking in plain threads"


#: One for each fork that this process has come out of. What has no forks has the same home always; asking the
#: system for the number of the process each time would cost as much as all the rest of a check.
_forks: Final[list[None]] = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=partial(_forks.append, None))


class Home:
    """The trio run, thread and process that it is made in."""

    __slots__ = ("_forks", "_run")

    def __init__(self) -> None:
        self._run, self._forks = trio.lowlevel.current_trio_token(), len(_forks)

    def check(self) -> None:
        """Raise `ForeignUseError` unless called there."""
        try:
            here = trio.lowlevel.current_trio_token() is self._run and len(_forks) == self._forks
        except RuntimeError:
            raise ForeignUseError(_ELSEWHERE + DOORS) from None
        if not here:
            raise ForeignUseError(_ELSEWHERE)


def check_trio() -> None:
    """Raise `ForeignUseError` where no trio runs."""
    try:
        trio.lowlevel.current_trio_token()
    except RuntimeError:
        raise ForeignUseError(f"no trio run is here, which this one needs{DOORS}") from None
