"""What is written down of each request, and what the command line says."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.proxy.asking import KEY, scene
from wspool import PoolPolicy
from wspool.cli.app import app
from wspool.cli.proxy import policy_of
from wspool.cli.proxy_config import PROGRAMS, config_for
from wspool.proxy.records.journal import Journal
from wspool.server import EchoModel

# As the system writes them.
NOWHERE, NOWHERE_IN = repr(str(Path("/nowhere"))), repr(str(Path("/nowhere/state")))
UNIX, NO_UNIX = hasattr(socket, "AF_UNIX"), "there are no Unix sockets here"


async def test_one_line_for_each_request(autojump_clock, tmp_path: Path) -> None:
    """Whatever door; no key, no prompt, no answer."""
    path = tmp_path / "log.jsonl"
    journal = Journal(path)
    async with scene(EchoModel()) as it:
        with it.proxy.records.listen(journal.write):
            client = await it.client()
            await client.turn("my secret words", target="/s/rollout%207/v1/responses", stream=True)
            await client.ask("GET", "/v1/models")
            await client.turn("my secret words")
            await it.records()
    journal.close()
    text = path.read_text()
    lines = [json.loads(line) for line in text.splitlines()]

    assert ["sse", "http", "json"] == [line["door"] for line in lines]
    assert ["rollout 7", None, None] == [line["session"] for line in lines]
    assert lines[0]["usage"]["input"] > 0
    assert "secret" not in text
    assert KEY[1].split()[1] not in text
    if os.name == "posix":
        assert 0o600 == stat.S_IMODE(path.stat().st_mode)


@pytest.mark.skipif(
    os.name != "posix", reason="a file that is open cannot be moved away, and nothing asks for it"
)
async def test_a_file_that_was_moved_away_is_begun_anew(autojump_clock, tmp_path: Path) -> None:
    """As rotation of logs does."""
    path, old = tmp_path / "log.jsonl", tmp_path / "old.jsonl"
    journal = Journal(path)
    async with scene(EchoModel()) as it:
        with it.proxy.records.listen(journal.write):
            client = await it.client()
            await client.turn()
            await it.records()
            path.rename(old)
            await client.turn()
            await it.records()
            journal.reopen()
            await client.turn()
            await it.records()
    journal.close()

    assert (2, 1) == (old.read_text().count("\n"), path.read_text().count("\n"))
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no disk that is always full")
async def test_a_full_disk_costs_lines_only(autojump_clock, caplog: pytest.LogCaptureFixture) -> None:
    """It is said once."""
    journal = Journal("/dev/full")
    async with scene(EchoModel()) as it:
        with it.proxy.records.listen(journal.write):
            client = await it.client()
            for _ in range(3):
                assert 200 == (await client.turn()).status
            await it.records()
    journal.close()

    assert 1 == caplog.text.count("not written down")


@pytest.mark.parametrize("program", sorted(PROGRAMS))
def test_what_programs_are_told_names_the_proxy(program: str) -> None:
    """And is what they read: TOML, JSON, a shell."""
    text = config_for(program, "http://127.0.0.1:8787/v1", websocket=False)

    assert "http://127.0.0.1:8787/v1" in text
    assert "<" not in text
    if program == "env":
        assert 'export OPENAI_BASE_URL="http://127.0.0.1:8787/v1"' in text
    if program == "codex":
        provider = tomllib.loads(text)["model_providers"]["wspool"]
        assert (False, "responses") == (provider["supports_websockets"], provider["wire_api"])
    if program == "opencode":
        plain = "\n".join(line for line in text.splitlines() if not line.startswith("//"))
        assert json.loads(plain)["provider"]["openai"]["options"]["baseURL"].endswith(":8787/v1")
    if program != "litellm":
        assert "NO_PROXY" in text


@pytest.mark.parametrize(
    ("arguments", "url"),
    [
        ([], "http://127.0.0.1:8787/v1"),
        (["--host", "0.0.0.0", "--port", "1"], "http://127.0.0.1:1/v1"),
        (["--host", "::"], "http://[::1]:8787/v1"),
        (["--host", "proxy.example", "--certfile", "c.pem"], "https://proxy.example:8787/v1"),
    ],
)
def test_they_are_told_where_it_will_be(
    arguments: Sequence[str], url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it would say itself."""
    with pytest.raises(SystemExit) as left:
        app(["proxy", *arguments, "--print-config", "env"])

    assert not left.value.code
    assert f'OPENAI_BASE_URL="{url}"' in capsys.readouterr().out


@pytest.mark.network
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--api-key-env", "NOT_THERE"], "no such variable"),
        (["--token-file", "/nowhere"], f"{NOWHERE} cannot be used"),
        (["--host", "0.0.0.0", "--port", "0"], "without tokens"),
        (["--url", "ftp://x"], "must start with wss://"),
        (["--print-config", "word"], "there are ai-sdk"),
        (["--print-config", "codex", "--port", "0"], "--print-config needs the --port"),
        (["--certfile", "/nowhere"], "cannot be used"),
        (["--certfile", __file__], "no certificate and its key, as PEM and without a password"),
        (["--keyfile", "key.pem"], "--keyfile goes with --certfile"),
        (["--allow-host", "http://docker:80"], "without scheme and port"),
        (["--allow-host", ""], "without scheme and port"),
        (
            ["--port", "0", "--uds", "/nowhere/socket"],
            "'/nowhere/socket' cannot be used" if UNIX else NO_UNIX,
        ),
        (["--port", "0", "--uds", f"/tmp/{'x' * 200}"], f"{'x' * 200}' cannot be used" if UNIX else NO_UNIX),
        (["--state", "/nowhere/state"], f"{NOWHERE_IN} cannot be used"),
    ],
)
def test_what_is_wrong_is_one_line(arguments: list[str], said: str) -> None:
    """With exit code 2, and no traceback."""
    done = CliRunner().invoke(app, ["proxy", *arguments])

    assert 2 == done.exit_code, done.exception
    assert said in done.stderr
    assert 1 == done.stderr.strip().count("\n") + 1


@pytest.mark.network
def test_who_has_the_port_is_said() -> None:
    """And what to do; as far as the system says it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "wspool", "proxy", "--port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert 2 == done.returncode
    assert (f"process {os.getpid()})" if sys.platform == "linux" else "another program") in done.stderr
    assert "--take-over" in done.stderr
    assert 1 == done.stderr.strip().count("\n") + 1


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_program_asks_this_machine_through_another_proxy(program: str) -> None:
    """That of a company would swallow it."""
    assert "NO_PROXY" in config_for(program, "http://127.0.0.1:8787/v1", websocket=True)


def test_what_is_said_of_the_pools() -> None:
    """One word for both kinds of silence; nothing said is the pool's own."""
    assert PoolPolicy() == policy_of(None, None)
    assert PoolPolicy(max_size=3, min_idle=0) == policy_of(3, None)
    assert PoolPolicy(first_event_timeout=9.0, silence_timeout=9.0) == policy_of(None, 9.0)
