"""Definitions: what a request says can be called, and what can be called, are the same."""

from __future__ import annotations

from typing import Any

import pytest

from wspool.core.definitions import async_tools, check_definitions, has_definitions, names_of
from wspool.core.items import encode_fields


def fields(*tools: Any, **more: Any) -> Any:
    """The fields of a request with such *tools*."""
    return encode_fields({"model": "m", "tools": list(tools), **more})


F = {"type": "function", "name": "f"}
G = {"type": "custom", "name": "g", "async": True}
CRM = {"type": "namespace", "name": "crm", "tools": [{**F, "name": "get", "async": True}, {"type": "x"}, 7]}
OURS = [{"type": "web_search"}, {"type": ["odd"]}, 7, {"type": "namespace", "name": "n", "tools": None}]


@pytest.mark.parametrize(
    ("tools", "functions"),
    [
        ([F], ["f"]),
        ([F, G, *OURS], ["f", "g"]),
        ([CRM], ["crm.get"]),
        ([CRM], ["get"]),
        ([], []),
        ([{"type": "tool_search"}], ["found later"]),
    ],
)
def test_what_fits(tools: Any, functions: list[str]) -> None:
    """Each definition has a function, each function a definition."""
    check_definitions(fields(*tools), functions)


@pytest.mark.parametrize(
    ("tools", "functions", "text"),
    [
        ([F], [], "no function for 'f', which the request defines"),
        ([F, G], ["f"], "no function for 'g'"),
        ([CRM], [], "no function for 'crm.get'"),
        ([F], ["f", "h"], "no definition of 'h'"),
        ([], ["h"], "no definition of 'h'"),
        ([F, {"type": "tool_search"}], ["h"], "no function for 'f'"),
    ],
)
def test_what_does_not(tools: Any, functions: list[str], text: str) -> None:
    """Only the model would see it: it is said instead."""
    with pytest.raises(ValueError, match=text):
        check_definitions(fields(*tools), functions)


def test_a_request_that_defines_nothing_is_not_looked_at() -> None:
    """What there is then is elsewhere, such as in a stored prompt."""
    for given in ({}, encode_fields({"tools": None}), encode_fields({"tools": {"a": 1}})):
        assert not has_definitions(given)
        check_definitions(given, ["f"])
    assert has_definitions(encode_fields({"prompt": {"id": "pmpt_1"}}))
    assert has_definitions(fields())
    assert not has_definitions(encode_fields({"prompt": None, "tools": None}))


def test_tools_that_the_model_does_not_wait_for() -> None:
    """Are known by every name that they may be given under."""
    assert {"g", "crm.get", "get"} == async_tools(fields(F, G, CRM))
    assert frozenset() == async_tools({})
    assert (["a.b", "b"], ["b"], ["b"]) == (names_of("b", "a"), names_of("b", None), names_of("b", ""))
