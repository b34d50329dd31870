"""The page about exploring says what is so: its programs run, and find what they say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import wspool.testing.explore

PAGE = (Path(__file__).parents[2] / "docs" / "explore.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_a_program_runs(number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As it stands there; what it prints is what the page says it prints."""
    file = tmp_path / "program.py"
    file.write_text(PROGRAMS[number])
    exec(compile(PROGRAMS[number], file, "exec"), {})

    if number == 0:
        assert _steps(capsys.readouterr().out) == _steps(re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)[0])


def _steps(story: str) -> list[str]:
    """The lines of a story, without where in the file that was."""
    return [re.sub(r"\S+\.py:\d+ ", "", line).rstrip() for line in story.strip().splitlines()]


def test_its_words_are_there() -> None:
    """What the tables name is public."""
    names = set(re.findall(r"^\| `(?:with )?(\w+)\(", PAGE, re.MULTILINE))

    assert names == {"choose", "cancel_at", "cut", "fixed", "always", "Deviations", "Priorities", "Randomly"}
    assert names <= set(wspool.testing.explore.__all__)
