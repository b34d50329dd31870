"""Connection: one WebSocket with its supervisor, its reader and its lanes.

The supervisor is a task of the pool. It owns a nursery in which the wire lives, and turns everything
that comes out of it (a closed wire, a crash inside a library, a stray `Cancelled` that no scope asked
for) into one report: this connection is dead. That is made in the step that sees it; what follows only
winds up (the wire is dropped, its tasks end), and then the connection is gone.

In between it is the reader, which always runs, and gives what has come to the `Router`.

Where several lanes share the connection (`wspool.core.events.naming`), none may cost its siblings anything:
what is given up is drained, a message is never cut in two by a cancelled sender, and reading
waits for a slow consumer only while no other turn is in flight.
"""

from __future__ import annotations

import logging
from typing import Final, Protocol, cast

import trio

from wspool.core.commands import CloseReason, ConnectionId
from wspool.core.events.steering import Steer
from wspool.core.states import IllegalInputError, Naming
from wspool.pool.attempt import Attempt
from wspool.pool.credentials import forget
from wspool.pool.link import Host, Lane, Link
from wspool.pool.router import Router
from wspool.pool.sender import Sender
from wspool.wire.wire import ConnectError, Gauged, Stateless, Wire, WireClosedError

__all__ = ["Connection", "Owner"]

logger = logging.getLogger("wspool.connection")

# A member of an enum is looked up by a function call in Python 3.11, a global is not.
_NONE: Final = Naming.NONE
_NAMED: Final = Naming.NAMED


class Owner(Host, Protocol):
    """What a connection needs of its pool besides: to dial, and to say that nothing of it is left."""

    async def dial(self, link: Link, nursery: trio.Nursery) -> Wire: ...
    def on_dial_failed(self, link: Link, error: ConnectError) -> None: ...
    def on_stateless(self, link: Link) -> None: ...
    def on_gone(self, link: Link) -> None: ...


class Connection:
    """One WebSocket of a pool.

    Attributes:
        id: its number.
        lanes: its lanes, by number.
        link: what it shares with those who work for it.
    """

    __slots__ = (
        "_owner",
        "_polite",
        "_router",
        "_sender",
        "_waiting_for",
        "id",
        "lanes",
        "link",
    )

    def __init__(self, number: ConnectionId, owner: Owner, lanes: int) -> None:
        self.id = number
        self.link = Link(number, owner, lanes)
        self.lanes = self.link.lanes
        self._owner = owner
        self._router = Router(self.link)
        self._sender = Sender(self.link)
        self._waiting_for: Attempt | None = None
        self._polite = False

    def __repr__(self) -> str:
        return f"<Connection {self.id}>"

    @property
    def naming(self) -> Naming:
        """How its lanes are told apart."""
        return self._router.naming

    @property
    def paused(self) -> bool:
        """True while reading waits for a slow consumer."""
        return self._waiting_for is not None

    # -- what the pool asks for ---------------------------------------------------------------

    def stream_id(self, lane: Lane) -> str | None:
        """Return the name that a request on *lane* must give, if any."""
        return None if self._router.naming is _NONE else lane.name

    def hang_up(self, *, polite: bool) -> None:
        """End, with a goodbye or without. The turns on it are lost at once."""
        self._polite = polite
        self.link.told = self.link.ending = True
        self._sender.reading.cancel()
        self.link.lose_attempts()
        if not self.link.connected and self.link.nursery is not None:
            self.link.nursery.cancel_scope.cancel()

    def crash(self, error: BaseException) -> None:
        """End because of what should not have happened: it is the business of this connection alone."""
        forget(error, self.link.redactor)
        logger.error("connection %s is given up, its pool goes on", self.id, exc_info=error)
        self._end(_crashed_dial(error))
        if self.link.nursery is not None:
            self.link.nursery.cancel_scope.cancel()

    async def send(self, message: bytes, attempt: Attempt) -> None:
        """Put one request on the wire.

        A checkpoint. If it does not return normally the connection is poisoned; where lanes share it,
        cancelling leaves the sending of a message that was begun to the connection.

        Raises:
            WireClosedError: it is closed, or the network did not take the message in time.
        """
        attempt.redactor, attempt.wire = self.link.redactor, self.link.wire
        attempt.weighed, attempt.counted = self.link.host.burden.unlooked
        if (slow := self._waiting_for) is not None and slow is not attempt:
            slow.overflow()  # its answer would have to wait behind what that one does not read
        await self._sender.send(message, attempt, apart=self._router.naming is _NAMED)

    async def steer(self, message: bytes, attempt: Attempt, steer: Steer) -> bool:
        """Put a steer for *attempt* on the wire; return False if its response ended before.

        A checkpoint. Cancelling leaves the sending of a message that was begun to the connection.
        """
        return await self._sender.steer(message, attempt, steer)

    # -- the supervisor -----------------------------------------------------------------------

    async def run(self) -> None:
        """Live: dial, serve until told to hang up or lost, wind up. How it ended is reported exactly once."""
        link = self.link
        try:
            async with trio.open_nursery() as nursery:
                link.nursery = nursery
                try:
                    if not link.ending:
                        await self._serve(await self._owner.dial(link, nursery))
                except ConnectError as error:
                    self._end(error)
                nursery.cancel_scope.cancel()
        except BaseException as error:  # noqa: ASYNC103 # a stray Cancelled too; see below
            # This is the outermost frame of the task, and the nursery held nothing but this
            # connection. So whatever came out, be it a crash inside a library or a stray
            # Cancelled that no scope asked for, means that this connection is dead, and
            # nothing else. Only what is meant for the whole program passes.
            if (passing := _for_the_program(error)) is not None:
                raise passing from None  # noqa: ASYNC104 # it is one of ours, out of its group
            forget(error, link.redactor)
            logger.debug("connection %s crashed: %r", self.id, error)
            self._end(_crashed_dial(error))
        finally:
            self._end(ConnectError("the dial was stopped", phase="upgrade"))
            self._owner.on_gone(link)

    async def _serve(self, wire: Wire) -> None:
        link = self.link
        try:
            if not link.ending:
                link.wire = wire
                link.connected = True
                link.heard_at = link.opened_at = link.host.now()
                if isinstance(wire, Gauged):
                    link.gauge = wire.gauge
                    link.gauge.on_growth = link.host.burden.weigh
                link.stateless = isinstance(wire, Stateless) and wire.stateless
                self._router.name_lanes(Naming.NONE if link.stateless else link.host.core.naming)
                if link.stateless:
                    for lane in link.lanes:
                        lane.transport = "http"
                    self._owner.on_stateless(link)
                link.report(link.host.core.connected, jitter=link.host.jitter())
                await self._read(wire)
            if self._polite:
                await wire.aclose()
        finally:
            await wire.abort()  # noqa: ASYNC102 # drops the stream when cancelled, too

    def _end(self, failure: ConnectError) -> None:
        """Nothing can be done with it any more; *failure* says why, if it was never connected."""
        if self.link.connected or self.link.told:
            self.link.lose()
        elif not self.link.over:
            self.link.ending = True
            self._owner.on_dial_failed(self.link, failure)

    # -- the reader ---------------------------------------------------------------------------

    async def _read(self, wire: Wire) -> None:
        """Read until the wire or the connection ends, or a request could not be sent in time."""
        link, policy, heard = self.link, self.link.host.policy, wire.headers
        link.host.errands.stated(heard, answering=False)
        try:
            while not link.ending:
                with self._sender.reading:
                    while not link.ending:
                        if self._waiting_for is not None:
                            await self._waiting_for.room(policy.max_buffered)
                            self._waiting_for = None
                        messages = await wire.receive()
                        if wire.headers is not heard:  # by HTTP each answer has its own
                            heard = wire.headers
                            link.host.errands.stated(heard)
                        for attempt in self._router.take(messages):
                            if attempt.unread > policy.max_buffered:
                                self._slow_down_for(attempt)
                if self._sender.is_late() and not link.ending:
                    late = f"within send_timeout={policy.send_timeout:g} s"
                    link.close_reason = f"the network did not take the message {late}"
                    link.poison(CloseReason.DIRTY)  # mark: dirty: the network does not take it
                    break
        except WireClosedError as error:
            self.link.note_close(error)
        finally:
            self.link.lose()

    def _slow_down_for(self, attempt: Attempt) -> None:
        if self.link.is_shared(attempt):
            attempt.overflow()
        else:
            self._waiting_for = attempt


def _crashed_dial(error: BaseException) -> ConnectError:
    """Return what a dial that ended with *error* failed with."""
    what = ", ".join(type(leaf).__name__ for leaf in _leaves(error))
    failure = ConnectError(f"the dial crashed ({what})", phase="upgrade")
    failure.__cause__ = error
    return failure


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
