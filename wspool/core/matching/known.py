"""Known: what is kept of a turn, and what has been read of a request that may go on from it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final

from wspool.core.commands import LaneKey

__all__ = [
    "NO_NAME",
    "Given",
    "Known",
    "Thoughts",
    "likelihood",
    "name_of",
    "thinks_the_same",
    "thoughts_of",
]

#: Bytes of what an id or an encrypted content is recognised by, once all else is equal.
NAME: Final = 8
NO_NAME: Final = bytes(NAME)


def name_of(text: object) -> bytes:
    """Return what a text is recognised by; zeros for none."""
    if not isinstance(text, str) or not text:
        return NO_NAME
    return blake2b(text.encode(errors="surrogatepass"), digest_size=NAME).digest()


class Thoughts:
    """The reasoning of a history by what it is recognised by: that of an earlier turn, and more.

    Turns of one conversation share what they have in common.
    """

    __slots__ = ("before", "own", "users")

    def __init__(self, before: Thoughts | None, own: bytes) -> None:
        self.before = before
        #: For each, eight bytes of its id and eight of its content.
        self.own = own
        #: How many turns and later thoughts hold it.
        self.users = 0


class Known:
    """A turn that a request may go on from.

    Attributes:
        response_id: id of its response.
        length: items of the history up to its end.
        lane: the lane that had it, if any is known to.
        stored: True if the server was asked to store it and all that it continues from.
    """

    __slots__ = (
        "continued",
        "cost",
        "hash",
        "lane",
        "length",
        "model",
        "names",
        "references",
        "response_id",
        "session",
        "spoken",
        "stored",
        "thoughts",
        "used",
    )

    def __init__(
        self, response_id: str, length: int, lane: LaneKey | None, *, stored: bool, hash: bytes, used: float
    ) -> None:
        self.response_id = response_id
        self.length = length
        self.lane = lane
        self.stored = stored
        self.hash = hash
        #: Its hash as one has it who leaves out all reasoning; None if that says nothing else, or too little.
        self.spoken: bytes | None = None
        #: Which model it was.
        self.model = NO_NAME
        self.used = used
        #: What its output's items were called, to tell it from others with the same words.
        self.names = b""
        #: Who asked, as far as headers and keys say that.
        self.session = NO_NAME
        self.thoughts: Thoughts | None = None
        #: The ids by which its output's items can be referred to.
        self.references: tuple[str, ...] = ()
        #: Whether a turn has gone on from it, or does.
        self.continued = False
        #: Bytes of memory that it takes.
        self.cost = 0

    def __repr__(self) -> str:
        return f"<Known {self.response_id}, {self.length} items>"


class Given:
    """A request with its history, as read: hashes of it, and the items themselves for as long as it lasts.

    Attributes:
        items: its input.
        parent: the id of the response that it names itself, if it does.
        certain: False if nothing may be concluded from it.
        skip: how many of its items the turns that it goes on from stand for, once these are known.
    """

    __slots__ = (
        "base",
        "certain",
        "hashes",
        "items",
        "model",
        "origin",
        "parent",
        "session",
        "skip",
        "spoken",
        "thoughts",
    )

    def __init__(
        self, items: Sequence[Mapping[str, Any]], parent: str | None, model: bytes, session: bytes
    ) -> None:
        self.items = items
        self.parent = parent
        self.certain = True
        #: The running hash before all items.
        self.model = self.base = model
        #: The running hash without reasoning; None as long as there is none.
        self.spoken: bytes | None = None
        self.skip = 0
        self.session = session
        #: The running hash after each item.
        self.hashes: list[bytes] = []
        #: Reasoning by its place, and what it is recognised by.
        self.thoughts: list[tuple[int, bytes]] = []
        #: The turn that it goes on from, once that is known.
        self.origin: Known | None = None

    def say(self, other: Given) -> None:
        """Have this one, of which no item was read, say what *other* says: its items are the same."""
        self.hashes, self.thoughts, self.spoken = [*other.hashes], [*other.thoughts], other.spoken

    @property
    def hash(self) -> bytes:
        """The running hash after all items."""
        return self.hashes[-1] if self.hashes else self.base


def thoughts_of(given: Given, before: Known | None) -> Thoughts | None:
    """Return the reasoning of a history: that of the turn *before*, if there is one, and what came after.

    Of one that leaves out what the turn before knows, it is its own.
    """
    if before is None or (given.parent is None and given.hashes[given.skip - 1] != before.hash):
        known, start = None, 0
    else:
        known, start = before.thoughts, given.skip
    own = b"".join([name for place, name in given.thoughts if place >= start])
    return Thoughts(known, own) if own else known


def thinks_the_same(known: Known, given: Given, length: int) -> bool:
    """Whether the reasoning of *known* is that with which *given* begins, or *given* has none at all.

    Their hashes are equal, so it is as much, in the same places; or *given* has the one without any.
    """
    if given.hashes[length - 1] != known.hash:
        return not given.thoughts
    thoughts = given.thoughts
    left = bisect_left(thoughts, (length, b""))
    node = known.thoughts
    while node is not None:
        own = node.own
        for start in range(len(own) - 2 * NAME, -1, -2 * NAME):
            left -= 1
            name = thoughts[left][1]
            by_id, by_content = own[start : start + NAME], own[start + NAME : start + 2 * NAME]
            if not (
                (by_id == name[:NAME] and by_id != NO_NAME)
                or (by_content == name[NAME:] and by_content != NO_NAME)
            ):
                return False
        node = node.before
    return True


def likelihood(known: Known, given: Given) -> tuple[int, bool, bool, float]:
    """How likely it is that *given* means *known*, of all that have the same words."""
    count = len(known.names) // NAME
    names = {known.names[place * NAME : (place + 1) * NAME] for place in range(count)}
    said = given.items[max(0, given.skip - count) : given.skip]
    same = sum(name_of(item.get("id")) in names for item in said if item.get("id"))
    ours = known.session == given.session != NO_NAME
    return same, ours, not known.continued, known.used
