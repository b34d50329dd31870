"""Target: what a request asks for, and where that is at the provider.

Pure. Programs differ in what they put before a path: `/v1`, nothing, `/v1/v1` because a base URL had it
already, or the whole path of another endpoint. Rules of this module:

* The endpoint is the one that the proxy was started with. A request names a path below it and nothing else:
  no host, no step up (`..`, also encoded), no control character.
* `/s/NAME` before all of it names a session, and is nothing else. NAME is one segment, never what comes after
  it: it is read before slashes that are too many are taken away.
* Something has to be below what stands before it: `/v1` and `/s/NAME` alone are no path.
* One path, one spelling: what need not be encoded is decoded, so that no other spelling takes another way.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote, urlsplit

import attrs

__all__ = ["Target", "Upstream"]

#: What is a session's: all that begins so.
_SESSIONS: Final = re.compile(r"/+s(?:/([^/]*))?(?=/|$)")
_SLASHES: Final = re.compile(r"/{2,}")

#: Characters of the name of a session at most, once it is decoded.
_LONGEST: Final = 128

#: A step up, or a separator, that another reader might see in a path, or what no path has.
_STEP: Final = re.compile(r"(?:^|[/\\])\.{1,2}(?:;[^/\\]*)?(?:[/\\]|$)|[\\\x00-\x1f\x7f]")

#: What may be encoded and need not be. Source: RFC 3986, 2.3 and 6.2.2.2.
_PLAIN: Final = re.compile(r"%(?:2[dDeE]|3[0-9]|[46][1-9a-fA-F]|[57][0-9aA]|5[fF]|7[eE])")


@attrs.frozen
class Upstream:
    """The endpoint.

    Attributes:
        url: where WebSockets are, such as `wss://api.openai.com/v1/responses`.
    """

    url: str

    @property
    def base(self) -> str:
        """What stands before every path, without a slash at its end: `https://api.openai.com/v1`."""
        parts = urlsplit(self.url)
        return f"{'https' if parts.scheme == 'wss' else 'http'}://{parts.netloc}{self.prefix}"

    @property
    def prefix(self) -> str:
        """The path of `base`."""
        return urlsplit(self.url).path.rstrip("/").removesuffix("/responses")

    @property
    def host(self) -> str:
        """The name of its host."""
        return urlsplit(self.url).hostname or ""


@attrs.frozen
class Target:
    """What a request asks for.

    Attributes:
        path: below the endpoint, from a slash on: `/responses`.
        query: what stands behind the question mark.
        session: the name that the path gave, if it did.
    """

    path: str
    query: str = ""
    session: str | None = None

    @property
    def is_turns(self) -> bool:
        """Whether turns are there."""
        return self.path == "/responses"

    @classmethod
    def of(cls, target: str, upstream: Upstream) -> Target | None:
        """Return what the request target *target* asks for; None if it is no path that may be asked for."""
        path, _, query = target.partition("?")
        if not path.startswith("/") or "#" in target:
            return None
        decoded = unquote(unquote(path, errors="replace"), errors="replace")  # some decode twice
        if _STEP.search(decoded):
            return None
        path = _PLAIN.sub(lambda found: unquote(found[0]), path)
        session = None
        if (named := _SESSIONS.match(path)) is not None:
            path = path[named.end() :]
            if (session := _name(named[1] or "")) is None or _SESSIONS.match(path):
                return None
        path = whole = _SLASHES.sub("/", path)
        prefix = upstream.prefix
        if prefix and (path == prefix or path.startswith(prefix + "/")):
            path = path[len(prefix) :]
        while path == "/v1" or path.startswith("/v1/"):
            path = path[len("/v1") :]
        if path.endswith("/responses/"):
            path = path[:-1]
        if path in ("", "/") and (session is not None or path != whole):
            return None
        return cls(path, query, session)

    def at(self, upstream: Upstream) -> str:
        """Return its URL at the provider, for HTTP."""
        return upstream.base + self.path + (f"?{self.query}" if self.query else "")


def _name(text: str) -> str | None:
    """Return the name of a session that *text* encodes, None if it is none."""
    try:
        name = unquote(text, errors="strict")
    except UnicodeDecodeError:
        return None
    return name if 1 <= len(name) <= _LONGEST else None
