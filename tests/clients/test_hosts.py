"""Frameworks that hold an OpenAI client, with one of `wspool.http` in its place, one line changed.

Each in an environment of its own with this tree on its path: their versions do not agree with each other.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from tests.clients.conftest import Way
from tests.clients.installed import installed
from tests.clients.model import ANSWER, LINES, Tasks
from wspool.testing.local import local_server

TREE = str(Path(__file__).parent.parent.parent)


@pytest.fixture
def door() -> Generator[Way]:
    """A server, to be reached through a door: all that can be a delta is one."""
    model = Tasks()
    with local_server(model=model) as server:
        yield Way(server.base_url, server, model, through=True)


def ask(door: Way, name: str, **env: str) -> object:
    """Run the program of the framework *name*."""
    program = f"by_{name.replace('-', '_')}.py"
    return installed(f"python-{name}").ask(program, BASE_URL=door.base_url, PYTHONPATH=TREE, **env)


def test_langchain(door: Way) -> None:
    """Three output versions, each whole by asyncio and streamed in a thread."""
    assert [ANSWER] * 6 == ask(door, "langchain")
    door.check(*[[1, 4]] * 6, given="websocket")


def test_litellm(door: Way) -> None:
    """`aresponses`."""
    assert [ANSWER] == ask(door, "litellm")
    door.check([1, 4], given="websocket")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_inspect(door: Way, backend: str) -> None:
    """Two evaluations in a row, each in a run of its own; it asks each model whether it is there first."""
    assert [ANSWER] * 8 == ask(door, "inspect", INSPECT_ASYNC_BACKEND=backend)
    probes = [[1]] * (len(door.server.ledger) - 16)
    assert len(probes) <= 2
    door.check(*[[1, 4]] * 8, *probes, given="websocket")


def test_mini_swe_agent(door: Way, tmp_path: Path) -> None:
    """It writes its lines, and submits."""
    assert ["Submitted"] == ask(door, "mini-swe-agent", FOLDER=str(tmp_path))
    assert (tmp_path / "lines.txt").read_text().split() == [str(number) for number in range(LINES)]
    door.check([2, 5, 8, 11], given="websocket")


def test_verifiers(door: Way) -> None:
    """Four rollouts at once, each of one request that is answered whole and one that is streamed."""
    assert [ANSWER] * 4 == ask(door, "verifiers")
    door.check(*[[1, 4]] * 4, given="websocket")
