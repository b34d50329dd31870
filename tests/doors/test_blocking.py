"""Threads: everything works as on trio, for any number of them."""

from __future__ import annotations

import asyncio
import functools
import itertools
import signal
import sys
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import FrameType
from typing import Any, Final

import pytest
import trio

import wspool
from tests.doors.conftest import Crossings, Far
from wspool import bells, blocking, blocks, facade, runtime
from wspool.pool import handover, ways
from wspool.runtime import Runtime


def test_a_conversation(far: Far) -> None:
    with blocking.open_pool(far.url) as pool:
        with pool.conversation(model="m") as talk:
            assert talk.respond("hello").output_text == "hello"
            with talk.turn("more") as turn:
                assert [event.type for event in turn][-1] == "response.completed"
                assert turn.response.output_text == "more"
            with talk.turn("left") as turn:
                next(turn)
            assert len(talk.items) == 4
            assert talk.statistics().delta_turns >= 1
        with pool.lease() as lease, lease.create(model="m", input="bare") as turn:
            assert turn.result().output_text == "bare"
        with pool.lease_nowait():
            pass
        assert pool.statistics().leased == 0
        pool.close()
        with pytest.raises(wspool.PoolClosedError):
            pool.acquire()


def test_the_end_of_a_turn_is_known_without_asking(far: Far, crossings: Crossings) -> None:
    """The last event is its end. Of a turn that was left nothing is read."""
    with blocking.open_pool(far.url) as pool, pool.conversation(model="m") as talk:
        with talk.turn("hello") as turn:
            while next(turn).type != "response.completed":
                pass
            before = crossings.count
            with pytest.raises(StopIteration):
                next(turn)
            assert before == crossings.count
        with pytest.raises(wspool.PoolClosedError):
            next(turn)


def test_a_turn_counts_by_what_the_caller_has_taken(far: Far) -> None:
    """Not by what was pushed to it."""
    with blocking.open_pool(far.url) as pool, pool.conversation(model="m") as talk:
        with talk.turn("hello") as turn:
            total = len(list(turn))
        for take in range(1, total + 1):
            before = len(talk.items)
            with talk.turn("hello") as turn:
                for _ in range(take):
                    next(turn)
                while not turn.native.ended:
                    pool.statistics()  # each look goes through the runtime, and lets it work
            assert len(talk.items) - before == (2 if take == total else 0)
        with talk.turn("hello") as turn:
            next(turn)
            assert turn.result().output_text == "hello"
        assert talk.statistics().turns == 3


def test_an_interrupt_while_a_turn_is_read_loses_nothing(far: Far) -> None:
    with blocking.open_pool(far.url) as pool, pool.conversation(model="m") as talk:
        main = threading.main_thread().ident
        assert main is not None
        with talk.turn("wait") as turn:
            interrupt = threading.Timer(0.2, signal.pthread_kill, (main, signal.SIGINT))
            interrupt.start()
            with pytest.raises(KeyboardInterrupt):
                list(turn)
            with pytest.raises(RuntimeError, match="no response yet"):
                _ = turn.response
        assert pool.statistics().in_flight == 0
        assert talk.respond("again").output_text == "again"


def test_many_threads(far: Far) -> None:
    with blocking.open_pool(far.url, policy=wspool.PoolPolicy(max_size=4, min_idle=0)) as pool:

        def hold(number: int) -> list[str]:
            with pool.conversation(model="m") as talk:
                return [talk.respond(f"{number} {turn}").output_text for turn in range(3)]

        with ThreadPoolExecutor(16) as threads:
            said = list(threads.map(hold, range(32)))
        assert said == [[f"{number} {turn}" for turn in range(3)] for number in range(32)]
        assert pool.statistics().leased == 0


def test_tools_are_plain_functions(far: Far) -> None:
    tools = [{"type": "function", "name": "one", "parameters": {"type": "object", "properties": {}}}]

    async def later() -> str:
        return ""

    with blocking.open_pool(far.url) as pool, pool.conversation(model="m", tools=tools) as talk:
        assert talk.run("call one", tools={"one": lambda: "1"}).output_text == "1"
        with pytest.raises(TypeError, match=r"'later' is async.*wspool\.aio"):
            talk.run("call one", tools={"one": later})
    with pytest.raises(TypeError, match="async"):
        blocking.open_pool(far.url, api_key=later)


def test_an_interrupt_comes_when_the_call_has_ended(far: Far) -> None:
    with blocking.open_pool(far.url) as pool, pool.conversation(model="m") as talk:
        main = threading.main_thread().ident
        assert main is not None
        interrupt = threading.Timer(0.2, signal.pthread_kill, (main, signal.SIGINT))
        interrupt.start()
        with pytest.raises(KeyboardInterrupt):
            talk.respond("wait")
        assert pool.statistics().in_flight == 0
        assert talk.respond("again").output_text == "again"


# -- an interrupt at any line ---------------------------------------------------------------------


def respond(pool: blocking.Pool, talk: blocking.Conversation, url: str) -> None:
    talk.respond("x")


def stream(pool: blocking.Pool, talk: blocking.Conversation, url: str) -> None:
    with talk.turn("x") as turn:
        for _ in turn:
            pass


def leave_early(pool: blocking.Pool, talk: blocking.Conversation, url: str) -> None:
    with talk.turn("x") as turn:
        next(turn)


def branch(pool: blocking.Pool, talk: blocking.Conversation, url: str) -> None:
    with talk.fork() as other, other.turn("x") as turn:
        turn.result()


def lease(pool: blocking.Pool, talk: blocking.Conversation, url: str) -> None:
    with pool.lease() as lease, lease.create(model="m", input="x") as turn:
        turn.result()


def lease_nowait(pool: blocking.Pool, talk: blocking.Conversation, url: str) -> None:
    with suppress(trio.WouldBlock), pool.lease_nowait():
        pass


def acquire(pool: blocking.Pool, talk: blocking.Conversation, url: str) -> None:
    lease = pool.acquire()
    try:
        pass
    finally:
        lease.release()


def open_another(pool: blocking.Pool, talk: blocking.Conversation, url: str) -> None:
    with blocking.open_pool(url, policy=wspool.PoolPolicy(max_size=1, min_idle=0)):
        pass


ACTS: Final = (respond, stream, leave_early, branch, lease, lease_nowait, acquire, open_another)

#: What a caller's thread runs, after what is given was looked at.
DOOR: Final = {module.__file__ for module in (blocking, blocks, facade, runtime, bells, handover, ways)}

#: What comes out of the first, Python shows and forgets. The second has a lock, which no interrupt can keep
#: Python from letting go of, but a tracer can.
SAFE: Final = ("__del__", "shared")

#: Of so many lines one is interrupted, and which is the first is drawn from the name of the act. With 1 here
#: each is.
STRIDE: Final = 9


def interrupted(at: int, act: Callable[[], None]) -> bool:
    """Interrupt *act* before that line of the library; return whether it has so many."""
    left = at

    def strike(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in DOOR or frame.f_code.co_name in SAFE:
            return None
        left -= event == "line"
        if left == 0 and event == "line":
            raise KeyboardInterrupt
        return strike

    tracer = sys.gettrace()  # coverage's, if that is measured
    sys.settrace(strike)
    try:
        act()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(tracer)
    return left <= 0


@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.__name__)
def test_an_interrupt_that_is_caught_costs_nothing(far: Far, act: Callable[..., None]) -> None:
    """No lane, no turn and no pool is left to nobody, and the conversation goes on."""
    tasks = Runtime.shared().run_sync(_tasks)
    with blocking.open_pool(far.url, policy=wspool.PoolPolicy(max_size=2, min_idle=0)) as pool:
        for at in itertools.count(1 + zlib.crc32(act.__name__.encode()) % STRIDE, STRIDE):
            with pool.conversation(model="m") as talk:
                if not interrupted(at, functools.partial(act, pool, talk, far.url)):
                    break
                assert "after" == talk.respond("after").output_text
            assert (0, 0) == (pool.statistics().leased, pool.statistics().in_flight), at
    assert tasks == Runtime.shared().run_sync(_tasks)


def _tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


def test_waiting_in_the_runtimes_own_thread_is_refused(far: Far) -> None:
    caught: list[Exception] = []

    class Nosy(wspool.Instrument):
        def turn_ended(self, record: wspool.TurnRecord) -> None:
            try:
                pool.statistics()
            except wspool.ForeignUseError as error:
                caught.append(error)

    with blocking.open_pool(far.url, instrument=Nosy()) as pool, pool.conversation(model="m") as talk:
        talk.respond("hello")
    assert "Instrument" in str(caught[0])


def test_the_native_api_says_which_door_to_take(far: Far) -> None:
    with (
        blocking.open_pool(far.url) as pool,
        pytest.raises(wspool.ForeignUseError, match=r"wspool\.blocking"),
    ):
        pool.native.pause()


def test_in_a_task_of_a_loop_it_works_and_the_loop_waits(far: Far) -> None:
    """As in a cell of a notebook: nothing of ours runs in that loop."""

    async def main() -> None:
        other = asyncio.create_task(asyncio.sleep(0))
        with blocking.open_pool(far.url) as pool, pool.conversation(model="m") as talk:
            assert talk.respond("hello").output_text == "hello"
            with talk.turn("more") as turn:
                assert [event.type for event in turn][-1] == "response.completed"
        assert not other.done()
        await other

    asyncio.run(main())
