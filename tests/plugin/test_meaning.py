"""What a request means: the same for every way to put it, and the first difference where it is not."""

import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from wspool.testing.meaning import Meaning, first_difference, items_of, sendable
from wspool.testing.redaction import HIDDEN, Redaction, keys_of

PLAIN: dict[str, Any] = {
    "model": "m",
    "instructions": "Be brief.",
    "input": [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "yes?"},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"a":1,"b":[]}'},
        {"type": "function_call_output", "call_id": "c", "output": '{"x": 1.0}'},
    ],
    "tools": [{"type": "function", "name": "f", "parameters": {"properties": {"a": {}, "b": {}}}}],
}


def changed(**fields: Any) -> dict[str, Any]:
    return PLAIN | fields


def item(number: int, **fields: Any) -> dict[str, Any]:
    items = [dict(entry) for entry in PLAIN["input"]]
    items[number] |= fields
    return changed(input=items)


SAME = [
    PLAIN,
    changed(stream=True, store=False, include=["reasoning.encrypted_content"], metadata={"a": "b"}, user="u"),
    changed(
        temperature=0.3, reasoning={"effort": "low"}, text={"format": {"type": "text"}, "verbosity": "low"}
    ),
    changed(instructions=None, input=[{"role": "system", "content": "Be brief.\n"}, *PLAIN["input"]]),
    changed(instructions="", input=[{"role": "developer", "content": "Be brief."}, *PLAIN["input"]]),
    changed(
        tools=[
            {
                "type": "function",
                "name": "f",
                "strict": True,
                "description": "x",
                "parameters": {"properties": {"b": {"type": "string"}, "a": {}}},
            }
        ]
    ),
    item(0, type="message", id="msg_1", status="completed"),
    item(0, content=[{"type": "input_text", "text": "h"}, {"type": "input_text", "text": "i"}]),
    item(1, content=[{"type": "output_text", "text": "yes?", "annotations": [], "logprobs": []}], phase=None),
    item(2, arguments='{ "b": [], "a": 1.0 }', id="fc_1", status="completed"),
    item(3, output='{"x":1}', id=None),
    item(3, output=[{"type": "input_text", "text": '{"x":1}'}]),
    changed(input=[PLAIN["input"][0], {"type": "reasoning", "id": "rs", "summary": []}, *PLAIN["input"][1:]]),
]


@pytest.mark.parametrize("one", SAME)
def test_the_same_in_other_words(one: dict[str, Any]) -> None:
    """Each rule has a client that needs it."""
    for other in SAME:
        difference = first_difference(Meaning.of(one), Meaning.of(other))
        assert difference is None or difference.path in ("temperature",), difference


@pytest.mark.parametrize(
    ("other", "path"),
    [
        (changed(model="n"), "model"),
        (changed(instructions="Be long."), "instructions"),
        (changed(previous_response_id="r"), "previous_response_id"),
        (changed(input="hi"), "input[1]"),
        (changed(input=[]), "input[0]"),
        (changed(input=[*PLAIN["input"], {"role": "user", "content": "more"}]), "input[4]"),
        (item(0, role="assistant"), "input[0].role"),
        (item(0, content="ho"), "input[0].content"),
        (item(0, content=[{"type": "input_image", "image_url": "x"}]), "input[0].content"),
        (item(2, name="g"), "input[2].name"),
        (item(2, arguments='{"a":2,"b":[]}'), "input[2].arguments.a"),
        (item(2, arguments="{"), "input[2].arguments"),
        (item(2, arguments='{"a":1}'), "input[2].arguments.b"),
        (item(3, output="no"), "input[3].output"),
        (item(3, output='{"x":1,"y":2}'), "input[3].output.y"),
        (changed(tools=[]), "tools.f"),
        (changed(tools=[*PLAIN["tools"], {"type": "web_search"}]), "tools.web_search"),
        (changed(text={"format": {"type": "json_object"}}), "text.format"),
    ],
)
def test_the_first_difference(other: dict[str, Any], path: str) -> None:
    """By its place; what is the same has none; the other way round it is the same place."""
    one, two = Meaning.of(PLAIN), Meaning.of(other)
    difference, back = first_difference(one, two), first_difference(two, one)
    assert difference is not None
    assert back is not None
    assert (path, path) == (difference.path, back.path)
    assert (difference.expected, difference.got) == (back.got, back.expected)
    assert str(difference).startswith(f"{path}: expected ")


def test_settings_count_where_both_give_them() -> None:
    """Frameworks add some; what both say has to agree."""
    settings = {"temperature": 0.2, "reasoning": {"effort": "low"}, "tool_choice": "auto"}
    assert first_difference(Meaning.of(PLAIN), Meaning.of(changed(**settings))) is None
    for name, value in (("temperature", 0.7), ("tool_choice", "required"), ("reasoning", {"effort": "high"})):
        other = Meaning.of(changed(**settings | {name: value}))
        difference = first_difference(Meaning.of(changed(**settings)), other)
        assert difference is not None
        assert difference.path.startswith(name)


def test_long_texts_are_shown_where_they_differ() -> None:
    """Not from their beginning, and not to their end."""
    one, two = "x" * 5000 + "here" + "y" * 5000, "x" * 5000 + "there" + "y" * 5000
    difference = first_difference(Meaning.of({"input": one}), Meaning.of({"input": two}))
    assert difference is not None
    assert difference.path == "input[0].content (from character 4980)"
    assert "xhere" in str(difference)
    assert "xthere" in str(difference)
    assert len(str(difference)) < 600
    assert "(" in str(first_difference(Meaning.of({"input": "a" * 999}), Meaning.of({"input": "b" * 999})))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
PARTS = st.lists(
    st.one_of(
        st.fixed_dictionaries(
            {"type": st.sampled_from(["input_text", "output_text"]), "text": st.text(max_size=4)}
        ),
        st.fixed_dictionaries({"type": st.just("input_image"), "image_url": st.text(max_size=4)}),
        JSON,
    ),
    max_size=3,
)
ITEMS = st.lists(
    st.one_of(
        st.fixed_dictionaries(
            {"role": st.sampled_from(["user", "assistant", "system"]), "content": st.text() | PARTS}
        ),
        st.fixed_dictionaries(
            {
                "type": st.just("function_call"),
                "name": st.just("f"),
                "arguments": JSON.map(json.dumps) | st.text(),
            }
        ),
        st.fixed_dictionaries(
            {"type": st.just("function_call_output"), "output": JSON.map(json.dumps) | st.text() | PARTS}
        ),
        st.fixed_dictionaries({"type": st.text(max_size=3)}, optional={"id": st.text(max_size=3), "x": JSON}),
        JSON,
    ),
    max_size=4,
)


@given(ITEMS)
def test_the_normal_form_is_one(given_items: list[Any]) -> None:
    """Normalising again changes nothing, whatever it is; and what can be sent means what it came from."""
    items = items_of(given_items)
    assert items == items_of([sendable(entry) for entry in items]) or any("x" in entry for entry in items)
    meaning = Meaning.of({"input": given_items})
    assert first_difference(meaning, Meaning.of({"input": [sendable(entry) for entry in items]})) is None
    json.dumps(items)


@given(JSON)
def test_redaction_changes_nothing_else(value: Any) -> None:
    """What holds no key is equal to what it was."""
    assert value == Redaction(["a key that is not there"]).value(value)


@given(st.text('abc -\n"\\', max_size=30), st.text("abc ", max_size=30), st.integers(1, 7))
def test_no_piece_of_a_key_is_streamed(before: str, after: str, size: int) -> None:
    """However the deltas cut it; the text is whole, and what is around the key stays."""
    key = "sk-0123456789abcdef"
    text = before + " " + key + " " + after
    pieces = [text[n : n + size] for n in range(0, len(text), size)]
    events = Redaction([key]).events(
        {"type": "response.output_text.delta", "output_index": 0, "delta": piece, "obfuscation": "x"}
        for piece in pieces
    )
    assert len(pieces) == len(events)
    assert f"{before} {HIDDEN} {after}" == "".join(event["delta"] for event in events)
    assert not any("obfuscation" in event for event in events)


KEYS = {
    "own": "a-canary-of-somebody",
    "xai": "xai-" + "a" * 12,
    "openai": "sk-proj-" + "_" * 12,
    "groq": "gsk_" + "a" * 12,
    "google": "AIza" + "a-" * 10,
    "github": "ghs_" + "a" * 20,
    "token": "eyJ" + "a" * 8 + "." + "b-" * 4 + "." + "_" * 8,
    "longest": "sk-" + "a" * 65_536,
}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
@pytest.mark.parametrize("before", ["", "eyJ-eyJ", "x-eyJ2345678.", "Bearer ", "y" * 65_530, "z" * 131_069])
def test_a_key_is_hidden_wherever_it_is(key: str, before: str) -> None:
    """Also behind what only begins as one, and where a long text is looked through in pieces."""
    assert f"{before} {HIDDEN}, {HIDDEN}!" == Redaction([KEYS["own"]]).text(f"{before} {key}, {key}!")


@pytest.mark.parametrize(
    "text",
    ["ask-" + "a" * 12, "sk-" + "a" * 11, "eyJ" + "a" * 8 + "." + "a" * 8, "Bearer of 12 news", "xsk_ gsk_"],
)
def test_what_is_no_key_stays(text: str) -> None:
    """It is a part of a word, or too short."""
    assert text == Redaction(()).text(text)


def test_keys_of_the_environment() -> None:
    """By name, if they are long enough to be one and are no path."""
    environment = {
        "OPENAI_API_KEY": "0123456789ab",
        "GH_TOKEN": "0123456789cd",
        "SHORT_API_KEY": "x",
        "TOKEN_DIR_TOKEN": "/home/me/where/it/is",
        "HOME": "0123456789ef",
    }
    assert ["0123456789ab", "0123456789cd"] == keys_of(environment)
