"""Cassettes: one file answers every client, whoever recorded it; what differs is named; no key is in it."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

import wspool
from wspool.server import ModelTurn, TurnError, function_call
from wspool.testing import Cassette, CassetteError, LocalServer, Tape, local_server, refusal, tape_server

from .talks import QUESTION, SETTINGS, TALKS, by_openai_over_http, by_openai_over_websocket, by_wspool

pytestmark = [
    pytest.mark.network,
    # What the SDK takes from newer versions of websockets.
    pytest.mark.filterwarnings(r"ignore:connect\(\) must be used:DeprecationWarning"),
]

ANSWER = "It is sunny."
CALL = function_call("weather", {"city": "Paris"})


def recorded(path: Path, talk: Callable[[str], object], *turns: Any, **options: Any) -> str:
    """Record a talk with a scripted server; the text of the file."""
    with local_server() as server:
        server.script(*(turns or (CALL, ANSWER)))
        with tape_server(path, record=server.url, **options) as tape:
            talk(tape.base_url)
            tape.check()
            assert tape.recording
    return path.read_text()


@pytest.mark.parametrize("recorder", TALKS)
def test_one_cassette_replays_for_every_client(tmp_path: Path, recorder: Callable[[str], object]) -> None:
    """Unchanged, whoever recorded it, and fast."""
    path = tmp_path / "c.json"
    text = recorded(path, recorder)
    for talk in TALKS:
        # Real sockets and threads, so real time: how long a user's test takes is what is promised. The
        # machine may be busy with another test.
        took: list[float] = []
        for _ in range(2):
            began = time.perf_counter()
            with tape_server(path) as tape:
                assert not tape.recording
                assert talk(tape.base_url) == ANSWER
                tape.check()
            took.append(time.perf_counter() - began)
            assert text == path.read_text()
        assert min(took) < 1


@pytest.mark.parametrize("recorder", TALKS)
def test_the_file_is_the_same_whoever_recorded_it(tmp_path: Path, recorder: Callable[[str], object]) -> None:
    """But for the ports, what the client's settings are echoed as, and the time of day."""

    def timeless(text: str) -> Any:
        return json.loads(re.sub(r'"(created|completed)_at": \d+', r'"\1_at": 0', text))["exchanges"]

    exchanges = timeless(recorded(tmp_path / "a.json", recorder))
    assert [None, 1] == [exchange.get("continues") for exchange in exchanges]
    first, second = (exchange["request"] for exchange in exchanges)
    assert [{"role": "user", "content": QUESTION}] == first["input"]
    assert ["function_call_output"] == [item["type"] for item in second["input"]]
    assert not {"stream", "previous_response_id", "type"} & {*first, *second}
    again = recorded(tmp_path / "b.json", recorder)
    assert exchanges == timeless(again)


def test_the_difference_in_a_text(tmp_path: Path) -> None:
    """Both clients are told, and so is the test, each time."""
    path = tmp_path / "c.json"
    recorded(path, by_openai_over_http)
    with tape_server(path) as tape:
        with pytest.raises(openai.BadRequestError, match="no exchange fits") as caught:
            by_openai_over_http(tape.base_url, "What is the weather in Rome?")
        assert caught.value.code == "cassette_mismatch"
        (problem,) = tape.problems
        assert problem == (
            "no exchange fits; the nearest is 1 of 2, input[0].content: "
            'expected "What is the weather in Paris?", got "What is the weather in Rome?"'
        )
        with pytest.raises(AssertionError, match=r"input\[0\].content"):
            tape.check()


def edited(path: Path, change: Callable[[Any], object]) -> None:
    cassette = json.loads(path.read_text())
    change(cassette["exchanges"])
    path.write_text(json.dumps(cassette))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda e: e[0]["request"].update(model="gpt-4"), 'model: expected "gpt-4", got "gpt-5.2"'),
        (
            lambda e: e[0]["request"].update(instructions="Go on."),
            'instructions: expected "Go on.", got "Be brief."',
        ),
        (lambda e: e[0]["request"]["input"].append({"role": "user", "content": "x"}), "input[1]: expected {"),
        (lambda e: e[0]["request"]["input"].clear(), "input[0]: expected nothing, got {"),
        (lambda e: e[0]["request"].update(tools=[]), 'tools.weather: expected nothing, got ["city"]'),
        (
            lambda e: e[0]["request"]["tools"][0].update(parameters={}),
            'tools.weather[0]: expected nothing, got "city"',
        ),
        (
            lambda e: e[1]["request"]["input"][0].update(output="rain"),
            'input[2].output: expected "rain", got "sunny"',
        ),
        (
            lambda e: e[1]["request"]["input"][0].update(call_id="x"),
            'input[2].call_id: expected "x", got "call_',
        ),
        (lambda e: e.pop(), "exchange 1 of 1"),
    ],
)
@pytest.mark.parametrize("talk", TALKS)
def test_the_first_difference_is_named(
    tmp_path: Path, talk: Callable[[str], object], change: Callable[[Any], object], expected: str
) -> None:
    """Wherever it is, and whatever the client sends of the conversation."""
    path = tmp_path / "c.json"
    recorded(path, by_openai_over_http)
    edited(path, change)
    with tape_server(path) as tape:
        with pytest.raises((openai.BadRequestError, wspool.ResponseFailedError, AssertionError)):
            talk(tape.base_url)
        if "exchange 1 of 1" not in expected:
            assert expected in tape.problems[0]
        else:
            assert "no exchange is left" in tape.problems[0]


def test_a_request_is_played_once(tmp_path: Path) -> None:
    """As often as it was recorded, in the order of the file."""
    path = tmp_path / "c.json"

    def ask(url: str, times: int) -> list[Any]:
        with httpx.Client(trust_env=False) as http:
            answers = [
                http.post(url + "/responses", json={"model": "m", "input": "hi"}).json() for _ in range(times)
            ]
        return [answer.get("id") or answer["error"]["message"] for answer in answers]

    with local_server() as server, tape_server(path, record=server.url) as tape:
        ids = ask(tape.base_url, 2)
    with tape_server(path) as tape:
        assert [*ids, "exchange 2 of 2 answers this request, and was played already"] == ask(tape.base_url, 3)


def test_failures_are_recorded_too(tmp_path: Path) -> None:
    """A refusal is one again, with its status and code; a failed response fails; an incomplete one is."""
    path = tmp_path / "c.json"
    turns = {
        "no": refusal(403, "forbidden", message="Not you."),
        "fail": ModelTurn(status="failed", error=TurnError(message="Broken.", code="server_error")),
        "cut": ModelTurn(status="incomplete"),
    }

    class Model:
        def respond(self, request: Any) -> ModelTurn:
            return turns[request.context[0]["content"][0]["text"]]

    def ask(url: str) -> list[Any]:
        with httpx.Client(trust_env=False) as http:
            found = []
            for text in turns:
                answer = http.post(url + "/responses", json={"model": "m", "input": text})
                body = answer.json()
                found.append((answer.status_code, body.get("status"), (body["error"] or {}).get("code")))
            return found

    with local_server() as server:
        server.use(Model())
        with tape_server(path, record=server.url) as tape:
            first = ask(tape.base_url)
    assert [(403, None, "forbidden"), (200, "failed", "server_error"), (200, "incomplete", None)] == first
    with tape_server(path) as tape:
        assert first == ask(tape.base_url)


SECRETS = [
    "sk-proj-abcdefghijklmnop",
    "my-own-key-of-a-gateway",
    "eyJhbGciOiJI.eyJzdWIiOiIx.SflKxwRJSMeKKF2Q",
]


def test_no_key_is_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the one that was used, none of the environment, none that looks like one; in no place, no piece."""
    monkeypatch.setenv("GATEWAY_API_KEY", SECRETS[1])
    path = tmp_path / "c.json"
    tool = {
        "type": "mcp",
        "server_label": "x",
        "server_url": "https://x.example",
        "authorization": "plain-words",
        "headers": {"X-Secret": "more-words"},
    }
    body = {"model": "m", "input": " ".join(SECRETS) + " end", "tools": [tool], "metadata": {"k": SECRETS[0]}}
    key = "sk-of-the-endpoint-itself"

    def ask(url: str) -> Any:
        with httpx.Client(trust_env=False, headers={"Authorization": f"Bearer {SECRETS[0]}"}) as http:
            return http.post(url + "/responses", json=body).json()

    with local_server(api_key=key) as server:
        server.use(_Says(f"your key is {key} and {SECRETS[1]}, is it"))
        with tape_server(path, record=server.url, api_key=key) as tape:
            ask(tape.base_url)
            tape.check()
    text = path.read_text()
    for secret in (*SECRETS, key, "plain-words", "more-words"):
        assert secret not in text
        assert secret[:14] not in text
    assert "<hidden>" in text
    with tape_server(path) as tape:
        said = ask(tape.base_url)["output"][0]["content"][0]["text"]
        assert said == "your key is <hidden> and <hidden>, is it"
        tape.check()


class _Says:
    def __init__(self, text: str) -> None:
        self.text = text

    def respond(self, request: Any) -> ModelTurn:
        return ModelTurn.from_json({"text": self.text})


def test_an_answer_fits_what_was_asked_now(tmp_path: Path) -> None:
    """It was recorded of a full request; what is continued now is said as it is asked now."""
    path = tmp_path / "c.json"
    recorded(path, by_openai_over_http)
    ids = [exchange.response["id"] for exchange in Cassette.load(path).exchanges if exchange.response]
    output = {"type": "function_call_output", "call_id": "call_000001_0", "output": "sunny"}
    with tape_server(path) as tape, httpx.Client(trust_env=False) as http:
        body = {**SETTINGS, "previous_response_id": ids[0], "input": [output], "stream": True}
        events = http.post(tape.http_url, json=body).text
        tape.check()
    said = [json.loads(line[6:]) for line in events.splitlines() if line.startswith("data: {")]
    parents = {event["response"]["previous_response_id"] for event in said if "response" in event}
    assert {ids[0]} == parents
    assert ids[1] == said[-1]["response"]["id"]


def test_the_nearest_exchange_is_the_one_that_goes_on_longest_the_same(tmp_path: Path) -> None:
    """Not the first of the file: the difference to that would say nothing."""
    path = tmp_path / "c.json"

    def ask(tape: Tape, *texts: str) -> Any:
        items = [{"role": "user", "content": text} for text in texts]
        with httpx.Client(trust_env=False) as http:
            return http.post(tape.http_url, json={"model": "m", "input": items}).json()

    talks = [("a", "b"), ("x", "y", "z"), ("x", "b")]
    with local_server() as server, tape_server(path, record=server.url) as tape:
        for talk in talks:
            ask(tape, *talk)
    with tape_server(path) as tape:
        ask(tape, "x", "y", "w")
        assert tape.problems == [
            'no exchange fits; the nearest is 2 of 3, input[2].content: expected "z", got "w"'
        ]


def test_a_cassette_has_no_compactions(tmp_path: Path) -> None:
    """They are refused, and the test is told, instead of being made up."""
    path = tmp_path / "c.json"
    recorded(path, by_openai_over_http)
    with tape_server(path) as tape, httpx.Client(trust_env=False) as http:
        answer = http.post(tape.http_url + "/compact", json={"model": "m", "input": "hi"})
        assert (400, "cassette_mismatch") == (answer.status_code, answer.json()["error"]["code"])
        assert ["a compaction was asked for; cassettes have none"] == tape.problems


def test_modes(tmp_path: Path) -> None:
    """`once` replays what is there, `new_episodes` adds to it, `rewrite` forgets it."""
    path = tmp_path / "c.json"

    def ask(tape: Tape, *texts: str) -> list[int]:
        with httpx.Client(trust_env=False) as http:
            return [
                http.post(tape.http_url, json={"model": "m", "input": text}).status_code for text in texts
            ]

    def count() -> int:
        return len(Cassette.load(path).exchanges)

    with pytest.raises(FileNotFoundError, match="no endpoint to record it from"), tape_server(path):
        raise AssertionError
    with local_server() as server:
        with tape_server(path, record=server.url) as tape:
            assert [200] == ask(tape, "one")
        with tape_server(path, record=server.url, mode="once") as tape:
            assert [200, 400] == ask(tape, "one", "two")
        assert 1 == count()
        with tape_server(path, record=server.url, mode="new_episodes") as tape:
            assert [200, 200] == ask(tape, "one", "two")
        assert 2 == count()
        with tape_server(path, record=server.url, mode="rewrite") as tape:
            assert [200] == ask(tape, "three")
        assert 1 == count()
        with tape_server(path, record=server.url, mode="rewrite") as tape:
            ask(tape, "four")
            tape.kept = False
        assert "three" in path.read_text()
        server.expect(requests=4, outcomes=["completed"] * 4, transport="websocket")


def test_an_endpoint_that_cannot_be_recorded(tmp_path: Path) -> None:
    """The client gets the reason and does not try again; the test is told; there is no file."""
    path = tmp_path / "c.json"
    with tape_server(path, record="ws://127.0.0.1:1/v1/responses") as tape:
        with pytest.raises(openai.BadRequestError, match="nothing was recorded"):
            by_openai_over_http(tape.base_url)
        assert ["nothing was recorded: "] == [problem[:22] for problem in tape.problems]
    assert not path.exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"wspool_cassette": 2, "exchanges": []}',
        '{"wspool_cassette": 1}',
        '{"wspool_cassette": 1, "exchanges": [5]}',
        '{"wspool_cassette": 1, "exchanges": [{}]}',
        '{"wspool_cassette": 1, "exchanges": [{"request": {}, "events": []}]}',
        '{"wspool_cassette": 1, "exchanges": [{"request": {}, "events": [{"type": "response.created"}]}]}',
        '{"wspool_cassette": 1, "exchanges": [{"request": {}, "continues": 9, "refusal": {}}]}',
    ],
)
def test_a_file_that_is_no_cassette(tmp_path: Path, text: str) -> None:
    """Said with its name, before anything runs."""
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(CassetteError, match=r"c\.json is no cassette"), tape_server(path):
        raise AssertionError


def test_a_text_is_what_it_was(tmp_path: Path) -> None:
    """Loading and saving changes no byte."""
    path = tmp_path / "c.json"
    text = recorded(path, by_wspool)
    assert text == Cassette.load(path).text()
    assert '\n  {"type": "response.completed"' in text


def test_odd_texts_survive(tmp_path: Path) -> None:
    """Readable where that can be; and half a surrogate pair, as models write it, is what it was."""
    path = tmp_path / "c.json"
    odd = "天気 \u2028 \x7f \x00 \r\n half \ud83d of one"

    def ask(tape: Tape) -> str:
        with httpx.Client(trust_env=False) as http:
            answer = http.post(tape.http_url, json={"model": "m", "input": "Zürich"}).json()
        said: str = answer["output"][0]["content"][0]["text"]
        return said

    with local_server(model=_Says(odd)) as server, tape_server(path, record=server.url) as tape:
        assert odd == ask(tape)
    assert "Zürich" in path.read_text(encoding="utf-8")
    with tape_server(path) as tape:
        assert odd == ask(tape)


def test_warm_ups_are_nobodys_business(tmp_path: Path) -> None:
    """Neither recorded nor missed: what continues one is the request that it was for."""
    import trio

    import wspool

    path = tmp_path / "c.json"

    def talk(url: str, **options: Any) -> str:
        async def main() -> str:
            async with (
                wspool.open_pool(url.replace("http", "ws") + "/responses", **options) as pool,
                pool.conversation(model="m", instructions="i") as conversation,
            ):
                await pool.wait_ready()
                response = await conversation.respond("hi")
            return response.output_text

        return trio.run(main)

    warm = {"warm_up": {"model": "m", "instructions": "i"}}
    recorded(path, lambda url: talk(url, **warm), "hello")
    for options in (warm, {}):
        with tape_server(path) as tape:
            assert "hello" == talk(tape.base_url, **options)
            tape.check()
    assert 1 == len(Cassette.load(path).exchanges)


def test_what_a_provider_would_not_know_either(tmp_path: Path) -> None:
    """A parent that is nowhere is not found, as at any provider; who has the conversation sends all of it."""
    path = tmp_path / "c.json"
    recorded(path, by_openai_over_http)
    with tape_server(path) as tape, httpx.Client(trust_env=False) as http:
        body = {"model": "m", "input": "hi", "previous_response_id": "resp_elsewhere"}
        answer = http.post(tape.http_url, json=body)
        assert (400, "previous_response_not_found") == (answer.status_code, answer.json()["error"]["code"])
        assert by_openai_over_websocket(tape.base_url) == ANSWER
        tape.check()


def test_a_parent_from_before_the_recording(tmp_path: Path) -> None:
    """A stored response that the endpoint knows and the cassette does not: its id is part of the request."""
    path = tmp_path / "c.json"

    def ask(server: LocalServer | Tape, **fields: Any) -> Any:
        with httpx.Client(trust_env=False) as http:
            return http.post(server.http_url, json={"model": "m", "input": "hi", **fields}).json()

    with local_server() as server:
        parent = ask(server)["id"]
        with tape_server(path, record=server.url) as tape:
            first = ask(tape, previous_response_id=parent)
            ask(tape, previous_response_id=first["id"], input="more")
            tape.check()
    with tape_server(path) as tape:
        assert first["id"] == ask(tape, previous_response_id=parent)["id"]
        assert ask(tape, previous_response_id=first["id"], input="more")["status"] == "completed"
        tape.check()
    with tape_server(path) as tape:
        assert "cassette_mismatch" == ask(tape)["error"]["code"]
        assert f'previous_response_id: expected "{parent}", got null' in tape.problems[0]
