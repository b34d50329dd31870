"""What a turn costs, in counts that do not depend on the machine: wake-ups, frames, calls, objects.

Not times: a test of times is red whenever the machine is busy. What is counted is exact, or so narrow
that one more task switch, frame, or call per event is seen. The real pool, on a wire that has its
answers ready; a change that makes these numbers smaller is welcome to lower them.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

import attrs
import pytest
import trio
import trio.testing

import wspool
from tests.garbage import collect
from wspool.wire.wire import Endpoint, Wire, WireClosedError


def answer(deltas: int) -> list[str]:
    """The events of a turn."""
    item = {"type": "message", "role": "assistant", "content": []}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": {"id": "NAME", "status": "in_progress", "output": []}},
        *({"type": "response.output_text.delta", "delta": "word"} for _ in range(deltas)),
        {"type": "response.completed", "response": {"id": "NAME", "status": "completed", "output": [item]}},
    ]
    numbered = (
        {"type": event.pop("type"), "sequence_number": number, **event} for number, event in enumerate(events)
    )
    return [json.dumps(event) for event in numbered]


class ReadyWire:
    """Answers each request with the same events under an id of its own, so many to a batch."""

    headers: Sequence[tuple[str, str]] = ()

    def __init__(self, events: list[str], batch: int) -> None:
        self.heard_at = trio.current_time()
        self.sent = 0
        self._batches = [events[at : at + batch] for at in range(0, len(events), batch)]
        self._due: list[list[str]] = []
        self._waiting = trio.lowlevel.ParkingLot()
        self._closed = False

    async def send(self, message: bytes) -> None:
        self.sent += 1
        name = f"resp_{self.sent}"
        self._due.extend([event.replace("NAME", name) for event in batch] for batch in self._batches)
        self._waiting.unpark_all()
        await trio.lowlevel.checkpoint()

    async def receive(self) -> Sequence[str | bytes]:
        while not self._due:
            if self._closed:
                raise WireClosedError
            await self._waiting.park()
        await trio.lowlevel.checkpoint()
        return self._due.pop(0)

    async def ping(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await self.abort()

    async def abort(self) -> None:
        self._closed = True
        self._waiting.unpark_all()
        await trio.lowlevel.checkpoint()


@attrs.define
class ReadyConnector:
    """Makes one such wire."""

    wire: ReadyWire

    async def connect(
        self, nursery: trio.Nursery, endpoint: Endpoint, headers: Sequence[tuple[str, str]]
    ) -> Wire:
        await trio.lowlevel.checkpoint()
        return self.wire


class Steps(trio.abc.Instrument):
    """Counts how often a task was run."""

    def __init__(self) -> None:
        self.count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += 1


@attrs.frozen
class Cost:
    """What one warm turn took."""

    steps: int
    frames: int
    calls: int
    blocks: int


def calls_of_wspool(counted: list[int]) -> Any:
    """A profile function that counts the calls of functions of wspool."""

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and "/wspool/" in frame.f_code.co_filename.replace("\\", "/"):
            counted[0] += 1

    return note


def cost(deltas: int, *, batch: int = 10_000, streamed: bool) -> Cost:
    """Measure one turn after some warm ones."""

    async def main() -> None:
        wire = ReadyWire(answer(deltas), batch)
        policy = wspool.PoolPolicy(max_size=1, min_idle=0)
        connector = ReadyConnector(wire)
        async with (
            wspool.open_pool("ws://localhost/", wire=connector, api_key="none", policy=policy) as pool,
            pool.lease() as lease,
        ):

            async def take() -> None:
                async with lease.create(model="m", input="x") as turn:
                    if streamed:
                        async for _ in turn:
                            pass
                    else:
                        await turn.result()

            for _ in range(3):
                await take()
            steps, counted = Steps(), [0]
            sent = wire.sent
            trio.lowlevel.add_instrument(steps)
            collect()
            sys.setprofile(calls_of_wspool(counted))
            try:
                await take()
            finally:
                sys.setprofile(None)
            trio.lowlevel.remove_instrument(steps)
            gc.disable()
            try:
                before = sys.getallocatedblocks()
                async with lease.create(model="m", input="x") as turn:
                    await turn.result()
                    blocks = sys.getallocatedblocks() - before
            finally:
                gc.enable()
            found.append(Cost(steps.count, wire.sent - sent - 1, counted[0], blocks))

    found: list[Cost] = []
    trio.run(main, clock=trio.testing.MockClock())
    return found[0]


@pytest.mark.parametrize("streamed", [True, False])
def test_a_turn_is_one_frame(streamed: bool) -> None:
    """A request goes out as one message, however long the answer is."""
    assert 1 == cost(2, streamed=streamed).frames
    assert 1 == cost(500, streamed=streamed).frames


@pytest.mark.parametrize("streamed", [True, False])
def test_an_event_wakes_nobody(streamed: bool) -> None:
    """A turn of one read takes the same few task steps with 2 deltas and with 250."""
    few, many = cost(2, streamed=streamed), cost(250, streamed=streamed)

    assert few.steps == many.steps <= 4


def test_others_run_while_much_is_read() -> None:
    """Who streams what has all come lets other tasks run, once for every 256 events."""
    assert 4 + 9 == cost(2500, streamed=True).steps


def test_a_read_wakes_the_reader_and_the_consumer_once_each() -> None:
    """102 events in 51 reads: each read is one step of the reader, and at most one of who streams."""
    streamed = cost(100, batch=2, streamed=True).steps
    awaited = cost(100, batch=2, streamed=False).steps

    assert awaited <= 51 + 4
    assert awaited < streamed <= 2 * 51 + 4


@pytest.mark.parametrize(("streamed", "most"), [(True, 1), (False, 0)])
def test_an_event_costs_a_few_calls(streamed: bool, most: int) -> None:
    """Calls of functions per further event, exactly; nothing per event depends on how many there were."""
    counts = [cost(deltas, streamed=streamed).calls for deltas in (50, 100, 200)]

    per_event = (counts[1] - counts[0]) / 50
    assert per_event == (counts[2] - counts[1]) / 100
    assert per_event <= most
    # Others are let run for every 256 events, which takes a few.
    assert (cost(2200, streamed=streamed).calls - counts[2]) / 2000 <= per_event + 0.05


def test_a_turn_costs_a_bounded_number_of_calls() -> None:
    """The part of a turn that does not depend on its events.

    A quarter of it asks whose the two events are that say so, and whether the caller may be here at all.
    """
    assert cost(0, streamed=False).calls <= 135


def test_a_turn_of_a_conversation_costs_a_bounded_number_of_calls() -> None:
    """To get a lane, to give it back, and to write down the history: the same for each turn."""

    async def main() -> None:
        connector = ReadyConnector(ReadyWire(answer(2), 10_000))
        policy = wspool.PoolPolicy(max_size=1, min_idle=0)
        async with (
            wspool.open_pool("ws://localhost/", wire=connector, api_key="none", policy=policy) as pool,
            pool.conversation(model="m") as conversation,
        ):
            for _ in range(12):
                counted = [0]
                sys.setprofile(calls_of_wspool(counted))
                try:
                    await conversation.respond("x")
                finally:
                    sys.setprofile(None)
                counts.append(counted[0])

    counts: list[int] = []
    trio.run(main, clock=trio.testing.MockClock())
    assert counts[2] == counts[-1] <= 249


def test_an_event_is_two_objects() -> None:
    """What an undecoded event keeps: itself, and its number where that is not a small one."""
    few, many = cost(1000, streamed=False).blocks, cost(2000, streamed=False).blocks

    assert (many - few) / 1000 <= 2.1


def test_what_is_looked_at_for_every_lease_has_few_attributes() -> None:
    """CPython keeps the attributes of an object inside it up to 29 of them, and else in a dictionary."""

    async def main() -> None:
        connector = ReadyConnector(ReadyWire([], 1))
        async with wspool.open_pool("ws://localhost/", wire=connector, api_key="none") as pool:
            assert len(vars(pool._shell)) <= 29
            assert len(vars(pool._shell.core)) <= 29

    trio.run(main, clock=trio.testing.MockClock())
