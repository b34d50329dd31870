"""N leases at once on an empty pool whose server takes 100 ms for a handshake.

Real sockets: the server holds its 101 back. The ideal is ceil(N / dial_concurrency) handshakes one after
the other. Below, pools of others on connections whose opening sleeps as long: they open all at once,
or one after the other; wspool opens `dial_concurrency` (16) at a time, because an endpoint that
meets a hundred handshakes in one instant refuses some.
"""

from __future__ import annotations

import functools
import math
import statistics
import time
from typing import Literal

import trio

import wspool
from benchmarks.fakes import Loop, Pool, open_wspool, play
from benchmarks.harness import Row, installed
from benchmarks.processes import Server, open_blaster
from benchmarks.script import Say

__all__ = ["run"]

HANDSHAKE = 0.100
CONCURRENCY = 16
WIRES: dict[str, Literal["websockets", "trio-websocket"]] = {
    "fast wire": "websockets",
    "default wire": "trio-websocket",
}


def run(*, quick: bool) -> list[Row]:
    """Measure all of it."""
    rounds = 3 if quick else 9
    rows = []
    with open_blaster() as server:
        for count in (1, 64) if quick else (1, 16, 64, 128):
            ideal = math.ceil(count / CONCURRENCY) * HANDSHAKE
            for wire, name in WIRES.items():
                if name == "websockets" and not installed("websockets"):
                    continue
                took = statistics.median(_cold(server, name, count) for _ in range(rounds))
                rows.append(
                    Row(
                        metric=f"cold: {count} leases at once, over the ideal, {wire}",
                        value=took / ideal,
                        unit="x",
                        most=1.2,
                        note=f"{took * 1e3:.0f} ms for {ideal / HANDSHAKE:.0f} x {HANDSHAKE * 1e3:.0f} ms",
                    )
                )
    rows.append(_fakes(64, 1 if quick else rounds))
    return rows


def _cold(server: Server, wire: Literal["websockets", "trio-websocket"], count: int) -> float:
    async def main() -> None:
        policy = wspool.PoolPolicy(
            max_size=count, min_idle=0, dial_concurrency=CONCURRENCY, close_timeout=0.1
        )
        async with wspool.open_pool(server.url(Say(hello=HANDSHAKE)), wire=wire, policy=policy) as pool:
            granted = 0
            all_of_them = trio.Event()

            async def hold() -> None:
                nonlocal granted
                async with pool.lease():
                    granted += 1
                    if granted == count:
                        all_of_them.set()
                    await all_of_them.wait()

            began = time.perf_counter()
            async with trio.open_nursery() as nursery:
                for _ in range(count):
                    nursery.start_soon(hold)
            took.append(time.perf_counter() - began)

    took: list[float] = []
    trio.run(main)
    return took[0]


def _fakes(count: int, rounds: int) -> Row:
    async def scenario(pool: Pool, loop: Loop) -> float:
        began = time.perf_counter()
        # Held until the slowest must have been served, so that none is used twice.
        last = began

        async def note(_: object) -> None:
            nonlocal last
            last = time.perf_counter()
            await loop.sleep(max(0.0, began + count * HANDSHAKE / 4 - last))

        await loop.together([lambda: pool.use(note)] * count)
        return last - began

    took: dict[str, float | None] = {}
    careful = functools.partial(open_wspool, dial_concurrency=CONCURRENCY)
    for name in ("wspool", "aiohttp", "psycopg_pool", "asyncpg"):
        found = [
            play(
                name,
                scenario,
                size=count,
                warm=0,
                dial=HANDSHAKE,
                opening=careful if name == "wspool" else None,
            )
            for _ in range(rounds)
        ]
        known = [one for one in found if one is not None]
        took[name] = statistics.median(known) * 1e3 if known else None
    return Row(
        metric=f"cold: {count} leases at once, faked connections",
        value=took.pop("wspool") or 0.0,
        unit="ms",
        peers=took,
        note="aiohttp and asyncpg open all at once, psycopg_pool a few at a time",
    )
