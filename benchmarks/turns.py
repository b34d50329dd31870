"""What a turn costs: turns per second and core at 1, 100 and 1,000 conversations; the latency of a short one.

Turns of 10 events with 2 KB of input, in conversations that keep their history (`respond`), beside raw
loops that keep nothing. Latency: a turn of 3 events on a warm connection, one after the other, as the
wall time from asking to having the response; the floor is a bare trio stream.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable

from benchmarks.clients import Load, Result, available, play
from benchmarks.harness import Row, Sample, in_turn, median
from benchmarks.processes import Server, open_blaster
from benchmarks.script import Say

__all__ = ["run"]

WIRES = {"fast wire": "respond, fast wire", "default wire": "respond, default wire"}
LEASES = {"fast wire": "wspool, fast wire", "default wire": "wspool, default wire"}
PEERS = ("floor", "websockets", "trio-websocket", "openai")
#: Turns per second and core with 100 conversations.
TARGETS = {"fast wire": 4000.0, "default wire": 1500.0}
#: Latency over the floor, p50.
LATENCY = {"fast wire": 1.4, "default wire": 1.8}
TEXT = "word " * 400


def run(*, quick: bool) -> list[Row]:
    """Measure all of it."""
    rounds = 2 if quick else 7
    rows = []
    with open_blaster() as server:
        rows += _throughput(server, 1, 300 if quick else 1000, rounds)
        rows += _throughput(server, 100, 6 if quick else 20, rounds)
        rows += _throughput(server, 1000, 1 if quick else 3, 2 if quick else 5)
        rows += _latency(server, 1000 if quick else 4000, rounds)
    return rows


def _throughput(server: Server, conversations: int, turns: int, rounds: int) -> list[Row]:
    busy: list[float] = []

    def contestant(name: str) -> Callable[[], Sample]:
        def once() -> Sample:
            load = Load(
                server=server, say=Say(events=10), connections=conversations, turns=turns, text=TEXT, warm=1
            )
            gc.freeze()
            sample = play(name, load).sample
            busy.append(server.process.lap()["busy"])
            return sample

        return once

    # Opening a thousand connections of the SDK takes longer than all the rest.
    peers = [name for name in PEERS if available(name) and not (name == "openai" and conversations > 100)]
    here = [name for name in WIRES.values() if available(name)]
    samples = in_turn({name: contestant(name) for name in [*here, *peers]}, rounds)
    rates = {name: 1e6 / median(found) for name, found in samples.items()}
    rows = [
        Row(
            metric=f"turns per second and core, {conversations:,} conversations, {wire}",
            value=rates[name],
            unit="turns/s",
            peers={peer: rates[peer] for peer in peers},
            least=TARGETS[wire] if conversations == 100 else None,
            note=f"{median(samples[name]):.0f} us of CPU per turn; wall "
            f"{statistics.median(one.wall_micros for one in samples[name]):.0f} us",
        )
        for wire, name in WIRES.items()
        if name in samples
    ]
    rows.append(
        Row(
            metric=f"turns, {conversations:,} conversations: the server's own CPU at its busiest",
            value=max(busy) * 100,
            unit="%",
            most=80,
        )
    )
    return rows


def _latency(server: Server, turns: int, rounds: int) -> list[Row]:
    names = [name for name in ("floor", *WIRES.values(), *LEASES.values(), *PEERS[1:]) if available(name)]
    found: dict[str, list[Result]] = {name: [] for name in names}
    load = Load(server=server, say=Say(events=3), turns=turns, warm=50)
    for _ in range(rounds):
        for name in names:
            found[name].append(play(name, load))

    def at(name: str, share: int) -> float:
        cuts = [statistics.quantiles(one.latencies, n=100)[share - 1] for one in found[name]]
        return statistics.median(cuts) * 1e6

    def over(name: str, share: int) -> float:
        pairs = zip(found[name], found["floor"], strict=True)
        return statistics.median(
            statistics.quantiles(one.latencies, n=100)[share - 1]
            / statistics.quantiles(floor.latencies, n=100)[share - 1]
            for one, floor in pairs
        )

    rows = []
    for wire, name in WIRES.items():
        if name not in found:
            continue
        for share in (50, 99):
            rows.append(
                Row(
                    metric=f"latency of a 3-event turn, p{share}, {wire}",
                    value=at(name, share),
                    unit="us",
                    peers={peer: at(peer, share) if peer in found else None for peer in PEERS},
                    note=f"`respond`; streamed on a lease {at(LEASES[wire], share):.0f} us",
                )
            )
        rows.append(
            Row(
                metric=f"latency of a 3-event turn over the floor, p50, {wire}",
                value=over(name, 50),
                unit="x",
                most=LATENCY[wire],
                note=f"streamed on a lease {over(LEASES[wire], 50):.2f} x; p99 {over(name, 99):.2f} x",
            )
        )
    return rows
