"""A session: one WebSocket connection, from its first frame to its last.

1. Requests on one lane run one after the other, in the order they came; lanes run side by side, at most
   `active_lanes` of them, and a request that finds no room waits its turn by age.
2. Every event of a turn leaves through `Session.send`, unless a fault is in play: then through that.
3. A refused request does not end the connection unless the profile says so. Its age ends it, or a request
   that is too large, or whatever the profile or a fault has in store.
"""

import contextlib
import heapq
import json
import math
from collections import deque
from collections.abc import Iterable
from typing import Final

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

from wspool.server.engine import Engine
from wspool.server.faults.play import Play, Stage
from wspool.server.faults.script import Fault, FaultScript
from wspool.server.line import Line
from wspool.server.models import Item, TurnError
from wspool.server.protocol.cache import ConnectionMemory
from wspool.server.protocol.create import Create, TurnCut
from wspool.server.protocol.grammar import Event, error_frame
from wspool.server.protocol.requests import (
    RequestError,
    check_lane,
    invalid_request,
    is_warm_up,
    parse,
)

__all__ = ["DROPPED", "Session"]

#: The close code of a connection that is dropped without a close frame.
#: Source: RFC 6455, 7.1.5, where an endpoint reports it but never sends it.
DROPPED: Final = 1006

#: The close code for a customer without money. Source: Vercel's AI Gateway documentation.
_NO_CREDITS: Final = 4402

#: Longest time that the last frames of a connection may take, in seconds.
_LAST_WORDS: Final = 2.0


class Session:
    """Serves one connection. The caller keeps its reader running, and closes the stream afterwards."""

    def __init__(
        self,
        connection: WebSocketConnection,
        engine: Engine,
        memory: ConnectionMemory,
        line: Line,
        script: FaultScript,
    ) -> None:
        self._connection = connection
        self._line = line
        self._script = script
        self._turn_ended = trio.current_time()
        self._engine = engine
        self._profile = engine.profile
        self._memory = memory
        self._nursery: trio.Nursery | None = None
        self._expires_at = trio.current_time() + engine.profile.lifetime
        self._goodbye: int | None = None

        # A lane is in one of three states: not in _queues (idle); head of its queue in _ready; running.
        # Invariant: _queues[lane] exists exactly while the lane is not idle, and holds those that wait
        # behind.
        self._queues: dict[str | None, deque[Create]] = {}
        self._ready: list[tuple[int, Create]] = []
        self._running = 0
        # By sequence: the faults of those that wait.
        self._plays: dict[int, Play] = {}

    async def run(self, faults: Iterable[Fault] = ()) -> int | None:
        """Serve until the peer or the server hangs up.

        Args:
          faults: those of the connection itself.

        Returns: the close code that the server wants to end with, or None if the peer is gone already.
        Cancellation: every unfinished request is lost.
        """
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                if math.isfinite(self._expires_at) and self._profile.limit_mode != "on_next_create":
                    nursery.start_soon(self._expire)
                if math.isfinite(self._profile.idle_timeout):
                    nursery.start_soon(self._watch_idleness)
                if self._profile.expiring_notice is not None:
                    nursery.start_soon(self._announce_end, self._profile.expiring_notice)
                for fault in faults:
                    self.inject(fault)
                try:
                    while True:
                        await self._receive(await self._connection.get_message())
                except (ConnectionClosed, trio.BrokenResourceError):
                    nursery.cancel_scope.cancel()
        finally:
            waiting = [create for _, create in self._ready]
            for create in (*waiting, *(create for queue in self._queues.values() for create in queue)):
                self._engine.settle(create, "lost")
        return self._goodbye

    async def send(self, event: Event) -> None:
        """Send one event of a turn, or an error frame.

        Raises:
          trio.BrokenResourceError: the connection is gone.
        """
        text = json.dumps(event, separators=(",", ":"), allow_nan=False)
        try:
            await self._connection.send_message(text)
        except ConnectionClosed as closed:
            raise trio.BrokenResourceError from closed

    def inject(self, fault: Fault) -> None:
        """Let *fault* happen now, beside whatever is in progress. It is one that needs no event."""
        assert self._nursery is not None
        self._nursery.start_soon(self._play(fault).in_background)

    def _play(self, fault: Fault, create: Create | None = None) -> Play:
        assert self._nursery is not None
        return Play(fault, Stage(self._line, self._nursery, self._engine), create)

    def hang_up(self, code: int) -> None:
        """End the session: whatever runs is cancelled, and `run` returns *code*."""
        assert self._nursery is not None
        self._goodbye = code
        self._nursery.cancel_scope.cancel()

    async def _receive(self, message: str | bytes) -> None:
        if len(message) * 4 > self._profile.max_message:
            # trio-websocket counts characters; the limit is in bytes.
            data = message if isinstance(message, bytes) else message.encode("utf-8", "surrogatepass")
            if len(data) > self._profile.max_message:
                self.hang_up(1009)
                return
        try:
            if isinstance(message, bytes):
                raise RequestError(invalid_request("Only text frames are supported."))
            body = parse(message)
            match body.get("type"):
                case "response.create":
                    pass
                case "response.steer":
                    await self.send(self._engine.steer(body, self._memory))
                    return
                case unknown:
                    raise RequestError(invalid_request(f"Unknown event type: {unknown!r:.80}.", param="type"))
        except RequestError as refused:
            await self._refuse(refused.error, None)
            return
        await self._receive_create(body)

    async def _receive_create(self, body: Item) -> None:
        lane: str | None = None
        problem: TurnError | None = None
        try:
            if self._profile.lane_names:
                lane = check_lane(body.get("stream_id"), self._memory.names, self._profile.lane_names)
            self._engine.check(body)
            self._check_model(body)
        except RequestError as refused:
            problem = refused.error
            if problem.code == "websocket_stream_limit_reached":
                lane = body["stream_id"]
        create = self._engine.receive(body, self._memory, lane=lane)
        fault = self._script.for_create(self._memory.connection, create.sequence, body)
        create.fault = None if fault is None else str(fault)
        if self._profile.credits is not None and self._engine.creates > self._profile.credits:
            self._engine.settle(create, "rejected")
            self.hang_up(_NO_CREDITS)
            return
        create.warm_up = problem is None and self._profile.warm_up and is_warm_up(body)
        if problem is None and trio.current_time() >= self._expires_at:
            self._engine.settle(create, "rejected", self._limit_reached())
            await self._say_goodbye()
            return
        if problem is None and lane in self._queues and self._profile.busy == "reject":
            problem = TurnError(
                type="invalid_request",
                code=self._profile.busy_code,
                message="a response is already in progress on this connection",
                status=409,
            )
        if problem is not None:
            self._engine.settle(create, "rejected", problem)
            await self._refuse(problem, lane)
            return
        if fault is not None:
            self._plays[create.sequence] = self._play(fault, create)
        if lane in self._queues:
            self._queues[lane].append(create)
        else:
            self._queues[lane] = deque()
            self._make_ready(create)

    def _check_model(self, body: Item) -> None:
        """Hold the request to the model of the first one, if the profile does."""
        if self._memory.model is None:
            self._memory.model = body["model"]
        elif self._profile.one_model == "overwrite":
            body["model"] = self._memory.model
        elif self._profile.one_model == "refuse" and body["model"] != self._memory.model:
            raise RequestError(
                invalid_request(
                    "The model can not change during a connection.", code="model_mismatch", param="model"
                )
            )

    def _make_ready(self, create: Create) -> None:
        """*create* is first on its lane; start it, or those before it, as far as there is room."""
        heapq.heappush(self._ready, (create.sequence, create))
        self._start_ready()

    def _start_ready(self) -> None:
        assert self._nursery is not None
        while self._ready and self._running < self._profile.active_lanes:
            _, create = heapq.heappop(self._ready)
            self._running += 1
            self._nursery.start_soon(self._run_turn, create)

    async def _run_turn(self, create: Create) -> None:
        try:
            await self._perform(create)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            # The reader finds out by itself, and ends the session.
            return
        finally:
            # A fault may have ended it before the engine ever saw it.
            self._engine.settle(create, "lost")
        self._turn_ended = trio.current_time()
        self._running -= 1
        queue = self._queues[create.lane]
        if queue:
            self._make_ready(queue.popleft())
        else:
            del self._queues[create.lane]
            self._start_ready()
            expired = trio.current_time() >= self._expires_at
            if expired and not self._running and self._profile.limit_mode == "while_idle":
                await self._say_goodbye()

    async def _perform(self, create: Create) -> None:
        play = self._plays.pop(create.sequence, None)
        if play is None:
            refused = await self._engine.perform(create, self.send)
        else:
            try:
                await play.at_receipt()
            except TurnCut:
                return
            refused = await self._engine.perform(create, play.send, play.before)
        if refused is not None:
            await self._refuse(refused, create.lane)

    async def _refuse(self, error: TurnError, lane: str | None) -> None:
        await self.send(error_frame(error, stream_id=lane, with_status=self._profile.error_status))
        if self._profile.close_after_error is not None:
            self.hang_up(self._profile.close_after_error)

    async def _expire(self) -> None:
        """Wait for the end of the connection's life, and end it as the profile says."""
        await trio.sleep_until(self._expires_at)
        if self._profile.limit_mode == "silent_close":
            self.hang_up(self._profile.limit_close_code)
        elif self._profile.limit_mode == "mid_turn" or not self._running:
            await self._say_goodbye()

    async def _watch_idleness(self) -> None:
        """Hang up when there was no turn, and not a byte from the client, for too long."""
        while True:
            now = trio.current_time()
            quiet_since = now if self._running else max(self._line.last_read, self._turn_ended)
            if now >= quiet_since + self._profile.idle_timeout:
                self.hang_up(1001)
            await trio.sleep_until(quiet_since + self._profile.idle_timeout)

    async def _announce_end(self, notice: float) -> None:
        await trio.sleep_until(self._expires_at - notice)
        minutes = round(notice / 60)
        error = invalid_request(f"Connection will close in {minutes} minutes", code="connection_expiring")
        with contextlib.suppress(trio.BrokenResourceError):
            await self.send(error_frame(error, with_status=self._profile.error_status))

    async def _say_goodbye(self) -> None:
        """Announce the end of the connection's life, then hang up.

        Whatever runs is cut at an event boundary: this waits in the same line as all other sends.
        """
        with trio.move_on_after(_LAST_WORDS):
            await self.send(_limit_frame(self._limit_reached()))
        self.hang_up(self._profile.limit_close_code)

    def _limit_reached(self) -> TurnError:
        minutes = self._profile.limit_minutes
        return invalid_request(
            f"Responses websocket connection limit reached ({minutes} minutes). "
            "Create a new websocket connection to continue.",
            code="websocket_connection_limit_reached",
        )


def _limit_frame(error: TurnError) -> Event:
    # Field order as documented for this one error; it has no `param`, and never a lane.
    return {
        "type": "error",
        "error": {"type": error.type, "code": error.code, "message": error.message},
        "status": error.status,
    }
