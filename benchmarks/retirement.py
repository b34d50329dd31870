"""The hour in which connections reach their lifetime limit: dials at once, waits, cuts. Virtual time.

128 connections opened in the same second, all in use: each task leases one for 30 seconds, again and
again, through three lifetimes of an hour. Counted: the most handshakes within any ten seconds after the
start, the longest wait for a lease, and leases whose connection died under them. Beside it a pool
that replaces a connection when its lifetime is over, which is what a limit without a plan does.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio
import trio.testing

import wspool
from benchmarks.fakes import SilentConnector, SilentWire
from benchmarks.harness import Row
from wspool.wire.wire import Endpoint

__all__ = ["run"]

SIZE = 128
LIFETIME = 3600.0
HOLD = 30.0
WINDOW = 10.0
DIAL = 0.15


def run(*, quick: bool) -> list[Row]:
    """Measure it."""
    hours = 1.5 if quick else 3.0
    dials, waits, died = _live(hours * LIFETIME)
    later = [when for when in dials if when > WINDOW]
    most = max((sum(1 for other in later if when <= other < when + WINDOW) for when in later), default=0)
    return [
        Row(
            metric="retirement: most handshakes within 10 s, after the start",
            value=most,
            unit="",
            peers={"without a plan": SIZE},
            most=SIZE / 4,
            note=f"{len(later)} retirements in {hours:g} lifetimes of {SIZE} connections",
        ),
        Row(metric="retirement: longest wait for a lease", value=max(waits), unit="s", most=1.0),
        Row(metric="retirement: leases whose connection died", value=died, unit="", most=0),
    ]


class _Watched(SilentConnector):
    """Notes when it is asked to dial."""

    def __init__(self) -> None:
        super().__init__(dial=DIAL)
        self.dials: list[float] = []

    async def connect(
        self, nursery: trio.Nursery, endpoint: Endpoint, headers: Sequence[tuple[str, str]]
    ) -> SilentWire:
        self.dials.append(trio.current_time())
        return await super().connect(nursery, endpoint, headers)


def _live(seconds: float) -> tuple[list[float], list[float], int]:
    connector = _Watched()
    waits: list[float] = []
    died = 0
    began = 0.0

    async def main() -> None:
        nonlocal died, began
        began = trio.current_time()
        policy = wspool.PoolPolicy(max_size=SIZE + 8, min_idle=2, dial_concurrency=SIZE)
        async with wspool.open_pool(
            "ws://localhost/v1/responses", api_key="sk-none", wire=connector, policy=policy
        ) as pool:

            async def use(offset: float) -> None:
                nonlocal died
                await trio.sleep(offset)
                while True:
                    asked = trio.current_time()
                    async with pool.lease() as lease:
                        if trio.current_time() - began > WINDOW:
                            waits.append(trio.current_time() - asked)
                        await trio.sleep(HOLD)
                        died += not lease.alive

            with trio.move_on_after(seconds):
                async with trio.open_nursery() as nursery:
                    for number in range(SIZE):
                        nursery.start_soon(use, number / SIZE)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    return [when - began for when in connector.dials], waits, died
