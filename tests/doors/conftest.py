"""A reference server in the runtime of this process, over loopback."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import pytest
import trio

from wspool.runtime import Residence, Runtime
from wspool.server import Entry, ModelRequest, ModelTurn, function_call, message, open_server
from wspool.server.models import text_of


class ToolModel:
    """Calls the tools it is told to ("call NAME NAME ..."), then says what they answered; else echoes.

    "wait" takes an hour.
    """

    def respond(self, request: ModelRequest) -> ModelTurn:
        last = request.context[-1]
        if last.get("type") == "function_call_output":
            outputs = [
                item["output"] for item in request.context if item.get("type") == "function_call_output"
            ]
            return ModelTurn(output=[message(", ".join(outputs))])
        text = text_of(last)
        if text.startswith("call "):
            return ModelTurn(output=[function_call(name, {}) for name in text.split()[1:]])
        return ModelTurn(output=[message(text)], delay=3600.0 if text == "wait" else 0.0)


@attrs.frozen
class Far:
    """The server, from outside.

    Attributes:
        url: its WebSocket URL.
        ledger: what it has answered.
    """

    url: str
    ledger: list[Entry]


class Crossings(trio.abc.Instrument):
    """Counts what the runtime is asked for.

    Attributes:
        count: calls that it was asked for.
    """

    def __init__(self) -> None:
        self.count = 0

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        self.count += task.name == "wspool call"


@pytest.fixture
def crossings() -> Iterator[Crossings]:
    """Those of a test."""
    runtime, counted = Runtime.shared(), Crossings()
    runtime.run_sync(trio.lowlevel.add_instrument, counted)
    yield counted
    runtime.run_sync(trio.lowlevel.remove_instrument, counted)


@pytest.fixture
def far() -> Iterator[Far]:
    """A server, for the length of a test."""
    ledger: list[Entry] = []
    runtime = Runtime.shared()
    residence = Residence(lambda: open_server(ToolModel(), ledger=ledger))
    server = runtime.run(residence.enter)
    try:
        yield Far(server.url, ledger)
    finally:
        runtime.run(residence.leave)
