"""The credential: checked before any library sees it, shown nowhere.

A key goes into one header of the upgrade request, built for one dial at a time.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from wspool.wire.wire import ConnectError

__all__ = ["ApiKey", "CredentialError", "Secret", "secret_source"]

#: A key, or an async function that returns one; it is asked once per dial.
ApiKey: TypeAlias = "str | Callable[[], Awaitable[str]]"

#: What a header value may hold without quoting or folding. Source: RFC 9110 section 5.5, less space.
_VISIBLE: Final = re.compile(r"[\x21-\x7e]+")


class CredentialError(ConnectError):
    """The `api_key` function failed, or returned something that is no key."""


class Secret:
    """A key that does not show itself: not in repr, str, or a pickle."""

    __slots__ = ("_value",)

    def __init__(self, value: object) -> None:
        if not isinstance(value, str) or not _VISIBLE.fullmatch(value):
            # Never quote it, not even in part.
            raise ValueError(
                "the API key must be a non-empty str of visible ASCII characters without spaces or newlines"
            )
        self._value = value

    def reveal(self) -> str:
        """Return the key, for the one header it belongs in."""
        return self._value

    def __repr__(self) -> str:
        return "<Secret>"

    def __reduce__(self) -> str:
        raise TypeError("a Secret is not pickled; pass the key to the other process on its own")


def secret_source(api_key: ApiKey) -> Callable[[], Awaitable[Secret]]:
    """Return a function that gives the key for one dial.

    Raises:
        ValueError: *api_key* is no usable key.
    """
    if not callable(api_key):
        fixed = Secret(api_key)

        async def give() -> Secret:  # no checkpoint: the dial that follows has many
            return fixed

        return give
    ask = api_key

    async def ask_and_check() -> Secret:
        try:
            return Secret(await ask())
        except Exception as error:
            # The text of a foreign error may hold the key; its class does not.
            raise CredentialError(
                f"the api_key function failed ({type(error).__name__}); it must return a usable key",
                phase="upgrade",
            ) from None

    return ask_and_check
