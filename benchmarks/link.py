"""A long, narrow link in user space: a TCP proxy that delays and limits what passes.

    python -m benchmarks.link PORT ROUND_TRIP UP

listens, forwards to PORT on this machine, and prints its own port; then one line of JSON for each line on
its standard input, until that ends. Half of ROUND_TRIP (seconds) passes in each direction; what goes
up is written out at UP bytes per second, each connection for itself; down there is no limit. The
TCP handshake takes its round trip too. Packets are not lost and there is no slow start, which
is in favour of whoever opens many connections.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import selectors
import socket
import sys
import time
from collections.abc import Callable
from typing import Final, cast

__all__ = ["Punctual", "main"]

#: Bytes per second that count as no limit; it keeps what leaves in the order in which it came.
_UNLIMITED: Final = 1e12


class Punctual(selectors.DefaultSelector):
    """A selector that keeps time. epoll counts in milliseconds, and every turn passes here ten times."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for at most that many seconds."""
        if timeout is not None and timeout > 0:
            select.select([self.fileno()], [], [], timeout)
            timeout = 0
        return super().select(timeout)


class _Direction(asyncio.Protocol):
    """What comes from one side, and goes to the other later."""

    def __init__(self, delay: float, rate: float, account: dict[str, float], label: str) -> None:
        self.out: asyncio.Transport | None = None
        self.transport: asyncio.Transport | None = None
        #: When the last byte that has come will have been written out at the near end.
        self.free_at = 0.0
        self._delay = delay
        self._rate = rate
        self._account = account
        self._label = label
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)

    def data_received(self, data: bytes) -> None:
        self._account[self._label] += len(data)
        self.free_at = max(self._loop.time(), self.free_at) + len(data) / self._rate
        self._loop.call_at(self.free_at + self._delay, self._forward, data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.free_at = max(self._loop.time(), self.free_at) + 1 / self._rate
        self._loop.call_at(self.free_at + self._delay, self._hang_up)

    def _forward(self, data: bytes) -> None:
        if self.out is not None and not self.out.is_closing():
            self.out.write(data)

    def _hang_up(self) -> None:
        if self.out is not None:
            self.out.close()


class _Near(_Direction):
    """The client's side: its connection opens the one behind it."""

    def __init__(
        self,
        delay: float,
        rate: float,
        account: dict[str, float],
        label: str,
        begin: Callable[[_Direction], None],
    ) -> None:
        super().__init__(delay, rate, account, label)
        self._begin = begin

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self.transport is not None
        self.transport.pause_reading()
        self._begin(self)


async def _serve(port: int, round_trip: float, up: float) -> None:
    loop = asyncio.get_running_loop()
    account: dict[str, float] = {"up": 0, "down": 0, "connections": 0}
    tasks: set[asyncio.Task[None]] = set()

    async def bridge(near: _Direction) -> None:
        account["connections"] += 1
        # The far end hears of this connection when the first byte is there; its own handshake
        # was over one round trip after the client began it.
        near.free_at = loop.time() + round_trip
        transport, far = await loop.create_connection(
            lambda: _Direction(round_trip / 2, _UNLIMITED, account, "down"), "127.0.0.1", port
        )
        near.out, far.out = transport, near.transport
        assert near.transport is not None
        near.transport.resume_reading()

    def accept() -> _Direction:
        return _Near(round_trip / 2, up, account, "up", begin)

    def begin(near: _Direction) -> None:
        task = loop.create_task(bridge(near))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await loop.create_server(accept, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    over = asyncio.Event()

    def asked() -> None:
        if os.read(0, 4096):
            print(json.dumps({**account, "cpu": time.process_time(), "wall": time.monotonic()}), flush=True)
        else:
            over.set()

    loop.add_reader(0, asked)
    await over.wait()
    os._exit(0)  # whatever is still on its way, nobody waits for it


def main(arguments: list[str]) -> None:
    """Serve."""
    port, round_trip, up = arguments
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(Punctual())) as runner:
        runner.run(_serve(int(port), float(round_trip), float(up)))


if __name__ == "__main__":
    main(sys.argv[1:])
