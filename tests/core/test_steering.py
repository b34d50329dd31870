"""A response that was steered, and what follows it: one turn, one end, one history."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from wspool.core.events.past import Past
from wspool.core.events.steering import Steer, Steers
from wspool.core.events.turn import Reception, TurnMachine, TurnState
from wspool.core.frames import Event, parse_event
from wspool.core.items import read_items
from wspool.core.server_error import ServerError

TRANSCRIPT: list[dict[str, Any]] = [
    line
    for line in map(json.loads, Path(__file__).with_name("transcripts.jsonl").read_text().splitlines())
    if line["t"] == "T12"
]
DELIVER, END, DIRTY = Reception.DELIVER, Reception.END, Reception.DIRTY
OUTPUT = [{"id": "msg_1", "type": "message"}]


def event(kind: str, **fields: Any) -> Event:
    return parse_event(json.dumps({"type": kind, **fields}))


def created(id: str, parent: str | None = None) -> Event:
    return event("response.created", response={"id": id, "previous_response_id": parent})


def ended(id: str, status: str = "completed") -> Event:
    return event(f"response.{status}", response={"id": id, "status": status, "output": OUTPUT})


def about(kind: str, target: str = "one", id: str | None = None, **fields: Any) -> Event:
    steer = {"previous_response_id": target} | ({} if id is None else {"id": id})
    return event(f"response.steer.{kind}", steer=steer, **fields)


def item(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def steered(*texts: str) -> tuple[TurnMachine, list[Steer]]:
    """A turn in progress with that many steers on their way."""
    machine = TurnMachine()
    machine.handed()
    machine.receive(created("one"))
    steers = [Steer(input=[item(text)], target="one") for text in texts]
    assert all(machine.steer(steer) for steer in steers)
    return machine, steers


@pytest.mark.hits("turn: streaming, progress")
def test_the_transcript_is_one_turn() -> None:
    """Accepted, incomplete, a successor, and the end is the successor's."""
    machine = TurnMachine()
    receptions = []
    steer: Steer | None = None
    for line in TRANSCRIPT:
        match line["dir"]:
            case "client" if line["frame"]["type"] == "response.create":
                machine.handed()
            case "client":
                steer = Steer(input=[item(line["frame"]["input"])], target="resp_30")
                assert machine.steer(steer)
            case "server":
                receptions.append(machine.receive(parse_event(json.dumps(line["frame"]))))
            case _:
                pass

    assert [DELIVER] * 5 + [END] == receptions
    assert steer is not None
    assert ("applied", "steer_0123456789abcdef0123456789abcdef") == (steer.state, steer.id)
    assert ["resp_30", "resp_31"] == [part.response["id"] for part in machine.parts]
    assert [[], steer.input] == [part.steered_by for part in machine.parts]
    assert ("completed", "resp_31", "terminal") == (machine.status, machine.response_id, machine.delivery)


@pytest.mark.parametrize("keeps", [False, True])
def test_an_output_is_kept_for_a_history(keeps: bool) -> None:
    """Where there is one that keeps it, and beside what its caller is given."""
    machine, _ = steered()
    assert (False, "") == (machine.keeps, machine.complaint), "nobody wants it, and nothing was wrong"
    machine.keeps = keeps
    machine.receive(ended("one"))

    (part,) = machine.parts
    assert ("one", "completed", OUTPUT) == (part.id, part.status, part.response["output"])
    assert (OUTPUT if keeps else []) == read_items(part.output.items)


def test_only_a_response_in_progress_is_steered() -> None:
    """Not before it is created, not another one, not after its end."""
    machine = TurnMachine()
    steer = Steer(input=[], target="one")
    assert not machine.steer(steer)
    machine.handed()
    assert not machine.steer(steer)
    machine.receive(created("one"))
    assert not machine.steer(Steer(input=[], target="two"))
    assert not machine.steered
    machine.receive(ended("one"))
    assert not machine.steer(steer)


def test_without_steers_the_end_is_the_end() -> None:
    """Whatever ends it."""
    machine, _ = steered()

    assert END is machine.receive(ended("one", "incomplete"))
    assert [[]] == [part.steered_by for part in machine.parts]


@pytest.mark.parametrize("order", [*itertools.permutations(["first", "second", "end"])])
def test_an_answer_may_come_before_or_after_the_end(order: tuple[str, ...]) -> None:
    """The turn ends with whatever comes last."""
    machine, (first, second) = steered("a", "b")
    events = {
        "first": about("failed", error={"code": "no"}),
        "second": about("failed", error={"code": "no, too"}),
        "end": ended("one"),
    }
    receptions = [machine.receive(events[name]) for name in order]

    assert [DELIVER, DELIVER, END] == receptions
    assert {"no", "no, too"} == {steer.error.code for steer in (first, second) if steer.error is not None}
    assert {"failed"} == {first.state, second.state}
    assert ("completed", "one") == (machine.status, machine.response_id)


def test_a_successor_has_all_that_was_accepted_for_its_parent() -> None:
    """In the order of the questions; what is refused, pending or too late is not in it."""
    machine, steers = steered("a", "b", "c")
    machine.receive(about("accepted", id="s1"))
    machine.receive(about("failed", error={"code": "no"}))
    machine.receive(about("accepted", id="s3"))
    machine.receive(ended("one", "incomplete"))

    assert DELIVER is machine.receive(created("two", "one"))
    late = Steer(input=[item("d")], target="two")
    assert machine.steer(late)
    assert ["applied", "failed", "applied", "sent"] == [steer.state for steer in (*steers, late)]
    assert DELIVER is machine.receive(ended("two"))
    assert TurnState.SETTLING is machine.state
    assert END is machine.receive(about("failed", "two", error={"code": "too_late"}))
    assert [[], [item("a"), item("c")]] == [part.steered_by for part in machine.parts]


def test_pending_input_is_queued() -> None:
    """The turn ends when nothing more will be said; what waits is told apart from what was refused."""
    machine, (one, two) = steered("a", "b")
    machine.receive(about("accepted", id="s1"))
    machine.receive(about("accepted", id="s2"))
    machine.receive(ended("one"))

    assert DELIVER is machine.receive(about("pending", id="s2"))
    assert END is machine.receive(about("failed", id="s1", error={"code": "no"}))
    assert ("failed", "pending") == (one.state, two.state)
    assert [item("b")] == machine.steers.queued


@pytest.mark.parametrize(
    ("event", "status"),
    [
        (created("two"), None),
        (created("two", "zero"), None),
        (created("", "one"), "never"),
        (event("response.created", response={"previous_response_id": "one"}), None),
        (ended("one"), None),
        (event("response.output_text.delta", delta="a"), None),
        (event("response.in_progress", response={"id": "one"}), None),
        pytest.param(
            about("accepted", "theirs"),
            None,
            marks=pytest.mark.hits("dirty: the answer to a steer of others"),
        ),
        (event("response.steer.accepted"), None),
    ],
)
def test_nothing_else_follows(event: Event, status: str | None) -> None:
    """After the end of a steered response only its successor, and what is said of its steers."""
    machine, _ = steered("a")
    machine.receive(about("accepted", id="s1"))
    machine.receive(ended("one"))

    if status == "never":  # an empty id is opaque, as any other
        assert DELIVER is machine.receive(event)
    else:
        assert DIRTY is machine.receive(event)


@pytest.mark.hits("dirty: a successor that no steer promised")
def test_nothing_follows_what_was_not_accepted() -> None:
    """A successor without a promise is somebody else's."""
    machine, _ = steered("a")
    machine.receive(ended("one"))

    assert DIRTY is machine.receive(created("two", "one"))


@pytest.mark.hits("turn: settling, extension", "turn: settling, notice")
def test_what_is_new_does_no_harm() -> None:
    """Another notice about a steer, one that nobody waits for, a kind of event that nobody knows."""
    machine, (steer,) = steered("a")
    for strange in (
        about("considered"),
        about("accepted", id="s1"),
        about("accepted", id="s9"),
        about("accepted", id="s1"),
    ):
        assert DELIVER is machine.receive(strange)
    machine.receive(ended("one"))
    assert DELIVER is machine.receive(event("notice"))
    assert Reception.IGNORE is machine.receive(event("keepalive"))
    assert ("accepted", "s1") == (steer.state, steer.id)


def test_a_name_that_is_none_is_not_kept() -> None:
    """Ids are opaque texts; what is none names nothing."""
    machine, (steer,) = steered("a")
    machine.receive(event("response.steer.accepted", steer={"id": 7, "previous_response_id": "one"}))

    assert ("accepted", None) == (steer.state, steer.id)


def test_numbers_are_not_held_against_a_steered_turn() -> None:
    """An answer takes a number where it is made, and may be sent a little later."""
    machine, _ = steered("a")
    numbers = [1, 2, 4, 3, 5]
    deltas = [event("response.output_text.delta", sequence_number=number) for number in numbers]

    assert [DELIVER] * 5 == [machine.receive(each) for each in deltas]
    unsteered = TurnMachine()
    unsteered.handed()
    unsteered.receive(created("one"))
    assert [DELIVER] * 5 == [unsteered.receive(each) for each in deltas]
    assert (False, True) == (machine.suspect, unsteered.suspect)


@pytest.mark.hits("turn: settling, successor")
def test_the_numbers_of_a_successor_begin_anew() -> None:
    """Each response counts for itself."""
    machine, _ = steered("a")
    machine.receive(about("accepted", id="s1"))
    for number in range(1, 4):
        machine.receive(event("response.output_text.delta", sequence_number=number))
    machine.receive(ended("one", "incomplete"))
    first = event(
        "response.created", sequence_number=0, response={"id": "two", "previous_response_id": "one"}
    )

    assert DELIVER is machine.receive(first)
    assert DELIVER is machine.receive(event("response.output_text.delta", sequence_number=1))


def test_a_successor_may_call_its_items_as_its_parent_did() -> None:
    """Servers that count them anew do; that is no sign of another response."""
    machine, _ = steered("a")
    machine.receive(about("accepted", id="s1"))
    machine.receive(event("response.output_item.done", item=OUTPUT[0]))
    machine.receive(ended("one", "incomplete"))
    machine.receive(created("two", "one"))

    assert DELIVER is machine.receive(event("response.output_item.done", item=OUTPUT[0]))
    assert END is machine.receive(ended("two"))
    assert not machine.suspect


def test_a_successor_that_leaves_its_output_out_has_its_own() -> None:
    """The items of the first response are not put into the second."""
    machine, _ = steered("a")
    done = event("response.output_item.done", item={"id": "first"})
    machine.receive(done)
    machine.receive(about("accepted", id="s1"))
    machine.receive(event("response.incomplete", response={"id": "one"}))
    machine.receive(created("two", "one"))
    machine.receive(event("response.output_item.done", item={"id": "second"}))
    machine.receive(event("response.completed", response={"id": "two"}))

    assert [[{"id": "first"}], [{"id": "second"}]] == [part.response["output"] for part in machine.parts]


def successors(past: Past, *names: str) -> TurnMachine:
    """A turn of which each response was steered into the next."""
    machine = TurnMachine(None, None, past)
    machine.handed()
    machine.receive(created(names[0]))
    for number, (one, two) in enumerate(itertools.pairwise(names)):
        assert machine.steer(Steer(input=[item("a")], target=one))
        machine.receive(about("accepted", one, id=f"s{number}"))
        machine.receive(ended(one, "incomplete"))
        assert DELIVER is machine.receive(created(two, one))
    return machine


def test_the_responses_of_a_steered_turn_are_known_later() -> None:
    """None of them begins the next turn."""
    for name in ("one", "two", "three"):
        past = Past()
        assert END is successors(past, "one", "two", "three").receive(ended("three"))
        machine = TurnMachine(None, None, past)
        machine.handed()

        assert DELIVER is not machine.receive(created(name))
        assert TurnState.STREAMING is not machine.state


@pytest.mark.parametrize("name", ["one", "two"])
def test_an_end_of_an_earlier_response_of_the_turn_is_let_pass(name: str) -> None:
    """However many have followed it."""
    machine = successors(Past(), "one", "two", "three")

    assert Reception.IGNORE is machine.receive(ended(name))
    assert DELIVER is machine.receive(about("considered", name)), "what steered it is the turn's as well"
    assert END is machine.receive(ended("three"))


# -- errors ---------------------------------------------------------------------------------


@pytest.mark.hits("turn: streaming, steer")
def test_an_error_for_the_steer_is_not_the_turns() -> None:
    """An endpoint without steering refuses the type of the message."""
    machine, (steer,) = steered("a")
    unknown = event("error", status=400, error={"message": "Unknown event type: 'response.steer'."})

    assert DELIVER is machine.receive(unknown)
    assert ("failed", None) == (steer.state, machine.error)
    assert steer.error is not None
    assert "response.steer" in steer.error.message
    assert DELIVER is machine.receive(unknown)  # said twice, it is no more about the turn than before
    assert END is machine.receive(ended("one"))


def test_an_error_for_the_turn_leaves_the_steers_unknown() -> None:
    """Once nothing more comes, nobody knows what became of them."""
    machine, (steer,) = steered("a")

    assert DELIVER is machine.receive(event("error", status=500, error={"code": "server_error"}))
    machine.expire_failing()
    assert ("failed", "lost") == (machine.status, steer.state)


@pytest.mark.hits("turn: settling, steer")
def test_an_error_after_the_end_is_about_the_steers() -> None:
    """Nothing else is open."""
    machine, (one, two) = steered("a", "b")
    machine.receive(about("failed", error={"code": "no"}))
    machine.receive(ended("one"))

    assert END is machine.receive(event("error", status=429, error={"code": "slow_down"}))
    assert ["no", "slow_down"] == [steer.error.code for steer in (one, two) if steer.error is not None]
    assert ("completed", None) == (machine.status, machine.error)


def test_an_error_after_the_end_is_about_all_that_are_open() -> None:
    """Whether the server had taken them or not: no more will be heard."""
    machine, steers = steered("a", "b", "c")
    machine.receive(about("accepted", id="s1"))
    machine.receive(ended("one", "incomplete"))

    assert END is machine.receive(event("error", status=429, error={"code": "slow_down"}))
    assert ["slow_down"] * 3 == [steer.error.code for steer in steers if steer.error is not None]


@pytest.mark.hits("turn: streaming, limit", "turn: settling, limit")
def test_the_limit_cuts_a_steered_turn() -> None:
    """Before and after the end of its first response."""
    limit = event("error", status=400, error={"code": "websocket_connection_limit_reached"})
    for events in ([], [about("accepted", id="s1"), ended("one", "incomplete")]):
        machine, _ = steered("a")
        for each in events:
            machine.receive(each)
        assert Reception.CUT is machine.receive(limit)
        assert "accepted" == machine.delivery


def test_what_a_failing_turn_was_steered_by_is_lost() -> None:
    """If `response.failed` does not follow."""
    machine, (steer,) = steered("a")
    machine.receive(event("error", sequence_number=3, error={"code": "server_error"}))
    machine.expire_failing()

    assert ("failed", "lost") == (machine.status, steer.state)


@pytest.mark.parametrize(
    ("events", "soon"),
    [
        ([], False),
        ([ended("one")], True),
        ([about("accepted", id="s1"), ended("one", "incomplete")], False),
        ([about("accepted", id="s1"), ended("one")], False),
        ([about("accepted", id="s1"), ended("one", "failed")], True),
    ],
)
def test_what_must_be_answered_soon(events: list[Event], soon: bool) -> None:
    """An answer needs no model; a successor, and its first word, may take long."""
    machine, _ = steered("a")
    for each in events:
        machine.receive(each)

    assert soon is machine.settles_soon


def test_a_steer_is_open_until_something_final_is_known() -> None:
    """`sent` and `accepted` are not final."""
    steers = Steers()
    steer = Steer(input=[item("a")], target="one")
    steers.add(steer)
    states = []
    for kind in ("accepted", "pending"):
        states.append((steer.state, steer.open, steers.open))
        steers.answer(kind, {"steer": {"previous_response_id": "one", "id": "s"}})
    states.append((steer.state, steer.open, steers.open))

    assert [("sent", True, True), ("accepted", True, True), ("pending", False, False)] == states
    steers.refuse(ServerError())
    steers.fail(ServerError())
    steers.lose()
    assert "pending" == steer.state


def test_an_error_that_ends_the_wait_is_about_all_that_are_open() -> None:
    """Whether the server owned them already or not."""
    steers = Steers()
    for text in ("a", "b"):
        steers.add(Steer(input=[item(text)], target="one"))
    steers.answer("accepted", {"steer": {"id": "s1"}})
    waiting = list(steers._all)
    steers.fail(ServerError(code="theirs"))

    assert [("failed", "theirs")] * 2 == [(each.state, each.error and each.error.code) for each in waiting]


EVENTS = [
    created("one"),
    created("two", "one"),
    created("three", "two"),
    ended("one", "incomplete"),
    ended("one", "failed"),
    ended("two"),
    about("accepted", "one", "s1"),
    about("accepted", "two", "s2"),
    about("pending", "one", "s1"),
    about("failed", "one", error={"code": "no"}),
    about("failed", "two", "s2", error={"code": "no"}),
    event("response.output_text.delta", delta="a"),
    event("error", status=400, error={"code": "no"}),
    event("error", status=400, error={"param": "type"}),
]


@given(st.lists(st.sampled_from([*EVENTS, "steer"]), max_size=12))
def test_any_order_of_events_comes_to_at_most_one_end(order: list[Event | str]) -> None:
    """Nothing is delivered after it, no steer is open then, and the parts follow one another."""
    machine = TurnMachine()
    machine.handed()
    steers: list[Steer] = []
    over = False
    for each in order:
        if isinstance(each, str):
            steer = Steer(input=[item(str(len(steers)))], target=machine.response_id or "")
            if machine.steer(steer):
                assert not over
                steers.append(steer)
            continue
        reception = machine.receive(each)
        assert not over or reception is DIRTY
        if reception is DIRTY:
            break
        over = over or reception is END
        assert over is (machine.state is TurnState.ENDED)
        if over:
            assert not any(steer.open for steer in steers)
    applied = [piece for part in machine.parts for piece in part.steered_by]
    assert applied == [
        piece
        for steer in steers
        if steer.state == "applied" and any(steer.input[0] in part.steered_by for part in machine.parts)
        for piece in steer.input
    ]


def test_what_was_steered_with_is_nobodys_to_change() -> None:
    """A caller has the steer; the history gets the items as they were sent."""
    given: list[dict[str, Any]] = [{"content": [{"text": "a"}]}]
    steers, steer = Steers(), Steer(input=given, target="one")
    steers.add(steer)
    steer.input[0]["content"][0]["text"] = "b"
    steer.input.clear()
    steer.state = "pending"

    assert [{"content": [{"text": "a"}]}] == steers.queued
