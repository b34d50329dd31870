"""Search: tries schedules until one fails, and tells the shortest story of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Final

import trio

from wspool.core.given import check_callable, check_kind
from wspool.testing.explore.deciders import ByTape, Decider
from wspool.testing.explore.reach import check_trio
from wspool.testing.explore.report import Report, tell
from wspool.testing.explore.run import NotDeterministicError, Program, Run, Terms
from wspool.testing.explore.schedules import Deviations, Priorities, Randomly, Schedule
from wspool.testing.explore.shrink import shrink
from wspool.testing.explore.sight import Sight
from wspool.testing.explore.tape import ChoiceTape

__all__ = ["explore", "replay"]

#: What is tried if nothing is said: the near first, then far and wide.
_USUAL: Final = (Deviations(1), Priorities(200), Randomly(200))


def explore(
    program: Program,
    *,
    schedules: Sequence[Schedule] = _USUAL,
    invariant: Callable[[], object] | None = None,
    seed: int = 0,
    stall: float = 0.0,
    max_steps: int = 20_000,
) -> Report:
    """Run *program* under many schedules, under a virtual clock, until one goes wrong; return what was found.

    A schedule says which runnable task is next, whom a cancellation reaches first, when a timer fires, and
    what the program leaves to it (`choose`, `cancel_at`, `cut`). Wrong is what raises, breaks an invariant,
    can never go on, or never ends. The tape of it is shortened and its story told.

    A program must depend on nothing else: not on threads, sockets, the time of day, or dice of its own.

    Args:
        program: called anew for each run; must make all its state itself.
        schedules: what is tried, in this order.
        invariant: called after each step; broken if it raises, or returns False. See `always` as well.
        seed: what is drawn with.
        stall: virtual seconds that the process may lose at a time: a timer that is due within may fire
            although tasks are runnable.
        max_steps: steps after which a run counts as endless.

    Raises:
        NotDeterministicError: it did something else under the same choices, or uses threads.
        UnsupportedTrioError: this trio cannot be explored with.
        RuntimeError: called inside a trio run; call it from a function that is not async.
        TypeError, ValueError: an argument is of no use; the text says which.
    """
    _check_use(program)
    check_kind("schedules", schedules, Sequence, "a sequence of schedules, such as [Deviations(2)]")
    for schedule in schedules:
        check_callable("a schedule", schedule, "trials")
    terms = Terms(invariant, stall, max_steps)

    def make(decider: Decider) -> Run:
        return Run(program, decider, terms).make()

    first = make(ByTape())
    _compare(first, make(ByTape()))
    runs, steps, exhausted = 1, first.steps, 0
    dice = random.Random(seed)
    if first.failure is not None:
        return _report(first, make, Report(1, steps, seed, exhausted), program, terms)
    for schedule in schedules:
        trials = schedule.trials(first, dice)
        try:
            decider = next(trials)
            while True:
                run = make(decider)
                runs, steps = runs + 1, steps + run.steps
                if run.failure is not None:
                    report = _report(run, make, Report(runs, steps, seed, exhausted), program, terms)
                    if not report.tape:
                        raise NotDeterministicError(
                            "the program went wrong without any deviation, which its first run did not: it "
                            f"depends on what the runs before have left: {run.failure.message}"
                        )
                    return report
                decider = trials.send(run)
        except StopIteration as end:
            exhausted = max(exhausted, end.value)
    return Report(runs, steps, seed, exhausted)


def replay(
    tape: ChoiceTape | str,
    program: Program,
    *,
    invariant: Callable[[], object] | None = None,
    stall: float = 0.0,
    max_steps: int = 20_000,
) -> Report:
    """Run *program* once, with the choices on *tape*; return what came of it, with its story if it went
    wrong.

    Args:
        tape: a tape, or what `str` of it says.
        program: the same, and so are the other arguments, as they were given to `explore`.
        invariant: see `explore`.
        stall: see `explore`.
        max_steps: see `explore`.

    Raises:
        ValueError: that is not a tape.
        NotDeterministicError: the program uses threads.
        UnsupportedTrioError, RuntimeError, TypeError: see `explore`.
    """
    _check_use(program)
    if not isinstance(tape, ChoiceTape):
        tape = ChoiceTape.parse(tape)
    sight = Sight()
    run = Run(program, ByTape(tape), Terms(invariant, stall, max_steps), sight).make()
    return Report(
        runs=1,
        steps=run.steps,
        seed=0,
        failure=run.failure,
        tape=ChoiceTape(tuple(run.deviations)),
        story="" if run.failure is None else tell(run, sight),
    )


def _check_use(program: object) -> None:
    """Raise what is wrong with a call before anything runs."""
    if trio.lowlevel.in_trio_run():
        raise RuntimeError("this is inside a trio run: explore from a function that is not async")
    if isinstance(program, Coroutine):
        program.close()
        raise TypeError("program must be an async function, called anew for each run: give it without ()")
    check_callable("program", program)
    check_trio()


def _report(
    failed: Run, make: Callable[[Decider], Run], so_far: Report, program: Program, terms: Terms
) -> Report:
    """Return the report of a run that failed."""
    _compare(failed, make(ByTape(ChoiceTape(tuple(failed.deviations)))))
    short = shrink(failed, make)
    tape = ChoiceTape(tuple(short.deviations))
    sight = Sight()
    told = Run(program, ByTape(tape), terms, sight).make()
    _compare(short, told)
    return Report(
        runs=so_far.runs,
        steps=so_far.steps,
        seed=so_far.seed,
        exhausted=so_far.exhausted,
        failure=told.failure,
        tape=tape,
        story=tell(told, sight),
    )


def _compare(one: Run, other: Run) -> None:
    """Raise `NotDeterministicError` unless both did the same."""
    if (one.ran, one.options) == (other.ran, other.options) and (one.failure is None) == (
        other.failure is None
    ):
        return
    at = next(
        (step for step, (a, b) in enumerate(zip(one.ran, other.ran, strict=False), 1) if a != b),
        min(one.steps, other.steps),
    )
    raise NotDeterministicError(
        f"under the same choices the program did something else, from step {at} on: it depends on what no "
        "tape has (threads, sockets, the time of day, the order of a set, dice of its own, what a run left)"
    )
