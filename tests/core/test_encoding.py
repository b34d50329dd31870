"""What is sent does not depend on what is installed, is always JSON, and shares nothing with anybody."""

from __future__ import annotations

import datetime
import enum
import json
import math
import re
import uuid
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, NamedTuple

import attrs
import orjson
import pytest
from hypothesis import given, strategies as st

from wspool.core.encoding import Encoded, assemble, is_lossless, read, write, write_received, write_sorted
from wspool.core.items import with_encrypted_reasoning


class Color(enum.Enum):
    RED = "red"
    MANY = ("a", None)
    NONE = math.nan
    DAY = datetime.date(2026, 1, 1)


class Word(enum.StrEnum):
    A = "\u00e4"


class Number(enum.IntEnum):
    ONE = 1


class Real(float, enum.Enum):
    HALF = 0.5


class Text(str):
    pass


class Whole(int):
    pass


class Point(NamedTuple):
    x: int
    y: int


@attrs.frozen
class Foreign:
    pass


ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=5)
KEYS = (
    ANY_TEXT | st.integers() | st.booleans() | st.none() | st.floats() | st.sampled_from([Number.ONE, Word.A])
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | ANY_TEXT
    | st.sampled_from(
        [
            *Color,
            Word.A,
            Number.ONE,
            Real.HALF,
            Text("x"),
            Text("\ud800"),
            Whole(7),
            2**70,
            -(2**70),
            2**64 - 1,
        ]
    )
    | st.sampled_from([Point(1, 2), uuid.UUID(int=5), OrderedDict(a=1), Foreign(), b"x", "null", {1, 2}])
    | st.sampled_from([datetime.datetime(2026, 1, 1), datetime.date(2026, 1, 1), 1j, (1, "null")])
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


def outcome(value: object, fast: Any) -> object:
    """What is written, without the spelling of numbers; or what is said instead."""
    try:
        return json.loads(write(value, fast, "x"), object_pairs_hook=lambda pairs: pairs)
    except (TypeError, ValueError) as error:
        return type(error), str(error)


@given(VALUES)
def test_what_is_installed_changes_nothing(value: object) -> None:
    """The same JSON, key by key, or the same words."""
    assert outcome(value, orjson) == outcome(value, None)


@given(VALUES)
def test_what_is_written_is_json_for_the_strictest(value: object) -> None:
    """Neither NaN nor half a surrogate ever leaves."""
    for fast in (orjson, None):
        try:
            data = write(value, fast)
        except (TypeError, ValueError):
            continue
        try:
            orjson.loads(data)
        except ValueError:
            pytest.fail(f"{data!r} is no JSON")
        assert read(data) == read(data)


PLACES = st.lists(st.text("ab", min_size=1, max_size=2) | st.integers(0, 3), max_size=5)


def planted(place: list[str | int], what: object) -> Any:
    """Lists and objects that have *what* at that place, and null wherever else there is room."""
    value: Any = what
    for step in reversed(place):
        value = {"null": None, step: value} if isinstance(step, str) else [*[None] * step, value]
    return value


def written(place: list[str | int]) -> str:
    """The place, as an error says it."""
    return "".join(f".{step}" if isinstance(step, str) else f"[{step}]" for step in place)


@given(PLACES, st.sampled_from([math.nan, math.inf, -math.inf]))
def test_what_is_no_number_is_found(place: list[str | int], number: float) -> None:
    """Wherever it is; the error leads there."""
    for fast in (orjson, None):
        with pytest.raises(ValueError, match=rf"^x{re.escape(written(place))} is {number}, and JSON has no"):
            write(planted(place, number), fast, "x")
        for error, what in ((TypeError, Foreign()), (ValueError, Color.NONE), (TypeError, Color.DAY)):
            with pytest.raises(error, match=f"^x{re.escape(written(place))}[: ]"):
                write(planted(place, what), fast, "x")


@pytest.mark.parametrize("fast", [orjson, None])
def test_what_can_be_written_is_not_blamed(fast: Any) -> None:
    """Numbers and members of enums, before what cannot be. A place has no dot where nothing is named."""
    with pytest.raises(TypeError, match=r"^x\[5\]: "):
        write([1.5, Color.RED, Color.MANY, Word.A, Real.HALF, Foreign()], fast, "x")
    with pytest.raises(TypeError, match=r"^a\.b: "):
        write({"a": {"b": Foreign()}}, fast)


@pytest.mark.parametrize("fast", [orjson, None])
def test_an_error_without_a_place_is_whole(fast: Any) -> None:
    """A value that contains itself, a key that is none, what is too deep: the words are those of json."""
    cycle: list[Any] = [1]
    cycle.append({"a": cycle})
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    for value, text in (
        (cycle, "^x: Circular reference"),
        ({(1, 2): 3}, "^x: keys must be str"),
        ({"a": {math.nan: 3}}, "^x: Out of range"),
        (deep, "^x is nested too deep to be written as JSON"),
    ):
        with pytest.raises((TypeError, ValueError), match=text):
            write(value, fast, "x")
    with pytest.raises(ValueError, match=r"^the request is nested too deep"):
        write(deep, fast)
    with pytest.raises(TypeError, match=r"^Object of type Foreign is not JSON serializable"):
        write(Foreign(), fast)
    with pytest.raises(ValueError, match=r"^a value is nan"):
        write(math.nan, fast)
    with pytest.raises(ValueError, match=r"^Circular"):
        write(cycle, fast)


@pytest.mark.parametrize("fast", [orjson, None])
def test_half_a_pair_is_what_every_browser_sends(fast: Any) -> None:
    """U+FFFD for what has no UTF-8, in texts and names; what are two halves of one is one."""
    assert '["\ufffd","a\ufffdb","\U0001f600","\ufffd\U0001f600\ufffd"]'.encode() == write(
        ["\ud800", "a\udc80b", "\ud83d\ude00", "\ud83d\ud83d\ude00\ude00"], fast
    )
    assert '{"\ufffd":1}'.encode() == write({"\ud800": 1}, fast)


@given(
    st.dictionaries(ANY_TEXT.filter(lambda name: name != "input"), st.integers(), max_size=3),
    st.lists(st.integers(), max_size=3),
)
def test_what_was_written_apart_is_one_request(members: dict[str, int], items: list[int]) -> None:
    """Byte for byte what would have been written at once."""
    apart = assemble(
        {name: write(value, None) for name, value in members.items()}, [write(item, None) for item in items]
    )

    assert write({**members, "input": items}, None) == apart


@given(st.text("nul ", max_size=12), st.none() | st.just([None, 1.5, {"a": None}]))
def test_a_null_in_a_text_costs_nothing(text: str, more: object) -> None:
    """The slow writer spells a number in another way."""
    assert b'{"n":1e-7,' == write({"n": 1e-7, "text": f"null{text}", "more": more}, orjson)[:10]


def test_long_integers_stay_what_they_are() -> None:
    """What was written is read to the last digit."""
    for number in (2**63, 2**64, -(2**70) - 1, 10**400):
        assert number == read(write(number, orjson)) == read(write_received(number, orjson))


@given(VALUES.filter(lambda value: outcome(value, None) is not None))
def test_what_is_read_is_new(value: object) -> None:
    """Each time."""
    try:
        data = write([value], None)
    except (TypeError, ValueError):
        return
    one, other = read(data), read(data)
    one.clear()

    assert 1 == len(other) == len(read(data))


# -- what a server said ---------------------------------------------------------------------


@given(
    st.recursive(
        st.none() | st.floats() | st.integers() | ANY_TEXT,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    )
)
def test_whatever_was_received_can_be_sent(value: Any) -> None:
    """As a server may write it, and Python's json reads it."""
    received = json.loads(json.dumps(value))
    for fast in (orjson, None):
        data = write_received(received, fast)
        orjson.loads(data)
        assert _mended(received) == read(data)


def _mended(value: Any) -> Any:
    if isinstance(value, dict):
        return {_mended(name): _mended(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_mended(each) for each in value]
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return None if isinstance(value, float) and not math.isfinite(value) else value


@pytest.fixture
def nested() -> Iterator[Any]:
    """Nested far too deep; taken apart again, level by level."""
    value: Any = "x"
    for _ in range(100_000):
        value = [value]
    yield value
    while isinstance(value, list):
        value = value.pop()


@pytest.mark.parametrize("fast", [orjson, None])
def test_what_is_too_deep_cannot(fast: Any, nested: Any) -> None:
    """No event is that deep."""
    with pytest.raises(ValueError, match=r"^nested too deep to be written as JSON$"):
        write_received(nested, fast)
    assert b'"NaN"' == write_received("NaN", None), "a text is not taken for a number"
    assert b'["NaN",null]' == write_received(["NaN", math.nan], fast)


@pytest.mark.parametrize(
    ("include", "made"),
    [
        (None, ["reasoning.encrypted_content"]),
        (["reasoning.encrypted_content"], ["reasoning.encrypted_content"]),
        (["x"], ["x", "reasoning.encrypted_content"]),
        (["reasoning.encrypted_content", "x"], ["reasoning.encrypted_content", "x"]),
        ([], []),
        ("odd", "odd"),
    ],
)
def test_reasoning_is_asked_for_beside_what_else_is(include: Any, made: Any) -> None:
    """An empty list says that nothing is wanted; what is no list is for the server to judge."""
    given = None if include is None else Encoded(json.dumps(include).encode())
    assert made == read(with_encrypted_reasoning(given))


@pytest.mark.parametrize("fast", [orjson, None])
@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_what_was_received_beside_a_long_number_can_be_sent(fast: Any, odd: float) -> None:
    """As text, and what is no number as null."""
    received = {"a": 10**40, "b": "\u00e4", "c": odd}
    sent = b'{"a":1' + b"0" * 40 + ',"b":"\u00e4"'.encode()

    assert sent + b',"c":null}' == write_received(received, fast)
    del received["c"]
    assert sent + b"}" == write_received(received, fast)


@pytest.mark.parametrize(
    ("value", "lossless"),
    [
        ({"a": None}, True),
        ({"a": "null", "b": "\ufffd"}, True),
        ({"a": [None, math.nan]}, False),
        ({"a": "\ud800"}, False),
    ],
)
def test_what_was_written_says_all_or_not(value: Any, lossless: bool) -> None:
    """What JSON does not have is lost; what looks like it is not."""
    assert lossless is is_lossless(value, write_received(value, None))


@pytest.mark.parametrize("fast", [orjson, None])
def test_what_is_compared_has_no_order_of_keys(fast: Any) -> None:
    """Whatever is in it: also what only one of the writers can write."""
    for odd in (1, 2**70, "\ud800", {"x": None, "a": 1}):
        one, other = {"b": [odd], "a": "é"}, {"a": "é", "b": [odd]}

        assert write_sorted(one, fast) == write_sorted(other, fast)
        assert write_sorted(one, fast) != write_sorted({**one, "a": "e"}, fast)
        named = {"b": [odd, Color.RED, uuid.UUID(int=7)], "a": "é"}
        plain = {"b": [odd, "red", str(uuid.UUID(int=7))], "a": "é"}
        assert write_sorted(named, fast) == write_sorted(plain, fast)
