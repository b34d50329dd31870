"""Steps: runs a scenario again and again, and does something at its first, second, third ... scheduler step.

Four things can be done at a step:

* `cancel own`, `cancel any`: cancel the scope around the user's task, just before a step of that task, or of
  any task;
* `raise`: what the user's task waits for right then ends in an exception of the user. Every wait of a
  scenario goes through `Steps.wait`, which has a scope of its own: the instrument cancels the innermost one,
  and `wait` raises `Mishap` in its place, inside whatever blocks the task is in;
* `interrupt`: SIGINT arrives just before a step of any task, so that trio raises KeyboardInterrupt in the
  main task, which is the user's.

A sweep goes on until the scenario gets through untouched. Where it has thousands of steps it may stride:
every n-th step is tried, and the first is drawn from the name, so that several sweeps see different ones.
"""

from __future__ import annotations

import signal
import zlib
from collections.abc import Awaitable, Callable
from typing import Final, Literal, TypeVar

import trio
import trio.testing

import wspool
from tests.garbage import collect
from tests.simulation.world import deterministic
from wspool.pool.open import _PoolManager

__all__ = ["ACTIONS", "LONG", "Action", "Mishap", "Scenario", "Steps", "leaves", "live", "sweep"]

Action = Literal["cancel own", "cancel any", "raise", "interrupt"]
ACTIONS: Final[tuple[Action, ...]] = ("cancel own", "cancel any", "raise", "interrupt")

#: Seconds (virtual ones) that no scenario needs.
LONG: Final = 1000.0

#: Steps that no scenario has.
_MANY: Final = 5000

_T = TypeVar("_T")


class Mishap(Exception):
    """Something of the user's that went wrong."""


class Steps(trio.abc.Instrument):
    """Acts before step *k*.

    Attributes:
        fired: whether it has acted.
        struck: the wait of the user's in which `raise` has acted, and before which step of that, from 1.
        met: whether that wait has ended in the mishap.
        waits: how many steps each wait of the user's took.
        caught: what came out of the user's part.
    """

    def __init__(self, k: int, action: Action) -> None:
        self.fired = False
        self.struck: tuple[int, int] | None = None
        self.met = False
        self.waits: list[int] = []
        self.caught: BaseException | None = None
        self._k = k
        self._action = action
        self._seen = 0
        self._task: trio.lowlevel.Task | None = None
        self._scope: trio.CancelScope | None = None
        #: The waits that the user's task is in, by their numbers.
        self._scopes: dict[int, trio.CancelScope] = {}

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if self._task is None or self.fired:
            return
        if self._action in ("cancel own", "raise") and task is not self._task:
            return
        if self._action == "raise":
            if not self._scopes:
                return
            self.waits[max(self._scopes)] += 1
        self._seen += 1
        if self._seen < self._k:
            return
        self.fired = True
        match self._action:
            case "raise":
                wait = max(self._scopes)
                self.struck = wait, self.waits[wait]
                self._scopes[wait].cancel()
            case "interrupt":
                signal.raise_signal(signal.SIGINT)
            case _:
                assert self._scope is not None
                self._scope.cancel()

    def open(self) -> None:
        """The running task begins to open the pool."""
        if self._action == "interrupt":
            self._task = trio.lowlevel.current_task()

    def close(self) -> None:
        """The pool is closed."""
        self._task = None

    async def around(self, scenario: Scenario, pool: wspool.Pool) -> None:
        """Run the user's part; what was done to it may come out of it, and nothing else."""
        self._task = trio.lowlevel.current_task()
        try:
            with trio.CancelScope() as self._scope:
                await scenario(pool, self)
            assert not self._scope.cancelled_caught or self._action.startswith("cancel")
        except BaseException as error:
            self.caught = error
            if not all(isinstance(leaf, Mishap) for leaf in leaves(error)):
                raise  # an interrupt goes through the pool's own block too
        finally:
            if self._action != "interrupt":
                self._task = None

    async def wait(self, what: Callable[..., Awaitable[_T]], *args: object) -> _T:
        """Wait for *what*, a step at which the user's own exception may strike."""
        number = len(self.waits)
        self.waits.append(0)
        with trio.CancelScope() as scope:
            self._scopes[number] = scope
            try:
                return await what(*args)
            finally:
                del self._scopes[number]
        self.met = True
        raise Mishap


Scenario = Callable[[wspool.Pool, Steps], Awaitable[None]]


async def live(manager: _PoolManager, scenario: Scenario, steps: Steps) -> None:
    """Open the pool and run *scenario* on it; fail if that takes too long.

    An interrupt may come at any step from the opening to the end of the closing, everything else while
    *scenario* runs.
    """
    steps.open()
    async with trio.open_nursery() as nursery:

        async def rescue() -> None:
            await trio.sleep(LONG)
            # The pool shields its tasks; only from the inside can a hanging one be ended.
            if manager._shell is not None and manager._shell._services is not None:
                manager._shell._services.cancel_scope.cancel()
            raise AssertionError("the scenario hangs")

        nursery.start_soon(rescue)
        async with manager as pool:
            await steps.around(scenario, pool)
            assert_settled(pool)
        steps.close()
        nursery.cancel_scope.cancel()


def assert_settled(pool: wspool.Pool) -> None:
    """Assert that the user's task has left nothing in the pool, and that the account is right."""
    statistics = pool.statistics()
    s = statistics

    assert (0, 0, 0) == (s.leased, s.waiting, len(pool._shell._parked)), s
    assert s.granted == s.released + s.lost_leases + s.stolen, s
    assert s.dialed == s.dialing + s.open + s.retiring + sum(s.closed.values()), s
    assert s.size <= s.max_size, s


def leaves(error: BaseException) -> list[BaseException]:
    """The exceptions in *error* that are no groups."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for inner in error.exceptions for leaf in leaves(inner)]


def sweep(
    main: Callable[[Steps], Awaitable[None]],
    action: Action,
    name: str,
    *,
    stride: int = 1,
    clock: bool = True,
) -> int:
    """Run *main* with *action* at every (*stride*-th) step; return how many steps there are.

    Args:
        main: one run: it calls `live`, and checks what is left.
        action: what to do.
        name: of the scenario; draws the first step of a strided sweep.
        stride: 1 for every step.
        clock: False for real time.
    """
    for k in range(1 + zlib.crc32(name.encode()) % stride, _MANY, stride):
        steps = Steps(k, action)

        async def run(steps: Steps = steps) -> None:
            living = trio.lowlevel.current_statistics().tasks_living
            await main(steps)
            await trio.testing.wait_all_tasks_blocked()
            assert living == trio.lowlevel.current_statistics().tasks_living

        came: BaseException | None = None
        try:
            with deterministic(0):  # so that step k comes after the same steps in every run
                trio.run(
                    run,
                    clock=trio.testing.MockClock(autojump_threshold=0) if clock else None,
                    instruments=[steps],
                )
        except KeyboardInterrupt as error:
            came = error
        except BaseExceptionGroup as group:
            if [KeyboardInterrupt] != [type(leaf) for leaf in leaves(group)]:
                group.add_note(f"{action} before step {k}")
                raise
            came = group
        except BaseException as error:
            error.add_note(f"{action} before step {k}")
            raise
        if action == "interrupt":
            assert steps.fired == (came is not None), f"the interrupt before step {k} was swallowed"
        if not steps.fired:
            collect()  # lets ResourceWarnings of all runs come out in this test
            return k - 1
    raise AssertionError("the scenario has no end")
