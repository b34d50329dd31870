"""The third legality table, of a turn: what each kind of event does to it in each of its states.

Rules of this module:

* What an event is, and whose, has been found out before (`wspool.core.events.classify`); here is only what
  follows. No order of conditions has a meaning.
* A pair that is not listed is a message that cannot belong to the turn: nothing changes, nobody is given
  it, and the connection is not used again.
* Only the end of a response, or what answers the last of its steers, proves that the lane is clean. An error
  in a response that has begun does not: `response.failed` is still to come.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

import attrs

__all__ = ["DIRTY", "TURN_TABLE", "Reception", "Step", "TurnInput", "TurnState", "follow"]


class TurnState(enum.Enum):
    """Where one turn is."""

    __hash__ = object.__hash__

    #: Its request has not left.
    NEW = "new"
    #: Its request may be on its way, nothing was heard.
    SENT = "sent"
    #: Its response has begun.
    STREAMING = "streaming"
    #: Its response had an error; its end is still to come.
    FAILING = "failing"
    #: Its response has ended; something more will be said about what it was steered by.
    SETTLING = "settling"
    #: Nothing more will come.
    ENDED = "ended"


class TurnInput(enum.Enum):
    """What can happen to a turn: kinds of events, by what they are and whose, and three more."""

    __hash__ = object.__hash__

    #: The first byte of the request may be on its way.
    HANDED = "handed"
    #: About the connection, for no turn.
    NOTICE = "notice"
    #: A type that the protocol does not know, about no response.
    EXTENSION = "extension"
    #: A type that the protocol does not know, about a response, without a word of which.
    UNKNOWN = "unknown"
    #: A response has begun that can be the answer to the request.
    CREATED = "created"
    #: The response that goes on from ours with what it was steered by has begun.
    SUCCESSOR = "successor"
    #: Our response, before its output.
    PROGRESS = "progress"
    #: A piece of output.
    OUTPUT = "output"
    #: The life of a response within ours, of an agent that ours has called: it names that agent.
    MEMBER = "member"
    #: The end of our response.
    TERMINAL = "terminal"
    #: An error that can be about the request, or about our response.
    ERROR = "error"
    #: The connection is at its lifetime limit.
    LIMIT = "limit"
    #: The connection will be at its limit soon.
    EXPIRING = "expiring"
    #: An answer to what our response was steered by.
    STEER = "steer"
    #: It repeats a response that has ended on this connection.
    STALE = "stale"
    #: It may be ours or not, and nothing says which.
    DOUBTFUL = "doubtful"
    #: It cannot belong to this turn.
    FOREIGN = "foreign"
    #: Nothing more will be said about what the turn was steered by.
    SETTLED = "settled"
    #: `response.failed` did not follow its error.
    EXPIRED = "expired"


class Reception(enum.Enum):
    """What to do with an event."""

    #: It belongs to the turn.
    DELIVER = "deliver"
    #: It belongs to the turn and ends it.
    END = "end"
    #: It is harmless, and not for the turn.
    IGNORE = "ignore"
    #: It announces that the connection will end soon; the turn goes on.
    EXPIRING = "expiring"
    #: It ends the connection in the middle of the turn: the turn is lost, not failed.
    CUT = "cut"
    #: It cannot belong to this turn: the connection must not be used again.
    DIRTY = "dirty"


@attrs.frozen
class Step:
    """What follows: the next state, and what to do with the event."""

    state: TurnState
    reception: Reception


_S, _I, _R = TurnState, TurnInput, Reception


def _stay(state: TurnState, reception: Reception, *inputs: TurnInput) -> dict[TurnInput, Step]:
    return dict.fromkeys(inputs, Step(state, reception))


# What is harmless at any time, and what is in flight but changes nothing.
_ANY_TIME = (_I.NOTICE, _I.EXTENSION)

# Anything not listed here is dirty. That is the point of the table.
TURN_TABLE: Final[Mapping[TurnState, Mapping[TurnInput, Step]]] = {
    _S.NEW: {
        _I.HANDED: Step(_S.SENT, _R.IGNORE),
        **_stay(_S.NEW, _R.IGNORE, *_ANY_TIME, _I.UNKNOWN, _I.STALE),
        **_stay(_S.NEW, _R.EXPIRING, _I.EXPIRING),
    },
    _S.SENT: {
        _I.CREATED: Step(_S.STREAMING, _R.DELIVER),
        # A refusal: it did not run.
        _I.ERROR: Step(_S.ENDED, _R.END),
        _I.LIMIT: Step(_S.ENDED, _R.END),
        **_stay(_S.SENT, _R.DELIVER, _I.EXTENSION),
        **_stay(_S.SENT, _R.IGNORE, _I.NOTICE, _I.UNKNOWN, _I.MEMBER, _I.STALE),
        **_stay(_S.SENT, _R.EXPIRING, _I.EXPIRING),
    },
    _S.STREAMING: {
        _I.TERMINAL: Step(_S.SETTLING, _R.DELIVER),
        _I.ERROR: Step(_S.FAILING, _R.DELIVER),
        **_stay(
            _S.STREAMING,
            _R.DELIVER,
            *(_I.EXTENSION, _I.UNKNOWN, _I.MEMBER, _I.PROGRESS, _I.OUTPUT, _I.STEER),
        ),
        **_stay(_S.STREAMING, _R.IGNORE, _I.NOTICE, _I.STALE, _I.DOUBTFUL),
        **_stay(_S.STREAMING, _R.EXPIRING, _I.EXPIRING),
        **_stay(_S.STREAMING, _R.CUT, _I.LIMIT),
    },
    _S.FAILING: {
        _I.TERMINAL: Step(_S.SETTLING, _R.DELIVER),
        _I.EXPIRED: Step(_S.ENDED, _R.END),
        **_stay(
            _S.FAILING,
            _R.DELIVER,
            *(_I.ERROR, _I.EXTENSION, _I.UNKNOWN, _I.MEMBER, _I.PROGRESS, _I.OUTPUT, _I.STEER),
        ),
        **_stay(_S.FAILING, _R.IGNORE, _I.NOTICE, _I.STALE, _I.DOUBTFUL),
        **_stay(_S.FAILING, _R.EXPIRING, _I.EXPIRING),
        **_stay(_S.FAILING, _R.CUT, _I.LIMIT),
    },
    _S.SETTLING: {
        _I.SETTLED: Step(_S.ENDED, _R.END),
        _I.SUCCESSOR: Step(_S.STREAMING, _R.DELIVER),
        **_stay(_S.SETTLING, _R.DELIVER, _I.STEER, _I.EXTENSION, _I.UNKNOWN, _I.MEMBER),
        **_stay(_S.SETTLING, _R.IGNORE, _I.NOTICE, _I.STALE, _I.DOUBTFUL),
        **_stay(_S.SETTLING, _R.EXPIRING, _I.EXPIRING),
        **_stay(_S.SETTLING, _R.CUT, _I.LIMIT),
    },
    _S.ENDED: _stay(_S.ENDED, _R.IGNORE, *_ANY_TIME) | _stay(_S.ENDED, _R.EXPIRING, _I.EXPIRING),
}

#: What follows from whatever is not listed; the state stays.
DIRTY: Final = Reception.DIRTY


def follow(state: TurnState, what: TurnInput) -> Step:
    """Return what follows *what* in *state*, by the table."""
    step = TURN_TABLE[state].get(what)
    return step if step is not None else Step(state, DIRTY)
