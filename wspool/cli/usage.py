"""What commands have in common: how they say that they were called wrongly."""

from typing import Never

import typer

__all__ = ["usage_error"]


def usage_error(message: str) -> Never:
    """End the command: *message* on standard error, exit code 2."""
    typer.echo(f"wspool: {message}", err=True)
    raise typer.Exit(2)
