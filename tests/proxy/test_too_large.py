"""A provider that finds a request too large, by a limit that nobody here knew: it goes on by HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers import policy
from tests.proxy.asking import scene
from tests.proxy.test_websocket import connected
from wspool.server import EchoModel, Fault, FaultRule, FaultScript

#: What providers say then.
SAID = {
    "1009": Fault("close", at="receipt", code=1009, reason="message too big"),
    "413": Fault("error", at="receipt", status=413, code="request_too_large", type="invalid_request_error"),
}

#: What says the same, and no proof of anything: it was begun, or it is another word.
BEGUN = {
    "1009": Fault("close", at="delta", code=1009, reason="message too big"),
    "413": Fault("error", at="delta", status=413, code="request_too_large", type="invalid_request_error"),
    "1011": Fault("close", at="receipt", code=1011),
}


async def ask(it: Any, door: str) -> str:
    """Take one turn; return how its response ended."""
    if door == "websocket":
        async with connected(it) as socket:
            await socket.create("hi")
            return str((await socket.answer())["type"])
    answer = await (await it.client()).turn("hi", stream=door == "sse")
    if answer.status != 200:
        return str(answer.status)
    return answer.types[-1] if door == "sse" else f"response.{answer.json['status']}"


@pytest.mark.parametrize("door", ["sse", "json", "websocket"])
@pytest.mark.parametrize("how", SAID)
async def test_what_the_provider_finds_too_large_goes_on_by_http(autojump_clock, how: str, door: str) -> None:
    """Once, whatever the pool may send again by itself."""
    faults = FaultScript(FaultRule(SAID[how], create=1))
    limits = policy(max_size=1, replay="always")
    async with scene(EchoModel(), server={"faults": faults}, policy=limits) as it:
        assert "response.completed" == await ask(it, door)
        (record,) = await it.records()

    assert [("http", "completed")] == [
        (entry["transport"], entry["outcome"]) for entry in it.ledger if entry["outcome"] == "completed"
    ]
    assert 1 == sum(entry["transport"] == "http" for entry in it.ledger)
    assert ("http", "completed", None) == (record.way, record.outcome, record.error)


@pytest.mark.parametrize("door", ["sse", "json", "websocket"])
@pytest.mark.parametrize("how", BEGUN)
async def test_what_may_have_run_does_not(autojump_clock, how: str, door: str) -> None:
    faults = FaultScript(FaultRule(BEGUN[how], create=1))
    async with scene(EchoModel(), server={"faults": faults}, policy=policy(max_size=1)) as it:
        assert "response.completed" != await ask(it, door)

    assert ["websocket"] == [entry["transport"] for entry in it.ledger]
