"""What a run does where it is unclear whose trouble refusals are: it tries others, and blames nobody else."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import trio
from trio.testing import MockClock

import wspool
from tests.helpers import FakeConnector, FakeWire, completed, created, error_frame, fake_pool, policy
from tests.rollout.batches import run_batch
from wspool.rollout.doubt import LAST
from wspool.rollout.method import Method
from wspool.rollout.shapes import Columns, task_of
from wspool.rollout.summary import Meter, Summary


async def run(
    ids: Sequence[str],
    refuses: Callable[[str, float], bool],
    *,
    concurrency: int,
    turns: int = 1,
    lines: list[Mapping[str, Any]] | None = None,
) -> Summary:
    """A run on an endpoint that answers what *refuses* with a 500, by what was asked and when."""
    meter, began = Meter(), trio.current_time()
    tasks = [attrs.evolve(task_of({"id": id, "input": id}, Columns()), id=id) for id in ids]

    async def agent(conversation: wspool.Conversation, task: dict[str, Any]) -> object:
        for _ in range(turns - 1):
            await conversation.respond(task["input"])
        return await conversation.respond(task["input"])

    async with trio.open_nursery() as nursery:

        def answer(wire: FakeWire, request: dict[str, Any]) -> None:
            nursery.start_soon(later, wire, str(request["input"]))

        async def later(wire: FakeWire, asked: str) -> None:
            await trio.sleep(1)
            if refuses(asked, trio.current_time() - began):
                wire.push(error_frame("server_error", 500))
                return
            name = f"resp_{wire.number}_{len(wire.sent)}"
            wire.push(created(name))
            await trio.sleep(2)
            wire.push(completed(name))

        limits = policy(max_size=4, refusal_patience=float("inf"))
        async with fake_pool(FakeConnector(answer), limits=limits, instrument=meter) as pool:
            summary = await run_batch(
                pool,
                tasks,
                Method(agent=agent, defaults={"model": "m"}),
                meter=meter,
                sink=(lines if lines is not None else []).append,
                concurrency=concurrency,
                quiet=True,
            )
        nursery.cancel_scope.cancel()
    return summary


async def test_one_at_a_time_and_the_first_is_bad(
    autojump_clock: MockClock,
) -> None:
    """Others are tried beyond the one that may run, and it fails."""
    lines: list[Mapping[str, Any]] = []
    ids = ["bad", *(f"good {number}" for number in range(12))]
    summary = await run(ids, lambda asked, now: "bad" in asked, concurrency=1, lines=lines)
    assert (12, 1, 0) == (summary.done, summary.failed, summary.owed)
    assert ["server_error"] == [line["error"]["code"] for line in lines if line["id"] == "bad"]
    assert summary.seconds < 1200


async def test_as_many_as_may_run_are(autojump_clock: MockClock) -> None:
    ids = [*(f"bad {number}" for number in range(4)), *(f"good {number}" for number in range(20))]
    summary = await run(ids, lambda asked, now: "bad" in asked, concurrency=4, turns=3)
    assert (20, 4, 0) == (summary.done, summary.failed, summary.owed)
    assert summary.seconds < 3600


async def test_of_the_last_one_nobody_can_tell(autojump_clock: MockClock) -> None:
    """It is owed, and the run says why and what helps."""
    summary = await run(["good", "bad"], lambda asked, now: "bad" in asked, concurrency=1)
    assert (1, 0, 1) == (summary.done, summary.failed, summary.owed)
    assert LAST <= summary.seconds < LAST + 60
    assert summary.problem is not None
    assert "task bad: server_error" in summary.problem
    assert "--max-wait" in summary.problem


async def test_hours_without_an_answer_fails_nobody(autojump_clock: MockClock) -> None:
    """Nor does it end the run, however many are left; and few are begun beyond those that may run."""
    asked: set[str] = set()

    def refuses(what: str, now: float) -> bool:
        down = 0.5 < now < 3 * 3600
        if down:
            asked.add(what)
        return down

    for count in (8, 60):
        asked.clear()
        summary = await run([f"{number:02}" for number in range(count)], refuses, concurrency=8)
        assert (count, 0, 0) == (summary.done, summary.failed, summary.owed)
        assert len(asked) <= 8 + 26
        assert summary.seconds < 3 * 3600 + 300


async def test_an_agent_that_is_at_something_else_may_still_ask(autojump_clock: MockClock) -> None:
    """While one is, the last ones are waited for, however long; and what it asks tells."""
    meter = Meter()
    tasks = [attrs.evolve(task_of({"id": id, "input": id}, Columns()), id=id) for id in ("bad", "good")]

    async def agent(conversation: wspool.Conversation, task: dict[str, Any]) -> object:
        if task["input"] == "good":
            await trio.sleep(3 * LAST)
            for _ in range(20):
                await trio.sleep(60)
                await conversation.respond("good")
        return await conversation.respond(task["input"])

    def answer(wire: FakeWire, request: dict[str, Any]) -> None:
        if "bad" in str(request["input"]):
            wire.push(error_frame("server_error", 500))
        else:
            wire.push(created(f"resp_{len(wire.sent)}"), completed(f"resp_{len(wire.sent)}"))

    limits = policy(max_size=4, refusal_patience=float("inf"))
    async with fake_pool(FakeConnector(answer), limits=limits, instrument=meter) as pool:
        method = Method(agent=agent, defaults={"model": "m"})
        summary = await run_batch(pool, tasks, method, meter=meter, sink=lambda line: None, quiet=True)
    assert (1, 1, 0) == (summary.done, summary.failed, summary.owed)
