"""Items: what a response asks for, whatever shape its output has."""

from __future__ import annotations

from typing import Any

import pytest

from wspool.core.items import asks_for_tools


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
    assert asks_for_tools({"output": output}) is asks


def test_no_response_asks_for_nothing() -> None:
    assert not asks_for_tools(None)
