"""The table of a turn: what is listed follows, what is not is dirty, and every row is walked."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable
from typing import Any

import pytest

from tests.spec.diagrams import turn_diagram
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


def test_the_diagram_is_made_from_the_table() -> None:
    """Each row of the table that goes on is in it, and nothing else."""
    lines = turn_diagram().splitlines()

    for (state, _), step in told().items():
        if step.state is not state:
            assert any(line.strip().startswith(f"{state.value} --> {step.state.value}:") for line in lines)
    assert "    ended --> [*]" in lines
