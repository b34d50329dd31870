"""The grammar of a history: which input items a provider takes, and what it says of those it does not.

Pure. `Known` is what a context holds; it judges the items that would follow, and says why they are refused.
The rules:

1. An item has a type that exists and the fields that its type needs, names and call ids within bounds.
2. No id is there twice, in the context or in the input.
3. An output answers a call that came before it, and every call of the client's has its output by the end of
   the input, but for those that were made with `async`.
4. A reasoning item that is given comes right before what the model made of it: it is neither the last one nor
   followed by what a user or a tool said. Where nothing is stored it brings its content with it.

A lenient server keeps only the first half of the third rule, without which a model's answer makes no sense.

Sources: the input item types of openai-python 3.57, and the refusals of api.openai.com as users have reported
them; texts, `param` and `code` are theirs (continue#8933, vercel/ai#7543, pi#5165, codex-lb's specifications,
openai-agents-python#1855, fastllm#45, CodexPlusPlus#315). That a given reasoning item needs its follower
holds for stored conversations for certain; without `store` it was seen to be let pass (2026-09).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import attrs

from wspool.server.models import Item, TurnError, is_array, is_object
from wspool.server.protocol.requests import invalid_request

__all__ = ["NOTHING", "Known"]

# Call -> the item that answers it, and how errors name it.
_CALLS: Final[dict[str, tuple[str, str]]] = {
    "function_call": ("function_call_output", "function call"),
    "custom_tool_call": ("custom_tool_call_output", "custom tool call"),
    "computer_call": ("computer_call_output", "computer call"),
    "local_shell_call": ("local_shell_call_output", "local shell call"),
    "shell_call": ("shell_call_output", "shell call"),
    "apply_patch_call": ("apply_patch_call_output", "apply patch call"),
    "tool_search_call": ("tool_search_output", "tool search call"),
}
_OUTPUTS: Final = dict(_CALLS.values())

_KINDS: Final = frozenset(
    {
        *_CALLS,
        *_OUTPUTS,
        "additional_tools",
        "agent_message",
        "code_interpreter_call",
        "compaction",
        "compaction_trigger",
        "file_search_call",
        "image_generation_call",
        "item_reference",
        "mcp_approval_request",
        "mcp_approval_response",
        "mcp_call",
        "mcp_list_tools",
        "message",
        "multi_agent_call",
        "multi_agent_call_output",
        "program",
        "program_output",
        "reasoning",
        "web_search_call",
    }
)

_ROLES: Final = ("assistant", "system", "developer", "user")
_SAID: Final = ("output_text", "refusal")
_PARTS: Final = (
    "input_text",
    "input_image",
    "output_text",
    "refusal",
    "input_file",
    "computer_screenshot",
    "summary_text",
    "encrypted_content",
    "input_audio",
)

# Type -> the fields that it must have, and what may be in them.
_TEXT: Final = ((str,), "a string")
_LIST: Final = ((list,), "an array of objects")
_EITHER: Final = ((str, list), "one of an array of objects or string")
_FIELDS: Final[dict[str, dict[str, tuple[tuple[type, ...], str]]]] = {
    "message": {"content": _EITHER},
    "function_call": {"call_id": _TEXT, "name": _TEXT, "arguments": _TEXT},
    "function_call_output": {"call_id": _TEXT, "output": _EITHER},
    "custom_tool_call": {"call_id": _TEXT, "name": _TEXT, "input": _TEXT},
    "custom_tool_call_output": {"call_id": _TEXT, "output": _EITHER},
    "computer_call": {"call_id": _TEXT},
    "computer_call_output": {"call_id": _TEXT, "output": ((dict,), "an object")},
    "local_shell_call": {"call_id": _TEXT},
    "local_shell_call_output": {"call_id": _TEXT, "output": _TEXT},
    "shell_call": {"call_id": _TEXT},
    "shell_call_output": {"call_id": _TEXT, "output": _LIST},
    "apply_patch_call": {"call_id": _TEXT},
    "apply_patch_call_output": {"call_id": _TEXT},
    "mcp_approval_response": {"approval_request_id": _TEXT, "approve": ((bool,), "a boolean")},
    "reasoning": {"summary": _LIST},
    "compaction": {"encrypted_content": _TEXT},
    "item_reference": {"id": _TEXT},
}

_NAME: Final = re.compile(r"[a-zA-Z0-9_-]+")
#: Longest strings, in characters.
_LONGEST: Final = {"call_id": 64, "name": 128}

# How JSON types are called in errors.
_WORDS: Final[dict[type, str]] = {
    dict: "an object",
    list: "an array",
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a decimal",
}


@attrs.frozen
class Known:
    """What a context holds, as far as later items are judged by it."""

    ids: frozenset[str] = frozenset()
    """The ids of its items."""
    calls: frozenset[str] = frozenset()
    """The ids of all its calls."""
    open: Mapping[str, str] = attrs.field(factory=dict[str, str])
    """The calls that the client owes an output: how errors name them, by call id."""

    def after(self, items: Sequence[Item]) -> "Known":
        """What is known once *items* have come."""
        return self._read(items)[0]

    def _read(self, items: Sequence[Item]) -> "tuple[Known, TurnError | None]":
        """What is known once *items* have come, and the error of the first output without a call."""
        calls, unanswered = set(self.calls), dict(self.open)
        orphan: TurnError | None = None
        for item in items:
            kind, call_id = _kind(item), item.get("call_id")
            if kind in _CALLS:
                calls.add(str(call_id))
                if _is_owed(kind, item):
                    unanswered[str(call_id)] = _CALLS[kind][1]
            elif kind in _OUTPUTS and call_id is not None:
                words = _OUTPUTS[kind]
                if str(call_id) not in calls and orphan is None:
                    orphan = _refused(f"No tool call found for {words} output with call_id {call_id}.")
                if unanswered.get(str(call_id)) == words:
                    del unanswered[str(call_id)]
        return Known(self.ids | set(_ids(items)), frozenset(calls), unanswered), orphan

    def judge(
        self,
        given: Sequence[Item],
        shown: Sequence[Item],
        *,
        stored: bool,
        lenient: bool = False,
        ends: bool = True,
    ) -> "tuple[Known, TurnError | None]":
        """What is known once an input has come, and why it is refused; None if it is not.

        Args:
          given: the input.
          shown: the same as the model sees it.
          stored: the server keeps what it makes, and may have kept what is given.
          lenient: take what other servers take.
          ends: the model is to answer now, so that no call may be without its output.
        """
        after, orphan = self._read(shown)
        if lenient:
            return after, orphan
        problem = _first_misshapen(given) or orphan or self._misplaced(given, stored=stored)
        return after, problem or (after._owed() if ends else None)

    def _misplaced(self, given: Sequence[Item], *, stored: bool) -> TurnError | None:
        """The refusal of an item that is there twice, or of reasoning without what belongs to it."""
        seen = set(self.ids)
        for name in _ids(given):
            if name in seen:
                return _refused(
                    f"Duplicate item found with id {name}. "
                    "Remove duplicate items from your input and try again."
                )
            seen.add(name)
        for index, item in enumerate(given):
            if _kind(item) == "reasoning":
                follower = given[index + 1] if index + 1 < len(given) else None
                problem = _unusable(item, follower, stored=stored)
                if problem is not None:
                    return problem
        return None

    def _owed(self) -> TurnError | None:
        """The refusal of a request after which a call would have no output."""
        for call_id, words in self.open.items():
            return _refused(f"No tool output found for {words} {call_id}.")
        return None


NOTHING: Final = Known()


def _first_misshapen(given: Sequence[Item]) -> TurnError | None:
    for index, item in enumerate(given):
        problem = _misshapen(item, f"input[{index}]")
        if problem is not None:
            return problem
    return None


def _kind(item: Mapping[str, Any]) -> str:
    kind = item.get("type")
    if kind is None and "role" in item:
        return "message"
    return kind if isinstance(kind, str) else ""


def _is_owed(kind: str, item: Mapping[str, Any]) -> bool:
    """Whether the next request must bring the output of a call."""
    if item.get("async") is True:
        return False
    if kind == "tool_search_call":
        return item.get("execution") == "client"
    environment = item.get("environment")
    return not (is_object(environment) and environment.get("type") == "container_reference")


def _ids(items: Sequence[Item]) -> Iterator[str]:
    """The ids that *items* have; a reference has only that of another one."""
    for item in items:
        name = item.get("id")
        if isinstance(name, str) and name and _kind(item) != "item_reference":
            yield name


def _unusable(item: Item, follower: Item | None, *, stored: bool) -> TurnError | None:
    """The refusal of the reasoning *item*, if it can not be used."""
    if not (stored or item.get("encrypted_content") or item.get("content")):
        return _refused(
            f"Item with id '{item.get('id')}' not found. "
            "Items are not persisted when `store` is set to false. "
            "Try again with `store` set to true, or remove this item from your input.",
            status=404,
        )
    follows = "" if follower is None else _kind(follower)
    if (
        follower is None
        or follows in _OUTPUTS
        or follows in ("mcp_approval_response", "program_output", "additional_tools")
        or (follows == "message" and follower.get("role") != "assistant")
    ):
        return _refused(
            f"Item '{item.get('id')}' of type 'reasoning' was provided without its required following item."
        )
    return None


def _misshapen(item: Item, where: str) -> TurnError | None:
    """The refusal of an *item* that is none, or lacks what its type needs."""
    kind = _kind(item)
    if kind not in _KINDS:
        given = item.get("type", "")
        return _unsupported(given, sorted(_KINDS), where)
    if kind == "message" and item.get("role") not in _ROLES:
        return _unsupported(item.get("role", ""), _ROLES, where)
    for field, (types, words) in _FIELDS.get(kind, {}).items():
        problem = _bad_field(item, field, types, words, where)
        if problem is not None:
            return problem
    content = item.get("content")
    if kind == "message" and is_array(content):
        parts = _SAID if item.get("role") == "assistant" else _PARTS
        for index, part in enumerate(content):
            problem = _bad_part(part, parts, f"{where}.content[{index}]")
            if problem is not None:
                return problem
    return None


def _bad_part(part: Mapping[str, Any], kinds: Sequence[str], where: str) -> TurnError | None:
    if part.get("type") not in kinds:
        return _unsupported(part.get("type", ""), kinds, where)
    field = "refusal" if part["type"] == "refusal" else "text"
    if part["type"] == "refusal" or part["type"].endswith("_text"):
        return _bad_field(part, field, *_TEXT, where)
    return None


def _bad_field(
    item: Mapping[str, Any], field: str, types: tuple[type, ...], words: str, where: str
) -> TurnError | None:
    where, value = f"{where}.{field}", item.get(field)
    if field not in item:
        return _refused(f"Missing required parameter: '{where}'.", where, "missing_required_parameter")
    if not isinstance(value, types):
        got = next((word for kind, word in _WORDS.items() if isinstance(value, kind)), "null")
        return _refused(
            f"Invalid type for '{where}': expected {words}, but got {got} instead.", where, "invalid_type"
        )
    if field not in _LONGEST or not isinstance(value, str):
        return None
    if not value:
        return _refused(
            f"Invalid '{where}': empty string. Expected a string with minimum length 1, "
            "but got an empty string instead.",
            where,
            "empty_string",
        )
    if len(value) > _LONGEST[field]:
        return _refused(
            f"Invalid '{where}': string too long. Expected a string with maximum length {_LONGEST[field]}, "
            f"but got a string with length {len(value)} instead.",
            where,
            "string_above_max_length",
        )
    if field == "name" and not _NAME.fullmatch(value):
        return _refused(
            f"Invalid '{where}': string does not match pattern. Expected a string that matches the pattern "
            f"'^[a-zA-Z0-9_-]+$'.",
            where,
            "invalid_value",
        )
    return None


def _unsupported(value: object, supported: Sequence[str], where: str) -> TurnError:
    names = ", ".join(f"'{name}'" for name in supported[:-1]) + "," * (len(supported) > 2)
    return _refused(
        f"Invalid value: '{value}'. Supported values are: {names} and '{supported[-1]}'.",
        where,
        "invalid_value",
    )


def _refused(message: str, param: str = "input", code: str | None = None, status: int = 400) -> TurnError:
    return invalid_request(message, param=param, code=code, status=status)
