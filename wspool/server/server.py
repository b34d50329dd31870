"""The server: accepts connections, over TCP and over memory streams, and keeps them apart.

1. Every connection has its own nursery under a catch-all. Whatever a client does, and whatever goes wrong in
   the library that reads it, ends that connection and nothing else.
2. The first bytes decide: a WebSocket upgrade becomes a session, everything else is plain HTTP.
3. Time is trio's clock only, so a server over memory streams runs under a virtual clock.
4. Whoever comes in through the listener is a stranger until it has shown otherwise (`Admission`). Streams of
   this process (`open_stream`, `serve`) are believed, but for the key.
"""

import logging
import math
import os
from collections import deque
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import attrs
import h11
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_server_stream
from wsproto.utilities import ProtocolError

from wspool.listening.admission import Admission
from wspool.listening.answers import linger
from wspool.listening.intake import Intake, IntakeLimits, Unfinished
from wspool.listening.listen import listen
from wspool.server.engine import Engine
from wspool.server.faults.script import Fault, FaultScript
from wspool.server.faults.steps import Handshake
from wspool.server.handshake import Rejection, is_upgrade, response_head, responses_path
from wspool.server.http import HttpExchange
from wspool.server.ledger import Entry, Ledger, Sink
from wspool.server.line import Line, MemoryEnd
from wspool.server.models import Model, TurnError
from wspool.server.protocol.cache import ConnectionMemory
from wspool.server.protocol.profiles import OPENAI, LimitMode, ServerProfile
from wspool.server.protocol.requests import RequestError
from wspool.server.session import DROPPED, Session
from wspool.server.shown import WatchedModel

__all__ = ["Server", "ServerStatistics", "open_server", "serve_engine"]

_logger: Final = logging.getLogger("wspool.server")

#: What a client's misbehaviour or departure looks like from here; not worth a log line.
_EXPECTED: Final = (
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    ConnectionClosed,
    ProtocolError,
    h11.ProtocolError,
)

#: Longest time from the upgrade's head to the end of the handshake, in seconds.
_HANDSHAKE_TIMEOUT: Final = 15.0

#: Longest time to wait for the client's half of the closing handshake, in seconds.
_CLOSE_TIMEOUT: Final = 2.0

# HTTP status -> the close code of a server that judges after the upgrade.
_REFUSALS: Final = {401: 1008, 403: 1008, 429: 1013}

#: trio-websocket stops answering pings while this many messages wait for us.
_QUEUED_MESSAGES: Final = 64

#: Handshakes that `Server.handshakes` remembers.
_HANDSHAKES: Final = 1024

_READ: Final = 65536


@attrs.frozen(kw_only=True)
class ServerStatistics:
    """A snapshot of a server."""

    connections_open: int
    """WebSocket connections now."""
    connections_total: int
    """Those that there have been."""
    connections_peak: int
    """The most that there were at once."""
    handshakes_rejected: int
    """Handshakes that were turned down."""
    http_connections: int
    """Connections that came with requests of HTTP."""
    creates: int
    """Requests received, over WebSocket and HTTP."""
    creates_active: int
    """Of these, in progress now."""
    responses_stored: int
    """Responses that can be continued on any connection."""
    failures: int
    """Connections that ended in an unexpected error of the server; anything but 0 is a bug."""


class Server:
    """A running server; `open_server` makes it."""

    handshakes: deque[tuple[str, dict[str, str]]]
    """Path and headers of the latest handshakes, keys included: this is a server for tests."""

    def __init__(
        self,
        engine: Engine,
        nursery: trio.Nursery,
        *,
        authority: str,
        admission: Admission,
        max_connections: float,
        script: FaultScript,
    ) -> None:
        self._script = script
        self._sessions: dict[int, Session] = {}
        self.handshakes = deque(maxlen=_HANDSHAKES)
        self._engine = engine
        self._nursery = nursery
        self._admission = admission
        self._limits, self._unfinished = IntakeLimits(), Unfinished()
        self._max_connections = max_connections
        self._rejections: deque[Rejection] = deque()
        self._authority = authority
        self._connections = 0
        self._taken = self._open = self._total = self._peak = self._http = self._rejected = self._failures = 0

    @property
    def url(self) -> str:
        """The WebSocket URL; without a listener a name that only `open_stream` can reach."""
        return f"ws://{self._authority}/v1/responses"

    @property
    def http_url(self) -> str:
        """The URL to POST to."""
        return f"{self.base_url}/responses"

    @property
    def base_url(self) -> str:
        """What SDKs call so."""
        return f"http://{self._authority}/v1"

    def __repr__(self) -> str:
        name = self._engine.profile.name
        return f"<Server {self._authority} as {name}: {self._open} connections, {self._engine.active} turns>"

    def statistics(self) -> ServerStatistics:
        """A snapshot; taking it changes nothing."""
        return ServerStatistics(
            connections_open=self._open,
            connections_total=self._total,
            connections_peak=self._peak,
            handshakes_rejected=self._rejected,
            http_connections=self._http,
            creates=self._engine.creates,
            creates_active=self._engine.active,
            responses_stored=len(self._engine.store),
            failures=self._failures,
        )

    def reject_handshakes(self, *rejections: Rejection | int) -> None:
        """Turn down the next WebSocket handshakes, one each, in this order. A number is a bare status."""
        for rejection in rejections:
            self._rejections.append(Rejection(status=rejection) if isinstance(rejection, int) else rejection)

    def inject(self, fault: Fault, connection: int | None = None) -> None:
        """Let *fault* happen now, on one connection or on all, wherever it usually happens.

        Args:
          connection: its number, as in the ledger; one that is not open is ignored.

        Raises:
          ValueError: *fault* is about an event.
        """
        if fault.needs_event():
            raise ValueError(f"{fault.name!r} is about an event; it can not happen beside one")
        for number, session in list(self._sessions.items()):
            if connection in (None, number):
                session.inject(fault)

    async def open_stream(self, endpoint: object = None) -> trio.abc.Stream:
        """The client's half of a new in-memory connection to this server. Always a checkpoint.

        Args:
          endpoint: ignored; it is there so that this method can stand in for a dialler.
        """
        client, server = MemoryEnd.pair()
        self._nursery.start_soon(self.serve, server)
        await trio.lowlevel.checkpoint()
        return client

    async def serve(self, stream: trio.abc.Stream, *, stranger: bool = False) -> None:
        """Serve one connection to its end. Raises nothing but cancellation; *stream* is closed afterwards.

        Args:
          stranger: it may come from a web page, so that `Host` and `Origin` have to show that it does not.
        """
        try:
            try:
                await self._serve(stream, attrs.evolve(self._admission, names_checked=stranger))
            except* _EXPECTED:
                pass
        except Exception:
            self._failures += 1
            _logger.exception("a connection ended in an error")
        finally:
            await trio.aclose_forcefully(stream)

    async def _serve(self, stream: trio.abc.Stream, admission: Admission) -> None:
        intake = Intake(stream, self._limits, self._unfinished)
        try:
            request = await intake.head()
        except RequestError as refused:
            await stream.send_all(response_head(Rejection.of(refused.error), self._engine.request_id()))
            await linger(stream)
            return
        if request is None:
            return
        self._connections += 1
        memory = ConnectionMemory(self._connections)
        if not (is_upgrade(request) and request.method == b"GET"):
            self._http += 1
            await HttpExchange(stream, intake, self._engine, memory, admission).run(request)
            if intake.http.their_state in (h11.SEND_BODY, h11.ERROR):
                await linger(stream)
            return
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in request.headers}
        self.handshakes.append((request.target.decode("ascii"), headers))
        rejection = self._rejection(request, admission)
        if rejection is not None:
            self._rejected += 1
            _logger.info("refused: upgrade of %s: %s", request.target.decode("ascii"), rejection.status)
            await trio.sleep(rejection.delay)
            if self._engine.profile.accepts_first and rejection.status not in (None, 101):
                code = _REFUSALS.get(rejection.status or 0, 1011)
                rejection = attrs.evolve(rejection, status=101, close_code=code)
            if rejection.status is None:
                await _ignore(stream)
                return
            if rejection.status != 101:
                await stream.send_all(response_head(rejection, self._engine.request_id()))
                return
        # Counted from here, so that handshakes that come together do not all find the last place free.
        self._taken += rejection is None
        try:
            await self._serve_websocket(Line(stream, bytes(intake.received)), memory, rejection)
        finally:
            self._taken -= rejection is None

    def _rejection(self, request: h11.Request, admission: Admission) -> Rejection | None:
        if self._rejections:
            return self._rejections.popleft()
        if not responses_path(request):
            return Rejection(status=404)
        if (unwanted := admission.refusal(request.method, request.headers)) is not None:
            return Rejection.of(unwanted)
        if self._taken >= self._max_connections:
            return Rejection.of(
                TurnError(
                    type="rate_limit_error",
                    code="rate_limit_exceeded",
                    message="Too many connections.",
                    status=429,
                    headers={"Retry-After": "1"},
                )
            )
        return None

    async def _serve_websocket(
        self, line: Line, memory: ConnectionMemory, rejection: Rejection | None
    ) -> None:
        faults = self._script.for_connection(memory.connection)
        headers = [
            header
            for fault in faults
            for step in fault.steps
            if isinstance(step, Handshake)
            for header in step.headers
        ]
        headers.append((b"x-request-id", self._engine.request_id().encode("ascii")))
        websocket: WebSocketConnection | None = None
        try:
            async with trio.open_nursery() as nursery:
                with trio.move_on_after(_HANDSHAKE_TIMEOUT):
                    upgrade = await wrap_server_stream(
                        nursery,
                        line,
                        message_queue_size=_QUEUED_MESSAGES,
                        max_message_size=self._engine.profile.max_message,
                        receive_buffer_size=_READ,
                    )
                    websocket = await upgrade.accept(extra_headers=headers)
                if websocket is not None:
                    if rejection is None:
                        session = Session(websocket, self._engine, memory, line, self._script)
                        code = await self._run_session(session, memory.connection, faults)
                    else:
                        code = rejection.close_code
                    if code is not None and code != DROPPED:
                        with trio.move_on_after(_CLOSE_TIMEOUT):
                            await websocket.aclose(code)
                if not line.answers_close:
                    await trio.sleep_forever()
                nursery.cancel_scope.cancel()
        finally:
            if websocket is not None and websocket.closed is not None and websocket.closed.code == 1009:
                await linger(line)  # noqa: ASYNC102  # a server that stops waits for no client

    async def _run_session(self, session: Session, number: int, faults: Iterable[Fault]) -> int | None:
        self._open += 1
        self._total += 1
        self._peak = max(self._peak, self._open)
        try:
            self._sessions[number] = session
            return await session.run(faults)
        finally:
            del self._sessions[number]
            self._open -= 1


async def _ignore(stream: trio.abc.Stream) -> None:
    """Say nothing until the client gives up."""
    while await stream.receive_some(_READ):
        pass


@asynccontextmanager
async def open_server(
    model: Model,
    *,
    profile: ServerProfile = OPENAI,
    host: str = "127.0.0.1",
    port: int | None = 0,
    ledger: str | os.PathLike[str] | list[Entry] | Sink | None = None,
    delay_per_token: float = 0.0,
    lifetime: float | None = None,
    limit_mode: LimitMode | None = None,
    api_key: str | None = None,
    max_connections: int | None = None,
    faults: FaultScript | None = None,
    seed: int = 0,
    lenient: bool = False,
    strict: bool = False,
) -> AsyncGenerator[Server]:
    """Run a provider while the body runs; leaving drops all connections.

    Args:
      model: who answers.
      profile: what kind of provider; `attrs.evolve` makes new kinds.
      host: the address to listen on; without a key a loopback one.
      port: 0 takes a free one; None opens no listener, and `Server.open_stream` is the only way in.
      ledger: a JSONL file to append to, a list, or a callable that gets every entry.
      delay_per_token: seconds after each delta event.
      lifetime: seconds that a connection may live, instead of the profile's; `math.inf` for no limit.
      limit_mode: what happens then, instead of the profile's.
      api_key: who does not show it gets 401; None answers programs of this machine only (`Admission`).
      max_connections: WebSocket connections at a time; one more gets 429.
      faults: what goes wrong; None is nothing.
      seed: goes into the response ids; two servers with different seeds never issue the same id.
      lenient: take requests that the provider refuses, as long as they can be worked with.
      strict: an exception of the model cancels the body and is raised, and not only a client's 500.

    Raises:
      OSError: the port is taken, or the ledger can not be opened.
      ValueError: *host* is not loopback, and there is no *api_key*.
    """
    if lifetime is not None:
        profile = attrs.evolve(profile, lifetime=lifetime)
    if limit_mode is not None:
        profile = attrs.evolve(profile, limit_mode=limit_mode)
    scope = trio.CancelScope()
    watched = WatchedModel(model, scope.cancel if strict else None)
    with Ledger(ledger) as book:
        engine = Engine(watched, profile, book, delay_per_token=delay_per_token, seed=seed, lenient=lenient)
        try:
            with scope:
                async with serve_engine(
                    engine,
                    host=host,
                    port=port,
                    api_key=api_key,
                    max_connections=max_connections,
                    faults=faults,
                ) as server:
                    yield server
        finally:
            if strict and watched.failure is not None:
                raise watched.failure


@asynccontextmanager
async def serve_engine(
    engine: Engine,
    *,
    host: str = "127.0.0.1",
    port: int | None = 0,
    api_key: str | None = None,
    max_connections: int | None = None,
    faults: FaultScript | None = None,
) -> AsyncGenerator[Server]:
    """Run a server around an engine of one's own while the body runs. Arguments and errors: `open_server`."""
    admission = Admission(api_key=api_key)
    listeners, authority = (
        ([], "localhost") if port is None else await listen(host, port, admission.may_listen)
    )
    problem: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            server = Server(
                engine,
                nursery,
                authority=authority,
                admission=admission,
                max_connections=math.inf if max_connections is None else max_connections,
                script=FaultScript() if faults is None else faults,
            )
            if listeners:
                serve = partial(server.serve, stranger=True)
                await nursery.start(partial(trio.serve_listeners, serve, listeners, handler_nursery=nursery))
            try:
                yield server
            except BaseException as raised:  # noqa: ASYNC103  # raised again below
                # Out of the nursery's sight, which would wrap it in a group.
                problem = raised
            nursery.cancel_scope.cancel()
    finally:
        if problem is not None:
            raise problem
