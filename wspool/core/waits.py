"""How long a server asks to wait, wherever and however it says so.

Headers are asked first, then fields of the body, and only then the wording. Names are compared without case
and without what joins their words, since `retry_after`, `retryAfter` and `Retry-After` are one name. Sources:
RFC 9110 section 10.2.3; the SDKs of OpenAI and Azure (milliseconds); the Codex backend (`resets_at`,
`resets_in_seconds`); Google's `RetryInfo`; the sentences of OpenAI, Azure, Groq, LiteLLM and Gemini.

Rules of this module:

* A wait is what the server said, never cut to what we would like: nobody can plan with a wait that is not
  true. Whether anything here waits that long is another question (`MAX_RETRY_AFTER`).
* It is finite and not negative. More than `LONGEST` is told as that.
* Whatever is no wait says nothing; nothing raises.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

__all__ = [
    "LONGEST",
    "MAX_RETRY_AFTER",
    "number_in",
    "wait_in",
    "wait_in_fields",
    "wait_in_headers",
    "wait_in_text",
]

#: Longest wait that is told, in seconds: a leap year. Nobody means more, and clocks hold it.
LONGEST: Final = 366 * 86400.0

#: Longest wait that a pool keeps by itself because a server asked for it, in seconds. A daily limit is for
#: the caller: nobody wants a call that sleeps until tomorrow, and one wrong header must not turn a pool off.
MAX_RETRY_AFTER: Final = 3600.0

#: Characters of a sentence in which a wait is looked for.
_LONGEST_TEXT: Final = 4000

#: Numbers above it are moments in milliseconds; in seconds they would be in the year 5138.
_MILLISECONDS_FROM: Final = 1e11
#: No number that means anything is larger.
_LAST: Final = 1e15

_NUMBER: Final = re.compile(r"[0-9]{1,300}(\.[0-9]{1,300})?")

# Names of headers and fields, joined. In the order of their precision: a distance is as good as the network,
# a moment only as good as two clocks.
_IN_MILLISECONDS: Final = frozenset(
    {"retryafterms", "retryaftermilliseconds", "xmsretryafterms", "retrydelayms", "resetafterms"}
)
_IN_SECONDS: Final = frozenset(
    {
        "retryafter",
        "retryafterseconds",
        "retryaftersecs",
        "retryinseconds",
        "retryin",
        "retrydelay",
        "retrydelayseconds",
        "resetafter",
        "resetafterseconds",
        "resetsafter",
        "resetsafterseconds",
        "resetinseconds",
        "resetsinseconds",
        "resetsin",
        "resetin",
        "waitseconds",
        "cooldownseconds",
    }
)
_MOMENTS: Final = frozenset({"resetsat", "resetat", "retryat", "retryafterat", "resettime", "resetstime"})

#: What stands before a wait in a sentence: "Please try again in 1m30s", "Please retry after 34 seconds".
_BEFORE: Final = re.compile(
    r"\b(?:try again|retry|retrying|retried|wait|resets?|available again)"
    r" ?(?:again )?(?:in|after|for)? ?(?:about |approximately |at least )?(?=[0-9])",
    re.IGNORECASE,
)
#: One part of it, and what joins it to the next: "1h", "2 minutes and", "30.5s".
_PART: Final = re.compile(
    r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?"
    r"(ms|msecs?|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?)(?![a-z])"
    r",? ?(?:and )?",
    re.IGNORECASE,
)
_PARTS: Final = 5
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def wait_in_headers(headers: Iterable[tuple[str, str]], wall_clock: float) -> float | None:
    """Return the seconds that *headers* ask to wait, or None.

    Args:
        headers: header pairs, names in any case.
        wall_clock: seconds since the epoch, to which a date is compared.

    Understands `retry-after-ms`, and `retry-after` as seconds or as an HTTP date (RFC 9110 section 10.2.3).
    """
    return wait_in_fields(dict(headers), wall_clock)


def wait_in_fields(fields: Mapping[str, Any], wall_clock: float) -> float | None:
    """Return the seconds that *fields*, of a body or of headers, ask to wait, or None."""
    known: dict[str, Any] = {}
    for name, value in fields.items():
        if len(name) <= 32:
            known.setdefault("".join(filter(str.isalpha, name)).lower(), value)
    for names, read in ((_IN_MILLISECONDS, _milliseconds), (_IN_SECONDS, wait_in), (_MOMENTS, _moment)):
        for name, value in known.items():
            if name in names and (wait := read(value, wall_clock)) is not None:
                return wait
    return None


def wait_in_text(text: str) -> float | None:
    """Return the seconds that a sentence asks to wait, or None: the last resort."""
    text = text[:_LONGEST_TEXT]
    for before in _BEFORE.finditer(text):
        if (wait := _duration(text, before.end())) is not None:
            return wait
    return None


def _duration(text: str, at: int, *, whole: bool = False) -> float | None:
    """Return the seconds of the duration at *at*; None if there is none, or more if *whole* forbids it."""
    seconds: float | None = None
    for _ in range(_PARTS):
        part = _PART.match(text, at)
        if part is None:
            break
        unit = part[2].lower()
        key = "ms" if unit.startswith(("ms", "milli")) else unit[0]
        seconds = (seconds or 0.0) + float(part[1]) * _UNITS[key]
        at = part.end()
    return None if seconds is None or (whole and at < len(text)) else _bounded(seconds)


def wait_in(value: object, wall_clock: float) -> float | None:
    """Return the seconds that *value* is: a number, a duration ("6m0s") or a date, else None."""
    if not isinstance(value, str):
        return _bounded(number) if (number := number_in(value)) is not None else None
    text = value.strip()[:_LONGEST_TEXT]
    if _NUMBER.fullmatch(text):
        return _bounded(float(text))
    return _duration(text, 0, whole=True) if text[:1].isdecimal() else _date(text, wall_clock)


def _milliseconds(value: object, wall_clock: float) -> float | None:
    number = number_in(value)
    return None if number is None else _bounded(number / 1000)


def _moment(value: object, wall_clock: float) -> float | None:
    """Return the seconds from now until *value*: since the epoch, or a date. It may be over: then 0."""
    if not wall_clock:
        return None  # nobody knows what time it is
    number = number_in(value)
    if number is None:
        return _date(value.strip()[:_LONGEST_TEXT], wall_clock) if isinstance(value, str) else None
    return _bounded((number / 1000 if number > _MILLISECONDS_FROM else number) - wall_clock)


def _date(text: str, wall_clock: float) -> float | None:
    """Return the seconds from now until an HTTP date, or one of ISO 8601. It may be over: then 0."""
    try:
        date = datetime.fromisoformat(text) if text[:4].isdecimal() else parsedate_to_datetime(text)
        # A date without a zone is UTC too (RFC 9110 section 5.6.7), never local time.
        moment = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None  # not a date either: as if the server had said nothing
    return _bounded(moment - wall_clock)


def number_in(value: object) -> float | None:
    """Return *value*, a number or its digits, if it is not negative; at most what can be a moment."""
    if isinstance(value, str):
        text = value.strip()
        return min(float(text), _LAST) if _NUMBER.fullmatch(text) else None
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not value >= 0:
        return None  # also what is not a number, by name
    # Compared before it is converted: a server may send an int that no float can hold.
    return float(min(value, _LAST))


def _bounded(seconds: float) -> float:
    return min(max(seconds, 0.0), LONGEST)
