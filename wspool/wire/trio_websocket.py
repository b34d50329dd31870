"""The default wire: trio-websocket behind the seam, with its known faults kept inside.

The idea: one task per wire (`_run`) owns trio-websocket's reader in a nursery of its own, and a
thin stream (`GuardedStream`) sits between trio-websocket and the network. The stream sees what
trio-websocket does not tell: how the stream ended, what the server answered instead of 101, and
whether a write was cut short. Together they give these promises, which trio-websocket 0.12 does
not give by itself:

* An end of stream, a reset, junk or half an answer during the upgrade ends the dial at once, with its cause.
* A refused upgrade is reported with its status even when its body never ends.
* A crash of the reader (it crashes when a ping follows our close frame) closes this wire, and only it.
* Nothing waits for a dead peer: when the reader ends, every send, ping and close ends too.
* After a write that was cut short nothing more is written: the peer would take it for the rest of a frame.
* The stream is closed whatever happens, without waiting for the peer.
* A frame that is refused is refused for its head, before its payload has come (`wspool.wire.heads`): so are
  endless fragments, which trio-websocket does not count, and sizes, which it counts in characters.
* Credentials are forgotten once the upgrade is over, and what the peer says is in no log: trio-websocket
  would print close reasons and pings, in which a peer may echo them.

An `_Inbox` takes the place of the memory channel between trio-websocket's reader and whoever receives. In
that channel each message costs both of them a round through the scheduler; here one read wakes the receiver
once, whatever number of messages it held.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, cast

import trio
import trio_websocket
import wsproto.events
import wsproto.utilities

from wspool.wire import dial
from wspool.wire.answer import MAX_REJECT_BODY, refusal, upgrade_failure
from wspool.wire.gauge import Gauge
from wspool.wire.guarded_stream import GuardedStream
from wspool.wire.heads import LONG, MAX_FRAGMENTS
from wspool.wire.wire import ABNORMAL_CLOSURE, ConnectError, Endpoint, Wire, WireClosedError

__all__ = ["MAX_FRAGMENTS", "MAX_REJECT_BODY", "TrioWebSocketConnector"]

#: Messages trio-websocket reads ahead. While this queue is full it answers no pings.
_QUEUE: Final = 64

#: Bytes that it reads ahead; the message that goes beyond it is the last.
_READ_AHEAD: Final = 256 * 1024

#: Bytes per read; the default of 4 KiB costs four reads for each full TLS record.
_RECEIVE_BUFFER: Final = 64 * 1024


class _Discreet(logging.Filter):
    """Lets nothing out that trio-websocket logs about connections of ours; others are not ours to silence."""

    def filter(self, record: logging.LogRecord) -> bool:
        about = record.args[0] if isinstance(record.args, tuple) and record.args else None
        return not isinstance(getattr(about, "_stream", None), GuardedStream)


logging.getLogger("trio-websocket").addFilter(_Discreet())


class TrioWebSocketConnector:
    """Makes wires of trio-websocket.

    Args:
        open_stream: how to get a byte stream to an endpoint; a memory stream serves as well.
            It need not keep time: `Endpoint.connect_timeout` is kept here.
    """

    def __init__(self, open_stream: dial.OpenStream = dial.open_stream) -> None:
        self.open_stream = open_stream

    def __repr__(self) -> str:
        return "<TrioWebSocketConnector>"

    async def connect(
        self, nursery: trio.Nursery, endpoint: Endpoint, headers: Sequence[tuple[str, str]]
    ) -> Wire:
        """Dial *endpoint* and return the open wire.

        Args:
            nursery: runs the wire's one task, which never raises into it.
            endpoint: where to dial.
            headers: extra headers of the upgrade request.

        A checkpoint. Cancelling closes whatever was opened.

        Raises:
            ConnectError: there is no wire, with the phase and the cause.
            ValueError: a header cannot be sent; the text never holds its value.
        """
        fields = dial.encode_headers(headers)
        stream: GuardedStream | None = None
        try:
            with dial.time_limit(endpoint):
                stream = GuardedStream(await self.open_stream(endpoint), endpoint.max_message_size)
                dial.enter("upgrade")
                opened: _TrioWebSocketWire | ConnectError = await nursery.start(
                    _run, stream, endpoint, fields
                )
            if isinstance(opened, ConnectError):
                # Not raised through `start`, which takes away the cause before trio 0.34.
                raise opened
        except BaseException as error:
            if stream is not None:
                await stream.aclose()
                if (
                    isinstance(error, ConnectError)
                    and error.timed_out
                    and stream.answer is not None
                    and (said := refusal(bytes(stream.answer.received)))
                ):
                    # It said no; only the end of its body was missing.
                    raise said from error  # noqa: ASYNC104 # of a ConnectError, no Cancelled
            raise
        return opened


async def _run(
    stream: GuardedStream,
    endpoint: Endpoint,
    fields: list[tuple[bytes, bytes]],
    *,
    task_status: trio.TaskStatus[_TrioWebSocketWire | ConnectError],
) -> None:
    """Upgrade *stream*, hand out the wire, and stay until its reader ended; or hand out why there is none."""
    wire: _TrioWebSocketWire | None = None
    crash: Exception | None = None
    try:
        async with trio.open_nursery() as nursery:
            with stream.upgrade:
                connection = await trio_websocket.wrap_client_stream(
                    nursery,
                    # It names two classes but needs only a trio.abc.Stream.
                    cast("trio.SocketStream", stream),
                    dial.host_header(endpoint),
                    endpoint.resource,
                    subprotocols=endpoint.subprotocols,
                    extra_headers=fields,
                    message_queue_size=_QUEUE,
                    max_message_size=endpoint.max_message_size,
                    receive_buffer_size=_RECEIVE_BUFFER,
                )
                # From here to `started` nothing waits: the wire exists, or the upgrade failed.
                fields = []
                _forget_request(connection)
                wire = _TrioWebSocketWire(connection, stream, endpoint.close_timeout, nursery.cancel_scope)
                stream.open(wire.say_goodbye)
                task_status.started(wire)
    except* Exception as group:
        crash = _leaf(group)
    finally:
        await stream.aclose()
        if wire is not None:
            wire.reader_ended(crash)
    if wire is None:
        assert stream.answer is not None
        wrong = crash is not None or stream.verdict is not None
        failure = upgrade_failure(bytes(stream.answer.received), wrong=wrong)
        failure.__cause__ = stream.cause or crash
        task_status.started(failure)


def _forget_request(connection: trio_websocket.WebSocketConnection) -> None:
    """Drop the upgrade request, whose headers hold credentials. Both keep it for the life of the wire."""
    connection._initial_request = None  # pyright: ignore[reportPrivateUsage]
    connection._wsproto.handshake._initiating_request = None  # pyright: ignore[reportPrivateUsage]


def _leaf(group: BaseExceptionGroup[Exception]) -> Exception:
    """Return the first plain exception in *group*, or the peer's fault that led to it."""
    first: BaseException = group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    assert isinstance(first, Exception)
    # Told of a bad answer, trio-websocket tries to reject it as a server would, and trips over that.
    context: BaseException | None = first
    while context is not None:
        if isinstance(context, wsproto.utilities.RemoteProtocolError):
            return context
        context = context.__context__
    return first


class _Inbox:
    """Messages between trio-websocket's reader and the one who receives; both ends of a channel in one."""

    def __init__(self, gauge: Gauge) -> None:
        self._messages: list[str | bytes] = []
        self._gauge = gauge
        self._closed = False
        self._arrived = trio.Event()
        self._room = trio.Event()

    def put(self, message: str | bytes) -> None:
        """Add a message and wake the receiver."""
        if len(message) >= LONG and isinstance(message, str) and not message.isascii():
            message = message.encode()
        self._messages.append(message)
        self._gauge.waiting += len(message)
        self._arrived.set()

    async def send(self, message: str | bytes) -> None:
        """Add a message; wait only while too many are unread. For trio-websocket's reader."""
        if self._closed:
            raise trio.BrokenResourceError  # which it takes for a receiver that has left
        self.put(message)
        while (len(self._messages) >= _QUEUE or self._gauge.waiting >= _READ_AHEAD) and not self._closed:
            self._room = trio.Event()
            await self._room.wait()

    async def receive(self) -> list[str | bytes]:
        """Return all unread messages, at least one, or none at the end. A checkpoint."""
        if self._messages or self._closed:
            await trio.lowlevel.checkpoint()
        while not self._messages and not self._closed:
            self._arrived = trio.Event()
            await self._arrived.wait()
        found, self._messages = self._messages, []
        self._gauge.waiting = 0
        self._room.set()
        return found

    async def aclose(self) -> None:
        """No more will come; what is unread stays. For trio-websocket."""
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self, *, discard: bool = False) -> None:
        """No more will come. *discard*: nor does anybody want what is unread."""
        self._closed = True
        if discard:
            self._messages.clear()
            self._gauge.waiting = 0
        self._arrived.set()
        self._room.set()


class _TrioWebSocketWire:
    """One open WebSocket of trio-websocket (see `wspool.wire.wire.Wire` for the contract)."""

    def __init__(
        self,
        connection: trio_websocket.WebSocketConnection,
        stream: GuardedStream,
        close_timeout: float,
        reader: trio.CancelScope,
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._close_timeout = close_timeout
        self._reader = reader
        self._over = False
        self._crash: Exception | None = None
        self.gauge = stream.gauge
        self._inbox = _Inbox(self.gauge)
        # It has both ends of a channel, as far as trio-websocket uses them. Nothing has come yet.
        channel = cast("Any", self._inbox)
        connection._send_channel = connection._recv_channel = channel  # pyright: ignore[reportPrivateUsage]
        # Invariant: empty once the reader has ended.
        self._waiting: set[trio.CancelScope] = set()
        assert stream.answer is not None
        self.headers: Sequence[tuple[str, str]] = stream.answer.headers

    def __repr__(self) -> str:
        return f"<TrioWebSocketWire {'closed' if self._over or self._connection.closed else 'open'}>"

    @property
    def heard_at(self) -> float:
        """When bytes last came, in seconds on trio's clock."""
        return self._stream.heard_at

    async def send(self, message: bytes) -> None:
        """Send one text message of UTF-8 bytes. A checkpoint; not returning normally ends the wire.

        Raises:
            WireClosedError: the wire is closed.
            UnicodeDecodeError: *message* is not UTF-8; nothing was sent.
        """
        text = message.decode()
        try:
            await self._connection.send_message(text)
        except Exception as error:
            raise self._closed() from self._crash or error
        except BaseException:
            self._stream.poisoned = True
            raise

    async def receive(self) -> Sequence[str | bytes]:
        """Return what came since the last call. A checkpoint; cancelling loses nothing.

        Raises:
            WireClosedError: the wire is closed; code 1003 after a binary message, which is refused.
        """
        messages = await self._inbox.receive()
        if not messages:
            raise self._closed() from self._crash
        return messages

    async def ping(self) -> None:
        """Send a ping and wait for its pong. A checkpoint.

        Cancelling is safe: in the unlikely case that it cuts the ping's frame in two, nothing more
        can be sent and the wire says so.

        Raises:
            WireClosedError: the wire closed first.
        """
        try:
            if not await self._unless_ended(self._connection.ping):
                raise self._closed() from self._crash
        except WireClosedError:
            raise
        except Exception as error:
            raise self._closed() from self._crash or error

    async def aclose(self) -> None:
        """Close with a handshake of at most `Endpoint.close_timeout` seconds, then `abort`.

        A checkpoint. When cancelled the stream is dropped at once. Never raises for a dead peer.
        """
        try:
            with trio.move_on_after(self._close_timeout):
                await self._unless_ended(self._connection.aclose)
        except Exception:
            pass  # the peer is gone or out of order; either way we are leaving
        finally:
            await self.abort()  # noqa: ASYNC102 # never blocks, and drops the stream when cancelled
        await trio.lowlevel.checkpoint_if_cancelled()

    async def abort(self) -> None:
        """Drop the stream now. Always yields, never blocks, never raises; idempotent."""
        self._over = True
        self._inbox.close(discard=True)
        self._reader.cancel()
        await self._stream.aclose()

    async def say_goodbye(self, code: int, reason: str) -> None:
        """Tell the peer why it is given up on, in at most close_timeout seconds. Called by the stream."""
        self._inbox.close()  # whoever receives need not wait for that
        try:
            with trio.move_on_after(self._close_timeout):
                event = wsproto.events.CloseConnection(code=code, reason=reason)
                await self._connection._send(event)  # pyright: ignore[reportPrivateUsage]
        except Exception:
            pass  # it has said goodbye itself, or is gone

    def reader_ended(self, crash: Exception | None) -> None:
        """Wake everything that waits for the peer. Called once, by the wire's task."""
        self._over, self._crash = True, crash
        self._inbox.close()
        for scope in self._waiting:
            scope.cancel()

    async def _unless_ended(self, operation: Callable[[], Awaitable[None]]) -> bool:
        """Run *operation* until the reader ends; return whether it finished."""
        with trio.CancelScope() as scope:
            if self._over:
                scope.cancel()
            self._waiting.add(scope)
            try:
                await operation()
                return True
            finally:
                self._waiting.discard(scope)
        return False

    def _closed(self) -> WireClosedError:
        """Return why the wire is closed, from whoever knows best."""
        if self._stream.verdict is not None:
            return WireClosedError(*self._stream.verdict)
        if (reason := self._connection.closed) is not None:
            return WireClosedError(int(reason.code), reason.reason or "", by_peer=True)
        return WireClosedError(ABNORMAL_CLOSURE)
