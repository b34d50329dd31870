"""The commands by name."""

from typing import Annotated

import typer

import wspool
from wspool.cli.doctor import doctor
from wspool.cli.merge import merge
from wspool.cli.probe import probe
from wspool.cli.proxy import proxy
from wspool.cli.rollout import rollout
from wspool.cli.serve import serve

__all__ = ["app"]

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None
)
app.command()(rollout)
app.command()(merge)
app.command()(serve)
app.command()(proxy)
app.command()(doctor)
app.command()(probe)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"wspool {wspool.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    """A trio connection pool for the Responses API over WebSocket."""
