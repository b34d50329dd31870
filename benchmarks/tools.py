"""What eager tools save, and what they cost: six shapes of a response with calls, beside the ideal.

The far end seals each call at a written time, then ends its response; tools sleep. `ideal`: each tool starts
at its seal, and the next request leaves when the last of response and tools is done. No network: what is
measured is the time between two requests, on the real clock.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from typing import Any, Final

import attrs
import trio

import wspool
from benchmarks.harness import Row
from wspool.wire.wire import Endpoint, Wire, WireClosedError

__all__ = ["run"]


@attrs.frozen
class Shape:
    """The calls of one response, in seconds from the request.

    Attributes:
        sealed: when each call is done.
        takes: how long its tool takes.
        ends: when the response ends.
    """

    sealed: Sequence[float]
    takes: Sequence[float]
    ends: float

    @property
    def ideal(self) -> float:
        """Seconds until the next request can leave."""
        return max(self.ends, *(at + took for at, took in zip(self.sealed, self.takes, strict=True)))


SHAPES: Final = {
    "slow first": Shape([0.5, 1.0, 1.5, 2.0], [2.0, 0.5, 0.5, 0.5], 2.1),
    "slow last": Shape([0.5, 1.0, 1.5, 2.0], [0.5, 0.5, 0.5, 2.0], 2.1),
    "equal": Shape([0.5, 1.0, 1.5, 2.0], [1.0, 1.0, 1.0, 1.0], 2.1),
    "one huge": Shape([0.25, 0.3, 1.5], [4.0, 0.05, 0.05], 1.6),
    "many short": Shape([number / 50 for number in range(100)], [0.1] * 100, 2.05),
    "one only": Shape([0.5], [2.0], 0.55),
}


class Far:
    """A wire whose far end says one shape, then that it is done."""

    headers: Sequence[tuple[str, str]] = ()

    def __init__(self, nursery: trio.Nursery, shape: Shape) -> None:
        self.heard_at = trio.current_time()
        self.asked: list[float] = []
        self._nursery = nursery
        self._shape = shape
        self._due, self._coming = trio.open_memory_channel[list[str]](math.inf)

    async def connect(
        self, nursery: trio.Nursery, endpoint: Endpoint, headers: Sequence[tuple[str, str]]
    ) -> Wire:
        await trio.lowlevel.checkpoint()
        return self

    async def send(self, message: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.asked.append(trio.current_time())
        self._nursery.start_soon(self._say, len(self.asked))

    async def receive(self) -> Sequence[str | bytes]:
        try:
            return await self._coming.receive()
        except trio.EndOfChannel:
            raise WireClosedError from None

    async def ping(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await self.abort()

    async def abort(self) -> None:
        self._due.close()
        await trio.lowlevel.checkpoint()

    async def _say(self, number: int) -> None:
        name, since, shape = f"resp_{number}", trio.current_time(), self._shape
        self._push({"type": "response.created", "response": {"id": name, "status": "in_progress"}})
        output: list[dict[str, Any]] = []
        if number == 1:
            for index, (at, took) in enumerate(zip(shape.sealed, shape.takes, strict=True)):
                item = {
                    "type": "function_call",
                    "call_id": f"call_{index}",
                    "name": "work",
                    "arguments": json.dumps({"seconds": took}),
                }
                output.append(item)
                await trio.sleep_until(since + at)
                self._push({"type": "response.output_item.done", "output_index": index, "item": item})
            await trio.sleep_until(since + shape.ends)
        response = {"id": name, "status": "completed", "output": output}
        self._push({"type": "response.completed", "response": response})

    def _push(self, event: dict[str, Any]) -> None:
        self.heard_at = trio.current_time()
        self._due.send_nowait([json.dumps(event)])


async def work(seconds: float) -> str:
    """Take some time."""
    await trio.sleep(seconds)
    return "done"


async def _loop(shape: Shape, *, eager: bool) -> float:
    """Seconds between the first request of a loop and the second."""
    async with trio.open_nursery() as nursery:
        far = Far(nursery, shape)
        policy = wspool.PoolPolicy(max_size=1, min_idle=1)
        async with wspool.open_pool("ws://localhost/", wire=far, api_key="none", policy=policy) as pool:
            await pool.wait_ready()
            async with pool.conversation(model="m") as conversation:
                await conversation.run("x", tools=[work], eager=eager)
        first, second = far.asked
    return second - first


async def _round(took: dict[tuple[str, bool], list[float]]) -> None:
    """Take each shape both ways, all at the same time: they do nothing but sleep."""

    async def one(name: str, eager: bool) -> None:
        took.setdefault((name, eager), []).append(await _loop(SHAPES[name], eager=eager))

    async with trio.open_nursery() as nursery:
        for name in SHAPES:
            for eager in (True, False):
                nursery.start_soon(one, name, eager)


def run(*, quick: bool) -> list[Row]:
    """Measure each shape."""
    took: dict[tuple[str, bool], list[float]] = {}
    for _ in range(3 if quick else 9):
        trio.run(_round, took)
    rows = []
    for name, shape in SHAPES.items():
        early, late = (statistics.median(took[name, eager]) for eager in (True, False))
        rows += [
            Row(
                metric=f"tools, {name}: time over the ideal, eager",
                value=early / shape.ideal,
                unit="x",
                peers={"not eager": late / shape.ideal},
                most=1.05,
            ),
            Row(
                metric=f"tools, {name}: time of eager over not eager",
                value=early / late,
                unit="x",
                most=0.7 if name == "slow first" else 1.02,
            ),
        ]
    return rows
