"""The site's code runs and prints what the page says; its commands exist; its pages are no stubs."""

from __future__ import annotations

import doctest
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command

from wspool.cli.app import app

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))

#: A program, and what it prints, if the page shows that.
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```output\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)
#: Pages whose programs are run elsewhere, in their own way: tests/plugin, tests/explore.
ELSEWHERE = {"testing.md", "explore.md"}

# All programs share one interpreter, for its imports take longer than they do. What one changes for all is
# put back behind it.
_RUN = """
import contextlib, faulthandler, io, json, logging, os, sys, traceback

complaints = sys.stderr
for program in json.load(sys.stdin):
    faulthandler.dump_traceback_later(30, exit=True, file=complaints)
    out, err, environment = io.StringIO(), io.StringIO(), dict(os.environ)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            exec(compile(program, "block", "exec"), {"__name__": "__main__"})
        except BaseException:
            traceback.print_exc()
    os.environ.clear()
    os.environ.update(environment)
    logging.root.handlers.clear()
    print(json.dumps([out.getvalue(), err.getvalue()]), flush=True)
faulthandler.cancel_dump_traceback_later()
"""


def _text(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def _needs(program: str) -> str | None:
    """What *program* imports that is not installed."""
    names = re.findall(r"^\s*(?:import|from) (\w+)", program, re.MULTILINE)
    return next((name for name in names if importlib.util.find_spec(name) is None), None)


def _programs(page: str) -> list[tuple[str, str]]:
    return [] if page in ELSEWHERE else BLOCK.findall(_text(page))


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """What each program that can run has printed, and what it complained of."""
    programs = [program for page in PAGES for program, _ in _programs(page) if _needs(program) is None]
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _RUN],
        input=json.dumps(programs),
        capture_output=True,
        text=True,
        timeout=240,
        cwd=tmp_path_factory.mktemp("pages"),
        env={**environment, "PYTHONPATH": str(ROOT)},
    )

    ended = [json.loads(line) for line in done.stdout.splitlines()]
    ended += [["", f"it did not end:\n{done.stderr}"]] * (len(programs) - len(ended))
    return {program: (out, err) for program, (out, err) in zip(programs, ended, strict=True)}


@pytest.mark.network
@pytest.mark.parametrize("page", [page for page in PAGES if _programs(page)])
def test_the_programs_of_a_page_run(page: str, printed: dict[str, tuple[str, str]]) -> None:
    """Every Python block is a whole program that ends well, without a warning, and prints what it should."""
    missing = set()
    for program, said in _programs(page):
        if (needed := _needs(program)) is not None:
            missing.add(needed)
            continue
        out, err = printed[program]

        assert "" == err, f"{program}\n{err}"
        assert out, program
        same = not said or doctest.OutputChecker().check_output(said, out, doctest.ELLIPSIS)
        assert same, f"{program}\nprints\n{out}\nand not\n{said}"
    if missing:
        pytest.skip(f"its other programs ran; for the rest is not installed: {', '.join(sorted(missing))}")


def _commands() -> Iterator[tuple[str, list[str]]]:
    for page in PAGES:
        for block in re.findall(r"^```console\n(.*?)^```", _text(page), re.DOTALL | re.MULTILINE):
            for line in re.findall(r"^\$ (.*)", block.replace("\\\n", " "), re.MULTILINE):
                words = shlex.split(line.split(" | ")[0], comments=True)
                if "wspool" in words:
                    here = words.index("wspool")
                    if here == 0 or "=" in words[here - 1]:
                        yield page, words[here + 1 :]


def test_the_commands_of_the_site_exist() -> None:
    """Each `$ wspool ...` of a page names a command, and only options that this command has."""
    top = get_command(app)
    with top.make_context("wspool", [], resilient_parsing=True) as above:
        names = top.list_commands(above)  # type: ignore[attr-defined]
        commands = {name: top.get_command(above, name) for name in names}  # type: ignore[attr-defined]
    seen = 0
    for page, words in _commands():
        if words[0].startswith("-"):
            continue
        assert words[0] in commands, (page, words)
        options = {name for each in commands[words[0]].params for name in (*each.opts, *each.secondary_opts)}
        for word in words[1:]:
            if word.startswith("-") and not re.fullmatch(r"-\d.*", word):
                assert word.split("=")[0] in {*options, "--help"}, (page, words)
        seen += 1

    assert seen > 5


def test_no_page_is_a_stub() -> None:
    """A page says something: at least a hundred words, or it is made from the code."""
    for page in PAGES:
        text = _text(page)
        made = re.search(r"```\{(generated|include|toctree)\}|automodule", text)
        assert made or len(text.split()) >= 100, page


def test_every_page_is_found() -> None:
    """Each page is in a table of contents."""
    listed = {"index.md"}
    for page in PAGES:
        for tree in re.findall(r"^```\{toctree\}\n(.*?)^```", _text(page), re.DOTALL | re.MULTILINE):
            for line in tree.splitlines():
                if line and not line.startswith(":"):
                    name = re.sub(r".*<(.*)>", r"\1", line.strip())
                    there = (DOCS / page).parent / f"{name}.md"
                    listed.add(Path(os.path.relpath(there, DOCS)).as_posix())

    assert set(PAGES) == listed


def test_every_public_name_is_in_the_reference() -> None:
    """Of the package itself; the other modules are put there whole."""
    import wspool

    pages = "".join(_text(page) for page in PAGES if page.startswith("reference/api/"))
    errors = set(wspool.errors.__all__)

    assert [] == [
        name for name in wspool.__all__ if name not in errors and not re.search(rf"\b{name}\b", pages)
    ]


def test_every_logger_is_on_its_page() -> None:
    """Whoever filters logs finds the names there."""
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "wspool").rglob("*.py"))

    for name in set(re.findall(r'getLogger\("([^"]+)"\)', sources)):
        assert f"`{name}`" in _text("reference/logs.md"), name
