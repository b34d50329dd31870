"""Past: what a connection has carried before the turn in flight.

A frame that repeats it is no news. Rules of this module: it only grows by what was believed; it is bounded,
oldest first out; of an id only its hash is kept, since a server may make them as long as a message.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any, Final, TypeVar

from wspool.core.server_error import ServerError

__all__ = ["Past", "name_of"]

#: Responses, their items, and errors in them, that are remembered at least: more than a connection
#: carries in its hour at a turn a second.
KEPT: Final = 4096

#: How many more there may be before the oldest go, all of these at once. A dict from whose front one is taken
#: each time has to be searched for its first: with four ids that is 8 us of each turn.
BEYOND: Final = 512

#: Code and text of an error. Its type is not among them: the error in a failed response has none.
_Words = tuple[str | None, str]

_T = TypeVar("_T")


class Past:
    """The responses that a connection has begun, and the errors in them. Shared by its lanes.

    Attributes:
        counts: True once the server has been seen to number the events of a response one by one.
    """

    __slots__ = ("_errors", "_ids", "_items", "counts")

    def __init__(self) -> None:
        self.counts = False
        # No ordered ones: these have the order that is needed, and take half the memory.
        self._ids: dict[int, None] = {}
        #: Whether the error came in a frame of its own.
        self._errors: dict[int, bool] = {}
        self._items: dict[int, None] = {}

    def begin(self, response_id: str) -> None:
        """The response has begun."""
        _keep(self._ids, hash(response_id), None)

    def knows(self, response_id: object) -> bool:
        """Return whether a response of that id has begun here before."""
        return isinstance(response_id, str) and hash(response_id) in self._ids

    def fail(self, error: ServerError) -> None:
        """An error frame came in a response that had begun."""
        _keep(self._errors, hash(_words(error)), True)

    def end_failed(self, error: ServerError) -> None:
        """A response has ended with this error: its frame may still come."""
        words = hash(_words(error))
        _keep(self._errors, words, self._errors.get(words, False))

    def heard(self, error: ServerError) -> bool:
        """Return whether *error*, a frame, says word for word what was said of a response.

        What only the end of a response has said may honestly be said of the next request as well, in an
        outage; then it has a status, as refusals have and errors in a response have not.
        """
        framed = self._errors.get(hash(_words(error)))
        return framed is not None and (framed or error.status is None)

    def end(self, items: Iterable[dict[str, Any]], announced: Iterable[str] = ()) -> None:
        """A response has ended with these items, and had announced those of these ids."""
        for item in items:
            if isinstance(name := item.get("id"), str):
                _keep(self._items, hash(name), None)
        for name in announced:
            _keep(self._items, hash(name), None)

    def has_item(self, name: str) -> bool:
        """Return whether a response had an item of that id."""
        return hash(name) in self._items

    def shares(self, names: Iterable[str | None]) -> bool:
        """Return whether some items of these *names* were in an earlier response, but not all.

        A server that gives its items the same ids each time is not a mixture of two responses.
        """
        old = [self.has_item(name) for name in names if name is not None]
        return any(old) and not all(old)


def name_of(item: dict[str, Any]) -> str | None:
    """Return the id of an item, if it has one."""
    name = item.get("id")
    return name if isinstance(name, str) else None


def _words(error: ServerError) -> _Words:
    return error.code, error.message


def _keep(kept: dict[int, _T], what: int, said: _T) -> None:
    kept[what] = said
    if len(kept) > KEPT + BEYOND:
        for old in list(islice(kept, BEYOND)):
            del kept[old]
