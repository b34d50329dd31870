"""What cancelling does to a pool: slots lost for ever, waiters stuck, cancels swallowed.

Episodes of one crowd each, on a pool that lives through all of them. The tasks queue for a
few connections, hold for some scheduler rounds and release; whoever releases then cancels
somebody near the head of the line, in the same instant or a few rounds later: where a hand-off
is under way. Counted:

* stuck waiters: not cancelled, and not served although nobody holds anything any more;
* lost slots: connections that can not be held at the same time again after an episode. A pool that
  has lost one is replaced by a fresh one, so that each loss is counted once;
* held twice: a connection that two tasks held at once;
* swallowed cancels: tasks that were cancelled before their end and ended as if they were not.

The same seeds for every pool. asyncio delivers a cancel at the next round, trio at the next
checkpoint; neither is told anything about the pool.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Awaitable, Callable
from typing import Final

import attrs

from benchmarks.fakes import PEERS, Cancellable, Loop, Pool, play
from benchmarks.harness import Row, installed

__all__ = ["Damage", "churn", "run"]

SIZE: Final = 3
CROWD: Final = 12
#: Seconds after which somebody who could be served at once counts as stuck. Real time.
PATIENCE: Final = 0.25

CONTESTANTS: Final = ("wspool", "httpcore", "aiohttp", "psycopg_pool", "asyncpg")


@attrs.define
class Damage:
    """What was counted."""

    cancels: int = 0
    stuck: int = 0
    lost: int = 0
    twice: int = 0
    swallowed: int = 0
    # After damage the pool is replaced.
    broken: bool = False


def run(*, quick: bool) -> list[Row]:
    """Measure all of it."""
    found: dict[str, Damage | None] = {}
    for name in CONTESTANTS:
        cancels = (2_000 if quick else 100_000) if name == "wspool" else (1_000 if quick else 5_000)
        found[name] = churn(name, cancels) if installed(PEERS[name][0]) else None
    own = found.pop("wspool") or Damage()

    def row(metric: str, value: Callable[[Damage], float], most: float | None = 0) -> Row:
        peers = {name: value(damage) if damage else None for name, damage in found.items()}
        return Row(metric=metric, value=value(own), unit="", peers=peers, most=most)

    return [
        row("cancels", lambda damage: damage.cancels, None),
        row("lost slots", lambda damage: damage.lost),
        row("stuck waiters", lambda damage: damage.stuck),
        row("held twice", lambda damage: damage.twice),
        row("swallowed cancels", lambda damage: damage.swallowed),
    ]


def churn(name: str, cancels: int, *, seed: int = 0) -> Damage:
    """Cancel that many waiters of one kind of pool, or a few more."""
    damage = Damage()
    generator = random.Random(seed)
    while damage.cancels < cancels:
        damage.broken = False
        scenario = functools.partial(_episodes, damage=damage, cancels=cancels, generator=generator)
        play(name, scenario, size=SIZE, warm=SIZE)
    return damage


async def _episodes(
    pool: Pool, loop: Loop, *, damage: Damage, cancels: int, generator: random.Random
) -> None:
    while damage.cancels < cancels and not damage.broken:
        await _episode(pool, loop, damage, generator)


async def _episode(pool: Pool, loop: Loop, damage: Damage, generator: random.Random) -> None:
    line: list[Cancellable] = []
    held: set[int] = set()

    def somebody(members: list[Cancellable]) -> Cancellable | None:
        waiting = [one for one in members if not one.over]
        return waiting[min(generator.randrange(3), len(waiting) - 1)] if waiting else None

    async def member(number: int) -> None:
        async def body(connection: object) -> None:
            if id(connection) in held:
                damage.twice += 1
            held.add(id(connection))
            line.remove(crowd[number])
            try:
                for _ in range(generator.randrange(1, 4)):
                    await loop.pause()
            finally:
                held.discard(id(connection))

        line.append(crowd[number])
        try:
            await pool.use(body)
        finally:
            if crowd[number] in line:
                line.remove(crowd[number])
        # Now the next in line is being served: cancel there.
        for _ in range(generator.choice((0, 0, 0, 1, 2, 3))):
            await loop.pause()
        if generator.random() < 0.8 and (victim := somebody(line)) is not None:
            damage.cancels += 1
            victim.cancel()

    crowd: list[Cancellable] = [
        loop.cancellable(functools.partial(member, number)) for number in range(CROWD)
    ]

    async def all_of_them() -> None:
        await loop.together([one.run for one in crowd])

    if not await loop.within(PATIENCE, all_of_them):
        # The time-out has ended them all; who was in line then was stuck.
        damage.stuck += max(1, _unfinished(crowd))
        damage.broken = True
    damage.swallowed += sum(one.swallowed for one in crowd)
    free = await _free(pool, loop)
    damage.lost += SIZE - free
    damage.broken |= free < SIZE


def _unfinished(crowd: list[Cancellable]) -> int:
    """Members that did not end by themselves."""
    return sum(not one.over for one in crowd)


async def _free(pool: Pool, loop: Loop) -> int:
    """How many connections can be held at once."""
    holding = 0

    async def hold() -> None:
        async def body(connection: object) -> None:
            nonlocal holding
            holding += 1
            while holding < SIZE:
                await loop.pause()

        await pool.use(body)

    work: list[Callable[[], Awaitable[object]]] = [hold] * SIZE
    await loop.within(PATIENCE, lambda: loop.together(work))
    return min(holding, SIZE)
