"""What a model is shown, and who hears of its mistakes."""

import logging
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

from wspool.server import EchoModel, Item, Model, ModelRequest, ModelTurn, open_server
from wspool.server.protocol.items import in_full

from .client import Client, connected


@pytest.mark.parametrize(
    ("given", "full"),
    [
        (
            {"role": "user", "content": "hi"},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        ),
        (
            {"role": "assistant", "content": "hi", "id": "msg_1", "type": None},
            {
                "type": "message",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "hi"}],
                "id": "msg_1",
            },
        ),
        (
            {"type": "message", "role": "developer", "content": ""},
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": ""}]},
        ),
        ({"role": "user", "content": [{"type": "input_image"}]}, {"type": "message", "role": "user"}),
        ({"type": "function_call_output", "output": "x"}, {"type": "function_call_output", "output": "x"}),
        ({"type": "odd", "content": "x"}, {"type": "odd", "content": "x"}),
        ({"id": "msg_1"}, {"id": "msg_1"}),
    ],
)
def test_items_in_full(given: Item, full: Item) -> None:
    """Types filled in, texts as parts; what is in full stays the same object, and nothing is changed."""
    before = dict(given)
    shown = in_full(given)

    assert {"content": given.get("content")} | full == {"content": None} | shown
    assert (before, shown) == (given, in_full(shown))
    assert in_full(shown) is shown


class Seeing:
    """Keeps what it was shown."""

    def __init__(self) -> None:
        self.contexts: list[list[Item]] = []

    def respond(self, request: ModelRequest) -> ModelTurn:
        self.contexts.append(list(request.context))
        return EchoModel().respond(request)


async def test_a_model_sees_full_items(autojump_clock: MockClock) -> None:
    """However they came, and in the parent's part of the context too."""
    model = Seeing()
    async with open_server(model, port=None) as server, connected(server) as client:
        first = await client.respond([{"role": "user", "content": "one"}])
        await client.respond("two", previous_response_id=first["id"])

    for item in model.contexts[-1]:
        assert "message" == item["type"]
        assert ["one", "one", "two"] == [item["content"][0]["text"] for item in model.contexts[-1]]


class Wrong:
    def respond(self, request: ModelRequest) -> ModelTurn:
        raise LookupError("the model's own mistake")


async def test_a_mistake_of_the_model_is_logged_and_the_server_lives(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """With its traceback; the client gets a 500."""
    async with open_server(Wrong(), port=None) as server, connected(server) as client:
        for _ in range(2):
            (error,) = await client.turn()
            assert (error["type"], error["status"]) == ("error", 500)
    record = next(record for record in caplog.records if record.levelno == logging.ERROR)
    assert "the model's own mistake" in caplog.text
    assert record.exc_info is not None


async def wait_for_ever(client: Client) -> None:
    await client.create()
    await trio.sleep_forever()


async def fail_by_itself(client: Client) -> None:
    try:
        await wait_for_ever(client)
    finally:
        raise ValueError("of the body")


@pytest.mark.parametrize("body", [wait_for_ever, fail_by_itself, Client.turn])
async def test_a_strict_server_raises_it(
    body: Callable[[Client], Awaitable[object]], autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the body is doing then: it is cancelled, and the model's exception comes out, bare."""

    async def main(model: Model) -> None:
        async with open_server(model, port=None, strict=True) as server, connected(server) as client:
            await body(client)

    with pytest.raises(LookupError, match="own mistake"):
        await main(Wrong())
    assert "own mistake" in caplog.text


async def test_a_strict_server_can_be_cancelled(autojump_clock: MockClock) -> None:
    """From outside, as any other."""
    with trio.move_on_after(5) as scope:
        async with open_server(EchoModel(), port=None, strict=True):
            await trio.sleep_forever()
    assert scope.cancelled_caught
