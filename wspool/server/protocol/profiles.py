"""The profiles: how providers that speak the same protocol differ.

A profile is a frozen value, and everything that the server does differently for one provider is a field here.
Where a provider does not document a trait, the profile says what was observed, or the mildest thing a client
must expect.
"""

import math
from typing import Final, Literal

import attrs

__all__ = [
    "AZURE",
    "CLOSING_GATEWAY",
    "LITELLM",
    "LITELLM_NATIVE",
    "LOCALAI",
    "NO_WARM_UP",
    "OPENAI",
    "PROFILES",
    "REFUSES_BUSY",
    "UNANNOUNCED",
    "VERCEL",
    "VLLM",
    "XAI",
    "LimitMode",
    "ServerProfile",
]

LimitMode = Literal["on_next_create", "while_idle", "mid_turn", "silent_close"]

_MIB: Final = 1024 * 1024


@attrs.frozen(kw_only=True)
class ServerProfile:
    """What one provider's endpoint does. Durations are seconds on trio's clock."""

    name: str
    """Whose endpoint it is, for messages."""

    active_lanes: int = 1
    """Responses in progress at once, over all lanes of a connection; more requests wait in line."""
    lane_names: int = 0
    """Distinct values of `stream_id` in the life of a connection; with 0 it is ignored, there is one lane."""

    lifetime: float = 3600.0
    """The longest life of a connection."""
    limit_minutes: int = 60
    """The number in the text of the lifetime error; it stays what it is when a test shortens `lifetime`."""
    limit_mode: LimitMode = "on_next_create"
    """What happens when a connection is `lifetime` old:

    - `on_next_create`: nothing; the next request gets the error frame, then the connection closes.
    - `while_idle`: as soon as no turn is in progress, the error frame comes unasked, then the connection
      closes.
    - `mid_turn`: the error frame comes at once and cuts whatever is in progress.
    - `silent_close`: the same without the frame.
    """
    limit_close_code: int = 1000
    """The close code after that; 1006 drops the connection without a close frame."""

    max_message: int = 16 * _MIB
    """Bytes of the largest request; a larger one is answered with close code 1009 and no error frame."""

    warm_up: bool = True
    """A false `generate` is honoured; if not, it is ignored, and the model answers for real."""
    remembers_unstored: bool = True
    """The latest response of a lane can be continued even if it is not stored."""
    evicts_on_failure: bool = True
    """A continuation that fails makes its lane forget the parent."""
    not_found_status: int = 400
    """The status of the error for a parent that is not remembered."""
    keeps_stored: bool = True
    """Stored responses can be continued on any connection."""
    bare_warm_up: bool = False
    """A warm-up is answered by two events only, and their `sequence_number` is -1."""
    busy: Literal["queue", "reject"] = "queue"
    """What a second request on a busy lane gets."""
    busy_code: str | None = None
    """The code of that refusal."""
    one_model: Literal["no", "refuse", "overwrite"] = "no"
    """The model of a connection's first request is that of all others, and what happens to one that names
    another.
    """
    steers: tuple[str, ...] = ()
    """How the names of the models begin that can be steered; none if there are none."""
    steer_ends: Literal["incomplete", "completed"] = "incomplete"
    """How a steered response ends: cut at the end of an item, or when the model has finished."""
    checks_fields: bool = True
    """A request with an unknown field, a wrong type or a value out of range is refused."""
    error_status: bool = True
    """Error frames carry the HTTP `status`."""
    close_after_error: int | None = None
    """The close code that follows every error frame, if any does."""
    idle_timeout: float = math.inf
    """Seconds without a turn, and without a byte from the client, after which the connection closes with
    1001.
    """
    expiring_notice: float | None = None
    """Seconds before the end of a connection's life that an error frame announces it; None: there is none."""
    credits: int | None = None
    """Requests that the server answers; connections that ask for more are closed with 4402."""
    accepts_first: bool = False
    """A handshake that should be turned down is accepted, and then closed: 1008 for a wrong key, 1013 for too
    much, 1011 for anything else.
    """


#: Source: OpenAI's WebSocket guide (lanes, 60 minutes, warm-up, eviction); 16 MiB was measured by others.
OPENAI: Final = ServerProfile(name="openai", active_lanes=16, lane_names=32, steers=("gpt-6",))

#: Source: Azure's "WebSockets" how-to: 60 minutes, sequential, no multiplexing.
AZURE: Final = ServerProfile(name="azure")

#: Source: xAI's WebSocket guide: 25 minutes, the error "sent right before the server closes".
XAI: Final = ServerProfile(name="xai", lifetime=1500.0, limit_minutes=25, limit_mode="while_idle")

#: Source: Vercel's AI Gateway documentation: about 13 minutes, 4 MiB, 5 minutes idle,
#: one model for each connection, closes after every error frame, 4402 when there are no credits left.
VERCEL: Final = ServerProfile(
    name="vercel",
    lifetime=780.0,
    limit_minutes=13,
    limit_mode="silent_close",
    limit_close_code=1001,
    max_message=4 * _MIB,
    close_after_error=1008,
    one_model="refuse",
    idle_timeout=300.0,
)

#: Source: LocalAI's `openresponses/websocket.go`: forgets what is not stored, refuses while busy, errors
#: without status, ignores `generate`, and its read deadline ends the connection abruptly.
LOCALAI: Final = ServerProfile(
    name="localai",
    limit_mode="silent_close",
    limit_close_code=1006,
    max_message=10 * _MIB,
    warm_up=False,
    remembers_unstored=False,
    evicts_on_failure=False,
    busy="reject",
    checks_fields=False,
    error_status=False,
)

#: Source: LiteLLM's `responses/streaming_iterator.py`, managed mode: a session of an hour, closed with 1000.
LITELLM: Final = ServerProfile(
    name="litellm",
    limit_mode="silent_close",
    evicts_on_failure=False,
    checks_fields=False,
    error_status=False,
)

#: Source: LiteLLM's proxy in front of OpenAI or Azure: it upgrades first and judges afterwards, and keeps the
#: model of the first frame whatever later ones say.
LITELLM_NATIVE: Final = ServerProfile(
    name="litellm-native",
    accepts_first=True,
    one_model="overwrite",
    limit_mode="silent_close",
    checks_fields=False,
)

#: Source: vLLM's `responses/websocket.py`: 404 for a lost parent, only the last response is continued even if
#: it is stored, warm-ups are made up, and the end is announced five minutes before it comes.
VLLM: Final = ServerProfile(
    name="vllm",
    limit_mode="silent_close",
    expiring_notice=300.0,
    not_found_status=404,
    keeps_stored=False,
    bare_warm_up=True,
    checks_fields=False,
    busy_code="concurrent_request",
)

#: A gateway that takes every error as the end of the connection.
CLOSING_GATEWAY: Final = ServerProfile(name="closing-gateway", close_after_error=1011)

#: A server that does not know `generate`: a warm-up is a turn like any other.
NO_WARM_UP: Final = ServerProfile(name="no-warm-up", warm_up=False)

#: A server that refuses a request on a connection that is busy.
REFUSES_BUSY: Final = ServerProfile(name="refuses-busy", busy="reject", busy_code="concurrent_request")

#: A server that never says how long a connection may live, and then drops it.
UNANNOUNCED: Final = ServerProfile(name="unannounced", limit_mode="silent_close", limit_close_code=1006)

PROFILES: Final[dict[str, ServerProfile]] = {
    profile.name: profile
    for profile in (
        *(OPENAI, AZURE, XAI, VERCEL, LOCALAI, LITELLM, LITELLM_NATIVE, VLLM),
        *(CLOSING_GATEWAY, NO_WARM_UP, REFUSES_BUSY, UNANNOUNCED),
    )
}
