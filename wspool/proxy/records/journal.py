"""Journal: one line of JSON for each request that has ended, in a file.

Rules of this module:

* A line is what the record says: no key, no text of a conversation.
* The file is its owner's (0600), and is opened again when that is asked for, so that it can be moved away.
* A disk that is full costs lines, never a request; it is said once.
"""

from __future__ import annotations

import json
import logging
import os
from typing import Final

from wspool.proxy.records.record import Record

__all__ = ["Journal"]

logger: Final = logging.getLogger("wspool.proxy")


class Journal:
    """Writes records to a file.

    Args:
        path: of the file, which is appended to.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = path
        self._failed = False
        self._file = self._open()

    def write(self, record: Record) -> None:
        """Write *record*, if it has ended. For `Records.listen`; never raises."""
        if record.outcome is None:
            return
        line = json.dumps(record.as_json(), separators=(",", ":")).encode("ascii") + b"\n"
        try:
            os.write(self._file, line)
            self._failed = False
        except OSError as problem:
            if not self._failed:
                logger.error("requests are not written down now: %s", problem.strerror)
            self._failed = True

    def reopen(self) -> None:
        """Open the file again. Never raises."""
        try:
            new = self._open()
        except OSError as problem:
            logger.error("the file of records stays as it was: %s", problem.strerror)
            return
        self.close()
        self._file = new

    def close(self) -> None:
        """Close it."""
        os.close(self._file)

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        return os.open(self._path, flags | getattr(os, "O_BINARY", 0), 0o600)  # lines as everywhere
