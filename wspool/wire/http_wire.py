"""HTTP as a wire: each request is a POST, and the server-sent events of its answer are the messages.

For endpoints that offer no WebSocket, or where that side is down. To the pool it is a wire like any other:
one connection, one request in flight on it. What differs:

* The server remembers nothing for a connection: only what it was asked to store can be continued. Nothing can
  be said beside a request: no steering, no lanes, no warm-up. `stateless` says so.
* HTTP has no ping. A peer that vanishes without a word is noticed by the system's keep-alive probes of the
  TCP connection (`_PROBES`), and by the budgets for silence in the pool's policy.
* The credential goes with each request, so that the wire holds it. After an answer 401 it ends: the next one
  asks for the key anew.
* An answer is an event stream, or what is as good: an error becomes the `error` message that it would be on
  a WebSocket, a whole response becomes its first and its last event. Which of them it is its first byte says;
  what gateways call it is often wrong. A stream that ends before its response does ends the wire, as a socket
  that was cut. One whose last event only lacks the line behind it has ended well.
* It is asked for as it is (RFC 9110 section 12.5.3: else it may be compressed); what is compressed all the
  same is said to be.
"""

from __future__ import annotations

import json
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, TypeAlias

import h11
import trio

from wspool.wire import dial
from wspool.wire.event_stream import EventStreamReader, EventTooLongError
from wspool.wire.gauge import Gauge
from wspool.wire.wire import ABNORMAL_CLOSURE, ConnectError, Endpoint, WireClosedError

__all__ = ["LAST", "HttpConnector", "HttpWire"]

#: Bytes asked of the stream at a time.
_READ: Final = 65_536

#: Most bytes kept of the body of an error.
_MAX_ERROR: Final = 64 * 1024

#: Seconds from the last event of a response until its answer must have ended, if another request waits for
#: that: a handshake takes less than to wait for what never comes.
_TAIL: Final = 1.0

#: Interim answers before the real one. Servers send one or two (RFC 9110 section 15.2).
_MAX_INTERIM: Final = 16

#: How a request begins; every request that this package makes does.
_CREATE: Final = b'{"type":"response.create"'

#: A JSON text on one line: in its strings there are no line ends. Some clients of a stream read no other.
_ONE_LINE: Final = bytes.maketrans(b"\r\n", b"  ")

#: What ends a stream of chat completions, and of gateways that know no other.
_DONE: Final = b"[DONE]"

#: What is said of a request, unless whoever asks says it.
_FIELDS: Final = (
    (b"Content-Type", b"application/json"),
    (b"Accept", b"text/event-stream"),
    (b"Accept-Encoding", b"identity"),
)

#: What may stand before a JSON object, and before an event: a byte order mark as well (RFC 8259, 8.1).
_BLANK: Final = b" \t\r\n\xef\xbb\xbf"

#: Events that are the last of their response. Source: the SDK's `ResponseStreamEvent`, and what gateways
#: send.
LAST: Final = frozenset(
    {
        "error",
        "response.cancelled",
        "response.completed",
        "response.done",
        "response.failed",
        "response.incomplete",
    }
)

#: Close codes of a goodbye, and of a message that is too big. Source: RFC 6455 section 7.4.1.
_GOODBYE: Final = 1000
_TOO_BIG: Final = 1009

#: The system asks a silent peer after 30 s, and three times 10 s apart: a turn on a dead connection is lost
#: after a minute, as it is where WebSockets ping. Names as in tcp(7).
_PROBES: Final = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))


#: Returns the JSON object that a body is, an empty one if it is none that may be decoded.
ReadObject: TypeAlias = Callable[[bytes], dict[str, Any]]


class HttpConnector:
    """Makes wires that speak HTTP.

    Args:
        read: decodes what has to be looked into, within whatever limits it has.
        open_stream: how to get a byte stream to an endpoint.

    Attributes:
        transport: "http", as records say it.
    """

    transport: Final[Literal["http"]] = "http"

    def __init__(self, read: ReadObject, open_stream: dial.OpenStream = dial.open_stream) -> None:
        self.open_stream = open_stream
        self._read = read

    async def connect(
        self, nursery: trio.Nursery, endpoint: Endpoint, headers: Sequence[tuple[str, str]]
    ) -> HttpWire:
        """Connect to *endpoint*. See `Connector`: without an upgrade nothing judges the credential."""
        return await self.open(endpoint, headers)

    async def open(self, endpoint: Endpoint, headers: Sequence[tuple[str, str]]) -> HttpWire:
        """Connect to *endpoint*. As `connect`, for whoever has no pool."""
        try:
            fields = dial.encode_headers([("Host", dial.host_header(endpoint)), *headers])
        except ValueError as error:
            del headers  # not in the frame that it comes through
            raise ConnectError(str(error), phase="upgrade") from None
        with dial.time_limit(endpoint):
            stream = await self.open_stream(endpoint)
        _probe(stream)
        return HttpWire(stream, endpoint, fields, self._read)


class HttpWire:
    """One HTTP connection.

    Attributes:
        headers: headers of the latest answer, names in lower case.
        heard_at: when bytes last came, in seconds on trio's clock.
        stateless: True: its server remembers no response for it.
    """

    stateless: Literal[True] = True

    def __init__(
        self,
        stream: trio.abc.Stream,
        endpoint: Endpoint,
        headers: Sequence[tuple[bytes, bytes]],
        read: ReadObject,
    ) -> None:
        self.headers: Sequence[tuple[str, str]] = ()
        self.heard_at = trio.current_time()
        self._stream = stream
        self._read = read
        self._resource = endpoint.resource.encode("ascii")
        given = {name.lower() for name, _ in headers}
        self._fields = [*headers, *(field for field in _FIELDS if field[0].lower() not in given)]
        self._limit = endpoint.max_message_size
        self._http = h11.Connection(h11.CLIENT)
        self.gauge = Gauge()
        self._inbox: deque[bytes] = deque()
        self._answer: _Answer | None = None
        self._interim = 0
        self._closed: WireClosedError | None = None
        #: Whether its stream was dropped here.
        self._dropped = False
        #: Set while no request is in flight, and once the wire is closed.
        self._free = trio.Event()
        self._free.set()

    async def ready(self) -> None:
        """Wait until the answer to the request before has ended. See `Serial`."""
        with trio.move_on_after(_TAIL):
            while not self._free.is_set():
                await self._free.wait()
        if not self._free.is_set():
            self._end(_GOODBYE, "the answer before goes on and on")
        self._check_open()

    async def send(self, message: bytes) -> None:
        """Send a request, once the answer to the one before has ended. See `Wire`."""
        await self.post(_body(message))

    async def post(self, body: bytes) -> None:
        """Send a request with *body*. As `send`, for whoever has it as HTTP wants it."""
        sent = False
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            await self.ready()
            self._free = trio.Event()
            request = h11.Request(
                method=b"POST",
                target=self._resource,
                headers=[*self._fields, (b"Content-Length", b"%d" % len(body))],
            )
            parts = [self._http.send(request), self._http.send(h11.Data(body))]
            self._http.send(h11.EndOfMessage())
            await self._stream.send_all(b"".join(part for part in parts if part))
            sent = True
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise self._end(reason="the connection ended while a request was sent") from error
        finally:
            if not sent:
                self._end()

    async def receive(self) -> Sequence[str | bytes]:
        """Return the next events. See `Wire`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._inbox:
            if self._closed is not None:
                await trio.lowlevel.cancel_shielded_checkpoint()
                raise self._closed_error(self._closed)
            try:
                data = await self._stream.receive_some(_READ)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self._end()
                continue
            self.heard_at = trio.current_time()
            self._feed(data)
        batch = list(self._inbox)
        self._inbox.clear()
        return batch

    async def ping(self) -> None:
        """HTTP has no ping: returns at once. See `Wire`."""
        await trio.lowlevel.checkpoint()
        self._check_open()
        self.heard_at = trio.current_time()

    async def aclose(self) -> None:
        """HTTP has no goodbye. See `Wire`."""
        await self.abort()

    async def abort(self) -> None:
        """Drop the stream. See `Wire`."""
        self._end()
        self._dropped = True
        self._inbox.clear()
        await trio.aclose_forcefully(self._stream)

    def _check_open(self) -> None:
        if self._closed is not None:
            raise self._closed_error(self._closed)

    def _closed_error(self, closed: WireClosedError) -> WireClosedError:
        return WireClosedError(ABNORMAL_CLOSURE if self._dropped else closed.code, closed.reason)

    def _end(self, code: int = ABNORMAL_CLOSURE, reason: str = "") -> WireClosedError:
        """It is closed from now on; the first reason counts."""
        if self._closed is None:
            self._closed = WireClosedError(code, reason)
        self._free.set()
        return self._closed_error(self._closed)

    # -- what comes ---------------------------------------------------------------------------

    def _feed(self, data: bytes | bytearray) -> None:
        try:
            self._http.receive_data(bytes(data))
            while self._closed is None:
                event = self._http.next_event()
                if event is h11.NEED_DATA or event is h11.PAUSED:
                    return
                self._take(event)
        except h11.RemoteProtocolError as error:
            self._end(reason=f"no HTTP answer: {error}")
        except EventTooLongError:
            self._end(_TOO_BIG, f"an event has more than {self._limit} bytes (max_message_size)")
        finally:
            self.gauge.partial = self._answer.held if self._answer is not None else 0
            self.gauge.check()

    def _take(self, event: object) -> None:
        match event:
            case h11.InformationalResponse():
                self._interim += 1
                if self._interim > _MAX_INTERIM:
                    self._end(reason=f"more than {_MAX_INTERIM} interim answers")
            case h11.Response():
                self.headers = [
                    (name.decode("latin-1"), value.decode("latin-1")) for name, value in event.headers
                ]
                self._answer = _Answer(event.status_code, self.headers, self._limit, self._read)
                self._interim = 0
            case h11.Data():
                if self._answer is not None:
                    self._inbox += self._answer.feed(bytes(event.data))
            case h11.EndOfMessage():
                self._finish(self._answer)
            case _:  # the end of the stream
                self._end()

    def _finish(self, answer: _Answer | None) -> None:
        """An answer has come to its end."""
        self._answer = None
        if answer is None:
            raise AssertionError("bug: an answer has ended that has not begun")
        self._inbox += answer.end()
        if not answer.whole:
            squeezed = "is compressed, which was not asked for" if answer.compressed else ""
            self._end(reason=f"the event stream {squeezed or 'ended before its response'}")
        elif answer.status == 401:
            self._end(_GOODBYE, "the credential was refused")
        elif self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
            self._free.set()
        else:
            self._end(_GOODBYE, "the endpoint ends the connection with its answer")


class _Answer:
    """One answer, as messages.

    Attributes:
        status: its status.
        compressed: whether its headers say so.
        whole: once it has ended, whether it says how its response did.
    """

    def __init__(self, status: int, headers: Sequence[tuple[str, str]], limit: int, read: ReadObject) -> None:
        self.status = status
        self._read = read
        self.whole = False
        self._headers = dict(headers)
        self.compressed = self._headers.get("content-encoding", "identity").lower() != "identity"
        self._events: EventStreamReader | None = None
        self._last = b""
        self._body = bytearray()
        self._good = 200 <= status < 300
        self._room = limit if self._good else _MAX_ERROR

    @property
    def held(self) -> int:
        """Bytes that have come and are in no message yet."""
        return len(self._body) if self._events is None else self._events.held

    def feed(self, data: bytes) -> list[bytes]:
        """Take a piece of the body; return the messages that it finishes."""
        if not self._body and self._events is None:
            data = data.lstrip(_BLANK)
            if self._good and data and not data.startswith(b"{"):
                self._events = EventStreamReader(self._room)
        if self._events is None:
            if len(self._body) + len(data) > self._room and self._good:
                raise EventTooLongError
            self._body += data[: self._room - len(self._body)]
            return []
        return self._note(self._events.feed(data))

    def _note(self, found: list[bytes]) -> list[bytes]:
        found = [message for message in found if message != _DONE]
        if found:
            self._last = found[-1]
        return found

    def end(self) -> list[bytes]:
        """It is over: return the messages that only its end makes."""
        if self._events is not None:
            name = self._events.name
            # A last event without the line that ends it, of which nothing else is missing.
            if found := self._note([message for message in self._events.rest() if self._read(message)]):
                name = self._events.name
            known = name.decode(errors="replace") in LAST
            self.whole = known or str(self._read(self._last).get("type")) in LAST
            return found
        said = self._read(bytes(self._body))
        if self._good:
            # `stream` was not heeded: all of it came at once, as one response.
            self.whole = isinstance(said.get("id"), str) and isinstance(said.get("status"), str)
            return _as_events(said, bytes(self._body)) if self.whole else []
        self.whole = True
        if not said:
            text = bytes(self._body).decode(errors="replace")
            if self.compressed:
                text = f"The endpoint answered {self.status} with a compressed text."
            elif self.status < 400:
                text = (
                    f"The endpoint answered {self.status}; redirects are never followed: use the final URL."
                )
            elif text.startswith("<"):
                text = f"The endpoint answered {self.status} with a page."
            elif not text.strip():
                text = f"The endpoint answered {self.status}, and nothing else."
            said = {"error": {"message": text}}
        return [_encode({**said, "type": "error", "status": self.status, "headers": self._headers})]


def _as_events(response: dict[str, Any], body: bytes) -> list[bytes]:
    """Return the first and the last event of *response*, which goes into that as the *body* that it was."""
    status = response["status"]
    last = status if status in ("failed", "incomplete", "cancelled") else "completed"
    begun: dict[str, Any] = {
        "id": response["id"],
        "object": "response",
        "status": "in_progress",
        "output": [],
    }
    return [
        _encode({"type": "response.created", "response": begun}),
        b'{"type":"response.%b","response":%b}' % (last.encode(), body.translate(_ONE_LINE)),
    ]


def _encode(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _body(message: bytes) -> bytes:
    """Return the body of the POST that says what *message* says on a WebSocket."""
    if not message.startswith(_CREATE):
        raise ValueError("only response.create can be sent by HTTP")
    return b'{"stream":true%b' % message[len(_CREATE) :]


def _probe(stream: trio.abc.Stream) -> None:
    """Let the system look after a connection that is a socket."""
    inner: object = getattr(stream, "transport", stream)
    if not isinstance(inner, trio.SocketStream):
        return
    inner.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _PROBES:
        if (option := getattr(socket, name, None)) is not None:  # not every system has all of them
            inner.setsockopt(socket.IPPROTO_TCP, option, value)
