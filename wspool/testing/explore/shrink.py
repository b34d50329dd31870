"""Shrink: from a tape under which a program goes wrong to one with as few deviations as can be found."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from wspool.testing.explore.deciders import ByTape, Decider
from wspool.testing.explore.run import Run
from wspool.testing.explore.schedules import Deviations
from wspool.testing.explore.tape import ChoiceTape

__all__ = ["shrink"]

#: A tape that is no shorter after taking away is looked for anew, among all that have fewer deviations.
_SHORT: Final = 2
#: Runs that looking for it may take.
_SEARCHED: Final = 1500
#: Nothing of it is drawn.
_NO_DICE: Final = random.Random(0)


def shrink(failed: Run, make: Callable[[Decider], Run]) -> Run:
    """Return a run that fails as *failed* did, with as few deviations as can be found.

    Args:
        failed: the run that failed.
        make: makes a run.
    """
    best = _taken_away(failed, make)
    if len(best.deviations) > _SHORT:
        best = _looked_for(best, make)
    return _lowered(best, make)


def _taken_away(best: Run, make: Callable[[Decider], Run]) -> Run:
    """Take deviations away, many at a time first, as long as it fails (Zeller's delta debugging)."""
    size = len(best.deviations)
    while size >= 1:
        begin = 0
        while begin < len(best.deviations):
            rest = best.deviations[:begin] + best.deviations[begin + size :]
            run = make(ByTape(ChoiceTape(tuple(rest))))
            if best.failure is not None and best.failure.is_like(run.failure) and _shorter(run, best):
                best = run
            else:
                begin += size
        size = min(size // 2, len(best.deviations)) if size > 1 else 0
    return best


def _looked_for(best: Run, make: Callable[[Decider], Run]) -> Run:
    """Try tapes with fewer deviations, from none on."""
    first = make(ByTape())
    trials = Deviations(min(_SHORT, len(best.deviations) - 1), _SEARCHED).trials(first, _NO_DICE)
    try:
        decider = next(trials)
        while True:
            run = make(decider)
            if best.failure is not None and best.failure.is_like(run.failure):
                return run
            decider = trials.send(run)
    except StopIteration:
        return best


def _lowered(best: Run, make: Callable[[Decider], Run]) -> Run:
    """Take the lowest options with which it fails."""
    for index in range(len(best.deviations)):
        place, option = best.deviations[index]
        for lower in range(1, option):
            deviations = list(best.deviations)
            deviations[index] = place, lower
            run = make(ByTape(ChoiceTape(tuple(deviations))))
            if best.failure is not None and best.failure.is_like(run.failure):
                best = run
                break
        if index + 1 >= len(best.deviations):
            break
    return best


def _shorter(run: Run, best: Run) -> bool:
    return len(run.deviations) < len(best.deviations)
