"""The same verbs against the real trio pool, on a wire that the test holds in its hands.

The pool lives in a thread with a clock of its own that only moves when told. Every verb is
made to happen from outside (a message arrives, a task is cancelled, a dial is answered), then
all tasks run until they block, and pool and core must be in the same state.
"""

from __future__ import annotations

import contextlib
import errno
import json
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import attrs
import outcome
import trio
import trio.testing

import wspool
from tests.spec.machine import Driver
from tests.spec.world import World
from wspool.core.commands import CloseReason, ConnectionId, LeaseId, WaiterId
from wspool.core.failures import DialFailure, FailureKind
from wspool.core.lending.pool import PoolCore, Verdict
from wspool.core.policy import PoolPolicy, Provider
from wspool.core.states import Naming
from wspool.pool.attempt import Attempt
from wspool.pool.lease import Lease, LeaseBlock
from wspool.pool.open import _PoolManager, open_pool
from wspool.pool.pool import Pool
from wspool.pool.shell import Shell
from wspool.wire.wire import ConnectError, Endpoint, WireClosedError

#: Seconds of this process's work after which a pool that does not come to rest goes round in circles; on a
#: machine that is busy with other things a thread may not run for as long, and nothing is wrong.
BUSY = 3.0
#: Real seconds after which it has stopped without a trace.
STUCK = 60.0
#: Virtual seconds after which a pool does not close; nobody waits for them.
CLOSED_WITHIN = 1e6


class HeldWire:
    """A wire whose every move waits for the test. Sends are taken at once."""

    headers: Sequence[tuple[str, str]] = ()
    heard_at = 0.0

    def __init__(self) -> None:
        self.inbound, self._received = trio.open_memory_channel[str](1000)
        self.sent: list[bytes] = []
        self.may_go = trio.Event()
        self.aborted = False
        #: Whether the pool has been told that it has ended.
        self.end_seen = False

    async def send(self, message: bytes) -> None:
        await trio.lowlevel.checkpoint()
        if self.aborted:
            raise WireClosedError
        self.sent.append(message)

    async def receive(self) -> Sequence[str | bytes]:
        try:
            return [await self._received.receive()]
        except trio.EndOfChannel:
            self.end_seen = True
            raise WireClosedError(1006) from None

    async def ping(self) -> None:
        await trio.sleep_forever()

    async def aclose(self) -> None:
        await self.may_go.wait()

    async def abort(self) -> None:
        self.aborted = True
        with trio.CancelScope(shield=True):
            await self.may_go.wait()
            self._received.close()
            self.inbound.close()


@attrs.define(eq=False)
class HeldDial:
    """A dial without an answer yet."""

    answer: outcome.Outcome[HeldWire] | None = None
    answered: trio.Event = attrs.field(factory=trio.Event)
    may_go: trio.Event = attrs.field(factory=trio.Event)


class HeldConnector:
    """Dials that the test answers, by the number of the connection they are for."""

    def __init__(self) -> None:
        self.pool: Pool | None = None
        self.dials: dict[ConnectionId, HeldDial] = {}

    async def connect(
        self, nursery: trio.Nursery, endpoint: Endpoint, headers: Sequence[tuple[str, str]]
    ) -> HeldWire:
        assert self.pool is not None
        mine = [c.id for c in self.pool._shell._connections.values() if c.link.nursery is nursery]
        dial = self.dials[mine[0]] = HeldDial()
        try:
            await dial.answered.wait()
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await dial.may_go.wait()
            raise
        assert dial.answer is not None
        return dial.answer.unwrap()


class BodyError(Exception):
    """What every other body ends with."""


class Dice:
    """The pool's randomness: the number the test has drawn."""

    def __init__(self) -> None:
        self.next = 0.0

    def random(self) -> float:
        return self.next


class TrioDriver(Driver):
    """Drives a real pool in a thread."""

    prompt = True

    def __init__(self, policy: PoolPolicy, provider: Provider, *, warm_up: bool) -> None:
        self.connector = HeldConnector()
        self.wires: dict[ConnectionId, HeldWire] = {}
        self.scopes: dict[WaiterId, trio.CancelScope] = {}
        self.bodies: dict[LeaseId, trio.Event] = {}
        self.leases: dict[LeaseId, Lease] = {}
        self.attempts: dict[LeaseId, Attempt] = {}
        self.dice = Dice()
        self.responses = 0
        self.clock = trio.testing.MockClock()
        self.failure: BaseException | None = None
        manager = open_pool(
            "ws://localhost/",
            api_key="key",
            policy=policy,
            provider=provider,
            wire=self.connector,
            warm_up={"model": "spec"} if warm_up else None,
        )
        self._manager = cast("_PoolManager", manager)
        self._started = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    # -- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            trio.run(self._main, clock=self.clock)
        except BaseException as error:
            self.failure = error
        finally:
            self._started.set()
            self._ended.set()

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._end = trio.Event()
        shell = self._manager._shell = Shell(self._manager.setup)
        pool = self.connector.pool = Pool(shell, self._manager.setup)
        shell.jitter = self.dice.random
        async with trio.open_nursery() as users:
            self.users = users
            async with trio.open_nursery() as services:
                services.start_soon(shell.serve)
                await shell.serving.wait()
                await trio.testing.wait_all_tasks_blocked()
                self.pool = pool
                self._started.set()
                await self._end.wait()
                # `aclose` waits for goodbyes in virtual time, which moves by itself from here on.
                self.clock.autojump_threshold = 0
                trio.lowlevel.spawn_system_task(self._expect_the_end)
                users.cancel_scope.cancel()
                for dial in self.connector.dials.values():
                    dial.may_go.set()
                for wire in self.wires.values():
                    wire.may_go.set()
                await pool.aclose()
        self.left = shell._connections, shell._parked, shell.core.statistics()

    async def _expect_the_end(self) -> None:
        await trio.sleep(CLOSED_WITHIN)
        self.failure = AssertionError("the pool does not close")
        self._ended.set()

    def _wait_for(self, event: threading.Event) -> None:
        """Wait for what the pool's thread does next, which may come late on a busy machine."""
        began, worked = time.monotonic(), time.process_time()
        while not event.wait(0.5):
            if not self._thread.is_alive():
                assert event.is_set(), f"the pool has ended: {self.failure!r}"
                break
            assert time.process_time() < worked + BUSY, "the pool does not come to rest"
            assert time.monotonic() < began + STUCK, "the pool has stopped"
        assert self.failure is None, self.failure

    def _soon(self, task: Callable[[], Awaitable[None]]) -> None:
        try:
            self._token.run_sync_soon(trio.lowlevel.spawn_system_task, task)
        except trio.RunFinishedError:
            raise AssertionError(f"the pool has ended: {self.failure!r}") from None

    def do(self, what: Callable[[], Awaitable[Any]]) -> Any:
        """Run *what* in the pool's thread, and everything that follows from it."""
        box: list[Any] = []

        async def run() -> None:
            box.append(await outcome.acapture(what))
            await trio.testing.wait_all_tasks_blocked()

        done = threading.Event()

        async def guarded() -> None:
            try:
                await run()
            finally:
                done.set()

        self._soon(guarded)
        self._wait_for(done)
        return box[0].unwrap()

    # -- Driver -----------------------------------------------------------------------------------

    def advance(self, now: float, to: float) -> float:
        async def jump() -> float:
            # Floats: adding the difference may fall a hair short.
            while (missing := to - trio.current_time()) > 0:
                self.clock.jump(max(missing, 1e-9))
            return trio.current_time()

        return float(self.do(jump))

    def perform(self, verb: str, args: tuple[Any, ...], kwargs: dict[str, Any], world: World) -> None:
        async def act() -> None:
            await trio.lowlevel.checkpoint()
            getattr(self, f"do_{verb}")(*args, world=world, **kwargs)
            if verb == "lost":
                await self._watch_end(args[0], 6)

        if verb == "start":
            self._thread.start()
            self._wait_for(self._started)
        else:
            self.do(act)

    def cancel_as_granted(self, lease: LeaseId, waiter: WaiterId, heir: LeaseId, now: float) -> None:
        async def act() -> None:
            await trio.lowlevel.checkpoint()
            self.leases[lease].release()
            self.scopes[waiter].cancel()

        self.do(act)

    def ends_as_asked(
        self, number: ConnectionId, waiter: WaiterId, rounds: int, *, now: float, jitter: float
    ) -> bool:
        known: list[bool] = []

        async def act() -> None:
            self._ends(number, jitter)
            await self._watch_end(number, rounds)
            self._acquire(waiter, 0.0, lambda: known.append(self.wires[number].end_seen))

        self.do(act)
        return known[0]

    def compare(self, core: PoolCore, world: World) -> None:
        real = self.pool._shell.core
        assert core.statistics() == real.statistics(), f"{core.statistics()} {real.statistics()}"
        assert core.states() == real.states()
        assert core.naming is real.naming
        assert set(world.waiters) == set(self.pool._shell._parked), "the line is not the tasks that wait"
        assert set(world.leases) == {number for number, lease in self.leases.items() if lease.alive}
        assert core.next_deadline() == real.next_deadline()
        for lease in world.expiring:
            assert self.leases[lease].expiring, "nobody told the holder"

    def end(self) -> None:
        async def end() -> None:
            await trio.lowlevel.checkpoint()
            self._end.set()

        # The run ends with it, at any moment from here on: nothing may be asked of it any more.
        self._soon(end)
        self._wait_for(self._ended)
        self._thread.join()
        connections, parked, statistics = self.left
        assert {} == connections
        assert {} == parked
        assert statistics.granted == statistics.released + statistics.lost_leases + statistics.stolen

    # -- verbs ------------------------------------------------------------------------------------

    def do_acquire(
        self,
        waiter: WaiterId,
        *,
        world: World,
        now: float,
        min_remaining: float = 0.0,
        prefer: int | None = None,
        warm: bool = False,
    ) -> None:
        self._acquire(waiter, min_remaining, prefer=None if prefer is None else f"r{prefer}", warm=warm)

    def _acquire(
        self,
        waiter: WaiterId,
        min_remaining: float,
        asking: Callable[[], None] = lambda: None,
        *,
        prefer: str | None = None,
        warm: bool = False,
    ) -> None:
        scope = self.scopes[waiter] = trio.CancelScope()

        async def user() -> None:
            asking()
            with scope, contextlib.suppress(BodyError, wspool.WsPoolError):
                async with LeaseBlock(self.pool._shell, min_remaining, prefer, warm=warm) as lease:
                    assert lease.resumed is (prefer is not None and lease.lane.latest == prefer)
                    self.leases[lease._id] = lease
                    body = self.bodies[lease._id] = trio.Event()
                    await body.wait()
                    attempt = self.attempts.get(lease._id)
                    if attempt is not None and not attempt.ended:
                        lease.give_up(attempt)
                    if lease._id % 2:
                        raise BodyError

        self.users.start_soon(user)

    def do_abandon(self, waiter: WaiterId, *, world: World, now: float) -> None:
        self.scopes[waiter].cancel()

    def do_connected(self, number: ConnectionId, *, world: World, now: float, jitter: float) -> None:
        self.dice.next = jitter
        wire = self.wires[number] = HeldWire()
        self._answer(number, outcome.Value(wire))

    def do_dial_failed(
        self, number: ConnectionId, *, world: World, now: float, failure: DialFailure, jitter: float
    ) -> None:
        self.dice.next = jitter
        hint = failure.retry_after
        error = ConnectError(
            "spec",
            phase="tcp" if failure.phase == "tcp" else "upgrade",
            status=401 if failure.kind is FailureKind.CREDENTIAL else None,
            headers=() if hint is None else (("retry-after", str(hint)),),
        )
        if failure.kind is FailureKind.LOCAL:
            error.__cause__ = OSError(errno.EMFILE, "spec")
        self._answer(number, outcome.Error(error))

    def _answer(self, number: ConnectionId, answer: outcome.Outcome[HeldWire]) -> None:
        dial = self.connector.dials[number]
        dial.answer = answer
        dial.answered.set()

    def do_begin(self, number: LeaseId, *, world: World, now: float, movable: bool) -> None:
        lease = self.leases[number]
        if lease.begin(movable=movable) is Verdict.GO:

            async def send() -> None:
                attempt = self.attempts[number] = Attempt(None, lease.stream_id)
                attempt.machine.keeps = movable
                await lease.send(b"{}", attempt)

            self.users.start_soon(send)

    def do_finished(
        self,
        number: ConnectionId,
        lane: int,
        *,
        world: World,
        now: float,
        completed: bool = True,
        response: int | None = None,
        calls: bool = True,
    ) -> None:
        connection = self.pool._shell._connections[number]
        attempt = connection.lanes[lane].attempt
        assert attempt is not None, "the real pool has nothing on that lane"
        name = connection.stream_id(connection.lanes[lane])
        self.responses += 1
        named = f"r{response}" if response is not None else f"other{self.responses}"
        response_id = attempt.machine.response_id or named
        end = "completed" if completed or connection.lanes[lane].warming is not None else "failed"
        for kind in ("created", end)[attempt.machine.response_id is not None :]:
            call = {"type": "function_call", "call_id": "c", "name": "tool", "arguments": "{}"}
            asks = calls and completed and kind == end and connection.lanes[lane].warming is None
            response_body = {"id": response_id, "output": [call] if asks else [], "status": end}
            event = {"type": f"response.{kind}", "response": response_body}
            self._arrives(number, json.dumps(event if name is None else {**event, "stream_id": name}))

    def do_widen(self, number: ConnectionId, *, world: World, now: float) -> None:
        self._arrives(number, '{"type":"notice","stream_id":"lane0"}')

    def do_narrow(self, *, world: World, now: float) -> None:
        assert world.answering is not None
        created = f"r{world.answering.lanes[0].created}"
        event = {"type": "response.created", "response": {"id": created}}
        self._arrives(world.answering.id, json.dumps(event))

    def do_over(self, response: int, *, world: World, now: float) -> None:
        self.pool._shell.step(self.pool._shell.core.over, hash(f"r{response}"))

    def do_give_up(self, number: LeaseId, *, world: World, now: float, heard: bool, sent: bool) -> None:
        self.attempts[number].sending = not sent  # as while the network does not take it
        self.leases[number].give_up(self.attempts[number])

    def do_release(self, number: LeaseId, *, world: World, now: float) -> None:
        lease, body, attempt = self.leases[number], self.bodies.get(number), self.attempts.get(number)
        if body is None or body.is_set():
            if attempt is not None and not attempt.ended:
                lease.give_up(attempt)
            lease.release()
        else:
            body.set()

    def do_acquire_nowait(self, waiter: WaiterId, *, world: World, now: float) -> None:
        with contextlib.suppress(trio.WouldBlock, wspool.PoolClosedError):
            lease = self.pool.acquire_nowait()
            self.leases[lease._id] = lease

    def do_park(self, number: LeaseId, *, world: World, now: float) -> None:
        self.leases[number].park()

    def do_pause(self, *, world: World, now: float) -> None:
        self.pool.pause()

    def do_resume(self, *, world: World, now: float) -> None:
        self.pool.resume()

    def do_resize(self, *, world: World, now: float, max_size: int, min_idle: int) -> None:
        self.pool.resize(max_size=max_size, min_idle=min_idle)

    def do_clear(self, *, world: World, now: float, interrupt: bool) -> None:
        self.pool.clear(interrupt=interrupt)

    def do_drain(self, *, world: World, now: float) -> None:
        self.pool.drain()

    def do_hold(self, *, world: World, now: float, seconds: float) -> None:
        self.pool._shell.hold(seconds)

    def do_retry_now(self, *, world: World, now: float) -> None:
        self.pool.retry_now()

    def do_lost(self, number: ConnectionId, *, world: World, now: float, jitter: float) -> None:
        self._ends(number, jitter)

    def _ends(self, number: ConnectionId, jitter: float) -> None:
        self.dice.next = jitter
        wire = self.wires[number]
        if number % 2:
            wire.may_go.set()  # else its tasks and its socket are there until the end of the pool
        wire.inbound.close()

    async def _watch_end(self, number: ConnectionId, rounds: int) -> None:
        """The core knows of the end as soon as the pool does, not a round later."""
        for _ in range(rounds):
            await trio.lowlevel.checkpoint()
            known = number not in self.pool._shell.core.states()
            assert known is self.wires[number].end_seen, "the core counts on what is known to be over"

    def do_hang_up(self, number: ConnectionId, reason: CloseReason, *, world: World, now: float) -> None:
        limit = '{"type":"error","status":400,"error":{"code":"websocket_connection_limit_reached"}}'
        stray = '{"type":"response.output_text.delta"}'
        connection = self.pool._shell._connections[number]
        if connection.naming is Naming.NAMED:
            stray = "[]"  # whatever names a lane is no trouble of the others
        elif connection.naming is Naming.TRIAL and connection.lanes[0].attempt is not None:
            stray = "{}"  # whatever else it is would be an answer
        self._arrives(number, limit if reason is CloseReason.LIMIT else stray)

    def do_distrust(self, number: ConnectionId, *, world: World, now: float) -> None:
        self._arrives(number, '{"type":"response.output_text.delta","stream_id":"foreign"}')

    def do_retire(self, number: ConnectionId, *, world: World, now: float) -> None:
        self._arrives(number, '{"type":"error","status":400,"error":{"code":"connection_expiring"}}')

    def do_gone(self, number: ConnectionId, *, world: World, now: float) -> None:
        if number in self.wires:
            self.wires[number].may_go.set()
        self.connector.dials[number].may_go.set()

    def do_tick(self, *, world: World, now: float) -> None:
        """The timekeeper has done it."""

    def do_close(self, *, world: World, now: float) -> None:
        self.pool._shell.step(self.pool._shell.core.close)

    def do_force(self, *, world: World, now: float) -> None:
        self.pool._shell.step(self.pool._shell.core.force)

    def _arrives(self, number: ConnectionId, message: str) -> None:
        self.wires[number].inbound.send_nowait(message)
