"""Connection: one WebSocket with its supervisor, its reader and its lanes.

The supervisor is a task of the pool. It owns a nursery in which the wire lives, and turns everything
that comes out of it (a closed wire, a crash inside a library, a stray `Cancelled` that no scope asked
for) into one report: this connection is dead.

In between it is the reader, which always runs. It routes each event to the turn in flight; what no turn
is waiting for is either about the connection, or proof that the connection must not be used again.

Where several lanes share the connection (`wspool.core.events.naming`), none may cost its siblings anything:
what is given up is drained, a message is never cut in two by a cancelled sender, and reading
waits for a slow consumer only while no other turn is in flight.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol, cast

import trio

from wspool.core.commands import CloseReason, ConnectionId, LaneId
from wspool.core.events.naming import Naming, lane_name, learn
from wspool.core.events.steering import Steer, steer_of
from wspool.core.events.turn import Reception, TurnState, is_about_connection
from wspool.core.frames import (
    Event,
    MalformedMessageError,
    ServerError,
    encode,
    lane_of,
    parse_error,
    parse_event,
)
from wspool.core.policy import PoolPolicy, Provider
from wspool.core.sending.chain import WarmUp
from wspool.core.sending.replay import MESSAGE_TOO_BIG
from wspool.core.states import IllegalInputError
from wspool.pool.attempt import Attempt
from wspool.pool.credentials import NO_SECRETS, forget
from wspool.wire.wire import ConnectError, Wire, WireClosedError

__all__ = ["Connection", "Lane", "Owner", "warm_up_request"]

logger = logging.getLogger("wspool.connection")

#: Seconds that `response.failed` may take to follow its stream error. The two are written
#: together; this only bounds a server that forgets the second.
FAILED_GRACE: Final = 5.0

#: Seconds that the answer to a steer may take once its response has ended. It needs no model; this only
#: bounds a server that forgets it.
STEER_GRACE: Final = 15.0

#: Longest part of a foreign message that the log repeats, in characters.
_QUOTE: Final = 80

#: Events that may hold a retry hint with a date in it.
_WITH_HINTS: Final = frozenset({"error", "response.error", "response.failed"})


#: An attribute of an enum costs as much as the rest of a line in the hot path.
_DELIVER: Final = Reception.DELIVER


class Owner(Protocol):
    """What a connection needs of its pool: to dial, and to report."""

    policy: PoolPolicy
    provider: Provider

    def now(self) -> float: ...
    def hold(self, seconds: float) -> None: ...
    async def dial(self, connection: Connection, nursery: trio.Nursery) -> Wire: ...
    def on_connected(self, connection: Connection) -> None: ...
    def on_dial_failed(self, connection: Connection, error: ConnectError) -> None: ...
    def on_finished(self, connection: Connection, lane: Lane) -> None: ...
    def on_unusable(self, connection: Connection, reason: CloseReason) -> None: ...
    def on_named(self, connection: Connection) -> None: ...
    def on_unnamed(self) -> None: ...
    def on_expiring(self, connection: Connection) -> None: ...
    def on_lost(self, connection: Connection) -> None: ...
    def on_gone(self, connection: Connection) -> None: ...


class Lane:
    """One serial track of a connection.

    Attributes:
        id: its number.
        name: its `stream_id`, where lanes have names.
        attempt: the request in flight on it, if any.
        latest: id of the latest response on it that the server still holds, if any.
        warming: the body of the warm-up request in flight on it, if any.
        warm_up: the response to the warm-up request, until another takes its place.
    """

    __slots__ = ("attempt", "id", "latest", "name", "warm_up", "warming")

    def __init__(self, number: LaneId) -> None:
        self.id = number
        self.name = lane_name(number)
        self.attempt: Attempt | None = None
        self.latest: str | None = None
        self.warming: Mapping[str, Any] | None = None
        self.warm_up: WarmUp | None = None


class Connection:
    """One WebSocket of a pool.

    Attributes:
        id: its number.
        lanes: its lanes, by number.
        heard_at: when the last message came, in seconds on the pool's clock.
        redactor: takes the credential out of what the server says, for texts of ours.
    """

    def __init__(self, number: ConnectionId, owner: Owner, lanes: int) -> None:
        self.id = number
        self.lanes = [Lane(LaneId(index)) for index in range(lanes)]
        self._by_name = {lane.name: lane for lane in self.lanes}
        self._naming = Naming.NONE
        #: The lane that every event is for, or None where that must be found out.
        self._only: Lane | None = self.lanes[0]
        self._waiting_for: Attempt | None = None
        self.heard_at = 0.0
        self.redactor = NO_SECRETS
        self._most_events, self._most_bytes = owner.policy.max_turn_events, owner.policy.max_turn_bytes
        self._owner = owner
        self._wire: Wire | None = None
        self._nursery: trio.Nursery | None = None
        self._sending = trio.StrictFIFOLock()
        #: Ends the reader. Its deadline is that of the message on its way: a scope for each costs a turn 9 %.
        self._reading = trio.CancelScope()
        self._close_code: int | None = None
        self._close_reason = ""
        #: True once the connection shall end: because it was told to (`_told`), or is lost.
        self._ending = False
        self._told = False
        self._polite = False
        self._connected = False

    def __repr__(self) -> str:
        return f"<Connection {self.id}>"

    @property
    def paused(self) -> bool:
        """True while reading waits for a slow consumer."""
        return self._waiting_for is not None

    # -- what the pool asks for ---------------------------------------------------------------

    def name_lanes(self, naming: Naming) -> None:
        """Say how its lanes are told apart."""
        self._naming = naming
        self._only = self.lanes[0] if naming is Naming.NONE else None

    def stream_id(self, lane: Lane) -> str | None:
        """Return the name that a request on *lane* must give, if any."""
        return None if self._naming is Naming.NONE else lane.name

    async def run(self) -> None:
        """Live: dial, serve until told to hang up or lost, report exactly once how it ended."""
        failure: ConnectError | None = None
        try:
            failure = await self._supervise()
        finally:
            # Synchronous on purpose: the end, the report and what it leads to are one step.
            self._wire = None
            self._lose_attempts()
            if self._told:
                self._owner.on_gone(self)
            elif self._connected:
                self._owner.on_lost(self)
            else:
                self._owner.on_dial_failed(
                    self, failure or ConnectError("the dial was stopped", phase="upgrade")
                )

    def hang_up(self, *, polite: bool) -> None:
        """End, with a goodbye or without. The turns on it are lost at once."""
        self._told = True
        self._polite = polite
        self._ending = True
        self._reading.cancel()
        self._lose_attempts()
        if not self._connected and self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    async def send(self, message: bytes, attempt: Attempt) -> None:
        """Put one request on the wire.

        A checkpoint. If it does not return normally the connection is poisoned; where lanes share it,
        cancelling leaves the sending of a message that was begun to the connection.

        Raises:
            WireClosedError: it is closed, or the network did not take the message in time.
        """
        attempt.redactor = self.redactor
        if (slow := self._waiting_for) is not None and slow is not attempt:
            slow.overflow()  # its answer would have to wait behind what that one does not read
        if self._naming is Naming.NAMED:
            await self._hand_over(self._send_apart, message, attempt)
            return
        await self._transmit(message, attempt.machine.handed)

    async def steer(self, message: bytes, attempt: Attempt, steer: Steer) -> bool:
        """Put a steer for *attempt* on the wire; return False if its response ended before.

        A checkpoint. Cancelling leaves the sending of a message that was begun to the connection.
        """
        handed: list[bool] = []
        await self._hand_over(self._send_steer, message, attempt, steer, handed)
        return handed == [True]

    async def _hand_over(self, task: Callable[..., Awaitable[object]], *args: object) -> None:
        """Run *task* as a task of the connection and wait for it; cancelling ends the wait only."""
        done = trio.Event()

        async def run() -> None:
            try:
                await task(*args)
            except WireClosedError:
                pass  # it has poisoned the connection, which loses the attempts
            finally:
                done.set()

        if self._ending:
            await trio.lowlevel.checkpoint()
            raise WireClosedError
        self.spawn(run)
        await done.wait()

    async def _send_apart(self, message: bytes, attempt: Attempt) -> None:
        if not await self._transmit(message, attempt.machine.handed, lambda: not attempt.given_up):
            # Given up before it left: nothing will come of it, so its lane is clean.
            for lane in self.lanes:
                if lane.attempt is attempt:
                    lane.attempt = None
                    self._owner.on_finished(self, lane)

    async def _send_steer(self, message: bytes, attempt: Attempt, steer: Steer, handed: list[bool]) -> None:
        def begin() -> bool:
            begun = not attempt.ended and attempt.machine.steer(steer)
            handed.append(begun)
            return begun

        await self._transmit(message, lambda: None, begin)

    async def _transmit(
        self, message: bytes, handed: Callable[[], None], wanted: Callable[[], bool] = lambda: True
    ) -> bool:
        """Send *message* unless it is not *wanted* any more when its turn has come; return whether it was."""
        done = False
        sent = False
        try:
            # Taking a free lock the usual way would cost a round through the scheduler.
            await trio.lowlevel.checkpoint_if_cancelled()
            try:
                self._sending.acquire_nowait()
            except trio.WouldBlock:
                await self._sending.acquire()
            try:
                if self._wire is None or self._ending:
                    raise WireClosedError
                if wanted():
                    self._reading.deadline = trio.current_time() + self._owner.policy.send_timeout
                    handed()
                    sent = True
                    await self._wire.send(message)
            finally:
                self._reading.deadline = math.inf
                self._sending.release()
            done = True
            return sent
        except WireClosedError as error:
            self._note_close(error)
            raise
        finally:
            if not done:
                self._poison(CloseReason.DIRTY)

    async def ping(self) -> bool:
        """Return whether the peer is there: False once nothing at all came from it for `ping_timeout`."""
        wire = self._wire
        if wire is None:
            return False
        patience = self._owner.policy.ping_timeout
        since = trio.current_time()
        # Any byte counts, not only the pong: that one may wait behind a large message on a slow link.
        while (deadline := max(since, wire.heard_at) + patience) > trio.current_time():
            with trio.move_on_at(deadline):
                try:
                    await wire.ping()
                except WireClosedError:
                    return False
                self.heard_at = self._owner.now()
                return True
            if self.paused:
                return True  # while reading pauses no pong can be seen
            # Time may be up only because somebody kept the whole program busy. What came meanwhile
            # is read in the same step in which the deadline was found to have passed, before the next.
            await trio.lowlevel.checkpoint()
        self._close_reason = f"nothing came for ping_timeout={patience:g} s, not even a pong"
        return False

    def spawn(self, task: Callable[..., Awaitable[object]], *args: object) -> None:
        """Run a task that ends with this connection, and whose crash is the end of it."""
        if self._nursery is None:
            raise AssertionError("bug: the connection is not running")
        self._nursery.start_soon(task, *args)

    async def warm_up(self, lane: Lane, body: Mapping[str, Any]) -> None:
        """Send the warm-up request on *lane* and wait for its answer, at most `connect_timeout`.

        Without an answer the connection is given up: a warm-up never blocks nor pollutes a lease.
        """
        name = self.stream_id(lane)
        attempt = lane.attempt = Attempt(None, name)
        lane.warming = body
        request = warm_up_request(body)
        if name is not None:
            request["stream_id"] = name
        sent = False
        try:
            while not attempt.ended:
                with trio.move_on_after(self._owner.policy.connect_timeout):
                    if not sent:
                        sent = True
                        await self.send(encode(request), attempt)
                    await attempt.end()
                if not self._is_shared(attempt):
                    break  # nobody else is on it; else it goes on until then
        except WireClosedError:
            pass  # `send` has poisoned the connection, which reports it
        finally:
            if not attempt.ended:
                self._poison(CloseReason.DIRTY)

    # -- the supervisor -----------------------------------------------------------------------

    async def _supervise(self) -> ConnectError | None:
        failure: ConnectError | None = None
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                try:
                    if not self._told:
                        await self._serve(await self._owner.dial(self, nursery))
                except ConnectError as error:
                    failure = error
                nursery.cancel_scope.cancel()
        except BaseException as error:
            # This is the outermost frame of the task, and the nursery held nothing but this
            # connection. So whatever came out, be it a crash inside a library or a stray
            # Cancelled that no scope asked for, means that this connection is dead, and
            # nothing else. Only what is meant for the whole program passes.
            if (passing := _for_the_program(error)) is not None:
                raise passing from None
            forget(error, self.redactor)
            logger.debug("connection %s crashed: %r", self.id, error)
            if not self._connected:
                what = ", ".join(type(leaf).__name__ for leaf in _leaves(error))
                failure = ConnectError(f"the dial crashed ({what})", phase="upgrade")
                failure.__cause__ = error
        return failure

    async def _serve(self, wire: Wire) -> None:
        try:
            if not self._told:
                self._wire = wire
                self._connected = True
                self.heard_at = self._owner.now()
                self._owner.on_connected(self)
                await self._read(wire)
            if self._polite:
                await wire.aclose()
        finally:
            await wire.abort()

    def _lose_attempts(self) -> None:
        for lane in self.lanes:
            lane.latest = lane.warm_up = lane.warming = None
            if lane.attempt is not None:
                attempt, lane.attempt = lane.attempt, None
                attempt.lose(self._close_code, self._close_reason)

    def _note_close(self, error: WireClosedError) -> None:
        """The wire says how it ended; the first word counts."""
        forget(error, self.redactor)
        if self._close_code is None:
            self._close_code, self._close_reason = error.code, error.reason

    def _poison(self, reason: CloseReason) -> None:
        """This connection must not be used again. Nothing to do once its end is known."""
        if not self._ending:
            self._owner.on_unusable(self, reason)

    # -- the reader ---------------------------------------------------------------------------

    def _is_shared(self, attempt: Attempt) -> bool:
        """Whether another turn is in flight that somebody waits for."""
        return any(
            lane.attempt is not None and lane.attempt is not attempt and not lane.attempt.given_up
            for lane in self.lanes
        )

    async def _read(self, wire: Wire) -> None:
        """Read until the wire or the connection ends, or a request could not be sent in time."""
        limit = self._owner.policy.max_buffered
        try:
            with self._reading:
                while not self._ending:
                    for attempt in self._take(await wire.receive()):
                        if attempt.unread > limit:
                            await self._wait_for(attempt, limit)
            if self._reading.cancelled_caught and not self._told:
                late = f"within send_timeout={self._owner.policy.send_timeout:g} s"
                self._close_reason = f"the network did not take the message {late}"
                self._poison(CloseReason.DIRTY)
        except WireClosedError as error:
            self._note_close(error)
        finally:
            self._ending = True

    def _take(self, messages: Sequence[str | bytes]) -> Iterable[Attempt]:
        """Take a batch; return the attempts that something of it was for."""
        self.heard_at = self._owner.now()
        fed: dict[Attempt, None] = {}
        at = 0
        try:
            while at < len(messages) and not self._ending:
                attempt = self._only.attempt if self._only is not None else None
                run = 0
                if attempt is not None and attempt.machine.like is not None:
                    run = self._feed_run(attempt, messages, at)
                if not run:
                    attempt = self._dispatch(messages[at])
                if attempt is not None:
                    fed[attempt] = None
                at += run or 1
        finally:
            # Whatever ended this batch: a turn that has ended in it is no lane's any more, so
            # nobody else would tell its consumer.
            for attempt in fed:
                attempt.wake()
        return fed

    async def _wait_for(self, attempt: Attempt, limit: int) -> None:
        if self._is_shared(attempt):
            attempt.overflow()
            return
        self._waiting_for = attempt
        await attempt.room(limit)
        self._waiting_for = None

    def _feed_run(self, attempt: Attempt, messages: Sequence[str | bytes], at: int) -> int:
        """Give those messages from *at* on that go on with the output just seen; return how many."""
        room = self._most_events - len(attempt.events)
        if room <= 0 or attempt.received > self._most_bytes:
            return 0  # over the budget with the next
        return attempt.feed_run(messages[at : at + room])

    def _dispatch(self, message: str | bytes) -> Attempt | None:
        """Route one message; return the attempt that has something new."""
        try:
            event = parse_event(message)
            lane = self._only or self._find(event)
            attempt = lane.attempt if lane is not None else None
            if lane is None or attempt is None:
                self._receive_stray(event)
                return None
            # Only error frames hold dates.
            wall_clock = time.time() if event.type in _WITH_HINTS else 0.0
            reception = attempt.feed(event, wall_clock)
            if wall_clock:
                self._heed(attempt.machine.error)
        except MalformedMessageError as error:
            logger.debug("connection %s: %s: %s", self.id, error, self._quote(message))
            # Not what it said: that may be somebody else's.
            self._close_reason = f"a message that is no JSON object with a type: {error}"
            self._poison(CloseReason.DIRTY)
            return None
        if (
            reception is _DELIVER
            and event.type != "error"
            and not attempt.machine.steered
            and len(attempt.events) <= self._most_events
            and attempt.received <= self._most_bytes
        ):
            return attempt  # nearly all that ever comes
        match reception:
            case Reception.DELIVER:
                if attempt.is_over(self._owner.policy):
                    # As for a message that is too big: another connection would meet the same.
                    self._close_code, self._close_reason = MESSAGE_TOO_BIG, attempt.excess
                    self._poison(CloseReason.DIRTY)
                elif event.type == "error" and attempt.machine.state is TurnState.FAILING:
                    self.spawn(self._expire_failing, lane, attempt)
                elif attempt.machine.steered and attempt.machine.settles_soon:
                    self.spawn(self._expire_settling, lane, attempt)
            case Reception.END:
                self._end(lane, attempt)
            case Reception.EXPIRING:
                self._owner.on_expiring(self)
            case Reception.CUT:
                lane.attempt = None
                attempt.lose(None)
                self._poison(CloseReason.LIMIT)
            case Reception.DIRTY:
                self._close_reason = f"an event that cannot belong to this turn: {self._name(event)}"
                self._poison(CloseReason.DIRTY)
            case Reception.IGNORE:
                pass
        return attempt

    def _heed(self, error: ServerError | None) -> None:
        """What one turn is asked to wait, the whole endpoint waits."""
        if error is not None and error.may_pass and error.retry_after:
            self._owner.hold(error.retry_after)

    def _name(self, event: Event) -> str:
        """The type of *event*, for a text of ours."""
        return f"{self.redactor.text(event.type):.128}"

    def _quote(self, message: str | bytes) -> str:
        """The beginning of *message*, for a text of ours."""
        text = message if isinstance(message, str) else message.decode(errors="replace")
        return repr(self.redactor.text(text)[:_QUOTE])

    def _find(self, event: Event) -> Lane | None:
        """Return the lane that *event* is for, where lanes have names or are on trial; None for none."""
        if is_about_connection(event):
            return None
        if self._naming is Naming.TRIAL:
            lane = self.lanes[0]
            if lane.attempt is not None:
                self._learn(event, lane.attempt)
            return lane
        name = lane_of(event)
        if name is not None:
            return self._by_name.get(name)
        busy = [lane for lane in self.lanes if lane.attempt is not None]
        if event.type.startswith("response.steer."):
            target = steer_of(event.data).get("previous_response_id")
            return next((lane for lane in busy if _answers(lane, target)), None)
        if event.type in ("error", "response.error") and len(busy) == 1:
            return busy[0]  # there is nobody else whom it could be about
        if event.type.startswith("response."):
            self._owner.on_unnamed()  # the endpoint has changed its mind
        return None

    def _learn(self, event: Event, attempt: Attempt) -> None:
        naming = learn(event)
        if naming is Naming.NAMED:
            self.name_lanes(Naming.NAMED)
            self._owner.on_named(self)
        elif naming is Naming.NONE:
            self.name_lanes(Naming.NONE)
            attempt.machine.lane = None
            self._owner.on_unnamed()

    def _receive_stray(self, event: Event) -> None:
        """An event that no turn in flight is for: about the connection, or proof that it is dirty."""
        if is_about_connection(event):
            return
        self._close_reason = f"an event that belongs to no turn in flight: {self._name(event)}"
        if event.type == "error":
            error = parse_error(event.data, wall_clock=time.time())
            if error.is_expiry_notice:
                self._owner.on_expiring(self)
                return
            if error.is_connection_limit:
                self._cut(event)
            self._poison(CloseReason.LIMIT if error.is_connection_limit else CloseReason.DIRTY)
        else:
            self._poison(CloseReason.DIRTY)

    def _cut(self, event: Event) -> None:
        """The connection is at its limit, and so are all turns on it."""
        for lane in self.lanes:
            if lane.attempt is not None:
                attempt, lane.attempt = lane.attempt, None
                if attempt.feed(event, 0.0) is not Reception.END:
                    attempt.lose(None)
                attempt.wake()

    def _end(self, lane: Lane, attempt: Attempt) -> None:
        """The terminal event of *attempt* has come."""
        lane.attempt = None
        machine = attempt.machine
        well = machine.status in ("completed", "incomplete")
        # A request that failed may have evicted its parent, and then the lane holds nothing.
        lane.latest = machine.response_id if well else None
        lane.warm_up = None
        if lane.warming is not None:
            if well and machine.response_id is not None:
                lane.warm_up = WarmUp(machine.response_id, lane.warming)
            lane.warming = None
        if machine.error is not None and machine.error.is_connection_limit:
            self._poison(CloseReason.LIMIT)
        elif machine.refused and self._owner.provider.closes_after_error:
            self._poison(CloseReason.DIRTY)
        else:
            self._owner.on_finished(self, lane)

    async def _expire_failing(self, lane: Lane, attempt: Attempt) -> None:
        await trio.sleep(FAILED_GRACE)
        if lane.attempt is attempt and attempt.machine.state is TurnState.FAILING:
            attempt.machine.expire_failing()
            attempt.wake()
            self._poison(CloseReason.DIRTY)

    async def _expire_settling(self, lane: Lane, attempt: Attempt) -> None:
        await trio.sleep(STEER_GRACE)
        if lane.attempt is attempt and attempt.machine.settles_soon:
            self._close_reason = "no answer to a steer"
            self._poison(CloseReason.DIRTY)


def _answers(lane: Lane, target: object) -> bool:
    """Whether the turn on *lane* has, or had, the response *target*."""
    machine = lane.attempt.machine if lane.attempt is not None else None
    if machine is None or target is None:
        return False
    return target == machine.response_id or any(target == part.response.get("id") for part in machine.parts)


def warm_up_request(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the request that warms a connection up with *body*."""
    return {"input": [], **body, "type": "response.create", "generate": False}


def _leaves(error: BaseException) -> list[BaseException]:
    """Return the exceptions in *error* that are no groups."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    group = cast("BaseExceptionGroup[BaseException]", error)
    return [leaf for inner in group.exceptions for leaf in _leaves(inner)]


def _for_the_program(error: BaseException) -> BaseException | None:
    """Return what in *error* must not be taken for the end of one connection.

    That is an interrupt, or a bug of the pool that showed in a task of the connection.
    """
    for leaf in _leaves(error):
        if isinstance(leaf, (KeyboardInterrupt, SystemExit, IllegalInputError, AssertionError)):
            return leaf
    return None
