"""Deciders: who takes the choices of one run. A decider is used for one run only."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal, Protocol, TypeAlias

from wspool.testing.explore.tape import NO_DEVIATIONS, ChoiceTape

__all__ = ["ByPriority", "ByTape", "Decider", "Drawn", "Kind"]

#: What is chosen: which task is next, who is told first of a cancellation, whether a timer fires early,
#: whether a scope is cancelled now, or what the program itself has asked.
Kind: TypeAlias = Literal["task", "told", "timer", "cancel", "choice"]


class Decider(Protocol):
    """Takes choices, one after the other."""

    def decide(self, kind: Kind, options: int, tasks: Sequence[int], step: int) -> int:
        """Return an option.

        Args:
            kind: what is chosen.
            options: how many there are, at least 2.
            tasks: the tasks that it is about, by age; if *kind* is `"task"`, one for each option.
            step: steps that were made before.
        """
        ...


class ByTape:
    """Takes what a tape says; an option that is not there any more is none."""

    def __init__(self, tape: ChoiceTape = NO_DEVIATIONS) -> None:
        self._options = dict(tape.deviations)
        self._place = -1

    def decide(self, kind: Kind, options: int, tasks: Sequence[int], step: int) -> int:
        """As the protocol says."""
        self._place += 1
        option = self._options.get(self._place, 0)
        return option if option < options else 0


class Drawn:
    """Draws each option with the same chance; but timers and cancellations, which are asked for at each step,
    come once in a while, and how often is drawn for the whole run.
    """

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self._seldom = 0.5 ** dice.randint(1, 8)

    def decide(self, kind: Kind, options: int, tasks: Sequence[int], step: int) -> int:
        """As the protocol says."""
        if kind in ("timer", "cancel"):
            return int(self._dice.random() < self._seldom)
        return self._dice.randrange(options)


class ByPriority(Drawn):
    """Probabilistic concurrency testing: each task has a priority, and at *depth* - 1 steps that are drawn
    beforehand the one that runs falls behind all others. All else is drawn.

    Args:
        dice: what is drawn with.
        depth: how many ordering constraints a bug may need to be found with a known chance (Burckhardt and
            others, "A Randomized Scheduler with Probabilistic Guarantees of Finding Bugs", ASPLOS 2010).
        steps: how long a run is, about.
    """

    def __init__(self, dice: random.Random, depth: int, steps: int) -> None:
        super().__init__(dice)
        self._changes = {dice.randrange(max(steps, 1)) for _ in range(depth - 1)}
        self._priorities: dict[int, float] = {}
        self._lowest = 0.0

    def decide(self, kind: Kind, options: int, tasks: Sequence[int], step: int) -> int:
        """As the protocol says."""
        if kind != "task":
            return super().decide(kind, options, tasks, step)
        for task in tasks:
            if task not in self._priorities:
                self._priorities[task] = self._dice.random()
        best = max(range(options), key=lambda option: self._priorities[tasks[option]])
        passed = [change for change in self._changes if change <= step]
        if passed:
            self._changes.difference_update(passed)
            self._lowest -= 1.0
            self._priorities[tasks[best]] = self._lowest
            best = max(range(options), key=lambda option: self._priorities[tasks[option]])
        return best
