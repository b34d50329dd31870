"""Standard output and standard error of a command: what cannot be told to anybody ends nothing.

A disk is full, a pipe or descriptor is closed, a terminal is gone: whoever writes there then, a command, the
library that reads its arguments, or what is the user's, goes on as if it had been read. That standard output
was lost is said once, on standard error.
"""

import os
import sys
from collections.abc import Callable
from typing import Any, TextIO, cast

__all__ = ["guard_streams"]


def guard_streams() -> None:
    """Have neither stream of this process end it, from here on."""
    sys.stderr = _guarded(sys.stderr, lambda _: None)
    sys.stdout = _guarded(sys.stdout, _say_lost)


def _guarded(stream: TextIO | None, lost: Callable[[Exception], object]) -> TextIO:
    if stream is None:  # closed before the process began
        return _nowhere()
    return cast("TextIO", _Guarded(stream, lost))


def _say_lost(problem: Exception) -> None:
    sys.stderr.write(f"wspool: standard output cannot be written: {problem}\n")
    sys.stderr.flush()


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")  # as long as the process lives


class _Guarded:
    """A stream of texts, or the one of bytes below it, that takes whatever it is given."""

    def __init__(self, stream: Any, lost: Callable[[Exception], object]) -> None:
        self._stream: Any = stream
        self._lost = lost

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def buffer(self) -> Any:
        return _Guarded(self._stream.buffer, self._lost)

    def write(self, data: Any, /) -> int:
        try:
            self._tried(lambda: self._stream.write(data))
        except UnicodeEncodeError:  # letters that there are not
            self._tried(lambda: self._stream.write(data.encode("ascii", "backslashreplace").decode()))
        return len(data)

    def close(self) -> None:
        """Of the process, and nobody else's to close."""

    def flush(self) -> None:
        self._tried(lambda: self._stream.flush())

    def _tried(self, do: Callable[[], object]) -> None:
        try:
            do()
        except UnicodeEncodeError:
            raise
        except (OSError, ValueError) as problem:
            # What was not written would be tried again, and fail again.
            nowhere = _nowhere()
            self._stream = nowhere if hasattr(self._stream, "encoding") else nowhere.buffer
            self._lost(problem)
