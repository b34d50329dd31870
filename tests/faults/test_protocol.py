"""Messages that are well framed and wrong: what is no event, what is new, what belongs to somebody else."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Literal

import pytest
import trio

import wspool
from tests.helpers import Recorder
from wspool.server import Fault, FaultRule

from .scene import EVENTS, QUESTION, Make, Story, faulty


@pytest.mark.parametrize(
    "fault",
    [
        Fault("invalid_json"),
        Fault("not_an_object"),
        Fault("no_type"),
        Fault("odd_type"),
        Fault("done_marker"),
        Fault("invalid_json", text="[" * 100_000),
        Fault("invalid_json", text='{"type":' * 100_000),
    ],
    ids=str,
)
async def test_f48_not_an_event(make: Make, fault: Fault, autojump_clock) -> None:
    """F48: a message that is no JSON object with a type, or nested without end -> `TurnLostError` at once;
    the connection is gone.
    """
    async with faulty(make, fault) as scene:
        lost = (await scene.ask()).assert_lost("accepted", events=4)
        assert lost.close_reason
        deep = len(fault.options.get("text", "")) > 1000
        assert deep == ("nested deeper than 256 levels (fixed)" in lost.close_reason)
        await scene.assert_well(creates=1, connection=2)


@pytest.mark.parametrize("name", ["not_a_number", "deep_json"])
async def test_f48_unread(make: Make, name: str, autojump_clock) -> None:
    """F48: a broken body under a sound type, which nobody has to understand -> the event, undecoded; only a
    look at its `data` fails, with `MalformedMessageError`.
    """
    async with faulty(make, Fault(name)) as scene:
        story = await scene.ask()
        story.assert_answer()
        (odd,) = [event for event in story.events if event.type == "response.unknown"]
        try:
            assert odd.data["value"] != odd.data["value"], "not a number, and not equal to itself"
        except wspool.MalformedMessageError:
            assert name == "deep_json"
        await scene.assert_well(creates=1, connection=1)


async def test_f48_nothing_at_all(make: Make, autojump_clock) -> None:
    """F48: an empty message -> nothing; some servers keep a connection open so."""
    async with faulty(make, Fault("empty_text")) as scene:
        (await scene.ask()).assert_answer()
        await scene.assert_well(creates=1, connection=1)


@pytest.mark.parametrize("name", ["unknown_event", "unknown_fields", "unknown_item"])
async def test_f49_unknown(make: Make, name: str, autojump_clock) -> None:
    """F49: an unknown event, field or item type -> it is delivered as it came; never an error."""
    async with faulty(make, Fault(name)) as scene:
        story = await scene.ask()
        story.assert_answer()
        new = [event for event in story.events if "unknown" in event.raw or "hologram" in str(event.raw)]
        assert new
        assert all(event.data == json.loads(event.raw) for event in new)
        await scene.assert_well(creates=1, connection=1)


async def test_f50_no_sequence_number(make: Make, autojump_clock) -> None:
    """F50: events without `sequence_number` -> the same answer."""
    async with faulty(make, Fault("no_sequence_number")) as scene:
        (await scene.ask()).assert_answer()
        await scene.assert_well(creates=1, connection=1)


@pytest.mark.parametrize("name", ["sequence_gap", "sequence_repeat", "duplicate_keys"])
async def test_f50_miscounted(make: Make, name: str, autojump_clock) -> None:
    """F50: a gap or a repeat in the sequence numbers, or an end that nothing ties to the turn -> the answer,
    if the last event says all of it, and nothing that came twice; the connection is gone.
    """
    async with faulty(make, Fault(name)) as scene:
        story = await scene.ask()
        story.assert_answer()
        assert list(EVENTS) == story.types
        assert {"dirty": 1} == scene.closed
        await scene.assert_well(creates=1, connection=2)


async def test_f50_miscounted_and_not_all_said(make: Make, autojump_clock) -> None:
    """F50: a gap, and a last event without the output -> `TurnLostError`: `accepted`; an answer with a piece
    missing is never taken for whole.
    """
    async with faulty(make, Fault("terminal_with_empty_output", gap=1)) as scene:
        (await scene.ask()).assert_lost("accepted", events=11)
        await scene.assert_well(creates=1, connection=2)


def assert_only_its_own(stories: Sequence[Story], texts: Sequence[str]) -> None:
    """Assert that each turn that went well said its own text, and that no event names a foreign response."""
    for story, text in zip(stories, texts, strict=True):
        assert story.error is not None or text == story.text
        assert all("somebody_else" not in str(event.raw) for event in story.events)
        ids = [event.data["response"]["id"] for event in story.events if "response" in event.data]
        assert len(set(ids)) <= 1


@pytest.mark.parametrize("name", ["duplicate_terminal", "events_after_terminal"])
@pytest.mark.parametrize("number", [51, 52], ids=["f51-next-conversation", "f52-next-turn"])
async def test_f51_f52_after_the_end(make: Make, name: str, number: int, autojump_clock) -> None:
    """F51: the last event comes twice -> success; the second one reaches nobody, the connection is gone
    before the next turn.
    F52: events after the last one -> success; they reach nobody, the connection is gone before the next turn.
    """
    async with faulty(make, Fault(name)) as scene:
        async with scene.pool.conversation(model="m") as conversation:
            first = await scene.ask(conversation=conversation)
            first.assert_answer(took=0)
            assert list(EVENTS) == first.types
            if number == 51:
                conversation.close()
                await trio.sleep(0.001)
                second = await scene.ask("next")
            else:
                await trio.sleep(0.001)
                second = await scene.ask("next", conversation=conversation)
        assert_only_its_own([first, second], [QUESTION, "next"])
        second.assert_answer("next", took=0)

        assert [(1, "completed"), (2, "completed")] == scene.outcomes
        assert {"dirty": 1} == scene.closed
        await scene.assert_well(creates=2, connection=2)


async def test_f53_stale_events(make: Make, autojump_clock) -> None:
    """F53: before the answer comes the rest of another response -> `TurnLostError`: `ambiguous`, without any
    of it; the connection is gone.
    """
    async with faulty(make, Fault("stale_events")) as scene:
        (await scene.ask()).assert_lost("ambiguous", events=0)
        await scene.assert_well(creates=1, connection=2)


@pytest.mark.parametrize("name", ["foreign_response", "foreign_stream"])
async def test_f53_foreign_events(make: Make, name: str, autojump_clock) -> None:
    """F53: in mid-turn comes an event of another response or another lane -> `TurnLostError`: `accepted`,
    without that event; the connection is gone.
    """
    async with faulty(make, Fault(name)) as scene:
        (await scene.ask()).assert_lost("accepted", events=4)
        await scene.assert_well(creates=1, connection=2)


@pytest.mark.parametrize(
    ("name", "kind", "habit"),
    [
        ("rewritten_id", "ids", "it rewrites the ids of responses"),
        ("sequence_gap", "numbers", "it does not number its events one by one"),
    ],
    ids=["f100", "f101"],
)
async def test_f100_f101_a_gateway(
    make: Make, name: str, kind: str, habit: str, caplog, autojump_clock
) -> None:
    """F100: a gateway rewrites the ids of responses, in all of them -> the answers. The first two cost their
    connection; then it is known: said once (log, `Instrument.endpoint_rewrites`, `lenient`), and none does.
    F101: a gateway does not number its events one by one -> as F100.
    """
    told: list[str] = []

    class Watching(Recorder):
        def endpoint_rewrites(self, message: str) -> None:
            told.append(message)

    always = FaultRule(Fault(name), times=None)
    with caplog.at_level(logging.WARNING, "wspool.pool"):
        async with faulty(make, always, pool_options={"instrument": Watching()}) as scene:
            async with scene.pool.conversation(model="m") as conversation:
                for number in range(5):
                    (await scene.ask(f"turn {number}", conversation=conversation)).assert_answer(
                        f"turn {number}"
                    )
                assert (5, 2) == (conversation.statistics().turns, conversation.statistics().delta_turns)
            assert {"dirty": 2} == scene.closed
            statistics = scene.pool.statistics()
            assert ((habit,), {kind: 2}) == (statistics.lenient, statistics.rewritten)
            assert [(number, "completed") for number in (1, 2, 3, 3, 3)] == scene.outcomes
            scene.assert_quiet()
    assert [habit] == told
    assert 1 == sum(habit in line.getMessage() for line in caplog.records)


async def test_f100_said_beforehand(make: Make, autojump_clock) -> None:
    """F100: the same with `trust="lenient"` -> nothing."""
    lenient = wspool.Provider(name="gateway", trust="lenient")
    always = FaultRule(Fault("rewritten_id"), times=None)
    async with faulty(make, always, pool_options={"provider": lenient}) as scene:
        for number in range(3):
            (await scene.ask(f"turn {number}")).assert_answer(f"turn {number}")
        assert {} == scene.closed
        assert ("its profile says so",) == scene.pool.statistics().lenient


@pytest.mark.parametrize("trust", ["exact", "lenient"])
async def test_f102_a_foreign_end(make: Make, trust: Literal["exact", "lenient"], autojump_clock) -> None:
    """F102: in mid-turn comes the end of a response that nobody has seen, and it says nothing of what this
    one has said -> the answer, without that event; the connection is gone. From a gateway it is the same.
    """
    provider = wspool.Provider(name="gateway", trust=trust)
    async with faulty(make, Fault("foreign_end"), pool_options={"provider": provider}) as scene:
        story = await scene.ask()
        story.assert_answer(took=0)
        assert_only_its_own([story], [QUESTION])
        assert {"dirty": 1} == scene.closed
        assert {} == scene.pool.statistics().rewritten
        await scene.assert_well(creates=1, connection=2)


async def test_f102_instead_of_its_own(make: Make, autojump_clock) -> None:
    """F102: the same, and nothing else comes for 15 s -> `TurnLostError`: `accepted`, and it says so; a
    foreign end is never an answer.
    """
    async with faulty(make, Fault("foreign_end", instead=True)) as scene:
        lost = (await scene.ask()).assert_lost("accepted", events=11, took=15)
        assert "an end with an id that nobody has seen" in lost.close_reason
        assert lost.close_reason.endswith(": response.completed")
        await scene.assert_well(creates=1, connection=2)


@pytest.mark.parametrize(
    ("name", "delivery", "events"),
    [
        ("created_twice", "accepted", 1),
        ("never_created", "ambiguous", 0),
        ("terminal_without_created", "ambiguous", 0),
    ],
)
async def test_f54_created_twice_or_never(
    make: Make, name: str, delivery: str, events: int, autojump_clock
) -> None:
    """F54: `response.created` twice, or an end without it -> `TurnLostError` with what is known; nothing is
    sent again.
    """
    async with faulty(make, Fault(name)) as scene:
        (await scene.ask()).assert_lost(delivery, events=events)
        await scene.assert_well(creates=1, connection=2)


@pytest.mark.parametrize("name", ["terminal_without_output", "terminal_with_empty_output"])
async def test_f54_last_event_without_output(make: Make, name: str, autojump_clock) -> None:
    """F54: the last event leaves the output out -> the answer, put together from the items that came."""
    async with faulty(make, Fault(name)) as scene:
        (await scene.ask()).assert_answer()
        await scene.assert_well(creates=1, connection=1)


@pytest.mark.parametrize(
    "response_id", ["r" * 300, "répônse-😀", 'a b"c\\d\n', ""], ids=["long", "ascii", "quotes", "empty"]
)
async def test_f68_odd_ids(make: Make, response_id: str, autojump_clock) -> None:
    """F68: ids of 300 characters, beyond ASCII, or empty -> nothing: an id is opaque, and is the next turn's
    parent as it is.
    """
    async with faulty(make, Fault("odd_id", response_id=response_id)) as scene:
        async with scene.pool.conversation(model="m") as conversation:
            first = await scene.ask(conversation=conversation)
            first.assert_answer()
            assert first.response is not None
            assert response_id == first.response.id
            (await scene.ask("next", conversation=conversation)).assert_answer("next")
        assert [None, response_id] == [entry["previous_response_id"] for entry in scene.ledger]
        assert [1, 3] == [entry["context_items"] for entry in scene.ledger]
        await scene.assert_well(creates=2, connection=1)


async def test_f68_odd_ids_in_errors(make: Make, autojump_clock) -> None:
    """F68: a turn with such an id is lost -> the error has the id as it came."""
    fault = Fault("odd_id", response_id="r" * 300)
    async with faulty(make, fault) as scene, scene.pool.lease() as lease:
        async with lease.create(model="m", input=QUESTION) as turn:
            await anext(turn)
            assert "r" * 300 == turn.response_id
            scene.server.inject(Fault("reset"))
            with pytest.raises(wspool.TurnLostError) as caught:
                await turn.result()
        assert "r" * 300 == caught.value.response_id
        await scene.assert_well(creates=1, connection=2)
