"""WebSocket in, pool out: order, lanes, raw events, errors as they came; and a client that is gone costs its
turns only."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest
import trio

from tests.helpers import (
    LIMIT_FRAME,
    FakeConnector,
    FakeWire,
    Recorder,
    assert_conserved,
    completed,
    created,
    delta,
    echo,
    error_frame,
    fake_pool,
    policy,
    serving,
    user,
)
from tests.proxy.talking import PoolWay, talking
from wspool import OPENAI
from wspool.proxy.sockets.lanes import SocketLimits
from wspool.server import OPENAI as OPENAI_SERVER, EchoModel, ModelRequest, ModelTurn, message
from wspool.server.line import MemoryEnd


def text_of(said: dict[str, Any]) -> str:
    """What the response in a terminal event says."""
    return str(said["response"]["output"][-1]["content"][0]["text"])


# -- one turn after the other ----------------------------------------------------------------------


async def test_a_client_goes_on_from_what_it_names(autojump_clock) -> None:
    """Its own delta goes as it is, to the lane that holds the response: nothing needs to be stored."""
    async with serving(EchoModel()) as world, world.pool() as pool, talking(pool) as (client, _):
        await client.create("one", store=False)
        first = await client.answer()
        await client.create("two", store=False, previous_response_id=first["response"]["id"])
        second = await client.answer()
        assert 0 == pool.statistics().leased

    assert first["response"]["id"] == second["response"]["previous_response_id"]
    assert [(1, None), (1, "lane")] == [
        (entry["input_items"], entry["parent_from"]) for entry in world.ledger
    ]


async def test_many_clients_find_their_own_lanes(autojump_clock) -> None:
    """Eight clients on eight connections, in any order: all go on where they were."""
    async with serving(EchoModel(), delay_per_token=0.1) as world, world.pool() as pool:
        async with trio.open_nursery() as nursery:

            async def talk(number: int) -> None:
                async with talking(pool) as (client, _):
                    parent: dict[str, Any] = {}
                    for turn in range(5):
                        await client.create(f"{number} {turn}", store=False, **parent)
                        answer = await client.answer()
                        assert "response.completed" == answer["type"], answer
                        parent = {"previous_response_id": answer["response"]["id"]}
                        await trio.sleep(number % 3)

            for number in range(8):
                nursery.start_soon(talk, number)
        assert_conserved(pool.statistics())

    assert 32 == sum(entry["parent_from"] == "lane" for entry in world.ledger)


async def test_events_come_as_the_provider_sent_them(autojump_clock) -> None:
    """To the byte, in order."""
    raw = '{"type":"response.output_text.delta",  "delta":"é\\u00e9"}'

    def answer(wire: FakeWire, _: dict[str, Any]) -> None:
        wire.push(created("resp_1"), raw, completed("resp_1"))

    async with fake_pool(FakeConnector(answer)) as pool, talking(pool) as (client, _):
        await client.create()
        await client.answer()

    assert [json.dumps(created("resp_1")), raw, json.dumps(completed("resp_1"))] == client.raw


async def test_a_warm_up_is_one_for_the_provider(autojump_clock) -> None:
    """`generate: false` goes as it is, and its response can be gone on from."""
    async with serving(EchoModel()) as world, world.pool() as pool, talking(pool) as (client, _):
        await client.create([user("system")], generate=False, store=False)
        warm = await client.answer()
        assert [] == warm["response"]["output"]
        await client.create("now", store=False, previous_response_id=warm["response"]["id"])
        assert "now" in text_of(await client.answer())

    assert [False, True] == [entry["generate"] for entry in world.ledger]
    assert "lane" == world.ledger[1]["parent_from"]


async def test_one_lane_is_one_turn_at_a_time_in_order(autojump_clock) -> None:
    """As the provider has it: the second waits for the first."""
    async with (
        serving(EchoModel(), delay_per_token=1) as world,
        world.pool() as pool,
        talking(pool) as (client, _),
    ):
        for text in ("one", "two", "three"):
            await client.create(text)
        answers = [text_of(await client.answer()) for _ in range(3)]

    assert ["one", "two", "three"] == answers
    kinds = [said["type"] for said in client.said]
    starts = [index for index, kind in enumerate(kinds) if kind == "response.created"]
    ends = [index for index, kind in enumerate(kinds) if kind == "response.completed"]
    assert starts[1] > ends[0]
    assert starts[2] > ends[1]


# -- lanes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("lanes", [1, 4])
async def test_lanes_of_a_client_are_spread_and_named_as_it_names_them(autojump_clock, lanes: int) -> None:
    """At once, whether the pool has lanes of its own or connections only."""
    async with serving(EchoModel(), profile=OPENAI_SERVER, delay_per_token=5) as world:
        limits = policy(max_size=6, lanes=lanes)
        async with world.pool(limits=limits, provider=OPENAI) as pool, talking(pool) as (client, _):
            await client.create("warm")
            await client.answer()
            began = trio.current_time()
            for name in ("a", "b", "c.-_", None):
                await client.create(f"for {name}", **({} if name is None else {"stream_id": name}))
            await client.until(lambda: len(client.ends) == 5)
            took = trio.current_time() - began

    assert took < 30, "they ran one after the other"
    for name in ("a", "b", "c.-_", None):
        of_lane = [said for said in client.said if said.get("stream_id") == name]
        assert f"for {name}" == text_of(of_lane[-1])
        assert {name} == {said.get("stream_id") for said in of_lane}
    assert "stream_id" not in client.raw[0]


async def test_no_more_turns_at_once_than_a_client_may(autojump_clock) -> None:
    """The others wait, and are refused where too many do."""
    limits = SocketLimits(max_turns=2, max_waiting=3)
    async with (
        serving(EchoModel(), delay_per_token=5) as world,
        world.pool() as pool,
        talking(pool, limits) as (client, _),
    ):
        for number in range(6):
            await client.create("hi", stream_id=f"n{number}")
        refused = await client.next()
        assert (429, "websocket_queue_full") == (refused["status"], refused["error"]["code"])
        assert "n5" == refused["stream_id"]
        assert 2 == pool.statistics().leased + pool.statistics().waiting
        await client.until(lambda: len(client.ends) == 6)
        assert {f"n{number}" for number in range(5)} == {said["stream_id"] for said in client.ends[1:]}

    assert 5 == len(world.ledger)


async def test_what_waits_of_a_client_is_bounded_in_bytes(autojump_clock) -> None:
    """However few there are."""
    limits = SocketLimits(max_turns=1, max_waiting_bytes=1000)
    async with (
        serving(EchoModel(), delay_per_token=5) as world,
        world.pool() as pool,
        talking(pool, limits) as (client, _),
    ):
        await client.create("hi")
        await client.create("x" * 600)
        await client.create("y" * 600)
        assert "websocket_queue_full" == (await client.answer())["error"]["code"]
        await client.answer()
        await client.answer()
        await client.create("y" * 600)
        assert "y" * 600 == text_of(await client.answer())


# -- errors ----------------------------------------------------------------------------------------


async def test_an_error_of_the_provider_is_passed_on_as_it_came(autojump_clock) -> None:
    """No code is renamed, on the lane that it is about; and the socket goes on."""
    frame = {**error_frame("previous_response_not_found", param="previous_response_id"), "odd": [1]}

    def answer(wire: FakeWire, request: dict[str, Any]) -> None:
        if "previous_response_id" in request:
            wire.push(frame)
        else:
            echo(wire, request)

    async with fake_pool(FakeConnector(answer)) as pool, talking(pool) as (client, _):
        await client.create(previous_response_id="resp_x")
        assert frame == await client.next()
        await client.create(previous_response_id="resp_x", stream_id="a")
        assert {**frame, "stream_id": "a"} == await client.next()
        await client.create()
        assert "response.completed" == (await client.answer())["type"]


async def test_a_response_that_is_cut_ends_with_an_end(autojump_clock) -> None:
    """With the next number, for the response that began; nothing runs twice."""

    def answer(wire: FakeWire, _: dict[str, Any]) -> None:
        wire.push({**created("resp_1"), "sequence_number": 0}, {**delta("x"), "sequence_number": 1})
        wire.hang_up(1011)

    connector = FakeConnector(answer)
    async with fake_pool(connector) as pool, talking(pool) as (client, _):
        await client.create(stream_id="a")
        said = await client.answer("a")

    assert ("response.failed", "resp_1", 2) == (said["type"], said["response"]["id"], said["sequence_number"])
    assert said["response"]["error"]["code"]
    assert 1 == sum(len(wire.sent) for wire in connector.wires)


async def test_the_ends_of_connections_are_not_the_clients(autojump_clock) -> None:
    """A limit before anything began, 1011 between turns: the client sees answers only."""
    seen: list[int] = []

    def answer(wire: FakeWire, request: dict[str, Any]) -> None:
        seen.append(1)
        if len(seen) == 1:
            wire.push(LIMIT_FRAME)
        else:
            echo(wire, request)
            if len(seen) == 2:
                wire.hang_up(1011)

    async with fake_pool(FakeConnector(answer)) as pool, talking(pool) as (client, _):
        for _ in range(3):
            await client.create()
            assert "response.completed" == (await client.answer())["type"]
            await trio.sleep(100)

    assert None is client.closed or 1006 == client.closed
    assert {"response.created", "response.output_text.delta", "response.completed"} == {
        said["type"] for said in client.said
    }


@pytest.mark.parametrize(
    ("sent", "code", "param"),
    [
        ("no json", None, None),
        ("[1]", None, None),
        ('{"type":"response.create","input":' + "[" * 100_000, None, None),
        (b"\x00", None, None),
        ('{"type":"response.cancel"}', None, "type"),
        ('{"no":"type"}', None, "type"),
        ('{"type":"response.create","stream_id":""}', "invalid_stream_id", "stream_id"),
        ('{"type":"response.create","stream_id":7}', "invalid_stream_id", "stream_id"),
        ('{"type":"response.create","stream_id":"ä"}', "invalid_stream_id", "stream_id"),
        ('{"type":"response.create","model":"m","background":true}', None, None),
        ('{"type":"response.create","model":"m","input":5}', None, None),
        ('{"type":"response.create","model":"m","input":"x","temperature":NaN}', None, None),
    ],
)
async def test_a_request_that_is_wrong_is_answered(autojump_clock, sent: Any, code: Any, param: Any) -> None:
    """In the provider's shape, and the socket goes on."""
    connector = FakeConnector(echo)
    async with fake_pool(connector) as pool, talking(pool) as (client, _):
        await client.send(sent)
        said = await client.next()
        assert ("error", 400) == (said["type"], said["status"])
        assert ("invalid_request_error", code, param) == (
            said["error"]["type"],
            said["error"]["code"],
            said["error"].get("param"),
        )
        await client.create()
        assert "response.completed" == (await client.answer())["type"]

    assert 1 == sum(len(wire.sent) for wire in connector.wires)


async def test_a_message_that_is_too_big_ends_the_socket(autojump_clock) -> None:
    """As the provider has it: 1009, however it is cut."""
    async with (
        fake_pool(FakeConnector(echo)) as pool,
        talking(pool, SocketLimits(max_message=1000)) as (client, _),
    ):
        await client.create("x" * 1000)
        await client.until(lambda: client.closed is not None)

    assert 1009 == client.closed


async def test_a_frame_that_is_wrong_ends_the_socket(autojump_clock) -> None:
    """An unmasked one is no client's."""
    async with fake_pool(FakeConnector(echo)) as pool, talking(pool) as (client, _):
        await client.stream.send_all(b"\x81\x02{}")
        await client.until(lambda: client.closed is not None)

    assert 1002 == client.closed


# -- further input ---------------------------------------------------------------------------------


class Planner:
    """Says two messages slowly; in the middle of one it can be steered."""

    def __init__(self) -> None:
        self.seen: list[ModelRequest] = []

    def respond(self, request: ModelRequest) -> ModelTurn:
        self.seen.append(request)
        if len(self.seen) == 1:
            return ModelTurn(output=[message("Phase 1."), message("Phase 2.")], delay=5)
        return ModelTurn(output=[message("Two weeks.")])


@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("name", [None, "plan"])
async def test_a_response_in_progress_takes_further_input(autojump_clock, lanes: int, name: Any) -> None:
    """The provider's own words about it reach the client, on its lane; the lane is free after all of it."""
    profile = attrs.evolve(OPENAI_SERVER, steer_ends="incomplete")
    lane = {} if name is None else {"stream_id": name}
    async with serving(Planner(), profile=profile) as world:
        limits = policy(max_size=1, lanes=lanes)
        async with world.pool(limits=limits, provider=OPENAI) as pool, talking(pool) as (client, _):
            await client.create("Plan.", model="gpt-6-astra", store=False, **lane)
            while (said := await client.next())["type"] != "response.created":
                pass
            target = said["response"]["id"]
            await client.send({"type": "response.steer", "previous_response_id": target, "input": "Shorter."})
            assert "response.incomplete" == (await client.answer(name))["type"]
            assert "Two weeks." == text_of(await client.answer(name))
            await client.create("ok", model="gpt-6-astra", **lane)
            assert "Two weeks." == text_of(await client.answer(name))

    kinds = [said["type"] for said in client.said]
    assert 1 == kinds.count("response.steer.accepted")
    assert 0 == kinds.count("response.steer.failed")
    assert {name} == {said.get("stream_id") for said in client.said}


@pytest.mark.parametrize(
    ("steer", "code"),
    [
        ({"previous_response_id": "resp_none", "input": "x"}, "response_not_found"),
        ({"input": "x"}, "response_not_found"),
        ({"previous_response_id": "resp_none", "input": "x", "stream_id": "a"}, "invalid_input"),
    ],
)
async def test_input_for_no_response_comes_back(autojump_clock, steer: Any, code: str) -> None:
    """With its words, and nothing is sent."""
    connector = FakeConnector(echo)
    async with fake_pool(connector) as pool, talking(pool) as (client, _):
        await client.send({"type": "response.steer", **steer})
        said = await client.next()

    assert ("response.steer.failed", code) == (said["type"], said["error"]["code"])
    assert "x" == said["steer"]["input"]
    assert [] == connector.wires


# -- clients that are gone -------------------------------------------------------------------------


@pytest.mark.parametrize("politely", [True, False])
async def test_a_client_that_vanishes_costs_its_turns_only(autojump_clock, politely: bool) -> None:
    """Another one's turn goes on; no lease is left; what was in line was not sent."""
    recorder = Recorder()
    async with (
        serving(EchoModel(), delay_per_token=5) as world,
        world.pool(limits=policy(max_size=2), instrument=recorder) as pool,
    ):
        async with talking(pool) as (other, _):
            async with talking(way := PoolWay(pool)) as (client, _):
                await client.create("one")
                await client.create("two", stream_id="b")
                await client.until(lambda: len({said.get("stream_id") for said in client.said}) == 2)
                await client.create("three", stream_id="c")
                await trio.sleep(1)
                await other.create("mine")
                await trio.sleep(1)
                assert (2, 2) == (pool.statistics().leased, pool.statistics().waiting)
                if politely:
                    await client.goodbye()
                    await client.until(lambda: client.closed is not None)
                    assert 1000 == client.closed
            assert "mine" == text_of(await other.answer())
        await trio.sleep(100)
        assert (0, 0) == (pool.statistics().leased, pool.statistics().waiting)

    outcomes = sorted(record.status for record in recorder.records if record.requests)
    assert ["cancelled", "cancelled", "completed"] == outcomes
    assert 3 == len(world.ledger)
    assert ["left"] * 3 == way.ends


async def test_a_turn_may_be_read_to_its_end_without_its_client(autojump_clock) -> None:
    """Where the policy says so: then its usage is known."""
    recorder = Recorder()
    async with (
        serving(EchoModel(), delay_per_token=5) as world,
        world.pool(instrument=recorder) as pool,
        talking(pool, SocketLimits(drain=1000)) as (client, _),
    ):
        await client.create("one")
        await client.until(lambda: client.said)

    (record,) = recorder.records
    assert "completed" == record.status
    assert record.usage


async def test_leaving_at_the_end_costs_nothing(autojump_clock) -> None:
    """The last word was said; that it was not read makes no difference."""
    recorder = Recorder()
    async with fake_pool(FakeConnector(echo), instrument=recorder) as pool, talking(pool) as (client, _):
        await client.create()
        await client.answer()

    assert ["completed"] == [record.status for record in recorder.records]


async def test_a_client_that_reads_nothing_is_left(autojump_clock) -> None:
    """After a while in which the network took nothing; its lease is back."""

    def answer(wire: FakeWire, _: dict[str, Any]) -> None:
        wire.push(created("resp_1"), *[delta("x" * 1000) for _ in range(500)])

    async with (
        fake_pool(FakeConnector(answer)) as pool,
        talking(pool, SocketLimits(unread=30)) as (client, socket),
    ):
        assert isinstance(client.stream, MemoryEnd)
        client.stream.stop_reading()
        await client.create()
        await trio.sleep(100)
        assert 0 == pool.statistics().leased
        assert "gone" in repr(socket)


# -- quiet ones ------------------------------------------------------------------------------------


async def test_silence_is_broken_and_death_noticed(autojump_clock) -> None:
    """Pings within `keepalive`; whoever answers none for long is gone, who answers stays."""
    async with (
        fake_pool(FakeConnector(echo)) as pool,
        talking(pool, SocketLimits(keepalive=10, silence=60)) as (client, _),
    ):
        await trio.sleep(1005)
        assert 100 == client.pings
        client.answers = False
        await trio.sleep(80)
        assert client.closed is not None


async def test_a_ping_is_answered(autojump_clock) -> None:
    """Also many at once, with one."""
    async with fake_pool(FakeConnector(echo)) as pool, talking(pool) as (client, _):
        await client.stream.send_all(b"\x89\x80\0\0\0\0" * 50)
        await client.create()
        await client.answer()

    assert 1 == client.pongs


async def test_a_quiet_client_holds_no_lease(autojump_clock) -> None:
    """Nor does it keep a connection from its end."""
    async with (
        serving(EchoModel()) as world,
        world.pool(limits=policy(max_idle=50)) as pool,
        talking(pool) as (client, _),
    ):
        await client.create()
        await client.answer()
        await trio.sleep(1)
        assert (0, 1) == (pool.statistics().leased, pool.statistics().open)
        await trio.sleep(100)
        assert 0 == pool.statistics().open
        await client.create()
        assert "response.completed" == (await client.answer())["type"]


# -- the end of the proxy --------------------------------------------------------------------------


async def test_a_server_that_ends_lets_turns_finish(autojump_clock) -> None:
    """A quiet client is told to go; one that waits gets its answer first, and no other request is taken."""
    async with (
        serving(EchoModel(), delay_per_token=5) as world,
        world.pool() as pool,
        talking(pool) as (quiet, one),
        talking(pool) as (busy, other),
    ):
        await busy.create("hello")
        await busy.until(lambda: busy.said)
        one.retire()
        other.retire()
        await quiet.until(lambda: quiet.closed is not None)
        await busy.create("more")
        told = await busy.answer()
        assert "websocket_connection_limit_reached" == told["error"]["code"]
        assert "hello" == text_of(await busy.answer())
        await busy.until(lambda: busy.closed is not None)

    assert (1001, 1001) == (quiet.closed, busy.closed)
    assert 1 == len(world.ledger)
