"""Doubt: an event that may be ours, though what it says about itself speaks against it.

The id of its response was never seen, or is left out; or its number shows that one is missing, or came twice.
An exact server never sends such a thing about the request in flight, a gateway does so all day. With one
request in flight on a lane there is other evidence.

Rules of this module:

* What is known to be about an earlier response of the connection is not in doubt: it is not ours. Nor is what
  names a response before ours has begun.
* A number is no proof against an event whose item is ours or new. It is delivered, and the connection is not
  used again, for something may be missing. From then on numbers prove nothing in this turn.
* An end whose response nobody has seen is ours if it says what ours said: its items are ours, by id or word
  for word, all of them. So is one without an output, if its number is just the next of ours, or its parent
  the one that was sent, and all that was announced has come. One that names another parent is not. A foreign
  end is never an answer, whatever the provider is said to be.
* What nothing proves is dropped. If it was an end, nobody waits for ever for another.
* Where ids are known to prove nothing, only what contradicts ours is dropped.
"""

from __future__ import annotations

from typing import Any, Final

import attrs

from wspool.core.events.assembly import Kinship
from wspool.core.events.evidence import Evidence
from wspool.core.events.reading import FOREIGN, REPEATED, Reading
from wspool.core.events.table import TurnInput
from wspool.core.events.trust import Rewrite
from wspool.core.frames import Event
from wspool.core.server_error import ServerError

__all__ = ["is_proved", "unnumbered", "unseen_end", "unseen_progress", "unseen_unknown"]

_WHY: Final = "an end with an id that nobody has seen, which nothing ties to this turn"

#: Nothing says whose it is, and nobody has to know.
_UNKNOWN: Final = Reading(TurnInput.UNKNOWN)
_DROPPED: Final = Reading(TurnInput.DOUBTFUL, suspect=True)
_PROGRESS: Final = Reading(TurnInput.PROGRESS)
#: Ours, letter for letter: nothing is missing, and nothing new is in it.
_TWICE: Final = Reading(TurnInput.STALE, suspect=True)
_PROVED: Final = Reading(TurnInput.PROGRESS, suspect=True, rewritten=Rewrite.IDS)


def unseen_progress(event: Event, known: Evidence, response: dict[str, Any]) -> Reading:
    """Return what the progress of a response is whose id nobody has seen. It says nothing of the output."""
    if known.response_id is None:
        return FOREIGN  # mark: dirty: progress before the beginning
    if not known.ids:
        return _PROGRESS
    ours = known.is_next(event.sequence_number, response) and not known.is_anothers_child(response)
    return _PROVED if ours else _DROPPED


def unseen_unknown(known: Evidence) -> Reading:
    """Return what an event of an unknown type is that names a response which nobody has seen."""
    if known.response_id is None:
        return FOREIGN  # mark: dirty: an unknown response before the beginning
    return _DROPPED if known.ids else _UNKNOWN


def unseen_end(
    event: Event,
    known: Evidence,
    response: dict[str, Any],
    error: ServerError | None,
    status: str,
) -> Reading:
    """Return what the end of a response is whose id nobody has seen, or that has none."""
    if known.response_id is None:
        return FOREIGN  # mark: dirty: an end before the beginning
    kinship = known.kinship(response.get("output"))
    ours = Reading(TurnInput.TERMINAL, response, error, status)
    if not known.ids:
        if kinship is not Kinship.NONE:
            return ours
    elif not known.is_anothers_child(response) and (
        kinship is Kinship.ALL
        or (
            kinship is Kinship.UNKNOWN
            and known.is_next(event.sequence_number, response)
            and (status == "failed" or known.output.whole)
        )
    ):
        return attrs.evolve(ours, suspect=True, rewritten=Rewrite.IDS)
    return attrs.evolve(ours, what=TurnInput.DOUBTFUL, suspect=True, mixed=True, why=_WHY)


def unnumbered(event: Event, reading: Reading, known: Evidence) -> Reading:
    """Return what an event is whose number is not the next, where the server counts; *reading* if it were."""
    what = reading.what
    if what is TurnInput.CREATED or what is TurnInput.SUCCESSOR:
        return FOREIGN  # mark: dirty: begins with a number that is not the next
    if known.last is not None and known.last.raw == event.raw:
        return _TWICE
    if what is TurnInput.OUTPUT and known.is_anothers(event, missed=True):
        return REPEATED
    return attrs.evolve(reading, suspect=True, mixed=True, rewritten=reading.rewritten or Rewrite.NUMBERS)


def is_proved(rewritten: Rewrite, own: object, known: Evidence) -> bool:
    """Return whether a response that has ended with the output *own* proves that only that was *rewritten*.

    Where all that it says was heard before, no event was missing: then it was the numbers that were wrong.
    """
    return rewritten is Rewrite.IDS or (known.kinship(own) is Kinship.ALL and known.output.whole)
