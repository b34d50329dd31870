"""Instrument: what an observer of a pool may override, and who tells it, and the log, what happens."""

from __future__ import annotations

import logging
from collections.abc import Callable
from traceback import StackSummary
from typing import ParamSpec

from wspool.core.commands import LeaseId
from wspool.core.events.trust import Rewrite, Trust
from wspool.core.failures import DialFailure
from wspool.core.policy import Provider
from wspool.core.sending.takes import NotTaken
from wspool.core.server_error import ServerError
from wspool.core.statistics import DialRecord, Move, TurnRecord
from wspool.pool.leaks import Borrowers

__all__ = ["Announcer", "Instrument", "watch"]

logger = logging.getLogger("wspool.pool")

_P = ParamSpec("_P")


class Instrument:
    """Watches a pool. Override what you need; every method does nothing by default.

    Methods are called synchronously in the pool's thread and must not block. An exception in
    one is logged and does not affect the pool.
    """

    def dial_ended(self, record: DialRecord) -> None:
        """A dial has ended, however it ended. Twice for one whose key was refused and renewed."""

    def turn_ended(self, record: TurnRecord) -> None:
        """A turn has ended, however it ended."""

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


class Announcer:
    """Tells the log and the instrument of one pool.

    Args:
        instrument: watches the pool.
        provider: says how far its words are evidence.
        leak_after: seconds after which a lease counts as leaking, if that is looked for.

    Attributes:
        trust: how far the endpoint's words are evidence; it learns from what is announced here.
        borrowers: who has which lease, if that is looked for.
    """

    def __init__(self, instrument: Instrument, provider: Provider, leak_after: float | None) -> None:
        self._instrument = instrument
        self.trust = Trust(exact=provider.trust == "exact")
        self._leak_after = leak_after
        self.borrowers = None if leak_after is None else Borrowers()

    def record(self, record: TurnRecord) -> None:
        """A turn has ended."""
        watch(self._instrument.turn_ended, record)

    def moved(self, move: Move) -> None:
        """A conversation goes on on another connection."""
        watch(self._instrument.conversation_moved, move)

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
            watch(self._instrument.endpoint_unchained, error.words)

    def caught(self, rewritten: frozenset[Rewrite]) -> None:
        """A turn was answered in which the endpoint has rewritten that."""
        for habit in self.trust.caught(rewritten):
            logger.warning(
                "the endpoint's words are no evidence from now on: %s; "
                'say so (Provider(..., trust="lenient")), and no connection is lost to learn it',
                habit,
            )
            watch(self._instrument.endpoint_rewrites, habit)

    def degraded(self, failure: DialFailure) -> None:
        """The endpoint is down."""
        logger.warning("the endpoint is down: %s", failure.message)
        watch(self._instrument.pool_degraded, failure.message)

    def recovered(self, lasted: float) -> None:
        """The endpoint is back after *lasted* seconds."""
        logger.warning("the endpoint is back after %.1f s", lasted)
        watch(self._instrument.pool_recovered, lasted)

    def fell_back(self, message: str) -> None:
        """WebSockets are of no use here, as *message* says; HTTP is taken."""
        logger.warning("WebSockets are of no use here (%s); turns go by HTTP from now on", message)
        watch(self._instrument.transport_changed, "http", message)

    def came_back(self) -> None:
        """A turn was completed on a WebSocket again."""
        message = "a WebSocket has completed a turn again"
        logger.warning("%s; turns go by WebSocket from now on", message)
        watch(self._instrument.transport_changed, "websocket", message)

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
        watch(self._instrument.lifetime_learned, seconds)

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
        watch(self._instrument.lease_leaking, lease, stack)
