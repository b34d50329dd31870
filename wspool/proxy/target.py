"""Target: what a request asks for, and where that is at the provider.

Pure. Programs differ in what they put before a path: `/v1`, nothing, `/v1/v1` because a base URL had it
already, or the whole path of another endpoint. Rules of this module:

* The endpoint is the one that the proxy was started with. A request names a path below it and nothing else:
  no host, no step up (`..`, also encoded).
* `/s/NAME` before all of it names a session.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote, urlsplit

import attrs

__all__ = ["Target", "Upstream"]

_SESSION: Final = re.compile(r"/s/([^/]{1,128})(?=/|$)")
_SLASHES: Final = re.compile(r"/{2,}")

#: A step up, or a separator, that another reader might see in a path.
_STEP: Final = re.compile(r"(?:^|[/\\])\.{1,2}(?:[/\\]|$)|\\|\x00")


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
        path = _SLASHES.sub("/", path)
        session = None
        if (named := _SESSION.match(path)) is not None:
            session, path = unquote(named[1]), path[named.end() :] or "/"
        prefix = upstream.prefix
        if prefix and (path == prefix or path.startswith(prefix + "/")):
            path = path[len(prefix) :]
        while path == "/v1" or path.startswith("/v1/"):
            path = path[len("/v1") :]
        if path.endswith("/responses/"):
            path = path[:-1]
        return cls(path or "/", query, session)

    def at(self, upstream: Upstream) -> str:
        """Return its URL at the provider, for HTTP."""
        return upstream.base + self.path + (f"?{self.query}" if self.query else "")
