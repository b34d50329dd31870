"""50 requests at once on 5 warm connections: how many more are opened, and how long it takes.

150 ms per handshake, 2 ms of use. Real time, faked connections. The ideal opens
nothing: ten rounds of 2 ms on what is warm. A bare `trio.Semaphore(5)` shows how near to
that timers and scheduler of the machine come.
"""

from __future__ import annotations

import functools
import statistics
import time

from benchmarks.fakes import Loop, Pool, open_wspool, play
from benchmarks.harness import Row, installed

__all__ = ["run"]

REQUESTS = 50
WARM = 5
DIAL = 0.150
USE = 0.002
FLOOR = "Semaphore"
IDEAL = REQUESTS / WARM * USE


def run(*, quick: bool) -> list[Row]:
    """Measure it."""
    rounds = 1 if quick else 9

    async def scenario(pool: Pool, loop: Loop) -> tuple[int, float]:
        before = pool.opened
        began = time.perf_counter()
        await loop.together([lambda: pool.use(lambda _: loop.sleep(USE))] * REQUESTS)
        took = time.perf_counter() - began
        # What was begun because of the spike may still be under way.
        await loop.sleep(2 * DIAL)
        return pool.opened - before, took

    careful = functools.partial(open_wspool, dial_concurrency=2)
    contestants = {
        "wspool": ("wspool", None),
        "wspool, dial_concurrency=2": ("wspool", careful),
        FLOOR: (FLOOR, None),
        **{name: (name, None) for name in ("aiohttp", "psycopg_pool", "asyncpg") if installed(name)},
    }
    results: dict[str, list[tuple[int, float]]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for label, (name, opening) in contestants.items():
            size = WARM if name == FLOOR else REQUESTS
            result = play(name, scenario, size=size, warm=WARM, dial=DIAL, opening=opening)
            if result is not None:
                results[label].append(result)
    extra: dict[str, float | None] = dict.fromkeys([FLOOR, "aiohttp", "psycopg_pool", "asyncpg"])
    took = dict(extra)
    for label, found in results.items():
        extra[label] = statistics.median(opened for opened, _ in found)
        took[label] = statistics.median(seconds for _, seconds in found) * 1e3
    own_extra, own_took = extra.pop("wspool") or 0.0, took.pop("wspool") or 0.0
    return [
        Row(metric="spike: extra connections", value=own_extra, unit="", peers=extra, most=2),
        Row(metric="spike: time", value=own_took, unit="ms", peers=took, most=1.2 * IDEAL * 1e3),
        Row(metric="spike: time over a bare semaphore", value=own_took / (took[FLOOR] or 1.0), unit="x"),
    ]
