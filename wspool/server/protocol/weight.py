"""The weight of what is stored: bytes of JSON, each item counted once however many responses hold it.

What has an id can be found by it.

A response holds the items of all before it, so what it costs has little to do with what it says.
"""

import json
from collections.abc import Iterable
from typing import Final

from wspool.server.models import Item

__all__ = ["STORE_BYTES", "Weight"]

#: What all stored responses of a server may weigh, in bytes.
STORE_BYTES: Final = 256 * 1024 * 1024


class Weight:
    """What a number of responses weigh together."""

    def __init__(self) -> None:
        self.bytes = 0
        # By the identity of an item that is held: how often, and its size.
        self._held: dict[int, tuple[int, int]] = {}
        # By its id, and then by its identity, as the same item may have come twice.
        self._named: dict[str, dict[int, Item]] = {}

    def hold(self, items: Iterable[Item]) -> None:
        """Add the items of a response. They have to live until they are let go."""
        for item in items:
            times, size = self._held.get(id(item)) or (0, len(json.dumps(item, separators=(",", ":"))))
            self._held[id(item)] = times + 1, size
            if not times:
                self.bytes += size
                if isinstance(name := item.get("id"), str):
                    self._named.setdefault(name, {})[id(item)] = item

    def let_go(self, items: Iterable[Item]) -> None:
        """Take the items of a response away again."""
        for item in items:
            times, size = self._held.pop(id(item))
            if times > 1:
                self._held[id(item)] = times - 1, size
                continue
            self.bytes -= size
            if isinstance(name := item.get("id"), str):
                same = self._named[name]
                del same[id(item)]
                if not same:
                    del self._named[name]

    def item(self, name: str) -> Item | None:
        """One that is held and has the id *name*, or None."""
        return next(iter(self._named.get(name, {}).values()), None)
