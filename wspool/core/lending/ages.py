"""Ages: learns from the ages at which a server ends connections how long it lets them live.

A profile may say 60 minutes, and a gateway in between end each connection after one: then whatever is in
flight at that age is lost, over and over. A lifetime shows in this, that connections which began at different
times end at the same age. Rules, each against one way to be fooled:

* Several must have ended so, at moments of their own: those that end in one moment are one observation.
* In one moment different ages are a restart, which says nothing.
* Whatever lives longer, or ended later, disproves what was seen before of younger ends.
* A younger end says nothing: connections die of much.
* What ends young is the business of `wspool.core.outage`; nothing is learnt from it.

An idle timeout is another thing: it ends a connection so long after its last use. It loses no turn, so it is
not planned for; whoever tells of an end says so only where the connection was in use.
"""

from __future__ import annotations

import math
from typing import Final

__all__ = ["SAME", "YOUNGEST", "Ages", "tolerance"]

#: Ends at the same age after which a lifetime is believed. Each may have cost a turn.
SAME: Final = 3
#: The last ends that are remembered.
_KEPT: Final = 8
#: Shortest lifetime that is believed, in seconds. (30 s are the shortest that are known of gateways.)
YOUNGEST: Final = 20.0
#: Seconds within which ends are one moment.
_MOMENT: Final = 1.0


def tolerance(age: float) -> float:
    """Return how far from *age* another one may be and still be the same: what a sweep of a server takes."""
    return max(1.0, 0.02 * age)


class Ages:
    """What the ends of connections of one pool say about their lifetime. All in seconds.

    Attributes:
        learned: the lifetime that is believed, or infinity.
        outlived_at: the age at which a connection disproves it, or infinity.
    """

    __slots__ = ("_ages", "_moment", "_spoilt", "learned", "outlived_at")

    def __init__(self) -> None:
        #: The last ends, one of each moment.
        self._ages: list[float] = []
        self._moment = -math.inf
        #: The last moment was that of a restart.
        self._spoilt = False
        self.learned = self.outlived_at = math.inf

    def ended(self, age: float, now: float, *, oldest: float, limit: float) -> bool:
        """The server has ended a connection of that *age*; return whether a lifetime was learnt.

        Args:
            oldest: the age of the oldest connection that lives.
            limit: the lifetime that is planned with now.
        """
        if age < YOUNGEST or age > limit - tolerance(limit):
            return False
        if now < self._moment + _MOMENT:
            if not self._spoilt and abs(age - self._ages[-1]) > tolerance(age):
                self._spoilt = True
                self._ages.pop()
            return False
        self._moment = now
        self._disprove(age)
        self._ages.append(age)
        del self._ages[:-_KEPT]
        self._disprove(oldest)
        self._spoilt = not self._ages or self._ages[-1] != age
        if self._spoilt:
            return False
        same = [each for each in self._ages if abs(each - age) <= tolerance(age)]
        if len(same) < SAME:
            return False
        self.learned = min(same)
        self.outlived_at = self.learned + tolerance(self.learned)
        return True

    def outlived(self, age: float) -> None:
        """A connection has reached that *age*, which is at least `outlived_at`: what was learnt is wrong."""
        self._disprove(age)
        self._spoilt = True
        self.learned = self.outlived_at = math.inf

    def _disprove(self, age: float) -> None:
        """A connection has lived so long."""
        self._ages = [each for each in self._ages if each >= age - tolerance(age)]
