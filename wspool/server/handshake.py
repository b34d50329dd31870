"""The handshake: what comes before the first frame, and how a test can spoil it.

A `Rejection` is one answer to one dial. Every one of them is something that endpoints of this protocol, or
the gateways before them, have been seen to do.
"""

import http
import json
from collections.abc import Mapping
from typing import Final

import attrs
import h11

from wspool.server.models import TurnError

__all__ = ["Rejection", "header", "is_upgrade", "response_head", "responses_path"]


@attrs.frozen(kw_only=True)
class Rejection:
    """How one handshake is turned down."""

    status: int | None = 503
    """The HTTP status. 101: accept, then close at once with `close_code`. None: never answer."""
    headers: Mapping[str, str] = attrs.field(factory=dict[str, str])
    """Such as `Retry-After`."""
    body: bytes = b""
    """Sent as it is; edges have been seen to send nothing, and HTML."""
    close_code: int = 1008
    """The close code that follows if it was accepted."""
    delay: float = 0.0
    """Seconds before the answer."""

    @classmethod
    def of(cls, error: TurnError) -> "Rejection":
        """A rejection that says *error*, as the API itself does over HTTP."""
        return cls(
            status=error.status,
            headers={"Content-Type": "application/json", **(error.headers or {})},
            body=json.dumps({"error": error.body()}).encode(),
        )


# Real endpoints differ in what they put before it (`/v1`, `/openai/v1`, nothing), so any prefix will do.
_SUFFIX: Final = "/responses"


def responses_path(request: h11.Request) -> bool:
    """Whether the request is for the Responses API, whatever comes before it in the path."""
    return request.target.decode("ascii").partition("?")[0].endswith(_SUFFIX)


def header(request: h11.Request, name: bytes) -> str:
    """One header, its name in lower case; empty if it is missing."""
    for key, value in request.headers:
        if key == name:
            return value.decode("latin-1")
    return ""


def is_upgrade(request: h11.Request) -> bool:
    """Whether the request wants to become a WebSocket connection."""
    return header(request, b"upgrade").lower() == "websocket"


def response_head(rejection: Rejection, request_id: str) -> bytes:
    """The bytes of a rejection with an HTTP status; the connection ends after it."""
    status = rejection.status or 500
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unknown"
    lines = [f"HTTP/1.1 {status} {phrase}"]
    lines += [f"{name}: {value}" for name, value in rejection.headers.items()]
    lines += [f"x-request-id: {request_id}", f"Content-Length: {len(rejection.body)}"]
    lines += ["Connection: close", "", ""]
    return "\r\n".join(lines).encode("latin-1") + rejection.body
