"""Outage: failure as a state of the pool, not of each waiter.

After a failed dial there is one prober. It waits with full jitter under a bound that doubles
with each failure; what the server asks for is a floor. So the handshakes attempted during an
outage depend only on its length. On recovery the number of dials at once doubles with each
success. Failures of dials that began before an outage was noticed do not escalate it, or
sixteen dials failing together would count as sixteen failures in a row.
"""

from __future__ import annotations

import math
from typing import Final

from wspool.core.failures import DialFailure

__all__ = ["BACKOFF_BASE", "BACKOFF_CAP", "Outage"]

#: First upper bound of the wait after a failed dial, in seconds; doubled by each further failure.
BACKOFF_BASE: Final = 0.5
#: Largest upper bound of that wait, in seconds.
BACKOFF_CAP: Final = 30.0


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
    """

    __slots__ = (
        "_before",
        "_dial_concurrency",
        "_failures",
        "_give_up_after",
        "dial_limit",
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
        began = not self._failures and episode == self.episode
        if episode == self.episode:
            self.episode += 1
            if began:
                self.since = now
            # Full jitter as gRPC does it; the floor is RFC 9110 section 10.2.3.
            bound = min(BACKOFF_CAP, BACKOFF_BASE * 2.0 ** min(self._failures, 60))
            self._failures += 1
            self.probe_at = now + max(jitter * bound, failure.retry_after or 0.0)
            self.dial_limit = 1
        if self._failures:
            self.failure = failure
        return began

    def relapsed(self, episode: int, now: float, failure: DialFailure, jitter: float) -> bool:
        """A connection that was dialled in *episode* died as soon as it was there.

        Its handshake proved nothing, so the count of failures goes on where it was.
        """
        if episode == self.episode and not self._failures and self._before:
            self._failures = self._before
            self.since = now
            self.failed(episode, now, failure, jitter)
            return True
        return self.failed(episode, now, failure, jitter)

    def recovered(self, now: float) -> float | None:
        """A dial succeeded; return how long the outage was that ended with it, if one did."""
        lasted = now - self.since if self._failures else None
        self._before, self._failures = self._failures, 0
        self.failure = None
        self.since = math.inf
        self.dial_limit = min(self.dial_limit * 2, self._dial_concurrency)
        return lasted

    def retry_now(self, now: float) -> None:
        """Forget the wait: the caller knows that the endpoint is back."""
        self.probe_at = min(self.probe_at, now)

    def may_dial(self, now: float) -> bool:
        """Return whether a dial may start now."""
        return not self._failures or now >= self.probe_at

    def is_hopeless(self, now: float) -> bool:
        """Return whether waiting cannot help, or was tried long enough; until the next probe."""
        if self.failure is None or now >= self.probe_at:
            return False
        return self.failure.permanent or now >= self.give_up_at
