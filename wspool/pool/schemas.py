"""Schemas: how the parameters of a function are described to a model.

Names, defaults and annotations come from its signature, descriptions from its docstring (an `Args:` section,
or `:param name:` lines). Where pydantic is installed it makes the schema of each annotation, and reads what a
model gives, so that a function gets the models, dates and enums that it asks for. Without it there are the
types of JSON and of `typing`, and enums.
"""

from __future__ import annotations

import enum
import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

import attrs

__all__ = ["Parameters", "Reader", "documented", "parameters_of"]

#: What turns an argument as JSON has it into what the function takes.
Reader = Callable[[Any], Any]

_SIMPLE: Final[Mapping[object, dict[str, Any]]] = {
    Any: {},
    object: {},
    inspect.Parameter.empty: {},
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    None: {"type": "null"},
    type(None): {"type": "null"},
    list: {"type": "array"},
    dict: {"type": "object"},
}
_SECTION: Final = re.compile(r"^(Args|Arguments|Parameters|Params):\s*$")
#: Where a description ends: any section, or the fields of another style.
_ANY_SECTION: Final = re.compile(r"^(?:[A-Z][A-Za-z ]{2,20}:\s*$|:\w+)")
_PARAMETER: Final = re.compile(r"^\*{0,2}(\w+)(?:\s*\([^)]*\))?:\s*(.*)$")
_FIELD: Final = re.compile(r"^:param\s+(?:[^:]*\s)?(\w+):\s*(.*)$")


@attrs.frozen
class Parameters:
    """The parameters of a function.

    Attributes:
        schema: as a definition has them: a JSON schema of an object.
        readers: what reads the argument of each, where that is not taken as it is.
    """

    schema: dict[str, Any]
    readers: Mapping[str, Reader]


def parameters_of(function: Callable[..., Any], described: Mapping[str, str]) -> Parameters:
    """Return the parameters of *function*, each with what *described* says of it.

    Raises:
        TypeError: a model cannot give them: one has no name, or no JSON fits its annotation.
    """
    try:
        signature = inspect.signature(function)
    except ValueError:  # some functions of C have none
        return Parameters({"type": "object", "properties": {}, "additionalProperties": True}, {})
    hints = _hints(function)
    properties: dict[str, Any] = {}
    required: list[str] = []
    readers: dict[str, Reader] = {}
    definitions: dict[str, Any] = {}
    others = False
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_POSITIONAL:
            continue
        if parameter.kind is parameter.VAR_KEYWORD:
            others = True
            continue
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise TypeError(f"{_called(function)} takes {name!r} by position only; arguments go by name")
        annotation = hints.get(name, parameter.annotation)
        try:
            schema, reader = _pydantic(annotation) or _own(annotation)
        except TypeError as error:
            raise TypeError(f"{name!r} of {_called(function)}: {error}") from None
        definitions.update(schema.pop("$defs", {}))
        if reader is not None:
            readers[name] = reader
        if name in described:
            schema.setdefault("description", described[name])
        if parameter.default is parameter.empty:
            required.append(name)
        elif isinstance(parameter.default, str | int | float | bool | None):
            schema.setdefault("default", parameter.default)
        properties[name] = schema
    whole: dict[str, Any] = {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": others,
    }
    return Parameters({**whole, "$defs": definitions} if definitions else whole, readers)


def _called(function: Callable[..., Any]) -> str:
    return f"the tool {getattr(function, '__name__', None) or function!r}"


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of *function*, read where they are texts."""
    while isinstance(function, functools.partial):
        function = function.func
    if not (inspect.isfunction(function) or inspect.ismethod(function)):
        function = type(function).__call__
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError) as error:
        if inspect.isfunction(function) or inspect.ismethod(function):
            raise TypeError(f"the annotations of {_called(function)} cannot be read: {error}") from None
        return {}


@functools.cache
def _module() -> Any:
    """The module `pydantic`, None if it is not installed."""
    try:
        import pydantic
    except ImportError:
        return None
    return pydantic if hasattr(pydantic, "TypeAdapter") else None


def _pydantic(annotation: Any) -> tuple[dict[str, Any], Reader | None] | None:
    """What pydantic makes of *annotation*; None without it, or if it makes nothing."""
    pydantic = _module()
    if pydantic is None or annotation in (inspect.Parameter.empty, Any, object):
        return None
    try:
        adapter = pydantic.TypeAdapter(annotation)
        return adapter.json_schema(), adapter.validate_python
    except pydantic.PydanticUserError:
        return None


def _own(annotation: Any) -> tuple[dict[str, Any], Reader | None]:
    """The schema of *annotation* without help, and what reads its values.

    Raises:
        TypeError: it is beyond that.
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        schema, reader = _own(arguments[0])
        said = [each for each in arguments[1:] if isinstance(each, str)]
        return ({**schema, "description": said[0]} if said else schema), reader
    if origin is typing.Literal:
        return {"enum": list(arguments)}, None
    if origin in (typing.Union, types.UnionType):
        each = [_own(argument) for argument in arguments]
        readers = [reader for _, reader in each if reader is not None]
        one = _unless_none(readers[0]) if len(readers) == 1 and len(each) == 2 else None
        return {"anyOf": [schema for schema, _ in each]}, one if type(None) in arguments else None
    if origin in (list, Sequence):
        schema, reader = _own(arguments[0])
        return {"type": "array", "items": schema}, _each(reader) if reader else None
    if origin in (dict, Mapping):
        return {"type": "object", "additionalProperties": _own(arguments[1])[0]}, None
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return {"enum": [one.value for one in annotation]}, annotation
    kind = cast("Any", annotation)
    if typing.is_typeddict(kind):
        fields = typing.get_type_hints(kind)
        needed = sorted(cast("frozenset[str]", kind.__required_keys__))
        return {
            "type": "object",
            "properties": {name: _own(kind)[0] for name, kind in fields.items()},
            "required": needed,
            "additionalProperties": False,
        }, None
    try:
        return dict(_SIMPLE[annotation]), None
    except (KeyError, TypeError):
        raise TypeError(
            f"there is no schema for {annotation!r}; install pydantic, or write the definition by hand"
        ) from None


def _each(reader: Reader) -> Reader:
    return lambda values: [reader(value) for value in values]


def _unless_none(reader: Reader) -> Reader:
    return lambda value: None if value is None else reader(value)


def documented(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """Return what the docstring of *function* says: of the whole, and of each parameter."""
    if not (inspect.isroutine(function) or isinstance(function, type)):
        function = type(function).__call__  # the docstring of an object is that of its class
    whole: list[str] = []
    each: dict[str, list[str]] = {}
    into: list[str] | None = whole
    depth = -1  # of the names in a section of parameters, once known
    in_section = False
    for line in (inspect.getdoc(function) or "").splitlines():
        text = line.strip()
        indent = len(line) - len(line.lstrip())
        if field := _FIELD.match(text):
            into, in_section = each.setdefault(field[1], [field[2]]), False
        elif not indent and (_SECTION.match(text) or _ANY_SECTION.match(text)):
            into, in_section, depth = None, bool(_SECTION.match(text)), -1
        elif in_section and text:
            depth = indent if depth < 0 else depth
            named = _PARAMETER.match(text) if indent == depth else None
            if named:
                into = each.setdefault(named[1], [named[2]])
            elif into is not None:
                into.append(text)
        elif into is not None:
            into.append(text)
    return _joined(whole), {name: _joined(lines) for name, lines in each.items()}


def _joined(lines: Sequence[str]) -> str:
    return "\n".join(lines).strip()
