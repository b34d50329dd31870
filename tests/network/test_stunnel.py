"""Behind stunnel, which speaks TLS for the server."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trustme

from tests.faults.scene import QUESTION, Make
from tests.faults.test_handshake import refused_dial
from wspool.server import Fault, FaultRule

from .front import Front, Terse, behind
from .tools import Program, free_port, needs, running, until

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
    big = FaultRule(Fault("big_terminal", size=300_000), create=2)
    async with behind(front, make, big, context=trusting, model=Terse()) as (scene, _):
        for text in (QUESTION, "é" * 150_000):
            (await scene.ask(text)).assert_answer("ok")
        assert 1 == scene.pool.statistics().dialed
    async with behind(front, make, context=trusting, delay_per_token=0.02) as (scene, program):

        async def cut() -> None:
            await trio.sleep(0.4)
            program.kill()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cut)
            (await scene.ask("word " * 100)).assert_lost("accepted", close_code=1006, took=5)


@needs("stunnel")
async def test_stunnel_ends_what_is_idle(
    make: Make, tmp_path: Path, authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    """It is noticed before the next turn."""
    front = stunnel(tmp_path, authority.issue_cert("localhost"), idle=1)
    async with behind(front, make, context=trusting, limits={"ping_interval": None}) as (scene, _):
        (await scene.ask()).assert_answer()
        await until(lambda: scene.pool.statistics().size == 0)
        assert {"lost": 1} == scene.closed
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
