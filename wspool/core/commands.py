"""What the core asks for: values that never change, performed by the shell in the order given.

Rules: a command that takes time (`Dial`, `HangUp`, `Warm`, `Ping`) is reported back to the
core exactly once; `Grant` and `Refuse` answer a waiter exactly once; a command never names a
connection that is closed.
"""

from __future__ import annotations

import enum
from typing import NewType, TypeAlias

import attrs

from wspool.core.failures import DialFailure

__all__ = [
    "CloseReason",
    "Command",
    "ConnectionId",
    "Degraded",
    "Dial",
    "Expiring",
    "Grant",
    "HangUp",
    "LaneId",
    "LaneKey",
    "Leaking",
    "LeaseId",
    "LifetimeLearned",
    "Ping",
    "Recovered",
    "Refuse",
    "RefuseReason",
    "ResponseKey",
    "Returned",
    "Stolen",
    "WaiterId",
    "Warm",
]

# Distinct ids are distinct types: mixing them up is a type error, at no cost at run time.
#: A connection: counts up from 1, never reused.
ConnectionId = NewType("ConnectionId", int)
#: A lane of a connection: counts up from 0, from a fixed set.
LaneId = NewType("LaneId", int)
#: Which lane of a pool: its connection and its number there. Never used again.
LaneKey: TypeAlias = tuple[ConnectionId, LaneId]
#: A lease: counts up from 1, never reused.
LeaseId = NewType("LeaseId", int)
#: A task in line: chosen by the shell, never reused.
WaiterId = NewType("WaiterId", int)
#: A response that a server holds: the hash of its id. A server may make ids as long as a message, and what
#: the core is told is written into traces, which hold no text from outside.
ResponseKey: TypeAlias = int


class CloseReason(enum.StrEnum):
    """Why a connection was closed (the keys of `PoolStatistics.closed`)."""

    LIFETIME = "lifetime"
    IDLE = "idle"
    DIRTY = "dirty"
    LIMIT = "limit"
    LOST = "lost"
    UNSUITABLE = "unsuitable"
    DIAL_FAILED = "dial_failed"
    CLEARED = "cleared"
    RESIZED = "resized"
    POOL_CLOSED = "pool_closed"


class RefuseReason(enum.StrEnum):
    """Why a waiter gets no lease."""

    CLOSED = "closed"
    TOO_MANY_WAITING = "too_many_waiting"
    DIAL_FAILED = "dial_failed"


@attrs.frozen
class Dial:
    """Open a connection. Answer: `connected`, `dial_failed` or, once hung up, `gone`."""

    connection: ConnectionId


@attrs.frozen
class HangUp:
    """Close a connection, or give its dial up. Answer: `gone`.

    Attributes:
        polite: say goodbye first, for at most `close_timeout`; else drop the stream.
    """

    connection: ConnectionId
    reason: CloseReason
    polite: bool


@attrs.define  # not frozen: one is made for every turn
class Grant:
    """Give a waiter its lease. Never changed."""

    waiter: WaiterId
    lease: LeaseId
    connection: ConnectionId
    lane: LaneId


@attrs.frozen
class Refuse:
    """Tell a waiter that it gets no lease."""

    waiter: WaiterId
    reason: RefuseReason
    failure: DialFailure | None = None


@attrs.frozen
class Warm:
    """Send the warm-up request on a lane. Answer: `finished` (or `lost` with its connection)."""

    connection: ConnectionId
    lane: LaneId


@attrs.frozen
class Ping:
    """Find out whether the peer is there. Answer: `ponged`, or `lost` after `ping_timeout`."""

    connection: ConnectionId


@attrs.frozen
class Expiring:
    """Tell the holder of a lease that its connection is past its planned retirement."""

    lease: LeaseId


@attrs.frozen
class Stolen:
    """Tell the holder of a parked lease that somebody has its lane who starved, or goes on from the same."""

    lease: LeaseId


@attrs.define  # not frozen: one is made for every turn
class Returned:
    """Tell the holder of a lease that its lane went back: its turn has ended, and asks for nothing more.

    Never changed.
    """

    lease: LeaseId


@attrs.frozen
class Leaking:
    """Tell whoever watches that a lease is held for longer than `leak_after`."""

    lease: LeaseId


@attrs.frozen
class Degraded:
    """Tell whoever watches that the endpoint is down. Once per outage."""

    failure: DialFailure


@attrs.frozen
class Recovered:
    """Tell whoever watches that the endpoint is back. Once per outage.

    Attributes:
        lasted: seconds from the first failed dial to the first that succeeded.
    """

    lasted: float


@attrs.frozen
class LifetimeLearned:
    """Tell whoever watches how long connections live here. Once, and once more if that was wrong.

    Attributes:
        seconds: the lifetime that is planned with from now on instead of the one that was given, or None: the
            one that was learnt is wrong.
    """

    seconds: float | None


Command: TypeAlias = (
    Dial
    | HangUp
    | Grant
    | Refuse
    | Warm
    | Ping
    | Expiring
    | Stolen
    | Returned
    | Leaking
    | Degraded
    | Recovered
    | LifetimeLearned
)
