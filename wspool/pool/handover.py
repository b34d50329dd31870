"""Handover: what goes from the pool's trio run to one reader, who may be in any thread or loop.

It is pushed: the reader asks once, and from then on finds what has come. To cross from one thread to another
costs as much as a hundred events. Rules of this module:

* The reader is woken only if it waits, and once for all that came together.
* What it has not taken is bounded in bytes; then the run waits, and so does the server.
* Each count and flag is written by one side only, so that no lock is needed. A side that is about to wait
  says so first and then looks once more; the other acts first and then looks who waits.
* So who is woken looks, and waits again if nothing is there: it may have been for what was taken before.
* What was written and not taken has been given to nobody.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

import trio

from wspool.core.frames import Event
from wspool.pool.turn import Turn

__all__ = ["MOST_UNREAD", "EventsOut", "Handover", "hand_over", "let_go"]

_T = TypeVar("_T")

#: Most bytes that wait for their reader.
MOST_UNREAD: Final = 2**20


class Handover(Generic[_T]):
    """Pieces of something on their way to a reader.

    Args:
        most: bytes that wait for the reader at most.

    Attributes:
        begun: True once there is something to wait for more of.
        crowded: called when so many wait, and who writes does.
        most: bytes that wait for the reader at most.
        ended: True once nothing more will be written.
        abandoned: True once the reader has left.
    """

    __slots__ = (
        "_bell",
        "_pieces",
        "_read",
        "_room",
        "_written",
        "abandoned",
        "begun",
        "crowded",
        "ended",
        "most",
    )

    def __init__(self, *, most: int | None = None) -> None:
        self.most = MOST_UNREAD if most is None else most
        self.crowded: Callable[[], object] = lambda: None
        self.begun = self.ended = self.abandoned = False
        self._pieces: deque[tuple[_T, int]] = deque()
        self._written = self._read = 0
        self._room: trio.Event | None = None
        #: What wakes the reader, while it waits: one at most. Its two ends are the two sides'.
        self._bell: deque[Callable[[], object]] = deque(maxlen=1)

    # -- for who writes, in the pool's trio run -------------------------------------------------

    def begin(self) -> None:
        """Let the reader know that there is something to read, or will be. Never waits."""
        self.begun = True
        self.ring()

    def put(self, piece: _T, size: int) -> None:
        """Write a piece of *size* bytes. The reader finds it; `ring` or `end` must follow. Never waits."""
        if not self.abandoned:
            self._pieces.append((piece, size))
            self._written += size

    def end(self) -> None:
        """Nothing more will be written. Never waits."""
        self.ended = True
        self.ring()

    def ring(self) -> None:
        """Wake the reader, if it waits."""
        if self._bell:
            self._bell.pop()()

    async def room(self) -> None:
        """Wait while too much is unread, of which the reader is told; a checkpoint only then."""
        while self._is_full():
            self.ring()
            self._room = room = trio.Event()
            if not self._is_full():  # the reader may be another thread
                break
            self.crowded()
            await room.wait()
        self._room = None

    def make_room(self) -> None:
        """Something was read, or is wanted."""
        if self._room is not None:
            self._room.set()

    def abandon(self) -> None:
        """The reader has left. Never waits, and twice is once."""
        self.abandoned = True
        self._pieces.clear()
        self.make_room()

    @property
    def has_more(self) -> bool:
        """Whether a piece, or the end, is there."""
        return bool(self._pieces) or self.ended

    @property
    def is_crowded(self) -> bool:
        """Whether who writes waits for the reader."""
        return self._room is not None

    def _is_full(self) -> bool:
        return self._written - self._read > self.most and not self.abandoned

    # -- for the reader -------------------------------------------------------------------------

    def wait_to_begin(self, bell: Callable[[], object]) -> bool:
        """Have *bell* called in the pool's thread once it has begun, or ended without.

        Return False if that is so already. It may be called without, for what was taken before: ask anew.
        """
        return self._listen(lambda: self.begun or self.ended, bell)

    def wait_to_end(self, bell: Callable[[], object]) -> bool:
        """As `wait_to_begin`, for the end."""
        return self._listen(lambda: self.ended, bell)

    def wait_for_more(self, bell: Callable[[], object]) -> bool:
        """As `wait_to_begin`, for a piece or the end."""
        return self._listen(lambda: self.has_more, bell)

    def _listen(self, is_there: Callable[[], bool], bell: Callable[[], object]) -> bool:
        if is_there():
            return False
        self._bell.append(bell)
        return not is_there()  # it may have come meanwhile

    def take(self) -> tuple[list[_T], bool]:
        """Return all that is there, and whether who writes waits for that (`make_room`)."""
        pieces: list[_T] = []
        while self._pieces:
            piece, size = self._pieces.popleft()
            pieces.append(piece)
            self._read += size
        return pieces, self._room is not None


class EventsOut(Handover[Sequence[Event]]):
    """The events of a turn on their way to its caller.

    Attributes:
        wanted: True once the caller has asked for events. Until then none is taken from the turn: it may want
            nothing but the response, and whoever was given no output can have the turn sent again.
        last: the last event of all, once it was written. Whoever takes it has been given the end.
    """

    __slots__ = ("last", "wanted")

    def __init__(self) -> None:
        super().__init__()
        self.wanted = False
        self.last: Event | None = None

    def _is_full(self) -> bool:
        return super()._is_full() or not (self.wanted or self.abandoned)

    def wait_for_more(self, bell: Callable[[], object]) -> bool:
        self.wanted = True
        return super().wait_for_more(bell)


async def hand_over(turn: Turn, out: EventsOut) -> None:
    """Enter *turn*, and write its events to *out* as they come, once they are wanted. A checkpoint.

    It ends with the turn, or when that is left; then `EventsOut.end` must follow. Cancelling leaves the turn.
    Raises what entering raises, and what iterating does.
    """
    await turn.__aenter__()
    out.begin()
    try:
        await turn.begun()  # nearly always they are wanted by then, and nobody has to be told so
        await out.room()
        while not out.abandoned and (events := await turn.batch()):
            if turn.ended:
                out.last = events[-1]
            out.put(events, sum([len(event.raw) for event in events]))
            if turn.ended:
                break
            if not turn.at_hand:
                out.ring()
            await out.room()
    except trio.Cancelled:
        turn.leave(given=False)
        raise


def let_go(turn: Turn, out: EventsOut, given: bool) -> None:
    """Leave a turn that is handed over. Never waits.

    Args:
        given: whether the caller has taken the end. By that the turn counts, not by what was pushed.
    """
    out.abandon()
    turn.leave(given=given)
