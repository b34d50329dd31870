"""What is pushed to a reader: it is woken once, what it has not taken is bounded, and nothing is missed."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

import wspool
from tests.helpers import (
    FakeConnector,
    FakeWire,
    completed,
    created,
    delta,
    echo,
    fake_pool,
    policy,
)
from wspool.pool.handover import EventsOut, Handover, hand_over


class Bell:
    """Counts how often it was rung."""

    def __init__(self) -> None:
        self.rung = 0

    def ring(self) -> None:
        self.rung += 1


def test_the_reader_is_woken_only_if_it_waits() -> None:
    """Once, however much comes."""
    out, bell = Handover[str](), Bell()
    out.put("a", 1)
    out.ring()
    assert not out.wait_for_more(bell.ring)
    assert (["a"], False) == out.take()
    assert out.wait_for_more(bell.ring)
    out.put("b", 1)
    out.ring()
    out.put("c", 1)
    out.ring()
    out.end()
    assert 1 == bell.rung
    assert not out.wait_for_more(bell.ring)
    assert (["b", "c"], False) == out.take()


class Between(deque[Callable[[], object]]):
    """Where a reader leaves its bell; something is written right before it does."""

    def __init__(self, write: Callable[[], object]) -> None:
        super().__init__(maxlen=1)
        self._write = write

    def append(self, bell: Callable[[], object]) -> None:
        self._write()
        super().append(bell)


@pytest.mark.parametrize("what", ["begin", "more", "end"])
def test_what_comes_as_the_reader_begins_to_wait_is_not_missed(what: str) -> None:
    """It had looked already, and was not there to be woken."""
    out = Handover[str]()

    def more() -> None:
        out.put("x", 1)
        out.ring()

    out._bell = Between({"begin": out.begin, "more": more, "end": out.end}[what])
    waits = {"begin": out.wait_to_begin, "more": out.wait_for_more, "end": out.wait_to_end}[what]
    assert not waits(lambda: None)


async def test_what_is_read_as_the_writer_begins_to_wait_is_not_missed(autojump_clock) -> None:
    """Nor does it wait for ever for a reader who has read by then."""

    class Quick(Handover[str]):
        def __init__(self) -> None:
            super().__init__(most=1)
            self.reads: bool = False

        def _is_full(self) -> bool:
            full = super()._is_full()
            if self.reads:  # after the writer has looked
                self.take()
            return full

    out = Quick()
    out.put("x", 2)
    out.reads = True
    with trio.fail_after(1):
        await out.room()


async def test_who_waits_for_room_has_told_the_reader(autojump_clock) -> None:
    """Also of what it would have told with the rest: else both would wait."""
    out, bell = Handover[str](most=1), Bell()
    assert out.wait_for_more(bell.ring)
    out.put("x", 2)
    with trio.move_on_after(1):
        await out.room()
    assert 1 == bell.rung


def test_two_threads_miss_nothing() -> None:
    """A writer who must wait for room, and a reader who must wait for pieces, by turns."""
    out, count, got = Handover[int](most=5), 3000, list[int]()
    tokens: list[trio.lowlevel.TrioToken] = []

    async def write() -> None:
        tokens.append(trio.lowlevel.current_trio_token())
        for number in range(count):
            out.put(number, 1)
            out.ring()
            await out.room()
            if number % 7 == 0:
                await trio.lowlevel.checkpoint()
        out.end()

    def read() -> None:
        while True:
            event = threading.Event()
            if out.wait_for_more(event.set):
                assert event.wait(10)
            pieces, full = out.take()
            got.extend(pieces)
            if full:
                tokens[0].run_sync_soon(out.make_room)
            if not pieces:
                return

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            await trio.to_thread.run_sync(read)

    trio.run(main)
    assert got == list(range(count))


async def test_nothing_is_taken_of_a_turn_before_it_is_wanted(autojump_clock) -> None:
    """Whoever wants only the response was given nothing, and its turn is sent again."""
    requests = 0

    def answer(wire: FakeWire, request: dict[str, Any]) -> None:
        nonlocal requests
        requests += 1
        if requests == 1:
            wire.push(created("resp_1"), delta("half of it"))
            wire.hang_up()
        else:
            echo(wire, request)

    limits = policy(replay="always")
    async with (
        fake_pool(FakeConnector(answer), limits=limits) as pool,
        pool.conversation(model="m") as talk,
        trio.open_nursery() as nursery,
    ):
        turn, out = talk.turn("x"), EventsOut()
        nursery.start_soon(hand_over, turn, out)
        await trio.testing.wait_all_tasks_blocked()
        assert out.begun
        assert "ok" == (await turn.result()).output_text
        assert 2 == requests
        turn.leave()
        out.abandon()


async def test_the_server_waits_for_a_reader_who_is_slow(autojump_clock) -> None:
    """So many bytes are pushed ahead, no more; then the rest comes, all of it, in order."""

    def answer(wire: FakeWire, _: dict[str, Any]) -> None:
        wire.batched = False
        wire.push(created("resp_1"), *[delta(f"{n:060}") for n in range(50)], completed("resp_1"))

    async with (
        fake_pool(FakeConnector(answer), limits=policy(max_buffered=1000)) as pool,
        pool.lease() as lease,
        trio.open_nursery() as nursery,
    ):
        turn, out = lease.create(model="m"), EventsOut()
        out.most = 500
        nursery.start_soon(hand_over, turn, out)
        assert out.wait_for_more(lambda: None)
        out.make_room()
        await trio.sleep(10)
        assert (True, False) == (out.is_crowded, turn.ended)
        ahead = [event for piece in out._pieces for event in piece[0]]
        assert 1 <= len(ahead) < 15
        assert turn.received < 3000
        events = list[wspool.Event]()
        while not turn.ended:
            pieces, _ = out.take()
            events += [event for piece in pieces for event in piece]
            out.make_room()
            await trio.sleep(1)
        events += [event for piece in out.take()[0] for event in piece]
        assert 52 == len(events)
        assert events[-1] is out.last
        turn.leave()


async def test_an_end_that_was_not_passed_on_was_not_given(autojump_clock) -> None:
    """By what the caller has taken, and not by what it could have, a turn counts."""
    async with fake_pool(FakeConnector(echo)) as pool, pool.conversation(model="m") as talk:
        for given, items in ((False, 0), (True, 2), (False, 2)):
            turn = await talk.turn("x").__aenter__()
            while await turn.batch():
                pass
            assert turn.ended
            turn.leave(given=given)
            assert items == len(talk.items)
        assert "ok" == (await talk.respond("y")).output_text


async def test_who_is_cancelled_leaves_its_turn(autojump_clock) -> None:
    """Nobody else would."""
    connector = FakeConnector(lambda wire, _: wire.push(created("resp_1")))
    for wanted in (True, False):
        async with fake_pool(connector) as pool, pool.conversation(model="m") as talk:
            out = EventsOut()
            out.wanted = wanted
            with trio.move_on_after(1):
                await hand_over(talk.turn("x"), out)
            assert "idle" in repr(talk)
            assert 0 == pool.statistics().in_flight
