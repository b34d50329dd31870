"""What a server says when it says no: one reader for all the shapes that errors come in.

Rules of this module:

* Error frames come in many shapes (`wspool.server.protocol.shapes` has them); all become one `ServerError`.
* What an error means is read from its fields, never from its wording where there is a field.
* A wait that a server may ask for is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

import attrs

from wspool.core.failures import MAX_RETRY_AFTER, parse_retry_after
from wspool.core.frames import as_number, as_text

__all__ = ["ServerError", "parse_error"]

# 429s and 5xx that no waiting mends: quotas, credits, tiers.
_TERMINAL_CODES: Final = frozenset(
    {
        "credit_balance_exhausted",
        "flex_unavailable",
        "insufficient_quota",
        "resource_unavailable",
        "subscription_sharing_usage_limit_exceeded",
        "usage_limit_reached",
        "usage_not_included",
    }
)
# A lane that is busy: vLLM, and a gateway.
_BUSY_CODES: Final = frozenset({"concurrent_request", "response_already_in_flight"})
_PASSING_CODES: Final = frozenset({"server_error", "server_is_overloaded", "websocket_queue_full"})


@attrs.frozen(kw_only=True)
class ServerError:
    """What an error frame, or the error of a failed response, says.

    Attributes:
        code: the machine-readable code, or None.
        type: the error's family, or None.
        message: the server's text, possibly empty.
        param: the field it blames, or None.
        status: HTTP-like status, or None.
        retry_after: seconds the server asked to wait, or None.
        in_stream: True for an error inside a running response, after which `response.failed`
            may still come; False for the answer to a request.
        raw: the frame.
    """

    code: str | None = None
    type: str | None = None
    message: str = ""
    param: str | None = None
    status: int | None = None
    retry_after: float | None = None
    in_stream: bool = False
    raw: dict[str, Any] = attrs.field(factory=dict[str, Any], repr=False)

    @property
    def is_connection_limit(self) -> bool:
        """The connection reached its lifetime limit."""
        return self.code == "websocket_connection_limit_reached"

    @property
    def is_expiry_notice(self) -> bool:
        """Not a failure: the connection will reach its limit soon (vLLM sends it mid-turn)."""
        return self.code == "connection_expiring"

    @property
    def is_parent_missing(self) -> bool:
        """The server does not hold the previous response. Some gateways give no code."""
        return self.code == "previous_response_not_found" or (
            self.code is None and self.message.startswith("Invalid previous_response_id")
        )

    @property
    def blames_lane(self) -> bool:
        """The endpoint knows no lanes: it refuses the field that names one."""
        if self.code == "websocket_stream_limit_reached":
            return False  # it knows them well, and has no more
        return self.param == "stream_id" or (self.param is None and "stream_id" in self.message)

    @property
    def blames_steering(self) -> bool:
        """The endpoint knows no steering: it refuses the type of the message."""
        return self.param == "type" or "response.steer" in self.message

    @property
    def says_busy(self) -> bool:
        """The server is at work on another response on this lane, of which nobody here knows."""
        return self.code in _BUSY_CODES or "already in progress" in self.message

    @property
    def may_pass(self) -> bool:
        """The same request may succeed a little later."""
        if self.code in _TERMINAL_CODES or self.type in _TERMINAL_CODES:
            return False
        return self.is_rate_limit or self.code in _PASSING_CODES or (self.status or 0) >= 500

    @property
    def hold(self) -> float:
        """How many seconds every client of this endpoint shall wait; 0 where none is asked to.

        What one turn is asked to wait, the whole endpoint waits. A request that cannot succeed later
        (a spent quota) holds nobody up: what the server says about waiting is then not about the others.
        """
        return self.retry_after or 0.0 if self.may_pass else 0.0

    @property
    def is_rate_limit(self) -> bool:
        """Too many requests."""
        return self.status == 429 or self.code == "rate_limit_exceeded" or self.type == "rate_limit_error"


# The wording of rate limit messages ("Please try again in 1.2s"), as codex reads it.
_TRY_AGAIN: Final = re.compile(r"try again in (\d{1,9}(?:\.\d{1,9})?)\s*(ms|s|seconds?)\b", re.IGNORECASE)


def parse_error(data: Mapping[str, Any], *, wall_clock: float = 0.0) -> ServerError:
    """Return what an `error` frame or a `response.failed` event says, whatever its shape.

    Args:
        data: the decoded event.
        wall_clock: seconds since the epoch, to which dates in retry hints are compared.
    """
    response = _mapping(data.get("response"))
    body = _mapping(data.get("body"))
    nested = data.get("error") or response.get("error") or body.get("error")
    if isinstance(nested, str):
        inner: Mapping[str, Any] = {"message": nested}
    elif isinstance(nested, Mapping):
        inner = cast("Mapping[str, Any]", nested)
    else:
        inner = data  # the flat form; an error of null says nothing, but is one
    status = as_number(data.get("status")) or as_number(data.get("status_code"))
    message = as_text(inner.get("message")) or ""
    return ServerError(
        code=as_text(inner.get("code")),
        type=as_text(inner.get("type")) if inner is not data else None,
        message=message,
        param=as_text(inner.get("param")),
        status=status,
        retry_after=_retry_after(data, inner, message, wall_clock),
        in_stream="sequence_number" in data and status is None,
        raw=dict(data),
    )


def _mapping(value: object) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


def _retry_after(
    data: Mapping[str, Any], inner: Mapping[str, Any], message: str, wall_clock: float
) -> float | None:
    for holder in (data, inner):
        headers = _mapping(holder.get("headers"))
        if (hint := parse_retry_after(_pairs(headers), wall_clock)) is not None:
            return hint
    if (
        wall_clock
        and isinstance(resets_at := inner.get("resets_at"), (int, float))
        and resets_at == resets_at
    ):
        # Compared before it is converted: a server may send an int that no float can hold.
        return float(min(max(resets_at, wall_clock), wall_clock + MAX_RETRY_AFTER)) - wall_clock
    if match := _TRY_AGAIN.search(message):
        return min(float(match[1]) / (1000 if match[2].lower() == "ms" else 1), MAX_RETRY_AFTER)
    return None


def _pairs(headers: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    return ((name, str(value)) for name, value in headers.items())
