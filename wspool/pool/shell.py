"""Shell: performs what `PoolCore` decides. Held by all that belongs to a pool; users hold its `Pool`.

Every change goes through `step`: ask the core, perform all it says, then look whether anybody
waits for what has changed. `step` is synchronous and protected against KeyboardInterrupt, so
between a decision and its act nothing else runs. `ask` and `release` are the same, shorter, for what
is usual.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, assert_never, cast

import outcome
import trio
from trio.lowlevel import Abort, current_task, enable_ki_protection, reschedule

from wspool.core.commands import (
    CloseReason,
    Command,
    ConnectionId,
    Degraded,
    Dial,
    Expiring,
    Grant,
    HangUp,
    LaneId,
    Leaking,
    LeaseId,
    Ping,
    Recovered,
    Refuse,
    RefuseReason,
    Stolen,
    WaiterId,
    Warm,
)
from wspool.core.failures import FailureKind
from wspool.core.lending.pool import PoolCore, Verdict
from wspool.core.lending.trace import trace_core
from wspool.core.sending.replay import RetryBudget
from wspool.core.statistics import Move, TurnRecord
from wspool.errors import ForeignUseError, PoolClosedError, WsPoolError
from wspool.pool.clock import PoolClock, suspension
from wspool.pool.connection import Connection, Lane
from wspool.pool.credentials import forget
from wspool.pool.dialer import Dialer, classified
from wspool.pool.instrument import watch
from wspool.pool.leaks import Borrowers
from wspool.pool.lease import Lease, LeaseBlock
from wspool.pool.outcome import refusal
from wspool.pool.setup import Setup
from wspool.wire.answer import Answer
from wspool.wire.wire import ConnectError, WireClosedError

__all__ = ["Shell"]

logger = logging.getLogger("wspool.pool")

#: Seconds for a stopped connection to let go of its socket once it was told to drop it. Dropping
#: never waits for a peer; this only bounds a wire that breaks its contract.
DROP_TIMEOUT = 1.0


class Shell:
    """The pool behind a `Pool`: its connections, its leases, its line, its tasks.

    Attributes:
        core: what decides.
        policy: the limits, as they were given.
        provider: what the endpoint can do.
        budget: the retries that are left.
        serving: set once the pool's tasks run (`running`), or will never run.
        dial: opens the wire of a connection, whose tasks live in a given nursery.
        now: returns the pool's time, in seconds.
        borrowers: who has which lease, where `policy.leak_after` asks for it.
    """

    # CPython looks an attribute up more slowly in an object that has thirty of them.
    def __init__(self, setup: Setup) -> None:
        self.policy = setup.policy
        self.provider = setup.provider
        self._setup = setup
        dialer = Dialer(setup)
        self.dial, self._post = dialer.dial, dialer.post
        self.core = PoolCore(setup.policy, setup.provider, warm_up=setup.warm_up is not None)
        if setup.trace is not None:
            write = setup.trace
            trace_core(self.core, lambda line: watch(write, line), warm_up=setup.warm_up is not None)
        self.borrowers = None if setup.policy.leak_after is None else Borrowers()
        self._connections: dict[ConnectionId, Connection] = {}
        self._leases: dict[LeaseId, Lease] = {}
        self._parked: dict[WaiterId, trio.lowlevel.Task] = {}
        self._waiter_ids = cast("Iterator[WaiterId]", itertools.count(1))
        self._last_conversation = 0
        self._last_failure: ConnectError | None = None
        self._todo: deque[Command] = deque()
        self._performing = False
        self._services: trio.Nursery | None = None
        self.serving = trio.Event()
        self.running = False
        # Shielded: when the caller is cancelled its bodies unwind first, while readers still
        # run; then `aclose` ends this scope, within bounds.
        self._life = trio.CancelScope(shield=True)
        self._changed = trio.Event()
        self._watchers = 0
        self.budget = RetryBudget()
        self._sleeping_until = math.inf
        self._wake_up = trio.Event()
        self._home = trio.lowlevel.current_trio_token(), os.getpid()
        self._clock = PoolClock(suspension())
        self.now = self._clock.now
        # Spreads retirements and retries; nothing secret depends on it.
        self._random = random.Random()

    # -- for leases and conversations ---------------------------------------------------------

    def check_use(self) -> None:
        """Raise `ForeignUseError` unless called in the trio run, thread and process of the pool."""
        try:
            here = trio.lowlevel.current_trio_token(), os.getpid()
        except RuntimeError:
            here = None  # not in a task
        if here != self._home:
            raise ForeignUseError(
                "a pool can only be used in the trio run, thread and process that opened it; open one there"
            )

    @enable_ki_protection
    async def acquire(self, *, min_remaining: float = 0.0) -> Lease:
        """Take a lease; the caller must `release` it. As `Pool.acquire`."""
        return await LeaseBlock(self, min_remaining).__aenter__()

    @enable_ki_protection
    def acquire_nowait(self) -> Lease:
        """Take a lease at once or raise. As `Pool.acquire_nowait`."""
        self.check_use()
        waiter = next(self._waiter_ids)
        answer, others = self._answer(waiter, self.core.acquire_nowait(waiter, self.now()))
        self._perform(others)
        if answer is None:
            raise trio.WouldBlock
        if isinstance(answer, WsPoolError):
            raise answer
        if self.borrowers is not None:
            self.borrowers.note(answer.id)
        return answer

    def check_life(self, min_remaining: float) -> None:
        """Raise `ValueError` if no connection has that many seconds left, not even a new one."""
        most = self.core.schedule.retire_from
        if not 0 <= min_remaining <= most:
            raise ValueError(
                f"min_remaining={min_remaining!r} is not between 0 and {most}, a connection's life"
            )

    @enable_ki_protection
    def ask(self, min_remaining: float) -> Lease | WsPoolError | WaiterId:
        """Ask for a lease for the current task: it is granted, refused, or parked in line as that waiter."""
        waiter, now = next(self._waiter_ids), self.now()
        done = False if min_remaining else self.core.try_acquire(waiter, now)
        if done is True:
            self._parked[waiter] = current_task()
            return waiter
        if done is not False:
            number, on, lane = done
            return self._lend(number, on, lane)
        answer, others = self._answer(waiter, self.core.acquire(waiter, now, min_remaining=min_remaining))
        if answer is None:
            self._parked[waiter] = current_task()
        self._perform(others)
        return waiter if answer is None else answer

    @enable_ki_protection
    def abandon(self, waiter: WaiterId, _: object) -> Abort:
        """Take *waiter*, whose task is cancelled, out of line. The abort function of its wait."""
        del self._parked[waiter]
        self.step(self.core.abandon, waiter)
        return Abort.SUCCEEDED

    def is_live(self, lease: LeaseId) -> bool:
        """Return whether *lease* still holds its lane."""
        return self.core.is_live(lease)

    def begin(self, lease: LeaseId, *, movable: bool) -> Verdict:
        """Start a turn on *lease*, see `PoolCore.begin`."""
        verdict, commands = self.core.begin(lease, self.now(), movable=movable)
        self._perform(commands)
        return verdict

    def park(self, lease: LeaseId) -> None:
        """The holder of *lease* is busy elsewhere."""
        self.step(self.core.park, lease)

    def hold(self, seconds: float) -> None:
        """The server asked to wait."""
        self.step(self.core.hold, seconds=seconds)

    async def until_held(self) -> None:
        """Wait as long as the server asked this endpoint's clients to. A checkpoint."""
        if (wait := self.core.held_until() - self.now()) > 0:
            await trio.sleep(wait)

    async def post(self, suffix: str, body: bytes) -> Answer:
        """Send *body* by HTTP to the endpoint's path with *suffix*; return the answer, whatever its status.

        A checkpoint. Cancelling closes the connection that it had for itself.

        Raises:
            DialFailedError, PoolClosedError: nothing was sent.
            WireClosedError: the answer did not come, or not whole.
        """
        self.check_use()
        if self.core.statistics().closed_pool:
            raise PoolClosedError("the pool is closed; nothing was sent")
        try:
            return await self._post(suffix, body)
        except ConnectError as error:
            forget(error)
            refused = Refuse(WaiterId(0), RefuseReason.DIAL_FAILED, classified(error))
            raise refusal(refused, self.core.statistics(), error) from error
        except WireClosedError as error:
            forget(error)
            raise

    def jitter(self) -> float:
        """Return a random number in [0, 1)."""
        return self._random.random()

    def give_up(self, lease: LeaseId) -> None:
        """The holder of *lease* gave its turn up."""
        self.step(self.core.give_up, lease)

    @enable_ki_protection
    def release(self, lease: LeaseId) -> None:
        """The holder of *lease* leaves."""
        if self.borrowers is not None:
            self.borrowers.forget(lease)
        left, now = self._leases.pop(lease, None), self.now()
        done = False if left is None or self._performing else self.core.try_release(lease, now)
        if done is False:
            self._perform(self.core.release(lease, now))
            return
        if done is not True and left is not None:
            waiter, number = done
            heir = self._leases[number] = left.heir(number)
            reschedule(self._parked.pop(waiter), outcome.Value(heir))
        if self._watchers:
            self._tell_watchers()

    def moved(self, move: Move) -> None:
        """Show *move* to the instrument."""
        watch(self._setup.instrument.conversation_moved, move)

    def record(self, record: TurnRecord) -> None:
        """Show *record* to the instrument."""
        watch(self._setup.instrument.turn_ended, record)

    def next_conversation(self) -> int:
        """Return the number of a new conversation."""
        self._last_conversation += 1
        return self._last_conversation

    # -- for connections ----------------------------------------------------------------------

    def on_connected(self, connection: Connection) -> None:
        """Its handshake is done."""
        connection.name_lanes(self.core.naming)
        self.step(self.core.connected, connection.id, jitter=self._random.random())

    def on_dial_failed(self, connection: Connection, error: ConnectError) -> None:
        """Its dial failed."""
        self._connections.pop(connection.id, None)
        forget(error)
        self._last_failure = error
        failure = classified(error)
        before = self.core.failure
        first = failure.kind is FailureKind.LOCAL and (before is None or before.kind is not FailureKind.LOCAL)
        # A shortage of this process is no outage, which would be told by itself.
        logger.log(
            logging.WARNING if first else logging.INFO, "dial %s failed: %s", connection.id, failure.message
        )
        self.step(self.core.dial_failed, connection.id, failure=failure, jitter=self._random.random())

    def on_finished(self, connection: Connection, lane: Lane) -> None:
        """The terminal event of what was on the lane has come."""
        self.step(self.core.finished, connection.id, lane.id)

    def on_unusable(self, connection: Connection, reason: CloseReason) -> None:
        """It must not be used again."""
        self.step(self.core.hang_up, connection.id, reason)

    def on_named(self, connection: Connection) -> None:
        """An answer has named its lane."""
        self.step(self.core.widen, connection.id)

    def on_unnamed(self) -> None:
        """An answer should have named its lane and did not, or a request was refused for naming one."""
        self.step(self.core.narrow)

    def on_expiring(self, connection: Connection) -> None:
        """The server announced its end."""
        self.step(self.core.retire, connection.id)

    def on_lost(self, connection: Connection) -> None:
        """It died by itself."""
        self._connections.pop(connection.id, None)
        self.step(self.core.lost, connection.id, jitter=self._random.random())

    def on_gone(self, connection: Connection) -> None:
        """It was told to go, and is gone."""
        self._connections.pop(connection.id, None)
        self.step(self.core.gone, connection.id)

    # -- the life of the pool -----------------------------------------------------------------

    def stop(self) -> None:
        """End the pool's tasks at once, started or not. For `open_pool`; never waits."""
        self._life.cancel()

    async def serve(self) -> None:
        """Run the pool's tasks until it is closed. For `open_pool`."""
        with self._life:
            try:
                async with trio.open_nursery() as services:
                    self._services = services
                    self.step(self.core.start)
                    services.start_soon(self._keep_time)
                    self.running = True
                    self.serving.set()
            finally:
                self.running = False
                self.serving.set()
                # Reached early only if a task of the pool crashed. Nobody may wait for it then.
                self.step(self.core.force)

    async def close(self, grace: float) -> None:
        """Close as `Pool.aclose` says."""
        self.check_use()
        self.step(self.core.close)
        try:
            with trio.move_on_after(grace):
                while self.core.statistics().leased:
                    await self.change()
        finally:
            await self._end()
        await trio.lowlevel.checkpoint()

    async def _end(self) -> None:
        """Close what is left, within `policy.close_timeout` and a moment, cancelled or not."""
        self.step(self.core.force)
        try:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + self.policy.close_timeout):
                while self._connections:
                    await self.change()
        finally:
            # Whoever is still saying goodbye drops its stream now. After an interrupt as well: nobody
            # else would stop the pool's tasks.
            self.stop()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + DROP_TIMEOUT):
            while self._connections:
                await self.change()

    # -- the shell law ------------------------------------------------------------------------

    @enable_ki_protection
    def step(self, decide: Callable[..., list[Command]], *args: Any, **kwargs: Any) -> None:
        """Put an input of the core, and perform what it leads to. Never waits."""
        # Synchronous on purpose: between the core's decision and these lines no other task may
        # run, or the decision would be about a pool that no longer exists.
        self._perform(decide(*args, now=self.now(), **kwargs))

    def _perform(self, commands: Sequence[Command]) -> None:
        if commands:
            self._todo.extend(commands)
            if self._performing:
                return  # an act led to another decision; the loop below comes to it in order
            self._performing = True
            try:
                while self._todo:
                    self._do(self._todo.popleft())
            finally:
                self._performing = False
        if self._watchers:
            self._tell_watchers()
        if self.core.is_due_before(self._sleeping_until):
            self._wake_up.set()

    def _do(self, command: Command) -> None:
        match command:
            case Dial(connection=number):
                connection = Connection(number, self, min(self.policy.lanes, self.provider.lanes))
                self._connections[number] = connection
                self._spawn(connection.run)
            case HangUp(connection=number, polite=polite):
                self._connections[number].hang_up(polite=polite)
            case Grant(waiter=waiter):
                lease = self._lend(command.lease, command.connection, command.lane)
                reschedule(self._parked.pop(waiter), outcome.Value(lease))
            case Refuse(waiter=waiter):
                error = self.refusal(command)
                reschedule(self._parked.pop(waiter), outcome.Error(error))
            case Warm(connection=number, lane=lane):
                connection = self._connections[number]
                connection.spawn(self._warm_up, connection, lane)
            case Ping(connection=number):
                self._ping(self._connections[number])
            case Expiring(lease=lease):
                if lease in self._leases:
                    self._leases[lease].expiring = True
            case Stolen(lease=lease):
                if (taken := self._leases.pop(lease, None)) is not None:
                    taken.taken = True
            case Leaking(lease=lease):
                self._report_leak(lease)
            case Degraded(failure=failure):
                logger.warning("the endpoint is down: %s", failure.message)
                watch(self._setup.instrument.pool_degraded, failure.message)
            case Recovered(lasted=lasted):
                logger.warning("the endpoint is back after %.1f s", lasted)
                watch(self._setup.instrument.pool_recovered, lasted)
            case _:
                assert_never(command)

    def _report_leak(self, lease: LeaseId) -> None:
        if self.borrowers is None:
            raise AssertionError("bug: a leak was reported that nobody asked for")
        stack = self.borrowers.stack(lease)
        logger.warning(
            "lease %s is held for longer than leak_after=%g s; it was borrowed here:\n%s",
            lease,
            self.policy.leak_after,
            "".join(stack.format()),
        )
        watch(self._setup.instrument.lease_leaking, lease, stack)

    def _tell_watchers(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def change(self) -> None:
        """Wait until something has changed."""
        self._watchers += 1
        try:
            await self._changed.wait()
        finally:
            self._watchers -= 1

    def _answer(
        self, waiter: WaiterId, commands: list[Command]
    ) -> tuple[Lease | WsPoolError | None, list[Command]]:
        """Take the answer to *waiter* out of the commands of its own question.

        Its task is not parked yet, so it cannot be woken with it.
        """
        for index, command in enumerate(commands):
            if isinstance(command, (Grant, Refuse)) and command.waiter == waiter:
                others = commands[:index] + commands[index + 1 :]
                if isinstance(command, Refuse):
                    return self.refusal(command), others
                return self._lend(command.lease, command.connection, command.lane), others
        return None, commands

    def _lend(self, number: LeaseId, on: ConnectionId, lane: LaneId) -> Lease:
        connection = self._connections[on]
        lease = self._leases[number] = Lease(self, number, connection, connection.lanes[lane])
        return lease

    def refusal(self, command: Refuse) -> WsPoolError:
        """Return the error that tells of *command*."""
        return refusal(command, self.core.statistics(), self._last_failure)

    def _spawn(self, task: Callable[..., Awaitable[object]], *args: object) -> None:
        if self._services is None:
            raise AssertionError("bug: the pool is not running")
        self._services.start_soon(task, *args)

    def _ping(self, connection: Connection) -> None:
        interval = self.policy.ping_interval or math.inf
        if connection.paused or connection.heard_at + interval > self.now():
            # It was heard lately; anything inbound is a sign of life.
            heard_at = max(connection.heard_at, self.now() - interval / 2)
            self.step(self.core.ponged, connection.id, heard_at=heard_at)
        else:
            connection.spawn(self._ping_and_judge, connection)

    async def _ping_and_judge(self, connection: Connection) -> None:
        alive = await connection.ping()
        if self._connections.get(connection.id) is connection:
            if alive:
                self.step(self.core.ponged, connection.id, heard_at=connection.heard_at)
            else:
                self.step(self.core.hang_up, connection.id, CloseReason.LOST)

    async def _warm_up(self, connection: Connection, lane: LaneId) -> None:
        if self._setup.warm_up is None:
            raise AssertionError("bug: a warm-up without a request")
        await connection.warm_up(connection.lanes[lane], self._setup.warm_up)

    async def _keep_time(self) -> None:
        while True:
            deadline = self._sleeping_until = self.core.next_deadline()
            self._wake_up = trio.Event()
            with trio.move_on_at(deadline - self._clock.asleep) as scope:
                await self._wake_up.wait()
            if scope.cancelled_caught:
                # Never a time before the deadline that was asked for, however floats round.
                self._perform(self.core.tick(max(deadline, self.now())))
