"""How hard a property is searched, where the number of examples of the profile is not the right one."""

from __future__ import annotations

from typing import Any

from hypothesis import settings

__all__ = ["examples"]


def examples(most: int, **options: Any) -> settings:
    """So many examples; with the profile `few` no more than it has, as the searching is done elsewhere."""
    few = settings.get_profile("few").max_examples
    return settings(max_examples=most if settings().max_examples > few else min(most, few), **options)
