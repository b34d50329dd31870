"""Attempt: one request on one lane, from its first byte to its one outcome.

The connection's reader puts events in, one consumer takes them out. Rules: the consumer is
woken once per batch, not once per event; events are kept until the end, so that an error can
show them, unless nobody wants them again; the unread ones are counted in bytes, so that the reader can pause.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import outcome
import trio

from wspool.core.events.past import Past
from wspool.core.events.trust import EXACT, Trust
from wspool.core.events.turn import Reception, TurnMachine, TurnState
from wspool.core.frames import Event
from wspool.core.policy import PoolPolicy
from wspool.pool.credentials import NO_SECRETS
from wspool.wire.wire import Wire

__all__ = ["EVENT", "PIECE", "Attempt"]

#: Bytes that a turn may grow before all of its pool are weighed anew: few turns ever have so many.
PIECE: Final = 4 * 1024 * 1024

#: What an event takes beside its message, in bytes: the `Event`, its place in a list, the head of its text.
EVENT: Final = 256

# An attribute of an enum costs as much as the rest of a line in the hot path.
_ENDED: Final = TurnState.ENDED
_NEW: Final = TurnState.NEW
_DELIVER: Final = Reception.DELIVER
_END: Final = Reception.END
_UNHEARD: Final = frozenset({TurnState.NEW, TurnState.SENT})


class Attempt:
    """One request on one lane.

    Args:
        parent: as for `TurnMachine`, and so are the others.

    Attributes:
        machine: its state.
        lost: True once the connection died under it.
        close_code: the close code the connection died with, or None.
        close_reason: what was said beside it, or why the connection was dropped here.
        events: all events received so far that belong to it, but for those that are gone.
        keeps: False if events are gone once the consumer has taken them.
        gone: how many are.
        received: bytes of all that was received of it, wanted or not.
        weighed: the same, up to which nobody looks at it: it is within all limits, and its pool need not be
            weighed anew (`wspool.pool.burden`).
        counted: how many events, up to which the same holds.
        redactor: takes secrets out of what the server said, before a text of ours repeats it.
        excess: which limit of the policy they are over, or an empty text.
        unread: bytes of the events that the consumer has not taken yet.
        sending: True while its request is on its way out; still True if that was cancelled.
        waits_for_holds: True if it is not to be sent while the server wants all to wait.
        withheld: True once it was not sent for that: nothing has come of it, and nothing will.
        given_up: True once nobody wants the rest of it.
        overdue: which time limit of the policy it is over, or an empty text.
        conversation: number of the conversation that it is a turn of, if it is of one.
        sent_at: when it was begun, on trio's clock.
        first_at: when something of it came first, on trio's clock, if anything did.
        heard_at: when something of it came last, on trio's clock.
        overrun: True once it was given up because nobody read it while others share its connection.
        give_up: gives it up, while its lease holds the lane.
        notice: is called with each notice that comes while it is in flight, by whoever reads; never waits.
        on_end: is called when its end has come, before its lane is anybody else's; never waits.
        spent: how many of its responses were spent from a budget.
        too_large: True once its connection ended because the peer did not read so large a request.
        wire: what its request went on.
    """

    __slots__ = (
        "_news",
        "_next",
        "_parked",
        "_room",
        "_to_end",
        "close_code",
        "close_reason",
        "conversation",
        "counted",
        "events",
        "excess",
        "first_at",
        "give_up",
        "given_up",
        "gone",
        "grown",
        "heard_at",
        "keeps",
        "lost",
        "machine",
        "notice",
        "on_end",
        "overdue",
        "overrun",
        "received",
        "redactor",
        "sending",
        "sent_at",
        "spent",
        "too_large",
        "unread",
        "waits_for_holds",
        "weighed",
        "wire",
        "withheld",
    )

    def __init__(
        self,
        parent: str | None,
        lane: str | None = None,
        past: Past | None = None,
        trust: Trust = EXACT,
    ) -> None:
        self.machine = TurnMachine(parent, lane, past, trust)
        self.overrun = self.too_large = False
        self.overdue = ""
        self.conversation: int | None = None
        self.first_at: float | None = None
        self.sent_at = self.heard_at = 0.0
        self.redactor = NO_SECRETS
        self.give_up: Callable[[Attempt], None] | None = None
        self.notice: Callable[[Event], object] | None = None
        self.on_end: Callable[[], object] | None = None
        self.wire: Wire | None = None
        self.lost = False
        self.close_code: int | None = None
        self.close_reason = ""
        self.events: list[Event] = []
        self.keeps, self.gone = True, 0
        self.spent = 0
        self.received = 0
        self.grown = False
        self.weighed, self.counted = PIECE, PIECE // EVENT
        self.excess = ""
        self.unread = 0
        self.sending = False
        self.waits_for_holds = self.withheld = False
        self.given_up = False
        self._next = 0
        #: True while the consumer waits for the end and wants nothing before it.
        self._to_end = False
        self._parked: trio.lowlevel.Task | None = None
        self._room: trio.Event | None = None
        self._news: trio.Event | None = None

    @property
    def left(self) -> bool:
        """Whether a byte of it may have left."""
        return self.machine.state is not _NEW

    @property
    def ended(self) -> bool:
        """True when no further event will come."""
        return self.lost or self.machine.state is _ENDED

    @property
    def begun(self) -> bool:
        """True once its response was heard to have begun."""
        return self.machine.state not in _UNHEARD

    @property
    def count(self) -> int:
        """How many events have come that belong to it."""
        return self.gone + len(self.events)

    @property
    def is_taken(self) -> bool:
        """Whether the consumer has taken all that has come."""
        return self._next == len(self.events)

    def feed(self, event: Event, wall_clock: float) -> Reception:
        """Take an event from the reader. `wake` must follow, at the latest after its batch."""
        reception = self.machine.receive(event, wall_clock)
        if (
            reception is _DELIVER
            # A refusal is raised, not delivered: there is no response it could be an event of.
            or (reception is _END and (self.machine.error is None or not self.machine.refused))
        ):
            raw = event.raw
            size = len(raw) if raw.isascii() else _size(raw)
            self.received += size
            if not self.given_up:
                if not self._to_end:
                    self.unread += size
                    self.events.append(event)
                elif self.keeps:
                    self.events.append(event)
                else:
                    self.gone += 1
        return reception

    def feed_run(self, messages: Sequence[str | bytes]) -> int:
        """Take the first of *messages* that go on with the output just seen; return how many. As `feed`."""
        run, text = self.machine.receive_run(messages)
        if run:
            size = len(text) if text.isascii() else _size(text)
            self.received += size
            if not self.given_up:
                if not self._to_end:
                    self.unread += size
                    self.events += run
                elif self.keeps:
                    self.events += run
                else:
                    self.gone += len(run)
        return len(run)

    def is_over(self, policy: PoolPolicy) -> bool:
        """Return whether the server has sent more than one turn may have; `excess` then says of what.

        Else `grown` is whether it is by a piece more than when its pool was weighed last, as it must be now.
        """
        count = self.count
        self.grown = self.received > self.weighed or count > self.counted
        if self.grown:
            self.weighed = min(self.received + PIECE, policy.max_turn_bytes)
            self.counted = min(count + PIECE // EVENT, policy.max_turn_events)
        if count > policy.max_turn_events:
            self.excess = f"more than max_turn_events={policy.max_turn_events} events in one turn"
        elif self.received > policy.max_turn_bytes:
            self.excess = f"more than max_turn_bytes={policy.max_turn_bytes} bytes of events in one turn"
        return bool(self.excess)

    def lose(self, close_code: int | None, close_reason: str = "") -> None:
        """The connection is dead."""
        # After a stream error the server has said that the response failed, cut short or not.
        self.machine.expire_failing()
        self.machine.steers.lose()
        if not self.ended:
            self.lost = True
            self.close_code = close_code
            self.close_reason = close_reason
        self.wake()

    def overflow(self) -> None:
        """Nobody reads it, and others wait behind it: it is given up, and the rest of it passes."""
        if self.give_up is not None and not self.ended:
            self.overrun = self.lost = True
            self.give_up(self)

    def expire(self, limit: str) -> None:
        """Nothing came of it for as long as *limit* allows: it is given up, and lost for whoever waits."""
        if self.give_up is not None and not self.ended:
            self.overdue, self.lost = limit, True
            self.give_up(self)

    def wake(self) -> None:
        """Wake the consumer if there is something for it, and whoever waits for any change."""
        if self._news is not None:
            self._news.set()
            self._news = None
        if self._parked is None:
            return
        if self.ended or self.given_up or not (self._to_end or self._next == len(self.events)):
            task, self._parked = self._parked, None
            trio.lowlevel.reschedule(task, outcome.Value(None))

    def forsake(self, why: str) -> None:
        """It is lost for whoever reads it, whatever becomes of its lane. `drop` must follow."""
        if not self.ended:
            self.lost = True
            self.close_reason = why

    def drop(self) -> None:
        """Nobody wants the rest: let it pass."""
        self.given_up = True
        self._take()
        self.wake()

    async def room(self, limit: int) -> None:
        """Wait until at most *limit* bytes are unread, or nobody wants them. For the reader.

        One that has ended does not grow any more, and its lane may be somebody else's by now.
        """
        while self.unread > limit and not (self.given_up or self.ended):
            self._room = trio.Event()
            await self._room.wait()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until *condition* holds, or nothing more will be heard. For whoever does not consume."""
        while not condition() and not (self.ended or self.given_up):
            if self._news is None:
                self._news = trio.Event()
            await self._news.wait()

    async def more(self) -> list[Event]:
        """Return the events that have come since, none when there are no more.

        Waits only if there are none yet; checks for cancellation always. Cancelling loses no event.

        Raises:
            trio.BusyResourceError: another task waits for them.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._to_end:
            raise _busy()
        while self._next == len(self.events) and not (self.ended or self.given_up):
            await self._park()
        events = self.events[self._next :] if self.keeps else self.events
        self._take()
        return events

    async def end(self) -> None:
        """Let everything pass until there are no more events, and be woken only then.

        Checks for cancellation always; cancelled, it leaves the events that have not come yet.

        Raises:
            trio.BusyResourceError: another task waits for them.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._parked is not None:
            raise _busy()
        self._take()
        self._to_end = True
        try:
            while not (self.ended or self.given_up):
                await self._park()
        finally:
            self._to_end = False
            if self.keeps:  # what has come meanwhile is taken
                self._next = len(self.events)

    async def _park(self) -> None:
        if self._parked is not None:
            raise _busy()
        self._parked = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._abort)

    def _take(self) -> None:
        if self.keeps:
            self._next = len(self.events)
        else:
            self.gone, self.events = self.gone + len(self.events), []
        self.unread = 0
        if self._room is not None:
            self._make_room()

    def _make_room(self) -> None:
        assert self._room is not None
        self._room.set()
        self._room = None

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._parked = None
        return trio.lowlevel.Abort.SUCCEEDED


def _size(raw: str | bytes) -> int:
    """Bytes of a message that is not all ASCII: its characters are fewer."""
    return len(raw) if isinstance(raw, bytes) else len(raw.encode(errors="surrogatepass"))


def _busy() -> trio.BusyResourceError:
    return trio.BusyResourceError("another task reads this turn; one at a time")
