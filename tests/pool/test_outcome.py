"""Outcome: from what the core knows to the errors that callers see."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

import pytest

import wspool
from tests.helpers import completed, created, delta, error_frame
from wspool.core.commands import ConnectionId, Refuse, RefuseReason, WaiterId
from wspool.core.failures import DialFailure, FailureKind
from wspool.core.frames import parse_event
from wspool.core.lending.pool import PoolCore
from wspool.core.policy import OPENAI, PoolPolicy
from wspool.core.server_error import ServerError
from wspool.pool.attempt import Attempt
from wspool.pool.link import Host, Link
from wspool.pool.outcome import failed_response, lost, refusal, server_failure, turn_failure
from wspool.wire.wire import WireClosedError

SNAPSHOT = PoolCore(PoolPolicy(), OPENAI).statistics()


def attempt_with(*events: Mapping[str, Any], handed: bool = True) -> Attempt:
    """An attempt that has received *events*."""
    attempt = Attempt("resp_parent")
    if handed:
        attempt.machine.handed()
    for event in events:
        attempt.feed(parse_event(json.dumps(event)), 0.0)
    return attempt


@pytest.mark.parametrize(
    ("events", "handed", "delivery", "response_id"),
    [
        ((), False, "not_sent", None),
        ((), True, "ambiguous", None),
        ((created("r"), delta("x")), True, "accepted", "r"),
    ],
)
def test_a_lost_turn_says_what_is_known(events, handed, delivery, response_id) -> None:
    """Delivery, response and events of a lost turn are attributes of its error."""
    attempt = attempt_with(*events, handed=handed)
    attempt.lose(1011)
    error = turn_failure(attempt)

    assert isinstance(error, wspool.TurnLostError)
    assert (delivery, response_id, 1011) == (error.delivery, error.response_id, error.close_code)
    assert tuple(attempt.events) == error.events
    assert (delivery == "not_sent") == error.replayable
    assert "code 1011" in str(error)


def test_a_lost_turn_repeats_the_reason() -> None:
    """What was said beside the close code is in the text and in an attribute."""
    attempt = attempt_with()
    attempt.lose(1008, "no such project")
    error = turn_failure(attempt)

    assert isinstance(error, wspool.TurnLostError)
    assert "no such project" == error.close_reason
    assert "turn lost: the connection closed with code 1008 ('no such project'); " in str(error)


def test_a_message_that_was_too_big_says_what_to_do() -> None:
    """Code 1009 may be about either direction, and is never worth a resend."""
    attempt = attempt_with()
    attempt.lose(1009)

    assert "shorten the request if it was that, or raise max_message_size" in str(turn_failure(attempt))


@pytest.mark.parametrize("by_peer", [True, False])
@pytest.mark.parametrize("code", [1009, 1008])
@pytest.mark.parametrize("unheard", [1, 2])
def test_a_request_was_too_large_only_if_nothing_else_can_be_meant(
    by_peer: bool, code: int, unheard: int
) -> None:
    """The peer has said so, and has answered whatever else was asked on that connection."""
    link = Link(ConnectionId(1), cast("Host", None), lanes=3)
    attempts = [attempt_with() for _ in range(unheard)] + [attempt_with(created("r"))]
    for lane, attempt in zip(link.lanes, attempts, strict=False):
        lane.attempt = attempt
    link.note_close(WireClosedError(code, by_peer=by_peer))
    link.lose_attempts()

    errors = [turn_failure(attempt) for attempt in attempts]
    meant = by_peer and code == 1009 and unheard == 1
    assert [meant] + [False] * unheard == [
        error.too_large for error in errors if isinstance(error, wspool.TurnLostError)
    ]


def test_a_turn_dropped_here_has_no_close_code() -> None:
    """A connection that this side dropped has no close code to tell."""
    attempt = attempt_with()
    attempt.lose(None)
    error = turn_failure(attempt)

    assert isinstance(error, wspool.TurnLostError)
    assert error.close_code is None
    assert "turn lost: the connection was dropped; the request may have been executed" == str(error)


def test_a_loss_before_the_start_sent_nothing() -> None:
    """Without an attempt nothing was sent, and nothing can have been paid."""
    error = lost("it is gone")

    assert ("not_sent", True, ()) == (error.delivery, error.replayable, error.events)


def test_a_response_is_no_failure() -> None:
    """A turn with a terminal event has no error, whatever the response's status is."""
    failed = {"type": "response.failed", "response": {"id": "r", "status": "failed", "error": None}}

    assert turn_failure(attempt_with(created("r"), completed("r"))) is None
    assert turn_failure(attempt_with(created("r"), failed)) is None


def test_a_running_turn_has_no_failure() -> None:
    """A turn that has not ended has neither error nor response."""
    assert turn_failure(attempt_with(created("r"))) is None


@pytest.mark.parametrize(
    ("code", "status", "kind", "advice"),
    [
        ("previous_response_not_found", 400, wspool.PreviousResponseNotFoundError, "whole conversation"),
        ("websocket_connection_limit_reached", 400, wspool.ConnectionLimitError, "another connection"),
        ("rate_limit_exceeded", 429, wspool.RateLimitedError, "wait"),
        (None, 429, wspool.RateLimitedError, "wait"),
        ("invalid_prompt", 400, wspool.ResponseFailedError, "invalid_prompt (400): no"),
        (None, None, wspool.ResponseFailedError, "request refused: error"),
    ],
)
def test_a_refusal_becomes_the_error_of_its_code(code, status, kind, advice) -> None:
    """Who must act decides the class; the rest is in attributes."""
    frame = error_frame(code, status, param="input", headers={"Retry-After": "7"})
    error = turn_failure(attempt_with(frame))

    assert type(error) is kind
    assert isinstance(error, wspool.ResponseFailedError)
    assert (code, status, "input", 7.0) == (error.code, error.status, error.param, error.retry_after)
    assert ("terminal", None, frame) == (error.delivery, error.response_id, error.raw)
    assert advice in str(error)


def test_a_refusal_without_text_is_still_readable() -> None:
    """An error frame that says nothing still makes one readable line."""
    error = turn_failure(attempt_with({"type": "error", "error": None}))

    assert "request refused: error" == str(error)


def test_a_failed_response_becomes_an_error() -> None:
    """The error of a failed response names the response."""
    failed = {
        "type": "response.failed",
        "response": {"id": "r", "status": "failed", "error": {"code": "server_error", "message": "oops"}},
    }
    error = failed_response(attempt_with(created("r"), failed))

    assert ("server_error", "r", "terminal") == (error.code, error.response_id, error.delivery)
    assert "response failed: server_error: oops" == str(error)


def test_a_refused_waiter_of_a_closed_pool() -> None:
    """A waiter of a closed pool is told that the pool is closed."""
    error = refusal(Refuse(WaiterId(1), RefuseReason.CLOSED), SNAPSHOT, None)

    assert isinstance(error, wspool.PoolClosedError)
    assert error.delivery == "not_sent"


def test_a_full_line_shows_the_pool() -> None:
    """A waiter refused by a full line learns how the pool was doing."""
    error = refusal(Refuse(WaiterId(1), RefuseReason.TOO_MANY_WAITING), SNAPSHOT, None)

    assert isinstance(error, wspool.TooManyWaitingError)
    assert SNAPSHOT is error.statistics
    assert "0 of 128 connections, 0 leased, 0 dialing" in str(error)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (FailureKind.CREDENTIAL, wspool.AuthenticationError),
        (FailureKind.NOT_OFFERED, wspool.WebSocketNotOfferedError),
        (FailureKind.PERMANENT, wspool.DialFailedError),
        (FailureKind.TRANSIENT, wspool.DialFailedError),
    ],
)
def test_a_failed_dial_keeps_its_facts(kind, expected) -> None:
    """Phase, status, retry hint and cause of the dial are in the error."""
    failure = DialFailure(kind=kind, message="no", phase="upgrade", status=503, retry_after=3.0)
    cause = ValueError("why")
    error = refusal(Refuse(WaiterId(1), RefuseReason.DIAL_FAILED, failure), SNAPSHOT, cause)

    assert type(error) is expected
    assert isinstance(error, wspool.DialFailedError)
    assert ("upgrade", 503, 3.0) == (error.phase, error.status, error.retry_after)
    assert cause is error.__cause__
    assert SNAPSHOT is error.statistics


def test_a_failed_dial_without_failure_is_a_bug() -> None:
    """The core always says why."""
    with pytest.raises(AssertionError, match="bug"):
        refusal(Refuse(WaiterId(1), RefuseReason.DIAL_FAILED), SNAPSHOT, None)


@pytest.mark.parametrize(
    ("code", "status"),
    [("invalid_api_key", None), (None, 401), ("permission_denied", 403), ("token_expired", 400)],
)
def test_a_refused_key_is_the_same_error_whichever_way_it_was_refused(code, status) -> None:
    """With the handshake, or with the answer to a request; then it is also what the server has said."""
    raw = {"error": {"code": code}, "status": status}
    by_answer = server_failure(ServerError(code=code, status=status, raw=raw), "terminal")
    by_dial = refusal(
        Refuse(
            WaiterId(1),
            RefuseReason.DIAL_FAILED,
            DialFailure(kind=FailureKind.CREDENTIAL, message="no", phase="upgrade", status=status),
        ),
        SNAPSHOT,
        None,
    )

    for error in (by_answer, by_dial):
        assert isinstance(error, wspool.AuthenticationError)
        assert error.permanent
        assert status == error.status
    assert isinstance(by_answer, wspool.KeyRefusedError)
    assert isinstance(by_answer, wspool.ResponseFailedError)
    assert ("request", "terminal", None, raw) == (
        by_answer.phase,
        by_answer.delivery,
        by_answer.statistics,
        by_answer.raw,
    )
    assert "check the API key" in str(by_answer)


def test_a_403_without_a_reason_may_be_the_edge() -> None:
    """Which says nothing about the key."""
    assert type(server_failure(ServerError(status=403), "terminal")) is wspool.ResponseFailedError


def test_a_response_that_fails_for_a_key_had_begun() -> None:
    """So no lease was refused."""
    error = server_failure(ServerError(code="token_expired", status=401), "terminal", "resp_1")

    assert type(error) is wspool.ResponseFailedError
