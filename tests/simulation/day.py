"""Day: a pool core alone, driven through virtual hours by a heap of what happens next.

Dials take a moment and always succeed, goodbyes take a moment, pings are off; on request the server announces
the end of each connection. There is nothing else in it, so a day of a hundred connections takes a second.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable

from wspool.core.commands import Command, ConnectionId, Dial, Expiring, Grant, HangUp, LeaseId, WaiterId
from wspool.core.lending.pool import PoolCore
from wspool.core.policy import OPENAI, PoolPolicy

__all__ = ["Day"]


class Day:
    """One pool core, its clock, and what was seen.

    Attributes:
        core: it.
        now: seconds.
        retired: when connections were retired.
        dialed: when dials began.
        least_idle: fewest lanes that could be granted at once, since `watch` was set.
        largest: most connections since then.

    Args:
        notice: seconds after which the end of each connection is announced, None for never.
    """

    def __init__(
        self, policy: PoolPolicy, seed: int, *, dial: float = 0.4, notice: float | None = None
    ) -> None:
        self.core = PoolCore(policy, OPENAI)
        self.now = 0.0
        self.retired: list[float] = []
        self.dialed: list[float] = []
        self.watch = False
        self.least_idle = math.inf
        self.largest = 0
        self.choice = random.Random(seed)
        self.leases: list[LeaseId] = []
        self._dial, self._notice = dial, notice
        self._order = itertools.count()
        self._coming: list[tuple[float, int, Callable[[], list[Command]]]] = []
        self._waiters = itertools.count(1)
        self._retirements = 0
        self._perform(self.core.start(0.0))

    def after(self, delay: float, what: Callable[[], list[Command]]) -> None:
        """Let *what* happen *delay* seconds from now."""
        heapq.heappush(self._coming, (self.now + delay, next(self._order), what))

    def acquire(self) -> list[Command]:
        """One more waiter."""
        return self.core.acquire(WaiterId(next(self._waiters)), self.now)

    def run(self, until: float) -> None:
        """Live until then."""
        while True:
            deadline = self.core.next_deadline()
            coming = self._coming[0][0] if self._coming else math.inf
            if min(deadline, coming) > until:
                self.now = until
                return
            self.now = max(self.now, min(deadline, coming))
            if coming <= deadline:
                self._perform(heapq.heappop(self._coming)[2]())
            else:
                self._perform(self.core.tick(self.now))

    def _perform(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Dial(connection=number):
                    self.dialed.append(self.now)
                    self.after(self._dial * (1 + self.choice.random()), self._connected(number))
                case HangUp(connection=number):
                    self.after(0.05, self._gone(number))
                case Grant(lease=lease):
                    self.leases.append(lease)
                case Expiring():
                    pass
                case _:
                    raise AssertionError(f"not in such a quiet life: {command}")
        statistics = self.core.statistics()
        self.retired += [self.now] * (statistics.retirements - self._retirements)
        self._retirements = statistics.retirements
        if self.watch:
            self.least_idle = min(self.least_idle, statistics.idle)
            self.largest = max(self.largest, statistics.size)

    def _connected(self, number: ConnectionId) -> Callable[[], list[Command]]:
        def connected() -> list[Command]:
            if self._notice is not None:
                self.after(self._notice, lambda: self.core.retire(number, self.now))
            return self.core.connected(number, self.now, jitter=self.choice.random())

        return connected

    def _gone(self, number: ConnectionId) -> Callable[[], list[Command]]:
        return lambda: self.core.gone(number, self.now)
