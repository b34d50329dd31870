"""Why tasks failed: what an error says, where it was raised, and which errors are the commonest."""

from collections import Counter
from typing import Any, Final

from wspool.rollout.tasks import Failure

__all__ = ["Errors"]

#: Kinds of errors that a summary names.
_MOST_NAMED: Final = 5
#: Characters of a message by which errors are the same.
_ALIKE: Final = 200


class Errors:
    """Counts failures by what they say, and keeps the first of each kind."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str | None, str]] = Counter()
        self._first: dict[tuple[str, str | None, str], tuple[str, Failure]] = {}

    def add(self, id: str, failure: Failure) -> None:
        """Count the failure of the task *id*."""
        kind = failure.type, failure.code, failure.message[:_ALIKE]
        self._counts[kind] += 1
        self._first.setdefault(kind, (id, failure))

    def commonest(self) -> list[dict[str, Any]]:
        """The commonest kinds with their counts, and the traceback of the first of each."""
        found: list[dict[str, Any]] = []
        for kind, count in self._counts.most_common(_MOST_NAMED):
            id, failure = self._first[kind]
            found.append(
                {
                    "count": count,
                    "type": failure.type,
                    "code": failure.code,
                    "message": failure.message[:_ALIKE],
                    "task": id,
                    "traceback": failure.traceback,
                }
            )
        return found
