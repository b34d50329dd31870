"""`wspool doctor`: look at every step between here and an answer, and say what to do."""

import json
import sys
from typing import Annotated, Final

import attrs
import typer

import wspool
from wspool.cli.examine import Check, examine
from wspool.cli.target import ApiKeyEnv, Header, Model, Provider, ProxyUrl, Url, find_target, named_provider
from wspool.cli.usage import run, say

__all__ = ["doctor"]

_MARKS: Final = {True: ("ok", "green"), False: ("FAIL", "bold red"), None: ("-", "dim")}


def doctor(
    url: Url = None,
    model: Model = None,
    api_key_env: ApiKeyEnv = None,
    provider: Provider = None,
    proxy: ProxyUrl = None,
    header: Header = [],  # noqa: B006  # as Typer has it, and nobody changes it
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of lines.")] = False,
) -> None:
    """Check the way to an endpoint: DNS, TCP, proxy, TLS, upgrade, key, and one turn of a few tokens.

    Each line says ok, or what to do. Exit codes: 0 all is well, 1 something is not, 2 wrong usage.
    """
    target = find_target(url, model, api_key_env, proxy, wspool.PoolPolicy(), headers=header)
    target = attrs.evolve(target, provider=named_provider(provider))
    checks: list[Check] = []

    def tell(check: Check) -> None:
        checks.append(check)
        if not as_json:
            _print(check)

    well = run(examine, target, tell)
    if as_json:
        lines = [
            {"name": each.name, "ok": each.ok, "seconds": each.seconds, "text": each.text} for each in checks
        ]
        say(json.dumps({"ok": well, "endpoint": str(target), "checks": lines}))
    raise typer.Exit(0 if well else 1)


def _print(check: Check) -> None:
    mark, style = _MARKS[check.ok]
    took = "" if check.seconds is None else f"{check.seconds * 1000:.0f} ms"
    if not sys.stdout.isatty():
        say(f"{check.name:<9} {mark:<4} {took:>8}  {check.text}")
        return
    from rich.console import Console
    from rich.text import Text

    line = Text.assemble((f"{check.name:<9} ", "bold"), (f"{mark:<4}", style), f" {took:>8}  {check.text}")
    Console(soft_wrap=True, highlight=False).print(line)
