"""Who may ask: names, origins and keys, on every way in and on every request of a connection."""

import json
from functools import partial
from typing import Any

import httpx
import pytest
import trio
from hypothesis import given, strategies as st
from trio.testing import MockClock

from wspool.listening.admission import Admission, Headers, is_loopback
from wspool.server import EchoModel, Server, open_server

from .raw import HEAD

BODY = json.dumps({"model": "m", "input": "hi", "store": False}).encode()

OURS = ["localhost", "LOCALHOST", "localhost.", "a.localhost", "127.0.0.1", "127.8.8.8", "::1", "[::1]"]
OTHERS = [
    "",
    "x",
    "evil.example",
    "localhost.evil.example",
    "notlocalhost",
    "10.0.0.1",
    "0.0.0.0",
    "[::2]",
    "::",
    "1",
]


@pytest.mark.parametrize("host", [*OURS, "[::ffff:127.0.0.1]"])
def test_what_is_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", [*OTHERS, "127.0.0.1.evil.example", "::ffff:10.0.0.1", "[", "127.1"])
def test_what_is_not(host: str) -> None:
    assert not is_loopback(host)


@given(st.binary(max_size=30))
def test_no_header_is_too_odd_to_be_judged(value: bytes) -> None:
    """Whatever a field holds, there is a verdict; and what is let in is ours."""
    for name in (b"host", b"origin", b"authorization", b"api-key"):
        Admission(api_key="sk-1").refusal(b"GET", [(b"host", b"a"), (name, value)])
        refused = Admission().refusal(b"GET", [(b"host", b"localhost"), (name, value)])
        if name == b"host" and b"localhost" not in value.lower():
            assert refused is not None or is_loopback(
                value.decode("latin-1").partition("]")[0].partition(":")[0]
            )


def headers(**fields: str) -> Headers:
    return [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in fields.items()]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        *(({"host": host}, None) for host in OURS if host != "::1"),
        *(({"host": f"{host}:8765"}, None) for host in OURS),
        *(({"host": host}, "host_not_allowed") for host in OTHERS),
        *(({"host": f"{host}:8765"}, "host_not_allowed") for host in OTHERS),
        ({}, "host_not_allowed"),
        ({"host": "localhost", "origin": "http://localhost:3000"}, None),
        ({"host": "localhost", "origin": "https://127.0.0.1"}, None),
        ({"host": "localhost", "origin": "http://[::1]:3000"}, None),
        *(
            ({"host": "localhost", "origin": origin}, "origin_not_allowed")
            for origin in (
                "https://evil.example",
                "null",
                "",
                "file://",
                "localhost",
                "http://evil.example@localhost",
                "http://localhost.evil.example:80",
                "http://[",
                "chrome-extension://localhost",
            )
        ),
        (
            {"host": "localhost", "origin": "http://evil.example", "authorization": "Bearer x"},
            "origin_not_allowed",
        ),
        *(
            ({"host": "localhost", "sec_fetch_site": "cross-site", **more}, "origin_not_allowed")
            for more in ({}, {"sec_fetch_dest": "image"}, {"sec_fetch_dest": "iframe"})
        ),
        ({"host": "localhost", "sec_fetch_site": "cross-site", "sec_fetch_dest": "document"}, None),
        ({"host": "localhost", "sec_fetch_site": "same-origin", "sec_fetch_dest": "empty"}, None),
        ({"host": "localhost", "sec_fetch_site": "cross-site", "origin": "http://localhost:3000"}, None),
    ],
)
def test_without_a_key(fields: dict[str, str], code: str | None) -> None:
    """Programs of this machine, and pages of this machine."""
    refused = Admission().refusal(b"POST", headers(**fields))

    assert code == (refused and refused.code)
    assert refused is None or (refused.status, "evil" in refused.message) == (403, False)
    assert Admission(names_checked=False).refusal(b"POST", headers(**fields)) is None


@pytest.mark.parametrize(
    ("fields", "let_in"),
    [
        ({"authorization": "Bearer sk-1"}, True),
        ({"authorization": "bearer  sk-1 "}, True),
        ({"api_key": "sk-1"}, True),
        ({"api_key": "sk-1", "origin": "https://mine.example", "host": "gpu1:8000"}, True),
        ({}, False),
        ({"authorization": "sk-1"}, False),
        ({"authorization": "Basic sk-1"}, False),
        ({"authorization": "Bearer"}, False),
        ({"authorization": "Bearer sk-2"}, False),
        ({"authorization": "Bearer sk-1x"}, False),
        ({"api_key": "sk"}, False),
        ({"api_key": "sk-ä"}, False),
    ],
)
def test_with_a_key(fields: dict[str, str], let_in: bool) -> None:
    """Whoever shows it, from wherever; a preflight shows nothing, and is answered."""
    admission = Admission(api_key="sk-1")
    refused = admission.refusal(b"POST", headers(**{"host": "localhost", **fields}))

    assert let_in == (refused is None)
    assert refused is None or (refused.status, refused.code) == (401, "invalid_api_key")
    assert "sk-1" not in repr(admission)
    preflight = headers(host="x", origin="https://a.example", access_control_request_method="POST")
    assert admission.refusal(b"OPTIONS", preflight) is None
    assert admission.refusal(b"POST", preflight) is not None
    assert admission.refusal(b"OPTIONS", headers(host="x")) is not None
    assert Admission().refusal(b"OPTIONS", preflight) is not None


async def answered(server: Server, data: bytes) -> list[int]:
    """The statuses that these bytes get from the listener's side of the server, until it hangs up."""
    client, theirs = trio.testing.memory_stream_pair()
    statuses = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(server.serve, theirs, stranger=True))
        await client.send_all(data)
        with trio.move_on_after(300):
            while True:
                received = await client.receive_some()
                statuses += [
                    int(line.split()[1])
                    for line in bytes(received).split(b"\r\n")
                    if line.startswith(b"HTTP/1.1 ")
                ]
                if not received:
                    break
        await client.aclose()
    return statuses


def post(**fields: str) -> bytes:
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return b"POST /v1/responses HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (head.encode(), len(BODY), BODY)


async def test_every_request_of_a_connection_is_asked_about(autojump_clock: MockClock) -> None:
    """The first one was fine; the one behind it on the same connection comes from a page."""
    async with open_server(EchoModel(), port=None) as server:
        fine, page = post(Host="localhost"), post(Host="localhost", Origin="https://evil.example")
        assert [200] == await answered(server, fine)
        assert [403] == await answered(server, page)
        assert [403] == await answered(server, post(Host="rebound.example"))
        client, theirs = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(server.serve, theirs, stranger=True))
            for data, status in ((fine, b"200"), (page, b"403"), (fine, b"200")):
                await client.send_all(data)
                await trio.testing.wait_all_tasks_blocked()
                assert status == bytes(await client.receive_some()).split()[1]
            await client.aclose()
        assert 3 == server.statistics().creates


async def test_a_page_gets_no_websocket(autojump_clock: MockClock) -> None:
    """A browser lets any page open one; it is turned down before there is any."""
    async with open_server(EchoModel(), port=None) as server:
        upgrade = HEAD.removesuffix(b"\r\n")
        assert [403] == await answered(server, upgrade + b"Origin: https://evil.example\r\n\r\n")
        assert [403] == await answered(server, upgrade.replace(b"localhost", b"rebound.example") + b"\r\n")
        assert [101] == await answered(server, upgrade + b"Origin: http://localhost:5173\r\n\r\n")
        assert 2 == server.statistics().handshakes_rejected


async def test_what_comes_from_this_process_is_believed(autojump_clock: MockClock) -> None:
    """Nobody else can hold a stream of `open_stream`: any name will do; but the key is asked for."""
    for key, status in ((None, b"200"), ("sk-1", b"401")):
        async with open_server(EchoModel(), port=None, api_key=key) as server:
            stream = await server.open_stream()
            await stream.send_all(post(Host="api.example", Origin="https://evil.example"))
            assert status == bytes(await stream.receive_some()).split()[1]
            await stream.aclose()


@pytest.mark.network
@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
async def test_others_are_let_near_only_with_a_key(host: str) -> None:
    """Refused before anybody can connect; with a key its URL leads to it from here."""
    with pytest.raises(ValueError, match=r"cannot serve on .* without a key"):
        async with open_server(EchoModel(), host=host):
            raise AssertionError
    async with open_server(EchoModel(), host=host, api_key="sk-1") as server, httpx.AsyncClient() as http:
        statuses: list[Any] = [
            (await http.post(server.http_url, content=BODY, headers=fields)).status_code
            for fields in ({}, {"Authorization": "Bearer sk-1"}, {"api-key": "sk-1", "Host": "gpu1.example"})
        ]
    assert [401, 200, 200] == statuses


@pytest.mark.network
@pytest.mark.parametrize("host", ["localhost", "::1", "127.0.0.1", "127.0.0.2"])
async def test_the_url_leads_to_the_server(host: str) -> None:
    """Whatever the address was called."""
    async with open_server(EchoModel(), host=host) as server, httpx.AsyncClient() as http:
        assert 200 == (await http.post(server.http_url, content=BODY)).status_code
