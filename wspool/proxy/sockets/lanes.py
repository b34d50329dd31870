"""Lanes: the requests of one WebSocket client, in order, as turns of the pool.

Rules of this module:

* One request at a time on a lane of the client's, in the order they came; its lanes run side by side, as many
  as it may, wherever the pool has room. A name says nothing of a connection: it is mapped, and echoed.
* A client names what it goes on from itself. That, a warm-up and further input for a response in progress
  go to the provider as they are; what the provider says about them goes back.
* A turn whose client has left while it was in line costs nothing. One that runs is read to its end for as
  long as `SocketLimits.drain`, so that its usage is known, and else given up.
* Whatever goes wrong with one turn is said on its lane, and the socket goes on.
"""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Final, Protocol, cast

import attrs
import trio

from wspool.core.error import Delivery
from wspool.core.events.steering import Steer
from wspool.core.frames import Event
from wspool.errors import SteeringRefusedError, TooManyWaitingError, WsPoolError
from wspool.listening.errors import RequestError
from wspool.proxy.sockets.frames import error_frame, failed, joined, labelled, refusal, steer_failed

__all__ = ["Account", "Lanes", "SocketLimits", "Way"]

logger = logging.getLogger("wspool.proxy")

#: How long a turn may go on after its client has left, in seconds, where it is not drained: some leave at the
#: last word.
_LAST_MOMENT: Final = 0.05

#: Steers of one client without an answer. Source: the reference server takes as many for one response.
_MOST_STEERS: Final = 16

#: What nobody has to answer: one generation of Codex says so that it has read a response.
_IGNORED: Final = frozenset({"response.processed"})

_LANE: Final = re.compile(r"[A-Za-z0-9_.-]{1,256}")

_RETIRING: Final = "This server is shutting down. Create a new websocket connection to continue."


@attrs.frozen(kw_only=True)
class SocketLimits:
    """What one WebSocket client may take; times are seconds.

    Attributes:
        keepalive: without a word to the client after which it is pinged.
        silence: for which a ping may be without any answer. Long: a program that runs a tool is no dead one.
        unread: for which the client may take nothing of what it is sent.
        drain: for which a turn is read on whose client has left.
        max_message: bytes of one message.
        max_turns: turns at once. Source: OpenAI's WebSocket mode guide, 16 active responses on a connection.
        max_waiting: requests behind those.
        max_waiting_bytes: bytes of those.
    """

    keepalive: float = 15.0
    silence: float = 600.0
    unread: float = 60.0
    drain: float = 0.0
    max_message: int = 64 * 1024 * 1024
    max_turns: int = 16
    max_waiting: int = 256
    max_waiting_bytes: int = 128 * 1024 * 1024


class Course(Protocol):
    """A turn, as far as it is passed on: one of a pool, or one that was asked for before."""

    @property
    def response_id(self) -> str | None: ...
    @property
    def delivery(self) -> Delivery: ...
    @property
    def ended(self) -> bool: ...
    @property
    def failure(self) -> WsPoolError | None: ...
    async def batch(self) -> Sequence[Event]: ...
    async def steer(self, input: str | Sequence[Mapping[str, Any]]) -> Steer: ...


class Account(Protocol):
    """One request of a client: how it goes, and what is written down of it."""

    def turn(self) -> AbstractAsyncContextManager[Course]:
        """Return a block that takes the turn: in its place in line, in the pool that it is for. Once."""
        ...

    @property
    def sent(self) -> bool:
        """Whether anything of it may have left."""
        ...

    def notices(self) -> Sequence[Event]:
        """Return what the provider has said beside the turn since, as it came. Never waits."""
        ...

    def wrote(self, events: Sequence[Event], size: int) -> None:
        """Events came, which are so many bytes for the client. Never waits."""
        ...

    def left(self, drop: Callable[[float], object]) -> None:
        """Its client is gone, and it goes on for a while. Never waits.

        Args:
            drop: ends it at that time, on trio's clock.
        """
        ...

    def end(self, error: Exception | None, *, left: bool) -> None:
        """It is over. Never waits.

        Args:
            error: what ended it, if that was not the end of its turn.
            left: True if its client was gone before.
        """
        ...


class Way(Protocol):
    """How the requests of one client go."""

    def begin(self, body: Mapping[str, Any], message: bytes | bytearray) -> Account:
        """Take a request in: the *body* of a turn, as it came in its *message*. Never waits."""
        ...


@attrs.frozen(eq=False)
class _Request:
    """One `response.create`.

    Attributes:
        lane: the client's name for it, None for that without a name.
        size: bytes of its message.
    """

    account: Account
    lane: str | None
    size: int


@attrs.define(eq=False)
class _Running:
    """One request in its turn, from the line to its end."""

    request: _Request
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    turn: Course | None = None
    #: True once its end is being said that is none of the turn's own.
    refused: bool = False
    #: True once its client has left before its end.
    left: bool = False


class Lanes:
    """The requests of one client.

    Args:
        nursery: in which their turns run.
        say: sends bytes to the client; never raises, and does nothing once it is gone.
        way: where they go.
        limits: what the client may take.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        say: Callable[[bytes], Awaitable[None]],
        way: Way,
        limits: SocketLimits,
    ) -> None:
        self._nursery = nursery
        self._say = say
        self._way = way
        self._limits = limits
        # A lane is in one of three states: not in _behind (idle); head of its line in _ready; running.
        # Invariant: _behind[lane] exists exactly while the lane is not idle, and holds those behind.
        self._behind: dict[str | None, deque[_Request]] = {}
        self._ready: deque[_Request] = deque()
        self._running: set[_Running] = set()
        self._waiting = self._waiting_bytes = self._steering = 0
        self._left = False
        #: Called once nothing runs and nothing waits any more.
        self._on_rest: Callable[[], object] | None = None

    @property
    def resting(self) -> bool:
        """Whether nothing runs and nothing waits."""
        return not self._behind

    def receive(self, body: dict[str, Any], message: bytes | bytearray) -> bytes | None:
        """Take a message; return what there is to say about it at once, if anything. Never waits.

        Args:
            body: what it says; it is the request's from now on.
            message: it as it came.
        """
        match body.get("type"):
            case "response.create":
                return self._create(body, message)
            case "response.steer":
                return self._steer(body)
            case str() as kind if kind in _IGNORED:
                return None
            case unknown:
                return error_frame(None, f"Unknown event type: {unknown!r:.80}.", param="type")

    def retire(self, on_rest: Callable[[], object]) -> None:
        """Take no further request, and call *on_rest* once all that were taken have ended. Never waits."""
        self._on_rest = on_rest
        if self.resting:
            on_rest()

    def leave(self) -> None:
        """The client is gone. Never waits."""
        self._left = True
        for request in (*self._ready, *(request for behind in self._behind.values() for request in behind)):
            request.account.end(None, left=True)
        self._behind.clear()
        self._ready.clear()
        now = trio.current_time()
        for running in self._running:
            turn = running.turn
            running.left = not running.refused and (turn is None or not turn.ended)
            sent = running.request.account.sent
            running.scope.deadline = now + max(self._limits.drain, _LAST_MOMENT) if sent else now
            if running.left and sent:
                running.request.account.left(partial(setattr, running.scope, "deadline"))

    # -- requests -------------------------------------------------------------------------------

    def _create(self, body: dict[str, Any], message: bytes | bytearray) -> bytes | None:
        del body["type"]
        lane = body.pop("stream_id", None)
        if lane is not None and not is_lane(lane):
            return error_frame(
                None,
                "The 'stream_id' field must be a non-empty string with at most 256 characters and may only "
                "contain letters, numbers, underscores, hyphens, and periods.",
                code="invalid_stream_id",
                param="stream_id",
            )
        if self._on_rest is not None:
            return error_frame(lane, _RETIRING, code="websocket_connection_limit_reached")
        account, limits, size = self._way.begin(body, message), self._limits, len(message)
        if self._waiting >= limits.max_waiting or self._waiting_bytes + size > limits.max_waiting_bytes:
            account.end(TooManyWaitingError("too many requests wait on its socket"), left=False)
            return error_frame(
                lane,
                f"Too many requests wait on this connection ({self._waiting}); wait for some of them to end.",
                status=429,
                code="websocket_queue_full",
                kind="rate_limit_error",
            )
        request = _Request(account, lane, size)
        self._waiting += 1
        self._waiting_bytes += size
        if lane in self._behind:
            self._behind[lane].append(request)
        else:
            self._behind[lane] = deque()
            self._ready.append(request)
            self._start_ready()
        return None

    def _start_ready(self) -> None:
        while self._ready and len(self._running) < self._limits.max_turns:
            request = self._ready.popleft()
            self._waiting -= 1
            self._waiting_bytes -= request.size
            running = _Running(request)
            self._running.add(running)
            self._nursery.start_soon(self._run, running, name="a turn of a WebSocket client")

    async def _run(self, running: _Running) -> None:
        try:
            with running.scope:
                await self._take_turn(running, running.request)
        finally:
            self._running.discard(running)
            self._end(running.request.lane)

    def _end(self, lane: str | None) -> None:
        """A turn on *lane* has ended."""
        if self._left:
            return
        behind = self._behind[lane]
        if behind:
            self._ready.append(behind.popleft())
        else:
            del self._behind[lane]
        self._start_ready()
        if self._on_rest is not None and self.resting:
            self._on_rest()

    async def _take_turn(self, running: _Running, request: _Request) -> None:
        account, lane = request.account, request.lane
        last: Event | None = None
        ended: Exception | None = None
        turn: Course | None = None
        try:
            async with account.turn() as turn:
                running.turn = turn
                while events := await turn.batch():
                    last = events[-1]
                    frames = joined([labelled(event, lane) for event in (*account.notices(), *events)])
                    account.wrote(events, len(frames))
                    await self._say(frames)
                ended = turn.failure
        except Exception as error:
            ended, running.refused = error, True
            if not isinstance(error, (WsPoolError, RequestError, TypeError, ValueError)):
                logger.exception("a turn of a WebSocket client ended in an error")
            response_id = turn.response_id if turn is not None else None
            begun = None if response_id is None else failed(error, response_id, last, lane)
            await self._say(joined([refusal(error, lane) if begun is None else begun]))
        finally:
            account.end(ended, left=running.left)

    # -- further input --------------------------------------------------------------------------

    def _steer(self, body: dict[str, Any]) -> bytes | None:
        target = body.get("previous_response_id")
        if extra := body.keys() - {"type", "previous_response_id", "input"}:
            return steer_failed(body, "invalid_input", f"Unknown parameter: {min(extra)!r:.80}.", None)
        for running in self._running:
            if running.turn is not None and target is not None and running.turn.response_id == target:
                if self._steering >= _MOST_STEERS:
                    message = "Too many steers of this connection have no answer yet."
                    return steer_failed(body, "too_many_pending_steers", message, running.request.lane)
                self._steering += 1
                self._nursery.start_soon(self._perform_steer, running, running.turn, body)
                return None
        message = f"Response with id {target!r:.80} is not in progress on this connection."
        return steer_failed(body, "response_not_found", message, None)

    async def _perform_steer(self, running: _Running, turn: Course, body: dict[str, Any]) -> None:
        """Have the provider's answer come as an event of the turn, or give the input back."""
        try:
            given = body.get("input")
            if not given or not isinstance(given, (str, list)):
                raise ValueError("'input' must be a text or user messages")
            await turn.steer(cast("str | list[Mapping[str, Any]]", given))
        except SteeringRefusedError as error:
            if error.delivery == "not_sent":
                code = error.code or "response_not_active"
                await self._say(joined([steer_failed(body, code, str(error), running.request.lane)]))
        except (TypeError, ValueError) as error:
            await self._say(joined([steer_failed(body, "invalid_input", str(error), running.request.lane)]))
        except WsPoolError:
            pass  # the turn says so, or nobody knows
        finally:
            self._steering -= 1


def is_lane(name: object) -> bool:
    """Return whether *name* is one of a lane. Source: the API reference, `stream_id`."""
    return isinstance(name, str) and _LANE.fullmatch(name) is not None
