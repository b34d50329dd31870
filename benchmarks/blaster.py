"""The server of the benchmarks: a process of its own that sends what was made before.

It understands as little as it can: frames are counted and not unmasked, bodies are not read, and
every request gets the turn that the query of its URL describes (`benchmarks.script.Say`), or the first
part of its path if that has no query, over WebSocket or as server-sent events. So it costs a small part
of what any client does; how busy it was is told with every number.

    python -m benchmarks.blaster [CERTIFICATE KEY]

prints its port, then for each line on its standard input one line of JSON about itself, until
the input ends. Without a certificate it speaks no TLS.
"""

from __future__ import annotations

import base64
import hashlib
import heapq
import json
import os
import selectors
import socket
import ssl
import sys
import time
from collections.abc import Sequence

from benchmarks.link import Punctual
from benchmarks.script import PREFIX, RESPONSE_ID, STAMP, Say, steps_of

__all__ = ["main"]

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_READ = 256 * 1024


class Blaster:
    """Serves until standard input ends."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self.context = context
        self.selector = Punctual()
        #: What to write when, in order: (time, tie break, peer, frames).
        self.due: list[tuple[float, int, Peer, Sequence[bytes]]] = []
        self.numbers = 0
        self.turns = self.received = self.connections = self.open = 0

    def run(self) -> None:
        """Serve."""
        listener = socket.create_server(("127.0.0.1", 0), backlog=8192)
        listener.setblocking(False)
        self.selector.register(listener, selectors.EVENT_READ, None)
        self.selector.register(sys.stdin.buffer, selectors.EVENT_READ, self)
        print(listener.getsockname()[1], flush=True)
        due = self.due
        while True:
            wait = None if not due else max(0.0, due[0][0] - time.monotonic())
            for key, mask in self.selector.select(wait):
                data = key.data
                if data is None:
                    self.accept(listener)
                elif data is self:
                    if not os.read(0, 4096):
                        return
                    print(json.dumps(self.account()), flush=True)
                elif isinstance(data, Peer):
                    data.ready(mask)
            if due:
                now = time.monotonic()
                while due and due[0][0] <= now:
                    _, _, peer, frames = heapq.heappop(due)
                    if peer.sock.fileno() >= 0:
                        peer.write(frames, stamp=True)

    def accept(self, listener: socket.socket) -> None:
        """Take all newcomers."""
        while True:
            try:
                sock, _ = listener.accept()
            except BlockingIOError:
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
            self.connections += 1
            self.open += 1
            self.selector.register(sock, selectors.EVENT_READ, Peer(self, sock))

    def later(self, when: float, peer: Peer, frames: Sequence[bytes]) -> None:
        """Write *frames* then."""
        self.numbers += 1
        heapq.heappush(self.due, (when, self.numbers, peer, frames))

    def account(self) -> dict[str, float]:
        """What it has done and used so far."""
        return {
            "cpu": time.process_time(),
            "wall": time.monotonic(),
            "turns": self.turns,
            "received": self.received,
            "connections": self.connections,
            "open": self.open,
        }


class Peer:
    """One connection."""

    def __init__(self, owner: Blaster, sock: socket.socket) -> None:
        self.sock = sock
        self._owner = owner
        self._in = bytearray()
        self._out = bytearray()
        self._say = Say()
        self._upgraded = False
        self._body = 0
        self._skip = 0
        self._final = False
        self._tls: ssl.SSLObject | None = None
        if owner.context is not None:
            self._cipher, self._made = ssl.MemoryBIO(), ssl.MemoryBIO()
            self._tls = owner.context.wrap_bio(self._cipher, self._made, server_side=True)
            self._shaking = True

    def ready(self, mask: int) -> None:
        """The socket can be read or written."""
        try:
            if mask & selectors.EVENT_WRITE:
                self._flush()
            if mask & selectors.EVENT_READ:
                data = self.sock.recv(_READ)
                self._owner.received += len(data)
                if data and self._tls is not None:
                    self._cipher.write(data)
                    data = self._decrypt(self._tls)
                elif not data:
                    self.close()
                    return
                if data:
                    self._take(data)
        except BlockingIOError:
            pass
        except (OSError, ssl.SSLError):
            self.close()

    def close(self) -> None:
        """Drop it."""
        if self.sock.fileno() >= 0:
            self._owner.selector.unregister(self.sock)
            self.sock.close()
            self._owner.open -= 1

    def write(self, frames: Sequence[bytes], *, stamp: bool = False) -> None:
        """Send, as much as the socket takes now, the rest later."""
        if stamp:
            now = b"%016d" % time.monotonic_ns()
            frames = [frame.replace(STAMP, now) for frame in frames]
        if self._tls is not None:
            if self._say.each:
                for frame in frames:
                    self._tls.write(frame)
            else:
                self._tls.write(b"".join(frames))
            data = self._made.read()
        else:
            data = b"".join(frames)
        try:
            self._send(data)
        except OSError:
            self.close()

    def _send(self, data: bytes) -> None:
        if self._out:
            self._out += data
            return
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            self._out += memoryview(data)[sent:]
            self._owner.selector.modify(self.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, self)

    def _flush(self) -> None:
        sent = self.sock.send(self._out)
        del self._out[:sent]
        if not self._out:
            self._owner.selector.modify(self.sock, selectors.EVENT_READ, self)

    def _decrypt(self, tls: ssl.SSLObject) -> bytes:
        pieces: list[bytes] = []
        try:
            if self._shaking:
                tls.do_handshake()
                self._shaking = False
            while True:
                piece = tls.read(_READ)
                if not piece:
                    self.close()
                    break
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass
        if self._made.pending:
            self._send(self._made.read())
        return b"".join(pieces)

    def _take(self, data: bytes) -> None:
        """Count requests in what came."""
        if self._skip >= len(data):  # the middle of a large message
            self._skip -= len(data)
        else:
            self._in += memoryview(data)[self._skip :] if self._skip else data
            self._skip = 0
            while self._in and (self._frame() if self._upgraded else self._head()):
                pass
        if not self._skip and self._final:
            self._final = False
            self._turn()

    def _head(self) -> bool:
        end = self._in.find(b"\r\n\r\n")
        if end < 0:
            return False
        lines = bytes(self._in[:end]).split(b"\r\n")
        del self._in[: end + 4]
        method, target, _ = lines[0].split(b" ")
        path, _, query = target.decode().partition("?")
        self._say = Say.parse(query or path.split("/")[1])
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(b":") for line in lines[1:])
        }
        if method == b"GET" and b"sec-websocket-key" not in headers:
            self.write([b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"])  # proxies look for models
            return True
        if method == b"GET":
            key = base64.b64encode(hashlib.sha1(headers[b"sec-websocket-key"] + _GUID).digest())
            answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            answer += b"Sec-WebSocket-Accept: " + key + b"\r\n\r\n"
            self._upgraded = True
            if self._say.hello:
                self._owner.later(time.monotonic() + self._say.hello, self, [answer])
            else:
                self.write([answer])
            return True
        self._skip_body(int(headers.get(b"content-length", b"0")))
        self._final = True
        return False

    def _skip_body(self, size: int) -> None:
        here = min(size, len(self._in))
        del self._in[:here]
        self._skip = size - here

    def _frame(self) -> bool:
        data = self._in
        if len(data) < 2:
            return False
        opcode, size, head = data[0] & 0x0F, data[1] & 0x7F, 6
        if size == 126:
            if len(data) < 4:
                return False
            size, head = int.from_bytes(data[2:4]), 8
        elif size == 127:
            if len(data) < 10:
                return False
            size, head = int.from_bytes(data[2:10]), 14
        if opcode >= 8:
            if len(data) < head + size:
                return False
            mask = data[head - 4 : head]
            payload = bytes(byte ^ mask[n & 3] for n, byte in enumerate(data[head : head + size]))
            del data[: head + size]
            if opcode == 9:
                self.write([bytes([0x8A, size]) + payload])
            elif opcode == 8:
                self.write([bytes([0x88, size]) + payload])
                self.close()
                return False
            return True
        if len(data) < head:
            return False
        final = bool(data[0] & 0x80)
        del data[:head]
        self._skip_body(size)
        self._final = final
        if self._skip:
            return False
        if final:
            self._final = False
            self._turn()
        return True

    def _turn(self) -> None:
        """A request is complete: answer it."""
        self._owner.turns += 1
        steps = steps_of(self._say, sse=not self._upgraded)
        now = time.monotonic()
        # No server gives two responses one id, and a client may hold it to that.
        mine = b"%s%048x" % (PREFIX, self._owner.turns)
        for wait, made in steps:
            frames = [frame.replace(RESPONSE_ID, mine) for frame in made]
            if wait:
                self._owner.later(now + wait, self, frames)
            else:
                self.write(frames)


def main(arguments: list[str]) -> None:
    """Serve, with TLS if *arguments* name a certificate and its key."""
    context = None
    if arguments:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*arguments)
        context.num_tickets = 0
    Blaster(context).run()


if __name__ == "__main__":
    main(sys.argv[1:])
