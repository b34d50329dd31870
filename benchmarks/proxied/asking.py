"""The least that a client can do: a socket, a request that was made before, and the end of its answer."""

from __future__ import annotations

import json
import socket
import time
from typing import Any, Final
from urllib.parse import urlsplit

import attrs

from benchmarks.proxied.running import KEY

__all__ = ["MODEL", "Answer", "Caller", "body", "request"]

MODEL: Final = "bench"

_END: Final = b"0\r\n\r\n"


def body(*, stream: bool, **more: Any) -> bytes:
    """Return the body of a short request."""
    said = {"model": MODEL, "input": "hi", "stream": stream, "store": False, **more}
    return json.dumps(said).encode()


def request(base_url: str, content: bytes, *, key: str = KEY, tries: int | None = None) -> bytes:
    """Return a whole request; *tries* tells how often it was made before, as SDKs do."""
    parts = urlsplit(base_url)
    again = "" if tries is None else f"x-stainless-retry-count: {tries}\r\n"
    return (
        f"POST {parts.path}/responses HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {key}\r\n"
        f"{again}Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    ).encode() + content


@attrs.frozen
class Answer:
    """One answer: its body as it was sent, chunks and all; seconds to its first byte and to its last.

    Attributes:
        again: whether its head allows to ask again.
    """

    status: int
    content: bytes
    first: float
    total: float
    again: bool = True


class Caller:
    """One connection that is kept, and asks one thing after the other. Blocks."""

    def __init__(self, base_url: str) -> None:
        parts = urlsplit(base_url)
        self._where = (parts.hostname or "", parts.port or 0)
        self._socket: socket.socket | None = None

    def ask(self, what: bytes) -> Answer:
        """Send *what*, and wait for the end of the answer. Raises ConnectionError: that did not come."""
        if self._socket is None:
            self._socket = socket.create_connection(self._where, timeout=60)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        began = time.perf_counter()
        self._socket.sendall(what)
        data = bytearray(self._read())
        first = time.perf_counter() - began
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self._read()
        head = bytes(data[:end]).lower()
        del data[: end + 4]
        _, found, length = head.partition(b"content-length:")
        if found:
            size = int(length.partition(b"\r")[0])
            while len(data) < size:
                data += self._read()
        else:
            while not data.endswith(_END):
                data += self._read()
        total = time.perf_counter() - began
        if b"\nconnection: close" in head:
            self.close()
        return Answer(int(head[9:12]), bytes(data), first, total, b"x-should-retry: false" not in head)

    def _read(self) -> bytes:
        assert self._socket is not None
        data = self._socket.recv(262_144)
        if not data:
            self.close()
            raise ConnectionError("the answer was cut off")
        return data

    def close(self) -> None:
        """Hang up."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
