"""A request of the Chat Completions API says the same as before, or what cannot be said is named."""

from typing import Any

import pytest

from wspool.rollout.chat import is_chatty, messages_to_items, tool_definition, translate
from wspool.rollout.completion import completion_of

HI = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {}}


def said(**body: Any) -> dict[str, Any]:
    """The fields that are translated of a chat that says hi."""
    found = translate({"model": "m", "messages": HI, **body})
    assert found.pop("input") == HI
    assert found.pop("model") == "m"
    return found


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {"store": False}),
        ({"store": True}, {"store": True}),
        ({"temperature": 0, "top_p": None, "user": "u"}, {"temperature": 0, "user": "u"}),
        ({"max_tokens": 16}, {"max_output_tokens": 16}),
        ({"max_completion_tokens": 99}, {"max_output_tokens": 99}),
        (
            {"reasoning_effort": "low", "verbosity": "low", "response_format": {"type": "json_object"}},
            {"reasoning": {"effort": "low"}, "text": {"verbosity": "low", "format": {"type": "json_object"}}},
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}},
            {"text": {"format": {"type": "json_schema", "name": "a", "schema": SCHEMA, "strict": False}}},
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "strict": True}}},
            {"text": {"format": {"type": "json_schema", "name": "a", "strict": True}}},
        ),
        ({"logprobs": True, "top_logprobs": 3},
            {"include": ["message.output_text.logprobs"], "top_logprobs": 3}),
        ({"n": 1, "stop": [], "presence_penalty": 0, "logit_bias": {}, "seed": None, "stream": True}, {}),
        ({"functions": [{"name": "f", "parameters": SCHEMA}], "function_call": {"name": "f"}},
            {"tools": [{"type": "function", "name": "f", "parameters": SCHEMA, "strict": False}],
             "parallel_tool_calls": False, "tool_choice": {"type": "function", "name": "f"}}),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}},
            {"tool_choice": {"type": "function", "name": "f"}}),
        ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [
            {"type": "function", "function": {"name": "f"}}]}}},
            {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [
                {"type": "function", "name": "f"}]}}),
        ({"tool_choice": "required"}, {"tool_choice": "required"}),
    ],
)  # fmt: skip
def test_fields(body: dict[str, Any], fields: dict[str, Any]) -> None:
    """With the defaults of the one in the words of the other."""
    assert {"store": False, **fields} == said(**body)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"seed": 42}, "cannot say 'seed'; --leave-out seed"),
        ({"stop": ["\n"]}, "'stop'"),
        ({"max_tokens": 15}, "max_tokens is 15, and the Responses API takes no less than 16; --leave-out"),
        ({"max_completion_tokens": 1}, "--leave-out max_completion_tokens does without, --set max_"),
        ({"n": 3}, "cannot say 'n'; --leave-out n does without, and -n 3 with it takes so many answers"),
        ({"seed": 42, "user": "a", "top_k": 3}, "'seed', 'top_k'; --leave-out seed --leave-out top_k does"),
        ({"logit_bias": {"5": 1}}, "'logit_bias'"),
        ({"top_k": 5}, "'top_k'"),
        ({"modalities": ["text", "audio"]}, "'modalities'"),
        ({"frequency_penalty": 0.5}, "'frequency_penalty'"),
        ({"tools": 5}, "tools must be a list, not int"),
        ({"response_format": "json"}, "response_format must be an object, not str"),
        ({"messages": []}, "there are no messages"),
        ({"messages": None}, "there are no messages"),
        ({"messages": "hi"}, "messages must be a list, not str"),
        ({"messages": ["hi"]}, r"messages\[0\] must be an object"),
        ({"messages": [{"role": "boss", "content": "hi"}]}, "the role 'boss'"),
        ({"messages": [{"role": "user", "content": "hi", "name": "Ann"}]}, r"'name' of messages\[0\]"),
        ({"messages": [{"role": "user"}]}, r"messages\[0\] has no content"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "the type 'video'"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"type": "wild", "wild": {}}]}]}, "type 'wild'"),
        ({"messages": [{"role": "assistant", "content": None, "audio": {"id": "a"}}]}, "'audio' of"),
        ({"messages": [{"role": "tool", "content": "x"}]}, r"no tool_call_id in messages\[0\]"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}]},
            "no id in a tool",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "c", "function": {}}]}]},
            "no name in a tool",
        ),
        (
            {
                "messages": [
                    {
                        "role": "assistant",
                        "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": 5}}],
                    }
                ]
            },
            "arguments in a tool call of .* must be a text, not int",
        ),
        (
            {"messages": [{"role": "user", "content": 5}]},
            r"content of messages\[0\] must be a text or a list",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "no text in content of"),
        ({"messages": [{"role": "assistant", "content": [{"type": "text"}]}]}, "no text in content of"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "no url in image",
        ),
    ],
)
def test_what_cannot_be_said_is_named(body: dict[str, Any], named: str) -> None:
    """With what to do about it; nothing is left out in silence."""
    with pytest.raises(ValueError, match=named):
        translate({"messages": HI, **body})


def test_what_the_caller_does_without_is_left_out() -> None:
    """Fields of the request and of its messages."""
    messages = [{"role": "user", "content": "hi", "name": "Ann"}]

    assert {"store": False, "input": HI} == translate({"messages": messages, "seed": 1}, {"seed", "name"})


def test_messages() -> None:
    """Texts, parts, calls and their outputs, in their order."""
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    custom = {"id": "c2", "type": "custom", "custom": {"name": "g", "input": "x"}}
    found = messages_to_items(
        [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [
                {"type": "text", "text": "look"},
                {"type": "image_url", "image_url": {"url": "u", "detail": "low"}},
                {"type": "file", "file": {"file_id": "f1"}},
                {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
            ]},
            {"role": "assistant", "content": "", "tool_calls": [call, custom]},
            {"role": "tool", "tool_call_id": "c1", "content": "1"},
            {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "2"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "so"}]},
            {"role": "assistant", "content": None, "refusal": "no"},
            {"role": "assistant", "content": None, "function_call": {"name": "h", "arguments": "{}"}},
            {"role": "function", "name": "h", "content": "3"},
        ]
    )  # fmt: skip

    assert found == [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [
            {"type": "input_text", "text": "look"},
            {"type": "input_image", "image_url": "u", "detail": "low"},
            {"type": "input_file", "file_id": "f1"},
            {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
        ]},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "custom_tool_call", "call_id": "c2", "name": "g", "input": "x"},
        {"type": "function_call_output", "call_id": "c1", "output": "1"},
        {"type": "custom_tool_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "2"}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "so"}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        {"type": "function_call", "call_id": "call_1", "name": "h", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "3"},
    ]  # fmt: skip


def test_definitions_of_tools() -> None:
    """One that has the other form already stays as it is."""
    grammar = {"type": "grammar", "grammar": {"syntax": "lark", "definition": "x"}}
    flat = {"type": "function", "name": "f", "parameters": SCHEMA}

    assert flat == tool_definition(flat)
    assert {"type": "function", "name": "f", "parameters": SCHEMA, "strict": False} == tool_definition(
        {"type": "function", "function": {"name": "f", "description": None}}
    )
    assert {
        "type": "custom",
        "name": "g",
        "format": {"type": "grammar", "syntax": "lark", "definition": "x"},
    } == tool_definition({"type": "custom", "custom": {"name": "g", "format": grammar}})


def test_messages_of_both_are_told_apart() -> None:
    """What both have is left as it is."""
    assert not any(
        map(is_chatty, (None, [], HI, ["x"], [{"type": "message", "content": [{"type": "text"}]}]))
    )
    assert is_chatty([{"role": "user", "content": [{"type": "text", "text": "hi"}]}])
    assert is_chatty([{"role": "tool", "tool_call_id": "c", "content": ""}])
    assert is_chatty([{"role": "assistant", "content": None, "tool_calls": [{}]}])


def response(*output: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": "r", "model": "m", "created_at": 5, "status": "completed", "output": list(output), **more}


def test_an_answer() -> None:
    """With its text and what it took."""
    part = {"type": "output_text", "text": "42", "logprobs": [{"token": "42"}]}
    usage = {
        "input_tokens": 1,
        "output_tokens": 2,
        "total_tokens": 3,
        "input_tokens_details": {"cached_tokens": 1},
    }
    found = completion_of(response({"type": "message", "content": [part]}, usage=usage))

    assert ("r", "chat.completion", 5, "m") == tuple(found[n] for n in ("id", "object", "created", "model"))
    (choice,) = found["choices"]
    assert {"role": "assistant", "content": "42", "refusal": None} == choice["message"]
    assert ("stop", [{"token": "42"}]) == (choice["finish_reason"], choice["logprobs"]["content"])
    assert (1, 2, 3) == tuple(
        found["usage"][name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")
    )
    assert {"cached_tokens": 1} == found["usage"]["prompt_tokens_details"]


def test_an_answer_that_is_none() -> None:
    """Calls, refusals, and what was cut off."""
    calls = (
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "custom_tool_call", "call_id": "d", "name": "g", "input": "x"},
    )
    called = completion_of(response(*calls))["choices"][0]
    assert "tool_calls" == called["finish_reason"]
    assert None is called["message"]["content"]
    assert ["f", "g"] == [each[each["type"]]["name"] for each in called["message"]["tool_calls"]]
    refusal = {"type": "message", "content": [{"type": "refusal", "refusal": "no"}]}
    assert "no" == completion_of(response(refusal))["choices"][0]["message"]["refusal"]
    cut = response(status="incomplete", incomplete_details={"reason": "max_output_tokens"})
    assert "length" == completion_of(cut)["choices"][0]["finish_reason"]
    cut = response(status="incomplete", incomplete_details={"reason": "content_filter"})
    assert "content_filter" == completion_of(cut)["choices"][0]["finish_reason"]
    assert "" == completion_of(response())["choices"][0]["message"]["content"]
