"""Road: which way the connections of a pool go, performed; `wspool.core.fallback` decides.

Where no way but one is open all of this is asked nothing that matters.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from wspool.core.failures import DialFailure
from wspool.core.fallback import PROBE_FIRST, Fallback, Transport
from wspool.pool.instrument import Announcer
from wspool.pool.link import Link

__all__ = ["Road"]


class Road:
    """Which way the connections of one pool go.

    Args:
        announcer: tells of a change.
        now: returns the pool's time, in seconds.
    """

    def __init__(self, announcer: Announcer, now: Callable[[], float]) -> None:
        self._announcer = announcer
        self._now = now
        self._fallback = Fallback()

    @property
    def transport(self) -> Transport:
        """Which way new connections go."""
        return self._fallback.transport

    def takes_websocket(self) -> bool:
        """Return whether the dial that begins now shall be that of a WebSocket."""
        return self._fallback.choose(self._now()) is Transport.WEBSOCKET

    def websocket_failed(self, failure: DialFailure) -> bool:
        """It could not be opened; return whether the dial shall go on by HTTP."""
        was = self.transport
        by_http = self._fallback.failed(failure, self._now())
        self._tell(was, failure.message)
        return by_http

    def websocket_dropped(self) -> None:
        """Its dial was given up here."""
        self._fallback.dropped()

    def websocket_proved(self) -> None:
        """A turn was completed on one, the first there."""
        was = self.transport
        self._fallback.proved()
        if was is Transport.HTTP:
            self._announcer.came_back()

    def gone(self, link: Link) -> None:
        """A connection is gone; one that the other side has ended, and that was of no use, says something."""
        if link.stateless or not link.unproven or not link.connected:
            return
        if link.told and link.close_code is None and not link.close_reason:
            self._fallback.dropped()
            return
        was = self.transport
        self._fallback.closed(link.close_code, self._now())
        self._tell(was, link.close_reason or f"a connection was closed with code {link.close_code}")

    async def leave_in_time(self, link: Link) -> None:
        """Retire *link*, which goes by HTTP, when it is time to see whether a WebSocket can be had."""
        deadline = self._now() + PROBE_FIRST
        while True:
            # The pool's clock is not trio's where a machine was suspended; being late then does no harm.
            await trio.sleep(max(0.0, deadline - self._now()))
            until = self._fallback.until
            if until is None or until <= self._now():
                link.report(link.host.core.retire, announced=False)
                return
            deadline = until

    def _tell(self, was: Transport, message: str) -> None:
        if self.transport is not was:
            self._announcer.fell_back(message)
