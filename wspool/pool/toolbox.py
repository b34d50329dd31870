"""Toolbox: what a tool loop can call, and what its requests say of it.

Functions come by name, or by themselves with a definition made from their signature and docstring. What is
defined and what can be called must be the same: see `wspool.core.definitions`. It is looked at once, at the
call, before anything is sent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias, cast, overload

import attrs

from wspool.core.definitions import check_definitions, defined, has_definitions
from wspool.core.encoding import Encoded
from wspool.core.frames import encode
from wspool.core.sending.chain import Fields
from wspool.pool.schemas import documented, parameters_of

__all__ = ["DefinedTool", "Tool", "ToolError", "Toolbox", "adapt_tools", "tool"]

#: A tool: called with the arguments of the call as keywords (a custom tool: with its input).
#: An async one runs in the caller's task tree, any other in a thread.
Tool: TypeAlias = Callable[..., Any]

#: What a function may be called: `FunctionTool.name`, as api.openai.com refuses others.
_FIT: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")


class _NotGiven:
    """No function, in place of the one of `tool`: that may be anything, and is refused then."""


_NOT_GIVEN: Final = _NotGiven()


class ToolError(Exception):
    """What a tool raises to tell the model something: no bug of the tool's, and not logged."""


@attrs.frozen
class DefinedTool:
    """A function with the definition of it that a model sees; made by `wspool.tool`.

    Called, it is the function.

    Attributes:
        name: what the model calls it.
        function: what is called.
        definition: its definition, for the `tools` field of a request.
        repeatable: whether a call that was begun and not ended may be made again.
    """

    name: str
    function: Tool = attrs.field(repr=False)
    definition: dict[str, Any] = attrs.field(repr=False)
    _readers: Mapping[str, Callable[[Any], Any]] = attrs.field(
        repr=False, factory=dict[str, Callable[[Any], Any]]
    )
    repeatable: bool = attrs.field(repr=False, default=False)

    def read(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return *arguments*, as JSON has them, as the function takes them.

        Raises:
            Exception: whatever reads them; they do not fit.
        """
        readers = self._readers
        return {name: readers[name](value) if name in readers else value for name, value in arguments.items()}

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        return self.function(*args, **keywords)


@overload
def tool(
    function: Tool,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    strict: bool = False,
    async_: bool = False,
    repeatable: bool = False,
) -> DefinedTool: ...


@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    strict: bool = False,
    async_: bool = False,
    repeatable: bool = False,
) -> Callable[[Tool], DefinedTool]: ...


def tool(
    function: Tool | _NotGiven = _NOT_GIVEN,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    strict: bool = False,
    async_: bool = False,
    repeatable: bool = False,
) -> DefinedTool | Callable[[Tool], DefinedTool]:
    """Return *function* with a definition made from it. Also a decorator, with arguments or without.

    Args:
        function: what a model shall call. Its signature says what it takes, its docstring what it does.
        name: what the model calls it; the function's name if not given.
        description: what it does; its docstring without the part about parameters if not given.
        strict: True to have the model's arguments follow the schema to the letter; then all must be required.
        async_: True if the model shall go on before the output is there (`async` of the definition).
        repeatable: True if a call may be made twice, as of what only reads: one that a crash has interrupted
            is made again then (`ledger=` of `Conversation.run`).

    Where pydantic is installed it makes the schema, and arguments come as what the annotations say.

    Raises:
        TypeError, ValueError: no definition can be made of it; the text says why.
    """
    if isinstance(function, _NotGiven):

        def decorate(function: Tool) -> DefinedTool:
            return tool(
                function,
                name=name,
                description=description,
                strict=strict,
                async_=async_,
                repeatable=repeatable,
            )

        return decorate
    if not callable(function):
        raise TypeError(f"a tool is a function, not {function!r:.60}")
    if isinstance(function, DefinedTool):
        repeatable = repeatable or function.repeatable
        name, function = name or function.name, function.function
    called = name if name is not None else str(getattr(function, "__name__", type(function).__name__))
    if not _FIT.fullmatch(called):
        raise ValueError(
            f"a tool cannot be called {called!r:.60}: letters, digits, _ and -, at most 64; give name="
        )
    text, described = documented(function)
    parameters = parameters_of(function, described)
    definition: dict[str, Any] = {"type": "function", "name": called}
    if (said := text if description is None else description) != "":
        definition["description"] = said
    definition |= {"parameters": parameters.schema, "strict": strict}
    if async_:
        definition["async"] = True
    return DefinedTool(called, function, definition, parameters.readers, repeatable)


class Toolbox:
    """The tools of one loop.

    Attributes:
        tools: what to call, by name.
        definitions: the field `tools` of the requests, if it is not the caller's own.
    """

    def __init__(self, tools: object, fields: Fields) -> None:
        """Look at *tools* and at the *fields* of the requests.

        Raises:
            TypeError, ValueError: they are not usable, or do not fit; the text says what to write.
        """
        self.tools: dict[str, Tool] = {}
        self.definitions: Encoded | None = None
        made: dict[str, DefinedTool] = {}
        if isinstance(tools, Mapping):
            for name, one in cast("Mapping[object, object]", tools).items():
                self._add(name, one)
        elif isinstance(tools, Sequence) and not isinstance(tools, str | bytes):
            for one in cast("Sequence[object]", tools):
                given = one if isinstance(one, DefinedTool) else tool(_function(one))
                if given.name in self.tools:
                    raise ValueError(f"tools= has two functions that are called {given.name!r}")
                self.tools[given.name] = given
        else:
            raise TypeError(
                "tools= takes what to call by tool name, {'name': function}, or functions, "
                f"[function, ...], not {tools!r:.60}"
            )
        describes_all = not has_definitions(fields)
        for name, function in self.tools.items():
            if isinstance(function, DefinedTool):
                made[name] = function
            elif describes_all:
                made[name] = tool(function, name=name)
        self.tools.update(made)
        given_definitions = defined(fields) or []
        names = {str(one.get("name")) for one in given_definitions}
        new = [one.definition for name, one in made.items() if name not in names]
        if new:
            self.definitions = Encoded(encode([*given_definitions, *new], "tools"))
            fields = {**fields, "tools": self.definitions}
        check_definitions(fields, self.tools)

    def _add(self, name: object, one: object) -> None:
        if not isinstance(name, str):
            raise TypeError(
                f"tools= takes what to call by tool name, {{'name': function}}; {name!r:.60} is no name"
            )
        if not callable(one):
            raise TypeError(
                f"tools= takes functions; that of {name!r} is {one!r:.60} (definitions go in the body)"
            )
        self.tools[name] = tool(one, name=name) if isinstance(one, DefinedTool) and one.name != name else one


def adapt_tools(keywords: dict[str, Any], wrap: Callable[[Any], Any]) -> dict[str, Any]:
    """Return the arguments of `Conversation.run` with each function that it calls back wrapped.

    What is no function is left as it is: the native method says what is wrong with it.
    """

    def wrapped(value: Any) -> Any:
        if isinstance(value, DefinedTool):
            return attrs.evolve(value, function=wrap(value.function))
        return wrap(value) if callable(value) else value

    adapted = dict(keywords)
    if keywords.get("on_event") is not None:
        adapted["on_event"] = wrapped(keywords["on_event"])
    tools: object = keywords.get("tools")
    if isinstance(tools, Mapping):
        adapted["tools"] = {name: wrapped(tool) for name, tool in cast("Any", tools).items()}
    elif isinstance(tools, (list, tuple)):
        adapted["tools"] = [wrapped(tool) for tool in cast("Sequence[Any]", tools)]
    return adapted


def _function(one: object) -> Tool:
    if not callable(one):
        raise TypeError(
            "tools= takes what to call: functions, or {'name': function}; "
            f"{one!r:.60} is none (definitions go in the body)"
        )
    return one
