"""Setup: what a pool is made of, as values; checked and put together by `open_pool`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias

import attrs

from wspool.core.policy import PoolPolicy, Provider
from wspool.pool.instrument import Instrument
from wspool.wire.answer import Answer
from wspool.wire.wire import Connector, Endpoint

__all__ = ["Headers", "Setup"]

Headers: TypeAlias = Sequence[tuple[str, str]]


@attrs.frozen(kw_only=True)
class Setup:
    """What a pool is made of."""

    endpoint: Endpoint
    connector: Connector
    post: Callable[[str, Headers, bytes], Awaitable[Answer]]
    headers: Callable[[], Awaitable[Headers]] = attrs.field(repr=False)
    #: True when `headers` may hold a new credential if it is asked again.
    renewable: bool = False
    provider: Provider
    policy: PoolPolicy
    warm_up: Mapping[str, Any] | None
    instrument: Instrument
    trace: Callable[[str], None] | None = None
