"""What a lease costs: acquire and release, alone and in a crowd, at any size.

* `uncontended`, `contended`: through the real pool on a silent connector, beside peers whose
  connections are faked in the same way (`benchmarks.fakes`). CPU time; 10 connections, one task
  or 50 of them that yield once while they hold. trio's pools pay for the checkpoint that trio
  asks of every async function; asyncio's do not yield when a connection is free.
* `pure core`: `PoolCore` alone, no event loop, asked as the shell asks: one release that serves a
  waiter, and one new waiter in its place, with a look at the next deadline after each.
* `queue`: parked waiters served, and cancelled, one after the other, down to the last.
"""

from __future__ import annotations

import functools
import itertools
import statistics
from collections.abc import Callable

from benchmarks.fakes import PEERS, Loop, Pool, play
from benchmarks.harness import Row, Sample, Stopwatch, in_turn, installed, median, ratio
from wspool.core.commands import Command, Grant, LeaseId, WaiterId
from wspool.core.lending.pool import PoolCore
from wspool.core.policy import OPENAI, PoolPolicy

__all__ = ["run", "scaling"]

SIZE = 10
TASKS = 50
#: Who takes part. Not httpcore: it leases a connection only for a whole request.
CONTESTANTS = ("checkpoint", "Semaphore", "wspool", "aiohttp", "psycopg_pool", "asyncpg")


def run(*, quick: bool) -> list[Row]:
    """Measure all of it."""
    rounds = 3 if quick else 15
    return [
        *_leasing("uncontended", 1, 2000 if quick else 5000, rounds, most=5.0),
        *_leasing("contended", TASKS, 40 if quick else 100, rounds, most=5.0),
        *_core(rounds, quick),
    ]


# -- acquire and release --------------------------------------------------------------------------


def _leasing(metric: str, tasks: int, times: int, rounds: int, *, most: float) -> list[Row]:
    async def scenario(pool: Pool, loop: Loop) -> Sample:
        pause = loop.pause if tasks > 1 else None
        watch = Stopwatch()
        with watch.over(tasks * times):
            if tasks == 1:
                await pool.repeat(times, None)
            else:
                await loop.together([functools.partial(pool.repeat, times, pause)] * tasks)
        return watch.sample

    async def alone(pool: Pool, loop: Loop) -> Sample:
        watch = Stopwatch()
        with watch.over(tasks * times):
            await pool.repeat(tasks * times, None)
        return watch.sample

    def contestant(name: str) -> Callable[[], Sample]:
        def once() -> Sample:
            # The floor is what a checkpoint costs one task. In a crowd it is cheaper: the
            # scheduler asks for I/O once per round, not once per task.
            floor = name == "checkpoint"
            sample = play(name, alone if floor else scenario, size=SIZE, warm=SIZE)
            if sample is None:
                raise AssertionError(f"bug: {name} is not installed")
            return sample

        return once

    here = [name for name in CONTESTANTS if installed(PEERS[name][0])]
    samples = in_turn({name: contestant(name) for name in here}, rounds)
    others = [name for name in CONTESTANTS if name != "wspool"]
    where = "1 task" if tasks == 1 else f"{tasks} tasks, each yields once"
    micros = {name: median(samples[name]) if name in samples else None for name in others}
    walls = {
        name: statistics.median(one.wall_micros for one in samples[name]) if name in samples else None
        for name in [*others, "wspool"]
    }
    times_floor = {
        name: ratio(samples[name], samples["checkpoint"]) if name in samples else None for name in others[1:]
    }
    return [
        Row(
            metric=f"{metric}: CPU per lease",
            value=median(samples["wspool"]),
            unit="us",
            peers=micros,
            note=f"{SIZE} connections, {where}",
        ),
        Row(
            metric=f"{metric}: wall time per lease",
            value=walls.pop("wspool") or 0.0,
            unit="us",
            peers=walls,
        ),
        Row(
            metric=f"{metric}: over a bare trio checkpoint",
            value=ratio(samples["wspool"], samples["checkpoint"]),
            unit="x",
            peers=times_floor,
            most=most,
        ),
    ]


# -- the core alone -------------------------------------------------------------------------------


class _Crowd:
    """A core with that many connections, all of them leased, and that many waiters in line."""

    def __init__(self, connections: int, waiters: int) -> None:
        policy = PoolPolicy(max_size=connections, min_idle=0, dial_concurrency=connections)
        self.core = PoolCore(policy, OPENAI)
        self.now = 0.0
        self.numbers = itertools.count(1)
        self.leases: list[LeaseId] = []
        for _ in range(connections):
            self.join()
        while self.core.statistics().dialing:
            for number, (state, _) in self.core.states().items():
                if state.value == "dialing":
                    self.keep(self.core.connected(number, self.now, (number * 0.618) % 1))
        for _ in range(waiters):
            self.join()

    def keep(self, commands: list[Command]) -> None:
        """Note the leases that were granted."""
        for command in commands:
            if isinstance(command, Grant):
                self.leases.append(command.lease)

    def join(self) -> WaiterId:
        """One more waiter."""
        waiter = WaiterId(next(self.numbers))
        self.keep(self.core.acquire(waiter, self.now))
        self.core.next_deadline()
        return waiter

    def leave(self) -> None:
        """Release the lease that was granted first among the last ones."""
        self.now += 1e-5
        self.keep(self.core.release(self.leases.pop(), self.now))
        self.core.next_deadline()


def _served(connections: int, waiters: int, times: int) -> Sample:
    """Each operation is a release that serves a waiter, and a new waiter."""
    crowd = _Crowd(connections, waiters)
    watch = Stopwatch()
    with watch.over(times):
        for _ in range(times):
            crowd.leave()
            crowd.join()
    return watch.sample


def _free(connections: int, times: int) -> Sample:
    """Each operation is an acquire and a release while every other connection is free."""
    crowd = _Crowd(connections, 0)
    while crowd.leases:
        crowd.leave()
    watch = Stopwatch()
    with watch.over(times):
        for _ in range(times):
            crowd.join()
            crowd.leave()
    return watch.sample


def _drained(waiters: int, *, cancelled: bool) -> Sample:
    """Each operation serves or cancels one parked waiter; in the end none is left."""
    crowd = _Crowd(SIZE, 0)
    parked = [crowd.join() for _ in range(waiters)]
    watch = Stopwatch()
    with watch.over(waiters):
        if cancelled:
            for waiter in reversed(parked):
                crowd.core.abandon(waiter, crowd.now)
                crowd.core.next_deadline()
        else:
            for _ in range(waiters):
                crowd.leave()
    if crowd.core.statistics().waiting:
        raise AssertionError("bug: somebody is left in line")
    return watch.sample


def _repeated(once: Callable[[], Sample], times: int) -> Callable[[], Sample]:
    """A sample that is long enough, from several short ones."""

    def together() -> Sample:
        samples = [once() for _ in range(times)]
        return Sample(
            sum(one.operations for one in samples),
            sum(one.wall for one in samples),
            sum(one.cpu for one in samples),
        )

    return together


def scaling(
    rounds: int, times: int, parked: int = 10_000
) -> tuple[dict[str, list[Sample]], dict[str, list[Sample]]]:
    """Samples of the core alone, small and large, by operation."""
    few = 100
    contestants: dict[str, tuple[Callable[[], Sample], Callable[[], Sample]]] = {
        "served": (lambda: _served(10, 10, times), lambda: _served(1000, 1000, times)),
        "free": (lambda: _free(10, times), lambda: _free(1000, times)),
        "queue served": (
            _repeated(lambda: _drained(few, cancelled=False), max(1, times // few)),
            lambda: _drained(parked, cancelled=False),
        ),
        "queue cancelled": (
            _repeated(lambda: _drained(few, cancelled=True), max(1, times // few)),
            lambda: _drained(parked, cancelled=True),
        ),
    }
    flat = {f"{name} {size}": pair[size] for name, pair in contestants.items() for size in (0, 1)}
    samples = in_turn(flat, rounds)
    return (
        {name: samples[f"{name} 0"] for name in contestants},
        {name: samples[f"{name} 1"] for name in contestants},
    )


def _core(rounds: int, quick: bool) -> list[Row]:
    small, large = scaling(rounds, 5000 if quick else 10_000)
    told = {
        "served": ("pure core: release serves a waiter, another joins", "10 x 10", "1,000 x 1,000"),
        "free": ("pure core: acquire and release, all free", "10", "1,000"),
        "queue served": ("queue: one of the parked is served", "100 parked", "10,000 parked"),
        "queue cancelled": ("queue: one of the parked is cancelled", "100 parked", "10,000 parked"),
    }
    rows = []
    for name, (metric, few, many) in told.items():
        rows.append(
            Row(
                metric=metric,
                value=median(large[name]),
                unit="us",
                note=f"with {many}; with {few} {median(small[name]):.2f} us",
            )
        )
        rows.append(
            Row(metric=f"{metric}: growth", value=ratio(large[name], small[name]), unit="x", most=2.0)
        )
    return rows
