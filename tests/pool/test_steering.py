"""Input for a response in progress: taken, waiting, refused or lost, and one history for all of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest
import trio

import wspool
from tests.helpers import (
    CANARY,
    LIMIT_FRAME,
    FakeConnector,
    FakeWire,
    Recorder,
    completed,
    created,
    delta,
    echo,
    error_frame,
    fake_pool,
    policy,
    said,
    serving,
    user,
)
from wspool import OPENAI, Conversation, Steer, SteeringRefusedError, Turn, TurnLostError
from wspool.pool.router import STEER_GRACE
from wspool.server import (
    OPENAI as OPENAI_SERVER,
    ModelRequest,
    ModelTurn,
    TurnError,
    context_digest,
    function_call,
    message,
)

MODEL = "gpt-6-astra"
STEERABLE: Any = {"provider": OPENAI}


class Planner:
    """Says two messages slowly; in the middle of one it can be steered."""

    def __init__(self, first: ModelTurn, second: ModelTurn | None = None) -> None:
        self.turns = [first, second or ModelTurn(output=[message("Two weeks.")])]
        self.seen: list[ModelRequest] = []

    def respond(self, request: ModelRequest) -> ModelTurn:
        self.seen.append(request)
        return self.turns[min(len(self.seen), len(self.turns)) - 1]


TALKER = ModelTurn(output=[message("Phase 1."), message("Phase 2.")], delay=5)
CALLER = ModelTurn(output=[function_call("f", {}, call_id="call_1")], delay=5)


async def steer_later(turn: Turn, box: list[Any], text: str = "Shorter.", after: float = 1.0) -> None:
    """Steer *turn* in a moment, and keep what comes of it."""
    await trio.sleep(after)
    try:
        box.append(await turn.steer(text))
    except wspool.WsPoolError as error:
        box.append(error)


async def steered(
    conversation: Conversation, *texts: str, asked: str = "Plan."
) -> tuple[list[wspool.Event], wspool.Response, list[Any]]:
    """Take a turn that is steered while it runs."""
    box: list[Any] = []
    async with trio.open_nursery() as nursery, conversation.turn(asked) as turn:
        for text in texts or ("Shorter.",):
            nursery.start_soon(steer_later, turn, box, text)
        events = [event async for event in turn]
        return events, turn.response, box


def words(item: dict[str, Any]) -> str:
    """What a message says."""
    return str(item["content"][0]["text"])


# -- taken ----------------------------------------------------------------------------------


@pytest.mark.parametrize("ends", ["incomplete", "completed"])
@pytest.mark.parametrize("lanes", [1, 4])
async def test_a_steered_turn_is_one_turn(autojump_clock, ends: Any, lanes: int) -> None:
    """Both responses in one stream, the last is the turn's, and the history is what the model saw."""
    profile = attrs.evolve(OPENAI_SERVER, steer_ends=ends)
    recorder = Recorder()
    async with serving(Planner(TALKER), profile=profile) as world:
        limits = policy(max_size=1, lanes=lanes)
        async with (
            world.pool(limits=limits, instrument=recorder, **STEERABLE) as pool,
            pool.conversation(model=MODEL, store=False) as conversation,
        ):
            events, response, (steer,) = await steered(conversation)
            items = conversation.items
            await conversation.respond("ok")
            assert (2, 1) == (conversation.statistics().turns, conversation.statistics().delta_turns)

    first = ["Phase 1."] if ends == "incomplete" else ["Phase 1.", "Phase 2."]
    kinds = [event.type for event in events]
    assert 2 == kinds.count("response.created")
    assert 1 == kinds.count("response.steer.accepted")
    assert ("Two weeks.", "completed") == (response.output_text, response.status)
    assert ("applied", None) == (steer.state, steer.error)
    assert ["Plan.", *first, "Shorter.", "Two weeks."] == [words(item) for item in items]
    told, successor, delta_turn = world.ledger
    assert (ends, False, True) == (told["outcome"], told["automatic"], successor["automatic"])
    assert context_digest(items[:-1]) == successor["context_sha256"]
    assert context_digest([*items, user("ok")]) == delta_turn["context_sha256"]
    assert (1, "lane") == (delta_turn["input_items"], delta_turn["parent_from"])
    assert [(1, "completed"), (1, "completed")] == [(r.requests, r.status) for r in recorder.records]


@pytest.mark.parametrize("left", [False, True])
async def test_each_response_of_a_steered_turn_costs(autojump_clock, left: bool) -> None:
    """As soon as it has ended, also if the turn is left before the next one has."""
    budget, recorder = wspool.Budget(), Recorder()
    async with (
        serving(Planner(TALKER, ModelTurn(output=[message("Two weeks.")], delay=50))) as world,
        world.pool(**STEERABLE, instrument=recorder) as pool,
        pool.conversation(model=MODEL, budget=budget) as conversation,
    ):
        told: list[int] = []
        async with trio.open_nursery() as nursery, conversation.turn("Plan.") as turn:
            nursery.start_soon(steer_later, turn, [])
            async for event in turn:
                if event.type in ("response.incomplete", "response.completed"):
                    told.append(event.data["response"]["usage"]["total_tokens"])
                    if left:
                        break
        assert (1 if left else 2) == len(told)
        assert sum(told) == budget.spent.total == conversation.statistics().usage.total
        (record,) = recorder.records
        assert sum(told) == record.tokens.total


async def test_a_full_resend_says_the_same(autojump_clock) -> None:
    """On another connection the model sees what it has seen, in the same order."""
    async with (
        serving(Planner(TALKER), profile=OPENAI_SERVER) as world,
        world.pool(**STEERABLE) as pool,
        pool.conversation(model=MODEL, store=False) as conversation,
    ):
        await steered(conversation, "one", "two")
        items = conversation.items
        pool.clear(interrupt=True)
        await conversation.respond("ok")

    # Both were sent at the same moment; either may be first.
    assert {"one", "two"} == {words(item) for item in items[2:4]}
    last = world.ledger[-1]
    assert (None, context_digest([*items, user("ok")])) == (
        last["previous_response_id"],
        last["context_sha256"],
    )
    assert context_digest(items[:-1]) == world.ledger[1]["context_sha256"]


async def test_a_successor_can_be_steered_as_well(autojump_clock) -> None:
    """As often as the caller likes."""
    model = Planner(TALKER, TALKER)
    box: list[Any] = []
    async with (
        serving(model, profile=OPENAI_SERVER) as world,
        world.pool(**STEERABLE) as pool,
        pool.conversation(model=MODEL) as conversation,
    ):
        async with trio.open_nursery() as nursery, conversation.turn("Plan.") as turn:
            nursery.start_soon(steer_later, turn, box, "one", 1.0)
            nursery.start_soon(steer_later, turn, box, "two", 6.0)
            response = await turn.result()
        items = conversation.items

    assert ["Plan.", "Phase 1.", "one", "Phase 1.", "two", "Phase 1.", "Phase 2."] == [*map(words, items)]
    assert "Phase 1.Phase 2." == response.output_text
    assert ["applied", "applied"] == [steer.state for steer in box]
    assert box[0].target != box[1].target
    assert 3 == len(world.ledger)


async def test_a_bare_lease_is_steered_as_well(autojump_clock) -> None:
    """Steering belongs to the turn, not to the history."""
    box: list[Any] = []
    async with (
        serving(Planner(TALKER), profile=OPENAI_SERVER) as world,
        world.pool(**STEERABLE) as pool,
        pool.lease() as lease,
    ):
        async with trio.open_nursery() as nursery, lease.create(model=MODEL, input="Plan.") as turn:
            nursery.start_soon(steer_later, turn, box)
            assert "Two weeks." == (await turn.result()).output_text
        async with lease.create(model=MODEL, input="x") as turn:
            await turn.result()

    assert "applied" == box[0].state


async def test_a_steer_waits_for_its_response(autojump_clock) -> None:
    """Before the response is created there is nothing to name."""
    box: list[Any] = []
    connector = FakeConnector()
    async with (
        fake_pool(connector, **STEERABLE) as pool,
        pool.lease() as lease,
        trio.open_nursery() as nursery,
        lease.create(model="m") as turn,
    ):
        nursery.start_soon(steer_later, turn, box)
        await trio.sleep(2)
        assert 1 == len(connector.wire.requests)
        connector.wire.push(created("one"))
        await trio.sleep(1)
        assert {"type": "response.steer", "previous_response_id": "one", "input": [user("Shorter.")]} == (
            connector.wire.requests[1]
        )
        assert [] == box
        connector.wire.push(answer("accepted", "one"), incomplete("one"), successor("two", "one"))
        connector.wire.push(completed("two"))
        assert "two" == (await turn.result()).id
        assert "two" == turn.response_id

    assert ("applied", "steer_1") == (box[0].state, box[0].id)
    assert not box[0].open


# -- waiting for tool outputs ---------------------------------------------------------------


async def pending(conversation: Conversation) -> Steer:
    events, response, box = await steered(conversation)
    steer: Steer = box[0]
    assert "response.steer.pending" == events[-1].type
    assert ("completed", "pending") == (response.status, steer.state)
    return steer


OUTPUT = {"type": "function_call_output", "call_id": "call_1", "output": "1"}


async def test_pending_input_goes_before_the_outputs(autojump_clock) -> None:
    """The server puts it there: it is history, and not sent again on its lane."""
    async with (
        serving(Planner(CALLER), profile=OPENAI_SERVER) as world,
        world.pool(**STEERABLE) as pool,
        pool.conversation(model=MODEL, store=False) as conversation,
    ):
        await pending(conversation)
        items = conversation.items
        await conversation.respond([OUTPUT])
        assert 1 == conversation.statistics().delta_turns

    assert ["message", "function_call", "message"] == [item["type"] for item in items]
    assert (1, 4) == (world.ledger[-1]["input_items"], world.ledger[-1]["context_items"])
    assert context_digest([*items, OUTPUT]) == world.ledger[-1]["context_sha256"]


@pytest.mark.parametrize("store", [True, False])
async def test_pending_input_is_sent_where_nobody_holds_it(autojump_clock, store: bool) -> None:
    """Stored or not, another connection does not know it: the history is sent, with it in its place."""
    async with (
        serving(Planner(CALLER), profile=OPENAI_SERVER) as world,
        world.pool(**STEERABLE) as pool,
        pool.conversation(model=MODEL, store=store) as conversation,
    ):
        await pending(conversation)
        items = conversation.items
        pool.clear(interrupt=True)
        async with conversation.fork() as fork:
            await conversation.respond([OUTPUT])
            await fork.respond([OUTPUT])
        snapshot = conversation.snapshot()

    for entry in world.ledger[-2:]:
        assert (None, 4) == (entry["previous_response_id"], entry["input_items"])
        assert context_digest([*items, OUTPUT]) == entry["context_sha256"]
    assert snapshot["parent"] is not None


async def test_a_snapshot_knows_that_input_is_pending(autojump_clock) -> None:
    """Another process has another lane."""
    async with (
        serving(Planner(CALLER), profile=OPENAI_SERVER) as world,
        world.pool(**STEERABLE) as pool,
    ):
        async with pool.conversation(model=MODEL, store=True) as conversation:
            await pending(conversation)
            snapshot = conversation.snapshot()
        async with pool.conversation(resume=snapshot) as conversation:
            await conversation.respond([OUTPUT])

    assert (None, 4) == (world.ledger[-1]["previous_response_id"], world.ledger[-1]["input_items"])


# -- not taken ------------------------------------------------------------------------------


async def test_a_provider_without_steering_is_not_asked(autojump_clock) -> None:
    """A clear error, nothing sent, and the turn goes on."""
    connector = FakeConnector(echo)
    async with (
        fake_pool(connector, provider=wspool.AZURE) as pool,
        pool.lease() as lease,
        lease.create(model="m") as turn,
    ):
        with pytest.raises(SteeringRefusedError, match="provider has no steering") as caught:
            await turn.steer("x")
        await turn.result()

    assert ("not_sent", "steering_not_supported") == (caught.value.delivery, caught.value.code)
    assert 1 == len(connector.wire.requests)


async def test_the_server_may_refuse(autojump_clock) -> None:
    """Its reason is told, and the turn goes on."""
    async with (
        serving(Planner(TALKER), profile=OPENAI_SERVER) as world,
        world.pool(**STEERABLE) as pool,
        pool.conversation(model="gpt-5.2") as conversation,
    ):
        _, response, (error,) = await steered(conversation)
        assert ["Plan.", "Phase 1.", "Phase 2."] == [*map(words, conversation.items)]

    assert isinstance(error, SteeringRefusedError)
    assert ("terminal", "steering_not_supported") == (error.delivery, error.code)
    assert "Phase 1.Phase 2." == response.output_text


@pytest.mark.parametrize(
    ("first", "second", "code", "status"),
    [
        (attrs.evolve(TALKER, status="failed"), None, "response_not_active", "failed"),
        (
            TALKER,
            ModelTurn(status="rejected", error=TurnError(message="no")),
            "successor_creation_failed",
            "incomplete",
        ),
    ],
)
async def test_accepted_input_may_come_back(
    autojump_clock, first: ModelTurn, second: ModelTurn | None, code: str, status: str
) -> None:
    """The turn ends with the response that there is, and its steer says why nothing followed."""
    async with (
        serving(Planner(first, second), profile=OPENAI_SERVER) as world,
        world.pool(limits=policy(max_size=1), **STEERABLE) as pool,
    ):
        async with pool.conversation(model=MODEL, store=False) as conversation:
            _, response, (steer,) = await steered(conversation)
            history = [words(item) for item in conversation.items]
        assert (1, 1) == (pool.statistics().idle, pool.statistics().dialed)

    assert (status, "failed") == (response.status, steer.state)
    assert code == steer.error.code
    assert (["Plan.", "Phase 1."] if status == "incomplete" else []) == history


async def test_too_late(autojump_clock) -> None:
    """After the last event, and after the turn, nothing is sent."""
    connector = FakeConnector(echo)
    async with fake_pool(connector, **STEERABLE) as pool, pool.lease() as lease:
        turn = lease.create(model="m")
        with pytest.raises(wspool.PoolClosedError):
            await turn.steer("x")
        async with turn:
            await turn.result()
            with pytest.raises(SteeringRefusedError, match="not in progress") as caught:
                await turn.steer("x")
        with pytest.raises(wspool.PoolClosedError):
            await turn.steer("x")

    assert ("not_sent", "response_not_active") == (caught.value.delivery, caught.value.code)
    assert 1 == len(connector.wire.requests)


async def test_too_large(autojump_clock) -> None:
    """Nothing is sent, and the turn goes on."""
    connector = FakeConnector(lambda wire, _: wire.push(created("one")))
    provider = attrs.evolve(OPENAI, max_request=1000)
    async with (
        fake_pool(connector, provider=provider) as pool,
        pool.lease() as lease,
        lease.create(model="m") as turn,
    ):
        with pytest.raises(wspool.RequestTooLargeError):
            await turn.steer("x" * 1000)
        connector.wire.push(completed("one"))
        await turn.result()


async def test_a_response_may_end_before_the_steer_leaves(autojump_clock) -> None:
    """It was in line behind another message; its target is over, so it is not sent."""
    connector = FakeConnector(lambda wire, _: wire.push(created("one")))
    box: list[Any] = []
    async with (
        fake_pool(connector, **STEERABLE) as pool,
        pool.lease() as lease,
        trio.open_nursery() as nursery,
        lease.create(model="m") as turn,
    ):
        await trio.sleep(1)
        connector.wire.set(stuffed=True)
        nursery.start_soon(steer_later, turn, box, "one", 0.0)
        nursery.start_soon(steer_later, turn, box, "two", 1.0)
        await trio.sleep(2)
        connector.wire.push(answer("failed", "one"), completed("one"))
        await turn.result()
        connector.wire.set(stuffed=False)

    assert {"response_not_active", "no"} == {error.code for error in box}
    assert 2 == len(connector.wire.requests)


# -- a scripted server ----------------------------------------------------------------------


def answer(kind: str, target: str, name: str = "steer_1") -> dict[str, Any]:
    """What a server says about a steer."""
    about = {"previous_response_id": target}
    if kind == "failed":
        error = {"code": "no", "message": "No.", "type": "invalid_request_error"}
        return {"type": "response.steer.failed", "steer": about, "error": error}
    return {"type": f"response.steer.{kind}", "steer": {**about, "id": name}}


def incomplete(response_id: str) -> dict[str, Any]:
    """The early end of a steered response."""
    response = {"id": response_id, "status": "incomplete", "output": [said("so far")]}
    return {"type": "response.incomplete", "response": response}


def successor(response_id: str, parent: str) -> dict[str, Any]:
    """The first event of the one that follows."""
    return {"type": "response.created", "response": {"id": response_id, "previous_response_id": parent}}


Play = Callable[[FakeWire], None]


async def played(*plays: Play, **limits: Any) -> tuple[Any, Any, FakeConnector, Any]:
    """Steer a turn of a conversation, let the far end do what *plays* says, a second apart."""
    connector = FakeConnector(
        lambda wire, request: wire.push(created("one"), delta("a")) if "model" in request else None
    )
    steers: list[Any] = []
    outcomes: list[Any] = []
    async with (
        fake_pool(connector, limits=policy(max_size=1, **limits), **STEERABLE) as pool,
        pool.conversation(model="m", store=False) as conversation,
    ):
        async with trio.open_nursery() as nursery:
            turn = conversation.turn("Plan.")
            nursery.start_soon(run, turn, outcomes)
            await trio.sleep(2)
            nursery.start_soon(steer_later, turn, steers, "Shorter.", 0.0)
            for play in plays:
                await trio.sleep(1)
                play(connector.wire)
        return outcomes[0], steers[0], connector, conversation.items


async def run(turn: Turn, box: list[Any]) -> None:
    """Take *turn* to its end."""
    try:
        async with turn:
            box.append(await turn.result())
    except TurnLostError as error:
        box.append(error)


async def test_the_answer_may_come_after_the_end(autojump_clock) -> None:
    """The two crossed: the turn ends with the answer, and its connection is clean."""
    response, error, connector, _ = await played(
        lambda wire: wire.push(completed("one")),
        lambda wire: wire.push(answer("failed", "one")),
    )

    assert ("one", "no") == (response.id, error.code)
    assert 1 == connector.dials


async def test_accepted_after_the_end(autojump_clock) -> None:
    """Then a successor follows all the same."""
    response, steer, _, items = await played(
        lambda wire: wire.push(completed("one")),
        lambda wire: wire.push(answer("accepted", "one")),
        lambda wire: wire.push(successor("two", "one"), completed("two", "then")),
    )

    assert ("two", "applied") == (response.id, steer.state)
    assert ["Plan.", "ok", "Shorter.", "then"] == [words(item) for item in items]


@pytest.mark.parametrize("replay", ["proven", "always"])
@pytest.mark.parametrize(
    ("plays", "state"),
    [
        ([], "sent"),
        ([lambda wire: wire.push(answer("accepted", "one"))], "accepted"),
        ([lambda wire: wire.push(answer("accepted", "one"), incomplete("one"))], "accepted"),
        (
            [lambda wire: wire.push(answer("accepted", "one"), incomplete("one"), successor("two", "one"))],
            "applied",
        ),
    ],
)
@pytest.mark.parametrize("end", [lambda wire: wire.hang_up(1006), lambda wire: wire.push(LIMIT_FRAME)])
async def test_nothing_is_sent_again_in_doubt(
    autojump_clock, plays: list[Play], state: str, end: Play, replay: Any
) -> None:
    """The connection is lost after a steer: the error says what is known, whatever the replay policy."""
    lost, steer, connector, items = await played(*plays, end, replay=replay)

    assert isinstance(lost, TurnLostError)
    assert ("accepted", False) == (lost.delivery, lost.replayable)
    assert ("two" if state == "applied" else "one") == lost.response_id
    assert ["response.create", "response.steer"] == [request["type"] for request in connector.wire.requests]
    assert 1 == connector.dials
    assert [] == items
    if state == "sent":
        assert isinstance(steer, TurnLostError)
        assert "nobody knows" in str(steer)
    else:
        assert ("applied" if state == "applied" else "lost") == steer.state


@pytest.mark.hits("dirty: no answer to a steer")
async def test_a_server_that_forgets_the_answer(autojump_clock) -> None:
    """After a while the turn is lost: the input may have been taken, and another response may come."""
    lost, error, connector, _ = await played(lambda wire: wire.push(completed("one")))

    assert isinstance(lost, TurnLostError)
    assert isinstance(error, TurnLostError)
    assert "no answer to a steer" in str(lost)
    assert connector.wire.goodbye == 1006


async def test_each_response_has_a_grace_of_its_own(autojump_clock) -> None:
    """What was overdue of the one before, and came, costs the answer to the next steer no time."""

    def far(wire: FakeWire, request: dict[str, Any]) -> None:
        if "model" in request:
            wire.push(created("one"), delta("a"))

    connector = FakeConnector(far)
    outcomes: list[Any] = []
    steers: list[Any] = []
    async with (
        fake_pool(connector, limits=policy(max_size=1), **STEERABLE) as pool,
        pool.lease() as lease,
        trio.open_nursery() as nursery,
    ):
        turn = lease.create(model="m")
        nursery.start_soon(run, turn, outcomes)
        await trio.sleep(1)
        nursery.start_soon(steer_later, turn, steers)
        await trio.sleep(2)
        connector.wire.push(completed("one"))
        await trio.sleep(1)
        connector.wire.push(answer("accepted", "one"), successor("two", "one"), delta("b"))
        await trio.sleep(STEER_GRACE - 3)
        nursery.start_soon(steer_later, turn, steers, "Shorter still.")
        await trio.sleep(1.5)
        connector.wire.push(completed("two"))
        await trio.sleep(STEER_GRACE / 2)
        connector.wire.push(answer("failed", "two"))

    assert ["two"] == [getattr(outcome, "id", outcome) for outcome in outcomes]
    assert ["applied", "no"] == [getattr(steer, "state", None) or steer.code for steer in steers]


async def test_one_task_waits_for_an_answer(autojump_clock) -> None:
    """However much else the server says meanwhile."""
    tasks: list[int] = []

    def count() -> int:
        return trio.lowlevel.current_statistics().tasks_living

    def chatter(wire: FakeWire) -> None:
        tasks.append(count())
        wire.push(*({"type": "x.note"} for _ in range(100)))

    lost, *_ = await played(
        lambda wire: wire.push(completed("one")),
        chatter,
        lambda wire: tasks.append(count()),
        lambda wire: wire.push(answer("pending", "one")),
    )

    assert "one" == lost.id
    assert tasks[0] == tasks[1]


async def test_a_server_that_knows_no_steering(autojump_clock) -> None:
    """It refuses the type of the message: the turn goes on."""
    response, error, connector, _ = await played(
        lambda wire: wire.push(error_frame(None, 400, param="type")),
        lambda wire: wire.push(completed("one")),
    )

    assert "one" == response.id
    assert ("terminal", None) == (error.delivery, error.code)
    assert 1 == connector.dials


async def test_an_error_instead_of_a_successor(autojump_clock) -> None:
    """Nothing but the steer is open, so it is about that; the response is there."""
    response, steer, _, items = await played(
        lambda wire: wire.push(answer("accepted", "one"), incomplete("one")),
        lambda wire: wire.push(error_frame("rate_limit_exceeded", 429)),
    )

    assert ("one", "incomplete") == (response.id, response.status)
    assert ("failed", "rate_limit_exceeded") == (steer.state, steer.error.code)
    assert ["Plan.", "so far"] == [words(item) for item in items]


@pytest.mark.parametrize(
    "stray",
    [
        created("two"),
        successor("two", "zero"),
        completed("one"),
        delta("whose?"),
        answer("accepted", "foreign"),
    ],
)
@pytest.mark.hits("dirty: cannot be the turn's")
async def test_what_cannot_follow_ends_the_connection(autojump_clock, stray: dict[str, Any]) -> None:
    """Only what continues the steered response does."""
    lost, _, connector, _ = await played(
        lambda wire: wire.push(answer("accepted", "one"), incomplete("one")),
        lambda wire: wire.push(stray),
    )

    assert isinstance(lost, TurnLostError)
    assert "cannot belong to this turn" in str(lost)
    assert connector.wire.goodbye == 1006


async def test_cancelling_a_steer_takes_nothing_back(autojump_clock) -> None:
    """The message goes out whole, its answer counts, and the turn goes on."""
    connector = FakeConnector(lambda wire, request: wire.push(created("one")) if "model" in request else None)
    async with fake_pool(connector, **STEERABLE) as pool, pool.conversation(model="m") as conversation:
        async with conversation.turn("Plan.") as turn:
            await trio.sleep(1)
            connector.wire.set(stuffed=True)
            with trio.move_on_after(1) as scope:
                await turn.steer("Shorter.")
            assert scope.cancelled_caught
            connector.wire.set(stuffed=False)
            await trio.sleep(1)
            connector.wire.push(answer("accepted", "one"), incomplete("one"), successor("two", "one"))
            connector.wire.push(completed("two", "then"))
            assert "two" == (await turn.result()).id
        assert ["Plan.", "so far", "Shorter.", "then"] == [words(item) for item in conversation.items]

    assert 1 == connector.dials


async def test_leaving_the_turn_ends_the_wait(autojump_clock) -> None:
    """Nobody waits for an answer that nobody will read."""
    connector = FakeConnector(lambda wire, request: wire.push(created("one")) if "model" in request else None)
    box: list[Any] = []
    limits = policy(max_size=1, on_cancel="drain")
    async with (
        fake_pool(connector, limits=limits, **STEERABLE) as pool,
        pool.conversation(model="m") as conversation,
        trio.open_nursery() as nursery,
    ):
        async with conversation.turn("Plan.") as turn:
            await trio.sleep(1)
            nursery.start_soon(steer_later, turn, box)
            await trio.sleep(2)
        await trio.sleep(1)
        assert "nobody knows" in str(box[0])
        # The rest of it is drained, and the rest has a successor.
        connector.wire.push(answer("accepted", "one"), incomplete("one"))
        await trio.sleep(1)
        assert 1 == pool.statistics().draining
        connector.wire.push(successor("two", "one"), completed("two"))
        await trio.sleep(1)
        assert 0 == pool.statistics().draining

    assert 1 == connector.dials


async def test_steers_without_a_lane_find_theirs(autojump_clock) -> None:
    """Where lanes have names, the answer may name the response only."""
    lanes: dict[str, str] = {}

    def far(wire: FakeWire, request: dict[str, Any]) -> None:
        if "model" in request:
            name = lanes[request["input"]] = request["stream_id"]
            wire.push({**created(request["input"]), "stream_id": name})

    connector = FakeConnector(far)
    boxes: dict[str, list[Any]] = {"one": [], "two": []}
    ended: dict[str, str] = {}
    async with fake_pool(connector, limits=policy(max_size=1, lanes=2), **STEERABLE) as pool:

        async def run(name: str) -> None:
            async with pool.lease() as lease, lease.create(model="m", input=name) as turn:
                nursery.start_soon(steer_later, turn, boxes[name])
                ended[name] = (await turn.result()).id

        async with trio.open_nursery() as nursery:
            for name in boxes:
                nursery.start_soon(run, name)
            await trio.sleep(3)
            for name in boxes:
                connector.wire.push(answer("accepted", name), {**incomplete(name), "stream_id": lanes[name]})
                connector.wire.push({**successor(f"{name}2", name), "stream_id": lanes[name]})
            connector.wire.push(answer("accepted", "one", "another"))
            for name in boxes:
                connector.wire.push({**completed(f"{name}2"), "stream_id": lanes[name]})

    for name, (steer,) in boxes.items():
        assert (name, "applied", "steer_1") == (steer.target, steer.state, steer.id)
    assert {name: f"{name}2" for name in boxes} == ended


async def test_a_refusal_that_echoes_the_key_does_not_show_it(autojump_clock) -> None:
    """The pool knows what it has sent to this endpoint."""

    def answer(wire: FakeWire, request: dict[str, Any]) -> None:
        if request["type"] == "response.create":
            wire.push(created("r1"), delta("a"))
        else:
            error = {"code": CANARY, "message": f"no key {CANARY}"}
            about = {"previous_response_id": "r1"}
            wire.push({"type": "response.steer.failed", "steer": about, "error": error})
            wire.push(completed("r1"))

    async with (
        fake_pool(FakeConnector(answer), **STEERABLE) as pool,
        pool.conversation(model=MODEL) as conversation,
        conversation.turn("hi") as turn,
    ):
        with pytest.raises(SteeringRefusedError, match="no key <hidden>") as caught:
            await turn.steer("more")
        assert "<hidden>" == caught.value.code
        await turn.result()
