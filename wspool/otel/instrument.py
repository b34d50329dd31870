"""The instrument of `wspool.otel`; its rules are there."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from contextvars import Context, ContextVar
from typing import Final, Literal, TypeAlias, cast

import attrs
from opentelemetry import context as otel_context, metrics, trace
from opentelemetry.trace import Span, SpanContext, SpanKind, Status, StatusCode

from wspool.core import version
from wspool.core.begun import LeaseRecord, ToolBegun, TurnBegun
from wspool.core.statistics import (
    CloseRecord,
    DialRecord,
    GrantRecord,
    Move,
    PoolRecord,
    ToolRecord,
    TurnRecord,
)
from wspool.otel.content import attributes_of, is_wanted
from wspool.otel.metrics import Metrics, Observer, name_of
from wspool.pool.instrument import Instrument

__all__ = ["OpenTelemetryInstrument", "Spans"]

#: Whether turns have spans of their own. `auto`: where the host makes none for the same call.
Spans: TypeAlias = Literal["auto", "always", "never"]

#: A span that has begun, and when, in nanoseconds since the epoch.
_Begun: TypeAlias = tuple[Span, int]
_Attributes: TypeAlias = dict[str, "str | bool | int | float | Sequence[str]"]

#: What providers are called there. Whoever else speaks this protocol has the flavour of OpenAI.
_PROVIDERS: Final = {"azure": "azure.ai.openai", "xai": "x_ai"}
#: Operations of a host's span that mean the same call.
_INFERENCE: Final = frozenset({"chat", "generate_content", "text_completion"})
#: What of a server is taken for a code, and not for a text.
_CODE: Final = re.compile(r"[A-Za-z][\w.-]{0,63}", re.ASCII)
#: Models of which metrics are kept apart for one endpoint, at most.
_MOST: Final = 100


@attrs.frozen
class _Place:
    """Where pools go.

    Attributes:
        name: what they are called.
        attributes: what each of their spans says.
        models: what metrics of turns are told apart by, by the model.
    """

    name: str = ""
    attributes: _Attributes = attrs.field(factory=dict[str, "str | bool | int | float | Sequence[str]"])
    models: dict[str | None, _Attributes] = attrs.field(factory=dict[str | None, _Attributes])

    @classmethod
    def of(cls, record: PoolRecord) -> _Place:
        return cls(
            name_of(record),
            {
                "gen_ai.provider.name": _PROVIDERS.get(record.provider, "openai"),
                "server.address": record.host,
                "server.port": record.port,
            },
        )


class OpenTelemetryInstrument(Instrument):
    """Watches pools, and makes spans and metrics of what it is told.

    Args:
        tracer_provider: makes the spans; by default the global one.
        meter_provider: makes the metrics; by default the global one.
        spans: whether turns have spans, and `gen_ai.client.*` metrics, of their own. "never" for a host whose
            own cannot be told by its attributes.
        content: whether the spans of turns say what was said: the input that was given, the instructions, the
            output. None for what `OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT` says ("true",
            "SPAN_ONLY" or "SPAN_AND_EVENT" for yes), which is no unless it is set.

    One may watch several pools.
    """

    def __init__(
        self,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
        *,
        spans: Spans = "auto",
        content: bool | None = None,
    ) -> None:
        if spans not in ("auto", "always", "never"):
            raise ValueError(f"spans={spans!r} is none of 'auto', 'always', 'never'")
        self._spans = spans
        self.wants_content = spans != "never" and is_wanted(content)
        #: In the context of a turn or a call of a tool: its span, None where it has none of its own.
        self._own: ContextVar[_Begun | None] = ContextVar("wspool.otel", default=None)
        self._tracer = trace.get_tracer("wspool", version.VERSION, tracer_provider)
        self._observer = Observer()
        meter = metrics.get_meter("wspool", version.VERSION, meter_provider)
        self._metrics = Metrics(meter, self._observer)
        #: Where each pool goes. Those of one endpoint share it.
        self._places: dict[int, _Place] = {}
        self._endpoints: dict[tuple[str, str, int], _Place] = {}
        self._nowhere = _Place()
        self._dials: dict[tuple[int, int], SpanContext] = {}

    def pool_opened(self, record: PoolRecord) -> None:
        """Remember what its spans say of it."""
        endpoint = (record.provider, record.host, record.port)
        if endpoint not in self._endpoints:
            self._endpoints[endpoint] = _Place.of(record)
        self._places[record.pool] = self._endpoints[endpoint]
        for closed in self._observer.watch(record):
            del self._places[closed]

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

    def lease_ended(self, record: LeaseRecord) -> None:
        """Count how long it was held."""
        self._metrics.use.record(record.held, self._server(record.pool))

    def conversation_moved(self, move: Move) -> None:
        """Count it."""
        self._observer.count("wspool.conversation.moves", self._place(move.pool).name, move.reason)

    def tool_begun(self, record: ToolBegun) -> None:
        """Begin its span, the current one in the tool."""
        attributes: _Attributes = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": record.name,
            "gen_ai.tool.call.id": record.call_id,
            "gen_ai.tool.type": "function",
        }
        self._begin(record.context, f"execute_tool {record.name}", SpanKind.INTERNAL, attributes)

    def tool_ended(self, record: ToolRecord) -> None:
        """End its span."""
        if (begun := self._begun(record.context)) is not None:
            span, since = begun
            if record.error is not None:
                span.set_attribute("error.type", record.error)
                span.set_status(Status(StatusCode.ERROR, record.error))
            span.end(since + int(record.duration * 1e9))
        # Not by name: a model may call what it likes.
        labels = {} if record.error is None else {"error.type": record.error}
        self._metrics.tool.record(record.duration, labels)

    def turn_begun(self, record: TurnBegun) -> None:
        """Begin its span, the current one in `on_event`, unless the host's own is that already."""
        if self._spans == "never":
            return
        if self._spans == "auto" and _is_inference(record.context.run(trace.get_current_span)):
            record.context.run(self._own.set, None)  # nor is it that of what it was begun in
            return
        name = f"chat {record.model}" if record.model is not None else "chat"
        self._begin(record.context, name, SpanKind.CLIENT, self._request(record))

    def turn_ended(self, record: TurnRecord) -> None:
        """End its span, or tell the host's."""
        count, pool = self._observer.count, self._place(record.pool).name
        count("wspool.turns", pool, record.status)
        if record.requests:
            kind = "full" if record.full else "delta"
            count("wspool.turn.continuation", pool, kind, record.requests)
            count("wspool.turn.input_items", pool, "given", record.items_given)
            count("wspool.turn.input_items", pool, "sent", record.items_sent)
        if self._spans == "never":
            return
        begun = self._begun(record.context)
        if begun is None:
            host = trace.get_current_span(_current(record.context))
            if host.is_recording():
                host.set_attributes(_of_pool(record))
                if (dial := self._dial(record)) is not None:
                    host.add_link(dial)
            return
        error = _error(record)
        self._end(record, begun, error)
        self._measure(record, error)

    def _begin(self, context: Context, name: str, kind: SpanKind, attributes: _Attributes) -> None:
        """Begin a span, and let it be the current one of *context*."""
        parent = _current(context)
        now = time.time_ns()
        span = self._tracer.start_span(name, parent, kind, attributes, start_time=now)
        context.run(self._own.set, (span, now))
        if span.get_span_context().is_valid:  # else there is no SDK, and nothing to be the parent of
            context.run(otel_context.attach, trace.set_span_in_context(span, parent))

    def _begun(self, context: Context | None) -> _Begun | None:
        return None if context is None else context.get(self._own)

    def _end(self, record: TurnRecord, begun: _Begun, error: str | None) -> None:
        span, since = begun
        if span.is_recording():
            found = _of_pool(record)
            _add_response(record, found)
            if record.content is not None:
                found.update(attributes_of(record.content, record.finish_reason))
            if error is not None:
                found["error.type"] = error
                span.set_status(Status(StatusCode.ERROR, record.error or error))
            span.set_attributes(found)
            if (dial := self._dial(record)) is not None:
                span.add_link(dial)
        span.end(since + int((record.ended - record.started) * 1e9))

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

    def _place(self, pool: int) -> _Place:
        return self._places.get(pool, self._nowhere)  # it has closed before this was told

    def _server(self, pool: int) -> _Attributes:
        return self._place(pool).attributes

    def _request(self, record: TurnBegun) -> _Attributes:
        """Return what is known when it begins, which a sampler may decide by."""
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
        place, model = self._place(record.pool), record.model
        if (found := place.models.get(model)) is None:
            found = {"gen_ai.operation.name": "chat", **place.attributes}
            if len(place.models) >= _MOST:
                return {**found, "gen_ai.request.model": "other"}
            if model is not None:
                found["gen_ai.request.model"] = model
            place.models[model] = found
        return found


def _current(context: Context | None) -> otel_context.Context | None:
    return None if context is None else context.run(otel_context.get_current)


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
