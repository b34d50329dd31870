"""A secret: a text that has no text but the one that `reveal` gives, not even in a comparison."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["Secret"]

#: What a header value may hold without quoting or folding. Source: RFC 9110 section 5.5, less space.
_VISIBLE: Final = re.compile(r"[\x21-\x7e]+")


class Secret:
    """A text that does not show itself.

    Args:
        value: visible ASCII without spaces.
        name: what to call it in the error.

    Raises:
        ValueError: no header can carry *value*; the text does not quote it.
    """

    __slots__ = ("_value",)

    def __init__(self, value: object, name: str = "the API key") -> None:
        if not isinstance(value, str) or not _VISIBLE.fullmatch(value):
            del value  # never shown, not even by whoever prints the variables of this frame
            raise ValueError(
                f"{name} must be a non-empty text of visible ASCII characters without spaces or newlines"
            )
        self._value = value

    def reveal(self) -> str:
        """Return the text, for the one header it belongs in."""
        return self._value

    def __repr__(self) -> str:
        return "<Secret>"

    def __reduce__(self) -> str:
        raise TypeError("a Secret is not pickled; pass the key to the other process on its own")
