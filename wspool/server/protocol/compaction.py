"""Compaction: a long context becomes one item that only the server can read.

Pure. What a provider would summarise and encrypt is here packed whole, so nothing is forgotten: a model that
is shown a context with such an item sees everything again (`unpacked`), on any server. Rules:

1. A request with `context_management` is compacted when what the model saw is more tokens than the
   threshold. The item comes first in the output, and what follows it is all that a continuation is made of.
2. An item that was made elsewhere is kept as it is.
"""

import base64
import binascii
import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from wspool.server.ledger import CHARACTERS_PER_TOKEN, extend_digest
from wspool.server.models import Item, is_array, is_object
from wspool.server.protocol.items import as_resource
from wspool.server.protocol.response import usage_of

__all__ = ["compact_threshold", "compaction_item", "compaction_object", "unpacked"]

#: What tells our own from any other: the beginning of a token of the usual encryption, then our mark.
_MARK: Final = "gAAAAABws-"


def compact_threshold(body: Mapping[str, Any]) -> int | None:
    """The number of tokens from which the request wants to be compacted, or None."""
    given = body.get("context_management")
    for entry in given if is_array(given) else ():
        if entry.get("type") == "compaction":
            threshold = entry.get("compact_threshold")
            return threshold if isinstance(threshold, int) else None
    return None


def compaction_item(context: Iterable[Item]) -> Item:
    """An item that stands for all of *context*."""
    text = json.dumps(list(unpacked(list(context))), separators=(",", ":"), allow_nan=False)
    packed = base64.urlsafe_b64encode(zlib.compress(text.encode("ascii"))).decode("ascii")
    return {"type": "compaction", "encrypted_content": _MARK + packed}


def compaction_object(context: Sequence[Item], response_id: str, created_at: int) -> Item:
    """The answer to who has *context* compacted outside of a turn: every message of the user as the API gives
    it back, then the item that stands for everything.

    Args:
      context: unpacked.
      created_at: Unix time, in seconds.
    """
    number = response_id.rpartition("_")[2]
    users = [item for item in context if item.get("role") == "user"]
    kept = [as_resource(item, f"{number}_{index}") for index, item in enumerate(users)]
    packed = {"id": f"cmp_{number}_{len(users)}", **compaction_item(context)}
    tokens = extend_digest(hashlib.sha256(), context) // CHARACTERS_PER_TOKEN
    said = extend_digest(hashlib.sha256(), [packed]) // CHARACTERS_PER_TOKEN
    return {
        "id": response_id,
        "object": "response.compaction",
        "created_at": created_at,
        "output": [*kept, packed],
        "usage": usage_of(tokens, said, 0),
    }


def unpacked(context: Sequence[Item]) -> Sequence[Item]:
    """*context* with its last compaction item, and all before it, replaced by what the item stands for."""
    for position in range(len(context) - 1, -1, -1):
        if context[position].get("type") == "compaction":
            inside = _open(context[position].get("encrypted_content"))
            if inside is not None:
                return (*inside, *context[position + 1 :])
    return context


def _open(content: object) -> list[Item] | None:
    if not isinstance(content, str) or not content.startswith(_MARK):
        return None
    try:
        items = json.loads(zlib.decompress(base64.urlsafe_b64decode(content[len(_MARK) :])))
    except (ValueError, binascii.Error, zlib.error, RecursionError):
        return None
    return items if is_array(items) and all(is_object(item) for item in items) else None
