"""What commands have in common: how they say that they were called wrongly, and how they are interrupted."""

import io
import os
import sys
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import BinaryIO, Never, TextIO, TypeVar, TypeVarTuple

import trio
import typer

from wspool.core.plain import plain

__all__ = ["aside_stdout", "run", "say", "tell", "usage_error", "warn"]

_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")


def run(function: Callable[[*_Args], Awaitable[_T]], *args: *_Args) -> _T:
    """Return what *function* returns; Ctrl-C ends the command with one line and exit code 130."""
    try:
        return trio.run(function, *args)
    except* KeyboardInterrupt:
        pass
    warn("interrupted")
    raise typer.Exit(130)


def say(text: str) -> None:
    """Write *text* to standard output; if nobody can take it, one line on standard error says so."""
    try:
        typer.echo(text)
    except (OSError, ValueError) as problem:  # a full disk, a closed pipe or descriptor
        sys.stdout = _nowhere()
        warn(f"standard output cannot be written: {problem}")


def warn(message: str) -> None:
    """Write one line about *message* to standard error, if anybody can take it."""
    tell(plain(f"wspool: {message}"))


def tell(text: str) -> None:
    """Write *text* to standard error, if anybody can take it: what only reports ends nothing."""
    try:
        typer.echo(text, err=True)
    except (OSError, ValueError):
        sys.stderr = _nowhere()


@contextmanager
def aside_stdout() -> Generator[None, None, None]:
    """Have what modules and agents of the user's print go to standard error: the other holds what was asked
    for. It is no trouble of theirs if nobody takes it."""
    with redirect_stdout(_Aside()):
        yield


class _Aside(io.TextIOBase):
    encoding = "utf-8"

    def write(self, text: str, /) -> int:
        with suppress(OSError, ValueError, AttributeError):  # gone, closed, or not there from the beginning
            sys.stderr.write(text)
        return len(text)

    @property
    def buffer(self) -> BinaryIO:
        return sys.stderr.buffer

    def reconfigure(self, **_: object) -> None:
        """As of any standard output; this one takes every letter."""

    def flush(self) -> None:
        with suppress(OSError, ValueError, AttributeError):
            sys.stderr.flush()


def _nowhere() -> TextIO:
    # What was not written would be tried again when the process ends, and fail again.
    return open(os.devnull, "w", encoding="utf-8")  # as long as the process lives


def usage_error(message: str) -> Never:
    """End the command: *message* on standard error, exit code 2."""
    # It may repeat what stands in a file, or the name of one.
    tell("\n".join(plain(line) for line in f"wspool: {message}".split("\n")))
    raise typer.Exit(2)
