"""What of a history can be sent again is sent, in a form that a strict server takes."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, Final

import pytest
from hypothesis import example, given, strategies as st

from tests.searching import examples
from wspool.core.commands import ConnectionId, LaneId
from wspool.core.encoding import Encoded
from wspool.core.items import Item, Output, encode_items, read_items
from wspool.core.sending import sendable
from wspool.core.sending.chain import Chain
from wspool.core.sending.sendable import Sendable, answers_long_id, without_lost_reasoning
from wspool.server.protocol.history import NOTHING

LANE: Final = (ConnectionId(1), LaneId(0))
USER: Item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}
THOUGHT: Item = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"}
BARE: Item = {"type": "reasoning", "id": "rs_0", "summary": []}
SAID: Item = {
    "type": "message",
    "id": "msg_1",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "hello"}],
}
CALL: Item = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "look", "arguments": "{}"}
OUTPUT: Item = {"type": "function_call_output", "call_id": "c1", "output": "seen"}


def sent(
    history: Sequence[Item], new: Sequence[Item] = (), *, stored: bool = False, rooted: bool = False
) -> tuple[list[Item], set[str]]:
    """What becomes of the items, and what is said of it."""
    one = Sendable()
    items = one.of(encode_items(history), encode_items(new), [stored] * len(history), rooted=rooted)
    return read_items(items), one.notes


@pytest.mark.parametrize(
    "history",
    [
        [],
        [USER, THOUGHT, SAID],
        [USER, THOUGHT, {**THOUGHT, "id": "rs_2"}, CALL, OUTPUT, USER],
        [USER, {**THOUGHT, "content": [], "status": None}, {**SAID, "phase": "final_answer"}, USER],
        [USER, {**CALL, "arguments": '{ "a" : 1e2 }', "namespace": "x", "extra": [None, 2**62]}, OUTPUT],
        [USER, {**BARE, "content": [{"type": "reasoning_text", "text": "hm"}]}, SAID],
        [{"type": "compaction", "encrypted_content": "x"}, OUTPUT, SAID],
        [{"type": "tool_search_call", "call_id": None}, {"type": "tool_search_output", "call_id": None}],
        [{"type": "mcp_approval_request", "id": "m"}, {"type": "mcp_approval_response", "approve": False}],
        [SAID, {"type": "item_reference", "id": "msg_1"}],
        [{"type": "of tomorrow", "id": "x", "odd": [1, {"a": None}]}],
        [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello", "id": None}],
        [{"role": "system", "content": "Be brief."}, {"role": "developer", "content": "Be kind."}],
        [{**CALL, "call_id": "c" * 64}, {**OUTPUT, "call_id": "c" * 64}],
        [{**SAID, "id": name} for name in (7, 7, "", "")],
    ],
)
def test_what_can_be_sent_is_sent_byte_for_byte(history: list[Item]) -> None:
    """The very objects, and nothing is said of it."""
    one, items = Sendable(), encode_items(history)
    again = one.of(items, (), [False] * len(items))
    assert len(again) == len(items)
    assert all(map(lambda a, b: a is b, again, items))
    assert not one.notes


@pytest.mark.parametrize(
    ("history", "new", "left", "note"),
    [
        ([USER, THOUGHT], [USER], [USER, USER], sendable.DANGLING),
        ([USER, THOUGHT], [], [USER], sendable.DANGLING),
        ([USER, THOUGHT, {**THOUGHT, "id": "rs_2"}], [USER], [USER, USER], sendable.DANGLING),
        ([CALL, THOUGHT], [OUTPUT], [CALL, OUTPUT], sendable.DANGLING),
        ([USER, BARE, SAID], [USER], [USER, SAID, USER], sendable.BARE),
        ([USER, BARE, THOUGHT, SAID], [], [USER, THOUGHT, SAID], sendable.BARE),
        ([USER, OUTPUT], [USER], [USER, USER], sendable.ORPHAN),
    ],
)
def test_what_no_server_takes_is_left_out(
    history: list[Item], new: list[Item], left: list[Item], note: str
) -> None:
    """Reasoning without its content or its follower, outputs without their calls; and it is said."""
    assert (left, {note}) == sent(history, new)


def test_what_the_server_has_stored_needs_no_content() -> None:
    """Then its name is enough."""
    assert ([USER, BARE, SAID], set[str]()) == sent([USER, BARE, SAID], stored=True)


def test_what_only_the_server_knows_may_be_answered() -> None:
    """A call before the history is none that is missing."""
    assert ([OUTPUT, SAID], set[str]()) == sent([OUTPUT, SAID], rooted=True)


def test_nothing_of_what_is_new_is_left_out() -> None:
    """If it cannot be taken the server says why."""
    new = [THOUGHT, USER, BARE, OUTPUT]
    assert (new, set[str]()) == sent([], new)
    for item in (BARE, OUTPUT):
        assert ([USER, item], set[str]()) == sent([USER], [item])


def test_an_id_that_is_there_twice_goes() -> None:
    """The items stay; those that are nothing without an id get another."""
    searched: Item = {"type": "web_search_call", "id": "ws_1", "status": "completed"}
    second: Item = {"type": "web_search_call", "id": "ws_1_2"}
    nameless = {name: value for name, value in SAID.items() if name != "id"}
    items, notes = sent([SAID, USER, SAID, searched, searched, second, searched], [SAID])

    third = {**searched, "id": "ws_1_2"}
    fourth = {**second, "id": "ws_1_2_2"}
    fifth = {**searched, "id": "ws_1_3"}
    assert [SAID, USER, nameless, searched, third, fourth, fifth, nameless] == items
    assert {sendable.DOUBLE} == notes
    taken, _ = sent([searched, second, searched])
    assert ["ws_1", "ws_1_2", "ws_1_3"] == [item["id"] for item in taken], "the next one that is free"


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ({**CALL, "name": ""}, {**CALL, "name": "unnamed"}),
        ({**CALL, "name": None}, {**CALL, "name": "unnamed"}),
        ({**CALL, "name": "a.b c"}, {**CALL, "name": "a_b_c"}),
        ({**CALL, "name": "x" * 200}, {**CALL, "name": "x" * 128}),
        ({**CALL, "arguments": {"a": [1, "ä"]}}, {**CALL, "arguments": '{"a":[1,"ä"]}'}),
        ({**CALL, "arguments": None}, {**CALL, "arguments": "{}"}),
        (
            {"type": "custom_tool_call", "call_id": "c1", "name": "s"},
            {"type": "custom_tool_call", "call_id": "c1", "name": "s", "input": ""},
        ),
    ],
)
def test_calls_are_given_a_fitting_form(given: Item, made: Item) -> None:
    """Names within bounds, and arguments as a text."""
    assert ([made], {sendable.CALLS}) == sent([given])


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ({**SAID, "content": None}, {**SAID, "content": []}),
        ({**SAID, "content": 7}, {**SAID, "content": []}),
        (
            {**SAID, "content": ["hello", None, {"type": "output_text", "text": None}]},
            {**SAID, "content": [SAID["content"][0], {"type": "output_text", "text": ""}]},
        ),
        (
            {**SAID, "content": [{"type": "text", "text": "hello"}, {"type": "refusal", "refusal": 7}]},
            {**SAID, "content": [SAID["content"][0], {"type": "refusal", "refusal": "7"}]},
        ),
        ({**SAID, "content": [{"type": "of tomorrow", "text": "hello"}]}, SAID),
        *(
            (
                {**SAID, "content": [{"type": kind}]},
                {**SAID, "content": [{"type": "output_text", "text": ""}]},
            )
            for kind in ("text", "input_text")
        ),
        ({**USER, "content": ["hi"]}, USER),
        ({**SAID, "role": None}, SAID),
        ({**SAID, "role": "model", "content": [{"type": "input_text", "text": "hello"}]}, SAID),
        (
            {"type": "message", "content": ["hello"]},
            {"type": "message", "content": SAID["content"], "role": "assistant"},
        ),
        ({**SAID, "content": [{"type": "image"}, 7]}, {**SAID, "content": [{"type": "image"}]}),
    ],
)
def test_messages_are_given_a_fitting_form(given: Item, made: Item) -> None:
    """Texts where texts belong; what says nothing is nothing."""
    assert ([made], {sendable.SHAPES}) == sent([given])


def test_reasoning_is_given_a_summary() -> None:
    """There are servers that leave an empty one out, and some that write a text."""
    bare = {name: value for name, value in THOUGHT.items() if name != "summary"}
    items, notes = sent([bare, SAID, {**bare, "id": "rs_2", "summary": "hm"}, CALL], [OUTPUT])
    assert [[], [{"type": "summary_text", "text": "hm"}]] == [items[0]["summary"], items[2]["summary"]]
    assert {sendable.SHAPES} == notes


@pytest.mark.parametrize(
    ("output", "made"), [(None, ""), ({"a": 1}, '{"a":1}'), (["x", {"type": "input_text"}], None), (7, "7")]
)
def test_outputs_are_given_a_fitting_form(output: Any, made: str | None) -> None:
    """A text, or a list of parts."""
    for kind in ("function_call", "custom_tool_call"):
        items, _ = sent([{**CALL, "type": kind}, {**OUTPUT, "type": f"{kind}_output", "output": output}])
        assert ('["x",{"type":"input_text"}]' if made is None else made) == items[1]["output"]


def test_a_call_without_an_id_is_told_apart() -> None:
    """It goes by its item's id or by its place, and so does the output that has none either."""
    nameless: Item = {"type": "function_call", "name": "f", "arguments": "{}"}
    first, second = {**nameless, "id": "fc_9"}, {**nameless, "call_id": ""}
    answer = {"type": "function_call_output", "output": "x"}
    items, notes = sent([USER, first, second, answer], [answer, answer])

    assert ["fc_9", "call_2", "fc_9", "call_2", None] == [item.get("call_id") for item in items[1:]]
    assert {sendable.CALLS} == notes


def test_an_output_without_an_id_answers_the_last_response() -> None:
    """In order; a call before it that was passed over is closed. Only who comes late answers an older one."""
    calls: list[Item] = [
        {"type": "function_call", "id": f"fc_{number}", "name": "f", "arguments": "{}"} for number in range(4)
    ]
    answer: Item = {"type": "function_call_output", "output": "x"}
    items, _ = sent([USER, calls[0], USER, calls[1], calls[2]], [answer, answer])
    assert ["fc_0", "fc_0", None, "fc_1", "fc_2", "fc_1", "fc_2"] == [
        item.get("call_id") for item in items[1:]
    ]
    assert sendable.NO_OUTPUT == items[2]["output"]
    assert NOTHING.judge(items, items, stored=False)[1] is None

    items, _ = sent([USER, calls[0], calls[1], answer, SAID], [answer])
    assert ["fc_0", "fc_1", "fc_0", None, "fc_1"] == [item.get("call_id") for item in items[1:]]


def test_a_call_id_that_is_too_long_is_made_shorter() -> None:
    """The same for the call and its output, and for no other."""
    one, two = "c" * 65, "c" * 66
    calls = [{**CALL, "call_id": one}, {**CALL, "id": "fc_2", "call_id": two}]
    items, notes = sent([USER, *calls], [{**OUTPUT, "call_id": two}, {**OUTPUT, "call_id": one}])

    ids = [item["call_id"] for item in items[1:]]
    assert ids == [ids[0], ids[1], ids[1], ids[0]]
    assert len(set(ids)) == 2
    assert all(re.fullmatch("call_[0-9a-f]{48}", name) for name in ids)
    assert {sendable.CALLS} == notes
    half = [
        json.dumps({**item, "call_id": "c" * 65 + "\ud800"}) for item in (CALL, OUTPUT)
    ]  # as servers write
    items = read_items(Sendable().of([Encoded(text.encode()) for text in half], (), [False] * 2))
    assert 1 == len({item["call_id"] for item in items}), "whatever is in it"


def test_of_an_edited_history_nothing_is_remembered_that_is_not_in_it() -> None:
    """Not even of what stands where something else stood, before what is as it was."""
    one = Sendable()
    history = encode_items([USER, CALL, OUTPUT])
    for place, item in ((0, SAID), (1, {**CALL, "arguments": '{"a":1}'}), (2, {**OUTPUT, "output": "x"})):
        assert [USER, CALL, OUTPUT] == read_items(one.of(history, (), [False] * 3))
        edited = [*history[:place], *encode_items([item]), *history[place + 1 :]]
        assert item == read_items(one.of(edited, (), [False] * 3))[place]
        assert [USER] == read_items(one.of(history[:1], (), [False]))


@pytest.mark.parametrize(("length", "found"), [(63, False), (64, False), (65, True)])
def test_what_answers_a_long_id_is_found(length: int, found: bool) -> None:
    """Wherever it stands; the texts of others may be as long as they like."""
    items = encode_items([{**USER, "content": "x" * 200}, {**OUTPUT, "call_id": "c" * length}, OUTPUT])
    assert found is answers_long_id(items)
    assert not answers_long_id(items[:1])


def test_a_copy_knows_the_same_and_learns_for_itself() -> None:
    """It is a branch of the conversation."""
    one, history = Sendable(), encode_items([USER, THOUGHT])
    assert [USER] == read_items(one.of(history, (), [False] * 2))
    other = one.copy()
    assert {sendable.DANGLING} == other.notes
    longer = [*history, *encode_items([OUTPUT])]
    assert [USER] == read_items(other.of(longer, (), [False] * 3))

    assert ({sendable.DANGLING}, {sendable.DANGLING, sendable.ORPHAN}) == (one.notes, other.notes)
    assert [USER, THOUGHT, SAID] == read_items(one.of(history, encode_items([SAID]), [False] * 2))


@pytest.mark.parametrize(
    "kind",
    [
        "function_call",
        "custom_tool_call",
        "local_shell_call",
        "shell_call",
        "apply_patch_call",
        "tool_search_call",
    ],
)
def test_a_call_that_was_passed_over_is_closed(kind: str) -> None:
    """Right behind it and in the form of its kind, so that a strict server takes it; and it is said."""
    call: Item = {**CALL, "type": kind, "input": "", "execution": "client"}
    second: Item = {**call, "id": "fc_2", "call_id": "c2"}
    items, notes = sent([USER, THOUGHT, call, second, USER, SAID], [USER])

    assert [USER, THOUGHT, call, second, USER, SAID, USER] == [*items[:3], items[4], *items[6:]]
    assert ["c1", "c2"] == [items[place]["call_id"] for place in (3, 5)]
    assert sendable.NO_OUTPUT in str(items[3]) or items[3]["tools"] == []
    assert {sendable.UNANSWERED} == notes
    assert NOTHING.judge(items, items, stored=False)[1] is None


@pytest.mark.parametrize(
    ("history", "new"),
    [
        ([USER, CALL], [USER]),  # the last response's are the caller's to answer
        ([USER, CALL, USER], [OUTPUT]),  # a steer goes before it
        ([USER, CALL, OUTPUT, SAID], [USER]),
        ([USER, CALL, USER, SAID], [OUTPUT]),  # late, but there
        ([USER, {**CALL, "async": True}, USER, SAID], [USER]),
        (
            [
                USER,
                {**CALL, "type": "shell_call", "environment": {"type": "container_reference"}},
                USER,
                SAID,
            ],
            [USER],
        ),
        ([USER, {**CALL, "type": "computer_call"}, USER, SAID], [USER]),  # there is no picture of nothing
        ([USER, {**CALL, "type": "tool_search_call"}, USER, SAID], [USER]),  # the server's own
        ([USER, CALL, OUTPUT], []),
    ],
)
def test_no_other_call_is_closed(history: list[Item], new: list[Item]) -> None:
    """What is not owed, not yet passed over, or answered after all."""
    assert ([*history, *new], set()) == sent(history, new)


def looks(of: Callable[[], object]) -> int:
    """How many items are looked into when *of* is called."""
    found = 0

    def count(frame: FrameType, event: str, _: object) -> None:
        nonlocal found
        found += event == "call" and frame.f_code is sendable._look.__code__

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        of()
    finally:
        sys.setprofile(before)
    return found


def test_each_item_is_looked_into_once() -> None:
    """However often the history is sent; one that was changed is looked into again from there on."""
    one, history = Sendable(), encode_items([USER, SAID, USER])
    assert 3 == looks(lambda: one.of(history, (), [False] * 3))
    assert 0 == looks(lambda: one.of(history, (), [False] * 3))
    branch = one.copy()
    changed = [history[0], *encode_items([USER])]
    assert 1 == looks(lambda: branch.of(changed, (), [False] * 2))
    assert 0 == looks(lambda: one.of(history[:1], (), [False]))
    assert 2 == looks(lambda: one.of(history, (), [False] * 3))


def test_what_is_no_item_is_nobodys_business() -> None:
    """A file may hold anything; the server says what it thinks of it."""
    odd = [Encoded(b"7"), Encoded(b'{"type":7}'), Encoded(b'{"call_id":[],"type":"function_call_output"}')]
    assert odd[:2] == Sendable().of(odd, (), [False] * 3)


def test_an_edit_that_drops_reasoning_takes_the_ids_of_what_came_of_it() -> None:
    """A server that has stored it would know by them that something is missing."""
    before = [USER, THOUGHT, SAID, CALL, OUTPUT, {**SAID, "id": "msg_2"}, {"type": "reasoning"}, SAID]
    searched: Item = {"type": "web_search_call", "id": "ws_1"}
    nameless = {name: value for name, value in CALL.items() if name != "id"}

    assert before == without_lost_reasoning(before, before)
    after = without_lost_reasoning([THOUGHT, searched, CALL, OUTPUT, SAID], [searched, CALL, OUTPUT, SAID])
    assert [searched, nameless, OUTPUT, SAID] == after


@pytest.mark.parametrize(
    ("reasoning", "between"), [(THOUGHT, {**USER, "id": "msg_0"}), ({**THOUGHT, "id": 7}, CALL)]
)
def test_what_did_not_come_of_reasoning_keeps_its_id(reasoning: Item, between: Item) -> None:
    """What somebody has said since, what follows that, and what came of reasoning that has no name."""
    rest = [between, SAID]
    assert rest == without_lost_reasoning([reasoning, *rest], rest)


# -- whatever came, a strict server takes it ---------------------------------------------------

ids = st.sampled_from(["a", "b", "c", None, "", "x" * 70])
anything: st.SearchStrategy[Any] = st.sampled_from([None, 7, "text", [], {}, [None], ["x"], {"a": 1}])
texts = st.sampled_from(["output_text", "input_text", "refusal", "text"])
content = anything | st.lists(
    st.fixed_dictionaries({"type": texts}, optional={"text": anything, "refusal": anything}), max_size=2
)
thoughts = st.fixed_dictionaries(
    {"type": st.just("reasoning")},
    optional={"id": ids, "summary": anything, "encrypted_content": st.sampled_from([None, "", "gA"])},
)
spoken = st.fixed_dictionaries(
    {"type": st.just("message"), "role": st.just("assistant")}, optional={"id": ids}
)
calls = st.fixed_dictionaries(
    {"type": st.sampled_from(["function_call", "custom_tool_call"])},
    optional={
        "id": ids,
        "call_id": ids,
        "name": ids | st.just("a.b"),
        "arguments": anything,
        "input": anything,
    },
)
hosted = st.fixed_dictionaries({"type": st.just("web_search_call")}, optional={"id": ids})
outputs: st.SearchStrategy[list[Any]] = st.lists(
    thoughts
    | spoken
    | st.builds(lambda item, what: {**item, "content": what}, spoken, content)
    | calls
    | hosted,
    max_size=5,
)


@examples(400)
@example(
    turns=[
        (False, False, [{"type": "function_call"}, {"type": "custom_tool_call", "id": "a", "call_id": None}]),
        (False, True, []),
    ],
    edited=False,
)
@given(turns=st.lists(st.tuples(st.booleans(), st.booleans(), outputs), max_size=4), edited=st.booleans())
def test_whatever_a_server_said_a_strict_one_takes(turns: list[tuple[bool, bool, Any]], edited: bool) -> None:
    """Turns of any kind, calls answered as `run` answers them, or passed over; then all is sent in full."""
    chain = Chain()
    for number, (stored, answers, said) in enumerate(turns):
        open_calls = [item for item in chain.items if item["type"].endswith("_call") and "call_id" in item]
        answered = {item.get("call_id") for item in chain.items if item["type"].endswith("_output")}
        new = [
            {"type": f"{call['type']}_output", "call_id": call["call_id"], "output": "x"}
            for call in open_calls
            if answers and call["call_id"] not in answered
        ]
        chain.extend(
            encode_items([*new, USER]), Output.of(said), f"resp_{number}", LANE, asked=stored, rooted=False
        )
    if edited:
        chain.edit([item for index, item in enumerate(chain.items) if index % 3])
    before = chain.items
    items = read_items(chain.replay(encode_items([USER]), asks_store=False))
    owed = NOTHING.after(items).open
    last = turns[-1][2] if turns else []
    assert not owed or edited or any("call" in item["type"] for item in last), "a call was left open"
    closing: list[Item] = [
        {"type": f"{words.replace(' ', '_')}_output", "call_id": call, "output": "closed"}
        for call, words in owed.items()
    ]
    items += closing
    _, problem = NOTHING.judge(items, items, stored=False)
    assert problem is None, (problem, items)
    assert before == chain.items, "the history is kept as it came"
