"""Calls: which are open, what becomes of them, what they ask for, and what they are answered with."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, strategies as st

from wspool.core.calls import (
    OpenCalls,
    Opening,
    answer,
    arguments_of,
    described,
    is_others,
    is_ours,
    is_question,
    open_calls,
    opening,
    output_of,
    owed,
    retold,
    signature,
    tool_calls,
)
from wspool.core.items import OUTPUTS, encode_items


def call(name: str = "f", call_id: str = "c", kind: str = "function_call", **more: Any) -> dict[str, Any]:
    """One call."""
    return {"type": kind, "name": name, "call_id": call_id, "arguments": "{}", **more}


def output(call_id: str = "c", kind: str = "function_call_output") -> dict[str, Any]:
    """What answers it."""
    return {"type": kind, "call_id": call_id, "output": "x"}


SAID: dict[str, Any] = {"type": "message", "role": "user", "content": 'a "call_id" and a "function_call"'}
SEARCH = {"type": "tool_search_call", "call_id": "s", "execution": "client"}
ASKED = {"type": "mcp_approval_request", "id": "mcpr_1"}


def test_a_call_is_open_until_its_output_comes_after_it() -> None:
    """Of every kind that is the client's to answer; the server's own searches are not."""
    for kind, answered in OUTPUTS.items():
        one = call(kind=kind, execution="client")
        assert [one] == open_calls([SAID, one])
        assert [] == open_calls([one, output(kind=answered)])
        assert [one] == open_calls([output(kind=answered), one])
    assert [] == open_calls([{**SEARCH, "execution": "server"}, ASKED])
    assert [] == open_calls([ASKED, SAID, {"type": ["odd"]}])
    assert [call("a"), call("b")] == open_calls([call("a"), call("b")]), "one id, two calls"


def test_a_call_that_a_model_has_gone_on_without_is_open_no_more() -> None:
    """Unless it is async; a message alone is nobody who has gone on."""
    later = {**call("b", "b"), "async": True}
    spoke = {"type": "message", "role": "assistant", "content": []}

    assert [call("a", "a"), later] == open_calls([call("a", "a"), spoke, later, SAID])
    assert [later] == open_calls([call("a", "a"), later, SAID, spoke])
    assert [later, call("c")] == open_calls([call("a", "a"), later, {"role": "user"}, call("c")])
    assert [call("c")] == open_calls([call("a", "a"), call("b", "b"), output("b"), call("c")])


@pytest.mark.parametrize("role", ["user", "system", "developer"])
def test_what_a_client_adds_is_nobody_who_has_gone_on(role: str) -> None:
    """Whoever says it. What is no item at all is no call."""
    told = {"role": role, "content": "x"}
    odd: list[Any] = ["x", None, 7]

    assert [call()] == open_calls([*odd, call(), {"role": "user", "content": "x"}, told])
    assert [call()] == open_calls([call(), *odd])


@pytest.mark.parametrize(
    "kind", ["mcp_approval_response", "program_output", "additional_tools", "item_reference"]
)
def test_what_a_client_brings_is_no_work_of_the_model(kind: str) -> None:
    """So a model that speaks after it has gone on without what it had asked for."""
    spoke = {"type": "message", "role": "assistant", "content": []}

    assert [call()] == open_calls([call(), {"type": kind}])
    assert [] == open_calls([call(), {"type": kind}, spoke])


def test_a_call_without_a_call_id_is_found_in_a_history_that_grows() -> None:
    """By its kind."""
    nameless = {"type": "function_call", "id": "fc_1", "name": "f"}

    assert [nameless] == OpenCalls().of(encode_items([SAID, nameless]), 0)


def test_calls_without_ids_are_answered_in_order() -> None:
    """As some servers give none: an output names the item, or nothing."""
    nameless = [{**call(name, ""), "id": name} for name in "abc"]
    said = {"type": "function_call_output", "output": "x"}

    assert [nameless[1], nameless[2]] == open_calls([*nameless, said])
    assert [nameless[0], nameless[2]] == open_calls([*nameless, {**said, "id": "b"}])
    assert [] == open_calls([*nameless, said, said, said, said])
    assert nameless[1:] == opening(nameless, [said]).run


def test_calls_without_ids_that_a_model_has_gone_on_without_are_answered_by_nobody() -> None:
    """An output is that of the first that is still open; an async one with the name of another stays."""
    gone, later = {**call("a", ""), "id": "a"}, {**call("b", ""), "id": "a", "async": True}
    last, said = {**call("c", ""), "id": "c"}, {"type": "function_call_output", "output": "x"}
    spoke = {"type": "message", "role": "assistant", "content": []}

    assert [later] == open_calls([gone, later, SAID, spoke])
    assert [last] == open_calls([gone, later, SAID, spoke, last, said])
    assert [] == open_calls([gone, SAID, spoke, last, said])


def test_what_a_server_runs_itself_is_not_open() -> None:
    """A shell in a container of the server's."""
    shell = {"type": "shell_call", "call_id": "s", "environment": {"type": "container_reference"}}

    assert [] == open_calls([shell])
    assert 1 == len(open_calls([{**shell, "environment": {"type": "local"}}]))


def test_an_output_without_a_call_id_names_its_call() -> None:
    """As that of a local shell does."""
    shell = {"type": "local_shell_call", "id": "lsh", "call_id": "c"}
    assert [] == open_calls([{**shell, "call_id": None}, {"type": "local_shell_call_output", "id": "lsh"}])


def test_a_call_is_made_here_or_is_the_callers() -> None:
    """Functions and custom tools are made by the loop; the rest, and questions, are not."""
    custom = call(kind="custom_tool_call")
    assert [call(), custom] == tool_calls([call(), SAID, custom, SEARCH])
    assert [True, True, False, False] == [is_ours(item) for item in (call(), custom, SEARCH, SAID)]
    assert [False, True, True, False] == [is_others(item) for item in (call(), SEARCH, ASKED, SAID)]
    assert [True, False] == [is_question(item) for item in (ASKED, SEARCH)]


ODD = {"type": "other", "call_id": "c"}
ITEMS = st.sampled_from([call(), call(call_id="d"), output(), output("d"), SAID, SEARCH, ODD])


@given(st.lists(ITEMS, max_size=8), st.lists(st.integers(0, 8), max_size=4), st.integers(0, 2))
def test_a_history_that_grows_is_looked_at_once(items: list[Any], looks: list[int], start: int) -> None:
    """However often it is asked on the way, the open calls are those of all items from its start on."""
    encoded = encode_items(items)
    known = OpenCalls()
    for length in sorted(looks):
        known.of(encoded[:length], 0)

    assert open_calls(items) == known.of(encoded, 0)
    assert open_calls(items[start:]) == known.of(encoded, start)


def test_what_becomes_of_open_calls() -> None:
    """A message goes on without them; an output of one of them, or no input, goes on with all."""
    calls = [call("a", "a"), call("b", "b")]

    assert Opening(close=calls) == opening(calls, [SAID])
    assert Opening(close=calls) == opening(calls, [output("c")])
    assert Opening(run=calls) == opening(calls, None)
    assert Opening(run=calls[1:]) == opening(calls, [output("a"), SAID])
    assert Opening(run=[]) == opening(calls, [output("a"), output("b")])
    closed = opening(calls, [SAID])
    assert ((), ()) == (closed.run, closed.stuck)
    assert () == opening(calls, None).close


@pytest.mark.parametrize("given_", [None, [SAID], [output("a")]])
def test_calls_that_only_the_caller_can_answer_hold_everything(given_: Any) -> None:
    """Unless the input brings what they are owed."""
    calls = [call("a", "a"), SEARCH]

    assert Opening(stuck=[SEARCH]) == opening(calls, given_)
    found = output("s", "tool_search_output")
    assert Opening(run=calls[:1]) == opening(calls, [found])


def test_what_a_request_owes() -> None:
    """What its input does not answer, but for calls whose output the model does not wait for."""
    calls = [call("a", "a"), {**call("b", "b"), "async": True}, call("late", "d"), SEARCH]

    assert [calls[0], SEARCH] == owed(calls, [SAID], {"late"})
    assert [SEARCH] == owed(calls, [output("a")], {"late"})
    assert [calls[2]] == owed(calls, [output("a"), output("s", "tool_search_output")])


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ('{"a": 1}', {"a": 1}),
        ({"a": 1}, {"a": 1}),
        ("", {}),
        (None, {}),
        ({}, {}),
    ],
)
def test_arguments_are_the_text_of_an_object_or_one(given_: Any, expected: Any) -> None:
    """As the API has it, and as some servers have it."""
    assert expected == arguments_of(call(arguments=given_))


@pytest.mark.parametrize("given_", ["[1]", "null", "7", [], [1], 7, False])
def test_arguments_that_are_no_object(given_: Any) -> None:
    """Are an error that says so, whatever they are."""
    with pytest.raises(TypeError, match=r"^the arguments of 'f' are not a JSON object$"):
        arguments_of(call(arguments=given_))


def test_arguments_that_nobody_can_read() -> None:
    """Are one as well."""
    with pytest.raises(ValueError, match="Expecting"):
        arguments_of(call(arguments="{"))
    with pytest.raises(ValueError, match=r"^the arguments of 'f' are nested too deep$"):
        arguments_of(call(arguments="[" * 100_000))


def nested(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth):
        value = {"a": value}
    return value


def test_two_calls_are_the_same_if_they_ask_for_the_same() -> None:
    """Whatever they are called, and however their arguments are written."""
    same = [
        call(arguments='{"a": 1, "b": 2}', call_id="1", id="fc_1"),
        call(arguments='{"b":2,"a":1}', call_id="2"),
        call(arguments={"a": 1, "b": 2}, status="completed"),
    ]
    assert 1 == len(set(map(signature, same)))
    others = [
        call(arguments='{"a": 1}'),
        call(arguments="{"),
        call(arguments="[1]"),
        call("g", arguments='{"a": 1}'),
        call(namespace="n", arguments='{"a": 1}'),
        call(kind="custom_tool_call", input="x"),
        call(kind="custom_tool_call", input="y"),
        call(arguments=nested(100_000)),
    ]
    assert len(others) == len(set(map(signature, others)))


def test_a_call_of_a_lost_response_is_told_under_a_name_of_its_own() -> None:
    """With what it asked for and nothing else, and a name within bounds."""
    lost = call("f", "c" * 64, id="fc_1", status="completed")

    assert {
        "type": "function_call",
        "name": "f",
        "arguments": "{}",
        "call_id": "c" * 48 + "_lost7",
    } == retold(lost, 7)
    assert {"namespace": "n", "input": "x"}.items() <= retold(
        {**lost, "namespace": "n", "input": "x"}, 7
    ).items()


PICTURE = {"type": "input_image", "image_url": "data:,"}
FILE = {"type": "input_file", "file_id": "f"}
TEXT = {"type": "input_text", "text": "t"}


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ("text", "text"),
        (PICTURE, [PICTURE]),
        ([TEXT, PICTURE], [TEXT, PICTURE]),
        (("t", FILE), [TEXT, FILE]),
        ([PICTURE, {"type": "other"}], '[{"type": "input_image", "image_url": "data:,"}, {"type": "other"}]'),
        (["a", "b"], '["a", "b"]'),
        ([], "[]"),
        ({"type": "x"}, '{"type": "x"}'),
        ({"word": "\u00e4"}, '{"word": "\u00e4"}'),
        (None, "null"),
    ],
)
def test_an_output_is_text_or_parts(result: Any, expected: Any) -> None:
    """Parts are sent as parts; every other value as the text of its JSON."""
    said = output_of(result, "f")

    assert expected == said
    assert {"type": "function_call_output", "call_id": "c", "output": said} == answer(call(), said)
    if isinstance(said, list):
        assert said[0] is not result, "what the tool does to its own changes nothing"


def test_parts_that_are_no_json_say_where() -> None:
    """As every result does."""
    with pytest.raises(ValueError, match=r"the result of 'f'\[0\].detail is nan"):
        output_of([{**PICTURE, "detail": math.nan}], "f")
    with pytest.raises(ValueError, match=r"the result of 'f'.a is nan"):
        output_of({"a": math.nan}, "f")


def test_calls_are_named_in_a_sentence() -> None:
    """A few of them, of bounded length, and nothing that a terminal would obey."""
    assert "function_call 'f' (c)" == described([call()])
    assert "shell_call (s)" == described([{"type": "shell_call", "id": "s"}])
    assert "function_call 'a' (x), function_call 'b' (y)" == described([call("a", "x"), call("b", "y")])
    assert not described([call()] * 5).endswith("more")
    many = described([call("\x1b" * 1000, "y" * 1000)] * 9)
    assert many.endswith(" and 4 more")
    assert many.isprintable()
    assert len(many) < 1000
