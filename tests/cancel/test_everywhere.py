"""Cancelled, failed and interrupted at every step of everything that a pool does.

Each scenario makes the pool do one thing: queue, hand a lane over, dial, renew a key, warm up, take a turn,
park and steal, give back, move before the end of a connection's life, `drain`, `clear`, `resize`, `aclose`.
Whatever happens at whichever step: no task, no connection, no lane and no waiter is left, the account is
right, and what came out is what was put in.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any, Final

import pytest
import trio

import wspool
from tests.cancel.steps import ACTIONS, Action, Mishap, Scenario, Steps, leaves, live, sweep
from tests.helpers import (
    CANARY,
    FakeConnector,
    FakeWire,
    assert_empty,
    completed,
    created,
    delta,
    error_frame,
    fake_manager,
    policy,
    refused,
)
from wspool.server import EchoModel, Entry, open_server


async def speak(conversation: Any, text: str = "x") -> None:
    """One turn of *conversation*; losing it is part of some scenarios."""
    try:
        await conversation.respond(text)
    except wspool.TurnLostError:
        pass


async def hold(pool: wspool.Pool, seconds: float) -> None:
    """Take a lease and keep it for a while."""
    async with pool.lease():
        await trio.sleep(seconds)


async def stand_in_line(pool: wspool.Pool, steps: Steps) -> None:
    """Queue behind two others, be handed a lane, take a turn, give it back."""
    async with trio.open_nursery() as nursery:
        for seconds in (1.0, 2.0):
            nursery.start_soon(hold, pool, seconds)
        await steps.wait(trio.sleep, 0.5)
        lease = await steps.wait(pool.acquire)
        try:
            async with lease.create(model="m", input="x") as turn:
                await steps.wait(turn.result)
        finally:
            lease.release()


async def dial(pool: wspool.Pool, steps: Steps) -> None:
    """Wait for a dial that takes its time; another waiter needs it as well."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hold, pool, 0.5)
        async with pool.conversation(model="m") as conversation:
            await steps.wait(speak, conversation)


async def warm_up(pool: wspool.Pool, steps: Steps) -> None:
    """Come while a connection warms up, wait for it, and take two turns."""
    await steps.wait(pool.wait_ready)
    async with pool.conversation(model="m") as conversation:
        await steps.wait(speak, conversation)
        await steps.wait(speak, conversation)


async def take_turns(pool: wspool.Pool, steps: Steps) -> None:
    """Read a turn event by event, leave another one in its middle, take a third."""
    async with pool.conversation(model="m") as conversation:
        async with conversation.turn("one") as turn:
            async for _ in turn:
                await steps.wait(trio.lowlevel.checkpoint)
        async with conversation.turn("two") as turn:
            await steps.wait(turn.__anext__)
        await steps.wait(speak, conversation)


async def share(pool: wspool.Pool, steps: Steps) -> None:
    """Open the lanes of one connection, and take turns on one of them while two others are busy."""
    lost: list[BaseException] = []

    async def sibling() -> None:
        async with pool.lease() as lease, lease.create(model="m", input="slow") as turn:
            try:
                await turn.result()
            except wspool.TurnLostError as error:
                lost.append(error)

    async with pool.conversation(model="m") as conversation, trio.open_nursery() as nursery:
        await steps.wait(speak, conversation)
        for _ in range(2):
            nursery.start_soon(sibling)
        async with conversation.turn("two") as turn:
            await steps.wait(turn.__anext__)
        await steps.wait(speak, conversation)
    assert [] == lost, "a turn cost its siblings something"


async def steer(pool: wspool.Pool, steps: Steps) -> None:
    """Steer a turn, and read on to the end of what follows."""
    async with pool.conversation(model="m") as conversation:
        async with conversation.turn("steered") as turn:
            await steps.wait(turn.__anext__)
            try:
                await steps.wait(turn.steer, "Shorter.")
            except Mishap:
                pass  # nothing is taken back
            await steps.wait(turn.result)
        await steps.wait(speak, conversation)


async def send_again(pool: wspool.Pool, steps: Steps) -> None:
    """Be refused and sent again after a while, and come in the hold that this has set; lose a connection."""

    async def late() -> None:
        async with pool.conversation(model="m") as conversation:
            await speak(conversation)

    async with trio.open_nursery() as nursery, pool.conversation(model="m") as conversation:
        async with conversation.turn("not yet") as turn:
            nursery.start_soon(late)
            await steps.wait(turn.__anext__)
            await steps.wait(turn.result)
        await steps.wait(speak, conversation, "once more")


async def park_and_steal(pool: wspool.Pool, steps: Steps) -> None:
    """Two conversations share one connection: each parks it and has it stolen."""

    async def other() -> None:
        async with pool.conversation(model="m") as conversation:
            for _ in range(2):
                await speak(conversation)
                await trio.sleep(3)

    async with trio.open_nursery() as nursery, pool.conversation(model="m") as conversation:
        nursery.start_soon(other)
        for _ in range(2):
            await steps.wait(speak, conversation)
            await steps.wait(trio.sleep, 3.5)


async def rotate(pool: wspool.Pool, steps: Steps) -> None:
    """Hold a conversation through the ends of two connections."""
    async with pool.conversation(model="m") as conversation:
        for _ in range(3):
            await steps.wait(speak, conversation)
            await steps.wait(trio.sleep, 45)


async def drain(pool: wspool.Pool, steps: Steps) -> None:
    """Replace all connections while one conversation is between turns and another one in a turn."""
    await between_turns(pool, steps, pool.drain)


async def clear(pool: wspool.Pool, steps: Steps) -> None:
    """Trust no connection any more, politely."""
    await between_turns(pool, steps, pool.clear)


async def interrupt(pool: wspool.Pool, steps: Steps) -> None:
    """Trust no connection any more, at once."""
    await between_turns(pool, steps, lambda: pool.clear(interrupt=True))


async def resize(pool: wspool.Pool, steps: Steps) -> None:
    """Shrink below what is leased, then grow again."""
    await between_turns(pool, steps, lambda: pool.resize(max_size=1, min_idle=0))
    pool.resize(max_size=3, min_idle=2)
    await steps.wait(pool.wait_ready, 2)


async def between_turns(pool: wspool.Pool, steps: Steps, act: Callable[[], None]) -> None:
    """Take a turn, let somebody else be in one, *act*, and take another turn."""

    async def other() -> None:
        async with pool.conversation(model="m") as conversation:
            await speak(conversation, "slow")

    async with trio.open_nursery() as nursery, pool.conversation(model="m") as conversation:
        await steps.wait(speak, conversation)
        nursery.start_soon(other)
        await steps.wait(trio.sleep, 0.2)
        act()
        await steps.wait(speak, conversation)


async def close(pool: wspool.Pool, steps: Steps) -> None:
    """Close while a lease is held, somebody stands in line and a turn is running."""

    async def late() -> None:
        try:
            async with pool.conversation(model="m") as conversation:
                await speak(conversation, "slow")
        except wspool.PoolClosedError:
            pass

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(late)
        nursery.start_soon(hold, pool, 0.7)
        await steps.wait(trio.sleep, 0.2)
        await steps.wait(lambda: pool.aclose(grace=5))


async def aging_key() -> str:
    """A key that is another one at each time."""
    await trio.sleep(0.05)
    return f"sk-{trio.current_time():08.3f}"


#: The first one, which has expired.
EXPIRED: Final = ("Authorization", "Bearer sk-0000.050")


SCENARIOS: Final[dict[str, tuple[Scenario, dict[str, Any], dict[str, Any]]]] = {
    "line": (stand_in_line, {"max_size": 1}, {}),
    "dial": (dial, {"max_size": 2}, {}),
    "renewal": (dial, {"max_size": 2}, {"api_key": aging_key}),
    "warm-up": (warm_up, {"min_idle": 1}, {"warm_up": {"model": "m"}}),
    "turns": (take_turns, {"max_size": 2}, {}),
    "turns, drained": (take_turns, {"max_size": 1, "on_cancel": "drain"}, {}),
    "lanes": (share, {"max_size": 1, "lanes": 3}, {"provider": wspool.OPENAI}),
    "steering": (steer, {"max_size": 2, "on_cancel": "drain"}, {"provider": wspool.OPENAI}),
    "resends": (send_again, {"max_size": 1, "replay": "always"}, {}),
    "parking": (park_and_steal, {"max_size": 1, "patience": 1.0}, {}),
    "rotation": (rotate, {"min_idle": 1, "max_lifetime": 60.0}, {}),
    "drain": (drain, {"max_size": 3, "min_idle": 1}, {}),
    "clear": (clear, {"max_size": 3, "min_idle": 1}, {}),
    "interrupt": (interrupt, {"max_size": 3, "min_idle": 1}, {}),
    "resize": (resize, {"max_size": 3, "min_idle": 1}, {}),
    "aclose": (close, {"max_size": 3, "min_idle": 1}, {}),
}


#: Steps in which the user's task waits: where a mishap may strike. Fewer is a loss of coverage.
PLACES: Final = {
    "line": 3,
    "dial": 3,
    "renewal": 3,
    "warm-up": 7,
    "turns": 7,
    "turns, drained": 7,
    "lanes": 7,
    "steering": 6,
    "resends": 15,
    "parking": 7,
    "rotation": 10,
    "drain": 7,
    "clear": 7,
    "interrupt": 7,
    "resize": 9,
    "aclose": 7,
}


class Far:
    """The far ends: dials take a moment, answers come in two parts, `slow` ones with a second between."""

    def __init__(self) -> None:
        self.connector = FakeConnector(self._answer)
        self.connector.prepare = self._prepare
        self._failed: set[str] = set()
        self.nursery: trio.Nursery | None = None

    def _prepare(self, wire: FakeWire) -> None:
        wire.batched = False  # one message at a time: more steps

    def _answer(self, wire: FakeWire, request: dict[str, Any]) -> None:
        assert self.nursery is not None
        self.nursery.start_soon(self._speak, wire, request)

    async def _speak(self, wire: FakeWire, request: dict[str, Any]) -> None:
        lane = {"stream_id": request["stream_id"]} if "stream_id" in request else {}
        for text, hint in (("not yet", {"Retry-After": "1"}), ("once more", {})):
            if text in json.dumps(request["input"][-1:]) and text not in self._failed:
                self._failed.add(text)
                wire.push(error_frame("server_error", 500, headers=hint))
                if not hint:
                    wire.hang_up()
                return
        if request["type"] == "response.steer":
            # Accepted, and at once continued by another response, which then ends.
            parent = request["previous_response_id"]
            name = f"{parent}_more"
            about = {"id": "steer_1", "previous_response_id": parent}
            wire.push({"type": "response.steer.accepted", "steer": about}, completed(parent))
            wire.push({"type": "response.created", "response": {"id": name, "previous_response_id": parent}})
        else:
            name = f"resp_{self.connector.wires.index(wire)}_{len(wire.sent)}"
            wire.push({**created(name), **lane}, {**delta("o"), **lane})
        if "steered" not in json.dumps(request):
            await trio.sleep(1.0 if "slow" in json.dumps(request) else 0.01)
            wire.push({**completed(name), **lane})


class SlowConnector:
    """Lets every dial take a tenth of a second, and refuses the key that has expired."""

    def __init__(self, inner: FakeConnector) -> None:
        self._inner = inner

    async def connect(self, *args: Any) -> FakeWire:
        await trio.sleep(0.1)
        if EXPIRED in args[2]:
            raise refused(401)
        return await self._inner.connect(*args)


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("name", SCENARIOS)
def test_nothing_is_left_whatever_happens_when(name: str, action: Action, thinned: bool) -> None:
    """After any cancellation, exception or interrupt at any step the pool is whole, and gone when closed."""
    scenario, limits, options = SCENARIOS[name]
    seen: list[Steps] = []

    async def main(steps: Steps) -> None:
        far = Far()
        connector = SlowConnector(far.connector)
        manager = fake_manager(connector, limits=policy(**limits), **options)  # type: ignore[arg-type]
        try:
            async with trio.open_nursery() as far.nursery:
                await live(manager, scenario, steps)
                far.nursery.cancel_scope.cancel()
        finally:
            assert manager._shell is not None
            assert_empty(manager._shell.core.statistics())
            assert not manager._shell._connections
            assert not manager._shell._leases
            assert far.connector.dialing == 0
            assert all(wire.goodbye is not None for wire in far.connector.wires)
            seen.append(steps)

    # Each place of a mishap is counted below.
    assert sweep(main, action, name, stride=4 if thinned and action != "raise" else 1) >= 3
    *tried, untouched = seen
    caught = [[*map(type, leaves(steps.caught))] for steps in tried if steps.caught is not None]
    if action == "raise":
        assert all([Mishap] == types for types in caught)
        assert PLACES[name] == sum(untouched.waits) == len(tried)
        for steps in tried:
            # Before the last step of a wait the task may have what it waited for: then it comes too late.
            assert steps.struck is not None
            wait, step = steps.struck
            assert steps.met or step == untouched.waits[wait], f"no mishap in wait {wait}, step {step}"
    elif action.startswith("cancel"):
        assert [] == caught  # Cancelled stays Cancelled: its own scope takes it


@pytest.mark.network
@pytest.mark.parametrize("action", ["cancel any", "interrupt"])
def test_no_file_descriptor_is_left(action: Action) -> None:
    """The same over real sockets, at every fifth step of some hundreds: no descriptor stays open."""

    async def scenario(pool: wspool.Pool, steps: Steps) -> None:
        async with pool.conversation(model="m") as conversation:
            await conversation.respond("one")
            pool.drain()
            await conversation.respond("two")

    async def main(steps: Steps) -> None:
        ledger: list[Entry] = []
        async with open_server(EchoModel(), ledger=ledger) as server:
            manager: Any = wspool.open_pool(server.url, api_key=CANARY, policy=policy(max_size=2))
            try:
                await live(manager, scenario, steps)
            finally:
                assert manager._shell is not None
                assert_empty(manager._shell.core.statistics())
        assert all(entry["unfinished_on_lane"] == 1 for entry in ledger)

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = descriptors()
    assert sweep(main, action, "sockets", stride=5, clock=False) > 50
    assert before == descriptors()
