"""The short ways for how nearly every turn begins and ends say and leave what the long way does."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest
from hypothesis import example, given, strategies as st

from tests.searching import examples
from wspool.core.events import classify as classify_module, turn
from wspool.core.events.assembly import Assembly
from wspool.core.events.classify import classify, usual_end, usual_start
from wspool.core.events.evidence import Evidence
from wspool.core.events.past import Past
from wspool.core.events.reading import Reading
from wspool.core.events.steering import Steer, Steers
from wspool.core.events.table import TurnInput, TurnState
from wspool.core.events.trust import Trust
from wspool.core.events.turn import Reception, TurnMachine
from wspool.core.frames import Event, Likeness, parse_event

#: What may be otherwise in an event than it usually is: a field of it, or of the response in it.
ODD: tuple[tuple[str, Any], ...] = (
    ("agent", {"agent_name": "/root/critic"}),
    ("agent", None),
    ("stream_id", "lane0"),
    ("stream_id", "lane1"),
    *(("sequence_number", number) for number in (-1, 0, 1, 2, 3)),
    ("response", None),
    ("response", []),
    ("response", "ours"),
    *(("response.id", name) for name in ("other", "old", "parent", None, 7, "")),
    *(("response.previous_response_id", name) for name in ("other", "old", "parent", "ours", None, 7)),
    ("response.output", []),
    ("response.output", None),
    ("response.output", "odd"),
    *(("response.status", status) for status in ("failed", "in_progress", None)),
    ("response.error", {"code": "server_error", "message": "It broke."}),
    *(("type", f"response.{kind}") for kind in ("failed", "in_progress", "output_text.delta")),
)
ITEM = {"type": "message", "id": "item_1", "content": [{"type": "output_text", "text": "x"}]}


def message(kind: str, number: int | None, odd: list[tuple[str, Any]]) -> dict[str, Any]:
    """The first or the last event of a turn, but for what is odd about it."""
    count = {} if number is None else {"sequence_number": number}
    made: dict[str, Any] = {"type": f"response.{kind}", **count, "response": {"id": "ours"}}
    if kind == "completed":
        made["response"]["output"] = [ITEM]
    for path, value in odd:
        name, _, inner = path.partition(".")
        if not inner:
            made[name] = value
        elif isinstance(made["response"], dict):
            made["response"][inner] = value
    return made


def written(message: dict[str, Any], lane: str | None) -> str:
    """As servers write it: what is looked for without decoding comes first. It names its lane."""
    named = {} if lane is None else {"stream_id": lane}
    order = ("type", "sequence_number", "stream_id", "agent", "response")
    given = {**named, **message}
    return json.dumps({name: given[name] for name in order if name in given}, separators=(",", ":"))


oddities = st.one_of(st.just([]), st.lists(st.sampled_from(ODD), min_size=1, max_size=2))
#: Most of what can go wrong at an end needs a response that has begun.
conversations = st.builds(
    lambda numbered, begins, goes_on, ends: [
        *(message("created", 0 if numbered else None, odd) for odd in begins),
        *(message("in_progress", 1 if numbered else None, odd) for odd in goes_on),
        *(message("completed", 1 + len(goes_on) if numbered else None, odd) for odd in ends),
    ],
    st.booleans(),
    st.one_of(st.just([[]]), st.lists(oddities, max_size=2)),
    st.lists(oddities, max_size=1),
    st.lists(oddities, max_size=2),
)
requests = st.fixed_dictionaries(
    {
        "parent": st.sampled_from([None, "parent"]),
        "lane": st.sampled_from([None, None, "lane0"]),
        "counts": st.booleans(),
        "exact": st.booleans(),
        "carried": st.lists(st.sampled_from(["old", "old", "parent", "ours"]), max_size=2),
    }
)


def machine_of(request: dict[str, Any]) -> TurnMachine:
    """A turn whose request was sent, on a connection with a past."""
    past = Past()
    for name in request["carried"]:
        past.begin(name)
    past.counts = request["counts"]
    machine = TurnMachine(request["parent"], request["lane"], past, Trust(exact=request["exact"]))
    machine.handed()
    return machine


def plain(value: object) -> object:
    """What a part of a machine is, to be compared."""
    if isinstance(value, (Evidence, Past, Assembly, Steers, TurnMachine, Likeness)):
        return {name: plain(getattr(value, name)) for name in type(value).__slots__}
    if isinstance(value, Event):
        return value.raw
    if isinstance(value, list):
        return [plain(each) for each in value]
    return value


def long_way(machine: TurnMachine, event: Event) -> Reception:
    """Feed an event to a machine that has no short ways."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(turn, "usual_start", lambda *_: None)
        patch.setattr(turn, "usual_end", lambda *_: None)
        patch.setattr(classify_module, "_repeats_start", lambda *_: False)
        return machine.receive(event)


@examples(1000)
@given(requests, conversations, st.booleans())
@example(
    {"parent": None, "lane": None, "counts": True, "exact": True, "carried": ["old"]},
    [message("created", 0, []), message("completed", 1, [])],
    False,
)
@example(
    {"parent": None, "lane": None, "counts": True, "exact": True, "carried": ["old"]},
    [message("created", 0, []), message("in_progress", 1, []), message("completed", 2, [])],
    False,
)
@example(
    {"parent": None, "lane": None, "counts": True, "exact": True, "carried": ["old"]},
    [message("created", 0, []), message("completed", 3, [])],
    False,
)
@example(
    {"parent": None, "lane": None, "counts": True, "exact": True, "carried": ["old"]},
    [message("created", 0, [("response.id", "old")])],
    False,
)
def test_the_short_way_is_the_long_way(request_, messages, steered) -> None:
    """Whatever comes, in whatever order: the same receptions, and the same machine afterwards."""
    one, other = machine_of(request_), machine_of(request_)
    for message in messages:
        raw = written(message, request_["lane"])
        assert long_way(other, parse_event(raw)) is one.receive(parse_event(raw))
        if steered and one.state is TurnState.STREAMING and one.response_id is not None:
            for machine in (one, other):
                assert machine.steer(Steer(input=[], target=one.response_id))
            steered = False

        mine, theirs = plain(one), plain(other)
        assert isinstance(mine, dict)
        assert isinstance(theirs, dict)
        mine.pop("parts"), theirs.pop("parts")
        assert repr(theirs) == repr(mine)
        assert [attrs.asdict(part) for part in other.parts] == [attrs.asdict(part) for part in one.parts]


@pytest.mark.parametrize("number", [None, 0])
@pytest.mark.parametrize("parent", [None, "parent"])
def test_what_is_usual_goes_the_short_way(number: int | None, parent: str | None) -> None:
    """Else it would be no shortcut, and all would still be the same."""
    count = {} if number is None else {"sequence_number": number}
    known = Evidence(parent, None, Past(), Trust())
    begun = parse_event(
        json.dumps(
            {"type": "response.created", **count, "response": {"id": "a", "previous_response_id": parent}}
        )
    )

    assert "a" == usual_start(begun, known)
    assert TurnInput.CREATED is classify(begun, TurnState.SENT, known).what
    known.response_id = "a"
    if number is not None:
        known.take(number)
    count = {} if number is None else {"sequence_number": number + 1}
    ended = parse_event(json.dumps({"type": "response.completed", **count, "response": {"id": "a"}}))
    reading = usual_end(ended, known)
    assert isinstance(reading, Reading)
    assert attrs.asdict(classify(ended, TurnState.STREAMING, known)) == attrs.asdict(reading)


@pytest.mark.parametrize("odd", [[], [("response.status", "queued")], [("agent", None)]])
@pytest.mark.parametrize("number", [None, 0])
def test_what_repeats_the_beginning_is_not_read(number: int | None, odd: list[tuple[str, Any]]) -> None:
    """What servers repeat of a response may be long. One letter that differs, and it is."""
    machine = TurnMachine()
    machine.handed()
    begun = parse_event(written(message("created", number, []), None))
    goes_on = parse_event(written(message("in_progress", None if number is None else 1, odd), None))

    assert Reception.DELIVER is machine.receive(begun)
    assert Reception.DELIVER is machine.receive(goes_on)
    assert (goes_on._data is None) == (not odd)
