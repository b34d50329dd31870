"""In flight: the turns that are under way on the connections of a pool, as somebody sees them who looks."""

from __future__ import annotations

from collections.abc import Iterable

import trio

from wspool.core.statistics import TurnInFlight
from wspool.pool.attempt import Attempt
from wspool.pool.connection import Connection

__all__ = ["in_flight"]


def in_flight(connections: Iterable[Connection]) -> list[TurnInFlight]:
    """Return the turns in flight on *connections*, the oldest first.

    Not a warm-up, nor the rest of a turn that was given up: nobody waits for those.
    """
    now = trio.current_time()
    found: list[tuple[float, int, int, Attempt]] = [
        (lane.attempt.sent_at, connection.id, lane.id, lane.attempt)
        for connection in connections
        for lane in connection.lanes
        if lane.attempt is not None and lane.warming is None and not lane.attempt.given_up
    ]
    return [
        TurnInFlight(
            conversation=attempt.conversation,
            connection=connection,
            lane=lane,
            response_id=attempt.machine.response_id,
            delivery=attempt.machine.delivery,
            since=now - sent_at,
            last_event=None if attempt.first_at is None else now - attempt.heard_at,
            events=attempt.count,
            received=attempt.received,
        )
        for sent_at, connection, lane, attempt in sorted(found, key=lambda each: each[:3])
    ]
