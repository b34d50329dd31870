"""Continuity: what a conversation carries from turn to turn: its chain, its lease, its account.

Rules of this module:

* One turn, or one compaction, has the conversation to itself. What it does is an errand, which ends when it
  is left and when the conversation is closed.
* A turn that brings its history along (`BroughtHistory`) has nothing to carry on: it is one turn long.
* A lane is kept between turns, for what it remembers. The pool parks it as soon as its turn has ended,
  however that was, so others who starve may take it (`PoolCore.finished`). A lane on which no turn was
  begun remembers nothing: it goes back as soon as none is about to begin.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final, Generic, Protocol, TypeVar

import trio

from wspool.core.commands import Command, LeaseId, WaiterId
from wspool.core.lending.pool import PoolCore, Verdict
from wspool.core.policy import PoolPolicy, Provider
from wspool.core.sending.lineage import Lineage
from wspool.core.sending.replay import ResendBudget, Resends
from wspool.core.sending.takes import Takes
from wspool.core.sending.warm_up import Fields
from wspool.core.statistics import ConversationStatistics, Move, MoveReason
from wspool.core.usage import Budget, Usage
from wspool.errors import BudgetExceededError, PoolClosedError, TurnInFlightError
from wspool.pool.dialer import Dialer
from wspool.pool.errand import Errand
from wspool.pool.errands import Errands
from wspool.pool.instrument import Announcer
from wspool.pool.kept import Kept
from wspool.pool.lease import Lease

__all__ = ["Continuity", "ContinuityOwner", "OneTurn"]

logger = logging.getLogger("wspool.pool")


#: Usages that are kept as they came, at most: each takes a KiB.
_MOST_UNREAD: Final = 10
_NO_USAGE: Final = Usage()


class ContinuityOwner(Protocol):
    """What a conversation needs of its pool."""

    core: PoolCore
    announcer: Announcer
    dialer: Dialer
    budget: ResendBudget
    errands: Errands
    takes: Takes
    policy: PoolPolicy
    provider: Provider
    endpoint: str

    def check_use(self) -> None: ...
    def next_conversation(self) -> int: ...
    def next_waiter(self) -> WaiterId: ...
    def resends(self) -> Resends: ...
    def jitter(self) -> float: ...
    def ask(self, waiter: WaiterId, min_remaining: float, prefer: str | None, warm: bool) -> Lease | None: ...
    async def wait(self, waiter: WaiterId) -> Lease: ...
    def begin(self, lease: LeaseId, *, movable: bool, history: int = 0) -> Verdict: ...
    def step(self, decide: Callable[..., list[Command]], *args: Any, **kwargs: Any) -> None: ...
    def warms(self, fields: Fields) -> bool: ...
    def hold(self, seconds: float) -> None: ...


LineageT_co = TypeVar("LineageT_co", bound=Lineage, covariant=True)


class Continuity(Generic[LineageT_co]):
    """The chain of one conversation, its lease, and its account.

    Attributes:
        chain: lineage and history.
        number: that of the conversation in its pool, if it is one.
        closed: True once no further turn is possible.
        last_connection: number of the connection it was on last.
        waited: seconds in line so far.
    """

    def __init__(self, owner: ContinuityOwner, number: int | None, chain: LineageT_co) -> None:
        self.owner = owner
        self.number = number
        self.chain = chain
        self.closed = False
        self.last_connection: int | None = None
        self.waited = 0.0
        self.turns = self.delta_turns = self.full_turns = self.withheld = 0
        self.moves = self.rotations = self.retries = self.bytes_sent = self.bytes_saved = 0
        self.tool_calls = self.tool_errors = 0
        #: Of those errors, the ones that the next turn tells the model.
        self.told_errors = 0
        #: What has the conversation to itself.
        self._errand: Errand | None = None
        #: What turns may cost, if that is limited.
        self.budget: Budget | None = None
        self._usage = _NO_USAGE
        self._usages: list[object] = []
        self._lease: Lease | None = None
        #: The response that it went on from when it was left last.
        self._latest: str | None = chain.parent
        #: True while no turn was begun on the lease.
        self._unused = True
        #: What was said already about what had to be changed of the history.
        self._said: set[str] = set()
        self._why: MoveReason = "lost"

    @property
    def in_turn(self) -> bool:
        """Whether something has the conversation to itself."""
        return self._errand is not None

    @property
    def awaited(self) -> bool:
        """Whether a lane is kept for it."""
        return self._lease is not None and self._lease.alive

    def check_free(self) -> None:
        """Raise unless a turn could begin.

        Raises:
            PoolClosedError, TurnInFlightError: now is no time for it.
        """
        if self.closed:
            raise PoolClosedError("the conversation is closed; nothing was sent")
        if self._errand is not None:
            raise TurnInFlightError("a turn of this conversation has not ended; nothing was sent")

    def enter(self) -> Errand:
        """Begin a turn, or what excludes one. Raises what `check_free` raises."""
        self.check_free()
        self._errand = Errand(self.number)
        return self._errand

    def say_what_was_changed(self) -> None:
        """Say once what of the history cannot be sent as it came."""
        if len(self.chain.notes) > len(self._said):
            for note in sorted(self.chain.notes - self._said):
                logger.warning("conversation %s, in what is sent of its history: %s", self.number, note)
            self._said |= self.chain.notes

    def leave(self, errand: Errand) -> None:
        """End what began with *errand*."""
        errand.stop("the turn is over")
        if self.owner.errands.pace is not None:  # with a ticket or, refused, without one
            self.owner.errands.over(errand)
        if self._errand is errand:
            self._errand = None
            before, self._latest = self._latest, self.chain.parent
            if before is not None and before != self._latest:
                self.forsake(before)
            self.rest()

    def close(self) -> None:
        """Give the lease back, and end whatever is going on: no further turn is possible."""
        self.closed = True
        if self._errand is not None:
            self._errand.stop("the conversation is closed")
        lease = self._lease
        if lease is not None and lease.alive and (attempt := lease.lane.attempt) is not None:
            # The lane may be drained, which is nothing to whoever reads the turn.
            attempt.forsake("the conversation was closed")
            lease.give_up(attempt)
        if self.chain.parent is not None:
            self.forsake(self.chain.parent)
        self.drop_lease()

    def forsake(self, response_id: str) -> None:
        """Nobody will go on from that response: what a lane remembers of it is of no use."""
        key, core = hash(response_id), self.owner.core
        if core.remembers(key):  # nearly never: the lane holds what came of the turn that has just ended
            self.owner.step(core.over, key)

    def usable_lease(self) -> Lease | None:
        """Return its lease if a turn can be tried on it; give it back if not."""
        lease = self._lease
        if lease is not None and (lease.taken or not lease.alive or lease.lane.attempt is not None):
            # Lost, taken, or still busy with the rest of a turn that was given up.
            self.drop_lease(_reason(lease))
        return self._lease

    async def take_lease(self, errand: Errand, fields: Fields) -> None:
        """Take a lease for a turn with *fields*, and wait in line for it if need be.

        It is one of the lane that holds the latest response, if that can be. By the time it is looked at it
        may be of no use: to ask again is to have the place in line that one had. No checkpoint where a lane
        is free: what follows is one.

        Raises:
            LeaseRefusedError, PoolClosedError: there is none.
        """
        chain = self.chain
        waiter = errand.waiter = errand.waiter or self.owner.next_waiter()
        lease = self.owner.ask(waiter, 0.0, chain.parent, chain.is_new and self.owner.warms(fields))
        if lease is None:
            since = trio.current_time()
            try:
                # Whoever may not wait was told so by the core.
                with self.owner.errands.waiting(errand):
                    lease = await self.owner.wait(waiter)
                    # No checkpoint between the grant and these lines.
                    if errand.stopped:
                        # It was granted in the step in which nobody wanted it any more. So says `waiting`.
                        lease.release()
            finally:  # however it ended: whoever got none has waited as well
                self.waited += trio.current_time() - since
        self._lease, self._unused = lease, True

    def begun(self, lease: Lease) -> None:
        """A turn has begun on *lease*, its own."""
        self._unused = False
        before, self.last_connection = self.last_connection, lease.connection
        if before is not None and before != lease.connection:
            self.moves += 1
            self.rotations += self._why == "rotation"
            announcer = self.owner.announcer
            move = Move(
                conversation=self.number,
                before=before,
                after=lease.connection,
                reason=self._why,
                pool=announcer.pool,
                moved=trio.current_time(),
            )
            announcer.moved(move)

    def rest(self) -> None:
        """No turn is about to begin: a lane on which none was begun, or that holds nothing, goes back."""
        if self._unused:
            self.drop_lease()
        elif self.chain.parent is None and (lease := self._lease) is not None:
            clean = lease.alive and lease.lane.attempt is None
            self.drop_lease("refused" if clean else _reason(lease))

    def drop_lease(self, why: MoveReason | None = None) -> None:
        """Give the lease back, if there is one.

        Args:
            why: the reason of the move that may follow; None if there is nothing to say.
        """
        if why is not None:
            self._why = why
        if self._lease is not None:
            lease, self._lease = self._lease, None
            if not lease.taken:  # nearly always it was given back when its turn had ended
                lease.release()

    def check_budget(self) -> None:
        """Raise BudgetExceededError if nothing more may be sent."""
        if self.budget is not None and (problem := self.budget.problem) is not None:
            raise BudgetExceededError(f"{problem}; nothing more is sent")

    def used(self, usage: object) -> None:
        """A turn, or a compaction, is over, and the server said this of its usage, which nobody changes."""
        if usage is not None:
            self.owner.errands.used(usage)
            self._usages.append(usage)  # read when somebody looks
            if len(self._usages) >= _MOST_UNREAD:
                self._read_usages()

    def _read_usages(self) -> None:
        self._usage += Usage.of(*self._usages)
        self._usages.clear()

    def statistics(self) -> ConversationStatistics:
        """Return a frozen snapshot."""
        self._read_usages()
        return ConversationStatistics(
            turns=self.turns,
            delta_turns=self.delta_turns,
            full_turns=self.full_turns,
            moves=self.moves,
            rotations=self.rotations,
            retries=self.retries,
            tool_calls=self.tool_calls,
            bytes_sent=self.bytes_sent,
            bytes_saved=self.bytes_saved,
            withheld=self.withheld,
            usage=self._usage,
            tool_errors=self.tool_errors,
        )

    def note_withheld(self, items: int) -> None:
        """The server withheld so many items of the history from the model. Said once, as no error will."""
        if not self.withheld:
            logger.warning(
                "conversation %s: the server withheld %s reasoning items of the history from the model; "
                "TurnRecord.input_transformations has its reasons",
                self.number,
                items,
            )
        self.withheld += items


class OneTurn(Continuity[Lineage]):
    """What a turn has that brings its history along: all of it ends with the turn, but for a kept lane."""

    def __init__(self, owner: ContinuityOwner, chain: Lineage, kept: Kept) -> None:
        super().__init__(owner, None, chain)
        self._kept = kept
        self._looked = False

    @property
    def awaited(self) -> bool:
        """Whether a lane is kept for it."""
        return self._kept.has(self.chain.parent)

    def usable_lease(self) -> Lease | None:
        """Return its lease if a turn can be tried on it: first the one that was kept for it."""
        if not self._looked:
            self._looked = True
            if (lease := self._kept.take(self.chain.parent)) is not None:
                self._lease, self._unused = lease, False
        return super().usable_lease()

    def leave(self, errand: Errand) -> None:
        """End the turn, and keep its lane for who answers its calls, or give it back."""
        # Out of its hands first: whoever brings a history may well have no parent, and yet come back.
        lease, self._lease = self._lease, None
        super().leave(errand)
        self.closed = True
        if lease is not None and self._unused:
            lease.release()
        elif lease is not None:
            self._kept.keep(lease)


def _reason(lease: Lease) -> MoveReason:
    """Why no turn can be tried on *lease*."""
    if not lease.taken and lease.alive:
        return "busy"
    if (gone := lease.gone) is not None:
        return gone
    if lease.taken:
        return "taken"
    return "rotation" if lease.expiring else "lost"
