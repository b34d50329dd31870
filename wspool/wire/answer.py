"""What a server or a proxy answers in plain HTTP before there is a WebSocket or a tunnel.

Rules of this module:

* An answer is read as it comes: what cannot be HTTP is known at its first wrong byte, not at the end.
* Everything is bounded: the head, all interim answers before it, and what is kept of the body.
* The status is the news. A body that is cut short, or endless, never hides it.
* What a 101 says is read here, for all wires alike. Their libraries, each strict in its own way, are told
  what a WebSocket handshake is made of, written anew, and no more.
"""

from __future__ import annotations

import http.client
import io
import re
import socket
from collections.abc import Iterable
from typing import Final, cast

import attrs

from wspool.wire.wire import ConnectError

__all__ = [
    "MAX_HEAD",
    "MAX_REJECT_BODY",
    "Answer",
    "AnswerReader",
    "NotHttpError",
    "is_head_too_long",
    "may_be_http",
    "parse_answer",
    "refusal",
    "upgrade_failure",
]

#: Most bytes kept of the body of a refusal. Enough for any error page, small enough to log.
MAX_REJECT_BODY: Final = 64 * 1024

#: Most chunks of one body. Servers send kilobytes in each; some send each line of a stream in one.
_MAX_CHUNKS: Final = 65536
#: Longest line that says how long a chunk is, in bytes, with whatever extensions.
_MAX_CHUNK_LINE: Final = 1024

#: Most bytes of status line and headers. That is what h11 takes, too.
MAX_HEAD: Final = 16 * 1024

_VERSION: Final = b"HTTP/1."

#: An empty line. A line may end without CR (RFC 9112 section 2.2), and with some old proxies it does.
_HEAD_END: Final = re.compile(rb"\n\r?\n")
_CHUNK_SIZE: Final = re.compile(rb"[0-9A-Fa-f]{1,15}")
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] ([1-9][0-9][0-9])[ \r\n]")

#: A header that goes on in another line has the line end in its value (RFC 9112 section 5.2).
_LINE_END: Final = re.compile(r"[ \t]*[\r\n]+[ \t]*")

#: What a WebSocket handshake is made of (RFC 6455 section 4.2.2).
_HANDSHAKE: Final = (
    "upgrade",
    "connection",
    "sec-websocket-accept",
    "sec-websocket-protocol",
    "sec-websocket-extensions",
)


class NotHttpError(Exception):
    """What came is no HTTP answer."""


@attrs.frozen
class Answer:
    """One HTTP answer.

    Attributes:
        status: its status.
        headers: its headers, names in lower case.
        body: the beginning of its body, as long as was asked for; less if it was cut short.
        whole: whether nothing of the body is missing.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    whole: bool


class AnswerReader:
    """Collects one answer, as it comes in pieces.

    Attributes:
        received: what came so far, without interim answers.
        status: the status, once the head is complete.
        headers: the headers of a 101, names in lower case, once they are complete.
        rest: what came after the head, once it is complete.
    """

    def __init__(self, *, tunnel: bool = False, max_body: int = MAX_REJECT_BODY) -> None:
        """Start with nothing received.

        Args:
            tunnel: the answer is to CONNECT: its head is all of it, whatever its status.
            max_body: bytes of the body that are enough.
        """
        self.received = bytearray()
        self.status: int | None = None
        self.headers: tuple[tuple[str, str], ...] = ()
        self._tunnel = tunnel
        self._max_body = max_body
        self._head = 0
        #: Bytes of interim answers so far.
        self._interim = 0
        self._enough = 0
        self._chunks: _Chunks | None = None

    @property
    def rest(self) -> bytes:
        """What came after the head."""
        return bytes(self.received[self._head :])

    @property
    def handshake(self) -> bytes:
        """The 101 that came, as a library of WebSockets is told of it: each header once."""
        head = "HTTP/1.1 101 Switching Protocols\r\n"
        for wanted in _HANDSHAKE:
            values = dict.fromkeys(value for name, value in self.headers if name == wanted)
            if wanted == "connection" and "upgrade" in _words(values):
                values = {"Upgrade": None}  # whatever else is said of the connection
            if values:
                head += f"{wanted}: {', '.join(values)}\r\n"
        return f"{head}\r\n".encode("latin-1")

    def feed(self, data: bytes | bytearray) -> bool:
        """Take what one read gave; return whether the answer is complete.

        Raises:
            NotHttpError: it is no HTTP answer, its head is too long, or there is no end of interim ones.
        """
        searched = max(0, len(self.received) - 3)
        self.received += data
        while self.status is None:
            status = self._check_status_line()
            if is_head_too_long(self.received):
                raise NotHttpError(f"more than {MAX_HEAD} bytes of headers")
            end = _end_of_head(self.received, searched)
            if end < 0:
                return False
            if status < 200 and status != http.client.SWITCHING_PROTOCOLS:
                del self.received[:end]  # an interim answer; the real one follows
                self._interim += end
                if self._interim > MAX_HEAD:
                    raise NotHttpError(f"more than {MAX_HEAD} bytes of interim answers")
                searched = 0
                continue
            self.status, self._head = status, end
            self._find_end()
        if self._chunks is not None:
            return self._chunks.ended(self.received)
        return len(self.received) >= self._enough

    def _check_status_line(self) -> int:
        """Return the status, 0 while its line is not complete."""
        if not may_be_http(self.received):
            raise NotHttpError("the answer does not begin like HTTP/1")
        if b"\n" not in self.received[:MAX_HEAD]:
            return 0
        match = _STATUS_LINE.match(self.received)
        if match is None:
            raise NotHttpError("the answer has no proper status line")
        return int(match[1])

    def _find_end(self) -> None:
        """Set how many bytes are enough, once the head is there."""
        assert self.status is not None
        self._enough = 0
        if self._tunnel:
            return
        response = _begun(bytes(self.received[: self._head]))
        if response is None:
            raise NotHttpError("the answer has no proper headers")
        fields = _fields(response)
        if self.status == http.client.SWITCHING_PROTOCOLS:
            self.headers = fields
            return
        headers = dict(fields)
        if "chunked" in headers.get("transfer-encoding", "").lower():
            self._chunks = _Chunks(self._head, self._max_body)
        length = headers.get("content-length", "")
        known = self._chunks is None and length.isascii() and length.isdigit() and len(length) < 20
        if self.status in (http.client.NO_CONTENT, http.client.NOT_MODIFIED):
            body = 0
        else:
            body = min(int(length), self._max_body) if known else self._max_body
        self._enough = self._head + body


class _Chunks:
    """Finds the end of a chunked body (RFC 9112 section 7.1) as it comes, without reading what is in it.

    Args:
        start: where the body begins.
        enough: bytes of the body that are enough.
    """

    def __init__(self, start: int, enough: int) -> None:
        #: Where the next line begins: that of a chunk, or a trailer.
        self._at = start
        self._enough = enough
        self._count = self._size = 0
        self._last = False

    def ended(self, received: bytearray) -> bool:
        """Return whether nothing more is wanted: it is all there, enough of it is, or it is no such body."""
        while self._at <= len(received):
            end = received.find(b"\n", self._at, self._at + _MAX_CHUNK_LINE)
            if end < 0:
                return len(received) - self._at >= _MAX_CHUNK_LINE
            line = bytes(received[self._at : end]).strip()
            self._at = end + 1
            self._count += 1
            if self._count > _MAX_CHUNKS or (self._last and not line):
                return True
            if not self._last:
                digits = line.partition(b";")[0].strip()
                if _CHUNK_SIZE.fullmatch(digits) is None:
                    return True
                size = int(digits, 16)
                self._last = not size
                self._size += size
                self._at += size + 2 if size else 0  # and its line end
        missing = max(0, self._at - 2 - len(received))
        return self._size - missing >= self._enough


def may_be_http(received: bytes | bytearray) -> bool:
    """Return whether what came so far begins like an answer."""
    return _VERSION.startswith(received[: len(_VERSION)])


def is_head_too_long(received: bytes | bytearray) -> bool:
    """Return whether status line and headers of what came so far are over `MAX_HEAD`."""
    return len(received) > MAX_HEAD and not 0 <= _end_of_head(received) <= MAX_HEAD


def _end_of_head(received: bytes | bytearray, start: int = 0) -> int:
    """Return where the body begins, -1 if the head goes on. *start*: where to look for its end."""
    found = _HEAD_END.search(received, start)
    return -1 if found is None else found.end()


def parse_answer(received: bytes, *, max_body: int = MAX_REJECT_BODY) -> Answer | None:
    """Return the answer in *received*, None if it is not HTTP, an interim one, or has no end of its head.

    Args:
        received: what came so far.
        max_body: bytes of the body that are kept.
    """
    if _end_of_head(received) < 0:
        return None
    response = _begun(received)
    if response is None or response.status < 200:
        return None
    whole = True
    try:
        body = response.read(max_body)
        whole = response.isclosed() or not response.length
    except http.client.IncompleteRead as error:
        body, whole = error.partial[:max_body], False
    except (http.client.HTTPException, ValueError):
        return None
    return Answer(response.status, _fields(response), body, whole)


def _begun(received: bytes) -> http.client.HTTPResponse | None:
    """Return the answer in *received*, of which the head is read, None if that is none."""
    # HTTPResponse asks its socket for a file and nothing else.
    response = http.client.HTTPResponse(cast("socket.socket", _Received(received)), method="GET")
    try:
        response.begin()
    except (http.client.HTTPException, ValueError):
        return None
    return response


def _words(values: Iterable[str]) -> set[str]:
    """Return what stands between the commas of lists, in lower case."""
    return {word.strip().lower() for value in values for word in value.split(",")}


def _fields(response: http.client.HTTPResponse) -> tuple[tuple[str, str], ...]:
    """Return the headers, names in lower case, values without the space around them, each in one line."""
    pairs = response.getheaders()
    return tuple((name.lower(), _LINE_END.sub(" ", value).strip(" \t")) for name, value in pairs)


@attrs.frozen
class _Received:
    data: bytes

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self.data)


def refusal(received: bytes) -> ConnectError | None:
    """Return what a server said in *received* instead of 101, if it is complete up to its headers."""
    answer = parse_answer(received)
    if answer is None:
        return None
    return ConnectError(
        f"the server refused the WebSocket upgrade with status {answer.status}",
        phase="upgrade",
        status=answer.status,
        headers=answer.headers,
        body=answer.body,
    )


def upgrade_failure(received: bytes, *, wrong: bool) -> ConnectError:
    """Return why an upgrade that ended with *received* failed. *wrong*: it is no WebSocket handshake."""
    if error := refusal(received):
        return error
    if wrong and is_head_too_long(received):
        what = f"the server's answer to the upgrade has more than {MAX_HEAD} bytes of headers: check the URL"
    elif wrong:
        what = "the server's answer to the upgrade is not a WebSocket handshake: check the URL"
    elif received:
        what = "the connection ended in the middle of the server's answer to the upgrade: try again"
    else:
        what = (
            "the server closed the connection instead of answering the upgrade: check the URL and try again"
        )
    return ConnectError(what, phase="upgrade")
