"""Phases: where the time of each task went, as far as the pool has seen it.

1. Held, line, dial, first event and stream are of turns: waiting until the endpoint takes more (a rate limit,
   an outage, the pace), waiting for a connection, the part of that in which the connection that came of it
   was being dialled, from the request to the first event, and from there to the end.
2. Tools are counted once where several run at the same time.
3. What is left of a task's time is its agent's own, or was spent between turns.
"""

from collections.abc import Mapping
from typing import Final

import attrs

from wspool.core.statistics import CloseRecord, DialRecord, ToolRecord, TurnRecord

__all__ = ["PHASES", "Phases"]

#: In the order in which a turn has them.
PHASES: Final = ("held", "line", "dial", "first_event", "stream", "tools")
#: The number of no conversation and no connection.
_NOBODY: Final = -1


@attrs.define
class _Spent:
    held: float = 0.0
    line: float = 0.0
    dial: float = 0.0
    first_event: float = 0.0
    stream: float = 0.0
    # When tools ran: apart from each other, in order.
    tools: list[tuple[float, float]] = attrs.field(factory=list[tuple[float, float]])


class Phases:
    """Sums up the phases of those conversations that it was told to watch."""

    def __init__(self) -> None:
        self._spent: dict[int, _Spent] = {}
        # When each connection was dialled on which nobody had a turn yet.
        self._dials: dict[int, tuple[float, float]] = {}

    def begin(self, conversation: int) -> None:
        """Watch the *conversation* with this number."""
        self._spent[conversation] = _Spent()

    def take(self, conversation: int) -> Mapping[str, float]:
        """Return the seconds of each phase of a *conversation*, and watch it no more."""
        spent = self._spent.pop(conversation)
        tools = sum(end - start for start, end in spent.tools)
        seconds = (spent.held, spent.line, spent.dial, spent.first_event, spent.stream, tools)
        return {name: round(value, 4) for name, value in zip(PHASES, seconds, strict=True)}

    def dialed(self, record: DialRecord) -> None:
        """A dial has ended."""
        if record.failure is None:
            self._dials[record.connection] = record.started, record.started + record.duration

    def closed(self, record: CloseRecord) -> None:
        """A connection is gone."""
        self._dials.pop(record.connection, None)

    def turned(self, record: TurnRecord) -> None:
        """A turn has ended."""
        connection = _NOBODY if record.connection is None else record.connection
        began, ended = self._dials.pop(connection, (0.0, 0.0))
        spent = self._of(record.conversation)
        if spent is None:
            return
        granted = record.ended - record.duration
        in_line = granted - record.waited
        dial = max(0.0, min(ended, granted) - max(began, in_line))
        spent.held += max(0.0, in_line - record.started)
        spent.dial += dial
        spent.line += record.waited - dial
        first = record.duration if record.first_event is None else min(record.first_event, record.duration)
        spent.first_event += first
        spent.stream += record.duration - first

    def called(self, record: ToolRecord) -> None:
        """A call of a tool has ended."""
        spent = self._of(record.conversation)
        if spent is None:
            return
        start, end = record.started, record.started + record.duration
        while spent.tools and spent.tools[-1][1] >= start:  # calls are told in the order of their ends
            start = min(start, spent.tools.pop()[0])
        spent.tools.append((start, end))

    def _of(self, conversation: int | None) -> _Spent | None:
        return self._spent.get(_NOBODY if conversation is None else conversation)
