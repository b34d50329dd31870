"""Calling: how one tool is called, and what may be said about it.

An async function runs in the task that calls it, any other in a thread: as many at a time as trio has threads
by default, but none of those. There names are looked up as well: no dial must wait for the slowest tool.
Which calls are made when, and what becomes of them, is in `wspool.pool.tools`.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias, TypeVar, get_args

import trio
from trio.lowlevel import disable_ki_protection

from wspool.core.calls import arguments_of
from wspool.core.definitions import names_of
from wspool.core.items import Item
from wspool.core.plain import plain
from wspool.pool.toolbox import DefinedTool, Tool

__all__ = ["ToolErrors", "bound", "check_tool_errors", "in_tool_thread", "is_repeatable"]

_T = TypeVar("_T")

#: What becomes of a tool's exception: told to the model, or raised to the caller.
ToolErrors: TypeAlias = Literal["return", "raise"]

#: Names of tools that a sentence lists, in characters of all of them.
_LISTED: Final = 400

#: The threads of a trio run in which functions of the user's run.
_threads: Final = trio.lowlevel.RunVar[trio.CapacityLimiter]("wspool tools")


def check_tool_errors(tool_errors: object) -> None:
    """Check one argument of `Conversation.run`.

    Raises:
        ValueError: it is not usable; the text says what to write.
    """
    if tool_errors not in get_args(ToolErrors):
        raise ValueError(f"tool_errors={tool_errors!r:.60} must be 'return' or 'raise'")


def bound(call: Item, tools: Mapping[str, Tool]) -> tuple[str, Callable[[], Awaitable[object]]]:
    """Return the name of the tool that *call* asks for, and what makes the call.

    Raises:
        Exception: there is no such tool, or it does not take these arguments.
    """
    names = names_of(call.get("name"), call.get("namespace"))
    name = next((name for name in names if name in tools), None)
    if name is None:
        there = plain(", ".join(sorted(tools)), _LISTED) or "none"
        raise LookupError(f"there is no tool {plain(repr(names[0]))}; there are {there}")
    tool = tools[name]
    args: tuple[object, ...] = ()
    keywords: dict[str, Any] = {}
    if call["type"] == "custom_tool_call":
        args = (str(call.get("input", "")),)
    else:
        keywords = arguments_of(call)
        if isinstance(tool, DefinedTool):
            keywords = tool.read(keywords)
    if isinstance(tool, DefinedTool):
        tool = tool.function
    return name, lambda: _called(tool, args, keywords)


def is_repeatable(call: Item, tools: Mapping[str, Tool]) -> bool:
    """Return whether *call* may be made again that was begun: its tool is declared to be repeatable."""
    names = names_of(call.get("name"), call.get("namespace"))
    tool = next((tools[name] for name in names if name in tools), None)
    return isinstance(tool, DefinedTool) and tool.repeatable


@disable_ki_protection  # an interrupt may come where the tool's own frames are
async def _called(tool: Tool, args: Sequence[object], keywords: Mapping[str, Any]) -> object:
    if inspect.iscoroutinefunction(tool) or inspect.iscoroutinefunction(type(tool).__call__):
        result: object = await tool(*args, **keywords)
        return result
    # In a tuple, since trio takes a coroutine as the result of a thread for a mistake.
    (result,) = await in_tool_thread(lambda: (tool(*args, **keywords),))
    if inspect.isawaitable(result):  # a plain function that made a coroutine
        result = await result
    return result


async def in_tool_thread(function: Callable[[], _T], *, abandon_on_cancel: bool = False) -> _T:
    """Return what *function*, of the user's, returns in a thread. As `trio.to_thread.run_sync` it waits."""
    most = trio.to_thread.current_default_thread_limiter().total_tokens
    try:
        limiter = _threads.get()
    except LookupError:
        _threads.set(limiter := trio.CapacityLimiter(most))
    limiter.total_tokens = most  # whoever wants more has told trio
    return await trio.to_thread.run_sync(function, limiter=limiter, abandon_on_cancel=abandon_on_cancel)
