"""CPU of the proxy per answer, and beside LiteLLM's: one client asks the same turns one after the other."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Final

from benchmarks.harness import Row, Sample, in_turn, median
from benchmarks.processes import Server, open_blaster
from benchmarks.proxied.asking import MODEL, Answer, Caller, body, request
from benchmarks.proxied.running import LITELLM, Program, open_litellm, open_proxy
from benchmarks.script import Say

__all__ = ["cost", "peers"]

#: Milliseconds of CPU that an answer may cost, by its door and events: 1.3 times what the prototype took,
#: on a machine like this one.
BOUNDS: Final[Mapping[tuple[str, int], float]] = {
    ("SSE", 10): 1.3 * 1.2,
    ("JSON", 10): 1.3 * 0.85,
    ("SSE", 200): 1.3 * 2.0,
    ("JSON", 200): 1.3 * 1.1,
}

#: How many times less than LiteLLM's.
LESS: Final = 5.0


def _ask(caller: Caller, what: bytes) -> Answer:
    answer = caller.ask(what)
    if answer.status != 200 or b"completed" not in answer.content:
        raise RuntimeError(f"no turn: {answer.status} {answer.content[:500]!r}")
    return answer


def _measured(program: Program, caller: Caller, what: bytes, turns: int) -> Sample:
    """What *program* used for so many turns."""
    before, wall = program.cpu(), 0.0
    for _ in range(turns):
        wall += _ask(caller, what).total
    return Sample(turns, wall, program.cpu() - before)


def cost(*, quick: bool) -> list[Row]:
    """CPU of `wspool proxy` per answer."""
    rounds, turns = (3, 100) if quick else (9, 400)
    with ExitStack() as stack:
        server = stack.enter_context(open_blaster())
        contestants: dict[str, Callable[[], Sample]] = {}
        for events in (10, 200):
            proxy = stack.enter_context(open_proxy(server.url(Say(events=events))))
            for door in ("SSE", "JSON"):
                caller = Caller(proxy.base_url)
                stack.callback(caller.close)
                what = request(proxy.base_url, body(stream=door == "SSE"))

                def measured(proxy: Program = proxy, caller: Caller = caller, what: bytes = what) -> Sample:
                    return _measured(proxy, caller, what, turns)

                contestants[f"{door}, {events}"] = measured
        samples = in_turn(contestants, rounds)
    return [
        Row(
            metric=f"CPU of the proxy per answer, {door}, {events} events",
            value=median(samples[f"{door}, {events}"]) / 1000,
            unit="ms",
            most=round(most, 3),
        )
        for (door, events), most in BOUNDS.items()
    ]


def peers(*, quick: bool) -> list[Row]:
    """CPU and added time per turn of `wspool proxy`, and of LiteLLM's, in front of the same server."""
    turns = 100 if quick else 1000
    with open_blaster() as server:
        return [row for events in (10, 200) for row in _beside(server, events, turns)]


def _beside(server: Server, events: int, turns: int) -> list[Row]:
    say = Say(events=events)
    base_url = server.base_url(say)
    times: dict[str, list[float]] = {}
    micros: dict[str, float] = {}
    with ExitStack() as stack:
        programs = {
            "wspool": stack.enter_context(open_proxy(server.url(say))),
            "LiteLLM": stack.enter_context(open_litellm(base_url, MODEL)),
        }
        there = {name: program for name, program in programs.items() if program is not None}
        ways = {"direct": base_url, **{name: program.base_url for name, program in there.items()}}
        callers = {name: Caller(url) for name, url in ways.items()}
        asked = {name: request(url, body(stream=True)) for name, url in ways.items()}
        for caller in callers.values():
            stack.callback(caller.close)
        for number in range(turns + 20):
            if number == 20:  # the first are for the caches
                times = {name: [] for name in ways}
                before = {name: program.cpu() for name, program in there.items()}
            for name, caller in callers.items():
                taken = _ask(caller, asked[name]).total
                times.setdefault(name, []).append(taken)
        for name, program in there.items():
            micros[name] = (program.cpu() - before[name]) / turns * 1e6
    return [*_compared(f"CPU per turn, SSE, {events} events", "ms", _milli(micros)), *_added(times, events)]


def _milli(micros: Mapping[str, float]) -> dict[str, float]:
    return {name: value / 1000 for name, value in micros.items()}


def _added(times: Mapping[str, list[float]], events: int) -> list[Row]:
    rows = []
    for name, part in (("p50", 50), ("p99", 99)):
        found = {who: statistics.quantiles(taken, n=100)[part - 1] * 1e3 for who, taken in times.items()}
        added = {who: value - found["direct"] for who, value in found.items() if who != "direct"}
        rows += _compared(f"time that a proxy adds to a turn, {name}, SSE, {events} events", "ms", added)
    return rows


def _compared(metric: str, unit: str, found: Mapping[str, float]) -> list[Row]:
    own, theirs = found["wspool"], found.get("LiteLLM")
    missing = f"set {LITELLM} to the executable of LiteLLM (litellm[proxy]), or have it on PATH"
    rows = [
        Row(
            metric=metric,
            value=own,
            unit=unit,
            peers={"LiteLLM": theirs},
            note="" if theirs is not None else missing,
        )
    ]
    if theirs is not None and own > 0:  # what adds nothing, as far as can be measured, has no ratio
        rows.append(
            Row(metric=f"{metric}: LiteLLM's over wspool's", value=theirs / own, unit="x", least=LESS)
        )
    return rows
