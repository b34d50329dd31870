"""Sendable: what of a history can be sent again, and in which form.

What servers say and what they take are two things: reasoning without its content or its follower, calls
without a name, ids that are there twice, arguments that are an object. As long as the server holds the
history nobody asks; at the next full send a strict one refuses it, and the next after that. Rules of this
module:

* The history is kept as it came. What is changed is changed in the request alone.
* What can be sent as it is, is: byte for byte. What cannot is made so, with as little as will do. Only
  reasoning that no server takes and outputs whose calls are gone are left out.
* Reasoning without its content is of use only where the server has stored it. Reasoning comes right before
  what the model made of it, or not at all. Its followers lose nothing.
* A call that the conversation has gone on without is given an output that says so. Those of the last response
  are the caller's to answer.
* Whatever is changed or left out is named, so that it can be said.
* Each item is looked into once. What is new in a request is the caller's: it is given a fitting form, but
  nothing of it is left out; if it cannot be taken the server says why.

Source of the bounds and shapes: the input items of openai-python 3.57, and the refusals of api.openai.com
(`wspool.server.protocol.history` has them all).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import attrs

from wspool.core.encoding import Encoded, read
from wspool.core.frames import encode_received
from wspool.core.items import OUTPUTS, Item

__all__ = ["LOSSY", "NO_OUTPUT", "Sendable", "answers_long_id", "without_lost_reasoning"]

_CALLS: Final = {answer: call for call, answer in OUTPUTS.items()}
_ANSWERS: Final = frozenset(_CALLS)
_SEARCH: Final = frozenset({"tool_search_call", "tool_search_output"})
#: Items that are no message and no output, and not the model's either.
_NOT_MADE: Final = frozenset(
    {"mcp_approval_response", "program_output", "additional_tools", "item_reference"}
)
#: Items that are nothing without an id: a second of the same name gets another one.
_NEED_ID: Final = frozenset(
    {
        "code_interpreter_call",
        "file_search_call",
        "image_generation_call",
        "local_shell_call",
        "mcp_call",
        "mcp_list_tools",
        "program",
        "program_output",
        "web_search_call",
    }
)
_SAID: Final = frozenset({"output_text", "refusal"})
_TEXTS: Final = {"output_text": "text", "input_text": "text", "refusal": "refusal"}

#: Characters of a call's id, and of a name.
_LONGEST_ID: Final = 64
_LONGEST_NAME: Final = 128
_NO_NAME: Final = re.compile(r"[^a-zA-Z0-9_-]")

# What is said of what was changed.
LOSSY: Final = "numbers and characters that JSON does not have became null and U+FFFD"
DANGLING: Final = "reasoning that nothing follows was left out"
BARE: Final = (
    "reasoning without its encrypted content was left out; ask for it with `include`, or store responses"
)
ORPHAN: Final = "outputs whose calls are not in the history were left out"
DOUBLE: Final = "ids that were there twice were left out or renamed"
CALLS: Final = "names, ids or arguments of calls that no server takes were changed"
SHAPES: Final = "items of a shape that no server takes were changed"
UNANSWERED: Final = "calls that the conversation went on without were given an output that says so"

#: What is said of a call that was never answered, and the fields in which it is said. There is no picture of
#: what was not done: a `computer_call` is not in it.
NO_OUTPUT: Final = "aborted: no output was given"
_CLOSING: Final[dict[str, dict[str, Any]]] = {
    "function_call": {"output": NO_OUTPUT},
    "custom_tool_call": {"output": NO_OUTPUT},
    "local_shell_call": {"output": NO_OUTPUT},
    "shell_call": {
        "output": [{"stdout": "", "stderr": NO_OUTPUT, "outcome": {"type": "exit", "exit_code": 1}}]
    },
    "apply_patch_call": {"status": "failed", "output": NO_OUTPUT},
    "tool_search_call": {"execution": "client", "status": "completed", "tools": []},
}


@attrs.frozen
class _Look:
    """What is known of one item.

    Attributes:
        item: it, in a form that can be sent by itself.
        kind: its type.
        id: its id, if it has one.
        call: the id of the call that it is or answers, or an empty text.
        made: whether the model made it.
        owed: whether it is a call that must be answered.
        bare: whether it is reasoning without content.
        note: what was changed.
    """

    item: Encoded
    kind: str
    id: str | None
    call: str
    made: bool
    owed: bool
    bare: bool
    note: str


class Sendable:
    """The form in which one history can be sent; looks at each item once.

    Attributes:
        notes: what was changed or left out so far.
    """

    __slots__ = ("_items", "_looks", "notes")

    def __init__(self) -> None:
        self.notes: set[str] = set()
        self._items: list[Encoded] = []
        self._looks: list[_Look] = []

    def copy(self) -> Sendable:
        """Return another one that knows the same."""
        other = Sendable()
        other._items, other._looks = list(self._items), list(self._looks)
        other.notes = set(self.notes)
        return other

    def of(
        self,
        history: Sequence[Encoded],
        new: Sequence[Encoded],
        stored: Sequence[bool],
        *,
        rooted: bool = False,
    ) -> list[Encoded]:
        """Return the input of a request that sends *history* and *new*.

        Args:
            history: the items so far.
            new: the caller's.
            stored: for each item of *history* whether the server can be relied on to have it.
            rooted: True if there is more before *history* that the server alone knows.
        """
        self._look(history)
        looks = [*self._looks, *map(_look, new)]
        kept = _with_followers(looks, len(history), stored, self.notes)
        return _consistent(looks, kept, len(history), self.notes, rooted=rooted)

    def _look(self, history: Sequence[Encoded]) -> None:
        same = len(self._items)
        for index, (known, item) in enumerate(zip(self._items, history, strict=False)):
            if known is not item:
                same = index
                break
        same = min(same, len(history))
        self._looks[same:] = map(_look, history[same:])
        self._items = list(history)


def _with_followers(
    looks: Sequence[_Look], fixed: int, stored: Sequence[bool], notes: set[str]
) -> list[bool]:
    """Return for each item whether it is kept, as far as reasoning is concerned."""
    kept = [True] * len(looks)
    followed = False
    for index in range(len(looks) - 1, -1, -1):
        look = looks[index]
        if look.kind != "reasoning":
            followed = look.made
        elif index < fixed and look.bare and not stored[index]:
            kept[index] = False
            notes.add(BARE)
        elif index < fixed and not followed:
            kept[index] = False
            notes.add(DANGLING)
    return kept


def _consistent(
    looks: Sequence[_Look], kept: Sequence[bool], fixed: int, notes: set[str], *, rooted: bool
) -> list[Encoded]:
    """Return what is kept, with ids that are unique and calls that can be told apart."""
    items: list[Encoded] = []
    seen: set[str] = set()
    calls: set[str] = set()
    # Calls that came without an id, and in which response, by the kind of the output that they wait for.
    nameless: dict[str, list[tuple[int, deque[str]]]] = {}
    numbers: dict[str, int] = {}  # of each id that came more than once: the last that was tried
    response = 0
    unanswered: dict[tuple[str, str], int] = {}  # the places of those that are passed over
    passed = _passed(looks[:fixed])
    for index, look in enumerate(looks):
        if not kept[index]:
            continue
        changes: dict[str, Any] = {}
        response += not look.made
        if look.kind == "compaction":
            rooted = True
        elif look.kind in OUTPUTS or look.kind in _ANSWERS:
            call = look.call and _short(look.call)
            if look.kind in OUTPUTS:
                if not call:
                    call = _short(look.id) if look.id else f"call_{index}"
                    line = nameless.setdefault(OUTPUTS[look.kind], [])
                    if not line or line[-1][0] != response:
                        line.append((response, deque()))
                    line[-1][1].append(call)
                calls.add(call)
                if look.owed and index < passed:
                    unanswered[look.kind, call] = len(items)
            else:
                if not call and (waiting := nameless.get(look.kind)):
                    call = _next_of_last_response(waiting)
                if index < fixed and not rooted and call not in calls:
                    notes.add(ORPHAN)
                    continue
                unanswered.pop((_CALLS[look.kind], call), None)
            if call != look.call:
                changes["call_id"] = call
                notes.add(CALLS)
        if look.id is not None:
            name = _unique(look.id, look.kind, seen, numbers)
            if name != look.id:
                changes["id"] = name
                notes.add(DOUBLE)
            if name is not None:
                seen.add(name)
        if look.note:
            notes.add(look.note)
        items.append(_changed(look.item, changes) if changes else look.item)
    if not unanswered:
        return items
    notes.add(UNANSWERED)
    missing = {place: key for key, place in unanswered.items()}
    closed: list[Encoded] = []
    for place, item in enumerate(items):
        closed.append(item)
        if place in missing:
            kind, call = missing[place]
            answer = {"type": OUTPUTS[kind], "call_id": call, **_CLOSING[kind]}
            closed.append(Encoded(encode_received(answer)))
    return closed


def _next_of_last_response(line: list[tuple[int, deque[str]]]) -> str:
    """Take the first of *line* that is of the last response which has one there, and return it."""
    calls = line[-1][1]
    first = calls.popleft()
    if not calls:
        line.pop()
    return first


def _passed(history: Sequence[_Look]) -> int:
    """Return where the last response of *history* begins: what is before it somebody has gone on after."""
    index = len(history)
    while index and history[index - 1].made:
        index -= 1
    return index


def _unique(name: str, kind: str, seen: set[str], numbers: dict[str, int]) -> str | None:
    """Return an id for an item that nothing before it has; None for none."""
    if name not in seen or kind == "item_reference":
        return name
    if kind not in _NEED_ID:
        return None
    # Not from the first again: a server may send one id any number of times.
    number = numbers.get(name, 1) + 1
    while (unique := f"{name}_{number}") in seen:
        number += 1
    numbers[name] = number
    return unique


def _changed(item: Encoded, changes: Mapping[str, Any]) -> Encoded:
    value = {**read(item), **changes}
    return Encoded(encode_received({name: each for name, each in value.items() if name != "id" or each}))


def _short(call: str) -> str:
    """Return an id for a call that every server takes: the same for its output."""
    if len(call) <= _LONGEST_ID:
        return call
    return "call_" + hashlib.sha256(call.encode(errors="surrogatepass")).hexdigest()[:48]


def answers_long_id(items: Sequence[Encoded]) -> bool:
    """Return whether one of *items* answers a call whose id is longer than those of the API."""
    return any(len(_look(item).call) > _LONGEST_ID for item in items if len(item) > _LONGEST_ID)


def without_lost_reasoning(before: Sequence[Item], items: Sequence[Mapping[str, Any]]) -> list[Item]:
    """Return *items*, an edited form of *before*, without the ids of what has lost its reasoning.

    A server that has stored it knows by the id that there was reasoning, and wants it back.
    """
    reasons: dict[str, str] = {}
    reason: str | None = None
    for item in before:
        name = item.get("id")
        if item.get("type") == "reasoning":
            reason = name if isinstance(name, str) else None
        elif item.get("type") in _ANSWERS or item.get("role", "assistant") != "assistant":
            reason = None
        elif reason is not None and isinstance(name, str) and item.get("type") not in _NEED_ID:
            reasons[name] = reason
    there = {item.get("id") for item in items if item.get("type") == "reasoning"}
    return [
        {name: value for name, value in item.items() if name != "id"}
        if (reasons.get(str(item.get("id"))) or None) not in (None, *there)
        else dict(item)
        for item in items
    ]


def _look(item: Encoded) -> _Look:
    """Look into one item."""
    value = cast("object", read(item))
    if not isinstance(value, dict):  # written by whoever made the snapshot
        return _Look(item, "", None, "", made=False, owed=False, bare=False, note="")
    given = cast("Item", value)
    kind = given.get("type")
    if kind is None and "role" in given:
        kind = "message"
    kind = kind if isinstance(kind, str) else ""
    if kind in _SEARCH and given.get("execution") != "client":
        kind = "hosted"  # both are the server's, and need no ids
    changes = _mended(kind, given)
    if changes:
        item = Encoded(encode_received({**given, **changes}))
    name, call = given.get("id"), given.get("call_id")
    made = kind not in _ANSWERS and kind not in _NOT_MADE
    if kind == "message":
        made = {**given, **changes}.get("role") == "assistant"
    return _Look(
        item=item,
        kind=kind,
        id=name if isinstance(name, str) and name else None,
        call=call if isinstance(call, str) else "",
        made=made,
        owed=kind in _CLOSING and _is_owed(given),
        bare=kind == "reasoning" and not (given.get("encrypted_content") or given.get("content")),
        note="" if not changes else CALLS if kind in OUTPUTS else SHAPES,
    )


def _is_owed(call: Item) -> bool:
    """Whether a *call* must be answered before the model goes on."""
    environment = cast("object", call.get("environment"))
    elsewhere = (
        isinstance(environment, dict) and cast("Item", environment).get("type") == "container_reference"
    )
    return not (elsewhere or call.get("async") is True)


def _mended(kind: str, item: Item) -> Item:
    """Return what of an item has to be different to be taken, by name."""
    if kind == "message":
        return _mended_message(item)
    changes: Item = {}
    if kind in ("function_call", "custom_tool_call"):
        name = item.get("name")
        fit = _NO_NAME.sub("_", name)[:_LONGEST_NAME] if isinstance(name, str) else ""
        if fit != name or not fit:
            changes["name"] = fit or "unnamed"
        field, nothing = ("arguments", "{}") if kind == "function_call" else ("input", "")
        given = item.get(field)
        if not isinstance(given, str):
            changes[field] = nothing if given is None else _text(given)
    elif kind in ("function_call_output", "custom_tool_call_output"):
        output: object = item.get("output")
        parts = cast("list[object]", output) if isinstance(output, list) else []
        if not isinstance(output, (str, list)) or not all(isinstance(part, dict) for part in parts):
            changes["output"] = "" if output is None else _text(item["output"])
    elif kind == "reasoning" and not isinstance(item.get("summary"), list):
        summary = item.get("summary")
        changes["summary"] = [{"type": "summary_text", "text": summary}] if isinstance(summary, str) else []
    return changes


def _mended_message(item: Item) -> Item:
    changes: Item = {}
    if item.get("role") not in ("user", "system", "developer", "assistant"):
        changes["role"] = "assistant"
    content = item.get("content")
    if isinstance(content, list):
        said = item.get("role") == "assistant" or "role" in changes
        parts = [_mended_part(part, said=said) for part in cast("list[object]", content)]
        parts = [part for part in parts if part is not None]
        if parts != content:
            changes["content"] = parts
    elif not isinstance(content, str):
        changes["content"] = []
    return changes


def _mended_part(part: object, *, said: bool) -> object:
    """Return a part of a message as it can be taken; None for nothing that says something."""
    if isinstance(part, str):
        return {"type": "output_text" if said else "input_text", "text": part}
    if not isinstance(part, dict):
        return None
    given = cast("Item", part)
    kind = given.get("type")
    if said and kind not in _SAID and (kind in ("input_text", "text") or isinstance(given.get("text"), str)):
        kind = "output_text"
        given = {**given, "type": kind}
    if isinstance(kind, str) and kind in _TEXTS and not isinstance(given.get(_TEXTS[kind]), str):
        text = given.get(_TEXTS[kind])
        given = {**given, _TEXTS[kind]: "" if text is None else _text(text)}
    return given


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
