"""Histories: what users of a pool asked for and got, judged by a checker that nobody here wrote.

A pool that leases lanes is a bounded semaphore whose tokens have names. A history is the leases of some users
under one drawn schedule: when each was asked for and given back, which lane it was, and who was told that
there is none. It is linearizable if some order in which they came one after the other explains all that was
seen.

`python -m tests.explore.histories` judges any number of them.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from typing import Any

import trio
from detangle.lin import History, Model, Operation, check

import wspool
from tests.explore.stage import Stage, staged
from wspool.testing.explore import cancel_at, choose, fixed
from wspool.testing.explore.deciders import Drawn
from wspool.testing.explore.run import Run, Terms

__all__ = ["Lanes", "history", "is_linearizable", "main"]


class Lanes(Model):
    """A bounded semaphore whose tokens are lanes. Its state: those that are held."""

    name = "lanes"

    def __init__(self, size: int) -> None:
        self._size = size

    def init(self) -> frozenset[object]:
        """Return the state in the beginning: nothing is held."""
        return frozenset()

    def step(self, state: frozenset[object], op: Operation) -> tuple[bool, frozenset[object]]:
        """Return whether *op* may happen, and what comes of it."""
        match op.f:
            case "acquire":
                return op.output not in state and len(state) < self._size, state | {op.output}
            case "none free":
                return len(state) == self._size, state
            case _:
                return op.arg in state, state - {op.arg}


def history(seed: int) -> tuple[History, int]:
    """Return the history of one drawn schedule, and how many lanes there were."""
    dice = random.Random(seed)
    size, lanes = dice.choice(((1, 1), (2, 1), (1, 2), (2, 2)))
    told = History()

    async def program() -> None:
        provider = wspool.OPENAI if lanes > 1 else wspool.AZURE
        async with staged(size=size, lanes_each=lanes, provider=provider) as stage:
            with fixed():
                held: list[wspool.Lease] = []
                for _ in range(size * lanes):  # all connections are open from here on
                    held.append(await stage.pool.acquire())
                for lease in held:
                    lease.release()
            async with trio.open_nursery() as nursery:
                for user in range(dice.randint(2, 5)):
                    nursery.start_soon(_use, stage, told, user)

    run = Run(program, Drawn(random.Random(seed)), Terms()).make()
    assert run.failure is None, run.failure
    return told, size * lanes


async def _use(stage: Stage, told: History, user: int) -> None:
    """Lease a lane, some times, and perhaps be cancelled at it."""
    for _ in range(1 + choose(3)):
        for _ in range(choose(3)):
            await trio.lowlevel.checkpoint()
        if choose(3) == 2:
            _try(stage, told, user)
            continue
        with cancel_at():
            asked = told.invoke(user, "acquire")
            try:
                async with stage.pool.lease() as lease:
                    told.ok(asked, (lease.connection, lease.lane.id))
                    try:
                        for _ in range(choose(3)):
                            await trio.lowlevel.checkpoint()
                    finally:
                        back = told.invoke(user, "release", asked.output)
                told.ok(back)
            except BaseException:
                # It was given back on the way out, or never had.
                if asked.status == "pending":
                    told.fail(asked)
                else:
                    told.ok(back)
                raise


def _try(stage: Stage, told: History, user: int) -> None:
    asked = told.invoke(user, "acquire")
    try:
        lease = stage.pool.acquire_nowait()
    except trio.WouldBlock:
        told.fail(asked)
        told.ok(told.invoke(user, "none free"))
        return
    told.ok(asked, (lease.connection, lease.lane.id))
    back = told.invoke(user, "release", asked.output)
    lease.release()
    told.ok(back)


def is_linearizable(operations: Sequence[Operation], lanes: int) -> bool:
    """Return whether *operations* are those of a pool with so many lanes."""
    judged: Any = check(operations, Lanes(lanes))
    return bool(judged.ok)


def main() -> int:
    """Judge histories; return 1 if one is not linearizable."""
    parser = argparse.ArgumentParser(prog="python -m tests.explore.histories", description=__doc__)
    parser.add_argument("--histories", type=int, default=10_000, metavar="N", help="how many")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="the first seed")
    options = parser.parse_args()
    wrong = operations = 0
    for seed in range(options.first, options.first + options.histories):
        told, lanes = history(seed)
        operations += len(told)
        if not is_linearizable(told.operations, lanes):
            wrong += 1
            print(f"seed {seed} is not linearizable: {told.operations}")  # noqa: T201 # a command line
    print(f"{options.histories} histories, {operations} operations, {wrong} wrong")  # noqa: T201
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
