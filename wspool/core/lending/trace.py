"""Trace: every input of a core and what it answered, as JSON lines, to be replayed elsewhere.

The first line says how the core was made; each further line is one input: when it came, what it
was, its arguments, and the commands it led to. Since a core sees nothing else, a fresh one that
is fed the inputs gives the same commands, or the trace is of another version.

Rules of this module:

* Whatever takes `now` is an input, so none can be forgotten; questions are not written.
* What an input led to inside the core is part of that input.
* A core that is not traced pays nothing.
* No text that came from outside is written: a message of a failed dial decides nothing, and
  might quote what nobody should see.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, Final

import attrs

from wspool.core.commands import CloseReason, Command
from wspool.core.failures import DialFailure, FailureKind
from wspool.core.lending.pool import PoolCore
from wspool.core.policy import PoolPolicy, Provider

__all__ = ["INPUTS", "VERSION", "ReplayError", "replay", "trace_core"]

#: Version of the format.
VERSION: Final = 3

#: The inputs of a core, by name.
INPUTS: Final = {
    name: signature
    for name, member in inspect.getmembers(PoolCore, inspect.isfunction)
    if not name.startswith("_") and "now" in (signature := inspect.signature(member)).parameters
}


class ReplayError(ValueError):
    """A trace that does not replay.

    Attributes:
        line: number of the first line that differs, counted from 1.
    """

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(f"line {line} of the trace: {problem}")
        self.line = line


def trace_core(core: PoolCore, write: Callable[[str], None], *, warm_up: bool) -> None:
    """Write every input of *core* from now on; *core* must be fresh.

    Args:
        core: what to trace.
        write: called with one line at a time, without a line end. What it raises comes out of the input.
        warm_up: what the core was made with.
    """
    inside = False

    def put(name: str, decide: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        nonlocal inside
        if inside:  # the core calls itself
            return decide(*args, **kwargs)
        arguments = INPUTS[name].bind(core, *args, **kwargs).arguments
        line = {"now": arguments["now"], "input": name, "arguments": _plain_arguments(arguments)}
        inside = True
        try:
            answer = decide(*args, **kwargs)
        except Exception as error:
            # Nothing has changed, or the core is broken; the report needs it most then.
            write(json.dumps({**line, "raises": type(error).__name__}))
            raise
        finally:
            inside = False
        commands: list[Command] = answer
        if name == "begin":
            verdict, commands = answer
            line["verdict"] = verdict.value
        line["commands"] = [_plain_command(command) for command in commands]
        write(json.dumps(line))
        return answer

    for name in INPUTS:
        setattr(core, name, partial(put, name, getattr(core, name)))
    head = {
        "version": VERSION,
        "policy": attrs.asdict(core.policy),
        "provider": attrs.asdict(core.provider),
        "warm_up": warm_up,
    }
    write(json.dumps(head))


def replay(lines: Iterable[str]) -> int:
    """Feed a trace to a fresh core; return the number of inputs.

    Raises:
        ReplayError: the core of this version does something else, or this is no trace.
    """
    written: list[Any] = []
    core: PoolCore | None = None
    count = 0
    for number, text in enumerate(lines, 1):
        try:
            line = json.loads(text)
            if core is None:
                if line["version"] != VERSION:
                    raise ValueError(f"its version is {line['version']!r}, not {VERSION}")
                core = PoolCore(
                    PoolPolicy(**line["policy"]), Provider(**line["provider"]), warm_up=line["warm_up"]
                )
                trace_core(core, lambda text: written.append(json.loads(text)), warm_up=line["warm_up"])
            else:
                count += 1
                _feed(core, line)
        except (ValueError, TypeError, LookupError) as error:
            raise ReplayError(number, f"it cannot be replayed: {error!r}") from error
        if (found := written.pop()) != line:
            raise ReplayError(number, f"it says {_difference(line, found)}")
    if core is None:
        raise ReplayError(1, "it is empty")
    return count


def _feed(core: PoolCore, line: dict[str, Any]) -> None:
    arguments = dict(line["arguments"])
    if "reason" in arguments:
        arguments["reason"] = CloseReason(arguments["reason"])
    if "failure" in arguments:
        failure = arguments["failure"]
        arguments["failure"] = DialFailure(
            kind=FailureKind(failure["kind"]),
            message="",
            phase=failure["phase"],
            status=failure["status"],
            retry_after=failure["retry_after"],
        )
    name = line["input"]
    INPUTS[name].bind(core, now=line["now"], **arguments)
    with suppress(Exception):  # it was written before it was raised
        getattr(core, name)(now=line["now"], **arguments)


def _difference(line: dict[str, Any], found: dict[str, Any]) -> str:
    for name in {**line, **found}:
        if line.get(name) != found.get(name):
            return f"{name} {line.get(name)!r}, and the core says {found.get(name)!r}"
    raise AssertionError("bug: there is no difference")


def _plain_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: _plain(value) for name, value in arguments.items() if name not in ("self", "now")}


def _plain_command(command: Command) -> dict[str, Any]:
    values = attrs.asdict(command, recurse=False)
    return {"command": type(command).__name__} | {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, DialFailure):
        plain = attrs.asdict(value) | {"kind": value.kind.value}
        del plain["message"], plain["code"]  # what a server has said
        return plain
    return value
