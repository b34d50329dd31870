"""Network: byte streams that are late, come in pieces, stall and break, as one random generator says.

A link is two pipes, one per direction. What befalls it is drawn when it is made, so it depends on nothing
but the generator: how late each piece is, after which byte a pipe stalls and for how long, after which byte
the link is cut. Time is trio's clock only. Once the network is `calm` nothing new befalls any link.
"""

from __future__ import annotations

import math
import random
from collections import deque
from typing import Final

import attrs
import trio

__all__ = ["Link", "Network"]

#: Seconds of a stall that nobody lives to see the end of.
_FOR_EVER: Final = 1e7

#: Bytes of both directions after which a link has seen a handshake and some turns.
_LIFE: Final = 60_000


@attrs.define(eq=False)
class Network:
    """What all links share. With `calm` set nothing new befalls any link."""

    choice: random.Random
    #: How much goes wrong, from 0 (nothing) to 1 (about every other link).
    trouble: float
    calm: bool = False
    links: list[Link] = attrs.field(factory=list["Link"])

    def link(self) -> Link:
        """A new link."""
        link = Link(len(self.links) + 1, self, random.Random(self.choice.getrandbits(64)))
        self.links.append(link)
        return link


class _Pipe:
    """One direction of a link."""

    def __init__(self, link: Link, choice: random.Random, trouble: float) -> None:
        self._link = link
        self._choice = choice
        self._latency = choice.choice((0.0005, 0.02, 0.3))
        self._sliced = choice.random() < 0.1
        self._cut_after = choice.randrange(_LIFE) if choice.random() < trouble / 4 else math.inf
        self._stall_after = choice.randrange(_LIFE) if choice.random() < trouble / 4 else math.inf
        self._stall_for = choice.choice((1.0, 30.0, 200.0, _FOR_EVER))
        self._blocks = choice.random() < 0.5
        self._passed = 0
        self._last = 0.0
        self._pieces: deque[tuple[float, bytes]] = deque()
        self._changed = trio.Event()
        #: The sender has closed; the receiver learns it behind all that was sent before.
        self.ended = False
        #: The receiver has closed.
        self.deaf = False
        #: Nothing moves any more.
        self.broken = False
        #: Nothing more is taken; what was sent before arrives.
        self.cut = False
        self._open_again_at = 0.0

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def end(self) -> None:
        self.ended = True
        self._wake()

    def deafen(self) -> None:
        self.deaf = True
        self._pieces.clear()
        self._wake()

    def break_down(self) -> None:
        self.broken = True
        self._pieces.clear()
        self._wake()

    async def send(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        if self.broken or self.cut:
            raise trio.BrokenResourceError("the link is broken")
        if self.ended:
            raise trio.ClosedResourceError
        now = trio.current_time()
        calm = self._link.network.calm
        self._last = max(self._last, now + self._latency * (1 + self._choice.random()))
        before, self._passed = self._passed, self._passed + len(data)
        if not calm and before < self._stall_after <= self._passed:
            self._last += self._stall_for
            self._open_again_at = now + self._stall_for if self._blocks else 0.0
        if self.deaf:
            # A peer that is gone answers with a reset, unless that is stuck in a stall as well.
            if self._last < now + 1:
                raise trio.BrokenResourceError("the peer has closed")
            return
        if not calm and before < self._cut_after <= self._passed:
            keep = int(self._cut_after) - before
            self._put(data[:keep])
            self._link.cut()
            return
        self._put(data)
        while self._open_again_at > trio.current_time() and not self._is_over():
            with trio.move_on_at(self._open_again_at):
                await self._changed.wait()

    def _is_over(self) -> bool:
        return self.ended or self.broken

    def _put(self, data: bytes) -> None:
        if self._sliced:
            while len(data) > 1:
                length = self._choice.randrange(1, min(200, len(data)) + 1)
                self._pieces.append((self._last, data[:length]))
                data = data[length:]
        if data:
            self._pieces.append((self._last, data))
        self._wake()

    async def receive(self, most: int | None) -> bytes:
        await trio.lowlevel.checkpoint()
        while True:
            if self.deaf:
                raise trio.ClosedResourceError
            if self.broken:
                raise trio.BrokenResourceError("the link is broken")
            now = trio.current_time()
            until = self._pieces[0][0] if self._pieces else self._last if self.ended else math.inf
            if until <= now:
                if not self._pieces:
                    return b""
                _, data = self._pieces.popleft()
                if most is not None and len(data) > most:
                    self._pieces.appendleft((now, data[most:]))
                    data = data[:most]
                return data
            if until == math.inf:
                await self._changed.wait()
            else:
                with trio.move_on_at(until):
                    await self._changed.wait()


class _End(trio.abc.Stream):
    """One end of a link."""

    def __init__(self, out: _Pipe, into: _Pipe) -> None:
        self._out = out
        self._into = into

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._out.send(bytes(data))

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return await self._into.receive(max_bytes)

    async def aclose(self) -> None:
        self._out.end()
        self._into.deafen()
        await trio.lowlevel.checkpoint()


class Link:
    """One connection of the network, with its two ends."""

    def __init__(self, number: int, network: Network, choice: random.Random) -> None:
        self.number = number
        self.network = network
        self._there = _Pipe(self, choice, network.trouble)
        self._back = _Pipe(self, choice, network.trouble)
        self._abrupt = choice.random() < 0.5
        self.near: trio.abc.Stream = _End(self._there, self._back)
        self.far: trio.abc.Stream = _End(self._back, self._there)

    @property
    def closed(self) -> bool:
        """Whether the near end has let go of it."""
        return self._there.ended and self._back.deaf

    def cut(self) -> None:
        """End it, for both sides: with a reset at once, or with an end behind what is on its way."""
        for pipe in (self._there, self._back):
            if self._abrupt:
                pipe.break_down()
            else:
                pipe.cut = True
                pipe.end()
