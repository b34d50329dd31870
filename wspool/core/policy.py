"""Every limit, with its default, unit and source: what a pool may do, what an endpoint can do.

Both values are frozen and have no behaviour beyond checking themselves where they are
written. Durations are seconds on the pool's clock, sizes are bytes.
"""

from __future__ import annotations

import math
from typing import Final, Literal, get_args

import attrs

from wspool.core.given import check_number

__all__ = [
    "AZURE",
    "LITELLM",
    "OPENAI",
    "PROVIDERS",
    "UNKNOWN",
    "VERCEL",
    "XAI",
    "OnCancel",
    "PoolPolicy",
    "Provider",
    "Replay",
    "Schedule",
]

#: What becomes of a connection whose turn is given up midway.
OnCancel = Literal["hang_up", "drain"]
#: How far the words of an endpoint can be trusted.
Trust = Literal["exact", "lenient"]
#: What may be sent again by itself: what provably did not run, what gave no output yet, all.
Replay = Literal["proven", "no_output", "always"]

MIB: Final = 1024 * 1024
#: Shortest duration that is not a mistake, in seconds.
SHORTEST: Final = 0.001

# The three margins before a lifetime limit are made for limits of many minutes. Under a short
# limit (a test server, an eager gateway) they shrink to these shares of it.
_MARGIN_SHARE: Final = 1 / 10
_SPREAD_SHARE: Final = 1 / 5
_RESERVE_SHARE: Final = 1 / 4
_SLACK_SHARE: Final = 1 / 20


#: Lanes that are kept ready by default.
_MIN_IDLE: Final = 2

#: Fields for which None means something: no limit, the provider's limit, never.
_OPTIONAL: Final = frozenset(
    {
        "max_waiting",
        "max_lifetime",
        "ping_interval",
        "leak_after",
        "first_event_timeout",
        "silence_timeout",
        "refusal_patience",
    }
)


def _check(owner: object, names: str, *, least: float, whole: bool = False) -> None:
    """Refuse a value that is no number, too small, or not whole, quoting what was seen."""
    for name in names.split():
        value: object = getattr(owner, name)
        if value is None and name in _OPTIONAL and isinstance(owner, PoolPolicy):
            continue
        check_number(name, value, least, whole=whole)


@attrs.frozen(kw_only=True)
class Provider:
    """What one endpoint can do.

    Attributes:
        name: for messages and metrics.
        max_lifetime: seconds one connection may live.
        lanes: turns that may run at once on one connection (1: no multiplexing). A pool uses them as
            far as `PoolPolicy.lanes` says.
        max_request: largest message the endpoint accepts, in bytes.
        warm_up: True when `generate: false` is honoured.
        closes_after_error: True when every error frame is followed by a close.
        steering: True when a response in progress takes further input (`Turn.steer`).
        trust: how far its words can be trusted: `"exact"`, or `"lenient"` for gateways that rewrite
            response ids or count their events wrongly. What such a gateway says of the one response in
            flight on a lane is taken for it, unless it is known to be about an earlier one.
        stores_by_default: True when it keeps a response whose request left `store` out, so that any
            connection can continue from it.
        key_header: header of the upgrade that carries the key: `Authorization` as a Bearer, any other the
            key alone. To Azure (`api-key`) a token of Entra ID goes as a Bearer all the same.
    """

    name: str
    max_lifetime: float = 3600.0
    lanes: int = 1
    max_request: int = 16 * MIB
    warm_up: bool = True
    closes_after_error: bool = False
    steering: bool = False
    trust: Trust = "exact"
    stores_by_default: bool = False
    key_header: str = "Authorization"

    def __attrs_post_init__(self) -> None:
        _check(self, "max_lifetime", least=SHORTEST)
        _check(self, "lanes max_request", least=1, whole=True)
        if self.trust not in get_args(Trust):
            raise ValueError(f"trust={self.trust!r} is none of {', '.join(get_args(Trust))}")


#: api.openai.com. 60 minutes: OpenAI's WebSocket mode guide. 16 MiB: byte-exact, measured by
#: users of the Codex backend, closes with 1009 and no error frame. 16 responses in progress on one
#: connection (and 32 lane names, of which a pool uses one per lane), steering: the same guide. `store` is
#: true by default: the SDK's `response_create_params`.
OPENAI: Final = Provider(name="openai", lanes=16, steering=True, stores_by_default=True)
#: An endpoint of which nothing was said: taken for OpenAI's, but for what it keeps. There are servers that
#: count their responses anew on each connection, and what is not kept may be found under another's name. Nor
#: does an answer prove that it was kept: gateways leave out a parent that they do not hold, and say nothing.
UNKNOWN: Final = attrs.evolve(OPENAI, name="unknown", stores_by_default=False)
#: Azure OpenAI. 60 minutes, no multiplexing: its WebSocket how-to. Keys as `api-key`: its REST reference.
AZURE: Final = Provider(name="azure", key_header="api-key")
#: api.x.ai. 25 minutes: its WebSocket mode page.
XAI: Final = Provider(name="xai", max_lifetime=1500.0)
#: Vercel AI Gateway. About 13 minutes, 4 MiB frames, a close after every error: its documentation.
VERCEL: Final = Provider(
    name="vercel", max_lifetime=780.0, max_request=4 * MIB, warm_up=False, closes_after_error=True
)
#: LiteLLM's proxy, wherever it runs. That it rewrites ids and numbers: LiteLLM#13396, #28899, #32310, #39534.
LITELLM: Final = Provider(name="litellm", trust="lenient")
#: The profiles by name.
PROVIDERS: Final = {provider.name: provider for provider in (OPENAI, AZURE, XAI, VERCEL, LITELLM)}


@attrs.frozen(kw_only=True)
class Schedule:
    """When a connection retires, in seconds of age.

    Attributes:
        lifetime: age at which the server ends it.
        last_start: oldest age at which a turn may still start.
        retire_from: youngest age of a planned retirement.
        retire_to: oldest age of a planned retirement; at least one dial before `last_start`,
            so that the replacement can be there in time.
    """

    lifetime: float
    last_start: float
    retire_from: float
    retire_to: float

    @property
    def spread(self) -> float:
        """Seconds over which planned retirements are spread."""
        return 0.0 if self.retire_from == math.inf else self.retire_to - self.retire_from


def _ready(policy: PoolPolicy) -> int:
    """Return how many lanes are kept ready where nobody says it."""
    return 1 if policy.max_size == 1 else _MIN_IDLE


@attrs.frozen(kw_only=True)
class PoolPolicy:
    """How a pool behaves.

    Attributes:
        max_size: connections at most (dialing, open and retiring ones).
        min_idle: lanes kept ready ahead of demand; by default 2, or `max_size` if that is less.
        max_idle: seconds a connection above `min_idle` may be idle.
        dial_concurrency: dials at once at most.
        lanes: turns at once on one connection at most, where the provider has lanes. They share one
            lifetime and one loss; a turn that is given up is drained there, whatever `on_cancel` says.
        max_waiting: waiters at most, None for no limit; one more is refused at once.
        connect_timeout: seconds for one dial (codex, pi and opencode use 15).
        close_timeout: seconds for a goodbye; the end of a pool waits so long for it even if cancelled.
        give_up_after: seconds of outage after which waiters are refused with the last dial's error.
        count_closing: True to count connections that are saying goodbye against `max_size`, for
            servers that enforce a limit of their own.
        patience: seconds at most that a lane is kept for a conversation whose tools run, while others starve:
            as long as a full send is worth (`wspool.core.lending.keeping`). After an answer it is free.
        leak_after: seconds after which a lease that is still held is reported, None for never.
        max_lifetime: seconds one connection may live, None for the provider's limit.
        retire_margin: seconds kept free before the lifetime limit.
        retire_spread: seconds over which planned retirements are spread.
        turn_reserve: seconds of life a connection must have left for a turn to start on it.
        ping_interval: seconds of silence after which the peer is pinged, None for never.
        ping_timeout: seconds without a pong, or any other byte, after which the peer is gone.
            Late pongs are normal while a model writes (9.6 s were measured), hence 60.
        send_timeout: seconds for one message to be taken by the network.
        first_event_timeout: seconds from a request until its response has begun, None for no limit. A turn
            that takes longer is given up (`TurnTimeoutError`, `ambiguous`).
        silence_timeout: seconds between two events of a response that has begun, None for no limit; the same
            (`accepted`). Models are silent for minutes while they think, so there is no default. What a
            server sends to keep a connection open (`keepalive`, notices) is no event of a response: like a
            pong it says that the server is there, and nothing of the model.
        max_message_size: largest inbound message, in bytes. A final event repeats the whole output.
        max_buffered: bytes of events kept for a slow consumer, per turn. Above that reading pauses;
            where other turns share the connection, the slow one is given up instead.
        max_turn_events: events of one turn at most; a server that goes on is hung up on. A token is an
            event at most, so the default is some seven times the longest output of today's models.
        max_turn_bytes: bytes of all events of one turn at most; the same. They are kept until the turn
            is over. The longest outputs come to about 30 MiB.
        max_pool_bytes: bytes of the events of all turns in flight at most, messages that have come in part
            included, and a little for each event; above that the connection that has most is given up.
        max_tool_calls: tool calls of one conversation that `run` makes at once at most; more wait. A model
            chooses how many there are in one response.
        on_cancel: what becomes of a connection whose turn is given up: `"hang_up"`, or
            `"drain"` (read the rest of the turn, for at most `drain_timeout`, and keep it).
        drain_timeout: seconds for `"drain"`.
        replay: what may be sent again by itself.
        max_resends: resends of one turn at most, 0 for none.
        refusal_patience: seconds that a turn waits by itself while the endpoint refuses it with what may pass
            (too many requests, overload, a server error), beyond `max_resends`; None for no more than those.
            All turns of the pool then keep a common pace, see `wspool.core.sending.pace`. What the endpoint
            refuses while it takes others is not waited out (`wspool.core.sending.blame`). A response counts
            as refused that fails for too many requests or overload before anything was made or paid of it.
    """

    max_size: int = 128
    min_idle: int = attrs.field(default=attrs.Factory(_ready, takes_self=True))
    max_idle: float = 300.0
    dial_concurrency: int = 16
    lanes: int = 1
    max_waiting: int | None = None
    connect_timeout: float = 15.0
    close_timeout: float = 2.0
    give_up_after: float = 120.0
    count_closing: bool = False
    patience: float = 2.0
    leak_after: float | None = None
    max_lifetime: float | None = None
    retire_margin: float = 60.0
    retire_spread: float = 360.0
    turn_reserve: float = 300.0
    ping_interval: float | None = 20.0
    ping_timeout: float = 60.0
    send_timeout: float = 60.0
    first_event_timeout: float | None = None
    silence_timeout: float | None = None
    max_message_size: int = 64 * MIB
    max_buffered: int = 16 * MIB
    max_turn_events: int = 1_000_000
    max_turn_bytes: int = 256 * MIB
    max_pool_bytes: int = 1024 * MIB
    max_tool_calls: int = 256
    on_cancel: OnCancel = "hang_up"
    drain_timeout: float = 30.0
    max_resends: int = 3
    refusal_patience: float | None = None
    replay: Replay = "proven"

    def __attrs_post_init__(self) -> None:
        _check(self, "max_size dial_concurrency lanes max_message_size max_buffered", least=1, whole=True)
        _check(self, "max_turn_events max_turn_bytes max_pool_bytes max_tool_calls", least=1, whole=True)
        _check(self, "min_idle max_waiting max_resends", least=0, whole=True)
        _check(self, "retire_margin retire_spread turn_reserve patience refusal_patience", least=0)
        _check(self, "max_idle connect_timeout close_timeout give_up_after max_lifetime", least=SHORTEST)
        _check(self, "ping_interval ping_timeout send_timeout drain_timeout leak_after", least=SHORTEST)
        _check(self, "first_event_timeout silence_timeout", least=SHORTEST)
        for name, choices in (("on_cancel", get_args(OnCancel)), ("replay", get_args(Replay))):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r} is none of {', '.join(choices)}")
        if self.min_idle > self.max_size:
            raise ValueError(f"min_idle={self.min_idle} exceeds max_size={self.max_size}")

    def schedule(self, provider: Provider) -> Schedule:
        """Return when connections to *provider* retire under this policy."""
        lifetime = provider.max_lifetime
        if self.max_lifetime is not None:
            lifetime = min(lifetime, self.max_lifetime)
        if lifetime == math.inf:  # of which no margin can be taken
            return Schedule(lifetime=lifetime, last_start=lifetime, retire_from=lifetime, retire_to=lifetime)
        # A connection that may not start a turn is of no use, so the plan ends before the
        # later of the two: the margin, and the last start less the time of a dial.
        reserve = min(self.turn_reserve, lifetime * _RESERVE_SHARE)
        slack = min(self.connect_timeout, lifetime * _SLACK_SHARE)
        margin = max(min(self.retire_margin, lifetime * _MARGIN_SHARE), reserve + slack)
        spread = min(self.retire_spread, lifetime * _SPREAD_SHARE)
        return Schedule(
            lifetime=lifetime,
            last_start=lifetime - reserve,
            retire_from=lifetime - margin - spread,
            retire_to=lifetime - margin,
        )
