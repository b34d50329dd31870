"""Doubt: what a run does while it is unclear whose trouble refusals are (`PoolStatistics.unclear`).

A request that the endpoint stumbles over and an outage look alike, until others are tried:

1. Though no more tasks may run, one more is begun after `ASK` seconds, another after twice as many more, and
   so on: in an outage of a day some fifty. Once one is answered no more are begun, and that it was speaks
   against all those that are at fault.
2. Where no task is left to begin, those that are left are waited for, as in any outage. But if they are so
   few that all of them may be at fault, nobody can tell: after `LAST` seconds the run ends, they are owed.
"""

import math
from typing import Final

__all__ = ["ASK", "LAST", "TOLD", "Ceiling", "in_words", "nobody_can_tell"]

#: Seconds after which another is asked. Short outages are over by then.
ASK: Final = 60.0
#: Seconds for which the last tasks are waited for, if they are few. Many outages are over by then, and most
#: say what they are.
LAST: Final = 900.0
#: Seconds after which it is told: where others are answered it is over before that.
TOLD: Final = 5.0
#: Different tasks that are not at fault all at once.
_MANY: Final = 8


class Ceiling:
    """How many tasks may run.

    Args:
      usual: where nothing is unclear.
    """

    def __init__(self, usual: int) -> None:
        self._usual = self._now = usual
        #: Tasks that were begun beyond it.
        self._more = 0

    def now(self, unclear: float, running: int) -> int:
        """Return how many, after so many seconds, if so many are *running*."""
        more = int((math.sqrt(1 + 8 * unclear / ASK) - 1) / 2)
        if more > self._more:
            self._now = max(running, self._usual) + 1
        elif not more:
            self._now = self._usual
        self._more = more
        return self._now


def nobody_can_tell(unclear: float, left: int) -> bool:
    """Return whether the run ends, after so many seconds with so many different tasks left."""
    return unclear >= LAST and left < _MANY


def in_words(unclear: float, suspects: int, others: int) -> str:
    """Return what is so after so many seconds and what is done about it, where there are *others* to begin.

    Empty while there is nothing to tell.
    """
    if unclear < TOLD:
        return ""
    requests = f"{suspects} request" + ("s" if suspects != 1 else "")
    meanwhile = "other tasks are tried meanwhile" if others > 0 else "no other task is tried"
    whose = f"that is the endpoint's trouble or that of {requests}"
    return f"unclear for {unclear:.0f} s if {whose} ({meanwhile})"
