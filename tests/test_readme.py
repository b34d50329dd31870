"""The README runs, renders anywhere, and what it names is there; the tables of the site are whole."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import wspool

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
URLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]


@pytest.mark.network
@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_the_code_of_the_readme_runs(number: int) -> None:
    """Every Python block is a whole program that ends well and prints something."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", BLOCKS[number]], capture_output=True, text=True, timeout=60
    )

    assert (0, "") == (done.returncode, done.stderr)
    assert done.stdout


def test_the_first_program_is_short() -> None:
    """The first screen shows a program of about a dozen lines."""
    assert len([line for line in BLOCKS[0].splitlines() if line.strip()]) <= 12


def test_it_is_short_enough_to_be_read() -> None:
    """One screen of why and how, and then links."""
    assert len(README.split()) < 1000


def test_it_renders_on_an_index_page() -> None:
    """Nothing there follows a relative link, draws a diagram, or knows a directive."""
    links = re.findall(r"\]\(([^)]*)\)", README)

    assert links
    for link in links:
        assert link.startswith(URLS["Documentation"]), link
    assert "```mermaid" not in README
    assert "```{" not in README


def test_every_page_that_is_linked_exists() -> None:
    """Of the README, and of the package's page on an index."""
    for link in [*re.findall(r"\]\(([^)]*)\)", README), *URLS.values()]:
        if link.startswith(URLS["Documentation"]):
            page = link.removeprefix(URLS["Documentation"]).removesuffix(".html") or "index"
            assert (DOCS / f"{page}.md").exists(), link


def test_every_setting_is_explained() -> None:
    """The page of settings is made from the docstring, which names every field of the policy."""
    for name in ("PoolPolicy", "Provider"):
        cls = getattr(wspool, name)
        for field in cls.__attrs_attrs__:
            assert re.search(rf"^ +{field.name}: ", cls.__doc__ or "", re.MULTILINE), field.name


def test_every_error_is_in_the_table() -> None:
    """The table of errors names every error but the root."""
    page = (DOCS / "reference" / "errors.md").read_text(encoding="utf-8")
    for name in wspool.__all__:
        if name.endswith("Error") and name not in ("WsPoolError", "ToolError"):
            assert f"`{name}`" in page, name


def test_every_file_that_is_named_exists() -> None:
    """A guarantee names the tests that prove it."""
    pages = [README, *(path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md")))]
    for text in pages:
        for name in re.findall(r"`(tests/[\w/.]+|examples/[\w/.]*)`", text):
            assert (ROOT / name).exists(), name


def test_the_states_are_drawn_from_the_tables() -> None:
    """Each of the three legality tables has its diagram, made from it."""
    text = "".join(path.read_text(encoding="utf-8") for path in sorted((DOCS / "concepts").glob("*.md")))

    for name in ("connection", "lane", "turn"):
        assert f"```{{generated}} {name}\n" in text
