"""Continuity: what a conversation carries from turn to turn: its chain, its lease, its account."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Protocol

import trio

from wspool.core.policy import PoolPolicy
from wspool.core.sending.chain import Chain
from wspool.core.sending.replay import RetryBudget
from wspool.core.statistics import ConversationStatistics, Move, MoveReason, TurnRecord
from wspool.errors import PoolClosedError, TurnInFlightError
from wspool.pool.lease import Lease
from wspool.wire.answer import Answer

__all__ = ["Continuity", "ContinuityOwner"]


class ContinuityOwner(Protocol):
    """What a conversation needs of its pool."""

    policy: PoolPolicy
    budget: RetryBudget

    def next_conversation(self) -> int: ...
    def hold(self, seconds: float) -> None: ...
    async def until_held(self) -> None: ...
    def jitter(self) -> float: ...
    async def acquire(self) -> Lease: ...
    async def post(self, suffix: str, body: bytes) -> Answer: ...
    def moved(self, move: Move) -> None: ...
    def record(self, record: TurnRecord) -> None: ...


class Continuity:
    """The chain of one conversation, its lease, and its account.

    Attributes:
        chain: lineage and history.
        in_turn: True while a turn has not been left.
        closed: True once no further turn is possible.
        last_connection: number of the connection it was on last.
        waited: seconds in line so far.
    """

    def __init__(self, owner: ContinuityOwner, number: int, chain: Chain) -> None:
        self.owner = owner
        self.number = number
        self.chain = chain
        self.in_turn = False
        self.closed = False
        self.last_connection: int | None = None
        self.waited = 0.0
        self.turns = self.delta_turns = self.full_turns = 0
        self.moves = self.rotations = self.retries = self.tool_calls = self.bytes_sent = self.bytes_saved = 0
        self._lease: Lease | None = None
        self._why: MoveReason = "lost"

    @contextmanager
    def exclusive(self) -> Generator[None, None, None]:
        """Keep turns out for the length of a `with` block.

        Raises:
            PoolClosedError, TurnInFlightError: now is no time for it.
        """
        self.enter()
        try:
            yield
        finally:
            self.in_turn = False

    def enter(self) -> None:
        """Begin a turn, or what excludes one. Raises what `exclusive` raises."""
        if self.closed:
            raise PoolClosedError("the conversation is closed; nothing was sent")
        if self.in_turn:
            raise TurnInFlightError("a turn of this conversation has not ended; nothing was sent")
        self.in_turn = True

    async def take_lease(self) -> Lease:
        """Return a lease on which a turn can be tried, waiting in line if there is none."""
        await trio.lowlevel.checkpoint()
        lease = self._lease
        if lease is not None and lease.alive and lease.lane.attempt is None:
            return lease
        # None yet, lost, taken, or still busy with the rest of a turn that was given up.
        if lease is not None:
            self.drop_lease(_reason(lease))
        since = trio.current_time()
        while True:
            lease = self._lease = await self.owner.acquire()
            if lease.alive:
                break
            self.drop_lease()  # its connection died in the very moment of the grant
        self.waited += trio.current_time() - since
        if self.last_connection is not None and self.last_connection != lease.connection:
            self.moves += 1
            self.rotations += self._why == "rotation"
            self.owner.moved(
                Move(
                    conversation=self.number,
                    before=self.last_connection,
                    after=lease.connection,
                    reason=self._why,
                )
            )
        self.last_connection = lease.connection
        return lease

    def drop_lease(self, why: MoveReason | None = None) -> None:
        """Give the lease back, if there is one.

        Args:
            why: the reason of the move that may follow; None if there is nothing to say.
        """
        if why is not None:
            self._why = why
        if self._lease is not None:
            lease, self._lease = self._lease, None
            lease.release()

    def statistics(self) -> ConversationStatistics:
        """Return a frozen snapshot."""
        return ConversationStatistics(
            turns=self.turns,
            delta_turns=self.delta_turns,
            full_turns=self.full_turns,
            moves=self.moves,
            rotations=self.rotations,
            retries=self.retries,
            tool_calls=self.tool_calls,
            bytes_sent=self.bytes_sent,
            bytes_saved=self.bytes_saved,
        )


def _reason(lease: Lease) -> MoveReason:
    """Why no turn can be tried on *lease*."""
    if lease.alive:
        return "busy"
    if lease.taken:
        return "taken"
    return "rotation" if lease.expiring else "lost"
