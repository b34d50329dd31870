"""Orphans: turns whose WebSocket client has vanished. If it comes back and asks the same, it is given what it
missed, and nothing is paid for twice.

Rules of this module:

* A frame has no header by which it could say that it repeats another. So it does if it comes from the same
  client (identity, token, session, path), says the same to the byte, and whoever asked first was gone before
  the end. Parallel samples are asked for by clients that are there; each orphan is given to one only.
* It is given from its first event, while it still runs or for a moment after it has ended well. One that went
  wrong is not: the client has asked again, and is answered anew.
* What is kept is bounded, in bytes of one and of all.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Final, cast

import trio

from wspool.core.error import Delivery
from wspool.core.events.steering import Steer
from wspool.core.frames import Event, MalformedMessageError
from wspool.errors import PoolClosedError, SteeringRefusedError, WsPoolError

__all__ = ["Followed", "Orphans", "Run"]

#: Bytes of events that are kept of one turn, and of all whose clients have left.
_OF_ONE: Final = 2 * 2**20
_OF_ALL: Final = 64 * 2**20
#: Of one that somebody is given, who has not taken them yet: more than a slow line is behind.
_UNREAD: Final = 8 * 2**20


class Run:
    """One turn of a WebSocket client, as far as it came.

    Args:
        key: who asks, and what.
        number: of its request.

    Attributes:
        events: all of it so far, or what its reader has not taken; none once there were too many.
        ended: True once nothing more comes.
        error: what ended it, if that was not the end of its turn.
        until: when it is forgotten, on trio's clock.
        reader: whether somebody is given it.
        drop: gives it up; None while its own client is there.
    """

    def __init__(self, key: Hashable, number: int) -> None:
        self.key, self.number = key, number
        self.events: list[Event] | None = []
        self.size = 0
        self.ended = self.reader = False
        self.error: Exception | None = None
        self.until = math.inf
        self.drop: Callable[[float], object] | None = None
        self._news = trio.Event()

    def write(self, events: Sequence[Event], size: int) -> None:
        """More of it came. Never waits."""
        self.size += size
        if self.size > (_UNREAD if self.reader else _OF_ONE):
            self.events = None
        if self.events is not None:
            self.events.extend(events)
        self.ring()

    def take(self) -> list[Event] | None:
        """Return what its reader has not taken yet; None if that is gone. Never waits."""
        if (events := self.events) is not None:
            self.events, self.size = [], 0
        return events

    def ring(self) -> None:
        """Wake who is given it."""
        news, self._news = self._news, trio.Event()
        news.set()

    async def more(self) -> None:
        """Wait for more of it, or its end."""
        await self._news.wait()


class Orphans:
    """The turns whose clients have left. Used in one trio run.

    Args:
        keep: seconds for which one is kept after its end; 0 for none at all.
    """

    def __init__(self, keep: float) -> None:
        self._keep = keep
        #: The oldest first.
        self._runs: OrderedDict[Run, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._runs)

    def left(self, run: Run, drop: Callable[[float], object]) -> None:
        """Its client is gone.

        Args:
            drop: ends the turn at that time, on trio's clock.
        """
        run.drop = drop
        if self._keep and run.events is not None and not run.ended:
            self._runs[run] = None
            self._bound()

    def over(self, run: Run, error: Exception | None, *, keep: bool) -> None:
        """It has ended.

        Args:
            error: what ended it, if that was not its own end.
            keep: whether it ended well.
        """
        run.ended, run.error = True, error
        run.until = trio.current_time() + self._keep
        if not keep or run.reader:
            self._runs.pop(run, None)
        self._bound()
        run.ring()

    def find(self, key: Hashable) -> Run | None:
        """Return the turn that is asked for again by *key*, None if none is; it is nobody else's then."""
        self._bound()
        for run in self._runs:
            if run.key == key and run.events is not None:
                del self._runs[run]
                run.reader = True
                if run.drop is not None:
                    run.drop(math.inf)
                return run
        return None

    def _bound(self) -> None:
        now, size = trio.current_time(), 0
        for run in list(reversed(self._runs)):
            size += run.size
            if run.until <= now or run.events is None or size > _OF_ALL:
                del self._runs[run]


def id_of(event: Event) -> str | None:
    """Return the id of the response that begins with *event*."""
    try:
        said: object = event.data.get("response")
    except MalformedMessageError:
        return None
    name: object = cast("Mapping[str, Any]", said).get("id") if isinstance(said, Mapping) else None
    return name if isinstance(name, str) else None


class Followed:
    """A turn that another client began, for whoever is given it. As much of `Turn` as is asked of one."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._response_id: str | None = None

    @property
    def response_id(self) -> str | None:
        """Id of the response, once it was created."""
        return self._response_id

    @property
    def delivery(self) -> Delivery:
        """It was sent."""
        return "accepted"

    @property
    def ended(self) -> bool:
        """Whether all of it was given."""
        return self._run.ended and not self._run.events

    @property
    def failure(self) -> WsPoolError | None:
        """What its client was told is told by its events."""
        return None

    async def steer(self, input: object) -> Steer:
        """Refuse: it was begun by another. A checkpoint."""
        await trio.lowlevel.checkpoint()
        message = "A turn that was asked for before is not steered."
        raise SteeringRefusedError(message, delivery="not_sent", code="response_not_active")

    async def batch(self) -> Sequence[Event]:
        """Return the next events, none at the end. A checkpoint.

        Raises what ended the turn, if that was not its end.
        """
        await trio.lowlevel.checkpoint()
        run = self._run
        while run.events == [] and not run.ended:
            await run.more()
        if (batch := run.take()) is None:
            raise PoolClosedError("the turn that was asked for before is gone")
        for event in batch if self._response_id is None else ():
            if event.type == "response.created":
                self._response_id = id_of(event)
        if not batch and run.error is not None:
            raise run.error
        return batch

    def leave(self) -> None:
        """Whoever was given it is gone, too. Never waits."""
        if not self._run.ended and self._run.drop is not None:
            self._run.drop(trio.current_time())
