"""Both wires, for the tests that are about what they have in common."""

from __future__ import annotations

import pytest

from wspool.wire.trio_websocket import TrioWebSocketConnector
from wspool.wire.websockets import WebSocketsConnector

from .scripts import Make


@pytest.fixture(params=[TrioWebSocketConnector, WebSocketsConnector], ids=["trio-websocket", "websockets"])
def make(request: pytest.FixtureRequest) -> Make:
    """What makes a connector out of an opener: each kind of wire in turn."""
    connector: Make = request.param
    return connector
