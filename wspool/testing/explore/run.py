"""Run: one run of a program, in which a decider takes every choice that trio or the program leaves open.

Time is virtual. It jumps when nothing is runnable; and if the world may *stall*, it may also jump to the next
timer while tasks are runnable, as it does for a process that is slow. A run ends with the program, or with
the first thing that goes wrong; then the program is cancelled, and what it does from there on is not looked
at. One that has a thread work for it is given up, and accused of nothing.
"""

from __future__ import annotations

import gc
import random
import sys
import time
from collections.abc import Awaitable, Callable, Generator, MutableSequence, Sequence
from contextlib import contextmanager, suppress
from typing import Final, Literal, TypeAlias, cast

import attrs
import trio
import trio.testing

from wspool.core.given import check_callable, check_number
from wspool.testing.explore.deciders import Decider, Kind
from wspool.testing.explore.reach import current_governor, governed, tame, unshield
from wspool.testing.explore.sight import Sight, place_of, raised_at

__all__ = ["Failure", "FailureSort", "NotDeterministicError", "Program", "Run", "Terms", "current_run"]

#: What is explored: called anew for each run.
Program: TypeAlias = Callable[[], Awaitable[object]]

#: What can go wrong: it raised, an invariant broke, nothing could go on, or it did not end.
FailureSort: TypeAlias = Literal["error", "invariant", "deadlock", "endless"]

#: Loops of trio in a row without a step and without a timer, after which nothing will ever happen: one may
#: wake those who wait for all others to block, the next shows that there are none.
_IDLE: Final = 3

#: A moment, in real seconds, and how many of them a thread is given to end.
_MOMENT: Final = 0.001
_MOMENTS: Final = 1000

#: What is no failure of the program, but wants it to end.
_ORDERS: Final = (KeyboardInterrupt, SystemExit, GeneratorExit, trio.Cancelled)

#: trio's own tasks, by age: `<init>`, and the one for what other threads bring; between them, the main one.
_OWN: Final = (0, 2)
_MAIN: Final = 1


class NotDeterministicError(AssertionError):
    """A program depends on what no tape has: it did something else under the same choices, or has threads."""


@attrs.frozen
class Terms:
    """What holds for each run of an exploration.

    Attributes:
        invariant: called after each step; broken if it raises, or returns False.
        stall: virtual seconds that the process may lose at a time: timers due within may fire early.
        max_steps: steps after which a run counts as endless.
    """

    invariant: Callable[[], object] | None = None
    stall: float = 0.0
    max_steps: int = 20_000

    def __attrs_post_init__(self) -> None:
        if self.invariant is not None:
            check_callable("invariant", self.invariant)
        check_number("stall", self.stall, 0)
        check_number("max_steps", self.max_steps, 1, whole=True)


@attrs.frozen
class Failure:
    """What went wrong in a run.

    Attributes:
        sort: what kind of thing.
        message: what happened, for people.
        error: what was raised, if anything was.
        step: the steps made until then.
    """

    sort: FailureSort
    message: str
    error: BaseException | None
    step: int

    def is_like(self, other: Failure | None) -> bool:
        """Return whether *other* is the same failure: of one kind, with errors of the same types."""
        return other is not None and self._likeness() == other._likeness()

    def _likeness(self) -> tuple[FailureSort, frozenset[type]]:
        return self.sort, frozenset(map(type, _leaves(self.error)))


class Run(trio.abc.Instrument):
    """One run.

    Args:
        program: what runs.
        decider: who takes the choices.
        terms: what holds for it.
        sight: what is told of each step, if anything is.

    Attributes:
        failure: what went wrong, if anything did.
        options: how many options each choice had, by place.
        deviations: places and options of the choices that did not take the first.
        ran: which task made each step, by age.
        scopes: those that the program lets be cancelled at any step, and who opened them.
        checks: what is called after each step.
        calm: how many have asked for no choices.
    """

    def __init__(self, program: Program, decider: Decider, terms: Terms, sight: Sight | None = None) -> None:
        self.failure: Failure | None = None
        self.options: list[int] = []
        self.deviations: list[tuple[int, int]] = []
        self.ran: list[int] = []
        self.scopes: dict[trio.CancelScope, trio.lowlevel.Task] = {}
        self.checks: list[Callable[[], object]] = [] if terms.invariant is None else [terms.invariant]
        self.calm = 0
        self._program = program
        self._decider = decider
        self._terms = terms
        self._sight = sight
        self._active = self._unshielded = self._abandoned = self._finished = False
        self._ages: dict[trio.lowlevel.Task, int] = {}
        self._names: dict[trio.lowlevel.Task, str] = {}
        self._bearers: dict[str, int] = {}
        self._living: dict[trio.lowlevel.Task, None] = {}
        self._scheduled: dict[trio.lowlevel.Task, tuple[int, int]] = {}
        self._idle = self._last_steps = 0
        self._root = trio.CancelScope()
        #: Where the program had a thread work for it, and the moments that are left for that to end.
        self._in_thread = ""
        self._moments = _MOMENTS

    def make(self) -> Run:
        """Make the run, and return it.

        Raises:
            NotDeterministicError: the program uses threads.
        """
        with governed(self), _at_rest():
            try:
                trio.run(self._main, clock=trio.testing.MockClock(autojump_threshold=0), instruments=[self])
            except trio.TrioInternalError as error:
                if self.failure is None:  # the program has broken trio, by waking a task twice for example
                    said = f"trio itself broke: {_said(error.__cause__ or error)}"
                    self.failure = Failure("error", said, trio.TrioInternalError(said), self.steps)
                self._abandoned = True
            if self._abandoned:
                self._bury()
        if self._in_thread:
            raise NotDeterministicError(
                f"the program has a thread work for it, whose time is on no tape: {self._in_thread}; let "
                "something on trio stand in for that, such as trio.sleep"
            )
        assert self._finished or self._abandoned, "bug: the explorer's instrument has failed"
        return self

    async def _main(self) -> None:
        for _ in range(2):  # until trio's own tasks have begun
            await trio.lowlevel.checkpoint()
        try:
            with self._root:
                self._active = True
                await self._program()
        except BaseException as error:  # noqa: ASYNC103 # what trio or the user wants is raised again
            leaves = _leaves(error)
            if any(isinstance(leaf, _ORDERS) for leaf in leaves):
                raise
            self._fail("error", "; ".join(_placed(leaf, error) for leaf in leaves), error)
        finally:
            self._active = False

    @property
    def steps(self) -> int:
        """The steps made so far."""
        return len(self.ran)

    def choose(self, kind: Kind, options: int, what: str, tasks: Sequence[trio.lowlevel.Task] = ()) -> int:
        """Let the decider choose; the first option where nothing is to be chosen.

        Args:
            kind: what is chosen.
            options: how many there are.
            what: the choice in words.
            tasks: the tasks it is about.
        """
        if options < 2 or not self._active or self.calm:
            return 0
        taken = self._decider.decide(kind, options, [self._ages[task] for task in tasks], self.steps)
        if taken:
            self.deviations.append((len(self.options), taken))
            if self._sight is not None:
                names = [self._names[task] for task in tasks]
                self._sight.note(self.deviations[-1], kind, what, names)
        self.options.append(options)
        return taken

    # -- for trio: a governor -----------------------------------------------------------------

    def order(self, batch: MutableSequence[trio.lowlevel.Task]) -> None:
        """Choose who of *batch* runs next, until nobody is left. trio takes them from the end."""
        if self._abandoned:
            raise RuntimeError("the run is given up")
        rest = sorted(batch, key=self._scheduled.__getitem__)
        for place in range(len(rest) - 1, 0, -1):
            batch[place] = rest.pop(self.choose("task", len(rest), "", rest))
        batch[:1] = rest

    def told_first(self, among: int) -> int:
        """Choose who of so many is told of its cancellation first."""
        return self.choose("told", among, "is told of its cancellation first")

    # -- for trio: an instrument ----------------------------------------------------------------

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        """Number it."""
        self._ages[task] = len(self._ages)
        self._names[task] = self._named(task)
        self._living[task] = None

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        """Forget it."""
        self._living.pop(task, None)

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        """Put it in line: by the step that woke it, and of those that one step woke, the oldest first."""
        self._scheduled[task] = self.steps, self._ages[task]

    def before_io_wait(self, timeout: float) -> None:
        """Notice that nothing will ever happen any more, or that a thread is at work."""
        if trio.to_thread.current_default_thread_limiter().borrowed_tokens and self._moments:
            self._moments -= 1
            if not self._in_thread:
                self._in_thread = self._who_waits()
                self._active = False
                self._root.cancel()
            time.sleep(_MOMENT)  # what it brings must find the run alive
            return
        if self._last_steps != self.steps:
            self._last_steps, self._idle = self.steps, 0
            return
        now = trio.lowlevel.current_statistics()
        self._idle = self._idle + 1 if not now.tasks_runnable and now.seconds_to_next_deadline > 1e300 else 0
        if self._idle >= _IDLE:
            self._idle = 0
            said = f"nothing can run, and no timer is set: {self._who_waits()}"
            self._fail("deadlock", said, None)

    def after_io_wait(self, timeout: float) -> None:
        """Let a timer fire early, perhaps."""
        if self._terms.stall <= 0 or not self._active:
            return
        now = trio.lowlevel.current_statistics()
        if now.tasks_runnable and 0 < now.seconds_to_next_deadline <= self._terms.stall:
            late = f"the process loses {now.seconds_to_next_deadline:g} s, and a timer fires"
            if self.choose("timer", 2, late):
                clock = trio.lowlevel.current_clock()
                assert isinstance(clock, trio.testing.MockClock)
                clock.jump(now.seconds_to_next_deadline)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Cancel a scope, perhaps."""
        for scope, whose in tuple(self.scopes.items()):
            if not scope.cancel_called and self.choose("cancel", 2, "is cancelled", [whose]):
                scope.cancel()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Look whether all is well."""
        tame(task, self._ages.__getitem__)
        self.ran.append(self._ages[task])
        if self._sight is not None and self._active:
            place = place_of(task) if task in self._living else "ends"
            self._sight.step(self.steps, self._names[task], place)
        if self._active and self.failure is None:
            for check in tuple(self.checks):
                try:
                    if check() is False:
                        raise AssertionError(f"{getattr(check, '__name__', 'the invariant')} does not hold")
                except Exception as error:
                    return self._fail("invariant", _placed(error, error), error)
        if self.steps % self._terms.max_steps == 0:
            self._fail("endless", f"it has not ended after {self.steps} steps", None)
        return None

    def after_run(self) -> None:
        """This instrument has lived to the end."""
        self._finished = True

    # -- what goes wrong ------------------------------------------------------------------------

    def _fail(self, sort: FailureSort, message: str, error: BaseException | None) -> None:
        """Note what is wrong, if it is the first, and cancel the program; end it by other means if it goes
        on.
        """
        if self.failure is None:
            self.failure = Failure(sort, message, error, self.steps)
            self._active = False
            self._root.cancel()
        elif sort in ("deadlock", "endless"):
            self._abandoned = self._unshielded
            self._unshielded = True
            for task in self._mine():
                unshield(task)
            self._root.cancel()

    def _named(self, task: trio.lowlevel.Task) -> str:
        """Return a short name for *task*, with a number if another has it."""
        if self._ages[task] == _MAIN:
            return "program"
        # Without the module, if it is a method or a function in one.
        name = ".".join(task.name.rpartition("<locals>.")[2].split(".")[-2:])
        count = self._bearers[name] = self._bearers.get(name, 0) + 1
        return name if count == 1 else f"{name} {count}"

    def _bury(self) -> None:
        """Get rid of what a run that was given up has left; what that complains of is of no interest."""
        before, sys.unraisablehook = sys.unraisablehook, _ignore
        try:
            while self._living:  # the youngest first
                with suppress(BaseException):
                    self._living.popitem()[0].coro.close()
            self._ages.clear()
            self._names.clear()
            self._scheduled.clear()
            self.scopes.clear()
            self.checks.clear()
            self._root = trio.CancelScope()
            gc.collect()
        finally:
            sys.unraisablehook = before

    def _mine(self) -> list[trio.lowlevel.Task]:
        """Return the tasks of the program that are alive."""
        return [task for task in self._living if self._ages[task] not in _OWN]

    def _who_waits(self) -> str:
        """Say where each task of the program waits."""
        return "; ".join(f"{self._names[task]} waits at {place_of(task)}" for task in self._mine())


def current_run() -> Run | None:
    """Return the run that is being made in this thread, if one is."""
    governor = current_governor()
    return governor if isinstance(governor, Run) else None


@contextmanager
def _at_rest() -> Generator[None, None, None]:
    """Keep out of a run what else could make it differ from another: the time of collections, the dice of
    `random`, which start anew.
    """
    collecting, state = gc.isenabled(), random.getstate()
    gc.disable()
    random.seed(0)
    try:
        yield
    finally:
        random.setstate(state)
        if collecting:
            gc.enable()


def _leaves(error: BaseException | None) -> list[BaseException]:
    """Return the errors in *error* that are no groups."""
    if not isinstance(error, BaseExceptionGroup):
        return [] if error is None else [error]
    group = cast("BaseExceptionGroup[BaseException]", error)
    return [leaf for inner in group.exceptions for leaf in _leaves(inner)]


def _said(error: BaseException) -> str:
    """Say *error* in a line."""
    first = str(error).strip().splitlines()
    return f"{type(error).__name__}: {first[0]}" if first else type(error).__name__


def _placed(error: BaseException, whole: BaseException) -> str:
    """Say *error*, which *whole* is or holds, and where it was raised."""
    place = raised_at(error) or raised_at(whole)
    return f"{_said(error)}, raised at {place}" if place else _said(error)


def _ignore(_: object) -> None:
    """Take an unraisable exception, and do nothing."""
