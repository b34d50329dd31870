"""What goes with the upgrade request beside the handshake itself: the caller's headers, the key, who we are.

Rules of this module:

* All of it is checked where it is written, and no text shows a value.
* A key that nobody passed is one that the environment has for this very host (`wspool.core.providers`).
* One credential, one place: what a header carries is not sent a second time.
"""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, TypeAlias, cast

from wspool.core.policy import Provider
from wspool.core.providers import header_of, key_variable
from wspool.core.version import VERSION
from wspool.pool.credentials import ApiKey, discreet, names_a_secret, secret_source
from wspool.pool.setup import Headers
from wspool.wire.headers import check_headers
from wspool.wire.url import is_loopback
from wspool.wire.wire import Endpoint

__all__ = ["USER_AGENT", "GivenHeaders", "pairs_of", "upgrade_headers"]

#: Headers as a caller may write them.
GivenHeaders: TypeAlias = Mapping[str, str] | Iterable[tuple[str, str]]

#: Who asks, unless the caller says it. There are edges that refuse whoever does not say.
USER_AGENT: Final = f"wspool/{VERSION}"

#: Headers that say how the connection itself is made: a second one makes proxies and servers disagree.
_HANDSHAKE: Final = frozenset(
    {"connection", "content-length", "host", "proxy-authorization", "transfer-encoding", "upgrade"}
)

#: Names of headers that are the key itself, with whatever prefix: api-key, x-api-key, x-goog-api-key.
_KEY: Final = re.compile(r"(?:.+-)?api-?key", re.IGNORECASE)


@discreet
def upgrade_headers(
    api_key: ApiKey | None, given: GivenHeaders, endpoint: Endpoint, provider: Provider
) -> tuple[bool, Callable[[], Awaitable[Headers]]]:
    """Return whether the credential can be renewed, and what gives all headers of one dial.

    Raises:
        ValueError, TypeError: a header or the key cannot be sent, or there is no key.
    """
    fixed = pairs_of(given)
    check_headers(fixed)
    for name, _ in fixed:
        _check_name(name)
    names = {name.lower() for name, _ in fixed}
    _check_key_header(provider.key_header)
    taken = provider.key_header.lower() in names
    if taken and api_key is not None:
        raise ValueError(f"pass the credential as api_key= or as header {provider.key_header!r}, not as both")
    if api_key is None and not (taken or any(map(_KEY.fullmatch, names))):
        api_key = _default_key(endpoint, names)
    source = secret_source(api_key) if api_key is not None else None
    if "user-agent" not in names:
        fixed = (("User-Agent", USER_AGENT), *fixed)

    async def ask_headers() -> Headers:
        if source is None:
            return fixed
        # Built here for one dial and kept nowhere.
        return (*fixed, header_of((await source()).reveal(), provider))

    return callable(api_key), ask_headers


def pairs_of(given: GivenHeaders) -> tuple[tuple[str, str], ...]:
    """Return what the caller wrote as pairs; what they hold is checked later.

    Raises:
        TypeError: it is no mapping, and there are no pairs in it.
    """
    pairs: list[tuple[str, str]] = []
    problem = isinstance(given, (str, bytes))
    try:
        for row in cast("Iterable[Any]", given.items() if isinstance(given, Mapping) else given):
            name, value = row
            pairs.append((name, value))
            problem |= isinstance(row, str)  # of two characters
    except (TypeError, ValueError):
        problem = True
    if problem:  # raised out here: their own text may show a value
        raise TypeError("headers is a mapping of names to values, or pairs of a name and a value")
    return tuple(pairs)


def _check_name(name: str) -> None:
    if name.lower() == "authorization":
        raise ValueError("pass the credential as api_key=, not as a header")
    if name.lower() == "sec-websocket-protocol":
        raise ValueError(f"header {name!r} belongs to the handshake itself; pass subprotocols= instead")
    if name.lower() in _HANDSHAKE or name.lower().startswith("sec-websocket-"):
        raise ValueError(f"header {name!r} belongs to the handshake itself; leave it out")


def _check_key_header(name: str) -> None:
    check_headers([(name, "key")])
    if name.lower() != "authorization":
        _check_name(name)


def _default_key(endpoint: Endpoint, names: Iterable[str]) -> str | None:
    """Return the key that the environment has for this host; None where none is needed."""
    variable = key_variable(endpoint.host)
    key = os.environ.get(variable) if variable is not None else None
    if key is not None or is_loopback(endpoint.host) or any(map(names_a_secret, names)):
        return key
    if variable is not None:
        raise ValueError(f"no API key: set {variable}, or pass api_key=")
    raise ValueError(
        "no API key: pass api_key=, or the header that this endpoint wants (a key of the environment goes to "
        "its own provider only)"
    )
