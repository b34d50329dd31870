"""Content: what was said in a turn, as OpenTelemetry's conventions for generative AI write it down.

Off unless asked for, as there. Bytes of pictures, sounds and files are left out, and so is encrypted
reasoning: nobody reads them in a trace. Source: `gen-ai-input-messages.json`, `gen-ai-output-messages.json`
and `gen-ai-system-instructions.json` of the repository `semantic-conventions-genai`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from wspool.core.begun import TurnContent

__all__ = ["SWITCH", "attributes_of", "is_wanted"]

#: The variable of the environment that says whether content is kept, for all instrumentations.
SWITCH: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
#: Its values that mean spans; the others mean events, or nothing. Source: opentelemetry-util-genai, and
#: instrumentations that are older than that ("true").
_ON: Final = frozenset({"true", "span_only", "span_and_event"})

#: Why a response ended, where the conventions have another word for it.
_REASONS: Final = {"tool_calls": "tool_call", "max_output_tokens": "length"}
_TEXTS: Final = frozenset({"input_text", "output_text", "text", "summary_text", "reasoning_text"})


def is_wanted(content: bool | None) -> bool:
    """Return whether content is kept: as *content* says, or else as the environment does."""
    return os.environ.get(SWITCH, "").strip().lower() in _ON if content is None else content


def attributes_of(content: TurnContent, finish_reason: str | None) -> dict[str, str]:
    """Return the attributes of a span that say what was said."""
    found = {"gen_ai.input.messages": _json([_message(item) for item in content.input])}
    if content.instructions is not None:
        found["gen_ai.system_instructions"] = _json([{"type": "text", "content": content.instructions}])
    if content.output:
        # One generation is one message, whatever it consists of.
        parts = [part for item in content.output for part in _parts(item)]
        reason = _REASONS.get(finish_reason or "", finish_reason) or "error"
        message = {"role": "assistant", "parts": parts, "finish_reason": reason}
        found["gen_ai.output.messages"] = _json([message])
    return found


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _message(item: Mapping[str, Any]) -> dict[str, Any]:
    kind = str(item.get("type", "message"))
    if kind.endswith("_output"):
        role = "tool"
    elif kind == "message":
        role = str(item.get("role") or "user")
    else:
        role = "assistant"
    return {"role": role, "parts": _parts(item)}


def _parts(item: Mapping[str, Any]) -> list[dict[str, Any]]:
    match item.get("type", "message"):
        case "message":
            return _texts(item.get("content"))
        case "function_call" | "custom_tool_call":
            arguments = item.get("arguments", item.get("input"))
            call = {"type": "tool_call", "id": item.get("call_id"), "name": str(item.get("name") or "")}
            return [call | {"arguments": _read(arguments)}]
        case "function_call_output" | "custom_tool_call_output":
            output = item.get("output")
            told = output if isinstance(output, str) else _texts(output)
            return [{"type": "tool_call_response", "id": item.get("call_id"), "response": told}]
        case "reasoning":
            said = [*_texts(item.get("summary")), *_texts(item.get("content"))]
            return [{"type": "reasoning", "content": part.get("content", "")} for part in said]
        case other:
            return [{"type": str(other), "id": item.get("id")}]


def _texts(content: object) -> list[dict[str, Any]]:
    """Return the parts of *content*, a text or a list of parts; of what is no text only the kind."""
    if isinstance(content, str):
        return [{"type": "text", "content": content}]
    found: list[dict[str, Any]] = []
    for each in cast("Sequence[object]", content) if isinstance(content, list) else ():
        if not isinstance(each, dict):
            continue
        part = cast("Mapping[str, object]", each)
        kind = part.get("type")
        if kind in _TEXTS:
            found.append({"type": "text", "content": str(part.get("text") or "")})
        elif kind == "refusal":
            found.append({"type": "refusal", "content": str(part.get("refusal") or "")})
        else:
            found.append({"type": str(kind)})
    return found


def _read(arguments: object) -> object:
    """Return arguments of a call: the conventions want an object where there is one."""
    try:
        return json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        return arguments
