"""Whole: the inputs that are about a pool as a whole: its begin, its size, its end, and what holds it back.

The rules are those of `wspool.core.lending.pool`, which has the other inputs. What concerns all connections
at once (`clear`, `drain`, `close`) costs O(n).
"""

from __future__ import annotations

import math

import attrs

from wspool.core.commands import CloseReason, Command, LifetimeLearned, RefuseReason
from wspool.core.lending.allocation import Allocation
from wspool.core.lending.endings import Endings
from wspool.core.lending.lanes import Connection
from wspool.core.lending.leases import Leases
from wspool.core.lending.lives import Lives
from wspool.core.lending.roster import Roster
from wspool.core.lending.tally import Tally
from wspool.core.outage import Outage
from wspool.core.policy import PoolPolicy, Provider
from wspool.core.states import ConnectionState, Naming

__all__ = ["Whole"]


class Whole:
    """The parts of one pool, and what concerns all of it. See `PoolCore`."""

    def __init__(self, policy: PoolPolicy, provider: Provider, *, warm_up: bool = False) -> None:
        self.policy = policy
        self.provider = provider
        self.schedule = policy.schedule(provider)
        lanes = min(policy.lanes, provider.lanes)
        self.naming = Naming.TRIAL if lanes > 1 else Naming.NONE
        self._warm_up = warm_up and provider.warm_up
        self._held_until = -math.inf

        self._tally = tally = Tally()
        self._roster = roster = Roster(count_closing=policy.count_closing)
        self._outage = Outage(policy.give_up_after, policy.dial_concurrency)
        self._endings = endings = Endings(self._outage)
        self._lives = Lives(policy, self.schedule, roster, tally, endings)
        self._allocation = Allocation(policy, lanes, roster, self._lives, self._outage, endings, tally)
        self._leases = Leases(policy.on_cancel, roster, self._lives, self._allocation, endings, tally)

    def start(self, now: float) -> list[Command]:
        """Begin: dial what `min_idle` asks for."""
        return self._allocation.settle(now, [])

    def pause(self, now: float) -> list[Command]:
        """Grant nothing until `resume`; waiters queue, leases go on. Idempotent."""
        self._allocation.paused = True
        return self._allocation.settle(now, [])

    def resume(self, now: float) -> list[Command]:
        """Grant again. Idempotent."""
        self._allocation.paused = False
        return self._allocation.settle(now, [])

    def hold(self, now: float, seconds: float) -> list[Command]:
        """The server asked this endpoint's clients to wait: conversations begin no turn before."""
        self._held_until = max(self._held_until, now + seconds)
        return []

    def held_until(self) -> float:
        """Return when a turn may start again, as far as the server asked to wait."""
        return self._held_until

    def retry_now(self, now: float) -> list[Command]:
        """Dial at once although the last dial failed: the caller knows that the endpoint is back."""
        self._outage.retry_now(now)
        self._held_until = -math.inf
        return self._allocation.settle(now, [])

    def resize(
        self, now: float, *, max_size: int | None = None, min_idle: int | None = None
    ) -> list[Command]:
        """Change the size of the pool.

        Growth takes effect at once. Shrinking closes dials and spare first; what is leased goes
        when it is given back, and until then nothing new is dialled.
        """
        self.policy = attrs.evolve(
            self.policy,
            max_size=self.policy.max_size if max_size is None else max_size,
            min_idle=self.policy.min_idle if min_idle is None else min_idle,
        )
        self._lives.resize(self.policy)
        commands: list[Command] = []
        self._allocation.resize(self.policy, commands)
        return self._allocation.settle(now, commands)

    def clear(self, now: float, *, interrupt: bool = False) -> list[Command]:
        """Trust no connection that exists now: no lane of it is granted again.

        What is free closes at once, what is leased when it is given back. Dials start anew.

        Args:
            interrupt: True to close what is leased at once as well.
        """
        commands: list[Command] = []
        for connection in [*self._roster.connections.values()]:
            self._lives.clear(connection, now, commands, interrupt=interrupt)
        return self._allocation.settle(now, commands)

    def drain(self, now: float) -> list[Command]:
        """Replace every connection, each as soon as its replacement is there."""
        commands: list[Command] = []
        for connection in [*self._roster.connections.values()]:
            if connection.state is ConnectionState.OPEN:
                self._lives.retire(connection, commands)
        return self._allocation.settle(now, commands)

    def close(self, now: float) -> list[Command]:
        """Refuse every waiter, close what is free, let leases finish. Idempotent."""
        commands: list[Command] = []
        if self._allocation.closing:
            return commands
        self._allocation.closing = True
        self._allocation.refuse_all(RefuseReason.CLOSED, commands)  # mark: refuse: closed while in line
        for connection in [*self._roster.connections.values()]:
            if connection.state is not ConnectionState.CLOSING and not connection.leased:
                self._lives.hang_up(connection, CloseReason.POOL_CLOSED, commands)
        return commands

    def force(self, now: float) -> list[Command]:
        """Close everything that is still there, turn in flight or not."""
        commands = self.close(now)
        for connection in [*self._roster.connections.values()]:
            if connection.state is not ConnectionState.CLOSING:
                self._lives.hang_up(connection, CloseReason.POOL_CLOSED, commands, polite=False)
        return commands

    # -- what all connections have in common --------------------------------------------------

    def _learn(self, connection: Connection, now: float, commands: list[Command]) -> None:
        """The server ends a usable connection, at an age that may be that of all."""
        if self._endings.ended(connection, now, self.schedule.lifetime, self._roster.oldest()):
            self._replan(self._endings.ages.learned, commands)

    def _replan(self, lifetime: float | None, commands: list[Command]) -> None:
        """Plan with a *lifetime* that was learnt, or with the one that was given."""
        provider = self.provider
        if lifetime is not None:
            provider = attrs.evolve(provider, max_lifetime=lifetime)
        self.schedule = self.policy.schedule(provider)
        self._lives.replan(self.schedule, learned=lifetime is not None)
        for waiter in self._allocation.waiters.values():  # no connection has more than that
            waiter.min_remaining = min(waiter.min_remaining, self.schedule.retire_from)
        commands.append(LifetimeLearned(lifetime))
