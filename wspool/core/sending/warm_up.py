"""Warm-up: a request without output, whose response is the parent of whoever asks for the same context."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias, cast

import attrs

from wspool.core.encoding import Encoded, read
from wspool.core.items import encode_fields

__all__ = ["Fields", "WarmUp"]

#: The fields of a request's body, each encoded.
Fields: TypeAlias = Mapping[str, Encoded]

#: The fields that decide whether a warm-up request prepared the same context.
_WARM_FIELDS = ("model", "instructions", "tools", "prompt")
#: Fields that give a warm-up request a context that no history knows.
_CONTEXT_FIELDS = ("input", "previous_response_id", "conversation")

_NULL = Encoded(b"null")


@attrs.frozen
class WarmUp:
    """The response to a warm-up request: a parent for whoever asks for the same context.

    Attributes:
        response_id: its id.
        fields: the body of its request.
    """

    response_id: str
    fields: Fields

    @classmethod
    def of(
        cls, response: Mapping[str, Any] | None, body: Mapping[str, Any], *, output_seen: bool = False
    ) -> WarmUp | None:
        """Return what a response to the warm-up request *body* is good for; None if it is no parent.

        It is none if the model has said something, for the history does not know it, nor if it had a
        context of its own, nor if it did not plainly end well.

        Args:
            response: the response of its terminal event.
            body: the body of its request.
            output_seen: True if output came on the way.
        """
        response = response or {}
        response_id, usage = response.get("id"), response.get("usage")
        said = cast("Mapping[str, Any]", usage).get("output_tokens") if isinstance(usage, Mapping) else None
        if (
            not isinstance(response_id, str)
            or not response_id
            or response.get("status") != "completed"
            or response.get("output")
            or output_seen
            or said
            or any(body.get(name) for name in _CONTEXT_FIELDS)
        ):
            return None
        return cls(response_id, encode_fields(body))

    @property
    def stored(self) -> bool:
        """Whether the server was asked to keep it for any connection."""
        return self.fields.get("store") == b"true"

    def fits(self, fields: Fields) -> bool:
        """Return whether a first turn with *fields* may continue from it."""
        return all(_equal(self.fields.get(name, _NULL), fields.get(name, _NULL)) for name in _WARM_FIELDS)


def _equal(one: Encoded, other: Encoded) -> bool:
    return one == other or bool(read(one) == read(other))  # the order of keys says nothing
