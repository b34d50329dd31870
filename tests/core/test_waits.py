"""How long a server asks to wait: every place and every spelling."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import given, strategies as st

from wspool.core.waits import LONGEST, wait_in_fields, wait_in_headers, wait_in_text

NOW = 1e9  # Sun, 09 Sep 2001 01:46:40 GMT


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({"retry_after": 3}, 3.0),
        ({"retryAfter": "3"}, 3.0),
        ({"Retry-After": "2.5"}, 2.5),
        ({"retry_after_seconds": 3}, 3.0),
        ({"retry_after": "34s"}, 34.0),
        ({"retryDelay": "34.074824224s"}, 34.074824224),
        ({"retry_delay": "1m30.5s"}, 90.5),
        ({"retry_after": "Sun, 09 Sep 2001 01:46:45 GMT"}, 5.0),
        ({"retry_after_ms": 1500}, 1.5),
        ({"retryAfterMs": "250"}, 0.25),
        ({"retry_after_ms": 1500, "retry_after": 2}, 1.5),
        ({"retry_after_ms": "soon", "retry_after": 2}, 2.0),
        ({"reset_after": 1.5}, 1.5),
        ({"resets_in_seconds": 7200}, 7200.0),
        ({"resets_in_seconds": 7200, "resets_at": NOW + 9}, 7200.0),
        ({"resets_at": NOW + 9}, 9.0),
        ({"resets_at": (NOW + 9) * 1000}, 9.0),
        ({"resetsAt": "1000000009"}, 9.0),
        ({"reset_at": "2001-09-09T01:46:49Z"}, 9.0),
        ({"reset_at": "2001-09-09T03:46:49+02:00"}, 9.0),
        ({"reset_at": "2001-09-09T01:46:49"}, 9.0),
        ({"reset_at": NOW - 9}, 0.0),
        ({"reset_at": []}, None),
        ({"reset_at": -1}, None),
        ({"retry_after": 0}, 0.0),
        ({"retry_after": -1}, None),
        ({"retry_after": True}, None),
        ({"retry_after": None}, None),
        ({"retry_after": float("nan")}, None),
        ({"retry_after": float("inf")}, LONGEST),
        ({"retry_after": 10**400}, LONGEST),
        ({"retry_after": "5 parsecs"}, None),
        ({"retry_after": "5s or so"}, None),
        ({"retry_after": "9 d 9 h 9 m 9 s 9 ms 9 ms"}, None),
        ({"retry" * 10 + "_after": 3}, None),
        ({"retry" + "_" * 22 + "after": 3}, 3.0),
        ({"retry" + "_" * 23 + "after": 3}, None),
        ({"after": 3}, None),
    ],
    ids=repr,
)
def test_a_field_that_names_a_wait_is_one(fields: dict[str, Any], seconds: float | None) -> None:
    """Whatever joins the words of its name, as a number, its digits, a duration or a moment."""
    found = wait_in_fields(fields, NOW)
    assert seconds == (found if found is None else pytest.approx(found))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Please try again in 1m30.5s.", 90.5),
        ("Please try again in 20ms. Visit ...", 0.02),
        ("Please try again in 7h12m3.5s", 25923.5),
        ("try again in 2 minutes and 30 seconds", 150.0),
        ("Try again in 60 seconds. Passed model=m. Try again in 5 seconds.", 60.0),
        ("Please retry after 34 seconds.", 34.0),
        ("Please retry in 53.016342224s.", 53.016342224),
        ("Retry after 2 hours, 3 minutes", 7380.0),
        ("please wait for about 5 secs", 5.0),
        ("Please wait 1 day", 86400.0),
        ("the limit resets in 3h", 10800.0),
        ("retry in 5 minutes", 300.0),
        ("retry in 5 m", 300.0),
        ("retry in 500 milliseconds", 0.5),
        ("retry in 5 months", None),
        ("retry after 2001-09-09", None),
        ("retry 3 times, then wait 4s", 4.0),
        ("it was retried in vain", None),
        ("x" * 4000 + "retry in 5s", None),
        ("retry in 1d1d1d1d1d1d", 432000.0),
    ],
)
def test_a_sentence_that_names_a_wait_is_the_last_resort(text: str, seconds: float | None) -> None:
    """In the words of OpenAI, Azure, Google, Groq and LiteLLM, with any unit."""
    found = wait_in_text(text)
    assert seconds == (found if found is None else pytest.approx(found))


@given(st.floats(0, 1e6), st.sampled_from(["retry_after", "RetryAfter", "resets-in-seconds"]))
def test_a_wait_is_what_was_said(seconds: float, name: str) -> None:
    """Not cut, not rounded."""
    assert seconds == wait_in_fields({name: seconds}, 0.0)


def test_a_moment_needs_a_clock() -> None:
    """Without the time of day it says nothing."""
    assert wait_in_fields({"resets_at": NOW}, 0.0) is None


def test_headers_are_fields_whose_names_are_of_any_case() -> None:
    """A date in them is one by the clock that was given."""
    assert wait_in_headers([("Content-Length", "2"), ("RETRY-AFTER", "7")], NOW) == 7.0
    assert wait_in_headers([("retry-after", "Sun, 09 Sep 2001 01:46:45 GMT")], NOW) == 5.0
    assert wait_in_headers([], NOW) is None


@pytest.fixture
def far_away(monkeypatch: pytest.MonkeyPatch) -> Generator[None, None, None]:
    """Local time is not that of the server."""
    if not hasattr(time, "tzset"):
        pytest.skip("the zone of a process cannot be changed here")
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "FAR+5")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("far_away")
@pytest.mark.parametrize("date", ["2001-09-09T01:46:49", "Sun, 09 Sep 2001 01:46:49"])
def test_a_date_without_a_zone_is_no_local_time(date: str) -> None:
    """RFC 9110 section 5.6.7."""
    assert wait_in_fields({"reset_at": date}, NOW) == 9.0
