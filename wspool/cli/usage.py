"""What commands have in common: how they say that they were called wrongly, and how they are interrupted."""

from collections.abc import Awaitable, Callable
from typing import Never, TypeVar, TypeVarTuple

import trio
import typer

from wspool.core.plain import plain

__all__ = ["run", "usage_error"]

_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")


def run(function: Callable[[*_Args], Awaitable[_T]], *args: *_Args) -> _T:
    """Return what *function* returns; Ctrl-C ends the command with one line and exit code 130."""
    try:
        return trio.run(function, *args)
    except* KeyboardInterrupt:
        pass
    typer.echo("wspool: interrupted", err=True)
    raise typer.Exit(130)


def usage_error(message: str) -> Never:
    """End the command: *message* on standard error, exit code 2."""
    # It may repeat what stands in a file, or the name of one.
    typer.echo("\n".join(plain(line) for line in f"wspool: {message}".split("\n")), err=True)
    raise typer.Exit(2)
