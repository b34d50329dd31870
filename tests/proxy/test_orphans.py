"""A WebSocket client that vanished, came back and asks the same is given what it missed; nobody else is."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from tests.proxy.asking import KEY, Scene, scene
from tests.proxy.test_websocket import connected
from wspool.core.frames import parse_event
from wspool.errors import PoolClosedError
from wspool.proxy import Settings
from wspool.proxy.sockets.orphans import Followed, Orphans, Run
from wspool.server import EchoModel, Fault, FaultRule, FaultScript, ModelRequest, ModelTurn, message

SLOW = {"delay_per_token": 2}
WORDS = "a b c d e"


async def vanish(it: Scene, seconds: float, **more: Any) -> None:
    """Ask, and be gone after so many seconds."""
    async with connected(it, **more) as client:
        await client.create(WORDS, store=False)
        await trio.sleep(seconds)


@pytest.mark.parametrize("after", [0, 5, 20])
async def test_f188_a_vanished_client_is_given_what_it_missed(autojump_clock, after: float) -> None:
    """F188: a WebSocket client loses its connection, comes back and asks the same -> the answer of the first
    run, from its first event, while that goes on or up to 30 s later; it runs once and is paid for once.
    """
    async with scene(EchoModel(), server=SLOW) as it:
        await vanish(it, 3)
        await trio.sleep(after)
        async with connected(it) as client:
            await client.create(WORDS, store=False)
            end = await client.answer()
            said = list(client.said)
            await client.create("on", store=False, previous_response_id=end["response"]["id"])
            assert "response.completed" == (await client.answer())["type"]
        records = await it.records()
        assert 2 == len(it.ledger)

    assert "response.completed" == end["type"]
    assert list(range(len(said))) == [event["sequence_number"] for event in said]
    first, again = sorted(records[:2], key=lambda record: record.number)
    assert ("left", None) == (first.outcome, first.joined)
    assert ("completed", first.number, None) == (again.outcome, again.joined, again.usage)


@pytest.mark.parametrize(
    ("words", "more"),
    [
        ("another", {}),
        (WORDS, {"headers": (("authorization", "Bearer other"),)}),
        (WORDS, {"headers": (KEY, ("user-agent", "other/1"))}),
        (WORDS, {"headers": (KEY, ("x-session-id", "other"))}),
        (WORDS, {"target": "/s/job/v1/responses"}),
    ],
)
async def test_whoever_asks_something_else_has_a_turn(autojump_clock, words: str, more: Any) -> None:
    """Other words, another key, program or conversation."""
    async with scene(EchoModel(), server=SLOW) as it:
        await vanish(it, 3)
        async with connected(it, **more) as client:
            await client.create(words, store=False)
            await client.answer()
        await trio.sleep(60)
        assert 2 == len(it.ledger)


async def test_samples_are_never_joined(autojump_clock) -> None:
    """Clients that are there ask for one each; of those who vanish each is one that comes back."""
    async with scene(EchoModel(), server=SLOW) as it:
        async with connected(it) as one, connected(it) as other:
            for client in (one, other):
                await client.create(WORDS, store=False)
            await one.answer()
            await other.answer()
        assert 2 == len(it.ledger)
        await vanish(it, 3)
        async with connected(it) as one, connected(it) as other:
            for client in (one, other):
                await client.create(WORDS, store=False)
            await one.answer()
            await other.answer()
        assert 4 == len(it.ledger)
        assert 1 == sum(record.joined is not None for record in await it.records())


async def test_what_went_wrong_runs_anew(autojump_clock) -> None:
    """It was asked for again. Nor is anything kept for longer, or where that is not wanted."""
    faults = FaultScript(FaultRule(Fault("reset", at="response.output_text.done"), create=1), seed=1)
    for settings, server, wait in (
        (Settings(), {"faults": faults}, 20),
        (Settings(replay_for=10), {}, 60),
        (Settings(replay_for=0), {}, 0),
    ):
        async with scene(EchoModel(), server={**SLOW, **server}, settings=settings) as it:
            await vanish(it, 3)
            await trio.sleep(wait)
            async with connected(it) as client:
                await client.create(WORDS, store=False)
                assert "response.completed" == (await client.answer())["type"]
            assert not any(record.joined for record in await it.records())


async def test_who_reads_it_keeps_it_going(autojump_clock) -> None:
    """Beyond the bound for turns whose client has left; and it ends with who was given it."""

    class Thinks:
        def respond(self, request: ModelRequest) -> ModelTurn:
            return ModelTurn(output=[message("yes")], delay=100)

    async with scene(Thinks(), settings=Settings(drain_for=10)) as it:
        await vanish(it, 3)
        async with connected(it) as client:
            await client.create(WORDS, store=False)
            assert "response.completed" == (await client.answer())["type"]
        await vanish(it, 3)
        await vanish(it, 3)
        await trio.sleep(20)
        assert 2 == len(it.ledger)
        assert not it.proxy.records.running


def test_what_is_kept_is_bounded() -> None:
    """Of one and of all."""
    event = parse_event('{"type":"a"}')

    async def main() -> None:
        orphans = Orphans(30)
        large = Run("large", 1)
        large.write([event], 2**21 + 1)
        orphans.left(large, lambda _: None)
        assert orphans.find("large") is None
        for number in range(50):
            run = Run(number, number)
            run.write([event], 2**21)
            orphans.left(run, lambda _: None)
        assert 32 == len(orphans)
        assert orphans.find(0) is None
        kept = orphans.find(49)
        assert kept is not None
        orphans.over(kept, PoolClosedError("a"), keep=False)

        unread = Run("read", 1)
        orphans.left(unread, lambda _: None)
        assert unread is orphans.find("read")
        reader = Followed(unread)
        for _ in range(9):
            unread.write([event], 2**20)
            assert [event] == await reader.batch()
        for _ in range(9):
            unread.write([event], 2**20)
        with pytest.raises(PoolClosedError):
            await reader.batch()

    trio.run(main)
