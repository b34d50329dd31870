"""The bundled tools: look around in one directory of Python source code, and nothing else.

Rules:

1. Every path is relative to the root, written with `/`; a path that leads out of the root (`..`, absolute,
   through a symbolic link) is refused, and hidden files are not there.
2. Output is one JSON object, bounded in size: `truncated` says that there would have been more.
3. A tool that cannot do what it was asked raises `ToolError`, whose message is meant for the model.
4. Nothing is written, and nothing is run but a search.
5. That this process may open no more files is no answer to a model, which would go on with it: the tool tries
   again for a while (`patient`), and then its task has failed.
"""

import errno
import json
import re
import sys
import sysconfig
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any, Final

import attrs
import trio

import wspool
from wspool.pool.calling import in_tool_thread
from wspool.rollout import search as search_module
from wspool.rollout.search import MAX_LINE, MAX_PATTERN, is_hidden, is_tame, search

__all__ = ["TOOL_SCHEMAS", "NoFilesError", "ToolError", "Tools", "patient", "standard_library"]

#: Seconds that one `grep` may take. All of the standard library takes less than one.
SEARCH_TIMEOUT: Final = 10.0
#: Most entries that one `list_dir` returns, and most lines that one `read_file` returns.
MAX_ENTRIES: Final = 500
#: Seconds between the tries of a tool that may open no file. Other tools are done in milliseconds, so what
#: lasts longer than all of these will not pass.
_PAUSES: Final = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0)


class ToolError(wspool.ToolError, ValueError):
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

        A checkpoint. A search that could take for ever is a process of its own, which ends with the wait for
        it and after `SEARCH_TIMEOUT` seconds; any other runs in a thread, because a package takes
        milliseconds."""
        problem: object = f"longer than {MAX_PATTERN} characters" if len(pattern) > MAX_PATTERN else None
        try:
            re.compile(pattern[:MAX_PATTERN])
        except (re.error, RecursionError, OverflowError) as error:
            problem = problem or error
        if problem is not None:
            raise ToolError(f"the pattern is not a regular expression: {problem}")
        request = {"pattern": pattern, "root": str(self.root), "place": str(self._find(path))}
        if is_tame(pattern):
            return await trio.to_thread.run_sync(partial(search, **request), abandon_on_cancel=True)
        with trio.move_on_after(SEARCH_TIMEOUT):
            # Isolated, and without the packages that are installed: they would take longer than the search.
            command = [sys.executable, "-I", "-S", search_module.__file__]
            ended = await trio.run_process(
                command,
                stdin=json.dumps(request).encode(),
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                deliver_cancel=_kill,
            )
            if ended.returncode:
                raise ToolError(f"the search failed: {ended.stderr.decode(errors='replace')[-MAX_LINE:]}")
            return ended.stdout.decode()
        raise ToolError(f"the search took longer than {SEARCH_TIMEOUT:g} s; use a simpler pattern")

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
        names = sorted(entry for entry in place.iterdir() if not is_hidden(entry.name))
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
            if inside and place.exists() and not any(map(is_hidden, place.relative_to(self.root).parts)):
                return place
        except (OSError, ValueError):  # a name that no file can have
            inside = True
        raise ToolError(f"there is no {path}" if inside else f"{path} is outside of the root")

    def _file(self, path: str) -> Path:
        place = self._find(path)
        if not place.is_file():
            raise ToolError(f"{path} is no file")
        return place


async def _kill(process: trio.Process) -> None:
    process.kill()  # it has nothing to tidy up
    await trio.lowlevel.checkpoint()


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
                    return await in_tool_thread(partial(tool, **arguments))
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
