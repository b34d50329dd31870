"""Server-sent events: cuts the body of an HTTP answer into the data of its events.

Source: the event stream format of the HTML standard, section 9.2.6. Of an event its data counts and its name;
ids and reconnection times are for clients that come back, which a response never is.

Rules of this module:

* Each byte is looked at once, however the body is cut into pieces.
* A line ends with its carriage return; a line feed that follows is dropped when it comes.
* An event that is not finished when the body ends is none, by the standard. `rest` is for who can tell from
  its data that nothing is missing.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["EventStreamReader", "EventTooLongError"]

_LINE_END: Final = re.compile(rb"\r\n|\n|\r")

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


class EventTooLongError(Exception):
    """An event is longer than the limit."""


class EventStreamReader:
    """Reads one event stream, as it comes in pieces.

    Args:
        limit: longest event that is taken, in bytes of its lines.

    Attributes:
        name: the name of the latest event, empty if it had none.
    """

    def __init__(self, limit: int) -> None:
        self.name = b""
        self._limit = limit
        self._buffer = bytearray()
        #: How much of the buffer has no line end in it.
        self._searched = 0
        self._begun = False
        #: The last piece ended with a carriage return.
        self._returned = False
        self._next_name = b""
        self._data: list[bytes] = []
        self._size = 0

    @property
    def held(self) -> int:
        """Bytes of an event that is not finished."""
        return len(self._buffer) + self._size

    @property
    def between(self) -> bool:
        """Whether what has come ends where an event does."""
        return not (self._buffer or self._data or self._next_name)

    def feed(self, piece: bytes | bytearray) -> list[bytes]:
        """Take the next piece of the body; return the data of the events that it finishes.

        Raises:
            EventTooLongError: an event is over the limit.
        """
        if not piece:
            return []
        buffer, found = self._buffer, list[bytes]()
        buffer += piece[1:] if self._returned and piece[:1] == b"\n" else piece
        self._returned = piece[-1:] == b"\r"
        start = 0
        for end in _LINE_END.finditer(buffer, self._searched):
            self._take(bytes(buffer[start : end.start()]), found)
            start = end.end()
        del buffer[:start]
        self._searched = len(buffer)
        if len(buffer) + self._size > self._limit:
            raise EventTooLongError
        return found

    def rest(self) -> list[bytes]:
        """Return the data of the event that has not finished, if there is any. Nothing more is to be fed."""
        found = list[bytes]()
        for line in (bytes(self._buffer), b""):
            self._take(line, found)
        self._buffer.clear()
        return found

    def _take(self, line: bytes, found: list[bytes]) -> None:
        if not self._begun:
            self._begun = True
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if not line:
            if self._data:
                found.append(b"\n".join(self._data))
                self.name = self._next_name
            self._next_name, self._data, self._size = b"", [], 0
            return
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
            self._size += len(line)
            if self._size > self._limit:
                raise EventTooLongError
        elif field == b"event":
            self._next_name = value
