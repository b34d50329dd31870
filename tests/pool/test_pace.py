"""Refusals that are waited out: turns keep a common pace, none fails for the endpoint's trouble, and it is
not asked more than it must be."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from tests.helpers import (
    PATIENCE,
    FakeConnector,
    FakeWire,
    completed,
    created,
    error_frame,
    fake_manager,
    fake_pool,
    policy,
)
from wspool import Pool, PoolPolicy, RateLimitedError, ResponseFailedError
from wspool.core.sending.pace import TROUBLE, Pace, Ticket
from wspool.pool.open import at_pace

OVERLOADED = error_frame("server_is_overloaded", 503)
RATE = error_frame("rate_limit_exceeded", 429)


def put_off(code: str, **more: Any) -> dict[str, Any]:
    """The end of a response that was created, and then was not made."""
    response = {"status": "failed", "output": [], "error": {"code": code, "message": "Later."}}
    return {"type": "response.failed", "response": response | more}


#: Steps of tasks that no test here needs: the longest takes 70,000.
MANY = 400_000


class StepCounter(trio.abc.Instrument):
    """Cancels *scope* after many steps, since no deadline comes while tasks go round in circles."""

    def __init__(self, scope: trio.CancelScope) -> None:
        self.steps = 0
        self._scope = scope

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps += 1
        if self.steps == MANY:
            self._scope.cancel()


@asynccontextmanager
async def paced_pool(connector: FakeConnector, *, limits: PoolPolicy | None = None) -> AsyncGenerator[Pool]:
    """A pool, as `fake_pool`; where its turns do not come to an end the test says so, and soon."""
    began = trio.current_time()
    with trio.CancelScope() as scope:
        counter = StepCounter(scope)
        trio.lowlevel.add_instrument(counter)
        try:
            async with fake_pool(connector, limits=limits) as pool:
                yield pool
        except trio.TooSlowError:
            raise AssertionError(f"the turns are not over after {PATIENCE:g} s (virtual)") from None
        finally:
            trio.lowlevel.remove_instrument(counter)
    if scope.cancelled_caught:
        seconds = trio.current_time() - began
        raise AssertionError(f"the turns go round in circles: {MANY} steps within {seconds:.0f} s (virtual)")


class Endpoint:
    """Answers after a second what *refuses* does not refuse.

    Attributes:
        requests: how many came.
        refused: how many were refused.
        at_once: how many were at work at once at most.
    """

    def __init__(self, refuses: Callable[[Endpoint], dict[str, Any] | None], nursery: trio.Nursery) -> None:
        self.requests = self.refused = self.running = self.at_once = 0
        self._refuses = refuses
        self._nursery = nursery
        self.began = trio.current_time()

    @property
    def now(self) -> float:
        return trio.current_time() - self.began

    def answer(self, wire: FakeWire, request: dict[str, Any]) -> None:
        self.requests += 1
        if (error := self._refuses(self)) is not None:
            self.refused += 1
            if error["type"] == "response.failed":
                name = f"off_{self.requests}"
                wire.push(created(name))
                error = error | {"response": error["response"] | {"id": name}}
            wire.push(error)
            return
        self.running += 1
        self.at_once = max(self.at_once, self.running)
        self._nursery.start_soon(self._finish, wire, f"resp_{self.requests}")

    async def _finish(self, wire: FakeWire, name: str) -> None:
        wire.push(created(name))
        await trio.sleep(1)
        self.running -= 1
        wire.push(completed(name))


async def greet(pool: Pool) -> None:
    """One conversation of one turn."""
    async with pool.conversation(model="m") as talk:
        await talk.respond("hello")


async def hold(
    refuses: Callable[[Endpoint], dict[str, Any] | None],
    *,
    tasks: int = 300,
    workers: int = 64,
    turns: int = 2,
    patience: float | None = float("inf"),
) -> tuple[Endpoint, int]:
    """Hold so many conversations; return the endpoint and how many turns failed."""
    failed = 0
    async with trio.open_nursery() as nursery:
        endpoint = Endpoint(refuses, nursery)
        limits = policy(max_size=workers, refusal_patience=patience)
        async with paced_pool(FakeConnector(endpoint.answer), limits=limits) as pool:
            limiter = trio.CapacityLimiter(workers)

            async def one(pool: Pool) -> None:
                nonlocal failed
                async with limiter, pool.conversation(model="m") as talk:
                    for _ in range(turns):
                        try:
                            await talk.respond("hello")
                        except ResponseFailedError:
                            failed += 1

            async with trio.open_nursery() as agents:
                for _ in range(tasks):
                    agents.start_soon(one, pool)
            assert pool.statistics().at_work == 0
        nursery.cancel_scope.cancel()
    return endpoint, failed


@pytest.mark.parametrize("seconds", [0.3, 1, 8, 60, 3600])
@pytest.mark.parametrize(
    "error",
    [OVERLOADED, RATE, put_off("server_is_overloaded"), put_off("rate_limit_exceeded")],
    ids=["503", "429", "created-503", "created-429"],
)
async def test_an_outage_of_any_length_fails_no_turn(
    autojump_clock, seconds: float, error: dict[str, Any]
) -> None:
    endpoint, failed = await hold(lambda e: error if 3 < e.now < 3 + seconds else None)
    assert failed == 0
    assert endpoint.requests - endpoint.refused == 600
    assert endpoint.refused <= 60 + 20 + seconds / 15


async def test_without_patience_they_fail_as_before(autojump_clock) -> None:
    _, failed = await hold(lambda e: OVERLOADED if 3 < e.now < 63 else None, patience=None)
    assert failed > 100


@pytest.mark.parametrize(
    "error",
    [
        put_off("server_is_overloaded", output=[{"type": "message", "id": "m", "role": "assistant"}]),
        put_off("rate_limit_exceeded", usage={"input_tokens": 9, "output_tokens": 0, "total_tokens": 9}),
        put_off("server_error"),
        put_off("model_not_found"),
        put_off(""),
    ],
    ids=["made", "paid", "its-own", "permanent", "silent"],
)
async def test_what_was_begun_or_may_be_its_own_trouble_is_told_at_once(
    autojump_clock, error: dict[str, Any]
) -> None:
    endpoint, failed = await hold(lambda e: error, tasks=4)
    assert (8, 8) == (failed, endpoint.refused)


async def test_without_patience_what_was_put_off_is_told_at_once(autojump_clock) -> None:
    endpoint, failed = await hold(lambda e: put_off("rate_limit_exceeded"), tasks=4, patience=None)
    assert (8, 8) == (failed, endpoint.refused)


async def test_whoever_takes_its_events_is_given_the_end(autojump_clock) -> None:
    """What was shown is not followed by another answer; but those after it wait, as after any refusals."""
    async with trio.open_nursery() as nursery:
        endpoint = Endpoint(
            lambda e: put_off("rate_limit_exceeded") if e.requests <= TROUBLE else None, nursery
        )
        async with (
            paced_pool(FakeConnector(endpoint.answer), limits=policy(refusal_patience=math.inf)) as pool,
            pool.conversation(model="m") as talk,
        ):
            for number in range(TROUBLE):
                async with talk.turn("hello") as turn:
                    assert ["response.created", "response.failed"] == [event.type async for event in turn]
                    assert ("failed", 1 + number) == (turn.response.status, endpoint.requests)
            held, began = pool.statistics().held, trio.current_time()
            assert held > 0.1
            await talk.respond("again")
            assert trio.current_time() - began >= held
            assert 1 + TROUBLE == endpoint.requests
        nursery.cancel_scope.cancel()


async def test_a_day_of_it(autojump_clock) -> None:
    """A minute up, two hours down, all day."""
    endpoint, failed = await hold(
        lambda e: RATE if e.now % 7260 > 60 else None, tasks=210, workers=2, turns=5, patience=86_400
    )
    assert failed == 0
    assert endpoint.now >= 15 * 3600
    assert endpoint.refused <= endpoint.now / 15  # a try in half a minute, of which half is jitter


async def test_a_hidden_limit_is_found_used_and_kept(autojump_clock) -> None:
    """It rises to three times as much after a while, and there is no word of it."""
    low, high, rises = 20, 60, 40.0

    def refuses(endpoint: Endpoint) -> dict[str, Any] | None:
        return RATE if endpoint.running >= (low if endpoint.now < rises else high) else None

    endpoint, failed = await hold(refuses, tasks=1000, turns=2)
    assert failed == 0
    assert endpoint.refused <= 0.02 * endpoint.requests
    assert endpoint.now <= rises + (2000 - rises * low) / high + 15  # a round is a second


async def test_a_fast_endpoint_is_used_from_the_start(autojump_clock) -> None:
    """Room doubles with each round: 16, 32, 64, and then all that there may be."""
    endpoint, failed = await hold(lambda e: None, tasks=384, workers=128, turns=1)
    assert (0, 128) == (failed, endpoint.at_once)
    assert endpoint.now < 6


async def test_a_wait_that_is_asked_for_is_told(autojump_clock) -> None:
    asked = {**RATE, "error": {**RATE["error"], "headers": {"retry-after": "120"}}}
    seen: list[tuple[float, str]] = []

    async def watch(pool: Pool) -> None:
        await trio.sleep(2)
        statistics = pool.statistics()
        seen.append((statistics.held, statistics.held_for))

    connector = FakeConnector()
    async with trio.open_nursery() as nursery:
        endpoint = Endpoint(lambda e: asked if e.requests == 1 else None, nursery)
        connector.on_request = endpoint.answer
        async with paced_pool(connector, limits=policy(refusal_patience=600)) as pool:
            nursery.start_soon(watch, pool)
            async with pool.conversation(model="m") as talk:
                await talk.respond("hello")
            assert endpoint.now >= 120
            assert pool.statistics().held == 0
            assert pool.statistics().held_for == ""
    assert 110 < seen[0][0] <= 120
    assert seen[0][1] == "a rate limit"


async def test_patience_has_an_end(autojump_clock) -> None:
    began = trio.current_time()
    async with (
        paced_pool(
            FakeConnector(lambda wire, request: wire.push(RATE)), limits=policy(refusal_patience=100)
        ) as pool,
        pool.conversation(model="m") as talk,
    ):
        with pytest.raises(RateLimitedError):
            await talk.respond("hello")
    assert 60 <= trio.current_time() - began <= 140


async def test_what_cannot_pass_is_told_at_once(autojump_clock) -> None:
    spent = error_frame("insufficient_quota", 429)
    endpoint, failed = await hold(lambda e: spent, tasks=10, turns=1)
    assert (failed, endpoint.requests) == (10, 10)


async def test_retry_now_ends_the_wait(autojump_clock) -> None:
    async with trio.open_nursery() as nursery:
        endpoint = Endpoint(lambda e: OVERLOADED if e.now < 50 else None, nursery)
        async with paced_pool(FakeConnector(endpoint.answer), limits=policy(refusal_patience=1000)) as pool:

            async def lift() -> None:
                await trio.sleep(50.01)
                pool.retry_now()

            nursery.start_soon(lift)
            async with pool.conversation(model="m") as talk:
                await talk.respond("hello")
            assert endpoint.now < 52


async def test_a_cancelled_turn_leaves_its_place(autojump_clock) -> None:
    async with trio.open_nursery() as nursery:
        endpoint = Endpoint(lambda e: OVERLOADED if e.now < 20 else None, nursery)
        async with paced_pool(FakeConnector(endpoint.answer), limits=policy(refusal_patience=1000)) as pool:

            async def leave(seconds: float) -> None:
                with trio.move_on_after(seconds):
                    async with pool.conversation(model="m") as talk:
                        await talk.respond("hello")

            async with trio.open_nursery() as agents:
                for number in range(40):
                    agents.start_soon(leave, 0.1 + number * 0.7)
            assert (0, 0) == (pool.statistics().at_work, pool.statistics().suspects)
            async with pool.conversation(model="m") as talk:
                assert (await talk.respond("hello")).status == "completed"


LIMIT = 10


class Minute:
    """An endpoint that takes `LIMIT` requests a minute, and says so in one way.

    Attributes:
        requests: how many came.
        refused: how many were refused.
        taken: how many were answered, by minute.
    """

    def __init__(self, way: str) -> None:
        self.way = way
        self.requests = self.refused = 0
        self.began = trio.current_time()
        self.taken: dict[int, int] = {}

    def headers(self) -> dict[str, str]:
        minute, at = divmod(trio.current_time() - self.began, 60)
        return {
            "x-ratelimit-limit-requests": str(LIMIT),
            "x-ratelimit-remaining-requests": str(LIMIT - self.taken.get(int(minute), 0)),
            "x-ratelimit-reset-requests": f"{60 - at:.3f}s",
        }

    def prepare(self, wire: FakeWire) -> None:
        if self.way == "handshake":
            wire.headers = tuple(self.headers().items())

    def answer(self, wire: FakeWire, request: dict[str, Any]) -> None:
        self.requests += 1
        minute = int((trio.current_time() - self.began) // 60)
        if self.taken.get(minute, 0) >= LIMIT:
            self.refused += 1
            said = {"headers": self.headers()} if self.way == "refusal" else {}
            wire.push({**RATE, "error": {**RATE["error"], **said}})
            return
        self.taken[minute] = self.taken.get(minute, 0) + 1
        if self.way == "each answer":  # as the wire that speaks HTTP has them
            wire.headers = tuple(self.headers().items())
        if self.way == "event":
            wire.push({"type": "response.metadata", "headers": self.headers()})
        name = f"resp_{self.requests}"
        wire.push(created(name))
        wire.push(completed(name))


@pytest.mark.parametrize(
    ("way", "refused"), [("handshake", 0), ("each answer", 3), ("event", 3), ("refusal", 12), ("nowhere", 30)]
)
async def test_a_limit_that_is_said_is_kept_before_it_refuses(autojump_clock, way: str, refused: int) -> None:
    """Where nothing is said until the first answers, those of the first moment may be too many."""
    endpoint = Minute(way)
    connector = FakeConnector(endpoint.answer)
    connector.prepare = endpoint.prepare
    async with paced_pool(connector, limits=policy(max_size=4, refusal_patience=math.inf)) as pool:

        async def one(pool: Pool) -> None:
            for _ in range(6):
                async with pool.conversation(model="m") as talk:
                    await talk.respond("hello")

        async with trio.open_nursery() as agents:
            for _ in range(4):
                agents.start_soon(one, pool)
    assert endpoint.requests - endpoint.refused == 24
    assert endpoint.refused <= refused
    assert trio.current_time() - endpoint.began < 200


async def test_the_wait_for_a_limit_that_was_said_is_told_and_ends_with_retry_now(autojump_clock) -> None:
    endpoint = Minute("event")
    began = trio.current_time()
    async with (
        paced_pool(FakeConnector(endpoint.answer), limits=policy(refusal_patience=math.inf)) as pool,
        pool.conversation(model="m") as talk,
        trio.open_nursery() as nursery,
    ):

        async def lift() -> None:
            await trio.sleep(20)
            statistics = pool.statistics()
            assert (round(statistics.held), statistics.held_for) == (40, "a rate limit")
            endpoint.taken.clear()
            pool.retry_now()

        nursery.start_soon(lift)
        for _ in range(LIMIT + 1):
            await talk.respond("hello")
        assert trio.current_time() - began == pytest.approx(20, abs=1)
        assert (endpoint.refused, pool.statistics().held) == (0, 0)


async def test_without_patience_what_is_said_holds_nobody(autojump_clock) -> None:
    endpoint = Minute("event")
    async with paced_pool(FakeConnector(endpoint.answer)) as pool, pool.conversation(model="m") as talk:
        for _ in range(LIMIT):
            await talk.respond("hello")
        with pytest.raises(RateLimitedError):
            await talk.respond("hello")
        assert trio.current_time() - endpoint.began < 30


class Doled(Pace):
    """A pace of somebody else's, who says one by one that a turn may begin."""

    def __init__(self) -> None:
        super().__init__()
        self.given = 0

    def wait(self, now: float) -> float:
        return 0.0 if self.given else math.inf

    def begin(self, now: float) -> Ticket:
        self.given -= 1
        return super().begin(now)

    def give(self) -> None:
        assert self.line is not None
        self.given += 1
        self.line.pace_moved()


async def test_a_pace_of_somebody_elses_is_kept(autojump_clock) -> None:
    """Who keeps it is told how many wait, those for a lane as well, and each begins when it is let."""
    pace = Doled()
    async with trio.open_nursery() as nursery:
        endpoint = Endpoint(lambda e: None, nursery)
        limits = policy(max_size=2, refusal_patience=math.inf)
        async with (
            at_pace(fake_manager(FakeConnector(endpoint.answer), limits=limits), pace) as pool,
            trio.open_nursery() as agents,
        ):
            for _ in range(3):
                agents.start_soon(greet, pool)
            await trio.sleep(10)
            assert pace.line is not None
            assert (0, 3) == (endpoint.requests, pace.line.in_line)
            pace.give()
            await trio.sleep(0.5)
            assert (1, 2, 1) == (endpoint.requests, pace.line.in_line, pool.statistics().at_work)
            pace.give()
            pace.give()
            await trio.sleep(10)
            assert (3, 0, 0) == (endpoint.requests, pace.line.in_line, pool.statistics().at_work)
        nursery.cancel_scope.cancel()


class Picky:
    """Refuses what says "bad" with a 500 each time, and answers the others after a second.

    Attributes:
        bad: how often it was asked that.
    """

    def __init__(self, nursery: trio.Nursery, down: Callable[[float], bool] = lambda now: False) -> None:
        self.bad = 0
        self._nursery = nursery
        self._down = down
        self._requests = 0
        self._began = trio.current_time()

    def answer(self, wire: FakeWire, request: dict[str, Any]) -> None:
        self._requests += 1
        if self._down(trio.current_time() - self._began):
            wire.push(OVERLOADED)
        elif "bad" in str(request["input"]):
            self.bad += 1
            wire.push(error_frame("server_error", 500))
        else:
            self._nursery.start_soon(self._finish, wire, f"resp_{self._requests}")

    async def _finish(self, wire: FakeWire, name: str) -> None:
        wire.push(created(name))
        await trio.sleep(1)
        wire.push(completed(name))


@pytest.mark.parametrize(("good", "bad"), [(3, 1), (300, 1), (300, 5)])
async def test_what_the_endpoint_stumbles_over_holds_nobody_up(autojump_clock, good: int, bad: int) -> None:
    """However many others there are: those are done, and it fails, after a few tries.

    Of one that is left when all others are done nobody could say whose trouble it is: one agent goes on.
    """
    failed: list[str] = []
    times: list[float] = []
    async with trio.open_nursery() as nursery:
        endpoint = Picky(nursery)
        limits = policy(max_size=4, refusal_patience=math.inf)
        async with paced_pool(FakeConnector(endpoint.answer), limits=limits) as pool:

            async def one(text: str) -> None:
                async with pool.conversation(model="m") as talk:
                    try:
                        await talk.respond(text)
                        times.append(trio.current_time() - began)
                    except ResponseFailedError as error:
                        failed.append(f"{text}: {error.code}")

            async def steady() -> None:
                async with pool.conversation(model="m") as talk:
                    while len(failed) < bad:
                        await talk.respond("good")

            began = trio.current_time()
            async with trio.open_nursery() as agents:
                half = ["good"] * (good // 2)
                bads = [f"bad {number}" for number in range(bad)]
                for text in [*half, *bads, *half, *["good"] * (good % 2)]:
                    agents.start_soon(one, text)
                agents.start_soon(steady)
            # In trouble one tries each half minute: that agent, too, waits for those before it.
            assert trio.current_time() - began < good / 4 + 180 + 30 * bad
        nursery.cancel_scope.cancel()
    assert [f"{text}: server_error" for text in bads] == sorted(failed)
    assert max(times) < good / 4 + 20
    assert endpoint.bad <= 60 * bad


async def test_an_outage_is_nobodys_fault(autojump_clock) -> None:
    """Also where one turn was refused before: that is given up, and those that meet the outage wait."""
    failed: list[str] = []
    async with trio.open_nursery() as nursery:
        endpoint = Picky(nursery, lambda now: 20 < now < 7200)
        limits = policy(max_size=4, refusal_patience=math.inf)
        async with paced_pool(FakeConnector(endpoint.answer), limits=limits) as pool:

            async def one(text: str) -> None:
                async with pool.conversation(model="m") as talk:
                    try:
                        await talk.respond(text)
                    except ResponseFailedError:
                        failed.append(text)

            async def steady() -> None:
                while not failed:
                    await one("good")

            async with trio.open_nursery() as agents:
                agents.start_soon(one, "bad")
                for _ in range(200):
                    agents.start_soon(one, "good")
                agents.start_soon(steady)
        nursery.cancel_scope.cancel()
    assert ["bad"] == failed


async def test_it_is_said_for_how_long_nobody_can_tell(autojump_clock) -> None:
    """Not while one is answered, nor when the endpoint says that it is its own trouble."""
    said: list[tuple[int, int]] = []
    refuse, refused = error_frame("server_error", 500), error_frame("service_unavailable", 503)

    def refuses(endpoint: Endpoint) -> dict[str, Any] | None:
        return refuse if endpoint.now < 1000 else refused if endpoint.now < 2000 else None

    async with trio.open_nursery() as nursery:
        endpoint = Endpoint(refuses, nursery)
        async with (
            paced_pool(FakeConnector(endpoint.answer), limits=policy(refusal_patience=math.inf)) as pool,
            trio.open_nursery() as agents,
        ):
            for _ in range(3):
                agents.start_soon(greet, pool)
            for _ in range(5):
                await trio.sleep(499)
                statistics = pool.statistics()
                said.append((round(statistics.unclear), statistics.suspects))
        nursery.cancel_scope.cancel()
    assert [(499, 3), (998, 3), (0, 3), (0, 3), (0, 0)] == said


async def test_whoever_was_let_go_for_a_lane_keeps_its_place(autojump_clock) -> None:
    """Who finds trouble on the lane that it waited for goes on before those who came meanwhile."""
    asked: list[str] = []
    connector = FakeConnector()

    async def refuse(wire: FakeWire, seconds: float) -> None:
        await trio.sleep(seconds)
        wire.push(OVERLOADED)
        if len(asked) == TROUBLE:
            connector.hold()
            wire.hang_up()

    async with trio.open_nursery() as nursery:

        def answer(wire: FakeWire, request: dict[str, Any]) -> None:
            asked.append(request["input"][0]["content"][0]["text"])
            if len(asked) <= TROUBLE + 1:
                nursery.start_soon(refuse, wire, 1 if len(asked) <= TROUBLE else 10)
            else:
                wire.push(created(f"resp_{len(asked)}"), completed(f"resp_{len(asked)}"))

        connector.on_request = answer
        connector.hold()
        limits = policy(max_size=1, refusal_patience=math.inf)
        async with paced_pool(connector, limits=limits) as pool, trio.open_nursery() as agents:

            async def one(text: str) -> None:
                async with pool.conversation(model="m") as talk:
                    await talk.respond(text)

            for number in range(6):
                agents.start_soon(one, f"early {number}")
                await trio.sleep(0.01)
            connector.release()
            await trio.sleep(30)
            connector.release()
            await trio.sleep(5)
            assert len(asked) == TROUBLE + 1, "one of them tries"
            agents.start_soon(one, "late")
    assert "late" == list(dict.fromkeys(asked))[-1]
