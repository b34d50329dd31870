"""Link: what the parts of one connection share: its lanes, its end, and the way to tell the pool.

`Connection` lives it, `Router` reads for it, `Sender` writes for it. None of them knows the pool: each
names the input of the core that it has seen, and `report` puts it.

A connection ends in one of two ways. The pool tells it to (`told`), and is told when it is gone. Or it is
lost: whoever sees that first calls `lose`, and from that very step on the core does not know it any more
(`over`), so that nothing is granted, sent or tried on it while it winds up.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import trio
from trio.lowlevel import enable_ki_protection

from wspool.core.commands import CloseReason, Command, ConnectionId, LaneId
from wspool.core.events.naming import lane_name
from wspool.core.events.past import Past
from wspool.core.lending.pool import PoolCore
from wspool.core.policy import PoolPolicy, Provider
from wspool.core.sending.chain import WarmUp
from wspool.core.sending.replay import MESSAGE_TOO_BIG
from wspool.core.statistics import TransportName
from wspool.pool.attempt import Attempt
from wspool.pool.credentials import NO_SECRETS, forget
from wspool.pool.instrument import Announcer
from wspool.wire.gauge import Gauge
from wspool.wire.wire import Wire, WireClosedError

__all__ = ["Host", "Lane", "Link", "Scales"]


class Scales(Protocol):
    """Weighs what all connections and their turns hold together (`wspool.pool.burden`).

    Attributes:
        unlooked: bytes and events that a turn may have before it is looked at.
    """

    unlooked: tuple[int, int]

    def weigh(self) -> None: ...


class Ears(Protocol):
    """Hears what the endpoint says that it takes (`wspool.pool.errands`)."""

    def stated(self, said: object, *, answering: bool = True) -> None: ...


class Host(Protocol):
    """What a part of a pool needs of it: what decides, and how that is performed."""

    core: PoolCore
    policy: PoolPolicy
    provider: Provider
    announcer: Announcer
    burden: Scales

    @property
    def errands(self) -> Ears: ...

    def now(self) -> float: ...
    def jitter(self) -> float: ...
    def step(self, decide: Callable[..., list[Command]], *args: Any, **kwargs: Any) -> None: ...
    def on_proved(self, link: Link) -> None: ...
    def on_lost(self, link: Link) -> None: ...


class Lane:
    """One serial track of a connection.

    Attributes:
        id: its number.
        name: its `stream_id`, where lanes have names.
        attempt: the request in flight on it, if any.
        past: what its connection has carried so far.
        failing: the request for the end of whose failed response somebody waits, if any.
        doubted: the request that may have ended, if somebody waits for a better proof of it.
        settling: id of the ended response for whose answers to steers somebody waits, if any.
        transport: what carries its requests: "websocket" or "http".
        latest: id of the latest response on it that the server still holds, if any.
        warming: the body of the warm-up request in flight on it, if any.
        warm_up: the response to the warm-up request, until another takes its place.
    """

    __slots__ = (
        "attempt",
        "doubted",
        "failing",
        "id",
        "latest",
        "name",
        "past",
        "settling",
        "transport",
        "warm_up",
        "warming",
    )

    def __init__(self, number: LaneId, past: Past) -> None:
        self.id = number
        self.past = past
        self.name = lane_name(number)
        self.transport: TransportName = "websocket"
        self.attempt: Attempt | None = None
        self.failing: Attempt | None = None
        self.doubted: Attempt | None = None
        self.settling: str | None = None
        self.latest: str | None = None
        self.warming: Mapping[str, Any] | None = None
        self.warm_up: WarmUp | None = None

    @property
    def is_unheard(self) -> bool:
        """Whether a request may have left on it that nothing was heard of."""
        return self.warming is not None or (self.attempt is not None and not self.attempt.begun)


class Link:
    """What the parts of one connection share.

    Attributes:
        id: its number.
        lanes: its lanes, by number.
        past: what it has carried so far.
        host: its pool.
        wire: what carries its messages, while it serves.
        gauge: says what that holds of messages that are on their way, if it can.
        nursery: in which its tasks live, once it runs.
        connected: True once its wire was open.
        stateless: True if its server remembers no response for it, and takes nothing but requests.
        unproven: True until a turn was completed on it.
        heard_at: when the last message came, in seconds on the pool's clock.
        redactor: takes the credential out of what the server says, for texts of ours.
        ending: True once the connection shall end: because it was told to, or is lost.
        told: True once it was told to end.
        over: True once its end was reported: the core knows nothing of it any more.
        opened_at: when it was connected, on the pool's clock.
        why: why it ended, once it has.
        close_code: the close code it ended with, if any.
        closed_by_peer: whether the peer has said that code.
        close_reason: what was said beside it, or why it was dropped here.
    """

    __slots__ = (
        "close_code",
        "close_reason",
        "closed_by_peer",
        "connected",
        "ending",
        "gauge",
        "heard_at",
        "host",
        "id",
        "lanes",
        "nursery",
        "opened_at",
        "over",
        "past",
        "redactor",
        "stateless",
        "told",
        "unproven",
        "why",
        "wire",
    )

    def __init__(self, number: ConnectionId, host: Host, lanes: int) -> None:
        self.id = number
        self.past = Past()
        self.lanes = [Lane(LaneId(index), self.past) for index in range(lanes)]
        self.host = host
        self.wire: Wire | None = None
        self.gauge: Gauge | None = None
        self.nursery: trio.Nursery | None = None
        self.connected = self.stateless = False
        self.unproven = True
        self.heard_at = self.opened_at = 0.0
        self.why = CloseReason.LOST
        self.redactor = NO_SECRETS
        self.ending = self.told = self.over = False
        self.close_code: int | None = None
        self.close_reason = ""
        self.closed_by_peer = False

    def report(self, decide: Callable[..., list[Command]], *args: Any, **kwargs: Any) -> None:
        """Put an input of the core about this connection, unless its end was reported. Never waits."""
        if not self.over:
            self.host.step(decide, self.id, *args, **kwargs)

    @enable_ki_protection
    def report_end(self, decide: Callable[..., list[Command]], *args: Any, **kwargs: Any) -> None:
        """Put the last input of the core about this connection. Never waits."""
        if not self.over:
            self.over = True
            self.host.step(decide, self.id, *args, **kwargs)

    @enable_ki_protection
    def lose(self) -> None:
        """Nothing comes and nothing goes any more. Never waits, and does nothing the second time.

        Synchronous on purpose: the end, the report and what it leads to are one step. A connection that
        was told to end is reported when it is gone.
        """
        self.ending = True
        self.wire = None
        self.lose_attempts()
        if not self.told:
            if not self.over:
                self.host.on_lost(self)
            self.report_end(self.host.core.lost, jitter=self.host.jitter())

    def poison(self, reason: CloseReason, *, completed: bool = False) -> None:
        """This connection must not be used again. Nothing to do once its end is known.

        *completed* as for `PoolCore.hang_up`.
        """
        if not self.ending:
            self.report(self.host.core.hang_up, reason, completed=completed)

    def note_close(self, error: WireClosedError) -> None:
        """The wire says how it ended; the first word counts."""
        forget(error, self.redactor)
        if self.close_code is None:
            self.close_code, self.close_reason = error.code, error.reason
            self.closed_by_peer = error.by_peer

    def lose_attempts(self) -> None:
        """Nothing more will come on its lanes."""
        # Which of several messages was too big nobody knows.
        unheard = [lane for lane in self.lanes if lane.is_unheard]
        too_large = self.closed_by_peer and self.close_code == MESSAGE_TOO_BIG and len(unheard) == 1
        for lane in self.lanes:
            lane.latest = lane.warm_up = lane.warming = None
            if lane.attempt is not None:
                attempt, lane.attempt = lane.attempt, None
                attempt.too_large = too_large and lane in unheard
                attempt.lose(self.close_code, self.close_reason)

    def is_shared(self, attempt: Attempt | None) -> bool:
        """Return whether another turn than *attempt* is in flight that somebody waits for."""
        return any(
            lane.attempt is not None and lane.attempt is not attempt and not lane.attempt.given_up
            for lane in self.lanes
        )

    def spawn(self, task: Callable[..., Awaitable[object]], *args: object) -> None:
        """Run a task that ends with this connection, and whose crash is the end of it.

        A connection that is ending takes none: there is nothing that it could do.
        """
        if self.nursery is None:
            raise AssertionError("bug: the connection is not running")
        if not self.ending:
            self.nursery.start_soon(self._watched, task, *args)

    async def _watched(self, task: Callable[..., Awaitable[object]], *args: object) -> None:
        try:
            await task(*args)
        except Exception:
            self.lose()  # at once, not when the nursery has taken everything down
            raise
