"""Blame: whose trouble a refusal is that may pass, where refusals shall be waited out.

An endpoint in trouble refuses everybody, and is waited for. But a request can be what the endpoint stumbles
over, each time with the words of an outage (a 500); to wait for that would never end. What tells the two
apart is what becomes of others:

* A turn that is refused although one that began later was taken, `MOST` times, is given up. It waits longer
  each time, so that a bad minute is over by then.
* Such turns may be the last ones that there are, and nobody is left to be taken. If for `ALONE` seconds only
  turns are refused in whose time others were taken, they are given up as well.
* Where nothing is taken, who comes to it in that time is refused as well: then all of them wait.

A refusal for a rate limit says nothing here. Pure: it is told what happened and when.
"""

from __future__ import annotations

import math
from typing import Final

import attrs

__all__ = ["ALONE", "MOST", "Blame", "Suspicion"]

#: Times that a turn is refused although others are taken. One in ten million turns is refused so often where
#: one request in ten fails.
MOST: Final = 8

#: Seconds for which only suspected turns are refused. Most outages of an endpoint are over by then.
ALONE: Final = 300.0


@attrs.define(eq=False)
class Suspicion:
    """What speaks against one turn.

    Attributes:
        times: how often it was refused although a turn that began later was taken.
        number: as which it began when it was refused last; -1 before it was.
        before: how many turns had been taken when it first began; -1 before it did.
    """

    times: int = 0
    number: int = -1
    before: int = -1


class Blame:
    """Whose trouble the refusals of one endpoint are."""

    def __init__(self) -> None:
        #: How many turns were taken, and the latest of them in the order in which they began.
        self._count = 0
        self._taken = -1
        #: Since when none is taken, and only those are refused in whose time some were; infinity if others
        #: are refused, too.
        self._alone_since: float | None = None

    def begun(self, suspicion: Suspicion) -> None:
        """A turn begins, maybe again."""
        if suspicion.before < 0:
            suspicion.before = self._count

    def taken(self, number: int) -> None:
        """The endpoint has begun to answer the turn that began as the *number*-th."""
        self._count += 1
        self._taken = max(self._taken, number)
        self._alone_since = None

    def refused(self, suspicion: Suspicion, number: int, now: float) -> bool:
        """Return whether a turn is to be given up.

        Args:
            suspicion: what speaks against it.
            number: as which it began this time.
            now: the time, in seconds on any clock.
        """
        suspicion.times += -1 < suspicion.number < self._taken
        suspicion.number = number
        if suspicion.before == self._count:
            self._alone_since = math.inf
        elif self._alone_since is None:
            self._alone_since = now
        return suspicion.times >= MOST or (self._alone_since or 0.0) + ALONE <= now
