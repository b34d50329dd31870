"""Task files: rows in, tasks out, and every mistake named before anything runs.

Each line has its own shape (`shapes.py`), and one file holds Batch lines or plain ones. A row without an id
gets one that is made of what it says, so that it has the same in the next run.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

import attrs

from wspool.core.plain import plain
from wspool.rollout.fields import column
from wspool.rollout.rows import STDIN, Row, RowsError, read_rows
from wspool.rollout.shapes import Columns, is_batch_line, task_of
from wspool.rollout.tasks import Task

__all__ = ["BatchError", "Columns", "read_tasks"]

#: Mistakes named in one error; a file of another kind altogether has one in every line.
MAX_NAMED: Final = 20
#: Hexadecimal digits of an id that is made up.
_DIGITS: Final = 12


class BatchError(Exception):
    """The task file has mistakes; the message names each by file and line.

    Attributes:
      problems: one line of text for each mistake.
    """

    def __init__(self, problems: list[str]) -> None:
        named = [plain(problem) for problem in problems[:MAX_NAMED]]
        if len(problems) > len(named):
            named.append(f"... and {len(problems) - len(named)} more")
        super().__init__("\n".join(named))
        self.problems = tuple(problems)


def read_tasks(path: Path, columns: Columns | None = None, format: str | None = None) -> list[Task]:
    """Read a task file.

    Args:
      path: the file, or `-` for standard input.
      columns: what its fields are for.
      format: what it holds (`rows.FORMATS`); found out if not given.

    Raises:
      BatchError: it cannot be read, has no task, or some of its lines are none; or no request of it can be
        sent. One that cannot while others can is `Task.refused`.
    """
    name = "standard input" if path == STDIN else str(path)
    reading = _Reading(name, columns or Columns())
    try:
        for row in read_rows(path, format):
            try:
                reading.add(row)
            except ValueError as problem:
                reading.problems.append(f"{name}:{row.number}: {problem}")
    except RowsError as problem:
        raise BatchError([*reading.problems, f"{name}: cannot be read: {problem}"]) from problem
    if not reading.tasks and not reading.problems:
        reading.problems.append(f"{name}: there is no task in this file")
    refused = [task.refused for task in reading.tasks if task.refused is not None]
    if reading.problems or len(refused) == len(reading.tasks):
        raise BatchError([*reading.problems, *refused])
    return reading.tasks


class _Reading:
    """The tasks of one file as they are read."""

    def __init__(self, name: str, columns: Columns) -> None:
        self._name = name
        self.tasks: list[Task] = []
        self.problems: list[str] = []
        self._columns = columns
        self._seen: dict[str, int] = {}
        self._alike: Counter[str] = Counter()
        self._first: tuple[int, bool, bool] | None = None  # the line that decided which kind this file holds
        self._shared: dict[tuple[str, ...], tuple[str, ...]] = {}

    def add(self, row: Row) -> None:
        """Take one row. Raises ValueError: it is no task."""
        if row.problem is not None:
            raise ValueError(row.problem)
        value = row.value
        if not isinstance(value, dict):
            raise ValueError("not a JSON object")
        fields = cast("dict[str, Any]", value)
        task, is_batch = task_of(fields, self._columns), is_batch_line(fields, self._columns)
        found = _id(fields, self._columns)
        if found is None and (self._columns.id is not None or (self._first and self._first[2])):
            raise ValueError(_no_id(self._columns.id, self._first))
        id = str(found) if found is not None else self._made_up(fields)
        if id in self._seen:
            raise ValueError(f"the id {id!r} is taken by line {self._seen[id]}")
        self._seen[id] = row.number
        self._first = self._first or (row.number, is_batch, found is not None)
        if is_batch != self._first[1]:
            kinds = ("a plain task", "an OpenAI Batch line")
            there = f"line {self._first[0]} is {kinds[self._first[1]]}"
            raise ValueError(f"{kinds[is_batch]}, but {there}; use one kind per file")
        unsent = self._shared.setdefault(task.unsent, task.unsent)
        number = found if isinstance(found, int) else None
        refused = f"{self._name}:{row.number}: {task.refused}" if task.refused is not None else None
        self.tasks.append(attrs.evolve(task, id=id, number=number, unsent=unsent, refused=refused))

    def _made_up(self, fields: Mapping[str, Any]) -> str:
        digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:_DIGITS]
        self._alike[digest] += 1  # the same row again is a task again
        times = self._alike[digest]
        return digest if times == 1 else f"{digest}-{times}"


def _no_id(name: str | None, first: tuple[int, bool, bool] | None) -> str:
    if name is None and first is not None:
        return f"there is no id, and line {first[0]} has one"
    return f"there is no {name}, which --id-field names"


def _id(fields: Mapping[str, Any], columns: Columns) -> str | int | None:
    """The id of a row, None if it has none, or shall have none."""
    name = columns.id or ("custom_id" if "custom_id" in fields else "id")
    value, is_there = column(fields, name)
    if not is_there or name in columns.leave_out:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if not isinstance(value, str) or not value:
        raise ValueError(
            f"{name} must be a string that is not empty, not {value!r:.40}; --id-field says where it is, and "
            f"--leave-out {name} has one made up for each row"
        )
    return value
