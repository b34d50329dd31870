"""Lanes: how the turns that share a connection are told apart.

Rules of this module:

* Only what an endpoint does proves that it has lanes. So its first connection is on trial: one turn at
  a time, whose request names its lane. An answer that names it as well opens all lanes, of this and of
  later connections. An endpoint that refuses or ignores the name has one lane, which has none.
* Names come from a fixed set, one for each lane, and are used again: an endpoint counts every name that
  a connection has ever used.
* Every lane has a name once lanes have names, so that an event without one belongs to no turn.
"""

from __future__ import annotations

import functools

from wspool.core.commands import LaneId
from wspool.core.events.classify import Sort, sort_of
from wspool.core.frames import Event, lane_of
from wspool.core.server_error import parse_error
from wspool.core.states import Naming

__all__ = ["lane_name", "learn"]


@functools.cache  # there are few, and each connection has the first
def lane_name(lane: LaneId) -> str:
    """Return the `stream_id` of *lane*."""
    return f"lane{lane}"


def learn(event: Event) -> Naming | None:
    """Return what *event*, on a connection on trial with a turn in flight, says about its lanes.

    None for nothing: an error need not name the lane that it is about.

    Raises:
        MalformedMessageError: it is no JSON object.
    """
    sort = sort_of(event.type)
    if sort is Sort.NOTICE:
        return None
    if lane_of(event) is not None:
        return Naming.NAMED
    if sort is Sort.ERROR:
        return Naming.NONE if parse_error(event.data).blames_lane else None
    return None if sort in (Sort.EXTENSION, Sort.UNKNOWN) else Naming.NONE
