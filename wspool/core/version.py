"""The version of this package, for whoever has to say it."""

from typing import Final

__all__ = ["VERSION"]

#: As in pyproject.toml.
VERSION: Final = "0.1.0"
