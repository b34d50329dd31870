"""What an actor has: one pool, at the pace of all and within the budget of all."""

import math
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import attrs
import trio

import wspool
from wspool.core.sending.allowance import Stated
from wspool.core.sending.pace import Pace, Ticket
from wspool.core.usage import Budget, Usage
from wspool.pool.open import at_pace
from wspool.rollout.holding import Held, Holder
from wspool.rollout.limits import Limits
from wspool.rollout.method import Method
from wspool.rollout.summary import Meter
from wspool.rollout.tasks import Task
from wspool.rollout.team.exchange import Exchange, Heard, Orders, Report

__all__ = ["Tokens", "divided", "open_part"]

#: Seconds after which an actor reports that has nothing to say, and hears what there is.
_HEARTBEAT: Final = 0.25


def divided(policy: wspool.PoolPolicy, actors: int) -> Sequence[wspool.PoolPolicy]:
    """The policies of the pools of so many actors, which are *policy* together: `max_size` is divided."""
    most, more = divmod(policy.max_size, max(actors, 1))  # none, where there is nothing to do
    return [attrs.evolve(policy, max_size=most + (part < more)) for part in range(actors)]


@asynccontextmanager
async def open_part(
    endpoint: Mapping[str, Any], policy: wspool.PoolPolicy, method: Method, limits: Limits
) -> AsyncGenerator[Exchange, None]:
    """Open the pool of an actor, and close it at the end of the block.

    Args:
      endpoint: what to open it with. The key may be in it.
      policy: of the pool.
      method: how tasks are done.
      limits: of the run.

    Yields what takes orders and returns a report: at once if there is something to say, else a little later.
    It returns None if there will be no other one, because that was the order, or something has crashed: that
    comes out of the block.
    """
    meter, tokens, own, budget = Meter(), Tokens(), Budget(), limits.of_run()
    budget.within = own
    ended: dict[str, Held] = {}
    manager = at_pace(wspool.open_pool(**endpoint, policy=policy, instrument=meter), tokens)
    async with manager as pool, trio.open_nursery() as nursery:
        holder = Holder(pool, method, meter=meter, limits=limits, budget=budget)

        async def hold(task: Task) -> None:
            await holder.room(task)
            ended[task.key] = await holder.hold(task)
            tokens.changed.set()

        async def exchange(orders: Orders) -> Report | None:
            budget.spent = orders.spent + own.spent
            tokens.take(orders)
            if orders.drain:
                holder.drain()
            if orders.end:
                nursery.cancel_scope.cancel()
                return None
            for task in orders.tasks:
                nursery.start_soon(hold, task)
            await trio.sleep(orders.pause)
            with trio.move_on_after(orders.pause if tokens.wanted > 0 else _HEARTBEAT):
                await tokens.changed.wait()
            if nursery.cancel_scope.cancel_called:
                return None
            tokens.changed = trio.Event()
            used, own.spent = own.spent, Usage()
            done = {key: ended.pop(key) for key in list(ended)}
            return Report(
                ended=done,
                counted=meter.take(),
                turns=tokens.tell(),
                used=used,
                pool=pool.statistics(),
                in_line=max(0, tokens.wanted),
            )

        yield exchange


class Tokens(Pace):
    """A pool's part of a pace that is kept elsewhere: a turn begins with a token that came from there.

    Attributes:
      changed: set when there is something to tell.
      spare: tokens that no turn has begun with.
    """

    def __init__(self) -> None:
        super().__init__()
        self.changed = trio.Event()
        self.changed.set()  # it is there
        self.spare: deque[int] = deque()
        self._heard: list[Heard] = []

    @property
    def wanted(self) -> int:
        """Tokens that are of use here, beyond those that there are; fewer than none if there are too many."""
        return (self.line.in_line if self.line is not None else 0) - len(self.spare)

    def take(self, orders: Orders) -> None:
        """So it is elsewhere, and so many turns may begin."""
        self.latest = orders.latest
        self.held_until = trio.current_time() + orders.held if orders.held else -math.inf
        self.spare.extend(orders.tokens)
        if orders.tokens and self.line is not None:
            self.line.pace_moved()

    def tell(self) -> Sequence[Heard]:
        """What is to be told elsewhere. Tokens that are of no use here are given back."""
        for _ in range(min(-self.wanted, len(self.spare))):
            self._heard.append(("ended", self.spare.popleft(), {}))
        heard, self._heard = self._heard, []
        return heard

    def wait(self, now: float) -> float:
        """See `Pace.wait`: without a token it is infinite."""
        if not self.spare:
            self.changed.set()
        return 0.0 if self.spare else math.inf

    def begin(self, now: float) -> Ticket:
        """See `Pace.begin`."""
        ticket = Ticket(self.spare.popleft(), tries=False)
        self._at_work[ticket] = None
        return ticket

    def told(self, stated: Iterable[Stated], now: float, *, answering: bool) -> None:
        """See `Pace.told`."""
        self._hear("told", 0, stated=list(stated), answering=answering)

    def used(self, tokens: float) -> None:
        """See `Pace.used`."""
        self._hear("used", 0, tokens=tokens)

    def away(self) -> None:
        """See `Pace.away`."""
        self._hear("away", 0)

    def answered(self, ticket: Ticket) -> None:
        """See `Pace.answered`."""
        if ticket in self._at_work and not ticket.answered:
            ticket.answered = True
            self._hear("answered", ticket.number)

    def ended(self, ticket: Ticket) -> None:
        """See `Pace.ended`."""
        if self._at_work.pop(ticket, ticket) is None:
            self._hear("ended", ticket.number)

    def refused(self, ticket: Ticket, now: float, **more: Any) -> None:
        """See `Pace.refused`."""
        if self._at_work.pop(ticket, ticket) is None:
            self._hear("refused", ticket.number, **more)

    def _hear(self, what: Any, token: int, **more: Any) -> None:
        self._heard.append((what, token, more))
        self.changed.set()
