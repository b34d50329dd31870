"""The local server of a test: script, faults, what it says of itself, and its thread."""

import threading
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import trio

import wspool
from wspool.server import EchoModel, ModelRequest, ModelTurn, message, open_server
from wspool.testing import local_server, refusal
from wspool.testing.local import in_thread

pytestmark = pytest.mark.network


def ask(url: str, text: object = "hi", **fields: Any) -> httpx.Response:
    with httpx.Client(trust_env=False) as http:
        return http.post(url, json={"model": "m", "input": text, **fields})


def said(answer: httpx.Response) -> str:
    text: str = answer.json()["output"][0]["content"][0]["text"]
    return text


def test_a_script_is_played_to_its_end() -> None:
    """Texts, items, turns as objects and as JSON; what went wrong is raised at the end, not before."""
    call = {"type": "function_call", "name": "f", "arguments": "{}"}
    turns: list[Any] = [
        "one",
        call,
        [call, call],
        {"text": "four"},
        ModelTurn(status="incomplete", output=[message("fi")]),
    ]
    outputs: list[dict[str, Any]] = []

    def run() -> None:
        with local_server() as server:
            server.script(*turns)
            parent, given = None, list[dict[str, Any]]()
            for _ in turns:
                answer = ask(server.http_url, given or "hi", previous_response_id=parent).json()
                outputs.append(answer)
                parent = answer["id"]
                given = [
                    {"type": "function_call_output", "call_id": item["call_id"], "output": ""}
                    for item in answer["output"]
                    if "call_id" in item
                ]
            over = ask(server.http_url, previous_response_id=parent)
            assert (400, "script_over") == (over.status_code, over.json()["error"]["code"])
            assert 6 == len(server.requests)

    with pytest.raises(AssertionError, match="ends after turn 5; a conversation asks for turn 6"):
        run()
    assert [1, 1, 2, 1, 1] == [len(answer["output"]) for answer in outputs]
    assert ["completed"] * 4 + ["incomplete"] == [answer["status"] for answer in outputs]


def test_a_mistake_of_the_model_is_raised_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    """The client gets a 500; the test gets the exception."""

    class Wrong:
        def respond(self, request: ModelRequest) -> ModelTurn:
            raise ZeroDivisionError("mine")

    def run(status: list[int]) -> None:
        with local_server(model=Wrong()) as server:
            status.append(ask(server.http_url).status_code)
            server.use(EchoModel())
            status.append(ask(server.http_url).status_code)

    status: list[int] = []
    with pytest.raises(ZeroDivisionError, match="mine"):
        run(status)
    assert [500, 200] == status


def test_refusals() -> None:
    """As a status, a code and a wait."""
    with local_server() as server:
        server.script(refusal(429, "rate_limit_exceeded", retry_after=3))
        answer = ask(server.http_url)
        assert (429, "3") == (answer.status_code, answer.headers["retry-after"])
        assert "rate_limit_exceeded" == answer.json()["error"]["code"]


def test_faults_while_it_runs() -> None:
    """The next request, a later one, and a handshake; a name that is not there is an error at the call."""

    async def main(url: str) -> None:
        policy = wspool.PoolPolicy(max_size=1, min_idle=0, replay="always")
        async with wspool.open_pool(url, policy=policy) as pool, pool.conversation(model="m") as conversation:
            for text in "abc":
                assert text == (await conversation.respond(text)).output_text

    with local_server() as server:
        server.fault("metadata")
        server.fault("reset", request=3, at="delta")
        trio.run(main, server.url)
        faults = [entry["fault"] for entry in server.ledger]
        assert ["metadata", None, "reset", None] == [fault and fault.partition("(")[0] for fault in faults]
        for wrong in ("nope", ""):
            with pytest.raises(ValueError, match="there are big_terminal"):
                server.fault(wrong)
        server.expect(requests=4, outcomes=["completed", "completed", "lost", "completed"], connections=2)


def test_the_ledger_in_words() -> None:
    """What does not fit is named, and all of the ledger is shown."""
    with local_server() as server:
        first = ask(server.http_url).json()
        ask(server.http_url, previous_response_id=first["id"])
        ask(server.http_url, previous_response_id="resp_0")
        server.expect()
        server.expect(requests=3, continued=1, connections=3, transport="http")
        with pytest.raises(AssertionError) as caught:
            server.expect(
                requests=1, outcomes=["completed"], continued=0, connections=1, transport="websocket"
            )
    lines = str(caught.value).splitlines()
    assert lines[:5] == [
        "requests: expected 1, got 3",
        "outcomes: expected ['completed'], got ['completed', 'completed', 'rejected']",
        "continued: expected 0, got 1",
        "connections: expected 1, got 3",
        "transport: expected 'websocket', got 'http'",
    ]
    assert lines[5] == "the server's ledger:"
    assert "transport connection lane parent items outcome error fault" == " ".join(lines[6].split())
    assert f"{first['id']} (store)" in lines[8]
    assert "resp_0 (not found)" in lines[9]
    assert "previous_response_not_found" in lines[9]


def test_options() -> None:
    """Those of `open_server`; profiles by name."""
    with local_server(profile="azure", api_key="k") as server:
        assert 401 == ask(server.http_url).status_code
        assert "as azure" in repr(server.server)
    with (
        pytest.raises(ValueError, match="there is no profile 'nobody'; there are openai"),
        local_server(profile="nobody"),
    ):
        raise AssertionError
    with pytest.raises(ValueError, match="without a key"), local_server(host="0.0.0.0"):
        raise AssertionError


def test_the_thread_ends_with_the_body() -> None:
    """However that ends; and what the server raises at its end comes out."""
    before = threading.active_count()

    def fail() -> None:
        with local_server():
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fail()

    @asynccontextmanager
    async def broken() -> Any:
        async with open_server(EchoModel()) as server:
            yield server
        raise RuntimeError("at its end")

    def use() -> None:
        with in_thread(broken) as server:
            assert server.statistics().creates == 0

    with pytest.raises(RuntimeError, match="at its end"):
        use()
    assert before == threading.active_count()


def test_a_server_that_ends_by_itself() -> None:
    """Its reason is told where it was started."""

    @asynccontextmanager
    async def short() -> Any:
        async with open_server(EchoModel(), strict=True, port=None) as server:
            with trio.CancelScope() as scope:
                scope.cancel()
                yield server
            raise RuntimeError("by itself")

    def use() -> None:
        with in_thread(short):
            pass

    with pytest.raises(RuntimeError, match="by itself"):
        use()
