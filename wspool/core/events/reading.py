"""Reading: what an event was found to be, and whose. Never changed; most are made once and used again."""

from __future__ import annotations

from typing import Any, Final

import attrs

from wspool.core.events.table import TurnInput
from wspool.core.events.trust import Rewrite
from wspool.core.server_error import ServerError

__all__ = ["FOREIGN", "GAP", "REPEATED", "STALE", "Reading"]


@attrs.define(eq=False)  # not frozen: one is made for every event that is looked into
class Reading:
    """What an event is, and what was found in it on the way. Never changed.

    Attributes:
        what: the input of the turn's table.
        response: the response object in it.
        error: the error in it.
        status: how the response ended, of a terminal event.
        suspect: True if the connection repeats itself, loses events, or is busy with what nobody knows: this
            turn may go on, but no other may follow on it.
        mixed: True if something of another response may be among what came, or a piece of ours missing.
        rewritten: what its sender has rewritten, though the event is proved to be ours.
        why: why it cannot be ours, or is not known to be.
    """

    what: TurnInput
    response: dict[str, Any] | None = None
    error: ServerError | None = None
    status: str | None = None
    suspect: bool = False
    mixed: bool = False
    rewritten: Rewrite | None = None
    why: str = "an event that cannot belong to this turn"


FOREIGN: Final = Reading(TurnInput.FOREIGN)
#: An output that is no list of items, or of which a piece was not sent.
GAP: Final = Reading(TurnInput.FOREIGN, why="an end without all of its output")
STALE: Final = Reading(TurnInput.STALE)
REPEATED: Final = Reading(TurnInput.STALE, suspect=True, mixed=True)
