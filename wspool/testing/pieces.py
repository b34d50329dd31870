"""JSON of values with long texts in them, pictures above all: no call of C lasts for all of one.

Pure. All threads wait for a call of C; a loop beside this one must not stand still for a picture. What comes
out is what `json.dumps` says, letter for letter.
"""

import json
from collections.abc import Iterator
from typing import Any, Final

from wspool.server.models import is_array, is_object

__all__ = ["dumps", "in_pieces"]

#: Characters that are written in one call: a millisecond, whatever they are.
_AT_ONCE: Final = 2**18


def in_pieces(text: str) -> Iterator[str]:
    """*text*, of which no piece is long."""
    return (text[start : start + _AT_ONCE] for start in range(0, len(text), _AT_ONCE))


def dumps(value: object, **how: Any) -> str:
    """*value*, JSON with names that are texts, as JSON.

    Args:
      how: as for `json.dumps`.

    Raises:
      ValueError: a number is none in JSON, and that was not allowed.
    """
    if not _is_long(value):
        return json.dumps(value, **how)
    if isinstance(value, str):
        return f'"{"".join(json.dumps(piece, **how)[1:-1] for piece in in_pieces(value))}"'
    if is_object(value):
        fields = sorted(value.items()) if how.get("sort_keys") else value.items()
        return f"{{{', '.join([f'{json.dumps(name, **how)}: {dumps(of, **how)}' for name, of in fields])}}}"
    assert is_array(value), "nothing else has texts in it"
    return f"[{', '.join([dumps(element, **how) for element in value])}]"


def _is_long(value: object) -> bool:
    """Whether there is a long text in it."""
    if isinstance(value, str):
        return len(value) > _AT_ONCE
    if is_object(value):
        return any(map(_is_long, value.values()))
    return is_array(value) and any(map(_is_long, value))
