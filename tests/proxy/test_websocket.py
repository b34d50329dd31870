"""WebSocket clients through the front: who is let in, what is written down, and how long a socket lasts."""

from __future__ import annotations

import base64
import tracemalloc
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from tests.garbage import collect
from tests.helpers import policy
from tests.proxy.asking import KEY, Answer, Client as HttpClient, Scene, scene
from tests.proxy.talking import Client
from wspool import OPENAI
from wspool.core.usage import Usage
from wspool.proxy import Settings
from wspool.proxy.access.gate import Token
from wspool.proxy.access.tokens import TokenFile
from wspool.proxy.sockets.handshake import accepted_head, what_is_wrong
from wspool.server import OPENAI as OPENAI_SERVER, EchoModel

UPGRADE = [
    ("connection", "keep-alive, Upgrade"),
    ("upgrade", "websocket"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", base64.b64encode(b"0123456789abcdef").decode()),
]


async def upgraded(
    it: Scene,
    headers: Iterable[tuple[str, str]] = (KEY,),
    target: str = "/v1/responses",
    stream: trio.abc.Stream | None = None,
) -> tuple[trio.abc.Stream, bytes]:
    """Ask for an upgrade; the stream, and all that has come until the end of a head."""
    stream = stream or await it.proxy.open_stream()
    lines = [f"GET {target} HTTP/1.1", "host: localhost"]
    lines += [f"{name}: {value}" for name, value in [*UPGRADE, *headers]]
    await stream.send_all(("\r\n".join(lines) + "\r\n\r\n").encode())
    data = b""
    while b"\r\n\r\n" not in data:
        more = bytes(await stream.receive_some(65536))
        assert more, data
        data += more
    return stream, data


@asynccontextmanager
async def connected(it: Scene, **more: Any) -> AsyncGenerator[Client]:
    """A WebSocket client of the proxy."""
    stream, data = await upgraded(it, **more)
    assert data.startswith(b"HTTP/1.1 101 "), data
    client = Client(stream)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        yield client
        await stream.aclose()


async def refused(it: Scene, headers: Iterable[tuple[str, str]], target: str = "/v1/responses") -> Answer:
    """Ask for an upgrade that is turned down."""
    client: HttpClient = await it.client()
    await client.send("GET", target, headers=headers)
    return await client.receive()


async def test_a_turn_is_recorded_like_any_other(autojump_clock) -> None:
    """Who, how long, how much, how it ended: what a record of a turn by HTTP has."""
    async with scene(EchoModel(), server={"delay_per_token": 0.5}) as it:
        async with connected(it, target="/s/job-7/v1/responses") as client:
            await client.create("one", store=False)
            first = await client.answer()
            await client.create(
                "two", store=False, previous_response_id=first["response"]["id"], stream_id="b"
            )
            second = await client.answer("b")
        one, two = await it.records()

    assert ["websocket", "websocket"] == [one.door, two.door]
    assert ("completed", "websocket", 1, "job-7", "m") == (
        one.outcome,
        one.way,
        one.requests,
        one.session,
        one.model,
    )
    for record, said in ((one, first), (two, second)):
        assert Usage.of(said["response"]["usage"]) == record.usage
        assert said["response"]["id"] == record.response_id
        assert None not in (record.own, record.line, record.dial, record.first_event, record.stream)
        assert record.stream
        assert (record.total or 0) >= record.stream
        assert record.bytes_in > 0
        assert record.bytes_out > 0
    assert "lane" == it.ledger[1]["parent_from"]
    assert {} == it.proxy.records.running


async def test_what_goes_wrong_is_recorded(autojump_clock) -> None:
    """A refusal with its code, a request that cannot be sent, and a client that leaves."""
    async with scene(EchoModel(), server={"delay_per_token": 5}) as it:
        async with connected(it) as client:
            await client.create("x", store=False, previous_response_id="resp_none")
            assert "previous_response_not_found" == (await client.answer())["error"]["code"]
            await client.create("x", background=True)
            await client.answer()
            await client.create("a long answer")
            await client.until(lambda: client.said[-1]["type"] == "response.created")
        await trio.sleep(100)
        unknown, unfit, left = await it.records()

    assert ("refused", "previous_response_not_found", 400) == (unknown.outcome, unknown.error, unknown.status)
    assert unknown.said
    assert "resp_none" in unknown.said
    assert ("rejected", 400) == (unfit.outcome, unfit.status)
    assert "left" == left.outcome


async def test_a_client_that_leaves_is_read_to_the_end_for_its_tokens(autojump_clock) -> None:
    """Where the settings say so, and no longer than they do."""
    settings = Settings(on_hangup="drain", drain_for=500)
    async with scene(EchoModel(), server={"delay_per_token": 5}, settings=settings) as it:
        async with connected(it) as client:
            await client.create("one two")
            await client.until(lambda: client.said)
        await trio.sleep(400)
        (record,) = await it.records()

    assert record.usage
    assert record.drained


async def test_the_lifetimes_of_connections_are_not_a_clients(autojump_clock) -> None:
    """Its socket outlives all of them; a restart, too. It holds no lease meanwhile."""
    profile = attrs.evolve(OPENAI_SERVER, lifetime=600)
    async with (
        scene(EchoModel(), server={"profile": profile}, policy=policy(turn_reserve=60)) as it,
        connected(it) as client,
    ):
        for number in range(10):
            await client.create(f"{number}")
            assert "response.completed" == (await client.answer())["type"]
            await trio.sleep(1000)
        pools = it.proxy.pools.open.values()
        assert [0] * len(pools) == [pool.statistics().leased for pool in pools]
        assert client.closed is None
        assert client.pings > 500

    assert 10 == len(it.ledger)
    assert len({entry["connection"] for entry in it.ledger}) > 5


async def test_without_websocket_at_the_provider_a_socket_goes_on_by_http(autojump_clock) -> None:
    """It notices nothing but time; whoever comes then is told to ask by HTTP."""
    async with scene(EchoModel(), policy=policy(), fallback="http") as it:
        async with connected(it) as client:
            await client.create("one", store=False)
            await client.answer()
            it.server.reject_handshakes(*[426] * 100)
            for number in range(3):
                await trio.sleep(4000)
                await client.create(f"{number}", store=False)
                assert "response.completed" == (await client.answer())["type"]
            assert 426 == (await refused(it, [*UPGRADE, KEY])).status
        records = await it.records()

    assert ["websocket", "http", "http", "http"] == [record.way for record in records]


async def test_what_is_over_the_limit_of_a_frame_goes_by_http(autojump_clock) -> None:
    """And what is new alone comes back to the WebSocket; nothing was sent that could not arrive."""
    small = attrs.evolve(OPENAI, max_request=20_000)
    limits = policy(max_size=1)
    async with scene(EchoModel(), provider=small, policy=limits) as it:
        async with connected(it) as client:
            await client.create("hi", instructions="x" * 30_000, store=True)
            large = await client.answer()
            assert "response.completed" == large["type"]
            await client.create("more", store=True, previous_response_id=large["response"]["id"])
            assert "response.completed" == (await client.answer())["type"]
        records = await it.records()

    assert ["http", "websocket"] == [entry["transport"] for entry in it.ledger]
    assert [("http", "completed"), ("websocket", "completed")] == [
        (record.way, record.outcome) for record in records
    ]
    assert [None, None] == [record.error for record in records]


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"sec-websocket-version": "8"}, 426),
        ({"sec-websocket-key": "short"}, 400),
        ({"connection": "keep-alive"}, 400),
        ({"authorization": "Basic YTpi"}, 401),
    ],
)
async def test_an_upgrade_that_is_wrong_is_refused(autojump_clock, changed: Any, status: int) -> None:
    """With the reason, as HTTP; and the provider is not asked."""
    headers = [(name, changed.get(name, value)) for name, value in [*UPGRADE, KEY]]
    async with scene(EchoModel()) as it:
        answer = await refused(it, headers)
        assert {} == it.proxy.pools.open

    assert status == answer.status
    assert answer.json["error"]["message"]
    if status == 426:
        assert "13" == answer.headers["sec-websocket-version"]


@pytest.mark.parametrize(
    ("version", "framing"),
    [("1.1", "content-length: 3"), ("1.1", "transfer-encoding: chunked"), ("1.0", "x: y")],
)
async def test_an_upgrade_has_no_body(autojump_clock, version: str, framing: str) -> None:
    """What stands behind it would be frames for the one, and a body for whoever is in between."""
    said = [f"GET /v1/responses HTTP/{version}", *(f"{n}: {v}" for n, v in [*UPGRADE, KEY]), framing]
    async with scene(EchoModel()) as it:
        client = await it.client()
        await client.stream.send_all("\r\n".join([*said, "host: localhost", "", "abc"]).encode())
        answer = bytes(await client.stream.receive_some())

    assert b"HTTP/1.1 400 " == answer[:13]


async def test_a_proxy_may_take_no_websocket(autojump_clock) -> None:
    """426 is what programs understand."""
    async with scene(EchoModel(), settings=Settings(websocket=False)) as it:
        answer = await refused(it, [*UPGRADE, KEY])

    assert (426, "websocket_upgrade_required") == (answer.status, answer.json["error"]["code"])
    assert "close" in answer.headers["connection"]


async def test_a_web_page_cannot_open_a_socket(autojump_clock) -> None:
    """Browsers let any page try: `Origin` shows it, and a token has to be shown where there are some."""
    tokens = [Token("editor", "tok-1234567890")]
    async with scene(EchoModel(), api_key="sk-proxy", tokens=tokens) as it:
        assert 401 == (await refused(it, UPGRADE)).status
        async with connected(it, headers=[("authorization", "Bearer tok-1234567890")]) as client:
            await client.create("hi")
            await client.answer()
        (record,) = await it.records()

    assert "editor" == record.token


@pytest.mark.parametrize("fields", [{"previous_response_id": 7}, {"stream": 1}])
async def test_a_field_of_a_wrong_type_is_refused(autojump_clock, fields: dict[str, Any]) -> None:
    """And the socket goes on."""
    async with scene(EchoModel()) as it, connected(it) as client:
        await client.create("hi", **fields)
        refused = await client.answer()
        await client.create("hi")
        assert "response.completed" == (await client.answer())["type"]

    assert ("error", 400) == (refused["type"], refused["status"])
    assert next(iter(fields)) in refused["error"]["message"]
    assert 1 == len(it.ledger)


async def test_a_token_that_is_no_more_is_cut_off(autojump_clock) -> None:
    """At once, with its turns; others go on."""
    tokens = [Token("one", "tok-1"), Token("two", "tok-2")]
    async with (
        scene(EchoModel(), api_key="sk-proxy", tokens=tokens, server={"delay_per_token": 5}) as it,
        connected(it, headers=[("authorization", "Bearer tok-1")]) as one,
        connected(it, headers=[("authorization", "Bearer tok-2")]) as two,
    ):
        await one.create("hi")
        await two.create("hi")
        await trio.sleep(3)
        it.proxy.front._gate.tokens = {"two": tokens[1]}
        it.proxy.front.sockets.look_again()
        assert "response.completed" == (await two.answer())["type"]
        await one.until(lambda: one.closed is not None)

    assert 1008 == one.closed
    assert two.closed is None or two.closed == 1006


@pytest.mark.parametrize("door", ["sse", "json", "websocket"])
async def test_what_is_cut_off_says_what_it_cost(autojump_clock, door: str) -> None:
    """At each door: its turn goes on as that of any client that has left, and is written down so."""
    tokens = [Token("one", "tok-1"), Token("two", "tok-2")]
    header = ("authorization", "Bearer tok-1")
    ends: list[str] = []
    async with (
        scene(EchoModel(), api_key="sk-proxy", tokens=tokens, server={"delay_per_token": 5}) as it,
        trio.open_nursery() as nursery,
    ):

        async def ask() -> None:
            client = await it.client()
            body = {"model": "m", "input": "hi", "stream": door == "sse"}
            await client.send("POST", "/v1/responses", body, headers=(header,))
            while await client.stream.receive_some():
                pass
            ends.append("cut")

        async def talk() -> None:
            async with connected(it, headers=[header]) as client:
                await client.create("hi")
                await client.until(lambda: client.closed is not None)
            ends.append("cut")

        nursery.start_soon(talk if door == "websocket" else ask)
        await trio.sleep(3)
        it.proxy.front._gate.tokens = {"two": tokens[1]}
        it.proxy.front.look_again()
        await trio.sleep(0.5)
        assert ["cut"] == ends
        await trio.sleep(60)
        (record,) = await it.records()

    assert ("left", True, None) == (record.outcome, record.drained, record.error)
    assert record.usage is not None
    assert record.usage.output > 0


async def test_what_is_said_of_a_token_now_holds_for_a_socket_that_is_open(
    autojump_clock, tmp_path: Path
) -> None:
    """Its client need not come again to have what it was given, nor to have less."""
    path, ends = tmp_path / "tokens", list[str]()

    def write(budget: int) -> None:
        path.write_text(f"spender tok-canary-12345 budget={budget}\n" + " " * len(ends))
        path.chmod(0o600)

    write(1)
    async with (
        scene(EchoModel(), api_key="sk-proxy", tokens=TokenFile(path)) as it,
        connected(it, headers=[("authorization", "Bearer tok-canary-12345")]) as client,
    ):
        for budget in (1, 1, 1_000_000, 1):
            write(budget)
            it.proxy.reread()
            await client.create("a")
            ends.append((await client.answer())["type"])

    assert ["response.completed", "error", "response.completed", "error"] == ends


async def test_a_budget_ends_turns_and_no_socket(autojump_clock) -> None:
    """The next turn is refused as a provider refuses it, before anything is sent."""
    spender = Token("spender", "tok-1", budget=1)
    async with scene(EchoModel(), api_key="sk-proxy", tokens=[spender]) as it:
        async with connected(it, headers=[("authorization", "Bearer tok-1")]) as client:
            await client.create("hi")
            assert "response.completed" == (await client.answer())["type"]
            await client.create("more", stream_id="a")
            refused = await client.answer("a")
        _, record = await it.records()

    assert ("error", 429, "insufficient_quota") == (
        refused["type"],
        refused["status"],
        refused["error"]["code"],
    )
    assert ("rejected", "insufficient_quota", 429) == (record.outcome, record.error, record.status)
    assert 1 == len(it.ledger)


async def test_many_quiet_clients_weigh_little(autojump_clock) -> None:
    """Under 64 kB each, all of it counted, after a turn with a large message each."""
    async with scene(EchoModel(), policy=policy(max_size=2)) as it:
        streams: list[trio.abc.Stream] = []

        async def come(count: int) -> int:
            """Let more clients come, and be quiet; what is in memory then."""
            for _ in range(count):
                stream, _ = await upgraded(it)
                client = Client(stream)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(client.run)
                    await client.create("hi", instructions="x" * 200_000, store=False)
                    await client.answer()
                    nursery.cancel_scope.cancel()
                streams.append(stream)
                del client
            it.proxy.records.ended.clear()
            it.ledger.clear()
            await trio.sleep(1)
            collect()
            return tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        try:
            before = await come(20)  # what the pool keeps of its last turns is no client's
            each = (await come(40) - before) / 40
        finally:
            tracemalloc.stop()
        assert 0 == sum(pool.statistics().leased for pool in it.proxy.pools.open.values())
        for stream in streams:
            await stream.aclose()

    assert each < 64_000, each


def test_the_key_is_answered_as_the_standard_says() -> None:
    """Its own example. Source: RFC 6455, 1.3."""
    headers = [
        (b"connection", b"Upgrade"),
        (b"sec-websocket-version", b"13"),
        (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
    ]

    assert what_is_wrong(headers) is None
    assert b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in accepted_head(headers)
