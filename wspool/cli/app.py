"""The commands by name. The module of one is imported when it is wanted: none waits for, and holds, what only
another needs."""

import importlib
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

import wspool

__all__ = ["app"]

#: Each is a function in the module of its name.
_COMMANDS: Final = ("rollout", "merge", "report", "serve", "proxy", "doctor", "probe")


class _Commands(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"wspool.cli.{cmd_name}")
        one = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
        one.command(cmd_name)(getattr(module, cmd_name))
        return typer.main.get_command(one)


app = typer.Typer(
    cls=_Commands,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


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
