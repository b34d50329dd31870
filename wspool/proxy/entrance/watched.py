"""Watched: the connection of a client, read all the time, so that it is known when the client hangs up.

One task for the connection does that, from its first byte to its last: one for each request would take a
tenth of what an answer costs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

import trio

__all__ = ["Watched"]

_READ: Final = 65536

#: Bytes that a client may send ahead of who takes them; more waits in its own machine, and then it is not
#: seen that it hangs up.
_AHEAD: Final = 65536


class Watched(trio.abc.Stream):
    """A connection of which what comes is taken from here, while `read` runs.

    Attributes:
        stream: the connection itself. Nobody else reads it before `release`.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._came: deque[bytes] = deque()
        self._size = 0
        #: Whether nothing more comes, and why, if that was no orderly end.
        self._over = False
        self._problem: Exception | None = None
        self._news: trio.Event | None = None
        self._room: trio.Event | None = None
        self._tell: Callable[[], object] | None = None
        self._reading = trio.CancelScope()
        self._ended = trio.Event()

    async def read(self) -> None:
        """Read until the client hangs up. Raises nothing but cancellation. A checkpoint."""
        try:
            with self._reading:
                while not self._over:
                    await self._read()
        finally:
            self._ended.set()

    async def _read(self) -> None:
        while self._size >= _AHEAD:
            self._room = trio.Event()
            await self._room.wait()
        try:
            data = bytes(await self.stream.receive_some(_READ))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as problem:
            data, self._problem = b"", problem
        if data:
            self._came.append(data)
            self._size += len(data)
        else:
            self._over = True
            self._say()
        if self._news is not None:
            self._news.set()

    def watch(self, tell: Callable[[], object] | None) -> None:
        """Have *tell* called once the client has hung up, at once if it has; None: not any more."""
        self._tell = tell
        if self._over:
            self._say()

    def _say(self) -> None:
        tell, self._tell = self._tell, None
        if tell is not None:
            tell()

    async def release(self) -> bytes:
        """Read no further; return what nobody has taken: `stream` is for others from now on. A checkpoint."""
        self._reading.cancel()
        await self._ended.wait()
        data = b"".join(self._came)
        self._came.clear()
        return data

    # -- the stream -----------------------------------------------------------------------------

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return what has come, or wait for it; nothing at the end. Raises what reading has raised."""
        if self._came or self._over:
            await trio.lowlevel.checkpoint_if_cancelled()  # others ran when it came
        while not self._came:
            if self._problem is not None:
                raise self._problem
            if self._over:
                return b""
            self._news = trio.Event()
            await self._news.wait()
        data = self._came.popleft()
        if max_bytes is not None and len(data) > max_bytes:
            self._came.appendleft(data[max_bytes:])
            data = data[:max_bytes]
        self._size -= len(data)
        if self._room is not None and self._size < _AHEAD:
            self._room.set()
            self._room = None
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self.stream.aclose()
