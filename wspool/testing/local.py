"""A server for a test, in a thread of its own, so that any client may use it: trio, asyncio, threads, other
processes.

What it answers, what goes wrong and what it has seen is on one object, which the test talks to from its own
thread.
"""

import threading
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, Final

import trio

from wspool.server.echo import EchoModel
from wspool.server.faults.script import Fault, FaultRule, FaultScript
from wspool.server.ledger import Entry
from wspool.server.models import (
    Item,
    Model,
    ModelRequest,
    ModelTurn,
    ScriptedModel,
    TurnError,
    message,
    turns_so_far,
)
from wspool.server.protocol.profiles import PROFILES
from wspool.server.server import Server, open_server

__all__ = ["Addressed", "LocalServer", "Said", "in_thread", "local_server", "refusal"]

#: What a model may be scripted to say: a text, an item, items, a turn, or a turn as plain JSON.
Said = str | ModelTurn | Mapping[str, Any] | Sequence[Item]

#: Longest time that a server's thread may take to end, in seconds. It waits for nothing.
_END: Final = 10.0


@contextmanager
def in_thread(serve: Callable[[], AbstractAsyncContextManager[Server]]) -> Generator[Server]:
    """Run a server in a thread of its own, with its own trio run, while the body runs.

    Raises:
      Whatever *serve* raises, at its beginning or at its end.
    """
    begun: Future[tuple[Server, trio.lowlevel.TrioToken, trio.Event]] = Future()
    problems: list[BaseException] = []

    async def main() -> None:
        async with serve() as server:
            over = trio.Event()
            begun.set_result((server, trio.lowlevel.current_trio_token(), over))
            await over.wait()

    def run() -> None:
        try:
            trio.run(main)
        except BaseException as problem:  # noqa: ASYNC103  # told to the thread that waits for this one
            if begun.done():
                problems.append(problem)
            else:
                begun.set_exception(problem)

    thread = threading.Thread(target=run, name="wspool server", daemon=True)
    thread.start()
    server, token, over = begun.result()
    try:
        yield server
    finally:
        try:
            token.run_sync_soon(over.set)
        except trio.RunFinishedError:
            pass  # it has ended by itself, and says why below
        thread.join(_END)
    if thread.is_alive():
        raise AssertionError(f"bug: the server has not ended within {_END:g} s")
    if problems:
        raise problems[0]


def refusal(
    status: int, code: str | None = None, *, message: str = "No.", retry_after: float | None = None
) -> ModelTurn:
    """A turn that never begins: an HTTP status, or an error frame.

    Args:
      retry_after: seconds that the client is told to wait.
    """
    kind = (
        "rate_limit_error" if status == 429 else "server_error" if status >= 500 else "invalid_request_error"
    )
    headers = None if retry_after is None else {"Retry-After": f"{retry_after:.15g}"}
    error = TurnError(message=message, code=code, type=kind, status=status, headers=headers)
    return ModelTurn(status="rejected", error=error)


class _ScriptOverError(AssertionError):
    """A conversation asks for a turn more than the script has."""


class _Once:
    """A script that ends: unlike `ScriptedModel`, it does not start over."""

    def __init__(self, turns: Sequence[ModelTurn]) -> None:
        self._script = ScriptedModel(turns)
        self._length = len(turns)

    def respond(self, request: ModelRequest) -> ModelTurn:
        if (number := turns_so_far(request.context)) >= self._length:
            raise _ScriptOverError(
                f"the script ends after turn {self._length}; a conversation asks for turn {number + 1}"
            )
        return self._script.respond(request)


class _Stage:
    """The model of a local server: whoever is on stage answers; what is asked, and what fails, is kept."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.requests: list[ModelRequest] = []
        self.failures: list[Exception] = []

    def respond(self, request: ModelRequest) -> ModelTurn:
        self.requests.append(request)
        try:
            return self.model.respond(request)
        except _ScriptOverError as over:
            self.failures.append(over)
            # Not an error that clients take again, and again, after a while.
            return refusal(400, "script_over", message=str(over))
        except Exception as failure:  # whatever the model raises: the test is told, at its end
            self.failures.append(failure)
            raise


class Addressed:
    """What a test talks to: a server, by its addresses."""

    def __init__(self, server: Server) -> None:
        self.server: Final = server

    @property
    def url(self) -> str:
        """The WebSocket URL."""
        return self.server.url

    @property
    def http_url(self) -> str:
        """The URL to POST to."""
        return self.server.http_url

    @property
    def base_url(self) -> str:
        """What SDKs call so."""
        return self.server.base_url


class LocalServer(Addressed):
    """A reference server for one test. All methods may be called from any thread."""

    def __init__(self, server: Server, stage: _Stage, faults: FaultScript, ledger: list[Entry]) -> None:
        super().__init__(server)
        self._stage = stage
        self._faults = faults
        self._ledger = ledger

    @property
    def requests(self) -> list[ModelRequest]:
        """What the model was asked so far."""
        return list(self._stage.requests)

    @property
    def ledger(self) -> list[Entry]:
        """What the server did so far, one entry per request that has ended."""
        return list(self._ledger)

    def script(self, *turns: Said) -> None:
        """Say these turns in this order, in every conversation; a turn more is an error of the test.

        A turn that fails or is refused leaves nothing in the conversation, so asking again gets the same.
        To have something go wrong once, use `fault`.
        """
        self._stage.model = _Once([_turn(said) for said in turns])

    def use(self, model: Model) -> None:
        """Let *model* answer from now on."""
        self._stage.model = model

    def fault(self, name: str, *, request: int | None = None, **place: Any) -> None:
        """Let something go wrong, once, over WebSocket.

        Args:
          name: one of `wspool.server.FAULTS`.
          request: with which request, counted from 1 over all connections, or with which connection if it is
            about the handshake; None is the next one that has none.
          **place: `at`, `after`, `occurrence`, `delay` and the fault's own options (see `Fault`).

        Raises:
          ValueError, TypeError: there is no such fault, or it can not happen so; the text says what there is.
        """
        fault = Fault(name, **place)
        if fault.concerns_connection():
            self._faults.add(FaultRule(fault, connection=request))
        else:
            self._faults.add(FaultRule(fault, create=request))

    def expect(
        self,
        *,
        requests: int | None = None,
        outcomes: Sequence[str] | None = None,
        continued: int | None = None,
        connections: int | None = None,
        transport: str | None = None,
    ) -> None:
        """Compare what the server did with what a test expects; what is not given is not looked at.

        Args:
          requests: how many there were, warm-ups aside.
          outcomes: of all of them, in the order of receipt: `completed`, `incomplete`, `failed`, `rejected`,
            `lost`.
          continued: how many named a parent that was found, so that only what was new had to be sent.
          connections: how many connections they came on.
          transport: that of all of them, `websocket` or `http`.

        Raises:
          AssertionError: something is different; the text has the ledger in it.
        """
        entries = sorted(
            (entry for entry in self._ledger if entry["generate"]), key=lambda e: e["received_order"]
        )
        found = {
            "requests": len(entries),
            "outcomes": [entry["outcome"] for entry in entries],
            "continued": sum(entry["parent_from"] is not None for entry in entries),
            "connections": len({entry["connection"] for entry in entries}),
            "transport": " and ".join(sorted({entry["transport"] for entry in entries})),
        }
        expected = {
            "requests": requests,
            "outcomes": None if outcomes is None else list(outcomes),
            "continued": continued,
            "connections": connections,
            "transport": transport,
        }
        wrong = [
            f"{name}: expected {value!r}, got {found[name]!r}"
            for name, value in expected.items()
            if value is not None and value != found[name]
        ]
        if wrong:
            raise AssertionError("\n".join([*wrong, "the server's ledger:", *_table(entries)]))


def _turn(said: Said) -> ModelTurn:
    match said:
        case str():
            return ModelTurn(output=[message(said)])
        case ModelTurn():
            return said
        case Mapping() if "type" in said:
            return ModelTurn(output=[dict(said)])
        case Mapping():
            return ModelTurn.from_json(said)
        case _:
            return ModelTurn(output=list(said))


def _table(entries: Iterable[Entry]) -> list[str]:
    rows = [("", "transport", "connection", "lane", "parent", "items", "outcome", "error", "fault")]
    for number, entry in enumerate(entries, 1):
        parent = entry["previous_response_id"]
        rows.append(
            (
                str(number),
                entry["transport"],
                str(entry["connection"]),
                entry["lane"] or "-",
                f"{parent} ({entry['parent_from'] or 'not found'})" if parent else "-",
                f"{entry['input_items']} of {entry['context_items']}",
                entry["outcome"],
                entry["error_code"] or "-",
                entry["fault"] or "-",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


@contextmanager
def local_server(**options: Any) -> Generator[LocalServer]:
    """A reference server in a thread of its own while the body runs.

    Args:
      **options: of `open_server`; `profile` may be a name, and `model` is who answers until `script` or `use`
        says otherwise: echo, if not given.

    Raises:
      Exception: what the model raised, at the end of the body.
    """
    stage, ledger = _Stage(options.pop("model", None) or EchoModel()), list[Entry]()
    faults = options.setdefault("faults", FaultScript())
    if isinstance(profile := options.get("profile"), str):
        if profile not in PROFILES:
            raise ValueError(f"there is no profile {profile!r}; there are {', '.join(PROFILES)}")
        options["profile"] = PROFILES[profile]
    with in_thread(lambda: open_server(stage, ledger=ledger, **options)) as server:
        yield LocalServer(server, stage, faults, ledger)
    if stage.failures:
        raise stage.failures[0]
