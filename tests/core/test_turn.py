"""One response from its request to its end, over every order of events that a server can produce."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from wspool.core.commands import CloseReason
from wspool.core.events.classify import is_harmless
from wspool.core.events.past import Past
from wspool.core.events.trust import Trust
from wspool.core.events.turn import Delivery, Reception, TurnMachine, TurnState
from wspool.core.frames import Event, MalformedMessageError, parse_event
from wspool.core.server_error import ServerError

TRANSCRIPTS: list[dict[str, Any]] = [
    json.loads(line) for line in Path(__file__).with_name("transcripts.jsonl").read_text().splitlines()
]

#: How each request of a transcript ends: status, response id, error code.
ENDINGS: dict[str, list[tuple[str | None, str | None, str | None]]] = {
    "T1": [("completed", "resp_1", None)],
    "T2": [("completed", "resp_2", None), ("completed", "resp_3", None)],
    "T3": [("completed", "resp_4", None)],
    "T4": [("completed", "resp_w", None), ("completed", "resp_5", None)],
    "T5": [("rejected", None, "previous_response_not_found"), (None, None, None)],
    "T6": [(None, None, None), ("rejected", None, None), ("rejected", None, "previous_response_not_found")],
    "T7": [("failed", "resp_6", "server_error")],
    "T8": [("incomplete", "resp_7", None)],
    "T9": [("rejected", None, "websocket_connection_limit_reached")],
    "T10": [("rejected", None, "rate_limit_exceeded")],
}

OURS, PARENT, FOREIGN = "resp_ours", "resp_parent", "resp_foreign"
ORDER: tuple[Delivery, ...] = ("not_sent", "ambiguous", "accepted", "terminal")
OUTPUT = [{"id": "msg_1", "type": "message"}, {"id": "fc_1", "type": "function_call"}]

CONNECTION_TYPES = (
    "keepalive",
    "ping",
    "codex.rate_limits",
    "codex.response.metadata",
    "response.metadata",
    "responsesapi.websocket_timing",
)
REFUSAL = {"type": "error", "status": 400, "error": {"code": "invalid_prompt", "message": "No."}}
STREAM_ERROR = {"type": "error", "sequence_number": 3, "error": {"code": "server_error", "message": "Oh."}}
LIMIT = {"type": "error", "status": 400, "error": {"code": "websocket_connection_limit_reached"}}
EXPIRING = {"type": "error", "status": 400, "error": {"code": "connection_expiring"}}
DELTA = {"type": "response.output_text.delta", "delta": "a"}


def event(**fields: Any) -> Event:
    return parse_event(json.dumps(fields))


def about(kind: str, id: str | None = OURS, **response: Any) -> Event:
    """A lifecycle event with a response in it."""
    return event(type=f"response.{kind}", response={"id": id, **response})


def item_done(index: int) -> Event:
    return event(type="response.output_item.done", output_index=index, item=OUTPUT[index])


def sent(parent: str | None = None, past: Past | None = None, *, exact: bool = True) -> TurnMachine:
    machine = TurnMachine(parent, None, past, trust=Trust(exact=exact))
    machine.handed()
    return machine


def streaming(past: Past | None = None, *, exact: bool = True) -> TurnMachine:
    machine = sent(past=past, exact=exact)
    machine.receive(about("created"))
    return machine


def failing() -> TurnMachine:
    machine = streaming()
    machine.receive(event(**STREAM_ERROR))
    return machine


def ended() -> TurnMachine:
    machine = streaming()
    machine.receive(about("completed"))
    return machine


# -- transcripts ----------------------------------------------------------------------------


def requests_of(name: str) -> list[tuple[dict[str, Any], list[Event]]]:
    """The requests of one transcript, each with what the server answered."""
    found: list[tuple[dict[str, Any], list[Event]]] = []
    for line in TRANSCRIPTS:
        if line["t"] == name and line["dir"] == "client":
            found.append((line["frame"], []))
        elif line["t"] == name and line["dir"] == "server":
            found[-1][1].append(event(**line["frame"]))
    return found


@pytest.mark.parametrize("name", ENDINGS)
def test_a_transcript_ends_as_it_should(name: str) -> None:
    """Every request of it comes to its one end, at its last event and not before."""
    found = []
    for request, events in requests_of(name):
        machine = sent(request.get("previous_response_id"))
        receptions = [machine.receive(each) for each in events]
        found.append((machine.status, machine.response_id, machine.error.code if machine.error else None))

        assert [Reception.DELIVER] * (len(events) - 1) + [Reception.END] * bool(events) == receptions

    assert ENDINGS[name] == found


@pytest.mark.parametrize("name", ENDINGS)
def test_a_transcript_cut_anywhere_is_known_exactly(name: str) -> None:
    """Before the first event nothing is known, until the last one the server has begun."""
    for request, events in requests_of(name):
        machine = sent(request.get("previous_response_id"))
        known = [machine.delivery]
        for each in events:
            machine.receive(each)
            known.append(machine.delivery)

        assert ["ambiguous", *["accepted"] * (len(events) - 1), *["terminal"] * bool(events)] == known


@pytest.mark.parametrize("name", ["T1", "T2", "T3", "T4", "T8"])
@pytest.mark.parametrize("left", [{}, {"output": []}, {"output": None}])
def test_an_output_left_out_is_put_together(name: str, left: dict[str, Any]) -> None:
    """A terminal event without its output gives the response that one with it gives."""
    for request, events in requests_of(name):
        *before, last = events
        whole = last.data["response"]
        machine = sent(request.get("previous_response_id"))
        for each in before:
            machine.receive(each)
        rest = {field: value for field, value in whole.items() if field != "output"}
        machine.receive(event(type=last.type, response=rest | left))

        assert machine.response is not None
        assert whole["output"] == (machine.response["output"] or [])


# -- any order of events --------------------------------------------------------------------

EVENTS = [
    *(
        about(kind, id)
        for kind in ("created", "in_progress", "queued")
        for id in (OURS, PARENT, FOREIGN, None)
    ),
    *(about(kind, id) for kind in ("completed", "failed", "incomplete") for id in (OURS, FOREIGN, None)),
    event(type="response.created"),
    event(type="response.completed", response=[]),
    event(**DELTA),
    item_done(0),
    item_done(1),
    event(**REFUSAL),
    event(**STREAM_ERROR),
    event(**EXPIRING),
    event(**LIMIT),
    event(type="response.error", error={"message": "Oh."}),
    event(type="openagents:status"),
    *(event(type=kind) for kind in CONNECTION_TYPES),
]
#: What a real server is likely to send, so that long turns are found as well.
LIKELY = [about("created"), event(**DELTA), item_done(0), about("completed"), event(**STREAM_ERROR)]
STEPS = st.lists(st.sampled_from(LIKELY) | st.sampled_from(EVENTS) | st.just("expire"), max_size=12)


@given(STEPS, st.integers(0, 3), st.sampled_from([None, PARENT]))
def test_in_any_order_a_turn_ends_at_most_once(steps: list[Any], handed_at: int, parent: str | None) -> None:
    """What is known only grows, the end comes once, and nothing is delivered outside the turn."""
    machine = TurnMachine(parent)
    ends = 0
    for index, step in enumerate(steps):
        if index == handed_at:
            machine.handed()
        before, state = machine.delivery, machine.state
        if step == "expire":
            machine.expire_failing()
            assert state in (machine.state, TurnState.FAILING)
            continue
        reception = machine.receive(step)
        ends += reception is Reception.END

        assert ORDER.index(before) <= ORDER.index(machine.delivery)
        assert (reception is Reception.END) == (before != "terminal" and machine.delivery == "terminal")
        if state in (TurnState.NEW, TurnState.ENDED):
            assert reception in (Reception.IGNORE, Reception.DIRTY, Reception.EXPIRING)
        if reception in (Reception.IGNORE, Reception.DIRTY, Reception.EXPIRING, Reception.CUT):
            assert state is machine.state
        if is_harmless(step):
            assert reception in (Reception.IGNORE, Reception.DELIVER)
        assert machine.response_id in (None, OURS, FOREIGN, PARENT if parent is None else OURS)
        assert (machine.response_id is None) or machine.state is not TurnState.SENT
        assert (machine.status is None) == (machine.state is not TurnState.ENDED)

    assert ends <= 1


NUMBERS = st.none() | st.integers(0, 4)


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), NUMBERS, st.sampled_from(["i", "j"])), max_size=12)
)
def test_the_shortcut_for_more_of_the_same_changes_nothing(deltas: list[tuple[str, int | None, str]]) -> None:
    """A turn that looks into every event anew makes the same of each, also of what an earlier item said."""

    def begun() -> TurnMachine:
        past = Past()
        past.end([{"id": "j"}])
        return streaming(past)

    short, thorough = begun(), begun()
    for kind, number, item in deltas:
        count = {} if number is None else {"sequence_number": number}
        given = event(type=f"response.output_{kind}.delta", item_id=item, **count)
        thorough._kind = ""

        assert short.receive(given) is thorough.receive(given)
        assert (short.state, short._known.next) == (thorough.state, thorough._known.next)


@given(st.lists(st.sampled_from(EVENTS), max_size=8), st.sampled_from(["completed", "failed", "incomplete"]))
def test_another_response_never_ends_the_turn(noise: list[Event], kind: str) -> None:
    """Whatever came before, a terminal event of a foreign id is dropped, and no other turn may follow."""
    machine = streaming()
    for each in noise:
        machine.receive(each)
    state, response = machine.state, machine.response
    dropped = Reception.DIRTY if state is TurnState.ENDED else Reception.IGNORE

    assert dropped is machine.receive(about(kind, FOREIGN))
    assert (state, response) == (machine.state, machine.response)
    assert machine.suspect


# -- delivery -------------------------------------------------------------------------------


def test_a_new_turn_is_not_sent() -> None:
    """Before it is handed over, no event can be its answer."""
    machine = TurnMachine()

    assert "not_sent" == machine.delivery
    assert machine.status is None
    assert Reception.DIRTY is machine.receive(about("created"))
    assert "not_sent" == machine.delivery


@pytest.mark.hits("turn: new, handed")
def test_a_turn_is_handed_over_once() -> None:
    """Handing a request over twice is a bug of the caller, and is said so."""
    with pytest.raises(AssertionError, match=r"bug: .* twice \(sent\)"):
        sent().handed()


@pytest.mark.parametrize(
    ("machine", "delivery"),
    [
        (TurnMachine(), "not_sent"),
        (sent(), "ambiguous"),
        (streaming(), "accepted"),
        (failing(), "accepted"),
        (ended(), "terminal"),
    ],
)
def test_delivery_is_read_off_the_state(machine: TurnMachine, delivery: Delivery) -> None:
    """Each state knows one thing about the request."""
    assert delivery == machine.delivery


# -- before the response is created ---------------------------------------------------------


@pytest.mark.hits("dirty: not in the table")
def test_output_before_the_response_is_dirty() -> None:
    """Output that comes before `response.created` belongs to some other turn."""
    for early in (event(**DELTA), item_done(0), about("in_progress"), about("completed"), about("failed")):
        machine = sent()

        assert Reception.DIRTY is machine.receive(early)
        assert ("ambiguous", False) == (machine.delivery, machine.output_seen)


@pytest.mark.hits("turn: sent, extension")
def test_an_unknown_notice_before_the_response_is_delivered() -> None:
    """A new kind of event that is not about a response is no reason to hang up."""
    machine = sent()

    assert Reception.DELIVER is machine.receive(event(type="openagents:status"))
    assert "ambiguous" == machine.delivery


@pytest.mark.parametrize("response", [{}, {"id": None}, {"id": 7}, [], None, "resp_1"])
def test_a_created_response_needs_an_id(response: object) -> None:
    """Without one, nothing later can be proved to be ours."""
    machine = sent()

    assert Reception.DIRTY is machine.receive(event(type="response.created", response=response))
    assert TurnState.SENT is machine.state


def test_the_parent_is_not_our_response() -> None:
    """The previous turn's `response.created`, come late, does not begin this turn."""
    machine = sent(PARENT)

    assert Reception.DIRTY is machine.receive(about("created", PARENT))
    assert machine.response_id is None
    assert Reception.DELIVER is machine.receive(about("created", OURS))


@pytest.mark.hits("dirty: the answer to another parent")
def test_what_goes_on_from_another_response_is_the_answer_to_another_request() -> None:
    """A response says what it goes on from; one that goes on from what was not sent is somebody else's."""
    machine = sent(PARENT)

    assert Reception.DIRTY is machine.receive(about("created", previous_response_id="resp_other"))
    assert machine.response_id is None


@pytest.mark.hits("turn: sent, error")
def test_a_refusal_proves_that_nothing_ran() -> None:
    """An error frame before `response.created` ends the turn as rejected."""
    machine = sent()

    assert Reception.END is machine.receive(event(**REFUSAL))
    assert ("rejected", "terminal", True) == (machine.status, machine.delivery, machine.refused)
    assert ServerError(code="invalid_prompt", message="No.", status=400, raw={**REFUSAL}) == machine.error


@pytest.mark.parametrize("where", [{"response": {"id": FOREIGN}}, {"response_id": FOREIGN}])
def test_an_error_that_names_a_response_proves_that_something_ran(where: dict[str, Any]) -> None:
    """Nobody has heard it begin. The turn has failed, and was not refused; no other may follow."""
    past = Past()
    machine = TurnMachine(past=past)
    machine.handed()

    assert Reception.END is machine.receive(event(**REFUSAL, **where))
    assert ("failed", "terminal", False) == (machine.status, machine.delivery, machine.refused)
    assert (FOREIGN, True, "invalid_prompt") == (
        machine.response_id,
        past.knows(FOREIGN),
        machine.error and machine.error.code,
    )
    assert CloseReason.DIRTY is machine.why_close(closes_after_error=False)


# -- while it streams -----------------------------------------------------------------------


@pytest.mark.parametrize("id", [OURS, FOREIGN])
def test_a_second_created_is_dirty(id: str) -> None:
    """One request creates one response."""
    machine = streaming()

    assert Reception.DIRTY is machine.receive(about("created", id))
    assert OURS == machine.response_id


@pytest.mark.parametrize("kind", ["in_progress", "queued"])
@pytest.mark.hits("turn: streaming, doubtful")
def test_progress_of_another_response_is_dropped(kind: str) -> None:
    """A response id that is not ours is never given to the turn, whatever event carries it; ours goes on."""
    machine = streaming()

    assert Reception.IGNORE is machine.receive(about(kind, FOREIGN))
    assert Reception.END is machine.receive(about("completed"))
    assert machine.suspect


def numbered(*numbers: int | None) -> tuple[TurnMachine, list[Reception]]:
    """A turn, and what it makes of events with these numbers behind its `response.created` with number 0."""
    machine = sent()
    machine.receive(
        parse_event(json.dumps({"type": "response.created", "response": {"id": OURS}, "sequence_number": 0}))
    )
    return machine, [
        machine.receive(event(**DELTA, **({} if number is None else {"sequence_number": number})))
        for number in numbers
    ]


@pytest.mark.parametrize("numbers", [(1, 3), (1, 2, 2), (1, 2, 1), (1, None, 4)])
def test_a_miscount_ends_no_turn(numbers: tuple[int | None, ...]) -> None:
    """Once a server has been seen to count, a gap or a repeat means that an event is missing or came twice:
    the turn goes on, nothing that comes twice is delivered twice, and no other turn follows."""
    machine, receptions = numbered(*numbers)
    twice = len(numbers) > 2 and numbers[-1] == numbers[-2]

    assert [Reception.DELIVER] * (len(numbers) - 1) + [
        Reception.IGNORE if twice else Reception.DELIVER
    ] == receptions
    assert machine.suspect
    assert Reception.END is machine.receive(about("completed", output=OUTPUT))
    assert CloseReason.DIRTY is machine.why_close(closes_after_error=False)


@pytest.mark.parametrize(
    ("kind", "output", "reception"),
    [
        ("completed", OUTPUT, Reception.END),
        ("completed", [], Reception.DIRTY),
        ("completed", None, Reception.DIRTY),
        ("incomplete", OUTPUT, Reception.END),
        ("incomplete", None, Reception.DIRTY),
        ("failed", [], Reception.END),
        ("failed", None, Reception.END),
    ],
)
def test_after_a_gap_only_the_last_event_says_all_of_it(
    kind: str, output: object, reception: Reception
) -> None:
    """What was put together may lack a piece. That it failed is all there is to know of one that did."""
    machine, _ = numbered(1, 2, 5)
    machine.receive(event(**json.loads(item_done(0).raw), sequence_number=6))

    assert reception is machine.receive(about(kind, output=output))
    assert machine.response is None or (output or []) == machine.response["output"]


@pytest.mark.parametrize(
    "numbers", [(1, 2, 3), (None, None), (1, None, 2), (0, 0, 0), (7, 9, 7), (-1, -1), (1, -1, 2)]
)
def test_a_server_that_does_not_count_is_not_held_to_it(numbers: tuple[int | None, ...]) -> None:
    """Numbers that are left out, or do not go up from the first, say nothing."""
    machine, receptions = numbered(*numbers)

    assert {Reception.DELIVER} == set(receptions)
    assert not machine.suspect


@pytest.mark.parametrize("kind", ["response.steer.accepted", "x"])
def test_some_events_have_numbers_of_their_own(kind: str) -> None:
    """They count if they fit, and harm nobody if they do not."""
    machine = streaming()
    for kind_of_event, number in ((DELTA["type"], 4), (DELTA["type"], 5), (kind, 0), (kind, 6)):
        assert Reception.DELIVER is machine.receive(event(type=kind_of_event, sequence_number=number))
    assert Reception.DELIVER is machine.receive(event(**DELTA, sequence_number=7))


@pytest.mark.hits("dirty: another lane")
def test_an_event_of_a_lane_is_dirty() -> None:
    """No request of ours names a lane."""
    lane = {"sequence_number": 4, "stream_id": "theirs"}

    assert Reception.DIRTY is streaming().receive(event(**DELTA, **lane))


@pytest.mark.hits("turn: streaming, output")
def test_only_output_counts_as_output() -> None:
    """Being queued or in progress is no output; an item or a delta is."""
    machine = streaming()
    seen = []
    for each in (
        about("queued"),
        about("in_progress"),
        event(type="keepalive"),
        event(**EXPIRING),
        event(**DELTA),
    ):
        machine.receive(each)
        seen.append(machine.output_seen)
    other = streaming()
    other.receive(item_done(0))

    assert [False, False, False, False, True] == seen
    assert other.output_seen


@pytest.mark.parametrize("kind", ["completed", "incomplete", "failed"])
@pytest.mark.hits("turn: streaming, terminal", "turn: settling, settled")
def test_each_terminal_event_ends_the_turn(kind: str) -> None:
    """The response keeps what the server said, and its status says how it ended."""
    machine = streaming()

    assert Reception.END is machine.receive(about(kind, status=kind, output=OUTPUT))
    assert {"id": OURS, "status": kind, "output": OUTPUT} == machine.response
    assert (kind, "terminal", False) == (machine.status, machine.delivery, machine.refused)


@pytest.mark.parametrize("kind", ["completed", "incomplete", "failed"])
def test_a_status_left_out_is_that_of_the_event(kind: str) -> None:
    """A server that names the end only in the event's type is understood."""
    machine = streaming()
    machine.receive(about(kind))

    assert kind == machine.status
    assert {"id": OURS, "status": kind, "output": []} == machine.response


@pytest.mark.parametrize("kind", ["incomplete", "failed"])
def test_a_status_of_null_is_that_of_the_event(kind: str) -> None:
    """A response that failed is never taken for one that completed."""
    machine = streaming()
    machine.receive(about(kind, status=None))

    assert kind == machine.status


def test_a_failed_response_brings_its_error() -> None:
    """The error of `response.failed` is read, with its retry hint compared to the clock."""
    machine = streaming()
    error = {"code": "rate_limit_exceeded", "message": "Slow down.", "resets_at": 1005}
    machine.receive(about("failed", error=error), wall_clock=1000.0)

    assert machine.error is not None
    assert ("rate_limit_exceeded", 5.0) == (machine.error.code, machine.error.retry_after)


def test_the_announced_output_wins_only_if_the_final_one_is_missing() -> None:
    """Items are put together from their events in order, unless the terminal event has its own."""
    without, with_own = streaming(), streaming()
    for machine in (without, with_own):
        machine.receive(item_done(0))
        machine.receive(item_done(1))
    without.receive(about("completed"))
    with_own.receive(about("completed", output=OUTPUT[:1]))

    assert without.response is not None
    assert with_own.response is not None
    assert OUTPUT == without.response["output"]
    assert OUTPUT[:1] == with_own.response["output"]


@pytest.mark.parametrize("number", [None, 1])
@pytest.mark.parametrize("status", [None, 400])
@pytest.mark.hits("turn: streaming, error")
def test_no_error_frame_ends_a_running_turn(number: int | None, status: int | None) -> None:
    """Whatever its shape: a response that has begun ends with its own event, which may be late."""
    shape = {name: value for name, value in (("sequence_number", number), ("status", status)) if value}
    machine = streaming()

    assert Reception.DELIVER is machine.receive(event(type="error", error={"code": "first"}, **shape))
    assert (TurnState.FAILING, None, "accepted") == (machine.state, machine.status, machine.delivery)
    assert Reception.END is machine.receive(about("failed", error={"code": "last"}))
    assert ("failed", False) == (machine.status, machine.refused)
    assert machine.error is not None
    assert "last" == machine.error.code


@pytest.mark.hits("turn: sent, expiring", "turn: streaming, expiring", "turn: failing, expiring")
def test_an_expiring_connection_is_not_a_failure() -> None:
    """The notice that the connection ends soon leaves the turn as it was, at any point of it."""
    for machine in (sent(), streaming(), failing()):
        state, error = machine.state, machine.error

        assert Reception.EXPIRING is machine.receive(event(**EXPIRING))
        assert (state, error) == (machine.state, machine.error)


@pytest.mark.parametrize("machine", [streaming(), failing()])
def test_a_connection_at_its_limit_cuts_the_turn(machine: TurnMachine) -> None:
    """In the middle of a turn the limit is a loss: the turn has no end, and its error says why."""
    state = machine.state

    assert Reception.CUT is machine.receive(event(**LIMIT))
    assert (state, "accepted", None) == (machine.state, machine.delivery, machine.status)
    assert machine.error is not None
    assert machine.error.is_connection_limit


@pytest.mark.hits("turn: sent, limit")
def test_a_connection_at_its_limit_refuses_a_new_turn() -> None:
    """Before the response is created the limit is a refusal: nothing ran."""
    machine = sent()

    assert Reception.END is machine.receive(event(**LIMIT))
    assert ("rejected", True) == (machine.status, machine.refused)


# -- a stream error and what follows --------------------------------------------------------


@pytest.mark.hits("turn: failing, terminal")
def test_a_stream_error_waits_for_its_response_failed() -> None:
    """The turn goes on until `response.failed`, whose error replaces the first one."""
    machine = streaming()

    assert Reception.DELIVER is machine.receive(event(**STREAM_ERROR))
    assert (TurnState.FAILING, None) == (machine.state, machine.status)
    assert Reception.END is machine.receive(about("failed", error={"code": "final"}))
    assert machine.error is not None
    assert ("failed", "final") == (machine.status, machine.error.code)


@pytest.mark.hits("turn: failing, expired")
def test_a_stream_error_that_stays_alone_is_a_failure() -> None:
    """Once nobody waits for `response.failed` any more, the turn has failed, and its late end is dirty."""
    machine = failing()
    machine.expire_failing()

    assert ("failed", "terminal", False) == (machine.status, machine.delivery, machine.refused)
    assert machine.error is not None
    assert "server_error" == machine.error.code
    assert Reception.DIRTY is machine.receive(about("failed"))


@pytest.mark.hits("turn: failing, error")
def test_a_second_error_does_not_end_a_failing_turn() -> None:
    """It proves no more than the first, which counts."""
    for error in (STREAM_ERROR, REFUSAL):
        machine = failing()

        assert Reception.DELIVER is machine.receive(event(**error))
        assert TurnState.FAILING is machine.state
        assert machine.error is not None
        assert "server_error" == machine.error.code


def test_a_response_that_completes_after_an_error_has_completed() -> None:
    """Its end is the last word: the answer was paid for, and is there."""
    machine = failing()

    assert Reception.END is machine.receive(about("completed", output=OUTPUT))
    assert ("completed", None) == (machine.status, machine.error)


@pytest.mark.hits("dirty: an error with the number of another response")
def test_the_error_of_a_running_response_refuses_nothing() -> None:
    """Before our response is created, the number of another one's event tells that it is not about us."""
    machine = sent()

    assert Reception.DIRTY is machine.receive(event(**STREAM_ERROR))
    assert ("ambiguous", False) == (machine.delivery, machine.refused)


def test_the_first_number_of_all_may_be_that_of_a_refusal() -> None:
    """A stream that begins with an error has no response that could still fail."""
    machine = sent()

    assert Reception.END is machine.receive(event(**STREAM_ERROR | {"sequence_number": 0}))
    assert "rejected" == machine.status


def test_only_a_failing_turn_can_expire() -> None:
    """A late timer changes nothing on a turn that is new, sent, running or over."""
    for machine in (TurnMachine(), sent(), streaming(), ended()):
        state = machine.state
        machine.expire_failing()

        assert state is machine.state


# -- around turns ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CONNECTION_TYPES)
@pytest.mark.hits(
    "turn: new, notice",
    "turn: sent, notice",
    "turn: streaming, notice",
    "turn: failing, notice",
    "turn: ended, notice",
)
def test_what_is_about_the_connection_is_not_for_the_turn(kind: str) -> None:
    """Such an event is harmless before, during and after a turn, and is never delivered."""
    for machine in (TurnMachine(), sent(), streaming(), failing(), ended()):
        state = machine.state

        assert Reception.IGNORE is machine.receive(event(type=kind))
        assert (state, False) == (machine.state, machine.output_seen)
    assert is_harmless(event(type=kind))
    assert not is_harmless(event(**DELTA))


def test_nothing_follows_the_end() -> None:
    """A second end, more output, or an error after the end: the lane is dirty."""
    for late in (about("completed"), about("failed"), about("created"), event(**DELTA), event(**REFUSAL)):
        assert Reception.DIRTY is ended().receive(late)


def test_a_body_that_is_no_json_is_malformed() -> None:
    """An event that had to be decoded and cannot be leaves the turn where it was."""
    for kind in ("response.created", "response.completed", "error"):
        machine = streaming()

        with pytest.raises(MalformedMessageError, match="not JSON"):
            machine.receive(parse_event('{"type":"' + kind + '",oops}'))
        assert TurnState.STREAMING is machine.state


# -- on a connection with a past ------------------------------------------------------------


@pytest.mark.parametrize("kind", ["error", "response.error"])
@pytest.mark.parametrize("shape", [{}, {"sequence_number": 2}])
@pytest.mark.parametrize("exact", [True, False])
def test_the_error_of_a_failed_response_may_come_behind_its_end(
    kind: str, shape: dict[str, Any], exact: bool
) -> None:
    """It has the words of that response, so it refuses nobody: its request would be sent twice."""
    past = Past()
    said = {"code": "server_error", "message": "Oh."}
    failed = streaming(past=past, exact=exact)
    assert Reception.END is failed.receive(about("failed", status="failed", error=said))

    machine = sent(past=past, exact=exact)
    late = event(type=kind, **shape, error={"type": "server_error", **said})

    assert Reception.DIRTY is machine.receive(late)
    assert ("ambiguous", None) == (machine.delivery, machine.error)


@pytest.mark.parametrize(("numbered", "whole"), [(True, True), (False, False)])
def test_ids_of_items_may_be_used_again_where_numbers_prove_them_ours(numbered: bool, whole: bool) -> None:
    """`msg_0` in every response, and a call with an id of its own: no mixture, if nothing came between."""
    past = Past()
    endings: list[Reception] = []
    for turn, names in enumerate((["msg_0"], ["msg_0", "fc_1"])):
        said: list[dict[str, Any]] = [{"type": "response.created", "response": {"id": f"resp_{turn}"}}]
        for place, name in enumerate(names):
            item = {"id": name, "type": "reasoning"}
            said.append({"type": "response.output_item.done", "output_index": place, "item": item})
        said.append({"type": "response.completed", "response": {"id": f"resp_{turn}", "output": []}})
        machine = sent(past=past)
        counts: list[dict[str, Any]] = [{"sequence_number": n} if numbered else {} for n in range(len(said))]
        endings.append(
            [machine.receive(event(**each, **count)) for each, count in zip(said, counts, strict=True)][-1]
        )

    assert [Reception.END, Reception.END if whole else Reception.DIRTY] == endings


def test_a_number_that_fits_by_chance_makes_no_item_ours() -> None:
    """What ends an item of an earlier response comes twice, where ours is just at that number."""
    past = Past()

    def said(turn: int) -> list[Event]:
        item = {"id": f"msg_{turn}", "type": "message", "content": [{"text": f"said {turn}"}]}
        where = {"output_index": 0, "item_id": f"msg_{turn}"}
        return [
            event(type="response.created", sequence_number=0, response={"id": f"resp_{turn}"}),
            event(type="response.output_item.added", sequence_number=1, output_index=0, item=item),
            event(type="response.output_text.delta", sequence_number=2, **where, delta="s"),
            event(type="response.output_text.delta", sequence_number=3, **where, delta="aid"),
            event(type="response.output_text.done", sequence_number=4, **where, text="said"),
            event(type="response.output_item.done", sequence_number=5, output_index=0, item=item),
            event(
                type="response.completed",
                sequence_number=6,
                response={"id": f"resp_{turn}", "output": [item]},
            ),
        ]

    for number in (4, 5):
        old, ours = said(number), said(number + 10)
        first, second = sent(past=past), sent(past=past)
        for each in old:
            first.receive(each)
        receptions = [second.receive(each) for each in (*ours[:number], old[number], *ours[number:])]

        assert Reception.IGNORE is receptions.pop(number)
        assert [*[Reception.DELIVER] * 6, Reception.END] == receptions
        assert second.suspect


@pytest.mark.hits("dirty: an end without all of its output")
def test_a_turn_amidst_which_another_was_repeated_needs_its_whole_output() -> None:
    """Put together from what came, it might hold a piece of the other."""
    for own, reception in ((None, Reception.DIRTY), (OUTPUT, Reception.END)):
        past = Past()
        past.begin("resp_old")
        machine = streaming(past)
        machine.receive(item_done(0))

        assert Reception.IGNORE is machine.receive(about("completed", "resp_old", output=OUTPUT))
        assert machine.suspect
        assert reception is machine.receive(about("completed", output=own))


@pytest.mark.hits("turn: streaming, member")
def test_the_turn_of_an_agent_does_not_end_ours() -> None:
    """It has a response of its own, tagged, with an end of its own: events like others. Ours ends with its
    own, put together from what it said itself, and the connection is clean."""

    def tagged(kind: str, **fields: Any) -> Event:
        return event(type=f"response.{kind}", agent={"agent_name": "/root/critic"}, **fields)

    theirs = {"id": "msg_theirs", "type": "message"}
    said = [
        tagged("created", response={"id": "resp_critic"}),
        tagged("output_item.done", output_index=0, item=theirs),
        tagged("completed", response={"id": "resp_critic", "output": [theirs]}),
        event(**json.loads(item_done(0).raw), agent={"agent_name": "/root"}),
    ]
    machine = streaming()

    assert [Reception.DELIVER] * len(said) == [machine.receive(each) for each in said]
    assert ["/root/critic"] * 3 + ["/root"] == [each.agent for each in said]
    assert Reception.END is machine.receive(about("completed"))
    assert machine.response is not None
    assert OUTPUT[:1] == machine.response["output"]
    assert not machine.suspect


def test_bytes_without_numbers_are_looked_into_one_by_one() -> None:
    """They are delivered as text is."""
    machine = streaming()
    raw = json.dumps(DELTA).encode()

    assert [Reception.DELIVER] * 3 == [machine.receive(parse_event(raw)) for _ in range(3)]


def test_a_turn_goes_to_a_connection_with_a_past() -> None:
    """What that has carried is held against what comes; and an endpoint may have no lanes after all."""
    past = Past()
    past.begin(OURS)
    machine = TurnMachine(None, "lane0", past)
    machine.unname()
    machine.handed()

    assert Reception.DIRTY is machine.receive(about("created", OURS))
    assert Reception.DELIVER is machine.receive(about("created", FOREIGN))


def test_an_item_without_an_id_is_announced_all_the_same() -> None:
    """By its place."""
    machine = streaming()
    machine.receive(event(type="response.output_item.done", output_index=0, item={"type": "message"}))

    assert Reception.END is machine.receive(about("completed"))
    assert machine.response is not None
    assert [{"type": "message"}] == machine.response["output"]


# -- what an end leaves behind ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "remembered", "why", "why_strictly"),
    [
        (("completed",), OURS, None, None),
        (("incomplete",), OURS, None, None),
        (("failed",), None, None, None),
        (REFUSAL, None, None, CloseReason.DIRTY),
        (LIMIT, None, CloseReason.LIMIT, CloseReason.LIMIT),
    ],
)
def test_what_an_end_leaves_behind(
    end: tuple[str] | dict[str, Any],
    remembered: str | None,
    why: CloseReason | None,
    why_strictly: CloseReason | None,
) -> None:
    """Only a response that ended well is held on; a refusal ends the connection where its provider does."""
    machine = sent() if isinstance(end, dict) else streaming()
    machine.receive(event(**end) if isinstance(end, dict) else about(*end, output=OUTPUT))

    assert TurnState.ENDED is machine.state
    assert remembered == machine.remembered
    assert why == machine.why_close(closes_after_error=False)
    assert why_strictly == machine.why_close(closes_after_error=True)


@pytest.mark.hits("turn: sent, created")
def test_nothing_is_remembered_of_a_turn_that_runs() -> None:
    """Its response is not there yet."""
    assert streaming().remembered is None


@pytest.mark.hits("turn: streaming, stale", "dirty: no turn may follow this one")
def test_a_suspect_connection_ends_with_a_turn_that_ended_well() -> None:
    """The turn counts; what comes behind it could not be told apart."""
    past = Past()
    past.begin("resp_old")
    machine = streaming(past)
    machine.receive(about("completed", "resp_old", output=OUTPUT))
    machine.receive(about("completed", output=OUTPUT))

    assert OURS == machine.remembered
    assert CloseReason.DIRTY is machine.why_close(closes_after_error=False)


@pytest.mark.parametrize(
    ("fields", "put_off"),
    [
        ({}, True),
        ({"error": {"code": "rate_limit_exceeded", "message": "no"}}, True),
        ({"error": {"code": "server_error", "message": "no"}}, False),
        ({"error": None}, False),
        ({"usage": {"input_tokens": 1}}, False),
        ({"output": [{"type": "message", "id": "msg_1"}]}, False),
    ],
)
def test_what_failed_for_everybody_with_nothing_of_it_was_put_off(
    fields: dict[str, Any], put_off: bool
) -> None:
    """What was made or paid was not, nor what only this request may have met."""
    machine = TurnMachine(None)
    machine.handed()
    assert not machine.put_off
    machine.receive(about("created"))
    assert not machine.put_off
    error = {"code": "server_is_overloaded", "message": "no"}
    machine.receive(about("failed", **{"status": "failed", "output": [], "error": error, **fields}))

    assert put_off == machine.put_off


def test_what_was_shown_of_a_response_was_not_put_off() -> None:
    """Its caller has had a part of it."""
    machine = TurnMachine(None)
    machine.handed()
    machine.receive(about("created"))
    machine.receive(event(type="response.output_text.delta", delta="a"))
    error = {"code": "server_is_overloaded", "message": "no"}
    machine.receive(about("failed", status="failed", output=[], error=error))

    assert "failed" == machine.status
    assert not machine.put_off


def test_what_the_last_response_says_of_itself_is_there_once_it_has_ended() -> None:
    """For whoever keeps it."""
    machine = TurnMachine(None)
    machine.keeps = True
    machine.handed()
    machine.receive(about("created", model="m"))
    assert {} == machine.remarks
    machine.receive(about("completed", status="completed", output=[], model="m"))

    assert {"response_model": "m", "finish_reason": "stop"} == machine.remarks


ITEM = {
    "id": "m",
    "type": "message",
    "status": "completed",
    "content": [{"type": "output_text", "text": "a"}],
}


@pytest.mark.parametrize(
    ("mended", "kind", "response"),
    [
        (False, "completed", {"id": OURS, "status": "completed", "output": [ITEM]}),
        (False, "failed", {"id": OURS, "status": "failed", "output": [ITEM], "error": None}),
        (True, "done", {"id": OURS, "status": "completed", "output": [ITEM]}),
        (True, "completed", {"id": OURS, "status": "in_progress", "output": [ITEM]}),
        (True, "completed", {"status": "completed", "output": [ITEM]}),
        (True, "completed", {"id": OURS, "status": "completed", "output": []}),
        (True, "completed", {"id": OURS, "status": "completed", "output": [{**ITEM, "content": []}]}),
    ],
)
def test_it_is_known_whether_an_end_was_completed(mended: bool, kind: str, response: Any) -> None:
    """Whoever passes events on writes such an end anew, and no other."""
    machine = streaming()
    machine.receive(event(type="response.output_item.done", output_index=0, item=ITEM))
    machine.receive(event(type=f"response.{kind}", response=response))
    assert machine.response is not None
    assert mended is machine.mended
