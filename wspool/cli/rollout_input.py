"""Which tasks a rollout does: read, chosen, and with what is not sent of them named."""

import json
import shlex
from collections import Counter
from collections.abc import Sequence
from typing import Final

from wspool.cli.rollout_options import Given
from wspool.cli.usage import tell, usage_error, warn
from wspool.core.plain import plain
from wspool.rollout.batch import BatchError, Columns, read_tasks
from wspool.rollout.bundled import bundled_tasks
from wspool.rollout.fields import BODY_FIELDS, answer_column
from wspool.rollout.method import Method
from wspool.rollout.rows import FORMATS
from wspool.rollout.selection import Selection, parse_shard
from wspool.rollout.shapes import has_field
from wspool.rollout.tasks import Task

__all__ = ["name_unsent", "read_batch"]

#: Names of fields in one message.
_MOST_NAMED: Final = 20


def read_batch(given: Given) -> Sequence[Task]:
    """Return the tasks that are to be done. A mistake ends the command."""
    if given.input.tasks is None:
        for option, named in _about_a_file(given):
            if any(name is not None for name in named):
                usage_error(f"{option} is about a file of tasks; say which")
        batch = bundled_tasks()
        if not batch:
            usage_error("no bundled task can be run: this Python has no source code of its standard library")
    else:
        columns = _columns(given)
        try:
            batch = read_tasks(given.input.tasks, columns, given.input.format)
        except BatchError as problem:
            usage_error(f"nothing was run, because of mistakes in the tasks\n{problem}")
        for name in columns.leave_out:
            if not any(has_field(task.source, columns, name) for task in batch):
                usage_error(f"--leave-out {name!r} is in none of {len(batch)} tasks")
    try:
        return _selection(given).of(batch)
    except ValueError as problem:
        usage_error(f"--select {problem}")


def _selection(given: Given) -> Selection:
    asked = given.input
    if asked.seed is not None and not asked.shuffle:
        usage_error("--seed is of the order of --shuffle; give both")
    try:
        shard = parse_shard(asked.shard) if asked.shard is not None else None
    except ValueError as problem:
        usage_error(f"--shard {problem}")
    return Selection(
        patterns=asked.select,
        seed=(asked.seed or 0) if asked.shuffle else None,
        limit=asked.limit,
        shard=shard,
        samples=asked.samples,
    )


def _about_a_file(given: Given) -> Sequence[tuple[str, Sequence[str | None]]]:
    return (
        ("--format", [given.input.format]),
        ("--id-field", [given.input.id_field]),
        ("--input-field", [given.input.input_field]),
        ("--expected-field", [given.input.expected_field]),
        ("--leave-out", given.input.leave_out),
    )


def _columns(given: Given) -> Columns:
    if given.input.format not in (None, *FORMATS):
        usage_error(f"--format {given.input.format!r} must be one of {', '.join(FORMATS)}")
    for option, names in _about_a_file(given):
        if "" in names:
            usage_error(f"{option} must be the name of a field")
    return Columns(
        id=given.input.id_field,
        input=given.input.input_field,
        expected=given.input.expected_field,
        leave_out=tuple(given.input.leave_out),
        for_agent=given.how.agent is not None,
    )


def name_unsent(batch: Sequence[Task], method: Method) -> None:
    """Say which tasks cannot be sent, and which columns of a data set no request has. Those are an agent's
    business, if there is one."""
    if refused := [task.refused for task in batch if task.refused is not None]:
        named = "\n".join(plain(each) for each in refused[:_MOST_NAMED])
        more = f"\n... and {len(refused) - _MOST_NAMED} more" if len(refused) > _MOST_NAMED else ""
        tell(f"wspool: what cannot be sent fails, and the others are run\n{named}{more}")
    if method.agent is not None:
        return
    strange = Counter(name for task in batch if task.batch for name in task.body if name not in BODY_FIELDS)
    if strange:
        # A Batch line goes as it is: there may be newer fields than are known here.
        named = ", ".join(json.dumps(name) for name, _ in strange.most_common(_MOST_NAMED))
        warn(f"fields that are unknown here go as they are: {named}")
    unsent = Counter(name for task in batch for name in task.unsent)
    if unsent:
        named = ", ".join(json.dumps(name) for name, _ in unsent.most_common(_MOST_NAMED))
        more = f" and {len(unsent) - _MOST_NAMED} more" if len(unsent) > _MOST_NAMED else ""
        known = any(task.expected is not None for task in batch) or method.scorer is not None
        right = next(filter(None, (answer_column(task.source, task.unsent) for task in batch)), None)
        hint = (
            ""
            if known or right is None
            else f"; with --expected-field {shlex.quote(right)} answers are compared with that"
        )
        warn(f"fields that no request has are not sent: {named}{more}{hint}")
