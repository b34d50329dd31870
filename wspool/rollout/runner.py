"""The runner: many tasks in one place, and no task's trouble is another's.

1. A task is one conversation (`wspool.rollout.holding`). More may run than there are connections, since tools
   take their time; `concurrency` bounds how many, and where a place for one is says when it is begun.
2. A result that cannot be written ends the run, as does what `Held` says.
3. What did not end is owed: it has no result, and the next run does it.
4. Where the endpoint refuses all that run, others are tried, see `wspool.rollout.doubt`.
5. The first Ctrl-C, SIGTERM or SIGHUP starts no other task, puts those back that have sent nothing yet, or
   that the endpoint keeps waiting, then or later, and lets the others finish; as does each limit of the run.
   The second cancels them, and the third ends the process (`signals.py`).
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

import trio

from wspool.core.plain import plain
from wspool.core.statistics import PoolStatistics
from wspool.rollout.doubt import Ceiling, nobody_can_tell
from wspool.rollout.holding import Held
from wspool.rollout.limits import Limits
from wspool.rollout.progress import Progress, show_progress
from wspool.rollout.samples import Samples, take_samples
from wspool.rollout.signals import heard_signals
from wspool.rollout.standing import Standing
from wspool.rollout.summary import Meter, Summary
from wspool.rollout.tally import Tally
from wspool.rollout.tasks import Result, Task

__all__ = ["Place", "run_batch"]

#: Seconds between two looks at whether it is unclear whose trouble refusals are.
_LOOK: Final = 5.0
#: Characters of why no connection can be made, in a line of progress.
_REASON: Final = 200
#: Seconds between two looks at who need not end, in a run that finishes what runs.
_AGAIN: Final = 0.25


class Place(Protocol):
    """Where tasks are done: one pool (`Holder`), or many. See there for what is not said here."""

    @property
    def saved_turns(self) -> int: ...

    @property
    def unknown_calls(self) -> int: ...

    @property
    def unknown(self) -> str | None: ...

    @property
    def spent(self) -> str | None: ...

    async def room(self, task: Task) -> None: ...

    async def hold(self, task: Task) -> Held: ...

    async def ended(self, result: Result) -> None: ...

    def drain(self) -> None: ...

    def statistics(self) -> PoolStatistics: ...


async def run_batch(
    place: Place,
    tasks: Sequence[Task],
    *,
    meter: Meter,
    sink: Callable[[Mapping[str, Any]], None],
    concurrency: int = 128,
    total: int | None = None,
    limits: Limits | None = None,
    tally: Tally | None = None,
    samples: Samples | None = None,
    quiet: bool = False,
) -> Summary:
    """Hold a conversation for every task.

    Args:
      place: where tasks are done.
      tasks: what is to be done.
      meter: counts turns.
      sink: takes the result line of each task as it ends.
      concurrency: tasks running at once, those waiting for a connection included.
      total: tasks of the whole batch, those with earlier results included.
      limits: what the run and each task may take.
      tally: of the scores of earlier runs, to go on with.
      samples: where it is noted how many connections there were.
      quiet: no progress.

    Returns:
      the numbers, with `problem` set if the run ended before its tasks did.

    Cancellation: running tasks are cancelled and have no result.
    """
    run = Run(place, tasks, meter=meter, sink=sink, limits=limits or Limits(), tally=tally)
    return await run.watched(concurrency, total, samples=samples, quiet=quiet)


class Run:
    """One run's state. Invariant: every started task is in flight, or counted in its standing, or owed.

    Args:
      place: where tasks are done.

    The others are those of `run_batch`.
    """

    def __init__(
        self,
        place: Place,
        tasks: Sequence[Task],
        *,
        meter: Meter,
        sink: Callable[[Mapping[str, Any]], None],
        limits: Limits,
        tally: Tally | None = None,
    ) -> None:
        self._place = place
        self._tasks = tasks
        self._meter = meter
        self._sink = sink
        self._limits = limits
        self._standing = Standing(limits, tally or Tally())
        #: The ids of the tasks that run, by the keys of their attempts.
        self._running: dict[str, str] = {}
        self._begun = False
        self._peak = 0
        self._interrupted = False
        self._drained = trio.Event()
        #: How many were put back, by what they waited for of the endpoint.
        self._waited = Counter[str]()
        self._problem: str | None = None
        self._scope = trio.CancelScope()

    async def watched(
        self, concurrency: int, total: int | None = None, *, samples: Samples | None, quiet: bool
    ) -> Summary:
        """Run the tasks, hear signals, and tell how far it is. The arguments are those of `run_batch`."""
        async with trio.open_nursery() as watchers:
            await watchers.start(self.watch_signals)
            watchers.start_soon(self._watch_clock)
            watchers.start_soon(self._go_on_draining)
            limiter = trio.CapacityLimiter(concurrency)
            watchers.start_soon(self._watch_refusals, limiter)
            if samples is not None:
                watchers.start_soon(take_samples, self.progress, samples)
            if not quiet:
                watchers.start_soon(show_progress, self.progress, sys.stderr)
            try:
                await self._all(limiter)
            finally:
                watchers.cancel_scope.cancel()
        return self.summary(len(self._tasks) if total is None else total)

    async def watch_signals(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with heard_signals(self._heard):
            task_status.started()
            await trio.sleep_forever()

    def _heard(self) -> None:
        if self._interrupted:
            self._scope.cancel()
        self._interrupted = True
        self.drain()

    async def _watch_clock(self) -> None:
        if self._limits.max_seconds is not None:
            await trio.sleep(self._limits.max_seconds)
            self.drain(f"{self._limits.max_seconds:g} s have passed")

    async def _watch_refusals(self, limiter: trio.CapacityLimiter) -> None:
        ceiling = Ceiling(int(limiter.total_tokens))
        while True:
            await trio.sleep(_LOOK)
            pool, left = self._place.statistics(), set(self._running.values())
            limiter.total_tokens = ceiling.now(pool.unclear, len(self._running))
            all_wait = self._begun and pool.suspects >= len(self._running) and pool.held_for
            if all_wait and nobody_can_tell(pool.unclear, len(left)):
                which = ", ".join(sorted(left))
                self.stop(
                    f"for {pool.unclear / 60:.0f} minutes the endpoint has refused all that is left (task "
                    f"{which}: {pool.held_for}), and nobody can tell if that is its trouble or theirs: the "
                    "same command asks again, and with --max-wait SECONDS they fail after so many"
                )

    def drain(self, problem: str | None = None) -> None:
        """Begin no other task, put those back that need not end, and let the others finish."""
        self._problem = self._problem or problem
        self._drained.set()
        self._place.drain()

    async def _go_on_draining(self) -> None:
        await self._drained.wait()
        while True:
            await trio.sleep(_AGAIN)
            self._place.drain()

    def stop(self, problem: str) -> None:
        """Cancel the tasks that run: they are owed. Never waits."""
        self._problem = self._problem or problem
        self._drained.set()
        self._scope.cancel()

    async def _all(self, limiter: trio.CapacityLimiter) -> None:
        with self._scope:
            async with trio.open_nursery() as nursery:
                for task in self._tasks:
                    await limiter.acquire_on_behalf_of(task.key)
                    await self._place.room(task)
                    if (spent := self._place.spent) is not None:
                        self.drain(spent)
                    if self._drained.is_set():
                        break
                    nursery.start_soon(self._one, task, limiter)
                self._begun = True

    async def _one(self, task: Task, limiter: trio.CapacityLimiter) -> None:
        self._running[task.key] = task.id
        try:
            held = await self._place.hold(task)
            if held.result is not None:
                await self._take(task, held.result)
            if held.waited is not None:
                self._waited[held.waited] += 1
            if held.stop is not None:
                self.stop(held.stop)
            elif held.drain is not None:
                self.drain(held.drain)
        except OSError as error:
            self.stop(f"a result could not be written: {error}")
        finally:
            del self._running[task.key]
            self._peak = max(self._peak, self._place.statistics().size)
            limiter.release_on_behalf_of(task.key)

    async def _take(self, task: Task, result: Result) -> None:
        self._sink(result.as_line())
        problem = self._standing.add(result)
        if problem is not None:
            self.drain(problem)
        await self._place.ended(result)

    def progress(self) -> Progress:
        """How far it is."""
        return self._standing.progress(
            self._place.statistics(),
            total=len(self._tasks),
            in_flight=len(self._running),
            turns=self._meter.turns,
            draining=self._drained.is_set(),
            outage=plain(self._meter.outage, _REASON),
        )

    def summary(self, total: int) -> Summary:
        """What it came to, of a batch of so many tasks."""
        owed = len(self._tasks) - self._standing.ended
        return self._standing.summary(
            self._meter,
            self._place.statistics(),
            tasks=total,
            owed=owed,
            skipped=total - len(self._tasks),
            saved_turns=self._place.saved_turns,
            unknown_calls=self._place.unknown_calls,
            peak_connections=self._peak,
            interrupted=self._interrupted,
            problem=("; ".join(self._problems()) or None) if owed else None,
        )

    def _problems(self) -> Iterator[str]:
        if problem := self._problem or self._place.unknown:
            yield problem
        for what, count in self._waited.most_common():
            yield f"{count} of those that ran waited for {what} and were put back"
