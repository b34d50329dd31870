"""Blame: whose trouble a refusal is that may pass, where refusals shall be waited out.

An endpoint in trouble refuses everybody, and is waited for. But a request can be what the endpoint stumbles
over, each time with the words of an outage (a 500); to wait for that would never end. Only one thing tells
the two apart, and that is what becomes of others:

* A turn that is refused again although one that began later was taken meanwhile, `MOST` times, is given up.
  It waits longer each time.
* Where nobody is taken nothing speaks against anybody, however long that is: others have to be tried. So
  whoever is refused goes to the end of the line, and who knows of more that may be tried sees how long
  it has been unclear (`Pace.unclear`).

A refusal for a rate limit says nothing here. Pure.
"""

from __future__ import annotations

from typing import Final

import attrs

__all__ = ["MOST", "Suspicion"]

#: Times that a turn is refused although others are taken. One in a hundred million turns is refused so often
#: where one request in ten fails.
MOST: Final = 8


@attrs.define(eq=False)
class Suspicion:
    """What speaks against one turn.

    Attributes:
        times: how often it was refused although a turn was taken that began after it had begun before.
        number: as which it began when it was refused last; infinity before it was.
    """

    times: int = 0
    number: float = float("inf")

    def refused(self, number: int, latest: int) -> bool:
        """Return whether the turn is to be given up, which is refused again.

        Args:
            number: as which it began this time.
            latest: the last one to begin of those that the endpoint took.
        """
        self.times += self.number < latest
        self.number = number
        return self.times >= MOST
