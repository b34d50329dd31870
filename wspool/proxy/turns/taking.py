"""Turns: `POST /responses`, answered with server-sent events or one JSON body, through the pool.

Rules of this module:

* The head of an answer is held back until there is an event, a refusal, or silence has lasted for too long:
  until then what goes wrong has a status of its own.
* The client is watched from the first to the last moment. One that leaves while its turn is in line costs
  nothing; while it runs, the turn is read to its end for its tokens, within a bound, or given up.
* What a client does not read waits here, bounded (`Outlet`); then the turn is read no further, and what comes
  of it waits in the pool, bounded (`wspool.proxy.open`), and then at the provider. That cannot be for ever:
  other turns may share its connection. So a client that is so far behind and takes nothing for a while is let
  go, and its turn goes on as that of any client that has left.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, cast

import trio

from wspool.core.frames import Event
from wspool.http.identity import Asked, is_for_pool
from wspool.http.pools import Pools
from wspool.listening.answers import UNREAD
from wspool.pool.exchange import Limits, Outlet
from wspool.pool.http_answer import error_answer
from wspool.proxy.notices import TURN_STATE, Notices, said_by
from wspool.proxy.records.record import Record
from wspool.proxy.turns.events import COMMENT, EventWriter, failed_body
from wspool.proxy.turns.joining import join
from wspool.proxy.turns.repeats import Run, is_marked
from wspool.proxy.visit import Visit, header
from wspool.proxy.ways import goes_by_http

__all__ = ["take_turn"]

logger: Final = logging.getLogger("wspool.proxy")

_NO_LIMITS: Final = Limits()

#: Bytes of an answer that wait here for their client, and once more while they are sent.
_MOST_UNREAD: Final = 64 * 1024

#: Bytes that are handed to the network at a time.
_PIECE: Final = 65536

#: Seconds for which a client that is so far behind may take nothing. Providers send less than 100 kB/s for
#: one turn, so that not more than another 1 MB comes meanwhile.
_BEHIND: Final = 10.0

#: What tells everything between us and the client to pass events on at once. Source: nginx
#: (`X-Accel-Buffering`), RFC 9111 section 5.2.2.6.
_AT_ONCE: Final = (("cache-control", "no-cache, no-transform"), ("x-accel-buffering", "no"))
_SSE: Final = (("content-type", "text/event-stream; charset=utf-8"), *_AT_ONCE)
#: Of a body before which there is white space, so that nobody knows its length.
_JSON: Final = (("content-type", "application/json"), *_AT_ONCE)


async def take_turn(visit: Visit, body: dict[str, Any], raw: bytes) -> None:
    """Take one turn, and answer *visit* with it. A checkpoint; cancelling it gives the turn up.

    Args:
        body: what `read_body` has read; it may be added to.
        raw: it as it came.
    """
    with _recorded(visit, body, raw) as record:
        visit.answers.headers = {"x-request-id": f"wspool-{record.number}"}
        identity, run = visit.identity, None
        if identity is not None and is_marked(visit.request):  # else nobody knows whose it is
            repeats = visit.services.repeats
            if (run := repeats.find(visit.request, visit.whose, raw)) is not None and await _join(
                visit, run, record
            ):
                return
            run = repeats.begin(visit.request, visit.whose, raw, record.number)
        asked = None
        if identity is not None and is_for_pool(body):
            _add_turn_state(visit, body)
            asked = Asked(identity, body, visit.session)
        try:
            await _Course(visit, asked, body, raw, record, run).run()
        finally:
            visit.forget(body)


def _add_turn_state(visit: Visit, body: dict[str, Any]) -> None:
    """Add the state of a turn to *body*: Codex says it by a header and, over WebSocket, there."""
    state = header(visit.request, TURN_STATE.encode())
    metadata: object = body.get("client_metadata") or {}
    if state and isinstance(metadata, Mapping) and TURN_STATE not in metadata:
        body["client_metadata"] = {**cast("Mapping[str, Any]", metadata), TURN_STATE: state}


async def _join(visit: Visit, run: Run, record: Record) -> bool:
    """Answer a request that was asked before with that answer; return False if there is none."""
    record.joined = run.number
    sent_before = visit.answers.sent
    try:
        if not await join(visit, run, _idle(visit, record)):
            record.joined = None
            return False
    finally:
        record.bytes_out = visit.answers.sent - sent_before
        record.status = 200 if visit.answers.begun else None
    record.outcome = "completed" if run.good else "lost"
    return True


def _idle(visit: Visit, record: Record) -> tuple[bytes, Sequence[tuple[str, str]]] | None:
    """Return what breaks the silence before an answer, and behind which head; None if nothing does."""
    if visit.keepalive_style == "off":
        return None
    if record.door == "sse":
        return COMMENT, _SSE
    return (b" ", _JSON) if visit.services.settings.keepalive_json else None


@contextmanager
def _recorded(visit: Visit, body: Mapping[str, Any], raw: bytes) -> Generator[Record]:
    model, given = body.get("model"), body.get("input")
    record = visit.record(
        "sse" if body.get("stream") is True else "json",
        model=model[:200] if isinstance(model, str) else None,
        bytes_in=len(raw),
        items_given=len(cast("list[object]", given)) if isinstance(given, list) else 1,
    )
    try:
        yield record
    finally:
        record.total = trio.current_time() - visit.since
        visit.services.records.end(record, "left")


def _nothing() -> None:
    pass


class _Course:
    """The course of one turn."""

    def __init__(
        self,
        visit: Visit,
        asked: Asked | None,
        body: Mapping[str, Any],
        raw: bytes,
        record: Record,
        run: Run | None,
    ) -> None:
        self._visit = visit
        self._answers = visit.answers
        #: What the pool is asked; None for a turn that is not for it.
        self._asked = asked
        self._body = body
        self._raw = raw
        self._record = record
        self._notices = Notices()
        self._outlet = self._new_outlet()
        self._run = run
        #: What came of a turn that is not for the pool.
        self._posted: Sequence[Event] = ()
        #: How the answer was ended, if it was by us.
        self._last_words = b""
        self._writer: EventWriter | None = None
        if record.door == "sse":
            self._writer = EventWriter(record.number, record.model, background=bool(body.get("background")))
        self._begun = trio.current_time()
        self._first_at: float | None = None
        #: True once the client has left before the end; and once its turn was given up for that.
        self._left = self._given_up = False

    def _new_outlet(self) -> Outlet:
        outlet = Outlet(partial(setattr, self._record, "turn"), most=_MOST_UNREAD)
        outlet.crowded, outlet.heed = self._hurry, self._notices.hear
        outlet.keeps = self._visit.services.recorder is not None
        return outlet

    async def run(self) -> None:
        """Take it, and answer its client. Raises what that raises who answers one that has left."""
        self._record.own = self._begun - self._visit.since
        sent_before, answering, here = self._answers.sent, trio.CancelScope(), False
        try:
            async with trio.open_nursery() as nursery:
                if self._asked is None:
                    nursery.start_soon(self._post)
                else:
                    nursery.start_soon(self._perform, self._asked, self._visit.services.pools)
                self._visit.stream.watch(answering.cancel)
                try:
                    with answering:
                        await self._send(nursery)
                        here = True
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    pass
                if not here and not self._outlet.ended:  # to leave at the end is to have had all
                    self._left = True
                    await self._part()
                nursery.cancel_scope.cancel()
        finally:
            self._visit.stream.watch(None)
            self._end_run()
            self._record.bytes_out = self._answers.sent - sent_before
            self._account()
            self._outlet.crowded = _nothing  # or it and this would hold each other
        if not here:
            raise trio.BrokenResourceError("the client has left")

    async def _perform(self, asked: Asked, pools: Pools) -> None:
        write = None if self._writer is None else self._write
        outlet = self._outlet
        with self._visit.turn(asked.identity) as enter:
            await pools.perform(asked, outlet, _NO_LIMITS, write=write, enter=enter)
        outlet.end()  # it may have been given up in line

    async def _post(self) -> None:
        write = None if self._writer is None else self._write
        if not (self._body.get("previous_response_id") or self._body.get("conversation")):
            self._record.why_full = "unchained"  # nobody here may say what it goes on from
        post = self._visit.services.passage.post(self._visit, self._raw)
        self._posted = post.events
        with self._visit.turn(("posted", self._visit.identity)) as enter:
            await post.perform(self._record, self._notices, self._outlet, write, enter)

    def _write(self, events: Sequence[Event], response: dict[str, Any] | None) -> bytes:
        if self._first_at is None:
            self._first_at = trio.current_time()
            self._hear_answer()
        assert self._writer is not None
        return self._writer.write(events, response)

    async def _part(self) -> None:
        """The client has left: see what becomes of its turn."""
        settings, outlet = self._visit.services.settings, self._outlet
        if outlet.sent_at is None and not self._record.sent:
            outlet.scope.cancel()  # it has cost nothing yet
        elif settings.on_hangup == "drain":
            with trio.move_on_after(settings.drain_for):
                await self._read_to_the_end()
            if self._run is not None and self._run.joined:
                await self._read_to_the_end()
            self._record.drained = outlet.ended
        self._given_up = not outlet.ended
        outlet.leave()
        await self._read_to_the_end()

    async def _read_to_the_end(self) -> None:
        settings, run = self._visit.services.settings, self._run
        breaks = self._writer is not None and self._visit.keepalive_style != "off"
        while not self._outlet.ended:
            is_read = run is not None and bool(run.pieces) and breaks
            heard = await self._wait(run.wrote_at + settings.keepalive if run and is_read else math.inf)
            self._take()
            if not heard:
                self._break_silence()  # of whoever reads it now

    async def _send(self, nursery: trio.Nursery) -> None:
        """Send the answer."""
        answers, writer, by_http = self._answers, self._writer, False
        settings = self._visit.services.settings
        breaks = self._visit.keepalive_style != "off" and (writer is not None or settings.keepalive_json)
        while True:
            silent = not await self._wait(self._visit.silent_until if breaks else math.inf)
            data, outlet = self._take(), self._outlet
            over, last = outlet.ended and not data, outlet.ended and outlet.error is None
            error = outlet.error if over else None
            turn = self._record.turn
            went_so = by_http or (turn is not None and turn.transport == "http")
            if self._asked is not None and goes_by_http(
                error, sent=outlet.sent_at is not None, went_so=went_so
            ):
                # No more than the silence was broken so far: the answer goes on behind that.
                if outlet.record is not None:
                    self._record.learn(outlet.record)
                by_http, self._outlet = True, self._new_outlet()
                nursery.start_soon(self._perform, self._asked, self._visit.services.pools_by_http)
                continue
            if error is not None and not answers.begun:
                await self._send_error(error)
                return
            if error is not None:
                data, last = self._ending(error), True
            elif silent and not data and not over:
                data = self._break_silence()
            if data:
                await self._deliver(data, last=last)
            elif last:
                await answers.send_end()
            if last:
                return

    def _break_silence(self) -> bytes:
        """Return what is sent instead of an answer, also to whoever has joined it and has some of that."""
        if self._writer is None:
            return b" "
        data = self._writer.keepalive(self._visit.keepalive_style)
        if self._run is not None and self._run.pieces:
            self._run.write(data)
        return data

    async def _deliver(self, data: bytes, *, last: bool) -> None:
        """Send a part of the body, behind the head if it is the first."""
        head = None if self._answers.begun else self._head()
        for start in range(0, len(data), _PIECE):
            end = last and start + _PIECE >= len(data)
            piece = data[start : start + _PIECE] if len(data) > _PIECE else data
            within = _BEHIND if self._outlet.is_crowded else UNREAD
            await self._answers.send_part(piece, head, last=end, within=within)
            head = None

    def _hurry(self) -> None:
        """The exchange waits for the client."""
        if (sending := self._answers.sending) is not None:
            sending.deadline = min(sending.deadline, trio.current_time() + _BEHIND)

    def _ending(self, error: Exception) -> bytes:
        """Return the end of an answer that has begun, and in which *error* happened."""
        if self._writer is not None:
            self._last_words = self._writer.ending(error)
            if not self._last_words:
                raise trio.BrokenResourceError("its response goes on")
            return self._last_words
        if self._outlet.head is not None:
            raise trio.BrokenResourceError("its length was said")
        return failed_body(error, self._record.number, self._record.model)

    async def _wait(self, until: float) -> bool:
        """Wait for more of the answer, or its end; return whether that came in time, on trio's clock."""
        news = trio.Event()
        if not self._outlet.wait_for_more(news.set):
            return True
        if until == math.inf:  # a scope costs as much as an event
            await news.wait()
            return True
        with trio.move_on_at(until):
            await news.wait()
        return news.is_set()

    def _take(self) -> bytes:
        pieces, waits = self._outlet.take()
        if waits:
            self._outlet.make_room()
        data = b"".join(pieces)
        if self._run is not None:
            if self._run.headers is None and self._outlet.head is not None:
                self._run.headers = self._headers()
            self._run.write(data)
        return data

    def _hear_answer(self) -> None:
        if self._record.turn is not None:
            self._notices.sent(self._record.turn)

    def _end_run(self) -> None:
        turn = self._outlet.record
        if self._run is not None:
            self._take()  # the first client may have left when all was there
            if (error := self._outlet.error) is not None and self._writer is not None and self._run.pieces:
                # Whoever has joined reads an end, too.
                words = self._last_words or self._writer.ending(error)
                self._run.write(words)
                self._run.cut = not words
            self._run.end(good=turn is not None and turn.status == "completed", left=self._left)

    def _headers(self) -> list[tuple[str, str]]:
        """Return the headers of an answer that is there."""
        head = self._outlet.head
        if self._writer is None and head is not None:
            self._hear_answer()
        own = _SSE if self._writer is not None else _JSON if head is None else head.headers
        return [*own, *self._notices.headers.items()]

    def _head(self) -> tuple[int, list[tuple[str, str]]]:
        self._record.status = 200
        return 200, [*self._headers(), ("server-timing", self._timing())]

    async def _send_error(self, error: Exception) -> None:
        status, headers, content = error_answer(error)
        logger.info("request %d ended with %d: %s", self._record.number, status, type(error).__name__)
        told = {**self._notices.headers, **said_by(error).headers, "server-timing": self._timing()}
        await self._answers.send_whole(status, [*headers, *told.items()], content)

    def _timing(self) -> str:
        """Return what is known of the time so far, for `Server-Timing`, in milliseconds."""
        self._stamp()
        record = self._record
        stamps = {"own": record.own, "line": record.line, "dial": record.dial, "first": record.first_event}
        if self._writer is None:  # all of it is there
            stamps["stream"] = record.stream
        return ", ".join(
            f"{name};dur={seconds * 1000:.1f}" for name, seconds in stamps.items() if seconds is not None
        )

    def _stamp(self) -> None:
        """Write down how long what took, as far as that is known."""
        record, outlet, now = self._record, self._outlet, trio.current_time()
        waited = (now if outlet.sent_at is None else outlet.sent_at) - self._begun
        record.line, record.dial = (0.0, waited) if outlet.dials else (waited, 0.0)
        if outlet.sent_at is None:
            return
        if self._first_at is None and outlet.head is not None:
            turn = outlet.record  # events that make one body are not seen here
            heard = None if turn is None else turn.first_event
            self._first_at = now if heard is None else min(outlet.sent_at + heard, now)
        if self._first_at is not None:
            record.first_event = self._first_at - outlet.sent_at
            record.stream = now - self._first_at

    def _account(self) -> None:
        """Write down how it went. Once its exchange is over."""
        record, outlet = self._record, self._outlet
        self._stamp()
        turn = outlet.record
        if turn is not None:
            record.learn(turn)
        error = outlet.error
        if error is None and record.turn is not None:
            error = record.turn.failure
        record.request_id = self._notices.request_id
        if record.request_id is None and error is not None:
            record.request_id = said_by(error).request_id
        if self._asked is None and outlet.sent_at is not None:
            self._visit.take_down(self._body, self._posted, error, record.bytes_in)
        elif self._asked is not None and record.turn is not None and record.sent:
            self._visit.take_down(self._asked.body, record.turn.events, error, record.bytes_in)
        if error is not None and not self._given_up:  # else nothing went wrong
            record.fail(error)
        if self._left:
            record.outcome = "left"
