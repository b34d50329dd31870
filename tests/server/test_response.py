"""The response object: every setting is spelt out, whatever the request left out."""

from typing import Any

import pytest
from trio.testing import MockClock

from wspool.server import EchoModel, ModelTurn, ScriptedModel, message, open_server
from wspool.server.protocol.items import as_resource

from .client import connected

#: Source: the `ResponseResource` of the Open Responses specification, 2026-04-24: all that must be there.
REQUIRED = [
    *("id", "object", "created_at", "completed_at", "status", "incomplete_details", "model"),
    *("previous_response_id", "instructions", "output", "error", "tools", "tool_choice"),
    *("truncation", "parallel_tool_calls", "text", "top_p", "presence_penalty", "frequency_penalty"),
    *("top_logprobs", "temperature", "reasoning", "usage", "max_output_tokens", "max_tool_calls"),
    *("store", "background", "service_tier", "metadata", "safety_identifier", "prompt_cache_key"),
]


async def test_nothing_is_missing(autojump_clock: MockClock) -> None:
    """In any state of a response."""
    turns = [ModelTurn(output=[message("a")]), ModelTurn(status="incomplete"), ModelTurn(status="failed")]
    for turn in turns:
        async with open_server(ScriptedModel([turn]), port=None) as server, connected(server) as client:
            frames = await client.turn()
        objects = [frame["response"] for frame in frames if "response" in frame]
        assert 3 == len(objects)
        for response in objects:
            assert [] == [name for name in REQUIRED if name not in response]


@pytest.mark.parametrize(
    ("given", "repeated"),
    [
        ({"tools": [{"type": "web_search"}]}, {"tools": [{"type": "web_search"}]}),
        (
            {"tools": [{"type": "function", "name": "f"}]},
            {
                "tools": [
                    {"type": "function", "name": "f", "description": None, "parameters": None, "strict": True}
                ]
            },
        ),
        ({"text": {"verbosity": "low"}}, {"text": {"format": {"type": "text"}, "verbosity": "low"}}),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": {}}}},
            {
                "text": {
                    "format": {
                        "type": "json_schema",
                        "name": "n",
                        "description": None,
                        "schema": {},
                        "strict": False,
                    },
                    "verbosity": "medium",
                }
            },
        ),
        ({"reasoning": {"effort": "low"}}, {"reasoning": {"effort": "low", "summary": None}}),
        ({"reasoning": None, "temperature": None}, {"temperature": 1.0}),
        ({"presence_penalty": 0.5}, {"presence_penalty": 0.5, "frequency_penalty": 0.0}),
        (
            {"tool_choice": {"type": "allowed_tools", "tools": []}},
            {"tool_choice": {"type": "allowed_tools", "tools": [], "mode": "auto"}},
        ),
    ],
)
async def test_settings_are_filled_up(
    given: dict[str, Any], repeated: dict[str, Any], autojump_clock: MockClock
) -> None:
    """With what they are by default; what is given stays."""
    async with open_server(EchoModel(), port=None) as server, connected(server) as client:
        response = await client.respond(**given)

    assert repeated == {name: response[name] for name in repeated}


@pytest.mark.parametrize(
    ("item", "resource"),
    [
        (
            {"role": "user", "content": "hi"},
            {
                "id": "msg_7",
                "type": "message",
                "status": "completed",
                "role": "user",
                "content": [{"type": "input_text", "text": "hi"}],
            },
        ),
        (
            {"role": "user", "id": "msg_own", "content": [{"type": "input_image", "image_url": "u"}]},
            {
                "id": "msg_own",
                "type": "message",
                "status": "completed",
                "role": "user",
                "content": [{"type": "input_image", "image_url": "u", "detail": "auto"}],
            },
        ),
        (
            {"type": "function_call_output", "call_id": "c", "output": "x", "status": "incomplete"},
            {
                "id": "fco_7",
                "type": "function_call_output",
                "status": "incomplete",
                "call_id": "c",
                "output": "x",
            },
        ),
        ({"type": "reasoning", "summary": []}, {"id": "rs_7", "type": "reasoning", "summary": []}),
        ({"type": "odd"}, {"id": "item_7", "type": "odd"}),
    ],
)
def test_an_item_as_it_is_given_back(item: dict[str, Any], resource: dict[str, Any]) -> None:
    """With an id, a status, and parts in full."""
    before = dict(item)

    assert resource == as_resource(item, "7")
    assert before == item
