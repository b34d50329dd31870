"""Outage: failure as a state of the pool, not of each waiter.

After a failed dial there is one prober. It waits with full jitter under a bound that doubles
with each failure; what the server asks for is a floor. So the handshakes attempted during an
outage depend only on its length. On recovery the number of dials at once doubles with each
success. Failures of dials that began before an outage was noticed do not escalate it, or
sixteen dials failing together would count as sixteen failures in a row.

How far the bound grows depends on who wants the dial, and on what it meets. For spare it grows to
30 s, as nobody misses that; whoever comes meanwhile is somebody who waits. For who waits it stays in
proportion to the outage so far:

* Where nobody is there, an attempt costs nobody anything: at most a second apart for two minutes, and
  then a hundred-and-twentieth of the outage. Who waits is served within a second of the endpoint's return.
* Where somebody is there and says no, each costs a handshake: at most a second apart, or half of the outage.
* Where it is about a name, or is final, sooner is of no use: as for spare.

So an hour of outage costs some 700 attempts where nobody is there and somebody waits all the time, and
some 250 where somebody says no, or nobody waits. More who wait make no difference. (Envoy's health checks
know the same two kinds: `interval`, and `no_traffic_interval` for a cluster that nobody uses.)

What this process lacks itself (`FailureKind.LOCAL`) is waited for in the same way, but is no outage: it
begins none, ends none, and says nothing about the endpoint. To ask for it costs nobody anything, and nobody
says when it is there: who waits asks at most a second apart, however long.

A server may also accept connections and be of no use. What counts is not who ends a connection, nor when,
but whether a turn was ever completed on it. Rules for those that end without:

* One on which no turn was begun, and that is younger than `EARLY`, counts as a failed dial at once.
* One that somebody had counts once more than `FORGIVEN` have ended so since a turn was last completed. It
  happens that a turn is lost; that nothing else happens does not.
* Spare that nobody has had says nothing about the endpoint: it is replaced at once the first time, and then
  as slowly as in an outage, until a turn is completed.
* One that is for answers alone, as by HTTP, has been of use with the first, also if that was a refusal: many
  servers end a connection with that.
* Those that end together count once, and so do those that were under way when it was noticed. What was
  under way is known by the order of dials: a clock may show the same for a dial and for what came before.
* From the first that counts until a turn is completed, a handshake proves nothing: the count of failures
  goes on where it was, and dials start as far apart as in an outage, whatever becomes of them.
"""

from __future__ import annotations

import math
from typing import Final

from wspool.core.commands import ConnectionId
from wspool.core.failures import DialFailure, FailureKind

__all__ = [
    "BACKOFF_BASE",
    "BACKOFF_CAP",
    "CUT_SHORT",
    "EARLY",
    "FORGIVEN",
    "REFUSED_LATE",
    "WAITED_FOR_CAP",
    "WAITED_FOR_SHARE",
    "Outage",
]

#: First upper bound of the wait after a failed dial, in seconds; doubled by each further failure.
BACKOFF_BASE: Final = 0.5
#: Largest upper bound of that wait, in seconds.
BACKOFF_CAP: Final = 30.0
#: Largest upper bound while somebody waits: so many seconds, or a share of the outage so far, by the phase
#: in which the attempt failed. Where nobody is there the two meet after two minutes, when those who wait
#: are told by default (`give_up_after`), and the cap above after an hour.
WAITED_FOR_CAP: Final = 1.0
WAITED_FOR_SHARE: Final = {"tcp": 1 / 120, "tls": 1 / 2, "proxy": 1 / 2, "upgrade": 1 / 2}

#: A connection that ends sooner than this after its handshake, in seconds, and was not used,
#: counts as a failed dial. Policy rejections after the upgrade come at once.
EARLY: Final = 5.0
#: The failure that it counts as.
REFUSED_LATE: Final = DialFailure(
    kind=FailureKind.TRANSIENT,
    message="the server accepted the connection and closed it at once",
    phase="upgrade",
)
#: How many connections may end one after another without a completed turn, though somebody had them.
FORGIVEN: Final = 2
#: The failure that each further one counts as.
CUT_SHORT: Final = DialFailure(
    kind=FailureKind.TRANSIENT,
    message="the server accepts connections, and they end before a turn is completed on them",
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
        probe_at: when the prober may dial for somebody who waits.
        spare_at: when it may for nobody.
        dial_limit: dials at once now.
        degraded: True from the begin of an outage of the endpoint until its end.
        doubtful: True until a turn was completed after anything that speaks against the endpoint.
    """

    __slots__ = (
        "_before",
        "_began",
        "_bound",
        "_counted",
        "_dial_concurrency",
        "_failures",
        "_give_up_after",
        "_last_dial",
        "_spare_bound",
        "_spare_counted",
        "_strikes",
        "_useless",
        "_withered",
        "degraded",
        "dial_limit",
        "doubtful",
        "episode",
        "failure",
        "probe_at",
        "since",
        "spare_at",
    )

    def __init__(self, give_up_after: float, dial_concurrency: int) -> None:
        self._give_up_after = give_up_after
        self._dial_concurrency = dial_concurrency
        self._failures = 0
        self._before = 0
        #: When the first failure was after which no turn was completed yet.
        self._began = math.inf
        #: The last bounds of a wait, for somebody and for nobody.
        self._bound = self._spare_bound = 0.0
        #: The server accepts connections that are of no use, as far as is known.
        self._useless = False
        #: Connections that ended without a completed turn: those that somebody had, and those that nobody
        #: had; the latest dial, and what that was when the last of each was counted.
        self._strikes = self._withered = 0
        self._last_dial = self._counted = self._spare_counted = ConnectionId(0)
        self.degraded = False
        self.doubtful = False
        self.episode = 0
        self.failure: DialFailure | None = None
        self.since = math.inf
        self.probe_at = self.spare_at = -math.inf
        self.dial_limit = dial_concurrency

    @property
    def down(self) -> bool:
        """True while the last dial that counts failed, or led to what is of no use as far as is known."""
        return self._failures > 0 or self._useless

    @property
    def give_up_at(self) -> float:
        """When waiting is no longer worth it."""
        return self.since + self._give_up_after

    # -- what happens to dials and connections ------------------------------------------------

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
            self._began = min(self._began, now)
            self._wait(now, failure, jitter)
            self._failures += 1
            self.dial_limit = 1
            if not local:
                self.degraded = self.doubtful = True
            # What is refused for good is over with the first that is not, whatever was the matter before.
            self._useless = self._useless and not failure.permanent
        if self._failures:
            self.failure = failure
        return began

    def _wait(self, now: float, failure: DialFailure, jitter: float) -> None:
        """Set when to try next, after as many failures as there were before this one."""
        share = WAITED_FOR_SHARE.get(failure.phase) if failure.kind is FailureKind.TRANSIENT else None
        if failure.kind is FailureKind.LOCAL:
            share = 0.0
        self._set_bounds(self._failures, now, share)
        # Full jitter as gRPC does it; the floor is RFC 9110 section 10.2.3.
        floor = failure.hold
        # Where the bound does not grow any more, full jitter would try too often: half of it is kept.
        waited_for = jitter if self._bound == self._spare_bound else (1 + jitter) / 2
        self.probe_at = now + max(waited_for * self._bound, floor)
        self.spare_at = now + max(jitter * self._spare_bound, floor)

    def _set_bounds(self, failures: int, now: float, share: float | None) -> None:
        """Set the bounds of the wait that follows as many failures; *share* as in `WAITED_FOR_SHARE`."""
        self._bound = self._spare_bound = min(BACKOFF_CAP, BACKOFF_BASE * 2.0 ** min(failures, 60))
        if share is not None:
            self._bound = min(self._bound, max(WAITED_FOR_CAP, share * (now - self._began)))

    def relapsed(self, episode: int, now: float, failure: DialFailure, jitter: float) -> bool:
        """A connection that was dialled in *episode* was of no use. Return what `failed` returns.

        Its handshake proved nothing, so the count of failures goes on where it was.
        """
        counts = episode == self.episode
        if counts and not self._failures:
            self._failures = self._before
        began = self.failed(episode, now, failure, jitter)
        self._useless = self._useless or counts
        return began

    def cut_short(self, dial: ConnectionId, episode: int, now: float, jitter: float) -> bool:
        """A connection that somebody had has ended without a completed turn. Return what `failed` returns.

        Args:
            dial: its dial.
            episode: that of its dial.
        """
        if dial <= self._counted:
            return False
        self._counted = self._last_dial
        self._strikes += 1
        self.doubtful = True
        return self._strikes > FORGIVEN and self.relapsed(episode, now, CUT_SHORT, jitter)

    def withered(self, dial: ConnectionId, now: float, jitter: float) -> bool:
        """A connection that nobody had has ended, or is to end: no outage begins with it. See `cut_short`."""
        if dial <= self._spare_counted:
            return False
        self._spare_counted = self._last_dial
        self._withered += 1
        self.doubtful = True
        if self._withered > 1:  # the first is replaced at once
            bound = min(BACKOFF_CAP, BACKOFF_BASE * 2.0 ** min(self._withered - 2, 60))
            self._spare_bound = max(self._spare_bound, bound)
            self.spare_at = max(self.spare_at, now + jitter * bound)
        return False

    def recovered(self, episode: int, now: float) -> float | None:
        """A dial of *episode* succeeded; return how long the outage was that ended with it, if one did."""
        if self._useless and episode != self.episode:
            return None  # as much as the one before it, which was of no use
        lasted = now - self.since if self.degraded else None
        if self.degraded:
            self._before = self._failures
        self._up()
        self.dial_limit = min(self.dial_limit * 2, self._dial_concurrency)
        self._postpone(now)
        return lasted

    def answered(self, episode: int, now: float) -> float | None:
        """A turn was completed on a connection of *episode*. Return what `recovered` returns."""
        self._withered = 0
        if episode != self.episode:
            return None  # of connections that were there before nobody said anything
        lasted = now - self.since if self.degraded else None
        self._before = 0
        self._strikes = max(0, min(self._strikes, FORGIVEN) - 1)
        self.doubtful = self._strikes > 0
        self._useless = False
        self._up()
        return lasted

    def _up(self) -> None:
        self._failures = 0
        self.degraded = False
        self.failure = None
        self.since = math.inf
        if not self._useless:
            self._began = math.inf

    # -- when to dial -------------------------------------------------------------------------

    def dial_at(self, *, waited_for: bool) -> float:
        """Return from when on a dial may start, for somebody or for nobody; -infinity for at once."""
        if self._failures or self._useless:
            return self.probe_at if waited_for else self.spare_at
        return self.spare_at if self._withered > 1 and not waited_for else -math.inf

    def dialled(self, dial: ConnectionId, now: float) -> None:
        """A dial starts, the latest so far."""
        self._last_dial = dial
        if self._failures:
            return  # what becomes of it says when to try next
        if self._useless:  # it is of no use as far as is known, and that may show late
            self._before += 1
            self._set_bounds(self._before, now, WAITED_FOR_SHARE["upgrade"])
        self._postpone(now)

    def _postpone(self, now: float) -> None:
        """The next dial may not follow sooner than if this one had failed."""
        if self._useless:
            self.probe_at = max(self.probe_at, now + self._bound)
        if self._useless or self._withered > 1:
            self.spare_at = max(self.spare_at, now + self._spare_bound)

    def retry_now(self, now: float) -> None:
        """Forget the wait, and the doubt: the caller knows that the endpoint is back, and of use.

        What had failed before is not forgotten: if it is not so, the wait goes on where it was.
        """
        self._useless = False
        self._withered = 0
        self._probe(now)

    def _probe(self, now: float) -> None:
        self.probe_at = min(self.probe_at, now)
        self.spare_at = min(self.spare_at, now)

    def eased(self, now: float) -> None:
        """A connection is gone, and what it took of this process can be had again."""
        if self.failure is not None and self.failure.kind is FailureKind.LOCAL:
            self._probe(now)

    def is_hopeless(self, now: float) -> bool:
        """Return whether waiting cannot help, or was tried long enough; until the next probe."""
        if self.failure is None or now >= self.probe_at:
            return False
        return self.failure.permanent or now >= self.give_up_at
