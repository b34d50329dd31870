"""A run that shall finish what runs, while the endpoint has a bad day: what it keeps waiting is owed."""

import re
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import attrs
import pytest
import trio
from trio.testing import MockClock

import wspool
from tests.helpers import FakeConnector, FakeWire, completed, created, error_frame, fake_pool, policy, refused
from tests.rollout.batches import run_batch
from wspool.rollout.checkpoints import Checkpoints, open_checkpoints
from wspool.rollout.limits import Limits
from wspool.rollout.method import Agent, Method
from wspool.rollout.shapes import Columns, task_of
from wspool.rollout.summary import Meter, Summary
from wspool.rollout.tasks import Task
from wspool.wire.wire import ConnectError

#: When the endpoint begins to refuse, when the run shall end, and when the turn ends that still runs, in
#: seconds.
REFUSES, ENDS, ANSWERS = 5.0, 50.0, 300.0
#: What a turn takes.
TURN: Final = 1.0


def limited(**headers: str) -> dict[str, Any]:
    return error_frame("rate_limit_exceeded", 429, headers=headers)


def dead(wire: FakeWire) -> None:
    """The connection ends, before anything of the turn has run."""
    wire.push(error_frame("websocket_connection_limit_reached"))
    wire.hang_up()


@attrs.frozen
class Day:
    """How the endpoint has a bad day: what it does with a request, and with a dial; and what a run says.

    And what it has said before, with an answer.
    """

    refuse: Callable[[FakeWire], object]
    words: str
    dial: Callable[[], BaseException] | None = None
    said: Mapping[str, str] | None = None


def says(frame: Mapping[str, Any]) -> Callable[[FakeWire], object]:
    return lambda wire: wire.push(frame)


DAYS: Final = {
    "429 for an hour": Day(says(limited(**{"Retry-After": "3600"})), "a rate limit"),
    "429 without a word": Day(says(limited()), "a rate limit"),
    "503": Day(says(error_frame("server_is_overloaded", 503)), "server_is_overloaded: no"),
    "503 for an hour": Day(
        says(error_frame("server_is_overloaded", 503, headers={"Retry-After": "3600"})),
        "server_is_overloaded: no",
    ),
    "500": Day(says(error_frame("server_error", 500)), "server_error: no"),
    "nobody is there": Day(dead, "a connection", lambda: ConnectError("refused", phase="tcp")),
    "refused handshakes": Day(dead, "a connection", lambda: refused(503)),
    "refused for an hour": Day(dead, "a connection", lambda: refused(429, [("Retry-After", "3600")])),
    "it takes no more, it says": Day(
        says(limited()),
        "a rate limit",
        said={
            "x-ratelimit-limit-requests": "100",
            "x-ratelimit-remaining-requests": "0",
            "x-ratelimit-reset-requests": "3600s",
        },
    ),
    "dials that hang": Day(dead, "a connection", lambda: ConnectError("late", phase="tcp", timed_out=True)),
}


def tasks(*names: str) -> list[Task]:
    return [
        attrs.evolve(task_of({"id": f"{name} {n}", "input": name}, Columns()), id=f"{name} {n}")
        for n, name in enumerate(names)
    ]


class World:
    """An endpoint, and a run of tasks on it.

    Tasks are named for what becomes of them: `paid` have taken a turn when the endpoint begins to refuse,
    `new` have not; `slow` has one in flight until `ANSWERS`; `last` one until `ENDS`, which is why the run
    shall end.
    """

    def __init__(self, day: Day, *, spoils: int = 0) -> None:
        self.day, self.spoils = day, spoils
        self.lines: list[Mapping[str, Any]] = []
        self.connector = FakeConnector(self._answer)
        self.asked = 0

    def _answer(self, wire: FakeWire, request: dict[str, Any]) -> None:
        self.asked += 1
        self.nursery.start_soon(self._later, wire, str(request["input"]), self.asked)

    async def _later(self, wire: FakeWire, asked: str, number: int) -> None:
        at = trio.current_time() - self.began
        if at >= REFUSES:
            self.connector.failure = self.day.dial
            self.day.refuse(wire)
            return
        name = f"resp_{number}"
        wire.push(created(name))
        until = {"slow": ANSWERS, "last": ENDS}
        await trio.sleep(max(TURN, next((end for who, end in until.items() if who in asked), 0.0) - at))
        if self.day.said is not None:
            wire.push({"type": "response.metadata", "headers": self.day.said})
        event = completed(name)
        if "tool" in asked:
            event["response"]["output"] = [
                {"type": "function_call", "call_id": "c", "name": "work", "arguments": "{}"}
            ]
        event["response"]["usage"] = {"input_tokens": self.spoils if "last" in asked else 0}
        wire.push(event)

    async def agent(self, conversation: wspool.Conversation, task: dict[str, Any]) -> object:
        what = task["input"]
        if what == "new":
            await trio.sleep(2 * REFUSES)
        await conversation.respond(what)
        if what == "last":
            if self.spoils:
                return "well"
            raise ValueError("spoilt")
        if what == "paid":
            await trio.sleep(2 * REFUSES)
            await conversation.respond(what)
        return "well"

    async def run(
        self,
        *names: str,
        agent: Agent | None = None,
        connections: int = 8,
        checkpoints: Checkpoints | None = None,
        **limits: Any,
    ) -> Summary:
        meter, self.began = Meter(), trio.current_time()
        patient = policy(max_size=connections, refusal_patience=float("inf"), give_up_after=float("inf"))
        async with trio.open_nursery() as self.nursery:
            async with fake_pool(self.connector, limits=patient, instrument=meter) as pool:
                summary = await run_batch(
                    pool,
                    tasks(*names),
                    Method(agent=agent or self.agent, defaults={"model": "m"}),
                    meter=meter,
                    sink=self.lines.append,
                    checkpoints=checkpoints,
                    limits=Limits(**limits),
                    quiet=True,
                )
            self.nursery.cancel_scope.cancel()
        return summary

    def ended(self) -> dict[str, list[str]]:
        """What has a result, by outcome."""
        found: dict[str, list[str]] = {}
        for line in self.lines:
            found.setdefault("failed" if line["error"] else "done", []).append(str(line["id"]))
        return found


async def _interrupt() -> None:
    await trio.sleep(ENDS)
    signal.raise_signal(signal.SIGTERM)


REASONS: Final[dict[str, dict[str, Any]]] = {
    "signal": {},
    "max_seconds": {"max_seconds": ENDS},
    "max_tokens": {"max_tokens": 1000},
    "max_cost": {"max_cost": 1.0, "price": (1000.0, 0.0, 0.0)},
    "max_errors": {"max_errors": 1},
}


@pytest.mark.parametrize("reason", REASONS)
@pytest.mark.parametrize("day", DAYS)
async def test_what_the_endpoint_keeps_waiting_is_owed(
    day: str, reason: str, autojump_clock: MockClock
) -> None:
    """Whatever ends the run, and however the endpoint refuses: it ends within moments, and says what it was.

    Where a turn still runs it is waited for, and nothing else.
    """
    for slow in (False, True) if reason == "signal" else (False,):
        world = World(DAYS[day], spoils=1000 if reason in ("max_tokens", "max_cost") else 0)
        names = ["paid", "paid", "new", *(["slow"] if slow else []), "last"]
        async with trio.open_nursery() as nursery:
            if reason == "signal":
                nursery.start_soon(_interrupt)
            summary = await world.run(*names, **REASONS[reason])
            took = trio.current_time() - world.began

        ends = ANSWERS if slow else ENDS
        assert ends <= took < ends + 7
        ended = world.ended()
        well = [f"slow {3}"] if slow else []
        spoilt = world.spoils == 0
        assert ended.get("done", []) == ([] if spoilt else [f"last {len(names) - 1}"]) + well
        assert len(ended.get("failed", [])) == spoilt
        assert summary.owed == 3
        assert summary.interrupted == (reason == "signal")
        assert summary.problem is not None
        # Who has sent nothing is put back as ever, and whom the endpoint lets try finds the budget spent.
        told = re.search(r"(\d) of those that ran waited for (.+) and were put back", summary.problem)
        assert told is not None
        assert told[2] == DAYS[day].words
        assert told[1] == "3" or DAYS[day].said or world.spoils
        assert (";" in summary.problem) == (reason != "signal")


async def test_a_moment_costs_nobody_turns_that_were_paid(autojump_clock: MockClock) -> None:
    """What has taken turns is left to wait for some seconds: many refusals are over by then."""
    world = World(attrs.evolve(DAYS["429 for an hour"], refuse=says(limited(**{"Retry-After": "3"}))))

    async def agent(conversation: wspool.Conversation, task: dict[str, Any]) -> object:
        await conversation.respond("paid")
        await trio.sleep(REFUSES)
        return (await conversation.respond("paid")).output_text

    async def recover() -> None:
        await trio.sleep(REFUSES + 2)
        world.day = attrs.evolve(world.day, refuse=lambda wire: wire.push(created("a"), completed("a")))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(recover)
        summary = await world.run("a", "b", agent=agent, max_seconds=REFUSES + 2)

    assert (summary.done, summary.owed, summary.problem) == (2, 0, None)


async def test_what_is_kept_is_not_waited_for(autojump_clock: MockClock, tmp_path: Path) -> None:
    """Turns that were written down are not lost."""
    world = World(DAYS["429 without a word"])
    with open_checkpoints(tmp_path, tasks("paid")) as checkpoints:
        summary = await world.run("paid", checkpoints=checkpoints, max_seconds=3 * REFUSES)

    assert summary.owed == 1
    assert 3 * REFUSES <= summary.seconds < 3 * REFUSES + 1


@pytest.mark.parametrize("asks", ["tool", "slow"])
async def test_what_a_branch_has_at_work_is_waited_for(asks: str, autojump_clock: MockClock) -> None:
    """A tool has effects, and a turn is paid; then the task is owed."""
    world, ends = World(DAYS["429 for an hour"]), list[float]()

    @wspool.tool
    async def work() -> str:
        """Work."""
        await trio.sleep(ANSWERS)
        return "well"

    async def agent(conversation: wspool.Conversation, task: dict[str, Any]) -> object:
        def look(event: wspool.Event) -> None:
            if event.type == "response.completed":
                ends.append(trio.current_time() - world.began)

        async def branch() -> None:
            async with conversation.fork() as branch:
                await branch.run(asks, tools=[work], on_event=look)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(branch)
            await trio.sleep(2 * REFUSES)
            await conversation.respond("paid")
        return "well"

    summary = await world.run("a", agent=agent, max_seconds=ENDS)

    assert summary.owed == 1
    assert ends == [ANSWERS if asks == "slow" else TURN]
    assert ANSWERS <= trio.current_time() - world.began < ANSWERS + 20


async def test_whoever_has_a_lane_to_wait_for_goes_on(autojump_clock: MockClock) -> None:
    """Where the endpoint is well the line moves: what has taken a turn comes to its end."""
    in_flight: list[FakeWire] = []

    def late(wire: FakeWire) -> None:
        wire.push(created("late"))
        in_flight.append(wire)
        world.day = attrs.evolve(world.day, refuse=lambda wire: wire.push(created("a"), completed("a")))

    world = World(attrs.evolve(DAYS["500"], refuse=late))

    async def agent(conversation: wspool.Conversation, task: dict[str, Any]) -> object:
        await conversation.respond("first")
        await trio.sleep(ENDS / 2)
        await conversation.respond("second")
        return "well"

    async def answer() -> None:
        await trio.sleep(ANSWERS)
        in_flight[0].push(completed("late"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        summary = await world.run("a", "b", agent=agent, connections=1, max_seconds=ENDS)

    assert len(in_flight) == 1
    assert (summary.done, summary.owed, summary.problem) == (2, 0, None)
    assert trio.current_time() - world.began == ANSWERS
