"""Frozen snapshots, for people, metrics and tests. Taking one changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import Context
from functools import partial
from typing import Any, Literal

import attrs

from wspool.core.begun import Record, TurnContent
from wspool.core.commands import CloseReason
from wspool.core.error import Delivery
from wspool.core.usage import Usage

__all__ = [
    "CloseRecord",
    "ConversationStatistics",
    "DialRecord",
    "GrantRecord",
    "Move",
    "MoveReason",
    "PoolRecord",
    "PoolStatistics",
    "ToolRecord",
    "TransportName",
    "TurnInFlight",
    "TurnRecord",
    "TurnStatus",
]

#: What carries requests.
TransportName = Literal["websocket", "http"]

#: How a turn ended. `completed`, `incomplete`, `failed`: the status of its response. `rejected`: the server
#: refused the request. `lost`: its connection died, or was given up. `cancelled`: the caller left before it
#: was told how it ended. `unsent`: the caller was told an error before anything was sent.
TurnStatus = Literal["completed", "incomplete", "failed", "rejected", "lost", "cancelled", "unsent"]


@attrs.frozen(kw_only=True)
class PoolStatistics:
    """A pool at one moment. States count connections or lanes now, the rest counts up for ever.

    Attributes:
        max_size: connections at most.
        min_idle: lanes that are kept ready ahead of demand (`PoolPolicy.min_idle`, `Pool.resize`).
        size: connections that count against it: dialing, open and retiring.
        dialing: connections whose handshake is running.
        open: usable connections.
        retiring: connections past their planned retirement, still open.
        closing: connections saying goodbye; they do not count against `max_size`.
        idle: lanes that can be granted now.
        warming: lanes busy with a warm-up request.
        leased: lanes held by a lease, with or without a turn.
        parked: leased lanes whose holder is between turns; they may be taken if others starve.
        in_flight: leased lanes with a turn in flight.
        draining: lanes on which the rest of an abandoned turn is arriving.
        waiting: tasks in line for a lease.
        degraded: True while the last dial failed and none succeeded since. One for which this process had no
            file descriptor says nothing.
        paused: True while nothing is granted.
        closed_pool: True once the pool is closing.
        dialed: dials started.
        dial_failures: dials that failed.
        granted: leases granted.
        released: leases given back by their holder.
        lost_leases: leases that ended with their connection.
        stolen: parked leases whose lane went to somebody who starved, or goes on from the same response.
        abandoned: waiters that left the line (cancelled).
        refused: waiters that were refused.
        turns: turns started.
        retirements: connections that reached their planned retirement.
        closed: connections closed, by reason (`CloseReason`).
        learned_lifetime: seconds that connections live here, where that was learnt from their ends and is
            shorter than what the provider and the policy say; else None.
        lenient: why the endpoint's words are not taken for evidence (`Provider.trust`): its profile says so,
            or what it was caught doing. Empty where they are.
        rewritten: turns that were answered though the endpoint had rewritten the `ids` of responses, or the
            `numbers` of events; by which of them.
        held: seconds until the next request may be sent, because the endpoint refused or asked to wait.
        held_for: what it refused last, where `held` is not 0; empty otherwise.
        room: turns that may be at work at once, where refusals are waited out
            (`PoolPolicy.refusal_patience`); else None.
        at_work: turns at work, counted there alone.
        suspects: turns that were refused, not for a rate limit, and not answered since, counted there alone.
        unclear: seconds for which the endpoint has refused everybody there without a word of whose trouble
            that is: it may stumble over one request (`wspool.core.sending.blame`). 0 where that is clear.
    """

    max_size: int
    min_idle: int
    size: int
    dialing: int
    open: int
    retiring: int
    closing: int
    idle: int
    warming: int
    leased: int
    parked: int
    in_flight: int
    draining: int
    waiting: int
    degraded: bool
    paused: bool
    closed_pool: bool
    dialed: int
    dial_failures: int
    granted: int
    released: int
    lost_leases: int
    stolen: int
    abandoned: int
    refused: int
    turns: int
    retirements: int
    closed: Mapping[str, int]
    learned_lifetime: float | None = None
    lenient: Sequence[str] = ()
    rewritten: Mapping[str, int] = attrs.field(factory=dict[str, int])
    held: float = 0.0
    held_for: str = ""
    room: int | None = None
    at_work: int = 0
    suspects: int = 0
    unclear: float = 0.0


@attrs.frozen(kw_only=True)
class ConversationStatistics:
    """What one conversation has done so far.

    Attributes:
        turns: turns that counted: their end was given to the caller, and they are history.
        delta_turns: of all requests sent, those with only what was new.
        full_turns: of all requests sent, those with the whole history.
        moves: times it went on on another connection.
        rotations: of those, the ones that were planned: its connection was near its end of life.
        retries: turns that `run` took again, see its `retries`.
        tool_calls: tool calls made by `run`.
        tool_errors: of those, the ones that failed: a tool raised, or there was none for what was asked.
        bytes_sent: bytes of requests.
        bytes_saved: bytes of history that delta requests did not have to send.
        withheld: reasoning items that the server withheld from the model, over all turns. A history that is
            sent in full to another model, user or organisation loses its reasoning so, without an error.
        usage: tokens of all its turns, however they ended, as far as the server has said.
    """

    turns: int
    delta_turns: int
    full_turns: int
    moves: int
    rotations: int
    retries: int
    tool_calls: int
    bytes_sent: int
    bytes_saved: int
    withheld: int = 0
    usage: Usage = attrs.field(factory=Usage)
    tool_errors: int = 0


#: Why a conversation went on on another connection. `rotation`: the old one was near its end of life.
#: `lost`: it is gone. `taken`: it was between turns, and somebody else starved. `busy`: a turn that was
#: given up has not ended on it. `refused`: the server refused a turn on it.
MoveReason = Literal["rotation", "lost", "taken", "busy", "refused"]


@attrs.frozen(kw_only=True)
class PoolRecord(Record):
    """A pool has opened, as an instrument sees it.

    Attributes:
        pool: its number in this process; the other records of it have the same.
        provider: name of its provider's profile.
        host: where its endpoint is.
        port: the port there.
        statistics: returns a snapshot of it, as `Pool.statistics`. Never waits. From another thread than the
            pool's a snapshot may mix two moments. Of a copy it is the one from when that was made.
    """

    pool: int
    provider: str
    host: str
    port: int
    statistics: Callable[[], PoolStatistics] = attrs.field(repr=False)

    def _to_send(self) -> dict[str, Any]:
        return {**super()._to_send(), "statistics": partial(_as_it_was, self.statistics())}


def _as_it_was(statistics: PoolStatistics) -> PoolStatistics:
    return statistics


@attrs.frozen(kw_only=True)
class Move(Record):
    """A conversation went on on another connection, as an instrument sees it.

    Attributes:
        conversation: its number in the pool, None for a turn that brings its history along.
        before: number of the connection it was on.
        after: number of the one it is on now.
        reason: why.
        pool: number of the pool in this process.
        moved: when, in seconds on trio's clock.
    """

    conversation: int | None
    before: int
    after: int
    reason: MoveReason
    pool: int = 0
    moved: float = 0.0


@attrs.frozen(kw_only=True)
class DialRecord(Record):
    """How one dial went, as an instrument sees it.

    Attributes:
        phases: seconds of each phase that was begun, in order: resolve, tcp, proxy, tls, upgrade. Through a
            proxy, its own lookup and connection are in "proxy". Empty if the connector does not measure.
        duration: seconds of the whole dial, without those for asking for the key.
        failure: what went wrong and what to do, None if nothing did.
        transport: what was dialled.
        connection: number of the connection that it was for.
        pool: number of the pool in this process.
        started: when it began, in seconds on trio's clock.
        phase: the phase in which it failed, None if it did not or was stopped.
        status: the HTTP status that refused it, if one did.
    """

    phases: Mapping[str, float]
    duration: float
    failure: str | None
    transport: TransportName = "websocket"
    connection: int = 0
    pool: int = 0
    started: float = 0.0
    phase: str | None = None
    status: int | None = None


@attrs.frozen(kw_only=True)
class CloseRecord(Record):
    """A connection that was open is closed, as an instrument sees it.

    Attributes:
        pool: number of the pool in this process.
        connection: its number.
        reason: why.
        age: seconds since it was open.
        closed: when, in seconds on trio's clock.
        close_code: the close code it ended with, if any.
    """

    pool: int
    connection: int
    reason: CloseReason
    age: float
    closed: float
    close_code: int | None = None


@attrs.frozen(kw_only=True)
class GrantRecord(Record):
    """A waiter was granted a lease, as an instrument sees it.

    Attributes:
        pool: number of the pool in this process.
        lease: number of the lease.
        connection: number of its connection.
        lane: number of its lane there.
        waited: seconds in line, 0 for who did not have to wait.
        granted: when, in seconds on trio's clock.
    """

    pool: int
    lease: int
    connection: int
    lane: int
    waited: float
    granted: float


@attrs.frozen(kw_only=True)
class ToolRecord(Record):
    """A call of a tool by `Conversation.run` has ended, as an instrument sees it.

    Attributes:
        pool: number of the pool in this process.
        conversation: number of the conversation.
        name: what the model called; it may be a tool that there is not.
        call_id: the model's id of the call.
        started: when it began, in seconds on trio's clock.
        duration: seconds that it took.
        error: name of the exception's class if it failed, else None. `Cancelled` if it was cancelled.
        context: the context variables of the task that made it, when it began, and what instruments have set
            there since (`ToolBegun`).
    """

    pool: int
    conversation: int | None
    name: str
    call_id: str
    started: float
    duration: float
    error: str | None
    context: Context | None = attrs.field(default=None, eq=False, repr=False)


@attrs.frozen(kw_only=True)
class TurnInFlight:
    """A turn whose request was sent and that has not ended, at one moment.

    Attributes:
        conversation: number of the conversation in its pool, None for a turn of a bare lease, or of one
            that brings its history along.
        connection: number of the connection it is on.
        lane: number of its lane there.
        response_id: id of the response, None if none was created yet.
        delivery: what is known about the request.
        since: seconds since the request was sent.
        last_event: seconds since something of it came, None if nothing did.
        events: events received.
        received: bytes of them.
    """

    conversation: int | None
    connection: int
    lane: int
    response_id: str | None
    delivery: Delivery
    since: float
    last_event: float | None
    events: int
    received: int


@attrs.frozen(kw_only=True)
class TurnRecord(Record):
    """How one turn went, as an instrument sees it. Every turn that was entered has one.

    What it counts has left: a request that the network never got is in no number. Seconds are trio's.

    Attributes:
        conversation: number of the conversation in its pool, None for a turn of a bare lease, or of one
            that brings its history along.
        connection: number of the connection it ended on, None if it never got one.
        response_id: id of the response, None if none was created.
        full: True when the last request carried the whole history.
        status: how it ended.
        delivery: what is known about its requests.
        waited: seconds in line for a lease.
        duration: seconds from the first send to the end, 0 if nothing was sent.
        requests: requests sent, more than 1 when one was sent again.
        bytes_sent: bytes of those requests.
        bytes_saved: bytes of history that they did not have to carry.
        events: events received.
        input_transformations: what of the input the server withheld from the model, as it says so: reasoning
            items, and why.
        tool_errors: tool calls that failed, and of which this turn told the model, see `Conversation.run`.
        prompt_cache_diagnostics: why the prompt cache was missed or not, None if that was not asked for.
        usage: tokens of the response, as the server counts them; None if it did not. Of a
            turn that was steered those of all its responses. `tokens` reads it.
        transport: what carried the last request (see `open_pool(fallback=)`).
        why_full: why a turn that brings its history along sent all of it, see
            `wspool.core.sending.brought.FULL_REASONS`.
        pool: number of the pool in this process.
        lane: number of the lane it ended on, None if it never got one.
        model: the model that was asked for, None if the request named none.
        started: when the turn was entered, on trio's clock.
        ended: when it was over, that is, left.
        sent: when its last request was sent, None if none was.
        heard: when something of it came last, None if nothing did.
        first_event: seconds from the first send to the first event, None if none came.
        items_given: input items that the caller gave.
        items_sent: input items of the last request.
        finish_reason: why the model stopped: `stop`, `tool_calls`, or what an incomplete response says
            (`max_output_tokens`, `content_filter` ...). None if it did not say it.
        error: name of the class of the error that the caller was told, None if it was told none.
        error_code: what the server calls its error, None if it told of none. A server chooses that text.
        response_model: the model that answered, as the server calls it.
        service_tier: the tier that it was answered in, as the server calls it.
        context: the context variables of whoever took the turn, when it was entered, and what instruments
            have set there since (`TurnBegun`).
        content: what was said, if an instrument asks for it (`Instrument.wants_content`); else None.
    """

    conversation: int | None
    connection: int | None
    response_id: str | None
    full: bool
    status: TurnStatus
    delivery: Delivery
    waited: float
    duration: float
    requests: int
    bytes_sent: int
    bytes_saved: int
    events: int
    input_transformations: Sequence[Mapping[str, Any]] = ()
    tool_errors: int = 0
    prompt_cache_diagnostics: Mapping[str, Any] | None = None
    transport: TransportName = "websocket"
    usage: Mapping[str, Any] | None = None
    why_full: str | None = None
    pool: int = 0
    lane: int | None = None
    model: str | None = None
    started: float = 0.0
    ended: float = 0.0
    sent: float | None = None
    heard: float | None = None
    first_event: float | None = None
    items_given: int = 0
    items_sent: int = 0
    finish_reason: str | None = None
    error: str | None = None
    error_code: str | None = None
    response_model: str | None = None
    service_tier: str | None = None
    context: Context | None = attrs.field(default=None, eq=False, repr=False)
    content: TurnContent | None = attrs.field(default=None, eq=False, repr=False)

    @property
    def tokens(self) -> Usage:
        """The tokens of the response, as far as its usage makes sense."""
        return Usage.of(self.usage)
