"""KeyboardInterrupt at every line of the pool that is not protected, caught by the program.

Python raises it between any two lines of the main task. What must not be cut in two is protected, waits and
all: trio ends a wait of a protected task with it. So few lines are left, and none of them may cost a lane
or leave a conversation stuck.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any, Final

import pytest
import trio
import trio.testing

import wspool
from tests.helpers import (
    FakeConnector,
    FakeWire,
    completed,
    created,
    echo,
    error_frame,
    fake_pool,
    policy,
    user,
)
from tests.pool.tooling import call

Act = Callable[[wspool.Pool, wspool.Conversation], Awaitable[None]]


async def respond(pool: wspool.Pool, conversation: wspool.Conversation) -> None:
    await conversation.respond("x")


async def stream(pool: wspool.Pool, conversation: wspool.Conversation) -> None:
    async with conversation.turn("x") as turn:
        async for _ in turn:
            pass


async def leave_early(pool: wspool.Pool, conversation: wspool.Conversation) -> None:
    async with conversation.turn("x") as turn:
        await turn.__anext__()


async def begin_another(pool: wspool.Pool, conversation: wspool.Conversation) -> None:
    async with pool.conversation(model="m") as other:
        await other.respond("x")


async def branch(pool: wspool.Pool, conversation: wspool.Conversation) -> None:
    async with conversation.fork() as other:
        await other.respond("x")


async def run(pool: wspool.Pool, conversation: wspool.Conversation) -> None:
    await conversation.run("x", tools={})


async def compact(pool: wspool.Pool, conversation: wspool.Conversation) -> None:
    try:
        await conversation.compact()
    except wspool.DialFailedError:
        pass  # nobody is there to be asked by HTTP


async def lease(pool: wspool.Pool, conversation: wspool.Conversation) -> None:
    async with pool.lease() as lease, lease.create(model="m") as turn:
        try:
            await turn.result()
        except wspool.ResponseFailedError:
            pass  # a lease sends nothing again


async def give_back(pool: wspool.Pool, conversation: wspool.Conversation) -> None:
    lease = await pool.acquire()
    try:
        pass
    finally:
        lease.release()


async def edit(pool: wspool.Pool, conversation: wspool.Conversation) -> None:
    conversation.edit([*conversation.items, user("more")])


ACTS: Final = {
    act.__name__: act
    for act in (respond, stream, leave_early, begin_another, branch, run, compact, lease, give_back, edit)
}


class Interrupter:
    """Raises before the n-th line of the pool or the core that is not protected."""

    def __init__(self, at: int) -> None:
        self.hit = ""
        self._left = at
        self._task = trio.lowlevel.current_task()

    def __call__(self, frame: FrameType, event: str, _: object) -> Any:
        name = frame.f_code.co_filename.replace("\\", "/")
        if "/wspool/pool/" not in name and "/wspool/core/" not in name:
            return None
        if event == "line" and self._is_open():
            self._left -= 1
            if self._left == 0:
                self.hit = f"{name}:{frame.f_lineno} in {frame.f_code.co_name}"
                raise KeyboardInterrupt
        return self

    def _is_open(self) -> bool:
        try:
            task = trio.lowlevel.current_task()
        except RuntimeError:
            return False
        return task is self._task and not trio.lowlevel.currently_ki_protected()


def refuse_every_third() -> Callable[[FakeWire, dict[str, Any]], None]:
    """Now and then a turn is refused for a moment, and sent again."""
    count = 0

    def answer(wire: FakeWire, request: dict[str, Any]) -> None:
        nonlocal count
        count += 1
        if count % 3 == 2:
            wire.push(error_frame("server_error", 500, headers={"Retry-After": "1"}))
        else:
            echo(wire, request)

    return answer


async def interrupted(act: Act, at: int) -> str:
    """Let the interrupt come at that line of *act*; return which it was, and fail if anything is left."""
    connector = FakeConnector(refuse_every_third())
    async with fake_pool(connector, limits=policy(max_size=2)) as pool:
        async with pool.conversation(model="m") as conversation:
            await conversation.respond("before")
            interrupter = Interrupter(at)
            try:
                tracer = sys.gettrace()  # coverage's, if that is measured
                sys.settrace(interrupter)
                try:
                    await act(pool, conversation)
                finally:
                    sys.settrace(tracer)
            except KeyboardInterrupt:
                assert interrupter.hit
            await trio.sleep(1)
            assert "completed" == (await conversation.respond("after")).status, interrupter.hit
        await trio.sleep(1)
        assert 0 == pool.statistics().leased, interrupter.hit
        return interrupter.hit


@pytest.mark.parametrize("act", ACTS)
def test_an_interrupt_that_is_caught_costs_nothing(act: str) -> None:
    """After it the conversation takes another turn, and no lane is missing."""
    for at in range(1, 200):
        clock = trio.testing.MockClock(autojump_threshold=0)
        if not trio.run(interrupted, ACTS[act], at, clock=clock):
            return
    raise AssertionError("hardly anything is protected")


@pytest.mark.parametrize("struck", ["an event", "a tool"])
@pytest.mark.parametrize("eager", [True, False])
def test_an_interrupt_comes_bare_out_of_a_tool_loop(struck: str, eager: bool) -> None:
    """Whether its calls are tasks or not, and wherever it strikes in the caller's own functions."""

    async def main() -> None:
        def two_calls(wire: FakeWire, request: dict[str, Any]) -> None:
            calls = [call("a", "call_1"), call("b", "call_2")]
            done = {"type": "response.output_item.done"}
            end = completed("resp_1")
            end["response"]["output"] = calls
            wire.push(
                created("resp_1"), *({**done, "output_index": at, "item": calls[at]} for at in (0, 1)), end
            )

        async def tool() -> None:
            await trio.sleep(1)
            if struck == "a tool":
                signal.raise_signal(signal.SIGINT)
            await trio.sleep_forever()

        def look(event: wspool.Event) -> None:
            if struck == "an event":
                signal.raise_signal(signal.SIGINT)

        connector = FakeConnector(two_calls)
        async with fake_pool(connector) as pool, pool.conversation(model="m") as conversation:
            with pytest.raises(KeyboardInterrupt):
                await conversation.run("x", tools={"a": tool, "b": tool}, eager=eager, on_event=look)
            connector.on_request = echo
            await conversation.run("y", tools={"a": tool, "b": tool})
            assert 0 == pool.statistics().in_flight

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize("where", ["in line", "in a hold", "for an answer"])
def test_a_protected_wait_ends_with_an_interrupt(where: str) -> None:
    """Protection is no shield: whoever waits in a turn is interrupted there, and the pool goes on."""

    async def main() -> None:
        connector = FakeConnector(echo)
        async with fake_pool(connector, limits=policy(max_size=1)) as pool, trio.open_nursery() as nursery:

            @trio.lowlevel.enable_ki_protection  # else it would strike here
            async def interrupt() -> None:
                await trio.sleep(5)
                signal.raise_signal(signal.SIGINT)

            async with pool.conversation(model="m") as conversation:
                blocker = await pool.acquire() if where == "in line" else None
                if where == "in a hold":
                    pool._shell.hold(3600.0)
                elif where == "for an answer":
                    connector.on_request = None
                nursery.start_soon(interrupt)
                with pytest.raises(KeyboardInterrupt):
                    await conversation.respond("x")
                assert 5.0 == trio.current_time()
                pool.retry_now()
                if blocker is not None:
                    blocker.release()
                connector.on_request = echo
                await conversation.respond("y")
            assert 0 == pool.statistics().leased

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
