"""`wspool serve`: a local provider of the Responses API, until it is stopped."""

import random
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import trio
import typer

from wspool.cli.running import run_until_told
from wspool.cli.serving import Book, fault_rule, find_model, shown_log
from wspool.cli.usage import usage_error
from wspool.server.faults.script import FaultScript
from wspool.server.ledger import private
from wspool.server.protocol.profiles import PROFILES, LimitMode
from wspool.server.server import Server, open_server

__all__ = ["serve"]

_Port = Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")]
_Host = Annotated[str, typer.Option(help="Address to listen on; one that others can reach needs a key.")]
_Profile = Annotated[str, typer.Option(help=f"What to be like: {', '.join(PROFILES)}.")]
_Model = Annotated[
    str | None,
    typer.Option(
        help="Who answers: echo, lookup, or a model of yours, pkg.mod:name or ./file.py:name. If not given: "
        "lookup for the questions of `wspool rollout`, echo for everybody else."
    ),
]
_Script = Annotated[
    Path | None, typer.Option(help="A JSONL file of turns that are played to every conversation.")
]
_Ledger = Annotated[Path | None, typer.Option(help="A JSONL file that gets one line per request.")]
_Lifetime = Annotated[
    float | None, typer.Option(min=0, help="Seconds that a connection may live; as the profile if not given.")
]
_LimitMode = Annotated[LimitMode | None, typer.Option(help="What happens then; the profile's if not given.")]
_Delay = Annotated[float, typer.Option(min=0, help="Seconds after each piece of text.")]
_ApiKey = Annotated[
    str | None, typer.Option(envvar="WSPOOL_SERVE_API_KEY", help="What clients must show, or get 401.")
]
_MaxConnections = Annotated[
    int | None, typer.Option(min=1, help="WebSocket connections at a time; one more gets 429.")
]
_Faults = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME[@N]",
        help="What goes wrong with the N-th request over WebSocket, or, if it is about the handshake, with "
        "the N-th connection; without N with the next that has none. A wrong name lists all.",
    ),
]
_FaultRate = Annotated[
    float, typer.Option(min=0, max=1, help="The share of requests that get a fault, one of every kind.")
]
_Seed = Annotated[
    int | None, typer.Option(help="Of the faults and the response ids; another one each time if not given.")
]
_Lenient = Annotated[
    bool, typer.Option("--lenient", help="Take what the provider refuses, as long as it can be worked with.")
]
_Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Say a line about every request, on standard error.")
]


def serve(
    port: _Port = 0,
    host: _Host = "127.0.0.1",
    profile: _Profile = "openai",
    model: _Model = None,
    script: _Script = None,
    ledger: _Ledger = None,
    lifetime: _Lifetime = None,
    limit_mode: _LimitMode = None,
    delay_per_token: _Delay = 0.0,
    api_key: _ApiKey = None,
    max_connections: _MaxConnections = None,
    fault: _Faults = None,
    fault_rate: _FaultRate = 0.0,
    seed: _Seed = None,
    lenient: _Lenient = False,
    verbose: _Verbose = False,
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
    who, rules = find_model(model, script), [fault_rule(text) for text in fault or ()]
    try:
        with ExitStack() as stack:
            stack.enter_context(shown_log("wspool.server", verbose=verbose))
            file = None
            if ledger is not None:
                file = stack.enter_context(open(ledger, "ab", buffering=0, opener=private))
            options: dict[str, Any] = {
                "profile": PROFILES[profile],
                "host": host,
                "port": port,
                "ledger": Book(file, verbose=verbose),
                "lifetime": lifetime,
                "limit_mode": limit_mode,
                "delay_per_token": delay_per_token,
                "api_key": api_key,
                "max_connections": max_connections,
                "faults": FaultScript(*rules, rate=fault_rate, seed=seed),
                "seed": seed,
                "lenient": lenient,
            }
            opened = open_server(who, **options)
            trio.run(run_until_told, opened, _addresses)
    except OSError as problem:
        usage_error(f"cannot serve on {host}:{port}: {problem}")
    except ValueError as problem:  # others could reach it
        usage_error(f"{problem} (--api-key)")


def _addresses(server: Server) -> str:
    return f"{server.url}\n{server.base_url}"
