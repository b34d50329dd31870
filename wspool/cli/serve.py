"""`wspool serve`: a local provider of the Responses API, until it is stopped."""

import random
import signal
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import trio
import typer

from wspool.cli.usage import usage_error
from wspool.server.faults.script import FaultScript
from wspool.server.lookup import LookupModel
from wspool.server.models import EchoModel, Model, ScriptedModel
from wspool.server.protocol.profiles import PROFILES, LimitMode
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
    fault_rate: Annotated[
        float, typer.Option(min=0, max=1, help="The share of requests that get a fault, one of every kind.")
    ] = 0.0,
    seed: Annotated[
        int | None,
        typer.Option(help="Of the faults and the response ids; another one each time if not given."),
    ] = None,
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
    if seed is None:
        seed = random.getrandbits(32)
    try:
        trio.run(
            partial(
                _serve,
                who,
                profile=PROFILES[profile],
                host=host,
                port=port,
                ledger=ledger,
                lifetime=lifetime,
                limit_mode=limit_mode,
                delay_per_token=delay_per_token,
                faults=FaultScript(rate=fault_rate, seed=seed),
                seed=seed,
            )
        )
    except OSError as problem:
        usage_error(f"cannot serve on {host}:{port}: {problem}")


async def _serve(model: Model, **options: Any) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with open_server(model, **options) as server:
            typer.echo(server.url)
            async for _ in signals:
                return
