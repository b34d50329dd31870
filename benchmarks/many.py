"""Many conversations over few connections: 64 by lanes, 200 and 2,000 with four for each connection.

Lanes: 64 conversations of five turns, each of which calls a tool but the last and takes 0.1 s, with 16 lanes
on each of 4 connections and with 64 connections. The reference server does three quarters of the work, in a
process of its own: in one with the client, what was measured was who had the interpreter.

Crowds: conversations of 10-event turns without a pause, over a quarter as many connections. The wait is the
time from asking to having the response, in line included.
"""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import time
from collections.abc import Generator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import trio

import wspool
from benchmarks.harness import Row, Sample, Stopwatch, in_turn
from benchmarks.processes import Server, open_blaster
from benchmarks.script import Say
from wspool.server import ModelRequest, ModelTurn, function_call, message
from wspool.testing.local import local_server

__all__ = ["run"]

TALKS, CALLS, TURN = 64, 4, 0.1
#: Wall time by lanes over that with a connection for each; cost per event of the crowd over that of the few.
LANES_MOST, CROWD_MOST = 1.1, 1.3
CROWDS = ((200, 50), (2000, 500))
EVENTS = 10


def run(*, quick: bool) -> list[Row]:
    """Measure all of it."""
    return [*_lanes(3 if quick else 9), *_crowds(3 if quick else 10)]


class _Caller:
    """Calls a tool four times, then answers."""

    def respond(self, request: ModelRequest) -> ModelTurn:
        done = sum(item.get("type") == "function_call_output" for item in request.context)
        said = function_call("read", {"part": done}) if done < CALLS else message("read")
        return ModelTurn(output=[said], delay=TURN)


def _lanes(rounds: int) -> list[Row]:
    few = wspool.PoolPolicy(max_size=4, min_idle=0, lanes=16, close_timeout=0.1)
    many = wspool.PoolPolicy(max_size=TALKS, min_idle=0, close_timeout=0.1)
    deltas: list[int] = []
    taken = in_turn(
        {"by lanes": lambda: _talk(few, deltas), "apart": lambda: _talk(many, [])},
        rounds,
    )
    by_lanes, apart = ([sample.wall for sample in samples] for samples in taken.values())
    ratios = [one / other for one, other in zip(by_lanes, apart, strict=True)]
    what = f"{TALKS} conversations x {CALLS + 1} turns on 4 connections by lanes"
    return [
        Row(metric=f"{what}: turns as deltas", value=min(deltas), unit="turns", least=TALKS * CALLS),
        Row(
            metric=f"{what}: time, over that with {TALKS} connections",
            value=statistics.median(ratios),
            unit="x",
            most=LANES_MOST,
            note=f"{min(ratios):.2f} to {max(ratios):.2f} in {rounds} rounds; "
            f"{statistics.median(by_lanes):.2f} s; {statistics.median(apart):.2f} s",
        ),
    ]


def _talk(policy: wspool.PoolPolicy, deltas: list[int]) -> Sample:
    """Return what all conversations took; note in *deltas* how many turns were such."""
    counted = 0

    async def read(part: int) -> str:
        return f"part {part}"

    watch = Stopwatch()

    async def main(url: str) -> None:
        async def converse() -> None:
            nonlocal counted
            async with pool.conversation(model="gpt-5.2") as conversation:
                await conversation.run("go", tools={"read": read})
                counted += conversation.statistics().delta_turns

        async with wspool.open_pool(url, policy=policy, provider="openai", api_key="none") as pool:
            with watch.over(TALKS * (CALLS + 1)):
                async with trio.open_nursery() as nursery:
                    for _ in range(TALKS):
                        nursery.start_soon(converse)

    with _server() as url:
        trio.run(main, url)
    deltas.append(counted)
    return watch.sample


@contextmanager
def _server() -> Generator[str, None, None]:
    """Run the reference server in a process of its own while the block runs; yields its URL."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,))
    process.start()
    theirs.close()
    try:
        yield ours.recv()
    finally:
        ours.close()
        process.join()


def _serve(pipe: Connection) -> None:
    with local_server(model=_Caller()) as server:
        pipe.send(server.url)
        try:
            pipe.recv()
        except EOFError:
            pass  # the benchmark needs it no more


def _crowds(turns: int) -> list[Row]:
    rows: list[Row] = []
    costs: list[float] = []
    with open_blaster() as server:
        for talks, size in CROWDS:
            # As many turns in all: what a process takes to become warm is no difference then.
            waits, micros, wall = _crowd(server, talks, size, turns * (CROWDS[-1][0] // talks))
            costs.append(micros)
            rows.append(
                Row(
                    metric=f"{talks:,} conversations over {size} connections: p99 wait",
                    value=statistics.quantiles(waits, n=100)[98] * 1e3,
                    unit="ms",
                    note=f"p50 {statistics.median(waits) * 1e3:.0f} ms; {micros:.1f} us of CPU per event; "
                    f"{len(waits) / wall:,.0f} turns/s; at most "
                    f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB",
                )
            )
    few, many = CROWDS
    rows.append(
        Row(
            metric=f"cost per event, {many[0]:,} conversations over {few[0]}",
            value=costs[1] / costs[0],
            unit="x",
            most=CROWD_MOST,
        )
    )
    return rows


def _crowd(server: Server, talks: int, size: int, turns: int) -> tuple[list[float], float, float]:
    """Return what each turn waited, what an event cost, and the seconds of all."""
    waits: list[float] = []
    watch = Stopwatch()

    async def main() -> None:
        policy = wspool.PoolPolicy(max_size=size, min_idle=size, max_waiting=talks, close_timeout=0.5)
        async with wspool.open_pool(server.url(Say(events=EVENTS)), wire="websockets", policy=policy) as pool:

            async def converse() -> None:
                async with pool.conversation(model="bench") as conversation:
                    for _ in range(turns):
                        began = time.perf_counter()
                        await conversation.respond("x")
                        waits.append(time.perf_counter() - began)

            await pool.wait_ready()
            with watch.over(talks * turns * EVENTS):
                async with trio.open_nursery() as nursery:
                    for _ in range(talks):
                        nursery.start_soon(converse)

    trio.run(main)
    return waits, watch.sample.micros, watch.sample.wall
