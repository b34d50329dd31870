"""Events in, requests out, and what every shape of error says."""

from __future__ import annotations

import json
import re
import sys
import tracemalloc
from collections.abc import Iterator
from typing import Any

import attrs
import pytest
from hypothesis import example, given, strategies as st

from wspool.core import frames
from wspool.core.error import WsPoolError
from wspool.core.frames import (
    Event,
    MalformedMessageError,
    encode,
    lane_of,
    parse_event,
    read_object,
)
from wspool.core.server_error import ServerError, parse_error
from wspool.core.waits import LONGEST

# Without low surrogates: a high one and a low one in a row are one character once they were JSON.
TEXT = st.text(st.characters(exclude_categories=()).filter(lambda char: not "\udc00" <= char <= "\udfff"))
#: Those of more than 64 bits may come as floats.
INTEGERS = st.integers(-(2**63), 2**64 - 1)
SCALARS = st.none() | st.booleans() | INTEGERS | st.floats(allow_nan=False) | TEXT
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(TEXT, JSON, max_size=4)
#: Objects that are JSON to the letter, without half of a surrogate pair.
SOUND = st.dictionaries(
    st.text(),
    st.recursive(
        st.none() | st.booleans() | INTEGERS | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)
TYPES = st.from_regex(r"[A-Za-z0-9_.:-]{1,130}", fullmatch=True) | TEXT
BLANKS = st.text(" \t\n\r", max_size=2)

#: Pieces that JSON, and what only looks like it, is made of.
PIECES = st.sampled_from(
    [
        '{"type":"',
        '{"type": "',
        "response.created",
        '"',
        "}",
        "{",
        "[",
        "]",
        ",",
        ":",
        "null",
        "1",
        "\x00",
        " ",
        "\\u",
    ]
)
ALMOST = st.lists(PIECES | TEXT, max_size=8).map("".join)
NESTED = "[" * 100_000
DIGITS = '{"a":' + "1" * 5000 + "}"


@st.composite
def written(draw: st.DrawFn) -> str:
    """A JSON object with a type, as any server might write it."""
    fields = {**draw(OBJECTS), "type": draw(TYPES)}
    names = draw(
        st.just(["type", *(name for name in fields if name != "type")]) | st.permutations(list(fields))
    )
    comma, colon = draw(BLANKS) + "," + draw(BLANKS), draw(BLANKS) + ":" + draw(BLANKS)
    separators = draw(st.sampled_from([(",", ":"), (", ", ": "), (comma, colon)]))
    return json.dumps(
        {name: fields[name] for name in names},
        separators=separators,
        ensure_ascii=draw(st.booleans()),
        indent=draw(st.sampled_from([None, None, 1])),
    )


def error_of(data: dict[str, Any], wall_clock: float = 0.0) -> ServerError:
    """What *data* says, without its copy of the frame."""
    return attrs.evolve(parse_error(data, wall_clock=wall_clock), raw={})


# -- events ---------------------------------------------------------------------------------


@given(written())
@example('{"type":"response.created"}')
@example('{"type": "response.created", "response": {}}')
@example('{"type":"a","error":{"type":"b"}}')
def test_the_type_known_at_once_is_the_type_in_the_json(text: str) -> None:
    """Whatever a JSON writer makes of an object, its event has that object's type and data."""
    event = parse_event(text)
    expected = json.loads(text)

    assert expected["type"] == event.type
    assert expected == event.data


@given(written())
def test_bytes_say_the_same_as_text(text: str) -> None:
    """A message of UTF-8 bytes gives the event that its text gives."""
    plain = json.dumps(json.loads(text), separators=(",", ":"), ensure_ascii=False)
    # Half a surrogate pair has no UTF-8: who sends one must escape it.
    raw = re.sub("[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", plain).encode()
    event = parse_event(raw)

    assert parse_event(raw.decode()).type == event.type
    assert json.loads(text) == event.data
    assert raw == event.raw


#: Texts that look like the number and the lane of an event, inside and outside of strings.
LOOKALIKES = st.sampled_from(
    [
        '"sequence_number":7}',
        '"sequence_number": 7',
        ',"sequence_number":7,"stream_id":"x"}',
        '"stream_id":"x"}',
    ]
)


@given(
    st.permutations(["delta", "sequence_number", "stream_id", "item"]),
    LOOKALIKES | TEXT,
    st.integers(-1, 10**30) | st.none() | st.just(1.5),
    st.none() | st.sampled_from(["lane", "", "a.b-c_d"]),
    st.sampled_from([(",", ":"), (", ", ": ")]),
)
def test_number_and_lane_are_never_taken_for_others(order, text, number, lane, separators) -> None:
    """What is read is what the JSON says, wherever it stands. A number that seemed to be missing is a gap."""
    fields = {"delta": text, "sequence_number": number, "stream_id": lane, "item": {"sequence_number": 9}}
    message = json.dumps({"type": "a.b", **{name: fields[name] for name in order}}, separators=separators)
    for event in (parse_event(message), parse_event(message.encode())):
        usual = isinstance(number, int) and number < 10**18
        assert event.sequence_number in ((number,) if usual else (None, number))
        assert event.stream_id in (None, lane)
        assert (lane or None) == lane_of(event)


@pytest.mark.parametrize(
    ("message", "number", "lane"),
    [
        ('{"type":"a","sequence_number":3}', 3, None),
        ('{"type": "a", "sequence_number": 3, "x": 1}', 3, None),
        ('{"type":"a","sequence_number":3,"stream_id":"l","x":1}', 3, "l"),
        ('{"type":"a","x":1,"sequence_number":3}', 3, None),
        ('{"type": "a", "x": 1, "sequence_number": 3}', 3, None),
        ('{"type":"a","x":1,"sequence_number":-1}', -1, None),
        ('{"type":"a","x":{"sequence_number":9},"sequence_number":3}', 3, None),
        ('{"type":"a","x":1,"sequence_number":3,"stream_id":"l"}', 3, "l"),
        ('{"type":"a","x":1,"sequence_number":"3"}', None, None),
        ('{"type":"a","output_index":0,"sequence_number":3,"summary_index":0}', 3, None),
        ('{"type": "a", "x": [], "sequence_number": 3, "stream_id": "l", "text": "b\\"}]{,:"}', 3, "l"),
        ('{"type":"a","sequence_number":3,"text":"\\",\\"stream_id\\":\\"m\\""}', 3, None),
        ('{"type":"a","x":1,"sequence_number":3,"text":"%s"}' % ("b" * 999), 3, None),
        ('{"type":"a","x":1,"sequence_number":3,"y":{"sequence_number":4}}', 3, None),
        ('{"type":"a","x":1,"sequence_number":3,"y":[{"z":4}]}', 3, None),
        ('{"type":"a","x":{"sequence_number":3}}', None, None),
        ('{"sequence_number":3,"stream_id":"l","type":"a"}', 3, "l"),
        ('{"sequence_number":true,"stream_id":"","type":"a"}', None, None),
        ('{"type":"a"}', None, None),
    ],
)
def test_number_and_lane_in_their_usual_places(message: str, number: int | None, lane: str | None) -> None:
    """Right after the type, at the end with plain members behind it, or anywhere else: then it is decoded."""
    for event in (parse_event(message), parse_event(message.encode())):
        assert (number, lane) == (event.sequence_number, event.stream_id)


@pytest.mark.parametrize("more", ["", "x"])
def test_a_lane_is_found_behind_any_text(more: str) -> None:
    """Also where the look at the end of the bytes begins within a letter."""
    raw = json.dumps({"type": "a", "delta": "\u00e4" * 400 + more, "stream_id": "l"}, ensure_ascii=False)

    assert ["l", "l"] == [lane_of(Event("a", message)) for message in (raw, raw.encode())]


@given(ALMOST | TEXT)
@example("")
@example("[DONE]")
@example(NESTED)
@example(DIGITS)
@example('{"type":"a"')
@example('{"type":"a",}')
@example('{"type":"a"}x')
@example('\ufeff{"type":"a"}')
def test_any_text_is_an_event_or_malformed(text: str) -> None:
    """No text raises anything but `MalformedMessageError`, neither at once nor when it is decoded."""
    try:
        event = parse_event(text)
        data = event.data
    except MalformedMessageError:
        return

    assert isinstance(event.type, str)
    assert isinstance(data, dict)


@given(st.binary() | ALMOST.map(lambda text: text.encode(errors="surrogatepass")))
@example(b"")
@example(NESTED.encode())
@example(b"\xff\xfe")
@example(b'{"type":"a","b":"\xff"}')
@example('{"type":"a"}'.encode("utf-16"))
def test_any_bytes_are_an_event_or_malformed(raw: bytes) -> None:
    """No bytes raise anything but `MalformedMessageError`, neither at once nor when they are decoded."""
    try:
        event = parse_event(raw)
        data = event.data
    except MalformedMessageError:
        return

    assert isinstance(event.type, str)
    assert isinstance(data, dict)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("[DONE]", "not JSON (JSONDecodeError)"),
        (b"[DONE]", "not JSON (JSONDecodeError)"),
        (b'{"a":"\xff"}', "not JSON (UnicodeDecodeError)"),
        ("[1]", "not a JSON object"),
        ("{}", "no type"),
        ('{"type":7}', "no type"),
        ('{"type":null}', "no type"),
    ],
)
def test_a_malformed_message_is_not_repeated(raw: str | bytes, reason: str) -> None:
    """The error says what is wrong with the message, and holds none of it, nor does what led to it."""
    with pytest.raises(MalformedMessageError) as caught:
        parse_event(raw)

    assert reason == str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    "raw", ['{"type":"response.created","response":{"id"', b'{"type":"response.created",']
)
def test_a_message_cut_short_is_malformed_at_once(raw: str | bytes) -> None:
    """A known type at the front does not make half a message an event."""
    with pytest.raises(MalformedMessageError, match="not JSON"):
        parse_event(raw)


def test_the_body_is_decoded_at_the_first_look() -> None:
    """A delta that nobody looks at is never decoded; one that is looked at, is once."""
    event = parse_event('{"type":"response.output_text.delta",oops}')
    good = parse_event('{"type":"response.output_text.delta","delta":"a"}')

    assert "response.output_text.delta" == event.type
    with pytest.raises(MalformedMessageError, match="not JSON"):
        _ = event.data
    assert good.data is good.data


@pytest.mark.parametrize(
    ("said", "agent"),
    [
        ('{"type":"response.output_text.delta","agent":{"agent_name":"/root/critic"}}', "/root/critic"),
        ('{"type":"response.output_text.delta","delta":"a"}', None),
        ('{"type":"response.output_text.delta","delta":"\\"agent\\""}', None),
        ('{"type":"response.completed","agent":null}', None),
        ('{"type":"x","agent":{}}', None),
        ('{"type":"x","agent":{"agent_name":7}}', None),
        ('{"type":"x","agent":"critic"}', None),
        ('{"type":"x","item":{"agent":{"agent_name":"/root"}}}', None),
    ],
)
def test_an_event_names_its_agent(said: str, agent: str | None) -> None:
    """If it has one; as text or as bytes."""
    assert agent == parse_event(said).agent == parse_event(said.encode()).agent


def test_an_event_without_an_agent_is_not_decoded_to_say_so() -> None:
    """Nearly all that ever come; of a broken one that may have one nobody knows."""
    assert parse_event('{"type":"response.output_text.delta",oops}').agent is None
    with pytest.raises(MalformedMessageError, match="not JSON"):
        _ = parse_event('{"type":"response.output_text.delta","agent"}').agent


def test_an_event_describes_itself_without_its_content() -> None:
    """The representation names the type and the size, never what a model said."""
    assert "<Event response.created, 27 bytes>" == repr(parse_event('{"type":"response.created"}'))
    assert "<Event a, 2 bytes>" == repr(Event("a", b"{}"))


# -- requests -------------------------------------------------------------------------------


@given(SOUND)
@example({"input": "\u2028 \U0001f600 \x00"})
def test_what_is_encoded_can_be_read_again(body: dict[str, Any]) -> None:
    """Every JSON body survives the trip."""
    assert body == json.loads(encode(body))


@given(SOUND, TYPES.filter(str.isascii))
def test_an_encoded_object_parses_as_an_event(body: dict[str, Any], kind: str) -> None:
    """What one side encodes, the other side's parser understands."""
    body = {"type": kind} | body | {"type": kind}

    assert (kind, body) == ((event := parse_event(encode(body))).type, event.data)


def test_a_request_is_compact_utf_8() -> None:
    """No blank is sent for nothing, and no letter takes six bytes."""
    assert '{"input":["ä",1]}'.encode() == encode({"input": ["ä", 1]})
    assert '{"input":"\ufffd"}'.encode() == encode({"input": "\ud800"})


@pytest.mark.parametrize("unfit", [object(), b"x", {1, 2}, 1j])
def test_what_json_cannot_hold_is_refused(unfit: object) -> None:
    """A body with a foreign object in it is the caller's mistake."""
    with pytest.raises(TypeError, match="not JSON serializable"):
        encode({"input": unfit})


def test_a_body_that_contains_itself_is_refused() -> None:
    """A cycle has no JSON."""
    body: dict[str, Any] = {}
    body["input"] = [body]

    with pytest.raises(ValueError, match="Circular"):
        encode(body)


# -- errors ---------------------------------------------------------------------------------

INNER = {"type": "rate_limit_error", "code": "rate_limit_exceeded", "message": "Slow down.", "param": "input"}
SAID = ServerError(code="rate_limit_exceeded", type="rate_limit_error", message="Slow down.", param="input")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(
            {"type": "error", "status": 429, "error": INNER}, attrs.evolve(SAID, status=429), id="E1"
        ),
        pytest.param(
            {"type": "error", "status": 429, "stream_id": "a", "error": INNER},
            attrs.evolve(SAID, status=429),
            id="E1-lane",
        ),
        pytest.param(
            {
                "type": "error",
                "status": 400,
                "error": {"code": "previous_response_not_found", "message": "No."},
            },
            ServerError(code="previous_response_not_found", message="No.", status=400),
            id="E1-short",
        ),
        pytest.param(
            {"type": "error", "sequence_number": 2, "error": {**INNER, "headers": {"retry-after": 3}}},
            attrs.evolve(SAID, in_stream=True, retry_after=3.0),
            id="E2",
        ),
        pytest.param(
            {"type": "error", "status": 429, "sequence_number": 2, "error": INNER},
            attrs.evolve(SAID, status=429),
            id="E1-numbered",
        ),
        pytest.param(
            {**INNER, "type": "error", "sequence_number": 0},
            attrs.evolve(SAID, type=None, in_stream=True),
            id="E3",
        ),
        pytest.param(
            {"type": "error", "status_code": 429, "error": INNER}, attrs.evolve(SAID, status=429), id="E4"
        ),
        pytest.param(
            {"type": "error", "status": 429, "error": INNER, "headers": {"Retry-After": 7, "x-a": True}},
            attrs.evolve(SAID, status=429, retry_after=7.0),
            id="E5",
        ),
        pytest.param(
            {"type": "error", "status": 429, "body": {"error": INNER}},
            attrs.evolve(SAID, status=429),
            id="E6",
        ),
        pytest.param({"type": "error", "error": INNER}, SAID, id="E7"),
        pytest.param({"type": "error", "error": "Boom."}, ServerError(message="Boom."), id="E7-text"),
        pytest.param(
            {"type": "response.failed", "sequence_number": 9, "response": {"id": "resp_1", "error": INNER}},
            attrs.evolve(SAID, in_stream=True),
            id="E8",
        ),
        pytest.param({"type": "response.error", "error": INNER}, SAID, id="E9"),
        pytest.param({**INNER, "type": "response.error"}, attrs.evolve(SAID, type=None), id="E9-flat"),
        pytest.param({"type": "error"}, ServerError(), id="nothing"),
        pytest.param({"type": "error", "error": None}, ServerError(), id="null"),
        pytest.param({"type": "error", "error": {"code": None, "message": 7}}, ServerError(), id="no-texts"),
        pytest.param(
            {"type": "error", "status": "400", "error": {}}, ServerError(status=400), id="status-text"
        ),
    ],
)
def test_every_shape_of_error_is_understood(data: dict[str, Any], expected: ServerError) -> None:
    """Whoever reports an error in whatever form, it says the same."""
    assert expected == error_of(data)
    assert data == parse_error(data).raw


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (ServerError(code="websocket_connection_limit_reached"), "is_connection_limit"),
        (ServerError(code="connection_expiring", status=400), "is_expiry_notice"),
        (ServerError(code="previous_response_not_found"), "is_parent_missing"),
        (ServerError(message="Invalid previous_response_id."), "is_parent_missing"),
        (ServerError(status=429), "is_rate_limit"),
        (ServerError(code="rate_limit_exceeded"), "is_rate_limit"),
        (ServerError(type="rate_limit_error"), "is_rate_limit"),
        (ServerError(code="server_error", message="Invalid previous_response_id."), None),
        (ServerError(status=500), None),
    ],
)
def test_an_error_is_of_one_kind(error: ServerError, name: str | None) -> None:
    """The kinds that need an answer of their own are told apart, and nothing else is taken for one."""
    kinds = ("is_connection_limit", "is_expiry_notice", "is_parent_missing", "is_rate_limit")

    assert ([name] if name else []) == [kind for kind in kinds if getattr(error, kind)]


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (ServerError(status=429, retry_after=7.0), 7.0),
        (ServerError(status=503, retry_after=7.0), 7.0),
        (ServerError(status=429), 0.0),
        (ServerError(status=400, retry_after=7.0), 0.0),
        (ServerError(status=429, code="insufficient_quota", retry_after=7.0), 0.0),
        (ServerError(status=429, retry_after=3600.0), 3600.0),
        (ServerError(status=429, retry_after=3601.0), 0.0),
    ],
)
def test_only_an_error_that_may_pass_holds_the_endpoint(error: ServerError, seconds: float) -> None:
    """A wait is everybody's where waiting can help, and nobody's where it cannot."""
    assert seconds == error.hold


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"headers": {"retry-after-ms": "1500"}}, 1.5),
        ({"headers": {"RETRY-AFTER": "2"}}, 2.0),
        ({"headers": {"retry-after": 2.5}}, 2.5),
        ({"headers": {"retry-after": "Sun, 09 Sep 2001 01:46:45 GMT"}}, 5.0),
        ({"headers": {"retry-after": True}}, None),
        ({"headers": "retry-after: 2"}, None),
        ({"headers": {}}, None),
        ({"error": {"headers": {"Retry-After": "3"}}}, 3.0),
        ({"headers": {"x": "y"}, "error": {"headers": {"Retry-After": "3"}}}, 3.0),
        ({"headers": {"Retry-After": "1"}, "error": {"headers": {"Retry-After": "3"}}}, 1.0),
        ({"error": {"headers": {"Retry-After": "3"}, "resets_at": 1e9 + 4}}, 3.0),
        ({"error": {"resets_at": 1e9 + 4, "message": "try again in 9s"}}, 4.0),
        ({"error": {"resets_at": 10**9 - 4}}, 0.0),
        ({"error": {"resets_at": 10**9 + 7200}}, 7200.0),
        ({"error": {"resets_at": "tomorrow"}}, None),
        ({"error": {"message": "Please try again in 1.5s."}}, 1.5),
        ({"error": {"message": "Please Try Again In 20ms"}}, 0.02),
        ({"error": {"message": "try again in 5 seconds, or later"}}, 5.0),
        ({"error": {"message": "try again in 1 second"}}, 1.0),
        ({"error": {"message": "try again in 999999999s"}}, LONGEST),
        ({"error": {"message": "try again in 3 score years"}}, None),
        ({"error": {"message": "try again in a while"}}, None),
    ],
)
def test_the_first_retry_hint_counts(more: dict[str, Any], expected: float | None) -> None:
    """Headers go before a reset time, and that before the wording of the message."""
    assert expected == error_of({"type": "error", **more}, wall_clock=1e9).retry_after


def test_a_reset_time_needs_a_clock() -> None:
    """Without the time of day a date says nothing about how long to wait."""
    assert error_of({"type": "error", "error": {"resets_at": 1e9}}).retry_after is None


@given(OBJECTS, st.dictionaries(st.sampled_from(["code", "message", "type", "param", "headers"]), JSON))
def test_no_error_frame_raises(data: dict[str, Any], inner: dict[str, Any]) -> None:
    """An error that makes no sense is still an error."""
    for frame in (data, {**data, "error": inner}, {**data, **inner}, {**data, "body": {"error": inner}}):
        error = parse_error(frame, wall_clock=1e9)

        assert error.retry_after is None or 0.0 <= error.retry_after <= LONGEST


@pytest.mark.parametrize(
    "number",
    [
        pytest.param("NaN", id="NaN"),
        pytest.param("1" + "0" * 400, id="1e400"),
        pytest.param("-1" + "0" * 400, id="-1e400"),
        pytest.param("Infinity", id="Infinity"),
    ],
)
def test_an_absurd_reset_time_gives_a_usable_wait_or_none(number: str) -> None:
    """A number that no clock can show neither raises nor becomes a wait that is no number."""
    frame = parse_event('{"type":"error","error":{"resets_at":' + number + "}}").data
    hint = parse_error(frame, wall_clock=1e9).retry_after

    assert hint is None or 0.0 <= hint <= LONGEST


def test_a_status_is_a_number() -> None:
    """True is no HTTP status."""
    assert error_of({"type": "error", "status": True, "error": {}}).status is None


# -- depth ----------------------------------------------------------------------------------------


def nested(depth: int, kind: str) -> str:
    """An event of that depth, counting itself, over and over in *kind* of bracket."""
    head, tail = {"[": ("[", "]"), "{": ('{"a":', "}")}[kind]
    inner = head * (depth - 1) + "1" + tail * (depth - 1)
    return f'{{"x":{inner},"type":"odd"}}'


@pytest.mark.parametrize("as_bytes", [False, True])
@pytest.mark.parametrize("kind", ["[", "{"])
@pytest.mark.parametrize("depth", [257, 990, 2000, 100_000])
def test_a_message_that_is_nested_too_deep_is_malformed(depth: int, kind: str, as_bytes: bool) -> None:
    """Whether Python's json could read it or not, the answer is the same error, which names the limit."""
    text = nested(depth, kind)
    with pytest.raises(MalformedMessageError, match=r"nested deeper than 256 levels \(fixed\)"):
        parse_event(text.encode() if as_bytes else text)


@pytest.mark.parametrize("kind", ["[", "{"])
def test_a_message_at_the_limit_is_read_and_can_be_sent_again(kind: str) -> None:
    """What is kept of it goes out again, also from deep inside the caller's own calls."""
    event = parse_event(nested(256, kind))

    def below(calls: int) -> bytes:
        return encode(event.data) if calls == 0 else below(calls - 1)

    assert event.data == json.loads(below(300))


def test_many_brackets_are_not_depth() -> None:
    """A wide message is looked at closer, and is fine."""
    wide = {"type": "odd", "x": [{"a": [1]}] * 1000}

    assert wide == parse_event(json.dumps(wide, sort_keys=True)).data


def test_a_request_that_is_nested_too_deep_is_refused() -> None:
    """What is the caller's own is a ValueError, never a RecursionError."""
    body: dict[str, Any] = {}
    for _ in range(100_000):
        body = {"a": body}
    with pytest.raises(ValueError, match="nested too deep to be written"):
        encode(body)


def test_who_looks_into_a_malformed_event_gets_an_error_of_wspool() -> None:
    """Users can meet it: an event of a sound type is delivered undecoded."""
    event = parse_event('{"type":"response.output_text.delta","delta":' + "[" * 1000 + "}")
    with pytest.raises(WsPoolError) as caught:
        _ = event.data

    assert isinstance(caught.value, MalformedMessageError)
    assert "accepted" == caught.value.delivery


# -- with and without orjson ----------------------------------------------------------------


@pytest.fixture
def without_orjson(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if it were not installed."""
    monkeypatch.setitem(sys.modules, "orjson", None)
    frames._orjson.cache_clear()
    yield
    frames._orjson.cache_clear()


BODIES = [
    {"input": "\u00e9\u2028"},
    {"n": None},
    {"n": [1, 2.5, True]},
    {"big": 2**70},
    {"surrogate": "\ud800"},
]


@pytest.mark.parametrize("body", BODIES)
def test_the_same_bytes_without_orjson(body: dict[str, Any], without_orjson: None) -> None:
    """What is installed changes the speed of a request, and no byte of it."""
    slow = encode(body)
    frames._orjson.cache_clear()
    sys.modules.pop("orjson", None)

    assert slow == encode(body)
    assert json.loads(json.dumps(body).replace("\\ud800", "\ufffd")) == json.loads(slow)


def test_events_are_read_without_orjson(without_orjson: None) -> None:
    """The standard library reads them as well."""
    assert {"type": "x", "n": 1} == parse_event('{"type":"x","n":1}').data


@pytest.mark.parametrize("between", ["", "\n", " \r\n\t"])
@pytest.mark.parametrize("kind", [str, bytes])
def test_two_texts_are_no_message(between: str, kind: type) -> None:
    """Nobody would see the second: it may be the end of a turn."""
    event = '{"type":"response.output_text.delta","delta":"a"}'
    other = '{"type":"response.completed","response":{"id":"r"}}'
    for both in (f"{event}{between}{event}", f"{event}{between}{other}", f"{other}{between}{event}"):
        with pytest.raises(MalformedMessageError, match=r"^not one JSON text$"):
            parse_event(both if kind is str else both.encode())


@pytest.mark.parametrize("text", ["}{", "} {", '}\n{"type":"x"}'])
def test_text_may_look_like_two_texts(text: str) -> None:
    """What stands in quotes ends nothing."""
    raw = json.dumps({"type": "response.output_text.delta", "delta": text})

    for message in (raw, raw.encode()):
        assert text == parse_event(message).data["delta"]


def test_what_is_too_deep_to_be_checked_is_let_pass() -> None:
    """It is one text as far as anybody can tell, and whoever looks inside is told."""
    deep = '{"type":"x","a":[{},{"b":"} {"},' + "[" * 100_000 + "]" * 100_000 + "]}"

    event = parse_event(deep)
    assert "x" == event.type
    with pytest.raises(MalformedMessageError, match="deeper"):
        _ = event.data


# -- how many values ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [str, str.encode], ids=["text", "bytes"])
@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ('{"type":"a","b":[1,2,3,4,5]}', False),
        ('{"type":"a,,,","b":[1,2,3,4,5,6,7,8]}', False),
        ('{"type":"a","b":[1,2,3,4,5,6,7,8,9]}', True),
        ('{"type":"a","b":[{},{},{},{},{},{},{}]}', True),
        ('{"type":"a","b":[[[[[[[[[[[]]]]]]]]]]]}', True),
        ('{"type":"a","b":"1,2,3,4,5,6,7,8,9,10,{[{[{["}', False),
        ('{"type":"a","b":"1\\",2,3,4,5,6,7,8,9,10"}', False),
        ('{"type":"a","b":"1\\\\","c":[1,2,3,4,5,6,7,8,9]}', True),
        ('{"type":"a","1,2,3,4,5,6,7,8,9,10":{"b":"é,,,,,,,,,"}}', False),
        ('{"type":"a","b":",,,,,,,,,,,,,,,,,,,', False),
        ('{"b":[1,2,3,4,5,6,7,8,9],"type":"a"}', True),
    ],
)
def test_values_are_counted_outside_of_texts(raw: str, expected: bool, kind: Any, monkeypatch) -> None:
    """Whatever a text holds: there it is no value. What is too much is refused before it is decoded."""
    monkeypatch.setattr(frames, "MAX_VALUES", 10)
    assert expected is frames.has_too_many_values(kind(raw))
    if expected:
        with pytest.raises(MalformedMessageError, match="more than 10 values"):
            _ = parse_event(kind(raw)).data


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b'{"a":[1]}', {"a": [1]}),
        ('{"a":1}', {"a": 1}),
        (b"[1]", {}),
        (b"no", {}),
        (b'{"a":[' + b"1," * 400 + b"1]}", {}),
        (b'{"a":' + b"[" * 300 + b"]" * 300 + b"}", {}),
    ],
)
def test_an_object_is_read_within_the_same_limits(raw: Any, expected: Any, monkeypatch) -> None:
    """Bodies of HTTP are no messages, but cost as much."""
    monkeypatch.setattr(frames, "MAX_VALUES", 310)
    assert expected == read_object(raw)


def test_what_may_be_two_messages_is_counted_before_it_is_read(monkeypatch) -> None:
    """To tell two texts from one they would have to be decoded."""
    monkeypatch.setattr(frames, "MAX_VALUES", 10)
    raw = '{"type":"a","b":[1,2,3,4,5,6,7,8,9,"} {"]}'
    with pytest.raises(MalformedMessageError, match="more than 10 values"):
        parse_event(raw)


def test_a_huge_message_costs_no_more_than_its_size() -> None:
    """Twelve million bytes that would take some 400 MiB are refused, and nothing of them is copied."""
    raw = b'{"type":"response.completed","response":{"id":"r","output":[' + b",".join([b"{}"] * 4_000_000)
    raw += b"]}}"
    event = parse_event(raw)
    tracemalloc.start()
    with pytest.raises(MalformedMessageError, match="more than 2000000 values"):
        _ = event.data
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 1_000_000
