"""Behind nginx."""

from __future__ import annotations

import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

import wspool
from tests.faults.scene import QUESTION, Make
from tests.faults.test_handshake import listening, refused_dial

from .front import Front, behind
from .tools import Program, free_port, needs, running, until

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
    """nginx that drops a connection on which nothing comes from the server for a good second."""
    return nginx(tmp_path, "proxy_read_timeout 1200ms;")


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
            await until(lambda: scene.pool.statistics().size == 0)
            assert {"lost": number + 1} == scene.closed
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
        (await scene.ask("word " * 30)).assert_lost("accepted", close_code=1006, took=8)
        (await scene.ask("again")).assert_answer("again")


@needs("nginx")
@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (307, wspool.DialFailedError, "redirects are never followed"),
        (400, wspool.DialFailedError, "does not accept this request"),
        (403, wspool.DialFailedError, "status 403"),
        (404, wspool.WebSocketNotOfferedError, "no WebSocket is offered"),
        (426, wspool.WebSocketNotOfferedError, "no WebSocket is offered"),
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
