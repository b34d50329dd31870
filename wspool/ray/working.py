"""What an actor does: one pool, and a conversation for every task that it takes.

What it does is reported to `Sharing`, and what it may do comes back, in one call at a time for all of it.
"""

import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import attrs
import trio

import wspool
from wspool.core.usage import Budget, Usage
from wspool.ray.sharing import Orders, Report, Tokens
from wspool.rollout.limits import Limits
from wspool.rollout.method import Method
from wspool.rollout.results import key_of
from wspool.rollout.runner import Run
from wspool.rollout.summary import Meter
from wspool.rollout.tasks import Task

__all__ = ["Job", "work"]

#: Seconds after which an actor reports that has nothing to say, and hears what there is.
HEARTBEAT: Final = 0.25


@attrs.frozen(kw_only=True)
class Job:
    """What an actor is told at first.

    Attributes:
      endpoint: what to open its pool with. The key may be in it.
      policy: of its pool.
      method: how tasks are done.
      limits: of the run.
      concurrency: tasks at once, here.
    """

    endpoint: Mapping[str, Any] = attrs.field(repr=False)
    policy: wspool.PoolPolicy
    method: Method
    limits: Limits
    concurrency: int


async def work(job: Job, exchange: Callable[[Report], Awaitable[Orders]]) -> None:
    """Do what comes until no more comes. A checkpoint; cancelling leaves what runs without a result."""
    async with (
        trio.open_nursery() as nursery,
        wspool.open_pool(**job.endpoint, policy=job.policy, instrument=(meter := Meter())).at_pace(
            tokens := Tokens()
        ) as pool,
    ):
        actor = _Actor(job, pool, meter, tokens, exchange)
        nursery.start_soon(actor.talk)
        await actor.run()


class _Actor:
    def __init__(
        self,
        job: Job,
        pool: wspool.Pool,
        meter: Meter,
        tokens: Tokens,
        exchange: Callable[[Report], Awaitable[Orders]],
    ) -> None:
        self._job, self._pool, self._meter, self._exchange = job, pool, meter, exchange
        self._changed, self._ended = trio.Event(), trio.Event()
        self._told = trio.Event()
        self._send, receive = trio.open_memory_channel[Task](math.inf)
        self._receive = receive
        self._own = Budget()
        self._budget = job.limits.of_run()
        self._budget.within = self._own
        self._lines: list[tuple[str, Mapping[str, Any]]] = []
        self._running = 0
        self._tokens = tokens
        tokens.changed = self._change
        # How many may fail in all, and for how long, the driver knows.
        limits = attrs.evolve(job.limits, max_errors=0, max_seconds=None)
        self._run = Run(
            pool, receive, job.method, meter=meter, sink=self._take, limits=limits, budget=self._budget
        )

    def _change(self) -> None:
        self._changed.set()

    def _take(self, line: Mapping[str, Any]) -> None:
        self._lines.append((key_of(line), line))
        self._running -= 1
        self._changed.set()

    async def run(self) -> None:
        with self._send, self._receive:
            await self._run.all(self._job.concurrency)
            self._ended.set()
            self._changed.set()
            await self._told.wait()

    async def talk(self) -> None:
        while not self._told.is_set():
            is_last = self._ended.is_set()
            self._changed = trio.Event()
            orders = await self._exchange(self._report(is_last=is_last))
            self._obey(orders)
            if is_last:
                self._told.set()
            elif not self._ended.is_set():
                await trio.sleep(orders.pause)
                with trio.move_on_after(orders.pause if self._in_line > 0 else HEARTBEAT):
                    await self._changed.wait()

    @property
    def _in_line(self) -> int:
        return self._tokens.wanted

    def _report(self, *, is_last: bool) -> Report:
        self._tokens.give_back(len(self._tokens.spare) if is_last else -self._in_line)
        lines, self._lines = self._lines, []
        heard, self._tokens.heard = self._tokens.heard, []
        used, self._own.spent = self._own.spent, Usage()
        return Report(
            lines=lines,
            turns=heard,
            used=used,
            meter=self._meter.take(),
            pool=self._pool.statistics(),
            places=0 if is_last else self._job.concurrency - self._running,
            in_line=0 if is_last else max(0, self._in_line),
            problem=self._run.problem,
        )

    def _obey(self, orders: Orders) -> None:
        self._budget.spent = orders.spent + self._own.spent
        self._tokens.held_until = trio.current_time() + orders.held if orders.held else -math.inf
        self._tokens.give(orders.tokens)
        for task in orders.tasks:
            self._send.send_nowait(task)
        self._running += len(orders.tasks)
        if orders.drain or self._run.problem:
            self._send.close()
            self._run.drain()
        if orders.stop:
            self._run.stop(None)
