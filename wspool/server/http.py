"""The HTTP door: `POST /v1/responses`, answered with server-sent events or one JSON body, and what is beside
it (`routes`).

The same engine, model and grammar as over WebSocket, without what belongs to a connection: there are no lanes
and no warm-up, and only a stored response can be continued.
"""

import json
import logging
from typing import Final

import h11
import trio

from wspool.listening.admission import Admission, is_preflight
from wspool.listening.answers import Answers
from wspool.listening.decoding import decoded
from wspool.listening.intake import Intake
from wspool.server.cross_origin import cross_origin_headers
from wspool.server.engine import Engine
from wspool.server.models import Item, TurnError
from wspool.server.protocol.cache import ConnectionMemory
from wspool.server.protocol.grammar import Event, is_end
from wspool.server.protocol.requests import RequestError, parse
from wspool.server.routes import Route, route_of

__all__ = ["HttpExchange"]

_logger: Final = logging.getLogger("wspool.server")

#: Of a body that is not answered so much is read, in bytes, to keep the connection; more ends it.
_UNWANTED: Final = 65536

#: States of a client whose request was not read to its end. The connection ends with the answer.
_UNREAD: Final = (h11.SEND_BODY, h11.ERROR)

_SSE: Final = (("Content-Type", "text/event-stream; charset=utf-8"), ("Cache-Control", "no-cache"))


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
        self._intake = intake
        self._http = intake.http
        self._engine = engine
        self._memory = memory
        self._admission = admission
        self._answers = Answers(stream, intake.http)

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
                self._answers.headers = {"x-request-id": self._engine.request_id()}
                await self._send_error(refused.error)
                return
            if following is None:
                return
            request = following

    async def _answer(self, request: h11.Request) -> None:
        unwanted = self._admission.refusal(request.method, request.headers)
        self._begin(request, admitted=unwanted is None or self._admission.api_key is not None)
        route, method = route_of(request.target.decode("ascii")), request.method.decode("ascii")
        limit = self._engine.profile.max_message if unwanted is None and route.has_body else _UNWANTED
        try:
            body = await self._intake.body(limit, self._answers.send)
        except RequestError as refused:
            await self._send_error(unwanted or refused.error)
            return
        if unwanted is None and is_preflight(request.method, request.headers):
            await self._answers.send_head(204, [])
            await self._answers.send_end()
            return
        try:
            if (problem := unwanted or route.misuse(method)) is not None:
                raise RequestError(problem)
            content = self._content(request, route, body) if route.has_body else {}
        except RequestError as refused:
            await self._send_error(refused.error)
            return
        if route.is_turn:
            await self._take_turn(content)
            return
        answer = route.answer(self._engine, method, content)
        if isinstance(answer, TurnError):
            await self._send_error(answer)
        else:
            await self._answers.send_json(200, answer)

    def _begin(self, request: h11.Request, *, admitted: bool) -> None:
        """Set what goes with every answer to *request*."""
        self._answers.bare = request.method == b"HEAD"
        self._answers.headers = {"x-request-id": self._engine.request_id()}
        if admitted:
            self._answers.headers |= cross_origin_headers(request.method, request.headers)

    def _content(self, request: h11.Request, route: Route, body: bytes) -> Item:
        codings = [value.decode("latin-1") for name, value in request.headers if name == b"content-encoding"]
        content = parse(decoded(body, codings, self._engine.profile.max_message) if codings else body)
        self._engine.check(content, needs_model=route.kind != "count")
        return content

    async def _take_turn(self, body: Item) -> None:
        create = self._engine.receive(body, self._memory, transport="http")
        if body.get("stream") is True:
            sse = _EventStream(self._answers)
            refused = await self._engine.perform(create, sse.send)
            if refused is None or sse.begun:
                await sse.end()
        else:
            last: list[Item] = []

            async def keep(event: Event) -> None:
                if is_end(event):
                    last.append(event["response"])
                await trio.lowlevel.checkpoint()

            refused = await self._engine.perform(create, keep)
            if refused is None:
                await self._answers.send_json(200, last[0])
        # What is not stored is forgotten: HTTP has no memory of a connection.
        self._memory.latest.clear()
        if refused is not None and self._http.our_state is h11.SEND_RESPONSE:
            await self._send_error(refused)

    async def _send_error(self, error: TurnError) -> None:
        _logger.info("refused: %d %s", error.status, error.message)
        # Else the client would send its next request to where nobody reads any more.
        self._answers.closes = self._http.their_state in _UNREAD
        await self._answers.send_error(error)


class _EventStream:
    """A body of server-sent events; its head goes with the first one, as a refusal needs another head."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self.begun = False

    async def send(self, event: Event) -> None:
        data = json.dumps(event, separators=(",", ":"), allow_nan=False)
        if not self.begun:
            self.begun = True
            await self._answers.send_head(200, _SSE)
        await self._answers.send_data(f"event: {event['type']}\ndata: {data}\n\n".encode("ascii"))

    async def end(self) -> None:
        await self._answers.send_end()
