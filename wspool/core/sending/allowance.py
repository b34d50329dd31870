"""Allowance: what the endpoint says it still takes, so that a known limit is kept before a refusal comes.

Endpoints say it in the headers of their answers (`x-ratelimit-limit-requests`, `-remaining-`, `-reset-`, the
same for tokens), on a WebSocket in the events that carry such headers, and Codex in one of its own. It is a
word, not a fact: gateways forget to count, units are mistaken, a proxy repeats an old answer. So:

* When no more is said to be left than the next turn takes, that waits until the time that was said. Nothing
  comes back before it: where it does little by little the same number of turns is sent, some at a time.
* Those that are on their way are taken off what is said to be left; it may not have counted them.
* No word holds anybody for longer than `LONGEST_HOLD`. Then one turn tries.
* A limit that nobody has met is tried by one turn after a few holds, ever more of them. Who is answered
  where nothing was left proves the word wrong: it counts no more, until a turn is refused for a rate limit.
* Whatever is no number, or says nothing, is not heard.

Pure, as `wspool.core.sending.pace`, which asks it. Sources: OpenAI's guide to rate limits ("Rate limits in
headers"), Groq's and Azure's; the Codex backend for `codex.rate_limits`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, TypeAlias, cast

import attrs

from wspool.core.waits import number_in, wait_in

__all__ = ["HOLDS", "LIMITS_EVENTS", "LONGEST_HOLD", "MINUTE", "Allowance", "Kind", "Stated", "stated_in"]

#: What is limited: requests, tokens, or what a plan allows, of which only its end is heard.
Kind: TypeAlias = Literal["requests", "tokens", "plan"]

#: Events that may say something of it, and errors that do.
LIMITS_EVENTS: Final = frozenset({"codex.rate_limits", "codex.response.metadata", "response.metadata"})

#: Seconds that a limit is for where that is not said, as nearly everywhere.
MINUTE: Final = 60.0

#: Seconds that a word may hold those who wait: a minute, and some that clocks and rounding take.
LONGEST_HOLD: Final = 90.0

#: Holds that are waited out before one turn tries whether the limit is there; doubled each time that it is.
HOLDS: Final = 2

#: What a turn counts for in the mean of their tokens.
_WEIGHT: Final = 0.1

#: Headers looked at, and longest name: more say nothing.
_MOST: Final = 200
_LONGEST: Final = 64


@attrs.frozen
class Stated:
    """What was said about one kind.

    Attributes:
        kind: what is limited.
        limit: how many there are, infinity where that was not said.
        left: how many are left, None where that was not said.
        seconds: until all are there again.
    """

    kind: Kind
    limit: float
    left: float | None
    seconds: float


def stated_in(said: object, wall_clock: float) -> list[Stated]:
    """Return what *said* says of limits: headers, or an event that has them or is about them. Never raises.

    Args:
        said: pairs of names and values, or the object of an event.
        wall_clock: seconds since the epoch, to which moments are compared.
    """
    if not isinstance(said, Mapping):
        return _in_headers(cast("Iterable[tuple[object, object]]", said), wall_clock)
    event = cast("Mapping[str, Any]", said)
    if event.get("type") == "codex.rate_limits":
        return _in_plan(event.get("rate_limits"), wall_clock)
    error = event.get("error")
    inner = cast("Mapping[str, Any]", error).get("headers") if isinstance(error, Mapping) else None
    headers = event.get("headers") or inner
    if not isinstance(headers, Mapping):
        return []
    return _in_headers(cast("Mapping[object, object]", headers).items(), wall_clock)


def _in_headers(headers: Iterable[tuple[object, object]], wall_clock: float) -> list[Stated]:
    known: dict[str, object] = {}
    for _, (name, value) in zip(range(_MOST), headers, strict=False):
        if (
            isinstance(name, str)
            and len(name) <= _LONGEST
            and (key := name.lower()).startswith("x-ratelimit-")
        ):
            known[key[len("x-ratelimit-") :]] = value
    found: list[Stated] = []
    kinds: tuple[Kind, ...] = ("requests", "tokens")
    for kind in kinds if known else ():
        limit, left = number_in(known.get(f"limit-{kind}")), number_in(known.get(f"remaining-{kind}"))
        seconds = wait_in(known.get(f"reset-{kind}"), wall_clock)
        if limit or left is not None:  # a limit of nothing is none
            found.append(Stated(kind, limit or math.inf, left, MINUTE if seconds is None else seconds))
    return found


def _in_plan(limits: object, wall_clock: float) -> list[Stated]:
    if not isinstance(limits, Mapping):
        return []
    said = cast("Mapping[str, Any]", limits)
    spent = said.get("limit_reached") is True or said.get("allowed") is False
    ends: list[float] = []
    for name in ("primary", "secondary"):
        if isinstance(given := said.get(name), Mapping):
            window = cast("Mapping[str, Any]", given)
            end = number_in(window.get("reset_at"))
            if end is not None and (number_in(window.get("used_percent")) or 0.0) >= 100:
                ends.append(end)
    seconds = max(max(ends) - wall_clock, 0.0) if ends else MINUTE
    return [Stated("plan", math.inf, 0.0 if spent else math.inf, seconds)]


@attrs.define
class _Window:
    """What is left of one kind, what was said to be, until when that counts, and how long it does then."""

    limit: float
    left: float
    said: float
    until: float
    period: float


class Allowance:
    """What one endpoint says it takes, and how far that is believed.

    Attributes:
        held_until: until when those who wait are held for it, in seconds on the pool's clock, as far as that
            is known.
    """

    def __init__(self) -> None:
        self.held_until = -math.inf
        self._windows: dict[Kind, _Window] = {}
        #: Tokens of a turn, in the mean.
        self._tokens = 0.0
        self._believed = True
        #: Since when somebody waits for what was said, and how often that was waited out.
        self._held_since: float | None = None
        self._holds = 0
        self._patience = HOLDS
        #: Whether the next turn tries, and whether one does.
        self._dares = self._trying = False

    def told(self, stated: Iterable[Stated], now: float, on_their_way: int) -> None:
        """The endpoint has said that, while so many turns were on their way to it."""
        for one in stated:
            window = self._windows.get(one.kind)
            if one.left is None:
                if window is not None and window.limit == one.limit:
                    continue  # it was said before
                left = said = one.limit
            else:
                said = min(one.left, one.limit)
                left = said - on_their_way * self._cost(one.kind)
            period = _period(one)
            # Where all are there, none comes back.
            until = now + (one.seconds if said < one.limit else period)
            self._windows[one.kind] = _Window(one.limit, left, said, until, period)

    def used(self, tokens: float) -> None:
        """A turn has taken so many tokens."""
        if 0 <= tokens < math.inf:
            self._tokens += (tokens - self._tokens) * (_WEIGHT if self._tokens else 1.0)

    def wait(self, now: float) -> float:
        """Return how many seconds the next turn must wait, 0 for none."""
        lacking = self._lacking(now) if self._windows and self._believed else ()
        if not lacking:
            self._held_since, self.held_until = None, -math.inf
            return 0.0
        if self._holds >= self._patience and not self._trying:
            # Not where only those on their way have used up what is left.
            self._dares = self._dares or any(window.said < self._cost(kind) for kind, window in lacking)
        if self._dares:
            return 0.0
        if self._held_since is None:
            self._held_since = now
        until = min(max(window.until for _, window in lacking), self._held_since + LONGEST_HOLD)
        self.held_until = until
        return max(until - now, 0.0)

    def lift(self) -> None:
        """Whoever knows better says that nobody has to wait any more."""
        self._windows.clear()
        self.held_until = -math.inf

    def begin(self, now: float) -> bool:
        """A turn begins; return whether it does although nothing is said to be left."""
        if not self._windows:
            return False
        tries = self._believed and bool(self._lacking(now))
        for kind, window in self._windows.items():
            window.left -= self._cost(kind)
        self._dares, self._held_since = False, None
        self._trying = self._trying or tries
        return tries

    def answered(self) -> None:
        """A turn was answered that had begun although nothing was left: the word is wrong."""
        self._believed = self._trying = False

    def refused(self, *, tried: bool) -> None:
        """A turn was refused for a rate limit: there is one. *tried* if it began though nothing was left."""
        self._holds = 0
        if tried or not self._believed:
            self._patience *= 2
        self._believed = True
        self._trying = self._trying and not tried

    def ended(self) -> None:
        """A turn that had begun although nothing was left has ended otherwise."""
        self._trying = False

    def _cost(self, kind: Kind) -> float:
        if kind == "tokens":
            return max(self._tokens, 1.0)
        return 1.0 if kind == "requests" else math.ulp(0.0)

    def _lacking(self, now: float) -> list[tuple[Kind, _Window]]:
        """Those of which no more is left than the next turn takes."""
        lacking: list[tuple[Kind, _Window]] = []
        for kind, window in self._windows.items():
            if now >= window.until:
                if window.left < window.limit and self._held_since is not None:
                    self._holds += 1
                window.left = window.said = window.limit
                window.until = now + window.period
            # A turn of more than there can be shall not wait for ever, nor is it known to be one.
            if window.left < min(self._cost(kind), window.limit):
                lacking.append((kind, window))
        return lacking


def _period(stated: Stated) -> float:
    """Seconds for which a limit may count once all of it is there again, as far as can be told.

    Who fills up little by little is there after a moment where little was taken: the whole takes longer.
    """
    used = 0.0 if stated.left is None else stated.limit - stated.left
    whole = stated.seconds * stated.limit / used if 0 < used < math.inf else MINUTE
    return max(stated.seconds, min(whole, MINUTE))
