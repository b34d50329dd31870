"""Marks: from any row of a state table, and any way to end a connection or refuse a waiter, to its test.

A row's mark is its name: `turn: streaming, limit`. A way's mark stands in the code, at the end of its line
or above it: `# mark: dirty: not in the table`. Exactly one test names each, by
`@pytest.mark.hits("turn: streaming, limit")`; whoever reads the one finds the other by searching for it.

Rules of this module:

* It costs the library nothing: no mark is called. While a test runs that names some, the rows of the tables
  tell who reads them, and Python tells which lines run. A test that does not hit what it names fails.
* What ends a connection or refuses a waiter (`WAYS`) has a mark; `tests/test_marks.py` looks.
"""

from __future__ import annotations

import ast
import enum
import functools
import re
import sys
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final, cast

from wspool.core.events.table import TURN_TABLE
from wspool.core.states import CONNECTION_TABLE, LANE_TABLE

ROOT: Final = Path(__file__).parent.parent

TABLES: Final[Mapping[str, Mapping[Any, Mapping[Any, Any]]]] = {
    "connection": CONNECTION_TABLE,
    "lane": LANE_TABLE,
    "turn": TURN_TABLE,
}

#: What goes a way: a return, a refusal, the end of a connection that is dirty or cut.
WAYS: Final = re.compile(
    r"return (FOREIGN|DIRTY|_ANOTHERS|_OLD_OR_NAMELESS)$|return (why or )?(CloseReason\.DIRTY|Verdict\.MOVE)$"
    r"|\._spoil\(|\b(poison|hang_up)\(.*CloseReason\.DIRTY|\.poison\(CloseReason\.LIMIT\)|reading = GAP$"
    r"|(refuse|refuse_all|Refuse|reason)( = |\().*RefuseReason\."
)
#: A text is made of it: nobody is refused.
_TOLD: Final = "return self._shell.refusal(Refuse("

_MARK: Final = re.compile(r"# mark: (.+)$")
_TOOL: Final = 4  # of those that `sys.monitoring` has, one that nobody speaks for


def name_of(table: str, state: enum.Enum, what: enum.Enum) -> str:
    """The mark of a row."""
    return f"{table}: {state.value}, {what.value}"


def rows() -> list[str]:
    """The marks of all rows."""
    return [
        name_of(table, state, what)
        for table, states in TABLES.items()
        for state, row in states.items()
        for what in row
    ]


@functools.cache
def ways() -> tuple[dict[tuple[str, int], str], list[str]]:
    """The marks in the code, by file and line; and where one is missing."""
    found: dict[tuple[str, int], str] = {}
    missing: list[str] = []
    for path in sorted([*ROOT.glob("wspool/core/**/*.py"), *ROOT.glob("wspool/pool/**/*.py")]):
        above = None
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            code, mark, alone = line.partition("  # ")[0], _MARK.search(line), line.strip().startswith("#")
            if mark is not None and not alone:
                found[str(path), number] = mark[1]
            elif above is not None:
                found[str(path), number] = above[1]
            elif WAYS.search(code) and _TOLD not in code:
                missing.append(f"{path.relative_to(ROOT)}:{number}: {code.strip()}")
            above = mark if alone else None
    return found, missing


def claims() -> list[tuple[str, str]]:
    """The marks that tests name, each with the test."""
    found: list[tuple[str, str]] = []
    for path in sorted(ROOT.glob("tests/**/test_*.py")):
        text = path.read_text(encoding="utf-8")
        if "mark.hits(" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "hits"
            ):
                where = f"{path.relative_to(ROOT)}:{node.lineno}"
                found += [(ast.literal_eval(argument), where) for argument in node.args]
    return found


class _Row(dict[Any, Any]):
    """A row of a table that tells who reads it."""

    def __init__(self, row: Mapping[Any, Any], table: str, state: enum.Enum, seen: set[str]) -> None:
        super().__init__(row)
        self._names = {what: name_of(table, state, what) for what in row}
        self._seen = seen

    def __getitem__(self, what: Any) -> Any:
        found = super().__getitem__(what)
        self._seen.add(self._names[what])
        return found

    def get(self, what: Any, default: Any = None) -> Any:
        try:
            return self[what]
        except KeyError:
            return default


def can_watch() -> bool:
    """Whether nobody else traces lines, coverage for one; since Python 3.12 both can."""
    return sys.version_info >= (3, 12) or sys.gettrace() is None


@contextmanager
def watching() -> Generator[set[str], None, None]:
    """Within, the marks that are hit go into the set that is given."""
    seen: set[str] = set()
    with ExitStack() as stack:
        for table, states in TABLES.items():
            held = cast("dict[Any, Mapping[Any, Any]]", states)
            stack.callback(held.update, dict(held))
            held.update({state: _Row(row, table, state, seen) for state, row in held.items()})
        stack.enter_context(_lines(ways()[0], seen))
        yield seen


@contextmanager
def _lines(wanted: Mapping[tuple[str, int], str], seen: set[str]) -> Generator[None, None, None]:
    """Within, the names of those lines that run go into *seen*."""
    if sys.version_info >= (3, 12):
        monitoring = sys.monitoring

        def ran(code: CodeType, number: int) -> Any:
            name = wanted.get((code.co_filename, number))
            if name is None:
                return monitoring.DISABLE  # asked once, and never again
            seen.add(name)
            return None

        monitoring.use_tool_id(_TOOL, "wspool marks")
        monitoring.register_callback(_TOOL, monitoring.events.LINE, ran)
        monitoring.set_events(_TOOL, monitoring.events.LINE)
        try:
            yield
        finally:
            monitoring.set_events(_TOOL, 0)
            monitoring.free_tool_id(_TOOL)
        return

    files = {file for file, _ in wanted}

    def enter(frame: FrameType, event: str, argument: Any) -> Any:
        return trace if frame.f_code.co_filename in files else None

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        name = wanted.get((frame.f_code.co_filename, frame.f_lineno))
        if event == "line" and name is not None:
            seen.add(name)
        return trace

    sys.settrace(enter)
    try:
        yield
    finally:
        sys.settrace(None)
