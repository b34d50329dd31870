"""What a failed dial means: who must act, and whether waiting can help.

The wire reports facts (phase, HTTP status, headers, body); this module says what they mean. What the body
says (`wspool.core.server_error`) counts before the status, and is told.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Final, NamedTuple

import attrs

from wspool.core.meanings import Meaning
from wspool.core.plain import plain
from wspool.core.server_error import ServerError, parse_http_error
from wspool.core.waits import MAX_RETRY_AFTER, wait_in_headers as parse_retry_after

__all__ = ["MAX_RETRY_AFTER", "DialFailure", "FailureKind", "classify_dial", "parse_retry_after"]


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
        code: the code in the body of that answer, or None.
    """

    kind: FailureKind
    message: str
    phase: str
    status: int | None = None
    retry_after: float | None = None
    code: str | None = None

    @property
    def permanent(self) -> bool:
        """True when waiting cannot help."""
        return self.kind not in (FailureKind.TRANSIENT, FailureKind.LOCAL)

    @property
    def hold(self) -> float:
        """How many seconds nobody shall dial at least, as the server asked; 0 where it did not.

        At most `MAX_RETRY_AFTER`: to look once an hour troubles nobody, and a pool that one wrong header
        turned off would never find out.
        """
        return min(self.retry_after or 0.0, MAX_RETRY_AFTER)


class _Verdict(NamedTuple):
    """What a status of a refused upgrade means: who must act, and what to do."""

    kind: FailureKind
    advice: str


_NO_WEBSOCKET: Final = _Verdict(
    FailureKind.NOT_OFFERED, "no WebSocket is offered at this path; check the URL"
)
_REDIRECT: Final = _Verdict(FailureKind.PERMANENT, "redirects are never followed; use the final URL")
_REFUSED: Final = _Verdict(
    FailureKind.PERMANENT, "the endpoint does not accept this request; check the URL and the headers"
)
_TROUBLE: Final = _Verdict(FailureKind.TRANSIENT, "the endpoint is in trouble; try again later")
_AGAIN: Final = _Verdict(FailureKind.TRANSIENT, "the endpoint asks for another try")

#: Verdicts by status, and why. What is not here is judged by its hundred: see `_verdict`.
_VERDICTS: Final = {
    401: _Verdict(FailureKind.CREDENTIAL, "check the API key and what it may use"),
    # Nobody pays while we wait.
    402: _Verdict(FailureKind.PERMANENT, "the account has no credit; see to its billing"),
    # With JSON the API speaks, and means the key. Else it is the edge: the same key passes a moment later.
    403: _Verdict(
        FailureKind.TRANSIENT,
        "this is the edge and not the API; try again, and check that your network is allowed",
    ),
    # HTTP is answered here: whoever can fall back to it does so. 501 says it of the upgrade itself.
    404: _NO_WEBSOCKET,
    405: _NO_WEBSOCKET,
    426: _NO_WEBSOCKET,
    501: _NO_WEBSOCKET,
    # From behind the upgrade this is a proxy that nobody told us of.
    407: _Verdict(FailureKind.PERMANENT, "a proxy on the way wants credentials; name it with proxy="),
    # Each of these says by its definition that the same request may be sent again.
    408: _AGAIN,
    425: _AGAIN,
    # Taken by another request, or another session.
    409: _AGAIN,
    423: _AGAIN,
    # A gateway's own client has gone (nginx, AWS).
    460: _AGAIN,
    499: _AGAIN,
    410: _Verdict(FailureKind.PERMANENT, "the address is gone; use the new one"),
    429: _Verdict(FailureKind.TRANSIENT, "too many requests or connections; wait, or lower max_size"),
    451: _Verdict(FailureKind.PERMANENT, "it is not offered where you are, for legal reasons"),
    # The way this request is made, which stays the same: HTTP/1.1, negotiation, extensions, a loop.
    505: _REFUSED,
    506: _REFUSED,
    508: _REFUSED,
    510: _REFUSED,
    511: _Verdict(FailureKind.PERMANENT, "this network wants you to sign in first"),
}

#: What the words of the answer say counts before its status.
_BY_MEANING: Final = {
    Meaning.SPENT: _Verdict(
        FailureKind.PERMANENT, "a quota or a credit is spent; see to its limits and billing"
    ),
    Meaning.CREDENTIAL: _VERDICTS[401],
    Meaning.RATE: _VERDICTS[429],
    Meaning.PASSING: _TROUBLE,
}


def _verdict(status: int | None, error: ServerError, body: bytes) -> _Verdict:
    """Return what a refusal of the upgrade itself means."""
    if status is None:
        return _Verdict(FailureKind.TRANSIENT, "")
    if status == 403 and body.lstrip()[:1] == b"{":
        status = 401
    known = _VERDICTS.get(status)
    # An answer of this protocol names its reason, whatever status a gateway has put on it.
    if status >= 400 and (meaning := error.named_meaning) in _BY_MEANING and known is not _NO_WEBSOCKET:
        return _BY_MEANING[meaning]
    if known is not None:
        return known
    if 200 <= status < 300:
        return _NO_WEBSOCKET  # a page
    if 300 <= status < 400:
        return _REDIRECT
    # A 4xx is about the request, and each dial makes the same; a 5xx, or a status of nobody's, is not.
    return _REFUSED if 400 <= status < 500 else _TROUBLE


def _passes_at_proxy(status: int) -> bool:
    """Whether a proxy that opened no tunnel may open one a little later: its trouble, and not its rule.

    Redirects are not followed here either (a network that wants you to sign in sends them), what answers
    CONNECT with 101 is no proxy, and one that does not implement it (501) will not.
    """
    return status in (408, 425, 429) or (status >= 500 and status not in _VERDICTS)


def classify_dial(
    message: str,
    *,
    phase: str,
    status: int | None = None,
    headers: Sequence[tuple[str, str]] = (),
    body: bytes = b"",
    certificate: bool = False,
    shortage: bool = False,
    wall_clock: float = 0.0,
) -> DialFailure:
    """Say what a failed dial means.

    Args:
        message: what the wire said, one line.
        phase: the step that failed.
        status: HTTP status of the answer to the upgrade, or None.
        headers: that answer's headers.
        body: the beginning of that answer's body.
        certificate: True when the peer's certificate was refused.
        shortage: True when this process, or its machine, could open no more files or sockets.
        wall_clock: seconds since the epoch, to which dates in retry hints are compared.
    """
    # 0 is the status of none. Whatever was heard all the same counts.
    error = parse_http_error(status or 0, headers, body, wall_clock=wall_clock)
    verdict = _Verdict(FailureKind.TRANSIENT, "")
    if shortage:
        advice = "raise this process's limit of open files (ulimit -n), or lower max_size"
        verdict = _Verdict(FailureKind.LOCAL, advice)
    elif certificate:
        verdict = _Verdict(FailureKind.PERMANENT, "")
    elif phase != "proxy":
        verdict = _verdict(status, error, body)
    # The proxy speaks for itself: what it says is not about our key or our path.
    elif status is not None and not _passes_at_proxy(status):
        verdict = _Verdict(FailureKind.PERMANENT, "check the proxy's URL and its credentials")
    said = f" ({error.words})" if error.words else ""
    return DialFailure(
        kind=verdict.kind,
        message="; ".join(filter(None, (plain(message) + said, verdict.advice))),
        phase=phase,
        status=status,
        code=error.code,
        retry_after=error.retry_after,
    )
