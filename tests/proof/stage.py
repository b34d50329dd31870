"""A scene on its stage: a pool, two or three conversations, and the peer; and what everybody was told.

A scene says who asks what, when, and how the server speaks. `play` plays it on a virtual clock, with a
mutation or without, and returns all that is known after it; the judgement is in `judge`.
"""

from __future__ import annotations

import copy
import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any, Final

import attrs
import trio
import trio.testing

import wspool
from tests.helpers import URL, policy
from tests.simulation.world import deterministic

from . import contents, order
from .peer import Create, Peer
from .scripts import Frame, Message, Variant, honest
from .tampering import Mutation

#: Seconds after which a caller who was told nothing is taken to wait for ever.
FOR_EVER: Final = 60.0
#: Which questions are asked, in order; the star is the one that is tampered with.
ORDERS: Final = {
    "X": ("A1", "A2*", "B1", "B2", "A3"),
    "Y": ("A1*", "A2", "B1", "A3"),
    "Z": ("A1", "B1*", "C1", "A2", "B2", "C2"),
}


@attrs.frozen
class Scene:
    """Who asks what, when, and how the server speaks.

    Attributes:
        order: which of `ORDERS`.
        queued: the next one is in line while a turn runs, instead of asking when it is over.
        at_once: how many messages come in one read; 0: a whole turn.
        reads: the callers look at each event, instead of waiting for the response.
        kind: the kind of the tampered turn.
        variant: how the server writes.
    """

    order: str
    queued: bool
    at_once: int
    reads: bool
    kind: str
    variant: Variant

    def __str__(self) -> str:
        how = ("queued" if self.queued else "idle", f"by{self.at_once}" if self.at_once else "whole")
        return "/".join(
            (self.order, *how, "events" if self.reads else "respond", self.kind, str(self.variant))
        )

    @property
    def target(self) -> str:
        """The question that is tampered with."""
        return next(one[:-1] for one in ORDERS[self.order] if one.endswith("*"))

    @property
    def questions(self) -> list[str]:
        """All questions, in order."""
        return [one.removesuffix("*") for one in ORDERS[self.order]]

    def mutations(self) -> Iterator[Mutation]:
        """Every mutation that its tampered turn allows."""
        said = honest(self.kind, self.variant, response_id="resp_0", parent=None, mark="A0.0", key="k")
        yield from order.mutations(said, self.variant)
        yield from contents.mutations(said, self.variant)


@attrs.define(eq=False)
class Told:
    """What one caller was told.

    Attributes:
        outcome: completed, incomplete, failed (by the server), lost, waiting (it never was), or crash.
        at: when.
        given: the input.
        shown: everything it was shown, as JSON, by where: events, response, error.
        output: the output of its response.
    """

    question: str
    given: list[Frame]
    outcome: str = "waiting"
    at: float = 0.0
    shown: dict[str, str] = attrs.field(factory=dict)
    events: list[Any] = attrs.field(factory=list)
    output: Any = None
    error: BaseException | None = None


@attrs.define(eq=False)
class Run:
    """All that is known after one scene."""

    scene: Scene
    mutation: Mutation | None
    told: dict[str, Told]
    creates: list[Create]
    log: list[tuple[float, int, str, Message]]
    dials: int
    histories: dict[str, list[Frame]]
    strays: set[float] = attrs.field(factory=set)
    crash: BaseException | None = None


# -- the scene ------------------------------------------------------------------------------------


class _Stage:
    """One pool, its conversations and its peer."""

    def __init__(self, scene: Scene, peer: Peer, pool: wspool.Pool) -> None:
        self.scene = scene
        self.peer = peer
        self.pool = pool
        self.told: dict[str, Told] = {}
        self.histories: dict[str, list[Frame]] = {}
        self._conversations: dict[str, wspool.Conversation] = {}
        self._calls: dict[str, list[Frame]] = defaultdict(list)

    async def play(self) -> None:
        """Ask all questions, then everybody's last one on a new connection."""
        async with AsyncExitStack() as stack:
            for who in "ABC":
                conversation = self.pool.conversation(model="m")
                self._conversations[who] = await stack.enter_async_context(conversation)
            if self.scene.queued:
                await self._all_in_line()
            else:
                for question in self.scene.questions:
                    await self._ask(question)
                    await trio.sleep(0.3)
            self.histories = {
                who: copy.deepcopy(self._conversations[who].items)
                for who in dict.fromkeys(question[0] for question in self.scene.questions)
            }
            self.peer.hang_up()
            await trio.sleep(0.3)
            for who in self.histories:
                await self._ask(f"{who}9")

    async def _all_in_line(self) -> None:
        """Each question is asked while the one before is under way, once its conversation is free."""
        done = {question: trio.Event() for question in self.scene.questions}

        async def ask(question: str) -> None:
            await self._ask(question)
            done[question].set()

        async with trio.open_nursery() as nursery:
            for index, question in enumerate(self.scene.questions):
                for before in self.scene.questions[:index]:
                    if before[0] == question[0]:
                        await done[before].wait()
                nursery.start_soon(ask, question)
                await trio.sleep(0.002)  # it is sent or in line, and the peer has said nothing yet

    async def _ask(self, question: str) -> None:
        conversation = self._conversations[question[0]]
        told = self.told[question] = Told(question, self._input(question))
        try:
            with trio.move_on_after(FOR_EVER):
                async with conversation.turn(copy.deepcopy(told.given)) as turn:
                    if self.scene.reads:
                        async for event in turn:
                            told.events.append(_data(event))
                        response = turn.response
                    else:
                        response = await turn.result()
                assert isinstance(response.output_text, str)
                told.outcome, told.output = response.status, copy.deepcopy(response.output)
                told.shown["response"] = text_of(response.data)
        except wspool.WsPoolError as error:
            told.outcome = "failed" if isinstance(error, wspool.ResponseFailedError) else "lost"
            told.error = error
            told.shown["error"] = str(error) + text_of(getattr(error, "raw", None))
            told.shown["events"] = text_of([_data(event) for event in getattr(error, "events", ())])
        except Exception as error:
            told.outcome, told.error = "crash", error
        told.at = trio.current_time()
        told.shown["events"] = told.shown.get("events", "") + text_of(told.events)
        if told.outcome in ("completed", "incomplete"):
            calls = [item for item in dicts(told.output) if item.get("type") == "function_call"]
            self._calls[question[0]] = calls

    def _input(self, question: str) -> list[Frame]:
        """A question, behind the outputs of all calls that are open: they are until a turn with them ends."""
        outputs: list[Frame] = [
            {"type": "function_call_output", "call_id": call.get("call_id"), "output": f"to {question}"}
            for call in self._calls[question[0]]
        ]
        return [*outputs, {"type": "message", "role": "user", "content": f"ask:{question};"}]


def _data(event: wspool.Event) -> Any:
    try:
        return event.data
    except wspool.WsPoolError:
        return {"type": event.type}


def dicts(value: Any) -> list[Frame]:
    """The objects of a list, and nothing of what is none."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def text_of(value: Any) -> str:
    """Anything as JSON, its letters as they are."""
    return json.dumps(value, ensure_ascii=False, default=str)


async def _play(scene: Scene, mutation: Mutation | None, kind: str) -> Run:
    run = Run(scene, mutation, {}, [], [], 0, {})
    async with trio.open_nursery() as nursery:
        peer = Peer(
            nursery,
            kinds={scene.target: kind},
            variant=scene.variant,
            target=scene.target,
            mutation=mutation,
            at_once=scene.at_once,
        )
        limits = policy(max_size=1, patience=0.01, close_timeout=0.01)
        stage: _Stage | None = None
        try:
            async with wspool.open_pool(URL, api_key="k", wire=peer.connector, policy=limits) as pool:
                stage = _Stage(scene, peer, pool)
                await stage.play()
        except Exception as error:
            run.crash = error
        if stage is not None:
            run.told, run.histories = stage.told, stage.histories
        run.strays = peer.strays
        run.creates, run.log, run.dials = peer.creates, peer.log, len(peer.connector.wires)
        nursery.cancel_scope.cancel()
    return run


def play(scene: Scene, mutation: Mutation | None) -> Run:
    """Play one scene, with a mutation or as it should be."""
    clock = trio.testing.MockClock(autojump_threshold=0)
    with deterministic(0):
        return trio.run(_play, scene, mutation, scene.kind, clock=clock)
