"""wspool for Prometheus: an `Instrument` that is a collector as well (extra: prometheus).

    metrics = PrometheusInstrument(registry=prometheus_client.REGISTRY)
    async with wspool.open_pool(instrument=metrics) as pool: ...

Rules of this module:

* Names are fixed: a dashboard that was made once works with every later version. Durations are seconds,
  sizes are bytes, counters end in `_total`; they are listed in `METRICS`.
* What is the case now is asked of the pools (`Pool.statistics`) when somebody scrapes; what a turn was is
  counted as it ends. Nothing is registered that a pool has to keep up while it runs.
* One instrument may watch any number of pools, such as those of a proxy: they are added up. What a closed
  pool has counted stays counted, for a counter never goes back.
* A server, a model or a client must not be able to make labels without end: of each kind there are `MOST`
  values at most, and what comes after is "other". No label holds a key, or text of a conversation.
"""

from __future__ import annotations

import math
import re
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, TypeAlias

import attrs

from wspool.core.begun import LeaseRecord
from wspool.core.statistics import (
    CloseRecord,
    DialRecord,
    GrantRecord,
    Move,
    PoolRecord,
    PoolStatistics,
    ToolRecord,
    TurnRecord,
)
from wspool.pool.instrument import Instrument

try:
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        Metric,
    )
    from prometheus_client.registry import Collector, CollectorRegistry
except ImportError as error:
    raise ImportError(
        "wspool.prometheus needs prometheus-client: pip install 'wspool[prometheus]'"
    ) from error

__all__ = ["METRICS", "MOST", "PrometheusInstrument"]

#: Different values of one label at most. A series costs a scrape some hundred bytes.
MOST: Final = 100

#: Upper bounds of durations, in seconds. Those of `gen_ai.client.operation.duration` (OpenTelemetry's
#: conventions for generative AI), four doublings further: a turn of a thinking model takes minutes.
_SECONDS: Final = tuple(0.01 * 2**power for power in range(18))
#: Of ages of connections: to the hour that OpenAI lets them live, and beyond.
_AGES: Final = (1.0, 10.0, 60.0, 300.0, 600.0, 1200.0, 1800.0, 2400.0, 3000.0, 3600.0, 7200.0)

_OTHER: Final = "other"
_NAME: Final = re.compile(r"[\w.:/@+ -]{1,100}", re.ASCII)

_Labels: TypeAlias = tuple[str, ...]


@attrs.frozen
class _Family:
    """One metric: its kind, what it says, and its labels."""

    kind: str
    help: str
    labels: Sequence[str] = ()


#: Every metric by its name, without the endings that the text format adds.
METRICS: Final = {
    "wspool_connections": _Family("gauge", "Connections now, by state.", ["state"]),
    "wspool_connections_max": _Family("gauge", "Connections that there may be at most."),
    "wspool_lanes": _Family("gauge", "Lanes now, by what they are at.", ["state"]),
    "wspool_lanes_idle_min": _Family("gauge", "Idle lanes that are kept ready (`min_idle`)."),
    "wspool_waiters": _Family("gauge", "Tasks in line for a lease now."),
    "wspool_pools": _Family("gauge", "Pools that are open now."),
    "wspool_pools_degraded": _Family("gauge", "Pools whose endpoint is down now."),
    "wspool_held_seconds": _Family("gauge", "Seconds until the next request may be sent, at most."),
    "wspool_unclear_seconds": _Family(
        "gauge", "Seconds for which it has been unclear whose trouble refusals are, at most."
    ),
    "wspool_suspects": _Family("gauge", "Turns that were refused, and not answered since."),
    "wspool_dials": _Family("counter", "Dials started."),
    "wspool_dial_failures": _Family("counter", "Dials that failed."),
    "wspool_leases_granted": _Family("counter", "Leases granted."),
    "wspool_leases_lost": _Family("counter", "Leases that ended with their connection."),
    "wspool_leases_stolen": _Family("counter", "Parked leases whose lane went to somebody else."),
    "wspool_waiters_abandoned": _Family("counter", "Waiters that left the line."),
    "wspool_waiters_refused": _Family("counter", "Waiters that were refused."),
    "wspool_retirements": _Family("counter", "Connections that reached their planned retirement."),
    "wspool_connections_closed": _Family("counter", "Connections closed, by reason.", ["reason"]),
    "wspool_turns": _Family("counter", "Turns that ended, by how.", ["model", "status"]),
    "wspool_turn_errors": _Family("counter", "Turns that ended with an error.", ["model", "error", "code"]),
    "wspool_turn_requests": _Family("counter", "Requests sent.", ["history"]),
    "wspool_turn_bytes": _Family("counter", "Bytes of requests, sent and saved.", ["kind"]),
    "wspool_turn_items": _Family("counter", "Input items, given and sent.", ["kind"]),
    "wspool_turn_tokens": _Family(
        "counter", "Tokens. Cached is part of input, reasoning of output.", ["model", "type"]
    ),
    "wspool_moves": _Family("counter", "Conversations that went on on another connection.", ["reason"]),
    "wspool_tool_calls": _Family("counter", "Calls of tools.", ["outcome"]),
    "wspool_turn_duration_seconds": _Family("histogram", "First send to end of a turn.", ["model"]),
    "wspool_turn_first_event_seconds": _Family("histogram", "First send to first event.", ["model"]),
    "wspool_lease_wait_seconds": _Family("histogram", "In line for a lease, of those who got one."),
    "wspool_lease_use_seconds": _Family("histogram", "From a lease's grant to its end."),
    "wspool_dial_duration_seconds": _Family("histogram", "Dials, by how they ended.", ["outcome"]),
    "wspool_connection_age_seconds": _Family("histogram", "Age of a connection at its end.", ["reason"]),
    "wspool_tool_duration_seconds": _Family("histogram", "Calls of tools."),
}

#: The counters that a pool keeps, by their field of `PoolStatistics`.
_COUNTERS: Final = {
    "wspool_dials": "dialed",
    "wspool_dial_failures": "dial_failures",
    "wspool_leases_granted": "granted",
    "wspool_leases_lost": "lost_leases",
    "wspool_leases_stolen": "stolen",
    "wspool_waiters_abandoned": "abandoned",
    "wspool_waiters_refused": "refused",
    "wspool_retirements": "retirements",
}


class _Histogram:
    """Observations by upper bound."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def buckets(self) -> Iterator[tuple[str, float]]:
        """Return the counts up to each bound, as the text format has them."""
        total = 0
        for bound, count in zip((*self.bounds, math.inf), self.counts, strict=True):
            total += count
            yield "+Inf" if bound == math.inf else repr(bound), total


class _Names:
    """Values of one label: what they are shown as."""

    def __init__(self) -> None:
        self._known: dict[str | None, str] = {None: ""}

    def shown(self, value: str | None) -> str:
        known = self._known.get(value)
        if known is not None:
            return known
        if value is None or len(self._known) > MOST or _NAME.fullmatch(value) is None:
            return _OTHER
        self._known[value] = value
        return value


class PrometheusInstrument(Instrument, Collector):
    """Watches pools, and tells Prometheus when it asks.

    Args:
        registry: what it is registered with; None to do that yourself (`registry.register(...)`).

    Scraped in whatever thread; what it says of the pools' state then may mix two moments.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._lock = threading.Lock()
        self._pools: dict[int, Callable[[], PoolStatistics]] = {}
        #: What pools have counted that are closed.
        self._past: Counter[tuple[str, _Labels]] = Counter()
        self._counts: Counter[tuple[str, _Labels]] = Counter()
        self._histograms: dict[tuple[str, _Labels], _Histogram] = {}
        self._models, self._codes = _Names(), _Names()
        if registry is not None:
            registry.register(self)

    # -- what pools tell ----------------------------------------------------------------------

    def pool_opened(self, record: PoolRecord) -> None:
        """Ask it from now on."""
        with self._lock:
            for number, ask in [*self._pools.items()]:  # here as well, for maybe nobody scrapes
                self._forget_if_closed(number, ask())
            self._pools[record.pool] = record.statistics

    def dial_ended(self, record: DialRecord) -> None:
        """Count it, as all of these do."""
        with self._lock:
            outcome = "ok" if record.failure is None else record.phase or "stopped"
            self._observe("wspool_dial_duration_seconds", record.duration, outcome)

    def connection_closed(self, record: CloseRecord) -> None:
        """Count it."""
        with self._lock:
            self._observe("wspool_connection_age_seconds", record.age, record.reason.value, bounds=_AGES)

    def lease_granted(self, record: GrantRecord) -> None:
        """Count it."""
        with self._lock:
            self._observe("wspool_lease_wait_seconds", record.waited)

    def lease_ended(self, record: LeaseRecord) -> None:
        """Count it."""
        with self._lock:
            self._observe("wspool_lease_use_seconds", record.held)

    def conversation_moved(self, move: Move) -> None:
        """Count it."""
        with self._lock:
            self._counts["wspool_moves", (move.reason,)] += 1

    def tool_ended(self, record: ToolRecord) -> None:
        """Count it."""
        with self._lock:
            self._counts["wspool_tool_calls", ("ok" if record.error is None else "error",)] += 1
            self._observe("wspool_tool_duration_seconds", record.duration)

    def turn_ended(self, record: TurnRecord) -> None:
        """Count it."""
        with self._lock:
            counts, model = self._counts, self._models.shown(record.model)
            counts["wspool_turns", (model, record.status)] += 1
            if record.error is not None:
                code = self._codes.shown(record.error_code)
                counts["wspool_turn_errors", (model, record.error, code)] += 1
            if not record.requests:
                return
            counts["wspool_turn_requests", ("full" if record.full else "delta",)] += record.requests
            counts["wspool_turn_bytes", ("sent",)] += record.bytes_sent
            counts["wspool_turn_bytes", ("saved",)] += record.bytes_saved
            counts["wspool_turn_items", ("given",)] += record.items_given
            counts["wspool_turn_items", ("sent",)] += record.items_sent
            self._observe("wspool_turn_duration_seconds", record.duration, model)
            if record.first_event is not None:
                self._observe("wspool_turn_first_event_seconds", record.first_event, model)
            if record.usage is not None:
                tokens = record.tokens
                counts["wspool_turn_tokens", (model, "input")] += tokens.input
                counts["wspool_turn_tokens", (model, "cached")] += tokens.cached
                counts["wspool_turn_tokens", (model, "output")] += tokens.output
                counts["wspool_turn_tokens", (model, "reasoning")] += tokens.reasoning

    def _observe(self, name: str, value: float, *labels: str, bounds: Sequence[float] = _SECONDS) -> None:
        histogram = self._histograms.get((name, labels))
        if histogram is None:
            histogram = self._histograms[name, labels] = _Histogram(bounds)
        histogram.observe(value)

    # -- what Prometheus asks -----------------------------------------------------------------

    def describe(self) -> Iterable[Metric]:
        """Return every metric, without values: for the registry, which looks for names that are taken."""
        return [_family(name) for name in METRICS]

    def collect(self) -> Iterable[Metric]:
        """Return every metric with its values now."""
        with self._lock:
            families = {name: _family(name) for name in METRICS}
            gauges, counts = self._ask()
            for (name, labels), value in sorted((gauges | counts | self._counts).items()):
                family = families[name]
                if isinstance(family, (CounterMetricFamily, GaugeMetricFamily)):
                    family.add_metric(labels, value)
            for (name, labels), histogram in sorted(self._histograms.items(), key=lambda each: each[0]):
                family = families[name]
                if isinstance(family, HistogramMetricFamily):
                    family.add_metric(labels, buckets=list(histogram.buckets()), sum_value=histogram.sum)
            return list(families.values())

    def _ask(self) -> tuple[dict[tuple[str, _Labels], float], dict[tuple[str, _Labels], float]]:
        """Return what is the case now, and what pools have counted so far."""
        gauges: dict[tuple[str, _Labels], float] = {
            (name, ()): 0 for name, family in METRICS.items() if family.kind == "gauge" and not family.labels
        }
        counts = Counter(self._past)
        for name in _COUNTERS:
            counts[name, ()] += 0
        for number, ask in [*self._pools.items()]:
            statistics = ask()
            _count(statistics, counts)
            if not self._forget_if_closed(number, statistics):
                _gauge(statistics, gauges)
        return gauges, dict(counts)

    def _forget_if_closed(self, number: int, statistics: PoolStatistics) -> bool:
        closed = statistics.closed_pool and not statistics.size + statistics.closing
        if closed:
            del self._pools[number]
            _count(statistics, self._past)
        return closed


def _count(statistics: PoolStatistics, counts: Counter[tuple[str, _Labels]]) -> None:
    for name, field in _COUNTERS.items():
        counts[name, ()] += getattr(statistics, field)
    for reason, count in statistics.closed.items():
        counts["wspool_connections_closed", (str(reason),)] += count


def _gauge(statistics: PoolStatistics, gauges: dict[tuple[str, _Labels], float]) -> None:
    s = statistics

    def add(name: str, value: float, *labels: str) -> None:
        gauges[name, labels] = gauges.get((name, labels), 0) + value

    for state, count in (
        ("dialing", s.dialing),
        ("open", s.open),
        ("retiring", s.retiring),
        ("closing", s.closing),
    ):
        add("wspool_connections", count, state)
    # Each lane once: those of `leased` are parked, in flight, draining, or none of these.
    between = s.leased - s.parked - s.in_flight
    for state, count in (
        ("idle", s.idle),
        ("warming", s.warming),
        ("leased", max(0, between - s.draining)),
        ("parked", s.parked),
        ("in_flight", s.in_flight),
        ("draining", s.draining),
    ):
        add("wspool_lanes", count, state)
    add("wspool_connections_max", s.max_size)
    add("wspool_lanes_idle_min", s.min_idle)
    add("wspool_waiters", s.waiting)
    add("wspool_pools", 1)
    add("wspool_pools_degraded", s.degraded)
    add("wspool_suspects", s.suspects)
    for name, seconds in (("wspool_held_seconds", s.held), ("wspool_unclear_seconds", s.unclear)):
        gauges[name, ()] = max(gauges[name, ()], seconds)


def _family(name: str) -> CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily:
    family = METRICS[name]
    labels = list(family.labels)
    if family.kind == "histogram":
        return HistogramMetricFamily(name, family.help, labels=labels)
    if family.kind == "gauge":
        return GaugeMetricFamily(name, family.help, labels=labels)
    return CounterMetricFamily(name, family.help, labels=labels)
