"""What counts: a turn is history when its caller was given its end, whatever the network had by then."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

import wspool
from tests.helpers import (
    FakeConnector,
    FakeWire,
    Recorder,
    completed,
    created,
    delta,
    echo,
    fake_pool,
    said,
    user,
)


class Stop(Exception):
    """The caller has seen enough."""


async def read(turn: wspool.Turn, until: str, how: str) -> None:
    """Read until the event of type *until*, and leave in the way *how*."""
    async with turn:
        async for event in turn:
            if event.type == until:
                if how == "raise":
                    raise Stop
                if how == "cancel":
                    with trio.CancelScope() as scope:
                        scope.cancel()
                        await turn.result()
                    return
                return


@pytest.mark.parametrize("cuts", ["one read", "event by event", "the end alone", "the end is late"])
@pytest.mark.parametrize("how", ["break", "raise", "cancel"])
@pytest.mark.parametrize(
    ("until", "counts"),
    [
        ("response.created", False),
        ("response.output_text.delta", False),
        ("response.output_text.done", False),
        ("response.completed", True),
    ],
)
async def test_a_turn_counts_when_its_end_was_given(until, counts, how, cuts, autojump_clock) -> None:
    """Not when the network had it: what the same caller does leads to the same history."""
    done = {"type": "response.output_text.done", "text": "xx"}
    events = [created("r"), delta("x"), delta("x"), done, completed("r")]
    recorder = Recorder()

    def answer(wire: FakeWire, request: dict[str, Any]) -> None:
        wire.batched = cuts != "event by event"
        wire.push(*(events[:-1] if cuts.startswith("the end") else events))
        if cuts.startswith("the end"):
            nursery.start_soon(end, wire)

    async def end(wire: FakeWire) -> None:
        await trio.sleep(5 if cuts == "the end is late" else 0)
        wire.push(events[-1])

    connector = FakeConnector(answer)
    async with trio.open_nursery() as nursery, fake_pool(connector, instrument=recorder) as pool:
        async with pool.conversation(model="m") as conversation:
            turn = conversation.turn("x")
            try:
                await read(turn, until, how)
            except Stop:
                pass
            assert ([user("x"), said("ok")] if counts else []) == conversation.items
            if counts:
                assert ("completed", "terminal") == (turn.response.status, turn.delivery)
            else:
                with pytest.raises(RuntimeError):
                    _ = turn.response
            assert [("completed" if counts else "cancelled")] == [
                record.status for record in recorder.records
            ]
            connector.on_request = echo
            await conversation.respond("y")
        sent = connector.wire.requests[-1]
        assert (counts, 1) == ("previous_response_id" in sent, len(sent["input"]))


async def test_a_result_that_was_not_returned_does_not_count(autojump_clock) -> None:
    """Cancelled before it was given: also if all of it had arrived."""
    connector = FakeConnector(echo)
    async with fake_pool(connector) as pool, pool.conversation(model="m") as conversation:
        with trio.CancelScope() as scope:
            async with conversation.turn("x") as turn:
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
                await turn.result()
        assert scope.cancelled_caught
        assert [] == conversation.items
        async with conversation.turn("x") as turn:
            await turn.result()
            with trio.CancelScope() as scope:
                scope.cancel()
                await turn.result()  # it was given before
        assert scope.cancelled_caught
        assert 2 == len(conversation.items)


ABOUT = {"id": "s", "previous_response_id": "r"}
CONTINUED = (
    {"type": "response.steer.accepted", "steer": ABOUT},
    completed("r"),
    {"type": "response.created", "response": {"id": "r2", "previous_response_id": "r"}},
    completed("r2"),
)
ANSWERED_LATE = (completed("r"), {"type": "response.steer.pending", "steer": ABOUT})


@pytest.mark.parametrize(
    ("events", "given"),
    [(CONTINUED, given) for given in range(5)] + [(ANSWERED_LATE, given) for given in range(3)],
)
async def test_a_steered_turn_counts_with_the_last_of_its_events(events, given, autojump_clock) -> None:
    """The end of its first response is not its end, nor one after which a steer is still answered."""

    def answer(wire: FakeWire, request: dict[str, Any]) -> None:
        wire.push(*([created("r")] if request["type"] == "response.create" else events))

    connector = FakeConnector(answer)
    async with (
        fake_pool(connector, provider=wspool.OPENAI) as pool,
        pool.conversation(model="m") as conversation,
    ):
        async with conversation.turn("x") as turn:
            await turn.__anext__()
            await turn.steer("y")
            for _ in range(given):
                await turn.__anext__()

        assert bool(conversation.items) == (given == len(events))
