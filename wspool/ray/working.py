"""What an actor has: one pool, at the pace of all and within the budget of all.

What its turns do is told to `Sharing`, and what they may do comes back, in one call at a time for all.
"""

import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import attrs
import trio

import wspool
from wspool.core.usage import Budget, Usage
from wspool.pool.open import at_pace
from wspool.ray.sharing import Orders, Report, Tokens
from wspool.rollout.holding import Held, Holder
from wspool.rollout.limits import Limits
from wspool.rollout.method import Method
from wspool.rollout.summary import Meter
from wspool.rollout.tasks import Task

__all__ = ["Job", "Part", "open_part"]

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
    """

    endpoint: Mapping[str, Any] = attrs.field(repr=False)
    policy: wspool.PoolPolicy
    method: Method
    limits: Limits


class Part:
    """What one actor does of the run. Made by `open_part`."""

    def __init__(self, holder: Holder, meter: Meter) -> None:
        self._holder, self._meter = holder, meter
        #: See `Holder.drain`.
        self.drain = holder.drain

    async def hold(self, task: Task) -> tuple[Held, Mapping[str, Any]]:
        """See `Holder.room` and `Holder.hold`. Returns also what was counted since then (`Meter.take`)."""
        await self._holder.room(task)
        return await self._holder.hold(task), self._meter.take()


@asynccontextmanager
async def open_part(job: Job, exchange: Callable[[Report], Awaitable[Orders]]) -> AsyncGenerator[Part, None]:
    """Open the pool of an actor, and close it at the end of the block.

    Args:
      job: what it does.
      exchange: see `Sharing.exchange`. It may raise ConnectionError: what all share is lost.
    """
    meter, tokens, own = Meter(), Tokens(), Budget()
    budget = job.limits.of_run()
    budget.within = own
    manager = at_pace(wspool.open_pool(**job.endpoint, policy=job.policy, instrument=meter), tokens)
    async with trio.open_nursery() as nursery, manager as pool:

        async def talk() -> None:
            while True:
                changed = trio.Event()
                tokens.changed = changed.set
                tokens.give_back(-tokens.wanted)
                heard, tokens.heard = tokens.heard, []
                used, own.spent = own.spent, Usage()
                in_line = max(0, tokens.wanted)
                report = Report(turns=heard, used=used, pool=pool.statistics(), in_line=in_line)
                try:
                    orders = await exchange(report)
                except ConnectionError:
                    return  # no turn begins any more; the driver finds out as well, and ends the run
                budget.spent = orders.spent + own.spent
                tokens.held_until = trio.current_time() + orders.held if orders.held else -math.inf
                tokens.latest = orders.latest
                tokens.give(orders.tokens)
                await trio.sleep(orders.pause)
                with trio.move_on_after(orders.pause if tokens.wanted > 0 else HEARTBEAT):
                    await changed.wait()

        nursery.start_soon(talk)
        yield Part(Holder(pool, job.method, meter=meter, limits=job.limits, budget=budget), meter)
        nursery.cancel_scope.cancel()
