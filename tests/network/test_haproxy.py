"""Behind haproxy."""

from __future__ import annotations

import signal
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.faults.scene import Make

from .front import Front, behind, server_port
from .tools import Program, needs, running, until

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
        await until(lambda: scene.pool.statistics().size == 0)
        assert {"lost": 1} == scene.closed
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
            (await scene.ask("word " * 50)).assert_lost("accepted", close_code=1006, took=8)

        waiting = trio.Event()

        async def wait() -> None:
            (await scene.ask("hi")).assert_answer("hi")
            waiting.set()

        nursery.start_soon(lose)
        await trio.sleep(0.5)
        old.signal(how)
        await until(lambda: old.process.poll() is not None)
        nursery.start_soon(wait)
        await trio.sleep(0.3)
        server = server_port(scene)
        async with haproxy(tmp_path)(server, port):
            await waiting.wait()
