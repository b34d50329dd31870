"""What is beside the turns: models, health, stored responses, and how requests and answers are wrapped."""

import gzip
import json
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import h11
import pytest
import trio
import zstandard
from trio.testing import MockClock

from wspool.listening.decoding import ZSTD_WINDOW, decoded
from wspool.server import OPENAI, EchoModel, Server, open_server
from wspool.server.protocol.requests import RequestError

from .client import Frame, connected, text


@attrs.frozen
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        return self.json["error"]


async def ask(
    server: Server,
    method: str,
    path: str,
    body: Frame | bytes = b"",
    *,
    stranger: bool = False,
    **headers: str,
) -> Answer:
    """One request on a connection of its own."""
    data = json.dumps(body).encode() if isinstance(body, dict) else body
    fields = {"host": "localhost", "content-length": str(len(data))}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    http = h11.Connection(h11.CLIENT)
    async with trio.open_nursery() as nursery:
        ours, theirs = trio.testing.memory_stream_pair()
        nursery.start_soon(lambda: server.serve(theirs, stranger=stranger))
        request = h11.Request(method=method, target=path, headers=list(fields.items()))
        await ours.send_all((http.send(request) or b"") + (http.send(h11.Data(data=data)) or b""))
        http.send(h11.EndOfMessage())
        head: h11.Response | None = None
        content = bytearray()
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(bytes(await ours.receive_some()))
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                content += event.data
            else:
                break
        await ours.aclose()
    assert head is not None
    found = {name.decode(): value.decode() for name, value in head.headers}
    return Answer(head.status_code, found, bytes(content))


async def respond(server: Server, given: Any = "hi", **fields: Any) -> Frame:
    answer = await ask(server, "POST", "/v1/responses", {"model": "m", "input": given, **fields})
    assert 200 == answer.status, answer
    found: Frame = answer.json
    return found


async def test_models_and_health(autojump_clock: MockClock) -> None:
    async with open_server(EchoModel(), port=None) as server:
        models = await ask(server, "GET", "/v1/models")
        assert ("list", "gpt-5.2") == (models.json["object"], models.json["data"][0]["id"])
        one = await ask(server, "GET", "/v1/models/any%2Fname")
        assert ("any/name", "model") == (one.json["id"], one.json["object"])
        for path in ("/health", "/v1/health", "/health/"):
            assert (200, {"status": "ok"}) == ((answer := await ask(server, "GET", path)).status, answer.json)
        bare = await ask(server, "HEAD", "/health")
        assert (200, b"", "15") == (bare.status, bare.body, bare.headers["content-length"])
        wrong = await ask(server, "POST", "/v1/models")
        assert (405, "GET, HEAD") == (wrong.status, wrong.headers["allow"])
        for path in ("/", "/v1/nothing", "/v1/models/a/b", "/v1/responses/a/b", "*"):
            assert 404 == (await ask(server, "GET", path)).status


async def test_everything_needs_the_key(autojump_clock: MockClock) -> None:
    """Health too; as a bearer or, as on Azure, under its own name."""
    async with open_server(EchoModel(), port=None, api_key="sk-1") as server:
        for method, path in [("GET", "/health"), ("GET", "/v1/models"), ("DELETE", "/v1/responses/resp_1")]:
            assert 401 == (await ask(server, method, path)).status
            assert 401 != (await ask(server, method, path, api_key="sk-1")).status
            assert 401 != (await ask(server, method, path, authorization="Bearer sk-1")).status


async def test_a_stored_response(autojump_clock: MockClock) -> None:
    """Is given back as it was, with what it was asked, until it is deleted."""
    async with open_server(EchoModel(), port=None) as server:
        made = await respond(server, metadata={"a": "b"})
        found = await ask(server, "GET", f"/v1/responses/{made['id']}?include=x")
        assert (200, made) == (found.status, found.json)
        later = await respond(server, previous_response_id=made["id"])
        for _ in range(2):
            gone = await ask(server, "DELETE", f"/v1/responses/{made['id']}")
            if gone.status == 200:
                assert {"id": made["id"], "object": "response", "deleted": True} == gone.json
        assert 404 == gone.status
        for method, path in [("GET", ""), ("GET", "/input_items"), ("POST", "/cancel")]:
            lost = await ask(server, method, f"/v1/responses/{made['id']}{path}")
            assert (404, f"Response with id '{made['id']}' not found.") == (
                lost.status,
                lost.error["message"],
            )
        assert 400 == (await ask(server, "POST", f"/v1/responses/{later['id']}/cancel")).status
        kept = await respond(server, store=False)
        assert 404 == (await ask(server, "GET", f"/v1/responses/{kept['id']}")).status
        await respond(server, previous_response_id=later["id"])


async def test_what_was_asked_is_listed_by_pages(autojump_clock: MockClock) -> None:
    """Each item in full and with an id, the newest first unless asked otherwise."""
    async with open_server(EchoModel(), port=None) as server:
        given = [{"role": "user", "content": f"{n}"} for n in range(25)]
        path = f"/v1/responses/{(await respond(server, given))['id']}/input_items"
        first = (await ask(server, "GET", path)).json
        assert (20, True) == (len(first["data"]), first["has_more"])
        assert (first["data"][0]["id"], first["data"][-1]["id"]) == (first["first_id"], first["last_id"])
        rest = (await ask(server, "GET", f"{path}?after={first['last_id']}")).json
        assert (5, False) == (len(rest["data"]), rest["has_more"])
        words = [item["content"][0]["text"] for item in [*first["data"], *rest["data"]]]
        assert [str(n) for n in reversed(range(25))] == words
        two = (await ask(server, "GET", f"{path}?order=asc&limit=2")).json["data"]
        assert ["0", "1"] == [item["content"][0]["text"] for item in two]
        assert ("message", "completed") == (two[0]["type"], two[0]["status"])
        for query, param in [
            ("limit=0", "limit"),
            ("limit=101", "limit"),
            ("limit=x", "limit"),
            ("order=up", "order"),
        ]:
            wrong = await ask(server, "GET", f"{path}?{query}")
            assert (400, param) == (wrong.status, wrong.error["param"])
        assert 404 == (await ask(server, "GET", f"{path}?after=nothing")).status
        empty = (await respond(server, []))["id"]
        nothing = (await ask(server, "GET", f"/v1/responses/{empty}/input_items")).json
        assert ([], None, False) == (nothing["data"], nothing["first_id"], nothing["has_more"])


async def test_input_tokens(autojump_clock: MockClock) -> None:
    """As many as the turn is then said to have had."""
    async with open_server(EchoModel(), port=None) as server:
        made = await respond(server, "one two three")
        for body in ({"input": "four five"}, {"input": "six", "previous_response_id": made["id"]}):
            counted = await ask(server, "POST", "/v1/responses/input_tokens", body)
            assert "response.input_tokens" == counted.json["object"]
            given, parent = body["input"], body.get("previous_response_id")
            turn = await respond(server, given, previous_response_id=parent)
            assert turn["usage"]["input_tokens"] == counted.json["input_tokens"]
        lost = await ask(server, "POST", "/v1/responses/input_tokens", {"previous_response_id": "resp_0"})
        assert "previous_response_not_found" == lost.error["code"]


async def test_references_are_resolved(autojump_clock: MockClock) -> None:
    """To what a model made, and to what was given, stored or on the same connection; else they are named."""
    async with open_server(EchoModel(), port=None) as server, connected(server) as client:
        made = await respond(server, "hello")
        asked = await ask(server, "GET", f"/v1/responses/{made['id']}/input_items")
        references = [
            {"type": "item_reference", "id": name}
            for name in (asked.json["data"][0]["id"], made["output"][0]["id"])
        ]
        whole = [{"role": "user", "content": "hello"}, made["output"][0], {"role": "user", "content": "more"}]
        by_name = await respond(server, [*references, whole[-1]])
        assert (await respond(server, whole))["usage"] == by_name["usage"]
        echoed = await respond(server, references[:1], store=False)
        assert "hello" == text(echoed)

        unstored = await client.respond("said here")
        reference = {"type": "item_reference", "id": unstored["output"][0]["id"]}
        await client.respond([reference, {"role": "user", "content": "more"}], store=True)
        (refused,) = await client.turn([{"type": "item_reference", "id": "msg_nobody"}])
        assert (404, "input") == (refused["status"], refused["error"]["param"])
        assert "Item with id 'msg_nobody' not found." == refused["error"]["message"]
        for path in ("compact", "input_tokens"):
            body = {"model": "m", "input": [{"type": "item_reference", "id": "msg_nobody_in_0"}]}
            assert 404 == (await ask(server, "POST", f"/v1/responses/{path}", body)).status


async def test_answers_and_upgrades_have_an_id(autojump_clock: MockClock) -> None:
    """Each its own: those that went well, those that did not, and handshakes."""
    async with open_server(EchoModel(), port=None, max_connections=1) as server:
        answers = [
            await ask(server, "POST", "/v1/responses", {"model": "m", "stream": True}),
            await ask(server, "POST", "/v1/responses", {}),
            await ask(server, "GET", "/v1/nothing"),
            await ask(server, "GET", "/v1/nothing", upgrade="websocket", connection="upgrade"),
        ]
        ids = [answer.headers["x-request-id"] for answer in answers]
        async with connected(server) as client:
            headers = dict(client.websocket.handshake_headers)
            ids.append(headers[b"x-request-id"].decode())
        assert 5 == len(set(ids))
        assert all(name.startswith("req_") for name in ids)


@pytest.mark.parametrize("stranger", [False, True])
async def test_pages_are_told_what_they_may(stranger: bool, autojump_clock: MockClock) -> None:
    """A page of this machine may ask and read; one from elsewhere is refused, and told nothing."""
    async with open_server(EchoModel(), port=None) as server:
        page = "http://localhost:3000"
        preflight = await ask(
            server,
            "OPTIONS",
            "/v1/responses",
            stranger=stranger,
            origin=page,
            access_control_request_method="POST",
            access_control_request_headers="authorization, content-type",
            access_control_request_private_network="true",
        )
        assert (204, b"") == (preflight.status, preflight.body)
        assert page == preflight.headers["access-control-allow-origin"]
        assert "authorization, content-type" == preflight.headers["access-control-allow-headers"]
        assert "true" == preflight.headers["access-control-allow-private-network"]
        assert "DELETE" in preflight.headers["access-control-allow-methods"]
        for body in ({"model": "m"}, {}, {"model": "m", "stream": True}):
            answer = await ask(server, "POST", "/v1/responses", body, stranger=stranger, origin=page)
            assert (page, "Origin") == (answer.headers["access-control-allow-origin"], answer.headers["vary"])
        evil = await ask(
            server, "POST", "/v1/responses", {"model": "m"}, stranger=True, origin="https://evil.example"
        )
        assert 403 == evil.status
        assert "access-control-allow-origin" not in evil.headers
        plain = await ask(server, "GET", "/health")
        assert "access-control-allow-origin" not in plain.headers
        assert 405 == (await ask(server, "OPTIONS", "/v1/responses")).status


async def test_a_page_needs_the_key_for_all_but_the_preflight(autojump_clock: MockClock) -> None:
    """It is let in from anywhere if it has it, and can read that it has not."""
    async with open_server(EchoModel(), port=None, api_key="sk-1") as server:
        page = "https://app.example"
        asked = await ask(
            server, "OPTIONS", "/v1/responses", origin=page, access_control_request_method="POST"
        )
        assert 204 == asked.status
        for key, status in [("wrong", 401), ("sk-1", 200)]:
            answer = await ask(server, "GET", "/v1/models", origin=page, authorization=f"Bearer {key}")
            assert (status, page) == (answer.status, answer.headers["access-control-allow-origin"])


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "GZIP": lambda data: gzip.compress(data[:9]) + gzip.compress(data[9:]),
    "deflate": zlib.compress,
    "identity, deflate": raw_deflate,
    "zstd": zstandard.ZstdCompressor().compress,
    "gzip, zstd": lambda data: zstandard.ZstdCompressor().compress(gzip.compress(data)),
    "identity": bytes,
}


@pytest.mark.parametrize("coding", ENCODERS)
async def test_a_request_may_be_compressed(coding: str, autojump_clock: MockClock) -> None:
    async with open_server(EchoModel(), port=None) as server:
        body = ENCODERS[coding](json.dumps({"model": "m", "input": "hello " * 99}).encode())
        answer = await ask(server, "POST", "/v1/responses", body, content_encoding=coding)
        assert (200, "hello " * 99) == (answer.status, text(answer.json))


LIMIT = 100_000


@pytest.mark.parametrize("coding", ENCODERS)
def test_what_it_unpacks_to_is_bounded(coding: str) -> None:
    """To the byte, whatever the sender says its size is."""
    if coding == "identity":
        return
    assert bytes(LIMIT) == decoded(ENCODERS[coding](bytes(LIMIT)), [coding], LIMIT)
    with pytest.raises(RequestError) as refused:
        decoded(ENCODERS[coding](bytes(LIMIT + 1)), [coding], LIMIT)
    assert 413 == refused.value.error.status


@pytest.mark.parametrize("coding", ENCODERS)
def test_what_is_not_encoded_so_is_refused(coding: str) -> None:
    """Garbage, what is cut off, and what goes on behind the end."""
    if coding == "identity":
        return
    whole = ENCODERS[coding](b"some text " * 99)
    for broken in (b"", b"\x00garbage", whole[:-9], whole + b"more"):
        if coding == "zstd" and len(broken) < len(whole) and broken[:1] != b"\x00":
            continue  # What there is of it is read; it is no JSON.
        with pytest.raises(RequestError) as refused:
            decoded(broken, [coding], LIMIT)
        assert 400 == refused.value.error.status


def test_zstd_looks_back_only_so_far() -> None:
    """A frame that wants a larger window than decoders must have is refused before it gets one."""
    parameters = zstandard.ZstdCompressionParameters(window_log=ZSTD_WINDOW.bit_length())
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    frame = packer.compress(b"x" * 99) + packer.flush()
    with pytest.raises(RequestError):
        decoded(frame, ["zstd"], LIMIT)


@pytest.mark.parametrize("coding", ["br", "gzip, br", "gzip, gzip, gzip"])
async def test_an_unknown_coding_is_named(coding: str, autojump_clock: MockClock) -> None:
    async with open_server(EchoModel(), port=None, profile=attrs.evolve(OPENAI, max_message=99)) as server:
        answer = await ask(server, "POST", "/v1/responses", b"x", content_encoding=coding)
        assert (415, "gzip, deflate, zstd") == (answer.status, answer.headers["accept-encoding"])
        large = gzip.compress(json.dumps({"model": "m", "input": "x" * 99}).encode())
        assert 413 == (await ask(server, "POST", "/v1/responses", large, content_encoding="gzip")).status


@pytest.mark.parametrize(("size", "status", "says"), [(100, 413, "close"), (99, 400, None)])
async def test_who_reads_no_further_says_so(
    size: int, status: int, says: str | None, autojump_clock: MockClock
) -> None:
    """A client that kept the connection would lose its next request on it."""
    async with open_server(EchoModel(), port=None, profile=attrs.evolve(OPENAI, max_message=99)) as server:
        answer = await ask(server, "POST", "/v1/responses", b"x" * size)
    assert (status, says) == (answer.status, answer.headers.get("connection"))
