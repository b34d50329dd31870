"""Task files: JSON lines in, tasks out, and every mistake named before anything runs.

A line is either a plain task, `{"id": ..., "input": ..., ...}` where all other fields belong to the
request, or a line of an OpenAI Batch file, `{"custom_id", "method": "POST", "url": "/v1/responses", "body":
{...}}`. One file holds one kind. Blank lines, CRLF line ends and a byte order mark are no mistakes."""

import json
from pathlib import Path
from typing import Any, Final, cast

from wspool.core.plain import plain
from wspool.rollout.tasks import Task

__all__ = ["BatchError", "read_tasks"]

#: Mistakes named in one error; a file of another kind altogether has one in every line.
MAX_NAMED: Final = 20


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


def read_tasks(path: Path) -> list[Task]:
    """Read a task file.

    Raises:
      BatchError: it cannot be read, has no task, or some of its lines are none.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as problem:
        raise BatchError([f"{path}: cannot be read: {problem}"]) from problem
    tasks: list[Task] = []
    problems: list[str] = []
    seen: dict[str, int] = {}
    first: tuple[int, bool] | None = None  # the line that decided which kind this file holds
    # Not splitlines(): JSON strings may hold U+2028 and its like as they are.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            task = _task(line)
            if task.id in seen:
                raise ValueError(f"the id {task.id!r} is taken by line {seen[task.id]}")
            seen[task.id] = number
            first = first or (number, task.batch)
            if task.batch != first[1]:
                kinds = ("a plain task", "an OpenAI Batch line")
                raise ValueError(
                    f"{kinds[task.batch]}, but line {first[0]} is {kinds[first[1]]}; use one kind per file"
                )
        except ValueError as problem:
            problems.append(f"{path}:{number}: {problem}")
        else:
            tasks.append(task)
    if not tasks and not problems:
        problems.append(f"{path}: there is no task in this file")
    if problems:
        raise BatchError(problems)
    return tasks


def _task(line: str) -> Task:
    try:
        parsed: object = json.loads(line)
    except ValueError as problem:
        raise ValueError(f"not JSON: {problem}") from None
    if not isinstance(parsed, dict):
        raise ValueError("not a JSON object")
    fields = cast("dict[str, Any]", parsed)
    if "custom_id" in fields:
        return _batch_task(fields)
    body = {name: value for name, value in fields.items() if name != "id"}
    return Task(id=_id(fields, "id"), body=_checked(body), source=fields, number=_number(fields["id"]))


def _batch_task(fields: dict[str, Any]) -> Task:
    if fields.get("method") != "POST":
        raise ValueError(f"method must be 'POST', not {fields.get('method')!r}")
    if fields.get("url") != "/v1/responses":
        raise ValueError(f"url must be '/v1/responses', not {fields.get('url')!r}")
    body = fields.get("body")
    if not isinstance(body, dict):
        raise ValueError("there is no body, or it is no object")
    return Task(
        id=_id(fields, "custom_id"),
        body=_checked(cast("dict[str, Any]", body)),
        source=fields,
        batch=True,
        number=_number(fields["custom_id"]),
    )


def _id(fields: dict[str, Any], name: str) -> str:
    if name not in fields:
        raise ValueError(f"there is no {name}")
    value = fields[name]
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} must be a string that is not empty, not {value!r}")
    return value


def _number(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _checked(body: dict[str, Any]) -> dict[str, Any]:
    if "input" not in body:
        if body.get("prompt") is None:
            raise ValueError("there is no input")
    elif not isinstance(body["input"], str | list):
        raise ValueError(f"input must be a string or a list of items, not {type(body['input']).__name__}")
    if body.get("previous_response_id") is not None:
        raise ValueError("previous_response_id cannot be given: a task is a conversation from its beginning")
    return body
