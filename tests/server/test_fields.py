"""Which requests are refused for one field, in the provider's words, and what a lenient server takes."""

from typing import Any

import pytest
from trio.testing import MockClock

from wspool.server import AZURE, LITELLM, LOCALAI, OPENAI, VLLM, EchoModel, ServerProfile, open_server
from wspool.server.protocol.fields import refusal_of

from .client import connected

FUNCTION = {"type": "function", "name": "f", "parameters": {}}
SCHEMA = {"type": "json_schema", "name": "n", "schema": {}}

GOOD: list[dict[str, Any]] = [
    {},
    {"temperature": 2, "top_p": 0, "presence_penalty": -2, "frequency_penalty": 0.5},
    {"max_output_tokens": 16, "max_tool_calls": 1, "top_logprobs": 20},
    {"metadata": {"a" * 64: "b" * 512}, "user": "u", "safety_identifier": "s" * 64},
    {"reasoning": {"effort": "xhigh", "summary": "auto"}, "truncation": "auto", "service_tier": "new"},
    {"text": {"format": SCHEMA | {"strict": True, "description": "d"}, "verbosity": "low"}},
    {"text": {"format": {"type": "json_object"}}},
    {
        "tools": [
            FUNCTION | {"strict": None, "async": True},
            {"type": "custom", "name": "c"},
            {"type": "new_tool"},
        ]
    },
    {"tool_choice": "required"},
    {"tool_choice": {"type": "function", "name": "f"}},
    {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}},
    {"conversation": "conv_1", "prompt": {"id": "p"}, "include": ["reasoning.encrypted_content"]},
    {
        "stream_options": {"include_obfuscation": False},
        "prompt_cache_key": "k",
        "client_metadata": {"a": "b"},
    },
    dict.fromkeys(("temperature", "tools", "metadata", "text", "store", "reasoning", "user")),
    {
        "multi_agent": {"enabled": True},
        "context_management": [{"type": "compaction", "compact_threshold": 9}],
    },
]

BAD: list[tuple[dict[str, Any], str, str, str]] = [
    ({"temprature": 1}, "temprature", "unknown_parameter", "Unknown parameter: 'temprature'."),
    ({"max_tokens": None}, "max_tokens", "unknown_parameter", "Unknown parameter: 'max_tokens'."),
    (
        {"reasoning": {"max_tokens": 9}},
        "reasoning.max_tokens",
        "unknown_parameter",
        "Unknown parameter: 'reasoning.max_tokens'.",
    ),
    (
        {"temperature": "hot"},
        "temperature",
        "invalid_type",
        "Invalid type for 'temperature': expected a decimal, but got a string instead.",
    ),
    (
        {"temperature": True},
        "temperature",
        "invalid_type",
        "Invalid type for 'temperature': expected a decimal, but got a boolean instead.",
    ),
    (
        {"temperature": 2.5},
        "temperature",
        "decimal_above_max_value",
        "Invalid 'temperature': decimal above maximum value. Expected a value <= 2, but got 2.5 instead.",
    ),
    (
        {"max_output_tokens": 10},
        "max_output_tokens",
        "integer_below_min_value",
        "Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 16, but got 10 "
        "instead.",
    ),
    (
        {"max_output_tokens": 20.5},
        "max_output_tokens",
        "invalid_type",
        "Invalid type for 'max_output_tokens': expected an integer, but got a decimal instead.",
    ),
    (
        {"truncation": "some"},
        "truncation",
        "invalid_value",
        "Invalid value: 'some'. Supported values are: 'auto' and 'disabled'.",
    ),
    (
        {"tool_choice": "any"},
        "tool_choice",
        "invalid_value",
        "Invalid value: 'any'. Supported values are: 'none', 'auto', and 'required'.",
    ),
    (
        {"tools": [FUNCTION, {"type": "function", "function": {"name": "f"}}]},
        "tools[1].name",
        "missing_required_parameter",
        "Missing required parameter: 'tools[1].name'.",
    ),
    (
        {"tools": [{"name": "f"}]},
        "tools[0].type",
        "missing_required_parameter",
        "Missing required parameter: 'tools[0].type'.",
    ),
    (
        {"tools": [FUNCTION | {"parameters": "{}"}]},
        "tools[0].parameters",
        "invalid_type",
        "Invalid type for 'tools[0].parameters': expected an object, but got a string instead.",
    ),
    (
        {"text": {"format": {"type": "json_schema", "schema": {}}}},
        "text.format.name",
        "missing_required_parameter",
        "Missing required parameter: 'text.format.name'.",
    ),
    (
        {"metadata": {"a": 1}},
        "metadata.a",
        "invalid_type",
        "Invalid type for 'metadata.a': expected a string, but got an integer instead.",
    ),
    (
        {"prompt_cache_key": "k" * 65},
        "prompt_cache_key",
        "string_above_max_length",
        "Invalid 'prompt_cache_key': string too long. Expected a string with maximum length 64, but got a "
        "string with length 65 instead.",
    ),
    (
        {"include": "reasoning.encrypted_content"},
        "include",
        "invalid_type",
        "Invalid type for 'include': expected an array, but got a string instead.",
    ),
    (
        {"metadata": {str(n): "" for n in range(17)}},
        "metadata",
        "object_above_max_properties",
        "Invalid 'metadata': too many properties. Expected an object with at most 16 properties, but got an "
        "object with 17 properties instead.",
    ),
    (
        {"tools": [FUNCTION | {"name": ""}]},
        "tools[0].name",
        "empty_string",
        "Invalid 'tools[0].name': empty string. Expected a string with minimum length 1, but got an empty "
        "string instead.",
    ),
    (
        {"conversation": 1},
        "conversation",
        "invalid_type",
        "Invalid type for 'conversation': expected an object, but got an integer instead.",
    ),
]


@pytest.mark.parametrize("fields", GOOD)
def test_what_the_provider_takes(fields: dict[str, Any]) -> None:
    assert refusal_of({"type": "response.create", "model": "m", "input": "hi", **fields}) is None


@pytest.mark.parametrize(("fields", "param", "code", "message"), BAD)
def test_what_it_refuses(fields: dict[str, Any], param: str, code: str, message: str) -> None:
    refused = refusal_of({"model": "m", "input": "hi", **fields})

    assert refused is not None
    assert (param, code, message) == (refused.param, refused.code, refused.message)
    assert (400, "invalid_request_error") == (refused.status, refused.type)


@pytest.mark.parametrize(
    ("profile", "lenient", "taken"),
    [
        (OPENAI, False, False),
        (AZURE, False, False),
        (OPENAI, True, True),
        (LITELLM, False, True),
        (LOCALAI, False, True),
        (VLLM, False, True),
    ],
)
async def test_who_refuses(
    profile: ServerProfile, lenient: bool, taken: bool, autojump_clock: MockClock
) -> None:
    """Providers that check their requests do, unless they are told to be lenient."""
    async with (
        open_server(EchoModel(), profile=profile, port=None, lenient=lenient) as server,
        connected(server) as client,
    ):
        for fields in ({"temprature": 1}, {"temperature": "hot"}):
            last = (await client.turn(**fields))[-1]
            assert taken == (last["type"] == "response.completed")
            assert taken or next(iter(fields)) == last["error"]["param"]
        await client.respond()
