"""Answers in the words of the Chat Completions API, for who asked in them (`chat.py`).

Source: `ChatCompletion` of openai-python 3.57.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import wspool

__all__ = ["completion_of"]

_REASONS: Final = {"max_output_tokens": "length", "content_filter": "content_filter"}


def completion_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the response *data* as a chat completion."""
    response = wspool.Response(dict(data))
    calls = [call for item in response.output if (call := _call(item)) is not None]
    refusals = [part.get("refusal") for item in response.output for part in _parts(item) if "refusal" in part]
    message: dict[str, Any] = {
        "role": "assistant",
        "content": response.output_text or (None if calls or refusals else ""),
        "refusal": "".join(map(str, refusals)) or None,
    }
    if calls:
        message["tool_calls"] = calls
    reason = (response.incomplete_details or {}).get("reason")
    finish = "tool_calls" if calls else "stop"
    if response.status == "incomplete":
        finish = _REASONS.get(str(reason), "length")
    found = [logprob for item in response.output for part in _parts(item) for logprob in _logprobs(part)]
    return {
        "id": data.get("id"),
        "object": "chat.completion",
        "created": data.get("created_at"),
        "model": data.get("model"),
        "service_tier": data.get("service_tier"),
        "choices": [
            {
                "index": 0,
                "message": message,
                "finish_reason": finish,
                "logprobs": {"content": found, "refusal": None} if found else None,
            }
        ],
        "usage": _usage(data.get("usage")),
    }


def _call(item: Mapping[str, Any]) -> dict[str, Any] | None:
    if item.get("type") == "function_call":
        inside = {"name": item.get("name"), "arguments": item.get("arguments")}
        return {"id": item.get("call_id"), "type": "function", "function": inside}
    if item.get("type") == "custom_tool_call":
        inside = {"name": item.get("name"), "input": item.get("input")}
        return {"id": item.get("call_id"), "type": "custom", "custom": inside}
    return None


def _parts(item: Mapping[str, Any]) -> list[dict[str, Any]]:
    content: object = item.get("content") if item.get("type") == "message" else None
    if not isinstance(content, list):
        return []
    return [cast("dict[str, Any]", part) for part in cast("list[object]", content) if isinstance(part, dict)]


def _logprobs(part: Mapping[str, Any]) -> Sequence[Any]:
    return part.get("logprobs") or ()


def _usage(usage: object) -> dict[str, Any] | None:
    if not isinstance(usage, dict):
        return None
    said = cast("dict[str, Any]", usage)
    return {
        "prompt_tokens": said.get("input_tokens"),
        "completion_tokens": said.get("output_tokens"),
        "total_tokens": said.get("total_tokens"),
        "prompt_tokens_details": said.get("input_tokens_details"),
        "completion_tokens_details": said.get("output_tokens_details"),
    }
