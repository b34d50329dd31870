"""Frozen snapshots, for people, metrics and tests. Taking one changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import attrs

from wspool.core.usage import Usage

__all__ = [
    "ConversationStatistics",
    "DialRecord",
    "Move",
    "MoveReason",
    "PoolStatistics",
    "TurnRecord",
]


@attrs.frozen(kw_only=True)
class PoolStatistics:
    """A pool at one moment. States count connections or lanes now, the rest counts up for ever.

    Attributes:
        max_size: connections at most.
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
    """

    max_size: int
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
class Move:
    """A conversation went on on another connection, as an instrument sees it.

    Attributes:
        conversation: its number in the pool, None for a turn that brings its history along.
        before: number of the connection it was on.
        after: number of the one it is on now.
        reason: why.
    """

    conversation: int | None
    before: int
    after: int
    reason: MoveReason


@attrs.frozen(kw_only=True)
class DialRecord:
    """How one dial went, as an instrument sees it.

    Attributes:
        phases: seconds of each phase that was begun, in order: resolve, tcp, proxy, tls, upgrade. Through a
            proxy, its own lookup and connection are in "proxy". Empty if the connector does not measure.
        duration: seconds of the whole dial, without those for asking for the key.
        failure: what went wrong and what to do, None if nothing did.
        transport: what was dialled: `websocket` or `http`.
    """

    phases: Mapping[str, float]
    duration: float
    failure: str | None
    transport: str = "websocket"


@attrs.frozen(kw_only=True)
class TurnRecord:
    """How one turn went, as an instrument sees it.

    Attributes:
        conversation: number of the conversation in its pool, None for a turn of a bare lease, or of one
            that brings its history along.
        connection: number of the connection it ended on, None if it never got one.
        response_id: id of the response, None if none was created.
        full: True when the last request carried the whole history.
        status: `completed`, `incomplete`, `failed`, `rejected` or `lost`; `cancelled` if the caller left
            before it was told so, whatever had come by then.
        delivery: what is known about the request.
        waited: seconds in line for a lease.
        duration: seconds from the first send to the end.
        requests: requests sent, more than 1 when one was sent again.
        bytes_sent: bytes of those requests.
        bytes_saved: bytes of history that they did not have to carry.
        events: events received.
        input_transformations: what of the input the server withheld from the model, as it says so: reasoning
            items, and why.
        tool_errors: tool calls that failed, and of which this turn told the model, see `Conversation.run`.
        prompt_cache_diagnostics: why the prompt cache was missed or not, None if that was not asked for.
        usage: tokens of the response, as the server counts them (see `Usage.of`); None if it did not.
        transport: what carried the last request: `websocket`, or `http` (see `open_pool(fallback=)`).
        items: of a turn that brings its history along: how many items that has, and how many of them the last
            request carried.
        why_full: why that was all of them, see `wspool.core.sending.brought.FULL_REASONS`.
    """

    conversation: int | None
    connection: int | None
    response_id: str | None
    full: bool
    status: str
    delivery: str
    waited: float
    duration: float
    requests: int
    bytes_sent: int
    bytes_saved: int
    events: int
    input_transformations: Sequence[Mapping[str, Any]] = ()
    tool_errors: int = 0
    prompt_cache_diagnostics: Mapping[str, Any] | None = None
    transport: str = "websocket"
    usage: Mapping[str, Any] | None = None
    items: tuple[int, int] | None = None
    why_full: str | None = None
