"""A request goes on from the turn whose words it repeats, whatever its host made of them; from no other."""

from __future__ import annotations

import copy
import itertools
import json
import sys
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, strategies as st

from tests.core.resending import Item, conversations, message, resent
from tests.garbage import collect
from tests.searching import examples
from wspool.core.matching import index as module
from wspool.core.matching.canonical import canonical, kind_of
from wspool.core.matching.index import Index, digest_of, read_alone
from wspool.core.matching.known import NO_NAME, Known, likelihood, name_of

CAPTURES = [
    json.loads(line)
    for line in Path(__file__).with_name("captures.jsonl").read_text(encoding="utf-8").splitlines()
]
HI = message("user", "hi")
YES: Item = {"id": "msg_1", **message("assistant", "yes")}
THOUGHT: Item = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"}
CALL: Item = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "look", "arguments": '{"a":1}'}
SEEN: Item = {"type": "function_call_output", "call_id": "c1", "output": "seen"}


def make(**limits: Any) -> Index:
    return Index(**{"max_bytes": 1 << 20, "max_age": 3600.0, **limits})


def take(
    index: Index,
    items: Sequence[Item] | str,
    output: Sequence[Item],
    response_id: str = "resp_1",
    *,
    now: float = 0.0,
    session: Sequence[str] = (),
    **body: Any,
) -> Known | None:
    """A turn that ends well."""
    read = index.read({"model": "m", "input": items, **body}, now, session=session)
    index.find(read, now)
    return index.remember(read, response_id, output, now)


def found(
    index: Index, items: Any, *, now: float = 0.0, session: Sequence[str] = (), **body: Any
) -> list[tuple[str, int]]:
    """What a request goes on from, and how many of its items that stands for."""
    read = index.read({"model": "m", "input": items, **body}, now, session=session)
    return [(known.response_id, read.skip) for known in index.find(read, now)]


# -- what real hosts send ---------------------------------------------------------------------------


def _marks(items: Sequence[Item]) -> set[str]:
    """What nobody changes of a server's items: the ids of calls; of an answer without any, its text."""
    calls = {str(item["call_id"]) for item in items if "call_id" in item}
    contents = [item.get("content") for item in items if item.get("role") == "assistant"]
    said = {
        content if isinstance(content, str) else str(content[0]["text"]) for content in contents if content
    }
    return calls or said


@pytest.mark.parametrize("capture", CAPTURES, ids=[capture["host"] for capture in CAPTURES])
def test_every_follow_up_of_every_host_is_matched(capture: dict[str, Any]) -> None:
    """And with the turn that it follows, which the ids of its calls tell."""
    index = make()
    before: list[tuple[str, set[str], int]] = []
    for request in capture["requests"]:
        body = request["body"]
        read = index.read(body, 0.0)
        first = next(iter(index.find(read, 0.0)), None)
        if body.get("previous_response_id") is None:
            given_items = body["input"] if isinstance(body["input"], list) else []
            marks = {*_marks(given_items), *_marks([item for item in given_items if "role" in item])}
            parents = [(length, name) for name, said, length in before if said <= marks]
            assert (first.response_id if first else None) == (max(parents)[1] if parents else None)
            if first is not None:
                assert 0 < first.length < len(given_items)
        output = [item for item in request["output"] if item["type"] != "reasoning"]
        index.remember(read, request["response_id"], request["output"], 0.0)
        if output:
            at = len(body["input"]) if body.get("previous_response_id") is None else len(before)
            before.append((request["response_id"], _marks(output), at))


def test_the_captures_have_the_follow_ups_that_they_are_for() -> None:
    """Else the test above would be content with nothing."""
    followed = 0
    for capture in CAPTURES:
        index = make()
        for request in capture["requests"]:
            read = index.read(request["body"], 0.0)
            followed += bool(index.find(read, 0.0))
            index.remember(read, request["response_id"], request["output"], 0.0)

    assert 30 < len(CAPTURES)
    assert 80 == followed


# -- what hosts may do ------------------------------------------------------------------------------


@given(st.data())
def test_any_composition_of_what_hosts_do_still_matches(data: st.DataObject) -> None:
    """All rules at once, anew in each request: its parent is found, and no other turn."""
    index = make()
    history: list[Item] = []
    said: frozenset[str] = frozenset()
    for number, (new, output) in enumerate(data.draw(conversations())):
        length = len(history)
        history += new
        items = data.draw(resent(history, said=said))
        read = index.read({"model": "m", "input": items}, 0.0)
        assert read.certain
        known = index.find(read, 0.0)
        assert [(f"resp_{number - 1}", length)] * (number > 0) == [(k.response_id, k.length) for k in known]
        index.remember(read, f"resp_{number}", output, 0.0)
        history += output
        said |= {item["id"] for item in output}


@examples(30)
@given(st.data())
def test_what_was_read_alone_is_as_if_it_was_now(data: st.DataObject) -> None:
    """A request whose items were read before, where no turn was known, goes on from the same one."""
    index, again = make(), make()
    history: list[Item] = []
    said: frozenset[str] = frozenset()
    for number, (new, output) in enumerate(data.draw(conversations())):
        history += new
        body: dict[str, Any] = {"model": "m", "input": data.draw(resent(history, said=said))}
        items = body["input"] if isinstance(body["input"], list) else [message("user", body["input"])]
        digests = [digest_of(item) for item in items]
        alone = read_alone(body, digests)
        assert (alone is None) == any(kind_of(item) == "item_reference" for item in items)
        now = index.read(body, 0.0, session=("s",))
        then = again.read(body, 0.0, session=("s",), digests=digests, alone=alone)
        for field in ("hashes", "thoughts", "spoken", "certain", "session", "items", "model", "base"):
            assert getattr(now, field) == getattr(then, field), field
        assert [k.response_id for k in index.find(now, 0.0)] == [k.response_id for k in again.find(then, 0.0)]
        index.remember(now, f"resp_{number}", output, 0.0)
        again.remember(then, f"resp_{number}", output, 0.0)
        if alone is not None:  # which another request may be read from
            assert len(alone.hashes) == len(items)
        history += output
        said |= {item["id"] for item in output}


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The places of all that is said in an item, and that counts."""
    if isinstance(value, dict):
        skip = {"id", "status", "phase", "summary"} if not path else {"type"}
        return [
            leaf for name, each in value.items() if name not in skip for leaf in _leaves(each, (*path, name))
        ]
    if isinstance(value, list):
        return [leaf for place, each in enumerate(value) for leaf in _leaves(each, (*path, place))]
    return [path]


def _changed(draw: st.DataObject, item: Item) -> Item:
    """The item with one text, name, call id, role, type or number changed."""
    item = copy.deepcopy(item)
    if item["type"] == "reasoning":
        return {**item, "id": "rs_other", "encrypted_content": "other"}
    path = draw.draw(st.sampled_from(_leaves(item)))
    if path == ("arguments",) and item["arguments"] != "no {json":
        value = json.loads(item["arguments"])
        value["number"] = (value["number"] + 1) if isinstance(value.get("number"), int) else 7
        return {**item, "arguments": json.dumps(value)}
    place: Any = item
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = {"user": "developer", "developer": "user", "assistant": "user"}.get(
        place[path[-1]], f"{place[path[-1]]}."
    )
    return item


@given(st.data())
def test_any_change_of_what_is_said_does_not_match(data: st.DataObject) -> None:
    """Nothing goes on from a turn that has another text, name, call id, role, order or number, or model."""
    index = make()
    history: list[Item] = []
    for number, (new, output) in enumerate(data.draw(conversations())):
        history += new
        take(index, history, output, f"resp_{number}")
        history += output
    whole = [*history, HI]
    assert len(history) == found(index, whole)[0][1]
    place = data.draw(st.integers(0, len(history) - 1))
    others = [n for n in range(len(history)) if canonical(history[n]) != canonical(history[place])]
    kind = data.draw(st.sampled_from(["said", "left out", "model", *(["order"] if others else [])]))
    body: dict[str, Any] = {}
    if kind == "said":
        whole[place] = _changed(data, history[place])
    elif kind == "left out":
        del whole[place]
        if whole[place : len(history)] == history[place : len(history) - 1]:
            return  # one of a row of equal ones at the end: what is left is the earlier turn's
        if history[place]["type"] == "reasoning" and "reasoning" not in {item["type"] for item in whole}:
            return  # all of it left out, as some hosts do: test_a_host_may_leave_out_all_reasoning
    elif kind == "order":
        other = data.draw(st.sampled_from(others))
        whole[place], whole[other] = whole[other], whole[place]
        place = min(place, other)
    else:
        body, place = {"model": "another"}, 0

    assert [] == [length for _, length in found(index, whole, **body) if length > place]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("1", "1.0", True),
        ("100000", "1e5", True),
        ("0", "-0.0", True),
        ("0.5", "5e-1", True),
        ("10000000000000000000000", "1e22", True),
        ("36028797018963968", "3.602879701896397e+16", True),
        ("100000000000000000000000", "1e23", False),
        ("12345678901234567890123", "1.2345678901234567890123e22", False),
        ("9007199254740993", "9007199254740992.0", False),
        ("123456789012345678901234567890", "123456789012345678901234567891", False),
        ("0.1234567890123456789", "0.1234567890123456780", False),
        ("1e-400", "0", False),
        ("1e400", "1e401", False),
        ("1e99999999999999999999", "0", False),
        ("1", "true", False),
        ("1", '"1"', False),
        ("null", "[]", False),
        ("[null]", "[]", False),
        ('{"a":null}', "{}", False),
        ('{"a":1,"b":2}', '{ "b": 2, "a": 1 }', True),
        ('"\\u00e9"', '"é"', True),
        ('"\\ud800"', '"\\ud800" ', True),
        ('"\\ud800"', '"\\ud801"', False),
        ("NaN", "nan", False),
        ("Infinity", "null", False),
        ("", "{}", False),
        ("abc", '"abc"', False),
        ("[" * 5000, "[" * 5001, False),
    ],
)
def test_arguments_are_compared_as_json(one: str, other: str, same: bool) -> None:
    """As numbers, texts and structures; what is no JSON as the text that it is."""
    assert same is (canonical({**CALL, "arguments": one}) == canonical({**CALL, "arguments": other}))


def test_arguments_that_are_an_object_are_those_of_the_same_text() -> None:
    """There are servers that send them so."""
    assert canonical({**CALL, "arguments": {"a": 1}}) == canonical({**CALL, "arguments": '{"a": 1.0}'})
    assert canonical({**CALL, "arguments": {"a": None}}) != canonical({**CALL, "arguments": "{}"})


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [({"width": None}, {}, True), ({"width": 1}, {}, False), ({"width": 1}, {"width": 2}, False)],
)
def test_what_a_part_holds_counts_as_what_an_item_holds(one: Item, other: Item, same: bool) -> None:
    """But for null, also within."""
    pictures: list[Item] = [
        {"role": "user", "content": [{"type": "input_image", "size": size}]} for size in (one, other)
    ]
    assert same is (canonical(pictures[0]) == canonical(pictures[1]))


def test_only_a_tools_output_is_its_text() -> None:
    """What others call so is what it is, and so is what else a tool's output has."""
    part = [{"type": "input_text", "text": "x"}]
    for kind, name in (("x", "output"), ("function_call_output", "more")):
        assert canonical({"type": kind, name: part}) != canonical({"type": kind, name: "x"})


@pytest.mark.parametrize("item", [{"type": 7, "id": "a"}, {"type": 7, "role": "user"}, {"content": "x"}, {}])
def test_what_has_no_type_has_none(item: Item) -> None:
    """Nobody knows what it means, but that another one means something else."""
    assert kind_of(item) is None
    assert canonical({**item, "more": 1}) != canonical({**item, "more": 1, "type": 8})


def test_an_item_that_says_nothing_else_is_its_id() -> None:
    """A picture that was made before is named by its id alone; a message is not."""
    picture = {"type": "image_generation_call", "id": "ig_1", "status": "completed"}

    assert canonical(picture) != canonical({**picture, "id": "ig_2"})
    assert canonical(picture) == canonical({"type": "image_generation_call", "id": "ig_1", "result": None})
    assert canonical({**YES, "id": "a"}) == canonical({**YES, "id": "b"})


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"action": {"query": "x", "sources": []}}, {"action": {"query": "x", "url": None}}, True),
        ({"action": {"query": "x"}}, {"action": {"query": "y"}}, False),
        ({"results": [{"a": [None, {"b": None}]}]}, {"results": [{"a": [None, {}]}]}, True),
        ({"results": [{"a": [None]}]}, {"results": [{"a": []}]}, False),
        (
            {"output": {"type": "computer_screenshot", "file_id": None}},
            {"output": {"type": "computer_screenshot"}},
            True,
        ),
    ],
)
def test_null_and_empty_lists_do_not_count_at_any_depth(one: Item, other: Item, same: bool) -> None:
    """As fields; as members of a list they are something."""
    assert same is (canonical({"type": "x", **one}) == canonical({"type": "x", **other}))


@pytest.mark.parametrize(
    ("output", "same"),
    [
        ([{"type": "input_text", "text": "seen"}], True),
        ([{"type": "input_text", "text": "seen", "annotations": []}], True),
        ([{"type": "input_text", "text": "seen", "more": 1}], False),
        ([{"type": "output_text", "text": "seen"}], False),
        ([{"type": "input_text", "text": "se"}, {"type": "input_text", "text": "en"}], False),
        (["seen"], False),
        ({"text": "seen"}, False),
    ],
)
def test_a_tools_output_of_one_text_part_is_that_text(output: Any, same: bool) -> None:
    """And nothing else is."""
    for kind in ("function_call_output", "custom_tool_call_output"):
        seen = {**SEEN, "type": kind}
        assert same is (canonical(seen) == canonical({**seen, "output": output}))


# -- which of several -------------------------------------------------------------------------------


def test_what_adds_nothing_matches_only_what_it_adds_to() -> None:
    """The same history once more asks for another answer to it."""
    index = make()
    take(index, [HI], [YES])
    take(index, [HI, YES, HI], [YES], "resp_2")

    assert [] == found(index, [HI])
    assert [] == found(index, [HI, YES])
    assert [("resp_1", 2)] == found(index, [HI, YES, HI])
    assert [("resp_1", 2)] == found(index, [HI, YES, HI, YES])
    assert [("resp_2", 4)] == found(index, [HI, YES, HI, YES, HI])


def test_a_fork_goes_on_from_where_it_leaves() -> None:
    """An earlier turn is found again, after others have gone on from it."""
    index = make()
    take(index, [HI], [YES])
    take(index, [HI, YES, HI], [YES], "resp_2")

    assert [("resp_1", 2)] == found(index, [HI, YES, message("user", "or so")])


def test_identical_texts_of_two_conversations_do_not_mix() -> None:
    """Each finds its own first: by what its items were called, or by its session; reasoning proves it."""
    index = make()
    for name in "ab":
        take(index, "hi", [{**YES, "id": f"msg_{name}"}], f"resp_{name}", session=[name])
    for name in "ab":
        other = {"a": "b", "b": "a"}[name]
        by_id = found(index, [HI, {**YES, "id": f"msg_{name}"}, HI], session=[other])
        by_session = found(index, [HI, {**YES, "id": None}, HI], session=[name])

        assert [(f"resp_{name}", 2), (f"resp_{other}", 2)] == by_id == by_session
    for name in "ab":
        thought = {**THOUGHT, "id": f"rs_{name}", "encrypted_content": name}
        take(index, [HI], [thought, YES], f"thinking_{name}")

        assert [(f"thinking_{name}", 3)] == found(index, [HI, thought, YES, HI])


def test_who_was_gone_on_from_comes_last() -> None:
    """Of parallel samples of one prompt each goes on from one that nobody else has taken."""
    index = make()
    for number in range(3):
        take(index, [HI], [YES], f"resp_{number}")
    first = found(index, [HI, YES, HI])
    take(index, [HI, YES, HI], [CALL], "next")
    second = found(index, [HI, YES, HI])

    assert 3 == len(first) == len(second)
    assert first[0] == second[-1]


def test_prompt_cache_key_only_orders() -> None:
    """Sub-agents share it, and some hosts change it."""
    index = make()
    take(index, [HI], [YES], "resp_1", prompt_cache_key="a")
    take(index, [HI], [YES], "resp_2", prompt_cache_key="b")

    assert [("resp_1", 2), ("resp_2", 2)] == found(index, [HI, YES, HI], prompt_cache_key="a")
    assert [("resp_2", 2), ("resp_1", 2)] == found(index, [HI, YES, HI], prompt_cache_key="b")
    assert 2 == len(found(index, [HI, YES, HI], prompt_cache_key="c"))


@pytest.mark.parametrize(
    ("kept", "matches"),
    [
        ({"id": "rs_1"}, True),
        ({"encrypted_content": "gAAA"}, True),
        ({"id": "rs_1", "encrypted_content": "other"}, True),
        ({"id": "mine", "encrypted_content": "gAAA"}, True),
        ({"id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}], "content": []}, True),
        ({"id": "mine", "encrypted_content": "other"}, False),
        ({"id": "gAAA", "encrypted_content": "rs_1"}, False),
        ({}, False),
        ({"id": 7}, False),
    ],
)
def test_reasoning_is_known_by_its_id_or_its_content(kept: Item, matches: bool) -> None:
    """Some hosts keep only one of them; one that keeps neither is not believed."""
    index = make()
    take(index, [HI], [THOUGHT, YES])

    assert matches is bool(found(index, [HI, {"type": "reasoning", **kept}, YES, HI]))


def _spoken(items: Sequence[Item]) -> list[Item]:
    return [item for item in items if item["type"] != "reasoning"]


@given(st.data())
def test_a_host_may_leave_out_all_reasoning(data: st.DataObject) -> None:
    """It goes on from its last turn each time, whose server knows more; one of some of it does not."""
    index = make()
    history: list[Item] = []
    for number, (new, output) in enumerate(data.draw(conversations())):
        output = [*output, CALL] if output[-1:] and output[-1]["type"] == "reasoning" else output
        history = [*_spoken(history), *new]
        read = index.read({"model": "m", "input": history}, 0.0)
        known = index.find(read, 0.0)
        assert (number > 0) == bool(known)
        if known:
            assert (f"resp_{number - 1}", len(history) - len(new)) == (known[0].response_id, read.skip)
        index.remember(read, f"resp_{number}", output, 0.0)
        history += output


def test_some_of_the_reasoning_is_none_of_it() -> None:
    """Of two thoughts one is left out: whoever does that may have changed the rest as well."""
    index = make()
    other = {**THOUGHT, "id": "rs_2", "encrypted_content": "gBBB"}
    take(index, [HI], [THOUGHT, CALL])
    take(index, [HI, THOUGHT, CALL, SEEN], [other, YES], "resp_2")

    assert [("resp_2", 6)] == found(index, [HI, THOUGHT, CALL, SEEN, other, YES, HI])
    assert [("resp_2", 4)] == found(index, [HI, CALL, SEEN, YES, HI])
    assert [("resp_1", 3)] == found(index, [HI, THOUGHT, CALL, SEEN, YES, HI])
    assert [] == found(index, [HI, CALL, SEEN, other, YES, HI])
    assert [] == found(index, [HI, {**THOUGHT, "id": "x", "encrypted_content": "x"}, CALL, SEEN, YES, HI])


def test_a_turn_that_ends_in_a_thought_is_not_found_without_it() -> None:
    """Such as one that had no room for an answer: what is left of it is what it was asked."""
    index = make()
    take(index, [HI], [THOUGHT])
    take(index, [SEEN], [YES, THOUGHT], "resp_2")

    assert [("resp_1", 2)] == found(index, [HI, THOUGHT, HI])
    assert [] == found(index, [HI, HI])
    assert [("resp_2", 3)] == found(index, [SEEN, YES, THOUGHT, HI])
    assert [] == found(index, [SEEN, YES, HI])


def test_who_left_out_reasoning_may_keep_what_comes_after() -> None:
    """What a turn is compared with is what its own request had, not what the server knows besides."""
    index = make()
    other = {**THOUGHT, "id": "rs_2", "encrypted_content": "gBBB"}
    take(index, [HI], [THOUGHT, CALL])
    take(index, [HI, CALL, SEEN], [other, YES], "resp_2")

    assert [("resp_2", 5)] == found(index, [HI, CALL, SEEN, other, YES, HI])
    assert [("resp_2", 4)] == found(index, [HI, CALL, SEEN, YES, HI])
    assert [("resp_1", 3)] == found(index, [HI, THOUGHT, CALL, SEEN, other, YES, HI])


def test_a_parent_that_is_named_has_its_reasoning_left_out_as_well() -> None:
    """What was said after it is found with all of it, or none."""
    index = make()
    take(index, [HI], [THOUGHT, CALL])
    take(index, [SEEN], [YES], "resp_2", previous_response_id="resp_1")

    assert [("resp_2", 5)] == found(index, [HI, THOUGHT, CALL, SEEN, YES, HI])
    assert [("resp_2", 4)] == found(index, [HI, CALL, SEEN, YES, HI])


def test_reasoning_is_verified_through_the_whole_history() -> None:
    """Also that of turns that are forgotten, and that of the request's own."""
    index = make(max_age=10)
    own = {**THOUGHT, "id": "rs_own", "encrypted_content": "own"}
    items = [HI, own, YES, HI]
    for number in range(3):
        output = [{**THOUGHT, "id": f"rs_{number}", "encrypted_content": f"{number}"}, CALL]
        take(index, items, output, f"resp_{number}", now=8.0 * number)
        items += [*output, SEEN]
    wrong = [
        {**item, "id": "x", "encrypted_content": "x"} if item.get("id") == "rs_0" else item for item in items
    ]

    assert [("resp_2", 12)] == found(index, items, now=20)
    assert 2 == len(index)
    assert [] == found(index, wrong, now=20)
    assert [] == found(
        index,
        [{**item, "id": "x", "encrypted_content": "x"} if item is own else item for item in items],
        now=20,
    )


def test_a_reference_is_the_item_that_it_names() -> None:
    """Whatever it is; reasoning too. One that nobody here has said is only like itself."""
    index = make()
    take(index, [HI], [THOUGHT, YES, CALL])
    named = [{"type": "item_reference", "id": name} for name in ("rs_1", "msg_1", "fc_1")]

    assert [("resp_1", 4)] == found(index, [HI, *named, SEEN])
    assert [] == found(index, [HI, named[1], named[0], named[2], SEEN])
    unknown = {"type": "item_reference", "id": "of old"}
    take(index, [unknown, HI], [YES], "resp_2")
    assert [("resp_2", 3)] == found(index, [unknown, HI, YES, HI])
    assert [] == found(index, [{**unknown, "id": "other"}, HI, YES, HI])


def test_a_name_of_two_items_names_none() -> None:
    """Of a server that counts its ids anew, nothing is concluded from them."""
    index = make()
    take(index, [HI], [YES])
    take(index, [HI], [{**YES, "content": "no"}], "resp_2")

    assert [] == found(index, [HI, {"type": "item_reference", "id": "msg_1"}, HI])
    assert [("resp_1", 2)] == found(index, [HI, YES, HI])


def test_what_is_not_stored_has_no_names() -> None:
    """The provider resolves none of them either."""
    index = make()
    read = index.read({"model": "m", "input": "hi"}, 0.0)
    index.remember(read, "resp_1", [YES], 0.0, refers=False)

    assert [] == found(index, [HI, {"type": "item_reference", "id": "msg_1"}, HI])
    assert [("resp_1", 2)] == found(index, [HI, YES, HI])


def test_a_request_that_names_its_parent_goes_on_from_there() -> None:
    """Nothing is looked for; and a host that sends the whole history later is found all the same."""
    index = make()
    take(index, "hi", [THOUGHT, CALL])
    take(index, [SEEN], [YES], "resp_2", previous_response_id="resp_1")

    assert [] == found(index, [HI], previous_response_id="resp_2")
    assert [("resp_2", 5)] == found(index, [HI, THOUGHT, CALL, SEEN, YES, HI])
    assert [] == found(index, [HI, {**THOUGHT, "id": "x", "encrypted_content": "x"}, CALL, SEEN, YES, HI])


@pytest.mark.parametrize(
    "body", [{"previous_response_id": "unknown"}, {"previous_response_id": "resp_1", "model": "n"}]
)
def test_a_parent_that_is_not_known_here_begins_nothing(body: Item) -> None:
    """Nobody here has the items before it; nor does another model's turn say anything of this one's."""
    index = make()
    take(index, "hi", [YES])

    assert None is take(index, [HI], [YES], "resp_2", **body)
    assert 1 == len(index)


def test_an_id_that_two_turns_have_says_nothing() -> None:
    """Neither while both are known, nor when one of them is forgotten, nor when a third comes."""
    index = make(max_age=10)
    take(index, "hi", [YES], now=0.0)
    take(index, "ho", [YES], now=5.0)
    assert None is take(index, [HI], [YES], "resp_2", now=5.0, previous_response_id="resp_1")
    assert None is take(index, [HI], [YES], "resp_2", now=12.0, previous_response_id="resp_1")
    take(index, "ha", [YES], now=13.0)
    assert None is take(index, [HI], [YES], "resp_2", now=13.0, previous_response_id="resp_1")
    take(index, "hi", [YES], now=30.0)

    assert 1 == len(index)
    assert None is not take(index, [HI], [YES], "resp_2", now=30.0, previous_response_id="resp_1")


@pytest.mark.parametrize(
    "body",
    [
        {"input": None},
        {"input": {"role": "user"}},
        {"input": ["hi", YES, HI]},
        {"input": [HI, {**YES, "x": object()}, HI]},
        {"conversation": "conv_1"},
        {"prompt": {"id": "p"}},
    ],
)
def test_in_doubt_there_is_no_match(body: Item) -> None:
    """What cannot be read, or has something before its input, is neither matched nor kept."""
    index = make()
    take(index, [HI], [YES])

    assert (
        [] == found(index, **{"items": [HI, YES, HI], **{n: v for n, v in body.items() if n != "input"}})
        or "input" in body
    )
    read = index.read({"model": "m", "input": [HI, YES, HI], **body}, 0.0)
    assert not read.certain
    assert [] == index.find(read, 0.0)
    assert None is index.remember(read, "resp_2", [YES], 0.0)
    assert None is index.remember(index.read({"input": "hi"}, 0.0), "resp_2", [{**YES, "x": object()}], 0.0)


def test_a_steered_turn_is_known_by_what_steered_it() -> None:
    """What came in between is part of the history."""
    index = make()
    read = index.read({"model": "m", "input": "hi"}, 0.0)
    index.remember(read, "resp_1", [YES], 0.0)
    index.extend(read, [HI], 0.0)
    index.remember(read, "resp_2", [CALL], 0.0)

    assert [("resp_2", 4)] == found(index, [HI, YES, HI, CALL, SEEN])


def test_a_request_that_cannot_be_compared_to_its_end_goes_on_from_nothing() -> None:
    """What it begins with is of no use: its rest may mean anything."""
    index = make()
    take(index, [HI], [YES])

    assert [("resp_1", 2)] == found(index, [HI, YES, HI, HI])
    assert [] == found(index, [HI, YES, HI, {"type": "odd", "value": object()}])


def test_who_names_a_parent_is_not_given_another() -> None:
    """Though what it brings behind that is known as well."""
    index = make()
    take(index, [HI], [YES])
    second = take(index, [HI], [YES], "resp_2", previous_response_id="resp_1")

    assert second is not None
    assert 4 == second.length
    assert [] == found(index, [HI, YES, HI], previous_response_id="resp_1")


@pytest.mark.parametrize("odd", [7, "", [], False, {"id": "resp_1"}])
def test_what_is_no_name_names_nothing(odd: Any) -> None:
    """Neither a parent nor a session; and it says nothing against a request."""
    index = make()
    take(index, [HI], [YES])
    read = index.read({"input": [HI], "previous_response_id": odd, "prompt_cache_key": odd}, 0.0)

    assert (None, True, NO_NAME) == (read.parent, read.certain, read.session)
    assert NO_NAME == name_of(odd) != name_of("\ud800")


def test_an_answer_to_nothing_is_gone_on_from() -> None:
    """Also by who leaves out its thought: what it was called tells it from another with the same words."""
    index = make()
    take(index, [], [THOUGHT, YES])
    take(
        index, [], [{**THOUGHT, "id": "rs_2", "encrypted_content": "gBBB"}, {**YES, "id": "msg_2"}], "resp_2"
    )

    for number in (1, 2):
        answer = {**YES, "id": f"msg_{number}"}
        assert (f"resp_{number}", 1) == found(index, [answer, HI])[0]
    take(index, [], [YES], "resp_3")
    assert ("resp_3", 1) in found(index, [YES, HI])


def test_each_name_of_an_output_says_whose_it_is() -> None:
    """And how many are the same says which is likelier."""
    index = make()
    known = take(index, [HI], [YES, {**CALL, "id": "fc_1"}])
    assert known is not None
    for first, second, same in (("msg_1", "fc_1", 2), ("msg_1", "x", 1), ("x", "fc_1", 1), ("fc_1", "x", 1)):
        read = index.read(
            {"model": "m", "input": [HI, {**YES, "id": first}, {**CALL, "id": second}, SEEN]}, 0.0
        )
        assert [known] == index.find(read, 0.0)
        assert same == likelihood(known, read)[0]


def test_a_thought_that_follows_is_none_of_what_came_before() -> None:
    """Whatever it is called."""
    for number in range(16):
        index = make()
        take(index, [HI], [THOUGHT, YES])
        after = {"type": "reasoning", "id": f"rs_{number}", "summary": []}
        assert [("resp_1", 3)] == found(index, [HI, THOUGHT, YES, after, HI])


def test_a_name_that_is_said_again_is_known_as_long_as_one_is() -> None:
    """Who said it last has it; to forget another is nothing to it."""
    index = make()
    first = take(index, [HI], [YES])
    take(index, [SEEN], [YES], "resp_2")
    assert first is not None
    index.forget(first)

    assert [("resp_2", 2)] == found(index, [SEEN, {"type": "item_reference", "id": "msg_1"}, HI])


def test_a_parent_that_is_named_is_of_use_again() -> None:
    """It is kept for as long as one that was just made."""
    index = make(max_age=100)
    take(index, [HI], [YES])
    index.read({"model": "m", "input": [HI], "previous_response_id": "resp_1"}, 90.0)

    assert [("resp_1", 2)] == found(index, [HI, YES, HI], now=190.0)


# -- what is kept -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("thoughts", "spoken"), [(0, False), (1, True), (3, True)])
def test_all_that_a_turn_has_is_counted(thoughts: int, spoken: bool) -> None:
    """By what one of each takes."""
    index = make()
    take(index, [HI], [*[{**THOUGHT, "id": f"rs_{n}"} for n in range(thoughts)], YES])

    size = module._COST_OF_TURN + len("resp_1") + (thoughts + 1) * (8 + module._COST_OF_REFERENCE)
    size += (module._COST_OF_SPOKEN + module._COST_OF_THOUGHTS + 16 * thoughts) if spoken else 0
    assert size == index.size


def test_of_thoughts_only_those_that_are_new_are_kept_once_more() -> None:
    """Those before are those of the turn before."""
    index = make()
    first = take(index, [HI], [THOUGHT, CALL])
    second = take(index, [HI, THOUGHT, CALL, SEEN], [{**THOUGHT, "id": "rs_2"}, YES], "resp_2")

    assert first is not None
    assert second is not None
    assert first.thoughts is not None
    assert second.thoughts is not None
    assert (first.thoughts, len(first.thoughts.own)) == (second.thoughts.before, len(second.thoughts.own))


def test_what_is_forgotten_is_gone() -> None:
    """All of it: no count is left behind. Twice is once."""
    index = make()
    known = [
        take(index, [HI], [{**THOUGHT, "id": f"rs_{number}"}, YES], f"resp_{number % 3}", session=["s"])
        for number in range(5)
    ]
    for each in known:
        assert each is not None
        index.forget(each)
        index.forget(each)

    assert 0 == index.size == len(index)
    assert [] == found(index, [HI, THOUGHT, YES, HI])
    assert [] == found(index, [HI, {"type": "item_reference", "id": "msg_1"}, HI])
    assert ({}, {}, {}) == (index._by_hash, index._by_id, index._references)
    assert "<Known resp_0, 3 items>" == repr(known[0])


def test_what_is_gone_on_from_after_it_was_forgotten_is_counted_again() -> None:
    """It is kept by who goes on from it, and goes with that."""
    index = make()
    first = take(index, [HI], [THOUGHT, CALL])
    read = index.read({"model": "m", "input": [HI, THOUGHT, CALL, SEEN]}, 0.0)
    index.find(read, 0.0)
    assert first is not None
    index.forget(first)
    second = index.remember(read, "resp_2", [YES], 0.0)

    assert [("resp_2", 5)] == found(index, [HI, THOUGHT, CALL, SEEN, YES, HI])
    assert second is not None
    index.forget(second)
    assert 0 == index.size


def test_thoughts_that_others_have_forgotten_are_counted_by_who_still_needs_them() -> None:
    """As they were before, however many there are."""
    sizes: list[int] = []
    for early in (True, False):
        index = make()
        first = take(index, [HI], [THOUGHT, CALL])
        read = index.read({"model": "m", "input": [HI, THOUGHT, CALL, SEEN]}, 0.0)
        index.find(read, 0.0)
        assert first is not None
        if early:
            index.forget(first)
        second = index.remember(read, "resp_2", [{**THOUGHT, "id": "rs_2"}, YES], 0.0)
        index.forget(first)
        sizes.append(index.size)
        assert second is not None
        index.forget(second)
        assert 0 == index.size

    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("odd", ["", 7, [], ["a"], None])
def test_what_is_no_name_of_an_output_cannot_be_referred_to(odd: Any) -> None:
    """It is a turn like any other."""
    index = make()
    known = take(index, [HI], [{**YES, "id": odd}])

    assert known is not None
    assert () == known.references
    assert [("resp_1", 2)] == found(index, [HI, YES, HI])


def test_age_and_bytes_bound_what_is_kept() -> None:
    """Who was not gone on from for longest goes first."""
    index = make(max_age=100)
    for number in range(4):
        take(index, f"hi {number}", [{**YES, "id": f"msg_{number}"}], f"resp_{number}", now=10.0 * number)
    assert [("resp_0", 2)] == found(index, [message("user", "hi 0"), YES, HI], now=90.0)
    assert [("resp_1", 2)] == found(
        index, [message("user", "hi 1"), {"type": "item_reference", "id": "msg_1"}, HI], now=91.0
    )
    assert [] == found(index, [message("user", "hi 2"), YES, HI], now=125.0)
    assert 3 == len(index)
    assert [] == found(index, [message("user", "hi 3"), YES, HI], now=131.0)
    assert [("resp_0", 2)] == found(index, [message("user", "hi 0"), YES, HI], now=131.0)

    small = make(max_bytes=index.size)
    for number in range(50):
        take(small, f"hi {number}", [YES], f"resp_{number}")
        assert small.size <= index.size
    assert 0 < len(small) < 50
    assert [("resp_49", 2)] == found(small, [message("user", "hi 49"), YES, HI])
    assert [] == found(small, [message("user", "hi 1"), YES, HI])


def test_a_budget_of_nothing_keeps_nothing() -> None:
    """What does not fit is not there, whatever it is."""
    index = make(max_bytes=0)

    assert None is not take(index, [HI], [THOUGHT, message("assistant", "yes")])
    assert 0 == index.size == len(index)


def test_of_equal_turns_no_more_are_kept_than_help(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that one prompt sampled without end stays cheap."""
    monkeypatch.setattr(module, "MOST_ALIKE", 3)
    index = make()
    for number in range(5):
        take(index, "hi", [YES], f"resp_{number}")

    assert ["resp_4", "resp_3", "resp_2"] == [name for name, _ in found(index, [HI, YES, HI])]


def test_a_name_of_several_means_none_until_all_are_forgotten() -> None:
    """However many there were; then it is one's again."""
    index = make()
    for count in (2, 3, 4):
        turns = [take(index, f"hi {number}", [YES], "resp") for number in range(count)]
        for known in turns:
            assert known is not None
            read = index.read({"model": "m", "input": [HI], "previous_response_id": "resp"}, 0.0)
            assert not read.certain
            index.forget(known)
        alone = take(index, "hi", [YES], "resp")
        assert alone is not None
        assert index.read({"model": "m", "input": [HI], "previous_response_id": "resp"}, 0.0).certain
        index.forget(alone)
    assert (0, 0) == (index.size, len(index))


def test_thoughts_that_several_turns_share_are_counted_once() -> None:
    """And are there for as long as one of them is."""
    index = make()
    first = take(index, [HI], [THOUGHT, YES])
    assert first is not None
    sizes = [index.size]
    for number in range(3):
        take(index, [HI, THOUGHT, YES, message("user", f"{number}")], [YES], f"resp_{number + 2}")
        sizes.append(index.size)

    assert 1 == len({after - before for before, after in itertools.pairwise(sizes)})
    index.forget(first)
    assert [] == found(index, [HI, YES, message("user", "else")])
    index.read({"model": "m", "input": [HI]}, 1e6)
    assert (0, 0) == (index.size, len(index))


def test_of_different_turns_all_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are: they are not alike for saying nothing of their reasoning."""
    monkeypatch.setattr(module, "MOST_ALIKE", 3)
    index = make()
    for number in range(9):
        take(index, f"hi {number}", [YES], f"resp_{number}")

    for number in range(9):
        said = message("user", f"hi {number}")
        assert [(f"resp_{number}", 2)] == found(index, [said, YES, HI])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"arguments": '{"a":1.5}'}, {"arguments": '{"a":1}'}),
        ({"arguments": '{"a":1e300}'}, {"arguments": '{"a":2e300}'}),
        ({"action": {"env": {"a": {"b": "x"}}}}, {"action": {"env": {"a": {"b": "y"}}}}),
        ({"action": {"env": [{"b": "x"}]}}, {"action": {"env": [{"b": "y"}]}}),
    ],
)
def test_what_differs_within_is_not_the_same(one: Item, other: Item) -> None:
    """However deep it lies, and by however little."""
    assert canonical({**CALL, **one}) == canonical(copy.deepcopy({**CALL, **one}))
    assert canonical({**CALL, **one}) != canonical({**CALL, **other})


def test_thoughts_before_everything_are_told_apart() -> None:
    """A history that was brought from elsewhere may begin with one."""
    index = make()
    take(index, [THOUGHT, YES, HI], [{**YES, "id": "msg_2"}])
    other = {**THOUGHT, "id": "rs_9", "encrypted_content": "gBBB"}

    assert [("resp_1", 4)] == found(index, [THOUGHT, YES, HI, YES, HI])
    assert [] == found(index, [other, YES, HI, YES, HI])


def test_each_of_several_thoughts_is_known_by_its_content() -> None:
    """Where a host gives them other ids."""
    index = make()
    second = {**THOUGHT, "id": "rs_2", "encrypted_content": "gBBB"}
    take(index, [HI], [THOUGHT, second, YES])
    renamed = [{**THOUGHT, "id": "a"}, {**second, "id": "b"}]

    assert [("resp_1", 4)] == found(index, [HI, *renamed, YES, HI])
    assert [] == found(index, [HI, *renamed[::-1], YES, HI])


def test_a_thought_is_known_by_its_id_where_its_content_is_left_out() -> None:
    """Or by its content where it has no id; by nothing else."""
    index = make()
    second = {**THOUGHT, "id": "rs_2", "encrypted_content": "gBBB"}
    take(index, [HI], [THOUGHT, second, YES])

    def bare(name: Any) -> Item:
        return {"type": "reasoning", "id": name, "summary": []}

    assert [("resp_1", 4)] == found(index, [HI, bare("rs_1"), bare("rs_2"), YES, HI])
    for other in ("rs_9", "\ud800", 7, None, ["rs_2"]):
        assert [] == found(index, [HI, bare("rs_1"), bare(other), YES, HI])


def test_what_says_nothing_is_told_by_its_id() -> None:
    """There is nothing else to compare."""
    assert canonical({"type": "odd", "id": "a"}) == canonical({"type": "odd", "id": "a", "status": None})
    assert canonical({"type": "odd", "id": "a"}) != canonical({"type": "odd", "id": "b"})


def test_its_size_is_what_it_takes() -> None:
    """A budget in bytes is one only if the bytes are real: within a fifth, and never too small."""
    index = make(max_bytes=1 << 30)
    outputs = [
        [{"type": "reasoning", "id": f"rs_{n:032}", "encrypted_content": "x"}, {**CALL, "id": f"fc_{n:032}"}]
        for n in range(3000)
    ]
    inputs = [f"hi {number}" for number in range(3000)]
    names = [f"resp_{number:032}" for number in range(3000)]
    take(index, "warm", [YES])
    collect()
    tracemalloc.start()
    for items, output, name in zip(inputs, outputs, names, strict=True):
        # As from a server: texts of its own, that only the index holds on to.
        take(index, items, json.loads(json.dumps(output)), name + "", now=0.0)
    collect()
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()

    assert taken <= index.size <= 1.35 * taken


def test_an_item_costs_few_calls() -> None:
    """A history of hundreds of items is read with each request: a handful of Python calls for each."""
    index = make()
    items: list[Item] = []
    for number in range(50):
        items += [
            HI,
            {**THOUGHT, "id": f"rs_{number}"},
            {**CALL, "call_id": f"c{number}"},
            {**SEEN, "call_id": f"c{number}"},
        ]
    calls = 0

    def count(frame: FrameType, event: str, _: object) -> None:
        nonlocal calls
        calls += event == "call"

    index.read({"model": "m", "input": items}, 0.0)
    sys.setprofile(count)
    try:
        read = index.read({"model": "m", "input": items}, 0.0)
        index.find(read, 0.0)
    finally:
        sys.setprofile(None)

    assert calls <= 12 * len(items)
