"""Programs out of a seed: tasks that wait for each other in all ways that trio has, and are cancelled
meanwhile.

`python -m tests.explore.generated` runs any number of them twice with the same dice and once from the tape.
Many end in a deadlock, some in an error; what counts is that all three runs are the same, step by step.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeAlias

import attrs
import trio
import trio.testing

from wspool.testing.explore import ChoiceTape, cancel_at, choose, cut
from wspool.testing.explore.deciders import ByPriority, ByTape, Decider, Drawn
from wspool.testing.explore.run import Run, Terms

__all__ = ["main", "repeats"]

#: What a task can do.
_DEEDS = (
    "step", "sleep", "set", "wait", "lock", "send", "receive", "write", "read", "choose", "spawn", "scope",
    "timeout", "cancel", "idle", "tell", "crowd",
)  # fmt: skip

#: Deeds, each with a number, and with what is done inside of it.
Plan: TypeAlias = "list[tuple[str, int, Plan]]"

#: What is done inside of a deed.
Inner: TypeAlias = Callable[[], Awaitable[None]]

#: What holds for each run of one.
TERMS = Terms(stall=1.0, max_steps=3000)


@attrs.define
class World:
    """What the tasks of one program share."""

    log: list[tuple[float, str, str]]
    events: list[trio.Event] = attrs.field(factory=lambda: [trio.Event() for _ in range(3)])
    locks: list[trio.Lock] = attrs.field(factory=lambda: [trio.Lock() for _ in range(2)])
    channel: tuple[trio.MemorySendChannel[int], trio.MemoryReceiveChannel[int]] = attrs.field(
        factory=lambda: trio.open_memory_channel[int](1)
    )
    streams: tuple[trio.abc.HalfCloseableStream, trio.abc.HalfCloseableStream] = attrs.field(
        factory=trio.testing.memory_stream_pair
    )
    scopes: list[trio.CancelScope] = attrs.field(factory=list)
    readers: set[str] = attrs.field(factory=set)


class Author:
    """Writes one program, and runs it."""

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)
        self._spawned = 0
        self._plans = [self._plan(3) for _ in range(self._dice.randint(2, 5))]
        self.log: list[tuple[float, str, str]] = []

    def _plan(self, depth: int) -> Plan:
        plan: Plan = []
        for _ in range(self._dice.randint(1, 5)):
            deed = self._dice.choice(_DEEDS)
            inner: Plan = []
            if deed in ("spawn", "scope", "timeout", "lock") and depth:
                inner = self._plan(depth - 1)
            plan.append((deed, self._dice.randrange(6), inner))
        return plan

    async def program(self) -> None:
        """Run it."""
        self.log = []
        world = World(self.log)
        async with trio.open_nursery() as nursery:
            for number, plan in enumerate(self._plans):
                nursery.start_soon(self._live, world, str(number), plan)

    async def _live(self, world: World, me: str, plan: Plan) -> None:
        for index, (deed, n, inner) in enumerate(plan):
            world.log.append((trio.current_time(), me, deed))
            here = f"{me}.{index}"
            await self._do(world, here, deed, n, partial(self._live, world, here, inner))

    async def _do(self, world: World, me: str, deed: str, n: int, inner: Inner) -> None:
        match deed:
            case "step":
                await trio.lowlevel.checkpoint()
            case "sleep":
                await trio.sleep(n / 2)
            case "idle":
                await trio.testing.wait_all_tasks_blocked()
            case "set":
                world.events[n % 3].set()
            case "wait":
                await world.events[n % 3].wait()
            case "tell":
                await _tell(world, me, n)
            case "crowd":
                async with trio.open_nursery() as nursery:
                    world.scopes.append(nursery.cancel_scope)
                    for other in range(3):
                        nursery.start_soon(_tell, world, f"{me}+{other}", n)
            case "choose":
                world.log.append((0.0, me, f"chose {choose(n + 1)}"))
            case "cancel":
                if world.scopes:
                    world.scopes[n % len(world.scopes)].cancel()
            case _:
                await self._wait(world, me, deed, n, inner)

    async def _wait(self, world: World, me: str, deed: str, n: int, inner: Inner) -> None:
        match deed:
            case "lock":
                async with world.locks[n % 2]:
                    await inner()
            case "send":
                await world.channel[0].send(n)
            case "receive":
                world.log.append((0.0, me, f"received {await world.channel[1].receive()}"))
            case "write":
                await world.streams[0].send_all(b"x" * n)
            case "read":
                world.log.append((0.0, me, f"read {await cut(world.streams[1]).receive_some(4)!r}"))
            case "spawn":
                async with trio.open_nursery() as nursery:
                    world.scopes.append(nursery.cancel_scope)
                    nursery.start_soon(inner)
                    nursery.start_soon(trio.sleep, n / 2)
            case "scope":
                with cancel_at() as scope:
                    world.scopes.append(scope)
                    await inner()
            case _:
                with trio.move_on_after(n / 2, shield=n == 5):
                    await inner()


async def _tell(world: World, me: str, n: int) -> None:
    """Wait to be cancelled, and write down at once when that comes: here the order of it shows."""

    def abort(_: object) -> trio.lowlevel.Abort:
        world.log.append((trio.current_time(), me, "told"))
        return trio.lowlevel.Abort.SUCCEEDED

    await trio.lowlevel.checkpoint()
    with trio.move_on_after(n / 2 + 0.5):
        await trio.lowlevel.wait_task_rescheduled(abort)


def repeats(seed: int) -> str:
    """Run the program of *seed* three times; return how it ended.

    Raises:
        AssertionError: the runs differ.
    """
    author = Author(seed)

    def made(decider: Decider) -> tuple[Run, list[tuple[float, str, str]]]:
        run = Run(author.program, decider, TERMS).make()
        return run, author.log

    def dice() -> Decider:
        if seed % 2:
            return ByPriority(random.Random(seed), 3, 50)
        return Drawn(random.Random(seed))

    first, log = made(dice())
    tape = ChoiceTape.parse(str(ChoiceTape(tuple(first.deviations))))
    for decider in (dice, partial(ByTape, tape)):
        clutter = [[trio.CancelScope() for _ in range(number % 7)] for number in range(seed % 50)]
        del clutter[::3]  # so that what is made next lies elsewhere in memory
        again, log_again = made(decider())
        assert first.ran == again.ran, f"program {seed}: other tasks ran"
        assert first.options == again.options, f"program {seed}: there was another choice"
        assert first.deviations == again.deviations, f"program {seed}: another choice was taken"
        assert log == log_again, f"program {seed}: it did something else"
        assert _how(first) == _how(again), f"program {seed}: it ended in another way"
    return "ended" if first.failure is None else first.failure.sort


def _how(run: Run) -> tuple[str, str] | None:
    return None if run.failure is None else (run.failure.sort, run.failure.message)


def main() -> int:
    """Try programs; return 1 if one does not repeat itself."""
    parser = argparse.ArgumentParser(prog="python -m tests.explore.generated", description=__doc__)
    parser.add_argument("--programs", type=int, default=1000, metavar="N", help="how many")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="the first seed")
    options = parser.parse_args()
    ends: dict[str, int] = {}
    for seed in range(options.first, options.first + options.programs):
        end = repeats(seed)
        ends[end] = ends.get(end, 0) + 1
    print(f"{options.programs} programs, each three times the same: {ends}")  # noqa: T201 # a command line
    return 0


if __name__ == "__main__":
    sys.exit(main())
