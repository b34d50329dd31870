"""Driver: one turn of a conversation, as many requests as it takes.

What may be sent again is decided by `wspool.core.sending.replay`, what to send by
`wspool.core.sending.chain`; this module performs both on whatever connection there is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import trio

from wspool.core.events.steering import Steer
from wspool.core.frames import encode
from wspool.core.lending.pool import Verdict
from wspool.core.sending.chain import Item
from wspool.core.sending.replay import Recovery, Retries
from wspool.core.statistics import TurnRecord
from wspool.pool.attempt import Attempt
from wspool.pool.continuity import Continuity
from wspool.pool.lease import Lease

__all__ = ["ContinuousTurn"]


class ContinuousTurn:
    """Drives one turn of a conversation: as many requests as it takes, within the rules of replay."""

    def __init__(self, continuity: Continuity, items: list[Item], body: Mapping[str, Any]) -> None:
        self._continuity = continuity
        self._items = items
        self._body = body
        owner = continuity.owner
        self._retries = Retries(owner.policy.replay, owner.policy.max_resends, owner.budget)
        self.attempt: Attempt | None = None
        self._active = False
        self._lease: Lease | None = None
        self._parent: str | None = None
        self._named = False
        self._full = True
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
                had_parent=self._parent is not None,
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

    async def steer(self, items: list[Item]) -> Steer:
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
        if status in ("completed", "incomplete") and machine.response is not None:
            continuity.turns += 1
            if self._lease is not None:
                self._lease.park()  # until the next turn; its tools may take long
            for index, part in enumerate(machine.parts):
                continuity.chain.extend(
                    part.steered_by if index else self._items,
                    part.response["output"],
                    str(part.response.get("id")),
                    stored=self._body.get("store") is True,
                )
            continuity.chain.queue(machine.steers.queued)
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
                    full=self._full,
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
            plan = continuity.chain.plan(self._items, lane.latest, lane.warm_up, self._body)
            body: dict[str, Any] = {"type": "response.create", **self._body}
            stream_id = lease.stream_id
            if stream_id is not None:
                body["stream_id"] = stream_id
            if plan.previous_response_id is not None:
                body["previous_response_id"] = plan.previous_response_id
            body["input"] = plan.input
            request = encode(body)
            lease.check_size(request)
            if lease.begin(movable=True) is Verdict.GO:
                break
            continuity.drop_lease("rotation" if lease.expiring else "taken")
        self._lease = lease
        self._parent, self._full = plan.previous_response_id, plan.full
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
        await lease.send(request, self.attempt)
