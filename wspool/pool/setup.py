"""Setup: what a pool is made of, as values; checked and put together by `open_pool`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import attrs

from wspool.core.items import encode_fields
from wspool.core.policy import PoolPolicy, Provider
from wspool.core.sending.pace import Pace
from wspool.core.sending.warm_up import WarmUp
from wspool.pool.instrument import Instrument
from wspool.wire import dial
from wspool.wire.descriptors import room_for
from wspool.wire.dial import OpenStream
from wspool.wire.wire import Connector, Endpoint

__all__ = ["Headers", "Setup", "carried", "opener_of"]

Headers: TypeAlias = Sequence[tuple[str, str]]


@runtime_checkable
class _StreamOpener(Protocol):
    open_stream: OpenStream


def opener_of(connector: Connector) -> OpenStream:
    """Return how *connector* gets a byte stream, where it says that; else how it is got by default."""
    return connector.open_stream if isinstance(connector, _StreamOpener) else dial.open_stream


@attrs.frozen(kw_only=True)
class Setup:
    """What a pool is made of.

    Attributes:
        fallback: makes the wires that are taken where the connector's are of no use, if any shall be.
        pace: what its turns keep instead of a pace of their own, where refusals are waited out.
        renewable: True when `headers` may hold a new credential if it is asked again.
    """

    endpoint: Endpoint
    connector: Connector
    fallback: Connector | None = None
    headers: Callable[[], Awaitable[Headers]] = attrs.field(repr=False)
    renewable: bool = False
    provider: Provider
    policy: PoolPolicy
    warm_up: Mapping[str, Any] | None
    instruments: Sequence[Instrument] = ()
    pace: Pace | None = None
    trace: Callable[[str], None] | None = None
    #: What a response to the warm-up request is good for, whichever it is.
    warmth: WarmUp | None = attrs.field(
        init=False, repr=False, default=attrs.Factory(lambda self: _warmth(self.warm_up), takes_self=True)
    )

    @property
    def open_stream(self) -> OpenStream:
        """How to get a byte stream for what goes by HTTP: as WebSockets do, if the connector says it."""
        return opener_of(self.connector)

    @property
    def sockets(self) -> bool:
        """Whether each connection takes a file descriptor of this process, as far as anybody can know."""
        return self.open_stream is dial.open_stream


def _warmth(body: Mapping[str, Any] | None) -> WarmUp | None:
    return None if body is None else WarmUp("", encode_fields(body))


def carried(max_size: int, *, each: int = 1, open: int = 0) -> tuple[int, str]:
    """Return how many of *max_size* connections this process can carry, and what to say if not all.

    Args:
        max_size: connections at most.
        each: descriptors that one takes.
        open: connections that there are already.

    Raises the process's limit of open files if it has to (`wspool.wire.descriptors`).
    """
    room = room_for(max_size, each=each, open=open)
    if room is None:
        return max_size, ""
    return room.connections, (
        f"max_size={max_size} cannot be had, there will be {room.connections} connections at most: "
        f"this process may open {room.limit} files, has {room.used}, and keeps {room.kept} for the rest of "
        "the program; raise the limit (ulimit -n), or lower max_size"
    )
