"""Hosts that send a history again: histories, and all that hosts do to them on the way."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

Item = dict[str, Any]

texts = st.text('ab é"\\\n0', max_size=6)
numbers = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False, width=32)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)


def message(role: str, *said: str) -> Item:
    """A message of so many text parts."""
    kind = "output_text" if role == "assistant" else "input_text"
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text} for text in said]}


@st.composite
def outputs(draw: st.DrawFn, number: int) -> list[Item]:
    """What the server answers in its turn *number*: perhaps reasoning and words, and calls or words."""
    items: list[Item] = []
    if draw(st.booleans()):
        items.append({"type": "reasoning", "summary": [], "encrypted_content": f"gAAA{number}"})
    if draw(st.booleans()):
        items.append({**message("assistant", draw(texts)), "phase": "commentary"})
    for place in range(draw(st.integers(0, 2))):
        arguments = json.dumps(
            draw(st.dictionaries(texts, values, max_size=3)), indent=draw(st.sampled_from([None, 1]))
        )
        arguments = draw(st.sampled_from([arguments, arguments, "no {json"]))
        call = f"call_{number}_{place}"
        items.append(
            {
                "type": "function_call",
                "call_id": call,
                "name": draw(st.sampled_from("fg")),
                "arguments": arguments,
            }
        )
    if not items or items[-1]["type"] == "reasoning":
        items.append(message("assistant", draw(texts)))
    return [
        {"id": f"item_{number}_{place}", "status": "completed", **item} for place, item in enumerate(items)
    ]


@st.composite
def inputs(draw: st.DrawFn, output: Sequence[Item]) -> list[Item]:
    """What a host says next: the outputs of all calls, and perhaps something of its user."""
    items: list[Item] = [
        {"type": "function_call_output", "call_id": item["call_id"], "output": draw(texts)}
        for item in output
        if item["type"] == "function_call"
    ]
    if not items or draw(st.booleans()):
        items.append(
            message(
                draw(st.sampled_from(["user", "developer"])), *draw(st.lists(texts, min_size=1, max_size=2))
            )
        )
    return items


@st.composite
def conversations(draw: st.DrawFn) -> list[tuple[list[Item], list[Item]]]:
    """The turns of a conversation: what is new, and what is answered."""
    turns: list[tuple[list[Item], list[Item]]] = []
    output: list[Item] = []
    for number in range(draw(st.integers(2, 5))):
        new = draw(inputs(output))
        output = draw(outputs(number))
        turns.append((new, output))
    return turns


def _shuffled(draw: st.DrawFn, item: Item) -> Item:
    return dict(draw(st.permutations(list(item.items()))))


def _without_asides(draw: st.DrawFn, item: Item) -> Item:
    """`id`, `status`, `phase`, `parsed_arguments` go or come; reasoning keeps one name of the two."""
    kept = {
        name: value for name, value in item.items() if name not in ("status", "phase") or draw(st.booleans())
    }
    if item["type"] == "reasoning":
        lost = draw(st.sampled_from(["id", "encrypted_content", "neither"]))
        kept.pop(lost, None)
        kept["summary"] = draw(st.sampled_from([[], [{"type": "summary_text", "text": "hm"}]]))
    elif draw(st.booleans()):
        kept.pop("id", None)
    elif draw(st.booleans()):
        kept["id"] = draw(st.sampled_from(["mine_1", "mine_2"]))
    if item["type"] == "function_call" and draw(st.booleans()):
        kept["parsed_arguments"] = {"any": "thing"}
    return kept


def _with_decoration(draw: st.DrawFn, item: Item) -> Item:
    """`annotations`, `logprobs`, `parsed` of parts; null and `[]` anywhere."""
    item = {
        **item,
        **draw(st.dictionaries(st.sampled_from(["caller", "namespace", "x"]), st.sampled_from([None, []]))),
    }
    if isinstance(item.get("content"), list):
        decoration = st.dictionaries(
            st.sampled_from(["annotations", "logprobs", "parsed"]),
            st.sampled_from([None, [], [{"a": 1}], {"b": 2}]),
        )
        item["content"] = [{**part, **draw(decoration)} for part in item["content"]]
    return item


def _integral(value: Any, draw: st.DrawFn) -> Any:
    """Some integers as floats, as far as floats reach."""
    if isinstance(value, dict):
        return {name: _integral(each, draw) for name, each in value.items()}
    if isinstance(value, list):
        return [_integral(each, draw) for each in value]
    if (
        isinstance(value, int)
        and not isinstance(value, bool)
        and float(value) == value
        and draw(st.booleans())
    ):
        return float(value)
    if isinstance(value, float) and value.is_integer() and draw(st.booleans()):
        return int(value)
    return value


def _with_own_json(draw: st.DrawFn, item: Item) -> Item:
    """Arguments that were parsed and written anew."""
    if item["type"] != "function_call" or item["arguments"] == "no {json":
        return item
    value = _integral(json.loads(item["arguments"]), draw)
    value = dict(draw(st.permutations(list(value.items()))))
    spacing = draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", " : ")]))
    return {**item, "arguments": json.dumps(value, separators=spacing, ensure_ascii=draw(st.booleans()))}


def _in_another_form(draw: st.DrawFn, item: Item) -> Item:
    """A message of one text as that text; an output that is a text as one part."""
    item = dict(item)
    content = item.get("content")
    if isinstance(content, list) and len(content) == 1 and draw(st.booleans()):
        item["content"] = content[0]["text"]
        if draw(st.booleans()):
            del item["type"]
    if isinstance(item.get("output"), str) and draw(st.booleans()):
        item["output"] = [{"type": "input_text", "text": item["output"]}]
    return item


REWRITES: list[Callable[[st.DrawFn, Item], Item]] = [
    _with_own_json,
    _with_decoration,
    _without_asides,
    _in_another_form,
    _shuffled,
]


@st.composite
def resent(draw: st.DrawFn, items: Sequence[Item], *, said: frozenset[str] = frozenset()) -> list[Item] | str:
    """The same history as a host sends it again, by any composition of what hosts do.

    *said*: ids of items that the server made and that may be referred to.
    """
    result: list[Item] = []
    for item in items:
        if item.get("id") in said and draw(st.integers(0, 3)) == 0:
            reference = {"type": "item_reference", "id": item["id"]}
            result.append(draw(st.sampled_from([reference, {"id": item["id"]}, {**reference, "type": None}])))
            continue
        for rewrite in REWRITES:
            if draw(st.booleans()):
                item = rewrite(draw, item)
        result.append(item)
    if (
        len(items) == 1
        and items[0] == message("user", *[part["text"] for part in items[0]["content"]][:1])
        and draw(st.booleans())
    ):
        return str(items[0]["content"][0]["text"])
    return result
