"""The engine: what one request does, whatever carried it.

A request is received, started, told event by event, and settled exactly once. The rules:

1. Its parent is looked up when it starts, not when it is received: a request may wait in line, and what it
   wants to continue may be gone by then, or have come.
2. It is settled (memory updated, lane free, ledger written) in one synchronous step *before* its terminal
   event is sent, so a client that has read the event finds everything in place.
3. However `perform` ends, the request is settled: what nothing else has settled is lost.
4. A response that was steered is continued by another one, which is a request of its own that nobody sent.
   Both are one `perform`, so nothing comes between them on their lane.
"""

import hashlib
import itertools
import logging
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Final, Literal

import attrs
import trio

from wspool.server.account import entry_of
from wspool.server.ledger import CHARACTERS_PER_TOKEN, Digest, Ledger, Outcome, extend_digest, user_message
from wspool.server.models import Item, Model, ModelRequest, ModelTurn, TurnError
from wspool.server.protocol.cache import ConnectionMemory, Remembered, Store, not_found
from wspool.server.protocol.compaction import compact_threshold, compaction_item, compaction_object, unpacked
from wspool.server.protocol.create import Create, TurnCut
from wspool.server.protocol.grammar import INTERNAL_ERROR, Event, Plan, finished_items, is_end
from wspool.server.protocol.history import NOTHING
from wspool.server.protocol.items import marked, resolved
from wspool.server.protocol.profiles import ServerProfile
from wspool.server.protocol.requests import check_create
from wspool.server.protocol.response import usage_of
from wspool.server.protocol.steering import pending, required_input, returned
from wspool.server.shown import ModelProblemError, of_model
from wspool.server.steered import may_end, successor_of, take_steer

__all__ = ["Engine"]

_logger: Final = logging.getLogger("wspool.server")

#: `created_at` of the first responses: a fixed date, so that a run can be repeated to the byte.
_EPOCH: Final = 1_795_000_000

_OUTCOMES: Final[dict[str, Outcome]] = {
    "response.completed": "completed",
    "response.incomplete": "incomplete",
    "response.failed": "failed",
}


#: What a model has done whose turn cannot be told.
_NO_TURN: Final = "said what is no turn:"

#: Sends one event.
Send = Callable[[Event], Awaitable[None]]


@attrs.frozen
class _Refusal:
    error: TurnError
    delay: float = 0.0


def _said(plan: Plan) -> Generator[Event, None, None]:
    """The events of *plan*; what cannot be made an event is the model's trouble."""
    with of_model(_NO_TURN):
        yield from plan.events()


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
        lenient: bool = False,
    ) -> None:
        """Args:
        delay_per_token: seconds of virtual or real time after each delta.
        seed: goes into every id, so that two servers with different seeds never issue the same one.
        lenient: take what the provider refuses, as long as it can be worked with.
        """
        self.profile: Final = profile
        self.store: Final = Store()
        self.creates = 0
        self.active = 0
        self._model = model
        self._ledger = ledger
        self._lenient = lenient
        self._delay_per_token = delay_per_token
        self._id_prefix = f"resp_{seed:x}x" if seed else "resp_"
        self._responses = itertools.count(1)
        self._order = itertools.count(1)
        self._steers = itertools.count(1)
        self._requests = itertools.count(1)
        self._running: dict[str, Create] = {}
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

    async def perform(self, create: Create, send: Send, before: Send | None = None) -> TurnError | None:
        """Run *create* and tell its events to *send*. Returns the error if it was refused, having sent
        nothing.

        A problem of the model is returned as an error that says so, any other one as the provider's own. What
        *send* raises as `trio.BrokenResourceError` comes through; the request is lost. Cancellation: the
        same.

        Args:
          before: is told every event before the request is settled by it, and may raise `TurnCut`.
        """
        self.active += 1
        try:
            refused = await self._perform(create, send, before)
            while create.successor is not None:
                create = create.successor
                problem = await self._perform(create, send, before)
                for steer in create.steered_by if problem is not None else ():
                    await send(returned(steer, "successor_creation_failed", create.lane))
            return refused
        except TurnCut:
            return None
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise
        except Exception as problem:
            # The door between the provider's own mistakes and its clients: one request fails, nothing else.
            _logger.exception("request %d of connection %d", create.sequence, create.memory.connection)
            error = problem.error if isinstance(problem, ModelProblemError) else INTERNAL_ERROR
            self.settle(create, "failed", error)
            return error
        finally:
            self.active -= 1
            self.settle(create, "lost")
            if create.successor is not None:
                self.settle(create.successor, "lost")

    async def _perform(self, create: Create, send: Send, before: Send | None) -> TurnError | None:
        create.started = self._now()
        plan = self._start(create)
        if isinstance(plan, _Refusal):
            if plan.delay > 0:
                await trio.sleep(plan.delay)
            self.settle(create, "rejected", plan.error)
            return plan.error
        self._running[plan.response_id] = create
        bare = create.warm_up and self.profile.bare_warm_up
        for event in _said(plan):
            kind: str = event["type"]
            if bare and kind == "response.in_progress":
                continue
            await self._tell(create, plan, event, send, before)
            if "agent" in event:
                pass  # of somebody whose life within the response changes nothing about it
            elif kind == "response.in_progress" and plan.turn.delay > 0:
                await trio.sleep(plan.turn.delay)
            elif self._delay_per_token > 0 and kind.endswith(".delta"):
                await trio.sleep(self._delay_per_token)
            elif kind == "response.output_item.done" and may_end(
                create, plan, self.profile, event["output_index"]
            ):
                plan = self._shortened(create, plan, event["output_index"] + 1)
                await self._tell(create, plan, plan.terminal(), send, before)
                break
        for steer in create.steers:
            if plan.turn.status == "failed":
                await send(returned(steer, "response_not_active", create.lane))
            elif create.successor is None:
                event = pending(steer, required_input(plan.items), number=create.told, lane=create.lane)
                create.told += 1
                await send(event)
        return None

    async def _tell(self, create: Create, plan: Plan, event: Event, send: Send, before: Send | None) -> None:
        kind: str = event["type"]
        event["sequence_number"] = -1 if create.warm_up and self.profile.bare_warm_up else create.told
        if create.lane is not None:
            event["stream_id"] = create.lane
        create.told += 1
        if before is not None:
            await before(event)
        if is_end(event):
            create.object = event["response"]
            self.settle(create, _OUTCOMES[kind], plan.turn.error)
            if create.steers and plan.turn.status != "failed":
                if required_input(plan.items):
                    create.memory.waiting_steers[plan.response_id] = create.steers
                else:
                    create.successor = successor_of(create, plan.response_id, self._now())
        await send(event)

    def _shortened(self, create: Create, plan: Plan, count: int) -> Plan:
        """The response as it is if it ends after *count* items because it was steered."""
        items = plan.items[:count]
        create.outcome, said = self._outcome(create, plan.response_id, items)
        turn = attrs.evolve(plan.turn, status="incomplete", reason="steered")
        cached: int = plan.usage["input_tokens_details"]["cached_tokens"]
        return attrs.evolve(plan, items=items, turn=turn, usage=usage_of(create.tokens, said, cached))

    def steer(self, body: Item, memory: ConnectionMemory) -> Event:
        """Take a steer in, or refuse it. Returns the event that says so."""
        target = body.get("previous_response_id")
        running = self._running.get(target) if isinstance(target, str) else None
        return take_steer(body, running, memory, self.profile, self._steers)

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
                return _Refusal(not_found(parent_id, self.profile.not_found_status))

        new = self._given(body, memory)
        if isinstance(new, TurnError):
            return _Refusal(new)
        create.input_items = len(new)
        steers = memory.waiting_steers.get(parent_id or "", [])
        new = [*(item for steer in steers for item in steer.items), *new]
        known = parent.known if parent else NOTHING
        stored = body.get("store") is not False and self.profile.keeps_stored
        create.known, problem = known.judge(new, unpacked(new), stored=stored, lenient=self._lenient)
        create.context, create.given = (*(parent.context if parent else ()), *new), tuple(new)
        digest: Digest = parent.digest.copy() if parent else hashlib.sha256()
        create.tokens = (parent.tokens if parent else 0) + extend_digest(digest, new) // CHARACTERS_PER_TOKEN
        create.digest = digest
        if problem is not None:
            return _Refusal(problem)

        turn = ModelTurn()
        if not create.warm_up:
            request = ModelRequest(
                context=unpacked(create.context),
                instructions=body.get("instructions"),
                tools=body.get("tools") or (),
                body=body,
            )
            with of_model("raised"):
                turn = self._model.respond(request)
        with of_model(_NO_TURN):
            is_rejected = turn.status == "rejected"
        if is_rejected:
            return _Refusal(turn.error or INTERNAL_ERROR, turn.delay)
        memory.waiting_steers.pop(parent_id or "", None)
        threshold = compact_threshold(body)
        if threshold is not None and create.tokens > threshold and not create.warm_up:
            turn = attrs.evolve(turn, output=[compaction_item(create.context), *turn.output])
        response_id = create.response_id = self._next_id() if create.given_id is None else create.given_id
        with of_model(_NO_TURN):
            items = finished_items(
                marked(turn.output, body.get("tools") or ()),
                response_id,
                status="incomplete" if turn.status == "incomplete" else "completed",
            )
            create.outcome, said = self._outcome(create, response_id, items)
        cached = parent.tokens if parent and create.parent_from != "store" else 0
        return Plan(
            response_id=response_id,
            body=body,
            turn=turn,
            items=items,
            usage=turn.usage or usage_of(create.tokens, said, cached),
            created_at=self._created_at(),
            stream_id=create.lane,
        )

    def _outcome(self, create: Create, response_id: str, items: Sequence[Item]) -> tuple[Remembered, int]:
        """What can be continued if the response ends with *items*, and how many tokens they are."""
        assert create.digest is not None
        # What comes before a compaction is in it.
        compacted = bool(items) and items[0]["type"] == "compaction"
        digest: Digest = hashlib.sha256() if compacted else create.digest.copy()
        said = extend_digest(digest, items) // CHARACTERS_PER_TOKEN
        remembered = Remembered(
            response_id=response_id,
            context=tuple(items) if compacted else (*create.context, *items),
            known=create.known.after(items),
            digest=digest,
            tokens=said if compacted else create.tokens + said,
            given=create.given,
            output=tuple(items),
        )
        return remembered, said

    def compact(self, body: Item) -> Item | TurnError:
        """Pack a conversation into one item, outside of any turn. Returns the answer, or the refusal."""
        found = self._whole(body)
        if isinstance(found, TurnError):
            return found
        return compaction_object(unpacked(found[0]), self._next_id(), self._created_at())

    def count(self, body: Item) -> Item | TurnError:
        """How many tokens of input a turn would have that is not taken. The answer, or the refusal."""
        found = self._whole(body)
        if isinstance(found, TurnError):
            return found
        return {"object": "response.input_tokens", "input_tokens": found[1]}

    def _whole(self, body: Item) -> tuple[Sequence[Item], int] | TurnError:
        """The conversation that *body* stands for outside of any connection, and its tokens."""
        parent_id: str | None = body.get("previous_response_id")
        parent = None if parent_id is None else self.store.get(parent_id)
        if parent_id is not None and parent is None:
            return not_found(parent_id, self.profile.not_found_status)
        new = self._given(body, None)
        if isinstance(new, TurnError):
            return new
        before = parent.known if parent else NOTHING
        _, problem = before.judge(new, unpacked(new), stored=True, lenient=self._lenient, ends=False)
        if problem is not None:
            return problem
        tokens = extend_digest(hashlib.sha256(), new) // CHARACTERS_PER_TOKEN
        if parent is None:
            return new, tokens
        return (*parent.context, *new), parent.tokens + tokens

    def _given(self, body: Item, memory: ConnectionMemory | None) -> list[Item] | TurnError:
        """The input of *body* as items, without references; or the refusal of one to nothing."""
        given: str | list[Item] = body.get("input") or ""
        if isinstance(given, str):
            return user_message(given) if given else []

        def find(name: str) -> Item | None:
            found = None if memory is None else memory.item(name)
            return self.store.item(name) if found is None else found

        return resolved(given, find)

    def check(self, body: Item, *, needs_model: bool = True) -> None:
        """Look at the fields of a request.

        Raises:
          RequestError: they are not as the provider wants them, or not as they have to be to be worked with.
        """
        lenient = self._lenient or not self.profile.checks_fields
        check_create(body, lenient=lenient, needs_model=needs_model)

    def request_id(self) -> str:
        """A new id for a request or an upgrade, which goes into `x-request-id`."""
        return f"req_{next(self._requests):032x}"

    def _next_id(self) -> str:
        return f"{self._id_prefix}{next(self._responses):06}"

    def _created_at(self) -> int:
        return _EPOCH + int(trio.current_time() - self._opened_at)

    def settle(self, create: Create, outcome: Outcome, error: TurnError | None = None) -> None:
        """End *create*: update the memories, free its place on the lane, write the ledger. Only once."""
        if create.settled:
            return
        create.settled = True
        if create.response_id is not None:
            self._running.pop(create.response_id, None)
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
            if stored and self.profile.keeps_stored:
                self.store.put(create.outcome, create.object or {})
        elif outcome in ("failed", "rejected") and parent_was_latest and self.profile.evicts_on_failure:
            memory.evict(lane, str(parent_id))
        self._ledger.write(entry_of(create, outcome, error, ended=self._now()))

    def _now(self) -> tuple[float, int]:
        return trio.current_time(), next(self._order)
