"""Errors as a provider words them, and the one that refuses a request.

What HTTP wants to go with a status goes with it: what may be asked instead (405), how to say who asks (401).
"""

from collections.abc import Mapping
from typing import Any, Final

import attrs

__all__ = ["CHALLENGE", "RequestError", "TurnError", "invalid_request", "wrong_method"]

#: What goes with each 401, in lower case as all names of headers may be. Source: RFC 9110, 15.5.2.
CHALLENGE: Final = ("www-authenticate", "Bearer")


@attrs.frozen(kw_only=True)
class TurnError:
    """Why a turn failed or was rejected."""

    message: str
    """What it says."""
    code: str | None = None
    """Its machine-readable code."""
    type: str = "server_error"
    """Its family."""
    param: str | None = None
    """The field that it blames."""
    status: int = 500
    """The HTTP status of a rejection; a failed turn has none."""
    headers: Mapping[str, str] | None = None
    """Such as `Retry-After`. They travel in the error object, as a WebSocket answer has no headers of its
    own.
    """

    def body(self) -> dict[str, Any]:
        """The `error` object, its fields in the order that providers send them."""
        body: dict[str, Any] = {
            "type": self.type,
            "code": self.code,
            "message": self.message,
            "param": self.param,
        }
        return body if self.headers is None else body | {"headers": dict(self.headers)}


class RequestError(Exception):
    """The request is refused; `error` is what the client is told."""

    def __init__(self, error: TurnError) -> None:
        super().__init__(error.message)
        self.error = error


def invalid_request(
    message: str, *, code: str | None = None, param: str | None = None, status: int = 400
) -> TurnError:
    """An `invalid_request_error`."""
    return TurnError(type="invalid_request_error", code=code, message=message, param=param, status=status)


def wrong_method(*methods: str) -> TurnError:
    """The error for a method that is none of *methods*, which are those that an address answers."""
    return TurnError(
        type="invalid_request_error",
        message=f"This address answers {' and '.join(methods)} only.",
        status=405,
        headers={"Allow": ", ".join(methods)},  # RFC 9110, 15.5.6
    )
