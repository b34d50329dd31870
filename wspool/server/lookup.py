"""A rule-based model that answers questions about Python source code, only through tools.

It knows how to look, and nothing else: no file, no package, no line number. Whatever it says comes from the
outputs of the tools that the client ran for it (`list_dir`, `grep`, `read_file`, `count_lines`). Rules:

1. The memory is the transcript. Each kind of question has a *plan*, a generator that yields the calls it
   wants and is sent their outputs. On every turn the plan is played again from the start; calls that the
   conversation holds already are answered from there, and the first ones that it does not hold are what the
   model says. So it makes no difference in which order outputs come back, which call ids they carry, or
   whether the conversation was just sent again in full.
2. A call is asked once. A tool that failed, or said something unexpected, ends in "I could not find ...",
   never in a second try and never in a guess.
3. Several calls that do not depend on each other go into one turn, at most `MAX_PARALLEL`, or one at a time
   if the request says `parallel_tool_calls: false`.

The questions (names in backquotes, anything may follow the question mark; the answer is one line):

- In which module of the package `P` is `X` defined, and on which line?
- In which modules of the package `P` and on which lines are `X`, `Y` and `Z` defined?
- How many lines do the modules of the package `P` have together, with|without its subpackages?
- Which module of the package `P` has the most lines, with|without its subpackages?
- Which modules of the package `P` import `Z`?
- How many classes and how many functions does the module `M` define at its top level?
- Beginning with `X`, which classes are passed by following the first base class inside the package `P`?
"""

import json
import re
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any, Final, cast

import attrs

from wspool.server.models import Item, Model, ModelRequest, ModelTurn, function_call, message, text_of

__all__ = ["MAX_PARALLEL", "LookupModel"]

#: Calls in one turn, at most. Small enough that a big package takes several turns.
MAX_PARALLEL: Final = 8


class _NotFoundError(Exception):
    """The tools did not tell; the message ends the sentence "I could not find the answer: ..."."""


@attrs.frozen
class _Call:
    """One wanted tool call. Two calls with the same name and arguments are the same call."""

    tool: str
    arguments: tuple[tuple[str, Any], ...]

    @property
    def key(self) -> str:
        return _key(self.tool, dict(self.arguments))

    def __str__(self) -> str:
        return f"{self.tool}({', '.join(repr(value) for _, value in self.arguments)})"


#: What a tool said: a JSON object.
_Output = dict[str, Any]
#: Yields the calls it wants next, is sent their outputs in the same order, returns the answer.
_Plan = Generator[Sequence[_Call], list[_Output], str]


def _key(tool: str, arguments: object) -> str:
    return f"{tool} {json.dumps(arguments, sort_keys=True)}"


def _call(tool: str, **arguments: Any) -> _Call:
    return _Call(tool, tuple(arguments.items()))


class LookupModel:
    """Answers the questions in this module's first lines, through the client's tools."""

    def __init__(self, otherwise: Model | None = None) -> None:
        """Args:
        otherwise: who answers what is none of these questions; None says that it is none.
        """
        self._otherwise = otherwise

    def respond(self, request: ModelRequest) -> ModelTurn:
        """The next calls, or the answer. A pure function of the request."""
        question, after = _last_question(request.context)
        plan = _plan_for(question)
        if plan is None and self._otherwise is not None:
            return self._otherwise.respond(request)
        if plan is None:
            return _say(
                "I only know some kinds of questions about Python source code, and this is none of them."
            )
        transcript = _Transcript(after)
        try:
            missing = _play(plan, transcript)
        except _NotFoundError as problem:
            return _say(f"I could not find the answer: {problem}.")
        if isinstance(missing, str):
            return _say(missing)
        offered = {str(tool.get("name")) for tool in request.tools}
        if lacking := {call.tool for call in missing} - offered:
            return _say(f"I could not find the answer: I was not given the tool {min(lacking)}.")
        width = 1 if request.body.get("parallel_tool_calls") is False else MAX_PARALLEL
        return ModelTurn(output=[function_call(call.tool, dict(call.arguments)) for call in missing[:width]])


def _say(text: str) -> ModelTurn:
    return ModelTurn(output=[message(text)])


def _last_question(context: Sequence[Item]) -> tuple[str, Sequence[Item]]:
    """The text of the last user message, and everything after it."""
    for index in range(len(context) - 1, -1, -1):
        if context[index].get("role") == "user":
            return text_of(context[index]), context[index + 1 :]
    return "", ()


class _Transcript:
    """The calls made since the question, each with what the client answered."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._call_ids: dict[str, object] = {}
        self._outputs: dict[object, object] = {}
        for item in items:
            if item.get("type") == "function_call":
                try:
                    arguments = json.loads(item.get("arguments") or "{}")
                except ValueError:
                    continue  # not a call of ours: ours have arguments that are JSON
                self._call_ids[_key(str(item.get("name")), arguments)] = item.get("call_id")
            elif item.get("type") == "function_call_output":
                self._outputs[item.get("call_id")] = item.get("output")

    def __contains__(self, call: _Call) -> bool:
        return call.key in self._call_ids

    def output(self, call: _Call) -> _Output:
        """What the tool said.

        Raises:
          _NotFoundError: it said nothing, or no JSON object, or that it failed.
        """
        said: object = self._outputs.get(self._call_ids[call.key])
        if isinstance(said, list):
            parts: list[Any] = said  # pyright: ignore[reportUnknownVariableType]
            said = "".join(
                str(cast("Item", part).get("text", "")) for part in parts if isinstance(part, dict)
            )
        try:
            output: object = json.loads(said) if isinstance(said, str) else None
        except ValueError:
            output = None
        if not isinstance(output, dict) or "error" in output:
            raise _NotFoundError(f"{call} failed")
        return cast("_Output", output)


def _play(plan: _Plan, transcript: _Transcript) -> Sequence[_Call] | str:
    """Play *plan* against *transcript*: the calls that it lacks, or the answer.

    Raises:
      _NotFoundError: a tool failed, or its output is of no use.
    """
    try:
        wanted = next(plan)
        while True:
            missing = [call for call in dict.fromkeys(wanted) if call not in transcript]
            if missing:
                return missing
            wanted = plan.send([transcript.output(call) for call in wanted])
    except StopIteration as end:
        return str(end.value)
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        # The plans take outputs at their word, so an output of another shape shows as one of these.
        raise _NotFoundError("a tool said something unexpected") from problem


# ---------------------------------------------------------------------------------------------- plans


def _where(package: str, names: Sequence[str], *, named: bool) -> _Plan:
    """Look around, search every name, and read each place to be sure."""
    path = package.replace(".", "/")
    yield [_call("list_dir", path=path)]
    found = yield [
        _call("grep", pattern=rf"^(?:async def|def|class) {re.escape(name)}\b", path=path) for name in names
    ]
    places = [_only(_matches(output), name) for output, name in zip(found, names, strict=True)]
    read = yield [_call("read_file", path=place["path"], start=place["line"], lines=1) for place in places]
    for name, output in zip(names, read, strict=True):
        if name not in output["lines"][0]:
            raise _NotFoundError(f"{name} is not where grep found it")
    answers = [f"{_module(place['path'])}:{place['line']}" for place in places]
    return ", ".join(
        f"{name}={answer}" if named else answer for name, answer in zip(names, answers, strict=True)
    )


def _lines(package: str, *, deep: bool) -> _Plan:
    counted = yield from _count(package, deep=deep)
    return str(sum(counted.values()))


def _longest(package: str, *, deep: bool) -> _Plan:
    counted = yield from _count(package, deep=deep)
    if not counted:
        raise _NotFoundError(f"the package {package} has no modules")
    return min(counted, key=lambda module: (-counted[module], module))


def _count(package: str, *, deep: bool) -> Generator[Sequence[_Call], list[_Output], dict[str, int]]:
    """Walk the directories, level by level, then count every file: lines by module."""
    files: list[str] = []
    level = [package.replace(".", "/")]
    while level:
        below: list[str] = []
        listings = yield [_call("list_dir", path=path) for path in level]
        for path, listing in zip(level, listings, strict=True):
            _whole(listing)
            files += [f"{path}/{name}" for name in listing["files"] if name.endswith(".py")]
            below += [f"{path}/{name}" for name in listing["directories"]]
        level = below if deep else []
    counts = yield [_call("count_lines", path=path) for path in files]
    return {_module(path): int(count["lines"]) for path, count in zip(files, counts, strict=True)}


def _importers(package: str, imported: str) -> _Plan:
    """Search for import statements, and read each file's first one to be sure."""
    name = re.escape(imported)
    pattern = (
        rf"^\s*(?:import\s+(?:[\w.]+(?:\s+as\s+\w+)?\s*,\s*)*{name}(?![\w])"
        rf"|from\s+{name}(?:\.[\w.]+)?\s+import\b)"
    )
    path = package.replace(".", "/")
    _, found = yield [_call("list_dir", path=path), _call("grep", pattern=pattern, path=path)]
    first: dict[str, int] = {}
    for match in _matches(found):
        first.setdefault(match["path"], match["line"])
    read = yield [_call("read_file", path=file, start=line, lines=1) for file, line in first.items()]
    importers = [
        _module(file)
        for file, output in zip(first, read, strict=True)
        if re.search(pattern, output["lines"][0])
    ]
    return ", ".join(sorted(importers)) or "none"


def _definitions(module: str) -> _Plan:
    """Find out whether the module is a file or a directory, then search it twice at once."""
    parent, _, name = module.rpartition(".")
    directory = parent.replace(".", "/") or "."
    (listing,) = yield [_call("list_dir", path=directory)]
    _whole(listing)
    prefix = f"{directory}/" if parent else ""
    if f"{name}.py" in listing["files"]:
        path = f"{prefix}{name}.py"
    elif name in listing["directories"]:
        path = f"{prefix}{name}/__init__.py"
    else:
        raise _NotFoundError(f"there is no module {module}")
    classes, functions = yield [
        _call("grep", pattern=r"^class\s", path=path),
        _call("grep", pattern=r"^(?:async\s+)?def\s", path=path),
    ]
    return f"{len(_matches(classes))} classes, {len(_matches(functions))} functions"


def _ancestry(package: str, name: str) -> _Plan:
    """Search the class, read its header, go on with its first base, until the package has no such class."""
    path = package.replace(".", "/")
    passed: list[str] = []
    while name:
        (found,) = yield [_call("grep", pattern=rf"^class {re.escape(name)}\b", path=path)]
        matches = _matches(found)
        if not matches and passed:
            break  # a base from elsewhere ends the line; the first class must be there
        place = _only(matches, name)
        (read,) = yield [_call("read_file", path=place["path"], start=place["line"], lines=6)]
        header = re.match(rf"class {re.escape(name)}\s*(?:\(([^)]*)\))?\s*:", "\n".join(read["lines"]))
        if header is None or name in passed:
            raise _NotFoundError(f"the class {name} is not where grep found it")
        passed.append(name)
        # `package.module.Base` is looked for as `Base`.
        name = (header[1] or "").split(",")[0].strip().rpartition(".")[2]
    return " > ".join(passed)


def _matches(output: _Output) -> list[_Output]:
    _whole(output)
    return list(output["matches"])


def _whole(output: _Output) -> None:
    if output.get("truncated"):
        raise _NotFoundError("a tool had too much to say")


def _only(matches: Sequence[_Output], name: str) -> _Output:
    if len(matches) != 1:
        raise _NotFoundError(f"{name} is defined {len(matches)} times")
    return matches[0]


def _module(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


# ------------------------------------------------------------------------------------------ questions


def _deep(match: Mapping[str, str]) -> bool:
    return match["depth"] == "with"


_IN_PACKAGE: Final = r"of the package `(?P<package>[\w.]+)`"
_DEPTH: Final = r", (?P<depth>with|without) its subpackages\?"
_QUESTIONS: Final[Sequence[tuple[re.Pattern[str], Callable[[Mapping[str, str]], _Plan]]]] = [
    (
        re.compile(rf"In which module {_IN_PACKAGE} is `(?P<name>\w+)` defined, and on which line\?"),
        lambda asked: _where(asked["package"], [asked["name"]], named=False),
    ),
    (
        re.compile(
            rf"In which modules {_IN_PACKAGE} and on which lines are (?P<names>[`\w, ]{{1,1000}}) defined\?"
        ),
        lambda asked: _where(asked["package"], re.findall(r"`(\w+)`", asked["names"]), named=True),
    ),
    (
        re.compile(rf"How many lines do the modules {_IN_PACKAGE} have together{_DEPTH}"),
        lambda asked: _lines(asked["package"], deep=_deep(asked)),
    ),
    (
        re.compile(rf"Which module {_IN_PACKAGE} has the most lines{_DEPTH}"),
        lambda asked: _longest(asked["package"], deep=_deep(asked)),
    ),
    (
        re.compile(rf"Which modules {_IN_PACKAGE} import `(?P<name>[\w.]+)`\?"),
        lambda asked: _importers(asked["package"], asked["name"]),
    ),
    (
        re.compile(
            r"How many classes and how many functions does the module `(?P<module>[\w.]+)`"
            r" define at its top level\?"
        ),
        lambda asked: _definitions(asked["module"]),
    ),
    (
        re.compile(
            r"Beginning with `(?P<name>\w+)`, which classes are passed by following the first base class"
            r" inside the package `(?P<package>[\w.]+)`\?"
        ),
        lambda asked: _ancestry(asked["package"], asked["name"]),
    ),
]


def _plan_for(question: str) -> _Plan | None:
    for pattern, plan in _QUESTIONS:
        if match := pattern.search(question):
            return plan(match.groupdict())
    return None
