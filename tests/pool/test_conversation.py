"""Conversation and its continuity: delta where possible, full where needed, told once what is known."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import trio
import trio.testing

import wspool
from tests.helpers import (
    LIMIT_FRAME,
    FakeConnector,
    FakeWire,
    Recorder,
    World,
    assert_conserved,
    assert_empty,
    completed,
    created,
    delta,
    echo,
    error_frame,
    fake_pool,
    policy,
    refused,
    said,
    serving,
    types,
    user,
)
from wspool.server import (
    LOCALAI,
    EchoModel,
    LimitMode,
    ModelTurn,
    ScriptedModel,
    ServerProfile,
    TurnError,
    context_digest,
    message,
)

Answer = Callable[[FakeWire, dict[str, Any]], None]


def one_by_one(*answers: Answer) -> Answer:
    """Answer the first request with the first answer, and so on; the last one answers the rest."""
    left = itertools.chain(answers, itertools.repeat(answers[-1]))
    return lambda wire, request: next(left)(wire, request)


def die_after(*events: Mapping[str, Any], code: int = 1006) -> Answer:
    """Send *events*, then end the connection."""

    def answer(wire: FakeWire, request: dict[str, Any]) -> None:
        wire.push(*events)
        wire.hang_up(code)

    return answer


def requests(connector: FakeConnector) -> list[list[dict[str, Any]]]:
    """All requests, by connection."""
    return [wire.requests for wire in connector.wires]


def assert_context(world: World, conversation: wspool.Conversation) -> None:
    """Assert that the model saw exactly what the conversation says was said."""
    last = world.model_turns[-1]
    items = conversation.items
    seen = items[: last["context_items"]]

    assert context_digest(seen) == last["context_sha256"]
    assert all(item.get("role") != "user" for item in items[len(seen) :])


# -- chaining -------------------------------------------------------------------------------------


async def test_turns_on_one_connection_send_only_what_is_new(autojump_clock) -> None:
    """After the first turn each request is a delta with the latest response as its parent."""
    async with serving(EchoModel()) as world, world.pool() as pool:
        async with pool.conversation(model="m", store=False) as conversation:
            for text in ("one", "two", "three"):
                assert text == (await conversation.respond(text)).output_text
            it = conversation.statistics()
            assert (3, 2, 1, 0) == (it.turns, it.delta_turns, it.full_turns, it.moves)
            assert it.bytes_saved > 0
            assert_context(world, conversation)

        ids = [entry["response_id"] for entry in world.ledger]
        assert [None, *ids[:-1]] == [entry["previous_response_id"] for entry in world.ledger]
        assert [1, 1, 1] == [entry["input_items"] for entry in world.ledger]
        assert all(entry["unfinished_on_lane"] == 1 for entry in world.ledger)


async def test_another_connection_gets_the_whole_history(autojump_clock) -> None:
    """A lost connection between turns costs bytes, not context and not an error."""
    async with serving(EchoModel()) as world, world.pool() as pool:
        async with pool.conversation(model="m", store=False) as conversation:
            await conversation.respond("one")
            await world.cut()
            await trio.sleep(1)
            assert (await conversation.respond("two")).output_text == "two"
            assert_context(world, conversation)
            it = conversation.statistics()
            assert (2, 0, 2, 1) == (it.turns, it.delta_turns, it.full_turns, it.moves)

        assert [(1, 1), (2, 3)] == [(entry["connection"], entry["input_items"]) for entry in world.ledger]


async def test_conversations_do_not_see_each_other(autojump_clock) -> None:
    """Many conversations over few connections: each gets its own answers and its own context."""
    async with serving(EchoModel(), delay_per_token=0.1) as world:
        async with world.pool(limits=policy(max_size=3)) as pool, trio.open_nursery() as nursery:

            async def talk(name: str) -> None:
                for part in range(2):
                    async with pool.conversation(model="m") as conversation:
                        for turn in range(3):
                            text = f"{name} {part} {turn}"
                            assert text == (await conversation.respond(text)).output_text
                        assert 6 == len(conversation.items)

            for number in range(10):
                nursery.start_soon(talk, f"agent{number}")

        assert 60 == len(world.ledger)
        assert 3 == len({entry["connection"] for entry in world.ledger})
        assert all(entry["unfinished_on_lane"] == 1 for entry in world.ledger)


async def test_a_request_is_made_of_defaults_and_overrides(autojump_clock) -> None:
    """Overrides are for one turn; what is never stored takes its reasoning along, encrypted."""
    connector = FakeConnector(echo)
    async with (
        fake_pool(connector) as pool,
        pool.conversation(model="m", store=False, temperature=1, stream=True) as conversation,
    ):
        await conversation.respond([{"role": "user", "content": "hi"}], temperature=0)
        await conversation.respond("again", include=["x"])

    first, second = connector.wire.requests
    assert {
        "type": "response.create",
        "model": "m",
        "store": False,
        "temperature": 0,
        "include": ["reasoning.encrypted_content"],
        "input": [{"role": "user", "content": "hi"}],
    } == first
    include = ["x", "reasoning.encrypted_content"]
    assert (1, include, [user("again")]) == (second["temperature"], second["include"], second["input"])


@pytest.mark.parametrize(
    "field",
    ["previous_response_id", "input", "type", "stream_id", "background", "conversation", "generate"],
)
async def test_fields_of_the_library_are_refused_with_advice(field, autojump_clock) -> None:
    """What the conversation does itself cannot be set, neither as default nor as override."""
    fields: dict[str, Any] = {field: False}
    async with fake_pool(FakeConnector(echo)) as pool:
        with pytest.raises(ValueError, match=f"{field!r} cannot be set here"):
            async with pool.conversation(**fields):
                pass
        async with pool.conversation(model="m") as conversation:
            if field != "input":
                with pytest.raises(ValueError, match=f"{field!r} cannot be set here"):
                    conversation.turn("x", **{field: "y"})


async def test_a_conversation_shows_itself(autojump_clock) -> None:
    """The text of a conversation says where it is."""
    async with fake_pool(FakeConnector(echo)) as pool:
        async with pool.conversation(model="m") as conversation:
            shown = [repr(conversation)]
            async with conversation.turn("x") as turn:
                shown.append(repr(conversation))
                await turn.result()
            shown.append(repr(conversation))
        shown.append(repr(conversation))

    assert [
        "<Conversation 1, idle: 0 turns, 0 items>",
        "<Conversation 1, in turn: 0 turns, 0 items>",
        "<Conversation 1, idle: 1 turns, 2 items>",
        "<Conversation 1, closed: 1 turns, 2 items>",
    ] == shown


async def test_a_closed_conversation_takes_no_turn(autojump_clock) -> None:
    """After its block nothing is sent any more; closing twice is harmless."""
    connector = FakeConnector(echo)
    async with fake_pool(connector) as pool:
        async with pool.conversation(model="m") as conversation:
            await conversation.respond("x")
        conversation.close()
        with pytest.raises(wspool.PoolClosedError, match="conversation is closed"):
            await conversation.respond("y")

        assert (1, 1) == (len(connector.wire.sent), pool.statistics().idle)


async def test_one_turn_at_a_time(autojump_clock) -> None:
    """A second turn is refused and does not disturb the first."""
    connector = FakeConnector(lambda wire, request: wire.push(created("r")))
    async with fake_pool(connector) as pool, pool.conversation(model="m") as conversation:
        async with conversation.turn("x") as turn:
            with pytest.raises(wspool.TurnInFlightError):
                await conversation.respond("y")
            connector.wire.push(completed("r"))
            await turn.result()
        connector.on_request = echo
        await conversation.respond("z")

        assert [user("x"), said("ok"), user("z"), said("ok")] == conversation.items
        assert "previous_response_id" in connector.wire.requests[1]


# -- from elsewhere -------------------------------------------------------------------------------


async def elsewhere(act: Callable[[], Any]) -> BaseException | None:
    """What comes out of *act* in a thread, inside a run of its own there if it has to be waited for."""

    def run() -> BaseException | None:
        try:
            result = act()
            if hasattr(result, "__await__"):
                trio.run(lambda: result)
        except BaseException as error:
            return error
        return None

    return await trio.to_thread.run_sync(run)


Use = Callable[[wspool.Conversation, wspool.Turn], Any]

USES: dict[str, Use] = {
    "turn": lambda conversation, turn: conversation.turn("y"),
    "respond": lambda conversation, turn: conversation.respond("y"),
    "run": lambda conversation, turn: conversation.run("y", tools={}),
    "compact": lambda conversation, turn: conversation.compact(),
    "fork": lambda conversation, turn: conversation.fork(),
    "snapshot": lambda conversation, turn: conversation.snapshot(),
    "close": lambda conversation, turn: conversation.close(),
    "enter": lambda conversation, turn: turn.__aenter__(),
    "leave": lambda conversation, turn: turn.__aexit__(None, None, None),
    "result": lambda conversation, turn: turn.result(),
    "next": lambda conversation, turn: turn.__anext__(),
    "steer": lambda conversation, turn: turn.steer("y"),
}


@pytest.mark.parametrize("use", USES)
async def test_a_conversation_belongs_to_its_run(use) -> None:  # a virtual clock would jump meanwhile
    """From a thread, or another run there: an immediate clear error, and nothing is changed."""
    connector = FakeConnector(lambda wire, request: wire.push(created("r")))
    async with fake_pool(connector) as pool, pool.conversation(model="m") as conversation:
        async with conversation.turn("x") as turn:
            error = await elsewhere(lambda: USES[use](conversation, turn))
            assert isinstance(error, wspool.ForeignUseError)
            assert (1, 1) == (pool.statistics().in_flight, len(connector.wire.sent))
            connector.wire.push(completed("r"))
            await turn.result()
        connector.on_request = echo
        await conversation.respond("z")

        assert 4 == len(conversation.items)


async def test_a_turn_is_driven_by_trio() -> None:
    """Where no trio runs at all it is the same error."""
    async with (
        fake_pool(FakeConnector(echo)) as pool,
        pool.conversation(model="m") as conversation,
        conversation.turn("x") as turn,
    ):
        for begin in (turn.__anext__, turn.result):
            # (mypy infers no type for a lambda that binds its loop's variable.)
            error = await elsewhere(lambda begin=begin: begin().send(None) and None)  # type: ignore[misc]
            assert isinstance(error, wspool.ForeignUseError)
        assert 3 == len([event async for event in turn])


# -- ends that are not good -----------------------------------------------------------------------


def failing(**turn: Any) -> ScriptedModel:
    """A model whose first turn goes well and whose second does not."""
    return ScriptedModel([ModelTurn(output=[message("fine")]), ModelTurn(**turn)])


OVERLOADED = TurnError(
    message="Slow down.", code="rate_limit_exceeded", status=429, headers={"Retry-After": "12"}
)


async def test_a_failed_response_changes_nothing_in_the_history(autojump_clock) -> None:
    """`respond` raises with everything known; `turn` gives the failed response."""
    async with (
        serving(failing(status="failed", output=[message("half")], error=OVERLOADED)) as world,
        world.pool() as pool,
        pool.conversation(model="m") as conversation,
    ):
        await conversation.respond("one")
        before = conversation.items
        with pytest.raises(wspool.ResponseFailedError) as caught:
            await conversation.respond("two")
        assert before == conversation.items
        assert ("rate_limit_exceeded", "terminal") == (caught.value.code, caught.value.delivery)
        assert caught.value.response_id == world.ledger[1]["response_id"]

        async with conversation.turn("two") as turn:
            kinds = types([event async for event in turn])
        assert ["error", "response.failed"] == kinds[-2:]
        assert "failed" == turn.response.status
        assert before == conversation.items
        assert [None, True, None] == [entry["previous_response_id"] and True for entry in world.ledger], (
            "what failed may have evicted its parent"
        )
        assert pool.statistics().closed == {}


async def test_an_incomplete_response_is_a_response(autojump_clock) -> None:
    """It is returned, is history, and can be continued."""
    async with (
        serving(failing(status="incomplete", output=[message("cut sh")])) as world,
        world.pool() as pool,
        pool.conversation(model="m") as conversation,
    ):
        await conversation.respond("one")
        response = await conversation.respond("two")
        assert ("incomplete", "cut sh") == (response.status, response.output_text)
        assert {"reason": "max_output_tokens"} == response.incomplete_details
        await conversation.respond("three")

        assert 6 == len(conversation.items)
        assert_context(world, conversation)
        assert 2 == conversation.statistics().delta_turns


async def test_a_refused_request_leaves_everything_usable(autojump_clock) -> None:
    """A refusal says its code, status and retry hint; the connection and the history stay."""
    async with serving(failing(status="rejected", error=OVERLOADED)) as world:
        limits = policy(max_resends=0)
        async with world.pool(limits=limits) as pool, pool.conversation(model="m") as conversation:
            await conversation.respond("one")
            before = conversation.items
            for _ in range(2):
                with pytest.raises(wspool.RateLimitedError, match="Slow down") as caught:
                    await conversation.respond("two")
                assert (429, 12.0, None) == (
                    caught.value.status,
                    caught.value.retry_after,
                    caught.value.response_id,
                )
            assert (before, {}) == (conversation.items, pool.statistics().closed)
        assert 3 == len(world.ledger)


async def test_a_parent_that_was_forgotten_is_answered_once_in_full(autojump_clock) -> None:
    """`previous_response_not_found` costs one resend, on the same connection."""
    async with serving(EchoModel(), profile=LOCALAI) as world, world.pool() as pool:
        async with pool.conversation(model="m", store=False) as conversation:
            await conversation.respond("one")
            assert (await conversation.respond("two")).output_text == "two"
            assert_context(world, conversation)

        assert [
            (1, "completed", None),
            (1, "rejected", "previous_response_not_found"),
            (1, "completed", None),
        ] == [(entry["connection"], entry["outcome"], entry["error_code"]) for entry in world.ledger]


async def test_a_parent_that_stays_forgotten_is_an_error(autojump_clock) -> None:
    """The full resend is tried once; a server that refuses that too is told."""
    missing = error_frame("previous_response_not_found")
    connector = FakeConnector(one_by_one(echo, lambda wire, request: wire.push(missing)))
    async with fake_pool(connector) as pool, pool.conversation(model="m") as conversation:
        await conversation.respond("one")
        with pytest.raises(wspool.PreviousResponseNotFoundError):
            await conversation.respond("two")

        sent = connector.wire.requests
        assert [False, True, False] == ["previous_response_id" in request for request in sent]


@pytest.mark.parametrize("body", [{"metadata": object()}, {"metadata": "x" * 300}])
async def test_what_cannot_be_sent_leaves_everything_usable(body, autojump_clock) -> None:
    """A body that is no JSON, or too large, is told before anything is sent."""
    connector = FakeConnector(echo)
    provider = wspool.Provider(name="small", max_request=300)
    async with fake_pool(connector, provider=provider) as pool, pool.conversation(model="m") as conversation:
        for _ in range(2):
            with pytest.raises((TypeError, wspool.RequestTooLargeError)):
                await conversation.respond("x", **body)
        assert ([], []) == (conversation.items, [wire.sent for wire in connector.wires if wire.sent])
        await conversation.respond("x")

        assert ({}, 1) == (pool.statistics().closed, len(connector.wire.sent))


async def test_what_was_never_sent_costs_no_full_resend(autojump_clock) -> None:
    """A turn that sent nothing cannot have cost the server its memory of the parent."""
    connector = FakeConnector(echo)
    async with fake_pool(connector) as pool, pool.conversation(model="m") as conversation:
        await conversation.respond("one")
        with pytest.raises(TypeError):
            await conversation.respond("two", metadata=object())
        await conversation.respond("two")

        assert 1 == conversation.statistics().delta_turns


async def test_items_that_are_no_items_are_refused(autojump_clock) -> None:
    """Input is a text or a list of dicts."""
    async with fake_pool(FakeConnector(echo)) as pool, pool.conversation(model="m") as conversation:
        with pytest.raises(TypeError, match="str or a list of item dicts"):
            conversation.turn([1])  # type: ignore[list-item] # a careless caller


# -- losses ---------------------------------------------------------------------------------------


async def test_a_server_that_dies_in_a_turn_is_not_asked_twice(autojump_clock) -> None:
    """The turn is lost, its delivery is told, and the server saw one request."""
    async with serving(ScriptedModel([ModelTurn(output=[message("late")], delay=100)])) as world:
        async with world.pool() as pool, pool.conversation(model="m") as conversation:
            async with trio.open_nursery() as nursery:

                async def cut() -> None:
                    await trio.sleep(50)
                    await world.cut()

                nursery.start_soon(cut)
                with pytest.raises(wspool.TurnLostError) as caught:
                    await conversation.respond("x")

            lost = caught.value
            assert ("accepted", False, 1006) == (lost.delivery, lost.replayable, lost.close_code)
            assert ["response.created", "response.in_progress"] == types(lost.events)
            assert [] == conversation.items
            assert_conserved(pool.statistics())
        assert [("lost", lost.response_id)] == [
            (entry["outcome"], entry["response_id"]) for entry in world.ledger
        ]


async def test_a_silent_death_is_ambiguous(autojump_clock) -> None:
    """A request that was sent and never answered may have been executed, so it is not repeated."""
    connector = FakeConnector(die_after())
    async with fake_pool(connector) as pool, pool.conversation(model="m") as conversation:
        with pytest.raises(wspool.TurnLostError) as caught:
            await conversation.respond("x")

        assert ("ambiguous", False, None) == (
            caught.value.delivery,
            caught.value.replayable,
            caught.value.response_id,
        )
        assert 1 == len(connector.wires)


async def test_a_lost_conversation_goes_on(autojump_clock) -> None:
    """The turn after a loss carries everything that was agreed before it."""
    connector = FakeConnector(one_by_one(echo, die_after(created("r")), echo))
    async with fake_pool(connector) as pool, pool.conversation(model="m") as conversation:
        await conversation.respond("one")
        with pytest.raises(wspool.TurnLostError):
            await conversation.respond("two")
        await conversation.respond("two again")

        sent = connector.wires[1].requests[0]
        assert [user("one"), said("ok"), user("two again")] == sent["input"]
        assert "previous_response_id" not in sent


NOTHING, BEGUN, OUTPUT = (), (created("r"),), (created("r"), delta("x"))


@pytest.mark.parametrize(
    ("replay", "events", "sends"),
    [
        ("proven", NOTHING, 1),
        ("proven", BEGUN, 1),
        ("no_output", NOTHING, 2),
        ("no_output", BEGUN, 2),
        ("no_output", OUTPUT, 1),
        ("always", NOTHING, 2),
        ("always", OUTPUT, 2),
    ],
)
async def test_what_is_sent_again_is_the_policy(replay, events, sends, autojump_clock) -> None:
    """A lost turn whose output nobody has seen is repeated as far as the policy allows."""
    recorder = Recorder()
    connector = FakeConnector(one_by_one(die_after(*events), echo))
    limits = policy(replay=replay)
    async with (
        fake_pool(connector, limits=limits, instrument=recorder) as pool,
        pool.conversation(model="m") as conversation,
    ):
        if sends == 1:
            with pytest.raises(wspool.TurnLostError):
                await conversation.respond("x")
        else:
            assert (await conversation.respond("x")).output_text == "ok"
        assert sends == len(connector.wires)

    assert [(sends, "lost" if sends == 1 else "completed")] == [
        (record.requests, record.status) for record in recorder.records
    ]


async def test_output_that_was_seen_is_never_followed_by_a_second_answer(autojump_clock) -> None:
    """Even with `replay="always"` a caller who has read output gets the loss."""
    connector = FakeConnector(one_by_one(die_after(*OUTPUT), echo))
    async with (
        fake_pool(connector, limits=policy(replay="always")) as pool,
        pool.conversation(model="m") as conversation,
    ):
        with pytest.raises(wspool.TurnLostError):  # noqa: PT012 (the whole block raises)
            async with conversation.turn("x") as turn:
                async for _ in turn:
                    pass
    assert 1 == len(connector.wires)


async def test_a_turn_that_goes_on_is_one_turn(autojump_clock) -> None:
    """A caller who has seen no output reads on as if nothing had happened."""
    connector = FakeConnector(one_by_one(die_after(created("first")), echo))
    async with (
        fake_pool(connector, limits=policy(replay="no_output")) as pool,
        pool.conversation(model="m") as conversation,
        conversation.turn("x") as turn,
    ):
        kinds = types([event async for event in turn])
        assert turn.delivery == "terminal"

    assert ["response.created"] * 2 + ["response.output_text.delta", "response.completed"] == kinds


async def test_bad_luck_has_an_end(autojump_clock) -> None:
    """A turn is sent four times at most, whatever the policy."""
    connector = FakeConnector(die_after(created("r")))
    async with (
        fake_pool(connector, limits=policy(replay="always")) as pool,
        pool.conversation(model="m") as conversation,
    ):
        with pytest.raises(wspool.TurnLostError):
            await conversation.respond("x")
        assert 4 == len(connector.wires)
        assert 3 == conversation.statistics().moves


async def test_a_message_that_is_too_big_is_never_sent_again(autojump_clock) -> None:
    """Close code 1009 means that a resend can never work, whatever the policy."""
    connector = FakeConnector(die_after(code=1009))
    async with (
        fake_pool(connector, limits=policy(replay="always")) as pool,
        pool.conversation(model="m") as conversation,
    ):
        with pytest.raises(wspool.WsPoolError):
            await conversation.respond("x")

    assert 1 == len(connector.wires)


async def test_a_resend_that_fails_does_not_hide_what_was_sent(autojump_clock) -> None:
    """An error after an accepted request never says that nothing was sent."""
    connector = FakeConnector(die_after(created("r")))
    async with fake_pool(connector, limits=policy(replay="always")) as pool:
        connector.failures.extend([None, refused(401)])
        async with pool.conversation(model="m") as conversation:
            with pytest.raises(wspool.WsPoolError) as caught:
                await conversation.respond("x")

    assert caught.value.delivery == "accepted"


@pytest.mark.parametrize("steps", range(8))
async def test_a_connection_that_dies_before_the_send_is_no_loss(steps, autojump_clock) -> None:
    """Whenever an idle connection dies around the start of a turn, `not_sent` never reaches the caller."""
    connector = FakeConnector(echo)
    async with fake_pool(connector, limits=policy(min_idle=1)) as pool:
        await pool.wait_ready()
        await trio.testing.wait_all_tasks_blocked()

        async def die() -> None:
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            connector.wires[0].hang_up(1001)

        async with pool.conversation(model="m") as conversation, trio.open_nursery() as nursery:
            nursery.start_soon(die)
            lost: wspool.TurnLostError | None = None
            try:
                await conversation.respond("x")
            except wspool.TurnLostError as error:
                lost = error
    assert lost is None or lost.delivery != "not_sent"


async def test_a_lease_that_is_dead_on_arrival_is_replaced(autojump_clock) -> None:
    """A connection that dies in the tick of its grant is no loss: nothing was sent."""
    connector = FakeConnector(lambda wire, request: wire.push(created("r")))
    limits = policy(max_size=1, on_cancel="drain")
    async with fake_pool(connector, limits=limits) as pool, trio.open_nursery() as nursery:
        async with pool.lease() as lease, lease.create(model="m"):
            pass

        async def talk() -> None:
            async with pool.conversation(model="m") as conversation:
                assert (await conversation.respond("x")).output_text == "ok"

        nursery.start_soon(talk)
        await trio.testing.wait_all_tasks_blocked()
        connector.on_request = echo
        # The first ends the drain and so grants the lane; the second kills the connection.
        connector.wire.push(completed("r"), delta("stray"))


# -- the lifetime limit ---------------------------------------------------------------------------

MODES: list[LimitMode] = ["on_next_create", "while_idle", "mid_turn", "silent_close"]


@pytest.mark.parametrize("mode", MODES)
async def test_a_limit_nobody_knew_of_is_no_surprise_between_turns(mode, autojump_clock) -> None:
    """However a server announces its limit, a conversation goes on with the right context."""
    async with serving(EchoModel(), lifetime=250, limit_mode=mode) as world, world.pool() as pool:
        async with pool.conversation(model="m", store=False) as conversation:
            for turn in range(12):
                assert str(turn) == (await conversation.respond(str(turn))).output_text
                assert_context(world, conversation)
                await trio.sleep(100)
            it = conversation.statistics()
            assert 12 == it.turns
            assert it.moves >= 3
        served = [entry for entry in world.ledger if entry["outcome"] == "completed"]
        assert 12 == len(served)
        assert it.delta_turns + it.full_turns == len(world.ledger)


async def test_a_request_that_the_limit_refuses_goes_elsewhere(autojump_clock) -> None:
    """It provably did not run, so a fresh connection gets it."""
    connector = FakeConnector(one_by_one(lambda wire, request: wire.push(LIMIT_FRAME), echo))
    async with fake_pool(connector) as pool, pool.conversation(model="m") as conversation:
        assert (await conversation.respond("x")).output_text == "ok"

        assert ({"limit": 1}, 1) == (pool.statistics().closed, conversation.statistics().moves)


@pytest.mark.parametrize("output", [(), (delta("x"),)], ids=["before output", "after output"])
@pytest.mark.hits("cut: a turn")
async def test_a_limit_that_cuts_a_response_is_a_loss(output, autojump_clock) -> None:
    """What was begun is paid for and not repeated, output or not; the loss says that it was accepted."""
    connector = FakeConnector(
        one_by_one(lambda wire, request: wire.push(created("r"), *output, LIMIT_FRAME), echo)
    )
    async with fake_pool(connector) as pool, pool.conversation(model="m") as conversation:
        with pytest.raises(wspool.TurnLostError, match="lifetime limit") as caught:
            await conversation.respond("x")

        assert ("accepted", "r") == (caught.value.delivery, caught.value.response_id)
        assert {"limit": 1} == pool.statistics().closed


class Movements(wspool.Instrument):
    """Keeps what it is told of moves."""

    def __init__(self) -> None:
        self.moves: list[wspool.Move] = []

    def conversation_moved(self, move: wspool.Move) -> None:
        self.moves.append(move)


async def test_a_move_says_why(autojump_clock) -> None:
    """Its connection was lost, is busy with what was given up, or was taken while it was parked."""
    seen = Movements()
    answers = one_by_one(echo, echo, lambda wire, request: wire.push(*OUTPUT), echo, echo, echo)
    limits = policy(max_size=2, on_cancel="drain", patience=0)
    connector = FakeConnector(answers)
    async with (
        fake_pool(connector, limits=limits, instrument=seen) as pool,
        pool.conversation(model="m") as conversation,
    ):
        await conversation.respond("one")
        connector.wire.hang_up()
        await trio.testing.wait_all_tasks_blocked()
        await conversation.respond("two")
        with trio.move_on_after(1):
            await conversation.respond("three")
        await conversation.respond("three")
        its, other = await pool.acquire(), await pool.acquire()
        other.release()
        await conversation.respond("four")
        its.release()

    assert ["lost", "busy", "taken"] == [move.reason for move in seen.moves]


async def test_a_conversation_moves_before_its_connection_ends(autojump_clock) -> None:
    """With a known limit no turn ever meets it: moves are planned, made early, and counted."""
    async with serving(EchoModel(), lifetime=100, limit_mode="mid_turn", delay_per_token=1) as world:
        seen = Movements()
        async with world.pool(limits=policy(max_lifetime=100, min_idle=1), instrument=seen) as pool:
            async with pool.conversation(model="m", store=False) as conversation:
                for turn in range(60):
                    assert str(turn) == (await conversation.respond(str(turn))).output_text
                    await trio.sleep(7)
                it = conversation.statistics()
                assert_context(world, conversation)

            assert (60, it.moves + 1) == (it.turns, it.full_turns)
            assert 5 <= it.moves <= 15
            assert it.moves == it.rotations == len(seen.moves)
            assert {"rotation"} == {move.reason for move in seen.moves}
            assert [move.after for move in seen.moves[:-1]] == [move.before for move in seen.moves[1:]]
            assert set(pool.statistics().closed) == {"lifetime"}
            assert_conserved(pool.statistics())
        assert {"completed"} == {entry["outcome"] for entry in world.ledger}


async def test_a_conversation_that_is_too_old_waits_for_nothing_it_has(autojump_clock) -> None:
    """Where there is room for one connection the conversation gives it back before it takes the next."""
    connector = FakeConnector(echo)
    async with fake_pool(connector, limits=policy(max_size=1, max_lifetime=100)) as pool:
        async with pool.conversation(model="m") as conversation:
            await conversation.respond("one")
            await trio.sleep(80)
            await conversation.respond("two")

            assert (1, 2) == (conversation.statistics().moves, len(connector.wires))
        assert [1, 3] == [len(wire.requests[0]["input"]) for wire in connector.wires]


# -- cancellation ---------------------------------------------------------------------------------


async def test_a_cancelled_turn_leaves_no_trace_in_the_history(autojump_clock) -> None:
    """The turn can be tried again as it was; what was given up reaches nobody."""
    connector = FakeConnector(one_by_one(echo, lambda wire, request: wire.push(*OUTPUT), echo))
    async with fake_pool(connector) as pool, pool.conversation(model="m") as conversation:
        await conversation.respond("one")
        with trio.move_on_after(3) as scope:
            await conversation.respond("two")
        assert scope.cancelled_caught
        assert ({"dirty": 1}, 0) == (pool.statistics().closed, pool.statistics().leased)
        assert [user("one"), said("ok")] == conversation.items
        assert (await conversation.respond("two")).output_text == "ok"

        assert ({"dirty": 1}, 4) == (pool.statistics().closed, len(conversation.items))


async def test_a_conversation_does_not_wait_for_its_own_drain(autojump_clock) -> None:
    """With `on_cancel="drain"` the next turn goes on elsewhere while the rest is read and dropped."""
    connector = FakeConnector(one_by_one(lambda wire, request: wire.push(*OUTPUT), echo))
    async with (
        fake_pool(connector, limits=policy(on_cancel="drain")) as pool,
        pool.conversation(model="m") as conversation,
    ):
        with trio.move_on_after(3):
            await conversation.respond("one")
        await conversation.respond("two")
        assert (1, 1) == (pool.statistics().draining, conversation.statistics().moves)
        connector.wires[0].push(completed("r", "secret"))
        await trio.testing.wait_all_tasks_blocked()
        assert ({}, 0) == (pool.statistics().closed, pool.statistics().draining)
        assert "secret" not in str(conversation.items)


async def test_closing_in_a_turn_gives_it_up(autojump_clock) -> None:
    """A conversation closed inside its turn leaves no lease behind."""
    connector = FakeConnector(lambda wire, request: wire.push(created("r")))
    async with fake_pool(connector) as pool, pool.conversation(model="m") as conversation:
        async with conversation.turn("x") as turn:
            conversation.close()
            with pytest.raises(wspool.TurnLostError):
                await turn.result()
        assert pool.statistics().leased == 0
    assert_empty(pool.statistics())


# -- the instrument -------------------------------------------------------------------------------


async def test_turns_are_recorded_with_their_account(autojump_clock) -> None:
    """An instrument sees each turn once: how long it waited, what it sent, what that saved."""
    recorder = Recorder()
    connector = FakeConnector(echo)
    async with (
        fake_pool(connector, limits=policy(max_size=1), instrument=recorder) as pool,
        trio.open_nursery() as nursery,
    ):

        async def talk() -> None:
            async with pool.conversation(model="m") as conversation:
                await conversation.respond("one")
                await conversation.respond("two")

        async with pool.lease():
            nursery.start_soon(talk)
            await trio.sleep(9)

    first, second = recorder.records
    assert (1, 1, True, "completed", 1) == (
        first.conversation,
        first.connection,
        first.full,
        first.status,
        first.requests,
    )
    assert pytest.approx(9) == first.waited
    assert (0, 0, 3) == (first.duration, first.bytes_saved, first.events)
    assert (False, 0) == (second.full, second.waited)
    assert second.bytes_saved > 0
    assert [first.bytes_sent, second.bytes_sent] == [len(message) for message in connector.wire.sent]


@pytest.mark.parametrize(
    "how",
    [
        "rejected",
        "lost",
        "cancelled",
    ],
)
async def test_turns_that_went_wrong_are_recorded_too(how, autojump_clock) -> None:
    """The record says what became of the turn, and that nothing is history."""
    answers: dict[str, Answer] = {
        "rejected": lambda wire, request: wire.push(error_frame("nope")),
        "lost": die_after(created("r")),
        "cancelled": lambda wire, request: wire.push(created("r")),
    }
    recorder = Recorder()
    async with (
        fake_pool(FakeConnector(answers[how]), instrument=recorder) as pool,
        pool.conversation(model="m") as conversation,
    ):
        with trio.move_on_after(3):
            try:
                await conversation.respond("x")
            except wspool.WsPoolError:
                pass

    assert [how] == [record.status for record in recorder.records]


async def test_a_turn_cancelled_in_its_send_is_recorded(autojump_clock) -> None:
    """Its request may have reached the server, so it belongs in the account."""
    recorder = Recorder()
    connector = FakeConnector(echo)
    connector.prepare = lambda wire: wire.set(stuffed=True)
    async with (
        fake_pool(connector, instrument=recorder) as pool,
        pool.conversation(model="m") as conversation,
    ):
        with trio.move_on_after(3):
            await conversation.respond("x")

    assert [("cancelled", "ambiguous")] == [(record.status, record.delivery) for record in recorder.records]


async def test_a_broken_instrument_breaks_nothing(caplog, autojump_clock) -> None:
    """What an observer raises is logged, and the turn does not notice."""

    class Broken(wspool.Instrument):
        def turn_ended(self, record: wspool.TurnRecord) -> None:
            raise ZeroDivisionError

    async with (
        fake_pool(FakeConnector(echo), instrument=Broken()) as pool,
        pool.conversation(model="m") as conversation,
    ):
        assert (await conversation.respond("x")).output_text == "ok"

    assert ["the pool's instrument failed; the pool is not affected"] == [
        record.getMessage() for record in caplog.records if record.levelname == "ERROR"
    ]


def test_an_instrument_does_nothing_by_itself() -> None:
    """An observer overrides what it needs; the rest is silence."""
    record = wspool.TurnRecord(
        conversation=None,
        connection=None,
        response_id=None,
        full=True,
        status="lost",
        delivery="not_sent",
        waited=0,
        duration=0,
        requests=0,
        bytes_sent=0,
        bytes_saved=0,
        events=0,
    )
    wspool.Instrument().turn_ended(record)


async def test_a_small_provider_meets_no_large_request(autojump_clock) -> None:
    """A server that ends oversized messages with 1009 is never sent one."""
    profile = ServerProfile(name="small", max_message=1000)
    async with serving(EchoModel(), profile=profile) as world:
        provider = wspool.Provider(name="small", max_request=1000)
        async with world.pool(provider=provider) as pool, pool.conversation(model="m") as conversation:
            await conversation.respond("x")
            with pytest.raises(wspool.RequestTooLargeError):
                await conversation.respond("x" * 1000)
            await conversation.respond("y")

            assert {} == pool.statistics().closed
