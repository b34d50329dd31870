"""Pool: leases lanes to tasks. The shell of `PoolCore`.

Every change goes through `_step`: ask the core, perform all it says, then look whether anybody
waits for what has changed. `_step` is synchronous and protected against KeyboardInterrupt, so
between a decision and its act nothing else runs.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import random
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from typing import Any, assert_never, cast

import attrs
import outcome
import trio
from trio.lowlevel import (
    Abort,
    cancel_shielded_checkpoint,
    checkpoint_if_cancelled,
    current_task,
    enable_ki_protection,
    reschedule,
    wait_task_rescheduled,
)

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
from wspool.core.failures import DialFailure, FailureKind, classify_dial, parse_retry_after
from wspool.core.policy import PoolPolicy, Provider
from wspool.core.pool import PoolCore, Verdict
from wspool.core.replay import RetryBudget
from wspool.core.statistics import DialRecord, Move, PoolStatistics, TurnRecord
from wspool.core.trace import trace_core
from wspool.errors import ForeignUseError, PoolClosedError, WsPoolError
from wspool.pool.clock import suspension
from wspool.pool.connection import Connection, Lane
from wspool.pool.conversation import Conversation
from wspool.pool.credentials import CredentialError, forget, is_secret
from wspool.pool.instrument import Instrument
from wspool.pool.lease import Lease
from wspool.pool.outcome import refusal
from wspool.wire.answer import Answer
from wspool.wire.dial import stopwatch
from wspool.wire.wire import ConnectError, Connector, Endpoint, Wire, WireClosedError

__all__ = ["Pool"]

logger = logging.getLogger("wspool.pool")
# A library says nothing to a program that did not ask: errors reach it as exceptions.
logging.getLogger("wspool").addHandler(logging.NullHandler())

#: Seconds for a stopped connection to let go of its socket once it was told to drop it. Dropping
#: never waits for a peer; this only bounds a wire that breaks its contract.
DROP_TIMEOUT = 1.0

Headers = Sequence[tuple[str, str]]


@attrs.frozen(kw_only=True)
class Setup:
    """What a pool is made of; put together by `open_pool`."""

    endpoint: Endpoint
    connector: Connector
    post: Callable[[str, Headers, bytes], Awaitable[Answer]]
    headers: Callable[[], Awaitable[Headers]] = attrs.field(repr=False)
    #: True when `headers` may hold a new credential if it is asked again.
    renewable: bool = False
    provider: Provider
    policy: PoolPolicy
    warm_up: Mapping[str, Any] | None
    instrument: Instrument
    trace: Callable[[str], None] | None = None


class Pool:
    """Owns the connections of one endpoint and one credential identity; made by `open_pool`."""

    def __init__(self, setup: Setup) -> None:
        self.policy = setup.policy
        self.provider = setup.provider
        self.closes_after_error = setup.provider.closes_after_error
        self.max_request = setup.provider.max_request
        self.steering = setup.provider.steering
        self._setup = setup
        self._core = PoolCore(setup.policy, setup.provider, warm_up=setup.warm_up is not None)
        if setup.trace is not None:
            trace_core(self._core, partial(self._watch, setup.trace), warm_up=setup.warm_up is not None)
        self._connections: dict[ConnectionId, Connection] = {}
        self._leases: dict[LeaseId, Lease] = {}
        self._parked: dict[WaiterId, trio.lowlevel.Task] = {}
        self._waiter_ids = cast("Iterator[WaiterId]", itertools.count(1))
        self._last_conversation = 0
        self._last_failure: ConnectError | None = None
        self._todo: deque[Command] = deque()
        self._performing = False
        self._services: trio.Nursery | None = None
        #: Set once the pool's tasks run (`running`), or will never run.
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
        self._token = trio.lowlevel.current_trio_token()
        self._process = os.getpid()
        self._suspended = suspension()
        self._clock = trio.lowlevel.current_clock()
        # Spreads retirements and retries; nothing secret depends on it.
        self._random = random.Random()

    # -- for users ----------------------------------------------------------------------------

    def lease(self, *, min_remaining: float = 0.0) -> AbstractAsyncContextManager[Lease]:
        """Lease one lane for the length of an `async with` block.

        Args:
            min_remaining: seconds that must be left until its connection's planned retirement.
                Of the connections that have enough the oldest is taken; by default, the freshest.

        Waits in line, first come, first served. A checkpoint; cancelling takes nothing.

        Raises:
            LeaseRefusedError: the line is full, or the endpoint cannot be reached.
            PoolClosedError: the pool is closed.
        """
        return _LeaseBlock(self, min_remaining)

    @contextmanager
    def lease_nowait(self) -> Generator[Lease, None, None]:
        """Lease one lane for the length of a `with` block, if one is free and nobody is in line.

        Never waits and never dials.

        Raises:
            trio.WouldBlock: there is none.
            PoolClosedError: the pool is closed.
        """
        lease = self.acquire_nowait()
        try:
            yield lease
        finally:
            lease.release()

    @asynccontextmanager
    async def conversation(
        self, *, resume: Mapping[str, Any] | None = None, **defaults: Any
    ) -> AsyncGenerator[Conversation, None]:
        """Hold a conversation for the length of an `async with` block.

        Args:
            resume: a snapshot to go on from (`Conversation.snapshot`), of this or another process.
            **defaults: fields that go with every turn: `model`, `instructions`, `tools`,
                `store`, `reasoning` ... History and `previous_response_id` are the library's.

        It takes its lease at its first turn and gives it back at the end of the block.
        """
        self.check_use()
        conversation = Conversation(self, self.next_conversation(), defaults, resume)
        try:
            yield conversation
        finally:
            conversation.close()

    def next_conversation(self) -> int:
        """Return the number of a new conversation."""
        self._last_conversation += 1
        return self._last_conversation

    async def wait_ready(self, lanes: int | None = None) -> None:
        """Wait until that many lanes can be granted at once.

        Args:
            lanes: how many; by default `policy.min_idle`, which is also the most.

        A checkpoint; safe to cancel, to call again and to call from several tasks.

        Raises:
            DialFailedError: the last dial failed; the pool goes on trying.
            PoolClosedError: the pool is closed.
        """
        self.check_use()
        most = self._core.policy.min_idle
        wanted = most if lanes is None else lanes
        if wanted > most:
            raise ValueError(f"lanes={wanted} exceeds min_idle={most}; raise min_idle")
        await trio.lowlevel.checkpoint()
        while (statistics := self.statistics()).idle < wanted:
            if statistics.closed_pool:
                raise PoolClosedError("the pool is closed")
            if (failure := self._core.failure) is not None:
                raise self._refusal(Refuse(WaiterId(0), RefuseReason.DIAL_FAILED, failure))
            await self._change()

    def pause(self) -> None:
        """Grant nothing until `resume`: waiters queue, leases and their turns go on. Never waits."""
        self.check_use()
        self._step(self._core.pause)

    def resume(self) -> None:
        """Grant again after `pause`. Never waits."""
        self.check_use()
        self._step(self._core.resume)

    def resize(self, *, max_size: int | None = None, min_idle: int | None = None) -> None:
        """Change the size of the pool. Never waits.

        Args:
            max_size: connections at most. Shrinking closes dials and spare at once, and what is
                leased when it is given back.
            min_idle: lanes kept ready ahead of demand.

        Raises:
            ValueError: the two do not go together; nothing was changed.
        """
        self.check_use()
        self._step(self._core.resize, max_size=max_size, min_idle=min_idle)

    def drain(self) -> None:
        """Replace every connection, each as soon as its replacement is there. Never waits.

        Conversations move between turns. Dials are limited by `policy.dial_concurrency`.
        """
        self.check_use()
        self._step(self._core.drain)

    def clear(self, *, interrupt: bool = False) -> None:
        """Trust no connection that exists now, as after a change of credentials. Never waits.

        Args:
            interrupt: True to drop what is leased at once; else it goes when it is given back.
        """
        self.check_use()
        self._step(self._core.clear, interrupt=interrupt)

    def retry_now(self) -> None:
        """Dial at once although the last dial failed: you know that the endpoint is back. Never waits."""
        self.check_use()
        self._step(self._core.retry_now)

    async def aclose(self, *, grace: float = 0.0) -> None:
        """Close: refuse newcomers and waiters at once, let leases finish, then force.

        Args:
            grace: seconds for leases to be released.

        Returns within `grace + policy.close_timeout` and a moment, whatever the peers do.
        A checkpoint; cancelling cuts the grace short, never the closing. Idempotent.
        """
        self.check_use()
        self._step(self._core.close)
        try:
            with trio.move_on_after(grace):
                while self._core.statistics().leased:
                    await self._change()
        finally:
            await self._end()
        await trio.lowlevel.checkpoint()

    async def _end(self) -> None:
        """Close what is left, within `policy.close_timeout` and a moment, cancelled or not."""
        self._step(self._core.force)
        try:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + self.policy.close_timeout):
                while self._connections:
                    await self._change()
        finally:
            # Whoever is still saying goodbye drops its stream now. After an interrupt as well: nobody
            # else would stop the pool's tasks.
            self.stop()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + DROP_TIMEOUT):
            while self._connections:
                await self._change()

    def statistics(self) -> PoolStatistics:
        """Return a frozen snapshot; taking it changes nothing."""
        return self._core.statistics()

    def __repr__(self) -> str:
        s = self.statistics()
        state = "closed" if s.closed_pool else "degraded" if s.degraded else "open"
        return (
            f"<Pool {self._setup.endpoint.host}, {state}: {s.leased} leased, {s.idle} idle, "
            f"{s.dialing} dialing, {s.waiting} waiting, {s.size} of {s.max_size} connections>"
        )

    # -- for leases and conversations ---------------------------------------------------------

    def check_use(self) -> None:
        """Raise `ForeignUseError` unless called in the trio run, thread and process of the pool."""
        try:
            same = trio.lowlevel.current_trio_token() is self._token
        except RuntimeError:
            same = False
        if not same or os.getpid() != self._process:
            raise ForeignUseError(
                "a pool can only be used in the trio run, thread and process that opened it; open one there"
            )

    @enable_ki_protection
    async def acquire(self, *, min_remaining: float = 0.0) -> Lease:
        """Take a lease; the caller must `release` it. Prefer `lease()`.

        A checkpoint; cancelling takes nothing. Takes and raises what `lease` does.
        """
        return await _LeaseBlock(self, min_remaining).__aenter__()

    @enable_ki_protection
    def acquire_nowait(self) -> Lease:
        """Take a lease at once or raise; the caller must `release` it. Prefer `lease_nowait()`."""
        self.check_use()
        waiter = next(self._waiter_ids)
        answer, others = self._answer(waiter, self._core.acquire_nowait(waiter, self.now()))
        self._perform(others)
        if answer is None:
            raise trio.WouldBlock
        if isinstance(answer, WsPoolError):
            raise answer
        return answer

    def check_life(self, min_remaining: float) -> None:
        """Raise `ValueError` if no connection has that many seconds left, not even a new one."""
        most = self._core.schedule.retire_from
        if not 0 <= min_remaining <= most:
            raise ValueError(
                f"min_remaining={min_remaining!r} is not between 0 and {most}, a connection's life"
            )

    @enable_ki_protection
    def ask(self, min_remaining: float) -> Lease | WsPoolError | WaiterId:
        """Ask for a lease for the current task: it is granted, refused, or parked in line as that waiter."""
        waiter, now = next(self._waiter_ids), self.now()
        done = False if min_remaining else self._core.try_acquire(waiter, now)
        if done is True:
            self._parked[waiter] = current_task()
            return waiter
        if done is not False:
            return self._lend(*done)
        answer, others = self._answer(waiter, self._core.acquire(waiter, now, min_remaining=min_remaining))
        if answer is None:
            self._parked[waiter] = current_task()
        self._perform(others)
        return waiter if answer is None else answer

    @enable_ki_protection
    def abandon(self, waiter: WaiterId, _: object) -> Abort:
        """Take *waiter*, whose task is cancelled, out of line. The abort function of its wait."""
        del self._parked[waiter]
        self._step(self._core.abandon, waiter)
        return Abort.SUCCEEDED

    def now(self) -> float:
        """Return the pool's time: trio's clock plus the seconds the machine was suspended."""
        return self._clock.current_time() + self._suspended()

    def is_live(self, lease: LeaseId) -> bool:
        """Return whether *lease* still holds its lane."""
        return self._core.is_live(lease)

    def begin(self, lease: LeaseId, *, movable: bool) -> Verdict:
        """Start a turn on *lease*, see `PoolCore.begin`."""
        verdict, commands = self._core.begin(lease, self.now(), movable=movable)
        self._perform(commands)
        return verdict

    def park(self, lease: LeaseId) -> None:
        """The holder of *lease* is busy elsewhere."""
        self._step(self._core.park, lease)

    def hold(self, seconds: float) -> None:
        """The server asked to wait."""
        self._step(self._core.hold, seconds=seconds)

    async def until_held(self) -> None:
        """Wait as long as the server asked this endpoint's clients to. A checkpoint."""
        if (wait := self._core.held_until() - self.now()) > 0:
            await trio.sleep(wait)

    async def post(self, suffix: str, body: bytes) -> Answer:
        """Send *body* by HTTP to the endpoint's path with *suffix*; return the answer, whatever its status.

        A checkpoint. Cancelling closes the connection that it had for itself.

        Raises:
            DialFailedError, PoolClosedError: nothing was sent.
            WireClosedError: the answer did not come, or not whole.
        """
        self.check_use()
        if self.statistics().closed_pool:
            raise PoolClosedError("the pool is closed; nothing was sent")
        try:
            return await self._post(suffix, body)
        except ConnectError as error:
            forget(error)
            refused = Refuse(WaiterId(0), RefuseReason.DIAL_FAILED, _classified(error))
            raise refusal(refused, self._core.statistics(), error) from error
        except WireClosedError as error:
            forget(error)
            raise

    async def _post(self, suffix: str, body: bytes) -> Answer:
        # A frame of its own, which goes with its exception: it holds the credential.
        headers = await self._ask_headers()
        try:
            return await self._setup.post(suffix, headers, body)
        except (ConnectError, WireClosedError) as error:
            forget(error, _secrets(headers))
            raise

    def jitter(self) -> float:
        """Return a random number in [0, 1)."""
        return self._random.random()

    def give_up(self, lease: LeaseId) -> None:
        """The holder of *lease* gave its turn up."""
        self._step(self._core.give_up, lease)

    @enable_ki_protection
    def release(self, lease: LeaseId) -> None:
        """The holder of *lease* leaves."""
        left, now = self._leases.pop(lease, None), self.now()
        done = False if left is None or self._performing else self._core.try_release(lease, now)
        if done is False:
            self._perform(self._core.release(lease, now))
            return
        if done is not True and left is not None:
            waiter, number = done
            heir = self._leases[number] = left.heir(number)
            reschedule(self._parked.pop(waiter), outcome.Value(heir))
        if self._watchers:
            self._tell_watchers()

    def moved(self, move: Move) -> None:
        """Show *move* to the instrument."""
        self._watch(self._setup.instrument.conversation_moved, move)

    def record(self, record: TurnRecord) -> None:
        """Show *record* to the instrument."""
        self._watch(self._setup.instrument.turn_ended, record)

    # -- for connections ----------------------------------------------------------------------

    async def dial(self, nursery: trio.Nursery) -> Wire:
        """Open a wire whose tasks live in *nursery*.

        A credential that can be renewed and is refused is asked for once more, at once.
        """
        headers = await self._ask_headers()
        try:
            return await self._connect(nursery, headers)
        except ConnectError as error:
            # Not what a proxy refuses: it has not seen this credential.
            if not self._setup.renewable or error.phase != "upgrade" or error.status != 401:
                raise
            refusal = error
        renewed = await self._ask_headers()
        if renewed == headers:
            raise refusal  # the endpoint has judged this one
        forget(refusal)
        return await self._connect(nursery, renewed)

    async def _ask_headers(self) -> Headers:
        limit = self.policy.connect_timeout
        with trio.move_on_after(limit):
            return await self._setup.headers()
        raise CredentialError(f"the api_key function gave no key within {limit:g} s", phase="upgrade")

    async def _connect(self, nursery: trio.Nursery, headers: Headers) -> Wire:
        # The connector bounds the dial itself, and says in which phase its time was up.
        began, failure = trio.current_time(), "the dial was stopped"
        seconds: Mapping[str, float] = {}
        try:
            with stopwatch() as seconds:
                wire = await self._setup.connector.connect(nursery, self._setup.endpoint, headers)
            failure = ""
            return wire
        except ConnectError as error:
            forget(error, _secrets(headers))
            failure = str(error)
            raise
        finally:
            record = DialRecord(
                phases=dict(seconds),
                duration=trio.current_time() - began,
                failure=failure or None,
            )
            self._watch(self._setup.instrument.dial_ended, record)

    def on_connected(self, connection: Connection) -> None:
        """Its handshake is done."""
        connection.name_lanes(self._core.naming)
        self._step(self._core.connected, connection.id, jitter=self._random.random())

    def on_dial_failed(self, connection: Connection, error: ConnectError) -> None:
        """Its dial failed."""
        self._connections.pop(connection.id, None)
        forget(error)
        self._last_failure = error
        failure = _classified(error)
        logger.info("dial %s failed: %s", connection.id, failure.message)
        self._step(self._core.dial_failed, connection.id, failure=failure, jitter=self._random.random())

    def on_finished(self, connection: Connection, lane: Lane) -> None:
        """The terminal event of what was on the lane has come."""
        self._step(self._core.finished, connection.id, lane.id)

    def on_unusable(self, connection: Connection, reason: CloseReason) -> None:
        """It must not be used again."""
        self._step(self._core.hang_up, connection.id, reason)

    def on_named(self, connection: Connection) -> None:
        """An answer has named its lane."""
        self._step(self._core.widen, connection.id)

    def on_unnamed(self) -> None:
        """An answer should have named its lane and did not, or a request was refused for naming one."""
        self._step(self._core.narrow)

    def on_expiring(self, connection: Connection) -> None:
        """The server announced its end."""
        self._step(self._core.retire, connection.id)

    def on_lost(self, connection: Connection) -> None:
        """It died by itself."""
        self._connections.pop(connection.id, None)
        self._step(self._core.lost, connection.id, jitter=self._random.random())

    def on_gone(self, connection: Connection) -> None:
        """It was told to go, and is gone."""
        self._connections.pop(connection.id, None)
        self._step(self._core.gone, connection.id)

    # -- the shell law ------------------------------------------------------------------------

    @enable_ki_protection
    def _step(self, decide: Callable[..., list[Command]], *args: Any, **kwargs: Any) -> None:
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
        if self._core.is_due_before(self._sleeping_until):
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
                error = self._refusal(command)
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
                self._watch(self._setup.instrument.lease_leaking, lease)
            case Degraded(failure=failure):
                logger.warning("the endpoint is down: %s", failure.message)
                self._watch(self._setup.instrument.pool_degraded, failure.message)
            case Recovered(lasted=lasted):
                logger.warning("the endpoint is back after %.1f s", lasted)
                self._watch(self._setup.instrument.pool_recovered, lasted)
            case _:
                assert_never(command)

    def _tell_watchers(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _change(self) -> None:
        """Wait until something has changed."""
        self._watchers += 1
        try:
            await self._changed.wait()
        finally:
            self._watchers -= 1

    def _watch(self, tell: Callable[..., None], *args: object) -> None:
        """Tell the instrument something; its failures are its own."""
        try:
            tell(*args)
        except Exception:
            logger.exception("the pool's instrument failed; the pool is not affected")

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
                    return self._refusal(command), others
                return self._lend(command.lease, command.connection, command.lane), others
        return None, commands

    def _lend(self, number: LeaseId, on: ConnectionId, lane: LaneId) -> Lease:
        connection = self._connections[on]
        lease = self._leases[number] = Lease(self, number, connection, connection.lanes[lane])
        return lease

    def _refusal(self, command: Refuse) -> WsPoolError:
        return refusal(command, self._core.statistics(), self._last_failure)

    def _spawn(self, task: Callable[..., Awaitable[object]], *args: object) -> None:
        if self._services is None:
            raise AssertionError("bug: the pool is not running")
        self._services.start_soon(task, *args)

    def _ping(self, connection: Connection) -> None:
        interval = self.policy.ping_interval or math.inf
        if connection.paused or connection.heard_at + interval > self.now():
            # It was heard lately; anything inbound is a sign of life.
            heard_at = max(connection.heard_at, self.now() - interval / 2)
            self._step(self._core.ponged, connection.id, heard_at=heard_at)
        else:
            connection.spawn(self._ping_and_judge, connection)

    async def _ping_and_judge(self, connection: Connection) -> None:
        alive = await connection.ping()
        if self._connections.get(connection.id) is connection:
            if alive:
                self._step(self._core.ponged, connection.id, heard_at=connection.heard_at)
            else:
                self._step(self._core.hang_up, connection.id, CloseReason.LOST)

    async def _warm_up(self, connection: Connection, lane: LaneId) -> None:
        if self._setup.warm_up is None:
            raise AssertionError("bug: a warm-up without a request")
        await connection.warm_up(connection.lanes[lane], self._setup.warm_up)

    def stop(self) -> None:
        """End the pool's tasks at once, started or not. For `open_pool`; never waits."""
        self._life.cancel()

    async def serve(self) -> None:
        """Run the pool's tasks until it is closed. For `open_pool`."""
        with self._life:
            try:
                async with trio.open_nursery() as services:
                    self._services = services
                    self._step(self._core.start)
                    services.start_soon(self._keep_time)
                    self.running = True
                    self.serving.set()
            finally:
                self.running = False
                self.serving.set()
                # Reached early only if a task of the pool crashed. Nobody may wait for it then.
                self._step(self._core.force)

    async def _keep_time(self) -> None:
        while True:
            deadline = self._sleeping_until = self._core.next_deadline()
            self._wake_up = trio.Event()
            with trio.move_on_at(deadline - self._suspended()) as scope:
                await self._wake_up.wait()
            if scope.cancelled_caught:
                # Never a time before the deadline that was asked for, however floats round.
                self._perform(self._core.tick(max(deadline, self.now())))


def _classified(error: ConnectError) -> DialFailure:
    if isinstance(error, CredentialError):
        return DialFailure(kind=FailureKind.CREDENTIAL, message=str(error), phase=error.phase)
    return classify_dial(
        str(error),
        phase=error.phase,
        status=error.status,
        body=error.body,
        certificate=error.certificate,
        retry_after=parse_retry_after(error.headers, time.time()),
    )


def _secrets(headers: Headers) -> list[str]:
    return [value.removeprefix("Bearer ") for name, value in headers if is_secret(name, value)]


class _LeaseBlock:
    """The `async with` block of a lease. A class, as a generator costs more than the whole decision.

    Protected against KeyboardInterrupt on both ends, so that none can lose the lease.
    """

    __slots__ = ("_lease", "_min_remaining", "_pool")

    def __init__(self, pool: Pool, min_remaining: float) -> None:
        self._pool = pool
        self._min_remaining = min_remaining
        self._lease: Lease | None = None

    @enable_ki_protection
    async def __aenter__(self) -> Lease:
        if self._lease is not None:
            raise RuntimeError("a lease block is entered once; call lease() again")
        pool = self._pool
        pool.check_use()
        if self._min_remaining:
            pool.check_life(self._min_remaining)
        await checkpoint_if_cancelled()
        answer = pool.ask(self._min_remaining)
        if isinstance(answer, Lease):
            await cancel_shielded_checkpoint()
        elif isinstance(answer, WsPoolError):
            await cancel_shielded_checkpoint()
            raise answer
        else:
            # No checkpoint between this return and the body that the lease is for.
            answer = await wait_task_rescheduled(partial(pool.abandon, answer))
        self._lease = answer
        return answer

    @enable_ki_protection
    async def __aexit__(self, *error: object) -> None:
        if self._lease is None:
            raise AssertionError("bug: left without being entered")
        self._lease.release()
