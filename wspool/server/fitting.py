"""Values that fit a JSON Schema: what a model without any understanding writes into a form.

Pure, and the same for the same schema and text. Free strings are the text that the model was given, all else
is the plainest value that fits. The rules:

1. Required properties are there, all of them if none is named as required; more only if the schema asks for
   so many.
2. Of alternatives the first that is not null is taken; below `_DEEPEST` levels null if it may be, and empty
   lists, so that schemas which hold themselves come to an end.
3. A schema of a stranger may ask for more than anybody has: after `_MOST` values, and `_BOTTOM` levels down,
   all is null, and does not fit.

Not read: `not`, `if`, `dependentSchemas`, `propertyNames`, `patternProperties`, and references to elsewhere.

Source: JSON Schema 2020-12; OpenAI's structured outputs take a part of it.
"""

import math
from collections.abc import Mapping
from typing import Any, Final

from wspool.server.models import Item, is_array, is_object
from wspool.server.sample import sample

__all__ = ["fitting"]

_DEEPEST: Final = 4
_BOTTOM: Final = 64
_MOST: Final = 5_000

#: Characters of a string, and items of a list, that are made up because a schema wants so many.
_LONGEST: Final = 100_000
_LONGEST_LIST: Final = 1_000

# Source: JSON Schema 2020-12, Validation, 7.3.
_FORMATS: Final = {
    "date-time": "2026-11-29T12:00:00Z",
    "date": "2026-11-29",
    "time": "12:00:00Z",
    "duration": "PT1H",
    "email": "someone@example.com",
    "idn-email": "someone@example.com",
    "hostname": "example.com",
    "idn-hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uri-reference": "https://example.com/",
    "iri": "https://example.com/",
    "iri-reference": "https://example.com/",
    "uri-template": "https://example.com/{name}",
    "url": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "json-pointer": "/a",
    "relative-json-pointer": "0",
    "regex": "a",
}


def fitting(schema: object, text: str) -> Any:
    """A JSON value that fits *schema*.

    Args:
      text: what free strings are, cut or filled up where the schema wants it.
    """
    return _Fitter(schema, text).value(schema, 0, 0)


class _Fitter:
    def __init__(self, root: object, text: str) -> None:
        self._root = root
        self._text = text
        self._left = _MOST

    def value(self, schema: object, depth: int, nth: int) -> Any:
        """A value that fits.

        Args:
          nth: which one of a list it is; lists that hold nothing twice get different ones.
        """
        self._left -= 1
        if self._left < 0 or depth > _BOTTOM:
            return None
        if not is_object(schema):
            return self._text
        whole = self._whole(schema, depth)
        if "const" in whole:
            return whole["const"]
        if is_array(whole.get("enum")) and whole["enum"]:
            return whole["enum"][nth % len(whole["enum"])]
        match _type_of(whole, depth):
            case "object":
                return self._object(whole, depth)
            case "array":
                return self._array(whole, depth)
            case "integer" | "number" as kind:
                return _number(whole, nth, whole=kind == "integer")
            case "boolean":
                return nth % 2 == 0
            case "null":
                return None
            case _:
                return self._string(whole, nth)

    def _whole(self, schema: Item, depth: int) -> Item:
        """*schema* with what it refers to, and with one of its alternatives."""
        whole = dict(schema)
        for _ in range(_BOTTOM):
            others: list[object] = []
            if (reference := whole.pop("$ref", None)) is not None:
                others.append(self._resolved(reference))
            if is_array(every := whole.pop("allOf", None)):
                others += every
            for name in ("anyOf", "oneOf"):
                if is_array(some := whole.pop(name, None)) and some:
                    others.append(self._chosen(some, depth))
            if not others:
                break
            for other in others:
                self._left -= 1
                if is_object(other) and self._left > 0:
                    whole = _merged(whole, other)
        return whole

    def _chosen(self, some: list[Any], depth: int) -> object:
        nulls = [is_object(one) and one.get("type") == "null" for one in some]
        wanted = depth >= _DEEPEST
        return next((one for one, null in zip(some, nulls, strict=True) if null == wanted), some[0])

    def _resolved(self, reference: object) -> object:
        found: Any = self._root
        for name in str(reference).removeprefix("#").split("/")[1:]:
            found = found.get(name.replace("~1", "/").replace("~0", "~")) if is_object(found) else None
        return found

    def _object(self, schema: Item, depth: int) -> Item:
        properties = schema.get("properties")
        known: Item = properties if is_object(properties) else {}
        required = schema.get("required")
        names: list[str] = [str(name) for name in required] if is_array(required) else []
        if not names and depth < _DEEPEST:
            names = list(known)
        more = schema.get("additionalProperties", True)
        made = {name: self.value(known.get(name, more), depth + 1, 0) for name in names}
        least = min(_bound(schema, "minProperties", 0), _LONGEST_LIST)
        spare = [name for name in known if name not in made]
        for number in range(max(0, math.ceil(least) - len(made))):
            name = spare[number] if number < len(spare) else f"key_{number}"
            made[name] = self.value(known.get(name, more), depth + 1, number)
        return made

    def _array(self, schema: Item, depth: int) -> list[Any]:
        prefix = schema.get("prefixItems")
        first: list[Any] = list(prefix) if is_array(prefix) else []
        if "contains" in schema:
            first = first or [schema["contains"]]
        wanted = 0 if depth >= _DEEPEST else 1
        least = max(
            _bound(schema, "minItems", 0), min(max(wanted, len(first)), _bound(schema, "maxItems", math.inf))
        )
        rest = schema.get("items", {})
        if rest is False:
            least = min(least, len(first))
        return [
            self.value(first[number] if number < len(first) else rest, depth + 1, number)
            for number in range(math.ceil(min(least, _LONGEST_LIST)))
        ]

    def _string(self, schema: Item, nth: int) -> str:
        least = math.ceil(min(_bound(schema, "minLength", 0), _LONGEST))
        most = _bound(schema, "maxLength", math.inf)
        if isinstance(pattern := schema.get("pattern"), str):
            found = sample(pattern, least)
            if found is not None:
                return found
        if (form := _FORMATS.get(str(schema.get("format")))) is not None:
            return form
        text = f"{self._text} {nth + 1}" if nth else self._text
        if len(text) > most:
            text = (str(nth + 1) if nth else "") + text
        text = text if len(text) <= most else text[: int(most)]
        return text.ljust(least, "-")


def _merged(one: Item, other: Item) -> Item:
    """What fits both, as far as their properties and requirements go; *one* wins where they differ."""
    merged = other | one
    for name, join in (("properties", _joined), ("required", _together)):
        if name in one and name in other:
            merged[name] = join(one[name], other[name])
    return merged


def _joined(one: Any, other: Any) -> Any:
    return other | one if is_object(one) and is_object(other) else one


def _together(one: Any, other: Any) -> Any:
    if not (is_array(one) and is_array(other)):
        return one
    return list(dict.fromkeys(str(name) for name in (*one, *other)))


def _type_of(schema: Item, depth: int) -> str:
    given = schema.get("type")
    if is_array(given) and given:
        if depth >= _DEEPEST and "null" in given:
            return "null"
        return str(next((kind for kind in given if kind != "null"), "null"))
    if isinstance(given, str):
        return given
    for kind, words in _SIGNS.items():
        if any(word in schema for word in words):
            return kind
    return "string"


# What gives a type away that is not named.
_SIGNS: Final = {
    "object": ("properties", "required", "additionalProperties", "minProperties"),
    "array": ("items", "prefixItems", "minItems", "contains"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}


def _bound(schema: Mapping[str, Any], name: str, otherwise: float) -> float:
    value = schema.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return otherwise
    return value


def _number(schema: Item, nth: int, *, whole: bool) -> float:
    """A number within the bounds: 1 if it is, else the nearest one; or the *nth* after that, if that is."""
    low, high = _bound(schema, "minimum", -math.inf), _bound(schema, "maximum", math.inf)
    above, below = _bound(schema, "exclusiveMinimum", -math.inf), _bound(schema, "exclusiveMaximum", math.inf)
    first, last = max(low, above), min(high, below)
    if not whole and "multipleOf" not in schema and -math.inf < first and last < math.inf:
        # Between two numbers there may be no whole one.
        return (first + last) / 2
    step = max(_bound(schema, "multipleOf", 1), 0) or 1
    try:
        times = math.ceil(min(max(1, first), last) / step)
    except OverflowError:
        return 0
    times -= times * step > high or times * step >= below
    times += times * step < low or times * step <= above
    later = (times + nth) * step
    value = later if later <= high and later < below else times * step
    return int(value) if whole and value == int(value) else value
