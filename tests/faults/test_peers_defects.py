"""What other clients of this protocol were seen to get wrong: each defect, and that it is not in this one."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import wspool
from wspool.server import EchoModel, Fault, FaultRule, ModelRequest, ModelTurn, Server, open_server
from wspool.wire.wire import Endpoint

from .scene import EVENTS, QUESTION, TAP_PONG, Make, faulty

ALICE = "alice alice alice alice alice alice alice"
BOB = "bob"


class Thinker:
    """Echoes after some seconds of thinking."""

    def __init__(self, delay: float) -> None:
        self._delay = delay

    def respond(self, request: ModelRequest) -> ModelTurn:
        """The echo, late."""
        return ModelTurn(output=EchoModel().respond(request).output, delay=self._delay)


@pytest.mark.parametrize("on_cancel", ["hang_up", "drain"])
async def test_d01_leak_after_cancel(make: Make, on_cancel: str, autojump_clock) -> None:
    """D01: after a cancelled turn its connection serves the next user, who gets the rest of it -> the next
    user gets its own answer and nothing else.
    """
    async with faulty(make, delay_per_token=1, limits={"max_size": 1, "on_cancel": on_cancel}) as scene:
        async with scene.pool.conversation(model="m") as alice:
            with trio.move_on_after(2.5) as scope:
                await scene.ask(ALICE, conversation=alice)
        assert scope.cancelled_caught
        bob = await scene.ask(BOB)
        bob.assert_answer(BOB)
        assert BOB == bob.text
        assert all("alice" not in str(event.raw) for event in bob.events)
        await scene.assert_well(creates=2, connection=1 if on_cancel == "drain" else 2)


@pytest.mark.parametrize("on_cancel", ["hang_up", "drain"])
async def test_d02_leak_between_turns(make: Make, on_cancel: str, autojump_clock) -> None:
    """D02: after a cancelled turn the next one of the same conversation gets the old one's end -> it gets its
    own, and the cancelled turn is not in the history.
    """
    async with (
        faulty(make, delay_per_token=1, limits={"max_size": 1, "on_cancel": on_cancel}) as scene,
        scene.pool.conversation(model="m") as conversation,
    ):
        with trio.move_on_after(2.5):
            await scene.ask(ALICE, conversation=conversation)
        story = await scene.ask(BOB, conversation=conversation)
        story.assert_answer(BOB)
        assert BOB == story.text
        assert 2 == len(conversation.items)
        assert [None, None] == [entry["previous_response_id"] for entry in scene.ledger]


async def test_d02_leak_on_a_lane(make: Make, autojump_clock) -> None:
    """D02: a turn is cancelled on one of several lanes -> its lane is not used until its end has come, and
    the turns beside it notice nothing.
    """
    options: Any = {"limits": {"max_size": 1, "lanes": 2}, "pool_options": {"provider": wspool.OPENAI}}
    stories: dict[str, Any] = {}
    async with faulty(make, delay_per_token=1, **options) as scene:
        (await scene.ask("first")).assert_answer("first")

        async def ask(text: str) -> None:
            stories[text] = await scene.ask(text)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, ALICE)
            with trio.move_on_after(0.5):
                await scene.ask(BOB)
            await ask("third")
        assert {ALICE, "third"} == set(stories)
        for text, story in stories.items():
            story.assert_answer(text)
            assert text == story.text
        assert {"lane0", "lane1"} == {entry["lane"] for entry in scene.ledger}
        assert {1} == {entry["connection"] for entry in scene.ledger}
        assert {1} == {entry["unfinished_on_lane"] for entry in scene.ledger}


async def test_d03_lost_in_flight(make: Make, autojump_clock) -> None:
    """D03: a reconnect loses the response in flight: the iterator waits for ever, or just ends -> an error,
    at once.
    """
    async with faulty(make, Fault("close", at="response.created", after=True, code=1001)) as scene:
        (await scene.ask()).assert_lost("accepted", close_code=1001, events=1)
        await scene.assert_well(creates=1, connection=2)


async def test_d04_serialised_runs(make: Make, autojump_clock) -> None:
    """D04: parallel runs queue on one connection -> sixteen turns of 0.2 s take 0.2 s."""
    async with faulty(make, model=Thinker(0.2)) as scene:
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(16):
                nursery.start_soon(scene.ask)
        assert trio.current_time() - began == pytest.approx(0.2)
        assert 16 == len({entry["connection"] for entry in scene.ledger})


async def test_d05_unrecovered(make: Make, autojump_clock) -> None:
    """D05: the lifetime limit and a forgotten parent reach the user, and cost the connection -> neither
    does, and a forgotten parent costs no handshake.
    """
    faults = FaultRule(Fault("parent_lost"), create=2), FaultRule(Fault("connection_limit"), create=4)
    async with faulty(make, *faults) as scene, scene.pool.conversation(model="m") as conversation:
        for text in ("one", "two", "three"):
            (await scene.ask(text, conversation=conversation)).assert_answer(text)
        assert [1, 1, 1, 1, 2] == [entry["connection"] for entry in scene.ledger]


async def test_d06_serialised_handshakes(make: Make, autojump_clock) -> None:
    """D06: handshakes queue under one lock -> thirty-two cold starts with handshakes of 0.1 s take at
    most 0.2 s, for sixteen go on at once.
    """

    async def slow(server: Server, endpoint: Endpoint) -> trio.abc.Stream:
        await trio.sleep(0.1)
        return await server.open_stream()

    async with faulty(make, open_stream=slow) as scene:
        took: list[float] = []

        async def ask() -> None:
            took.append((await scene.ask()).took)

        async with trio.open_nursery() as nursery:
            for _ in range(32):
                nursery.start_soon(ask)
        assert max(took) <= 0.2 + 1e-6


@pytest.mark.parametrize("name", ["incomplete", "failed", "stream_error"])
async def test_d07_wrong_terminals(make: Make, name: str, autojump_clock) -> None:
    """D07: `response.incomplete` or `response.failed` is not taken for an end, and the client hangs -> every
    end is an end.
    """
    async with faulty(make, Fault(name)) as scene:
        story = await scene.ask()
        assert story.took <= 5
        assert "terminal" == story.delivery


async def test_d08_ping_while_closing(make: Make, autojump_clock) -> None:
    """D08: a ping during our close raises out of the reader and takes everything down -> it is ignored, on
    fifty connections of one pool.
    """
    rule = FaultRule(Fault("ping_after_close"), times=None)
    async with faulty(make, rule, limits={"min_idle": 50}) as scene:
        await scene.pool.wait_ready(50)
        scene.pool.clear()
        await trio.sleep(3)
        assert 50 == scene.closed["cleared"]
        (await scene.ask()).assert_answer(took=0)


async def test_d09_no_pongs_while_busy(make: Make, autojump_clock) -> None:
    """D09: with two unread messages no ping is answered any more -> pings are answered while your code holds
    a whole answer unread.
    """
    async with (
        faulty(make, Fault("ping_flood", at="terminal", count=3, gap=20)) as scene,
        scene.pool.conversation(model="m") as conversation,
        conversation.turn(QUESTION) as turn,
    ):
        await trio.sleep(100)
        assert 3 == scene.taps[0].count(TAP_PONG)
        assert list(EVENTS) == [event.type async for event in turn]


async def test_d10_one_mebibyte(make: Make, autojump_clock) -> None:
    """D10: a last event of more than 1 MiB ends the connection in mid-turn -> up to 64 MiB it is an event."""
    async with faulty(make, Fault("big_terminal", size=3 * 1024 * 1024)) as scene:
        (await scene.ask()).assert_answer()
        await scene.assert_well(creates=1, connection=1)


@pytest.mark.network
async def test_d11_no_proxy(make: Make) -> None:
    """D11: no way through a proxy -> the pool goes through an HTTP proxy that it is told of."""
    asked: list[bytes] = []

    async def tunnel(client: trio.SocketStream) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += await client.receive_some(1)
        asked.append(head.partition(b"\r\n")[0])
        host, _, port = head.split()[1].decode().rpartition(":")
        there = await trio.open_tcp_stream(host, int(port))
        await client.send_all(b"HTTP/1.1 200 OK\r\n\r\n")

        async def pass_on(source: trio.SocketStream, sink: trio.SocketStream) -> None:
            try:
                async for data in source:
                    await sink.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            nursery.cancel_scope.cancel()

        async with client, there, trio.open_nursery() as nursery:
            nursery.start_soon(pass_on, client, there)
            nursery.start_soon(pass_on, there, client)

    with trio.fail_after(10):
        async with open_server(EchoModel()) as server, trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, tunnel, [listener])
            proxy = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
            limits = wspool.PoolPolicy(min_idle=0)
            async with (
                wspool.open_pool(server.url, wire=make(), proxy=proxy, policy=limits) as pool,
                pool.conversation(model="m") as conversation,
            ):
                assert BOB == (await conversation.respond(BOB)).output_text
            nursery.cancel_scope.cancel()
        assert [f"CONNECT {server.url[5:-13]} HTTP/1.1".encode()] == asked


async def test_d12_idle_without_pongs(make: Make, autojump_clock) -> None:
    """D12: the server pings an idle connection, and ends it with 1011 for want of a pong -> pings are
    answered when nobody has a turn.
    """
    async with faulty(make, Fault("ping_flood", at="idle", count=10, gap=20)) as scene:
        (await scene.ask()).assert_answer()
        await trio.sleep(201)
        assert 10 == scene.taps[0].count(TAP_PONG)
        await scene.assert_well(creates=1, connection=1)


async def test_d13_capacity_leak(make: Make, autojump_clock) -> None:
    """D13: each connection that dies while it is held costs capacity for ever -> it costs none."""
    async with faulty(make, *[Fault("reset")] * 10, limits={"max_size": 2}) as scene:
        for _ in range(10):
            # That so many die with nothing done is an outage as well, and new ones are not dialled at once.
            (await scene.ask()).assert_lost("accepted", close_code=1006, took=30.0)
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(scene.ask)
        assert 14 == scene.server.statistics().creates
        scene.assert_quiet()
        assert 2 == scene.pool.statistics().size


async def test_d14_no_margin(make: Make, autojump_clock) -> None:
    """D14: a turn is started shortly before the lifetime limit, and cut -> it starts elsewhere if less than
    `turn_reserve` (300 s) is left.
    """
    async with (
        faulty(make, model=Thinker(290), limit_mode="silent_close") as scene,
        scene.pool.conversation(model="m") as conversation,
    ):
        for number in range(30):
            text = f"number {number}"
            (await scene.ask(text, conversation=conversation)).assert_answer(text)
            await trio.sleep(97)
        assert {"completed"} == {entry["outcome"] for entry in scene.ledger}
        assert 4 == conversation.statistics().full_turns


async def test_d15_incomplete_costs_the_connection(make: Make, autojump_clock) -> None:
    """D15: an answer cut at its length limit closes the connection -> it is kept, and the next turn continues
    from that answer.
    """
    async with (
        faulty(make, Fault("incomplete")) as scene,
        scene.pool.conversation(model="m") as conversation,
    ):
        assert "incomplete" == (await conversation.respond("one")).status
        assert "completed" == (await conversation.respond("two")).status
        assert [1, 1] == [entry["connection"] for entry in scene.ledger]
        assert scene.ledger[0]["response_id"] == scene.ledger[1]["previous_response_id"]


async def test_d16_one_lineage_for_all(make: Make, autojump_clock) -> None:
    """D16: parallel conversations share one parent, or interleave on one connection -> each has its own
    history, and its own turn.
    """
    async with faulty(make, delay_per_token=0.1, limits={"max_size": 2}) as scene:
        done: list[list[dict[str, Any]]] = []

        async def talk(name: str) -> None:
            async with scene.pool.conversation(model="m") as conversation:
                for turn in range(3):
                    text = f"{name} {turn}"
                    (await scene.ask(text, conversation=conversation)).assert_answer(text)
                assert all(name in str(item) for item in conversation.items)
                done.append(conversation.items)

        async with trio.open_nursery() as nursery:
            for name in ("ann", "ben", "cleo", "dan", "eve"):
                nursery.start_soon(talk, name)
        await wait_all_tasks_blocked()
        assert [6] * 5 == [len(items) for items in done]
        assert all(1 == entry["unfinished_on_lane"] for entry in scene.ledger)
