"""Figures: what the lines of a run add up to, kept as numbers.

1. Of every task a few numbers are kept, in arrays; of groups, models and kinds of errors as many as a reader
   may look at, and the rest is counted together.
2. What a line does not say counts nowhere, and is not taken for zero.
"""

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping

import attrs

from wspool.core.usage import Usage
from wspool.report.reading import Line, number, part
from wspool.rollout.phases import PHASES
from wspool.rollout.tally import Tally

__all__ = ["OTHER", "Figures", "Group", "Grouping", "Mean", "Spread", "standard_error"]

#: Groups that are counted apart.
MOST_GROUPS = 200
#: The name of the others.
OTHER = "(others)"
#: Names of scores that are counted.
_MOST_SCORES = 20


@attrs.define
class Mean:
    """A mean, as far as it is known.

    Attributes:
      sum, count: of the values.
    """

    sum: float = 0.0
    count: int = 0

    def add(self, value: float | None) -> None:
        """Count a value, if there is one."""
        if value is not None:
            self.sum += value
            self.count += 1

    @property
    def value(self) -> float | None:
        """The mean; None of nothing."""
        return self.sum / self.count if self.count else None


class Spread:
    """How values spread; eight bytes are kept of each."""

    def __init__(self) -> None:
        self.values = array("d")

    def add(self, value: float | None) -> None:
        """Count a value, if there is one."""
        if value is not None:
            self.values.append(value)

    @property
    def sum(self) -> float:
        """Of all values."""
        return math.fsum(self.values)

    def percentiles(self, *percents: float) -> list[float]:
        """The smallest values that so many percent do not exceed; empty if there are none."""
        found = sorted(self.values)
        return [found[max(0, math.ceil(len(found) * each / 100) - 1)] for each in percents if found]


@attrs.define
class Group:
    """Tasks that have something in common.

    Attributes:
      outcomes: how they ended.
      score, seconds, tokens, cost: their means.
    """

    outcomes: Counter[str] = attrs.field(factory=Counter[str])
    score: Mean = attrs.field(factory=Mean)
    seconds: Mean = attrs.field(factory=Mean)
    tokens: Mean = attrs.field(factory=Mean)
    cost: Mean = attrs.field(factory=Mean)

    def add(self, line: Line) -> None:
        """Count a result."""
        self.outcomes[line.outcome] += 1
        self.score.add(line.score)
        self.seconds.add(line.seconds)
        self.tokens.add(line.tokens)
        self.cost.add(number(line.ours.get("cost")))

    @property
    def count(self) -> int:
        """How many there are."""
        return self.outcomes.total()


class Grouping:
    """Groups by name; those that come too late are one."""

    def __init__(self) -> None:
        self.groups: dict[str, Group] = {}

    def add(self, name: str, line: Line) -> None:
        """Count a result in the group *name*."""
        if name not in self.groups and len(self.groups) >= MOST_GROUPS:
            name = OTHER
        self.groups.setdefault(name, Group()).add(line)

    def largest_first(self) -> list[tuple[str, Group]]:
        """The groups, the largest first, and the others last."""
        return sorted(self.groups.items(), key=lambda each: (each[0] == OTHER, -each[1].count, each[0]))


class Figures:
    """The figures of one run.

    Attributes:
      all: every task.
      groupings: groups by what they have in common.
      parts: scores that a function gave by name.
      tally: for pass@k.
      usage: tokens.
      tokens, cost, seconds, scores: of each task.
      phases: seconds of each phase of each task; `rest` is what none of them accounts for.
      requests: sums of what was sent.
      turns, tool_calls, moves: how many there were.
      began, ended: the first time that a line says, and the last.
      attempts: whether there are several of a task.
    """

    def __init__(self) -> None:
        self.all = Group()
        self.groupings: dict[str, Grouping] = {"model": Grouping(), "beginning of the id": Grouping()}
        self.parts: dict[str, Mean] = {}
        self.tally = Tally()
        self.usage = Usage()
        self.tokens, self.cost, self.seconds, self.scores = Spread(), Spread(), Spread(), Spread()
        self.phases: dict[str, Spread] = {name: Spread() for name in (*PHASES, "rest")}
        self.requests: Counter[str] = Counter()
        self.turns = self.tool_calls = self.moves = 0
        self.began = self.ended = ""
        self.attempts = False
        self._of_tasks: dict[str, Mean] = {}

    def add(self, line: Line) -> None:
        """Count a result."""
        ours = line.ours
        self.all.add(line)
        self.groupings["model"].add(str(ours.get("model") or "(unknown)"), line)
        self.groupings["beginning of the id"].add(_beginning(line.id), line)
        self.attempts = self.attempts or "attempt" in ours
        if (score := line.score) is not None:
            self.scores.add(score)
            self.tally.add(line.id, score, right=line.outcome == "right")
            self._of_tasks.setdefault(line.id, Mean()).add(score)
            for name, value in part(ours, "scores").items():
                if name in self.parts or len(self.parts) < _MOST_SCORES:
                    self.parts.setdefault(name, Mean()).add(number(value))
        self.usage += Usage.of(ours.get("usage"))
        self.tokens.add(line.tokens)
        self.cost.add(number(ours.get("cost")))
        self.seconds.add(line.seconds)
        self.turns += int(number(ours.get("turns")) or 0)
        self.tool_calls += int(number(ours.get("tool_calls")) or 0)
        self.moves += int(number(ours.get("moves")) or 0)
        for name, value in part(ours, "requests").items():
            if name in ("delta", "full", "bytes_sent", "bytes_saved"):
                self.requests[name] += int(number(value) or 0)
        self._add_phases(line, part(ours, "phases"))
        if isinstance(began := ours.get("began"), str) and isinstance(ended := ours.get("ended"), str):
            self.began = min(self.began, began) if self.began else began
            self.ended = max(self.ended, ended)

    def _add_phases(self, line: Line, phases: Mapping[str, object]) -> None:
        spent = {name: number(phases.get(name)) for name in PHASES}
        for name, seconds in spent.items():
            self.phases[name].add(seconds)
        if phases and line.seconds is not None:
            self.phases["rest"].add(max(0.0, line.seconds - sum(filter(None, spent.values()))))

    @property
    def standard_error(self) -> float | None:
        """Of the mean score; attempts at one task are not taken for independent."""
        return standard_error(each.value for each in self._of_tasks.values())


def standard_error(values: Iterable[float | None]) -> float | None:
    """Return the standard error of the mean of *values*, None of fewer than two."""
    found = [value for value in values if value is not None]
    if len(found) < 2:
        return None
    mean = math.fsum(found) / len(found)
    variance = math.fsum((value - mean) ** 2 for value in found) / (len(found) - 1)
    return math.sqrt(variance / len(found))


def _beginning(id: str) -> str:
    """What stands before the first mark in an id; made-up and numbered ones have none in common."""
    for place, letter in enumerate(id[:80]):
        if letter in "-_/:.# ":
            return id[:place] or OTHER
    return OTHER
