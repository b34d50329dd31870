"""Front: accepts clients, lets in who may, and shows each request to its door.

Rules of this module:

* Whatever a client does, and whatever goes wrong with it, ends its connection and nothing else.
* One gate comes before everything, also before an upgrade, and for each request of a connection.
* A refusal is JSON in the provider's shape, and one line in the log without a word of the body.
* Health is asked without a token, and never asks the provider. A proxy that is full answers it, too: whoever
  looks whether it lives would end it else, and all that runs there.
* Each answer has a name (`x-request-id`): the provider's, or one of ours that is in the log.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Final

import attrs
import h11
import trio

from wspool.core.plain import plain
from wspool.listening.answers import Answers, linger
from wspool.listening.errors import RequestError, TurnError, invalid_request
from wspool.listening.intake import Intake, IntakeLimits, Unfinished
from wspool.proxy.access.gate import Caller, Gate
from wspool.proxy.entrance.watched import Watched
from wspool.proxy.reading import read_body
from wspool.proxy.sockets.handshake import is_upgrade
from wspool.proxy.sockets.sockets import Sockets, upgrade_required
from wspool.proxy.target import Target
from wspool.proxy.turns.taking import take_turn
from wspool.proxy.visit import Handler, Services, Visit

__all__ = ["Front"]

logger: Final = logging.getLogger("wspool.proxy")

#: What a client's departure looks like from here; not worth a log line.
_EXPECTED: Final = (trio.BrokenResourceError, trio.ClosedResourceError, h11.ProtocolError)

#: Of a body that is not answered so much is read, in bytes, to keep the connection; more ends it.
_UNWANTED: Final = 65536

#: States of a client whose request is not whole: its connection can be of no use after the answer.
_UNREAD: Final = (h11.SEND_BODY, h11.ERROR)

#: What is spoken by others, in front of this.
_ELSEWHERE: Final = {
    path: f"{path} is not spoken here, only the Responses API: put LiteLLM in front of this proxy, with the "
    "proxy's address as the base URL of its openai/responses models."
    for path in ("/chat/completions", "/completions", "/messages")
}

#: Paths that are never the provider's.
_OWN: Final = frozenset({"/", "/favicon.ico"})


@attrs.define(eq=False)
class _Connection:
    """One connection of a client.

    Attributes:
        stream: it.
        caller: who asked last.
        answers: what goes out on it, once it is served.
        busy: whether a request is being answered.
        crowded: whether there were too many others already.
    """

    stream: trio.abc.Stream
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    caller: Caller | None = None
    answers: Answers | None = None
    busy: bool = False
    crowded: bool = False


class Front:
    """What all clients meet.

    Attributes:
        routes: answers to requests for a path below no endpoint, such as `/metrics`, by that path. Where
            tokens are asked for each looks itself whether one was shown, which browsers do in their own way.
        sockets: takes over a connection whose client asks for a WebSocket.
        draining: True once no further request is taken.
        failures: connections that ended in an error of ours; anything but 0 is a bug.
    """

    def __init__(self, gate: Gate, services: Services) -> None:
        self.routes: dict[str, Handler] = {}
        self.sockets = Sockets(gate)
        self.draining = False
        self.failures = 0
        self._connections: set[_Connection] = set()
        self._changed = trio.Event()
        self._gate = gate
        self._services = services
        self._answered = 0
        self._limits, self._unfinished = IntakeLimits(), Unfinished()

    @property
    def open(self) -> int:
        """Connections now."""
        return len(self._connections)

    def drain(self) -> None:
        """Take no further request; what is being answered goes on. Never waits."""
        self.draining = True
        self.sockets.retire()
        for connection in self._connections:
            if connection.answers is not None:
                connection.answers.closes = True
            if not connection.busy and connection.caller is not None:
                connection.scope.cancel()

    async def quiet(self) -> None:
        """Wait until nobody is answered any more. A checkpoint."""
        await trio.lowlevel.checkpoint()
        while any(connection.busy for connection in self._connections):
            await self._changed.wait()

    def look_again(self) -> None:
        """The tokens have changed: whoever shows one that is no more is cut off. Never waits.

        A turn of theirs goes on as that of any client that has left, so that it is known what it costs.
        """
        self.sockets.look_again()
        for connection in self._connections:
            if connection.caller is None or self._gate.admits_still(connection.caller) is not None:
                continue
            if connection.busy:
                trio.lowlevel.spawn_system_task(trio.aclose_forcefully, connection.stream)
            else:
                connection.scope.cancel()

    async def serve(self, stream: trio.abc.Stream, *, stranger: bool = False) -> None:
        """Serve one connection to its end. Raises nothing but cancellation; *stream* is closed afterwards.

        Args:
            stranger: it may come from a web page, so that `Host` and `Origin` have to show that it does not.
        """
        connection = _Connection(stream, crowded=self.open >= self._services.settings.max_clients)
        self._connections.add(connection)
        try:
            try:
                with connection.scope:
                    async with trio.open_nursery() as nursery:
                        watched = Watched(stream)
                        nursery.start_soon(watched.read)
                        await self._serve(watched, connection, stranger=stranger)
                        nursery.cancel_scope.cancel()
            except* _EXPECTED:
                pass
        except Exception:
            self.failures += 1
            logger.exception("a connection ended in an error")
        finally:
            self._connections.discard(connection)
            changed, self._changed = self._changed, trio.Event()
            changed.set()
            await trio.aclose_forcefully(stream)

    async def _serve(self, stream: Watched, connection: _Connection, *, stranger: bool) -> None:
        intake = Intake(stream, self._limits, self._unfinished)
        connection.answers = answers = Answers(stream.stream, intake.http)
        answers.closes = self.draining or connection.crowded
        http = intake.http
        while True:
            try:
                request = await intake.head()
            except RequestError as refused:
                answers.closes = True
                await self._refuse(answers, refused.error)
                await linger(stream)
                return
            if request is None:
                return
            connection.busy = True
            answers.bare, answers.headers = request.method == b"HEAD", self._named()
            taken_over = await self._answer(stream, intake, answers, request, connection, stranger=stranger)
            if taken_over:
                return
            connection.busy = False
            if http.our_state is not h11.DONE or http.their_state is not h11.DONE:
                if http.their_state in _UNREAD:
                    await linger(stream)
                return
            if answers.closes:
                return
            http.start_next_cycle()

    async def _answer(
        self,
        stream: Watched,
        intake: Intake,
        answers: Answers,
        request: h11.Request,
        connection: _Connection,
        *,
        stranger: bool,
    ) -> bool:
        """Answer *request*; return whether its connection was taken over."""
        since = trio.current_time()
        try:
            upstream = self._services.upstream
            target = Target.of(request.target.decode("ascii", "replace"), upstream)
            path = target.path if target is not None else ""
            caller = self._caller(request, path, stranger=stranger)
            if (status := self._health(path, crowded=connection.crowded)) is not None:
                await intake.body(_UNWANTED, answers.send)
                await answers.send_json(*status)
                return False
            if connection.crowded:
                raise RequestError(_crowded())
            connection.caller = caller
            if target is None:
                raise RequestError(_not_found())
            visit = Visit(
                services=self._services,
                stream=stream,
                intake=intake,
                answers=answers,
                request=request,
                target=target,
                caller=caller,
                since=since,
                began=time.time(),
            )
            if is_upgrade(request.method, request.headers):
                connection.caller = None  # its socket knows
                return await self._upgrade(visit)
            await self._show(visit)
        except RequestError as refused:
            if not answers.begun:
                await self._refuse_unread(intake, answers, refused.error)
        return False

    def _caller(self, request: h11.Request, path: str, *, stranger: bool) -> Caller:
        """Return who asks for *path*. Raises RequestError: who may not."""
        try:
            return self._gate.admit(request.method, request.headers, stranger=stranger)
        except RequestError:
            if self._gate.tokens is None or (path not in self.routes and self._health(path) is None):
                raise
            return Caller("a browser", None, None, None)

    def _named(self) -> dict[str, str]:
        """Return the header that names an answer; one that has a record gets its number instead."""
        self._answered += 1
        return {"x-request-id": f"wspool-r{self._answered}"}

    async def _show(self, visit: Visit) -> None:
        """Show *visit* to its door."""
        method, target = visit.request.method, visit.target
        if (handler := self.routes.get(target.path)) is not None:
            await handler(visit)
        elif self.draining:
            raise RequestError(_stopping())
        elif target.is_turns and method == b"GET":
            raise RequestError(upgrade_required("This endpoint answers GET only as a WebSocket upgrade."))
        elif target.is_turns and method == b"POST":
            try:
                visit.check_budget()
                limit = visit.services.settings.max_body
                raw = await visit.intake.body(limit, visit.answers.send)
                codings = [v.decode("latin-1") for n, v in visit.request.headers if n == b"content-encoding"]
                body = await read_body(raw, codings, limit=limit)
            except RequestError as rejected:
                record = visit.record("json")
                visit.answers.headers = {"x-request-id": f"wspool-{record.number}"}
                record.fail(rejected)
                visit.services.records.end(record, "rejected")
                raise
            await take_turn(visit, body, raw)
        elif target.path in _ELSEWHERE:
            raise RequestError(invalid_request(_ELSEWHERE[target.path], status=404))
        elif target.path in _OWN:
            raise RequestError(_not_found())
        else:
            await self._pass_on(visit)

    async def _pass_on(self, visit: Visit) -> None:
        record = visit.record("http")
        visit.answers.headers = {"x-request-id": f"wspool-{record.number}"}
        try:
            if visit.request.method == b"POST":  # such as a compaction, which has tokens as well
                try:
                    visit.check_budget()
                except RequestError as rejected:
                    record.fail(rejected)
                    raise
            await visit.services.passage.pass_on(visit, record)
        finally:
            record.total = trio.current_time() - visit.since
            visit.services.records.end(record, "left")

    async def _upgrade(self, visit: Visit) -> bool:
        if self.draining:
            raise RequestError(_stopping())
        if not visit.services.settings.websocket:
            raise RequestError(upgrade_required("This proxy takes no WebSocket; ask by HTTP."))
        if not visit.target.is_turns:
            raise RequestError(_not_found())
        await self.sockets.take_over(visit)
        return True

    def _health(self, path: str, *, crowded: bool = False) -> tuple[int, Mapping[str, str]] | None:
        """Return the answer to a question for health, None if it is none."""
        status = "draining" if self.draining else "full" if crowded else "ok"
        match path:
            case "/livez" | "/healthz":
                return 200, {"status": status}
            case "/readyz":
                return 200 if status == "ok" else 503, {"status": status}
            case _:
                return None

    async def _refuse_unread(self, intake: Intake, answers: Answers, error: TurnError) -> None:
        """Refuse a request whose body may be unread; a short one is, so that the connection can go on."""
        http = intake.http
        useless = answers.closes or intake.broken or http.they_are_waiting_for_100_continue
        if http.their_state is h11.SEND_BODY and not useless:
            try:
                await intake.body(_UNWANTED, answers.send)
            except RequestError:
                pass
        answers.closes = answers.closes or http.their_state in _UNREAD
        await self._refuse(answers, error)

    async def _refuse(self, answers: Answers, error: TurnError) -> None:
        answers.headers = answers.headers or self._named()
        name = answers.headers["x-request-id"]
        logger.info("rejected: %d %s (%s)", error.status, plain(error.message), name)
        await answers.send_error(error)


def _not_found() -> TurnError:
    how = "ask below /v1, or below /s/NAME/v1, where NAME has 1 to 128 characters"
    return invalid_request(f"Invalid URL: {how}.", status=404)


def _stopping() -> TurnError:
    return TurnError(
        code="server_is_overloaded",
        message="The proxy is stopping; ask again.",
        status=503,
        headers={"Retry-After": "1", "Connection": "close"},
    )


def _crowded() -> TurnError:
    return TurnError(
        code="server_is_overloaded",
        message="Too many clients are connected (max_clients); try again later.",
        status=503,
        headers={"Retry-After": "1", "Connection": "close"},
    )
