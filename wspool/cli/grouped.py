"""Options that are declared once, in groups, and given to a command together.

A group is a class whose fields are options (`Annotated[type, typer.Option(...)]`, with their defaults), or
groups again. So an option has one place for its name, type, default and help.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar, get_type_hints

import attrs

__all__ = ["together"]

_T = TypeVar("_T")


def together(group: type[_T]) -> Callable[[Callable[[_T], None]], Callable[..., None]]:
    """Return a decorator of a function that takes a *group*: Typer sees a function of its options."""
    parameters = list(_parameters(group))

    def decorate(function: Callable[[_T], None]) -> Callable[..., None]:
        def command(**values: Any) -> None:
            function(_gathered(group, values))

        command.__name__, command.__doc__ = function.__name__, function.__doc__
        command.__annotations__ = {each.name: each.annotation for each in parameters}
        vars(command)["__signature__"] = inspect.Signature(parameters)
        return command

    return decorate


def _parameters(group: type[Any]) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    for field in attrs.fields(group):
        if attrs.has(hints[field.name]):
            yield from _parameters(hints[field.name])
        else:
            yield inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=_default(field.default),
                annotation=hints[field.name],
            )


def _default(default: Any) -> Any:
    factory = getattr(default, "factory", None)  # of attrs
    return default if factory is None else factory()


def _gathered(group: type[_T], values: Mapping[str, Any]) -> _T:
    hints = get_type_hints(group)
    return group(
        **{
            field.name: _gathered(hints[field.name], values)
            if attrs.has(hints[field.name])
            else values[field.name]
            for field in attrs.fields(group)  # type: ignore[arg-type]
        }
    )
