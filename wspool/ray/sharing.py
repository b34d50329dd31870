"""What the actors of one run share: a pace, and what was spent. Pure, but for the clock it is given.

A turn begins with a token, and tokens are tickets of the one pace (`wspool.core.sending.pace`), which hears
every refusal. An actor gets as many as it has turns in line, in one answer for all of them; while others wait
as well, no more than its part of the room.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

import attrs

from wspool.core.sending.allowance import Stated
from wspool.core.sending.pace import Pace, Ticket
from wspool.core.statistics import PoolStatistics
from wspool.core.usage import Usage

__all__ = ["NOTHING", "Heard", "Orders", "Report", "Sharing", "Tokens"]

#: Seconds between two reports of an actor, and how many more for each actor that there is: a Ray actor
#: answers some thousand calls a second.
PAUSE: Final = 0.01
PAUSE_EACH: Final = 0.001

#: No pool at all.
NOTHING: Final = PoolStatistics(
    **{field.name: 0 for field in attrs.fields(PoolStatistics) if field.default is attrs.NOTHING}  # type: ignore[arg-type]
    | {"closed": {}}
)

#: What a pool has to say to the pace: the name of a method of `Pace`; the token of the turn that it is about,
#: 0 for none; and what else the method takes.
Heard: TypeAlias = tuple[
    Literal["answered", "away", "ended", "refused", "told", "used"], int, Mapping[str, Any]
]


@attrs.frozen(kw_only=True)
class Report:
    """What an actor says since its last one: of its turns, what they have used, how many need a token."""

    turns: Sequence[Heard] = ()
    used: Usage = attrs.field(factory=Usage)
    pool: PoolStatistics = NOTHING
    in_line: int = 0


@attrs.frozen(kw_only=True)
class Orders:
    """What an actor gets: tokens, the latest that was answered anywhere, what all have spent, for how many
    seconds the endpoint holds everybody, and in how many to report again."""

    latest: int = 0
    tokens: Sequence[int] = ()
    spent: Usage = attrs.field(factory=Usage)
    held: float = 0.0
    pause: float = PAUSE


@attrs.define
class _Part:
    tickets: dict[int, Ticket] = attrs.field(factory=dict[int, Ticket])
    in_line: int = 0
    pool: PoolStatistics = NOTHING


class Sharing:
    """What all actors share. It is an actor itself: `ray.remote(Sharing)`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.pace = Pace()
        self._clock = clock
        self._parts: dict[int, _Part] = {}
        self._lost: set[int] = set()
        self._spent = Usage()
        self._dialed = 0

    def exchange(self, actor: int, report: Report) -> Orders:
        """Take the *report* of an *actor*, and say what it gets."""
        if actor in self._lost:
            return Orders()  # it was taken for dead
        now, mine = self._clock(), self._parts.setdefault(actor, _Part())
        for what, token, more in report.turns:
            self._hear(mine, what, token, more, now)
        self._spent += report.used
        mine.in_line, mine.pool = report.in_line, report.pool
        return Orders(
            latest=self.pace.latest,
            tokens=self._grant(mine, now),
            spent=self._spent,
            held=self._held(),
            pause=max(PAUSE, PAUSE_EACH * len(self._parts)),
        )

    def _hear(self, mine: _Part, what: str, token: int, more: Mapping[str, Any], now: float) -> None:
        match what:
            case "told":
                self.pace.told(now=now, **more)
            case "away":
                self.pace.away()
            case "used":
                self.pace.used(**more)
            case "answered":
                self.pace.answered(mine.tickets[token])
            case "refused":
                self.pace.refused(mine.tickets.pop(token), now, **more)
            case _:
                self.pace.ended(mine.tickets.pop(token))

    def _grant(self, mine: _Part, now: float) -> Sequence[int]:
        busy = [part for part in self._parts.values() if part.tickets or part.in_line]
        others = any(part.in_line > 0 for part in busy if part is not mine)
        most = self.pace.room / len(busy) if others else math.inf
        tokens: list[int] = []
        while len(tokens) < mine.in_line and len(mine.tickets) < most and self.pace.wait(now) <= 0:
            ticket = self.pace.begin(now)
            mine.tickets[ticket.number] = ticket
            tokens.append(ticket.number)
        mine.in_line -= len(tokens)
        return tokens

    def lost(self, actor: int) -> None:
        """An *actor* has died."""
        self._lost.add(actor)
        part = self._parts.pop(actor, _Part())
        for ticket in part.tickets.values():
            self.pace.ended(ticket)
        self._dialed += part.pool.dialed

    def look(self) -> PoolStatistics:
        """All pools as if they were one."""
        pools = [NOTHING, *(part.pool for part in self._parts.values())]
        sums: dict[str, Any] = {
            name: type(value)(sum(getattr(pool, name) for pool in pools))
            for name, value in attrs.asdict(NOTHING).items()
            if isinstance(value, int)
        }
        held = self._held()
        words = next((pool.held_for for pool in pools if pool.held_for), "a rate limit")
        more: dict[str, Any] = {
            "dialed": sums["dialed"] + self._dialed,
            "unclear": self.pace.unclear(self._clock()),
            "held": held,
            "held_for": words if held else "",
        }
        return attrs.evolve(NOTHING, **{**sums, **more})

    def _held(self) -> float:
        return max(0.0, max(self.pace.held_until, self.pace.allowance.held_until) - self._clock())


class Tokens(Pace):
    """A pool's part of a pace that `Sharing` keeps for all: a turn begins with a token that it was given.

    Attributes:
      changed: called when there is something to report.
      spare: tokens that no turn has begun with.
      heard: what became of the others, to be reported.
    """

    def __init__(self) -> None:
        super().__init__()
        self.changed: Callable[[], object] = lambda: None
        self.spare: deque[int] = deque()
        self.heard: list[Heard] = []

    @property
    def wanted(self) -> int:
        """Tokens that are of use here, beyond those that there are; fewer than none if there are too many."""
        return (self.line.in_line if self.line is not None else 0) - len(self.spare)

    def give(self, tokens: Sequence[int]) -> None:
        """So many turns may begin."""
        self.spare.extend(tokens)
        if tokens and self.line is not None:
            self.line.pace_moved()

    def wait(self, now: float) -> float:
        """See `Pace.wait`: without a token it is infinite."""
        if not self.spare:
            self.changed()
        return 0.0 if self.spare else math.inf

    def begin(self, now: float) -> Ticket:
        """See `Pace.begin`."""
        ticket = Ticket(self.spare.popleft(), tries=False)
        self._at_work[ticket] = None
        return ticket

    def told(self, stated: Iterable[Stated], now: float, *, answering: bool) -> None:
        """See `Pace.told`."""
        self._hear("told", 0, stated=list(stated), answering=answering)

    def used(self, tokens: float) -> None:
        """See `Pace.used`."""
        self._hear("used", 0, tokens=tokens)

    def answered(self, ticket: Ticket) -> None:
        """See `Pace.answered`."""
        if ticket in self._at_work and not ticket.answered:
            ticket.answered = True
            self._hear("answered", ticket.number)

    def ended(self, ticket: Ticket) -> None:
        """See `Pace.ended`."""
        if self._at_work.pop(ticket, ticket) is None:
            self._hear("ended", ticket.number)

    def refused(
        self, ticket: Ticket, now: float, *, rate: bool, own: bool = False, wait: float, jitter: float
    ) -> None:
        """See `Pace.refused`."""
        if self._at_work.pop(ticket, ticket) is None:
            self._hear("refused", ticket.number, rate=rate, own=own, wait=wait, jitter=jitter)

    def away(self) -> None:
        """See `Pace.away`."""
        self._hear("away", 0)

    def _hear(self, what: Any, token: int, **more: Any) -> None:
        self.heard.append((what, token, more))
        self.changed()

    def give_back(self, count: int) -> None:
        """So many tokens are of no use here."""
        for _ in range(min(count, len(self.spare))):
            self.heard.append(("ended", self.spare.popleft(), {}))
