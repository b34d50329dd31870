"""What it costs to leave in which phase, the same at each door; what a connection that stays can count on."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from tests.proxy.asking import KEY, Scene, scene
from tests.proxy.test_websocket import connected
from wspool.proxy import Settings
from wspool.proxy.records.record import Record
from wspool.server import EchoModel, ModelRequest, ModelTurn, message
from wspool.wire.trio_websocket import TrioWebSocketConnector

DOORS = ("sse", "json", "websocket")


class Thinks:
    """For ten seconds."""

    def respond(self, request: ModelRequest) -> ModelTurn:
        return ModelTurn(output=[message("a b c")], delay=10)


async def leave(it: Scene, door: str, after: float) -> None:
    """Ask at *door*, and hang up."""
    if door == "websocket":
        async with connected(it, headers=[KEY]) as client:
            await client.create("hi")
            await trio.sleep(after)
            await trio.aclose_forcefully(client.stream)
    else:
        http = await it.client()
        await http.send("POST", "/v1/responses", {"model": "m", "input": "hi", "stream": door == "sse"})
        await trio.sleep(after)
        await trio.aclose_forcefully(http.stream)


async def nowhere(endpoint: object = None) -> trio.abc.Stream:
    """Dial what never answers."""
    await trio.sleep_forever()
    raise AssertionError("forever")


@pytest.mark.parametrize("door", DOORS)
async def test_to_leave_before_it_was_sent_costs_nothing(autojump_clock, door: str) -> None:
    """While there is no connection yet; the record says how long that was waited for."""
    async with scene(EchoModel(), wire=TrioWebSocketConnector(nowhere)) as it:
        await leave(it, door, 5)
        await trio.sleep(1)
        (record,) = await it.records()
        assert not it.ledger

    assert ("left", None, 0, None, False) == told(record)
    assert 0.0 == record.line
    assert record.dial == pytest.approx(5, abs=0.5)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("policy", ["drain", "abandon"])
async def test_to_leave_while_it_thinks_costs_the_turn(autojump_clock, door: str, policy: Any) -> None:
    """Which is read to its end for its tokens, or given up: then nobody knows them."""
    async with scene(Thinks(), settings=Settings(on_hangup=policy)) as it:
        await leave(it, door, 5)
        await trio.sleep(60)
        (record,) = await it.records()
        assert 1 == len(it.ledger)

    assert ("left", None, 1, "websocket", policy == "drain") == told(record)
    assert (record.usage is not None) == (policy == "drain")


def told(record: Record) -> tuple[object, ...]:
    return record.outcome, record.error, record.requests, record.way, record.drained


async def test_a_connection_is_kept_for_as_long_as_clients_keep_theirs(autojump_clock) -> None:
    """Or it would be gone in the moment that one asks again."""
    async with scene(EchoModel()) as it:
        client = await it.client()
        for _ in range(3):
            assert 200 == (await client.turn()).status
            await trio.sleep(74)


class Sees:
    """What it is asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def respond(self, request: ModelRequest) -> ModelTurn:
        self.asked.append(request.body["input"])
        return ModelTurn(output=[message("ok")])


async def test_an_order_to_compact_goes_as_it_came(autojump_clock) -> None:
    """It is an item as others are: in the first request, and behind what is not sent again."""
    trigger, model = {"type": "compaction_trigger", "some": {"field": [1]}}, Sees()
    history: list[Any] = [{"role": "user", "content": "hi"}]
    async with scene(model) as it:
        client = await it.client()
        history += [*(await client.turn(history)).json["output"], trigger]
        await client.turn(history)
        await (await it.client()).turn([{"role": "user", "content": "other"}, trigger])

    assert [trigger] == model.asked[1]
    assert trigger == model.asked[2][-1]
