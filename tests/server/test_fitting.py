"""What fits a schema, as pydantic sees it, and what never does any harm."""

import json
import re
from datetime import date, datetime
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, strategies as st
from pydantic import BaseModel, Field, TypeAdapter

from wspool.server.fitting import fitting
from wspool.server.sample import sample

SAID = "What is the weather in Paris?"


class Node(BaseModel):
    value: int
    next: "Node | None"
    children: list["Node"]


class Place(BaseModel):
    city: str
    unit: Literal["celsius", "fahrenheit"]
    kind: Literal["place"] = "place"


class Everything(BaseModel):
    place: Place
    places: list[Place] = Field(min_length=2)
    node: Node
    either: int | Place
    maybe: str | None
    short: Annotated[str, Field(max_length=5)]
    long: Annotated[str, Field(min_length=100)]
    code: Annotated[str, Field(pattern=r"^[A-Z]{3}-\d{2,4}$")]
    when: datetime
    day: date
    low: Annotated[int, Field(le=-7)]
    high: Annotated[int, Field(gt=41, multiple_of=5)]
    share: Annotated[float, Field(gt=0.25, lt=0.5)]
    pair: tuple[int, str]
    named: dict[str, int] = Field(min_length=3)
    flag: bool
    distinct: set[int] = Field(min_length=4)


def test_a_model_is_filled_in() -> None:
    """All that is required, nested, referred to, bounded, in a list, or one of several."""
    filled = Everything.model_validate_json(json.dumps(fitting(Everything.model_json_schema(), SAID)))

    assert (SAID, SAID) == (filled.place.city, filled.places[0].city)
    assert (SAID[:5], -7, 45) == (filled.short, filled.low, filled.high)


# Types that are made at run time, which type checkers need not see.
TUPLE: Any = tuple
LIST: Any = list
DICT: Any = dict

numbers = st.integers(-9, 9)
leaves: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from([bool, int, float, str, date, type(None), Node, Any]),
    st.tuples(numbers, numbers).map(lambda two: Annotated[int, Field(ge=min(two), le=max(two))]),
    st.tuples(numbers, numbers).map(lambda two: Annotated[float, Field(gt=min(two), lt=max(two) + 1)]),
    st.integers(0, 9).map(lambda n: Annotated[str, Field(min_length=n, max_length=9)]),
    numbers.map(lambda n: Annotated[int, Field(gt=n, multiple_of=3)]),
    numbers.map(lambda n: Annotated[int, Field(lt=n, multiple_of=2)]),
    st.sampled_from(["a", 2, None]).map(lambda one: Literal[one]),
)
kinds = st.recursive(
    leaves,
    lambda kind: st.one_of(
        kind.map(lambda one: one | None),
        st.tuples(kind, kind).map(lambda two: two[0] | two[1]),
        st.tuples(kind, kind).map(TUPLE.__class_getitem__),
        kind.map(lambda one: Annotated[LIST.__class_getitem__(one), Field(min_length=2)]),
        kind.map(lambda one: Annotated[DICT.__class_getitem__((str, one)), Field(min_length=1)]),
    ),
    max_leaves=6,
)


@given(kinds, st.text(max_size=20))
def test_any_type_is_filled_in(kind: Any, said: str) -> None:
    """Whatever it is made of."""
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    adapter.validate_json(json.dumps(fitting(adapter.json_schema(), said)), strict=True)


words = st.sampled_from(
    [
        *("type", "properties", "required", "items", "$ref", "anyOf", "allOf", "enum", "format", "pattern"),
        *("minItems", "minimum", "multipleOf", "minLength", "maxLength", "minProperties", "prefixItems", "a"),
        *("object", "array", "string", "integer", "#", "#/a", "#/properties/a"),
    ]
)
JSON = st.recursive(
    st.one_of(
        words, st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False)
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(words, inner, max_size=6)),
    max_leaves=20,
)


@given(JSON)
def test_no_schema_does_harm(schema: object) -> None:
    """What is no schema, or asks for the impossible, still gets an answer, and an end."""
    json.dumps(fitting(schema, SAID), allow_nan=False)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"type": "array", "items": {"$ref": "#"}, "minItems": 1_000_000},
        {"properties": {name: {"$ref": "#"} for name in "abcdefgh"}, "required": list("abcdefgh")},
        {"allOf": [{"$ref": "#"}, {"$ref": "#"}]},
        {"type": "string", "minLength": 10**15},
        {"type": "object", "minProperties": 10**15},
        {"type": "number", "multipleOf": 5e-324, "minimum": 1e308},
        {"type": "string", "pattern": "((((a{256}){256}){256}){256}){256}"},
        {"type": "string", "pattern": "(" * 100_000},
    ],
)
def test_a_schema_without_end_comes_to_one(schema: object) -> None:
    """No more is made than anybody has."""
    assert len(json.dumps(fitting(schema, SAID))) < 1_000_000


@pytest.mark.parametrize(
    "pattern",
    [
        r"^\d{4}-\d{2}-\d{2}$",
        r"(foo|bar)+x?",
        r"^(\+\d{1,3})?\d{10}$",
        "[\u4e00-\u9fff]{2}",
        r"^[^a-z]$",
        r"^(?:a|b)(?=c)c$",
        r"^(?<year>\d+)$".replace("?<", "?P<"),
        r"a{",
        r"^[\w.+-]+@[\w-]+\.[\w.-]+$",
        r"^#[0-9a-fA-F]{6}$",
        r"^\S+\s\W\D$",
        r"^/[a-z/]*$",
        r"x{2,}?y",
        r"[-a][b-]",
        r"^\x41B\n$",
        r"^[\s\d]\.$",
        r"(?<!x)a\b",
        "",
    ],
)
def test_a_sample_is_found(pattern: str) -> None:
    """By the expression that it is a sample of."""
    text = sample(pattern.replace("?P<", "?<"))

    assert text is not None
    assert re.search(pattern, text)


@pytest.mark.parametrize(
    ("pattern", "shortest", "text"),
    [
        ("^[a-z]+$", 3, "aaaa"),
        ("^[a-z]{1,2}$", 3, "aa"),
        (r"^\p{Lu}\P{L}[\p{Nd}]$", 0, "A00"),
        ("^(a)$", 9, "a"),
    ],
)
def test_a_sample_is_as_long_as_it_may_be(pattern: str, shortest: int, text: str) -> None:
    assert text == sample(pattern, shortest)


@pytest.mark.parametrize(
    "pattern", ["(", ")", "*", "[", "[]", "a{99999}", r"\1", "(?x)", r"\p{L", "\\", "(?"]
)
def test_what_is_not_understood_has_no_sample(pattern: str) -> None:
    assert sample(pattern) is None
