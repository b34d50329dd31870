"""The fields of a request: which there are, and what may be in them.

Pure. A provider that checks its requests refuses a field that it does not know, a wrong type and a value out
of range, and names the place. The rules:

1. One table says it all; what is not in it is unknown. `null` is as good as not there.
2. The first wrong field counts, in the order of the request; outside comes before inside.
3. Only what is sure is checked: a model, a tool of the provider's own or a name that is new may be anything.

Sources: the request types of openai-python 3.57 and of the Open Responses specification 2026-04-24; texts,
`param` and `code` of the refusals as users have reported them (hindsight#58, octopus#31, continue#8933).
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import attrs

from wspool.listening.errors import TurnError, invalid_request
from wspool.server.models import Item, is_array, is_object

__all__ = ["invalid_request", "refusal_of"]


#: Looks at the value of a field, and at its place; says what is wrong with it.
_Check = Callable[[Any, str], TurnError | None]

_WORDS: Final[tuple[tuple[type, str], ...]] = (
    (bool, "a boolean"),
    (str, "a string"),
    (int, "an integer"),
    (float, "a decimal"),
    (list, "an array"),
    (dict, "an object"),
)


def _wrong_type(value: object, where: str, expected: str) -> TurnError:
    got = next((words for kind, words in _WORDS if isinstance(value, kind)), "null")
    return invalid_request(
        f"Invalid type for '{where}': expected {expected}, but got {got} instead.",
        code="invalid_type",
        param=where,
    )


def _boolean(value: Any, where: str) -> TurnError | None:
    return None if isinstance(value, bool) else _wrong_type(value, where, "a boolean")


def _anything(value: Any, where: str) -> TurnError | None:
    return None


def _object(value: Any, where: str) -> TurnError | None:
    return None if is_object(value) else _wrong_type(value, where, "an object")


def _text(longest: int | None = None, shortest: int = 0) -> _Check:
    def check(value: Any, where: str) -> TurnError | None:
        if not isinstance(value, str):
            return _wrong_type(value, where, "a string")
        if len(value) < shortest:
            return invalid_request(
                f"Invalid '{where}': empty string. Expected a string with minimum length {shortest}, but got "
                "an empty string instead.",
                code="empty_string",
                param=where,
            )
        if longest is not None and len(value) > longest:
            return invalid_request(
                f"Invalid '{where}': string too long. Expected a string with maximum length {longest}, but "
                f"got a string with length {len(value)} instead.",
                code="string_above_max_length",
                param=where,
            )
        return None

    return check


def _number(low: float, high: float | None = None, *, whole: bool = False) -> _Check:
    name, expected = ("integer", "an integer") if whole else ("decimal", "a decimal")

    def check(value: Any, where: str) -> TurnError | None:
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            return _wrong_type(value, where, expected)
        if value < low:
            problem, than = "below_min", f"below minimum value. Expected a value >= {low:g}"
        elif high is not None and value > high:
            problem, than = "above_max", f"above maximum value. Expected a value <= {high:g}"
        else:
            return None
        return invalid_request(
            f"Invalid '{where}': {name} {than}, but got {value} instead.",
            code=f"{name}_{problem}_value",
            param=where,
        )

    return check


def _one_of(*values: str) -> _Check:
    def check(value: Any, where: str) -> TurnError | None:
        if not isinstance(value, str):
            return _wrong_type(value, where, "a string")
        if value in values:
            return None
        names = ", ".join(f"'{name}'" for name in values[:-1]) + "," * (len(values) > 2)
        return invalid_request(
            f"Invalid value: '{value}'. Supported values are: {names} and '{values[-1]}'.",
            code="invalid_value",
            param=where,
        )

    return check


def _array(each: _Check) -> _Check:
    def check(value: Any, where: str) -> TurnError | None:
        if not is_array(value):
            return _wrong_type(value, where, "an array")
        problems = (each(one, f"{where}[{number}]") for number, one in enumerate(value))
        return next(filter(None, problems), None)

    return check


@attrs.frozen
class _Fields:
    """An object with these fields, as a check."""

    known: Mapping[str, _Check]
    required: Iterable[str] = ()
    open: bool = False
    """There may be others."""

    def __call__(self, value: Any, where: str) -> TurnError | None:
        if not is_object(value):
            return _wrong_type(value, where, "an object")
        prefix = f"{where}." if where else ""
        for name in self.required:
            if value.get(name) is None:
                return invalid_request(
                    f"Missing required parameter: '{prefix}{name}'.",
                    code="missing_required_parameter",
                    param=prefix + name,
                )
        for name, given in value.items():
            check = self.known.get(name)
            if check is None and not self.open:
                return invalid_request(
                    f"Unknown parameter: '{prefix}{name}'.", code="unknown_parameter", param=prefix + name
                )
            if check is not None and given is not None and (problem := check(given, prefix + name)):
                return problem
        return None


def _metadata(value: Any, where: str) -> TurnError | None:
    if not is_object(value):
        return _wrong_type(value, where, "an object")
    if len(value) > 16:
        return invalid_request(
            f"Invalid '{where}': too many properties. Expected an object with at most 16 properties, but got "
            f"an object with {len(value)} properties instead.",
            code="object_above_max_properties",
            param=where,
        )
    key, content = _text(64), _text(512)
    problems = (key(name, where) or content(given, f"{where}.{name}") for name, given in value.items())
    return next(filter(None, problems), None)


def _tool(value: Any, where: str) -> TurnError | None:
    kind = value.get("type") if is_object(value) else None
    if kind == "function":
        return _FUNCTION(value, where)
    return (_NAMED if kind in ("custom", "namespace") else _TYPED)(value, where)


_NAME: Final = _text(128, 1)
_TYPED: Final = _Fields({"type": _text()}, ["type"], open=True)
_NAMED: Final = _Fields({"type": _text(), "name": _NAME}, ["type", "name"], open=True)
_FUNCTION: Final = _Fields(
    {
        "type": _text(),
        "name": _NAME,
        "description": _text(),
        "parameters": _object,
        "strict": _boolean,
        "async": _boolean,
        "allowed_callers": _array(_text()),
        "defer_loading": _boolean,
        "output_schema": _object,
    },
    ["name"],
)

_FORMAT: Final = _Fields(
    {"type": _one_of("text", "json_object", "json_schema", "grammar", "python")}, ["type"], open=True
)
_JSON_SCHEMA: Final = _Fields(
    {
        "type": _text(),
        "name": _text(64, 1),
        "description": _text(),
        "schema": _object,
        "strict": _boolean,
    },
    ["name", "schema"],
)


def _format(value: Any, where: str) -> TurnError | None:
    if is_object(value) and value.get("type") == "json_schema":
        return _JSON_SCHEMA(value, where)
    return _FORMAT(value, where)


def _choice(value: Any, where: str) -> TurnError | None:
    if isinstance(value, str):
        return _one_of("none", "auto", "required")(value, where)
    return _TYPED(value, where)


def _conversation(value: Any, where: str) -> TurnError | None:
    return None if isinstance(value, str) else _Fields({"id": _text()}, ["id"])(value, where)


def _input(value: Any, where: str) -> TurnError | None:
    # Its items are judged as a history (`protocol.history`).
    return (
        None if isinstance(value, str | list) else _wrong_type(value, where, "a string or an array of items")
    )


_REQUEST: Final = _Fields(
    {
        "access_programs": _anything,
        "background": _boolean,
        "background_options": _object,
        "client_metadata": _object,
        "context_management": _array(_TYPED),
        "conversation": _conversation,
        "frequency_penalty": _number(-2, 2),
        "generate": _boolean,
        "image": _object,
        "include": _array(_text()),
        "input": _input,
        "instructions": _text(),
        "max_output_tokens": _number(16, whole=True),
        "max_tool_calls": _number(1, whole=True),
        "metadata": _metadata,
        "model": _text(),
        "moderation": _object,
        "multi_agent": _object,
        "parallel_tool_calls": _boolean,
        "presence_penalty": _number(-2, 2),
        "previous_response_id": _text(),
        "prompt": _object,
        "prompt_cache_key": _text(64),
        "prompt_cache_options": _object,
        "prompt_cache_retention": _one_of("in_memory", "24h"),
        "reasoning": _Fields(
            {
                "context": _text(),
                "effort": _one_of("none", "minimal", "low", "medium", "high", "xhigh", "max"),
                "generate_summary": _one_of("auto", "concise", "detailed"),
                "mode": _text(),
                "summary": _one_of("auto", "concise", "detailed"),
            }
        ),
        "safety_identifier": _text(64),
        "service_tier": _text(),
        "store": _boolean,
        "stream": _boolean,
        "stream_id": _anything,  # has an error of its own
        "stream_options": _Fields({"include_obfuscation": _boolean}, open=True),
        "temperature": _number(0, 2),
        "text": _Fields({"format": _format, "verbosity": _one_of("low", "medium", "high")}),
        "tool_choice": _choice,
        "tools": _array(_tool),
        "top_logprobs": _number(0, 20, whole=True),
        "top_p": _number(0, 1),
        "truncation": _one_of("auto", "disabled"),
        "type": _text(),
        "user": _text(),
    }
)


def refusal_of(body: Item) -> TurnError | None:
    """What a provider that checks its requests says of *body*, or None if it takes it."""
    return _REQUEST(body, "")
