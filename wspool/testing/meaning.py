"""What a request means, however a client put it: the form in which cassettes keep and compare requests.

Pure. Two clients ask the same in different words: one sends the whole conversation each time, one only what
is new; one a text, one a list with a message with a part; one leaves defaults out. The rules:

1. `model`, `instructions` and every item of the conversation count. Ids, statuses, annotations, nulls and
   empty lists do not; nor does reasoning, which clients may drop.
2. Instructions may also come as the first system or developer messages.
3. Arguments of calls, and outputs that are JSON objects or arrays, are compared as JSON. Very long ones are
   texts: each part of one would have to be held, and read in one go.
4. Tools are the same if their names and the names of their parameters are: every framework describes one
   function in its own words. So is the schema of an answer.
5. A setting (temperature, effort ...) counts where both sides give it, as frameworks add some of their own.
6. How it is carried and kept does not count: `stream`, `store`, `include`, `metadata`, cache keys, users.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import attrs

from wspool.server.models import Item, is_array, is_object

__all__ = ["Difference", "Meaning", "first_difference", "items_of", "sendable"]

#: Of a request: the settings that are compared (rule 5), as paths.
_SETTINGS: Final = (
    "max_output_tokens",
    "max_tool_calls",
    "parallel_tool_calls",
    "reasoning.effort",
    "temperature",
    "text.verbosity",
    "tool_choice",
    "top_p",
    "truncation",
)
#: Characters from which one is very long (rule 3): it takes milliseconds to be read.
_VERY_LONG: Final = 2**18

_OUTPUTS: Final = frozenset({"custom_tool_call_output", "function_call_output"})
_TEXTS: Final = frozenset({"input_text", "output_text", "text"})
#: Of items and parts: what does not count (rule 1).
_UNSEEN: Final = frozenset({"annotations", "id", "logprobs", "parsed", "parsed_arguments", "phase", "status"})


def items_of(given: object) -> list[Item]:
    """The items of an `input` or `output` in normal form (rules 1 and 3)."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}] if given else []
    entries = given if is_array(given) else []
    return [item for entry in entries if is_object(entry) and (item := _item(entry)) is not None]


def _item(given: Item) -> Item | None:
    kind = given.get("type") or "message"
    item = {key: value for key, value in given.items() if key not in _UNSEEN and value not in (None, [])}
    match kind:
        case "reasoning":
            return None
        case "message":
            role = "system" if given.get("role") == "developer" else given.get("role")
            return {"role": role, "content": _content(given.get("content"))}
        case "function_call":
            item["arguments"] = _as_json(given.get("arguments"))
        case _ if kind in _OUTPUTS:
            output = _content(given.get("output"))
            item["output"] = {"parts": output} if is_array(output) else _as_json(output)
        case _:
            pass
    return item


def sendable(item: Item) -> Item:
    """An item in normal form as one that an endpoint takes."""
    kind = item.get("type", "message")
    if kind == "message":
        part = "output_text" if item.get("role") == "assistant" else "input_text"
        return item | {"content": _parts(item.get("content"), part)}
    if kind == "function_call":
        return item | {"arguments": _as_text(item.get("arguments"))}
    if kind in _OUTPUTS:
        output = item.get("output")
        parts = output.get("parts") if is_object(output) and len(output) == 1 else None
        return item | {"output": _parts(parts, "input_text") if is_array(parts) else _as_text(output)}
    return item


def _parts(content: object, kind: str) -> object:
    if not is_array(content):
        return content
    return [{"type": kind, "text": part} if isinstance(part, str) else part for part in content]


def _as_text(value: object) -> object:
    return value if isinstance(value, str) else json.dumps(value)


def _content(content: object) -> object:
    """A text where texts are all that it holds, else parts."""
    if not is_array(content):
        return "" if content is None else content
    parts: list[Any] = []
    for part in content:
        if not (is_object(part) or isinstance(part, str)):
            parts.append(part)
        elif is_object(part) and part.get("type") not in _TEXTS:
            parts.append(
                {key: value for key, value in part.items() if key not in _UNSEEN and value is not None}
            )
        else:
            text = part if isinstance(part, str) else str(part.get("text", ""))
            if parts and isinstance(parts[-1], str):
                parts[-1] += text
            else:
                parts.append(text)
    if not parts:
        return ""
    return parts[0] if len(parts) == 1 and isinstance(parts[0], str) else parts


def _as_json(value: object) -> object:
    if isinstance(value, str) and len(value) < _VERY_LONG:
        try:
            read = json.loads(value)
            json.dumps(read, allow_nan=False)  # what it cannot write it would not read again
        except (ValueError, RecursionError):
            return value
        return read if is_object(read) or is_array(read) else value
    return value


@attrs.frozen
class Meaning:
    """What one request means."""

    model: object
    instructions: str
    items: Sequence[Item]
    """The whole conversation, oldest first."""
    tools: Mapping[str, Sequence[str]]
    """By name: the names of the parameters."""
    answer: object
    """What the answer is to be; None is text."""
    parent: str | None
    """What it continues, if that is not known here."""
    settings: Mapping[str, object]

    @classmethod
    def of(cls, body: Mapping[str, Any], before: Sequence[Item] | None = None) -> "Meaning":
        """Of a request.

        Args:
          before: the conversation that `previous_response_id` stands for, as far as it is known.
        """
        items = [*(before or ()), *items_of(body.get("input"))]
        # Instructions that came as messages are with the others, wherever the conversation began (rule 2).
        texts = [str(body.get("instructions") or "")]
        while items and items[0].get("role") == "system" and isinstance(items[0].get("content"), str):
            texts.append(items.pop(0)["content"])
        parent = body.get("previous_response_id") if before is None else None
        return cls(
            model=body.get("model"),
            instructions="\n\n".join(stripped for text in texts if (stripped := text.strip())),
            items=items,
            tools=_tools(body.get("tools")),
            answer=_answer(body.get("text")),
            parent=str(parent) if parent else None,
            settings={path: value for path in _SETTINGS if (value := _at(body, path)) is not None},
        )


def _tools(tools: object) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for tool in tools if is_array(tools) else []:
        if is_object(tool):
            found[str(tool.get("name") or tool.get("type"))] = _properties(tool.get("parameters"))
    return found


def _answer(text: object) -> object:
    form = text.get("format") if is_object(text) else None
    kind = form.get("type") if is_object(form) else None
    if kind in (None, "text") or not is_object(form):
        return None
    return {"type": kind, "properties": _properties(form.get("schema"))}


def _properties(schema: object) -> list[str]:
    properties = schema.get("properties") if is_object(schema) else None
    return sorted(properties) if is_object(properties) else []


def _at(body: Mapping[str, Any], path: str) -> object:
    value: object = dict(body)
    for name in path.split("."):
        value = value.get(name) if is_object(value) else None
    return value


@attrs.frozen
class Difference:
    """The first thing in which a request differs from the recorded one."""

    path: str
    expected: object
    got: object
    same: int
    """How many items of the conversation are the same before it."""

    def __str__(self) -> str:
        return f"{self.path}: expected {_shown(self.expected)}, got {_shown(self.got)}"


class _Nothing:
    def __repr__(self) -> str:
        return "nothing"


_NOTHING: Final = _Nothing()

#: Longest value that is shown, in characters. A long text is shown from a little before the first difference.
_LONGEST: Final = 160
_BEFORE: Final = 20


def _shown(value: object) -> str:
    text = repr(value) if isinstance(value, _Nothing) else json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... ({len(text)} characters)"


def first_difference(expected: Meaning, got: Meaning) -> Difference | None:
    """Where two requests first mean something else, or None if they mean the same."""
    same = 0
    for one, other in zip(expected.items, got.items, strict=False):
        if one != other:
            break
        same += 1
    pairs: Iterable[tuple[str, object, object]] = (
        ("model", expected.model, got.model),
        ("instructions", expected.instructions, got.instructions),
        ("previous_response_id", expected.parent, got.parent),
        ("input", expected.items, got.items),
        ("tools", expected.tools, got.tools),
        ("text.format", expected.answer, got.answer),
        *(
            (path, expected.settings[path], got.settings[path])
            for path in expected.settings
            if path in got.settings
        ),
    )
    for path, recorded, asked in pairs:
        if recorded != asked:
            return Difference(*_narrowed(path, recorded, asked), same)
    return None


def _narrowed(path: str, one: object, other: object) -> tuple[str, object, object]:
    """The first place inside two values that differ."""
    left: object
    right: object
    if is_object(one) and is_object(other):
        for key in (*one, *(key for key in other if key not in one)):
            left, right = one.get(key, _NOTHING), other.get(key, _NOTHING)
            if left != right:
                return _narrowed(f"{path}.{key}", left, right)
    if is_array(one) and is_array(other):
        for index in range(max(len(one), len(other))):
            left = one[index] if index < len(one) else _NOTHING
            right = other[index] if index < len(other) else _NOTHING
            if left != right:
                return _narrowed(f"{path}[{index}]", left, right)
    if isinstance(one, str) and isinstance(other, str) and max(len(one), len(other)) > _LONGEST:
        at = next(
            (n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
        )
        if at > _BEFORE:
            return f"{path} (from character {at - _BEFORE})", one[at - _BEFORE :], other[at - _BEFORE :]
    return path, one, other
