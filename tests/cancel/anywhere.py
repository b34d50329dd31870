"""Anywhere: some conversations share a pool, and one of them is cancelled every few scheduler steps.

A step is one of any task: the conversations' own, the pool's, the far end's. One seed is one world; it says
how long the far end takes, what it refuses, when it dies, what each conversation does next, and before which
step who is cancelled. After each cancellation that conversation must show that nothing came of it:

* it was told at once, and nothing took the cancellation for itself;
* its history is what it was before the turn, or has the turn whose end it was given;
* it takes another turn, in which the far end is shown all of that.

At the end of a world no lane is missing: all of them can be leased at once.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import attrs
import trio
import trio.testing

import wspool
from tests.cancel.steps import assert_settled
from tests.helpers import (
    FakeConnector,
    FakeWire,
    assert_conserved,
    assert_empty,
    created,
    delta,
    error_frame,
    fake_manager,
    policy,
    said,
)
from tests.simulation.world import deterministic
from wspool.core.calls import open_calls
from wspool.core.sending.sendable import NO_OUTPUT
from wspool.wire.wire import ConnectError

__all__ = ["CANCELS", "Outcome", "run_world"]

#: Cancellations of one world.
CANCELS: Final = 100

#: Seconds (virtual ones) that no world needs.
_LONG: Final = 100_000.0

#: Turns in a row that may fail by themselves.
_TRIES: Final = 50

Item = dict[str, Any]


@attrs.define
class Outcome:
    """What happened in a world."""

    cancels: int = 0
    #: Of these, how many came too late: the turn counts.
    counted: int = 0
    #: What was cancelled, and how often.
    acts: dict[str, int] = attrs.field(factory=dict[str, int])


class Canceller(trio.abc.Instrument):
    """Cancels one of the open scopes every few steps."""

    def __init__(self, choice: random.Random, most: int) -> None:
        self.scopes: list[trio.CancelScope] = []
        #: When each was cancelled.
        self.at: dict[trio.CancelScope, float] = {}
        self._choice = choice
        self._most = most
        self._left = choice.randrange(1, most)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Perhaps it is time."""
        if not self.scopes:
            return
        self._left -= 1
        if self._left <= 0:
            self._left = self._choice.randrange(1, self._most)
            scope = self._choice.choice(self.scopes)
            if not scope.cancel_called:
                self.at[scope] = trio.current_time()
                scope.cancel()


class Far:
    """The far ends. Each says what it saw: the digest of all items that a request continues or brings."""

    def __init__(self, choice: random.Random) -> None:
        self.connector = FakeConnector(self._take)
        self.connector.prepare = self._prepare
        self.nursery: trio.Nursery
        self._choice = choice
        self._trouble = choice.choice((0.0, 0.05, 0.2))
        self._slow = choice.choice((0.0, 0.01, 2.0))
        self._memory: dict[FakeWire, dict[str, list[Item]]] = {}

    async def connect(self, *args: Any) -> FakeWire:
        """Dial, as a connector does."""
        await trio.sleep(self._choice.random() * self._slow)
        if self._choice.random() < self._trouble / 2:
            raise ConnectError("nobody is there", phase="tcp")
        return await self.connector.connect(*args)

    def _prepare(self, wire: FakeWire) -> None:
        wire.batched = self._choice.random() < 0.5
        self._memory[wire] = {}

    def _take(self, wire: FakeWire, request: Item) -> None:
        self.nursery.start_soon(self._answer, wire, request)

    async def _answer(self, wire: FakeWire, request: Item) -> None:
        lane = {"stream_id": request["stream_id"]} if "stream_id" in request else {}

        def push(*events: Item) -> None:
            wire.push(*({**event, **lane} for event in events))

        choice, memory = self._choice, self._memory[wire]
        await trio.sleep(choice.random() * self._slow)
        mishap = choice.choice(_MISHAPS) if choice.random() < self._trouble else ""
        parent = request.get("previous_response_id")
        if parent is not None and parent not in memory:
            return push(error_frame("previous_response_not_found"))
        if mishap == "refused":
            return push(error_frame("server_error", 503, headers={"Retry-After": "1"}))
        if mishap == "too many":
            return push(error_frame("rate_limit_exceeded", 429))
        if mishap == "limit":
            wire.push(error_frame("websocket_connection_limit_reached"))
            return wire.hang_up()
        name = f"resp_{len(memory) + 1}"  # each connection counts for itself
        seen = [*(memory[parent] if parent is not None else ()), *request["input"]]
        memory[name] = [*seen, *answer_to(seen)]
        push(created(name))
        await trio.sleep(choice.random() * self._slow)
        push(delta("..."))
        if mishap == "broken":
            return wire.hang_up()
        if mishap == "error":
            return push({"type": "error", "sequence_number": 9, "error": {"code": "server_error"}})
        await trio.sleep(choice.random() * self._slow)
        response = {"id": name, "status": "completed", "output": answer_to(seen)}
        return push({"type": "response.completed", "response": response})


#: The far ends count their responses, each for itself, and keep none for the others.
_COUNTS: Final = attrs.evolve(wspool.OPENAI, stores_by_default=False)

_MISHAPS: Final = ("refused", "too many", "limit", "broken", "error")


def answer_to(seen: Sequence[Item]) -> list[Item]:
    """What the far end says to what it has seen: a call first, if that is asked for, and else a digest.

    What is said of calls that were passed over is nothing that was told.
    """
    seen = [item for item in seen if item.get("output") != NO_OUTPUT]
    if "call" in json.dumps(seen[-1].get("content", "")):
        call = {"type": "function_call", "name": "work", "arguments": "{}", "call_id": f"call_{len(seen)}"}
        return [call]
    return [said(hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest())]


def as_given(text: str) -> Item:
    """The item that a text becomes."""
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


class Talker:
    """Holds one conversation, is cancelled, and looks what came of it."""

    def __init__(self, world: _World, conversation: wspool.Conversation, told: list[Item]) -> None:
        self._world = world
        self._conversation = conversation
        self._told = told
        self._choice = world.choice
        self._turn: wspool.Turn | None = None
        self._given: list[Item] = []

    @property
    def told(self) -> list[Item]:
        """What it has been told so far."""
        return self._told

    def given(self, text: str) -> list[Item]:
        """What a turn that says *text* is given: outputs of the calls that a cancelled loop left, first."""
        kind = "function_call_output"
        left = [
            {"type": kind, "call_id": call["call_id"], "output": "left"} for call in open_calls(self._told)
        ]
        return [*left, as_given(text)]

    async def act(self) -> None:
        """Do something, perhaps until it is cancelled."""
        read = self.read, self.read_slowly, self.leave_early
        act = self._choice.choice((*read, self.respond, self.run, self.branch, self.lease))
        self._turn, self._given = None, self.given(self._choice.choice(("x", "y", "call z")))
        over = False
        with trio.CancelScope() as scope:
            self._world.canceller.scopes.append(scope)
            try:
                await act()
            except (wspool.TurnLostError, wspool.ResponseFailedError, wspool.LeaseRefusedError):
                pass
            finally:
                self._world.canceller.scopes.remove(scope)
                if scope.cancel_called:
                    cancelled_at = self._world.canceller.at.pop(scope)
                    assert trio.current_time() == cancelled_at, f"{act.__name__} did not end at once"
            over = True
            await trio.lowlevel.checkpoint()
        if not scope.cancel_called:
            self.look()
            return
        assert scope.cancelled_caught, f"{act.__name__} took the cancellation for itself"
        outcome = self._world.outcome
        outcome.cancels += 1
        outcome.acts[act.__name__] = outcome.acts.get(act.__name__, 0) + 1
        before = len(self._told)
        self.look()
        outcome.counted += len(self._told) > before and not over
        assert_conserved(self._world.pool.statistics())
        await self.prove_usable()

    def look(self) -> None:
        """The history is what it was, or has what the caller was given the end of."""
        items = self._conversation.items
        if self._turn is not None:
            told = self._turn.response if self._turn._response is not None else None
            if told is not None and told.status == "completed":
                self._told = [*self._told, *self._given, *told.output]
            assert items == self._told, "the history is not what was told"
            self._turn = None
            return
        # Several turns, or one whose end was given inside: whole turns only, each answered as it must be.
        assert items[: len(self._told)] == self._told, "the history was torn"
        at = len(self._told) + len(self._given) - 1
        while at < len(items):
            answer = answer_to(items[: at + 1])
            assert items[at + 1 : at + 2] == answer, "half a turn, or one that saw something else"
            at += 2
        self._told = items

    async def prove_usable(self) -> None:
        """Take a turn, whatever the far end is up to."""
        given, before = self.given("after"), self._told
        for _ in range(_TRIES):
            try:
                response = await self._conversation.respond(given)
            except (wspool.TurnLostError, wspool.ResponseFailedError, wspool.LeaseRefusedError):
                assert self._conversation.items == before, "a turn that failed changed the history"
                continue
            seen = [*before, *given]
            assert response.output == answer_to(seen), "the far end saw another conversation"
            self._told = [*seen, *response.output]
            assert self._conversation.items == self._told
            return
        raise AssertionError("the conversation is of no use any more")

    # -- what it does -------------------------------------------------------------------------

    async def respond(self) -> None:
        await self._conversation.respond(self._given)

    async def read(self) -> None:
        async with self._conversation.turn(self._given) as self._turn:
            async for _ in self._turn:
                pass

    async def read_slowly(self) -> None:
        async with self._conversation.turn(self._given) as self._turn:
            async for _ in self._turn:
                await trio.sleep(self._choice.random())

    async def leave_early(self) -> None:
        async with self._conversation.turn(self._given) as self._turn:
            for _ in range(self._choice.randrange(3)):
                await self._turn.__anext__()
            if self._choice.random() < 0.3:
                await self._turn.result()

    async def run(self) -> None:
        async def work() -> str:
            await trio.sleep(self._choice.random())
            return "done"

        self._given = self.given("call w")
        await self._conversation.run(self._given, tools={"work": work}, retries=2)

    async def branch(self) -> None:
        async with self._conversation.fork() as other:
            given = self.given("branch")
            response = await other.respond(given)
            assert response.output == answer_to([*self._told, *given])

    async def lease(self) -> None:
        async with self._world.pool.lease() as lease, lease.create(model="m", input=[as_given("x")]) as turn:
            response = await turn.result()
            assert response.output == answer_to([as_given("x")])


class _World:
    """One seed."""

    def __init__(self, seed: int) -> None:
        self.choice = random.Random(seed)
        self.canceller = Canceller(random.Random(seed + 1), self.choice.choice((10, 40, 150)))
        self.outcome = Outcome()
        self.pool: wspool.Pool

    async def run(self, cancels: int) -> None:
        """Live, and look what is left."""
        choice, far = self.choice, Far(random.Random(self.choice.getrandbits(64)))
        limits = policy(
            max_size=choice.randint(1, 3),
            lanes=choice.choice((1, 1, 3)),
            on_cancel=choice.choice(("hang_up", "drain")),
            replay=choice.choice(("proven", "no_output", "always")),
            patience=choice.choice((0.0, 2.0)),
            min_idle=choice.randint(0, 1),
        )
        manager = fake_manager(far, limits=limits, provider=_COUNTS)  # type: ignore[arg-type] # a connector of another class
        with trio.fail_after(_LONG):
            async with trio.open_nursery() as far.nursery:
                async with manager as self.pool:
                    assert manager._shell is not None
                    manager._shell.jitter = random.Random(choice.getrandbits(64)).random
                    manager._shell._timekeeper._clock._suspended = lambda: 0.0
                    async with trio.open_nursery() as nursery:
                        for _ in range(choice.randint(1, 5)):
                            nursery.start_soon(self._talk, cancels)
                    assert_settled(self.pool)
                    await self._lease_all(limits.max_size)
                far.nursery.cancel_scope.cancel()
        assert manager._shell is not None
        assert_empty(manager._shell.core.statistics())
        assert (0, 0) == (len(manager._shell._connections), len(manager._shell._leases))

    async def _talk(self, cancels: int) -> None:
        told: list[Item] = []
        resume: dict[str, Any] | None = None
        while self.outcome.cancels < cancels:
            fields: dict[str, Any] = {} if resume is not None else {"model": "m"}
            async with self.pool.conversation(resume=resume, **fields) as conversation:
                talker = Talker(self, conversation, told)
                for _ in range(self.choice.randint(1, 8)):
                    await talker.act()
                    self._meddle()
                told, resume = talker.told, conversation.snapshot()
                if len(told) > 60:
                    told, resume = [], None

    def _meddle(self) -> None:
        """Do something to the pool, now and then."""
        pool = self.pool
        acts = pool.drain, pool.clear, pool.retry_now, partial(pool.clear, interrupt=True)
        if self.choice.random() < 0.1:
            self.choice.choice(acts)()

    async def _lease_all(self, most: int) -> None:
        """Every connection has a lane to lease: none was lost."""
        leases: list[wspool.Lease] = []
        for _ in range(most):
            for left in reversed(range(_TRIES)):
                try:
                    leases.append(await self.pool.acquire())
                    break
                except wspool.DialFailedError:
                    assert left, "nobody can be leased a lane any more"
        for lease in leases:
            lease.release()


def run_world(seed: int, cancels: int = CANCELS) -> Outcome:
    """Run the world of *seed* until so many were cancelled, and check it.

    Raises:
        AssertionError: a rule is broken; the text says which.
        Exception: whatever came out of the pool that should not.
    """
    world = _World(seed)

    async def main() -> None:
        living = trio.lowlevel.current_statistics().tasks_living
        await world.run(cancels)
        await trio.testing.wait_all_tasks_blocked()
        assert living == trio.lowlevel.current_statistics().tasks_living

    with deterministic(seed):
        clock = trio.testing.MockClock(autojump_threshold=0)
        trio.run(main, clock=clock, instruments=[world.canceller])
    return world.outcome
