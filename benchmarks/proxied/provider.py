"""The provider of the benchmark `proxy`: the reference server as a process, with a model that has work.

    python -m benchmarks.proxied.provider OPTIONS

prints its port, then for each line on its standard input one line of JSON about itself, until the input
ends. OPTIONS is JSON, the fields of `Options`. The model wants a tool called so many times and then answers;
it writes down each turn that it takes, and whose it is. What a turn costs can be told from the ledger
alone: `tokens`.
"""

from __future__ import annotations

import json
import math
import ssl
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from benchmarks.processes import Process
from wspool.server import (
    Fault,
    FaultScript,
    Item,
    ModelRequest,
    ModelTurn,
    Server,
    context_digest,
    function_call,
    message,
    open_server,
)
from wspool.server.models import text_of

__all__ = ["ANSWER", "FAULTS", "Options", "Reader", "lines", "main", "open_provider", "tokens"]

ANSWER: Final = "All parts are read."

#: The turn of a tool call, event by event: a cut may come before each of them.
_EVENTS: Final = (
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
    "response.output_item.done",
    "response.completed",
)

#: What goes wrong with a turn: 503 and 429, cuts at every event, and the end of a connection's life.
FAULTS: Final = (
    *(Fault(name, at=event) for event in _EVENTS for name in ("reset", "fin")),
    *(Fault("overloaded") for _ in range(7)),
    *(Fault("rate_limited") for _ in range(2)),
    *(Fault("connection_limit") for _ in range(3)),
    Fault("reset", at="idle"),
    Fault("close", at="idle", code=1011),
    Fault("failed"),
)


@attrs.frozen(kw_only=True)
class Options:
    """How it is.

    Attributes:
        port: 0 for a free one.
        calls: of tools, in each conversation.
        think: seconds before each answer.
        delay: seconds after each piece of it.
        lifetime: of a connection, in seconds; None for the provider's own.
        faults: share of the turns in which something goes wrong.
        seed: of the faults and the names of responses.
        ledger: file that gets a line per request.
        taken: file that gets a line per turn that the model takes.
        certificate: files of certificate and key, for TLS.
    """

    port: int = 0
    calls: int = 39
    think: float = 0.0
    delay: float = 0.0
    lifetime: float | None = None
    faults: float = 0.0
    seed: int = 0
    ledger: str | None = None
    taken: str | None = None
    certificate: tuple[str, str] | None = None


def tokens(context_items: int) -> tuple[int, int]:
    """Return the input and output tokens of a turn with so many items of context."""
    return 100 * context_items, 7


class Reader:
    """Wants a file read in parts."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._log = None if options.taken is None else open(options.taken, "ab", buffering=0)  # noqa: SIM115

    def respond(self, request: ModelRequest) -> ModelTurn:
        """Call once more, or answer."""
        context = request.context
        done = [item for item in context if str(item.get("type")).endswith("call_output")]
        if self._log is not None:
            asked = next(text_of(item) for item in context if item.get("role") == "user")
            turn = {"who": asked, "turn": len(done), "digest": context_digest(context)}
            self._log.write(json.dumps(turn).encode() + b"\n")
        given, made = tokens(len(context))
        usage = {"input_tokens": given, "output_tokens": made, "total_tokens": given + made}
        usage["input_tokens_details"] = {"cached_tokens": 0}  # type: ignore[assignment]
        usage["output_tokens_details"] = {"reasoning_tokens": 0}  # type: ignore[assignment]
        call = self._call(request, len(done)) if len(done) < self._options.calls else None
        said = message(ANSWER) if call is None else call
        return ModelTurn(output=[said], delay=self._options.think, usage=usage)

    def _call(self, request: ModelRequest, number: int) -> Item | None:
        names = {str(tool.get("name") or tool.get("type")) for tool in request.tools}
        command = f"cat part-{number}.txt"
        if "read" in names:
            return function_call("read", {"part": number})
        if "exec_command" in names:
            return function_call("exec_command", {"cmd": command, "max_output_tokens": 20_000})
        if "run_commands" in names:
            return function_call("run_commands", {"commands": [command]})
        return None


async def _serve(options: Options, model: Reader) -> None:
    script = FaultScript(rate=options.faults, seed=options.seed, faults=FAULTS)
    async with open_server(
        model,
        port=options.port if options.certificate is None else None,
        lifetime=math.inf if options.lifetime is None else options.lifetime,
        faults=script,
        seed=options.seed,
        ledger=options.ledger,
        delay_per_token=options.delay,
    ) as server:
        if options.certificate is None:
            await _until_told(server, int(server.base_url.rpartition(":")[2].partition("/")[0]))
            return
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*options.certificate)
        listeners = await trio.open_ssl_over_tcp_listeners(options.port, context, host="127.0.0.1")
        port = listeners[0].transport_listener.socket.getsockname()[1]  # type: ignore[attr-defined]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(trio.serve_listeners, partial(_secure, server), listeners))
            await _until_told(server, port)
            nursery.cancel_scope.cancel()


async def _secure(server: Server, stream: trio.SSLStream[trio.SocketStream]) -> None:
    try:
        await stream.do_handshake()
    except trio.BrokenResourceError:
        return
    await server.serve(stream)


async def _until_told(server: Server, port: int) -> None:
    print(port, flush=True)
    while await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
        known = server.statistics()
        account = {
            "cpu": time.process_time(),
            "wall": time.monotonic(),
            "creates": known.creates,
            "handshakes": known.connections_total,
            "failures": known.failures,
        }
        print(json.dumps(account), flush=True)


@contextmanager
def open_provider(options: Options) -> Generator[Process]:
    """Run one while the block runs."""
    process = Process("benchmarks.proxied.provider", json.dumps(attrs.asdict(options)))
    try:
        yield process
    finally:
        process.stop()


def lines(path: Path) -> list[dict[str, Any]]:
    """What was written into a file of one JSON object a line. One that was cut off is not counted."""
    found: list[dict[str, Any]] = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                pass  # its writer was killed
    return found


def main(arguments: list[str]) -> None:
    """Serve."""
    given: Mapping[str, Any] = json.loads(arguments[0])
    options = Options(**given)
    trio.run(_serve, options, Reader(options))


if __name__ == "__main__":
    main(sys.argv[1:])
