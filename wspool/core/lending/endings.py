"""Endings: what the ends of connections say about the endpoint.

Only those say something that were not our idea. They are noted as they happen, and judged by the rules of
`wspool.core.outage` when the input that they belong to is settled. Each says it once: an end that the server
has announced is told by the announcement, if nobody had the connection, and no more when it comes. Where one
meets the server's limit those that are older go as well: that is our idea, and says nothing of them.
"""

from __future__ import annotations

from typing import Final

from wspool.core.commands import CloseReason, Command, Degraded, Recovered
from wspool.core.lending.ages import Ages
from wspool.core.lending.lanes import Connection
from wspool.core.outage import CUT_SHORT, EARLY, REFUSED_LATE, Outage
from wspool.core.states import LaneState

__all__ = ["Endings"]

#: Why connections end that we would have kept.
_THEIRS: Final = frozenset({CloseReason.LOST, CloseReason.DIRTY, CloseReason.LIMIT})


class Endings:
    """The ends of the connections of one pool that are not judged yet.

    Args:
        outage: what they tell against.

    Attributes:
        ages: what they say about the lifetime of connections.
        noted: connections that ended before a turn was completed on them, and why; None for what is to end.
    """

    def __init__(self, outage: Outage) -> None:
        self._outage = outage
        self.ages = Ages()
        self.noted: list[tuple[Connection, CloseReason | None]] = []

    def note(self, connection: Connection, reason: CloseReason) -> None:
        """It ends, for that reason. It is usable still."""
        if connection.noticed and not connection.lent:
            return  # it was told when it was announced
        theirs = reason in _THEIRS or (connection.noticed and reason is CloseReason.LIFETIME)
        if reason is CloseReason.LIMIT and connection.leaves_for is CloseReason.LIMIT:
            return  # another one has met it
        if theirs and not (connection.proven or connection.excused):
            self.noted.append((connection, reason))

    def unheard(self, connection: Connection) -> None:
        """A turn on it was given up of which nothing was heard, whenever it may end."""
        if not connection.proven:
            self.noted.append((connection, None))

    def noticed(self, connection: Connection) -> None:
        """The server has announced its end."""
        connection.noticed = True
        if not connection.lent:  # whoever has it may complete a turn yet
            self.noted.append((connection, None))

    def proved(self, connection: Connection, now: float, commands: list[Command]) -> None:
        """A turn was completed on it."""
        connection.proven = True
        if self._outage.doubtful and (lasted := self._outage.answered(connection.episode, now)) is not None:
            commands.append(Recovered(lasted))

    def ended(self, connection: Connection, now: float, limit: float, oldest: Connection | None) -> bool:
        """The server ends it, which is usable still; return whether a lifetime was learnt from that.

        Args:
            limit: the lifetime that is planned with, in seconds.
            oldest: the oldest connection that is usable.
        """
        age = now - connection.opened_at
        in_turn = any(lane.state is LaneState.IN_FLIGHT for lane in connection.lanes)
        if not connection.proven or not (in_turn or now - connection.touched_at < age / 2):
            return False  # of no use, or out of use: it may have ended for that
        living = 0.0 if oldest is None else now - oldest.opened_at
        return self.ages.ended(age, now, oldest=living, limit=limit)

    def judge(self, now: float, commands: list[Command]) -> None:
        """Judge what was noted."""
        noted, self.noted = self.noted, []
        outage = self._outage
        for connection, reason in noted:
            failure, dial, episode = REFUSED_LATE, connection.id, connection.episode
            young = not connection.used and now < connection.opened_at + EARLY
            # A server that accepts and hangs up refuses us all the same. So does one that makes us hang up,
            # again and again.
            if young and (reason is CloseReason.LOST or (reason is not None and outage.doubtful)):
                began = outage.relapsed(episode, now, failure, connection.jitter)
            elif connection.lent:
                failure = CUT_SHORT
                began = outage.cut_short(dial, episode, now, connection.jitter)
            else:
                began = outage.withered(dial, now, connection.jitter)
            if began:
                commands.append(Degraded(failure))
