"""The contract of a wire, as code that any wire can be run against.

In the spirit of `trio.testing.check_two_way_stream`: give it a way to make a connected pair, and it
raises AssertionError at the first promise of `wspool.wire.wire.Wire` that does not hold.

Rules of this suite:

* Each check gets a pair of its own, and uses the wire through the seam only.
* It sleeps for a millisecond where two moments have to be told apart, and nowhere else; a deadline
  (trio's clock) only ends a check that hangs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

import trio
import trio.testing

from wspool.testing.check_bytes import MakeConnector, check_bytes
from wspool.wire.wire import ABNORMAL_CLOSURE, Wire, WireClosedError

__all__ = ["MakePair", "Peer", "check_wire"]

#: Seconds after which a check counts as hanging. A pair's close_timeout must be well below it.
_PATIENCE: Final = 10.0


class Peer(Protocol):
    """The other end of a wire under test."""

    async def send(self, text: str) -> None:
        """Send one text message."""
        ...

    async def receive(self) -> str:
        """Return the next text message."""
        ...

    async def close(self, code: int, reason: str) -> None:
        """Send a close frame and finish the closing handshake."""
        ...

    async def hang(self) -> None:
        """Stop reading and answering, but keep the stream open."""
        ...

    async def wait_closed(self) -> int:
        """Wait for the end of the connection; return the close code received, 1006 without one."""
        ...


#: Makes one connected pair per call. On exit it may drop both ends. The wire's close_timeout should be
#: short (it is waited out once), and its limits must let 20 unread messages and one of 1 MB through.
MakePair = Callable[[], AbstractAsyncContextManager[tuple[Wire, Peer]]]


async def check_wire(make_pair: MakePair, make_connector: MakeConnector | None = None) -> None:
    """Check that the wires of *make_pair* keep the contract of `wspool.wire.wire.Wire`.

    Args:
        make_pair: called once per check, see `MakePair`.
        make_connector: where a connector can be given its stream, `check_bytes` is part of the check.

    A checkpoint; takes one close_timeout and a few milliseconds.

    Raises:
        AssertionError: a promise does not hold; the message names the check.
    """
    for check in _CHECKS:
        with trio.move_on_after(_PATIENCE) as scope:
            async with make_pair() as (wire, peer):
                await check(wire, peer)
        if scope.cancelled_caught:
            raise AssertionError(f"{check.__name__.strip('_')} hangs")
    if make_connector is not None:
        await check_bytes(make_connector)


async def _texts_cross_unchanged(wire: Wire, peer: Peer) -> None:
    for text in ("", "a", "äß €漢 \U0001f600 \x00", "\ufeff", "x" * 70_000, "é" * 500_000):
        await wire.send(text.encode())
        assert text == await peer.receive()

        async with trio.open_nursery() as nursery:  # a wire need not read while nobody receives
            nursery.start_soon(peer.send, text)
            assert [text] == await _receive(wire, 1)


async def _order_is_kept(wire: Wire, peer: Peer) -> None:
    texts = [str(number) for number in range(300)]

    async def send_all(send: Callable[[str], Awaitable[None]]) -> None:
        for text in texts:
            await send(text)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_all, peer.send)
        assert texts == await _receive(wire, len(texts))

    async def send(text: str) -> None:
        await wire.send(text.encode())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_all, send)
        assert texts == [await peer.receive() for _ in texts]


async def _operations_are_checkpoints(wire: Wire, peer: Peer) -> None:
    with trio.testing.assert_checkpoints():
        await wire.send(b"x")
    with trio.testing.assert_checkpoints():
        await wire.ping()
    await peer.send("x")
    await wire.ping()  # its pong came after the message: nothing is left to wait for
    with trio.testing.assert_checkpoints():
        await _receive(wire, 1)
    with trio.testing.assert_checkpoints():
        await wire.aclose()
    with trio.testing.assert_checkpoints():
        await wire.abort()


async def _header_names_are_lower_case(wire: Wire, peer: Peer) -> None:  # noqa: ASYNC124 # as all checks
    assert all(name == name.lower() for name, _ in wire.headers)


async def _what_comes_is_a_sign_of_life(wire: Wire, peer: Peer) -> None:
    async def heard(operation: Callable[[], Awaitable[object]]) -> None:
        began = trio.current_time()
        assert wire.heard_at <= began, "heard_at is not a time on trio's clock"
        await trio.sleep(0.001)
        assert wire.heard_at <= began, "a sign of life, and nothing came"
        since = trio.current_time()
        await operation()
        assert since <= wire.heard_at <= trio.current_time(), "what came is no sign of life"

    async def hear() -> None:
        await peer.send("x")
        await _receive(wire, 1)

    await heard(hear)
    await heard(wire.ping)


async def _a_ping_returns_while_messages_wait(wire: Wire, peer: Peer) -> None:
    texts = [str(number) for number in range(20)]
    for text in texts:
        await peer.send(text)

    await wire.ping()
    assert texts == await _receive(wire, len(texts))


async def _a_cancelled_ping_harms_nothing(wire: Wire, peer: Peer) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await wire.ping()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wire.ping)
        await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()

    await wire.ping()
    await wire.send(b"after")
    assert await peer.receive() == "after"


async def _a_cancelled_receive_loses_nothing(wire: Wire, peer: Peer) -> None:
    got: list[str] = []

    async def receive_one(task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        with trio.CancelScope() as scope:
            task_status.started(scope)
            got.extend(_as_text(message) for message in await wire.receive())

    for steps in range(40):
        async with trio.open_nursery() as nursery:
            scope = await nursery.start(receive_one)
            nursery.start_soon(peer.send, str(steps))
            for _ in range(steps // 2):  # the message comes closer and closer; each distance twice
                await trio.lowlevel.checkpoint()
            scope.cancel()
        if len(got) == steps:
            got += await _receive(wire, 1)
        assert got[steps:] == [str(steps)]


async def _a_cancelled_send_ends_the_wire(wire: Wire, peer: Peer) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await wire.send(b"never mind")
    assert scope.cancelled_caught, "send is no checkpoint"

    await _assert_closed(lambda: wire.send(b"x"))
    await wire.abort()


async def _the_peers_close_comes_after_its_messages(wire: Wire, peer: Peer) -> None:
    await peer.send("last words")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.close, 4321, "enough")
        assert await _receive(wire, 1) == ["last words"]
        for _ in range(2):
            error = await _assert_closed(wire.receive)
            assert (error.code, error.reason) == (4321, "enough")
        await _assert_closed(lambda: wire.send(b"x"))
        await _assert_closed(wire.ping)
        await wire.aclose()


async def _aclose_says_goodbye(wire: Wire, peer: Peer) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wire.aclose)
        assert await peer.wait_closed() == 1000
    await _assert_unusable(wire)
    await wire.aclose()


async def _aclose_ends_a_parked_receive(wire: Wire, peer: Peer) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_assert_closed, wire.receive)
        await trio.testing.wait_all_tasks_blocked()
        await wire.aclose()


async def _aclose_does_not_wait_for_a_hanging_peer(wire: Wire, peer: Peer) -> None:
    await peer.hang()
    await wire.aclose()
    await _assert_unusable(wire)


async def _a_cancelled_aclose_drops_the_stream(wire: Wire, peer: Peer) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await wire.aclose()

    assert await peer.wait_closed() == ABNORMAL_CLOSURE
    await _assert_unusable(wire)


async def _abort_is_final_and_idempotent(wire: Wire, peer: Peer) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await wire.abort()
    await wire.abort()

    assert await peer.wait_closed() == ABNORMAL_CLOSURE
    await _assert_unusable(wire)
    await wire.aclose()


async def _abort_wakes_everybody(wire: Wire, peer: Peer) -> None:
    await peer.hang()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_assert_closed, wire.receive)
        nursery.start_soon(_assert_closed, wire.ping)
        await trio.testing.wait_all_tasks_blocked()
        await wire.abort()


async def _abort_ends_a_send(wire: Wire, peer: Peer) -> None:
    await peer.hang()

    async def send_on() -> None:
        # More than any network holds for a peer that does not read; memory may hold it all.
        for _ in range(256):
            await wire.send(b"x" * 65_536)
        await wire.receive()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(_assert_closed, send_on)
        await trio.testing.wait_all_tasks_blocked(0.01)
        await wire.abort()


_CHECKS: Final[tuple[Callable[[Wire, Peer], Awaitable[None]], ...]] = (
    _texts_cross_unchanged,
    _order_is_kept,
    _operations_are_checkpoints,
    _header_names_are_lower_case,
    _what_comes_is_a_sign_of_life,
    _a_ping_returns_while_messages_wait,
    _a_cancelled_ping_harms_nothing,
    _a_cancelled_receive_loses_nothing,
    _a_cancelled_send_ends_the_wire,
    _the_peers_close_comes_after_its_messages,
    _aclose_says_goodbye,
    _aclose_ends_a_parked_receive,
    _aclose_does_not_wait_for_a_hanging_peer,
    _a_cancelled_aclose_drops_the_stream,
    _abort_is_final_and_idempotent,
    _abort_wakes_everybody,
    _abort_ends_a_send,
)


def _as_text(message: str | bytes) -> str:
    return message if isinstance(message, str) else message.decode()


async def _receive(wire: Wire, count: int) -> list[str]:
    """Return the next *count* messages as text; more than that is an error."""
    texts: list[str] = []
    while len(texts) < count:
        batch = await wire.receive()
        assert batch, "an empty batch"
        texts.extend(_as_text(message) for message in batch)
    assert count == len(texts), "more messages than were sent"
    return texts


async def _assert_closed(operation: Callable[[], Awaitable[object]]) -> WireClosedError:
    try:
        await operation()
    except WireClosedError as error:
        closed = error
    else:
        raise AssertionError("the wire still works after its end")
    assert type(closed.code) is int, "a close code that is no plain int"
    return closed


async def _assert_unusable(wire: Wire) -> None:
    for operation in (lambda: wire.send(b"x"), wire.receive, wire.ping):
        await _assert_closed(operation)
