"""The table of faults, made of the tests: what each says in its docstring is what it proves."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Final

import attrs

__all__ = ["DOCUMENT", "Row", "render", "rows"]

_HERE: Final = Path(__file__).parent

#: Where the tests are.
_FOLDERS: Final = (_HERE, *(_HERE.parent / name for name in ("network", "proxy", "rollout")))

#: The table, for people.
DOCUMENT: Final = _HERE.parent.parent / "docs" / "faults.md"

#: "F08: what happens -> what a user sees". A docstring may hold several, each from the start of a line.
_ROW: Final = re.compile(r"^([FD]\d{2,3}): (.+?) -> (.+?)$", re.DOTALL)

_HEAD: Final = """\
# Faults, and what you see of them

Each row is proved by the test of its number: in `tests/faults`, on both wires where a wire matters, against
the reference server, under a virtual clock where time passes; and in `tests/network`, over a real network
between two namespaces, with packets dropped, and through nginx, haproxy and stunnel; in `tests/proxy`, as a
client of `wspool proxy`; in `tests/rollout`, as who starts a batch. This page is made from those tests:
`python -m tests.faults` writes it.

Unless a row says otherwise nothing is sent again (`replay="proven"`), no other turn notices, and the next
turn works: on the same connection if that is provably clean, on another if it is not. *Nothing* means that
the turn goes well and your code sees no sign of the fault. Seconds are those of the default `PoolPolicy`.
"""

_SECTIONS: Final = {
    "F": (
        "The catalogue",
        "F01 to F30 are about the connection, F31 to F47 about the way to it, F48 to F68 about what "
        "is said over it, F69 to F86 about your tasks, the process and its clocks, F95 to F97 about "
        "refusals, F100 to F102 about gateways, F111 to F118 and F141 to F149 about what is sent "
        "again, F119 to F126 about tools, F127 to F133 about an endpoint of no use, F150 to F169 and F186 "
        "on about `wspool proxy`, F170 to F179 about rollouts, F180 to F184 about who watches, the rest "
        "about security.",
    ),
    "D": ("Defects of other clients", "What other clients of this protocol were seen to get wrong."),
}


@attrs.frozen(order=True)
class Row:
    """One row.

    Attributes:
        number: `F` or `D` and two digits or three.
        order: its place among the rows of that number.
        fault: what happens.
        seen: what a user sees of it.
        expected: False if the test is expected to fail.
    """

    number: str
    order: int
    fault: str
    seen: str
    expected: bool


def rows() -> list[Row]:
    """All rows, in the order of their numbers.

    Raises:
        ValueError: a test is named for a number, and its docstring is no row of it.
    """
    found: list[Row] = []
    for path in sorted(path for folder in _FOLDERS for path in folder.glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef):
                continue
            name = re.match(r"test((?:_[fd]\d{2,3})+)_", node.name)
            if name is None:
                continue
            numbers = name[1].upper().strip("_").split("_")
            expected = "xfail" not in " ".join(ast.unparse(each) for each in node.decorator_list)
            texts = re.split(r"\n(?=[FD]\d{2,3}: )", ast.get_docstring(node) or "")
            matches = [_ROW.match(" ".join(text.split())) for text in texts]
            if numbers != [match[1] if match else None for match in matches]:
                raise ValueError(f"{path.name}: the docstring of {node.name} is no row of {numbers}")
            for match in matches:
                if match is not None:
                    found.append(Row(match[1], len(found), match[2], match[3], expected))
    return sorted(found, key=lambda row: (row.number[0], int(row.number[1:]), row.order))


def render() -> str:
    """The page."""
    lines = [_HEAD]
    for letter, (title, about) in _SECTIONS.items():
        lines += [f"## {title}\n", f"{about}\n", "| | fault | what a user sees |", "|---|---|---|"]
        for row in rows():
            if row.number.startswith(letter):
                seen = row.seen if row.expected else f"*Not yet:* {row.seen}"
                lines.append(f"| {row.number} | {row.fault.strip('.')} | {seen} |")
        lines.append("")
    return "\n".join(lines)
