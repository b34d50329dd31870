"""A conversation goes on: rate limits, stored responses, branches, snapshots, compaction."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest
import trio

import wspool
from tests.helpers import (
    FakeConnector,
    FakeWire,
    ask_back,
    completed,
    created,
    echo,
    error_frame,
    fake_pool,
    outputs,
    policy,
    serving,
)
from wspool.server import OPENAI, EchoModel, context_digest


async def test_a_request_that_may_pass_is_sent_again_when_it_may(autojump_clock) -> None:
    """The wait that the server asks for is kept, and the caller sees one turn."""
    refusals = [error_frame("rate_limit_exceeded", 429, headers={"Retry-After": "7"})]

    def answer(wire: FakeWire, request: dict[str, Any]) -> None:
        if refusals:
            wire.push(refusals.pop())
        else:
            echo(wire, request)

    connector = FakeConnector(answer)
    async with fake_pool(connector) as pool, pool.conversation(model="m") as conversation:
        began = trio.current_time()
        response = await conversation.respond("hello")

        assert "completed" == response.status
        assert 7 <= trio.current_time() - began < 8
        assert 2 == sum(len(wire.requests) for wire in connector.wires)
        assert 2 == len(conversation.items)


async def test_what_one_is_asked_to_wait_all_wait(autojump_clock) -> None:
    """Retry-After is a floor for the whole endpoint: no conversation begins a turn before."""
    starts: list[float] = []

    def answer(wire: FakeWire, request: dict[str, Any]) -> None:
        starts.append(trio.current_time())
        if len(starts) == 1:
            wire.push(error_frame("rate_limit_exceeded", 429, headers={"Retry-After": "30"}))
        else:
            echo(wire, request)

    async with fake_pool(FakeConnector(answer), limits=policy(max_size=4)) as pool:

        async def talk(delay: float) -> None:
            await trio.sleep(delay)
            async with pool.conversation(model="m") as conversation:
                await conversation.respond("hello")

        async with trio.open_nursery() as nursery:
            for delay in (0, 1, 2):
                nursery.start_soon(talk, delay)

    assert 0 == starts[0]
    assert all(30 <= start < 40 for start in starts[1:])


def asked_to_wait(seconds: float) -> dict[str, Any]:
    """The refusal of a server that wants nothing for so long."""
    return error_frame("rate_limit_exceeded", 429, headers={"Retry-After": str(seconds)})


class Endpoint:
    """Refuses whatever comes before its time, and may want more time."""

    def __init__(self) -> None:
        self.opens_at = 0.0
        self.texts: list[str] = []
        self.times: list[float] = []

    def __call__(self, wire: FakeWire, request: dict[str, Any]) -> None:
        self.texts.append(request["input"][-1]["content"][0]["text"])
        self.times.append(trio.current_time())
        if self.times[-1] < self.opens_at:
            wire.push(asked_to_wait(self.opens_at - self.times[-1]))
        else:
            echo(wire, request)


async def say(pool: wspool.Pool, text: str) -> None:
    async with pool.conversation(model="m") as conversation:
        await conversation.respond(text)


async def test_a_hold_is_for_those_in_line_too(autojump_clock) -> None:
    """Whoever gets a lane in a hold does not send on it: only what was on its way is refused."""
    endpoint = Endpoint()
    endpoint.opens_at = 60.0
    connector = FakeConnector(endpoint)
    async with fake_pool(connector, limits=policy(max_size=2)) as pool, trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(say, pool, str(number))

    assert 2 == sum(time < 60 for time in endpoint.times)
    assert 22 == len(endpoint.times)


async def test_a_hold_that_grows_keeps_everybody_in_order(autojump_clock) -> None:
    """Who is kept by it goes on when all of it is over, in the order of coming, also in front of lanes."""
    endpoint = Endpoint()
    connector = FakeConnector(endpoint)
    async with fake_pool(connector, limits=policy(max_size=1)) as pool, trio.open_nursery() as nursery:
        pool._shell.hold(10.0)
        for number in range(8):
            nursery.start_soon(say, pool, str(number))
            await trio.sleep(1)
        pool._shell.hold(30.0)
        await trio.sleep(29)
        assert [] == endpoint.times
        pool._shell.hold(5.0)

    assert [str(number) for number in range(8)] == endpoint.texts
    assert {42.0} == {*endpoint.times}


async def test_nobody_sits_on_a_lane_in_a_hold(autojump_clock) -> None:
    """A lane got for a turn that must wait goes on at once, to somebody whom the hold does not concern."""
    async with (
        fake_pool(FakeConnector(echo), limits=policy(max_size=1)) as pool,
        trio.open_nursery() as nursery,
    ):
        first = await pool.acquire()
        nursery.start_soon(say, pool, "x")
        await trio.testing.wait_all_tasks_blocked()
        pool._shell.hold(600.0)
        first.release()
        with trio.fail_after(1):
            (await pool.acquire()).release()
        nursery.cancel_scope.cancel()


async def test_a_lane_that_remembers_stays_parked_in_a_hold(autojump_clock) -> None:
    """A conversation that waits with a lane of its own keeps it, unless somebody starves."""
    async with (
        fake_pool(FakeConnector(ask_back), limits=policy(max_size=1, patience=20.0)) as pool,
        pool.conversation(model="m") as conversation,
        trio.open_nursery() as nursery,
    ):
        await conversation.respond("one")
        pool._shell.hold(60.0)
        nursery.start_soon(conversation.respond, outputs(conversation))
        await trio.sleep(10)
        assert (1, 1) == (pool.statistics().leased, pool.statistics().parked)
        with trio.fail_after(10.1):
            (await pool.acquire()).release()
        assert 1 == pool.statistics().stolen
        await trio.sleep(60)
        assert 4 == len(conversation.items)


@pytest.mark.parametrize("where", ["newcomer", "refused", "pause"])
async def test_a_hold_that_is_lifted_is_over(where, autojump_clock, monkeypatch) -> None:
    """`retry_now`: whoever waits for Retry-After, or before a resend, goes on at that moment."""
    endpoint = Endpoint()
    async with (
        fake_pool(FakeConnector(endpoint)) as pool,
        pool.conversation(model="m") as conversation,
        trio.open_nursery() as nursery,
    ):
        if where == "newcomer":
            pool._shell.hold(3600.0)
        elif where == "refused":
            endpoint.opens_at = 3600.0
        else:
            endpoint.opens_at = 1e-9
            monkeypatch.setattr(pool._shell, "jitter", lambda: 1.0 - 2**-53)
        nursery.start_soon(conversation.respond, "x")
        await trio.sleep(0.25)
        asked, endpoint.opens_at = len(endpoint.times), 0.0
        pool.retry_now()
        await trio.testing.wait_all_tasks_blocked()

        assert (asked + 1, 0.25) == (len(endpoint.times), endpoint.times[-1])
        assert 2 == len(conversation.items)


@pytest.mark.parametrize("who", ["a bare lease", "a turn that nobody reads", "a turn given up"])
async def test_a_hold_begins_when_the_frame_comes(who, autojump_clock) -> None:
    """Whoever reads it and when: the endpoint has said so, once."""
    endpoint = Endpoint()
    endpoint.opens_at = 60.0
    limits = policy(max_size=3, on_cancel="drain")
    connector = FakeConnector(lambda wire, request: None)
    async with (
        fake_pool(connector, limits=limits) as pool,
        pool.lease() as lease,
        pool.conversation(model="m") as conversation,
        trio.open_nursery() as nursery,
    ):
        turn = lease.create(model="m") if who == "a bare lease" else conversation.turn("x")
        async with turn:
            if who != "a turn given up":
                connector.wires[-1].push(asked_to_wait(60))
                await trio.sleep(30)
        if who == "a turn given up":
            connector.wires[-1].push(asked_to_wait(60))
            await trio.sleep(30)
        connector.on_request = endpoint
        nursery.start_soon(say, pool, "other")

    assert [60.0] == endpoint.times


async def test_a_quota_is_not_waited_for(autojump_clock) -> None:
    """What no waiting mends is told at once."""
    connector = FakeConnector(lambda wire, request: wire.push(error_frame("insufficient_quota", 429)))
    async with fake_pool(connector) as pool, pool.conversation(model="m") as conversation:
        with pytest.raises(wspool.RateLimitedError) as refused:
            await conversation.respond("hello")

        assert 0 == trio.current_time()
        assert "wait" not in str(refused.value)


async def test_a_stored_response_goes_along(autojump_clock) -> None:
    """With `store=True` only what is new is sent, on another connection as well."""
    async with serving(EchoModel()) as world, world.pool(limits=policy(max_size=2)) as pool:
        async with pool.conversation(model="m", store=True) as conversation:
            await conversation.respond("one")
            pool.clear(interrupt=True)
            await conversation.respond("two")

            assert (1, 1, 1) == (
                conversation.statistics().full_turns,
                conversation.statistics().delta_turns,
                conversation.statistics().moves,
            )
        assert context_digest(conversation.items[:-1]) == world.ledger[-1]["context_sha256"]


async def test_a_server_that_keeps_no_data_is_believed_once(autojump_clock) -> None:
    """Whoever did not find what it was asked to store is sent everything from then on."""
    profile = attrs.evolve(OPENAI, keeps_stored=False)
    async with serving(EchoModel(), profile=profile) as world, world.pool() as pool:
        async with pool.conversation(model="m", store=True) as conversation:
            for word in ("one", "two", "three"):
                await conversation.respond(word)
                pool.clear(interrupt=True)

        assert ["completed", "rejected", "completed", "completed"] == [
            entry["outcome"] for entry in world.ledger
        ]
        assert context_digest(conversation.items[:-1]) == world.ledger[-1]["context_sha256"]


async def test_a_branch_goes_its_own_way(autojump_clock) -> None:
    """Both know what was said before the fork, and neither what the other said after."""
    async with serving(EchoModel()) as world, world.pool(limits=policy(max_size=3)) as pool:
        async with pool.conversation(model="m", store=False) as trunk:
            await trunk.respond("root")
            async with trunk.fork() as branch:
                await branch.respond("left")
                await trunk.respond("right")

                assert trunk.items[:2] == branch.items[:2]
                assert "left" not in json.dumps(trunk.items)
                assert "right" not in json.dumps(branch.items)
        digests = {entry["context_sha256"] for entry in world.ledger}

    assert {context_digest(trunk.items[:-1]), context_digest(branch.items[:-1])} <= digests


async def test_a_snapshot_goes_on_in_another_process(autojump_clock) -> None:
    """It is JSON, holds what goes with every turn, and may be overridden."""
    async with serving(EchoModel()) as world:
        async with world.pool() as pool, pool.conversation(model="m", store=False, user="u") as first:
            await first.respond("one")
            snapshot = json.loads(json.dumps(first.snapshot()))
        async with world.pool() as pool, pool.conversation(resume=snapshot, user="v") as second:
            await second.respond("two")

            assert first.items == second.items[:2]
            assert ("m", "v") == (
                second.snapshot()["defaults"]["model"],
                second.snapshot()["defaults"]["user"],
            )
        assert context_digest(second.items[:-1]) == world.ledger[-1]["context_sha256"]


@pytest.mark.parametrize(
    ("snapshot", "text"),
    [
        ({}, "version 1, not None"),
        ({"version": 2}, "version 1, not 2"),
        ({"version": 1}, "no list of items"),
        ({"version": 1, "items": [], "replay_from": 1}, "replay_from=1 is no index"),
        ({"version": 1, "items": [], "replay_from": "x"}, "replay_from='x' is no index"),
        ({"version": 1, "items": [], "defaults": []}, "defaults are no mapping"),
    ],
)
async def test_what_is_no_snapshot_is_refused(snapshot, text, autojump_clock) -> None:
    """The error says what is wrong, and nothing was dialled for it."""
    async with fake_pool(FakeConnector(echo)) as pool:
        with pytest.raises(ValueError, match=text):
            async with pool.conversation(resume=snapshot):
                raise AssertionError("not reached")


async def test_after_a_compaction_a_full_send_begins_there(autojump_clock) -> None:
    """A compaction item stands for everything before it."""
    compaction = {"type": "compaction", "id": "cmp", "encrypted_content": "opaque"}

    def answer(wire: FakeWire, request: dict[str, Any]) -> None:
        if len(request["input"]) == 1 and request["input"][0]["content"][0]["text"] == "compact":
            end = completed("r2")
            end["response"]["output"].insert(0, compaction)
            wire.push(created("r2"), end)
        else:
            echo(wire, request)

    connector = FakeConnector(answer)
    async with (
        fake_pool(connector, limits=policy(max_size=2)) as pool,
        pool.conversation(model="m") as conversation,
    ):
        await conversation.respond("before")
        await conversation.respond("compact")
        pool.clear(interrupt=True)
        await conversation.respond("after")

        assert 7 == len(conversation.items)
    sent = connector.wires[-1].requests[-1]["input"]

    assert compaction == sent[0]
    assert ["compaction", "message", "message"] == [item["type"] for item in sent]
