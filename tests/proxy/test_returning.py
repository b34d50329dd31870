"""Agents through the proxy, more than lanes: a lane is kept for who brings the outputs of its tools."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import trio

from tests.helpers import policy
from tests.proxy.asking import Scene, scene
from tests.proxy.test_websocket import connected
from wspool.server import ModelRequest, ModelTurn, function_call, message

LANES, AGENTS, CALLS = 4, 16, 4


class Caller:
    """Calls a tool so many times, then answers; each turn takes a second."""

    def __init__(self, calls: int = CALLS) -> None:
        self._calls = calls

    def respond(self, request: ModelRequest) -> ModelTurn:
        done = sum(item.get("type") == "function_call_output" for item in request.context)
        said = function_call("read", {"part": done}) if done < self._calls else message("done")
        return ModelTurn(output=[said], delay=1.0)


def outputs(response: dict[str, Any]) -> list[dict[str, Any]]:
    """What its calls want."""
    calls = [item for item in response["output"] if item["type"] == "function_call"]
    return [{"type": "function_call_output", "call_id": call["call_id"], "output": "text"} for call in calls]


async def by_http(it: Scene, number: int, *, away: float) -> None:
    """Talk to the end, all of the history each time."""
    client, items = await it.client(), [{"role": "user", "content": f"agent {number}"}]
    while True:
        response = (await client.turn(items, stream=True)).events[-1]["response"]
        if not (brought := outputs(response)):
            return
        items += [*response["output"], *brought]
        await trio.sleep(away)


async def by_websocket(it: Scene, number: int, *, away: float) -> None:
    """Talk to the end, and name what is gone on from; what cannot be is said in full."""
    async with connected(it) as client:
        items: list[Any] = [{"role": "user", "content": f"agent {number}"}]
        await client.create(items, store=False)
        while True:
            said = await client.answer()
            if said["type"] == "error":
                assert "previous_response_not_found" == said["error"]["code"]
                await client.create(items, store=False)
                continue
            if not (brought := outputs(said["response"])):
                return
            items += [*said["response"]["output"], *brought]
            await trio.sleep(away)
            await client.create(brought, store=False, previous_response_id=said["response"]["id"])


@pytest.mark.parametrize("away", [0.0, 0.3])
@pytest.mark.parametrize("talk", [by_http, by_websocket])
async def test_who_brings_outputs_does_not_wait_behind_newcomers(
    autojump_clock, talk: Any, away: float
) -> None:
    """They would have its lane by then. Nobody is passed for ever, and no lane is idle for long."""
    limits = policy(max_size=LANES)
    async with scene(Caller(), policy=limits) as it:
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(AGENTS):
                nursery.start_soon(partial(talk, it, number, away=away))
        took = trio.current_time() - began
        ended = [entry for entry in it.ledger if entry["outcome"] == "completed"]

    assert AGENTS * (CALLS + 1) == len(ended)
    deltas = sum(entry["previous_response_id"] is not None for entry in ended)
    assert deltas >= 0.7 * AGENTS * CALLS
    assert took <= AGENTS * (CALLS + 1) / LANES * (1 + away) * 1.3


async def test_agents_that_never_end_starve_nobody(autojump_clock) -> None:
    """One that comes later has its turn after so many of theirs."""
    async with scene(Caller(10_000), policy=policy(max_size=2)) as it, trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(partial(by_http, it, number, away=0.0))
        await trio.sleep(20.5)
        client, began = await it.client(), trio.current_time()
        await client.turn("editor", stream=True)
        waited = trio.current_time() - began
        nursery.cancel_scope.cancel()

    assert waited <= 20
