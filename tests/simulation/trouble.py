"""Trouble: what is done to the pool, its links and its users while they talk, at any step."""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from tests.simulation.journal import Journal
from tests.simulation.network import Network
from tests.simulation.talk import Talk
from wspool import Pool

__all__ = ["Trouble"]

#: Steps in which whoever was woken has gone on, unless it waits for something else.
_A_WHILE: Final = 100

_MEDDLING: Final = ("resize", "resize", "drain", "clear", "interrupt", "pause", "retry", "retry", "cut")


class Trouble:
    """Whoever means no good, or does not know better."""

    def __init__(self, pool: Pool, talk: Talk, journal: Journal, network: Network, connections: int) -> None:
        self._pool = pool
        self._talk = talk
        self._journal = journal
        self._network = network
        self._connections = connections

    def begin(self, nursery: trio.Nursery, choice: random.Random) -> None:
        """Begin, in tasks of *nursery*."""
        kinds: tuple[tuple[Callable[[random.Random], Awaitable[None]], tuple[float, ...]], ...] = (
            (self._cancel, (3.0, 30.0, math.inf)),
            (self._close, (5.0, 40.0, math.inf)),
            (self._meddle, (5.0, 40.0, math.inf)),
        )
        for act, means in kinds:
            nursery.start_soon(
                self._again_and_again, act, random.Random(choice.getrandbits(64)), choice.choice(means)
            )

    async def _again_and_again(
        self, act: Callable[[random.Random], Awaitable[None]], choice: random.Random, mean: float
    ) -> None:
        while mean < math.inf:
            await trio.sleep(choice.expovariate(1 / mean))
            for _ in range(choice.randrange(40)):
                await trio.lowlevel.checkpoint()
            await act(choice)

    async def _cancel(self, choice: random.Random) -> None:
        """Cancel a turn or a conversation."""
        if self._talk.scopes:
            self._journal.note("cancel")
            choice.choice(self._talk.scopes).cancel()

    async def _close(self, choice: random.Random) -> None:
        """Close a conversation under its turn, wherever that is; those that wait are rarer, and go first."""
        takings = self._talk.takings
        waiting = [taking for taking in takings if taking.place in ("line", "hold")]
        if waiting and choice.random() < 0.7:
            takings = waiting
        if not takings:
            return
        taking = choice.choice(takings)
        place, now = taking.place, trio.current_time()
        self._journal.note("close", place, taking.turn.word)
        self._journal.closed.add(taking.turn.word)
        taking.conversation.close()
        if not taking.slow:
            taking.told_by = now

    async def _meddle(self, choice: random.Random) -> None:
        """Do something to the pool or a link."""
        pool, most = self._pool, self._connections
        what = choice.choice(_MEDDLING)
        self._journal.note(what)
        match what:
            case "resize":
                max_size = choice.randint(1, most)
                pool.resize(max_size=max_size, min_idle=choice.randint(0, min(2, max_size)))
            case "drain":
                pool.drain()
            case "clear":
                pool.clear()
            case "interrupt":
                pool.clear(interrupt=True)
            case "pause":
                pool.pause()
                with trio.CancelScope(shield=True):
                    await trio.sleep(choice.random() * 10)
                pool.resume()
            case "retry":
                await self._retry()
            case _:
                if self._network.trouble and self._network.links:
                    choice.choice(self._network.links[-most:]).cut()

    async def _retry(self) -> None:
        """End all holds, and look whether those who waited have gone on."""
        held = [
            (each, each.asked._driver._errand.scope) for each in self._talk.takings if each.place == "hold"
        ]
        now = trio.current_time()
        self._pool.retry_now()
        self._journal.lift()
        for _ in range(_A_WHILE + 5 * len(held)):
            await trio.lowlevel.checkpoint()
        still = [
            taking.turn.word
            for taking, scope in held
            if taking in self._talk.takings
            and (errand := taking.asked._driver._errand)
            and errand.scope is scope
        ]
        # Some stood in line before the hold was set. Another may be set in these steps, and keeps them.
        if len(still) > self._pool.statistics().waiting and self._pool._shell.core.held_until() <= now:
            self._journal.violate(f"some of {still} wait on for a hold that was lifted")

    async def end_pool(self, after: float, grace: float, within: float) -> None:
        """Close the pool in the middle of everything, and look whether all that waits is told at once."""
        await trio.sleep(after)
        with trio.move_on_after(after):  # perhaps somebody is held by then
            while not any(taking.place == "hold" for taking in self._talk.takings):  # noqa: ASYNC110 # no event says so
                await trio.sleep(0.5)
        now = trio.current_time()
        self._journal.note("aclose", grace)
        for taking in self._talk.takings:
            if (place := taking.place) in ("line", "hold"):
                self._journal.note("aclose", place, taking.turn.word)
                self._journal.closed.add(taking.turn.word)
                taking.told_by = now
        await self._pool.aclose(grace=grace)
        late = trio.current_time() - now - grace - within
        if late > 0:
            self._journal.violate(f"the pool was closed {late} s late")
        self._journal.over = True
