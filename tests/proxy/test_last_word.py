"""A client that hangs up with the last word of its answer has had all of it, whatever its door."""

from __future__ import annotations

import json
from typing import Any

import h11
import pytest
import trio

from tests.proxy.asking import KEY, scene
from tests.proxy.talking import ENDS
from tests.proxy.test_passing import before
from tests.proxy.test_websocket import connected
from wspool.proxy import Settings
from wspool.server import EchoModel, Fault, FaultRule, FaultScript
from wspool.server.line import MemoryEnd

BODY = {"model": "m", "input": "one two three", "store": True}


class Leaving(trio.abc.Stream):
    """The proxy's end of a connection whose client asks once, and is gone before the proxy has sent.

    Attributes:
        whole: whether the client has had all.
    """

    def __init__(self, method: str, target: str, body: Any, headers: tuple[tuple[str, str], ...]) -> None:
        self.whole = False
        self._http = h11.Connection(h11.CLIENT)
        data = b"" if body is None else json.dumps(body).encode()
        fields = [("host", "localhost"), ("content-length", str(len(data))), KEY, *headers]
        head = h11.Request(method=method, target=target, headers=fields)
        events = [head, *([h11.Data(data=data)] if data else []), h11.EndOfMessage()]
        self._asked: bytes | None = b"".join([self._http.send(event) or b"" for event in events])
        self._gone = trio.Event()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        if (asked := self._asked) is not None:
            self._asked = None
            return asked
        await self._gone.wait()
        return b""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._http.receive_data(bytes(data))
        while (event := self._http.next_event()) is not h11.NEED_DATA:
            if isinstance(event, h11.EndOfMessage):
                self.whole = True
                self._gone.set()
                break
        with trio.CancelScope(shield=True):  # it has left already
            await trio.sleep(1)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        self._gone.set()
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize(
    ("method", "target", "body", "headers"),
    [
        ("POST", "/v1/responses", BODY, ()),
        ("POST", "/v1/responses", {**BODY, "stream": True}, ()),
        ("POST", "/v1/responses", {**BODY, "conversation": "c"}, ()),
        ("POST", "/v1/responses", BODY, (("idempotency-key", "k"),)),
        ("POST", "/v1/responses", {**BODY, "stream": True}, (("idempotency-key", "k"),)),
        ("POST", "/v1/responses/compact", {"model": "m", "input": [{"role": "user", "content": "x"}]}, ()),
        ("GET", "/v1/models", None, ()),
        ("GET", "/v1/responses/none", None, ()),
    ],
    ids=["json", "sse", "posted", "joined json", "joined sse", "compact", "list", "refused"],
)
async def test_to_leave_at_the_end_is_to_have_had_all(
    autojump_clock, method: str, target: str, body: Any, headers: tuple[tuple[str, str], ...]
) -> None:
    """It is no hang-up: the record says how it ended."""
    async with scene(EchoModel(), server={"delay_per_token": 0.5}) as it:
        clients = [Leaving(method, target, body, headers) for _ in range(2 if headers else 1)]
        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(it.proxy.front.serve, client)
                await trio.sleep(0.1)
        records = await it.records()

    assert all(client.whole for client in clients)
    outcome = "refused" if target.endswith("/none") else "completed"
    assert [outcome] * len(clients) == [record.outcome for record in records]
    assert len(clients) - 1 == sum(record.joined is not None for record in records)


@pytest.mark.parametrize(("end", "outcome"), [("completed", "completed"), ("in_progress", "left")])
async def test_who_leaves_at_the_terminal_of_what_passes_by_has_had_all(
    autojump_clock, end: str, outcome: str
) -> None:
    """The end of the stream itself is nothing that anybody waits for."""
    said = json.dumps({"type": f"response.{end}", "response": {"id": "r", "status": end}})
    piece = f"data: {said}\n\n".encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    async with before(head + b"%x\r\n%b\r\n" % (len(piece), piece)) as (it, peer):
        peer.holds = True
        client = await it.client()
        await client.send("GET", "/v1/responses/r?stream=true")
        heard = b""
        while b"response." not in heard:
            heard += bytes(await client.stream.receive_some(65536))
        await trio.aclose_forcefully(client.stream)
        await peer.gone.wait()
        (record,) = await it.records()

    assert (outcome, 200) == (record.outcome, record.status)


class Lingering(MemoryEnd):
    """The proxy's end of a connection whose client hears the last word while it is still being said."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await super().send_all(data)
        if any(
            last in bytes(data) for last in (b'"type":"error"', b"response.failed", b"response.completed")
        ):
            await trio.sleep(1)


FAILS: dict[str, list[FaultRule]] = {
    "lost": [FaultRule(Fault("reset", at="response.created"))],
    "failed": [FaultRule(Fault("failed"))],
}


@pytest.mark.parametrize("outcome", ["completed", "refused", "rejected", *FAILS])
async def test_who_leaves_a_socket_at_the_end_has_had_all(autojump_clock, outcome: str) -> None:
    """Whatever that is: a refusal is one, too."""
    faults = FaultScript(*FAILS.get(outcome, ()), seed=1)
    asks: dict[str, dict[str, Any]] = {
        "refused": {"previous_response_id": "resp_none"},
        "rejected": {"input": 7},
    }
    async with scene(EchoModel(), server={"faults": faults}) as it, trio.open_nursery() as nursery:
        near, far = Lingering.pair()
        nursery.start_soon(it.proxy.front.serve, far)
        async with connected(it, stream=near) as socket:
            await socket.create(**{"input": "one two three", **asks.get(outcome, {})})
            await socket.until(lambda: bool(socket.said) and socket.said[-1]["type"] in ENDS)
        await trio.sleep(100)
        (record,) = await it.records()

    assert (outcome, False) == (record.outcome, record.drained)
    assert (outcome == "completed") is (record.error is None)


async def test_so_has_who_is_given_what_it_missed(autojump_clock) -> None:
    """A client that came back, asked the same, and leaves again at the end."""
    async with (
        scene(EchoModel(), server={"delay_per_token": 2}) as it,
        trio.open_nursery() as nursery,
    ):
        async with connected(it) as socket:
            await socket.create("one two three")
            await trio.sleep(3)
        await trio.sleep(20)
        near, far = Lingering.pair()
        nursery.start_soon(it.proxy.front.serve, far)
        async with connected(it, stream=near) as socket:
            await socket.create("one two three")
            await socket.until(lambda: bool(socket.said) and socket.said[-1]["type"] in ENDS)
        await trio.sleep(100)
        first, again = await it.records()

    assert ("left", True) == (first.outcome, first.drained)
    assert ("completed", 1) == (again.outcome, again.joined)


@pytest.mark.parametrize("settings", [Settings(on_hangup="abandon"), Settings(drain_for=3)])
@pytest.mark.parametrize("leave", [0.0, 12.0], ids=["at once", "amid"])
@pytest.mark.parametrize("door", ["sse", "json", "posted", "websocket"])
async def test_nothing_has_gone_wrong_where_somebody_leaves(
    autojump_clock, door: str, leave: float, settings: Settings
) -> None:
    """Its record says so, with the status that it was sent, if any; whatever the door."""
    async with scene(EchoModel(), settings=settings, server={"delay_per_token": 10}) as it:
        if door == "websocket":
            async with connected(it) as socket:
                await socket.create("one two three four")
                await trio.sleep(leave)
        else:
            client = await it.client()
            more: dict[str, Any] = {"sse": {"stream": True}, "posted": {"conversation": "c", "stream": True}}
            body = {"model": "m", "input": "one two three four", **more.get(door, {})}
            await client.send("POST", "/v1/responses", body)
            await trio.sleep(leave)
            await trio.aclose_forcefully(client.stream)
        await trio.sleep(100)
        (record,) = await it.records()

    assert ("left", None, None) == (record.outcome, record.error, record.said)
    assert record.status in (None, 200)
