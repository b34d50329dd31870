"""Why tasks failed: what an error says, where it was raised, and which errors are the commonest."""

from collections import Counter
from typing import Any, Final

from wspool.rollout.tasks import Failure

__all__ = ["Errors"]

#: Kinds of errors that a summary names.
_MOST_NAMED: Final = 5
#: Characters of a message by which errors are the same.
_ALIKE: Final = 200
#: Kinds whose traceback is kept from the first on, and how many others must be of a kind until its is: each
#: task may fail with a message of its own, and a batch has many.
_MOST_KEPT: Final = 1000
_COMMON: Final = 100


class Errors:
    """Counts failures by what they say, and keeps what is to be named of each kind."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str | None, str]] = Counter()
        self._first: dict[tuple[str, str | None, str], str] = {}
        self._tracebacks: dict[tuple[str, str | None, str], str | None] = {}

    def add(self, id: str, failure: Failure) -> None:
        """Count the failure of the task *id*."""
        kind = failure.type, failure.code, failure.message[:_ALIKE]
        self._counts[kind] += 1
        self._first.setdefault(kind, id)
        if len(self._tracebacks) < _MOST_KEPT or self._counts[kind] == _COMMON:
            self._tracebacks.setdefault(kind, failure.traceback)

    def commonest(self) -> list[dict[str, Any]]:
        """The commonest kinds with their counts, the first task of each, and where one was raised."""
        return [
            {
                "count": count,
                "type": kind[0],
                "code": kind[1],
                "message": kind[2],
                "task": self._first[kind],
                "traceback": self._tracebacks.get(kind),
            }
            for kind, count in self._counts.most_common(_MOST_NAMED)
        ]
