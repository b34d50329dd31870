"""WebSocket: clients of the proxy that come that way, from the upgrade on, and what is written down of them.

A turn of theirs goes where one that came by HTTP would go, and its record is the same. Rules of this module:

* The upgrade is answered at once: a client that has nothing to ask costs no connection to the provider.
* Where the provider has no WebSocket for us it is said in the upgrade (426), which programs understand; a
  socket that is open already goes on, by HTTP. So does a request that is over the limit of a frame, also
  where only the provider knows that limit.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from hashlib import blake2b
from typing import Any, Final

import trio

from wspool.core.error import Delivery
from wspool.core.events.steering import Steer
from wspool.core.frames import Event
from wspool.errors import PoolClosedError, WsPoolError
from wspool.http.identity import Identity
from wspool.http.pools import Pools
from wspool.listening.admission import not_authorized
from wspool.listening.errors import RequestError, TurnError, invalid_request
from wspool.pool.exchange import Entry
from wspool.pool.turn import Turn
from wspool.proxy.access.gate import Gate
from wspool.proxy.notices import Notices, of_connection, said_by
from wspool.proxy.settings import Settings
from wspool.proxy.sockets.handshake import VERSION, accepted_head, what_is_wrong
from wspool.proxy.sockets.lanes import Course, SocketLimits
from wspool.proxy.sockets.orphans import Followed, Run
from wspool.proxy.sockets.socket import Socket
from wspool.proxy.visit import Visit, header
from wspool.proxy.ways import goes_by_http

__all__ = ["Sockets", "upgrade_required"]


#: Identities for which it is known what handshakes say.
_MOST_TOLD: Final = 64


class Sockets:
    """The WebSocket clients of one proxy.

    Args:
        gate: says who may still ask.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._open: dict[Socket, Visit] = {}
        self._retiring = False
        #: What handshakes with the provider have said that is true for all turns, the latest last.
        self._told: OrderedDict[Identity, list[tuple[str, str]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    async def take_over(self, visit: Visit) -> None:
        """Answer an upgrade, and serve its client to the end. A checkpoint.

        Raises:
            RequestError: it is no upgrade that can be accepted.
            trio.BrokenResourceError: the client went away.
        """
        headers = visit.request.headers
        wrong = what_is_wrong(headers)
        if wrong is None and visit.request.http_version < b"1.1":
            wrong = "An upgrade needs HTTP/1.1."
        if wrong is not None:
            old = header(visit.request, b"sec-websocket-version").encode("latin-1") != VERSION
            raise RequestError(upgrade_required(wrong) if old else invalid_request(wrong))
        identity = visit.identity
        if identity is None:
            raise RequestError(not_authorized())
        pools = visit.services.pools
        pool = pools.open.get(identity)
        if pools.is_refused(identity) or (pool is not None and pool.transport == "http"):
            raise RequestError(upgrade_required("The provider offers no WebSocket now; ask by HTTP."))
        told = {**dict(self._told.get(identity, ())), **visit.answers.headers}
        stream = visit.stream.stream
        await stream.send_all(accepted_head(headers, told.items()))
        way = _Way(visit, identity, partial(self._hear, identity))
        socket = Socket(stream, way, _limits(visit.services.settings))
        self._open[socket] = visit
        try:
            if self._retiring:
                socket.retire()
            received = bytes(visit.intake.http.trailing_data[0]) + await visit.stream.release()
            await socket.serve(received)
        finally:
            del self._open[socket]

    def _hear(self, identity: Identity, turn: Turn) -> None:
        self._told[identity] = of_connection(turn.headers)
        self._told.move_to_end(identity)
        if len(self._told) > _MOST_TOLD:
            self._told.popitem(last=False)

    def retire(self) -> None:
        """Take no further request, and let clients go once what they have asked has ended. Never waits."""
        self._retiring = True
        for socket in list(self._open):
            socket.retire()

    def look_again(self) -> None:
        """The tokens have changed: whoever shows one that is no more is cut off, and for all others holds
        what is said of theirs now. Never waits.
        """
        for socket, visit in list(self._open.items()):
            if (caller := self._gate.admits_still(visit.caller)) is None:
                socket.cut_off()
            else:
                visit.caller = caller


def upgrade_required(message: str) -> TurnError:
    """Return the answer to a client that shall ask by HTTP. Codex goes there at once on this status only."""
    return TurnError(
        type="invalid_request_error",
        code="websocket_upgrade_required",
        message=message,
        status=426,
        headers={
            "Upgrade": "websocket",
            "Connection": "Upgrade, close",
            "Sec-WebSocket-Version": VERSION.decode(),
        },
    )


def _limits(settings: Settings) -> SocketLimits:
    fewest = SocketLimits()
    return SocketLimits(
        keepalive=settings.keepalive,
        drain=settings.drain_for if settings.on_hangup == "drain" else 0.0,
        max_message=settings.max_body,
        max_turns=int(min(fewest.max_turns, settings.max_turns_per_client)),
    )


class _Way:
    """How the requests of one client go: into the pool of who it is, each with a record."""

    def __init__(self, visit: Visit, identity: Identity, heard: Callable[[Turn], object]) -> None:
        self._visit = visit
        self._identity = identity
        self._heard = heard

    def begin(self, body: Mapping[str, Any], message: bytes | bytearray) -> _Account:
        return _Account(self._visit, self._identity, body, message, self._heard)


class _Account:
    """One request of a client, and its record."""

    def __init__(
        self,
        visit: Visit,
        identity: Identity,
        body: Mapping[str, Any],
        message: bytes | bytearray,
        heard: Callable[[Turn], object],
    ) -> None:
        self._heard = heard
        self._visit = visit
        self._identity = identity
        self._body = body
        model = body.get("model")
        self._record = visit.record(
            "websocket", model=model if isinstance(model, str) else None, bytes_in=len(message)
        )
        self._record.began = time.time()
        self._came = self._begun = trio.current_time()
        #: What is asked, as a digest of its words.
        self._said = blake2b(message, digest_size=32).digest()
        self._run: Run | None = None
        self._dials = False
        self._notices = Notices()
        self._turn: Turn | None = None
        #: All that it was, two if it went on by HTTP.
        self._turns: list[Turn] = []
        self._sent_at: float | None = None
        self._first_at: float | None = None

    def turn(self) -> AbstractAsyncContextManager[Course]:
        key, record = (self._visit.whose, self._visit.session, self._said), self._record
        orphans = self._visit.services.orphans
        if (missed := orphans.find(key)) is not None:
            record.joined = missed.number
            return self._follow(missed)
        self._run = Run(key, record.number)
        return self._take()

    @asynccontextmanager
    async def _follow(self, run: Run) -> AsyncGenerator[Course]:
        followed = Followed(run)
        try:
            yield followed
        finally:
            if followed.ended and run.error is None:  # whoever leaves then has had all
                self._record.outcome = "completed"
            followed.leave()

    @asynccontextmanager
    async def _take(self) -> AsyncGenerator[Course]:
        self._begun = trio.current_time()
        self._visit.check_budget()
        services = self._visit.services
        async with AsyncExitStack() as stack:
            enter = stack.enter_context(self._visit.turn(self._identity))
            try:
                turn = await self._enter(stack, services.pools, enter)
            except WsPoolError as error:
                if not goes_by_http(error, sent=error.delivery != "not_sent"):
                    raise
                turn = await self._enter(stack, services.pools_by_http, enter)
            self._sent_at = trio.current_time()
            yield _Going(turn, lambda: self._enter(stack, services.pools_by_http, enter))

    async def _enter(self, stack: AsyncExitStack, pools: Pools, enter: Entry) -> Turn:
        """Return its turn in one of *pools*, sent; *stack* ends it."""
        async with AsyncExitStack() as inner:
            pool = await inner.enter_async_context(pools.pool(self._identity))
            keep = self._visit.services.recorder is not None
            turn = pool.turn(self._body, session=self._visit.session, notice=self._notices.hear, keep=keep)
            self._turns.append(turn)
            self._turn = self._record.turn = turn
            await enter(turn.awaited)
            self._dials = not pool.open
            await inner.enter_async_context(turn)
            stack.push_async_exit(inner.pop_all())
            return turn

    @property
    def sent(self) -> bool:
        return self._record.sent

    def notices(self) -> Sequence[Event]:
        return self._notices.take()

    def left(self, drop: Callable[[float], object]) -> None:
        if self._run is not None:
            self._visit.services.orphans.left(self._run, drop)

    def wrote(self, events: Sequence[Event], size: int) -> None:
        record = self._record
        if self._run is not None:
            self._run.write(events, size)
        record.bytes_out += size
        if self._first_at is None:
            self._first_at = trio.current_time()
            if self._turn is not None:
                self._notices.sent(self._turn)
                self._heard(self._turn)

    def end(self, error: Exception | None, *, left: bool) -> None:
        record, turn, now = self._record, self._turn, trio.current_time()
        if self._run is not None:
            whole = turn is not None and turn.ended
            lost = None if whole else error or PoolClosedError("the turn was given up")
            self._visit.services.orphans.over(self._run, lost, keep=whole and error is None)
        sent = self._sent_at
        waited = (now if sent is None else sent) - self._begun
        record.own = self._begun - self._came
        record.line, record.dial = (0.0, waited) if self._dials else (waited, 0.0)
        if sent is not None:
            first = now if self._first_at is None else self._first_at
            record.first_event, record.stream = first - sent, now - first
        record.total = now - self._came
        for each in self._turns:
            if each.record is not None:
                record.learn(each.record)
        record.request_id = self._notices.request_id or said_by(error).request_id
        if turn is not None:
            self._visit.take_down(self._body, turn.events, error, record.bytes_in)
        self._visit.forget(self._body)
        if error is not None:
            record.fail(error)
        if left:
            record.outcome, record.drained = "left", turn is not None and turn.ended
        self._visit.services.records.end(record, "left" if left else "lost")


class _Going:
    """A turn in the pool, which goes on by HTTP where its request turns out to be too large.

    Args:
        turn: it, entered.
        by_http: enters it there.
    """

    def __init__(self, turn: Turn, by_http: Callable[[], Awaitable[Turn]]) -> None:
        self._turn = turn
        self._by_http = by_http

    @property
    def response_id(self) -> str | None:
        return self._turn.response_id

    @property
    def delivery(self) -> Delivery:
        return self._turn.delivery

    @property
    def ended(self) -> bool:
        return self._turn.ended

    @property
    def failure(self) -> WsPoolError | None:
        return self._turn.failure

    async def batch(self) -> Sequence[Event]:
        try:
            return await self._turn.batch()
        except WsPoolError as error:
            if not goes_by_http(error, sent=True, went_so=self._turn.transport == "http"):
                raise
        self._turn = await self._by_http()
        return await self._turn.batch()

    async def steer(self, input: str | Sequence[Mapping[str, Any]]) -> Steer:
        return await self._turn.steer(input)
