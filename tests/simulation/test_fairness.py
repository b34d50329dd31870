"""More conversations than lanes, each of which goes on and on: how often and for how long others pass."""

from __future__ import annotations

import random
from typing import Any

import pytest
import trio

from tests.helpers import policy, serving
from tests.simulation.fairness import Fairness
from tests.simulation.journal import Journal
from wspool.core.lending import line
from wspool.server import ModelRequest, ModelTurn, function_call

LANES, TALKS, SECONDS = 3, 15, 200.0
#: Of a turn and of the tools that it calls, on average.
TURN, AWAY = 1.0, 0.1


class Caller:
    """Calls a tool each time."""

    def __init__(self, choice: random.Random) -> None:
        self._choice = choice

    def respond(self, request: ModelRequest) -> ModelTurn:
        return ModelTurn(output=[function_call("read", {})], delay=TURN * self._choice.uniform(0.5, 1.5))


async def crowd(seed: int) -> tuple[Journal, list[int], float, float]:
    """Let all of them talk; return also the turns of each, the share of deltas, and the longest wait."""
    choice, waits = random.Random(seed), [0.0]
    turns = [0] * TALKS
    async with serving(Caller(choice)) as world, world.pool(limits=policy(max_size=LANES)) as pool:
        journal = Journal(pool.policy, 3600.0)
        Fairness(pool._shell.core, journal)

        async def talk(number: int) -> None:
            async with pool.conversation(model="m") as conversation:
                new: Any = "go"
                while True:
                    began = trio.current_time()
                    output = (await conversation.respond(new)).output
                    waits.append(trio.current_time() - began)
                    turns[number] += 1
                    new = [
                        {"type": "function_call_output", "call_id": item["call_id"], "output": "x"}
                        for item in output
                    ]
                    await trio.sleep(AWAY * choice.uniform(0.1, 3))

        with trio.move_on_after(SECONDS):
            async with trio.open_nursery() as nursery:
                for number in range(TALKS):
                    nursery.start_soon(talk, number)
        deltas = sum(turn["previous_response_id"] is not None for turn in world.model_turns)
    return journal, turns, deltas / sum(turns), max(waits)


@pytest.mark.parametrize("seed", range(2))
async def test_those_who_go_on_pass_others_and_starve_nobody(autojump_clock, seed: int) -> None:
    """Most turns are deltas, the lanes are in use, and each waits its turn and no more."""
    journal, turns, deltas, longest = await crowd(seed)

    assert [] == journal.violations
    assert journal.passed_over > 100
    assert deltas > 0.7
    assert sum(turns) > 0.8 * SECONDS * LANES / (TURN + AWAY)
    assert min(turns) > 0.3 * sum(turns) / TALKS
    # Before the last in line all others are first, each passed over so many times by those who have a lane.
    assert longest <= (TALKS - LANES) * (line.MAX_SKIPS + 1) / LANES * 1.5 * (TURN + AWAY)


async def test_a_line_that_is_passed_more_often_is_seen(
    autojump_clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By who looks on."""
    monkeypatch.setattr(line, "MAX_SKIPS", 2 * line.MAX_SKIPS)
    journal, *_ = await crowd(0)
    assert journal.violations
