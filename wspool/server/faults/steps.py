"""The steps: the small vocabulary that every fault is written in.

A fault is a tuple of steps, taken in order at one place of a connection. Steps are frozen values and do
nothing; `wspool.server.faults.play` takes them. What a step says or changes depends on the turn that it
meets, so it is given as a function of a `Moment`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import attrs

from wspool.server.ledger import Outcome
from wspool.server.models import Item, TurnError
from wspool.server.protocol.grammar import Event

__all__ = [
    "Change",
    "Close",
    "Cut",
    "Encode",
    "Finish",
    "Frames",
    "Freeze",
    "Handshake",
    "Ignore",
    "IgnoreClose",
    "LatePongs",
    "Moment",
    "PrecedeClose",
    "Reset",
    "Say",
    "Slice",
    "Step",
    "Treat",
    "Wait",
    "Write",
]


@attrs.frozen(kw_only=True)
class Moment:
    """What is known where a step is taken."""

    event: Event = attrs.field(factory=dict[str, Any])
    """The event at hand; empty where there is none."""
    response: Item = attrs.field(factory=dict[str, Any])
    """The response as its latest event showed it; empty before it was created."""
    body: Item = attrs.field(factory=dict[str, Any])
    """The request; empty on a connection that made none yet."""
    lane: str | None = None
    sequence: int = 0
    """The `sequence_number` that the next event of the response has."""

    @property
    def created(self) -> bool:
        """Whether the client has seen `response.created`."""
        return bool(self.response)


#: What goes out as text frames, one each: events as JSON, strings as they are.
Frames = Sequence[Event | str]


@attrs.frozen
class Reset:
    """Reset the connection."""


@attrs.frozen
class Finish:
    """End the connection without a close frame."""


@attrs.frozen
class Close:
    """Send a close frame, then end the connection when the client has answered, or did not in time."""

    payload: bytes
    """Code and reason as they are on the wire; may be nonsense."""


@attrs.frozen
class Wait:
    """Do nothing for a while; the turn stands still."""

    seconds: float


@attrs.frozen(kw_only=True)
class Freeze:
    """Stop reading or writing, or both, and drop the connection after a while."""

    reading: bool
    writing: bool
    seconds: float


@attrs.frozen(kw_only=True)
class Write:
    """Put bytes on the wire."""

    data: bytes
    times: int = 1
    gap: float = 0.0
    """Seconds between two times."""
    background: bool = False
    """The turn goes on meanwhile."""


@attrs.frozen
class Slice:
    """From now on send a few bytes at a time."""

    size: int
    gap: float


@attrs.frozen
class LatePongs:
    """From now on answer pings late, or never."""

    delay: float


@attrs.frozen
class PrecedeClose:
    """Send bytes between the client's close frame and our answer to it."""

    data: bytes


@attrs.frozen
class IgnoreClose:
    """Never answer the client's close frame."""


@attrs.frozen
class Handshake:
    """Add headers to the handshake's 101."""

    headers: tuple[tuple[bytes, bytes], ...]


@attrs.frozen
class Say:
    """Send frames of our own."""

    make: Callable[[Moment], Frames]


@attrs.frozen(kw_only=True)
class Change:
    """Send other frames in place of an event."""

    make: Callable[[Moment], Frames]
    every: bool = False
    """Not only of this event, but of all that follow too."""


@attrs.frozen
class Encode:
    """Put the event at hand on the wire in another way than as one text frame."""

    encode: Callable[[bytes], bytes]


@attrs.frozen
class Cut:
    """Settle the request as refused, or as failed if its response was created; the turn ends after the
    steps.
    """

    error: TurnError | None = None
    outcome: Outcome | None = None
    """Settle it like this instead."""


@attrs.frozen
class Ignore:
    """Never answer the request; the connection lives on."""


@attrs.frozen(kw_only=True)
class Treat:
    """Treat the request in another way than it asked for."""

    response_id: str | None = None
    warm_up: bool | None = None


Step = (
    Reset
    | Finish
    | Close
    | Wait
    | Freeze
    | Write
    | Slice
    | LatePongs
    | PrecedeClose
    | IgnoreClose
    | Handshake
    | Say
    | Change
    | Encode
    | Cut
    | Ignore
    | Treat
)
