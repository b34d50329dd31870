"""The team: the place of a run that is many actors (`wspool.rollout.runner.Place`).

A task goes to the actor that has fewest. What an actor had when it died another begins again, once: what
kills a second one stays owed. In the place of one that died comes another, unless too many do.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import attrs
import trio

from wspool.core.statistics import PoolStatistics
from wspool.ray.sharing import NOTHING
from wspool.rollout.holding import Held
from wspool.rollout.runner import Run
from wspool.rollout.samples import Samples
from wspool.rollout.summary import Meter, Summary
from wspool.rollout.tasks import Result, Task

__all__ = ["ActorLostError", "Cluster", "lead"]

#: Seconds between two looks at all pools.
LOOK: Final = 0.1
#: Actors that may die, for each that there is: more is no accident.
_DEATHS: Final = 3


class ActorLostError(Exception):
    """An actor has died."""


class Cluster(Protocol):
    """Where actors are. Each has a number, which no other one has had."""

    def begin(self, number: int, part: int) -> None:
        """Begin an actor, for this *part* of the run. Never waits."""
        ...

    async def opened(self, number: int) -> None:
        """Wait until its pool is open. Raises what `hold` raises."""
        ...

    async def hold(self, number: int, task: Task) -> tuple[Held, Mapping[str, Any]]:
        """See `Part.hold`. A checkpoint. Raises ActorLostError; and RuntimeError: it cannot work."""
        ...

    def drain(self, number: int) -> None:
        """See `Holder.drain`. Never waits."""
        ...

    def lost(self, number: int) -> None:
        """It has died. Never waits."""
        ...

    async def look(self) -> PoolStatistics:
        """All pools as if they were one. A checkpoint. Raises ConnectionError: what they share is lost."""
        ...


async def lead(
    cluster: Cluster,
    tasks: Sequence[Task],
    *,
    actors: int,
    max_size: int,
    concurrency: int,
    total: int | None = None,
    samples: Samples | None = None,
    quiet: bool = False,
    **run: Any,
) -> Summary:
    """Have *tasks* done by so many actors. The arguments are those of `run_batch`; *max_size* of all pools.

    A checkpoint. Cancelling it leaves what runs without a result.
    """
    meter = Meter()
    team = _Team(cluster, actors, max_size, meter)
    leading = Run(team, tasks, meter=meter, **run)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(team.look, leading.stop)
        summary = await leading.watched(concurrency, total, samples=samples, quiet=quiet)
        nursery.cancel_scope.cancel()
    return summary


class _Team:
    saved_turns = unknown_calls = 0
    unknown = spent = None

    def __init__(self, cluster: Cluster, actors: int, max_size: int, meter: Meter) -> None:
        self._cluster, self._meter = cluster, meter
        self._pools = attrs.evolve(NOTHING, max_size=max_size)
        self._draining = False
        #: How many tasks each actor has, by its number; and the parts of the run.
        self._tasks: Counter[int] = Counter()
        self._parts = dict(enumerate(range(actors)))
        self._opened: set[int] = set()
        self._begun = self._count = actors
        for number, part in self._parts.items():
            cluster.begin(number, part)

    async def room(self, task: Task) -> None:
        await trio.lowlevel.checkpoint()

    async def hold(self, task: Task) -> Held:
        begun = 0
        while self._parts and begun < 2:
            number = min(self._parts, key=self._tasks.__getitem__)
            self._tasks[number] += 1
            try:
                if number not in self._opened:  # one that dies before that was not killed by the task
                    await self._cluster.opened(number)
                    self._opened.add(number)
                begun += 1
                held, counted = await self._cluster.hold(number, task)
            except ActorLostError as death:
                if (problem := self._lost(number, death)) is not None or self._draining:
                    return Held(drain=problem)
            except RuntimeError as error:
                return Held(drain=f"an actor cannot work: {error}")
            else:
                self._meter.add(counted)
                return held
            finally:
                self._tasks[number] -= 1
        return Held()

    def _lost(self, number: int, death: ActorLostError) -> str | None:
        """Why there shall not be another one, or None."""
        if number in self._parts:  # each of its tasks says it
            part = self._parts.pop(number)
            self._cluster.lost(number)
            deaths = self._begun - self._count + 1
            if deaths > _DEATHS * self._count:
                return f"{deaths} actors have died, the last because: {death}"
            if not self._draining:
                self._cluster.begin(self._begun, part)
                self._parts[self._begun] = part
                self._begun += 1
        return None

    async def ended(self, result: Result) -> None:
        await trio.lowlevel.checkpoint()

    def drain(self) -> None:
        self._draining = True
        for number in self._parts:
            self._cluster.drain(number)

    def statistics(self) -> PoolStatistics:
        return self._pools

    async def look(self, stop: Callable[[str], None]) -> None:
        """See how the pools are, for ever."""
        try:
            while True:
                now = await self._cluster.look()
                self._pools = attrs.evolve(now, max_size=self._pools.max_size)
                await trio.sleep(LOOK)
        except ConnectionError as error:
            stop(str(error))
