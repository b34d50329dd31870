"""Passing: what is not for WebSocket goes to the provider over HTTP, streamed both ways.

Rules of this module:

* The endpoint is the one that the proxy was started with; no redirect is followed.
* Bytes pass as they are, in the moment they come; what one side does not take, the other has to wait for.
  Between two events of a stream silence is broken by comments: others would have numbers.
* What is known of the answer to a turn is taken from what passes by, bounded: tokens, its id, how it ended.
* A connection of its own for each request: nothing of one client's can be read by another.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Final, cast

import attrs
import h11
import trio

from wspool.core.frames import read_object
from wspool.core.policy import PoolPolicy
from wspool.core.usage import Usage
from wspool.listening.errors import RequestError, TurnError
from wspool.proxy.headers import answered, asked
from wspool.proxy.records.record import Outcome, Record
from wspool.proxy.turns.catalog import LARGEST, is_codex_s, with_models
from wspool.proxy.turns.events import COMMENT
from wspool.proxy.turns.posting import Post
from wspool.proxy.visit import Visit
from wspool.wire import dial
from wspool.wire.event_stream import EventStreamReader, EventTooLongError
from wspool.wire.http_wire import HttpConnector
from wspool.wire.wire import ConnectError, Endpoint

__all__ = ["Passage"]

logger: Final = logging.getLogger("wspool.proxy")

_READ: Final = 65536

#: Bytes of a head at most. Providers send less than 8 KiB.
_MAX_HEAD: Final = 64 * 1024

#: Bytes of an answer that are looked at for its tokens; what is longer has none.
_MAX_LOOK: Final = 16 * 2**20

#: What says where a body ends.
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})

#: Interim answers before the real one. Servers send one or two (RFC 9110 section 15.2).
_MAX_INTERIM: Final = 16

_ENDS: Final[Sequence[Outcome]] = ("completed", "incomplete", "failed")


class Passage:
    """The way to the provider over HTTP.

    Args:
        endpoint: where it is.
        open_stream: how to get a byte stream there.
        credential: the header that goes with each request instead of the client's own.
        policy: the limits of its turns.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        open_stream: dial.OpenStream,
        credential: tuple[str, str] | None,
        policy: PoolPolicy,
    ) -> None:
        self._policy = policy
        self._endpoint = endpoint
        self._open_stream = open_stream
        self._credential = credential

    def post(self, visit: Visit, body: bytes) -> Post:
        """Return the turn of *visit* as a request with *body*, as that came."""
        fields = [field for field in self._fields(visit) if field[0] != b"accept-encoding"]
        headers = [("connection", "close"), ("accept-encoding", "identity")]
        headers += [(name.decode("ascii"), value.decode("latin-1")) for name, value in fields]
        endpoint = attrs.evolve(self._endpoint, resource=_resource(visit))
        return Post(HttpConnector(read_object, self._open_stream), endpoint, headers, body, self._policy)

    async def pass_on(self, visit: Visit, record: Record) -> None:
        """Pass the request of *visit* on, and its answer back. A checkpoint.

        Args:
            record: its record; it is not ended here.

        Raises:
            RequestError: nothing of an answer was sent; this is one.
            trio.BrokenResourceError: the client has left, or the answer was cut, which its client sees.
        """
        record.way, record.items_sent = "http", record.items_given
        begun = trio.current_time()
        record.own, record.line = begun - visit.since, 0.0
        crossing = _Crossing(visit, record, self._policy.send_timeout)
        head = self._head(visit, crossing.looks)
        try:
            with dial.time_limit(self._endpoint):
                stream = await self._open_stream(self._endpoint)
        except ConnectError as error:
            logger.warning("request %d: %s", record.number, error)
            refused = RequestError(_unreachable(str(error)))
            record.dial, record.outcome = trio.current_time() - begun, "lost"
            record.fail(refused)
            raise refused from None
        try:
            await crossing.run(stream, head)
        finally:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)

    def _head(self, visit: Visit, looks: bool) -> h11.Request:
        fields = self._fields(visit)
        if looks:  # what is encoded cannot be looked at
            fields = [(name, value) for name, value in fields if name != b"accept-encoding"]
            fields.append((b"accept-encoding", b"identity"))
        every: list[tuple[bytes, bytes]] = [
            (b"host", dial.host_header(self._endpoint).encode("ascii")),
            (b"connection", b"close"),
            *fields,
            *(field for field in visit.request.headers if field[0] in _FRAMING),
        ]
        return h11.Request(
            method=visit.request.method, target=_resource(visit).encode("ascii"), headers=every
        )

    def _fields(self, visit: Visit) -> list[tuple[bytes, bytes]]:
        """Return what the provider is told of what the request says."""
        own = self._credential
        fields = asked(visit.request.headers, credentials=own is None)
        return fields if own is None else [*fields, (own[0].encode("ascii"), own[1].encode("ascii"))]


def _resource(visit: Visit) -> str:
    """Return the path and query of a request at the provider."""
    target = visit.target.at(visit.services.upstream)
    return target[target.index("/", target.index("//") + 2) :]


class _Crossing:
    """One request on its way, and its answer on its way back."""

    def __init__(self, visit: Visit, record: Record, send_timeout: float) -> None:
        self._visit = visit
        self._record = record
        self._send_timeout = send_timeout
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD)
        self._held: _Held | None = None
        self._is_list = is_codex_s(visit.target, visit.request.method)
        self.looks = visit.target.path.startswith("/responses") or self._is_list
        self._look: _Look | None = None

    async def run(self, stream: trio.abc.Stream, head: h11.Request) -> None:
        visit, record = self._visit, self._record
        sent_before = visit.answers.sent
        here, ended = True, False
        try:
            try:
                await self._send(stream, head)
            except trio.BrokenResourceError:
                visit.answers.closes = True  # it may have said why, and nobody has read the rest
            here = await visit.while_here(partial(self._bring_back, stream, trio.current_time()))
        finally:
            record.bytes_out = visit.answers.sent - sent_before
            if self._look is not None:
                ended = self._look.tell(record)
            if not here and not ended:  # to leave at the end is to have had all
                record.outcome = "left"
        if not here:
            raise trio.BrokenResourceError("the client has left")

    async def _send(self, stream: trio.abc.Stream, head: h11.Request) -> None:
        http, record = self._http, self._record
        intake, answers = self._visit.intake, self._visit.answers
        record.requests, record.bytes_sent = record.requests + 1, 0
        await self._tell(stream, http.send(head))
        while piece := await intake.piece(answers.send):
            record.bytes_in += len(piece)
            record.bytes_sent += len(piece)
            await self._tell(stream, http.send(h11.Data(data=bytes(piece))))
        await self._tell(stream, http.send(h11.EndOfMessage()))

    async def _tell(self, stream: trio.abc.Stream, data: bytes | None) -> None:
        """Send *data*, which the provider has to take in time: nobody looks after the client meanwhile."""
        with trio.move_on_after(self._send_timeout) as scope:
            await stream.send_all(data or b"")
        if scope.cancelled_caught:
            raise self._lost()

    async def _bring_back(self, stream: trio.abc.Stream, sent_at: float) -> None:
        answers, record = self._visit.answers, self._record
        interim = 0
        while True:
            event = await self._next(stream)
            match event:
                case h11.InformationalResponse():
                    interim += 1
                    if interim > _MAX_INTERIM:
                        raise self._lost()
                case h11.Response():
                    now = trio.current_time()
                    record.first_event, record.stream = now - sent_at, 0.0
                    record.dial = sent_at - self._visit.since - (record.own or 0.0)
                    self._begin(event)
                    if self._is_list and event.status_code == 200 and _is_plain(event):
                        self._held = _Held(answered(event.headers))
                    else:
                        await answers.send_head(event.status_code, answered(event.headers))
                case h11.Data():
                    record.stream = trio.current_time() - sent_at - (record.first_event or 0.0)
                    if self._look is not None:
                        self._look.feed(bytes(event.data))
                    if self._held is None:
                        await answers.send_data(bytes(event.data))
                    else:
                        self._held.data += event.data
                        if len(self._held.data) > LARGEST:
                            raise self._lost()
                case h11.EndOfMessage():
                    if (held := self._held) is not None:
                        fields = [field for field in held.fields if field[0] != "content-length"]
                        await answers.send_whole(200, fields, with_models(bytes(held.data)))
                    else:
                        await answers.send_end()
                    return
                case _:
                    raise self._lost()

    def _lost(self) -> Exception:
        """There is no answer, or no more of it: return what says so."""
        self._record.outcome = "lost"
        if self._visit.answers.begun:
            return trio.BrokenResourceError("the answer was cut")
        refused = RequestError(_no_answer())
        self._record.status = None  # whatever the provider has said, the client hears this
        self._record.fail(refused)
        return refused

    async def _next(self, stream: trio.abc.Stream) -> object:
        """Return the next event of the answer.

        Raises:
            RequestError: there is none, and nothing was sent to the client.
            trio.BrokenResourceError: there is none, and it was.
        """
        try:
            while (event := self._http.next_event()) is h11.NEED_DATA:
                data: bytes | None = None
                with trio.move_on_after(self._patience):
                    try:
                        data = bytes(await stream.receive_some(_READ))
                    except trio.BrokenResourceError:
                        data = b""
                if data is None:
                    await self._visit.answers.send_data(COMMENT)
                else:
                    self._http.receive_data(data)
        except h11.RemoteProtocolError:
            raise self._lost() from None
        return event

    @property
    def _patience(self) -> float:
        """For how long silence may last now, in seconds."""
        visit, look = self._visit, self._look
        breaks = visit.keepalive_style != "off" and look is not None and look.between_events
        return visit.services.settings.keepalive if breaks else math.inf

    def _begin(self, head: h11.Response) -> None:
        record = self._record
        record.status = head.status_code
        record.outcome = "completed" if head.status_code < 400 else "refused"
        fields = {name: value.decode("latin-1") for name, value in head.headers}
        record.request_id = fields.get(b"x-request-id", "")[:200] or None
        if record.request_id is not None:
            self._visit.answers.headers = {}  # that is its name
        if self.looks and not self._is_list and _is_plain(head):
            self._look = _Look(events=fields.get(b"content-type", "").startswith("text/event-stream"))


@attrs.define
class _Held:
    """An answer that is changed before it is sent.

    Attributes:
        fields: of its head.
        data: its body so far.
    """

    fields: list[tuple[str, str]]
    data: bytearray = attrs.field(factory=bytearray)


def _is_plain(head: h11.Response) -> bool:
    """Whether a body is not encoded, so that it can be looked at."""
    return all(name != b"content-encoding" or value == b"identity" for name, value in head.headers)


class _Look:
    """Looks at an answer that passes by."""

    def __init__(self, *, events: bool) -> None:
        self._reader = EventStreamReader(_MAX_LOOK) if events else None
        self._last = bytearray()

    @property
    def between_events(self) -> bool:
        """Whether it is a stream, and what has passed ends where an event does."""
        return self._reader is not None and self._reader.between

    def feed(self, data: bytes) -> None:
        if len(self._last) > _MAX_LOOK:
            return
        if self._reader is None:
            self._last += data
            return
        try:
            found = self._reader.feed(data)
        except EventTooLongError:
            self._reader = EventStreamReader(_MAX_LOOK)
            self._last = bytearray(_MAX_LOOK + 1)  # nothing is known from here on
            return
        ends = [event for event in found if b"response." in event[:200] or b'"error"' in event[:200]]
        if ends:
            self._last = bytearray(ends[-1])

    def tell(self, record: Record) -> bool:
        """Write down what the answer has said; return whether that was how it ended."""
        try:
            said: object = json.loads(self._last) if len(self._last) <= _MAX_LOOK else None
        except (ValueError, RecursionError):
            return False
        if not isinstance(said, dict):
            return False
        whole = cast("dict[str, Any]", said)
        response: object = whole.get("response", whole)
        if not isinstance(response, dict):
            return False
        response = cast("dict[str, Any]", response)
        usage: object = response.get("usage")
        if isinstance(usage, dict):
            record.usage = Usage.of(cast("object", usage))
        if isinstance(name := response.get("id"), str):
            record.response_id = name[:200]
        if isinstance(error := response.get("error"), dict):
            error = cast("dict[str, Any]", error)
            record.error = str(error.get("code") or error.get("type"))[:100]
        for end in _ENDS:
            if end == response.get("status"):
                record.outcome = end
                return True
        return False


def _unreachable(message: str) -> TurnError:
    return TurnError(code="upstream_unreachable", message=message, status=502)


def _no_answer() -> TurnError:
    return TurnError(
        code="upstream_no_answer",
        message="The provider's answer was no HTTP, or its connection ended before it.",
        status=502,
        headers={"x-should-retry": "false"},
    )
