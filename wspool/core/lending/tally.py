"""Tally: what has happened in a pool so far, and the snapshot that it is shown in.

Its numbers count up for ever; what is the case now is counted by those who know it.
"""

from __future__ import annotations

from collections import Counter

import attrs

from wspool.core.lending.roster import Roster
from wspool.core.policy import PoolPolicy
from wspool.core.states import ConnectionState, LaneState
from wspool.core.statistics import PoolStatistics

__all__ = ["Tally"]


@attrs.define(eq=False)
class Tally:
    """Counts since a pool was made; the words are those of `PoolStatistics`."""

    dialed: int = 0
    dial_failures: int = 0
    granted: int = 0
    released: int = 0
    lost_leases: int = 0
    stolen: int = 0
    abandoned: int = 0
    refused: int = 0
    turns: int = 0
    retirements: int = 0
    closed: Counter[str] = attrs.field(factory=Counter[str])

    def snapshot(
        self,
        policy: PoolPolicy,
        roster: Roster,
        *,
        waiting: int,
        degraded: bool,
        paused: bool,
        closed_pool: bool,
        learned_lifetime: float | None,
    ) -> PoolStatistics:
        """Return a frozen snapshot of the pool with these limits and connections."""
        connections, lanes = roster.states, roster.lanes
        parked, in_flight = lanes[LaneState.PARKED], lanes[LaneState.IN_FLIGHT]
        return PoolStatistics(
            max_size=policy.max_size,
            min_idle=policy.min_idle,
            size=roster.size,
            dialing=roster.dialing,
            open=connections[ConnectionState.OPEN],
            retiring=connections[ConnectionState.RETIRING],
            closing=connections[ConnectionState.CLOSING],
            idle=lanes[LaneState.IDLE],
            warming=lanes[LaneState.WARMING],
            leased=lanes[LaneState.LEASED] + parked + in_flight + lanes[LaneState.DRAINING],
            parked=parked,
            in_flight=in_flight,
            draining=lanes[LaneState.DRAINING] + lanes[LaneState.QUARANTINED],
            waiting=waiting,
            degraded=degraded,
            paused=paused,
            closed_pool=closed_pool,
            learned_lifetime=learned_lifetime,
            dialed=self.dialed,
            dial_failures=self.dial_failures,
            granted=self.granted,
            released=self.released,
            lost_leases=self.lost_leases,
            stolen=self.stolen,
            abandoned=self.abandoned,
            refused=self.refused,
            turns=self.turns,
            retirements=self.retirements,
            closed=dict(self.closed),
        )
