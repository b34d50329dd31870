"""The commands by name. The module of one is imported when it is wanted: none waits for, and holds, what only
another needs."""

import importlib
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

import wspool

__all__ = ["COMMANDS", "app"]

#: Each is a function in the module of its name. What it does is said here as well, in the first words of the
#: function: to list them none has to be imported.
COMMANDS: Final = {
    "rollout": "Run a batch of agent conversations over a pool of connections.",
    "merge": "Put the results of shards (`wspool rollout --shard I/N`) into one directory.",
    "report": "Make one HTML file that shows a run, or which answers another run has changed. It opens "
    "offline.",
    "serve": "Run a local provider of the Responses API until Ctrl-C.",
    "proxy": "Run a proxy until it is told to stop: programs ask it by HTTP, and it asks the provider over "
    "WebSocket.",
    "doctor": "Check the way to an endpoint: DNS, TCP, proxy, TLS, upgrade, key, and one turn of a few "
    "tokens.",
    "probe": "Measure an endpoint: the dial by phase, a warm-up, full turns and delta turns.",
}


class _Commands(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([*COMMANDS.items()])

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
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
        from wspool.cli.usage import say

        say(f"wspool {wspool.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    """A trio connection pool for the Responses API over WebSocket."""
