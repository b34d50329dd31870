"""Picked: the tasks that a reader wants to see, by their places in the file.

The slowest, the costliest, those with the lowest scores, and the first of each kind of trouble; their lines
are read again when they are shown.
"""

import heapq
from collections.abc import Sequence
from typing import Final

import attrs

from wspool.report.reading import Line, number
from wspool.rollout.tasks import WELL

__all__ = ["Pick", "Picked", "Trouble"]

#: Tasks in each list.
MOST: Final = 15
#: Kinds of trouble that are told apart, and those that are shown.
MOST_KINDS: Final = 1000
MOST_SHOWN: Final = 30
#: Characters of a message by which errors are the same.
_ALIKE: Final = 200


@attrs.frozen(order=True)
class Pick:
    """One task of a list.

    Attributes:
      rank: why it is there; a higher one comes first.
      order: the place in the file, so that the earlier of two comes first.
      key: of the attempt.
    """

    rank: float
    order: int
    key: str = attrs.field(order=False)

    @property
    def place(self) -> int:
        """Where its line is."""
        return -self.order


@attrs.define
class Trouble:
    """Results that went wrong in one way.

    Attributes:
      outcome, type, code, message: in which.
      count: how many.
      first: the first of them.
    """

    outcome: str
    type: str
    code: str
    message: str
    first: Pick
    count: int = 0


class _Top:
    def __init__(self) -> None:
        self._heap: list[Pick] = []

    def add(self, rank: float | None, line: Line) -> None:
        if rank is None:
            return
        pick = Pick(rank, -line.place, line.key)
        if len(self._heap) < MOST:
            heapq.heappush(self._heap, pick)
        elif self._heap[0] < pick:
            heapq.heapreplace(self._heap, pick)

    def picks(self) -> list[Pick]:
        return sorted(self._heap, reverse=True)


class Picked:
    """Picks tasks of one run as its lines are read.

    Attributes:
      by_cost: True once a line said what it cost; else `costliest` are those with the most tokens.
    """

    def __init__(self) -> None:
        self.by_cost = False
        self._slowest, self._tokens, self._cost, self._lowest = _Top(), _Top(), _Top(), _Top()
        self._troubles: dict[tuple[str, str, str, str], Trouble] = {}

    def add(self, line: Line) -> None:
        """Look at a result."""
        cost = number(line.ours.get("cost"))
        self.by_cost = self.by_cost or cost is not None
        self._slowest.add(line.seconds, line)
        self._tokens.add(line.tokens, line)
        self._cost.add(cost, line)
        if line.score is not None and line.outcome != "right":
            self._lowest.add(-line.score, line)
        if line.outcome not in WELL and line.outcome != "wrong":
            self._add_trouble(line)

    def _add_trouble(self, line: Line) -> None:
        error = line.error
        kind = (
            line.outcome,
            str(error.get("type") or "")[:_ALIKE],
            str(error.get("code") or "")[:_ALIKE],
            str(error.get("message") or "")[:_ALIKE],
        )
        if kind not in self._troubles:
            if len(self._troubles) >= MOST_KINDS:
                kind = line.outcome, "(others)", "", ""
            self._troubles.setdefault(kind, Trouble(*kind, Pick(0.0, -line.place, line.key)))
        self._troubles[kind].count += 1

    @property
    def slowest(self) -> Sequence[Pick]:
        """The slowest tasks, slowest first."""
        return self._slowest.picks()

    @property
    def costliest(self) -> Sequence[Pick]:
        """The costliest tasks, costliest first."""
        return (self._cost if self.by_cost else self._tokens).picks()

    @property
    def lowest(self) -> Sequence[Pick]:
        """Those with the lowest scores that are not right, lowest first; ranks are the scores below zero."""
        return self._lowest.picks()

    @property
    def troubles(self) -> Sequence[Trouble]:
        """Kinds of trouble, the commonest first."""
        return sorted(self._troubles.values(), key=lambda each: -each.count)
