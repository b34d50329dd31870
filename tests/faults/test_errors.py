"""What the server says when it says no, and the ends of turns and connections that it announces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import wspool
from wspool.server import (
    NO_WARM_UP,
    REFUSES_BUSY,
    RETRY_AFTER,
    UNANNOUNCED,
    XAI,
    Fault,
    FaultRule,
    LimitMode,
    ModelTurn,
    ScriptedModel,
    ServerProfile,
    TurnError,
    message,
)

from .scene import EVENTS, QUESTION, Make, faulty

#: Shapes of an error frame that end a request before it began, and the code each can carry.
SHAPES = {
    "nested": "server_error",
    "flat": "server_error",
    "status_code": "server_error",
    "with_headers": "server_error",
    "in_body": "server_error",
    "without_status": "server_error",
    "in_stream": "server_error",
    "response_error": "server_error",
    "without_code": None,
    "null_code": None,
    "status_only": None,
    "null": None,
    "string": None,
    "nothing": None,
}


#: What a single request shows: by default a refusal that may pass is sent again after a wait.
ONCE = {"max_resends": 0}


@pytest.mark.parametrize("name", ["error", "overloaded", "stream_limit_reached", "rate_limited"])
async def test_f55_refused(make: Make, name: str, autojump_clock) -> None:
    """F55: an error frame before `response.created` -> `ResponseFailedError` with code and status; the
    connection is clean and stays, nothing is sent again by itself.
    """
    async with faulty(make, Fault(name), limits=ONCE) as scene:
        story = await scene.ask()
        assert isinstance(story.error, wspool.ResponseFailedError)
        assert (None, []) == (story.error.response_id, story.events)
        assert [(1, "rejected")] == scene.outcomes
        assert scene.ledger[0]["error_code"] == story.error.code
        await scene.assert_well(creates=1, connection=1)


@pytest.mark.parametrize("shape", SHAPES)
async def test_f56_shapes_of_errors(make: Make, shape: str, autojump_clock) -> None:
    """F56: the error has no code, no `error` object, only a status, `null`, a string -> `ResponseFailedError`
    with whatever there is; `raw` is the frame as it came.
    """
    async with faulty(make, Fault("error", shape=shape), limits=ONCE) as scene:
        error = (await scene.ask()).assert_failed(wspool.ResponseFailedError, SHAPES[shape])
        assert str(error.raw["type"]).endswith("error")
        await scene.assert_well(creates=1, connection=1)


@pytest.mark.parametrize("name", ["error", "stream_error"])
async def test_f57_error_in_mid_turn(make: Make, name: str, autojump_clock) -> None:
    """F57: an error frame in mid-turn, and no `response.failed` after it -> `ResponseFailedError` with the
    response's id and the events so far delivered, after a grace of 5 s; the connection is gone.
    """
    async with faulty(make, Fault(name, at="delta")) as scene:
        story = await scene.ask()
        error = story.assert_failed(wspool.ResponseFailedError, "server_error")
        assert scene.ledger[0]["response_id"] == error.response_id
        assert [*EVENTS[:4], "error"] == story.types
        assert story.took <= 5
        # An error says nothing about the lane; only a terminal event does.
        await scene.assert_well(creates=1, connection=2)


@pytest.mark.parametrize("times", [1, 2])
async def test_f58_parent_lost(make: Make, times: int, autojump_clock) -> None:
    """F58: `previous_response_not_found` -> nothing: the conversation is sent in full, once, on the same
    connection. The second time, when none was named: `PreviousResponseNotFoundError`, and the connection is
    gone; on a bare lease: the same, and it stays.
    """
    async with faulty(make, *(FaultRule(Fault("parent_lost"), create=2 + n) for n in range(times))) as scene:
        async with scene.pool.conversation(model="m") as conversation:
            (await scene.ask("one", conversation=conversation)).assert_answer("one")
            story = await scene.ask("two", conversation=conversation)
            if times == 1:
                story.assert_answer("two")
            else:
                story.assert_failed(wspool.PreviousResponseNotFoundError, "previous_response_not_found")

        assert [True, False] == [entry["parent_was_latest"] for entry in scene.ledger[1:]]
        assert [1, 1, 3] == [entry["input_items"] for entry in scene.ledger]
        assert {1} == {entry["connection"] for entry in scene.ledger}
        await scene.assert_well(creates=3, connection=times)


async def test_f58_parent_lost_on_a_lease(make: Make, autojump_clock) -> None:
    """F58: a bare lease names a parent that is gone -> `PreviousResponseNotFoundError`, and nothing else."""
    async with faulty(make) as scene:
        async with scene.pool.lease() as lease:
            story = await scene.ask_bare(lease, previous_response_id="resp_gone")
            story.assert_failed(wspool.PreviousResponseNotFoundError, "previous_response_not_found")
        await scene.assert_well(creates=1, connection=1)


@pytest.mark.parametrize("status", ["failed", "rejected"])
async def test_f59_failure_evicts(make: Make, status: Any, autojump_clock) -> None:
    """F59: a turn fails, and with it the server forgets the parent -> `ResponseFailedError`; the next turn
    is sent in full, with the history as it was before.
    """
    script = [
        ModelTurn(output=[message("one")]),
        ModelTurn(status=status, error=TurnError(code="server_error", message="Oh.")),
    ]
    async with (
        faulty(make, model=ScriptedModel(script), limits=ONCE) as scene,
        scene.pool.conversation(model="m", store=False) as conversation,
    ):
        (await scene.ask(conversation=conversation)).assert_answer("one")
        for _ in range(2):
            before = conversation.items
            story = await scene.ask(conversation=conversation)
            assert (before, "terminal") == (conversation.items, story.delivery)
        assert [1, 1, 3] == [entry["input_items"] for entry in scene.ledger]
        assert [True, False] == [bool(entry["previous_response_id"]) for entry in scene.ledger[1:]]
        assert {1} == {entry["connection"] for entry in scene.ledger}
        assert "previous_response_not_found" not in [entry["error_code"] for entry in scene.ledger]


@pytest.mark.parametrize("code", [1000, None])
async def test_f60_limit_while_idle(make: Make, code: int | None, autojump_clock) -> None:
    """F60: `websocket_connection_limit_reached` on an idle connection -> nothing: it is retired, the next
    turn goes out in full on another.
    """
    fault = Fault("connection_limit", at="idle", delay=5, code=code)
    async with faulty(make, fault) as scene, scene.pool.conversation(model="m") as conversation:
        (await scene.ask("one", conversation=conversation)).assert_answer("one")
        await trio.sleep(6)
        assert (0, {"limit": 1}) == (scene.pool.statistics().size, scene.closed)
        (await scene.ask("two", conversation=conversation)).assert_answer("two", took=0)
        assert [(1, "completed"), (2, "completed")] == scene.outcomes
        conversation.close()
        await scene.assert_well(creates=2, connection=2)


async def test_f61_limit_before_created(make: Make, autojump_clock) -> None:
    """F61: `websocket_connection_limit_reached` as the answer to a turn -> nothing: it was refused, and is
    sent again on a new connection. On a bare lease: `ConnectionLimitError`.
    """
    faults = Fault("connection_limit"), FaultRule(Fault("connection_limit"), create=3)
    async with faulty(make, *faults) as scene:
        (await scene.ask()).assert_answer(took=0)
        assert [(1, "rejected"), (2, "completed")] == scene.outcomes
        async with scene.pool.lease() as lease:
            story = await scene.ask_bare(lease)
            error = story.assert_failed(
                wspool.ConnectionLimitError, "websocket_connection_limit_reached", delivery="terminal"
            )
            assert error.response_id is None
        await scene.assert_well(creates=3, connection=3)
        assert {"limit": 2} == scene.closed


@pytest.mark.parametrize(("at", "events"), [("delta", 4), ("response.in_progress", 1)])
async def test_f61_limit_in_mid_turn(make: Make, at: str, events: int, autojump_clock) -> None:
    """F61: the same once the response has begun, before any output or in the middle of it -> `TurnLostError`
    at once: `accepted`; nothing is sent again.
    """
    async with faulty(make, Fault("connection_limit", at=at)) as scene:
        lost = (await scene.ask()).assert_lost("accepted", events=events)
        assert "lifetime limit" in str(lost)
        await scene.assert_well(creates=1, connection=2)
        assert {"limit": 1} == scene.closed


@pytest.mark.parametrize("mode", ["on_next_create", "while_idle", "mid_turn", "silent_close"])
@pytest.mark.parametrize("profile", [XAI, UNANNOUNCED], ids=lambda profile: profile.name)
async def test_f62_lifetime_limit(
    make: Make, profile: ServerProfile, mode: LimitMode, autojump_clock
) -> None:
    """F62: a limit of 25 minutes, in whatever form it comes -> nothing: with the `Provider` that says so the
    conversation has moved before.
    """
    async with faulty(
        make,
        profile=attrs.evolve(profile, lifetime=1500.0, limit_mode=mode),
        pool_options={"provider": wspool.XAI},
        delay_per_token=20,
    ) as scene:
        async with scene.pool.conversation(model="m") as conversation:
            for number in range(60):
                (await scene.ask(f"turn number {number}", conversation=conversation)).assert_answer(
                    f"turn number {number}"
                )
            assert conversation.statistics().moves >= 2
        assert {"completed"} == {entry["outcome"] for entry in scene.ledger}
        assert 60 == scene.server.statistics().creates
        assert 120 == len(conversation.items)
        assert {"lifetime"} == set(scene.closed)


@pytest.mark.parametrize("mode", ["on_next_create", "while_idle", "mid_turn", "silent_close"])
async def test_f62_limit_never_announced(make: Make, mode: LimitMode, autojump_clock) -> None:
    """F62: the limit comes by surprise -> nothing between turns; in mid-turn `TurnLostError`: `accepted`,
    and the conversation goes on.
    """
    profile = attrs.evolve(UNANNOUNCED, lifetime=200.0, limit_mode=mode)
    lost = 0
    async with faulty(make, profile=profile, delay_per_token=20) as scene:
        async with scene.pool.conversation(model="m") as conversation:
            for number in range(20):
                story = await scene.ask(f"turn number {number}", conversation=conversation)
                if story.error is not None:
                    assert isinstance(story.error, wspool.TurnLostError)
                    assert "accepted" == story.delivery
                    lost += 1
            assert 2 * (20 - lost) == len(conversation.items)
        await wait_all_tasks_blocked()  # the server writes down what it has cut
        refused = sum(entry["outcome"] == "rejected" for entry in scene.ledger)
        assert 20 == scene.server.statistics().creates - refused, "sent again only what was refused"
        assert (lost > 0) == (mode in ("mid_turn", "silent_close"))
        assert lost == sum(entry["outcome"] == "lost" for entry in scene.ledger)


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (Fault("failed"), "failed"),
        (Fault("incomplete", reason="max_output_tokens"), "incomplete"),
        (Fault("incomplete", reason="content_filter"), "incomplete"),
        (Fault("incomplete", reason="steered"), "incomplete"),
    ],
    ids=str,
)
async def test_f63_other_ends(make: Make, fault: Fault, status: str, autojump_clock) -> None:
    """F63: `response.failed` or `response.incomplete` -> a result: `turn.response.status` says so; `respond`
    raises `ResponseFailedError` for `failed` and returns `incomplete`.
    """
    async with faulty(make, fault, FaultRule(fault, create=2)) as scene:
        story = await scene.ask()
        assert story.error is None
        assert story.response is not None
        assert (status, "terminal") == (story.response.status, story.delivery)
        assert f"response.{status}" == story.types[-1]
        async with scene.pool.conversation(model="m") as conversation:
            if status == "incomplete":
                assert "incomplete" == (await conversation.respond(QUESTION)).status
            else:
                with pytest.raises(wspool.ResponseFailedError, match="server_error"):
                    await conversation.respond(QUESTION)
        await scene.assert_well(creates=2, connection=1)


async def test_f63_steered(make: Make, autojump_clock) -> None:
    """F63: `response.incomplete` because the response was steered -> the turn goes on with the response that
    follows, and ends with that.
    """
    async with (
        faulty(make, delay_per_token=1, pool_options={"provider": wspool.OPENAI}) as scene,
        scene.pool.conversation(model="gpt-6") as conversation,
        conversation.turn(QUESTION) as turn,
    ):
        ends: list[str] = []
        steer = None
        async for event in turn:
            if event.type in ("response.incomplete", "response.completed"):
                ends.append(event.type)
            if steer is None and event.type == "response.output_text.delta":
                steer = await turn.steer("Shorter.")
        assert ["response.incomplete", "response.completed"] == ends
        assert ("Shorter.", "completed") == (turn.response.output_text, turn.response.status)
        assert [("incomplete", False), ("completed", True)] == [
            (entry["outcome"], entry["automatic"]) for entry in scene.ledger
        ]


#: The spellings that name a time to wait.
HINTS = sorted(set(RETRY_AFTER) - {"absurd", "negative", "absent"})


@pytest.mark.parametrize("spelling", HINTS)
async def test_f64_rate_limited(make: Make, spelling: str, autojump_clock) -> None:
    """F64: a rate limit with `Retry-After` in any spelling -> `RateLimitedError` with `retry_after` in
    seconds; the connection stays.
    """
    async with faulty(make, Fault("rate_limited", retry_after=7, spelling=spelling), limits=ONCE) as scene:
        story = await scene.ask()
        error = story.assert_failed(wspool.RateLimitedError, "rate_limit_exceeded")
        assert error.retry_after is not None
        assert 7 <= error.retry_after + 1e-6
        assert error.retry_after <= 8 + 1e-6
        await scene.assert_well(creates=1, connection=1)


@pytest.mark.parametrize("spelling", ["absurd", "negative", "absent"])
async def test_f64_rate_limited_without_hint(make: Make, spelling: str, autojump_clock) -> None:
    """F64: a rate limit without a usable hint -> `RateLimitedError` with `retry_after` None or 0."""
    async with faulty(make, Fault("rate_limited", spelling=spelling), limits=ONCE) as scene:
        error = (await scene.ask()).assert_failed(wspool.RateLimitedError, "rate_limit_exceeded")
        assert not error.retry_after
        await scene.assert_well(creates=1, connection=1)


async def test_f64_rate_limit_is_for_everybody(make: Make, autojump_clock) -> None:
    """F64: after a rate limit -> the turn is sent again when the server allows it; others wait as long."""
    async with faulty(make, Fault("rate_limited", retry_after=7), limits={"max_size": 2}) as scene:
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scene.ask)
            await trio.sleep(1)
            (await scene.ask()).assert_answer()
            assert trio.current_time() - began >= 7
        assert ["rejected", "completed", "completed"] == [entry["outcome"] for entry in scene.ledger]


@pytest.mark.parametrize(
    ("name", "code"),
    [("stream_limit_reached", "websocket_stream_limit_reached"), ("busy", "concurrent_request")],
)
async def test_f65_lane_limits(make: Make, name: str, code: str, autojump_clock) -> None:
    """F65: `websocket_stream_limit_reached`, or a lane that is busy -> `ResponseFailedError` with the code;
    nothing is sent again; a busy connection, on which something runs that nobody knows of, is gone.
    """
    async with faulty(make, Fault(name)) as scene:
        (await scene.ask()).assert_failed(wspool.ResponseFailedError, code)
        assert [(1, "rejected")] == scene.outcomes
        await scene.assert_well(creates=1, connection=2 if name == "busy" else 1)


WARM = {"warm_up": {"model": "m"}}


async def test_f66_warm_up(make: Make, autojump_clock) -> None:
    """F66: a warm-up is answered -> nothing; the first turn of equal context continues from it."""
    async with faulty(make, limits={"min_idle": 1}, pool_options=WARM) as scene:
        await scene.pool.wait_ready(1)
        await trio.sleep(1)
        (await scene.ask()).assert_answer(took=0)
        warm_up, turn = [entry for entry in scene.ledger if entry["connection"] == 1]
        assert (False, True) == (warm_up["generate"], turn["generate"])
        assert warm_up["response_id"] == turn["previous_response_id"]


async def test_f66_warm_up_unanswered(make: Make, autojump_clock) -> None:
    """F66: a warm-up is never answered -> nothing: a turn does not wait for it, and its connection is given
    up after `connect_timeout`.
    """
    async with faulty(make, Fault("unanswered"), limits={"min_idle": 1}, pool_options=WARM) as scene:
        await trio.sleep(1)
        (await scene.ask()).assert_answer(took=0)
        await trio.sleep(16)
        assert {"dirty": 1} == scene.closed
        assert [(1, False), (2, True)] == sorted(
            (e["connection"], e["generate"]) for e in scene.ledger if e["connection"] < 3
        )


async def test_f66_warm_up_generates(make: Make, autojump_clock) -> None:
    """F66: a warm-up is answered by a full response -> nothing: no conversation sees what it said."""
    async with faulty(make, profile=NO_WARM_UP, limits={"min_idle": 1}, pool_options=WARM) as scene:
        await scene.pool.wait_ready(1)
        await trio.sleep(1)
        story = await scene.ask()
        story.assert_answer(took=0)
        assert list(EVENTS) == story.types
        assert {} == scene.closed


async def test_f67_second_create(make: Make, autojump_clock) -> None:
    """F67: a second turn beside one in flight -> `TurnInFlightError`; nothing is sent, the first goes on."""
    async with faulty(make, profile=REFUSES_BUSY, delay_per_token=1) as scene:
        async with scene.pool.lease() as lease, lease.create(model="m", input=QUESTION) as turn:
            await anext(turn)
            story = await scene.ask_bare(lease, "another")
            assert isinstance(story.error, wspool.TurnInFlightError)
            assert "not_sent" == story.delivery
            assert QUESTION == (await turn.result()).output_text
        async with scene.pool.conversation(model="m") as conversation, conversation.turn(QUESTION) as turn:
            await anext(turn)
            assert isinstance(
                (await scene.ask("another", conversation=conversation)).error, wspool.TurnInFlightError
            )
            assert QUESTION == (await turn.result()).output_text
        await scene.assert_well(creates=2, connection=1)


def naming_a_parent(body: Mapping[str, Any]) -> bool:
    """Whether a request names one."""
    return body.get("previous_response_id") is not None


BAD_REQUEST: dict[str, Any] = {"status": 400, "type": "invalid_request_error"}

#: Ways to say that the parent, or what hangs on it, is not known.
OTHER_WORDS: dict[str, dict[str, Any]] = {
    "backticks": {"code": None, "message": "Invalid `previous_response_id`."},
    "another code": {"code": "invalid_value", "message": "not found", "param": "previous_response_id"},
    "404": {"status": 404, "code": None, "message": "Response with id 'resp_1' not found."},
    "a call": {"code": None, "message": "No tool call found for function call output.", "param": "input"},
    "no words": {"code": None, "message": ""},
    "another language": {"code": "unbekannt", "message": "Antwort nicht gefunden", "status": 422},
    "stale": {"code": "codex_previous_response_stale", "message": "stale"},
}


@pytest.mark.parametrize("words", OTHER_WORDS)
async def test_f95_parent_refused(make: Make, words: str, autojump_clock) -> None:
    """F95: a request that names a parent is refused in whatever words, before it ran -> nothing: it is sent
    once in full, on the same connection, and the next turn goes on from that answer.
    """
    said = {**BAD_REQUEST, **OTHER_WORDS[words]}
    rule = FaultRule(Fault("error", **said), body=naming_a_parent, times=1)
    async with faulty(make, rule) as scene:
        async with scene.pool.conversation(model="m") as conversation:
            for text in ("one", "two", "three"):
                (await scene.ask(text, conversation=conversation)).assert_answer(text)
        assert [(1, "completed"), (1, "rejected"), (1, "completed"), (1, "completed")] == scene.outcomes
        assert [False, True, False, True] == [bool(entry["previous_response_id"]) for entry in scene.ledger]
        await scene.assert_well(creates=4, connection=1)


@pytest.mark.parametrize(
    ("said", "requests"),
    [
        ({"status": 401, "code": "invalid_api_key"}, 2),
        ({"status": 402, "code": "billing_not_active"}, 2),
        ({"status": 429, "code": "insufficient_quota"}, 2),
        ({"status": 400, "code": "context_length_exceeded"}, 2),
        ({"status": 400, "code": "cyber_policy"}, 2),
    ],
    ids=str,
)
async def test_f95_refused_for_good(make: Make, said: dict[str, Any], requests: int, autojump_clock) -> None:
    """F95: the same for a reason that the whole history would meet as well (key, credit, content) ->
    `ResponseFailedError` with `permanent`; nothing is sent again.
    """
    rule = FaultRule(Fault("error", **BAD_REQUEST | said), body=naming_a_parent, times=None)
    async with faulty(make, rule) as scene:
        async with scene.pool.conversation(model="m") as conversation:
            (await scene.ask("one", conversation=conversation)).assert_answer("one")
            error = (await scene.ask("two", conversation=conversation)).error
            assert isinstance(error, wspool.ResponseFailedError)
            assert (said["code"], True, False) == (error.code, error.permanent, error.may_pass)
        await scene.assert_well(creates=requests, connection=1)


async def test_f95_refused_in_full_as_well(make: Make, autojump_clock) -> None:
    """F95: the request is refused in full as well -> `ResponseFailedError`: never more than one more send."""
    fault = Fault("error", **BAD_REQUEST, code=None, message="Unsupported parameter: user")
    async with faulty(make, FaultRule(fault, body=lambda body: body.get("user") == "u", times=None)) as scene:
        async with scene.pool.conversation(model="m") as conversation:
            (await scene.ask("one", conversation=conversation)).assert_answer("one")
            for sent in (3, 4):
                story = await scene.ask("two", conversation=conversation, user="u")
                story.assert_failed(wspool.ResponseFailedError, None)
                assert sent == len(scene.ledger)
            (await scene.ask("three", conversation=conversation)).assert_answer("three")
        await scene.assert_well(creates=5, connection=1)


class Ear(wspool.Instrument):
    """Hears what is said once."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def endpoint_unchained(self, message: str) -> None:
        self.heard.append(message)


@pytest.mark.parametrize(
    ("said", "found_out_after"),
    [
        ({"code": "unsupported_parameter", "param": "previous_response_id", "message": "No such field"}, 1),
        ({"code": None, "message": "Unsupported parameter: previous_response_id"}, 1),
        ({"code": None, "message": "unbekannt"}, 2),
        ({"code": "previous_response_not_found", "message": "gone", "param": "previous_response_id"}, 2),
    ],
    ids=str,
)
async def test_f96_no_parents(
    make: Make, said: dict[str, Any], found_out_after: int, autojump_clock, caplog
) -> None:
    """F96: the endpoint takes no `previous_response_id` at all -> nothing: after the first refusal of the
    field, or two of parents that it must have had, all turns of the pool are sent in full; the log and the
    instrument's `endpoint_unchained` say so, once.
    """
    ear = Ear()
    rule = FaultRule(Fault("error", **BAD_REQUEST, **said), body=naming_a_parent, times=None)
    async with faulty(make, rule, pool_options={"instrument": ear}) as scene:
        for _ in range(2):
            async with scene.pool.conversation(model="m") as conversation:
                for text in ("one", "two", "three", "four"):
                    (await scene.ask(text, conversation=conversation)).assert_answer(text)
        assert found_out_after == scene.outcomes.count((1, "rejected"))
        assert 8 + found_out_after == len(scene.ledger)
        assert 1 == len(ear.heard)
        assert said["message"] in ear.heard[0]
        assert 1 == sum("takes no previous_response_id" in record.message for record in caplog.records)
        await scene.assert_well(creates=8 + found_out_after, connection=1)


async def test_f64_a_wait_for_the_caller(make: Make, autojump_clock) -> None:
    """F64: a rate limit that asks for more than an hour -> `RateLimitedError` at once, with `retry_after` as
    it was said and `may_pass`; nobody else waits.
    """
    async with faulty(make, Fault("rate_limited", retry_after=25_923, spelling="message")) as scene:
        story = await scene.ask()
        error = story.assert_failed(wspool.RateLimitedError, "rate_limit_exceeded")
        assert (25_923, True, False) == (error.retry_after, error.may_pass, error.permanent)
        assert story.took < 1
        (await scene.ask()).assert_answer(took=1)
