"""Frames that are legal and rare, and frames that are not legal."""

from __future__ import annotations

import pytest
import trio

from wspool.server import Fault
from wspool.wire.websockets import WebSocketsConnector

from .scene import EVENTS, QUESTION, TAP_PONG, Make, faulty


@pytest.mark.parametrize(
    ("fault", "pongs"),
    [
        (Fault("ping_flood", count=1000), range(1, 1001)),
        (Fault("unsolicited_pong"), range(1)),
        (Fault("long_ping", size=125), range(1, 2)),
    ],
    ids=str,
)
async def test_f23_ping_flood(make: Make, fault: Fault, pongs: range, autojump_clock) -> None:
    """F23: a thousand pings at once, a long ping, a pong that nobody asked for -> nothing: pings are
    answered, the answer is whole.
    """
    async with faulty(make, fault) as scene:
        story = await scene.ask()
        story.assert_answer()
        assert list(EVENTS) == story.types
        await trio.sleep(1)

        assert scene.taps[0].count(TAP_PONG) in pongs
        await scene.assert_well(creates=1, connection=1)


@pytest.mark.parametrize("size", [1, 5, 64])
async def test_f24_fragments(make: Make, size: int, autojump_clock) -> None:
    """F24: an event comes in fragments with pings between them -> the same event."""
    async with faulty(make, Fault("fragments", size=size)) as scene:
        story = await scene.ask()
        story.assert_answer()
        assert (list(EVENTS), QUESTION) == (story.types, story.text)
        await scene.assert_well(creates=1, connection=1)


async def test_f25_empty_fragments(make: Make, autojump_clock) -> None:
    """F25: a message of endless empty fragments -> `TurnLostError` with code 1009 after 4096 of them."""
    async with faulty(make, Fault("empty_fragments")) as scene:
        (await scene.ask()).assert_lost("accepted", close_code=1009, events=4)
        await scene.assert_well(creates=1, connection=2)


async def test_f26_many_events(make: Make, autojump_clock) -> None:
    """F26: a hundred thousand tiny events in one turn -> all of them, in time; the connection is kept."""
    count = 100_000 if make is WebSocketsConnector else 20_000  # where a message costs eight times as much
    async with faulty(make, Fault("many_events", count=count)) as scene:
        story = await scene.ask()
        story.assert_answer(took=0)
        assert (count, QUESTION) == (story.types.count("x"), story.text)
        await scene.assert_well(creates=1, connection=1)


async def test_f27_oversized_message(make: Make, autojump_clock) -> None:
    """F27: a message over `max_message_size` -> `TurnLostError` with code 1009; its text names limit and
    setting.
    """
    fault = Fault("oversized_message", size=300_000)
    async with faulty(make, fault, limits={"max_message_size": 200_000}) as scene:
        lost = (await scene.ask()).assert_lost("accepted", close_code=1009, events=4)
        assert "200000" in str(lost)
        assert "max_message_size" in str(lost)
        await scene.assert_well(creates=1, connection=2)


async def test_f27_oversized_header(make: Make, autojump_clock) -> None:
    """F27: a frame announces 2^62 bytes and few come -> `TurnLostError` with code 1009 at once, for the
    head of the frame says enough.
    """
    async with faulty(make, Fault("oversized_header")) as scene:
        (await scene.ask()).assert_lost("accepted", close_code=1009, events=4, took=0)
        await scene.assert_well(creates=1, connection=2)


async def test_f28_compression_unasked(make: Make, autojump_clock) -> None:
    """F28: the handshake accepts a compression that was not offered -> nothing: that connection is refused,
    the turn waits for another.
    """
    async with faulty(make, Fault("deflate_unasked")) as scene:
        (await scene.ask()).assert_answer(took=1)
        assert (1, {"dial_failed": 1}) == (scene.pool.statistics().dial_failures, scene.closed)
        await scene.assert_well(creates=1, connection=2)


@pytest.mark.parametrize(
    "name",
    ["rsv1", "masked_frame", "reserved_opcode", "stray_continuation", "fragmented_close", "junk"],
)
async def test_f28_illegal_frames(make: Make, name: str, autojump_clock) -> None:
    """F28: RSV1 set without compression, or any other illegal frame -> `TurnLostError` with code 1002; the
    connection is gone.
    """
    async with faulty(make, Fault(name)) as scene:
        (await scene.ask()).assert_lost("accepted", close_code=1002, events=4)
        await scene.assert_well(creates=1, connection=2)


async def test_f29_binary_frame(make: Make, autojump_clock) -> None:
    """F29: a binary message -> `TurnLostError` with code 1003; the connection is gone."""
    async with faulty(make, Fault("binary_frame")) as scene:
        (await scene.ask()).assert_lost("accepted", close_code=1003, events=4)
        await scene.assert_well(creates=1, connection=2)


async def test_f30_invalid_utf8(make: Make, autojump_clock) -> None:
    """F30: text that is not UTF-8 -> `TurnLostError` with code 1007; the connection is gone."""
    async with faulty(make, Fault("invalid_utf8")) as scene:
        (await scene.ask()).assert_lost("accepted", close_code=1007, events=4)
        await scene.assert_well(creates=1, connection=2)


async def test_f30_byte_order_mark(make: Make, autojump_clock) -> None:
    """F30: a byte order mark before the JSON -> `TurnLostError`; the connection is gone."""
    async with faulty(make, Fault("byte_order_mark")) as scene:
        (await scene.ask()).assert_lost("accepted", events=4)
        await scene.assert_well(creates=1, connection=2)


async def test_f30_odd_text(make: Make, autojump_clock) -> None:
    """F30: a byte order mark, a NUL and half a surrogate pair inside the text -> the text as it is."""
    odd = "\ufeff\0\ud800"
    async with faulty(make, Fault("odd_text", text=odd)) as scene:
        story = await scene.ask()
        story.assert_answer()
        assert story.text.startswith(odd)
        await scene.assert_well(creates=1, connection=1)
