"""How a proxy goes, and where it is found: turns end, nobody is refused who came in time."""

from __future__ import annotations

import os
import socket
import ssl
import stat
import sys
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.proxy.asking import KEY, Client, scene
from tests.proxy.test_websocket import connected
from wspool.proxy import Settings, Token, Where, open_proxy
from wspool.proxy.entrance.listeners import listen_there
from wspool.server import EchoModel, open_server

SLOW = {"delay_per_token": 10}
SHARED = pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="a port cannot be shared")
POSIX = pytest.mark.skipif(os.name != "posix", reason="there are no such sockets on Windows")


def anywhere(_: str) -> bool:
    return True


async def test_f160_what_runs_ends_and_what_comes_is_told(autojump_clock) -> None:
    """F160: the proxy is told to stop (SIGTERM) -> what runs ends, for up to 600 s; new requests get 503
    with `retry-after`, `/readyz` 503 at once, `/livez` 200.
    """
    async with scene(EchoModel(), server=SLOW) as it:
        busy, idle = await it.client(), await it.client()
        await idle.ask("GET", "/v1/models")
        await busy.send("POST", "/v1/responses", {"model": "m", "input": "a b c", "stream": True})
        await trio.sleep(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(it.proxy.drain)
            await trio.testing.wait_all_tasks_blocked()
            assert b"" == await idle.stream.receive_some()
            assert 503 == (await (await it.client()).ask("GET", "/readyz")).status
            assert 200 == (await (await it.client()).ask("GET", "/livez")).status
            refused = await (await it.client()).turn()
            assert (503, "1") == (refused.status, refused.headers["retry-after"])
            answer = await busy.receive()
            since = trio.current_time()
        assert trio.current_time() - since < 1

    assert "response.completed" == answer.types[-1]


async def test_whoever_is_answered_last_is_told_that_it_is_the_last(autojump_clock) -> None:
    """What is asked next on a connection that ends is lost for a client that was not told."""
    async with scene(EchoModel(), server=SLOW) as it:
        busy = [await it.client() for _ in range(2)]
        for client, stream in zip(busy, (False, True), strict=True):
            await client.send("POST", "/v1/responses", {"model": "m", "input": "a b c", "stream": stream})
        before = await (await it.client()).ask("GET", "/readyz")
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(it.proxy.drain)
            await trio.testing.wait_all_tasks_blocked()
            after = [await (await it.client()).ask("GET", f"/{path}") for path in ("readyz", "livez", "v1/x")]
            running = [await client.receive() for client in busy]
        for client in busy:
            assert b"" == await client.stream.receive_some()

    assert "connection" not in before.headers
    assert [200, 200] == [answer.status for answer in running]
    said = [answer.headers.get("connection") for answer in (*after, *running)]
    assert [*["close"] * 4, None] == said  # the head of the last was sent before anybody knew


async def test_f161_whoever_takes_too_long_gets_a_last_word(autojump_clock) -> None:
    """F161: the grace of a stopping proxy is over -> `response.failed` and an orderly end of the stream; no
    reset.
    """
    async with scene(EchoModel(), server=SLOW) as it:
        client = await it.client()
        await client.send("POST", "/v1/responses", {"model": "m", "input": "a b c d", "stream": True})
        await trio.sleep(1)
        since = trio.current_time()
        await it.proxy.drain(grace=5)
        assert trio.current_time() - since == pytest.approx(5, abs=1)
        answer = await client.receive()

    assert answer.whole
    assert ("response.created", "response.failed") == (answer.types[0], answer.types[-1])
    assert list(range(len(answer.events))) == [event["sequence_number"] for event in answer.events]


async def test_whose_turn_does_not_end_in_time_is_told_at_each_door(
    autojump_clock, caplog: pytest.LogCaptureFixture
) -> None:
    """By what its client understands; the records of all of them say the same, and the log says how many."""
    async with scene(EchoModel(), server=SLOW) as it, connected(it) as talker:
        await talker.create("a b c d")
        json_client, streamed = await it.client(), await it.client()
        for client, stream in ((json_client, False), (streamed, True)):
            await client.send("POST", "/v1/responses", {"model": "m", "input": "a b c d", "stream": stream})
        await trio.sleep(1)
        await it.proxy.drain(grace=3)
        answer, events = await json_client.receive(), await streamed.receive()
        failed = await talker.answer()
        await talker.until(lambda: talker.closed is not None)
        records = await it.records()

    assert (502, "false") == (answer.status, answer.headers["x-should-retry"])
    assert ["response.failed"] * 2 == [events.types[-1], failed["type"]]
    assert 1001 == talker.closed
    told = (answer.json["error"], events.events[-1]["response"]["error"], failed["response"]["error"])
    assert 1 == len({(error["code"], error["message"]) for error in told})
    assert {("lost", "TurnLostError", None)} == {(each.outcome, each.error, each.usage) for each in records}
    assert ["the grace is over: 3 requests are ended"] == [
        each.getMessage() for each in caplog.records if each.levelname == "WARNING"
    ]


# -- where it is found -----------------------------------------------------------------------------


async def answers(host: str, port: int) -> bool:
    """Whether a proxy is there."""
    async with await trio.open_tcp_stream(host, port) as stream:
        return 200 == (await Client(stream).ask("GET", "/livez", host=f"localhost:{port}")).status


def port_of(base_url: str) -> int:
    return int(base_url.rsplit(":", 1)[1].split("/")[0])


@pytest.mark.network
async def test_both_loopbacks_lead_to_it() -> None:
    """At one port; and others do not."""
    async with open_proxy("ws://127.0.0.1:9/v1/responses", where=Where(port=0)) as proxy:
        port = port_of(proxy.base_url)
        assert await answers("127.0.0.1", port)
        if socket.has_ipv6:
            assert await answers("::1", port)


@SHARED
@pytest.mark.network
async def test_a_port_that_is_taken_is_an_error() -> None:
    """Never another port, and never one that is shared by chance; a successor says so."""
    async with open_proxy("ws://127.0.0.1:9/v1/responses", where=Where(port=0)) as proxy:
        port = port_of(proxy.base_url)
        with pytest.raises(OSError, match="in use"):
            async with open_proxy("ws://127.0.0.1:9/v1/responses", where=Where(port=port)):
                pass
        shared = [proxy._listeners.has_successor]
        where = Where(port=port, succeed=True)
        async with open_proxy("ws://127.0.0.1:9/v1/responses", where=where) as successor:
            shared.append(proxy._listeners.has_successor)
            assert [False, True] == shared
            await proxy.drain()
            for _ in range(20):
                assert await answers("127.0.0.1", port)
            assert not successor.front.draining


@SHARED
@pytest.mark.network
async def test_nobody_is_refused_in_a_handover() -> None:
    """Who has connected already when the old one lets go is answered by it, or by the next."""
    url = "ws://127.0.0.1:9/v1/responses"
    async with open_proxy(url, where=Where(host="127.0.0.1", port=0)) as proxy:
        port = port_of(proxy.base_url)
        async with open_proxy(url, where=Where(host="127.0.0.1", port=port, succeed=True)):
            clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(40)]
            proxy._listeners.let_go()
            for client in clients:
                stream = trio.SocketStream(trio.socket.from_stdlib_socket(_nonblocking(client)))
                assert 200 == (await Client(stream).ask("GET", "/livez", host="localhost")).status
                await stream.aclose()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot be told")
@pytest.mark.network
async def test_newcomers_are_the_successors() -> None:
    """Of those who come once the port is handed on, while the old one still listens. So it is each time."""
    url, where = "ws://127.0.0.1:9/v1/responses", Where(host="127.0.0.1", port=0)
    async with AsyncExitStack() as stack:
        before = await stack.enter_async_context(open_proxy(url, where=where))
        where = Where(host="127.0.0.1", port=port_of(before.base_url), succeed=True)

        async def come() -> tuple[int, int]:
            """Let some come; return where they went."""
            clients = [socket.create_connection(("127.0.0.1", where.port)) for _ in range(40)]
            with trio.fail_after(10):
                # Polled: the kernel tells nobody which of the two it has given a connection to.
                while before.front.open + after.front.open < len(clients):  # noqa: ASYNC110
                    await trio.sleep(0.01)
                went = before.front.open, after.front.open
                for client in clients:
                    client.close()
                while before.front.open + after.front.open:  # noqa: ASYNC110 # polled for the same reason
                    await trio.sleep(0.01)
            return went

        for _ in range(2):
            after = await stack.enter_async_context(open_proxy(url, where=where))
            assert min(await come()) > 0, "until then both are there"
            before._listeners.send_on()
            assert (0, 40) == await come()
            before._listeners.let_go()
            await trio.testing.wait_all_tasks_blocked()
            before = after


def _nonblocking(one: socket.socket) -> socket.socket:
    one.setblocking(False)
    return one


@POSIX
@pytest.mark.network
async def test_a_unix_socket_is_for_its_owner(tmp_path: Path) -> None:
    """One that somebody listens on is taken, one that nobody does is not; a file is left alone."""
    path = str(tmp_path / "s")
    url, where = "ws://127.0.0.1:9/v1/responses", Where(port=None, uds=path)
    async with open_proxy(url, where=where):
        assert 0o600 == stat.S_IMODE((await trio.Path(path).stat()).st_mode)
        async with await trio.open_unix_socket(path) as stream:
            assert 200 == (await Client(stream).ask("GET", "/livez", host="anything")).status
        with pytest.raises(OSError, match="in use"):
            async with open_proxy(url, where=where):
                pass
    assert not await trio.Path(path).exists()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path)
    async with open_proxy(url, where=where):
        pass
    await trio.Path(path).write_text("mine")
    with pytest.raises(OSError, match="no socket"):
        async with open_proxy(url, where=where):
            pass
    assert "mine" == await trio.Path(path).read_text()


@POSIX
@pytest.mark.network
async def test_a_unix_socket_is_taken_over(tmp_path: Path) -> None:
    """A successor has it at once, and goes on having it when the one before ends; a file is left alone."""
    path = str(tmp_path / "s")
    url, where = "ws://127.0.0.1:9/v1/responses", Where(port=None, uds=path, succeed=True)

    async def health() -> str:
        async with await trio.open_unix_socket(path) as stream:
            return str((await Client(stream).ask("GET", "/livez", host="anything")).json["status"])

    async with open_proxy(url, where=where) as second:
        async with open_proxy(url, where=where) as first:
            async with open_proxy(url, where=where):
                await first.drain(0)
                assert "ok" == await health()
            await second.drain(0)
        assert not await trio.Path(path).exists()
    await trio.Path(path).write_text("mine")
    with pytest.raises(OSError, match="no socket"):
        async with open_proxy(url, where=where):
            pass
    assert ["s"] == [one.name for one in await trio.Path(tmp_path).iterdir()]


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
@pytest.mark.network
async def test_others_reach_it_with_tokens_only(host: str) -> None:
    """Whatever the address is called."""
    with pytest.raises(ValueError, match="without tokens"):
        async with open_proxy("ws://127.0.0.1:9/v1/responses", where=Where(host=host, port=0)):
            pass


@pytest.mark.network
async def test_others_reach_it_by_https_with_a_token() -> None:
    """Who speaks plain HTTP there, or nothing, gets no answer and holds up nobody."""
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    ours, theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("proxy.test").configure_cert(ours)
    authority.configure_trust(theirs)
    token, where = Token("alice", "wsp-1234567890123456"), Where(host="0.0.0.0", port=0)
    async with (
        open_server(EchoModel()) as server,
        open_proxy(server.url, where=where, api_key="k", tokens=[token], tls=ours) as proxy,
    ):
        assert proxy.base_url.startswith("https://127.0.0.1:")
        port = port_of(proxy.base_url)
        async with await trio.open_tcp_stream("127.0.0.1", port):  # says nothing
            async with await trio.open_tcp_stream("127.0.0.1", port) as plain:
                await plain.send_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
                with trio.fail_after(5):
                    said = b"-"
                    while said:
                        try:
                            said = bytes(await plain.receive_some())
                        except trio.BrokenResourceError:
                            said = b""
                        assert b"HTTP/1.1" not in said
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            secure = trio.SSLStream(stream, theirs, server_hostname="proxy.test", https_compatible=True)
            async with secure:
                client = Client(secure)
                assert 401 == (await client.turn()).status
                shown = (("authorization", f"Bearer {token.text}"),)
                assert 200 == (await client.turn(headers=shown)).status


@POSIX
@pytest.mark.network
async def test_sockets_of_systemd_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """If they are for this process; else it listens itself."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        port = one.getsockname()[1]
        copy = os.dup(one.fileno())
        monkeypatch.setattr("wspool.proxy.entrance.listeners._FIRST", copy)
        monkeypatch.setenv("LISTEN_FDS", "1")
        monkeypatch.setenv("LISTEN_PID", "1")
        other = await listen_there(Where(port=0, inherit=True), anywhere)
        assert not other.inherited
        other.close()
        monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
        ours = await listen_there(Where(inherit=True), anywhere)
        assert (True, f"127.0.0.1:{port}") == (ours.inherited, ours.authority)
        ours.close()


async def test_no_more_clients_than_were_agreed(autojump_clock) -> None:
    """One more is told so, and to come back; once somebody has gone there is room."""
    async with scene(EchoModel(), settings=Settings(max_clients=2)) as it:
        first, second, third = [await it.client() for _ in range(3)]
        assert [200, 200] == [(await client.turn()).status for client in (first, second)]
        refused = await third.turn()
        assert (503, "1") == (refused.status, refused.headers["retry-after"])
        assert b"" == await third.stream.receive_some()
        await first.stream.aclose()
        await third.stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert 200 == (await (await it.client()).turn()).status


async def test_one_that_is_full_is_alive(autojump_clock) -> None:
    """Whoever looks after it would end it else, with all that runs there; no further client is sent to it."""
    async with scene(EchoModel(), settings=Settings(max_clients=1), server=SLOW) as it:
        busy = await it.client()
        await busy.send("POST", "/v1/responses", {"model": "m", "input": "a b"})
        await trio.sleep(1)
        health = [await (await it.client()).ask("GET", f"/{path}") for path in ("livez", "healthz", "readyz")]
        assert 503 == (await (await it.client()).turn()).status
        assert 200 == (await busy.receive()).status
        await busy.stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert {"status": "ok"} == (await (await it.client()).ask("GET", "/readyz")).json

    said = [(answer.status, answer.json["status"], answer.headers["connection"]) for answer in health]
    assert [(200, "full", "close"), (200, "full", "close"), (503, "full", "close")] == said


async def test_f169_a_batch_does_not_starve_an_editor(autojump_clock) -> None:
    """F169: one program asks for many more turns than there are lanes -> another one's turn is among the
    next; the batch goes on with the rest.
    """
    done: list[str] = []
    async with scene(EchoModel(), server=SLOW, settings=Settings(max_turns=2)) as it:

        async def ask(agent: str) -> None:
            headers = (KEY, ("user-agent", agent))
            assert 200 == (await (await it.client()).turn("a", headers=headers)).status
            done.append(agent)

        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(ask, "batch/1.0")
            await trio.sleep(1)
            nursery.start_soon(partial(ask, "editor/2.0"))
        records: list[Any] = await it.records()

    assert done.index("editor/2.0") < 6
    assert {"batch", "editor"} == {record.client for record in records}
    assert max(record.line for record in records) > 100
