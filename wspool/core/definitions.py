"""Definitions: what a request says of the tools that its model may call, compared with what can be called.

A function that the model was told nothing of is never called, and a definition without a function is a call
that can only fail: both are mistakes of the caller, and only the model would see them. Tools that the server
runs itself need nothing here.

Source of the shapes: `FunctionTool`, `CustomTool`, `NamespaceTool`, `ToolSearchTool` of openai-python 3.57.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final, cast

from wspool.core.encoding import Encoded, read
from wspool.core.items import Item

__all__ = ["async_tools", "check_definitions", "defined", "has_definitions", "names_of"]

#: Tools that the client runs.
_OURS: Final = frozenset({"function", "custom"})


def defined(fields: Mapping[str, Encoded]) -> list[Item] | None:
    """Return the field `tools` of a request; None if it has none."""
    tools: Any = read(fields["tools"]) if "tools" in fields else None
    if not isinstance(tools, list):
        return None
    return [cast("Item", tool) for tool in cast("list[object]", tools) if isinstance(tool, dict)]


def has_definitions(fields: Mapping[str, Encoded]) -> bool:
    """Return whether a request says itself what can be called, or names a stored prompt that does."""
    return defined(fields) is not None or fields.get("prompt", b"null") != b"null"


def names_of(name: object, namespace: object) -> list[str]:
    """Return under which names a tool may be given, the most exact first."""
    return [f"{namespace}.{name}", f"{name}"] if isinstance(namespace, str) and namespace else [f"{name}"]


def async_tools(fields: Mapping[str, Encoded]) -> frozenset[str]:
    """Return the names of the tools for whose output the model does not wait."""
    return frozenset(
        name
        for tool, namespace in _ours(defined(fields) or ())
        if tool.get("async") is True
        for name in names_of(tool.get("name"), namespace)
    )


def check_definitions(fields: Mapping[str, Encoded], functions: Collection[str]) -> None:
    """Check that what is defined and what can be called are the same, where the request defines anything.

    Raises:
        ValueError: they are not; the text names what is missing.
    """
    tools = defined(fields)
    if tools is None:
        return
    known: set[str] = set()
    for tool, namespace in _ours(tools):
        names = names_of(tool.get("name"), namespace)
        known.update(names)
        if not any(name in functions for name in names):
            raise ValueError(
                f"tools= of run has no function for {names[0]!r:.60}, which the request defines; "
                "give one, or do without its definition"
            )
    if any(tool.get("type") == "tool_search" for tool in tools):
        return  # what it finds is defined later
    for name in functions:
        if name not in known:
            raise ValueError(
                f"the request has no definition of {name!r:.60}, so that the model cannot call it: "
                "put one into tools= of the conversation, or give wspool.tool(function), which has its own"
            )


def _ours(tools: Collection[Item]) -> Iterator[tuple[Item, object]]:
    """The definitions of what the client runs, each with its namespace."""
    for tool in tools:
        if _is_ours(tool):
            yield tool, None
        elif tool.get("type") == "namespace" and isinstance(tool.get("tools"), list):
            for inner in cast("list[object]", tool["tools"]):
                if isinstance(inner, dict) and _is_ours(cast("Item", inner)):
                    yield cast("Item", inner), tool.get("name")


def _is_ours(tool: Item) -> bool:
    kind = tool.get("type")
    return isinstance(kind, str) and kind in _OURS
