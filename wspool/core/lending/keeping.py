"""Keeping: for how long a parked lane is its holder's while somebody starves for one.

Whoever calls tools comes back, and finds its conversation remembered; taken meanwhile, its next request is
sent in full. A lane that is kept for it does nothing. Both cost time of a lane, so they can be weighed:

* A full send costs a share of a turn, and more the longer the history is: the model reads it again.
* A wait costs what is waited. How long holders are away is seen each time that one comes back, whether or not
  its lane was kept; the last of them stand for the next.
* A lane is kept for as long as would have cost least with those. Where nothing is known, of the first of them
  or of one that is later than nearly all, it is kept for as long as a full send costs: nobody who does not
  know can do better than twice the least (the ski rental problem).
* It is never kept for longer than the policy's `patience`.
"""

from __future__ import annotations

from collections import deque
from typing import Final

__all__ = ["Keeping"]

#: What a full send adds to a turn, as a share of it: a rollout with 25 tool calls is a quarter faster than
#: one that sends all of it each time (docs/benchmarks.md).
SHARE: Final = 0.25
#: What it takes to read a history again, in seconds per byte: some 50,000 tokens a second of four bytes each,
#: as most of it is in the provider's prompt cache. A judgement; what is measured of a turn counts for more.
PER_BYTE: Final = 5e-6
#: No full send costs less, in seconds: about what a model takes to begin when it has a context to read that
#: is not the last one of its connection. A judgement too.
LEAST: Final = 0.5
#: How many returns are remembered, and with how few nothing is known.
_KEPT: Final = 32
_FEW: Final = 4
#: The weight of the latest turn in what is typical.
_LATEST: Final = 0.1
#: Who is usually back by then may be a little late.
_SLACK: Final = 1.25
#: The share of those that come back so late that nothing is known of them.
_RARE: Final = 1 / 8


class Keeping:
    """What the conversations of one pool do between their turns.

    Args:
        patience: seconds that a lane is kept at most.

    Attributes:
        full_send: seconds that a full send costs, or `patience` while no turn has ended.
    """

    __slots__ = ("_away", "_bytes", "_most", "_patience", "_turn", "full_send")

    def __init__(self, patience: float) -> None:
        self._most = patience
        self._away: deque[float] = deque(maxlen=_KEPT)
        self._turn = self._bytes = -1.0
        self.full_send = patience
        # What follows from these, until they change.
        self._patience: float | None = None

    def took(self, seconds: float, history: int) -> None:
        """A turn has ended that took so long, of a conversation whose history has so many bytes."""
        if self._turn < 0:
            self._turn, self._bytes = seconds, float(history)
        else:
            self._turn += _LATEST * (seconds - self._turn)
            self._bytes += _LATEST * (history - self._bytes)
        costs = SHARE * self._turn + PER_BYTE * self._bytes
        self.full_send = costs if costs > LEAST else LEAST  # `max` is a call, and each turn passes here
        self._patience = None

    def came_back(self, after: float) -> None:
        """A conversation whose tools were called goes on, so many seconds after."""
        self._away.append(after)
        self._patience = None

    def patience(self) -> float:
        """Return for how many seconds a parked lane is kept while somebody starves."""
        if self._patience is None:
            self._patience = min(self._most, self._best())
        return self._patience

    def _best(self) -> float:
        if len(self._away) < _FEW:
            return self.full_send
        # Kept for until the first so many are back, each of these costs its wait, and each of the others that
        # wait and a full send.
        away = sorted(self._away)
        best, late, least, waited = 0.0, len(away), len(away) * self.full_send, 0.0
        for back, after in enumerate(away, 1):
            waited += after
            cost = waited + (len(away) - back) * (after + self.full_send)
            if cost < least:
                best, late, least = after, len(away) - back, cost
        if late <= len(away) * _RARE:  # who is later than all that were seen is the next to be learned of
            return max(best * _SLACK, self.full_send)
        return best * _SLACK
