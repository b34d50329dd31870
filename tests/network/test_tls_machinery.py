"""What TLS does under a connection while it lives; openssl plays the server."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme

from tests.faults.scene import Make
from tests.wire.peer import frame, switching_protocols
from wspool.wire import dial
from wspool.wire.wire import Endpoint

from .tools import free_port, needs

TEXT = 1


class Speaker:
    """`openssl s_server`: what goes in is sent, what was received comes out, and it takes commands."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.stdin, self.stdout = process.stdin, process.stdout
        self.heard = b""

    async def hear(self, what: bytes) -> None:
        """Wait until *what* has come out."""
        with trio.fail_after(10):
            while what not in self.heard:
                data = await self.stdout.receive_some()
                assert data, self.heard
                self.heard += data

    async def command(self, letter: bytes) -> None:
        """Give a command; what follows is sent after it."""
        await self.stdin.send_all(letter + b"\n")
        await trio.sleep(0.1)  # a command is all that one read gives


@asynccontextmanager
async def speaking(folder: Path, version: str) -> AsyncGenerator[tuple[Speaker, int, ssl.SSLContext]]:
    """Run openssl's server, on that port; with a context that trusts it."""
    authority = trustme.CA()
    pem = folder / "cert.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(pem))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    port = free_port()
    command = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-cert", str(pem), "-key", str(pem)]
    process = await trio.lowlevel.open_process(
        [*command, version], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        speaker = Speaker(process)
        await speaker.hear(b"ACCEPT")
        yield speaker, port, context
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            await trio.aclose_forcefully(speaker.stdin)
            await trio.aclose_forcefully(speaker.stdout)


@needs("openssl")
@pytest.mark.parametrize(
    ("version", "commands", "spoken"),
    [("-tls1_3", [b"k", b"K"], "TLSv1.3"), ("-tls1_2", [b"r"], "TLSv1.2")],
    ids=["KeyUpdate", "renegotiation"],
)
async def test_f36_keys_change(
    make: Make, tmp_path: Path, version: str, commands: list[bytes], spoken: str
) -> None:
    """F36: the server sends session tickets, changes keys (TLS 1.3) or asks to renegotiate (TLS 1.2) while
    the connection lives -> nothing: messages cross before, between and afterwards.
    """
    versions: list[str | None] = []

    async with speaking(tmp_path, version) as (server, port, context), trio.open_nursery() as nursery:
        endpoint = dial.parse_url(
            f"wss://localhost:{port}/",
            ssl_context=context,
            connect_timeout=10,
            close_timeout=0.2,
            max_message_size=1000,
        )

        async def open_stream(to: Endpoint) -> trio.abc.Stream:
            stream = await dial.open_stream(to)
            versions.append(stream.version())  # type: ignore[attr-defined]
            return stream

        async def serve() -> None:
            await server.hear(b"\r\n\r\n")
            request = server.heard[server.heard.index(b"GET /") :]
            await server.stdin.send_all(switching_protocols(request))

        nursery.start_soon(serve)
        wire = await make(open_stream=open_stream).connect(nursery, endpoint, [])

        async def send(text: str) -> None:
            server.heard = b""
            await wire.send(text.encode())
            await server.hear(b"\x81" + bytes([0x80 | len(text)]))

        async def receive(text: str) -> None:
            assert [text] == [str(message) for message in await wire.receive()]

        async def exchange(text: str, *, reading: bool) -> None:
            async with trio.open_nursery() as both:
                if reading:  # as a pool does
                    both.start_soon(receive, text)
                    await trio.testing.wait_all_tasks_blocked()
                await send(text)
                await server.stdin.send_all(frame(TEXT, text.encode()))
                if not reading:
                    await receive(text)

        with trio.fail_after(15):
            await exchange("before", reading=True)
            for letter in commands:
                for reading in (True, False, True):
                    await server.command(letter)
                    await exchange(f"after {letter.decode()}", reading=reading)
        await wire.abort()
    assert [spoken] == versions
