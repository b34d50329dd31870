"""`wspool serve`: a local provider of the Responses API, until it is stopped."""

import signal
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import trio
import typer

from wspool.cli.usage import usage_error
from wspool.server.lookup import LookupModel
from wspool.server.models import EchoModel, Model, ScriptedModel
from wspool.server.profiles import PROFILES, LimitMode, ServerProfile
from wspool.server.server import open_server

__all__ = ["serve"]


class _ModelName(StrEnum):
    LOOKUP = "lookup"
    ECHO = "echo"


def serve(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 0,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    profile: Annotated[str, typer.Option(help=f"What to be like: {', '.join(PROFILES)}.")] = "openai",
    model: Annotated[_ModelName, typer.Option(help="Who answers.")] = _ModelName.LOOKUP,
    script: Annotated[
        Path | None, typer.Option(help="A JSONL file of turns that are played to every conversation.")
    ] = None,
    ledger: Annotated[Path | None, typer.Option(help="A JSONL file that gets one line per request.")] = None,
    lifetime: Annotated[
        float | None,
        typer.Option(min=0, help="Seconds that a connection may live; as the profile if not given."),
    ] = None,
    limit_mode: Annotated[
        LimitMode | None, typer.Option(help="What happens then; the profile's if not given.")
    ] = None,
    delay_per_token: Annotated[float, typer.Option(min=0, help="Seconds after each piece of text.")] = 0.0,
) -> None:
    """Run a local provider of the Responses API; prints its URL and runs until Ctrl-C."""
    if profile not in PROFILES:
        usage_error(f"there is no profile {profile!r}; there are {', '.join(PROFILES)}")
    who: Model = EchoModel() if model is _ModelName.ECHO else LookupModel()
    if script is not None:
        try:
            who = ScriptedModel.from_file(script)
        except (OSError, ValueError) as problem:
            usage_error(f"the script cannot be used: {problem}")
    try:
        trio.run(_serve, who, PROFILES[profile], host, port, ledger, lifetime, limit_mode, delay_per_token)
    except OSError as problem:
        usage_error(f"cannot serve on {host}:{port}: {problem}")


async def _serve(
    model: Model,
    profile: ServerProfile,
    host: str,
    port: int,
    ledger: Path | None,
    lifetime: float | None,
    limit_mode: LimitMode | None,
    delay_per_token: float,
) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with open_server(
            model,
            profile=profile,
            host=host,
            port=port,
            ledger=ledger,
            lifetime=lifetime,
            limit_mode=limit_mode,
            delay_per_token=delay_per_token,
        ) as server:
            typer.echo(server.url)
            async for _ in signals:
                return
