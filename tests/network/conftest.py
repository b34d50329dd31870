"""Everything in this directory is a test of the network, on both wires where a wire matters."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests.faults.scene import Make
from wspool.wire.trio_websocket import TrioWebSocketConnector
from wspool.wire.websockets import WebSocketsConnector

from .tools import Network, network


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark it, so that `-m "not network"` leaves it out; told of those below this directory only."""
    item.add_marker(pytest.mark.network)


@pytest.fixture(params=[TrioWebSocketConnector, WebSocketsConnector], ids=["trio-websocket", "websockets"])
def make(request: pytest.FixtureRequest) -> Make:
    """Each kind of wire in turn."""
    connector: Make = request.param
    return connector


@pytest.fixture(scope="module")
def cable() -> Generator[Network]:
    """Two namespaces with a cable between them, for the tests of one module."""
    yield from network()


@pytest.fixture
def net(cable: Network) -> Generator[Network]:
    """The cable, sound at first."""
    yield cable
    cable.heal()


@pytest.fixture
def detour(cable: Network) -> None:
    """What delays packets, if the kernel has it."""
    cable.needs_detour()


@pytest.fixture
def tbf(cable: Network) -> None:
    """What makes a link narrow, if the kernel has it."""
    cable.needs_shape("tbf", "rate", "1mbit", "burst", "4kb", "latency", "1s")


@pytest.fixture
def killing(cable: Network) -> None:
    """What ends other people's connections, if the kernel has it."""
    cable.needs_killing()
