"""Lanes and connections, as the core sees them: values that others move by the tables."""

from __future__ import annotations

import math
from typing import Final

import attrs

from wspool.core.commands import CloseReason, ConnectionId, LaneId, LeaseId, ResponseKey
from wspool.core.states import ConnectionState, LaneState

__all__ = ["USABLE", "Connection", "Lane"]

#: Connection states in which a lane can be granted.
USABLE: Final = frozenset({ConnectionState.OPEN, ConnectionState.RETIRING})


@attrs.define(eq=False)
class Lane:
    """One serial track of a connection."""

    id: LaneId
    state: LaneState = LaneState.IDLE
    lease: LeaseId | None = None
    #: Whether the holder can go on elsewhere, so that nothing is lost if its lane is taken between turns.
    movable: bool = False
    #: When the rest of an abandoned turn must have ended.
    tail_until: float = math.inf
    #: When the turn on it began, or the last one ended.
    used_at: float = -math.inf
    #: Bytes of the history of the conversation whose turn is on it.
    history: int = 0
    #: The response that the server still holds on it, if any; whether it is the response to a warm-up;
    #: whether it asks for tools; whether its conversation is known to be over.
    response: ResponseKey | None = None
    warm: bool = False
    calls: bool = False
    over: bool = False
    #: Its entry in `Affinity.idle`, while it is there.
    entry: tuple[int, float, int, LaneId] | None = None


@attrs.define(eq=False)
class Connection:
    """One WebSocket, as the core sees it. Times are seconds."""

    id: ConnectionId
    #: Start of the dial: the earliest moment from which a server may count its lifetime.
    born: float
    #: The episode of `Outage` in which its dial began.
    episode: int
    state: ConnectionState = ConnectionState.DIALING
    lanes: list[Lane] = attrs.field(factory=list[Lane])
    #: Lanes that are IDLE, the next to be granted last, while it is usable.
    free: list[Lane] = attrs.field(factory=list[Lane])
    #: Lanes that are neither IDLE nor DEAD, while it is usable.
    busy: int = 0
    #: End of the handshake.
    opened_at: float = math.inf
    #: Whether somebody ever had a lane of it, a turn was ever started on it, one was ever completed on it.
    lent: bool = False
    used: bool = False
    proven: bool = False
    #: Whether a turn on it was given up that the server was at work on: its end is our doing; or whether it
    #: has given an answer, and that is all it is for.
    excused: bool = False
    #: Whether the server has announced its end.
    noticed: bool = False
    #: The random number in [0, 1) that came with it.
    jitter: float = 0.0
    #: Planned retirement.
    retire_at: float = math.inf
    #: Its entry in `Roster.available`, made when it opens and when it retires.
    key: tuple[float, ConnectionId] = (math.inf, ConnectionId(0))
    #: From when on no lane of it is granted: the last start of a turn, or earlier if cleared.
    grant_end: float = math.inf
    #: Since when it is not trusted, whatever is known of lifetimes.
    cleared_at: float = math.inf
    #: Since when no other turn may follow on it, whatever is known of lifetimes.
    distrusted_at: float = math.inf
    #: Why no lane of it is granted from `grant_end` on: its age, or what came before that.
    leaves_for: CloseReason = CloseReason.LIFETIME
    #: From when on no turn is started on it.
    last_start: float = math.inf
    #: When the server ends it.
    expires_at: float = math.inf
    #: When a turn on it began or ended last.
    touched_at: float = -math.inf
    #: Since when every lane is IDLE, while it is usable.
    idle_since: float | None = None
    #: The latest dial when it began to retire, if it has.
    left_after: ConnectionId | None = None
    #: Whether it will be looked at for being idle for long.
    idle_alarm: bool = False

    @property
    def usable(self) -> bool:
        """Whether its handshake is done and it was not told to go."""
        return self.state in USABLE

    @property
    def leased(self) -> bool:
        """Whether a lease has one of its lanes."""
        return any(lane.lease is not None for lane in self.lanes)
