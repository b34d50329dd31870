"""Catalog: the list of models in the shape that Codex reads, beside the one that everybody else does.

Pure. Codex asks for `/models?client_version=...` and needs a member `models`, with fields of its own; it logs
an error each time where that is missing, as it is in the list of OpenAI's API. An empty one leaves it with
what it knows by itself. Source: its `codex-api` and `models-manager`.

What the provider says stays as it is: what is added nobody else looks at. A provider that has that member, as
the backend of Codex does, is passed on untouched.
"""

from __future__ import annotations

import json
from typing import Any, Final, cast
from urllib.parse import parse_qs

from wspool.proxy.target import Target

__all__ = ["LARGEST", "is_codex_s", "with_models"]

#: Bytes of a list that is looked at. OpenAI's has some 20 KiB.
LARGEST: Final = 4 * 2**20


def is_codex_s(target: Target, method: bytes) -> bool:
    """Return whether a request is for the list, in the way that Codex asks for it."""
    return method == b"GET" and target.path == "/models" and "client_version" in parse_qs(target.query)


def with_models(body: bytes) -> bytes:
    """Return the *body* of an answer with what Codex looks for; as it was if it is no list without that."""
    try:
        said: object = json.loads(body)
    except (ValueError, RecursionError):
        return body
    if not isinstance(said, dict) or "models" in said:
        return body
    whole = cast("dict[str, Any]", said)
    return json.dumps({**whole, "models": []}, separators=(",", ":")).encode("ascii")
