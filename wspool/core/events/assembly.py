"""Assembly: the output of a response, put together from what its events said.

Rules of this module:

* An item has a place, its `output_index`. Items stand in the order of their places, whatever order they
  came in.
* The last word of the server about an item counts, a finished item over a snapshot of it.
* The terminal event's own output is the last word about the whole, if it has one. Where it has none, every
  item that was announced must have come: an answer with a piece missing is never taken for whole.
* Items without a place stand in the order in which they were announced, those without an id too. Servers give
  several items one id: a call of another `call_id` is another item.
* What is no object with a type is no item.
* In a turn of several agents the items of all of them are its output, and name their agent. Only an agent
  whose response begins and ends by itself has items of its own.
* Items of an earlier response among those of this one show that two streams are mixed: then there is no
  whole. Where numbers prove that nothing came between, the ids of some are only used again.
"""

from __future__ import annotations

import enum
import json
from collections import deque
from typing import Any, Final, cast

from wspool.core.events.past import Past, name_of
from wspool.core.frames import ARRAY, OBJECT, Event
from wspool.core.items import Item

__all__ = ["Assembly", "Kinship"]

#: Values of `status` that say that an item is not finished.
_UNFINISHED: Final = frozenset({"in_progress", "queued", "searching", "generating", "interpreting"})


class Kinship(enum.Enum):
    """How an output fits what was heard of ours."""

    __hash__ = object.__hash__

    #: One of the two says nothing.
    UNKNOWN = "unknown"
    #: None of its items is ours.
    NONE = "none"
    #: Some are.
    SOME = "some"
    #: All are, and none of ours is missing.
    ALL = "all"


#: The id of an item that was announced, and its place.
_Announced = tuple[str | None, int]


class Assembly:
    """The items of one response, announced and done, as its events came.

    Attributes:
        numbered: whether each of these has a number.
    """

    __slots__ = ("_events", "_members", "numbered")

    def __init__(self) -> None:
        self.numbered = True
        # Kept as they came: a terminal event with an output of its own is the usual case.
        self._events: list[Event] = []
        #: Agents that have a response of their own.
        self._members: set[str | None] | None = None

    def leave_out(self, agent: str | None) -> None:
        """Items of *agent* are in a response of its own."""
        if self._members is None:
            self._members = set()
        self._members.add(agent)

    def add(self, event: Event) -> None:
        """An item was announced or is done: `response.output_item.added` or `.done`."""
        self._events.append(event)
        self.numbered = self.numbered and event.sequence_number is not None

    @property
    def whole(self) -> bool:
        """Whether something was announced, and all of it has come."""
        announced, done = self._placed()
        return done is not None and bool(done) and _is_whole(announced, done)

    def kinship(self, own: object, past: Past) -> Kinship:
        """Return how *own*, the output that an end has, fits what was heard.

        An item is ours by its id, which no earlier one had, or if it says word for word what ours said.
        """
        said = _items_of(own)
        announced, done = self._placed()
        heard = done if done is not None else {}
        if not said or not (announced or heard):
            return Kinship.UNKNOWN
        names = {name for name, _ in announced}.union(map(name_of, heard.values()))
        names = {name for name in names if name is not None and not past.has_item(name)}
        words = {_words(item) for item in heard.values()}
        ours = sum(name_of(item) in names or _words(item) in words for item in said)
        if not ours:
            return Kinship.NONE
        places = {place for _, place in announced}.union(heard)
        # Two that were announced for one place are of two responses, and both may be among *said*.
        named = {(name, place) for name, place in announced if name is not None}
        crowded = len(named) > len({place for _, place in named})
        return Kinship.ALL if ours == len(said) >= len(places) and not crowded else Kinship.SOME

    def output(
        self, own: object, *, whole: bool, past: Past | None = None, mixed: bool = False
    ) -> list[Item] | None:
        """Return the output of the response, None if a piece of it is missing, or may be somebody else's.

        Args:
            own: the output that the terminal event has.
            whole: True if the response says that it is completed: then all that was announced must be there.
            past: what its connection has carried before, if that can be among it.
            mixed: True if something of another response came amidst this one.
        """
        said = _items_of(own)
        if not self._events:
            # Nothing was announced: an output that is no list of items cannot be told from one.
            return said if said or not own else None
        if said and not any(map(_may_be_snapshot, said)):
            return said
        announced, done = self._placed()
        if said:
            finished = done or {}
            return [_last_word(item, finished.get(place)) for place, item in enumerate(said)]
        items = [done[place] for place in sorted(done)] if done is not None else []
        # What was announced and is not done may be all that is ours.
        names = {name for name, _ in announced}.union(map(name_of, items))
        if done is None or mixed or (past is not None and past.shares(names)):
            return None
        return None if whole and not _is_whole(announced, done) else items

    def _placed(self) -> tuple[list[_Announced], dict[int, Item] | None]:
        """Return what was announced, and the items that are done, by place; None if two have one place."""
        announced: list[_Announced] = []
        done: dict[int, Item] = {}
        unplaced = _Unplaced()
        clash = False  # two items in one place
        for event in self._events:
            # Read anew: what was given to a caller may have been changed.
            fresh = Event(event.type, event.raw)
            data = fresh.data
            item = data.get("item")
            if not isinstance(item, dict) or (
                data.get("agent") is not None and fresh.agent in (self._members or ())
            ):
                continue
            known = cast("Item", item)
            name, place, ends = name_of(known), data.get("output_index"), event.type.endswith(".done")
            if not isinstance(place, int) or isinstance(place, bool) or place < 0:
                place = unplaced.place_of(known, ends=ends, done=done)
            unplaced.note(name, place, ends=ends)
            if ends:
                if place in done and name_of(done[place]) != name:
                    clash = True
                done[place] = known
            else:
                announced.append((name, place))
        return announced, None if clash else done


class _Unplaced:
    """Where items are whose events give no place: in the order in which they were announced."""

    __slots__ = ("_done", "_top", "_waiting")

    def __init__(self) -> None:
        self._top = -1
        #: Places by id: of what was announced, some of which may be done, and of what was done last.
        self._waiting: dict[str | None, deque[int]] = {}
        self._done: dict[str | None, int] = {}

    def place_of(self, item: Item, *, ends: bool, done: dict[int, Item]) -> int:
        """Return the place of an *item* that is announced, or *ends*; *done* are those that have ended."""
        name = name_of(item)
        waiting, last = self._waiting.get(name), self._done.get(name)
        while waiting and waiting[0] in done:
            waiting.popleft()
        if waiting and (ends or name is not None):
            return waiting[0]
        # What is done is said once more. One of the same id that is announced anew is another one.
        if ends and name is not None and last is not None:
            return last if done[last].get("call_id") == item.get("call_id") else self._top + 1
        return self._top + 1

    def note(self, name: str | None, place: int, *, ends: bool) -> None:
        """An item was announced at that place, or is done."""
        self._top = max(self._top, place)
        if ends:
            self._done[name] = place
        else:
            self._waiting.setdefault(name, deque()).append(place)


def _is_whole(announced: list[_Announced], done: dict[int, Item]) -> bool:
    """Whether all that was announced is done, without a gap, each item where it was announced."""
    if max(done, default=-1) >= len(done):
        return False
    found = {name: place for place, item in done.items() if (name := name_of(item)) is not None}
    taken = {place: name for name, place in announced}
    for name, place in announced:
        # Ids may differ from event to event; a place beyond all others was never meant. Two may have one id.
        where = place
        if name is not None and not (place in done and name_of(done[place]) == name):
            where = found.get(name, place)
        if where not in done or (where != place and (place in done or taken.get(where, name) != name)):
            return False
    return True


def _items_of(own: Any) -> list[Item]:
    if not isinstance(own, ARRAY):
        return []
    return [item for item in own if isinstance(item, OBJECT) and isinstance(item.get("type"), str)]


def _words(item: Item) -> str:
    """What an item says, whatever it is called."""
    said = {name: value for name, value in item.items() if name not in ("id", "status")}
    return json.dumps(said, sort_keys=True)


def _may_be_snapshot(item: Item) -> bool:
    """Whether a terminal event's item may be older than the one that its own event said."""
    kind = item.get("type")
    return (
        item.get("status") in _UNFINISHED
        or (kind == "function_call" and not item.get("arguments"))
        or (kind == "custom_tool_call" and not item.get("input"))
        or (kind == "message" and not (isinstance(item.get("content"), (list, str)) and item["content"]))
    )


def _last_word(said: Item, done: Item | None) -> Item:
    """Return the finished item if *said* is but a snapshot of it."""
    if done is None or done.get("type") != said.get("type"):
        return said
    return done if _may_be_snapshot(said) and not _may_be_snapshot(done) else said
