"""Points: where a program itself lets the tape choose. Outside an exploration each takes its first option,
so the program also runs by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

import trio

from wspool.core.given import check_callable, check_number
from wspool.testing.explore.run import current_run

__all__ = ["CutStream", "always", "cancel_at", "choose", "cut", "fixed"]


def choose(options: int, what: str = "") -> int:
    """Return one of 0 to *options* - 1, as the tape says. Not a checkpoint.

    Args:
        options: how many there are; option 0 is what happens if nothing is out of the ordinary.
        what: what is chosen, for the story.

    Raises:
        TypeError, ValueError: there is nothing to choose from.
    """
    check_number("options", options, 1, whole=True)
    run = current_run()
    return 0 if run is None else run.choose("choice", options, what)


@contextmanager
def cancel_at() -> Generator[trio.CancelScope, None, None]:
    """Open a cancel scope for the block, which the tape cancels before any one step of any task, or never."""
    run = current_run()
    with trio.CancelScope() as scope:
        if run is None:
            yield scope
            return
        run.scopes[scope] = trio.lowlevel.current_task()
        try:
            yield scope
        finally:
            del run.scopes[scope]


@contextmanager
def fixed() -> Generator[None, None, None]:
    """Let nothing be chosen while the block runs, in no task: for a beginning and an end that are not the
    point.
    """
    run = current_run()
    if run is None:
        yield
        return
    run.calm += 1
    try:
        yield
    finally:
        run.calm -= 1


def always(check: Callable[[], object]) -> None:
    """Call *check* after each step from here to the end of the run. Not a checkpoint.

    Args:
        check: an invariant; broken if it raises, or returns False.

    Raises:
        TypeError: it cannot be called.
    """
    check_callable("check", check)
    run = current_run()
    if run is not None:
        run.checks.append(check)


def cut(stream: trio.abc.HalfCloseableStream) -> CutStream:
    """Return *stream* as a network may deliver it: what is received comes in such pieces as the tape says."""
    return CutStream(stream)


class CutStream(trio.abc.HalfCloseableStream):
    """A stream whose receiving end gets what came in pieces: all of it, or its first byte, or half of it,
    or all but its last byte, and the rest later. See `cut`.
    """

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self._stream = stream
        self._rest = b""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """As any stream. A checkpoint; what is cancelled has taken nothing."""
        if self._rest:
            await trio.lowlevel.checkpoint()
            came, self._rest = self._rest, b""
        else:
            came = bytes(await self._stream.receive_some(max_bytes))
        size = len(came)
        sizes = [size, *sorted({piece for piece in (1, size // 2, size - 1) if 0 < piece < size})]
        taken = sizes[choose(len(sizes), f"of {size} bytes only some come: {sizes[1:]}")]
        if max_bytes is not None:
            taken = min(taken, max_bytes)
        self._rest = came[taken:]
        return came[:taken]

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """As the stream below."""
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """As the stream below."""
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """As the stream below."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """As the stream below; what has come and was not received is lost."""
        self._rest = b""
        await self._stream.aclose()
