"""The live page: one file of HTML, with its style and its script inside, and the policy that goes with it.

Nothing of it comes from elsewhere, and nothing runs in it but its own script, which the policy names by its
hash. What it shows goes in as text, never as markup.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Final, Literal

__all__ = ["View", "headers", "page"]

#: What it shows: the figures, the question for a token, or that again after a wrong one.
View = Literal["live", "login", "wrong"]

_VIEW: Final = 'data-view="live"'


@functools.cache
def _file() -> str:
    return files("wspool.proxy.page").joinpath("page.html").read_text(encoding="utf-8")


@functools.cache
def page(view: View) -> bytes:
    """Return the page."""
    return _file().replace(_VIEW, f'data-view="{view}"', 1).encode()


def _hashes(tag: str) -> str:
    inside: list[str] = re.findall(rf"<{tag}>(.*?)</{tag}>", _file(), re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in inside]
    return " ".join(f"'sha256-{digest}'" for digest in digests)


@functools.cache
def headers() -> Sequence[tuple[str, str]]:
    """Return the headers that go with everything that a browser is given.

    Source: W3C, Content Security Policy Level 3; Fetch (`X-Content-Type-Options`).
    """
    policy = (
        f"default-src 'self'; script-src {_hashes('script')}; style-src {_hashes('style')}; "
        "img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    )
    return (
        ("content-security-policy", policy),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "same-origin"),  # with none at all, a form says that it comes from nowhere
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        ("cache-control", "no-store"),
    )
