"""The way to the first frame: names, addresses, TLS, the proxy, and what a server says instead of 101."""

from __future__ import annotations

import datetime
import email.utils
import errno
import resource
import socket
import ssl
import struct
import time
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
from tests.wire.peer import read_request, switching_protocols
from tests.wire.scripts import http_answer, send_until_hung_up
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
    async with open_server(EchoModel()) as server:
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


# -- answers that are no 101 -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        b"\x00\xff junk \r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: bm9wZQ==\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nX: y\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nX: " + b"x" * 200_000,
    ],
    ids=["junk", "bad accept", "no upgrade", "200 KB header"],
)
async def test_f37_no_handshake(make: Make, answer: bytes, autojump_clock) -> None:
    """F37: a 101 with a wrong Accept or without Upgrade, 200 KB of headers, junk -> the dial fails at once;
    turns wait for another try.
    """
    bad = 2

    async def open_stream(server: Server, endpoint: Endpoint) -> trio.abc.Stream:
        nonlocal bad
        if bad == 0:
            return await server.open_stream()
        bad -= 1
        near, far = trio.testing.memory_stream_pair()

        async def serve() -> None:
            await read_request(far)
            await far.send_all(answer)

        trio.lowlevel.spawn_system_task(serve)
        await trio.lowlevel.checkpoint()
        return near

    async with faulty(make, open_stream=open_stream, limits={"min_idle": 1}) as scene:
        with pytest.raises(wspool.DialFailedError, match="not a WebSocket handshake") as caught:
            await scene.pool.wait_ready()
        assert "upgrade" == caught.value.phase
        assert 0 == pytest.approx(trio.current_time())
        (await scene.ask()).assert_answer(took=30)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_f38_redirect(make: Make, status: int, autojump_clock) -> None:
    """F38: the endpoint redirects, to itself or elsewhere -> `DialFailedError` at once: it is not followed,
    and the key goes nowhere.
    """
    async with faulty(make, limits=ONE_DIAL) as scene:
        for location in ("ws://localhost/v1/responses", "wss://elsewhere.example/"):
            scene.server.reject_handshakes(Rejection(status=status, headers={"Location": location}))
            await assert_refused(scene, status=status, words="redirects are never followed")
            await trio.sleep(1)
        assert 2 == len(scene.server.handshakes)
        await scene.assert_well(creates=0, connection=3)


@pytest.mark.parametrize(
    "rejection",
    [Rejection(status=401), Rejection(status=403, body=b'{"error": {"code": "no_access"}}')],
    ids=["401", "403"],
)
async def test_f39_key_refused(make: Make, rejection: Rejection, autojump_clock) -> None:
    """F39: 401, or a 403 that the API itself says -> `AuthenticationError` for every waiter at once, without
    the key in it; one dial was enough.
    """
    async with faulty(make, limits=ONE_DIAL) as scene:
        scene.server.reject_handshakes(rejection)
        await assert_refused(
            scene, wspool.AuthenticationError, status=rejection.status, words="check the API key"
        )
        assert 1 == len(scene.server.handshakes)
        await trio.sleep(1)
        await scene.assert_well(creates=0, connection=2)


@pytest.mark.parametrize("body", [b"", b"<html>Forbidden</html>"], ids=["empty", "html"])
async def test_f39_edge_403(make: Make, body: bytes, autojump_clock) -> None:
    """F39: a 403 with an empty or an HTML body, which edges send for no reason -> nothing: it is tried again;
    if it lasts, `DialFailedError` after `give_up_after` (120 s).
    """
    rejection = Rejection(status=403, headers={"Content-Type": "text/html"}, body=body)
    async with faulty(make) as scene:
        scene.server.reject_handshakes(rejection, rejection)
        (await scene.ask()).assert_answer(took=10)
    async with faulty(make) as scene:
        scene.server.reject_handshakes(*[rejection] * 100)
        await assert_refused(scene, status=403, took=TOLD_AFTER + 1)


async def test_f40_key_revoked(make: Make, autojump_clock) -> None:
    """F40: the key is revoked while connections live -> they go on; whoever needs a new one gets
    `AuthenticationError` at once, and nobody storms the endpoint.
    """
    async with faulty(make, limits={"max_size": 4}) as scene, scene.pool.lease() as old:
        (await scene.ask_bare(old)).assert_answer()
        scene.server.reject_handshakes(*[401] * 1000)
        for _ in range(3):
            story = await scene.ask()
            assert isinstance(story.error, wspool.AuthenticationError), story.error
        (await scene.ask_bare(old, "still here")).assert_answer("still here")
        await trio.sleep(600)
        assert len(scene.server.handshakes) < 30
        (await scene.ask_bare(old, "still here")).assert_answer("still here")
        assert {"dial_failed"} == set(scene.closed)


@pytest.mark.parametrize("status", [404, 405, 426])
async def test_f41_no_websocket_there(make: Make, status: int, autojump_clock) -> None:
    """F41: 404, 405 or 426: no WebSocket is offered there -> `DialFailedError` with the status for every
    waiter at once; falling back to HTTP is for the caller.
    """
    async with faulty(make, limits=ONE_DIAL) as scene:
        scene.server.reject_handshakes(status)
        await assert_refused(scene, status=status, words="no WebSocket is offered at this path")
        assert 1 == len(scene.server.handshakes)
        await trio.sleep(1)
        await scene.assert_well(creates=0, connection=2)


@pytest.mark.parametrize("spelling", ["seconds", "milliseconds", "date", "absent", "absurd"])
@pytest.mark.parametrize("status", [429, 503])
async def test_f42_retry_after(make: Make, status: int, spelling: str, autojump_clock) -> None:
    """F42: 429 or 503 with `Retry-After` in any spelling, or an absurd one -> turns wait so long (an hour at
    most), all of them; their own deadlines hold.
    """
    value = {
        "seconds": {"Retry-After": "40"},
        "milliseconds": {"Retry-After-Ms": "40000"},
        "date": {"Retry-After": email.utils.formatdate(time.time() + 41, usegmt=True)},
        "absent": {},
        "absurd": {"Retry-After": "99999999999"},
    }[spelling]
    limits = {"give_up_after": 10_000, "max_size": 4}
    async with faulty(make, limits=limits) as scene:
        scene.server.reject_handshakes(Rejection(status=status, headers=value))
        waited: list[float] = []

        async def ask() -> None:
            story = await scene.ask()
            story.assert_answer()
            waited.append(story.took)

        async with trio.open_nursery() as nursery:
            with trio.move_on_after(0.001) as impatient:
                await scene.ask()
            assert impatient.cancelled_caught
            for _ in range(4):
                nursery.start_soon(ask)
            await trio.sleep(30)
            assert (1 if spelling != "absent" else 2) <= len(scene.server.handshakes)
            assert spelling == "absent" or [] == waited
        least, most = {"absent": (0, 10), "absurd": (3599, 3601)}.get(spelling, (38, 60))
        assert all(least <= seconds <= most for seconds in waited), waited
        assert 4 == scene.server.statistics().creates


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_f43_server_errors(make: Make, status: int, autojump_clock) -> None:
    """F43: 500, 502, 503 or 504 -> turns wait behind one prober with growing, jittered pauses; after
    `give_up_after` (120 s) `DialFailedError`.
    """
    async with faulty(make) as scene:
        scene.server.reject_handshakes(*[status] * 3)
        (await scene.ask()).assert_answer(took=30)
    async with faulty(make) as scene:
        scene.server.reject_handshakes(*[status] * 1000)
        await assert_refused(scene, status=status, took=TOLD_AFTER + 1)
        assert len(scene.server.handshakes) < 40


async def test_f44_connection_cap(make: Make, autojump_clock) -> None:
    """F44: the endpoint refuses one connection more than it allows -> turns wait for a free connection of
    those there are; nobody is refused, and nobody hammers the endpoint.
    """
    limits = {"max_size": 16}
    async with faulty(make, max_connections=2, delay_per_token=5, limits=limits) as scene:
        took: list[float] = []

        async def ask() -> None:
            story = await scene.ask()
            story.assert_answer()
            took.append(story.took)

        async with trio.open_nursery() as nursery:
            for _ in range(12):
                nursery.start_soon(ask)
        assert 12 == scene.server.statistics().creates
        assert max(took) < 6 * 20 + 30, "six rounds of four words"
        assert 2 == scene.server.statistics().connections_peak
        assert scene.server.statistics().handshakes_rejected < 40


@pytest.mark.network
@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        (http_answer(407, 'Proxy-Authenticate: Basic realm="x"'), 407, "user name and password"),
        (http_answer(403), 403, "check what it allows"),
        (b"HTTP/1.1 200 OK\r\nX-Half", None, "check the proxy"),
        (b"", None, "check the proxy"),
    ],
    ids=["407", "403", "half", "nothing"],
)
async def test_f45_proxy(make: Make, answer: bytes, status: int | None, words: str) -> None:
    """F45: the proxy refuses the tunnel, wants other credentials, or dies in the middle -> `DialFailedError`
    in phase "proxy", with its status; its password is in no text.
    """

    async def serve(stream: trio.SocketStream) -> None:
        assert (await read_request(stream)).startswith(b"CONNECT api.example:443 HTTP/1.1\r\n")
        await stream.send_all(answer)
        await stream.aclose()

    async with listening(serve) as port:
        error = await refused_dial(
            make, "wss://api.example/v1/responses", proxy=f"http://me:{CANARY}@127.0.0.1:{port}"
        )
    assert ("proxy", status) == (error.phase, error.status)
    assert words in str(error)


@pytest.mark.network
async def test_f46_no_more_files(make: Make) -> None:
    """F46: the process is out of file descriptors -> the dial fails with that reason, named; connections that
    are there go on, and turns wait until there is room again.
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
                failure = scene.pool._core.failure
                assert failure is not None
                assert "Too many open files" in failure.message
                assert errno.EMFILE == 24
                (await scene.ask_bare(old, "still here")).assert_answer("still here")
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, before)
        (await scene.ask("room again")).assert_answer("room again")


async def test_f90_bad_bodies(make: Make, autojump_clock) -> None:
    """F90: a refusal with an endless, a slow or a split body -> the status is reported; at most 64 KiB of the
    body are kept, for at most `connect_timeout`.
    """

    async def endless(stream: trio.abc.Stream) -> None:
        await stream.send_all(http_answer(404))
        await send_until_hung_up(stream, b"x" * 1000)

    async def slow(stream: trio.abc.Stream) -> None:
        await stream.send_all(http_answer(404, "Content-Length: 1000"))
        for _ in range(1000):
            await trio.sleep(1.1)
            await stream.send_all(b"x")

    async def split(stream: trio.abc.Stream) -> None:
        body = switching_protocols(b"Sec-WebSocket-Key: x\r\n")
        await stream.send_all(http_answer(404, f"Content-Length: {len(body)}", body=body))
        await trio.sleep_forever()

    for serve, took in ((endless, 0), (slow, 15), (split, 0)):
        async with trio.open_nursery() as nursery:

            async def open_stream(server: Server, endpoint: Endpoint, serve: Any = serve) -> trio.abc.Stream:
                near, far = trio.testing.memory_stream_pair()

                async def answer() -> None:
                    await read_request(far)
                    try:
                        await serve(far)
                    except trio.BrokenResourceError:
                        pass

                nursery.start_soon(answer)
                await trio.lowlevel.checkpoint()
                return near

            async with faulty(make, open_stream=open_stream) as scene:
                error = await assert_refused(scene, status=404, took=took)
                cause: Any = error.__cause__
                assert len(cause.body) <= 64 * 1024
            nursery.cancel_scope.cancel()
