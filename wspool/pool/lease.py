"""Lease: the exclusive right to one lane of one connection.

The low level: no history, no resend. A lease dies with its connection, and every use of a
dead lease is a clear error without I/O. So is every use in another thread, trio run or process than the
pool's: whatever does anything looks at that first (`check_use`).
"""

from __future__ import annotations

from typing import Any, Final, Protocol, cast

import trio
from trio.lowlevel import (
    cancel_shielded_checkpoint,
    checkpoint_if_cancelled,
    enable_ki_protection,
)

from wspool.core.commands import CloseReason, LeaseId, WaiterId
from wspool.core.encoding import read
from wspool.core.events.steering import Steer
from wspool.core.events.turn import TurnState
from wspool.core.frames import encode
from wspool.core.lending.pool import Verdict
from wspool.core.sending.takes import Takes
from wspool.core.server_error import ServerError
from wspool.core.statistics import MoveReason, TransportName, TurnRecord
from wspool.errors import (
    PoolClosedError,
    RequestTooLargeError,
    SteeringRefusedError,
    TurnInFlightError,
    WsPoolError,
)
from wspool.pool.attempt import Attempt
from wspool.pool.connection import Connection
from wspool.pool.link import Host, Lane
from wspool.pool.outcome import lost
from wspool.pool.recording import Given, TurnNotes, model_of
from wspool.pool.silence import bound_silence
from wspool.pool.turn import Turn
from wspool.pool.ways import AsyncBlock
from wspool.pool.within import Added
from wspool.wire.wire import WireClosedError

__all__ = ["Lease", "LeaseBlock", "LeaseOwner"]

# A member of an enum is looked up by a function call in Python 3.11, a global is not.
_MOVE: Final = Verdict.MOVE

#: Fields that have no meaning on a connection, and what to do instead.
_REFUSED_FIELDS = {
    "background": "background responses are not offered over WebSocket; use HTTP",
    "stream_id": "lanes are the pool's business; leave it out",
}


#: Why a connection ends, where that was nobody's plan.
_UNPLANNED: Final = frozenset({CloseReason.LOST, CloseReason.DIRTY, CloseReason.UNSUITABLE})


class LeaseOwner(Host, Protocol):
    """What a lease needs of its pool besides: to be taken, used in the right place, and given back."""

    takes: Takes

    def check_use(self) -> None: ...
    def check_life(self, min_remaining: float) -> None: ...
    def next_waiter(self) -> WaiterId: ...
    def ask(self, waiter: WaiterId, min_remaining: float, prefer: str | None, warm: bool) -> Lease | None: ...
    async def wait(self, waiter: WaiterId) -> Lease: ...
    def begin(self, lease: LeaseId, *, movable: bool, history: int = 0) -> Verdict: ...
    def release(self, lease: LeaseId) -> None: ...


class Lease:
    """The right to one lane of one connection; made by `Pool.lease`.

    Attributes:
        lane: the lane that it holds.
        connection: number of the connection in its pool.
        expiring: True once the connection is past its planned retirement: finish soon.
        resumed: True if its lane held the response that was preferred: its next turn may continue from that
            (`previous_response_id`).
        taken: True once its lane is its own no more: given to somebody else while it was parked, or given
            back after an answer that asks for nothing.
    """

    __slots__ = (
        "_connection",
        "_id",
        "_owner",
        "_released",
        "connection",
        "expiring",
        "lane",
        "resumed",
        "taken",
    )

    def __init__(self, owner: LeaseOwner, number: LeaseId, connection: Connection, lane: Lane) -> None:
        self.expiring = self.taken = self.resumed = False
        self._owner = owner
        self._id = number
        self.lane = lane
        self.connection = connection.id
        self._connection = connection
        self._released = False

    @property
    def id(self) -> LeaseId:
        """Its number in its pool."""
        return self._id

    @property
    def alive(self) -> bool:
        """True while turns can start: not released, and its connection is there."""
        return self._owner.core.is_live(self._id)

    @property
    def gone(self) -> MoveReason | None:
        """Why its connection is ending, if it is."""
        link = self._connection.link
        return None if not link.ending else "lost" if link.why in _UNPLANNED else "rotation"

    @property
    def stream_id(self) -> str | None:
        """The name that its next request must give, if any."""
        return self._connection.stream_id(self.lane)

    def create(self, **body: Any) -> Turn:
        """Prepare one turn; entering it sends `response.create` with *body*, as it is.

        Args:
            **body: the fields of the request: `model`, `input`, `previous_response_id` ...

        They are written down here: what happens to them later changes nothing of what is sent.

        Raises:
            TypeError, ValueError: they hold what cannot be sent; the text says where.

        Entering raises:
            PoolClosedError: the lease was released.
            TurnInFlightError: it has a turn in flight; nothing was sent.
            RequestTooLargeError: over the provider's limit; nothing was sent.
            TurnLostError: its connection is gone, or too old for another turn.
        """
        self._owner.check_use()
        return self.prepare(**body)

    def prepare(self, **body: Any) -> Turn:
        """`create`, from any thread: nothing is done but to write down what is given."""
        for name, advice in _REFUSED_FIELDS.items():
            if body.get(name):
                raise ValueError(f"{name!r} cannot be sent: {advice}")
        return Turn(_LeaseDriver(self, self.lane, self._owner, body))

    def begin(self, *, movable: bool, history: int = 0) -> Verdict:
        """Start a turn, if the connection is young enough. See `PoolCore.begin`. Never waits.

        Raises:
            PoolClosedError, TurnInFlightError, TurnLostError: as `create` says.
        """
        self._owner.check_use()
        if self._released:
            raise PoolClosedError("the lease was released; take another one")
        if not self.alive:
            raise lost("the connection of this lease is gone")
        if self.lane.attempt is not None:
            raise TurnInFlightError("a turn is in flight on this lease; nothing was sent")
        return self._owner.begin(self._id, movable=movable, history=history)

    async def send(self, request: bytes, attempt: Attempt) -> None:
        """Send *request* for the turn that `begin` started. A checkpoint.

        Whatever happens to the send shows in the attempt: a failed one is lost.
        """
        self._owner.check_use()
        self.lane.attempt = attempt
        self.lane.warm_up = None
        attempt.give_up = self.give_up
        attempt.sending = True
        try:
            await self._connection.send(request, attempt)
        except WireClosedError as error:
            attempt.lose(error.code, error.reason)
        attempt.sending = False
        policy = self._owner.policy
        if attempt.withheld:
            return
        if policy.first_event_timeout is not None or policy.silence_timeout is not None:
            attempt.keeps = True  # it is looked what they were
            self._connection.link.spawn(bound_silence, self._connection, attempt)

    async def steer(self, items: list[dict[str, Any]], attempt: Attempt) -> Steer:
        """Send *items* to the response of *attempt*; return once they are taken. See `Turn.steer`."""
        self._owner.check_use()
        machine = attempt.machine
        if not self._owner.provider.steering:
            raise refused_steer("this provider has no steering", code="steering_not_supported")
        if self._connection.link.stateless:
            raise refused_steer("the turn goes by HTTP, which has none", code="steering_not_supported")
        await trio.lowlevel.checkpoint_if_cancelled()
        await attempt.until(lambda: machine.state is not TurnState.SENT)
        streaming = machine.state is TurnState.STREAMING and not (attempt.ended or attempt.given_up)
        if machine.response_id is None or not streaming:
            raise refused_steer("its response is not in progress", code="response_not_active")
        target = machine.response_id
        steer = Steer(input=items, target=target)
        message = encode({"type": "response.steer", "previous_response_id": target, "input": items})
        self.check_size(message)
        try:
            sent = await self._connection.steer(message, attempt, steer)
        except WireClosedError as error:
            attempt.lose(error.code, error.reason)
            raise lost("the connection died before the input was sent", attempt) from None
        if not sent and attempt.lost:
            raise lost("the connection died before the input was sent", attempt)
        if not sent:
            raise refused_steer("its response has ended", code="response_not_active")
        await attempt.until(lambda: steer.state != "sent")
        if steer.error is not None and steer.id is None:
            said = attempt.redactor.server_error(steer.error)
            raise refused_steer(said.message or "the server says no", said)
        if steer.state in ("sent", "lost"):
            raise lost("nobody knows whether the steering input was taken; do not send it again", attempt)
        return steer

    def check_size(self, request: bytes) -> None:
        """Raise `RequestTooLargeError` if *request* is over the provider's limit, as far as known."""
        owner, size = self._owner, len(request)
        limit, takes = owner.provider.max_request, owner.takes
        if size >= takes.too_large and self.lane.transport == "websocket":
            takes.forget_size(owner.now())
            limit = int(min(limit, takes.too_large - 1))
        if size > limit:
            raise RequestTooLargeError(size=size, limit=limit)

    def heed_size(self, attempt: Attempt, size: int) -> None:
        """Remember that a request of *size* bytes was too large, if that is what *attempt* ended with."""
        self._owner.check_use()
        machine = attempt.machine
        refused = machine.refused and machine.error is not None and machine.error.blames_size
        if (attempt.too_large or refused) and self.lane.transport == "websocket":
            self._owner.takes.found_too_large(size, self._owner.now())

    def give_up(self, attempt: Attempt) -> None:
        """Nobody wants the rest of *attempt*. Never waits."""
        self._owner.check_use()
        if self.lane.attempt is attempt and self.alive and not attempt.given_up:
            attempt.drop()
            sent = not attempt.sending
            self._owner.step(self._owner.core.give_up, self._id, heard=attempt.begun, sent=sent)

    def park(self) -> None:
        """Say that no turn will start for a while: the lane may be taken if others starve.

        Never waits. Starting a turn ends it; a lease whose lane was taken is dead.
        """
        self._owner.check_use()
        if self.alive and self.lane.attempt is None:
            self._owner.step(self._owner.core.park, self._id)

    @enable_ki_protection
    def release(self) -> None:
        """Give the lane back. Never waits; releasing twice does nothing."""
        self._owner.check_use()
        if not self._released:
            self._released = True
            self._owner.release(self._id)

    def __repr__(self) -> str:
        state = "released" if self._released else "dead" if not self.alive else "live"
        expiring = ", expiring" if self.expiring and state == "live" else ""
        return f"<Lease {self._id} on connection {self._connection.id}, {state}{expiring}>"


class LeaseBlock(AsyncBlock):
    """The `async with` block of a lease. A class, as that costs less than a generator.

    Protected against KeyboardInterrupt on both ends, so that none can lose the lease.
    """

    __slots__ = ("_lease", "_min_remaining", "_owner", "_prefer", "_warm")

    def __init__(
        self, owner: LeaseOwner, min_remaining: float, prefer: str | None = None, *, warm: bool = False
    ) -> None:
        self._owner = owner
        self._min_remaining = min_remaining
        self._prefer = prefer
        self._warm = warm
        self._lease: Lease | None = None

    @enable_ki_protection
    async def __aenter__(self) -> Lease:
        if self._lease is not None:
            raise RuntimeError("a lease block is entered once; call lease() again")
        self._owner.check_use()
        if self._min_remaining:
            self._owner.check_life(self._min_remaining)
        await checkpoint_if_cancelled()
        try:
            waiter = self._owner.next_waiter()
            asked = self._owner.ask(waiter, self._min_remaining, self._prefer, self._warm)
        except WsPoolError:
            await cancel_shielded_checkpoint()  # noqa: ASYNC120 # shielded
            raise
        self._lease = lease = asked if asked is not None else await self._owner.wait(waiter)
        lease.resumed = self._prefer is not None and self._prefer == lease.lane.latest
        if lease is asked:
            await cancel_shielded_checkpoint()
        return lease

    @enable_ki_protection
    async def __aexit__(self, *error: object) -> None:
        if self._lease is None:
            raise AssertionError("bug: left without being entered")
        self._lease.release()


def refused_steer(
    why: str, error: ServerError | None = None, *, code: str | None = None
) -> SteeringRefusedError:
    """Return the error of a steer that was not taken."""
    return SteeringRefusedError(
        f"steering refused: {why}; the turn goes on without it",
        delivery="not_sent" if error is None else "terminal",
        code=code if error is None else error.code,
    )


class _LeaseDriver:
    """One request, sent once."""

    def __init__(self, lease: Lease, lane: Lane, owner: LeaseOwner, body: dict[str, Any]) -> None:
        self._lease = lease
        self._owner = owner
        parent = body.get("previous_response_id")
        self._parent: str | None = parent if isinstance(parent, str) else None
        # Encoded: nothing that happens to what it was made of changes what is sent, also again.
        self._request = encode({"type": "response.create", **body})
        self.check_use = owner.check_use
        self.attempt: Attempt | None = None
        self.record: TurnRecord | None = None
        self.added: Added = ()
        self._body = body
        self._notes: TurnNotes | None = None
        self._started_at: float | None = None
        self._requests = self._size = 0
        # A plain attribute: what a record says costs a turn no call.
        self._transport: TransportName = lane.transport

    @property
    def awaited(self) -> bool:
        return True

    async def start(self) -> None:
        if self._notes is None and self._owner.announcer.sees_turns:
            self._notes = TurnNotes(self._owner.announcer, None, model_of(self._body.get("model")))
            self.added = self._notes.added
        lease = self._lease
        lane = lease.stream_id
        request = self._request
        if lane is not None:
            request = b'%b,"stream_id":%b}' % (request[:-1], encode(lane))
        lease.check_size(request)
        await trio.lowlevel.checkpoint_if_cancelled()
        if lease.begin(movable=False) is _MOVE:
            raise lost(
                "its connection takes no more turns: it is near its lifetime limit, or not trusted any more"
            )
        now = trio.current_time()
        if self._started_at is None:
            self._started_at = now
        self.attempt = attempt = Attempt(self._parent, lane, lease.lane.past, self._owner.announcer.trust)
        attempt.sent_at = now
        attempt.machine.keeps = self._notes is not None
        try:
            await lease.send(request, attempt)
        finally:
            if attempt.left:
                self._requests += 1
                self._size += len(request)

    def _given(self) -> Given:
        body = read(self._request)
        return body.get("input"), body.get("instructions")

    async def recover(self, attempt: Attempt, *, exposed: bool) -> bool:
        await trio.lowlevel.checkpoint()
        self._lease.heed_size(attempt, len(self._request))
        error = attempt.machine.error
        # Lanes are the pool's business, and what was refused for the name of one did not run.
        if not attempt.machine.refused or error is None or not error.blames_lane or self._requests > 1:
            return False
        await self.start()
        return True

    async def steer(self, items: list[dict[str, Any]]) -> Steer:
        if self.attempt is None:
            raise AssertionError("bug: steered before it was sent")
        return await self._lease.steer(items, self.attempt)

    def leave(self, failure: WsPoolError | None, *, told: bool) -> None:
        lease, attempt = self._lease, self.attempt
        if attempt is not None:
            if not attempt.ended:
                lease.give_up(attempt)
            attempt.drop()  # ended or not: the reader may be waiting for somebody to read the rest
        notes, self._notes = self._notes, None
        if notes is None:
            return
        given: object = self._body.get("input")
        items = (
            len(cast("list[object]", given)) if isinstance(given, (list, tuple)) else int(given is not None)
        )
        announcer = self._owner.announcer
        self.record = notes.record(
            attempt,
            failure,
            told=told,
            sent_at=self._started_at,
            pool=announcer.pool,
            conversation=None,
            connection=lease.connection,
            lane=lease.lane.id,
            full=True,
            waited=0.0,
            requests=self._requests,
            bytes_sent=self._size,
            bytes_saved=0,
            why_full=None,
            transport=self._transport,
            tool_errors=0,
            items=(items, items),
            given=self._given() if announcer.wants_content else None,
        )
        announcer.turned(self.record)
