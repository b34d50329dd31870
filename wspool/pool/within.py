"""Within: what instruments have added to a context, around the functions of a caller's that a pool calls.

It is set and taken back by the task that makes the call, so nothing of it is left with the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import Context, ContextVar, Token, copy_context
from typing import Any, TypeAlias

__all__ = ["Added", "Within", "added_to"]

#: Context variables, and what they are set to.
Added: TypeAlias = Sequence[tuple[ContextVar[Any], object]]


def added_to(context: Context) -> Added:
    """Return what *context*, a copy of the present one, has else than that."""
    here = copy_context()
    return [(one, value) for one, value in context.items() if one not in here or here[one] is not value]


class Within:
    """A `with` block in which *added* is set."""

    __slots__ = ("_added", "_before")

    def __init__(self, added: Added) -> None:
        self._added = added
        self._before: list[tuple[ContextVar[Any], Token[Any]]] = []

    def __enter__(self) -> None:
        self._before = [(one, one.set(value)) for one, value in self._added]

    def __exit__(self, *error: object) -> None:
        for one, token in reversed(self._before):
            one.reset(token)
