"""File descriptors: how many a process may have, and how many of them connections may take.

Every connection is one, and the system lets a process have only so many (`ulimit -n`: 256 on macOS, 1024 on
most of Linux). Whatever else the program opens comes out of the same number.

Rules of this module:

* The program comes first. Of every limit a part is kept for it (`KEPT`, or half if that is less), and no
  connection takes a descriptor out of that part.
* Where connections need more, the limit is raised as far as they need and the system allows. Not further:
  children inherit it, and `select` fails on descriptors above 1023. It is never lowered.
* On a system without such a limit (Windows) there is always room.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
from typing import Final, cast

__all__ = ["KEPT", "Room", "has_room", "is_shortage", "room_for"]

#: Descriptors that are kept for the rest of the program. trio runs 40 worker threads at once, and a tool that
#: starts another program in one has six open while it does: both ends of two pipes, and of one that
#: `subprocess` uses. The rest is for logs, name lookups and results.
KEPT: Final = 256

#: What the system says when it can open no more: this process, the machine, or its network buffers.
_SHORTAGES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS})

#: Changing a limit is reading it first: without this one thread might lower what another has raised.
_changing: Final = threading.Lock()


class Room:
    """What `room_for` found.

    Attributes:
        connections: how many can be had.
        limit: descriptors that this process may have.
        used: those that it had.
        kept: those that are left to it.
    """

    __slots__ = ("connections", "kept", "limit", "used")

    def __init__(self, connections: int, limit: int, used: int, kept: int) -> None:
        self.connections = connections
        self.limit = limit
        self.used = used
        self.kept = kept


def room_for(connections: int, *, each: int = 1, open: int = 0) -> Room | None:
    """Make room for *connections*; return what there is if that is not enough, else None.

    Args:
        connections: how many there shall be.
        each: descriptors that one takes: two if its other end is in this process as well.
        open: how many of them there are already.

    Raises the limit of this process if it has to. One connection can always be tried.
    """
    used = _used() - open * each
    limit = _limit(at_least=used + connections * each + KEPT)
    if limit is None:
        return None
    kept = _kept(limit)
    room = max(1, (limit - used - kept) // each)
    return None if room >= connections else Room(room, limit, used, kept)


def has_room() -> bool:
    """Return whether one more connection leaves the program what is kept for it.

    Raises the limit of this process if it has to, unless everything up to it is used up.
    """
    number = _lowest_free()
    if number is None:
        return False  # it may be a leak, and a higher limit would only feed it
    limit = _limit(at_least=number + 1 + KEPT)
    return limit is None or number < limit - _kept(limit)


def is_shortage(error: BaseException) -> bool:
    """Return whether *error*, or what led to it, says that nothing more can be opened here."""
    todo: list[BaseException | None] = [error]
    seen: set[int] = set()
    while todo:
        one = todo.pop()
        if one is None or id(one) in seen:
            continue
        if isinstance(one, OSError) and one.errno in _SHORTAGES:
            return True
        seen.add(id(one))
        todo += [one.__cause__ or one.__context__]
        if isinstance(one, BaseExceptionGroup):
            todo += cast("BaseExceptionGroup[BaseException]", one).exceptions
    return False


def _kept(limit: int) -> int:
    return min(KEPT, limit // 2)


def _lowest_free() -> int | None:
    """Return the number that the next descriptor will have, None if there is none.

    The system gives out the lowest that is free. So connections stay below the part that is kept, whoever
    opens and closes what in between.
    """
    try:
        number = os.open(os.devnull, os.O_RDONLY)
    except OSError as error:
        return None if is_shortage(error) else 0
    os.close(number)
    return number


def _used() -> int:
    """Return how many descriptors this process has."""
    try:
        return len(os.listdir("/dev/fd")) - 1  # less that of the listing
    except OSError:  # there is no such directory, or nothing is left to look into it
        return _lowest_free() or 0


if sys.platform == "win32":  # pragma: no cover  # lines are counted on Linux

    def _limit(*, at_least: int) -> int | None:
        """There is none."""
        return None

else:
    import resource

    def _limit(*, at_least: int) -> int | None:
        """Return the limit, raised to *at_least* if that was possible; None if there is none."""
        with _changing:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            if soft == resource.RLIM_INFINITY:
                return None
            wanted = at_least if hard == resource.RLIM_INFINITY else min(at_least, hard)
            if wanted <= soft:
                return soft
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            except (OSError, ValueError):  # macOS has a lower limit than the one it tells
                return soft
            return wanted
