"""OpenAI's own client before the proxy: what it makes of heartbeats, failures and retries. Real sockets."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import pytest
import trio

from wspool.proxy import Proxy, Record, Settings, Where, open_proxy
from wspool.server import (
    Entry,
    Fault,
    FaultRule,
    FaultScript,
    ModelRequest,
    ModelTurn,
    TurnError,
    function_call,
    message,
    open_server,
)

openai = pytest.importorskip("openai")


class Seen:
    """The records of what has ended, for another thread."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self._changed = threading.Condition()

    def hear(self, record: Record) -> None:
        if record.outcome is not None:
            with self._changed:
                self.records.append(record)
                self._changed.notify_all()

    def wait(self, condition: Callable[[list[Record]], bool]) -> list[Record]:
        """The records, once *condition* holds: a record ends right after its answer."""
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self.records), 20)
            return list(self.records)


@contextmanager
def running(
    model: Any, *, settings: Settings | None = None, server: Any = None, **pool: Any
) -> Generator[tuple[str, list[Entry], Seen]]:
    """A proxy before a provider, in a thread: its base URL, the provider's ledger, its records."""
    seen = Seen()
    begun, over = threading.Event(), trio.Event()
    ledger: list[Entry] = []
    found: list[Proxy] = []
    tokens: list[trio.lowlevel.TrioToken] = []
    problems: list[BaseException] = []

    async def main() -> None:
        tokens.append(trio.lowlevel.current_trio_token())
        async with (
            open_server(model, ledger=ledger, **(server or {})) as provider,
            open_proxy(provider.url, where=Where(port=0), settings=settings or Settings(), **pool) as proxy,
        ):
            found.append(proxy)
            with proxy.records.listen(seen.hear):
                begun.set()
                await over.wait()

    def run() -> None:
        try:
            trio.run(main)
        except BaseException as problem:  # noqa: ASYNC103  # told to the thread that waits for this one
            problems.append(problem)
            begun.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert begun.wait(20)
    try:
        yield found[0].base_url, ledger, seen
    finally:
        if found:
            tokens[0].run_sync_soon(over.set)
        thread.join(20)
    assert not problems


CLIENTS: list[Any] = []


def client(base_url: str, **more: Any) -> Any:
    CLIENTS.append(
        openai.OpenAI(base_url=base_url, api_key="sk-test", **{"max_retries": 0, "timeout": 20, **more})
    )
    return CLIENTS[-1]


@pytest.fixture(autouse=True)
def closed() -> Generator[None]:
    """No client is left open."""
    yield
    while CLIENTS:
        CLIENTS.pop().close()


class Thinks:
    """A model that thinks before it speaks."""

    def respond(self, request: ModelRequest) -> ModelTurn:
        return ModelTurn(output=[message("yes it is")], delay=1.0)


def test_silence_is_no_trouble() -> None:
    """`create` with a stream, and the helper that keeps the whole response, whose checks are stricter."""
    with running(Thinks(), settings=Settings(keepalive=0.2)) as (base_url, _, _):
        stream = client(base_url).responses.create(model="m", input="a", stream=True)
        events = [event.type for event in stream]
        with client(base_url).responses.stream(model="m", input="a") as helped:
            final = helped.get_final_response()

    assert events.count("keepalive") >= 3
    assert "response.completed" == events[-1]
    assert "yes it is" == final.output_text


class Refuses:
    def respond(self, request: ModelRequest) -> ModelTurn:
        error = TurnError(message="Not you.", code="invalid_prompt", type="invalid_request_error", status=400)
        return ModelTurn(status="rejected", error=error, delay=0.0)


def test_a_refusal_is_the_exception_of_its_status() -> None:
    """Streamed or not."""
    with running(Refuses()) as (base_url, _, _):
        for stream in (True, False):
            with pytest.raises(openai.BadRequestError, match="Not you") as caught:
                client(base_url).responses.create(model="m", input="a", stream=stream)
            assert "invalid_prompt" == caught.value.code


class Two:
    """A model whose first turn takes long, so that the second waits in line and is then refused."""

    def __init__(self) -> None:
        self.turns = 0
        self.asked = threading.Event()

    def respond(self, request: ModelRequest) -> ModelTurn:
        self.turns += 1
        self.asked.set()
        if self.turns == 1:
            return ModelTurn(output=[message("yes")], delay=1.5)
        error = TurnError(message="Not you.", code="invalid_prompt", type="invalid_request_error", status=400)
        return ModelTurn(status="rejected", error=error)


def test_a_late_refusal_reaches_who_streams() -> None:
    """The head is out: the failed response says why, also to the strict helper."""
    model = Two()
    with running(model, settings=Settings(keepalive=0.2, max_turns=1)) as (base_url, _, _):
        first = threading.Thread(target=lambda: client(base_url).responses.create(model="m", input="a"))
        first.start()
        assert model.asked.wait(20)
        with client(base_url).responses.stream(model="m", input="b") as stream:
            events = list(stream)
        first.join()

    assert ["response.created", "response.failed"] == [event.type for event in events]
    assert ("invalid_prompt", "Not you.") == (
        events[-1].response.error.code,
        events[-1].response.error.message,
    )


def test_a_retry_of_the_sdk_is_not_paid_for_twice() -> None:
    """It gives up too early, asks again by itself, and gets the answer of the first run."""
    with running(Thinks()) as (base_url, ledger, seen):
        answer = client(base_url, timeout=0.7, max_retries=3).responses.create(model="m", input="a")
        assert "yes it is" == answer.output_text
        assert 1 == len(ledger)
        seen.wait(lambda records: any(record.joined for record in records))


TOOL = {"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": False}


class Agent:
    """A model that calls a tool nine times, and then answers."""

    def respond(self, request: ModelRequest) -> ModelTurn:
        calls = sum(item["type"] == "function_call_output" for item in request.context)
        if calls < 9:
            return ModelTurn(output=[function_call("look", {"n": calls}, call_id=f"call_{calls}")])
        return ModelTurn(output=[message("done")])


def test_a_tool_loop_sends_what_is_new() -> None:
    """Ten turns of a stateless client, each with the whole history: each item goes once, but for those before
    a connection that ended between two turns."""
    faults = FaultScript(FaultRule(Fault("close", code=1001), create=5), seed=1)
    with running(Agent(), server={"faults": faults}) as (base_url, _, seen):
        sdk, history = client(base_url, max_retries=2), [{"role": "user", "content": "go"}]
        for _ in range(10):
            answer = sdk.responses.create(
                model="m",
                input=history,
                store=False,
                tools=[TOOL],
            )
            history += [item.model_dump(exclude_none=True) for item in answer.output]
            history += [
                {"type": "function_call_output", "call_id": item.call_id, "output": "seen"}
                for item in answer.output
                if item.type == "function_call"
            ]
        ended = seen.wait(lambda records: len(records) == 10)

    assert "done" == answer.output_text
    given = sum(record.items_given or 0 for record in ended)
    sent = sum(record.items_sent or 0 for record in ended)
    assert 100 == given
    assert sent <= 32, [(record.items_sent, record.why_full) for record in ended]
    assert {None, "first", "elsewhere", "unknown", "refused"} >= {record.why_full for record in ended}
