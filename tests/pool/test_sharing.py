"""Nothing that a caller does to what it gave or got changes what is sent.

Programs of turns, branches, snapshots and lost connections run twice. One run changes everything that was
ever given or got, at every moment at which anything is sent, seen or returned; its twin touches nothing.
Both must have sent the same bytes. Three faults, put in on purpose, show that the comparison sees sharing.
"""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from typing import Any, overload

import pytest
import trio
import trio.testing
from hypothesis import example, given, strategies as st

import wspool
from tests.helpers import (
    FakeConnector,
    FakeWire,
    completed,
    created,
    delta,
    error_frame,
    fake_pool,
    policy,
    said,
)
from tests.searching import examples
from wspool.core.encoding import Encoded
from wspool.core.frames import encode
from wspool.core.items import Output, encode_items
from wspool.pool import conversation as conversation_module

STEPS = ("respond", "stream", "break", "lease", "run", "watch", "wait", "fork", "resume", "lose", "compact")
PROGRAMS = st.lists(st.sampled_from(STEPS), min_size=2, max_size=8)


class Hands:
    """What a caller keeps of all that it gave and got.

    Attributes:
        changes: whether it is a caller that changes it.
    """

    def __init__(self, *, changes: bool) -> None:
        self.changes = changes
        self._kept: list[Any] = []

    def keep(self, value: Any) -> Any:
        """Keep *value*, and return it."""
        self._kept.append(value)
        return value

    def move(self) -> None:
        """Change everything, deep inside, if it is such a caller."""
        if self.changes:
            for value in self._kept:
                spoil(value, set())


def spoil(value: Any, seen: set[int]) -> None:
    """Change all texts and the shape of *value*, where it is."""
    if id(value) in seen or not isinstance(value, (dict, list)):
        return
    seen.add(id(value))
    members = list(value.items() if isinstance(value, dict) else enumerate(value))
    for place, member in members:
        spoil(member, seen)
        if isinstance(member, (str, bool)):
            value[place] = "SPOILED"
    if isinstance(value, dict):
        value["spoiled"] = True
    else:
        value.append({"type": "message", "role": "user", "content": "SPOILED"})


class Endpoint:
    """The far end: refuses each third request, leaves every other output out of its last event, and calls a
    tool if asked to, once it was asked twice.
    """

    def __init__(self, hands: Hands) -> None:
        self.hands = hands
        self.count = 0
        self.lost: set[str] = set()

    def __call__(self, wire: FakeWire, request: dict[str, Any]) -> None:
        self.count += 1
        self.hands.move()  # between a request and its answer, or a request and its resend
        if self.count % 3 == 0:
            wire.push(error_frame("rate_limit_exceeded", 429))
            return
        id = f"resp_{self.count}"
        text = repr(request["input"][-1])
        if "call me" in text and text not in self.lost:
            self.lost.add(text)  # `run` takes such a turn again
            wire.hang_up()
            return
        call = {
            "type": "function_call",
            "call_id": f"c{self.count}",
            "name": "look",
            "arguments": '{"at": ["x"]}',
        }
        item = call if "call me" in text and "tools" in request else said(f"answer {self.count}")
        done = {"type": "response.output_item.done", "output_index": 0, "item": item}
        end = completed(id)
        end["response"]["output"] = [] if self.count % 2 else [item]
        wire.push(created(id), delta("ok"), done, end)


def one_by_one(wire: FakeWire) -> None:
    """Let each event of *wire* be seen before the next is there."""
    wire.batched = False


async def run(program: Iterable[str], hands: Hands) -> list[bytes]:
    """Run *program* with *hands*; return what was sent."""
    peer = Endpoint(hands)
    connector = FakeConnector(peer)
    connector.prepare = one_by_one
    limits = policy(max_size=1, max_resends=3)
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(fake_pool(connector, limits=limits))
        defaults = hands.keep(
            {"model": "m", "tools": [{"type": "function", "name": "look"}], "metadata": {"a": ["b"]}}
        )
        talk = await stack.enter_async_context(pool.conversation(**defaults))
        hands.move()
        for number, step in enumerate(program):
            talk = await take(step, number, talk, pool, hands, stack, connector)
            for got in (talk.items, talk.snapshot()):
                hands.keep(got)
            hands.move()
        for wire in connector.wires:
            wire.hang_up()
        await trio.testing.wait_all_tasks_blocked()
        await talk.respond("and now all of it")
    return [message for wire in connector.wires for message in wire.sent]


async def take(
    step: str,
    number: int,
    talk: wspool.Conversation,
    pool: wspool.Pool,
    hands: Hands,
    stack: AsyncExitStack,
    connector: FakeConnector,
) -> wspool.Conversation:
    """Take one step; return the conversation that goes on."""
    text = f"call me {number}" if step in ("run", "watch") else f"say {number}"
    given = hands.keep([{"role": "user", "content": [{"type": "input_text", "text": text}]}])
    body = hands.keep({"metadata": {"turn": [str(number)]}, "reasoning": {"effort": "low"}})
    match step:
        case "respond":
            hands.keep((await talk.respond(given, **body)).data)
        case "stream" | "break":
            turn = talk.turn(given, **body)
            hands.move()
            async with turn:
                async for event in turn:
                    hands.keep(event.data)
                    hands.move()
                    if step == "break" and event.type == "response.completed":
                        break
                else:
                    hands.keep(turn.response.data)
                    hands.move()
        case "lease":
            talk.close()  # there is room for one
            async with pool.lease() as lease:
                turn = lease.create(input=given, **body)
                hands.move()
                async with turn:
                    try:
                        hands.keep((await turn.result()).data)
                    except wspool.ResponseFailedError:
                        pass  # a lease sends nothing again
            return await stack.enter_async_context(pool.conversation(resume=hands.keep(talk.snapshot())))
        case "run" | "watch":

            async def look(at: list[str]) -> Any:
                await trio.lowlevel.checkpoint()
                return hands.keep({"seen": at})

            def see(event: wspool.Event) -> None:
                hands.keep(event.data)
                hands.move()

            on_event = see if step == "watch" else None
            response = await talk.run(given, tools={"look": look}, retries=1, on_event=on_event, **body)
            hands.keep(response.data)
        case "wait":
            talk.close()
            kept = talk.snapshot()
            waiting = await stack.enter_async_context(pool.conversation(resume=kept))
            async with trio.open_nursery() as nursery, pool.lease():
                nursery.start_soon(lambda: waiting.respond(given, **body))
                await trio.testing.wait_all_tasks_blocked()
                hands.move()
            return waiting
        case "fork":
            overrides = hands.keep({"metadata": {"branch": [str(number)]}})
            branch = await stack.enter_async_context(talk.fork(**overrides))
            talk._continuity.drop_lease()
            return branch
        case "resume":
            talk.close()
            snapshot = hands.keep(talk.snapshot())
            resumed = await stack.enter_async_context(pool.conversation(resume=snapshot, **body))
            hands.move()
            return resumed
        case "compact":
            answer = hands.keep(
                {"output": [*talk.items[:1], {"type": "compaction", "encrypted_content": "x"}]}
            )
            talk._continuity.chain.restart(answer["output"])
        case _:
            for wire in connector.wires:
                wire.hang_up()
            await trio.testing.wait_all_tasks_blocked()
    return talk


def sent(program: Sequence[str], *, changes: bool) -> list[bytes]:
    """What a caller sends who changes everything, or nothing."""
    return trio.run(run, program, Hands(changes=changes), clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.odd_requests
@examples(60)
@given(PROGRAMS)
@example(STEPS)
@example(["stream", "lose", "respond", "break", "fork", "run", "wait", "resume"])
def test_what_is_sent_is_nobodys_to_change(program: list[str]) -> None:
    """Not by what was given, nor by what was got, at no time: the bytes are those of the untouched twin."""
    changed = sent(program, changes=True)

    assert sent(program, changes=False) == changed
    assert b"SPOILED" not in b"".join(changed)


# -- the comparison has teeth ---------------------------------------------------------------------


class LateItems(Sequence[Encoded]):
    """Items that are encoded when they are sent, not when they are given."""

    def __init__(self, given: Any) -> None:
        self._given = given

    @overload
    def __getitem__(self, index: int) -> Encoded: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Encoded]: ...
    def __getitem__(self, index: int | slice) -> Encoded | Sequence[Encoded]:
        assert isinstance(index, int)
        return Encoded(encode(self._given[index]))

    def __len__(self) -> int:
        return len(self._given)


class LateFields(UserDict[str, Any]):
    """Fields that are encoded when they are sent."""

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        return value if isinstance(value, Encoded) else Encoded(encode(value))


def share_input(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        conversation_module,
        "encode_items",
        lambda given: LateItems(given) if isinstance(given, list) else encode_items(given),
    )


def share_output(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        Output,
        "of",
        lambda output: Output(LateItems(output)),  # encoded when the turn is left
    )


def share_fields(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(conversation_module, "encode_fields", LateFields)


@pytest.mark.odd_requests
@pytest.mark.parametrize("fault", [share_input, share_output, share_fields])
def test_sharing_is_seen(
    fault: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Input, output or body that is shared with the caller until it is sent: each shows."""
    program = ["stream", "stream", "break", "respond"]
    untouched = sent(program, changes=False)
    fault(monkeypatch)

    assert untouched == sent(program, changes=False), "the fault alone changes nothing"
    try:
        assert untouched != sent(program, changes=True)
    except (TypeError, ValueError):
        pass  # what was spoiled could not even be sent
