"""Account: what each token has used today; in a file, if there is one, so that a budget outlives the proxy.

Rules of this module:

* What is used is what the provider has counted, from midnight to midnight UTC. A budget is looked at before a
  turn, so that the last one may go over it.
* The file holds names and numbers: no token. It is its owner's (0600), and at every moment a whole one.
* A proxy adds to the file what it has counted since it wrote last, so that one that takes over another's
  port goes on with its budgets while that one still has turns to end.
* A disk that is full costs the memory of what was used, never a request; it is said once.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, cast

from wspool.proxy.records.record import Record

__all__ = ["Account"]

logger: Final = logging.getLogger("wspool.proxy")

_DAY: Final = 86400

#: Bytes of a file at most: some ten thousand names.
_LARGEST: Final = 2**20


class Account:
    """What each token has used today.

    Args:
        clock: returns seconds since the epoch.
        path: of the file, if it is kept.

    Raises:
        OSError: the file cannot be read, or its directory cannot be written to.
        ValueError: it is none of these files; the text says so.
    """

    def __init__(
        self, clock: Callable[[], float] = time.time, path: str | os.PathLike[str] | None = None
    ) -> None:
        self._clock = clock
        self._path = None if path is None else Path(path)
        self._day = int(clock() // _DAY)
        self._used: dict[str, int] = {}
        #: Of that, what the file has not heard of.
        self._new: dict[str, int] = {}
        self._failed = False
        if self._path is not None:
            self._used = self._read(self._path)
            self._write(self._path, self._used)  # whether that can be done is to be known now

    def note(self, record: Record) -> None:
        """A request has ended. For `Records.listen`."""
        if record.outcome is not None and record.usage is not None and record.token:
            self._turn_over()
            for counts in (self._used, self._new):
                counts[record.token] = counts.get(record.token, 0) + record.usage.total

    def used(self, name: str) -> int:
        """Return the tokens that it has used today."""
        self._turn_over()
        return self._used.get(name, 0)

    def left_today(self) -> float:
        """Return the seconds until all is forgotten."""
        return _DAY - self._clock() % _DAY

    def save(self) -> None:
        """Add what is new to the file, if there is one and anything is. Never raises."""
        self._turn_over()
        if self._path is None or not self._new:
            return
        try:
            there = self._read(self._path)
            used = {**there, **{name: there.get(name, 0) + more for name, more in self._new.items()}}
            self._write(self._path, used)
        except (OSError, ValueError) as problem:
            if not self._failed:
                said = problem.strerror if isinstance(problem, OSError) else problem
                logger.error("what tokens have used is not written down now: %s", said)
            self._failed = True
            return
        self._used, self._new, self._failed = used, {}, False

    def _turn_over(self) -> None:
        today = int(self._clock() // _DAY)
        if today != self._day:
            self._day = today
            self._used.clear()
            self._new.clear()

    def _read(self, path: Path) -> dict[str, int]:
        """Return what the file says of today."""
        try:
            with path.open("rb") as file:
                data = file.read(_LARGEST + 1)
        except FileNotFoundError:
            return {}
        problem = f"{str(path)!r} is no file of what tokens have used; move it away, or name another"
        try:
            said: object = json.loads(data)
        except (ValueError, RecursionError):
            raise ValueError(problem) from None
        if not isinstance(said, dict):
            raise ValueError(problem)
        whole = cast("dict[str, Any]", said)
        used: object = whole.get("used")
        if not isinstance(used, Mapping) or not isinstance(whole.get("day"), int):
            raise ValueError(problem)
        named = cast("Mapping[str, Any]", used)
        if not all(isinstance(count, int) for count in named.values()):
            raise ValueError(problem)
        return dict(named) if whole["day"] == self._day else {}

    def _write(self, path: Path, used: Mapping[str, int]) -> None:
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        fresh.unlink(missing_ok=True)
        try:
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as problem:
            raise OSError(problem.errno, problem.strerror, str(path)) from None
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(json.dumps({"day": self._day, "used": used}, separators=(",", ":")).encode())
            os.replace(fresh, path)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise
