"""Your own tasks, the process and its clocks: cancelled, crashed, forked, asleep, or just many."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from traceback import StackSummary
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

import wspool
from tests.cancel.steps import ACTIONS, Action, Mishap, Steps, leaves, live, sweep
from tests.helpers import CANARY, FakeConnector, assert_empty, echo, fake_pool
from tests.wire.peer import opener, read_request, switching_protocols
from wspool.server import EchoModel, Entry, Server, open_server
from wspool.wire.wire import Endpoint

from .scene import QUESTION, Make, Story, Tap, faulty

#: What the user's own code does wrong.
OOPS = "a bug of the user's"


@pytest.mark.parametrize("action", ACTIONS)
def test_f69_cancelled_anywhere(make: Make, action: Action) -> None:
    """F69: your task is cancelled, interrupted or fails at any step of leasing, dialling, sending, receiving,
    moving and closing -> no connection, no lane, no task is left over, and the exception is yours.
    """

    async def scenario(pool: wspool.Pool, steps: Steps) -> None:
        async with pool.conversation(model="m") as conversation:
            await steps.wait(conversation.respond, "one")
            pool.drain()
            await steps.wait(conversation.respond, "two")

    async def main(steps: Steps) -> None:
        taps: list[Tap] = []
        ledger: list[Entry] = []
        async with open_server(EchoModel(), port=None, ledger=ledger) as server:

            async def tapped(endpoint: Endpoint) -> trio.abc.Stream:
                tap = Tap(await server.open_stream(endpoint))
                taps.append(tap)
                return tap

            policy = wspool.PoolPolicy(min_idle=0, max_size=2, ping_interval=None)
            manager: Any = wspool.open_pool(
                server.url, api_key=CANARY, wire=make(open_stream=tapped), policy=policy
            )
            try:
                await live(manager, scenario, steps)
            finally:
                assert manager._shell is not None
                assert_empty(manager._shell.core.statistics())
                assert all(tap.closed for tap in taps)
        assert all(entry["unfinished_on_lane"] == 1 for entry in ledger)
        assert steps.caught is None or all(isinstance(leaf, Mishap) for leaf in leaves(steps.caught))

    assert sweep(main, action, f"F69 {action}", stride=7) > 10


async def test_f70_cancelled_at_the_hand_over(make: Make, autojump_clock) -> None:
    """F70: your task is cancelled while it waits, at the very moment in which a connection becomes free
    -> the next in line gets that connection.
    """
    for steps in range(12):
        async with faulty(make, limits={"max_size": 1}) as scene, trio.open_nursery() as nursery:
            scope = trio.CancelScope()
            served: list[str] = []

            async def impatient(scope: trio.CancelScope = scope, served: list[str] = served) -> None:
                with scope:
                    async with scene.pool.lease():
                        served.append("impatient")

            async def patient(served: list[str] = served) -> None:
                (await scene.ask()).assert_answer()
                served.append("patient")

            async with scene.pool.lease():
                nursery.start_soon(impatient)
                await wait_all_tasks_blocked()
                nursery.start_soon(patient)
                await wait_all_tasks_blocked()
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            scope.cancel()
            await trio.sleep(1)
            assert "patient" == served[-1]
            scene.assert_quiet()
            assert 1 == scene.server.statistics().connections_total


async def test_f71_cancelled_while_dialling(make: Make, autojump_clock) -> None:
    """F71: the task whose need caused a dial is cancelled -> the dial goes on for whoever needs it next."""

    async def open_stream(server: Server, endpoint: Endpoint) -> trio.abc.Stream:
        await trio.sleep(5)
        return await server.open_stream()

    async with faulty(make, open_stream=open_stream) as scene:
        with trio.move_on_after(3) as scope:
            await scene.ask()
        assert scope.cancelled_caught
        (await scene.ask()).assert_answer(took=2)
        assert 1 == scene.pool.statistics().dialed
        await scene.assert_well(creates=1, connection=1)


async def test_f72_error_between_turns(make: Make, autojump_clock) -> None:
    """F72: your code fails inside the lease, between two turns -> its exception, in no group; the connection
    is clean and serves the next.
    """
    async with faulty(make) as scene:

        async def use() -> None:
            async with scene.pool.lease() as lease:
                (await scene.ask_bare(lease)).assert_answer()
                raise KeyError(OOPS)

        with pytest.raises(KeyError, match=OOPS):
            await use()
        assert {} == scene.closed
        await scene.assert_well(creates=1, connection=1)


@pytest.mark.parametrize("how", ["break", "raise"])
async def test_f73_left_in_mid_stream(make: Make, how: str, autojump_clock) -> None:
    """F73: your code leaves or fails in the middle of the events -> its exception, if there is one; the
    connection is dropped, the turn is on record as given up, and the conversation goes on.
    """
    async with (
        faulty(make, delay_per_token=1) as scene,
        scene.pool.conversation(model="m") as conversation,
    ):

        async def read() -> None:
            async with conversation.turn(QUESTION) as turn:
                async for event in turn:
                    if event.type.endswith("delta"):
                        if how == "raise":
                            raise KeyError(OOPS)
                        break

        if how == "raise":
            with pytest.raises(KeyError, match=OOPS):
                await read()
        else:
            await read()
        assert 0 == len(conversation.items)
        (await scene.ask("again", conversation=conversation)).assert_answer("again")
        assert {"dirty": 1} == scene.closed
        assert [(1, "lost"), (2, "completed")] == scene.outcomes
        conversation.close()
        await scene.assert_well(creates=2, connection=2)


async def test_f73_left_at_the_last_event(make: Make, autojump_clock) -> None:
    """F73: your code leaves at the last event -> nothing: the turn counts, for its end was given to you. Left
    or cancelled before that it does not count, although all of it may have arrived.
    """
    async with faulty(make) as scene, scene.pool.conversation(model="m") as conversation:
        async with conversation.turn(QUESTION) as turn:
            async for event in turn:
                if event.type == "response.completed":
                    break
        assert turn.response is not None
        assert 2 == len(conversation.items)

        async with conversation.turn("left") as turn:
            async for _ in turn:
                await trio.sleep(1)  # all of it arrives
                break
        assert 2 == len(conversation.items)
        (await scene.ask("again", conversation=conversation)).assert_answer("again")
        assert 4 == len(conversation.items)


PROGRAM = """
import sys, trio, wspool
from wspool.server import EchoModel, open_server

async def main():
    async with open_server(EchoModel(), delay_per_token=60) as server, wspool.open_pool(server.url) as pool:
        async with pool.conversation(model="m") as conversation, conversation.turn("a b c") as turn:
            async for event in turn:
                if event.type.endswith("delta"):
                    print("running", flush=True)
try:
    trio.run(main)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.network
def test_f74_interrupt() -> None:
    """F74: Ctrl-C in the middle of a turn -> KeyboardInterrupt comes out of your program within two seconds,
    and nothing else does.
    """
    child = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        assert "running\n" == child.stdout.readline()
        began = time.monotonic()
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=20)
        assert time.monotonic() - began < 5, "two seconds and a busy machine"
    finally:
        child.kill()
        child.wait()
    assert (130, "") == (child.returncode, said)


async def test_f75_crash_of_the_pool(make: Make, autojump_clock) -> None:
    """F75: a bug in a task of the pool itself -> it comes out of the pool's block, and everybody who has or
    wants a lease gets an error; nobody hangs.
    """
    stories: list[Any] = []

    async def crash() -> None:
        await trio.sleep(1.5)
        raise ZeroDivisionError

    async def use() -> None:
        async with (
            faulty(make, delay_per_token=1, limits={"max_size": 1}) as scene,
            trio.open_nursery() as nursery,
        ):

            async def ask() -> None:
                stories.append(await scene.ask())

            nursery.start_soon(ask)
            nursery.start_soon(ask)
            await trio.sleep(1)
            scene.pool._shell.spawn(crash)

    with pytest.raises(ExceptionGroup) as caught:
        await use()
    assert caught.group_contains(ZeroDivisionError)
    assert {wspool.TurnLostError, wspool.PoolClosedError} == {type(story.error) for story in stories}


@pytest.mark.parametrize("where", ["idle", "turn"])
async def test_f76_stray_cancelled(where: str, autojump_clock) -> None:
    """F76: a library lets a `Cancelled` out that belongs to no cancelled scope -> that connection is dead,
    and nothing else: a running turn is lost, everybody else goes on.
    """
    connector = FakeConnector(None if where == "turn" else echo)
    async with fake_pool(connector) as pool, pool.conversation(model="m") as other:
        async with pool.conversation(model="m") as conversation:
            if where == "turn":

                async def lose() -> None:
                    with pytest.raises(wspool.TurnLostError):
                        await conversation.respond("x")

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(lose)
                    await wait_all_tasks_blocked()
                    connector.wire.break_down(await stray_cancelled())
            else:
                await conversation.respond("x")
                connector.wire.break_down(await stray_cancelled())
                await wait_all_tasks_blocked()
        assert {"lost": 1} == pool.statistics().closed
        connector.on_request = echo
        assert "ok" == (await other.respond("y")).output_text


async def stray_cancelled() -> BaseException:
    """A Cancelled that no scope is waiting for."""
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as error:
            stray: BaseException = error
            raise
    return stray


async def test_f77_misuse(make: Make, autojump_clock) -> None:
    """F77: a lease is used after its end, by two tasks at once, or from another thread -> `PoolClosedError`,
    `TurnInFlightError`, `ForeignUseError`: at once, and nothing was sent.
    """
    async with faulty(make, delay_per_token=1) as scene:
        async with scene.pool.lease() as lease:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(scene.ask_bare, lease)
                await trio.sleep(1.5)
                story = await scene.ask_bare(lease)
                assert isinstance(story.error, wspool.TurnInFlightError)

            def elsewhere() -> None:
                with pytest.raises(wspool.ForeignUseError, match="open one there"):
                    trio.run(lease.create(model="m", input="x").__aenter__)

            # Waited for without trio, whose virtual clock would go on meanwhile.
            with ThreadPoolExecutor(1) as executor:
                executor.submit(elsewhere).result(60)
        story = await scene.ask_bare(lease)
        assert isinstance(story.error, wspool.PoolClosedError)
        assert "not_sent" == story.delivery
        await scene.assert_well(creates=1, connection=1)


async def test_f78_leaked_lease(make: Make, caplog, autojump_clock) -> None:
    """F78: a lease is never given back -> after `leak_after` seconds the log and the instrument's
    `lease_leaking` say so, once, with the lines of the task that took it; leaving the pool ends it.
    """
    leaking: list[tuple[int, list[str]]] = []

    class Watch(wspool.Instrument):
        def lease_leaking(self, lease: int, borrowed: StackSummary) -> None:
            assert not any("_core" in frame.filename for frame in borrowed), "trio's own"
            leaking.append((lease, [frame.line or "" for frame in borrowed]))

    async def borrow_carelessly() -> wspool.Lease:
        return await scene.pool.acquire()  # and nobody gives it back

    options = {"instrument": Watch()}
    async with faulty(make, limits={"leak_after": 600}, pool_options=options) as scene:
        leaked = await borrow_carelessly()
        async with scene.pool.lease():
            await trio.sleep(599)
        assert [] == leaking
        await trio.sleep(1000)
        ((lease, lines),) = leaking
        assert leaked.id == lease
        assert [
            "leaked = await borrow_carelessly()",
            "return await scene.pool.acquire()  # and nobody gives it back",
        ] == lines[-2:]
        assert leaked.alive
        (warning,) = (record for record in caplog.records if record.name == "wspool.pool")
        assert "held for longer than leak_after=600 s" in warning.getMessage()
        assert lines[-1] in warning.getMessage()
        await scene.pool.aclose()
        assert not leaked.alive


async def test_f78_where_it_was_borrowed(make: Make, autojump_clock) -> None:
    """F78: the same, borrowed in whatever way, after a wait or without -> the line is the borrower's."""
    found: dict[str, str] = {}

    class Watch(wspool.Instrument):
        def lease_leaking(self, lease: int, borrowed: StackSummary) -> None:
            found[borrowed[-1].name] = borrowed[-1].line or ""

    async def block() -> None:
        async with scene.pool.lease():
            await trio.sleep(100)

    async def nowait() -> None:
        with scene.pool.lease_nowait():
            await trio.sleep(100)

    async def wait() -> None:
        await trio.sleep(1)
        await block()

    limits = {"leak_after": 10, "max_size": 3, "patience": 1000}
    async with faulty(make, limits=limits, pool_options={"instrument": Watch()}) as scene:
        async with scene.pool.lease():
            pass
        async with trio.open_nursery() as nursery:
            nursery.start_soon(nowait)
            await wait_all_tasks_blocked()
            for borrow in (block, wait):
                nursery.start_soon(borrow)
        assert {
            "nowait": "with scene.pool.lease_nowait():",
            "block": "async with scene.pool.lease():",
        } == found
        assert 3 == scene.pool.statistics().granted - 1


async def test_f79_closed_under_turns(make: Make, autojump_clock) -> None:
    """F79: the pool is closed while turns run -> they have the grace that was given; what then still runs is
    lost, and each turn ends in exactly one way.
    """
    async with faulty(make, delay_per_token=1, limits={"max_size": 8}) as scene:
        ends: Counter[str] = Counter()

        async def ask(words: int) -> None:
            story = await scene.ask(" ".join(["word"] * words))
            ends["answer" if story.error is None else type(story.error).__name__] += 1

        async with trio.open_nursery() as nursery:
            for words in (2, 4, 6, 8, 100, 100, 100, 100):
                nursery.start_soon(ask, words)
            await trio.sleep(1)
            for _ in range(3):
                nursery.start_soon(ask, 1)
            await wait_all_tasks_blocked()
            began = trio.current_time()
            await scene.pool.aclose(grace=5.5)
            assert trio.current_time() - began <= 5.5 + 2
        assert {"answer": 3, "TurnLostError": 5, "PoolClosedError": 3} == ends


async def test_f79_a_conversation_closed_under_its_turn(make: Make, autojump_clock) -> None:
    """F79: a conversation is closed by another task while its turn waits or runs -> at once `PoolClosedError`
    if it waited, `TurnLostError` if it ran; neither is sent again, whatever `replay` says.
    """
    limits = {"max_size": 1, "replay": "always"}
    async with faulty(make, delay_per_token=1, limits=limits) as scene:
        stories: list[Story] = []

        async def ask(conversation: wspool.Conversation) -> None:
            stories.append(await scene.ask(conversation=conversation))

        async with (
            scene.pool.conversation(model="m") as one,
            scene.pool.conversation(model="m") as two,
            trio.open_nursery() as nursery,
        ):
            for conversation in (one, two):
                nursery.start_soon(ask, conversation)
                await trio.sleep(1.5)
            for conversation in (two, one):
                conversation.close()
                await wait_all_tasks_blocked()
        waited, ran = stories
        assert isinstance(waited.error, wspool.PoolClosedError)
        assert isinstance(ran.error, wspool.TurnLostError)
        assert (1.5, 3) == (waited.took, ran.took)
        await scene.assert_well(creates=1, connection=2)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_f80_forked() -> None:
    """F80: the process forks and the child goes on with the pool -> `ForeignUseError` in the child, before it
    can touch the parent's connections; the parent goes on.
    """

    async def main() -> int:
        async with fake_pool(FakeConnector(echo)) as pool, pool.conversation(model="m") as conversation:
            await conversation.respond("x")
            if (child := os.fork()) == 0:
                try:
                    pool.lease_nowait().__enter__()
                except wspool.ForeignUseError:
                    os._exit(42)
                finally:
                    os._exit(1)
            assert "ok" == (await conversation.respond("y")).output_text
            return child

    assert 42 == os.waitstatus_to_exitcode(os.waitpid(trio.run(main), 0)[1])


async def test_f81_suspended(make: Make, autojump_clock) -> None:
    """F81: the laptop sleeps for two hours, in which trio's clock stands still -> nothing: the connection is
    as old as it is, so the next turn goes out in full on a new one.
    """
    asleep = 0.0
    async with (
        faulty(make) as scene,
        scene.pool.conversation(model="m") as conversation,
    ):
        scene.pool._shell._timekeeper._clock._suspended = lambda: asleep
        (await scene.ask("one", conversation=conversation)).assert_answer("one")
        asleep = 7200.0
        await trio.sleep(0.01)  # it is looked at a hundred times a second
        (await scene.ask("two", conversation=conversation)).assert_answer("two", took=0)
        assert [1, 2] == [entry["connection"] for entry in scene.ledger]
        conversation.close()
        await trio.sleep(100)
        assert 1 == scene.pool.statistics().size, "the old one is gone"
        await scene.assert_well(creates=2, connection=2)


@pytest.mark.parametrize("jump", [-1e6, 1e6])
async def test_f82_wall_clock(make: Make, jump: float, monkeypatch: Any, autojump_clock) -> None:
    """F82: the wall clock jumps back or forward -> nothing."""
    wall = time.time()
    monkeypatch.setattr(time, "time", lambda: wall + trio.current_time())
    async with faulty(make, delay_per_token=1) as scene, trio.open_nursery() as nursery:

        async def ask() -> None:
            (await scene.ask()).assert_answer(took=4)

        nursery.start_soon(ask)
        await trio.sleep(2)
        wall += jump
        await trio.sleep(100)
        assert {} == scene.closed
        await scene.assert_well(creates=1, connection=1)


async def test_f83_all_at_once(autojump_clock) -> None:
    """F83: five hundred connections that were opened together reach their hour -> nothing: their retirements
    lie minutes apart, no more than `dial_concurrency` are dialled at a time, and no turn waits.
    """
    connector = FakeConnector(echo)
    most = 0

    def prepare(wire: Any) -> None:
        nonlocal most
        most = max(most, connector.dialing + 1)

    connector.prepare = prepare
    limits = wspool.PoolPolicy(max_size=520, min_idle=500, ping_interval=None)
    async with fake_pool(connector, limits=limits) as pool:
        await pool.wait_ready()
        assert 500 == connector.dials
        while trio.current_time() < 4000:
            began = trio.current_time()
            async with pool.conversation(model="m") as conversation:
                await conversation.respond("x")
            assert trio.current_time() == began, "a turn waited"
            await trio.sleep(10)
        second = [when for when in connector.dialed_at if when > 100]
        assert len(second) >= 500
        assert max(Counter(int(when // 30) for when in second).values()) < 150
        assert most <= 16
        assert 500 <= pool.statistics().idle


async def test_f84_a_thousand_waiters(autojump_clock) -> None:
    """F84: a thousand turns for ten connections, some with deadlines of their own -> first come, first
    served; deadlines hold; who gives up costs the others nothing.
    """
    connector = FakeConnector(echo)
    served: list[tuple[float, int]] = []
    gave_up: list[int] = []
    async with fake_pool(connector, limits=wspool.PoolPolicy(max_size=10, min_idle=0)) as pool:

        async def use(number: int) -> None:
            began = trio.current_time()
            with trio.move_on_after(10.5 if number % 3 == 0 else 10_000) as scope:
                async with pool.lease():
                    served.append((trio.current_time(), number // 10))
                    scope.deadline = float("inf")
                    await trio.sleep(1)
            if scope.cancelled_caught:
                assert 10.5 == pytest.approx(trio.current_time() - began)
                gave_up.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(1000):
                nursery.start_soon(use, number)
                if number % 10 == 9:
                    await wait_all_tasks_blocked()
        statistics = pool.statistics()
    assert 1000 == len(served) + len(gave_up)
    groups = [group for _, group in sorted(served)]  # who is served at one moment runs in any order
    assert groups == sorted(groups)
    assert all(number % 3 == 0 for number in gave_up)
    assert len(gave_up) > 250
    assert 10 == statistics.dialed


async def test_f86_memory(make: Make) -> None:
    """F86: very many idle connections -> each costs less than 64 KiB here without TLS; of a turn nobody reads
    at most `max_buffered` bytes, and what one read gave, are kept.
    """
    count = 100
    nears: list[trio.abc.Stream] = []

    async def serve(stream: trio.abc.Stream) -> None:
        await stream.send_all(switching_protocols(await read_request(stream)))
        while await stream.receive_some():
            pass
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            near, far = trio.testing.memory_stream_pair()
            nursery.start_soon(serve, far)
            nears.append(near)

        async def open_stream(endpoint: Endpoint) -> trio.abc.Stream:
            return await opener(nears.pop())(endpoint)

        await wait_all_tasks_blocked()
        limits = wspool.PoolPolicy(max_size=count, min_idle=count, close_timeout=0.1)
        tracemalloc.start()
        try:
            wire = make(open_stream=open_stream)
            async with wspool.open_pool("ws://localhost/", api_key=CANARY, wire=wire, policy=limits) as pool:
                await pool.wait_ready()
                await wait_all_tasks_blocked()
                used = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        assert used / count < 64 * 1024, f"{used / count / 1024:.0f} KiB"
    text = " ".join(map(str, range(2000)))
    async with (
        faulty(make, limits={"max_buffered": 20_000}, network=True) as scene,
        scene.pool.conversation(model="m") as conversation,
        conversation.turn(text) as turn,
    ):
        await anext(turn)
        await trio.sleep(0.3)
        [attempt] = [c.lanes[0].attempt for c in scene.pool._shell._connections.values()]
        assert attempt is not None
        assert 20_000 < attempt.unread < 100_000, "one read more than the limit"
        assert text == "".join([e.data["delta"] async for e in turn if e.type.endswith("text.delta")])
