"""TurnMachine: the life of one response on a lane, event by event, to exactly one outcome.

What an event is and whose, `wspool.core.events.classify` says; what follows from that stands in the table of
`wspool.core.events.table`. Here is what each step leaves behind: the id, the error, the response with its
output, the numbers. What is known about the request (`delivery`) is read off the state, at any moment. A
response that was steered may be followed by another one, without a request, in the same turn; so a turn has
as many parts as it has responses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, assert_never

from wspool.core.commands import CloseReason
from wspool.core.error import Delivery
from wspool.core.events.assembly import Assembly
from wspool.core.events.classify import Sort, classify, sort_of, usual_end, usual_start
from wspool.core.events.doubt import is_proved
from wspool.core.events.evidence import Evidence, item_of
from wspool.core.events.part import Part, Remarks
from wspool.core.events.past import Past
from wspool.core.events.reading import GAP, Reading
from wspool.core.events.steering import Steer, Steers
from wspool.core.events.table import DIRTY, TURN_TABLE, Reception, TurnInput, TurnState, follow
from wspool.core.events.trust import EXACT, Rewrite, Trust
from wspool.core.frames import Event, Likeness
from wspool.core.server_error import ServerError

__all__ = ["Delivery", "Reception", "TurnMachine", "TurnState"]

# An attribute of an enum costs as much as the rest of a line in the hot path.
_NEW: Final = TurnState.NEW
_SENT: Final = TurnState.SENT
_STREAMING: Final = TurnState.STREAMING
_SETTLING: Final = TurnState.SETTLING
_ENDED: Final = TurnState.ENDED
_DELIVER: Final = Reception.DELIVER
_END: Final = Reception.END
_TERMINAL: Final = TurnInput.TERMINAL
_OUTPUT: Final = TurnInput.OUTPUT
_PROGRESS: Final = TurnInput.PROGRESS
_CREATED: Final = TurnInput.CREATED
_SUCCESSOR: Final = TurnInput.SUCCESSOR
_HANDED: Final = TurnInput.HANDED
_SETTLED: Final = TurnInput.SETTLED
_ITEM: Final = Sort.ITEM
_ITEM_DONE: Final = Sort.ITEM_DONE
_DELTA: Final = Sort.DELTA

_STEER: Final = "response.steer."
_COMPLETED: Final = "response.completed"

#: What has been seen with numbers of its own, beside those of the response.
_OWN_NUMBERS: Final = frozenset(
    {TurnInput.NOTICE, TurnInput.EXTENSION, TurnInput.ERROR, TurnInput.LIMIT, TurnInput.EXPIRING}
    | {TurnInput.STEER, TurnInput.STALE, TurnInput.UNKNOWN, TurnInput.DOUBTFUL}
)

_NOTHING: Final[frozenset[Rewrite]] = frozenset()


class TurnMachine:
    """One turn. Feed it events with `receive`.

    Args:
        parent: the `previous_response_id` that was sent, if any.
        lane: the `stream_id` that was sent, if any.
        past: what the connection has carried before.
        trust: how far the endpoint's ids and numbers prove something.

    Attributes:
        state: where the turn is.
        keeps: set to True where the output of its responses, and what they say, is wanted later.
        error: the error of its request or response, if one came.
        response: the response object of the last terminal event, with its output complete.
        mended: True if the last terminal event says something else than `response`, or by another name.
        parts: its responses that have ended, more than one if it was steered.
        output_seen: True once any output of the model was received.
        steered: True once it was steered.
        suspect: True if no other turn may follow on the connection, though this one goes on.
        unproved: True once an end was dropped that may have been its own.
        rewritten: what the endpoint was caught rewriting; proved once the turn has ended.
        complaint: what was wrong with the event that made the lane dirty, or was dropped, if one was.
    """

    __slots__ = (
        "_kind",
        "_known",
        "_same",
        "_steered_by",
        "complaint",
        "error",
        "keeps",
        "like",
        "mended",
        "output_seen",
        "parts",
        "response",
        "rewritten",
        "state",
        "steered",
        "suspect",
        "unproved",
    )

    def __init__(
        self,
        parent: str | None = None,
        lane: str | None = None,
        past: Past | None = None,
        trust: Trust = EXACT,
    ) -> None:
        self.state = _NEW
        self.keeps = False
        self.parts: list[Part] = []
        self.error: ServerError | None = None
        self.response: dict[str, Any] | None = None
        self.output_seen = self.suspect = self.unproved = self.steered = self.mended = False
        self.rewritten = _NOTHING
        self.complaint = ""
        self._known = Evidence(parent, lane, past if past is not None else Past(), trust)
        self._steered_by: list[dict[str, Any]] = []
        #: The type of the event before, if it was output: one more of it needs no second look.
        self._kind = ""
        #: What stands in it if it is about the same item.
        self._same = ""
        #: What the next event looks like if it is one more of the same output, once there were two.
        self.like: Likeness | None = None

    def unname(self) -> None:
        """Its events name no lane: the endpoint has none."""
        self._known.lane = None

    def pass_over(self, number: int) -> None:
        """A notice that names no lane has that number, which may be one of its response."""
        self._known.pass_over(number)

    @property
    def response_id(self) -> str | None:
        """Id of its response, once created; of the last, if it was steered."""
        return self._known.response_id

    @property
    def steers(self) -> Steers:
        """What it was steered by."""
        return self._known.steers

    @property
    def delivery(self) -> Delivery:
        """What is known about the request now."""
        match self.state:
            case TurnState.NEW:
                return "not_sent"
            case TurnState.SENT:
                return "ambiguous"
            case TurnState.STREAMING | TurnState.FAILING | TurnState.SETTLING:
                return "accepted"
            case TurnState.ENDED:
                return "terminal"
            case _:
                assert_never(self.state)

    @property
    def settles_soon(self) -> bool:
        """True when an answer to a steer is overdue: it, not a response of the model, is what is missing."""
        if self.state is not TurnState.SETTLING:
            return False
        failed = self.response is not None and self.parts[-1].status == "failed"
        return failed or not self.steers.expects_successor(self.response_id)

    @property
    def refused(self) -> bool:
        """True when the request was refused by an error frame before anything was created:
        it provably did not run."""
        return self.error is not None and self.state is _ENDED and self.response_id is None

    @property
    def status(self) -> str | None:
        """`completed`, `incomplete`, `failed` or `rejected` once ended, else None."""
        if self.state is not _ENDED:
            return None
        if self.response is not None:
            return self.parts[-1].status
        return "rejected" if self.refused else "failed"

    @property
    def remarks(self) -> Remarks:
        """What its last response says of itself; nothing if none has ended."""
        return self.parts[-1].remarks if self.response is not None else {}

    @property
    def put_off(self) -> bool:
        """True when its response failed before there was anything of it, and before anything was paid, for
        what the endpoint says would have met any other. As good as refused, though it was created."""
        error, response = self.error, self.response
        if self.status != "failed" or error is None or response is None or not error.blames_endpoint:
            return False
        return not (self.output_seen or self.steered or response.get("output") or response.get("usage"))

    @property
    def remembered(self) -> str | None:
        """The response that the server still holds on this lane once the turn has ended, if any.

        A request that failed may have evicted its parent, and then it holds nothing.
        """
        return self.parts[-1].id if self.status in ("completed", "incomplete") else None

    def why_close(self, *, closes_after_error: bool) -> CloseReason | None:
        """Why the connection must go now that the turn has ended; None if another turn may follow.

        Args:
            closes_after_error: True if the provider closes a connection on which it refused a request.
        """
        if self.error is not None and self.error.is_connection_limit:
            return CloseReason.LIMIT
        if self.suspect or (self.refused and closes_after_error):
            return CloseReason.DIRTY  # mark: dirty: no turn may follow this one
        return None

    def handed(self) -> None:
        """The first byte of the request may now be on its way."""
        if self.state is not _NEW:
            raise AssertionError(f"bug: a request was handed over twice ({self.state.value})")
        self.state = TURN_TABLE[_NEW][_HANDED].state

    def steer(self, steer: Steer) -> bool:
        """A steer is about to be handed over; return whether it may be: its target is still in progress."""
        if self.state is not TurnState.STREAMING or steer.target != self.response_id:
            return False
        self.steers.add(steer)
        self.steered = self._known.steered = True
        return True

    def receive_run(self, messages: Sequence[str | bytes]) -> tuple[list[Event], str]:
        """Take the first of *messages* that go on with the output just seen, maybe none.

        Return their events, and the messages as one text: what `parse_event` and `receive` would make of them
        one by one, for a third of the time. Not for lanes with names, whose messages are routed one by one.
        """
        known = self._known
        if self.like is None or known.next is None or known.steered or self.state is not _STREAMING:
            return [], ""
        run, text = self.like.run(messages, known.next)
        if run:
            known.next += len(run)
            known.last = run[-1]
        return run, text

    def receive(self, event: Event, wall_clock: float = 0.0) -> Reception:
        """Take the next event of the lane and say what to do with it.

        Raises:
            MalformedMessageError: an event that had to be decoded is no JSON object.
        """
        known = self._known
        number, kind = event.sequence_number, event.type
        if (
            kind == self._kind
            and number == known.next
            and self.state is _STREAMING
            and event.stream_id == known.lane
            and not known.steered
            and (not self._same or (isinstance(event.raw, str) and self._same in event.raw))
        ):  # nearly all that ever comes; nothing below would say otherwise
            if number is not None:
                known.next, known.past.counts, known.last = number + 1, True, event
                if self.like is None:
                    self.like = Likeness.of(event)
            return _DELIVER
        self.like = None
        if known.passed and number is not None:
            known.pass_to(number)
        before = self.state
        if before is _SENT and (name := usual_start(event, known)) is not None:
            return self._start(event, name)
        reading = usual_end(event, known) if kind == _COMPLETED and before is _STREAMING else None
        if reading is None:
            reading = classify(event, before, known, wall_clock)
        what = reading.what
        if reading.suspect:
            self._suspect(reading)
        if what is _TERMINAL and not self._complete(kind, reading):
            reading = GAP  # mark: dirty: an end without all of its output
            what = reading.what
        step = TURN_TABLE[before].get(what)
        if step is None:
            self.complaint = reading.why
            return DIRTY  # mark: dirty: not in the table
        # Every message uses up its number, whatever becomes of it; what repeats an earlier one has none.
        if number == known.next and number is not None and not reading.suspect:
            known.next, known.past.counts, known.last = number + 1, True, event
        elif number is not None and what not in _OWN_NUMBERS:
            known.take(number)
            known.last = event
        self.state = step.state
        self._kind = ""
        if what is _OUTPUT:
            self._receive_output(event)
            return step.reception
        if what is _TERMINAL:
            self._receive_terminal(reading)
        elif what is _CREATED or what is _SUCCESSOR:
            self._receive_created(reading)
            known.began = event
        elif what is _PROGRESS:
            known.began = None
            return step.reception
        elif what is TurnInput.ERROR or what is TurnInput.LIMIT:
            self._receive_error(reading, before)
        elif what is TurnInput.STEER:
            self._receive_answer(event, reading, before)
        elif what is TurnInput.MEMBER:
            known.output.leave_out(event.agent)
        reception = step.reception
        if reception is _END or (step.state is _SETTLING and reception is _DELIVER):
            return self._settle()
        return reception

    def _start(self, event: Event, name: str) -> Reception:
        """Its response has begun, as nearly all do."""
        known = self._known
        if event.sequence_number is not None:
            known.take(event.sequence_number)
            known.last = event
        known.past.begin(name)
        known.response_id, known.began = name, event
        step = TURN_TABLE[_SENT][_CREATED]
        self.state = step.state
        return step.reception

    def expire_failing(self) -> None:
        """`response.failed` did not follow its stream error: the turn failed all the same.

        The lane is not clean: the event may still come.
        """
        if self.state is TurnState.FAILING:
            self.steers.lose()
            self.state = follow(self.state, TurnInput.EXPIRED).state

    def _suspect(self, reading: Reading) -> None:
        """No other turn may follow on the connection."""
        self.suspect = True
        self._known.mixed = self._known.mixed or reading.mixed
        if reading.rewritten is not None:
            self.rewritten |= {reading.rewritten}
        if reading.what is TurnInput.DOUBTFUL:
            self.complaint = reading.why
            # An end without an id, and an error, may have been ours; no more may come.
            ended = reading.status is not None or reading.error is not None
            self.unproved = self.unproved or ended

    def _complete(self, kind: str, reading: Reading) -> bool:
        """Complete what an event of that type has ended with; return False if a piece is missing."""
        response = reading.response if reading.response is not None else {}
        known = self._known
        counted = known.numbers and known.past.counts and not known.steered and known.output.numbered
        own = response.get("output")
        output = known.output.output(
            own,
            whole=reading.status == "completed",
            past=None if counted else known.past,
            mixed=known.mixed,
        )
        if output is None:
            if reading.status != "failed":
                return False
            output = []  # that it failed is all there is to know
        if self.rewritten:
            self.rewritten = frozenset(what for what in self.rewritten if is_proved(what, own, known))
        said = own, response.get("status"), response.get("id")
        if not isinstance(said[2], str):
            response["id"] = known.response_id
        # The event's type is the proof, not what a server has copied from the response's beginning.
        response["output"], response["status"] = output, reading.status
        self.mended = said != (output, reading.status, response["id"]) or kind != f"response.{reading.status}"
        return True

    def _receive_output(self, event: Event) -> None:
        self.output_seen = True
        known, name, sort = self._known, None, sort_of(event.type)
        if sort is _ITEM or sort is _ITEM_DONE:
            known.output.add(event)
            name = known.about if sort is _ITEM_DONE and known.items else item_of(event)
            if name is not None:
                known.announce(name)
            return
        # One more of it is about the same item, or has to be looked at.
        if event.sequence_number is None:
            if not isinstance(event.raw, str):
                return
            name = item_of(event)
        elif sort is not _DELTA or known.mixed or not known.numbers:
            return
        elif known.items and isinstance(event.raw, str):
            name = known.about
        self._kind, self._same = event.type, f'"{name}"' if name is not None else ""

    def _receive_terminal(self, reading: Reading) -> None:
        response = self.response = reading.response or {}
        self.error = reading.error
        if reading.error is not None:
            self._known.past.end_failed(reading.error)
        self.parts.append(Part.of(self._steered_by, response, keep=self.keeps))
        known = self._known
        known.past.end(response["output"], known.items)
        if response["id"] != known.response_id:
            known.past.begin(response["id"])
        known.next = None

    def _receive_error(self, reading: Reading, before: TurnState) -> None:
        if before is not TurnState.SENT and reading.error is not None:
            self._known.past.fail(reading.error)
        elif reading.response is not None:  # it ran, though nobody heard it begin
            self._known.begin(reading.response["id"])
        if self.error is None or reading.what is TurnInput.LIMIT:
            self.error = reading.error

    def _receive_created(self, reading: Reading) -> None:
        known = self._known
        if (ended := known.response_id) is not None:
            known.earlier |= {ended}
            self._steered_by = known.steers.apply(ended)
            known.output = Assembly()
            known.items, known.fresh = set(), False
            self.response, self.error = None, None
        known.begin((reading.response or {})["id"])

    def _receive_answer(self, event: Event, reading: Reading, before: TurnState) -> None:
        """Something was said about what the response was steered by."""
        steers = self.steers
        if reading.error is None:
            steers.answer(event.type.removeprefix(_STEER), event.data)
        elif before is TurnState.SETTLING:
            steers.fail(reading.error)  # nothing but the steers is open, so it is about them
        else:
            steers.refuse(reading.error)

    def _settle(self) -> Reception:
        """A response that has ended ends the turn, if nothing more will be said about its steers."""
        known = self._known
        if self.state is _SETTLING:
            if known.steered and known.steers.open:
                return _DELIVER
            self.state = TURN_TABLE[_SETTLING][_SETTLED].state
        return _END
