"""`wspool rollout --ray`: what is wrong is one sentence, said before anything runs."""

import importlib.util
import sys
from pathlib import Path

import pytest

from tests.rollout.command import command, place, write

__all__ = ["place"]

URL = "ws://127.0.0.1:1/v1/responses"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--url", URL, "--actors", 2], "--actors and --address are of a Ray cluster; say --ray as well"),
        (["--url", URL, "--address", "auto"], "say --ray as well"),
        (["--url", URL, "--ray", "--checkpoint-turns"], "--checkpoint-turns is of one process"),
        (["--url", URL, "--ray", "--timeline", "t.json"], "--timeline is of one process"),
        (["--url", URL, "--ray", "--actors", 0], "Invalid value for '--actors'"),
        (["--local", "--ray"], "start `wspool serve`, and say --url"),
    ],
)
def test_options_that_do_not_fit(place: Path, options: list[object], words: str) -> None:
    """Exit code 2, and nothing is written."""
    ended = command("rollout", write("t.jsonl", {"input": "a"}), "--out", "out", *options)

    assert 2 == ended.code
    assert words in ended.err
    assert not Path("out").exists()


def test_ray_is_not_installed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what to install."""
    monkeypatch.setitem(sys.modules, "ray", None)

    ended = command("rollout", write("t.jsonl", {"input": "a"}), "--out", "out", "--url", URL, "--ray")

    assert 2 == ended.code
    assert "wspool: Ray is not installed: pip install 'wspool[ray]'\n" == ended.err
    assert not Path("out").exists()


@pytest.mark.network
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="not installed: ray")
def test_nobody_is_at_the_address(place: Path) -> None:
    """It does not try for minutes, as Ray does."""
    tasks = write("t.jsonl", {"input": "a"})
    ended = command("rollout", tasks, "--out", "out", "--url", URL, "--ray", "--address", "127.0.0.1:1")

    assert 2 == ended.code
    assert ended.err.startswith("wspool: there is no Ray cluster at 127.0.0.1:1: ")
    assert 1 == ended.err.count("\n")
    assert not Path("out").exists()
