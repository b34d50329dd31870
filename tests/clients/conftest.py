"""The two ways to a provider: straight to the reference server, and through the proxy."""

from __future__ import annotations

import os
from collections.abc import Generator

import attrs
import pytest

import wspool
from tests.clients.installed import FOLDER
from tests.clients.model import Tasks
from wspool.proxy import Where, open_proxy
from wspool.runtime import Residence, Runtime
from wspool.testing.local import LocalServer, local_server


def pytest_itemcollected(item: pytest.Item) -> None:
    """All of this is other people's: real sockets, real time, and warnings that are not ours. Told of what is
    below this directory only.
    """
    if not os.environ.get(FOLDER):
        item.add_marker(pytest.mark.skip(reason=f"set {FOLDER} to a folder to install clients into"))
    for mark in ("network", "foreign", "filterwarnings"):
        arguments = ("default",) if mark == "filterwarnings" else ()
        item.add_marker(getattr(pytest.mark, mark)(*arguments))


@attrs.frozen
class Way:
    """How a client gets to a provider.

    Attributes:
        base_url: what it is told.
        server: the provider.
        model: what answers.
        through: whether it goes through the proxy.
    """

    base_url: str
    server: LocalServer
    model: Tasks
    through: bool

    def check(self, *talks: list[int], given: str, forgets: bool = False) -> None:
        """Assert that the provider saw *talks*, in any order, each by the items of its contexts.

        Straight, they come as they are *given*: over HTTP each with all of its items. Through the proxy they
        come over WebSocket, and of each turn but the first of a talk only what is new. A client that
        *forgets* leaves out the reasoning, one item of each turn, that the provider goes on knowing.
        """
        entries = [entry for entry in self.server.ledger if entry["generate"]]
        shown = [
            (entry["transport"], entry["previous_response_id"], entry["input_items"], entry["context_items"])
            for entry in sorted(entries, key=lambda entry: entry["received_order"])
        ]
        assert {"completed"} == {entry["outcome"] for entry in entries}, shown
        if self.through and forgets:
            talks = tuple([size + number for number, size in enumerate(talk)] for talk in talks)
        assert sorted(size for talk in talks for size in talk) == sorted(s[3] for s in shown), shown
        if self.through:
            given = "websocket"
            possible = sum(len(talk) - 1 for talk in talks)
            continued = sum(entry["parent_from"] is not None for entry in entries)
            assert continued >= possible, shown  # a client's warm-up may be gone on from as well
        assert {given} == {entry["transport"] for entry in entries}, shown


@pytest.fixture(params=["straight", "proxy"])
def way(request: pytest.FixtureRequest) -> Generator[Way]:
    """A server, and how to get there."""
    model = Tasks()
    with local_server(model=model) as server:
        if request.param == "straight":
            yield Way(server.base_url, server, model, through=False)
            return
        runtime = Runtime()
        policy = wspool.PoolPolicy(max_size=8, min_idle=0)
        residence = Residence(lambda: open_proxy(server.url, where=Where(port=0), policy=policy))
        proxy = runtime.run(residence.enter)
        try:
            yield Way(proxy.base_url, server, model, through=True)
        finally:
            runtime.run(residence.leave)
            runtime.close()
