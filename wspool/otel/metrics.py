"""The metrics of `wspool.otel`: what is recorded as it happens, and what is read when somebody collects."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, cast

from opentelemetry import metrics

from wspool.core.statistics import PoolRecord, PoolStatistics

__all__ = ["Metrics", "Observer", "name_of"]

#: Boundaries that the conventions give, in seconds; the last four are ours: a model may think for long.
_SECONDS: Final = [
    *(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
    *(163.84, 327.68, 655.36, 1310.72),
]
#: The same, in tokens.
_TOKENS: Final = [4**power for power in range(14)]
_AGES: Final = [1, 10, 60, 300, 600, 1200, 1800, 2400, 3000, 3600, 7200]


#: By what a counter is told apart.
_KINDS: Final = {
    "wspool.turns": "wspool.turn.status",
    "wspool.turn.continuation": "wspool.turn.continuation.kind",
    "wspool.turn.input_items": "wspool.turn.items.kind",
    "wspool.conversation.moves": "wspool.move.reason",
}


def name_of(record: PoolRecord) -> str:
    """Return what a pool is called: as all others of the same endpoint."""
    return f"{record.host}:{record.port}"


def _is_closed(statistics: PoolStatistics) -> bool:
    return statistics.closed_pool and not statistics.size + statistics.closing


class Observer:
    """What is read when somebody collects: what the pools say now, and what turns have counted."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pools: dict[int, PoolRecord] = {}
        #: What pools have counted that are closed, by their name and what it was.
        self._past: Counter[tuple[str, str]] = Counter()
        #: What turns have counted, by the metric, the name of the pool and what tells it apart.
        self._counts: Counter[tuple[str, str, str]] = Counter()

    def watch(self, record: PoolRecord) -> list[int]:
        """Ask it from now on; return the numbers of those that are asked no more, since they are closed."""
        with self._lock:
            # Here as well, for maybe nobody collects.
            gone = [number for number, each in self._pools.items() if _is_closed(each.statistics())]
            for number in gone:
                self._forget(number)
            self._pools[record.pool] = record
            return gone

    def count(self, name: str, pool: str, kind: str, value: int = 1) -> None:
        with self._lock:
            self._counts[name, pool, kind] += value

    def counted(self, name: str) -> Callable[[metrics.CallbackOptions], Iterable[metrics.Observation]]:
        def observe(_: metrics.CallbackOptions) -> Iterable[metrics.Observation]:
            with self._lock:
                return [
                    metrics.Observation(value, {"wspool.pool.name": pool, _KINDS[name]: kind})
                    for (each, pool, kind), value in self._counts.items()
                    if each == name
                ]

        return observe

    def of(self, field: str) -> Callable[[metrics.CallbackOptions], Iterable[metrics.Observation]]:
        def observe(_: metrics.CallbackOptions) -> Iterable[metrics.Observation]:
            with self._lock:
                return list(self._observe(field))

        return observe

    def _observe(self, field: str) -> Iterable[metrics.Observation]:
        found: dict[tuple[str, str], float] = {
            (name, ""): value for (name, counted), value in self._past.items() if counted == field
        }
        # Seconds of one pool are not added to those of another.
        both = max if field == "unclear" else sum
        for number, record in [*self._pools.items()]:
            statistics, name = record.statistics(), name_of(record)
            for state, value in _values(statistics, field).items():
                found[name, state] = both((found.get((name, state), 0), value))
            if _is_closed(statistics):
                self._forget(number)
        for (name, state), value in found.items():
            attributes = {"wspool.pool.name": name}
            yield metrics.Observation(
                value, attributes | {"wspool.connection.state": state} if state else attributes
            )

    def _forget(self, number: int) -> None:
        record = self._pools.pop(number)
        for field in ("refused", "stolen"):
            self._past[name_of(record), field] += int(_values(record.statistics(), field)[""])


class Metrics:
    """The metrics. Their names are fixed.

    Args:
        meter: makes them.
        observe: what those are read from that nobody records.
    """

    def __init__(self, meter: metrics.Meter, observe: Observer) -> None:
        def histogram(name: str, unit: str, about: str, bounds: Sequence[float]) -> metrics.Histogram:
            return meter.create_histogram(
                name, unit=unit, description=about, explicit_bucket_boundaries_advisory=bounds
            )

        self.duration = histogram(
            "gen_ai.client.operation.duration", "s", "GenAI operation duration.", _SECONDS
        )
        self.first = histogram(
            "gen_ai.client.operation.time_to_first_chunk", "s", "Time to receive the first chunk.", _SECONDS
        )
        self.tokens = histogram(
            "gen_ai.client.token.usage", "{token}", "Input and output tokens used.", _TOKENS
        )
        self.tool = histogram("gen_ai.execute_tool.duration", "s", "Tool execution duration.", _SECONDS)
        self.create = histogram("wspool.connection.create_time", "s", "Dials, failed ones too.", _SECONDS)
        self.wait = histogram("wspool.connection.wait_time", "s", "In line for a lease.", _SECONDS)
        self.use = histogram("wspool.connection.use_time", "s", "From a lease's grant to its end.", _SECONDS)
        self.age = histogram("wspool.connection.age", "s", "Age of a connection at its end.", _AGES)
        for name, unit, field in (
            ("wspool.connection.count", "{connection}", "count"),
            ("wspool.connection.max", "{connection}", "max"),
            ("wspool.connection.idle.min", "{lane}", "ready"),
            ("wspool.connection.pending_requests", "{request}", "pending"),
            ("wspool.turn.suspects", "{turn}", "suspects"),
        ):
            meter.create_observable_up_down_counter(name, [observe.of(field)], unit=unit)
        meter.create_observable_gauge("wspool.turn.unclear_time", [observe.of("unclear")], unit="s")
        for name, unit, field in (
            ("wspool.connection.timeouts", "{timeout}", "refused"),
            ("wspool.lease.stolen", "{lease}", "stolen"),
        ):
            meter.create_observable_counter(name, [observe.of(field)], unit=unit)
        # What turns count is read when somebody collects: to add to a counter takes some microseconds.
        for name, unit in (
            ("wspool.turns", "{turn}"),
            ("wspool.turn.continuation", "{request}"),
            ("wspool.turn.input_items", "{item}"),
            ("wspool.conversation.moves", "{move}"),
        ):
            meter.create_observable_counter(name, [observe.counted(name)], unit=unit)


def _values(statistics: PoolStatistics, field: str) -> Mapping[str, float]:
    match field:
        case "count":
            used = min(statistics.leased + statistics.warming, statistics.open + statistics.retiring)
            return {"used": used, "idle": statistics.open + statistics.retiring - used}
        case "max":
            return {"": 0 if statistics.closed_pool else statistics.max_size}
        case "ready":
            return {"": 0 if statistics.closed_pool else statistics.min_idle}
        case "pending":
            return {"": statistics.waiting}
        case _:
            return {"": cast("float", getattr(statistics, field))}
