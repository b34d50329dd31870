"""Exchange: the body of a request in; the head of an answer, its body in pieces, or an error out.

What all doors have in common. An exchange is a task of the pool's trio run; whoever asked reads its `Outlet`,
in whatever thread or loop. Rules of this module:

* Nothing of a lease lives with the reader: readers drop an answer without a word, and the exchange ends.
* What was not read is bounded in bytes; then the exchange waits, and so does the server.
* With `stream` the events go out as they came, all that are there in one piece; only what the core has mended
  is written anew. Without it there is one JSON body, and no event is looked at.
* The head waits for the first event: until then an error has a status of its own. A request that was refused
  has no event.
* A reader who leaves gives the turn up, unless its end is there or comes in the next moment: to leave at the
  end costs nothing.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

import attrs
import trio

from wspool.core.events.response import Response
from wspool.core.frames import Event, encode_received
from wspool.core.statistics import TurnRecord
from wspool.errors import MalformedMessageError, PoolClosedError, ResponseFailedError
from wspool.pool.handover import Handover
from wspool.pool.http_answer import Headers
from wspool.pool.pool import Pool
from wspool.pool.turn import Turn

__all__ = [
    "JSON",
    "Entry",
    "Expired",
    "Head",
    "Limits",
    "Outlet",
    "Writer",
    "exchange",
    "mended",
    "server_sent",
]

#: How long a turn may go on after its reader has left, in seconds: some readers leave at the last word.
_LAST_MOMENT: Final = 0.05

#: The header of an answer that is one body.
JSON: Final = ("content-type", "application/json")
_SSE: Final = ("content-type", "text/event-stream; charset=utf-8")

_TERMINAL: Final = frozenset({"response.completed", "response.failed", "response.incomplete"})
_WORD: Final = re.compile(r"[A-Za-z0-9_.:-]+")
_LINE_END: Final = re.compile(r"\r\n|\r|\n")

#: How often within a limit for silence it is looked whether something has come.
_LOOKS: Final = 4

_numbers = itertools.count(1)

#: Writes events as a piece of a body. With the last of all comes the response as it is known here.
Writer: TypeAlias = Callable[[Sequence[Event], "dict[str, Any] | None"], bytes]

#: Waits until a turn may go for a lane, where its door has a line of its own. Told whether one is kept for it
#: (`Turn.awaited`), and called again for the same exchange.
Entry: TypeAlias = Callable[[bool], Awaitable[None]]

#: Which limit of the caller's was over, as HTTP clients call them.
Phase: TypeAlias = Literal["connect", "pool", "read"]


class Expired(Exception):
    """A time limit of the caller's is over; *phase* says which."""

    def __init__(self, phase: Phase, seconds: float) -> None:
        super().__init__(
            {
                "connect": f"no connection to the endpoint within {seconds:g} s",
                "pool": f"no free lane within {seconds:g} s",
                "read": f"nothing came of the response for {seconds:g} s",
            }[phase]
        )
        self.phase: Phase = phase


@attrs.frozen(kw_only=True)
class Limits:
    """How long the caller waits, in seconds.

    Attributes:
        connect: for a connection, while the pool has none at all.
        pool: for a lane.
        read: for the first event, and from each to the next.
    """

    connect: float = math.inf
    pool: float = math.inf
    read: float = math.inf


_NO_LIMITS: Final = Limits()


@attrs.frozen
class Head:
    """The head of an answer."""

    status: int
    headers: Headers


class Outlet(Handover[bytes]):
    """What goes out of one exchange. Written in the pool's trio run, read in any thread by one reader.

    Attributes:
        head: the head, once it is known.
        error: what ended it, if that was not the end of the body.
        scope: ends the exchange.
        late: says what ends it where nothing came of what is expected.
        dials: True if there was no connection at all when its turn began to wait.
        name: what its answer is called (`x-request-id`), whatever that is.
        notice: called with its turn, before anything of that is sent.
        heed: called with each notice that comes while its turn is in flight, see `Pool.turn`.
        keeps: whether events are wanted again that were written already.
        sent_at: when its request was sent, on trio's clock.
        record: how its turn went, once it is over, where an instrument watches turns.
    """

    __slots__ = (
        "_expected",
        "dials",
        "error",
        "head",
        "heed",
        "keeps",
        "late",
        "name",
        "notice",
        "record",
        "scope",
        "sent_at",
    )

    def __init__(self, notice: Callable[[Turn], object] = lambda _: None, *, most: int | None = None) -> None:
        super().__init__(most=most)
        self.name = f"wspool-{next(_numbers)}"
        self.notice = notice
        self.heed: Callable[[Event], object] | None = None
        self.head: Head | None = None
        self.dials = self.keeps = False
        self.sent_at: float | None = None
        self.record: TurnRecord | None = None
        self.error: Exception | None = None
        self.scope = trio.CancelScope()
        self.late: Callable[[], Exception] | None = None
        #: Seconds within which something must come.
        self._expected = math.inf

    # -- for the exchange -----------------------------------------------------------------------

    def begin_with(self, status: int, headers: Iterable[tuple[str, str]]) -> None:
        """Write the head, of which the reader is told with what follows."""
        self.head = Head(status, [*headers, ("x-request-id", self.name)])
        self.begun = True

    async def write(self, piece: bytes, *, more: bool = False) -> None:
        """Write a piece of the body. A checkpoint, which waits while too much is unread.

        Args:
            more: True if another follows that is there already: then the reader is told of both at once, and
                there is no checkpoint unless it waits.
        """
        self.put(piece, len(piece))
        if not more:
            self.ring()
            await trio.lowlevel.checkpoint()
        await self.room()

    async def room(self) -> None:
        """Wait while too much is unread, which is no silence of the turn. A checkpoint only then."""
        if self._is_full():
            seconds = self._expected
            self.expect(math.inf)
            await super().room()
            self.expect(seconds)

    def write_last(self, piece: bytes) -> None:
        """Write the last piece, of which the reader is told with the end, as being told costs most.

        So the lane is back, too, before whoever reads it can ask for the next turn. Never waits.
        """
        self.put(piece, len(piece))

    def end(self, error: Exception | None = None) -> None:
        """Nothing more will be written. The first word counts."""
        if not self.ended:
            self.error = error
            super().end()

    def expect(self, seconds: float, late: Callable[[], Exception] | None = None) -> None:
        """Something must come within so many seconds from now, or the exchange is at its end.

        It takes no scope of its own: to enter one and to leave it costs as much as ten events.

        Args:
            seconds: how many.
            late: what is said then, if it is something else than before.
        """
        if seconds == self._expected == math.inf or self.abandoned or self.scope.cancel_called:
            return  # also where what came before that was too late, and nothing has waited since
        self.late = late or self.late
        self.scope.deadline = trio.current_time() + seconds
        self._expected = seconds

    @property
    def expired(self) -> Exception | None:
        """What is to be said of it if it was ended because nothing came in time, else None."""
        scope = self.scope
        if self.late is None or not scope.cancelled_caught or self.abandoned:
            return None
        return self.late() if trio.current_time() >= scope.deadline else None

    def leave(self) -> None:
        """The reader has left. In the pool's trio run; never waits, and twice is once."""
        if not self.abandoned:
            self.abandon()
            if not self.ended:
                self.scope.deadline = min(self.scope.deadline, trio.current_time() + _LAST_MOMENT)


async def exchange(
    pool: Callable[[], Awaitable[Pool]],
    body: Mapping[str, Any],
    outlet: Outlet,
    *,
    limits: Limits = _NO_LIMITS,
    session: Iterable[str] = (),
    write: Writer | None = None,
    enter: Entry | None = None,
) -> None:
    """Take one turn with *body*, and write its answer to *outlet*. A checkpoint; raises no `Exception`.

    Args:
        pool: returns where, once that is open.
        body: that of a request to `POST /responses`, which `http_only` has nothing against.
        outlet: where its answer goes.
        limits: how long the caller waits.
        session: as for `Pool.turn`.
        write: writes the events of an answer that is streamed; by default as they came (`server_sent`).
        enter: what the turn waits for before it goes for a lane, if anything, whatever the limits.

    Cancelling it gives the turn up. What went wrong is `Outlet.error`: a `WsPoolError`, `Expired`, or a
    TypeError or ValueError about the body. If there is no head by then, `error_answer` has one.
    """
    turn: Turn | None = None
    try:
        with outlet.scope:
            turn = await _enter(await pool(), body, limits, session, outlet, enter)
            outlet.sent_at = trio.current_time()
            try:
                if body.get("stream") is True:
                    await _stream(turn, outlet, limits.read, write or server_sent)
                else:
                    await _answer(turn, outlet, limits.read)
            finally:
                await turn.__aexit__(None, None, None)  # noqa: ASYNC102 # never waits
                outlet.record = turn.record
            outlet.end()
        if (late := outlet.expired) is not None:
            outlet.end(late)
    except Exception as error:
        outlet.end(error)
    finally:
        if not outlet.ended:
            closed = PoolClosedError("the exchange was ended by its door")
            closed.delivery = turn.delivery if turn is not None else "not_sent"
            outlet.end(closed)


async def _enter(
    pool: Pool,
    body: Mapping[str, Any],
    limits: Limits,
    session: Iterable[str],
    outlet: Outlet,
    enter: Entry | None,
) -> Turn:
    """Return a turn that is sent, within the limits for that."""
    since = trio.current_time()
    while True:
        turn = pool.turn(body, session=session, notice=outlet.heed, keep=outlet.keeps)
        outlet.notice(turn)
        if enter is not None:
            await enter(turn.awaited)
        late = functools.partial(_late, turn, pool, limits.pool)
        outlet.expect(since + limits.pool - trio.current_time(), late)
        if pool.open or limits.pool <= limits.connect:
            outlet.dials = outlet.dials or not pool.open
            return await turn.__aenter__()
        # A connection is waited for if there is none at all; once there is one, it is the line.
        outlet.dials = True
        with trio.move_on_at(since + limits.connect):
            return await turn.__aenter__()
        if turn.delivery != "not_sent" or not pool.open:
            raise _late(turn, pool, limits.connect)


def _late(turn: Turn, pool: Pool, seconds: float) -> Exception:
    """Return what is said of a turn that was not sent within so many seconds."""
    if turn.delivery != "not_sent":
        return Expired("read", seconds)
    if not pool.open:
        return pool.failure or Expired("connect", seconds)
    return Expired("pool", seconds)


async def _stream(turn: Turn, outlet: Outlet, silence: float, write: Writer) -> None:
    """Write the events as they come."""
    outlet.expect(silence, functools.partial(Expired, "read", silence))
    while events := await turn.batch():
        if outlet.head is None:
            outlet.begin_with(200, [_SSE, ("cache-control", "no-cache")])
        if turn.ended:
            response = turn.response.data
            outlet.write_last(write([mended(events[0], response)] if turn.mended else events, response))
            return
        if not turn.at_hand:
            outlet.expect(silence)
        await outlet.write(write(events, None), more=turn.at_hand)


async def _answer(turn: Turn, outlet: Outlet, silence: float) -> None:
    """Write the response, once it is there: also one that failed, as providers do."""
    outlet.expect(math.inf)  # what follows looks for itself
    try:
        response = await _result(turn, silence)
    except ResponseFailedError:
        if not turn.ended:
            raise
        response = turn.response
    data = encode_received(response.data)
    outlet.write_last(data)
    outlet.begin_with(200, [JSON, ("content-length", str(len(data)))])


async def _result(turn: Turn, silence: float) -> Response:
    if silence == math.inf:
        return await turn.result()
    received, silent = -1, 0
    while True:
        with trio.move_on_after(silence / _LOOKS):
            return await turn.result()
        silent = silent + 1 if turn.received == received else 0
        received = turn.received
        if silent >= _LOOKS:
            raise Expired("read", silence)


def mended(event: Event, response: dict[str, Any]) -> Event:
    """Return the last event as it came, or written anew if the core had to complete it."""
    kind = event.type if event.type in _TERMINAL else f"response.{response.get('status')}"
    try:
        said = Event(event.type, event.raw).data
    except MalformedMessageError:
        said = {}
    if kind == event.type and said.get("response") == response:
        return event
    return Event(kind, encode_received({**said, "type": kind, "response": response}))


def server_sent(events: Sequence[Event], response: dict[str, Any] | None = None) -> bytes:
    """Return *events* as server-sent events, as they came."""
    return "".join([_as_sse(event) for event in events]).encode(errors="replace")


def _as_sse(event: Event) -> str:
    raw = event.raw if isinstance(event.raw, str) else event.raw.decode(errors="replace")
    if "\n" in raw or "\r" in raw:
        raw = _LINE_END.sub("\ndata: ", raw)
    return f"{_begun_with(event.type)}{raw}\n\n"


@functools.lru_cache(maxsize=256)  # there are a few dozen
def _begun_with(kind: str) -> str:
    """Return what stands before the data of an event of that type."""
    # A type that is more than a word could end the line.
    return f"event: {kind}\ndata: " if _WORD.fullmatch(kind) else "data: "
