"""Instrument: what an observer of a pool may override, and who tells it, and the log, what happens.

Nobody is asked who does not listen: a record is made only where somebody overrides its method, or the log
is at DEBUG.
"""

from __future__ import annotations

import inspect
import itertools
import logging
import math
from collections.abc import Callable, Sequence
from traceback import StackSummary
from typing import Any, Final, ParamSpec

import trio

from wspool.core.begun import LeaseRecord, ToolBegun, TurnBegun
from wspool.core.commands import CloseReason, Grant, LeaseId, WaiterId
from wspool.core.events.trust import Rewrite, Trust
from wspool.core.failures import DialFailure
from wspool.core.given import check_callable, check_number
from wspool.core.policy import Provider
from wspool.core.sending.takes import NotTaken
from wspool.core.server_error import ServerError
from wspool.core.statistics import (
    CloseRecord,
    DialRecord,
    GrantRecord,
    Move,
    PoolRecord,
    ToolRecord,
    TurnRecord,
)
from wspool.pool.leaks import Borrowers
from wspool.pool.lines import Line, line_of

__all__ = ["Announcer", "Instrument", "LoggingInstrument", "watch"]

logger = logging.getLogger("wspool.pool")

#: Numbers of the pools of this process.
_numbers: Final = itertools.count(1)

_P = ParamSpec("_P")


class Instrument:
    """Watches a pool. Override what you need; every method does nothing by default.

    Methods are called synchronously in the pool's thread and must not block. An exception in
    one is logged and does not affect the pool. One may watch several pools: their records say which it is.

    Attributes:
        wants_content: True for one that looks at `TurnRecord.content`: else nobody keeps what was said.
    """

    wants_content: bool = False

    def pool_opened(self, record: PoolRecord) -> None:
        """A pool has opened, and has not dialled yet."""

    def dial_ended(self, record: DialRecord) -> None:
        """A dial has ended, however it ended. Twice for one whose key was refused and renewed."""

    def connection_closed(self, record: CloseRecord) -> None:
        """A connection that was open is closed, for whatever reason."""

    def lease_granted(self, record: GrantRecord) -> None:
        """A waiter was granted a lease, at once or after a while in line."""

    def lease_ended(self, record: LeaseRecord) -> None:
        """A lease has ended: it was given back, or its lane went to somebody else."""

    def turn_begun(self, record: TurnBegun) -> None:
        """A turn was entered, and waits for nothing yet. What is set in its context holds in `on_event`."""

    def turn_ended(self, record: TurnRecord) -> None:
        """A turn has ended, however it ended. Once for each that was entered, also if it got no lease."""

    def tool_begun(self, record: ToolBegun) -> None:
        """`Conversation.run` is about to call a tool. What is set in its context holds in the tool."""

    def tool_ended(self, record: ToolRecord) -> None:
        """A call of a tool has ended, which `Conversation.run` made."""

    def conversation_moved(self, move: Move) -> None:
        """A conversation goes on on another connection: its next turn is sent in full."""

    def endpoint_unchained(self, message: str) -> None:
        """The endpoint takes no `previous_response_id`; *message* says what it said. Once per pool.

        From here on every turn of a conversation is sent in full, which costs bytes and cached tokens.
        """

    def endpoint_rewrites(self, message: str) -> None:
        """The endpoint was caught twice rewriting what its events say about themselves; *message* says what.

        From here on that proves nothing (`Provider.trust`). Until then each such turn has cost a connection.
        Once per pool for each that it rewrites: the ids of responses, the numbers of events.
        """

    def lease_leaking(self, lease: int, borrowed: StackSummary) -> None:
        """A lease is held for longer than `policy.leak_after`. Once per lease; the log says it too.

        Args:
            lease: its number (`Lease.id`).
            borrowed: the lines of the task that took it, at that time. No variables are kept.
        """

    def pool_degraded(self, message: str) -> None:
        """The endpoint is down; *message* says what failed. Once per outage."""

    def pool_recovered(self, lasted: float) -> None:
        """The endpoint is back after *lasted* seconds. Once per outage."""

    def transport_changed(self, transport: str, message: str) -> None:
        """New connections go by *transport* from now on, "http" or "websocket" again; *message* says why."""

    def lifetime_learned(self, seconds: float | None) -> None:
        """Connections live for *seconds* here, less than was said, or None: what was learnt is wrong."""


def watch(tell: Callable[_P, None], *args: _P.args, **kwargs: _P.kwargs) -> None:
    """Tell an observer something; its failures are its own."""
    try:
        tell(*args, **kwargs)
    except Exception:
        logger.exception("the pool's instrument failed; the pool is not affected")


class LoggingInstrument(Instrument):
    """Writes one line for each dial, closed connection, turn, move and call of a tool.

    For who wants them without setting `wspool.pool` to DEBUG, which has the same lines. What concerns the
    whole pool (outages, what was learnt) is logged there anyway, as warnings.

    Args:
        logger: where they go.
        level: their level.
        slow: seconds; if given, turns, dials and calls of tools that went well and took less are left out.

    Raises:
        TypeError, ValueError: an argument is of another kind, or below zero.
    """

    def __init__(
        self,
        logger: logging.Logger | logging.LoggerAdapter[Any] | None = None,
        level: int = logging.INFO,
        *,
        slow: float | None = None,
    ) -> None:
        if logger is not None:
            check_callable("logger", logger, "isEnabledFor", "log")
        check_number("level", level, 0, whole=True)
        if slow is not None:
            check_number("slow", slow, 0)
        self._logger = logger if logger is not None else logging.getLogger("wspool.events")
        self._level = level
        self._slow = slow

    def dial_ended(self, record: DialRecord) -> None:
        """Write a line, as all of these do."""
        self._write(record, record.duration, well=record.failure is None)

    def connection_closed(self, record: CloseRecord) -> None:
        """Write a line."""
        self._write(record, math.inf, well=True)

    def turn_ended(self, record: TurnRecord) -> None:
        """Write a line."""
        well = record.status in ("completed", "incomplete")
        self._write(record, record.waited + record.duration, well=well)

    def conversation_moved(self, move: Move) -> None:
        """Write a line."""
        self._write(move, math.inf, well=True)

    def tool_ended(self, record: ToolRecord) -> None:
        """Write a line."""
        self._write(record, record.duration, well=record.error is None)

    def _write(self, record: Line, seconds: float, *, well: bool) -> None:
        told = self._slow is None or seconds >= self._slow or not well
        if told and self._logger.isEnabledFor(self._level):
            self._logger.log(self._level, "%s", line_of(record))


#: What an instrument may override.
_HOOKS: Final = tuple(
    name for name, _ in inspect.getmembers(Instrument, inspect.isfunction) if name[0] != "_"
)


class Announcer:
    """Tells the log and the instruments of one pool.

    Args:
        instruments: watch the pool.
        provider: says how far its words are evidence.
        leak_after: seconds after which a lease counts as leaking, if that is looked for.

    Attributes:
        pool: number of the pool in this process.
        trust: how far the endpoint's words are evidence; it learns from what is announced here.
        borrowers: who has which lease, if that is looked for.
        sees_turns_begin: whether somebody wants to know when a turn is entered.
        sees_tools_begin: whether somebody wants to know when a call of a tool is about to be made.
        wants_content: whether somebody wants to know what was said.
    """

    def __init__(
        self, instruments: Sequence[Instrument], provider: Provider, leak_after: float | None
    ) -> None:
        self.pool = next(_numbers)
        self._listeners = {name: _listeners(instruments, name) for name in _HOOKS}
        self.sees_turns_begin = bool(self._listeners["turn_begun"])
        self.sees_tools_begin = bool(self._listeners["tool_begun"])
        self._sees_turns = self.sees_turns_begin or bool(self._listeners["turn_ended"])
        self._sees_tools = self.sees_tools_begin or bool(self._listeners["tool_ended"])
        self._sees_ends = bool(self._listeners["lease_ended"])
        self._sees_grants = self._sees_ends or bool(self._listeners["lease_granted"])
        self.wants_content = any(each.wants_content for each in instruments)
        #: The leases that there are, if somebody wants to know of their ends.
        self._lent: dict[LeaseId, GrantRecord] = {}
        #: When who is in line came.
        self._came: dict[WaiterId, float] = {}
        self.trust = Trust(exact=provider.trust == "exact")
        self._leak_after = leak_after
        self.borrowers = None if leak_after is None else Borrowers()

    def _tell(self, hook: str, *args: object) -> None:
        for listener in self._listeners[hook]:
            watch(listener, *args)

    def _record(self, hook: str, record: Line) -> None:
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("%s", line_of(record))
        self._tell(hook, record)

    @property
    def sees_turns(self) -> bool:
        """Whether somebody wants to know of every turn."""
        return self._sees_turns or logger.isEnabledFor(logging.DEBUG)

    @property
    def sees_tools(self) -> bool:
        """Whether somebody wants to know of every call of a tool."""
        return self._sees_tools or logger.isEnabledFor(logging.DEBUG)

    def opened(self, record: PoolRecord) -> None:
        """The pool is there."""
        self._tell("pool_opened", record)

    def dialed(self, record: DialRecord) -> None:
        """A dial has ended."""
        self._record("dial_ended", record)

    def closed(self, connection: int, reason: CloseReason, age: float, code: int | None) -> None:
        """A connection that was open is gone, after *age* seconds."""
        record = CloseRecord(
            pool=self.pool,
            connection=connection,
            reason=reason,
            age=age,
            closed=trio.current_time(),
            close_code=code,
        )
        self._record("connection_closed", record)

    def came(self, waiter: WaiterId) -> None:
        """*waiter* is in line from now on."""
        if self._sees_grants:
            self._came[waiter] = trio.current_time()

    def left(self, waiter: WaiterId) -> None:
        """*waiter* is in line no more."""
        self._came.pop(waiter, None)

    def granted(self, grant: Grant) -> None:
        """A lease was granted."""
        if not self._sees_grants:
            return
        now = trio.current_time()
        came = self._came.pop(grant.waiter, now)
        record = GrantRecord(
            pool=self.pool,
            lease=grant.lease,
            connection=grant.connection,
            lane=grant.lane,
            waited=now - came,
            granted=now,
        )
        if self._sees_ends:
            self._lent[grant.lease] = record
        self._tell("lease_granted", record)

    def returned(self, lease: LeaseId) -> None:
        """*lease* has ended."""
        if self.borrowers is not None:
            self.borrowers.forget(lease)
        if (grant := self._lent.pop(lease, None)) is not None:
            now = trio.current_time()
            record = LeaseRecord(
                pool=self.pool,
                lease=grant.lease,
                connection=grant.connection,
                lane=grant.lane,
                held=now - grant.granted,
                ended=now,
            )
            self._tell("lease_ended", record)

    def turning(self, record: TurnBegun) -> None:
        """A turn was entered."""
        self._tell("turn_begun", record)

    def calling(self, record: ToolBegun) -> None:
        """A call of a tool is about to be made."""
        self._tell("tool_begun", record)

    def turned(self, record: TurnRecord) -> None:
        """A turn has ended."""
        self._record("turn_ended", record)

    def called(self, record: ToolRecord) -> None:
        """A call of a tool has ended."""
        self._record("tool_ended", record)

    def moved(self, move: Move) -> None:
        """A conversation goes on on another connection."""
        self._record("conversation_moved", move)

    def not_taken(self, what: NotTaken, error: ServerError) -> None:
        """The endpoint does not take that: *error*, which can be shown, refused it."""
        if what == "parents":
            words = "the endpoint takes no previous_response_id (%s): every turn is sent in full from here on"
        else:
            words = (
                "this model is asked for no encrypted reasoning any more (%s): "
                "what it has thought is lost with its connection"
            )
        logger.warning(words, error.words)
        if what == "parents":
            self._tell("endpoint_unchained", error.words)

    def caught(self, rewritten: frozenset[Rewrite]) -> None:
        """A turn was answered in which the endpoint has rewritten that."""
        for habit in self.trust.caught(rewritten):
            logger.warning(
                "the endpoint's words are no evidence from now on: %s; "
                'say so (Provider(..., trust="lenient")), and no connection is lost to learn it',
                habit,
            )
            self._tell("endpoint_rewrites", habit)

    def degraded(self, failure: DialFailure) -> None:
        """The endpoint is down."""
        logger.warning("the endpoint is down: %s", failure.message)
        self._tell("pool_degraded", failure.message)

    def recovered(self, lasted: float) -> None:
        """The endpoint is back after *lasted* seconds."""
        logger.warning("the endpoint is back after %.1f s", lasted)
        self._tell("pool_recovered", lasted)

    def fell_back(self, message: str) -> None:
        """WebSockets are of no use here, as *message* says; HTTP is taken."""
        logger.warning("WebSockets are of no use here (%s); turns go by HTTP from now on", message)
        self._tell("transport_changed", "http", message)

    def came_back(self) -> None:
        """A turn was completed on a WebSocket again."""
        message = "a WebSocket has completed a turn again"
        logger.warning("%s; turns go by WebSocket from now on", message)
        self._tell("transport_changed", "websocket", message)

    def lifetime_learned(self, seconds: float | None, given: float) -> None:
        """Connections live for *seconds*, and not for as long as was *given*; or None: they do not."""
        if seconds is None:
            logger.warning("connections live longer than was learnt; %g s are planned with again", given)
        else:
            logger.warning(
                "the endpoint ends connections after %.0f s, not %g s: that is planned with from now on; "
                "say so (max_lifetime of Provider or PoolPolicy), and no turn is lost to learn it",
                seconds,
                given,
            )
        self._tell("lifetime_learned", seconds)

    def leaking(self, lease: LeaseId) -> None:
        """*lease* is held for too long."""
        if self.borrowers is None:
            raise AssertionError("bug: a leak was reported that nobody asked for")
        stack = self.borrowers.stack(lease)
        logger.warning(
            "lease %s is held for longer than leak_after=%g s; it was borrowed here:\n%s",
            lease,
            self._leak_after,
            "".join(stack.format()),
        )
        self._tell("lease_leaking", lease, stack)


def _listeners(instruments: Sequence[Instrument], hook: str) -> Sequence[Callable[..., None]]:
    """Return the methods called *hook* of those that override it."""
    found: list[Callable[..., None]] = [getattr(instrument, hook) for instrument in instruments]
    nothing: object = getattr(Instrument, hook)
    return tuple(method for method in found if getattr(method, "__func__", method) is not nothing)
