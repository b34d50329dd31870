"""What the driver of a run and an actor tell each other: orders there, and a report back, in one call."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import attrs

from wspool.core.statistics import PoolStatistics
from wspool.core.usage import Usage
from wspool.rollout.holding import Held
from wspool.rollout.tasks import Task

__all__ = ["Exchange", "Heard", "Orders", "Report"]

#: What a pool has to say to the pace: the name of a method of `Pace`; the token of the turn that it is about,
#: 0 for none; and what else the method takes, but for the time.
Heard: TypeAlias = tuple[
    Literal["answered", "away", "ended", "refused", "told", "used"], int, Mapping[str, Any]
]


@attrs.frozen(kw_only=True)
class Orders:
    """What an actor gets.

    Attributes:
      tasks: to be done.
      tokens: so many turns may begin.
      latest: the latest one that was answered anywhere.
      spent: what all actors have spent.
      held: seconds for which the endpoint holds everybody.
      pause: seconds before the next report at least.
      drain: whether to finish what runs (`Holder.drain`).
      end: whether to close the pool.
    """

    tasks: Sequence[Task] = ()
    tokens: Sequence[int] = ()
    latest: int = 0
    spent: Usage = attrs.field(factory=Usage)
    held: float = 0.0
    pause: float = 0.0
    drain: bool = False
    end: bool = False


@attrs.frozen(kw_only=True)
class Report:
    """What an actor says since its last one.

    Attributes:
      ended: what came of tasks, by their keys.
      counted: see `Meter.take`.
      turns: what became of its turns.
      used: what they have used.
      pool: how its pool is.
      in_line: turns that could begin at once, if there were tokens.
    """

    ended: Mapping[str, Held]
    counted: Mapping[str, Any]
    turns: Sequence[Heard]
    used: Usage
    pool: PoolStatistics
    in_line: int


#: Gives an actor orders and returns its report, None if it has ended.
Exchange: TypeAlias = Callable[[Orders], Awaitable[Report | None]]
