"""What whoever watches is told when things go wrong, and what watching must not do."""

from __future__ import annotations

import inspect
import logging
from collections import Counter
from typing import Any

import pytest
import trio

import wspool
from tests.helpers import FakeConnector, FakeWire, Recorder, created, echo, error_frame, fake_pool, policy
from wspool.server import Fault
from wspool.wire.wire import ConnectError, WireClosedError

from .scene import Make, faulty


async def test_f180_an_outage_is_counted(autojump_clock) -> None:
    """F180: the endpoint cannot be reached, and no turn gets a lease -> each has its error, and exactly one
    record: `unsent`, how long it waited, and nothing that did not leave is counted.
    """
    recorder, connector = Recorder(), FakeConnector(echo)
    connector.failure = lambda: ConnectError("refused", phase="tcp")
    errors = Counter[str]()
    limits = policy(give_up_after=10)
    async with fake_pool(connector, limits=limits, instrument=recorder) as pool:

        async def ask() -> None:
            async with pool.conversation(model="m") as conversation:
                try:
                    await conversation.respond("x")
                except wspool.WsPoolError as error:
                    errors[type(error).__name__] += 1

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(ask)

    assert {"DialFailedError": 10} == errors
    assert 10 == len(recorder.records)
    assert {("unsent", "not_sent", 0, 0)} == {
        (each.status, each.delivery, each.requests, each.bytes_sent) for each in recorder.records
    }
    assert all(each.waited > 0 for each in recorder.records)


async def test_f181_an_instrument_that_breaks(make: Make, autojump_clock, caplog) -> None:
    """F181: an instrument raises, whatever it is told -> nothing; the log has it, and another instrument of
    the pool is told all the same.
    """

    def breaking(self: object, *args: object) -> None:
        raise RuntimeError("mine")

    hooks = [name for name, _ in inspect.getmembers(wspool.Instrument, inspect.isfunction)]
    broken = type("Broken", (wspool.Instrument,), dict.fromkeys(hooks, breaking))()
    recorder = Recorder()
    options = {"instrument": [broken, recorder]}
    with caplog.at_level(logging.ERROR, "wspool.pool"):
        async with faulty(make, Fault("reset"), pool_options=options) as scene:
            await scene.ask()
            (await scene.ask()).assert_answer()
    assert recorder.records
    assert all("instrument failed" in line.getMessage() for line in caplog.records)
    assert len(caplog.records) >= 4


async def test_f182_labels_without_end(autojump_clock) -> None:
    """F182: a server gives each error a code of its own, a client each request a model -> of each label there
    are 100 values at most, and the rest is "other"; a text is no code.
    """
    prometheus = pytest.importorskip("wspool.prometheus", reason="extra: prometheus")
    client = pytest.importorskip("prometheus_client")
    registry, number = client.CollectorRegistry(), 0

    def refuse(wire: FakeWire, request: dict[str, Any]) -> None:
        nonlocal number
        number += 1
        wire.push(error_frame(f"code {number}\n" if number % 3 == 0 else f"code_{number}", 400))

    async with (
        fake_pool(
            FakeConnector(refuse),
            limits=policy(max_size=1),
            instrument=prometheus.PrometheusInstrument(registry),
        ) as pool,
        pool.lease() as lease,
    ):
        for each in range(400):
            with pytest.raises(wspool.ResponseFailedError):
                async with lease.create(model=f"m{each}") as turn:
                    await turn.result()
    (errors,) = (each for each in registry.collect() if each.name == "wspool_turn_errors")
    for label in ("model", "code"):
        values = {sample.labels[label] for sample in errors.samples}
        assert len(values) <= 101
        assert "other" in values
        assert not any("\n" in value for value in values)
    assert 400 == sum(each.value for each in errors.samples if each.name.endswith("_total"))


async def test_f183_who_sends_sees_it_first(autojump_clock) -> None:
    """F183: a connection is dead, and it is a send that finds that out -> `TurnLostError`, `ambiguous`; the
    connection counts as `lost`, not as dirty, and so does the move.
    """
    connector, closes, moves = FakeConnector(echo), list[str](), list[str]()

    class Watch(wspool.Instrument):
        def connection_closed(self, record: wspool.CloseRecord) -> None:
            closes.append(record.reason.value)

        def conversation_moved(self, move: wspool.Move) -> None:
            moves.append(move.reason)

    async with (
        fake_pool(connector, limits=policy(max_size=1), instrument=Watch()) as pool,
        pool.conversation(model="m") as conversation,
    ):
        await conversation.respond("a")

        async def fail(message: bytes) -> None:
            await trio.lowlevel.checkpoint()
            raise WireClosedError(1006)

        connector.wire.send = fail  # type: ignore[method-assign]
        with pytest.raises(wspool.TurnLostError) as caught:
            await conversation.respond("b")
        assert "ambiguous" == caught.value.delivery
        await conversation.respond("b")
        assert {"lost": 1} == dict(pool.statistics().closed)
    assert ["lost", "pool_closed"] == closes
    assert ["lost"] == moves


async def test_f184_an_agent_that_hangs(autojump_clock) -> None:
    """F184: of one response among many nothing comes any more -> `pool.turns()` says which conversation, on
    which connection, and for how long; as many as `statistics().in_flight` says.
    """

    def answer(wire: FakeWire, request: dict[str, Any]) -> None:
        wire.push(created("r")) if "hang" in str(request["input"]) else echo(wire, request)

    async with fake_pool(FakeConnector(answer), limits=policy(max_size=4)) as pool:
        numbers: list[int] = []

        async def work(text: str) -> None:
            async with pool.conversation(model="m") as conversation:
                if text == "hang":
                    numbers.append(conversation.number)
                for _ in range(20):
                    await conversation.respond(text)
                    await trio.sleep(10)

        async with trio.open_nursery() as nursery:
            for text in ("a", "b", "hang"):
                nursery.start_soon(work, text)
            await trio.sleep(101)
            (hanging,) = (turn for turn in pool.turns() if (turn.last_event or 0) > 60)
            assert len(pool.turns()) == pool.statistics().in_flight
            nursery.cancel_scope.cancel()
    assert numbers == [hanging.conversation]
    assert (101, 101, "accepted") == (hanging.since, hanging.last_event, hanging.delivery)
