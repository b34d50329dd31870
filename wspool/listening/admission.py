"""Who may ask: what a server on a developer's machine believes of whoever reaches it.

Pure. A browser on the same machine is the way in for a stranger: any page can send a request to a loopback
port, open a WebSocket to it, or have its own name resolve to it (DNS rebinding). The rules:

1. A server with a key answers whoever shows it, from wherever, and nobody else. Keys are compared in a time
   that does not depend on where they differ.
2. A server without a key answers programs of its own machine only. So it listens on loopback addresses only,
   and a request has to ask for a loopback name (`Host`), which a page of a rebound name does not.
3. Without a key a page may ask only if it comes from this machine itself (`Origin`); a program sends no
   `Origin` at all. A page that asks without one, as for a picture, is known by `Sec-Fetch-Site`, which none
   can change; whoever follows a link looks at the answer instead of the page. Source: Fetch Metadata, 2.
4. A preflight can show no key, so it needs none. What it announces does.
"""

import functools
import hmac
import ipaddress
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

import attrs

from wspool.listening.errors import TurnError

__all__ = ["Admission", "Headers", "is_loopback", "is_preflight", "not_authorized"]

#: Header fields of a request, names in lower case.
Headers = Iterable[tuple[bytes, bytes]]

_HOW: Final = "ask for it as 127.0.0.1 or localhost, or start it with a key and show that"


def not_authorized() -> TurnError:
    """The error for a wrong or missing key; it does not repeat what the client sent."""
    return TurnError(
        type="invalid_request_error",
        code="invalid_api_key",
        message="Incorrect API key provided.",
        status=401,
    )


@attrs.frozen(kw_only=True)
class Admission:
    """The rules of one server."""

    api_key: str | None = attrs.field(default=None, repr=False)
    """What clients must show, as `Authorization: Bearer` or, as on Azure, as `api-key`; None is nothing."""
    allowed: frozenset[str] = frozenset()
    """Without a key: further names that may be asked for, in lower case, such as `host.docker.internal`."""
    names_checked: bool = True
    """Without a key: `Host` and `Origin` are. Not for connections that begin in this very process."""

    def refusal(self, method: bytes, headers: Headers) -> TurnError | None:
        """Why a request is turned down, or None. Every request is asked about, not only the first."""
        fields = [(name, value.decode("latin-1").strip()) for name, value in headers]
        if self.api_key is not None:
            if is_preflight(method, headers) or _shows(self.api_key, fields):
                return None
            return not_authorized()
        return _misplaced(fields, self.allowed) if self.names_checked else None

    def may_listen(self, address: str) -> bool:
        """Whether a listener on this IP address is safe: with a key anywhere, without one on loopback."""
        return self.api_key is not None or is_loopback(address)


@functools.lru_cache(maxsize=16)  # each request names its host
def is_loopback(host: str) -> bool:
    """Whether *host* is this machine by its very spelling, whatever a resolver says.

    An IP address from the loopback ranges (in brackets or not), or `localhost`, or a name below that, which
    nobody can own. Source: RFC 6761, 6.3.
    """
    host = host.removesuffix(".").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def is_preflight(method: bytes, headers: Headers) -> bool:
    """Whether a browser asks what a page may ask. Source: the Fetch standard, 3.3."""
    return method == b"OPTIONS" and any(name == b"access-control-request-method" for name, _ in headers)


def _shows(key: str, fields: Iterable[tuple[bytes, str]]) -> bool:
    shown = False
    for name, value in fields:
        if name == b"authorization":
            scheme, _, value = value.partition(" ")
            value = value.strip() if scheme.lower() == "bearer" else ""
        elif name != b"api-key":
            continue
        # Bytes, as strings may be compared only if they are ASCII.
        shown |= hmac.compare_digest(value.encode("utf-8"), key.encode("utf-8"))
    return shown


def _misplaced(fields: Iterable[tuple[bytes, str]], allowed: frozenset[str]) -> TurnError | None:
    names = [_without_port(value) for name, value in fields if name == b"host"]
    if not names or not all(is_loopback(name) or name.lower() in allowed for name in names):
        return _forbidden("host_not_allowed", f"This server is for programs of its own machine: {_HOW}.")
    origins = [value for name, value in fields if name == b"origin"]
    if not all(map(_is_own_page, origins)) or (not origins and _is_part_of_a_page(fields)):
        return _forbidden(
            "origin_not_allowed", f"This server is not for web pages of other origins. Programs: {_HOW}."
        )
    return None


def _forbidden(code: str, message: str) -> TurnError:
    return TurnError(type="invalid_request_error", code=code, message=message, status=403)


def _without_port(authority: str) -> str:
    name, colon, port = authority.rpartition(":")
    return name if colon and port.isdecimal() else authority


def _is_part_of_a_page(fields: Iterable[tuple[bytes, str]]) -> bool:
    said = {name: value for name, value in fields if name.startswith(b"sec-fetch-")}
    return said.get(b"sec-fetch-site") == "cross-site" and said.get(b"sec-fetch-dest") != "document"


def _is_own_page(origin: str) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and is_loopback(_without_port(parts.netloc))
