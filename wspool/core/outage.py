"""Outage: failure as a state of the pool, not of each waiter.

After a failed dial there is one prober. It waits with full jitter under a bound that doubles
with each failure; what the server asks for is a floor. So the handshakes attempted during an
outage depend only on its length. On recovery the number of dials at once doubles with each
success. Failures of dials that began before an outage was noticed do not escalate it, or
sixteen dials failing together would count as sixteen failures in a row.

What this process lacks itself (`FailureKind.LOCAL`) is waited for in the same way, but is no outage: it
begins none, ends none, and says nothing about the endpoint.

A server may also accept each connection and close it at once. Then a handshake proves little: one that was
under way ends no such outage, and the count of failures goes on where it was until something was answered.
"""

from __future__ import annotations

import math
from typing import Final

from wspool.core.failures import DialFailure, FailureKind

__all__ = ["BACKOFF_BASE", "BACKOFF_CAP", "EARLY", "REFUSED_LATE", "Outage"]

#: First upper bound of the wait after a failed dial, in seconds; doubled by each further failure.
BACKOFF_BASE: Final = 0.5
#: Largest upper bound of that wait, in seconds.
BACKOFF_CAP: Final = 30.0

#: A connection that is lost sooner than this after its handshake, in seconds, and was not used,
#: counts as a failed dial. Policy rejections after the upgrade come at once.
EARLY: Final = 5.0
#: The failure that it counts as.
REFUSED_LATE: Final = DialFailure(
    kind=FailureKind.TRANSIENT,
    message="the server accepted the connection and closed it at once",
    phase="upgrade",
)


class Outage:
    """Whether the endpoint is down, since when, and when to try next.

    Args:
        give_up_after: seconds of outage after which waiting is no longer worth it.
        dial_concurrency: dials at once while the endpoint is up.

    Attributes:
        episode: counts up with each failure that counts; a dial remembers its own.
        failure: the last failure while down, else None.
        since: when it went down, or infinity.
        probe_at: when the prober may dial.
        dial_limit: dials at once now.
        degraded: True from the begin of an outage of the endpoint until its end.
        doubtful: True until something was answered after a failure.
    """

    __slots__ = (
        "_accepting",
        "_before",
        "_dial_concurrency",
        "_failures",
        "_give_up_after",
        "degraded",
        "dial_limit",
        "doubtful",
        "episode",
        "failure",
        "probe_at",
        "since",
    )

    def __init__(self, give_up_after: float, dial_concurrency: int) -> None:
        self._give_up_after = give_up_after
        self._dial_concurrency = dial_concurrency
        self._failures = 0
        self._before = 0
        #: The failure was that of a server that accepts and hangs up.
        self._accepting = False
        self.degraded = False
        self.doubtful = False
        self.episode = 0
        self.failure: DialFailure | None = None
        self.since = math.inf
        self.probe_at = -math.inf
        self.dial_limit = dial_concurrency

    @property
    def down(self) -> bool:
        """True while the last dial that counts failed."""
        return self._failures > 0

    @property
    def give_up_at(self) -> float:
        """When waiting is no longer worth it."""
        return self.since + self._give_up_after

    def failed(self, episode: int, now: float, failure: DialFailure, jitter: float) -> bool:
        """A dial of *episode* failed; return whether an outage has begun with it."""
        counts = episode == self.episode
        local = failure.kind is FailureKind.LOCAL
        began = counts and not local and not self.degraded
        if counts:
            self.episode += 1
            if began and self.failure is not None:
                self._failures = 0  # what there was before was no failure of the endpoint
            if began or not self._failures:
                self.since = now
            # Full jitter as gRPC does it; the floor is RFC 9110 section 10.2.3.
            bound = min(BACKOFF_CAP, BACKOFF_BASE * 2.0 ** min(self._failures, 60))
            self._failures += 1
            self.probe_at = now + max(jitter * bound, failure.hold)
            self.dial_limit = 1
            if not local:
                self.degraded = self.doubtful = True
                self._accepting = False
        if self._failures:
            self.failure = failure
        return began

    def relapsed(self, episode: int, now: float, failure: DialFailure, jitter: float) -> bool:
        """A connection that was dialled in *episode* died as soon as it was there.

        Its handshake proved nothing, so the count of failures goes on where it was.
        """
        counts = episode == self.episode
        if counts and not self._failures:
            self._failures = self._before
        began = self.failed(episode, now, failure, jitter)
        self._accepting = self._accepting or counts
        return began

    def recovered(self, episode: int, now: float) -> float | None:
        """A dial of *episode* succeeded; return how long the outage was that ended with it, if one did."""
        if self._accepting and episode != self.episode:
            return None  # as much as the one before it, which was closed at once
        lasted = now - self.since if self.degraded else None
        if self.degraded:
            self._before = self._failures
        self._up()
        self.dial_limit = min(self.dial_limit * 2, self._dial_concurrency)
        return lasted

    def answered(self, episode: int, now: float) -> float | None:
        """The end of a turn has come over a connection of *episode*. Return what `recovered` returns."""
        if episode != self.episode:
            return None  # of connections that were there before nobody said anything
        lasted = now - self.since if self.degraded else None
        self._before = 0
        self.doubtful = False
        self._up()
        return lasted

    def _up(self) -> None:
        self._failures = 0
        self._accepting = self.degraded = False
        self.failure = None
        self.since = math.inf

    def retry_now(self, now: float) -> None:
        """Forget the wait: the caller knows that the endpoint is back."""
        self.probe_at = min(self.probe_at, now)

    def eased(self, now: float) -> None:
        """A connection is gone, and what it took of this process can be had again."""
        if self.failure is not None and self.failure.kind is FailureKind.LOCAL:
            self.retry_now(now)

    def may_dial(self, now: float) -> bool:
        """Return whether a dial may start now."""
        return not self._failures or now >= self.probe_at

    def is_hopeless(self, now: float) -> bool:
        """Return whether waiting cannot help, or was tried long enough; until the next probe."""
        if self.failure is None or now >= self.probe_at:
            return False
        return self.failure.permanent or now >= self.give_up_at
