"""Pace: how many turns of a pool are at work at once, where refusals shall be waited out.

An endpoint says how much it takes by refusing more, and some say it before. What this module makes of that:

* Each turn that the endpoint begins to answer is room for another, up to twice what is at work, until it
  refuses one. Then as many are at work as it was answering, and beyond that one more is tried every now and
  then.
* It refuses again although there are fewer: then it takes less than before, and room shrinks by a tenth each
  time. So a limit that falls costs a few refusals, and none for each turn.
* It refuses one after another, and answers none: then it is in trouble, and everybody waits. One turn at a
  time tries, after a wait that doubles, and the first that is answered ends it. What it takes at once is what
  it was before: of that such refusals say nothing, as when the minute's requests are all used. Nor does
  that of a turn that was alone.
* A refusal is heeded also if the endpoint says with it that nothing is left, and until when. Of a minute that
  is used up it need not be; but where what comes back is one at a time, it is all that there is to go by.
* What the server asks to wait is waited for, whatever else there is.
* How long it has been unclear whose trouble refusals are is kept (`wspool.core.sending.blame`): since none is
  answered, as long as the endpoint does not say that it is its own.
* What it says that it still takes is heeded before it refuses, as far as its word goes
  (`wspool.core.sending.allowance`).

Pure: it is told what happened and when, and asked who may begin.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final, Protocol

import attrs

from wspool.core.sending.allowance import Allowance, Stated
from wspool.core.waits import MAX_RETRY_AFTER

__all__ = ["CALM", "FIRST", "SHRINK", "TROUBLE", "Line", "Pace", "Ticket"]

#: Turns at work to begin with; doubled in each round that all are answered. Few enough for any endpoint to
#: refuse no more than these, enough for a fast one to be used from the start.
FIRST: Final = 16

#: What is left of the room after a refusal that comes though there is less at work than was answered before.
SHRINK: Final = 0.9

#: Turns that are answered at the known limit before one more is tried. One refusal in a hundred is what that
#: may cost.
CALM: Final = 100

#: Refusals without an answer between them after which everybody waits.
TROUBLE: Final = 3

#: First and largest upper bound of the waits between tries then, in seconds.
FIRST_WAIT: Final = 0.5
LONGEST_WAIT: Final = 30.0
#: More than are ever needed: an outage of hours has more tries than a number has doublings.
_DOUBLINGS: Final = 10


@attrs.define(eq=False)
class Ticket:
    """One turn that is at work.

    Attributes:
        number: the order in which they began.
        tries: True if it began although the endpoint says that it takes no more.
        answered: True once the endpoint has begun to answer it.
    """

    number: int
    tries: bool
    answered: bool = False


class Line(Protocol):
    """Those of a pool who wait for its pace."""

    @property
    def in_line(self) -> int:
        """How many would begin at once if they could."""
        ...

    def pace_moved(self) -> None:
        """The pace has changed by something that they have not done themselves. Never waits."""
        ...


class Pace:
    """The pace of one pool. One that many keep together is made of it: see `wspool.pool.open.at_pace`.

    Args:
        most: turns at work at most, whatever the endpoint takes.

    Attributes:
        room: turns that may be at work.
        held_until: when the next may begin after a refusal, in seconds on the pool's clock, as far as that
            is known.
        allowance: what the endpoint says.
        troubled: True while the endpoint refuses everything.
        line: who waits for it; None until a pool keeps it.
        latest: number of the last one to begin of those that were answered.
    """

    def __init__(self, most: float = math.inf) -> None:
        self.room = min(float(FIRST), most)
        self.held_until = -math.inf
        self.allowance = Allowance()
        self.line: Line | None = None
        self.latest = 0
        self._most = most
        self._unclear_since: float | None = None
        self._at_work: dict[Ticket, None] = {}
        self._count = 0
        #: What the endpoint is known to take; and what it was when one was answered last.
        self._limit = self._took = most
        #: Turns answered at the limit since the last refusal, and how many more are tried next; and how many
        #: were answered since as many were at work as may be.
        self._calm = 0
        self._step = 1.0
        self._slack = math.inf
        #: Refusals since the last answer.
        self._refusals = 0
        #: How often room has shrunk with less than a round of answers between; how many turns had begun when
        #: it did last, and how many were answered since.
        self._waves = self._shrunk_at = self._since = 0
        #: Tries that were refused while everything is; 0 where not everything is.
        self._strikes = 0
        self._try: Ticket | None = None
        #: Whether what was said has held those who wait since the last one began.
        self._rested = False

    @property
    def troubled(self) -> bool:
        """Whether everything is refused."""
        return self._strikes > 0

    @property
    def at_work(self) -> int:
        """Turns at work."""
        return len(self._at_work)

    @property
    def unanswered(self) -> list[Ticket]:
        """Those that the endpoint has not begun to answer, as far as was told."""
        return [ticket for ticket in self._at_work if not ticket.answered]

    def unclear(self, now: float) -> float:
        """Return for how many seconds all are refused without a word of whose trouble that is."""
        return 0.0 if self._unclear_since is None else now - self._unclear_since

    def away(self) -> None:
        """The endpoint cannot be reached, which is the trouble of no turn."""
        self._unclear_since = None

    def lift(self) -> None:
        """Whoever knows better says that nobody has to wait any more."""
        self.held_until = -math.inf
        self.allowance.lift()

    def wait(self, now: float) -> float:
        """Return how many seconds the next turn must wait: 0 for none, infinity until another has ended."""
        if now < self.held_until:
            return self.held_until - now
        if self.troubled:
            return 0.0 if self._try is None else math.inf
        if len(self._at_work) >= max(1, int(self.room)):
            return math.inf
        wait = self.allowance.wait(now)
        self._rested = self._rested or wait > 0
        return wait

    def told(self, stated: Iterable[Stated], now: float, *, answering: bool) -> None:
        """The endpoint says what it still takes; if *answering*, with the answer to one of those at work."""
        self.allowance.told(stated, now, max(len(self.unanswered) - answering, 0))

    def used(self, tokens: float) -> None:
        """A turn has used so many tokens."""
        self.allowance.used(tokens)

    def begin(self, now: float) -> Ticket:
        """A turn begins."""
        self._count += 1
        if self._rested:  # as at the beginning: whether it is time again is only known from what was said
            self._rested, self.room = False, min(self.room, max(float(FIRST), len(self._at_work) + 1.0))
        ticket = Ticket(self._count, self.allowance.begin(now))
        self._at_work[ticket] = None
        if self.troubled:
            self._try = ticket
        return ticket

    def answered(self, ticket: Ticket) -> None:
        """The endpoint has begun to answer it. Told twice is told once."""
        if ticket.answered or ticket not in self._at_work:
            return
        ticket.answered = True
        if ticket.tries:
            self.allowance.answered()
        self.latest = max(self.latest, ticket.number)
        self._unclear_since = None
        self._refusals = 0
        self._took = self._limit
        self._since += 1
        if self._since > self.room:
            self._waves = 0
        if self.troubled:
            # Back to what it took before, and quickly, but not all at once.
            self._strikes, self._try = 0, None
            self.room = min(len(self._at_work) + 1.0, self._limit)
        else:
            self._grow()

    def ended(self, ticket: Ticket) -> None:
        """It is over, or was never sent; nothing was refused."""
        if self._at_work.pop(ticket, ticket) is None and ticket.tries and not ticket.answered:
            self.allowance.ended()
        if self._try is ticket:
            self._try = None

    def refused(
        self, ticket: Ticket, now: float, *, rate: bool, own: bool = False, wait: float, jitter: float
    ) -> None:
        """The endpoint has refused it with what may pass.

        Args:
            ticket: the turn.
            now: the time.
            rate: True if that was too much at once, False if it is in trouble.
            own: True if it says that this would have met any turn.
            wait: seconds that it asked to wait, 0 for none.
            jitter: a random number in [0, 1).
        """
        if self._at_work.pop(ticket, ticket) is ticket:
            return  # it had ended
        if rate:
            self.allowance.refused(tried=ticket.tries)
        elif ticket.tries:
            self.allowance.ended()
        tried, self._try = self._try is ticket, None if self._try is ticket else self._try
        before = sum(other.number < ticket.number for other in self._at_work)
        self._refusals += 1
        if own or rate:
            self._unclear_since = None
        elif self._unclear_since is None:
            self._unclear_since = now
        if wait > 0:
            self.held_until = max(self.held_until, now + min(wait, MAX_RETRY_AFTER))
        if tried or (not self.troubled and self._refusals >= TROUBLE and not (rate and before)):
            if not self.troubled:
                # None was answered since: those refusals say nothing of how many it takes at once.
                self._limit = self._took
            self._strikes += 1
            bound = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(self._strikes - 1, _DOUBLINGS))
            self.held_until = max(self.held_until, now + bound * (1 + jitter) / 2)
        elif rate and not self.troubled and before:
            self._shrink(ticket, before)

    def _shrink(self, ticket: Ticket, before: int) -> None:
        """It takes no more than it was answering; less than that if it says so again."""
        takes = float(before)
        if ticket.number > self._shrunk_at:  # and did not begin when more was thought to be taken
            takes *= SHRINK**self._waves
            self._waves += 1
            self._since = 0
            self._shrunk_at = self._count
        self.room = self._limit = max(1.0, min(takes, self.room))
        self._calm, self._step = 0, 1.0

    def _grow(self) -> None:
        if self.room < self._limit:
            # Several may be seen to be answered before the next begins: what is not used says nothing about
            # what may be, but what is not used yet is no more than that.
            if int(self.room) < 2 * len(self._at_work):
                self.room = min(self.room + 1.0, self._limit)
            return
        # Several may be seen to end before the next begin: they were all at work a round ago at most.
        self._slack = 0.0 if len(self._at_work) >= int(self.room) else self._slack + 1
        if self._slack < self.room:
            self._calm += 1
            # Where one more was taken, more may be: a round is enough to see that.
            if self._calm >= (CALM if self._step == 1.0 else self.room):
                self.room = self._limit = min(self.room + self._step, self._most)
                self._calm, self._step = 0, 2 * self._step
