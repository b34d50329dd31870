"""Continuity: what a conversation carries from turn to turn, and the driver of one turn.

What may be sent again is decided by `wspool.core.sending.replay`, what to send by
`wspool.core.sending.chain`; this module performs both on whatever connection there is.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import trio

from wspool.core.commands import ConnectionId
from wspool.core.encoding import Encoded
from wspool.core.events.steering import Steer
from wspool.core.items import encode_items
from wspool.core.lending.pool import Verdict
from wspool.core.policy import PoolPolicy
from wspool.core.sending.chain import Chain, Fields, LaneKey, Plan
from wspool.core.sending.replay import Recovery, Retries, RetryBudget
from wspool.core.statistics import ConversationStatistics, Move, MoveReason, TurnRecord
from wspool.errors import PoolClosedError, TurnInFlightError
from wspool.pool.attempt import Attempt
from wspool.pool.lease import Lease
from wspool.wire.answer import Answer

__all__ = ["Continuity", "ContinuityOwner", "ContinuousTurn"]


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


class ContinuousTurn:
    """Drives one turn of a conversation: as many requests as it takes, within the rules of replay."""

    def __init__(self, continuity: Continuity, items: Sequence[Encoded], fields: Fields) -> None:
        self._continuity = continuity
        # Encoded: nothing that happens to what they were made of changes what is sent, also again.
        self._items = items
        self._fields = fields
        owner = continuity.owner
        self._retries = Retries(owner.policy.replay, owner.policy.max_resends, owner.budget)
        self.attempt: Attempt | None = None
        self._active = False
        self._lease: Lease | None = None
        self._plan: Plan | None = None
        self._lane: LaneKey | None = None
        self._named = False
        self._waited_before = continuity.waited
        self._started_at: float | None = None
        self._requests = self._size = self._saved = 0

    async def start(self) -> None:
        self._continuity.enter()
        self._active = True
        await self._send()

    async def recover(self, attempt: Attempt, *, exposed: bool) -> bool:
        machine = attempt.machine
        self._note_wait(attempt)
        if attempt.lost:
            decision = self._retries.after_loss(
                machine.delivery,
                machine.error,
                close_code=attempt.close_code,
                output_seen=machine.output_seen,
                # What it was steered by would be lost, or said twice.
                exposed=exposed or machine.steered,
            )
        elif machine.refused and machine.error is not None:
            decision = self._retries.after_refusal(
                machine.error,
                had_parent=self._plan is not None and self._plan.previous_response_id is not None,
                had_lane=self._named,
                jitter=self._continuity.owner.jitter(),
            )
        else:
            decision = Recovery.GIVE_UP
        if decision is Recovery.GIVE_UP:
            return False
        missing = machine.error is not None and machine.error.is_parent_missing
        self._continuity.chain.forget_parent(lost_by_server=missing)
        if decision is Recovery.ELSEWHERE:
            self._continuity.drop_lease("lost" if attempt.lost else "refused")
        elif decision is Recovery.LATER:
            # Somebody else may use the connection meanwhile; what it remembered is gone anyway.
            self._continuity.drop_lease("refused")
            await trio.sleep(self._retries.delay)
        await self._send()
        return True

    async def steer(self, items: list[dict[str, Any]]) -> Steer:
        if self.attempt is None or self._lease is None:
            raise AssertionError("bug: steered before it was sent")
        return await self._lease.steer(items, self.attempt)

    def _note_wait(self, attempt: Attempt) -> None:
        """What one turn is asked to wait, the whole endpoint waits."""
        error = attempt.machine.error
        if error is not None and error.retry_after and error.may_pass:
            self._continuity.owner.hold(error.retry_after)

    def leave(self) -> None:
        if not self._active:
            return
        continuity, attempt = self._continuity, self.attempt
        self._active = continuity.in_turn = False
        if attempt is None:
            return  # nothing was sent, and nothing has changed
        machine = attempt.machine
        status = attempt.status
        if not attempt.ended and self._lease is not None:
            self._lease.give_up(attempt)
        attempt.drop()  # ended or not: the reader may be waiting for somebody to read the rest
        plan, lane = self._plan, self._lane
        if status in ("completed", "incomplete") and machine.response is not None and plan and lane:
            continuity.turns += 1
            if self._lease is not None:
                self._lease.park()  # until the next turn; its tools may take long
            stored = plan.rooted and self._fields.get("store") == b"true"
            for index, part in enumerate(machine.parts):
                new = encode_items(part.steered_by) if index else self._items
                continuity.chain.extend(new, part.output, part.id, lane, stored=stored)
            continuity.chain.queue(encode_items(machine.steers.queued))
            continuity.owner.budget.succeeded()
        else:
            # Whatever went wrong may have cost the server its memory of the parent.
            continuity.chain.forget_parent()
            self._note_wait(attempt)
        if self._started_at is not None:
            continuity.owner.record(
                TurnRecord(
                    conversation=continuity.number,
                    connection=continuity.last_connection,
                    response_id=machine.response_id,
                    full=plan is None or plan.full,
                    status=status,
                    delivery=machine.delivery,
                    waited=continuity.waited - self._waited_before,
                    duration=trio.current_time() - self._started_at,
                    requests=self._requests,
                    bytes_sent=self._size,
                    bytes_saved=self._saved,
                    events=len(attempt.events),
                )
            )

    async def _send(self) -> None:
        """Send the turn on a lease that can carry it, taking one if needed."""
        continuity = self._continuity
        while True:
            await continuity.owner.until_held()
            lease = await continuity.take_lease()
            # From here to the send there is no checkpoint: what is planned for this lane is
            # what is sent on it.
            lane = lease.lane
            key = ConnectionId(lease.connection), lane.id
            plan = continuity.chain.plan(self._items, key, lane.latest, lane.warm_up, self._fields)
            stream_id = lease.stream_id
            request = plan.request(self._fields, stream_id)
            lease.check_size(request)
            if lease.begin(movable=True) is Verdict.GO:
                break
            continuity.drop_lease("rotation" if lease.expiring else "taken")
        self._lease = lease
        self._plan, self._lane = plan, key
        self._named = stream_id is not None
        if self._started_at is None:
            self._started_at = trio.current_time()
        self._requests += 1
        self._size += len(request)
        self._saved += plan.saved
        continuity.bytes_sent += len(request)
        continuity.bytes_saved += plan.saved
        if plan.full:
            continuity.full_turns += 1
        else:
            continuity.delta_turns += 1
        self.attempt = Attempt(plan.previous_response_id, stream_id)
        self.attempt.machine.keeps = True
        await lease.send(request, self.attempt)
