"""The table of a turn: what is listed follows, what is not is dirty, and every row is walked."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable
from typing import Any

import pytest

from tests.spec.diagrams import DIAGRAMS, drawn_of, turn_diagram
from wspool.core.events.classify import classify
from wspool.core.events.past import Past
from wspool.core.events.steering import Steer
from wspool.core.events.table import TURN_TABLE, Reception, Step, TurnInput, TurnState, follow
from wspool.core.events.turn import TurnMachine
from wspool.core.frames import Event, parse_event

#: The legal lives, written a second time and read as prose: in which state, on what, to which state, and what
#: becomes of the event.
STORY = """
    new: handed > sent, ignore
    new: notice extension unknown stale > new, ignore
    new: expiring > new, expiring
    sent: created > streaming, deliver
    sent: error limit > ended, end
    sent: extension > sent, deliver
    sent: notice unknown member stale > sent, ignore
    sent: expiring > sent, expiring
    streaming: terminal > settling, deliver
    streaming: error > failing, deliver
    streaming: extension unknown member progress output steer > streaming, deliver
    streaming: notice stale doubtful > streaming, ignore
    streaming: expiring > streaming, expiring
    streaming: limit > streaming, cut
    failing: terminal > settling, deliver
    failing: expired > ended, end
    failing: error extension unknown member progress output steer > failing, deliver
    failing: notice stale doubtful > failing, ignore
    failing: expiring > failing, expiring
    failing: limit > failing, cut
    settling: settled > ended, end
    settling: successor > streaming, deliver
    settling: steer extension unknown member > settling, deliver
    settling: notice stale doubtful > settling, ignore
    settling: expiring > settling, expiring
    settling: limit > settling, cut
    ended: notice extension > ended, ignore
    ended: expiring > ended, expiring
"""

PAIRS = [
    pytest.param(state, what, id=f"{state.name}-{what.name}") for state in TurnState for what in TurnInput
]

OLD, PARENT, OURS, NEXT = "resp_old", "resp_parent", "resp_ours", "resp_next"


def told() -> dict[tuple[TurnState, TurnInput], Step]:
    """The rows of the story."""
    rows = {}
    for line in STORY.strip().splitlines():
        before, rest = line.strip().split(": ")
        inputs, after = rest.split(" > ")
        state, reception = after.split(", ")
        for what in inputs.split():
            rows[TurnState(before), TurnInput(what)] = Step(TurnState(state), Reception(reception))
    return rows


@pytest.mark.parametrize(("state", "what"), PAIRS)
def test_a_pair_leads_where_the_story_says(state: TurnState, what: TurnInput) -> None:
    """A listed pair leads to its step; any other changes nothing and is dirty."""
    assert told().get((state, what), Step(state, Reception.DIRTY)) == follow(state, what)
    assert (what in TURN_TABLE[state]) == ((state, what) in told())


def event(kind: str, **fields: Any) -> Event:
    return parse_event(json.dumps({"type": kind, **fields}))


def about(kind: str, name: str, **fields: Any) -> Event:
    return event(f"response.{kind}", response={"id": name, **fields})


#: One event of each kind, and those that decide for themselves which of two they are.
ALPHABET = [
    event("keepalive"),
    event("vendor.notice"),
    event("response.heartbeat"),
    event("response.output_text.delta", delta="a"),
    about("created", OURS, previous_response_id=PARENT),
    about("created", NEXT, previous_response_id=OURS),
    about("in_progress", OURS),
    about("completed", OURS),
    about("completed", NEXT),
    about("completed", OLD),
    about("done", OURS, status="completed"),
    event("response.completed", response={"id": "resp_member"}, agent={"agent_name": "child"}),
    about("completed", "resp_foreign"),
    about("queued", "resp_foreign"),
    event("response.beat", response_id="resp_foreign"),
    event("error", error={"code": "server_error", "message": "It broke."}),
    event("error", status=400, error={"code": "websocket_connection_limit_reached"}),
    event("error", status=400, error={"code": "connection_expiring"}),
    event("error", status=400, error={"message": "Unknown type 'response.steer'."}),
    event("response.steer.accepted", steer={"id": "steer_1", "previous_response_id": OURS}),
    event("response.steer.pending", steer={"id": "steer_1", "previous_response_id": OURS}),
    event("response.steer.failed", steer={"id": "steer_1", "previous_response_id": OURS}),
]

#: What is done to a turn, beside giving it an event.
DEEDS = ("hand", "steer", "expire")

Path = tuple[int | str, ...]


def walked(path: Path) -> TurnMachine:
    """The turn that *path* leads to: numbers are events, words are deeds."""
    past = Past()
    past.begin(OLD)
    machine = TurnMachine(PARENT, None, past)
    for step in path:
        if step == "hand":
            machine.handed()
        elif step == "steer":
            machine.steer(Steer(input=[], target=OURS))
        elif step == "expire":
            machine.expire_failing()
        else:
            machine.receive(ALPHABET[int(step)])
    return machine


def moves(machine: TurnMachine) -> Iterable[int | str]:
    """What may be done next."""
    for deed in DEEDS:
        if (deed == "hand") == (machine.state is TurnState.NEW):
            yield deed
    yield from range(len(ALPHABET))


def test_every_row_is_walked_and_every_walk_is_in_the_table() -> None:
    """From a new turn, by events and deeds alone, each listed row is reached, and nothing else happens."""
    seen: set[tuple[TurnState, TurnInput]] = set()
    known: set[object] = set()
    todo: deque[Path] = deque([()])
    while todo:
        path = todo.popleft()
        here = walked(path)
        key = here.state, here.response_id, here.steered, repr(here.steers._all), here.error is None
        if key in known or len(path) > 7:
            continue
        known.add(key)
        for move in moves(here):
            machine = walked(path)
            before = machine.state
            if not isinstance(move, int):
                if move == "hand":
                    seen.add((before, TurnInput.HANDED))
                elif move == "expire" and before is TurnState.FAILING:
                    seen.add((before, TurnInput.EXPIRED))
                todo.append((*path, move))
                continue
            what = classify(ALPHABET[move], before, machine._known).what
            reception = machine.receive(ALPHABET[move])
            step = follow(before, what)
            if machine.state is TurnState.ENDED and TurnState.SETTLING in (before, step.state):
                seen.add((TurnState.SETTLING, TurnInput.SETTLED))
                step = follow(TurnState.SETTLING, TurnInput.SETTLED)

            assert (machine.state, reception) == (step.state, step.reception), f"{path} {ALPHABET[move]}"
            seen.add((before, what))
            if reception is not Reception.DIRTY:
                todo.append((*path, move))

    assert set() == set(told()) - seen


#: How a turn comes into each state: by its number in the alphabet, or a deed.
ASIDE, VENDOR, BEAT, OUTPUT, BEGIN, PROGRESS, END, STALE, MEMBER, FOREIGN = 0, 1, 2, 3, 4, 6, 7, 9, 11, 12
ERROR, LIMIT, EXPIRING, STEER = 15, 16, 17, 19
INTO: dict[TurnState, Path] = {
    TurnState.NEW: (),
    TurnState.SENT: ("hand",),
    TurnState.STREAMING: ("hand", BEGIN),
    TurnState.FAILING: ("hand", BEGIN, "steer", ERROR),
    TurnState.SETTLING: ("hand", BEGIN, "steer", END),
    TurnState.ENDED: ("hand", BEGIN, END),
}


@pytest.mark.parametrize(
    ("state", "given", "reception"),
    [
        pytest.param(TurnState.NEW, VENDOR, Reception.IGNORE, marks=pytest.mark.hits("turn: new, extension")),
        pytest.param(TurnState.NEW, BEAT, Reception.IGNORE, marks=pytest.mark.hits("turn: new, unknown")),
        pytest.param(TurnState.NEW, STALE, Reception.IGNORE, marks=pytest.mark.hits("turn: new, stale")),
        pytest.param(
            TurnState.NEW, EXPIRING, Reception.EXPIRING, marks=pytest.mark.hits("turn: new, expiring")
        ),
        pytest.param(TurnState.SENT, BEAT, Reception.IGNORE, marks=pytest.mark.hits("turn: sent, unknown")),
        pytest.param(TurnState.SENT, MEMBER, Reception.IGNORE, marks=pytest.mark.hits("turn: sent, member")),
        pytest.param(TurnState.SENT, STALE, Reception.IGNORE, marks=pytest.mark.hits("turn: sent, stale")),
        pytest.param(
            TurnState.STREAMING,
            VENDOR,
            Reception.DELIVER,
            marks=pytest.mark.hits("turn: streaming, extension"),
        ),
        pytest.param(
            TurnState.STREAMING, BEAT, Reception.DELIVER, marks=pytest.mark.hits("turn: streaming, unknown")
        ),
        pytest.param(
            TurnState.FAILING, VENDOR, Reception.DELIVER, marks=pytest.mark.hits("turn: failing, extension")
        ),
        pytest.param(
            TurnState.FAILING, BEAT, Reception.DELIVER, marks=pytest.mark.hits("turn: failing, unknown")
        ),
        pytest.param(
            TurnState.FAILING, MEMBER, Reception.DELIVER, marks=pytest.mark.hits("turn: failing, member")
        ),
        pytest.param(
            TurnState.FAILING, PROGRESS, Reception.DELIVER, marks=pytest.mark.hits("turn: failing, progress")
        ),
        pytest.param(
            TurnState.FAILING, OUTPUT, Reception.DELIVER, marks=pytest.mark.hits("turn: failing, output")
        ),
        pytest.param(
            TurnState.FAILING, STEER, Reception.DELIVER, marks=pytest.mark.hits("turn: failing, steer")
        ),
        pytest.param(
            TurnState.FAILING, STALE, Reception.IGNORE, marks=pytest.mark.hits("turn: failing, stale")
        ),
        pytest.param(
            TurnState.FAILING, FOREIGN, Reception.IGNORE, marks=pytest.mark.hits("turn: failing, doubtful")
        ),
        pytest.param(TurnState.FAILING, LIMIT, Reception.CUT, marks=pytest.mark.hits("turn: failing, limit")),
        pytest.param(
            TurnState.SETTLING, BEAT, Reception.DELIVER, marks=pytest.mark.hits("turn: settling, unknown")
        ),
        pytest.param(
            TurnState.SETTLING, MEMBER, Reception.DELIVER, marks=pytest.mark.hits("turn: settling, member")
        ),
        pytest.param(
            TurnState.SETTLING, STALE, Reception.IGNORE, marks=pytest.mark.hits("turn: settling, stale")
        ),
        pytest.param(
            TurnState.SETTLING, FOREIGN, Reception.IGNORE, marks=pytest.mark.hits("turn: settling, doubtful")
        ),
        pytest.param(
            TurnState.SETTLING,
            EXPIRING,
            Reception.EXPIRING,
            marks=pytest.mark.hits("turn: settling, expiring"),
        ),
        pytest.param(
            TurnState.ENDED, VENDOR, Reception.IGNORE, marks=pytest.mark.hits("turn: ended, extension")
        ),
        pytest.param(
            TurnState.ENDED, EXPIRING, Reception.EXPIRING, marks=pytest.mark.hits("turn: ended, expiring")
        ),
    ],
)
def test_what_changes_nothing(state: TurnState, given: int, reception: Reception) -> None:
    """It is the turn's or it is not, whatever its state; the turn stays where it is."""
    machine = walked(INTO[state])
    assert state is machine.state

    assert reception is machine.receive(ALPHABET[given])
    assert state is machine.state


def test_the_diagram_is_made_from_the_table() -> None:
    """Each row of the table that goes on is in it, and nothing else."""
    lines = turn_diagram().splitlines()

    for (state, _), step in told().items():
        if step.state is not state:
            assert any(line.startswith(f"    {state.value} -> {step.state.value} [") for line in lines)
    assert "    ended -> end" in lines


@pytest.mark.parametrize("name", DIAGRAMS)
def test_the_site_shows_the_diagrams_as_they_are(name: str) -> None:
    """A table that has changed is drawn anew by `python -m tests.spec.diagrams`."""
    assert DIAGRAMS[name]() == drawn_of(name)
