"""Grouping: by which value a result is counted, if somebody names a field.

The field is one of the results, or else one of the rows of the task file, which is read again for that.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

from wspool.report.reading import Line, Reading, part
from wspool.rollout.batch import BatchError, read_tasks
from wspool.rollout.fields import column
from wspool.rollout.provenance import BUNDLED, Provenance
from wspool.rollout.rows import FORMATS
from wspool.rollout.shapes import Columns

__all__ = ["GroupError", "group_by"]

#: Of results in which the field is not.
_NONE = "(none)"


class GroupError(Exception):
    """Nothing has such a field; the message says what was looked at."""


def group_by(field: str, reading: Reading) -> Callable[[Line], str]:
    """Return what says the group of a result.

    Args:
      field: a name, or a dotted way into an object.
      reading: the run.

    Raises:
      GroupError: neither a result nor a row has it.
    """
    if any(column(line.ours, field)[1] for line in reading.lines()):
        reading.notes.clear()  # they are said again when it is read for good
        return lambda line: _shown(*column(line.ours, field))
    reading.notes.clear()
    values = _of_rows(field, reading.run)
    if not values:
        raise GroupError(f"no result has a field {field!r}, nor has a row of the task file")
    return lambda line: values.get(line.id, _NONE)


def _of_rows(field: str, run: Provenance | None) -> Mapping[str, str]:
    if run is None or run.tasks == BUNDLED or not Path(run.tasks).is_file():
        where = "it is not known which" if run is None else f"{run.tasks} is none that can be read again"
        raise GroupError(f"no result has a field {field!r}, and of the task file: {where}")
    options = part(run.more, "options")
    id, input, format = (_text(options.get(name)) for name in ("id_field", "input_field", "format"))
    left: object = options.get("leave_out")
    leave_out = frozenset(map(str, cast("list[object]", left) if isinstance(left, list) else ()))
    columns = Columns(id=id, input=input, leave_out=leave_out, for_agent=True)
    try:
        tasks = read_tasks(Path(run.tasks), columns, format if format in FORMATS else None)
    except BatchError as problem:
        raise GroupError(f"no result has a field {field!r}, and of the task file: {problem}") from problem
    return {task.id: _shown(*found) for task in tasks if (found := column(task.source, field))[1]}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _shown(value: object, is_there: bool) -> str:
    if not is_there:
        return _NONE
    return (value if isinstance(value, str) else json.dumps(value))[:200]
