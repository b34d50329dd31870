"""PoolCore: the inputs of one pool, and what each of them changes.

Every input is a method that takes `now`, in seconds, and returns the commands to perform, in order. Each
tells the part whose idea it is, and ends in `allocation`, which decides what follows from the state that it
leaves. When a connection retires and ends is in `lives`, what its end says about the endpoint in `endings`,
what becomes of a lane of somebody in `leases`, and the inputs that are about all of the pool in `whole`.

Rules kept here (each is an invariant of the specification machine):

* A lane has at most one lease; a connection that is closing or closed has none.
* A dial belongs to the pool: a waiter that leaves does not stop it.
* A connection has one lane until the endpoint has proved that it has more (`wspool.core.events.naming`).
* Failure is a state of the pool (`wspool.core.outage`).
* `connected`, `dial_failed` and `gone` are the one answer to a dial or a hang-up; a second one is illegal.
  All else that is reported of a connection may come late, as its tasks cannot know what was decided in
  the same moment: once it is closing or gone, `lost`, `hang_up`, `retire`, `distrust`, `widen`, `finished`
  and `ponged` change nothing of it. What they say about the endpoint still counts: that it names lanes,
  and, while the connection is closing, that its limit was met. What never was is illegal always.

Every operation costs O(1) or O(log n) in connections and waiters: counters per state, sorted deadlines, no
rescans. What concerns all at once (`clear`, `drain`, `close`, a lifetime limit met by surprise) costs O(n).
"""

from __future__ import annotations

import math

from wspool.core.commands import (
    CloseReason,
    Command,
    ConnectionId,
    Degraded,
    LaneId,
    Leaking,
    LeaseId,
    Recovered,
    RefuseReason,
    ResponseKey,
    WaiterId,
    Warm,
)
from wspool.core.failures import DialFailure
from wspool.core.lending.leases import Verdict
from wspool.core.lending.line import Waiter
from wspool.core.lending.whole import Whole
from wspool.core.states import (
    CONNECTION_TABLE,
    ConnectionInput,
    ConnectionState,
    IllegalInputError,
    LaneInput,
    LaneState,
    Naming,
    advance,
)
from wspool.core.statistics import PoolStatistics

__all__ = ["PoolCore", "Verdict"]


class PoolCore(Whole):
    """The decisions of one pool. See the module for the rules, `commands` for the answers.

    Args:
        policy: the limits.
        provider: what the endpoint can do.
        warm_up: True to ask for a warm-up request on each new connection.

    Attributes:
        policy: the limits; replaced when the pool is resized.
        provider: what the endpoint can do.
        schedule: when connections retire.
        naming: how the lanes of connections that open now are told apart.

    An input that the tables do not allow raises `IllegalInputError` and changes nothing.
    """

    # -- inputs: waiters and leases -----------------------------------------------------------

    def acquire(
        self,
        waiter: WaiterId,
        now: float,
        *,
        min_remaining: float = 0.0,
        prefer: ResponseKey | None = None,
        warm: bool = False,
    ) -> list[Command]:
        """Put *waiter* in line. The answer, now or later, is one `Grant` or `Refuse`.

        Args:
            waiter: its number, higher than all before; or the one that it had when it was granted a lease
                that it has lost since. It stands before all that have higher ones.
            min_remaining: seconds that must be left until the planned retirement of the
                connection; at most `schedule.retire_from`. Of those that have enough the oldest
                is taken; without it, the lane that is of least use to others.
            prefer: the response that it wants to go on from. The lane that holds it is granted if it is free,
                or parked: at once, past those in line, unless the first of them was passed over `MAX_SKIPS`
                times.
            warm: True if the response to the warm-up request is of use to it: then a lane that holds an
                unused one comes before all others.
        """
        allocation = self._allocation
        if waiter in allocation.waiters:
            raise IllegalInputError(f"waiter {waiter} is in line already")
        commands: list[Command] = []
        if not allocation.closing:
            allocation.join(waiter, Waiter(min_remaining, prefer, warm), now, commands)
            return allocation.settle(now, commands)
        allocation.refuse(waiter, RefuseReason.CLOSED, commands)  # mark: refuse: closed
        return commands

    def acquire_nowait(self, waiter: WaiterId, now: float) -> list[Command]:
        """Grant *waiter* a lane if one is free and nobody is in line; else there is no `Grant`.

        It never waits, never dials, never jumps the line, and takes nothing from a holder.
        """
        commands: list[Command] = []
        if not self._allocation.closing:
            self._allocation.grant_free(waiter, now, commands)
        else:
            self._allocation.refuse(waiter, RefuseReason.CLOSED, commands)  # mark: refuse: closed, at once
        return self._allocation.settle(now, commands)

    def abandon(self, waiter: WaiterId, now: float) -> list[Command]:
        """Take a cancelled waiter out of line. Dials go on: they belong to the pool."""
        if self._allocation.waiters.pop(waiter, None) is None:
            raise IllegalInputError(f"waiter {waiter} is not in line")
        self._tally.abandoned += 1
        # The next in line may be content with what the first would not take.
        return self._allocation.settle(now, [])

    def park(self, lease: LeaseId, now: float) -> list[Command]:
        """The holder is busy elsewhere: it keeps its lane unless somebody starves."""
        commands: list[Command] = []
        self._leases.park(lease, now, commands)
        return self._allocation.settle(now, commands)

    def begin(
        self, lease: LeaseId, now: float, *, movable: bool = False, history: int = 0
    ) -> tuple[Verdict, list[Command]]:
        """Start a turn on *lease*, unless it had better be on another one.

        Args:
            lease: a live lease without a turn.
            movable: True if the holder can go on elsewhere at little cost: then a connection
                past its planned retirement is left as soon as another one is ready, and as soon as the
                turn has ended the lane is parked, or given back (see `finished`).
            history: bytes that the request would have if it were sent in full.

        Raises:
            IllegalInputError: the lease is dead or has a turn already.
        """
        commands: list[Command] = []
        verdict = self._leases.begin(lease, now, commands, movable=movable, history=history)
        return verdict, self._allocation.settle(now, commands) if commands else commands

    def finished(
        self,
        connection: ConnectionId,
        lane: LaneId,
        now: float,
        *,
        completed: bool = True,
        response: ResponseKey | None = None,
        calls: bool = True,
        answered: bool = False,
    ) -> list[Command]:
        """The terminal event of whatever was on the lane has come, and the lane is clean.

        Args:
            response: what the server holds on the lane from now on, if anything.
            calls: True if that asks for tools: then whoever began the turn comes back soon. After an answer
                the lane of a holder who can go on elsewhere is free at once, and remembered. After a turn
                that was not *completed* it is parked as well: the holder decides what follows.
            completed: True for a turn that gave a response, whole or cut short by a limit of the request. A
                warm-up, a refusal or a failure does not prove that the endpoint is of use.
            answered: True if an answer is all that the connection was made for, as by HTTP: its end says
                nothing from now on, whatever the answer was.
        """
        commands: list[Command] = []
        found = self._roster.find(connection)
        if found is not None and answered:
            found.excused = True
        if found is None or not self._leases.finished(
            found, lane, now, commands, response, completed=completed, calls=calls
        ):
            return commands
        if now > found.opened_at + self._endings.ages.outlived_at:
            self._endings.ages.outlived(now - found.opened_at)
            self._replan(None, commands)
        if completed and (self._outage.doubtful or not found.proven):
            self._endings.proved(found, now, commands)
        return self._allocation.settle(now, commands)

    def over(self, response: ResponseKey, now: float) -> list[Command]:
        """The conversation that *response* is the latest of is over: nobody will come back to it."""
        # What was kept for it is spare from now on: of use to those in line, or instead of what retires.
        return self._allocation.settle(now, []) if self._roster.affinity.over(response) else []

    def give_up(self, lease: LeaseId, now: float, *, heard: bool = True, sent: bool = True) -> list[Command]:
        """The holder gave its turn up. By policy: hang up, or drain the rest of it.

        Args:
            heard: True if the server had begun to answer.
            sent: False while its request is on its way out, and would be cut in two.
        """
        commands: list[Command] = []
        self._leases.give_up(lease, now, commands, heard=heard, sent=sent)
        return self._allocation.settle(now, commands)

    def release(self, lease: LeaseId, now: float) -> list[Command]:
        """The holder leaves. A lane with a turn in flight is not clean: it is given up first.

        Releasing a dead lease does nothing, so releasing twice is harmless.
        """
        commands: list[Command] = []
        if not self._roster.is_live(lease):
            return commands
        self._leases.release(lease, now, commands)
        return self._allocation.settle(now, commands)

    # -- inputs: connections ------------------------------------------------------------------

    def connected(self, connection: ConnectionId, now: float, jitter: float) -> list[Command]:
        """A dial ended with an open connection.

        Args:
            jitter: a random number in [0, 1), to spread retirements.
        """
        found = self._roster.connection(connection)
        advance(CONNECTION_TABLE, found.state, ConnectionInput.CONNECT)  # illegal before anything else
        found.jitter = jitter
        self._lives.begin(found, self._allocation.lanes if self.naming is Naming.NAMED else 1, now)
        commands: list[Command] = []
        if (lasted := self._outage.recovered(found.episode, now)) is not None:
            commands.append(Recovered(lasted))
        found.episode = self._outage.episode
        if self._warm_up and not self._allocation.waiters:
            # Only ahead of demand: a waiter is worth more than a warm cache.
            lane = found.free[-1]
            self._roster.take(found, lane, LaneInput.WARM)
            commands.append(Warm(found.id, lane.id))
        else:
            self._lives.note_idle(found, now)
        return self._allocation.settle(now, commands)

    def dial_failed(
        self, connection: ConnectionId, now: float, failure: DialFailure, jitter: float
    ) -> list[Command]:
        """A dial ended without a connection.

        Args:
            failure: what happened.
            jitter: a random number in [0, 1), to spread the next attempt.
        """
        found = self._roster.connection(connection)
        self._lives.fail(found)
        self._tally.dial_failures += 1
        commands: list[Command] = []
        if self._outage.failed(found.episode, now, failure, jitter):
            commands.append(Degraded(failure))
        # What is permanent is told at once, even if the very next moment is a time to try again.
        told = failure.permanent and self._outage.failure is failure
        if told or self._allocation.is_hopeless(now):
            self._allocation.refuse_all(RefuseReason.DIAL_FAILED, commands)  # mark: refuse: a dial failed
        return self._allocation.settle(now, commands)

    def hang_up(
        self, connection: ConnectionId, reason: CloseReason, now: float, *, completed: bool = False
    ) -> list[Command]:
        """Close a connection that must not be used again (dirty, at its limit). Idempotent.

        *completed* as for `finished`: the last turn on it may have been, all the same.
        """
        found = self._roster.find(connection)
        commands: list[Command] = []
        if found is None or (found.state is ConnectionState.CLOSING and reason is not CloseReason.LIMIT):
            return commands
        if completed and found.usable:
            self._endings.proved(found, now, commands)
        if found.usable and reason is CloseReason.LIMIT:
            self._learn(found, now, commands)
        if found.state is not ConnectionState.CLOSING:
            self._lives.hang_up(found, reason, commands, polite=False)
        if reason is CloseReason.LIMIT:
            self._lives.meet_limit(found, now, commands)  # it is lower than ours
        return self._allocation.settle(now, commands)

    def widen(self, connection: ConnectionId, now: float) -> list[Command]:
        """An answer has named its lane: this connection has all of them, and so has each later one.

        Idempotent. Ignored once an answer has named none.
        """
        found = self._roster.find(connection)
        if self.naming is Naming.TRIAL:
            self.naming = Naming.NAMED
        if found is None or not found.usable or now >= found.grant_end:
            return []
        self._roster.widen(found, self._allocation.lanes)
        return self._allocation.settle(now, [])

    def narrow(self, now: float) -> list[Command]:
        """A request that named its lane was refused for it, or answered without: there is one lane.

        Connections that have several keep them. Idempotent.
        """
        self._allocation.lanes = 1
        self.naming = Naming.NONE
        return self._allocation.settle(now, [])

    def retire(self, connection: ConnectionId, now: float, *, announced: bool = True) -> list[Command]:
        """The server announced that this connection ends soon. Idempotent.

        Args:
            announced: False if that is our own idea, which says nothing about the server.
        """
        found = self._roster.find(connection)
        commands: list[Command] = []
        if found is None or found.state is not ConnectionState.OPEN:
            return commands
        self._lives.retire(found, commands)
        if announced:
            self._endings.noticed(found)
        return self._allocation.settle(now, commands)

    def distrust(self, connection: ConnectionId, now: float) -> list[Command]:
        """No other turn may follow on this connection; those in flight on it go on. Idempotent."""
        found = self._roster.find(connection)
        commands: list[Command] = []
        if found is None or not found.usable:
            return commands
        self._lives.distrust(found, now, commands)
        return self._allocation.settle(now, commands)

    def lost(self, connection: ConnectionId, now: float, jitter: float) -> list[Command]:
        """An open connection died by itself, whatever is on it or asked of it. Idempotent.

        Args:
            jitter: a random number in [0, 1), to spread the next attempt if it died too young.
        """
        found = self._roster.find(connection)
        commands: list[Command] = []
        if found is None or found.state is ConnectionState.CLOSING:
            return commands
        found.jitter = jitter
        self._learn(found, now, commands)
        self._lives.lose(found)
        self._outage.eased(now)
        return self._allocation.settle(now, commands)

    def gone(self, connection: ConnectionId, now: float) -> list[Command]:
        """A connection that was told to go is gone."""
        found = self._roster.connection(connection)
        self._roster.move(found, ConnectionInput.GO)
        del self._roster.connections[connection]
        self._outage.eased(now)
        return self._allocation.settle(now, [])

    def ponged(self, connection: ConnectionId, heard_at: float, now: float) -> list[Command]:
        """The peer was heard at *heard_at*: ping again after the next silence."""
        found = self._roster.find(connection)
        if found is not None and found.usable:
            self._lives.heard(found, heard_at, now)
        return []

    # -- inputs: time -------------------------------------------------------------------------

    def next_deadline(self) -> float:
        """Return when `tick` wants to be called, infinity for never."""
        deadline = self._lives.alarms.next
        if self._allocation.waiters or self._outage.doubtful or self._outage.failure is not None:
            deadline = min(deadline, self._allocation.next_deadline())
        if self._roster.unreported:
            deadline = min(deadline, next(iter(self._roster.unreported.values())))
        return deadline

    def tick(self, now: float) -> list[Command]:
        """Do what is due at *now*."""
        commands: list[Command] = []
        self._lives.ring(now, commands)
        unreported = self._roster.unreported
        while unreported and next(iter(unreported.values())) <= now:
            commands.append(Leaking(unreported.popitem(last=False)[0]))
        return self._allocation.settle(now, commands)

    # -- queries ------------------------------------------------------------------------------

    def statistics(self) -> PoolStatistics:
        """Return a frozen snapshot; taking it changes nothing."""
        return self._tally.snapshot(
            self.policy,
            self._roster,
            waiting=len(self._allocation.waiters),
            degraded=self._outage.degraded,
            paused=self._allocation.paused,
            closed_pool=self._allocation.closing,
            learned_lifetime=None if self._endings.ages.learned == math.inf else self._endings.ages.learned,
        )

    @property
    def open(self) -> int:
        """Connections that are open, as `statistics` counts them."""
        return self._roster.states[ConnectionState.OPEN]

    @property
    def has_lane(self) -> bool:
        """Whether who asks now need not wait for a lane of others: one is free, or there is room to dial."""
        return bool(self._roster.available) or self._roster.size < self.policy.max_size

    @property
    def failure(self) -> DialFailure | None:
        """The last dial's failure while the pool is degraded, else None."""
        return self._outage.failure

    @property
    def away(self) -> bool:
        """Whether the endpoint is there for nobody: dials fail, and nothing is open."""
        return self._outage.failure is not None and not self.open

    def remembers(self, response: ResponseKey) -> bool:
        """Return whether one lane holds *response*, and no other; if not, `over` would change nothing."""
        return self._roster.affinity.holder(response) is not None

    def is_live(self, lease: LeaseId) -> bool:
        """Return whether *lease* still holds its lane."""
        return lease in self._roster.leases

    def states(self) -> dict[ConnectionId, tuple[ConnectionState, tuple[LaneState, ...]]]:
        """Return the state of every connection that is not gone, and of its lanes (for tests)."""
        return {
            number: (connection.state, tuple(lane.state for lane in connection.lanes))
            for number, connection in self._roster.connections.items()
        }
