"""The two tables: what is listed works, what is not raises, and no life is a dead end."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, TypeAlias

import pytest

from wspool.core.states import (
    CONNECTION_TABLE,
    LANE_TABLE,
    ConnectionInput,
    ConnectionState,
    IllegalInputError,
    LaneInput,
    LaneState,
    advance,
)

Table: TypeAlias = Mapping[Any, Mapping[Any, Any]]

#: The legal lives, written a second time and read as prose.
CONNECTION_STORY = """
    dialing -connect-> open;     dialing -fail-> closed;      dialing -hang up-> closing
    open -retire-> retiring;     open -hang up-> closing;     open -lose-> closed
    retiring -hang up-> closing; retiring -lose-> closed;     closing -go-> closed
"""
LANE_STORY = """
    idle -grant-> leased;        idle -warm-> warming;        idle -end-> dead
    warming -finish-> idle;      warming -end-> dead
    leased -start-> in flight;   leased -release-> idle;      leased -end-> dead
    leased -park-> parked;       parked -start-> in flight;   parked -steal-> idle
    parked -release-> idle;      parked -end-> dead
    in flight -finish-> leased;  in flight -abandon-> draining; in flight -end-> dead
    draining -finish-> leased;   draining -release-> quarantined; draining -end-> dead
    quarantined -finish-> idle;  quarantined -end-> dead
"""

TABLES: list[tuple[Table, type[enum.Enum], type[enum.Enum], str]] = [
    (CONNECTION_TABLE, ConnectionState, ConnectionInput, CONNECTION_STORY),
    (LANE_TABLE, LaneState, LaneInput, LANE_STORY),
]
PAIRS = [
    pytest.param(table, state, what, id=f"{state.name}-{what.name}")
    for table, states, inputs, _ in TABLES
    for state in states
    for what in inputs
]


def reachable(table: Table, start: enum.Enum) -> set[enum.Enum]:
    found, todo = {start}, [start]
    while todo:
        for after in table[todo.pop()].values():
            if after not in found:
                found.add(after)
                todo.append(after)
    return found


@pytest.mark.parametrize(("table", "state", "what"), PAIRS)
def test_a_pair_works_exactly_if_it_is_listed(table: Table, state: enum.Enum, what: enum.Enum) -> None:
    """A listed pair leads to its state; any other raises, naming both, and changes nothing."""
    before = {key: dict(row) for key, row in table.items()}
    if what in table[state]:
        assert table[state][what] is advance(table, state, what)
    else:
        with pytest.raises(IllegalInputError) as caught:
            advance(table, state, what)
        assert f"{what.value!r} is illegal while {state.value!r}" == str(caught.value)

    assert before == table


@pytest.mark.parametrize(("table", "states", "inputs", "story"), TABLES)
def test_the_table_is_the_story(
    table: Table, states: type[enum.Enum], inputs: type[enum.Enum], story: str
) -> None:
    """Exactly the legal lives are listed, no pair more or less."""
    expected: dict[tuple[enum.Enum, enum.Enum], enum.Enum] = {}
    for line in story.replace("\n", ";").split(";"):
        if line.strip():
            before, rest = line.strip().split(" -")
            what, after = rest.split("-> ")
            expected[states(before), inputs(what)] = states(after)

    assert expected == {(state, what): after for state, row in table.items() for what, after in row.items()}


@pytest.mark.parametrize(("table", "states", "inputs", "story"), TABLES)
def test_every_state_and_input_is_used(
    table: Table, states: type[enum.Enum], inputs: type[enum.Enum], story: str
) -> None:
    """Nothing is declared that no life contains."""
    assert set(states) == set(table)
    assert set(inputs) == {what for row in table.values() for what in row}


@pytest.mark.parametrize(
    ("table", "first", "last"),
    [
        (CONNECTION_TABLE, ConnectionState.DIALING, ConnectionState.CLOSED),
        (LANE_TABLE, LaneState.IDLE, LaneState.DEAD),
    ],
)
def test_every_life_can_begin_and_end(table: Table, first: enum.Enum, last: enum.Enum) -> None:
    """Every state is reached from the first, reaches the last, and the last is left by nothing."""
    assert set(table) == reachable(table, first)
    assert [] == [state for state in table if last not in reachable(table, state)]
    assert {} == table[last]


@pytest.mark.hits("lane: warming, end", "lane: in flight, end", "lane: quarantined, end", "lane: parked, end")
def test_the_end_of_a_connection_ends_its_lanes_whatever_they_do() -> None:
    """No lane that lives can refuse to end with its connection."""
    assert {LaneState.DEAD} == {
        advance(LANE_TABLE, state, LaneInput.END) for state in LaneState if state is not LaneState.DEAD
    }


def test_a_closed_connection_never_opens_again() -> None:
    """Once it is closing there is no way back to where turns run."""
    for state in (ConnectionState.CLOSING, ConnectionState.CLOSED):
        assert {ConnectionState.CLOSING, ConnectionState.CLOSED} >= reachable(CONNECTION_TABLE, state)


def test_an_abandoned_turn_must_end_before_its_lane_is_granted() -> None:
    """From the tail of an abandoned turn only its end leads back to use."""
    for state in (LaneState.DRAINING, LaneState.QUARANTINED):
        with pytest.raises(IllegalInputError):
            advance(LANE_TABLE, state, LaneInput.GRANT)
        with pytest.raises(IllegalInputError):
            advance(LANE_TABLE, state, LaneInput.START)
