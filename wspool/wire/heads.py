"""The heads of a server's frames: what is wrong with a frame is known before its payload comes.

The idea: everything that RFC 6455 section 5 forbids, and every limit of ours, can be judged by the few
bytes in front of a payload. Both wires judge by this module, so that they refuse the same frame, with the
same code, at the same byte; what their libraries would say later is never waited for.

Rules of this module:

* It looks at heads only. What a payload holds (text that is not UTF-8, a close code) others judge.
* A head is judged as far as it is there: one wrong byte is enough.
* Sizes are bytes, and a message is as large as all its fragments; how it was cut up changes nothing.
* What comes behind a close frame is nobody's business (RFC 6455 section 1.4).
"""

from __future__ import annotations

from typing import Final

__all__ = ["LONG", "MAX_FRAGMENTS", "BadFrameError", "FrameHeads", "pass_texts"]

#: Most fragments in one message. Without it, empty fragments would be an endless message of no size.
MAX_FRAGMENTS: Final = 4096

#: Bytes from which on a message that is not all ASCII is handed on as it came: one sign in a text can make
#: each of its characters four bytes wide.
LONG: Final = 64 * 1024

# The first byte: whole or not, reserved bits, opcode. The second: masked or not, and a length or what stands
# for a longer one. Source: RFC 6455 section 5.2.
_FIN: Final = 0x80
_RESERVED: Final = 0x70
_COMPRESSED: Final = 0x40
_OPCODE: Final = 0x0F
_CONTROL: Final = 0x08
_CONT, _TEXT, _BINARY, _CLOSE = 0x0, 0x1, 0x2, 0x8
_KNOWN: Final = frozenset((_CONT, _TEXT, _BINARY, _CLOSE, 0x9, 0xA))
_WHOLE_TEXT: Final = _FIN | _TEXT
_MASKED: Final = 0x80
_SIZE_IN_2: Final = 126
_SIZE_IN_8: Final = 127
_LONGEST_HEAD: Final = 10

# Close codes of RFC 6455 section 7.4.1.
_PROTOCOL_ERROR: Final = 1002
_UNSUPPORTED_DATA: Final = 1003
_MESSAGE_TOO_BIG: Final = 1009


class BadFrameError(Exception):
    """A frame that is refused for its head.

    Attributes:
        code: the close code that says so.
        reason: why, without a word of the peer's.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def pass_texts(data: bytes | bytearray, at: int, limit: int, into: list[str | bytes] | None = None) -> int:
    """Pass whole text messages of one frame each, none of 64 KiB; return where something else begins.

    That is nearly all that ever comes, and `FrameHeads.judge` takes four times as long to say nothing of it.

    Args:
        data: whole or partial frames, outside of any message in fragments.
        at: where a frame begins.
        limit: bytes of a message; what is larger is left to `FrameHeads.judge`, as is all that is wrong.
        into: gets the texts, if anybody wants them.

    Raises:
        UnicodeDecodeError: a message that is wanted is not UTF-8; those before it are there.
    """
    end = len(data)
    while at + 4 <= end and data[at] == _WHOLE_TEXT:
        start, size = at + 2, data[at + 1]
        if size == _SIZE_IN_2:
            start, size = at + 4, data[at + 2] << 8 | data[at + 3]
            if size < _SIZE_IN_2:
                break
        elif size > _SIZE_IN_2:
            break
        stop = start + size
        if stop > end or size > limit:
            break
        if into is not None:
            into.append(data[start:stop].decode())
        at = stop
    return at


class FrameHeads:
    """Judges the heads of one server's frames, in their order.

    Args:
        max_message_size: bytes of a message, all fragments together; compressed, its compressed bytes.
        compressed: messages may be compressed (RFC 7692), which takes one of the reserved bits.

    Attributes:
        refused: why the last `feed` took less than all.
        held: after `feed`, bytes of a message that has begun and is not whole.
    """

    def __init__(self, max_message_size: int, *, compressed: bool = False) -> None:
        self._limit = max_message_size
        self._compressed = compressed
        #: How many fragments of an unfinished message have come, and their bytes.
        self._fragments = 0
        self._size = 0
        self._closed = False
        # For `feed`: a head that is not all there, and bytes of payload that are still to come.
        self._part = b""
        self._left = 0
        #: Bytes of the message up to the end of the latest frame, or of a control frame in its midst.
        self._reach = 0
        self.refused: BadFrameError | None = None
        self.held = 0

    def feed(self, data: bytes | bytearray) -> int:
        """Take the next bytes of the stream, however it is cut; return how many of them may be used.

        Less than all: a frame is refused, see `refused`, and nothing more is to be fed.
        """
        before = len(self._part)
        if before:
            data = self._part + data
            self._part = b""
        at, end = 0, len(data)
        try:
            while not self._closed:
                skipped = min(self._left, end - at)
                self._left -= skipped
                at += skipped
                if not self._fragments:
                    at = pass_texts(data, at, self._limit)
                if at == end:
                    break
                start, stop = self.judge(data, at)
                if start > end:
                    self._part = bytes(data[at:])
                    break
                self.accept(data[at], stop - start)
                at, self._left = start, stop - start
        except BadFrameError as error:
            self.refused = error
            return max(0, at - before)
        self.held = self._reach - self._left if self._left else self._size
        return end - before

    def judge(self, data: bytes | bytearray, at: int) -> tuple[int, int]:
        """Return where the payload of the frame that begins at *at* begins, and where it ends.

        While its head is not all there, both are where that would be at the earliest: behind *data*.

        Raises:
            BadFrameError: this frame is refused.
        """
        first, end = data[at], len(data)
        self._judge_kind(first)
        start = at + 2
        if start > end:
            return start, start
        size = data[at + 1]
        if size & _MASKED:
            raise BadFrameError(_PROTOCOL_ERROR, "a masked frame from a server")
        if first & _CONTROL:
            if size > 125:
                raise BadFrameError(_PROTOCOL_ERROR, "a control frame of more than 125 bytes")
            if size == 1 and first & _OPCODE == _CLOSE:
                raise BadFrameError(_PROTOCOL_ERROR, "half a close code")
            return start, start + size
        least = 0
        if size >= _SIZE_IN_2:
            least = 1 << 16 if size == _SIZE_IN_8 else _SIZE_IN_2
            start += 8 if size == _SIZE_IN_8 else 2
            if start > end:
                return start, start
            size = int.from_bytes(data[at + 2 : start], "big")
        if self._size + size > self._limit:
            raise BadFrameError(_MESSAGE_TOO_BIG, f"a message of more than {self._limit} bytes")
        if size < least:
            raise BadFrameError(_PROTOCOL_ERROR, "a length in more bytes than it needs")
        return start, start + size

    def accept(self, first: int, size: int) -> None:
        """Note that a frame was judged and taken.

        Args:
            first: its first byte.
            size: bytes of its payload.
        """
        if first & _CONTROL:
            self._closed = self._closed or first & _OPCODE == _CLOSE
            self._reach = self._size + size
        elif first & _FIN:
            self._reach = self._size + size
            self._fragments = self._size = 0
        else:
            self._fragments += 1
            self._size += size
            self._reach = self._size

    def _judge_kind(self, first: int) -> None:
        opcode, reserved = first & _OPCODE, first & _RESERVED
        if self._compressed and opcode in (_TEXT, _BINARY):
            reserved &= ~_COMPRESSED
        if reserved:
            raise BadFrameError(_PROTOCOL_ERROR, "a frame with reserved bits")
        if opcode not in _KNOWN:
            raise BadFrameError(_PROTOCOL_ERROR, "a frame of an unknown kind")
        if opcode & _CONTROL:
            if not first & _FIN:
                raise BadFrameError(_PROTOCOL_ERROR, "a control frame in fragments")
        elif opcode == _CONT:
            if not self._fragments:
                raise BadFrameError(_PROTOCOL_ERROR, "a continuation of nothing")
            if self._fragments >= MAX_FRAGMENTS:
                raise BadFrameError(_MESSAGE_TOO_BIG, f"a message of more than {MAX_FRAGMENTS} fragments")
        elif self._fragments:
            raise BadFrameError(_PROTOCOL_ERROR, "a new message inside of another")
        elif opcode == _BINARY:
            raise BadFrameError(_UNSUPPORTED_DATA, "binary message")
