"""`wspool.otel`, with the exporters of the real SDK."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import trio

import wspool
from tests.doors.conftest import Far, far as far
from tests.helpers import FakeConnector, FakeWire, echo, error_frame, fake_pool, policy, serving
from tests.telemetry.doubt import two_pools
from wspool.server import EchoModel, ModelRequest, ModelTurn, function_call, message
from wspool.wire.wire import ConnectError

otel = pytest.importorskip("wspool.otel", reason="extra: otel")
trace_sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="opentelemetry-sdk")

from opentelemetry.sdk.metrics import MeterProvider  # noqa: E402
from opentelemetry.sdk.metrics.export import InMemoryMetricReader  # noqa: E402
from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: E402
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter  # noqa: E402
from opentelemetry.trace import SpanKind, StatusCode  # noqa: E402

SECRET_TEXT = "the-text-of-a-user"


class Sdk:
    """The SDK, with what it has exported."""

    def __init__(self, **options: Any) -> None:
        self._exporter = InMemorySpanExporter()
        self.tracers = trace_sdk.TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._reader = InMemoryMetricReader()
        self.meters = MeterProvider(metric_readers=[self._reader])
        self.tracer = self.tracers.get_tracer("host")
        self.instrument = otel.OpenTelemetryInstrument(self.tracers, self.meters, **options)

    def spans(self, prefix: str = "") -> list[Any]:
        return [span for span in self._exporter.get_finished_spans() if span.name.startswith(prefix)]

    def points(self) -> dict[str, list[Any]]:
        data: Any = self._reader.get_metrics_data()
        if data is None:
            return {}
        return {
            metric.name: list(metric.data.data_points)
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


class Caller:
    """Calls a tool, then says what that said."""

    def respond(self, request: ModelRequest) -> ModelTurn:
        last = request.context[-1]
        if last.get("type") == "function_call_output":
            return ModelTurn(output=[message(str(last["output"]))], delay=2.0)
        return ModelTurn(output=[function_call("look", {})], delay=1.0)


async def test_a_turn_is_a_span_of_its_caller(autojump_clock) -> None:
    """Named and filled as the conventions say; a link to the dial of its connection; no content."""
    sdk = Sdk()
    async with (
        serving(EchoModel()) as world,
        world.pool(limits=policy(max_size=1), instrument=sdk.instrument) as pool,
    ):
        with sdk.tracer.start_as_current_span("caller") as caller:
            async with pool.conversation(model="gpt-5.2", instructions=SECRET_TEXT) as conversation:
                await conversation.respond(SECRET_TEXT)
                await conversation.respond("more")

    (dial,) = sdk.spans("wspool.dial")
    first, second = sdk.spans("chat")
    assert "chat gpt-5.2" == first.name
    assert SpanKind.CLIENT is first.kind
    assert caller.get_span_context().span_id == first.parent.span_id == second.parent.span_id
    assert caller.get_span_context().trace_id == first.context.trace_id
    assert dial.parent is None
    assert [dial.context.span_id] == [link.context.span_id for link in first.links]
    its = conversation.statistics()
    known = dict(first.attributes)
    assert ("chat", "openai", "gpt-5.2", "responses", True) == (
        known["gen_ai.operation.name"],
        known["gen_ai.provider.name"],
        known["gen_ai.request.model"],
        known["openai.api.type"],
        known["gen_ai.request.stream"],
    )
    assert ("stop",) == known["gen_ai.response.finish_reasons"]
    assert {"server.address", "server.port", "gen_ai.response.id", "gen_ai.response.model"} <= set(known)
    assert its.usage.input == sum(span.attributes["gen_ai.usage.input_tokens"] for span in (first, second))
    assert ["full", "delta"] == [span.attributes["wspool.continuation"] for span in (first, second)]
    assert "error.type" not in known
    assert StatusCode.UNSET is first.status.status_code
    everything = "".join(span.to_json() for span in sdk.spans())
    assert SECRET_TEXT not in everything


async def test_that_nobody_can_tell_whose_trouble_it_is_is_seen(autojump_clock) -> None:
    """Two pools of one endpoint: their turns are added up, of their times it is the longer one."""
    sdk = Sdk()
    async with two_pools(sdk.instrument) as refused:
        one = await refused()
        points = sdk.points()
        assert [3] == [point.value for point in points["wspool.turn.suspects"]]
        assert [one.statistics().unclear] == [point.value for point in points["wspool.turn.unclear_time"]]


async def test_metrics_have_the_names_of_the_conventions(autojump_clock) -> None:
    """Durations, first chunks and tokens of turns; connections as those of a database's client."""
    sdk = Sdk()
    async with (
        serving(EchoModel()) as world,
        world.pool(limits=policy(max_size=3, min_idle=1), instrument=sdk.instrument) as pool,
        pool.conversation(model="m") as conversation,
    ):
        await conversation.respond("hello")
        points = sdk.points()
        statistics = pool.statistics()
        usage = conversation.statistics().usage

    (duration,) = points["gen_ai.client.operation.duration"]
    assert 1 == duration.count
    assert ("chat", "m") == (
        duration.attributes["gen_ai.operation.name"],
        duration.attributes["gen_ai.request.model"],
    )
    assert 81.92 in duration.explicit_bounds
    tokens = {
        point.attributes["gen_ai.token.type"]: point.sum for point in points["gen_ai.client.token.usage"]
    }
    assert {"input": usage.input, "output": usage.output} == tokens
    assert 1 == points["gen_ai.client.operation.time_to_first_chunk"][0].count
    count = {
        point.attributes["wspool.connection.state"]: point.value
        for point in points["wspool.connection.count"]
    }
    assert statistics.open == sum(count.values())
    assert [3] == [point.value for point in points["wspool.connection.max"]]
    assert [statistics.min_idle] == [point.value for point in points["wspool.connection.idle.min"]]
    assert [0] == [point.value for point in points["wspool.connection.pending_requests"]]
    assert statistics.granted == points["wspool.connection.wait_time"][0].count
    assert statistics.dialed == points["wspool.connection.create_time"][0].count
    assert {"given", "sent"} == {
        point.attributes["wspool.turn.items.kind"] for point in points["wspool.turn.input_items"]
    }


@pytest.mark.parametrize(
    ("code", "kind"), [("slow_down", "slow_down"), ("what a\nlong text", "RateLimitedError")]
)
async def test_an_error_has_its_type(autojump_clock, code: str, kind: str) -> None:
    """The code of the server where it is one, else the class; a text is none."""
    sdk = Sdk()

    def refuse(wire: FakeWire, request: dict[str, Any]) -> None:
        wire.push(error_frame(code, 429))

    async with (
        fake_pool(FakeConnector(refuse), limits=policy(max_resends=0), instrument=sdk.instrument) as pool,
        pool.lease() as lease,
    ):
        with pytest.raises(wspool.RateLimitedError):
            async with lease.create(model="m") as turn:
                await turn.result()

    (span,) = sdk.spans("chat")
    assert kind == span.attributes["error.type"]
    assert (StatusCode.ERROR, "RateLimitedError") == (span.status.status_code, span.status.description)
    (point,) = sdk.points()["gen_ai.client.operation.duration"]
    assert kind == point.attributes["error.type"]


async def test_an_outage_has_spans(autojump_clock) -> None:
    """Turns that never got a connection, and the dials that failed."""
    sdk = Sdk()
    connector = FakeConnector(echo)
    connector.failure = lambda: ConnectError("refused", phase="tcp")
    async with (
        fake_pool(connector, limits=policy(give_up_after=5), instrument=sdk.instrument) as pool,
        pool.conversation(model="m") as conversation,
    ):
        with pytest.raises(wspool.DialFailedError):
            await conversation.respond("x")

    (span,) = sdk.spans("chat")
    assert ("DialFailedError", "unsent") == (span.attributes["error.type"], span.attributes["wspool.status"])
    assert 4 < (span.end_time - span.start_time) / 1e9 < 8, "waiting in line is part of it"
    dials = sdk.spans("wspool.dial")
    assert {"tcp"} == {dial.attributes["error.type"] for dial in dials}
    assert len(dials) == pool.statistics().dial_failures


async def test_tools_are_spans(autojump_clock) -> None:
    """As the conventions call them, beside the turns of their run; a failed one is an error."""
    sdk = Sdk()

    async def look() -> str:
        await trio.sleep(3)
        raise wspool.ToolError("no")

    async with (
        serving(Caller()) as world,
        world.pool(instrument=sdk.instrument) as pool,
        pool.conversation(model="m") as conversation,
    ):
        with sdk.tracer.start_as_current_span("caller") as caller:
            await conversation.run("go", tools={"look": look})

    (tool,) = sdk.spans("execute_tool")
    assert "execute_tool look" == tool.name
    assert caller.get_span_context().span_id == tool.parent.span_id
    assert ("execute_tool", "look", "ToolError") == (
        tool.attributes["gen_ai.operation.name"],
        tool.attributes["gen_ai.tool.name"],
        tool.attributes["error.type"],
    )
    assert 3 == pytest.approx((tool.end_time - tool.start_time) / 1e9, abs=0.01)


@pytest.mark.parametrize(
    ("spans", "operation", "expected"),
    [
        ("auto", "chat", 0),
        ("auto", "invoke_agent", 1),
        ("auto", None, 1),
        ("always", "chat", 1),
        ("never", None, 0),
    ],
)
async def test_a_host_that_makes_its_own_spans_is_not_doubled(
    autojump_clock, spans: str, operation: str | None, expected: int
) -> None:
    """It is given what only the pool knows; tokens are counted once."""
    sdk = Sdk(spans=spans)
    attributes = {} if operation is None else {"gen_ai.operation.name": operation}
    async with fake_pool(FakeConnector(echo), instrument=sdk.instrument) as pool:
        with sdk.tracer.start_as_current_span("host's", attributes=attributes):
            async with pool.conversation(model="m") as conversation:
                await conversation.respond("x")

    assert expected == len(sdk.spans("chat"))
    assert expected == len(sdk.points().get("gen_ai.client.operation.duration", []))
    (host,) = sdk.spans("host's")
    told = spans == "auto" and operation == "chat"
    assert told == ("wspool.connection" in host.attributes)
    assert told == bool(host.links)


def test_a_wrong_choice_is_refused() -> None:
    with pytest.raises(ValueError, match="spans="):
        otel.OpenTelemetryInstrument(spans="some")


def test_a_caller_in_asyncio_is_the_parent(far: Far) -> None:
    """The context goes through the runtime, each task's its own."""
    sdk = Sdk()

    async def ask(pool: wspool.aio.Pool, name: str) -> None:
        with sdk.tracer.start_as_current_span(name):
            async with pool.conversation(model=name) as conversation:
                await conversation.respond("x")

    async def main() -> None:
        async with wspool.aio.open_pool(far.url, instrument=sdk.instrument) as pool:
            await asyncio.gather(*(ask(pool, f"task {number}") for number in range(5)))

    asyncio.run(main())
    callers = {span.name: span.context.span_id for span in sdk.spans("task")}
    found = {span.attributes["gen_ai.request.model"]: span.parent.span_id for span in sdk.spans("chat")}
    assert 5 == len(found)
    assert callers == found


def test_a_caller_in_a_thread_is_the_parent(far: Far) -> None:
    sdk = Sdk()
    with (
        wspool.blocking.open_pool(far.url, instrument=sdk.instrument) as pool,
        sdk.tracer.start_as_current_span("caller") as caller,
        pool.conversation(model="m") as conversation,
    ):
        conversation.respond("x")

    (span,) = sdk.spans("chat")
    assert caller.get_span_context().span_id == span.parent.span_id


async def test_without_an_sdk_nothing_happens(autojump_clock) -> None:
    """The API alone makes nothing, and nothing goes wrong."""
    async with (
        fake_pool(FakeConnector(echo), instrument=otel.OpenTelemetryInstrument()) as pool,
        pool.conversation(model="m") as conversation,
    ):
        assert "ok" == (await conversation.respond("x")).output_text


async def test_what_is_over_is_forgotten(autojump_clock) -> None:
    """A thousand connections leave nothing behind; a closed pool's counts stay."""
    sdk = Sdk()

    def answer_and_go(wire: FakeWire, request: dict[str, Any]) -> None:
        echo(wire, request)
        wire.hang_up()

    connector = FakeConnector(answer_and_go)
    for _ in range(2):
        async with fake_pool(connector, instrument=sdk.instrument) as pool:
            for _ in range(20):
                async with pool.conversation(model="m") as conversation:
                    await conversation.respond("x")
                await trio.sleep(1)
        await trio.sleep(5)
        sdk.points()

    assert {} == sdk.instrument._dials
    assert {} == sdk.instrument._observer._pools
