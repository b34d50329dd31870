"""The way to the first frame: names, addresses, TLS, the proxy, and what a server says instead of 101."""

from __future__ import annotations

import datetime
import errno
import resource
import socket
import ssl
import struct
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import pytest
import trio
import trustme

import wspool
from tests.helpers import CANARY
from tests.wire.peer import read_request
from tests.wire.scripts import http_answer
from wspool.server import EchoModel, Rejection, Server, open_server
from wspool.wire import dial
from wspool.wire.wire import Endpoint

from .scene import Make, Scene, faulty

#: Seconds of outage after which waiters are told: the default of `PoolPolicy`.
TOLD_AFTER = 120.0

#: The first refusal speaks for all who wait; otherwise several dials are under way.
ONE_DIAL = {"dial_concurrency": 1}

#: "At once", over real sockets on a busy machine.
SOON = 5.0

Handler = Callable[[trio.SocketStream], Awaitable[None]]


async def assert_refused(
    scene: Scene,
    kind: type[wspool.DialFailedError] = wspool.DialFailedError,
    *,
    status: int | None = None,
    phase: str = "upgrade",
    took: float = 0.0,
    words: str = "",
    waiters: int = 3,
) -> wspool.DialFailedError:
    """Assert that several waiters are all told so, in time, and that nothing was sent."""
    errors: list[wspool.DialFailedError] = []

    async def ask() -> None:
        story = await scene.ask()
        assert type(story.error) is kind, repr(story.error)
        assert isinstance(story.error, wspool.DialFailedError)
        assert ("not_sent", status, phase) == (story.delivery, story.error.status, story.error.phase)
        assert story.took <= took + 0.001, story.took
        assert words in str(story.error)
        assert CANARY not in repr(story.error) + str(story.error) + repr(story.error.__cause__)
        errors.append(story.error)

    async with trio.open_nursery() as nursery:
        for _ in range(waiters):
            nursery.start_soon(ask)
    scene.assert_quiet()
    assert 0 == scene.server.statistics().creates
    return errors[0]


@asynccontextmanager
async def listening(handler: Handler) -> AsyncGenerator[int]:
    """A TCP server on loopback, and its port."""
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, handler, 0, host="127.0.0.1")
        listeners: list[trio.SocketListener] = await nursery.start(serve)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def refused_dial(make: Make, url: str, *, took: float = SOON, **options: Any) -> wspool.DialFailedError:
    """Open a pool on *url* over real sockets and return why it cannot be ready."""
    limits = wspool.PoolPolicy(min_idle=1, max_size=1, **options.pop("limits", {}))
    began = trio.current_time()
    with trio.fail_after(15):
        async with wspool.open_pool(url, api_key=CANARY, wire=make(), policy=limits, **options) as pool:
            with pytest.raises(wspool.DialFailedError) as caught:
                await pool.wait_ready()
    assert trio.current_time() - began < took
    assert "not_sent" == caught.value.delivery
    assert CANARY not in str(caught.value) + repr(caught.value)
    return caught.value


# -- names and addresses ----------------------------------------------------------------------------


class Resolver(trio.abc.HostnameResolver):
    """A name server in the hands of the test."""

    def __init__(self, answer: Callable[[], Awaitable[list[Any]]]) -> None:
        self.answer = answer
        self.asked = 0

    async def getaddrinfo(self, host: Any, port: Any, *args: Any, **kwargs: Any) -> list[Any]:
        self.asked += 1
        await trio.lowlevel.checkpoint()
        return await self.answer()

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        raise NotImplementedError


@pytest.mark.parametrize(
    "code", [socket.EAI_NONAME, socket.EAI_AGAIN, None], ids=["no name", "try again", "-"]
)
async def test_f31_names(make: Make, code: int | None, autojump_clock) -> None:
    """F31: the name is unknown, or its server fails or says nothing -> `DialFailedError` in phase "resolve",
    with the cause: from `wait_ready` at once (after `connect_timeout`, 15 s, where nothing is said), from a
    turn after `give_up_after` (120 s) of trying.
    """

    async def answer() -> list[Any]:
        if code is None:
            await trio.sleep_forever()
        raise socket.gaierror(code, "no such name")

    resolver = Resolver(answer)
    trio.socket.set_custom_hostname_resolver(resolver)

    async def open_stream(server: Server, endpoint: Endpoint) -> trio.abc.Stream:
        return await dial.open_stream(attrs.evolve(endpoint, host="api.example"))

    limits = {"min_idle": 1, "max_size": 4}
    async with faulty(make, open_stream=open_stream, limits=limits) as scene:
        began = trio.current_time()
        with pytest.raises(wspool.DialFailedError) as caught:
            await scene.pool.wait_ready()
        assert trio.current_time() - began == pytest.approx(0 if code is not None else 15, abs=0.1)
        assert "resolve" == caught.value.phase
        assert "DNS" in str(caught.value)
        if code is not None:
            cause = caught.value.__cause__
            assert isinstance(cause and cause.__cause__, socket.gaierror)
        await assert_refused(scene, phase="resolve", took=TOLD_AFTER + 15)
        assert resolver.asked < 60, "one prober with growing pauses"


@pytest.mark.network
async def test_f31_dead_address(make: Make) -> None:
    """F31: the first address of the name is dead, the second alive -> nothing."""
    # With a key: without one the server is not asked by other names.
    async with open_server(EchoModel(), api_key=CANARY) as server:
        port = int(server.url.rpartition(":")[2].partition("/")[0])

        async def answer() -> list[Any]:
            await trio.lowlevel.checkpoint()
            return [
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
                for address in ("127.0.0.2", "127.0.0.1")
            ]

        trio.socket.set_custom_hostname_resolver(Resolver(answer))
        policy = wspool.PoolPolicy(min_idle=1)
        url = f"ws://api.example:{port}/v1/responses"
        with trio.fail_after(SOON):
            async with wspool.open_pool(
                url, api_key=CANARY, allow_insecure=True, wire=make(), policy=policy
            ) as pool:
                await pool.wait_ready()


# -- silence, ends and certificates -----------------------------------------------------------------


async def test_f33_upgrade_never_answered(make: Make, autojump_clock) -> None:
    """F33: TCP is accepted, and then nobody answers the TLS hello or the upgrade -> it counts as failed after
    `connect_timeout` (15 s), with the phase; turns wait for another try.
    """
    async with faulty(make, limits={"min_idle": 1}) as scene:
        scene.server.reject_handshakes(Rejection(status=None), Rejection(status=None))
        with pytest.raises(wspool.DialFailedError, match="connect_timeout is 15 s") as caught:
            await scene.pool.wait_ready()
        assert "upgrade" == caught.value.phase
        assert 15 == pytest.approx(trio.current_time(), abs=0.1)
        story = await scene.ask()
        story.assert_answer(took=20)
        assert 1 == scene.server.statistics().creates


@pytest.mark.network
async def test_f33_tls_never_answered(make: Make) -> None:
    """F33: the same in TLS -> the same, with phase "tls"."""

    async def say_nothing(stream: trio.SocketStream) -> None:
        while await stream.receive_some():
            pass

    async with listening(say_nothing) as port:
        error = await refused_dial(make, f"wss://localhost:{port}/", limits={"connect_timeout": 0.2})
    assert "tls" == error.phase
    assert "check that it is a TLS port" in str(error)


@pytest.mark.network
@pytest.mark.parametrize("how", ["end", "reset"])
@pytest.mark.parametrize("secure", [False, True], ids=["upgrade", "tls"])
async def test_f34_end_in_the_handshake(make: Make, secure: bool, how: str) -> None:
    """F34: the connection ends or is reset during TLS or the upgrade -> the dial fails at once, with the
    phase and the system's own cause; turns wait for another try.
    """

    async def leave(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        if how == "reset":
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await stream.aclose()

    async with listening(leave) as port:
        error = await refused_dial(make, f"ws{'s' if secure else ''}://localhost:{port}/")
    assert ("tls" if secure else "upgrade") == error.phase
    leaves: list[BaseException | None] = [error]
    while leaves[-1] is not None:
        leaves.append(leaves[-1].__cause__)
    assert how == "end" or any(isinstance(leaf, ConnectionResetError) for leaf in leaves)


@pytest.mark.network
@pytest.mark.parametrize("case", ["untrusted", "wrong name", "expired", "plain HTTP"])
async def test_f35_certificates(make: Make, case: str) -> None:
    """F35: an untrusted, expired or wrong-name certificate; plain HTTP on the port -> `DialFailedError` for
    every waiter at once, with OpenSSL's own words. A certificate is not tried again by itself.
    """
    authority = trustme.CA()
    past = datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC)
    certificate, words = {
        "untrusted": (trustme.CA().issue_cert("localhost"), "unable to get local issuer"),
        "wrong name": (authority.issue_cert("elsewhere.example"), "Hostname mismatch"),
        "expired": (authority.issue_cert("localhost", not_after=past), "expired"),
        "plain HTTP": (None, "check that it is a TLS port"),
    }[case]
    dials = 0

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal dials
        dials += 1
        if certificate is None:
            await stream.receive_some()
            await stream.send_all(http_answer(400))
            return
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        certificate.configure_cert(context)
        with pytest.raises(trio.BrokenResourceError):
            await trio.SSLStream(stream, context, server_side=True).do_handshake()

    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    policy = wspool.PoolPolicy(min_idle=0, max_size=1)
    with trio.fail_after(SOON):
        async with (
            listening(serve) as port,
            wspool.open_pool(
                f"wss://localhost:{port}/", api_key=CANARY, ssl_context=trusting, wire=make(), policy=policy
            ) as pool,
            trio.open_nursery() as nursery,
        ):

            async def wait() -> None:
                with pytest.raises(wspool.DialFailedError) as caught:
                    await pool.acquire()
                assert ("tls", True) == (caught.value.phase, words in str(caught.value)), str(caught.value)

            for _ in range(3):
                if certificate is None:
                    with trio.move_on_after(0.1):  # may pass: a port in the middle of a restart
                        await pool.acquire()
                else:
                    nursery.start_soon(wait)
    if certificate is not None:
        assert 1 == dials


# -- proxies and the machine -------------------------------------------------------------------------


@pytest.mark.network
@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        (http_answer(407, 'Proxy-Authenticate: Basic realm="x"'), 407, "user name and password"),
        (http_answer(403), 403, "check what it allows"),
        (http_answer(101), 101, "check what it allows"),
        (http_answer(302, "Location: https://sign.in/"), 302, "check what it allows"),
        (b"HTTP/1.1 200 OK\r\nX-Half", None, "check the proxy"),
        (b"", None, "check the proxy"),
    ],
    ids=["407", "403", "101", "302", "half", "nothing"],
)
async def test_f45_proxy(make: Make, answer: bytes, status: int | None, words: str) -> None:
    """F45: the proxy refuses the tunnel, wants other credentials, or dies in the middle -> `DialFailedError`
    in phase "proxy", with its status; its password is in no text. Its 407, as
    any 4xx but 429, is final at once; so are a redirect, a 101, and 501.
    """

    async def serve(stream: trio.SocketStream) -> None:
        assert (await read_request(stream)).startswith(b"CONNECT api.example:443 HTTP/1.1\r\n")
        await stream.send_all(answer)
        await stream.aclose()

    async with listening(serve) as port:
        error = await refused_dial(
            make, "wss://api.example/v1/responses", proxy=f"http://me:{CANARY}@127.0.0.1:{port}"
        )
        if status is not None:  # whoever waits in line is told as well: nobody tries again
            url, proxy = "wss://api.example/v1/responses", f"http://127.0.0.1:{port}"
            with trio.fail_after(SOON):
                async with wspool.open_pool(url, api_key=CANARY, wire=make(), proxy=proxy) as pool:
                    with pytest.raises(wspool.DialFailedError, match=str(status)):
                        await pool.acquire()
    assert ("proxy", status) == (error.phase, error.status)
    assert words in str(error)


@pytest.mark.network
async def test_f46_no_more_files(make: Make) -> None:
    """F46: the process is out of file descriptors -> the dial fails with that reason, named, and is no outage
    of the endpoint; connections that are there go on, and turns wait until there is room again.
    """
    async with faulty(make, network=True, limits={"max_size": 4}) as scene, scene.pool.lease() as old:
        (await scene.ask_bare(old)).assert_answer()
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        with socket.socket() as probe:
            resource.setrlimit(resource.RLIMIT_NOFILE, (probe.fileno() + 1, before[1]))
            try:
                with trio.move_on_after(0.3) as scope:
                    await scene.ask()
                assert scope.cancelled_caught
                failure = scene.pool._shell.core.failure
                assert failure is not None
                assert "Too many open files" in failure.message
                assert not scene.pool.statistics().degraded
                assert errno.EMFILE == 24
                (await scene.ask_bare(old, "still here")).assert_answer("still here")
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, before)
        (await scene.ask("room again")).assert_answer("room again")


CROWDED = """
import logging, resource, socket, sys, trio, wspool
from wspool.server import EchoModel, open_server

logging.basicConfig(stream=sys.stdout, format="%(message)s")
soft, hard = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

async def main():
    policy = wspool.PoolPolicy(max_size=300, min_idle=0)
    async with open_server(EchoModel()) as server, wspool.open_pool(server.url, policy=policy) as pool:
        print(pool.statistics().max_size, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        async with trio.open_nursery() as nursery:
            async def ask():
                async with pool.conversation(model="m") as conversation:
                    await conversation.respond("hi")
            for _ in range(300):
                nursery.start_soon(ask)
        sockets = [socket.socket() for _ in range(soft // 4)]  # what the program itself may need
        print("room for", len(sockets))

trio.run(main)
"""


@pytest.mark.network
@pytest.mark.parametrize(("soft", "hard"), [(128, 128), (256, 1024)])
def test_f46_fewer_files_than_connections(soft: int, hard: int) -> None:
    """F46: `max_size` is more than the process may open files -> its limit is raised as far as it must be and
    may be, 256 files (half, where there are few) are left to your program; if that is not enough, the log
    warns, `statistics().max_size` says how many connections can be had, and turns wait for these.
    """
    done = subprocess.run(
        [sys.executable, "-c", CROWDED, str(soft), str(hard)], capture_output=True, text=True, timeout=60
    )
    assert (0, "") == (done.returncode, done.stderr)
    assert f"room for {soft // 4}" in done.stdout
    size, limit = map(int, next(line for line in done.stdout.splitlines() if line[0].isdigit()).split())
    if hard == soft:
        assert "max_size=300 cannot be had" in done.stdout
        assert 1 <= size <= soft // 2
        assert soft == limit
    else:
        assert "cannot be had" not in done.stdout
        assert 300 == size
        assert 300 + 256 <= limit < hard
