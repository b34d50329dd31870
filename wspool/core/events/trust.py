"""Trust: how far the words of an endpoint are evidence, and what is learnt when they are not.

Rules of this module:

* Two things are evidence where a provider is exact: the ids of responses, and the numbers of events. Gateways
  rewrite the one and miscount the other, so each is given up by itself.
* Only what was proved counts: a turn that was answered, though what its events said about themselves spoke
  against it. What is merely strange teaches nothing.
* Once is an accident, and costs a connection. Twice is a habit, and from then on costs nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from typing import Final

__all__ = ["EXACT", "Rewrite", "Trust"]

#: Turns after which something rewritten is taken for a habit. Source: `Provider.trust`.
HABIT: Final = 2


class Rewrite(enum.Enum):
    """What an endpoint was caught rewriting."""

    __hash__ = object.__hash__

    IDS = "ids"
    NUMBERS = "numbers"


_SAID: Final = {
    Rewrite.IDS: "it rewrites the ids of responses",
    Rewrite.NUMBERS: "it does not number its events one by one",
}


class Trust:
    """How far the words of one endpoint are evidence.

    Args:
        exact: False if its profile says that they are not.

    Attributes:
        ids: True while the id of a response that nobody has seen is a sign of another response.
        numbers: True while a number out of order is a sign that an event is missing, or came twice.
    """

    __slots__ = ("_caught", "_exact", "ids", "numbers")

    def __init__(self, *, exact: bool = True) -> None:
        self._exact = exact
        self.ids = self.numbers = exact
        self._caught = dict.fromkeys(Rewrite, 0)

    def caught(self, rewritten: Iterable[Rewrite]) -> list[str]:
        """A turn was answered in which that was *rewritten*; return what is known of the endpoint now, and
        was not before."""
        news: list[str] = []
        for what in Rewrite:
            if what not in rewritten:
                continue
            self._caught[what] += 1
            if self._caught[what] == HABIT and self._exact:
                news.append(_SAID[what])
                if what is Rewrite.IDS:
                    self.ids = False
                else:
                    self.numbers = False
        return news

    @property
    def rewritten(self) -> Mapping[str, int]:
        """In how many turns it was caught, by what was rewritten; without what never was."""
        return {what.value: count for what, count in self._caught.items() if count}

    @property
    def lenient(self) -> tuple[str, ...]:
        """Why it is treated leniently, empty if it is not."""
        if not self._exact:
            return ("its profile says so",)
        learnt = (Rewrite.IDS, self.ids), (Rewrite.NUMBERS, self.numbers)
        return tuple(_SAID[what] for what, trusted in learnt if not trusted)


#: Of an endpoint whose every word counts. Never taught anything.
EXACT: Final = Trust()
