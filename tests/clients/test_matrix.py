"""Real clients before the proxy by every way, through what goes wrong: no turn lost, none asked for twice.

The cells that are not here: Node's `fetch` takes no Unix socket in a base URL; Codex and Cline cut a history
down before it has 25 MiB. OpenAI's Python client has those cells in `tests/network/test_matrix.py`.
"""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import attrs
import pytest

from benchmarks.proxied.provider import lines
from benchmarks.proxied.running import Program, open_proxy
from tests.clients.installed import installed
from tests.clients.model import ANSWER, Tasks
from tests.clients.test_node import ask_cline, ask_codex
from tests.network.tools import free_port
from tests.network.ways import open_ways
from wspool.server import ModelRequest, ModelTurn
from wspool.testing.local import LocalServer, local_server

#: The silence that is cut, in seconds, and how long the proxy is silent at most.
CUT = 2
KEEPALIVE = "0.5"


class Slow(Tasks):
    """Thinks before each turn."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    def respond(self, request: ModelRequest) -> ModelTurn:
        return attrs.evolve(super().respond(request), delay=self.seconds)


@attrs.define
class Scene:
    """A provider, a proxy before it, and the ways to that."""

    server: LocalServer
    model: Slow
    folder: Path
    stack: ExitStack
    port: int
    proxies: list[Program] = attrs.field(factory=list[Program])

    def start(self) -> None:
        """Start a proxy, which takes over from the one before."""
        log = str(self.folder / f"log-{len(self.proxies)}")
        options = ("--keepalive", KEEPALIVE, "--keepalive-json", "--take-over", "--grace", "30", "--log", log)
        before = self.proxies[-1] if self.proxies else None
        self.proxies.append(self.stack.enter_context(open_proxy(self.server.url, *options, port=self.port)))
        if before is not None:
            before.signal(signal.SIGTERM)

    def asked(self) -> list[Any]:
        """What clients asked for, by the books of the proxies."""
        found = [record for log in sorted(self.folder.glob("log-*")) for record in lines(log)]
        return [record for record in found if record["path"] == "/responses" and record["items_given"]]


@pytest.fixture
def scene(tmp_path: Path) -> Generator[Scene]:
    """All of it, but for the ways."""
    model = Slow()
    with local_server(model=model) as server, ExitStack() as stack:
        found = Scene(server, model, tmp_path, stack, free_port())
        found.start()
        yield found


def _openai(base_url: str, folder: Path) -> None:
    assert [ANSWER, ANSWER] == installed("openai").ask("openai.mjs", BASE_URL=base_url)


def _ai(base_url: str, folder: Path) -> None:
    said = installed("ai").ask("ai.mjs", BASE_URL=base_url, STORE="false")
    assert ["heard one", "heard two", "heard three", ANSWER] == said


def _codex(base_url: str, folder: Path) -> None:
    ask_codex(base_url, "http", folder)


def _codex_by_websocket(base_url: str, folder: Path) -> None:
    ask_codex(base_url, "websocket", folder)


def _cline(base_url: str, folder: Path) -> None:
    ask_cline(base_url, folder)


#: What runs a client, and how many turns that takes.
CLIENTS: Mapping[str, tuple[Callable[[str, Path], None], int]] = {
    "openai": (_openai, 4),
    "ai": (_ai, 5),
    "codex": (_codex, 4),
    "codex-websocket": (_codex_by_websocket, 4),
    "cline": (_cline, 4),
}


@pytest.mark.parametrize("case", ["thinking", "late refusal", "restart"])
@pytest.mark.parametrize("way", ["none", "nginx", "cutter"])
@pytest.mark.parametrize("client", CLIENTS)
def test_nothing_is_lost(scene: Scene, tmp_path: Path, client: str, way: str, case: str) -> None:
    """The client has its answers, and asked for each once."""
    run, turns = CLIENTS[client]
    if client == "codex-websocket" and way != "none":
        if way == "cutter":
            pytest.skip("a cutter that lets WebSockets pass is nginx with other settings: `upgrade`")
        way = "upgrade"
    ports = scene.stack.enter_context(open_ways(tmp_path, scene.port, cut=CUT))
    if way not in ports:
        pytest.skip("needs nginx")
    timer = threading.Timer(3.0, scene.start)
    match case:
        case "thinking":
            scene.model.seconds = 1.5 * CUT
        case "late refusal":
            scene.server.fault("rate_limited", delay=1.5, retry_after=0.1, request=2)
        case _:
            scene.model.seconds = 1.0
            timer.start()
    (home := tmp_path / "client").mkdir()
    run(f"http://127.0.0.1:{ports[way]}/v1", home)
    timer.cancel()
    if timer.is_alive():
        timer.join()
    for proxy in scene.proxies:
        proxy.signal(signal.SIGTERM)
    for proxy in scene.proxies:
        proxy.wait(30)
    ends = [entry["outcome"] for entry in scene.server.ledger if entry["generate"]]
    warm_ups = sum(not entry["generate"] for entry in scene.server.ledger)
    asked = scene.asked()
    assert turns == ends.count("completed"), ends
    # A provider forgets the chain that a turn which it refuses goes on from. Whoever keeps chains itself, as
    # Codex does over WebSocket, is told so, and sends all of it.
    forgotten = [record for record in asked if record["error"] == "previous_response_not_found"]
    assert len(forgotten) == (client == "codex-websocket" and case == "late refusal")
    assert turns == len(asked) - warm_ups - len(forgotten), json.dumps(asked, indent=1)
    assert {"completed"} == {record["outcome"] for record in asked if record not in forgotten}
