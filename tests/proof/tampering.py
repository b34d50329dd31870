"""What a mutation is: it takes the frames of an honest turn and says what is sent instead.

The turn's own frames, what comes later while nobody asks, and what comes between the frames of the
requests behind it. It also says what its own turn has to come to (`Wanted`); what everybody else's has to
come to is the judge's to know.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Literal

import attrs

from .scripts import Frame, Message, Said, Variant, is_terminal

#: honest: as if nothing had happened. any: it may be lost, but not wrong. Else: told so, or lost.
Wanted = Literal["honest", "any", "completed", "incomplete", "failed"]

#: Where a late frame comes in the turn of a later request on the connection.
Place = Literal["before", "created", "middle", "end", "behind"]
PLACES: Final[tuple[Place, ...]] = ("before", "created", "middle", "end", "behind")


@attrs.frozen
class Late:
    """Frames that come with the request that is *hop* requests later on the same connection."""

    hop: int
    place: Place
    frames: Sequence[Message]


@attrs.frozen
class Tampered:
    """What is sent instead of an honest turn."""

    own: Sequence[Message]
    idle: Sequence[Message] = ()
    late: Sequence[Late] = ()


@attrs.frozen
class Around:
    """What a mutation may use beside the frames.

    Attributes:
        fresh: an id that was never seen.
        seen: the id of the response before this one on the connection, or a fresh one.
        stray: a whole turn of nobody's, with a parent that nobody sent.
    """

    fresh: str
    seen: str
    stray: Said
    variant: Variant


@attrs.frozen
class Mutation:
    """One thing that goes wrong, at one place.

    Attributes:
        kind: its family.
        at: where, for people and for finding it again.
        wanted: what the turn itself has to come to.
        harmless: True for notices, which may change nothing at all.
        plausible: True if its output is wrong, but nobody can tell.
    """

    kind: str
    at: str
    wanted: Wanted
    apply: Callable[[list[Frame], Around], Tampered] = attrs.field(repr=False)
    harmless: bool = False
    plausible: bool = False

    def __str__(self) -> str:
        return f"{self.kind}:{self.at}"


# -- what a frame is ------------------------------------------------------------------------------


def short(frame: Frame) -> str:
    """The type of a frame, for names."""
    return str(frame["type"]).removeprefix("response.")


def is_prop(frame: Frame, variant: Variant) -> bool:
    """Whether an answer stands without this frame, where nobody counts."""
    kind = frame["type"]
    if kind in ("response.created", "error") or is_terminal(frame):
        return False
    return variant.output or kind != "response.output_item.done"


def changed(frames: list[Frame], index: int, frame: Frame) -> list[Frame]:
    """The frames with one replaced."""
    return [*frames[:index], frame, *frames[index + 1 :]]
