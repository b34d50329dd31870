"""TurnMachine: the life of one response on a lane, event by event, to exactly one outcome.

::

    NEW --handed--> SENT --response.created--> STREAMING --response.completed/failed/incomplete--> ENDED
                      |                           |  \\--stream error--> FAILING --response.failed--> ENDED
                      \\--error frame--> ENDED     \\--error frame--> ENDED

A response that was steered may be followed by another one, without a request, in the same turn::

    STREAMING --terminal, open steers--> SETTLING --response.created--> STREAMING
                                             \\--the last of them answered--> ENDED

Rules of this module:

* Only what provably belongs to this turn is given to it. A response id or a lane that is not
  ours, output before `response.created`, a number too many or missing, anything after the end:
  the lane is dirty, and nothing of it may reach anybody.
* What is known about the request (`delivery`) is read off the state, at any moment.
* A terminal event is the only proof that the lane is clean again; with open steers, what answers
  the last of them.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any, Final, assert_never, cast

import attrs

from wspool.core.error import Delivery
from wspool.core.events.steering import Steer, Steers
from wspool.core.frames import Event, Likeness, ServerError, parse_error
from wspool.core.sending.items import Output

__all__ = ["Delivery", "Part", "Reception", "TurnMachine", "TurnState", "is_about_connection"]

TERMINAL: Final = frozenset({"response.completed", "response.failed", "response.incomplete"})

_STEER: Final = "response.steer."

#: Events that may leave out the lane they are for; whoever routes them has found it.
_UNNAMED: Final = ("error", "response.error", _STEER)

#: Events that repeat the response while it has no output yet.
_PROGRESS: Final = frozenset({"response.in_progress", "response.queued"})

#: Events whose number may not be one of their response's.
_OWN_NUMBERS: Final = (_STEER, "response.error")

#: Events about the connection, not about any turn: seen between and before turns.
_ABOUT_CONNECTION: Final = frozenset(
    {
        "keepalive",
        "ping",
        "codex.rate_limits",
        "codex.response.metadata",
        "response.metadata",
        "responsesapi.websocket_timing",
    }
)


def is_about_connection(event: Event) -> bool:
    """Return whether *event* is about the connection and may come at any time."""
    return event.type in _ABOUT_CONNECTION


class TurnState(enum.Enum):
    """Where one turn is."""

    NEW = "new"
    SENT = "sent"
    STREAMING = "streaming"
    FAILING = "failing"
    SETTLING = "settling"
    ENDED = "ended"


class Reception(enum.Enum):
    """What to do with an event."""

    #: It belongs to the turn.
    DELIVER = "deliver"
    #: It belongs to the turn and ends it; the lane is clean.
    END = "end"
    #: It is about the connection: not for the turn, and harmless.
    IGNORE = "ignore"
    #: It announces that the connection will end soon; the turn goes on.
    EXPIRING = "expiring"
    #: It ends the connection in the middle of the turn: the turn is lost, not failed.
    CUT = "cut"
    #: It cannot belong to this turn: the connection must not be used again.
    DIRTY = "dirty"


# An attribute of an enum costs as much as the rest of a line in the hot path.
_STREAMING: Final = TurnState.STREAMING
_DELIVER: Final = Reception.DELIVER

#: Events that are more than output.
_LOOKED_AT: Final = (
    _ABOUT_CONNECTION
    | TERMINAL
    | _PROGRESS
    | {"error", "response.error", "response.created", "response.output_item.done"}
)


_NOT_KEPT: Final = Output()


@attrs.frozen
class Part:
    """One response of a turn that ended, and what it was steered by to begin with.

    The first of a turn began with its input. The caller is given the same response, and may do with it
    what it likes: whatever is needed of it later is taken out here.

    Attributes:
        steered_by: the items that it began with.
        response: the response as it came, its output complete.
        id: its id.
        status: how it ended.
        output: its output as a history keeps it, if there is one that does.
    """

    steered_by: list[dict[str, Any]]
    response: dict[str, Any]
    id: str
    status: str
    output: Output = attrs.field(repr=False)

    @classmethod
    def of(cls, steered_by: list[dict[str, Any]], response: dict[str, Any], *, keep: bool) -> Part:
        """Return the part that *response* has ended; *keep* its output for a history."""
        output = Output.of(response["output"]) if keep else _NOT_KEPT
        return cls(steered_by, response, str(response.get("id")), str(response["status"]), output)


class TurnMachine:
    """One turn. Feed it events with `receive`.

    Args:
        parent: the `previous_response_id` that was sent, if any.
        lane: the `stream_id` that was sent, if any.

    Attributes:
        lane: the `stream_id` that its events must have.
        state: where the turn is.
        response_id: id of its response, once created.
        keeps: set to True where a history keeps the output of its responses.
        error: the error frame, if one came.
        response: the response object of the last terminal event, with its output complete.
        parts: its responses that have ended, more than one if it was steered.
        steered: True once it was steered.
        steers: what it was steered by.
    """

    __slots__ = (
        "_counting",
        "_items",
        "_kind",
        "_next",
        "_parent",
        "_steered_by",
        "error",
        "keeps",
        "lane",
        "like",
        "output_seen",
        "parts",
        "response",
        "response_id",
        "state",
        "steered",
        "steers",
    )

    def __init__(self, parent: str | None = None, lane: str | None = None) -> None:
        self.state = TurnState.NEW
        self.lane = lane
        self.keeps = False
        self.parts: list[Part] = []
        self.steers = Steers()
        self.steered = False
        self.response_id: str | None = None
        self.error: ServerError | None = None
        self.response: dict[str, Any] | None = None
        #: True once any output of the model was received.
        self.output_seen = False
        self._parent = parent
        self._steered_by: list[dict[str, Any]] = []
        self._items: list[Event] = []
        # The number of the next event, and whether the server has been seen to count.
        self._next: int | None = None
        self._counting = False
        #: What the next event looks like if it is one more of the same output, once there were two.
        self.like: Likeness | None = None
        self._kind = ""

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
        return self.state is TurnState.ENDED and self.error is not None and self.response_id is None

    @property
    def status(self) -> str | None:
        """`completed`, `incomplete`, `failed` or `rejected` once ended, else None."""
        if self.state is not TurnState.ENDED:
            return None
        if self.response is not None:
            return self.parts[-1].status
        return "rejected" if self.refused else "failed"

    def handed(self) -> None:
        """The first byte of the request may now be on its way."""
        if self.state is not TurnState.NEW:
            raise AssertionError(f"bug: a request was handed over twice ({self.state.value})")
        self.state = TurnState.SENT

    def steer(self, steer: Steer) -> bool:
        """A steer is about to be handed over; return whether it may be: its target is still in progress."""
        if self.state is not TurnState.STREAMING or steer.target != self.response_id:
            return False
        self.steers.add(steer)
        self.steered = True
        return True

    def receive_run(self, messages: Sequence[str | bytes]) -> list[Event]:
        """Take the first of *messages* that go on with the output just seen; return their events, maybe none.

        They are what `parse_event` and `receive` would make of them one by one, for a third of the time.
        Not for lanes that have names: whoever routes their messages has to look into each.
        """
        if self.like is None or self._next is None or self.steered or self.state is not _STREAMING:
            return []
        run = self.like.run(messages, self._next)
        self._next += len(run)
        return run

    def receive(self, event: Event, *, wall_clock: float = 0.0) -> Reception:
        """Take the next event of the lane and say what to do with it.

        Raises:
            MalformedMessageError: an event that had to be decoded is no JSON object.
        """
        number = event.sequence_number
        if (
            number is not None
            and number == self._next
            and event.type not in _LOOKED_AT
            and self.state is _STREAMING
            and event.stream_id == self.lane
            and not self.steered
        ):  # nearly all that ever comes; nothing below would say otherwise
            self._next, self._counting, self.output_seen = number + 1, True, True
            if event.type != self._kind:
                self._kind, self.like = event.type, None
            elif self.like is None:
                self.like = Likeness.of(event)
            return _DELIVER
        if event.type in _ABOUT_CONNECTION:
            return Reception.IGNORE
        if self.state in (TurnState.NEW, TurnState.ENDED):
            return Reception.DIRTY
        if event.stream_id != self.lane and (
            event.stream_id is not None or not event.type.startswith(_UNNAMED)
        ):
            return Reception.DIRTY
        if number is not None:
            if number == self._next:
                self._next, self._counting = number + 1, True
            elif self._miscounts(event.type, number):
                return Reception.DIRTY
        if event.type == "error" or event.type == "response.error":
            return self._receive_error(event, wall_clock)
        if event.type == "response.created":
            return self._receive_created(event)
        if event.type in TERMINAL:
            return self._receive_terminal(event, wall_clock)
        if self.steered:
            if event.type.startswith(_STEER):
                return self._receive_steer(event)
            if self.state is TurnState.SETTLING:
                return Reception.DIRTY if event.type.startswith("response.") else Reception.DELIVER
        if self.state is TurnState.SENT:
            # Not created yet. A new kind of notice is harmless; output of some other response
            # means that the lane carries what was never ours.
            return Reception.DIRTY if event.type.startswith("response.") else Reception.DELIVER
        if event.type in _PROGRESS:
            ours = _response_of(event).get("id") == self.response_id
            return Reception.DELIVER if ours else Reception.DIRTY
        if event.type == "response.output_item.done":
            self._items.append(event)
        self.output_seen = True
        return Reception.DELIVER

    def expire_failing(self) -> None:
        """`response.failed` did not follow its stream error: the turn failed all the same.

        The lane is not clean: the event may still come.
        """
        if self.state is TurnState.FAILING:
            self.steers.lose()
            self.state = TurnState.ENDED

    def _miscounts(self, kind: str, number: int) -> bool:
        """Whether a number other than the next means that events are missing, or came before.

        Numbers go up by one within a response. A server that leaves them out, or whose first two
        do not, does not count; errors and steering have been seen with numbers of their own.
        """
        if number < 0 or not kind.startswith("response.") or kind.startswith(_OWN_NUMBERS):
            return False
        self._next = number + 1
        # An answer to a steer takes a number where it was made, and may be sent a little later.
        return self._counting and not self.steered

    def _receive_created(self, event: Event) -> Reception:
        created = _response_of(event)
        found = created.get("id")
        if not isinstance(found, str):
            return Reception.DIRTY
        if self.state is TurnState.SETTLING:
            return self._receive_successor(found, created.get("previous_response_id"))
        if self.state is not TurnState.SENT:
            return Reception.DIRTY
        if found == self._parent:
            return Reception.DIRTY  # the previous turn's response, come late
        self.response_id = found
        self.state = TurnState.STREAMING
        return Reception.DELIVER

    def _receive_successor(self, found: str, parent: object) -> Reception:
        target = self.response_id
        if target is None or parent != target or not self.steers.expects_successor(target):
            return Reception.DIRTY
        self._steered_by = self.steers.apply(target)
        self._items = []
        self.response_id, self.response, self.error = found, None, None
        self.state = TurnState.STREAMING
        return Reception.DELIVER

    def _receive_steer(self, event: Event) -> Reception:
        ours = {part.id for part in self.parts} | {str(self.response_id)}
        if not self.steers.answer(event.type.removeprefix(_STEER), event.data, ours):
            return Reception.DIRTY
        return self._settle()

    def _settle(self) -> Reception:
        """The turn has ended if its response has, and nothing more will be said about its steers."""
        if self.state is not TurnState.SETTLING or self.steers.open:
            return Reception.DELIVER
        self.state = TurnState.ENDED
        return Reception.END

    def _receive_terminal(self, event: Event, wall_clock: float) -> Reception:
        response = _response_of(event)
        if self.state in (TurnState.SENT, TurnState.SETTLING) or response.get("id") != self.response_id:
            return Reception.DIRTY
        # Some servers leave the output of the terminal event out; the items were all announced.
        if not response.get("output") and self._items:
            # Read anew: the caller has the events, and may have changed what it read of them.
            items = [Event(item.type, item.raw).data.get("item") for item in self._items]
            response["output"] = [item for item in items if isinstance(item, dict)]
        response["output"] = response.get("output") or []
        response["status"] = response.get("status") or event.type.removeprefix("response.")
        self.response = response
        self.parts.append(Part.of(self._steered_by, response, keep=self.keeps))
        if event.type == "response.failed":
            self.error = parse_error(event.data, wall_clock=wall_clock)
        self.state = TurnState.SETTLING
        self._next, self._counting = None, False
        return self._settle()

    def _receive_error(self, event: Event, wall_clock: float) -> Reception:
        error = parse_error(event.data, wall_clock=wall_clock)
        if error.is_expiry_notice:
            return Reception.EXPIRING
        if self.steered and not error.is_connection_limit:
            if self.state is TurnState.SETTLING:
                # Nothing but the steers is open, so it is about them.
                self.steers.fail(error)
                return self._settle()
            if error.blames_steering and self.steers.refuse(error):
                return Reception.DELIVER
        self.error = error
        if error.is_connection_limit and self.state is not TurnState.SENT:
            return Reception.CUT
        if self.state is TurnState.STREAMING and error.in_stream:
            self.state = TurnState.FAILING
            return Reception.DELIVER
        self.steers.lose()
        self.state = TurnState.ENDED
        return Reception.END


def _response_of(event: Event) -> dict[str, Any]:
    response = event.data.get("response")
    return cast("dict[str, Any]", response) if isinstance(response, dict) else {}
