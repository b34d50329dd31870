"""Tokens: who may use a proxy, in a file that is read again when it changes.

The file has one token a line: its name, the token, and what it may, in any order::

    # name   token                    limits, all optional
    editor   wsp-8f3c1d7e5b2a4960     weight=4
    batch    wsp-1b9e6c4d2f8a7035     limit=8 weight=1 budget=5000000
    old-sdk  wsp-6d0f2b8e4c1a9357     keepalive=comment

Rules of this module:

* A file that cannot be read, or says something wrong, changes nothing; the log says what. No text shows a
  token.
"""

from __future__ import annotations

import logging
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final, cast, get_args

from wspool.proxy.access.gate import Token
from wspool.proxy.settings import KeepaliveStyle

__all__ = ["TokenFile", "parse_tokens"]

logger: Final = logging.getLogger("wspool.proxy")

#: Characters of a token at least: shorter ones can be guessed.
_SHORTEST: Final = 16

#: Bytes of a file at most.
_LARGEST: Final = 2**20

_NAME: Final = re.compile(r"[A-Za-z0-9_.@-]{1,64}")
_TEXT: Final = re.compile(r"[\x21-\x7e]{1,512}")


def parse_tokens(text: str) -> dict[str, Token]:
    """Return the tokens in *text*, by name.

    Raises:
        ValueError: a line says something wrong; the text says which, and no token.
    """
    found: dict[str, Token] = {}
    seen: set[str] = set()
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        problem = _problem(words)
        if problem is None and (words[0] in found or words[1] in seen):
            problem = "the name or the token is there already"
        if problem is not None:
            raise ValueError(f"line {number} of the tokens: {problem}")
        may = dict(word.split("=", 1) for word in words[2:])
        limit, budget = may.get("limit"), may.get("budget")
        found[words[0]] = Token(
            words[0],
            words[1],
            None if limit is None else int(limit),
            float(may.get("weight", 1)),
            None if budget is None else int(budget),
            cast("KeepaliveStyle | None", may.get("keepalive")),
        )
        seen.add(words[1])
    return found


def _problem(words: list[str]) -> str | None:
    if len(words) < 2:
        return "it needs a name and a token"
    if not _NAME.fullmatch(words[0]):
        return "the name is made of letters, digits, and _.@-"
    if len(words[1]) < _SHORTEST or not _TEXT.fullmatch(words[1]):
        return f"the token needs at least {_SHORTEST} characters of visible ASCII"
    for word in words[2:]:
        name, _, value = word.partition("=")
        if name in ("limit", "budget") and value.isdecimal() and int(value) > 0:
            continue
        if name == "weight" and re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", value) and float(value) > 0:
            continue
        if name == "keepalive" and value in get_args(KeepaliveStyle):
            continue
        styles = "|".join(get_args(KeepaliveStyle))
        return f"behind the token stand limit=N, weight=X, budget=N, each more than 0, or keepalive={styles}"
    return None


class TokenFile:
    """The tokens in one file.

    Args:
        path: of the file.

    Attributes:
        tokens: those that count now, by name.

    Raises:
        OSError, ValueError: it cannot be read, or says something wrong.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._seen = self._look()
        self.tokens: Mapping[str, Token] = self._read()
        if os.name == "posix" and stat.S_IMODE(self._path.stat().st_mode) & 0o077:
            logger.warning("the file of tokens can be read by others: chmod 600 it")

    def refresh(self) -> bool:
        """Read the file again if it has changed; return whether other tokens count now. Never raises."""
        try:
            seen = self._look()
            if seen == self._seen:
                return False
            tokens = self._read()
        except (OSError, ValueError) as problem:
            if self._seen is not None:
                logger.error("the tokens stay as they were: %s", _said(problem))
            self._seen = None
            return False
        self._seen = seen
        changed = tokens != self.tokens
        self.tokens = tokens
        return changed

    def _look(self) -> tuple[int, int, int] | None:
        found = self._path.stat()
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _read(self) -> Mapping[str, Token]:
        with self._path.open("rb") as file:
            data = file.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise ValueError(f"the file of tokens has more than {_LARGEST} bytes")
        try:
            return parse_tokens(data.decode())
        except UnicodeDecodeError:
            raise ValueError("the file of tokens is no UTF-8") from None


def _said(problem: Exception) -> str:
    return (problem.strerror or "it cannot be read") if isinstance(problem, OSError) else str(problem)
