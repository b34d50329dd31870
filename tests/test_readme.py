"""The README's code runs, and what it says of defaults and files is so."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import wspool

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


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


def test_every_setting_is_in_the_readme() -> None:
    """The table of limits names every field of the policy."""
    for field in wspool.PoolPolicy.__attrs_attrs__:
        assert f"`{field.name}`" in README


def test_every_error_is_in_the_readme() -> None:
    """The table of errors names every error but the root."""
    for name in wspool.__all__:
        if name.endswith("Error") and name != "WsPoolError":
            assert f"`{name}`" in README


def test_every_file_that_the_readme_names_exists() -> None:
    """A guarantee names the tests that prove it."""
    for name in re.findall(r"`(tests/[\w/.]+)`", README):
        assert (ROOT / name).exists(), name
