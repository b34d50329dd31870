"""One pool and one reference server with a fault between them, and the questions every test asks.

Whatever happens in a scene, it ends the same way: nothing is stuck in the pool, the server itself is well,
and the server has seen exactly as many requests as the test says.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias

import attrs
import trio

import wspool
from tests.helpers import CANARY, assert_empty
from wspool.core.frames import Event
from wspool.server import EchoModel, Entry, Fault, FaultRule, FaultScript, Model, Server, open_server
from wspool.wire import dial
from wspool.wire.trio_websocket import TrioWebSocketConnector
from wspool.wire.websockets import WebSocketsConnector
from wspool.wire.wire import Connector, Endpoint

__all__ = ["EVENTS", "QUESTION", "TAP_PING", "TAP_PONG", "Make", "Scene", "Story", "Tap", "faulty"]

OpenStream: TypeAlias = Callable[[Endpoint], Any]
#: Makes a connector out of an opener.
Make: TypeAlias = type[TrioWebSocketConnector] | type[WebSocketsConnector]

#: Four words, so the echo comes in four deltas.
QUESTION: Final = "alpha beta gamma delta"

#: The events of its answer.
EVENTS: Final = (
    *("response.created", "response.in_progress", "response.output_item.added"),
    "response.content_part.added",
    *("response.output_text.delta",) * 4,
    *("response.output_text.done", "response.content_part.done", "response.output_item.done"),
    "response.completed",
)

#: Virtual seconds after which a scene counts as hanging; real ones where `network` says so.
_PATIENCE: Final = 20_000.0

# First bytes of whole control frames. Source: RFC 6455 section 5.2.
TAP_PING: Final = 0x89
TAP_PONG: Final = 0x8A


class Tap(trio.abc.Stream):
    """A stream that passes everything on, and keeps what went out."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.sent = bytearray()
        self.closed = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        self.closed = True
        await self._stream.aclose()

    def frames(self) -> list[tuple[int, bytes]]:
        """What the client sent after its handshake: the first byte and the payload of each whole frame."""
        data = bytes(self.sent).partition(b"\r\n\r\n")[2]
        found: list[tuple[int, bytes]] = []
        while len(data) >= 6:
            size, at = data[1] & 0x7F, 2
            if size >= 126:
                width = 2 if size == 126 else 8
                size, at = int.from_bytes(data[2 : 2 + width]), 2 + width
            mask, payload = data[at : at + 4], data[at + 4 : at + 4 + size]
            if len(payload) < size:
                break
            found.append((data[0], bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload[:200]))))
            data = data[at + 4 + size :]
        return found

    def count(self, head: int) -> int:
        """How many frames of that kind the client has sent."""
        return sum(first == head for first, _ in self.frames())


@attrs.frozen(kw_only=True)
class Story:
    """What a user saw of one turn."""

    events: list[Event]
    error: wspool.WsPoolError | None
    response: wspool.Response | None
    delivery: str
    took: float
    """Seconds on trio's clock."""

    @property
    def types(self) -> list[str]:
        """The types of its events."""
        return [event.type for event in self.events]

    @property
    def text(self) -> str:
        """What the deltas said."""
        return "".join(e.data["delta"] for e in self.events if e.type.endswith("output_text.delta"))

    def assert_answer(self, text: str = QUESTION, *, took: float = math.inf) -> None:
        """Assert that it went well: this text, every event once, in order."""
        assert self.error is None, repr(self.error)
        assert self.response is not None
        assert (text, "completed", "terminal") == (
            self.response.output_text,
            self.response.status,
            self.delivery,
        )
        assert self.took <= took

    def assert_lost(
        self, delivery: str, *, close_code: int | None = None, events: int | None = None, took: float = 0.0
    ) -> wspool.TurnLostError:
        """Assert that the turn was lost, that the error says what is known, and that it said so in time."""
        lost = self.error
        assert isinstance(lost, wspool.TurnLostError), repr(lost)
        assert (delivery, close_code) == (lost.delivery, lost.close_code), repr(lost)
        assert self.delivery == lost.delivery
        assert lost.replayable == (delivery == "not_sent")
        assert (delivery == "accepted") == (lost.response_id is not None)
        assert list(lost.events) == self.events
        if events is not None:
            assert list(EVENTS[:events]) == self.types
        assert self.took <= took, self.took
        return lost

    def assert_failed(
        self, kind: type[wspool.ResponseFailedError], code: str | None, *, delivery: str = "terminal"
    ) -> wspool.ResponseFailedError:
        """Assert that the server refused the turn, with exactly that class."""
        error = self.error
        assert isinstance(error, wspool.ResponseFailedError), repr(error)
        assert (kind, code, delivery) == (type(error), error.code, error.delivery)
        return error


class Scene:
    """A pool, the server behind it, and what was said between them."""

    def __init__(self, server: Server, pool: wspool.Pool, ledger: list[Entry], taps: list[Tap]) -> None:
        self.server = server
        self.pool = pool
        self.ledger = ledger
        self.taps = taps

    async def ask(
        self, text: str = QUESTION, *, conversation: wspool.Conversation | None = None, **body: Any
    ) -> Story:
        """Take one turn to its end, in a conversation of its own unless one is given."""
        if conversation is None:
            async with self.pool.conversation(model="m") as own:
                return await self.ask(text, conversation=own, **body)
        return await self._tell(conversation.turn(text, **body))

    async def ask_bare(self, lease: wspool.Lease, text: str = QUESTION, **body: Any) -> Story:
        """Take one turn of a bare lease."""
        return await self._tell(lease.create(**{"model": "m", "input": text, **body}))

    async def _tell(self, turn: wspool.Turn) -> Story:
        began = trio.current_time()
        events: list[Event] = []
        error: wspool.WsPoolError | None = None
        response: wspool.Response | None = None
        try:
            async with turn:
                async for event in turn:
                    events.append(event)
                response = turn.response
        except wspool.WsPoolError as failure:
            error = failure
        return Story(
            events=events,
            error=error,
            response=response,
            delivery=turn.delivery,
            took=trio.current_time() - began,
        )

    async def assert_well(self, *, creates: int, connection: int, text: str = "and now?") -> None:
        """Assert that nothing is stuck and that the next conversation works, on that connection.

        Args:
            creates: requests that the server had received before.
            connection: the number of the connection that the next conversation has to be on.
        """
        assert creates == self.server.statistics().creates
        self.assert_quiet()
        before = len(self.ledger)
        story = await self.ask(text)
        story.assert_answer(text)
        ids = {event.data["response"]["id"] for event in story.events if "response" in event.data}
        assert [(connection, "completed", None)] == [
            (entry["connection"], entry["outcome"], entry["previous_response_id"])
            for entry in self.ledger[before:]
            if entry["response_id"] in ids
        ]
        assert 1 == len(ids), "a foreign event"
        assert text == story.text
        assert creates + 1 == self.server.statistics().creates
        self.assert_quiet()

    def assert_quiet(self) -> None:
        """Assert that nobody holds a lane, and nobody waits."""
        s = self.pool.statistics()
        assert (0, 0, 0, 0) == (s.leased, s.in_flight, s.draining, s.waiting), s

    @property
    def closed(self) -> Mapping[str, int]:
        """Connections closed so far, by reason."""
        return self.pool.statistics().closed

    @property
    def outcomes(self) -> list[tuple[int, str]]:
        """Of each request in the ledger: its connection, and how it ended."""
        return [(entry["connection"], entry["outcome"]) for entry in self.ledger]


@asynccontextmanager
async def faulty(
    make: Make,
    *rules: Fault | FaultRule,
    model: Model | None = None,
    limits: Mapping[str, Any] | None = None,
    open_stream: Callable[[Server, Endpoint], Any] | None = None,
    network: bool = False,
    pool_options: Mapping[str, Any] | None = None,
    **server_options: Any,
) -> AsyncGenerator[Scene]:
    """A scene with these faults.

    Args:
        make: the wire.
        limits: what is not the default of `PoolPolicy`; nothing is dialled ahead of demand unless asked for.
        open_stream: how the pool gets to the server, instead of the server's memory streams.
        network: over real sockets on loopback.
    """
    ledger: list[Entry] = []
    taps: list[Tap] = []
    problem: BaseException | None = None
    script = FaultScript(*rules)
    with trio.fail_after(20 if network else _PATIENCE):
        async with open_server(
            model or EchoModel(), port=0 if network else None, ledger=ledger, faults=script, **server_options
        ) as server:

            async def tapped(endpoint: Endpoint) -> trio.abc.Stream:
                if open_stream is not None:
                    stream = await open_stream(server, endpoint)
                elif network:
                    stream = await dial.open_stream(endpoint)
                else:
                    stream = await server.open_stream(endpoint)
                taps.append(Tap(stream))
                return taps[-1]

            wire: Connector = make(open_stream=tapped)
            manager = wspool.open_pool(
                server.url,
                wire=wire,
                policy=wspool.PoolPolicy(**{"min_idle": 0, **(limits or {})}),
                **{"api_key": CANARY, **(pool_options or {})},
            )
            try:
                async with manager as pool:
                    yield Scene(server, pool, ledger, taps)
            except BaseException as error:
                problem = error  # the server's nursery would wrap it in a group
            else:
                assert_empty(pool.statistics())
                assert all(tap.closed for tap in taps), "a stream was left open"
                assert 0 == server.statistics().failures, "the server itself failed"
        if problem is not None:
            raise problem
