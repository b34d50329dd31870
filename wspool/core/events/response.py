"""Response: a finished response, as the server described it, with the common looks at it."""

from __future__ import annotations

from typing import Any, cast

__all__ = ["Response"]


class Response:
    """A finished response.

    Attributes:
        data: the response object, a plain dict as the server sent it.
    """

    __slots__ = ("data",)

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data

    @property
    def id(self) -> str:
        """The response's id."""
        return str(self.data.get("id", ""))

    @property
    def status(self) -> str:
        """`completed`, `incomplete` or `failed`."""
        return str(self.data.get("status", ""))

    @property
    def output(self) -> list[dict[str, Any]]:
        """The output items."""
        return cast("list[dict[str, Any]]", self.data.get("output") or [])

    @property
    def output_text(self) -> str:
        """All text of all messages in the output, joined."""
        return "".join(
            str(part.get("text", ""))
            for item in self.output
            if item.get("type") == "message"
            for part in cast("list[dict[str, Any]]", item.get("content") or [])
            if part.get("type") == "output_text"
        )

    @property
    def usage(self) -> dict[str, Any] | None:
        """Token counts, or None if the server gave none."""
        return cast("dict[str, Any] | None", self.data.get("usage"))

    @property
    def error(self) -> dict[str, Any] | None:
        """The error of a failed response, or None."""
        return cast("dict[str, Any] | None", self.data.get("error"))

    @property
    def incomplete_details(self) -> dict[str, Any] | None:
        """Why an incomplete response is, or None."""
        return cast("dict[str, Any] | None", self.data.get("incomplete_details"))

    def __repr__(self) -> str:
        return f"<Response {self.id} {self.status}, {len(self.output)} items>"
