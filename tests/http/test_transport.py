"""Clients of httpx2 and httpx over a pool: the answers and errors of HTTP, and nothing left behind."""

from __future__ import annotations

import asyncio
import importlib
import pickle
import ssl
import threading
import time
from collections.abc import Callable, Generator, Iterable
from typing import Any

import pytest
import trio
import trio.lowlevel

import wspool
import wspool.http
from tests.garbage import collect
from wspool.bells import bell_here
from wspool.core.sending.brought import WrittenBody
from wspool.http.identity import LARGE, read_request
from wspool.http.transport import AsyncPoolTransport, PoolTransport
from wspool.runtime import Runtime
from wspool.server import ModelTurn, Rejection, message
from wspool.testing.local import LocalServer, local_server, refusal

pytestmark = pytest.mark.network

LIBRARIES = ["httpx2", "httpx"]
ONE = wspool.PoolPolicy(max_size=1, min_idle=0)
KEY = {"authorization": "Bearer sk-test"}


@pytest.fixture
def server() -> Generator[LocalServer]:
    with local_server() as it:
        yield it


@pytest.fixture
def runtime() -> Generator[Runtime]:
    it = Runtime()
    yield it
    it.close()


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(request.param)
    return str(request.param)


@pytest.fixture(params=["asyncio", "trio"])
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Any]], Any]:
    return (lambda main: asyncio.run(main())) if request.param == "asyncio" else trio.run


def leases(client: Any) -> int:
    """Leases that are out of all pools of a client. For the runtime's thread."""
    slots = client._transport._pools._slots.values()
    return sum(slot.pool.statistics().leased for slot in slots if slot.pool is not None)


class Look(trio.abc.Instrument):
    """Looks after each step of any task of the runtime whether something has come true."""

    def __init__(self, condition: Callable[[], bool]) -> None:
        self.true = trio.Event()
        self._condition = condition

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if self._condition():
            self.true.set()


def wait_for(runtime: Runtime, condition: Callable[[], bool], seconds: float = 5.0) -> float:
    """Wait until *condition* holds in the runtime; return how long that took."""

    async def wait() -> None:
        look = Look(condition)
        trio.lowlevel.add_instrument(look)
        try:
            with trio.fail_after(seconds):
                await look.true.wait()
        finally:
            trio.lowlevel.remove_instrument(look)

    since = time.monotonic()
    runtime.run(wait)
    return time.monotonic() - since


def body(**more: Any) -> dict[str, Any]:
    return {"model": "m", "input": "hi", **more}


def test_an_async_client_gets_what_http_would_give(
    server: LocalServer, runtime: Runtime, library: Any, run: Any
) -> None:
    """A body, a stream of events, and the refusal of the server with its status."""

    async def main() -> None:
        async with wspool.http.async_client(library=library, runtime=runtime) as client:
            plain = await client.post(server.http_url, json=body(), headers=KEY)
            assert (200, "completed") == (plain.status_code, plain.json()["status"])
            assert plain.headers["x-request-id"].startswith("wspool-")
            async with client.stream(
                "POST", server.http_url, json=body(stream=True), headers=KEY
            ) as streamed:
                lines = [line async for line in streamed.aiter_lines()]
            assert "event: response.completed" in lines
            refused = await client.post(
                server.http_url, json=body(previous_response_id="resp_none"), headers=KEY
            )
            assert (400, "previous_response_not_found") == (
                refused.status_code,
                refused.json()["error"]["code"],
            )

    run(main)
    server.expect(requests=3, transport="websocket")


@pytest.mark.parametrize("large", [False, True])
def test_a_large_body_is_read_beside_the_loop_and_written_down_there(
    server: LocalServer, runtime: Runtime, library: Any, run: Any, large: bool
) -> None:
    """What is read in 80 ms holds up neither the caller's loop nor all turns of the process."""
    module = importlib.import_module(library)
    said = "x" * (LARGE if large else 1)
    threads: set[int] = set()

    class Watched(module.Headers):  # type: ignore[misc, name-defined]  # of whichever library it is
        @property
        def raw(self) -> Any:
            threads.add(threading.get_ident())
            return super().raw

    async def main() -> None:
        async with wspool.http.async_client(library=library, runtime=runtime) as client:
            request = client.build_request("POST", server.http_url, json=body(instructions=said), headers=KEY)
            request.headers = Watched(request.headers)
            asked = read_request(request, request.content)
            assert asked is not None
            assert isinstance(asked.body, WrittenBody) is large
            threads.clear()
            assert 200 == (await client.send(request)).status_code

    run(main)
    assert (threads == {threading.get_ident()}) is not large
    assert 1 == len(threads)


def test_a_blocking_client_gets_what_http_would_give(
    server: LocalServer, runtime: Runtime, library: Any
) -> None:
    """From many threads at once as well."""
    with wspool.http.client(library=library, runtime=runtime) as client:

        def ask(number: int) -> None:
            answer = client.post(server.http_url, json=body(input=f"n{number}"), headers=KEY)
            texts[number] = answer.json()["output"][0]["content"][0]["text"]

        texts: dict[int, str] = {}
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        with client.stream("POST", server.http_url, json=body(stream=True), headers=KEY) as streamed:
            assert "event: response.completed" in list(streamed.iter_lines())

    assert {number: f"n{number}" for number in range(16)} == texts
    server.expect(requests=17, transport="websocket")


def test_what_is_not_for_websocket_goes_over_http(
    server: LocalServer, runtime: Runtime, library: Any
) -> None:
    """Every other path, method and body, on the library's own transport."""
    with wspool.http.client(library=library, runtime=runtime) as client:
        assert 200 == client.post(server.http_url + "/compact", json=body(), headers=KEY).status_code
        assert 400 <= client.get(server.http_url, headers=KEY).status_code
        assert 400 == client.post(server.http_url, content=b"no json", headers=KEY).status_code
        client.post(server.http_url, json=body(conversation="conv_1"), headers=KEY)
        client.post(server.http_url, json=body(), headers={"authorization": "Basic YTpi"})

    assert {"http"} >= {entry["transport"] for entry in server.ledger}


class Records(wspool.Instrument):
    """The turns of a pool."""

    def __init__(self) -> None:
        self.turns: list[wspool.TurnRecord] = []

    def turn_ended(self, record: wspool.TurnRecord) -> None:
        self.turns.append(record)


LANES = wspool.PoolPolicy(max_size=1, min_idle=0, lanes=4)


@pytest.mark.parametrize(
    ("options", "by_the_pool"),
    [({}, True), ({"fallback": None}, False), ({"policy": LANES}, False), ({"http": 1}, False)],
    ids=["as it is", "no fallback", "lanes", "an own way"],
)
def test_an_endpoint_without_websocket_is_asked_over_http(
    runtime: Runtime, library: Any, options: dict[str, Any], by_the_pool: bool
) -> None:
    """By the pool itself, which has one record, one line and one pace; else by the library, as it was.

    Nothing was sent before; and it is not asked again each time.
    """
    records, handshakes = Records(), 20
    if "http" in options:
        options = {"http": importlib.import_module(library).HTTPTransport()}
    with local_server() as server:
        server.server.reject_handshakes(*[Rejection(status=404)] * handshakes)
        with wspool.http.client(library=library, runtime=runtime, instrument=records, **options) as client:
            answers = [client.post(server.http_url, json=body(), headers=KEY) for _ in range(3)]
            with client.stream("POST", server.http_url, json=body(stream=True), headers=KEY) as streamed:
                lines = list(streamed.iter_lines())
        server.expect(requests=4, transport="http")
    assert [200] * 3 == [answer.status_code for answer in answers]
    assert "event: response.completed" in lines
    assert by_the_pool is answers[-1].headers["x-request-id"].startswith("wspool-")
    assert (["http"] * 4 if by_the_pool else []) == [
        record.transport for record in records.turns if record.requests
    ]


def test_an_endpoint_that_only_has_http_says_itself_what_is_wrong(runtime: Runtime) -> None:
    with local_server() as server:
        server.server.reject_handshakes(*[Rejection(status=426)] * 20)
        server.script(refusal(429, "rate_limit_exceeded", retry_after=100_000))
        with wspool.http.client(runtime=runtime) as client:
            refused = client.post(server.http_url, json=body(), headers=KEY)
            assert (429, "100000") == (refused.status_code, refused.headers["retry-after"])
            assert "rate_limit_exceeded" == refused.json()["error"]["code"]
            server.script("after all")
            assert 200 == client.post(server.http_url, json=body(), headers=KEY).status_code


def test_each_credential_has_connections_of_its_own(
    server: LocalServer, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody speaks on another's; what the environment has is nobody's."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-environment")
    with wspool.http.client(runtime=runtime, policy=ONE) as client:
        for headers in (KEY, {"authorization": "Bearer sk-other"}, {**KEY, "OpenAI-Project": "p"}, {}, KEY):
            assert 200 == client.post(server.http_url, json=body(), headers=headers).status_code
        assert 4 == len(client._transport._pools._slots)
        keys = {identity.key for identity in client._transport._pools._slots}
        assert "sk-" not in repr(list(client._transport._pools._slots))

    assert {"sk-test", "sk-other", None} == keys
    assert 4 == len({entry["connection"] for entry in server.ledger})


@pytest.mark.parametrize("library", LIBRARIES)
def test_errors_are_those_of_the_library(server: LocalServer, runtime: Runtime, library: Any) -> None:
    """What was not sent may be sent again; what may have run may not."""
    module = importlib.import_module(library)
    with wspool.http.client(library=library, runtime=runtime) as client:
        with pytest.raises(module.ConnectError):
            client.post("http://127.0.0.1:9/v1/responses", json=body(), headers=KEY, timeout=1)
        server.fault("reset", at="response.created", after=True)
        lost = client.post(server.http_url, json=body(), headers=KEY)
        assert (502, "false") == (lost.status_code, lost.headers["x-should-retry"])
        server.fault("reset", at="delta")
        with (
            pytest.raises(module.ReadError),
            client.stream("POST", server.http_url, json=body(stream=True), headers=KEY) as streamed,
        ):
            list(streamed.iter_lines())


def test_silence_is_a_read_timeout(runtime: Runtime, library: Any) -> None:
    """Of the library, after as long as the client says."""
    module = importlib.import_module(library)
    with (
        local_server(delay_per_token=30) as server,
        wspool.http.client(library=library, runtime=runtime) as client,
    ):
        timeout = module.Timeout(30, read=0.2)  # real time, and to connect takes as long as it takes
        for stream in (True, False):
            with pytest.raises(module.ReadTimeout):
                client.post(server.http_url, json=body(stream=stream), headers=KEY, timeout=timeout)
        wait_for(runtime, lambda: leases(client) == 0)


def stall_after(server: LocalServer, types: list[str], count: int) -> None:
    """Let the next turn say so many of the events of *types*, and then nothing for ever."""
    kind = types[count - 1]
    server.fault("stall", at=kind, after=True, occurrence=types[:count].count(kind))


def types_of(lines: Iterable[str]) -> list[str]:
    """The types of the events of a body."""
    return [line.removeprefix("event: ") for line in lines if line.startswith("event:")]


# The libraries' own generators, left unfinished by who drops a response, are not ours to close.
@pytest.mark.filterwarnings("ignore:Async generator 'httpx:ResourceWarning")
@pytest.mark.parametrize("after", [0, 1, 3, 5, 7])
def test_who_leaves_a_stream_gives_its_lease_back(
    server: LocalServer, runtime: Runtime, library: Any, run: Any, after: int
) -> None:
    """Closed, or dropped, at any event, after which no other comes: at once."""
    client = wspool.http.async_client(library=library, runtime=runtime)
    sending: dict[str, Any] = {"json": body(input="a b c d e f", stream=True), "headers": KEY}
    with wspool.http.client(runtime=runtime) as other:
        types = types_of(other.post(server.http_url, **sending).text.splitlines())

    async def read(response: Any) -> None:
        count = 0
        async for line in response.aiter_lines():
            count += line.startswith("event:")
            if count > after:
                return

    async def close() -> None:
        async with client.stream("POST", server.http_url, **sending) as response:
            await read(response)

    async def drop() -> None:
        request = client.build_request("POST", server.http_url, **sending)
        await read(await client.send(request, stream=True))

    async def main(how: Any) -> None:
        await how()

    stall_after(server, types, after + 1)
    run(lambda: main(close))
    assert 1.0 > wait_for(runtime, lambda: leases(client) == 0)
    stall_after(server, types, after + 1)
    run(lambda: main(drop))
    collect()
    assert 1.0 > wait_for(runtime, lambda: leases(client) == 0)
    run(client.aclose)


@pytest.mark.parametrize("closing", [True, False], ids=["closed", "dropped"])
def test_who_leaves_a_stream_in_a_thread_gives_its_lease_back(
    server: LocalServer, runtime: Runtime, library: Any, closing: bool
) -> None:
    """After each event there is, after which no other comes; dropping is what a thread does that ends."""
    sending: dict[str, Any] = {"json": body(input="a b c", stream=True), "headers": KEY}
    with wspool.http.client(library=library, runtime=runtime) as client:
        types = types_of(client.post(server.http_url, **sending).text.splitlines())
        assert len(types) >= 8

        def read(count: int) -> None:
            response = client.send(client.build_request("POST", server.http_url, **sending), stream=True)
            lines = response.iter_lines()
            while count:
                count -= next(lines).startswith("event:")
            if closing:
                response.close()

        for count in range(1, len(types)):
            stall_after(server, types, count)
            thread = threading.Thread(target=read, args=(count,))
            thread.start()
            thread.join()
            if not closing:
                collect()
            assert 1.0 > wait_for(runtime, lambda: leases(client) == 0)


def test_a_cancelled_request_gives_its_lease_back(runtime: Runtime, run: Any) -> None:
    """While the model thinks, and while it speaks."""
    with local_server(delay_per_token=5) as server:
        client = wspool.http.async_client(runtime=runtime)

        async def main() -> None:
            await client.post(server.http_url, json=body(stream=True), headers=KEY, timeout=None)

        async def in_asyncio() -> None:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(main(), 0.2)

        async def in_trio() -> None:
            with trio.move_on_after(0.2):
                await main()

        run(in_trio if run is trio.run else in_asyncio)
        assert 1.0 > wait_for(runtime, lambda: leases(client) == 0)
        run(client.aclose)


def test_a_history_that_comes_again_is_sent_once(server: LocalServer, runtime: Runtime, library: Any) -> None:
    """Through the client, in one loop after another."""
    client = wspool.http.async_client(library=library, runtime=runtime, policy=ONE)
    items: list[dict[str, Any]] = [{"role": "user", "content": "one"}]

    async def turn(text: str) -> None:
        answer = await client.post(server.http_url, json=body(input=items), headers=KEY)
        items.extend([*answer.json()["output"], {"role": "user", "content": text}])

    for text in ("two", "three", "four"):
        asyncio.run(turn(text))
    asyncio.run(client.aclose())

    assert [(1, 1), (1, 3), (1, 5)] == [(e["input_items"], e["context_items"]) for e in server.ledger]


def test_a_closed_client_says_so(server: LocalServer, runtime: Runtime) -> None:
    """And its pools are closed."""
    client = wspool.http.client(runtime=runtime)
    client.post(server.http_url, json=body(), headers=KEY)
    pools = client._transport._pools
    client.close()
    wait_for(runtime, lambda: not pools._slots)
    transport = PoolTransport(runtime=runtime)
    transport.close()
    with (
        pytest.raises(RuntimeError, match="closed"),
        importlib.import_module("httpx2").Client(transport=transport) as again,
    ):
        again.post(server.http_url, json=body(), headers=KEY)


def test_a_client_that_is_forgotten_closes_its_pools(server: LocalServer, runtime: Runtime) -> None:
    """Without a word."""
    client = wspool.http.client(runtime=runtime)
    client.post(server.http_url, json=body(), headers=KEY)
    pools = client._transport._pools
    del client
    collect()
    wait_for(runtime, lambda: not pools._slots)


def test_a_failed_response_is_an_answer(server: LocalServer, runtime: Runtime) -> None:
    """200, as over HTTP; a refusal has the status that it says."""
    server.script(ModelTurn(status="failed", output=[message("a")]))
    with wspool.http.client(runtime=runtime) as client:
        failed = client.post(server.http_url, json=body(), headers=KEY)
        assert (200, "failed") == (failed.status_code, failed.json()["status"])
        server.script(refusal(429, "rate_limit_exceeded", retry_after=100_000))
        limited = client.post(server.http_url, json=body(), headers=KEY)
        assert (429, "100000") == (limited.status_code, limited.headers["retry-after"])


@pytest.mark.parametrize("kind", [AsyncPoolTransport, PoolTransport])
def test_bad_use_is_told_at_the_door(kind: Any, runtime: Runtime) -> None:
    """Each in one sentence that says what to do."""
    with pytest.raises(TypeError, match="give it to the client"):
        kind(api_key="sk-x")
    make = wspool.http.client if kind is PoolTransport else wspool.http.async_client
    for thing in (kind(runtime=runtime), make(runtime=runtime)):
        with pytest.raises(TypeError, match="a client in each"):
            pickle.dumps(thing)
    assert kind.__name__ in repr(kind(runtime=runtime))
    for options in ({"banana": 1}, {"wire": "nope"}, {"policy": {"max_size": 1}}):
        with pytest.raises((TypeError, ValueError), match=next(iter(options))):
            kind(runtime=runtime, **options)
    assert kind(runtime=runtime, ssl_context=ssl.create_default_context())


@pytest.mark.parametrize("make", [wspool.http.client, wspool.http.async_client])
def test_a_client_that_cannot_be_made_says_why(make: Any, runtime: Runtime) -> None:
    """Not the first request, and not as if the server had said it."""
    with pytest.raises(ValueError, match="neither 'httpx2' nor 'httpx'"):
        make(library="requests", runtime=runtime)
    with pytest.raises(TypeError, match=r"client=\{'timeout': ...\}"):
        make(timeout=5, runtime=runtime)
    with pytest.raises(TypeError, match="banana"):
        make(banana=1, runtime=runtime)


def test_a_transport_is_for_clients_of_its_kind(library: Any, runtime: Runtime) -> None:
    """The other one is named."""
    module = importlib.import_module(library)
    blocking = module.Client(transport=AsyncPoolTransport(runtime=runtime))
    with pytest.raises(TypeError, match="a PoolTransport"):
        blocking.post("http://127.0.0.1:9/v1/responses", json=body())

    async def ask() -> None:
        await module.AsyncClient(transport=PoolTransport(runtime=runtime)).post("http://127.0.0.1:9/")

    with pytest.raises(TypeError, match="an AsyncPoolTransport"):
        asyncio.run(ask())


def test_no_library_no_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """And how to get one."""

    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImportError, match=r"wspool\[http\]"):
        wspool.http.client()


def test_a_body_is_sent_as_it_is(server: LocalServer, runtime: Runtime) -> None:
    """Long integers, null and all."""
    item = {"role": "user", "content": [{"type": "input_text", "text": "é", "odd": 2**70}]}
    sent = body(input=[item], metadata={"a": "b"}, temperature=None, user="u")
    with wspool.http.client(runtime=runtime) as client:
        client.post(server.http_url, json={**sent, "stream": False, "background": False}, headers=KEY)

    assert sent == {name: value for name, value in server.requests[0].body.items() if name != "type"}


def test_a_bell_for_a_loop_that_is_gone_is_silent() -> None:
    """Whoever waited there has other worries."""
    bells = []

    async def main() -> None:
        bells.append(bell_here())
        await asyncio.sleep(0)

    async def trio_main() -> None:
        bells.append(bell_here())
        await trio.lowlevel.checkpoint()

    asyncio.run(main())
    trio.run(trio_main)
    for bell in bells:
        bell.ring()


def test_outside_of_all_loops_the_async_form_says_so() -> None:
    """In one sentence."""
    with pytest.raises(wspool.ForeignUseError, match="asyncio or trio"):
        bell_here()


def test_what_only_a_message_has_is_the_provider_s_to_read_by_http(runtime: Runtime) -> None:
    with local_server() as server, wspool.http.client(runtime=runtime) as client:
        for more in ({"generate": False}, {"type": "response.create"}):
            assert 200 == client.post(server.http_url, json={**body(), **more}, headers=KEY).status_code
        server.expect(requests=2, transport="http")


def test_each_answer_has_a_name_of_its_own_and_an_error_s_is_in_the_log(
    runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "wspool.http")
    with local_server() as server, wspool.http.client(runtime=runtime) as client:
        names: list[str] = []
        for turn in (refusal(400, "bad", message="canary"), "well", refusal(429, "rate_limit_exceeded")):
            server.script(turn)
            answer = client.post(server.http_url, json=body(input=str(turn)), headers=KEY)
            names.append(answer.headers["x-request-id"])

    logged = [record.getMessage() for record in caplog.records if record.name == "wspool.http"]
    assert 3 == len(set(names))
    assert [f"{names[0]} was answered with 400", f"{names[2]} was answered with 429"] == [
        line.partition(":")[0] for line in logged
    ]
    assert "canary" not in caplog.text


def test_a_request_that_the_runtime_has_not_begun_as_it_ends_is_told(
    server: LocalServer, runtime: Runtime
) -> None:
    """It waits for nobody: nothing was sent, and SDKs may ask again."""
    module: Any = importlib.import_module("httpx2")
    said: list[Exception] = []
    with wspool.http.client(runtime=runtime) as client:
        client.post(server.http_url, json=body(), headers=KEY)
        goes_on = threading.Event()
        runtime.soon(goes_on.wait, 30.0)

        def ask() -> None:
            try:
                client.post(server.http_url, json=body(), headers=KEY)
            except Exception as error:
                said.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        while not runtime._calls:
            time.sleep(0.001)
        for call in list(runtime._calls):
            call.fail()  # as the end of its run does, which nothing can be asked of any more
        asking.join(10.0)
        goes_on.set()

    assert ["ConnectError"] == [type(error).__name__ for error in said]
    assert isinstance(said[0], module.ConnectError)
    assert isinstance(said[0].__cause__, wspool.PoolClosedError)
