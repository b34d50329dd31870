"""Conversation: a chain of turns that outlives its connections.

It keeps the history, takes a lease at its first turn and keeps it. While the lane holds its
latest response it sends only what is new; when the connection is too old, lost or has
forgotten, it goes on elsewhere and sends everything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Final, TypeAlias, cast

from trio.lowlevel import enable_ki_protection

from wspool.core.definitions import async_tools
from wspool.core.effects import UnknownEffects
from wspool.core.encoding import Encoded, read
from wspool.core.events.response import Response
from wspool.core.frames import encode
from wspool.core.given import check_callable, check_kind
from wspool.core.items import as_items, encode_fields, encode_items, with_encrypted_reasoning
from wspool.core.sending.chain import Chain, Fields, Item
from wspool.core.statistics import ConversationStatistics
from wspool.core.usage import Budget, copied
from wspool.pool.calling import ToolErrors, check_tool_errors
from wspool.pool.compaction import compacted
from wspool.pool.continuity import Continuity, ContinuityOwner
from wspool.pool.driver import ConversationDriver
from wspool.pool.effects import EffectLedger, effects_of
from wspool.pool.loop import Limits, OnEvent, ToolLoop
from wspool.pool.toolbox import Tool, Toolbox
from wspool.pool.tools import CallRunner
from wspool.pool.turn import Turn
from wspool.pool.ways import AsyncBlock

__all__ = ["Conversation", "ConversationBlock", "Input", "checked_fields"]

#: What a turn takes: a text, or input items.
Input: TypeAlias = str | Sequence[Mapping[str, Any]]

#: Version of the format of `Conversation.snapshot`.
SNAPSHOT_VERSION: Final = 1

# Fields that the library owns, and why.
_OWN_FIELDS = {
    "previous_response_id": "the conversation chains its responses itself; "
    "pool.conversation(previous_response_id=...) begins with one",
    "input": "pass it to respond, turn or run",
    "type": "it is always response.create",
    "stream_id": "lanes are the pool's business",
    "background": "background responses are not offered over WebSocket; use HTTP",
    "conversation": "the history is kept here; use pool.lease() for server-side conversations",
    "generate": "use open_pool(warm_up=...) for warm-up requests",
}


class Conversation:
    """A chain of turns with its history; made by `Pool.conversation`.

    One turn at a time. Not for use by two tasks at once.
    """

    def __init__(
        self,
        owner: ContinuityOwner,
        number: int,
        defaults: Fields,
        chain: Chain,
        budget: Budget | None = None,
    ) -> None:
        self._defaults = defaults
        self._number = number
        self._continuity = Continuity(owner, number, chain)
        self._continuity.budget = budget
        self._runner = CallRunner(self._continuity, owner.policy.max_tool_calls, owner.announcer)

    # -- for users ----------------------------------------------------------------------------

    @property
    def number(self) -> int:
        """Its number in the pool, as in `TurnRecord.conversation`."""
        return self._number

    @property
    def items(self) -> list[Item]:
        """The full history, oldest first: input and output items of all turns that counted (see `turn`).

        Made anew each time, so that changing it changes nothing; that takes as long as the history is.
        """
        return self._continuity.chain.items

    def turn(self, input: Input, **overrides: Any) -> Turn:
        """Prepare one streaming turn: `async with conversation.turn(...) as turn: async for ...`.

        Args:
            input: what is new: a text, or input items.
            **overrides: body fields for this turn only.

        The turn counts, that is, it is history from then on, if it ended well and the caller has been
        given its end: the last event, or `Turn.result()`. Left before that, it is given up, however much
        of it had arrived, and can be taken again as it was.

        Both are written down here: what happens to them later changes nothing of what is sent.

        Raises:
            TypeError, ValueError: they hold what cannot be sent; the text says where.

        Entering waits for a lease if there is none. It raises:
            BudgetExceededError: the conversation's budget is spent; nothing was sent.
            TurnInFlightError: another turn of this conversation has not ended; nothing was sent.
            OpenCallsError: calls in the history have no output, and *input* brings none; nothing was sent.
            RequestTooLargeError, LeaseRefusedError, PoolClosedError: nothing was sent.
        """
        self._continuity.owner.check_use()
        return self.prepare(input, **overrides)

    def prepare(self, input: Input, **overrides: Any) -> Turn:
        """`turn`, from any thread: nothing is done but to write down what is given."""
        fields = checked_fields({**self._defaults, **overrides}) if overrides else self._defaults
        return self._begin(fields, encode_items(input))

    @enable_ki_protection
    async def respond(self, input: Input, **overrides: Any) -> Response:
        """Take one turn and return its response, completed or incomplete.

        Args:
            input: what is new: a text, or input items.
            **overrides: body fields for this turn only.

        A checkpoint. Cancelling gives the turn up; the history stays as it was before it. A turn whose
        response was returned counts.

        Raises:
            ResponseFailedError: the server refused the request or the response failed.
            TurnLostError: the connection died under it; see `delivery`.
            TurnInFlightError, OpenCallsError, RequestTooLargeError, LeaseRefusedError, PoolClosedError:
                nothing was sent.
        """
        async with self.turn(input, **overrides) as turn:
            return await turn.result()

    @enable_ki_protection
    async def run(
        self,
        input: Input | None,
        *,
        tools: Mapping[str, Tool] | Sequence[Tool],
        max_turns: int | None = None,
        tool_errors: ToolErrors = "return",
        retries: int = 0,
        eager: bool = False,
        on_event: OnEvent | None = None,
        ledger: EffectLedger | None = None,
        unknown_effects: UnknownEffects = "tell",
        **overrides: Any,
    ) -> Response:
        """Take turns until the model calls no more tools; return the last response.

        Args:
            input: what is new; None to go on where a history stopped: it ends with calls.
            tools: what to call: functions, or functions by tool name. `wspool.tool` makes the definitions of
                those that come without a name, and of all if the requests define nothing; else
                definitions and functions must be the same.
            max_turns: turns at most, None for no limit.
            tool_errors: `"return"` tells the model of exceptions, and logs them; `"raise"` ends the loop.
            retries: how often in all a turn is taken again that was lost, or failed with `may_pass`. It may
                have run, so this may pay twice; tools are not called again for it.
            eager: True to make each call as soon as the server has said all of it, while the response goes
                on: it has happened even if its response comes to nothing.
            on_event: is given each event of each turn, of retries too; waited for if it returns something to
                wait for. What it raises ends the loop.
            ledger: notes calls before they are made and their outputs after: no crash has one made twice, if
                the history is kept after each turn. Not with *eager*.
            unknown_effects: of interrupted calls, not repeatable: `"tell"` tells the model, `"stop"` raises.
            **overrides: body fields for these turns only.

        The calls of one turn run at the same time (`PoolPolicy.max_tool_calls`); their outputs are sent in
        call order. Those of async tools (`async: true`) run on beside the turns that follow. A tool returns a
        text, content parts (`input_text`, `input_image`, `input_file`), or what JSON can hold.

        Calls that are open at first are answered with what came of them, else closed as cancelled; made, if
        *input* is None or answers some. What only the caller can answer is returned before any tool runs.

        A checkpoint. Cancelling cancels the async tools and waits for the threads of the others. What has run
        is not run again: a later `run` sends what came of it.

        Raises:
            MaxTurnsError: the model still calls tools after *max_turns*; the response is in `items`.
            OpenCallsError: calls are open that only the caller can answer; nothing was sent.
            UnknownEffectsError: with `unknown_effects="stop"`; nothing was sent.
            ValueError: *input* is None, and the history has no call to go on with.
            TypeError, ValueError: an argument is not usable; the text says why, and nothing was sent.
            Exception: whatever a tool raised, with `tool_errors="raise"`; bare if it was one.
            WsPoolError: what `respond` raises.
        """
        it = self._continuity
        it.owner.check_use()
        check_tool_errors(tool_errors)
        _check_loop(max_turns, retries, eager, on_event)
        # Written down, for they are sent more than once: in every turn, and again after a loss.
        fields = checked_fields({**self._defaults, **overrides})
        box = Toolbox(tools, fields)
        if box.definitions is not None:
            fields["tools"] = box.definitions
        given = None if input is None else as_items(input)
        it.check_free()
        effects = effects_of(ledger, unknown_effects, it.chain, eager=eager)
        self._runner.prepare(box.tools, tool_errors, effects)
        limits = Limits(max_turns, retries, eager, async_tools(fields), on_event)
        return await ToolLoop(it, self._runner, partial(self._begin, fields), limits).run(given)

    def _begin(self, fields: Fields, items: Sequence[Encoded]) -> Turn:
        return Turn(ConversationDriver(self._continuity, items, fields))

    @enable_ki_protection
    async def compact(self, **overrides: Any) -> dict[str, Any]:
        """Have the server make the history shorter (`POST .../responses/compact`, over HTTP).

        Args:
            **overrides: body fields for this request only; `model`, `instructions`, `service_tier`
                and the prompt cache's are sent, the others have no meaning there.

        Returns the server's answer: `id`, `output`, `usage`. Its `output` is the history from then on
        (`items`), and the next turn sends all of it. A checkpoint. Cancelling leaves everything as it was.

        Raises:
            ResponseFailedError: the server refused; the history is as it was.
            TurnLostError: the answer did not come; the history is as it was.
            BudgetExceededError, TurnInFlightError, DialFailedError: nothing was sent.
            PoolClosedError: the pool or the conversation was closed, before or meanwhile; the history is
                as it was.
        """
        it = self._continuity
        it.owner.check_use()
        it.check_budget()
        body = checked_fields({**self._defaults, **overrides})
        errand = it.enter()
        if it.chain.root is not None:
            body["previous_response_id"] = Encoded(encode(it.chain.root))
        try:
            answer = await compacted(it.owner, errand, it.chain.replay(), body)
            it.chain.restart(answer["output"])
            it.used(usage := copied(answer.get("usage")))
            if it.budget is not None:
                it.budget.spend(usage)
        finally:
            it.leave(errand)
        return answer

    @enable_ki_protection
    def edit(self, items: Sequence[Mapping[str, Any]]) -> None:
        """Let *items* be the history from now on, such as `items` without those that are not wanted.

        Between turns only. Never waits. The next turn sends all of them. A conversation that was begun from
        a response (`previous_response_id`) goes on from that still. An output whose call is dropped is not
        sent either; a call whose output is dropped is open.

        Raises:
            TypeError, ValueError: they cannot be sent; the text says where, and nothing has changed.
            TurnInFlightError, PoolClosedError: now is no time for it; nothing has changed.
        """
        it = self._continuity
        it.owner.check_use()
        if isinstance(cast("object", items), str | Mapping):
            raise TypeError(f"a history is a list of item dicts, not {type(items).__name__}")
        errand = it.enter()
        try:
            it.chain.edit(items)
        finally:
            it.leave(errand)

    def statistics(self) -> ConversationStatistics:
        """Return a frozen snapshot; taking it changes nothing."""
        return self._continuity.statistics()

    def fork(self, **overrides: Any) -> AbstractAsyncContextManager[Conversation]:
        """Branch: another conversation with the same history, for the length of an `async with` block.

        Args:
            **overrides: body fields that go with every turn of the branch, beside its parent's.

        What either says from here on is its own; they share a budget. A checkpoint-free way in and out.
        """
        it = self._continuity
        return ConversationBlock(it.owner, {**self._defaults, **overrides}, it.chain, it.budget)

    def snapshot(self) -> dict[str, Any]:
        """Return the conversation as JSON values, to go on from with `pool.conversation(resume=...)`.

        It holds the history and the body fields, no credential. At another endpoint all of it is sent: that
        does not hold what this one has stored. Between turns only: a turn that has not ended is not in it.
        """
        state, items = self.checkpoint()
        return {**state, "items": [read(item) for item in items]}

    def checkpoint(self) -> tuple[dict[str, Any], list[bytes]]:
        """Return a `snapshot` in two parts, for who writes one down after each turn.

        The first is all but the items, the second the items as JSON. What stays in the history is the same
        object each time, so that to find what is new takes no time.
        """
        owner, chain = self._continuity.owner, self._continuity.chain
        owner.check_use()
        defaults = {name: read(value) for name, value in self._defaults.items()}
        state = {"version": SNAPSHOT_VERSION, "endpoint": owner.endpoint, "defaults": defaults}
        return {**state, **chain.state()}, [*chain.encoded]

    @enable_ki_protection
    def close(self) -> None:
        """Give the lease back; no further turn is possible. Never waits. Idempotent.

        A turn of another task ends with it: one that waits is told so at once (`PoolClosedError`), one
        in flight is given up (`TurnLostError`), and neither is sent again.
        """
        self._continuity.owner.check_use()
        self._continuity.close()

    def __repr__(self) -> str:
        it = self._continuity
        state = "closed" if it.closed else "in turn" if it.in_turn else "idle"
        return f"<Conversation {it.number}, {state}: {it.turns} turns, {len(it.chain)} items>"


class ConversationBlock(AsyncBlock):
    """The `async with` block of a conversation; see `Pool.conversation` and `Conversation.fork`.

    A class, so that both its ends are protected against KeyboardInterrupt: none can lose the lease.
    """

    __slots__ = ("_begin", "_budget", "_conversation", "_owner")

    def __init__(
        self,
        owner: ContinuityOwner,
        defaults: Mapping[str, Any],
        resume: Mapping[str, Any] | Chain | None,
        budget: Budget | None = None,
    ) -> None:
        owner.check_use()
        self._owner = owner
        self._budget = budget
        # Written down now: what happens to them until the block is entered changes nothing.
        if resume is not None and not isinstance(resume, Chain):
            resume, defaults = _resumed(resume, defaults, owner.endpoint)
        self._begin = checked_fields(defaults), resume
        self._conversation: Conversation | None = None

    @enable_ki_protection
    async def __aenter__(self) -> Conversation:
        self._owner.check_use()
        if self._conversation is not None:
            raise RuntimeError("the block of a conversation is entered once; ask for another conversation")
        fields, origin = self._begin
        # Now: what was said since the block was asked for is part of it.
        chain = origin.fork() if origin is not None else Chain()
        number = self._owner.next_conversation()
        self._conversation = Conversation(self._owner, number, fields, chain, self._budget)
        return self._conversation

    @enable_ki_protection
    async def __aexit__(self, *error: object) -> None:
        if self._conversation is None:
            raise AssertionError("bug: left without being entered")
        self._conversation.close()


def _resumed(
    snapshot: Mapping[str, Any], overrides: Mapping[str, Any], endpoint: str
) -> tuple[Chain, dict[str, Any]]:
    """Return the chain at *endpoint* and the body fields of a snapshot, overridden by *overrides*.

    Raises:
        ValueError: it is no snapshot, or does not go on there; the text says what is wrong.
    """
    if not isinstance(cast("object", snapshot), Mapping):
        raise ValueError(f"resume= takes a snapshot of a conversation, not {type(snapshot).__name__}")
    if snapshot.get("version") != SNAPSHOT_VERSION:
        raise ValueError(
            f"resume= takes a snapshot of version {SNAPSHOT_VERSION}, not {snapshot.get('version')!r:.60}"
        )
    defaults = snapshot.get("defaults", {})
    if not isinstance(defaults, Mapping):
        raise ValueError("the snapshot's defaults are no mapping")
    try:
        fields = checked_fields(cast("Mapping[str, Any]", defaults))
    except (TypeError, ValueError) as error:
        raise ValueError(f"the snapshot's defaults cannot be sent: {error}") from None
    # One of an earlier version does not say where it was taken.
    elsewhere = snapshot.get("endpoint", endpoint) != endpoint
    return Chain.resume(snapshot, elsewhere=elsewhere), {**fields, **overrides}


def checked_fields(body: Mapping[str, Any]) -> dict[str, Encoded]:
    """Return the body fields to send, encoded, or say which one is not the caller's to set."""
    for name, advice in _OWN_FIELDS.items():
        if body.get(name) is not None:
            raise ValueError(f"{name!r} cannot be set here: {advice}")
    fields = encode_fields(
        {name: value for name, value in body.items() if name not in _OWN_FIELDS and name != "stream"}
    )
    if fields.get("store") == b"false":
        fields["include"] = with_encrypted_reasoning(fields.get("include"))
    return fields


def _check_loop(max_turns: object, retries: object, eager: object, on_event: object) -> None:
    """Check some arguments of `Conversation.run`. Raises TypeError, ValueError."""
    _check_count("max_turns", max_turns, 1, "None for no limit")
    _check_count("retries", retries, 0, "0 for none")
    check_kind("eager", eager, bool, "True or False")
    if on_event is not None:
        check_callable("on_event", on_event)


def _check_count(name: str, value: object, least: int, otherwise: str) -> None:
    """Raise unless *value* is a whole number from *least* on, or None where that says something."""
    if value is None and name == "max_turns":
        return
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name}={value!r:.60} must be a whole number; {otherwise}")
    if value < least:
        raise ValueError(f"{name}={value} must be at least {least}; {otherwise}")
