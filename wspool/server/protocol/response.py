"""The response object: what a request asked for, what became of it, and every setting spelt out.

Pure. A client sees this object in the first two events and in the last one of a response, over HTTP as the
whole answer, and again when it asks for a stored one. Settings that a request left out are there with what
they are by default; those that it gave in part are filled up.

Sources: a captured `response.created`; the types of openai-python 3.57; the `ResponseResource` of the Open
Responses specification, version 2026-04-24, which says what must not be missing.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from wspool.server.models import Item, is_object

__all__ = ["response_object", "usage_of"]

# Settings that a response repeats when the request gave none.
_DEFAULTS: Final[dict[str, Any]] = {
    "frequency_penalty": 0.0,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "presence_penalty": 0.0,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": "auto",
    "temperature": 1.0,
    "text": {"format": {"type": "text"}, "verbosity": "medium"},
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}

# What a function tool and a format are filled up with. `strict` is on for functions, and off for formats.
_FUNCTION: Final[Item] = {
    "type": "function",
    "name": "",
    "description": None,
    "parameters": None,
    "strict": True,
}
_FORMAT: Final[Item] = {
    "type": "json_schema",
    "name": "",
    "description": None,
    "schema": None,
    "strict": False,
}


def response_object(
    *,
    response_id: str,
    body: Mapping[str, Any],
    status: str,
    created_at: int,
    output: Sequence[Item] = (),
    usage: Mapping[str, Any] | None = None,
    error: Item | None = None,
    incomplete: str | None = None,
) -> Item:
    """The object of one response.

    Args:
      body: the request.
      created_at: Unix time, in seconds.
      error: why it failed, if it did.
      incomplete: why it is incomplete, if it is.
    """
    response: Item = {
        "id": response_id,
        "object": "response",
        "created_at": created_at,
        "status": status,
        "model": body["model"],
        "output": list(output),
        "previous_response_id": body.get("previous_response_id"),
        "parallel_tool_calls": body.get("parallel_tool_calls") is not False,
        "tool_choice": _tool_choice(body.get("tool_choice")),
        "tools": [_tool(tool) for tool in body.get("tools") or ()],
        "error": error,
        "incomplete_details": None if incomplete is None else {"reason": incomplete},
        "store": body.get("store") is not False,
        "usage": usage,
        "background": False,
        "completed_at": created_at + 1 if status == "completed" else None,
    }
    for key, default in _DEFAULTS.items():
        given = body.get(key)
        response[key] = default if given is None else _whole(given, default)
    if is_object(text := response["text"]):
        response["text"] = text | {"format": _format(text.get("format"))}
    return response


def usage_of(tokens: int, said: int, cached: int) -> Item:
    """The `usage` object.

    Args:
      tokens: of what the model saw.
      said: tokens of what it said.
      cached: tokens of what it saw that were known before.
    """
    return {
        "input_tokens": tokens,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": said,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": tokens + said,
    }


def _whole(given: Any, default: Any) -> Any:
    """A setting as it counts: what was left out, or cannot be meant, is as it is by default."""
    if is_object(default):
        parts: Item = given if is_object(given) else {}
        return default | {key: value for key, value in parts.items() if value is not None}
    if isinstance(default, float | int):
        return given if isinstance(given, float | int) else default
    return given if default is None or isinstance(given, str) else default


def _tool(tool: Item) -> Item:
    return _FUNCTION | tool if tool.get("type") == "function" else tool


def _tool_choice(given: Any) -> Any:
    if is_object(given) and given.get("type") == "allowed_tools":
        return {"mode": "auto"} | given
    return given or "auto"


def _format(given: Any) -> Any:
    return _FORMAT | given if is_object(given) and given.get("type") == "json_schema" else given
