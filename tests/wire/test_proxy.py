"""Through an HTTP proxy: what may name one, what it is asked, and every way in which it can fail."""

from __future__ import annotations

import base64
import ipaddress
import ssl
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from typing import Any
from urllib.parse import quote

import attrs
import pytest
import trio
import trio.testing
import trustme

import wspool
from wspool.wire import dial
from wspool.wire.proxy import open_tunnel
from wspool.wire.wire import ConnectError, Connector, Endpoint, Proxy, Wire

from .peer import accept, read_request
from .scripts import Make

PASSWORD = "p4ss w%rd"
LIMITS: dict[str, Any] = {"connect_timeout": 5, "close_timeout": 0.1, "max_message_size": 1000}

Handler = Callable[[trio.SocketStream], Awaitable[None]]


# Names


@pytest.mark.parametrize(
    ("url", "host", "port", "credentials"),
    [
        ("http://proxy.example:3128", "proxy.example", 3128, None),
        ("HTTP://PROXY.example/", "proxy.example", 80, None),
        ("http://[2001:DB8::1]:81", "2001:db8::1", 81, None),
        ("http://me:p4ss%20w%25rd@10.0.0.1:3128", "10.0.0.1", 3128, f"me:{PASSWORD}"),
        ("http://me@h:1", "h", 1, "me:"),
        ("http://m%C3%A9:%C3%BC:x@h:1", "h", 1, "mé:ü:x"),
        ("http://user:p@ss@h:1", "h", 1, "user:p@ss"),
        ("proxy.example:3128", "proxy.example", 3128, None),
        ("proxy", "proxy", 80, None),
        ("me:pw@10.0.0.1:3128", "10.0.0.1", 3128, "me:pw"),
        ("https://proxy.example", "proxy.example", 443, None),
        ("https://me:pw@proxy.example:3129", "proxy.example", 3129, "me:pw"),
        ("socks5://127.0.0.1", "127.0.0.1", 1080, None),
        ("socks5h://me:pw@[::1]:7890", "::1", 7890, "me:pw"),
    ],
)
def test_a_url_becomes_a_proxy(url, host, port, credentials):
    """User and password are percent-decoded, and not shown."""
    proxy = dial.parse_proxy(url)

    assert (host, port) == (proxy.host, proxy.port)
    decoded = proxy.credentials and base64.b64decode(proxy.credentials.reveal()).decode()
    assert decoded == credentials
    assert repr(proxy) == f"Proxy(host={host!r}, port={port})"
    assert proxy.scheme == (url.partition("://")[0].lower() if "://" in url else "http")


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("", "host is missing"),
        ("ftp://s3cret@h:1", "HTTP proxy"),
        ("socks4://u:s3cret@h:1", "HTTP proxy"),
        ("socks5://s3cret@h:1", "of 1 to 255"),
        ("socks5://u:s3cret%C3%BC@h:1", "must be ASCII"),
        (f"socks5h://u:s3cret{'x' * 250}@h:1", "of 1 to 255"),
        ("http://h:1/s3cret", "has a path"),
        ("http://h:1?s3cret", "has a path"),
        ("http://u:s3cret@h:1#", "fragment"),
        ("http://u:s3cret@", "host is missing"),
        ("http://u:s3cret@h:port", "cannot be parsed"),
        ("http://u:s3cret@h:0", "between 1 and 65535"),
        ("http://u:s3cret\r\n@h:1", "percent-encode"),
        ("http://:s3cret@h:1", "user name"),
        ("http://a%3Ab:s3cret@h:1", "colon"),
        ("http://u:s3cret%FF@h:1", "UTF-8"),
    ],
)
def test_a_bad_proxy_is_refused_without_being_quoted(url, advice):
    """The text says what to do, and neither it nor its causes show what was in the URL."""
    with pytest.raises(ValueError, match=advice) as caught:
        dial.parse_proxy(url)

    assert type(caught.value) is ValueError
    assert "s3cret" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_plain_text_through_a_proxy_elsewhere_must_be_allowed():
    """The proxy's localhost is not this machine: ws:// to it would cross the network in clear."""
    elsewhere = Proxy(host="proxy.example", port=1)
    with pytest.raises(ValueError, match="use wss://"):
        dial.parse_url("ws://localhost/", proxy=elsewhere, **LIMITS)

    assert dial.parse_url("wss://localhost/", proxy=elsewhere, **LIMITS).proxy is elsewhere
    assert (
        dial.parse_url("ws://localhost/", proxy=elsewhere, allow_insecure=True, **LIMITS).proxy is elsewhere
    )
    assert dial.parse_url("ws://localhost/", proxy=Proxy(host="127.0.0.1", port=1), **LIMITS).proxy


@attrs.define
class Curious(Connector):
    """A connector that only wants to know where it should have gone."""

    endpoint: Endpoint | None = None

    async def connect(self, nursery: trio.Nursery, endpoint: Endpoint, headers: object) -> Wire:
        self.endpoint = endpoint
        await trio.lowlevel.checkpoint()
        raise ConnectError("no", phase="upgrade", status=401)


@pytest.mark.parametrize(
    ("proxy", "expected"),
    [
        (None, None),
        ("environment", ("from.environment", 1, "dTpw")),
        ("http://given:2", ("given", 2, None)),
    ],
)
async def test_the_pool_uses_the_proxy_it_was_given(monkeypatch, proxy, expected):
    """The environment counts only if asked."""
    monkeypatch.setenv("HTTPS_PROXY", "http://u:p@from.environment:1")
    connector = Curious()
    async with wspool.open_pool("wss://h.example", api_key="k", wire=connector, proxy=proxy) as pool:
        with pytest.raises(wspool.AuthenticationError):
            await pool.wait_ready(1)

    assert connector.endpoint is not None
    got = connector.endpoint.proxy
    assert expected == (
        None if got is None else (got.host, got.port, got.credentials and got.credentials.reveal())
    )


# A proxy


@asynccontextmanager
async def listening(handler: Handler) -> AsyncGenerator[int, None]:
    """A port of this machine whose connections are given to *handler*."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, handler, [listener])
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@attrs.define
class Tunnels:
    """A small honest proxy; it remembers what it was asked."""

    requests: list[bytes] = attrs.field(factory=list)

    async def __call__(self, stream: trio.SocketStream) -> None:
        async with stream:
            request = await read_request(stream)
            self.requests.append(request)
            port = int(request.split()[1].rpartition(b":")[2])
            async with await trio.open_tcp_stream("127.0.0.1", port) as target:
                await stream.send_all(b"HTTP/1.1 200 Connection established\r\nVia: 1.1 me\r\n\r\n")
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.pump, stream, target)
                    await self.pump(target, stream)
                    nursery.cancel_scope.cancel()

    async def pump(self, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        """Carry bytes one way until either end goes."""
        try:
            while data := await source.receive_some():
                await sink.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass


async def echo(stream: trio.abc.Stream) -> None:
    """A WebSocket server that sends back one message."""
    async with accept(stream) as peer:
        await peer.send(await peer.receive())
        await peer.wait_closed()


@pytest.mark.network
@pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])
async def test_a_tunnel_carries_a_websocket(make: Make, secure: bool) -> None:
    """The proxy sees host, port and its own credentials; TLS is with the target, end to end."""
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)

    async def serve(stream: trio.SocketStream) -> None:
        await echo(
            trio.SSLStream(stream, server, server_side=True, https_compatible=True) if secure else stream
        )

    tunnels = Tunnels()
    async with listening(serve) as target, listening(tunnels) as port:
        to = dial.parse_url(
            f"{'wss' if secure else 'ws'}://localhost:{target}/v1?secret",
            ssl_context=client if secure else None,
            proxy=dial.parse_proxy(f"http://me:{quote(PASSWORD)}@127.0.0.1:{port}"),
            **LIMITS,
        )
        async with trio.open_nursery() as nursery:
            wire = await make(dial.open_stream).connect(nursery, to, [("Authorization", "Bearer k")])
            await wire.send("grüße".encode())
            assert list(await wire.receive()) == ["grüße"]
            await wire.aclose()

    credentials = base64.b64encode(f"me:{PASSWORD}".encode())
    expected = (
        b"CONNECT localhost:%d HTTP/1.1\r\nHost: localhost:%d\r\nProxy-Authorization: Basic %s\r\n\r\n"
        % (target, target, credentials)
    )
    assert tunnels.requests == [expected]


async def failure(port: int, *, within: float = 1, scheme: str = "http", **options: Any) -> ConnectError:
    """Dial through the proxy on *port*, and return how it failed."""
    to = dial.parse_url(
        "wss://[2001:db8::1]:8443/",
        proxy=dial.parse_proxy(f"{scheme}://me:{quote(PASSWORD)}@127.0.0.1:{port}"),
        **{**LIMITS, **options},
    )
    with trio.fail_after(within), pytest.raises(ConnectError) as caught, dial.time_limit(to):
        await dial.open_stream(to)
    error = caught.value
    assert error.phase == "proxy"
    assert f"127.0.0.1:{port}" in str(error) or error.timed_out
    for text in (PASSWORD, base64.b64encode(f"me:{PASSWORD}".encode()).decode()):
        assert text not in f"{error!r} {error} {error.__cause__!r} {to!r}"
    return error


def saying(answer: bytes, *, then_close: bool = True) -> Handler:
    """A proxy that answers everybody the same."""

    async def handler(stream: trio.SocketStream) -> None:
        async with stream:
            assert b"CONNECT [2001:db8::1]:8443 HTTP/1.1\r\n" in await read_request(stream)
            await stream.send_all(answer)
            while not then_close and await stream.receive_some():
                pass

    return handler


@pytest.mark.network
@pytest.mark.parametrize("then_close", [True, False])
@pytest.mark.parametrize(
    ("status", "advice"), [(407, "user name and password"), (403, "what it allows"), (502, "what it allows")]
)
async def test_a_refused_tunnel_is_reported(status, advice, then_close):
    """At once, with status, headers and body, and as the proxy's answer rather than the server's."""
    answer = f"HTTP/1.1 {status} No\r\nProxy-Authenticate: Basic\r\nContent-Length: 4\r\n\r\nnope".encode()
    async with listening(saying(answer, then_close=then_close)) as port:
        error = await failure(port)

    assert (error.status, error.body) == (status, b"nope")
    assert ("proxy-authenticate", "Basic") in error.headers
    assert advice in str(error)


BODIES = {
    "no length": b"\r\nX-A: b\r\n\r\n",
    "no reason, no header": b"\r\n\r\n",
    "part of a body": b"\r\nContent-Length: 99999\r\n\r\nno",
    "endless chunks": b"\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n",
    "bare line ends": b" No\nX-A: b\n\n",
    "more than a head": b"\r\n\r\n" + b"x" * 20_000,
    "bad headers": b"\r\n: \r\n\r\n",
}


@pytest.mark.parametrize("interim", [b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Hints\nX: y\n\n"])
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("status", [101, 204, 302, 403, 407, 429, 503])
@pytest.mark.parametrize("size", [1, 1000])
async def test_a_refusal_is_known_at_the_end_of_its_head(status, body, interim, size, autojump_clock):
    """No body is waited for, whatever the head says of one; what is read at once with the head is kept."""
    near, far = trio.testing.memory_stream_pair()
    answer = interim + b"HTTP/1.1 %d" % status + BODIES[body]
    to = dial.parse_url("wss://h.example/", **LIMITS)

    async def reply() -> None:
        for start in range(0, len(answer), size):
            await far.send_all(answer[start : start + size])
            await trio.testing.wait_all_tasks_blocked()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reply)
        if status == 204:  # as good as 200 (RFC 9110 section 9.3.6)
            told = (
                "more than its answer" if size > 1 and not answer.endswith((b"\r\n\r\n", b"\n\n")) else None
            )
            with nullcontext() if told is None else pytest.raises(ConnectError, match=told):
                await open_tunnel(near, to, Proxy(host="p", port=1))
        else:
            with pytest.raises(ConnectError, match=f"refused .* with status {status}: ") as caught:
                await open_tunnel(near, to, Proxy(host="p", port=1))
            assert (caught.value.phase, caught.value.status) == ("proxy", status)
            assert ("write http://user:password@host:port" in str(caught.value)) == (status == 407)
        nursery.cancel_scope.cancel()

    assert trio.current_time() == 0


@pytest.mark.network
async def test_a_pool_whose_proxy_wants_a_password_says_so_at_once():
    """It is nothing that passes: no second try, and no word of a deadline."""
    async with listening(
        saying(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", then_close=False)
    ) as port:
        options = {
            "proxy": f"http://127.0.0.1:{port}",
            "api_key": "k",
            "policy": wspool.PoolPolicy(min_idle=1),
        }
        with trio.fail_after(2):
            async with wspool.open_pool("wss://[2001:db8::1]:8443/", **options) as pool:  # type: ignore[arg-type]
                with pytest.raises(wspool.DialFailedError, match="407: it wants a user name") as caught:
                    await pool.wait_ready(1)
    assert not isinstance(caught.value, wspool.AuthenticationError)


@pytest.mark.network
@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "hung up"),
        (b"HTTP/1.1 200 Connec", "hung up"),
        (b"SSH-2.0-x\r\n", "not HTTP"),
        (b"HTTP/2 200\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000, "not HTTP"),
        (b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1", "more than its answer"),
    ],
    ids=["nothing", "half", "junk", "http2", "endless head", "too much"],
)
async def test_a_proxy_that_dies_or_talks_nonsense_is_seen_at_once(answer, words):
    """No wait for the deadline, whatever it does."""
    async with listening(saying(answer)) as port:
        error = await failure(port)

    assert (error.status, error.timed_out) == (None, False)
    assert words in str(error)


@pytest.mark.network
async def test_a_proxy_that_is_not_there_is_the_proxys_failure():
    """The target is not blamed for it."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    error = await failure(port)

    assert "refused" in str(error)
    assert isinstance(error.__cause__, OSError)


@pytest.mark.network
async def test_a_silent_proxy_times_out_in_its_phase():
    """connect_timeout covers the tunnel; the socket is closed (an open one would be a ResourceWarning)."""
    async with listening(saying(b"", then_close=False)) as port:
        error = await failure(port, connect_timeout=0.05)

    assert error.timed_out


# A proxy that is reached over TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A certificate authority of this run's own."""
    return trustme.CA()


@pytest.mark.network
@pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])
@pytest.mark.parametrize("trusted", [True, False], ids=["trusted", "strange"])
async def test_a_proxy_is_reached_over_tls(make: Make, authority, secure, trusted, monkeypatch) -> None:
    """What is asked of it is encrypted, TLS to the target goes inside, and its certificate is checked."""
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    (authority if trusted else trustme.CA()).issue_cert("localhost").configure_cert(server)
    target_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(target_context)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    monkeypatch.setattr(dial, "_default_context", lambda: client)
    tunnels = Tunnels()

    async def proxy(stream: trio.SocketStream) -> None:
        try:
            await tunnels(trio.SSLStream(stream, server, server_side=True, https_compatible=True))  # type: ignore[arg-type]
        except trio.BrokenResourceError:
            assert not trusted

    async def serve(stream: trio.SocketStream) -> None:
        wrapped = trio.SSLStream(stream, target_context, server_side=True, https_compatible=True)
        await echo(wrapped if secure else stream)

    async with listening(serve) as target, listening(proxy) as port:
        to = dial.parse_url(
            f"{'wss' if secure else 'ws'}://localhost:{target}/",
            ssl_context=client if secure else None,
            proxy=dial.parse_proxy(f"https://me:pw@localhost:{port}"),
            **LIMITS,
        )
        async with trio.open_nursery() as nursery:
            if not trusted:
                with pytest.raises(ConnectError, match="the certificate of the proxy localhost") as caught:
                    await make(dial.open_stream).connect(nursery, to, [])
                assert (caught.value.phase, caught.value.certificate) == ("proxy", True)
                assert tunnels.requests == []
                return
            wire = await make(dial.open_stream).connect(nursery, to, [])
            await wire.send(b"hi")
            assert ["hi"] == [str(message) for message in await wire.receive()]
            await wire.aclose()
    assert tunnels.requests[0].startswith(b"CONNECT localhost:%d HTTP/1.1\r\n" % target)


# SOCKS


@attrs.define
class Socks:
    """A small honest SOCKS5 proxy (RFC 1928, 1929); it remembers what it was asked.

    Attributes:
        user: the user name and password that it wants, None for none.
        reply: what it answers to a request.
    """

    user: tuple[str, str] | None = None
    reply: int = 0
    asked: list[tuple[str, int]] = attrs.field(factory=list)

    async def __call__(self, stream: trio.SocketStream) -> None:
        async with stream:
            _, count = await self.read(stream, 2)
            methods = await self.read(stream, count)
            wanted = 2 if self.user else 0
            await stream.send_all(bytes([5, wanted if wanted in methods else 0xFF]))
            if wanted not in methods:
                return
            if self.user:
                (_, size) = await self.read(stream, 2)
                user = (await self.read(stream, size)).decode()
                password = (await self.read(stream, (await self.read(stream, 1))[0])).decode()
                await stream.send_all(bytes([1, (user, password) != self.user]))
                if (user, password) != self.user:
                    return
            kind = (await self.read(stream, 4))[3]
            size = (await self.read(stream, 1))[0] if kind == 3 else 4 if kind == 1 else 16
            host = await self.read(stream, size)
            port = int.from_bytes(await self.read(stream, 2), "big")
            self.asked.append((host.decode() if kind == 3 else str(ipaddress.ip_address(host)), port))
            await stream.send_all(bytes([5, self.reply, 0, 1, 0, 0, 0, 0, 0, 0]))
            if self.reply:
                return
            target = await trio.open_tcp_stream("127.0.0.1", port)
            async with target, trio.open_nursery() as nursery:
                nursery.start_soon(Tunnels().pump, stream, target)
                await Tunnels().pump(target, stream)
                nursery.cancel_scope.cancel()

    async def read(self, stream: trio.SocketStream, size: int) -> bytes:
        """Exactly so many bytes."""
        data = b""
        while len(data) < size:
            more = await stream.receive_some(size - len(data))
            if not more:
                raise trio.BrokenResourceError
            data += more
        return data


@pytest.mark.network
@pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])
@pytest.mark.parametrize(("scheme", "asked"), [("socks5", "127.0.0.1"), ("socks5h", "localhost")])
@pytest.mark.parametrize("user", [None, ("me", "p4ss w%rd")], ids=["nobody", "somebody"])
async def test_a_socks_proxy_carries_a_websocket(make: Make, authority, secure, scheme, asked, user) -> None:
    """The name is looked up here, or by the proxy where the scheme says so; TLS is with the target."""
    pytest.importorskip("python_socks")
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)

    async def serve(stream: trio.SocketStream) -> None:
        wrapped = trio.SSLStream(stream, server, server_side=True, https_compatible=True)
        await echo(wrapped if secure else stream)

    socks = Socks(user)
    login = f"{user[0]}:{quote(user[1])}@" if user else ""
    async with listening(serve) as target, listening(socks) as port:
        to = dial.parse_url(
            f"{'wss' if secure else 'ws'}://localhost:{target}/",
            ssl_context=client if secure else None,
            proxy=dial.parse_proxy(f"{scheme}://{login}127.0.0.1:{port}"),
            **LIMITS,
        )
        async with trio.open_nursery() as nursery:
            wire = await make(dial.open_stream).connect(nursery, to, [])
            await wire.send(b"hi")
            assert ["hi"] == [str(message) for message in await wire.receive()]
            await wire.aclose()
    assert [(asked, target)] == socks.asked


@pytest.mark.network
@pytest.mark.parametrize(
    ("proxy", "words"),
    [
        (
            Socks(("you", "other")),
            "refused a tunnel to [2001:db8::1]:8443: check its user name",
        ),
        (Socks(reply=5), "refused a tunnel"),
        (saying(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "refused a tunnel"),
        (saying(b""), "refused a tunnel"),
    ],
    ids=["password", "refused", "http", "hangs up"],
)
async def test_a_socks_proxy_that_refuses_is_the_proxys_failure(proxy: Any, words: str) -> None:
    """In its phase, at once, and without a word of the password."""
    pytest.importorskip("python_socks")

    async def handler(stream: trio.SocketStream) -> None:
        if isinstance(proxy, Socks):
            await proxy(stream)
            return
        async with stream:
            await stream.receive_some()
            await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n" if "400" in words else b"")

    async with listening(handler) as port:
        error = await failure(port, scheme="socks5h")
    assert words in str(error)
    assert error.status is None


@pytest.mark.network
async def test_a_socks_proxy_that_is_not_there_or_silent() -> None:
    """As with any other proxy."""
    pytest.importorskip("python_socks")
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    assert "no connection to the proxy" in str(await failure(port, scheme="socks5"))

    async def silent(stream: trio.SocketStream) -> None:
        async with stream:
            while await stream.receive_some():
                pass

    async with listening(silent) as port:
        assert (await failure(port, scheme="socks5", connect_timeout=0.05)).timed_out


@pytest.mark.network
async def test_a_name_that_no_socks_proxy_can_be_asked_for() -> None:
    """Looked up here and not found: the sentence says where to look."""
    pytest.importorskip("python_socks")
    async with listening(Socks()) as port:
        to = dial.parse_url(
            "wss://nowhere.invalid/", proxy=dial.parse_proxy(f"socks5://127.0.0.1:{port}"), **LIMITS
        )
        with pytest.raises(ConnectError, match=r"there is no way to nowhere\.invalid:443") as caught:
            await dial.open_stream(to)
    assert caught.value.phase == "proxy"


async def test_a_missing_library_is_named(monkeypatch) -> None:
    """Where it is asked for, and should it go away, at the dial; nothing is imported unasked."""
    monkeypatch.setitem(sys.modules, "python_socks", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'wspool\[socks\]'"):
        wspool.open_pool("wss://h.example/", api_key="k", proxy="socks5://127.0.0.1")
    to = dial.parse_url("wss://h.example/", proxy=dial.parse_proxy("socks5://127.0.0.1"), **LIMITS)
    with pytest.raises(ConnectError, match=r"pip install 'wspool\[socks\]'") as caught:
        await dial.open_stream(to)
    assert caught.value.phase == "proxy"
