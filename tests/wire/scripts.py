"""Servers that are scripts, streams that misbehave, and a wire between the two.

Everything runs over memory streams and a virtual clock; "at once" means that no virtual time passed.
"""

from __future__ import annotations

import gc
import types
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from wspool.wire.wire import ConnectError, Connector, Endpoint, Wire, WireClosedError

from .peer import OpenStream, RecordingStream, accept, endpoint, opener, read_request, switching_protocols

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
CANARY = "canary-7f3a"

Script = Callable[[trio.abc.Stream], Awaitable[None]]
Make = Callable[[OpenStream], Connector]


async def dial_against(make: Make, script: Script, to: Endpoint | None = None) -> tuple[ConnectError, float]:
    """Dial a server that runs *script*; return the error and the virtual seconds it took."""
    near, far = trio.testing.memory_stream_pair()
    recorded = RecordingStream(near)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(script, far)
        with pytest.raises(ConnectError) as caught:
            await make(opener(recorded)).connect(nursery, to or endpoint(), [])
        took = trio.current_time() - began
        nursery.cancel_scope.cancel()

    assert recorded.closed
    assert caught.value.phase == "upgrade"
    return caught.value, took


def answering(answer: bytes, *, then_close: bool = True) -> Script:
    """A server that answers the request with *answer*, whatever it was."""

    async def script(stream: trio.abc.Stream) -> None:
        await read_request(stream)
        if answer:
            await stream.send_all(answer)
        if then_close:
            await stream.aclose()
        else:
            await trio.sleep_forever()

    return script


@asynccontextmanager
async def scripted(
    make: Make,
    *,
    to: Endpoint | None = None,
    first: bytes = b"",
    near_end: type[RecordingStream] = RecordingStream,
    extra: bytes = b"",
) -> AsyncGenerator[tuple[Wire, trio.abc.Stream], None]:
    """A wire, and the raw stream of its server, which has sent 101 and *first* in one piece.

    *extra* is a header of the answer. *near_end* is the stream that the wire gets; it behaves as such
    once the upgrade is over.
    """
    near, far = trio.testing.memory_stream_pair()
    recorded = near_end(near)

    async def serve() -> None:
        request = await read_request(far)
        await far.send_all(switching_protocols(request, *([extra] if extra else [])) + first)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        wire = await make(opener(recorded)).connect(nursery, to or endpoint(), [])
        recorded.upgraded = True
        try:
            yield wire, far
        finally:
            await wire.abort()
    # The nursery ended without being cancelled: nothing of an aborted wire stays behind.
    assert recorded.closed


async def serve_for_ever(stream: trio.abc.Stream) -> None:
    """A well-behaved server."""
    async with accept(stream):
        await trio.sleep_forever()


async def closing(operation: Callable[[], Awaitable[object]]) -> WireClosedError:
    """Return the WireClosedError that *operation* ends with, or fail if it hangs."""
    with trio.fail_after(1), pytest.raises(WireClosedError) as caught:
        await operation()
    return caught.value


async def send_until_hung_up(stream: trio.abc.Stream, data: bytes) -> int:
    """Send *data* again and again until the other side closes; return how many times it took."""
    times = 0
    with trio.fail_after(5):
        while True:
            try:
                await stream.send_all(data)
            except trio.BrokenResourceError:
                return times
            await trio.testing.wait_all_tasks_blocked()
            times += 1


def http_answer(status: int, *headers: str, body: bytes = b"") -> bytes:
    """An HTTP answer."""
    return "\r\n".join([f"HTTP/1.1 {status} No", *headers, "", ""]).encode() + body


class FullStream(RecordingStream):
    """A stream whose peer stops reading in the middle of every write."""

    full: trio.Event | None = None

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if not self.upgraded:
            return await super().send_all(data)
        await super().send_all(data[: len(data) // 2])
        self.full = trio.Event()
        await self.full.wait()
        raise trio.ClosedResourceError

    async def aclose(self) -> None:
        if self.full is not None:
            self.full.set()
        await super().aclose()


class RudeStream(RecordingStream):
    """A stream that raises what streams should not."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self.upgraded:
            raise OSError("rude")
        await super().send_all(data)

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await super().receive_some(max_bytes)
        if self.upgraded:
            raise OSError("rude")
        return data


class PoliteStream(RecordingStream):
    """A stream whose close waits for the peer, unless it is cancelled."""

    async def aclose(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            await super().aclose()


def reachable(roots: list[object]) -> set[bytes]:
    """All strings that can be reached from *roots*, as bytes, through frames as well."""
    seen: dict[int, object] = {}
    todo = list(roots)
    while todo:
        value = todo.pop()
        if id(value) in seen or isinstance(value, (type, types.ModuleType, types.FunctionType)):
            continue
        seen[id(value)] = value
        todo += gc.get_referents(value)
        if isinstance(value, types.CoroutineType) and value.cr_frame is not None:
            todo += [*value.cr_frame.f_locals.values(), value.cr_await]
    found = {bytes(value) for value in seen.values() if isinstance(value, (bytes, bytearray))}
    return found | {value.encode(errors="replace") for value in seen.values() if isinstance(value, str)}


def memory_ends(make: Make) -> tuple[Connector, trio.abc.Stream]:
    """A connector and the far end of the one stream that it opens."""
    near, far = trio.testing.memory_stream_pair()
    return make(opener(near)), far
