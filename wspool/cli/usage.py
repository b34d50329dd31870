"""What commands have in common: how they say that they were called wrongly, and how they are interrupted."""

import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, redirect_stdout
from typing import Never, TypeVar, TypeVarTuple

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
    """Write *text* to standard output."""
    typer.echo(text)


def warn(message: str) -> None:
    """Write one line about *message* to standard error."""
    tell(plain(f"wspool: {message}"))


def tell(text: str) -> None:
    """Write *text* to standard error."""
    typer.echo(text, err=True)


def aside_stdout() -> AbstractContextManager[object]:
    """Have what modules and agents of the user's print go to standard error: the other holds what was asked
    for."""
    return redirect_stdout(sys.stderr)


def usage_error(message: str) -> Never:
    """End the command: *message* on standard error, exit code 2."""
    # It may repeat what stands in a file, or the name of one.
    tell("\n".join(plain(line) for line in f"wspool: {message}".split("\n")))
    raise typer.Exit(2)
