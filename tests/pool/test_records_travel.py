"""Records: they travel, and nothing that anybody does to what it was given changes what they say."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from contextvars import Context
from typing import Any

import attrs
import pytest

import wspool
from tests.helpers import FakeConnector, FakeWire, completed, created, fake_pool
from wspool.core.begun import Record

USAGE = {"input_tokens": 9, "output_tokens": 3, "input_tokens_details": {"cached_tokens": 4}}
REMARKS: dict[str, Any] = {
    "usage": USAGE,
    "model": "m-1",
    "service_tier": "flex",
    "input_transformations": [{"type": "reasoning", "id": "rs_1"}],
    "prompt_cache_diagnostics": {"type": "cache_miss"},
}
CALL = {"type": "function_call", "name": "one", "call_id": "call_1", "arguments": "{}", "id": "fc_1"}


class All(wspool.Instrument):
    """Keeps every record, by the method that was given it."""

    wants_content = True

    def __init__(self) -> None:
        self.records: dict[str, Any] = {}

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_") or name in ("records", "wants_content"):
            return super().__getattribute__(name)
        return lambda record, *_: self.records.setdefault(name, record)


def answering() -> FakeConnector:
    """Calls the tool it has in its first answer, and says all there is to say in each."""

    def answer(wire: FakeWire, request: dict[str, Any]) -> None:
        name = f"resp_{len(wire.sent)}"
        end = completed(name)
        end["response"].update(copy.deepcopy(REMARKS))
        if request.get("tools") and len(wire.sent) == 1:
            end["response"]["output"] = [CALL]
        wire.push(created(name), end)

    return FakeConnector(answer)


async def one() -> str:
    return "1"


async def all_records() -> dict[str, Any]:
    seen = All()
    tools = [{"type": "function", "name": "one", "parameters": {"type": "object", "properties": {}}}]
    async with fake_pool(answering(), instrument=seen) as pool, pool.conversation(model="m") as talk:
        async with pool.conversation(model="m", tools=tools) as other:
            await other.run("x", tools={"one": one})
        await talk.respond("x")
    return {name: record for name, record in seen.records.items() if isinstance(record, Record)}


@pytest.mark.parametrize("send", [lambda it: pickle.loads(pickle.dumps(it)), copy.copy, copy.deepcopy])
async def test_they_can_be_sent_and_copied(send: Callable[[Any], Any], autojump_clock) -> None:
    """All but the context, which is their process's; the pool's own number of things is that of the time."""
    records = await all_records()

    assert set(KINDS) <= set(records)
    for record in records.values():
        sent = send(record)
        assert isinstance(sent, type(record))
        if isinstance(record, wspool.PoolRecord):
            assert record.statistics() == sent.statistics()
            sent = attrs.evolve(sent, statistics=record.statistics)
        assert record == sent
        if hasattr(record, "context"):
            assert isinstance(record.context, Context)
            assert not sent.context
    assert records["turn_ended"].usage == send(records["turn_ended"]).usage == USAGE


KINDS = (
    "pool_opened",
    "dial_ended",
    "connection_closed",
    "lease_granted",
    "lease_ended",
    "turn_begun",
    "turn_ended",
    "tool_begun",
    "tool_ended",
)


def spoil(response: dict[str, Any]) -> None:
    """Change all of it, as deep as it goes."""
    for name in REMARKS:
        if isinstance(value := response[name], dict):
            value.update(dict.fromkeys(value, 0), input_tokens=10**6)
        response[name] = "spoilt" if isinstance(value, str) else value
    response["input_transformations"][0]["id"] = "spoilt"
    response["input_transformations"].clear()
    response["output"].append({"type": "function_call", "name": "spoilt"})
    response["usage"]["input_tokens_details"] = {"cached_tokens": 77}
    response["status"] = "spoilt"


@pytest.mark.parametrize("how", ["conversation", "lease", "brought"])
async def test_what_a_caller_does_to_the_last_event_is_its_own_affair(how: str, autojump_clock) -> None:
    """It is counted, and written down, as the server said it."""
    seen = All()
    budget = wspool.Budget()
    async with (
        fake_pool(answering(), instrument=seen) as pool,
        pool.lease() as lease,
        pool.conversation(model="m", budget=budget) as talk,
    ):
        turns = {
            "conversation": lambda: talk.turn("x"),
            "lease": lambda: lease.create(model="m", input="x"),
            "brought": lambda: pool.turn({"model": "m", "input": "x"}),
        }
        async with turns[how]() as turn:
            async for event in turn:
                if event.type == "response.completed":
                    spoil(event.data["response"])
        if how == "conversation":
            used = wspool.Usage(9, 4, 3)
            assert (used, used) == (budget.spent, talk.statistics().usage)
            assert 1 == talk.statistics().withheld

    record: wspool.TurnRecord = seen.records["turn_ended"]
    assert USAGE == record.usage
    assert REMARKS["prompt_cache_diagnostics"] == record.prompt_cache_diagnostics
    assert REMARKS["input_transformations"] == list(record.input_transformations)
    assert ("completed", "stop", "m-1", "flex") == (
        record.status,
        record.finish_reason,
        record.response_model,
        record.service_tier,
    )
    assert record.content is not None
    assert ["message"] == [item["type"] for item in record.content.output]


@pytest.mark.parametrize(
    ("details", "reason"),
    [
        ({"reason": "max_output_tokens"}, "max_output_tokens"),
        ({"reason": 7}, None),
        ("x", None),
        (None, None),
    ],
)
async def test_why_a_response_is_incomplete(details: Any, reason: str | None, autojump_clock) -> None:
    """As the server says it, if it does in words."""

    def answer(wire: FakeWire, request: dict[str, Any]) -> None:
        end = completed("resp_1")
        end["type"] = "response.incomplete"
        end["response"].update(status="incomplete", incomplete_details=details)
        wire.push(created("resp_1"), end)

    seen = All()
    async with (
        fake_pool(FakeConnector(answer), instrument=seen) as pool,
        pool.conversation(model="m") as talk,
    ):
        await talk.respond("x")
    record: wspool.TurnRecord = seen.records["turn_ended"]
    assert ("incomplete", reason) == (record.status, record.finish_reason)


async def test_what_an_instrument_does_to_a_record_is_its_own_affair(autojump_clock) -> None:
    """Neither what the caller has nor what is counted changes."""

    class Greedy(wspool.Instrument):
        def turn_ended(self, record: wspool.TurnRecord) -> None:
            usage: Any = record.usage
            usage["input_tokens"] = 0
            usage["input_tokens_details"]["cached_tokens"] = 0

    async with fake_pool(answering(), instrument=Greedy()) as pool, pool.conversation(model="m") as talk:
        async with talk.turn("x") as turn:
            response = await turn.result()
        assert USAGE == response.usage
        assert wspool.Usage(9, 4, 3) == talk.statistics().usage


def test_a_response_of_no_dict_is_refused() -> None:
    with pytest.raises(TypeError, match="data must be the response as a dict, not NoneType"):
        wspool.Response(None)  # type: ignore[arg-type] # the point of it
