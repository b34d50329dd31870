"""One open WebSocket of the fast wire: bytes in, messages out, and the end (see `wspool.wire.websockets`)."""

from __future__ import annotations

import codecs
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Final, cast

import trio
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State

try:
    from websockets.speedups import apply_mask
except ImportError:
    from websockets.utils import apply_mask

from wspool.wire.gauge import STEP, Gauge
from wspool.wire.heads import LONG, BadFrameError, FrameHeads, pass_texts
from wspool.wire.wire import ABNORMAL_CLOSURE, Endpoint, WireClosedError

__all__ = ["WebSocketsWire", "close_now"]

#: Pongs that may wait for a peer that does not read; the latest stand for all (RFC 6455 section 5.5.3).
_MAX_ANSWERS: Final = 64

#: Bytes per read: four full TLS records.
_RECEIVE: Final = 64 * 1024

#: Bytes of a message that are masked and sent at a time, a multiple of the mask's: 16 MiB would take 15 ms.
_PIECE: Final = 256 * 1024

#: Bytes that a `ping` without anybody in `receive` reads ahead before it waits for that somebody.
_READ_AHEAD: Final = 256 * 1024

# The first byte of a text message of one frame, and the values of the length that stand for a longer length.
# Source: RFC 6455 section 5.2.
_WHOLE_TEXT: Final = 0x81
_SIZE_IN_2: Final = 126
_SIZE_IN_8: Final = 127
_MASKED: Final = 0x80

# Close codes of RFC 6455 section 7.4.1, for what this side says.
_NORMAL: Final = 1000
_INVALID_DATA: Final = 1007

# The hot path compares with these; an attribute of an enum costs as much as the rest of the line.
_TEXT, _CONT, _PONG = Opcode.TEXT, Opcode.CONT, Opcode.PONG


def _text_frame(message: bytes) -> Iterator[bytes]:
    """Yield *message* as one masked text frame (RFC 6455 section 5.2), piece by piece."""
    size, mask = len(message), os.urandom(4)
    if size < _SIZE_IN_2:
        head = bytes((_WHOLE_TEXT, _MASKED | size))
    elif size < 1 << 16:
        head = bytes((_WHOLE_TEXT, _MASKED | _SIZE_IN_2)) + size.to_bytes(2, "big")
    else:
        head = bytes((_WHOLE_TEXT, _MASKED | _SIZE_IN_8)) + size.to_bytes(8, "big")
    yield b"".join((head, mask, apply_mask(message[:_PIECE] if size > _PIECE else message, mask)))
    for at in range(_PIECE, size, _PIECE):
        yield apply_mask(message[at : at + _PIECE], mask)


def _text(data: bytes) -> str | bytes:
    """Return a message as text; as it came if it is long and would grow.

    Raises:
        UnicodeDecodeError: it is not UTF-8.
    """
    if len(data) < LONG or data.isascii():
        return data.decode()
    decoder = codecs.getincrementaldecoder("utf-8")()
    with memoryview(data) as view:
        for at in range(0, len(data), LONG):
            decoder.decode(view[at : at + LONG], at + LONG >= len(data))
    return data


async def close_now(stream: trio.abc.Stream) -> None:
    """Close *stream* without waiting for anybody. Not cut short by cancellation."""
    with trio.CancelScope(shield=True):
        await trio.aclose_forcefully(stream)


class WebSocketsWire:
    """One open WebSocket of websockets (see `wspool.wire.wire.Wire` for the contract)."""

    def __init__(
        self,
        protocol: ClientProtocol,
        stream: trio.abc.Stream,
        endpoint: Endpoint,
        headers: Sequence[tuple[str, str]],
    ) -> None:
        self.headers = headers
        self._protocol = protocol
        self._stream = stream
        self._close_timeout = endpoint.close_timeout
        self._limit = endpoint.max_message_size
        #: When bytes last came, on trio's clock.
        self.heard_at = trio.current_time()
        self._inbox: list[str | bytes] = []
        self.gauge = Gauge()
        #: Bytes read since the inbox was last emptied.
        self._unread = 0
        self._reading = False
        #: Tasks that wait until somebody else has read.
        self._progress = trio.lowlevel.ParkingLot()
        #: The pieces of the message that is being put together.
        self._parts: list[bytes] = []
        self._parts_size = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._lock = trio.Lock()
        #: True once a write was cut short: the frame on the network may be incomplete.
        self._poisoned = False
        #: Frames to write that nobody asked for: pongs, and at last a close frame.
        self._answers: deque[bytes] = deque(maxlen=_MAX_ANSWERS)
        self._answers_due = trio.lowlevel.ParkingLot()
        self._pinged = 0
        self._ponged = 0
        #: Close code and text once the wire has ended.
        self._end: tuple[int, str] | None = None
        self._ended_by_peer = False
        self._cause: Exception | None = None
        self._serving = trio.CancelScope()
        self._served = trio.Event()
        #: The beginning of a frame whose end has not come, and how long the two are together.
        self._held = bytearray()
        self._whole = 0
        #: False when the library must see every byte, because what comes is compressed.
        self._plain = not protocol.extensions
        self._heads = FrameHeads(endpoint.max_message_size, compressed=not self._plain)
        protocol.events_received()  # the answer to the upgrade, which is known

    def __repr__(self) -> str:
        return f"<WebSocketsWire {'open' if self._is_open() else 'closed'}>"

    async def send(self, message: bytes) -> None:
        """Send one text message of UTF-8 bytes. A checkpoint; not returning normally ends the wire.

        Raises:
            WireClosedError: the wire is closed.
            UnicodeDecodeError: *message* is not UTF-8; nothing was sent.
        """
        if not message.isascii():
            message.decode()
        try:
            if self._plain:
                await self._transmit(partial(_text_frame, message))
            else:
                await self._transmit(partial(self._encode, self._protocol.send_text, message))
        except BaseException:
            self._poisoned = True
            raise

    async def receive(self) -> Sequence[str | bytes]:
        """Return the next messages, all that one read gave. A checkpoint; cancelling loses nothing.

        Raises:
            WireClosedError: the wire is closed; code 1003 after a binary message, which is refused.
        """
        if self._inbox or self._end is not None:
            await trio.lowlevel.checkpoint()
        while not self._inbox:
            if self._end is not None:
                raise self._closed() from self._cause
            await self._read()
        batch, self._inbox = self._inbox, []
        self._unread = self.gauge.waiting = 0
        if self._progress:
            self._progress.unpark_all()
        return batch

    async def ping(self) -> None:
        """Send a ping and wait for its pong, or that of a later one. A checkpoint.

        Cancelling is safe: in the unlikely case that it cuts the ping's frame in two, nothing more
        can be sent and the wire says so.

        Raises:
            WireClosedError: the wire closed first.
        """
        await trio.lowlevel.checkpoint()  # the last place where a cancellation harms nothing
        self._pinged += 1
        number = self._pinged
        await self._transmit(partial(self._encode, self._protocol.send_ping, number.to_bytes(4, "big")))
        while self._ponged < number:
            if self._end is not None:
                raise self._closed() from self._cause
            if self._unread > _READ_AHEAD:
                await self._progress.park()
            else:
                await self._read()

    async def aclose(self) -> None:
        """Close with a handshake of at most `Endpoint.close_timeout` seconds, then `abort`.

        A checkpoint. When cancelled the stream is dropped at once. Never raises for a dead peer.
        """
        try:
            with trio.move_on_after(self._close_timeout):
                if self._end is None:
                    await self._transmit(partial(self._encode, self._protocol.send_close, _NORMAL))
                while self._end is None:
                    self._inbox.clear()  # nobody will want these
                    await self._read()
                await self._served.wait()
        except WireClosedError:
            pass  # nothing can be said any more
        finally:
            await self.abort()  # noqa: ASYNC102 # never blocks, and drops the stream when cancelled
        await trio.lowlevel.checkpoint_if_cancelled()

    async def abort(self) -> None:
        """Drop the stream now. Always yields, never blocks, never raises; idempotent."""
        self._inbox.clear()
        self._finish(ABNORMAL_CLOSURE, at_once=True)
        await close_now(self._stream)

    async def serve(self) -> None:
        """Write the answers that nobody asked for, and own the stream. Called once, as a task."""
        try:
            with self._serving:
                while self._answers or self._end is None:
                    if not self._answers:
                        await self._answers_due.park()
                        continue
                    async with self._lock:
                        answers = b"".join(self._answers)
                        self._answers.clear()
                        if not self._poisoned:
                            await self._write(answers)
        except Exception as error:
            self._finish(ABNORMAL_CLOSURE, cause=error)
        finally:
            self._finish(ABNORMAL_CLOSURE, at_once=True)
            await close_now(self._stream)  # noqa: ASYNC102 # never blocks, and closes when cancelled
            self._served.set()

    # -- writing --

    def _encode(self, put: Callable[..., None], *args: object) -> Iterable[bytes]:
        """Return what the library has to say once it was told to *put* something."""
        put(*args)
        return (b"".join(self._protocol.data_to_send()),)

    async def _transmit(self, make: Callable[[], Iterable[bytes]]) -> None:
        """Let *make* make a frame and write it. Cancelled before that, nothing has happened."""
        try:
            # Taking a free lock the usual way would cost a round through the scheduler.
            await trio.lowlevel.checkpoint_if_cancelled()
            try:
                self._lock.acquire_nowait()
            except trio.WouldBlock:
                await self._lock.acquire()
                await trio.lowlevel.checkpoint_if_cancelled()
            try:
                if not self._is_open():
                    raise self._closed() from self._cause
                for piece in make():
                    await self._write(piece)
            finally:
                self._lock.release()
        except WireClosedError:
            raise
        except Exception as error:
            raise self._closed() from self._cause or error

    async def _write(self, data: bytes) -> None:
        try:
            await self._stream.send_all(data)
        except BaseException:
            self._poisoned = True
            raise

    # -- reading --

    async def _read(self) -> None:
        """Read once, or wait until somebody else has. Cancelling loses nothing."""
        if self._reading:
            await self._progress.park()
            return
        self._reading = True
        try:
            data = await self._stream.receive_some(_RECEIVE)
            if not data:
                self._finish(ABNORMAL_CLOSURE, at_once=True)
            elif self._end is None:
                self.heard_at = trio.current_time()
                self._unread += len(data)
                self.feed(data)
        except Exception as error:
            self._finish(ABNORMAL_CLOSURE, cause=error, at_once=True)
        finally:
            self._reading = False
            if self._progress:
                self._progress.unpark_all()

    def feed(self, data: bytes | bytearray) -> None:
        """Take what came: whole text messages by hand, whole frames of any other kind to the library.

        Nearly all that comes is text messages of one frame, which the library's parser, made of
        generators, would take three times as long over as all the rest of the way.
        """
        if self._held:
            self._held += data
            if self._whole >= STEP or self._parts:
                self._weigh()
            if len(self._held) < self._whole:
                return
            data = bytes(self._held)
            self._held.clear()
        try:
            self._take_bytes(data)
        except UnicodeDecodeError as error:
            self._refuse(_INVALID_DATA, "text that is not UTF-8", error)
        except BadFrameError as error:
            self._refuse(error.code, error.reason, error)

    def _take_bytes(self, data: bytes | bytearray) -> None:
        if not self._plain:
            if used := self._heads.feed(data):
                self._tell_library(data[:used])
            self._weigh()
            if self._heads.refused is not None and self._end is None:
                raise self._heads.refused
            return
        at, end = 0, len(data)
        while at < end and self._end is None:
            if not self._parts:
                at = pass_texts(data, at, self._limit, self._inbox)
            if at < end:
                at = self._take_frame(data, at)

    def _take_frame(self, data: bytes | bytearray, at: int) -> int:
        """Take a frame of any kind, or the beginning of one; return where the next begins."""
        start, stop = self._heads.judge(data, at)
        if stop > len(data):
            self._held += data[at:]
            self._whole = stop - at
            return len(data)
        self._heads.accept(data[at], stop - start)
        if data[at] == _WHOLE_TEXT:
            self._inbox.append(_text(bytes(data[start:stop])))
            self._handed(stop - start)
        else:
            self._tell_library(data[at:stop])
        return stop

    def _handed(self, size: int) -> None:
        """A message of *size* bytes is whole, and waits in the inbox."""
        self.gauge.partial = 0
        self.gauge.waiting += size

    def _weigh(self) -> None:
        """Say how much has come of a message that is not whole."""
        compressed = 0 if self._plain else self._heads.held
        self.gauge.partial = len(self._held) + self._parts_size + compressed
        self.gauge.check()

    def _tell_library(self, data: bytes | bytearray) -> None:
        self._protocol.receive_data(data)
        self._take(cast("list[Frame]", self._protocol.events_received()))

    def _refuse(self, code: int, reason: str, cause: Exception) -> None:
        self._fail(code, reason, cause)
        self._take([])  # the answer that says so

    def _take(self, frames: list[Frame]) -> None:
        """Sort what the library made of it: messages, answers to write, and maybe the end."""
        inbox = self._inbox
        try:
            for frame in frames:
                opcode = frame.opcode
                if opcode is _TEXT and frame.fin:
                    inbox.append(_text(bytes(frame.data)))
                    self._handed(len(frame.data))
                elif opcode is _TEXT or opcode is _CONT:
                    self._decoder.decode(frame.data, frame.fin)  # only to see that it can be
                    self._parts.append(bytes(frame.data))
                    self._parts_size += len(frame.data)
                    if frame.fin:
                        inbox.append(_text(b"".join(self._parts)))
                        self._handed(self._parts_size)
                        self._parts.clear()
                        self._parts_size = 0
                    else:
                        self._weigh()
                elif opcode is _PONG and len(frame.data) == 4:
                    number = int.from_bytes(frame.data, "big")
                    if number <= self._pinged:  # anything else was not asked for
                        self._ponged = max(self._ponged, number)
        except UnicodeDecodeError as error:
            self._fail(_INVALID_DATA, "text that is not UTF-8", error)
        protocol = self._protocol
        if answers := protocol.data_to_send():
            self._answers.extend(answers)
            self._answers_due.unpark_all()
        if protocol.state is not State.OPEN:
            if protocol.close_rcvd is not None:
                self._finish(int(protocol.close_rcvd.code), protocol.close_rcvd.reason, by_peer=True)
            elif protocol.parser_exc is not None and protocol.close_sent is not None:
                self._finish(
                    int(protocol.close_sent.code), protocol.close_sent.reason, cause=protocol.parser_exc
                )

    # -- the end --

    def _is_open(self) -> bool:
        return self._end is None and not self._poisoned and self._protocol.state is State.OPEN

    def _closed(self) -> WireClosedError:
        code, reason = self._end or (ABNORMAL_CLOSURE, "")
        return WireClosedError(code, reason, by_peer=self._ended_by_peer)

    def _fail(self, code: int, reason: str, cause: Exception | None = None) -> None:
        """Give up on the peer, and tell it why unless a close frame has been sent already."""
        if self._protocol.state is State.OPEN:
            self._protocol.fail(code, reason)
        self._finish(code, reason, cause=cause)

    def _finish(
        self,
        code: int,
        reason: str = "",
        *,
        cause: Exception | None = None,
        at_once: bool = False,
        by_peer: bool = False,
    ) -> None:
        """Note the end and wake everybody. *at_once*: there is nobody left to say goodbye to."""
        if self._end is None:
            self._end, self._cause, self._ended_by_peer = (code, reason), cause, by_peer
            self._serving.deadline = trio.current_time() + self._close_timeout
        if at_once:
            self._serving.cancel()
        self._progress.unpark_all()
        self._answers_due.unpark_all()
