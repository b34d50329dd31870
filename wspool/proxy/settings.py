"""Settings: what a proxy does that is a matter of taste; each with its source."""

from __future__ import annotations

import math
from typing import Any, Final, Literal

import attrs

__all__ = ["KeepaliveStyle", "OnHangup", "Settings"]

#: How silence is kept from being taken for the end: `auto` sends comments before `response.created`, and
#: numbered events after it; `comment` sends comments only, for SDKs that know no such event.
KeepaliveStyle = Literal["auto", "comment", "off"]

#: What becomes of a turn whose client has left while it runs.
OnHangup = Literal["drain", "abandon"]

_MIB: Final = 2**20


def _positive(settings: Settings, field: attrs.Attribute[Any], value: float) -> None:
    if not value > 0:
        raise ValueError(f"{field.name} must be more than 0, not {value!r}")


@attrs.frozen(kw_only=True)
class Settings:
    """How a proxy treats its clients. Times are seconds.

    Attributes:
        keepalive: longest silence towards a client that reads a stream. Load balancers cut at 60 s, and
            Codex gives up after 300 s (`stream_idle_timeout_ms`).
        keepalive_style: what is said then.
        keepalive_json: whether that goes for answers that are one JSON body, too, by white space before it.
            The status is said by then: what goes wrong later is a response that has failed, as in a stream.
        on_hangup: `drain` reads a turn to its end whose client has left, so that its tokens are known;
            `abandon` gives it up.
        drain_for: longest time for that.
        max_body: bytes of a request, also of what it unpacks to. More than providers take over WebSocket
            (OpenAI: 16 MiB), for what is new of it may be less.
        websocket: whether clients may come over WebSocket; else they are told 426.
        max_clients: connections at once, over all clients.
        max_turns: turns at work at once; by default as many as the pool has lanes.
        max_turns_per_client: of these, those of one client.
        grace: longest time that turns have to end when the proxy is told to stop. Source: the longest turns
            that users report, ten minutes.
        replay_for: how long the answer to a turn is kept whose client has left, in case it asks again; 0 for
            not at all, also not while it runs. SDKs come back within 8 s (`MAX_RETRY_DELAY` of openai).
    """

    keepalive: float = attrs.field(default=15.0, validator=_positive)
    keepalive_style: KeepaliveStyle = "auto"
    keepalive_json: bool = False
    on_hangup: OnHangup = "drain"
    drain_for: float = attrs.field(default=30.0, validator=_positive)
    max_body: int = attrs.field(default=64 * _MIB, validator=_positive)
    websocket: bool = True
    max_clients: int = attrs.field(default=4096, validator=_positive)
    max_turns: float = attrs.field(default=math.inf, validator=_positive)
    max_turns_per_client: float = attrs.field(default=math.inf, validator=_positive)
    grace: float = 600.0
    replay_for: float = 30.0
