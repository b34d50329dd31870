"""wspool for OpenTelemetry: spans and metrics of turns, dials, tools and connections (extra: otel).

    async with wspool.open_pool(instrument=OpenTelemetryInstrument()) as pool: ...

Rules of this module:

* Only the API is needed; without an SDK everything here does nothing. Names are those of OpenTelemetry's
  conventions for generative AI (`gen_ai.*`, `openai.*`: its repository `semantic-conventions-genai`, status
  Development, hence written out here), and of its conventions for database clients where a pool is concerned:
  `db.client.connection.*` is `wspool.connection.*` here.
* A turn's span is a child of the span that its caller was in when it was entered, on trio, in asyncio and in
  threads. It begins there, so waiting in line is part of it, and is made when the turn is over.
* A dial belongs to no turn: its span is the root of its own trace, and every turn on that connection has a
  link to it.
* Content (input, output, instructions, arguments of tools) is in no span and no metric, nor is a server's
  text but for its codes.
* Where the host makes a span for the same call (`gen_ai.operation.name` of an inference), that one is given
  what only the pool knows, and there is neither a second span nor a second count of tokens.
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Literal, TypeAlias, cast

from wspool.core import version
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
    from opentelemetry import context as otel_context, metrics, trace
    from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode
except ImportError as error:
    raise ImportError("wspool.otel needs opentelemetry-api: pip install 'wspool[otel]'") from error

__all__ = ["OpenTelemetryInstrument", "Spans"]

#: Whether turns have spans of their own. `auto`: where the host makes none for the same call.
Spans: TypeAlias = Literal["auto", "always", "never"]

_Attributes: TypeAlias = dict[str, "str | bool | int | float | Sequence[str]"]

#: Boundaries that the conventions give, in seconds; the last four are ours: a model may think for long.
_SECONDS: Final = [
    *(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
    *(163.84, 327.68, 655.36, 1310.72),
]
#: The same, in tokens.
_TOKENS: Final = [4**power for power in range(14)]
_AGES: Final = [1, 10, 60, 300, 600, 1200, 1800, 2400, 3000, 3600, 7200]

#: What providers are called there. Whoever else speaks this protocol has the flavour of OpenAI.
_PROVIDERS: Final = {"azure": "azure.ai.openai", "xai": "x_ai"}
#: Operations of a host's span that mean the same call.
_INFERENCE: Final = frozenset({"chat", "generate_content", "text_completion"})
#: What of a server is taken for a code, and not for a text.
_CODE: Final = re.compile(r"[A-Za-z][\w.-]{0,63}", re.ASCII)
#: By what a counter is told apart.
_KINDS: Final = {
    "wspool.turns": "wspool.turn.status",
    "wspool.turn.continuation": "wspool.turn.continuation.kind",
    "wspool.turn.input_items": "wspool.turn.items.kind",
    "wspool.conversation.moves": "wspool.move.reason",
}
#: Models of which metrics are kept apart, at most.
_MOST: Final = 100


class _Metrics:
    """The metrics. Their names are fixed."""

    def __init__(self, meter: metrics.Meter, observe: _Observer) -> None:
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
        self.age = histogram("wspool.connection.age", "s", "Age of a connection at its end.", _AGES)
        for name, unit, field in (
            ("wspool.connection.count", "{connection}", "count"),
            ("wspool.connection.max", "{connection}", "max"),
            ("wspool.connection.pending_requests", "{request}", "pending"),
        ):
            meter.create_observable_up_down_counter(name, [observe.of(field)], unit=unit)
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


class _Observer:
    """Asks the pools what is the case now, when somebody collects."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pools: dict[int, PoolRecord] = {}
        #: What pools have counted that are closed, by their name and what it was.
        self._past: Counter[tuple[str, str]] = Counter()

        #: What turns have counted, by the metric, the pool and what tells it apart.
        self._counts: Counter[tuple[str, int, str]] = Counter()
        self._names: dict[int, str] = {}

    def watch(self, record: PoolRecord) -> None:
        with self._lock:
            self._pools[record.pool] = record
            self._names[record.pool] = _name(record)

    def count(self, name: str, pool: int, kind: str, value: int = 1) -> None:
        with self._lock:
            self._counts[name, pool, kind] += value

    def counted(self, name: str) -> Callable[[metrics.CallbackOptions], Iterable[metrics.Observation]]:
        def observe(_: metrics.CallbackOptions) -> Iterable[metrics.Observation]:
            found: Counter[tuple[str, str]] = Counter()
            with self._lock:
                for (each, pool, kind), value in self._counts.items():
                    if each == name:
                        found[self._names.get(pool, ""), kind] += value
            return [
                metrics.Observation(value, {"wspool.pool.name": pool, _KINDS[name]: kind})
                for (pool, kind), value in found.items()
            ]

        return observe

    def of(self, field: str) -> Callable[[metrics.CallbackOptions], Iterable[metrics.Observation]]:
        def observe(_: metrics.CallbackOptions) -> Iterable[metrics.Observation]:
            with self._lock:
                return list(self._observe(field))

        return observe

    def _observe(self, field: str) -> Iterable[metrics.Observation]:
        found: Counter[tuple[str, str]] = Counter()
        for (name, counted), value in self._past.items():
            if counted == field:
                found[name, ""] += value
        for number, record in [*self._pools.items()]:
            statistics, name = record.statistics(), _name(record)
            for state, value in _values(statistics, field).items():
                found[name, state] += value
            if statistics.closed_pool and not statistics.size + statistics.closing:
                del self._pools[number]
                for each in ("refused", "stolen"):
                    self._past[name, each] += _values(statistics, each)[""]
        for (name, state), value in found.items():
            attributes = {"wspool.pool.name": name}
            yield metrics.Observation(
                value, attributes | {"wspool.connection.state": state} if state else attributes
            )


def _values(statistics: PoolStatistics, field: str) -> Mapping[str, int]:
    match field:
        case "count":
            used = min(statistics.leased + statistics.warming, statistics.open + statistics.retiring)
            return {"used": used, "idle": statistics.open + statistics.retiring - used}
        case "max":
            return {"": 0 if statistics.closed_pool else statistics.max_size}
        case "pending":
            return {"": statistics.waiting}
        case _:
            return {"": cast("int", getattr(statistics, field))}


class OpenTelemetryInstrument(Instrument):
    """Watches pools, and makes spans and metrics of what it is told.

    Args:
        tracer_provider: makes the spans; by default the global one.
        meter_provider: makes the metrics; by default the global one.
        spans: whether turns have spans, and `gen_ai.client.*` metrics, of their own. "never" for a host whose
            own cannot be told by its attributes.

    One may watch several pools.
    """

    def __init__(
        self,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
        *,
        spans: Spans = "auto",
    ) -> None:
        if spans not in ("auto", "always", "never"):
            raise ValueError(f"spans={spans!r} is none of 'auto', 'always', 'never'")
        self._spans = spans
        self._tracer = trace.get_tracer("wspool", version.VERSION, tracer_provider)
        self._observer = _Observer()
        meter = metrics.get_meter("wspool", version.VERSION, meter_provider)
        self._metrics = _Metrics(meter, self._observer)
        #: What every span of a pool says.
        self._servers: dict[int, _Attributes] = {}
        self._dials: dict[tuple[int, int], SpanContext] = {}
        self._models: dict[tuple[int, str | None], _Attributes] = {}

    def pool_opened(self, record: PoolRecord) -> None:
        """Remember what its spans say of it."""
        self._servers[record.pool] = {
            "gen_ai.provider.name": _PROVIDERS.get(record.provider, "openai"),
            "server.address": record.host,
            "server.port": record.port,
        }
        self._observer.watch(record)

    def dial_ended(self, record: DialRecord) -> None:
        """Make its span, the root of a trace."""
        attributes: _Attributes = {
            **self._server(record.pool),
            "network.protocol.name": record.transport,
            "wspool.pool": record.pool,
            "wspool.connection": record.connection,
        }
        for phase, seconds in record.phases.items():
            attributes[f"wspool.dial.{phase}"] = seconds
        error = None if record.failure is None else _dial_error(record)
        if error is not None:
            attributes["error.type"] = error
        ended, now = time.time_ns(), record.started + record.duration
        span = self._tracer.start_span(
            "wspool.dial",
            otel_context.Context(),
            SpanKind.CLIENT,
            attributes,
            start_time=_wall(record.started, now, ended),
        )
        if error is not None:
            span.set_status(Status(StatusCode.ERROR, error))
        else:
            self._dials[record.pool, record.connection] = span.get_span_context()
        span.end(ended)
        labels = self._server(record.pool)
        self._metrics.create.record(
            record.duration, labels if error is None else {**labels, "error.type": error}
        )

    def connection_closed(self, record: CloseRecord) -> None:
        """Count its age. Turns on it have ended."""
        self._dials.pop((record.pool, record.connection), None)
        labels = self._server(record.pool) | {"wspool.connection.close_reason": record.reason.value}
        self._metrics.age.record(record.age, labels)

    def lease_granted(self, record: GrantRecord) -> None:
        """Count how long it took."""
        self._metrics.wait.record(record.waited, self._server(record.pool))

    def conversation_moved(self, move: Move) -> None:
        """Count it."""
        self._observer.count("wspool.conversation.moves", move.pool, move.reason)

    def tool_ended(self, record: ToolRecord) -> None:
        """Make its span."""
        attributes: _Attributes = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": record.name,
            "gen_ai.tool.call.id": record.call_id,
            "gen_ai.tool.type": "function",
        }
        if record.error is not None:
            attributes["error.type"] = record.error
        ended, now = time.time_ns(), record.started + record.duration
        parent = None if record.context is None else record.context.run(otel_context.get_current)
        span = self._tracer.start_span(
            f"execute_tool {record.name}",
            parent,
            attributes=attributes,
            start_time=_wall(record.started, now, ended),
        )
        if record.error is not None:
            span.set_status(Status(StatusCode.ERROR, record.error))
        span.end(ended)
        # Not by name: a model may call what it likes.
        labels = {} if record.error is None else {"error.type": record.error}
        self._metrics.tool.record(record.duration, labels)

    def turn_ended(self, record: TurnRecord) -> None:
        """Make its span, or tell the host's."""
        count, pool = self._observer.count, record.pool
        count("wspool.turns", pool, record.status)
        if record.requests:
            kind = "full" if record.full else "delta"
            count("wspool.turn.continuation", pool, kind, record.requests)
            count("wspool.turn.input_items", pool, "given", record.items_given)
            count("wspool.turn.input_items", pool, "sent", record.items_sent)
        if self._spans == "never":
            return
        parent = None if record.context is None else record.context.run(otel_context.get_current)
        host = trace.get_current_span(parent)
        if self._spans == "auto" and _is_inference(host):
            if host.is_recording():
                host.set_attributes(_of_pool(record))
                if (dial := self._dial(record)) is not None:
                    host.add_link(dial)
            return
        error = _error(record)
        self._make(record, parent, error)
        self._measure(record, error)

    def _make(self, record: TurnRecord, parent: otel_context.Context | None, error: str | None) -> None:
        ended, dial = time.time_ns(), self._dial(record)
        span = self._tracer.start_span(
            f"chat {record.model}" if record.model is not None else "chat",
            parent,
            SpanKind.CLIENT,
            self._request(record),  # what a sampler may decide by
            links=None if dial is None else [Link(dial)],
            start_time=_wall(record.started, record.ended, ended),
        )
        if span.is_recording():
            found = _of_pool(record)
            _add_response(record, found)
            if error is not None:
                found["error.type"] = error
                span.set_status(Status(StatusCode.ERROR, record.error or error))
            span.set_attributes(found)
        span.end(ended)

    def _measure(self, record: TurnRecord, error: str | None) -> None:
        labels, count = self._labels(record), self._metrics
        told = labels if error is None else {**labels, "error.type": error}
        count.duration.record(record.ended - record.started, told)
        if record.first_event is not None:
            count.first.record(record.first_event, labels)
        if record.usage is not None:
            tokens = record.tokens
            count.tokens.record(tokens.input, {**labels, "gen_ai.token.type": "input"})
            count.tokens.record(tokens.output, {**labels, "gen_ai.token.type": "output"})

    def _dial(self, record: TurnRecord) -> SpanContext | None:
        return self._dials.get((record.pool, record.connection or 0))

    def _server(self, pool: int) -> _Attributes:
        return self._servers.get(pool, {})

    def _request(self, record: TurnRecord) -> _Attributes:
        found: _Attributes = {
            "gen_ai.operation.name": "chat",
            "gen_ai.request.stream": True,
            "openai.api.type": "responses",
            **self._server(record.pool),
        }
        if record.model is not None:
            found["gen_ai.request.model"] = record.model
        return found

    def _labels(self, record: TurnRecord) -> _Attributes:
        """Return what metrics of a turn are told apart by: a client must not make them without end."""
        model = record.model
        key = record.pool, model
        if (found := self._models.get(key)) is None:
            found = {"gen_ai.operation.name": "chat", **self._server(record.pool)}
            if len(self._models) >= _MOST:
                return {**found, "gen_ai.request.model": "other"}
            if model is not None:
                found["gen_ai.request.model"] = model
            self._models[key] = found
        return found


def _name(record: PoolRecord) -> str:
    return f"{record.host}:{record.port}"


def _wall(when: float, now: float, wall: int) -> int:
    """Return *when*, in seconds on trio's clock, as nanoseconds since the epoch: *now* is *wall* there."""
    return wall - int((now - when) * 1e9)


def _is_inference(span: Span) -> bool:
    """Whether *span* is a host's, for the very call that a turn is."""
    attributes = cast("object", getattr(span, "attributes", None))
    if not isinstance(attributes, Mapping):
        return False
    return cast("Mapping[str, object]", attributes).get("gen_ai.operation.name") in _INFERENCE


def _add_response(record: TurnRecord, found: _Attributes) -> None:
    if record.response_id is not None:
        found["gen_ai.response.id"] = record.response_id
    if record.response_model is not None:
        found["gen_ai.response.model"] = record.response_model
    if record.finish_reason is not None:
        found["gen_ai.response.finish_reasons"] = [record.finish_reason]
    if record.first_event is not None:
        found["gen_ai.response.time_to_first_chunk"] = record.first_event
    if record.service_tier is not None:
        found["openai.response.service_tier"] = record.service_tier
    if record.usage is not None:
        tokens = record.tokens
        found["gen_ai.usage.input_tokens"] = tokens.input
        found["gen_ai.usage.cache_read.input_tokens"] = tokens.cached
        found["gen_ai.usage.output_tokens"] = tokens.output
        found["gen_ai.usage.reasoning.output_tokens"] = tokens.reasoning


def _of_pool(record: TurnRecord) -> _Attributes:
    found: _Attributes = {
        "wspool.pool": record.pool,
        "wspool.status": record.status,
        "wspool.delivery": record.delivery,
        "wspool.waited": record.waited,
        "wspool.requests": record.requests,
    }
    if record.conversation is not None:
        found["wspool.conversation"] = record.conversation
    if record.connection is not None:
        found["wspool.connection"] = record.connection
        found["wspool.lane"] = record.lane or 0
    if record.requests:
        found["network.protocol.name"] = record.transport
        found["wspool.continuation"] = "full" if record.full else "delta"
        found["wspool.items.given"] = record.items_given
        found["wspool.items.sent"] = record.items_sent
        found["wspool.bytes.sent"] = record.bytes_sent
        found["wspool.bytes.saved"] = record.bytes_saved
        found["wspool.events"] = record.events
    return found


def _error(record: TurnRecord) -> str | None:
    """Return what kind of error a turn ended with, None for none: one of few words."""
    if record.error is None:
        return None
    code = record.error_code
    return code if code is not None and _CODE.fullmatch(code) else record.error


def _dial_error(record: DialRecord) -> str:
    return str(record.status) if record.status is not None else record.phase or "stopped"
