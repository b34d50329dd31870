"""What a header may hold, so that none can smuggle in a second one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

__all__ = ["encode_headers"]

#: Header names and values that cannot break out of their line. Source: RFC 9110 sections 5.1 and 5.5.
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE: Final = re.compile(r"([\x21-\x7e]([\x20-\x7e\t]*[\x21-\x7e])?)?")


def encode_headers(headers: Sequence[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """Return *headers* as bytes, checked so that none can smuggle in a second one.

    Raises:
        ValueError: a name or value is not plain ASCII. The text never holds a value.
    """
    for name, value in headers:
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError("a header name holds a character that HTTP forbids")
        if not _HEADER_VALUE.fullmatch(value):
            raise ValueError(
                f"the value of header {name!r} must be visible ASCII without line ends or outer spaces"
            )
    return [(name.encode("ascii"), value.encode("ascii")) for name, value in headers]
