"""Leases: what becomes of a lane while somebody has it, from its first turn to its return.

Rules of this module (each is an invariant of the specification machine):

* A lane has one turn at a time, and none starts that may not end before its connection does.
* Only a provably clean lane becomes free again; when in doubt, hang up. What is given up midway is hung
  up on or drained, as the policy says; where lanes share a connection it is always drained, since one
  cannot be dropped without its siblings. A request that the network has not taken whole has no rest to wait
  for: a connection that it has for itself is hung up, and whoever sends is not kept.
* A lane that was given up on for good says nothing more: the late end of what was on it is ignored.
"""

from __future__ import annotations

import enum
import math
from typing import Final

from wspool.core.commands import CloseReason, Command, LaneId, LeaseId, ResponseKey, Returned
from wspool.core.lending.allocation import Allocation
from wspool.core.lending.endings import Endings
from wspool.core.lending.lanes import Connection, Lane
from wspool.core.lending.lives import Lives
from wspool.core.lending.roster import Roster
from wspool.core.lending.tally import Tally
from wspool.core.policy import OnCancel
from wspool.core.states import LANE_TABLE, ConnectionState, LaneInput, LaneState, advance

__all__ = ["Leases", "Verdict"]

# A member of an enum is looked up by a function call in Python 3.11, a global is not.
_IDLE: Final = LaneState.IDLE
_WARMING: Final = LaneState.WARMING
_TAILS: Final = frozenset({LaneState.DRAINING, LaneState.QUARANTINED})
_IN_FLIGHT: Final = LaneState.IN_FLIGHT
_RELEASE: Final = LaneInput.RELEASE
_START: Final = LaneInput.START
_FINISH: Final = LaneInput.FINISH
_PARKED: Final = LaneState.PARKED
_DEAD: Final = LaneState.DEAD
_RETIRING: Final = ConnectionState.RETIRING
_CLOSING: Final = ConnectionState.CLOSING


class Verdict(enum.Enum):
    """Whether a turn may start on a lease."""

    #: It has started.
    GO = "go"
    #: It has not: take another lease. The connection may end before the turn does, or another
    #: one is ready in its place, or somebody else starves for it.
    MOVE = "move"


_GO: Final = Verdict.GO


class Leases:
    """What holders do with their lanes.

    Args:
        on_cancel: what becomes of a connection with one lane whose turn is given up.
        roster: the connections.
        lives: their lives.
        allocation: who gets what comes back.
        endings: where is noted what was of no use.
        tally: where turns and returns are counted.
    """

    def __init__(
        self,
        on_cancel: OnCancel,
        roster: Roster,
        lives: Lives,
        allocation: Allocation,
        endings: Endings,
        tally: Tally,
    ) -> None:
        self._on_cancel = on_cancel
        self._roster = roster
        self._lives = lives
        self._allocation = allocation
        self._endings = endings
        self._tally = tally

    def begin(
        self, lease: LeaseId, now: float, commands: list[Command], *, movable: bool, history: int
    ) -> Verdict:
        """Start a turn, unless it had better be on another lease. See `PoolCore.begin`."""
        # What each turn passes through does without the calls that only say what is wrong.
        connection, lane = self._roster.leases.get(lease) or self._roster.lease(lease)
        if _START not in LANE_TABLE[lane.state]:
            advance(LANE_TABLE, lane.state, _START)  # illegal before anything else
        if now >= connection.last_start:
            return Verdict.MOVE  # mark: move: the turn might not end in time
        retiring = connection.state is _RETIRING
        replaced = retiring and self._roster.affinity.fresh > 0 and not self._allocation.waiters
        if movable and (now >= connection.grant_end or replaced):
            return Verdict.MOVE  # mark: move: another connection is there, or will be
        if lane.state is _PARKED:
            if self._allocation.yields(lease, now, commands):
                return Verdict.MOVE  # mark: move: somebody starves
            self._allocation.keeping.came_back(now - self._roster.parked.pop(lease))
            lane.calls = False
        self._roster.move_lane(lane, _START)
        self._roster.affinity.forget(lane)
        lane.movable, lane.history, lane.used_at = movable, history, now
        connection.used = True
        connection.touched_at = now
        self._tally.turns += 1
        return _GO

    def park(self, lease: LeaseId, now: float, commands: list[Command]) -> None:
        """No turn will start for a while."""
        connection, lane = self._roster.lease(lease)
        self._roster.move_lane(lane, LaneInput.PARK)
        self._roster.parked[lease] = now
        if now >= connection.grant_end:
            self._lives.end_grants(connection, commands)  # of no use to anybody any more

    def finished(
        self,
        connection: Connection,
        number: LaneId,
        now: float,
        commands: list[Command],
        response: ResponseKey | None,
        *,
        completed: bool,
        calls: bool,
    ) -> bool:
        """The end of what was on a lane has come; return False if nobody waits for it any longer."""
        if connection.state is _CLOSING:
            return False
        lane = connection.lanes[number]
        if lane.state is _DEAD:
            return False
        before, began = lane.state, lane.used_at
        self._roster.move_lane(lane, _FINISH)
        self._roster.affinity.remember(connection, lane, response, now)
        # Who gave a turn up does not go on from its response.
        lane.warm, lane.over = before is _WARMING and response is not None, before in _TAILS
        connection.touched_at = now
        lane.tail_until = math.inf
        if lane.state is _IDLE:  # a warm-up, or a tail whose holder has left
            self._allocation.freed(connection, lane, now, commands)
        elif lane.lease is not None and lane.movable:
            # Whoever reads or waits now needs no lane, and whoever calls tools comes back soon.
            self._allocation.keeping.took(now - began, lane.history)
            if before is _IN_FLIGHT and (calls or not completed):
                lane.calls = calls and response is not None
                self.park(lane.lease, now, commands)
            else:
                self._put_back(connection, lane, lane.lease, now, commands)
        self._lives.check_end(connection, now, commands)
        return True

    def _put_back(
        self, connection: Connection, lane: Lane, lease: LeaseId, now: float, commands: list[Command]
    ) -> None:
        """The turn of a holder who can go on elsewhere has ended, and nothing follows for a while."""
        self._roster.move_lane(lane, _RELEASE)
        self._roster.unbind(lease)
        self._tally.released += 1
        commands.append(Returned(lease))
        self._allocation.freed(connection, lane, now, commands)

    def give_up(
        self, lease: LeaseId, now: float, commands: list[Command], *, heard: bool, sent: bool = True
    ) -> None:
        """Nobody wants the rest of the turn. See `PoolCore.give_up`."""
        connection, lane = self._roster.lease(lease)
        advance(LANE_TABLE, lane.state, LaneInput.ABANDON)
        connection.excused = connection.excused or heard
        if not heard:
            self._endings.unheard(connection)
        if len(connection.lanes) == 1 and (self._on_cancel == "hang_up" or not sent):
            # mark: dirty: given up midway
            self._lives.hang_up(connection, CloseReason.DIRTY, commands, polite=False)
        else:
            self._roster.move_lane(lane, LaneInput.ABANDON)
            self._lives.bound_tail(connection, lane, now)

    def release(self, lease: LeaseId, now: float, commands: list[Command]) -> None:
        """The holder of a live lease leaves."""
        roster = self._roster
        connection, lane = roster.lease(lease)
        if lane.state is _IN_FLIGHT:
            self.give_up(lease, now, commands, heard=False)
            if not roster.is_live(lease):
                return
        roster.move_lane(lane, _RELEASE)
        roster.unbind(lease)
        self._tally.released += 1
        if lane.state is _IDLE:
            self._allocation.freed(connection, lane, now, commands)
        if self._allocation.closing and connection.usable and not connection.leased:
            self._lives.hang_up(connection, CloseReason.POOL_CLOSED, commands)
