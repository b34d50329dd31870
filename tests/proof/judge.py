"""The judge: plays a scene against a pool, and compares what the callers were told with what was said.

The rules by name, as they stand in tables and failures:

=======  ==================================================================================================
answer   no response of one request is told to the caller of another
event    no event of one request is shown to the caller of another
twice    no question is run twice
parent   no request names a parent of another conversation
lost     no innocent turn is lost, nor one that was tampered with where that leaves no doubt
status   what is told is what the type of the last event says
never    no caller waits longer than a moment after the end was said, and nobody for ever
line     nobody stays in line for ever
items    what is told as complete is all there, in order
notice   what is harmless changes nothing
history  the history, and the next full send, are what the caller was told
crash    nothing is raised but the errors of the pool
=======  ==================================================================================================
"""

from __future__ import annotations

import copy
import functools
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any, Final

import attrs
import trio
import trio.testing

import wspool
from tests.helpers import URL, policy

from .mutations import Message, Mutation, Wanted, mutations
from .peer import Create, Peer
from .scripts import Frame, Variant, honest

#: Seconds after which a caller who was told nothing is taken to wait for ever.
FOR_EVER: Final = 60.0
#: Seconds between the end of a turn and its caller being told, at most: the grace for an end, and a moment.
MOMENT: Final = 6.0

_MARK: Final = re.compile(r"«(!?)([A-Z][0-9]+)\.")

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
        yield from mutations(said, self.variant)


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
                told.outcome, told.output = response.status, copy.deepcopy(response.output)
                told.shown["response"] = _text(response.data)
        except wspool.WsPoolError as error:
            told.outcome = "failed" if isinstance(error, wspool.ResponseFailedError) else "lost"
            told.error = error
            told.shown["error"] = str(error) + _text(getattr(error, "raw", None))
            told.shown["events"] = _text([_data(event) for event in getattr(error, "events", ())])
        except Exception as error:
            told.outcome, told.error = "crash", error
        told.at = trio.current_time()
        told.shown["events"] = told.shown.get("events", "") + _text(told.events)
        if told.outcome in ("completed", "incomplete"):
            calls = [item for item in _dicts(told.output) if item.get("type") == "function_call"]
            self._calls[question[0]] = calls

    def _input(self, question: str) -> list[Frame]:
        """A question, behind the outputs of all calls that are open."""
        calls = self._calls.pop(question[0], [])
        outputs: list[Frame] = [
            {"type": "function_call_output", "call_id": call.get("call_id"), "output": f"to {question}"}
            for call in calls
        ]
        return [*outputs, {"type": "message", "role": "user", "content": f"ask:{question};"}]


def _data(event: wspool.Event) -> Any:
    try:
        return event.data
    except wspool.WsPoolError:
        return {"type": event.type}


def _dicts(value: Any) -> list[Frame]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _text(value: Any) -> str:
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
        run.creates, run.log, run.dials = peer.creates, peer.log, len(peer.connector.wires)
        nursery.cancel_scope.cancel()
    return run


def play(scene: Scene, mutation: Mutation | None) -> Run:
    """Play one scene, with a mutation or as it should be."""
    clock = trio.testing.MockClock(autojump_threshold=0)
    return trio.run(_play, scene, mutation, scene.kind, clock=clock)


@functools.lru_cache(maxsize=4096)
def undisturbed(scene: Scene) -> Run:
    """The same scene without any mutation."""
    return play(scene, None)


# -- the judgement --------------------------------------------------------------------------------


@attrs.frozen
class Violation:
    """One rule that was broken."""

    rule: str
    question: str
    text: str

    def __str__(self) -> str:
        return f"[{self.rule}] {self.question}: {self.text}"


def judge(run: Run) -> list[Violation]:
    """Return every rule that was broken in a scene, none if all is well."""
    if run.crash is not None:
        return [Violation("crash", "-", f"the pool ended with {run.crash!r}")]
    found: list[Violation] = []
    for told in run.told.values():
        own = [create for create in run.creates if create.question == told.question]
        blurred = any(create.blurred for create in own)
        found += _foreign(told, own, blurred)
        found += _waits(told, own)
        if not blurred:
            found += _runs(run, told, own)
            found += _outcome(run, told, own)
            found += _items(run, told, own)
    found += _histories(run)
    if run.mutation is not None and run.mutation.harmless:
        plain = undisturbed(run.scene)
        if not judge(plain):
            found += _differences(run, plain)
    return found


def _foreign(told: Told, own: list[Create], blurred: bool) -> Iterator[Violation]:
    """Marks of other questions, where they can be told apart."""
    for where, text in told.shown.items():
        marks = {(bool(bang), question) for bang, question in _MARK.findall(text)}
        for bang, question in sorted(marks):
            if question == told.question:
                continue
            if bang and (blurred or any("amidst" in create.touched for create in own)):
                continue  # an error without number in a running response cannot be told from its own
            if blurred and not bang:
                continue
            rule = "event" if where == "events" else "answer"
            yield Violation(
                rule, told.question, f"was shown {'the error' * bang} of {question} in its {where}"
            )


def _waits(told: Told, own: list[Create]) -> Iterator[Violation]:
    if told.outcome == "crash":
        yield Violation("crash", told.question, f"{type(told.error).__name__}: {told.error}")
    elif told.outcome == "waiting":
        yield Violation("never" if own else "line", told.question, "was told nothing")
    elif own and own[-1].ended is not None and told.at > own[-1].ended + MOMENT:
        late = told.at - own[-1].ended
        yield Violation(
            "never", told.question, f"was told {told.outcome} {late:.1f} s after its end was said"
        )


def _runs(run: Run, told: Told, own: list[Create]) -> Iterator[Violation]:
    ran = [create.number for create in own if create.ran]
    if len(ran) > 1:
        yield Violation("twice", told.question, f"was run {len(ran)} times, by requests {ran}")
    for create in own:
        if create.parent_of is not None and create.parent_of != create.who:
            text = f"names {create.parent}, a response to {create.parent_of}"
            yield Violation("parent", told.question, text)


def _truth(own: list[Create]) -> str:
    """What a caller is to be told if nobody tampers."""
    last = own[-1].said if own else None
    return last.outcome if last is not None else "nothing"


def _outcome(run: Run, told: Told, own: list[Create]) -> Iterator[Violation]:
    truth = _truth(own)
    tampered = any(create.tampered for create in own)
    wanted: Wanted = run.mutation.wanted if tampered and run.mutation is not None else "honest"
    if any(create.touched for create in own):
        allowed = {truth, "lost"} | ({"failed"} if any("amidst" in c.touched for c in own) else set())
    elif wanted == "honest":
        allowed = {truth}
    elif wanted == "any":
        allowed = {"completed", "incomplete", "failed", "lost"}
    else:
        allowed = {wanted, "lost"}
    if told.outcome not in allowed | {"waiting", "crash"}:
        why = f"{type(told.error).__name__}: {told.error}" if told.error is not None else ""
        text = f"was told {told.outcome}, not {' or '.join(sorted(allowed))}; {why}"
        rule = "lost" if told.outcome in ("lost", "failed") else "status"
        yield Violation(rule, told.question, text)


def _items(run: Run, told: Told, own: list[Create]) -> Iterator[Violation]:
    if told.outcome not in ("completed", "incomplete") or not own or own[-1].said is None:
        return
    said = own[-1].said
    if said.outcome == "failed":
        return  # retyped: what is left of a failed turn has no right items
    rest = iter(said.items)
    if told.outcome == "incomplete" and all(item in rest for item in told.output):
        return  # the caller knows that something is missing
    if told.output != said.items:
        yield Violation("items", told.question, f"was told {told.outcome} with {_brief(told.output)}")


def _brief(items: Any) -> str:
    return _text(
        [
            [item.get("type"), item.get("id")] if isinstance(item, dict) else item
            for item in (items if isinstance(items, list) else [items])
        ]
    )


def _histories(run: Run) -> Iterator[Violation]:
    for who, items in run.histories.items():
        right: list[Frame] = []
        for told in run.told.values():
            if told.question[0] == who and told.question[1:] != "9":
                if told.outcome in ("completed", "incomplete"):
                    right += [*told.given, *_dicts(told.output)]
        if items != right:
            yield Violation("history", who, f"has {_brief(items)}, was told {_brief(right)}")
            continue
        last = [create for create in run.creates if create.question == f"{who}9"]
        if not last:
            continue
        if last[0].parent is not None:
            yield Violation("history", who, f"names {last[0].parent} on a new connection")
        elif [_gist(item) for item in last[0].input[:-1]] != [
            _gist(item) for item in (*right, *run.told[f"{who}9"].given[:-1])
        ]:
            yield Violation("history", who, f"sends {_brief(last[0].input)}, was told {_brief(right)}")


def _gist(item: Frame) -> list[Any]:
    """What must not change when an item is sent again."""
    return [
        item.get(name) for name in ("type", "role", "call_id", "arguments", "content", "output", "summary")
    ]


def _differences(run: Run, plain: Run) -> Iterator[Violation]:
    """What a harmless notice has changed."""
    for told, before in zip(run.told.values(), plain.told.values()):
        if (told.outcome, told.output) != (before.outcome, before.output):
            yield Violation("notice", told.question, f"told {told.outcome}, without it {before.outcome}")
    if run.dials != plain.dials:
        yield Violation("notice", "-", f"{run.dials} connections, without it {plain.dials}")
    ways = [(c.question, c.connection, c.parent) for c in run.creates]
    if ways != [(c.question, c.connection, c.parent) for c in plain.creates]:
        yield Violation("notice", "-", f"requests went {ways}")
    if run.histories != plain.histories:
        yield Violation("notice", "-", "the histories differ")
