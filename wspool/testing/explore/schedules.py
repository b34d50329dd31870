"""Schedules: what is tried, and in which order.

A schedule is a generator of deciders, one for each run, that is sent what came of the run before.
"""

from __future__ import annotations

import random
from collections.abc import Generator
from typing import Protocol, TypeAlias

import attrs

from wspool.core.given import check_number
from wspool.testing.explore.deciders import ByPriority, ByTape, Decider, Drawn
from wspool.testing.explore.run import Run
from wspool.testing.explore.tape import ChoiceTape

__all__ = ["Deviations", "Priorities", "Randomly", "Schedule", "Trials"]

#: Deciders for runs; the runs are sent back. What it returns is the number of deviations that it exhausted.
Trials: TypeAlias = Generator[Decider, Run, int]


class Schedule(Protocol):
    """Something to try."""

    def trials(self, first: Run, dice: random.Random) -> Trials:
        """Return what is tried.

        Args:
            first: the run without deviations.
            dice: what is drawn with.
        """
        ...


@attrs.frozen
class Deviations:
    """Every schedule with at most *most* deviations from first in, first out; those with fewer first.

    Attributes:
        most: how many deviations. Each more multiplies the runs by the choices of a run, about.
        runs: runs at most, None for as many as there are.
    """

    most: int = 2
    runs: int | None = None

    def __attrs_post_init__(self) -> None:
        check_number("most", self.most, 0, whole=True)
        if self.runs is not None:
            check_number("runs", self.runs, 0, whole=True)

    def trials(self, first: Run, dice: random.Random) -> Trials:
        """As the protocol says. What failed is not followed further."""
        level = list(_longer(ChoiceTape(), first))
        made = 0
        for number in range(1, self.most + 1):
            longer: list[ChoiceTape] = []
            for tape in level:
                if made == self.runs:
                    return number - 1
                made += 1
                run = yield ByTape(tape)
                if number < self.most and run.failure is None:
                    longer += _longer(tape, run)
            level = longer
        return self.most


def _longer(tape: ChoiceTape, run: Run) -> Generator[ChoiceTape, None, None]:
    """Yield every tape that goes on as *tape*, with which *run* was made, and has one deviation more."""
    begin = tape.deviations[-1][0] + 1 if tape.deviations else 0
    for place in range(begin, len(run.options)):
        for option in range(1, run.options[place]):
            yield ChoiceTape((*tape.deviations, (place, option)))


@attrs.frozen
class Randomly:
    """Schedules in which each choice is drawn.

    Attributes:
        runs: how many.
    """

    runs: int = 100

    def __attrs_post_init__(self) -> None:
        check_number("runs", self.runs, 0, whole=True)

    def trials(self, first: Run, dice: random.Random) -> Trials:
        """As the protocol says."""
        for _ in range(self.runs):
            yield Drawn(random.Random(dice.getrandbits(64)))
        return -1


@attrs.frozen
class Priorities:
    """Schedules in which each task has a priority that is drawn (PCT, see `ByPriority`).

    Attributes:
        runs: how many.
        depth: how many constraints on the order a bug may need.
    """

    runs: int = 100
    depth: int = 3

    def __attrs_post_init__(self) -> None:
        check_number("runs", self.runs, 0, whole=True)
        check_number("depth", self.depth, 1, whole=True)

    def trials(self, first: Run, dice: random.Random) -> Trials:
        """As the protocol says."""
        for _ in range(self.runs):
            yield ByPriority(random.Random(dice.getrandbits(64)), self.depth, first.steps)
        return -1
