"""What a response continues from: the context of the server is the history of the conversation."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

import wspool
from tests.helpers import FakeConnector, FakeWire, completed, created, delta, fake_pool, policy, said


class Counting:
    """A far end that names the responses of each connection by their number, and remembers the latest.

    Attributes:
        contexts: what the model saw, turn by turn: all input and output.
        output: what it answers.
        warms: True if it takes `generate: false` at its word; None if it answers in deltas alone.
    """

    def __init__(self, output: Any = None, *, warms: bool | None = True) -> None:
        self.contexts: list[list[Any]] = []
        self.output = [said("ok")] if output is None else output
        self.warms = warms
        self._memory: dict[FakeWire, tuple[str, list[Any]]] = {}

    def __call__(self, wire: FakeWire, request: dict[str, Any]) -> None:
        id = f"resp_{len(wire.sent)}"
        latest, context = self._memory.get(wire, ("", []))
        seen = [*(context if request.get("previous_response_id") == latest else []), *request["input"]]
        self.contexts.append(seen)
        end = completed(id)
        asked = request.get("generate") is not False
        output = self.output if asked or not self.warms else []
        end["response"]["output"] = output if asked or self.warms is not None else []
        self._memory[wire] = (id, [*seen, *output])
        wire.push(created(id), *([delta("x")] if output else []), end)


@pytest.mark.parametrize("store", [None, False, True])
async def test_a_name_alone_is_no_parent(store, autojump_clock) -> None:
    """The response of that name on another connection is another conversation's."""
    server = Counting()
    connector = FakeConnector(server)
    async with (
        fake_pool(connector, limits=policy(max_size=2)) as pool,
        pool.conversation(model="m", store=store) as one,
        pool.conversation(model="m", store=store) as other,
    ):
        await one.respond("one")
        await other.respond("other")
        connector.wires[0].hang_up()
        await trio.testing.wait_all_tasks_blocked()
        other.close()
        await one.respond("and now?")

        assert 2 == len(connector.wires)
        assert one.items[:-1] == server.contexts[-1]


@pytest.mark.parametrize("warms", [True, False, None])
async def test_a_warm_up_that_was_answered_is_no_parent(warms, autojump_clock) -> None:
    """A provider that ignores `generate` has said what no history knows."""
    server = Counting(warms=warms)
    connector = FakeConnector(server)
    async with fake_pool(connector, limits=policy(min_idle=1, max_size=1), warm_up={"model": "m"}) as pool:
        await pool.wait_ready()
        async with pool.conversation(model="m") as conversation:
            await conversation.respond("q")

            assert conversation.items[:-1] == server.contexts[-1]
        assert bool(warms) is ("previous_response_id" in connector.wire.requests[-1])


async def test_what_a_pool_warms_up_with_is_its_own(autojump_clock) -> None:
    """Whoever changes the body afterwards changes no request."""
    connector = FakeConnector(Counting())
    tool = {"type": "function", "name": "f"}
    body: dict[str, Any] = {"model": "m", "tools": [{**tool}]}
    async with fake_pool(connector, limits=policy(min_idle=1, max_size=1), warm_up=body) as pool:
        body["tools"][0]["name"] = "g"
        await pool.wait_ready()
        async with pool.conversation(model="m", tools=[tool]) as conversation:
            await conversation.respond("q")

    warm, first = connector.wire.requests
    assert [tool] == warm["tools"] == first["tools"]
    assert "resp_1" == first["previous_response_id"]


@pytest.mark.parametrize("store", [None, True])
async def test_what_was_stored_in_part_is_sent_in_full_elsewhere(store, autojump_clock) -> None:
    """A server that stores a response does not store for it what it continues from."""
    connector = FakeConnector(Counting())
    async with fake_pool(connector) as pool, pool.conversation(model="m", store=store) as conversation:
        await conversation.respond("one")
        await conversation.respond("two", store=True)
        connector.wire.hang_up()
        await trio.testing.wait_all_tasks_blocked()
        await conversation.respond("three")

    sent = connector.wires[1].requests[0]
    assert (1 if store else 5) == len(sent["input"])
    assert bool(store) is ("previous_response_id" in sent)


async def test_a_lone_surrogate_and_no_number_that_were_received_are_sent(autojump_clock) -> None:
    """A conversation is not stuck at its next full send for what a server said."""
    connector = FakeConnector(
        lambda wire, request: wire.push(
            created("r"),
            '{"type":"response.completed","response":{"id":"r","status":"completed","output":'
            '[{"type":"message","role":"assistant","content":"\\ud83d","odd":NaN,"odder":1e400}]}}',
        )
    )
    async with fake_pool(connector) as pool, pool.conversation(model="m") as conversation:
        response = await conversation.respond("one")
        connector.wire.hang_up()
        await trio.testing.wait_all_tasks_blocked()
        await conversation.respond("two")

    kept = {"type": "message", "role": "assistant", "content": "\ufffd", "odd": None, "odder": None}
    assert kept == connector.wire.requests[0]["input"][1]
    assert "\ud83d" == response.output[0]["content"], "what it said is shown as it came"


async def test_a_turn_with_numbers_that_json_has_not_is_not_sent(autojump_clock) -> None:
    """Neither in its input nor in its body, nor as a default."""
    connector = FakeConnector(Counting())
    nan: Any = float("nan")
    async with fake_pool(connector) as pool, pool.conversation(model="m") as conversation:
        with pytest.raises(ValueError, match=r"^temperature is nan"):
            await conversation.respond("x", temperature=nan)
        with pytest.raises(ValueError, match=r"^input\[0\]\.content\[1\] is nan"):
            conversation.turn([{"content": ["a", nan]}])
        with pytest.raises(ValueError, match=r"^metadata\.a is nan"):
            await pool.conversation(metadata={"a": nan}).__aenter__()
        async with pool.lease() as lease:
            with pytest.raises(ValueError, match=r"^input\[0\] is nan"):
                lease.create(model="m", input=[nan])
            assert [] == connector.wire.sent
        assert (0, wspool.Response({}).output) == (len(conversation.items), [])
