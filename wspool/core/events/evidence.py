"""Evidence: what is known about the request in flight, to hold an event against.

What ties an event to it, in the order of weight: the lane that the event names; the id of the response that
it is about; the parent that a new response says it has; the item that it is about; its number, where the
server counts; and what it says, held against what was said before.

Rules of this module: nothing here is believed or not, it is only known; and it is all about one turn, but
for what its connection has carried before (`Past`).
"""

from __future__ import annotations

import re
from collections.abc import Set
from typing import Any, Final

from wspool.core.events.assembly import Assembly, Kinship
from wspool.core.events.past import Past
from wspool.core.events.steering import Steers
from wspool.core.events.trust import Trust
from wspool.core.frames import Event

__all__ = ["Evidence", "item_of"]

# To find one character takes a tenth of the time that one of two takes: escapes are looked for afterwards.
_ITEM: Final = re.compile(r'"item(?:_id": ?|": ?\{[^{}\[\]]{0,512}?"id": ?)"([^"]{1,256})"')


def item_of(event: Event) -> str | None:
    """Return the id of the item that a piece of output is about, if it stands in a usual place."""
    raw = event.raw
    found = _ITEM.search(raw if isinstance(raw, str) else raw.decode(errors="replace"))
    return found[1] if found is not None and "\\" not in found[1] else None


_NONE: Final[Set[str]] = frozenset()
_NO_NUMBERS: Final[frozenset[int]] = frozenset()

#: Numbers of notices without a lane that are remembered in a turn at most: one in four seconds, for an hour.
MOST_PASSED: Final = 1000


class Evidence:
    """What is known about the request in flight.

    Attributes:
        parent: the `previous_response_id` that was sent, if any.
        lane: the `stream_id` that was sent, if any.
        past: what its connection has carried before.
        ids: False where the ids of responses prove nothing (`Trust`).
        numbers: False where the numbers of events prove nothing.
        response_id: id of its response, once created.
        began: the event that this one began with, until its progress was heard.
        earlier: ids of those responses of the turn that have ended.
        steers: what it was steered by.
        steered: True once it was.
        next: the number of the next event, where numbers are given.
        items: ids of the items of its response, as far as they were announced.
        fresh: True once one of them was not in an earlier response.
        mixed: True once something of another response came amidst ours, or one of ours may be missing.
        output: what its events said of its output.
        about: the item that was announced, or looked for, last.
        last: the event before this one, if it had a number.
        passed: numbers that may be of ours, of notices that name no lane where lanes are named.
    """

    __slots__ = (
        "about",
        "began",
        "earlier",
        "fresh",
        "ids",
        "items",
        "lane",
        "last",
        "mixed",
        "next",
        "numbers",
        "output",
        "parent",
        "passed",
        "past",
        "response_id",
        "steered",
        "steers",
    )

    def __init__(self, parent: str | None, lane: str | None, past: Past, trust: Trust) -> None:
        self.parent = parent
        self.lane = lane
        self.past = past
        self.ids, self.numbers = trust.ids, trust.numbers
        self.response_id: str | None = None
        self.began: Event | None = None
        self.earlier: Set[str] = _NONE
        self.steers = Steers()
        self.steered = False
        self.next: int | None = None
        self.items: set[str] = set()
        self.fresh = False
        self.mixed = False
        self.about: str | None = None
        self.output = Assembly()
        self.last: Event | None = None
        self.passed = _NO_NUMBERS

    def pass_over(self, number: int) -> None:
        """A notice that names no lane has this number, as one of our response may: then it is used up."""
        if self.next is not None and number >= self.next and len(self.passed) < MOST_PASSED:
            self.passed |= {number}

    def pass_to(self, number: int) -> None:
        """An event has that number: those before it, from the one that is due on, may all be used up."""
        due = self.next
        if due is not None and due < number <= due + len(self.passed):
            self.next = number if self.passed.issuperset(range(due, number)) else due

    def misses(self, number: int | None) -> bool:
        """Return whether *number* means that an event is missing, or came before.

        Numbers go up by one within a response. A server that leaves them out, or has not been seen to go up
        by one, does not count. An answer to a steer takes a number where it was made, and may be sent later.
        """
        return (
            self.numbers
            and self.past.counts
            and not self.steered
            and self.next is not None
            and number is not None
            and number >= 0
            and number != self.next
        )

    def fits(self, number: int | None) -> bool:
        """Return whether *number* is the next of our response, and not the first of any."""
        return bool(self.numbers and number and number == self.next and not self.steered)

    def is_next(self, number: int | None, response: dict[str, Any]) -> bool:
        """Return whether a *response* that nobody has seen is ours, by its *number* or by its parent."""
        parent = self.parent
        return self.fits(number) or (parent is not None and response.get("previous_response_id") == parent)

    def is_anothers_child(self, response: dict[str, Any]) -> bool:
        """Return whether a *response* says that it goes on from another one than was named, or steered."""
        parent = response.get("previous_response_id")
        return self.ids and isinstance(parent, str) and parent != self.parent and parent not in self.earlier

    def take(self, number: int) -> None:
        """The number is used up."""
        if number == self.next and number:  # nearly all
            self.past.counts, self.next = True, number + 1
        elif number < 0:
            return
        elif self.next is None or number >= self.next or not self.past.counts:
            self.next = number + 1

    def begin(self, response_id: str) -> None:
        """Our response has begun."""
        self.past.begin(response_id)
        self.response_id = response_id

    def announce(self, name: str) -> None:
        """Our response has an item of that id."""
        self.fresh = self.fresh or not self.past.has_item(name)
        self.items.add(name)
        self.about = name

    def goes_on(self, event: Event) -> bool:
        """Return whether a piece of output names the same item of ours as the one before.

        Only a key ends so: in what the model says quotation marks are escaped.
        """
        about, raw = self.about, event.raw
        return about in self.items and isinstance(raw, str) and f'id":"{about}"' in raw

    def is_anothers(self, event: Event, *, missed: bool = False) -> bool:
        """Return whether a piece of output is about an item of an earlier response.

        Args:
            missed: True if its number speaks against it as well.
        """
        name = self.about = item_of(event)
        if name is None or name in self.items or not self.past.has_item(name):
            return False
        # Some servers use the ids of items again; then all that they announce have old ones.
        return missed or self.fresh or not event.type.startswith("response.output_item.")

    def kinship(self, own: object) -> Kinship:
        """Return how an output, that of an end, fits what was said of ours."""
        return self.output.kinship(own, self.past)
