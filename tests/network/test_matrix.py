"""A client before the proxy, and what may stand between them: nothing a client has to know of, or do again.

The client is OpenAI's own, told never to ask again. What lasts minutes elsewhere lasts a second here: a load
balancer cuts what is silent for so long, and the proxy breaks the silence three times as often. Other
people's programs go the same ways in `tests/clients`.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import attrs
import pytest

from benchmarks.proxied.running import Program, open_proxy
from wspool.server import OPENAI, ModelRequest, ModelTurn, message
from wspool.server.models import text_of
from wspool.testing.local import LocalServer, local_server

from .tools import free_port, lacks
from .ways import WAYS, open_ways

openai = pytest.importorskip("openai")
httpx = pytest.importorskip("httpx")

#: The silence that is cut, in seconds, and how long the proxy is silent at most.
CUT = 1
KEEPALIVE = "0.3"


class Thinker:
    """Says what it heard; thinks for longer than anybody is patient if it is told to."""

    def respond(self, request: ModelRequest) -> ModelTurn:
        heard = text_of(request.context[-1])[:40]
        return ModelTurn(output=[message(f"heard {heard}")], delay=1.7 * CUT if "think" in heard else 0.1)


@attrs.define
class Matrix:
    """A provider, a proxy before it, and the ways to that."""

    server: LocalServer
    folder: Path
    stack: ExitStack
    port: int
    proxy: Program | None = None
    ways: dict[str, int] = attrs.field(factory=dict[str, int])

    @property
    def path(self) -> str:
        """The proxy's Unix socket."""
        return str(self.folder / "proxy.sock")

    def start(self) -> None:
        """Start a proxy; it takes over from the one before, which is told to end."""
        options = ("--keepalive", KEEPALIVE, "--uds", self.path, "--take-over", "--grace", "10")
        before = self.proxy
        self.proxy = self.stack.enter_context(open_proxy(self.server.url, *options, port=self.port))
        if before is not None:
            before.signal(signal.SIGTERM)
            assert before.wait(15) == 0

    def client(self, way: str) -> Any:
        """A client that goes that way."""
        if way in WAYS and (reason := lacks("nginx")):
            pytest.skip(reason)
        base_url, transport = f"http://127.0.0.1:{self.ways.get(way)}/v1", None
        if way == "unix":
            base_url, transport = "http://localhost/v1", httpx.HTTPTransport(uds=self.path)
        http = httpx.Client(transport=transport, timeout=20)
        made = openai.OpenAI(base_url=base_url, api_key="sk-test", max_retries=0, http_client=http)
        self.stack.callback(made.close)
        return made


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Generator[Matrix]:
    """All of it, for the tests of this module."""
    folder = tmp_path_factory.mktemp("matrix")
    # Over HTTP providers take more than over WebSocket.
    profile = attrs.evolve(OPENAI, max_message=64 * 2**20)
    with local_server(model=Thinker(), profile=profile) as server, ExitStack() as stack:
        found = Matrix(server, folder, stack, free_port())
        found.start()
        found.ways = stack.enter_context(open_ways(folder, found.port, cut=CUT))
        yield found


@pytest.fixture(params=["none", "nginx", "cutter", "unix"])
def way(request: pytest.FixtureRequest) -> str:
    """Each of the ways."""
    return str(request.param)


@pytest.fixture
def ask(matrix: Matrix, way: str) -> Callable[..., str]:
    """Asks one thing, streamed, by that way; returns the answer."""
    client = matrix.client(way)

    def ask(said: Any) -> str:
        with client.responses.stream(model="m", input=said, store=False) as stream:
            for _ in stream:
                pass
            return str(stream.get_final_response().output_text)

    return ask


def requests(matrix: Matrix) -> list[Any]:
    return [entry for entry in matrix.server.ledger if entry["generate"]]


def test_long_thinking(matrix: Matrix, ask: Callable[..., str]) -> None:
    """Longer than anything on the way is patient."""
    before = len(requests(matrix))
    assert "heard think" == ask("think")
    assert ["completed"] == [entry["outcome"] for entry in requests(matrix)[before:]]


def test_a_late_refusal(matrix: Matrix, ask: Callable[..., str]) -> None:
    """The provider refuses once the answer has begun: it is asked again, and the client has only waited."""
    before = len(requests(matrix))
    matrix.server.fault("rate_limited", delay=0.6, retry_after=0.1)
    assert "heard it" == ask("it")
    assert ["completed", "rejected"] == sorted(entry["outcome"] for entry in requests(matrix)[before:])


def test_a_long_thread(matrix: Matrix, way: str, ask: Callable[..., str]) -> None:
    """25 MiB of history, more than a provider takes over WebSocket."""
    if way == "cutter":
        pytest.skip("it goes by HTTP and is passed on as it comes, and so much takes longer than a second")
    picture = {"type": "input_text", "text": "x" * 2**20}
    history = [{"role": "user", "content": [picture]} for _ in range(25)]
    before = len(requests(matrix))
    assert "heard it" == ask([*history, {"role": "user", "content": "it"}])
    assert [("http", "completed")] == [
        (one["transport"], one["outcome"]) for one in requests(matrix)[before:]
    ]


def test_a_restart_under_load(matrix: Matrix, way: str, ask: Callable[..., str]) -> None:
    """Another proxy takes the port over while turns run, and nobody has to ask again."""
    if way == "cutter":
        pytest.skip("as behind the other nginx")
    before, said = len(requests(matrix)), list[str]()

    def work(name: int) -> None:
        for turn in range(8):
            said.append(ask(f"{name}.{turn}"))

    threads = [threading.Thread(target=work, args=(name,)) for name in range(3)]
    for thread in threads:
        thread.start()
    matrix.start()
    for thread in threads:
        thread.join(30)
    assert sorted(f"heard {name}.{turn}" for name in range(3) for turn in range(8)) == sorted(said)
    assert ["completed"] * 24 == [entry["outcome"] for entry in requests(matrix)[before:]]
