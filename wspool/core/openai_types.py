"""OpenAI types: events and responses as the models of the package `openai`, for code that is made for them.

The one place of the core that names somebody else's package, and it is imported when somebody asks. Nothing
is checked, as that package checks nothing of what its own client receives: what a server leaves out is
missing there, what the package does not know is kept as it came.
"""

from __future__ import annotations

import functools
import importlib
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openai.types.responses import Response, ResponseStreamEvent

__all__ = ["openai_event", "openai_response"]


def openai_event(data: Mapping[str, Any]) -> ResponseStreamEvent:
    """Return the event *data* as the package's model of its type.

    Raises:
        ImportError: the package is not installed.
        ValueError: the installed version has no such event.
    """
    kind = data.get("type")
    model = _events().get(kind)
    if model is None:
        version = importlib.import_module("openai").__version__
        raise ValueError(f"openai {version} has no event {kind!r:.100}; `event.data` has what it says")
    event: ResponseStreamEvent = model.construct(**_fields(data))
    return event


def openai_response(data: Mapping[str, Any]) -> Response:
    """Return the response *data* as the package's model.

    Raises:
        ImportError: the package is not installed.
    """
    response: Response = _package().Response.construct(**_fields(data))
    return response


def _fields(data: Mapping[str, Any]) -> dict[str, Any]:
    # A name with an underscore is no field, and might be an argument of `construct`.
    return {name: value for name, value in data.items() if not name.startswith("_")}


def _package() -> Any:
    try:
        return importlib.import_module("openai.types.responses")
    except ImportError as error:
        raise ImportError("to_openai() needs the package openai: pip install openai") from error


@functools.cache
def _events() -> Mapping[object, Any]:
    """Return the models of all events by their type."""
    union = typing.get_args(_package().ResponseStreamEvent)[0]
    return {
        kind: model
        for model in typing.get_args(union)
        for kind in typing.get_args(model.model_fields["type"].annotation)
    }
