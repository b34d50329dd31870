"""What it costs to be watched: CPU of this process per turn, with each instrument and without one.

What an instrument adds is the difference between turns whose events all come at once, thousands of them:
small numbers that hold still. It is compared with what a turn costs whose answer comes as models give it,
in eight conversations over TLS: 200 events, one each four milliseconds. The SDK of OpenTelemetry keeps what
it is told in memory, as it does until it exports; exporting is its own thread's work, and not in here.
"""

from __future__ import annotations

import importlib.util
import logging
import ssl
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

import trio

import wspool
from benchmarks.harness import Row, Sample, Stopwatch, in_turn
from benchmarks.processes import client_context, open_blaster
from benchmarks.script import Say

__all__ = ["run"]

EVENTS: Final = 200
PACED: Final = Say(events=EVENTS, each=True, gap=0.004)
AT_ONCE: Final = Say(events=EVENTS)
CONVERSATIONS: Final = 8

#: Of a turn's CPU, in percent: what being watched may cost.
MOST: Final = 3.0


def run(*, quick: bool) -> list[Row]:
    """Measure it."""
    turns, rounds = (50, 5) if quick else (200, 15)
    context = client_context()
    with open_blaster(tls=True) as server:
        url = server.url(AT_ONCE)
        contestants = {
            name: partial(_sample, url, context, turns, make)
            for name, (library, make) in INSTRUMENTS.items()
            if library is None or _is_there(library)
        }
        samples = in_turn(contestants, rounds)
        paced = in_turn({NOBODY: partial(_sample, server.url(PACED), context, 5, _nobody)}, 2 if quick else 4)
    turn = min(sample.micros for sample in paced[NOBODY])
    alone = min(sample.micros for sample in samples[NOBODY])
    rows = []
    for name, watched in samples.items():
        added = min(sample.micros for sample in watched) - alone
        rows.append(
            Row(
                metric=f"observing: of a turn's CPU, {name}",
                value=100 * added / turn,
                unit="%",
                most=MOST,
                note=f"{added:.0f} us; a turn takes {turn:.0f}, or {alone:.0f} if all comes at once",
            )
        )
    return rows[1:]


def _is_there(library: str) -> bool:
    try:
        return importlib.util.find_spec(library) is not None
    except ModuleNotFoundError:
        return False


def _sample(
    url: str, context: ssl.SSLContext, turns: int, make: Callable[[], wspool.Instrument | None]
) -> Sample:
    watch = Stopwatch()

    async def main() -> None:
        policy = wspool.PoolPolicy(max_size=CONVERSATIONS, min_idle=0, close_timeout=0.5)
        async with (
            wspool.open_pool(
                url, api_key="none", ssl_context=context, policy=policy, instrument=make()
            ) as pool,
            AsyncExitStack() as stack,
        ):
            conversations = [
                await stack.enter_async_context(pool.conversation(model="bench"))
                for _ in range(CONVERSATIONS)
            ]

            async def talk(conversation: wspool.Conversation, count: int) -> None:
                for _ in range(count):
                    async with conversation.turn("go on") as turn:
                        async for _ in turn:
                            pass

            async def all_talk(count: int) -> None:
                async with trio.open_nursery() as nursery:
                    for conversation in conversations:
                        nursery.start_soon(talk, conversation, count)

            await all_talk(1)
            with watch.over(turns * CONVERSATIONS):
                await all_talk(turns)

    trio.run(main)
    return watch.sample


# -- who watches ----------------------------------------------------------------------------------


def _nobody() -> None:
    return None


def _prometheus() -> wspool.Instrument:
    from prometheus_client import CollectorRegistry

    from wspool.prometheus import PrometheusInstrument

    return PrometheusInstrument(CollectorRegistry())


def _otel_alone() -> wspool.Instrument:
    from wspool.otel import OpenTelemetryInstrument

    return OpenTelemetryInstrument()


def _otel_with_sdk(sampled: float) -> wspool.Instrument:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    from wspool.otel import OpenTelemetryInstrument

    tracers = TracerProvider(sampler=ParentBased(TraceIdRatioBased(sampled)))
    tracers.add_span_processor(SpanProcessor())
    return OpenTelemetryInstrument(tracers, MeterProvider(metric_readers=[InMemoryMetricReader()]))


def _lines() -> wspool.Instrument:
    logger = logging.getLogger("benchmarks.observing")
    logger.propagate = False
    logger.handlers = [logging.NullHandler()]
    return wspool.LoggingInstrument(logger)


NOBODY: Final = "nobody"
INSTRUMENTS: Final[Mapping[str, tuple[str | None, Callable[[], wspool.Instrument | None]]]] = {
    NOBODY: (None, _nobody),
    "LoggingInstrument": (None, _lines),
    "Prometheus": ("prometheus_client", _prometheus),
    "OpenTelemetry, no SDK": ("opentelemetry", _otel_alone),
    "OpenTelemetry, one trace in ten": ("opentelemetry.sdk", partial(_otel_with_sdk, 0.1)),
    "OpenTelemetry, all traces": ("opentelemetry.sdk", partial(_otel_with_sdk, 1.0)),
}
