"""The bundled tools see one directory, say what is in it, and refuse everything else."""

import errno
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from wspool.rollout.search import MAX_LINE, MAX_MATCHES, MAX_PATTERN, is_tame
from wspool.rollout.tools import (
    MAX_ENTRIES,
    TOOL_SCHEMAS,
    NoFilesError,
    ToolError,
    Tools,
    patient,
)


@pytest.fixture
def tools(tmp_path: Path) -> Tools:
    """Tools over a small tree, with a secret beside it."""
    root = tmp_path / "root"
    (root / "pkg" / "__pycache__").mkdir(parents=True)
    (root / "pkg" / "a.py").write_text("import os\nclass A:\n    pass\n")
    (root / "pkg" / "b.py").write_bytes(b"class B: pass\r\nx = '\xff'\r\nlast")
    (root / "pkg" / "notes.txt").write_text("class C\n")
    (root / "pkg" / "empty.py").write_text("")
    (root / "pkg" / "__pycache__" / "hidden.py").write_text("class Hidden: pass\n")
    (tmp_path / "secret.py").write_text("class Secret: pass\n")
    (root / "link.py").symlink_to(tmp_path / "secret.py")
    return Tools(root)


async def test_grep_finds_lines_in_python_files_only(tools: Tools) -> None:
    """Matches come in the order of files and lines, without compiled files and links that lead out."""
    found = json.loads(await tools.grep(r"^class \w", "."))

    assert found == {
        "matches": [
            {"path": "pkg/a.py", "line": 2, "text": "class A:"},
            {"path": "pkg/b.py", "line": 1, "text": "class B: pass"},
        ],
        "truncated": False,
    }


@pytest.mark.parametrize("path", [".env", ".git/config", "pkg/.secret.py", "pkg/__pycache__/hidden.py"])
async def test_hidden_files_are_not_there(tools: Tools, path: str) -> None:
    """Their names hold secrets, or nothing of anybody's own; no tool reads, finds or lists them."""
    file = tools.root / path
    file.parent.mkdir(exist_ok=True)
    file.write_text("class Secret: pass\n")

    for refused in (lambda: tools.read_file(path, 1, 1), lambda: tools.count_lines(path)):
        with pytest.raises(ToolError, match="there is no"):
            refused()
    with pytest.raises(ToolError, match="there is no"):
        await tools.grep("Secret", path)
    assert [] == json.loads(await tools.grep("Secret", "."))["matches"]
    listed = json.loads(tools.list_dir(".")) | {"in": json.loads(tools.list_dir("pkg"))}
    assert file.name not in json.dumps(listed)
    assert ".git" not in json.dumps(listed)


async def test_grep_searches_one_file(tools: Tools) -> None:
    """A file is searched whatever its name."""
    found = json.loads(await tools.grep("class", "pkg/notes.txt"))

    assert [match["text"] for match in found["matches"]] == ["class C"]


async def test_grep_is_bounded(tools: Tools) -> None:
    """More matches than the bound, and more characters than a line may have, are cut off."""
    (tools.root / "many.py").write_text("x" * (MAX_LINE + 9) + "\n" + "x\n" * MAX_MATCHES)

    found = json.loads(await tools.grep("x", "many.py"))

    assert (
        len(found["matches"]),
        found["truncated"],
        len(found["matches"][0]["text"]),
    ) == (MAX_MATCHES, True, MAX_LINE)


async def test_grep_refuses_what_is_no_expression(tools: Tools) -> None:
    """The message says what is wrong with it."""
    with pytest.raises(ToolError, match="not a regular expression"):
        await tools.grep("(", ".")


@pytest.mark.parametrize("pattern", ["a" * (MAX_PATTERN + 1), "(" * 900 + ")" * 900, "(?<=a*)b"])
async def test_grep_refuses_what_is_too_much(tools: Tools, pattern: str) -> None:
    """Longer, or nested deeper, than anything that is meant."""
    with pytest.raises(ToolError, match="not a regular expression"):
        await tools.grep(pattern, ".")


#: Expressions for which `re` takes for ever, or may.
WILD = [
    r"(.|.)*\x00",
    r"(a+)+$",
    r"(?:a|a){50}b",
    r"(a*)*b",
    r"a?a?a?a?a?a?aaaaaa",
    r"(a|b)(a|b)(a|b)(a|b)(a|b)(a|b)x",
    r".*.*=.*",
    r"(?P<x>a)(?P=x)+",
]
TAME = [r"^class \w", r"^(?:async\s+)?def\s", r"^(?:async def|def|class) \w+\b", r"[*+{|?]\(\)\*\+", r"a.?b"]


@pytest.mark.parametrize(("pattern", "tame"), [(one, False) for one in WILD] + [(one, True) for one in TAME])
def test_only_what_cannot_grow_is_searched_for_here(pattern: str, tame: bool) -> None:
    """The others are searched for in a process that can be killed."""
    assert tame is is_tame(pattern)


async def test_a_wild_expression_finds_the_same(tools: Tools) -> None:
    """In a process of its own, with the same answer."""
    wild, tame = [await tools.grep(pattern, ".") for pattern in (r"^(c|c)lass (\w)+", r"^class \w")]
    assert json.loads(tame) == json.loads(wild)


async def test_a_search_for_ever_is_ended(tools: Tools, autojump_clock: object) -> None:
    """Its process is killed, and the model is told what to do."""
    (tools.root / "long.py").write_text("a" * 100)

    with pytest.raises(ToolError, match="took longer than 10 s; use a simpler pattern"):
        await tools.grep(r"(.|.)*\x00", "long.py")


def test_read_file(tools: Tools) -> None:
    """Lines are counted from 1, come without their ends, and bytes that are no UTF-8 do no harm."""
    assert json.loads(tools.read_file("pkg/b.py", 2, 9))["lines"] == ["x = '\ufffd'", "last"]


def test_read_file_is_bounded(tools: Tools) -> None:
    """A greedy request gets the first lines and is told so; one that was answered in full is not."""
    (tools.root / "long.py").write_text("x\n" * (MAX_ENTRIES + 1))

    greedy, exact = (json.loads(tools.read_file("long.py", 1, lines)) for lines in (MAX_ENTRIES + 1, 5))

    assert (len(greedy["lines"]), greedy["truncated"]) == (MAX_ENTRIES, True)
    assert (len(exact["lines"]), exact["truncated"]) == (5, False)


@pytest.mark.parametrize(("start", "lines"), [(0, 1), (1, 0), (4, 1)])
def test_read_file_refuses_lines_that_are_not_there(tools: Tools, start: int, lines: int) -> None:
    """No line is no answer."""
    with pytest.raises(ToolError):
        tools.read_file("pkg/a.py", start, lines)


def test_list_dir(tools: Tools) -> None:
    """Directories and files apart, sorted, without compiled files."""
    assert json.loads(tools.list_dir(".")) == {
        "path": ".",
        "directories": ["pkg"],
        "files": ["link.py"],
        "truncated": False,
    }
    assert json.loads(tools.list_dir("pkg"))["files"] == ["a.py", "b.py", "empty.py", "notes.txt"]


def test_list_dir_is_bounded(tools: Tools) -> None:
    """A huge directory is cut off, and says so."""
    for number in range(MAX_ENTRIES):
        (tools.root / f"{number}.py").touch()

    assert json.loads(tools.list_dir("."))["truncated"]


@pytest.mark.parametrize(("name", "lines"), [("a.py", 3), ("b.py", 3), ("empty.py", 0)])
def test_count_lines(tools: Tools, name: str, lines: int) -> None:
    """A last line counts with or without its end."""
    assert lines == json.loads(tools.count_lines(f"pkg/{name}"))["lines"]


@pytest.mark.parametrize("path", ["../secret.py", "/etc/passwd", "pkg/../../secret.py", "link.py"])
def test_a_path_that_leads_out_is_refused(tools: Tools, path: str) -> None:
    """Neither dots, nor an absolute path, nor a link leads out of the root."""
    with pytest.raises(ToolError, match="outside of the root"):
        tools.count_lines(path)


@pytest.mark.parametrize("path", ["nowhere", "nul\0", "x" * 5000])
def test_a_path_that_is_not_there_is_refused(tools: Tools, path: str) -> None:
    """Also one that no file can have."""
    with pytest.raises(ToolError, match="there is no"):
        tools.list_dir(path)


def test_a_directory_is_no_file_and_a_file_no_directory(tools: Tools) -> None:
    """Each tool says what it needs."""
    with pytest.raises(ToolError, match="is no file"):
        tools.count_lines("pkg")
    with pytest.raises(ToolError, match="is no directory"):
        tools.list_dir("pkg/a.py")


def test_schemas_name_the_tools_and_all_their_parameters(tools: Tools) -> None:
    """What the model is told is what can be called: strict, and nothing optional."""
    assert sorted(tools.callables()) == sorted(schema["name"] for schema in TOOL_SCHEMAS)
    for schema in TOOL_SCHEMAS:
        names = tools.callables()[schema["name"]].__code__.co_varnames
        parameters = schema["parameters"]
        assert (
            list(parameters["properties"])
            == parameters["required"]
            == list(names[1 : 1 + len(parameters["required"])])
        )


class Scarce:
    """A tool that fails a number of times before it answers."""

    def __init__(self, fails: float, error: Exception) -> None:
        self._fails = fails
        self._error = error
        self.calls = 0

    def plain(self, path: str) -> str:
        self.calls += 1
        if self.calls <= self._fails:
            raise self._error
        return f"contents of {path}"

    async def later(self, path: str) -> str:
        await trio.lowlevel.checkpoint()
        return self.plain(path)


def made_patient(tool: Callable[..., Any]) -> tuple[Callable[..., Awaitable[Any]], list[NoFilesError]]:
    """*tool* with patience, and where it says that it has lost it."""
    given_up: list[NoFilesError] = []
    return patient({"tool": tool}, given_up.append)["tool"], given_up


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
@pytest.mark.parametrize("fails", [0, 1, 5])
async def test_a_tool_waits_for_files(fails: int, number: int, autojump_clock) -> None:
    """The model gets the answer, a little later."""
    scarce = Scarce(fails, OSError(number, "too many"))
    tool, given_up = made_patient(scarce.later)

    assert "contents of a.py" == await tool(path="a.py")
    assert (fails + 1, []) == (scarce.calls, given_up)
    assert trio.current_time() < 2


async def test_a_plain_tool_waits_for_files() -> None:
    """Its tries run in threads, as it would without."""
    tool, _ = made_patient(Scarce(1, OSError(errno.EMFILE, "too many")).plain)

    assert "contents of a.py" == await tool(path="a.py")


async def test_a_tool_that_gets_no_files_is_no_answer(autojump_clock) -> None:
    """Whoever runs the task is told what to do, and the tool says nothing."""
    tool, given_up = made_patient(Scarce(float("inf"), OSError(errno.EMFILE, "Too many open files")).later)

    with trio.move_on_after(1000) as scope:
        await tool(path="a.py")

    assert scope.cancelled_caught
    (error,) = given_up
    assert "tool could open no file for 16 s" in str(error)
    assert "ulimit -n" in str(error)


@pytest.mark.parametrize("error", [OSError(errno.ENOENT, "gone"), ToolError("no"), PermissionError(13, "no")])
async def test_other_failures_of_a_tool_are_told_at_once(error: Exception, autojump_clock) -> None:
    """These are for the model."""
    tool, given_up = made_patient(Scarce(1, error).later)

    with pytest.raises(type(error)):
        await tool(path="a.py")
    assert (0, []) == (trio.current_time(), given_up)
