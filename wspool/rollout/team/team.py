"""The team: the place of a run that is many actors (`wspool.rollout.runner.Place`).

What the driver has to say to an actor, and the actor to it, goes in one call at a time: tasks and results,
tokens and what became of them, what was spent. So all that they share is here.

1. A task goes to the actor that has fewest. What an actor had when it died another begins again, once: what
   kills a second one stays owed. In the place of one that died comes another, unless too many do.
2. A turn begins with a token, and tokens are tickets of one pace (`wspool.core.sending.pace`), which hears
   every refusal. An actor gets as many as it has turns in line; while others wait as well, no more than its
   part of the room. Those of an actor that died have ended.
"""

import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, TypeAlias

import attrs
import trio

from wspool.core.sending.pace import Pace, Ticket
from wspool.core.statistics import PoolStatistics
from wspool.core.usage import Usage
from wspool.rollout.holding import Held
from wspool.rollout.summary import Meter
from wspool.rollout.tasks import Result, Task
from wspool.rollout.team.exchange import Orders, Report

__all__ = ["NOTHING", "Actor", "ActorLostError", "Begin", "Team", "open_team"]

#: Seconds between two reports of an actor, and how many more for each actor that there is: one process makes
#: some thousand calls a second.
_PAUSE: Final = 0.01
_PAUSE_EACH: Final = 0.001
#: Actors that may die, for each that there is: more is no accident.
_DEATHS: Final = 3

#: No pool at all: what has no default is a number, or no for an answer, but for `closed`. mypy sees no names.
NOTHING: Final = PoolStatistics(
    **{field.name: 0 for field in attrs.fields(PoolStatistics) if field.default is attrs.NOTHING}  # type: ignore[arg-type]
    | {"closed": {}}
)
_COUNTS: Final = [name for name, value in attrs.asdict(NOTHING).items() if isinstance(value, int)]


class ActorLostError(Exception):
    """An actor has died."""


#: Begins an actor for this part of the run, and ends it with the block. What that has gives the actor orders
#: and returns its report. It raises ActorLostError; and RuntimeError: the actor cannot work.
Begin: TypeAlias = Callable[[int], AbstractAsyncContextManager[Callable[[Orders], Awaitable[Report]]]]


@asynccontextmanager
async def open_team(
    begin: Begin, *, actors: int, max_size: int, meter: Meter
) -> AsyncGenerator["Team", None]:
    """Begin so many actors, and end them with the block.

    Args:
      begin: begins one.
      actors: how many.
      max_size: of all pools.
      meter: counts turns.
    """
    team = Team(actors, max_size, meter)
    async with trio.open_nursery() as nursery:
        for part in range(actors):
            nursery.start_soon(team.keep, part, begin)
        yield team
        nursery.cancel_scope.cancel()


@attrs.define(eq=False)
class _Errand:
    """A task that is to be done; how many actors were told so; what came of it, None if they are lost."""

    task: Task
    begun: int = 0
    held: Held | None = None
    ended: trio.Event = attrs.field(factory=trio.Event)


@attrs.define(eq=False)
class Actor:
    """What an actor has, and what it was not told of yet."""

    errands: dict[str, _Errand] = attrs.field(factory=dict[str, _Errand])
    untold: list[_Errand] = attrs.field(factory=list[_Errand])
    tickets: dict[int, Ticket] = attrs.field(factory=dict[int, Ticket])
    in_line: int = 0
    pool: PoolStatistics = NOTHING


class Team:
    """See the module, and `Place`."""

    saved_turns = unknown_calls = 0
    unknown = None

    def __init__(self, actors: int, max_size: int, meter: Meter) -> None:
        self.pace = Pace()
        #: Why no task may be begun any more, or None.
        self.spent: str | None = None
        self.actors = {part: Actor() for part in range(actors)}
        self._most, self._deaths = _DEATHS * actors, 0
        self._max_size, self._meter = max_size, meter
        self._draining = False
        self._used = Usage()
        self._dialed = 0

    async def room(self, task: Task) -> None:
        await trio.lowlevel.checkpoint()

    async def hold(self, task: Task) -> Held:
        errand = _Errand(task)
        while errand.begun < 2 and not self._over:
            actor = min(self.actors.values(), key=lambda each: len(each.errands))
            errand.ended = trio.Event()
            actor.errands[task.key] = errand
            actor.untold.append(errand)
            try:
                await errand.ended.wait()
            finally:
                del actor.errands[task.key]
            if errand.held is not None:
                return errand.held
        return Held(drain=self.spent)

    async def ended(self, result: Result) -> None:
        await trio.lowlevel.checkpoint()

    def drain(self) -> None:
        self._draining = True
        for actor in self.actors.values():
            for errand in actor.untold:  # it may be long until there is an actor
                errand.ended.set()
            actor.untold.clear()

    @property
    def _over(self) -> bool:
        return self._draining or self.spent is not None

    def statistics(self) -> PoolStatistics:
        """All pools as if they were one."""
        pools = [actor.pool for actor in self.actors.values()]
        sums: dict[str, Any] = {name: sum(getattr(pool, name) for pool in pools) for name in _COUNTS}
        held = self._held()
        words = next((pool.held_for for pool in pools if pool.held_for), "a rate limit")
        more = {"max_size": self._max_size, "dialed": sums["dialed"] + self._dialed}
        return attrs.evolve(
            NOTHING,
            **{**sums, **more},
            unclear=self.pace.unclear(trio.current_time()),
            held=held,
            held_for=words if held else "",
        )

    async def keep(self, part: int, begin: Begin) -> None:
        """Keep an actor for this *part* of the run, until it shall end."""
        while part in self.actors:
            try:
                async with begin(part) as exchange:
                    await exchange(Orders())  # if it dies by now, no task has killed it
                    while True:
                        actor = self.actors[part]
                        self.hear(actor, await exchange(self.orders(actor)))
            except ActorLostError as death:
                self._deaths += 1
                if self._deaths > self._most:
                    self._end(f"{self._deaths} actors have died, the last because: {death}")
            except RuntimeError as error:
                self._end(f"an actor cannot work: {error}")
            self.lost(part)

    def orders(self, actor: Actor) -> Orders:
        """What *actor* is told next."""
        tasks = [errand.task for errand in actor.untold]
        for errand in actor.untold:
            errand.begun += 1
        actor.untold.clear()
        return Orders(
            tasks=tasks,
            tokens=self._grant(actor, trio.current_time()),
            latest=self.pace.latest,
            spent=self._used,
            held=self._held(),
            pause=max(_PAUSE, _PAUSE_EACH * len(self.actors)),
            drain=self._draining,
        )

    def _grant(self, mine: Actor, now: float) -> Sequence[int]:
        busy = [actor for actor in self.actors.values() if actor.tickets or actor.in_line]
        others = any(actor.in_line > 0 for actor in busy if actor is not mine)
        most = self.pace.room / len(busy) if others else math.inf
        tokens: list[int] = []
        while len(tokens) < mine.in_line and len(mine.tickets) < most and self.pace.wait(now) <= 0:
            ticket = self.pace.begin(now)
            mine.tickets[ticket.number] = ticket
            tokens.append(ticket.number)
        mine.in_line -= len(tokens)
        return tokens

    def hear(self, actor: Actor, report: Report) -> None:
        """Take what *actor* says."""
        now = trio.current_time()
        for what, token, more in report.turns:
            match what:
                case "told":
                    self.pace.told(now=now, **more)
                case "refused":
                    self.pace.refused(actor.tickets.pop(token), now, **more)
                case "ended":
                    self.pace.ended(actor.tickets.pop(token))
                case "answered":
                    self.pace.answered(actor.tickets[token])
                case "used":
                    self.pace.used(**more)
                case _:
                    self.pace.away()
        actor.in_line, actor.pool = report.in_line, report.pool
        self._used += report.used
        self._meter.add(report.counted)
        for key, held in report.ended.items():
            if (errand := actor.errands.get(key)) is not None:  # else it was cancelled
                errand.held = held
                errand.ended.set()

    def lost(self, part: int) -> None:
        """The actor of this *part* is no more. Another one may take its place."""
        actor = self.actors.pop(part)
        for ticket in actor.tickets.values():
            self.pace.ended(ticket)
        for errand in actor.errands.values():
            errand.ended.set()
        self._dialed += actor.pool.dialed
        if not self._over:
            self.actors[part] = Actor()

    def _end(self, why: str) -> None:
        """No task may be begun any more: the first reason is the one, others end meanwhile for theirs."""
        self.spent = self.spent or why

    def _held(self) -> float:
        until = max(self.pace.held_until, self.pace.allowance.held_until)
        return max(0.0, until - trio.current_time())
