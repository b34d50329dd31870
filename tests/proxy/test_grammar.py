"""What HTTP itself asks of an answer, whatever was asked: names, kinds, and what goes with a status."""

from __future__ import annotations

from typing import Any

import pytest

from tests.proxy.asking import KEY, Answer, scene
from tests.proxy.test_websocket import UPGRADE, refused
from wspool.proxy import Settings, Token
from wspool.server import EchoModel, ModelTurn, TurnError

TOKEN = Token("ci", "canary-token-1")
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")
PATHS = (
    "/",
    "/login",
    "/live",
    "/usage.json",
    "/usage.csv",
    "/metrics",
    "/healthz",
    "/readyz",
    "/favicon.ico",
    "/v1/responses",
    "/v1/chat/completions",
    "/v1",
    "/s/",
    "/s//v1/responses",
    "/s/x",
    "/s/x/v1",
    f"/s/{'x' * 129}/v1/responses",
    "/s/x/s/y/v1/responses",
    "/v1/x%0ay",
    "/v1/../x",
    "*",
)


def check(method: str, answer: Answer) -> None:
    """What holds for each answer."""
    status, headers = answer.status, answer.headers
    assert headers["x-request-id"]
    assert ("allow" in headers) == (status == 405)
    assert ("www-authenticate" in headers) == (status == 401)
    if status == 426:
        assert "websocket" == headers["upgrade"]
        assert "upgrade" in headers["connection"].lower()
    if "retry-after" in headers:
        assert headers["retry-after"].isdecimal()
    if status >= 400 and method != "HEAD" and "text/html" not in headers["content-type"]:
        assert {"message", "type", "param", "code"} <= answer.json["error"].keys()


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("path", PATHS)
async def test_each_answer_has_what_goes_with_its_status(autojump_clock, path: str, tokens: bool) -> None:
    """For each method; what it says of methods is true, and what is none of the provider's stays here."""
    keys: dict[str, Any] = {"api_key": "sk-own", "tokens": [TOKEN]} if tokens else {}
    statuses: dict[str, int] = {}
    allowed: set[str] = set()
    async with scene(EchoModel(), **keys) as it:
        for method in METHODS:
            if (method, path) == ("GET", "/live"):
                continue  # it never ends
            for headers in ((KEY,), (("x-api-key", TOKEN.text),)) if tokens else ((KEY,),):
                answer = await (await it.client()).ask(method, path, headers=headers)
                check(method, answer)
                statuses[method] = answer.status
                if answer.status == 405:
                    allowed |= set(answer.headers["allow"].split(", "))
        if path != "/v1/responses":  # whose other methods are the provider's
            assert 0 == it.server.statistics().http_connections

    assert all(statuses.get(method) != 405 for method in allowed)
    if path[:3] in ("/v1", "/s/", "*") and path != "/v1/responses":
        assert {404} == set(statuses.values())


class Refusing:
    def respond(self, request: Any) -> ModelTurn:
        error = TurnError(
            message="Later.", code="rate_limit_exceeded", status=429, headers={"retry-after": "1234567.5"}
        )
        return ModelTurn(status="rejected", error=error)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_wait_is_whole_seconds_and_none_too_few(autojump_clock, stream: bool) -> None:
    """Also where a number has many digits, and where it is the proxy's own."""
    full = Token("full", "canary-token-2", budget=0)
    async with scene(Refusing(), api_key="sk-own", tokens=[TOKEN, full]) as it:
        client = await it.client()
        late = await client.turn(stream=stream, headers=(("x-api-key", TOKEN.text),))
        spent = await client.turn(stream=stream, headers=(("x-api-key", full.text),))

    for answer in (late, spent):
        check("POST", answer)
    assert ("1234568", "1234567500") == (late.headers["retry-after"], late.headers["retry-after-ms"])
    assert 429 == spent.status
    assert 0 < int(spent.headers["retry-after"]) <= 86_400


@pytest.mark.parametrize(
    "offered",
    [
        ["h2c, websocket"],
        ["WebSocket , h2c"],
        ["h2c", "websocket"],
        ["websocket"],
    ],
)
async def test_of_the_protocols_that_are_offered_one_is_taken(autojump_clock, offered: list[str]) -> None:
    """Also from a list, or from two headers; and by who sends something, none."""
    more = [("upgrade", value) for value in offered]
    headers = [*(field for field in UPGRADE if field[0] != "upgrade"), *more, KEY]
    async with scene(EchoModel()) as it:
        stream = await it.proxy.open_stream()
        lines = ["GET /v1/responses HTTP/1.1", "host: localhost", *(f"{n}: {v}" for n, v in headers)]
        await stream.send_all(("\r\n".join(lines) + "\r\n\r\n").encode())
        said = bytes(await stream.receive_some(65536))
        sent = await (await it.client()).turn(headers=headers)

    assert said.startswith(b"HTTP/1.1 101 ")
    assert 200 == sent.status


@pytest.mark.parametrize("offered", ["h2c", "websockets", "h2c, xwebsocket"])
async def test_what_is_not_spoken_here_is_not_taken(autojump_clock, offered: str) -> None:
    """It is a request as any other."""
    headers = [*(field for field in UPGRADE if field[0] != "upgrade"), ("upgrade", offered), KEY]
    async with scene(EchoModel()) as it:
        answer = await refused(it, headers)
        listed = await (await it.client()).ask("GET", "/v1/models", headers=headers)

    assert (426, 200) == (answer.status, listed.status)
    check("GET", answer)


@pytest.mark.parametrize("websocket", [False, True])
async def test_an_upgrade_elsewhere_is_refused(autojump_clock, websocket: bool) -> None:
    """As JSON; nothing else is spoken over WebSocket."""
    async with scene(EchoModel(), settings=Settings(websocket=websocket)) as it:
        for target in ("/v1/models", "/", "/metrics", "/s//v1/responses"):
            answer = await refused(it, [*UPGRADE, KEY], target)
            check("GET", answer)
            assert answer.status == (404 if websocket or target == "/s//v1/responses" else 426)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("more", [{"generate": False}, {"generate": True}, {"type": "response.create"}])
async def test_what_only_a_message_has_is_the_provider_s_to_read_by_http(
    autojump_clock, more: dict[str, Any], stream: bool
) -> None:
    """It goes as it came, not as a message, where it would mean something."""
    async with scene(EchoModel()) as it:
        answer = await (await it.client()).turn("hi", stream=stream, **more)
        records = await it.records()

    assert ["http"] == [record.way for record in records]
    assert [(200, "http")] == [(answer.status, entry["transport"]) for entry in it.ledger]
