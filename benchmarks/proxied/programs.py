"""Other people's programs over a long link: straight to the provider by HTTP, and through the proxy.

As in the benchmark `rollout`: 25 tool calls whose outputs make 400 KB, 40 ms round trip, 20 Mbit/s up, TLS to
the provider, which thinks 50 ms and streams; nothing is lost and there is no slow start. The proxy is on the
program's side of the link, as it is when it runs on the same machine; it is up before the program starts, and
may have dialled by then. The programs are as they come from npm.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import attrs

from benchmarks import processes
from benchmarks.harness import Row
from benchmarks.proxied.provider import ANSWER, Options, lines, open_provider
from benchmarks.proxied.running import KEY, open_proxy
from benchmarks.rollout import CALLS, CONTEXT, ROUND_TRIP, THINK, UP

__all__ = ["run"]

#: Seconds after each piece of an answer.
_PACE: Final = 0.01

#: What is to be saved, in percent of the time.
LEAST: Final = 30.0

_FOLDER: Final = "WSPOOL_CLIENTS"
_LINE: Final = "{:06d} a line of a file that was read\n"
_TASK: Final = "Read all parts."


@attrs.frozen(kw_only=True)
class Way:
    """How a program gets to the provider, and where it may write.

    Attributes:
        base_url: what it is told.
        work: the folder with the parts.
        home: a folder of its own.
        authority: the file that it has to trust.
    """

    base_url: str
    work: Path
    home: Path
    authority: str

    @property
    def env(self) -> dict[str, str]:
        """What makes each of them trust the provider."""
        trust = ("NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE", "CODEX_CA_CERTIFICATE")
        return {"HOME": str(self.home), **dict.fromkeys(trust, self.authority)}


@attrs.frozen(kw_only=True)
class Run:
    """What one run took: seconds of the program, of these from first to last at the provider; bytes up."""

    wall: float
    talk: float
    up: float
    deltas: int
    turns: int


def _place(name: str) -> Any:
    from tests.clients.installed import installed  # which needs pytest, and these parts do not

    return installed(name)


def _cline(way: Way) -> Callable[[], str]:
    cline = _place("cline")
    who = ("-m", "gpt-5.2", "-k", KEY, "--data-dir", str(way.home / "data"))
    cline.run("cline", "auth", "-p", "openai-native", *who, "-b", way.base_url, env=way.env)
    task = ("-P", "openai-native", *who, "-c", str(way.work), "-t", "120", "--json", _TASK)
    return lambda: cline.run("cline", *task, env=way.env, cwd=way.work)


def _codex(way: Way) -> Callable[[], str]:
    (way.home / "config.toml").write_text(
        f"""
        model = "gpt-5.2"
        model_provider = "local"
        approval_policy = "never"
        sandbox_mode = "danger-full-access"
        [model_providers.local]
        name = "local"
        base_url = "{way.base_url}"
        wire_api = "responses"
        env_key = "LOCAL_KEY"
        supports_websockets = false
        """,
        encoding="utf-8",
    )
    codex = _place("codex")
    env = {**way.env, "CODEX_HOME": str(way.home), "LOCAL_KEY": KEY}
    command = ("codex", "exec", "--json", "--skip-git-repo-check", "-C", str(way.work), _TASK)
    return lambda: codex.run(*command, env=env)


def _ai(way: Way) -> Callable[[], str]:
    ai = _place("ai")
    program = Path(ai.folder) / "agent.mjs"  # modules are looked for from where a program lies
    program.write_bytes((Path(__file__).parent / "agent.mjs").read_bytes())
    env = {**way.env, "BASE_URL": way.base_url, "FOLDER": str(way.work), "OPENAI_API_KEY": KEY}
    return lambda: ai.run("node", program.name, env=env)


PROGRAMS: Final[Mapping[str, Callable[[Way], Callable[[], str]]]] = {
    "Cline": _cline,
    "Codex": _codex,
    "AI SDK": _ai,
}


def run(*, quick: bool) -> list[Row]:
    """Time and bytes of each program, both ways."""
    if not os.environ.get(_FOLDER):
        missing = f"set {_FOLDER} to a folder to install them into"
        return [Row(metric="programs: installed", value=0, unit="", note=missing)]
    return [row for name in PROGRAMS for row in _measured(name, rounds=1 if quick else 3)]


def _measured(name: str, *, rounds: int) -> list[Row]:
    runs: dict[bool, list[Run]] = {False: [], True: []}
    for _ in range(rounds):
        for through in runs:
            runs[through].append(_once(name, through=through))

    def middle(through: bool, what: Callable[[Run], float]) -> float:
        return statistics.median(map(what, runs[through]))

    def saved(what: Callable[[Run], float]) -> float:
        pairs = zip(runs[True], runs[False], strict=True)
        return 100 * statistics.median(1 - what(mine) / what(theirs) for mine, theirs in pairs)

    def shown(through: bool) -> str:
        one = runs[through][-1]
        return (
            f"{middle(through, lambda run: run.wall):.2f} s ({middle(through, lambda run: run.talk):.2f} s), "
            f"{middle(through, lambda run: run.up) / 1e6:.2f} MB up, {one.deltas} of {one.turns} turns deltas"
        )

    note = f"directly {shown(False)}; through the proxy {shown(True)}"
    assumed = (
        f"{CALLS} calls, {CONTEXT // 1000} KB, {ROUND_TRIP * 1e3:.0f} ms, {UP * 8 / 1e6:.0f} Mbit/s up, TLS, "
        f"think {THINK * 1e3:.0f} ms; from start to end of the program; in brackets from its first request on"
    )
    return [
        Row(
            metric=f"{name}: time saved",
            value=saved(lambda run: run.wall),
            unit="%",
            least=LEAST,
            note=assumed,
        ),
        Row(
            metric=f"{name}: time saved, from its first request", value=saved(lambda run: run.talk), unit="%"
        ),
        Row(
            metric=f"{name}: bytes saved",
            value=saved(lambda run: run.up),
            unit="%",
            least=LEAST,
            note=note,
        ),
    ]


def _once(name: str, *, through: bool) -> Run:
    certificate = processes.certificate()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wspool-bench-")))
        ledger = folder / "ledger"
        options = Options(
            calls=CALLS, think=THINK, delay=_PACE, ledger=str(ledger), certificate=certificate[1:]
        )
        provider = stack.enter_context(open_provider(options))
        link = stack.enter_context(processes.open_link(provider.port, round_trip=ROUND_TRIP, up=UP))
        base_url = f"https://localhost:{link.port}/v1"
        if through:
            url = base_url.replace("https", "wss") + "/responses"
            proxy = open_proxy(url, env={"SSL_CERT_FILE": certificate[0]})
            base_url = stack.enter_context(proxy).base_url
        way = Way(base_url=base_url, work=_parts(folder), home=folder / "home", authority=certificate[0])
        way.home.mkdir()
        program = PROGRAMS[name](way)
        link.lap()
        began = time.perf_counter()
        said = program()
        wall = time.perf_counter() - began
        up = link.lap()["up"]
        if ANSWER not in said:
            raise RuntimeError(f"{name} did not come to its end: {said[-1000:]}")
        turns = [entry for entry in lines(ledger) if entry["generate"]]
    talk = max(turn["ended"] for turn in turns) - min(turn["received"] for turn in turns)
    deltas = sum(turn["previous_response_id"] is not None for turn in turns)
    return Run(wall=wall, talk=talk, up=up, deltas=deltas, turns=len(turns))


def _parts(folder: Path) -> Path:
    work = folder / "work"
    work.mkdir()
    for number in range(CALLS):
        text = _LINE.format(number) * (CONTEXT // CALLS // len(_LINE.format(number)))
        (work / f"part-{number}.txt").write_text(text, encoding="utf-8")
    return work
