"""Calling the tools that a response asks for: all at once, results in call order.

A tool's exception becomes that call's output unless asked otherwise: the model can often go
on, and one bad call must not cost the other calls of the turn.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias, cast, get_args

import trio

from wspool.core.frames import encode
from wspool.core.sending.chain import Item

__all__ = ["Tool", "ToolErrors", "call_tools", "check_tools", "open_calls", "tool_calls"]

#: A tool: called with the arguments of the call as keywords (a custom tool: with its input).
#: An async one runs in the caller's task tree, any other in a thread.
Tool: TypeAlias = Callable[..., Any]
#: What becomes of a tool's exception: told to the model, or raised to the caller.
ToolErrors: TypeAlias = Literal["return", "raise"]

#: Items that call a tool of the client, and the items that answer them.
_ANSWERS: Final = {
    "function_call": "function_call_output",
    "custom_tool_call": "custom_tool_call_output",
}


def tool_calls(output: Sequence[Item]) -> list[Item]:
    """Return the items of *output* that call a tool of the client."""
    return [item for item in output if _is_one(item, _ANSWERS)]


def open_calls(items: Sequence[Item]) -> list[Item]:
    """Return the calls in a history that nothing answers, such as its last turn's."""
    answered = {str(item.get("call_id")) for item in items if _is_one(item, _ANSWERS.values())}
    return [call for call in tool_calls(items) if str(call.get("call_id")) not in answered]


def _is_one(item: object, kinds: Collection[str]) -> bool:
    """Return whether *item* is of one of *kinds*, whatever it is: a server or a file may hold anything."""
    kind = cast("Item", item).get("type") if isinstance(item, dict) else None
    return isinstance(kind, str) and kind in kinds


def check_tools(tools: object, tool_errors: object) -> None:
    """Check what `Conversation.run` is given.

    Raises:
        TypeError, ValueError: it is not usable; the text says what to write.
    """
    if not isinstance(tools, Mapping):
        raise TypeError(f"tools= takes what to call by tool name, {{'name': function}}, not {tools!r:.60}")
    for name, tool in cast("Mapping[object, object]", tools).items():
        if not isinstance(name, str):
            raise TypeError(
                f"tools= takes what to call by tool name, {{'name': function}}; {name!r:.60} is no name"
            )
        if not callable(tool):
            raise TypeError(
                f"tools= takes functions; that of {name!r} is {tool!r:.60} (definitions go in the body)"
            )
    if tool_errors not in get_args(ToolErrors):
        raise ValueError(f"tool_errors={tool_errors!r:.60} must be 'return' or 'raise'")


async def call_tools(calls: Sequence[Item], tools: Mapping[str, Tool], tool_errors: ToolErrors) -> list[Item]:
    """Call every tool of *calls* at the same time; return the answering items in call order.

    A checkpoint. Cancelling cancels the async tools and waits for the threads of the others.

    Raises:
        Exception: what a tool raised, with `tool_errors="raise"`.
    """
    answers: list[Item] = [{} for _ in calls]

    async def answer(index: int, call: Item) -> None:
        try:
            output = await _call(call, tools)
        except Exception as error:
            if tool_errors == "raise":
                raise
            output = f"Error: {type(error).__name__}: {error}"
        kind = _ANSWERS[str(call["type"])]
        answers[index] = {"type": kind, "call_id": call.get("call_id"), "output": output}

    if len(calls) == 1:  # the common case needs no tasks, and its exception no group
        await answer(0, calls[0])
        return answers
    try:
        async with trio.open_nursery() as nursery:
            for index, call in enumerate(calls):
                nursery.start_soon(answer, index, call)
    except BaseExceptionGroup as group:
        # One tool that fails is one exception, however many ran beside it.
        if len(group.exceptions) == 1 and isinstance(group.exceptions[0], Exception):
            raise group.exceptions[0] from None  # noqa: ASYNC123 # its context is the tool's own
        raise
    return answers


async def _call(call: Item, tools: Mapping[str, Tool]) -> str:
    name = str(call.get("name"))
    if name not in tools:
        raise LookupError(f"there is no tool {name!r}; there are {', '.join(sorted(tools)) or 'none'}")
    tool = tools[name]
    if call["type"] == "custom_tool_call":
        args: tuple[object, ...] = (str(call.get("input", "")),)
        keywords: dict[str, Any] = {}
    else:
        args = ()
        try:
            arguments: Any = json.loads(str(call.get("arguments") or "{}"))
        except RecursionError:
            raise ValueError(f"the arguments of {name!r} are nested too deep") from None
        if not isinstance(arguments, dict):
            raise TypeError(f"the arguments of {name!r} are not a JSON object")
        keywords = cast("dict[str, Any]", arguments)
    if inspect.iscoroutinefunction(tool) or inspect.iscoroutinefunction(type(tool).__call__):
        result: object = await tool(*args, **keywords)
    else:
        # In a tuple, since trio takes a coroutine as the result of a thread for a mistake.
        (result,) = await trio.to_thread.run_sync(lambda: (tool(*args, **keywords),))
        if inspect.isawaitable(result):  # a plain function that made a coroutine
            result = await result
    if isinstance(result, str):
        return result
    try:
        return json.dumps(result, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return encode(result, f"the result of {name!r}").decode()  # or it says where it is no JSON
