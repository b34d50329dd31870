"""What an event costs: CPU of the client per event, beside every other client, plain and over TLS.

20 connections at once, turns of 100 small deltas (about 220 bytes) and the 8 events around them. wspool
is measured as its users have it: pool, lease, turn machine, event objects. (a) counted: events are
looked at for their type and nothing else; (b) decoded: each becomes a dict. Over TLS the server puts
a turn into as few records as it can, or one event into each record; either way it writes a turn at once.

The server is a process of its own that sends what was made before (`benchmarks.blaster`); a row says
how much of its core it used. What takes part is imported before the first sample, and frozen out of
the garbage collector's sight: the collector is slower the more a program has imported.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable

from benchmarks.clients import Load, available, play
from benchmarks.harness import Row, Sample, in_turn, median, ratio
from benchmarks.processes import Server, open_blaster
from benchmarks.script import Say

__all__ = ["run"]

CONNECTIONS = 20
FAST, DEFAULT = "wspool, fast wire", "wspool, default wire"
PEERS = ("floor", "picows", "aiohttp", "websockets", "trio-websocket", "trio-websocket, tuned", "openai")
#: Who cannot leave an event undecoded.
ALWAYS_DECODES = "openai"
#: The slowest needs this many times less work for a sample of the same length.
SLOW = {"openai": 8, "trio-websocket": 2, "trio-websocket, tuned": 2, DEFAULT: 2}


def run(*, quick: bool) -> list[Row]:
    """Measure all of it."""
    rounds, turns = (2, 8) if quick else (9, 64)
    rows = []
    with open_blaster() as plain, open_blaster(tls=True) as secure:
        rows += _measure("plain", plain, Say(), rounds, turns)
        rows += _measure("TLS, many events per record", secure, Say(), rounds, turns)
        rows += _measure("TLS, one event per record", secure, Say(each=True), rounds, turns)
    return rows


def _measure(setting: str, server: Server, say: Say, rounds: int, turns: int) -> list[Row]:
    busy: list[float] = []
    walls: dict[str, list[float]] = {}

    def contestant(name: str, decode: bool) -> Callable[[], Sample]:
        def once() -> Sample:
            times = max(1, turns // SLOW.get(name, 1))
            load = Load(server=server, say=say, connections=CONNECTIONS, turns=times, decode=decode)
            gc.freeze()
            sample = play(name, load).per_event
            busy.append(server.process.lap()["busy"])
            return sample

        return once

    here = [name for name in (FAST, DEFAULT, *PEERS) if available(name)]
    contestants: dict[str, Callable[[], Sample]] = {}
    for name in here:
        if name != ALWAYS_DECODES:
            contestants[f"{name}: counted"] = contestant(name, False)
        contestants[f"{name}: decoded"] = contestant(name, True)
    samples = in_turn(contestants, rounds)
    for key, found in samples.items():
        walls[key] = [one.wall_micros for one in found]

    rows = []
    for way in ("counted", "decoded"):
        peers = {}
        for name in PEERS:
            key = f"{name}: {'decoded' if name == ALWAYS_DECODES else way}"
            peers[name] = median(samples[key]) if key in samples else None
        for name in (FAST, DEFAULT):
            key = f"{name}: {way}"
            if key in samples:
                rows.append(
                    Row(
                        metric=f"{setting}: CPU per event, {way}, {name.partition(', ')[2]}",
                        value=median(samples[key]),
                        unit="us",
                        peers=peers,
                        note=f"{1e6 / median(samples[key]):,.0f} events/s per core; wall time "
                        f"{statistics.median(walls[key]):.2f} us",
                    )
                )

    def against(name: str, peer: str, way: str, most: float) -> None:
        one, other = f"{name}: counted", f"{peer}: {way}"
        if one in samples and other in samples:
            rows.append(
                Row(
                    metric=f"{setting}: {name.partition(', ')[2]}, counted, over {peer}, {way}",
                    value=ratio(samples[one], samples[other]),
                    unit="x",
                    most=most,
                )
            )

    if setting == "plain":
        against(DEFAULT, "trio-websocket", "counted", 1.2)
        against(DEFAULT, "openai", "decoded", 1 / 4)
        against(FAST, "floor", "decoded", 1.3)
        against(FAST, "openai", "decoded", 1 / 25)
        against(FAST, "websockets", "decoded", 1 / 2)
    elif say.each:
        against(DEFAULT, "openai", "decoded", 1 / 2)
        against(FAST, "websockets", "decoded", 1.0)
    rows.append(
        Row(
            metric=f"{setting}: the server's own CPU at its busiest", value=max(busy) * 100, unit="%", most=80
        )
    )
    return rows
