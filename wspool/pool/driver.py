"""Driver: one turn of a conversation, as many requests as it takes.

What may be sent again is decided by `wspool.core.sending.replay`, what to send by
`wspool.core.sending.chain`; this module performs both on whatever connection there is.

Rules of this module:

* Everything that must hold for a send is looked at after the last wait and right before it: whoever wants
  the turn still wants it, the server lets it send, and there is a lane that can carry it. What was true
  before a wait may not be after it. Between that look and the send there is no checkpoint; where lanes share
  a connection others may go before, and then it is looked at again (`wspool.pool.sender`).
* Nobody sits on a lane while a hold keeps the turn back. A lane got for this send goes back to the line,
  where somebody may be whom the hold does not concern; one that remembers the conversation stays parked.
* What becomes of a request that failed is decided once. A cancelled wait is gone on with later: nothing is
  decided, counted or paid for again.
* A turn counts when the caller has been given its end (see `wspool.pool.turn`): then its input and its
  output are history, and its response is the parent of the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import trio

from wspool.core.encoding import Encoded
from wspool.core.events.steering import Steer
from wspool.core.frames import Event
from wspool.core.items import asks_store, encode_items, without_encrypted_reasoning
from wspool.core.lending.pool import Verdict
from wspool.core.sending.chain import Fields, LaneKey, Plan
from wspool.core.sending.lineage import Lineage
from wspool.core.sending.replay import Recovery, Resends
from wspool.core.server_error import ServerError
from wspool.core.statistics import TransportName, TurnRecord
from wspool.errors import OpenCallsError, WsPoolError
from wspool.pool.attempt import Attempt
from wspool.pool.continuity import Continuity
from wspool.pool.errand import Errand
from wspool.pool.lease import Lease
from wspool.pool.recording import TurnNotes, model_of
from wspool.pool.within import Added

__all__ = ["ConversationDriver"]


class ConversationDriver:
    """Drives one turn of a conversation, within the rules of replay. See `TurnDriver`.

    Also one that brings its history along: then the conversation is that turn.
    """

    def __init__(
        self,
        continuity: Continuity[Lineage],
        items: Sequence[Encoded],
        fields: Fields,
        notice: Callable[[Event], object] | None = None,
        *,
        keep: bool = True,
    ) -> None:
        self._continuity = continuity
        self._keep = keep
        self._notice = notice
        # Encoded: nothing that happens to what they were made of changes what is sent, also again.
        self._items = items
        self._fields = fields
        #: Made once something went wrong.
        self._resends: Resends | None = None
        self.check_use = continuity.owner.check_use
        self.attempt: Attempt | None = None
        self.record: TurnRecord | None = None
        self.added: Added = ()
        self._errand: Errand | None = None
        #: The request that failed last, and what was decided about it.
        self._failed: Attempt | None = None
        self._recovery = Recovery.GIVE_UP
        self._lease: Lease | None = None
        self._plan: Plan | None = None
        self._lane: LaneKey | None = None
        self._named = False
        #: What refused to give encrypted reasoning, if it was not asked for again.
        self._went_plain: ServerError | None = None
        self._transport: TransportName = "websocket"
        #: Whether the lane held the parent that was named last.
        self._held = False
        self._waited_before = continuity.waited
        self._started_at: float | None = None
        self._requests = self._size = self._saved = 0
        #: Bytes of the last of them.
        self._length = 0
        #: What its record says besides, if somebody wants one.
        self._notes: TurnNotes | None = None

    @property
    def awaited(self) -> bool:
        return self._continuity.awaited

    async def start(self) -> None:
        if self._continuity.owner.announcer.sees_turns:
            continuity = self._continuity
            model = model_of(self._fields.get("model"))
            self._notes = TurnNotes(continuity.owner.announcer, continuity.number, model)
            self.added = self._notes.added
        self._errand = self._continuity.enter()
        self._continuity.check_budget()
        if owed := self._continuity.chain.owed(self._items, self._fields):
            raise OpenCallsError(owed)
        await self._send(self._errand)

    async def recover(self, attempt: Attempt, *, exposed: bool) -> bool:
        if self._errand is None:
            raise AssertionError("bug: recovered before it was sent")
        if self._failed is not attempt:
            self._failed = attempt
            self._recovery = self._decide(self._errand, attempt, exposed=exposed)
        if self._recovery is Recovery.GIVE_UP:
            return False
        await self._send(self._errand)
        return True

    async def steer(self, items: list[dict[str, Any]]) -> Steer:
        if self.attempt is None or self._lease is None:
            raise AssertionError("bug: steered before it was sent")
        return await self._lease.steer(items, self.attempt)

    def leave(self, failure: WsPoolError | None, *, told: bool) -> None:
        errand, self._errand = self._errand, None
        attempt, lease = self.attempt, self._lease
        try:
            if errand is not None and attempt is not None and lease is not None:
                if not attempt.ended:
                    lease.give_up(attempt)
                attempt.drop()  # ended or not: the reader may be waiting for somebody to read the rest
                self._close_account(attempt, told=told)
                if attempt.machine.error is not None and attempt.machine.put_off:
                    self._refused(errand, attempt.redactor.server_error(attempt.machine.error))
            self._record(attempt, failure, told=told)
        finally:
            if errand is not None:
                self._continuity.leave(errand)

    def _refused(self, errand: Errand, error: ServerError) -> None:
        owner = self._continuity.owner
        if errand.ticket is not None:
            owner.errands.refused(errand, error, jitter=owner.jitter())

    def _decide(self, errand: Errand, attempt: Attempt, *, exposed: bool) -> Recovery:
        """Decide how the turn goes on after *attempt* failed, and do what follows from that at once."""
        continuity, machine = self._continuity, attempt.machine
        if self._lease is not None:
            self._lease.heed_size(attempt, self._length)
        if errand.stopped:
            return Recovery.GIVE_UP
        resends = self._resends = self._resends or continuity.owner.resends()
        if attempt.lost:
            decision = resends.after_loss(
                machine.delivery,
                machine.error,
                close_code=attempt.close_code,
                output_seen=machine.output_seen,
                # What it was steered by would be lost, or said twice.
                exposed=exposed or machine.steered,
            )
        elif machine.error is not None and (machine.refused or machine.put_off):
            errand.waiter = None
            error = attempt.redactor.server_error(machine.error)
            plain = None if resends.plain else without_encrypted_reasoning(self._fields)
            decision = resends.after_refusal(
                error,
                had_parent=self._plan is not None
                and self._plan.previous_response_id is not None
                and not self._plan.last_resort,
                had_lane=self._named,
                asked_reasoning=plain is not None,
                put_off=machine.put_off,
                key_renews=self._transport == "http" and continuity.owner.dialer.renews_key,
                jitter=continuity.owner.jitter(),
                now=trio.current_time(),
                is_to_blame=continuity.owner.errands.blames(errand, error),
                suspected=0 if errand.suspicion is None else errand.suspicion.times,
            )
            if decision is Recovery.ELSEWHERE and error.refuses_key:
                continuity.owner.dialer.key_refused()
            if resends.plain and plain is not None:
                self._fields, self._went_plain = plain, error
            if decision is Recovery.LATER:
                self._refused(errand, error)
        else:
            decision = Recovery.GIVE_UP
        if decision is Recovery.GIVE_UP:
            return decision
        missing = machine.error is not None and machine.error.is_parent_missing
        continuity.chain.forget_parent(lost_by_server=missing)
        if decision is Recovery.ELSEWHERE:
            continuity.drop_lease("lost" if attempt.lost else "refused")
        elif decision is Recovery.LATER:
            # Somebody else may use the connection meanwhile; what it remembered is gone anyway.
            continuity.drop_lease("refused")
            continuity.owner.errands.pause(errand, resends.delay)
        return decision

    async def _send(self, errand: Errand) -> None:
        """Send the turn on a lane that can carry it, as soon as that may be. A checkpoint."""
        continuity = self._continuity
        try:
            while True:
                # What follows ends in a send, or in a wait. Who is cancelled as that ends goes no further: a
                # wire would notice that only when a request was begun, and be of no use any more.
                await trio.lowlevel.checkpoint_if_cancelled()
                errand.check()
                lease = continuity.usable_lease()
                if not continuity.owner.errands.allows(errand, has_lane=lease is not None):
                    continuity.rest()
                    await continuity.owner.errands.until_allowed(errand)
                elif lease is None:
                    await continuity.take_lease(errand, self._fields)
                elif (begun := self._begin(lease)) is not None:
                    request, attempt = begun
                    if errand.ticket is not None:
                        errand.is_answered = partial(_is_answered, attempt)
                    try:
                        await lease.send(request, attempt)
                    finally:
                        if not attempt.left:
                            self._take_back(len(request))
                    if not attempt.withheld:
                        return
                else:
                    await trio.lowlevel.checkpoint()  # whoever moves takes another lane, maybe without one
        except BaseException:
            if not errand.stopped:  # else whoever stopped it has seen to the lease, or another turn has it
                continuity.rest()
            raise

    def _begin(self, lease: Lease) -> tuple[bytes, Attempt] | None:
        """Begin the turn on *lease*; return what to send at once, or None if that cannot carry it."""
        continuity, lane = self._continuity, lease.lane
        owner = continuity.owner
        if continuity.budget is not None and not self._requests:
            continuity.check_budget()  # again: others have spent from it while this was in line
        key = lease.connection, lane.id
        latest = lane.latest
        takes = owner.takes
        if takes.plain and not takes.asks_reasoning(self._fields.get("model")):
            self._fields = without_encrypted_reasoning(self._fields) or self._fields
        plan = continuity.chain.plan(
            self._items, key, latest, lane.warm_up, self._fields, carried=lane.past.knows, takes=takes
        )
        stream_id = lease.stream_id
        request = plan.request(self._fields, stream_id)
        lease.check_size(request)
        # `usable_lease` has seen to it that it may be used.
        if owner.begin(lease.id, movable=True, history=len(request) + plan.saved) is not Verdict.GO:
            continuity.drop_lease("rotation" if lease.expiring else "taken")
            return None
        continuity.begun(lease)
        self._lease, self._transport = lease, lane.transport
        self._plan, self._lane = plan, key
        now = trio.current_time()
        if plan.previous_response_id is not None:
            self._held = plan.previous_response_id == latest
        self._named = stream_id is not None
        if self._started_at is None:
            self._started_at = now
        elif self._notes is not None and self._notes.first_at is None and self.attempt is not None:
            self._notes.first_at = self.attempt.first_at
        if continuity.budget is not None and not self._requests:
            continuity.budget.begin()
        self._requests += 1
        self._length = len(request)
        self._size += self._length
        self._saved += plan.saved
        continuity.bytes_sent += len(request)
        continuity.bytes_saved += plan.saved
        if plan.full:
            continuity.full_turns += 1
            continuity.say_what_was_changed()
        else:
            continuity.delta_turns += 1
        self.attempt = attempt = Attempt(
            plan.previous_response_id, stream_id, lane.past, owner.announcer.trust
        )
        attempt.machine.keeps = attempt.waits_for_holds = True
        attempt.notice, attempt.keeps = self._notice, self._keep
        attempt.conversation, attempt.sent_at = continuity.number, now
        if continuity.budget is not None:
            # Whoever gets its lane looks at what is left.
            attempt.on_end = partial(self._spend, attempt)
        return request, attempt

    def _take_back(self, size: int) -> None:
        """A request of so many bytes did not leave: it counts nowhere."""
        continuity, plan = self._continuity, self._plan
        if plan is None:
            raise AssertionError("bug: taken back before it was planned")
        self._requests -= 1
        if continuity.budget is not None and not self._requests:
            continuity.budget.begin(-1)
        self._size -= size
        self._saved -= plan.saved
        continuity.bytes_sent -= size
        continuity.bytes_saved -= plan.saved
        if plan.full:
            continuity.full_turns -= 1
        else:
            continuity.delta_turns -= 1

    def _learn(self, plan: Plan) -> None:
        """The turn went well with *plan*: that says what the endpoint takes."""
        owner = self._continuity.owner
        error = self._went_plain
        if error is not None and owner.takes.went_plain(self._fields.get("model")):
            owner.announcer.not_taken("reasoning", error)
        error = None if self._resends is None else self._resends.parent_refused
        if plan.previous_response_id is not None:
            owner.takes.parent_taken()
        elif error is not None and owner.takes.cured(error, held=self._held):
            owner.announcer.not_taken("parents", error)

    def _close_account(self, attempt: Attempt, *, told: bool) -> None:
        """The turn is left; *told* if the caller knows how it ended."""
        continuity, machine = self._continuity, attempt.machine
        plan, lane = self._plan, self._lane
        well = told and not attempt.lost and machine.status in ("completed", "incomplete")
        if well and machine.response is not None and plan and lane:
            continuity.turns += 1
            asked = asks_store(self._fields, by_default=continuity.owner.provider.stores_by_default)
            for index, part in enumerate(machine.parts):
                new = encode_items(part.steered_by) if index else self._items
                continuity.chain.extend(new, part.output, part.id, lane, asked=asked, rooted=plan.rooted)
            if machine.steered and (queued := machine.steers.queued):
                continuity.chain.queue(encode_items(queued))
            continuity.say_what_was_changed()
            continuity.owner.budget.succeeded()
            self._learn(plan)
        else:
            # Whatever went wrong may have cost the server its memory of the parent.
            continuity.chain.forget_parent()
            if machine.remembered is not None:  # by a server whose answer does not count
                continuity.forsake(machine.remembered)
        said = machine.remarks
        if withheld := len(said.get("input_transformations", ())):
            continuity.note_withheld(withheld)
        for part in machine.parts:
            continuity.used(part.remarks.get("usage"))
        self._spend(attempt)

    def _spend(self, attempt: Attempt) -> None:
        """Spend what the server says that its responses have used, once each: nothing else spends for a turn.

        As soon as its end has come; and when it is left, as one that was steered may have a response and no
        end. Only that goes ahead of the news that it is over: what else is told of its usage goes with them.
        """
        if (budget := self._continuity.budget) is not None:
            for part in attempt.machine.parts[attempt.spent :]:
                budget.spend(part.remarks.get("usage"))
            attempt.spent = len(attempt.machine.parts)

    def _record(self, attempt: Attempt | None, failure: WsPoolError | None, *, told: bool) -> None:
        """Tell of the turn, which is over, whoever wants to know."""
        notes, self._notes = self._notes, None
        if notes is None:
            return
        continuity, announcer = self._continuity, self._continuity.owner.announcer
        self.record = notes.record(
            attempt,
            failure,
            told=told,
            sent_at=self._started_at,
            pool=announcer.pool,
            conversation=continuity.number,
            connection=self._lane[0] if self._lane is not None else None,
            lane=self._lane[1] if self._lane is not None else None,
            full=self._plan is None or self._plan.full,
            waited=continuity.waited - self._waited_before,
            requests=self._requests,
            bytes_sent=self._size,
            bytes_saved=self._saved,
            transport=self._transport,
            tool_errors=continuity.told_errors,
            given=(self._items, self._fields.get("instructions")) if announcer.wants_content else None,
            items=continuity.chain.counts(self._items, self._plan),
            why_full=self._plan.why if self._plan is not None else None,
        )
        announcer.turned(self.record)


def _is_answered(attempt: Attempt) -> bool:
    return attempt.machine.response_id is not None and not attempt.machine.put_off
