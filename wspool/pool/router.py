"""Router: gives each event that comes in to the turn in flight that it is for.

What no turn is waiting for is either about the connection, or proof that the connection must not be
used again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import trio

from wspool.core.commands import CloseReason
from wspool.core.events.classify import Sort, is_harmless_after, sort_of
from wspool.core.events.naming import learn
from wspool.core.events.steering import steer_of
from wspool.core.events.turn import Reception, TurnState
from wspool.core.frames import Event, MalformedMessageError, lane_of, parse_event
from wspool.core.sending.allowance import LIMITS_EVENTS
from wspool.core.sending.chain import WarmUp
from wspool.core.sending.replay import MESSAGE_TOO_BIG
from wspool.core.server_error import ServerError, parse_error
from wspool.core.states import Naming
from wspool.pool.attempt import Attempt
from wspool.pool.link import Lane, Link

__all__ = ["Router"]

logger = logging.getLogger("wspool.connection")

#: Seconds that `response.failed` may take to follow its stream error. The two are written
#: together; this only bounds a server that forgets the second.
FAILED_GRACE: Final = 5.0

#: Seconds that the answer to a steer may take once its response has ended. It needs no model; this only
#: bounds a server that forgets it.
STEER_GRACE: Final = 15.0

#: Seconds that a turn goes on, with nothing else heard, after an end was dropped that may have been its own.
#: A model may think for longer; but whoever waits shall not do so for ever.
DOUBT_GRACE: Final = 15.0

#: Longest part of a foreign message that the log repeats, in characters.
_QUOTE: Final = 80

#: Longest part of the type of an event that a text of ours repeats, in characters.
_LONGEST_TYPE: Final = 128

#: Events that may say when more is taken: a retry hint with a date in it, or what is left of a limit.
_WITH_HINTS: Final = frozenset({"error", "response.error", "response.failed", *LIMITS_EVENTS})

#: Notices that are about whoever asks, whatever for.
_EVERYBODY_S: Final = frozenset({"codex.rate_limits"})

#: Where lanes have no names; most connections have one lane, and are idle.
_NOBODY: Final[Mapping[str, Lane]] = {}

#: An attribute of an enum costs as much as the rest of a line in the hot path.
_DELIVER: Final = Reception.DELIVER
_END: Final = Reception.END
_STREAMING: Final = TurnState.STREAMING


class Router:
    """Routes what comes in on one connection.

    Attributes:
        naming: how its lanes are told apart.
    """

    __slots__ = ("_by_name", "_link", "_most_events", "_only", "naming")

    def __init__(self, link: Link) -> None:
        self._link = link
        self._by_name = _NOBODY
        self.naming = Naming.NONE
        #: The lane that every event is for, or None where that must be found out.
        self._only: Lane | None = link.lanes[0]
        self._most_events = link.host.policy.max_turn_events

    def name_lanes(self, naming: Naming) -> None:
        """Say how its lanes are told apart."""
        self.naming = naming
        if naming is Naming.NONE:
            self._only = self._link.lanes[0]
        else:
            self._only, self._by_name = None, {lane.name: lane for lane in self._link.lanes}

    def take(self, messages: Sequence[str | bytes]) -> Iterable[Attempt]:
        """Take a batch; return the attempts that something of it was for."""
        link = self._link
        link.heard_at = link.host.now()
        fed: dict[Attempt, None] = {}
        at, end = 0, len(messages)
        try:
            while at < end and not link.ending:
                only, run = self._only, 0
                attempt = None if only is None else only.attempt
                if attempt is not None and attempt.machine.like is not None:
                    run = self._feed_run(attempt, messages, at)
                if not run:
                    run, attempt = 1, self._dispatch(messages[at])
                if attempt is not None:
                    fed[attempt] = None
                at += run
        finally:
            # Whatever ended this batch: a turn that has ended in it is no lane's any more, so
            # nobody else would tell its consumer.
            heard_at = trio.current_time() if fed else 0.0
            for attempt in fed:
                attempt.heard_at = heard_at
                if attempt.first_at is None:
                    attempt.first_at = heard_at
                attempt.wake()
        return fed

    def _feed_run(self, attempt: Attempt, messages: Sequence[str | bytes], at: int) -> int:
        """Give those messages from *at* on that go on with the output just seen; return how many."""
        count = attempt.count
        if attempt.received > attempt.weighed or count > attempt.counted:
            return 0  # it is looked at with the next
        return attempt.feed_run(messages[at : at + self._most_events - count])

    def _dispatch(self, message: str | bytes) -> Attempt | None:
        """Route one message; return the attempt that has something new."""
        try:
            event = parse_event(message)
            lane = self._only or self._find(event)
            attempt = lane.attempt if lane is not None else None
            if lane is None or attempt is None:
                self._receive_stray(event)
                return None
            wall_clock = time.time() if event.type in _WITH_HINTS else 0.0
            reception = attempt.feed(event, wall_clock)
            if wall_clock:
                self._link.host.errands.stated(event.data)
                if reception is _DELIVER or reception is _END:
                    self._heed(attempt.machine.error)
        except MalformedMessageError as error:
            if not message.strip():
                return None  # some servers keep a connection open so
            logger.debug("connection %s: %s: %s", self._link.id, error, self._quote(message))
            # Not what it said: that may be somebody else's.
            self._link.close_reason = f"a message that is no JSON object with a type: {error}"
            self._link.poison(CloseReason.DIRTY)  # mark: dirty: no JSON
            return None
        if (
            reception is _DELIVER
            and attempt.machine.state is _STREAMING
            and not attempt.machine.steered
            and attempt.gone + len(attempt.events) <= attempt.counted
            and attempt.received <= attempt.weighed
        ):
            return attempt  # nearly all that ever comes
        if reception is _END:
            self._end(lane, attempt)
            return attempt
        match reception:
            case Reception.DELIVER:
                self._look(lane, attempt)
            case Reception.EXPIRING:
                self._link.report(self._link.host.core.retire)
            case Reception.CUT:
                lane.attempt = None
                attempt.lose(None)
                self._link.poison(CloseReason.LIMIT)  # mark: cut: a turn
            case Reception.DIRTY:
                # mark: dirty: cannot be the turn's
                self._spoil(f"{attempt.machine.complaint}: {self._name(event)}", attempt)
            case Reception.IGNORE:
                if attempt.notice is not None and sort_of(event.type) is Sort.NOTICE:
                    attempt.notice(event)
                if attempt.machine.unproved and lane.doubted is not attempt:
                    lane.doubted = attempt
                    self._link.spawn(self._expire_doubt, lane, attempt, event)
        return attempt

    def _look(self, lane: Lane, attempt: Attempt) -> None:
        """Look at *attempt* after an event that is not like nearly all."""
        if attempt.is_over(self._link.host.policy):
            # As for a message that is too big: another connection would meet the same.
            self._link.close_code, self._link.close_reason = MESSAGE_TOO_BIG, attempt.excess
            self._link.poison(CloseReason.DIRTY)  # mark: dirty: more than a turn may hold
            return
        if attempt.grown:
            self._link.host.burden.weigh()
        # Whatever it weighs: these bound what a server forgets to send.
        if attempt.machine.state is TurnState.FAILING and lane.failing is not attempt:
            lane.failing = attempt
            self._link.spawn(self._expire_failing, lane, attempt)
        elif attempt.machine.steered and attempt.machine.settles_soon:
            ended = attempt.machine.response_id
            if lane.settling != ended:
                lane.settling = ended
                self._link.spawn(self._expire_settling, lane, attempt, ended)

    def _heed(self, error: ServerError | None) -> None:
        """Tell the core what the whole endpoint is asked to wait."""
        if error is not None and error.hold:
            self._link.host.step(self._link.host.core.hold, seconds=error.hold)

    def _name(self, event: Event) -> str:
        """The type of *event*, for a text of ours."""
        return self._link.redactor.shown(event.type, _LONGEST_TYPE)

    def _quote(self, message: str | bytes) -> str:
        """The beginning of *message*, for a text of ours."""
        text = message if isinstance(message, str) else message.decode(errors="replace")
        return repr(self._link.redactor.shown(text, _QUOTE))

    def _find(self, event: Event) -> Lane | None:
        """Return the lane that *event* is for, where lanes have names or are on trial; None for none."""
        if self.naming is Naming.TRIAL:
            lane = self._link.lanes[0]
            if lane.attempt is not None:
                self._learn(event, lane.attempt)
            return lane
        name = lane_of(event)
        if name is not None:
            return self._by_name.get(name)
        if is_harmless_after(event, self._link.past):
            return None
        busy = [lane for lane in self._link.lanes if lane.attempt is not None]
        if event.type.startswith("response.steer."):
            target = steer_of(event.data).get("previous_response_id")
            return next((lane for lane in busy if _answers(lane, target)), None)
        if sort_of(event.type) is Sort.ERROR and len(busy) == 1:
            return busy[0]  # there is nobody else whom it could be about
        if event.type.startswith("response."):
            self._link.host.step(self._link.host.core.narrow)  # the endpoint has changed its mind
        return None

    def _learn(self, event: Event, attempt: Attempt) -> None:
        naming = learn(event)
        if naming is Naming.NAMED:
            self.name_lanes(Naming.NAMED)
            self._link.report(self._link.host.core.widen)
        elif naming is Naming.NONE:
            self.name_lanes(Naming.NONE)
            attempt.machine.unname()
            self._link.host.step(self._link.host.core.narrow)

    def _receive_stray(self, event: Event) -> None:
        """An event that no turn in flight is for: about the connection, or proof that it is dirty."""
        if is_harmless_after(event, self._link.past):
            if event.type in LIMITS_EVENTS:
                self._link.host.errands.stated(event.data, answering=False)
            if event.sequence_number is not None and self.naming is Naming.NAMED:
                for lane in self._link.lanes:
                    if lane.attempt is not None:
                        lane.attempt.machine.pass_over(event.sequence_number)
            self._tell(event)
            return
        is_error = sort_of(event.type) is Sort.ERROR
        error = parse_error(event.data, wall_clock=time.time()) if is_error else None
        if error is not None and error.is_expiry_notice:
            self._link.report(self._link.host.core.retire)
            return
        why = f"an event that belongs to no turn in flight: {self._name(event)}"
        if error is not None and error.is_connection_limit:
            self._link.close_reason = why
            self._cut(event)
            self._link.poison(CloseReason.LIMIT)  # mark: cut: all turns
        elif event.stream_id is not None:
            self._spoil(why)  # mark: dirty: for no turn, beside those of others
        else:
            self._link.close_reason = why
            self._link.poison(CloseReason.DIRTY)  # mark: dirty: for no turn

    def _spoil(self, why: str, attempt: Attempt | None = None) -> None:
        """A lane is not clean, and never will be: *attempt* is lost, no turn may follow on the connection.

        What others have in flight names its lane, and is paid for: the connection goes with the last of them.
        """
        link = self._link
        if self.naming is not Naming.NAMED or not link.is_shared(attempt):
            link.close_reason = why
            link.poison(CloseReason.DIRTY)  # mark: dirty: a lane beside which nothing is in flight
            return
        link.report(link.host.core.distrust)
        if (
            attempt is not None and attempt.give_up is not None
        ):  # a warm-up is given up by whoever waits for it
            attempt.lose(None, why)
            attempt.give_up(attempt)

    def _tell(self, event: Event) -> None:
        """A notice names no lane: limits are everybody's, all else is told where there is but one turn."""
        if sort_of(event.type) is Sort.NOTICE:
            busy = [lane.attempt for lane in self._link.lanes if lane.attempt is not None]
            for attempt in busy:
                if attempt.notice is not None and (len(busy) == 1 or event.type in _EVERYBODY_S):
                    attempt.notice(event)

    def _cut(self, event: Event) -> None:
        """The connection is at its limit, and so are all turns on it."""
        for lane in self._link.lanes:
            if lane.attempt is not None:
                attempt, lane.attempt = lane.attempt, None
                if attempt.feed(event, 0.0) is not Reception.END:
                    attempt.lose(None)
                attempt.wake()

    def _end(self, lane: Lane, attempt: Attempt) -> None:
        """The terminal event of *attempt* has come."""
        lane.attempt = None
        machine = attempt.machine
        link = self._link
        if attempt.on_end is not None:
            attempt.on_end()
        remembered = machine.remembered
        completed = remembered is not None and lane.warming is None
        lane.latest = remembered if not link.stateless else None
        lane.warm_up = None
        if completed and link.unproven:
            link.unproven = False
            link.host.on_proved(link)
        useless = False
        if lane.warming is not None:
            lane.warm_up = WarmUp.of(machine.response, lane.warming, output_seen=machine.output_seen)
            lane.warming = None
            useless = lane.warm_up is None
        if machine.rewritten:
            self._link.host.announcer.caught(machine.rewritten)
        why = machine.why_close(closes_after_error=self._link.host.provider.closes_after_error)
        if why is CloseReason.LIMIT:
            link.poison(why, completed=completed)
        else:
            if why is not None:
                link.report(link.host.core.distrust)
            # A response to the warm-up request that nobody can continue from is nothing to remember.
            held = None if lane.latest is None or useless else hash(lane.latest)
            calls = held is not None and machine.parts[-1].output.asks
            if not link.over:  # as `Link.report`, but each turn comes here
                step, finished = link.host.step, link.host.core.finished
                said = {"completed": completed, "response": held, "calls": calls}
                step(finished, link.id, lane.id, answered=link.stateless, **said)

    async def _expire_failing(self, lane: Lane, attempt: Attempt) -> None:
        # The grace begins anew with whatever still comes of the response.
        heard = -1
        while heard != attempt.received and attempt.machine.state is TurnState.FAILING:
            heard = attempt.received
            await trio.sleep(FAILED_GRACE)
        if lane.failing is attempt:  # and not a later one, which has a grace of its own
            lane.failing = None
        if lane.attempt is attempt and attempt.machine.state is TurnState.FAILING:
            attempt.machine.expire_failing()
            attempt.wake()
            self._spoil("an error without its end", attempt)  # mark: dirty: an error without its end

    async def _expire_doubt(self, lane: Lane, attempt: Attempt, event: Event) -> None:
        # As above: what still comes of the response shows that it has not ended.
        heard = -1
        while heard != attempt.received and not attempt.ended:
            heard = attempt.received
            await trio.sleep(DOUBT_GRACE)
        if lane.attempt is attempt and not attempt.ended:
            # mark: dirty: nothing after an end in doubt
            self._spoil(f"{attempt.machine.complaint}: {self._name(event)}", attempt)

    async def _expire_settling(self, lane: Lane, attempt: Attempt, ended: str | None) -> None:
        await trio.sleep(STEER_GRACE)
        machine = attempt.machine
        # A successor that has ended since has a grace of its own.
        if lane.attempt is attempt and machine.response_id == ended and machine.settles_soon:
            self._spoil("no answer to a steer", attempt)  # mark: dirty: no answer to a steer


def _answers(lane: Lane, target: object) -> bool:
    """Whether the turn on *lane* has, or had, the response *target*."""
    machine = lane.attempt.machine if lane.attempt is not None else None
    if machine is None or target is None:
        return False
    return target == machine.response_id or any(target == part.id for part in machine.parts)
