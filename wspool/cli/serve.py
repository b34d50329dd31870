"""`wspool serve`: a local provider of the Responses API, until it is stopped."""

import importlib
import json
import logging
import random
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from io import RawIOBase
from pathlib import Path
from typing import Annotated, Any, Final

import trio
import typer

from wspool.cli.usage import usage_error
from wspool.server.faults.script import FAULTS, Fault, FaultRule, FaultScript
from wspool.server.ledger import Entry
from wspool.server.lookup import LookupModel
from wspool.server.models import EchoModel, Model, ScriptedModel
from wspool.server.protocol.profiles import PROFILES, LimitMode
from wspool.server.server import open_server

__all__ = ["serve"]

#: Longest line about one request, in characters: some of it is a client's own words.
_LONGEST: Final = 400


def serve(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 0,
    host: Annotated[
        str, typer.Option(help="Address to listen on; one that others can reach needs a key.")
    ] = "127.0.0.1",
    profile: Annotated[str, typer.Option(help=f"What to be like: {', '.join(PROFILES)}.")] = "openai",
    model: Annotated[
        str | None,
        typer.Option(
            help="Who answers: echo, lookup, or a model of yours, pkg.mod:name. If not given: lookup for the "
            "questions of `wspool rollout`, echo for everybody else."
        ),
    ] = None,
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
    api_key: Annotated[
        str | None, typer.Option(envvar="WSPOOL_SERVE_API_KEY", help="What clients must show, or get 401.")
    ] = None,
    max_connections: Annotated[
        int | None, typer.Option(min=1, help="WebSocket connections at a time; one more gets 429.")
    ] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[@N]",
            help="What goes wrong with the N-th request over WebSocket, or, if it is about the handshake, "
            "with the N-th connection; without N with the next that has none. A wrong name lists all.",
        ),
    ] = None,
    fault_rate: Annotated[
        float, typer.Option(min=0, max=1, help="The share of requests that get a fault, one of every kind.")
    ] = 0.0,
    seed: Annotated[
        int | None,
        typer.Option(help="Of the faults and the response ids; another one each time if not given."),
    ] = None,
    lenient: Annotated[
        bool,
        typer.Option("--lenient", help="Take what the provider would refuse for fields it does not know."),
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say a line about every request, on standard error.")
    ] = False,
) -> None:
    """Run a local provider of the Responses API until Ctrl-C.

    Prints its WebSocket URL, and the base URL for whoever speaks HTTP.
    """
    if profile not in PROFILES:
        usage_error(f"there is no profile {profile!r}; there are {', '.join(PROFILES)}")
    if api_key == "":
        usage_error("--api-key is empty")
    if seed is None:
        seed = random.getrandbits(32)
    who, rules = _model(model, script), [_rule(text) for text in fault or ()]
    try:
        with ExitStack() as stack:
            _show_log(verbose=verbose)
            file = None if ledger is None else stack.enter_context(open(ledger, "ab", buffering=0))
            options = {
                "profile": PROFILES[profile],
                "host": host,
                "port": port,
                "ledger": _Book(file, verbose=verbose),
                "lifetime": lifetime,
                "limit_mode": limit_mode,
                "delay_per_token": delay_per_token,
                "api_key": api_key,
                "max_connections": max_connections,
                "faults": FaultScript(*rules, rate=fault_rate, seed=seed),
                "seed": seed,
                "lenient": lenient,
            }
            trio.run(partial(_serve, who, **options))
    except OSError as problem:
        usage_error(f"cannot serve on {host}:{port}: {problem}")
    except ValueError as problem:  # others could reach it
        usage_error(f"{problem} (--api-key)")


async def _serve(model: Model, **options: Any) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with open_server(model, **options) as server:
            typer.echo(f"{server.url}\n{server.base_url}")
            async for _ in signals:
                return


def _model(name: str | None, script: Path | None) -> Model:
    if script is not None:
        if name is not None:
            usage_error("--model and --script both say who answers; give one of them")
        try:
            return ScriptedModel.from_file(script)
        except (OSError, ValueError) as problem:
            usage_error(f"the script cannot be used: {problem}")
    match name:
        case None:
            return LookupModel(otherwise=EchoModel())
        case "lookup":
            return LookupModel()
        case "echo":
            return EchoModel()
        case _:
            return _imported_model(name)


def _imported_model(name: str) -> Model:
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        usage_error(f"--model {name!r} must be echo, lookup, or pkg.mod:name")
    sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
        model = found() if isinstance(found, type) else found
    except Exception as problem:  # whatever the module or the class raises
        usage_error(f"--model {name!r} cannot be used: {type(problem).__name__}: {problem}")
    if not callable(getattr(model, "respond", None)):
        usage_error(f"--model {name!r} has no method respond(request); see wspool.server.Model")
    who: Model = model
    return who


def _rule(text: str) -> FaultRule:
    name, at, number = text.partition("@")
    if name not in FAULTS:
        usage_error(f"--fault {text!r}: there is no fault {name!r}; there are {', '.join(sorted(FAULTS))}")
    if not at:
        return FaultRule(Fault(name))
    if not number.isdecimal() or int(number) < 1:
        usage_error(f"--fault {text!r}: what stands behind @ is the number of a request, from 1")
    fault = Fault(name)
    if fault.concerns_connection():
        return FaultRule(fault, connection=int(number))
    return FaultRule(fault, create=int(number))


class _Book:
    """What is done with the line of a request: to the file if there is one, to standard error if asked."""

    def __init__(self, file: RawIOBase | None, *, verbose: bool) -> None:
        self._file = file
        self._verbose = verbose

    def __call__(self, entry: Entry) -> None:
        if self._file is not None:
            try:
                self._file.write(json.dumps(entry, separators=(",", ":")).encode("ascii") + b"\n")
            except OSError as problem:
                # The server is what others wait for; and half a ledger is worse than none.
                typer.echo(f"wspool: no ledger from here on: {problem}", err=True)
                self._file = None
        if self._verbose:
            typer.echo(_one_line(_words(entry)), err=True)


def _words(entry: Entry) -> Sequence[str]:
    parent = f"continues {entry['previous_response_id']}" if entry["previous_response_id"] else ""
    return (
        f"{entry['transport']} {entry['connection']}.{entry['sequence']}",
        f"lane {entry['lane']}" if entry["lane"] else "",
        entry["response_id"] or "",
        f"{parent} ({entry['parent_from'] or 'not found'})" if parent else "",
        f"{entry['input_items']} of {entry['context_items']} items",
        f"{entry['outcome']} {entry['error_code'] or ''}".strip(),
        f"after {entry['ended'] - entry['received']:.3f} s",
        f"fault {entry['fault']}" if entry["fault"] else "",
    )


def _one_line(words: Sequence[str]) -> str:
    text = ", ".join(filter(None, words))[:_LONGEST]
    return "".join(character if character.isprintable() else "?" for character in text)


class _OneLine(logging.Formatter):
    """The message in one line, without what could steer a terminal; then the traceback if there is one."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return _one_line([record.getMessage()])


def _show_log(*, verbose: bool) -> None:
    logger = logging.getLogger("wspool.server")
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine())
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.INFO if verbose else logging.WARNING)
