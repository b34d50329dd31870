"""What the driver does: it hands out tasks, takes results as they come, and knows when to end.

It asks now and then, so that neither its speed nor what it holds depends on how many actors there are. The
first Ctrl-C begins no other task, the second cancels those that run, the third ends the process.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol, cast

import attrs
import trio

from wspool.ray.sharing import NOTHING, News
from wspool.rollout.limits import Limits
from wspool.rollout.progress import Progress, show_progress
from wspool.rollout.results import outcome_of_line, score_of_line
from wspool.rollout.samples import Samples, take_samples
from wspool.rollout.signals import heard_signals
from wspool.rollout.standing import Standing
from wspool.rollout.summary import Meter, Summary
from wspool.rollout.tally import Tally
from wspool.rollout.tasks import Failure, Task

__all__ = ["Actors", "lead"]

#: Seconds between two looks.
LOOK: Final = 0.05


class Actors(Protocol):
    """Those who work."""

    async def news(self, tasks: Sequence[Task], *, drain: bool, stop: bool) -> News:
        """See `Sharing.news`. A checkpoint. Raises ConnectionError: what they share is lost."""
        ...

    async def work(self, problem: Callable[[str], None]) -> None:
        """Have every actor work until it has ended; what went wrong is told to *problem*. A checkpoint."""
        ...


async def lead(
    actors: Actors,
    tasks: Sequence[Task],
    *,
    sink: Callable[[Mapping[str, Any]], None],
    concurrency: int,
    max_size: int,
    limits: Limits,
    tally: Tally,
    total: int,
    samples: Samples | None = None,
    quiet: bool = False,
) -> Summary:
    """Have *tasks* done by *actors*. The arguments are those of `run_batch`; *max_size* of all connections.

    A checkpoint. Cancelling it leaves what runs without a result.
    """
    driver = _Driver(actors, tasks, sink, 2 * concurrency, limits, tally)
    async with trio.open_nursery() as watchers:
        await watchers.start(driver.watch_signals)
        watchers.start_soon(driver.watch_clock, limits.max_seconds)
        if not quiet:
            watchers.start_soon(show_progress, driver.progress, sys.stderr)
        if samples is not None:
            watchers.start_soon(take_samples, driver.progress, samples)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(driver.follow, nursery.cancel_scope)
            await actors.work(driver.drain)
            driver.over = True
        watchers.cancel_scope.cancel()
    return driver.summary(total, max_size)


class _Driver:
    def __init__(
        self,
        actors: Actors,
        tasks: Sequence[Task],
        sink: Callable[[Mapping[str, Any]], None],
        ahead: int,
        limits: Limits,
        tally: Tally,
    ) -> None:
        self._actors, self._tasks, self._sink, self._ahead = actors, tasks, sink, ahead
        self._standing = Standing(limits, tally)
        self._meter = Meter()
        self._handed = self._peak = 0
        self._news: News | None = None
        self._draining = self._stopping = self._interrupted = False
        self._problem: str | None = None
        self.over = False

    async def watch_signals(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with heard_signals(self._heard):
            task_status.started()
            await trio.sleep_forever()

    def _heard(self) -> None:
        self._draining, self._stopping, self._interrupted = True, self._interrupted, True

    async def watch_clock(self, seconds: float | None) -> None:
        if seconds is not None:
            await trio.sleep(seconds)
            self.drain(f"{seconds:g} s have passed")

    def drain(self, problem: str | None) -> None:
        self._problem = self._problem or problem
        self._draining = self._draining or problem is not None

    async def follow(self, scope: trio.CancelScope) -> None:
        """Ask and tell until no actor is left; if that cannot be done any more, all ends."""
        while True:
            was_over = self.over
            try:
                await self._look()
            except ConnectionError as error:
                self.drain(str(error))
                scope.cancel()
            if was_over:
                return
            await trio.sleep(LOOK)

    async def _look(self) -> None:
        known = self._news
        ahead = self._ahead if known is None else max(0, self._ahead - known.queued)
        more = () if self._draining else self._tasks[self._handed : self._handed + ahead]
        self._handed += len(more)
        news = self._news = await self._actors.news(more, drain=self._draining, stop=self._stopping)
        self._meter.add(news.meter)
        self._peak = max(self._peak, news.pool.size)
        self.drain(news.problem)
        for key, line in news.lines:
            self._take(key, line)
        if self._standing.ended + news.given_up == len(self._tasks):
            self._draining = True

    def _take(self, key: str, line: Mapping[str, Any]) -> None:
        try:
            self._sink(line)
        except OSError as error:
            self.drain(f"a result could not be written: {error}")
            self._stopping = True
            return
        failure: Failure | None = None
        if said := cast("dict[str, Any] | None", line.get("error")):
            names = {field.name for field in attrs.fields(Failure)} & said.keys()
            known: dict[str, Any] = {"type": str(said.get("code"))}
            failure = Failure(**known | {name: said[name] for name in names})
        id = key.rpartition("\0")[0] or key
        self.drain(self._standing.add(id, outcome_of_line(line), score_of_line(line), failure))

    def progress(self) -> Progress:
        pool = self._news.pool if self._news is not None else NOTHING
        running = self._news.running if self._news is not None else 0
        turns, total = self._meter.turns, len(self._tasks)
        return self._standing.progress(
            pool, total=total, in_flight=running, turns=turns, draining=self._draining
        )

    def summary(self, total: int, max_size: int) -> Summary:
        """What it came to."""
        return self._standing.summary(
            self._meter,
            attrs.evolve(self._news.pool if self._news is not None else NOTHING, max_size=max_size),
            tasks=total,
            owed=len(self._tasks) - self._standing.ended,
            skipped=total - len(self._tasks),
            peak_connections=self._peak,
            interrupted=self._interrupted,
            problem=self._problem,
        )
