"""A provider that finds a request too large, by a limit that nobody here knew: it goes on by HTTP."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from tests.helpers import policy
from tests.proxy.asking import scene
from tests.proxy.test_websocket import connected
from wspool.server import EchoModel, Fault, FaultRule, FaultScript, ModelRequest, ModelTurn, message

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


class Curt:
    """Says little, however much it was told."""

    def respond(self, request: ModelRequest) -> ModelTurn:
        return ModelTurn(output=[message("ok")])


async def ask(it: Any, door: str, what: Any = "hi") -> str:
    """Take one turn; return how its response ended."""
    if door == "websocket":
        async with connected(it) as socket:
            await socket.create(what, store=False)
            return str((await socket.answer())["type"])
    answer = await (await it.client()).turn(what, stream=door == "sse")
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
    assert 2 == record.requests
    assert record.bytes_sent == pytest.approx(2 * record.bytes_in, abs=200)


@pytest.mark.parametrize("door", ["sse", "json", "websocket"])
@pytest.mark.parametrize("how", BEGUN)
async def test_what_may_have_run_does_not(autojump_clock, how: str, door: str) -> None:
    faults = FaultScript(FaultRule(BEGUN[how], create=1))
    async with scene(EchoModel(), server={"faults": faults}, policy=policy(max_size=1)) as it:
        assert "response.completed" != await ask(it, door)

    assert ["websocket"] == [entry["transport"] for entry in it.ledger]


@pytest.mark.parametrize("door", ["sse", "json", "websocket"])
@pytest.mark.parametrize("how", SAID)
async def test_the_size_is_remembered(autojump_clock, how: str, door: str) -> None:
    """What is as large goes by HTTP at once, and costs no connection; what is smaller does not.

    After five minutes it is tried again.
    """
    faults = FaultScript(FaultRule(SAID[how], create=1))
    large = "x" * 100_000
    async with scene(Curt(), server={"faults": faults}, policy=policy(max_size=1)) as it:
        for what in (large, large, "hi", large):
            assert "response.completed" == await ask(it, door, what)
        await trio.sleep(301)
        assert "response.completed" == await ask(it, door, large)
        records = await it.records()

    ways = ["http", "http", "websocket", "http", "websocket"]
    assert [*zip(ways, (2, 1, 1, 1, 1), strict=True)] == [(record.way, record.requests) for record in records]


async def test_what_is_small_was_refused_for_something_else(autojump_clock) -> None:
    """Some say 413 of tokens in a minute: that tells nothing of sizes."""
    faults = FaultScript(FaultRule(SAID["413"], create=1))
    async with scene(EchoModel(), server={"faults": faults}, policy=policy(max_size=1)) as it:
        for _ in range(2):
            assert "response.completed" == await ask(it, "sse")
        assert ["http", "websocket"] == [record.way for record in await it.records()]
