"""The programs beside this are what type checkers say of wspool to its users."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PROGRAMS = sorted(
    path.name for path in HERE.glob("*.py") if path.name not in ("__init__.py", "test_types.py")
)


def run(*command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """The programs, somewhere else: they see wspool as what is installed, and no settings of ours."""
    for name in PROGRAMS:
        text = (HERE / name).read_text(encoding="utf-8")
        if "openai" not in name or importlib.util.find_spec("openai") is not None:
            (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed")
def test_mypy_is_content(programs: Path) -> None:
    """Strict, every `type: ignore` is needed, and every type is the one that is named."""
    done = run(
        "mypy",
        "--strict",
        "--warn-unreachable",
        "--python-executable",
        sys.executable,
        ".",
        cwd=programs,
        MYPYPATH=str(ROOT),
    )

    assert (0, "") == (done.returncode, done.stderr), done.stdout


@pytest.mark.skipif(importlib.util.find_spec("pyright") is None, reason="pyright is not installed")
def test_pyright_is_content(programs: Path) -> None:
    """The same with the other one."""
    settings = {
        "typeCheckingMode": "strict",
        "pythonVersion": "3.11",
        "enableTypeIgnoreComments": False,
        "reportUnnecessaryTypeIgnoreComment": True,
        "extraPaths": [str(ROOT)],
    }
    (programs / "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")
    done = run("pyright", "--pythonpath", sys.executable, cwd=programs)

    assert 0 == done.returncode, done.stdout
