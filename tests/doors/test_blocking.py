"""Threads: everything works as on trio, for any number of them."""

from __future__ import annotations

import asyncio
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import wspool
from tests.doors.conftest import Crossings, Far
from wspool import blocking


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
