"""Job: one call of a conversation, and what came of it, until that is history."""

from __future__ import annotations

from typing import Final, Literal

import attrs
import trio

from wspool.core.calls import answer
from wspool.core.items import Item

__all__ = ["Job"]

#: Outputs of calls that were not made, or not to their end.
_NOT_RUN: Final = "Cancelled: this call was not run."
_INTERRUPTED: Final = "Cancelled: this call was interrupted while it ran; it may have had effects."
_TOO_LARGE: Final = "Error: this call was run, and what it returned is too large to be sent."


@attrs.define(eq=False)
class Job:
    """One call, and what came of it.

    Attributes:
        call: the call.
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
