"""The error tree, sorted by who must act.

::

    WsPoolError
      PoolClosedError (trio.ClosedResourceError)    you: the pool, lease or conversation is closed
      TurnInFlightError (trio.BusyResourceError)    you: one turn at a time per lease
      ForeignUseError                               you: another trio run, thread or process
      RequestTooLargeError                          you: over the provider's frame limit
      OpenCallsError                                you: calls of the model have no output
      UnknownEffectsError                           you: nobody knows what came of calls of the model
      MaxTurnsError                                 you: the tool loop did not end in time
      BudgetExceededError                           you: what the turns may cost is spent
      SteeringRefusedError                          you: further input was not taken
      LeaseRefusedError                             the pool
        TooManyWaitingError                           the line is full
        DialFailedError                               the endpoint cannot be reached
          AuthenticationError                           it refuses the key
          WebSocketNotOfferedError                      it answers HTTP, and offers no WebSocket
      TurnLostError (trio.BrokenResourceError)      the network
        TurnTimeoutError (trio.TooSlowError)          nothing came of it for longer than the policy allows
      ResponseFailedError                           the server
        PreviousResponseNotFoundError                 the parent is not in its memory
        ConnectionLimitError                          the connection reached its lifetime limit
        RateLimitedError                              too many requests
        KeyRefusedError (AuthenticationError)         the key, with the answer to a request
      MalformedMessageError                         the server: an event whose `data` is no JSON object

Rules: every error carries `delivery`, what is known about the request (see
`wspool.core.events.turn`); the first line of a message says what happened and what to do;
data is in attributes, never only in the text; no error carries a credential. The text is plain, whatever a
server has written (`wspool.core.plain`); `raw`, `events` and `data` are as they came.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import trio

from wspool.core.calls import described
from wspool.core.error import Delivery, WsPoolError
from wspool.core.frames import MalformedMessageError

if TYPE_CHECKING:
    from wspool.core.frames import Event
    from wspool.core.statistics import PoolStatistics

__all__ = [
    "AuthenticationError",
    "BudgetExceededError",
    "ConnectionLimitError",
    "DialFailedError",
    "ForeignUseError",
    "KeyRefusedError",
    "LeaseRefusedError",
    "MalformedMessageError",
    "MaxTurnsError",
    "OpenCallsError",
    "PoolClosedError",
    "PreviousResponseNotFoundError",
    "RateLimitedError",
    "RequestTooLargeError",
    "ResponseFailedError",
    "SteeringRefusedError",
    "TooManyWaitingError",
    "TurnInFlightError",
    "TurnLostError",
    "TurnTimeoutError",
    "UnknownEffectsError",
    "WebSocketNotOfferedError",
    "WsPoolError",
]


class PoolClosedError(WsPoolError, trio.ClosedResourceError):
    """The pool, lease or conversation was closed on this side.

    Nothing was sent, unless `delivery` says otherwise: of a turn that was to be sent again, or a compaction.
    """


class TurnInFlightError(WsPoolError, trio.BusyResourceError):
    """A turn is in flight on this lease or conversation; nothing was sent."""


class ForeignUseError(WsPoolError, RuntimeError):
    """The pool belongs to another trio run, thread or process; nothing was done."""


class RequestTooLargeError(WsPoolError):
    """The request is over the provider's frame limit; nothing was sent.

    That limit is `Provider.max_request`, or, for five minutes after one was refused for its size (close 1009,
    or status 413), what is smaller than that one.

    Attributes:
        size: size of the encoded request, in bytes.
        limit: the provider's limit, in bytes.
    """

    def __init__(self, *, size: int, limit: int) -> None:
        super().__init__(
            f"request of {size} bytes is over the provider's limit of {limit} bytes for one message "
            "(max_request, or less than it has refused); shorten or compact the conversation "
            "(a resend can never work)"
        )
        self.size = size
        self.limit = limit


class OpenCallsError(WsPoolError):
    """Calls of the model have no output, and without it the turn would be refused; nothing was sent.

    Attributes:
        calls: the calls, as they are in the history.
    """

    def __init__(self, calls: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(
            f"calls in the history have no output: {described(calls)}; nothing was sent, for it would be "
            "refused: send their outputs, let run() make those of functions, or drop them with edit()"
        )
        self.calls = list(calls)


class UnknownEffectsError(WsPoolError):
    """Calls were begun by a process that was ended, and nobody knows what came of them; nothing was sent.

    Attributes:
        calls: the calls, as they are in the history.
    """

    def __init__(self, calls: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(
            f"calls were begun and their outcome is unknown: {described(calls)}; nothing was made or sent: "
            "look what they did, then go on with unknown_effects='tell', or send their outputs"
        )
        self.calls = list(calls)


class MaxTurnsError(WsPoolError):
    """The tool loop still wanted tools after its last allowed turn.

    Attributes:
        max_turns: the limit that was reached, in turns.
    """

    delivery: Delivery = "terminal"

    def __init__(self, max_turns: int) -> None:
        super().__init__(
            f"the model still calls tools after {max_turns} turns; raise max_turns or end the task"
        )
        self.max_turns = max_turns


class BudgetExceededError(WsPoolError):
    """The budget of the conversation is spent; nothing was sent. The text says which limit was reached."""


class SteeringRefusedError(WsPoolError):
    """Further input for a response in progress was not taken; the turn goes on without it.

    Attributes:
        delivery: `"not_sent"`, or `"terminal"` if the server refused it.
        code: the reason: the server's, or `"steering_not_supported"` or `"response_not_active"` if it
            was not sent.
    """

    def __init__(self, message: str, *, delivery: Delivery, code: str | None) -> None:
        super().__init__(message)
        self.delivery = delivery
        self.code = code


class LeaseRefusedError(WsPoolError):
    """The pool did not grant a lease; nothing was sent.

    Attributes:
        statistics: the pool at that moment, or None when there was no pool.
    """

    def __init__(self, message: str, *, statistics: PoolStatistics | None = None) -> None:
        super().__init__(message)
        self.statistics = statistics


class TooManyWaitingError(LeaseRefusedError):
    """`PoolPolicy.max_waiting` tasks are in line already."""


class DialFailedError(LeaseRefusedError):
    """The endpoint cannot be reached, and waiting will not help.

    Attributes:
        phase: the step of the dial that failed: resolve, tcp, proxy, tls or upgrade.
        status: HTTP status of the answer to the upgrade, or None.
        code: the code in the body of that answer, or None.
        retry_after: seconds the server asked to wait, or None.
        permanent: True when the endpoint must be, or be asked, another way; False when it has only been
            down for too long.
    """

    def __init__(
        self,
        message: str,
        *,
        phase: str,
        status: int | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        permanent: bool = False,
        statistics: PoolStatistics | None = None,
    ) -> None:
        super().__init__(message, statistics=statistics)
        self.phase = phase
        self.status = status
        self.code = code
        self.retry_after = retry_after
        self.permanent = permanent


class AuthenticationError(DialFailedError):
    """The endpoint refused the credential: during the handshake, or with its answer to a request."""


class WebSocketNotOfferedError(DialFailedError):
    """HTTP is answered at this address (404, 405, 426, or a page), and no WebSocket is offered.

    Waiting does not help. Whoever can fall back to HTTP does it here.
    """


class TurnLostError(WsPoolError, trio.BrokenResourceError):
    """The connection died under a turn, or before it could start.

    Attributes:
        response_id: id of the response that was streaming, or None if none was seen.
        events: the events received so far.
        replayable: True when the request provably did not run, so that sending it again
            cannot pay or act twice.
        close_code: the WebSocket close code, 1006 when the stream just ended, None when
            the connection was dropped on this side.
        close_reason: the peer's text beside that code (never trust it, never parse it), or why the
            connection was dropped on this side; possibly empty.
        too_large: True when the peer ended the connection with 1009 instead of an answer: it does not read
            a request of that size, and the same one by HTTP may go well.
    """

    def __init__(
        self,
        message: str,
        *,
        delivery: Delivery,
        response_id: str | None = None,
        events: Sequence[Event] = (),
        close_code: int | None = None,
        close_reason: str = "",
        too_large: bool = False,
    ) -> None:
        super().__init__(message)
        self.delivery = delivery
        self.response_id = response_id
        self.events = tuple(events)
        self.replayable = delivery == "not_sent"
        self.close_code = close_code
        self.close_reason = close_reason
        self.too_large = too_large


class TurnTimeoutError(TurnLostError, trio.TooSlowError):
    """Nothing came of the response for longer than the policy allows, and the turn was given up.

    `ambiguous` if it had not begun (`first_event_timeout`), `accepted` if it had (`silence_timeout`).
    """


class ResponseFailedError(WsPoolError):
    """The server refused the request or the response failed.

    Attributes:
        code: the server's error code, or None.
        status: the HTTP-like status of the error, or None.
        param: the field the server blames, or None.
        response_id: id of the failed response, or None when none was created.
        retry_after: seconds the server asked to wait, however long, or None.
        may_pass: True when the same turn may succeed a little later (overload, rate limit, a lost
            parent); asking again is safe if `delivery` says that nothing ran, else it pays twice.
        permanent: True when it cannot, however long one waits (a key, a spent quota, a request that is
            wrong). Neither is said of what nobody knows.
        raw: the error frame or the failed response, as the server sent it.
    """

    def __init__(
        self,
        message: str,
        *,
        delivery: Delivery,
        code: str | None = None,
        status: int | None = None,
        param: str | None = None,
        response_id: str | None = None,
        retry_after: float | None = None,
        may_pass: bool = False,
        permanent: bool = False,
        raw: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.delivery = delivery
        self.may_pass = may_pass
        self.permanent = permanent
        self.code = code
        self.status = status
        self.param = param
        self.response_id = response_id
        self.retry_after = retry_after
        self.raw: dict[str, Any] = raw or {}


class PreviousResponseNotFoundError(ResponseFailedError):
    """`previous_response_id` names a response that the server does not hold, or it takes none."""


class ConnectionLimitError(ResponseFailedError):
    """The connection reached the provider's lifetime limit."""


class RateLimitedError(ResponseFailedError):
    """Too many requests; see `retry_after`."""


class KeyRefusedError(AuthenticationError, ResponseFailedError):
    """The endpoint refused the credential with its answer to a request, before there was a response.

    So it does by HTTP, where the credential goes with each, and of a key that is withdrawn while a connection
    is open. As a failed dial its `phase` is `"request"`.
    """

    def __init__(self, message: str, *, delivery: Delivery, **said: Any) -> None:
        ResponseFailedError.__init__(self, message, delivery=delivery, **said)
        self.phase = "request"
        self.statistics = None
