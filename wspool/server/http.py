"""The HTTP door: `POST /v1/responses`, answered with server-sent events or one JSON body, and
`POST /v1/responses/compact`.

The same engine, model and grammar as over WebSocket, without what belongs to a connection: there are no lanes
and no warm-up, and only a stored response can be continued.
"""

import json
import logging
from collections.abc import Mapping
from typing import Final

import h11
import trio

from wspool.server.admission import Admission
from wspool.server.engine import Engine
from wspool.server.handshake import compact_path, responses_path
from wspool.server.intake import Intake
from wspool.server.models import Item, TurnError
from wspool.server.protocol.cache import ConnectionMemory
from wspool.server.protocol.grammar import TERMINAL, Event
from wspool.server.protocol.requests import RequestError, check_create, invalid_request, parse

__all__ = ["HttpExchange"]

_logger: Final = logging.getLogger("wspool.server")

#: Of a body that is not answered so much is read, in bytes, to keep the connection; more ends it.
_UNWANTED: Final = 65536

#: Longest time that a client may leave what it was sent unread, in seconds.
_UNREAD: Final = 60.0


class HttpExchange:
    """One HTTP connection. It begins with a request whose head *intake* has already read."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        intake: Intake,
        engine: Engine,
        memory: ConnectionMemory,
        admission: Admission,
    ) -> None:
        self._stream = stream
        self._intake = intake
        self._http = intake.http
        self._engine = engine
        self._memory = memory
        self._admission = admission

    async def run(self, request: h11.Request) -> None:
        """Answer *request*, and all that follow on this connection.

        Raises:
          trio.BrokenResourceError: the client went away.
        """
        while True:
            await self._answer(request)
            if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                return
            self._http.start_next_cycle()
            try:
                following = await self._intake.head()
            except RequestError as refused:
                await self._send_error(refused.error)
                return
            if following is None:
                return
            request = following

    async def _answer(self, request: h11.Request) -> None:
        unwanted = self._admission.refusal(request.method, request.headers)
        try:
            body = await self._intake.body(
                _UNWANTED if unwanted else self._engine.profile.max_message, self._send
            )
        except RequestError as refused:
            await self._send_error(unwanted or refused.error)
            return
        try:
            if unwanted is not None:
                raise RequestError(unwanted)
            self._check_head(request)
            create_body = parse(body)
            check_create(create_body)
        except RequestError as refused:
            await self._send_error(refused.error)
            return
        if compact_path(request):
            compacted = self._engine.compact(create_body)
            if isinstance(compacted, TurnError):
                await self._send_error(compacted)
            else:
                await self.send_json(200, compacted)
            return
        create = self._engine.receive(create_body, self._memory, transport="http")
        if create_body.get("stream") is True:
            sse = _EventStream(self)
            refused_by_engine = await self._engine.perform(create, sse.send)
            if refused_by_engine is None or sse.begun:
                await sse.end()
        else:
            last: list[Item] = []

            async def keep(event: Event) -> None:
                if event["type"] in TERMINAL:
                    last.append(event["response"])
                await trio.lowlevel.checkpoint()

            refused_by_engine = await self._engine.perform(create, keep)
            if refused_by_engine is None:
                await self.send_json(200, last[0])
        # What is not stored is forgotten: HTTP has no memory of a connection.
        self._memory.latest.clear()
        if refused_by_engine is not None and self._http.our_state is h11.SEND_RESPONSE:
            await self._send_error(refused_by_engine)

    def _check_head(self, request: h11.Request) -> None:
        if not (responses_path(request) or compact_path(request)):
            raise RequestError(invalid_request("Invalid URL.", status=404))
        if request.method == b"GET":
            raise RequestError(
                TurnError(
                    type="invalid_request_error",
                    code="websocket_upgrade_required",
                    message="This endpoint answers GET only as a WebSocket upgrade.",
                    status=426,
                    headers={"Upgrade": "websocket"},
                )
            )
        if request.method != b"POST":
            raise RequestError(
                TurnError(
                    type="invalid_request_error",
                    message="Not allowed to use this method.",
                    status=405,
                    headers={"Allow": "POST"},
                )
            )

    async def _send_error(self, error: TurnError) -> None:
        _logger.info("refused: %d %s", error.status, error.message)
        plain = {key: value for key, value in error.body().items() if key != "headers"}
        await self.send_json(error.status, {"error": plain}, error.headers or {})

    async def send_json(self, status: int, value: Item, headers: Mapping[str, str] | None = None) -> None:
        """Send a whole JSON response."""
        data = json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")
        await self.send_head(
            status, {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}
        )
        await self._send(h11.Data(data=data))
        await self._send(h11.EndOfMessage())

    async def send_head(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the head of a response."""
        await self._send(h11.Response(status_code=status, headers=list(headers.items())))

    async def send_data(self, data: bytes) -> None:
        """Send a part of a body."""
        await self._send(h11.Data(data=data))

    async def send_end(self) -> None:
        """Send the end of a body."""
        await self._send(h11.EndOfMessage())

    async def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            with trio.move_on_after(_UNREAD) as scope:
                await self._stream.send_all(data)
            if scope.cancelled_caught:
                raise trio.BrokenResourceError("the client does not read its answer")


class _EventStream:
    """A body of server-sent events; its head goes with the first one, as a refusal needs another head."""

    def __init__(self, exchange: HttpExchange) -> None:
        self._exchange = exchange
        self.begun = False

    async def send(self, event: Event) -> None:
        data = json.dumps(event, separators=(",", ":"), allow_nan=False)
        if not self.begun:
            self.begun = True
            await self._exchange.send_head(
                200, {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
            )
        await self._exchange.send_data(f"event: {event['type']}\ndata: {data}\n\n".encode("ascii"))

    async def end(self) -> None:
        await self._exchange.send_end()
