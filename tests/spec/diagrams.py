"""The three legality tables as diagrams, for the site: `python -m tests.spec.diagrams` prints them."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

from wspool.core.events.table import TURN_TABLE
from wspool.core.states import CONNECTION_TABLE, LANE_TABLE

__all__ = ["connection_diagram", "lane_diagram", "turn_diagram"]


def _name(state: enum.Enum) -> str:
    return str(state.value).replace(" ", "_")


def _diagram(table: Mapping[Any, Mapping[Any, Any]], first: enum.Enum) -> str:
    lines = ["stateDiagram-v2", f"    [*] --> {_name(first)}"]
    for state, row in table.items():
        # Inputs that lead to the same state share an arrow.
        targets: dict[enum.Enum, list[str]] = {}
        for what, after in row.items():
            targets.setdefault(after, []).append(str(what.value))
        lines += [f"    {_name(state)} --> {_name(after)}: {', '.join(by)}" for after, by in targets.items()]
        if not row:
            lines.append(f"    {_name(state)} --> [*]")
    return "\n".join(lines) + "\n"


def connection_diagram() -> str:
    """Return the life of a connection as a Mermaid diagram."""
    return _diagram(CONNECTION_TABLE, next(iter(CONNECTION_TABLE)))


def lane_diagram() -> str:
    """Return the life of a lane as a Mermaid diagram."""
    return _diagram(LANE_TABLE, next(iter(LANE_TABLE)))


def turn_diagram() -> str:
    """Return the life of a turn as a Mermaid diagram: what moves it. All else leaves it where it is."""
    return _diagram(
        {
            state: {what: step.state for what, step in row.items() if step.state is not state}
            for state, row in TURN_TABLE.items()
        },
        next(iter(TURN_TABLE)),
    )


if __name__ == "__main__":
    print(connection_diagram(), lane_diagram(), turn_diagram(), sep="\n")  # noqa: T201
