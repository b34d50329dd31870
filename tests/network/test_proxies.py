"""Behind nginx, haproxy and stunnel, as most endpoints are."""

from __future__ import annotations

import signal
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import attrs
import pytest
import trio
import trustme

import wspool
from tests.faults.scene import QUESTION, Make, Scene, faulty
from tests.faults.test_handshake import listening, refused_dial
from wspool.server import Server
from wspool.wire import dial
from wspool.wire.wire import Endpoint

from .tools import Program, free_port, needs, running

#: (the server's port, its own port) -> the running proxy.
Front: TypeAlias = Callable[[int, int], AbstractAsyncContextManager[Program]]


@asynccontextmanager
async def behind(
    front: Front, make: Make, *, context: ssl.SSLContext | None = None, **options: Any
) -> AsyncGenerator[tuple[Scene, Program]]:
    """A pool that reaches its server through *front*, over TLS with *context*."""
    port = free_port()

    async def open_stream(_: Server, endpoint: Endpoint) -> trio.abc.Stream:
        host = "localhost" if context else "127.0.0.1"
        return await dial.open_stream(attrs.evolve(endpoint, host=host, port=port, ssl_context=context))

    async with (
        faulty(make, network=True, open_stream=open_stream, **options) as scene,
        front(int(scene.server.url.rpartition(":")[2].partition("/")[0]), port) as program,
    ):
        yield scene, program


# -- nginx ------------------------------------------------------------------------------------------

NGINX = """
daemon off;
pid nginx.pid;
user root;
worker_processes 1;
worker_shutdown_timeout 1;
error_log stderr;
events {{ worker_connections 100; }}
http {{
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    limit_conn_zone $server_port zone=all:64k;
    proxy_http_version 1.1;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection upgrade;
    server {{
        listen 127.0.0.1:{port};
        {inside}
        location / {{ proxy_pass http://127.0.0.1:{server}; }}
        location /307/ {{ return 307 http://127.0.0.1:{server}/v1/responses; }}
        location /400/ {{ return 400; }}
        location /403/ {{ return 403; }}
        location /404/ {{ return 404; }}
        location /426/ {{ return 426; }}
        location /429/ {{ add_header Retry-After 7 always; return 429; }}
        location /502/ {{ proxy_pass http://127.0.0.1:1; }}
        location /504/ {{ proxy_pass http://127.0.0.1:{silent}; proxy_read_timeout 200ms; }}
    }}
}}
"""


def nginx(folder: Path, inside: str = "", *, silent: int = 1) -> Front:
    """nginx, with these directives."""

    @asynccontextmanager
    async def front(server: int, port: int) -> AsyncGenerator[Program]:
        (folder / "nginx.conf").write_text(
            NGINX.format(server=server, port=port, inside=inside, silent=silent), encoding="utf-8"
        )
        command = ("nginx", "-e", "stderr", "-p", folder, "-c", "nginx.conf")
        async with running(folder / "nginx.log", command, port) as program:
            yield program

    return front


@pytest.fixture
def keeps_for_a_second(tmp_path: Path) -> Front:
    """nginx that drops a connection on which nothing comes from the server for a second."""
    return nginx(tmp_path, "proxy_read_timeout 1s;")


@needs("nginx")
async def test_pings_keep_a_connection_through_nginx(make: Make, keeps_for_a_second: Front) -> None:
    """Idle for three times as long as the proxy allows, and still there; so is a turn that thinks."""
    async with behind(keeps_for_a_second, make, limits={"ping_interval": 0.3}) as (scene, _):
        (await scene.ask()).assert_answer()
        await trio.sleep(2.5)
        assert {} == scene.closed
        await scene.assert_well(creates=1, connection=1)


@needs("nginx")
async def test_without_pings_a_dead_connection_is_never_handed_out(
    make: Make, keeps_for_a_second: Front
) -> None:
    """nginx drops it without a close frame; it is noticed before the next turn, which is on another."""
    async with (
        behind(keeps_for_a_second, make, limits={"ping_interval": None}) as (scene, _),
        scene.pool.conversation(model="m") as conversation,
    ):
        for number in range(2):
            (await scene.ask(f"{number}", conversation=conversation)).assert_answer(f"{number}")
            await trio.sleep(1.4)
            assert (0, number + 1) == (scene.pool.statistics().size, scene.closed["lost"])
        (await scene.ask("3", conversation=conversation)).assert_answer("3")
        assert [(1, "completed"), (2, "completed"), (3, "completed")] == scene.outcomes


@needs("nginx")
async def test_a_reload_of_nginx(make: Make, tmp_path: Path) -> None:
    """The old worker lets its connections go after a second: running turns are lost and said to be, idle
    connections are replaced.
    """
    async with behind(nginx(tmp_path), make, delay_per_token=0.1) as (scene, program):
        (await scene.ask("hi")).assert_answer("hi")
        program.signal(signal.SIGHUP)
        (await scene.ask(QUESTION)).assert_answer()
        (await scene.ask("word " * 30)).assert_lost("accepted", close_code=1006, took=3)
        (await scene.ask("again")).assert_answer("again")


@needs("nginx")
@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (307, wspool.DialFailedError, "redirects are never followed"),
        (400, wspool.DialFailedError, "does not accept this request"),
        (403, wspool.DialFailedError, "status 403"),
        (404, wspool.DialFailedError, "no WebSocket is offered"),
        (426, wspool.DialFailedError, "no WebSocket is offered"),
        (429, wspool.DialFailedError, "status 429"),
        (502, wspool.DialFailedError, "status 502"),
        (504, wspool.DialFailedError, "status 504"),
    ],
)
async def test_what_nginx_says_to_an_upgrade(
    make: Make, tmp_path: Path, status: int, kind: type[wspool.DialFailedError], words: str
) -> None:
    """The status of the real thing, its body of HTML, and what it means."""

    async def say_nothing(stream: trio.SocketStream) -> None:
        while await stream.receive_some():
            pass

    port = free_port()
    front = nginx
    async with listening(say_nothing) as silent, front(tmp_path, silent=silent)(silent, port):
        error = await refused_dial(make, f"ws://127.0.0.1:{port}/{status}/v1/responses")
    assert (kind, status, "upgrade") == (type(error), error.status, error.phase)
    assert words in str(error)
    assert (7.0 if status == 429 else None) == error.retry_after


@needs("nginx")
async def test_a_limit_on_connections_in_nginx(make: Make, tmp_path: Path) -> None:
    """Two connections and no more (503): everybody is served over those two."""
    front = nginx(tmp_path, "limit_conn all 2;")
    async with behind(front, make, delay_per_token=0.1, limits={"max_size": 8}) as (scene, _):
        async with trio.open_nursery() as nursery:
            for number in range(8):

                async def ask(number: int = number) -> None:
                    (await scene.ask(f"{number}")).assert_answer(f"{number}")

                nursery.start_soon(ask)
        assert 2 == scene.server.statistics().connections_peak


# -- haproxy ----------------------------------------------------------------------------------------

HAPROXY = """
global
    maxconn 100
    hard-stop-after 500ms
defaults
    mode http
    timeout connect 1s
    timeout client 1s
    timeout server 1s
    timeout tunnel 1s
frontend front
    bind 127.0.0.1:{port}
    default_backend back
backend back
    server one 127.0.0.1:{server}
"""


def haproxy(folder: Path) -> Front:
    """haproxy, with a short timeout for tunnels."""

    @asynccontextmanager
    async def front(server: int, port: int) -> AsyncGenerator[Program]:
        (folder / "haproxy.cfg").write_text(HAPROXY.format(server=server, port=port), encoding="utf-8")
        command = ("haproxy", "-db", "-f", folder / "haproxy.cfg")
        async with running(folder / "haproxy.log", command, port) as program:
            yield program

    return front


@needs("haproxy")
async def test_haproxy_ends_tunnels_that_are_idle(make: Make, tmp_path: Path) -> None:
    """With pings a connection lives on, without them it is dropped and never handed out."""
    async with behind(haproxy(tmp_path), make, limits={"ping_interval": 0.3}) as (scene, _):
        (await scene.ask()).assert_answer()
        await trio.sleep(2.2)
        await scene.assert_well(creates=1, connection=1)
    async with behind(haproxy(tmp_path), make, limits={"ping_interval": None}) as (scene, _):
        (await scene.ask()).assert_answer()
        await trio.sleep(1.5)
        assert (0, {"lost": 1}) == (scene.pool.statistics().size, scene.closed)
        await scene.assert_well(creates=1, connection=2)


@needs("haproxy")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGUSR1], ids=["killed", "soft stop"])
async def test_haproxy_is_restarted(make: Make, tmp_path: Path, how: signal.Signals) -> None:
    """Running turns are lost, with what is known; turns that come in between wait for the new one."""
    port = 0

    def keep(server: int, own: int) -> AbstractAsyncContextManager[Program]:
        nonlocal port
        port = own
        return haproxy(tmp_path)(server, own)

    async with behind(keep, make, delay_per_token=0.1) as (scene, old), trio.open_nursery() as nursery:

        async def lose() -> None:
            (await scene.ask("word " * 50)).assert_lost("accepted", close_code=1006, took=3)

        waiting = trio.Event()

        async def wait() -> None:
            (await scene.ask("hi")).assert_answer("hi")
            waiting.set()

        nursery.start_soon(lose)
        await trio.sleep(0.5)
        old.signal(how)
        while old.process.poll() is None:  # noqa: ASYNC110 (another program's end)
            await trio.sleep(0.02)
        nursery.start_soon(wait)
        await trio.sleep(0.3)
        server = int(scene.server.url.rpartition(":")[2].partition("/")[0])
        async with haproxy(tmp_path)(server, port):
            await waiting.wait()


# -- stunnel ----------------------------------------------------------------------------------------

STUNNEL = """
foreground = yes
pid =
[front]
accept = 127.0.0.1:{port}
connect = 127.0.0.1:{server}
cert = {folder}/cert.pem
TIMEOUTclose = 0
TIMEOUTidle = {idle}
"""


def stunnel(folder: Path, certificate: trustme.LeafCert, *, idle: int = 60) -> Front:
    """stunnel with that certificate."""

    @asynccontextmanager
    async def front(server: int, port: int) -> AsyncGenerator[Program]:
        certificate.private_key_and_cert_chain_pem.write_to_path(str(folder / "cert.pem"))
        (folder / "stunnel.conf").write_text(
            STUNNEL.format(server=server, port=port, folder=folder, idle=idle), encoding="utf-8"
        )
        command = ("stunnel", folder / "stunnel.conf")
        async with running(folder / "stunnel.log", command, port) as program:
            yield program

    return front


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A certificate authority of this run's own."""
    return trustme.CA()


@pytest.fixture(scope="module")
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """A client context that trusts it."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@needs("stunnel")
async def test_tls_ends_in_stunnel(
    make: Make, tmp_path: Path, authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    """Turns of all sizes; then the TLS connection ends without its goodbye, which is no end of an answer."""
    front = stunnel(tmp_path, authority.issue_cert("localhost"))
    async with behind(front, make, context=trusting) as (scene, _):
        for text in (QUESTION, "é" * 200_000):
            (await scene.ask(text)).assert_answer(text)
        assert 1 == scene.pool.statistics().dialed
    async with behind(front, make, context=trusting, delay_per_token=0.02) as (scene, program):

        async def cut() -> None:
            await trio.sleep(0.4)
            program.kill()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cut)
            (await scene.ask("word " * 100)).assert_lost("accepted", close_code=1006, took=2)


@needs("stunnel")
async def test_stunnel_ends_what_is_idle(
    make: Make, tmp_path: Path, authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    """It is noticed before the next turn."""
    front = stunnel(tmp_path, authority.issue_cert("localhost"), idle=1)
    async with behind(front, make, context=trusting, limits={"ping_interval": None}) as (scene, _):
        (await scene.ask()).assert_answer()
        await trio.sleep(2.4)
        assert (0, {"lost": 1}) == (scene.pool.statistics().size, scene.closed)
        await scene.assert_well(creates=1, connection=2)


@needs("stunnel")
async def test_stunnel_has_a_certificate_for_another_name(
    make: Make, tmp_path: Path, authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    """Refused at once, with OpenSSL's words."""
    port = free_port()
    front = stunnel(tmp_path, authority.issue_cert("elsewhere.example"))
    async with front(1, port):
        error = await refused_dial(make, f"wss://localhost:{port}/v1/responses", ssl_context=trusting)
    assert "tls" == error.phase
    assert "Hostname mismatch" in str(error)
