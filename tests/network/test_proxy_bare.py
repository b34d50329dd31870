"""The proxy on a system without Unix sockets, shared ports and hang-up signals, as Windows is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from wspool.testing import local_server

_PROGRAM = """
import signal, socket
import trio

# While ours is imported: trio makes its own sockets by the same names.
LESS = [(m, n, getattr(m, n)) for m, n in ((socket, "AF_UNIX"), (socket, "SO_REUSEPORT"), (signal, "SIGHUP"))]
for module, name, _ in LESS:
    delattr(module, name)

from wspool.cli import proxy, serve
from wspool.cli.running import run_until_told
from wspool.proxy import Proxy, Where, open_proxy

for module, name, value in LESS:
    setattr(module, name, value)

URL = "ws://localhost/v1/responses"


async def asked(running):
    port = int(running.base_url.rpartition(":")[2].partition("/")[0])
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(b"GET /livez HTTP/1.1\\r\\nhost: localhost\\r\\n\\r\\n")
        return bytes(await stream.receive_some()).partition(b"\\r\\n")[0].decode()


async def main():
    async with open_proxy(URL, where=Where(port=0)) as running:
        print(await asked(running))
        try:
            async with open_proxy(URL, where=Where(port=int(running.base_url.rsplit(":")[-1][:-3]))):
                print("twice")
        except OSError:
            print("taken")
    try:
        async with open_proxy(URL, where=Where(port=None, uds="x")):
            print("there are")
    except ValueError as error:
        print(error)
    with trio.CancelScope() as scope:
        opened = open_proxy(URL, where=Where(port=0))
        await run_until_told(opened, lambda _: scope.cancel() or "up", drain=Proxy.drain, reread=Proxy.reread)


trio.run(main)
"""


@pytest.mark.skipif(os.name != "posix", reason="this is such a system")
def test_it_runs_without_what_only_some_systems_have() -> None:
    """It listens, a port is still taken by one only, a Unix socket is refused with a word, and signals do."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, timeout=60, check=False
    )

    assert ["HTTP/1.1 200", "taken", "there are no Unix sockets here", "up"] == [
        line.strip() for line in done.stdout.splitlines()
    ], done.stderr


@pytest.mark.skipif(os.name != "posix", reason="there are no such limits")
def test_a_limit_on_files_is_said_at_the_start() -> None:
    """Not when the last of two thousand rollouts finds no place."""
    command = f"ulimit -n 600; exec {sys.executable} -m wspool proxy --port 0"
    with subprocess.Popen(
        ["bash", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline().startswith("http://127.0.0.1:")
        run.terminate()
        _, said = run.communicate(timeout=60)

    assert 0 == run.returncode
    assert "of 4096 clients (--max-clients) only " in said
    assert "ulimit -n" in said
    assert 1 == said.count("\n")


@pytest.mark.skipif(os.name != "posix", reason="a folder that nobody may write to is another thing there")
def test_what_goes_wrong_behind_it_is_on_standard_error(tmp_path: Path) -> None:
    """Whatever part of it says so: an endpoint that is down, cassettes that cannot be written; each once."""
    folder = tmp_path / "cassettes"
    with local_server() as server, proxied(server.url, folder) as (run, base_url):
        folder.rmdir()
        folder.write_text("")
        for _ in range(2):
            assert 200 == asked(base_url)
        run.terminate()
        _, recorded = run.communicate(timeout=60)
    with proxied("ws://127.0.0.1:9/v1/responses", tmp_path / "other") as (run, base_url):
        with pytest.raises(httpx.ReadTimeout):
            asked(base_url, timeout=0.5)
        run.terminate()
        _, dialled = run.communicate(timeout=60)

    assert ["recording has ended, for no cassette can be written: File exists"] == recorded.splitlines()
    assert 1 == len(dialled.splitlines())
    assert "127.0.0.1" in dialled


@contextmanager
def proxied(url: str, folder: Path) -> Generator[tuple[subprocess.Popen[str], str]]:
    """A proxy, and what programs need to find it."""
    command = [sys.executable, "-m", "wspool", "proxy", "--port", "0", "--url", url, "--record", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        try:
            assert run.stdout is not None
            yield run, run.stdout.readline().strip()
        finally:
            run.kill()


def asked(base_url: str, timeout: float = 30) -> int:
    """The status of one turn."""
    url, body = f"{base_url}/responses", {"model": "m", "input": "hi"}
    headers = {"authorization": "Bearer k"}
    return httpx.post(url, headers=headers, json=body, timeout=timeout, trust_env=False).status_code
