"""From 10 to 2,000 streaming conversations in one process: cost per event, events/s, delay of delivery.

`blast`: every conversation streams as fast as it can, turns of 108 events; the same number of events
for every size. `paced`: 2,000 events per second in all, however many conversations they are spread
over; the gap is the time from the server's write of an event to its delivery to the program, on the
machine's one clock, so it holds the server's and the kernel's part too.
"""

from __future__ import annotations

import statistics
import time

import trio

import wspool
from benchmarks.clients import Load, available, play
from benchmarks.harness import Row, Sample, Stopwatch
from benchmarks.processes import Server, open_blaster
from benchmarks.script import Say

__all__ = ["run"]

WIRES = {"fast wire": "wspool, fast wire", "default wire": "wspool, default wire"}
#: Cost per event at the largest size over that at the smallest.
GROWTH = 1.5
#: Events per second in all, when paced.
PACE = 2000.0


def run(*, quick: bool) -> list[Row]:
    """Measure all of it."""
    sizes = (10, 300) if quick else (10, 100, 500, 1000, 2000)
    rows = []
    with open_blaster() as server:
        for wire, name in WIRES.items():
            if not available(name):
                continue
            rows += _blast(server, wire, name, sizes, 3 if quick else 5)
            rows += _paced(server, wire, sizes, 3.0 if quick else 10.0)
    return rows


def _blast(server: Server, wire: str, name: str, sizes: tuple[int, ...], rounds: int) -> list[Row]:
    total = max(sizes) * 2
    samples: dict[int, list[Sample]] = {size: [] for size in sizes}
    busy = 0.0
    for _ in range(rounds):
        for size in sizes:
            load = Load(server=server, say=Say(), connections=size, turns=max(1, total // size))
            samples[size].append(play(name, load).per_event)
            busy = max(busy, server.process.lap()["busy"])
    cost = {size: statistics.median(one.micros for one in found) for size, found in samples.items()}
    speed = {
        size: statistics.median(1e6 / one.wall_micros for one in found) for size, found in samples.items()
    }
    growth = statistics.median(
        many.micros / few.micros for many, few in zip(samples[sizes[-1]], samples[sizes[0]], strict=True)
    )
    return [
        *(
            Row(
                metric=f"blast: CPU per event with {size:,} conversations, {wire}",
                value=cost[size],
                unit="us",
                note=f"{speed[size]:,.0f} events/s",
            )
            for size in sizes
        ),
        Row(
            metric=f"blast: growth of the cost per event, {sizes[0]} to {sizes[-1]:,} conversations, {wire}",
            value=growth,
            unit="x",
            most=GROWTH,
        ),
        Row(metric=f"blast: the server's own CPU, {wire}", value=busy * 100, unit="%", most=80),
    ]


def _paced(server: Server, wire: str, sizes: tuple[int, ...], seconds: float) -> list[Row]:
    rows = []
    for size in sizes:
        gaps, sample, busy = _stream(server, wire, size, seconds)
        cuts = statistics.quantiles(gaps, n=100)
        rows.append(
            Row(
                metric=f"paced: p99 from the server's write to delivery, {size:,} conversations, {wire}",
                value=cuts[98] / 1e6,
                unit="ms",
                note=f"p50 {cuts[49] / 1e6:.2f} ms; {len(gaps) / sample.wall:,.0f} events/s, "
                f"{sample.cpu / len(gaps) * 1e6:.0f} us of CPU per event alone in its read, "
                f"client {sample.cpu / sample.wall:.0%}, server {busy:.0%} busy",
            )
        )
    return rows


def _stream(server: Server, wire: str, size: int, seconds: float) -> tuple[list[int], Sample, float]:
    say = Say(events=max(20, int(seconds * 2 * PACE / size)), gap=size / PACE)
    gaps: list[int] = []
    watch = Stopwatch()
    lap: dict[str, float] = {}

    async def main() -> None:
        policy = wspool.PoolPolicy(max_size=size, min_idle=0, close_timeout=0.1)
        connected = 0
        begin, measuring = trio.Event(), False

        async def converse(delay: float) -> None:
            nonlocal connected
            async with pool.lease() as lease:
                connected += 1
                await begin.wait()
                await trio.sleep(delay)  # or all would be served in the same instant
                async with lease.create(model="bench", input="x") as turn:
                    async for event in turn:
                        if measuring and event.type == "response.output_text.delta":
                            sent = int(event.raw[-18:-2])
                            gaps.append(time.monotonic_ns() - sent)

        wire_name = "websockets" if wire == "fast wire" else "trio-websocket"
        async with (
            wspool.open_pool(server.url(say), wire=wire_name, policy=policy) as pool,  # type: ignore[arg-type]
            trio.open_nursery() as nursery,
        ):
            for number in range(size):
                nursery.start_soon(converse, say.gap * number / size)
            while connected < size:  # noqa: ASYNC110  (a benchmark may poll before it begins)
                await trio.sleep(0.01)
            begin.set()
            await trio.sleep(min(2 * say.gap, seconds) + 0.2)
            server.process.lap()
            with watch.over(1):
                measuring = True
                await trio.sleep(seconds)
                measuring = False
            lap.update(server.process.lap())
            nursery.cancel_scope.cancel()

    trio.run(main)
    return gaps, watch.sample, lap["busy"]
