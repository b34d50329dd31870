"""What has begun, and what was said, as an instrument sees it. What has ended: `wspool.core.statistics`.

A record of what has begun has a context of its own, a copy of its caller's. What an instrument sets in that
holds while the pool calls the caller's functions for it, and no longer.

Records can be copied, and sent to other processes. No `context` goes along: variables are their process's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import Context
from typing import Any, cast

import attrs

__all__ = ["LeaseRecord", "Record", "ToolBegun", "TurnBegun", "TurnContent"]


class Record:
    """What an instrument is told, as an `attrs` class."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, (type(self), self._to_send())

    def _to_send(self) -> dict[str, Any]:
        """Return the fields that can leave the process."""
        fields = attrs.fields(cast("type[attrs.AttrsInstance]", type(self)))
        return {field.name: getattr(self, field.name) for field in fields if field.name != "context"}


def _made(kind: type[Record], fields: dict[str, Any]) -> Record:
    return kind(**fields)


@attrs.frozen(kw_only=True)
class TurnBegun(Record):
    """A turn was entered, as an instrument sees it. `TurnRecord` says how it ended.

    Attributes:
        pool: number of the pool in this process.
        conversation: number of the conversation in its pool, None for a turn of a bare lease, or of one
            that brings its history along.
        model: the model that is asked for, None if the request names none.
        started: when, in seconds on trio's clock.
        context: a copy of the context variables of whoever took it; the turn's `TurnRecord` has the same
            object. What is set in it (`context.run(variable.set, value)`) holds in `on_event`.
    """

    pool: int
    conversation: int | None
    model: str | None
    started: float
    context: Context = attrs.field(factory=Context, eq=False, repr=False)


@attrs.frozen(kw_only=True)
class ToolBegun(Record):
    """A call of a tool is about to be made, as an instrument sees it. `ToolRecord` says how it ended.

    Attributes:
        pool: number of the pool in this process.
        conversation: number of the conversation.
        name: what the model called; it may be a tool that there is not.
        call_id: the model's id of the call.
        started: when, in seconds on trio's clock.
        context: a copy of the context variables of the task that makes it; its `ToolRecord` has the same
            object. What is set in it (`context.run(variable.set, value)`) holds in the tool.
    """

    pool: int
    conversation: int | None
    name: str
    call_id: str
    started: float
    context: Context = attrs.field(factory=Context, eq=False, repr=False)


@attrs.frozen(kw_only=True)
class LeaseRecord(Record):
    """A lease has ended, as an instrument sees it: it was given back, or its lane went to somebody else.

    Attributes:
        pool: number of the pool in this process.
        lease: number of the lease.
        connection: number of its connection.
        lane: number of its lane there.
        held: seconds since it was granted. It may have been parked for some of them.
        ended: when, in seconds on trio's clock.
    """

    pool: int
    lease: int
    connection: int
    lane: int
    held: float
    ended: float


@attrs.frozen(kw_only=True)
class TurnContent:
    """What was said in one turn, without the keys of its connection. Only for who asks: it is its user's own.

    Attributes:
        input: the input items that the caller gave for this turn.
        output: the output items of its response, as far as it has one.
        instructions: the instructions that went with it, None if there were none.
    """

    input: Sequence[Mapping[str, Any]] = attrs.field(repr=False)
    output: Sequence[Mapping[str, Any]] = attrs.field(repr=False)
    instructions: str | None = attrs.field(repr=False)
