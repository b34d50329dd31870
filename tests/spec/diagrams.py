"""The three legality tables as diagrams, for the site: `python -m tests.spec.diagrams` draws them.

Each is laid out by Graphviz, once, and kept as an SVG that says what it was drawn of: so the site needs
neither Graphviz where it is built nor a network where it is read, and a test tells when a table has changed.
"""

from __future__ import annotations

import enum
import html
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

from wspool.core.events.table import TURN_TABLE
from wspool.core.states import CONNECTION_TABLE, LANE_TABLE

__all__ = ["DIAGRAMS", "DRAWN", "drawn_of", "turn_diagram"]

#: Where they are kept.
DRAWN: Final = Path(__file__).parents[2] / "docs" / "concepts"

_STYLE: Final = """\
    bgcolor=transparent
    node [shape=box, style=rounded, fontname=Helvetica, fontsize=13, height=0.4]
    edge [fontname=Helvetica, fontsize=11, arrowsize=0.7]
    begin [shape=circle, style=filled, fillcolor=black, label="", width=0.15, height=0.15]
    end [shape=doublecircle, style=filled, fillcolor=black, label="", width=0.12, height=0.12]
"""


def _name(state: enum.Enum) -> str:
    return str(state.value).replace(" ", "_")


def _diagram(of: str, table: Mapping[Any, Mapping[Any, Any]]) -> str:
    first: enum.Enum = next(iter(table))
    lines = [f"    begin -> {_name(first)}"]
    for state, row in table.items():
        # Inputs that lead to the same state share an arrow.
        targets: dict[enum.Enum, list[str]] = {}
        for what, after in row.items():
            targets.setdefault(after, []).append(str(what.value))
        lines += [
            f'    {_name(state)} -> {_name(after)} [label=" {", ".join(by)} "]'
            for after, by in targets.items()
        ]
        if not row:
            lines.append(f"    {_name(state)} -> end")
    return f'digraph "The life of a {of}" {{\n' + _STYLE + "\n".join(lines) + "\n}\n"


def connection_diagram() -> str:
    """Return the life of a connection in DOT."""
    return _diagram("connection", CONNECTION_TABLE)


def lane_diagram() -> str:
    """Return the life of a lane in DOT."""
    return _diagram("lane", LANE_TABLE)


def turn_diagram() -> str:
    """Return the life of a turn in DOT: what moves it. All else leaves it where it is."""
    return _diagram(
        "turn",
        {
            state: {what: step.state for what, step in row.items() if step.state is not state}
            for state, row in TURN_TABLE.items()
        },
    )


#: Each by its name.
DIAGRAMS: Final[dict[str, Callable[[], str]]] = {
    "connection": connection_diagram,
    "lane": lane_diagram,
    "turn": turn_diagram,
}


def _draw(diagram: str) -> str:
    """Return *diagram* as an SVG in the colour of the text around it. Needs Graphviz."""
    done = subprocess.run(["dot", "-Tsvg"], input=diagram, capture_output=True, text=True, check=True)
    picture = done.stdout[done.stdout.index("<svg") :].replace('"black"', '"currentColor"')
    about = f"<desc>{html.escape(diagram)}</desc>"
    return picture.replace("<svg ", '<svg role="img" fill="currentColor" ', 1).replace(
        "<g ", f"{about}\n<g ", 1
    )


def drawn_of(name: str) -> str:
    """Return what the kept picture called *name* was drawn of."""
    (about,) = ElementTree.parse(DRAWN / f"{name}.svg").iter("{http://www.w3.org/2000/svg}desc")
    return about.text or ""


if __name__ == "__main__":
    for each, made in DIAGRAMS.items():
        (DRAWN / f"{each}.svg").write_text(_draw(made()), encoding="utf-8")
