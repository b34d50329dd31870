"""The bundled tools: look around in one directory of Python source code, and nothing else.

Rules:

1. Every path is relative to the root, written with `/`; a path that leads out of the root (`..`, absolute,
   through a symbolic link) is refused.
2. Output is one JSON object, bounded in size: `truncated` says that there would have been more.
3. A tool that cannot do what it was asked raises `ToolError`, whose message is meant for the model.
4. Nothing is written, nothing is run.
5. That this process may open no more files is no answer to a model, which would go on with it: the tool tries
   again for a while (`patient`), and then its task has failed.
"""

import errno
import json
import re
import sysconfig
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any, Final

import attrs
import trio

__all__ = ["TOOL_SCHEMAS", "NoFilesError", "ToolError", "Tools", "patient", "standard_library"]

#: Most matches that one `grep` returns.
MAX_MATCHES: Final = 200
#: Most entries that one `list_dir` returns, and most lines that one `read_file` returns.
MAX_ENTRIES: Final = 500
#: Longest line that `grep` or `read_file` returns, in characters; the rest of the line is cut off.
MAX_LINE: Final = 500
#: Directories that are not looked into: compiled files, and packages that are not part of the root's own
#: code.
_HIDDEN: Final = frozenset({"__pycache__", "site-packages", "dist-packages"})
#: Seconds between the tries of a tool that may open no file. Other tools are done in milliseconds, so what
#: lasts longer than all of these will not pass.
_PAUSES: Final = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0)


class ToolError(ValueError):
    """A tool cannot do what it was asked; the message tells the model why."""


class NoFilesError(Exception):
    """This process may open no more files, and that did not pass."""


def standard_library() -> Path:
    """The directory of the standard library that this interpreter runs on."""
    return Path(sysconfig.get_path("stdlib"))


def _resolved(root: Path) -> Path:
    return root.resolve()


@attrs.frozen
class Tools:
    """The tools of one root directory.

    Args:
      root: the directory; the standard library of this interpreter if not given.
    """

    root: Path = attrs.field(factory=standard_library, converter=_resolved)

    def callables(self) -> dict[str, Callable[..., Any]]:
        """The tools by name, as `Conversation.run` takes them."""
        return {
            "grep": self.grep,
            "read_file": self.read_file,
            "list_dir": self.list_dir,
            "count_lines": self.count_lines,
        }

    async def grep(self, pattern: str, path: str) -> str:
        """Search `*.py` files for a regular expression, line by line.

        A checkpoint. The search itself runs in a thread, because a package takes milliseconds; when it is
        cancelled the thread finishes by itself."""
        try:
            expression = re.compile(pattern)
        except re.error as problem:
            raise ToolError(f"the pattern is not a regular expression: {problem}") from None
        place = self._find(path)
        return await trio.to_thread.run_sync(self._search, expression, place, abandon_on_cancel=True)

    def read_file(self, path: str, start: int, lines: int) -> str:
        """Lines *start* (the first is 1) and following, *lines* of them at most."""
        if start < 1 or lines < 1:
            raise ToolError("start and lines must be at least 1")
        wanted = min(lines, MAX_ENTRIES)
        taken: list[str] = []
        truncated = False
        with self._file(path).open(encoding="utf-8", errors="replace") as file:
            for number, line in enumerate(file, 1):
                if number >= start + wanted:
                    truncated = wanted < lines
                    break
                if number >= start:
                    taken.append(line.rstrip("\n")[:MAX_LINE])
        if not taken:
            raise ToolError(f"{path} has no line {start}")
        return json.dumps({"path": path, "start": start, "lines": taken, "truncated": truncated})

    def list_dir(self, path: str) -> str:
        """The names in a directory, sorted: directories and files apart."""
        place = self._find(path)
        if not place.is_dir():
            raise ToolError(f"{path} is no directory")
        names = sorted(entry for entry in place.iterdir() if entry.name not in _HIDDEN)
        shown = names[:MAX_ENTRIES]
        directories = [entry.name for entry in shown if entry.is_dir()]
        files = [entry.name for entry in shown if not entry.is_dir()]
        return json.dumps(
            {"path": path, "directories": directories, "files": files, "truncated": len(names) > len(shown)}
        )

    def count_lines(self, path: str) -> str:
        """How many lines a file has; a last line without a line end counts."""
        content = self._file(path).read_bytes()
        unfinished = bool(content) and not content.endswith(b"\n")
        return json.dumps({"path": path, "lines": content.count(b"\n") + unfinished})

    def _find(self, path: str) -> Path:
        try:
            place = (self.root / path).resolve()
            inside = place.is_relative_to(self.root)
            if inside and place.exists():
                return place
        except (OSError, ValueError):  # a name that no file can have
            inside = True
        raise ToolError(f"there is no {path}" if inside else f"{path} is outside of the root")

    def _file(self, path: str) -> Path:
        place = self._find(path)
        if not place.is_file():
            raise ToolError(f"{path} is no file")
        return place

    def _search(self, expression: re.Pattern[str], place: Path) -> str:
        matches: list[dict[str, Any]] = []
        for file in _sources(place):
            name = file.relative_to(self.root).as_posix()
            with file.open(encoding="utf-8", errors="replace") as lines:
                for number, line in enumerate(lines, 1):
                    if expression.search(line):
                        if len(matches) == MAX_MATCHES:
                            return json.dumps({"matches": matches, "truncated": True})
                        matches.append({"path": name, "line": number, "text": line.strip()[:MAX_LINE]})
        return json.dumps({"matches": matches, "truncated": False})


def patient(
    tools: Mapping[str, Callable[..., Any]], give_up: Callable[[NoFilesError], None]
) -> dict[str, Callable[..., Awaitable[Any]]]:
    """Return *tools* that wait while this process may open no more files.

    Args:
      tools: by name; those that are not async run in a thread.
      give_up: called when that does not pass; it must cancel the caller, who gets no answer.
    """

    def waiting(name: str, tool: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
        async def call(**arguments: Any) -> Any:
            problem: OSError | None = None
            for pause in (0.0, *_PAUSES):
                await trio.sleep(pause)
                try:
                    if iscoroutinefunction(tool):
                        return await tool(**arguments)
                    return await trio.to_thread.run_sync(partial(tool, **arguments))
                except OSError as error:
                    if error.errno not in (errno.EMFILE, errno.ENFILE):
                        raise
                    problem = error
            give_up(
                NoFilesError(
                    f"{name} could open no file for {sum(_PAUSES):.0f} s ({problem}); raise the limit of "
                    "open files (ulimit -n), or lower the number of connections"
                )
            )
            return await trio.sleep_forever()

        return call

    return {name: waiting(name, tool) for name, tool in tools.items()}


def _sources(place: Path) -> Iterator[Path]:
    """The file itself, or all `*.py` files below the directory, in order."""
    if place.is_file():
        yield place
        return
    for entry in sorted(place.iterdir()):
        if entry.is_symlink():
            continue  # it may lead out of the root
        if entry.is_dir():
            if entry.name not in _HIDDEN:
                yield from _sources(entry)
        elif entry.suffix == ".py":
            yield entry


def _schema(name: str, description: str, **parameters: tuple[str, str]) -> dict[str, Any]:
    return {
        "type": "function",
        "name": name,
        "description": description,
        "parameters": {
            "type": "object",
            "properties": {
                parameter: {"type": kind, "description": meaning}
                for parameter, (kind, meaning) in parameters.items()
            },
            "required": list(parameters),
            "additionalProperties": False,
        },
        "strict": True,
    }


#: The tools as the `tools` field of a request describes them.
TOOL_SCHEMAS: Final[list[dict[str, Any]]] = [
    _schema(
        "grep",
        "Search Python files for a regular expression (Python syntax), line by line.",
        pattern=("string", "The regular expression."),
        path=("string", "A file, or a directory that is searched with all its subdirectories."),
    ),
    _schema(
        "read_file",
        "Read some lines of a file.",
        path=("string", "The file."),
        start=("integer", "The first line; lines are counted from 1."),
        lines=("integer", "How many lines."),
    ),
    _schema("list_dir", "List a directory.", path=("string", "The directory; '.' is the root.")),
    _schema("count_lines", "Count the lines of a file.", path=("string", "The file.")),
]
