"""What a chaos proxy can do to the bytes that go through it (see `wspool.testing.chaos`)."""

from __future__ import annotations

import math
from typing import Literal

import attrs
from attrs.validators import ge, gt, in_, le

__all__ = [
    "Bandwidth",
    "Direction",
    "Latency",
    "LimitData",
    "ResetPeer",
    "Slicer",
    "SlowClose",
    "Timeout",
    "Toxic",
]

#: "up" is from the client to the server, "down" is back.
Direction = Literal["up", "down"]


@attrs.frozen(kw_only=True)
class Toxic:
    """What all toxics have in common; it does nothing by itself.

    Attributes:
        direction: which way it spoils: "down", from the server to the client, or "up".
        toxicity: the share of connections, from 0 to 1, that it concerns.
    """

    direction: Direction = attrs.field(default="down", validator=in_(("up", "down")))
    toxicity: float = attrs.field(default=1.0, validator=[ge(0), le(1)])


@attrs.frozen
class Latency(Toxic):
    """Everything comes later, in order; as much as before is on its way at a time.

    Attributes:
        latency: seconds.
        jitter: seconds more or less, at random.
    """

    latency: float = attrs.field(validator=ge(0))
    jitter: float = attrs.field(default=0.0, validator=ge(0))


@attrs.frozen
class Bandwidth(Toxic):
    """The way is narrow; who sends more is made to wait.

    Attributes:
        rate: bytes per second.
    """

    rate: float = attrs.field(validator=gt(0))


@attrs.frozen
class SlowClose(Toxic):
    """The end of the stream comes later.

    Attributes:
        delay: seconds.
    """

    delay: float = attrs.field(validator=ge(0))


@attrs.frozen
class Timeout(Toxic):
    """Nothing comes through, not even an end; what is sent is lost. Half a half-open link.

    Attributes:
        timeout: seconds until both ends are closed; by default never, until the toxic is removed.
    """

    timeout: float = attrs.field(default=math.inf, validator=ge(0))


@attrs.frozen
class ResetPeer(Toxic):
    """Both ends are reset, as TCP does; over memory streams they end without a word.

    Attributes:
        timeout: seconds until then.
    """

    timeout: float = attrs.field(default=0.0, validator=ge(0))


@attrs.frozen
class Slicer(Toxic):
    """Bytes come in small pieces.

    Attributes:
        average_size: bytes in a piece.
        size_variation: bytes more or less, at random; below average_size.
        delay: seconds after each piece.
    """

    average_size: int = attrs.field(validator=ge(1))
    size_variation: int = attrs.field(default=0, validator=ge(0))
    delay: float = attrs.field(default=0.0, validator=ge(0))

    def __attrs_post_init__(self) -> None:
        if self.size_variation >= self.average_size:
            raise ValueError(f"size_variation={self.size_variation} is not below {self.average_size=}")


@attrs.frozen
class LimitData(Toxic):
    """Both ends are closed once so much has come through, counted from the start of the connection.

    Attributes:
        bytes: how much.
    """

    bytes: int = attrs.field(validator=ge(0))
