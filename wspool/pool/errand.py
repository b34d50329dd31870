"""Errand: what one turn, or one compaction, does by itself; all of a pool are its `Errands`."""

from __future__ import annotations

import math
from collections.abc import Callable

import trio

from wspool.core.commands import WaiterId
from wspool.core.sending.blame import Suspicion
from wspool.core.sending.pace import Ticket
from wspool.errors import PoolClosedError

__all__ = ["Errand"]


class Errand:
    """What one turn, or one compaction, does by itself. Made by `Continuity.enter`.

    Attributes:
        conversation: number of the conversation that it is of, if it is of one.
        stopped: why it may not go on, or an empty text.
        scope: ends what it waits for or does at the moment, if anything.
        paused_until: when its own pause is over, in seconds.
        lifted: ends that pause before its time.
        place: in line, from when it came first or was refused last; None until it has one.
        waiter: its number in line for a lane, from then on as well.
        called: set when it is the first in line, while it waits for that.
        ticket: its part in the pace of the pool, while it is at work and there is a pace.
        suspicion: what speaks against it, once it may be what the endpoint stumbles over.
        is_answered: says whether the endpoint has begun to answer it, once it was sent.
    """

    __slots__ = (
        "called",
        "conversation",
        "is_answered",
        "lifted",
        "paused_until",
        "place",
        "scope",
        "stopped",
        "suspicion",
        "ticket",
        "waiter",
    )

    def __init__(self, conversation: int | None = None) -> None:
        self.conversation = conversation
        self.stopped = ""
        self.scope: trio.CancelScope | None = None
        self.paused_until = -math.inf
        self.lifted: trio.Event | None = None
        self.place: int | None = None
        self.waiter: WaiterId | None = None
        self.called: trio.Event | None = None
        self.ticket: Ticket | None = None
        self.suspicion: Suspicion | None = None
        self.is_answered: Callable[[], bool] | None = None

    def stop(self, why: str) -> None:
        """End what it waits for or does, and let it begin nothing more. The first word counts."""
        self.stopped = self.stopped or why
        if self.scope is not None:
            self.scope.cancel()

    def check(self) -> None:
        """Raise `PoolClosedError` if it was stopped."""
        if self.stopped:
            raise PoolClosedError(f"{self.stopped}; nothing was sent")
