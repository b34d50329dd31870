"""Errors as a provider words them, and the one that refuses a request."""

from collections.abc import Mapping
from typing import Any

import attrs

__all__ = ["RequestError", "TurnError", "invalid_request"]


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
