"""Metrics: what a proxy counts, in the text format of Prometheus. The extra `prometheus` has the library.

Rules of this module:

* Labels come from closed sets: a client cannot make a series. Names of tokens, models and programs are on
  the page, and in the sums as files.
* Counting costs a request some microseconds; the rest is done when somebody asks.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

import attrs

from wspool.proxy.records.record import Record, Records

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

__all__ = ["Metrics", "exposition"]

#: Upper bounds of times, in seconds: a lane is there at once, a model thinks for minutes.
BUCKETS: Final = (0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)


@attrs.define
class _Times:
    """How long something took, in buckets."""

    counts: list[int] = attrs.field(factory=lambda: [0] * (len(BUCKETS) + 1))
    total: float = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect.bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Return them as Prometheus has them: each with all below it."""
        told: list[tuple[str, float]] = []
        below = 0
        for bound, count in zip([*map(str, BUCKETS), "+Inf"], self.counts, strict=True):
            below += count
            told.append((bound, float(below)))
        return told


class Metrics:
    """Counts the requests of one proxy; a collector for `prometheus_client`.

    Args:
        records: of the proxy.
        clients: says how many connections of clients there are.
    """

    def __init__(self, records: Records, clients: Callable[[], int]) -> None:
        self._records = records
        self._clients = clients
        self._requests: Counter[tuple[str, str]] = Counter()
        self._turns: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()
        self._times = {name: _Times() for name in ("line", "dial", "first_event", "stream")}

    def hear(self, record: Record) -> None:
        """A request has begun or ended; a listener of `Records`."""
        if record.outcome is None:
            return
        self._requests[record.door, record.outcome] += 1
        if record.items_sent is not None:
            self._turns["delta" if record.why_full is None else "full"] += 1
        self._bytes["received"] += record.bytes_in
        self._bytes["sent"] += record.bytes_sent or 0
        self._bytes["saved"] += record.bytes_saved or 0
        self._bytes["answered"] += record.bytes_out
        if (usage := record.usage) is not None:
            self._tokens["input"] += usage.input - usage.cached
            self._tokens["cached"] += usage.cached
            self._tokens["output"] += usage.output - usage.reasoning
            self._tokens["reasoning"] += usage.reasoning
        for name, times in self._times.items():
            seconds: float | None = getattr(record, name)
            if seconds is not None:
                times.add(seconds)

    def collect(self) -> Iterator[Any]:
        """Yield the families of metrics, as `prometheus_client` asks for them."""
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        yield GaugeMetricFamily("wspool_proxy_clients", "Connections of clients.", value=self._clients())
        running = len(self._records.running)
        yield GaugeMetricFamily("wspool_proxy_running", "Requests that have not ended.", value=running)
        requests = CounterMetricFamily(
            "wspool_proxy_requests", "Requests that have ended.", labels=["door", "outcome"]
        )
        for (door, outcome), count in self._requests.items():
            requests.add_metric([door, outcome], count)
        yield requests
        for name, counted, label, about in (
            ("turns", self._turns, "sent", "Turns, by whether only what was new was sent, or all."),
            ("bytes", self._bytes, "kind", "Bytes of requests and answers; saved are those not sent again."),
            ("tokens", self._tokens, "kind", "Tokens as the provider has counted them; each in one kind."),
        ):
            family = CounterMetricFamily(f"wspool_proxy_{name}", about, labels=[label])
            for value, count in counted.items():
                family.add_metric([value], count)
            yield family
        phases = HistogramMetricFamily(
            "wspool_proxy_phase_seconds", "Seconds of each phase of a request.", labels=["phase"]
        )
        for name, times in self._times.items():
            phases.add_metric([name], times.buckets(), sum_value=times.total)
        yield phases


def exposition(collectors: Iterable[Any]) -> tuple[str, bytes]:
    """Return what *collectors* have, as an answer to `/metrics`: its content type, its body.

    Raises:
        ImportError: `prometheus_client` is not installed.
    """
    try:
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
    except ImportError as error:
        raise ImportError("metrics need prometheus-client: pip install 'wspool[prometheus]'") from error
    registry: CollectorRegistry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    return CONTENT_TYPE_LATEST, generate_latest(registry)
