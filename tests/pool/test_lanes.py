"""Several turns at once on one connection: told apart, bounded, and none of them costs another anything."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

import wspool
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
    said,
    serving,
)
from wspool import OPENAI, Pool, Provider, TurnLostError
from wspool.server import (
    AZURE,
    OPENAI as OPENAI_SERVER,
    EchoModel,
    ModelRequest,
    ModelTurn,
    ServerProfile,
    message,
)
from wspool.server.models import text_of

LANES = Provider(name="lanes", lanes=8)


class Slow:
    """Says what it is asked to say, a second later."""

    def respond(self, request: ModelRequest) -> ModelTurn:
        return ModelTurn(output=[message(text_of(request.context[-1]))], delay=1.0)


class Far(FakeConnector):
    """Far ends that name the lane of what they answer; `slow` requests wait for the test."""

    def __init__(self) -> None:
        super().__init__(self._respond)
        self.lanes: dict[str, str] = {}
        self._wires: dict[str, FakeWire] = {}

    def _respond(self, wire: FakeWire, request: dict[str, Any]) -> None:
        word = request.get("input") or "?"
        if isinstance(word, list):
            word = word[-1]["content"][0]["text"] if word else "warm-up"
        self.lanes[word], self._wires[word] = str(request.get("stream_id")), wire
        if "slow" not in word:
            self.say(word, created(word), delta(word), completed(word))
        elif "silent" not in word:
            self.say(word, created(word))

    def say(self, word: str, *events: dict[str, Any]) -> None:
        """Let events come on the lane of a request."""
        self._wires[word].push(*({**event, "stream_id": self.lanes[word]} for event in events))


async def proved(pool: Pool) -> None:
    """Take a first turn, which opens the lanes."""
    async with pool.lease() as lease, lease.create(model="m", input="first") as turn:
        await turn.result()


async def ask(pool: Pool, word: str, ended: dict[str, Any]) -> None:
    """Take one turn; note how it ended."""
    async with pool.lease() as lease:
        try:
            async with lease.create(model="m", input=word) as turn:
                ended[word] = (await turn.result()).id
        except wspool.WsPoolError as error:
            ended[word] = error


@asynccontextmanager
async def shared(far: Far, **limits: Any) -> AsyncGenerator[Pool]:
    """A pool with one connection, whose lanes are open."""
    limits = {"max_size": 1, "lanes": 3, **limits}
    async with fake_pool(far, limits=policy(**limits), provider=LANES) as pool:
        await proved(pool)
        yield pool


@asynccontextmanager
async def busy(pool: Pool, *words: str) -> AsyncGenerator[dict[str, Any]]:
    """A turn for each of *words* is in flight when the block begins, and it ends with them: so they ended."""
    ended: dict[str, Any] = {}
    async with trio.open_nursery() as nursery:
        for word in words:
            nursery.start_soon(ask, pool, word, ended)
        await trio.sleep(1)
        yield ended


async def test_a_keepalive_without_a_lane_may_have_a_number_of_any(autojump_clock) -> None:
    """It is no gap in the response whose number it has, nor in the others."""
    far = Far()
    words = "slow one", "slow two"
    async with shared(far) as pool, busy(pool, *words) as ended:
        for number, word in enumerate(words):
            item = {"type": "response.output_item.done", "output_index": 0, "item": said(word)}
            far.say(word, *({**delta("a"), "sequence_number": before} for before in range(1, number + 2)))
            far.say(word, {**item, "sequence_number": number + 2})
        far.wire.push({"type": "keepalive", "sequence_number": 3})
        for word in words:
            end = completed(word)
            del end["response"]["output"]
            far.say(word, {**end, "sequence_number": 4})
        await trio.sleep(1)
        assert far.wire.open
    assert {word: word for word in words} == ended


@pytest.mark.hits("dirty: the last turn on a suspect connection")
async def test_a_rewritten_end_on_one_lane_costs_no_other_turn(autojump_clock) -> None:
    """What others have in flight is paid for, and names its lane: the connection goes with the last one."""
    far = Far()
    async with (
        shared(far, max_size=2, lanes=8) as pool,
        busy(pool, "slow one", "slow two", "slow three") as ended,
    ):
        item = {"type": "response.output_item.done", "output_index": 0, "item": said("mine")}
        far.say("slow one", item, completed("another id", "mine"))
        await trio.sleep(1)
        assert {"slow one": "another id"} == ended
        assert {} == pool.statistics().closed
        far.say("slow two", completed("slow two"))
        await trio.sleep(1)
        assert {} == pool.statistics().closed
        far.say("slow three", completed("slow three"))
        await trio.sleep(1)

        assert {"slow one": "another id", "slow two": "slow two", "slow three": "slow three"} == ended
        assert {"dirty": 1} == pool.statistics().closed
        assert {"ids": 1} == pool.statistics().rewritten
        await ask(pool, "quick", ended)
        assert "quick" == ended["quick"]
        assert_conserved(pool.statistics())


# -- with a provider that has them ----------------------------------------------------------


async def test_turns_run_at_once_on_one_connection(autojump_clock) -> None:
    """Each conversation gets its own words, in a second for all of them."""
    said: dict[str, str] = {}

    async def converse(pool: Pool, word: str) -> None:
        async with pool.conversation(model="m", store=False) as conversation:
            for count in range(3):
                response = await conversation.respond(f"{word} {count}")
                said[f"{word} {count}"] = response.output_text
            assert 2 == conversation.statistics().delta_turns

    async with (
        serving(Slow(), profile=OPENAI_SERVER) as world,
        world.pool(limits=policy(max_size=1, lanes=8), provider=OPENAI) as pool,
    ):
        await proved(pool)
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(converse, pool, f"w{number}")
        took = trio.current_time() - began

    assert {word: word for word in said} == said
    assert 24 == len(said)
    assert took == pytest.approx(3.0)
    assert 1 == len({entry["connection"] for entry in world.ledger})
    assert {f"lane{number}" for number in range(8)} == {entry["lane"] for entry in world.ledger}
    assert {1} == {entry["unfinished_on_lane"] for entry in world.ledger}


async def test_names_are_used_again(autojump_clock) -> None:
    """More conversations than a connection may have names: none is refused."""
    async with (
        serving(EchoModel(), profile=OPENAI_SERVER) as world,
        world.pool(limits=policy(max_size=1, lanes=16), provider=OPENAI) as pool,
    ):
        ended: dict[str, Any] = {}
        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(ask, pool, f"w{number}", ended)

    assert 100 == len(ended)
    assert {"completed"} == {entry["outcome"] for entry in world.ledger}
    assert len({entry["lane"] for entry in world.ledger}) <= 16


async def test_lanes_are_off_unless_asked_for(autojump_clock) -> None:
    """By default a request names none."""
    connector = FakeConnector(echo)
    async with (
        fake_pool(connector, provider=OPENAI) as pool,
        pool.conversation(model="m") as conversation,
    ):
        await conversation.respond("x")

    assert "stream_id" not in connector.wire.requests[0]


async def test_a_fork_on_another_lane_sends_in_full(autojump_clock) -> None:
    """So that it does not matter when its parent's lane goes on: no barrier can be broken."""
    async with (
        serving(Slow(), profile=OPENAI_SERVER) as world,
        world.pool(limits=policy(max_size=1, lanes=4), provider=OPENAI) as pool,
        pool.conversation(model="m", store=False) as conversation,
    ):
        await conversation.respond("one")
        async with conversation.fork() as fork, trio.open_nursery() as nursery:
            nursery.start_soon(conversation.respond, "left")
            nursery.start_soon(fork.respond, "right")

    one, *rest = world.ledger
    assert {(1, "lane"), (3, None)} == {(entry["input_items"], entry["parent_from"]) for entry in rest}
    assert {3} == {entry["context_items"] for entry in rest}
    assert one["lane"] in {entry["lane"] for entry in rest}


# -- with one that has not ------------------------------------------------------------------


@pytest.mark.parametrize("profile", [AZURE, wspool.server.LITELLM])
async def test_an_endpoint_that_ignores_the_name_has_one_lane(autojump_clock, profile: ServerProfile) -> None:
    """Its first answer names none: that turn is as good as any, and no other request names a lane."""
    ended: dict[str, Any] = {}
    async with (
        serving(EchoModel(), profile=profile) as world,
        world.pool(limits=policy(max_size=3, lanes=8), provider=LANES) as pool,
    ):
        async with trio.open_nursery() as nursery:
            for number in range(9):
                nursery.start_soon(ask, pool, f"w{number}", ended)
        assert pool.statistics().open == pool.statistics().idle == 3

    assert 9 == len(ended)
    assert not any(isinstance(end, Exception) for end in ended.values())
    assert {"completed"} == {entry["outcome"] for entry in world.ledger}
    assert {1} == {entry["unfinished_on_lane"] for entry in world.ledger}


def refuse_names(wire: FakeWire, request: dict[str, Any]) -> None:
    """What an endpoint does that checks its fields."""
    if "stream_id" in request:
        frame = error_frame("unknown_parameter", param="stream_id")
        frame["error"]["message"] = "Unknown parameter: 'stream_id'."
        wire.push(frame)
    else:
        echo(wire, request)


@pytest.mark.parametrize("kind", ["lease", "conversation"])
async def test_a_refused_name_is_left_out(autojump_clock, kind: str) -> None:
    """The request provably did not run: it is sent again on the same connection, and no other is refused."""
    connector, recorder = FakeConnector(refuse_names), Recorder()
    async with fake_pool(
        connector, limits=policy(max_size=1, lanes=8), provider=LANES, instrument=recorder
    ) as pool:
        for _ in range(2):
            if kind == "lease":
                await proved(pool)
            else:
                async with pool.conversation(model="m") as conversation:
                    await conversation.respond("x")
        assert (1, 3) == (pool.statistics().idle, pool.statistics().turns)

    assert 1 == connector.dials
    assert ["lane0", None, None] == [request.get("stream_id") for request in connector.wire.requests]
    assert [2, 1] == [record.requests for record in recorder.records]


async def test_a_name_is_left_out_once(autojump_clock) -> None:
    """An endpoint that blames a field which is not there does not keep us busy."""

    def always(wire: FakeWire, request: dict[str, Any]) -> None:
        wire.push(error_frame("unknown_parameter", param="stream_id"))

    connector = FakeConnector(always)
    async with fake_pool(connector, limits=policy(max_size=1, lanes=8), provider=LANES) as pool:
        with pytest.raises(wspool.ResponseFailedError, match="unknown_parameter"):
            await proved(pool)
        async with pool.conversation(model="m") as conversation:
            with pytest.raises(wspool.ResponseFailedError, match="unknown_parameter"):
                await conversation.respond("x")

    assert 3 == len(connector.wire.requests)


async def test_another_refusal_proves_nothing(autojump_clock) -> None:
    """An error need not name its lane: the next turn is on trial as well."""
    far = Far()
    async with fake_pool(far, limits=policy(max_size=1, lanes=2), provider=LANES) as pool:
        async with (
            pool.lease() as lease,
            lease.create(model="m", input="slow silent") as turn,
        ):
            far.wire.push(error_frame("invalid_prompt"))
            with pytest.raises(wspool.ResponseFailedError, match="invalid_prompt"):
                await turn.result()
        assert 1 == pool.statistics().idle
        await proved(pool)
        assert 2 == pool.statistics().idle


async def test_an_endpoint_may_change_its_mind(autojump_clock) -> None:
    """An answer without a name, where they had names, is nobody's; from then on there is one lane."""
    far = Far()
    async with shared(far, lanes=8) as pool:
        async with busy(pool, "slow one", "slow two") as ended:
            far.wire.push(delta("whose?"))
        assert {"accepted"} == {error.delivery for error in ended.values()}
        await proved(pool)
        assert 1 == pool.statistics().idle

    assert "stream_id" not in far.wire.requests[-1]


# -- what happens to one of them ------------------------------------------------------------


@pytest.mark.parametrize("on_cancel", ["hang_up", "drain"])
async def test_a_cancelled_turn_does_not_cost_its_siblings(autojump_clock, on_cancel: Any) -> None:
    """Its lane is drained and used again; the others go on."""
    far = Far()
    async with shared(far, on_cancel=on_cancel) as pool:
        async with busy(pool, "slow one") as ended:
            with trio.move_on_after(1):
                await ask(pool, "slow two", ended)
            await trio.sleep(1)
            assert (1, 1) == (pool.statistics().draining, pool.statistics().in_flight)
            far.say("slow two", delta("nobody's"))
            far.say("slow one", completed("slow one"))
        assert {"slow one": "slow one"} == ended
        far.say("slow two", completed("slow two"))
        await trio.sleep(1)
        assert (3, 1) == (pool.statistics().idle, pool.statistics().dialed)
        await ask(pool, "three", ended)

    assert "three" == ended["three"]
    assert {"lane0", "lane1", "lane2"} >= set(far.lanes.values())


async def test_the_rest_of_a_turn_is_not_awaited_for_ever(autojump_clock) -> None:
    """After `drain_timeout` its lane is used no more, and the connection goes with the last sibling."""
    far = Far()
    async with shared(far, lanes=2, drain_timeout=5.0) as pool:
        async with busy(pool, "slow one") as ended:
            with trio.move_on_after(1):
                await ask(pool, "slow two", ended)
            await trio.sleep(20)
            assert (1, 0) == (pool.statistics().retiring, pool.statistics().draining)
            far.say("slow one", completed("slow one"))
        await trio.sleep(1)
        assert 0 == pool.statistics().size

    assert {"slow one": "slow one"} == ended


async def test_a_slow_consumer_does_not_cost_its_siblings(autojump_clock) -> None:
    """Over `max_buffered` its turn is given up, with an error that says so; the others are read on."""
    far = Far()
    ended: dict[str, Any] = {}
    async with shared(far, lanes=2, max_buffered=1000) as pool:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, pool, "slow sibling", ended)
            async with pool.lease() as lease, lease.create(model="m", input="slow reader") as turn:
                await trio.sleep(1)
                far.say("slow reader", *[delta("x" * 400)] * 3)
                await trio.sleep(1)
                far.say("slow sibling", completed("slow sibling"))
                await trio.sleep(1)
                assert {"slow sibling": "slow sibling"} == ended
                with pytest.raises(TurnLostError, match="max_buffered") as caught:
                    await turn.result()
                with pytest.raises(wspool.TurnInFlightError):
                    await lease.create(model="m", input="too early").__aenter__()
                far.say("slow reader", completed("slow reader"))
                await trio.sleep(1)
                async with lease.create(model="m", input="again") as turn:
                    assert "again" == (await turn.result()).id
        assert_conserved(pool.statistics())

    assert "accepted" == caught.value.delivery
    assert 4 == len(caught.value.events)


async def test_a_slow_consumer_alone_is_waited_for(autojump_clock) -> None:
    """Until somebody else's turn begins behind it."""
    far = Far()
    ended: dict[str, Any] = {}
    async with shared(far, lanes=2, max_buffered=1000) as pool, pool.lease() as lease:
        async with lease.create(model="m", input="slow reader") as turn:
            far.say("slow reader", *[delta("x" * 400)] * 5)
            await trio.sleep(1)
            far.say("slow reader", completed("slow reader"))
            await trio.sleep(1000)
            assert "slow reader" == (await turn.result()).id
        async with lease.create(model="m", input="slow again") as turn:
            await trio.sleep(1)
            far.say("slow again", *[delta("x" * 400)] * 5)
            await trio.sleep(1)
            await ask(pool, "sibling", ended)
            with pytest.raises(TurnLostError, match="max_buffered"):
                await turn.result()

    assert {"sibling": "sibling"} == ended


async def test_a_message_that_was_begun_is_sent_to_its_end(autojump_clock) -> None:
    """Cancelling the turn whose message the network is slow to take costs nobody else anything."""
    far = Far()
    async with shared(far) as pool:
        async with busy(pool, "slow sibling") as ended:
            far.wire.set(stuffed=True)
            with trio.move_on_after(1):
                await ask(pool, "begun", ended)
            with trio.move_on_after(1):
                await ask(pool, "waiting", ended)
            far.wire.set(stuffed=False)
            await trio.sleep(1)
            far.say("slow sibling", completed("slow sibling"))
        # What had begun went out and was drained; what was in line behind it never left.
        assert (3, 1) == (pool.statistics().idle, pool.statistics().dialed)

    assert {"slow sibling": "slow sibling"} == ended
    assert ["first", "slow sibling", "begun"] == [request["input"] for request in far.wire.requests]


async def test_what_never_left_is_known_not_to_have(autojump_clock) -> None:
    """A turn that is cancelled while another one's message is on its way was not sent."""
    far, recorder = Far(), Recorder()
    async with fake_pool(
        far, limits=policy(max_size=1, lanes=3), provider=LANES, instrument=recorder
    ) as pool:
        await proved(pool)
        async with trio.open_nursery() as nursery:
            far.wire.set(stuffed=True)
            nursery.start_soon(ask, pool, "one", {})
            await trio.sleep(1)
            with trio.move_on_after(1):
                await ask(pool, "two", {})
            far.wire.set(stuffed=False)

    assert ["not_sent", "terminal"] == [record.delivery for record in recorder.records[1:]]


@pytest.mark.parametrize("where", ["its own connection", "behind another message", "on its way"])
async def test_a_closed_conversation_is_told_at_once(autojump_clock, where: str) -> None:
    """Also while the network does not take its request, or that of another one before it."""
    far = Far()
    shared = where != "its own connection"
    limits = policy(
        max_size=1, lanes=3 if shared else 1, on_cancel="drain", send_timeout=60, drain_timeout=30
    )
    told: list[float] = []

    async def take(conversation: wspool.Conversation) -> None:
        with pytest.raises(TurnLostError, match="closed"):
            await conversation.respond("x")
        told.append(trio.current_time())

    async with fake_pool(far, limits=limits, provider=LANES) as pool:
        await proved(pool)
        async with pool.conversation(model="m") as conversation, trio.open_nursery() as nursery:
            far.wire.set(stuffed=True)
            if where == "behind another message":
                nursery.start_soon(ask, pool, "first to go", {})
                await trio.sleep(1)
            nursery.start_soon(take, conversation)
            await trio.sleep(1)
            now = trio.current_time()
            conversation.close()
            await trio.testing.wait_all_tasks_blocked()
            assert [now] == told
            far.wire.set(stuffed=False)
            await trio.sleep(1)
        # Where lanes share the connection it stays; what waited behind another message never left.
        assert int(shared) == pool.statistics().size
        said = [str(request["input"]) for request in far.wire.requests[1:]]
        assert (where == "on its way") is any("x" in each for each in said)


async def test_what_waits_behind_another_message_is_held_as_well(autojump_clock) -> None:
    """The server asks all to wait while a request waits for the network: it is sent when it may be."""
    far, recorder = Far(), Recorder()
    ended: dict[str, Any] = {}
    limits = policy(max_size=1, lanes=3, send_timeout=60)
    async with (
        fake_pool(far, limits=limits, provider=LANES, instrument=recorder) as pool,
        pool.conversation(model="m") as conversation,
    ):
        await proved(pool)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, pool, "slow and silent", ended)
            await trio.sleep(1)
            far.wire.set(stuffed=True)
            nursery.start_soon(ask, pool, "first to go", ended)
            await trio.sleep(1)
            nursery.start_soon(conversation.respond, "held")
            await trio.sleep(1)
            far.say("slow and silent", error_frame("slow_down", 503, headers={"Retry-After": "20"}))
            await trio.sleep(1)
            far.wire.set(stuffed=False)
            await trio.sleep(15)
            assert "held" not in far.lanes
            assert 0 == pool.statistics().parked, "its lane holds nothing of it"
            await trio.sleep(10)
            assert "held" in far.lanes
        held = recorder.records[-1]

    assert ("completed", 1) == (held.status, held.requests)
    assert len(far.wire.sent[-1]) == held.bytes_sent == conversation.statistics().bytes_sent


@pytest.mark.parametrize("lane", ["one of ours", "lane7", "agent_33"])
@pytest.mark.hits("dirty: for no turn, beside those of others")
async def test_an_event_for_nobody_costs_no_other_turn(autojump_clock, lane: str) -> None:
    """A lane without a turn, one that was never used, one that is not ours: the connection goes with the
    last turn that is in flight on it, and takes no other."""
    far = Far()
    async with shared(far) as pool:
        async with busy(pool, "slow one", "slow two") as ended, trio.open_nursery() as nursery:
            taken = {far.lanes["slow one"], far.lanes["slow two"]}
            name = min({"lane0", "lane1", "lane2"} - taken) if lane == "one of ours" else lane
            assert name not in taken
            old = far.wire
            old.push({**delta("whose?"), "stream_id": name})
            await trio.sleep(1)
            nursery.start_soon(ask, pool, "three", ended)
            await trio.sleep(1)
            far.say("slow one", completed("slow one"))
            await trio.sleep(1)
            assert {"slow one": "slow one"} == ended
            far.say("slow two", completed("slow two"))

        assert {word: word for word in ("slow one", "slow two", "three")} == ended
        assert {"first", "slow one", "slow two"} == {request["input"] for request in old.requests}
        assert {"dirty": 1} == pool.statistics().closed


SPOILT = {
    "begins twice": ([created("slow one")], 1.0),
    "begins anew": ([created("another")], 1.0),
    "an error without its end": ([error_frame("server_error", None, sequence_number=3)], 6.0),
    "an end in doubt": ([completed("another")], 16.0),
}


@pytest.mark.parametrize(("events", "seconds"), SPOILT.values(), ids=SPOILT)
async def test_what_cannot_be_of_one_turn_costs_no_other(autojump_clock, events: Any, seconds: float) -> None:
    """It is lost, or has failed; nothing follows, and what is in flight beside it is told its end."""
    far = Far()
    async with shared(far) as pool:
        async with pool.lease() as lease, busy(pool, "slow one", "slow two") as ended:
            far.say("slow one", *events)
            await trio.sleep(seconds)
            assert isinstance(ended.pop("slow one"), (TurnLostError, wspool.ResponseFailedError))
            with pytest.raises(TurnLostError, match="takes no more turns"):
                await lease.create(model="m", input="three").__aenter__()
            far.say("slow two", delta("so far"), completed("slow two"))
        assert {"slow two": "slow two"} == ended
        await trio.sleep(1)
        assert {"dirty": 1} == pool.statistics().closed
        assert_conserved(pool.statistics())


async def test_a_silent_turn_keeps_a_spoilt_connection_as_long_as_it_may_be_silent(autojump_clock) -> None:
    """And the rest of it as long as it is read: then those in line have another connection."""
    far = Far()
    async with (
        shared(far, silence_timeout=30.0, drain_timeout=5.0) as pool,
        busy(pool, "slow one", "slow two") as ended,
    ):
        far.say("slow one", created("another"))
        await trio.sleep(1)
        await ask(pool, "three", ended)
        assert trio.current_time() == pytest.approx(35.0, abs=1.0)
        assert "three" == ended["three"]
        assert isinstance(ended["slow two"], wspool.TurnTimeoutError)


@pytest.mark.hits("dirty: a lane beside which nothing is in flight")
async def test_what_cannot_be_of_the_only_turn_ends_the_connection(autojump_clock) -> None:
    """At once: nobody's turn is lost by it."""
    far = Far()
    async with shared(far) as pool:
        async with busy(pool, "slow one") as ended:
            far.say("slow one", created("slow one"))
        assert "dirty" in pool.statistics().closed

    assert "here before" in ended["slow one"].close_reason


async def test_a_warm_up_that_cannot_go_on_costs_no_turn_beside_it(autojump_clock) -> None:
    """It is waited for as long as turns are in flight beside it, and then no longer."""
    far = Far()
    ended: dict[str, Any] = {}
    limits = policy(max_size=2, min_idle=1, lanes=3, connect_timeout=5.0)
    async with fake_pool(far, limits=limits, provider=LANES, warm_up={"model": "m"}) as pool:
        await pool.wait_ready()
        far.on_request = lambda wire, request: (
            None if request.get("generate") is False else far._respond(wire, request)
        )
        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(ask, pool, f"slow {number}", ended)
                await trio.sleep(1)
            warming = far.wire.requests[0]
            assert warming["generate"] is False
            far.wire.push(*[{**created("r"), "stream_id": warming["stream_id"]}] * 2)
            await trio.sleep(20)
            for number in range(5):
                far.say(f"slow {number}", completed(f"slow {number}"))
        await trio.sleep(1)
        assert 1 == pool.statistics().closed["dirty"]

    assert {f"slow {number}": f"slow {number}" for number in range(5)} == ended


async def test_an_error_without_a_lane_is_the_connections(autojump_clock) -> None:
    """With several turns in flight nobody knows whose it is, so each is told what is known of it."""
    far = Far()
    async with shared(far) as pool, busy(pool, "slow one", "slow silent two") as ended:
        far.wire.push(error_frame("server_error", 500))

    assert {"slow one": "accepted", "slow silent two": "ambiguous"} == {
        word: error.delivery for word, error in ended.items()
    }


async def test_an_error_without_a_lane_is_the_only_turns(autojump_clock) -> None:
    """Where one turn is in flight there is nobody else whom it could be about."""
    far = Far()
    async with shared(far) as pool:
        async with busy(pool, "slow silent") as ended:
            far.wire.push({"type": "keepalive"}, error_frame("invalid_prompt"))
        assert (3, 1) == (pool.statistics().idle, pool.statistics().dialed)

    assert "invalid_prompt" == ended["slow silent"].code


async def test_an_error_with_a_lane_is_one_turns(autojump_clock) -> None:
    """The others go on."""
    far = Far()
    async with shared(far) as pool, busy(pool, "slow one", "slow silent two") as ended:
        far.say("slow silent two", error_frame("websocket_stream_limit_reached", param="stream_id"))
        await trio.sleep(1)
        far.say("slow one", completed("slow one"))

    assert "slow one" == ended["slow one"]
    assert "websocket_stream_limit_reached" == ended["slow silent two"].code


@pytest.mark.parametrize("turns", [1, 3])
async def test_the_limit_ends_all_turns(autojump_clock, turns: int) -> None:
    """What has begun is lost, what has not goes on elsewhere."""
    far = Far()
    ended: dict[str, Any] = {}

    async def converse(word: str) -> None:
        async with pool.conversation(model="m") as conversation:
            try:
                ended[word] = (await conversation.respond(word)).id
            except TurnLostError as error:
                ended[word] = str(error)

    async with shared(far) as pool, trio.open_nursery() as nursery:
        for word in ("slow silent", "slow one", "slow two")[:turns]:
            nursery.start_soon(converse, word)
        await trio.sleep(1)
        for word in ("slow one", "slow two")[: turns - 1]:
            far.say(word, delta("so far"))
        await trio.sleep(1)
        far.wire.push(LIMIT_FRAME)
        await trio.sleep(1)
        far.say("slow silent", created("slow silent"), completed("slow silent"))

    assert "slow silent" == ended.pop("slow silent")
    assert turns - 1 == len(ended)
    assert all("lifetime limit" in error for error in ended.values())
    assert 2 == far.dials


async def test_an_announced_end_is_nobodys_error(autojump_clock) -> None:
    """Turns go on; the connection is replaced between them."""
    far = Far()
    async with shared(far, max_size=2) as pool, busy(pool, "slow one", "slow two") as ended:
        old = far.wire
        far.wire.push(error_frame("connection_expiring"))
        await trio.sleep(1)
        assert 1 == pool.statistics().retiring
        for word in ("slow one", "slow two"):
            old.push({**completed(word), "stream_id": far.lanes[word]})

    assert {"slow one": "slow one", "slow two": "slow two"} == ended


@pytest.mark.hits("dirty: a warm-up without end")
async def test_a_warm_up_without_an_answer_does_not_cost_its_siblings(autojump_clock) -> None:
    """While somebody's turn is on its connection it goes on waiting; after that the connection goes."""
    far = Far()
    ended: dict[str, Any] = {}
    limits = policy(max_size=2, min_idle=1, lanes=3, connect_timeout=5.0)
    async with fake_pool(far, limits=limits, provider=LANES, warm_up={"model": "m"}) as pool:
        await pool.wait_ready()
        assert 3 == pool.statistics().idle
        first = far.wire
        far.on_request = lambda wire, request: (
            None if request.get("generate") is False else far._respond(wire, request)
        )
        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(ask, pool, f"slow {number}", ended)
                await trio.sleep(1)
            await trio.sleep(20)
            assert first is not far.wire
            assert 1 == pool.statistics().warming
            for number in range(5):
                far.say(f"slow {number}", completed(f"slow {number}"))
        assert 5 == len(ended)
        assert not any(isinstance(end, Exception) for end in ended.values())
        await trio.sleep(6)
        assert 1 == pool.statistics().closed["dirty"]


async def test_a_lane_named_anywhere_is_found(autojump_clock) -> None:
    """First, last, in the middle, as text and as bytes: whoever it is for gets it."""
    far = Far()
    async with (
        shared(far, lanes=2) as pool,
        pool.lease() as one,
        pool.lease() as two,
        one.create(input="slow one") as turn,
        two.create(input="slow two") as other,
    ):
        await trio.sleep(1)
        name = far.lanes["slow one"]
        middle = {"type": "response.output_text.delta", "stream_id": name, "delta": "b"}
        far.wire.push(
            json.dumps({**delta("a"), "stream_id": name}),
            json.dumps(middle).encode(),
            json.dumps({**delta("c"), "sequence_number": 7, "stream_id": name}, separators=(",", ":")),
        )
        far.say("slow one", completed("slow one"))
        far.say("slow two", completed("slow two"))
        deltas = [event.data["delta"] async for event in turn if event.type.endswith("delta")]
        assert "slow two" == (await other.result()).id

    assert ["a", "b", "c"] == deltas


async def test_a_close_tells_who_waits_for_the_network(autojump_clock) -> None:
    """It takes nothing, and the connection is shared: whose conversation is closed does not wait for it."""
    connector = Far()
    limits = policy(max_size=1, lanes=8, send_timeout=60.0)
    told: list[tuple[float, str]] = []
    async with fake_pool(connector, limits=limits, provider=LANES) as pool:
        async with pool.conversation(model="m") as conversation, trio.open_nursery() as nursery:
            await conversation.respond("one")
            connector.wire.stuffed = True

            async def ask() -> None:
                with pytest.raises(TurnLostError) as caught:
                    await conversation.respond("two")
                told.append((trio.current_time(), caught.value.delivery))

            nursery.start_soon(ask)
            await trio.sleep(1)
            closed_at = trio.current_time()
            conversation.close()

        assert [(closed_at, "ambiguous")] == told
