"""Recording: the record of one turn, put together when it is over. Only where somebody watches turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import Context, copy_context
from typing import Any, Final, TypeAlias, TypedDict, Unpack, cast

import trio

from wspool.core.begun import TurnBegun, TurnContent
from wspool.core.encoding import Encoded, read
from wspool.core.events.part import Remarks
from wspool.core.frames import encode_received
from wspool.core.plain import plain
from wspool.core.statistics import TransportName, TurnRecord, TurnStatus
from wspool.core.usage import Usage, copied
from wspool.errors import WsPoolError
from wspool.pool.attempt import Attempt
from wspool.pool.instrument import Announcer
from wspool.pool.outcome import failed_response
from wspool.pool.within import Added, added_to

__all__ = ["Given", "Known", "TurnNotes", "model_of"]

#: Longest name that is taken from a server, in characters.
_LONGEST: Final = 200
_STATUSES: Final = frozenset({"completed", "incomplete", "failed", "rejected"})


class Known(TypedDict):
    """What its driver knows of a turn. The words are those of `TurnRecord`."""

    pool: int
    conversation: int | None
    connection: int | None
    lane: int | None
    full: bool
    why_full: str | None
    waited: float
    requests: int
    bytes_sent: int
    bytes_saved: int
    transport: TransportName
    tool_errors: int


#: The input of a turn, and the instructions of its request, as they are kept.
Given: TypeAlias = tuple[object, object]


class TurnNotes:
    """What the record of a turn says that is known as it goes. Made when it is entered.

    Attributes:
        started: when that was, in seconds on trio's clock.
        model: the model that is asked for, if the request names one.
        context: the context variables of whoever did, and what instruments have set there.
        added: what they have.
        first_at: when something came of it first, if that was of a request before the last.
    """

    __slots__ = ("added", "context", "first_at", "model", "started")

    def __init__(self, announcer: Announcer, conversation: int | None, model: str | None) -> None:
        self.started = trio.current_time()
        self.model = model
        self.context: Context = copy_context()
        self.added: Added = ()
        self.first_at: float | None = None
        if announcer.sees_turns_begin:
            begun = TurnBegun(
                pool=announcer.pool,
                conversation=conversation,
                model=model,
                started=self.started,
                context=self.context,
            )
            announcer.turning(begun)
            self.added = added_to(self.context)

    def record(
        self,
        attempt: Attempt | None,
        failure: WsPoolError | None,
        *,
        told: bool,
        sent_at: float | None,
        items: tuple[int, int],
        given: Given | None,
        **known: Unpack[Known],
    ) -> TurnRecord:
        """Return the record of the turn, which is over now.

        Args:
            attempt: its last request, if there was one.
            failure: the error that the caller was told, if any.
            told: True if the caller was told how it ended.
            sent_at: when it was sent first, if it was.
            items: input items that were given, and that were sent last.
            given: what of its content the caller gave, if somebody wants it.
            **known: fields of it, as its driver knows them.
        """
        now = trio.current_time()
        machine = None if attempt is None else attempt.machine
        # Not of the response: that is the caller's by now.
        said: Remarks = {} if machine is None else machine.remarks
        first = self.first_at if self.first_at is not None or attempt is None else attempt.first_at
        sent = known["requests"] > 0
        status = _status(attempt, told=told, sent=sent)
        if failure is None and told and status == "failed" and attempt is not None:
            failure = failed_response(attempt)
        return TurnRecord(
            response_id=machine.response_id if machine is not None else None,
            status=status,
            delivery=(failure or machine or WsPoolError()).delivery,
            duration=0.0 if sent_at is None or not sent else now - sent_at,
            started=self.started,
            ended=now,
            sent=attempt.sent_at if sent and attempt is not None else None,
            heard=attempt.heard_at if attempt is not None and attempt.first_at is not None else None,
            first_event=None if first is None or sent_at is None else first - sent_at,
            events=attempt.count if attempt is not None else 0,
            items_given=items[0],
            items_sent=items[1] if sent else 0,
            finish_reason=_text(said, "finish_reason"),
            error=None if failure is None else type(failure).__name__,
            error_code=_error_code(attempt, failure),
            response_model=_text(said, "response_model"),
            service_tier=_text(said, "service_tier"),
            context=self.context,
            content=None if given is None else _content(given, attempt),
            model=self.model,
            **known,
            usage=_usage(attempt),
            input_transformations=said.get("input_transformations", ()),
            prompt_cache_diagnostics=said.get("prompt_cache_diagnostics"),
        )


def _usage(attempt: Attempt | None) -> Mapping[str, Any] | None:
    """Return what was used: what the server says, if it says so once."""
    parts = () if attempt is None else attempt.machine.parts
    usages = [usage for part in parts if (usage := part.remarks.get("usage")) is not None]
    return Usage.of(*usages).as_json() if len(usages) > 1 else copied(usages[0]) if usages else None


def model_of(field: object) -> str | None:
    """Return the model that a request asks for, from the field of its body, encoded or not."""
    value: object = read(field) if isinstance(field, Encoded) else field
    return value if isinstance(value, str) else None


def _content(given: Given, attempt: Attempt | None) -> TurnContent:
    input, instructions = map(_plain, given)
    if isinstance(input, str):
        input = [{"role": "user", "content": input}]
    items = [_plain(item) for item in cast("Sequence[object]", input)] if _is_list(input) else []
    output: Any = []
    if attempt is not None and attempt.machine.response is not None:
        output = [read(item) for item in attempt.machine.parts[-1].output.items]
    said: Any = [items, output, instructions]
    if attempt is not None:  # a key may have found its way into it, be it by the server
        said = read(attempt.redactor.data(encode_received(said)))
    items, output, instructions = said
    return TurnContent(
        input=items,
        output=output,
        instructions=instructions if isinstance(instructions, str) else None,
    )


def _plain(value: object) -> object:
    return read(value) if isinstance(value, Encoded) else value


def _is_list(value: object) -> bool:
    return isinstance(value, (list, tuple))


def _status(attempt: Attempt | None, *, told: bool, sent: bool) -> TurnStatus:
    if not told:
        return "cancelled"
    if attempt is None or not sent:
        return "unsent"
    said = attempt.machine.status
    return "lost" if attempt.lost or said not in _STATUSES else cast("TurnStatus", said)


def _error_code(attempt: Attempt | None, failure: WsPoolError | None) -> str | None:
    error = attempt.machine.error if attempt is not None else None
    if attempt is not None and error is not None:
        label = attempt.redactor.server_error(error).label
        return plain(label, _LONGEST) if label else None
    return _text(None if failure is None else vars(failure), "code")


def _text(fields: Mapping[str, Any] | None, name: str) -> str | None:
    value = fields.get(name) if fields is not None else None
    return plain(value, _LONGEST) if isinstance(value, str) and value else None
