"""Response: a finished response, as the server described it, with the common looks at it.

Servers have sent every shape there is: a look never raises, it is empty where it finds nothing of its kind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from wspool.core.given import check_kind
from wspool.core.openai_types import openai_response

if TYPE_CHECKING:
    import openai.types.responses

__all__ = ["Response"]


class Response:
    """A finished response.

    Attributes:
        data: the response object, a plain dict as the server sent it.

    Raises:
        TypeError: it is of another kind.
    """

    __slots__ = ("data",)

    def __init__(self, data: dict[str, Any]) -> None:
        check_kind("data", data, dict, "the response as a dict")
        self.data = data

    @property
    def id(self) -> str:
        """The response's id."""
        return _text(self.data.get("id"))

    @property
    def status(self) -> str:
        """`completed`, `incomplete` or `failed`."""
        return _text(self.data.get("status"))

    @property
    def output(self) -> list[dict[str, Any]]:
        """The output items."""
        return _objects(self.data.get("output"))

    @property
    def output_text(self) -> str:
        """All text of all messages in the output, joined."""
        return "".join(_text_of(item.get("content")) for item in self.output if item.get("type") == "message")

    @property
    def usage(self) -> dict[str, Any] | None:
        """Token counts, or None if the server gave none."""
        return _object(self.data.get("usage"))

    @property
    def error(self) -> dict[str, Any] | None:
        """The error of a failed response, or None."""
        return _object(self.data.get("error"))

    @property
    def incomplete_details(self) -> dict[str, Any] | None:
        """Why an incomplete response is, or None."""
        return _object(self.data.get("incomplete_details"))

    @property
    def input_transformations(self) -> list[dict[str, Any]]:
        """What of the input the server withheld from the model, in order: reasoning items, and why."""
        return _objects(self.data.get("input_transformations"))

    @property
    def prompt_cache_diagnostics(self) -> dict[str, Any] | None:
        """Why the prompt cache was missed or not, or None if that was not asked for."""
        return _object(self.data.get("prompt_cache_diagnostics"))

    def to_openai(self) -> openai.types.responses.Response:
        """Return it as the response of the package `openai`, if that is installed. Made anew each time.

        Raises:
            ImportError: it is not.
        """
        return openai_response(self.data)

    def __repr__(self) -> str:
        return f"<Response {self.id} {self.status}, {len(self.output)} items>"


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _text_of(content: object) -> str:
    """Return the text of a message; there are servers that write it, or a part of it, as a plain text."""
    if not isinstance(content, list):
        return _text(content)
    return "".join(map(_text_of_part, cast("list[object]", content)))


def _text_of_part(part: object) -> str:
    given = _object(part)
    if given is None:
        return _text(part)
    return _text(given.get("text")) if given.get("type") == "output_text" else ""


def _object(value: object) -> dict[str, Any] | None:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def _objects(value: object) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        return []
    found = cast("list[object]", value)
    if all(isinstance(each, dict) for each in found):
        return cast("list[dict[str, Any]]", found)  # the very list that came
    return [cast("dict[str, Any]", each) for each in found if isinstance(each, dict)]
