"""Two of the three legality tables, of a connection and of a lane, and the one function that reads them.

That of a turn is in `wspool.core.events.table`.

Rules of this module:

* Everything that changes a state goes through `advance`; nothing else assigns one.
* A pair that is not listed is illegal: it raises and changes nothing.
* Effects are not in the tables; they are the commands that the core returns.

A connection is one WebSocket. It is dialled, open, told to retire (it takes no new
conversation once its replacement is there), closing, closed. A lane is one serial track
on an open connection; it is what a lease holds. A lane ends (`DEAD`) with its connection.

Three lane states deserve a word. `DRAINING`: the holder gave its turn up but keeps the
lease; the rest of the turn is read and dropped before the lane may be used again.
`QUARANTINED`: the same, and the holder has left as well. `PARKED` is a lane whose holder is
between turns (its tools run): it stays the holder's unless somebody else starves.

The members are looked up in tables at every step, so they hash by identity: `enum.Enum` hashes
a member's name, in Python.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final, TypeVar

__all__ = [
    "CONNECTION_TABLE",
    "LANE_TABLE",
    "ConnectionInput",
    "ConnectionState",
    "IllegalInputError",
    "LaneInput",
    "LaneState",
    "Naming",
    "advance",
]


class ConnectionState(enum.Enum):
    """Where one WebSocket is in its life."""

    __hash__ = object.__hash__

    #: The handshake is running; nothing was sent yet.
    DIALING = "dialing"
    #: Usable.
    OPEN = "open"
    #: Past its planned retirement: replaced as soon as possible, then closed.
    RETIRING = "retiring"
    #: Told to go; no longer counted against the pool's size.
    CLOSING = "closing"
    #: Gone for good.
    CLOSED = "closed"


class ConnectionInput(enum.Enum):
    """What can happen to a connection."""

    __hash__ = object.__hash__

    CONNECT = "connect"
    FAIL = "fail"
    RETIRE = "retire"
    HANG_UP = "hang up"
    LOSE = "lose"
    GO = "go"


class Naming(enum.Enum):
    """Whether requests name the lane they are for."""

    #: They do not: there is one lane.
    NONE = "none"
    #: They do, but there is only one lane until the endpoint has answered by its name.
    TRIAL = "trial"
    #: They do, and so does every answer.
    NAMED = "named"


class LaneState(enum.Enum):
    """Where one lane is in its life."""

    __hash__ = object.__hash__

    #: Clean and free.
    IDLE = "idle"
    #: Busy with the pool's own warm-up request.
    WARMING = "warming"
    #: Held by a lease, no turn in flight.
    LEASED = "leased"
    #: Held by a lease whose holder is busy elsewhere; may be taken if others starve.
    PARKED = "parked"
    #: Held by a lease, one turn in flight.
    IN_FLIGHT = "in flight"
    #: Held by a lease; the rest of an abandoned turn is still arriving.
    DRAINING = "draining"
    #: Held by nobody; the rest of an abandoned turn is still arriving.
    QUARANTINED = "quarantined"
    #: Its connection is closing or closed.
    DEAD = "dead"


class LaneInput(enum.Enum):
    """What can happen to a lane."""

    __hash__ = object.__hash__

    GRANT = "grant"
    WARM = "warm"
    PARK = "park"
    STEAL = "steal"
    START = "start"
    FINISH = "finish"
    ABANDON = "abandon"
    RELEASE = "release"
    END = "end"


_C, _CI = ConnectionState, ConnectionInput
_L, _LI = LaneState, LaneInput

# Anything not listed here is illegal. That is the point of the table.
CONNECTION_TABLE: Final[Mapping[ConnectionState, Mapping[ConnectionInput, ConnectionState]]] = {
    _C.DIALING: {_CI.CONNECT: _C.OPEN, _CI.FAIL: _C.CLOSED, _CI.HANG_UP: _C.CLOSING},
    _C.OPEN: {_CI.RETIRE: _C.RETIRING, _CI.HANG_UP: _C.CLOSING, _CI.LOSE: _C.CLOSED},
    # A known-dead socket skips CLOSING: there is nobody to say goodbye to.
    _C.RETIRING: {_CI.HANG_UP: _C.CLOSING, _CI.LOSE: _C.CLOSED},
    _C.CLOSING: {_CI.GO: _C.CLOSED},
    _C.CLOSED: {},
}

# FINISH is the terminal event of whatever is on the lane: a turn, a warm-up, an abandoned tail.
LANE_TABLE: Final[Mapping[LaneState, Mapping[LaneInput, LaneState]]] = {
    _L.IDLE: {_LI.GRANT: _L.LEASED, _LI.WARM: _L.WARMING, _LI.END: _L.DEAD},
    _L.WARMING: {_LI.FINISH: _L.IDLE, _LI.END: _L.DEAD},
    _L.LEASED: {
        _LI.START: _L.IN_FLIGHT,
        _LI.PARK: _L.PARKED,
        _LI.RELEASE: _L.IDLE,
        _LI.END: _L.DEAD,
    },
    _L.PARKED: {
        _LI.START: _L.IN_FLIGHT,
        _LI.STEAL: _L.IDLE,
        _LI.RELEASE: _L.IDLE,
        _LI.END: _L.DEAD,
    },
    _L.IN_FLIGHT: {_LI.FINISH: _L.LEASED, _LI.ABANDON: _L.DRAINING, _LI.END: _L.DEAD},
    _L.DRAINING: {_LI.FINISH: _L.LEASED, _LI.RELEASE: _L.QUARANTINED, _LI.END: _L.DEAD},
    _L.QUARANTINED: {_LI.FINISH: _L.IDLE, _LI.END: _L.DEAD},
    _L.DEAD: {},
}


class IllegalInputError(Exception):
    """An input that the table does not list: a bug in whoever drives the core; nothing changed."""


_State = TypeVar("_State", bound=enum.Enum)
_Input = TypeVar("_Input", bound=enum.Enum)


def advance(table: Mapping[_State, Mapping[_Input, _State]], state: _State, what: _Input) -> _State:
    """Return the state that follows *state* on *what*.

    Raises:
        IllegalInputError: the pair is not in the table.
    """
    try:
        return table[state][what]
    except KeyError:
        raise IllegalInputError(f"{what.value!r} is illegal while {state.value!r}") from None
