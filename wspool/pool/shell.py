"""Shell: performs what `PoolCore` decides. Held by all that belongs to a pool; users hold its `Pool`.

Every change goes through `step`: ask the core, perform all it says, then look whether anybody
waits for what has changed. `step` is synchronous and protected against KeyboardInterrupt, so
between a decision and its act nothing else runs.
"""

from __future__ import annotations

import itertools
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Any, NoReturn, assert_never, cast

import outcome
import trio
from trio.lowlevel import Abort, current_task, enable_ki_protection, reschedule, wait_task_rescheduled

from wspool.core.commands import (
    Command,
    ConnectionId,
    Degraded,
    Dial,
    Expiring,
    Grant,
    HangUp,
    Leaking,
    LeaseId,
    LifetimeLearned,
    Ping,
    Recovered,
    Refuse,
    Returned,
    Stolen,
    WaiterId,
    Warm,
)
from wspool.core.failures import FailureKind
from wspool.core.lending.pool import PoolCore, Verdict
from wspool.core.lending.trace import trace_core
from wspool.core.sending.chain import Fields
from wspool.core.sending.replay import ResendBudget, Resends
from wspool.core.sending.takes import Takes
from wspool.core.statistics import TurnInFlight
from wspool.errors import WsPoolError
from wspool.pool.burden import Burden
from wspool.pool.clock import PoolClock, Timekeeper, suspension
from wspool.pool.connection import Connection
from wspool.pool.credentials import forget
from wspool.pool.dialer import Dialer, classified
from wspool.pool.errands import Errands
from wspool.pool.home import Home
from wspool.pool.in_flight import in_flight
from wspool.pool.instrument import Announcer, watch
from wspool.pool.lease import Lease, LeaseBlock
from wspool.pool.link import Link, Scales
from wspool.pool.outcome import refusal
from wspool.pool.road import Road
from wspool.pool.setup import Setup
from wspool.pool.upkeep import keep_alive, warm_up
from wspool.wire.wire import ConnectError, Wire

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
        provider: what the endpoint can do. endpoint: its digest.
        budget: the resends that are left to all turns.
        takes: what the endpoint takes, as far as turns have found out.
        errands: what tasks wait for or do for it without a lane.
        serving: set once the pool's tasks run (`running`), or will never run.
        dialer: goes to the endpoint. announcer: tells what happens, and what was learnt of it.
        now: returns the pool's time, in seconds. jitter: returns a random number in [0, 1).
        next_conversation: returns the number of a new conversation.
        check_use: raises `ForeignUseError` unless called in the trio run, thread and process of the pool.
    """

    # CPython looks an attribute up more slowly in an object that has thirty of them.
    def __init__(self, setup: Setup) -> None:
        self.policy = setup.policy
        self.provider, self.endpoint = setup.provider, setup.endpoint.digest
        self._setup = setup
        self.core = PoolCore(setup.policy, setup.provider, warm_up=setup.warm_up is not None)
        if setup.trace is not None:
            write = setup.trace
            trace_core(self.core, lambda line: watch(write, line), warm_up=setup.warm_up is not None)
        self.announcer = Announcer(setup.instruments, setup.provider, setup.policy.leak_after)
        self._connections: dict[ConnectionId, Connection] = {}
        self._leases: dict[LeaseId, Lease] = {}
        self._parked: dict[WaiterId, trio.lowlevel.Task] = {}
        self.next_waiter = cast("Iterator[WaiterId]", itertools.count(1)).__next__
        self.next_conversation: Callable[[], int] = itertools.count(1).__next__
        self._watchers = 0
        self._last_failure: ConnectError | None = None
        self._todo: deque[Command] = deque()
        self._performing = False
        self._services: trio.Nursery | None = None
        self.serving = trio.Event()
        self.running = False
        # Shielded: when the caller is cancelled its bodies unwind first, then `aclose` ends it, in time.
        self._life = trio.CancelScope(shield=True)
        self._changed = trio.Event()
        self.budget, self.takes = ResendBudget(), Takes()
        self.check_use = Home().check
        self.burden: Scales = Burden(setup.policy, self._connections.values())
        clock = PoolClock(suspension())
        self.now = clock.now
        self.dialer = Dialer(setup, Road(self.announcer, self.now), self.announcer)
        self._timekeeper = Timekeeper(self.core, clock, self._perform)
        self.errands = Errands(
            self.core, self.now, self.dialer.post, self._tell_watchers, setup.policy, setup.pace
        )
        self.jitter = random.Random().random  # nothing secret depends on it

    # -- for leases and conversations ---------------------------------------------------------

    def lease(
        self, min_remaining: float = 0.0, prefer: str | None = None, *, warm: bool = False
    ) -> LeaseBlock:
        """Return a block that takes a lease. As `Pool.lease`; *warm* as for `PoolCore.acquire`."""
        return LeaseBlock(self, min_remaining, prefer, warm=warm)

    @enable_ki_protection
    def __reduce__(self) -> NoReturn:  # whatever belongs to a pool holds it
        raise TypeError("what belongs to a pool cannot be pickled: open a pool in each process")

    def acquire_nowait(self) -> Lease:
        """Take a lease at once or raise. As `Pool.acquire_nowait`."""
        self.check_use()
        waiter = self.next_waiter()
        lease = self._answer(waiter, self.core.acquire_nowait(waiter, self.now()), None)
        if lease is None:
            raise trio.WouldBlock
        return lease

    def check_life(self, min_remaining: float) -> None:
        """Raise `ValueError` if no connection has that many seconds left, not even a new one."""
        most = self.core.schedule.retire_from
        if not isinstance(cast("object", min_remaining), int | float) or not 0 <= min_remaining <= most:
            raise ValueError(
                f"min_remaining={min_remaining!r} is not between 0 and {most}, a connection's life"
            )

    @enable_ki_protection
    def ask(self, waiter: WaiterId, min_remaining: float, prefer: str | None, warm: bool) -> Lease | None:
        """Ask for a lease for the current task; return it, or None if it is in line: then `wait` at once.

        Raises:
            LeaseRefusedError, PoolClosedError: there is none.
        """
        now, key = self.now(), None if prefer is None else hash(prefer)
        commands = self.core.acquire(waiter, now, min_remaining=min_remaining, prefer=key, warm=warm)
        return self._answer(waiter, commands, current_task())

    @enable_ki_protection
    async def wait(self, waiter: WaiterId) -> Lease:
        """Wait in line. There is no checkpoint between the grant and the return."""
        lease: Lease = await wait_task_rescheduled(partial(self._abandon, waiter))
        return self._noted(lease)

    def _noted(self, lease: Lease) -> Lease:
        if self.announcer.borrowers is not None:  # it is looked for leaks
            self.announcer.borrowers.note(lease.id)
        return lease

    @enable_ki_protection
    def _abandon(self, waiter: WaiterId, _: object) -> Abort:
        """Take *waiter*, whose task is cancelled, out of line. The abort function of its wait."""
        del self._parked[waiter]
        self.announcer.left(waiter)
        self.step(self.core.abandon, waiter)
        return Abort.SUCCEEDED

    @enable_ki_protection
    def begin(self, lease: LeaseId, *, movable: bool, history: int = 0) -> Verdict:
        """Start a turn on *lease*, see `PoolCore.begin`."""
        verdict, commands = self.core.begin(lease, self.now(), movable=movable, history=history)
        self._perform(commands)
        return verdict

    def warms(self, fields: Fields) -> bool:
        """Return whether a response to the warm-up request is of use to a first turn with *fields*."""
        return (warmth := self._setup.warmth) is not None and warmth.fits(fields)

    def hold(self, seconds: float) -> None:
        """The server asked to wait."""
        self.step(self.core.hold, seconds=seconds)

    def resends(self) -> Resends:
        """Return the resends of a new turn."""
        policy = self.policy
        return Resends(policy.replay, policy.max_resends, self.budget, policy.refusal_patience)

    @enable_ki_protection
    def release(self, lease: LeaseId) -> None:
        """The holder of *lease* leaves."""
        if self._leases.pop(lease, None) is not None:  # else its lane is its own no more
            self.announcer.returned(lease)
            self._perform(self.core.release(lease, self.now()))

    # -- for connections ----------------------------------------------------------------------

    def on_dial_failed(self, link: Link, error: ConnectError) -> None:
        """Its dial failed."""
        forget(error)
        self._last_failure = error
        failure = classified(error)
        before = self.core.failure
        first = failure.kind is FailureKind.LOCAL and (before is None or before.kind is not FailureKind.LOCAL)
        # A shortage of this process is no outage, which would be told by itself.
        logger.log(logging.WARNING if first else logging.INFO, "dial %s failed: %s", link.id, failure.message)
        link.report_end(self.core.dial_failed, failure=failure, jitter=self.jitter())

    async def dial(self, link: Link, nursery: trio.Nursery) -> Wire:
        """Open the wire of *link*, whose tasks live in *nursery*."""
        return await self.dialer.dial(link, nursery)

    def on_stateless(self, link: Link) -> None:
        """It is connected, and goes by HTTP."""
        self.dialer.goes_by_http(link)

    def on_proved(self, link: Link) -> None:
        """A turn was completed on it, the first."""
        if not link.stateless:
            self.dialer.road.websocket_proved()

    def on_lost(self, link: Link) -> None:
        """It has ended by itself: what that says of the way is known to the very next dial."""
        self.dialer.road.gone(link)

    @enable_ki_protection
    def on_gone(self, link: Link) -> None:
        """Its tasks have ended and its socket is closed."""
        del self._connections[link.id]
        if link.told:
            self.dialer.road.gone(link)
        if link.connected:
            self.announcer.closed(link.id, link.why, self.now() - link.opened_at, link.close_code)
        if link.over:
            self._perform(())  # the core has forgotten it already, but somebody may wait for this
        else:
            link.report_end(self.core.gone)

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
                    services.start_soon(self._timekeeper.run)
                    self.running = True
                    self.serving.set()
            finally:
                self.running = False
                self.serving.set()
                # Reached early only if a task of the pool crashed. Nobody may wait for it then.
                self._force()

    async def close(self, grace: float) -> None:
        """Close as `Pool.aclose` says."""
        self.check_use()
        self.step(self.core.close)
        self.errands.close()
        try:
            with trio.move_on_after(grace):
                while self.core.statistics().leased or self.errands.at_work:
                    await self.change()
        finally:
            await self._end()  # noqa: ASYNC102 # shields itself, within bounds
        await trio.lowlevel.checkpoint()

    async def _end(self) -> None:
        """Close what is left, within `policy.close_timeout` and a moment, cancelled or not."""
        self._force()
        try:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + self.policy.close_timeout):
                while self._connections or self.errands.at_work:
                    await self.change()
        finally:
            # Whoever is still saying goodbye drops its stream now. After an interrupt as well: nobody
            # else would stop the pool's tasks.
            self.stop()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + DROP_TIMEOUT):
            while self._connections or self.errands.at_work:
                await self.change()

    def _force(self) -> None:
        self.step(self.core.force)
        self.errands.force()

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
        self._timekeeper.look()

    def _do(self, command: Command) -> None:
        match command:
            # Each pattern costs a call, so what each turn leads to comes first.
            case Returned(lease=number) | Stolen(lease=number):
                if (taken := self._leases.pop(number, None)) is not None:
                    taken.taken = True
                    self.announcer.returned(number)
            case Grant(waiter=waiter):
                lease = self._lend(command)
                reschedule(self._parked.pop(waiter), outcome.Value(lease))
            case Dial(connection=number):
                self._dial(number)
            case HangUp() | Warm() | Ping():
                self._act(self._connections[command.connection], command)
            case Refuse(waiter=waiter):
                self.announcer.left(waiter)
                error = self.refusal(command)
                reschedule(self._parked.pop(waiter), outcome.Error(error))
            case Expiring(lease=lease):
                if lease in self._leases:
                    self._leases[lease].expiring = True
            case Leaking(lease=lease):
                self.announcer.leaking(lease)
            case Degraded(failure=failure):
                self.errands.away()
                self.announcer.degraded(failure)
            case Recovered(lasted=lasted):
                self.announcer.recovered(lasted)
            case LifetimeLearned(seconds=seconds):
                self.announcer.lifetime_learned(seconds, self.core.policy.schedule(self.provider).lifetime)
            case _:
                assert_never(command)

    def _dial(self, number: ConnectionId) -> None:
        connection = Connection(number, self, min(self.policy.lanes, self.provider.lanes))
        self._connections[number] = connection
        try:
            self.spawn(connection.run)
        except RuntimeError as error:  # the pool's own tasks have ended in this moment
            connection.crash(error)
            self.on_gone(connection.link)

    def spawn(self, task: Callable[[], Awaitable[object]]) -> None:
        """Run a task of the pool's, which ends with it."""
        if self._services is None:
            raise AssertionError("bug: the pool is not running")
        self._services.start_soon(task)

    def _act(self, connection: Connection, command: HangUp | Warm | Ping) -> None:
        """Perform what is about one connection; whatever goes wrong with that ends this one, and no more."""
        if connection.link.over:
            return  # it was lost since: the core has forgotten it, and it only winds up
        try:
            match command:
                case HangUp(polite=polite, reason=reason):
                    connection.link.why = reason
                    connection.hang_up(polite=polite)
                case Warm(lane=lane):
                    if self._setup.warm_up is None:
                        raise AssertionError("bug: a warm-up without a request")
                    connection.link.spawn(warm_up, connection, connection.lanes[lane], self._setup.warm_up)
                case Ping():
                    keep_alive(connection)
        except Exception as error:
            connection.crash(error)

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
        self, waiter: WaiterId, commands: list[Command], task: trio.lowlevel.Task | None
    ) -> Lease | None:
        """Take the answer to *waiter* out of the commands of its own question, and perform the others.

        Its *task*, which runs, cannot be woken with it. If there is none, it is parked.
        """
        answer: Lease | WsPoolError | None = None
        for index, command in enumerate(commands):
            if isinstance(command, (Grant, Refuse)) and command.waiter == waiter:
                del commands[index]
                answer = self._lend(command) if isinstance(command, Grant) else self.refusal(command)
                break
        else:
            if task is not None:
                self._parked[waiter] = task
                self.announcer.came(waiter)
        self._perform(commands)
        if isinstance(answer, WsPoolError):
            raise answer
        return None if answer is None else self._noted(answer)

    def _lend(self, grant: Grant) -> Lease:
        number, connection = grant.lease, self._connections[grant.connection]
        lease = self._leases[number] = Lease(self, number, connection, connection.lanes[grant.lane])
        self.announcer.granted(grant)
        return lease

    def turns(self) -> list[TurnInFlight]:
        """Return what is in flight now. As `Pool.turns`."""
        return in_flight(self._connections.values())

    def refusal(self, command: Refuse) -> WsPoolError:
        """Return the error that tells of *command*."""
        return refusal(command, self.core.statistics(), self._last_failure)
