"""Items: what a response asks for, whatever shape its output has; and what fields of a request say."""

from __future__ import annotations

import math
from typing import Any

import pytest

from wspool.core.encoding import read
from wspool.core.items import (
    Output,
    asks_store,
    encode_fields,
    encode_items,
    read_items,
    without_encrypted_reasoning,
)


@pytest.mark.parametrize(
    ("output", "asks"),
    [
        (None, False),
        ("text", False),
        ([], False),
        ([None, 1, {"type": 7}], False),
        ([{"type": "message"}], False),
        ([{"type": "message"}, {"type": "function_call"}], True),
        ([{"type": "function_call", "execution": "server"}], False),
    ],
)
def test_only_calls_that_the_client_answers_ask_for_tools(output: Any, asks: bool) -> None:
    assert Output.of(output).asks is asks


@pytest.mark.parametrize(
    ("body", "stored", "kept"),
    [
        ({}, False, True),
        ({"store": None}, False, True),
        ({"store": True}, True, True),
        ({"store": False}, False, False),
    ],
)
def test_a_request_says_whether_it_is_stored(body: dict[str, Any], stored: bool, kept: bool) -> None:
    """Else the endpoint does: one does not by default, another does."""
    fields = encode_fields(body)

    assert (stored, kept) == (asks_store(fields, by_default=False), asks_store(fields, by_default=True))


@pytest.mark.parametrize(
    ("include", "left"),
    [
        (["reasoning.encrypted_content"], {}),
        (["x", "reasoning.encrypted_content", "y"], {"include": ["x", "y"]}),
        (["x"], None),
        ("reasoning.encrypted_content", None),
        (None, None),
    ],
)
def test_what_an_endpoint_does_not_take_is_not_asked_for(include: Any, left: dict[str, Any] | None) -> None:
    """Nothing else is left out; None where it was not asked for."""
    fields = without_encrypted_reasoning(encode_fields({"model": "m", "include": include}))

    said = None if fields is None else {name: read(value) for name, value in fields.items()}
    assert (None if left is None else {"model": "m", **left}) == said


def test_who_names_no_include_wishes_for_nothing() -> None:
    """So nothing is left out."""
    assert without_encrypted_reasoning(encode_fields({"model": "m"})) is None


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"type": "message"}, "dict"),
        (b"hello", "bytes"),
        (7, "int"),
        ([{"type": "message"}, 7], "a list with int at [1]"),
    ],
)
def test_an_input_that_is_none_is_told_by_its_kind(given: Any, what: str) -> None:
    """A mapping is no list of its keys, nor bytes one of numbers; none of its words are repeated."""
    with pytest.raises(TypeError) as caught:
        encode_items(given)
    assert str(caught.value) == f"input must be a str or a list of item dicts, not {what}"


CALL = {"type": "function_call", "call_id": "c"}
TEXT = {"type": "message"}


@pytest.mark.parametrize(
    ("output", "items", "other"),
    [
        (None, [], {}),
        ("text", [], {"whole": False}),
        ([TEXT, CALL, TEXT], [TEXT, CALL, TEXT], {"asks": True}),
        ([7, CALL], [CALL], {"whole": False, "asks": True}),
        ([{**CALL, "execution": "server"}], [{**CALL, "execution": "server"}], {}),
        ([{**TEXT, "n": math.nan}, TEXT], [{**TEXT, "n": None}, TEXT], {"lossless": False}),
        ([TEXT, {"type": "compaction"}], [TEXT, {"type": "compaction"}], {"compaction": 1}),
    ],
)
def test_of_an_output_is_kept_what_is_an_item(output: Any, items: list[Any], other: dict[str, Any]) -> None:
    """And it is known what of it is missing, has changed, or waits for an answer."""
    found = Output.of(output)
    usual = {"whole": True, "compaction": None, "lossless": True, "asks": False}

    assert items == read_items(found.items)
    assert {**usual, **other} == {name: getattr(found, name) for name in usual}


def test_a_field_that_cannot_be_sent_is_named() -> None:
    """Whatever it is."""
    with pytest.raises(ValueError, match="temperature is nan"):
        encode_fields({"temperature": math.nan})


@pytest.mark.parametrize("name", [7, None, b"store"])
def test_a_field_has_a_text_for_a_name(name: Any) -> None:
    """JSON has no other, and would make one of some."""
    with pytest.raises(TypeError, match=rf"^the name of a field must be a str, not {type(name).__name__}$"):
        encode_fields({"model": "m", name: 1})
