"""Recorder: what goes through a proxy, as cassettes: one file for each session, or for each client.

A cassette that was written here replays with the fixture `wspool_cassette` as one that a test has recorded.

1. A file that is there is gone on with; one that is no cassette is left as it is, and said.
2. No key gets into a file: neither those of the environment, nor what clients and the proxy have shown.
3. Recorded is what has ended, or was refused. What was lost on the way says nothing that could be replayed.
4. Two names are two files, also where capital letters make no difference, and whatever is in them: a name
   that is not a file's everywhere is changed, and gets a digest of what it was.
5. A disk that is full ends the recording, and no request; it is said once.
6. All that takes time is done in a thread, in order, and no call there is long: a loop beside it goes on.
   What waits for that is bounded, and so is what is held. Turns that are too many are left out, and said.
"""

import logging
import os
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import attrs

from wspool.core.frames import Event
from wspool.core.sending.brought import WrittenBody
from wspool.errors import ResponseFailedError
from wspool.server.models import Item
from wspool.testing.cassette import Cassette, CassetteError, Exchange
from wspool.testing.player import refusal_of
from wspool.testing.redaction import Redaction, keys_of

__all__ = ["Recorder", "file_name"]

logger: Final = logging.getLogger("wspool.testing")

#: Seconds between two times that a file is written, and how many times as long as the writing took.
_OFTEN: Final = 5.0
_SELDOM: Final = 20

#: Cassettes that are held, and bytes of them; of more, those that were used longest ago are let go.
_MOST: Final = 64
_MOST_HELD: Final = 64 * 2**20

#: Bytes of turns that wait to be taken down, and how many of them; of a larger one, only that.
_MOST_WAITING: Final = 64 * 2**20
_MOST_TURNS: Final = 1_000

#: Secrets of clients that are looked for, whoever says them.
_MOST_SHOWN: Final = 256

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
    size: int = 0
    changed: bool = False
    rests_until: float = 0.0

    @classmethod
    def of(cls, path: Path, cassette: Cassette, size: int) -> "_File":
        file = cls(path, cassette, {}, {}, size)
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
        #: What clients have shown, that of late last.
        self._shown: dict[str, None] = {}
        self._redaction = Redaction(self._keys)
        self._files: OrderedDict[str, _File | None] = OrderedDict()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="wspool recorder")
        #: Turns and bytes that were given, and of those what the thread is done with. Each is written by one.
        self._given = self._given_bytes = self._done = self._done_bytes = 0
        self._behind = self._ended = False

    def take(
        self,
        name: str,
        body: Mapping[str, Any],
        events: Sequence[Event],
        error: Exception | None,
        secrets: Iterable[str],
        size: int = 0,
    ) -> None:
        """Have a turn recorded that is over. Never waits, never raises. Of one thread at a time.

        Args:
            name: of its session, or of its client.
            body: of its request, which nobody needs any more.
            events: all that came of it.
            error: what ended it, if that was not the end of its response.
            secrets: what its client has shown.
            size: bytes of its body, about.
        """
        size += sum(len(event.raw) for event in events)
        waiting, waiting_bytes = self._given - self._done, self._given_bytes - self._done_bytes
        if self._ended:
            return
        if waiting and (waiting >= _MOST_TURNS or waiting_bytes + size > _MOST_WAITING):
            if not self._behind:
                logger.error("turns are not recorded now: %d wait to be", waiting)
            self._behind = True
            return
        self._behind = False
        self._given, self._given_bytes = self._given + 1, self._given_bytes + size
        record = partial(self._record, name, body, events, error, list(secrets))
        self._thread.submit(self._take, record, size)

    def save(self) -> None:
        """Write all files that have changed, with all that was taken before. Blocks; never raises."""
        self._thread.submit(self._save_all).result()

    # In the thread.

    def _take(self, record: Callable[[], None], size: int) -> None:
        try:
            if not self._ended:
                record()
        except Exception as problem:  # of whatever a client sent; nobody looks at what the thread raises
            logger.error("a turn was not recorded: %s", type(problem).__name__)
        finally:
            self._done, self._done_bytes = self._done + 1, self._done_bytes + size

    def _record(
        self,
        name: str,
        body: Mapping[str, Any],
        events: Sequence[Event],
        error: Exception | None,
        secrets: Sequence[str],
    ) -> None:
        if new := set(secrets) - self._shown.keys():
            shown = [*self._shown, *new]
            self._shown = dict.fromkeys(shown[-_MOST_SHOWN:])
            self._redaction = Redaction({*self._keys, *self._shown})
        file = self._file(name)
        if file is not None and self._add(file, body, events, error):
            file.changed = True
            if time.monotonic() > file.rests_until:
                self._save(file)
                self._make_room()
        if isinstance(body, WrittenBody):
            body.forget()

    def _save_all(self) -> None:
        for file in [*self._files.values()]:
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
        if name in self._files:
            self._files.move_to_end(name)
        else:
            self._files[name] = self._open(self._folder / f"{name}.json")
        file = self._files[name]
        self._make_room()
        return file

    def _make_room(self) -> None:
        """Let files go that are too much, but for the one that was used last."""
        while len(self._files) > 1:
            held = sum(file.size for file in self._files.values() if file is not None)
            if len(self._files) <= _MOST and held <= _MOST_HELD:
                return
            _, oldest = self._files.popitem(last=False)
            if oldest is not None and oldest.changed:
                self._save(oldest)

    def _open(self, path: Path) -> _File | None:
        try:
            there = path.exists()
            cassette = Cassette.load(path) if there else Cassette(endpoint=self._endpoint)
            return _File.of(path, cassette, path.stat().st_size if there else 0)
        except (OSError, CassetteError) as problem:
            logger.error("nothing is recorded there: %s", problem)
            return None

    def _save(self, file: _File) -> None:
        began = time.monotonic()
        try:
            if not self._ended:
                file.cassette.save(file.path, mode=0o600)  # all that was said is in it
                file.size = file.path.stat().st_size
        except OSError as problem:
            logger.error("recording has ended, for no cassette can be written: %s", problem.strerror)
            self._ended = True
            self._files.clear()
            return
        now = time.monotonic()
        file.rests_until = now + max(_OFTEN, _SELDOM * (now - began))
        file.changed = False
