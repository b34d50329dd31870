"""What a pool does, for OpenTelemetry: spans of turns and tools below a span of yours. Needs `wspool[otel]`
and opentelemetry-sdk; to send them somewhere, take an OTLP exporter instead of this one.
"""

import trio
from endpoint import MODEL, endpoint
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import wspool
from wspool.otel import OpenTelemetryInstrument
from wspool.server import ModelTurn, ScriptedModel, function_call, message

SCRIPT = [
    ModelTurn(output=[function_call("tide", {"harbour": "Brest"})]),
    ModelTurn(output=[message("The tide is out.")]),
]


def tide(harbour: str) -> str:
    """Say how the tide is."""
    return "out"


def show(spans: tuple[ReadableSpan, ...]) -> None:
    """Print each span with the one that it is below."""
    names = {span.context.span_id: span.name for span in spans}
    for span in sorted(spans, key=lambda span: span.start_time or 0):
        parent = names.get(span.parent.span_id, "?") if span.parent else "nothing"
        print(f"{span.name} below {parent}, {len(span.attributes or {})} attributes, {len(span.links)} links")


async def main(url: str) -> None:
    """Run an agent inside a span."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    async with wspool.open_pool(url, instrument=OpenTelemetryInstrument()) as pool:
        with trace.get_tracer("an agent").start_as_current_span("look after the boat"):
            async with pool.conversation(model=MODEL, store=False) as conversation:
                print((await conversation.run("How is the tide in Brest?", tools=[tide])).output_text)
    show(exporter.get_finished_spans())


if __name__ == "__main__":
    with endpoint(ScriptedModel(SCRIPT)) as where:
        trio.run(main, where.url)
