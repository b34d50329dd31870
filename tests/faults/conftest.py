"""Both wires: what a user sees of a fault does not depend on what carries the frames."""

from __future__ import annotations

import pytest

from wspool.wire.trio_websocket import TrioWebSocketConnector
from wspool.wire.websockets import WebSocketsConnector

from .scene import Make


@pytest.fixture(params=[TrioWebSocketConnector, WebSocketsConnector], ids=["trio-websocket", "websockets"])
def make(request: pytest.FixtureRequest) -> Make:
    """Each kind of wire in turn."""
    connector: Make = request.param
    return connector
