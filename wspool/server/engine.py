"""The engine: what one request does, whatever carried it.

A request is received, started, told event by event, and settled exactly once. The rules:

1. Its parent is looked up when it starts, not when it is received: a request may wait in line, and what it
   wants to continue may be gone by then, or have come.
2. It is settled (memory updated, lane free, ledger written) in one synchronous step *before* its terminal
   event is sent, so a client that has read the event finds everything in place.
3. However `perform` ends, the request is settled: what nothing else has settled is lost.
"""

import hashlib
import itertools
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal

import attrs
import trio

from wspool.server.cache import (
    ConnectionMemory,
    Remembered,
    Store,
    answered_calls,
    not_found,
    unknown_call,
)
from wspool.server.grammar import INTERNAL_ERROR, TERMINAL, Event, Plan, finished_items
from wspool.server.ledger import Digest, Ledger, Outcome, extend_digest, user_message
from wspool.server.models import Item, Model, ModelRequest, ModelTurn, TurnError
from wspool.server.profiles import ServerProfile

__all__ = ["Create", "Engine"]

_logger: Final = logging.getLogger("wspool.server")

#: `created_at` of the first responses: a fixed date, so that a run can be repeated to the byte.
_EPOCH: Final = 1_795_000_000

#: Characters of JSON per token, for estimates of usage. The usual rule of thumb for English text.
_CHARACTERS_PER_TOKEN: Final = 4


@attrs.define(eq=False, kw_only=True)
class Create:
    """One request on its way through the engine."""

    body: Item
    memory: ConnectionMemory
    lane: str | None
    transport: Literal["websocket", "http"]
    sequence: int
    unfinished_on_lane: int
    received: tuple[float, int]
    """When: the time in seconds, and the order."""
    started: tuple[float, int] | None = None
    warm_up: bool = False
    parent_from: Literal["lane", "fork", "store"] | None = None
    input_items: int = 0
    digest: Digest | None = None
    """Of what the model saw."""
    context: tuple[Item, ...] = ()
    """What the model saw."""
    outcome: Remembered | None = None
    """What will be remembered if it ends well."""
    response_id: str | None = None
    settled: bool = False


@attrs.frozen
class _Refusal:
    error: TurnError
    delay: float = 0.0


class Engine:
    """The provider behind all connections of one server."""

    def __init__(
        self,
        model: Model,
        profile: ServerProfile,
        ledger: Ledger,
        *,
        delay_per_token: float = 0.0,
        seed: int = 0,
    ) -> None:
        """Args:
        delay_per_token: seconds of virtual or real time after each delta.
        seed: goes into every id, so that two servers with different seeds never issue the same one.
        """
        self.profile: Final = profile
        self.store: Final = Store()
        self.creates = 0
        self.active = 0
        self._model = model
        self._ledger = ledger
        self._delay_per_token = delay_per_token
        self._id_prefix = f"resp_{seed:x}x" if seed else "resp_"
        self._responses = itertools.count(1)
        self._order = itertools.count(1)
        self._opened_at = trio.current_time()

    def receive(
        self,
        body: Item,
        memory: ConnectionMemory,
        *,
        lane: str | None = None,
        transport: Literal["websocket", "http"] = "websocket",
    ) -> Create:
        """Take a request in: from now on it is unfinished, until it is settled by `perform` or `settle`."""
        self.creates += 1
        memory.creates += 1
        memory.unfinished[lane] += 1
        return Create(
            body=body,
            memory=memory,
            lane=lane,
            transport=transport,
            sequence=memory.creates,
            unfinished_on_lane=memory.unfinished[lane],
            received=self._now(),
        )

    async def perform(self, create: Create, send: Callable[[Event], Awaitable[None]]) -> TurnError | None:
        """Run *create* and tell its events to *send*. Returns the error if it was refused, having sent
        nothing.

        A problem of the model, or of a body that can not be answered, is returned as an internal error. What
        *send* raises as `trio.BrokenResourceError` comes through; the request is lost. Cancellation: the
        same.
        """
        self.active += 1
        try:
            return await self._perform(create, send)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise
        except Exception:
            # The door between the provider's own mistakes and its clients: one request fails, nothing else.
            _logger.exception("request %d of connection %d", create.sequence, create.memory.connection)
            self.settle(create, "failed", INTERNAL_ERROR)
            return INTERNAL_ERROR
        finally:
            self.active -= 1
            self.settle(create, "lost")

    async def _perform(self, create: Create, send: Callable[[Event], Awaitable[None]]) -> TurnError | None:
        create.started = self._now()
        plan = self._start(create)
        if isinstance(plan, _Refusal):
            if plan.delay > 0:
                await trio.sleep(plan.delay)
            self.settle(create, "rejected", plan.error)
            return plan.error
        outcomes: dict[str, Outcome] = {
            "response.completed": "completed",
            "response.incomplete": "incomplete",
            "response.failed": "failed",
        }
        for event in plan.events():
            kind: str = event["type"]
            if kind in TERMINAL:
                self.settle(create, outcomes[kind], plan.turn.error)
            await send(event)
            if kind == "response.in_progress" and plan.turn.delay > 0:
                await trio.sleep(plan.turn.delay)
            elif self._delay_per_token > 0 and kind.endswith(".delta"):
                await trio.sleep(self._delay_per_token)
        return None

    def _start(self, create: Create) -> Plan | _Refusal:
        """Find the parent and ask the model. No checkpoint: parent and answer belong to one moment."""
        body, memory = create.body, create.memory
        parent: Remembered | None = None
        parent_id: str | None = body.get("previous_response_id")
        if parent_id is not None:
            found = memory.find(create.lane, parent_id)
            if found is not None:
                parent, create.parent_from = found
            elif (parent := self.store.get(parent_id)) is not None:
                create.parent_from = "store"
            else:
                return _Refusal(not_found(parent_id))

        given: str | list[Item] = body.get("input") or ""
        new = (user_message(given) if given else []) if isinstance(given, str) else given
        calls, unknown = answered_calls(new, parent.calls if parent else frozenset())
        create.input_items = len(new)
        create.context = (*(parent.context if parent else ()), *new)
        digest: Digest = parent.digest.copy() if parent else hashlib.sha256()
        tokens = (parent.tokens if parent else 0) + extend_digest(digest, new) // _CHARACTERS_PER_TOKEN
        create.digest = digest
        if unknown is not None:
            return _Refusal(unknown_call(unknown))

        turn = ModelTurn()
        if not create.warm_up:
            turn = self._model.respond(
                ModelRequest(
                    context=create.context,
                    instructions=body.get("instructions"),
                    tools=body.get("tools") or (),
                    body=body,
                )
            )
        if turn.status == "rejected":
            return _Refusal(turn.error or INTERNAL_ERROR, turn.delay)
        response_id = create.response_id = f"{self._id_prefix}{next(self._responses):06}"
        items = finished_items(
            turn.output, response_id, status="incomplete" if turn.status == "incomplete" else "completed"
        )
        after = digest.copy()
        said = extend_digest(after, items) // _CHARACTERS_PER_TOKEN
        create.outcome = Remembered(
            response_id=response_id,
            context=(*create.context, *items),
            calls=answered_calls(items, calls)[0],
            digest=after,
            tokens=tokens + said,
        )
        cached = parent.tokens if parent and create.parent_from != "store" else 0
        return Plan(
            response_id=response_id,
            body=body,
            turn=turn,
            items=items,
            usage=turn.usage or _usage(tokens, said, cached),
            created_at=_EPOCH + int(trio.current_time() - self._opened_at),
            stream_id=create.lane,
        )

    def settle(self, create: Create, outcome: Outcome, error: TurnError | None = None) -> None:
        """End *create*: update the memories, free its place on the lane, write the ledger. Only once."""
        if create.settled:
            return
        create.settled = True
        memory, lane, body = create.memory, create.lane, create.body
        memory.unfinished[lane] -= 1
        parent_id = body.get("previous_response_id")
        # Asked before the memory changes: this response may be about to take its parent's place.
        parent_was_latest = create.parent_from == "lane"
        stored = body.get("store") is not False
        if outcome in ("completed", "incomplete") and create.outcome is not None:
            if stored or self.profile.remembers_unstored:
                memory.latest[lane] = create.outcome
            else:
                memory.latest.pop(lane, None)
            if stored:
                self.store.put(create.outcome)
        elif outcome in ("failed", "rejected") and parent_was_latest and self.profile.evicts_on_failure:
            memory.evict(lane, str(parent_id))
        ended = self._now()
        self._ledger.write(
            {
                "connection": memory.connection,
                "transport": create.transport,
                "lane": lane,
                "sequence": create.sequence,
                "response_id": create.response_id,
                "previous_response_id": parent_id if isinstance(parent_id, str) else None,
                "parent_from": create.parent_from,
                "parent_was_latest": parent_was_latest,
                "generate": not create.warm_up,
                "input_items": create.input_items,
                "context_items": len(create.context),
                "context_sha256": create.digest.hexdigest() if create.digest else None,
                "unfinished_on_lane": create.unfinished_on_lane,
                "received": create.received[0],
                "received_order": create.received[1],
                "started": create.started[0] if create.started else None,
                "started_order": create.started[1] if create.started else None,
                "ended": ended[0],
                "ended_order": ended[1],
                "outcome": outcome,
                "error_code": error.code if error else None,
            }
        )

    def _now(self) -> tuple[float, int]:
        return trio.current_time(), next(self._order)


def _usage(tokens: int, said: int, cached: int) -> dict[str, Any]:
    return {
        "input_tokens": tokens,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": said,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": tokens + said,
    }
