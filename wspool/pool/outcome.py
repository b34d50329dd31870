"""From what the core knows to what the caller is told: the errors of turns and refusals.

The only place where public errors about the network and the server are made.
"""

from __future__ import annotations

from wspool.core.commands import Refuse, RefuseReason
from wspool.core.events.turn import Delivery
from wspool.core.failures import FailureKind
from wspool.core.plain import plain
from wspool.core.sending.replay import MESSAGE_TOO_BIG
from wspool.core.server_error import ServerError
from wspool.core.statistics import PoolStatistics
from wspool.errors import (
    AuthenticationError,
    ConnectionLimitError,
    DialFailedError,
    KeyRefusedError,
    LeaseRefusedError,
    PoolClosedError,
    PreviousResponseNotFoundError,
    RateLimitedError,
    ResponseFailedError,
    TooManyWaitingError,
    TurnLostError,
    TurnTimeoutError,
    WebSocketNotOfferedError,
    WsPoolError,
)
from wspool.pool.attempt import Attempt

__all__ = ["failed_response", "lost", "refusal", "server_failure", "turn_failure"]

#: Which of the two messages it was, only the reason beside the code can tell.
_TOO_BIG = (
    "; a message is too big, and a resend never works: shorten the request if it was that, "
    "or raise max_message_size if it was one from the server"
)

_DIAL_ERRORS = {
    FailureKind.CREDENTIAL: AuthenticationError,
    FailureKind.NOT_OFFERED: WebSocketNotOfferedError,
}

_OVERRUN = (
    "its events were not read, max_buffered bytes of them were waiting, and other turns share the "
    "connection; read faster, or raise max_buffered"
)

_LOST_ADVICE = {
    "not_sent": "nothing was sent, it is safe to try again",
    "ambiguous": "the request may have been executed",
    "accepted": "the server had begun to answer; trying again pays twice",
    "terminal": "the turn had ended",
}


def turn_failure(attempt: Attempt) -> WsPoolError | None:
    """Return the error of an ended attempt, or None if it has a response (of whatever status)."""
    if attempt.lost:
        error, code = attempt.machine.error, attempt.close_code
        if error is not None and error.is_connection_limit:
            return lost("the connection reached its lifetime limit", attempt)
        if attempt.excess:
            return lost(f"{attempt.excess}, and a resend never works: raise it if that is right", attempt)
        how = "the connection was dropped" if code is None else f"the connection closed with code {code}"
        if attempt.close_reason:
            how += f" ({plain(attempt.close_reason)!r})"
        if attempt.overrun:
            how = _OVERRUN
        if attempt.overdue:
            how = f"nothing came of it for {attempt.overdue}"
        if code == MESSAGE_TOO_BIG:
            how += _TOO_BIG
        return lost(how, attempt)
    machine = attempt.machine
    if machine.response is None and machine.error is not None:
        return _server_failure(attempt, machine.error)
    return None


def failed_response(attempt: Attempt) -> ResponseFailedError:
    """Return the error of an attempt whose response has the status `failed`."""
    return _server_failure(attempt, attempt.machine.error or ServerError())


def _server_failure(attempt: Attempt, error: ServerError) -> ResponseFailedError:
    machine = attempt.machine
    return server_failure(attempt.redactor.server_error(error), machine.delivery, machine.response_id)


def lost(how: str, attempt: Attempt | None = None) -> TurnLostError:
    """Return the error of a turn whose connection died, or died before it could start."""
    delivery = attempt.machine.delivery if attempt is not None else "not_sent"
    kind = TurnTimeoutError if attempt is not None and attempt.overdue else TurnLostError
    return kind(
        f"turn lost: {how}; {_LOST_ADVICE[delivery]}",
        delivery=delivery,
        response_id=attempt.machine.response_id if attempt is not None else None,
        events=attempt.events if attempt is not None else (),
        close_code=attempt.close_code if attempt is not None else None,
        close_reason=attempt.close_reason if attempt is not None else "",
        too_large=attempt is not None and attempt.too_large,
    )


def refusal(command: Refuse, statistics: PoolStatistics, cause: BaseException | None) -> WsPoolError:
    """Return the error of a waiter that gets no lease."""
    match command.reason:
        case RefuseReason.CLOSED:
            return PoolClosedError("the pool is closed; nothing was sent")
        case RefuseReason.TOO_MANY_WAITING:
            return TooManyWaitingError(
                f"{statistics.waiting} tasks are in line already (max_waiting); {_line(statistics)}",
                statistics=statistics,
            )
        case RefuseReason.DIAL_FAILED:
            failure = command.failure
            if failure is None:
                raise AssertionError("bug: refused for a failed dial without its failure")
            error: LeaseRefusedError = _DIAL_ERRORS.get(failure.kind, DialFailedError)(
                failure.message,
                phase=failure.phase,
                status=failure.status,
                code=failure.code,
                retry_after=failure.retry_after,
                permanent=failure.permanent,
                statistics=statistics,
            )
            error.__cause__ = cause
            return error


def _line(statistics: PoolStatistics) -> str:
    return (
        f"{statistics.size} of {statistics.max_size} connections, {statistics.leased} leased, "
        f"{statistics.dialing} dialing"
    )


def server_failure(
    error: ServerError, delivery: Delivery, response_id: str | None = None
) -> ResponseFailedError:
    """Return the error for what the server said."""
    kind = ResponseFailedError
    advice = ""
    if error.refuses_parents:
        kind = PreviousResponseNotFoundError
        advice = "this endpoint takes no previous_response_id; send the whole conversation without it"
    elif error.is_parent_missing:
        kind, advice = PreviousResponseNotFoundError, "send the whole conversation without it"
    elif error.is_connection_limit:
        kind, advice = ConnectionLimitError, "send the whole conversation on another connection"
    elif error.refuses_key and not response_id:
        kind, advice = KeyRefusedError, "check the API key and what it may use"
    elif error.is_rate_limit:
        kind, advice = RateLimitedError, "" if error.permanent else "wait before trying again"
    what = "response failed" if response_id else "request refused"
    text = f"{what}: {error.label or 'error'}" + (f" ({error.status})" if error.status else "")
    if error.message:
        text += f": {plain(error.message)}"
    return kind(
        f"{text}; {advice}" if advice else text,
        delivery=delivery,
        code=error.code,
        status=error.status,
        param=error.param,
        response_id=response_id,
        retry_after=error.retry_after,
        may_pass=error.may_pass
        or (error.is_parent_missing and not error.refuses_parents)
        or error.is_connection_limit,
        permanent=error.permanent,
        raw=error.raw,
    )
