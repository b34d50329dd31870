"""Repeats: a client that asks again for what is being answered already is answered with that.

An SDK that lost its connection sends the same request again. The first run may still go on, and both would be
paid for. Rules of this module:

* Only a request that says that it is a repetition is one (`x-stainless-retry-count` above 0), or that carries
  the name of another (`Idempotency-Key`). Parallel samples of one prompt are none.
* It is one of the same client: the same identity, token, path, body, byte for byte.
* It joins a run that goes on, from its first byte. A run that ended well after its client had left is kept
  for a moment. One that failed is not repeated: the client has asked again, and is answered anew.
* What is kept is bounded; what grows too large cannot be joined any more.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable
from hashlib import blake2b
from typing import Final

import h11
import trio

from wspool.proxy.headers import header
from wspool.proxy.ways import Before, Repetition, repetition

__all__ = ["Repeats", "Run", "is_marked"]

#: Whose a request is, and its body.
Key = tuple[Hashable, bytes]

#: Bytes that are kept of one answer, and of all.
_OF_ONE: Final = 2 * 2**20
_OF_ALL: Final = 64 * 2**20

_RETRIES: Final = b"x-stainless-retry-count"
_NAME: Final = b"idempotency-key"
_MARKS: Final = frozenset({_RETRIES, _NAME})


class Run:
    """One turn, as far as its answer was written.

    Attributes:
        number: of its request.
        headers: of the head of its answer.
        pieces: of the body.
        wrote_at: when the latest of them was written, on trio's clock.
        ended: True once nothing more comes.
        good: whether it ended well.
        cut: whether it has no end.
        joined: how many read it beside the first client.
        lost: True once it cannot be joined any more.
    """

    def __init__(self, repeats: Repeats, key: Key, number: int) -> None:
        self.number = number
        self.headers: list[tuple[str, str]] | None = None
        self.pieces: list[bytes] = []
        self.ended = self.good = self.cut = self.lost = False
        self.wrote_at = trio.current_time()
        self.joined = 0
        self.size = 0
        self.until = math.inf
        self.key = key
        self._repeats = repeats
        self._news = trio.Event()

    def write(self, piece: bytes) -> None:
        """A piece of the body was written."""
        if piece and not self.lost:
            self.pieces.append(piece)
            self.wrote_at = trio.current_time()
            self.size += len(piece)
            self._repeats.grew(self, len(piece))
            self._ring()

    def end(self, *, good: bool, left: bool) -> None:
        """It is over.

        Args:
            good: whether it ended well.
            left: whether its client had left before.
        """
        if not self.ended:
            self.ended, self.good = True, good
            self._repeats.over(self, keep=good and left)
            self._ring()

    async def more(self) -> None:
        """Wait for more of it, or its end."""
        await self._news.wait()

    def _ring(self) -> None:
        news, self._news = self._news, trio.Event()
        news.set()


class Repeats:
    """The turns of one proxy that can be joined.

    Args:
        keep: seconds for which one is kept after its end; 0 for no joining at all.
    """

    def __init__(self, keep: float) -> None:
        self._keep = keep
        self._runs: OrderedDict[Key, Run] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return len(self._runs)

    def find(self, request: h11.Request, whose: Hashable, raw: bytes) -> Run | None:
        """Return the run that a request repeats, None if it repeats none.

        Args:
            whose: what tells the client from others.
            raw: the body, as it came.
        """
        if not self._keep or not is_marked(request):
            return None  # its words are not looked at
        self._expire()
        run = self._runs.get(_key(request, whose, raw))
        return run if _repetition(request, run) == "join" else None

    def begin(self, request: h11.Request, whose: Hashable, raw: bytes, number: int) -> Run | None:
        """Return the run of a request that may be repeated; None if it never is."""
        if not self._keep or not is_marked(request):
            return None
        self._expire()
        key = _key(request, whose, raw)
        if (before := self._runs.get(key)) is not None and not before.ended:
            return None  # it cannot be joined, or is another sample
        if before is not None:
            self._drop(before)
        run = self._runs[key] = Run(self, key, number)
        return run

    def grew(self, run: Run, by: int) -> None:
        """*run* has so many bytes more."""
        if self._runs.get(run.key) is not run:
            return  # those who have joined it already read on
        self._size += by
        if run.size > _OF_ONE:
            self._drop(run)
        while self._size > _OF_ALL and self._runs:
            self._drop(next(iter(self._runs.values())))

    def over(self, run: Run, *, keep: bool) -> None:
        """*run* has ended."""
        run.until = trio.current_time() + self._keep
        if not keep:
            self._drop(run)

    def _expire(self) -> None:
        now = trio.current_time()
        for run in [run for run in self._runs.values() if run.until <= now]:
            self._drop(run)

    def _drop(self, run: Run) -> None:
        """Nobody joins it any more; who has, reads on."""
        if self._runs.get(run.key) is run:
            del self._runs[run.key]
            self._size -= run.size
            run.lost = not run.joined
            if run.lost:
                run.pieces = []


def is_marked(request: h11.Request) -> bool:
    """Return whether a request may repeat another, or be repeated: nearly none says so."""
    return any(value and name in _MARKS for name, value in request.headers)


def _repetition(request: h11.Request, run: Run | None) -> Repetition:
    before: Before = "nothing" if run is None else "ended" if run.ended else "running"
    return repetition(header(request, _RETRIES), header(request, _NAME), before)


def _key(request: h11.Request, whose: Hashable, raw: bytes) -> Key:
    return (whose, header(request, _NAME)), blake2b(raw, digest_size=32).digest()
