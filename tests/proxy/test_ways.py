"""Decisions of the proxy: which way a turn goes, and whether a request was asked before."""

from __future__ import annotations

import pytest

from wspool.errors import (
    PoolClosedError,
    RequestTooLargeError,
    ResponseFailedError,
    TurnLostError,
    WebSocketNotOfferedError,
)
from wspool.proxy.ways import Before, Repetition, goes_by_http, repetition

LARGE = RequestTooLargeError(size=2, limit=1)
LOST = TurnLostError("a", delivery="ambiguous")
CLOSED = TurnLostError("a", delivery="ambiguous", close_code=1009, too_large=True)
REFUSED = ResponseFailedError("a", delivery="terminal", status=413)
BEGUN = ResponseFailedError("a", delivery="terminal", status=413, response_id="resp_1")
NONE = WebSocketNotOfferedError("a", phase="upgrade", permanent=True)


@pytest.mark.parametrize("error", [LARGE, NONE])
def test_what_cannot_go_by_websocket_goes_by_http(error: Exception) -> None:
    """Unless anything of it was sent."""
    assert goes_by_http(error, sent=False)
    assert not goes_by_http(error, sent=True)


@pytest.mark.parametrize("error", [CLOSED, REFUSED])
def test_so_does_what_the_provider_did_not_read(error: Exception) -> None:
    """Once."""
    assert goes_by_http(error, sent=True)
    assert not goes_by_http(error, sent=True, went_so=True)


@pytest.mark.parametrize("error", [None, BEGUN, PoolClosedError("a"), LOST, ValueError("a")])
def test_nothing_else_does(error: Exception | None) -> None:
    """What was lost may have run."""
    assert not goes_by_http(error, sent=False)


@pytest.mark.parametrize(
    ("retries", "name", "before", "what"),
    [
        ("", "", "nothing", "alone"),
        ("", "", "running", "alone"),
        ("", "", "ended", "alone"),
        ("0", "", "nothing", "begin"),
        ("0", "", "running", "alone"),
        ("0", "", "ended", "begin"),
        ("1", "", "nothing", "begin"),
        ("1", "", "running", "join"),
        (" 2 ", "", "ended", "join"),
        ("", "n", "nothing", "begin"),
        ("", "n", "running", "join"),
        ("0", "n", "ended", "join"),
    ],
)
def test_a_request_repeats_another_only_if_it_says_so(
    retries: str, name: str, before: Before, what: Repetition
) -> None:
    """By a count of retries above 0, or by its name; samples go their own way."""
    assert what == repetition(retries, name, before)
