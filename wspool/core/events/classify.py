"""What is this event, and whose is it: one answer for each kind of event, from the evidence that there is.

The law that everything here follows: what is provably foreign never reaches anybody, what is provably ours
is never lost, everything else is let pass. Nothing here changes anything; what follows from an answer stands
in `wspool.core.events.table`.

Evidence, in the order of its weight: the lane that an event names; the id of the response that it is about,
held against ours and those that the connection has carried before (`Past`); the parent that a new response
says it has, held against the one that was sent; its number, where the server counts. Of a provider whose
words are not exact (`Provider.trust`), ids that nobody has seen and numbers say nothing.
"""

from __future__ import annotations

import enum
import functools
import re
from collections.abc import Mapping
from typing import Any, Final, cast

import attrs

from wspool.core.events.past import Past
from wspool.core.events.steering import Steers, steer_of
from wspool.core.events.table import TurnInput, TurnState
from wspool.core.frames import Event, MalformedMessageError
from wspool.core.server_error import ServerError, parse_error

__all__ = [
    "GAP",
    "Evidence",
    "Reading",
    "Sort",
    "classify",
    "is_harmless",
    "is_harmless_after",
    "item_of",
    "sort_of",
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
_OUTPUT: Final = re.compile(
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
    return Sort.OUTPUT if _OUTPUT.match(kind) else Sort.UNKNOWN


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


class Evidence:
    """What is known about the request in flight, to hold an event against.

    Attributes:
        parent: the `previous_response_id` that was sent, if any.
        lane: the `stream_id` that was sent, if any.
        past: what its connection has carried before.
        exact: False where the provider's ids and numbers prove nothing.
        response_id: id of its response, once created.
        earlier: ids of those responses of the turn that have ended.
        steers: what it was steered by.
        steered: True once it was.
        next: the number of the next event, where numbers are given.
        items: ids of the items of its response, as far as they were announced.
        fresh: True once one of them was not in an earlier response.
    """

    __slots__ = (
        "earlier",
        "exact",
        "fresh",
        "items",
        "lane",
        "next",
        "parent",
        "past",
        "response_id",
        "steered",
        "steers",
    )

    def __init__(self, parent: str | None, lane: str | None, past: Past, *, exact: bool) -> None:
        self.parent = parent
        self.lane = lane
        self.past = past
        self.exact = exact
        self.response_id: str | None = None
        self.earlier: set[str] = set()
        self.steers = Steers()
        self.steered = False
        self.next: int | None = None
        self.items: set[str] = set()
        self.fresh = False

    def misses(self, number: int | None) -> bool:
        """Return whether *number* means that an event is missing, or came before.

        Numbers go up by one within a response. A server that leaves them out, or has not been seen to go up
        by one, does not count. An answer to a steer takes a number where it was made, and may be sent later.
        """
        return (
            self.exact
            and self.past.counts
            and not self.steered
            and self.next is not None
            and number is not None
            and number >= 0
            and number != self.next
        )

    def take(self, number: int | None) -> None:
        """The number is used up."""
        if number is not None and number >= 0:
            if number == self.next and number:
                self.past.counts = True
            self.next = number + 1

    def announce(self, name: str) -> None:
        """Our response has an item of that id."""
        self.fresh = self.fresh or not self.past.has_item(name)
        self.items.add(name)

    def ours(self, name: object) -> bool:
        """Return whether *name*, a response's id, can only be that of our response."""
        if name == self.response_id:
            return name is not None
        # A gateway that rewrites ids still has one response in flight here; it must not be an earlier one.
        return not self.exact and self.response_id is not None and not self.past.knows(name)


@attrs.define(eq=False)  # not frozen: one is made for every event that is looked into
class Reading:
    """What an event is, and what was found in it on the way. Never changed.

    Attributes:
        what: the input of the turn's table.
        response: the response object in it.
        error: the error in it.
        status: how the response ended, of a terminal event.
        suspect: True if the connection repeats itself, or is busy with what nobody knows: this turn may
            go on, but no other may follow on it.
        why: why it cannot be ours.
    """

    what: TurnInput
    response: dict[str, Any] | None = None
    error: ServerError | None = None
    status: str | None = None
    suspect: bool = False
    why: str = "an event that cannot belong to this turn"


# A member of an enum is looked up by a function call in Python 3.11, a global is not.
_CREATED: Final = TurnInput.CREATED
_TERMINAL: Final = TurnInput.TERMINAL

_FOREIGN: Final = Reading(TurnInput.FOREIGN)
_MISCOUNTED: Final = Reading(
    TurnInput.FOREIGN, why="an event with a number that shows that one is missing, or came twice"
)
#: Without an id nothing later can be proved to be ours.
_OLD_OR_NAMELESS: Final = Reading(
    TurnInput.FOREIGN, why="a response without an id, or with that of one that was here before"
)
_ANOTHERS: Final = Reading(TurnInput.FOREIGN, why="the answer to a request with another parent")
#: An output that is no list of items, or of which a piece was not sent.
GAP: Final = Reading(TurnInput.FOREIGN, why="an end without all of its output")
_STALE: Final = Reading(TurnInput.STALE)
_REPEATED: Final = Reading(TurnInput.STALE, suspect=True)
_UNKNOWN: Final = Reading(TurnInput.UNKNOWN)
_MEMBER: Final = Reading(TurnInput.MEMBER)
_PLAIN: Final = {
    Sort.NOTICE: Reading(TurnInput.NOTICE),
    Sort.EXTENSION: Reading(TurnInput.EXTENSION),
    Sort.OUTPUT: Reading(TurnInput.OUTPUT),
}


def classify(event: Event, state: TurnState, known: Evidence, *, wall_clock: float = 0.0) -> Reading:
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
    if sort is Sort.NOTICE:
        return _PLAIN[sort]
    # Errors and what is about steering may leave the lane out; whoever routes them has found it.
    if event.stream_id != known.lane and not (
        event.stream_id is None and sort in (Sort.ERROR, Sort.STEER, Sort.EXTENSION)
    ):
        return _FOREIGN
    if sort is Sort.OUTPUT:
        if _is_anothers(event, known):
            return _REPEATED
        reading = _PLAIN[sort]
    elif sort is Sort.EXTENSION:
        return _PLAIN[sort]
    elif sort is Sort.ERROR:
        return _error(event, state, known, wall_clock)
    elif sort is Sort.STEER:
        return _steer(event, known)
    elif sort is Sort.CREATED:
        reading = _created(event, state, known)
    elif sort is Sort.UNKNOWN:
        reading = _unknown(event, state, known, wall_clock)
    else:
        reading = _about(event, sort, known, wall_clock)
    number = event.sequence_number
    if number != known.next and reading.what not in _NEVER_MISSED and known.misses(number):
        return _MISCOUNTED
    return reading


#: What repeats an earlier response has its numbers; what nobody knows may count whatever it likes.
_NEVER_MISSED: Final = frozenset({TurnInput.STALE, TurnInput.UNKNOWN})


_ITEM: Final = re.compile(r'"item(?:_id": ?|": ?\{[^{}\[\]]{0,512}?"id": ?)"([^"\\]{1,256})"')


def item_of(event: Event) -> str | None:
    """Return the id of the item that a piece of output is about, if it stands in a usual place."""
    raw = event.raw
    found = _ITEM.search(raw if isinstance(raw, str) else raw.decode(errors="replace"))
    return found[1] if found is not None else None


def _is_anothers(event: Event, known: Evidence) -> bool:
    """Whether a piece of output is about an item of an earlier response."""
    if event.sequence_number is not None and not (
        # By chance the number of a late one may fit. What is done repeats all that an item says.
        event.type.endswith(".done") and known.exact and known.items
    ):
        return False
    name = item_of(event)
    if name is None or name in known.items or not known.past.has_item(name):
        return False
    # Some servers use the ids of items again; then all that they announce have old ones.
    return known.fresh or not event.type.startswith("response.output_item.")


def _created(event: Event, state: TurnState, known: Evidence) -> Reading:
    """`response.created`: the only event that says which response is ours."""
    data = event.data
    if data.get("agent") is not None:
        return _MEMBER
    response = _response_in(data)
    name, parent = response.get("id"), response.get("previous_response_id")
    if not isinstance(name, str) or name == known.parent or known.past.knows(name):
        return _OLD_OR_NAMELESS
    if state is TurnState.SETTLING:
        promised = parent == known.response_id and known.steers.expects_successor(known.response_id)
        return Reading(TurnInput.SUCCESSOR, response) if promised else _FOREIGN
    if parent is not None and parent != known.parent and known.exact and isinstance(parent, str):
        return _ANOTHERS
    return Reading(_CREATED, response)


def _about(event: Event, sort: Sort, known: Evidence, wall_clock: float) -> Reading:
    """The progress or the end of a response: ours, one that ended here before, or somebody else's."""
    data = event.data
    if data.get("agent") is not None:
        return _MEMBER
    response = _response_in(data)
    name = response.get("id")
    if (name is None or name != known.response_id) and not known.ours(name):
        if known.past.knows(name):
            return _REPEATED
        return _UNKNOWN if name is None and sort is Sort.PROGRESS else _FOREIGN
    if sort is Sort.PROGRESS:
        return Reading(TurnInput.PROGRESS, response)
    status = event.type[9:]  # behind "response."
    if status == "failed":
        return _failed(event, response, wall_clock)
    return Reading(_TERMINAL, response, None, status)


def _unknown(event: Event, state: TurnState, known: Evidence, wall_clock: float) -> Reading:
    """A type that nobody knows may still be the end of our response: its status says so."""
    try:
        response = _response_of(event)
    except MalformedMessageError:
        return _UNKNOWN  # nobody has to understand it
    name = response.get("id", event.data.get("response_id"))
    if name is None or event.data.get("agent") is not None:
        return _UNKNOWN
    if not known.ours(name):
        return _STALE if known.past.knows(name) else _FOREIGN
    said = response.get("status")
    status = _FINAL.get(event.type.removeprefix("response.")) or (
        _FINAL.get(said) if isinstance(said, str) else None
    )
    if status is None or state is TurnState.SETTLING:  # in which ours has ended already
        return _UNKNOWN
    if status == "failed":
        return _failed(event, response, wall_clock)
    return Reading(_TERMINAL, response, None, status)


def _failed(event: Event, response: dict[str, Any], wall_clock: float) -> Reading:
    error = parse_error(event.data, wall_clock=wall_clock)
    if error.code is None and not error.message:
        error = attrs.evolve(error, code=str(response.get("status") or event.type))
    return Reading(_TERMINAL, response, error, "failed")


def _steer(event: Event, known: Evidence) -> Reading:
    if not known.steered:
        return _UNKNOWN
    target = steer_of(event.data).get("previous_response_id")
    mine = target == known.response_id or target in known.earlier
    return Reading(TurnInput.STEER) if mine else _FOREIGN


def _error(event: Event, state: TurnState, known: Evidence, wall_clock: float) -> Reading:
    """An error frame: about the connection, a steer, the request, our response, or none of them."""
    error = parse_error(event.data, wall_clock=wall_clock)
    if error.is_expiry_notice:
        return Reading(TurnInput.EXPIRING, error=error)
    name = _response_of(event).get("id", event.data.get("response_id"))
    if known.past.knows(name) and name != known.response_id:
        return _FOREIGN
    number = event.sequence_number
    if number is None and isinstance(given := event.data.get("sequence_number"), int):
        number = given  # beside a status it is in no usual place
    begun = state is not TurnState.SENT
    if not begun and known.exact and number is not None and number > 0:
        # The number of a response that runs, or ran. Ours has not begun.
        return _FOREIGN
    if error.is_connection_limit:
        return Reading(TurnInput.LIMIT, error=error)
    if known.steered and (state is TurnState.SETTLING or error.blames_steering):
        return Reading(TurnInput.STEER, error=error)
    if not begun:
        if known.past.heard(error) or _names_another_parent(error, known):
            return _FOREIGN
        # Refused for a parent that was not named, or because something runs that nobody here knows of: no
        # other turn may follow on such a connection.
        doubt = error.says_busy or (error.is_parent_missing and known.parent is None)
        return Reading(TurnInput.ERROR, error=error, suspect=doubt)
    if state is TurnState.STREAMING and known.misses(number):
        # A number that is used up is a repetition; one that is too high means that something is missing.
        return _REPEATED if number is not None and 0 < number < (known.next or 0) else _FOREIGN
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
    response = data.get("response")
    return cast("dict[str, Any]", response) if isinstance(response, dict) else {}
