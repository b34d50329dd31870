"""The ledger: what the provider did, one line per request, for checking a client's account against it.

1. A line is written once, when its request ends, and before the client can know that it ended; then it is
   flushed.
2. `received`, `started` and `ended` are seconds on the server's clock. Times may tie, so each has an `_order`
   beside it: one counter for the whole server that goes up at every such moment.
3. `unfinished_on_lane` counts the unfinished requests of that lane of that connection at receipt, this one
   included. So "no connection ever held two unfinished requests on one lane" reads: it is 1 on every line.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Final, Literal, Protocol, TextIO, TypedDict

from wspool.server.models import is_array, is_object

__all__ = [
    "CHARACTERS_PER_TOKEN",
    "Digest",
    "Entry",
    "Ledger",
    "Outcome",
    "Sink",
    "context_digest",
    "extend_digest",
    "private",
    "user_message",
]

#: Characters of JSON per token, for estimates of usage. The usual rule of thumb for English text.
CHARACTERS_PER_TOKEN: Final = 4

Outcome = Literal["completed", "incomplete", "failed", "rejected", "lost"]


class Entry(TypedDict):
    """One line."""

    connection: int
    """The connection, counted from 1 in the order of arrival."""
    transport: str
    """`websocket` or `http`."""
    lane: str | None
    """The `stream_id`; null is the default lane."""
    sequence: int
    """Which request of its connection, from 1."""
    response_id: str | None
    """Null if the request was rejected before there was a response."""
    previous_response_id: str | None
    parent_from: str | None
    """Where the parent was found: on its own `lane`, on another one (`fork`), in the `store`, or nowhere
    (null).
    """
    parent_was_latest: bool
    """The parent is the latest response of this lane of this connection."""
    generate: bool
    """False for a warm-up."""
    input_items: int
    context_items: int
    """How many items the model saw: the parents' and the input."""
    context_sha256: str | None
    """The digest of those items (`context_digest`)."""
    unfinished_on_lane: int
    received: float
    received_order: int
    started: float | None
    started_order: int | None
    ended: float
    ended_order: int
    outcome: Outcome
    """`lost`: the connection ended first. Everything else is what the provider did, seen by the client or
    not.
    """
    error_code: str | None
    fault: str | None
    """The fault that a script chose for the request. It did not happen if the request was refused before, or
    if its connection ended before.
    """
    automatic: bool
    """The server made this request itself, from steering input; the client sent none."""


#: Takes one finished line; a list's `append` will do.
Sink = Callable[[Entry], object]


def private(path: str, flags: int) -> int:
    """Open a file as `open` does, which only its owner may read if it is new: what was asked is in it."""
    return os.open(path, flags, 0o600)


class Ledger:
    """Writes lines to a file or hands them to a sink. Use as a context manager: it owns the file."""

    def __init__(self, sink: str | os.PathLike[str] | list[Entry] | Sink | None) -> None:
        """Args:
        sink: the path of a JSONL file to append to, a list, or a callable; None forgets everything.
        """
        self._file: TextIO | None = None
        self._sink: Sink | None
        if sink is None or callable(sink):
            self._sink = sink
        elif isinstance(sink, list):
            self._sink = sink.append
        else:
            # Closed in __exit__.
            self._file = open(os.fspath(sink), "a", encoding="utf-8", opener=private)  # noqa: SIM115
            self._sink = self._write_line

    def write(self, entry: Entry) -> None:
        """Write one line. Synchronous, so that a cancelled turn gets its line too."""
        if self._sink is not None:
            self._sink(entry)

    def _write_line(self, entry: Entry) -> None:
        assert self._file is not None
        self._file.write(json.dumps(entry, separators=(",", ":")) + "\n")
        self._file.flush()

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()


#: The size of a compaction item, in characters.
_COMPACTED: Final = 400


class Digest(Protocol):
    """The part of a `hashlib` object that is used here."""

    def update(self, data: bytes, /) -> None: ...
    def copy(self) -> "Digest": ...
    def hexdigest(self) -> str: ...


def context_digest(items: str | Iterable[Mapping[str, Any]]) -> str:
    """The SHA-256 of a conversation: one canonical JSON line per item, oldest first.

    Canonical means what the model sees, not how it was sent: a string is a user message, a string content is
    one text part, keys are sorted, and the `id` and `status` of an item are left out. So a client that keeps
    its history in its own way still gets the same digest.
    """
    digest: Digest = hashlib.sha256()
    extend_digest(digest, user_message(items) if isinstance(items, str) else items)
    return digest.hexdigest()


def extend_digest(digest: Digest, items: Iterable[Mapping[str, Any]]) -> int:
    """Add *items* to *digest*; returns their size in characters.

    A compaction item is small, whatever it stands for.
    """
    size = 0
    for item in items:
        line = json.dumps(_canonical(item), sort_keys=True, separators=(",", ":"), allow_nan=False) + "\n"
        digest.update(line.encode("ascii"))
        size += _COMPACTED if item.get("type") == "compaction" else len(line)
    return size


def user_message(text: str) -> list[dict[str, Any]]:
    """The items that a string `input` stands for."""
    return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}]


def _canonical(item: Mapping[str, Any]) -> dict[str, Any]:
    seen = {key: value for key, value in item.items() if key not in ("id", "status")}
    content = seen.get("content")
    if isinstance(content, str):
        kind = "output_text" if seen.get("role") == "assistant" else "input_text"
        seen["content"] = [{"type": kind, "text": content}]
    elif is_array(content):
        seen["content"] = [_canonical_part(part) for part in content]
    if "role" in seen:
        seen.setdefault("type", "message")
    return seen


def _canonical_part(part: Any) -> Any:
    # What only decorates an output text; a client may well drop it from its history.
    if not is_object(part):
        return part
    return {key: value for key, value in part.items() if key not in ("annotations", "logprobs")}
