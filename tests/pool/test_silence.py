"""Silence: a turn of which nothing comes for too long is given up, and what is known of it is told."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import trio

import wspool
from tests.helpers import FakeConnector, FakeWire, Recorder, completed, created, delta, fake_pool, policy

NOTICES = (
    {"type": "keepalive"},
    {"type": "keepalive", "sequence_number": 1},
    {"type": "x:keep_alive"},
    "",
    " ",
)


class Slow:
    """Answers with pauses: (seconds before, what comes then) for each event."""

    def __init__(self, *steps: tuple[float, Any]) -> None:
        self.steps = steps
        self.nursery: trio.Nursery | None = None

    def __call__(self, wire: FakeWire, request: dict[str, Any]) -> None:
        assert self.nursery is not None
        self.nursery.start_soon(self._play, wire)

    async def _play(self, wire: FakeWire) -> None:
        for seconds, event in self.steps:
            await trio.sleep(seconds)
            if wire.open:
                wire.push(event)


@contextlib.asynccontextmanager
async def slow_pool(*steps: tuple[float, Any], instrument: wspool.Instrument | None = None, **limits: Any):
    slow = Slow(*steps)
    connector = FakeConnector(slow)
    async with trio.open_nursery() as slow.nursery:
        async with fake_pool(
            connector, limits=policy(**limits), instrument=instrument or wspool.Instrument()
        ) as pool:
            yield pool
        slow.nursery.cancel_scope.cancel()


WHOLE = ((4.0, created("r")), (6.0, delta("a")), (6.0, delta("b")), (6.0, completed("r", "ab")))


@pytest.mark.parametrize("limits", [{}, {"first_event_timeout": 5.0}, {"silence_timeout": 7.0}])
async def test_within_its_limits_a_turn_goes_on(limits: dict[str, Any], autojump_clock) -> None:
    """However long it takes all in all; the pause before it begins is not that between its events."""
    async with slow_pool(*WHOLE, **limits) as pool, pool.conversation(model="m") as conversation:
        assert "ab" == (await conversation.respond("x")).output_text
        await trio.sleep(200)  # and nothing of it is left

        assert (1, {}) == (pool.statistics().dialed, pool.statistics().closed)


@pytest.mark.parametrize("bare", [True, False])
@pytest.mark.parametrize("streamed", [True, False])
async def test_a_response_that_does_not_begin(bare: bool, streamed: bool, autojump_clock) -> None:
    """It may run all the same: `ambiguous`, not sent again, its connection hung up."""
    recorder = Recorder()
    async with slow_pool(*WHOLE, instrument=recorder, first_event_timeout=3.0, silence_timeout=60.0) as pool:
        began = trio.current_time()
        with pytest.raises(wspool.TurnTimeoutError, match=r"first_event_timeout=3 s") as caught:
            await ask(pool, bare=bare, streamed=streamed)

        assert 3.0 == pytest.approx(trio.current_time() - began)
        error = caught.value
        assert ("ambiguous", None, ()) == (error.delivery, error.response_id, error.events)
        assert isinstance(error, (trio.BrokenResourceError, trio.TooSlowError))
        assert {"dirty": 1} == pool.statistics().closed
        assert [("lost", "ambiguous", 1)] == [
            (each.status, each.delivery, each.requests) for each in recorder.records
        ]


@pytest.mark.parametrize("bare", [True, False])
@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("notice", NOTICES)
async def test_a_response_that_falls_silent(bare: bool, streamed: bool, notice: Any, autojump_clock) -> None:
    """What comes by a timer of the server is no life of the response: `accepted`, with what came before."""
    ticks = [(1.0, notice)] * 200
    async with slow_pool((1.0, created("r")), (1.0, delta("a")), *ticks, silence_timeout=9.0) as pool:
        began = trio.current_time()
        with pytest.raises(wspool.TurnTimeoutError, match=r"silence_timeout=9 s") as caught:
            await ask(pool, bare=bare, streamed=streamed)

        assert 11.0 == pytest.approx(trio.current_time() - began)
        assert ("accepted", "r") == (caught.value.delivery, caught.value.response_id)
        assert 2 <= len(caught.value.events)


async def ask(pool: wspool.Pool, *, bare: bool, streamed: bool) -> None:
    async with contextlib.AsyncExitStack() as stack:
        if bare:
            lease = await stack.enter_async_context(pool.lease())
            turn = await stack.enter_async_context(lease.create(model="m", input="x"))
        else:
            conversation = await stack.enter_async_context(pool.conversation(model="m"))
            turn = await stack.enter_async_context(conversation.turn("x"))
        if streamed:
            async for _ in turn:
                pass
        else:
            await turn.result()


async def test_what_may_be_sent_again_is(autojump_clock) -> None:
    """By the rules of every loss: here the caller has allowed that it runs twice."""
    wires: list[FakeWire] = []

    def answer(wire: FakeWire, request: dict[str, Any]) -> None:
        wires.append(wire)
        if len(wires) > 1:
            wire.push(created("r"), completed("r"))

    limits = policy(first_event_timeout=3.0, replay="always")
    async with fake_pool(FakeConnector(answer), limits=limits) as pool, pool.conversation(model="m") as talk:
        assert "ok" == (await talk.respond("x")).output_text

    assert wires[0] is not wires[1]


async def test_a_slow_consumer_is_not_the_servers_silence(autojump_clock) -> None:
    """While reading waits for whoever reads, nothing can be heard."""
    async with (
        slow_pool(
            (0.0, created("r")),
            (0.0, delta("x" * 2000)),
            (2.0, delta("y")),
            (0.0, completed("r", "xy")),
            silence_timeout=5.0,
            max_buffered=1000,
        ) as pool,
        pool.lease() as lease,
        lease.create(model="m", input="x") as turn,
    ):
        await trio.sleep(60)
        assert "xy" == (await turn.result()).output_text


async def test_a_busy_program_is_not_the_servers_silence(autojump_clock) -> None:
    """What came while nothing else could run is read before anything is given up."""
    async with (
        slow_pool((1.0, created("r")), silence_timeout=5.0) as pool,
        pool.lease() as lease,
        lease.create(model="m", input="x") as turn,
    ):
        await trio.sleep(2)
        connection = next(iter(pool._shell._connections.values()))
        wire = connection.link.wire
        assert isinstance(wire, FakeWire)
        autojump_clock.jump(30)
        wire.push(completed("r"))
        assert "ok" == (await turn.result()).output_text


async def test_turns_side_by_side_have_limits_of_their_own(autojump_clock) -> None:
    """Where lanes share a connection the silent one is drained, and costs its siblings nothing."""

    def answer(wire: FakeWire, request: dict[str, Any]) -> None:
        name = request["stream_id"]
        if request["input"] != "silent":
            own = f"{name}_{len(wire.sent)}"
            wire.push(*({**each, "stream_id": name} for each in (created(own), completed(own))))

    limits = policy(max_size=1, lanes=2, first_event_timeout=3.0, drain_timeout=30.0)
    async with fake_pool(FakeConnector(answer), limits=limits, provider=wspool.OPENAI) as pool:
        async with pool.lease() as lease, lease.create(model="m", input="x") as turn:
            await turn.result()
        async with pool.lease() as one, pool.lease() as two:
            async with one.create(model="m", input="silent") as silent:
                with pytest.raises(wspool.TurnTimeoutError):
                    await silent.result()
            async with two.create(model="m", input="x") as turn:
                assert "completed" == (await turn.result()).status
        assert 1 == pool.statistics().dialed
