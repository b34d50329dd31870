"""Items: the output of a response, put together from what its events said.

Rules of this module:

* An item has a place, its `output_index`. Items stand in the order of their places, whatever order they
  came in.
* The last word of the server about an item counts, a finished item over a snapshot of it.
* The terminal event's own output is the last word about the whole, if it has one. Where it has none, every
  item that was announced must have come: an answer with a piece missing is never taken for whole.
* What is no object is no item.
"""

from __future__ import annotations

from typing import Any, Final, cast

from wspool.core.frames import Event

__all__ = ["Item", "Items"]

#: One output item, as the API defines it.
Item = dict[str, Any]

#: Values of `status` that say that an item is not finished.
_UNFINISHED: Final = frozenset({"in_progress", "queued", "searching", "generating", "interpreting"})


class Items:
    """The items of one response, announced and done, as its events came."""

    __slots__ = ("_events",)

    def __init__(self) -> None:
        # Kept as they came: a terminal event with an output of its own is the usual case.
        self._events: list[Event] = []

    def add(self, event: Event) -> None:
        """An item was announced or is done: `response.output_item.added` or `.done`."""
        self._events.append(event)

    def output(self, own: object, *, whole: bool) -> list[Item] | None:
        """Return the output of the response, None if a piece of it is missing.

        Args:
            own: the output that the terminal event has.
            whole: True if the response says that it is completed: then all that was announced must be there.
        """
        said = _objects(own)
        if not self._events:
            # Nothing was announced: an output that is no list of items cannot be told from one.
            return said if said or not own else None
        if said and not any(_may_be_snapshot(item) for item in said):
            return said
        announced, done = self._placed()
        if said:
            return [_last_word(item, done.get(place)) for place, item in enumerate(said)]
        if whole and (announced - done.keys() or max(done, default=-1) >= len(done)):
            return None
        return [done[place] for place in sorted(done)]

    def _placed(self) -> tuple[set[int], dict[int, Item]]:
        """Return the places that were announced, and the items that are done, by place."""
        announced: set[int] = set()
        done: dict[int, Item] = {}
        places: dict[str, int] = {}  # of items by id, for events that give none
        top = -1
        for event in self._events:
            data = event.data
            item = data.get("item")
            if "agent" in data or not isinstance(item, dict):
                continue  # an item of an agent that ours has called, or none
            known = cast("Item", item)
            name, place = known.get("id"), data.get("output_index")
            if not isinstance(place, int) or isinstance(place, bool) or place < 0:
                place = places.get(name, top + 1) if isinstance(name, str) else top + 1
            top = max(top, place)
            announced.add(place)
            if isinstance(name, str):
                places[name] = place
            if event.type.endswith(".done"):
                done[place] = known
        return announced, done


def _objects(own: object) -> list[Item]:
    if not isinstance(own, list):
        return []
    return [cast("Item", item) for item in cast("list[object]", own) if isinstance(item, dict)]


def _may_be_snapshot(item: Item) -> bool:
    """Whether a terminal event's item may be older than the one that its own event said."""
    kind = item.get("type")
    return (
        item.get("status") in _UNFINISHED
        or (kind == "function_call" and not item.get("arguments"))
        or (kind == "custom_tool_call" and not item.get("input"))
        or (kind == "message" and not item.get("content"))
    )


def _last_word(said: Item, done: Item | None) -> Item:
    """Return the finished item if *said* is but a snapshot of it."""
    if done is None or done.get("type") != said.get("type"):
        return said
    return done if _may_be_snapshot(said) and not _may_be_snapshot(done) else said
