"""Job: one call of a conversation, and what came of it, until that is history. Jobs: all of a conversation.

To find that of a call takes as long however many there are: a server may ask for the same without end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Literal

import attrs
import trio

from wspool.core.calls import answer, id_of, signature
from wspool.core.items import Item

__all__ = ["Job", "Jobs"]

#: Outputs of calls that were not made, or not to their end.
_NOT_RUN: Final = "Cancelled: this call was not run."
_INTERRUPTED: Final = "Cancelled: this call was interrupted while it ran; it may have had effects."
_TOO_LARGE: Final = "Error: this call was run, and what it returned is too large to be sent."


@attrs.define(eq=False)
class Job:
    """One call, and what came of it.

    Attributes:
        call: the call.
        asked: what it asks for, whatever it is called.
        state: whether it was made.
        output: what it is answered with, once it has ended.
        failed: True if that says that it failed.
        interrupted: True if it was begun once and did not end.
        oversized: True if what came of it once could not be sent.
        claimed: True while the turn in hand, or the history, has the call.
        counts: True once the history has it.
        sent: True while the turn in hand carries its output: then another call of its name is another one.
        error: name of the class of what it failed with, if it did.
        scope: what it runs in.
        over: set once it has ended, or will not.
    """

    call: Item
    asked: str
    state: Literal["new", "queued", "running", "ended"] = "new"
    output: str | list[Item] | None = None
    failed: bool = False
    interrupted: bool = False
    oversized: bool = False
    claimed: bool = True
    counts: bool = False
    sent: bool = False
    error: str | None = None
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    over: trio.Event = attrs.field(factory=trio.Event)

    @property
    def answer(self) -> Item:
        """The item that answers it, such as it is."""
        if self.output is not None:
            return answer(self.call, self.output)
        if self.oversized:
            return answer(self.call, _TOO_LARGE)
        return answer(self.call, _INTERRUPTED if self.begun else _NOT_RUN)

    @property
    def begun(self) -> bool:
        """Whether it was begun, however it ended."""
        return self.interrupted or self.oversized or self.state in ("running", "ended")

    def drop(self) -> None:
        """What came of it can not be sent: forget that, so that it can be made again."""
        self.output, self.state, self.oversized = None, "new", True
        self.scope, self.over = trio.CancelScope(), trio.Event()

    def settle(self, output: str | list[Item]) -> None:
        """It is not made: *output* is known to have come of it."""
        self.output, self.state = output, "ended"
        self.over.set()

    def rest(self) -> None:
        """It has ended, or does not go on: then it can be made again."""
        if self.output is not None:
            self.state = "ended"
        else:
            self.interrupted = self.interrupted or self.state == "running"
            self.state, self.scope = "new", trio.CancelScope()
        over, self.over = self.over, trio.Event() if self.output is None else self.over
        over.set()


class Jobs:
    """The jobs of a conversation, oldest first, found by what they ask for and by the name of their call."""

    def __init__(self) -> None:
        self._all: list[Job] = []
        #: By what they ask for and the id of their call; those that are claimed.
        self._named: dict[tuple[str, str], list[Job]] = {}
        #: By what they ask for; those that are not claimed.
        self._free: dict[str, deque[Job]] = {}

    def __iter__(self) -> Iterator[Job]:
        return iter(self._all)

    def claim(self, calls: Sequence[Item]) -> list[Job]:
        """Return the job of each of *calls*: one that knows it, or one of a lost response, or a new one.

        One whose output the turn in hand carries is left to the call that it answers.
        """
        taken: set[int] = set()
        #: Where the search among those of one name has come to: none of them is looked at twice.
        looked: dict[tuple[str, str], Iterator[Job]] = {}
        found: list[Job] = []
        for call in calls:
            asked = signature(call)
            name = (asked, id_of(call))
            named = self._named.setdefault(name, [])
            known = looked.setdefault(name, iter(named))
            job = next((job for job in known if not job.sent and id(job) not in taken), None)
            if job is None:
                job = self._take_free(asked)
                if job is None:
                    job = Job(call, asked)
                    self._all.append(job)
                named.append(job)
            job.call, job.claimed = call, True
            taken.add(id(job))
            found.append(job)
        return found

    def _take_free(self, asked: str) -> Job | None:
        free = self._free.get(asked)
        return free.popleft() if free else None

    def release(self, jobs: Iterable[Job]) -> None:
        """The response that had *jobs* is lost: they are for whoever asks for the same."""
        for job in jobs:
            job.claimed = False
        self.keep(self._all)

    def keep(self, jobs: Iterable[Job]) -> None:
        """Forget all but *jobs*, some of them, in their order."""
        self._all = [*jobs]
        self._named, self._free = {}, {}
        for job in self._all:
            if job.claimed:
                self._named.setdefault((job.asked, id_of(job.call)), []).append(job)
            else:
                self._free.setdefault(job.asked, deque()).append(job)
