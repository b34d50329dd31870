"""Output told by its likeness to the output before it: the same as parsing each message."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

import pytest
from hypothesis import example, given, strategies as st

from wspool.core.events.steering import Steer
from wspool.core.events.turn import Reception, TurnMachine
from wspool.core.frames import Likeness, MalformedMessageError, parse_event

TEXT, ARGUMENTS = "response.output_text.delta", "response.function_call_arguments.delta"

#: What came of a message: its type, number and lane as parsed, and what the turn said of it.
Taken = tuple[str, str | bytes, int | None, str | None, Reception]

#: Where servers write the number and the lane. `%s`: what else there is.
LAYOUTS: Final[list[Callable[[str, int, str], dict[str, Any]]]] = [
    lambda kind, number, text: {"type": kind, "sequence_number": number, "item_id": "m", "delta": text},
    lambda kind, number, text: {"type": kind, "item_id": "m", "delta": text, "sequence_number": number},
    lambda kind, number, text: {"type": kind, "delta": text, "sequence_number": number, "stream_id": "s"},
    lambda kind, number, text: {"type": kind, "sequence_number": number, "stream_id": "s", "delta": text},
    lambda kind, number, text: {"type": kind, "item_id": "m", "sequence_number": number, "delta": text},
    lambda kind, number, text: {"sequence_number": number, "type": kind, "delta": text},
    lambda kind, number, text: {"type": kind, "stream_id": "s", "sequence_number": number, "delta": text},
    lambda kind, number, text: {"type": kind, "sequence_number": number, "stream_id": None, "delta": text},
    lambda kind, number, text: {"type": kind, "sequence_number": number},
    lambda kind, _number, text: {"type": kind, "delta": text},
    lambda kind, number, text: {"type": kind, "delta": text, "sequence_number": number, "summary_index": 0},
]


def started(lane: str | None) -> TurnMachine:
    """A turn whose response was created, with number 0."""
    machine = TurnMachine(lane=lane)
    machine.handed()
    fields: dict[str, Any] = {"type": "response.created", "sequence_number": 0, "response": {"id": "r"}}
    if lane is not None:
        fields["stream_id"] = lane
    event = parse_event(json.dumps(fields))
    event.stream_id = lane
    assert machine.receive(event) is Reception.DELIVER
    return machine


def one_by_one(machine: TurnMachine, messages: list[str | bytes]) -> list[Taken]:
    """What comes of *messages*, each parsed; up to the first that cannot be."""
    taken: list[Taken] = []
    for message in messages:
        try:
            event = parse_event(message)
            reception = machine.receive(event)
        except MalformedMessageError:
            break
        taken.append((event.type, event.raw, event.sequence_number, event.stream_id, reception))
    return taken


def in_runs(machine: TurnMachine, messages: list[str | bytes]) -> tuple[list[Taken], int]:
    """The same as the reader does it, and how many were in runs."""
    taken: list[Taken] = []
    at = in_run = 0
    while at < len(messages):
        run, text = machine.receive_run(messages[at:])
        assert "".join(str(event.raw) for event in run) == text
        for event in run:
            taken.append((event.type, event.raw, event.sequence_number, event.stream_id, Reception.DELIVER))
            at, in_run = at + 1, in_run + 1
        more = one_by_one(machine, messages[at : at + 1])
        if not more and at < len(messages):
            break
        taken += more
        at += 1
    return taken, in_run


@st.composite
def streams(draw: st.DrawFn) -> list[str | bytes]:
    """Mostly deltas of one layout, with anything that may come between or go wrong."""
    layout = draw(st.sampled_from(LAYOUTS))
    separators = draw(st.sampled_from([(",", ":"), (", ", ": ")]))
    messages: list[str | bytes] = []
    number = 0
    for _ in range(draw(st.integers(1, 12))):
        number += draw(st.sampled_from([1, 1, 1, 1, 1, 1, 1, 0, 2, -3]))
        kind = draw(st.sampled_from([TEXT, TEXT, TEXT, TEXT, ARGUMENTS, "response.completed", "keepalive"]))
        other = draw(st.sampled_from(LAYOUTS)) if draw(st.integers(0, 9)) == 0 else layout
        fields = other(
            kind, number, draw(st.sampled_from(["a", "}", ':"sequence_number":1}', ',"stream_id":"s"']))
        )
        if kind == "response.completed":
            fields["response"] = {"id": draw(st.sampled_from(["r", "q"])), "status": "completed"}
        message = json.dumps(fields, separators=separators)
        match draw(st.integers(0, 19)):
            case 0:
                message = message[:-1]
            case 1:
                message = message + " "
            case 2:
                message = message.replace('"s"', '"t"')
            case 3:
                messages.append(message.encode())
                continue
            case 4:
                message = message.replace('"item_id"', '"stream_id"')
            case _:
                pass
        messages.append(message)
    return messages


def deltas(layout: int, *numbers: int) -> list[str | bytes]:
    """Deltas with these numbers."""
    return [json.dumps(LAYOUTS[layout](TEXT, number, "a")) for number in numbers]


TWICE: Final = '{"type": "x", "sequence_number": %s, "delta": "a", "sequence_number": %d}'


@given(streams(), st.sampled_from([None, "s"]))
@example(deltas(0, *range(1, 9)), None)
@example([*deltas(0, 1, 2, 3), str(deltas(0, 4)[0])[:-1]], None)
@example([*deltas(7, 1, 2), *deltas(3, 3)], None)
@example([TWICE % ("null", 1), TWICE % ("null", 2), TWICE % ("9", 3)], None)
def test_a_run_is_what_parsing_gives(messages: list[str | bytes], lane: str | None) -> None:
    """Same events, same verdicts, same state, whatever comes."""
    slow, fast = started(lane), started(lane)

    expected = one_by_one(slow, messages)
    found, _ = in_runs(fast, messages)

    assert expected == found
    assert (slow.state, slow.output_seen, slow.response) == (fast.state, fast.output_seen, fast.response)
    after = parse_event(json.dumps({"type": TEXT, "sequence_number": 20, "delta": "b"}))
    after.stream_id = lane
    assert slow.receive(after) is fast.receive(after)


@pytest.mark.parametrize("layout", [*range(5), 10])
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_deltas_come_in_runs(layout: int, separators: tuple[str, str]) -> None:
    """Wherever servers usually write the number, all but the first two deltas are told by their likeness."""
    lane = "s" if layout in (2, 3) else None
    messages: list[str | bytes] = [
        json.dumps(LAYOUTS[layout](TEXT, number, "token"), separators=separators) for number in range(1, 101)
    ]
    taken, in_run = in_runs(started(lane), messages)

    assert (100, 98) == (len(taken), in_run)


@pytest.mark.parametrize("number", [7, 8, 9, 10, 99])
def test_only_the_number_that_is_due_goes_on(number: int) -> None:
    """A longer number, or one that only begins like it, is another one."""
    like = Likeness.of(parse_event(json.dumps(LAYOUTS[0](TEXT, 7, "a"))))
    assert like is not None

    assert bool(like.run([json.dumps(LAYOUTS[0](TEXT, number, "b"))], 9)[0]) is (number == 9)
    assert not like.run([json.dumps(LAYOUTS[0](TEXT, number * 10 + 1, "b"))], 9)[0]


@pytest.mark.parametrize(
    ("text", "goes_on"),
    [
        *[(json.dumps(LAYOUTS[0](TEXT, 8, said)), True) for said in ("a", "}", "{}", "{ }")],
        *[(json.dumps(LAYOUTS[0](TEXT, 8, said)), False) for said in ("}{", "}  {")],  # it may be two
        (deltas(0, 8)[0] * 2, False),
        (f"{deltas(0, 8)[0]!s} ", False),
        (str(deltas(0, 8)[0])[:-1], False),
        (json.dumps(LAYOUTS[0](TEXT, 8, "}"))[:-1], False),
    ],
)
def test_what_may_be_no_message_or_two_is_read_as_a_whole(text: str, goes_on: bool) -> None:
    """A bracket before the last may be the end of a message, and is nearly always a part of a text."""
    like = Likeness.of(parse_event(json.dumps(LAYOUTS[0](TEXT, 7, "a"))))
    assert like is not None

    events, taken = like.run([text], 8)

    assert ([text] if goes_on else []) == [event.raw for event in events]
    assert (text if goes_on else "") == taken


def test_numbers_go_on_for_long() -> None:
    """Those of the first thousand are written once for all; the next ones look the same."""
    numbers = range(1020, 1030)
    like = Likeness.of(parse_event(json.dumps(LAYOUTS[0](TEXT, 1019, "a"))))
    assert like is not None

    assert [*numbers] == [event.sequence_number for event in like.run(deltas(0, *numbers), 1020)[0]]


def test_bytes_are_parsed() -> None:
    """Likeness is a matter of text: it is not made of bytes, and a run ends before them."""
    text, same = deltas(0, 8, 9)
    assert Likeness.of(parse_event(json.dumps(LAYOUTS[0](TEXT, 7, "a")).encode())) is None
    like = Likeness.of(parse_event(json.dumps(LAYOUTS[0](TEXT, 7, "a"))))
    assert like is not None

    assert [text] == [event.raw for event in like.run([text, str(same).encode()], 8)[0]]


@pytest.mark.parametrize("layout", [5, 8, 9])
def test_a_number_elsewhere_has_no_likeness(layout: int) -> None:
    """Before the type, with nothing behind it, or missing: such events are parsed."""
    assert Likeness.of(parse_event(json.dumps(LAYOUTS[layout](TEXT, 7, "a")))) is None


def test_a_run_ends_before_what_may_be_two_messages() -> None:
    """Its ends look right, and there is more between them."""
    first = json.dumps({"type": "response.output_text.delta", "sequence_number": 7, "delta": "a"})
    like = Likeness.of(parse_event(first))
    assert like is not None
    one = first.replace("7", "8", 1)

    assert [one] == [event.raw for event in like.run([one, one.replace("8", "9", 1) + one], 8)[0]]


def message(number: int, text: str = "a") -> str:
    return json.dumps(LAYOUTS[0](TEXT, number, text))


def alike(count: int) -> TurnMachine:
    """A turn with so many pieces of output, all of one kind."""
    machine = started(None)
    for number in range(1, count + 1):
        assert machine.receive(parse_event(message(number))) is Reception.DELIVER
    return machine


def test_after_a_run_the_turn_goes_on_with_what_follows_it() -> None:
    """Its numbers are used up, and what comes twice is known again."""
    machine = alike(3)
    run, _ = machine.receive_run([message(number) for number in (4, 5, 6)])
    assert 3 == len(run)

    assert machine.receive(parse_event(message(7))) is Reception.DELIVER
    assert not machine.suspect
    machine.receive_run([message(8)])
    assert machine.receive(parse_event(message(8))) is Reception.IGNORE
    assert machine.suspect


@pytest.mark.parametrize("count", [1, 2, 5])
def test_what_comes_twice_is_known_again(count: int) -> None:
    """Letter for letter: it is not delivered, and the connection is not used again."""
    machine = alike(count)
    assert (False, "") == (machine.suspect, machine.complaint)

    assert machine.receive(parse_event(message(count))) is Reception.IGNORE
    assert machine.suspect


def test_a_turn_that_was_steered_has_no_runs() -> None:
    """An answer to the steer may have taken any number."""
    machine = alike(3)
    assert machine.steer(Steer(input=[], target="r"))

    assert ([], "") == machine.receive_run([message(4)])


@pytest.mark.parametrize("layout", [0, 1], ids=["number first", "number last"])
def test_only_what_is_like_it_and_has_the_next_number_is_in_a_run(layout: int) -> None:
    """In front and behind; and the text of a run is all that it stands for, brackets in it or not."""

    def piece(number: int, text: str = "a", kind: str = TEXT) -> str:
        return json.dumps(LAYOUTS[layout](kind, number, text))

    machine = started(None)
    for number in (1, 2, 3):
        assert machine.receive(parse_event(piece(number))) is Reception.DELIVER

    two = piece(4).replace('"a"', '"a"}{"b": {}')
    for other in (piece(5), piece(3), piece(4, kind=ARGUMENTS), piece(4) + "x", two):
        assert ([], "") == machine.receive_run([other])
    said = [piece(4), piece(5, "}"), piece(6, "{}")]
    run, text = machine.receive_run([*said, piece(8)])
    assert (said, "".join(said)) == ([event.raw for event in run], text)


@pytest.mark.parametrize("layout", [LAYOUTS[0], LAYOUTS[1]])
def test_what_is_about_another_item_is_looked_into(layout: Callable[[str, int, str], dict[str, Any]]) -> None:
    """It may be of another response. What is told by its likeness can be read as if it was parsed."""
    first = parse_event(json.dumps(layout(TEXT, 4, "a")))
    like = Likeness.of(first)
    assert like is not None
    second = json.dumps(layout(TEXT, 5, "b"))
    other = json.dumps(layout(TEXT, 6, "c") | {"item_id": "n"})
    events, text = like.run([second, other], 5)

    assert ([layout(TEXT, 5, "b")], second) == ([event.data for event in events], text)
