"""Peers for tests of the pool: a scripted wire that keeps the contract, and pools on the reference server.

A fake here decides nothing: the test says when a dial ends and how, what arrives and when, and what the
network refuses to take. Time is trio's clock only, so tests run under a virtual one.
"""

from __future__ import annotations

import itertools
import json
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, cast

import trio
import trio.testing

from wspool import Conversation, DialRecord, Event, Pool, PoolPolicy, PoolStatistics, TurnRecord, open_pool
from wspool.pool.instrument import Instrument
from wspool.pool.open import _PoolManager
from wspool.server import Entry, Model, Server, open_server
from wspool.wire.gauge import Gauge
from wspool.wire.trio_websocket import TrioWebSocketConnector
from wspool.wire.wire import ABNORMAL_CLOSURE, ConnectError, Endpoint, WireClosedError

#: A key that must never show up anywhere.
CANARY: Final = "sk-canary-3141592653589793"

#: Seconds (virtual ones) after which a test counts as hanging.
PATIENCE: Final = 100_000.0

#: Where the fake endpoint is said to be.
URL: Final = "ws://localhost/v1/responses"


# -- events ---------------------------------------------------------------------------------------


def created(response_id: str) -> dict[str, Any]:
    """The first event of a response."""
    return {"type": "response.created", "response": {"id": response_id, "status": "in_progress"}}


def delta(text: str) -> dict[str, Any]:
    """A piece of output."""
    return {"type": "response.output_text.delta", "delta": text}


def said(text: str) -> dict[str, Any]:
    """An output item: a message."""
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}


def completed(response_id: str, text: str = "ok") -> dict[str, Any]:
    """The last event of a response that went well."""
    response = {"id": response_id, "status": "completed", "output": [said(text)]}
    return {"type": "response.completed", "response": response}


def error_frame(code: str | None, status: int | None = 400, **more: Any) -> dict[str, Any]:
    """A refusal."""
    frame: dict[str, Any] = {"type": "error", "error": {"code": code, "message": "no", **more}}
    return frame if status is None else {**frame, "status": status}


LIMIT_FRAME: Final = error_frame("websocket_connection_limit_reached")


# -- the fake -------------------------------------------------------------------------------------


_numbers = itertools.count(1)


class FakeWire:
    """One open WebSocket, and the far end of it, in one object.

    Attributes:
        number: no other wire has it. Of ids that are made of where wires lie in memory two are alike now and
            then, and nobody goes on from what two lanes call the same.
        sent: the messages that the far end has received.
        pings: pings that the far end has received.
        goodbye: the close code that the far end has received; 1006 when the stream just ended.
        answers: False when the far end neither reads, nor answers, nor closes.
        stuffed: True when the network takes no message.
        crash: raised by everything that is asked of the wire from now on.
        gauge: what it holds of a message that is on its way, as the test sets it.
    """

    def __init__(self, close_timeout: float = 2.0) -> None:
        self.number = next(_numbers)
        self.headers: Sequence[tuple[str, str]] = (("server", "fake"),)
        self.sent: list[bytes] = []
        self.pings = 0
        self.goodbye: int | None = None
        self.answers = True
        self.stuffed = False
        self.crash: BaseException | None = None
        self.gauge = Gauge()
        self.heard_at = trio.current_time()
        self.batched = True
        self.on_request: Callable[[FakeWire, dict[str, Any]], None] | None = None
        self._close_timeout = close_timeout
        self._inbox: deque[str | bytes] = deque()
        self._closed: WireClosedError | None = None
        self._over = False
        self._changed = trio.Event()

    # -- the near end, see wspool.wire.wire.Wire --

    async def send(self, message: bytes) -> None:
        done = False
        try:
            await trio.lowlevel.checkpoint()
            self._check_crash()
            self._check_open()
            while self.stuffed:
                await self._changed.wait()
                self._check_open()
            self.sent.append(message)
            done = True
            self._change()
        finally:
            if not done:
                self._end(ABNORMAL_CLOSURE)
        if self.on_request is not None:
            self.on_request(self, json.loads(message))

    async def receive(self) -> Sequence[str | bytes]:
        await trio.lowlevel.checkpoint()
        while True:
            self._check_crash()
            if self._over:
                raise WireClosedError(ABNORMAL_CLOSURE)
            if self._inbox:
                batch = [self._inbox.popleft()]
                while self.batched and self._inbox:
                    batch.append(self._inbox.popleft())
                return batch
            if self._closed is not None:
                raise WireClosedError(self._closed.code, self._closed.reason)
            await self._changed.wait()

    async def ping(self) -> None:
        await trio.lowlevel.checkpoint()
        self._check_crash()
        self._check_open()
        self.pings += 1
        while not self.answers:
            await self._changed.wait()
            self._check_crash()
            self._check_open()
        self.heard_at = trio.current_time()

    async def aclose(self) -> None:
        try:
            await trio.lowlevel.checkpoint()
            if not self._over and self._closed is None:
                self.goodbye = 1000
                with trio.move_on_after(self._close_timeout):
                    while not self.answers:
                        await self._changed.wait()
        finally:
            await self.abort()

    async def abort(self) -> None:
        self._end(ABNORMAL_CLOSURE)
        await trio.lowlevel.checkpoint()

    # -- the far end --

    def push(self, *events: Mapping[str, Any] | str | bytes) -> None:
        """Let messages arrive, all in one read."""
        self.heard_at = trio.current_time()
        for event in events:
            self._inbox.append(event if isinstance(event, (str, bytes)) else json.dumps(event))
        self._change()

    def hang_up(self, code: int = ABNORMAL_CLOSURE, reason: str = "") -> None:
        """End the connection from the far end, after what was pushed before."""
        if self._closed is None:
            self._closed = WireClosedError(code, reason)
        self._change()

    def set(self, *, answers: bool | None = None, stuffed: bool | None = None) -> None:
        """Change how the far end behaves, and wake whoever waits for that."""
        self.answers = self.answers if answers is None else answers
        self.stuffed = self.stuffed if stuffed is None else stuffed
        self._change()

    def break_down(self, error: BaseException) -> None:
        """Make everything raise *error*, as a library with a bug would."""
        self.crash = error
        self._change()

    @property
    def requests(self) -> list[dict[str, Any]]:
        """What was sent, decoded."""
        return [json.loads(message) for message in self.sent]

    @property
    def open(self) -> bool:
        """Whether neither end has closed it."""
        return not self._over and self._closed is None

    async def wait(self, condition: Callable[[], object]) -> None:
        """Wait until *condition* holds, looking after every change."""
        while not condition():
            await self._changed.wait()

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _end(self, code: int) -> None:
        if not self._over:
            self._over = True
            if self.goodbye is None:
                self.goodbye = code
        self._change()

    def _check_open(self) -> None:
        if self._over or self._closed is not None:
            closed = self._closed or WireClosedError(ABNORMAL_CLOSURE)
            raise WireClosedError(closed.code, closed.reason)

    def _check_crash(self) -> None:
        if self.crash is not None:
            raise self.crash


class FakePeer:
    """The far end of a `FakeWire` as the contract suite wants it."""

    def __init__(self, wire: FakeWire) -> None:
        self._wire = wire
        self._read = 0

    async def send(self, text: str) -> None:
        await trio.lowlevel.checkpoint()
        self._wire.push(text)

    async def receive(self) -> str:
        await self._wire.wait(lambda: len(self._wire.sent) > self._read)
        self._read += 1
        return self._wire.sent[self._read - 1].decode()

    async def close(self, code: int, reason: str) -> None:
        await trio.lowlevel.checkpoint()
        self._wire.hang_up(code, reason)

    async def hang(self) -> None:
        await trio.lowlevel.checkpoint()
        self._wire.set(answers=False)

    async def wait_closed(self) -> int:
        await self._wire.wait(lambda: self._wire.goodbye is not None)
        assert self._wire.goodbye is not None
        return self._wire.goodbye


@asynccontextmanager
async def fake_pair() -> AsyncGenerator[tuple[FakeWire, FakePeer], None]:
    """A connected pair for `check_wire`."""
    wire = FakeWire(close_timeout=0.2)
    yield wire, FakePeer(wire)
    await wire.abort()


def echo(wire: FakeWire, request: dict[str, Any]) -> None:
    """Answer a request at once, with a response that is numbered per wire."""
    response_id = f"resp_{wire.number}_{len(wire.sent)}"
    wire.push(created(response_id), delta("ok"), completed(response_id))


def ask_back(wire: FakeWire, request: dict[str, Any]) -> None:
    """Answer a request at once, as `echo`, with a call of a tool."""
    response_id = f"resp_{wire.number}_{len(wire.sent)}"
    call = {"type": "function_call", "call_id": f"call_{response_id}", "name": "t", "arguments": "{}"}
    ended = completed(response_id)
    ended["response"]["output"] = [call]
    wire.push(created(response_id), ended)


class FakeConnector:
    """Makes fake wires, as the test says.

    Attributes:
        wires: every wire made so far.
        dials: dials begun.
        headers: the upgrade headers of the last dial.
        held: True to keep dials waiting until it is set to False with `release`.
        failures: what the next dials end with, one each; None lets one succeed.
        on_request: what the far end does with a request.
        prepare: called with each new wire before it is handed out.
    """

    def __init__(self, on_request: Callable[[FakeWire, dict[str, Any]], None] | None = None) -> None:
        self.wires: list[FakeWire] = []
        self.dials = 0
        self.dialed_at: list[float] = []
        self.dialing = 0
        self.headers: Sequence[tuple[str, str]] = ()
        self.held = False
        self.failures: deque[BaseException | None] = deque()
        self.failure: Callable[[], BaseException] | None = None
        self.on_request = on_request
        self.prepare: Callable[[FakeWire], None] | None = None
        self._released = trio.Event()

    @property
    def wire(self) -> FakeWire:
        """The latest wire."""
        return self.wires[-1]

    def hold(self) -> None:
        """Keep the dials that begin from now on waiting."""
        self.held = True
        self._released = trio.Event()

    def release(self) -> None:
        """Let them go on."""
        self.held = False
        self._released.set()

    async def connect(
        self, nursery: trio.Nursery, endpoint: Endpoint, headers: Sequence[tuple[str, str]]
    ) -> FakeWire:
        self.dials += 1
        self.dialed_at.append(trio.current_time())
        self.headers = tuple(headers)
        self.dialing += 1
        try:
            with trio.move_on_after(endpoint.connect_timeout) as scope:
                await trio.lowlevel.checkpoint()
                while self.held:
                    await self._released.wait()
        finally:
            self.dialing -= 1
        if scope.cancelled_caught:
            raise ConnectError("the dial took too long", phase="tcp", timed_out=True)
        failure = self.failures.popleft() if self.failures else self.failure() if self.failure else None
        if failure is not None:
            raise failure
        wire = FakeWire(endpoint.close_timeout)
        wire.on_request = self._answer
        self.wires.append(wire)
        if self.prepare is not None:
            self.prepare(wire)
        return wire

    def _answer(self, wire: FakeWire, request: dict[str, Any]) -> None:
        # Looked up now, so that a test can change its mind under a live connection.
        if self.on_request is not None:
            self.on_request(wire, request)


def refused(status: int, headers: Sequence[tuple[str, str]] = (), body: bytes = b"") -> ConnectError:
    """A dial that the endpoint answered with an HTTP status."""
    return ConnectError(
        f"the upgrade was refused with status {status}",
        phase="upgrade",
        status=status,
        headers=headers,
        body=body,
    )


# -- pools ----------------------------------------------------------------------------------------


def policy(**changes: Any) -> PoolPolicy:
    """A policy for tests: nothing ahead of demand, no pings, unless asked for."""
    return PoolPolicy(**{"min_idle": 0, "ping_interval": None, **changes})


def fake_manager(
    connector: FakeConnector, *, limits: PoolPolicy | None = None, **options: Any
) -> _PoolManager:
    """What `open_pool` returns for a pool whose wires are fake."""
    options.setdefault("api_key", CANARY)
    limits = limits if limits is not None else policy()
    return cast("_PoolManager", open_pool(URL, wire=connector, policy=limits, **options))


@asynccontextmanager
async def fake_pool(
    connector: FakeConnector, *, limits: PoolPolicy | None = None, **options: Any
) -> AsyncGenerator[Pool, None]:
    """A pool whose wires are fake; its block fails instead of hanging."""
    with trio.fail_after(PATIENCE):
        async with fake_manager(connector, limits=limits, **options) as pool:
            yield pool


class Recorder(Instrument):
    """Keeps what it is shown."""

    def __init__(self) -> None:
        self.records: list[TurnRecord] = []
        self.dials: list[DialRecord] = []

    def dial_ended(self, record: DialRecord) -> None:
        self.dials.append(record)

    def turn_ended(self, record: TurnRecord) -> None:
        self.records.append(record)


class World:
    """A reference server, its ledger, and the far ends of all connections made to it."""

    def __init__(self, server: Server, ledger: list[Entry], nursery: trio.Nursery) -> None:
        self.server = server
        self.ledger = ledger
        self.far_ends: list[trio.abc.Stream] = []
        self._nursery = nursery

    @property
    def model_turns(self) -> list[Entry]:
        """The ledger without warm-ups."""
        return [entry for entry in self.ledger if entry["generate"]]

    async def open_stream(self, endpoint: Endpoint) -> trio.abc.Stream:
        """A new connection to the server."""
        near, far = trio.testing.memory_stream_pair()
        self.far_ends.append(far)
        self._nursery.start_soon(self.server.serve, far)
        await trio.lowlevel.checkpoint()
        return near

    async def cut(self, number: int = -1) -> None:
        """Let one connection (by default the latest) end without a word."""
        await trio.aclose_forcefully(self.far_ends[number])

    def pool(self, *, limits: PoolPolicy | None = None, **options: Any) -> _PoolManager:
        """A pool to this server."""
        options.setdefault("api_key", CANARY)
        opened = open_pool(
            self.server.url,
            wire=TrioWebSocketConnector(open_stream=self.open_stream),
            policy=limits if limits is not None else policy(),
            **options,
        )
        return cast("_PoolManager", opened)


@asynccontextmanager
async def serving(model: Model, **options: Any) -> AsyncGenerator[World, None]:
    """Run a reference server for the length of a block, over memory streams."""
    ledger: list[Entry] = []
    problem: BaseException | None = None
    with trio.fail_after(PATIENCE):
        async with open_server(model, port=None, ledger=ledger, **options) as server:
            async with trio.open_nursery() as nursery:
                try:
                    yield World(server, ledger, nursery)
                except BaseException as error:
                    problem = error  # kept out of the nursery's sight, which would wrap it in a group
                nursery.cancel_scope.cancel()
            assert server.statistics().failures == 0, "the server itself failed"
        if problem is not None:
            raise problem


def assert_conserved(statistics: PoolStatistics) -> None:
    """Assert that no lease and no connection has been made out of nothing, or got lost."""
    s = statistics
    assert s.granted == s.released + s.lost_leases + s.stolen + s.leased, s
    # Not `size`, in which closing ones may count, and those are in `closed` already.
    assert s.dialed == s.dialing + s.open + s.retiring + sum(s.closed.values()), s


def assert_empty(statistics: PoolStatistics) -> None:
    """Assert that nothing is left of a closed pool."""
    assert_conserved(statistics)
    s = statistics
    left = (s.size, s.closing, s.leased, s.waiting, s.idle, s.warming, s.in_flight, s.draining)

    assert (0,) * 8 == left, s


def types(events: Sequence[Event]) -> list[str]:
    """The types of *events*."""
    return [event.type for event in events]


def outputs(conversation: Conversation) -> list[dict[str, Any]]:
    """An output for each call in the history that has none."""
    items = conversation.items
    answered = {item["call_id"] for item in items if item["type"] == "function_call_output"}
    return [
        {"type": "function_call_output", "call_id": item["call_id"], "output": "ok"}
        for item in items
        if item["type"] == "function_call" and item["call_id"] not in answered
    ]


def held_by(thing: object) -> dict[str, object]:
    """Return what *thing* holds, be it in slots or in a dict."""
    slots = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
    return {name: getattr(thing, name) for name in slots if hasattr(thing, name)} | getattr(
        thing, "__dict__", {}
    )


def user(text: str) -> dict[str, Any]:
    """The input item that a text becomes."""
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
