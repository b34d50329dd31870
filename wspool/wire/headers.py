"""What a header may hold, so that none can smuggle in a second one.

A value may be a credential: it is in no text, and no frame of this module that an exception comes through
holds one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

__all__ = ["check_headers", "check_subprotocols", "encode_headers"]

#: Header names and values that cannot break out of their line. Source: RFC 9110 sections 5.1 and 5.5; of
#: its values those that are visible ASCII and not empty.
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile(r"[\x21-\x7e]([\x20-\x7e\t]*[\x21-\x7e])?")


def check_headers(headers: Sequence[tuple[str, str]]) -> None:
    """Refuse headers that cannot be sent.

    Raises:
        ValueError: a name or value is not plain ASCII. The text never holds a value.
    """
    problem = next(filter(None, map(_problem, headers)), None)
    if problem is not None:
        del headers
        raise ValueError(problem)


def check_subprotocols(names: Sequence[str]) -> tuple[str, ...]:
    """Return *names* as a request can offer them.

    Raises:
        TypeError, ValueError: they are no names, or one is there twice. The text shows none: there are
            endpoints that take a key in one.
    """
    if isinstance(names, str):
        raise TypeError("subprotocols is a list of names, not one text")
    offered = tuple(names)
    problem = not all(_is(_NAME, name) for name in offered) or len(set(offered)) < len(offered)
    if problem:
        del names, offered
        raise ValueError("a subprotocol is a name without spaces or commas (RFC 6455), and is offered once")
    return offered


def encode_headers(headers: Sequence[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """Return *headers* as bytes, checked so that none can smuggle in a second one.

    Raises:
        ValueError: a name or value is not plain ASCII. The text never holds a value.
    """
    problem = next(filter(None, map(_problem, headers)), None)
    if problem is not None:
        del headers
        raise ValueError(problem)
    return [(name.encode("ascii"), value.encode("ascii")) for name, value in headers]


def _problem(header: tuple[str, str]) -> str | None:
    """Return what is wrong with *header*, None if it can be sent."""
    name, value = header
    if not _is(_NAME, name):
        return f"{name!r} is not a header name"
    if not _is(_VALUE, value):
        return f"the value of header {name!r} must be visible ASCII without line breaks or outer spaces"
    return None


def _is(form: re.Pattern[str], text: object) -> bool:
    return isinstance(text, str) and form.fullmatch(text) is not None
