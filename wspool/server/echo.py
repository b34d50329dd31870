"""The echo: a model for strangers, who expect of any model that it answers, calls tools and fills in forms.

1. Who offers a tool gets a call of it, the first one or the one that `tool_choice` names, once after each
   message of the user. Its arguments fit its schema. If the tool is `async`, an answer follows at once.
2. Who asks for JSON gets JSON that fits the schema.
3. Everybody else, and who brings the output of a call, gets back what was said last.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from wspool.server.fitting import fitting
from wspool.server.models import (
    Item,
    ModelRequest,
    ModelTurn,
    function_call,
    is_array,
    is_object,
    message,
    text_of,
)

__all__ = ["EchoModel"]


class EchoModel:
    """Says the last user message, or the last tool output, back; calls tools, and fills in forms."""

    def respond(self, request: ModelRequest) -> ModelTurn:
        """Echo; an empty conversation is answered with an empty message."""
        said, answered = _last_said(request.context)
        if not answered and (tool := _wanted_tool(request)) is not None:
            # A tool that may take its time keeps nobody waiting.
            meanwhile = [message(said)] if tool.get("async") is True else []
            return ModelTurn(output=[_call(tool, said), *meanwhile])
        return ModelTurn(output=[message(_in_form(request.body.get("text"), said))])


def _last_said(context: Sequence[Item]) -> tuple[str, bool]:
    """The last words of the user or of a tool, and whether they were a tool's."""
    for item in reversed(context):
        if str(item.get("type")).endswith("_output"):
            return _output_text(item.get("output")), True
        if item.get("role") == "user":
            return text_of(item), False
    return "", False


def _output_text(output: object) -> str:
    if is_array(output):
        return text_of({"content": [part for part in output if is_object(part)]})
    return output if isinstance(output, str) else json.dumps(output)


def _wanted_tool(request: ModelRequest) -> Item | None:
    choice = request.body.get("tool_choice")
    if choice == "none":
        return None
    names = set(_names(choice))
    for tool in request.tools:
        # All others are the provider's own, and nobody answers them.
        if tool.get("type") in ("function", "custom") and (not names or tool.get("name") in names):
            return tool
    return None


def _names(choice: object) -> Iterator[object]:
    """The names that a choice is limited to; none if it is not."""
    if is_object(choice) and is_array(tools := choice.get("tools", [choice])):
        yield from (tool.get("name") for tool in tools if is_object(tool))


def _call(tool: Mapping[str, Any], said: str) -> Item:
    name = str(tool.get("name"))
    if tool.get("type") == "custom":
        return {"type": "custom_tool_call", "name": name, "input": said}
    made = fitting(tool.get("parameters") or {"type": "object"}, said)
    return function_call(name, made if is_object(made) else {})


def _in_form(text: object, said: str) -> str:
    form = text.get("format") if is_object(text) else None
    match form.get("type") if is_object(form) else None:
        case "json_schema":
            return json.dumps(fitting(form.get("schema") if is_object(form) else None, said))
        case "json_object":
            return json.dumps({"text": said})
        case _:
            return said
