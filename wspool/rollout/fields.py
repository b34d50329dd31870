"""Fields: what a request has, and what is only a column of a data set.

Source: `ResponseCreateParams` of openai-python 3.57.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final, cast

__all__ = ["BODY_FIELDS", "answer_column", "column", "is_request_field", "kind_of_field", "text_columns"]

_NUMBER: Final = (int, float)

#: The fields of a request, and the kinds of their values; null is none of any.
BODY_FIELDS: Final[Mapping[str, tuple[type, ...]]] = {
    "background": (bool,),
    "context_management": (list,),
    "conversation": (str, dict),
    "include": (list,),
    "input": (str, list),
    "instructions": (str,),
    "max_output_tokens": (int,),
    "max_tool_calls": (int,),
    "metadata": (dict,),
    "model": (str,),
    "parallel_tool_calls": (bool,),
    "previous_response_id": (str,),
    "prompt": (dict,),
    "prompt_cache_key": (str,),
    "prompt_cache_options": (dict,),
    "prompt_cache_retention": (str,),
    "reasoning": (dict,),
    "safety_identifier": (str,),
    "service_tier": (str,),
    "store": (bool,),
    "stream": (bool,),
    "stream_options": (dict,),
    "temperature": _NUMBER,
    "text": (dict,),
    "tool_choice": (str, dict),
    "tools": (list,),
    "top_logprobs": (int,),
    "top_p": _NUMBER,
    "truncation": (str,),
    "user": (str,),
}
#: Kinds of values, as they are called in JSON.
_WORDS: Final[Mapping[type, str]] = {
    bool: "true or false",
    dict: "an object",
    int: "a whole number",
    list: "a list",
    str: "a text",
}
#: Words in names of columns that a question stands in, in public data sets, likeliest first.
_QUESTIONS: Final = (
    *("question", "problem", "prompt", "instruction", "instructions", "query"),
    *("input", "inputs", "turns", "value", "content", "text"),
)
#: Last words of those that hold something about it.
_ABOUT: Final = frozenset({"id", "ids", "kind", "source", "type", "url"})
#: How deep in a row a question is looked for.
_DEEPEST: Final = 6
#: Names of columns that an answer stands in.
_ANSWERS: Final = frozenset(
    {"answer", "answers", "answerkey", "best answer", "correct_answer", "solution", "output", "outputs"}
    | {"__expected", "completion", "expected_output", "ideal", "label", "reference", "response", "target"}
)


def is_request_field(name: str, value: object) -> bool:
    """Return whether a field of a row is one of a request, by its name and the kind of its value."""
    kinds = BODY_FIELDS.get(name)
    if kinds is None or value is None:
        return kinds is not None
    if isinstance(value, bool) and bool not in kinds:
        return False
    if name == "metadata" and isinstance(value, dict):
        return all(isinstance(each, str) for each in cast("dict[str, object]", value).values())
    if name == "tools" and isinstance(value, list):
        return all(isinstance(each, dict) for each in cast("list[object]", value))
    return isinstance(value, kinds)


def kind_of_field(name: str) -> str:
    """Return what the field *name* of a request takes, in words."""
    if name == "tools":
        return "a list of objects"
    if name == "metadata":
        return "an object of texts"
    kinds = BODY_FIELDS[name]
    if kinds == _NUMBER:
        return "a number"
    return " or ".join(_WORDS[kind] for kind in kinds)


def column(fields: Mapping[str, Any], path: str) -> tuple[Any, bool]:
    """Return what stands in a row at *path*, a name or a dotted way into it, and whether anything does."""
    if path in fields:
        return fields[path], True
    place: object = fields
    for part in path.split("."):
        if isinstance(place, dict) and part in place:
            place = cast("dict[str, object]", place)[part]
        elif isinstance(place, list) and part.isdecimal() and int(part) < len(cast("list[object]", place)):
            place = cast("list[object]", place)[int(part)]
        else:
            return None, False
    return place, True


def text_columns(fields: Mapping[str, Any], among: Collection[str]) -> list[str]:
    """Return the paths into a row, through these columns, at which its question may be, likeliest first."""
    found = [each for name in among if name.lower() not in _ANSWERS for each in _texts(name, fields[name], 1)]
    return [path for _, path in sorted(found, key=lambda each: each[0])]


def answer_column(fields: Mapping[str, Any], among: Collection[str]) -> str | None:
    """Return the path into a row, through these columns, at which its answer may be, or None."""
    for name in among:
        value: object = fields.get(name)
        if name.lower() not in _ANSWERS:
            continue
        if not isinstance(value, dict):
            return name
        inside = list(cast("dict[str, object]", value))
        if len(inside) == 1:
            return f"{name}.{inside[0]}"
    return None


def _texts(path: str, value: object, depth: int) -> Iterator[tuple[tuple[int, int, int, int], str]]:
    """What may be a question at *path* and below, each with its rank."""
    words = re.split(r"[._]", path.lower())
    known = next((rank for rank, word in enumerate(_QUESTIONS) if word in words), len(_QUESTIONS))
    known += len(_QUESTIONS) * (words[-1] in _ABOUT)
    if isinstance(value, str) and value:
        yield (1, known, depth, -len(value)), path
    elif depth > _DEEPEST:
        return
    elif isinstance(value, dict):
        for name, inside in cast("dict[str, object]", value).items():
            yield from _texts(f"{path}.{name}", inside, depth + 1)
    elif isinstance(value, list) and value:
        first = cast("list[object]", value)[0]
        if _is_message(first):
            yield (0, known, depth, 0), path
        else:
            yield from _texts(f"{path}.0", first, depth + 1)


def _is_message(value: object) -> bool:
    return isinstance(value, dict) and {"role", "content"} <= cast("dict[str, object]", value).keys()
