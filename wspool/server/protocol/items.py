"""Input items, spelt out: as a model sees them, and as the API gives them back."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from wspool.server.models import Item, TurnError, is_array, is_object
from wspool.server.protocol.fields import invalid_request

__all__ = ["as_resource", "in_full", "marked", "resolved"]

# What a part is filled up with when the API gives it back. Source: the content types of openai-python 3.57.
_PARTS: Final[dict[str, Item]] = {
    "input_image": {"image_url": None, "detail": "auto"},
    "output_text": {"annotations": [], "logprobs": []},
}

# What begins the id of an item; `item` for all others.
_PREFIXES: Final = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "reasoning": "rs",
    "compaction": "cmp",
}


def in_full(item: Item) -> Item:
    """*item* with its `type`, and with a text that is its whole content as the part that it stands for.

    What is in full already is returned as it is; nothing is changed in place.
    """
    content, kind, role = item.get("content"), item.get("type"), item.get("role")
    if kind is None and role is not None:
        item = {"type": "message", **{key: value for key, value in item.items() if key != "type"}}
    if isinstance(content, str) and role is not None:
        part = "output_text" if role == "assistant" else "input_text"
        item = item | {"content": [{"type": part, "text": content}]}
    return item


def resolved(items: Sequence[Item], find: Callable[[str], Item | None]) -> list[Item] | TurnError:
    """*items* with what they refer to in the place of each reference; or the refusal of one to nothing.

    Args:
      find: the item with an id, or None.
    """
    found: list[Item] = []
    for item in items:
        if item.get("type") != "item_reference" or not isinstance(name := item.get("id"), str):
            found.append(item)
        elif (referred := find(name)) is not None:
            found.append(referred)
        else:
            return invalid_request(f"Item with id '{name}' not found.", param="input", status=404)
    return found


def marked(output: Sequence[Item], tools: Sequence[Item]) -> Sequence[Item]:
    """*output* with each call of a tool that is offered as asynchronous marked as such: the conversation goes
    on before the call has its output. Source: `async` of tools and calls in openai-python 3.57.
    """
    late = {(tool.get("type"), tool.get("name")) for tool in tools if tool.get("async") is True}
    if not late:
        return output
    kinds = {"function_call": "function", "custom_tool_call": "custom"}
    return [
        {"async": True, **item} if (kinds.get(str(item.get("type"))), item.get("name")) in late else item
        for item in output
    ]


def as_resource(item: Item, number: str) -> Item:
    """*item* as the API gives it back: in full, with an id, and a status if its type has one.

    Args:
      number: makes the id of an item that has none.
    """
    item = in_full(item)
    kind = str(item.get("type"))
    head: Item = {"id": item.get("id") or f"{_PREFIXES.get(kind, 'item')}_{number}", "type": kind}
    if kind == "message" or kind.endswith(("_call", "_output")):
        head["status"] = item.get("status") or "completed"
    if is_array(content := item.get("content")):
        head["content"] = [_part(part) for part in content]
    return head | {key: value for key, value in item.items() if key not in head}


def _part(part: Any) -> Any:
    return _PARTS.get(str(part.get("type")), {}) | part if is_object(part) else part
