"""Scenes: where two things happen at once in the shell of a pool, each a program to explore.

`python -m tests.explore.scenes` explores them further than the tests do: with more deviations, and at random.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import attrs
import trio

import wspool
from tests.explore.stage import ask, staged
from tests.helpers import error_frame
from wspool.testing.explore import (
    Deviations,
    Priorities,
    Randomly,
    Report,
    cancel_at,
    choose,
    explore,
    fixed,
)
from wspool.wire.wire import ConnectError

__all__ = ["SCENES", "Scene", "main"]

#: Steering, but one lane a connection: as lanes bring choices of their own.
STEERABLE = attrs.evolve(wspool.AZURE, steering=True)


@attrs.frozen
class Scene:
    """A program, and on what terms it is explored.

    Attributes:
        program: it.
        stall: see `explore`.
        near: deviations that the tests exhaust.
    """

    program: Callable[[], Awaitable[None]]
    stall: float = 0.0
    near: int = 2

    @property
    def name(self) -> str:
        """What it is called."""
        return self.program.__name__

    def explore(self, *schedules: Deviations | Priorities | Randomly, seed: int = 0) -> Report:
        """Explore it."""
        return explore(self.program, schedules=schedules, stall=self.stall, seed=seed)


async def hand_off() -> None:
    """One lane goes from hand to hand."""
    async with staged() as stage:
        async with trio.open_nursery() as nursery:
            for text in "abc":
                nursery.start_soon(ask, stage, text)
        assert sorted(stage.far.answered[1:]) == ["a", "b", "c"]


async def cancel_at_grant() -> None:
    """One of three who want the lane is cancelled at any moment; the others get it."""
    async with staged() as stage:

        async def use(text: str) -> None:
            async with stage.pool.lease():
                await trio.lowlevel.checkpoint()
            served.append(text)

        async def give_up() -> None:
            with cancel_at() as scope:
                await use("x")
            assert scope.cancelled_caught or "x" in served

        served: list[str] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(use, "a")
            nursery.start_soon(give_up)
            nursery.start_soon(use, "b")
        assert {"a", "b"} <= set(served)


async def cancel_in_turn() -> None:
    """A turn is cancelled at any moment, and its connection hung up; whoever waits is answered."""
    await _cancelled_turn("hang_up")


async def drain() -> None:
    """A turn is cancelled at any moment, and the rest of it drained; whoever waits is answered."""
    await _cancelled_turn("drain")


async def _cancelled_turn(on_cancel: str) -> None:
    async with staged(on_cancel=on_cancel) as stage:

        async def give_up() -> None:
            with cancel_at():
                await ask(stage, "x")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(give_up)
            nursery.start_soon(ask, stage, "a")


async def retire_against_grant() -> None:
    """A connection comes to its planned end while its lane is handed over."""
    async with staged(max_lifetime=100.0, retire_margin=20.0, retire_spread=1.0, turn_reserve=5.0) as stage:
        with fixed():
            await trio.sleep(max(0.0, stage.shell.core.next_deadline() - trio.current_time() - 0.5))

        async def use(text: str) -> None:
            async with stage.pool.lease():
                await trio.sleep(0.25)
            await ask(stage, text)

        async with trio.open_nursery() as nursery:
            for text in "abc":
                nursery.start_soon(use, text)


async def close_against_lease() -> None:
    """The pool is closed while one takes a turn, one waits for the lane, and one has just come."""
    async with staged(lanes=0) as stage:

        async def use(text: str) -> None:
            with suppress(wspool.PoolClosedError, wspool.TurnLostError):
                await ask(stage, text)

        async def close() -> None:
            for _ in range(1 + choose(3, "more steps before it is closed")):
                await trio.lowlevel.checkpoint()
            grace, began = choose(2, "the seconds of grace"), trio.current_time()
            await stage.pool.aclose(grace=grace)
            assert not stage.shell.core.statistics().size, "closed, and something is open"
            assert trio.current_time() <= began + grace, "it waited for nothing"

        async with trio.open_nursery() as nursery:
            nursery.start_soon(use, "a")
            nursery.start_soon(use, "b")
            nursery.start_soon(close)
            nursery.start_soon(use, "c")


async def conversation_closed_in_line() -> None:
    """A conversation is closed while its turn waits for the lane, or is under way: it leaves none behind."""
    async with (
        staged() as stage,
        stage.pool.conversation(model="m") as one,
        stage.pool.conversation(model="m") as other,
    ):

        async def say() -> None:
            with suppress(wspool.PoolClosedError, wspool.TurnLostError):
                await ask(stage, "x", conversation=other)

        async def close() -> None:
            for _ in range(choose(14, "steps before it is closed")):
                await trio.lowlevel.checkpoint()
            lease = other._continuity._lease
            sending = lease is not None and lease.lane.attempt is not None
            begun.append(sending or "x" in stage.far.sent)
            other.close()

        begun: list[bool] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, stage, "a")
            nursery.start_soon(say)
            nursery.start_soon(close)
        assert begun == [True] or "x" not in stage.far.sent, "sent for a conversation that is closed"
        await ask(stage, "b", conversation=one)


async def steer_against_terminal() -> None:
    """A steer is sent when the response ends: it is taken, or refused; the turn ends either way."""
    async with staged(provider=STEERABLE) as stage, stage.pool.conversation(model="m") as conversation:
        steered: list[str] = []

        async def steer(turn: wspool.Turn) -> None:
            try:
                await turn.steer("s")
                steered.append("taken")
            except wspool.SteeringRefusedError:
                steered.append("refused")

        async with trio.open_nursery() as nursery, conversation.turn("a") as turn:
            nursery.start_soon(steer, turn)
            response = await turn.result()
        assert len(steered) == 1
        assert response.output_text == ("re: s" if steered == ["taken"] else "re: a"), steered
        await ask(stage, "b", conversation=conversation)


async def ping_against_end() -> None:
    """The far end hangs up when a ping is due, and somebody wants the lane."""
    async with staged(ping_interval=10.0, ping_timeout=5.0) as stage:
        with fixed():
            await trio.sleep(9.5)
        wire = stage.far.connector.wire

        async def die() -> None:
            await trio.sleep(0.4)
            wire.hang_up()

        async def late(text: str) -> None:
            await trio.sleep(0.4)
            with suppress(wspool.TurnLostError):
                await ask(stage, text)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(die)
            nursery.start_soon(late, "a")
            nursery.start_soon(late, "b")


async def end_against_turn() -> None:
    """The connection dies while one turn is under way on it and another is in line."""
    async with staged() as stage:

        async def use(text: str) -> None:
            with suppress(wspool.TurnLostError):
                await ask(stage, text)

        async def die() -> None:
            for _ in range(1 + choose(8, "more steps before it dies")):
                await trio.lowlevel.checkpoint()
            stage.far.connector.wire.hang_up()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(use, "a")
            nursery.start_soon(die)
            nursery.start_soon(use, "b")


async def hold_against_close() -> None:
    """One waits out a refusal and one the hold of all, when the pool is closed, or they are let go."""
    async with staged(lanes=0) as stage:
        stage.far.refusals.append(error_frame("server_error", 503, headers={"Retry-After": "60"}))
        began = trio.current_time()

        async def say(text: str) -> None:
            async with stage.pool.conversation(model="m") as conversation:
                with suppress(wspool.PoolClosedError, wspool.TurnLostError):
                    await ask(stage, text, conversation=conversation)

        async def end() -> None:
            if choose(2, "close, or let go"):
                await trio.testing.wait_all_tasks_blocked()
                stage.pool.retry_now()
                return
            for _ in range(choose(12, "steps before it is closed")):
                await trio.lowlevel.checkpoint()
            await stage.pool.aclose(grace=1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(say, "a")
            nursery.start_soon(end)
            nursery.start_soon(say, "b")
        assert trio.current_time() == began, "somebody waited for a hold that was over"


async def two_lanes() -> None:
    """Two lanes share a connection; a turn on one is cancelled at any moment, at no cost to the other."""
    async with staged(lanes=2, provider=wspool.OPENAI, lanes_each=2, on_cancel="drain") as stage:

        async def give_up() -> None:
            with cancel_at():
                await ask(stage, "x")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, stage, "a")
            nursery.start_soon(give_up)
        assert len(stage.far.connector.wires) == 1


async def dial_against_cancel() -> None:
    """The first dial fails while two wait, one of whom is cancelled at any moment; the other is answered."""
    async with staged(warm=False) as stage:
        stage.far.connector.failures.append(ConnectError("nobody is there", phase="tcp"))

        async def give_up() -> None:
            with cancel_at():
                await ask(stage, "x")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(give_up)
            nursery.start_soon(ask, stage, "a")


async def dial_against_close() -> None:
    """The pool is closed while a dial goes on that would take long; nobody waits for it."""
    async with staged(lanes=0, warm=False) as stage:
        stage.far.connector.hold()
        began = trio.current_time()

        async def use() -> None:
            with suppress(wspool.PoolClosedError):
                await ask(stage, "a")

        async def close() -> None:
            for _ in range(choose(4, "steps before it is closed")):
                await trio.lowlevel.checkpoint()
            await stage.pool.aclose(grace=0)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(use)
            nursery.start_soon(close)
        assert trio.current_time() == began, "it waited for a dial"


#: All of them.
SCENES = (
    Scene(hand_off),
    Scene(cancel_at_grant),
    Scene(cancel_in_turn),
    Scene(drain),
    Scene(retire_against_grant, stall=1.0),
    Scene(close_against_lease, stall=1.0),
    Scene(conversation_closed_in_line),
    Scene(steer_against_terminal),
    Scene(ping_against_end, stall=1.0),
    Scene(end_against_turn),
    Scene(hold_against_close),
    Scene(two_lanes, near=1),
    Scene(dial_against_cancel, stall=1.0),
    Scene(dial_against_close),
)


def main() -> int:
    """Explore scenes; return 1 if something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.explore.scenes", description=__doc__)
    parser.add_argument("--deviations", type=int, default=2, metavar="N", help="exhaust so many")
    parser.add_argument("--runs", type=int, default=1000, metavar="N", help="then draw so many schedules")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="with these dice")
    parser.add_argument("--only", metavar="TEXT", default="", help="only those that have TEXT in their name")
    options = parser.parse_args()
    found = 0
    for scene in SCENES:
        if options.only in scene.name:
            began = time.perf_counter()
            half = options.runs // 2
            report = scene.explore(
                Deviations(options.deviations), Priorities(half), Randomly(half), seed=options.seed
            )
            found += report.failure is not None
            took = time.perf_counter() - began
            print(f"{scene.name}: {report} ({took:.1f} s)", flush=True)  # noqa: T201 # a command line
    return min(found, 1)


if __name__ == "__main__":
    sys.exit(main())
