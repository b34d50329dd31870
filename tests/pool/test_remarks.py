"""Remarks: what the server says that it did with the input is told, since no error is."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from tests.helpers import FakeConnector, FakeWire, Recorder, completed, created, fake_pool

REMOVED = {"type": "reasoning", "id": "rs_1", "action": "removed", "reason": "model_mismatch"}
MISS = {"type": "cache_miss", "reason": "tools_changed", "cache_missed_tokens": 900}


def answering(**remarks: Any) -> FakeConnector:
    def answer(wire: FakeWire, request: dict[str, Any]) -> None:
        name = f"resp_{len(wire.sent)}"
        end = completed(name)
        end["response"].update(remarks)
        wire.push(created(name), end)

    return FakeConnector(answer)


async def test_what_was_withheld_from_the_model_is_told(
    autojump_clock, caplog: pytest.LogCaptureFixture
) -> None:
    """In the record of each turn and the account of the conversation; the log says it once."""
    recorder = Recorder()
    connector = answering(input_transformations=[REMOVED, {**REMOVED, "id": "rs_2"}])
    with caplog.at_level(logging.WARNING, "wspool.pool"):
        async with fake_pool(connector, instrument=recorder) as pool:
            async with pool.conversation(model="m") as conversation:
                for _ in range(2):
                    response = await conversation.respond("x")
                    assert ["rs_1", "rs_2"] == [each["id"] for each in response.input_transformations]
                assert 4 == conversation.statistics().withheld
            async with pool.lease() as lease, lease.create(model="m", input="x") as turn:
                await turn.result()

    assert 3 * [("rs_1", "rs_2")] == [
        tuple(each["id"] for each in record.input_transformations) for record in recorder.records
    ]
    assert 1 == sum("withheld 2 reasoning items" in line.getMessage() for line in caplog.records)


async def test_what_became_of_the_prompt_cache_is_told(autojump_clock) -> None:
    """As the server says it."""
    recorder = Recorder()
    connector = answering(prompt_cache_diagnostics=MISS)
    async with fake_pool(connector, instrument=recorder) as pool, pool.conversation(model="m") as talk:
        assert MISS == (await talk.respond("x")).prompt_cache_diagnostics

    assert [(MISS, ())] == [
        (each.prompt_cache_diagnostics, each.input_transformations) for each in recorder.records
    ]


@pytest.mark.parametrize("odd", [None, 7, "x", [7, None], {}, [[]]])
async def test_odd_remarks_are_none(odd: Any, autojump_clock) -> None:
    """A server that says nothing, or what nobody can read, costs no turn."""
    recorder = Recorder()
    connector = answering(input_transformations=odd, prompt_cache_diagnostics=odd)
    async with fake_pool(connector, instrument=recorder) as pool, pool.conversation(model="m") as talk:
        assert "ok" == (await talk.respond("x")).output_text
        assert 0 == talk.statistics().withheld

    assert [((), odd if odd == {} else None)] == [
        (each.input_transformations, each.prompt_cache_diagnostics) for each in recorder.records
    ]
