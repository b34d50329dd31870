"""Clients of npm, as they are: their answers, and what the provider's ledger says of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.clients.conftest import Way
from tests.clients.installed import installed
from tests.clients.model import ANSWER, LINES
from wspool.cli.proxy_config import config_for

KEY = "sk-test"


def test_openai(way: Way) -> None:
    """A tool loop that brings all of its history, and one that streams."""
    assert [ANSWER, ANSWER] == installed("openai").ask("openai.mjs", BASE_URL=way.base_url)
    way.check([1, 4], [1, 4], given="http")


def test_openai_by_websocket(way: Way) -> None:
    """It goes on from a parent of its own."""
    said = installed("openai").ask("openai.mjs", BASE_URL=way.base_url, TRANSPORT="websocket")
    assert [ANSWER] == said
    way.check([1, 4], given="websocket")


@pytest.mark.parametrize("transport", ["http", "websocket"])
def test_agents(way: Way, transport: str) -> None:
    """A run, and one that streams."""
    said = installed("agents").ask("agents.mjs", BASE_URL=way.base_url, TRANSPORT=transport)
    assert [ANSWER, ANSWER] == said
    way.check([1, 4], [1, 4], given=transport)


@pytest.mark.parametrize("store", ["false", "true"])
def test_ai_sdk(way: Way, store: str) -> None:
    """Three turns with reasoning items are three different turns; and a tool loop."""
    said = installed("ai").ask("ai.mjs", BASE_URL=way.base_url, STORE=store)
    assert ["heard one", "heard two", "heard three", ANSWER] == said
    way.check([1, 4, 7], [1, 4], given="http")


def test_pi(way: Way) -> None:
    """A tool loop, whole and streamed."""
    assert [ANSWER, ANSWER] == installed("pi").ask("pi.mjs", BASE_URL=way.base_url)
    way.check([2, 5], [2, 5], given="http")


@pytest.mark.parametrize("transport", ["http", "websocket"])
def test_codex(way: Way, transport: str, tmp_path: Path) -> None:
    """It has three commands run in a folder, and says what it was told. Set up as `--print-config` says."""
    ask_codex(way.base_url, transport, tmp_path)
    way.check([4, 7, 10, 13], given=transport)


def ask_codex(base_url: str, transport: str, folder: Path) -> None:
    """Have it write lines in *folder*."""
    home, work = folder / "home", folder / "work"
    home.mkdir()
    work.mkdir()
    config = f"""
model = "gpt-5.2"
approval_policy = "never"
sandbox_mode = "danger-full-access"
{config_for("codex", base_url, websocket=transport == "websocket")}
"""
    (home / "config.toml").write_text(config)
    command = ("codex", "exec", "--json", "--skip-git-repo-check", "-C", str(work), "write lines")
    said = installed("codex").run(*command, env={"CODEX_HOME": str(home), "OPENAI_API_KEY": KEY})
    events = [json.loads(line) for line in said.splitlines()]
    items = [event["item"] for event in events if event["type"] == "item.completed"]
    assert [ANSWER] == [item["text"] for item in items if item["type"] == "agent_message"]
    assert _lines(work) == [str(number) for number in range(LINES)]


def test_cline(way: Way, tmp_path: Path) -> None:
    """The same, with a delta for each tool turn, though it sends calls without id, and no reasoning."""
    ask_cline(way.base_url, tmp_path)
    way.check([2, 4, 6, 8], given="http", forgets=True)


def ask_cline(base_url: str, folder: Path) -> None:
    """Have it write lines in *folder*."""
    data, work = folder / "data", folder / "work"
    work.mkdir()
    cline, env = installed("cline"), {"HOME": str(folder)}
    who = ("-m", "gpt-5.2", "-k", KEY, "--data-dir", str(data))
    told = config_for("cline", base_url, websocket=True).replace("MODEL", f"gpt-5.2 --data-dir {data}")
    cline.run("sh", "-c", told, env={**env, "OPENAI_API_KEY": KEY})
    task = ("-P", "openai-native", *who, "-c", str(work), "-t", "60", "--json", "write lines")
    said = cline.run("cline", *task, env=env, cwd=work)
    assert ANSWER == json.loads(said.strip().splitlines()[-1])["text"]
    assert _lines(work) == [str(number) for number in range(LINES)]


def test_opencode(way: Way, tmp_path: Path) -> None:
    """It has a title made for what it is told to do, then does it, with a delta for each tool turn.

    It was told what `wspool proxy --print-config opencode` says, and nothing else of us.
    """
    work, own = tmp_path / "work", tmp_path / "home" / ".config" / "opencode"
    work.mkdir()
    own.mkdir(parents=True)
    config = {
        "autoupdate": False,
        "share": "disabled",
        "model": "openai/gpt-5.2",
        "small_model": "openai/gpt-5.2",
        "provider": {"openai": {"models": {"gpt-5.2": {"name": "gpt-5.2"}}}},
    }
    (own / "opencode.json").write_text(json.dumps(config))
    (work / "opencode.json").write_text(config_for("opencode", way.base_url, websocket=True))
    program = installed("opencode")
    binary = program.folder / "node_modules" / "opencode-linux-x64" / "bin" / "opencode"
    env = {"HOME": str(tmp_path / "home"), "OPENAI_API_KEY": KEY}
    said = program.run(str(binary), "run", "write lines", env=env, cwd=work)
    assert ANSWER in said
    assert _lines(work) == [str(number) for number in range(LINES)]
    way.check([3], [2, 5, 8, 11], given="http")


def _lines(folder: Path) -> list[str]:
    return (folder / "lines.txt").read_text().split()
