"""What a failed dial means, and how long a server asks to wait."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from hypothesis import example, given, strategies as st

from wspool.core.failures import MAX_RETRY_AFTER, DialFailure, FailureKind, classify_dial, parse_retry_after
from wspool.core.waits import LONGEST

#: 6 November 1994, 08:49:37 UTC: the date that RFC 9110 spells in three ways.
RFC_DATE = 784111777.0


@pytest.fixture(params=["UTC", "America/New_York", "Asia/Kolkata"])
def _time_zone(request: pytest.FixtureRequest) -> Iterator[None]:
    """This machine is somewhere else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", request.param)
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], None),
        ([("date", "Sun, 06 Nov 1994 08:49:37 GMT")], None),
        ([("retry-after", "7")], 7.0),
        ([("Retry-After", " 7 ")], 7.0),
        ([("RETRY-AFTER", "0.25")], 0.25),
        ([("retry-after", "0")], 0.0),
        ([("retry-after-ms", "1500")], 1.5),
        ([("Retry-After-Ms", "0.5")], 0.0005),
        ([("retry-after-ms", "1500"), ("retry-after", "7")], 1.5),
        ([("retry-after", "7"), ("retry-after-ms", "1500")], 1.5),
        ([("retry-after-ms", "soon"), ("retry-after", "7")], 7.0),
        ([("retry-after-ms", "soon")], None),
        ([("retry-after", "soon")], None),
        ([("retry-after", "")], None),
        ([("retry-after", "-7")], None),
        ([("retry-after", "1e3")], None),
        ([("retry-after", "\u0667")], None),
        ([("retry-after", "3601")], 3601.0),
        ([("retry-after", "999999999999")], LONGEST),
        ([("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT")], 10.0),
        ([("retry-after", "Sun, 06 Nov 1994 09:49:37 +0100")], 10.0),
        ([("retry-after", "Sun, 06 Nov 1994 08:49:26 GMT")], 0.0),
        ([("retry-after", "Mon, 07 Nov 1994 08:49:37 GMT")], 86410.0),
        ([("retry-after", "Sun, 41 Nov 1994 08:49:37 GMT")], None),
    ],
)
def test_a_wait_is_read_in_every_spelling(headers: list[tuple[str, str]], expected: float | None) -> None:
    """Milliseconds, seconds or a date: never negative, never cut to what we like, None if it says nothing."""
    assert expected == parse_retry_after(headers, RFC_DATE - 10)


@pytest.mark.usefixtures("_time_zone")
@pytest.mark.parametrize(
    "text",
    [
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
        "Sun, 06 Nov 1994 08:49:37 -0000",
    ],
)
def test_a_date_means_the_same_in_every_time_zone(text: str) -> None:
    """All spellings of an HTTP date are UTC, wherever the client is."""
    assert 10.0 == parse_retry_after([("retry-after", text)], RFC_DATE - 10)


@pytest.mark.parametrize(
    "text",
    [
        "Mon, 01 Jan 99999999999999999999 00:00:00 GMT",
        "Mon, 01 Jan 2026 00:00:00 +99999999999999",
        "Mon, 99999999999999999999 Jan 2026 00:00:00 GMT",
    ],
)
def test_an_absurd_date_says_nothing(text: str) -> None:
    """A date beyond every calendar is as if the server had said nothing."""
    assert parse_retry_after([("retry-after", text)], RFC_DATE) in (None, LONGEST)


def test_an_absurd_number_is_cut() -> None:
    """However many digits it has, a wait is one that a clock can hold."""
    assert LONGEST == parse_retry_after([("retry-after", "9" * 13)], 0.0)


@given(st.text(max_size=40), st.text("0123456789.", max_size=16), st.floats(0, 4e9))
@example("1 2 3 4 5", "1.", 0.0)
def test_no_header_raises(text: str, number: str, wall_clock: float) -> None:
    """Any text in the headers is a wait within bounds or none."""
    for headers in ([("retry-after", text)], [("retry-after", number)], [("retry-after-ms", number)]):
        seconds = parse_retry_after(headers, wall_clock)

        assert seconds is None or 0.0 <= seconds <= LONGEST


@given(
    st.datetimes(datetime(1971, 1, 1), datetime(2100, 1, 1)),
    st.integers(-12 * 60, 12 * 60),
    st.integers(0, 3600),
)
def test_a_date_is_compared_with_the_clock(when: datetime, offset: int, wait: int) -> None:
    """A date this many seconds ahead asks to wait this many seconds, in whatever zone it is written."""
    aware = when.replace(microsecond=0, tzinfo=timezone(timedelta(minutes=offset or 1)))

    assert wait == parse_retry_after([("retry-after", format_datetime(aware))], aware.timestamp() - wait)


@given(st.integers(0, 3_600_000))
def test_seconds_and_milliseconds_agree(milliseconds: int) -> None:
    """The same wait in both units is the same wait."""
    in_milliseconds = parse_retry_after([("retry-after-ms", str(milliseconds))], 0.0)
    in_seconds = parse_retry_after([("retry-after", f"{milliseconds / 1000:.3f}")], 0.0)

    assert in_seconds == in_milliseconds == milliseconds / 1000


TRANSIENT, CREDENTIAL, PERMANENT = FailureKind.TRANSIENT, FailureKind.CREDENTIAL, FailureKind.PERMANENT
NOT_OFFERED = FailureKind.NOT_OFFERED


@pytest.mark.parametrize(
    ("status", "body", "kind", "advice"),
    [
        (None, b"", TRANSIENT, ""),
        (200, b"<html>", NOT_OFFERED, "no WebSocket is offered"),
        (299, b"", NOT_OFFERED, "no WebSocket is offered"),
        (300, b"", PERMANENT, "redirects are never followed"),
        (302, b"", PERMANENT, "redirects are never followed"),
        (399, b"", PERMANENT, "redirects are never followed"),
        (400, b"", PERMANENT, "does not accept this request"),
        (400, b'{"error": {"code": "invalid_api_key"}}', CREDENTIAL, "check the API key"),
        (400, b'{"error": {"code": "insufficient_quota"}}', PERMANENT, "a quota or a credit is spent"),
        (404, b'{"error": {"code": "invalid_api_key"}}', NOT_OFFERED, "no WebSocket is offered"),
        (401, b"", CREDENTIAL, "check the API key"),
        (403, b"", TRANSIENT, "this is the edge and not the API"),
        (403, b"<html>", TRANSIENT, "this is the edge and not the API"),
        (403, b'{"error": {}}', CREDENTIAL, "check the API key"),
        (403, b' \n{"error": {}}', CREDENTIAL, "check the API key"),
        (404, b"{}", NOT_OFFERED, "no WebSocket is offered"),
        (405, b"", NOT_OFFERED, "no WebSocket is offered"),
        *((status, b"", TRANSIENT, "asks for another try") for status in (408, 409, 423, 425, 460, 499)),
        (402, b"", PERMANENT, "see to its billing"),
        (407, b"", PERMANENT, "name it with proxy="),
        (410, b"", PERMANENT, "use the new one"),
        (426, b"", NOT_OFFERED, "no WebSocket is offered"),
        (451, b"", PERMANENT, "for legal reasons"),
        (501, b"", NOT_OFFERED, "no WebSocket is offered"),
        *((status, b"", PERMANENT, "does not accept this request") for status in (505, 506, 508, 510)),
        (511, b"", PERMANENT, "sign in first"),
        (429, b"{}", TRANSIENT, "wait, or lower max_size"),
        (500, b"", TRANSIENT, "try again later"),
        (503, b'{"error": {"code": "server_is_overloaded"}}', TRANSIENT, "try again later"),
    ],
)
def test_a_status_says_who_must_act(status: int | None, body: bytes, kind: FailureKind, advice: str) -> None:
    """The key, the address, or nobody: and what to do stands in the message."""
    failure = classify_dial("the server said no", phase="upgrade", status=status, body=body)

    assert kind is failure.kind
    assert (kind is not TRANSIENT) == failure.permanent
    assert failure.message.startswith("the server said no")
    assert advice in failure.message
    assert bool(advice) == ("; " in failure.message)
    assert (status, "upgrade") == (failure.status, failure.phase)


def test_a_refused_certificate_is_for_the_caller() -> None:
    """No waiting makes a certificate good; what to do, the wire has said."""
    expected = DialFailure(kind=PERMANENT, message="certificate has expired", phase="tls")

    assert expected == classify_dial("certificate has expired", phase="tls", certificate=True)


def test_what_the_answer_says_is_handed_on() -> None:
    """Its words stand in the message, before what to do, and its code beside it."""
    body = b'{"error": {"code": "odd", "message": "not today"}}'
    failure = classify_dial("refused", phase="upgrade", status=400, body=body)

    assert "odd" == failure.code
    assert failure.message.startswith("refused (")
    assert "not today" in failure.message


def test_a_wait_is_handed_on() -> None:
    """What the server asked for is kept beside what it means; how long a pool keeps it is bounded."""
    failure = classify_dial("busy", phase="upgrade", status=503, headers=[("Retry-After", "30")])
    dated = [("Retry-After", "Thu, 01 Jan 1970 00:01:40 GMT")]
    assert 30.0 == classify_dial("busy", phase="upgrade", status=503, headers=dated, wall_clock=70.0).hold
    absurd = classify_dial("busy", phase="upgrade", status=503, headers=[("Retry-After", "86400")])

    assert (30.0, 30.0) == (failure.retry_after, failure.hold)
    assert (86400.0, MAX_RETRY_AFTER) == (absurd.retry_after, absurd.hold)
    assert 0.0 == classify_dial("busy", phase="upgrade", status=503).hold


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (None, FailureKind.TRANSIENT),
        (101, FailureKind.PERMANENT),
        (302, FailureKind.PERMANENT),
        (400, FailureKind.PERMANENT),
        (401, FailureKind.PERMANENT),
        (404, FailureKind.PERMANENT),
        (407, FailureKind.PERMANENT),
        (408, FailureKind.TRANSIENT),
        (409, FailureKind.PERMANENT),
        (425, FailureKind.TRANSIENT),
        (426, FailureKind.PERMANENT),
        (429, FailureKind.TRANSIENT),
        (500, FailureKind.TRANSIENT),
        (501, FailureKind.PERMANENT),
        (503, FailureKind.TRANSIENT),
        (511, FailureKind.PERMANENT),
        (520, FailureKind.TRANSIENT),
    ],
)
def test_a_proxy_speaks_for_itself(status: int | None, kind: FailureKind) -> None:
    """What a proxy answers is never taken for a bad key or a wrong path."""
    failure = classify_dial("refused", phase="proxy", status=status)

    assert kind is failure.kind
    assert ("proxy" in failure.message) is failure.permanent
    assert ("; check the proxy's URL and its credentials" in failure.message) is failure.permanent
