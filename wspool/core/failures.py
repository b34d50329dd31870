"""What a failed dial means: who must act, and whether waiting can help.

The wire reports facts (phase, HTTP status, headers); this module says what they mean.
Statuses are classified as the careful clients of this protocol do: 401 is about the key,
403 with an empty or HTML body is an edge hiccup that the same key later passes, 404 and
426 say that no WebSocket is offered here, as does a page instead of an upgrade, 429 and 5xx ask to
come back later.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

import attrs

__all__ = ["DialFailure", "FailureKind", "classify_dial", "parse_retry_after"]

#: Longest wait a server may impose, in seconds; a longer (absurd) hint is cut to this.
MAX_RETRY_AFTER: Final = 3600.0

_NUMBER: Final = re.compile(r"[0-9]{1,300}(\.[0-9]{1,300})?")


class FailureKind(enum.Enum):
    """Who must act on a failed dial."""

    #: Nobody: it may work in a moment.
    TRANSIENT = "transient"
    #: This process: it can open no more for the moment. Nothing is known about the endpoint.
    LOCAL = "local"
    #: The caller: the credential was refused.
    CREDENTIAL = "credential"
    #: The caller: HTTP is answered at this address, and no WebSocket is offered.
    NOT_OFFERED = "not_offered"
    #: The caller: the address, the certificate or the service is wrong.
    PERMANENT = "permanent"


@attrs.frozen(kw_only=True)
class DialFailure:
    """Why a dial failed.

    Attributes:
        kind: who must act.
        message: one line: what happened and what to do.
        phase: the step that failed.
        status: HTTP status of the answer to the upgrade, or None.
        retry_after: seconds the server asked to wait, or None.
    """

    kind: FailureKind
    message: str
    phase: str
    status: int | None = None
    retry_after: float | None = None

    @property
    def permanent(self) -> bool:
        """True when waiting cannot help."""
        return self.kind not in (FailureKind.TRANSIENT, FailureKind.LOCAL)


def parse_retry_after(headers: Iterable[tuple[str, str]], wall_clock: float) -> float | None:
    """Return the seconds that *headers* ask to wait, or None.

    Args:
        headers: header pairs, names in any case.
        wall_clock: seconds since the epoch, to which an HTTP date is compared.

    Understands `retry-after-ms`, and `retry-after` as seconds or as an HTTP date
    (RFC 9110 section 10.2.3). Never negative, at most an hour.
    """
    found = {name.lower(): value.strip() for name, value in headers}
    seconds: float | None = None
    if _NUMBER.fullmatch(text := found.get("retry-after-ms", "")):
        seconds = float(text) / 1000
    elif _NUMBER.fullmatch(text := found.get("retry-after", "")):
        seconds = float(text)
    elif text:
        try:
            date = parsedate_to_datetime(text)
            # A date without a zone is UTC too (RFC 9110 section 5.6.7), never local time.
            seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - wall_clock
        except (ValueError, OverflowError):
            return None  # not a date either: as if the server had said nothing
    if seconds is None:
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)


def classify_dial(
    message: str,
    *,
    phase: str,
    status: int | None = None,
    body: bytes = b"",
    certificate: bool = False,
    shortage: bool = False,
    retry_after: float | None = None,
) -> DialFailure:
    """Say what a failed dial means.

    Args:
        message: what the wire said, one line.
        phase: the step that failed.
        status: HTTP status of the answer to the upgrade, or None.
        body: the beginning of that answer's body.
        certificate: True when the peer's certificate was refused.
        shortage: True when this process, or its machine, could open no more files or sockets.
        retry_after: seconds the server asked to wait, or None.
    """
    kind = FailureKind.TRANSIENT
    advice = ""
    if shortage:
        kind = FailureKind.LOCAL
        advice = "raise this process's limit of open files (ulimit -n), or lower max_size"
    elif certificate:
        kind = FailureKind.PERMANENT
    elif phase == "proxy":
        # The proxy speaks for itself: what it says is not about our key or our path.
        if status is not None and 400 <= status < 500 and status != 429:
            kind = FailureKind.PERMANENT
            advice = "check the proxy's URL and its credentials"
    elif status == 401 or (status == 403 and body.lstrip()[:1] == b"{"):
        kind = FailureKind.CREDENTIAL
        advice = "check the API key and what it may use"
    elif status in (404, 405, 426) or (status is not None and 200 <= status < 300):
        kind = FailureKind.NOT_OFFERED
        advice = "no WebSocket is offered at this path; check the URL"
    elif status is not None and 300 <= status < 400:
        kind = FailureKind.PERMANENT
        advice = "redirects are never followed; use the final URL"
    elif status == 400:
        kind = FailureKind.PERMANENT
        advice = "the endpoint does not accept this request; check the URL and the headers"
    elif status == 403:
        advice = "this is the edge and not the API; try again, and check that your network is allowed"
    elif status == 429:
        advice = "too many requests or connections; wait, or lower max_size"
    elif status is not None and status >= 500:
        advice = "the endpoint is in trouble; try again later"
    return DialFailure(
        kind=kind,
        message=f"{message}; {advice}" if advice else message,
        phase=phase,
        status=status,
        retry_after=retry_after,
    )
