"""Affinity: what each lane remembers, and which free lane is of least use to others.

A server keeps the latest response of a lane in memory, whether or not anybody holds the lane. So a free lane
is worth more to the conversation that it remembers than to anybody else. Rules of this module:

* A lane remembers the response of its last turn from the end of that turn until the next one begins on it.
* An id that two lanes hold identifies neither, until both have forgotten it: there are servers that count
  their responses anew on each connection.
* Who prefers nothing is given what is of least use to others (`Use`), and of what is of equal use the
  freshest; of what conversations may come back to, what was used longest ago.
* What a conversation may come back to is nobody else's while a connection can be dialled instead. So one-turn
  conversations in a row fill a pool: nobody can tell them from those that come back, agents whose tools are
  slow above all, and each of these that was pushed out would push out another at its return.
* What is remembered takes a few words for each lane, however long ids are (`ResponseKey`), and however many
  conversations there are.
"""

from __future__ import annotations

import bisect
import enum
import math
import sys
from collections import OrderedDict
from typing import Final

from wspool.core.commands import ConnectionId, LaneId, ResponseKey
from wspool.core.lending.lanes import Connection, Lane
from wspool.core.states import ConnectionState

__all__ = ["Affinity", "Use"]


class Use(enum.IntEnum):
    """Of what use a free lane is to others than a newcomer; of the least first."""

    #: It remembers nothing.
    NOTHING = 0
    #: It holds an unused response to the pool's warm-up request.
    WARM = 1
    #: The conversation that it remembers is known to be over.
    OVER = 2
    #: Whoever has used it may come back.
    REMEMBERED = 3
    #: It remembers a conversation, which may come back, and can go on elsewhere.
    CLAIMED = 4
    #: It is about to go: whoever is granted it would have to move at once.
    RETIRING = 5


# A member of an enum is looked up by a function call in Python 3.11, a global is not.
_NOTHING: Final = int(Use.NOTHING)
_WARM: Final = int(Use.WARM)
_OVER: Final = int(Use.OVER)
_REMEMBERED: Final = int(Use.REMEMBERED)
_CLAIMED: Final = int(Use.CLAIMED)
_RETIRING: Final = int(Use.RETIRING)
_OPEN: Final = ConnectionState.OPEN

#: How many conversations that were pushed out while they called tools are waited for, to see how long that
#: takes.
_AWAY: Final = 1024

#: A free lane: its use, then what decides among those of equal use, then which it is.
_Entry = tuple[int, float, int, LaneId]


class Affinity:
    """What the lanes of one pool remember.

    Attributes:
        idle: the free lanes of usable connections, that of least use first.
        fresh: how many of them are spare, ready ahead of demand: nobody's loss, and not about to go.
        held: which lane remembers which response; None for one that several remember.
    """

    __slots__ = ("_away", "_holders", "fresh", "held", "idle")

    def __init__(self) -> None:
        self.fresh = 0
        # Responses that ask for tools and were pushed out before somebody came back to them, and since when.
        self._away: OrderedDict[ResponseKey, float] = OrderedDict()
        self.idle: list[_Entry] = []
        self.held: dict[ResponseKey, tuple[Connection, Lane] | None] = {}
        # How many lanes remember a response that several remember, or did.
        self._holders: dict[ResponseKey, int] = {}

    # -- what is remembered -------------------------------------------------------------------

    def remember(self, connection: Connection, lane: Lane, response: ResponseKey | None, now: float) -> None:
        """A turn, or a warm-up, has ended on *lane*, which is not free; the server holds *response*."""
        lane.used_at, lane.calls = now, False
        lane.response = response
        if response is None:
            return
        if response not in self.held:
            self.held[response] = connection, lane
        else:
            other, self.held[response] = self.held[response], None
            if other is not None and other[1].entry is not None:
                self._sort(*other)
            self._holders[response] = self._holders.get(response, 1) + 1

    def forget(self, lane: Lane) -> None:
        """What was remembered on *lane* is of no use any more: another turn begins, or the lane ends."""
        response, lane.response = lane.response, None
        if response is None:
            return
        if lane.calls:
            self._away[response] = lane.used_at
            if len(self._away) > _AWAY:
                self._away.popitem(last=False)
        if (holders := self._holders.pop(response, 1)) > 1:
            self._holders[response] = holders - 1
        if holders == 1:
            del self.held[response]

    def holder(self, response: ResponseKey) -> tuple[Connection, Lane] | None:
        """Return the one lane that remembers *response*, if there is one."""
        return self.held.get(response)

    def away_since(self, response: ResponseKey) -> float | None:
        """Somebody comes back to *response*: return since when it was away, if it was to call tools."""
        if (held := self.held.get(response)) is None:
            return self._away.pop(response, None)
        lane = held[1]
        if not lane.calls:
            return None
        lane.calls = False
        return lane.used_at

    def over(self, response: ResponseKey) -> bool:
        """The conversation that *response* is the latest of is over; return whether a free lane held it."""
        if (held := self.held.get(response)) is None:
            return False
        connection, lane = held
        lane.over = True
        if lane.entry is None:
            return False
        self._sort(connection, lane)
        return True

    # -- what is free -------------------------------------------------------------------------

    def add(self, connection: Connection, lane: Lane) -> None:
        """*lane* is free from now on, or of another use than before (after `discard`)."""
        by = -connection.retire_at
        if connection.state is not _OPEN:
            use, by = _RETIRING, 0.0
        elif lane.response is None:
            use = _NOTHING
        elif lane.warm:
            use = _WARM
        elif lane.over or self.held[lane.response] is None:  # nobody can ask for it
            use = _OVER
        else:
            use, by = _CLAIMED if lane.movable else _REMEMBERED, lane.used_at
        if use < _CLAIMED:
            self.fresh += 1
        lane.entry = entry = (use, by, -connection.id, lane.id)
        bisect.insort(self.idle, entry)

    def _sort(self, connection: Connection, lane: Lane) -> None:
        """What is free is of another use than before."""
        self.discard(lane)
        self.add(connection, lane)

    def discard(self, lane: Lane) -> None:
        """*lane* is not free any more."""
        entry, lane.entry = lane.entry, None
        if entry is None:
            raise AssertionError("bug: a lane that is not free was taken")
        if entry[0] < _CLAIMED:
            self.fresh -= 1
        del self.idle[bisect.bisect_left(self.idle, entry)]

    def is_fresh(self, lane: Lane) -> bool:
        """Return whether *lane*, which is free, is spare: it is nobody's loss, and it stays."""
        return lane.entry is not None and lane.entry[0] < _CLAIMED

    def leaving_since(self, dial: ConnectionId) -> int:
        """Return how many free lanes there are of connections that are about to go, and newer than *dial*."""
        first = bisect.bisect_left(self.idle, (_RETIRING, 0.0, -sys.maxsize, LaneId(0)))
        return bisect.bisect_left(self.idle, (_RETIRING, 0.0, -dial, LaneId(0)), first) - first

    def least(self, *, warm: bool) -> tuple[ConnectionId, LaneId, bool]:
        """Return the free lane that a newcomer is given, and whether a conversation may miss it.

        Args:
            warm: True if the response to the warm-up request is of use to it.
        """
        idle, index = self.idle, 0
        if warm:
            index = bisect.bisect_left(idle, (_WARM, -math.inf, -sys.maxsize, LaneId(0)))
            if index == len(idle) or idle[index][0] != _WARM:
                index = 0
        use, _, number, lane = idle[index]
        return ConnectionId(-number), lane, use == _CLAIMED
