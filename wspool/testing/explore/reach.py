"""Reach: all that the explorer needs of trio's inside, in one place.

trio leaves three things open, and answers them by chance: the order of the tasks that are runnable at a time,
of the tasks that one cancellation reaches, and of the timers that are due at the same instant. Who explores
must answer them instead. No public name of trio lets anybody do that, so this module takes hold of five
private ones, of a run's own thread only:

* `_run._ALLOW_DETERMINISTIC_SCHEDULING` and `_run._r`, what trio shuffles each batch of tasks with, and which
  Hypothesis and pytest-trio take hold of as well;
* `CancelStatus._tasks` and `_children`, sets that are walked in the order of memory addresses, which become
  ordered ones, and `CancelStatus._scope`, to end what is shielded and will never end;
* `id`, which breaks the tie of two equal deadlines in trio's heap; in that module it counts instead.

All else is done with instruments, statistics and the mock clock, which are public. A trio that differs is
told of in one sentence, before anything runs (`check_trio`).
"""

from __future__ import annotations

import builtins
import importlib
import itertools
import random
import threading
from collections.abc import Callable, Generator, Iterator, MutableSequence
from contextlib import contextmanager
from typing import Any, Final, Protocol, TypeVar

import trio

__all__ = [
    "Governor",
    "UnsupportedTrioError",
    "check_trio",
    "current_governor",
    "governed",
    "tame",
    "unshield",
]

_T = TypeVar("_T")

_run: Final[Any] = importlib.import_module("trio._core._run")
_lock: Final = threading.Lock()


class UnsupportedTrioError(RuntimeError):
    """This version of trio does not have what exploring needs."""


class Governor(Protocol):
    """What answers the questions that trio leaves open."""

    def order(self, batch: MutableSequence[trio.lowlevel.Task]) -> None:
        """Put *batch* in the order in which its tasks run. A checkpoint of nobody."""
        ...

    def told_first(self, among: int) -> int:
        """Return which of so many is told of its cancellation first, from 0."""
        ...


class _Here(threading.local):
    """What governs the run of this thread."""

    governor: Governor | None = None


_here: Final = _Here()


class _Dice:
    """Stands where trio has its dice: asks the governor of this thread, and is those dice for every other."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice

    def __getattr__(self, name: str) -> object:
        return getattr(self._dice, name)

    def shuffle(self, batch: MutableSequence[Any]) -> None:
        if _here.governor is None:
            self._dice.shuffle(batch)
        else:
            _here.governor.order(batch)


class _InOrder(dict[_T, None]):
    """Stands where trio has a set of those whom a cancellation reaches: in the order in which they came."""

    def add(self, member: _T) -> None:
        self[member] = None

    def remove(self, member: _T) -> None:
        del self[member]

    def __iter__(self) -> Iterator[_T]:
        members = list(super().__iter__())
        if len(members) > 1 and _here.governor is not None:
            members.insert(0, members.pop(_here.governor.told_first(len(members))))
        return iter(members)


class _Stacked(_InOrder[_T]):
    """The same for a set that trio puts upon a stack, and takes from its top."""

    def __iter__(self) -> Iterator[_T]:
        return reversed(list(super().__iter__()))


class _Counting:
    """Stands where trio has `id`: counts the timers that are set, so that of equal ones the older is
    first.
    """

    def __init__(self) -> None:
        self._count = itertools.count()

    def __call__(self, thing: object) -> int:
        if _here.governor is None or not isinstance(thing, trio.CancelScope):
            return builtins.id(thing)
        return next(self._count)


def tame(task: trio.lowlevel.Task, age: Callable[[trio.lowlevel.Task], int]) -> None:
    """Put the sets of whom a cancellation of *task*'s scopes reaches in order, the oldest by *age* first.

    Call it after each step of *task*: what it has opened in that step has reached nobody yet.
    """
    status: Any = getattr(task, "_cancel_status")  # noqa: B009 # a private name, see above
    while status is not None and not isinstance(status._tasks, _InOrder):
        status._tasks = _InOrder.fromkeys(sorted(status._tasks, key=age))
        status._children = _Stacked.fromkeys(status._children)
        status = status._parent


def unshield(task: trio.lowlevel.Task) -> None:
    """Let a cancellation from outside reach *task*, whatever it has shielded."""
    status: Any = getattr(task, "_cancel_status")  # noqa: B009 # a private name, see above
    while status is not None:
        status._scope.shield = False
        status = status._parent


def current_governor() -> Governor | None:
    """Return what governs the run of this thread, if anything does."""
    return _here.governor


_depth = 0
_before: dict[str, object] = {}


@contextmanager
def governed(governor: Governor) -> Generator[None, None, None]:
    """Let *governor* answer for the run that this thread makes in the block."""
    global _depth
    with _lock:
        if _depth == 0:
            _before.update(_ALLOW_DETERMINISTIC_SCHEDULING=_run._ALLOW_DETERMINISTIC_SCHEDULING, _r=_run._r)
            _run._ALLOW_DETERMINISTIC_SCHEDULING, _run._r, _run.id = True, _Dice(_run._r), _Counting()
        _depth += 1
    _here.governor = governor
    try:
        yield
    finally:
        _here.governor = None
        with _lock:
            _depth -= 1
            if _depth == 0:
                for name, value in _before.items():
                    setattr(_run, name, value)
                del _run.id


# -- whether this trio has it -----------------------------------------------------------------------


class _Backwards:
    """A governor for `check_trio`: the youngest first, and of the cancelled the last."""

    def __init__(self) -> None:
        self.batches = 0

    def order(self, batch: MutableSequence[trio.lowlevel.Task]) -> None:
        self.batches += 1  # trio has sorted it by age, and takes from the end

    def told_first(self, among: int) -> int:
        return among - 1


_checked = False


def check_trio() -> None:
    """Raise `UnsupportedTrioError` if this trio does not obey. A small program tells, once a process."""
    global _checked
    if _checked:
        return
    missing = [name for name in ("_ALLOW_DETERMINISTIC_SCHEDULING", "_r") if not hasattr(_run, name)]
    if not missing:
        try:
            obeyed = _obeyed()
        except Exception as error:
            missing = [f"{type(error).__name__}: {error}"]
        else:
            missing = [what for what, so in obeyed.items() if not so]
    if missing:
        raise UnsupportedTrioError(
            f"wspool.testing.explore cannot explore with trio {trio.__version__}, whose inside is another "
            f"than the one it knows ({', '.join(missing)})"
        )
    _checked = True


def _obeyed() -> dict[str, bool]:
    """Run a small program backwards; return what was obeyed."""
    ran: list[str] = []
    told: list[str] = []
    due: list[str] = []

    async def wait(name: str) -> None:
        def abort(_: object) -> trio.lowlevel.Abort:
            told.append(name)
            return trio.lowlevel.Abort.SUCCEEDED

        ran.append(name)
        with trio.CancelScope():
            await trio.lowlevel.wait_task_rescheduled(abort)

    async def sleep(name: str, scope: trio.CancelScope) -> None:
        def abort(_: object) -> trio.lowlevel.Abort:
            due.append(name)
            return trio.lowlevel.Abort.SUCCEEDED

        with scope:
            await trio.lowlevel.wait_task_rescheduled(abort)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for name in "abc":
                nursery.start_soon(wait, name)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        # Made first and set last: only the order of setting may tell.
        scopes = [trio.CancelScope() for _ in range(3)]
        async with trio.open_nursery() as nursery:
            for name, scope in zip("abc", reversed(scopes), strict=True):
                scope.deadline = 1.0
                nursery.start_soon(sleep, name, scope)

    class _Tame(trio.abc.Instrument):
        def __init__(self) -> None:
            self.ages: dict[trio.lowlevel.Task, int] = {}

        def task_spawned(self, task: trio.lowlevel.Task) -> None:
            self.ages[task] = len(self.ages)

        def after_task_step(self, task: trio.lowlevel.Task) -> None:
            tame(task, self.ages.__getitem__)

    governor = _Backwards()
    with governed(governor):
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0), instruments=[_Tame()])
    return {
        "the order of tasks": governor.batches > 0 and ran == ["c", "b", "a"],
        # They came as they ran: c, b, a.
        "the order of cancellation": told == ["a", "c", "b"],
        "the order of timers": due == ["c", "b", "a"],
    }
