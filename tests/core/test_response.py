"""The common looks at a finished response."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, strategies as st

from wspool.core.events.response import Response

MESSAGE = {
    "type": "message",
    "content": [
        {"type": "output_text", "text": "Hi "},
        {"type": "refusal", "refusal": "never", "text": "never"},
        {"type": "output_text", "text": "there."},
        {"type": "output_text"},
    ],
}
CALL = {"type": "function_call", "name": "f", "content": [{"type": "output_text", "text": "not said"}]}


def test_a_response_shows_what_the_server_sent() -> None:
    """Every look is at the very object that came, not at a copy."""
    data: dict[str, Any] = {
        "id": "resp_1",
        "status": "incomplete",
        "output": [MESSAGE],
        "usage": {"total_tokens": 3},
        "error": {"code": "x"},
        "incomplete_details": {"reason": "max_output_tokens"},
        "input_transformations": [{"type": "reasoning_withheld"}],
        "prompt_cache_diagnostics": {"reason": "expired"},
    }
    response = Response(data)

    assert data is response.data
    assert ("resp_1", "incomplete") == (response.id, response.status)
    assert data["output"] is response.output
    assert {"total_tokens": 3} == response.usage
    assert {"code": "x"} == response.error
    assert {"reason": "max_output_tokens"} == response.incomplete_details
    assert data["input_transformations"] is response.input_transformations
    assert {"reason": "expired"} == response.prompt_cache_diagnostics


@pytest.mark.parametrize(
    "data", [{}, {"output": None, "usage": None, "error": None, "incomplete_details": None}]
)
def test_what_the_server_left_out_is_empty(data: dict[str, Any]) -> None:
    """A bare response has no output, no text, no counts and no error."""
    response = Response(data)

    assert ("", "", [], "") == (response.id, response.status, response.output, response.output_text)
    assert (None, None, None) == (response.usage, response.error, response.incomplete_details)


def test_the_text_is_that_of_all_messages() -> None:
    """Text parts of messages are joined in order; refusals and other items are not text."""
    empty: dict[str, Any] = {"type": "message", "content": None}
    response = Response({"output": [MESSAGE, CALL, empty, {"type": "message"}, {}, MESSAGE]})

    assert "Hi there.Hi there." == response.output_text


def test_a_plain_text_is_a_text() -> None:
    """Also in the place of a list of parts, and of a part."""
    odd = ["one ", None, {"type": "refusal", "text": "never"}, {"type": "output_text", "text": "two "}, 7]
    output = [{"type": "message", "content": odd}, {"type": "message", "content": "three"}]
    assert "one two three" == Response({"output": output}).output_text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "content", "text", "id"]) | st.text(max_size=2), inner, max_size=3
        )
    ),
    max_leaves=10,
)
FIELDS = st.sampled_from(["id", "status", "output", "usage", "error", "incomplete_details"])


@given(st.dictionaries(FIELDS, JSON))
@example({"output": [None, MESSAGE, "x", {"type": "message", "content": [None, "x", {"type": []}]}]})
@example({"output": [{"type": "message", "content": [{"type": "output_text", "text": 7}]}]})
def test_a_look_at_an_odd_response_never_raises(data: dict[str, Any]) -> None:
    """Whatever shape a server gives it, what is there is of its kind, and what is not is empty."""
    response = Response(data)

    assert all(isinstance(text, str) for text in (response.id, response.status, response.output_text))
    assert all(isinstance(item, dict) for item in response.output)
    for one, name in (
        (response.usage, "usage"),
        (response.error, "error"),
        (response.incomplete_details, "incomplete_details"),
    ):
        assert one is (data[name] if isinstance(data.get(name), dict) else None)
    assert str(len(response.output)) in repr(response)


def test_what_is_an_item_is_shown_among_what_is_none() -> None:
    """One odd item hides no other."""
    assert "Hi there." == Response({"output": [None, MESSAGE, "x", 7]}).output_text


def test_a_response_describes_itself_without_its_content() -> None:
    """The representation names the id, the status and a count, never what a model said."""
    response = Response({"id": "resp_1", "status": "completed", "output": [MESSAGE]})

    assert "<Response resp_1 completed, 1 items>" == repr(response)
