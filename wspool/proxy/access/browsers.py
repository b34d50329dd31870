"""Browsers: who may see the live page. A token is shown once, and a cookie stands for it from then on.

Pure, but for randomness. Rules of this module:

* A token never stands in a URL, in a cookie or in a script: the cookie is a number that means nothing
  elsewhere. It is HttpOnly, and no other site's page can have it sent (`SameSite=Strict`).
* There are as many as are useful, each for as long as a working day, and each ends with its token.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from typing import Final
from urllib.parse import parse_qs

import attrs

from wspool.proxy.access.gate import Token

__all__ = ["Browsers", "shown_token"]

_NAME: Final = "wspool_page"

#: Browsers at once.
_MOST: Final = 256

#: Seconds that one is known.
_LASTS: Final = 12 * 3600.0


@attrs.frozen
class _Known:
    token: Token
    until: float


class Browsers:
    """The browsers that have shown a token."""

    def __init__(self) -> None:
        # By a hash, so that how long a look-up takes says nothing of what is in it.
        self._known: OrderedDict[bytes, _Known] = OrderedDict()

    def admit(self, token: Token, now: float, *, secure: bool) -> str:
        """Return the cookie, as a header has it, for a browser that has shown *token*.

        Args:
            now: seconds.
            secure: whether it has come over TLS.
        """
        name = secrets.token_urlsafe(32)
        self._known[_digest(name)] = _Known(token, now + _LASTS)
        while len(self._known) > _MOST:
            self._known.popitem(last=False)
        tail = "; Secure" if secure else ""
        return f"{_NAME}={name}; Path=/; Max-Age={_LASTS:.0f}; HttpOnly; SameSite=Strict{tail}"

    def who(self, headers: Iterable[tuple[bytes, bytes]], now: float) -> Token | None:
        """Return the token that the browser with these *headers* has shown, None if it has not."""
        for name, value in headers:
            if name != b"cookie":
                continue
            try:
                cookie = SimpleCookie(value.decode("latin-1")).get(_NAME)
            except CookieError:
                continue
            key = None if cookie is None else _digest(cookie.value)
            known = None if key is None else self._known.get(key)
            if known is not None and now < known.until:
                return known.token
        return None


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode(errors="replace")).digest()


def shown_token(body: bytes) -> str:
    """Return the token in the *body* of a form, empty if there is none."""
    return next(iter(parse_qs(body.decode("latin-1"), max_num_fields=8).get("token", ())), "")
