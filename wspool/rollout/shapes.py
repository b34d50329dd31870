"""The shapes of rows: what each says of its request.

A row is a line of an OpenAI or Azure Batch file, `{"custom_id", "method", "url", "body": {...}}`; a chat,
`{"messages": [...], ...}`; or any other row of a data set, `{"id": ..., "input": ..., ...}`.

1. A Batch line is a whole request and goes as it is. One of the Chat Completions API is translated
   (`chat.py`), and so is its answer.
2. What a field of any other row is for is known by its name and its kind: a text in `text` is a column of the
   data set, and no `text` of a request. Columns are not sent.
3. What is missing or cannot be said is named, with the option that helps.
4. A request that is one, and cannot be sent from here, costs its task only.
"""

import re
import shlex
from collections.abc import Collection, Mapping
from inspect import signature
from typing import Any, Final, cast

import attrs

from wspool.core.items import encode_items
from wspool.pool.conversation import checked_fields
from wspool.pool.pool import Pool
from wspool.rollout.chat import is_chatty, messages_to_items, tool_definition, translate
from wspool.rollout.fields import BODY_FIELDS, column, is_request_field, text_columns
from wspool.rollout.tasks import Task

__all__ = ["Columns", "has_field", "is_batch_line", "task_of"]

#: A path of either API, as OpenAI, Azure and others have it in their Batch files.
_RESPONSES: Final = re.compile(r"\S*/responses(\?\S*)?")
_CHAT: Final = re.compile(r"\S*/chat/completions(\?\S*)?")
#: How what is no name of a column ends, and how long such a name may be.
_ENDS: Final = ("?", ".", "!", ":")
_LONGEST_NAME: Final = 60
#: What a conversation takes beside the fields of requests, which therefore can have none of these names.
_OURS: Final = signature(Pool.conversation).parameters.keys() - {"defaults", *BODY_FIELDS}


@attrs.frozen(kw_only=True)
class Columns:
    """What the fields of rows are for, where that is not what their names say.

    Attributes:
      id, input, expected: the fields of that; a dotted path leads into a row, exact names come first.
      leave_out: fields of requests that the caller does without; of the id, to have one made up.
      for_agent: True if an agent reads the rows, so that they need no input.
    """

    id: str | None = None
    input: str | None = None
    expected: str | None = None
    leave_out: Collection[str] = ()
    for_agent: bool = False


def is_batch_line(fields: Mapping[str, Any], columns: Columns) -> bool:
    """Return whether a row is a line of a Batch file; not if somebody says where its input is."""
    if columns.input is not None or "params" in fields:
        return False
    return "custom_id" in fields or ("url" in fields and isinstance(fields.get("body"), dict))


def has_field(fields: Mapping[str, Any], columns: Columns, name: str) -> bool:
    """Return whether a row has what *name* would leave out: of it, of its request or the messages there."""
    request: Mapping[str, Any] = fields["body"] if is_batch_line(fields, columns) else fields
    if name in fields or name in request:
        return True
    found = [*request.values(), column(fields, columns.input or "input")[0]]
    lists = [cast("list[object]", value) for value in found if isinstance(value, list)]
    return any(isinstance(each, dict) and name in each for value in lists for each in value)


def task_of(fields: dict[str, Any], columns: Columns) -> Task:
    """Return the task that a row is, without its id.

    Raises:
      ValueError: it is none; the text says why.
    """
    if is_batch_line(fields, columns):
        return _batch_task(fields, columns)
    return _chat_task(fields, columns) if _is_chat(fields, columns) else _row_task(fields, columns)


def _batch_task(fields: dict[str, Any], columns: Columns) -> Task:
    method, url, body = fields.get("method", "POST"), fields.get("url"), fields.get("body")
    if method != "POST":
        raise ValueError(f"method must be 'POST', not {method!r}")
    if not isinstance(body, dict):
        raise ValueError("there is no body, or it is no object")
    request = cast("dict[str, Any]", body)
    is_chat = "messages" in request if url is None else bool(_CHAT.fullmatch(str(url)))
    if url is not None and not is_chat and not _RESPONSES.fullmatch(str(url)):
        raise ValueError(f"url must be '/v1/responses' or '/v1/chat/completions', not {url!r}")
    expected = _expected(fields, columns) if columns.expected is not None else None
    if is_chat:
        request = translate(request, columns.leave_out)
    elif columns.leave_out:
        request = {name: value for name, value in request.items() if name not in columns.leave_out}
    return _checked(Task(id="", body=request, source=fields, batch=True, chat=is_chat, expected=expected))


def _row_task(fields: dict[str, Any], columns: Columns) -> Task:
    body = {
        name: value
        for name, value in fields.items()
        if is_request_field(name, value) and name not in columns.leave_out
    }
    if columns.input is not None:
        given, is_there = column(fields, columns.input)
        if not is_there and not columns.for_agent:
            raise ValueError(f"there is no {columns.input}, which --input-field names{_there(fields)}")
        body["input"] = given
    elif "input" in fields and "input" not in body:
        body["input"] = fields["input"]  # of another kind, which is a mistake
    named = {_first(path) for path in (columns.id, columns.input, columns.expected) if path is not None}
    used = {"id", "custom_id", "expected", *named, columns.id, columns.input, columns.expected}
    unsent = tuple(name for name in fields if name not in body and name not in used)
    if is_chatty(body.get("input")):
        body["input"] = messages_to_items(body["input"], columns.leave_out)
    if "tools" in body:
        body["tools"] = [tool_definition(tool) for tool in body["tools"] or ()]
    task = Task(id="", body=body, source=fields, unsent=unsent, expected=_expected(fields, columns))
    if columns.for_agent:
        return _checked_fields(task)
    if columns.input is None and body.get("input") in (None, "") and "prompt" not in body:
        _refuse_without_input(fields, body, unsent)
    return _checked(task)


def _first(path: str) -> str:
    return path.partition(".")[0]


def _refuse_without_input(
    fields: Mapping[str, Any], body: Mapping[str, Any], unsent: Collection[str]
) -> None:
    texts = text_columns(fields, unsent)
    if texts:
        problem = "there is no input" if "input" not in body else "the input is empty"
        if texts[0].endswith(_ENDS) or len(texts[0]) > _LONGEST_NAME:
            problem += ", and what should name columns looks like a row: the first line has to name them"
        raise ValueError(
            f"{problem}; --input-field {shlex.quote(texts[0])} takes that of the row{_there(fields)}"
        )
    if "input" not in body:
        raise ValueError(f"there is no input; --input-field NAME says where it is{_there(fields)}")


def _there(fields: Mapping[str, Any]) -> str:
    return f" (it has {', '.join(fields)})" if fields else ""


def _is_chat(fields: Mapping[str, Any], columns: Columns) -> bool:
    messages: object = fields.get("messages")
    if columns.input is not None or columns.for_agent or "input" in fields or not isinstance(messages, list):
        return False
    return all(isinstance(each, dict) and "role" in each for each in cast("list[object]", messages))


def _chat_task(fields: Mapping[str, Any], columns: Columns) -> Task:
    """A row that is a request of the Chat Completions API, maybe with columns of its own."""
    messages = cast("list[dict[str, Any]]", fields["messages"])
    if messages and messages[-1].get("role") == "assistant":
        raise ValueError(
            "the messages end with the assistant's own, as examples for training do; --input-field messages "
            "sends them all the same"
        )
    used = {"id", "expected", columns.id, columns.expected}
    request = {name: value for name, value in fields.items() if name not in used}
    body = translate(request, columns.leave_out)
    return _checked(Task(id="", body=body, source=fields, expected=_expected(fields, columns)))


def _expected(fields: Mapping[str, Any], columns: Columns) -> Any:
    value, is_there = column(fields, columns.expected or "expected")
    if not is_there and columns.expected is not None:
        raise ValueError(f"there is no {columns.expected}, which --expected-field names{_there(fields)}")
    return value


def _checked(task: Task) -> Task:
    body = task.body
    if "input" not in body:
        if body.get("prompt") is None:
            raise ValueError("there is no input")
    elif not isinstance(body["input"], str | list):
        raise ValueError(f"input must be a string or a list of items, not {type(body['input']).__name__}")
    if body.get("previous_response_id") is not None:
        raise ValueError("previous_response_id cannot be given: a task is a conversation from its beginning")
    try:
        encode_items(body.get("input", []))
    except TypeError as problem:
        raise ValueError(str(problem)) from None
    except ValueError as problem:
        return attrs.evolve(task, refused=str(problem))
    return _checked_fields(task)


def _checked_fields(task: Task) -> Task:
    """What a conversation would refuse, such as what only HTTP has, costs its task only."""
    fields = {name: value for name, value in task.body.items() if name != "input"}
    if fields.get("background") is False:  # which is what it is here
        del fields["background"]
    if ours := [name for name in fields if name in _OURS]:
        problem = f"no request from here can have {ours[0]!r}; --leave-out {ours[0]} does without"
        return attrs.evolve(task, refused=problem)
    try:
        checked_fields(fields)
    except (TypeError, ValueError) as problem:
        return attrs.evolve(task, refused=str(problem))
    return task
