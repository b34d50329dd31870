"""How the tasks of a rollout are done, as the options say: by an agent, with tools, with which fields.

Everything that can be wrong with it is found here, before anything runs: what cannot be imported or called
so, tools that do not fit the definitions of a task, fields that no request has.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from inspect import iscoroutinefunction
from typing import Any, Final, cast, get_args

from wspool.cli.imported import check_arity, imported
from wspool.cli.rollout_options import How
from wspool.cli.usage import usage_error
from wspool.core.effects import UnknownEffects
from wspool.core.encoding import Encoded
from wspool.core.frames import encode
from wspool.pool.toolbox import DefinedTool, Tool, Toolbox
from wspool.rollout.fields import BODY_FIELDS, is_request_field, kind_of_field
from wspool.rollout.method import Agent, Method
from wspool.rollout.scoring import SCORES, Scorer
from wspool.rollout.tasks import Task
from wspool.rollout.tools import TOOL_SCHEMAS, Tools

__all__ = ["make_method", "set_fields"]

#: Fields of a request that are the task's own, or the pool's.
_NOT_SET: Final = frozenset(
    {"background", "conversation", "input", "previous_response_id", "stream", "stream_options"}
)


def make_method(
    how: How, batch: Sequence[Task], model: str | None, overrides: Mapping[str, Any], *, own: bool
) -> Method:
    """Return how the tasks of *batch* are done. A mistake ends the command.

    Args:
      how: what the command was given.
      batch: the tasks; what they define must fit what can be called.
      model: for tasks that name none.
      overrides: of `set_fields`.
      own: True if the tasks are the user's, False for the bundled ones.
    """
    if how.agent is not None and how.tools is not None:
        usage_error("--agent and --tools both say how a task is done; an agent calls its tools itself")
    if how.right_from is not None and how.score is None:
        usage_error("--right-from is of the scores of --score; give both")
    if how.right_from is not None and not math.isfinite(how.right_from):
        usage_error(f"--right-from {how.right_from} must be a finite number")
    if how.agent is None and how.agent_arg:
        usage_error("--agent-arg is for an agent; say which with --agent")
    agent: Agent | None = None
    arguments: dict[str, Any] = {}
    tools: Mapping[str, Tool] = {}
    if how.agent is not None:
        arguments = _pairs("--agent-arg", how.agent_arg)
        agent = _agent(how.agent, arguments)
    bundled = how.tools == "bundled" or (how.tools is None and how.agent is None and not own)
    if bundled:
        tools = Tools().callables()
    elif how.tools is not None:
        tools = _tools(how.tools, batch, overrides)
    return Method(
        agent=agent,
        agent_arguments=arguments,
        tools=tools,
        definitions=TOOL_SCHEMAS if bundled else (),
        repeatable=bundled,
        unknown_effects=_unknown_effects(how.unknown_effects),
        defaults={"model": model} if model is not None else {},
        overrides=overrides,
        scorer=_scorer(how.score, batch) if how.score is not None else None,
        right_from=how.right_from,
        retries=how.retries,
    )


def _unknown_effects(given: str) -> UnknownEffects:
    if given not in get_args(UnknownEffects):
        usage_error(f"--unknown-effects {given!r} must be tell or stop")
    return cast("UnknownEffects", given)


def set_fields(given: Sequence[str]) -> dict[str, Any]:
    """Return the request fields that `--set` names, for every request."""
    fields: dict[str, Any] = {}
    for name, value in _pairs("--set", given).items():
        first, *rest = name.split(".")
        if first in _NOT_SET:
            usage_error(f"--set {name}: that is the task's own, or the pool's")
        if first not in BODY_FIELDS:
            near = get_close_matches(first, BODY_FIELDS, n=1)
            meant = f"; {near[0]!r} is one" if near else ""
            usage_error(f"--set {name}: {first!r} is no field of a request{meant}")
        place = fields
        for inside, part in zip([first, *rest], rest, strict=False):
            found: object = place.setdefault(inside, {})
            if not isinstance(found, dict):
                usage_error(f"--set {name}: {inside!r} has a value already, and so no {part!r}")
            place = cast("dict[str, Any]", found)
        place[(rest or [first])[-1]] = value
    for name, value in fields.items():
        if not is_request_field(name, value):
            usage_error(f"--set {name}: it must be {kind_of_field(name)}, not {json.dumps(value)}")
    try:
        encode(fields)
    except ValueError as problem:
        usage_error(f"--set {problem}")
    return fields


def _pairs(option: str, given: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE by key; a value is JSON, or else a text."""
    pairs: dict[str, Any] = {}
    for each in given:
        key, equals, text = each.partition("=")
        if not equals or not key or not all(key.split(".")):
            usage_error(f"{option} {each!r} must be KEY=VALUE")
        if key in pairs:
            usage_error(f"{option} {key} is given twice")
        try:
            pairs[key] = json.loads(text, parse_constant=_no_number)
        except (ValueError, RecursionError):
            pairs[key] = text
    return pairs


def _no_number(name: str) -> object:
    raise ValueError(name)  # NaN and its like are no JSON


def _agent(name: str, arguments: Mapping[str, Any]) -> Agent:
    found: Any = imported("--agent", name, "pkg.mod:callable or ./file.py:callable")
    if not iscoroutinefunction(found) and not iscoroutinefunction(type(found).__call__):
        usage_error(f"--agent {name!r} must be an async function: async def agent(conversation, task)")
    check_arity("--agent", name, found, "conversation", "task", **arguments)
    agent: Agent = found
    return agent


def _scorer(name: str, batch: Sequence[Task]) -> Scorer:
    form = f"{', '.join(SCORES)}, pkg.mod:function or ./file.py:function"
    found: Any = SCORES.get(name) or imported("--score", name, form)
    if not callable(found):
        usage_error(f"--score {name!r} must be a function")
    try:
        scorer = Scorer.of(found)
    except TypeError as problem:
        usage_error(f"--score {name!r} cannot be called: {problem}")
    if "expected" in scorer.names and batch and all(task.expected is None for task in batch):
        usage_error(
            f"--score {name!r} compares with expected answers, and no task has one; --expected-field says "
            "where they are"
        )
    return scorer


def _tools(name: str, batch: Sequence[Task], overrides: Mapping[str, Any]) -> dict[str, DefinedTool]:
    """The tools that *name* names, each with a definition."""
    found: object = imported("--tools", name, "pkg.mod:tools or ./file.py:tools")
    if isinstance(found, DefinedTool) or (callable(found) and not isinstance(found, type)):
        found = [found]
    try:
        made = cast("dict[str, DefinedTool]", Toolbox(found, {}).tools)
    except (TypeError, ValueError) as problem:
        usage_error(f"--tools {name!r}: {problem}")
    if not made:
        usage_error(f"--tools {name!r} has no tool in it")
    _check_defined(name, made, batch, overrides)
    return made


def _check_defined(
    name: str, tools: Mapping[str, DefinedTool], batch: Sequence[Task], overrides: Mapping[str, Any]
) -> None:
    """End the command if a task defines tools that are not among *tools*."""
    seen: dict[str, str | None] = {}
    for task in batch:
        given = {**task.body, **overrides}.get("tools")
        if given is None:
            continue
        key = json.dumps(given)
        if key not in seen:
            seen[key] = _misfit(given, tools)
        if (problem := seen[key]) is not None:
            usage_error(f"--tools {name!r} does not fit the task {task.id!r}: {problem}")


def _misfit(given: object, tools: Mapping[str, Callable[..., Any]]) -> str | None:
    try:
        Toolbox(tools, {"tools": Encoded(encode(given, "tools"))})
    except (TypeError, ValueError) as problem:
        return str(problem).replace("tools= of run has", "it has")
    return None
