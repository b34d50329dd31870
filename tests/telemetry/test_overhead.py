"""What it costs to be watched, in calls: exact where times are not.

Counted are all calls of functions, ours, trio's, those of a library and those written in C. What an
instrument adds is counted where a turn is one read, so that nothing depends on how tasks are scheduled; it
is compared with a turn of 200 events that come one by one, as over a network. Framing, TLS and decoding,
which a real turn takes besides, are not in it, so the shares are higher here than anywhere else.
"""

from __future__ import annotations

import functools
import gc
import importlib.util
import logging
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
import trio
import trio.testing

import wspool
from tests.garbage import collect
from tests.test_costs import ReadyConnector, ReadyWire, answer
from wspool.timeline import Timeline

#: Of a turn's calls.
MOST = 0.03


def prometheus() -> wspool.Instrument:
    from wspool.prometheus import PrometheusInstrument

    return PrometheusInstrument()


def otel_alone() -> wspool.Instrument:
    from wspool.otel import OpenTelemetryInstrument

    return OpenTelemetryInstrument()


def otel_with_sdk() -> wspool.Instrument:
    """All spans sampled, and handed to a processor that leaves the export to its own time."""
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

    from wspool.otel import OpenTelemetryInstrument

    tracers = TracerProvider()
    tracers.add_span_processor(SpanProcessor())
    return OpenTelemetryInstrument(tracers, MeterProvider(metric_readers=[InMemoryMetricReader()]))


def lines() -> wspool.Instrument:
    return wspool.LoggingInstrument(logging.getLogger("tests.overhead"), logging.CRITICAL)


INSTRUMENTS: dict[str, tuple[str | None, Callable[[], wspool.Instrument]]] = {
    "prometheus": ("prometheus_client", prometheus),
    "otel": ("opentelemetry", otel_alone),
    "otel with the SDK": ("opentelemetry.sdk", otel_with_sdk),
    "timeline": (None, Timeline),
    "lines": (None, lines),
}


def missing(name: str) -> str | None:
    """The library that the instrument *name* wants, if it is not installed."""
    library = INSTRUMENTS[name][0]
    try:
        return library if library is not None and importlib.util.find_spec(library) is None else None
    except ModuleNotFoundError:
        return library


@functools.cache
def calls(make: Callable[[], wspool.Instrument] | None, *, batch: int = 10_000) -> int:
    """The calls that one warm turn takes, the fewest of some: caches and finalizers only add to it."""
    found: list[int] = []

    async def main() -> None:
        wire = ReadyWire(answer(200), batch)
        async with (
            wspool.open_pool(
                "ws://localhost/",
                wire=ReadyConnector(wire),
                api_key="none",
                policy=wspool.PoolPolicy(max_size=1, min_idle=0),
                instrument=None if make is None else make(),
            ) as pool,
            pool.lease() as lease,
        ):
            collect()
            for _ in range(4):
                count = 0

                def note(frame: FrameType, event: str, argument: Any) -> None:
                    nonlocal count
                    count += event in ("call", "c_call")

                gc.disable()
                sys.setprofile(note)
                try:
                    async with lease.create(model="m", input="x") as turn:
                        async for _ in turn:
                            pass
                finally:
                    sys.setprofile(None)
                    gc.enable()
                found.append(count)

    trio.run(main, clock=trio.testing.MockClock())
    return min(found)


@pytest.mark.parametrize("name", INSTRUMENTS)
def test_an_instrument_costs_a_turn_little(name: str) -> None:
    """At most 3 % of what the turn takes without it."""
    if (library := missing(name)) is not None:
        pytest.skip(f"{library} is not installed")
    alone, watched = calls(None), calls(INSTRUMENTS[name][1])

    assert alone < watched, "it has seen nothing"
    assert watched - alone <= MOST * calls(None, batch=1)


def test_who_is_not_watched_pays_for_no_record() -> None:
    """Nor does an instrument that looks at something else."""

    class Elsewhere(wspool.Instrument):
        def dial_ended(self, record: wspool.DialRecord) -> None:
            pass

    # A record takes ten times as many; a finalizer of somebody else may come in between.
    assert calls(Elsewhere) - calls(None) <= 5
