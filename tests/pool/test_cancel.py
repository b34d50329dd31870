"""Cancelled at every step: whatever is cut where, nothing leaks, nothing is lost, nothing hangs.

The scenario is run again and again. In run *k* the task under test is cancelled just before its step *k*,
until it gets through without being cancelled.
"""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

import wspool
from tests.garbage import collect
from tests.helpers import (
    CANARY,
    URL,
    FakeConnector,
    FakeWire,
    assert_conserved,
    assert_empty,
    echo,
    fake_manager,
    policy,
)
from wspool.pool.open import _PoolManager
from wspool.server import EchoModel, Entry, open_server
from wspool.wire.trio_websocket import TrioWebSocketConnector

Scenario = Callable[[wspool.Pool], Awaitable[None]]

#: Seconds (virtual ones) that no scenario needs.
LONG = 1000.0

#: Steps that no scenario has.
MANY = 2000


class StepCanceller(trio.abc.Instrument):
    """Cancels `scope` just before step *k* of `task`, or of all tasks together."""

    def __init__(self, k: int, *, of_all: bool = False) -> None:
        self._k = k
        self._of_all = of_all
        self._steps = 0
        self.task: trio.lowlevel.Task | None = None
        self.scope: trio.CancelScope | None = None
        self.fired = False

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if self.scope is not None and (self._of_all or task is self.task):
            self._steps += 1
            if self._steps == self._k:
                self.fired = True
                self.scope.cancel()


async def one_turn(pool: wspool.Pool) -> None:
    """Take a lease, take a turn, give the lease back."""
    async with pool.lease() as lease, lease.create(model="m", input="hi") as turn:
        async for _ in turn:
            pass
        assert turn.response.status == "completed"


async def two_turns(pool: wspool.Pool) -> None:
    """Hold a conversation of two turns."""
    async with pool.conversation(model="m") as conversation:
        await conversation.respond("one")
        await conversation.respond("two")


async def get_ready(pool: wspool.Pool) -> None:
    """Wait for the spare."""
    await pool.wait_ready()


async def close(pool: wspool.Pool) -> None:
    """Close the pool while a lease is held."""
    await pool.acquire()
    await pool.aclose(grace=5)


async def wait_in_line(pool: wspool.Pool) -> None:
    """Take a lease that somebody else still has, and a turn on it."""
    async with pool.lease(), trio.open_nursery() as nursery:
        for _ in range(pool.policy.max_size):
            nursery.start_soon(one_turn, pool)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    await one_turn(pool)


async def bounded(
    manager: _PoolManager, scenario: Scenario, canceller: StepCanceller, *, around: bool
) -> wspool.Pool:
    """Run *scenario* on a pool, *canceller* at work on it or *around* the whole pool; fail if it hangs."""
    done = False

    async def body() -> None:
        nonlocal done
        canceller.task = trio.lowlevel.current_task()
        with trio.CancelScope() as scope:
            if around:
                canceller.scope = scope
            async with manager as pool:
                with trio.CancelScope() as inner:
                    if not around:
                        canceller.scope = inner
                    await scenario(pool)
                if not around:
                    canceller.scope = None
                    assert_conserved(pool.statistics())
        canceller.scope = None
        done = True

    async def rescue() -> None:
        await trio.sleep(LONG)
        # The pool shields its tasks; only from the inside can a hanging one be ended.
        if manager._shell is not None and manager._shell._services is not None:
            manager._shell._services.cancel_scope.cancel()
        raise AssertionError("the scenario hangs")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(rescue)
        await body()
        nursery.cancel_scope.cancel()
    assert done
    assert manager._shell is not None
    return wspool.Pool(manager._shell, manager.setup)


def sweep(run: Callable[[StepCanceller], Awaitable[None]], *, of_all: bool = False) -> int:
    """Run with a cancellation at every step; return how many steps there are."""
    for k in range(1, MANY):
        canceller = StepCanceller(k, of_all=of_all)

        async def main(canceller: StepCanceller = canceller) -> None:
            living = trio.lowlevel.current_statistics().tasks_living
            await run(canceller)
            await trio.testing.wait_all_tasks_blocked()
            assert living == trio.lowlevel.current_statistics().tasks_living

        try:
            trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0), instruments=[canceller])
        except BaseException as error:
            error.add_note(f"cancelled before step {k}")
            raise
        if not canceller.fired:
            collect()  # lets ResourceWarnings of all runs come out in this test
            return k - 1
    raise AssertionError("the scenario has no end")


SCENARIOS: list[tuple[Scenario, dict[str, Any]]] = [
    (one_turn, {}),
    (one_turn, {"on_cancel": "drain"}),
    (two_turns, {"min_idle": 1}),
    (two_turns, {"on_cancel": "drain", "max_size": 1}),
    (get_ready, {"min_idle": 3}),
    (close, {"min_idle": 1}),
    (wait_in_line, {"max_size": 2}),
]
NAMES = ["turn", "turn, drained", "conversation", "conversation, drained", "wait_ready", "aclose", "line"]


@pytest.mark.parametrize("of_all", [False, True], ids=["own steps", "all steps"])
@pytest.mark.parametrize(("scenario", "limits"), SCENARIOS, ids=NAMES)
def test_a_task_cancelled_at_any_step_takes_nothing_with_it(scenario, limits, of_all) -> None:
    """The account of leases and connections is right, and nothing is left when the pool is closed."""

    async def run(canceller: StepCanceller) -> None:
        connector = FakeConnector(echo)
        connector.prepare = slow
        manager = fake_manager(connector, limits=policy(**limits))
        pool = await bounded(manager, scenario, canceller, around=False)
        assert_empty(pool.statistics())
        assert connector.dialing == 0
        assert all(wire.goodbye is not None for wire in connector.wires)

    assert sweep(run, of_all=of_all) > 0


def slow(wire: FakeWire) -> None:
    """Let one message come at a time, so that there are more steps to cancel."""
    wire.batched = False


@pytest.mark.parametrize("of_all", [False, True], ids=["own steps", "all steps"])
@pytest.mark.parametrize(("scenario", "limits"), SCENARIOS[:4], ids=NAMES[:4])
def test_others_go_on_after_a_cancelled_task(scenario, limits, of_all) -> None:
    """After a cancellation at any step the next task in the same pool gets its turn."""

    async def run(canceller: StepCanceller) -> None:
        async def scenario_and_next(pool: wspool.Pool) -> None:
            scope, canceller.scope = canceller.scope, None
            with trio.CancelScope() as canceller.scope:
                await scenario(pool)
            canceller.scope = None
            assert scope is not None
            await two_turns(pool)
            statistics = pool.statistics()
            assert (0, 0) == (statistics.leased, statistics.waiting)
            assert_conserved(statistics)

        connector = FakeConnector(echo)
        connector.prepare = slow
        manager = fake_manager(connector, limits=policy(**limits))
        assert_empty((await bounded(manager, scenario_and_next, canceller, around=False)).statistics())

    assert sweep(run, of_all=of_all) > 0


@pytest.mark.parametrize("of_all", [False, True], ids=["own steps", "all steps"])
@pytest.mark.parametrize(("scenario", "limits"), SCENARIOS, ids=NAMES)
def test_a_pool_cancelled_at_any_step_is_gone(scenario, limits, of_all) -> None:
    """The same with the cancellation around the whole pool."""

    async def run(canceller: StepCanceller) -> None:
        connector = FakeConnector(echo)
        connector.prepare = slow
        manager = fake_manager(connector, limits=policy(**limits))
        pool = await bounded(manager, scenario, canceller, around=True)
        assert_empty(pool.statistics())
        assert connector.dialing == 0
        assert all(wire.goodbye is not None for wire in connector.wires)

    assert sweep(run, of_all=of_all) > 0


@pytest.mark.parametrize("of_all", [False, True], ids=["own steps", "all steps"])
def test_a_conversation_with_a_real_server_survives_any_cancellation(of_all) -> None:
    """Over a real wire and server: no request is left unfinished, and the ledger agrees with the account."""

    async def run(canceller: StepCanceller) -> None:
        ledger: list[Entry] = []
        async with open_server(EchoModel(), port=None, ledger=ledger) as server:
            manager: Any = wspool.open_pool(
                URL,
                api_key=CANARY,
                wire=TrioWebSocketConnector(open_stream=server.open_stream),
                policy=policy(max_size=1),
            )

            async def scenario(pool: wspool.Pool) -> None:
                scope, canceller.scope = canceller.scope, None
                with trio.CancelScope() as canceller.scope:
                    await two_turns(pool)
                canceller.scope = None
                assert scope is not None
                async with pool.conversation(model="m") as conversation:
                    assert (await conversation.respond("after")).output_text == "after"

            pool = await bounded(manager, scenario, canceller, around=False)
            await trio.testing.wait_all_tasks_blocked()
            assert server.statistics().creates_active == 0
            assert all(entry["unfinished_on_lane"] == 1 for entry in ledger)
            assert ("completed", 1) == (ledger[-1]["outcome"], ledger[-1]["input_items"])
            assert len(ledger) <= pool.statistics().turns <= 3
        assert_empty(pool.statistics())

    assert sweep(run, of_all=of_all) > 0


@pytest.mark.parametrize("seed", range(20))
def test_many_tasks_cancelled_at_random_leave_nothing(seed) -> None:
    """After any schedule of arrivals and cancellations: no waiter, no lease, and the account is right."""
    choice = random.Random(seed)
    limits = policy(
        max_size=choice.randint(1, 4),
        min_idle=0,
        on_cancel=choice.choice(["hang_up", "drain"]),
        max_lifetime=choice.choice([None, 50]),
    )

    async def main() -> wspool.Pool:
        connector = FakeConnector(echo)
        connector.prepare = slow

        async def work() -> None:
            await trio.sleep(choice.random() * 100)
            with trio.move_on_after(choice.choice([0, 0.001, 1, 1000])):
                for _ in range(choice.randint(1, 3)):
                    async with pool.conversation(model="m") as conversation:
                        for _ in range(choice.randint(1, 3)):
                            await conversation.respond("x")
                            await trio.sleep(choice.random() * 3)

        async def kill() -> None:
            while True:
                await trio.sleep(choice.random() * 20)
                if connector.wires:
                    choice.choice(connector.wires).push({"type": "response.stray"})

        with trio.fail_after(LONG * 10):
            async with fake_manager(connector, limits=limits) as pool, trio.open_nursery() as killers:
                killers.start_soon(kill)
                async with trio.open_nursery() as nursery:
                    for _ in range(40):
                        nursery.start_soon(tolerant, work)
                killers.cancel_scope.cancel()
                statistics = pool.statistics()
                assert (0, 0) == (statistics.waiting, statistics.leased)
                assert_conserved(statistics)
        return pool

    assert_empty(trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0)).statistics())


@pytest.mark.parametrize("waits_for", ["a lane", "a hold", "the pace"])
async def test_who_is_cancelled_as_its_wait_ends_sends_nothing(waits_for: str, autojump_clock) -> None:
    """As by the first Ctrl-C of a rollout: the lane is granted, and no request is begun on it, nor cut."""
    connector = FakeConnector(echo)
    patience = math.inf if waits_for == "the pace" else None
    limits = policy(max_size=1, refusal_patience=patience)
    async with (
        fake_manager(connector, limits=limits) as pool,
        trio.open_nursery() as nursery,
        pool.conversation(model="m") as conversation,
    ):
        scope = trio.CancelScope()

        async def ask() -> None:
            with scope:
                await conversation.respond("x")

        async with pool.lease() as lease:
            if waits_for != "a lane":
                lease.release()
                pool._shell.hold(60.0)
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            lease.release()
            pool.retry_now()
            scope.cancel()  # in the same step
        await trio.testing.wait_all_tasks_blocked()
        statistics = conversation.statistics()

        assert scope.cancelled_caught
        assert [] == connector.wire.sent
        assert 0 == statistics.full_turns + statistics.delta_turns
        assert ({}, 1) == (pool.statistics().closed, pool.statistics().idle)
        assert "ok" == (await conversation.respond("y")).output_text


async def tolerant(work: Callable[[], Awaitable[None]]) -> None:
    """Do *work*; a turn that was lost to a stray event is part of the game."""
    try:
        await work()
    except wspool.TurnLostError:
        pass
