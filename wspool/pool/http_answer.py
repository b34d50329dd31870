"""What an error is as an HTTP answer: one table for all doors.

Rules of this module:

* What the server said is passed on as it said it: its status, its error object, its wait.
* A request that may have run is not sent again by an SDK that knows no better (`x-should-retry: false`).
* A request that did not run may be: the status says so, or the wait that goes with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, TypeAlias, cast

from wspool.core.frames import encode_received
from wspool.core.meanings import Meaning
from wspool.core.plain import plain
from wspool.core.server_error import parse_error
from wspool.errors import (
    AuthenticationError,
    ConnectionLimitError,
    DialFailedError,
    ForeignUseError,
    LeaseRefusedError,
    MalformedMessageError,
    PoolClosedError,
    RequestTooLargeError,
    ResponseFailedError,
    TooManyWaitingError,
    TurnLostError,
    TurnTimeoutError,
    WsPoolError,
)

__all__ = ["Headers", "error_answer", "http_status"]

Headers: TypeAlias = list[tuple[str, str]]

_JSON: Final = ("content-type", "application/json")

#: What goes with each 401. Source: RFC 9110, 15.5.2.
_CHALLENGE: Final = ("www-authenticate", "Bearer")

#: The first that an error is one of counts. What is not here is a bug of whoever asks: 500.
_STATUSES: Final[tuple[tuple[type[WsPoolError], int], ...]] = (
    (RequestTooLargeError, 413),
    (AuthenticationError, 401),
    (TooManyWaitingError, 503),
    (DialFailedError, 502),
    (LeaseRefusedError, 503),
    (PoolClosedError, 503),
    (TurnTimeoutError, 504),
    (TurnLostError, 502),
    (MalformedMessageError, 502),
    (ForeignUseError, 500),
)

#: What providers answer over HTTP for what they say in a frame without a status.
_BY_MEANING: Final = {
    Meaning.RATE: 429,
    Meaning.PASSING: 503,
    Meaning.BUSY: 409,
    Meaning.SPENT: 429,
    Meaning.CREDENTIAL: 401,
    Meaning.CONTENT: 400,
    Meaning.PARENT: 400,
    Meaning.REQUEST: 400,
}

#: Below 500, statuses for which SDKs send a request again by themselves.
_ASKED_AGAIN: Final = frozenset({408, 409, 429})

#: Seconds after which to ask again where nobody knows better.
_A_MOMENT: Final = 1.0


def http_status(error: WsPoolError) -> int:
    """Return the HTTP status that *error* is, for a door that answers over HTTP.

    That of the server where it gave one, else by the code of its error; 413 for a request over the
    provider's limit, 401 for a key that is refused, 503 where the line is full, the pool closed or a
    connection at the end of its life, 502 where the endpoint cannot be reached or the turn was lost, 504
    where nothing came of it in time.
    """
    if isinstance(error, ConnectionLimitError):
        return 503  # of a connection that whoever asks by HTTP knows nothing of; nothing ran
    if isinstance(error, (ResponseFailedError, DialFailedError)) and _is_refusal(error.status):
        return cast("int", error.status)
    if isinstance(error, ResponseFailedError):
        meaning = parse_error(error.raw).meaning
        return (503 if error.may_pass else 500) if meaning is None else _BY_MEANING[meaning]
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)


def error_answer(error: Exception) -> tuple[int, Headers, bytes]:
    """Return *error* as an answer: its status, its headers, its body as JSON.

    The body has the server's error as it sent it, or one that says what happened.
    """
    if not isinstance(error, WsPoolError):
        refused = isinstance(error, (TypeError, ValueError))  # about the body
        status = 400 if refused else 500
        about = {"message": plain(str(error)), "type": _type(status), "param": None, "code": None}
        # What is not installed is not the next time either, as what a SOCKS proxy of the environment needs.
        advice = [("x-should-retry", "false")] if isinstance(error, ImportError) else []
        return status, [_JSON, *advice], _body(about)
    said = _said(error.raw) if isinstance(error, ResponseFailedError) else None
    status = http_status(error)
    if said is None:
        code = getattr(error, "code", None) or type(error).__name__
        said = {"message": str(error), "type": _type(status), "param": None, "code": code}
    challenge = [_CHALLENGE] if status == 401 else []
    return status, [_JSON, *challenge, *_advice(error)], _body(said)


def _advice(error: WsPoolError) -> Headers:
    """Return the headers that say about asking again what is known."""
    headers: Headers = []
    wait = _A_MOMENT if isinstance(error, TooManyWaitingError) else getattr(error, "retry_after", None)
    if wait is not None:
        # Whole seconds, and none too few: some readers raise at anything else (RFC 9110, 10.2.3).
        headers.append(("retry-after", str(math.ceil(wait))))
        headers.append(("retry-after-ms", f"{wait * 1000:.0f}"))
    if _may_have_run(error) or getattr(error, "permanent", False):
        headers.append(("x-should-retry", "false"))
    elif isinstance(error, DialFailedError) and not _sounds_passing(error):
        headers.append(("x-should-retry", "true"))
    return headers


def _sounds_passing(error: DialFailedError) -> bool:
    """Whether an SDK asks again because of the status alone, or had better not.

    An edge says 403 of what passes in a moment.
    """
    status = http_status(error)
    return isinstance(error, AuthenticationError) or status in _ASKED_AGAIN or status >= 500


def _body(said: Any) -> bytes:
    return encode_received({"error": said})


def _is_refusal(status: int | None) -> bool:
    return status is not None and 400 <= status < 600


def _may_have_run(error: WsPoolError) -> bool:
    # A refusal by the server did not run, whatever became of the request.
    return error.delivery != "not_sent" and not isinstance(error, ResponseFailedError)


def _said(raw: Mapping[str, Any]) -> Any:
    """Return the error object in a frame or in a failed response, None if there is none."""
    inner: object = raw.get("response")
    holder = cast("Mapping[str, Any]", inner) if isinstance(inner, Mapping) else raw
    if raw.get("type") == "error" and "error" not in raw:  # as it is in a stream: all in one object
        return {"type": _type(500), **{name: raw.get(name) for name in ("message", "code", "param")}}
    return holder.get("error") or raw.get("error")


def _type(status: int) -> str:
    return "invalid_request_error" if status in (400, 401, 413) else "server_error"
