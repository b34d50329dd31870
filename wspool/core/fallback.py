"""Fallback: when the WebSocket side of an endpoint is given up for a while, and HTTP taken instead.

Rules of this module:

* HTTP is taken where the endpoint says that it offers no WebSocket, or where its WebSockets have been of no
  use for `OUTAGE_BUDGET` seconds. That is judged by what reached it: an endpoint that no connection can be
  made to is down for HTTP as well, and a refused credential is refused there, too.
* Of use is a WebSocket on which a turn was completed. One that opens and closes again proves nothing.
* It is never for ever: after a while one dial tries a WebSocket again, and more rarely the longer it fails.
* Nothing here is about a request: what may have run is judged where it always is.
"""

from __future__ import annotations

import enum
from typing import Final

from wspool.core.failures import DialFailure, FailureKind

__all__ = ["OUTAGE_BUDGET", "PROBE_FIRST", "PROBE_MOST", "Fallback", "Transport"]

#: Seconds of WebSockets that are of no use before HTTP is tried. A rollout of an endpoint's edge takes less;
#: a user who waits for longer would rather have a slower answer.
OUTAGE_BUDGET: Final = 30.0

#: Seconds until the first look whether WebSockets are back, doubled with each that finds they are not, up to
#: the most. Codex, which never looks, stays on HTTP for the rest of its session.
PROBE_FIRST: Final = 60.0
PROBE_MOST: Final = 900.0

#: The code of a close for a reason of policy. Source: RFC 6455 section 7.4.1.
_POLICY_VIOLATION: Final = 1008


class Transport(enum.Enum):
    """What carries requests."""

    WEBSOCKET = "websocket"
    HTTP = "http"


class Fallback:
    """Which way the connections of one pool go.

    Attributes:
        until: when a WebSocket is tried again, in seconds on the pool's clock; None while none is given up.
    """

    def __init__(self) -> None:
        self.until: float | None = None
        self._pause = PROBE_FIRST
        self._probing = False
        #: Since when no WebSocket was of use, though they were tried, and when that was seen last.
        self._useless_since: float | None = None
        self._useless_at = 0.0

    @property
    def transport(self) -> Transport:
        """Which way connections go, but for the one that looks whether the other is open again."""
        return Transport.WEBSOCKET if self.until is None else Transport.HTTP

    def choose(self, now: float) -> Transport:
        """Return which way the next dial goes."""
        if self.until is None or (now >= self.until and not self._probing):
            self._probing = self.until is not None
            return Transport.WEBSOCKET
        return Transport.HTTP

    def failed(self, failure: DialFailure, now: float) -> bool:
        """A WebSocket could not be opened; return whether the dial shall go on by HTTP."""
        self._probing = False
        if failure.phase != "upgrade" or failure.kind in (FailureKind.LOCAL, FailureKind.CREDENTIAL):
            return self._go_on(now)
        # A bare 400 is how some gateways answer the upgrade itself.
        if failure.kind is FailureKind.NOT_OFFERED or failure.status == 400:
            self._give_up(now)
            return True
        return failure.kind is FailureKind.TRANSIENT and self._was_useless(now)

    def closed(self, code: int | None, now: float) -> None:
        """A WebSocket was opened, and has ended before it was of any use."""
        self._probing = False
        if code == _POLICY_VIOLATION:
            self._give_up(now)
        else:
            self._was_useless(now)

    def dropped(self) -> None:
        """A WebSocket that was dialled was given up here, which says nothing about the endpoint."""
        self._probing = False

    def proved(self) -> None:
        """A turn was completed on a WebSocket."""
        self.until = self._useless_since = None
        self._pause = PROBE_FIRST

    def _was_useless(self, now: float) -> bool:
        if self.until is not None:
            self._give_up(now)
            return True
        if self._useless_since is None or now - self._useless_at > OUTAGE_BUDGET:
            self._useless_since = now
        self._useless_at = now
        if now - self._useless_since < OUTAGE_BUDGET:
            return False
        self._give_up(now)
        return True

    def _go_on(self, now: float) -> bool:
        # It did not come to the WebSocket: nothing is known about that, and soon it is looked at again.
        if self.until is not None:
            self.until = now + PROBE_FIRST
        return False

    def _give_up(self, now: float) -> None:
        self.until = now + self._pause
        self._pause = min(2 * self._pause, PROBE_MOST)
