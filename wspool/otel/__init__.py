"""wspool for OpenTelemetry: spans and metrics of turns, dials, tools and connections (extra: otel).

    async with wspool.open_pool(instrument=OpenTelemetryInstrument()) as pool: ...

Rules of this module:

* Only the API is needed; without an SDK everything here does nothing. Names are those of OpenTelemetry's
  conventions for generative AI (`gen_ai.*`, `openai.*`: its repository `semantic-conventions-genai`, status
  Development, hence written out here), and of its conventions for database clients where a pool is concerned:
  `db.client.connection.*` is `wspool.connection.*` here.
* A turn's span is a child of the span that its caller was in when it was entered, on trio, in asyncio and in
  threads. It begins there, so waiting in line is part of it.
* While the pool calls a function of the caller's (`on_event`, tools), the span of that turn, or of that call,
  is the current one, in whatever world it runs: what the function makes is a child. In the block of a turn it
  is not: that is the caller's own code, and a generator that waits in it would hand the span to others.
* A dial belongs to no turn: its span is the root of its own trace, and every turn on that connection has a
  link to it.
* Content (input, output, instructions, arguments of tools) is in no metric, and in a span only if that is
  asked for (`content=`, or the conventions' variable of the environment), without the keys of the connection.
  A server's text is nowhere but for its codes.
* Where the host makes a span for the same call (`gen_ai.operation.name` of an inference), that one is given
  what only the pool knows, and there is neither a second span nor a second count of tokens.
"""

try:
    import opentelemetry.trace as _  # noqa: F401
except ImportError as error:
    raise ImportError("wspool.otel needs opentelemetry-api: pip install 'wspool[otel]'") from error

from wspool.otel.instrument import OpenTelemetryInstrument as OpenTelemetryInstrument, Spans as Spans

__all__ = ["OpenTelemetryInstrument", "Spans"]
