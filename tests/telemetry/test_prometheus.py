"""`wspool.prometheus`, with the registry and the text format of the real library."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
import trio

import wspool
from tests.helpers import FakeConnector, FakeWire, echo, error_frame, fake_pool, policy, serving
from tests.telemetry.doubt import two_pools
from wspool.server import EchoModel
from wspool.wire.wire import ConnectError

client = pytest.importorskip("prometheus_client", reason="extra: prometheus")
prometheus = pytest.importorskip("wspool.prometheus")


def made() -> tuple[Any, Any]:
    registry = client.CollectorRegistry()
    return registry, prometheus.PrometheusInstrument(registry)


async def test_leases_are_timed(autojump_clock) -> None:
    """From the grant to the end, that is when they are given back or taken."""
    registry, instrument = made()
    limits = policy(max_size=1, patience=1.0)
    async with (
        fake_pool(FakeConnector(echo), limits=limits, instrument=instrument) as pool,
        pool.lease() as parked,
    ):
        parked.park()
        async with pool.lease():
            await trio.sleep(2)
        assert parked.taken
    assert 2 == registry.get_sample_value("wspool_lease_use_seconds_count")
    assert 1 + 2 == pytest.approx(registry.get_sample_value("wspool_lease_use_seconds_sum"), abs=0.01)


async def test_turns_and_the_pool_are_counted(autojump_clock) -> None:
    """What Prometheus is told is what the pool and its turns say."""
    registry, instrument = made()
    async with (
        serving(EchoModel()) as world,
        world.pool(limits=policy(max_size=3, min_idle=1), instrument=instrument) as pool,
        pool.conversation(model="gpt-5.2") as conversation,
    ):
        await conversation.respond("hello")
        await conversation.respond("again")
        statistics = pool.statistics()
        its = conversation.statistics()

        def value(name: str, **labels: str) -> float | None:
            found: float | None = registry.get_sample_value(name, labels)
            return found

        assert 2 == value("wspool_turns_total", model="gpt-5.2", status="completed")
        assert 1 == value("wspool_turn_requests_total", history="full")
        assert 1 == value("wspool_turn_requests_total", history="delta")
        assert its.bytes_sent == value("wspool_turn_bytes_total", kind="sent")
        assert its.usage.input == value("wspool_turn_tokens_total", model="gpt-5.2", type="input")
        assert its.usage.output == value("wspool_turn_tokens_total", model="gpt-5.2", type="output")
        assert 2 == value("wspool_turn_duration_seconds_count", model="gpt-5.2")
        assert 2 == value("wspool_turn_duration_seconds_bucket", model="gpt-5.2", le="+Inf")
        assert 2 == value("wspool_turn_first_event_seconds_count", model="gpt-5.2")
        assert statistics.dialed == value("wspool_dials_total")
        assert statistics.open == value("wspool_connections", state="open")
        assert 3 == value("wspool_connections_max")
        assert 1 == value("wspool_lanes_idle_min")
        assert statistics.granted == value("wspool_leases_granted_total")
        assert statistics.granted == value("wspool_lease_wait_seconds_count")
        assert statistics.dialed == value("wspool_dial_duration_seconds_count", outcome="ok")
        lanes = [
            value("wspool_lanes", state=state)
            for state in ("idle", "warming", "leased", "parked", "in_flight", "draining")
        ]
        assert statistics.idle + statistics.warming + statistics.leased == sum(each or 0 for each in lanes)
        assert 1 == value("wspool_pools")


async def test_an_outage_is_seen(autojump_clock) -> None:
    """Turns that got no connection are counted, with their error; the pool is degraded."""
    registry, instrument = made()
    connector = FakeConnector(echo)
    connector.failure = lambda: ConnectError("refused", phase="tcp")
    limits = policy(give_up_after=5)
    async with fake_pool(connector, limits=limits, instrument=instrument) as pool:
        for _ in range(3):
            async with pool.conversation(model="m") as conversation:
                with pytest.raises(wspool.DialFailedError):
                    await conversation.respond("x")
        assert 3 == registry.get_sample_value("wspool_turns_total", {"model": "m", "status": "unsent"})
        assert 3 == registry.get_sample_value(
            "wspool_turn_errors_total", {"model": "m", "error": "DialFailedError", "code": ""}
        )
        assert 1 == registry.get_sample_value("wspool_pools_degraded")
        failed = registry.get_sample_value("wspool_dial_duration_seconds_count", {"outcome": "tcp"})
        assert pool.statistics().dial_failures == failed


async def test_that_nobody_can_tell_whose_trouble_it_is_is_seen(autojump_clock) -> None:
    """As long as everybody is refused, and of how many that may be; of two pools the longer time."""
    registry, instrument = made()
    async with two_pools(instrument) as refused:
        assert 0 == registry.get_sample_value("wspool_unclear_seconds")
        one = await refused()
        assert 3 == registry.get_sample_value("wspool_suspects")
        assert one.statistics().unclear == registry.get_sample_value("wspool_unclear_seconds") > 149


async def test_counters_never_go_back(autojump_clock) -> None:
    """What a closed pool has counted stays; another one is added to it."""
    registry, instrument = made()
    seen: list[float] = []

    def look() -> None:
        seen.append(registry.get_sample_value("wspool_dials_total"))

    for _ in range(3):
        async with (
            fake_pool(FakeConnector(echo), limits=policy(max_size=1), instrument=instrument) as pool,
            pool.conversation(model="m") as conversation,
        ):
            await conversation.respond("x")
            look()
        look()
        look()

    assert [1, 1, 1, 2, 2, 2, 3, 3, 3] == seen
    assert 0 == registry.get_sample_value("wspool_pools")
    assert 3 == registry.get_sample_value("wspool_connections_closed_total", {"reason": "pool_closed"})
    assert 3 == registry.get_sample_value("wspool_connection_age_seconds_count", {"reason": "pool_closed"})


async def test_two_pools_are_added_up(autojump_clock) -> None:
    """As those of a proxy, which has one for each key."""
    registry, instrument = made()
    async with (
        fake_pool(FakeConnector(echo), limits=policy(max_size=4), instrument=instrument) as one,
        fake_pool(FakeConnector(echo), limits=policy(max_size=5), instrument=instrument) as other,
        one.lease(),
        other.lease(),
    ):
        assert 9 == registry.get_sample_value("wspool_connections_max")
        assert 2 == registry.get_sample_value("wspool_lanes", {"state": "leased"})


async def test_nobody_can_make_labels_without_end(autojump_clock) -> None:
    """Models are named by clients, codes by servers: there are so many, and strange ones are none."""
    registry, instrument = made()
    number = 0

    def refuse(wire: FakeWire, request: dict[str, Any]) -> None:
        nonlocal number
        number += 1
        wire.push(error_frame(f"code_{number}" if number % 2 else 'a "strange"\none', 400))

    async with (
        fake_pool(FakeConnector(refuse), limits=policy(max_size=1), instrument=instrument) as pool,
        pool.lease() as lease,
    ):
        for each in range(3 * prometheus.MOST):
            with pytest.raises(wspool.ResponseFailedError):
                async with lease.create(model=f"model-{each}") as turn:
                    await turn.result()

    text = client.generate_latest(registry).decode()
    models = {line.split('model="')[1].split('"')[0] for line in text.splitlines() if 'model="' in line}
    codes = {line.split('code="')[1].split('"')[0] for line in text.splitlines() if 'code="' in line}
    assert "other" in models
    assert len(models) <= prometheus.MOST + 1
    assert "other" in codes
    assert len(codes) <= prometheus.MOST + 1
    assert not any("strange" in code for code in codes)


async def test_the_text_is_what_prometheus_reads(autojump_clock) -> None:
    """Parsed by the library's own reader: every family is there, with the kind that is listed."""
    from prometheus_client.parser import text_string_to_metric_families

    registry, instrument = made()
    connector = FakeConnector(echo)
    async with (
        fake_pool(connector, limits=policy(max_size=1), instrument=instrument) as pool,
        pool.conversation(model="m") as conversation,
    ):

        async def tool() -> str:
            return "x"

        await conversation.respond("x")
        connector.wire.hang_up()
        await trio.sleep(1)
        await conversation.respond("y")
        families = {
            each.name: each.type
            for each in text_string_to_metric_families(client.generate_latest(registry).decode())
        }
        moved = registry.get_sample_value("wspool_moves_total", {"reason": "lost"})

    assert {name: family.kind for name, family in prometheus.METRICS.items()} == families
    assert 1 == moved


def test_a_name_that_is_taken_is_told_at_once() -> None:
    """Two instruments in one registry would count everything twice."""
    registry, _ = made()
    with pytest.raises(ValueError, match="Duplicated"):
        prometheus.PrometheusInstrument(registry)


async def test_a_scrape_of_another_thread_disturbs_nobody(autojump_clock) -> None:
    """While turns end, somebody scrapes all the time."""
    registry, instrument = made()
    stop, failures, scrapes = threading.Event(), [], 0

    def scrape() -> None:
        nonlocal scrapes
        while not stop.is_set():
            try:
                client.generate_latest(registry)
                scrapes += 1
            except Exception as error:
                failures.append(error)
                return

    thread = threading.Thread(target=scrape)
    async with fake_pool(FakeConnector(echo), instrument=instrument) as pool:
        thread.start()
        try:
            for number in range(300):
                async with pool.conversation(model=f"m{number}") as conversation:
                    await conversation.respond("x")
        finally:
            stop.set()
            thread.join()

    assert [] == failures
    assert scrapes > 0


def test_names_are_fixed() -> None:
    """A dashboard lives longer than a version: names may be added, not changed."""
    names = {name: [family.kind, *family.labels] for name, family in prometheus.METRICS.items()}
    assert ["counter", "model", "status"] == names["wspool_turns"]
    assert all(name.startswith("wspool_") for name in names)
    assert json.loads(json.dumps(names)) == names
