"""The output of a response: every piece in its place, the last word about each, or none at all."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from wspool.core.events.assembly import Assembly, Kinship
from wspool.core.events.past import Past
from wspool.core.frames import parse_event
from wspool.core.items import Item

NOTHING: list[object] = [None, [], "", 0, {}]
ODD: list[object] = ["Hello", ["Hello"], [None], {"type": "message"}, 7, [[]]]


def text(place: int, said: str = "said", **fields: Any) -> Item:
    return {"id": f"msg_{place}", "type": "message", "content": [{"text": f"{said} {place}"}], **fields}


def items(*events: tuple[str, int | None, object]) -> Assembly:
    """What was announced (`added`) and done, with or without its place."""
    found = Assembly()
    for what, place, item in events:
        where = {} if place is None else {"output_index": place}
        found.add(parse_event(json.dumps({"type": f"response.output_item.{what}", "item": item, **where})))
    return found


def announced(*places: int) -> list[tuple[str, int | None, object]]:
    return [("added", place, text(place, content=[], status="in_progress")) for place in places]


@given(st.permutations(range(5)), st.lists(st.integers(0, 4)), st.booleans())
def test_items_stand_in_the_order_of_their_places(order: list[int], again: list[int], added: bool) -> None:
    """Whatever order they came in, and however often: the last word about each is in its place, once."""
    said = [("done", place, text(place)) for place in order]
    said += [("done", place, text(place, "said again")) for place in again]
    found = items(*(announced(*range(5)) if added else []), *said)

    wanted = [text(place, "said again" if place in again else "said") for place in range(5)]
    assert wanted == found.output(None, whole=True)


@pytest.mark.parametrize("own", NOTHING)
@pytest.mark.parametrize("done", [(0, 2), (1,), (0, 1, 1)])
def test_an_output_with_a_gap_is_none(own: object, done: tuple[int, ...]) -> None:
    """An answer with a piece missing is never taken for whole, whether the piece was announced or not."""
    said = [("done", place, text(place)) for place in done]

    assert items(*announced(0, 1, 2), *said).output(own, whole=True) is None
    assert [text(place) for place in sorted(set(done))] == items(*announced(0, 1, 2), *said).output(
        own, whole=False
    )
    if max(done) >= len(set(done)):
        assert items(*said).output(own, whole=True) is None


def test_items_that_are_done_in_each_others_places_are_no_output() -> None:
    """Announced in one order and done in another: nobody can say which is right. An id may change, though."""
    first, second = text(0), text(1)
    swapped = [("done", 0, second), ("done", 1, first)]
    renamed = [("done", 0, {**first, "id": "a"}), ("done", 1, {**second, "id": "b"})]

    assert items(*announced(0, 1), *swapped).output(None, whole=True) is None
    assert [first | {"id": "a"}, second | {"id": "b"}] == items(*announced(0, 1), *renamed).output(
        None, whole=True
    )
    assert [first] == items(("added", 10**9, first), ("done", 0, first)).output(None, whole=True)


def test_an_item_that_is_done_elsewhere_than_it_was_announced_may_hide_another() -> None:
    """Its own place is somebody else's now, or the one that it has was: then a piece may be missing."""
    first, second = text(0), text(1)
    pushed_out = items(("added", 0, first), ("done", 1, first), ("done", 0, second))
    in_its_place = items(("added", 0, first), ("added", 2, second), ("done", 0, second))

    assert (None, None) == (pushed_out.output(None, whole=True), in_its_place.output(None, whole=True))


def test_an_enormous_place_costs_nothing() -> None:
    """A place that no output can have is a gap like another."""
    assert items(("done", 10**15, text(0))).output(None, whole=True) is None


@pytest.mark.parametrize("place", [None, -1, "0", True])
def test_items_without_a_place_stand_as_they_came(place: Any) -> None:
    """By id, if they have one: an item that is said twice is there once."""
    found = items(
        ("added", place, text(0, content=[])),
        ("done", place, text(0)),
        ("added", place, text(1, content=[])),
        ("done", place, text(1)),
        ("done", place, text(0, "said again")),
        ("done", place, {"type": "message"}),
    )

    assert [text(0, "said again"), text(1), {"type": "message"}] == found.output(None, whole=True)


def test_the_own_output_of_the_end_is_the_last_word() -> None:
    """However it differs from what was announced; items of no shape are no items."""
    found = items(*announced(0, 1), ("done", 0, text(0)))

    assert [text(7)] == found.output([None, text(7), "x"], whole=True)


@pytest.mark.parametrize(
    ("snapshot", "finished"),
    [
        ({"type": "function_call", "arguments": ""}, {"type": "function_call", "arguments": "{}"}),
        ({"type": "custom_tool_call", "input": ""}, {"type": "custom_tool_call", "input": "x"}),
        ({"type": "message", "content": []}, {"type": "message", "content": [{}]}),
        ({"type": "reasoning", "status": "in_progress"}, {"type": "reasoning", "status": "completed"}),
        (
            {"type": "function_call", "status": "in_progress", "arguments": "{"},
            {"type": "function_call", "arguments": "{}"},
        ),
    ],
)
def test_a_finished_item_counts_over_a_snapshot(snapshot: Item, finished: Item) -> None:
    """A final output that repeats the beginning of an item does not undo its end."""
    assert [finished] == items(("done", 0, finished)).output([snapshot], whole=True)
    assert [snapshot] == items(("done", 0, snapshot)).output([snapshot], whole=True)
    assert [snapshot] == items(("done", 0, {"type": "other"})).output([snapshot], whole=True)
    assert [snapshot] == items(("done", 1, finished)).output([snapshot], whole=True)
    assert [finished] == items(("done", 0, snapshot)).output([finished], whole=True)


def test_only_a_snapshot_is_finished_by_what_was_said_before() -> None:
    """The other items of a final output are the last word about themselves."""
    found = items(("done", 0, text(0)), ("done", 1, text(1)))
    own = [text(0, content=[]), text(1, "said at last")]

    assert [text(0), text(1, "said at last")] == found.output(own, whole=True)


@pytest.mark.parametrize("own", ODD)
def test_an_output_that_is_no_list_of_items_is_none(own: object) -> None:
    """Unless the items were announced: then they are what was meant."""
    assert Assembly().output(own, whole=False) is None
    assert [text(0)] == items(("done", 0, text(0))).output(own, whole=True)


@pytest.mark.parametrize("own", NOTHING)
def test_an_output_without_items_is_empty(own: object) -> None:
    """A warm-up has none."""
    assert [] == Assembly().output(own, whole=True)


@pytest.mark.parametrize("item", [None, "Hello", []])
def test_what_is_no_object_was_not_announced(item: object) -> None:
    """Whatever its event says."""
    found = items(("done", 0, item), ("done", 0, text(0)))

    assert [text(0)] == found.output(None, whole=True)
    assert [] == items(("done", 0, item)).output(None, whole=True)


def test_items_without_a_name_or_a_place_are_one_behind_the_other() -> None:
    """None is another one, said again."""
    said = [{"type": "message", "content": [{"text": word}]} for word in ("one", "two")]

    assert said == items(*(("done", None, item) for item in said)).output(None, whole=True)


@pytest.mark.parametrize("member", ["/root/critic", None])
def test_the_items_of_all_agents_are_the_output(member: str | None) -> None:
    """They name their agent; those of one that has a response of its own are not among them."""
    found = items(("done", 0, text(0)))
    for place, agent in enumerate((None, {"agent_name": "/root"}, {"agent_name": member}), 1):
        event = {"output_index": place, "agent": agent, "item": text(place)}
        found.add(parse_event(json.dumps({"type": "response.output_item.done", **event})))
    assert [text(0), text(1), text(2), text(3)] == found.output(None, whole=True)

    found.leave_out(member)

    assert [text(0), text(1), text(2)] == found.output(None, whole=True)


@pytest.mark.parametrize(
    ("found", "whole"),
    [
        ([], False),
        (announced(0), False),
        ([*announced(0, 1), ("done", 0, text(0))], False),
        ([*announced(0), ("done", 0, text(0))], True),
        ([("done", 0, text(0)), ("done", 0, text(1))], False),
    ],
)
def test_what_came_is_whole_once_all_that_was_announced_is_done(found: Any, whole: bool) -> None:
    """Nothing at all is not, nor are two items in one place."""
    assert whole is items(*found).whole


@pytest.mark.parametrize(
    ("numbers", "numbered"), [([], True), ([3], True), ([3, None], False), ([None], False)]
)
def test_what_came_is_numbered_if_all_of_it_is(numbers: list[int | None], numbered: bool) -> None:
    """One event without a number may be anybody's."""
    found = Assembly()
    for number in numbers:
        event = {"type": "response.output_item.done", "item": text(0), "sequence_number": number}
        found.add(parse_event(json.dumps(event)))
    assert numbered is found.numbered


@pytest.mark.parametrize(
    ("found", "own", "kinship"),
    [
        ([], [text(0)], Kinship.UNKNOWN),
        (announced(0), [], Kinship.UNKNOWN),
        (announced(0), [text(0)], Kinship.ALL),
        ([("done", 0, text(0))], [text(0)], Kinship.ALL),
        ([("done", 0, text(0)), ("done", 0, text(1))], [text(0)], Kinship.UNKNOWN),
        ([*announced(0), ("done", 0, text(0)), ("done", 0, text(1))], [text(0)], Kinship.ALL),
        (announced(0, 1), [text(0)], Kinship.SOME),
        ([*announced(0), ("added", 0, text(1)), ("done", 0, text(1))], [text(1)], Kinship.SOME),
        ([*announced(0), *announced(0)], [text(0)], Kinship.ALL),
        (announced(0), [text(0), text(1)], Kinship.SOME),
        (announced(0), [text(1)], Kinship.NONE),
        (announced(9), [text(9)], Kinship.NONE),
        ([("done", 0, {"type": "x", "a": 1})], [{"type": "x", "a": 2}], Kinship.NONE),
    ],
)
def test_an_output_is_ours_by_its_ids_or_by_its_words(found: Any, own: list[Item], kinship: Kinship) -> None:
    """An id that an earlier response had says nothing, and neither does none."""
    past = Past()
    past.end([text(9)])
    assert kinship is items(*found).kinship(own, past)


def test_an_old_item_beside_one_that_was_only_announced_is_no_output() -> None:
    """A response that was cut short may have finished none of its own: what is done is somebody else's."""
    past = Past()
    past.end([text(9)])

    for found in ([("done", 0, text(9)), *announced(0)], [*announced(1), ("done", 0, text(9))]):
        assert items(*found).output(None, whole=False, past=past) is None
    assert [text(9)] == items(*announced(9), ("done", 9, text(9))).output(None, whole=False, past=past)


def test_two_items_in_one_place_are_no_output() -> None:
    """Under two names: one of them is somebody else's, and nobody can say which."""
    found = items(("done", 0, text(0)), ("done", 0, {**text(0), "id": "other"}))

    assert found.output(None, whole=True) is None
    assert found.output(None, whole=False) is None


def call(name: str | None, number: int, arguments: str = "{}") -> Item:
    return {"id": name, "type": "function_call", "call_id": f"call_{number}", "arguments": arguments}


@pytest.mark.parametrize("where", [(0, 1), (None, None), (0, None)])
@pytest.mark.parametrize("name", ["fc", None])
@pytest.mark.parametrize("at_once", [True, False])
def test_two_calls_of_one_id_are_two(where: tuple[int | None, ...], name: str | None, at_once: bool) -> None:
    """None of them is lost, nor the turn, whether they have places or not, and how ever they came."""
    one, other = call(name, 1), call(name, 2)
    said = [("added", where[0], one), ("done", where[0], one), ("added", where[1], other)]
    if at_once and (name is None or where[1] is not None):  # else the first is announced twice
        said = [said[0], said[2], said[1]]

    assert [one, other] == items(*said, ("done", where[1], other)).output(None, whole=True)


def test_a_call_that_nobody_announced_is_told_from_one_that_is_done_twice() -> None:
    """By its `call_id`; the last word about each counts."""
    one, again, other = call("fc", 1), call("fc", 1, '{"a": 1}'), call("fc", 2)
    said: list[tuple[str, int | None, object]] = [("done", None, one), ("done", None, again)]

    assert [again] == items(*said).output(None, whole=True)
    assert [again, other] == items(*said, ("done", None, other)).output(None, whole=True)


def test_an_item_without_a_place_that_is_announced_twice_is_one() -> None:
    """And so is one that is announced again once it is done."""
    said: list[tuple[str, int | None, object]] = [("added", None, call("fc", 1))] * 2
    said.append(("done", None, call("fc", 1)))

    assert [call("fc", 1)] == items(*said).output(None, whole=True)
    assert [call("fc", 1)] == items(*said, said[0]).output(None, whole=True)
