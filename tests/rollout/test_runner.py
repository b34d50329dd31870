"""The runner: a task's trouble is its own, and what did not end is owed."""

import errno
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio

import wspool
from tests.rollout.batches import run_batch
from wspool.rollout.limits import Limits
from wspool.rollout.method import Agent, Method
from wspool.rollout.shapes import Columns, task_of
from wspool.rollout.summary import Meter, Summary
from wspool.rollout.tasks import Task
from wspool.server import ModelRequest, ModelTurn, function_call, message
from wspool.server.echo import EchoModel
from wspool.server.server import open_server
from wspool.wire.trio_websocket import TrioWebSocketConnector

pytestmark = pytest.mark.network


def tasks(*ids: str, **body: Any) -> list[Task]:
    rows = [{"id": id, "input": id, **body} for id in ids]
    return [attrs.evolve(task_of(row, Columns()), id=row["id"]) for row in rows]


@asynccontextmanager
async def pool_at(url: str | None, meter: Meter) -> AsyncGenerator[wspool.Pool, None]:
    policy = wspool.PoolPolicy(max_size=2, min_idle=0, give_up_after=0.1)
    if url is not None:
        async with wspool.open_pool(url, policy=policy, instrument=meter) as pool:
            yield pool
        return
    async with open_server(EchoModel()) as server, pool_at(server.url, meter) as pool:
        yield pool


async def run(
    batch: list[Task],
    agent: Agent | Method | None,
    lines: list[Mapping[str, Any]],
    *,
    url: str | None = None,
) -> Summary:
    meter = Meter()
    async with pool_at(url, meter) as pool:
        method = agent if isinstance(agent, Method) else Method(agent=agent, defaults={"model": "m"})
        return await run_batch(pool, batch, method, meter=meter, sink=lines.append, quiet=True)


async def echo(conversation: wspool.Conversation, task: dict[str, Any]) -> object:
    return await conversation.respond(task["input"])


async def test_more_conversations_than_connections() -> None:
    """All of them end, and each has its own answer."""
    lines: list[Mapping[str, Any]] = []
    summary = await run(tasks(*map(str, range(20))), echo, lines)

    assert (summary.done, summary.owed, summary.dialed, summary.peak_connections) == (20, 0, 2, 2)
    assert all(line["answer"] == line["id"] for line in lines)


class Skipped(BaseException):
    """As test frameworks have it."""


async def test_what_an_agent_raises_is_its_result() -> None:
    """Even the wish to end the process, or the word for Ctrl-C, ends only the task."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    async def agent(conversation: wspool.Conversation, task: dict[str, Any]) -> object:
        match task["id"]:
            case "exit":
                raise SystemExit(3)
            case "skipped":
                raise Skipped
            case "interrupt":
                raise KeyboardInterrupt
            case "generator":
                raise GeneratorExit
            case "thread":
                return await trio.to_thread.run_sync(interrupt)
            case "kept":
                with trio.CancelScope() as scope:
                    scope.cancel()
                    try:
                        await trio.sleep_forever()
                    except BaseException as error:
                        kept = error
                        raise
                raise kept
            case "nursery":
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(trio.sleep_forever)
                    raise KeyboardInterrupt
            case "both":
                raise BaseExceptionGroup("both", [ValueError("a"), Skipped()])
            case "group":
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(trio.sleep_forever)
                    raise LookupError("inside")
            case _:
                return await echo(conversation, task)

    names = "exit", "group", "skipped", "both", "interrupt", "generator", "thread", "kept", "nursery"
    lines: list[Mapping[str, Any]] = []
    summary = await run(tasks(*names, "well"), agent, lines)

    assert (summary.failed, summary.done) == (len(names), 1)
    assert {line["id"]: line["error"] and line["error"]["type"] for line in lines} == {
        "exit": "SystemExit",
        "group": "LookupError",
        "skipped": "Skipped",
        "interrupt": "KeyboardInterrupt",
        "generator": "GeneratorExit",
        "thread": "KeyboardInterrupt",
        "kept": "Cancelled",
        "nursery": "KeyboardInterrupt",
        "both": "BaseExceptionGroup",
        "well": None,
    }


class Several(Exception):
    """Has `exceptions` as other libraries mean it."""

    exceptions = 5


async def test_what_only_looks_like_a_group_is_none() -> None:
    """An error of the agent's own may have any attributes."""

    async def agent(conversation: wspool.Conversation, task: dict[str, Any]) -> object:
        raise Several("of mine")

    lines: list[Mapping[str, Any]] = []
    summary = await run(tasks("a"), agent, lines)

    assert (1, "Several", "of mine") == (
        summary.failed,
        lines[0]["error"]["type"],
        lines[0]["error"]["message"],
    )


async def test_what_an_agent_does_to_what_it_gets_is_its_own() -> None:
    """Neither its task nor what it has returned is another afterwards, and the next sees nothing of it."""
    kept: list[int] = []

    async def agent(conversation: wspool.Conversation, task: dict[str, Any], more: list[int]) -> object:
        task["notes"].append("seen")
        more.append(1)
        kept.append(1)
        return [kept, len(more)]

    lines: list[Mapping[str, Any]] = []
    batch = tasks("a", "b", notes=[])
    digests = [task.digest for task in batch]
    await run(batch, Method(agent=agent, agent_arguments={"more": []}), lines)

    assert digests == [task.digest for task in batch]
    assert [[[1], 1], [[1, 1], 1]] == [line["answer"] for line in lines]


async def test_a_request_that_cannot_be_made_is_a_failure() -> None:
    """A field that belongs to the library is refused before anything is sent."""
    lines: list[Mapping[str, Any]] = []
    task = Task(id="a", body={"input": "a", "background": True}, source={})
    summary = await run([task], None, lines)

    assert (summary.failed, summary.turns) == (1, 0)
    assert "background" in lines[0]["error"]["message"]


async def test_with_an_agent_unknown_fields_are_the_agents_business() -> None:
    """They are not sent to the provider; those that it knows are."""
    seen: list[dict[str, Any]] = []

    async def agent(conversation: wspool.Conversation, task: dict[str, Any]) -> object:
        seen.append(task)
        response = await conversation.respond("x")
        return [response.data["instructions"], "repository" in response.data]

    lines: list[Mapping[str, Any]] = []
    await run(tasks("a", repository="r", instructions="Be brief."), agent, lines)

    assert seen[0]["repository"] == "r"
    assert lines[0]["answer"] == ["Be brief.", False]


class Told:
    """Calls what is not there, and keeps what it was sent."""

    def __init__(self) -> None:
        self.bodies: list[Mapping[str, Any]] = []

    def respond(self, request: ModelRequest) -> ModelTurn:
        self.bodies.append(request.body)
        return ModelTurn(output=[function_call("read_file", {"path": "secret"}, call_id="c")])


async def test_a_task_of_ones_own_goes_as_it_is() -> None:
    """One turn; no tool, no field and no model is added, columns of a data set are left out, and a call that
    nobody here can run is the answer."""
    model, lines = Told(), list[Mapping[str, Any]]()
    meter = Meter()
    body = {"input": "x", "store": False, "model": "gpt-4.1", "background": False, "metadata": {"a": "b"}}
    batch = [
        Task(id="line", body={**body, "vendor": 1}, source={}, batch=True),
        attrs.evolve(task_of({**body, "target": "y"}, Columns()), id="plain"),
        Task(id="prompt", body={"prompt": {"id": "p"}}, source={}),
    ]
    async with open_server(model, lenient=True) as server, pool_at(server.url, meter) as pool:
        summary = await run_batch(
            pool, batch, Method(defaults={"model": "m"}), meter=meter, sink=lines.append, quiet=True
        )

    assert (summary.called, summary.turns, summary.tool_calls) == (3, 3, 0)
    sent = {str(each.get("prompt") or each.get("vendor")): each for each in model.bodies}
    for each, more in ((sent["1"], {"vendor": 1}), (sent["None"], {})):
        assert {name: value for name, value in each.items() if name not in ("type", "input")} == {
            "model": "gpt-4.1",
            "store": False,
            "metadata": {"a": "b"},
            "include": [],
            **more,
        }
    assert sent["{'id': 'p'}"]["model"] == "m"
    (call,) = {line.get("id"): line for line in lines}["plain"]["answer"]
    assert (call["name"], call["arguments"]) == ("read_file", '{"path": "secret"}')


SAID = {
    "input_tokens": 100,
    "output_tokens": 10,
    "total_tokens": 110,
    "input_tokens_details": {"cached_tokens": 90},
    "output_tokens_details": {"reasoning_tokens": 0},
}


class Counting:
    """Says `fine` to everybody, and what that cost."""

    def respond(self, request: ModelRequest) -> ModelTurn:
        return ModelTurn(output=[message("fine")], usage=SAID)


async def thrice(conversation: wspool.Conversation, task: dict[str, Any]) -> object:
    for _ in range(3):
        await conversation.respond(task["input"])
    if task["id"] == "late":
        raise ValueError("late")
    return {"score": 1}


async def limited(
    batch: list[Task], agent: Agent, lines: list[Mapping[str, Any]], *, concurrency: int = 1, **limits: Any
) -> Summary:
    meter = Meter()
    async with open_server(Counting()) as server, pool_at(server.url, meter) as pool:
        return await run_batch(
            pool,
            batch,
            Method(agent=agent, defaults={"model": "m"}),
            meter=meter,
            sink=lines.append,
            concurrency=concurrency,
            limits=Limits(**limits),
            quiet=True,
        )


async def test_tokens_and_money_are_summed() -> None:
    """Of all turns of a task, of failed tasks too, and of the run."""
    lines: list[Mapping[str, Any]] = []
    summary = await limited(tasks("well", "late"), thrice, lines, price=(10.0, 1.0, 100.0))

    assert [line["usage"]["total_tokens"] for line in lines] == [330, 330]
    assert [line["cost"] for line in lines] == pytest.approx([3 * 1190 / 1e6] * 2)
    assert (summary.input_tokens, summary.cached_tokens, summary.output_tokens) == (600, 540, 60)
    assert summary.cost == pytest.approx(6 * 1190 / 1e6)
    (error,) = summary.errors
    assert (error["count"], error["message"], error["task"]) == (1, "late", "late")
    assert "in thrice" in error["traceback"]
    assert "in thrice" in str(summary)
    assert "Traceback" not in str(summary)  # as if the command had crashed


@pytest.mark.parametrize(
    ("limits", "ended", "problem"),
    [
        ({"max_tokens": 660}, 2, "the run's budget is spent: tokens 660 of 660"),
        ({"max_tokens": 700}, 2, "the run's budget is spent: tokens 770 of 700"),
        ({"max_cost": 0.0036, "price": (10, 1, 100)}, 1, "the run's budget is spent: cost 0.00476 of 0.0036"),
    ],
)
async def test_a_limit_ends_the_run_in_order(limits: dict[str, Any], ended: int, problem: str) -> None:
    """What is owed stays owed, and what ended it is said."""
    lines: list[Mapping[str, Any]] = []
    summary = await limited(tasks(*"abcde"), thrice, lines, **limits)

    assert (summary.done, summary.owed, summary.failed) == (ended, 5 - ended, 0)
    assert (summary.problem, summary.interrupted) == (problem, False)
    assert len(lines) == ended


@pytest.mark.parametrize(
    ("limits", "kind", "words"),
    [
        ({"max_turns": 2}, "BudgetExceededError", "the task's budget is spent: turns 2 of 2"),
        ({"task_max_tokens": 150}, "BudgetExceededError", "tokens 220 of 150"),
        ({"task_timeout": 0.0}, "TooSlowError", "longer than 0 s"),
    ],
)
async def test_a_limit_of_a_task_fails_the_task(limits: dict[str, Any], kind: str, words: str) -> None:
    """And no other. A turn that was not sent is none."""
    lines: list[Mapping[str, Any]] = []
    summary = await limited(tasks(*"ab"), thrice, lines, **limits)

    assert (summary.failed, summary.owed, summary.problem) == (2, 0, None)
    assert summary.turns == sum(line["turns"] for line in lines)
    assert {line["error"]["type"] for line in lines} == {kind}
    assert all(words in line["error"]["message"] for line in lines)


async def test_time_ends_the_run_in_order() -> None:
    """What runs goes on to its end, and nothing else is begun."""

    async def slow(conversation: wspool.Conversation, task: dict[str, Any]) -> object:
        await conversation.respond(task["input"])
        await trio.sleep(0.3)
        return "well"

    summary = await limited(tasks(*"abc"), slow, [], max_seconds=0.2)

    assert (summary.done, summary.owed, summary.problem) == (1, 2, "0.2 s have passed")


async def failing(conversation: wspool.Conversation, task: dict[str, Any]) -> object:
    if int(task["id"]) >= 0:
        raise ValueError("always")
    return "well"


@pytest.mark.parametrize(
    ("first", "limits", "failed"),
    [(0, {"max_errors": 5}, 5), (0, {}, 50), (-1, {}, 79), (0, {"max_errors": 0}, 80)],
)
async def test_too_many_errors_end_the_run(first: int, limits: dict[str, Any], failed: int) -> None:
    """By default where nothing went well."""
    lines: list[Mapping[str, Any]] = []
    summary = await limited(tasks(*map(str, range(first, first + 80))), failing, lines, **limits)

    assert summary.failed == failed
    assert (summary.problem is None) == (summary.owed == 0)


async def test_f176_an_endpoint_that_is_gone_ends_the_run() -> None:
    """F176: nobody answers at the endpoint of a batch -> the run ends and names it; the tasks are owed, none
    has failed.
    """
    lines: list[Mapping[str, Any]] = []
    summary = await run(tasks("a", "b", "c"), echo, lines, url="ws://127.0.0.1:1/v1/responses")

    assert (summary.owed, summary.failed, lines) == (3, 0, [])
    assert summary.problem is not None
    assert "127.0.0.1" in summary.problem


async def test_f175_results_that_cannot_be_written_end_the_run() -> None:
    """F175: results cannot be written any more -> the run ends and says so, for paying for answers that
    nobody will see helps nobody; the tasks are owed.
    """

    def full(line: Mapping[str, Any]) -> None:
        raise OSError("disk full")

    meter = Meter()
    async with pool_at(None, meter) as pool:
        summary = await run_batch(
            pool, tasks(*"abcdef"), Method(agent=echo), meter=meter, sink=full, concurrency=1, quiet=True
        )

    assert summary.problem == "a result could not be written: disk full"
    assert (summary.owed, summary.done) == (6, 0)


async def test_a_cancelled_task_has_no_result() -> None:
    """Not even if its own task group fails on the way out."""

    async def stubborn() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("on the way out")

    async def agent(conversation: wspool.Conversation, task: dict[str, Any]) -> object:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stubborn)
            await trio.sleep_forever()
        raise AssertionError("not reached")

    lines: list[Mapping[str, Any]] = []
    with trio.move_on_after(0.3) as scope:
        await run(tasks("a", "b"), agent, lines)

    assert scope.cancelled_caught
    assert lines == []


async def test_f177_a_task_whose_tools_get_no_files_has_failed(autojump_clock) -> None:
    """F177: a tool of a task finds no file descriptor left -> the task has failed, and its result says why
    and what to do; the model has been told nothing; the next task goes well.
    """
    told: list[str] = []

    class Asking:
        def respond(self, request: ModelRequest) -> ModelTurn:
            outputs = [item["output"] for item in request.context if "output" in item]
            told.extend(outputs)
            if outputs:
                return ModelTurn(output=[message(outputs[-1])])
            return ModelTurn(
                output=[function_call("count_lines", {"path": str(request.context[-1]["content"])})]
            )

    async def count_lines(path: str) -> str:
        await trio.lowlevel.checkpoint()
        if "scarce" in path:
            raise OSError(errno.EMFILE, "Too many open files")
        return "7"

    lines: list[Mapping[str, Any]] = []
    meter = Meter()
    async with (
        open_server(Asking(), port=None) as server,
        wspool.open_pool(
            server.url, wire=TrioWebSocketConnector(server.open_stream), instrument=meter
        ) as pool,
    ):
        method = Method(tools={"count_lines": count_lines}, repeatable=True, defaults={"model": "m"})
        summary = await run_batch(
            pool, tasks("scarce", "well"), method, meter=meter, sink=lines.append, quiet=True
        )

    assert (1, 1, 0) == (summary.failed, summary.done, summary.owed)
    failed = {line["id"]: line["error"] for line in lines}["scarce"]
    assert "NoFilesError" == failed["type"]
    assert "ulimit -n" in failed["message"]
    assert ["7"] == told
