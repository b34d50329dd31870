"""The catalogue: every fault that a server can cause, by name.

Each function here is one fault. Its docstring says what happens, its arguments are what can be asked for, and
it returns the steps. The decorator gives it the place where it happens unless another one is asked for.
This module has the faults of the transport; those of what is said over it are in
`wspool.server.faults.sayings`.
"""

import inspect
import math
from collections.abc import Callable
from typing import Final

import attrs

from wspool.server.faults.steps import (
    Close,
    Encode,
    Finish,
    Freeze,
    Handshake,
    IgnoreClose,
    LatePongs,
    PrecedeClose,
    Reset,
    Slice,
    Step,
    Wait,
    Write,
)
from wspool.server.line import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, frame, frame_head

__all__ = ["FAULTS", "FaultKind", "named"]

#: Longer than any patience: what stalls for this long has to be found out by the client, in seconds.
_FOR_EVER: Final = 3600.0
#: Bytes of a message that is written in portions.
_PORTION: Final = 64 * 1024


@attrs.frozen(kw_only=True)
class FaultKind:
    """A fault that can be asked for by name."""

    name: str
    """What it is asked for by."""
    group: str
    """`transport`, `framing`, `grammar`, `errors` or `notices`."""
    at: str
    """Where it happens unless another place is asked for; see `Fault.at`."""
    after: bool
    """After the event at that place, not before it."""
    silent: bool
    """Nothing tells the client: only its own clock finds this out."""
    make: Callable[..., tuple[Step, ...]]
    """Makes what is done, of the options of a `Fault`."""

    @property
    def doc(self) -> str:
        """What happens, in one line."""
        return (inspect.getdoc(self.make) or "").partition("\n")[0]


#: Every fault by its name.
FAULTS: Final[dict[str, FaultKind]] = {}


def named(
    group: str, *, at: str, after: bool = False, silent: bool = False
) -> Callable[[Callable[..., tuple[Step, ...]]], Callable[..., tuple[Step, ...]]]:
    """Register a function under its own name."""

    def register(make: Callable[..., tuple[Step, ...]]) -> Callable[..., tuple[Step, ...]]:
        FAULTS[make.__name__] = FaultKind(
            name=make.__name__, group=group, at=at, after=after, silent=silent, make=make
        )
        return make

    return register


# The end of a connection.


@named("transport", at="delta")
def reset() -> tuple[Step, ...]:
    """The connection is reset."""
    return (Reset(),)


@named("transport", at="delta")
def fin() -> tuple[Step, ...]:
    """The connection ends without a close frame."""
    return (Finish(),)


@named("transport", at="idle")
def close(code: int = 1000, reason: str | bytes = "") -> tuple[Step, ...]:
    """A close frame with any code, legal or not, and any reason, text or not."""
    tail = reason.encode() if isinstance(reason, str) else reason
    return (Close(code.to_bytes(2) + tail),)


@named("transport", at="idle")
def close_without_code() -> tuple[Step, ...]:
    """A close frame without a code, which a client reports as 1005."""
    return (Close(b""),)


@named("transport", at="idle")
def close_malformed() -> tuple[Step, ...]:
    """A close frame with half a code."""
    return (Close(b"\x03"),)


@named("transport", at="idle")
def close_with_odd_reason() -> tuple[Step, ...]:
    """A close frame whose reason is not UTF-8."""
    return (Close((1011).to_bytes(2) + b"\xff\xfe"),)


@named("transport", at="open", silent=True)
def close_unanswered() -> tuple[Step, ...]:
    """The client's close frame is never answered, and the connection stays up."""
    return (IgnoreClose(),)


@named("transport", at="open")
def ping_after_close() -> tuple[Step, ...]:
    """Between the client's close frame and the server's comes a ping."""
    return (PrecedeClose(frame(PING, b"late")),)


# Silence.


@named("transport", at="delta", silent=True)
def stall(seconds: float = _FOR_EVER) -> tuple[Step, ...]:
    """The turn stands still for so many seconds; pings are answered."""
    return (Wait(seconds),)


@named("transport", at="delta", silent=True)
def stall_without_pong(seconds: float = _FOR_EVER) -> tuple[Step, ...]:
    """The turn stands still for so many seconds, and from now on no ping is answered."""
    return (LatePongs(math.inf), Wait(seconds))


@named("transport", at="delta", silent=True)
def half_open(seconds: float = _FOR_EVER) -> tuple[Step, ...]:
    """The server neither reads nor writes any more, and does not close."""
    return (Freeze(reading=True, writing=True, seconds=seconds),)


@named("transport", at="receipt", silent=True)
def deaf(seconds: float = _FOR_EVER) -> tuple[Step, ...]:
    """The server reads nothing any more, so the client's buffers fill up; nothing is answered."""
    return (Freeze(reading=True, writing=False, seconds=seconds),)


@named("transport", at="response.created", silent=True)
def mute() -> tuple[Step, ...]:
    """Everything that the server sends is lost, though it reads and answers."""
    return (Freeze(reading=False, writing=True, seconds=0.0),)


@named("transport", at="open")
def late_pong(delay: float = 10.0) -> tuple[Step, ...]:
    """Pings are answered so many seconds late, while everything else goes on."""
    return (LatePongs(delay),)


@named("transport", at="open", silent=True)
def no_pong() -> tuple[Step, ...]:
    """Pings are never answered, while everything else goes on."""
    return (LatePongs(math.inf),)


# Bytes and frames.


@named("transport", at="open")
def dribble(size: int = 1, gap: float = 0.0) -> tuple[Step, ...]:
    """Bytes come so many at a time, with a pause in seconds between them."""
    return (Slice(size, gap),)


@named("framing", at="delta")
def ping_flood(count: int = 1000, gap: float = 0.0) -> tuple[Step, ...]:
    """Many pings, while the turn goes on."""
    return (Write(data=frame(PING, b"flood"), times=count, gap=gap, background=True),)


@named("framing", at="delta")
def long_ping(size: int = 125) -> tuple[Step, ...]:
    """A ping with as many bytes; 125 is the most that is legal."""
    return (Write(data=frame(PING, b"p" * size)),)


@named("framing", at="delta")
def unsolicited_pong() -> tuple[Step, ...]:
    """A pong that nobody asked for."""
    return (Write(data=frame(PONG, b"unasked")),)


@named("framing", at="delta")
def fragments(size: int = 16, pings: bool = True) -> tuple[Step, ...]:
    """The event comes in fragments, with pings between them."""

    def encode(text: bytes) -> bytes:
        pieces = [text[start : start + size] for start in range(0, len(text), size)] or [b""]
        data = bytearray()
        for number, piece in enumerate(pieces):
            opcode = TEXT if number == 0 else CONTINUATION
            data += frame(opcode, piece, final=number == len(pieces) - 1)
            if pings and number < len(pieces) - 1:
                data += frame(PING, b"between")
        return bytes(data)

    return (Encode(encode),)


@named("framing", at="delta", silent=True)
def empty_fragments(count: int = 100_000) -> tuple[Step, ...]:
    """A message begins and goes on in fragments without a byte, and never ends."""
    # In portions: one write of all would be one buffer of all.
    portion = min(count, 1000)
    beginning = Write(data=frame(TEXT, b"", final=False))
    return (
        beginning,
        Write(data=frame(CONTINUATION, b"", final=False) * portion, times=count // max(portion, 1)),
        Wait(_FOR_EVER),
    )


@named("framing", at="delta")
def oversized_message(size: int = 64 * 1024 * 1024) -> tuple[Step, ...]:
    """A text message of so many bytes: an event of a kind that nobody knows."""
    head = b'{"type":"response.padding","padding":"'
    count, rest = divmod(size - len(head) - 2, _PORTION)
    # In portions: faults are made when the module is imported, and nobody should hold this text then.
    return (
        Write(data=frame_head(TEXT, size) + head),
        Write(data=b"x" * _PORTION, times=count),
        Write(data=b"x" * rest + b'"}'),
    )


@named("framing", at="delta", silent=True)
def oversized_header(size: int = 2**62) -> tuple[Step, ...]:
    """A frame announces more bytes than anybody has, and only a few of them come."""
    return (Write(data=b"\x81\x7f" + size.to_bytes(8) + b'{"type":'), Wait(_FOR_EVER))


@named("framing", at="delta")
def binary_frame() -> tuple[Step, ...]:
    """The event comes as a binary message."""
    return (Encode(lambda text: frame(BINARY, text)),)


@named("framing", at="delta")
def rsv1() -> tuple[Step, ...]:
    """The event comes with RSV1 set, as if it were compressed."""
    return (Encode(lambda text: frame(TEXT, text, rsv=4)),)


@named("framing", at="handshake")
def deflate_unasked() -> tuple[Step, ...]:
    """The handshake accepts a compression that was not offered."""
    return (Handshake(((b"Sec-WebSocket-Extensions", b"permessage-deflate"),)),)


@named("framing", at="delta")
def masked_frame() -> tuple[Step, ...]:
    """The event comes masked, as only a client may send it."""

    def encode(text: bytes) -> bytes:
        plain = frame(TEXT, text)
        size = len(plain) - len(text)
        # A mask of zeros changes no byte.
        return bytes([plain[0], plain[1] | 0x80]) + plain[2:size] + bytes(4) + text

    return (Encode(encode),)


@named("framing", at="delta")
def reserved_opcode() -> tuple[Step, ...]:
    """A frame of a kind that does not exist."""
    return (Write(data=frame(0x3, b"?")),)


@named("framing", at="delta")
def stray_continuation() -> tuple[Step, ...]:
    """A fragment that continues nothing."""
    return (Write(data=frame(CONTINUATION, b"{}")),)


@named("framing", at="delta")
def fragmented_close() -> tuple[Step, ...]:
    """A close frame in fragments, which no control frame may come in."""
    return (Write(data=frame(CLOSE, (1000).to_bytes(2), final=False)),)


@named("framing", at="delta")
def junk(data: bytes = b"HTTP/1.1 502 Bad Gateway\r\n\r\n") -> tuple[Step, ...]:
    """Bytes that are no frame."""
    return (Write(data=data),)


@named("framing", at="delta")
def invalid_utf8() -> tuple[Step, ...]:
    """A text message that is not UTF-8."""
    return (Write(data=frame(TEXT, b'{"type":"\xff"}')),)
