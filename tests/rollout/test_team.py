"""What actors share: tasks, one pace, what is spent; and what becomes of those that die."""

import json
import math
import os
import pickle
import re
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

import wspool
from wspool.core.sending.allowance import Stated
from wspool.core.usage import Usage
from wspool.rollout.holding import Held, Holder
from wspool.rollout.limits import Limits
from wspool.rollout.method import Agent, Method
from wspool.rollout.owed import run_owed
from wspool.rollout.results import ResultFile, open_results
from wspool.rollout.runner import run_batch
from wspool.rollout.scoring import SCORES
from wspool.rollout.shapes import Columns, task_of
from wspool.rollout.summary import Meter, Summary
from wspool.rollout.tally import Tally
from wspool.rollout.tasks import Task
from wspool.rollout.team.exchange import Heard, Orders, Report
from wspool.rollout.team.part import Tokens, divided, open_part
from wspool.rollout.team.process import Process
from wspool.rollout.team.team import NOTHING, Actor, ActorLostError, Team, open_team
from wspool.runtime import Residence
from wspool.server import ModelRequest, ModelTurn, TurnError, message
from wspool.server.echo import EchoModel
from wspool.server.server import Server, open_server
from wspool.testing import local_server
from wspool.wire.trio_websocket import TrioWebSocketConnector

Part = Callable[[], AbstractAsyncContextManager[Callable[[Orders], Awaitable[Report | None]]]]


def tasks(count: int) -> list[Task]:
    rows: list[dict[str, Any]] = [{"input": f"say {n}", "expected": f"say {n}"} for n in range(count)]
    return [attrs.evolve(task_of(row, Columns()), id=str(n)) for n, row in enumerate(rows)]


class Sharing:
    """A team of two actors that are asked by hand."""

    def __init__(self) -> None:
        self.team = Team(2, 8, Meter())
        self.actors = [Actor(), Actor()]
        self.team.actors.update(enumerate(self.actors))

    def exchange(self, actor: int, *turns: Heard, in_line: int = 0, used: Usage | None = None) -> Orders:
        self.team.hear(
            self.actors[actor],
            Report(
                ended={},
                counted={},
                turns=turns,
                used=used or Usage(),
                pool=NOTHING,
                in_line=in_line,
            ),
        )
        return self.team.orders(self.actors[actor])


async def test_an_actor_that_dies_gives_its_tokens_back() -> None:
    """Also where nobody is to take its place."""
    sharing = Sharing()
    tokens = sharing.exchange(0, in_line=16).tokens
    assert (16, 0) == (len(tokens), len(sharing.exchange(1, in_line=16).tokens))

    sharing.team.lost(0)

    assert 16 == len(sharing.exchange(1, in_line=16).tokens)


async def test_one_pace_for_all(autojump_clock: MockClock) -> None:
    """No more turns begin than one pool would begin, and a refusal of one holds all."""
    sharing = Sharing()
    first = sharing.exchange(0, in_line=100).tokens
    assert 16 == len(first)
    assert 0 == len(sharing.exchange(1, in_line=100).tokens)

    # Who has more than its part of the room gives to who waits.
    ended: list[Heard] = [("answered", token, {}) for token in first[:12]]
    ended += [("ended", token, {}) for token in first[:12]]
    assert [] == sharing.exchange(0, *ended, in_line=100).tokens[12:]
    assert len(sharing.exchange(1, in_line=100).tokens) >= 4

    more = {"rate": True, "wait": 30.0, "jitter": 0.0}
    assert 30.0 == sharing.exchange(0, ("refused", first[12], more)).held
    await trio.sleep(29)
    orders = sharing.exchange(1, in_line=100)
    assert (1.0, 0) == (orders.held, len(orders.tokens))
    assert "a rate limit" == sharing.team.statistics().held_for


async def test_what_an_endpoint_states_is_heard_by_all() -> None:
    """Nothing is left for a minute: no pool begins anything."""
    sharing = Sharing()
    tokens = Tokens()
    for tell in (
        lambda: tokens.told([Stated("requests", 100.0, 0.0, 60.0)], 0.0, answering=True),
        lambda: tokens.used(10.0),
        tokens.away,
    ):
        tokens.changed = trio.Event()
        tell()
        assert tokens.changed.is_set()

    assert [] == sharing.exchange(0, *tokens.tell(), in_line=5).tokens
    assert [] == sharing.exchange(1, in_line=5).tokens
    assert 60.0 == pytest.approx(sharing.exchange(1, in_line=5).held, abs=1)


async def test_tokens_are_reported_once() -> None:
    """However often a turn is said to have ended; and what nobody needs is given back."""
    tokens = Tokens()
    assert math.inf == tokens.wait(0.0)
    tokens.take(Orders(tokens=[1, 2, 3]))
    assert 0 == tokens.wait(0.0)
    ticket = tokens.begin(0.0)
    assert [ticket] == tokens.unanswered
    for _ in range(2):
        tokens.answered(ticket)
        tokens.ended(ticket)
        tokens.refused(ticket, 0.0, rate=True, wait=0.0, jitter=0.0)

    assert [("answered", 1), ("ended", 1), ("ended", 2), ("ended", 3)] == [each[:2] for each in tokens.tell()]
    assert [] == tokens.tell()


async def test_what_all_have_spent_is_told_to_each() -> None:
    """So that a budget is that of the run."""
    sharing = Sharing()
    sharing.exchange(0, used=Usage(10, 0, 5, 0))

    assert Usage(30, 1, 9, 2) == sharing.exchange(1, used=Usage(20, 1, 4, 2)).spent


def test_connections_are_divided() -> None:
    """All of them, and as evenly as can be."""
    policies = divided(wspool.PoolPolicy(max_size=8, min_idle=0, max_resends=7), 3)

    assert [3, 3, 2] == [policy.max_size for policy in policies]
    assert [] == divided(wspool.PoolPolicy(max_size=8, min_idle=0), 0)
    assert {7} == {policy.max_resends for policy in policies}


def test_meters_are_put_together() -> None:
    """What is taken is not taken twice."""
    one, all = Meter(), Meter()
    for turns in (1, 2):
        one.turns, one.durations, one.usage = turns, [float(turns)], Usage(turns)
        all.add(one.take())

    assert (3, [1.0, 2.0], Usage(3)) == (all.turns, all.durations, all.usage)
    assert (0, []) == (one.turns, one.durations)


# -- a whole run, with actors that are tasks of one trio run ------------------------------------------------


class Here:
    """Actors without Ray, as tasks of this trio run. Some die as soon as they have ended so many tasks."""

    def __init__(self, parts: Sequence[Part], deaths: Mapping[int, int]) -> None:
        self.alive: set[int] = set()
        self.begun = 0
        self.poison: str | None = None
        self._parts, self._deaths = parts, deaths

    @asynccontextmanager
    async def begin(self, part: int) -> AsyncGenerator[Callable[[Orders], Awaitable[Report]], None]:
        number, self.begun = self.begun, self.begun + 1
        left = self._deaths.get(number, math.inf)
        self.alive.add(number)
        block = Residence(self._parts[part])
        exchange = await block.enter()

        async def exchanged(orders: Orders) -> Report:
            nonlocal left
            if any(task.id == self.poison for task in orders.tasks):
                raise ActorLostError("it was killed")
            report = await exchange(orders)
            assert report is not None
            left -= len(report.ended)
            if left <= 0:  # with what it wanted to say
                raise ActorLostError("it was killed")
            return report

        try:
            yield exchanged
        finally:
            with trio.CancelScope(shield=True):
                assert await exchange(Orders(end=True)) is None
                await block.leave()
            self.alive.remove(number)


class Echo:
    """Says what it is asked, *delay* seconds later, and tells *told* what it was asked so far."""

    delay = 0.0

    def __init__(self, told: Callable[[list[str]], None] = lambda asked: None) -> None:
        self.asked: list[str] = []
        self._told = told

    def respond(self, request: ModelRequest) -> ModelTurn:
        text = request.context[-1]["content"]
        said = text if isinstance(text, str) else text[0]["text"]
        self.asked.append(said)
        self._told(self.asked)
        return ModelTurn(output=[message(said)], delay=self.delay)


def parts(server: Server, count: int, limits: Limits, agent: Agent | None = None) -> list[Part]:
    policy = wspool.PoolPolicy(max_size=4, min_idle=0, refusal_patience=math.inf)
    method = Method(agent=agent, defaults={"model": "m"}, retries=2)
    endpoint: dict[str, Any] = {"url": server.url}
    if agent is not None:  # in virtual time
        endpoint["wire"] = TrioWebSocketConnector(server.open_stream)
    return [partial(open_part, endpoint, policy, method, limits) for _ in range(count)]


async def run(
    server: Server,
    out: Path,
    count: int,
    actors: int,
    *,
    limits: Limits | None = None,
    deaths: Mapping[int, int] | None = None,
    during: Callable[[Here], Awaitable[None]] | None = None,
    agent: Agent | None = None,
    here: Here | None = None,
) -> Summary:
    """As `wspool.ray.run_sharded`, but for the actors."""
    limits, meter = limits or Limits(), Meter()
    batch = tasks(count)
    here = here or Here(parts(server, actors, limits, agent), deaths or {})
    with open_results(out) as results:
        owed = [task for task in batch if task.key not in results.earlier]
        async with trio.open_nursery() as nursery:
            if during is not None:
                nursery.start_soon(during, here)
            async with open_team(here.begin, actors=actors, max_size=4 * actors, meter=meter) as team:
                summary = await run_batch(
                    team,
                    owed,
                    meter=meter,
                    sink=results.append,
                    concurrency=8 * actors,
                    limits=limits,
                    total=count,
                    quiet=True,
                )
            nursery.cancel_scope.cancel()
    assert not here.alive
    return summary


def ids(out: Path) -> list[int]:
    lines = (out / "results.jsonl").read_text().splitlines()
    return sorted(int(json.loads(line)["id"]) for line in lines)


@pytest.mark.network
async def test_results_are_merged_as_they_come(tmp_path: Path) -> None:
    """Each task has one, whoever did it; every number is that of all actors."""
    model = Echo()
    async with open_server(model) as server:
        summary = await run(server, tmp_path, 60, 3)

    assert list(range(60)) == ids(tmp_path)
    assert (60, 0, 60, 1.0) == (summary.right, summary.owed, summary.turns, summary.score)
    assert 60 == len(model.asked)
    assert summary.max_connections == 12
    assert 0 < summary.peak_connections <= 12
    assert summary.problem is None


@pytest.mark.network
async def test_an_actor_that_dies_costs_nothing_but_its_running_tasks(tmp_path: Path) -> None:
    """They are done by another one, and no result is there twice; and another one takes its place. Where that
    dies before it could begin anything, a third one does, and no task is blamed.
    """
    model = Echo()
    teams: list[Here] = []

    async def look(team: Here) -> None:
        teams.append(team)
        await trio.lowlevel.checkpoint()

    async with open_server(model) as server:
        summary = await run(server, tmp_path, 60, 3, deaths={1: 5, 3: 0}, during=look)

    assert list(range(60)) == ids(tmp_path)
    assert (60, 0) == (summary.right, summary.owed)
    assert 1 <= len(model.asked) - 60 <= 8  # what it may have had
    assert 5 == teams[0].begun


async def test_what_kills_a_second_actor_stays_owed(tmp_path: Path, autojump_clock: MockClock) -> None:
    """With what was with it in both; all others are done."""

    async def agent(conversation: wspool.Conversation, task: dict[str, Any]) -> object:
        return (await conversation.respond(task["input"])).output_text

    async with open_server(Echo(), port=None) as server:
        here = Here(parts(server, 3, Limits(), agent), {})
        here.poison = "30"
        summary = await run(server, tmp_path, 60, 3, here=here)

    assert 5 == here.begun
    assert 30 not in ids(tmp_path)
    assert 60 == summary.right + summary.owed
    assert 1 <= summary.owed <= 24
    assert summary.problem is None


@pytest.mark.network
async def test_too_many_actors_die(tmp_path: Path) -> None:
    """Then the run ends and says why."""
    async with open_server(Echo()) as server:
        summary = await run(server, tmp_path, 60, 2, deaths=dict.fromkeys(range(99), 1))

    assert "7 actors have died, the last because: it was killed" == summary.problem
    assert 60 == summary.owed


@pytest.mark.network
async def test_a_run_goes_on_with_another_number_of_actors(tmp_path: Path) -> None:
    """What has a result is not done again."""
    model = Echo()
    async with open_server(model) as server:
        first = await run(server, tmp_path, 300, 3, limits=Limits(max_tokens=4000))
        done = len(ids(tmp_path))
        assert 4000 <= first.input_tokens + first.output_tokens < 8000  # and not as much for each actor
        assert first.owed == 300 - done
        assert first.problem is not None
        assert "the run's budget is spent" in first.problem

        second = await run(server, tmp_path, 300, 2)

    assert list(range(300)) == ids(tmp_path)
    assert (300 - done, done, 0) == (second.right, second.skipped, second.owed)
    assert 300 == len(model.asked)


class Refusing(Echo):
    """Too many requests, for a moment."""

    def respond(self, request: ModelRequest) -> ModelTurn:
        turn = super().respond(request)
        if not 30 < len(self.asked) <= 36:
            return turn
        error = TurnError(code="rate_limit_exceeded", message="slow down", status=429)
        return ModelTurn(status="rejected", error=error)


@pytest.mark.network
async def test_a_refusal_holds_all(tmp_path: Path) -> None:
    """It is waited out together: nothing fails, and only what was refused is sent again."""
    model = Refusing()
    async with open_server(model) as server:
        summary = await run(server, tmp_path, 100, 3)

    assert (100, 0, 0) == (summary.right, summary.failed, summary.owed)
    assert 106 == len(model.asked)


def interrupting(when: trio.Event) -> Callable[["Here"], Awaitable[None]]:
    """What presses Ctrl-C."""

    async def interrupt(team: Here) -> None:
        await when.wait()
        os.kill(os.getpid(), signal.SIGINT)

    return interrupt


@pytest.mark.network
async def test_interrupted(tmp_path: Path) -> None:
    """What runs is finished, nothing else is begun, and no actor is left."""
    many = trio.Event()

    model = Echo(lambda asked: many.set() if len(asked) == 50 else None)
    async with open_server(model) as server:
        summary = await run(server, tmp_path, 2000, 2, during=interrupting(many))

    assert summary.interrupted
    assert len(model.asked) == summary.right == len(ids(tmp_path)) < 2000
    assert 2000 == summary.right + summary.owed


@pytest.mark.network
async def test_what_runs_is_finished_and_what_is_in_line_is_put_back(tmp_path: Path) -> None:
    """Two actors have eight tasks each and four connections: those that have one end, the others are owed."""
    all_at_work = trio.Event()

    model = Echo(lambda asked: all_at_work.set() if len(asked) == 8 else None)
    model.delay = 0.5
    async with open_server(model) as server:
        summary = await run(server, tmp_path, 100, 2, during=interrupting(all_at_work))

    assert summary.interrupted
    assert 8 == len(model.asked) == summary.right == len(ids(tmp_path))
    assert 92 == summary.owed


async def test_an_actor_begins_what_it_may_have_a_lane_for(tmp_path: Path, autojump_clock: MockClock) -> None:
    """As one process does (`wspool.rollout.intake`): else each turn takes the lane of another one."""

    async def agent(conversation: wspool.Conversation, task: dict[str, Any]) -> object:
        for _ in range(4):
            await conversation.respond(task["input"])
        return "well"

    async with open_server(EchoModel(), port=None, delay_per_token=0.2) as server:
        summary = await run(server, tmp_path, 40, 2, agent=agent)

    assert summary.right + summary.wrong == 40
    assert summary.full_turns == 40


async def test_what_the_endpoint_keeps_waiting_is_owed(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A run that shall end does not wait until all actors may go on, nor begin what has no lane yet."""

    class Refusing:
        def respond(self, request: ModelRequest) -> ModelTurn:
            if trio.current_time() > 60:
                return ModelTurn(
                    status="rejected", error=TurnError(code="overloaded", message="no", status=503)
                )
            return ModelTurn(output=[message("fine")], delay=10)

    async def agent(conversation: wspool.Conversation, task: dict[str, Any]) -> object:
        for _ in range(4):
            await conversation.respond(task["input"])
        return "well"

    async with open_server(Refusing(), port=None) as server:
        summary = await run(server, tmp_path, 40, 2, agent=agent, limits=Limits(max_seconds=100))

    assert (summary.right + summary.wrong, summary.owed) == (8, 32)
    assert 100 <= summary.seconds < 107
    assert summary.problem is not None
    assert re.search(r"^100 s .*; \d+ of those that ran waited for overloaded: no and were", summary.problem)


class Never(Here):
    """No actor gets as far as to take orders: *error* comes, or nothing at all."""

    error: Exception | None = None

    @asynccontextmanager
    async def begin(self, part: int) -> AsyncGenerator[Callable[[Orders], Awaitable[Report]], None]:
        async def exchange(orders: Orders) -> Report:
            await trio.sleep(1)
            if self.error is None:
                return await trio.sleep_forever()
            raise self.error

        yield exchange


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (RuntimeError("no module"), "an actor cannot work: no module"),
        (ActorLostError("no node"), "7 actors have died, the last because: no node"),
        (None, "30 s have passed"),
    ],
)
async def test_no_actor_can_work(
    tmp_path: Path, autojump_clock: MockClock, error: Exception | None, problem: str
) -> None:
    """The run ends and says why, also while it waits for the first actor."""
    async with open_server(Echo(), port=None) as server:
        here = Never([], {})
        here.error = error
        with trio.fail_after(60):
            summary = await run(server, tmp_path, 60, 2, limits=Limits(max_seconds=30), here=here)

    assert 60 == summary.owed
    assert problem == summary.problem
    assert summary.seconds < 31


async def test_what_an_agent_raises_ends_no_actor(tmp_path: Path, autojump_clock: MockClock) -> None:
    """There is nobody at a terminal where it is."""

    async def agent(conversation: wspool.Conversation, task: dict[str, Any]) -> object:
        raise (KeyboardInterrupt, SystemExit, GeneratorExit)[int(task["input"][-1]) % 3]

    async with open_server(Echo(), port=None) as server:
        here = Here(parts(server, 2, Limits(), agent), {})
        summary = await run(server, tmp_path, 9, 2, here=here)

    assert (9, 0, None, 2) == (summary.failed, summary.owed, summary.problem, here.begun)


async def test_an_actor_that_crashes_says_so(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """Its block has the reason, and nobody waits for its tasks."""

    async def agent(conversation: wspool.Conversation, task: dict[str, Any]) -> object:
        return await conversation.respond("a")

    async def hold(self: Holder, task: Task) -> Held:
        await trio.lowlevel.checkpoint()
        raise AssertionError("bug")

    monkeypatch.setattr(Holder, "hold", hold)
    async with open_server(Echo(), port=None) as server:
        (part,) = parts(server, 1, Limits(), agent)
        block = Residence(part)
        exchange = await block.enter()
        assert await exchange(Orders(tasks=tasks(1), pause=1)) is None
        with pytest.RaisesGroup(AssertionError, flatten_subgroups=True, allow_unwrapped=True):
            await block.leave()


@pytest.mark.network
def test_a_process_is_told_by_calls_that_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has its pool from the first until it shall end, and finds modules where they were found."""
    paths = [*sys.path]
    monkeypatch.setattr("sys.path", [*paths])
    with local_server() as server:
        policy, method = wspool.PoolPolicy(max_size=2, min_idle=0), Method(defaults={"model": "m"})
        job = pickle.dumps(partial(open_part, {"url": server.url}, policy, method, Limits()))
        process = Process("/there/is/none", [sys.path[0], "/modules"], job)
        orders, ended = Orders(tasks=tasks(3), tokens=range(3)), set[str]()
        while len(ended) < 3:
            report = process.exchange(orders)
            assert report is not None
            ended |= report.ended.keys()
            orders = Orders()
        assert process.exchange(Orders(end=True)) is None

    assert {"0", "1", "2"} == ended
    assert ["/modules"] == sys.path[len(paths) :]


# -- a program's run ----------------------------------------------------------------------------------------


def test_what_a_program_says() -> None:
    """Of how tasks are done and what they may take: as the command has it."""

    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    budget = wspool.Budget(max_tokens=9, max_cost=1.0, price=(1, 1, 1))
    budget.spent = Usage(5)
    method = Method.of(None, [add], "number", "m")

    assert Limits() == Limits.of(None)
    assert Limits(max_tokens=9, max_cost=1.0, price=(1, 1, 1)) == Limits.of(budget)
    assert (["add"], {"model": "m"}) == (list(method.tools), method.defaults)
    assert method.scorer is not None
    assert method.scorer.function is SCORES["number"]
    assert ("proven", 2) == (method.policy(7).replay, method.retries)
    assert (7, math.inf, math.inf) == (
        method.policy(7).max_size,
        method.policy(7).refusal_patience,
        method.policy(7).give_up_after,
    )


async def _agent(conversation: wspool.Conversation, task: object) -> object:
    return await conversation.respond("a")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"score": "exactly"}, "score='exactly' must be a function or one of exact, number, contains"),
        ({"score": lambda text: 1.0}, "cannot be called: it takes 'text'; there are answer,"),
        ({"agent": _agent, "tools": [tasks]}, "agent= and tools= both say"),
        ({"tools": [lambda a: a]}, "a tool cannot be called '<lambda>'"),
    ],
)
def test_what_a_program_says_must_be_usable(said: dict[str, Any], words: str) -> None:
    """It is told before anything is begun."""
    with pytest.raises((TypeError, ValueError), match=re.escape(words)):
        Method.of(**{"agent": None, "tools": (), "score": None, "model": "m"} | said)


@pytest.mark.parametrize(("retries", "replay"), [(0, "proven"), (2, "always")])
def test_the_pool_takes_turns_of_an_agent_again(retries: int, replay: str) -> None:
    """Unless none shall be, and those as often as is said."""
    assert replay == Method(agent=_agent, retries=retries).policy(7).replay
    assert Method(agent=_agent, retries=99).policy(7).max_resends == 99


def test_what_is_owed_is_run(tmp_path: Path) -> None:
    """And where others have their results nothing is."""
    told: list[str] = []

    async def main(owed: Sequence[Task], results: ResultFile, tally: Tally) -> Summary:
        await trio.lowlevel.checkpoint()
        told.extend(task.id for task in owed)
        for task in owed:
            results.append({"id": task.id, "outcome": "done", "digest": task.digest})
        return Summary(tasks=len(owed), max_connections=1)

    run_owed(tasks(2), tmp_path, main)
    run_owed(tasks(3), tmp_path, main)
    assert ["0", "1", "2"] == told

    (other,) = tasks(1)
    with pytest.raises(ValueError, match="are of others: tasks that have changed since: '0'; use another"):
        run_owed([attrs.evolve(other, source={"input": "b"})], tmp_path, main)
    (tmp_path / "results.jsonl").write_text("no\n")
    with pytest.raises(ValueError, match="not a result"):
        run_owed(tasks(3), tmp_path, main)
    assert ["0", "1", "2"] == told
