"""Which wire a pool takes, and what happens if it is not installed."""

from __future__ import annotations

import subprocess
import sys

import pytest

import wspool

#: Prints the connector of a pool with the wire that it is told, and whether websockets was loaded.
CHOOSE = """
import sys, wspool
if sys.argv[1] == "hidden":
    sys.modules["websockets"] = None
try:
    print(wspool.open_pool("ws://localhost", wire=sys.argv[2]).setup.connector)
except ImportError as error:
    print(error)
print(bool(sys.modules.get("websockets")))
"""


@pytest.mark.parametrize(
    ("installed", "wire", "expected", "loaded"),
    [
        ("installed", "auto", "<WebSocketsConnector>", True),
        ("installed", "trio-websocket", "<TrioWebSocketConnector>", False),
        ("hidden", "auto", "<TrioWebSocketConnector>", False),
        (
            "hidden",
            "websockets",
            "wire='websockets' needs websockets 13 or later: pip install 'wspool[fast]'",
            False,
        ),
    ],
)
def test_the_fast_wire_is_taken_where_it_is_installed(installed, wire, expected, loaded):
    """And its library is loaded only then; without it the text says what to install."""
    command = [sys.executable, "-c", CHOOSE, installed, wire]

    assert f"{expected}\n{loaded}\n" == subprocess.check_output(command, text=True)


def test_an_unknown_wire_is_refused():
    """The text lists what there is."""
    with pytest.raises(ValueError, match="'websockets'"):
        wspool.open_pool("ws://localhost", wire="aiohttp")  # type: ignore[arg-type]
