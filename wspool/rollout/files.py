"""Files that hold what was paid for: private, and nobody else's.

1. A new file is its owner's alone; one that is written anew keeps the mode that it was given.
2. No link is followed and nothing but a regular file is opened: whoever may write to the directory could
   plant one, and have something else overwritten or the run wait for ever.
"""

import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Final

__all__ = ["LinkError", "append_to", "aside", "read_from", "replace", "sync_directory"]

_PRIVATE: Final = 0o600
# Without the second, opening a pipe would wait for its other end. Windows has neither.
_SAFE: Final = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


class LinkError(OSError):
    """The path is no regular file."""


def _open(path: Path, flags: int) -> int:
    try:
        descriptor = os.open(path, flags | _SAFE, _PRIVATE)
    except OSError as problem:
        # ENXIO: a pipe that nobody reads.
        if problem.errno in (errno.ELOOP, errno.ENXIO):
            raise LinkError(problem.errno, "it is a link or a pipe, and no regular file") from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise LinkError(errno.EINVAL, "it is no regular file")
    return descriptor


def append_to(path: Path) -> BinaryIO:
    """Open *path* to append to it, unbuffered; it is made if it is not there."""
    return os.fdopen(_open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT), "ab", buffering=0)


def read_from(path: Path) -> BinaryIO:
    """Open *path* to read it."""
    return os.fdopen(_open(path, os.O_RDONLY), "rb")


def replace(path: Path, chunks: Iterable[bytes]) -> None:
    """Write *path* anew. At every moment one complete file is there."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    descriptor = _open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if path.exists():
                fresh.chmod(stat.S_IMODE(path.stat().st_mode))
            file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
        sync_directory(path.parent)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def sync_directory(path: Path) -> None:
    """Bring the names of files to the disk. Raises OSError."""
    if not hasattr(os, "O_DIRECTORY"):  # pragma: no cover  # Windows opens no directory
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def aside(*paths: Path) -> None:
    """Put these files of one directory aside as `NAME.old`, together; nothing is overwritten."""
    there = [path for path in paths if path.exists()]
    number = 1
    while any(_old(path, number).exists() for path in paths):
        number += 1
    for path in there:
        os.rename(path, _old(path, number))


def _old(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.old" if number == 1 else f"{path.name}.old.{number}")
