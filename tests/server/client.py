"""A plain client for tests of the server: frames out, frames in, nothing clever."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

from wspool.server import Server

Frame = dict[str, Any]

TERMINAL = {"response.completed", "response.incomplete", "response.failed"}


class Client:
    """One WebSocket connection to a server."""

    def __init__(self, websocket: WebSocketConnection) -> None:
        self.websocket = websocket

    async def send(self, frame: Frame | str | bytes) -> None:
        """Send one frame; a dict as JSON."""
        await self.websocket.send_message(json.dumps(frame) if isinstance(frame, dict) else frame)

    async def create(self, input: Any = "hi", **fields: Any) -> None:
        """Send a request; not stored unless asked."""
        body: Frame = {"type": "response.create", "model": "gpt-6-astra", "store": False, "input": input}
        await self.send(body | fields)

    async def receive(self) -> Frame:
        """The next frame."""
        frame: Frame = json.loads(await self.websocket.get_message())
        return frame

    async def finish(self) -> list[Frame]:
        """Frames up to the end of the one turn in progress: its terminal event, or its refusal."""
        frames = [await self.receive()]
        while frames[-1]["type"] not in TERMINAL and not is_refusal(frames[-1]):
            frames.append(await self.receive())
        return frames

    async def turn(self, input: Any = "hi", **fields: Any) -> list[Frame]:
        """A whole turn."""
        await self.create(input, **fields)
        return await self.finish()

    async def respond(self, input: Any = "hi", **fields: Any) -> Frame:
        """A whole turn that ends well; its response object."""
        last = (await self.turn(input, **fields))[-1]
        assert last["type"] == "response.completed", last
        response: Frame = last["response"]
        return response

    async def closed(self) -> int:
        """Wait for the end of the connection; its close code."""
        try:
            frame = await self.websocket.get_message()
        except ConnectionClosed as closed:
            return int(closed.reason.code) if closed.reason else 0
        raise AssertionError(f"not closed, but sent {frame!r}")


def is_refusal(frame: Frame) -> bool:
    """An error frame that ends a turn which never began; one inside a turn has a sequence number."""
    return frame["type"] == "error" and "sequence_number" not in frame


def text(response: Frame) -> str:
    """All text of a response object."""
    return "".join(part.get("text", "") for item in response["output"] for part in item.get("content", ()))


@asynccontextmanager
async def connected(server: Server, *, tcp: bool = False, **headers: str) -> AsyncGenerator[Client]:
    """A client on a memory stream, or on TCP; leaving drops the connection."""
    stream: Any
    if tcp:
        stream = await trio.open_tcp_stream("127.0.0.1", int(server.url.split(":")[2].split("/")[0]))
    else:
        stream = await server.open_stream()
    try:
        async with trio.open_nursery() as nursery:
            websocket = await wrap_client_stream(
                nursery,
                stream,
                "localhost",
                "/v1/responses",
                extra_headers=[(name.encode(), value.encode()) for name, value in headers.items()],
                message_queue_size=10_000,
                max_message_size=2**26,
            )
            yield Client(websocket)
            nursery.cancel_scope.cancel()
    finally:
        # trio-websocket does not close it in every case.
        await trio.aclose_forcefully(stream)
