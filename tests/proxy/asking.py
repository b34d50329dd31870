"""HTTP clients for tests of the proxy, over memory streams; and a proxy before the reference server."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import attrs
import h11
import trio
import trio.testing

from tests.helpers import policy
from wspool import OPENAI
from wspool.proxy import Proxy, Record, Settings, Where, open_proxy
from wspool.server import OPENAI as OPENAI_SERVER, Entry, Model, Server, open_server
from wspool.wire.trio_websocket import TrioWebSocketConnector

KEY = ("authorization", "Bearer sk-canary-1234567890abcdef")


@attrs.define
class Answer:
    """What a client got; `whole` is False if it ended before its end."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    whole: bool = True
    times: list[float] = attrs.field(factory=list)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events of a stream, comments left out."""
        frames = [frame for frame in self.body.decode().split("\n\n") if frame]
        return [
            json.loads(line[6:]) for frame in frames for line in frame.split("\n") if line[:6] == "data: "
        ]

    @property
    def types(self) -> list[str]:
        return [event["type"] for event in self.events]


class Client:
    """One HTTP connection."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.http = h11.Connection(h11.CLIENT)

    async def send(
        self,
        method: str,
        target: str,
        body: Any = None,
        headers: Iterable[tuple[str, str]] = (KEY,),
        host: str = "localhost",
    ) -> None:
        """Send a request; a *body* that is no bytes as JSON."""
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        every = [("host", host), ("content-length", str(len(data))), *headers]
        head = h11.Request(method=method, target=target, headers=every)
        sent = [self.http.send(head), self.http.send(h11.Data(data=data)), self.http.send(h11.EndOfMessage())]
        await self.stream.send_all(b"".join(part or b"" for part in sent))

    async def receive(self) -> Answer:
        """The whole answer, or what came of it."""
        answer: Answer | None = None
        while True:
            try:
                event = self.http.next_event()
            except h11.RemoteProtocolError:
                assert answer is not None, "nothing came"
                answer.whole = False
                return answer
            match event:
                case h11.NEED_DATA:
                    self.http.receive_data(bytes(await self.stream.receive_some(65536)))
                case h11.Response():
                    head = {name.decode(): value.decode("latin-1") for name, value in event.headers}
                    answer = Answer(event.status_code, head)
                case h11.Data() if answer is not None:
                    answer.body += bytes(event.data)
                    answer.times.append(trio.current_time())
                case h11.EndOfMessage() if answer is not None:
                    if self.http.our_state is h11.DONE and self.http.their_state is h11.DONE:
                        self.http.start_next_cycle()
                    return answer
                case h11.ConnectionClosed():
                    raise trio.EndOfChannel
                case _:
                    pass

    async def ask(self, method: str, target: str, body: Any = None, **more: Any) -> Answer:
        """Send a request, and return its answer."""
        await self.send(method, target, body, **more)
        return await self.receive()

    async def turn(self, input: Any = "hi", *, target: str = "/v1/responses", **fields: Any) -> Answer:
        """One turn."""
        headers = fields.pop("headers", (KEY,))
        return await self.ask(
            "POST", target, {"model": "m", "input": input, "store": False, **fields}, headers=headers
        )


@attrs.frozen
class Scene:
    """A proxy before a provider."""

    server: Server
    ledger: list[Entry]
    proxy: Proxy

    async def client(self) -> Client:
        return Client(await self.proxy.open_stream())

    async def records(self) -> list[Record]:
        """The records of what has ended, once nobody does anything."""
        await trio.testing.wait_all_tasks_blocked()
        return list(self.proxy.records.ended)


def laned(
    model: Model, lanes: int, *, max_size: int = 1, server: Mapping[str, Any] | None = None, **options: Any
) -> AbstractAsyncContextManager[Scene]:
    """A scene whose provider is as OpenAI's, and may have so many turns on a connection."""
    return scene(
        model,
        server={"profile": OPENAI_SERVER, **(server or {})},
        **{
            "provider": OPENAI,
            "policy": policy(max_size=max_size, lanes=lanes),
            "fallback": None,  # HTTP has no lanes
            **options,
        },
    )


@asynccontextmanager
async def scene(
    model: Model,
    *,
    settings: Settings | None = None,
    server: Mapping[str, Any] | None = None,
    **options: Any,
) -> AsyncGenerator[Scene]:
    """A proxy before a provider, over memory streams."""
    ledger: list[Entry] = []
    with trio.fail_after(100_000):
        async with open_server(model, port=None, ledger=ledger, **(server or {})) as provider:
            wire = TrioWebSocketConnector(provider.open_stream)
            async with open_proxy(
                "ws://localhost/v1/responses",
                where=Where(port=None),
                settings=settings or Settings(),
                **{"wire": wire, **options},
            ) as proxy:
                yield Scene(provider, ledger, proxy)
                assert not proxy.front.failures
            assert not provider.statistics().failures
