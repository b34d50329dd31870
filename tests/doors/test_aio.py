"""asyncio: everything works as on trio, and whoever leaves leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Coroutine
from typing import Any

import pytest
import trio

import wspool
from tests.doors.conftest import Crossings, Far
from wspool import aio
from wspool.pool import handover

USER: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")
POLICY = wspool.PoolPolicy(max_size=2, min_idle=0)

TOOLS = [
    {"type": "function", "name": name, "parameters": {"type": "object", "properties": {}}}
    for name in ("one", "two", "bad")
]


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run it, but not for ever."""

    async def bounded() -> None:
        async with asyncio.timeout(30):
            await main

    asyncio.run(bounded())


async def until(condition: Any) -> None:
    """Wait for something that happens in the runtime."""
    while not condition():  # noqa: ASYNC110 # each look goes through the runtime, and lets it work
        await asyncio.sleep(0)


def test_a_conversation(far: Far) -> None:
    async def main() -> None:
        async with aio.open_pool(far.url, policy=POLICY) as pool:
            await pool.wait_ready()
            async with pool.conversation(model="m") as talk:
                assert (await talk.respond("hello")).output_text == "hello"
                async with talk.turn("more") as turn:
                    events = [event async for event in turn]
                    assert events[0].type == "response.created"
                    assert events[-1].type == "response.completed"
                    assert turn.response.output_text == "more"
                    assert turn.response_id == turn.response.id
                    assert turn.delivery == "terminal"
                async with talk.turn("last") as turn:
                    assert (await turn.result()).output_text == "last"
                assert talk.statistics().delta_turns == 2
                assert len(talk.items) == 6
                async with talk.fork() as branch:
                    await branch.respond("branch")
                    assert len(branch.items) == 8
                snapshot = talk.snapshot()
                talk.edit(talk.items[:2])
                assert len(talk.items) == 2
                assert "idle" in repr(talk)
            async with pool.conversation(resume=snapshot) as talk:
                assert len(talk.items) == 6
            async with pool.lease() as lease:
                assert lease.alive
                assert not lease.expiring
                async with lease.create(model="m", input="bare") as turn:
                    assert (await turn.result()).output_text == "bare"
            with pool.lease_nowait() as lease:
                assert lease.connection
            (await pool.acquire()).release()
            assert pool.statistics().leased == 0
            assert pool.transport == "websocket"
            pool.resize(max_size=1)
            assert pool.statistics().max_size == 1
            await pool.aclose()
            with pytest.raises(wspool.PoolClosedError):
                await pool.acquire()

    run(main())


def test_the_end_of_a_turn_is_known_without_asking(far: Far, crossings: Crossings) -> None:
    """The last event is its end. Of a turn that was left nothing is read."""

    async def main() -> None:
        async with (
            aio.open_pool(far.url, policy=POLICY) as pool,
            pool.conversation(model="m") as talk,
        ):
            async with talk.turn("hello") as turn:
                while (await anext(turn)).type != "response.completed":
                    pass
                before = crossings.count
                with pytest.raises(StopAsyncIteration):
                    await anext(turn)
                assert before == crossings.count
            with pytest.raises(wspool.PoolClosedError):
                await anext(turn)

    asyncio.run(main())


def test_tools_run_in_the_callers_loop_and_context(far: Far) -> None:
    seen: list[object] = []

    async def one() -> str:
        seen.append((asyncio.get_running_loop(), USER.get()))
        await asyncio.sleep(0)
        return "1"

    def two() -> str:
        seen.append(USER.get())
        return "2"

    async def bad() -> str:
        raise ValueError("no")

    async def main() -> None:
        USER.set("me")
        async with aio.open_pool(far.url) as pool, pool.conversation(model="m", tools=TOOLS) as talk:
            response = await talk.run("call one two bad", tools={"one": one, "two": two, "bad": bad})
            assert response.output_text == "1, 2, Error: ValueError: no"
            assert sorted(seen, key=str)[0] == (asyncio.get_running_loop(), "me")
            assert "me" in seen
            with pytest.raises(ValueError, match="no"):
                await talk.run("call bad", tools={"bad": bad}, tool_errors="raise")
            with pytest.raises(TypeError, match="function"):
                await talk.run("call bad", tools={"bad": 1})  # type: ignore[dict-item] # the point of it

    run(main())


def test_a_cancelled_task_cancels_its_tool_and_waits_for_it(far: Far) -> None:
    begun = asyncio.Event()
    log: list[str] = []

    async def one() -> str:
        begun.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)
            log.append("tool")
            raise
        return ""

    async def main() -> None:
        async with aio.open_pool(far.url) as pool, pool.conversation(model="m", tools=TOOLS[:1]) as talk:
            task = asyncio.create_task(talk.run("call one", tools={"one": one}))
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert log == ["tool"]

    run(main())


def test_cancelling_at_every_place_gives_all_leases_back(far: Far) -> None:
    async def main() -> None:
        async with aio.open_pool(far.url, policy=POLICY) as pool:

            async def work() -> None:
                async with pool.conversation(model="m") as talk:
                    async with talk.turn("hello there you all") as turn:
                        async for _ in turn:
                            await asyncio.sleep(0)
                    await talk.respond("more")

            for steps in range(60):
                task = asyncio.create_task(work())
                for _ in range(steps):
                    await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await until(lambda: pool.statistics().leased == 0)

    run(main())


def test_a_turn_counts_by_what_the_caller_has_taken(far: Far) -> None:
    """Not by what was pushed to it: all of it had come when it was left, but for the end each time."""

    async def main() -> None:
        async with aio.open_pool(far.url, policy=POLICY) as pool, pool.conversation(model="m") as talk:
            async with talk.turn("hello") as turn:
                total = len([event async for event in turn])
            for take in range(1, total + 1):
                before = len(talk.items)
                async with talk.turn("hello") as turn:
                    for _ in range(take):
                        last = await anext(turn)
                    await until(lambda turn=turn: turn.native.ended)
                    if take < total:
                        with pytest.raises(RuntimeError, match="no response yet"):
                            _ = turn.response
                    else:
                        assert last.type == "response.completed"
                        assert turn.response.output_text == "hello"
                assert len(talk.items) - before == (2 if take == total else 0)
            assert talk.statistics().turns == 2
            await until(lambda: pool.statistics().in_flight == 0)

    run(main())


def test_a_response_that_was_never_returned_does_not_count(far: Far) -> None:
    """Its caller was cancelled as it came."""

    async def main() -> None:
        async with aio.open_pool(far.url, policy=POLICY) as pool, pool.conversation(model="m") as talk:
            async with talk.turn("hello") as turn:
                task = asyncio.create_task(turn.result())
                await until(lambda: turn.native.ended)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert talk.items == []
            async with talk.turn("hello") as turn:
                await anext(turn)
                assert (await turn.result()).output_text == "hello"
                assert (await turn.result()) == turn.response
                assert [event async for event in turn] == []
            assert len(talk.items) == 2

    run(main())


def test_one_task_at_a_time_reads_and_what_was_entered_is_entered_once(far: Far) -> None:
    async def main() -> None:
        async with aio.open_pool(far.url, policy=POLICY) as pool, pool.conversation(model="m") as talk:
            turn = talk.turn("wait")
            with pytest.raises(wspool.PoolClosedError):
                await anext(turn)
            async with turn:
                first = await anext(turn)
                assert first.type == "response.created"
                while (await anext(turn)).type != "response.in_progress":
                    pass
                with pytest.raises(RuntimeError, match="entered once"):
                    await turn.__aenter__()
                task = asyncio.create_task(turn.__anext__())
                await asyncio.sleep(0)
                for read in (anext(turn), turn.result()):
                    with pytest.raises(trio.BusyResourceError):
                        await read
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            with pytest.raises(wspool.PoolClosedError):
                await turn.result()
            assert (await talk.respond("hello")).output_text == "hello"

    run(main())


def test_what_went_wrong_is_told_each_time(far: Far) -> None:
    """To who enters, or reads, and again to who asks again; and it is the caller who was told."""

    async def main() -> None:
        async with aio.open_pool(far.url, policy=POLICY) as pool, pool.conversation(model="m") as talk:
            async with talk.turn("wait") as turn:
                while (await anext(turn)).type != "response.in_progress":
                    pass
                talk.close()
                for _ in range(2):
                    with pytest.raises(wspool.TurnLostError, match="closed"):
                        await anext(turn)
                with pytest.raises(wspool.TurnLostError):
                    await turn.result()
            with pytest.raises(wspool.PoolClosedError):
                async with talk.turn("x"):
                    pass

    run(main())


def test_a_turn_crosses_twice_and_its_events_come_by_themselves(far: Far, crossings: Crossings) -> None:
    """One call is all that is asked of the runtime, however many events there are."""

    async def main() -> None:
        async with aio.open_pool(far.url, policy=POLICY) as pool, pool.lease() as lease:
            before = crossings.count
            async with lease.create(model="m", input="word " * 3000) as turn:
                async for event in turn:
                    if event.type == "response.output_text.delta":
                        await asyncio.sleep(0)
            assert turn.response.output_text == "word " * 3000
            assert crossings.count == before + 1

    run(main())


def test_who_reads_slowly_is_not_pushed_more_than_so_much(far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the runtime waits; and all of it comes."""
    monkeypatch.setattr(handover, "MOST_UNREAD", 2000)

    async def main() -> None:
        async with aio.open_pool(far.url, policy=POLICY) as pool, pool.lease() as lease:
            async with lease.create(model="m", input="word " * 3000) as turn:
                first = await anext(turn)
                await until(lambda: turn._out.is_crowded)
                events = [first, *[event async for event in turn]]
            said = "".join(
                event.data["delta"] for event in events if event.type == "response.output_text.delta"
            )
            assert said == "word " * 3000

    run(main())


def test_a_task_that_is_dropped_with_its_loop_leaves_nothing_in_flight(far: Far) -> None:
    """It is not cancelled, and never goes on."""

    async def main() -> None:
        async with aio.open_pool(far.url, policy=POLICY) as pool, pool.conversation(model="m") as talk:
            turn = talk.turn("wait")
            for waits in (talk.respond("wait"), turn.__aenter__()):
                waits.send(None)
                await until(lambda: pool.statistics().in_flight)
                waits.close()
                await until(lambda: not pool.statistics().in_flight)

    run(main())


def test_a_cancelled_wait_for_a_lease_takes_none(far: Far) -> None:
    async def main() -> None:
        async with aio.open_pool(far.url, policy=wspool.PoolPolicy(max_size=1, min_idle=0)) as pool:
            async with pool.lease():
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await pool.acquire()
                assert pool.statistics().waiting == 0
            assert pool.statistics().leased == 0

    run(main())


def test_two_loops_one_after_the_other_and_two_at_a_time(far: Far) -> None:
    async def main() -> None:
        async with aio.open_pool(far.url) as pool, pool.conversation(model="m") as talk:
            assert (await talk.respond("hello")).status == "completed"

    for _ in range(2):
        run(main())

    async def both() -> None:
        await asyncio.gather(*(asyncio.to_thread(asyncio.run, main()) for _ in range(3)))

    run(both())


def test_a_key_function_of_the_callers_loop(far: Far) -> None:
    loops: list[object] = []

    async def key() -> str:
        loops.append(asyncio.get_running_loop())
        await asyncio.sleep(0)
        return "sk-test"

    async def main() -> None:
        async with aio.open_pool(far.url, api_key=key) as pool, pool.conversation(model="m") as talk:
            await talk.respond("hello")
            assert set(loops) == {asyncio.get_running_loop()}

    run(main())


def test_mistakes_are_told_where_they_are_made(far: Far) -> None:
    with pytest.raises(ValueError, match="URL"):
        aio.open_pool("gopher://x")

    async def main() -> None:
        async with aio.open_pool(far.url) as pool:
            with pytest.raises(ValueError, match="previous_response_id"):
                pool.conversation(model="m", previous_response_id="")
            async with pool.conversation(model="m") as talk:
                with pytest.raises(ValueError, match="generate"):
                    talk.turn("x", generate=False)
                with pytest.raises(RuntimeError, match="no response yet"):
                    _ = talk.turn("x").response

    run(main())


def test_an_exception_of_the_body_comes_out_as_it_is(far: Far) -> None:
    async def main() -> None:
        async with aio.open_pool(far.url) as pool, pool.conversation(model="m") as talk, talk.turn("x"):
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        run(main())


def test_the_native_api_says_which_door_to_take() -> None:
    async def main() -> None:
        async with wspool.open_pool("ws://localhost/v1/responses"):
            pass

    with pytest.raises(wspool.ForeignUseError, match=r"wspool\.aio"):
        run(main())


def test_a_budget_that_the_turn_before_has_spent_is_known(far: Far) -> None:
    """Though leaving that waits for nothing: entering comes after it."""

    async def main() -> None:
        async with aio.open_pool(far.url, policy=POLICY) as pool:
            for _ in range(20):
                budget = wspool.Budget(max_tokens=1)
                async with pool.conversation(model="m", budget=budget) as talk:
                    async with talk.turn("hello") as turn:
                        await turn.result()
                    with pytest.raises(wspool.BudgetExceededError, match="tokens"):
                        await talk.turn("more").__aenter__()
                    assert talk.statistics().turns == 1

    run(main())
