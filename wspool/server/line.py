"""The line: the bytes of one connection, under the WebSocket library, and what can go wrong with them.

1. Everything that a connection sends goes through one `Line`, whole frames at a time, so bytes that no
   library would send (`Line.write`) never land inside a frame of somebody else.
2. A line without a fault passes bytes on and does nothing else.
3. Memory streams and sockets behave alike. What a memory stream can not do by itself, be reset and run full,
   `MemoryEnd` does.
"""

import math
import struct
from typing import Final

import trio
import trio.testing

__all__ = [
    "BINARY",
    "CLOSE",
    "CONTINUATION",
    "PING",
    "PONG",
    "TEXT",
    "Line",
    "MemoryEnd",
    "frame",
    "frame_head",
]

# Opcodes. Source: RFC 6455, 11.8.
CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

# The first byte of whole control frames, and the bits by which one is told from data.
_CLOSE_HEAD: Final = 0x80 | CLOSE
_PONG_HEAD: Final = 0x80 | PONG
_CONTROL: Final = 0x88

#: Bytes that a memory stream takes from its sender while the receiver does not read.
_WINDOW: Final = 65536

# Abort on close instead of an orderly end: on, after zero seconds. Source: socket(7), SO_LINGER.
_LINGER_ZERO: Final = struct.pack("ii", 1, 0)


def frame(opcode: int, payload: bytes = b"", *, final: bool = True, rsv: int = 0) -> bytes:
    """One unmasked frame, legal or not.

    Args:
      rsv: the three reserved bits; 4 is RSV1, which marks a compressed message.
    """
    return frame_head(opcode, len(payload), final=final, rsv=rsv) + payload


def frame_head(opcode: int, size: int, *, final: bool = True, rsv: int = 0) -> bytes:
    """What stands before the *size* bytes of an unmasked frame; see `frame`."""
    head = bytes([(0x80 if final else 0) | rsv << 4 | opcode])
    if size < 126:
        return head + bytes([size])
    if size < 0x10000:
        return head + b"\x7e" + size.to_bytes(2)
    return head + b"\x7f" + size.to_bytes(8)


class MemoryEnd(trio.abc.HalfCloseableStream):
    """One end of an in-memory connection that can be reset, and whose receiver can stop reading."""

    def __init__(
        self,
        stream: "trio.StapledStream[trio.testing.MemorySendStream, trio.testing.MemoryReceiveStream]",
    ) -> None:
        self._stream = stream
        self._peer = self
        self._was_reset = False
        self._full: trio.Event | None = None
        self._unread = 0

    @classmethod
    def pair(cls) -> "tuple[MemoryEnd, MemoryEnd]":
        """Both ends of a new connection."""
        one, other = (cls(stream) for stream in trio.testing.memory_stream_pair())
        one._peer, other._peer = other, one
        return one, other

    def reset(self) -> None:
        """End the connection as a TCP reset does: what has arrived may still be read, then both ends fail."""
        self._peer._was_reset = True
        self._stream.send_stream.close()
        self._stream.receive_stream.close()
        self._release()

    def stop_reading(self) -> None:
        """From now on the other end can send a window's worth of bytes, then it blocks."""
        if self._peer._full is None:
            self._peer._full = trio.Event()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self._stream.receive_some(max_bytes)
        if not data and self._was_reset:
            raise trio.BrokenResourceError("connection reset by peer")
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)
        if self._full is not None:
            self._unread += len(data)
            if self._unread > _WINDOW:
                await self._full.wait()
                raise trio.BrokenResourceError("connection reset by peer")

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        self._release()
        await self._stream.aclose()

    def _release(self) -> None:
        for full in (self._full, self._peer._full):
            if full is not None:
                full.set()


class Line(trio.abc.Stream):
    """The server's end of one connection. Times are seconds."""

    def __init__(self, stream: trio.abc.Stream, head: bytes = b"") -> None:
        """Args:
        head: bytes that were read from *stream* already; they come first.
        """
        self.last_read: float = trio.current_time()
        """When the client was last heard of, pongs included."""
        self._stream = stream
        self._head = head
        self._lock = trio.StrictFIFOLock()
        self._deaf = self._mute = self._sealed = False
        self._slices: tuple[int, float] | None = None
        self._pongs: tuple[float, trio.Nursery] | None = None
        self._before_close = b""
        self._answers_close = True

    # What can go wrong. Everything lasts until the connection ends.

    async def reset(self) -> None:
        """Reset the connection. A checkpoint."""
        match self._stream:
            case MemoryEnd() as end:
                end.reset()
                await trio.lowlevel.checkpoint()
            case trio.SocketStream() as stream:
                stream.socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, _LINGER_ZERO)
                stream.socket.close()
                await trio.lowlevel.checkpoint()
            case other:
                await trio.aclose_forcefully(other)

    async def finish(self) -> None:
        """End our half of the connection without a close frame: a FIN, and nothing after it."""
        async with self._lock:
            self._mute = True
            if isinstance(self._stream, trio.abc.HalfCloseableStream):
                await self._stream.send_eof()

    def stop_reading(self) -> None:
        """Read nothing any more; the client can send until the buffers between are full."""
        self._deaf = True
        if isinstance(self._stream, MemoryEnd):
            self._stream.stop_reading()

    def stop_writing(self) -> None:
        """Lose everything that is sent, as a network that drops packets does."""
        self._mute = True

    def slice(self, size: int, gap: float) -> None:
        """Send at most *size* bytes at a time, *gap* seconds apart."""
        self._slices = (size, gap)

    def delay_pongs(self, delay: float, nursery: trio.Nursery) -> None:
        """Send pongs *delay* seconds late, by a task in *nursery*; with `math.inf` none at all."""
        self._pongs = (delay, nursery)

    def precede_close(self, data: bytes) -> None:
        """Send *data* before our close frame, even if it answers the client's."""
        self._before_close = data

    def ignore_close(self) -> None:
        """Never answer the client's close frame, and keep the connection up."""
        self._answers_close = False

    @property
    def answers_close(self) -> bool:
        """Whether the client may expect an end of the closing handshake."""
        return self._answers_close

    def seal(self) -> None:
        """Our close frame is out: nothing may follow it."""
        self._sealed = True

    async def write(self, data: bytes) -> None:
        """Send bytes that the WebSocket library knows nothing of.

        Raises:
          trio.BrokenResourceError: the connection is gone, or our close frame is out.
        """
        async with self._lock:
            if self._sealed:
                raise trio.BrokenResourceError("the connection is being closed")
            if self._mute:
                return
            await self._write(data)

    # The stream.

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self._head:
            head, self._head = self._head, b""
            await trio.lowlevel.checkpoint()
            return head
        if not self._deaf:
            data = await self._stream.receive_some(max_bytes)
            self.last_read = trio.current_time()
            if not self._deaf:
                return data
        await trio.sleep_forever()
        raise AssertionError("bug: nobody wakes a task that sleeps for ever")

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        # trio-websocket hands over one whole frame at a time, its first byte first.
        head = data[0] if data else 0
        async with self._lock:
            if self._mute:
                return
            if self._sealed:
                if head & _CONTROL == _CONTROL:
                    return
                raise trio.BrokenResourceError("the connection is being closed")
            if head == _CLOSE_HEAD:
                if not self._answers_close:
                    return
                data = self._before_close + bytes(data)
            elif head == _PONG_HEAD and self._pongs is not None:
                delay, nursery = self._pongs
                if delay < math.inf:
                    nursery.start_soon(self._write_late, bytes(data), delay)
                return
            await self._write(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        if self._answers_close:
            await self._stream.aclose()
        else:
            await trio.lowlevel.checkpoint()

    async def _write(self, data: bytes | bytearray | memoryview) -> None:
        if self._slices is None:
            await self._stream.send_all(data)
            return
        size, gap = self._slices
        for start in range(0, len(data), size):
            await self._stream.send_all(data[start : start + size])
            if gap > 0:
                await trio.sleep(gap)

    async def _write_late(self, data: bytes, delay: float) -> None:
        await trio.sleep(delay)
        try:
            await self.write(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # the reader finds out by itself
