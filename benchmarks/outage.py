"""Handshakes during 60 s without an endpoint, with 500 waiters and with 1. Virtual time.

The waiters come when the pool knows already; those of the very first instant are limited by
`dial_concurrency` only.
"""

from __future__ import annotations

import random
import statistics

import trio
import trio.testing

import wspool
from benchmarks.fakes import SilentConnector
from benchmarks.harness import Row

__all__ = ["run"]

OUTAGE = 60.0


def _handshakes(waiters: int, seed: int) -> int:
    """Handshakes that are tried in an outage, with so many in line all the time."""

    connector = SilentConnector(dial=0.05)

    async def main() -> None:
        policy = wspool.PoolPolicy(max_size=128, min_idle=1)
        async with wspool.open_pool(
            "ws://localhost/v1/responses", api_key="sk-none", wire=connector, policy=policy
        ) as pool:
            await pool.wait_ready()
            # The same jitter for all, or luck would be measured.
            pool._shell.jitter = random.Random(seed).random
            connector.handshakes, connector.down_until = 0, trio.current_time() + OUTAGE
            pool.clear(interrupt=True)  # the network is gone, and what was open with it
            await trio.sleep(0.5)

            async def use() -> None:
                async with pool.lease():
                    pass

            async with trio.open_nursery() as nursery:
                for _ in range(waiters):
                    nursery.start_soon(use)
                await trio.sleep_until(connector.down_until)
                counted.append(connector.handshakes)
                nursery.cancel_scope.cancel()

    counted: list[int] = []
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    return counted[0]


def run(*, quick: bool) -> list[Row]:
    """Measure it."""
    seeds = range(5)
    one = [_handshakes(1, seed) for seed in seeds]
    many = [_handshakes(500, seed) for seed in seeds]
    return [
        Row(
            metric="outage of 60 s: handshakes with 500 waiters",
            value=statistics.mean(many),
            unit="",
            most=statistics.mean(one),
            note=f"with 1 waiter {statistics.mean(one):g}; the mean of {len(seeds)} seeds",
        )
    ]
