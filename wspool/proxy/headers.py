"""Headers: which of them pass the proxy, in both directions. One table.

Pure. Rules of this module:

* What a client says of itself to the provider passes by name; all else stays here: cookies, where it came
  from, what proxies before us said, the token of this proxy, and whatever its own `Connection` names.
* What the provider answers passes, but for what is about one connection (RFC 9110 section 7.6.1), and what
  would tell a browser something about this proxy: cookies, cross-origin rights, alternative addresses.
* Bodies are passed as they are, so that what says how they are encoded passes with them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import h11

__all__ = ["Fields", "answered", "asked", "credentials", "header", "listed"]

#: Header fields: names in lower case, values as they came.
Fields = Iterable[tuple[bytes, bytes]]

_ASKED: Final = re.compile(
    rb"(?:accept|accept-encoding|accept-language|content-type|content-encoding|content-language"
    rb"|content-disposition|user-agent|originator|version|idempotency-key|range|if-[a-z-]+|traceparent|tracestate"
    rb"|x-request-id|x-client-request-id|session[-_]id|conversation[-_]id|thread-id|x-title|http-referer"
    rb"|(?:openai|x-openai|chatgpt|x-codex|x-stainless|x-session|x-ms|x-goog|anthropic|copilot|editor)-[a-z0-9_-]+)"
)

#: What says on whose account something is asked: nothing beside a key that is not the client's.
_ACCOUNT: Final = re.compile(rb"openai-(?:organization|project)|chatgpt-account-id")

#: What is a credential, in all its spellings.
_CREDENTIAL: Final = re.compile(rb"(?:.*-)?(?:authorization|auth|api-?key)")

_OF_WHO: Final = re.compile(b"|".join([_CREDENTIAL.pattern, _ACCOUNT.pattern]))

_OF_CONNECTION: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)

_OF_BROWSER: Final = re.compile(
    rb"set-cookie2?|alt-svc|strict-transport-security|access-control-.*|clear-site-data|nel|report-to"
    rb"|reporting-endpoints|service-worker-allowed"
)


def asked(headers: Fields, *, credentials: bool) -> list[tuple[bytes, bytes]]:
    """Return what of a request's *headers* the provider is told.

    Args:
        credentials: the client's own are for the provider, and so is on whose account it asks.
    """
    given = list(headers)
    named = listed(given, b"connection")
    return [
        (name, value)
        for name, value in given
        if name not in named
        and name not in _OF_CONNECTION
        and (credentials if _OF_WHO.fullmatch(name) else _ASKED.fullmatch(name))
    ]


def credentials(headers: Fields) -> list[str]:
    """Return the credentials among a request's *headers*, without what says their kind."""
    return [
        value.decode("latin-1").strip().rpartition(" ")[2]
        for name, value in headers
        if _CREDENTIAL.fullmatch(name)
    ]


def answered(headers: Fields) -> list[tuple[str, str]]:
    """Return what of an answer's *headers* the client is told."""
    given = list(headers)
    named = listed(given, b"connection") | _OF_CONNECTION
    return [
        (name.decode("ascii"), value.decode("latin-1"))
        for name, value in given
        if name not in named and not _OF_BROWSER.fullmatch(name)
    ]


def listed(headers: Fields, field: bytes) -> set[bytes]:
    """Return what is listed in a *field* of *headers*, in lower case, however often that is there."""
    return {token.strip().lower() for name, value in headers if name == field for token in value.split(b",")}


def header(request: h11.Request, name: bytes) -> str:
    """Return one header of *request*, its name in lower case; empty if it is missing."""
    return next((value.decode("latin-1") for key, value in request.headers if key == name), "")
