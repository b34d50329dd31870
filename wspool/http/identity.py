"""Which pool a request is for, which conversation it says it belongs to, or why it goes over plain HTTP.

Rules of this module:

* One pool for each endpoint and identity: what the credential, the organisation, the project and the beta
  headers say. They go with the upgrade; whatever else a header says is about one request only, which a
  connection that carries many cannot say. What is to be said with each upgrade is the door's (`headers`).
* The key of one identity never opens a connection for another.
* Only `POST .../responses` can go over WebSocket: https, and http to this machine.
* A large body is written down by whoever reads it, and not where all turns of the process are.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, Protocol, cast

import attrs

from wspool.core.sending.brought import WrittenBody, http_only
from wspool.wire.url import is_loopback

__all__ = [
    "LARGE",
    "Asked",
    "Identity",
    "Request",
    "Said",
    "is_for_pool",
    "loads",
    "may_be_ours",
    "read_request",
    "said_by",
    "written",
]

#: Bytes from which a body is large. Of so many the reading takes 3 ms, and a thread costs a tenth of one.
LARGE: Final = 2**20

#: Headers that say who asks: a credential in all its spellings, those of gateways, and OpenAI's own. Not any
#: name with "key" or "token" in it: an idempotency key is one request's, a token may be for somebody else.
#: Nor a cookie, which clients change by themselves.
_IDENTITY: Final = re.compile(
    r"(?:.*-)?(?:authorization|auth|api-?key|subscription-key|virtual-key|(?:access|api|auth|security)-token)"
    r"|cf-access-client-(?:id|secret)|openai-(?:organization|project|beta)|chatgpt-account-id"
)

#: What only a message of a WebSocket has. By HTTP it is nothing, or something else: the provider will say.
_OF_MESSAGE: Final = frozenset({"type", "generate", "stream_id"})

#: Headers by which hosts name a conversation (verifiers, Codex, opencode).
_SESSION: Final = frozenset({"x-session-id", "session-id", "session_id", "thread-id", "x-session-affinity"})


class Url(Protocol):
    """What is asked of a URL of httpx."""

    @property
    def scheme(self) -> str: ...
    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int | None: ...
    @property
    def path(self) -> str: ...


class Request(Protocol):
    """What is asked of a request of httpx."""

    @property
    def method(self) -> str: ...
    @property
    def url(self) -> Any: ...
    @property
    def headers(self) -> Any: ...
    @property
    def extensions(self) -> Any: ...


@attrs.frozen
class Identity:
    """One endpoint, and who asks: one pool.

    Attributes:
        url: where WebSockets are.
        headers: what goes with the upgrade, but the key.
        key: the bearer token, if there is one.
    """

    url: str
    headers: tuple[tuple[str, str], ...] = attrs.field(repr=False)
    key: str | None = attrs.field(repr=False)


@attrs.frozen
class Asked:
    """A request that goes over WebSocket.

    Attributes:
        body: its body.
        session: what it says of the conversation that it belongs to.
    """

    identity: Identity
    body: Mapping[str, Any] = attrs.field(repr=False)
    session: tuple[str, ...]


@attrs.frozen
class Said:
    """What the headers of a request say about who asks.

    Attributes:
        key: the bearer token, if there is one.
        headers: what else goes with the upgrade.
        session: what names the conversation.
    """

    key: str | None = attrs.field(repr=False)
    headers: tuple[tuple[str, str], ...] = attrs.field(repr=False)
    session: tuple[str, ...]

    @property
    def has_credential(self) -> bool:
        """Whether there is one, in any spelling."""
        return self.key is not None or not all(
            name.startswith(("openai-", "chatgpt-")) for name, _ in self.headers
        )


def said_by(headers: Iterable[tuple[str, str]]) -> Said | None:
    """Return what *headers* say; None if nobody here knows how to say that in an upgrade."""
    session: list[str] = []
    kept: list[tuple[str, str]] = []
    key: str | None = None
    for name, value in headers:
        match _meaning(name):
            case None:
                pass
            case "session":
                session.append(value)
            case "key":
                scheme, _, token = value.partition(" ")
                if scheme.lower() != "bearer" or not token.strip():
                    return None
                key = token.strip()
            case "identity":
                kept.append((name.lower(), value))
    return Said(key, tuple(sorted(kept)), tuple(session))


@functools.lru_cache(maxsize=256)  # clients send the same few dozen each time
def _meaning(name: str) -> Literal["session", "key", "identity"] | None:
    """Return what the header of that name is about, if it is one of those."""
    name = name.lower()
    if name in _SESSION:
        return "session"
    if name == "authorization":
        return "key"
    return "identity" if _IDENTITY.fullmatch(name) else None


def may_be_ours(request: Request) -> bool:
    """Return whether *request* may go over WebSocket, as far as that can be said without its body."""
    url = cast("Url", request.url)
    return (
        request.method == "POST"
        and url.path.rstrip("/").endswith("/responses")
        and (url.scheme == "https" or (url.scheme == "http" and is_loopback(url.host)))
        and "content-encoding" not in request.headers
    )


def is_for_pool(body: Mapping[str, Any]) -> bool:
    """Return whether *body*, which came by HTTP, may go over WebSocket and mean there what it means here."""
    return http_only(body) is None and _OF_MESSAGE.isdisjoint(body)


def written(body: dict[str, Any]) -> dict[str, Any]:
    """Return *body* written down for the pool; as it is if it cannot be sent, for the pool will say why."""
    try:
        return WrittenBody(body)
    except (TypeError, ValueError):
        return body


def loads(content: bytes | bytearray, *, aside: bool) -> object:
    """Return what a body says. Raises ValueError, RecursionError.

    Args:
        aside: others have their turn between two of its objects: it is large, and this is a thread beside
            theirs. They would wait for all of it else, as for any call of C.
    """
    return json.loads(content, object_hook=_itself if aside else None)


def _itself(value: dict[str, Any]) -> dict[str, Any]:
    return value


def read_request(request: Request, content: bytes) -> Asked | None:
    """Return what *request* asks, None if it goes over plain HTTP.

    Args:
        request: one that `may_be_ours`.
        content: its body.
    """
    large = len(content) >= LARGE
    try:
        body = loads(content, aside=large)
    except (ValueError, RecursionError):
        return None
    if not isinstance(body, dict) or not is_for_pool(given := cast("dict[str, Any]", body)):
        return None
    headers = request.headers
    pairs = cast("list[tuple[bytes, bytes]]", headers.raw)
    encoding = str(headers.encoding)  # it looks through all of them, once
    said = said_by([(name.decode(encoding), value.decode(encoding)) for name, value in pairs])
    if said is None:
        return None
    url = cast("Url", request.url)
    if not said.has_credential and not is_loopback(url.host):
        return None  # no credential: the endpoint will say what it wants
    where = str(request.url)
    scheme = "wss" if url.scheme == "https" else "ws"
    identity = Identity(scheme + where[where.index(":") :], said.headers, said.key)
    return Asked(identity, written(given) if large else given, said.session)
