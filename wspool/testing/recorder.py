"""Recorder: what goes through a proxy, as cassettes: one file for each session, or for each client.

A cassette that was written here replays with the fixture `wspool_cassette` as one that a test has recorded.

1. A file that is there is gone on with; one that is no cassette is left as it is, and said.
2. No key gets into a file: neither those of the environment, nor what clients and the proxy have shown.
3. Recorded is what has ended, or was refused. What was lost on the way says nothing that could be replayed.
4. Two names are two files, also where capital letters make no difference, and whatever is in them: a name
   that is not a file's everywhere is changed, and gets a digest of what it was.
5. A disk that is full costs cassettes, never a request; it is said once.
"""

import logging
import os
import re
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import attrs

from wspool.core.frames import Event
from wspool.errors import MalformedMessageError, ResponseFailedError
from wspool.server.models import Item
from wspool.testing.cassette import Cassette, CassetteError, Exchange
from wspool.testing.player import refusal_of
from wspool.testing.redaction import Redaction, keys_of

__all__ = ["Recorder", "file_name"]

logger: Final = logging.getLogger("wspool.testing")

#: Seconds between two times that a file is written.
_OFTEN: Final = 5.0

#: Cassettes that are held; of more, the one that was used longest ago is written and let go.
_MOST: Final = 64

#: Characters of a name that a client gave.
_LONGEST: Final = 80

#: A name that is as well the name of a file, of no other name, on any system.
_PLAIN: Final = re.compile(rf"[a-z0-9_][a-z0-9_.@-]{{0,{_LONGEST - 1}}}")
#: What is none on Windows, with whatever behind a dot. Source: "Naming Files, Paths, and Namespaces".
_RESERVED: Final = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?")

#: The conversation before a request that continues none.
_NEW: Final[Sequence[Item]] = ()


@attrs.define(eq=False)
class _File:
    path: Path
    cassette: Cassette
    contexts: dict[str, Sequence[Item]]
    ends: dict[bytes, Sequence[Item]]
    changed: bool = False
    written_at: float = 0.0

    @classmethod
    def of(cls, path: Path, cassette: Cassette) -> "_File":
        file = cls(path, cassette, {}, {})
        for exchange in cassette.exchanges:
            file.learn(exchange)
        return file

    def learn(self, exchange: Exchange) -> None:
        """Take note of what a conversation has come to."""
        if exchange.response is not None:
            after = self.ends.setdefault(exchange.end_mark(), exchange.after())
            self.contexts[str(exchange.response.get("id"))] = after


def file_name(name: str) -> str:
    """Return what the file of *name* is called: as it, or as no other name's is."""
    if _PLAIN.fullmatch(name) and not _RESERVED.fullmatch(name):
        return name
    shown = re.sub(r"[^A-Za-z0-9_@]+", "-", name)[:_LONGEST].strip("-") or "unnamed"
    digest = blake2b(name.encode(errors="surrogatepass"), digest_size=8).hexdigest()
    return f"{shown}~{digest}"  # which no plain name has


class Recorder:
    """Writes cassettes into a folder.

    Args:
        folder: where; it is made if it is not there.
        endpoint: where they are recorded, for the reader.
        keys: further secrets that must not get into a file.

    Raises:
        OSError: the folder cannot be made.
    """

    def __init__(self, folder: str | os.PathLike[str], endpoint: str, keys: Iterable[str] = ()) -> None:
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._endpoint = endpoint
        self._keys = {*keys_of(os.environ), *keys}
        self._redaction = Redaction(self._keys)
        self._files: OrderedDict[str, _File | None] = OrderedDict()
        self._failed = False

    def take(
        self,
        name: str,
        body: Mapping[str, Any],
        events: Sequence[Event],
        error: Exception | None,
        secrets: Iterable[str],
    ) -> None:
        """Record a turn that is over. Never raises.

        Args:
            name: of its session, or of its client.
            body: of its request.
            events: all that came of it.
            error: what ended it, if that was not the end of its response.
            secrets: what its client has shown.
        """
        if new := set(secrets) - self._keys:
            self._keys |= new
            self._redaction = Redaction(self._keys)
        try:
            file = self._file(name)
            if file is not None and self._add(file, body, events, error):
                file.changed = True
                if time.monotonic() - file.written_at > _OFTEN:
                    self._save(file)
        except (MalformedMessageError, ValueError, TypeError, LookupError, RecursionError) as problem:
            logger.error("a turn was not recorded: %s", type(problem).__name__)

    def save(self) -> None:
        """Write all files that have changed. Never raises."""
        for file in self._files.values():
            if file is not None and file.changed:
                self._save(file)

    def _add(
        self, file: _File, body: Mapping[str, Any], events: Sequence[Event], error: Exception | None
    ) -> bool:
        safe: Mapping[str, Any] = self._redaction.value(body)
        parent = safe.get("previous_response_id")
        exchange = Exchange.of(safe, _NEW if parent is None else file.contexts.get(str(parent)))
        if known := exchange.longest(file.ends):  # its items are held once, not once for each turn
            exchange.context = [*known, *exchange.context[len(known) :]]
        told = [{k: v for k, v in event.data.items() if k != "stream_id"} for event in events]
        exchange.events = self._redaction.events(told)
        if exchange.response is None:
            if not isinstance(error, ResponseFailedError):
                return False
            exchange.events, exchange.refusal = [], self._redaction.value(refusal_of(error))
        else:
            file.learn(exchange)
        file.cassette.exchanges.append(exchange)
        return True

    def _file(self, name: str) -> _File | None:
        """Return the file of *name*, None if it is none of ours."""
        name = file_name(name)
        if name not in self._files:
            if len(self._files) >= _MOST:
                _, oldest = self._files.popitem(last=False)
                if oldest is not None and oldest.changed:
                    self._save(oldest)
            self._files[name] = self._open(self._folder / f"{name}.json")
        self._files.move_to_end(name)
        return self._files[name]

    def _open(self, path: Path) -> _File | None:
        try:
            cassette = Cassette.load(path) if path.exists() else Cassette(endpoint=self._endpoint)
        except (OSError, CassetteError) as problem:
            logger.error("nothing is recorded there: %s", problem)
            return None
        return _File.of(path, cassette)

    def _save(self, file: _File) -> None:
        file.written_at = time.monotonic()
        try:
            file.cassette.save(file.path, mode=0o600)  # all that was said is in it
        except OSError as problem:
            if not self._failed:
                logger.error("cassettes are not written now: %s", problem.strerror)
            self._failed = True
        else:
            file.changed = self._failed = False
