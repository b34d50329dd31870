"""In doubt: what speaks against itself and is ours all the same, and what is not, each by its evidence."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from wspool.core.commands import CloseReason
from wspool.core.events.evidence import Evidence, item_of
from wspool.core.events.past import Past
from wspool.core.events.steering import Steer
from wspool.core.events.trust import Rewrite, Trust
from wspool.core.events.turn import Reception, TurnMachine, TurnState
from wspool.core.frames import Event, parse_event

OURS, REAL, OLD = "resp_ours", "resp_real", "resp_old"
DELIVER, END, IGNORE, DIRTY = Reception.DELIVER, Reception.END, Reception.IGNORE, Reception.DIRTY
LENIENT = Trust(exact=False)
IDS, NUMBERS = frozenset({Rewrite.IDS}), frozenset({Rewrite.NUMBERS})


def item(text: str, name: str | None = None, **fields: Any) -> dict[str, Any]:
    """A finished message."""
    called = {} if name is None else {"id": name}
    part = {"type": "output_text", "text": text}
    return {**called, "type": "message", "status": "completed", "content": [part], **fields}


def event(kind: str, number: int | None = None, **fields: Any) -> Event:
    counted = {} if number is None else {"sequence_number": number}
    return parse_event(json.dumps({"type": f"response.{kind}", **counted, **fields}))


def about(kind: str, name: str | None, number: int | None = None, **response: Any) -> Event:
    called = {} if name is None else {"id": name}
    return event(kind, number, response={**called, **response})


def turn(*said: Event, past: Past | None = None, trust: Trust | None = None) -> TurnMachine:
    """A turn whose response has begun, with number 0, and has said that."""
    machine = TurnMachine(None, None, past, trust=trust or Trust())
    machine.handed()
    machine.receive(about("created", OURS, 0))
    for each in said:
        assert machine.receive(each) is DELIVER
    return machine


def an_item(place: int, number: int | None, text: str, name: str | None) -> list[Event]:
    """An item, announced and done."""
    numbers: list[int | None] = [None, None] if number is None else [number, number + 1]
    snapshot = {**item(text, name), "content": [], "status": "in_progress"}
    return [
        event("output_item.added", numbers[0], output_index=place, item=snapshot),
        event("output_item.done", numbers[1], output_index=place, item=item(text, name)),
    ]


def old_past() -> Past:
    """A connection that has carried one response, with one item."""
    past = Past()
    past.begin(OLD)
    past.end([{"id": "msg_old"}])
    return past


# -- the end of a response that nobody has seen -------------------------------------------------------


@pytest.mark.parametrize("name", [REAL, None, 7])
@pytest.mark.parametrize("kind", ["completed", "incomplete", "done"])
@pytest.mark.parametrize(
    "output",
    [
        [item("one", "msg_1"), item("two", "msg_2")],
        [item("another text", "msg_1"), item("two", "msg_2")],
        [item("one", "msg_a"), item("two", "msg_b")],
        [item("one"), item("two", status="incomplete")],
        [item("one"), dict(reversed(item("two").items()))],
    ],
    ids=["the same", "by id", "word for word", "without ids", "in another order"],
)
def test_an_end_that_says_what_ours_said_is_ours(name: Any, kind: str, output: list[Any]) -> None:
    """It is delivered, and tells the id to go on from; the endpoint was caught, and the connection goes."""
    machine = turn(*an_item(0, None, "one", "msg_1"), *an_item(1, None, "two", "msg_2"))
    end = about(kind, name, output=output, status="completed")
    if kind == "done" and name is None:
        assert DELIVER is machine.receive(end)  # of what has no id and no known type nobody knows what it is
        return

    assert END is machine.receive(end)
    assert machine.response is not None
    assert output == machine.response["output"]
    assert (REAL if name == REAL else OURS) == machine.remembered == machine.parts[-1].id
    assert (IDS, OURS) == (machine.rewritten, machine.response_id)
    assert CloseReason.DIRTY is machine.why_close(closes_after_error=False)


@pytest.mark.parametrize("kind", ["completed", "incomplete", "failed", "done"])
@pytest.mark.parametrize(
    "output",
    [
        [item("somebody else's", "msg_9")],
        [item("one", "msg_1")],
        [item("one", "msg_1"), item("somebody else's", "msg_9")],
        [item("two", "msg_old")],
        [],
        None,
        "one",
    ],
    ids=["another", "half", "half another's", "old", "empty", "none", "odd"],
)
@pytest.mark.parametrize("name", [REAL, None])
def test_a_foreign_end_is_never_an_answer(kind: str, output: object, name: str | None) -> None:
    """Ours goes on, and ends as if nothing had been; the connection goes after it. If it does not end,
    somebody has to see to it that nobody waits for ever."""
    said = *an_item(0, None, "one", "msg_1"), *an_item(1, None, "two", "msg_2")
    machine = turn(*said, past=old_past())
    end = about(kind, name, output=output, status="completed", error={"code": "theirs"})
    nobody_knows = kind == "done" and name is None

    assert (DELIVER if nobody_knows else IGNORE) is machine.receive(end)
    assert (TurnState.STREAMING, None) == (machine.state, machine.error)
    assert (not nobody_knows) == machine.suspect == machine.unproved == ("end" in machine.complaint)
    whole = [item("one", "msg_1"), item("two", "msg_2")]
    assert END is machine.receive(about("completed", OURS, output=whole))
    assert machine.response is not None
    assert (whole, frozenset()) == (machine.response["output"], machine.rewritten)


@pytest.mark.parametrize("lenient", [True, False])
def test_an_end_without_an_output_is_ours_if_its_number_is(lenient: bool) -> None:
    """And all that was announced has come. Where numbers prove nothing, any is ours that says nothing."""
    for kind, number, announced, ours in (
        ("completed", 3, 2, True),
        ("incomplete", 3, 2, True),
        ("completed", 4, 2, False),
        ("completed", 2, 1, False),
        ("failed", 2, 1, True),
        ("failed", 5, 1, False),
    ):
        trust = LENIENT if lenient else Trust()
        machine = turn(*an_item(0, 1, "one", "msg_1")[:announced], trust=trust)
        reception = machine.receive(about(kind, REAL, number, error={"code": "x"}))
        missing = kind == "completed" and announced == 1

        assert (END if ours else DIRTY if lenient and missing else END if lenient else IGNORE) is reception
        if not lenient:
            assert (ours, not ours) == (machine.rewritten == IDS, machine.unproved)


def test_a_gateway_is_believed_but_where_it_contradicts_itself() -> None:
    """What has another id is ours, unless it says nothing of what ours said; what is old stays so."""
    said = an_item(0, None, "one", "msg_1")
    for output, reception in (
        ([item("one", "msg_9")], END),
        ([], END),
        ([item("one", "msg_1"), item("two", "msg_2")], END),
        ([item("somebody else's", "msg_9")], IGNORE),
    ):
        machine = turn(*said, trust=LENIENT)
        assert DELIVER is machine.receive(about("queued", REAL))
        assert DELIVER is machine.receive(about("beat", REAL))

        assert reception is machine.receive(about("completed", REAL, output=output))
        assert (reception is IGNORE) == machine.suspect == machine.unproved
        assert frozenset() == machine.rewritten
    machine = turn(*said, past=old_past(), trust=LENIENT)
    assert IGNORE is machine.receive(about("completed", OLD, output=[item("one", "msg_1")]))


def test_the_id_of_an_end_is_known_from_then_on() -> None:
    """What names it later is old."""
    past = Past()
    machine = turn(*an_item(0, None, "one", "msg_1"), past=past)
    machine.receive(about("completed", REAL, output=[item("one")]))

    assert past.knows(REAL)
    assert past.knows(OURS)


@pytest.mark.hits("dirty: progress before the beginning", "dirty: an unknown response before the beginning")
def test_before_ours_has_begun_nothing_is_in_doubt() -> None:
    """What names a response that nobody has seen is not ours: ours has not begun."""
    for trust in (Trust(), LENIENT):
        for kind in ("completed", "queued", "beat", "done"):
            machine = TurnMachine(trust=trust)
            machine.handed()

            assert DIRTY is machine.receive(about(kind, REAL, status="completed"))


def test_progress_that_nobody_has_seen_is_dropped_unless_its_number_is_ours() -> None:
    """It says nothing of the output: what is put together stays whole."""
    for number, reception, rewritten in ((1, DELIVER, IDS), (None, IGNORE, frozenset())):
        machine = turn()

        assert reception is machine.receive(about("queued", REAL, number))
        assert (True, False) == (machine.suspect, machine.unproved)
        for each in an_item(0, None, "one", "msg_1"):
            machine.receive(each)
        assert END is machine.receive(about("completed", OURS))
        assert rewritten == machine.rewritten


# -- numbers ----------------------------------------------------------------------------------------------


def test_the_parent_that_was_sent_proves_as_much() -> None:
    """Nobody else's response names it; where none was sent, that proves nothing."""
    for parent, echoed, reception in (
        ("resp_p", "resp_p", END),
        ("resp_p", None, IGNORE),
        (None, None, IGNORE),
    ):
        machine = TurnMachine(parent)
        machine.handed()
        machine.receive(about("created", OURS, previous_response_id=parent))
        for each in an_item(0, None, "one", "msg_1"):
            machine.receive(each)
        progress = machine.receive(about("queued", REAL, previous_response_id=echoed))

        assert (DELIVER if reception is END else IGNORE) is progress
        assert reception is machine.receive(about("completed", REAL, previous_response_id=echoed))


def test_what_names_a_parent_that_was_not_sent_is_nobodys() -> None:
    """Whatever else fits, its number and its items: all of it may be of a response that nobody saw begin."""
    for parent, echoed, lenient in (
        ("resp_p", "resp_q", False),
        (None, "resp_q", False),
        (None, "resp_q", True),
    ):
        machine = TurnMachine(parent, trust=LENIENT if lenient else Trust())
        machine.handed()
        machine.receive(about("created", OURS, 0, previous_response_id=parent))

        progress = machine.receive(about("in_progress", REAL, 1, previous_response_id=echoed))
        for each in an_item(0, 2, "one", "msg_1"):
            machine.receive(each)
        whole = [item("one", "msg_1")]
        end = machine.receive(about("completed", REAL, 4, previous_response_id=echoed, output=whole))

        assert ((DELIVER, END) if lenient else (IGNORE, IGNORE)) == (progress, end)
        assert machine.suspect is not lenient


def test_the_successor_of_a_steered_response_names_what_was_steered() -> None:
    """That is no parent of others, though it was not sent."""
    machine = turn()
    machine.steer(steer := Steer(input=[], target=OURS))
    machine.receive(event("steer.accepted", steer={"id": "s", "previous_response_id": OURS}))
    assert "accepted" == steer.state
    machine.receive(about("incomplete", OURS, output=[]))
    assert DELIVER is machine.receive(about("created", "resp_next", previous_response_id=OURS))
    for each in an_item(0, None, "one", "msg_1"):
        machine.receive(each)

    assert END is machine.receive(
        about("completed", REAL, previous_response_id=OURS, output=[item("one", "msg_1")])
    )


def test_two_items_that_were_announced_for_one_place_are_of_two_responses() -> None:
    """So an end that repeats the items of one of them proves nothing."""
    machine = turn(an_item(0, None, "ours", "msg_1")[0])
    for each in an_item(0, None, "another's", "msg_9"):
        machine.receive(each)

    assert IGNORE is machine.receive(about("completed", REAL, output=[item("another's", "msg_9")]))
    assert END is machine.receive(about("completed", OURS, output=[item("ours", "msg_1")]))
    assert [item("ours", "msg_1")] == (machine.response or {})["output"]


def test_numbers_that_do_not_count_are_caught_where_nothing_was_missing() -> None:
    """All that the end says was heard: then it was the numbers that were wrong, and not the events."""
    for heard, rewritten in ((2, NUMBERS), (1, frozenset())):
        machine = turn(event("in_progress", 1, response={"id": OURS}))
        for each in (*an_item(0, 5, "one", "msg_1"), *an_item(1, 7, "two", "msg_2"))[: heard * 2]:
            assert DELIVER is machine.receive(each)
        whole = [item("one", "msg_1"), item("two", "msg_2")]

        assert END is machine.receive(about("completed", OURS, 99, output=whole))
        assert (True, rewritten) == (machine.suspect, machine.rewritten)


def test_an_endpoint_that_rewrites_both_is_caught_at_both() -> None:
    """In one turn: an id that follows by number, and then numbers that do not count."""
    machine = turn(event("in_progress", 1, response={"id": OURS}))
    assert DELIVER is machine.receive(about("queued", REAL, 2))
    assert IDS == machine.rewritten
    for each in an_item(0, 5, "one", "msg_1"):
        assert DELIVER is machine.receive(each)

    assert END is machine.receive(about("completed", OURS, 99, output=[item("one", "msg_1")]))
    assert IDS | NUMBERS == machine.rewritten


def test_an_old_item_stays_old_whatever_its_number() -> None:
    """Its number is not the next, or fits, where numbers prove nothing: it is dropped."""
    late = {"item_id": "msg_old", "output_index": 0, "delta": "late"}
    for trust, number in ((Trust(), 7), (LENIENT, 3), (LENIENT, 7), (LENIENT, None)):
        machine = turn(*an_item(0, 1, "one", "msg_1"), past=old_past(), trust=trust)

        assert IGNORE is machine.receive(event("output_text.delta", number, **late))
        assert machine.suspect
    late_item = {"output_index": 0, "item": {"id": "msg_old", "type": "message"}}
    machine = turn(past=old_past())
    machine.receive(about("in_progress", OURS, 1))
    assert IGNORE is machine.receive(event("output_item.added", 3, **late_item))
    for each in an_item(0, 2, "one", "msg_1"):
        assert DELIVER is machine.receive(each)
    assert IGNORE is machine.receive(event("output_text.delta", 4, **late))
    machine = turn(*an_item(0, 1, "one", "msg_1"), trust=LENIENT)
    for _ in range(3):
        assert DELIVER is machine.receive(event("output_text.delta", 3, item_id="msg_1", delta="a"))
    assert not machine.suspect


def test_the_life_of_an_agents_response_may_be_miscounted() -> None:
    """It is an event like another."""
    machine = turn(*an_item(0, 1, "one", "msg_1"))

    assert DELIVER is machine.receive(
        event("completed", 9, response={"id": "resp_member"}, agent={"agent_name": "/root/a"})
    )
    assert machine.suspect


@pytest.mark.hits("dirty: begins with a number that is not the next")
def test_a_second_beginning_is_nobodys() -> None:
    """Whatever its number."""
    for number in (None, 3, 9):
        machine = turn(*an_item(0, 1, "one", "msg_1"))

        assert DIRTY is machine.receive(about("created", REAL, number))


def test_an_error_out_of_order_may_be_ours() -> None:
    """Its end says so; if none comes, somebody has to see to it that nobody waits for ever."""
    machine = turn(*an_item(0, 1, "one", "msg_1"))
    error = {"code": "server_error", "message": "It broke."}
    odd = parse_event(json.dumps({"type": "error", "sequence_number": 9, "error": error}))

    assert IGNORE is machine.receive(odd)
    assert (True, True, None) == (machine.suspect, machine.unproved, machine.error)
    assert END is machine.receive(about("failed", OURS, error=error))
    assert "failed" == machine.status


NUMBERED = [
    *an_item(0, 1, "one", "msg_1"),
    event("output_text.delta", 3, item_id="msg_2", delta="a"),
    *an_item(1, 4, "two", "msg_2"),
    about("in_progress", OURS, 6),
]
WHOLE = [item("one", "msg_1"), item("two", "msg_2")]


@given(
    st.lists(st.none() | st.integers(-1, 9), min_size=7, max_size=7),
    st.lists(st.sampled_from([OURS, REAL, None]), min_size=7, max_size=7),
    st.booleans(),
)
def test_whatever_a_gateway_makes_of_numbers_and_ids_the_answer_is_told(
    numbers: list[int | None], names: list[str | None], exact: bool
) -> None:
    """One request is in flight, nothing is missing, nothing comes twice, and the end says all of it."""
    machine = turn(trust=Trust(exact=exact))
    said = [json.loads(each.raw) for each in (*NUMBERED, about("completed", OURS, output=WHOLE))]
    receptions = []
    for frame, number, name in zip(said, numbers, names, strict=True):
        if "response" in frame:
            frame["response"] |= {"id": name}
        frame.pop("sequence_number", None)
        if number is not None:
            frame["sequence_number"] = number
        receptions.append(machine.receive(parse_event(json.dumps(frame))))

    assert END is receptions[-1]
    assert machine.response is not None
    assert WHOLE == machine.response["output"]
    assert {DELIVER, IGNORE} >= set(receptions[:-1])
    assert [DELIVER] * 5 == receptions[:5]


def test_the_item_of_an_event_stands_in_a_usual_place() -> None:
    """As text and as bytes."""
    raw = '{"type":"response.output_text.delta","item_id":"msg_1"}'

    assert "msg_1" == item_of(parse_event(raw)) == item_of(parse_event(raw.encode()))
    assert None is item_of(parse_event('{"type":"response.output_text.delta"}'))
    broken = Event("response.output_text.delta", b'{"delta":"\xff","item_id":"msg_1"}')
    assert "msg_1" == item_of(broken), "what else is in it does not matter"
    assert None is item_of(parse_event(raw.replace("_1", "\\u005f1"))), "an id that has to be decoded"


def test_a_server_may_use_the_ids_of_its_items_again() -> None:
    """Without numbers: what it announces is ours as long as all of it has old ids, and so is what follows."""
    past = old_past()
    past.end([{"id": "msg_older"}])
    machine = turn(past=past)
    for place, name in enumerate(("msg_old", "msg_older")):
        for each in an_item(place, None, "one", name):
            assert DELIVER is machine.receive(each)
        assert DELIVER is machine.receive(event("output_text.delta", item_id=name, delta="a"))

    assert not machine.suspect


def test_after_a_foreign_end_an_answer_has_to_be_repeated() -> None:
    """What came before may have been the other one's, as far as our end does not say it."""
    for mixed in (False, True):
        machine = turn(*an_item(0, None, "one", "msg_1"))
        if mixed:
            other = [item("somebody else's", "msg_9")]
            assert IGNORE is machine.receive(about("completed", REAL, output=other))

        assert (DIRTY if mixed else END) is machine.receive(about("completed", OURS, output=[]))


@pytest.mark.parametrize("trust", [Trust(), LENIENT])
def test_a_piece_of_an_old_item_is_dropped_where_numbers_prove_nothing(trust: Trust) -> None:
    """Because one was missing before, or never did: also behind pieces of ours that were never announced."""
    machine = turn(past=old_past(), trust=trust)
    for number in (1, 5):
        assert DELIVER is machine.receive(event("output_text.delta", number, delta="a"))

    assert IGNORE is machine.receive(event("output_text.delta", 6, item_id="msg_old", delta="late"))


@pytest.mark.parametrize("steered", [False, True])
def test_in_a_steered_turn_numbers_do_not_tell_old_items_from_ours(steered: bool) -> None:
    """An answer to a steer takes any: there what mixes old and new items is no answer."""
    machine = turn(past=old_past())
    if steered:
        assert machine.steer(Steer(input=[], target=OURS))
    for place, name in enumerate(("msg_1", "msg_old")):
        for each in an_item(place, 1 + 2 * place, "one", name):
            assert DELIVER is machine.receive(each)

    assert (DIRTY if steered else END) is machine.receive(about("incomplete", OURS, 5, output=[]))


def test_what_ends_a_turn_for_good_is_told() -> None:
    """Whoever reads the log sees what it was."""
    machine = turn(*an_item(0, None, "one", "msg_1"))

    assert DIRTY is machine.receive(about("created", REAL))
    assert "an event that cannot belong to this turn" == machine.complaint


def test_what_was_announced_stays_old_though_its_end_named_it_otherwise() -> None:
    """A late piece of it is nobody's news."""
    past = Past()
    machine = turn(*an_item(0, None, "one", "msg_1"), past=past)
    assert END is machine.receive(about("completed", OURS, output=[item("one", "msg_9")]))
    for name in ("msg_1", "msg_9"):
        machine = TurnMachine(None, None, past)
        machine.handed()
        machine.receive(about("created", f"resp_{name}"))

        assert IGNORE is machine.receive(event("output_text.delta", item_id=name, delta="late"))


def test_a_refusal_may_be_repeated_word_for_word() -> None:
    """By the next request on the same connection: it was about no response that had begun."""
    past = Past()
    error = {"code": "rate_limit_exceeded", "message": "Slow down."}
    for _ in range(2):
        machine = TurnMachine(None, None, past)
        machine.handed()

        assert END is machine.receive(
            parse_event(json.dumps({"type": "error", "status": 429, "error": error}))
        )
        assert machine.refused


@pytest.mark.parametrize(
    ("odd", "following"),
    [(7, 8), (1, 3)],
    ids=["forwards", "backwards"],
)
def test_numbers_go_on_from_the_highest(odd: int, following: int) -> None:
    """Once one was wrong: the next is that of ours, and proves whose end it is that says nothing else."""
    machine = turn(*an_item(0, 1, "one", "msg_1"))
    assert DELIVER is machine.receive(event("output_text.delta", odd, item_id="msg_1", delta="a"))

    assert END is machine.receive(about("failed", REAL, following))


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("number_last", [True, False])
def test_a_piece_of_an_old_item_whose_number_fits_is_dropped(first: bool, number_last: bool) -> None:
    """As the first of its kind, or behind one that is ours; one by one, or several in one read."""

    def piece(name: str, number: int) -> str:
        count, said = f'"sequence_number":{number}', f'"item_id":"{name}","delta":"a"'
        rest = f"{said},{count}" if number_last else f"{count},{said}"
        return f'{{"type":"response.output_text.delta",{rest}}}'

    machine = turn(*an_item(0, 1, "one", "msg_1"), past=old_past())
    ours = 0 if first else 3
    for number in range(3, 3 + ours):
        assert DELIVER is machine.receive(parse_event(piece("msg_1", number)))
    late = piece("msg_old", 3 + ours)

    assert ([], "") == machine.receive_run([late])
    assert IGNORE is machine.receive(parse_event(late))
    assert machine.suspect
    assert DELIVER is machine.receive(parse_event(piece("msg_1", 3 + ours)))


def test_who_goes_on_with_the_same_item() -> None:
    """It is named under a key, and it is one of ours; all else is looked into."""
    known = Evidence(None, None, Past(), Trust())
    known.announce("msg_1")

    def piece(name: str, text: str = "") -> Event:
        return parse_event(
            f'{{"type":"response.output_text.delta","item_id":"{name}","delta":{json.dumps(text)}}}'
        )

    assert known.goes_on(piece("msg_1"))
    assert not known.goes_on(piece("msg_2", 'id":"msg_1"'))
    assert not known.goes_on(parse_event(str(piece("msg_1").raw).encode()))
    assert not known.is_anothers(piece("msg_2")), "nobody knows it"
    assert not known.goes_on(piece("msg_2"))


def test_an_item_that_names_another_is_announced_by_its_own_id() -> None:
    """Where a server uses the ids of its items again: else what is said of it would count as an old one's."""
    past = old_past()
    past.end([{"id": "msg_older"}])
    first = item("one", "msg_1")
    naming = '{"type":"mcp_call","id":"msg_older","approval_request_id":"msg_1"}'
    machine = turn(
        event("output_item.added", 1, output_index=0, item=first),
        parse_event(f'{{"type":"response.output_item.added","sequence_number":2,"item":{naming}}}'),
        past=past,
    )

    assert DELIVER is machine.receive(event("mcp_call_arguments.delta", 3, item_id="msg_older", delta="a"))


def test_an_item_that_is_done_and_was_never_announced_is_known_by_its_id() -> None:
    """Also where the end of its response calls it otherwise: a late piece of it is nobody's."""
    past = Past()
    first = turn(event("output_item.done", 1, output_index=0, item=item("one", "msg_1")), past=past)
    assert END is first.receive(about("completed", OURS, 2, output=[item("one", "msg_a")]))
    second = TurnMachine(None, None, past)
    second.handed()
    second.receive(about("created", REAL))

    assert IGNORE is second.receive(event("output_text.delta", item_id="msg_1", delta="a"))


def test_what_comes_twice_with_a_number_too_high_is_delivered_once() -> None:
    """That something is missing before it is known by then."""
    machine = turn(event("output_text.delta", 1, delta="a"))
    late = event("output_text.delta", 5, delta="b")

    assert [DELIVER, IGNORE] == [machine.receive(late) for _ in range(2)]
    assert DELIVER is machine.receive(event("output_text.delta", 6, delta="c"))


def test_a_delta_of_an_earlier_item_is_none_of_ours_whatever_came_before() -> None:
    """Though it is of the same kind as the one before, and has the next number."""
    deltas = [event("output_text.delta", number, item_id="msg_1", delta="a") for number in (3, 4, 5)]
    machine = turn(*an_item(0, 1, "a", "msg_1"), *deltas, past=old_past())

    assert IGNORE is machine.receive(event("output_text.delta", 6, item_id="msg_old", delta="b"))
    assert machine.suspect


@pytest.mark.parametrize(
    ("passed", "last", "clean"),
    [
        ([3], 4, True),
        ([4, 3], 5, True),
        ([3, 9], 4, True),
        ([], 4, False),  # a gap that nothing explains
        ([4], 4, False),
        ([3], 5, False),
        ([1, 2], 4, False),
        (range(4, 2000), 4, False),
        (range(3, 2000), 1003, True),
        (range(3, 2000), 1004, False),  # more are not remembered
    ],
)
def test_a_notice_without_a_lane_may_have_a_number_of_ours(passed: Any, last: int, clean: bool) -> None:
    """Where lanes are named nobody knows whose it is; so the number that it has is missed by nobody."""
    machine = turn(*an_item(0, 1, "mine", "msg_1"))
    for number in passed:
        machine.pass_over(number)

    assert machine.receive(about("completed", OURS, last)) is (END if clean else DIRTY)
    assert machine.suspect is not clean


def test_a_notice_before_ours_has_begun_has_no_number_of_ours() -> None:
    """Nobody knows yet where its numbers begin."""
    past = Past()
    past.counts = True
    machine = TurnMachine(None, None, past)
    machine.handed()
    machine.pass_over(1)
    for each in (about("created", OURS, 0), *an_item(0, 2, "mine", "msg_1")):
        machine.receive(each)

    assert machine.suspect
