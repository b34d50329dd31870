"""What is this event, and whose is it: one answer for each kind of event, from the evidence that there is.

The law that everything here follows: what is provably foreign never reaches anybody, what is provably ours
is never lost, everything else is let pass. Nothing here changes anything; what follows from an answer stands
in `wspool.core.events.table`.

What there is to hold an event against is `wspool.core.events.evidence`. Where what an event says about itself
speaks against it, and yet it may be ours, `wspool.core.events.doubt` weighs the rest.
"""

from __future__ import annotations

import enum
import functools
import re
from collections.abc import Mapping
from typing import Any, Final

import attrs

from wspool.core.events.doubt import unnumbered, unseen_end, unseen_progress, unseen_unknown
from wspool.core.events.evidence import Evidence
from wspool.core.events.past import Past
from wspool.core.events.reading import FOREIGN, REPEATED, STALE, Reading
from wspool.core.events.steering import steer_of
from wspool.core.events.table import TurnInput, TurnState
from wspool.core.frames import OBJECT, Event, MalformedMessageError, as_number
from wspool.core.server_error import ServerError, parse_error

__all__ = [
    "Sort",
    "classify",
    "is_harmless",
    "is_harmless_after",
    "sort_of",
    "usual_end",
    "usual_start",
]


class Sort(enum.Enum):
    """What an event is by its type alone."""

    __hash__ = object.__hash__

    NOTICE = "notice"
    EXTENSION = "extension"
    ERROR = "error"
    CREATED = "created"
    PROGRESS = "progress"
    TERMINAL = "terminal"
    STEER = "steer"
    #: Output: an item begins, or is done; some more of a piece, or all that it says; whatever else.
    ITEM = "item"
    ITEM_DONE = "item done"
    DELTA = "delta"
    DONE = "done"
    OUTPUT = "output"
    UNKNOWN = "unknown"


#: Sorts by type. Source: the SDK's union of server events, and what endpoints were seen to send beside it.
_SORTS: Final = {
    **dict.fromkeys(("keepalive", "ping", "codex.rate_limits", "codex.response.metadata"), Sort.NOTICE),
    **dict.fromkeys(("response.metadata", "responsesapi.websocket_timing"), Sort.NOTICE),
    **dict.fromkeys(("error", "response.error"), Sort.ERROR),
    "response.created": Sort.CREATED,
    **dict.fromkeys(("response.in_progress", "response.queued"), Sort.PROGRESS),
    **dict.fromkeys(("response.completed", "response.failed", "response.incomplete"), Sort.TERMINAL),
}

#: Second part of the types of output: `response.output_text.delta`.
_OUTPUTS: Final = re.compile(
    r"response\.(output_\w+|content_part|text|audio\w*|refusal|reasoning\w*|function_call\w*|custom_tool\w*"
    r"|code_interpreter\w*|file_search\w*|web_search\w*|image_generation\w*|mcp_\w+|shell_\w+|compaction)\."
)

#: What the status of a response says once it has ended, as the type of its last event would.
_FINAL: Final = {
    "completed": "completed",
    "incomplete": "incomplete",
    "failed": "failed",
    "cancelled": "failed",
    "canceled": "failed",
}


@functools.lru_cache(maxsize=1024)
def sort_of(kind: str) -> Sort:
    """Return what an event of the type *kind* is."""
    if (known := _SORTS.get(kind)) is not None:
        return known
    if not kind.startswith("response."):
        return Sort.EXTENSION
    if kind.startswith("response.steer."):
        return Sort.STEER
    if (found := _OUTPUTS.match(kind)) is None:
        return Sort.UNKNOWN
    done = kind.endswith(".done")
    if found[1] == "output_item":
        return Sort.ITEM_DONE if done else Sort.ITEM
    return Sort.DONE if done else Sort.DELTA if kind.endswith(".delta") else Sort.OUTPUT


def is_harmless(event: Event) -> bool:
    """Return whether *event* is about no response: it may come at any time, for nobody."""
    return sort_of(event.type) in (Sort.NOTICE, Sort.EXTENSION)


def is_harmless_after(event: Event, past: Past) -> bool:
    """Return whether *event* may come while no turn is in flight on a connection that has carried *past*.

    That is what is about no response, or of a type that nobody knows and about none but an old one.
    """
    if sort_of(event.type) is not Sort.UNKNOWN:
        return is_harmless(event)
    name = _response_of(event).get("id", event.data.get("response_id"))
    return name is None or past.knows(name)


# A member of an enum is looked up by a function call in Python 3.11, a global is not.
_CREATED: Final = TurnInput.CREATED
_PROGRESS: Final = Sort.PROGRESS
_SETTLING: Final = TurnState.SETTLING
#: Output that says something; what is done repeats all that its item says.
_SAYING: Final = frozenset({Sort.ITEM_DONE, Sort.DELTA, Sort.DONE})
_PIECES: Final = _SAYING | {Sort.ITEM, Sort.OUTPUT}
_NOTICE, _EXTENSION = Sort.NOTICE, Sort.EXTENSION
_ERROR, _STEER, _BEGINS, _UNHEARD_OF = Sort.ERROR, Sort.STEER, Sort.CREATED, Sort.UNKNOWN
_TERMINAL: Final = TurnInput.TERMINAL

#: Without an id nothing later can be proved to be ours.
_OLD_OR_NAMELESS: Final = Reading(
    TurnInput.FOREIGN, why="a response without an id, or with that of one that was here before"
)
_ANOTHERS: Final = Reading(TurnInput.FOREIGN, why="the answer to a request with another parent")
_UNKNOWN: Final = Reading(TurnInput.UNKNOWN)
_MEMBER: Final = Reading(TurnInput.MEMBER)
_OURS: Final = Reading(TurnInput.PROGRESS)
_TOLD: Final = Reading(TurnInput.NOTICE)
_EXTENDS: Final = Reading(TurnInput.EXTENSION)
_OUTPUT: Final = Reading(TurnInput.OUTPUT)


def classify(event: Event, state: TurnState, known: Evidence, wall_clock: float = 0.0) -> Reading:
    """Return what *event* is, and whose.

    Args:
        event: the next event of the lane.
        state: where the turn in flight is.
        known: what is known about it.
        wall_clock: seconds since the epoch, to which dates in retry hints are compared.

    Raises:
        MalformedMessageError: an event that had to be decoded is no JSON object.
    """
    sort = sort_of(event.type)
    if sort is _NOTICE:
        return _TOLD
    # Errors and what is about steering may leave the lane out; whoever routes them has found it.
    if event.stream_id != known.lane and not (
        event.stream_id is None and sort in (Sort.ERROR, Sort.STEER, Sort.EXTENSION)
    ):
        return FOREIGN  # mark: dirty: another lane
    number = event.sequence_number
    if sort in _PIECES:
        # By chance the number of a late one may fit: what says something is looked into.
        tied = number is not None and known.numbers and not known.mixed
        looked_into = not tied or (known.items and sort in _SAYING and not known.goes_on(event))
        if looked_into and known.is_anothers(event):
            return REPEATED
        reading = _OUTPUT
    elif sort is _EXTENSION:
        return _EXTENDS
    elif sort is _ERROR:
        return _error(event, state, known, wall_clock)
    elif sort is _STEER:
        return _steer(event, known)
    elif sort is _BEGINS:
        reading = _created(event, state, known)
    elif sort is _UNHEARD_OF:
        reading = _unknown(event, state, known, wall_clock)
    else:
        reading = _about(event, sort, known, wall_clock)
    if number != known.next and reading.what not in _NEVER_MISSED and known.misses(number):
        return unnumbered(event, reading, known)
    return reading


#: What repeats an earlier response has its numbers; what nobody knows may count whatever it likes.
_NEVER_MISSED: Final = frozenset({TurnInput.STALE, TurnInput.UNKNOWN, TurnInput.DOUBTFUL, TurnInput.FOREIGN})


def usual_start(event: Event, known: Evidence) -> str | None:
    """Return the id of the response that begins with *event*, where nothing about that needs a second look.

    What `classify` would say of nearly every first event of a turn whose request was sent, and when it would
    call it CREATED, for a third of the time; None for all else. A test holds the two against each other.
    """
    if event.type != "response.created" or event.stream_id != known.lane or known.next is not None:
        return None
    data = event.data
    response = _response_in(data)
    name, parent = response.get("id"), response.get("previous_response_id")
    plain = isinstance(name, str) and (parent is None or parent == known.parent) and data.get("agent") is None
    return name if plain and name != known.parent and not known.past.knows(name) else None


def usual_end(event: Event, known: Evidence) -> Reading | None:
    """As `usual_start`, of a `response.completed` that is of ours and has the next number; else None."""
    if event.sequence_number != known.next or event.stream_id != known.lane:
        return None
    data = event.data
    response = _response_in(data)
    name = response.get("id")
    seen = name is not None and name == known.response_id and data.get("agent") is None
    return Reading(_TERMINAL, response, None, "completed") if seen else None


def _created(event: Event, state: TurnState, known: Evidence) -> Reading:
    """`response.created`: the only event that says which response is ours."""
    data = event.data
    if data.get("agent") is not None:
        return _MEMBER
    response = _response_in(data)
    name = response.get("id")
    if not isinstance(name, str) or name == known.parent or known.past.knows(name):
        return _OLD_OR_NAMELESS  # mark: dirty: begins without an id, or with an old one
    if state is _SETTLING:
        parent = response.get("previous_response_id")
        promised = parent == known.response_id and known.steers.expects_successor(known.response_id)
        if promised:
            return Reading(TurnInput.SUCCESSOR, response)
        return FOREIGN  # mark: dirty: a successor that no steer promised
    if known.is_anothers_child(response):
        return _ANOTHERS  # mark: dirty: the answer to another parent
    return Reading(_CREATED, response)


def _about(event: Event, sort: Sort, known: Evidence, wall_clock: float) -> Reading:
    """The progress or the end of a response: ours, one that ended here before, or somebody else's."""
    if sort is _PROGRESS and _repeats_start(event, known.began):
        return _OURS
    data = event.data
    if data.get("agent") is not None:
        return _MEMBER
    response = _response_in(data)
    name = response.get("id")
    seen = name is not None and name == known.response_id
    if not seen and known.past.knows(name):
        return REPEATED
    if sort is _PROGRESS:
        if seen:
            return Reading(TurnInput.PROGRESS, response)
        return unseen_progress(event, known, response) if name is not None else _UNKNOWN
    status = event.type[9:]  # behind "response."
    error = _failure(event, response, wall_clock) if status == "failed" else None
    if not seen:
        return unseen_end(event, known, response, error, status)
    return Reading(_TERMINAL, response, error, status)


def _repeats_start(event: Event, began: Event | None) -> bool:
    """Whether *event* says what *began* ours: all is the same but type and number.

    Servers repeat a whole response so, tools and instructions and all: to compare is cheaper than to read.
    """
    if began is None or not isinstance(began.raw, str):
        return False
    said = began.raw.replace(f'"{began.type}"', f'"{event.type}"', 1)
    before, after = f'"sequence_number":{began.sequence_number}', f'"sequence_number":{event.sequence_number}'
    return said.replace(before, after, 1) == event.raw


def _unknown(event: Event, state: TurnState, known: Evidence, wall_clock: float) -> Reading:
    """A type that nobody knows may still be the end of our response: its status says so."""
    try:
        response = _response_of(event)
    except MalformedMessageError:
        return _UNKNOWN  # nobody has to understand it
    name = response.get("id", event.data.get("response_id"))
    if name is None or event.data.get("agent") is not None:
        return _UNKNOWN
    seen = name == known.response_id
    if not seen and known.past.knows(name):
        return STALE
    said = response.get("status")
    status = _FINAL.get(event.type.removeprefix("response.")) or (
        _FINAL.get(said) if isinstance(said, str) else None
    )
    if status is None or (state is not TurnState.STREAMING and state is not TurnState.FAILING):
        return _UNKNOWN if seen else unseen_unknown(known)  # ours has not begun, or has ended already
    error = _failure(event, response, wall_clock) if status == "failed" else None
    if not seen:
        return unseen_end(event, known, response, error, status)
    return Reading(_TERMINAL, response, error, status)


def _failure(event: Event, response: dict[str, Any], wall_clock: float) -> ServerError:
    error = parse_error(event.data, wall_clock=wall_clock)
    if error.code is None and not error.message:
        error = attrs.evolve(error, code=str(response.get("status") or event.type))
    return error


def _steer(event: Event, known: Evidence) -> Reading:
    if not known.steered:
        return _UNKNOWN
    target = steer_of(event.data).get("previous_response_id")
    if target == known.response_id or target in known.earlier:
        return Reading(TurnInput.STEER)
    return FOREIGN  # mark: dirty: the answer to a steer of others


def _error(event: Event, state: TurnState, known: Evidence, wall_clock: float) -> Reading:
    """An error frame: about the connection, a steer, the request, our response, or none of them."""
    error = parse_error(event.data, wall_clock=wall_clock)
    if error.is_expiry_notice:
        return Reading(TurnInput.EXPIRING, error=error)
    name = _response_of(event).get("id", event.data.get("response_id"))
    if known.past.knows(name) and name != known.response_id:
        return FOREIGN  # mark: dirty: the error of an earlier response
    number = as_number(event.data.get("sequence_number"))  # beside a status it is in no usual place
    begun = state is not TurnState.SENT
    if not begun and known.numbers and number is not None and number > 0:
        # The number of a response that runs, or ran. Ours has not begun.
        return FOREIGN  # mark: dirty: an error with the number of another response
    if error.is_connection_limit:
        return Reading(TurnInput.LIMIT, error=error)
    if known.steered and (state is TurnState.SETTLING or error.blames_steering):
        return Reading(TurnInput.STEER, error=error)
    if not begun:
        if known.past.heard(error) or _names_another_parent(error, known):
            return FOREIGN  # mark: dirty: an error that was heard before, or names another parent
        # Refused for a parent that was not named, or because something runs that nobody here knows of: no
        # other turn may follow on such a connection.
        doubt = error.says_busy or (error.is_parent_missing and known.parent is None)
        if isinstance(name, str) and name:  # a response that has a name has begun: no refusal
            return Reading(TurnInput.ERROR, {"id": name}, error, suspect=True)
        return Reading(TurnInput.ERROR, error=error, suspect=doubt)
    if state is TurnState.STREAMING and known.misses(number):
        # If it is our response that has failed, its end will say so.
        why = "an error with a number that shows that an event is missing, or came twice"
        untied = Reading(TurnInput.DOUBTFUL, error=error, suspect=True, mixed=True, why=why)
        return REPEATED if known.past.heard(error) else untied
    return Reading(TurnInput.ERROR, error=error)


#: How servers name the parent that they do not hold.
_NAMED: Final = re.compile(r"\bid ['\"`]([^'\"`]{1,512})['\"`]")


def _names_another_parent(error: ServerError, known: Evidence) -> bool:
    """Whether *error* refuses the parent of an earlier request."""
    if not error.is_parent_missing or known.parent is None:
        return False
    named = _NAMED.search(error.message)
    return named is not None and named[1] != known.parent and known.past.knows(named[1])


def _response_of(event: Event) -> dict[str, Any]:
    return _response_in(event.data)


def _response_in(data: Mapping[str, Any]) -> dict[str, Any]:
    response: Any = data.get("response")
    return response if isinstance(response, OBJECT) else {}
