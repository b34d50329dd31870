"""A history is sent again in a form that is taken, can be edited, and may begin where only a server knows."""

from __future__ import annotations

import logging
from typing import Any

import attrs
import pytest
import trio
import trio.testing

import wspool
import wspool.server
from tests.helpers import (
    FakeConnector,
    FakeWire,
    completed,
    created,
    error_frame,
    fake_pool,
    said,
    serving,
    user,
)
from wspool.server import Entry, ModelRequest, ModelTurn, message, open_server

THOUGHT: dict[str, Any] = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gA"}
CALL: dict[str, Any] = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
OUTPUT: dict[str, Any] = {"type": "function_call_output", "call_id": "c1", "output": "x"}

STORES = attrs.evolve(wspool.OPENAI, lanes=1)
KEEPS_NOTHING = attrs.evolve(STORES, stores_by_default=False)


class Server:
    """A far end with given outputs, that knows some responses wherever they were made.

    Attributes:
        known: the parents that it knows.
    """

    def __init__(self, *outputs: list[Any], known: tuple[str, ...] = ()) -> None:
        self.known = set(known)
        self._outputs = list(outputs)
        self._count = 0

    def __call__(self, wire: FakeWire, request: dict[str, Any]) -> None:
        parent = request.get("previous_response_id")
        if parent is not None and parent not in self.known:
            return wire.push(error_frame("previous_response_not_found"))
        self._count += 1
        id = f"resp_{self._count}"
        self.known.add(id)
        end = completed(id)
        end["response"]["output"] = self._outputs.pop(0) if self._outputs else [said("ok")]
        return wire.push(created(id), end)


async def lose(connector: FakeConnector, server: Server | None = None) -> None:
    """The connection ends, and with *server* all that it knew."""
    connector.wire.hang_up()
    if server is not None:
        server.known.clear()
    await trio.testing.wait_all_tasks_blocked()


@pytest.mark.parametrize("store", [None, False, True])
@pytest.mark.parametrize("stores", [False, True])
async def test_a_parent_is_trusted_elsewhere_where_it_is_kept(stores, store, autojump_clock) -> None:
    """Because it was asked for, or because the provider does unless it is told not to."""
    connector = FakeConnector(Server())
    fields: dict[str, Any] = {} if store is None else {"store": store}
    async with (
        fake_pool(connector, provider=STORES if stores else KEEPS_NOTHING) as pool,
        pool.conversation(model="m", **fields) as conversation,
    ):
        await conversation.respond("one")
        await lose(connector)
        await conversation.respond("two")
        await lose(connector)
        again = conversation.snapshot()
    async with (
        fake_pool(connector, provider=STORES) as pool,
        pool.conversation(resume=again) as conversation,
    ):
        await conversation.respond("three")

    kept = bool(store or (store is None and stores))
    parents = [wire.requests[0].get("previous_response_id") for wire in connector.wires]
    assert [None, "resp_1", "resp_2"] == parents if kept else [None] * 3 == parents
    assert [1, 1, 1] if kept else [1, 3, 5] == [len(wire.requests[0]["input"]) for wire in connector.wires]


async def test_a_provider_that_nobody_named_keeps_nothing_unasked(autojump_clock) -> None:
    """It may count its responses anew on each connection."""
    connector = FakeConnector(Server())
    async with fake_pool(connector) as pool, pool.conversation(model="m") as conversation:
        await conversation.respond("one")
        await lose(connector)
        await conversation.respond("two")
    assert "previous_response_id" not in connector.wire.requests[0]


async def test_a_conversation_goes_on_from_a_response(autojump_clock) -> None:
    """It is named first, then each turn's own; after a loss it is named again, with all that came since."""
    server = Server(known=("resp_old",))
    connector = FakeConnector(server)
    async with (
        fake_pool(connector) as pool,
        pool.conversation(model="m", store=False, previous_response_id="resp_old") as conversation,
    ):
        await conversation.respond("one")
        await conversation.respond("two")
        await lose(connector)
        await conversation.respond("three")
        snapshot = conversation.snapshot()
        items = conversation.items
    async with fake_pool(connector) as pool, pool.conversation(resume=snapshot) as conversation:
        await conversation.respond("four")

    requests = [request for wire in connector.wires for request in wire.requests]
    assert ["resp_old", "resp_1", "resp_old", "resp_old"] == [
        each["previous_response_id"] for each in requests
    ]
    assert [1, 1, 5, 7] == [len(each["input"]) for each in requests]
    assert [user("one"), said("ok"), user("two"), said("ok"), user("three"), said("ok")] == items


@pytest.mark.parametrize("snapshot", [False, True])
async def test_what_the_server_does_not_know_nobody_can_continue(snapshot, autojump_clock) -> None:
    """Never with a fragment: the error says so, nothing ran, and the conversation is as it was."""
    connector = FakeConnector(Server())
    fragment = {"version": 1, "items": [user("lost")], "parent": "resp_old", "parent_stored": True}
    begin: dict[str, Any] = {"resume": fragment} if snapshot else {"previous_response_id": "resp_old"}
    async with fake_pool(connector) as pool, pool.conversation(model="m", **begin) as conversation:
        before = conversation.items
        for _ in range(2):
            with pytest.raises(wspool.PreviousResponseNotFoundError) as caught:
                await conversation.respond("one")
        assert before == conversation.items
        assert caught.value.delivery == "terminal"

    sent = connector.wire.requests
    assert [("resp_old", [user("one")])] * 2 == [
        (each["previous_response_id"], each["input"]) for each in sent
    ]


async def test_when_the_server_forgets_a_root_midway_nobody_can_continue(autojump_clock) -> None:
    """The turns since are not all of it."""
    server = Server(known=("resp_old",))
    connector = FakeConnector(server)
    async with (
        fake_pool(connector) as pool,
        pool.conversation(model="m", previous_response_id="resp_old") as conversation,
    ):
        await conversation.respond("one")
        await lose(connector, server)
        with pytest.raises(wspool.PreviousResponseNotFoundError):
            await conversation.respond("two")
        assert 2 == len(conversation.items)


async def test_one_conversation_has_one_beginning(autojump_clock) -> None:
    """A snapshot or a response; the response is one."""
    async with fake_pool(FakeConnector(Server())) as pool:
        with pytest.raises(ValueError, match="from one of them"):
            pool.conversation(resume={}, previous_response_id="resp_1")
        with pytest.raises(ValueError, match="no id of a response"):
            pool.conversation(previous_response_id="")


async def test_an_edited_history_is_sent_in_full(autojump_clock) -> None:
    """Also on the connection that has the response."""
    connector = FakeConnector(Server([THOUGHT, CALL], [said("done")]))
    async with fake_pool(connector) as pool, pool.conversation(model="m") as conversation:
        await conversation.respond("one")
        await conversation.respond([OUTPUT])
        conversation.edit([item for item in conversation.items if item.get("type") != "reasoning"])
        assert [user("one"), CALL, OUTPUT, said("done")] == conversation.items
        await conversation.respond("two")
        conversation.edit([])
        await conversation.respond("three")

    third, fourth = connector.wire.requests[2:]
    assert [user("one"), CALL, OUTPUT, said("done"), user("two")] == third["input"]
    assert [user("three")] == fourth["input"]
    assert "previous_response_id" not in third
    assert "previous_response_id" not in fourth


async def test_when_no_history_can_be_edited(autojump_clock) -> None:
    """In a turn, once closed, and with what is none; nothing has changed then."""
    connector = FakeConnector(Server())
    async with fake_pool(connector) as pool:
        async with pool.conversation(model="m") as conversation:
            await conversation.respond("one")
            before = conversation.items
            async with conversation.turn("two"):
                with pytest.raises(wspool.TurnInFlightError):
                    conversation.edit([])
            for odd in ("text", [7], [{"x": float("nan")}]):
                with pytest.raises((TypeError, ValueError)):
                    conversation.edit(odd)  # type: ignore[arg-type] # that is what is tested
            assert before == conversation.items
        with pytest.raises(wspool.PoolClosedError):
            conversation.edit([])


async def test_what_is_not_sent_as_it_came_is_said_once(autojump_clock, caplog) -> None:
    """And stays in the history."""
    nan = {**said("x"), "logprobs": float("nan")}
    connector = FakeConnector(Server([nan], [{**CALL, "name": ""}], [THOUGHT]))
    caplog.set_level(logging.WARNING, "wspool.pool")
    async with fake_pool(connector) as pool, pool.conversation(model="m", store=False) as conversation:
        await conversation.respond("one")
        assert ["null and U+FFFD"] == [record.message[-15:] for record in caplog.records]
        await conversation.respond("two")
        await conversation.respond([OUTPUT])
        for text in ("three", "four"):
            await lose(connector)
            await conversation.respond(text)
        assert THOUGHT in conversation.items
        assert {**CALL, "name": ""} in conversation.items

    sent = connector.wire.requests[0]["input"]
    assert THOUGHT not in sent
    assert {**CALL, "name": "unnamed"} in sent
    assert [f"conversation {conversation.number}, in what is sent of its history: "] * 3 == [
        record.message.partition(": ")[0] + ": " for record in caplog.records
    ]


class Historian:
    """Says how many items it saw."""

    def respond(self, request: ModelRequest) -> ModelTurn:
        return ModelTurn(output=[message(str(len(request.context)))])


@pytest.mark.network
async def test_a_compaction_covers_what_only_the_server_knows() -> None:
    """It is told where the history begins; what comes of it is all there is."""
    ledger: list[Entry] = []
    async with (
        open_server(Historian(), ledger=ledger) as server,
        wspool.open_pool(server.url) as pool,
        pool.conversation(model="m") as first,
    ):
        root = await first.respond("one")
        async with pool.conversation(model="m", previous_response_id=root.id) as second:
            assert (await second.respond("two")).output_text == "3"
            await second.compact()
            assert (await second.respond("three")).output_text == "5"
    assert [None, root.id, None] == [entry["previous_response_id"] for entry in ledger]


class Picky(Server):
    """A far end that does not take some fields."""

    def __init__(self, **refused: str) -> None:
        super().__init__()
        self._refused = refused

    def __call__(self, wire: FakeWire, request: dict[str, Any]) -> None:
        for name, code in self._refused.items():
            if name in request:
                frame = error_frame(code)
                frame["error"]["param"] = name
                return wire.push(frame)
        return super().__call__(wire, request)


async def test_encrypted_reasoning_is_asked_for_once_where_there_is_none(autojump_clock, caplog) -> None:
    """Once for each model: the refused turn goes again without asking, and no other turn asks."""
    connector = FakeConnector(Picky(include="unsupported_parameter"))
    async with fake_pool(connector) as pool:
        for _ in range(2):
            async with pool.conversation(model="m", store=False) as conversation:
                await conversation.respond("one")
                await conversation.respond("two")
        async with pool.conversation(
            model="other", store=False, include=["reasoning.encrypted_content", "x"]
        ) as conversation:
            with pytest.raises(wspool.ResponseFailedError):  # what else was asked for is the caller's
                await conversation.respond("three")
        with pytest.raises(wspool.ResponseFailedError):
            async with pool.lease() as lease, lease.create(model="m", include=["x"]) as turn:
                await turn.result()

    requests = [request for wire in connector.wires for request in wire.requests]
    asked = [["reasoning.encrypted_content"], None, None, None, None]
    assert [*asked, ["reasoning.encrypted_content", "x"], ["x"], ["x"]] == [
        request.get("include") for request in requests
    ]
    assert [1] * 8 == [len(request["input"]) for request in requests[:7]] + [len(connector.wires)]
    assert 1 == len([record for record in caplog.records if "encrypted reasoning" in record.message])


async def test_a_root_where_no_parent_is_taken(autojump_clock) -> None:
    """Nothing else says the same: each time the error says what to do, and nothing is lost. Who begins with
    all items goes on.
    """
    connector = FakeConnector(Picky(previous_response_id="unsupported_parameter"))
    async with fake_pool(connector) as pool:
        async with pool.conversation(model="m", previous_response_id="resp_0") as conversation:
            for _ in range(2):
                with pytest.raises(
                    wspool.PreviousResponseNotFoundError, match="takes no previous_response_id"
                ) as caught:
                    await conversation.respond("one")
                assert ("terminal", False) == (caught.value.delivery, caught.value.may_pass)
                assert [] == conversation.items
            snapshot = conversation.snapshot()
        async with pool.conversation(model="m") as plain:
            for text in ("one", "two", "three"):
                await plain.respond(text)
        async with pool.conversation(resume=snapshot) as again:
            with pytest.raises(wspool.PreviousResponseNotFoundError):
                await again.respond("one")
            assert "resp_0" == again.snapshot()["root"]

    parents = [request.get("previous_response_id") for request in connector.wire.requests]
    assert ["resp_0", "resp_0", None, "resp_1", None, None, "resp_0"] == parents


class Verbose:
    """Calls a tool by an id of 70 characters, until it has three outputs."""

    def respond(self, request: ModelRequest) -> ModelTurn:
        count = sum("output" in item for item in request.context)
        call = {"type": "function_call", "call_id": f"{count}" * 70, "name": "f", "arguments": "{}"}
        return ModelTurn(output=[message("done") if count == 3 else call])


async def test_an_id_that_its_own_server_does_not_take_goes_wrong_once(autojump_clock) -> None:
    """The refused answer is sent in full, where both get another id; from then on each is, at once."""

    async def work() -> str:
        await trio.lowlevel.checkpoint()
        return "x"

    async with (
        serving(Verbose(), profile=wspool.server.OPENAI) as world,
        world.pool() as pool,
        pool.conversation(model="m", store=False) as conversation,
    ):
        response = await conversation.run("go", tools={"f": work})
        assert "done" == response.output_text
        await conversation.respond("and more")
    assert ["string_above_max_length"] == [
        entry["error_code"] for entry in world.ledger if entry["error_code"] is not None
    ]
    parents = [entry["previous_response_id"] is not None for entry in world.ledger]
    assert [False, True, False, False, False, True] == parents
