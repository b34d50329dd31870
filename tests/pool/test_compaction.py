"""`conversation.compact()`: the history becomes what the server made of it, or stays as it was."""

from __future__ import annotations

import json
import traceback
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio
import trio.testing

import wspool
from tests.helpers import CANARY, FakeConnector, echo, fake_pool, policy, serving, user
from wspool.server import EchoModel
from wspool.server.protocol.compaction import unpacked
from wspool.wire.wire import Endpoint


async def test_a_compacted_conversation_goes_on_and_nothing_is_forgotten(autojump_clock) -> None:
    """The next turn sends all of the server's output, and the model sees what it stands for."""
    async with serving(EchoModel(), api_key=CANARY) as world, world.pool() as pool:
        async with pool.conversation(model="m", instructions="Be brief.") as conversation:
            await conversation.respond("one")
            await conversation.respond("two")
            before = conversation.items

            answer = await conversation.compact()
            assert "response.compaction" == answer["object"]
            assert answer["output"] == conversation.items
            assert "compaction" == conversation.items[-1]["type"]

            await conversation.respond("three")
            await conversation.respond("four")

        turns = world.model_turns
        ids = [entry["response_id"] for entry in turns]
        assert [None, ids[0], None, ids[2]] == [entry["previous_response_id"] for entry in turns]
        seen = unpacked(answer["output"])
        assert [*before] == [*seen]
        assert (2, 2) == (conversation.statistics().full_turns, conversation.statistics().delta_turns)


async def test_a_snapshot_after_compaction_goes_on_elsewhere(autojump_clock) -> None:
    """What the server made is sent as it is, by another pool too."""
    async with serving(EchoModel()) as world, world.pool() as pool:
        async with pool.conversation(model="m") as conversation:
            await conversation.respond("one")
            await conversation.compact()
            snapshot = json.loads(json.dumps(conversation.snapshot()))
        async with world.pool() as other, other.conversation(resume=snapshot) as resumed:
            await resumed.respond("two")

            assert snapshot["items"] == resumed.items[:-2]


class HttpConnector(FakeConnector):
    """Fake wires, and an HTTP server that says what the test says."""

    def __init__(self, answer: bytes) -> None:
        super().__init__(echo)
        self.answer = answer
        self.requests: list[dict[str, Any]] = []
        self.nursery: trio.Nursery | None = None

    async def open_stream(self, endpoint: Endpoint) -> trio.abc.Stream:
        near, far = trio.testing.memory_stream_pair()
        assert self.nursery is not None
        self.nursery.start_soon(self._serve, far)
        await trio.lowlevel.checkpoint()
        return near

    async def _serve(self, far: trio.abc.Stream) -> None:
        received = bytearray()
        while True:
            received.extend(await far.receive_some())
            head, _, body = received.partition(b"\r\n\r\n")
            if body.endswith(b"}"):
                break
        assert head.startswith(b"POST /v1/responses/compact HTTP/1.1\r\n")
        self.requests.append(json.loads(body))
        await trio.sleep(1)
        with suppress(trio.BrokenResourceError):  # nobody may want it any more
            await far.send_all(self.answer)
        await far.aclose()


@asynccontextmanager
async def conversing(connector: HttpConnector) -> AsyncGenerator[wspool.Conversation, None]:
    """A conversation with one turn behind it."""
    async with fake_pool(connector, limits=policy(max_size=2)) as pool, trio.open_nursery() as nursery:
        connector.nursery = nursery
        async with pool.conversation(model="m", tools=[], instructions="i") as conversation:
            await conversation.respond("one")
            yield conversation


def http(status: str, value: object, *headers: str) -> bytes:
    """An answer."""
    body = json.dumps(value).encode()
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def test_only_what_the_request_takes_is_sent(autojump_clock) -> None:
    """Model, instructions, the history; tools have no meaning there."""
    connector = HttpConnector(http("200 OK", {"id": "c", "output": [user("x")]}))
    async with conversing(connector) as conversation:
        before = conversation.items
        await conversation.compact(service_tier="flex")

        assert [
            {"model": "m", "instructions": "i", "service_tier": "flex", "input": before}
        ] == connector.requests
        assert [user("x")] == conversation.items


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        (
            http("400 Bad Request", {"error": {"message": "no", "code": "bad"}}),
            wspool.ResponseFailedError,
            "bad",
        ),
        (http("502 Bad Gateway", "<html>"), wspool.ResponseFailedError, "502"),
        (http("200 OK", {"id": "c"}), wspool.TurnLostError, "no list of items"),
        (http("200 OK", {"output": [1]}), wspool.TurnLostError, "no list of items"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n[[[", wspool.TurnLostError, "no list of items"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", wspool.TurnLostError, "cut short"),
    ],
)
async def test_what_goes_wrong_changes_nothing(
    autojump_clock, answer: bytes, error: type[Exception], said: str
) -> None:
    """The history is as it was, and the next turn goes on from its parent."""
    async with conversing(HttpConnector(answer)) as conversation:
        before = conversation.items
        with pytest.raises(error, match=said):
            await conversation.compact()

        assert before == conversation.items
        await conversation.respond("two")
        assert 1 == conversation.statistics().delta_turns


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{",
        b"nonsense",
    ],
)
async def test_no_error_holds_the_key(autojump_clock, answer: bytes) -> None:
    """Not in its text, and not in a variable of a frame that it came through."""
    async with conversing(HttpConnector(answer)) as conversation:
        with pytest.raises(wspool.WsPoolError) as caught:
            await conversation.compact()

        told = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
        assert CANARY not in "".join(told.format())


async def test_a_rate_limit_holds_the_whole_endpoint(autojump_clock) -> None:
    """As the same refusal of a turn would."""
    refused = http("429 Too Many Requests", {"error": {"code": "rate_limit_exceeded"}}, "Retry-After: 20")
    async with conversing(HttpConnector(refused)) as conversation:
        with pytest.raises(wspool.RateLimitedError) as caught:
            await conversation.compact()
        asked_at = trio.current_time()
        await conversation.respond("two")

        assert 20 == caught.value.retry_after
        assert 20 <= trio.current_time() - asked_at < 21


async def test_no_turn_meanwhile_and_a_cancel_changes_nothing(autojump_clock) -> None:
    """One at a time: the history must not grow under the server's hands."""
    connector = HttpConnector(http("200 OK", {"output": [user("x")]}))
    async with conversing(connector) as conversation:
        before = conversation.items
        with trio.move_on_after(0.5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(conversation.compact)
                await trio.testing.wait_all_tasks_blocked()
                with pytest.raises(wspool.TurnInFlightError):
                    await conversation.respond("two")
        assert before == conversation.items
        async with conversation.turn("two"):
            with pytest.raises(wspool.TurnInFlightError):
                await conversation.compact()

    with pytest.raises(wspool.PoolClosedError):
        await conversation.compact()


@pytest.mark.hits("refuse: an errand's dial failed")
async def test_an_endpoint_that_cannot_be_reached(autojump_clock) -> None:
    """Nothing was sent, and the error says what to do."""

    class Unreachable(HttpConnector):
        async def open_stream(self, endpoint: Endpoint) -> trio.abc.Stream:
            await trio.lowlevel.checkpoint()
            raise wspool.wire.wire.ConnectError("localhost refused the connection", phase="tcp")

    async with conversing(Unreachable(b"")) as conversation:
        with pytest.raises(wspool.DialFailedError, match="refused the connection") as caught:
            await conversation.compact()

        assert "not_sent" == caught.value.delivery


@pytest.mark.parametrize("grace", [0.0, 0.5, 5.0])
async def test_a_compaction_ends_with_its_pool(grace: float, autojump_clock) -> None:
    """It has the grace that leases have; then its socket is closed, and who waits for it is told."""
    connector = HttpConnector(http("200 OK", {"output": [user("x")]}))  # a second later
    told: list[wspool.WsPoolError] = []
    async with trio.open_nursery() as nursery, fake_pool(connector, limits=policy(max_size=2)) as pool:
        connector.nursery = nursery
        async with pool.conversation(model="m") as conversation:
            before = conversation.items  # and no connection, whose end would take its time

            async def compact() -> None:
                try:
                    await conversation.compact()
                except wspool.WsPoolError as error:
                    told.append(error)
                conversation.close()

            nursery.start_soon(compact)
            await trio.testing.wait_all_tasks_blocked()
            await pool.aclose(grace=grace)

            assert min(grace, 1.0) == trio.current_time()
            assert not pool._shell.errands.at_work, "closed before its work was"
            if grace > 1:
                assert ([], [user("x")]) == (told, conversation.items)
            else:
                assert ["ambiguous"] == [error.delivery for error in told]
                assert isinstance(told[0], wspool.PoolClosedError)
                assert before == conversation.items
            with pytest.raises(wspool.PoolClosedError) as caught:
                await conversation.compact()
            assert "not_sent" == caught.value.delivery


async def test_a_compaction_ends_with_its_conversation(autojump_clock) -> None:
    """Told at once, and the history is as it was."""
    connector = HttpConnector(http("200 OK", {"output": [user("x")]}))
    async with conversing(connector) as conversation, trio.open_nursery() as nursery:
        before, told = conversation.items, []

        async def compact() -> None:
            with pytest.raises(wspool.PoolClosedError, match="the conversation is closed") as caught:
                await conversation.compact()
            told.append((caught.value.delivery, trio.current_time()))

        nursery.start_soon(compact)
        await trio.sleep(0.5)
        conversation.close()
        await trio.sleep(2)

        assert ([("ambiguous", 0.5)], before) == (told, conversation.items)
