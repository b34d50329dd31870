"""The weight of what is stored: bytes of JSON, each item counted once however many responses hold it.

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

    def hold(self, items: Iterable[Item]) -> None:
        """Add the items of a response. They have to live until they are let go."""
        for item in items:
            times, size = self._held.get(id(item)) or (0, len(json.dumps(item, separators=(",", ":"))))
            self._held[id(item)] = times + 1, size
            self.bytes += size if not times else 0

    def let_go(self, items: Iterable[Item]) -> None:
        """Take the items of a response away again."""
        for item in items:
            times, size = self._held.pop(id(item))
            if times > 1:
                self._held[id(item)] = times - 1, size
            else:
                self.bytes -= size
