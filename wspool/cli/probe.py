"""`wspool probe`: measure an endpoint: the dial by phase, a warm-up, and what a delta saves.

Each round makes one connection and takes four turns on it: a warm-up, a conversation in full, its next turn
as a delta, and the same next turn in full. The last two differ in nothing but what is sent.
"""

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import trio
import typer

import wspool
from wspool.cli.target import ApiKeyEnv, Header, Model, ProxyUrl, Target, Url, find_target, no_key
from wspool.cli.usage import run, say, usage_error, warn
from wspool.core.frames import encode

__all__ = ["probe"]

#: Seconds of trying after which an endpoint counts as unreachable.
_REACH_WITHIN: Final = 2.0
#: Tokens of an answer at most; the least that OpenAI takes.
_ANSWER: Final = 16
#: What the history is made of.
_FILLER: Final = "The quick brown fox jumps over the lazy dog. "

Samples = dict[str, list[float]]


def probe(
    url: Url = None,
    model: Model = None,
    api_key_env: ApiKeyEnv = None,
    proxy: ProxyUrl = None,
    header: Header = [],  # noqa: B006  # as Typer has it, and nobody changes it
    rounds: Annotated[int, typer.Option("-n", "--rounds", min=1, help="Connections to measure on.")] = 5,
    history: Annotated[int, typer.Option(min=0, help="Bytes of history in a full turn.")] = 20_000,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")] = False,
) -> None:
    """Measure an endpoint: the dial by phase, a warm-up, full turns and delta turns.

    A round is one connection, a warm-up and three short turns, two of them with the whole history, which are
    paid for. Numbers are medians. Exit codes: 0 measured, 1 the endpoint failed, 2 wrong usage.
    """
    target = find_target(url, model, api_key_env, proxy, wspool.PoolPolicy(), headers=header)
    if target.model is None:
        usage_error("the turns need a model; say which with --model")
    if target.key is None and not target.local:
        usage_error(no_key(target.key_name))
    samples: Samples = {}
    problem = run(_measure, target, rounds, history, samples)
    if problem is not None:
        warn(f"{problem}; `wspool doctor` looks closer")
        raise typer.Exit(1)
    if as_json:
        measures: dict[str, dict[str, Any]] = {}
        for name, values in samples.items():
            part, _, what = name.partition(": ")
            unit = "bytes" if _is_size(name) else "s"
            measures.setdefault(part, {})[what] = {**_summary(values), "unit": unit}
        say(json.dumps({"endpoint": str(target), "rounds": rounds, "measures": measures}))
    else:
        _print(target, rounds, samples)


class _Dials(wspool.Instrument):
    """Keeps the last dial."""

    last: wspool.DialRecord | None = None

    def dial_ended(self, record: wspool.DialRecord) -> None:
        self.last = record


async def _measure(target: Target, rounds: int, history: int, samples: Samples) -> str | None:
    """Fill *samples*, in seconds and bytes; return what went wrong, or None."""
    policy = wspool.PoolPolicy(max_size=1, min_idle=0, give_up_after=_REACH_WITHIN)
    try:
        for _ in range(rounds):
            dials = _Dials()
            async with (
                wspool.open_pool(
                    target.url,
                    api_key=target.key,
                    headers=target.headers,
                    policy=policy,
                    proxy=target.proxy_url,
                    instrument=dials,
                ) as pool,
                pool.lease() as lease,
            ):
                if dials.last is not None:
                    for phase, seconds in dials.last.phases.items():
                        _add(samples, f"dial: {phase}", seconds)
                    _add(samples, "dial: all", dials.last.duration)
                await _measure_turns(lease, target, history, samples)
    except (wspool.WsPoolError, ValueError) as error:
        return str(error)
    return None


async def _measure_turns(lease: wspool.Lease, target: Target, history: int, samples: Samples) -> None:
    common = {"model": target.model, "store": False, "max_output_tokens": _ANSWER}
    past = [_said(_FILLER * (history // len(_FILLER) + 1)), _said("Say ok.")]
    again = [_said("Say ok again.")]
    _, end, _ = await _time(lease, {**common, "generate": False, "input": []})
    _add(samples, "warm-up: end", end)
    answer = await _time_turn(lease, {**common, "input": past}, "full", samples)
    await _time_turn(lease, {**common, "input": again, "previous_response_id": answer.id}, "delta", samples)
    await _time_turn(lease, {**common, "input": [*past, *answer.output, *again]}, "full", samples)


def _said(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


async def _time_turn(
    lease: wspool.Lease, body: Mapping[str, Any], name: str, samples: Samples
) -> wspool.Response:
    first, end, response = await _time(lease, body)
    _add(samples, f"{name}: first event", first)
    _add(samples, f"{name}: end", end)
    _add(samples, f"{name}: bytes sent", len(encode({"type": "response.create", **body})))
    return response


async def _time(lease: wspool.Lease, body: Mapping[str, Any]) -> tuple[float, float, wspool.Response]:
    """Take a turn; return the seconds to its first event and to its end, and its response."""
    began = trio.current_time()
    first: float | None = None
    async with lease.create(**body) as turn:
        async for _ in turn:
            first = trio.current_time() - began if first is None else first
        response = await turn.result()
    end = trio.current_time() - began
    return end if first is None else first, end, response


def _add(samples: Samples, name: str, value: float) -> None:
    samples.setdefault(name, []).append(value)


def _is_size(name: str) -> bool:
    return name.endswith("bytes sent")


def _summary(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": statistics.median(values),
        "least": min(values),
        "most": max(values),
        "samples": len(values),
    }


def _print(target: Target, rounds: int, samples: Samples) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for name, values in (("", ("median", "least", "most")), *_rows(samples)):
        table.add_row(name, *values)
    console = Console(file=sys.stdout, soft_wrap=True, highlight=False)
    console.print(f"{target}, {rounds} rounds", markup=False)
    console.print(table)


def _rows(samples: Samples) -> list[tuple[str, list[str]]]:
    rows: list[tuple[str, list[str]]] = []
    for name, values in samples.items():
        summary = _summary(values)
        numbers = [summary[key] for key in ("median", "least", "most")]
        rows.append((name, [f"{n:,.0f}" if _is_size(name) else f"{n * 1000:.1f} ms" for n in numbers]))
    return rows
