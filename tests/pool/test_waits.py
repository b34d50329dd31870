"""Waits inside a connection: what was true before one is looked at again after it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
import trio.testing

import wspool
from tests.helpers import FakeConnector, FakeWire, completed, created, delta, fake_pool, policy

#: Answers that are never finished by themselves.
BEGUN = [created("r"), delta("x")]


def begins(wire: FakeWire, request: dict[str, Any]) -> None:
    """Begin the answer to a request; let a steer pass without a word."""
    if request["type"] == "response.create":
        wire.push(*BEGUN)


def steers(wire: FakeWire) -> list[str]:
    """The texts of the steers that the far end has received."""
    return [
        item["content"][0]["text"]
        for message in map(json.loads, wire.sent)
        if message["type"] == "response.steer"
        for item in message["input"]
    ]


class Steerer:
    """Steers a turn in a task, and keeps what comes of it."""

    def __init__(self, turn: wspool.Turn, text: str) -> None:
        self.turn, self.text = turn, text
        self.scope = trio.CancelScope()
        self.error: wspool.WsPoolError | None = None

    async def run(self) -> None:
        with self.scope:
            try:
                await self.turn.steer(self.text)
            except wspool.WsPoolError as error:
                self.error = error


@pytest.mark.parametrize("happens", ["dies", "is left", "ends", "is cancelled", "nothing"])
async def test_a_steer_that_waits_for_the_wire(happens: str, autojump_clock) -> None:
    """It goes out if it is wanted when its turn comes, and is told by what became of it."""
    connector = FakeConnector(begins)
    limits = policy(max_size=1, on_cancel="drain", send_timeout=1000.0)
    async with fake_pool(connector, limits=limits, provider=wspool.OPENAI) as pool, pool.lease() as lease:
        turn = await lease.create(model="m", input="x").__aenter__()
        await turn.__anext__()
        wire = connector.wire
        first, second = Steerer(turn, "first"), Steerer(turn, "second")
        async with trio.open_nursery() as nursery:
            wire.set(stuffed=True)
            nursery.start_soon(first.run)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(second.run)
            await trio.testing.wait_all_tasks_blocked()
            match happens:
                case "dies":
                    wire.hang_up(1006)
                case "is left":
                    await turn.__aexit__(None, None, None)
                case "ends":
                    wire.push(completed("r"))
                case "is cancelled":
                    second.scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            wire.set(stuffed=False)
            await trio.testing.wait_all_tasks_blocked()
            sent = steers(wire)
            wire.hang_up(1006)
        await turn.__aexit__(None, None, None)

    match happens:
        case "dies":
            assert [] == sent
            assert isinstance(second.error, wspool.TurnLostError)
            assert "before the input was sent" in str(second.error)
        case "is left" | "ends":
            assert ["first"] == sent
            assert isinstance(second.error, wspool.SteeringRefusedError)
        case "is cancelled":
            assert ["first"] == sent
            assert second.scope.cancelled_caught
        case "nothing":
            assert ["first", "second"] == sent


async def test_a_ping_that_ends_with_its_connection_takes_no_answer_away(autojump_clock) -> None:
    """A peer that answers, says why it closes and closes, all while a ping is out: all of it counts.

    Whoever runs first, the ping that finds the wire closed or the reader that finds the answer.
    """
    for _ in range(20):
        connector = FakeConnector(lambda wire, request: wire.set(answers=False))
        limits = policy(max_size=1, ping_interval=20.0, ping_timeout=60.0)
        async with fake_pool(connector, limits=limits) as pool, pool.lease() as lease:
            async with lease.create(model="m", input="x") as turn:
                await trio.sleep(30)
                assert 1 == connector.wire.pings
                connector.wire.push(created("r"), completed("r"))
                connector.wire.hang_up(1001, "going away")
                assert "completed" == (await turn.result()).status
            await trio.testing.wait_all_tasks_blocked()
            assert {"lost": 1} == pool.statistics().closed


async def test_a_ping_does_not_say_why_a_connection_ended(autojump_clock) -> None:
    """A turn that dies while a ping is out is told the close code of the peer."""
    for _ in range(20):
        connector = FakeConnector(lambda wire, request: wire.set(answers=False))
        limits = policy(max_size=1, ping_interval=20.0, ping_timeout=60.0)
        async with fake_pool(connector, limits=limits) as pool, pool.lease() as lease:
            with pytest.raises(wspool.TurnLostError) as caught:  # noqa: PT012 (the whole block raises)
                async with lease.create(model="m", input="x") as turn:
                    await trio.sleep(30)
                    connector.wire.hang_up(1011, "out of memory")
                    await turn.result()

            assert (1011, "out of memory") == (caught.value.close_code, caught.value.close_reason)
