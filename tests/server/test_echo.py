"""The model for strangers: what it says of what it is offered and asked for."""

import json
from typing import Any

import pytest

from wspool.server import EchoModel, Item, ModelRequest, message
from wspool.server.models import text_of

QUESTION: Item = {"type": "message", "role": "user", "content": "Is it nice in Paris?"}
WEATHER: Item = {
    "type": "function",
    "name": "weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"enum": ["c", "f"]}, "days": {"type": "integer"}},
        "required": ["city", "unit"],
    },
}
SEARCH: Item = {"type": "web_search"}
SQL: Item = {"type": "custom", "name": "sql"}
CALL: Item = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"}
OUTPUT: Item = {"type": "function_call_output", "call_id": "c1", "output": "sunny"}


def said(context: list[Item], tools: list[Item] | None = None, **body: Any) -> Item:
    """The only item of the echo's answer."""
    (item,) = EchoModel().respond(ModelRequest(context=context, tools=tools or [], body=body)).output
    return dict(item)


def test_the_first_tool_is_called_with_what_fits() -> None:
    call = said([QUESTION], [SEARCH, WEATHER, SQL])

    assert ("function_call", "weather") == (call["type"], call["name"])
    assert {"city": "Is it nice in Paris?", "unit": "c"} == json.loads(call["arguments"])


@pytest.mark.parametrize(
    ("choice", "name"),
    [
        ("auto", "weather"),
        ("required", "weather"),
        ({"type": "function", "name": "weather"}, "weather"),
        ({"type": "custom", "name": "sql"}, "sql"),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "custom", "name": "sql"}]}, "sql"),
        ("none", None),
        ({"type": "function", "name": "another"}, None),
    ],
)
def test_the_choice_counts(choice: object, name: str | None) -> None:
    assert name == said([QUESTION], [WEATHER, SQL], tool_choice=choice).get("name")


def test_a_tool_that_may_take_its_time_keeps_nobody_waiting() -> None:
    request = ModelRequest(context=[QUESTION], tools=[WEATHER | {"async": True}])
    call, answer = EchoModel().respond(request).output

    assert ("weather", "Is it nice in Paris?") == (call["name"], text_of(answer))


def test_a_custom_tool_gets_the_text() -> None:
    assert {"type": "custom_tool_call", "name": "sql", "input": "Is it nice in Paris?"} == said(
        [QUESTION], [SQL]
    )


@pytest.mark.parametrize("parameters", [None, {}, True, {"type": "string"}])
def test_arguments_are_an_object(parameters: object) -> None:
    call = said([QUESTION], [{"type": "function", "name": "f", "parameters": parameters}])

    assert {} == json.loads(call["arguments"])


@pytest.mark.parametrize(
    ("output", "text"),
    [
        (OUTPUT, "sunny"),
        ({"type": "custom_tool_call_output", "call_id": "c1", "output": "sunny"}, "sunny"),
        (OUTPUT | {"output": [{"type": "input_text", "text": "sun"}, {"type": "input_image"}]}, "sun"),
        ({"type": "computer_call_output", "output": {"a": 1}}, '{"a": 1}'),
    ],
)
def test_an_output_is_answered(output: Item, text: str) -> None:
    """Once; the next message of the user gets a call again."""
    answer = said([QUESTION, CALL, output], [WEATHER])
    assert text == text_of(answer)
    again = said([QUESTION, CALL, output, answer, QUESTION], [WEATHER])
    assert "function_call" == again["type"]


def test_a_form_is_filled_in() -> None:
    schema = {"type": "object", "properties": {"answer": {"type": "string"}, "sure": {"type": "boolean"}}}
    text = {
        "format": {"type": "json_schema", "name": "f", "schema": schema | {"required": ["answer", "sure"]}}
    }

    assert {"answer": "Is it nice in Paris?", "sure": True} == json.loads(
        text_of(said([QUESTION], text=text))
    )
    assert "sunny" == json.loads(text_of(said([QUESTION, CALL, OUTPUT], [WEATHER], text=text)))["answer"]
    plain = {"format": {"type": "json_object"}}
    assert {"text": "Is it nice in Paris?"} == json.loads(text_of(said([QUESTION], text=plain)))
    assert message("Is it nice in Paris?") == said([QUESTION], text={"verbosity": "low"})


def test_an_empty_conversation_is_answered() -> None:
    assert message("") == said([])
